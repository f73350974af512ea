"""Ingress, authenticator, limits and command routing on the real registry."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from gateway.errors import (
    AuthenticatedDeviceNotFound,
    BadRequest,
    ConnectionLimitExceeded,
    DeviceNotFound,
    Forbidden,
    GatewayDisabled,
    GatewayError,
    NoConsumer,
    QuotaExceeded,
    Rejected,
    StoreUnavailable,
    TenantDisabled,
    TenantNotFound,
    Unauthenticated,
    Undeliverable,
)
from gateway.hono import command_walks, demo
from gateway.hono.limits import Lease, Usage
from gateway.hono.passwords import PasswordPool
from gateway.hono.registry import Registry
from gateway.model.credentials_json import credential_json
from gateway.model.message import (
    EMPTY_NOTIFICATION,
    OCTET_STREAM,
    Adapter,
    Command,
    CommandResponse,
    DeviceCommand,
    Kind,
    Principal,
    Upload,
)
from gateway.model.ports import Done
from gateway.model.registry import Tenant
from gateway.model.trace import TraceContext
from gateway.observe.metrics import Metrics
from gateway.runtime.module import running
from gateway.store.database import Database
from tests.hono_rig import Core, a_core, a_fleet, until

D1 = Principal("acme", "d1", "sensor1")
GW = Principal("acme", "gw-1", "gw")
VOLUME = {"effective-since": "2020-01-01T00:00:00Z", "max-bytes": 10}


@pytest.fixture
async def core() -> AsyncIterator[Core]:
    async with a_core() as core:
        await a_fleet(core)
        yield core


async def answer_of(ask: Callable[[Callable[[Any], None]], None]) -> Any:
    """Wait for a callback's one argument."""
    answers: list[Any] = []
    ask(answers.append)
    await until(lambda: bool(answers))
    return answers[0]


def an_upload(sender: Principal | None = D1, **changes: Any) -> Upload:
    members: dict[str, Any] = {
        "adapter": Adapter.MQTT,
        "principal": sender,
        "kind": Kind.TELEMETRY,
        "qos": 1,
        "payload": b"x",
        "address": "telemetry",
    }
    return Upload(**{**members, **changes})


async def submit(core: Core, upload: Upload) -> GatewayError | None:
    outcome: GatewayError | None = await answer_of(lambda done: core.ingress.submit(upload, done))
    return outcome


# --- ingress ---------------------------------------------------------------------------------------


async def test_defaults_of_tenant_and_device_are_added(core: Core) -> None:
    tenant: Any = {
        "defaults": {"ttl": 30, "region": "eu", "level": 1, "content-type": "text/plain"},
        "resource-limits": {"max-ttl": 20, "max-ttl-telemetry-qos1": 9},
    }
    await core.registry.update_tenant("acme", tenant, None)
    await core.registry.update_device(
        "acme", "d1", {"defaults": {"level": 2, "importance": "high"}}, None
    )
    await submit(core, an_upload(kind=Kind.EVENT, properties={"own": 1}))
    await submit(core, an_upload(content_type="a/b"))
    await submit(core, an_upload(qos=0))
    event, telemetry, fast = core.consumer.messages
    assert event.properties == {"region": "eu", "level": 2, "importance": "high", "own": 1}
    assert (event.content_type, event.ttl) == ("text/plain", 20)
    assert (telemetry.content_type, telemetry.ttl) == ("a/b", 9)
    assert fast.ttl is None


async def test_a_content_type_that_amqp_cannot_carry_is_refused(core: Core) -> None:
    for kind in Kind:
        upload = an_upload(kind=kind, content_type="text/plaïn")
        assert isinstance(await submit(core, upload), BadRequest)
    assert core.consumer.messages == []


async def test_defaults_that_no_message_can_carry_are_left_out(core: Core) -> None:
    defaults: Any = {
        "content-type": "text/plaïn",
        "content-encoding": "gzïp",
        "huge": 2**80,
        "long": 2**40,
    }
    await core.registry.update_device("acme", "d1", {"defaults": defaults}, None)
    await submit(core, an_upload(kind=Kind.EVENT))
    (event,) = core.consumer.messages
    assert (event.content_type, event.properties) == (OCTET_STREAM, {"long": 2**40})


async def test_a_payload_without_any_type_is_octets(core: Core) -> None:
    await submit(core, an_upload())
    assert core.consumer.messages[0].content_type == OCTET_STREAM


async def test_a_known_device_is_answered_at_once_and_a_change_is_seen_at_once(core: Core) -> None:
    await submit(core, an_upload())
    answers: list[Any] = []
    core.ingress.submit(an_upload(), answers.append)
    assert answers == [None]
    await core.registry.update_device("acme", "d1", {"enabled": False}, None)
    assert isinstance(await submit(core, an_upload()), AuthenticatedDeviceNotFound)
    await core.registry.update_device("acme", "d1", {"defaults": {"a": 1}}, None)
    assert await submit(core, an_upload()) is None
    assert core.consumer.messages[-1].properties == {"a": 1}


async def test_messages_that_wait_for_the_registry_keep_their_order(core: Core) -> None:
    outcomes: list[int] = []

    def noted(number: int) -> Done:
        return lambda _: outcomes.append(number)

    for number in range(20):
        core.ingress.submit(an_upload(payload=bytes([number + 1])), noted(number))
    await until(lambda: len(outcomes) == 20)
    assert [m.payload[0] - 1 for m in core.consumer.messages] == list(range(20))


async def test_gateway_rights_come_from_via_and_groups(core: Core) -> None:
    await core.device("acme", "d3", {"viaGroups": ["floor"]})
    to_d3 = an_upload(GW, device="d3")
    assert isinstance(await submit(core, to_d3), Forbidden)
    await core.registry.update_device("acme", "gw-1", {"memberOf": ["floor"]}, None)
    assert await submit(core, to_d3) is None
    assert core.consumer.messages[-1].via == "gw-1"
    await core.registry.update_device("acme", "gw-1", {}, None)
    assert isinstance(await submit(core, to_d3), Forbidden)


@pytest.mark.parametrize(
    ("change", "upload", "error"),
    [
        (None, an_upload(GW, device="nobody"), DeviceNotFound),
        (None, an_upload(D1, device="d2"), Forbidden),
        (None, an_upload(D1, tenant="other", device="d1"), Forbidden),
        (None, an_upload(D1, tenant="acme"), BadRequest),
        (None, an_upload(None, device="d1"), BadRequest),
        (None, an_upload(None, tenant="other", device="d1"), TenantNotFound),
        (None, an_upload(payload=b""), BadRequest),
        (None, an_upload(content_type=EMPTY_NOTIFICATION), BadRequest),
        ("gateway off", an_upload(GW, device="d2"), GatewayDisabled),
        ("gateway gone", an_upload(GW, device="d2"), GatewayDisabled),
        ("gateway gone", an_upload(GW, device="nobody"), AuthenticatedDeviceNotFound),
        ("tenant off", an_upload(), TenantDisabled),
        ("tenant gone", an_upload(), TenantNotFound),
        ("volume", an_upload(payload=b"x" * 11), QuotaExceeded),
    ],
)
async def test_what_may_not_be_sent_is_refused(
    core: Core, change: str | None, upload: Upload, error: type[GatewayError]
) -> None:
    registry = core.registry
    limits: Any = {"resource-limits": {"data-volume": VOLUME}}
    if change == "gateway off":
        await registry.update_device("acme", "gw-1", {"enabled": False}, None)
    elif change == "gateway gone":
        await registry.delete_device("acme", "gw-1", None)
    elif change == "tenant off":
        await registry.update_tenant("acme", {"enabled": False}, None)
    elif change == "tenant gone":
        await registry.delete_tenant("acme", None)
    elif change == "volume":
        await registry.update_tenant("acme", limits, None)
    outcome = await submit(core, upload)
    assert type(outcome) is error
    assert core.consumer.messages == []


async def test_terminal_errors_are_those_of_the_connections_own_device(core: Core) -> None:
    foreign = await submit(core, an_upload(GW, device="nobody"))
    own = await submit(core, an_upload(Principal("acme", "gone", "x")))
    assert foreign is not None
    assert own is not None
    assert (foreign.is_terminal, own.is_terminal) == (False, True)


async def test_the_data_volume_is_counted_until_it_is_used_up_and_kept_on_disk(core: Core) -> None:
    limits: Any = {"resource-limits": {"data-volume": VOLUME}, "minimum-message-size": 4}
    await core.registry.update_tenant("acme", limits, None)
    assert await submit(core, an_upload(payload=b"x" * 5)) is None
    assert isinstance(await submit(core, an_upload(payload=b"x")), QuotaExceeded)
    core.consumer.outcome = NoConsumer()
    core.usage._save()
    again = Usage(core.usage._database)
    await core.registry.read_tenant("acme")
    await core.registry.update_tenant("acme", limits, None)  # behind the save in the writer's queue
    assert core.usage._database is not None
    await core.usage._database.read(again._load)
    tenant = await answer_of(lambda done: core.registry.find_tenant("acme", done))
    assert again.would_exceed(tenant, 1)


async def test_what_a_tenant_used_goes_with_it(core: Core) -> None:
    limits: Any = {"resource-limits": {"data-volume": VOLUME}, "minimum-message-size": 4}
    used: list[Any] = []

    async def rows() -> list[Any]:
        assert core.usage._database is not None
        return await core.usage._database.write(
            lambda db: db.execute("SELECT tenant FROM tenant_usage").fetchall()
        )

    await core.registry.update_tenant("acme", limits, None)
    assert await submit(core, an_upload(payload=b"x" * 5)) is None
    core.usage._save()
    used = await rows()
    assert used == [("acme",)]
    tenant = await answer_of(lambda done: core.registry.find_tenant("acme", done))
    await core.registry.delete_tenant("acme", None)
    assert await rows() == []
    core.usage.add_bytes(tenant, 5)  # a message that was on its way
    core.usage._save()
    assert await rows() == []


async def test_uploads_are_metered_under_hono_names(core: Core) -> None:
    await submit(core, an_upload(kind=Kind.EVENT))
    core.consumer.outcome = NoConsumer()
    await submit(core, an_upload(kind=Kind.EVENT))
    await submit(core, an_upload(None, tenant="made-up", device="x"))
    name = "hono_telemetry_processing_duration_seconds_count"
    labels = {"qos": "1", "ttd": "none", "component_name": "hono-mqtt"}
    for tenant, kind, status in (
        ("acme", "event", "forwarded"),
        ("acme", "event", "undeliverable"),
        ("UNKNOWN", "telemetry", "unprocessable"),
    ):
        assert core.sample(name, tenant=tenant, type=kind, status=status, **labels) == 1
    assert "made-up" not in core.metrics.text().decode()


async def test_the_span_of_an_upload_is_below_the_devices(core: Core) -> None:
    parent = TraceContext("a" * 32, "b" * 16)
    await submit(core, an_upload(trace=parent))
    (span,) = core.tracer.recent("a" * 32)
    assert (span.name, span.parent_id) == ("upload telemetry", "b" * 16)
    assert core.consumer.messages[0].trace == span.context
    assert span.attributes["device_id"] == "d1"


async def test_an_edge_device_needs_no_registration_but_may_be_switched_off(core: Core) -> None:
    upload = an_upload(None, adapter=Adapter.EDGE, tenant="acme", device="default:lamp")
    assert await submit(core, upload) is None
    await core.device("acme", "default:lamp", {"enabled": False})
    assert isinstance(await submit(core, upload), DeviceNotFound)
    other = an_upload(None, adapter=Adapter.EDGE, tenant="nobody", device="default:lamp")
    assert isinstance(await submit(core, other), TenantNotFound)


async def test_an_edge_node_is_the_gateway_of_what_it_sends(core: Core) -> None:
    await core.device("acme", "sensor", {"via": ["gw-1", "gw-2"]})
    for node in ("edge-1", "edge-2", None):
        upload = an_upload(None, adapter=Adapter.EDGE, tenant="acme", device="sensor", via=node)
        assert await submit(core, upload) is None
    assert [message.via for message in core.consumer.messages] == ["edge-1", "edge-2", None]


# --- authentication --------------------------------------------------------------------------------


async def login(core: Core, username: str, password: bytes) -> Any:
    return await answer_of(
        lambda done: core.authenticator.check_password(username, password, Adapter.MQTT, done)
    )


async def test_a_right_password_proves_the_device_and_is_remembered(core: Core) -> None:
    assert await login(core, "sensor1@acme", b"pw") == D1
    answers: list[Any] = []
    core.authenticator.check_password("sensor1@acme", b"pw", Adapter.MQTT, answers.append)
    assert answers == [D1]


@pytest.mark.parametrize("username", ["sensor1@acme", "nobody@acme", "sensor1@nobody", "x"])
async def test_a_wrong_login_is_unauthenticated_whatever_was_wrong(
    core: Core, username: str
) -> None:
    assert isinstance(await login(core, username, b"wrong"), Unauthenticated)


@pytest.mark.parametrize("username", ["nobody@acme", "sensor1@nobody", "off@acme"])
async def test_who_is_unknown_or_off_costs_a_hash_as_others_do(
    core: Core, monkeypatch: pytest.MonkeyPatch, username: str
) -> None:
    body: Any = [
        {
            "type": "hashed-password",
            "auth-id": "off",
            "enabled": False,
            "secrets": [{"pwd-plain": "pw"}],
        }
    ]
    await core.registry.update_credentials("acme", "d2", body, None)
    checked: list[Any] = []
    check = core.registry.passwords.check

    def counted(*args: Any) -> None:
        checked.append(args[0])
        check(*args)

    monkeypatch.setattr(core.registry.passwords, "check", counted)
    assert isinstance(await login(core, username, b"pw"), Unauthenticated)
    ((secret,),) = checked
    assert secret.data["hash-function"] == "bcrypt"


async def test_strangers_cannot_crowd_out_devices(core: Core) -> None:
    answers: list[Any] = []
    for number in range(150):
        name = f"nobody{number}@acme"
        core.authenticator.check_password(name, b"pw", Adapter.MQTT, answers.append)
    assert await login(core, "sensor1@acme", b"pw") == D1
    assert len(answers) < 150
    assert {type(answer) for answer in answers} == {Unauthenticated}


async def test_a_tenant_may_be_named_by_its_alias(core: Core) -> None:
    await core.registry.update_tenant("acme", {"alias": "a-1"}, None)
    assert await login(core, "sensor1@a-1", b"pw") == D1


@pytest.mark.parametrize("function", ["sha-256", "sha-512", None])
async def test_foreign_hashes_are_checked_with_their_salt(core: Core, function: str | None) -> None:
    digest = hashlib.sha512 if function == "sha-512" else hashlib.sha256
    secret: Any = {
        "pwd-hash": base64.b64encode(digest(b"saltpw").digest()).decode(),
        "salt": base64.b64encode(b"salt").decode(),
    }
    if function is not None:
        secret["hash-function"] = function
    body: Any = [{"type": "hashed-password", "auth-id": "s", "secrets": [secret]}]
    await core.registry.update_credentials("acme", "d2", body, None)
    assert await login(core, "s@acme", b"pw") == Principal("acme", "d2", "s")
    assert isinstance(await login(core, "s@acme", b"other"), Unauthenticated)


@pytest.mark.parametrize(
    "secret",
    [
        {"pwd-plain": "pw", "enabled": False},
        {"pwd-plain": "pw", "not-after": "2020-01-01T00:00:00Z"},
        {"pwd-plain": "pw", "not-before": "2099-01-01T00:00:00Z"},
    ],
)
async def test_a_secret_that_is_off_or_out_of_date_proves_nothing(
    core: Core, secret: dict[str, Any]
) -> None:
    await login(core, "sensor1@acme", b"pw")
    body: Any = [{"type": "hashed-password", "auth-id": "sensor1", "secrets": [secret]}]
    await core.registry.update_credentials("acme", "d1", body, None)
    assert isinstance(await login(core, "sensor1@acme", b"pw"), Unauthenticated)


async def test_one_of_several_secrets_is_enough(core: Core) -> None:
    secrets: Any = [{"pwd-plain": "old"}, {"pwd-plain": "new"}]
    body: Any = [{"type": "hashed-password", "auth-id": "sensor1", "secrets": secrets}]
    await core.registry.update_credentials("acme", "d1", body, None)
    for password in (b"old", b"new"):
        assert await login(core, "sensor1@acme", password) == D1


async def test_many_logins_of_one_device_share_one_hash(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    check = core.registry.passwords.check

    def counted(*args: Any) -> None:
        nonlocal calls
        calls += 1
        check(*args)

    monkeypatch.setattr(core.registry.passwords, "check", counted)
    answers: list[Any] = []
    for password in (b"pw", b"wrong") * 10:
        core.authenticator.check_password("sensor1@acme", password, Adapter.MQTT, answers.append)
    await until(lambda: len(answers) == 20)
    assert calls == 2
    assert answers.count(D1) == 10


async def test_an_old_password_that_waited_while_it_was_changed_is_not_remembered(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    flights: list[tuple[Any, ...]] = []
    with monkeypatch.context() as patch:
        patch.setattr(core.registry.passwords, "check", lambda *args: flights.append(args))
        answers: list[Any] = []
        for password in (b"guess", b"pw"):
            core.authenticator.check_password(
                "sensor1@acme", password, Adapter.MQTT, answers.append
            )
        await until(lambda: len(flights) == 1)
        body: Any = [
            {"type": "hashed-password", "auth-id": "sensor1", "secrets": [{"pwd-plain": "new"}]}
        ]
        await core.registry.update_credentials("acme", "d1", body, None)
    for flight in flights:
        core.registry.passwords.check(*flight)
    await until(lambda: len(answers) == 2)
    assert isinstance(await login(core, "sensor1@acme", b"pw"), Unauthenticated)
    assert await login(core, "sensor1@acme", b"new") == D1


async def test_a_deleted_device_cannot_log_in_any_more(core: Core) -> None:
    assert await login(core, "sensor1@acme", b"pw") == D1
    await core.registry.delete_device("acme", "d1", None)
    assert isinstance(await login(core, "sensor1@acme", b"pw"), Unauthenticated)


async def test_a_full_pool_says_unavailable() -> None:
    async with a_core() as core:
        await a_fleet(core)
        full = PasswordPool(cost=4, max_queue=0)
        core.registry.passwords.close()
        core.registry.passwords = full
        assert isinstance(await login(core, "sensor1@acme", b"pw"), StoreUnavailable)


# --- connections -----------------------------------------------------------------------------------


async def admit(core: Core, principal: Principal, closed: list[Any] | None = None) -> Any:
    close = ([] if closed is None else closed).append
    return await answer_of(
        lambda done: core.connections.admit(principal, Adapter.MQTT, close, done)
    )


async def test_connections_are_counted_and_limited(core: Core) -> None:
    await core.registry.update_tenant("acme", {"resource-limits": {"max-connections": 1}}, None)
    lease = await admit(core, D1)
    assert isinstance(lease, Lease)
    labels = {"tenant": "acme", "component_name": "hono-mqtt"}
    assert core.sample("hono_connections_authenticated", **labels) == 1
    assert isinstance(await admit(core, GW), ConnectionLimitExceeded)
    lease.release()
    lease.release()
    assert core.sample("hono_connections_authenticated", **labels) == 0
    assert isinstance(await admit(core, GW), Lease)
    attempts = {**labels, "cipher_suite": "UNKNOWN"}
    name = "hono_connections_attempts_total"
    assert core.sample(name, outcome="succeeded", **attempts) == 2
    assert core.sample(name, outcome="tenant-connections-exceeded", **attempts) == 1


async def test_a_device_that_goes_while_it_connects_is_not_let_in(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []
    answers: list[Any] = []
    with monkeypatch.context() as patch:
        patch.setattr(core.registry, "assert_device", lambda *args: asked.append(args))
        core.connections.admit(D1, Adapter.MQTT, answers.append, answers.append)
    ((tenant, device, gateway, done),) = asked
    found = await answer_of(
        lambda answer: core.registry.assert_device(tenant, device, gateway, answer)
    )
    await core.registry.update_device("acme", "d1", {"enabled": False}, None)
    done(found)
    await until(lambda: bool(answers))
    assert isinstance(answers[0], AuthenticatedDeviceNotFound)
    assert core.connections.count("acme") == 0


async def test_connections_of_what_is_gone_are_closed(core: Core) -> None:
    closed: list[Any] = []
    for principal in (D1, GW):
        assert isinstance(await admit(core, principal, closed), Lease)
    await core.registry.update_device("acme", "d1", {"ext": {}}, None)
    assert closed == []
    await core.registry.delete_device("acme", "d1", None)
    assert [type(error) for error in closed] == [AuthenticatedDeviceNotFound]
    await core.registry.update_tenant("acme", {"enabled": False}, None)
    assert type(closed[-1]) is TenantDisabled
    assert isinstance(await admit(core, GW), TenantDisabled)


async def test_used_up_connection_time_lets_nobody_in(core: Core) -> None:
    duration = {"effective-since": "2020-01-01T00:00:00Z", "max-minutes": 1}
    limits: Any = {"resource-limits": {"connection-duration": duration}}
    await core.registry.update_tenant("acme", limits, None)
    lease = await admit(core, D1)
    lease.started -= 59
    assert isinstance(await admit(core, GW), Lease)
    lease.started -= 2
    refused = await admit(core, GW)
    assert isinstance(refused, ConnectionLimitExceeded)
    assert "connection time" in refused.message


# --- commands --------------------------------------------------------------------------------------


class Link:
    """A device link that keeps commands and answers with `outcome`, or not at all."""

    def __init__(self, outcome: GatewayError | None = None, *, is_mute: bool = False) -> None:
        self.commands: list[DeviceCommand] = []
        self._outcome = outcome
        self._is_mute = is_mute

    def deliver(self, command: DeviceCommand, done: Done) -> None:
        self.commands.append(command)
        if not self._is_mute:
            done(self._outcome)


def a_command(device: str = "d1", **changes: Any) -> Command:
    members: dict[str, Any] = {
        "tenant": "acme",
        "device": device,
        "name": "blink",
        "payload": b"x",
        "correlation_id": "c1",
        "reply_to": "command_response/acme/app",
    }
    return Command(**{**members, **changes})


async def route(core: Core, command: Command) -> GatewayError | None:
    outcome: GatewayError | None = await answer_of(lambda done: core.commands.route(command, done))
    return outcome


async def test_a_command_reaches_the_link_with_its_request_id(core: Core) -> None:
    link = Link()
    end = core.commands.subscribe("acme", "d1", link, adapter=Adapter.MQTT)
    assert await route(core, a_command()) is None
    (delivered,) = link.commands
    assert (delivered.target, delivered.request_id, delivered.gateway) == ("d1", "002c1app", None)
    assert delivered.command.trace is not None
    end()
    assert isinstance(await route(core, a_command()), NoConsumer)


async def test_a_gateways_link_is_told_the_target(core: Core) -> None:
    link = Link()
    core.commands.subscribe("acme", "gw-1", link, adapter=Adapter.AMQP)
    assert await route(core, a_command("d2", reply_to=None)) is None
    (delivered,) = link.commands
    assert (delivered.target, delivered.request_id, delivered.gateway) == ("d2", "", "gw-1")
    assert isinstance(await route(core, a_command("d1")), NoConsumer)


async def test_the_last_known_gateway_comes_first(core: Core) -> None:
    await core.device("acme", "gw-2")
    await core.registry.update_device("acme", "d2", {"via": ["gw-1", "gw-2"]}, None)
    links = {gateway: Link() for gateway in ("gw-1", "gw-2")}
    for gateway, link in links.items():
        core.commands.subscribe("acme", gateway, link, adapter=Adapter.MQTT)
    for gateway in ("gw-2", "gw-1", "gw-2"):
        await submit(core, an_upload(Principal("acme", gateway, "x"), device="d2"))
        await route(core, a_command("d2"))
    assert [len(link.commands) for link in links.values()] == [1, 2]


async def test_listening_is_announced_to_applications(core: Core) -> None:
    end = core.commands.subscribe("acme", "d1", Link(), adapter=Adapter.MQTT)
    end_2 = core.commands.subscribe("acme", "d1", Link(), adapter=Adapter.MQTT)
    core.commands.subscribe("acme", "d1", Link(), adapter=Adapter.HTTP, announce=False)()
    end_2()
    end()
    end()
    events = core.consumer.messages
    assert [m.ttd for m in events] == [-1, -1, 0]
    assert {m.content_type for m in events} == {EMPTY_NOTIFICATION}
    assert {(m.kind, m.qos, m.device) for m in events} == {(Kind.EVENT, 1, "d1")}
    assert events[0].adapter.startswith("hono-mqtt-")


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (a_command("nobody"), "device is disabled or not registered"),
        (a_command(tenant="nobody"), "tenant is disabled or not registered"),
        (a_command(reply_to="command_response/other/app"), "reply-to"),
    ],
)
async def test_a_command_that_can_never_arrive_is_rejected(
    core: Core, command: Command, text: str
) -> None:
    core.commands.subscribe("acme", "d1", Link(), adapter=Adapter.MQTT)
    outcome = await route(core, command)
    assert isinstance(outcome, Rejected)
    assert text in outcome.message


async def test_a_disabled_device_gets_no_commands(core: Core) -> None:
    link = Link()
    core.commands.subscribe("acme", "d1", link, adapter=Adapter.MQTT)
    await core.registry.update_device("acme", "d1", {"enabled": False}, None)
    outcome = await route(core, a_command())
    assert isinstance(outcome, Rejected)
    assert outcome.message == "device is disabled or not registered"
    assert link.commands == []


async def test_the_links_refusal_is_passed_on(core: Core) -> None:
    refusal = Undeliverable("no PUBACK")
    core.commands.subscribe("acme", "d1", Link(refusal), adapter=Adapter.MQTT)
    assert await route(core, a_command()) is refusal
    name = "hono_command_processing_duration_seconds_count"
    labels = {"tenant": "acme", "direction": "request", "component_name": "hono-mqtt"}
    assert core.sample(name, status="undeliverable", **labels) == 1


async def test_a_command_that_a_link_cannot_say_is_answered(core: Core) -> None:
    class Speechless:
        def deliver(self, _command: DeviceCommand, _done: Done) -> None:
            raise BadRequest("no such symbol")

    core.commands.subscribe("acme", "d1", Speechless(), adapter=Adapter.AMQP)
    outcome = await route(core, a_command())
    assert isinstance(outcome, BadRequest)


async def test_a_mute_link_is_given_up(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_walks, "ROUTING_SECONDS", 0.02)
    core.commands.subscribe("acme", "d1", Link(is_mute=True), adapter=Adapter.MQTT)
    assert isinstance(await route(core, a_command()), Undeliverable)


async def test_an_edge_link_serves_a_device_that_only_the_cluster_knows(core: Core) -> None:
    await submit(core, an_upload())  # makes the tenant known
    link = Link()
    core.commands.subscribe("acme", "default:lamp", link, adapter=Adapter.EDGE, announce=False)
    assert await route(core, a_command("default:lamp")) is None
    assert len(link.commands) == 1


class Sink:
    def __init__(self) -> None:
        self.taken: list[CommandResponse] = []

    def owns(self, tenant: str, reply_id: str) -> bool:
        return (tenant, reply_id) == ("acme", "app")

    def take(self, response: CommandResponse, done: Done) -> None:
        self.taken.append(response)
        done(None)


def a_response(**changes: Any) -> CommandResponse:
    members: dict[str, Any] = {
        "tenant": "acme",
        "device": "d1",
        "reply_id": "app",
        "correlation_id": "c1",
        "status": 200,
        "payload": b"ok",
    }
    return CommandResponse(**{**members, **changes})


async def respond(core: Core, response: CommandResponse) -> Any:
    return await answer_of(lambda done: core.commands.respond(response, done))


async def test_a_response_is_completed_and_handed_over(core: Core) -> None:
    sink = Sink()
    end = core.commands.add_sink(sink)
    body: Any = {"defaults": {"ttl-command-response": 7, "importance": "high"}}
    await core.registry.update_device("acme", "d1", body, None)
    assert await respond(core, a_response()) is None
    (taken,) = sink.taken
    assert (taken.content_type, taken.ttl) == (OCTET_STREAM, 7)
    assert taken.properties == {"importance": "high"}
    assert taken.at > 0
    end()
    assert isinstance(await respond(core, a_response()), NoConsumer)


@pytest.mark.parametrize(
    ("response", "error"),
    [
        (a_response(status=302), BadRequest),
        (a_response(content_type="text/plaïn"), BadRequest),
        (a_response(device="nobody"), DeviceNotFound),
        (a_response(device="d2", via="d1"), Forbidden),
        (a_response(reply_id="other"), NoConsumer),
    ],
)
async def test_a_response_that_may_not_pass_is_refused(
    core: Core, response: CommandResponse, error: type[GatewayError]
) -> None:
    sink = Sink()
    core.commands.add_sink(sink)
    assert isinstance(await respond(core, response), error)
    assert sink.taken == []


# --- demo ------------------------------------------------------------------------------------------


async def test_demo_data_is_made_once_and_left_alone() -> None:
    async with a_core() as core:
        await demo.provision(core.registry)
        first = await login(core, "sensor1@DEFAULT_TENANT", b"hono-secret")
        assert first == Principal("DEFAULT_TENANT", "4711", "sensor1")
        _, version = await core.registry.read_credentials("DEFAULT_TENANT", "4711")
        await demo.provision(core.registry)
        credentials, again = await core.registry.read_credentials("DEFAULT_TENANT", "4711")
        assert (len(credentials), version) == (3, again)
        gateway = Principal("DEFAULT_TENANT", "gw-1", "gw")
        assert await login(core, "gw@DEFAULT_TENANT", b"gw-secret") == gateway
        assert await submit(core, an_upload(gateway, device="4712")) is None
        document, _ = await core.registry.read_tenant("HTTP_TENANT")
        assert document["adapters"] == [{"type": "hono-http", "enabled": True}]


async def test_everything_is_there_after_a_restart(tmp_path: Any) -> None:
    path = tmp_path / "gateway.db"
    for attempt in range(2):
        database = Database(path, "gateway")
        registry = Registry(database, Metrics(), passwords=PasswordPool(cost=4))
        async with database.running(), running(registry):
            if attempt == 0:
                await demo.provision(registry)
            found = await answer_of(
                lambda done, r=registry: r.find_credential(  # type: ignore[misc]
                    "DEFAULT_TENANT", "hashed-password", "sensor1", done
                )
            )
            assert found.device_id == "4711"
            assert "pwd-hash" not in str(credential_json(found.credential))
        assert b"hono-secret" not in path.read_bytes()


async def test_who_waits_for_the_registry_is_answered_whatever_became_of_others() -> None:
    async with a_core() as core:
        await a_fleet(core)
        answers: list[Any] = []

        def broken(_found: object) -> None:
            raise RuntimeError("nobody is at home")

        core.registry.find_tenant("acme", broken)
        core.registry.find_tenant("acme", answers.append)
        core.registry.find_tenant("\udcff", answers.append)
        await until(lambda: len(answers) == 2)
        assert {type(answer) for answer in answers} == {Tenant, GatewayError}


async def test_a_listener_that_fails_hides_no_change_from_others(core: Core) -> None:
    heard: list[Any] = []

    def broken(_change: object) -> None:
        raise RuntimeError("nobody is at home")

    core.registry.on_change(broken)
    core.registry.on_change(heard.append)
    closed: list[Any] = []
    await admit(core, D1, closed)
    await core.registry.delete_device("acme", "d1", None)
    assert (len(heard), len(closed)) == (1, 1)


async def test_what_waits_when_the_registry_stops_is_answered() -> None:
    async with a_core() as core:
        await a_fleet(core)
        answers: list[Any] = []
        core.registry.find_tenant("acme", answers.append)
        assert answers == []
    await asyncio.sleep(0)
    assert len(answers) == 1
