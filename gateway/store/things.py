"""The port of the things store: where things, policies and their events live.

Writes are compare-and-set on the revision: an event is stored only where the entity's revision is the one
before it. What a `Commit` holds is stored whole or not at all. Answers are callbacks on the loop's
thread, after the commit, in the order of the calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, TypeVar

from gateway.errors import GatewayError
from gateway.model.message import SpoolId
from gateway.model.policy import Policy, PolicyEvent
from gateway.model.thing import Thing, ThingEvent
from gateway.store.search import ThingIndex

T = TypeVar("T")
Answer: TypeAlias = Callable[["T | GatewayError"], None]

SNAPSHOT_EVERY = 32
"""Events between two kept states: how many a look into history replays at most."""


@dataclass(frozen=True, slots=True)
class StoredThing:
    """What is known of a thing id: the thing, None when deleted; `revision` the last it had, 0 for never.

    Shape:  `modified` is when that was, also of a deletion; empty for never.
    """

    thing: Thing | None
    revision: int
    modified: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class StoredPolicy:
    """What is known of a policy id, as for things."""

    policy: Policy | None
    revision: int


@dataclass(frozen=True, slots=True)
class ThingWrite:
    """An event and the document after it, in bytes; no document when the thing is gone."""

    event: ThingEvent
    document: bytes | None


@dataclass(frozen=True, slots=True)
class PolicyWrite:
    """As `ThingWrite`, for a policy; `due` is when it has to be looked at, in the form of clocks."""

    event: PolicyEvent
    document: bytes | None
    due: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """What is stored together: a new thing with its policy; a change with the place in the edge's spool."""

    thing: ThingWrite | None = None
    policy: PolicyWrite | None = None
    spool: SpoolId | None = None


@dataclass(frozen=True, slots=True)
class Committed:
    """Where the thing's event stands among all events; 0 without one."""

    sequence: int


@dataclass(frozen=True, slots=True)
class Replay:
    """What a past state is made from: the newest kept state up to it, and the events since, oldest first.

    Shape:  neither says that nothing is kept of that time.
    """

    base: Thing | None
    events: Sequence[ThingEvent]


@dataclass(frozen=True, slots=True)
class PolicyReplay:
    """As `Replay`, for a policy."""

    base: Policy | None
    events: Sequence[PolicyEvent]


@dataclass(frozen=True, slots=True)
class Keep:
    """What is kept of the past: states back to an instant, and so many of the newest revisions at most.

    Shape:  `since` in the form of clocks; `revisions` 0 for any number.
    """

    since: str
    revisions: int = 0


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What one step of forgetting did: events dropped, and where the next one goes on; None at the end."""

    dropped: int
    after: int | None = None


class ThingStore(ThingIndex, Protocol):
    """Where things and policies live."""

    def append(self, commit: Commit, done: Answer[Committed]) -> None:
        """Store a commit, whole or not at all.

        Errors (through `done`): RevisionConflict if another writer was first; StoreUnavailable.
        """

    def load_thing(self, thing_id: str, done: Answer[StoredThing]) -> None:
        """The newest state of a thing, after all writes that were appended before."""

    def load_policy(self, policy_id: str, done: Answer[StoredPolicy]) -> None:
        """The newest state of a policy, after all writes that were appended before."""

    def load_spool(self, edge: str, lane: str, done: Answer[int]) -> None:
        """The last sequence stored for a lane of an edge's spool, 0 for none."""

    async def page(self, after: str, limit: int, namespaces: Sequence[str]) -> list[Thing]:
        """Things with ids > `after` in order of id; no namespaces means all."""

    async def events(self, thing_id: str, after: int, limit: int) -> list[ThingEvent]:
        """Kept events of a thing with revision > `after`, oldest first; without `after`/`before` states."""

    async def policy_events(self, policy_id: str, after: int, limit: int) -> list[PolicyEvent]:
        """Kept events of a policy with revision > `after`, oldest first; without `after`/`before` states."""

    async def changes(self, after: int, limit: int) -> list[ThingEvent]:
        """Kept events of all things with sequence > `after`, oldest first."""

    async def replay(
        self, thing_id: str, *, revision: int | None = None, timestamp: str | None = None
    ) -> Replay:
        """What is needed to rebuild a thing as it was at a revision or an instant."""

    async def forget(self, keep: Keep, after: int, limit: int) -> Forgotten:
        """Look at `limit` events of things from a place on, and drop those that no kept state needs.

        Shape:  begins at 0; of each thing the events that stay are the newest ones, without a gap.
        """

    async def replay_policy(
        self, policy_id: str, *, revision: int | None = None, timestamp: str | None = None
    ) -> PolicyReplay:
        """What is needed to rebuild a policy as it was at a revision or an instant."""

    async def due_policies(self, until: str, limit: int) -> list[str]:
        """Policies whose `due` is not after an instant, the earliest first."""

    async def forget_policies(self, keep: Keep, after: int, limit: int) -> Forgotten:
        """As `forget`, for policies."""

    async def give_back(self, pages: int) -> int:
        """Give up to `pages` free pages back to the file system; returns how many, 0 when few are free."""

    async def total(self) -> int:
        """How many things there are."""

    async def erase(self, namespace: str, limit: int) -> int:
        """Delete some things and policies of a namespace with their past; how many, 0 when none is left."""
