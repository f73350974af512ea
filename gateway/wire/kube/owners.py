"""Who depends on whom: owner references as a graph of what has owners, or whose deletion waits.

It holds no object that neither has an owner nor is being deleted with one of the two finalizers here, so it
is as large as the number of dependents. Source: Kubernetes, "Garbage Collection", owners and dependents.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.parts import part, rows, text

ORPHAN: Final = "orphan"
FOREGROUND: Final = "foregroundDeletion"


@dataclass(frozen=True, slots=True)
class Node:
    """One object.

    Shape:  `place` is group version and plural; `blocks` are the owners that it keeps from going.
    """

    uid: str
    place: tuple[str, str]
    namespace: str
    name: str
    owners: frozenset[str]
    blocks: frozenset[str]
    is_deleting: bool
    waits_for: str = ""
    """ORPHAN or FOREGROUND, while its deletion waits for that."""


def node_of(place: tuple[str, str], item: JsonObject) -> Node | None:
    """Read what matters of an object; None for one that has no part in this."""
    metadata = part(item, "metadata")
    references = rows(metadata.get("ownerReferences"))
    is_deleting = bool(metadata.get("deletionTimestamp"))
    waits_for = _waits_for(metadata) if is_deleting else ""
    if not references and not waits_for:
        return None
    return Node(
        text(metadata.get("uid")),
        place,
        text(metadata.get("namespace")),
        text(metadata.get("name")),
        frozenset(text(row.get("uid")) for row in references),
        frozenset(
            text(row.get("uid")) for row in references if row.get("blockOwnerDeletion") is True
        ),
        is_deleting,
        waits_for,
    )


def _waits_for(metadata: JsonObject) -> str:
    held = metadata.get("finalizers")
    names = held if isinstance(held, list) else []
    return next((name for name in (ORPHAN, FOREGROUND) if name in names), "")


def waits_for_dependents(item: JsonObject) -> bool:
    """True for an object that goes after those that it owns."""
    metadata = part(item, "metadata")
    return bool(metadata.get("deletionTimestamp")) and _waits_for(metadata) == FOREGROUND


def references_of(item: JsonObject) -> list[JsonObject]:
    return rows(part(item, "metadata").get("ownerReferences"))


def without_owners(item: JsonObject, uids: frozenset[str]) -> list[Json]:
    """Return the owner references but those to these."""
    return [row for row in references_of(item) if text(row.get("uid")) not in uids]


class Graph:
    """Nodes by uid, and the dependents of each owner."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}
        self._dependents: dict[str, dict[str, None]] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    def get(self, uid: str) -> Node | None:
        return self._nodes.get(uid)

    def put(self, node: Node) -> Node | None:
        """Take in the newest state; returns the one before."""
        old = self.drop(node.uid)
        self._nodes[node.uid] = node
        for owner in node.owners:
            self._dependents.setdefault(owner, {})[node.uid] = None
        return old

    def drop(self, uid: str) -> Node | None:
        """Forget an object; returns its last state."""
        old = self._nodes.pop(uid, None)
        for owner in () if old is None else old.owners:
            held = self._dependents.get(owner, {})
            held.pop(uid, None)
            if not held:
                self._dependents.pop(owner, None)
        return old

    def dependents(self, uid: str) -> list[Node]:
        """Return what names this uid as an owner."""
        return [self._nodes[one] for one in self._dependents.get(uid, ())]

    def is_owner(self, uid: str) -> bool:
        """True while something depends on it."""
        return uid in self._dependents

    def of(self, place: tuple[str, str]) -> Iterator[Node]:
        """Iterate over the nodes of a kind, as they are now."""
        return iter([node for node in self._nodes.values() if node.place == place])

    def blocking(self, uid: str) -> list[Node]:
        """Return the dependents that go before their owner."""
        return [node for node in self.dependents(uid) if uid in node.blocks]
