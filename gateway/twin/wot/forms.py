"""The forms of a Thing Description: how each affordance is used over Ditto's HTTP API.

Hrefs are relative to the description's `base`.
Source: Ditto, WoT integration; W3C WoT Thing Description 1.1, 5.3.4 (hypermedia controls).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from gateway.model.json import Json, JsonObject

DITTO_ERROR: Final = "dittoError"
METHOD: Final = "htv:methodName"
_JSON: Final = "application/json"
_MERGE_PATCH: Final = "application/merge-patch+json"
_EVENT_STREAM: Final = "text/event-stream"
_READ: Final = ("channel", "timeout")
_WRITE: Final = ("channel", "timeout", "response-required")
_INVOKE: Final = ("timeout", "response-required")
_SAFE: Final = ":@!$&'()*+,;=~."
_FAILURES: Final[list[Json]] = [{"success": False, "schema": DITTO_ERROR}]


def uri_variables() -> JsonObject:
    """What the query of the forms' hrefs may carry."""
    return {
        "channel": {
            "type": "string",
            "title": "Channel",
            "description": "Whether the digital twin ('twin') or the device itself ('live') is asked.",
            "enum": ["twin", "live"],
            "default": "twin",
        },
        "timeout": {
            "type": "integer",
            "title": "Time-out",
            "description": "Seconds to wait for an answer; 0 waits for none.",
            "minimum": 0,
            "maximum": 60,
            "default": 60,
        },
        "response-required": {
            "type": "boolean",
            "title": "Response required",
            "description": "False asks for no response.",
            "default": True,
        },
        "fields": {
            "type": "string",
            "title": "Fields",
            "description": "Comma separated names of what the answer shall hold.",
        },
    }


ERROR_SCHEMA: Final[JsonObject] = {
    "type": "object",
    "title": "Ditto error",
    "description": "What went wrong, and what can be done about it.",
    "properties": {
        "status": {
            "type": "integer",
            "title": "Status",
            "description": "The HTTP status code.",
            "minimum": 400,
            "maximum": 599,
        },
        "error": {"type": "string", "title": "Code", "description": "Names the kind of error."},
        "message": {"type": "string", "title": "Message", "description": "Says what went wrong."},
        "description": {
            "type": "string",
            "title": "Description",
            "description": "Says what to do about it.",
        },
        "href": {
            "type": "string",
            "title": "Link",
            "description": "Leads to more about the error.",
            "format": "uri",
        },
    },
    "required": ["status", "error", "message"],
}


@dataclass(frozen=True, slots=True)
class Forms:
    """Makes forms.

    Shape:  `values` is `attributes` (of a thing) or `properties` (of a feature); `has_query` names query
            parameters in the hrefs, as URI templates (RFC 6570).
    """

    values: str
    has_query: bool

    def root(self, given: Json) -> list[Json]:
        """The forms of the whole; the model's own ones are kept and completed."""
        if isinstance(given, list):
            return [_completed(form, self.values) for form in given]
        read = self._href(self.values, _READ)
        write = self._href(self.values, _WRITE)
        return [
            _form("readallproperties", read, "GET"),
            _form("readmultipleproperties", self._href(self.values, ("fields", *_READ)), "GET"),
            _form("writeallproperties", write, "PUT"),
            _form("writemultipleproperties", write, "PATCH", _MERGE_PATCH),
            _stream(["observeallproperties", "unobserveallproperties"], self.values),
            _stream(["subscribeallevents", "unsubscribeallevents"], "outbox/messages"),
        ]

    def property(self, name: str, schema: Mapping[str, Json], category: str | None) -> JsonObject:
        """A property with its forms."""
        group = "" if category is None else f"/{_segment(category)}"
        href = f"{self.values}{group}/{_segment(name)}"
        given = schema.get("forms")
        if isinstance(given, list):
            return {**schema, "forms": [_completed(form, href) for form in given]}
        is_observable = schema.get("observable") is not False
        return {
            **schema,
            "observable": is_observable,
            "forms": self._property_forms(href, schema, is_observable),
        }

    def _property_forms(
        self, href: str, schema: Mapping[str, Json], is_observable: bool
    ) -> list[Json]:
        made: list[Json] = []
        if schema.get("writeOnly") is not True:
            made.append(_form("readproperty", self._href(href, _READ), "GET"))
        if schema.get("readOnly") is not True:
            write = self._href(href, _WRITE)
            made.append(_form("writeproperty", write, "PUT"))
            made.append(_form("writeproperty", write, "PATCH", _MERGE_PATCH))
        if is_observable:
            made.append(_stream(["observeproperty", "unobserveproperty"], href))
        return made

    def action(self, name: str, action: Mapping[str, Json]) -> JsonObject:
        """An action with its forms: a message to the inbox, answered by the device."""
        href = f"inbox/messages/{_segment(name)}"
        given = action.get("forms")
        forms: list[Json] = (
            [_completed(form, href) for form in given]
            if isinstance(given, list)
            else [_form("invokeaction", self._href(href, _INVOKE), "POST")]
        )
        return {**action, "synchronous": True, "forms": forms}

    def event(self, name: str, event: Mapping[str, Json]) -> JsonObject:
        """An event with its forms: messages from the outbox, streamed."""
        href = f"outbox/messages/{_segment(name)}"
        given = event.get("forms")
        forms: list[Json] = (
            [_completed(form, href) for form in given]
            if isinstance(given, list)
            else [_stream("subscribeevent", href)]
        )
        return {**event, "forms": forms}

    def _href(self, path: str, variables: tuple[str, ...]) -> str:
        return f"{path}{{?{','.join(variables)}}}" if self.has_query else path


def _form(op: str, href: str, method: str, content_type: str = _JSON) -> JsonObject:
    return {
        "op": op,
        "href": href,
        METHOD: method,
        "contentType": content_type,
        "additionalResponses": _FAILURES,
    }


def _stream(op: Json, href: str) -> JsonObject:
    return {
        "op": op,
        "href": href,
        METHOD: "GET",
        "subprotocol": "sse",
        "contentType": _EVENT_STREAM,
        "additionalResponses": _FAILURES,
    }


def _completed(form: Json, href: str) -> Json:
    if not isinstance(form, dict):
        return form
    return {**form, "href": href, "additionalResponses": _FAILURES}


def _segment(text: str) -> str:
    return quote(text, safe=_SAFE)
