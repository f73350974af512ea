"""HTTP as probes and hooks ask it: their headers, their redirects, their texts.

A redirect is followed on the same host only, at most ten times; certificates are not checked; at most
10 KiB of an answer are read, what is more is not waited for.
Source: Kubernetes, probes; the texts are Go's, as tools know them.
"""

from __future__ import annotations

import asyncio
import errno
import ssl as tls
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote, urljoin, urlsplit

from edge.pods.podspec import Container, HttpGetAction, IntOrText
from edge.pods.proberules import Found
from gateway.errors import BadRequest, GatewayError, TooLarge
from gateway.runtime.small_client import NotSent, open_stream

MAX_BODY = 10 * 1_024
MAX_REDIRECTS = 10
MAX_DIGITS = 19
"""Of a port."""
VERSION = "1.36"
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_SAFE = "!#$%&'()*+,/:;=?@[]~-._"


class TriedInVain(GatewayError):
    """A try that says nothing about the container: the probe itself could not be made."""

    status = 502
    code = "edge.pods.probe"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a try found, and the text for an event."""

    found: Found
    output: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    url: str
    headers: Mapping[str, tuple[str, ...]]
    host: str = ""
    """The Host header where it is not the URL's."""


def port_of(port: IntOrText, container: Container) -> int:
    """Return a port by number or by its name in the container. Errors: TriedInVain."""
    named = next((each.container_port for each in container.ports if each.name == port), None)
    text = str(port if named is None else named)
    if not text.isascii() or not text.isdigit():
        raise TriedInVain(f'strconv.Atoi: parsing "{text[:100]}": invalid syntax')
    if len(text) > MAX_DIGITS or not 0 < int(text) < 65_536:
        raise TriedInVain(f"invalid port number: {text[:MAX_DIGITS]}")
    return int(text)


def host_port(host: str, port: int) -> str:
    """Return `host:port`, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def request_of(action: HttpGetAction, container: Container, pod_ip: str, purpose: str) -> Request:
    """Return the request of a probe (`purpose` "probe") or hook ("lifecycle"). Errors: TriedInVain."""
    place = host_port(action.host or pod_ip, port_of(action.port, container))
    path = quote(action.path.partition("#")[0], safe=_SAFE)
    headers: dict[str, tuple[str, ...]] = {}
    for each in action.http_headers:
        name = each.name.title()
        headers[name] = (*headers.get(name, ()), each.value)
    host = headers.pop("Host", ("",))[0]
    headers.setdefault("User-Agent", (f"kube-{purpose}/{VERSION}",))
    if headers.setdefault("Accept", ("*/*",))[0] == "":
        del headers["Accept"]
    url = f"{(action.scheme or 'HTTP').lower()}://{place}{'' if path[:1] == '/' else '/'}{path}"
    return Request(url, headers, host)


async def probe_http(request: Request, seconds: float) -> Verdict:
    """Ask once and judge the answer."""
    try:
        async with asyncio.timeout(seconds):
            status, body = await ask(request)
    except TimeoutError:
        late = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        return Verdict(Found.FAILURE, f'Get "{request.url}": {late}')
    except GatewayError as error:
        return Verdict(Found.FAILURE, f'Get "{request.url}": {_why(error, request.url)}')
    if 200 <= status < 300:
        return Verdict(Found.SUCCESS, body)
    if 300 <= status < 400:
        return Verdict(Found.WARNING, f"Probe terminated redirects, Response body: {body}")
    return Verdict(Found.FAILURE, f"HTTP probe failed with statuscode: {status}")


async def ask(request: Request) -> tuple[int, str]:
    """Return status and beginning of the answer, redirects on the same host followed.

    Errors: as `gateway.runtime.small_client.open_stream`; BadRequest for too many redirects.
    """
    first = _host_of(request.url)
    for _ in range(MAX_REDIRECTS):
        status, location, body = await _ask_once(request)
        if status not in _REDIRECTS or not location:
            return status, body
        url, is_relative = _moved(request.url, location)
        if _host_of(url) != first:
            return status, body
        request = Request(url, request.headers, request.host if is_relative else "")
    raise BadRequest(f"stopped after {MAX_REDIRECTS} redirects")


def _host_of(url: str) -> str | None:
    """Errors: BadRequest."""
    try:
        return urlsplit(url).hostname
    except ValueError as error:
        raise BadRequest(f"parse {url[:200]!r}: {error}") from error


def _moved(url: str, location: str) -> tuple[str, bool]:
    """Return where a redirect leads, and whether it names no host. Errors: BadRequest."""
    try:
        return urljoin(url, location), not urlsplit(location).netloc
    except ValueError as error:
        raise BadRequest(f"failed to parse Location header {location[:200]!r}: {error}") from error


async def _ask_once(request: Request) -> tuple[int, str, str]:
    async with open_stream(
        "GET", request.url, headers=request.headers, ssl=_unchecked(), host=request.host
    ) as answer:
        body = bytearray()
        try:
            async for piece in answer.body:
                body += piece
                if len(body) >= MAX_BODY:
                    break
        except TooLarge:
            pass  # what came is enough
        location = (answer.headers.get("location") or ("",))[0]
        return answer.status, location, bytes(body[:MAX_BODY]).decode("utf-8", "replace")


@lru_cache(maxsize=1)
def _unchecked() -> tls.SSLContext:
    """Certificates of containers are their own business."""
    context = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = tls.CERT_NONE
    return context


def _why(error: GatewayError, url: str) -> str:
    if isinstance(error, NotSent) and isinstance(error.__cause__, OSError):
        parts = urlsplit(url)
        return dial_text(host_port(parts.hostname or "", parts.port or 0), error.__cause__)
    return (
        "EOF" if "hung up" in error.message else error.message.partition(": ")[2] or error.message
    )


_ERRNO = {
    errno.ECONNREFUSED: "connection refused",
    errno.EHOSTUNREACH: "no route to host",
    errno.ENETUNREACH: "network is unreachable",
    errno.ECONNRESET: "connection reset by peer",
    errno.ETIMEDOUT: "connection timed out",
}


def dial_text(place: str, error: OSError) -> str:
    """Return why a connection to `host:port` failed, as Go says it."""
    if isinstance(error, TimeoutError) and error.errno is None:
        return f"dial tcp {place}: i/o timeout"
    known = _ERRNO.get(error.errno or 0)
    return f"dial tcp {place}: " + (f"connect: {known}" if known else str(error))
