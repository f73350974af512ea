"""The port of searching: what is asked of the store, and what it finds."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeAlias

from gateway.model.json import Json, Pointer, format_pointer
from gateway.model.thing import Thing
from gateway.twin.namespaces import EVERYWHERE, Scope
from gateway.twin.rql import Node

Scalar: TypeAlias = "bool | int | float | str | None"


@dataclass(frozen=True, slots=True)
class SortKey:
    """One item of `sort(...)`."""

    pointer: Pointer
    is_descending: bool = False

    @property
    def text(self) -> str:
        return ("-" if self.is_descending else "+") + format_pointer(self.pointer)[1:]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a hit stands in the order: its sort values, then its id."""

    values: tuple[Scalar, ...]
    thing_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A search.

    Shape:  `subjects` the caller's; `node` None for everything; `namespaces` None for all, `scope` those that
            the caller may touch; `after` the last hit of the page before; `now` what `time:now` means;
            `seconds` the longest it may take.
    """

    subjects: tuple[str, ...]
    now: datetime
    node: Node | None = None
    namespaces: tuple[str, ...] | None = None
    scope: Scope = EVERYWHERE
    sort: tuple[SortKey, ...] = ()
    after: Place | None = None
    seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class Hit:
    """A thing that matches, with its place."""

    place: Place
    thing: Thing


@dataclass(frozen=True, slots=True)
class Found:
    """What the index is certain of, in order; `has_unsure` when there are things to be judged one by one.

    Shape:  `others` are the ids of those, in order, as the same snapshot has them: what is signed anew
            meanwhile would else be in neither set. None where they are too many: ask with `unsure`.
    """

    hits: Sequence[Hit]
    has_unsure: bool
    others: Sequence[str] | None = None


@dataclass(frozen=True, slots=True)
class Counted:
    """How many the index is certain of, and whether others have to be judged; `others` as in `Found`."""

    number: int
    has_unsure: bool
    others: Sequence[str] | None = None


class ThingIndex(Protocol):
    """Finds things by what is in them and by who may read it.

    Certain hits match on what the caller may read; the sort values are what the caller may read. Unsure ones
    are a superset of the other hits. What was acknowledged before the call is found.
    """

    async def find(self, ask: Ask, skip: int, take: int) -> Found:
        """The certain hits after `ask.after`, from `skip` on, at most `take`.

        Errors: QueryTimeout; BadRequest `rql.expression.invalid`; StoreUnavailable.
        """

    async def count(self, ask: Ask) -> Counted:
        """The number of certain hits.

        Errors: as `find`.
        """

    async def unsure(self, ask: Ask, after: str, limit: int) -> Sequence[Thing]:
        """Things with ids > `after` that may be hits, in order of id; fewer than `limit` at the end.

        Errors: as `find`.
        """

    async def some(self, thing_ids: Sequence[str]) -> Sequence[Thing]:
        """The things of these ids as they are now, in this order; those that are gone are left out.

        Errors: StoreUnavailable.
        """

    async def catch_up(self, limit: int) -> int:
        """Index things and policies that were stored without, or became stale; how many, 0 when all are."""

    @property
    def behind(self) -> asyncio.Event:
        """Set when there is something to catch up with that was not there before."""


def sortable(value: Json) -> Scalar:
    """What a value sorts by: objects and arrays as if they were absent."""
    return None if isinstance(value, (dict, list)) else value
