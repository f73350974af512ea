"""Which node belongs to which NodeGroup, and what its Node and the groups then say. Pure.

A node belongs to one group at most: who has it keeps it while it chooses it; among others the oldest group
takes it. Source: KubeEdge reference, section 20.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cloud.identity import ready_condition
from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.devices import ObjectMeta, mapping, text, texts

FINALIZER = "apps.kubeedge.io/nodegroup-controller"
BELONGING = "apps.kubeedge.io/belonging-to"
"""Label of a Node: its group."""
_NOBODY: frozenset[str] = frozenset()
ZONE = "topology.kubernetes.io/zone"
ZONE_BEFORE = "twinspan.io/zone-before"
"""Annotation of a Node: which zone it had before its group became one."""


@dataclass(frozen=True, slots=True)
class NodeView:
    """What groups ask of a Node; `ready` as its condition says, "" for nothing."""

    labels: Mapping[str, str]
    ready: str

    @classmethod
    def read(cls, document: JsonObject) -> NodeView:
        labels = mapping(document.get("metadata")).get("labels")
        return cls(texts(labels), ready_condition(document))


Nodes = Mapping[str, NodeView]
"""By name."""


@dataclass(frozen=True, slots=True)
class Group:
    """A NodeGroup. One that is being deleted chooses nobody, nor does one that could go before its labels."""

    name: str
    created: str
    nodes: frozenset[str]
    labels: Mapping[str, str]
    is_zone: bool
    is_deleting: bool
    is_held: bool

    @classmethod
    def read(cls, document: JsonObject) -> Group:
        meta, spec = ObjectMeta.read(document), mapping(document.get("spec"))
        nodes, held = spec.get("nodes"), mapping(document.get("metadata")).get("finalizers")
        return cls(
            name=meta.name,
            created=text(mapping(document.get("metadata")).get("creationTimestamp")),
            nodes=frozenset(text(name) for name in nodes) if isinstance(nodes, list) else _NOBODY,
            labels=texts(spec.get("matchLabels")),
            is_zone=spec.get("topologyEnabled") is True,
            is_deleting=meta.is_deleting,
            is_held=isinstance(held, list) and FINALIZER in held,
        )

    def chooses(self, name: str, labels: Mapping[str, str]) -> bool:
        """True when the group wants a node."""
        if self.is_deleting or not self.is_held:
            return False
        has_labels = bool(self.labels) and self.labels.items() <= labels.items()
        return has_labels or name in self.nodes


def group_of(node: JsonObject | None) -> str:
    """Return the group that a Node says it belongs to, "" for none."""
    return "" if node is None else ObjectMeta.read(node).labels.get(BELONGING, "")


def assigned(groups: Iterable[Group], nodes: Nodes) -> dict[str, str]:
    """Decide for each node its group, "" for none; a label of a group that nobody knows is left alone."""
    known = {group.name: group for group in groups}
    by_age = sorted(known.values(), key=lambda group: (group.created, group.name))
    found: dict[str, str] = {}
    for name, node in nodes.items():
        holder = node.labels.get(BELONGING, "")
        taker = next((group.name for group in by_age if group.chooses(name, node.labels)), "")
        if holder in known:
            found[name] = holder if known[holder].chooses(name, node.labels) else taker
        else:
            found[name] = taker or holder
    return found


def node_patch(node: JsonObject, group: Group | None, name: str) -> JsonObject | None:
    """Return the merge patch that makes a Node say that it belongs to `name`; None when it does.

    Shape:  `group` is the NodeGroup `name`, None where there is none.
    """
    meta = ObjectMeta.read(node)
    labels: JsonObject = {}
    if meta.labels.get(BELONGING, "") != name:
        labels[BELONGING] = name or None
    zone, note = _zone(meta, group)
    if zone != meta.labels.get(ZONE):
        labels[ZONE] = zone
    changed: JsonObject = {"labels": labels} if labels else {}
    if note != meta.annotations.get(ZONE_BEFORE):
        changed["annotations"] = {ZONE_BEFORE: note}
    return {"metadata": {"uid": meta.uid, **changed}} if changed else None


def _zone(meta: ObjectMeta, group: Group | None) -> tuple[str | None, str | None]:
    """Return a Node's zone and the note about the one before."""
    zone, before = meta.labels.get(ZONE), meta.annotations.get(ZONE_BEFORE)
    if group is not None and group.is_zone:
        if before is None:
            before = "" if zone in (None, group.name) else zone
        return group.name, before
    return (zone, None) if before is None else (before or None, None)


_READY = {"True": "Ready", "False": "NotReady"}


def node_statuses(
    group: Group, groups: Mapping[str, str], nodes: Nodes, failures: Mapping[str, str]
) -> list[Json]:
    """Return `status.nodeStatuses` of a group.

    Shape:  `groups` as `assigned` gives it; `failures` says for nodes why their label could not be written.
    """
    chosen = {name for name, node in nodes.items() if group.chooses(name, node.labels)}
    return [
        _status(group, name, nodes.get(name), groups.get(name, ""), failures.get(name, ""))
        for name in sorted(chosen.union(name for name in group.nodes if name))
    ]


def _status(
    group: Group, name: str, node: NodeView | None, holder: str, failure: str
) -> JsonObject:
    ready = "" if node is None else node.ready
    status: JsonObject = {
        "nodeName": name,
        "readyStatus": _READY.get(ready, "Unknown"),
        "selectionStatus": "Succeeded",
    }
    reason = _reason(group, name, node, holder, failure)
    return (
        {**status, "selectionStatus": "Failed", "selectionStatusReason": reason}
        if reason
        else status
    )


def _reason(group: Group, name: str, node: NodeView | None, holder: str, failure: str) -> str:
    if node is None:
        return "node does not exist"
    if holder != group.name:
        return f"node {name} belongs to NodeGroup {holder}"
    return failure


def newly_failed(before: Json, after: Sequence[Json]) -> list[str]:
    """Return why nodes that did not fail before do now."""
    entries = before if isinstance(before, list) else []
    old = {text(mapping(entry).get("nodeName")): _why(entry) for entry in entries}
    return [
        f"{text(mapping(entry).get('nodeName'))}: {_why(entry)}"
        for entry in after
        if _why(entry) and old.get(text(mapping(entry).get("nodeName"))) != _why(entry)
    ]


def _why(entry: Json) -> str:
    return text(mapping(entry).get("selectionStatusReason"))
