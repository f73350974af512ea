"""The command router service and its followers: commands, TTD events, notifications, uploads, tokens."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
import pytest
from proton import Delivery, Message, symbol

from gateway.errors import (
    BadRequest,
    ConsumerTimeout,
    Forbidden,
    GatewayError,
    NoConsumer,
    NotFound,
    NotProcessed,
    Undeliverable,
)
from gateway.model.json import JsonObject
from gateway.model.message import (
    Adapter,
    Command,
    CommandResponse,
    DeviceCommand,
    Kind,
    MessagingType,
)
from gateway.model.ports import Done
from tests.hono_rig import Core, a_core, a_fleet
from tests.integration.proton_peer import Peer, Received, until
from tests.services_rig import Client, Services, the_services

INSTANCE = "hono-http-0815"
INTERNAL = f"command_internal/{INSTANCE}"


class Application:
    """Takes the responses of tenant `acme`."""

    def __init__(self) -> None:
        self.responses: list[CommandResponse] = []
        self.verdict: GatewayError | None = None

    def owns(self, tenant: str, reply_id: str) -> bool:
        return tenant == "acme" and reply_id in ("one/two", "")

    def take(self, response: CommandResponse, done: Done) -> None:
        self.responses.append(response)
        done(self.verdict)


@pytest.fixture
async def services() -> AsyncIterator[Services]:
    async with a_core() as core:
        await a_fleet(core)
        async with the_services(core) as running:
            yield running


@pytest.fixture
async def adapter(services: Services) -> AsyncIterator[Peer]:
    async with services.peer() as peer:
        yield peer


async def register(peer: Peer, device: str = "d1", instance: str = INSTANCE, **more: Any) -> Client:
    client = Client(peer, "cmd_router/acme")
    given = {"device_id": device, "adapter_instance_id": instance, **more}
    assert (await client.ask("register-cmd-consumer", properties=given)).status == 204
    return client


def a_command(device: str = "d1", **more: Any) -> Command:
    given: dict[str, Any] = {"name": "switch", "payload": b"on", **more}
    return Command(tenant="acme", device=device, **given)


class Verdict:
    """What became of a command or message."""

    def __init__(self) -> None:
        self.answers: list[GatewayError | None] = []

    def __call__(self, error: GatewayError | None) -> None:
        self.answers.append(error)

    async def wait(self) -> GatewayError | None:
        await until(lambda: self.answers)
        (answer,) = self.answers
        return answer


def route(core: Core, command: Command) -> Verdict:
    verdict = Verdict()
    core.commands.route(command, verdict)
    return verdict


@asynccontextmanager
async def listening(services: Services, answers: Any = None) -> AsyncIterator[Peer]:
    """An adapter instance that listens for its commands."""
    async with services.peer() as peer:
        peer.answer = answers
        peer.receive_from(INTERNAL)
        await peer.expect("attached")
        yield peer


# --- commands -----------------------------------------------------------------------------------------


async def test_a_command_goes_to_the_instance_that_registered_its_device(
    services: Services,
) -> None:
    async with listening(services) as peer:
        await register(peer)
        command = a_command(
            reply_to="command_response/acme/one/two",
            correlation_id="c1",
            content_type="text/plain",
            properties={"urgent": True, "level": 3},
        )
        verdict = route(services.core, command)
        _, link, received = await peer.expect("message")
        assert await verdict.wait() is None
    assert link == INTERNAL
    assert received.address == "command/acme/d1"
    assert (received.subject, received.correlation_id) == ("switch", "c1")
    assert received.reply_to == "command_response/acme/one/two"
    assert (received.content_type, received.body) == ("text/plain", b"on")
    assert received.properties == {"urgent": True, "level": 3}
    assert received.annotations["x-opt-trace-context"]["traceparent"].startswith("00-")


async def test_a_command_for_a_device_behind_a_gateway_names_the_gateway(
    services: Services,
) -> None:
    async with listening(services) as peer:
        await register(peer, device="gw-1")
        verdict = route(services.core, a_command("d2"))
        _, _, received = await peer.expect("message")
        assert await verdict.wait() is None
    assert received.address == "command/acme/d2"
    assert received.properties == {"via": "gw-1"}
    assert received.reply_to is None


async def test_a_command_that_came_over_kafka_is_answered_at_an_address_of_ours(
    services: Services,
) -> None:
    application = Application()
    services.core.commands.add_sink(application)
    async with listening(services) as peer:
        await register(peer)
        command = a_command(
            reply_to="command_response/acme/", correlation_id="c1", messaging=MessagingType.KAFKA
        )
        verdict = route(services.core, command)
        _, _, received = await peer.expect("message")
        assert await verdict.wait() is None
        await respond(peer, received.reply_to)
    assert application.responses[0].reply_id == ""


def _answer(state: int, **fields: Any) -> Any:
    def answer(_received: Received, delivery: Delivery) -> None:
        for name, value in fields.items():
            setattr(delivery.local, name, value)
        delivery.update(state)
        delivery.settle()

    return answer


@pytest.mark.parametrize(
    ("state", "fields", "expected"),
    [
        (Delivery.RELEASED, {}, Undeliverable),
        (Delivery.MODIFIED, {"failed": True}, NotProcessed),
        (Delivery.REJECTED, {}, GatewayError),
    ],
)
async def test_what_the_adapter_answers_is_passed_back(
    services: Services, state: int, fields: dict[str, Any], expected: type[GatewayError]
) -> None:
    async with listening(services, _answer(state, **fields)) as peer:
        await register(peer)
        answer = await route(services.core, a_command()).wait()
    assert isinstance(answer, expected)


async def test_a_command_is_released_when_its_instance_is_away(services: Services) -> None:
    async with listening(services) as peer:
        await register(peer)
    await until(lambda: not services.module.rooms.receivers.has(INSTANCE))
    assert isinstance(await route(services.core, a_command()).wait(), NoConsumer)
    async with listening(services) as peer:  # it need not register again
        verdict = route(services.core, a_command())
        await peer.expect("message")
        assert await verdict.wait() is None


async def test_a_command_is_released_when_its_instance_has_no_credit(services: Services) -> None:
    async with services.peer(prefetch=0) as peer:
        peer.receive_from(INTERNAL)
        await peer.expect("attached")
        await register_from(services)
        assert isinstance(await route(services.core, a_command()).wait(), NoConsumer)


async def test_a_command_is_not_lost_in_silence_when_its_instance_dies(services: Services) -> None:
    async with listening(services, lambda _received, _delivery: None) as peer:
        await register(peer)
        verdict = route(services.core, a_command())
        await peer.expect("message")
    assert isinstance(await verdict.wait(), NotProcessed)


async def register_from(services: Services, **more: Any) -> None:
    async with services.peer() as peer:
        await register(peer, **more)


# --- registrations -------------------------------------------------------------------------------------


async def test_the_newest_registration_wins_and_the_old_one_cannot_take_it_back(
    services: Services, adapter: Peer
) -> None:
    client = await register(adapter, instance="hono-mqtt-1")
    await register(adapter)
    gone = {"device_id": "d1", "adapter_instance_id": "hono-mqtt-1"}
    assert (await client.ask("unregister-cmd-consumer", properties=gone)).status == 412
    gone["adapter_instance_id"] = INSTANCE
    assert (await client.ask("unregister-cmd-consumer", properties=gone)).status == 204
    assert (await client.ask("unregister-cmd-consumer", properties=gone)).status == 412
    assert isinstance(await route(services.core, a_command()).wait(), NoConsumer)
    assert services.core.sample("twinspan_service_routes") == 0


async def test_an_adapter_of_our_own_takes_over_from_one_elsewhere(
    services: Services, adapter: Peer
) -> None:
    client = await register(adapter)
    delivered: list[DeviceCommand] = []

    class Link:
        def deliver(self, command: DeviceCommand, done: Done) -> None:
            delivered.append(command)
            done(None)

    end = services.core.commands.subscribe(
        "acme", "d1", Link(), adapter=Adapter.MQTT, announce=False
    )
    assert await route(services.core, a_command()).wait() is None
    assert len(delivered) == 1
    gone = {"device_id": "d1", "adapter_instance_id": INSTANCE}
    assert (await client.ask("unregister-cmd-consumer", properties=gone)).status == 412
    end()


async def test_a_registration_ends_with_its_lifespan(services: Services, adapter: Peer) -> None:
    await register(adapter, lifespan=1)
    assert len(services.module.rooms.routes) == 1
    await until(lambda: len(services.module.rooms.routes) == 0)


async def test_applications_hear_when_a_device_may_be_reached(
    services: Services, adapter: Peer
) -> None:
    client = await register(adapter, send_event=True)
    gone = {"device_id": "d1", "adapter_instance_id": INSTANCE, "send_event": True}
    assert (await client.ask("unregister-cmd-consumer", properties=gone)).status == 204
    events = services.core.consumer.messages
    assert [(event.device, event.ttd, event.adapter) for event in events] == [
        ("d1", -1, INSTANCE),
        ("d1", 0, INSTANCE),
    ]
    assert {event.content_type for event in events} == {
        "application/vnd.eclipse-hono-empty-notification"
    }


async def test_a_registration_that_cannot_be_announced_is_none(
    services: Services, adapter: Peer
) -> None:
    services.core.consumer.outcome = Undeliverable()
    client = Client(adapter, "cmd_router/acme")
    given = {"device_id": "d1", "adapter_instance_id": INSTANCE, "send_event": True}
    assert (await client.ask("register-cmd-consumer", properties=given)).status == 503
    assert len(services.module.rooms.routes) == 0


@pytest.mark.parametrize(
    "properties",
    [
        {},
        {"device_id": "d1"},
        {"adapter_instance_id": INSTANCE},
        {"device_id": "d1", "adapter_instance_id": INSTANCE, "lifespan": "long"},
        {"device_id": "d1", "adapter_instance_id": INSTANCE, "send_event": "yes"},
        {"device_id": "d" * 2_000, "adapter_instance_id": INSTANCE},
    ],
)
async def test_a_registration_that_is_none_is_400(
    adapter: Peer, properties: dict[str, Any]
) -> None:
    client = Client(adapter, "cmd_router/acme")
    assert (await client.ask("register-cmd-consumer", properties=properties)).status == 400


async def test_last_gateways_are_set_one_by_one_and_in_batches(
    services: Services, adapter: Peer
) -> None:
    client = Client(adapter, "cmd_router/acme")
    one = await client.ask("set-last-gw", properties={"device_id": "d2", "gateway_id": "gw-1"})
    many = await client.ask("set-last-gw", {"d3": "gw-1", "d4": "gw-2"})
    assert (one.status, many.status) == (204, 204)
    last = services.core.last_gateways
    assert [last.get("acme", d) for d in ("d2", "d3", "d4")] == ["gw-1", "gw-1", "gw-2"]
    direct = await client.ask("set-last-gw", properties={"device_id": "d2", "gateway_id": "d2"})
    assert direct.status == 204
    assert last.get("acme", "d2") is None
    assert (await client.ask("set-last-gw", {"d3": 5})).status == 400
    assert (await client.ask("set-last-gw", properties={"device_id": "d2"})).status == 400


async def test_tenants_whose_commands_are_to_be_routed_are_expected(
    services: Services, adapter: Peer
) -> None:
    expected: list[str] = []
    services.core.commands.on_subscription(expected.append)
    client = Client(adapter, "cmd_router/acme")
    assert (await client.ask("enable-command-routing", ["acme", "nobody"])).status == 204
    await until(lambda: expected == ["acme"])
    assert (await client.ask("enable-command-routing", {"a": 1})).status == 400


async def test_a_tenant_that_is_not_there_is_404(adapter: Peer) -> None:
    client = Client(adapter, "cmd_router/nobody")
    given = {"device_id": "d1", "adapter_instance_id": INSTANCE}
    assert (await client.ask("register-cmd-consumer", properties=given)).status == 404


async def test_the_device_connection_service_says_who_handles_commands(adapter: Peer) -> None:
    client = Client(adapter, "device_con/acme")

    async def handling(device: str, *gateways: str) -> Any:
        answer = await client.ask(
            "get-cmd-handling-adapter-instances",
            {"gateway-ids": list(gateways)},
            {"device_id": device},
        )
        return answer.status if answer.status != 200 else answer.body["adapter-instances"]

    def entry(device: str, instance: str) -> dict[str, str]:
        return {"adapter-instance-id": instance, "device-id": device}

    async def set_instance(device: str, instance: str) -> int:
        given = {"device_id": device, "adapter_instance_id": instance, "lifespan": -1}
        answer = await client.ask("set-cmd-handling-adapter-instance", properties=given)
        return int(answer.status)

    assert await handling("d2", "gw-1") == 404
    assert await set_instance("gw-1", "a1") == 204
    assert await set_instance("gw-2", "a2") == 204
    both = [entry("gw-1", "a1"), entry("gw-2", "a2")]
    assert await handling("d2", "gw-1", "gw-2") == both
    unknown = await client.ask("get-last-gw", properties={"device_id": "d2"})
    assert unknown.status == 404
    await client.ask("set-last-gw", properties={"device_id": "d2", "gateway_id": "gw-2"})
    known = await client.ask("get-last-gw", properties={"device_id": "d2"})
    assert known.body["gateway-id"] == "gw-2"
    assert await handling("d2", "gw-1", "gw-2") == [entry("gw-2", "a2")]
    assert await set_instance("d2", "a3") == 204
    assert await handling("d2", "gw-1", "gw-2") == [entry("d2", "a3")]
    gone = {"device_id": "d2", "adapter_instance_id": "a3"}
    removed = await client.ask("remove-cmd-handling-adapter-instance", properties=gone)
    again = await client.ask("remove-cmd-handling-adapter-instance", properties=gone)
    assert (removed.status, again.status) == (204, 412)


# --- uploads -------------------------------------------------------------------------------------------


def an_upload(to: str | None = "telemetry/acme", **more: Any) -> Message:
    """Telemetry as Hono's HTTP adapter writes it."""
    given: dict[str, Any] = {
        "device_id": "d1",
        "qos": 1,
        "orig_adapter": "hono-http",
        "orig_address": "/telemetry",
        "importance": "high",
    }
    given |= more.pop("properties", {})
    message = Message(
        address=to,
        id="GenericSenderLink-1",
        creation_time=1_700_000_000,
        content_type="application/json",
        properties={name: value for name, value in given.items() if value is not None},
        body=b"{}",
        **more,
    )
    message.inferred = True
    message.annotations = {symbol("x-opt-retain"): True}
    return message


async def test_telemetry_of_an_adapter_goes_to_applications(
    services: Services, adapter: Peer
) -> None:
    trace: Any = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    message = an_upload(ttl=5, properties={"ttd": 20})
    message.annotations = {symbol("x-opt-trace-context"): trace, symbol("x-opt-retain"): True}
    adapter.send("telemetry/acme", message, "1")
    assert (await adapter.expect("outcome"))[2] == "accepted"
    (sent,) = services.core.consumer.messages
    assert (sent.tenant, sent.device, sent.kind, sent.qos) == ("acme", "d1", Kind.TELEMETRY, 1)
    assert (sent.payload, sent.content_type) == (b"{}", "application/json")
    assert (sent.adapter, sent.address) == ("hono-http", "/telemetry")
    assert (sent.ttl, sent.ttd, sent.retain, sent.at) == (5, 20, True, 1_700_000_000)
    assert sent.properties == {"importance": "high"}
    assert sent.trace.trace_id == "0af7651916cd43dd8448eb211c80319c"


async def test_events_of_an_adapter_are_events(services: Services, adapter: Peer) -> None:
    message = an_upload("event/acme", durable=True, properties={"qos": None})
    adapter.send("event/acme", message, "1")
    assert (await adapter.expect("outcome"))[2] == "accepted"
    (sent,) = services.core.consumer.messages
    assert (sent.kind, sent.qos) == (Kind.EVENT, 1)


@pytest.mark.parametrize(
    ("error", "state", "condition"),
    [
        (NoConsumer(), "released", None),
        (ConsumerTimeout(), "released", None),
        (NotProcessed(), "released", None),
        (NotProcessed(details={"delivery_failed": True}), "modified", None),
        (NotFound("nobody wants it"), "modified", None),
        (BadRequest("bad"), "rejected", "hono:bad-request"),
        (Forbidden("no"), "rejected", "amqp:unauthorized-access"),
        (GatewayError("broken"), "rejected", "amqp:internal-error"),
    ],
)
async def test_the_outcome_goes_back_to_the_adapter(
    services: Services,
    adapter: Peer,
    error: GatewayError,
    state: str,
    condition: str | None,
) -> None:
    services.core.consumer.outcome = error
    adapter.send("telemetry/acme", an_upload(), "1")
    outcome = await adapter.expect("outcome")
    assert outcome[2:4] == (state, condition)


@pytest.mark.parametrize(
    "change",
    [
        {"to": "telemetry/other"},
        {"to": "event/acme"},
        {"properties": {"device_id": None}},
        {"properties": {"device_id": 5}},
        {"properties": {"device_id": "d" * 2_000}},
    ],
)
async def test_an_upload_that_is_none_is_rejected(
    services: Services, adapter: Peer, change: dict[str, Any]
) -> None:
    adapter.send("telemetry/acme", an_upload(**change), "1")
    outcome = await adapter.expect("outcome")
    assert outcome[2:4] == ("rejected", "hono:bad-request")
    assert services.core.consumer.messages == []


async def test_the_data_volume_of_a_tenant_is_counted_and_kept(services: Services) -> None:
    limits: JsonObject = {
        "data-volume": {"effective-since": "2020-01-01T00:00:00Z", "max-bytes": 3}
    }
    await services.core.tenant("small", {"resource-limits": limits})
    async with services.peer() as peer:
        peer.send("telemetry/small", an_upload("telemetry/small"), "1")
        assert (await peer.expect("outcome"))[2] == "accepted"
        peer.send("telemetry/small", an_upload("telemetry/small"), "2")
        outcome = await peer.expect("outcome")
    assert outcome[2:4] == ("rejected", "amqp:resource-limit-exceeded")


async def test_uploads_need_the_right_to_send_them(services: Services) -> None:
    async with services.peer("consumer%40HONO:verysecret") as peer:
        peer.send("telemetry/acme", an_upload(), "1")
        assert (await peer.expect("link-error"))[2] == "amqp:unauthorized-access"


# --- responses -----------------------------------------------------------------------------------------


async def respond(peer: Peer, address: str, link: str | None = None, **more: Any) -> Any:
    given = {"status": 200, "tenant_id": "acme", "device_id": "d1", **more}
    message = Message(
        address=address,
        correlation_id="c1",
        content_type="text/plain",
        properties={name: value for name, value in given.items() if value is not None},
        body=b"done",
    )
    message.inferred = True
    peer.send(link or address, message, "response")
    return (await peer.expect("outcome"))[2:4]


@pytest.mark.parametrize("link", ["command_response/acme/one/two", "command_response/acme"])
async def test_a_response_goes_to_who_waits_at_its_address(
    services: Services, adapter: Peer, link: str
) -> None:
    application = Application()
    services.core.commands.add_sink(application)
    outcome = await respond(adapter, "command_response/acme/one/two", link, level=3)
    assert outcome == ("accepted", None)
    (response,) = application.responses
    assert (response.tenant, response.device, response.reply_id) == ("acme", "d1", "one/two")
    assert (response.status, response.correlation_id) == (200, "c1")
    assert (response.payload, response.content_type) == (b"done", "text/plain")
    assert response.properties == {"level": 3}
    assert response.at > 0


async def test_a_response_that_nobody_waits_for_is_released(adapter: Peer) -> None:
    assert await respond(adapter, "command_response/acme/nobody") == ("released", None)


async def test_a_response_without_a_status_is_rejected(adapter: Peer) -> None:
    outcome = await respond(adapter, "command_response/acme/one/two", status=None)
    assert outcome == ("rejected", "hono:bad-request")


async def test_a_response_for_another_tenant_is_rejected(adapter: Peer) -> None:
    outcome = await respond(adapter, "command_response/other/1", "command_response/acme")
    assert outcome == ("rejected", "hono:bad-request")


# --- notifications ---------------------------------------------------------------------------------------


async def test_every_listener_hears_of_registry_changes(services: Services, adapter: Peer) -> None:
    async with services.peer() as other:
        for peer in (adapter, other):
            peer.receive_from("notification/registry-device")
            await peer.expect("attached")
        await services.core.registry.update_device("acme", "d1", {"enabled": False}, None)
        for peer in (adapter, other):
            _, _, received = await peer.expect("message")
            body = json.loads(received.body)
            assert body.pop("creation-time")
            assert body == {
                "type": "device-change-v1",
                "source": "device-registry",
                "change": "UPDATE",
                "tenant-id": "acme",
                "device-id": "d1",
                "enabled": False,
            }
            assert received.address == "notification/registry-device"
            assert received.content_type == "application/json"


async def test_a_tenant_says_whether_caches_are_to_be_dropped(
    services: Services, adapter: Peer
) -> None:
    adapter.receive_from("notification/registry-tenant")
    await adapter.expect("attached")
    ext: JsonObject = {"invalidate-cache-on-update": True}
    await services.core.registry.update_tenant("acme", {"ext": ext}, None)
    _, _, received = await adapter.expect("message")
    body = json.loads(received.body)
    assert (body["type"], body["invalidate-cache-on-update"]) == ("tenant-change-v1", True)


# --- tokens ------------------------------------------------------------------------------------------------


async def token_of(peer: Peer) -> Received:
    peer.receive_from("cbs")
    _, link, received = await peer.expect("message")
    assert link == "cbs"
    assert isinstance(received, Received)
    return received


async def test_a_component_gets_a_token_with_its_rights(services: Services, adapter: Peer) -> None:
    received = await token_of(adapter)
    assert received.properties == {"type": "amqp:jwt"}
    keys: Any = services.module.rooms.tokens.keys()["keys"]
    (key,) = keys
    header = jwt.get_unverified_header(received.body)
    assert (header["alg"], header["kid"]) == ("ES256", key["kid"])
    claims = jwt.decode(
        received.body,
        jwt.PyJWK(key),
        algorithms=["ES256"],
        audience="hono-components",
        issuer="https://hono.eclipse.org/auth-server",
    )
    assert claims["sub"] == "http-adapter@HONO"
    assert claims["r:telemetry/*"] == "W"
    assert claims["o:registration/*:assert"] == "E"
    assert claims["exp"] - claims["iat"] == 600


async def test_a_token_can_be_signed_with_a_secret_that_both_sides_have(tmp_path: Any) -> None:
    secret = tmp_path / "secret"
    secret.write_text("0123456789abcdef0123456789abcdef\n")
    async with a_core() as core, the_services(core, shared_secret=str(secret)) as running:
        async with running.peer() as peer:
            received = await token_of(peer)
        assert running.module.rooms.tokens.keys() == {"keys": []}
    claims = jwt.decode(
        received.body,
        "0123456789abcdef0123456789abcdef",
        algorithms=["HS256"],
        audience="hono-components",
    )
    assert claims["sub"] == "http-adapter@HONO"


async def test_a_message_router_is_told_what_a_user_may_do(services: Services) -> None:
    wanted = {"desired_capabilities": [symbol("ADDRESS-AUTHZ")]}
    async with services.peer("consumer%40HONO:verysecret", **wanted) as peer:
        await peer.expect("opened")
        told = peer._connection.remote_properties
        identity = {str(k): v for k, v in told["authenticated-identity"].items()}
        assert identity == {"sub": "consumer@HONO"}
        rights = {str(k): v for k, v in told["address-authz"].items()}
        assert rights == {
            "telemetry/*": "recv",
            "event/*": "recv",
            "command_response/*": "recv",
            "command/*": "send",
        }
        assert "ADDRESS-AUTHZ" in [str(c) for c in peer._connection.remote_offered_capabilities]
