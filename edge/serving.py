"""Who serves a Device at this edge, and what of the Device itself nobody can serve.

A Device is served by a driver in EdgeCore, by a mapper over DMI, or speaks for itself over MQTT. What it
names and nothing here has (its protocol's driver, its model, properties of the model, what methods write) is
noted as a fault.
"""

from __future__ import annotations

from collections.abc import Iterator

from edge.devicefaults import DeviceFaults
from edge.deviceport import TwinPort
from edge.mappers.runner import MapperRunner
from edge.methodrules import method_fault
from gateway.model.trace import TraceContext
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.models import ModelView, with_defaults
from gateway.wire.cloudedge.subjects import DeviceKey

DRIVER, MODEL = "driver", "model"
OWN_PARTS = (DRIVER, MODEL, "model ", "method ")


class Serving:
    """A listener of DeviceTwin, and told by DMI which protocols mappers serve."""

    def __init__(self, runner: MapperRunner, twin: TwinPort, faults: DeviceFaults) -> None:
        self._runner = runner
        self._twin = twin
        self._faults = faults
        self._mapped: set[str] = set()
        self._heard: set[DeviceKey] = set()

    def has_mapper(self, protocol: str) -> bool:
        """Say whether a mapper over DMI serves a protocol now."""
        return protocol in self._mapped

    def served(self, protocol: str, is_served: bool) -> None:
        """A mapper begins or ceases to serve a protocol."""
        if is_served:
            self._mapped.add(protocol)
        else:
            self._mapped.discard(protocol)
        for view, model in self._twin.bound():
            whole = with_defaults(view, model)
            if whole.protocol == protocol:
                self._judge_driver(whole)

    def heard(self, key: DeviceKey) -> None:
        """Somebody speaks for a Device by MQTT: a mapper without DMI, or the device."""
        if key not in self._heard:
            self._heard.add(key)
            self._faults.note(key, DRIVER, "")

    def _judge_driver(self, view: DeviceView) -> None:
        protocol = view.protocol
        is_there = (
            not protocol
            or protocol in self._mapped
            or view.key in self._heard
            or self._runner.has_driver(protocol)
        )
        fault = f"nobody serves the protocol {protocol!r} here: no driver, no mapper over DMI"
        self._faults.note(view.key, DRIVER, "" if is_there else fault)

    # --- DeviceListener -------------------------------------------------------------------------

    def device_bound(
        self, view: DeviceView, model: ModelView | None, trace: TraceContext | None
    ) -> None:
        """Judge a Device; `trace` is of no use here."""
        del trace
        whole = with_defaults(view, model)
        self._judge_driver(whole)
        found = dict(_faults(whole, model))
        for part in self._faults.of(view.key):
            if part != DRIVER and part.startswith(OWN_PARTS):
                found.setdefault(part, "")
        for part, fault in found.items():
            self._faults.note(view.key, part, fault)

    def device_gone(self, key: DeviceKey) -> None:
        self._heard.discard(key)
        self._faults.gone(key)

    def desired_changed(self, key: DeviceKey, trace: TraceContext) -> None:
        """Wishes change nothing here."""

    def model_bound(self, model: ModelView) -> None:
        """Its Devices are bound anew after it."""

    def model_gone(self, namespace: str, name: str) -> None:
        for view, _ in self._twin.bound():
            if (view.meta.namespace, view.model) == (namespace, name):
                self.device_bound(view, None, None)


def _faults(view: DeviceView, model: ModelView | None) -> Iterator[tuple[str, str]]:
    """Yield part and fault of what a Device names and does not have."""
    if model is None and view.model:
        yield MODEL, f"the DeviceModel {view.model!r} is not at this node"
    if model is not None:
        for name in view.properties:
            if name not in model.rules:
                yield f"model {name}", f"the DeviceModel {view.model!r} has no property {name!r}"
    for method in view.methods:
        fault = method_fault(method, view, model)
        if fault:
            yield f"method {method.name}", fault
