"""Where the Pods of a DaemonSet belong, and how they are made: one for each node that fits.

Source: Kubernetes "DaemonSet"; "Taints and Tolerations", tolerations that DaemonSets get.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.clock import parse_rfc3339
from gateway.wire.kube.nodeterms import NAME_FIELD, NodeWish, node_wish
from gateway.wire.kube.parts import annotations_of, labels_of, part, rows, text, whole
from gateway.wire.kube.podstate import is_deleting, is_ended
from gateway.wire.kube.revisions import REVISION_LABEL
from gateway.wire.kube.shares import share_of
from gateway.wire.kube.taints import (
    NO_EXECUTE,
    NO_SCHEDULE,
    NOT_READY,
    PREFIX,
    UNREACHABLE,
    UNSCHEDULABLE,
    Taint,
    Toleration,
    is_tolerated,
    repels,
    taints_of,
    tolerations_of,
)

GENERATION_LABEL = "pod-template-generation"
GENERATION_ANNOTATION = "deprecated.daemonset.template.generation"
ROLLING = "RollingUpdate"
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_ADDED = (
    (NOT_READY, NO_EXECUTE),
    (UNREACHABLE, NO_EXECUTE),
    (f"{PREFIX}disk-pressure", NO_SCHEDULE),
    (f"{PREFIX}memory-pressure", NO_SCHEDULE),
    (f"{PREFIX}pid-pressure", NO_SCHEDULE),
    (UNSCHEDULABLE, NO_SCHEDULE),
)
_HOST_NETWORK = (f"{PREFIX}network-unavailable", NO_SCHEDULE)
_NUMBER = re.compile(r"[+-]?\d{1,19}")


# --- which nodes ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fit:
    """Whether a Pod is to run on a node, and whether one that runs there may stay."""

    runs: bool
    stays: bool


@dataclass(frozen=True, slots=True)
class Placement:
    """What a DaemonSet asks of nodes, read once."""

    node: str
    wish: NodeWish
    tolerations: tuple[Toleration, ...]

    def fit(self, node: JsonObject) -> Fit:
        """Judge a node. A Pod that is there leaves for labels and NoExecute only."""
        name = text(part(node, "metadata").get("name"))
        if self.node not in ("", name) or not self.wish.matches(name, dict(labels_of(node))):
            return Fit(runs=False, stays=False)
        taints = taints_of(node)
        if not repels(taints, self.tolerations):
            return Fit(runs=True, stays=True)
        return Fit(runs=False, stays=all(self._endures(taint) for taint in taints))

    def _endures(self, taint: Taint) -> bool:
        return taint.effect != NO_EXECUTE or is_tolerated(taint, self.tolerations)


def placement_of(daemon_set: JsonObject) -> Placement:
    """Read what a DaemonSet asks of nodes."""
    spec = part(daemon_set, "spec", "template", "spec")
    completed: JsonObject = {"spec": {**spec, "tolerations": list(_tolerations(spec))}}
    return Placement(text(spec.get("nodeName")), node_wish(completed), tolerations_of(completed))


def _tolerations(spec: JsonObject) -> list[JsonObject]:
    """A daemon stays where others have to leave: those that it does not say itself are added."""
    found = rows(spec.get("tolerations"))
    added = (*_ADDED, _HOST_NETWORK) if spec.get("hostNetwork") is True else _ADDED
    for key, effect in added:
        wanted: JsonObject = {"key": key, "operator": "Exists", "effect": effect}
        same = [entry for entry in found if _is_same_toleration(entry, wanted)]
        found = [wanted if entry in same else entry for entry in found]
        if not same:
            found.append(wanted)
    return found


def _is_same_toleration(one: JsonObject, other: JsonObject) -> bool:
    return all(
        text(one.get(key)) == text(other.get(key)) for key in ("key", "operator", "effect", "value")
    )


# --- their Pods -----------------------------------------------------------------------------------


def daemon_template(daemon_set: JsonObject, short: str, node: str) -> JsonObject:
    """Return the template of the Pod for one node: the scheduler binds it there and nowhere else."""
    template = part(daemon_set, "spec", "template")
    metadata = part(template, "metadata")
    labels: dict[str, Json] = dict(part(metadata, "labels"))
    generation = template_generation(daemon_set)
    if generation is not None:
        labels[GENERATION_LABEL] = generation
    labels[REVISION_LABEL] = short
    spec = part(template, "spec")
    return {
        "metadata": {**metadata, "labels": labels},
        "spec": {
            **spec,
            "tolerations": list(_tolerations(spec)),
            "affinity": _pinned(part(spec, "affinity"), node),
        },
    }


def _pinned(affinity: JsonObject, node: str) -> JsonObject:
    name: JsonObject = {"key": NAME_FIELD, "operator": "In", "values": [node]}
    nodes = part(affinity, "nodeAffinity")
    required: JsonObject = {"nodeSelectorTerms": [{"matchFields": [name]}]}
    return {**affinity, "nodeAffinity": {**nodes, _REQUIRED: required}}


def target_node(pod: JsonObject) -> str | None:
    """Return the node that a Pod runs on or is pinned to; None when nobody says."""
    spec = part(pod, "spec")
    if spec.get("nodeName"):
        return text(spec.get("nodeName"))
    terms = part(spec, "affinity", "nodeAffinity", _REQUIRED).get("nodeSelectorTerms")
    for row in (row for term in rows(terms) for row in rows(term.get("matchFields"))):
        if row.get("key") == NAME_FIELD and row.get("operator") == "In":
            values = row.get("values")
            names = values if isinstance(values, list) else []
            return text(names[0]) if len(names) == 1 else None
    return None


def template_generation(daemon_set: JsonObject) -> str | None:
    """Return the number of the template by the old way of counting; None where it is not counted."""
    said = annotations_of(daemon_set).get(GENERATION_ANNOTATION, "")
    return str(int(said)) if _NUMBER.fullmatch(said) else None


def by_node(pods: Iterable[JsonObject], *, with_ended: bool = False) -> dict[str, list[JsonObject]]:
    """Group Pods by the node they are meant for, oldest first.

    Shape:  Pods that ended and are being deleted are somebody else's work: only `with_ended` counts them.
    """
    found: dict[str, list[JsonObject]] = {}
    for pod in pods:
        if not with_ended and is_ended(pod) and is_deleting(pod):
            continue
        node = target_node(pod)
        if node is not None:
            found.setdefault(node, []).append(pod)
    for several in found.values():
        if len(several) > 1:
            several.sort(key=_rank)
    return found


def _rank(pod: JsonObject) -> tuple[bool, float, str]:
    meta = part(pod, "metadata")
    is_waiting = not part(pod, "spec").get("nodeName")
    return is_waiting, parse_rfc3339(meta.get("creationTimestamp")) or 0.0, text(meta.get("name"))


# --- one DaemonSet and its cluster ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DaemonView:
    """What is known when a DaemonSet is looked at.

    Shape:  `nodes` by name with how they fit; `pods` by node, oldest first; `short` is the hash of the
            newest revision.
    Units:  `now` in seconds since the epoch.
    """

    daemon_set: JsonObject
    short: str
    nodes: Mapping[str, Fit]
    pods: Mapping[str, list[JsonObject]]
    now: float
    generation: str | None = field(init=False)
    surges: bool = field(init=False)
    """True when a node may have two Pods while it changes."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "generation", template_generation(self.daemon_set))
        object.__setattr__(self, "surges", self.max_surge(1) > 0)

    def is_updated(self, pod: JsonObject) -> bool:
        """True for a Pod of the newest template."""
        labels = part(pod, "metadata", "labels")
        counted = labels.get(GENERATION_LABEL)
        return labels.get(REVISION_LABEL) == self.short or (
            counted is not None and counted == self.generation
        )

    @property
    def wanted(self) -> int:
        """On how many nodes a Pod is to run."""
        return sum(fit.runs for fit in self.nodes.values())

    @property
    def min_ready_seconds(self) -> int:
        return whole(part(self.daemon_set, "spec").get("minReadySeconds"))

    def max_surge(self, total: int) -> int:
        """Return how many nodes may have a second Pod while they change."""
        return share_of(self._rolling().get("maxSurge"), total, up=True)

    def max_unavailable(self, total: int) -> int:
        """Return how many nodes may be without while they change."""
        return share_of(self._rolling().get("maxUnavailable"), total, up=True)

    def _rolling(self) -> JsonObject:
        return (
            part(self.daemon_set, "spec", "updateStrategy", "rollingUpdate") if self.rolls else {}
        )

    @property
    def rolls(self) -> bool:
        """True when old Pods are replaced without being asked."""
        kind = part(self.daemon_set, "spec", "updateStrategy").get("type")
        return (kind or ROLLING) == ROLLING
