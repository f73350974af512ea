"""ConfigMaps and Secrets of this node's Pods: fetched once, then kept as the cloud pushes them.

What no Pod uses is not kept. An error of the API is an error here, never an object without content.
Source: Kubernetes, the kubelet's managers of ConfigMaps and Secrets.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from edge.pods.podspec import Container, EnvVar, Pod, Projection, Volume
from edge.ports import EdgeApi
from gateway.errors import GatewayError, NotFound
from gateway.model.json import JsonObject
from gateway.model.trace import TraceContext
from gateway.wire.cloudedge.devices import ObjectMeta
from gateway.wire.cloudedge.names import Operation
from gateway.wire.cloudedge.subjects import Subject
from gateway.wire.cloudedge.to_edge import ObjectChanged

log = logging.getLogger(__name__)

CONFIGMAP, SECRET = "configmap", "secret"
KINDS: Final = (CONFIGMAP, SECRET)
FRESH_SECONDS: Final = 60.0
"""What came longer ago is asked for again when a Pod's volumes are looked at by the clock."""
SERVER_FAULT: Final = 500
"""Status from which on an answer says nothing about the object."""

Listener: TypeAlias = Callable[[frozenset[str]], None]
"""Told the uids of the Pods that use an object which changed."""


# --- which objects a Pod uses ---------------------------------------------------------------------


def references(pod: Pod) -> frozenset[Subject]:
    """Return the ConfigMaps and Secrets that a Pod names: volumes, environment, pull secrets."""
    found = {*_of_volumes(pod.spec.volumes), *_of_containers(pod.containers())}
    found.update((SECRET, secret.name) for secret in pod.spec.image_pull_secrets)
    return frozenset(Subject(pod.meta.namespace, kind, name) for kind, name in found if name)


def _of_volumes(volumes: list[Volume]) -> Iterator[tuple[str, str]]:
    for volume in volumes:
        if volume.config_map is not None:
            yield CONFIGMAP, volume.config_map.name
        if volume.secret is not None:
            yield SECRET, volume.secret.secret_name
        for source in volume.projected.sources if volume.projected is not None else []:
            yield from _of_projection(source)


def _of_projection(source: Projection) -> Iterator[tuple[str, str]]:
    if source.config_map is not None:
        yield CONFIGMAP, source.config_map.name
    if source.secret is not None:
        yield SECRET, source.secret.name


def _of_containers(containers: list[Container]) -> Iterator[tuple[str, str]]:
    for container in containers:
        for each in container.env_from:
            if each.config_map_ref is not None:
                yield CONFIGMAP, each.config_map_ref.name
            if each.secret_ref is not None:
                yield SECRET, each.secret_ref.name
        for variable in container.env:
            yield from _of_variable(variable)


def _of_variable(variable: EnvVar) -> Iterator[tuple[str, str]]:
    source = variable.value_from
    if source is not None and source.config_map_key_ref is not None:
        yield CONFIGMAP, source.config_map_key_ref.name
    if source is not None and source.secret_key_ref is not None:
        yield SECRET, source.secret_key_ref.name


# --- the objects ----------------------------------------------------------------------------------


@dataclass(slots=True)
class _Entry:
    """An object and who uses it; `came` is monotonic seconds, None for what must be asked for again."""

    users: set[str] = field(default_factory=set)
    item: JsonObject | None = field(default=None, repr=False)
    came: float | None = None
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)
    generation: int = 0
    """Counts pushes: what was asked for before the last one is older than it."""


class PodObjects:
    """ConfigMaps and Secrets by name; taker of MetaManager's changes of both."""

    def __init__(self, api: EdgeApi, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._clock = clock
        self._entries: dict[Subject, _Entry] = {}
        self._used: dict[str, frozenset[Subject]] = {}
        self._listeners: list[Listener] = []

    def on_change(self, listener: Listener) -> None:
        self._listeners.append(listener)

    # --- users --------------------------------------------------------------------------------

    def use(self, pod: Pod) -> None:
        """Keep what a Pod names; for a Pod that is new here all of it is asked for anew."""
        named = references(pod)
        before = self._used.get(pod.uid, frozenset())
        if named == before:
            return
        self._used[pod.uid] = named
        for subject in named - before:
            entry = self._entries.setdefault(subject, _Entry())
            entry.users.add(pod.uid)
            entry.came = None
        self._drop(pod.uid, before - named)

    def forget(self, uid: str) -> None:
        """A Pod is gone: what nobody else uses is dropped."""
        self._drop(uid, self._used.pop(uid, frozenset()))

    def _drop(self, uid: str, subjects: frozenset[Subject]) -> None:
        for subject in subjects:
            entry = self._entries[subject]
            entry.users.discard(uid)
            if not entry.users:
                del self._entries[subject]

    @property
    def kept(self) -> frozenset[Subject]:
        """What is kept now."""
        return frozenset(self._entries)

    # --- reading ------------------------------------------------------------------------------

    async def configmap(self, namespace: str, name: str) -> JsonObject:
        """Return a ConfigMap: read it, do not change it.

        Errors: NotFound; whatever else the API says (`EdgeApi.query`).
        """
        return await self._get(Subject(namespace, CONFIGMAP, name))

    async def secret(self, namespace: str, name: str) -> JsonObject:
        """Return a Secret. Errors: as `configmap`."""
        return await self._get(Subject(namespace, SECRET, name))

    async def _get(self, subject: Subject) -> JsonObject:
        entry = self._entries.get(subject)
        if entry is None:
            return await self._query(subject)
        async with entry.reading:
            if entry.item is not None and entry.came is not None:
                return entry.item
            generation = entry.generation
            try:
                found = await self._query(subject)
            except GatewayError as error:
                if entry.item is None or error.status < SERVER_FAULT:
                    raise
                log.info("an object is not read anew yet", extra={"cause": error.message})
                return entry.item
            if entry.generation == generation or entry.item is None:
                entry.item, entry.came = found, self._clock()
            return entry.item

    async def _query(self, subject: Subject) -> JsonObject:
        try:
            return await self._api.query(subject)
        except NotFound as error:
            text = f'{subject.type} "{subject.name}" not found'
            if "not found" not in error.message:
                text = f"{text}: {error.message}"
            raise NotFound(text) from error

    def look_again(self, uid: str) -> None:
        """What a Pod uses and came too long ago is asked for again; what is immutable never is."""
        oldest = self._clock() - FRESH_SECONDS
        for subject in self._used.get(uid, ()):
            entry = self._entries[subject]
            is_fixed = entry.item is not None and entry.item.get("immutable") is True
            if entry.came is not None and entry.came < oldest and not is_fixed:
                entry.came = None

    # --- changes ------------------------------------------------------------------------------

    def object_changed(self, change: ObjectChanged, _trace: TraceContext | None) -> None:
        """Take what the cloud pushes; what no Pod here uses is not kept."""
        entry = self._entries.get(change.subject)
        if entry is None:
            return
        if change.operation is Operation.DELETE:
            entry.item = entry.came = None
        elif _is_older(change.object, entry.item):
            return
        else:
            entry.item, entry.came = change.object, self._clock()
        entry.generation += 1
        for listener in self._listeners:
            listener(frozenset(entry.users))


def _is_older(item: JsonObject, kept: JsonObject | None) -> bool:
    """True for an earlier version of the same object."""
    if kept is None:
        return False
    new, old = ObjectMeta.read(item), ObjectMeta.read(kept)
    if new.uid != old.uid or not (new.version.isdigit() and old.version.isdigit()):
        return False
    return int(new.version) < int(old.version)
