"""Which request comes from the console's own page: cookie, header and origin together.

A cookie travels with whatever a browser sends; the header does not without the page's script, and the origin
says whose script it is.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

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
    cookies = request.cookies
    found = cookies.get(SECURE_COOKIE) or cookies.get(COOKIE)
    return found if found and len(found) <= MAX_COOKIE and found.isascii() else None


def is_from_page(request: web.Request) -> bool:
    """False for what a browser sends for a page of another origin.

    What is no browser names no origin, and has to have the header all the same.
    """
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin"
    origin = request.headers.get(hdrs.ORIGIN)
    return origin is None or urlsplit(origin).netloc == request.headers.get(hdrs.HOST, "")


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
