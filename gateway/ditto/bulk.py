"""Many commands in one request: each is judged and answered as if it came alone.

Answers leave in the order of their commands. Commands of one thing or policy run in that order too; commands
of different ones side by side, but a command waits for all before it where the kind changes (things after
policies, and the other way round), where a policy comes with imports or references, and around reads of
several things. So a file may make policies first and things that use them afterwards.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from gateway.ditto.auth import Caller, failed
from gateway.ditto.dispatch import Outcome
from gateway.ditto.frames import CORRELATION, refusal, response
from gateway.ditto.namespace_access import admitted
from gateway.ditto.past import is_historical
from gateway.ditto.service import PoliciesService, ThingsService
from gateway.errors import BadRequest, GatewayError, TooLarge
from gateway.model.policy import PolicyCommand
from gateway.model.thing import LIVE, Action, ThingCommand
from gateway.model.trace import TraceContext
from gateway.observe.metrics import Metrics
from gateway.twin.fields import FieldSelector
from gateway.wire.ditto.envelope import Envelope, decode
from gateway.wire.ditto.read import RetrieveThings, Sender, signal_of
from gateway.wire.ditto.write import many_response
from gateway.wire.ndjson import Line

log = logging.getLogger(__name__)

LINE_HEADER: Final = "twinspan-line"
"""The header of an error that tells the number of its line, or of its place in the array."""
DONE, REFUSED, FAILED, MALFORMED = "done", "refused", "failed", "malformed"
"""What becomes of a command, as it is counted."""

_TURN: Final = 16
"""Commands that are begun before others on the loop have their turn."""

Asked = ThingCommand | PolicyCommand | RetrieveThings


class Slot:
    """One command that is under way, or answered and not sent yet."""

    __slots__ = ("answer", "asked", "number", "size")

    def __init__(self, number: int, size: int) -> None:
        self.number = number
        self.size = size
        self.asked: Envelope | None = None
        self.answer: bytes | None = None


class Window:
    """The slots of one request, in order; no more at a time than there is room for.

    Units:  `slots` commands, `size` bytes of commands under way and answers not sent; one of each always
            finds room.
    """

    def __init__(self, slots: int, size: int) -> None:
        self._slots = slots
        self._size = size
        self._taken = 0
        self._unanswered = 0
        self._queue: deque[Slot] = deque()
        self._room = asyncio.Event()
        self._news = asyncio.Event()
        self._is_closed = False

    async def open(self, number: int, size: int) -> Slot:
        """A slot for the next command, as soon as there is room."""
        while self._queue and (len(self._queue) >= self._slots or self._taken + size > self._size):
            self._room.clear()
            await self._room.wait()
        slot = Slot(number, size)
        self._queue.append(slot)
        self._taken += size
        self._unanswered += 1
        return slot

    async def others_answered(self) -> None:
        """Wait until all but the newest slot are answered."""
        while self._unanswered > 1:
            self._room.clear()
            await self._room.wait()

    def settle(self, slot: Slot, answer: bytes) -> None:
        """Note the answer of a slot."""
        slot.answer = answer
        self._taken += len(answer) - slot.size
        slot.size = len(answer)
        slot.asked = None
        self._unanswered -= 1
        self._room.set()
        self._news.set()

    def close(self) -> None:
        """No more commands come."""
        self._is_closed = True
        self._news.set()

    async def answers(self) -> list[bytes]:
        """The next answers in order, none at the end."""
        while True:
            found = self._ready()
            if found or (self._is_closed and not self._queue):
                return found
            self._news.clear()
            await self._news.wait()

    def _ready(self) -> list[bytes]:
        found: list[bytes] = []
        while self._queue and self._queue[0].answer is not None:
            slot = self._queue.popleft()
            self._taken -= slot.size
            found.append(slot.answer or b"")
        if found:
            self._room.set()
        return found


@dataclass(frozen=True, slots=True)
class Rooms:
    """What bulk requests are handed."""

    things: ThingsService
    policies: PoliciesService
    metrics: Metrics


class BulkRun:
    """The commands of one request.

    Shape:  `correlation_id` of the request; a command without one gets `<it>-<number>`.
    """

    def __init__(
        self,
        rooms: Rooms,
        caller: Caller,
        window: Window,
        tasks: asyncio.TaskGroup,
        correlation_id: str,
        trace: TraceContext | None = None,
    ) -> None:
        self._rooms = rooms
        self._caller = caller
        self._window = window
        self._tasks = tasks
        self._correlation_id = correlation_id
        self._sender = Sender(caller.subjects, trace=trace)
        self._kind = ""

    async def take(self, line: Line, limit: int) -> None:
        """Begin a command; waits for room, and for what has to come before it.

        Units:  `limit` the bytes of the longest line, for who sent a longer one.
        """
        if not line.number % _TURN:
            await asyncio.sleep(0)
        slot = await self._window.open(line.number, len(line.data or b""))
        try:
            signal = self._read(slot, line, limit)
        except GatewayError as error:
            self._refuse(slot, error, MALFORMED)
        else:
            await self._begin(slot, signal)

    async def refuse(self, number: int, error: GatewayError) -> None:
        """Answer for a command that could not be received."""
        self._refuse(await self._window.open(number, 0), error, MALFORMED)

    def _read(self, slot: Slot, line: Line, limit: int) -> Asked:
        if line.data is None:
            raise TooLarge(
                f"The line is longer than {limit} bytes.", description="Send less in one command."
            )
        if self._caller.expires is not None and time.time() >= self._caller.expires:
            raise failed("The token has ended.")
        slot.asked = asked = decode(line.data)
        if not any(name.lower() == CORRELATION for name in asked.headers):
            given = f"{self._correlation_id}-{line.number}"
            asked.headers = {**asked.headers, CORRELATION: given}
        signal = admitted(signal_of(asked, self._sender), self._caller.access)
        if isinstance(signal, ThingCommand) and signal.channel == LIVE:
            raise BadRequest(
                "Commands to devices are not taken in bulk.",
                code="protocoladapter:unknown.channel",
                description="Send live commands one by one, or over a WebSocket.",
            )
        if isinstance(signal, ThingCommand | PolicyCommand | RetrieveThings):
            return signal
        raise BadRequest(
            "Only commands on things and policies are taken in bulk.",
            code="protocoladapter:unknown.signal",
            description="Send messages, acknowledgements and subscriptions over a WebSocket.",
        )

    async def _begin(self, slot: Slot, signal: Asked) -> None:
        kind = type(signal).__name__
        if kind != self._kind or isinstance(signal, RetrieveThings) or _needs_others(signal):
            self._kind = kind
            await self._window.others_answered()
        if isinstance(signal, RetrieveThings):
            self._tasks.create_task(self._wait(slot, self._many(signal)))
        elif is_historical(signal):
            self._tasks.create_task(self._wait(slot, self._past(signal)))
        elif isinstance(signal, ThingCommand):
            try:
                self._rooms.things.dispatcher.run(signal, self._told(slot, signal))
            except GatewayError as error:
                self._refuse(slot, error)
        else:
            self._rooms.policies.submit(signal, self._told(slot, signal))

    # --- answers ----------------------------------------------------------------------------------

    def _told(self, slot: Slot, signal: ThingCommand | PolicyCommand) -> Callable[[Outcome], None]:
        def told(outcome: Outcome) -> None:
            if isinstance(outcome, GatewayError):
                self._refuse(slot, outcome)
                return
            status = outcome.status
            self._settle(slot, response(signal, outcome), _outcome_of(status))

        return told

    async def _wait(self, slot: Slot, work: Awaitable[bytes]) -> None:
        try:
            answer = await work
        except GatewayError as error:
            self._refuse(slot, error)
        except Exception:  # top of one command: the others go on
            log.exception("command failed", extra={"line": slot.number})
            self._refuse(slot, GatewayError())
        else:
            self._settle(slot, answer, DONE)

    async def _many(self, signal: RetrieveThings) -> bytes:
        fields = FieldSelector.parse(signal.fields) if signal.fields else None
        found = await self._rooms.things.retrieve_many(signal.thing_ids, signal.subjects, fields)
        return many_response(signal.topic, signal.headers, found)

    async def _past(self, signal: ThingCommand | PolicyCommand) -> bytes:
        if isinstance(signal, ThingCommand):
            return response(signal, await self._rooms.things.execute(signal))
        return response(signal, await self._rooms.policies.execute(signal))

    def _refuse(self, slot: Slot, error: GatewayError, outcome: str = "") -> None:
        frame: Any = msgspec.json.decode(refusal(error, slot.asked))
        frame["headers"][LINE_HEADER] = slot.number
        self._settle(slot, msgspec.json.encode(frame), outcome or _outcome_of(error.status))

    def _settle(self, slot: Slot, answer: bytes, outcome: str) -> None:
        self._rooms.metrics.bulk_items.labels(outcome).inc()
        self._window.settle(slot, answer)


def _outcome_of(status: int) -> str:
    if status < 400:
        return DONE
    return REFUSED if status < 500 else FAILED


def _needs_others(signal: Asked) -> bool:
    """True for a policy whose imports or references have to be there before it."""
    if not isinstance(signal, PolicyCommand) or signal.action in (Action.RETRIEVE, Action.DELETE):
        return False
    if signal.path:
        return signal.path[0] == "imports" or "references" in signal.path
    value = signal.value
    return isinstance(value, dict) and bool(value.get("imports"))
