"""What a node's Zigbee network is to be, read from `edge.mappers.zigbee`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edge.mappers.configdata import ConfigData
from gateway.errors import InvalidSetting, Rejected
from gateway.model.json import JsonObject

BRANCH = "edge.mappers.zigbee"

RADIOS: Final[Mapping[str, tuple[str, str]]] = {
    "deconz": ("zigpy_deconz.zigbee.application", "zigbee"),
    "ezsp": ("bellows.zigbee.application", "zigbee-ezsp"),
    "znp": ("zigpy_znp.zigbee.application", "zigbee-znp"),
}
"""Kind of stick -> module of its library, and the extra that brings it."""
FOREIGN = ("refuse", "adopt", "replace")
_LEAST = {
    "transition": 0.0,
    "keep_writes": 1.0,
    "mains_silence": 1.0,
    "battery_silence": 1.0,
    "poll": 1.0,
}
_EIGHT_BYTES = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){7}")
_HEX_KEY = re.compile(r"[0-9a-fA-F]{32}")


@dataclass(frozen=True, slots=True)
class Plan:
    """Settings, checked.

    Shape:  0 or "" where nothing is set; times in seconds.
    """

    radio: str
    device: str
    baudrate: int
    flow_control: str
    form: bool
    foreign: str
    channel: int
    pan_id: int
    extended_pan_id: str
    key: str
    transition: float
    keep_writes: float
    mains_silence: float
    battery_silence: float
    poll: float

    @classmethod
    def read(cls, settings: JsonObject) -> Plan:
        """Read the settings. Errors: InvalidSetting, naming the setting."""
        data = ConfigData(BRANCH, settings)
        try:
            plan = cls(
                radio=data.choice({name: name for name in RADIOS}, "radio", default="deconz"),
                device=data.text("device", default=""),
                baudrate=data.integer("baudrate", default=0, high=4_000_000),
                flow_control=data.text("flow_control", default=""),
                form=data.flag("form", default=True),
                foreign=data.choice({name: name for name in FOREIGN}, "foreign", default="refuse"),
                channel=data.integer("channel", default=0, high=26),
                pan_id=data.integer("pan_id", default=0, high=0xFFFE),
                extended_pan_id=data.text("extended_pan_id", default=""),
                key=_key(data.text("key_file", default="")),
                transition=data.number("transition", default=0.4),
                keep_writes=data.number("keep_writes", default=86_400.0),
                mains_silence=data.number("mains_silence", default=600.0),
                battery_silence=data.number("battery_silence", default=90_000.0),
                poll=data.number("poll", default=60.0),
            )
        except Rejected as error:
            raise InvalidSetting(error.message) from error
        plan.check()
        return plan

    def check(self) -> None:
        """Judge what belongs together. Errors: InvalidSetting."""
        if not self.device:
            raise InvalidSetting(
                f"{BRANCH}.device is not set: the stick, such as /dev/serial/by-id/usb-... or"
                " socket://host:port"
            )
        if self.channel and self.channel < 11:
            raise InvalidSetting(f"{BRANCH}.channel: expected 11 to 26, got {self.channel}")
        if self.extended_pan_id and not _EIGHT_BYTES.fullmatch(self.extended_pan_id):
            raise InvalidSetting(
                f"{BRANCH}.extended_pan_id: expected 8 bytes with colons, got"
                f" {self.extended_pan_id[:40]!r}"
            )
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise InvalidSetting(f"{BRANCH}.{name}: expected at least {least:g} seconds")
        if self.flow_control not in ("", "hardware", "software"):
            raise InvalidSetting(
                f"{BRANCH}.flow_control: expected hardware or software, got {self.flow_control!r}"
            )


def _key(path: str) -> str:
    """Return the network key of a file: 32 hexadecimal digits. Errors: InvalidSetting."""
    if not path:
        return ""
    try:
        text = Path(path).read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise InvalidSetting(f"{BRANCH}.key_file: {path}: {error.strerror}") from error
    plain = re.sub(r"[:\s]", "", text[:200])
    if not _HEX_KEY.fullmatch(plain):
        raise InvalidSetting(f"{BRANCH}.key_file: {path}: expected 32 hexadecimal digits")
    return plain.lower()
