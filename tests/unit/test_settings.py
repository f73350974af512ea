"""Settings: where values come from, and what a bad one is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import load
from gateway.config.schema import json_schema, plain
from gateway.errors import InvalidSetting


def test_later_sources_win(tmp_path: Path) -> None:
    file = tmp_path / "twinspan.yaml"
    file.write_text("hono: {mqtt: {bind: 'a:1', max_payload: 10}, http: {bind: 'b:1'}}")
    settings = load(
        file,
        environ={"TWINSPAN__HONO__MQTT__BIND": "a:2", "HOME": "/nowhere"},
        sets=["hono.mqtt.max_payload=20"],
    )
    assert settings.hono.mqtt.bind == "a:2"
    assert settings.hono.mqtt.max_payload == 20
    assert settings.hono.http.bind == "b:1"
    assert settings.hono.amqp.bind == "127.0.0.1:5672"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("hono.mqtt.nope=1", "hono.mqtt.nope: unknown setting"),
        ("hono.mqtt.max_payload=2k", "hono.mqtt.max_payload: expected int, got '2k'"),
        ("hono.mqtt.max_payload=true", "hono.mqtt.max_payload: expected int, got True"),
        ("hono=3", "hono: expected a mapping, got 3"),
        ("hono", "--set: expected path=value, got 'hono'"),
        ("demo=7", "demo: expected true or false, got 7"),
    ],
)
def test_a_bad_setting_names_its_path(text: str, told: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        load(environ={}, sets=[text])
    assert told in caught.value.message


def test_a_branch_given_in_part_keeps_its_parents_defaults() -> None:
    settings = load(environ={}, sets=["cloud.hub.wss.bind=127.0.0.1:0"])
    assert settings.cloud.hub.https.bind == "127.0.0.1:10002"


def test_shown_settings_load_again() -> None:
    settings = load(environ={}, sets=["data_dir=/somewhere", "ditto.http.cors_origins=[a, b]"])
    shown = plain(settings)
    assert isinstance(shown, dict)
    assert load(environ={}, defaults=shown) == settings


def test_the_schema_describes_every_field_with_its_unit() -> None:
    schema = json_schema()
    assert _undescribed(schema, "") == []


def _undescribed(node: object, path: str) -> list[str]:
    if not isinstance(node, dict) or "properties" not in node:
        return []
    found = []
    for name, entry in node["properties"].items():
        where = f"{path}.{name}"
        if "properties" not in entry and "description" not in entry:
            found.append(where)
        found += _undescribed(entry, where)
    return found
