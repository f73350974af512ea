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
from typing import TypeVar

import msgspec

from edge.clock import now_ms
from edge.deviceport import MAPPER, TwinPort
from edge.store import DeviceRow
from edge.twinrules import Change, text_of
from gateway.errors import BadRequest, GatewayError
from gateway.model.json import Json, JsonObject
from gateway.model.message import Kind
from gateway.model.trace import TraceContext
from gateway.observe.tracing import Tracer
from gateway.wire.cloudedge.devices import DeviceView, mapping, text
from gateway.wire.cloudedge.models import ModelView
from gateway.wire.cloudedge.subjects import DeviceKey
from gateway.wire.cloudedge.twins import Twin, TwinValue
from gateway.wire.cloudedge.uploads import EdgeUpload
from gateway.wire.cloudedge.values import PropertyType, ValueRule, parse_text

log = logging.getLogger(__name__)

REPORT_AS = "twinspan.io/report-as"
REMEMBERED = 4
"""Values of a property that were expected lately."""

Submit = Callable[[EdgeUpload, Callable[[GatewayError | None], None]], None]
T = TypeVar("T")
Find = Callable[[DeviceKey], "tuple[DeviceView, ModelView | None] | None"]


class DmiReports:
    """Takes reports; each method returns when what it says is on disk."""

    def __init__(self, twin: TwinPort, submit: Submit, tracer: Tracer, find: Find) -> None:
        self._twin = twin
        self._submit = submit
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
        with self._tracer.start("edge.dmi report", attributes={"device": str(key)}) as span:
            results = await asyncio.gather(*(self._one(key, each, span.context) for each in twins))
            north = {name: value for name, value, _ in results if value is not None}
            self._send_values(key, north, span.context)
        error = next((error for _, _, error in results if error is not None), None)
        if error is not None:
            raise error

    async def state(self, message: JsonObject) -> None:
        """Take a ReportDeviceStatesRequest. Errors: DeviceNotFound; BadRequest for an unknown state."""
        key, state = _key(message), text(message.get("state"))
        future: asyncio.Future[DeviceRow | GatewayError] = (
            asyncio.get_running_loop().create_future()
        )
        self._twin.set_state(key, state, lambda result: _settle(future, result))
        result = await future
        if isinstance(result, GatewayError):
            raise result
        self._send_north(key, Kind.EVENT, {"state": state}, None)

    async def _one(
        self, key: DeviceKey, entry: JsonObject, trace: TraceContext
    ) -> tuple[str, str | None, GatewayError | None]:
        """Apply one twin: its name, the value that was reported, and what went wrong."""
        name = text(entry.get("propertyName"))
        reported = mapping(entry.get("reported")).get("value")
        actual = TwinValue(value=reported) if isinstance(reported, str) else None
        future: asyncio.Future[Change | GatewayError] = asyncio.get_running_loop().create_future()
        try:
            ask = Twin(expected=self._wish(key, name, entry), actual=actual)
        except GatewayError as error:
            return name, None, error
        self._twin.update(
            key, {name: ask}, lambda result: _settle(future, result), origin=MAPPER, trace=trace
        )
        result = await future
        if isinstance(result, GatewayError):
            return name, None, result
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

    # --- north ------------------------------------------------------------------------------------

    def _send_values(self, key: DeviceKey, values: Mapping[str, str], trace: TraceContext) -> None:
        found = self._find(key)
        if found is None:
            return
        view, model = found
        body = {
            name: _typed(model, name, value)
            for name, value in values.items()
            if name in view.properties and view.properties[name].report_to_cloud
        }
        if body:
            is_event = view.meta.annotations.get(REPORT_AS) == Kind.EVENT
            self._send_north(key, Kind.EVENT if is_event else Kind.TELEMETRY, body, trace)

    def _send_north(
        self, key: DeviceKey, kind: Kind, body: Mapping[str, Json], trace: TraceContext | None
    ) -> None:
        device = f"{key.namespace}:{key.name}"
        item = EdgeUpload(
            topic=f"{kind}//{device}",
            payload=msgspec.json.encode(body),
            kind=kind,
            device=device,
            content_type="application/json",
            qos=1,
            at=now_ms(),
            twin_owned=True,
            trace=trace,
        )
        self._submit(item, _logged)


def _key(message: JsonObject) -> DeviceKey:
    """Return which device a report is about. Errors: BadRequest."""
    name = text(message.get("deviceName"))
    namespace = text(message.get("deviceNamespace")) or "default"
    return DeviceKey.parse(f"{namespace}/{name}")


def _settle(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _typed(model: ModelView | None, name: str, value: str) -> Json:
    rule = None if model is None else model.rules.get(name)
    try:
        return parse_text(PropertyType.STRING if rule is None else rule.type, value)
    except GatewayError:
        return value


def _logged(error: GatewayError | None) -> None:
    if error is not None:
        log.warning("a mapper's report does not go north", extra={"cause": error.message})
