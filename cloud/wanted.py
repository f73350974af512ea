"""What nodes should hold, from several rooms, and which steps bring a node there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from cloud.syncbook import NEVER, Held
from gateway.kube.informer import number_of
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.names import Operation, Source

FIRST, SECOND, LATER = 0, 1, 2
"""Ranks: models, their Devices, everything else."""
_RANK = {"devicemodel": FIRST, "device": SECOND}


@dataclass(frozen=True, slots=True)
class WantedObject:
    """One object that a node should hold.

    Shape:  `document` with kind and apiVersion; `source` goes into the route; `additions` is the operation
            for what the node does not have yet (Secrets: update); lower `rank` goes first; `finish` makes
            what is sent from `document`, asked only when it is sent; where nobody knows yet how the object
            is (`is_known` False), the node keeps what it has.
    """

    held: Held
    document: JsonObject
    source: Source
    additions: Operation = Operation.INSERT
    rank: int = LATER
    finish: Callable[[JsonObject], JsonObject] | None = None
    is_known: bool = True

    @property
    def content(self) -> JsonObject:
        return self.document if self.finish is None else self.finish(self.document)


class WantedObjects(Protocol):
    """A room that knows what nodes should hold. Answers from memory."""

    def wanted(self, node: str) -> Iterable[WantedObject]: ...


@dataclass(frozen=True, slots=True)
class Step:
    """One message to send: bring `item` (with the version wanted) to the node, or take it away."""

    operation: Operation
    item: Held
    wanted: WantedObject | None = None


def plan(wanted: Mapping[str, WantedObject], held: Mapping[str, Held]) -> list[Step]:
    """Return what makes `held` become `wanted`, by rank, deletions in reverse and last.

    A new object whose name an old one still takes waits until the old one is gone.
    """
    gone = [item for uid, item in held.items() if uid not in wanted]
    taken = {(item.type, item.namespace, item.name) for item in gone}
    steps = [
        Step(_operation(entry, held.get(uid)), entry.held, entry)
        for uid, entry in wanted.items()
        if entry.is_known
        and _is_newer(entry.held, held.get(uid))
        and _place(entry.held) not in taken
    ]
    steps.sort(key=lambda step: step.wanted.rank if step.wanted else LATER)
    gone.sort(key=lambda item: -_RANK.get(item.type, LATER))
    return steps + [Step(Operation.DELETE, item) for item in gone]


def source_of_deletion(item: Held) -> Source:
    """Return who deletes an object at a node: KubeEdge's cloud says it by kind, whoever sent it."""
    return Source.DEVICE_CONTROLLER if item.type in _RANK else Source.EDGE_CONTROLLER


def _place(item: Held) -> tuple[str, str, str]:
    return item.type, item.namespace, item.name


def _operation(wanted: WantedObject, held: Held | None) -> Operation:
    is_new = held is None or held.version == NEVER
    return wanted.additions if is_new else Operation.UPDATE


def _is_newer(wanted: Held, held: Held | None) -> bool:
    return held is None or held.version == NEVER or is_later(wanted.version, held.version)


def is_later(version: str, than: str) -> bool:
    """Compare resourceVersions; those that are no numbers differ or not."""
    one, other = number_of(version), number_of(than)
    return version != than if one is None or other is None else one > other
