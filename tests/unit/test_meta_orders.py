"""Orders to mappers through MetaServer: what is taken, and what is answered."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from edge.metaorders import answer_order, path_of
from edge.metarequests import Call, read_request
from gateway.errors import MalformedPacket, MethodNotAllowed
from gateway.model.json import JsonObject
from gateway.runtime.small_service import Request


def a_request(body: bytes, method: str = "POST", path: str = "") -> Request:
    return Request(method, path or path_of("zigbee", "permit-join"), "", {}, body)


async def given(request: Request) -> list[tuple[str, str, dict[str, str]]]:
    orders = []

    async def give(protocol: str, order: str, arguments: Mapping[str, str]) -> JsonObject:
        orders.append((protocol, order, dict(arguments)))
        return {}

    call = read_request(request)
    assert isinstance(call, Call)
    assert (await answer_order(give, call, request)).status == 200
    return orders


async def test_an_order_is_given_with_its_arguments() -> None:
    body = b'{"seconds":"60"}'
    assert await given(a_request(body)) == [("zigbee", "permit-join", {"seconds": "60"})]
    assert await given(a_request(b"")) == [("zigbee", "permit-join", {})]


@pytest.mark.parametrize(
    "body",
    [b"[]", b"{", b'{"a":1}', b"\xff", b'{"a":"%s"}' % (b"x" * 1_025), b"[" * 100_000],
    ids=["list", "cut", "number", "no text", "long", "deep"],
)
async def test_arguments_are_short_texts(body: bytes) -> None:
    with pytest.raises(MalformedPacket):
        await given(a_request(body))


async def test_orders_are_posted_and_have_a_name() -> None:
    with pytest.raises(MethodNotAllowed):
        await given(a_request(b"{}", "PUT"))
    nameless = "/apis/devices.twinspan.io/v1alpha1/mappers/zigbee"
    with pytest.raises(MethodNotAllowed):
        await given(a_request(b"{}", path=nameless))
