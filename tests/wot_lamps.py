"""Thing Models of a lamp in two versions, for tests of validation and migration."""

from __future__ import annotations

from typing import Any

CONTEXT = [
    "https://www.w3.org/2022/wot/td/v1.1",
    {"ditto": "https://ditto.eclipseprojects.io/wot/ditto-extension#"},
]
FLOOR_1 = "/floor-lamp-1.0.0.tm.jsonld"
FLOOR_2 = "/floor-lamp-2.0.0.tm.jsonld"
LIGHT_1 = "/light-1.0.0.tm.jsonld"
LIGHT_2 = "/light-2.0.0.tm.jsonld"
BROKEN = "/broken-1.0.0.tm.jsonld"


def _floor(light: str, more: dict[str, Any]) -> dict[str, Any]:
    return {
        "@context": CONTEXT,
        "@type": "tm:ThingModel",
        "title": "Floor lamp",
        "links": [{"rel": "tm:submodel", "href": light.lstrip("/"), "instanceName": "light"}],
        "tm:optional": ["/properties/room"],
        "properties": {
            "serial": {"type": "string", "default": "X-0", "pattern": "^[A-Z]-[0-9]+$"},
            "room": {"type": "string"},
            **more,
        },
        "actions": {
            "blink": {
                "input": {"type": "integer", "minimum": 1, "maximum": 10},
                "output": {"type": "object", "required": ["done"]},
            }
        },
        "events": {"burnt": {"data": {"type": "object", "required": ["at"]}}},
    }


def _light(more: dict[str, Any]) -> dict[str, Any]:
    return {
        "@context": CONTEXT,
        "@type": "tm:ThingModel",
        "title": "Light",
        "properties": {
            "on": {"type": "boolean", "ditto:category": "status"},
            "level": {"type": "number", "minimum": 0, "maximum": 1, "ditto:category": "settings"},
            **more,
        },
        "actions": {"toggle": {}},
    }


LAMPS: dict[str, dict[str, Any]] = {
    FLOOR_1: _floor(LIGHT_1, {}),
    FLOOR_2: _floor(LIGHT_2, {"maker": {"type": "string", "default": "ACME"}}),
    LIGHT_1: _light({}),
    LIGHT_2: _light({"hue": {"type": "integer", "default": 40, "ditto:category": "settings"}}),
    BROKEN: _floor(LIGHT_1, {"bad": {"type": "nonsense"}}),
}
