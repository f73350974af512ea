"""Requests of one Device: TLS, redirects, ETags, and failures as ours."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final
from urllib.parse import urljoin, urlsplit

from edge.mappers.driver import DeviceUnreachable
from edge.mappers.http.places import Access, Document, Request
from edge.mappers.http.targets import LedAstray, addresses, host_of, is_same_server, refusal
from gateway.errors import BadRequest, Rejected, TooLarge, Undeliverable
from gateway.runtime.small_client import HttpAnswer, fetch

_MOVED: Final = frozenset({301, 302, 303, 307, 308})
_ASKED_ANEW: Final = frozenset({301, 302, 303})
_TAG, _SINCE = "if-none-match", "if-modified-since"


class AnsweredBadly(Rejected):
    """A status that is no success."""

    code = "edge.http.status"


@dataclass(frozen=True, slots=True)
class _Kept:
    """The latest answer of a request, and by what it can be asked whether it changed."""

    conditions: Mapping[str, str]
    document: Document


class Exchange:
    """Asks and commands over HTTP; one connection per request."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._tls: ssl.SSLContext | None = None
        self._kept: dict[Request, _Kept] = {}

    async def open(self) -> None:
        """Load certificates. Errors: Rejected for files that cannot be used."""
        access = self._access
        if self._tls is None and (access.ca_file or access.certificate):
            self._tls = await asyncio.to_thread(_context, access)

    async def ask(self, request: Request) -> Document:
        """Return what is at a URL. Errors: DeviceUnreachable; AnsweredBadly; Rejected, TooLarge."""
        kept = self._kept.get(request)
        conditions = kept.conditions if kept is not None and request.method == "GET" else {}
        answer = await self._follow(request.method, request.url, request.body.encode(), conditions)
        if answer.status == 304 and kept is not None:
            return kept.document
        _check(answer)
        document = Document.read(answer.body)
        self._kept[request] = _Kept(_conditions(answer), document)
        return document

    async def command(self, method: str, url: str, body: bytes, content_type: str) -> None:
        """Send a command. Errors: as `ask`; DeviceUnreachable for 5xx, too."""
        answer = await self._follow(method, url, body, {"content-type": content_type})
        if answer.status >= 500:
            raise DeviceUnreachable(f"HTTP {answer.status}")
        _check(answer)

    async def _follow(
        self, method: str, url: str, body: bytes, more: Mapping[str, str]
    ) -> HttpAnswer:
        own: Mapping[str, str] = self._access.headers
        named = host_of(url)
        start = url
        for _ in range(self._access.max_redirects + 1):
            try:
                answer = await self._once(
                    named, method, url, body, {"accept": "*/*", **own, **more}
                )
            except LedAstray as error:
                if url is start:
                    raise
                raise AnsweredBadly(f"a redirect: {error.message}") from error
            target = answer.header("location")
            if answer.status not in _MOVED or not target:
                return answer
            there = _joined(url, target)
            if why := refusal(self._access.follow, url, there):
                raise AnsweredBadly(f"HTTP {answer.status} {why}")
            if not is_same_server(url, there):
                own = {}  # passwords belong to the server that the Device names
            url = there
            if answer.status in _ASKED_ANEW and method not in ("GET", "HEAD"):
                method, body = "GET", b""
        raise AnsweredBadly(f"more than {self._access.max_redirects} redirects")

    async def _once(
        self, named: str, method: str, url: str, body: bytes, headers: Mapping[str, str]
    ) -> HttpAnswer:
        access = self._access
        try:
            return await fetch(
                method,
                url,
                headers=headers,
                body=body,
                seconds=access.seconds,
                max_body=access.max_body,
                ssl=self._tls,
                resolve=partial(addresses, named=named, may_be_local=access.allow_local),
            )
        except (BadRequest, TooLarge, LedAstray):
            raise
        except Undeliverable as error:
            raise DeviceUnreachable(error.message) from error


def _check(answer: HttpAnswer) -> None:
    if not 200 <= answer.status < 300:
        raise AnsweredBadly(f"HTTP {answer.status}")


def _conditions(answer: HttpAnswer) -> dict[str, str]:
    tag, changed = answer.header("etag"), answer.header("last-modified")
    return {_TAG: tag} if tag else {_SINCE: changed} if changed else {}


def _joined(url: str, target: str) -> str:
    try:
        there = urljoin(url, target)
        urlsplit(there)
    except ValueError as error:
        raise AnsweredBadly("a redirect to what is no URL") from error
    return there


def _context(access: Access) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=access.ca_file or None)
        if access.certificate:
            context.load_cert_chain(access.certificate, access.private_key)
    except (OSError, ssl.SSLError) as error:
        raise Rejected(f"caFile, certificate or privateKey: {error}") from error
    return context
