"""Thing Models for tests, by path: a coffee machine with a lamp, what they extend and what they refer to."""

from __future__ import annotations

from typing import Any

CONTEXT = [
    "https://www.w3.org/2022/wot/td/v1.1",
    {"ditto": "https://ditto.eclipseprojects.io/wot/ditto-extension#"},
]
TYPE = "tm:ThingModel"

MACHINE = "/machine-1.0.0.tm.jsonld"
BREWER = "/brewer-1.0.0.tm.jsonld"
LAMP = "/dimmable-lamp-1.0.0.tm.jsonld"
SWITCH = "/switchable-1.0.0.tm.jsonld"
DEVICE = "/device-1.0.0.tm.jsonld"
SHARED = "/shared-1.0.0.tm.jsonld"

DOCUMENTS: dict[str, dict[str, Any]] = {
    MACHINE: {
        "@context": CONTEXT,
        "@type": TYPE,
        "title": "Coffee machine",
        "version": {"model": "1.0.0"},
        "links": [
            {"rel": "tm:extends", "href": "device-1.0.0.tm.jsonld"},
            {"rel": "tm:submodel", "href": "brewer-1.0.0.tm.jsonld", "instanceName": "brewer"},
            {
                "rel": "tm:submodel",
                "href": "dimmable-lamp-1.0.0.tm.jsonld",
                "instanceName": "front lamp",
            },
            {"rel": "license", "href": "https://acme.org/license"},
        ],
        "tm:optional": ["/properties/nickname", "/events/grumble"],
        "properties": {
            "cups": {"type": "integer", "minimum": 0, "ditto:category": "counters"},
            "nickname": {"type": "string"},
            "pressure": {"type": "number", "exclusiveMinimum": 8.5, "readOnly": True},
        },
        "actions": {"brew": {"input": {"type": "string"}, "output": {"type": "boolean"}}},
        "events": {"empty": {"data": {"type": "string"}}, "grumble": {}},
    },
    DEVICE: {
        "@context": "https://www.w3.org/2022/wot/td/v1.1",
        "@type": TYPE,
        "title": "Device",
        "tm:optional": ["/properties/note"],
        "properties": {
            "manufacturer": {"type": "string", "default": "ACME"},
            "note": {"type": "string"},
            "serial": {"type": "string", "const": "S-{{SERIES}}"},
        },
    },
    BREWER: {
        "@context": CONTEXT,
        "@type": [TYPE, "saref:Appliance"],
        "title": "Brewer {{MODEL_NAME}}",
        "properties": {
            "temperature": {
                "tm:ref": "shared-1.0.0.tm.jsonld#/properties/temperature",
                "maximum": 99,
                "ditto:category": "status",
            },
            "programme": {
                "type": "object",
                "required": ["name", "steps"],
                "properties": {
                    "name": {"type": "string"},
                    "steps": {"type": "array", "items": {"type": "integer"}, "minItems": 2},
                    "comment": {"type": "string"},
                },
                "ditto:category": "configuration",
            },
        },
        "actions": {"descale": {}},
    },
    LAMP: {
        "@context": CONTEXT,
        "@type": TYPE,
        "title": "Dimmable lamp",
        "links": [{"rel": "tm:extends", "href": "switchable-1.0.0.tm.jsonld"}],
        "properties": {"level": {"type": "number", "minimum": 0.0, "maximum": 1.0}},
    },
    SWITCH: {
        "@context": CONTEXT,
        "@type": TYPE,
        "title": "Switchable",
        "properties": {"on": {"type": "boolean", "title": "On"}},
        "actions": {"toggle": {}},
        "events": {"toggled": {"data": {"type": "boolean"}}},
    },
    SHARED: {
        "@context": CONTEXT,
        "@type": TYPE,
        "properties": {
            "temperature": {"tm:ref": "#/properties/measured", "unit": "Cel", "minimum": 5},
            "measured": {"type": "number", "readOnly": True, "minimum": -50, "maximum": 200},
        },
    },
}


def machine_skeleton(base: str) -> dict[str, Any]:
    """What a new coffee machine holds."""
    return {
        "attributes": {
            "manufacturer": "ACME",
            "serial": "S-{{SERIES}}",
            "counters": {"cups": 0},
            "pressure": 9.5,
        },
        "features": {
            "brewer": {
                "definition": [base + BREWER],
                "properties": {
                    "status": {"temperature": 5.0},
                    "configuration": {"programme": {"name": "", "steps": [0, 0]}},
                },
            },
            "front lamp": {
                "definition": [base + LAMP, base + SWITCH],
                "properties": {"on": False, "level": 0.0},
            },
        },
    }
