"""What edges report of Devices: into the DeviceStatus, and into the thing.

A node may report its own Devices only. A value that does not parse is counted, told in an event and left
out; the rest is written. The edge is answered when all is durable; without an answer it reports again. A
report older than one that the same edge store has sent of that property before is answered and left out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec import UNSET

from cloud.catalog import Catalog, DeviceChange
from cloud.devicecontroller import DeviceController
from cloud.hub import CloudHub
from cloud.mapping import Layout, features_patch, reported_by_thing
from cloud.sessions import Inbound, stamp
from cloud.statuses import (
    MAX_FAULTS,
    Faults,
    belongs_to,
    faults_of,
    is_news,
    new_status,
    parse_reported,
    reported_by_entries,
    state_of,
    status_patch,
    twin_entries,
    twin_entry,
)
from gateway.errors import BadRequest, Forbidden, GatewayError, NotFound, Undeliverable
from gateway.kube.client import KubeClient
from gateway.model.json import Json, JsonObject
from gateway.model.thing import Thing
from gateway.model.trace import TraceContext
from gateway.wire.cloudedge.devices import GROUP_VERSION, STATUSES, DeviceView, ObjectMeta
from gateway.wire.cloudedge.subjects import DeviceKey
from gateway.wire.cloudedge.to_cloud import StateReported, TwinReported
from gateway.wire.cloudedge.to_edge import answer_twin
from gateway.wire.cloudedge.twins import DELETED, STATES, Twin
from gateway.wire.cloudedge.values import equal
from gateway.wire.kube.status import AlreadyExists

if TYPE_CHECKING:
    from cloud.events import EventRecorder
    from gateway.observe.metrics import Metrics
    from gateway.observe.tracing import Tracer

log = logging.getLogger(__name__)

RETRIES = (0.2, 1.0, 5.0)
"""Seconds before a report that could not be written is tried again; after that the edge sends it again."""
MAX_PROPERTIES = 1_000


@dataclass(slots=True)
class _Reported:
    """What is known of one Device's reports: its DeviceStatus as we left it, and versions seen."""

    uid: str
    entries: dict[str, JsonObject]
    state: dict[str, str]
    exists: bool
    faults: Faults | None = None
    """What is wrong with the Device; None while nobody has told."""
    source: tuple[str, str] = ("", "")
    versions: dict[str, int] = field(default_factory=dict)
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Twins and state are reported side by side and written into one object."""
    telling: asyncio.Lock = field(default_factory=asyncio.Lock)
    """A report and what catches up on earlier ones write into the same thing."""
    removed: set[str] = field(default_factory=set)
    """Properties that are gone and still stand in the thing."""

    def take_from(self, source: tuple[str, str]) -> None:
        """Note whose report comes: another node, or a node with a new store, counts its versions anew."""
        if source != self.source:
            self.source = source
            self.versions.clear()


@dataclass(frozen=True, slots=True)
class Reading:
    """A report, read against the Device's layout; None says that a property is gone."""

    values: Mapping[str, Json]
    entries: Mapping[str, JsonObject | None]
    faults: Mapping[str, str]


def read_report(
    layout: Layout, twins: Mapping[str, Twin | None], known: Mapping[str, JsonObject]
) -> Reading:
    """Read the properties of one report. Pure."""
    values: dict[str, Json] = {}
    entries: dict[str, JsonObject | None] = {}
    faults: dict[str, str] = {}
    for name, twin in list(twins.items())[:MAX_PROPERTIES]:
        if twin is None or twin.type == DELETED:
            values[name] = entries[name] = None
            continue
        try:
            value = parse_reported(layout, name, twin)
        except BadRequest as error:
            faults[name] = error.message
            continue
        if value is not None and "/" not in name:
            values[name] = value
        entries[name] = twin_entry(layout, name, twin, known.get(name))
    return Reading(values, entries, faults)


class Reports:
    """Takes twin and state reports from the hub. Call `attach` once."""

    def __init__(
        self,
        *,
        kube: KubeClient,
        catalog: Catalog,
        controller: DeviceController,
        events: EventRecorder,
        metrics: Metrics,
        tracer: Tracer,
        things_may_lag: bool = False,
    ) -> None:
        self._kube = kube
        self._catalog = catalog
        self._controller = controller
        self._events = events
        self._metrics = metrics
        self._tracer = tracer
        self._known: dict[DeviceKey, _Reported] = {}
        self._things_may_lag = things_may_lag
        """Things elsewhere: a report is answered once the DeviceStatus has it, the thing follows."""
        self._level: set[DeviceKey] = set()
        catalog.on_device(self._device_changed)
        if things_may_lag:
            controller.on_settled = self.catch_up

    def attach(self, hub: CloudHub) -> None:
        """Take the hub's reports; those of one Device stay in order."""
        hub.on(TwinReported, self.on_twin, lambda m: m.device)
        hub.on(StateReported, self.on_state, lambda m: m.device)

    def _device_changed(self, change: DeviceChange) -> None:
        if change.new is None or (change.old and change.old.meta.uid != change.new.meta.uid):
            self._known.pop(change.key, None)
            self._level.discard(change.key)

    # --- twin reports -------------------------------------------------------------------------------

    async def on_twin(self, inbound: Inbound, message: TwinReported) -> None:
        """Write what a node reports of a Device, then answer."""
        device = self._own_device(inbound.node, message.device)
        if device is None:
            self._count("refused", 1)
            inbound.reply(answer_twin(inbound.envelope, stamp()))
            return
        facts = {"node": inbound.node, "device": str(device.key)}
        self._known_of(device).take_from((inbound.node, inbound.session.edge))
        with self._tracer.start(
            "devicecontroller report", inbound.envelope.trace, "consumer", facts
        ) as span:
            if self._is_of_another(device, inbound.node):
                none = Faults(inbound.node, {})
                await _with_retries(lambda: self._write_state(device, {}, none, span.context))
            await _with_retries(
                lambda: self._write_twins(device, message.update.twin or {}, span.context)
            )
        inbound.reply(answer_twin(inbound.envelope, stamp()))

    async def _write_twins(
        self, device: DeviceView, twins: Mapping[str, Twin | None], trace: TraceContext
    ) -> None:
        known = self._known_of(device)
        async with known.telling:
            await self._write_fresh(device, known, twins, trace)

    async def _write_fresh(
        self,
        device: DeviceView,
        known: _Reported,
        twins: Mapping[str, Twin | None],
        trace: TraceContext,
    ) -> None:
        layout = self._catalog.layout(device)
        fresh = {n: t for n, t in twins.items() if not _is_stale(known, n, t)}
        reading = read_report(layout, fresh, known.entries)
        self._tell_faults(device, reading)
        await self._write_thing(device, layout, reading.values, trace)
        await self._write_status(device, known, reading.entries)
        for name, twin in fresh.items():
            known.versions[name] = _version(twin)

    async def _write_thing(
        self, device: DeviceView, layout: Layout, values: Mapping[str, Json], trace: TraceContext
    ) -> None:
        thing = self._controller.thing_of(device.key)
        changed = _changed(thing, layout, values)
        if not changed:
            self._count("unchanged", len(values))
            return
        patch: JsonObject = {"features": features_patch(layout, {}, changed)}
        try:
            await self._controller.write_reported(device.key, patch, trace)
        except Forbidden as error:
            self._warn(device.key, "ThingDenied", error.message)
            self._count("denied", len(changed))
        except Undeliverable as error:
            self._lag(device, error)
            self._known_of(device).removed.update(n for n, v in changed.items() if v is None)
            self._count("deferred", len(changed))
        else:
            self._count("written", len(changed))

    # --- things that lag behind ---------------------------------------------------------------------

    def _lag(self, device: DeviceView, error: GatewayError) -> None:
        """Let the thing get it later. Errors: the one given, where things may not lag."""
        if not self._things_may_lag:
            raise error
        log.debug("thing lags", extra={"device": str(device.key), "cause": error.message})
        self._level.discard(device.key)
        self._controller.poke(device.key)

    def resynced(self) -> None:
        """All things were read again: each is compared with its DeviceStatus once."""
        self._level.clear()

    async def catch_up(self, key: DeviceKey) -> None:
        """Write what the DeviceStatus knows and the thing does not. Errors: what can be tried again."""
        device, thing = self._catalog.device(key), self._controller.thing_of(key)
        if key in self._level or device is None or thing is None:
            return
        known = self._known_of(device)
        async with known.telling:
            layout = self._catalog.layout(device)
            values = {**dict.fromkeys(known.removed), **reported_by_entries(known.entries, layout)}
            changed = _changed(thing, layout, values)
            if changed:
                patch: JsonObject = {"features": features_patch(layout, {}, changed)}
                await self._controller.write_reported(key, patch, None)
                self._count("caught_up", len(changed))
            known.removed.clear()
            self._level.add(key)

    def _tell_faults(self, device: DeviceView, reading: Reading) -> None:
        for name, fault in reading.faults.items():
            self._warn(device.key, "BadReport", f"property {name}: {fault}")
        self._count("unreadable", len(reading.faults))

    # --- state reports ------------------------------------------------------------------------------

    async def on_state(self, inbound: Inbound, message: StateReported) -> None:
        """Write a Device's state, then answer."""
        device = self._own_device(inbound.node, message.device)
        state = message.update.device.state
        if device is not None and state in STATES:
            found = {"state": state}
            online = message.update.device.last_online_time
            if isinstance(online, str) and online:
                found["lastOnlineTime"] = online
            said = message.update.device.faults
            faults = None if said is UNSET else Faults(inbound.node, _some(said))
            if faults is None and self._is_of_another(device, inbound.node):
                faults = Faults(inbound.node, {})
            trace = inbound.envelope.trace
            await _with_retries(lambda: self._write_state(device, found, faults, trace))
        inbound.reply(answer_twin(inbound.envelope, stamp()))

    async def _write_state(
        self,
        device: DeviceView,
        state: dict[str, str],
        faults: Faults | None,
        trace: TraceContext | None,
    ) -> None:
        known = self._known_of(device)
        before, after = known.state, {**known.state, **state}
        old = known.faults
        if before == after and (faults is None or faults == old):
            return
        known.state = after
        known.faults = old if faults is None else faults
        try:
            await self._put_status(device, known)
            if before.get("state") != after.get("state"):
                await self._tell_state(device, after, trace)
        except BaseException:  # what is tried again must not look done
            known.state, known.faults = before, old
            raise
        for part, fault in (faults.parts if faults else {}).items():
            if old is None or old.parts.get(part) != fault:
                self._warn(device.key, "DeviceFault", f"{part}: {fault}")

    def _is_of_another(self, device: DeviceView, node: str) -> bool:
        """Say whether the faults that are known are of the node where the Device was before."""
        known = self._known_of(device).faults
        return known is not None and bool(known.parts) and known.node != node

    async def _tell_state(
        self, device: DeviceView, state: dict[str, str], trace: TraceContext | None
    ) -> None:
        facts: JsonObject = {**state}
        try:
            await self._controller.write_reported(
                device.key, {"attributes": {"kubeedge": facts}}, trace
            )
        except Forbidden as error:
            self._warn(device.key, "ThingDenied", error.message)
        except Undeliverable as error:
            self._lag(device, error)

    # --- DeviceStatus -------------------------------------------------------------------------------

    def _known_of(self, device: DeviceView) -> _Reported:
        known = self._known.get(device.key)
        if known is None or known.uid != device.meta.uid:
            status = self._catalog.status_object(device.key)
            known = self._known[device.key] = _Reported(
                device.meta.uid,
                twin_entries(status),
                state_of(status),
                status is not None,
                faults_of(status),
            )
        return known

    async def _write_status(
        self, device: DeviceView, known: _Reported, entries: Mapping[str, JsonObject | None]
    ) -> None:
        after = dict(known.entries)
        is_worth = False
        for name, entry in entries.items():
            if entry is None:
                is_worth = after.pop(name, None) is not None or is_worth
            elif is_news(after.get(name), entry):
                after[name], is_worth = entry, True
        if not is_worth:
            return
        before, known.entries = known.entries, after
        try:
            await self._put_status(device, known)
        except BaseException:
            known.entries = before
            raise

    async def _put_status(self, device: DeviceView, known: _Reported) -> None:
        async with known.writing:
            status = status_patch(known.entries, known.state, known.faults)
            if not (known.exists and await self._patch_status(device, status)):
                known.exists = False
                await self._make_status(device, status)
                known.exists = True

    async def _patch_status(self, device: DeviceView, status: JsonObject) -> bool:
        """Write what is there already; False when it is not."""
        at = (GROUP_VERSION, STATUSES, device.key.namespace, device.key.name)
        try:
            await self._kube.patch(*at, {"status": status})
        except NotFound:
            return False
        return True

    async def _make_status(self, device: DeviceView, status: JsonObject) -> None:
        at = (GROUP_VERSION, STATUSES, device.key.namespace)
        fresh = new_status(device, status)
        try:
            await self._kube.create(*at, fresh)
        except AlreadyExists:
            found = await self._kube.get(*at, device.key.name)
            if belongs_to(found, device.meta.uid):
                await self._patch_status(device, status)
                return
            await self._kube.delete(*at, device.key.name, uid=ObjectMeta.read(found).uid)
            await self._kube.create(*at, fresh)

    # --- shared -------------------------------------------------------------------------------------

    def _own_device(self, node: str, key: DeviceKey) -> DeviceView | None:
        device = self._catalog.device(key)
        if device is not None and device.node == node:
            return device
        log.info(
            "report refused: not a Device of this node", extra={"node": node, "device": str(key)}
        )
        return None

    def _warn(self, key: DeviceKey, reason: str, message: str) -> None:
        document = self._catalog.device_object(key)
        if document is not None:
            self._events.warn(document, reason, message)

    def _count(self, outcome: str, number: int) -> None:
        if number:
            self._metrics.edge_reports.labels(outcome).inc(number)


def _some(faults: Mapping[str, str]) -> dict[str, str]:
    return dict(list(faults.items())[:MAX_FAULTS])


async def _with_retries(write: Callable[[], Awaitable[None]]) -> None:
    """Try a write a few times while the stores cannot take it. Errors: Undeliverable in the end."""
    for pause in RETRIES:
        try:
            await write()
        except Undeliverable as error:
            log.info("report must wait", extra={"cause": error.message})
            await asyncio.sleep(pause)
        else:
            return
    await write()


def _changed(thing: Thing | None, layout: Layout, values: Mapping[str, Json]) -> dict[str, Json]:
    """Return what is not in the thing yet; all of it when the thing is not known."""
    if thing is None:
        return {name: value for name, value in values.items() if value is not None}
    wider = _with_made_up(layout, values)
    present = reported_by_thing(thing.document, wider)
    return {
        name: value
        for name, value in values.items()
        if (name in present or value is not None) and not equal(present.get(name), value)
    }


def _with_made_up(layout: Layout, names: Mapping[str, Json]) -> Layout:
    """Return the layout with places for properties that only the edge knows."""
    return Layout({**layout.places, **{n: layout.place(n) for n in names}}, layout.rules)


def _is_stale(known: _Reported, name: str, twin: Twin | None) -> bool:
    version = _version(twin)
    return 0 < version < known.versions.get(name, 0)


def _version(twin: Twin | None) -> int:
    return twin.actual_version.edge if twin is not None and twin.actual_version else 0
