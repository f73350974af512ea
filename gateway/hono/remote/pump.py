"""The pump: takes one tenant's messages from the disk to the remote, in order for each device.

One message of a lane (a device's telemetry, or its events) is on its way at a time, so its order holds
whatever the remote answers; other lanes go on. Accepted: deleted. Refused for good: deleted, counted and
logged. Not taken: the lane waits with back-off. Connection lost: sent again, marked as a possible duplicate.

A message that ends the connection each time it is sent would stop all others for ever. So after a loss the
messages that were under way go alone, one after another; what alone ends `MAX_STRIKES` connections is given
up.

Telemetry of QoS 0 goes directly while the remote takes it and nothing of its device waits.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Final

import msgspec

from gateway.errors import GatewayError, Rejected, TooLarge, Undeliverable
from gateway.hono.remote.lanes import Flight, Lane, LastRefusal, cost
from gateway.hono.remote.meters import RelayMeters
from gateway.hono.remote.uplink import Uplink
from gateway.model.message import Kind, Message
from gateway.model.ports import Done
from gateway.observe.tracing import Span, Tracer
from gateway.runtime.backoff import Backoff
from gateway.store.relay import EXPIRED, LaneKey, RelaySpool, Stored

log = logging.getLogger(__name__)

MAX_LANES: Final = 200_000
"""Devices and kinds with messages that wait; a new one is refused above it."""
LANE_MEMORY: Final = 32
"""Messages of one lane that are kept in memory beside the disk."""
ALL_MEMORY: Final = 8 * 1_048_576
"""Bytes of messages in memory; above it lanes are read from disk one message at a time."""
READ_LANES: Final = 50
READ_AT_ONCE: Final = 16
EVENT_SHARE: Final = 4
"""One part in so many of the window is for events alone."""
RESERVE: Final = 1_000
"""Ids that are noted on disk as possibly sent before the first of them is."""
RETRY_FIRST: Final = 0.5
RETRY_CAP: Final = 30.0
MAX_STRIKES: Final = 5
STRIKE_SECONDS: Final = 5.0
"""A connection that ends later than this after a message was sent did not end because of it."""
HOUSE_SECONDS: Final = 1.0
PURGE_SECONDS: Final = 15.0
WIND_UP_SECONDS: Final = 1.0
STORE_PAUSE: Final = 1.0
CHECKED_FROM: Final = 1_024
"""Payloads of fewer bytes fit into every remote."""

REFUSED: Final = "refused"
UNSENDABLE: Final = "unsendable"


class Pump:
    """The way from an upload to the remote's outcome.

    Units:  `answer_timeout` in seconds.
    """

    def __init__(
        self,
        spool: RelaySpool,
        meters: RelayMeters,
        tracer: Tracer,
        *,
        window: int,
        answer_timeout: float,
    ) -> None:
        self._spool = spool
        self._meters = meters
        self._tracer = tracer
        self._answer_timeout = answer_timeout
        self._room = {True: window, False: max(1, window - max(1, window // EVENT_SHARE))}
        self._lanes: dict[LaneKey, Lane] = {}
        self._ready: dict[bool, deque[Lane]] = {True: deque(), False: deque()}
        self._suspects: deque[Lane] = deque()
        self._flights: dict[int, Flight] = {}
        self._link: Uplink | None = None
        self._in_memory = 0
        self._dropped_up_to = 0
        self._reserved = 0
        self._accepted: list[int] = []
        self._wake = asyncio.Event()
        self._is_stopping = False
        self.on_accepted: Callable[[], None] = _nothing
        self.last_refusal: LastRefusal | None = None
        spool.on_dropped = self._note_dropped

    @property
    def under_way(self) -> int:
        """Messages that were sent and have no outcome."""
        return len(self._flights)

    # --- in ------------------------------------------------------------------------------------------

    def submit(self, message: Message, done: Done) -> None:
        """Take a message; `done` once it is on disk (QoS 0: or sent), or why it is not.

        Errors (through `done`): RelayFull, TooLarge, Undeliverable (too many lanes), StoreUnavailable.
        """
        key = (message.kind is Kind.EVENT, message.device)
        lane, link = self._lanes.get(key), self._link
        if link is not None and len(message.payload) > CHECKED_FROM and not link.fits(message):
            self._meters.refused(message.kind)
            done(TooLarge(f"the remote takes no message of {len(message.payload)} bytes"))
            return
        if lane is None:
            if not message.qos and link is not None and link.can_send and not self._suspects:
                link.send(message, partial(self._sent_directly, message.kind, done))
                return
            if len(self._lanes) >= MAX_LANES:
                self._meters.refused(message.kind)
                done(Undeliverable(f"more than {MAX_LANES} devices wait for the remote"))
                return
            lane = self._lanes[key] = Lane(key)
        lane.appending += 1
        self._spool.append(message, partial(self._appended, lane, message.kind, done))

    def _sent_directly(self, kind: Kind, done: Done, error: GatewayError | None) -> None:
        self._meters.outcome(kind, "sent" if error is None else "rejected")
        done(error)

    def _appended(self, lane: Lane, kind: Kind, done: Done, result: Stored | GatewayError) -> None:
        lane.appending -= 1
        if isinstance(result, GatewayError):
            self._meters.refused(kind)
            self._forget_if_idle(lane)
            done(result)
            return
        self._add(lane, result)
        done(None)

    def _add(self, lane: Lane, item: Stored) -> None:
        if item.id > lane.loaded:  # else a read from disk was faster than this answer
            fits = len(lane.head) < LANE_MEMORY and self._in_memory < ALL_MEMORY
            if fits and not lane.has_more_on_disk:
                self._remember(lane, item)
                lane.loaded = item.id
            lane.newest = item.id
        self._offer(lane)

    def _remember(self, lane: Lane, item: Stored) -> None:
        lane.head.append(item)
        self._in_memory += cost(item)

    def _take_head(self, lane: Lane) -> Stored:
        item = lane.head.popleft()
        self._in_memory -= cost(item)
        return item

    def _offer(self, lane: Lane) -> None:
        """Queue a lane that may send."""
        may_send = self._link is not None and lane.under_way is None and not lane.is_paused
        if may_send and lane.waits and not lane.is_queued:
            lane.is_queued = True
            self._ready[lane.key[0]].append(lane)
            self._wake.set()

    def _forget_if_idle(self, lane: Lane) -> None:
        if lane.is_idle and self._lanes.get(lane.key) is lane:
            del self._lanes[lane.key]

    def _note_dropped(self, up_to: int) -> None:
        self._dropped_up_to = max(self._dropped_up_to, up_to)

    # --- the link ------------------------------------------------------------------------------------

    def up(self, link: Uplink) -> None:
        """The remote has let us in."""
        self._link = link
        for lane in self._lanes.values():
            lane.is_paused = False
            self._offer(lane)
        self._wake.set()

    def has_room(self) -> None:
        """The link may be able to send again."""
        self._wake.set()

    def down(self, *, by_peer: bool) -> None:
        """The link is gone: what was under way has no outcome and is sent again."""
        self._link = None
        for queue in self._ready.values():
            for lane in queue:
                lane.is_queued = False
            queue.clear()
        flights, self._flights = list(self._flights.values()), {}
        for flight in flights:
            lane, lane.under_way = flight.lane, None
            self._meters.outcome(flight.item.message.kind, "unanswered")
            flight.span.end(Undeliverable("the connection was lost"))
            lane.head.appendleft(flight.item)
            self._in_memory += cost(flight.item)
        if by_peer:
            self._suspect(flights)

    def _suspect(self, flights: list[Flight]) -> None:
        now = time.perf_counter()
        if len(flights) == 1 and now - flights[0].started < STRIKE_SECONDS:
            lane = flights[0].lane
            lane.strikes += 1
            if lane.strikes >= MAX_STRIKES:
                self._give_up(lane, self._take_head(lane), UNSENDABLE, _POISON)
                self._forget_if_idle(lane)
                return
        for flight in reversed(flights):
            if not flight.lane.is_suspect:
                flight.lane.is_suspect = True
                self._suspects.appendleft(flight.lane)

    # --- out -----------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Read what an earlier run left.

        Errors: StoreUnavailable.
        """
        lanes, sent_up_to = await self._spool.load()
        self._reserved = sent_up_to
        for waiting in lanes:
            self._lanes[waiting.lane] = Lane(
                waiting.lane, sent_up_to=sent_up_to, newest=waiting.newest
            )

    async def run(self) -> None:
        """Send until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_house())
            while True:
                await self._wake.wait()
                self._wake.clear()
                try:
                    await self._send_ready()
                except GatewayError as error:
                    log.warning("the relay's store does not work", extra={"cause": error.message})
                    await asyncio.sleep(STORE_PAUSE)
                    self._wake.set()

    async def wind_up(self) -> None:
        """Send no more, wait a moment for outcomes, and note what may have been sent without one."""
        self._is_stopping = True
        loop = asyncio.get_running_loop()
        deadline = loop.time() + WIND_UP_SECONDS
        while self._flights and self._link is not None and loop.time() < deadline:
            self._wake.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._wake.wait()
            except TimeoutError:
                break
        again = [x.sent_up_to for x in self._lanes.values() if x.sent_up_to >= self._first_id(x)]
        self._remove_accepted()
        try:
            await self._spool.may_send(max(again, default=0))
        except GatewayError as error:
            log.warning("the relay's store does not work", extra={"cause": error.message})

    @staticmethod
    def _first_id(lane: Lane) -> int:
        if lane.under_way is not None:
            return lane.under_way.id
        if lane.head:
            return lane.head[0].id
        return lane.loaded + 1

    async def _send_ready(self) -> None:
        while (lane := self._next_lane()) is not None:
            if not lane.head:
                await self._fill(lane)
            self._skip_dropped(lane)
            if lane.head and lane.head[0].id > self._reserved:
                await self._reserve(lane.head[0].id)
            link = self._link
            if lane.head and lane.under_way is None and link is not None and link.can_send:
                self._send(lane, link)
            else:
                self._offer(lane)
                self._forget_if_idle(lane)

    def _next_lane(self) -> Lane | None:
        """Return whose turn it is: suspects alone, else events before telemetry; None for nobody's."""
        if self._link is None or self._is_stopping or not self._link.can_send:
            return None
        if self._suspects:
            return self._next_suspect()
        for is_event in (True, False):
            queue = self._ready[is_event]
            while queue and len(self._flights) < self._room[is_event]:
                lane = queue.popleft()
                lane.is_queued = False
                if lane.waits and lane.under_way is None and not lane.is_paused:
                    return lane
        return None

    def _next_suspect(self) -> Lane | None:
        while self._suspects and not self._flights:
            lane = self._suspects[0]
            if lane.is_suspect and lane.waits:
                return lane
            self._clear(lane)
        return self._next_lane() if not self._suspects else None

    def _clear(self, lane: Lane) -> None:
        """A lane is under no suspicion any more."""
        if lane.is_suspect:
            lane.is_suspect = False
            self._suspects.remove(lane)

    def _skip_dropped(self, lane: Lane) -> None:
        """Forget telemetry that the disk does not hold any more; it was counted there."""
        while lane.head and not lane.key[0] and lane.head[0].id <= self._dropped_up_to:
            self._take_head(lane)

    async def _fill(self, first: Lane) -> None:
        """Read the next messages of a lane, and of those that are to follow."""
        others = (
            x for queue in self._ready.values() for x in queue if not x.head and x is not first
        )
        wanted = [first, *islice(others, READ_LANES)]
        goals = [lane.newest for lane in wanted]
        count = READ_AT_ONCE if self._in_memory < ALL_MEMORY else 1
        try:
            found = await self._spool.read([(lane.key, lane.loaded) for lane in wanted], count)
        except GatewayError:
            self._offer(first)
            raise
        for lane, goal, items in zip(wanted, goals, found, strict=True):
            for item in items:
                self._remember(lane, item)
            last = items[-1].id if items else 0
            lane.loaded = last if len(items) == count else max(last, goal)

    async def _reserve(self, item_id: int) -> None:
        up_to = item_id + RESERVE
        await self._spool.may_send(up_to)
        self._reserved = up_to

    def _send(self, lane: Lane, link: Uplink) -> None:
        item, now = self._take_head(lane), self._spool.now()
        if item.expires is not None and item.expires <= now:
            self._spool.remove([item.id], EXPIRED)
            self._offer(lane)
            self._forget_if_idle(lane)
            return
        message, span = self._prepared(lane, item, now)
        lane.under_way = item
        flight = Flight(lane, item, time.perf_counter(), span)
        self._flights[item.id] = flight
        lane.sent_up_to = max(lane.sent_up_to, item.id)
        link.send(message, partial(self._answered, flight))

    def _prepared(self, lane: Lane, item: Stored, now: float) -> tuple[Message, Span]:
        """Return the message as it goes out, with its span."""
        message = item.message
        name = "forward Event" if message.kind is Kind.EVENT else "forward Telemetry data"
        waited = max(0, int((now - message.at) * 1_000))
        facts: dict[str, str | int | float | bool] = {
            "tenant_id": message.tenant,
            "device_id": message.device,
            "waited_ms": waited,
        }
        span = self._tracer.start(name, message.trace, "producer", facts)
        ttl = message.ttl
        return (
            msgspec.structs.replace(
                message,
                trace=span.context,
                duplicate=message.duplicate or item.id <= lane.sent_up_to,
                ttl=None if ttl is None else max(1.0, message.at + ttl - now),
            ),
            span,
        )

    # --- outcomes ------------------------------------------------------------------------------------

    def _answered(self, flight: Flight, error: GatewayError | None) -> None:
        lane, item = flight.lane, flight.item
        if self._flights.pop(item.id, None) is not flight:
            return  # the connection it was sent on is gone
        flight.span.end(error)
        lane.under_way = None
        lane.strikes = 0
        self._clear(lane)
        kind = item.message.kind
        seconds = time.perf_counter() - flight.started
        if error is None:
            self._meters.delivered(kind, seconds)
            lane.pause = None
            self._accept(item.id)
            self.on_accepted()
        elif isinstance(error, Rejected):
            self._meters.outcome(kind, "rejected")
            lane.pause = None
            self._give_up(lane, item, REFUSED, error)
        else:
            self._meters.outcome(kind, "released")
            lane.head.appendleft(item)
            self._in_memory += cost(item)
            self._rest(lane)
        self._offer(lane)
        self._forget_if_idle(lane)
        self._wake.set()

    def _accept(self, item_id: int) -> None:
        """Delete with the next turn of the loop, so that a burst is one write."""
        if not self._accepted:
            asyncio.get_running_loop().call_soon(self._remove_accepted)
        self._accepted.append(item_id)

    def _remove_accepted(self) -> None:
        if self._accepted:
            self._spool.remove(self._accepted)
            self._accepted = []

    def _give_up(self, lane: Lane, item: Stored, cause: str, error: GatewayError) -> None:
        """Nobody will get this message: count it and say so."""
        self._clear(lane)
        lane.strikes = 0
        self._spool.remove([item.id], cause)
        message = item.message
        self.last_refusal = LastRefusal(
            self._spool.now(), message.kind.value, message.device, error.status, error.message
        )
        log.warning(
            "a message is lost: the remote will not have it",
            extra={
                "tenant": message.tenant,
                "device": message.device,
                "kind": message.kind.value,
                "why": cause,
                "status": error.status,
                "cause": error.message,
                "trace": message.trace.trace_id,
            },
        )

    def _rest(self, lane: Lane) -> None:
        """Let a lane wait; a new connection ends the rest early."""
        if lane.pause is None:
            lane.pause = Backoff(RETRY_FIRST, RETRY_CAP)
        lane.is_paused = True
        if self._in_memory > ALL_MEMORY:
            self._forget_head(lane)
        asyncio.get_running_loop().call_later(lane.pause.next(), self._resume, lane)

    def _forget_head(self, lane: Lane) -> None:
        lane.loaded = lane.head[0].id - 1
        self._in_memory -= sum(cost(item) for item in lane.head)
        lane.head.clear()

    def _resume(self, lane: Lane) -> None:
        lane.is_paused = False
        self._offer(lane)

    # --- the clock -----------------------------------------------------------------------------------

    async def _keep_house(self) -> None:
        """End a connection that gives no outcomes; delete what is too old."""
        purged = time.monotonic()
        while True:
            await asyncio.sleep(HOUSE_SECONDS)
            self._check_outcomes()
            if time.monotonic() - purged >= PURGE_SECONDS:
                purged = time.monotonic()
                self._spool.purge()

    def _check_outcomes(self) -> None:
        oldest = next(iter(self._flights.values()), None)
        now = time.perf_counter()
        if oldest and self._link and now - oldest.started > self._answer_timeout:
            self._link.end(f"no outcome in {self._answer_timeout} s")


_POISON: Final = Rejected("the connection ended each time that this message was sent")


def _nothing() -> None:
    """Nobody wants to hear."""
