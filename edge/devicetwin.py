"""DeviceTwin: the devices of this node and what is wanted of and known about each of their properties.

The rules are in `edge.twinrules`; here they meet the disk, the cloud and the local bus. A change is written
together with the report about it, then told to who asked and to local subscribers (`document`, `delta`).
Memory runs ahead of the disk by the writes that wait; a failed write is undone.

Source: KubeEdge reference, sections 14.2, 15.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

import msgspec

from edge.attributes import Attributes
from edge.clock import now_ms, rfc3339, stamp
from edge.deviceforms import LocalDevice, member_of, row_of, topic_of
from edge.deviceport import CLOUD, MAPPER, MQTT, DeviceListener, Updated
from edge.hub import Sender
from edge.membership import Membership
from edge.reports import MAX_WAITING, Reports
from edge.spool import trace_text
from edge.store import DeviceRow, EdgeStore, Report
from edge.twinrules import (
    NO_RULES,
    Change,
    Twins,
    alive,
    changes_of,
    deltas,
    report,
    sync,
)
from gateway.errors import BadRequest, DeviceNotFound, GatewayError, TooLarge
from gateway.model.json import JsonObject
from gateway.model.trace import TraceContext
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracer
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.envelope import Envelope
from gateway.wire.cloudedge.models import ModelView
from gateway.wire.cloudedge.subjects import (
    STATE_UPDATED,
    TWIN_UPDATED,
    DeviceKey,
    device_resource,
)
from gateway.wire.cloudedge.to_edge import TwinCommanded
from gateway.wire.cloudedge.twins import (
    STATES,
    DeviceState,
    MemberDevice,
    StateUpdate,
    Twin,
    TwinDelta,
    TwinDocument,
    TwinUpdate,
    write,
)

log = logging.getLogger(__name__)

REBIND_SECONDS = 5.0
"""How soon a Device that could not be written is tried again."""
MAX_DEVICES = 10_000
UNKNOWN = "unknown"
MAX_REPORT = 1024 * 1024
"""Characters of one report to the cloud."""

Publish = Callable[[str, bytes], None]


class DeviceTwin:
    """The twins of this node as a module; also a listener of the link and of MetaManager."""

    name = "edge.devicetwin"

    def __init__(
        self,
        node: str,
        store: EdgeStore,
        sender: Sender,
        reports: Reports,
        *,
        metrics: Metrics,
        tracer: Tracer,
    ) -> None:
        self.node = node
        self._store = store
        self._reports = reports
        self._metrics = metrics
        self._tracer = tracer
        self._devices: dict[str, LocalDevice] = {}
        self._models: dict[tuple[str, str], ModelView] = {}
        self._listeners: list[DeviceListener] = []
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self.membership = Membership(node, sender, self, lambda *item: self.publish(*item))
        """Listener of the link, taker of answers, handler of `MembershipChanged`."""
        self.publish: Publish = _nowhere
        """Where results for local subscribers go; EventBus sets it."""
        self.heard: Callable[[DeviceKey], None] = lambda _key: None
        """Told of each Device for which somebody spoke by MQTT; who judges its faults sets it."""
        self.attributes = Attributes(store.database, lambda *item: self.publish(*item))

    def listen(self, listener: DeviceListener) -> None:
        """Tell `listener` about Devices from now on (before `run`: about all)."""
        self._listeners.append(listener)

    # --- life ---------------------------------------------------------------------------------

    async def run(self, ready: Callable[[], None]) -> None:
        await self._load()
        ready()
        try:
            await self.membership.ask_forever()
        finally:
            for device in list(self._timers):
                self._stop_timer(device)

    async def _load(self) -> None:
        for row in await self._store.devices():
            self._devices[row.id] = LocalDevice(row)
        await self.attributes.load()
        twins, bound = await self._store.twins(), await self._store.bound()
        for name, device in self._devices.items():
            device.load(twins.get(name, {}), bound.get(name, {}))
        for entry in await self._store.meta_of_type("devicemodel"):
            self.put_model(msgspec.json.decode(entry.value))
        for entry in await self._store.meta_of_type("device"):
            try:
                self.put_device(msgspec.json.decode(entry.value))
            except GatewayError as error:  # one odd object must not keep the edge from starting
                log.warning(
                    "a stored device is of no use",
                    extra={"resource": entry.key, "cause": error.message},
                )

    # --- what clients at the edge ask -----------------------------------------------------------

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
        """Apply a report or wish of a client (`origin` MQTT) or mapper; `done` after it is durable.

        Errors (through `done`): DeviceNotFound, BadRequest, StoreUnavailable.
        """
        try:
            device = self._device(key)
            is_mapper = origin == MAPPER
            change = report(device.twins, asks or {}, now_ms(), device.rules, is_sourced=is_mapper)
        except GatewayError as error:
            self._metrics.edge_twin_updates.labels(origin, "refused").inc()
            done(error)
            return
        if origin == MQTT and any(ask and ask.actual for ask in (asks or {}).values()):
            self.heard(key)  # a wish proves nobody who serves it
        self._commit(device, key, change, done, origin=origin, event_id=event_id, trace=trace)

    def twins(self, key: DeviceKey) -> Twins:
        """Return a device's twins. Errors: DeviceNotFound."""
        return self._device(key).twins

    def set_state(
        self, key: DeviceKey, state: str, done: Callable[[DeviceRow | GatewayError], None]
    ) -> None:
        """Note a device's state and report it; unknown words are ignored, as KubeEdge does.

        Errors (through `done`): DeviceNotFound, BadRequest for an unknown state, StoreUnavailable.
        """
        try:
            device = self._device(key)
        except GatewayError as error:
            done(error)
            return
        if state not in STATES:
            done(BadRequest(f"state: expected one of {', '.join(sorted(STATES))}"))
            return
        now = now_ms()
        online = rfc3339(now) if state == "online" else device.row.last_online
        before = device.row
        row = device.row = replace(before, state=state, last_online=online)

        def answer(result: int | GatewayError) -> None:
            if isinstance(result, GatewayError):
                if device.row is row:  # nobody has gone on from it
                    device.row = before
                done(result)
                return
            self._reports.stored(row.id, result)
            done(row)

        self._store.put_state(row, self._state_report(key, row, now), MAX_WAITING, answer)

    def tell_faults(
        self,
        key: DeviceKey,
        faults: Mapping[str, str],
        done: Callable[[GatewayError | None], None],
    ) -> None:
        """Report a Device's faults with the state that it has.

        Errors (through `done`): DeviceNotFound, StoreUnavailable.
        """
        try:
            device = self._device(key)
        except GatewayError as error:
            done(error)
            return

        def answer(result: int | GatewayError) -> None:
            if isinstance(result, GatewayError):
                done(result)
                return
            self._reports.stored(device.row.id, result)
            done(None)

        report = self._state_report(key, device.row, now_ms(), faults)
        self._store.put_state(device.row, report, MAX_WAITING, answer)

    def _state_report(
        self, key: DeviceKey, row: DeviceRow, now: int, faults: Mapping[str, str] | None = None
    ) -> Report:
        device = DeviceState(name=row.name, state=row.state or UNKNOWN)
        if faults is not None:
            device = msgspec.structs.replace(device, faults=dict(faults))
        if row.last_online:
            device = msgspec.structs.replace(device, last_online_time=row.last_online)
        text = write(StateUpdate(event_id="", timestamp=now, device=device)).decode()
        content = msgspec.json.encode(text).decode()  # KubeEdge: JSON inside a string
        return Report(0, row.id, stamp().msg_id, device_resource(key, STATE_UPDATED), content)

    @property
    def count(self) -> int:
        """How many twins there are."""
        return sum(len(device.twins) for device in self._devices.values())

    def members(self) -> list[MemberDevice]:
        """Return all devices of this node as `membership/get/result` lists them."""
        rows = self.rows
        return [member_of(row, self.attributes.of(row.id)) for row in rows]

    def bound(self) -> list[tuple[DeviceView, ModelView | None]]:
        """Return the Devices of this node with their models."""
        views = [device.view for device in self._devices.values() if device.view is not None]
        return [(view, self._models.get(_model_key(view))) for view in views]

    def device(self, key: DeviceKey) -> tuple[DeviceView, ModelView | None]:
        """Return a Device with its model. Errors: DeviceNotFound."""
        view = self._device(key).view
        if view is None:
            raise DeviceNotFound(f"device {key} is not described yet")
        return view, self._models.get(_model_key(view))

    def models(self) -> list[ModelView]:
        """Return the DeviceModels of this node's Devices."""
        return list(self._models.values())

    def _device(self, key: DeviceKey) -> LocalDevice:
        device = self._devices.get(str(key))
        if device is None:
            raise DeviceNotFound(f"device {key} does not belong to this node")
        return device

    # --- the change itself ------------------------------------------------------------------------

    def _commit(
        self,
        device: LocalDevice,
        key: DeviceKey,
        change: Change,
        done: Updated,
        *,
        origin: str,
        event_id: str = "",
        trace: TraceContext | None = None,
    ) -> None:
        span = self._tracer.start(
            "edge.devicetwin update", trace, attributes={"device": str(key), "origin": origin}
        )
        row = self._twin_report(key, change, span.context) if change.sync else None
        if row is not None and len(row.content) > MAX_REPORT:
            refusal = TooLarge(f"a report of {len(row.content)} characters; at most {MAX_REPORT}")
            self._metrics.edge_twin_updates.labels(origin, "refused").inc()
            span.end(refusal)
            done(refusal)
            return
        device.begin(change)

        def answer(result: int | GatewayError) -> None:
            if isinstance(result, GatewayError):
                device.undo(change)
                self._metrics.edge_twin_updates.labels(origin, "failed").inc()
                span.end(result)
                done(result)
                return
            self._metrics.edge_twin_updates.labels(origin, "ok").inc()
            span.end()
            device.written(change)
            self._reports.stored(str(key), result)
            done(change)
            if change.bound and not change.changed:
                return  # nothing that anybody sees
            self._announce(device, key, change, event_id)
            if origin != MAPPER and deltas(device.twins):
                for listener in self._listeners:
                    listener.desired_changed(key, span.context)

        if not change.changed and not change.bound and row is None:
            answer(0)
        else:
            cells = (device.row, change.changed, change.bound, row)
            self._store.change(*cells, MAX_WAITING, answer)

    def _twin_report(self, key: DeviceKey, change: Change, trace: TraceContext) -> Report:
        made = stamp()
        update = TwinUpdate(event_id=made.msg_id, timestamp=made.millis, twin=change.sync)
        return Report(
            0,
            str(key),
            made.msg_id,
            device_resource(key, TWIN_UPDATED),
            write(update).decode(),
            trace_text(trace),
        )

    def _announce(self, device: LocalDevice, key: DeviceKey, change: Change, event_id: str) -> None:
        """Tell local subscribers what changed, and what is still wanted."""
        topic, now = topic_of(key), now_ms()
        if change.changed:
            document = TwinDocument(event_id, now, changes_of(change))
            self.publish(f"{topic}/twin/update/document", write(document))
        behind = deltas(device.twins)
        if behind:
            delta = TwinDelta(event_id, now, alive(device.twins), behind)
            self.publish(f"{topic}/twin/update/delta", write(delta))

    # --- what the cloud says ----------------------------------------------------------------------

    def put_model(self, document: JsonObject) -> None:
        """Take a DeviceModel; its Devices are judged by it from now on."""
        model = ModelView.read(document)
        self._keep_model(model)
        for listener in self._listeners:
            listener.model_bound(model)
        for device in list(self._devices.values()):
            view = device.view
            if view is not None and _model_key(view) == (model.meta.namespace, model.meta.name):
                self._bind(device, view)

    def _keep_model(self, model: ModelView) -> None:
        self._models[model.meta.namespace, model.meta.name] = model

    def delete_model(self, namespace: str, name: str) -> None:
        if self._models.pop((namespace, name), None) is None:
            return
        for listener in self._listeners:
            listener.model_gone(namespace, name)

    def put_device(self, document: JsonObject, trace: TraceContext | None = None) -> None:
        """Take a Device: its desired values become expected ones. Errors: MalformedPacket for its name."""
        view = DeviceView.read(document)
        row_id = str(DeviceKey.parse(str(view.key)))
        device = self._devices.get(row_id)
        if device is not None and device.view is not None and view.is_namesake_of(device.view):
            self.delete_device(view.key)  # what was known of that one is not true of this one
            device = None
        if device is None:
            device = self._add(row_of(view.member))
        if device is not None:
            self._bind(device, view, trace)

    def delete_device(self, key: DeviceKey) -> None:
        """The Device is gone, or belongs to another node now."""
        device = self._devices.pop(str(key), None)
        if device is None:
            return
        self._reports.forget(str(key))
        self.attributes.forget(str(key))
        self._stop_timer(str(key))
        self._store.delete_device(str(key), _logged)
        for listener in self._listeners:
            listener.device_gone(key)

    def _bind(
        self, device: LocalDevice, view: DeviceView, trace: TraceContext | None = None
    ) -> None:
        model = self._models.get(_model_key(view))
        previous = device.view
        change = device.bind(view, NO_RULES if model is None else model.rules)
        for listener in self._listeners:
            listener.device_bound(view, model, trace)
        if not change.changed and not change.bound:
            return

        def bound(result: Change | GatewayError) -> None:
            if isinstance(result, GatewayError):
                log.error(
                    "a device of the cloud is not on disk yet",
                    extra={"device": str(view.key), "cause": result.message},
                )
                self._bind_later(device, view, previous)

        self._commit(device, view.key, change, bound, origin=CLOUD, trace=trace)

    def _bind_later(
        self, device: LocalDevice, view: DeviceView, previous: DeviceView | None
    ) -> None:
        """Try again: the object is acknowledged, so the cloud does not send it a second time."""

        def again() -> None:
            if device.view is view and self._devices.get(device.row.id) is device:
                device.view = previous
                self._bind(device, view)

        self._stop_timer(device.row.id)
        loop = asyncio.get_running_loop()
        self._timers[device.row.id] = loop.call_later(REBIND_SECONDS, again)

    def _stop_timer(self, device: str) -> None:
        timer = self._timers.pop(device, None)
        if timer is not None:
            timer.cancel()

    def on_twin_command(self, _envelope: Envelope, command: TwinCommanded) -> None:
        """`cloud_updated` of older clouds."""
        try:
            device = self._device(command.device)
        except DeviceNotFound as error:
            log.warning("a twin command for no device of ours", extra={"cause": error.message})
            return
        change = sync(device.twins, command.update.twin or {}, now_ms())
        if change.rejected:
            log.info(
                "newer local values win over the cloud's",
                extra={"device": str(command.device), "sides": ", ".join(change.rejected)},
            )
        self._commit(
            device,
            command.device,
            change,
            _unheard,
            origin=CLOUD,
            event_id=command.update.event_id,
        )

    # --- Members ----------------------------------------------------------------------------------

    def add_member(self, row: DeviceRow) -> None:
        """A device came, without its Device so far."""
        self._add(row)

    @property
    def rows(self) -> list[DeviceRow]:
        """The devices of this node."""
        return [device.row for device in self._devices.values()]

    def _add(self, row: DeviceRow) -> LocalDevice | None:
        if len(self._devices) >= MAX_DEVICES:
            log.warning("too many devices for one node", extra={"device": row.id})
            return None
        device = self._devices[row.id] = LocalDevice(row)
        self._store.put_device(row, _logged)
        return device


def _model_key(view: DeviceView) -> tuple[str, str]:
    return view.meta.namespace, view.model


def _nowhere(_topic: str, _payload: bytes) -> None:
    """Nobody listens yet."""


def _unheard(result: Change | GatewayError) -> None:
    if isinstance(result, GatewayError):
        log.error("a change from the cloud is not on disk", extra={"cause": result.message})


def _logged(error: GatewayError | None) -> None:
    if error is not None:
        log.error("a device cannot be written", extra={"cause": error.message})
