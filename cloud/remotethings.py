"""The things service far away: commands become requests to Ditto's HTTP API.

The caller's subjects count for nothing there: the remote's policies bind the subject of our credentials. Who
watches is told by `RemoteSignals`; a command waits until the namespace of its thing is watched, so that
nothing that happens after it is missed.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import msgspec

from cloud.remotehttp import JSON, Answer, RemoteHttp, segment
from cloud.remotemirror import READ_FIELDS, Mirror
from cloud.remotepatch import as_commands
from gateway.errors import Conflict, GatewayError, NotBuilt, NotFound, PreconditionFailed
from gateway.model.json import Json, JsonObject
from gateway.model.thing import TWIN, Action, ThingCommand, ThingResult

MERGE_PATCH: Final = "application/merge-patch+json"
_HEADERS: Final = (
    "if-match",
    "if-none-match",
    "if-equal",
    "correlation-id",
    "requested-acks",
    "put-metadata",
)
_QUERIES: Final = ("condition", "timeout")
"""What goes into the query, where any text can stand."""


@dataclass(frozen=True, slots=True)
class _Verb:
    method: str
    content_type: str = JSON
    has_body: bool = True


_VERBS: Final = {
    Action.CREATE: _Verb("PUT"),
    Action.RETRIEVE: _Verb("GET", has_body=False),
    Action.MODIFY: _Verb("PUT"),
    Action.MERGE: _Verb("PATCH", MERGE_PATCH),
    Action.DELETE: _Verb("DELETE", has_body=False),
}


class Cover(Protocol):
    """Makes sure that changes in a namespace are heard of."""

    async def cover(self, namespace: str) -> None:
        """Return once they are. Errors: Undeliverable while the remote is away."""

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something beside, for as long as the module runs."""


class RemoteThings:
    """Port `Things` over HTTP."""

    def __init__(self, http: RemoteHttp, mirror: Mirror, cover: Cover) -> None:
        self._http = http
        self._mirror = mirror
        self._cover = cover

    def submit(
        self, command: ThingCommand, done: Callable[[ThingResult | GatewayError], None]
    ) -> None:
        """Run a command; `done` gets what the remote answers."""

        async def run() -> None:
            try:
                outcome: ThingResult | GatewayError = await self.execute(command)
            except GatewayError as error:
                outcome = error
            done(outcome)

        self._cover.start(run())

    async def execute(self, command: ThingCommand) -> ThingResult:
        """Run a command. Errors: the remote's; Undeliverable while it is away; NotBuilt."""
        if command.channel != TWIN or command.action is Action.MIGRATE:
            raise NotBuilt(f"{command.channel} {command.action} at a remote Ditto")
        await self._cover.cover(command.thing_id.partition(":")[0])
        if command.action is Action.PATCH:
            return await self._patch(command)
        if command.action is Action.RETRIEVE and not command.path and not command.headers:
            return await self._read(command)
        return await self._ask(command)

    async def read(self, thing_id: str, *, tells: bool) -> JsonObject | None:
        """Read a whole thing into the mirror. Errors: as `execute`, but for a thing that is not there."""
        self._mirror.reading(thing_id)
        try:
            found = await self._document(thing_id)
        except BaseException:
            self._mirror.failed(thing_id)
            raise
        self._mirror.found(thing_id, found, tells=tells)
        return found

    # --- requests -----------------------------------------------------------------------------------

    async def _document(self, thing_id: str) -> JsonObject | None:
        path = f"/api/2/things/{segment(thing_id)}"
        try:
            answer = await self._http.call("GET", path, query={"fields": READ_FIELDS})
        except NotFound:
            return None
        value = answer.json()
        return value if isinstance(value, dict) else None

    async def _read(self, command: ThingCommand) -> ThingResult:
        """A whole thing goes through the mirror, so that its next events find it there."""
        document = await self.read(command.thing_id, tells=False)
        if document is None:
            raise NotFound(
                f"The Thing with ID '{command.thing_id}' could not be found.",
                code="things:thing.notfound",
            )
        revision = document.get("_revision")
        return ThingResult(
            status=200,
            value=document,
            has_value=True,
            revision=revision if isinstance(revision, int) else None,
        )

    async def _ask(self, command: ThingCommand) -> ThingResult:
        verb = _VERBS[command.action]
        path = _path(command)
        headers = {n: str(command.headers[n]) for n in _HEADERS if n in command.headers}
        if command.action is Action.CREATE:
            headers["if-none-match"] = "*"
        if command.trace is not None:
            headers["traceparent"] = command.trace.traceparent
        query = {n: str(command.headers[n]) for n in _QUERIES if n in command.headers}
        if command.fields:
            query["fields"] = command.fields
        try:
            answer = await self._http.call(
                verb.method,
                path,
                query=query,
                headers=headers,
                body=msgspec.json.encode(command.value) if verb.has_body else None,
                content_type=verb.content_type,
            )
        except PreconditionFailed as error:
            if command.action is Action.CREATE:
                raise Conflict(error.message, code="things:thing.conflict") from error
            raise
        return _result(answer, is_whole=not command.path)

    async def _patch(self, command: ThingCommand) -> ThingResult:
        """A JSON Patch: read, then one command for the revision that was read.

        Errors: PreconditionFailed too when somebody else was faster: read again, decide again.
        """
        before = await self._document(command.thing_id)
        if before is None:
            raise NotFound(
                f"The Thing with ID '{command.thing_id}' could not be found.",
                code="things:thing.notfound",
            )
        patch = command.value if isinstance(command.value, list) else [command.value]
        result = ThingResult(status=204, revision=_number(before.get("_revision")))
        for one in as_commands(patch, before, replace(command, fields=None)):
            result = await self._ask(one)
        return result


def _path(command: ThingCommand) -> str:
    escaped = (key.replace("~", "~0").replace("/", "~1") for key in command.path)
    return "/".join(("/api/2/things", *map(segment, (command.thing_id, *escaped))))


def _result(answer: Answer, *, is_whole: bool) -> ThingResult:
    etag = answer.headers.get("ETag")
    revision = _number(answer.headers.get("entity-revision", ""))
    if revision is None and is_whole and etag:
        revision = _number(etag.removeprefix("W/").strip('"').removeprefix("rev:"))
    return ThingResult(
        status=answer.status,
        value=answer.json() if answer.body else None,
        has_value=bool(answer.body),
        etag=etag,
        revision=revision,
        headers=_told(answer.headers),
    )


def _told(headers: Mapping[str, str]) -> dict[str, str]:
    found = headers.get("correlation-id")
    return {} if found is None else {"correlation-id": found}


def _number(value: Json) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        return int(value) if value.isdigit() and len(value) < 19 else None
    return value if isinstance(value, int) else None
