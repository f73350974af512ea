"""Connections: queries of many things, searches, streams, announcements, answers that go another way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.connectivity import hub
from gateway.connectivity.store import ConnectionStore
from gateway.ditto.announcements import SubjectDeletion
from gateway.errors import NoConsumer
from gateway.model.message import Command
from gateway.runtime.module import running
from tests.ditto_rig import a_websocket, curl, put
from tests.hono_rig import until
from tests.integration.test_connectivity import (
    DEVOPS,
    SUBJECT,
    TENANT,
    THING,
    Rig,
    a_rig,
    connect,
    hono_document,
    modify,
)

SEARCH = "_/_/things/twin/search"
STREAM = "org.acme/my-device-1/things/twin/streaming"
POLICY = "org.acme/my-policy/policies"
REPLY = {
    "enabled": True,
    "address": "command",
    "headerMapping": {
        "device_id": "{{ header:device_id }}",
        "subject": "{{ topic:action-subject | fn:default(topic:criterion) }}",
    },
    "expectedResponseTypes": ["response", "error", "nack"],
}


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with a_rig() as made:
        yield made


def asking(**members: Any) -> dict[str, Any]:
    """A connection whose devices may ask anything and get answers as commands."""
    document = hono_document(
        enforcement=None,
        headerMapping={"device_id": "{{ header:device_id }}"},
        replyTarget=REPLY,
    )
    return {**document, "targets": [], **members}


def with_announcements(kind: str, **target: Any) -> dict[str, Any]:
    one = {
        "address": "command",
        "authorizationContext": [SUBJECT, "nginx:guest"],
        "topics": [kind],
        "headerMapping": {"device_id": "d1", "subject": "told"},
        **target,
    }
    return {**hono_document(), "targets": [one]}


def content(command: Command) -> Any:
    return json.loads(command.payload)


async def answers(rig: Rig, count: int) -> list[Any]:
    """The next answers that a device got."""
    await until(lambda: len(rig.routing.commands) >= count)
    got = [content(command) for command in rig.routing.commands[:count]]
    del rig.routing.commands[:count]
    return got


async def ask(rig: Rig, topic: str, value: Any = None, path: str = "/", **more: Any) -> None:
    envelope = {"topic": topic, "path": path, "headers": {"correlation-id": "c-1"}, **more}
    if value is not None:
        envelope["value"] = value
    assert await rig.upload(envelope) is None


# --- queries -----------------------------------------------------------------------------------


async def test_several_things_are_retrieved_at_once(rig: Rig) -> None:
    await connect(rig, asking())
    ids = {"thingIds": [THING, "org.acme:nobody"]}
    await ask(rig, "_/_/things/twin/commands/retrieve", ids, fields="thingId,attributes")
    (answer,) = await answers(rig, 1)
    assert (answer["topic"], answer["status"]) == ("_/_/things/twin/commands/retrieve", 200)
    assert answer["value"] == [{"thingId": THING, "attributes": {"location": "Germany"}}]
    assert answer["headers"]["correlation-id"] == "c-1"
    await ask(rig, "_/_/things/twin/commands/retrieve", ids, fields="((")
    (refused,) = await answers(rig, 1)
    assert refused["value"]["error"] == "json.fieldselector.invalid"


async def test_a_query_is_answered_though_no_response_is_required(rig: Rig) -> None:
    await connect(rig, asking())
    quiet = {"correlation-id": "c", "response-required": False}
    topic = "org.acme/my-device-1/things/twin/commands/retrieve"
    await ask(rig, topic, path="/attributes/location", headers=quiet)
    (answer,) = await answers(rig, 1)
    assert answer["value"] == "Germany"


async def test_permissions_are_asked_for(rig: Rig) -> None:
    await connect(rig, asking())
    topic = "_/_/policies/commands/checkPermissions"
    question = {"resource": "thing:/", "entityId": THING, "hasPermissions": ["WRITE"]}
    await ask(rig, topic, {"a": question, "b": {**question, "entityId": "org.acme:nobody"}})
    (answer,) = await answers(rig, 1)
    assert (answer["topic"], answer["status"]) == (topic, 200)
    assert answer["value"] == {"a": True, "b": False}
    await ask(rig, topic, {"a": 5})
    (refused,) = await answers(rig, 1)
    assert refused["value"]["error"] == "json.invalid"


async def test_things_are_searched_by_demand(rig: Rig) -> None:
    for name in ("a", "b"):
        thing = {"policyId": "org.acme:my-policy", "attributes": {"kind": "lamp"}}
        assert (await put(f"{rig.ditto.api}/things/org.acme:{name}", thing)).status == 201
    await connect(rig, asking())
    query = {"filter": "eq(attributes/kind,'lamp')", "options": "size(1)"}
    await ask(rig, f"{SEARCH}/subscribe", query, fields="thingId")
    (created,) = await answers(rig, 1)
    assert created["topic"] == f"{SEARCH}/created"
    search = created["value"]["subscriptionId"]
    await ask(rig, f"{SEARCH}/request", {"subscriptionId": search, "demand": 5})
    pages = await answers(rig, 3)
    assert [page["topic"].rpartition("/")[2] for page in pages] == ["next", "next", "complete"]
    assert [page["value"].get("items") for page in pages[:2]] == [
        [{"thingId": "org.acme:a"}],
        [{"thingId": "org.acme:b"}],
    ]
    await ask(rig, f"{SEARCH}/cancel", {"subscriptionId": search})
    (gone,) = await answers(rig, 1)
    assert gone["value"]["error"]["error"] == "thing-search:subscription.not.found"
    assert gone["topic"] == f"{SEARCH}/failed"


async def test_past_events_of_things_and_policies_are_streamed(rig: Rig) -> None:
    await connect(rig, asking())
    await ask(rig, f"{STREAM}/subscribeForPersistedEvents", {"fromHistoricalRevision": 1})
    (created,) = await answers(rig, 1)
    stream = created["value"]["subscriptionId"]
    await ask(rig, f"{STREAM}/request", {"subscriptionId": stream, "demand": 9})
    first, done = await answers(rig, 2)
    assert first["value"]["item"]["topic"].endswith("things/twin/events/created")
    assert done["topic"] == f"{STREAM}/complete"
    await ask(rig, f"{POLICY}/streaming/subscribeForPersistedEvents", {})
    (created,) = await answers(rig, 1)
    assert created["topic"] == f"{POLICY}/streaming/created"
    await ask(rig, "org.acme/none/things/twin/streaming/subscribeForPersistedEvents", {})
    (refused,) = await answers(rig, 1)
    assert refused["value"]["error"] == "things:thing.notfound"


async def test_a_policy_is_read_as_it_was(rig: Rig) -> None:
    await connect(rig, asking())
    headers = {"correlation-id": "c", "at-historical-revision": 1}
    await ask(rig, f"{POLICY}/commands/retrieve", headers=headers)
    (answer,) = await answers(rig, 1)
    assert (answer["status"], answer["value"]["policyId"]) == (200, "org.acme:my-policy")


async def test_a_closed_connection_forgets_its_searches(rig: Rig) -> None:
    await connect(rig, asking())
    await ask(rig, f"{SEARCH}/subscribe", {})
    (created,) = await answers(rig, 1)
    await connect(rig, asking(name="again"))
    search = {"subscriptionId": created["value"]["subscriptionId"], "demand": 1}
    await ask(rig, f"{SEARCH}/request", search)
    (gone,) = await answers(rig, 1)
    assert gone["value"]["error"]["error"] == "thing-search:subscription.not.found"


async def test_events_of_the_twin_are_not_taken_from_devices(rig: Rig) -> None:
    await connect(rig, asking())
    await ask(rig, "org.acme/my-device-1/things/twin/events/modified", 5, path="/attributes/x")
    (refused,) = await answers(rig, 1)
    assert refused["value"]["error"] == "protocoladapter:unknown.signal"


async def test_a_claim_needs_no_permission_to_send_and_its_answer_goes_back(rig: Rig) -> None:
    await connect(rig, asking())
    async with a_websocket(rig.ditto) as owner:
        await owner.control("START-SEND-MESSAGES")
        topic = "org.acme/my-device-1/things/live/messages/claim"
        uploading = asyncio.create_task(
            rig.upload(
                {
                    "topic": topic,
                    "path": "/inbox/messages/claim",
                    "headers": {"correlation-id": "c-9", "content-type": "text/plain"},
                    "value": "secret",
                }
            )
        )
        heard = await owner.envelope()
        assert heard["value"] == "secret"
        await owner.socket.send_json(
            {
                "topic": topic,
                "path": heard["path"],
                "headers": {"correlation-id": heard["headers"]["correlation-id"]},
                "status": 204,
            }
        )
        assert await uploading is None
    (answer,) = await answers(rig, 1)
    assert (answer["topic"], answer["status"]) == (topic, 204)


# --- announcements -----------------------------------------------------------------------------


def a_deletion(policy: str = "org.acme:my-policy", **members: Any) -> SubjectDeletion:
    return SubjectDeletion(
        policy_id=policy,
        subject="nginx:guest",
        delete_at="2030-01-01T00:00:00Z",
        timestamp="2029-01-01T00:00:00Z",
        **members,
    )


async def test_policies_announce_to_targets_of_their_subjects_and_namespaces(rig: Rig) -> None:
    kind = "_/_/policies/announcements?namespaces=org.acme"
    target = {"headerMapping": {"device_id": "d1", "subject": "{{ policy:id }}"}}
    await connect(rig, with_announcements(kind, **target))
    told: list[bool] = []
    publish = rig.ditto.policies.announcements.publish
    publish(a_deletion("org.other:policy"), told.append)
    publish(a_deletion(), told.append)
    assert told == [True, True]
    (command,) = rig.routing.commands
    assert command.name == "org.acme:my-policy"
    assert content(command)["topic"] == f"{POLICY}/announcements/subjectDeletion"
    assert content(command)["value"]["subjectIds"] == ["nginx:guest"]
    await connect(rig, {**with_announcements(kind), "connectionStatus": "closed"})
    publish(a_deletion(), told.append)
    assert len(rig.routing.commands) == 1


async def test_publishing_acknowledges_an_announcement(rig: Rig) -> None:
    label = "c1:told"
    kind = "_/_/policies/announcements"
    await connect(rig, with_announcements(kind, issuedAcknowledgementLabel=label))
    told: list[bool] = []
    asks = a_deletion(labels=(label,), ack_seconds=30.0)
    rig.ditto.policies.announcements.publish(asks, told.append)
    rig.routing.verdict = NoConsumer()
    rig.ditto.policies.announcements.publish(asks, told.append)
    assert told == [True, False]
    assert rig.ditto.policies.announcements.outstanding == 0


async def test_a_device_acknowledges_an_announcement(rig: Rig) -> None:
    document = with_announcements("_/_/policies/announcements")
    document["sources"][0] |= {"declaredAcks": ["c1:told"], "enforcement": None}
    await connect(rig, document)
    told: list[bool] = []
    asks = a_deletion(labels=("c1:told",), ack_seconds=30.0)
    rig.ditto.policies.announcements.publish(asks, told.append)
    (announced,) = await answers(rig, 1)
    assert announced["headers"]["requested-acks"] == ["c1:told"]
    ack = {
        "topic": f"{POLICY}/acks/c1:told",
        "path": "/",
        "headers": {"correlation-id": announced["headers"]["correlation-id"]},
        "status": 200,
    }
    foreign = {**ack, "topic": f"{POLICY}/acks/other:ack"}
    assert await rig.upload(foreign) is None
    assert told == []
    assert await rig.upload(ack) is None
    assert told == [True]
    assert any("not declared" in text for text in await rig.failures("c1"))


async def test_a_connection_announces_that_it_was_opened_and_closed(rig: Rig) -> None:
    document = with_announcements("_/_/connections/announcements")
    await connect(rig, document)
    (opened,) = await answers(rig, 1)
    assert opened["topic"] == "_/c1/connections/announcements/opened"
    assert opened["value"].keys() == {"openedAt"}
    await connect(rig, {**document, "connectionStatus": "closed"})
    (closed,) = await answers(rig, 1)
    assert closed["topic"] == "_/c1/connections/announcements/closed"
    assert closed["value"].keys() == {"closedAt"}
    log = await curl(f"{rig.url}/c1/logs", user=DEVOPS)
    types = {entry.get("entityType") for entry in log.json["connectionLogs"]}
    assert "connection" in types


# --- diversion ---------------------------------------------------------------------------------


def diverting(to: str = "c2", kinds: str = "", **own: str) -> dict[str, Any]:
    headers = {"device_id": "{{ header:device_id }}", "divert-response-to-connection": to}
    if kinds:
        headers["divert-expected-response-types"] = kinds
    document = hono_document(headerMapping=headers, replyTarget=REPLY)
    config = {"honoTenantId": TENANT, "is-diversion-source": "true", **own}
    return {**document, "targets": [], "specificConfig": config}


def receiving(**own: str) -> dict[str, Any]:
    config = {
        "honoTenantId": "elsewhere",
        "is-diversion-target": "true",
        "authorized-connections-as-sources": "c0, c1",
        **own,
    }
    target = {
        "address": "command",
        "authorizationContext": [SUBJECT],
        "topics": [],
        "headerMapping": {
            "device_id": "{{ thing:id }}",
            "subject": "{{ header:diverted-response-from-connection }}",
        },
    }
    return {"connectionType": "hono", "specificConfig": config, "sources": [], "targets": [target]}


async def test_an_answer_goes_by_way_of_another_connection(rig: Rig) -> None:
    await connect(rig, receiving(), "c2")
    await connect(rig, diverting())
    async with a_websocket(rig.ditto) as app:
        await app.control("START-SEND-EVENTS")
        assert await rig.upload(modify(4)) is None
        event = await app.envelope()
    assert not any(name.startswith("divert") for name in event["headers"])
    (command,) = rig.routing.commands
    assert (command.tenant, command.device, command.name) == ("elsewhere", THING, "c1")
    assert content(command)["status"] == 204
    assert content(command)["headers"]["diverted-response-from-connection"] == "c1"


@pytest.mark.parametrize(
    ("kinds", "value", "tenant"),
    [
        ("", modify(4), "elsewhere"),
        ("response", modify(4), "elsewhere"),
        ("error", modify(4), TENANT),
        ("error, nack", modify(4, "/attributes/a//b"), "elsewhere"),
        ("response", modify(4, "/attributes/a//b"), TENANT),
    ],
)
async def test_which_answers_are_diverted_depends_on_their_kind(
    rig: Rig, kinds: str, value: dict[str, Any], tenant: str
) -> None:
    await connect(rig, receiving(), "c2")
    await connect(rig, diverting(kinds=kinds))
    assert await rig.upload(value) is None
    assert [command.tenant for command in rig.routing.commands] == [tenant]


async def test_the_usual_answer_can_be_kept(rig: Rig) -> None:
    await connect(rig, receiving(), "c2")
    await connect(rig, diverting(**{"preserve-normal-response-via-source": "true"}))
    assert await rig.upload(modify(4)) is None
    assert [command.tenant for command in rig.routing.commands] == ["elsewhere", TENANT]


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (None, "is not open"),
        (receiving(**{"authorized-connections-as-sources": "c7"}), "takes no answers of 'c1'"),
        ({**receiving(), "connectionStatus": "closed"}, "is not open"),
        ({**hono_document(), "specificConfig": {"honoTenantId": "x"}}, "takes no answers"),
    ],
)
async def test_an_answer_that_cannot_be_diverted_is_dropped_and_noted(
    rig: Rig, target: dict[str, Any] | None, reason: str
) -> None:
    if target is not None:
        await connect(rig, target, "c2")
    await connect(rig, diverting())
    assert await rig.upload(modify(4)) is None
    assert rig.routing.commands == []
    assert any(reason in failure for failure in await rig.failures("c1"))


async def test_the_second_source_answers_by_the_second_target(rig: Rig) -> None:
    await connect(rig, receiving(), "c2")
    document = diverting()
    (first, _) = document["sources"]
    document["sources"] = [{**first, "addresses": ["event"]}, {**first, "addresses": ["telemetry"]}]
    await connect(rig, document)
    assert await rig.upload(modify(4)) is None
    assert rig.routing.commands == []
    assert any("no target" in failure for failure in await rig.failures("c1"))


async def test_without_the_switch_nothing_is_diverted(rig: Rig) -> None:
    await connect(rig, receiving(), "c2")
    await connect(rig, diverting(**{"is-diversion-source": "false"}))
    assert await rig.upload(modify(4)) is None
    assert [command.tenant for command in rig.routing.commands] == [TENANT]


async def test_only_targets_of_diversions_may_be_without_topics(rig: Rig) -> None:
    document = receiving(**{"is-diversion-target": "false"})
    refused = await curl(
        "-X",
        "POST",
        rig.url,
        "-H",
        "Content-Type: application/json",
        "-d",
        json.dumps(document),
        user=DEVOPS,
    )
    assert (refused.status, refused.error) == (400, "connectivity:connection.configuration.invalid")


# --- life --------------------------------------------------------------------------------------


async def test_a_connection_opens_by_itself_when_its_label_is_given_up(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "RETRY_FIRST", 0.01)
    async with a_websocket(rig.ditto, query="?declared-acks=c1:mine"):
        await connect(rig, hono_document(declaredAcks=["c1:mine"]))
        status = rig.connections.status("c1")
        assert (status["liveStatus"], status["recoveryStatus"]) == ("misconfigured", "ongoing")
        stubborn = {**hono_document(declaredAcks=["c1:mine"]), "failoverEnabled": False}
        await connect(rig, {**stubborn, "name": "n"}, "c1")
        assert rig.connections.status("c1")["recoveryStatus"] == "unknown"
        await connect(rig, hono_document(declaredAcks=["c1:mine"]))
    await until(lambda: rig.connections.status("c1")["liveStatus"] == "open")
    assert rig.connections.status("c1")["recoveryStatus"] == "succeeded"


async def test_more_than_one_client_is_not_pretended(rig: Rig) -> None:
    await connect(rig, {**hono_document(), "clientCount": 3})
    log = await curl(f"{rig.url}/c1/logs", user=DEVOPS)
    assert any("by one client" in entry["message"] for entry in log.json["connectionLogs"])
    status = await curl(f"{rig.url}/c1/status", user=DEVOPS)
    assert len(status.json["clientStatus"]) == 1


async def test_a_stored_connection_that_cannot_be_read_stays_and_can_be_mended(rig: Rig) -> None:
    store = ConnectionStore(rig.ditto.database)
    document = with_announcements("_/_/things/twin/events", address="{{ source:address }}")
    await store.put("old", {**document, "id": "old", "connectionStatus": "open"})
    rooms = rig.connections._rooms
    again = hub.Connections(
        store,
        rooms.things,
        rooms.policies,
        rooms.routing,
        rooms.taps,
        rig.connections._northbound,
        rooms.metrics,
    )
    async with running(again):
        status = again.status("old")
        assert status["liveStatus"] == "misconfigured"
        assert again.get("old")["id"] == "old"
        mended = with_announcements("_/_/things/twin/events")
        await again.put(mended, "old")
        assert again.status("old")["liveStatus"] == "open"


async def test_what_a_device_answers_to_a_live_query_is_merged_into_its_twin(rig: Rig) -> None:
    document = hono_document()
    document["sources"][1]["payloadMapping"] = ["Ditto", "UpdateTwinWithLiveResponse"]
    document["targets"][0]["topics"] = ["_/_/things/live/commands"]
    await connect(rig, document)
    url = f"{rig.ditto.api}/things/{THING}/features/temperature?channel=live&timeout=10"
    reading = asyncio.create_task(curl(url))
    await until(lambda: bool(rig.routing.commands))
    (command,) = rig.routing.commands
    asked = content(command)
    answer = {
        "topic": asked["topic"],
        "path": asked["path"],
        "headers": {"correlation-id": asked["headers"]["correlation-id"]},
        "status": 200,
        "value": {"properties": {"value": 23.5}},
    }
    rig.routing.answer(command, 200, json.dumps(answer).encode(), "application/json")
    assert (await reading).json == {"properties": {"value": 23.5}}
    assert await rig.thing("/features/temperature/properties/value") == 23.5
