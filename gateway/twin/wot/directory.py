"""The description of this service as a directory of Thing Descriptions (`/.well-known/wot`).

Source: W3C WoT Discovery, 7.3; Ditto 3.9, WoT Discovery Thing Directory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.model.json import Json, JsonObject
from gateway.twin.wot.description import TD_CONTEXT

DISCOVERY_CONTEXT: Final = "https://www.w3.org/2022/wot/discovery"
TD_TYPE: Final = "application/td+json"
_VERSION: Final = "1.0.0"


def directory(base: str, template: Mapping[str, Json]) -> JsonObject:
    """The directory's own description; `base` has no slash at its end."""
    return {
        "@context": [TD_CONTEXT, DISCOVERY_CONTEXT],
        "@type": "ThingDirectory",
        "id": "urn:ditto:wot:thing-directory",
        "title": "Thing Description Directory of Twinspan",
        "version": {"model": _VERSION, "instance": _VERSION},
        "base": f"{base}/",
        **template,
        "properties": {"things": _things()},
        "actions": {"retrieveThing": _retrieve_thing()},
    }


def _things() -> JsonObject:
    return {
        "title": "Things",
        "description": "All Thing Descriptions that the caller may read, in pages.",
        "type": "array",
        "items": {"type": "object"},
        "readOnly": True,
        "uriVariables": {
            "offset": {
                "title": "Offset",
                "description": "How many to pass over.",
                "type": "integer",
                "minimum": 0,
            },
            "limit": {
                "title": "Limit",
                "description": "How many to return at most.",
                "type": "integer",
                "minimum": 1,
            },
            "format": {
                "title": "Format",
                "description": "'array' is a plain JSON array.",
                "type": "string",
                "enum": ["array"],
            },
        },
        "forms": [
            {
                "href": "api/2/things{?offset,limit,format}",
                "op": "readproperty",
                "htv:methodName": "GET",
                "htv:headers": _ACCEPT,
                "htv:statusCode": 200,
                "contentType": "application/json",
                "additionalResponses": [
                    {"contentType": TD_TYPE, "htv:statusCode": 200, "success": True}
                ],
            }
        ],
    }


def _retrieve_thing() -> JsonObject:
    return {
        "title": "Retrieve a thing",
        "description": "The Thing Description of one thing.",
        "uriVariables": {
            "thingId": {
                "@type": "ThingID",
                "title": "Thing ID",
                "type": "string",
                "format": "iri-reference",
            }
        },
        "output": {"type": "object", "description": "What it is, its content type says."},
        "safe": True,
        "idempotent": True,
        "forms": [
            {
                "href": "api/2/things/{thingId}",
                "op": "invokeaction",
                "htv:methodName": "GET",
                "htv:headers": _ACCEPT,
                "contentType": "application/json",
                "response": {"contentType": TD_TYPE, "htv:statusCode": 200},
                "additionalResponses": [
                    {"contentType": "application/json", "htv:statusCode": 404, "success": False}
                ],
            }
        ],
    }


_ACCEPT: Final[list[Json]] = [{"htv:fieldName": "Accept", "htv:fieldValue": TD_TYPE}]
