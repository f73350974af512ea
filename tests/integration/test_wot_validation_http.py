"""Validation through HTTP and WebSocket, with models from a server; its configuration by operators."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.config.wot import Wot
from gateway.config.wot_validation import WotValidation, WotValidationSection
from gateway.store.database import Database
from gateway.twin.wot.validation_rules import ThingEnforce, ThingRules
from tests.ditto_rig import Answer, Stack, a_ditto, a_websocket, curl, json_body, put
from tests.model_server import ModelServer, a_model_server
from tests.wot_lamps import BROKEN, FLOOR_1, FLOOR_2, LAMPS, LIGHT_1

LAMP = "org.acme:lamp"
OPERATOR = "devops:foobar"
CONFIG = "/devops/wot/config"
MERGE = "application/merge-patch+json"


@asynccontextmanager
async def models_and_ditto(
    validation: WotValidation | None = None, database: Database | None = None
) -> AsyncIterator[tuple[ModelServer, Stack]]:
    async with a_model_server() as models:
        models.documents = dict(LAMPS)
        wot = Wot(allowed_addresses=("127.0.0.1",), validation=validation or WotValidation())
        async with a_ditto(wot=wot, database=database) as ditto:
            yield models, ditto


@asynccontextmanager
async def a_lamp(
    validation: WotValidation | None = None, path: str = FLOOR_1
) -> AsyncIterator[tuple[ModelServer, Stack]]:
    async with models_and_ditto(validation) as (models, ditto):
        made = await put(f"{ditto.api}/things/{LAMP}", {"definition": models.base + path})
        assert made.status == 201, made.body
        yield models, ditto


def below(ditto: Stack, path: str = "") -> str:
    return f"{ditto.api}/things/{LAMP}{path}"


def assert_unfit(answer: Answer, *paths: str) -> None:
    assert (answer.status, answer.error) == (400, "wot:payload.validation.error"), answer.body
    assert answer.json["description"]
    assert [*answer.json.get("validationDetails", {})] == [*paths], answer.body


def delete(url: str, *more: str, user: str = "ditto:ditto") -> Any:
    return curl("-X", "DELETE", url, *more, user=user)


async def test_what_a_model_does_not_allow_is_refused_with_details() -> None:
    async with a_lamp() as (_, ditto):
        level = "/features/light/properties/settings/level"
        refused = await put(below(ditto, level), 7)
        assert_unfit(refused, level)
        (text,) = refused.json["validationDetails"][level]
        assert text.startswith(": {maximum=")
        assert (await put(below(ditto, level), 0.7)).status == 204
        assert_unfit(await put(below(ditto, "/attributes/serial"), "no"), "/attributes/serial")
        assert_unfit(await put(below(ditto, "/attributes/extra"), 1), "/attributes/extra")
        assert_unfit(await put(below(ditto, "/features/fan"), {}), "/features/fan")
        assert_unfit(await delete(below(ditto, "/features/light")))
        assert_unfit(await delete(below(ditto, "/attributes/serial")))
        assert_unfit(await delete(below(ditto, "/definition")))
        patched = await curl(
            "-X", "PATCH", below(ditto), *json_body({"attributes": {"x": 1}}, MERGE)
        )
        assert_unfit(patched, "/attributes/x")
        wrong = [{"op": "replace", "path": "/attributes/serial", "value": 5}]
        patched = await curl(
            "-X", "PATCH", below(ditto), *json_body(wrong, "application/json-patch+json")
        )
        assert_unfit(patched, "/attributes/serial")
        thing = (await curl(below(ditto))).json
        assert thing["attributes"] == {"serial": "X-0"}
        assert thing["features"]["light"]["properties"]["settings"] == {"level": 0.7}
        assert (await delete(below(ditto))).status == 204


async def test_a_thing_is_judged_when_it_is_made() -> None:
    async with models_and_ditto() as (models, ditto):
        wrong = {"definition": models.base + FLOOR_1, "attributes": {"serial": 5}}
        assert_unfit(await put(below(ditto), wrong), "/attributes/serial")
        assert (await curl(below(ditto))).status == 404
        posted = await curl(f"{ditto.api}/things", *json_body(wrong))
        assert_unfit(posted, "/attributes/serial")
        good = {**wrong, "attributes": {"serial": "A-1"}}
        assert (await put(below(ditto), good)).status == 201


async def test_a_change_that_may_not_be_made_is_403_and_not_judged() -> None:
    async with a_lamp() as (_, ditto):
        refused = await put(below(ditto, "/attributes/serial"), 5, user="alice:wonder")
        assert refused.status == 403
        gone = await delete(below(ditto, "/attributes/nothing"))
        assert gone.status == 404
        tagged = await put(below(ditto, "/attributes/serial"), 5, "-H", 'If-Match: "hash:0"')
        assert tagged.status == 412


async def test_a_new_definition_has_to_fit_and_may_come_with_what_it_needs() -> None:
    async with a_lamp() as (models, ditto):
        new = models.base + FLOOR_2
        refused = await put(below(ditto, "/definition"), new)
        assert_unfit(refused, "/attributes/maker", "/features/light/properties/settings/hue")
        patch = {
            "definition": new,
            "attributes": {"maker": "ACME"},
            "features": {"light": {"properties": {"settings": {"hue": 3}}}},
        }
        patched = await curl("-X", "PATCH", below(ditto), *json_body(patch, MERGE))
        assert patched.status == 204, patched.body


async def test_things_without_a_model_are_not_asked_for_anything() -> None:
    async with models_and_ditto() as (models, ditto):
        assert (await put(below(ditto), {"definition": "a:b:1", "attributes": {}})).status == 201
        assert (await put(below(ditto, "/attributes/any"), {"x": [1]})).status == 201
        assert not models.asked
        assert ditto.sample("twinspan_wot_validations_total", outcome="fits") == 0


async def test_a_model_with_a_bad_schema_is_named() -> None:
    async with models_and_ditto() as (models, ditto):
        refused = await put(
            below(ditto),
            {"definition": models.base + BROKEN, "attributes": {"serial": "A-1", "bad": 1}},
        )
        assert (refused.status, refused.error) == (400, "wot:tm.invalid")
        assert "/properties/bad" in refused.json["message"]


async def test_warnings_instead_of_refusals(caplog: pytest.LogCaptureFixture) -> None:
    lenient = WotValidation(log_warning_instead_of_failing_api_calls=True)
    async with a_lamp(lenient) as (_, ditto):
        assert (await put(below(ditto, "/attributes/extra"), "hidden")).status == 201
        assert ditto.sample("twinspan_wot_validations_total", outcome="logged") == 1
        (record,) = [one for one in caplog.records if "does not fit" in one.message]
        assert record.thing == LAMP  # type: ignore[attr-defined]
        assert "hidden" not in str(record.__dict__)


async def test_validation_can_be_switched_off_in_the_settings() -> None:
    async with a_lamp(WotValidation(enabled=False)) as (_, ditto):
        assert (await put(below(ditto, "/attributes/extra"), 1)).status == 201
    some = WotValidation(thing=ThingRules(enforce=ThingEnforce(attributes=False)))
    async with a_lamp(some) as (_, ditto):
        assert (await put(below(ditto, "/attributes/extra"), 1)).status == 201
        assert_unfit(await put(below(ditto, "/features/fan"), {}), "/features/fan")


# --- messages ----------------------------------------------------------------------------------


async def test_messages_are_judged_before_anybody_gets_them() -> None:
    async with a_lamp() as (_, ditto), a_websocket(ditto) as device:
        await device.control("START-SEND-MESSAGES")
        unknown = await curl(below(ditto, "/inbox/messages/explode?timeout=1"), "-X", "POST")
        assert_unfit(unknown)
        wrong = await curl(below(ditto, "/inbox/messages/blink?timeout=1"), *json_body(99))
        assert_unfit(wrong, "/inbox/messages/blink")
        text = await curl(
            below(ditto, "/inbox/messages/blink?timeout=1"),
            "-H", "Content-Type: text/plain", "-d", "3",
        )  # fmt: skip
        assert_unfit(text)
        event = await curl(below(ditto, "/outbox/messages/burnt?timeout=0"), *json_body({}))
        assert_unfit(event, "/outbox/messages/burnt")
        feature = "/features/light/inbox/messages/"
        assert_unfit(await curl(below(ditto, feature + "no?timeout=0"), "-X", "POST"))
        sent = await curl(below(ditto, feature + "toggle?timeout=0"), "-X", "POST")
        assert sent.status == 202
        got = await device.envelope()
        assert got["path"] == feature + "toggle"


async def test_answers_of_devices_are_judged() -> None:
    async with a_lamp() as (_, ditto), a_websocket(ditto) as device:
        await device.control("START-SEND-MESSAGES")

        async def answered(value: Any, status: int = 200) -> Answer:
            url = below(ditto, "/inbox/messages/blink?timeout=10")
            asking = asyncio.create_task(curl(url, *json_body(3)))
            got = await device.envelope()
            reply = {
                "topic": got["topic"],
                "path": got["path"],
                "headers": {
                    "correlation-id": got["headers"]["correlation-id"],
                    "content-type": "application/json",
                },
                "status": status,
                "value": value,
            }
            await device.socket.send_json(reply)
            return await asking

        assert (await answered({"done": True})).json == {"done": True}
        assert_unfit(await answered({"wrong": 1}), "/inbox/messages/blink")
        assert (await answered({"cause": "bulb"}, status=409)).status == 409


async def test_the_websocket_tells_errors_with_details() -> None:
    async with a_lamp() as (_, ditto), a_websocket(ditto) as client:
        answer = await client.ask(
            "org.acme/lamp/things/twin/commands/modify", "/attributes/serial", 5
        )
        assert answer["topic"] == "org.acme/lamp/things/twin/errors"
        assert answer["status"] == answer["value"]["status"] == 400
        assert answer["value"]["error"] == "wot:payload.validation.error"
        assert [*answer["value"]["validationDetails"]] == ["/attributes/serial"]
        told = await client.ask(
            "org.acme/lamp/things/live/messages/blink",
            "/inbox/messages/blink",
            99,
            headers={"content-type": "application/json", "timeout": "1s"},
        )
        assert told["value"]["error"] == "wot:payload.validation.error"


# --- /devops/wot/config ------------------------------------------------------------------------


async def test_operators_put_read_and_delete_a_configuration() -> None:
    async with a_lamp() as (_, ditto):
        url = ditto.url + CONFIG
        assert (await curl(url, user="ditto:ditto")).status == 401
        absent = await curl(url, user=OPERATOR)
        assert (absent.status, absent.error) == (404, "wot.validation.config:notaccessible")
        assert (await delete(url, user=OPERATOR)).status == 404
        merged = (await curl(url + "/merged", user=OPERATOR)).json
        assert merged["configId"] == "ditto:merged"
        assert merged["enabled"] is True
        assert merged["dynamic-config"] == []

        loose = {"thing": {"forbid": {"non-modeled-attributes": False}}}
        made = await put(url, loose, user=OPERATOR)
        assert made.status == 201
        assert made.json["configId"] == "ditto:global"
        assert made.json["_revision"] == 1
        assert (await put(below(ditto, "/attributes/extra"), 1)).status == 201
        assert (await curl(url, user=OPERATOR)).json["thing"] == loose["thing"]
        merged = (await curl(url + "/merged", user=OPERATOR)).json
        assert merged["thing"]["forbid"]["non-modeled-attributes"] is False
        assert merged["thing"]["enforce"]["attributes"] is True

        again = await put(url, {"enabled": False}, user=OPERATOR)
        assert again.status == 204
        assert again.headers["etag"] == '"rev:2"'
        assert (await put(below(ditto, "/features/fan"), {})).status == 201
        assert (await delete(url, user=OPERATOR)).status == 204
        assert_unfit(await put(below(ditto, "/attributes/other"), 1), "/attributes/other")
        assert (await put(url, {}, user=OPERATOR)).json["_revision"] == 4


async def test_sections_hold_for_whom_their_patterns_fit() -> None:
    async with a_lamp() as (models, ditto):
        url = f"{ditto.url}{CONFIG}/dynamicConfigs"
        assert (await curl(url, user=OPERATOR)).json == []
        section = {
            "scope-id": "trusted",
            "validation-context": {
                "ditto-headers-patterns": [
                    {"ditto-originator": "^nginx:nobody$"},
                    {"ditto-originator": "^nginx:ditto$", "x-migrating": "yes|true"},
                ],
                "thing-definition-patterns": [f"^{models.base}/floor-lamp-1.*$"],
            },
            "config-overrides": {"enabled": False},
        }
        assert (await put(f"{url}/trusted", section, user=OPERATOR)).status == 204
        shown = (await curl(f"{url}/trusted", user=OPERATOR)).json
        assert shown["scope-id"] == "trusted"
        assert shown["config-overrides"] == {"enabled": False}
        assert [one["scope-id"] for one in (await curl(url, user=OPERATOR)).json] == ["trusted"]

        refused = await put(below(ditto, "/attributes/extra"), 1)
        assert_unfit(refused, "/attributes/extra")
        allowed = await put(below(ditto, "/attributes/extra"), 1, "-H", "x-migrating: true")
        assert allowed.status == 201

        features = {
            "validation-context": {"feature-definition-patterns": [f".*{LIGHT_1}"]},
            "config-overrides": {"feature": {"enforce": {"properties": False}}},
        }
        assert (await put(f"{url}/lights", features, user=OPERATOR)).status == 204
        assert (await put(below(ditto, "/features/light/properties/x"), 1)).status == 201

        assert (await delete(f"{url}/lights", user=OPERATOR)).status == 204
        gone = await delete(f"{url}/lights", user=OPERATOR)
        assert (gone.status, gone.error) == (404, "wot.validation.config:notaccessible")
        assert (await put(below(ditto, "/features/light/properties/y"), 1)).status == 400


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("", []),
        ("", {"enabled": 1}),
        ("", {"thing": {"enforce": {"typo": True}}}),
        ("", {"dynamic-config": [{"scope-id": "a"}, {"scope-id": "a"}]}),
        ("/dynamicConfigs/a", {"scope-id": "b"}),
        (
            "/dynamicConfigs/a",
            {"validation-context": {"thing-definition-patterns": ["("]}},
        ),
        ("/dynamicConfigs/a", {"validation-context": {"ditto-headers-patterns": [5]}}),
        ("/dynamicConfigs/a", {"config-overrides": {"nothing": True}}),
    ],
)
async def test_bad_configurations_are_refused(path: str, body: Any) -> None:
    async with a_ditto() as ditto:
        refused = await put(ditto.url + CONFIG + path, body, user=OPERATOR)
        assert (refused.status, refused.error) == (400, "wot.validation.config:invalid")


async def test_a_configuration_is_changed_on_condition_only() -> None:
    async with a_ditto() as ditto:
        url = ditto.url + CONFIG
        first = await put(url, {"enabled": True}, "-H", 'If-Match: "rev:9"', user=OPERATOR)
        assert (first.status, first.error) == (412, "wot.validation.config:precondition.failed")
        assert (await put(url, {"enabled": True}, user=OPERATOR)).status == 201
        read = await curl(url, "-H", 'If-None-Match: "rev:1"', user=OPERATOR)
        assert read.status == 304
        again = await put(url, {}, "-H", 'If-Match: "rev:1"', user=OPERATOR)
        assert again.status == 204
        stale = await delete(url, "-H", 'If-Match: "rev:1"', user=OPERATOR)
        assert stale.status == 412


async def test_other_methods_and_paths_are_errors_of_ditto() -> None:
    async with a_ditto() as ditto:
        url = ditto.url + CONFIG
        assert (await curl(url, "-X", "POST", user=OPERATOR)).status == 405
        assert (await put(url + "/merged", {}, user=OPERATOR)).status == 405
        assert (await curl(url + "/nothing", user=OPERATOR)).status == 404
        assert (await curl(url + "/merged", user="")).status == 401
        plain = await curl(
            url, "-X", "PUT", "-H", "Content-Type: text/plain", "-d", "{}", user=OPERATOR
        )
        assert plain.status == 415


async def test_a_configuration_outlives_the_process(tmp_path: Path) -> None:
    file = tmp_path / "gateway.db"
    section = {"config-overrides": {"enabled": False}}
    async with a_ditto(database=Database(file, "gateway")) as ditto:
        url = ditto.url + CONFIG
        assert (await put(url, {"enabled": True}, user=OPERATOR)).status == 201
        assert (await put(f"{url}/dynamicConfigs/s", section, user=OPERATOR)).status == 204
    async with a_ditto(database=Database(file, "gateway")) as ditto:
        shown = (await curl(ditto.url + CONFIG, user=OPERATOR)).json
        assert shown["_revision"] == 2
        assert [one["scope-id"] for one in shown["dynamic-config"]] == ["s"]


async def test_sections_of_the_settings_are_shown_and_hold() -> None:
    static = WotValidation(
        dynamic_configuration=(
            WotValidationSection(
                ditto_headers_patterns=({"x-loose": ".+"},), config_overrides={"enabled": False}
            ),
        )
    )
    async with a_lamp(static) as (_, ditto):
        merged = (await curl(f"{ditto.url}{CONFIG}/merged", user=OPERATOR)).json
        assert [one["scope-id"] for one in merged["dynamic-config"]] == ["ditto:static"]
        assert (await put(below(ditto, "/attributes/extra"), 1)).status == 400
        loose = await put(below(ditto, "/attributes/extra"), 1, "-H", "x-loose: 1")
        assert loose.status == 201


async def test_operators_changing_sections_at_once_lose_nothing() -> None:
    async with a_ditto() as ditto:
        url = f"{ditto.url}{CONFIG}/dynamicConfigs"
        answers = await asyncio.gather(
            *(put(f"{url}/s{at}", {}, user=OPERATOR) for at in range(12))
        )
        assert {answer.status for answer in answers} == {204}
        found = (await curl(url, user=OPERATOR)).json
        assert sorted(one["scope-id"] for one in found) == sorted(f"s{at}" for at in range(12))
