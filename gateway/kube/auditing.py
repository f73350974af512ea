"""What the audit log learns from HTTP requests, and the `Audit-Id` that each answer carries."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec
from aiohttp import web

from gateway.errors import GatewayError
from gateway.kube.audit import COMPLETE, HEADER, MAX_ID, RECEIVED, STARTED, AuditLog, Entry, failure
from gateway.kube.auth import User
from gateway.kube.authorizer import Decision
from gateway.kube.bodies import read_object
from gateway.model.json import Json
from gateway.wire.kube.requests import parse_target

ENTRY = web.RequestKey("kube.audit", Entry)
"""Where a request keeps its entry."""
MAX_URI, MAX_AGENT = 4_096, 1_024
_ID = re.compile(rf"[!-~]{{1,{MAX_ID}}}")
_TRUE = ("true", "1", "t", "")
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch"}


class Auditing:
    """Follows each request from its head to its answer."""

    def __init__(self, audit: AuditLog) -> None:
        self._log = audit

    def begin(self, request: web.Request) -> None:
        """Note a request that came."""
        request[ENTRY] = entry = _entry(request)
        entry.level = self._log.level_of(entry.target)
        if entry.level:
            self._log.add(entry, RECEIVED)

    async def on_prepare(self, request: web.Request, response: web.StreamResponse) -> None:
        """Give an answer its id; note when a long one begins."""
        entry: Entry | None = request.get(ENTRY)
        if entry is None:
            return
        response.headers[HEADER] = entry.audit_id
        if entry.level and entry.verb == "watch" and not isinstance(response, web.Response):
            entry.code = response.status
            self._log.add(entry, STARTED)

    def cut(self, request: web.Request) -> None:
        """Note that an answer ended before its end: a watch at the end of the server."""
        entry: Entry = request[ENTRY]
        if entry.level:
            self._log.add(entry, COMPLETE)

    def end(self, request: web.Request, response: web.StreamResponse) -> None:
        """Note what was answered."""
        entry: Entry = request[ENTRY]
        if not entry.level:
            return
        entry.code = response.status
        if isinstance(response, web.Response) and isinstance(response.body, bytes):
            if response.status >= 400:
                entry.status = failure(_document(response.body))
            if entry.wants_answer and response.content_type == "application/json":
                entry.answer = _document(response.body)
        self._log.add(entry, COMPLETE)


def note_caller(request: web.Request, caller: User, user: User) -> None:
    """Remember who calls, and as whom."""
    entry: Entry | None = request.get(ENTRY)
    if entry is not None:
        entry.caller, entry.user = caller, user


def note_decision(request: web.Request, decision: Decision) -> None:
    """Remember why a request was allowed, or not."""
    entry: Entry | None = request.get(ENTRY)
    if entry is not None:
        entry.decision = decision


def note_body(request: web.Request, body: bytes) -> None:
    """Remember what was sent, where it is wanted; what cannot be read is left out."""
    entry: Entry | None = request.get(ENTRY)
    if entry is None or not entry.wants_body or not body:
        return
    try:
        if request.method == "PATCH":
            entry.body = _document(body)
        else:
            entry.body = read_object(body, request.headers.get("Content-Type"))
    except GatewayError:
        return


def _document(body: bytes) -> Json:
    try:
        found: Json = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return None
    return found


def _entry(request: web.Request) -> Entry:
    headers, target = request.headers, parse_target(request.path)
    asked = headers.get(HEADER, "")
    verb = request.method.lower()
    if target is not None:
        verb = _verb(request.method, request.query, is_named=bool(target.name))
    return Entry(
        audit_id=asked if _ID.fullmatch(asked) else str(uuid.uuid4()),
        uri=request.path_qs[:MAX_URI],
        verb=verb,
        target=target,
        addresses=[request.remote] if request.remote else [],
        agent=headers.get("User-Agent", "")[:MAX_AGENT],
        received=datetime.now(UTC),
    )


def _verb(method: str, query: Mapping[str, str], *, is_named: bool) -> str:
    if method in ("GET", "HEAD"):
        if is_named:
            return "get"
        return "watch" if query.get("watch", "no").lower() in _TRUE else "list"
    if method == "DELETE":
        return "delete" if is_named else "deletecollection"
    return _VERBS.get(method, method.lower())
