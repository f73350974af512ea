"""Made-up devices: they take what is wanted of them at once, and report and send at a steady rate."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from edge.clock import now_ms
from edge.deviceport import MAPPER
from edge.devicetwin import DeviceTwin
from edge.spoolpump import SpoolPump
from edge.twinrules import Change, deltas
from gateway.errors import GatewayError
from gateway.model.message import Kind
from gateway.model.trace import TraceContext
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.models import ModelView
from gateway.wire.cloudedge.subjects import DeviceKey
from gateway.wire.cloudedge.twins import Twin, TwinValue
from gateway.wire.cloudedge.uploads import EdgeUpload

if TYPE_CHECKING:
    from edge.hollow.node import Shared

READING = "reading"
"""The property that made-up devices report; other Devices only follow what is wanted of them."""


class HollowDevices:
    """The devices of one hollow node; a listener of DeviceTwin."""

    def __init__(self, twin: DeviceTwin, pump: SpoolPump, shared: Shared) -> None:
        self._twin = twin
        self._pump = pump
        self._shared = shared
        self._views: dict[DeviceKey, DeviceView] = {}
        self._numbers = itertools.count(random.randrange(1_000))  # noqa: S311  no secret

    async def work(self) -> None:
        """Report and send until cancelled."""
        plan = self._shared.plan
        async with asyncio.TaskGroup() as group:
            if plan.reports > 0:
                group.create_task(self._repeat(1 / plan.reports, self._report))
            if plan.telemetry > 0:
                group.create_task(self._repeat(1 / plan.telemetry, self._send))
            await asyncio.Event().wait()

    async def _repeat(self, pause: float, act: Callable[[DeviceKey], None]) -> None:
        """Act for each device once in `pause` seconds; what is late is not made up for."""
        await asyncio.sleep(random.uniform(0, pause))  # noqa: S311  no secret
        clock = asyncio.get_running_loop().time
        due = clock()
        while True:
            for key in list(self._views):
                act(key)
            due = max(due + pause, clock())
            await asyncio.sleep(due - clock())

    def _report(self, key: DeviceKey) -> None:
        if READING in self._views[key].properties:
            self._tell(key, {READING: str(next(self._numbers) % 1_000_000)})

    def _tell(self, key: DeviceKey, values: dict[str, str]) -> None:
        asks: dict[str, Twin | None] = {
            name: Twin(actual=TwinValue(value=text)) for name, text in values.items()
        }
        self._twin.update(key, asks, self._told, origin=MAPPER)

    def _told(self, result: Change | GatewayError) -> None:
        if isinstance(result, GatewayError):
            self._shared.failed(f"report: {result.message}")
        else:
            self._shared.told.reports_made += 1

    def _send(self, key: DeviceKey) -> None:
        body = {"n": next(self._numbers), "filler": "x" * max(0, self._shared.plan.payload - 22)}
        item = EdgeUpload(
            topic=f"t//{key.namespace}:{key.name}",
            payload=msgspec.json.encode(body),
            kind=Kind.TELEMETRY,
            device=f"{key.namespace}:{key.name}",
            content_type="application/json",
            qos=1,
            at=now_ms(),
        )

        def done(error: GatewayError | None) -> None:
            if error is not None:
                self._shared.failed(f"telemetry: {error.message}")
            else:
                self._shared.told.uploads_spooled += 1

        self._pump.submit(item, done)

    # --- DeviceListener -----------------------------------------------------------------------

    def device_bound(
        self,
        view: DeviceView,
        model: ModelView | None,  # noqa: ARG002  any model will do
        trace: TraceContext | None,  # noqa: ARG002  nobody follows it further
    ) -> None:
        if view.key not in self._views:
            self._shared.told.bound += 1
        self._views[view.key] = view

    def device_gone(self, key: DeviceKey) -> None:
        if self._views.pop(key, None) is not None:
            self._shared.told.bound -= 1

    def desired_changed(self, key: DeviceKey, trace: TraceContext) -> None:  # noqa: ARG002
        """Do what is wanted, as a device would."""
        self._shared.told.deltas += 1
        try:
            self._tell(key, deltas(self._twin.twins(key)))
        except GatewayError as error:  # it went meanwhile
            self._shared.failed(f"desired: {error.message}")

    def model_bound(self, model: ModelView) -> None:
        """Nothing to do."""

    def model_gone(self, namespace: str, name: str) -> None:
        """Nothing to do."""
