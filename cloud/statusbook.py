"""The DeviceStatus of each Device as it was last read or written, and the one way to change it.

A change is worked out on the newest known state and written against its resourceVersion; where another
CloudCore was first, it is worked out again on what that one wrote. So two CloudCores, each with a report of
its own, never undo one another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from cloud.catalog import Catalog
from cloud.statuses import (
    NOBODY,
    Faults,
    Reporter,
    belongs_to,
    faults_of,
    new_status,
    reporter_of,
    state_of,
    status_patch,
    twin_entries,
)
from gateway.errors import Conflict, NotFound
from gateway.kube.client import KubeClient
from gateway.kube.informer import number_of
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.devices import GROUP_VERSION, STATUSES, DeviceView, ObjectMeta
from gateway.wire.kube.status import AlreadyExists

TRIES = 8


@dataclass(frozen=True, slots=True)
class KnownStatus:
    """What stands in a DeviceStatus; `version` "" where there is none. Never altered in place."""

    entries: Mapping[str, JsonObject] = field(default_factory=dict)
    state: Mapping[str, str] = field(default_factory=dict)
    faults: Faults | None = None
    """What is wrong with the Device; None while nobody has told."""
    version: str = ""
    reporter: Reporter = NOBODY

    @classmethod
    def read(cls, document: JsonObject | None) -> KnownStatus:
        """Read a document, None for one that is not there."""
        version = "" if document is None else ObjectMeta.read(document).version
        return cls(
            twin_entries(document),
            state_of(document),
            faults_of(document),
            version,
            reporter_of(document),
        )


@dataclass(slots=True)
class _Held:
    uid: str
    status: KnownStatus
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)


Work = Callable[[KnownStatus], KnownStatus]
"""Returns the status as it shall be, the same one where nothing is worth a write; may run again."""


class StatusBook:
    """Reads from memory, writes through to the cluster."""

    def __init__(self, kube: KubeClient, catalog: Catalog) -> None:
        self._kube = kube
        self._catalog = catalog
        self._held: dict[tuple[str, str], _Held] = {}

    def forget(self, device: DeviceView) -> None:
        """The Device is gone."""
        self._held.pop((device.key.namespace, device.key.name), None)

    def of(self, device: DeviceView) -> KnownStatus:
        """Return what stands there, as far as is known."""
        return self._hold(device).status

    def is_news(self, device: DeviceView, document: JsonObject) -> bool:
        """True for a state that neither was written here nor is older than what was."""
        held = self._held.get((device.key.namespace, device.key.name))
        return held is None or _is_newer(ObjectMeta.read(document).version, held.status.version)

    async def newest(self, device: DeviceView) -> KnownStatus:
        """Take in what others wrote meanwhile, and return the result."""
        held = self._hold(device)
        async with held.writing:
            seen = KnownStatus.read(self._catalog.status_object(device.key))
            if _is_newer(seen.version, held.status.version):
                held.status = seen
            return held.status

    async def change(self, device: DeviceView, work: Work) -> tuple[KnownStatus, KnownStatus]:
        """Write a change and return the states before and after it.

        Errors: those of the API; nothing is taken for written that is not.
        """
        held = self._hold(device)
        async with held.writing:
            for attempt in range(TRIES):
                before = held.status
                after = work(before)
                if after is before:
                    break
                try:
                    held.status = await self._write(device, after)
                except Conflict:
                    if attempt == TRIES - 1:
                        raise
                    held.status = await self._read(device)
                else:
                    break
            return before, held.status

    def _hold(self, device: DeviceView) -> _Held:
        key = (device.key.namespace, device.key.name)
        held = self._held.get(key)
        if held is None or held.uid != device.meta.uid:
            known = KnownStatus.read(self._catalog.status_object(device.key))
            held = self._held[key] = _Held(device.meta.uid, known)
        return held

    # --- the cluster --------------------------------------------------------------------------

    async def _read(self, device: DeviceView) -> KnownStatus:
        try:
            found = await self._kube.get(*_collection(device), device.key.name)
        except NotFound:
            return KnownStatus()
        return KnownStatus.read(found if belongs_to(found, device.meta.uid) else None)

    async def _write(self, device: DeviceView, status: KnownStatus) -> KnownStatus:
        body = status_patch(status.entries, status.state, status.faults, status.reporter)
        if status.version:
            patch: JsonObject = {"metadata": {"resourceVersion": status.version}, "status": body}
            try:
                written = await self._kube.patch(*_collection(device), device.key.name, patch)
            except NotFound:
                written = await self._make(device, body)
        else:
            written = await self._make(device, body)
        return replace(status, version=ObjectMeta.read(written).version)

    async def _make(self, device: DeviceView, body: JsonObject) -> JsonObject:
        """Create it; what an earlier namesake left goes. Errors: Conflict for one of this Device."""
        at, fresh = _collection(device), new_status(device, body)
        try:
            return await self._kube.create(*at, fresh)
        except AlreadyExists:
            found = await self._kube.get(*at, device.key.name)
            if belongs_to(found, device.meta.uid):
                raise
            await self._kube.delete(*at, device.key.name, uid=ObjectMeta.read(found).uid)
            return await self._kube.create(*at, fresh)


def _collection(device: DeviceView) -> tuple[str, str, str]:
    return GROUP_VERSION, STATUSES, device.key.namespace


def _is_newer(one: str, other: str) -> bool:
    """Compare resourceVersions; where they are no numbers, another one is a newer one."""
    left, right = number_of(one), number_of(other)
    return one != other if left is None or right is None else left > right
