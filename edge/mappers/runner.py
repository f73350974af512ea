"""Runs the mappers inside EdgeCore: one task per Device whose protocol has a driver here.

Each task connects its device, reads it every collect cycle, reports every report cycle (or on change where
none is set), writes what is wanted and not yet there, and starts over with back-off when the device fails.
Every call to a driver has a time limit. A device that hangs holds up nobody but itself.

A report changes the twin through DeviceTwin; a copy of it goes north (`edge.northbound`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from edge.mappers.calls import CONNECTED, WAITING, Tally, measured
from edge.mappers.driver import Driver, DriverFactory, NotServed, Quality, TellsFaults
from edge.mappers.session import CALL_SECONDS, CLOCK, MAX_ORDERS, Order, Served, Services, Session
from edge.store import DeviceRow
from gateway.errors import GatewayError, QuotaExceeded, Rejected, Undeliverable
from gateway.model.trace import TraceContext
from gateway.runtime.backoff import Backoff
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.models import ModelView, with_defaults
from gateway.wire.cloudedge.subjects import DeviceKey

log = logging.getLogger(__name__)

RETRY_FIRST = 1.0
RETRY_CAP = 60.0
CONNECTION = "connection"
"""The part of a Device that a fault names when it is not reached."""


class MapperRunner:
    """The mappers as one module; a listener of DeviceTwin."""

    name = "edge.mappers"

    def __init__(self, drivers: Mapping[str, DriverFactory], services: Services) -> None:
        self._drivers = drivers
        self._services = services
        self._served: dict[DeviceKey, Served] = {}
        self._group: asyncio.TaskGroup | None = None
        self._tally = Tally(services.metrics.mappers)

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

    # --- for callers of methods ---------------------------------------------------------------------

    def has_driver(self, protocol: str) -> bool:
        """Say whether a protocol has a driver in EdgeCore."""
        return protocol in self._drivers

    def serves(self, key: DeviceKey) -> bool:
        """Say whether a driver here serves the Device, connected or not."""
        served = self._served.get(key)
        return served is not None and not served.speaks_for_itself

    def is_left_alone(self, key: DeviceKey) -> bool:
        """Say whether the driver of the Device's protocol leaves it to speak for itself."""
        served = self._served.get(key)
        return served is not None and served.speaks_for_itself

    async def write(
        self, key: DeviceKey, values: Mapping[str, str], trace: TraceContext | None
    ) -> None:
        """Write values to a device once, in order; return when it took them.

        Errors: Undeliverable when it is not connected or does not answer; QuotaExceeded when too many wait;
                Rejected where it refuses a value, naming which, and what was written before.
        """
        served = self._served.get(key)
        if served is None or not served.is_connected:
            raise Undeliverable(f"device {key} is not connected")
        if len(served.orders) >= MAX_ORDERS:
            raise QuotaExceeded(f"{MAX_ORDERS} calls wait for device {key} already")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        served.orders.append(Order(values, done, trace))
        served.wake.set()
        await done

    # --- DeviceListener -------------------------------------------------------------------------

    def device_bound(
        self, view: DeviceView, model: ModelView | None, trace: TraceContext | None = None
    ) -> None:
        """Serve a new Device, or go on with a changed one; a changed configuration connects anew."""
        view = with_defaults(view, model)
        if view.protocol not in self._drivers:
            self.device_gone(view.key)
            return
        if self._services.pushing is not None:
            self._services.pushing.bind(view)
        served = self._served.get(view.key)
        is_same = served is not None and (
            _configuration(served.view, served.model) == _configuration(view, model or served.model)
        )
        if served is not None and is_same:
            served.view, served.model = view, model
            served.cause = trace or served.cause
            served.wake.set()
            return
        self._stop(view.key)
        self._served[view.key] = Served(view, model, cause=trace)
        self._start(view.key)

    def device_gone(self, key: DeviceKey) -> None:
        self._stop(key)
        if self._services.pushing is not None:
            self._services.pushing.unbind(key)

    def _stop(self, key: DeviceKey) -> None:
        served = self._served.pop(key, None)
        if served is None:
            return
        served.is_connected = False
        served.drop_orders(f"device {key} is not served here any more")
        self._services.faults.forget(key, CONNECTION, CLOCK, "property ", "wish ")
        if served.task is not None:
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

    async def _serve(self, served: Served) -> None:
        self._count(served, WAITING)
        try:
            await self._serve_on(served)
        finally:
            self._count(served, "")

    def _count(self, served: Served, state: str) -> None:
        self._tally.move(served.view.protocol, served.counted, state)
        served.counted = state

    async def _serve_on(self, served: Served) -> None:
        backoff = Backoff(RETRY_FIRST, RETRY_CAP)
        key, protocol = served.view.key, served.view.protocol
        while True:
            try:
                driver = self._drivers[protocol](served.view, served.model)
                try:
                    await self._connect_and_work(served, driver, backoff)
                finally:
                    served.is_connected = False
                    self._count(served, WAITING)
                    served.drop_orders(f"device {key} is not connected any more")
                    await _close(driver, key)
            except NotServed:
                served.speaks_for_itself = True
                return
            except (GatewayError, TimeoutError, OSError) as error:
                self._services.metrics.edge_mapper_reads.labels(protocol, Quality.BAD).inc()
                cause = str(error) or type(error).__name__
                log.warning("a device failed", extra={"device": str(key), "cause": cause})
                self._failed(served, _fault(error, cause), "offline")
            except Exception:  # the top of a device's task: a driver's bug must not stop the others
                log.exception("a driver failed", extra={"device": str(key)})
                self._failed(served, "the driver failed; the edge's log says how", "unhealthy")
            await asyncio.sleep(backoff.next())

    async def _connect_and_work(self, served: Served, driver: Driver, backoff: Backoff) -> None:
        key = served.view.key
        with measured(self._services.metrics.mappers, served.view.protocol, "connect"):
            async with asyncio.timeout(CALL_SECONDS):
                await driver.connect()
        served.is_connected = True
        self._count(served, CONNECTED)
        self._services.faults.note(key, CONNECTION, "")
        if isinstance(driver, TellsFaults):
            for name, fault in driver.faults().items():
                self._services.faults.note(key, f"property {name}", fault)
        self._say_state(served.view, "online", is_news=True)

        def again() -> None:
            self._say_state(served.view, "online", is_news=False)

        await Session(self._services, served, driver, backoff, again).run()

    def _failed(self, served: Served, fault: str, state: str) -> None:
        self._services.faults.note(served.view.key, CONNECTION, fault)
        self._say_state(served.view, state, is_news=True)

    def _say_state(self, view: DeviceView, state: str, *, is_news: bool) -> None:
        """Note a device's state in its twin; where it is news, send it north as an event, too."""

        def done(result: DeviceRow | GatewayError) -> None:
            if isinstance(result, GatewayError):
                log.warning("a device's state is not kept", extra={"cause": result.message})

        self._services.twin.set_state(view.key, state, done)
        if is_news:
            self._services.north.state(view.key, state, view.state_report)


async def _close(driver: Driver, key: DeviceKey) -> None:
    """Close a driver; one that fails or hangs in it must not outlive its Device."""
    try:
        async with asyncio.timeout(CALL_SECONDS):
            await driver.close()
    except Exception:  # else it would take the place of the cancellation that brought us here
        log.exception("a driver failed to close", extra={"device": str(key)})


def _fault(error: Exception, cause: str) -> str:
    """Say why a device is not reached: what somebody must change, or what may pass."""
    if isinstance(error, Rejected):
        return cause
    return "the device does not answer in time" if isinstance(error, TimeoutError) else cause


def _configuration(view: DeviceView, model: ModelView | None) -> tuple[object, ...]:
    """What a driver is made from: a change of it needs a new connection."""
    visitors = tuple((p.name, p.visitor_protocol, str(p.visitor)) for p in view.properties.values())
    rules = {} if model is None else dict(model.rules)
    return view.meta.uid, view.model, view.protocol, str(view.protocol_config), visitors, rules
