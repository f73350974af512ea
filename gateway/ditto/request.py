"""Reading what a Ditto request says: headers and the query parameters that mean the same, durations, bodies.

Known headers get their JSON types; what the transport needs is dropped; the rest travels with the signal,
so that consumers of its event see it. Every length is capped before it is trusted.
Source: Ditto, HTTP API concepts.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast
from urllib.parse import unquote_to_bytes

import msgspec
from aiohttp import web
from yarl import URL

from gateway.ditto.auth import Caller
from gateway.ditto.correlation import new_correlation_id
from gateway.errors import BadRequest, CommandTimeout, GatewayError, TooLarge, UnsupportedMediaType
from gateway.model.json import Json
from gateway.model.thing import LIVE, TWIN, HeaderValue
from gateway.model.trace import TraceContext
from gateway.twin.conditions import IfEqual
from gateway.twin.ditto_errors import HeadersTooLarge, ditto_error
from gateway.wire.ditto.headers import boolean, duration, labels

MAX_URI = 8_192
URI_TOO_LONG = "uri.toolong"
_BAD_ESCAPE = re.compile("%(?![0-9A-Fa-f]{2})")
_HOST = re.compile(r"[A-Za-z0-9._~%-]{1,255}(?::\d{0,5})?|\[[0-9A-Fa-f:.%]{2,45}\](?::\d{0,5})?")
MAX_HEADERS = 64
MAX_DITTO_HEADERS = 5_120
"""Bytes of all Ditto headers of one signal."""
BODY_SECONDS = 30.0
MAX_TIMEOUT = 60.0
JSON_TYPE = "application/json"
MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
FORM = "application/x-www-form-urlencoded"
EVENT_STREAM = "text/event-stream"

TRANSPORT = frozenset(
    [
        "accept",
        "accept-charset",
        "accept-encoding",
        "accept-language",
        "access-control-request-headers",
        "access-control-request-method",
        "authorization",
        "cache-control",
        "connection",
        "content-encoding",
        "content-length",
        "cookie",
        "dnt",
        "expect",
        "forwarded",
        "from",
        "host",
        "keep-alive",
        "origin",
        "pragma",
        "priority",
        "proxy-authorization",
        "raw-request-uri",
        "referer",
        "te",
        "timeout-access",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "upgrade-insecure-requests",
        "user-agent",
        "via",
        "x-ditto-pre-authenticated",
        "x-forwarded-scheme",
        "x-twinspan-console",
    ]
)
BOOLEANS = frozenset(("response-required", "allow-policy-lockout", "dry-run"))
LISTS = frozenset(("requested-acks", "declared-acks"))
WORDS = {
    "channel": (TWIN, LIVE),
    "if-equal": tuple(IfEqual),
    "live-channel-timeout-strategy": ("fail", "use-twin"),
}
OUTBOUND_ONLY = frozenset(("etag", "location", "www-authenticate", "entity-revision"))
_NOT_TAKEN = TRANSPORT | OUTBOUND_ONLY
_NOT_TAKEN_PREFIXES = ("ditto-", "sec-")
"""Ditto's own, and what browsers say of themselves."""
FROM_QUERY = (
    "channel",
    "correlation-id",
    "requested-acks",
    "declared-acks",
    "response-required",
    "timeout",
    "live-channel-timeout-strategy",
    "allow-policy-lockout",
    "condition",
    "live-channel-condition",
    "at-historical-revision",
    "at-historical-timestamp",
    "dry-run",
    "policy-view",
)
_MULTIPLE = frozenset(
    (
        "if-match",
        "if-none-match",
        "accept",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
    )
)
"""Headers that may come more than once, be it by several proxies on the way."""


@dataclass(frozen=True, slots=True)
class ApiCall:
    """One authenticated request.

    Shape:  `headers` are Ditto's, as a command takes them; `trace` is where its span stands.
    """

    request: web.Request
    caller: Caller
    correlation_id: str
    headers: Mapping[str, HeaderValue]
    trace: TraceContext

    @property
    def subjects(self) -> tuple[str, ...]:
        return self.caller.subjects

    @property
    def url(self) -> URL:
        """The URL without its query; a caller that names no host gets the address it reached."""
        request = self.request
        if "Host" not in request.headers:
            host, port = request.get_extra_info("sockname", ("localhost", 80))[:2]
            request = request.clone(host=f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        return request.url.with_query(None)

    def query(self, name: str) -> str | None:
        return self.request.query.get(name)

    def accepts_exactly(self, media_type: str) -> bool:
        """True when `Accept` is this type and nothing else; a wildcard does not match."""
        return self.request.headers.get("Accept", "").strip().lower() == media_type


def check_limits(request: web.Request) -> None:
    """Refuse an URI or headers over their limits, or not of their form.

    Errors: GatewayError 414, HeadersTooLarge 431; BadRequest for what is no URI or no host.
    """
    raw = request.raw_path
    if len(raw) > MAX_URI:
        raise GatewayError(
            f"The URI is longer than {MAX_URI} bytes.", code=URI_TOO_LONG, status=414
        )
    if len(request.headers) > MAX_HEADERS:
        raise HeadersTooLarge(f"The request has more than {MAX_HEADERS} headers.")
    if "%" in raw and not _is_well_encoded(raw):
        raise BadRequest(
            "The URI is not valid.",
            code="uri.invalid",
            description="'%' is followed by two hexadecimal digits, which stand for UTF-8.",
        )
    host = request.headers.get("Host", "")
    if host and _HOST.fullmatch(host) is None:
        raise ditto_error("header.invalid", header="host", value="", hint="It is <name>[:<port>].")


def _is_well_encoded(raw: str) -> bool:
    """Whether percents are escapes, and the query is UTF-8; paths are judged by who reads them."""
    if _BAD_ESCAPE.search(raw) is not None:
        return False
    try:
        unquote_to_bytes(raw.partition("?")[2]).decode()
    except UnicodeDecodeError:
        return False
    return True


def correlation_id_of(request: web.Request) -> str:
    """The caller's correlation id, or a new one."""
    given = request.headers.get("correlation-id") or request.query.get("correlation-id")
    return given[:512] if given and is_text(given) else new_correlation_id()


def is_text(value: str) -> bool:
    """True for what was UTF-8 on the wire; other bytes arrive as lone surrogates."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def ditto_headers(request: web.Request, correlation_id: str) -> dict[str, HeaderValue]:
    """Collect Ditto's headers from the request's headers and query.

    Errors: BadRequest `header.invalid`, `gateway:duplicate.header.field`; HeadersTooLarge.
    """
    texts = _texts(request)
    size = sum(len(name) + len(value) for name, value in texts.items())
    if size > MAX_DITTO_HEADERS:
        raise HeadersTooLarge(
            f"The headers are {size} bytes large; at most {MAX_DITTO_HEADERS} are allowed.",
            description="Send fewer or shorter headers.",
        )
    headers: dict[str, HeaderValue] = {
        name: typed_header(name, value)
        for name, value in texts.items()
        if value.strip() or name not in LISTS
    }
    headers["correlation-id"] = correlation_id
    return headers


def _texts(request: web.Request) -> dict[str, str]:
    texts: dict[str, str] = {}
    for raw, value in request.headers.items():
        name = raw.lower()
        if name in _NOT_TAKEN or name.startswith(_NOT_TAKEN_PREFIXES):
            continue
        if name in texts:
            if name not in _MULTIPLE:
                raise _duplicate(name)
            value = f"{texts[name]},{value}"
        texts[name] = value
    if not request.query_string:
        return texts
    for name in FROM_QUERY:
        for value in request.query.getall(name, ()):
            if texts.setdefault(name, value) != value:
                raise _duplicate(name)
    return texts


def _duplicate(name: str) -> GatewayError:
    return BadRequest(
        f"'{name}' was given more than once, with different values.",
        code="gateway:duplicate.header.field",
        description="Give it once, as header or as query parameter.",
    )


def typed_header(name: str, value: str) -> HeaderValue:
    """Give a header its JSON type.

    Errors: BadRequest `header.invalid`.
    """
    if not is_text(value):
        raise ditto_error("header.invalid", header=name, value="", hint="It has to be UTF-8.")
    if name in BOOLEANS:
        return boolean(value, name)
    if name in LISTS:
        return labels(value, name)
    if name == "timeout":
        duration(value)
    elif name in WORDS and value.lower() not in WORDS[name]:
        hint = f"One of {', '.join(WORDS[name])}."
        raise ditto_error("header.invalid", header=name, value=value[:200], hint=hint)
    return value


def timeout_of(headers: Mapping[str, HeaderValue], default: float, limit: float) -> float:
    """The timeout that the caller gave, in seconds.

    Errors: BadRequest `gateway:timeout.invalid` above `limit`.
    """
    given = headers.get("timeout")
    seconds = default if given is None else duration(str(given))
    if seconds > limit:
        raise BadRequest(
            f"The timeout of {seconds:g}s is not between 0 and {limit:g} seconds.",
            code="gateway:timeout.invalid",
            description="Choose a timeout within these bounds.",
        )
    return seconds


def command_timeout(seconds: float) -> GatewayError:
    """The one answer to a command that nobody answered in time."""
    return CommandTimeout(
        f"The command timed out after {seconds * 1000:,.0f}ms.",
        description="Try a larger 'timeout', and check that somebody listens.",
    )


# --- bodies ---------------------------------------------------------------------------------------


async def read_body(request: web.Request, limit: int) -> bytes:
    """Read a body of at most `limit` bytes.

    Errors: TooLarge; CommandTimeout when it does not arrive in time; BadRequest where it is broken.
    """
    if (request.content_length or 0) > limit:
        raise _too_large(limit)
    if request.content.is_eof() and request.content.exception() is None:
        body = request.content.read_nowait()  # all of it came with the headers
        if len(body) > limit:
            raise _too_large(limit)
        return body
    return await _slow_body(request, limit)


async def _slow_body(request: web.Request, limit: int) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for piece in request.content.iter_any():
                body += piece
                if len(body) > limit:
                    raise _too_large(limit)
    except TimeoutError as error:
        raise command_timeout(BODY_SECONDS) from error
    except web.RequestPayloadError as error:
        raise BadRequest(
            "The request body could not be read.",
            description="Its length, chunks or content encoding are broken.",
        ) from error
    return bytes(body)


def _too_large(limit: int) -> GatewayError:
    return TooLarge(
        f"The request body is larger than {limit} bytes.", description="Send less at a time."
    )


def require_type(request: web.Request, allowed: Iterable[str]) -> str:
    """Return the media type of the body.

    Errors: UnsupportedMediaType naming the accepted ones.
    """
    accepted = tuple(allowed)
    if request.content_type not in accepted or "Content-Type" not in request.headers:
        raise unsupported(request, accepted)
    return request.content_type


def unsupported(request: web.Request, accepted: Iterable[str]) -> GatewayError:
    """415, with the media types that are taken."""
    return UnsupportedMediaType(
        f"The Media-Type '{request.headers.get('Content-Type', 'none')}' is not supported for this"
        " resource.",
        description=f"Allowed Media-Types are: {', '.join(accepted)}.",
    )


def parse_json(body: bytes) -> Json:
    """Read a JSON body.

    Errors: BadRequest `json.invalid`.
    """
    try:
        return cast(Json, msgspec.json.decode(body))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ditto_error(
            "json.invalid", reason=str(error), hint="Check if the JSON is valid."
        ) from error
