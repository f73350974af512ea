"""How answers leave: JSON, YAML or indented, packed when they are large, with warnings and tags."""

from __future__ import annotations

import asyncio
import zlib
from typing import cast

import msgspec
import yaml
from aiohttp import web

from gateway.errors import GatewayError
from gateway.kube.admission import Remarks
from gateway.kube.documents import JSON, PLAIN, Document
from gateway.model.json import Json
from gateway.wire.kube.requests import PLAIN as AS_IT_IS
from gateway.wire.kube.requests import Wanted, flag
from gateway.wire.kube.status import status_of

MAX_WARNING = 256
"""Characters of one warning in a header."""
PACKED_FROM = 131_072
"""Bytes from which on the answer to a GET is packed for clients that take it so."""
_PEOPLE = ("curl", "Wget", "Mozilla/5.0")
"""User agents of people who read what is answered."""
_UNCACHED = {"Cache-Control": "no-cache, private"}
_AS_SAID = {"X-Content-Type-Options": "nosniff"}
_YAML = "application/yaml"


def plain_json(body: bytes, *, status: int = 200) -> web.Response:
    """An answer in JSON as it is."""
    return web.Response(body=body, status=status, headers={"Content-Type": JSON, **_UNCACHED})


async def answer(
    request: web.Request,
    body: bytes,
    wanted: Wanted = AS_IT_IS,
    *,
    status: int = 200,
    remarks: Remarks | None = None,
) -> web.Response:
    """A document in the form that the client wants."""
    headers = {"Content-Type": JSON, **_UNCACHED}
    if wanted.is_yaml:
        headers["Content-Type"] = _YAML
        body = await asyncio.to_thread(_as_yaml, body)
    elif is_pretty(request):
        body = msgspec.json.format(body, indent=2) + b"\n"
    if _is_packed(request, body):
        headers |= {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
        body = await asyncio.to_thread(_packed, body)
    response = web.Response(body=body, status=status, headers=headers)
    for text in remarks.texts if remarks else ():
        response.headers.add("Warning", f'299 - "{_header_text(text)}"')
    return response


def is_pretty(request: web.Request) -> bool:
    """True when JSON is to be indented: asked for, or a person reads."""
    asked = flag(request.query, "pretty")
    return request.headers.get("User-Agent", "").startswith(_PEOPLE) if asked is None else asked


def _is_packed(request: web.Request, body: bytes) -> bool:
    takes = "gzip" in request.headers.get("Accept-Encoding", "")
    return takes and request.method == "GET" and len(body) >= PACKED_FROM


def _packed(body: bytes) -> bytes:
    packer = zlib.compressobj(1, wbits=31)
    return packer.compress(body) + packer.flush()


def _as_yaml(body: bytes) -> bytes:
    value = cast("Json", msgspec.json.decode(body))
    return yaml.dump(value, Dumper=_Dumper, sort_keys=True).encode()


class _Dumper(yaml.SafeDumper):
    """Writes shared parts where they are, without references."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002
        return True


def _header_text(text: str) -> str:
    """What a quoted string in a header may hold: field names come from clients and may be anything."""
    plain = "".join(mark if mark.isprintable() else "?" for mark in text[:MAX_WARNING])
    return plain.replace("\\", "\\\\").replace('"', '\\"')


def _known_tags(request: web.Request) -> list[str]:
    sent = request.headers.get("If-None-Match", "")
    return [tag.strip().removeprefix("W/") for tag in sent.split(",")]


def cacheable(request: web.Request, document: Document) -> web.Response:
    """An answer that the client may keep and ask about by its tag."""
    headers = {"ETag": document.tag, "Vary": "Accept", "Cache-Control": "public"}
    if document.tag in _known_tags(request):
        return web.Response(status=304, headers=headers)
    headers["Content-Type"] = document.content_type
    return web.Response(body=document.body, headers=headers)


def shown(request: web.Request, document: Document) -> web.Response:
    """A document of a plain path."""
    if document.is_cacheable:
        return cacheable(request, document)
    headers = {"Content-Type": document.content_type, **_UNCACHED}
    if document.content_type == PLAIN:
        headers |= _AS_SAID
    return web.Response(body=document.body, status=document.status, headers=headers)


def no_such_path() -> web.Response:
    headers = {"Content-Type": PLAIN, **_UNCACHED, **_AS_SAID}
    return web.Response(status=404, body=b"404 page not found\n", headers=headers)


def error_response(error: GatewayError) -> web.Response:
    """A `Status` with the error's code."""
    response = plain_json(msgspec.json.encode(status_of(error)), status=error.status)
    wait = error.details.get("retryAfterSeconds")
    if error.status == 503 and wait is None:
        wait = 1
    if wait is not None:
        response.headers["Retry-After"] = str(wait)
    return response
