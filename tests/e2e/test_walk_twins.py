"""Twins: payloads that change them, applications that read, write and follow them, messages to devices."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import aiohttp
import bcrypt
import pytest
from proton import Message

from tests.process import eventually, tool, twinspan
from tests.walk import DEMO_DEVICE, DITTO_USER, Answer, Lines, Walk, curl, in_thread, lines_of

pytestmark = pytest.mark.e2e

THING = "org.acme:4711"
TWIN = "org.acme/4711/things/twin/commands"
READER = "alice:alice-secret"
READER_SEES = "/attributes/public"


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    folder = tmp_path_factory.mktemp("twins")
    name, _, password = READER.partition(":")
    hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()
    (folder / "users").write_text(f"{name}:{hashed}\n")
    sets = (f"ditto.http.users_file={folder}/users",)
    with twinspan(folder / "data", "gateway", "--demo", sets=sets) as running:
        yield Walk(running)


# --- payloads change things


def value_of(walk: Walk, feature: str) -> Any:
    return walk.thing(THING, f"/features/{feature}/properties/value")


@pytest.mark.parametrize("door", ["http", "mqtt", "event"])
def test_a_payload_in_ditto_protocol_changes_the_thing_before_the_device_is_answered(
    walk: Walk, door: str
) -> None:
    number = {"http": 31, "mqtt": 32, "event": 33}[door]
    payload = {
        "topic": f"{TWIN}/modify",
        "headers": {},
        "path": "/features/temperature/properties/value",
        "value": number,
    }
    if door == "mqtt":
        walk.publish(DEMO_DEVICE, "telemetry", payload, "-q", "1")
    else:
        options = ("-H", "qos-level: 1") if door == "http" else ()
        path = "telemetry" if door == "http" else "event"
        assert walk.upload(DEMO_DEVICE, path, payload, *options).status == 202
    if door == "event":
        eventually(lambda: value_of(walk, "temperature") == number)
    assert value_of(walk, "temperature") == number


def test_plain_json_changes_the_thing_through_the_connections_mapper(walk: Walk) -> None:
    sent = walk.upload(DEMO_DEVICE, "telemetry", {"temp": 11.5, "hum": 71}, "-H", "qos-level: 1")
    assert sent.status == 202
    assert (value_of(walk, "temperature"), value_of(walk, "humidity")) == (11.5, 71)
    before = walk.thing(THING, "?fields=_revision")
    answer = walk.upload(DEMO_DEVICE, "telemetry", {"other": 1}, "-H", "qos-level: 1")
    assert answer.status == 202
    assert walk.thing(THING, "?fields=_revision") == before


def test_a_device_cannot_speak_for_another_thing(walk: Walk) -> None:
    assert walk.ditto("PUT", "things/org.acme:other", data={"attributes": {"a": 1}}).status == 201
    payload = {
        "topic": "org.acme/other/things/twin/commands/modify",
        "headers": {},
        "path": "/attributes/a",
        "value": 2,
    }
    sent = walk.upload(DEMO_DEVICE, "telemetry", payload, "-H", "qos-level: 1")
    assert sent.status == 202
    assert walk.thing("org.acme:other", "/attributes/a") == 1


# --- applications read and write


def test_fields_choose_what_of_a_thing_is_answered(walk: Walk) -> None:
    thing = walk.thing(THING, "?fields=thingId,attributes/location,_policy/policyId,_revision")
    assert thing["thingId"] == THING
    assert set(thing) <= {"thingId", "attributes", "_policy", "_revision"}
    assert "features" not in thing


def test_a_thing_is_made_changed_patched_and_deleted_under_its_policy(walk: Walk) -> None:
    name = "org.acme:crud"
    put = walk.ditto("PUT", f"things/{name}", data={"attributes": {"a": 1, "b": {"c": 2}}})
    assert (put.status, put.json["thingId"], put.json["policyId"]) == (201, name, name)
    assert walk.thing(name, "?fields=_revision") == {"_revision": 1}
    assert walk.ditto("PUT", f"things/{name}/attributes/a", data=5).status == 204
    merged = walk.ditto(
        "PATCH",
        f"things/{name}",
        data={"attributes": {"b": {"c": None, "d": [1]}, "e": "x"}},
        content_type="application/merge-patch+json",
    )
    assert merged.status == 204
    operations = [
        {"op": "test", "path": "/attributes/a", "value": 5},
        {"op": "add", "path": "/attributes/b/d/-", "value": 2},
        {"op": "move", "from": "/attributes/e", "path": "/attributes/f"},
    ]
    patched = walk.ditto(
        "PATCH",
        f"things/{name}",
        data=operations,
        content_type="application/json-patch+json",
    )
    assert patched.status == 204, patched
    assert walk.thing(name, "/attributes") == {"a": 5, "b": {"d": [1, 2]}, "f": "x"}
    failed = walk.ditto(
        "PATCH", f"things/{name}", data=operations, content_type="application/json-patch+json"
    )
    assert failed.status in (400, 409, 412), failed
    assert walk.thing(name, "?fields=_revision")["_revision"] == 4
    policy = walk.ditto("GET", f"policies/{name}")
    assert "nginx:ditto" in policy.body
    assert walk.ditto("DELETE", f"things/{name}").status == 204
    assert walk.ditto("GET", f"things/{name}").status == 404


@pytest.fixture(scope="module")
def shared_thing(walk: Walk) -> str:
    """A thing of which the second user reads one attribute, and another one whole but read-only."""
    name = "org.acme:shared"
    full = {"grant": ["READ", "WRITE"], "revoke": []}
    policy = {
        "entries": {
            "owner": {
                "subjects": {"nginx:ditto": {"type": "x"}},
                "resources": {"thing:/": full, "policy:/": full, "message:/": full},
            },
            "reader": {
                "subjects": {"nginx:alice": {"type": "x"}},
                "resources": {f"thing:{READER_SEES}": {"grant": ["READ"], "revoke": []}},
            },
        }
    }
    assert walk.ditto("PUT", f"policies/{name}", data=policy).status == 201
    attributes = {"public": 0, "secret": 0}
    made = walk.ditto("PUT", f"things/{name}", data={"policyId": name, "attributes": attributes})
    assert made.status == 201
    return name


def test_errors_come_in_dittos_form(walk: Walk, shared_thing: str) -> None:
    thing = f"things/{shared_thing}"
    url = walk.running.url("ditto.http", f"/api/2/{thing}")
    answers: list[tuple[int, str, Answer]] = [
        (401, "gateway:authentication.failed", curl("GET", url)),
        (401, "gateway:authentication.failed", curl("GET", url, user="ditto:wrong")),
        (401, "gateway:authentication.failed", curl("GET", url, user="nobody:x")),
        (
            403,
            "things:attribute.notmodifiable",
            walk.ditto("PUT", f"{thing}{READER_SEES}", user=READER, data=1),
        ),
        (
            404,
            "things:attribute.notfound",
            walk.ditto("GET", f"{thing}/attributes/secret", user=READER),
        ),
        (404, "things:thing.notfound", walk.ditto("GET", f"things/{THING}", user=READER)),
        (404, "things:thing.notfound", walk.ditto("GET", "things/org.acme:missing")),
        (400, "things:id.invalid", walk.ditto("PUT", "things/no-namespace", data={})),
        (400, "json.invalid", walk.ditto("PUT", f"{thing}/attributes/x", data='{"a": ')),
        (
            412,
            "things:precondition.failed",
            walk.ditto("PUT", f"{thing}/attributes/x", "-H", 'If-Match: "rev:999"', data=1),
        ),
        (
            412,
            "things:precondition.failed",
            walk.ditto("PUT", thing, "-H", "If-None-Match: *", data={}),
        ),
        (
            415,
            "mediatype.unsupported",
            walk.ditto("PUT", f"{thing}/attributes/x", data="x", content_type="text/plain"),
        ),
        (413, "", walk.ditto("PUT", f"{thing}/attributes/x", data={"y": "z" * 110_000})),
    ]
    for status, code, answer in answers:
        assert answer.status == status, answer
        body = answer.json
        assert body["status"] == status
        assert body["error"] == code or not code, body
        assert isinstance(body["message"], str)
        assert answer.headers["content-type"].startswith("application/json")
    assert walk.thing(shared_thing, "/attributes") == {"public": 0, "secret": 0}


def test_what_a_reader_may_not_see_is_left_out(walk: Walk, shared_thing: str) -> None:
    seen = walk.ditto("GET", f"things/{shared_thing}", user=READER)
    assert seen.status == 200
    assert set(seen.json["attributes"]) == {"public"}


# --- applications follow


@contextmanager
def following(walk: Walk, thing: str, user: str = DITTO_USER) -> Iterator[Lines]:
    """`curl -N` on the event stream of a thing, once the stream stands."""
    url = walk.running.url("ditto.http", f"/api/2/things?ids={thing}&fields=attributes,_revision")
    command = (tool("curl"), "-sS", "-N", "-i", "-u", user, "-H", "Accept: text/event-stream", url)
    with lines_of(*command) as lines:
        lines.until("text/event-stream")
        yield lines


def data_of(lines: Lines) -> list[Any]:
    found = (line.removeprefix("data:") for line in lines.all() if line.startswith("data:"))
    return [json.loads(text) for text in found if text.strip()]


@asynccontextmanager
async def websocket(walk: Walk, user: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """A Ditto WebSocket that follows twin events."""
    basic = {"Authorization": f"Basic {base64.b64encode(user.encode()).decode()}"}
    url = walk.running.url("ditto.http", "/ws/2")
    async with aiohttp.ClientSession(headers=basic) as session, session.ws_connect(url) as socket:
        await socket.send_str("START-SEND-EVENTS")
        assert await socket.receive_str(timeout=10) == "START-SEND-EVENTS:ACK"
        yield socket


async def events(socket: aiohttp.ClientWebSocketResponse, count: int, name: str) -> list[Any]:
    found: list[Any] = []
    while len(found) < count:
        event = json.loads(await socket.receive_str(timeout=10))
        if event["topic"].startswith(f"org.acme/{name}/"):
            found.append(event)
    return found


async def test_followers_see_each_change_in_order_and_only_what_their_policy_shows(
    walk: Walk, shared_thing: str
) -> None:
    changes = 20
    first = walk.thing(shared_thing, "?fields=_revision")["_revision"]
    with following(walk, shared_thing) as stream, following(walk, shared_thing, READER) as narrow:
        async with websocket(walk, DITTO_USER) as owner, websocket(walk, READER) as reader:
            for number in range(1, changes + 1):
                where = "public" if number % 2 else "secret"
                answer = await in_thread(
                    walk.ditto, "PUT", f"things/{shared_thing}/attributes/{where}", data=number
                )
                assert answer.status == 204
            whole = await events(owner, changes, "shared")
            part = await events(reader, changes // 2, "shared")
        assert [event["value"] for event in whole] == list(range(1, changes + 1))
        assert [event["revision"] for event in whole] == [first + n for n in range(1, changes + 1)]
        assert {event["topic"] for event in whole} == {
            "org.acme/shared/things/twin/events/modified"
        }
        assert [(event["path"], event["value"]) for event in part] == [
            (READER_SEES, number) for number in range(1, changes + 1, 2)
        ]
        await in_thread(eventually, lambda: len(data_of(stream)) >= changes)
        await in_thread(eventually, lambda: len(data_of(narrow)) >= changes // 2)
        assert [part["_revision"] for part in data_of(stream)] == [
            first + n for n in range(1, changes + 1)
        ]
        assert [part["attributes"] for part in data_of(narrow)] == [
            {"public": number} for number in range(1, changes + 1, 2)
        ]


async def test_a_websocket_takes_commands_and_answers_errors_in_ditto_protocol(walk: Walk) -> None:
    async with websocket(walk, DITTO_USER) as socket:

        async def ask(action: str, path: str, value: Any = None) -> Any:
            sent = {"topic": f"{TWIN}/{action}", "path": path, "value": value}
            await socket.send_json({**sent, "headers": {"correlation-id": f"{action}-{path}"}})
            while True:
                got = json.loads(await socket.receive_str(timeout=10))
                if got["headers"].get("correlation-id") == f"{action}-{path}" and "status" in got:
                    return got

        assert (await ask("modify", "/attributes/ws", 1))["status"] == 201
        assert (await ask("retrieve", "/attributes/ws"))["value"] == 1
        wrong = await ask("retrieve", "/attributes/nothing")
        assert (wrong["status"], wrong["value"]["error"]) == (404, "things:attribute.notfound")
        await socket.send_str("{broken")
        broken = json.loads(await socket.receive_str(timeout=10))
        assert broken["status"] == 400
        assert (await ask("delete", "/attributes/ws"))["status"] == 204


# --- messages and commands


def send_message(walk: Walk, subject: str, timeout: int, payload: Any) -> Answer:
    return walk.ditto(
        "POST", f"things/{THING}/inbox/messages/{subject}?timeout={timeout}", data=payload
    )


def test_a_message_reaches_an_mqtt_device_as_a_command(walk: Walk) -> None:
    with walk.subscribed(DEMO_DEVICE, "-t", "command///req/#", "-q", "1") as device:
        assert send_message(walk, "water", 0, {"amount": 3}).status == 202
        line = device.message("command///req//water")
        body = json.loads(line.partition(" ")[2])
        assert body["topic"] == "org.acme/4711/things/live/messages/water"
        assert body["value"] == {"amount": 3}


def answer_in_ditto_protocol(command: str, value: Any) -> str:
    """What a device sends back for a command in Ditto Protocol."""
    got = json.loads(command)
    correlation = {"correlation-id": got["headers"]["correlation-id"]}
    headers = {"content-type": "application/json", **correlation}
    return json.dumps({**got, "headers": headers, "value": value, "status": 200})


async def test_an_mqtt_devices_answer_reaches_the_waiting_caller(walk: Walk) -> None:
    with walk.subscribed(DEMO_DEVICE, "-t", "command///req/#", "-q", "1") as device:
        caller = asyncio.create_task(in_thread(send_message, walk, "water", 10, {"amount": 3}))
        line = await in_thread(device.message, "/water")
        topic, _, command = line.partition(" ")
        request = topic.split("/")[4]
        assert request
        content_type = "application%2Fvnd.eclipse.ditto%2Bjson"
        await in_thread(
            walk.publish,
            DEMO_DEVICE,
            f"command///res/{request}/200/?content-type={content_type}",
            answer_in_ditto_protocol(command, {"done": True}),
            "-q",
            "1",
        )
        answer = await caller
        assert (answer.status, answer.json) == (200, {"done": True})


async def test_an_http_device_gets_the_message_in_the_answer_to_its_upload(walk: Walk) -> None:
    async with walk.application() as app:
        app.receive_from(f"telemetry/{DEMO_DEVICE.tenant}")
        await app.expect("attached")
        device = asyncio.create_task(
            in_thread(walk.upload, DEMO_DEVICE, "telemetry", {"temp": 1}, "-H", "hono-ttd: 10")
        )
        assert (await app.expect("message", 10.0))[2].properties["ttd"] == 10
    caller = asyncio.create_task(in_thread(send_message, walk, "ping", 8, "?"))
    got = await device
    assert (got.status, got.headers["hono-command"]) == (200, "ping")
    sent = await in_thread(
        walk.upload,
        DEMO_DEVICE,
        f"command/res/{got.headers['hono-cmd-req-id']}",
        answer_in_ditto_protocol(got.body, "pong"),
        "-H",
        "hono-cmd-status: 200",
        content_type="application/vnd.eclipse.ditto+json",
    )
    assert sent.status == 202
    answer = await caller
    assert (answer.status, answer.json) == (200, "pong")


def test_a_message_to_a_device_that_is_away_is_answered_with_a_timeout(walk: Walk) -> None:
    answer = send_message(walk, "nobody", 1, "?")
    assert (answer.status, answer.json["status"]) == (408, 408)


async def test_an_application_commands_a_device_over_amqp_and_gets_its_answer(walk: Walk) -> None:
    tenant, reply = DEMO_DEVICE.tenant, f"command_response/{DEMO_DEVICE.tenant}/replies"
    with walk.subscribed(DEMO_DEVICE, "-t", "command///req/#", "-q", "1") as device:
        async with walk.application() as app:
            app.receive_from(reply)
            await app.expect("attached")
            command = Message(
                body=b"20",
                address=f"command/{tenant}/{DEMO_DEVICE.name}",
                subject="dim",
                reply_to=reply,
                correlation_id="c-1",
                content_type="text/plain",
            )
            app.send(f"command/{tenant}", command, tag="1")
            line = await in_thread(device.message, "/dim")
            topic, _, body = line.partition(" ")
            assert body == "20"
            assert (await app.expect("outcome"))[2] == "accepted"
            request = topic.split("/")[4]
            await in_thread(
                walk.publish, DEMO_DEVICE, f"command///res/{request}/200", "dimmed", "-q", "1"
            )
            message = (await app.expect("message", 10.0))[2]
            assert (message.body, message.correlation_id) == (b"dimmed", "c-1")
            assert message.properties["status"] == 200
            assert message.properties["device_id"] == DEMO_DEVICE.name
            app.send(
                f"command/{tenant}",
                Message(
                    body=b"1", address=f"command/{tenant}/{DEMO_DEVICE.name}", subject="oneway"
                ),
                tag="2",
            )
            oneway = await in_thread(device.message, "oneway")
            assert oneway.startswith("command///req//oneway")
            away = Message(body=b"1", address=f"command/{tenant}/4712", subject="x")
            app.send(f"command/{tenant}", away, tag="3")
            outcomes = [(await app.expect("outcome"))[1:3] for _ in range(2)]
            assert dict(outcomes) == {"2": "accepted", "3": "released"}
