"""The pump: takes uploads from the spool to the cloud, in order per lane, until each is answered.

One message of a lane is on its way at a time, so a lane's order holds whatever the cloud answers; other
lanes go on. `taken` removes it, `refused` removes and counts it, `retry` makes its lane wait with back-off.
When the link is lost, what was on its way is simply sent again: its spool place lets the cloud see a
duplicate. A cloud that acknowledges no uploads (KubeEdge's own) gets each message once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from edge.clock import now_ms, stamp
from edge.hub import LinkFull, Sender
from edge.spool import REFUSED_BY_CLOUD, ROW_BYTES, UNANSWERED, UNSENDABLE, Spool, lane_of
from gateway.errors import GatewayError, Undeliverable
from gateway.model.message import Kind, SpoolId
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracer
from gateway.runtime.backoff import Backoff
from gateway.wire.cloudedge.to_edge import Answer
from gateway.wire.cloudedge.uploads import EdgeUpload, Verdict, read_upload_answer, upload

log = logging.getLogger(__name__)

LANE_MEMORY = 32
"""Uploads of one lane that are kept in memory beside the disk."""
ALL_MEMORY = 4 * 1024 * 1024
"""Bytes of uploads that are kept in memory; above it lanes are read from disk one message at a time."""
READ_AT_ONCE = 16
MAX_LANES = 5_000
"""Lanes with waiting messages; a new one is refused above it."""
RETRY_FIRST = 0.5
RETRY_CAP = 15.0
FULL_SECONDS = 0.1
"""Pause while the link takes no more."""
EVENT_SHARE = 4
"""One part in so many of the window is for events alone: unanswered telemetry must not hold them up."""
ANSWER_SECONDS = 30.0
"""After this long without an answer an upload is sent again."""


@dataclass(slots=True)
class _Lane:
    """What waits in one lane: `head` in memory, the rest on disk up to `newest`."""

    name: str
    head: deque[EdgeUpload] = field(default_factory=deque)
    loaded: int = 0
    newest: int = 0
    sent: EdgeUpload | None = None
    pause: Backoff | None = None
    is_queued: bool = False
    is_paused: bool = False

    @property
    def is_event(self) -> bool:
        return self.name.startswith("e/")

    @property
    def has_more_on_disk(self) -> bool:
        return self.loaded < self.newest

    @property
    def is_idle(self) -> bool:
        return self.sent is None and not self.head and not self.has_more_on_disk


@dataclass(slots=True)
class _OnItsWay:
    lane: _Lane
    timer: asyncio.TimerHandle


class SpoolPump:
    """The way from any upload to the cloud's answer; a module, and a listener of the link."""

    name = "edge.spool"

    def __init__(
        self,
        spool: Spool,
        sender: Sender,
        edge_id: Callable[[], str],
        *,
        window: int,
        metrics: Metrics,
        tracer: Tracer,
    ) -> None:
        self._spool = spool
        self._sender = sender
        self._edge_id = edge_id
        self._metrics = metrics
        self._tracer = tracer
        self._lanes: dict[str, _Lane] = {}
        self._ready: dict[bool, deque[_Lane]] = {True: deque(), False: deque()}
        self._room = {True: window, False: max(1, window - max(1, window // EVENT_SHARE))}
        self._on_way: dict[str, _OnItsWay] = {}
        self._is_full = False
        self._in_memory = 0
        self._pushed_out = 0
        self._is_up = False
        self._has_answers = False
        self._answered: list[int] = []
        self._wake = asyncio.Event()
        spool.on_pushed_out = self._note_pushed_out

    def __len__(self) -> int:
        """How many lanes have messages that wait."""
        return len(self._lanes)

    # --- in -----------------------------------------------------------------------------------

    def submit(self, item: EdgeUpload, done: Callable[[GatewayError | None], None]) -> None:
        """Take an upload; `done` once it is on disk, or why it is not.

        Errors (through `done`): SpoolFull, TooLarge, Undeliverable (too many lanes), StoreUnavailable.
        """
        name = lane_of(item)
        if name not in self._lanes and len(self._lanes) >= MAX_LANES:
            done(Undeliverable(f"more than {MAX_LANES} devices wait for the cloud"))
            return

        def answer(result: int | GatewayError) -> None:
            if isinstance(result, GatewayError):
                done(result)
                return
            self._appended(name, item, result)
            done(None)

        self._spool.append(item, answer)

    def _appended(self, name: str, item: EdgeUpload, sequence: int) -> None:
        lane = self._lanes.setdefault(name, _Lane(name))
        if sequence <= lane.loaded:
            return  # a read from disk was faster than this answer
        fits = len(lane.head) < LANE_MEMORY and self._in_memory < ALL_MEMORY
        if fits and not lane.has_more_on_disk:
            self._remember(lane, replace(item, spool=SpoolId(self._edge_id(), name, sequence)))
            lane.loaded = sequence
        lane.newest = sequence
        self._offer(lane)

    def _offer(self, lane: _Lane) -> None:
        """Queue a lane that may send."""
        may_send = self._is_up and lane.sent is None and not lane.is_paused and not lane.is_idle
        if may_send and not lane.is_queued:
            lane.is_queued = True
            self._ready[lane.is_event].append(lane)
            self._wake.set()

    def _remember(self, lane: _Lane, item: EdgeUpload) -> None:
        lane.head.append(item)
        self._in_memory += _cost(item)

    def _note_pushed_out(self, sequence: int) -> None:
        self._pushed_out = sequence

    # --- the link -----------------------------------------------------------------------------

    def link_up(self, *, has_spool: bool) -> None:
        self._is_up, self._has_answers = True, has_spool
        for lane in list(self._lanes.values()):
            lane.is_paused = False
            self._offer(lane)

    def link_down(self) -> None:
        self._is_up = False
        for lanes in self._ready.values():
            lanes.clear()
        for way in self._on_way.values():
            way.timer.cancel()
        self._on_way.clear()
        for lane in self._lanes.values():
            lane.is_queued = False
            self._take_back(lane)

    def _take_back(self, lane: _Lane) -> None:
        """Put what was not taken back in front: in memory while there is room, else it is on disk."""
        sent, lane.sent = lane.sent, None
        if sent is None:
            return
        if sent.spool is not None and self._in_memory + _cost(sent) > ALL_MEMORY:
            self._forget_head(lane)
            lane.loaded = sent.spool.sequence - 1
        else:
            lane.head.appendleft(sent)
            self._in_memory += _cost(sent)

    def _forget_head(self, lane: _Lane) -> None:
        self._in_memory -= sum(_cost(item) for item in lane.head)
        lane.head.clear()

    # --- out ----------------------------------------------------------------------------------

    async def run(self, ready: Callable[[], None]) -> None:
        for waiting in await self._spool.load():
            self._lanes[waiting.lane] = _Lane(waiting.lane, newest=waiting.newest)
        ready()
        for lane in list(self._lanes.values()):
            self._offer(lane)
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._send_ready()

    async def _send_ready(self) -> None:
        while (lane := self._next_lane()) is not None:
            lane.is_queued = False
            self._skip_pushed_out(lane)
            if not lane.head and lane.has_more_on_disk:
                await self._fill(lane)
            if lane.head and lane.sent is None and self._is_up:
                self._send(lane)
            elif lane.is_idle:
                self._lanes.pop(lane.name, None)
            else:
                self._offer(lane)
            if not self._has_answers:
                await asyncio.sleep(0)  # no answers to wait for: give the others a turn

    def _next_lane(self) -> _Lane | None:
        """Return whose turn it is, events first; None while nobody may send."""
        if not self._is_up or self._is_full:
            return None
        for is_event in (True, False):
            if self._ready[is_event] and len(self._on_way) < self._room[is_event]:
                return self._ready[is_event].popleft()
        return None

    def _skip_pushed_out(self, lane: _Lane) -> None:
        """Forget telemetry that the disk does not hold any more: it is counted as lost already."""
        while lane.head and lane.head[0].kind is not Kind.EVENT:
            place = lane.head[0].spool
            if place is None or place.sequence > self._pushed_out:
                break
            self._in_memory -= _cost(lane.head.popleft())

    async def _fill(self, lane: _Lane) -> None:
        """Read a lane's next uploads; those that were pushed out meanwhile are not there any more."""
        goal = lane.newest
        count = READ_AT_ONCE if self._in_memory < ALL_MEMORY else 1
        try:
            items = await self._spool.read(lane.name, lane.loaded, count, self._edge_id())
        except GatewayError as error:
            log.warning("the spool cannot be read", extra={"cause": error.message})
            self._later(lane)
            return
        for item in items:
            self._remember(lane, item)
        last = items[-1].spool.sequence if items and items[-1].spool else 0
        lane.loaded = last if len(items) == count else max(last, goal)

    def _send(self, lane: _Lane) -> None:
        item = lane.head[0]
        with self._tracer.start(
            "edge.spool send",
            item.trace,
            "producer",
            {"device": item.device, "waited_ms": max(0, now_ms() - item.at)},
        ) as span:
            envelope = upload(stamp(), replace(item, trace=span.context))
            try:
                self._sender.send(envelope)
            except LinkFull:
                self._wait_for_room(lane)
                return
            except Undeliverable as error:
                span.event("not sent", {"cause": error.message})
                self._later(lane)
                return
            except GatewayError as error:  # no link would ever take it: it must not block its lane
                span.event("refused", {"cause": error.message})
                self._give_up(lane)
                return
        self._in_memory -= _cost(lane.head.popleft())
        if not self._has_answers:
            self._remove(item)
            self._offer(lane)
            return
        lane.sent = item
        timer = asyncio.get_running_loop().call_later(
            ANSWER_SECONDS, self._unanswered, envelope.msg_id
        )
        self._on_way[envelope.msg_id] = _OnItsWay(lane, timer)

    def _wait_for_room(self, lane: _Lane) -> None:
        """Stop sending for a moment; the lane keeps its turn."""
        lane.is_queued = self._is_full = True
        self._ready[lane.is_event].appendleft(lane)
        asyncio.get_running_loop().call_later(FULL_SECONDS, self._try_again)

    def _try_again(self) -> None:
        self._is_full = False
        self._wake.set()

    def _give_up(self, lane: _Lane) -> None:
        item = lane.head.popleft()
        self._in_memory -= _cost(item)
        log.error("an upload cannot be sent", extra={"lane": lane.name})
        self._spool.lose(UNSENDABLE, 1)
        self._remove(item)
        self._offer(lane)

    def _later(self, lane: _Lane) -> None:
        """Let a lane rest; a new link ends the rest early."""
        if lane.pause is None:
            lane.pause = Backoff(RETRY_FIRST, RETRY_CAP)
        lane.is_paused = True
        asyncio.get_running_loop().call_later(lane.pause.next(), self._resume, lane)

    def _resume(self, lane: _Lane) -> None:
        lane.is_paused = False
        self._offer(lane)

    # --- answers --------------------------------------------------------------------------------

    def take_answer(self, answer: Answer) -> bool:
        """Take the cloud's answer to an upload; False when it is not about one."""
        way = self._on_way.pop(answer.parent_id, None)
        if way is None:
            return False
        way.timer.cancel()
        try:
            verdict = read_upload_answer(answer.content)
        except GatewayError as error:
            log.warning("an unreadable answer to an upload", extra={"cause": error.message})
            self._metrics.edge_uploads_answered.labels("unreadable").inc()
            self._again(way.lane)
            return True
        self._metrics.edge_uploads_answered.labels(verdict.verdict.value).inc()
        if verdict.verdict is Verdict.RETRY:
            self._again(way.lane)
            return True
        if verdict.verdict is Verdict.REFUSED:
            self._spool.lose(REFUSED_BY_CLOUD, 1)
            log.info(
                "the cloud refused an upload",
                extra={"lane": way.lane.name, "status": verdict.status, "cause": verdict.text},
            )
        self._finish(way.lane)
        return True

    def _finish(self, lane: _Lane) -> None:
        lane.pause = None
        if lane.sent is not None:
            self._remove(lane.sent)
            lane.sent = None
        if lane.is_idle:
            self._lanes.pop(lane.name, None)
        else:
            self._offer(lane)
        self._wake.set()  # the window has room again

    def _again(self, lane: _Lane) -> None:
        self._take_back(lane)
        self._later(lane)
        self._wake.set()

    def _unanswered(self, msg_id: str) -> None:
        way = self._on_way.pop(msg_id, None)
        if way is not None:
            self._metrics.edge_uploads_answered.labels(UNANSWERED).inc()
            self._again(way.lane)

    def _remove(self, item: EdgeUpload) -> None:
        """Forget an upload with the next turn of the loop, so that a burst is one write."""
        if item.spool is None:
            return
        if not self._answered:
            asyncio.get_running_loop().call_soon(self._remove_answered)
        self._answered.append(item.spool.sequence)

    def _remove_answered(self) -> None:
        self._spool.remove(self._answered)
        self._answered = []


def _cost(item: EdgeUpload) -> int:
    return len(item.payload) + len(item.topic) + ROW_BYTES
