"""Policies in memory: the newest state of each id in use, its enforcer, and who must forget it when.

An enforcer is built once per revision and dropped when the policy, or one that it imports directly or
through others, or a root policy of its namespace changes: whoever looks a document up for another policy
is noted as its importer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from gateway.config.ditto import NamespaceRoot
from gateway.ditto.lane import Lane, Pending, Resume, Wait
from gateway.errors import GatewayError
from gateway.model.entity_id import namespace_of
from gateway.model.json import JsonObject
from gateway.model.policy import Policy, PolicyCommand
from gateway.store.things import StoredPolicy, ThingStore
from gateway.twin.policy import Enforcer, build_enforcer
from gateway.twin.policy_actions import PolicyAction
from gateway.twin.policy_roots import root_ids

LOOKED_AT: Final = 8
"""Entries that are looked at for one that may go."""


class Expire:
    """Delete the subjects whose time is over; nobody asked for it."""


Job: TypeAlias = PolicyCommand | PolicyAction | Expire

Step: TypeAlias = "Callable[[PolicyEntry, Job, Pending], object | None]"


class PolicyEntry:
    """What is in memory of one policy id."""

    __slots__ = (
        "_step",
        "committed",
        "depends",
        "enforcer",
        "in_flight",
        "is_loaded",
        "lane",
        "newest",
        "policy_id",
        "revision",
        "settled",
    )

    def __init__(self, policy_id: str, step: Step) -> None:
        self.policy_id = policy_id
        self._step = step
        self.is_loaded = False
        self.newest: Policy | None = None
        self.committed: Policy | None = None
        self.revision = 0
        self.in_flight = 0
        self.enforcer: Enforcer | None = None
        self.depends: set[str] = set()
        self.settled: list[Resume] = []
        self.lane: Lane[Job] = Lane(self)

    def step(self, job: Job, pending: Pending) -> object | None:
        """Decide a job of the lane."""
        return self._step(self, job, pending)

    def forget(self) -> None:
        """Read from the store before the next use."""
        self.is_loaded = False
        self.enforcer = None

    @property
    def is_idle(self) -> bool:
        return self.lane.is_idle and not self.in_flight and not self.settled


@dataclass(frozen=True, slots=True)
class Source:
    """The documents that one policy looks up; raises Wait while one has to be read."""

    cache: PolicyCache
    importer: str

    def get(self, policy_id: str, /) -> JsonObject | None:
        """The durable document of another policy, None where there is none."""
        return self.cache.document_for(self.importer, policy_id)


class PolicyCache:
    """The entries in use; the least recently used idle one goes when there are too many."""

    def __init__(
        self, store: ThingStore, step: Step, size: int, roots: tuple[NamespaceRoot, ...] = ()
    ) -> None:
        self._store = store
        self._step = step
        self._size = size
        self._roots = roots
        self._entries: dict[str, PolicyEntry] = {}
        self._importers: dict[str, set[str]] = {}

    def entry(self, policy_id: str) -> PolicyEntry:
        """The entry of an id, made when it is not there; perhaps not loaded."""
        entry = self._entries.pop(policy_id, None)
        if entry is None:
            entry = PolicyEntry(policy_id, self._step)
            self._make_room()
        self._entries[policy_id] = entry  # last is the most recently used
        return entry

    def known(self, policy_id: str) -> PolicyEntry | None:
        """The entry if it is in memory."""
        return self._entries.get(policy_id)

    def loaded(self, policy_id: str) -> PolicyEntry:
        """The entry with its state.

        Errors: Wait while it has to be read.
        """
        entry = self.entry(policy_id)
        if not entry.is_loaded:
            raise Wait(lambda resume: self.fetch(entry, resume))
        return entry

    def fetch(self, entry: PolicyEntry, resume: Resume) -> None:
        """Read an entry from the store."""

        def loaded(answer: StoredPolicy | GatewayError) -> None:
            if isinstance(answer, GatewayError):
                resume(answer)
                return
            if not entry.is_loaded and not entry.in_flight:
                entry.newest = entry.committed = answer.policy
                entry.revision = answer.revision
                entry.is_loaded = True
            resume(None)

        self._store.load_policy(entry.policy_id, loaded)

    def enforcer(self, policy_id: str) -> Enforcer | None:
        """The enforcer of a policy's durable state, None where there is no such policy.

        Errors: Wait while it has to be read, or is being stored for the first time.
        """
        entry = self.loaded(policy_id)
        if entry.enforcer is not None:
            return entry.enforcer
        if entry.committed is None:
            if entry.in_flight:
                raise Wait(entry.settled.append)
            return None
        document = entry.committed.document
        made = build_enforcer(document, self.source(policy_id), self.roots(policy_id), policy_id)
        entry.enforcer = made
        return made

    def source(self, importer: str) -> Source:
        """Where a policy finds what it imports."""
        return Source(self, importer)

    def document_for(self, importer: str, policy_id: str) -> JsonObject | None:
        """A durable document that another policy depends on from now on; raises Wait."""
        mine = self._entries.get(importer)
        if mine is not None:
            mine.depends.add(policy_id)
            self._importers.setdefault(policy_id, set()).add(importer)
        committed = self.loaded(policy_id).committed
        return committed.document if committed is not None else None

    def roots(self, policy_id: str) -> dict[str, JsonObject]:
        """The operator's root policies for a policy, the closest pattern first; raises Wait."""
        found: dict[str, JsonObject] = {}
        for name in root_ids(self._roots, namespace_of(policy_id)):
            document = self.document_for(policy_id, name) if name != policy_id else None
            if document is not None:
                found[name] = document
        return found

    def importers(self, policy_id: str) -> tuple[str, ...]:
        """The policies in memory whose enforcers depend on this one."""
        return tuple(self._importers.get(policy_id, ()))

    def forget_enforcers(self, policy_id: str) -> None:
        """The policy changed: it and all that depend on it are to be worked out anew."""
        for name in (policy_id, *self.importers(policy_id)):
            entry = self._entries.get(name)
            if entry is not None:
                entry.enforcer = None

    def __len__(self) -> int:
        return len(self._entries)

    def namespaces(self) -> Counter[str]:
        """How many policies of each namespace are in memory."""
        present = (entry for entry in self._entries.values() if entry.committed is not None)
        return Counter(namespace_of(entry.policy_id) for entry in present)

    def forget(self, namespace: str) -> None:
        """Read the policies of a namespace from the store before their next use."""
        mine = [e for e in self._entries.values() if namespace_of(e.policy_id) == namespace]
        for entry in mine:
            if entry.in_flight:
                continue  # what is being stored is newer than what could be read
            entry.newest = entry.committed = None
            entry.forget()
            self.forget_enforcers(entry.policy_id)

    def _make_room(self) -> None:
        """One in use stays, and counts as used now: else all that come after it would stay too."""
        for _ in range(LOOKED_AT):
            if len(self._entries) < self._size:
                return
            oldest = self._entries.pop(next(iter(self._entries)))
            if oldest.is_idle:
                self._forget_depends(oldest)
            else:
                self._entries[oldest.policy_id] = oldest

    def _forget_depends(self, entry: PolicyEntry) -> None:
        for name in entry.depends:
            self._importers[name].discard(entry.policy_id)
            if not self._importers[name]:
                del self._importers[name]
