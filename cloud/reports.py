"""What edges report of Devices: into the DeviceStatus, and into the thing.

A node may report its own Devices only. A value that does not parse is counted, told in an event and left out.
The edge is answered when all is durable, or reports again; what its store has told anew since is left out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from msgspec import UNSET

from cloud.catalog import Catalog, DeviceChange
from cloud.devicecontroller import DeviceController
from cloud.hub import CloudHub
from cloud.mapping import Layout, features_patch, reported_by_thing
from cloud.sessions import Inbound, stamp
from cloud.statusbook import KnownStatus, StatusBook
from cloud.statuses import (
    MAX_FAULTS,
    Faults,
    Reporter,
    is_news,
    parse_reported,
    reported_at,
    reported_by_entries,
    twin_entry,
)
from cloud.valuemetadata import requalified, said_of
from gateway.errors import (
    BadRequest,
    Forbidden,
    GatewayError,
    TooLarge,
    Undeliverable,
    Unprocessable,
)
from gateway.kube.client import KubeClient
from gateway.model.json import Json, JsonObject
from gateway.model.thing import Thing
from gateway.model.trace import TraceContext
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.subjects import DeviceKey
from gateway.wire.cloudedge.to_cloud import StateReported, TwinReported
from gateway.wire.cloudedge.to_edge import answer_twin
from gateway.wire.cloudedge.twins import DELETED, STATES, Twin
from gateway.wire.cloudedge.values import equal

if TYPE_CHECKING:
    from cloud.events import EventRecorder
    from cloud.ports import Leadership
    from gateway.observe.metrics import Metrics
    from gateway.observe.tracing import Tracer

log = logging.getLogger(__name__)

RETRIES = (0.2, 1.0, 5.0)
"""Seconds before a report that could not be written is tried again; after that the edge sends it again."""
MAX_PROPERTIES = 1_000
REFUSALS = (BadRequest, Forbidden, TooLarge, Unprocessable)
"""What a store says to a report that it will never take: those behind it must not wait for it."""


@dataclass(slots=True)
class _Reported:
    """What is known of one Device's reports: its DeviceStatus as we left it, and versions seen."""

    uid: str
    told: str | None = None
    """The state that the thing was told last; None: the one that the DeviceStatus began with."""
    source: tuple[str, str] = ("", "")
    versions: dict[str, int] = field(default_factory=dict)
    before: Mapping[str, int] = field(default_factory=dict)
    """Versions of the same store that were written before this process began."""
    telling: asyncio.Lock = field(default_factory=asyncio.Lock)
    """A report and what catches up on earlier ones write into the same thing."""
    removed: set[str] = field(default_factory=set)
    """Properties that are gone and still stand in the thing."""

    def take_from(self, source: tuple[str, str], last: Reporter) -> None:
        """Note whose report comes: another node, or a node with a new store, counts its versions anew."""
        if source != self.source:
            self.source = source
            self.versions.clear()
            self.before = last.versions if source == (last.node, last.store) else {}


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
        leadership: Leadership | None = None,
    ) -> None:
        self._book = StatusBook(kube, catalog)
        self._catalog = catalog
        self._controller = controller
        self._events = events
        self._metrics = metrics
        self._tracer = tracer
        self._known: dict[DeviceKey, _Reported] = {}
        self._things_may_lag = things_may_lag
        """Things elsewhere: a report is answered once the DeviceStatus has it, the thing follows."""
        self._level: set[DeviceKey] = set()
        self._behind: set[DeviceKey] = set()
        """Where things do not lag: Devices whose thing may lack what another CloudCore was told."""
        self._leadership = leadership
        catalog.on_device(self._device_changed)
        if things_may_lag or leadership is not None:
            controller.on_settled = self.catch_up
        if leadership is not None and not things_may_lag:  # each CloudCore has things of its own
            catalog.on_status(self._status_changed)
            leadership.on_change(self._lead)

    def attach(self, hub: CloudHub) -> None:
        """Take the hub's reports; those of one Device stay in order."""
        hub.on(TwinReported, self.on_twin, lambda m: m.device)
        hub.on(StateReported, self.on_state, lambda m: m.device)

    def _device_changed(self, change: DeviceChange) -> None:
        if change.new is None or (change.old and change.old.meta.uid != change.new.meta.uid):
            self._known.pop(change.key, None)
            self._level.discard(change.key)
            self._behind.discard(change.key)
            if change.old is not None:
                self._book.forget(change.old)

    # --- twin reports -------------------------------------------------------------------------------

    async def on_twin(self, inbound: Inbound, message: TwinReported) -> None:
        """Write what a node reports of a Device, then answer."""
        device = self._own_device(inbound.node, message.device)
        if device is None:
            self._count("refused", 1)
            inbound.reply(answer_twin(inbound.envelope, stamp()))
            return
        facts = {"node": inbound.node, "device": str(device.key)}
        source, last = (inbound.node, inbound.session.edge), self._book.of(device).reporter
        self._known_of(device).take_from(source, last)
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
        entries = self._book.of(device).entries
        fresh = {n: t for n, t in twins.items() if not _is_stale(known, entries, n, t)}
        reading = read_report(layout, fresh, entries)
        self._tell_faults(device, reading)
        await self._write_thing(device, layout, reading, entries, trace)
        versions = {name: _version(twin) for name, twin in fresh.items()}
        await self._write_status(device, known, reading.entries, versions)
        known.versions.update(versions)

    async def _write_thing(
        self,
        device: DeviceView,
        layout: Layout,
        reading: Reading,
        known: Mapping[str, JsonObject],
        trace: TraceContext,
    ) -> None:
        thing, values = self._controller.thing_of(device.key), reading.values
        changed = _changed(thing, layout, values)
        for name in requalified(known, reading.entries):
            if values.get(name) is not None:
                changed[name] = values[name]
        if not changed:
            self._count("unchanged", len(values))
            return
        if thing is None and not self._leads:  # it is with who leads, and follows the DeviceStatus
            self._count("deferred", len(changed))
            return
        patch: JsonObject = {"features": features_patch(layout, {}, changed)}
        try:
            said = said_of(layout, changed, reading.entries)
            await self._controller.write_reported(device.key, patch, trace, said)
        except REFUSALS as error:
            self._warn(device.key, "ThingDenied", error.message)
            self._count("denied", len(changed))
        except Undeliverable as error:
            self._lag(device, error)
            self._known_of(device).removed.update(n for n, v in changed.items() if v is None)
            self._count("deferred", len(changed))
        else:
            self._count("written", len(changed))

    # --- things that lag behind ---------------------------------------------------------------------

    @property
    def _leads(self) -> bool:
        return self._leadership is None or self._leadership.leads

    def _lag(self, device: DeviceView, error: GatewayError) -> None:
        """Let the thing get it later. Errors: the one given, where things may not lag."""
        if not self._things_may_lag and self._leads:
            raise error
        log.debug("thing lags", extra={"device": str(device.key), "cause": error.message})
        self._mark(device.key)

    def _mark(self, key: DeviceKey) -> None:
        """Have a thing compared with its DeviceStatus."""
        self._level.discard(key)
        self._behind.add(key)
        self._controller.poke(key)

    def _is_level(self, key: DeviceKey) -> bool:
        return key in self._level if self._things_may_lag else key not in self._behind

    def _status_changed(self, key: DeviceKey, document: JsonObject) -> None:
        """Another CloudCore may have been told something: the thing of who leads follows."""
        device = self._catalog.device(key)
        if self._leads and device is not None and self._book.is_news(device, document):
            self._mark(key)

    def _lead(self, leads: bool) -> None:
        """What others were told while somebody else led is for our things now."""
        for key in self._catalog.device_keys if leads else ():
            self._mark(key)

    def resynced(self) -> None:
        """All things were read again: each is compared with its DeviceStatus once."""
        self._level.clear()

    async def catch_up(self, key: DeviceKey) -> None:
        """Write what the DeviceStatus knows and the thing does not. Errors: what can be tried again."""
        device = self._catalog.device(key)
        if self._is_level(key) or device is None or not self._leads:
            return
        known = self._known_of(device)
        async with known.telling:
            self._behind.discard(key)
            layout = self._catalog.layout(device)
            status = await self._book.newest(device)
            thing = self._controller.thing_of(key)  # read now: a report may just have been written
            if thing is None:
                self._behind.add(key)
                return
            values = {**dict.fromkeys(known.removed), **reported_by_entries(status.entries, layout)}
            changed = _changed(thing, layout, values)
            if changed:
                patch: JsonObject = {"features": features_patch(layout, {}, changed)}
                await self._catch_up(key, patch)
                self._count("caught_up", len(changed))
            known.removed.clear()
            self._level.add(key)

    async def _catch_up(self, key: DeviceKey, patch: JsonObject) -> None:
        try:
            await self._controller.write_reported(key, patch, None)
        except REFUSALS as error:
            self._warn(key, "ThingDenied", error.message)
        except BaseException:
            self._behind.add(key)
            raise

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

    def _is_of_another(self, device: DeviceView, node: str) -> bool:
        """True where the faults that stand there were another node's."""
        faults = self._book.of(device).faults
        return faults is not None and bool(faults.parts) and faults.node != node

    async def _write_state(
        self,
        device: DeviceView,
        state: dict[str, str],
        faults: Faults | None,
        trace: TraceContext | None,
    ) -> None:
        known, old = self._known_of(device), self._book.of(device)
        if known.told is None:
            known.told = old.state.get("state", "")

        def reported(status: KnownStatus) -> KnownStatus:
            after = {**status.state, **state}
            said = status.faults if faults is None else faults
            if (after, said) == (status.state, status.faults):
                return status
            return replace(status, state=after, faults=said)

        before, after = await self._book.change(device, reported)
        known_faults = before.faults.parts if before.faults else {}
        for part, fault in (faults.parts if faults else {}).items():
            if known_faults.get(part) != fault:
                self._warn(device.key, "DeviceFault", f"{part}: {fault}")
        if known.told != after.state.get("state"):
            await self._tell_state(device, dict(after.state), trace)
            known.told = after.state.get("state")

    async def _tell_state(
        self, device: DeviceView, state: dict[str, str], trace: TraceContext | None
    ) -> None:
        facts: JsonObject = {**state}
        try:
            await self._controller.write_reported(
                device.key, {"attributes": {"kubeedge": facts}}, trace
            )
        except REFUSALS as error:
            self._warn(device.key, "ThingDenied", error.message)
        except Undeliverable as error:
            self._lag(device, error)

    # --- DeviceStatus -------------------------------------------------------------------------------

    def _known_of(self, device: DeviceView) -> _Reported:
        known = self._known.get(device.key)
        if known is None or known.uid != device.meta.uid:
            known = self._known[device.key] = _Reported(device.meta.uid)
        return known

    async def _write_status(
        self,
        device: DeviceView,
        known: _Reported,
        entries: Mapping[str, JsonObject | None],
        versions: Mapping[str, int],
    ) -> None:
        def reported(status: KnownStatus) -> KnownStatus:
            after, is_worth = dict(status.entries), False
            last = status.reporter
            later = last.versions if known.source == (last.node, last.store) else {}
            for name, entry in entries.items():
                is_old = 0 < versions[name] < later.get(name, 0)
                if is_old and reported_at(entry) <= reported_at(after.get(name)):
                    continue  # another CloudCore was told something newer meanwhile
                if entry is None:
                    is_worth = after.pop(name, None) is not None or is_worth
                elif is_news(after.get(name), entry):
                    after[name], is_worth = entry, True
            if not is_worth:
                return status
            reporter = status.reporter.with_versions(*known.source, versions)
            return replace(status, entries=after, reporter=reporter)

        try:
            await self._book.change(device, reported)
        except (BadRequest, TooLarge, Unprocessable) as error:
            self._warn(device.key, "StatusRefused", error.message)
            self._count("denied", len(entries))

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


def _is_stale(
    known: _Reported, entries: Mapping[str, JsonObject], name: str, twin: Twin | None
) -> bool:
    """True for a report that comes after a newer one of the same store.

    Against what an earlier process wrote its time counts too: a store that was put back from a copy has
    old versions and new times.
    """
    version = _version(twin)
    if version == 0 or name in known.versions:
        return 0 < version < known.versions.get(name, 0)
    actual = None if twin is None else twin.actual
    is_older = actual is None or actual.timestamp <= reported_at(entries.get(name))
    return version < known.before.get(name, 0) and is_older


def _version(twin: Twin | None) -> int:
    return twin.actual_version.edge if twin is not None and twin.actual_version else 0
