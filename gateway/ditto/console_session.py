"""Which request comes from the console's own page: cookie, header and origin together.

A cookie travels with whatever a browser sends; the header does not without the page's script, and the origin
says whose script it is.
"""

from __future__ import annotations

from typing import Final

from aiohttp import hdrs, web

from gateway.errors import Forbidden

COOKIE: Final = "twinspan_console"
SECURE_COOKIE: Final = "__Host-twinspan_console"
"""Its name over TLS, where browsers take it from nobody but this host."""
HEADER: Final = "x-twinspan-console"
MAX_COOKIE: Final = 128


def session_of(request: web.Request) -> str | None:
    """Return the cookie of a request that the page itself made, None for any other."""
    if request.headers.get(HEADER) != "1" or not is_from_page(request):
        return None
    return cookie_of(request)


def cookie_of(request: web.Request) -> str | None:
    """Return the session's cookie, None where there is none that could be one."""
    if hdrs.COOKIE not in request.headers:
        return None
    found = request.cookies.get(cookie_name(request))
    return found if found and len(found) <= MAX_COOKIE and found.isascii() else None


def is_secure(request: web.Request) -> bool:
    """True over TLS, also where a proxy in front ends it: claiming it wrongly only loses the cookie."""
    return request.secure or request.headers.get("X-Forwarded-Proto", "").lower() == "https"


def cookie_name(request: web.Request) -> str:
    """Return the name of the session's cookie: over TLS the one that no other host could have set."""
    return SECURE_COOKIE if is_secure(request) else COOKIE


def is_from_page(request: web.Request) -> bool:
    """False for what a browser sends for a page of another origin.

    What is no browser names no origin, and has to have the header all the same.
    """
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin"
    origin = request.headers.get(hdrs.ORIGIN)
    return origin is None or _host_of(origin) == request.headers.get(hdrs.HOST, "").lower()


def _host_of(origin: str) -> str | None:
    """Host and port of an origin, which may be anything; None where it has none."""
    _scheme, _, host = origin.partition("://")
    return host.lower() or None


def check_page(request: web.Request) -> None:
    """Errors: Forbidden for a request that the page has not made."""
    if request.headers.get(HEADER) != "1":
        raise Forbidden(
            f"The header {HEADER}: 1 is missing.",
            code="console:header.missing",
            description="This API is for the console's page.",
        )
    if not is_from_page(request):
        raise Forbidden(
            "The request comes from another origin.",
            code="console:origin.refused",
            description="Open the console at the address that it is served at.",
        )
