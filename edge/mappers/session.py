"""One connection to one device: it is read, written and reported until it fails.

Calls to the driver come one after another, each with a time limit. What callers of methods want written goes
before what the twin wants. A device that has news is read at once, and at most ten times a second however
much news it has. A property that cannot be read is a fault of the Device; the others go on.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from edge.clock import now_ms
from edge.deviceport import MAPPER, FaultPort, TwinPort
from edge.mappers.calls import measured
from edge.mappers.driver import Driver, KeepsWrites, Quality, Reading, TakenLater
from edge.mappers.properties import DEFAULT_COLLECT_MS, SHORTEST_MS, PropertyState, judged
from edge.mappers.pushing import Pushing, Sample
from edge.mappers.sources import source_time
from edge.northbound import Northbound, typed
from edge.twinasks import ask_change
from edge.twinrules import deltas, text_of
from gateway.errors import DeviceNotFound, GatewayError, Rejected, Undeliverable
from gateway.model.trace import TraceContext
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracer
from gateway.runtime.backoff import Backoff
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.models import ModelView
from gateway.wire.cloudedge.subjects import DeviceKey
from gateway.wire.cloudedge.twins import Twin, TwinValue

log = logging.getLogger(__name__)

SHORTEST_STATE_MS = 1_000
READ_SECONDS = 0.1
"""Shortest time from one read of a device to the next."""
CALL_SECONDS = 10.0
MAX_ORDERS = 16
"""Calls of methods that wait for one device; more are refused."""
CLOCK = "clock"
"""The part of a Device that a fault names when its time cannot be true."""


@dataclass(frozen=True, slots=True)
class Services:
    """What sessions work with."""

    twin: TwinPort
    north: Northbound
    metrics: Metrics
    tracer: Tracer
    faults: FaultPort
    pushing: Pushing | None = None


@dataclass(slots=True)
class Order:
    """Values to be written once, in order, for somebody who waits."""

    values: Mapping[str, str]
    done: asyncio.Future[None]
    trace: TraceContext | None = None

    def fail(self, error: GatewayError) -> None:
        if not self.done.done():
            self.done.set_exception(error)


@dataclass(slots=True)
class Served:
    """One Device: its latest object, the task that serves it, and what it is asked for."""

    view: DeviceView
    model: ModelView | None
    task: asyncio.Task[None] | None = None
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    cause: TraceContext | None = None
    """The trace of the latest wish, until it is written."""
    is_connected: bool = False
    counted: str = ""
    """The state that its protocol's tally has it in."""
    speaks_for_itself: bool = False
    """No driver has anything to do with it."""
    orders: deque[Order] = field(default_factory=deque)

    def drop_orders(self, reason: str) -> None:
        """Tell those who wait that their values are not written."""
        while self.orders:
            self.orders.popleft().fail(Undeliverable(reason))


class Session:
    """The loop over one connection."""

    def __init__(
        self,
        services: Services,
        served: Served,
        driver: Driver,
        backoff: Backoff,
        say_state: Callable[[], None],
    ) -> None:
        self._services = services
        self._served = served
        self._driver = driver
        self._backoff = backoff
        self._say_state = say_state
        self._properties: dict[str, PropertyState] = {}
        self._view: DeviceView | None = None
        self._next_state: float | None = None
        self._next_read = 0.0
        self._has_news = False
        """Something may have changed: all is read when that is allowed again."""
        self._is_clock_wrong = True
        self._written: TraceContext | None = None
        """The latest write that no report followed yet."""

    @property
    def _key(self) -> DeviceKey:
        return self._served.view.key

    async def run(self) -> None:
        """Work until the device fails. Errors: of the driver; DeviceNotFound when the Device is gone."""
        time = asyncio.get_running_loop().time
        self._driver.subscribe(self._pushed)
        while True:
            self._served.wake.clear()
            if self._view is not self._served.view:
                self._take_view(self._served.view, time())
            await self._obey(time())
            await self._write_wanted(time())
            await self._collect(time())
            await self._report(time())
            self._repeat_state(time())
            await self._rest(time())

    def _pushed(self) -> None:
        """The device has news; until it was read, more of it wakes nobody."""
        if not self._has_news:
            self._has_news = True
            self._served.wake.set()

    def _take_view(self, view: DeviceView, now: float) -> None:
        old = self._properties
        for name in old.keys() - view.properties.keys():
            self._fault(name, "")
        self._properties = {}
        for name, prop in view.properties.items():
            collect = max(prop.collect_cycle or DEFAULT_COLLECT_MS, SHORTEST_MS) / 1_000
            report = prop.report_cycle / 1_000
            kept = old.get(name) or PropertyState(collect, report)
            kept.collect, kept.report = collect, report
            self._properties[name] = kept
        self._view = view
        cycle = _state_cycle(view)
        self._next_state = now + cycle if cycle else None

    async def _rest(self, now: float) -> None:
        """Sleep until something is due, wanted, or new at the device."""
        due = min((p.next_collect for p in self._properties.values()), default=now + 3_600)
        due = self._next_read if self._has_news else max(due, self._next_read)
        if self._next_state is not None:
            due = min(due, self._next_state)
        try:
            async with asyncio.timeout(due - now if due > now else READ_SECONDS):
                await self._served.wake.wait()
        except TimeoutError:
            return
        self._has_news = True

    def _repeat_state(self, now: float) -> None:
        """Say the state again each state cycle."""
        if self._next_state is not None and now >= self._next_state:
            self._next_state = now + _state_cycle(self._served.view)
            self._say_state()

    # --- writes -----------------------------------------------------------------------------------

    async def _obey(self, now: float) -> None:
        """Write what callers of methods want."""
        while self._served.orders:
            order = self._served.orders.popleft()
            if order.done.done():  # nobody waits any more
                continue
            try:
                await self._write_order(order, now)
            except GatewayError as error:
                order.fail(error)
                if error.status >= 500:
                    raise
            except TimeoutError:
                order.fail(Undeliverable("the device did not take the value in time"))
                raise
            except BaseException:
                order.fail(Undeliverable("the call was broken off; what it wrote is not known"))
                raise
            else:
                if not order.done.done():
                    order.done.set_result(None)

    async def _write_order(self, order: Order, now: float) -> None:
        written: list[str] = []
        for name, text in order.values.items():
            try:
                await self._write(name, text, order.trace)
            except GatewayError as error:
                self._count_write("refused" if error.status < 500 else "failed")
                raise _said(error, name, written) from error
            self._count_write("ok")
            written.append(name)
            if name in self._properties:
                self._properties[name].took(text, now)
            await self._want_too(name, text, order.trace)

    async def _want_too(self, name: str, text: str, trace: TraceContext | None) -> None:
        """Where something else is wanted, what was written is wanted from now on, or it would be undone."""
        twin = self._services.twin.twins(self._key).get(name)
        wanted = None if twin is None else text_of(twin.expected)
        if wanted and wanted != text:
            asks = {name: Twin(expected=TwinValue(value=text))}
            try:
                await ask_change(self._services.twin, self._key, asks, origin=MAPPER, trace=trace)
            except GatewayError as error:
                why = f"{name}: written, but {wanted!r} stays wanted: {error.message}"
                raise _like(error, why) from error

    async def _write_wanted(self, now: float) -> None:
        """Write what is wanted and not there yet; a value that the device refuses is not repeated."""
        cause, wanted = self._served.cause, deltas(self._services.twin.twins(self._key))
        await self._end_waits(wanted)
        for name, text in wanted.items():
            prop = self._properties.get(name)
            if prop is None or not prop.may_write(text, now) or not self._may_write(name):
                continue
            try:
                await self._write(name, text, cause)
            except GatewayError as error:
                if error.status >= 500:
                    raise
                if error.code == TakenLater.code:
                    self._wait(name, text, error, now)
                    continue
                prop.refused = text
                self._refused(name, text, error)
            else:
                prop.took(text, now)
                self._count_write("ok")
                self._services.faults.note(self._key, f"wish {name}", "")
        if self._served.cause is cause:
            self._served.cause = None

    def _wait(self, name: str, text: str, error: GatewayError, now: float) -> None:
        """The driver keeps a value for a device that sleeps; it is asked again later how that went."""
        prop = self._properties[name]
        prop.took(text, now, is_later=True)
        prop.waits = True
        self._count_write("later")
        self._services.faults.note(self._key, f"wish {name}", error.message)

    async def _end_waits(self, wanted: Mapping[str, str]) -> None:
        """What is wanted no more, or there by now, waits no more, neither here nor in the driver."""
        for name, prop in self._properties.items():
            if prop.waits and name not in wanted:
                prop.waits = False
                self._services.faults.note(self._key, f"wish {name}", "")
                if prop.is_kept and isinstance(self._driver, KeepsWrites):
                    prop.is_kept, prop.written = False, None
                    async with asyncio.timeout(CALL_SECONDS):
                        await self._driver.withdraw(name)

    def _refused(self, name: str, text: str, error: GatewayError) -> None:
        self._count_write("refused")
        log.warning(
            "a device refuses a wanted value",
            extra={"device": str(self._key), "property": name, "cause": error.message},
        )
        fault = f"the device refuses {text!r}: {error.message}"
        self._services.faults.note(self._key, f"wish {name}", fault)

    def _count_write(self, outcome: str) -> None:
        protocol = self._served.view.protocol
        self._services.metrics.edge_mapper_writes.labels(protocol, outcome).inc()

    async def _write(self, name: str, text: str, cause: TraceContext | None) -> None:
        facts = {"device": str(self._key), "property": name}
        with self._services.tracer.start("edge.mapper write", cause, "client", facts) as span:
            with measured(self._services.metrics.mappers, self._served.view.protocol, "write"):
                async with asyncio.timeout(CALL_SECONDS):
                    await self._driver.write(name, text)
            self._written = span.context

    def _may_write(self, name: str) -> bool:
        model = self._served.model
        rule = None if model is None else model.rules.get(name)
        return rule is None or rule.writable

    # --- reads ------------------------------------------------------------------------------------

    async def _collect(self, now: float) -> None:
        if now < self._next_read:
            return
        has_news, self._has_news = self._has_news, False
        due = [n for n, prop in self._properties.items() if has_news or prop.next_collect <= now]
        if not due:
            return
        self._next_read = now + READ_SECONDS
        readings = await self._read(due)
        self._backoff.reset()
        at, clocks = now_ms(), set()
        for name in due:
            self._properties[name].next_collect = now + self._properties[name].collect
            reading = readings.get(name)
            if reading is not None:
                clocks.add(self._note(name, reading, at))
        self._judge_clock(clocks)

    async def _read(self, names: Sequence[str]) -> Mapping[str, Reading]:
        """Read properties together; where the device refuses that, each by itself."""
        try:
            with measured(self._services.metrics.mappers, self._served.view.protocol, "read"):
                async with asyncio.timeout(CALL_SECONDS):
                    return await self._driver.read(names)
        except GatewayError as error:
            if error.status >= 500:
                raise
            if len(names) == 1:
                return {names[0]: Reading("", Quality.BAD, 0, error.message)}
        readings: dict[str, Reading] = {}
        for name in names:
            readings.update(await self._read((name,)))
        return readings

    def _note(self, name: str, reading: Reading, now: int) -> str:
        """Keep a reading; return what is wrong with the device's clock."""
        prop, model = self._properties[name], self._served.model
        rule = None if model is None else model.rules.get(name)
        quality, fault = judged(rule, reading)
        self._services.metrics.edge_mapper_reads.labels(self._served.view.protocol, quality).inc()
        if quality is Quality.BAD:
            prop.text = None
            self._fault(name, fault)
            return ""
        if (fault or prop.has_fault) and reading.text != prop.misfit:
            self._fault(name, fault)
        prop.text, prop.quality = reading.text, quality
        prop.at, clock = source_time(reading, now)
        return clock

    def _fault(self, name: str, fault: str) -> None:
        self._services.faults.note(self._key, f"property {name}", fault)
        prop = self._properties.get(name)
        if prop is not None:
            prop.has_fault = bool(fault)

    def _judge_clock(self, said: set[str]) -> None:
        if not said:
            return
        fault = max(said)
        if fault or self._is_clock_wrong:
            self._services.faults.note(self._key, CLOCK, fault)
        self._is_clock_wrong = bool(fault)

    async def _report(self, now: float) -> None:
        """Report what is due."""
        due = {name: prop for name, prop in self._properties.items() if prop.is_due(now)}
        if not due:
            return
        for prop in due.values():
            prop.next_report = now + prop.report
        facts = {"device": str(self._key)}
        with self._services.tracer.start_frequent(
            "edge.mapper report", self._written, "internal", facts
        ) as span:
            self._written = None
            await self._change_twin(due, span.context)
            kept = {name: prop for name, prop in due.items() if prop.text != prop.misfit}
            if kept:  # what the twin refuses is nobody's measurement
                self._tell(kept, span.context)

    def _tell(self, due: Mapping[str, PropertyState], trace: TraceContext) -> None:
        """Send values north, and where they are pushed to."""
        key, model = self._key, self._served.model
        texts = {name: prop.text for name, prop in due.items() if prop.text is not None}
        if self._services.pushing is not None:
            self._services.pushing.offer(
                Sample(key, name, typed(model, name, text), text, due[name].at)
                for name, text in texts.items()
            )
        self._services.north.values(
            self._served.view,
            model,
            texts,
            trace,
            at=max(prop.at for prop in due.values()),
            uncertain=[n for n, prop in due.items() if prop.quality is Quality.UNCERTAIN],
        )

    async def _change_twin(self, due: Mapping[str, PropertyState], trace: TraceContext) -> None:
        """Report all in one update; where one value is refused, each by itself."""
        refusal = await self._update(due, trace)
        if refusal is None:
            return
        for name, prop in due.items():
            alone = refusal if len(due) == 1 else await self._update({name: prop}, trace)
            if alone is not None:
                prop.misfit = prop.text
                self._fault(name, alone.message)
                protocol = self._served.view.protocol
                self._services.metrics.edge_mapper_reads.labels(protocol, Quality.BAD).inc()

    async def _update(
        self, due: Mapping[str, PropertyState], trace: TraceContext
    ) -> GatewayError | None:
        """Report values; return why they are refused, if they are. Errors: DeviceNotFound."""
        asks = {name: Twin(actual=prop.value) for name, prop in due.items()}
        refusal: GatewayError | None = None
        try:
            await ask_change(self._services.twin, self._key, asks, origin=MAPPER, trace=trace)
        except DeviceNotFound:
            raise
        except GatewayError as error:
            if error.status >= 500:
                facts = {"device": str(self._key), "cause": error.message}
                log.warning("a report is not kept", extra=facts)
                return None
            refusal = error  # a refused value would be refused again
        for prop in due.values():
            prop.reported = None if prop.text is None else (prop.text, prop.quality)
        return refusal


def _state_cycle(view: DeviceView) -> float:
    """Return how often a Device's state is said, in seconds; 0 for on change alone."""
    report = view.state_report
    if not report.to_cloud or not report.cycle:
        return 0.0
    return max(report.cycle, SHORTEST_STATE_MS) / 1_000


def _said(error: GatewayError, name: str, written: list[str]) -> GatewayError:
    """Return the same error with what was written before it."""
    before = f"; written before it: {', '.join(written)}" if written else ""
    return _like(error, f"{name}: {error.message}{before}")


def _like(error: GatewayError, message: str) -> GatewayError:
    kind = Undeliverable if error.status >= 500 else Rejected
    return kind(message, status=error.status, code=error.code)
