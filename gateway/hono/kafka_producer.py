"""The one Kafka producer: records in, the broker's word for each out, on the loop.

librdkafka queues, batches, sends and retries on its own threads; one thread of ours collects its delivery
reports and hands them to the loop in batches. Every record has its outcome within the delivery time-out, so
nothing here needs a timer. Full: refused at once. After a fatal error, which ends librdkafka's promise of
no duplicates, the producer is made anew; what was under way is refused.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import msgspec
from prometheus_client import Counter as Meter

from gateway.hono.kafka_library import (
    BrokerUnavailable,
    Seldom,
    library,
    made,
    text_of,
)
from gateway.hono.kafka_properties import Property
from gateway.hono.kafka_records import Record
from gateway.model.ports import Done
from gateway.observe.histograms import Tally
from gateway.observe.metrics import Metrics

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Producer

log = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.1
"""How long the thread waits for reports before it looks whether it is to end."""
FLUSH_SECONDS: Final = 5.0
"""How long stopping waits for records that are under way."""


class _Delivery(msgspec.Struct, eq=False):
    """One record under way; `reported` is called on the collecting thread."""

    kind: str
    done: Done
    started: float
    reports: list[_Delivery]
    error: KafkaError | None = None

    def reported(self, error: KafkaError | None, _message: object) -> None:
        self.error = error
        self.reports.append(self)


class KafkaProducer:
    """Module: takes records while it runs."""

    name = "kafka.producer"

    def __init__(self, properties: Mapping[str, Property], metrics: Metrics) -> None:
        self._properties = dict(properties)
        self._metrics = metrics
        self._producer: Producer | None = None
        self._reports: list[_Delivery] = []
        self._stopping = threading.Event()
        self._failed: asyncio.Event
        self._loop: asyncio.AbstractEventLoop
        self._seldom = Seldom()
        self._counters: dict[tuple[str, str], Meter] = {}
        self._tallies: dict[str, Tally] = {}
        metrics.elsewhere.kafka_queue.watch("producer", lambda: len(self._producer or ()))

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve until cancelled.

        Errors: InvalidSetting.
        """
        self._loop = asyncio.get_running_loop()
        while True:
            self._failed = asyncio.Event()
            self._stopping = threading.Event()
            producer = made(library().Producer, {**self._properties, "error_cb": self._on_error})
            thread = threading.Thread(
                target=self._collect, args=(producer, self._stopping), name="kafka-reports"
            )
            thread.start()
            self._producer = producer
            ready()
            try:
                await self._failed.wait()
            finally:
                self._producer = None
                await self._end(producer, thread)
            log.warning("kafka producer is made anew")

    def send(self, kind: str, record: Record, done: Done) -> None:
        """Hand a record to the broker; `done(None)` once all in-sync replicas have it.

        Errors (through `done`): BrokerUnavailable.
        """
        delivery = _Delivery(kind, done, time.perf_counter(), self._reports)
        if not self._queue(kind, record, delivery.reported):
            done(BrokerUnavailable())

    def send_and_forget(self, kind: str, record: Record, done: Done) -> None:
        """Queue a record; `done(None)` at once. Whether the broker gets it, nobody hears.

        Errors (through `done`): BrokerUnavailable while the queue is full.
        """
        taken = self._queue(kind, record, None)
        if taken:
            self._count(kind, "unconfirmed")
        done(None if taken else BrokerUnavailable())

    def _queue(
        self, kind: str, record: Record, report: Callable[[KafkaError | None, Any], None] | None
    ) -> bool:
        producer = self._producer
        cause = "not running"
        if producer is not None:
            try:
                producer.produce(
                    record.topic, record.value, record.key, headers=record.headers, on_delivery=report
                )  # fmt: skip
            except BufferError:
                cause = "full"
            except library().KafkaException as error:
                cause = text_of(error.args[0])
            else:
                return True
        self._count(kind, "refused")
        self._note(cause, record.topic)
        return False

    def _count(self, kind: str, outcome: str, count: int = 1) -> None:
        if not count:
            return
        counter = self._counters.get((kind, outcome))
        if counter is None:
            counter = self._metrics.elsewhere.kafka_records.labels(kind, outcome)
            self._counters[kind, outcome] = counter
        counter.inc(count)

    # --- reports ---------------------------------------------------------------------------------------

    def _collect(self, producer: Producer, stopping: threading.Event) -> None:
        """Hand reports to the loop until told to stop; runs on a thread of its own."""
        while not stopping.is_set():
            producer.poll(POLL_SECONDS)
            self._hand_over()

    def _hand_over(self) -> None:
        if self._reports:
            batch = self._reports.copy()
            del self._reports[: len(batch)]
            with suppress(RuntimeError):  # the loop has ended: nobody waits any more
                self._loop.call_soon_threadsafe(self._answer, batch)

    def _answer(self, batch: list[_Delivery]) -> None:
        now = time.perf_counter()
        failures: list[_Delivery] = []
        for delivery in batch:
            error = None
            if delivery.error is not None:
                failures.append(delivery)
                error = BrokerUnavailable()
            self._tally(delivery.kind).observe(now - delivery.started)
            try:
                delivery.done(error)
            except Exception:  # top of a callback: the others in the batch must hear theirs
                log.exception("an outcome was not taken")
        self._account(batch, failures)

    def _tally(self, kind: str) -> Tally:
        tally = self._tallies.get(kind)
        if tally is None:
            tally = self._tallies[kind] = self._metrics.elsewhere.kafka_seconds.labels(kind)
        return tally

    def _account(self, batch: list[_Delivery], failures: list[_Delivery]) -> None:
        """Count outcomes, batch by batch: it costs less than one by one."""
        failed = Counter(delivery.kind for delivery in failures)
        for kind, count in Counter(delivery.kind for delivery in batch).items():
            self._count(kind, "delivered", count - failed[kind])
            self._count(kind, "failed", failed[kind])
        for delivery in failures:
            self._note(text_of(delivery.error), delivery.kind)

    def _note(self, cause: str, topic: str) -> None:
        if self._seldom.is_due(cause):
            log.warning("kafka record not sent", extra={"cause": cause, "topic": topic})

    def _on_error(self, error: KafkaError) -> None:
        """Called on the collecting thread: the library's own troubles."""
        if error.fatal():
            log.error("kafka producer ended", extra={"cause": text_of(error)})
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._failed.set)
        elif self._seldom.is_due(error.code()):
            log.warning("kafka producer error", extra={"cause": text_of(error)})

    # --- the end ---------------------------------------------------------------------------------------

    async def _end(self, producer: Producer, thread: threading.Thread) -> None:
        """Let what is under way arrive, end the thread, answer what is left."""
        failed = self._failed.is_set()
        await self._loop.run_in_executor(None, _wind_up, producer, 0.0 if failed else FLUSH_SECONDS)
        self._stopping.set()
        await self._loop.run_in_executor(None, thread.join)
        left, self._reports = self._reports, []
        self._answer(left)


def _wind_up(producer: Producer, seconds: float) -> None:
    """Wait for outcomes, then give up what has none; the reports of that are the last ones."""
    if producer.flush(seconds):
        producer.purge()
        producer.flush(1.0)
