"""The port to hardware: what a mapper needs of one device, whatever its protocol.

One driver serves one device. Calls may be slow or fail; the runner puts a time limit around each and keeps
devices apart, so a driver never guards its neighbours.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from gateway.errors import Rejected, Undeliverable
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.models import ModelView

Clock = Callable[[], int]
"""Milliseconds since the epoch."""


class Quality(enum.StrEnum):
    """How far a reading can be trusted: uncertain ones are reported with a mark, bad ones are a fault."""

    GOOD = "good"
    UNCERTAIN = "uncertain"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Reading:
    """One value as the device gave it.

    Shape:  `text` in DeviceModel's canonical form; `at` the source's own time, ms since the epoch, 0 where it
            has none; `why` says for people what is wrong with a reading that is not good.
    """

    text: str
    quality: Quality
    at: int
    why: str = ""


class DeviceUnreachable(Undeliverable):
    """The device does not answer; the runner connects again with back-off."""

    code = "edge.device.unreachable"
    default_message = "the device does not answer"


class NotServed(Rejected):
    """A Device that no driver here has anything to do with: it speaks to the edge itself."""

    code = "edge.device.notserved"
    default_message = "the device speaks for itself"


class TakenLater(Rejected):
    """Not refused: the device sleeps, and gets the value when it is heard; told as long as it waits."""

    status = 202
    code = "edge.device.later"
    default_message = "the device sleeps; it gets the value when it is heard"


class Driver(Protocol):
    """One device's connection."""

    async def connect(self) -> None:
        """Open the connection. Errors: DeviceUnreachable; Rejected for a configuration that cannot work."""

    async def read(self, names: Sequence[str]) -> Mapping[str, Reading]:
        """Read properties; those that the device has not are left out. Errors: DeviceUnreachable."""

    async def write(self, name: str, text: str) -> None:
        """Set a property. Errors: DeviceUnreachable; Rejected for a value that the device refuses."""

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Call `changed` (short, never raises) when the device has something new to read."""

    async def close(self) -> None:
        """Give the connection back; never raises."""


@runtime_checkable
class TellsFaults(Protocol):
    """A driver that knows, once connected, what of its Device it has nothing for; drivers need not."""

    def faults(self) -> Mapping[str, str]:
        """Return what is wrong, by property."""


@runtime_checkable
class KeepsWrites(Protocol):
    """A driver that keeps values for a device that sleeps (`TakenLater`); drivers need not."""

    async def withdraw(self, name: str) -> None:
        """A value that is kept for a property is wanted no more. Errors: DeviceUnreachable."""


DriverFactory = Callable[[DeviceView, ModelView | None], Driver]
"""Makes the driver of a Device, whose defaults from the model are filled in already.

Errors: Rejected for a configuration that cannot work; NotServed.
"""
