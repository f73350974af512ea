"""`PUT` of a Device at MetaServer: its twins are written here, as a local client would over MQTT.

Values of `status.twins[].reported` are what the device has, `spec.properties[].desired` what is wanted of
it; nothing else of the Device is looked at. Source: KubeEdge reference, section 13.1.
"""

from __future__ import annotations

import asyncio

from edge.clock import now_ms
from edge.deviceport import MQTT, TwinPort
from edge.metarequests import Call
from edge.twinasks import ask_change
from gateway.errors import Undeliverable
from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.subjects import DeviceKey
from gateway.wire.cloudedge.twins import Twin, TwinValue

SECONDS = 60.0


class TwinWrites:
    """Writes twins through DeviceTwin."""

    def __init__(self, twin: TwinPort) -> None:
        self._twin = twin

    async def write(self, call: Call, device: JsonObject) -> JsonObject:
        """Apply a Device's values; return which properties changed.

        Errors: DeviceNotFound, BadRequest, StoreUnavailable of DeviceTwin; Undeliverable after a minute.
        """
        key = DeviceKey(call.namespace, call.name)
        try:
            async with asyncio.timeout(SECONDS):
                result = await ask_change(self._twin, key, asks_of(device), origin=MQTT)
        except TimeoutError:
            raise Undeliverable(f"the twins of {key} were not written in time") from None
        return {"event_id": "", "timestamp": now_ms(), "twin": dict.fromkeys(result.changed)}


def asks_of(device: JsonObject) -> dict[str, Twin | None]:
    """Return what a Device document says about its twins: property -> values."""
    asks: dict[str, Twin | None] = {}
    for name, text in _values(_get(device, "spec", "properties"), "name", "desired"):
        asks[name] = Twin(expected=TwinValue(value=text))
    for name, text in _values(_get(device, "status", "twins"), "propertyName", "reported"):
        known = asks.get(name)
        expected = known.expected if known is not None else None
        asks[name] = Twin(expected=expected, actual=TwinValue(value=text))
    return asks


def _values(rows: Json, name_field: str, value_field: str) -> list[tuple[str, str]]:
    found = []
    for row in rows if isinstance(rows, list) else []:
        name, value = _get(row, name_field), _get(row, value_field, "value")
        if isinstance(name, str) and isinstance(value, str):
            found.append((name, value))
    return found


def _get(value: Json, *path: str) -> Json:
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    return value
