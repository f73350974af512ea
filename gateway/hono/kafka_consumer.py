"""Reads records of a topic pattern on a thread of its own and hands them to the loop in batches.

A record's outcome makes its offset committable (`gateway.hono.kafka_offsets`); librdkafka commits what was
stored, from time to time, when partitions are taken away, and at the end. Full: nothing is fetched while
`max_under_way` records have no outcome. After a fatal error the consumer is made anew. The library's consumer
is touched by its thread alone: a call from another one waits until that thread does not poll.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from gateway.hono.kafka_library import Seldom, library, made, text_of
from gateway.hono.kafka_offsets import Offsets, Partition, Ticket
from gateway.hono.kafka_properties import Property

if TYPE_CHECKING:
    from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

log = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.1
FULL_SECONDS: Final = 0.02
"""How often a full reader looks whether there is room again."""
BATCH: Final = 100
LOOK_SECONDS: Final = 2.0
"""How long asking for topics may take, and the pause after it failed."""
REVOKE_SECONDS: Final = 0.3
"""How long giving a partition away waits for the outcomes of its records."""

_EXPECTED: Final = frozenset({3})
"""UNKNOWN_TOPIC_OR_PART: no tenant's topic is there yet, or one was deleted."""


class RecordReader:
    """Runs inside its owner's module; `take` gets each record on the loop, with the ticket to end."""

    def __init__(
        self,
        properties: Mapping[str, Property],
        pattern: str,
        take: Callable[[Message, Ticket], None],
        *,
        max_under_way: int,
    ) -> None:
        self._properties = dict(properties)
        self._pattern = pattern
        self._take = take
        self._max = max_under_way
        self._offsets = Offsets()
        self._read = 0
        self._ended = 0
        self._wanted: set[str] = set()
        self._look_at = 0.0
        self._seldom = Seldom()
        self._positions: deque[tuple[Partition, int]] = deque()
        self._failed: asyncio.Event
        self._loop: asyncio.AbstractEventLoop

    @property
    def under_way(self) -> int:
        """Records that were read and have no outcome."""
        return self._read - self._ended

    async def run(self, ready: Callable[[], None]) -> None:
        """Read until cancelled.

        Errors: InvalidSetting.
        """
        self._loop = asyncio.get_running_loop()
        while True:
            self._failed = asyncio.Event()
            stopping = threading.Event()
            consumer = made(library().Consumer, {**self._properties, "error_cb": self._on_error})
            thread = threading.Thread(
                target=self._read_forever, args=(consumer, stopping), name="kafka-commands"
            )
            thread.start()
            ready()
            try:
                await self._failed.wait()
            finally:
                stopping.set()
                await self._loop.run_in_executor(None, thread.join)
            log.warning("kafka consumer is made anew")

    def want(self, topic: str) -> None:
        """See to it that a topic is there and read soon, not only at the next look at all topics."""
        self._wanted.add(topic)

    def end(self, ticket: Ticket) -> None:
        """A record has its outcome."""
        self._ended += 1
        offset = self._offsets.end(ticket)
        if offset is not None:
            self._positions.append((ticket.partition, offset))

    # --- on the loop -----------------------------------------------------------------------------------

    def _arrived(self, batch: list[Message]) -> None:
        for message in batch:
            topic, partition, offset = message.topic(), message.partition(), message.offset()
            if topic is None or partition is None or offset is None:
                self._ended += 1
                continue
            ticket = self._offsets.begin((topic, partition), offset)
            try:
                self._take(message, ticket)
            except Exception:  # top of a callback: the others in the batch must be looked at
                log.exception("a record was not taken", extra={"topic": topic, "offset": offset})
                self.end(ticket)

    # --- on the reading thread ---------------------------------------------------------------------------

    def _read_forever(self, consumer: Consumer, stopping: threading.Event) -> None:
        consumer.subscribe([self._pattern], on_revoke=self._on_revoke, on_lost=self._on_lost)
        while not stopping.is_set():
            self._store(consumer)
            if self._wanted and time.monotonic() >= self._look_at:
                self._look(consumer)
            room = self._max - self.under_way
            if room <= 0:
                stopping.wait(FULL_SECONDS)
                continue
            first = consumer.poll(POLL_SECONDS)
            if first is not None:
                rest = consumer.consume(min(room, BATCH) - 1, 0) if room > 1 else []
                self._hand_over([m for m in (first, *rest) if self._is_record(m)])
        self._store(consumer)
        consumer.close()

    def _store(self, consumer: Consumer) -> None:
        """Let the offsets of what has its outcome be committed with the next round."""
        newest: dict[Partition, int] = {}
        while self._positions:
            place, offset = self._positions.popleft()
            newest[place] = offset
        make = library().TopicPartition
        for (topic, partition), offset in newest.items():
            # A partition that was taken away: who has it now reads those records again.
            with suppress(library().KafkaException):
                consumer.store_offsets(offsets=[make(topic, partition, offset)])

    def _hand_over(self, batch: list[Message]) -> None:
        if batch:
            self._read += len(batch)
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._arrived, batch)

    def _is_record(self, message: Message) -> bool:
        error = message.error()
        if error is not None:
            self._on_error(error)
        return error is None

    def _look(self, consumer: Consumer) -> None:
        """Ask for the topics that are wanted, which may make them, then for all: the pattern finds them."""
        wanted = tuple(self._wanted)
        try:
            for topic in wanted:
                consumer.list_topics(topic, timeout=LOOK_SECONDS)
            consumer.list_topics(timeout=LOOK_SECONDS)
        except library().KafkaException as error:
            log.warning("kafka topics were not found", extra={"cause": text_of(error.args[0])})
            self._look_at = time.monotonic() + LOOK_SECONDS
        else:
            self._wanted.difference_update(wanted)

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Partitions go to another member: what is under way gets a moment to end."""
        keys = _keys(partitions)
        deadline = time.monotonic() + REVOKE_SECONDS
        while self._offsets.under_way(keys) and time.monotonic() < deadline:
            time.sleep(0.01)
        self._store(consumer)
        self._offsets.forget(keys)

    def _on_lost(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._offsets.forget(_keys(partitions))

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            log.error("kafka consumer ended", extra={"cause": text_of(error)})
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._failed.set)
        elif error.code() not in _EXPECTED and self._seldom.is_due(error.code()):
            log.warning("kafka consumer error", extra={"cause": text_of(error)})


def _keys(partitions: list[Any]) -> list[Partition]:
    return [(partition.topic, partition.partition) for partition in partitions]
