"""Orders to this node's mappers through MetaServer: `permit-join` of a Zigbee network, and such.

`POST /apis/devices.twinspan.io/v1alpha1/mappers/<protocol>/<order>` with a JSON object of texts as the body.
An order is a write like any other: it needs the admin token, or a right to create `mappers/<order>`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import msgspec

from edge.metaanswers import DISK, respond_json
from edge.metarequests import Call
from gateway.errors import MalformedPacket, MethodNotAllowed
from gateway.model.json import Json, JsonObject
from gateway.runtime.small_service import Request, Response

MAPPERS = ("devices.twinspan.io", "mappers")
"""API group and plural of the path."""
MAX_ARGUMENTS = 32
MAX_TEXT = 1_024

Give = Callable[[str, str, Mapping[str, str]], Awaitable[JsonObject]]
"""Gives an order: protocol, name, arguments. Errors: NotFound; Rejected; DeviceUnreachable."""


def path_of(protocol: str, order: str) -> str:
    """Return the path of an order."""
    return f"/apis/{MAPPERS[0]}/v1alpha1/{MAPPERS[1]}/{protocol}/{order}"


async def answer_order(give: Give, call: Call, request: Request) -> Response:
    """Give the order and return what came of it. Errors: of the order; MethodNotAllowed; MalformedPacket."""
    if call.verb != "create" or not call.subresource:
        raise MethodNotAllowed("orders are given by POST .../mappers/<protocol>/<order>")
    result = await give(call.name, call.subresource, _arguments(request.body))
    return respond_json(result, DISK)


def _arguments(body: bytes) -> dict[str, str]:
    try:
        document: Json = msgspec.json.decode(body or b"{}")
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise MalformedPacket(f"the body is not JSON: {error}") from error
    if not isinstance(document, dict) or len(document) > MAX_ARGUMENTS:
        raise MalformedPacket(f"expected a JSON object of at most {MAX_ARGUMENTS} texts")
    found = {name: value for name, value in document.items() if isinstance(value, str)}
    if len(found) != len(document) or any(len(text) > MAX_TEXT for text in found.values()):
        raise MalformedPacket(f"an argument is a text of at most {MAX_TEXT} characters")
    return found
