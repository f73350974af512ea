"""The cloud's end of one edge's connection: keep-alive, acknowledgement, resending, newest version only.

Two queues towards the edge. *Answers* and notices go out once, in order. *Objects* are reliable: the newest
version per key waits, goes out when the window has room, is sent again every 5 s until the edge answers,
and after five times rests before it is tried anew. At most one version of an object is under way, so a
late acknowledgement never counts for a newer version. Full: `push` and `offer` refuse, the caller decides.

Pure: frames in and out, `now` is a parameter. Source: KubeEdge, reliable delivery in CloudHub.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from gateway.errors import GatewayError, MalformedPacket
from gateway.wire.cloudedge.envelope import MAX_FRAME, Envelope, decode, encode
from gateway.wire.cloudedge.to_cloud import (
    Acknowledged,
    Keepalive,
    ToCloud,
    read_to_cloud,
)


@dataclass(frozen=True, slots=True)
class LinkLimits:
    """Bounds and times of a link; times in seconds."""

    keepalive_timeout: float = 30.0
    acknowledge_timeout: float = 5.0
    transmissions: int = 5
    rest: float = 10.0
    longest_rest: float = 300.0
    window: int = 16
    """Objects under way at once; an edge's own queue drops the oldest of more than 100."""
    queue: int = 1_000
    """Objects that wait, and answers that wait (each)."""
    queue_bytes: int = 4 * MAX_FRAME
    """Bytes of the answers that wait: a node that asks for much and does not read gets no more."""
    batch: int = 65_536
    """Bytes that are handed out to be written in one go (one frame may be more): over a slow line what was
    not written yet must not count as sent."""
    max_frame: int = MAX_FRAME


@dataclass(frozen=True, slots=True)
class ObjectMessage:
    """A reliable message. `key` is the object's UID; `version` its resourceVersion."""

    key: str
    version: str
    envelope: Envelope
    is_delete: bool = False


@dataclass(frozen=True, slots=True)
class Received:
    """A message for the rooms behind the hub."""

    envelope: Envelope
    message: ToCloud


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An envelope whose route or content does not fit; the link goes on."""

    envelope: Envelope
    error: GatewayError


@dataclass(frozen=True, slots=True)
class Delivered:
    """The edge has stored this version."""

    item: ObjectMessage


@dataclass(frozen=True, slots=True)
class Unanswered:
    """All transmissions went unanswered; the item rests and is tried again."""

    item: ObjectMessage


class Ending(Enum):
    """Why a link is over."""

    SILENT = "no keep-alive in time"
    GARBAGE = "a frame that is not an envelope"
    REPLACED = "the node connected again"
    NODE_DELETED = "the Node was deleted"
    REVOKED = "the certificate was revoked"
    SLOW = "the node reads too slowly"
    GONE = "the peer closed"
    STOPPING = "the cloud stops"


@dataclass(frozen=True, slots=True)
class Ended:
    """The link is closed; nothing more will come."""

    why: Ending
    detail: str = ""


LinkEvent: TypeAlias = Received | Unreadable | Delivered | Unanswered | Ended


@dataclass(slots=True)
class _Flight:
    item: ObjectMessage
    sent: int
    due: float
    rounds: int
    at: float


@dataclass(slots=True)
class _Waiting:
    item: ObjectMessage
    not_before: float = 0.0
    rounds: int = 0


@dataclass(slots=True)
class CloudLink:
    """State of one connection; the shell feeds frames and ticks and writes what `frames` gives."""

    now: float
    limits: LinkLimits = field(default_factory=LinkLimits)
    ending: Ending | None = None
    round_trip: float | None = None
    """Seconds from first sending the object that was acknowledged last to that."""
    _alive_until: float = 0.0
    _notices: deque[bytes] = field(default_factory=deque)
    _notice_bytes: int = 0
    _waiting: OrderedDict[str, _Waiting] = field(default_factory=OrderedDict)
    _flights: dict[str, _Flight] = field(default_factory=dict)
    _by_key: dict[str, str] = field(default_factory=dict)
    _resend: deque[str] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._alive_until = self.now + self.limits.keepalive_timeout

    @property
    def closed(self) -> bool:
        return self.ending is not None

    @property
    def alive_at(self) -> float:
        """When the last sign of life came, on the clock of `now`."""
        return self._alive_until - self.limits.keepalive_timeout

    @property
    def waiting(self) -> int:
        """Objects that are not yet acknowledged."""
        return len(self._waiting) + len(self._flights)

    # --- from the edge --------------------------------------------------------------------------

    def receive(self, frame: str | bytes, now: float) -> list[LinkEvent]:
        """Read one frame. Garbage ends the link; an odd message inside an envelope does not."""
        if self.closed:
            return []
        try:
            envelope = decode(frame, limit=self.limits.max_frame)
        except GatewayError as error:
            return [self.close(Ending.GARBAGE, error.message)]
        try:
            message = read_to_cloud(envelope)
        except MalformedPacket as error:
            return [Unreadable(envelope, error)]
        return self._handle(envelope, message, now)

    def _handle(self, envelope: Envelope, message: ToCloud, now: float) -> list[LinkEvent]:
        match message:
            case Keepalive():
                self.touch(now)
                return []
            case Acknowledged(parent_id):
                return self._acknowledge(parent_id, now)
            case _:  # an EdgeFailed is for the log: the resend timer goes on
                return [Received(envelope, message)]

    def _acknowledge(self, msg_id: str, now: float) -> list[LinkEvent]:
        flight = self._flights.pop(msg_id, None)
        if flight is None:
            return []  # noise: edges answer query responses too
        self.round_trip = now - flight.at
        self._by_key.pop(flight.item.key, None)
        return [Delivered(flight.item)]

    def touch(self, now: float) -> None:
        """Count the edge as alive now (a keep-alive came, or the cloud itself paused reading)."""
        self._alive_until = now + self.limits.keepalive_timeout

    # --- towards the edge -----------------------------------------------------------------------

    def push(self, envelope: Envelope) -> bool:
        """Queue a message that is sent once; False when too many, or too large ones, wait."""
        if self.closed or len(self._notices) >= self.limits.queue:
            return False
        frame = encode(envelope)
        if self._notices and self._notice_bytes + len(frame) > self.limits.queue_bytes:
            return False
        self._notices.append(frame)
        self._notice_bytes += len(frame)
        return True

    def offer(self, item: ObjectMessage) -> bool:
        """Queue the newest version of an object in place of an older one; False when too many wait."""
        if self.closed:
            return False
        older = self._waiting.get(item.key)
        if older is not None:
            older.item, older.not_before, older.rounds = item, 0.0, 0
            return True
        if len(self._waiting) >= self.limits.queue:
            return False
        self._waiting[item.key] = _Waiting(item)
        return True

    def holds(self, key: str, version: str) -> bool:
        """True when this version (or its deletion) waits or is under way already."""
        waiting = self._waiting.get(key)
        if waiting is not None:
            return waiting.item.version == version
        flight = self._flights.get(self._by_key.get(key, ""))
        return flight is not None and flight.item.version == version

    def frames(self, now: float) -> list[bytes]:
        """Take some of what may be written now; it counts as sent. Ask again once it is written."""
        taken, size = list[bytes](), 0
        for frame in self._sendable(now):
            taken.append(frame)
            size += len(frame)
            if size >= self.limits.batch:
                break
        return taken

    def _sendable(self, now: float) -> Iterator[bytes]:
        while self._notices:
            frame = self._notices.popleft()
            self._notice_bytes -= len(frame)
            yield frame
        while self._resend:
            flight = self._flights.get(self._resend.popleft())
            if flight is not None:
                yield encode(flight.item.envelope)
        for waiting in self._startable(now):
            yield self._start(waiting, now)

    def _startable(self, now: float) -> list[_Waiting]:
        room = self.limits.window - len(self._flights)
        if room <= 0 or not self._waiting:
            return []
        ready = (
            w for k, w in self._waiting.items() if w.not_before <= now and k not in self._by_key
        )
        return [waiting for _, waiting in zip(range(room), ready, strict=False)]

    def _start(self, waiting: _Waiting, now: float) -> bytes:
        item = waiting.item
        del self._waiting[item.key]
        due = now + self.limits.acknowledge_timeout
        self._flights[item.envelope.msg_id] = _Flight(item, 1, due, waiting.rounds, now)
        self._by_key[item.key] = item.envelope.msg_id
        return encode(item.envelope)

    # --- time -----------------------------------------------------------------------------------

    @property
    def wake_at(self) -> float:
        """When `tick` has something to do at the latest."""
        due = min((f.due for f in self._flights.values()), default=self._alive_until)
        rest = min(
            (w.not_before for w in self._waiting.values() if w.not_before),
            default=self._alive_until,
        )
        return min(self._alive_until, due, rest)

    def tick(self, now: float, *, is_stalled: bool = False) -> list[LinkEvent]:
        """Let time pass: end a silent link, send again what was not answered.

        Shape:  `is_stalled` says that what was handed out is not written yet: nothing can be answered.
        """
        if self.closed:
            return []
        if now >= self._alive_until:
            return [self.close(Ending.SILENT)]
        events: list[LinkEvent] = []
        for msg_id, flight in list(self._flights.items()):
            if flight.due > now:
                continue
            if is_stalled:
                flight.due = now + self.limits.acknowledge_timeout
            elif event := self._again(msg_id, flight, now):
                events.append(event)
        return events

    def _again(self, msg_id: str, flight: _Flight, now: float) -> Unanswered | None:
        if flight.sent < self.limits.transmissions:
            flight.sent += 1
            flight.due = now + self.limits.acknowledge_timeout
            self._resend.append(msg_id)
            return None
        del self._flights[msg_id]
        self._by_key.pop(flight.item.key, None)
        if flight.item.key not in self._waiting:
            rest = min(self.limits.rest * 2**flight.rounds, self.limits.longest_rest)
            self._waiting[flight.item.key] = _Waiting(flight.item, now + rest, flight.rounds + 1)
        return Unanswered(flight.item)

    def close(self, why: Ending, detail: str = "") -> Ended:
        """End the link; what waits is dropped (ObjectSyncs bring it again)."""
        self.ending = why
        self._waiting.clear()
        self._flights.clear()
        self._by_key.clear()
        self._resend.clear()
        return Ended(why, detail)
