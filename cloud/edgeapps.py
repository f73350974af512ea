"""EdgeApplications: makes what their manifests say, a copy of each workload for each target, and tells how
it fares.

The CloudCore that leads does it, with its own rights. What it made stands in an annotation before it is
made, so that nothing is left behind whatever happens in between; what is not wanted any more goes if it
still belongs to the application. With the application everything goes, by the API's own garbage collection.
What the API refuses stands in the status in the API's words, and is tried again. Source: KubeEdge
reference, section 20.2.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cloud.apikinds import ApiKinds
from cloud.appparts import (
    APPS,
    CONTAINED,
    KIND,
    MARK,
    Part,
    Ref,
    contained,
    contained_note,
    is_current,
    missing,
    owner_of,
    parts_of,
    unwanted,
)
from cloud.chores import Chores
from cloud.mirrors import Mirrors, Place
from cloud.nodegroups import NodeGroups
from cloud.podnotices import PodNotices
from gateway.errors import Conflict, GatewayError, NotFound
from gateway.kube.client import KubeClient, PatchType
from gateway.kube.informer import Change, Informer, Key
from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.devices import ObjectMeta, mapping, text

if TYPE_CHECKING:
    from cloud.catalog import Catalog
    from cloud.events import EventRecorder
    from cloud.ports import Leadership, PodsOfNodes
    from gateway.runtime.module import Module

log = logging.getLogger(__name__)

PLURAL = "edgeapplications"
HAS_NO_NAMESPACE = "has no namespace: it cannot belong to an application of one"
MAX_MESSAGE = 1_000


@dataclass(slots=True)
class _Piece:
    """One part on its way. Shape: `problem` is why it cannot be made now, `lack` why it is not Available."""

    part: Part
    plural: str = ""
    problem: str = ""
    lack: str = ""
    is_wanted: bool = True

    @property
    def place(self) -> Place:
        return self.part.ref.group_version, self.plural


class EdgeApps:
    """Module: one worker, one application after another."""

    name = "cloud.edgeapps"

    def __init__(
        self,
        kube: KubeClient,
        groups: NodeGroups,
        events: EventRecorder,
        leadership: Leadership,
    ) -> None:
        self._kube = kube
        self._groups = groups
        self._events = events
        self._leadership = leadership
        self._kinds = ApiKinds(kube)
        self._chores: Chores[Key] = Chores()
        self._informer = Informer(kube, APPS, PLURAL, self._app_changed, is_needed=False)
        self._mirrors = Mirrors(kube, MARK, self._made_changed, _trimmed)
        self._places: dict[Key, frozenset[Place]] = {}
        self._told: dict[Key, set[str]] = {}
        self._parts: dict[Key, tuple[tuple[str, int], list[Part]]] = {}
        """What each application stands for, by uid and generation."""
        groups.on_change(self._all)
        leadership.on_change(lambda _: self._all())

    # --- what is to be looked at ------------------------------------------------------------------

    def _app_changed(self, change: Change) -> None:
        if change.new is None:
            self._forget(change.key)
        elif change.old is None or _intent(change.old) != _intent(change.new):
            self._chores.add((change.key,))

    def _made_changed(self, change: Change) -> None:
        """Look at the application of what changed, was changed by others, or went."""
        for item in (change.old, change.new):
            name = "" if item is None else owner_of(item)[0]
            if name and (change.key[0], name) in self._informer.objects:
                self._chores.add(((change.key[0], name),))

    def _all(self) -> None:
        self._chores.add(self._informer.objects)

    def _forget(self, key: Key) -> None:
        self._places.pop(key, None)
        self._parts.pop(key, None)
        self._told.pop(key, None)
        self._chores.done(key)
        self._keep_mirrors()

    def _keep_mirrors(self) -> None:
        self._mirrors.keep(frozenset[Place]().union(*self._places.values()))

    # --- module -----------------------------------------------------------------------------------

    async def run(self, ready: Callable[[], None]) -> None:
        async with self._mirrors.running(), asyncio.TaskGroup() as group:
            group.create_task(self._informer.run(_nothing))
            ready()
            while True:
                await self._look_at(await self._chores.next())

    async def _look_at(self, key: Key) -> None:
        app = self._informer.objects.get(key)
        if app is None or not self._leadership.leads or not self._groups.is_known:
            return  # whoever changes one of these has all looked at again
        try:
            is_done = ObjectMeta.read(app).is_deleting or await self._settle(key, app)
        except GatewayError as error:
            facts = {"application": "/".join(key), "cause": error.message}
            log.info("an edge application must wait", extra=facts)
            is_done = False
        if key not in self._informer.objects:
            self._forget(key)  # it went meanwhile
        elif is_done:
            self._chores.done(key)
        else:
            self._chores.again(key)

    async def _settle(self, key: Key, app: JsonObject) -> bool:
        """Make an application true; False when something of it must be tried again."""
        parts = await self._parts_of(key, app)
        kinds = {each: await self._kind(*each) for each in dict.fromkeys(map(_kind_of, parts))}
        pieces = [self._piece(part, kinds[_kind_of(part)]) for part in parts]
        self._places[key] = frozenset(each.place for each in pieces if each.plural)
        wanted = {each.part.ref for each in pieces if each.is_wanted}
        made = contained(app)
        app = await self._note(app, made | wanted, pieces)
        await self._open(pieces)
        for piece in pieces:
            if not self._leadership.leads:
                return True
            if not piece.problem:
                await self._apply(app, piece)
        left = [ref for ref in unwanted(made, wanted) if not await self._remove(app, ref)]
        app = await self._note(app, wanted.union(left), pieces)
        await self._tell(app, pieces)
        self._keep_mirrors()
        return not left and not any(each.problem for each in pieces)

    async def _parts_of(self, key: Key, app: JsonObject) -> list[Part]:
        """Return what an application stands for; worked out anew when its spec changes."""
        meta = ObjectMeta.read(app)
        state, parts = self._parts.get(key, (("", 0), []))
        if state != (meta.uid, meta.generation):
            parts = await asyncio.to_thread(parts_of, app)
            self._parts[key] = ((meta.uid, meta.generation), parts)
        return parts

    # --- what can be made -------------------------------------------------------------------------

    async def _kind(self, group_version: str, kind: str) -> tuple[str, str]:
        """Return the plural of a kind, or why there can be no objects of it here."""
        if not group_version or not kind:
            return "", ""  # the part says so itself
        try:
            plural, is_namespaced = await self._kinds.plural(group_version, kind)
        except GatewayError as error:
            return "", f"{kind} of {group_version}: {error.message}"
        return (plural, "") if is_namespaced else ("", f"{kind} {HAS_NO_NAMESPACE}")

    def _piece(self, part: Part, kind: tuple[str, str]) -> _Piece:
        plural, problem = kind
        piece = _Piece(part, plural, part.problem or problem, is_wanted=part.is_wanted)
        if part.group and not self._groups.has(part.group):
            piece.problem = f'NodeGroup "{part.group}" does not exist'
            piece.is_wanted = False
        elif problem.endswith(HAS_NO_NAMESPACE):
            piece.is_wanted = False
        return piece

    # --- making and removing ----------------------------------------------------------------------

    async def _open(self, pieces: Iterable[_Piece]) -> None:
        """Have what was made in view, kind by kind; without, nothing is made of a kind."""
        closed: dict[Place, str] = {}
        for place in dict.fromkeys(each.place for each in pieces if not each.problem):
            try:
                await self._mirrors.open(place)
            except GatewayError as error:
                closed[place] = error.message
        for piece in pieces:
            piece.problem = piece.problem or closed.get(piece.place, "")

    async def _apply(self, app: JsonObject, piece: _Piece) -> None:
        """Bring one object to what it should be; what the API says against it is the piece's problem."""
        document = piece.part.document or {}
        try:
            mirror = await self._mirrors.open(piece.place)
            ref = piece.part.ref
            key = (ref.namespace, ref.name)
            known = mirror.objects.get(key)
            item = known or await self._read(piece)
            if item is not None:
                _check_owner(app, item, ref)
            if known is None or not is_current(known, document):
                item = await self._kube.patch(
                    *piece.place, ref.namespace, ref.name, document,
                    patch_type=PatchType.APPLY, force=True,
                )  # fmt: skip
                mirror.put(item)
            piece.lack = missing(ref, item or {})
        except GatewayError as error:
            piece.problem = error.message

    async def _read(self, piece: _Piece) -> JsonObject | None:
        """Return an object that does not carry our mark, None where there is none."""
        ref = piece.part.ref
        try:
            return await self._kube.get(*piece.place, ref.namespace, ref.name)
        except NotFound:
            return None

    async def _remove(self, app: JsonObject, ref: Ref) -> bool:
        """Delete what is not wanted any more, unless it belongs to somebody else; False when it stays."""
        try:
            plural, _ = await self._kinds.plural(ref.group_version, ref.kind)
            at = (ref.group_version, plural, ref.namespace or ObjectMeta.read(app).namespace)
            item = await self._kube.get(*at, ref.name)
            if owner_of(item)[1] == ObjectMeta.read(app).uid:
                await self._kube.delete(*at, ref.name, uid=ObjectMeta.read(item).uid)
        except NotFound:
            return True
        except GatewayError as error:
            facts = {"object": str(ref), "cause": error.message}
            log.info("what an edge application needs no more stays", extra=facts)
            return False
        return True

    # --- what the application says ----------------------------------------------------------------

    async def _note(
        self, app: JsonObject, refs: Iterable[Ref], pieces: Iterable[_Piece]
    ) -> JsonObject:
        """Write down what is made of an application."""
        meta, note = ObjectMeta.read(app), contained_note(refs, [each.part for each in pieces])
        if meta.annotations.get(CONTAINED, "[]") == note:
            return app
        patch: JsonObject = {"metadata": {"uid": meta.uid, "annotations": {CONTAINED: note}}}
        written = await self._kube.patch(APPS, PLURAL, meta.namespace, meta.name, patch)
        self._informer.put(written)
        return written

    async def _tell(self, app: JsonObject, pieces: list[_Piece]) -> None:
        """Write the status, and an Event about what is refused and was not before."""
        meta, before = ObjectMeta.read(app), mapping(app.get("status")).get("workloadStatus")
        after: list[Json] = [_status(each) for each in pieces]
        if after == (before or []):
            return
        patch: JsonObject = {"status": {"workloadStatus": after}}
        written = await self._kube.patch(
            APPS, PLURAL, meta.namespace, meta.name, patch, subresource="status"
        )
        self._informer.put(written)
        known = {_message(entry) for entry in (before if isinstance(before, list) else [])}
        key = (meta.namespace, meta.name)
        known |= self._told.get(key, set())  # where the kind has no place for messages
        self._told[key] = {_message(entry) for entry in after}
        named: JsonObject = {"apiVersion": APPS, "kind": KIND, **app}
        for piece in pieces:
            if piece.problem and piece.problem[:MAX_MESSAGE] not in known:
                self._events.warn(named, "NotApplied", f"{piece.part.ref}: {piece.problem}")


def build_apps(
    kube: KubeClient,
    catalog: Catalog,
    pods: PodsOfNodes,
    events: EventRecorder,
    leadership: Leadership,
) -> list[Module]:
    """Serve NodeGroups and EdgeApplications, and tell of Pods that nothing runs; returns the modules."""
    groups = NodeGroups(kube, catalog, pods, events, leadership)
    notices = PodNotices(catalog, pods, events, leadership)
    return [groups, EdgeApps(kube, groups, events, leadership), notices]


def _kind_of(part: Part) -> tuple[str, str]:
    return (part.ref.group_version, part.ref.kind) if part.ref.version else ("", "")


def _check_owner(app: JsonObject, item: JsonObject, ref: Ref) -> None:
    """Errors: Conflict for an object of somebody else's, or one that is going."""
    if owner_of(item)[1] != ObjectMeta.read(app).uid:
        raise Conflict(f"{ref} exists, and does not belong to this application")
    if ObjectMeta.read(item).is_deleting:
        raise Conflict(f"{ref} is being deleted")


def _status(piece: _Piece) -> JsonObject:
    ref, message = piece.part.ref, piece.problem or piece.lack
    identifier: JsonObject = {"ordinal": piece.part.ordinal}
    for field, value in (
        ("group", ref.group),
        ("version", ref.version),
        ("kind", ref.kind),
        ("resource", piece.plural),
        ("namespace", ref.namespace),
        ("name", ref.name),
    ):
        if value:
            identifier[field] = value
    status: JsonObject = {
        "identifier": identifier,
        "conditions": "Processing" if message else "Available",
    }
    return {**status, "message": message[:MAX_MESSAGE]} if message else status


def _message(entry: Json) -> str:
    return text(mapping(entry).get("message"))


def _intent(app: JsonObject) -> Json:
    """Return what others decide about an application."""
    meta = ObjectMeta.read(app)
    return [meta.uid, app.get("spec"), meta.annotations.get(CONTAINED), meta.is_deleting]


_KEPT = (
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "annotations",
    "ownerReferences",
    "deletionTimestamp",
)


def _trimmed(item: JsonObject) -> JsonObject:
    """Keep of what was made what tells whether it is right, and how it fares."""
    meta = mapping(item.get("metadata"))
    kept: JsonObject = {key: meta[key] for key in _KEPT if key in meta}
    replicas = mapping(item.get("spec")).get("replicas")
    spec: JsonObject = {} if replicas is None else {"replicas": replicas}
    return {"metadata": kept, "spec": spec, "status": item.get("status")}


def _nothing() -> None:
    """Applications that come later are told as changes."""
