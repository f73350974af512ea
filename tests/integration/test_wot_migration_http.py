"""Migrating definitions over HTTP and WebSocket, and what subscribers see of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.config.wot import Wot
from tests.ditto_rig import (
    Answer,
    Stack,
    a_ditto,
    a_websocket,
    an_event_stream,
    curl,
    json_body,
    put,
)
from tests.model_server import ModelServer, a_model_server
from tests.wot_lamps import BROKEN, FLOOR_1, FLOOR_2, LAMPS, LIGHT_2

LAMP = "org.acme:lamp"
FILL = "initializeMissingPropertiesFromDefaults"


@asynccontextmanager
async def a_lamp() -> AsyncIterator[tuple[ModelServer, Stack]]:
    """A lamp of the first model, which has `room` and shines."""
    async with a_model_server() as models:
        models.documents = dict(LAMPS)
        async with a_ditto(wot=Wot(allowed_addresses=("127.0.0.1",))) as ditto:
            made = await put(
                below(ditto),
                {
                    "definition": models.base + FLOOR_1,
                    "attributes": {"room": "hall", "serial": "A-7"},
                    "features": {"light": {"properties": {"status": {"on": True}}}},
                },
            )
            assert made.status == 201, made.body
            yield models, ditto


def below(ditto: Stack, path: str = "") -> str:
    return f"{ditto.api}/things/{LAMP}{path}"


async def migrate(
    ditto: Stack, body: Any, *more: str, query: str = "", user: str = "ditto:ditto"
) -> Answer:
    return await curl(
        below(ditto, f"/migrateDefinition{query}"), *json_body(body), *more, user=user
    )


def to(models: ModelServer, path: str = FLOOR_2, /, **more: Any) -> dict[str, Any]:
    return {"thingDefinitionUrl": models.base + path, **more}


async def test_a_thing_gets_a_new_model_with_its_defaults() -> None:
    async with a_lamp() as (models, ditto):
        body = to(models, migrationPayload={"attributes": {"room": None}}, **{FILL: True})
        answer = await migrate(ditto, body)
        assert answer.status == 200, answer.body
        light = models.base + LIGHT_2
        assert answer.json == {
            "thingId": LAMP,
            "patch": {
                "definition": models.base + FLOOR_2,
                "attributes": {"maker": "ACME", "room": None},
                "features": {
                    "light": {"definition": [light], "properties": {"settings": {"hue": 40}}}
                },
            },
            "mergeStatus": "APPLIED",
        }
        assert answer.headers["entity-revision"] == "2"
        assert answer.headers["etag"] == '"rev:2"'
        thing = (await curl(below(ditto))).json
        assert thing["definition"] == models.base + FLOOR_2
        assert thing["attributes"] == {"serial": "A-7", "maker": "ACME"}
        assert thing["features"]["light"] == {
            "definition": [light],
            "properties": {"status": {"on": True}, "settings": {"level": 0.0, "hue": 40}},
        }


@pytest.mark.parametrize("how", ["query", "header"])
async def test_a_dry_run_tells_and_changes_nothing(how: str) -> None:
    async with a_lamp() as (models, ditto):
        body = to(models, **{FILL: True})
        query, more = ("?dry-run=true", ()) if how == "query" else ("", ("-H", "dry-run: true"))
        answer = await migrate(ditto, body, *more, query=query)
        assert answer.status == 202
        assert answer.json["mergeStatus"] == "DRY_RUN"
        assert answer.json["patch"]["attributes"] == {"maker": "ACME"}
        thing = (await curl(below(ditto, "?fields=_revision,definition"))).json
        assert thing == {"_revision": 1, "definition": models.base + FLOOR_1}


async def test_what_does_not_fit_the_new_model_is_refused_in_a_dry_run_too() -> None:
    async with a_lamp() as (models, ditto):
        for query in ("", "?dry-run=true"):
            answer = await migrate(ditto, to(models), query=query)
            assert (answer.status, answer.error) == (400, "wot:payload.validation.error")
            assert [*answer.json["validationDetails"]] == [
                "/attributes/maker",
                "/features/light/properties/settings/hue",
            ]
        wrong = to(models, migrationPayload={"attributes": {"serial": 5}}, **{FILL: True})
        answer = await migrate(ditto, wrong)
        assert [*answer.json["validationDetails"]] == ["/attributes/serial"]


async def test_placeholders_carry_values_of_the_thing_over() -> None:
    async with a_lamp() as (models, ditto):
        payload = {
            "attributes": {
                "maker": "{{ thing-json:attributes/serial | fn:lower() }} of ${thing-json:thingId}",
                "room": "${ thing-json:attributes/room }",
            },
            "features": {
                "light": {
                    "properties": {
                        "settings": {
                            "hue": "{{ thing-json:_revision }}",
                            "level": "{{ thing-json:features/light/properties/settings/level }}",
                        }
                    }
                }
            },
        }
        answer = await migrate(ditto, to(models, migrationPayload=payload))
        assert answer.status == 200, answer.body
        attributes = (await curl(below(ditto, "/attributes"))).json
        assert attributes == {"serial": "A-7", "room": "hall", "maker": f"a-7 of {LAMP}"}
        settings = answer.json["patch"]["features"]["light"]["properties"]["settings"]
        assert settings == {"hue": 1, "level": 0.0}
        missing = {"attributes": {"room": "{{ thing-json:attributes/nothing }}"}}
        answer = await migrate(ditto, to(models, migrationPayload=missing))
        assert (answer.status, answer.error) == (400, "placeholder:unresolved")
        unknown = {"attributes": {"room": "{{ thing-json:attributes/room | fn:shout() }}"}}
        answer = await migrate(ditto, to(models, migrationPayload=unknown))
        assert (answer.status, answer.error) == (400, "placeholder:function.unknown")


async def test_placeholders_cannot_make_a_giant_of_a_small_body() -> None:
    async with a_lamp() as (models, ditto):
        assert (await put(below(ditto, "/attributes/room"), "x" * 60_000)).status == 204
        many = {f"k{at}": "{{ thing-json:attributes/room }}" for at in range(2_000)}
        answer = await migrate(ditto, to(models, migrationPayload={"attributes": many}))
        assert (answer.status, answer.error) == (413, "things:thing.toolarge")


async def test_patch_conditions_choose_what_of_the_payload_counts() -> None:
    async with a_lamp() as (models, ditto):
        body = to(
            models,
            migrationPayload={"attributes": {"room": "attic", "maker": "Lumen"}},
            patchConditions={
                "thing:/attributes/room": 'eq(attributes/room,"cellar")',
                "thing:/attributes/maker": "not(exists(attributes/maker))",
                "thing:/features/light": "this is not asked for",
            },
            **{FILL: True},
        )
        answer = await migrate(ditto, body)
        assert answer.status == 200, answer.body
        assert answer.json["patch"]["attributes"] == {"maker": "Lumen"}
        body["patchConditions"] = {"thing:/attributes/room": "eq("}
        answer = await migrate(ditto, body)
        assert (answer.status, answer.error) == (400, "rql.expression.invalid")


async def test_errors_of_migrations() -> None:
    async with a_lamp() as (models, ditto):
        gone = await curl(
            f"{ditto.api}/things/org.acme:none/migrateDefinition", *json_body(to(models))
        )
        assert (gone.status, gone.error) == (404, "things:thing.notfound")
        assert (await migrate(ditto, {"invalid": 1})).error == "json.field.missing"
        plain = await migrate(ditto, {"thingDefinitionUrl": "org.acme:lamp:2"})
        assert (plain.status, plain.error) == (400, "wot:skeleton.generation.failed")
        absent = await migrate(ditto, to(models, "/absent.tm.jsonld"))
        assert (absent.status, absent.error) == (421, "wot:tm.notfound")
        broken = await migrate(
            ditto, to(models, BROKEN, migrationPayload={"attributes": {"bad": 1}})
        )
        assert (broken.status, broken.error) == (400, "wot:tm.invalid")
        assert (await curl(below(ditto, "/migrateDefinition"))).status == 405
        text = await curl(
            below(ditto, "/migrateDefinition"), "-H", "Content-Type: text/plain", "-d", "{}"
        )
        assert text.status == 415


async def test_a_caller_without_permission_fetches_no_model_and_learns_nothing() -> None:
    async with a_lamp() as (models, ditto):
        asked = models.asked.total()
        refused = await migrate(ditto, to(models), user="alice:wonder")
        assert (refused.status, refused.error) == (403, "things:thing.notmodifiable")
        assert models.asked.total() == asked

        policy = f"{ditto.api}/policies/{LAMP}/entries/alice"
        entry = {
            "subjects": {"nginx:alice": {"type": "t"}},
            "resources": {
                "thing:/definition": {"grant": ["WRITE"], "revoke": []},
                "thing:/features": {"grant": ["WRITE"], "revoke": []},
                "thing:/attributes/maker": {"grant": ["READ", "WRITE"], "revoke": []},
            },
        }
        assert (await put(policy, entry)).status == 201
        copied = to(
            models,
            migrationPayload={"attributes": {"maker": "{{ thing-json:attributes/serial }}"}},
            **{FILL: True},
        )
        stolen = await migrate(ditto, copied, user="alice:wonder")
        assert (stolen.status, stolen.error) == (400, "placeholder:unresolved")
        outside = to(models, migrationPayload={"attributes": {"room": "x"}}, **{FILL: True})
        assert (await migrate(ditto, outside, user="alice:wonder")).status == 403
        allowed = await migrate(ditto, to(models, **{FILL: True}), user="alice:wonder")
        assert allowed.status == 200, allowed.body


async def test_conditional_headers_hold_for_migrations() -> None:
    async with a_lamp() as (models, ditto):
        body = to(models, **{FILL: True})
        assert (await migrate(ditto, body, "-H", 'If-Match: "rev:9"')).status == 412
        missed = await migrate(ditto, body, query='?condition=eq(attributes/room,"attic")')
        assert (missed.status, missed.error) == (412, "things:condition.failed")
        assert (await migrate(ditto, body, "-H", 'If-Match: "rev:1"')).status == 200
        same = to(models)
        again = await migrate(ditto, same, "-H", "if-equal: skip")
        assert again.status == 412
        assert (await migrate(ditto, same)).headers["entity-revision"] == "3"


async def test_subscribers_see_that_a_thing_was_migrated() -> None:
    async with a_lamp() as (models, ditto), a_websocket(ditto) as watcher:
        await watcher.control("START-SEND-EVENTS")
        async with an_event_stream(f"{ditto.api}/things?ids={LAMP}") as events:
            assert (await migrate(ditto, to(models, **{FILL: True}))).status == 200
            seen = await watcher.envelope()
            assert seen["topic"] == "org.acme/lamp/things/twin/events/migrated"
            assert seen["path"] == "/"
            assert seen["revision"] == 2
            assert seen["headers"]["content-type"] == "application/merge-patch+json"
            assert "dry-run" not in seen["headers"]
            assert seen["value"]["thingId"] == LAMP
            assert seen["value"]["definition"] == models.base + FLOOR_2
            assert seen["value"]["attributes"] == {"maker": "ACME"}
            partial = await events.json()
            assert partial["definition"] == models.base + FLOOR_2
            assert partial["attributes"] == {"maker": "ACME"}


async def test_a_migration_is_in_the_history() -> None:
    async with a_lamp() as (models, ditto), a_websocket(ditto) as client:
        assert (await migrate(ditto, to(models, **{FILL: True}))).status == 200
        assert (await put(below(ditto, "/attributes/room"), "attic")).status == 204
        past = await curl(below(ditto), "-H", "at-historical-revision: 1")
        assert past.json["definition"] == models.base + FLOOR_1
        past = await curl(below(ditto), "-H", "at-historical-revision: 2")
        assert past.json["definition"] == models.base + FLOOR_2
        assert past.json["attributes"] == {"room": "hall", "serial": "A-7", "maker": "ACME"}
        topic = "org.acme/lamp/things/twin/streaming"
        made = await client.ask(
            f"{topic}/subscribeForPersistedEvents", "/", {"fromHistoricalRevision": 2}
        )
        subscription = made["value"]["subscriptionId"]
        asked = {"subscriptionId": subscription, "demand": 1}
        told = await client.ask(f"{topic}/request", "/", asked, headers={"correlation-id": "c1"})
        assert told["value"]["item"]["topic"].endswith("/events/migrated")


async def test_migrations_over_the_protocol() -> None:
    async with a_lamp() as (models, ditto), a_websocket(ditto) as client:
        topic = "org.acme/lamp/things/twin/commands/migrate"
        body = {"thingId": LAMP, **to(models, **{FILL: True})}
        tried = await client.ask(topic, "/", body, headers={"dry-run": True})
        assert (tried["topic"], tried["path"], tried["status"]) == (topic, "/", 202)
        assert tried["value"]["mergeStatus"] == "DRY_RUN"
        done = await client.ask(topic, "/", body)
        assert (done["topic"], done["path"], done["status"]) == (topic, "/", 200)
        assert done["value"]["thingId"] == LAMP
        assert done["value"]["mergeStatus"] == "APPLIED"
        assert done["value"]["patch"]["definition"] == models.base + FLOOR_2
        wrong = await client.ask(topic, "/attributes", body)
        assert wrong["value"]["error"] == "protocoladapter:unknown.path"
        live = await client.ask("org.acme/lamp/things/live/commands/migrate", "/", body)
        assert live["value"]["error"] == "protocoladapter:unknown.command"
        policy = await client.ask("org.acme/lamp/policies/commands/migrate", "/", {})
        assert policy["value"]["error"] == "protocoladapter:unknown.command"


async def test_a_migration_waits_for_its_model_in_turn_with_other_commands() -> None:
    async with a_lamp() as (models, ditto), a_websocket(ditto) as client:
        models.hold()
        topic = "org.acme/lamp/things/twin/commands"
        await client.socket.send_json(
            {
                "topic": f"{topic}/migrate",
                "path": "/",
                "headers": {"correlation-id": "m"},
                "value": to(models, **{FILL: True}),
            }
        )
        await client.socket.send_json(
            {
                "topic": f"{topic}/modify",
                "path": "/attributes/maker",
                "headers": {"correlation-id": "w"},
                "value": "Lumen",
            }
        )
        models.held.set()
        first, second = await client.envelope(), await client.envelope()
        assert (first["headers"]["correlation-id"], first["status"]) == ("m", 200)
        assert (second["headers"]["correlation-id"], second["status"]) == ("w", 204)


async def test_metadata_can_be_put_with_a_migration() -> None:
    async with a_lamp() as (models, ditto):
        header = 'put-metadata: [{"key": "/attributes/maker/meta", "value": "by hand"}]'
        answer = await migrate(ditto, to(models, **{FILL: True}), "-H", header)
        assert answer.status == 200, answer.body
        found = (await curl(below(ditto, "?fields=_metadata"))).json
        assert found == {"_metadata": {"attributes": {"maker": {"meta": "by hand"}}}}
