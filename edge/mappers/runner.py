"""Runs the mappers inside EdgeCore: one task per Device whose protocol has a driver here.

Each task connects its device, reads it every collect cycle, reports every report cycle (or on change where
none is set), writes what is wanted and not yet there, and starts over with back-off when the device fails.
Every call to a driver has a time limit. A device that hangs holds up nobody but itself.

A report changes the twin through DeviceTwin; a copy of it goes north as telemetry (or event, by the
annotation `twinspan.io/report-as`), marked so that it changes no twin a second time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec

from edge.clock import now_ms
from edge.deviceport import MAPPER, TwinPort
from edge.mappers.driver import Driver, DriverFactory, NotServed, Quality, Reading
from edge.mappers.pushing import Pushing, Sample
from edge.store import DeviceRow
from edge.twinrules import Change, deltas
from gateway.errors import DeviceNotFound, GatewayError
from gateway.model.json import Json
from gateway.model.message import Kind
from gateway.model.trace import TraceContext
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracer
from gateway.runtime.backoff import Backoff
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.models import ModelView, with_defaults
from gateway.wire.cloudedge.subjects import DeviceKey
from gateway.wire.cloudedge.twins import Twin, TwinValue
from gateway.wire.cloudedge.uploads import EdgeUpload
from gateway.wire.cloudedge.values import PropertyType, Typed, parse_text

log = logging.getLogger(__name__)

DEFAULT_COLLECT_MS = 1_000
SHORTEST_MS = 100
CALL_SECONDS = 10.0
RETRY_FIRST = 1.0
RETRY_CAP = 60.0
REWRITE_SECONDS = 30.0
"""Pause before a wanted value is written again that the device took but does not show."""
REPORT_AS = "twinspan.io/report-as"
JSON_TYPE = "application/json"


Submit = Callable[[EdgeUpload, Callable[[GatewayError | None], None]], None]


@dataclass(slots=True)
class _Property:
    """Schedule and last report of one property; times are of the loop's clock, in seconds."""

    collect: float
    report: float
    next_collect: float = 0.0
    next_report: float = 0.0
    text: str | None = None
    reported: str | None = None
    refused: str | None = None
    """A wanted value that the device refused: not tried again until another one is wanted."""
    written: str | None = None
    """The latest wanted value that the device took, and when to write it again."""
    next_write: float = 0.0

    def may_write(self, text: str, now: float) -> bool:
        return text != self.refused and (text != self.written or now >= self.next_write)


@dataclass(slots=True)
class _Served:
    """One Device: its latest object, and the task that serves it."""

    view: DeviceView
    model: ModelView | None
    task: asyncio.Task[None] | None = None
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    cause: TraceContext | None = None
    """The trace of the latest wish, until it is written."""


class MapperRunner:
    """The mappers as one module; a listener of DeviceTwin."""

    name = "edge.mappers"

    def __init__(
        self,
        drivers: Mapping[str, DriverFactory],
        twin: TwinPort,
        submit: Submit,
        *,
        metrics: Metrics,
        tracer: Tracer,
        pushing: Pushing | None = None,
    ) -> None:
        self._drivers = drivers
        self._pushing = pushing
        self._twin = twin
        self._submit = submit
        self._metrics = metrics
        self._tracer = tracer
        self._served: dict[DeviceKey, _Served] = {}
        self._group: asyncio.TaskGroup | None = None

    async def run(self, ready: Callable[[], None]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for key in list(self._served):
                    self._start(key)
                ready()
                await asyncio.get_running_loop().create_future()
        finally:
            self._group = None

    # --- DeviceListener -------------------------------------------------------------------------

    def device_bound(
        self, view: DeviceView, model: ModelView | None, trace: TraceContext | None = None
    ) -> None:
        """Serve a new Device, or go on with a changed one; a changed configuration connects anew."""
        view = with_defaults(view, model)
        if view.protocol not in self._drivers:
            self.device_gone(view.key)
            return
        if self._pushing is not None:
            self._pushing.bind(view)
        served = self._served.get(view.key)
        if served is not None and _configuration(served.view) == _configuration(view):
            served.view, served.model = view, model
            served.cause = trace or served.cause
            served.wake.set()
            return
        self._stop(view.key)
        self._served[view.key] = _Served(view, model, cause=trace)
        self._start(view.key)

    def device_gone(self, key: DeviceKey) -> None:
        self._stop(key)
        if self._pushing is not None:
            self._pushing.unbind(key)

    def _stop(self, key: DeviceKey) -> None:
        served = self._served.pop(key, None)
        if served is not None and served.task is not None:
            served.task.cancel()

    def desired_changed(self, key: DeviceKey, trace: TraceContext | None = None) -> None:
        """Something is wanted that the device does not have yet."""
        served = self._served.get(key)
        if served is not None:
            served.cause = trace
            served.wake.set()

    def model_bound(self, model: ModelView) -> None:
        """Nothing to do: Devices are bound anew after their model."""

    def model_gone(self, namespace: str, name: str) -> None:
        """Nothing to do: a Device goes on with the model that it was bound with."""

    def _start(self, key: DeviceKey) -> None:
        if self._group is not None:
            served = self._served[key]
            served.task = self._group.create_task(self._serve(served), name=f"mapper {key}")

    # --- one device ---------------------------------------------------------------------------

    async def _serve(self, served: _Served) -> None:
        backoff = Backoff(RETRY_FIRST, RETRY_CAP)
        key, protocol = served.view.key, served.view.protocol
        while True:
            try:
                driver = self._drivers[protocol](served.view, served.model)
                try:
                    async with asyncio.timeout(CALL_SECONDS):
                        await driver.connect()
                    self._say_state(served.view, "online")
                    await _Session(self, served, driver, backoff).run()
                finally:
                    await driver.close()
            except NotServed:
                return
            except (GatewayError, TimeoutError, OSError) as error:
                self._metrics.edge_mapper_reads.labels(protocol, Quality.BAD).inc()
                log.warning(
                    "a device failed",
                    extra={"device": str(key), "cause": str(error) or type(error).__name__},
                )
                self._say_state(served.view, "offline")
            except Exception:  # the top of a device's task: a driver's bug must not stop the others
                log.exception("a driver failed", extra={"device": str(key)})
                self._say_state(served.view, "unhealthy")
            await asyncio.sleep(backoff.next())

    def _say_state(self, view: DeviceView, state: str) -> None:
        """Note a device's state in its twin, and send it north as an event."""

        def done(result: DeviceRow | GatewayError) -> None:
            if isinstance(result, GatewayError):
                log.warning("a device's state is not kept", extra={"cause": result.message})

        self._twin.set_state(view.key, state, done)
        self._send_north(view, Kind.EVENT, {"state": state}, None)

    def _send_north(
        self, view: DeviceView, kind: Kind, body: Mapping[str, Json], trace: TraceContext | None
    ) -> None:
        device = f"{view.key.namespace}:{view.key.name}"
        item = EdgeUpload(
            topic=f"{kind}//{device}",
            payload=msgspec.json.encode(body),
            kind=kind,
            device=device,
            content_type=JSON_TYPE,
            qos=1,
            at=now_ms(),
            twin_owned=True,
            trace=trace,
        )
        self._submit(item, _logged)


class _Session:
    """One connection to one device: read, write, report, until it fails."""

    def __init__(
        self, runner: MapperRunner, served: _Served, driver: Driver, backoff: Backoff
    ) -> None:
        self._runner = runner
        self._served = served
        self._driver = driver
        self._backoff = backoff
        self._properties: dict[str, _Property] = {}
        self._view: DeviceView | None = None
        self._written: TraceContext | None = None
        """The latest write that no report followed yet."""

    @property
    def _key(self) -> DeviceKey:
        return self._served.view.key

    async def run(self) -> None:
        time = asyncio.get_running_loop().time
        self._driver.subscribe(self._served.wake.set)
        while True:
            self._served.wake.clear()
            if self._view is not self._served.view:
                self._take_view(self._served.view)
            await self._write_wanted(time())
            await self._collect(time())
            await self._report(time())
            await self._rest(time())

    def _take_view(self, view: DeviceView) -> None:
        old = self._properties
        self._properties = {}
        for name, prop in view.properties.items():
            collect = max(prop.collect_cycle or DEFAULT_COLLECT_MS, SHORTEST_MS) / 1_000
            report = prop.report_cycle / 1_000
            kept = old.get(name) or _Property(collect, report)
            kept.collect, kept.report = collect, report
            self._properties[name] = kept
        self._view = view

    async def _rest(self, now: float) -> None:
        """Sleep until something is due, wanted, or new at the device."""
        due = min((p.next_collect for p in self._properties.values()), default=now + 3_600)
        try:
            async with asyncio.timeout(max(due - now, SHORTEST_MS / 1_000)):
                await self._served.wake.wait()
        except TimeoutError:
            return
        for prop in self._properties.values():
            prop.next_collect = 0.0

    async def _write_wanted(self, now: float) -> None:
        """Write what is wanted and not there yet; a value that the device refuses is not repeated."""
        cause = self._served.cause
        for name, text in deltas(self._runner._twin.twins(self._key)).items():
            prop = self._properties.get(name)
            if prop is None or not prop.may_write(text, now) or not self._may_write(name):
                continue
            driver = self._served.view.protocol
            try:
                await self._write(name, text, cause)
            except GatewayError as error:
                if error.status >= 500:
                    raise
                prop.refused = text
                self._runner._metrics.edge_mapper_writes.labels(driver, "refused").inc()
                log.warning(
                    "a device refuses a wanted value",
                    extra={"device": str(self._key), "property": name, "cause": error.message},
                )
            else:
                prop.next_collect = prop.next_report = 0.0
                prop.refused = None
                prop.written, prop.next_write = text, now + REWRITE_SECONDS
                self._runner._metrics.edge_mapper_writes.labels(driver, "ok").inc()
        if self._served.cause is cause:
            self._served.cause = None

    async def _write(self, name: str, text: str, cause: TraceContext | None) -> None:
        facts = {"device": str(self._key), "property": name}
        with self._runner._tracer.start("edge.mapper write", cause, "client", facts) as span:
            async with asyncio.timeout(CALL_SECONDS):
                await self._driver.write(name, text)
            self._written = span.context

    def _may_write(self, name: str) -> bool:
        model = self._served.model
        rule = None if model is None else model.rules.get(name)
        return rule is None or rule.writable

    async def _collect(self, now: float) -> None:
        due = [name for name, prop in self._properties.items() if prop.next_collect <= now]
        if not due:
            return
        async with asyncio.timeout(CALL_SECONDS):
            readings = await self._driver.read(due)
        self._backoff.reset()
        for name in due:
            prop = self._properties[name]
            prop.next_collect = now + prop.collect
            reading = readings.get(name)
            if reading is not None:
                self._note(prop, reading)

    def _note(self, prop: _Property, reading: Reading) -> None:
        driver = self._served.view.protocol
        self._runner._metrics.edge_mapper_reads.labels(driver, reading.quality).inc()
        if reading.quality is Quality.GOOD:
            prop.text = reading.text

    async def _report(self, now: float) -> None:
        """Report what is due: each report cycle, or on change where there is none."""
        due = {}
        for name, prop in self._properties.items():
            if prop.text is None:
                continue
            is_due = prop.next_report <= now if prop.report else prop.text != prop.reported
            if is_due:
                due[name] = prop.text
                prop.next_report = now + prop.report
        if not due:
            return
        with self._runner._tracer.start(
            "edge.mapper report", self._written, attributes={"device": str(self._key)}
        ) as span:
            self._written = None
            await self._change_twin(due, span.context)
            self._push(due)
            north = {
                name: self._typed(name, text)
                for name, text in due.items()
                if self._served.view.properties[name].report_to_cloud
            }
            if north:
                kind = _report_kind(self._served.view)
                self._runner._send_north(self._served.view, kind, north, span.context)

    def _push(self, due: Mapping[str, str]) -> None:
        if self._runner._pushing is not None:
            at, key = now_ms(), self._key
            self._runner._pushing.offer(
                Sample(key, name, self._typed(name, text), text, at) for name, text in due.items()
            )

    async def _change_twin(self, due: Mapping[str, str], trace: TraceContext) -> None:
        """Report all in one update; where one value is refused, each by itself."""
        refused = await self._update(due, trace)
        if refused is not None and len(due) > 1:
            for name, text in due.items():
                await self._update({name: text}, trace)

    async def _update(self, due: Mapping[str, str], trace: TraceContext) -> GatewayError | None:
        future: asyncio.Future[Change | GatewayError] = asyncio.get_running_loop().create_future()

        def done(result: Change | GatewayError) -> None:
            if not future.done():
                future.set_result(result)

        asks = {name: Twin(actual=TwinValue(value=text)) for name, text in due.items()}
        self._runner._twin.update(self._key, asks, done, origin=MAPPER, trace=trace)
        result = await future
        error = result if isinstance(result, GatewayError) else None
        if isinstance(error, DeviceNotFound):
            raise error
        if error is not None:
            log.warning(
                "a report is not kept", extra={"device": str(self._key), "cause": error.message}
            )
        if error is None or error.status < 500:  # a refused value would be refused again
            for name, text in due.items():
                self._properties[name].reported = text
        return error if error is not None and error.status < 500 else None

    def _typed(self, name: str, text: str) -> Typed:
        model = self._served.model
        rule = None if model is None else model.rules.get(name)
        kind = PropertyType.STRING if rule is None else rule.type
        try:
            return parse_text(kind, text)
        except GatewayError:
            return text


def _configuration(view: DeviceView) -> tuple[object, ...]:
    """What a driver is made from: a change of it needs a new connection."""
    visitors = tuple((p.name, p.visitor_protocol, str(p.visitor)) for p in view.properties.values())
    return view.meta.uid, view.model, view.protocol, str(view.protocol_config), visitors


def _report_kind(view: DeviceView) -> Kind:
    said = view.meta.annotations.get(REPORT_AS)
    return Kind.EVENT if said == Kind.EVENT else Kind.TELEMETRY


def _logged(error: GatewayError | None) -> None:
    if error is not None:
        log.warning("a mapper's report does not go north", extra={"cause": error.message})
