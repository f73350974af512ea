"""What control loops know of the cluster: one mirror for each kind, shared by all loops of a process.

Objects are shared: read, never mutate; copy what you change. `managedFields` are left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeAlias

from gateway.kube.client import KubeClient
from gateway.kube.informer import Change, Informer, Key, number_of
from gateway.model.json import Json, JsonObject

Listener: TypeAlias = "Callable[[Change], None]"
Marks: TypeAlias = "Callable[[JsonObject], Iterable[str]]"


class Index:
    """Finds objects by what `marks` says of them, e.g. Pods by the uid of their controller."""

    def __init__(self, marks: Marks) -> None:
        self._marks = marks
        self._found: dict[str, dict[Key, JsonObject]] = {}

    def get(self, mark: str) -> list[JsonObject]:
        """Return the objects with this mark, in the order in which they came."""
        return list(self._found.get(mark, {}).values())

    def keys(self) -> Iterator[str]:
        """Iterate over marks that objects carry."""
        return iter(tuple(self._found))

    def take(self, change: Change) -> None:
        """Follow a change."""
        if change.old is not None:
            for mark in self._marks(change.old):
                self._drop(mark, change.key)
        if change.new is not None:
            for mark in self._marks(change.new):
                self._found.setdefault(mark, {})[change.key] = change.new

    def _drop(self, mark: str, key: Key) -> None:
        held = self._found.get(mark)
        if held is not None:
            held.pop(key, None)
            if not held:
                del self._found[mark]


class Mirror:
    """One kind in memory. Listeners are told synchronously, in order, after the indexes."""

    def __init__(self, kube: KubeClient, group_version: str, plural: str) -> None:
        self._informer = Informer(
            kube, group_version, plural, self._on_change, trim=trimmed, is_needed=False
        )
        self._indexes: dict[str, Index] = {}
        self._listeners: list[Listener] = []
        self._doomed: dict[Key, str] = {}

    @property
    def objects(self) -> Mapping[Key, JsonObject]:
        """(namespace, name) -> object."""
        return self._informer.objects

    def get(self, namespace: str | None, name: str) -> JsonObject | None:
        """Return one object, None when it is not known."""
        return self._informer.objects.get((namespace or "", name))

    def in_namespace(self, namespace: str) -> list[JsonObject]:
        """Return the objects of a namespace."""
        return self.index("namespace", _namespace_of).get(namespace)

    def on_change(self, listener: Listener) -> None:
        """Tell `listener` of every change from now on."""
        self._listeners.append(listener)

    def index(self, name: str, marks: Marks) -> Index:
        """Return the index of this name; the first caller says what it marks."""
        found = self._indexes.get(name)
        if found is None:
            found = self._indexes[name] = Index(marks)
            for key, item in self._informer.objects.items():
                found.take(Change(key, None, item))
        return found

    def put(self, item: JsonObject) -> None:
        """Take in what a write returned, so that the next decision knows of it; old news is left out."""
        version = number_of(str(metadata_of(item).get("resourceVersion") or ""))
        seen = number_of(self._informer.version)
        if version is None or seen is None or version > seen:
            self._informer.put(item)

    def doom(self, item: JsonObject) -> None:
        """Note that we deleted this object: until the watch shows what became of it, it counts as gone.

        News from before the deletion does not bring it back.
        """
        if self._is_to_go(key_of(item), uid_of(item)):
            self._doomed[key_of(item)] = uid_of(item)

    def _is_to_go(self, key: Key, uid: str) -> bool:
        """True for an object that is there still, and does not say itself that it is being deleted."""
        known = metadata_of(self.objects.get(key, {}))
        return known.get("uid") == uid and not known.get("deletionTimestamp")

    def is_doomed(self, item: JsonObject) -> bool:
        """True for an object that we deleted, or that is being deleted."""
        meta = metadata_of(item)
        return bool(meta.get("deletionTimestamp")) or (
            self._doomed.get(key_of(item), "-") == meta.get("uid")
        )

    def as_seen(self, item: JsonObject) -> JsonObject:
        """Return an object as it is known to be: one that we deleted says so."""
        meta = metadata_of(item)
        if meta.get("deletionTimestamp") or not self.is_doomed(item):
            return item
        return {**item, "metadata": {**meta, "deletionTimestamp": meta.get("creationTimestamp")}}

    async def run(self, ready: Callable[[], None]) -> None:
        """Follow the cluster until cancelled; ready once everything is known, or the kind is not served."""
        await self._informer.run(ready)

    def _on_change(self, change: Change) -> None:
        doomed = self._doomed.get(change.key)
        if doomed is not None and not self._is_to_go(change.key, doomed):
            del self._doomed[change.key]
        for index in self._indexes.values():
            index.take(change)
        for listener in self._listeners:
            listener(change)


class Mirrors:
    """All mirrors of a process: ask with `of` before `run`."""

    def __init__(self, kube: KubeClient) -> None:
        self._kube = kube
        self._mirrors: dict[tuple[str, str], Mirror] = {}

    def of(self, group_version: str, plural: str) -> Mirror:
        """Return the mirror of a kind (`apps/v1`, `deployments`)."""
        place = group_version, plural
        found = self._mirrors.get(place)
        if found is None:
            found = self._mirrors[place] = Mirror(self._kube, group_version, plural)
        return found

    async def run(self, ready: Callable[[], None]) -> None:
        """Follow all of them; ready once all are known."""
        left = set(self._mirrors)
        if not left:
            ready()
            await asyncio.Event().wait()

        def one_more(place: tuple[str, str]) -> None:
            is_last = left == {place}
            left.discard(place)
            if is_last:
                ready()

        async with asyncio.TaskGroup() as group:
            for place, mirror in self._mirrors.items():
                group.create_task(mirror.run(lambda place=place: one_more(place)))  # type: ignore[misc]


def trimmed(item: JsonObject) -> JsonObject:
    """Return an object without what no loop reads."""
    metadata = metadata_of(item)
    if "managedFields" not in metadata:
        return item
    return {
        **item,
        "metadata": {key: value for key, value in metadata.items() if key != "managedFields"},
    }


def metadata_of(item: JsonObject) -> JsonObject:
    """Return an object's metadata."""
    found = item.get("metadata")
    return found if isinstance(found, dict) else {}


def key_of(item: JsonObject) -> Key:
    """Return (namespace, name)."""
    meta = metadata_of(item)
    return str(meta.get("namespace") or ""), str(meta.get("name") or "")


def uid_of(item: JsonObject) -> str:
    """Return an object's uid."""
    return str(metadata_of(item).get("uid") or "")


def controller_of(item: JsonObject) -> JsonObject | None:
    """Return the owner reference of the object that manages this one."""
    owners: Json = metadata_of(item).get("ownerReferences")
    for owner in owners if isinstance(owners, list) else ():
        if isinstance(owner, dict) and owner.get("controller") is True:
            return owner
    return None


def controller_uid(item: JsonObject) -> tuple[str, ...]:
    """Mark objects by the uid of their controller, for `Mirror.index`."""
    owner = controller_of(item)
    return () if owner is None else (str(owner.get("uid") or ""),)


def _namespace_of(item: JsonObject) -> tuple[str, ...]:
    return (key_of(item)[0],)
