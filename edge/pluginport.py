"""The port of modules that other packages bring into EdgeCore (entry points of `twinspan.modules`).

It is all that a plug-in may rely on; what it imports from `edge` or `gateway` beside this file, `Module` and
the errors may change with any release. A plug-in runs in EdgeCore's loop: it must not block it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gateway.model.json import Json, JsonObject
from gateway.runtime.module import Module


@dataclass(frozen=True, slots=True)
class PropertyTwin:
    """One property of a Device: texts, None where nothing is wanted or reported; `type` is its twin's."""

    wanted: str | None
    reported: str | None
    type: str


class EdgePort(Protocol):
    """What EdgeCore offers. A device is `<namespace>/<name>`.

    Errors: (of all) DeviceNotFound for a Device that is not this node's; BadRequest for what cannot be.
    """

    @property
    def node(self) -> str:
        """This node's name."""

    @property
    def folder(self) -> Path:
        """A directory for the plug-in's own files; it is there, only this user can read it."""

    @property
    def is_linked(self) -> bool:
        """True while the cloud is connected."""

    def listen(self, topic_filter: str, heard: Callable[[str, bytes], None]) -> int:
        """Hear what local MQTT clients publish; `heard` is short and never raises. Ends with `run`."""

    def forget(self, key: int) -> None:
        """Stop hearing; `key` is what `listen` returned."""

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> None:
        """Publish to local MQTT clients; EdgeCore itself does not work on it."""

    def devices(self) -> list[str]:
        """Return the Devices of this node."""

    def twins(self, device: str) -> Mapping[str, PropertyTwin]:
        """Return a Device's properties."""

    async def report(self, device: str, values: Mapping[str, str]) -> None:
        """Set reported values; returns when they are on disk. Errors: StoreUnavailable."""

    async def want(self, device: str, values: Mapping[str, str]) -> None:
        """Set wanted values; returns when they are on disk. Errors: StoreUnavailable."""

    async def call(self, device: str, method: str, values: Mapping[str, Json]) -> JsonObject:
        """Call a Device's method. Errors: those of `edge.devicemethods.DeviceMethods.call`."""

    async def send(self, kind: str, device: str, payload: bytes, content_type: str = "") -> None:
        """Send `telemetry` or an `event` north; returns when it is on disk.

        Errors: StoreUnavailable, SpoolFull.
        """


ModuleFactory = Callable[[EdgePort], Module]
"""What an entry point's object is: makes the module; nothing is started in it."""
