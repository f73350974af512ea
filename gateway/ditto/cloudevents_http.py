"""`/api/2/cloudevents`: Ditto Protocol messages inside CloudEvents, as Knative and others deliver them.

Binary mode has the attributes in headers `ce-*` and the message as body, structured mode has both in one
JSON object. The sender is told that the message was taken, not what came of it. Source: Ditto, CloudEvents
binding; CloudEvents 1.0, HTTP protocol binding.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Final

import msgspec
from aiohttp import hdrs, web

from gateway.ditto.acknowledgements import Acknowledgements, wanted_of
from gateway.ditto.asking import Asking, acknowledged
from gateway.ditto.endpoint import not_allowed
from gateway.ditto.namespace_access import admitted
from gateway.ditto.request import ApiCall, parse_json, read_body, unsupported
from gateway.ditto.service import PoliciesService
from gateway.errors import BadRequest
from gateway.model.json import Json, JsonObject
from gateway.model.policy import PolicyCommand
from gateway.model.thing import ThingCommand, ThingMessage
from gateway.twin.ditto_errors import ditto_error
from gateway.wire.ditto.envelope import Envelope, decode
from gateway.wire.ditto.headers import DITTO, JSON, is_json
from gateway.wire.ditto.read import Sender, Signal, signal_of

STRUCTURED: Final = "application/cloudevents+json"
_REQUIRED: Final = ("specversion", "id", "source", "type")
_VERSIONS: Final = ("1.0", "0.3")
_SCHEMA: Final = "ditto:"


class CloudEventRoutes:
    """The handler of cloud events."""

    def __init__(self, asking: Asking, policies: PoliciesService, max_body: int) -> None:
        self._asking = asking
        self._policies = policies
        self._max_body = max_body

    async def post(self, call: ApiCall) -> web.StreamResponse:
        """Take one event: 202 once what it asks for was not refused."""
        if call.request.method != hdrs.METH_POST:
            raise not_allowed(call.request.method, ("POST",))
        data = await self._data(call)
        sender = Sender(call.subjects, trace=call.trace)
        signal = signal_of(_quiet(decode(data), call.correlation_id), sender)
        return await self._run(admitted(signal, call.caller.access))

    async def _data(self, call: ApiCall) -> bytes:
        media_type = call.request.content_type if hdrs.CONTENT_TYPE in call.request.headers else ""
        if media_type == STRUCTURED:
            event = parse_json(await read_body(call.request, self._max_body))
            return _structured(event)
        if not is_json(media_type):
            raise unsupported(call.request, (JSON, DITTO, STRUCTURED))
        _check(
            {name: call.request.headers.get(f"ce-{name}") for name in (*_REQUIRED, "dataschema")}
        )
        body = await read_body(call.request, self._max_body)
        if not body.strip():
            raise ditto_error("cloudevent.payload.missing")
        return body

    async def _run(self, signal: Signal) -> web.StreamResponse:
        if isinstance(signal, PolicyCommand):
            await self._policies.execute(signal)
            return web.Response(status=202)
        if not isinstance(signal, ThingCommand | ThingMessage):
            raise BadRequest(
                "Only commands and messages can be sent as cloud events.",
                code="signal.unsupported",
            )
        wanted = wanted_of(signal)
        if wanted.is_silent:
            await self._asking.tell(signal, wanted)
            return web.Response(status=202)
        outcome = await self._asking.ask(signal, wanted)
        if isinstance(outcome, Acknowledgements):
            return acknowledged(outcome)
        return web.Response(status=202)


def _structured(event: Json) -> bytes:
    if not isinstance(event, dict):
        raise ditto_error("cloudevent.unparsable", reason="a structured event is a JSON object")
    _check(event)
    if "data_base64" in event:
        return _decoded(event["data_base64"])
    if event.get("data") is None:
        raise ditto_error("cloudevent.payload.missing")
    return msgspec.json.encode(event["data"])


def _decoded(text: Json) -> bytes:
    try:
        return base64.b64decode(str(text), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ditto_error("cloudevent.unparsable", reason="'data_base64' is no base64") from error


def _check(attributes: Mapping[str, Json] | JsonObject) -> None:
    for name in _REQUIRED:
        value = attributes.get(name)
        if not isinstance(value, str) or not value:
            raise ditto_error("cloudevent.unparsable", reason=f"the attribute '{name}' is missing")
    if attributes["specversion"] not in _VERSIONS:
        raise ditto_error("cloudevent.unparsable", reason="'specversion' is not 1.0")
    schema = attributes.get("dataschema")
    if schema is not None and not str(schema).startswith(_SCHEMA):
        raise ditto_error("cloudevent.dataschema.unsupported", schema=str(schema)[:200])


def _quiet(envelope: Envelope, correlation_id: str) -> Envelope:
    """The message with a correlation id; nobody waits for an answer, other than for acknowledgements."""
    given = {name.lower() for name in envelope.headers}
    more = {} if "correlation-id" in given else {"correlation-id": correlation_id}
    envelope.headers = {**envelope.headers, **more}
    for name in [name for name in envelope.headers if name.lower() == "response-required"]:
        del envelope.headers[name]
    envelope.headers["response-required"] = False
    return envelope
