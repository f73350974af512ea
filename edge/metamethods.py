"""Methods of Devices at MetaServer: `.../devices/<name>/methods[/<method>]`.

GET lists them; POST calls one, with the values as a JSON object `{property: value}`. 200 says that the
device took them, 202 that they are wanted and that the device or its mapper is told. Rights are those for
`devices/methods`: `get` and `create`. Source: ADR 10, point 5; the paths are ours.
"""

from __future__ import annotations

import msgspec

from edge.devicemethods import WANTED, DeviceMethods
from edge.metaanswers import DISK, respond_json
from edge.metarequests import METHODS, Call
from gateway.errors import MalformedPacket, MethodNotAllowed, UnsupportedMediaType
from gateway.model.json import Json, JsonObject
from gateway.model.trace import TraceContext
from gateway.runtime.small_service import Request, Response
from gateway.wire.cloudedge.subjects import DeviceKey
from gateway.wire.kube.requests import media_parts


def is_of_methods(call: Call) -> bool:
    """Say whether a request is about methods of a Device."""
    return call.subresource == METHODS and call.plural == "devices"


async def answer_methods(methods: DeviceMethods, call: Call, request: Request) -> Response:
    """Answer one request. Errors: of `DeviceMethods`; MethodNotAllowed; MalformedPacket."""
    key = DeviceKey(call.namespace, call.name)
    if call.verb == "get" and not call.item:
        return respond_json(methods.list(key), DISK)
    if call.verb != "create" or not call.item:
        raise MethodNotAllowed("methods are listed by GET and called by POST .../methods/<method>")
    trace = TraceContext.parse(
        request.headers.get("traceparent"), request.headers.get("tracestate")
    )
    found = await methods.call(key, call.item, _values(request), way="http", trace=trace)
    return respond_json(found, DISK, status=202 if _is_wanted(found) else 200)


def _values(request: Request) -> JsonObject:
    kind, _ = media_parts(request.headers.get("content-type", "application/json"))
    if kind not in ("application/json", ""):
        raise UnsupportedMediaType(f"expected application/json, got {kind[:100]!r}")
    try:
        document: Json = msgspec.json.decode(request.body)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise MalformedPacket(f"the body is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise MalformedPacket("expected a JSON object of property and value")
    return document


def _is_wanted(found: JsonObject) -> bool:
    properties = found["properties"]
    return isinstance(properties, dict) and any(
        isinstance(each, dict) and each.get("state") == WANTED for each in properties.values()
    )
