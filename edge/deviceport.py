"""What serves devices (mapper runner, DMI) needs of DeviceTwin, and what it is told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from edge.store import DeviceRow
from edge.twinrules import Change, Twins
from gateway.errors import GatewayError
from gateway.model.trace import TraceContext
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.models import ModelView
from gateway.wire.cloudedge.subjects import DeviceKey
from gateway.wire.cloudedge.twins import Twin

MAPPER, MQTT, CLOUD = "mapper", "mqtt", "cloud"
"""Who asks for a change of a twin."""

Updated = Callable[[Change | GatewayError], None]


class DeviceListener(Protocol):
    """Told which Devices and models there are. Calls are short and never raise.

    Who listens before DeviceTwin runs is told everything that is on disk: models before their Devices.
    """

    def device_bound(
        self, view: DeviceView, model: ModelView | None, trace: TraceContext | None
    ) -> None:
        """The Device is new or has changed; `trace` is what the change belongs to."""

    def device_gone(self, key: DeviceKey) -> None: ...
    def desired_changed(self, key: DeviceKey, trace: TraceContext) -> None:
        """Something is wanted that the device does not have yet."""

    def model_bound(self, model: ModelView) -> None:
        """The model is new or has changed; its Devices are bound anew after it."""

    def model_gone(self, namespace: str, name: str) -> None: ...


class TwinPort(Protocol):
    """DeviceTwin, as those who serve devices use it."""

    def update(
        self,
        key: DeviceKey,
        asks: Mapping[str, Twin | None] | None,
        done: Updated,
        *,
        origin: str,
        event_id: str = "",
        trace: TraceContext | None = None,
    ) -> None:
        """Apply a report; `done` after it is durable. Errors (through `done`): see `DeviceTwin.update`."""

    def set_state(
        self, key: DeviceKey, state: str, done: Callable[[DeviceRow | GatewayError], None]
    ) -> None:
        """Note a device's state, one of `twins.STATES`."""

    def twins(self, key: DeviceKey) -> Twins:
        """Return a device's twins. Errors: DeviceNotFound."""

    def bound(self) -> Iterable[tuple[DeviceView, ModelView | None]]:
        """Return the Devices of this node with their models."""

    def device(self, key: DeviceKey) -> tuple[DeviceView, ModelView | None]:
        """Return a Device with its model. Errors: DeviceNotFound."""

    def models(self) -> Iterable[ModelView]:
        """Return the DeviceModels of this node's Devices."""


class FaultPort(Protocol):
    """Where it is told what of a Device does not work."""

    def note(self, key: DeviceKey, part: str, fault: str) -> None:
        """Say what is wrong with a part of a Device; "" when it is right again."""

    def forget(self, key: DeviceKey, *parts: str) -> None:
        """Nothing is wrong any more with parts that have these names, or begin so."""
