"""DeviceController: keeps each Device and its thing wanting the same, and the thing alive.

One reconcile per Device, run when the Device, its model or its thing changes: read both sides, let
`agreement` decide each property against the base, write the loser. Nothing reaches an edge that is not in the
Device; `cloud.delivery` sends that. The controller acts at the things service as a subject of its own, so
policies bind it too. What edges report comes in by `cloud.reports`, which writes through `write_reported`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from cloud.agreement import Base, Settlement, Winner, settle_all
from cloud.catalog import Catalog, DeviceChange
from cloud.concerns import Concerns
from cloud.devicepatch import desired_patch
from cloud.devicethings import ORIGINATOR, DeviceThings, Policies, ThingGone, ThingSignals, Twinned
from cloud.guard import DeviceGuard
from cloud.mapping import (
    DELETE_ANNOTATION,
    Layout,
    NotMappable,
    Wanted,
    check_wanted,
    desired_source,
    features_patch,
    kubeedge_attributes,
    missing_features,
    usable_by_thing,
    wanted_by_device,
    wanted_by_thing,
)
from cloud.refusals import Refusals, was_beaten
from cloud.removals import Removals
from cloud.statuses import reported_by_status, state_of, thing_patch
from cloud.twinbook import TwinBook, remember
from gateway.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    GatewayError,
    TooLarge,
    Undeliverable,
    Unprocessable,
)
from gateway.kube.client import KubeClient, PatchType
from gateway.model.json import Json, JsonObject
from gateway.model.ports import Things
from gateway.model.thing import NO_HEADERS, Headers, Thing, ThingEvent, ThingMessage
from gateway.model.trace import TraceContext
from gateway.runtime.keyworker import KeyWorker
from gateway.twin.documents import same
from gateway.wire.cloudedge.devices import DEVICES, GROUP_VERSION, DeviceView
from gateway.wire.cloudedge.subjects import DeviceKey
from gateway.wire.cloudedge.values import Typed

if TYPE_CHECKING:
    from cloud.bases import Bases
    from cloud.delivery import Delivery
    from cloud.events import EventRecorder
    from cloud.ports import Leadership
    from gateway.observe.metrics import Metrics
    from gateway.observe.tracing import Tracer

log = logging.getLogger(__name__)

TRIES = 5


class DeviceController:
    """Module: the reconciler."""

    name = "cloud.devicecontroller"

    def __init__(
        self,
        *,
        kube: KubeClient,
        things: Things,
        policies: Policies,
        signals: ThingSignals,
        catalog: Catalog,
        bases: Bases,
        delivery: Delivery,
        events: EventRecorder,
        metrics: Metrics,
        tracer: Tracer,
        operators: Sequence[str],
        is_guarded: bool = True,
        leadership: Leadership | None = None,
    ) -> None:
        self._kube = kube
        self._own = DeviceThings(things, policies, operators)
        self._signals = signals
        self._catalog = catalog
        self._bases = bases
        self._delivery = delivery
        self._concerns = Concerns(catalog, events)
        self._metrics = metrics
        self._tracer = tracer
        self._book = TwinBook(catalog, self._concerns.warn)
        self._removals = Removals(
            self._own, bases, catalog, self.find, lambda: self._count("thing", "deleted")
        )
        self._refusals = None if is_guarded else Refusals()
        """Where the things service asks nobody, bad wishes are answered by writing the good ones back."""
        self._leadership = leadership
        if leadership is not None:
            leadership.on_change(self._lead)
        self._worker: KeyWorker[DeviceKey] | None = None
        self._sweeper: KeyWorker[str] | None = None
        self.on_settled: Callable[[DeviceKey], Awaitable[None]] | None = None
        """Called at the end of each reconcile; its errors have it tried again."""
        catalog.on_device(self.device_changed)

    # --- module ---------------------------------------------------------------------------------

    async def run(self, ready: Callable[[], None]) -> None:
        await self._bases.load()
        guard = DeviceGuard(self._catalog, self.find, ORIGINATOR)
        endings = [self._signals.listen(self), self._signals.add_change_guard(guard)]
        try:
            async with asyncio.TaskGroup() as group:
                self._worker = KeyWorker(group, self.reconcile)
                self._sweeper = KeyWorker(group, self._sweep)
                for key in self._catalog.device_keys:
                    self._book.name(key)
                if self._leads:  # before a namesake takes over what is left of the old one
                    await self._removals.sweep()
                for key in self._catalog.device_keys:
                    self._worker.poke(key)
                ready()
                await asyncio.Event().wait()
        finally:
            self._worker = self._sweeper = None
            for end in endings:
                end()

    def find(self, thing_id: str) -> DeviceKey | None:
        """Return the Device that a thing stands for."""
        return self._book.find(thing_id)

    def poke(self, key: DeviceKey) -> None:
        if self._worker is not None:
            self._worker.poke(key)

    # --- things elsewhere ---------------------------------------------------------------------------

    @property
    def thing_ids(self) -> list[str]:
        """The things of all Devices."""
        return self._book.thing_ids

    def has_thing(self, thing_id: str) -> bool:
        return self._book.find(thing_id) is not None

    def resynced(self) -> None:
        """All things were read again: what waited for that goes on now."""
        if self._worker is None or self._sweeper is None:
            return
        self._sweeper.poke("gone")
        for key in self._catalog.device_keys:
            self._worker.poke(key)
        self._worker.hurry()
        self._sweeper.hurry()

    @property
    def _leads(self) -> bool:
        """False while another CloudCore settles what Devices and things want."""
        return self._leadership is None or self._leadership.leads

    def _lead(self, leads: bool) -> None:
        """What the last leader left undone is ours from now on."""
        if leads:
            self.resynced()

    async def _sweep(self, _key: str) -> None:
        if self._leads and not await self._removals.sweep():
            raise Undeliverable("things of deleted Devices are left")

    # --- what happens outside ---------------------------------------------------------------------

    def device_changed(self, change: DeviceChange) -> None:
        """A Device or its model changed (from the catalog)."""
        old, new = change.old, change.new
        if old is not None and (new is None or new.meta.uid != old.meta.uid):
            self._removals.note(change.key, old.meta.uid)
            self._concerns.forget(change.key)
        if new is not None:
            self._book.name(change.key)
        self.poke(change.key)

    def on_event(self, event: ThingEvent) -> None:
        """A thing changed (from the things service)."""
        key = self._book.find(event.thing_id)
        twin = self._book.get(key) if key else None
        if key is None or twin is None:
            return
        remember(twin, event)
        if event.originator == ORIGINATOR and self._leads:
            return
        if event.after is None or self._wants_other(key, event):
            twin.trace = event.trace or twin.trace
            self.poke(key)

    def on_message(self, message: ThingMessage) -> None:
        """Live messages are not the controller's."""

    def _wants_other(self, key: DeviceKey, event: ThingEvent) -> bool:
        device = self._catalog.device(key)
        if device is None or event.after is None:
            return False
        layout = self._catalog.layout(device)
        before = wanted_by_thing(event.before.document, layout) if event.before else {}
        return before != wanted_by_thing(event.after.document, layout) or event.before is None

    # --- one Device ---------------------------------------------------------------------------------

    async def reconcile(self, key: DeviceKey) -> None:
        """Bring a Device and its thing together. Errors: what can be tried again."""
        await self._reconcile(key)
        if self.on_settled is not None:
            await self.on_settled(key)

    async def _reconcile(self, key: DeviceKey) -> None:
        if self._leads:
            await self._removals.settle(key)
        device = self._catalog.device(key)
        if device is None:
            gone = self._book.forget(key)
            if gone is not None and self._refusals is not None:
                self._refusals.forget(gone)
            return
        twin = self._book.name(key)
        if twin is None or device.meta.is_deleting or not self._is_complete(device):
            return
        async with twin.lock:
            trace, twin.trace = twin.trace, None
            with self._tracer.start_frequent(
                "devicecontroller reconcile", trace, "internal", {"device": str(key)}
            ) as span:
                await self._together(key, twin, span.context if trace else None)

    def _is_complete(self, device: DeviceView) -> bool:
        is_there = self._catalog.model_object(self._catalog.model_key(device)) is not None
        fault = "spec.deviceModelRef names no DeviceModel"
        if device.model:
            fault = f"DeviceModel {device.model} does not exist"
        self._concerns.stand(device.key, "ModelNotFound", () if is_there else (fault,))
        return is_there

    async def _together(self, key: DeviceKey, twin: Twinned, trace: TraceContext | None) -> None:
        for attempt in range(TRIES):
            device = self._book.newest(key, twin)
            if device is None:
                return
            if not twin.is_loaded:
                await self._own.load(twin)
            try:
                await self._settle(device, twin, trace)
            except (Conflict, Unprocessable, BadRequest, TooLarge) as error:
                if attempt == TRIES - 1 or isinstance(error, NotMappable):
                    self._concerns.warn(key, "DesiredNotWritten", error.message)
                    if was_beaten(error):
                        raise Undeliverable(f"Device {key}: {error.message}") from error
                    return
                await self._reread(key, twin)
            except ThingGone:
                continue
            except Forbidden as error:
                self._concerns.warn(key, "ThingDenied", error.message)
                return
            else:
                return

    async def _reread(self, key: DeviceKey, twin: Twinned) -> None:
        twin.is_loaded = False
        found = await self._kube.get(GROUP_VERSION, DEVICES, key.namespace, key.name)
        twin.patched = DeviceView.read(found)

    async def _settle(self, device: DeviceView, twin: Twinned, trace: TraceContext | None) -> None:
        layout = self._catalog.layout(device)
        self._concerns.stand(device.key, "NotMappable", layout.refused)
        ours = wanted_by_device(device, layout)
        if twin.thing is None:
            self._tell_bad(device.key, ours)
            if self._leads:
                await self._create(device, twin, layout, ours.values, trace)
            return
        theirs = usable_by_thing(twin.thing.document, layout)
        self._tell_bad(device.key, ours, theirs)
        memory = self._bases.of(device.meta.uid)
        if self._leads:
            await self._bind(device, twin, made=memory.made)
        agreed = {name: base.desired for name, base in memory.bases.items()}
        judged = {n: p for n, p in layout.places.items() if n in agreed or n not in ours.bad}
        decided = settle_all(
            ours.or_else(agreed),
            theirs.or_else(agreed),
            memory.bases,
            judged,
            desired_source(device),
        )
        if not self._leads:  # only remember what the leader made them agree on
            await self._agree(device, twin, decided, by=(Winner.NOBODY,))
            return
        await self._write(device, twin, layout, decided, trace)
        await self._agree(device, twin, decided)
        await self._write_back(device, twin, layout, theirs, decided)

    async def _write(
        self,
        device: DeviceView,
        twin: Twinned,
        layout: Layout,
        decided: Mapping[str, Settlement],
        trace: TraceContext | None,
    ) -> None:
        for name, settlement in decided.items():
            if settlement.is_conflict:
                self._concerns.warn(
                    device.key, "DesiredConflict", f"property {name}: the Device's value wins"
                )
        to_thing = {n: s.value for n, s in decided.items() if s.winner is Winner.DEVICE}
        to_device = {n: s.value for n, s in decided.items() if s.winner is Winner.THING}
        await self._write_thing(device, twin, layout, to_thing, trace)
        if to_device:
            await self._write_device(device, twin, layout, to_device, trace)

    async def _write_back(
        self,
        device: DeviceView,
        twin: Twinned,
        layout: Layout,
        theirs: Wanted,
        decided: Mapping[str, Settlement],
    ) -> None:
        """Put the good values where a thing elsewhere got bad ones, once for each."""
        if self._refusals is None or twin.thing is None:
            return
        news = [n for n, s in decided.items() if s.winner is Winner.THING]
        self._refusals.accepted(twin.thing_id, news)
        wished = wanted_by_thing(twin.thing.document, layout)
        still_bad = usable_by_thing(twin.thing.document, layout).bad.keys() & theirs.bad.keys()
        names = self._refusals.fresh(twin.thing_id, wished, still_bad & decided.keys())
        if names:
            good = {name: decided[name].value for name in names}
            await self._write_thing(device, twin, layout, good, None)
            self._refusals.refused(twin.thing_id, wished, names)

    async def _agree(
        self,
        device: DeviceView,
        twin: Twinned,
        decided: Mapping[str, Settlement],
        by: Collection[Winner] = tuple(Winner),
    ) -> None:
        known = self._bases.of(device.meta.uid).bases
        revision = twin.thing.revision if twin.thing else 0
        changed = {
            name: Base(s.value, device.meta.generation, revision)
            for name, s in decided.items()
            if s.winner in by and (name not in known or not same(known[name].desired, s.value))
        }
        gone = frozenset(name for name in known if name not in decided)
        await self._bases.agree(device.meta.uid, changed, gone)

    # --- the thing ----------------------------------------------------------------------------------

    async def _create(
        self,
        device: DeviceView,
        twin: Twinned,
        layout: Layout,
        wanted: Mapping[str, Typed],
        trace: TraceContext | None,
    ) -> None:
        status = self._catalog.status_object(device.key)
        document: JsonObject = {
            "policyId": await self._own.policy(twin.thing_id),
            "attributes": {"kubeedge": kubeedge_attributes(device, state_of(status))},
            "features": {
                **missing_features(layout, {}),
                **features_patch(layout, wanted, reported_by_status(status, layout)),
            },
        }
        await self._bind(device, twin, made=True)
        try:
            await self._own.create(twin, document, trace)
        except (Conflict, Forbidden):
            await self._bind(device, twin, made=False)
            raise
        self._count("thing", "created")
        agreed = {n: Settlement(Winner.NOBODY, wanted.get(n)) for n in layout.places}
        await self._agree(device, twin, agreed)

    async def _bind(self, device: DeviceView, twin: Twinned, *, made: bool) -> None:
        keep = device.meta.annotations.get(DELETE_ANNOTATION) == "keep"
        await self._bases.bind(device.meta.uid, twin.thing_id, made=made, keep=keep)

    async def _write_thing(
        self,
        device: DeviceView,
        twin: Twinned,
        layout: Layout,
        desired: Mapping[str, Json],
        trace: TraceContext | None,
    ) -> None:
        """Write wanted values, what the Device says of itself, and reports that the thing never got."""
        if twin.thing is None:
            return
        status = self._catalog.status_object(device.key)
        patch = thing_patch(device, layout, twin.thing.document, desired, status)
        if patch:
            places = [layout.place(name).desired for name in desired]
            await self._own.merge(twin, patch, trace, places)
        if desired:
            self._count("thing", "written")

    async def write_reported(
        self,
        key: DeviceKey,
        patch: JsonObject,
        trace: TraceContext | None,
        said: Headers = NO_HEADERS,
    ) -> None:
        """Merge what an edge reported into the thing; makes the thing when it is missing.

        Shape:  `patch` is a merge patch from the thing's root, `said` headers about its values.
        Errors: Forbidden (the policy denies it), what the things service answers.
        """
        twin = self._book.name(key) if self._catalog.device(key) else None
        if twin is None:
            return
        try:
            await self._own.merge(twin, patch, trace, said=said)
        except ThingGone:
            await self._reconcile(key)
            if self.thing_of(key) is None and not self._leads:
                raise Undeliverable("the CloudCore that leads has not made the thing") from None
            if self.thing_of(key) is None:
                raise Forbidden(
                    f"there is no thing {twin.thing_id}, and none can be made"
                ) from None
            await self._own.merge(twin, patch, trace, said=said)

    def thing_of(self, key: DeviceKey) -> Thing | None:
        """Return the thing as last seen, None when it is not known."""
        return self._book.thing_of(key)

    # --- the Device -----------------------------------------------------------------------------

    async def _write_device(
        self,
        device: DeviceView,
        twin: Twinned,
        layout: Layout,
        wanted: Mapping[str, Json],
        trace: TraceContext | None,
    ) -> None:
        typed = {
            n: None if v is None else check_wanted(layout.rule(n), v) for n, v in wanted.items()
        }
        patch = desired_patch(device, layout, typed, time.time_ns() // 1_000_000)
        if not patch:
            return
        self._delivery.remember_trace(device.meta.uid, trace)
        try:
            found = await self._kube.patch(
                GROUP_VERSION,
                DEVICES,
                device.key.namespace,
                device.key.name,
                patch,
                patch_type=PatchType.JSON,
            )
        except GatewayError:
            self._count("device", "refused")
            raise
        self._count("device", "written")
        twin.patched = DeviceView.read(found)

    # --- telling ------------------------------------------------------------------------------------

    def _tell_bad(self, key: DeviceKey, *sides: Wanted) -> None:
        faults = {f"property {n}: {fault}" for side in sides for n, fault in side.bad.items()}
        self._concerns.stand(key, "BadDesired", faults)

    def _count(self, towards: str, outcome: str) -> None:
        self._metrics.device_desired.labels(towards, outcome).inc()
