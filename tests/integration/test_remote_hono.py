"""The relay against adapters of a second Hono-compatible service, over AMQP (proton) and MQTT."""

from __future__ import annotations

import asyncio
import base64
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gateway.config.remote import RemoteGateway
from gateway.errors import (
    BadRequest,
    Forbidden,
    GatewayError,
    InvalidSetting,
    NoConsumer,
    NotProcessed,
    QuotaExceeded,
    Rejected,
    TooLarge,
)
from gateway.hono.remote import pump as pump_module
from gateway.hono.remote.amqp import SENDERS
from gateway.hono.request_ids import encode_request_id, parse_request_id
from gateway.model.message import (
    EMPTY_NOTIFICATION,
    Command,
    CommandResponse,
    Kind,
    Message,
)
from gateway.model.ports import Done
from gateway.model.trace import TraceContext
from gateway.runtime.certificates import (
    ensure_server,
    issue,
    kept,
    make_authority,
    save,
    server_context,
)
from gateway.runtime.device_tls import device_context
from tests.hono_rig import Core, a_core, a_fleet, until
from tests.relay_rig import (
    GATEWAY,
    PROTOCOLS,
    RelayRig,
    a_message,
    a_relay,
    a_remote_adapter,
    an_event,
)
from tests.tcp_proxy import TcpProxy, a_proxy

BOTH = pytest.mark.parametrize("protocol", PROTOCOLS)
WAYS = pytest.mark.parametrize(
    ("protocol", "settings"),
    [("amqp", {}), ("mqtt", {}), ("mqtt", {"mqtt_version": 3})],
    ids=["amqp", "mqtt5", "mqtt3"],
)


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pump_module, "RETRY_FIRST", 0.01)
    monkeypatch.setattr(pump_module, "RETRY_CAP", 0.05)


@asynccontextmanager
async def a_remote(protocol: str, **settings: Any) -> AsyncIterator[tuple[Core, str]]:
    """A remote with tenant `acme`, gateway gw-1 and d2, d3 behind it; yields it and its address."""
    async with a_core() as core:
        await a_fleet(core)
        await core.device("acme", "d3", {"via": ["gw-1"]})
        async with a_remote_adapter(protocol, core, **settings):
            yield core, f"{protocol}://{core.endpoints.get(f'hono.{protocol}')}"


@asynccontextmanager
async def a_way(protocol: str) -> AsyncIterator[tuple[Core, TcpProxy]]:
    """A remote behind a network that the test may break."""
    async with (
        a_remote(protocol) as (core, address),
        a_proxy(address.rpartition("/")[2]) as proxy,
    ):
        yield core, proxy


@asynccontextmanager
async def a_fragile_way(
    protocol: str, **settings: Any
) -> AsyncIterator[tuple[Core, TcpProxy, RelayRig]]:
    """A relay, a network that the test may break, and a remote."""
    async with (
        a_way(protocol) as (core, proxy),
        a_relay(f"{protocol}://{proxy.address}", **settings) as rig,
    ):
        yield core, proxy, rig


@asynccontextmanager
async def both(protocol: str, **settings: Any) -> AsyncIterator[tuple[Core, RelayRig]]:
    """A remote and a relay that is connected to it."""
    async with a_remote(protocol) as (core, address), a_relay(address, **settings) as rig:
        await rig.connected()
        yield core, rig


def has_moved(core: Core, rig: RelayRig, seen: int) -> bool:
    """True when some more have arrived, or all."""
    return len(uploads(core)) > seen + 5 or not rig.waiting("event")


def uploads(core: Core) -> list[Message]:
    return core.consumer.uploads


# --- uploads ------------------------------------------------------------------------------------------


@WAYS
async def test_telemetry_and_events_arrive_as_the_devices_own(
    protocol: str, settings: dict[str, Any]
) -> None:
    async with both(protocol, **settings) as (core, rig):
        rig.send(a_message(b'{"t": 1}', "d2", content_type="application/json"), "t")
        rig.send(an_event(b"e", "d2", content_type="text/plain; x=y", ttl=30.0), "e")
        await rig.outcomes.all(2)
        await until(lambda: len(uploads(core)) == 2)
        telemetry, event = sorted(uploads(core), key=lambda m: m.kind.value, reverse=True)
        assert (telemetry.kind, telemetry.payload, telemetry.device, telemetry.qos) == (
            Kind.TELEMETRY, b'{"t": 1}', "d2", 1,
        )  # fmt: skip
        assert (telemetry.via, telemetry.content_type) == ("gw-1", "application/json")
        assert telemetry.adapter == f"hono-{protocol}"
        assert (event.kind, event.payload) == (Kind.EVENT, b"e")
        assert event.content_type == "text/plain; x=y"
        assert event.ttl == pytest.approx(30, abs=1)
        assert not telemetry.duplicate


@BOTH
async def test_qos_0_arrives_as_qos_0(protocol: str) -> None:
    async with both(protocol) as (core, rig):
        rig.send(a_message(b"a", "d2", qos=0))
        await until(lambda: len(uploads(core)) == 1)
        assert uploads(core)[0].qos == 0
        assert rig.outcomes.told == {b"a": None}


@BOTH
async def test_an_empty_notification_arrives_and_our_routers_own_does_not(protocol: str) -> None:
    async with both(protocol) as (core, rig):
        router = an_event(b"", "d2", content_type=EMPTY_NOTIFICATION, ttd=-1)
        device = an_event(b"", "d2", content_type=EMPTY_NOTIFICATION, address="event", ttd=30)
        rig.send(router, "router")
        rig.send(device, "device")
        assert await rig.outcomes.all(2) == {"router": None, "device": None}
        await until(lambda: len(uploads(core)) == 1)
        assert uploads(core)[0].content_type == EMPTY_NOTIFICATION
        assert uploads(core)[0].payload == b""


@BOTH
async def test_a_sampled_trace_goes_on_at_the_remote(protocol: str) -> None:
    trace = TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", 1, "a=b")
    async with both(protocol) as (core, rig):
        rig.send(an_event(b"e", "d2", trace=trace))
        await until(lambda: len(uploads(core)) == 1)
        assert uploads(core)[0].trace.trace_id == trace.trace_id


@WAYS
async def test_what_the_remote_refuses_is_lost_with_a_word_and_nothing_else_is(
    protocol: str, settings: dict[str, Any]
) -> None:
    async with both(protocol, **settings) as (core, rig):
        rig.send(an_event(b"stranger", "nobody"))
        rig.send(an_event(b"fine", "d2"))
        await until(lambda: len(uploads(core)) == 1 and rig.waiting("event") == 0)
        assert rig.sample("twinspan_remote_loss_total", type="event", cause="refused") == 1
        assert "event of nobody: 404" in str(rig.gateway.facts()["last-refusal"])
        name = f"hono-{protocol}"
        connected = core.sample(
            "hono_connections_authenticated", tenant="acme", component_name=name
        )
        assert connected == 1, "the connection goes on"


REFUSALS: list[tuple[GatewayError, bool]] = [
    (BadRequest("no"), True),
    (Forbidden("no"), True),
    (QuotaExceeded(), False),
    (NoConsumer(), False),
    (NotProcessed(), False),
    (GatewayError(), False),
]


@WAYS
@pytest.mark.parametrize(
    ("error", "is_final"), REFUSALS, ids=[type(e).__name__ for e, _ in REFUSALS]
)
async def test_a_refusal_is_final_or_not_by_what_it_says(
    protocol: str, settings: dict[str, Any], error: GatewayError, is_final: bool
) -> None:
    async with both(protocol, **settings) as (core, rig):
        core.consumer.outcome = error
        rig.send(a_message(b"m", "d2"))
        await until(lambda: len(uploads(core)) >= (1 if is_final else 3))
        core.consumer.outcome = None
        await until(lambda: rig.waiting("telemetry") == 0)
        lost = rig.sample("twinspan_remote_loss_total", type="telemetry", cause="refused")
        accepted = rig.accepted("telemetry")
        assert (lost, accepted) == ((1, 0) if is_final else (0, 1))
        assert [m.duplicate for m in uploads(core)] == [False] + [True] * (len(uploads(core)) - 1)


@BOTH
async def test_a_slow_remote_bounds_what_is_under_way(protocol: str) -> None:
    async with both(protocol, window=8) as (core, rig):
        core.consumer.hold()
        for number in range(50):
            rig.send(a_message(str(number), "d2" if number % 2 else "d3"), number)
        await rig.outcomes.all(50)
        held = core.consumer.held
        assert held is not None
        await until(lambda: len(held) == 2)
        assert rig.gateway.facts()["under-way"] == 2, "one for each device"
        while rig.waiting("telemetry"):
            while held:
                held.pop(0)(None)
            await asyncio.sleep(0)
        for device in ("d2", "d3"):
            mine = [int(m.payload) for m in uploads(core) if m.device == device]
            assert mine == sorted(mine)


async def test_amqp_credit_of_the_remote_is_kept() -> None:
    async with a_remote("amqp", prefetch=2) as (core, address), a_relay(address) as rig:
        await rig.connected()
        core.consumer.hold()
        for number in range(10):
            await core.device("acme", f"e{number}", {"via": ["gw-1"]})
            rig.send(an_event(b"x", f"e{number}"), number)
        held = core.consumer.held
        assert held is not None
        all_links = 2 * SENDERS
        await until(lambda: len(held) == all_links)
        assert rig.gateway.facts()["under-way"] == all_links
        held.pop()(None)
        await until(lambda: len(held) == all_links and rig.waiting("event") == 9)


@BOTH
async def test_a_message_that_the_remote_will_not_take_for_its_size_is_told_at_once(
    protocol: str,
) -> None:
    async with both(protocol) as (core, rig):
        rig.send(a_message(b"x" * 5_000, "d2"), "big")
        assert isinstance((await rig.outcomes.all(1))["big"], TooLarge)
        rig.send(a_message(b"x", "d2"), "small")
        await until(lambda: len(uploads(core)) == 1)


@BOTH
async def test_a_message_that_was_too_large_while_the_remote_was_away_holds_up_nobody(
    protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_way(protocol) as (core, proxy):
        proxy.refuses = True
        async with a_relay(f"{protocol}://{proxy.address}") as rig:
            rig.send(an_event(b"x" * 5_000, "d2"), "big")
            rig.send(an_event(b"small", "d2"), "small")
            await rig.outcomes.all(2)
            proxy.refuses = False
            await until(lambda: len(uploads(core)) == 1 and not rig.waiting("event"))
            assert uploads(core)[0].payload == b"small"
            assert rig.sample("twinspan_remote_loss_total", type="event", cause="refused") == 1


async def test_over_mqtt_3_too_large_a_message_ends_connections_until_it_is_given_up() -> None:
    async with both("mqtt", mqtt_version=3, reconnect_cap=0.02) as (core, rig):
        rig.send(an_event(b"x" * 5_000, "d2"), "big")
        rig.send(an_event(b"small", "d2"), "small")
        rig.send(an_event(b"other", "d3"), "other")
        await until(lambda: not rig.waiting("event"))
        assert {m.payload for m in uploads(core)} == {b"small", b"other"}
        assert rig.sample("twinspan_remote_loss_total", type="event", cause="unsendable") == 1


# --- connections --------------------------------------------------------------------------------------


@WAYS
async def test_what_was_sent_while_the_remote_was_away_arrives_in_order(
    protocol: str, settings: dict[str, Any]
) -> None:
    async with a_fragile_way(protocol, **settings) as (core, proxy, rig):
        await rig.connected()
        proxy.refuses = True
        proxy.cut()
        await until(lambda: not rig.gateway.is_connected)
        for number in range(60):
            kind = Kind.EVENT if number % 3 else Kind.TELEMETRY
            rig.send(a_message(str(number), "d2" if number % 2 else "d3", kind=kind), number)
        assert set((await rig.outcomes.all(60)).values()) == {None}
        assert rig.waiting("event") == 40
        proxy.refuses = False
        await until(lambda: len(uploads(core)) == 60)
        for device in ("d2", "d3"):
            for kind in Kind:
                lane = [m for m in uploads(core) if (m.device, m.kind) == (device, kind)]
                assert [int(m.payload) for m in lane] == sorted(int(m.payload) for m in lane)
        assert not any(m.duplicate for m in uploads(core))


@BOTH
async def test_a_connection_that_breaks_again_and_again_loses_nothing_and_marks_repeats(
    protocol: str,
) -> None:
    async with a_fragile_way(protocol, reconnect_cap=0.02) as (core, proxy, rig):
        for number in range(200):
            rig.send(an_event(str(number), "d2" if number % 2 else "d3"), number)
        for _ in range(8):
            await rig.connected()
            seen = len(uploads(core))
            await until(partial(has_moved, core, rig, seen))
            proxy.cut()
            await until(lambda: not rig.gateway.is_connected)
        await until(lambda: rig.waiting("event") == 0)
        first: dict[int, Message] = {}
        for message in uploads(core):
            number = int(message.payload)
            assert number not in first or message.duplicate
            first.setdefault(number, message)
        assert sorted(first) == list(range(200))
        for device in ("d2", "d3"):
            mine = [n for n, m in first.items() if m.device == device]
            assert mine == sorted(mine)


@BOTH
async def test_a_partition_is_noticed_and_the_connection_made_anew(protocol: str) -> None:
    async with (
        a_way(protocol) as (core, proxy),
        a_relay(f"{protocol}://{proxy.address}", keep_alive=1.0, answer_timeout=0.5) as rig,
    ):
        await rig.connected()
        proxy.flows.clear()
        rig.send(an_event(b"a", "d2"))
        await until(lambda: not rig.gateway.is_connected)
        assert "no outcome in 0.5 s" in str(rig.gateway.facts()["cause"])
        proxy.cut()
        proxy.flows.set()
        await until(lambda: rig.waiting("event") == 0)
        assert [m.payload for m in uploads(core)][-1] == b"a"
        assert uploads(core)[-1].duplicate


@BOTH
async def test_a_silent_partition_without_messages_is_noticed_too(protocol: str) -> None:
    async with a_fragile_way(protocol, keep_alive=0.6) as (_, proxy, rig):
        await rig.connected()
        proxy.flows.clear()
        await until(lambda: not rig.gateway.is_connected)
        proxy.cut()
        proxy.flows.set()
        await rig.connected()


@BOTH
async def test_a_wrong_password_is_told_and_tried_again_later(protocol: str) -> None:
    wrong = RemoteGateway(tenant="acme", username="gw@acme", password="wrong")
    async with a_remote(protocol) as (core, address), a_relay(address, gateway=wrong) as rig:
        name = "twinspan_remote_connections_ended_total"
        await until(lambda: rig.sample(name, reason="refused") >= 2)
        assert not rig.gateway.is_connected
        assert rig.gateway.facts()["cause"]
        await core.registry.update_credentials("acme", "gw-1", [PASSWORD], None)
        await rig.connected()


PASSWORD: Any = {
    "type": "hashed-password",
    "auth-id": "gw",
    "secrets": [{"pwd-plain": "wrong"}],
}


@BOTH
async def test_a_remote_that_is_not_there_is_tried_again(protocol: str) -> None:
    async with a_relay(f"{protocol}://127.0.0.1:1", reconnect_cap=0.02) as rig:
        name = "twinspan_remote_connections_ended_total"
        await until(lambda: rig.sample(name, reason="unreachable") >= 3)
        assert rig.gateway.is_well


async def test_readiness_may_depend_on_the_remote() -> None:
    async with a_relay("mqtt://127.0.0.1:1", ready_without_remote=False) as rig:
        assert not rig.gateway.is_well


@BOTH
async def test_a_remote_that_says_nothing_is_given_up(protocol: str) -> None:
    async with a_way(protocol) as (_, proxy):
        proxy.flows.clear()
        async with a_relay(f"{protocol}://{proxy.address}", connect_timeout=0.1) as rig:
            name = "twinspan_remote_connections_ended_total"
            await until(lambda: rig.sample(name, reason="unreachable") >= 2)


@BOTH
async def test_the_remotes_gateway_that_is_deleted_is_let_in_again_when_it_is_back(
    protocol: str,
) -> None:
    async with both(protocol) as (core, rig):
        await core.registry.delete_device("acme", "gw-1", None)
        await until(lambda: not rig.gateway.is_connected)
        rig.send(an_event(b"a", "d2"))
        await rig.outcomes.all(1)
        await core.device("acme", "gw-1", auth_id="gw")
        await until(lambda: len(uploads(core)) == 1)


# --- TLS ----------------------------------------------------------------------------------------------


@BOTH
async def test_tls_with_the_remotes_authority(protocol: str, tmp_path: Path) -> None:
    files = ensure_server(tmp_path, "their-ca", "remote", ("localhost", "127.0.0.1"))
    context = server_context(*files, "test")
    async with a_remote(protocol, tls_context=context) as (core, _):
        address = f"{protocol}s://{core.endpoints.get(f'hono.{protocol}s')}"
        async with a_relay(address, ca=str(tmp_path / "ca.crt")) as rig:
            await rig.connected()
            rig.send(an_event(b"a", "d2"))
            await until(lambda: len(uploads(core)) == 1)


@BOTH
async def test_a_remote_with_another_authority_or_name_gets_no_password(
    protocol: str, tmp_path: Path
) -> None:
    files = ensure_server(tmp_path, "their-ca", "remote", ("localhost", "127.0.0.1"))
    other = tmp_path / "other.pem"
    other.write_bytes(make_authority("other").certificate)
    context = server_context(*files, "test")
    async with a_remote(protocol, tls_context=context) as (core, _):
        address = f"{protocol}s://{core.endpoints.get(f'hono.{protocol}s')}"
        for ca, name in ((str(other), ""), (str(tmp_path / "ca.crt"), "x")):
            async with a_relay(address, ca=ca, server_name=name) as rig:
                await until(lambda rig=rig: "cause" in rig.gateway.facts())  # type: ignore[misc]
                assert "certificate verify failed" in str(rig.gateway.facts()["cause"]).lower()
        assert not next(iter(core.metrics.connection_attempts.collect())).samples


@BOTH
async def test_a_client_certificate_is_login_enough(protocol: str, tmp_path: Path) -> None:
    files = ensure_server(tmp_path, "their-ca", "remote", ("localhost", "127.0.0.1"))
    client = _client_certificate(tmp_path)
    gateway = RemoteGateway(tenant="acme", certificate=str(client[0]), key=str(client[1]))
    context = device_context(*files, "test")
    async with a_remote(protocol, tls_context=context) as (core, _):
        await _trust(core, client[2])
        address = f"{protocol}s://{core.endpoints.get(f'hono.{protocol}s')}"
        async with a_relay(address, gateway=gateway, ca=str(tmp_path / "ca.crt")) as rig:
            await rig.connected()
            rig.send(an_event(b"a", "d2"))
            await until(lambda: len(uploads(core)) == 1)
            assert uploads(core)[0].via == "gw-1"


def _client_certificate(folder: Path) -> tuple[Path, Path, bytes]:
    authority = make_authority("fleet-ca")
    save(folder, "client", issue(authority, "gw-by-certificate"))
    assert kept(folder, "client") is not None
    return folder / "client.crt", folder / "client.key", authority.certificate


async def _trust(core: Core, authority: bytes) -> None:
    der = base64.b64encode(ssl.PEM_cert_to_DER_cert(authority.decode())).decode()
    await core.registry.update_tenant("acme", {"trusted-ca": [{"cert": der}]}, None)
    secret: Any = {"type": "x509-cert", "auth-id": "CN=gw-by-certificate", "secrets": [{}]}
    await core.registry.update_credentials("acme", "gw-1", [secret], None)


# --- commands -----------------------------------------------------------------------------------------


def a_command(device: str = "d2", **more: Any) -> Command:
    given: dict[str, Any] = {
        "tenant": "acme",
        "name": "light",
        "payload": b"on",
        "content_type": "text/plain",
        **more,
    }
    return Command(device=device, **given)


def a_request(device: str = "d2") -> Command:
    return a_command(device, correlation_id="c-1", reply_to="command_response/acme/r 1")


class Replies:
    """The application of the remote that waits for answers."""

    def __init__(self) -> None:
        self.responses: list[CommandResponse] = []
        self.verdict: GatewayError | None = None

    def owns(self, tenant: str, reply_id: str) -> bool:
        return (tenant, reply_id) == ("acme", "r 1")

    def take(self, response: CommandResponse, done: Done) -> None:
        self.responses.append(response)
        done(self.verdict)


def response_to(command: Command, **more: Any) -> CommandResponse:
    """What a device of ours answers, from the request id that its adapter gave it."""
    request_id = encode_request_id(command)
    correlation_id, reply_id = parse_request_id(request_id, "acme", command.device)
    return CommandResponse(
        tenant="acme",
        device=command.device,
        reply_id=reply_id,
        correlation_id=correlation_id,
        status=200,
        **more,
    )


@WAYS
async def test_a_one_way_command_reaches_our_routing_and_its_outcome_the_application(
    protocol: str, settings: dict[str, Any]
) -> None:
    async with both(protocol, **settings) as (core, rig):
        core.commands.route(a_command(), rig.outcomes.of("command"))
        assert await rig.outcomes.all(1) == {"command": None}
        (command,) = rig.commands.commands
        assert (command.tenant, command.device, command.name) == ("acme", "d2", "light")
        assert (command.payload, command.reply_to) == (b"on", None)
        if protocol == "amqp" or not settings:
            assert command.content_type == "text/plain"


@WAYS
async def test_a_request_is_answered(protocol: str, settings: dict[str, Any]) -> None:
    async with both(protocol, **settings) as (core, rig):
        replies = Replies()
        core.commands.add_sink(replies)
        core.commands.route(a_request(), rig.outcomes.of("command"))
        await rig.outcomes.all(1)
        (command,) = rig.commands.commands
        response = response_to(command, payload=b"done", content_type="text/x")
        assert rig.relay.owns("acme", response.reply_id)
        rig.relay.take(response, rig.outcomes.of("response"))
        assert (await rig.outcomes.all(2))["response"] is None
        (answer,) = replies.responses
        assert (answer.correlation_id, answer.device, answer.status) == ("c-1", "d2", 200)
        assert (answer.payload, answer.content_type, answer.via) == (b"done", "text/x", "gw-1")


@BOTH
async def test_an_answer_outlives_our_restart(protocol: str) -> None:
    async with a_remote(protocol) as (core, address):
        replies = Replies()
        core.commands.add_sink(replies)
        async with a_relay(address) as rig:
            await rig.connected()
            core.commands.route(a_request(), rig.outcomes.of("command"))
            await rig.outcomes.all(1)
            (command,) = rig.commands.commands
        async with a_relay(address) as rig:
            await rig.connected()
            rig.relay.take(response_to(command), rig.outcomes.of("response"))
            assert (await rig.outcomes.all(1))["response"] is None
            assert len(replies.responses) == 1


@BOTH
async def test_an_answer_that_nobody_waits_for_is_refused_to_the_device(protocol: str) -> None:
    async with both(protocol) as (core, rig):
        core.commands.route(a_request(), rig.outcomes.of("command"))
        await rig.outcomes.all(1)
        rig.relay.take(response_to(rig.commands.commands[0]), rig.outcomes.of("response"))
        error = (await rig.outcomes.all(2))["response"]
        assert error is not None
        assert error.status == 503


@BOTH
async def test_a_device_cannot_answer_for_one_that_is_not_behind_the_gateway(protocol: str) -> None:
    async with both(protocol) as (core, rig):
        replies = Replies()
        core.commands.add_sink(replies)
        core.commands.route(a_request(), rig.outcomes.of("command"))
        await rig.outcomes.all(1)
        response = response_to(rig.commands.commands[0])
        rig.relay.take(replace(response, device="d1"), rig.outcomes.of("response"))
        assert isinstance((await rig.outcomes.all(2))["response"], Rejected)
        assert replies.responses == []


@BOTH
async def test_an_answer_without_a_remote_is_refused_at_once(protocol: str) -> None:
    async with a_relay(f"{protocol}://127.0.0.1:1") as rig:
        response = CommandResponse(
            tenant="acme", device="d2", reply_id="remote.WyJhIl0", correlation_id="-", status=200
        )
        rig.relay.take(response, rig.outcomes.of("response"))
        assert isinstance((await rig.outcomes.all(1))["response"], NoConsumer)


@BOTH
@pytest.mark.parametrize("reply_id", ["remote.", "remote.@@@", "remote.W10"])
async def test_a_made_up_request_id_is_refused(protocol: str, reply_id: str) -> None:
    async with both(protocol) as (_, rig):
        response = CommandResponse(
            tenant="acme", device="d2", reply_id=reply_id, correlation_id="-", status=200
        )
        rig.relay.take(response, rig.outcomes.of("response"))
        assert isinstance((await rig.outcomes.all(1))["response"], Rejected)


VERDICTS: list[tuple[GatewayError, str]] = [
    (NoConsumer(), "Undeliverable"),
    (Rejected("broken lamp"), "Rejected"),
    (NotProcessed(details={"delivery_failed": True, "undeliverable_here": False}), "NotProcessed"),
]


@pytest.mark.parametrize(
    ("verdict", "told"), VERDICTS, ids=[type(error).__name__ for error, _ in VERDICTS]
)
async def test_over_amqp_the_application_hears_what_became_of_its_command(
    verdict: GatewayError, told: str
) -> None:
    async with both("amqp") as (core, rig):
        rig.commands.verdict = verdict
        core.commands.route(a_command(), rig.outcomes.of("command"))
        error = (await rig.outcomes.all(1))["command"]
        assert type(error).__name__ == told
        if told == "Rejected":
            assert error is not None
            assert error.message == "broken lamp"


async def test_over_mqtt_a_command_that_no_device_took_is_released() -> None:
    async with (
        a_remote("mqtt", send_to_device_timeout=0.05) as (core, address),
        a_relay(address) as rig,
    ):
        await rig.connected()
        rig.commands.verdict = NoConsumer()
        core.commands.route(a_command(), rig.outcomes.of("command"))
        assert isinstance((await rig.outcomes.all(1))["command"], NotProcessed)
        rig.commands.verdict = None
        core.commands.route(a_command(), rig.outcomes.of("again"))
        assert (await rig.outcomes.all(2))["again"] is None


@BOTH
async def test_without_the_wish_for_commands_the_application_knows_at_once(protocol: str) -> None:
    async with both(protocol, commands=False) as (core, rig):
        core.commands.route(a_command(), rig.outcomes.of("command"))
        assert isinstance((await rig.outcomes.all(1))["command"], NoConsumer)


@BOTH
async def test_many_commands_at_once_all_get_their_outcome(protocol: str) -> None:
    async with both(protocol) as (core, rig):
        held: list[Done] = []
        rig.commands.held = held
        for number in range(60):
            core.commands.route(a_command(payload=b"%d" % number), rig.outcomes.of(number))
        await until(lambda: len(held) == 60)
        for done in held:
            done(None)
        assert set((await rig.outcomes.all(60)).values()) == {None}


# --- settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "settings", "told"),
    [
        ("http://x", {}, "hono.remote.address"),
        ("amqp://", {}, "hono.remote.address"),
        ("amqp://x:70000", {}, "hono.remote.address"),
        ("amqp://user:pw@x", {}, "hono.remote.address"),
        ("mqtt://x", {"gateways": ()}, "hono.remote.gateways"),
        ("mqtt://x", {"gateways": (GATEWAY, GATEWAY)}, "gateways[1].tenant"),
        ("mqtt://x", {"gateways": (RemoteGateway(tenant="a"),)}, "gateways[0]"),
        ("mqtt://x", {"gateways": (RemoteGateway(tenant="a", username="u"),)}, "[0].password"),
        ("mqtt://x", {"mqtt_version": 4}, "hono.remote.mqtt_version"),
        ("mqtt://x", {"telemetry_when_full": "maybe"}, "hono.remote.telemetry_when_full"),
        ("mqtt://x", {"max_event_bytes": 10}, "hono.remote.max_event_bytes"),
        ("mqtt://x", {"window": 0}, "hono.remote.window"),
        ("mqtts://x", {"ca": "/nowhere"}, "hono.remote.ca"),
        (
            "mqtt://x",
            {"gateways": (RemoteGateway(tenant="a", certificate="/nowhere"),)},
            "[0].certificate",
        ),
        (
            "mqtt://x",
            {"gateways": (RemoteGateway(tenant="a", username="u", password_file="/nowhere"),)},
            "[0].password_file",
        ),
    ],
)
async def test_a_bad_setting_is_named(address: str, settings: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        async with a_relay(address, **settings):
            pass
    assert told in caught.value.message


async def test_the_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "proton", None)
    with pytest.raises(InvalidSetting, match=r"twinspan\[amqp\]"):
        async with a_relay("amqp://x"):
            pass


async def test_a_password_file_is_read_without_its_end_of_line(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("pw\n")
    gateway = RemoteGateway(tenant="acme", username="gw@acme", password_file=str(secret))
    async with a_remote("mqtt") as (_, address), a_relay(address, gateway=gateway) as rig:
        await rig.connected()
