"""What MetaServer knows: records on disk, and the changes that its watches show.

Records come from what the cloud brings (MetaManager tells them after the commit) and from what it answers to
this edge's own questions: a list that was answered is the truth up to its version, so records that it does
not have go. Secrets that were only asked for are not kept.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from edge.metakinds import PUSHED, Kinds, gvr_of, metadata_of, text_of, version_of
from edge.metamanager import MetaManager
from edge.metawindow import ChangeWindow
from edge.podstatuses import KEPT, with_newest
from edge.store import EdgeStore, Record
from gateway.errors import GatewayError, Undeliverable
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.names import Operation, Source
from gateway.wire.cloudedge.subjects import Subject
from gateway.wire.cloudedge.to_edge import ObjectChanged
from gateway.wire.kube.resources import ResourceType
from gateway.wire.kube.selectors import EVERY_FIELD, EVERY_LABEL, FieldSelector, LabelSelector

log = logging.getLogger(__name__)

SECRETS = "secrets"
PODS = gvr_of("", "v1", "pods")


@dataclass(frozen=True, slots=True)
class Selection:
    """What of a resource is meant; `namespace` None for all."""

    resource: ResourceType
    namespace: str | None = None
    labels: LabelSelector = EVERY_LABEL
    fields: FieldSelector = EVERY_FIELD

    @property
    def gvr(self) -> str:
        return gvr_of(self.resource.group, self.resource.version, self.resource.plural)

    def matches(self, item: JsonObject) -> bool:
        if self.namespace is not None and self.namespace != metadata_of(item).get("namespace"):
            return False
        return self.labels.matches(item) and self.fields.matches(item)


@dataclass(frozen=True, slots=True)
class Listing:
    """Objects, and the version that a watch goes on from; `rest` more of the list's metadata."""

    items: Sequence[JsonObject]
    version: int
    rest: JsonObject


class MetaRecords:
    """The records. `attach` before anything runs; `load` once the store is open."""

    def __init__(self, store: EdgeStore) -> None:
        self._store = store
        self.kinds = Kinds()
        self.window = ChangeWindow()

    def attach(self, meta: MetaManager) -> None:
        meta.record_of = self.kinds.record_of
        meta.listen(self.changed)

    async def load(self) -> None:
        """Learn the kinds on disk, and show what was stored while there was no MetaServer."""
        self.kinds.learn_records(await self._store.record_samples())
        known: dict[str, dict[str, int]] = {}
        for kind in ("pod", "configmap", "secret", "device", "devicemodel", "node"):
            for entry in await self._store.meta_of_type(kind):
                record = self.kinds.record_of(_stored(entry.key, entry.value))
                if record is None:
                    continue
                if record.gvr not in known:
                    known[record.gvr] = await self._store.record_versions(record.gvr)
                if known[record.gvr].get(record.key, -1) < record.version:
                    await self._put(record)

    def changed(self, record: Record, operation: Operation) -> None:
        """Tell watches of a record that has changed on disk."""
        self.window.add(record, is_deleted=operation is Operation.DELETE)

    # --- from disk ----------------------------------------------------------------------------

    async def get(self, key: str) -> JsonObject | None:
        record = await self._store.record(key)
        if record is None:
            return None
        (item,) = await self._as_known(record.gvr, [_object(record)])
        return item

    async def list(self, selection: Selection) -> Listing:
        """Return what is on disk.

        Errors: Undeliverable where nothing ever told what there is.
        """
        place = self.window.place
        records = await self._store.records(selection.gvr, selection.namespace)
        version = max((r.version for r in records), default=0)
        if not records and not await self._is_known(selection):
            raise Undeliverable(
                f"{selection.resource.plural} were never asked for at this edge,"
                " and the cloud is away"
            )
        version = max(version, self.window.latest(selection.gvr))
        self.window.mark(selection.gvr, version, place)
        items = await self._as_known(selection.gvr, [*map(_object, records)])
        return Listing([item for item in items if selection.matches(item)], version, {})

    async def _as_known(self, gvr: str, items: Sequence[JsonObject]) -> Sequence[JsonObject]:
        """Give Pods the status that this node has of them: what it could not tell the cloud is newer."""
        if gvr != PODS or not items:
            return items
        rows = await self._store.meta_of_type(KEPT)
        kept: dict[str, JsonObject] = {}
        for row in rows:
            value: JsonObject = msgspec.json.decode(row.value)
            kept[text_of(value, "uid")] = value
        return [with_newest(item, kept) for item in items]

    async def _is_known(self, selection: Selection) -> bool:
        if selection.resource.plural in PUSHED:
            return True
        return bool(await self._store.record_versions(selection.gvr))

    # --- from the cloud's answers -------------------------------------------------------------

    async def keep(self, resource: ResourceType, item: JsonObject) -> None:
        """Keep an object that the cloud answered with, unless a later one is here."""
        if resource.plural == SECRETS or not text_of(metadata_of(item), "name"):
            return
        record = self.kinds.record(resource, item)
        stored = await self._store.record(record.key)
        if stored is None or stored.version < record.version:
            await self._put(record)

    async def forget(self, resource: ResourceType, key: str) -> None:
        """Forget an object that the cloud does not have."""
        record = await self._store.record(key)
        if record is not None and resource.plural != SECRETS:
            await self._delete(record)

    async def keep_list(
        self, selection: Selection, found: Listing, place: int, *, is_whole: bool
    ) -> None:
        """Keep a list of the cloud's; of a whole one also that there is no more.

        Shape:  `place` of the window when the question left.
        """
        own = 0
        if selection.resource.plural != SECRETS:
            known = await self._store.record_versions(selection.gvr)
            records = [self.kinds.record(selection.resource, item) for item in found.items]
            newer = [r for r in records if known.get(r.key, -1) < r.version]
            for record in newer:
                await self._put(record)
            own = len(newer)
            if is_whole and known:
                own += await self._drop_others(selection, found, {r.key for r in records})
        if self.window.place == place + own:  # who has the list knows all that came
            place = self.window.place
        self.window.mark(selection.gvr, found.version, place)

    async def _drop_others(self, selection: Selection, found: Listing, keys: set[str]) -> int:
        gone = [
            record
            for record in await self._store.records(selection.gvr, selection.namespace)
            if record.key not in keys
            and record.version <= found.version
            and selection.matches(_object(record))
        ]
        for record in gone:
            await self._delete(record)
        return len(gone)

    async def _put(self, record: Record) -> None:
        await _written(lambda done: self._store.put_record(record, done))
        self.changed(record, Operation.UPDATE)

    async def _delete(self, record: Record) -> None:
        uid = text_of(metadata_of(_object(record)), "uid")
        await _written(lambda done: self._store.delete_record(record.key, uid, done))
        self.changed(record, Operation.DELETE)


def listing_of(resource: ResourceType, answer: JsonObject) -> Listing:
    """Read a list as the API writes it. Errors: Undeliverable for what is none."""
    items = answer.get("items")
    if items is None:
        items = []
    if not isinstance(items, list):
        raise Undeliverable("the cloud answered with what is no list")
    head = {"apiVersion": resource.group_version, "kind": resource.kind}
    metadata = metadata_of(answer)
    rest = {key: metadata[key] for key in ("continue", "remainingItemCount") if metadata.get(key)}
    full = [{**head, **item} for item in items if isinstance(item, dict)]
    return Listing(full, version_of(answer), rest)


def _object(record: Record) -> JsonObject:
    item: JsonObject = msgspec.json.decode(record.value)
    return item


def _stored(key: str, value: str) -> ObjectChanged:
    item: JsonObject = msgspec.json.decode(value)
    return ObjectChanged(Subject.parse(key), Operation.INSERT, item, "", Source.META_MANAGER)


Submit = Callable[[Callable[[object], None]], None]


async def _written(submit: Submit) -> None:
    """Wait for a write. Errors: what the store says."""
    future: asyncio.Future[object] = asyncio.get_running_loop().create_future()

    def done(result: object) -> None:
        if not future.done():
            future.set_result(result)

    submit(done)
    result = await future
    if isinstance(result, GatewayError):
        raise result
