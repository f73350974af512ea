"""The audit log: who asked the API for what, as `audit.k8s.io/v1` Events, one a line.

Events wait in a bounded queue for one writer; what does not fit is dropped and counted, requests never wait
for the log. A file that reached its size is renamed, the oldest beyond a number go. What tells secrets
(Secrets, tokens) is never logged above level `Metadata`. Source: Kubernetes "Auditing".
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from gateway.config.kube import KubeAudit
from gateway.errors import InvalidSetting
from gateway.kube.auth import User, user_info
from gateway.kube.authorizer import Decision
from gateway.model.json import Json, JsonObject
from gateway.observe.metrics import Metrics
from gateway.wire.kube.requests import Target

log = logging.getLogger(__name__)

LEVELS = ("None", "Metadata", "Request", "RequestResponse")
RECEIVED, STARTED, COMPLETE = "RequestReceived", "ResponseStarted", "ResponseComplete"
HEADER = "Audit-Id"
MAX_ID = 64
MAX_BATCH = 500
_METADATA, _REQUEST, _RESPONSE = 1, 2, 3
_SECRET = frozenset(
    {
        ("", "secrets", ""),
        ("", "serviceaccounts", "token"),
        ("authentication.k8s.io", "tokenreviews", ""),
    }
)


@dataclass(slots=True)
class Entry:
    """One request on its way: what is known of it so far.

    Shape:  `target` is None for a plain path; `body` and `answer` are documents where the level wants them.
    """

    audit_id: str
    uri: str
    verb: str
    target: Target | None
    addresses: list[str]
    agent: str
    received: datetime
    level: int = _METADATA
    caller: User | None = None
    user: User | None = None
    decision: Decision | None = None
    body: Json = None
    answer: Json = None
    code: int = 0
    status: JsonObject = field(default_factory=dict)

    @property
    def wants_body(self) -> bool:
        return self.level >= _REQUEST

    @property
    def wants_answer(self) -> bool:
        return self.level >= _RESPONSE


class AuditLog:
    """Writes events. Errors: (of the constructor) InvalidSetting for an unknown level."""

    def __init__(self, settings: KubeAudit, metrics: Metrics) -> None:
        if settings.level not in LEVELS:
            known = ", ".join(LEVELS)
            raise InvalidSetting(
                f"kube.audit.level: expected one of {known}, got {settings.level!r}"
            )
        self._settings = settings
        self._level = LEVELS.index(settings.level) if settings.path else 0
        self._dropped = metrics.kube_audit_dropped
        self._waiting: deque[bytes] = deque()
        self._wake = asyncio.Event()
        self._file = _File(settings)
        self._fails = False
        self._ends = False

    @property
    def is_on(self) -> bool:
        return self._level > 0

    def level_of(self, target: Target | None) -> int:
        """How much of a request is logged: nothing above metadata of what tells secrets."""
        if target is None:
            return min(self._level, _METADATA)
        group = target.group_version.rpartition("/")[0]
        if (group, target.plural, target.subresource) in _SECRET:
            return min(self._level, _METADATA)
        return self._level

    def add(self, entry: Entry, stage: str) -> None:
        """Queue an event; the queue's end is no reason to wait."""
        if len(self._waiting) >= self._settings.queue:
            self._dropped.inc()
            return
        self._waiting.append(msgspec.json.encode(event(entry, stage)) + b"\n")
        self._wake.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Write for the length of the block, and at its end what still waits.

        Errors: InvalidSetting where the file cannot be opened.
        """
        if not self.is_on:
            yield
            return
        await asyncio.to_thread(self._file.open)
        try:
            async with asyncio.TaskGroup() as group:
                writer = group.create_task(self._write())
                try:
                    yield
                finally:
                    self._ends = True
                    self._wake.set()
                    await asyncio.wait([writer])  # before the group, when it is cancelled, ends it
        finally:
            await asyncio.to_thread(self._file.close)

    async def _write(self) -> None:
        while not self._ends:
            await self._wake.wait()
            self._wake.clear()
            await self._flush()
        await self._flush()

    async def _flush(self) -> None:
        while self._waiting:
            size = min(len(self._waiting), MAX_BATCH)
            lines = [self._waiting.popleft() for _ in range(size)]
            try:
                await asyncio.to_thread(self._file.write, lines)
                self._fails = False
            except OSError as error:
                self._dropped.inc(len(lines))
                if not self._fails:
                    log.warning("the audit log cannot be written", extra={"cause": str(error)})
                self._fails = True


class _File:
    """The file, renamed when it is full. Used by one thread at a time."""

    def __init__(self, settings: KubeAudit) -> None:
        self._settings = settings
        self._path = Path(settings.path).expanduser()
        self._handle = -1
        self._size = 0

    def open(self) -> None:
        if self._settings.path == "-":
            self._handle = os.dup(sys.stdout.fileno())
            return
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._reopen()
        except OSError as error:
            raise InvalidSetting(f"kube.audit.path: cannot write {self._path}: {error}") from error

    def _reopen(self) -> None:
        self._handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._size = os.fstat(self._handle).st_size

    def write(self, lines: list[bytes]) -> None:
        for line in lines:
            if self._size and self._size + len(line) > self._settings.max_size:
                self._rotate()
            self._write_whole(line)
            self._size += len(line)

    def _write_whole(self, line: bytes) -> None:
        left = memoryview(line)
        while left:
            left = left[os.write(self._handle, left) :]

    def _rotate(self) -> None:
        if self._settings.path == "-":
            return
        os.close(self._handle)
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%S.%f")
        self._path.rename(self._path.with_name(f"{self._path.stem}-{stamp}{self._path.suffix}"))
        self._reopen()
        old = sorted(self._path.parent.glob(f"{self._path.stem}-*{self._path.suffix}"))
        for path in old[: max(0, len(old) - self._settings.max_backups)]:
            path.unlink(missing_ok=True)

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def event(entry: Entry, stage: str) -> JsonObject:
    """Return the event of a request at a stage."""
    now = entry.received if stage == RECEIVED else datetime.now(UTC)
    found: JsonObject = {
        "kind": "Event",
        "apiVersion": "audit.k8s.io/v1",
        "level": LEVELS[entry.level],
        "auditID": entry.audit_id,
        "stage": stage,
        "requestURI": entry.uri,
        "verb": entry.verb,
        "user": user_info(entry.caller) if entry.caller else {},
        "sourceIPs": [*entry.addresses],
        "userAgent": entry.agent,
    }
    if entry.user is not None and entry.user != entry.caller:
        found["impersonatedUser"] = user_info(entry.user)
    if entry.target is not None:
        found["objectRef"] = _reference(entry.target)
    if stage != RECEIVED and entry.code:
        found["responseStatus"] = {"metadata": {}, **entry.status, "code": entry.code}
    if entry.body is not None and stage != RECEIVED:
        found["requestObject"] = entry.body
    if entry.answer is not None and stage == COMPLETE:
        found["responseObject"] = entry.answer
    found["requestReceivedTimestamp"] = _micro(entry.received)
    found["stageTimestamp"] = _micro(now)
    if entry.decision is not None:
        found["annotations"] = {
            "authorization.k8s.io/decision": "allow" if entry.decision.allowed else "forbid",
            "authorization.k8s.io/reason": entry.decision.reason,
        }
    return found


_STATUS = ("status", "message", "reason", "details")


def failure(document: Json) -> JsonObject:
    """What an event repeats of a `Status`."""
    if not isinstance(document, dict) or document.get("kind") != "Status":
        return {}
    return {key: document[key] for key in _STATUS if key in document}


def _reference(target: Target) -> JsonObject:
    group, _, version = target.group_version.rpartition("/")
    values: Mapping[str, str] = {
        "resource": target.plural,
        "namespace": target.namespace,
        "name": target.name,
        "apiGroup": group,
        "apiVersion": version,
        "subresource": target.subresource,
    }
    return {key: value for key, value in values.items() if value}


def _micro(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
