"""What happens by itself: namespaces empty out, dependents follow owners, old events go.

One worker takes dirty keys in turn; the set of dirty keys is bounded by the number of objects. A step that
fails is tried again later; each step reads the newest state and may run any number of times.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager

from gateway.errors import Conflict, GatewayError, NotFound, RevisionConflict
from gateway.kube.admission import WriteOptions
from gateway.kube.builtin import DEFINITIONS
from gateway.kube.checks import FOREGROUND, ORPHAN, DeleteOptions
from gateway.kube.client import EventType, PatchType
from gateway.kube.crds import kinds_of
from gateway.kube.objects import Objects
from gateway.kube.strategies import CLEANUP, table
from gateway.kube.watch import Change, Filter, Key, Stored
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.clock import parse_rfc3339
from gateway.wire.kube.resources import ResourceType

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
SWEEP_SECONDS = 60.0
EVENT_SECONDS = 3_600.0
MAX_EVENTS = 10_000
"""Events that a sweep leaves; the oldest go first."""
STANDARD_NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease", "kubeedge")
ROOT_CERTIFICATE = "kube-root-ca.crt"
WRITER = WriteOptions(manager="kube-controller-manager")


class Owners:
    """Who depends on whom, by uid."""

    def __init__(self) -> None:
        self.alive: set[str] = set()
        self._dependents: dict[str, dict[Key, None]] = {}

    def put(self, before: Stored | None, after: Stored | None) -> None:
        if before is not None:
            self.alive.discard(uid_of(before.object))
            for owner in owner_uids(before.object):
                keys = self._dependents.get(owner, {})
                keys.pop(before.key, None)
                if not keys:
                    self._dependents.pop(owner, None)
        if after is not None:
            self.alive.add(uid_of(after.object))
            for owner in owner_uids(after.object):
                self._dependents.setdefault(owner, {})[after.key] = None

    def dependents(self, uid: str) -> list[Key]:
        return list(self._dependents.get(uid, ()))


def uid_of(item: JsonObject) -> str:
    return str(table(item, "metadata").get("uid") or "")


def owner_references(item: JsonObject) -> list[JsonObject]:
    value = table(item, "metadata").get("ownerReferences")
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def owner_uids(item: JsonObject) -> list[str]:
    return [str(entry.get("uid") or "") for entry in owner_references(item)]


def finalizers_of(item: JsonObject) -> list[Json]:
    value = table(item, "metadata").get("finalizers")
    return value if isinstance(value, list) else []


def is_deleting(item: JsonObject) -> bool:
    return bool(table(item, "metadata").get("deletionTimestamp"))


class Controllers:
    """The worker. Shape: `root_certificate` is the PEM text that each namespace gets as a ConfigMap."""

    def __init__(self, objects: Objects, root_certificate: str) -> None:
        self._objects = objects
        self._root_certificate = root_certificate
        self._owners = Owners()
        self._dirty: dict[Key, None] = {}
        self._wake = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look at everything once, then follow changes for the length of the block."""
        for stored in self._everything():
            self._owners.put(None, stored)
        for stored in self._everything():
            self._judge(stored)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._work()), group.create_task(self._sweep())]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()

    def _everything(self) -> Iterable[Stored]:
        for kind in self._objects.storage.kinds():
            yield from self._objects.storage.all(kind)

    # --- what is to do ----------------------------------------------------------------------------

    def on_change(self, change: Change) -> None:
        """Note what a committed change asks for."""
        is_gone = change.type is EventType.DELETED
        self._owners.put(change.before, None if is_gone else change.after)
        if not is_gone:
            self._judge(change.after)
            return
        for key in self._owners.dependents(uid_of(change.after.object)):
            self._mark(key)
        for reference in owner_references(change.after.object):
            self._mark_owner(change.after, reference)
        if change.after.key.namespace:
            self._mark(Key("namespaces", "", change.after.key.namespace))

    def _judge(self, stored: Stored) -> None:
        item = stored.object
        owners = owner_uids(item)
        if (
            stored.key.kind == "namespaces"
            or (is_deleting(item) and finalizers_of(item))
            or (owners and not self._owners.alive.intersection(owners))
        ):
            self._mark(stored.key)

    def _mark_owner(self, stored: Stored, reference: JsonObject) -> None:
        group = str(reference.get("apiVersion") or "").rpartition("/")[0]
        kind = self._objects.registry.of_group_kind(group, str(reference.get("kind")))
        if kind is not None:
            namespace = stored.key.namespace if kind.namespaced else ""
            self._mark(Key(kind.storage_key, namespace, str(reference.get("name"))))

    def _mark(self, key: Key) -> None:
        self._dirty[key] = None
        self._wake.set()

    # --- doing it ---------------------------------------------------------------------------------

    async def _work(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            again = await self._round()
            if again:
                await asyncio.sleep(RETRY_SECONDS)
                for key in again:
                    self._mark(key)

    async def _round(self) -> list[Key]:
        again: list[Key] = []
        while self._dirty:
            key = next(iter(self._dirty))
            del self._dirty[key]
            try:
                await self._settle(key)
            except NotFound:
                continue  # somebody else was first; their change marks the key again
            except Conflict:
                again.append(key)  # what changed may have been another object
            except GatewayError as error:
                log.warning(
                    "controller step failed", extra={"key": str(key), "cause": error.message}
                )
                again.append(key)
        return again

    async def _settle(self, key: Key) -> None:
        stored = self._objects.storage.get(key)
        if stored is None:
            return
        if key.kind == "namespaces":
            await self._settle_namespace(stored)
        elif is_deleting(stored.object):
            await self._settle_deletion(stored)
        else:
            await self._collect(stored)

    def _kind(self, key: Key) -> ResourceType | None:
        return next((item for item in self._objects.registry if item.storage_key == key.kind), None)

    # --- namespaces -------------------------------------------------------------------------------

    async def _settle_namespace(self, stored: Stored) -> None:
        if is_deleting(stored.object):
            await self._empty(stored)
            return
        name = stored.key.name
        await self._ensure("serviceaccounts", name, {"metadata": {"name": "default"}})
        body: JsonObject = {
            "metadata": {"name": ROOT_CERTIFICATE},
            "data": {"ca.crt": self._root_certificate},
        }
        await self._ensure("configmaps", name, body)

    async def _ensure(self, plural: str, namespace: str, body: JsonObject) -> None:
        """Create an object, or bring its data up to date."""
        resource = self._objects.resource("v1", plural)
        name = str(table(body, "metadata")["name"])
        stored = self._objects.storage.get(Key(plural, namespace, name))
        if stored is None:
            await self._objects.create(resource, namespace, body, WRITER)
        elif "data" in body and stored.object.get("data") != body["data"]:
            patch: JsonObject = {"data": body["data"]}
            await self._objects.patch(resource, namespace, name, patch, PatchType.MERGE, WRITER)

    async def _empty(self, stored: Stored) -> None:
        """Delete what is in a namespace; the last one out removes it."""
        name = stored.key.name
        left = 0
        for resource in {item.storage_key: item for item in self._objects.registry}.values():
            if not resource.namespaced or resource.is_virtual:
                continue
            for item in list(self._objects.storage.all(resource.storage_key, Filter(name))):
                left += not await self._delete(resource, item)
        if left or finalizers_of(stored.object):
            return  # their finalizers are somebody's work; each removal marks this namespace again
        try:
            await self._objects.storage.remove(stored)
        except RevisionConflict:
            self._mark(stored.key)

    async def _delete(self, resource: ResourceType, stored: Stored) -> bool:
        """Delete an object; True when it is gone."""
        try:
            result = await self._objects.delete(
                resource,
                stored.key.namespace,
                stored.key.name,
                DeleteOptions(uid=uid_of(stored.object)),
            )
        except NotFound:
            return True
        return result.is_gone

    # --- owners -----------------------------------------------------------------------------------

    async def _collect(self, stored: Stored) -> None:
        """Delete an object all of whose owners are gone."""
        owners = owner_uids(stored.object)
        resource = self._kind(stored.key)
        if owners and resource is not None and not self._owners.alive.intersection(owners):
            await self._delete(resource, stored)

    async def _settle_deletion(self, stored: Stored) -> None:
        """Do what the finalizers that are ours wait for."""
        held = finalizers_of(stored.object)
        resource = self._kind(stored.key)
        if resource is None:
            return
        steps: tuple[tuple[str, Callable[[Stored], Awaitable[bool]]], ...] = (
            (ORPHAN, self._orphan),
            (FOREGROUND, self._delete_dependents),
            (CLEANUP, self._delete_customs),
        )
        for finalizer, step in steps:
            if finalizer in held:
                if await step(stored):
                    await self._release(resource, stored, finalizer)
                return

    async def _release(self, resource: ResourceType, stored: Stored, finalizer: str) -> None:
        held = finalizers_of(stored.object)
        patch: list[Json] = [
            {"op": "test", "path": "/metadata/uid", "value": uid_of(stored.object)},
            {"op": "test", "path": "/metadata/finalizers", "value": held},
            {
                "op": "replace",
                "path": "/metadata/finalizers",
                "value": [item for item in held if item != finalizer],
            },
        ]
        await self._objects.patch(
            resource, stored.key.namespace, stored.key.name, patch, PatchType.JSON, WRITER
        )

    async def _orphan(self, stored: Stored) -> bool:
        uid = uid_of(stored.object)
        for key in self._owners.dependents(uid):
            await self._disown(key, uid)
        return not self._owners.dependents(uid)

    async def _disown(self, key: Key, uid: str) -> None:
        stored, resource = self._objects.storage.get(key), self._kind(key)
        if stored is None or resource is None:
            return
        left: list[Json] = [
            entry for entry in owner_references(stored.object) if entry.get("uid") != uid
        ]
        patch: JsonObject = {
            "metadata": {
                "ownerReferences": left or None,
                "resourceVersion": str(stored.version),
            }
        }
        await self._objects.patch(resource, key.namespace, key.name, patch, PatchType.MERGE, WRITER)

    async def _delete_dependents(self, stored: Stored) -> bool:
        """Foreground: dependents that block go first."""
        uid = uid_of(stored.object)
        blocked = False
        for key in self._owners.dependents(uid):
            dependent, resource = self._objects.storage.get(key), self._kind(key)
            if dependent is None or resource is None:
                continue
            gone = await self._delete(resource, dependent)
            blocks = any(
                entry.get("uid") == uid and entry.get("blockOwnerDeletion") is True
                for entry in owner_references(dependent.object)
            )
            blocked = blocked or (blocks and not gone)
        return not blocked

    async def _delete_customs(self, stored: Stored) -> bool:
        """A definition goes after the last object of its kind."""
        if stored.key.kind != DEFINITIONS:
            return True
        left = 0
        for resource in kinds_of(stored.object):
            for item in list(self._objects.storage.all(resource.storage_key)):
                left += not await self._delete(resource, item)
        return not left

    # --- time -------------------------------------------------------------------------------------

    async def _sweep(self) -> None:
        """Forget old events, and look again at what waits: a failure may have lost a mark."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            await self._forget_events()
            for stored in list(self._everything()):
                if is_deleting(stored.object):
                    self._mark(stored.key)

    async def _forget_events(self) -> None:
        resource = self._objects.resource("v1", "events")
        before = self._objects.now() - EVENT_SECONDS
        events = sorted(
            ((last_seen(item.object) or 0, item) for item in self._objects.storage.all("events")),
            key=lambda pair: pair[0],
        )
        surplus = len(events) - MAX_EVENTS
        for place, (seen, stored) in enumerate(events):
            if seen >= before and place >= surplus:
                return
            try:
                await self._delete(resource, stored)
            except GatewayError as error:
                log.warning("old events stay", extra={"cause": error.message})
                return


def last_seen(event: JsonObject) -> float | None:
    """When an event last happened, as far as it says."""
    stamps = (
        table(event, "series").get("lastObservedTime"),
        event.get("lastTimestamp"),
        event.get("eventTime"),
        table(event, "metadata").get("creationTimestamp"),
    )
    return max((when for when in map(parse_rfc3339, stamps) if when is not None), default=None)
