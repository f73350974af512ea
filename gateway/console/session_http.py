"""Signing in and out."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web

from gateway.config.console import Console
from gateway.console.guard import RawHandler, answer, json_body, nothing
from gateway.console.sessions import Session, Sessions
from gateway.ditto.auth import DEVOPS, RESERVED
from gateway.ditto.console_session import (
    COOKIE,
    SECURE_COOKIE,
    cookie_name,
    cookie_of,
    is_secure,
)
from gateway.ditto.throttle import Throttle
from gateway.errors import BadRequest, Forbidden, Unauthenticated
from gateway.model.json import JsonObject

log = logging.getLogger(__name__)

MAX_USER = 200
Check = Callable[[str, bytes], Awaitable[bool]]


class SessionRoutes:
    """`session`: POST, GET, DELETE."""

    def __init__(
        self, sessions: Sessions, settings: Console, check: Check, throttle: Throttle
    ) -> None:
        self._sessions = sessions
        self._settings = settings
        self._check = check
        self._throttle = throttle

    def ways(self, wrap: Callable[[RawHandler], RawHandler]) -> dict[str, RawHandler]:
        return {
            hdrs.METH_POST: wrap(self.sign_in),
            hdrs.METH_GET: wrap(self.show),
            hdrs.METH_DELETE: wrap(self.sign_out),
        }

    async def sign_in(self, request: web.Request) -> web.StreamResponse:
        """Errors: Unauthenticated; Forbidden; QuotaExceeded after too many failures."""
        name, password = _credentials(await json_body(request))
        address = request.remote or ""
        self._throttle.begin(name, address)
        if not await self._check(name, password):
            log.warning("console: sign-in failed", extra={"user": name, "address": address})
            raise Unauthenticated(
                "User name or password is wrong.", code="console:login.failed", description=None
            )
        self._throttle.succeeded(name, address)
        if name in RESERVED and name != DEVOPS:
            raise Forbidden(f"The user '{name}' has no console.", code="console:user.refused")
        old = cookie_of(request)
        before = self._sessions.find(old)
        cookie = self._sessions.open(name, is_operator=name == DEVOPS, before=before)
        self._sessions.close(old)
        log.info("console: signed in", extra={"user": name, "address": address})
        session = self._sessions.find(cookie)
        if session is None:  # settings that let a session end at once
            raise Unauthenticated("The session has ended.", code="console:session.missing")
        response = answer(self._shown(session))
        self._give(request, response, cookie)
        return response

    async def show(self, request: web.Request) -> web.StreamResponse:
        """Errors: Unauthenticated."""
        session = self._sessions.find(cookie_of(request))
        if session is None:
            raise Unauthenticated("Nobody is signed in.", code="console:session.missing")
        return answer(self._shown(session))

    async def sign_out(self, request: web.Request) -> web.StreamResponse:
        """End the session, if there is one; its streams end with it."""
        self._sessions.close(cookie_of(request))
        response = nothing()
        for name in (COOKIE, SECURE_COOKIE):
            response.del_cookie(
                name, path="/", secure=is_secure(request), httponly=True, samesite="Strict"
            )
        return response

    def _give(self, request: web.Request, response: web.Response, cookie: str) -> None:
        response.set_cookie(
            cookie_name(request),
            cookie,
            path="/",
            httponly=True,
            samesite="Strict",
            secure=is_secure(request),
            max_age=int(self._settings.session_seconds),
        )

    def _shown(self, session: Session) -> JsonObject:
        return {
            "user": session.user,
            "operator": session.operator is not None,
            "ditto": session.ditto,
            "operator_user": session.operator,
            "expires": session.expires,
            "idle": self._settings.idle_seconds,
        }


def _credentials(body: JsonObject) -> tuple[str, bytes]:
    name, password = body.get("user"), body.get("password")
    if not isinstance(name, str) or not isinstance(password, str):
        raise BadRequest("body: expected user and password")
    if not 0 < len(name) <= MAX_USER or not name.isprintable():
        raise BadRequest(f"user: expected 1 to {MAX_USER} printable characters")
    try:
        return name, password.encode()
    except UnicodeEncodeError as error:
        raise BadRequest("password: expected text") from error
