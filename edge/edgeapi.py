"""The Kubernetes API as edged uses it: the cloud where it answers, the disk where that is safe.

An error of the API is an error here and never kept as if it were the object. Tokens are kept by the request
that they answer: the API fills in what the request left open, so the answer is no key to it.
Source: KubeEdge reference, sections 9, 11.2 and 28.3.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from datetime import datetime

import msgspec
from msgspec import Struct

from edge.clock import now_ms, stamp
from edge.hub import Sender
from edge.metarights import account_name
from edge.store import EdgeStore, MetaObject
from gateway.errors import BadRequest, GatewayError, MalformedPacket, NotFound, Undeliverable
from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.names import Operation
from gateway.wire.cloudedge.subjects import Subject
from gateway.wire.cloudedge.to_cloud import acknowledge_answer, ask
from gateway.wire.cloudedge.to_edge import Answer, ApiFailure, read_object, read_result
from gateway.wire.kube.status import error_from

log = logging.getLogger(__name__)

TOKEN = "serviceaccounttoken"  # noqa: S105  a type, not a secret
REMOTE = frozenset(
    {
        "configmap",
        "secret",
        "persistentvolume",
        "persistentvolumeclaim",
        "volumeattachment",
        "lease",
        "certificatesigningrequest",
    }
)
"""Types that the cloud is asked for; all others are answered from disk alone."""
_SENT_UNTIL_ACKNOWLEDGED = frozenset(
    {"configmap", "secret", "persistentvolume", "persistentvolumeclaim", "volumeattachment"}
)
"""Types whose answers hold up all else that KubeEdge's cloud has for a node until they are acknowledged."""
_RESULTS = frozenset({"lease"})
"""Types whose queries are answered with `Object` and `Err`."""
LIFE_USED = 0.8
"""Part of a token's life after which a new one is asked for."""
DAY_MS = 86_400_000
"""Age at which a new token is asked for, however long it is good for."""

TokenListener = Callable[[str, str], None]


class _Kept(Struct, frozen=True):
    """A token on disk: when it came, when it ends (Unix ms), the whole TokenRequest."""

    came: int
    ends: int
    request: dict[str, object]


_kept = msgspec.json.Decoder(_Kept)


class CloudOrDisk:
    """`edge.ports.EdgeApi`."""

    def __init__(self, store: EdgeStore, sender: Sender) -> None:
        self._store = store
        self._sender = sender
        self.on_token: TokenListener = _unheard
        """Told a token and its user when the cloud gave one."""

    async def query(self, subject: Subject, content: Json = None) -> JsonObject:
        """Return an object: the cloud's, else the stored one. Errors: NotFound when neither has it."""
        if subject.type in REMOTE:
            try:
                return await self._query_cloud(subject, content)
            except Undeliverable as error:
                log.debug("answered from disk", extra={"cause": error.message})
        stored = await self._store.meta(str(subject))
        if stored is None:
            raise NotFound(f"{subject} is not on disk and the cloud is away")
        item: JsonObject = msgspec.json.decode(stored.value)
        return item

    async def _query_cloud(self, subject: Subject, content: Json) -> JsonObject:
        answer = await self._sender.ask(ask(stamp(), subject, Operation.QUERY, content))
        try:
            found = _result(answer) if subject.type in _RESULTS else _object(answer)
        except GatewayError:
            self._acknowledge(subject, answer)  # there is nothing to keep
            raise
        await self._keep(subject, found)
        self._acknowledge(subject, answer)
        return found

    def _acknowledge(self, subject: Subject, answer: Answer) -> None:
        if subject.type not in _SENT_UNTIL_ACKNOWLEDGED:
            return
        try:
            self._sender.send(acknowledge_answer(answer.resource, answer.msg_id, stamp()))
        except Undeliverable as error:
            log.debug("an answer was not acknowledged", extra={"cause": error.message})

    async def insert(self, subject: Subject, body: JsonObject) -> JsonObject:
        """Create an object in the cloud; stored as the cloud answers. Errors: Undeliverable offline."""
        answer = await self._sender.ask(ask(stamp(), subject, Operation.INSERT, body))
        found = _result(answer)
        await self._keep(subject, found)
        return found

    async def patch(self, subject: Subject, text: str) -> JsonObject:
        """Patch a status; the patch is stored first. Errors: Undeliverable offline: patch again later."""
        await self._put(MetaObject(str(subject), subject.type, text))
        answer = await self._sender.ask(ask(stamp(), subject, Operation.PATCH, text))
        found = _result(answer)
        await self._keep(subject, found)
        return found

    async def delete(self, subject: Subject, options: JsonObject) -> None:
        """Ask the cloud to delete an object; it goes from the disk when the cloud says so.

        Errors: Undeliverable offline; what the API refused, but for an object that is gone already.
        """
        answer = await self._sender.ask(ask(stamp(), subject, Operation.DELETE, options))
        if answer.ok:
            return
        try:
            _result_or_object(answer)
        except NotFound:
            return

    # --- tokens -------------------------------------------------------------------------------

    async def token(self, namespace: str, account: str, request: JsonObject) -> JsonObject:
        """Return a TokenRequest with its status: a stored one by the same request until 80 % of its life.

        Offline one that has ended is returned, too: who it is shown to refuses it, and a Pod that mounts it
        comes back after the machine's restart. Errors: Undeliverable offline without any.
        """
        key = token_key(namespace, account, request)
        kept = await self._kept(key)
        if kept is not None and kept.came <= now_ms() < _renewal(kept):
            return _token_of(kept)
        try:
            return await self._new_token(key, namespace, account, request)
        except Undeliverable:
            if kept is None:
                raise
            return _token_of(kept)

    async def _kept(self, key: str) -> _Kept | None:
        entry = await self._store.meta(key)
        return _kept.decode(entry.value) if entry is not None else None

    async def _new_token(
        self, key: str, namespace: str, account: str, request: JsonObject
    ) -> JsonObject:
        subject = Subject(namespace, TOKEN, account)
        answer = await self._sender.ask(ask(stamp(), subject, Operation.QUERY, request))
        found = _object(answer)
        token, ends = _status_of(found)
        kept = _Kept(now_ms(), ends, dict(found))
        await self._put(MetaObject(key, TOKEN, msgspec.json.encode(kept).decode()))
        self._store.drop_ended(TOKEN, now_ms() - DAY_MS)
        if not _has_audience(request):
            self.on_token(token, account_name(namespace, account))
        return found

    # --- ground -------------------------------------------------------------------------------

    async def _keep(self, subject: Subject, item: JsonObject) -> None:
        text = msgspec.json.encode(item).decode()
        await self._put(MetaObject(str(subject), subject.type, text))

    async def _put(self, entry: MetaObject) -> None:
        """Keep an object; on a full disk what is under way goes on without."""
        future: asyncio.Future[GatewayError | None] = asyncio.get_running_loop().create_future()

        def done(error: GatewayError | None) -> None:
            if not future.done():
                future.set_result(error)

        self._store.put_meta(entry, done)
        error = await future
        if error is not None:
            facts = {"object": entry.key, "cause": error.message}
            log.warning("what was asked of the cloud is not on disk", extra=facts)


def token_key(namespace: str, account: str, request: JsonObject) -> str:
    """Return the key of a token: by what was asked, whatever the order of its fields."""
    text = msgspec.json.encode(request.get("spec"), order="deterministic")
    return f"{namespace}/{TOKEN}/{account}/{hashlib.sha256(text).hexdigest()}"


def _result(answer: Answer) -> JsonObject:
    return _or_raise(read_result(answer.content))


def _result_or_object(answer: Answer) -> JsonObject:
    """Read what clouds answer in either form."""
    try:
        found = read_result(answer.content)
    except MalformedPacket:
        found = read_object(answer.content)
    return _or_raise(found)


def _object(answer: Answer) -> JsonObject:
    return _or_raise(read_object(answer.content))


def _or_raise(found: JsonObject | ApiFailure) -> JsonObject:
    if not isinstance(found, ApiFailure):
        return found
    status: JsonObject = {"reason": found.reason, "message": found.message}
    raise error_from(status, found.code)


def _token_of(kept: _Kept) -> JsonObject:
    token: JsonObject = msgspec.json.decode(msgspec.json.encode(kept.request))
    return token


def _renewal(kept: _Kept) -> float:
    """Return when a new token is asked for (Unix ms)."""
    return kept.came + min((kept.ends - kept.came) * LIFE_USED, DAY_MS)


def _has_audience(request: JsonObject) -> bool:
    """True for tokens that are for others than the API: the API takes none of them."""
    spec = request.get("spec")
    return isinstance(spec, dict) and bool(spec.get("audiences"))


def _status_of(found: JsonObject) -> tuple[str, int]:
    """Return the token and its end (Unix ms). Errors: MalformedPacket."""
    status = found.get("status")
    fields = status if isinstance(status, dict) else {}
    token, ends = fields.get("token"), fields.get("expirationTimestamp")
    if not isinstance(token, str) or not token or not isinstance(ends, str):
        raise MalformedPacket("status: expected token and expirationTimestamp in a TokenRequest")
    try:
        instant = datetime.fromisoformat(ends)
    except ValueError as error:
        raise BadRequest(f"status.expirationTimestamp: not an instant: {ends[:100]!r}") from error
    if instant.tzinfo is None:
        raise BadRequest(f"status.expirationTimestamp: without a time zone: {ends[:100]!r}")
    return token, int(instant.timestamp() * 1_000)


def _unheard(_token: str, _user: str) -> None:
    """Nobody judges tokens here."""
