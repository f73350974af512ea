"""What mappers report over DMI, as changes of twins and as messages to the north.

Each twin of a report is an update of its own. `reported` becomes the actual value. `observedDesired` is what
the mapper was told to reach, seldom a wish of its own: it becomes the expected value only when it differs
from that, and from those expected lately, or a report that crosses a new wish would undo it.
Source: KubeEdge reference, sections 15.1, 17.4.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping

from edge.deviceport import MAPPER, TwinPort
from edge.northbound import Northbound
from edge.twinasks import ask_change, ask_state
from edge.twinrules import text_of
from gateway.errors import BadRequest, GatewayError
from gateway.model.json import JsonObject
from gateway.model.trace import TraceContext
from gateway.observe.tracing import Tracer
from gateway.wire.cloudedge.devices import DeviceView, StateReport, mapping, text
from gateway.wire.cloudedge.models import ModelView
from gateway.wire.cloudedge.subjects import DeviceKey
from gateway.wire.cloudedge.twins import Twin, TwinValue
from gateway.wire.cloudedge.values import ValueRule

log = logging.getLogger(__name__)

REMEMBERED = 4
"""Values of a property that were expected lately."""

Find = Callable[[DeviceKey], "tuple[DeviceView, ModelView | None] | None"]


class DmiReports:
    """Takes reports; each method returns when what it says is on disk."""

    def __init__(self, twin: TwinPort, north: Northbound, tracer: Tracer, find: Find) -> None:
        self._twin = twin
        self._north = north
        self._tracer = tracer
        self._find = find
        self._lately: dict[DeviceKey, dict[str, deque[str]]] = {}

    def expected(self, key: DeviceKey) -> None:
        """Remember what is expected of a device, as its mapper is told it."""
        lately = self._lately.setdefault(key, {})
        for name, twin in self._twin.twins(key).items():
            wanted = text_of(twin.expected)
            values = lately.setdefault(name, deque(maxlen=REMEMBERED))
            if wanted is not None and (not values or values[-1] != wanted):
                values.append(wanted)

    def forget(self, key: DeviceKey) -> None:
        self._lately.pop(key, None)

    async def status(self, message: JsonObject) -> None:
        """Take a ReportDeviceStatusRequest.

        Errors: BadRequest without twins, or for a value that does not fit; DeviceNotFound; StoreUnavailable.
                Twins before and after the one at fault are kept.
        """
        key = _key(message)
        entries = mapping(message.get("reportedDevice")).get("twins")
        known = entries if isinstance(entries, list) else []
        twins = [entry for entry in known if isinstance(entry, dict)]
        if not twins:
            raise BadRequest("reportedDevice.twins: expected at least one twin")
        with self._tracer.start_frequent(
            "edge.dmi report", None, "internal", {"device": str(key)}
        ) as span:
            results = await asyncio.gather(*(self._one(key, each, span.context) for each in twins))
            north = {name: value for name, value, _ in results if value is not None}
            self._send_values(key, north, span.context)
        error = next((error for _, _, error in results if error is not None), None)
        if error is not None:
            raise error

    async def state(self, message: JsonObject) -> None:
        """Take a ReportDeviceStatesRequest. Errors: DeviceNotFound; BadRequest for an unknown state."""
        key, state = _key(message), text(message.get("state"))
        await ask_state(self._twin, key, state)
        found = self._find(key)
        report = StateReport() if found is None else found[0].state_report
        self._north.state(key, state, report)

    async def _one(
        self, key: DeviceKey, entry: JsonObject, trace: TraceContext
    ) -> tuple[str, str | None, GatewayError | None]:
        """Apply one twin: its name, the value that was reported, and what went wrong."""
        name = text(entry.get("propertyName"))
        reported = mapping(entry.get("reported")).get("value")
        actual = TwinValue(value=reported) if isinstance(reported, str) else None
        try:
            ask = Twin(expected=self._wish(key, name, entry), actual=actual)
            await ask_change(self._twin, key, {name: ask}, origin=MAPPER, trace=trace)
        except GatewayError as error:
            return name, None, error
        return name, None if actual is None else actual.value, None

    def _wish(self, key: DeviceKey, name: str, entry: JsonObject) -> TwinValue | None:
        """Return what the mapper wants on its own. Errors: DeviceNotFound, BadRequest for no name."""
        if not name:
            raise BadRequest("reportedDevice.twins: a twin without propertyName")
        twin = self._twin.twins(key).get(name)
        wanted = text(mapping(entry.get("observedDesired")).get("value"))
        if not wanted or (twin is not None and wanted == text_of(twin.expected)):
            return None
        if wanted in self._lately.get(key, {}).get(name, ()) or not self._is_writable(key, name):
            return None
        return TwinValue(value=wanted)

    def _is_writable(self, key: DeviceKey, name: str) -> bool:
        rule = self._rules(key).get(name)
        return rule is None or rule.writable

    def _rules(self, key: DeviceKey) -> Mapping[str, ValueRule]:
        found = self._find(key)
        return {} if found is None or found[1] is None else found[1].rules

    def _send_values(self, key: DeviceKey, values: Mapping[str, str], trace: TraceContext) -> None:
        found = self._find(key)
        if found is not None:
            self._north.values(*found, values, trace)


def _key(message: JsonObject) -> DeviceKey:
    """Return which device a report is about. Errors: BadRequest."""
    name = text(message.get("deviceName"))
    namespace = text(message.get("deviceNamespace")) or "default"
    return DeviceKey.parse(f"{namespace}/{name}")
