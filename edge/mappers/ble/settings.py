"""`edge.mappers.ble` as the family works with it, judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import msgspec

from edge.mappers.ble.radio import ScanOptions
from edge.mappers.ble.uuids import uuid_of
from gateway.config.edge_mappers import Ble
from gateway.errors import InvalidSetting, Rejected
from gateway.model.json import JsonObject

Mode = Literal["active", "passive", "off"]
_PATH: Final = "edge.mappers.ble"


@dataclass(frozen=True, slots=True)
class Options:
    """The settings, with what is to scan for."""

    own: Ble
    mode: Mode
    services: tuple[str, ...]

    def scan(self, adapter: str) -> ScanOptions | None:
        """Return how an adapter scans, None where it does not."""
        if self.mode == "off":
            return None
        own = self.own
        return ScanOptions(adapter, self.mode, self.services, own.min_rssi, own.repeats)


def read_options(settings: JsonObject) -> Options:
    """Errors: InvalidSetting, naming the setting."""
    try:
        own = msgspec.convert(settings, Ble)
    except msgspec.ValidationError as error:
        raise InvalidSetting(f"{_PATH}: {error}") from error
    if own.scan not in get_args(Mode):
        raise InvalidSetting(f"{_PATH}.scan: expected active, passive or off, got {own.scan!r}")
    try:
        services = tuple(uuid_of(each) for each in own.services)
    except Rejected as error:
        raise InvalidSetting(f"{_PATH}.services: {error.message}") from error
    for name, low, high in _BOUNDS:
        value: Any = getattr(own, name)
        if not low <= value <= high:
            raise InvalidSetting(f"{_PATH}.{name}: expected {low} to {high}, got {value}")
    mode: Mode = "active" if own.scan == "active" else "passive" if own.scan == "passive" else "off"
    return Options(own, mode, services)


_BOUNDS: Final = (
    ("min_rssi", -127, 20),
    ("scan_seconds", 0, 86_400),
    ("scan_pause", 0, 86_400),
    ("max_connections", 1, 100),
    ("max_seen", 10, 100_000),
    ("max_offered", 0, 10_000),
    ("stale_after", 0, 86_400 * 30),
    ("lost_after", 1, 86_400 * 30),
    ("max_notifications", 1, 1_000_000),
)
