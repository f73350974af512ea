"""Connections between Hono and things: real ingress, adapters, registry, things service, SQLite, curl."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway.config.ditto import DittoHttp
from gateway.connectivity import demo
from gateway.connectivity.endpoints import Northbound
from gateway.connectivity.http import routes
from gateway.connectivity.hub import Connections
from gateway.connectivity.store import ConnectionStore
from gateway.errors import GatewayError, StoreUnavailable
from gateway.hono.downstream import Messaging
from gateway.model.message import Adapter, Command, CommandResponse, Kind, Message
from gateway.model.ports import Done
from gateway.observe.tracing import new_context
from gateway.runtime.listener import Endpoints
from gateway.runtime.module import running
from gateway.store.memory_events import MemoryEvents
from tests.ditto_rig import FREE, Stack, a_service, a_websocket, curl, json_body, put, serving
from tests.hono_rig import until

THING = "org.acme:my-device-1"
TENANT = "my-tenant"
SUBJECT = "pre-authenticated:hono-connection"
DEVOPS = "devops:foobar"


class Routing:
    """Command routing that the test plays: devices that listen, sinks that take answers."""

    def __init__(self) -> None:
        self.commands: list[Command] = []
        self.verdict: GatewayError | None = None
        self.sinks: list[Connections] = []

    def route(self, command: Command, done: Done) -> None:
        self.commands.append(command)
        done(self.verdict)

    def answer(self, command: Command, status: int, payload: bytes, content_type: str) -> None:
        """The device answers a command, through the sink that owns the reply address."""
        assert command.reply_to is not None
        _, tenant, reply_id = command.reply_to.split("/", 2)
        (sink,) = [one for one in self.sinks if one.owns(tenant, reply_id)]
        outcome: list[GatewayError | None] = []
        sink.take(
            CommandResponse(
                tenant=tenant,
                device=command.device,
                reply_id=reply_id,
                correlation_id=command.correlation_id or "",
                status=status,
                payload=payload,
                content_type=content_type,
            ),
            outcome.append,
        )
        assert outcome == [None]

    def subscribe(
        self,
        tenant: str,
        device: str,
        link: Any,
        *,
        adapter: Adapter,
        gateway: str | None = None,
        announce: bool = True,
        for_its_devices: bool = True,
    ) -> Callable[[], None]:
        raise AssertionError("connections subscribe nobody")

    def respond(self, response: CommandResponse, done: Done) -> None:
        raise AssertionError("connections answer no commands")


@dataclass
class Rig:
    ditto: Stack
    messaging: Messaging
    routing: Routing
    connections: Connections
    results: list[GatewayError | None] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"{self.ditto.api}/connections"

    async def upload(
        self,
        payload: Any,
        *,
        device: str = THING,
        kind: Kind = Kind.TELEMETRY,
        tenant: str = TENANT,
        content_type: str | None = "application/json",
        **more: Any,
    ) -> GatewayError | None:
        """Send a device's message; returns its outcome."""
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        message = Message(
            tenant=tenant,
            device=device,
            kind=kind,
            qos=1,
            payload=body,
            at=1_700_000_000.0,
            trace=new_context(),
            content_type=content_type,
            **more,
        )
        answer: asyncio.Future[GatewayError | None] = asyncio.get_running_loop().create_future()
        self.messaging.send(message, answer.set_result)
        async with asyncio.timeout(5):
            return await answer

    async def thing(self, path: str = "", thing: str = THING) -> Any:
        return (await curl(f"{self.ditto.api}/things/{thing}{path}")).json

    async def failures(self, connection_id: str) -> list[str]:
        """The texts of failures in a connection's log."""
        log = await curl(f"{self.url}/{connection_id}/logs", user=DEVOPS)
        return [e["message"] for e in log.json["connectionLogs"] if e["level"] == "failure"]


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with a_rig() as made:
        yield made


@asynccontextmanager
async def a_rig() -> AsyncIterator[Rig]:
    http = DittoHttp(bind=FREE)
    async with AsyncExitStack() as stack:
        ditto = await stack.enter_async_context(a_service(http))
        messaging, routing = Messaging(MemoryEvents(), ditto.metrics), Routing()
        bound = Endpoints()
        bound.add("northbound.amqp", "127.0.0.1", 15672)
        connections = Connections(
            ConnectionStore(ditto.database),
            ditto.things,
            ditto.policies,
            routing,
            messaging,
            Northbound(bound, {"consumer@HONO": "verysecret"}),
            ditto.metrics,
        )
        routing.sinks.append(connections)
        await stack.enter_async_context(running(connections))
        table = routes(ditto.endpoints, connections)
        await stack.enter_async_context(serving(ditto, http, None, table))
        rig = Rig(ditto, messaging, routing, connections)
        await a_twin(rig)
        yield rig


async def a_twin(rig: Rig) -> None:
    """The policy and the thing of the cloud2edge tour."""
    full = {"grant": ["READ", "WRITE"], "revoke": []}
    policy = {
        "entries": {
            "DEFAULT": {
                "subjects": {"{{ request:subjectId }}": {"type": "user"}},
                "resources": {"thing:/": full, "policy:/": full, "message:/": full},
            },
            "HONO": {
                "subjects": {SUBJECT: {"type": "connection"}},
                "resources": {
                    "thing:/": full,
                    "message:/": full,
                    "policy:/": {"grant": ["READ"], "revoke": []},
                },
            },
        }
    }
    made = await put(f"{rig.ditto.api}/policies/org.acme:my-policy", policy)
    assert made.status == 201
    thing = {
        "policyId": "org.acme:my-policy",
        "attributes": {"location": "Germany"},
        "features": {"temperature": {"properties": {"value": None}}},
    }
    assert (await put(f"{rig.ditto.api}/things/{THING}", thing)).status == 201


def amqp_document() -> dict[str, Any]:
    """The connection of the cloud2edge package, AMQP 1.0 messaging."""
    return {
        "name": "hono",
        "connectionType": "amqp-10",
        "connectionStatus": "open",
        "uri": "amqp://consumer%40HONO:verysecret@localhost:15672",
        "failoverEnabled": True,
        "sources": [
            {
                "addresses": [f"telemetry/{TENANT}", f"event/{TENANT}"],
                "authorizationContext": [SUBJECT],
                "enforcement": {
                    "input": "{{ header:device_id }}",
                    "filters": ["{{ entity:id }}"],
                },
                "headerMapping": {
                    "hono-device-id": "{{ header:device_id }}",
                    "content-type": "{{ header:content-type }}",
                },
                "replyTarget": {
                    "enabled": True,
                    "address": "{{ header:reply-to }}",
                    "headerMapping": {
                        "to": f"command/{TENANT}/{{{{ header:hono-device-id }}}}",
                        "subject": "{{ header:subject | fn:default(topic:action-subject) }}-response",
                        "correlation-id": "{{ header:correlation-id }}",
                    },
                    "expectedResponseTypes": ["response", "error"],
                },
                "acknowledgementRequests": {
                    "includes": [],
                    "filter": "fn:filter(header:qos,'ne','0')",
                },
            },
            {
                "addresses": [f"command_response/{TENANT}/replies"],
                "authorizationContext": [SUBJECT],
                "headerMapping": {
                    "content-type": "{{ header:content-type }}",
                    "correlation-id": "{{ header:correlation-id }}",
                    "status": "{{ header:status }}",
                },
                "replyTarget": {"enabled": False},
            },
        ],
        "targets": [
            {
                "address": f"command/{TENANT}",
                "authorizationContext": [SUBJECT],
                "topics": ["_/_/things/live/commands", "_/_/things/live/messages"],
                "headerMapping": {
                    "to": f"command/{TENANT}/{{{{ thing:id }}}}",
                    "subject": "{{ header:subject | fn:default(topic:action-subject) }}",
                    "content-type": "{{ header:content-type"
                    " | fn:default('application/vnd.eclipse.ditto+json') }}",
                    "correlation-id": "{{ header:correlation-id }}",
                    "reply-to": f"{{{{ fn:default('command_response/{TENANT}/replies')"
                    " | fn:filter(header:response-required,'ne','false') }}",
                },
            },
            {
                "address": f"command/{TENANT}",
                "authorizationContext": [SUBJECT],
                "topics": ["_/_/things/twin/events", "_/_/things/live/events"],
                "headerMapping": {
                    "to": f"command/{TENANT}/{{{{ thing:id }}}}",
                    "subject": "{{ header:subject | fn:default(topic:action-subject) }}",
                    "correlation-id": "{{ header:correlation-id }}",
                },
            },
        ],
    }


def hono_document(**source: Any) -> dict[str, Any]:
    """A connection of type `hono`; `source` are members of its first source."""
    return {
        "connectionType": "hono",
        "specificConfig": {"honoTenantId": TENANT},
        "sources": [
            {
                "addresses": ["telemetry", "event"],
                "authorizationContext": [SUBJECT],
                "enforcement": {
                    "input": "{{ header:device_id }}",
                    "filters": ["{{ entity:id }}"],
                },
                **source,
            },
            {"addresses": ["command_response"], "authorizationContext": [SUBJECT]},
        ],
        "targets": [
            {
                "address": "command",
                "authorizationContext": [SUBJECT],
                "topics": ["_/_/things/live/messages"],
            }
        ],
    }


async def connect(rig: Rig, document: dict[str, Any], connection_id: str = "c1") -> None:
    """Make or change a connection under this ID."""
    changed = await put(f"{rig.url}/{connection_id}", document, user=DEVOPS)
    assert changed.status in (201, 204), changed.body


def modify(value: Any, path: str = "/features/temperature/properties/value") -> dict[str, Any]:
    return {
        "topic": "org.acme/my-device-1/things/twin/commands/modify",
        "headers": {},
        "path": path,
        "value": value,
    }


# --- inbound -------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", [amqp_document(), hono_document()], ids=["amqp-10", "hono"])
@pytest.mark.parametrize("kind", list(Kind))
async def test_ditto_protocol_in_a_message_changes_the_twin_before_the_device_is_told(
    rig: Rig, document: dict[str, Any], kind: Kind
) -> None:
    await connect(rig, document)
    odd = "application/x-www-form-urlencoded"
    assert await rig.upload(modify(45), kind=kind, content_type=odd) is None
    if kind is Kind.EVENT:
        async with asyncio.timeout(5):
            while await rig.thing("/features/temperature/properties/value") != 45:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert await rig.thing("/features/temperature/properties/value") == 45


async def test_without_an_open_connection_nobody_takes_telemetry(rig: Rig) -> None:
    refused = await rig.upload(modify(45))
    assert refused is not None
    assert refused.status == 503
    await connect(rig, {**hono_document(), "connectionStatus": "closed"})
    assert await rig.upload(modify(45)) is not None


async def test_a_device_speaks_for_its_own_thing_alone(rig: Rig) -> None:
    await connect(rig, hono_document())
    other = {**modify(45), "topic": "org.acme/other/things/twin/commands/modify"}
    assert await rig.upload(other) is None
    (failure, *_) = await rig.failures("c1")
    assert "connectivity:connection.id.enforcement.failed" in failure
    assert await rig.upload(modify(45), device="org.acme:other") is None
    assert await rig.thing("/features/temperature/properties/value") is None


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"not json", "connectivity:message.mapping.failed"),
        (b'{"temp": 1}', "connectivity:message.mapping.failed"),
        (json.dumps({"topic": "a", "path": "/"}).encode(), "protocoladapter:unknown.topicpath"),
        (json.dumps(modify(1, "/attributes/a//b")).encode(), "json.pointer.invalid"),
        (json.dumps(modify("x", "/policyId")).encode(), "policies:id.invalid"),
    ],
)
async def test_what_a_connection_cannot_use_is_its_own_matter_and_stands_in_its_log(
    rig: Rig, payload: bytes, code: str
) -> None:
    await connect(rig, hono_document(enforcement=None))
    assert await rig.upload(payload) is None
    assert any(code in failure for failure in await rig.failures("c1"))
    metrics = await curl(f"{rig.url}/c1/metrics", user=DEVOPS)
    assert metrics.json["containsFailures"]
    assert metrics.json["connectionMetrics"]["inbound"]["consumed"]["success"]["PT1M"] == 1


async def test_a_store_that_cannot_write_means_try_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await connect(rig, hono_document())

    def full(_command: Any, done: Callable[[Any], None]) -> None:
        done(StoreUnavailable("disk full"))

    monkeypatch.setattr(rig.ditto.things.dispatcher, "run", full)
    refused = await rig.upload(modify(45))
    assert refused is not None
    assert refused.status == 503


async def test_a_copy_of_a_report_is_taken_but_changes_no_twin(rig: Rig) -> None:
    await connect(rig, hono_document())
    assert await rig.upload(modify(45), twin_owned=True) is None
    assert await rig.thing("/features/temperature/properties/value") is None


async def test_plain_json_becomes_one_merge_by_the_json_path_mapper(rig: Rig) -> None:
    fields = {
        "/features/temperature/properties/value": "$.temp",
        "/features/gps/properties/lat": "$.pos[0]",
        "/attributes/never": "$.nothing.here",
    }
    document = hono_document(payloadMapping=["Ditto", "mine"])
    document["mappingDefinitions"] = {
        "mine": {"mappingEngine": "JsonPath", "options": {"fields": fields}}
    }
    await connect(rig, document)
    assert await rig.upload({"temp": 21.5, "pos": [47.1, 9.2]}) is None
    found = await rig.thing("?fields=features,_revision")
    assert found["features"]["temperature"] == {"properties": {"value": 21.5}}
    assert found["features"]["gps"] == {"properties": {"lat": 47.1}}
    assert found["_revision"] == 2
    assert await rig.upload(modify(7)) is None
    assert await rig.thing("/features/temperature/properties/value") == 7
    assert await rig.failures("c1") == []


async def test_an_unknown_device_gets_its_thing_from_a_template(rig: Rig) -> None:
    thing = {
        "thingId": "{{ header:device_id }}",
        "policyId": "org.acme:my-policy",
        "attributes": {"via": "{{ header:gateway_id | fn:default('none') }}"},
    }
    document = hono_document(payloadMapping=["create", "Ditto"])
    document["mappingDefinitions"] = {
        "create": {"mappingEngine": "ImplicitThingCreation", "options": {"thing": thing}}
    }
    await connect(rig, document)
    new = {
        "topic": "org.acme/new/things/twin/commands/modify",
        "path": "/attributes/n",
        "value": 1,
    }
    for _ in range(2):
        assert await rig.upload(new, device="org.acme:new") is None
    found = await rig.thing("/attributes", "org.acme:new")
    assert found == {"via": "none", "n": 1}
    assert await rig.failures("c1") == []


async def test_the_time_until_disconnect_becomes_a_feature(rig: Rig) -> None:
    document = hono_document(payloadMapping=["status", "Ditto"])
    document["mappingDefinitions"] = {
        "status": {
            "mappingEngine": "ConnectionStatus",
            "options": {"thingId": "{{ header:device_id }}"},
        }
    }
    await connect(rig, document)
    assert await rig.upload(b"", ttd=60, content_type="application/vnd.eclipse-hono-empty") is None
    status = await rig.thing("/features/ConnectionStatus/properties/status")
    assert status == {
        "readySince": "2023-11-14T22:13:20Z",
        "readyUntil": "2023-11-14T22:14:20Z",
    }


# --- outbound ------------------------------------------------------------------------------------


async def ask(rig: Rig, seconds: str) -> Any:
    url = f"{rig.ditto.api}/things/{THING}/inbox/messages/start-watering?timeout={seconds}"
    return await curl("-X", "POST", url, *json_body({"water-amount": "3liters"}))


@pytest.mark.parametrize("document", [amqp_document(), hono_document()], ids=["amqp-10", "hono"])
async def test_a_message_becomes_a_command_and_the_devices_answer_its_response(
    rig: Rig, document: dict[str, Any]
) -> None:
    await connect(rig, document)
    asking = asyncio.create_task(ask(rig, "10"))
    await until(lambda: bool(rig.routing.commands))
    (command,) = rig.routing.commands
    assert (command.tenant, command.device, command.name) == (TENANT, THING, "start-watering")
    assert not command.is_one_way
    envelope = json.loads(command.payload)
    assert envelope["topic"] == "org.acme/my-device-1/things/live/messages/start-watering"
    assert envelope["path"] == "/inbox/messages/start-watering"
    assert envelope["value"] == {"water-amount": "3liters"}
    answer = {
        "topic": envelope["topic"],
        "headers": {
            "content-type": "application/json",
            "correlation-id": envelope["headers"]["correlation-id"],
        },
        "path": envelope["path"],
        "value": {"starting-watering": True},
        "status": 200,
    }
    rig.routing.answer(command, 200, json.dumps(answer).encode(), "application/json")
    got = await asking
    assert (got.status, got.json) == (200, {"starting-watering": True})
    assert got.headers["content-type"] == "application/json"


async def test_an_answer_that_is_no_ditto_protocol_is_handed_on_as_it_is(rig: Rig) -> None:
    await connect(rig, hono_document())
    asking = asyncio.create_task(ask(rig, "10"))
    await until(lambda: bool(rig.routing.commands))
    rig.routing.answer(rig.routing.commands[0], 418, b"tea", "text/plain")
    got = await asking
    assert (got.status, got.body) == (418, "tea")
    assert got.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize("document", [amqp_document(), hono_document()], ids=["amqp-10", "hono"])
async def test_a_message_that_nobody_waits_for_is_a_one_way_command(
    rig: Rig, document: dict[str, Any]
) -> None:
    await connect(rig, document)
    assert (await ask(rig, "0")).status == 202
    (command,) = rig.routing.commands
    assert command.is_one_way


async def test_raw_messages_go_out_without_an_envelope(rig: Rig) -> None:
    document = hono_document()
    document["targets"][0]["payloadMapping"] = ["RawMessage"]
    await connect(rig, document)
    assert (await ask(rig, "0")).status == 202
    (command,) = rig.routing.commands
    assert json.loads(command.payload) == {"water-amount": "3liters"}
    assert command.content_type == "application/json"


async def test_twin_events_go_out_normalized_but_not_to_the_connection_that_caused_them(
    rig: Rig,
) -> None:
    document = hono_document()
    document["targets"][0] |= {
        "topics": ["_/_/things/twin/events?filter=gt(attributes/n,5)&extraFields=policyId"],
        "payloadMapping": ["Normalized"],
    }
    await connect(rig, document)
    for value in (3, 7):
        await put(f"{rig.ditto.api}/things/{THING}/attributes/n", value)
    assert await rig.upload(modify(99, "/attributes/n")) is None
    (command,) = rig.routing.commands
    assert (command.device, command.name, command.is_one_way) == (THING, "modified", True)
    body = json.loads(command.payload)
    assert body["attributes"] == {"n": 7}
    assert body["policyId"] == "org.acme:my-policy"
    assert body["_context"]["path"] == "/attributes/n"


async def test_a_connection_without_the_right_hears_nothing(rig: Rig) -> None:
    document = hono_document()
    document["targets"][0]["authorizationContext"] = ["some:stranger"]
    await connect(rig, document)
    assert (await ask(rig, "0")).status == 202
    assert rig.routing.commands == []


async def test_a_device_sends_a_message_and_applications_hear_it(rig: Rig) -> None:
    await connect(rig, hono_document())
    async with a_websocket(rig.ditto) as client:
        await client.control("START-SEND-MESSAGES")
        message = {
            "topic": "org.acme/my-device-1/things/live/messages/alarm",
            "path": "/outbox/messages/alarm",
            "headers": {"content-type": "text/plain", "response-required": False},
            "value": "fire",
        }
        assert await rig.upload(message) is None
        heard = await client.envelope()
    assert (heard["path"], heard["value"]) == ("/outbox/messages/alarm", "fire")


async def test_a_device_reads_its_twin_over_the_reply_target(rig: Rig) -> None:
    await connect(rig, amqp_document() | {"targets": []})
    asked = {
        "topic": "org.acme/my-device-1/things/twin/commands/retrieve",
        "path": "/attributes",
        "headers": {"correlation-id": "r1", "reply-to": "anything"},
    }
    assert await rig.upload(asked) is None
    (command,) = rig.routing.commands
    assert (command.device, command.name) == (THING, "retrieve-response")
    answer = json.loads(command.payload)
    assert (answer["status"], answer["value"]) == (200, {"location": "Germany"})
    assert command.correlation_id == "r1"


# --- management ----------------------------------------------------------------------------------


async def test_connections_are_made_read_changed_and_deleted(rig: Rig) -> None:
    made = await curl("-X", "POST", rig.url, *json_body(amqp_document()), user=DEVOPS)
    assert made.status == 201
    connection_id = made.json["id"]
    assert made.headers["location"] == f"{rig.url}/{connection_id}"
    assert made.json["uri"] == "amqp://consumer%40HONO:*****@localhost:15672"
    shown = await curl(f"{rig.url}/{connection_id}", user=DEVOPS)
    assert shown.json["_revision"] == 1
    status = await curl(f"{rig.url}/{connection_id}/status", user=DEVOPS)
    assert (status.json["liveStatus"], status.json["connectionStatus"]) == ("open", "open")
    assert len(status.json["sourceStatus"]) == 3
    changed = {**shown.json, "name": "renamed"}
    changed = {k: v for k, v in changed.items() if not k.startswith("_")}
    assert (await put(f"{rig.url}/{connection_id}", changed, user=DEVOPS)).status == 204
    status = await curl(f"{rig.url}/{connection_id}/status", user=DEVOPS)
    assert status.json["liveStatus"] == "open", "the hidden password is kept"
    assert (await curl(f"{rig.url}?ids-only=true", user=DEVOPS)).json == [connection_id]
    assert (await curl(f"{rig.url}?fields=name", user=DEVOPS)).json == [{"name": "renamed"}]
    gone = await curl("-X", "DELETE", f"{rig.url}/{connection_id}", user=DEVOPS)
    assert gone.status == 204
    again = await curl(f"{rig.url}/{connection_id}", user=DEVOPS)
    assert (again.status, again.error) == (404, "connectivity:connection.notfound")
    assert await rig.upload(modify(1)) is not None


async def test_connections_are_closed_and_opened_by_command(rig: Rig) -> None:
    await connect(rig, hono_document())
    text = ["-H", "Content-Type: text/plain", "-d"]
    command = f"{rig.url}/c1/command"
    close = "connectivity.commands:closeConnection"
    assert (await curl("-X", "POST", command, *text, close, user=DEVOPS)).status == 200
    assert await rig.upload(modify(1)) is not None
    status = await curl(f"{rig.url}/c1/status", user=DEVOPS)
    assert status.json["liveStatus"] == "closed"
    open_ = "connectivity.commands:openConnection"
    assert (await curl("-X", "POST", command, *text, open_, user=DEVOPS)).status == 200
    assert await rig.upload(modify(1)) is None
    bad = await curl("-X", "POST", command, *text, "explode", user=DEVOPS)
    assert (bad.status, bad.error) == (400, "connectivity:command.invalid")


async def test_only_operators_manage_connections(rig: Rig) -> None:
    for user in ("", "ditto:ditto", "devops:wrong"):
        refused = await curl(rig.url, user=user)
        assert (refused.status, refused.error) == (401, "gateway:authentication.failed")
        assert refused.headers["www-authenticate"] == 'Basic realm="DITTO-DEVOPS"'


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"id": "mine"}, 400, "connectivity:id.notsettable"),
        ({"connectionType": "pigeon"}, 400, "connectivity:connection.configuration.invalid"),
        ({"sources": [], "targets": []}, 400, "connectivity:connection.configuration.invalid"),
        ({"uri": "nonsense"}, 400, "connectivity:connection.uri.invalid"),
        ({"sources": "x"}, 400, "connectivity:connection.configuration.invalid"),
        (
            {"mappingDefinitions": {"js": {"mappingEngine": "JavaScript", "options": {}}}},
            501,
            "notimplemented",
        ),
        (
            {"mappingDefinitions": {"x": {"mappingEngine": "Nope"}}},
            400,
            "connectivity:message.mapper.config.invalid",
        ),
    ],
)
async def test_a_document_that_cannot_work_is_refused_with_its_fault(
    rig: Rig, change: dict[str, Any], status: int, code: str
) -> None:
    body = json_body({**amqp_document(), **change})
    refused = await curl("-X", "POST", rig.url, *body, user=DEVOPS)
    assert (refused.status, refused.error) == (status, code)
    assert (await curl(rig.url, user=DEVOPS)).json == []


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ({"uri": "amqp://consumer%40HONO:wrong@localhost:15672"}, "password"),
        ({"uri": "amqp://consumer%40HONO:verysecret@broker.acme.org:5672"}, "not built"),
        ({"connectionType": "kafka", "uri": "tcp://kafka:9092"}, "'kafka' are not built"),
    ],
)
async def test_what_is_not_served_is_kept_as_misconfigured_and_says_why(
    rig: Rig, change: dict[str, Any], detail: str
) -> None:
    await connect(rig, {**amqp_document(), **change})
    status = await curl(f"{rig.url}/c1/status", user=DEVOPS)
    assert status.json["liveStatus"] == "misconfigured"
    assert detail in status.json["clientStatus"][0]["statusDetails"]
    assert await rig.upload(modify(1)) is not None
    dry = await curl(
        "-X",
        "POST",
        f"{rig.url}?dry-run=true",
        *json_body({**amqp_document(), **change}),
        user=DEVOPS,
    )
    assert dry.status == 400


async def test_the_older_way_of_management_works_as_in_the_public_tour(rig: Rig) -> None:
    url = f"{rig.ditto.url}/devops/piggyback/connectivity"

    async def piggyback(**command: Any) -> Any:
        body = {
            "targetActorSelection": "/system/sharding/connection",
            "headers": {"aggregate": False},
            "piggybackCommand": command,
        }
        return await curl("-X", "POST", url, *json_body(body), user=DEVOPS)

    document = {**amqp_document(), "id": "hono-amqp-connection-for-my-tenant"}
    made = await piggyback(type="connectivity.commands:createConnection", connection=document)
    assert (made.status, made.json["type"]) == (201, "connectivity.responses:createConnection")
    assert await rig.upload(modify(45)) is None
    again = await piggyback(type="connectivity.commands:createConnection", connection=document)
    assert (again.status, again.error) == (409, "connectivity:connection.conflict")
    status = await piggyback(
        type="connectivity.commands:retrieveConnectionStatus", connectionId=document["id"]
    )
    assert status.json["liveStatus"] == "open"
    unknown = await piggyback(type="connectivity.commands:fly")
    assert unknown.status == 501


async def test_connections_are_there_after_a_restart(rig: Rig) -> None:
    await connect(rig, hono_document())
    again = Connections(
        ConnectionStore(rig.ditto.database),
        rig.ditto.things,
        rig.ditto.policies,
        rig.routing,
        Messaging(MemoryEvents(), rig.ditto.metrics),
        Northbound(Endpoints(), {}),
        rig.ditto.metrics,
    )
    async with running(again):
        assert again.get("c1")["id"] == "c1"
        assert again.status("c1")["liveStatus"] == "open"


def test_the_demos_connections_are_documents_that_work() -> None:
    from gateway.connectivity.mappers.engines import configured
    from gateway.connectivity.model import Connection

    for document in (demo.default_connection(), demo.c2e_connection()):
        assert configured(Connection.parse(document, "demo"))


async def test_the_demos_default_tenant_maps_short_device_ids(rig: Rig) -> None:
    await demo._put_policy(rig.ditto.policies, demo.POLICY_ID, demo.policy(demo.DEFAULT_TENANT))
    document = {**demo.thing(), "policyId": demo.POLICY_ID}
    await demo._put_thing(rig.ditto.things, demo.THING_ID, document)
    await connect(rig, demo.default_connection())
    sent: dict[str, Any] = {"device": "4711", "tenant": "DEFAULT_TENANT"}
    assert await rig.upload({"temp": 20, "hum": 61}, **sent) is None
    assert await rig.thing("/features", demo.THING_ID) == {
        "temperature": {"properties": {"value": 20}},
        "humidity": {"properties": {"value": 61}},
    }
    protocol = {
        "topic": "org.acme/4711/things/twin/commands/modify",
        "path": "/attributes/location",
        "value": "Berlin",
    }
    assert await rig.upload(protocol, **sent) is None
    assert await rig.thing("/attributes/location", demo.THING_ID) == "Berlin"
    url = f"{rig.ditto.api}/things/{demo.THING_ID}/inbox/messages/hello?timeout=0"
    assert (await curl("-X", "POST", url, "-d", "hi")).status == 202
    (command,) = rig.routing.commands
    assert (command.tenant, command.device) == ("DEFAULT_TENANT", "4711")
    assert await rig.failures("c1") == []


async def test_one_json_value_is_merged_at_its_own_place(rig: Rig) -> None:
    document = hono_document(payloadMapping=["mine"])
    fields = {"/features/light/properties/on": "$['is on']"}
    document["mappingDefinitions"] = {
        "mine": {"mappingEngine": "JsonPath", "options": {"fields": fields}}
    }
    await connect(rig, document)
    assert await rig.upload({"is on": True}) is None
    assert await rig.thing("/features/light") == {"properties": {"on": True}}
    assert await rig.upload({"is on": True}, device="org.acme:nobody") is None
    assert any("things:thing.notfound" in text for text in await rig.failures("c1"))


async def test_connections_have_entity_tags_that_changes_can_ask_for(rig: Rig) -> None:
    await connect(rig, hono_document())
    url = f"{rig.url}/c1"
    first = (await curl(url, user=DEVOPS)).headers["etag"]
    assert first == '"rev:1"'
    known = await curl("-H", f"If-None-Match: {first}", url, user=DEVOPS)
    assert (known.status, known.body) == (304, "")
    changed = await put(url, hono_document(), "-H", f"If-Match: {first}", user=DEVOPS)
    assert (changed.status, changed.headers["etag"]) == (204, '"rev:2"')
    for verb in (["-X", "DELETE"], ["-X", "PUT", *json_body(hono_document())]):
        late = await curl(*verb, "-H", f"If-Match: {first}", url, user=DEVOPS)
        assert (late.status, late.error) == (412, "connectivity:precondition.failed")


@pytest.mark.parametrize(
    ("args", "status", "code"),
    [
        (json_body({}), 400, "connectivity:connection.configuration.invalid"),
        (json_body([]), 400, "connectivity:connection.configuration.invalid"),
        (json_body({}, "text/plain"), 415, "mediatype.unsupported"),
        (["-H", "Content-Type: application/json", "-d", "{"], 400, "json.invalid"),
    ],
)
async def test_what_is_no_connection_makes_none(
    rig: Rig, args: list[str], status: int, code: str
) -> None:
    refused = await curl("-X", "PUT", f"{rig.url}/nobody", *args, user=DEVOPS)
    assert (refused.status, refused.error) == (status, code)
    assert (await curl(f"{rig.url}/nobody", user=DEVOPS)).status == 404


async def test_put_makes_a_connection_under_the_id_of_its_path(rig: Rig) -> None:
    url = f"{rig.url}/mine"
    refused = await put(url, hono_document(), "-H", "If-Match: *", user=DEVOPS)
    assert (refused.status, refused.error) == (412, "connectivity:precondition.failed")
    made = await put(url, hono_document(), "-H", "If-None-Match: *", user=DEVOPS)
    assert (made.status, made.json["id"], made.headers["etag"]) == (201, "mine", '"rev:1"')
    assert made.headers["location"].endswith("/api/2/connections/mine")
    again = await put(url, hono_document(), "-H", "If-None-Match: *", user=DEVOPS)
    assert again.status == 412
