"""A REST request for a node at another CloudCore: sent there as it came, and its answer passed on.

The caller's log-in goes with it: the other CloudCore judges for itself. It leaves once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aiohttp import web

from cloud.peers import FORWARDED, authority
from gateway.errors import TooLarge, Undeliverable
from gateway.runtime.http_heads import is_token
from gateway.runtime.small_client import fetch

MAX_ANSWER = 16_777_216
GRACE_SECONDS = 5.0
"""How much longer than the other CloudCore we wait: it says best why there is no answer."""
HOP_HEADERS = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection"}
    | {"te", "trailer", "transfer-encoding", "upgrade", "content-length", "host", "expect"}
    | {FORWARDED}
)
"""Headers of one connection."""


async def forward(
    request: web.Request, body: bytes, address: str, port: int, *, by: str, seconds: float
) -> web.Response:
    """Answer with what the CloudCore at `address` answers. Errors: Undeliverable."""
    headers = end_to_end(request)
    headers[FORWARDED] = [by]
    where = authority(address, port)
    try:
        answer = await fetch(
            request.method,
            f"http://{where}{request.raw_path}",
            headers=headers,
            body=body,
            seconds=seconds + GRACE_SECONDS,
            max_body=MAX_ANSWER,
        )
    except (Undeliverable, TooLarge) as error:
        text = f"the node is at CloudCore {where}: {error.message}"
        raise Undeliverable(text, status=502) from error
    return passed_on(answer.status, answer.headers, answer.body)


def end_to_end(request: web.Request, *, but: frozenset[str] = frozenset()) -> dict[str, list[str]]:
    """Return a request's headers without those of its connection, and without those named."""
    kept: dict[str, list[str]] = {}
    for name, value in request.headers.items():
        if name.lower() not in HOP_HEADERS | but:
            kept.setdefault(name, []).append(value)
    return kept


def passed_on(status: int, headers: Mapping[str, Sequence[str]], body: bytes) -> web.Response:
    """Return an answer as ours."""
    response = web.Response(status=status, body=body)
    for name, values in headers.items():
        if name.lower() not in HOP_HEADERS and is_token(name):
            for value in values:
                if value.isprintable():
                    response.headers.add(name, value)
    return response
