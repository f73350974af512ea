"""The Pods of one kind of owner: which belong to whom, new ones, and those that have to go.

What was written is known at once (`Mirror.put`, `Mirror.doom`), so the next decision counts it. A Pod
belongs to the owner that its controller reference names by uid; an orphan is adopted by an owner whose
selector matches, an owned one that matches no more is released. Source: Kubernetes "Garbage Collection",
"ReplicaSet", non-template Pod acquisitions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from gateway.errors import Conflict, Forbidden, GatewayError, NotFound, Unprocessable
from gateway.kube.client import PatchType
from gateway.kube.control.context import Context
from gateway.kube.control.mirrors import (
    controller_of,
    controller_uid,
    key_of,
    metadata_of,
    uid_of,
)
from gateway.kube.events import WARNING
from gateway.kube.informer import Change, Key
from gateway.model.json import JsonObject
from gateway.wire.kube.parts import text
from gateway.wire.kube.podstate import is_deleting
from gateway.wire.kube.replicas import selector_of
from gateway.wire.kube.selectors import LabelSelector
from gateway.wire.kube.status import AlreadyExists
from gateway.wire.kube.templates import owner_reference, pod_from

FIRST_BATCH = 1
AT_ONCE = 32
"""Writes side by side: as many as a store takes in one go, and no more."""
Write: TypeAlias = "Callable[[], Awaitable[object]]"


@dataclass(frozen=True, slots=True)
class OwnerKind:
    """A kind whose objects own others.

    Shape:  `component` is who Events say did it, e.g. `replicaset-controller`.
    """

    group_version: str
    plural: str
    kind: str
    component: str

    def reference(self, owner: JsonObject) -> JsonObject:
        """Return the controller reference that the owner's objects carry."""
        return owner_reference(self.group_version, self.kind, owner)

    def named(self, owner: JsonObject) -> JsonObject:
        """Return the object with its kind, which lists leave out."""
        return {**owner, "apiVersion": self.group_version, "kind": self.kind}


class Claims:
    """Who owns the objects of one kind (Pods, ReplicaSets): for owners of one kind.

    Construct it before the mirrors run: it indexes `mirror`.
    """

    def __init__(self, context: Context, kind: OwnerKind, dependents: tuple[str, str]) -> None:
        self._kube = context.kube
        self.kind = kind
        self._place = dependents
        self.owners = context.mirrors.of(kind.group_version, kind.plural)
        self.mirror = context.mirrors.of(*dependents)
        self._owned = self.mirror.index("controller", controller_uid)
        self._orphans = self.mirror.index("orphans", _orphan_namespace)

    def owned(self, owner: JsonObject) -> list[JsonObject]:
        """Return what names this owner as its controller, doomed or not, matching or not."""
        return self._owned.get(uid_of(owner))

    async def claim(
        self,
        owner: JsonObject,
        selector: LabelSelector,
        among: Callable[[JsonObject], bool] = lambda _: True,
    ) -> list[JsonObject]:
        """Return what belongs to an owner, after adopting and releasing what has to change hands.

        Shape:  `among` says which objects are looked at; doomed ones are looked at, too.
        Errors: GatewayError when an adoption or a release failed; try again.
        """
        held, fresh = [], _Once(lambda: self._check_alive(owner))
        for item in filter(among, self.owned(owner)):
            if selector.matches(item):
                held.append(item)
            elif not is_deleting(owner):
                await self._release(owner, item)
        if is_deleting(owner):
            return held
        for item in filter(among, self._orphans.get(key_of(owner)[0])):
            if selector.matches(item) and not self.mirror.is_doomed(item):
                await fresh.run()
                adopted = await self._adopt(owner, item)
                if adopted is not None:
                    held.append(adopted)
        return held

    async def _check_alive(self, owner: JsonObject) -> None:
        """Ask the server: what this mirror shows may be late, and adopting undoes an orphaning."""
        namespace, name = key_of(owner)
        place = self.kind.group_version, self.kind.plural
        found = await self._kube.get(*place, namespace, name)
        if uid_of(found) != uid_of(owner) or is_deleting(found):
            raise Conflict(f"{namespace}/{name} has just been deleted")

    async def _adopt(self, owner: JsonObject, item: JsonObject) -> JsonObject | None:
        reference = self.kind.reference(owner)
        patch: JsonObject = {"metadata": {"uid": uid_of(item), "ownerReferences": [reference]}}
        try:
            return await self._patch(item, patch)
        except NotFound:
            return None

    async def _release(self, owner: JsonObject, item: JsonObject) -> None:
        reference: JsonObject = {"$patch": "delete", "uid": uid_of(owner)}
        patch: JsonObject = {"metadata": {"uid": uid_of(item), "ownerReferences": [reference]}}
        try:
            await self._patch(item, patch)
        except (NotFound, Unprocessable):
            return  # gone, another one of that name, or released already

    async def _patch(self, item: JsonObject, patch: JsonObject) -> JsonObject:
        found = await self._kube.patch(
            *self._place, *key_of(item), patch, patch_type=PatchType.STRATEGIC
        )
        self.mirror.put(found)
        return found

    def listen(self, poke: Callable[[Key], None]) -> None:
        """Poke the owners that a change of a dependent is about, and each owner that changes itself."""
        self.mirror.on_change(lambda change: self._tell(change, poke))
        self.owners.on_change(lambda change: poke(change.key))

    def _tell(self, change: Change, poke: Callable[[Key], None]) -> None:
        for item in (change.old, change.new):
            owner = None if item is None else self.owner_of(item)
            if owner is not None:
                poke(key_of(owner))
        if change.new is not None and controller_of(change.new) is None and _is_news(change):
            for owner in self.owners.in_namespace(change.key[0]):
                selector = selector_of(owner)
                if selector is not None and selector.matches(change.new):
                    poke(key_of(owner))

    def owner_of(self, item: JsonObject) -> JsonObject | None:
        """Return the owner that an object names, None when it is of another kind, or gone."""
        reference = controller_of(item)
        if reference is None or reference.get("kind") != self.kind.kind:
            return None
        owner = self.owners.get(key_of(item)[0], text(reference.get("name")))
        return owner if owner is not None and uid_of(owner) == reference.get("uid") else None


class PodsOf(Claims):
    """The Pods of one kind of owner, with the Events that tell of their coming and going."""

    def __init__(self, context: Context, kind: OwnerKind) -> None:
        super().__init__(context, kind, ("v1", "pods"))
        self._events = context.events

    async def create(self, owner: JsonObject, template: JsonObject) -> JsonObject:
        """Create a Pod by a template, named by the server.

        Errors: what the server says; an Event tells it too.
        """
        return await self.create_as(owner, pod_from(template, owner, self.kind.reference(owner)))

    async def create_as(self, owner: JsonObject, pod: JsonObject) -> JsonObject:
        """Create this Pod, named by the caller or the server; it needs its controller reference.

        Errors: AlreadyExists, without an Event; otherwise as `create`.
        """
        try:
            stored = await self._kube.create("v1", "pods", key_of(owner)[0], pod)
        except AlreadyExists:
            raise
        except GatewayError as error:
            if not is_namespace_ending(error):
                self._tell_of(owner, "FailedCreate", f"Error creating: {error.message}", WARNING)
            raise
        self.mirror.put(stored)
        self._tell_of(owner, "SuccessfulCreate", f"Created pod: {key_of(stored)[1]}")
        return stored

    async def delete(self, owner: JsonObject, pod: JsonObject) -> None:
        """Delete a Pod; from now on the mirror counts it as doomed. One that is gone is no error.

        Errors: Conflict when another one has its name by now, which the mirror will show: look again;
                what the server says otherwise; an Event tells it too.
        """
        namespace, name = key_of(pod)
        try:
            await self._kube.delete("v1", "pods", namespace, name, uid=uid_of(pod))
        except NotFound:
            self.mirror.doom(pod)
            return
        except Conflict:
            raise
        except GatewayError as error:
            self._tell_of(owner, "FailedDelete", f"Error deleting: {error.message}", WARNING)
            raise
        self.mirror.doom(pod)
        self._tell_of(owner, "SuccessfulDelete", f"Deleted pod: {name}")

    def _tell_of(self, owner: JsonObject, reason: str, message: str, type_: str = "Normal") -> None:
        about = self.kind.named(owner)
        self._events.record(about, reason, message, type_=type_, component=self.kind.component)


class _Once:
    """Does something at most once."""

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        self._work = work
        self._is_done = False

    async def run(self) -> None:
        if not self._is_done:
            await self._work()
            self._is_done = True


# --- many writes ----------------------------------------------------------------------------------


async def slow_start(count: int, write: Write) -> tuple[int, GatewayError | None]:
    """Make the same write `count` times: one, then two, four, ... side by side until one fails.

    Returns how many succeeded, and the first error. What would fail each time fails once.
    """
    done, batch = 0, FIRST_BATCH
    while done < count:
        batch = min(batch, count - done, AT_ONCE)
        errors = [error for error in await side_by_side([write] * batch) if error is not None]
        done += batch - len(errors)
        if errors:
            return done, errors[0]
        batch *= 2
    return done, None


async def side_by_side(writes: Sequence[Write]) -> list[GatewayError | None]:
    """Make writes, `AT_ONCE` at a time; the error of each, None for one that succeeded."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def attempt(write: Write) -> GatewayError | None:
        async with slots:
            try:
                await write()
            except GatewayError as error:
                return error
        return None

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(attempt(write)) for write in writes]
    return [task.result() for task in tasks]


def first_error(errors: Iterable[GatewayError | None]) -> GatewayError | None:
    """Return the first error, None when all went well."""
    return next((error for error in errors if error is not None), None)


def is_namespace_ending(error: GatewayError) -> bool:
    """True for a refusal because the namespace is being deleted: nothing is to be done about it."""
    if not isinstance(error, Forbidden):
        return False
    causes = error.details.get("causes")
    reasons = [
        entry.get("reason")
        for entry in (causes if isinstance(causes, list) else ())
        if isinstance(entry, dict)
    ]
    return "NamespaceTerminating" in reasons or "because it is being terminated" in error.message


# --- what to listen to ----------------------------------------------------------------------------


def _orphan_namespace(item: JsonObject) -> tuple[str, ...]:
    return () if controller_of(item) is not None else (key_of(item)[0],)


def _is_news(change: Change) -> bool:
    """True when an orphan may match other owners than before."""
    if change.old is None or change.new is None:
        return True
    before, after = metadata_of(change.old), metadata_of(change.new)
    return before.get("labels") != after.get("labels") or controller_of(change.old) is not None
