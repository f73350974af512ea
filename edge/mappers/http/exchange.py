"""Requests of one Device: TLS, redirects, ETags, and failures as ours."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final
from urllib.parse import urljoin, urlsplit

from edge.mappers.driver import DeviceUnreachable
from edge.mappers.http.places import Access, Document, Request
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
        start = _host(url)
        for _ in range(self._access.max_redirects + 1):
            answer = await self._once(method, url, body, {"accept": "*/*", **own, **more})
            target = answer.header("location")
            if answer.status not in _MOVED or not target:
                return answer
            there = _joined(url, target)
            if not _may_follow(url, there):
                raise AnsweredBadly(f"HTTP {answer.status} to another scheme")
            if _host(there) != start and await _is_here(_host(there)):
                raise AnsweredBadly(f"HTTP {answer.status} to this machine's own services")
            if _origin(there) != _origin(url):
                own = {}  # passwords belong to the server that the Device names
            url = there
            if answer.status in _ASKED_ANEW and method not in ("GET", "HEAD"):
                method, body = "GET", b""
        raise AnsweredBadly(f"more than {self._access.max_redirects} redirects")

    async def _once(
        self, method: str, url: str, body: bytes, headers: Mapping[str, str]
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
            )
        except (BadRequest, TooLarge):
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


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""


async def _is_here(host: str) -> bool:
    """Say whether a host is this machine, or its link's: what a device must not lead us to.

    Many services listen on loopback alone, and trust whoever comes from there.
    """
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None)
    except (OSError, UnicodeError):
        return False  # then nobody is asked there
    places = [ip_address(str(each[4][0]).partition("%")[0]) for each in found]
    plain = [getattr(place, "ipv4_mapped", None) or place for place in places]
    return any(each.is_loopback or each.is_link_local or each.is_unspecified for each in plain)


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.lower()


def _may_follow(url: str, there: str) -> bool:
    scheme = urlsplit(there).scheme
    return scheme == "https" or (scheme == "http" and urlsplit(url).scheme == "http")


def _context(access: Access) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=access.ca_file or None)
        if access.certificate:
            context.load_cert_chain(access.certificate, access.private_key)
    except (OSError, ssl.SSLError) as error:
        raise Rejected(f"caFile, certificate or privateKey: {error}") from error
    return context
