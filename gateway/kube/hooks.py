"""Rules of other rooms on what is written: they complete objects, refuse them, or warn about them.

What admission webhooks are to a cluster, in process. Whoever owns a kind registers here; this package knows
none of the rules. Answers look like a webhook's, so that kubectl shows what it would show.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from gateway.kube.admission import Remarks
from gateway.kube.auth import User
from gateway.kube.strategies import table
from gateway.model.json import JsonObject
from gateway.wire.kube.resources import ResourceType
from gateway.wire.kube.status import denied


@dataclass(frozen=True, slots=True)
class Review:
    """A write to judge.

    Shape:  `old` is None on create; `item` is complete and fits its kind's schema; `wants_warnings` is False
            where nobody would read them.
    """

    item: JsonObject
    old: JsonObject | None = None
    wants_warnings: bool = True

    @property
    def namespace(self) -> str:
        return str(table(self.item, "metadata").get("namespace") or "")

    @property
    def name(self) -> str:
        return str(table(self.item, "metadata").get("name") or "")


@dataclass(frozen=True, slots=True)
class Write:
    """A write to judge by who writes.

    Shape:  `user` is None for us; `part` the subresource, None for the object itself.
    """

    user: User | None
    resource: ResourceType
    item: JsonObject
    old: JsonObject | None = None
    part: str | None = None

    @property
    def namespace(self) -> str:
        return str(table(self.item, "metadata").get("namespace") or "")

    @property
    def name(self) -> str:
        return str(table(self.item, "metadata").get("name") or "")


@dataclass(frozen=True, slots=True)
class Opinion:
    """What somebody thinks of a write: why it is refused ("" when it is not), and what to warn of."""

    refusal: str = ""
    warnings: tuple[str, ...] = ()


Judge = Callable[[Review], Awaitable[Opinion]]
Guard = Callable[[Write], None]
"""Refuses a write for who writes it. Errors: Forbidden."""
Stamp = Callable[[JsonObject, User], JsonObject]
"""Notes in a new object who made it; returns a copy."""
Changer = Callable[[JsonObject], JsonObject]
"""Returns the object as it shall be, the same one where nothing is to be done; changes nothing in place."""
Allot: TypeAlias = "Callable[[JsonObject, JsonObject | None], JsonObject]"
"""Gives an object that is about to be stored what it needs of something scarce; (new, old) -> new."""


class Hooks:
    """Who has a say about which kind. Register before the API runs; the same name again takes the place."""

    def __init__(self) -> None:
        self._changers: dict[str, dict[str, Changer]] = {}
        self._judges: dict[str, dict[str, Judge]] = {}
        self._guards: dict[str, list[Guard]] = {}
        self._stamps: dict[str, Stamp] = {}
        self._allots: dict[str, Allot] = {}

    def change(self, kind: str, name: str, changer: Changer) -> None:
        """Let `changer` complete what is written of a kind, e.g. `pods`."""
        self._changers.setdefault(kind, {})[name] = changer

    def judge(self, kind: str, name: str, judge: Judge) -> None:
        """Let `judge` refuse what is written of a kind, e.g. `devices.devices.kubeedge.io`.

        Shape:  `name` is the webhook's that refusals are shown under. All versions of a kind are judged.
        """
        self._judges.setdefault(kind, {})[name] = judge

    def guard(self, kinds: Iterable[str], guard: Guard) -> None:
        """Let `guard` judge writes of these kinds, of their subresources too, by who writes."""
        for kind in kinds:
            self._guards.setdefault(kind, []).append(guard)

    def stamp(self, kind: str, stamp: Stamp) -> None:
        """Let new objects of a kind say who made them."""
        self._stamps[kind] = stamp

    def allot(self, kind: str, allot: Allot) -> None:
        """Let `allot` have the last word on what is stored of a kind, e.g. addresses of `services`."""
        self._allots[kind] = allot

    def allotted(
        self,
        resource: ResourceType,
        item: JsonObject,
        old: JsonObject | None,
        part: str | None = None,
    ) -> JsonObject:
        """Return what is to be stored. Errors: Unprocessable for what cannot be had."""
        allot = self._allots.get(resource.storage_key)
        return item if allot is None or part is not None else allot(item, old)

    def stamped(self, resource: ResourceType, item: JsonObject, user: User | None) -> JsonObject:
        """Return a new object with what it says of its maker."""
        stamp = self._stamps.get(resource.storage_key)
        return item if stamp is None or user is None else stamp(item, user)

    def changed(self, resource: ResourceType, item: JsonObject, part: str | None) -> JsonObject:
        """Return a document as the changers of its kind complete it; `part` is its subresource."""
        return self.completed(resource.storage_key, item) if part is None else item

    def completed(self, kind: str, item: JsonObject) -> JsonObject:
        """Return an object as the changers of its kind want it."""
        for changer in self._changers.get(kind, {}).values():
            item = changer(item)
        return item

    async def check(
        self,
        resource: ResourceType,
        old: JsonObject | None,
        item: JsonObject,
        remarks: Remarks,
        part: str | None = None,
    ) -> None:
        """Ask guards and judges of a kind about a write.

        Errors: Forbidden for who may not; BadRequest, as of a webhook that denies.
        """
        for guard in self._guards.get(resource.storage_key, ()):
            guard(Write(remarks.user, resource, item, old, part))
        if part is not None:
            return
        async for name, opinion in self.opinions(
            resource.storage_key, Review(item, old, remarks.is_wanted)
        ):
            if opinion.refusal:
                raise denied(name, opinion.refusal)
            for text in opinion.warnings:
                remarks.add(text)

    async def opinions(self, kind: str, review: Review) -> AsyncIterator[tuple[str, Opinion]]:
        """Yield what the judges of a kind think, each under its webhook's name.

        A write that leaves the spec alone (labels, finalizers, a status) is not judged: what was stored
        before a rule came must not get stuck.
        """
        if review.old is not None and review.old.get("spec") == review.item.get("spec"):
            return
        for name, judge in self._judges.get(kind, {}).items():
            yield name, await judge(review)
