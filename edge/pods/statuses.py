"""Statuses of Pods on their way to the API: kept on disk, coalesced, patched in order, then the Pod's end.

Of each Pod the newest status is kept, on disk too: restart counts and start times outlive a restart without
cloud. At most one patch of a Pod is on its way; what came meanwhile goes with the next. After a time without
cloud the patches go in a bounded burst. A Pod that has ended is deleted once its last status was taken.
Source: KubeEdge reference, sections 9, 10.3 and 11.3; behaviour of kubelet 1.36.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
from msgspec import Struct

from edge.pods.pacing import Bucket
from edge.pods.podspec import Pod
from edge.pods.podstatus import ENDED, closed
from edge.pods.statuspatch import is_another_s, patch_text, version_of
from edge.ports import EdgeApi
from edge.store import EdgeStore, MetaObject
from gateway.errors import (
    Conflict,
    GatewayError,
    NotFound,
    QuotaExceeded,
    Rejected,
    Undeliverable,
)
from gateway.model.json import JsonObject
from gateway.observe.metrics import Metrics
from gateway.runtime.backoff import Backoff
from gateway.wire.cloudedge.subjects import Subject
from gateway.wire.kube.parts import part

log = logging.getLogger(__name__)

KIND = "podstatus"
PATCH = "podpatch"
POD = "pod"
AT_ONCE = 8
"""Patches and deletions on their way."""
PER_SECOND = 25.0
BURST = 100.0
RETRY_FIRST, RETRY_CAP = 1.0, 30.0

MirrorUid = Callable[[str], str | None]
"""The uid of the mirror of a static Pod in the API, by the Pod's own; None while there is none."""


class _Kept(Struct, frozen=True):
    """A row on disk."""

    uid: str
    namespace: str
    name: str
    status: dict[str, object]
    is_static: bool = False
    is_finished: bool = False


_kept = msgspec.json.Decoder(_Kept)


@dataclass(slots=True)
class _Entry:
    """What is known of one Pod's status."""

    uid: str
    namespace: str
    name: str
    status: JsonObject
    is_static: bool
    shown: JsonObject = field(default_factory=dict)
    """The API's status, as the Pod came last."""
    accepted: JsonObject | None = None
    version: int = 0
    is_dirty: bool = False
    is_finished: bool = False
    is_sending: bool = False
    is_refused: bool = False
    """The API does not take this very status: it is not told again before it changes."""
    is_done: bool = False
    """Nothing of it is in the API any more."""
    backoff: Backoff = field(default_factory=lambda: Backoff(RETRY_FIRST, RETRY_CAP))

    @property
    def row(self) -> str:
        return f"{self.namespace}/{KIND}/{self.name}/{self.uid}"

    @property
    def has_work(self) -> bool:
        return not self.is_done and (self.is_dirty or (self.is_finished and not self.is_static))


class Statuses:
    """`edge.pods.ports.StatusSink`, as a module and listener of the link.

    What was known before is there once `run` is ready: start it before whoever asks. `mirror_uid` is set by
    static Pods.
    """

    name = "edge.pods.statuses"

    def __init__(self, api: EdgeApi, store: EdgeStore, metrics: Metrics) -> None:
        self._api = api
        self._store = store
        self._count = metrics.edge.pod_statuses
        self._entries: dict[str, _Entry] = {}
        self._due: OrderedDict[str, None] = OrderedDict()
        self._later: dict[str, asyncio.TimerHandle] = {}
        self._wake = asyncio.Event()
        self._is_up = False
        self._bucket = Bucket(PER_SECOND, BURST)
        self.mirror_uid: MirrorUid = _no_mirror

    # --- the port ---------------------------------------------------------------------------------

    def set(self, pod: Pod, status: JsonObject) -> None:
        """Take a Pod's newest status: kept on disk, patched when the cloud is there, coalesced."""
        entry = self._entries.get(pod.uid)
        if entry is None:
            namespace, name = pod.key
            entry = _Entry(pod.uid, namespace, name, {}, pod.is_static)
            self._entries[pod.uid] = entry
        self._see(entry, pod.raw)
        if entry.status.get("startTime"):
            status = {**status, "startTime": entry.status["startTime"]}
        if status == entry.status:
            if entry.accepted is None and not (entry.is_dirty or entry.is_refused):
                self._mark(entry)
            return
        if entry.status.get("phase") in ENDED and status.get("phase") not in ENDED:
            log.error("a status that takes an end back was dropped", extra={"pod": _told(entry)})
            return
        entry.status, entry.is_refused = status, False
        self._keep(entry)
        self._mark(entry)

    def known(self, uid: str) -> JsonObject | None:
        """Return the newest status of a Pod, also from before a restart."""
        entry = self._entries.get(uid)
        return entry.status if entry is not None and entry.status else None

    def finished(self, pod: Pod) -> None:
        """All of a deleted Pod has ended: its last status goes first, then it is deleted with grace 0."""
        status = self.known(pod.uid) or part(pod.raw, "status")
        self.set(pod, closed(pod, status, time.time()))
        entry = self._entries[pod.uid]
        if not entry.is_finished:
            entry.is_finished = True
            self._keep(entry)
        self._put(entry)

    def forget(self, uid: str) -> None:
        """The Pod is gone from the API."""
        entry = self._entries.pop(uid, None)
        self._due.pop(uid, None)
        self._cancel(uid)
        if entry is not None:
            entry.is_done = True
            self._store.delete_meta(entry.row, "", _unwaited)
            own = (
                "" if entry.is_static else uid
            )  # what was patched then is its mirror, of that name
            self._store.delete_meta(f"{entry.namespace}/{PATCH}/{entry.name}", own, _unwaited)

    def mirror_changed(self, uid: str) -> None:
        """The mirror of a static Pod is new: it is told all."""
        entry = self._entries.get(uid)
        if entry is not None:
            entry.accepted, entry.shown, entry.version = None, {}, 0
            self._mark(entry)

    def keep_static(self, uids: frozenset[str]) -> None:
        """Forget static Pods but these: their files are gone."""
        for uid in [each.uid for each in self._entries.values() if each.is_static]:
            if uid not in uids:
                self.forget(uid)

    def waiting(self) -> int:
        """Return how many Pods the API is still to be told of."""
        return sum(each.has_work for each in self._entries.values())

    def _see(self, entry: _Entry, raw: JsonObject) -> None:
        """Note the API's Pod; what somebody else wrote over ours is told again."""
        if entry.is_static:
            return
        version, entry.shown = version_of(raw), part(raw, "status")
        if entry.accepted is None or version <= entry.version:
            return
        entry.version = version
        if is_another_s(entry.shown, entry.accepted):
            entry.accepted = None

    def _mark(self, entry: _Entry) -> None:
        entry.is_dirty = True
        self._put(entry)

    def _put(self, entry: _Entry) -> None:
        if entry.has_work and not entry.is_sending:
            self._cancel(entry.uid)
            self._due[entry.uid] = None
            self._wake.set()

    def _cancel(self, uid: str) -> None:
        handle = self._later.pop(uid, None)
        if handle is not None:
            handle.cancel()

    # --- disk -------------------------------------------------------------------------------------

    def _keep(self, entry: _Entry) -> None:
        kept = _Kept(
            entry.uid,
            entry.namespace,
            entry.name,
            dict(entry.status),
            entry.is_static,
            entry.is_finished,
        )
        row = MetaObject(entry.row, KIND, msgspec.json.encode(kept).decode())
        self._store.put_meta(row, _log_failure)

    async def _load(self) -> None:
        """Read what is known from before; what the API has no Pod for any more goes."""
        pods = {_uid(each.value) for each in await self._store.meta_of_type(POD)}
        for row in await self._store.meta_of_type(KIND):
            try:
                kept = _kept.decode(row.value)
            except msgspec.DecodeError:
                self._store.delete_meta(row.key, "", _unwaited)
                continue
            status: JsonObject = msgspec.json.decode(msgspec.json.encode(kept.status))
            entry = _Entry(kept.uid, kept.namespace, kept.name, status, kept.is_static)
            entry.is_finished = kept.is_finished
            self._entries[kept.uid] = entry
            if not kept.is_static and kept.uid not in pods:
                self.forget(kept.uid)
            elif kept.is_finished:
                self._mark(entry)

    # --- the link ---------------------------------------------------------------------------------

    def link_up(self, *, has_spool: bool) -> None:  # noqa: ARG002  statuses need no spool
        """What waits goes now."""
        self._is_up = True
        for entry in self._entries.values():
            self._put(entry)
        self._wake.set()

    def link_down(self) -> None:
        self._is_up = False

    async def run(self, ready: Callable[[], None]) -> None:
        await self._load()
        ready()
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(AT_ONCE):
                    group.create_task(self._work())
        finally:
            for uid in list(self._later):
                self._cancel(uid)

    async def _work(self) -> None:
        while True:
            entry = await self._next()
            if entry is None:
                continue
            entry.is_sending = True
            try:
                await self._advance(entry)
            except Exception:  # the top of one Pod's turn: the others' go on
                log.exception("a status failed", extra={"pod": _told(entry)})
                entry.is_dirty = True
                self._again(entry)
            finally:
                entry.is_sending = False
            if entry.has_work and entry.uid not in self._later:
                self._put(entry)

    async def _next(self) -> _Entry | None:
        while not (self._is_up and self._due):
            self._wake.clear()
            await self._wake.wait()
        uid, _ = self._due.popitem(last=False)
        return self._entries.get(uid)

    async def _advance(self, entry: _Entry) -> None:
        """Tell the status, then the end; what cannot be told now is told later."""
        try:
            if entry.is_dirty:
                await self._patch(entry)
            if entry.is_finished and not entry.is_dirty and not entry.is_static:
                await self._delete(entry)
        except (Undeliverable, QuotaExceeded) as error:
            log.debug("a status waits", extra={"pod": _told(entry), "cause": error.message})
            self._again(entry)
        else:
            entry.backoff.reset()

    def _again(self, entry: _Entry) -> None:
        if self._entries.get(entry.uid) is not entry:
            return
        later = asyncio.get_running_loop().call_later
        self._later[entry.uid] = later(entry.backoff.next(), self._retry, entry)

    def _retry(self, entry: _Entry) -> None:
        self._later.pop(entry.uid, None)
        self._put(entry)

    async def _patch(self, entry: _Entry) -> None:
        """Errors: Undeliverable, QuotaExceeded; the status stays to be told."""
        uid = self.mirror_uid(entry.uid) if entry.is_static else entry.uid
        entry.is_dirty = False
        if uid is None:
            return  # its mirror's coming marks it again
        status = entry.status
        patch = patch_text(uid, status, entry.accepted, entry.shown)
        if not patch:
            return
        await self._turn()
        try:
            after = await self._api.patch(Subject(entry.namespace, PATCH, entry.name), patch)
        except (NotFound, Conflict) as error:
            self._gone(entry, error)
        except QuotaExceeded:
            entry.is_dirty = True
            raise
        except Rejected as error:
            self._count.labels("refused").inc()
            entry.accepted, entry.is_refused = None, True
            facts = {"pod": _told(entry), "status": error.status, "cause": error.message}
            log.warning("the API refused a status", extra=facts)
        except GatewayError as error:
            entry.is_dirty = True
            raise Undeliverable(error.message) from error
        else:
            self._count.labels("taken").inc()
            entry.accepted, entry.version = status, max(entry.version, version_of(after))

    async def _turn(self) -> None:
        """Wait until one more request may go."""
        await asyncio.sleep(self._bucket.take(time.monotonic()))

    def _gone(self, entry: _Entry, error: GatewayError) -> None:
        """There is no such Pod in the API, or another one of its name."""
        self._count.labels("gone").inc()
        entry.accepted = None
        entry.is_done = not entry.is_static
        log.info("a status has no Pod", extra={"pod": _told(entry), "cause": error.message})

    async def _delete(self, entry: _Entry) -> None:
        """Errors: Undeliverable, QuotaExceeded."""
        if entry.is_done:
            return
        options: JsonObject = {"gracePeriodSeconds": 0, "preconditions": {"uid": entry.uid}}
        await self._turn()
        try:
            await self._api.delete(Subject(entry.namespace, POD, entry.name), options)
        except (NotFound, Conflict):
            entry.is_done = True
        except Undeliverable:
            raise
        except GatewayError as error:
            facts = {"pod": _told(entry), "cause": error.message}
            log.warning("the end of a Pod was not taken", extra=facts)
            raise Undeliverable(error.message) from error
        else:
            entry.is_done = True


class _Uid(Struct):
    uid: str = ""


class _Object(Struct):
    metadata: _Uid = msgspec.field(default_factory=_Uid)


def _uid(value: str) -> str:
    try:
        return msgspec.json.decode(value, type=_Object).metadata.uid
    except msgspec.DecodeError:
        return ""


def _told(entry: _Entry) -> str:
    return f"{entry.namespace}/{entry.name}"


def _no_mirror(_uid: str) -> str | None:
    """There are no static Pods."""
    return None


def _unwaited(_result: object) -> None:
    """Nobody waits for this write."""


def _log_failure(error: GatewayError | None) -> None:
    if error is not None:
        log.error("a status is not on disk", extra={"cause": error.message})
