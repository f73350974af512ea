"""A Pod as the scheduler sees it: read once, compared often."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.clock import parse_rfc3339
from gateway.wire.kube.nodeterms import NodeTerm, NodeWish, node_wish, preferred_terms
from gateway.wire.kube.parts import labels_of, part, rows, text, whole
from gateway.wire.kube.scheduling.needs import ASSUMED, Amounts, requests_of
from gateway.wire.kube.selectors import Requirement, read_selector
from gateway.wire.kube.taints import Toleration, tolerations_of

Key: TypeAlias = "tuple[str, str]"
Labels: TypeAlias = "Mapping[str, str]"
Terms: TypeAlias = "tuple[Requirement, ...]"
Port: TypeAlias = "tuple[str, str, int]"
ANY_ADDRESS = "0.0.0.0"  # noqa: S104  what Kubernetes calls every address of a node


def meets(terms: Terms | None, labels: Mapping[str, Json]) -> bool:
    """True when labels meet all terms; None is met by nothing."""
    return terms is not None and all(term.matches(labels) for term in terms)


@dataclass(frozen=True, slots=True)
class AffinityTerm:
    """Pods that a Pod wants near, or far: by label and namespace, within a domain of nodes.

    Shape:  `scope` are the terms for labels of namespaces beside those named; None for no more of them.
    """

    topology: str
    selector: Terms | None
    namespaces: frozenset[str]
    scope: Terms | None

    def matches(self, pod: PodInfo, namespace: Labels) -> bool:
        """True for a Pod whose namespace has these labels."""
        if pod.namespace not in self.namespaces and not meets(self.scope, namespace):
            return False
        return meets(self.selector, pod.labels)


Weighted: TypeAlias = "tuple[tuple[int, AffinityTerm], ...]"


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Which Pods a Pod requires or prefers near itself."""

    required: tuple[AffinityTerm, ...] = ()
    preferred: Weighted = ()


@dataclass(frozen=True, slots=True)
class SpreadRule:
    """How evenly Pods are to be spread over the domains of a topology."""

    max_skew: int
    topology: str
    selector: Terms | None
    min_domains: int
    honors_affinity: bool
    honors_taints: bool
    is_hard: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PodInfo:
    """Shape: `shown` are the requests with which nodes are compared; `claims` are names of volume claims,
    those in `own_claims` are made for this Pod alone.
    """

    key: Key
    uid: str
    labels: Labels
    node: str
    nominated: str
    priority: int
    may_preempt: bool
    created: float
    started: float
    is_deleting: bool
    requests: Amounts
    shown: Amounts
    ports: tuple[Port, ...]
    wish: NodeWish
    preferred: tuple[tuple[int, NodeTerm], ...]
    tolerations: tuple[Toleration, ...]
    near: Neighbours
    far: Neighbours
    spread: tuple[SpreadRule, ...]
    claims: tuple[str, ...]
    own_claims: frozenset[str]
    images: tuple[str, ...]
    containers: int
    owner: tuple[str, str] | None

    @property
    def namespace(self) -> str:
        return self.key[0]

    @property
    def has_neighbours(self) -> bool:
        """True where this Pod says something about others."""
        return bool(
            self.near.required or self.near.preferred or self.far.required or self.far.preferred
        )


def read_pod(pod: JsonObject) -> PodInfo:
    """Read a Pod."""
    spec, meta, status = part(pod, "spec"), part(pod, "metadata"), part(pod, "status")
    labels = labels_of(pod)
    namespace = text(meta.get("namespace"))
    created = parse_rfc3339(meta.get("creationTimestamp")) or 0.0
    volumes = _claims(pod)
    all_containers = rows(spec.get("initContainers")) + rows(spec.get("containers"))
    return PodInfo(
        key=(namespace, text(meta.get("name"))),
        uid=text(meta.get("uid")),
        labels=labels,
        node=text(spec.get("nodeName")),
        nominated=text(status.get("nominatedNodeName")),
        priority=whole(spec.get("priority")),
        may_preempt=spec.get("preemptionPolicy") != "Never",
        created=created,
        started=parse_rfc3339(status.get("startTime")) or created,
        is_deleting=bool(meta.get("deletionTimestamp")),
        requests=requests_of(pod),
        shown=requests_of(pod, ASSUMED),
        ports=tuple(_ports(spec)),
        wish=node_wish(pod),
        preferred=preferred_terms(pod),
        tolerations=tolerations_of(pod),
        near=_neighbours(part(spec, "affinity", "podAffinity"), namespace, labels),
        far=_neighbours(part(spec, "affinity", "podAntiAffinity"), namespace, labels),
        spread=tuple(
            _spread_rule(row, labels) for row in rows(spec.get("topologySpreadConstraints"))
        ),
        claims=tuple(volumes),
        own_claims=frozenset(name for name, is_own in volumes.items() if is_own),
        images=tuple(_image(text(row.get("image"))) for row in all_containers),
        containers=len(all_containers),
        owner=_owner(meta),
    )


def _ports(spec: JsonObject) -> list[Port]:
    """Return the ports of the node that a Pod takes: those of its containers and sidecars."""
    sidecars = [
        row for row in rows(spec.get("initContainers")) if row.get("restartPolicy") == "Always"
    ]
    return [
        (
            text(port.get("hostIP")) or ANY_ADDRESS,
            text(port.get("protocol")) or "TCP",
            whole(port.get("hostPort")),
        )
        for container in rows(spec.get("containers")) + sidecars
        for port in rows(container.get("ports"))
        if whole(port.get("hostPort")) > 0
    ]


def _claims(pod: JsonObject) -> dict[str, bool]:
    """Return the claims that a Pod's volumes name; True for those that are made for it."""
    found: dict[str, bool] = {}
    name = text(part(pod, "metadata").get("name"))
    for volume in rows(part(pod, "spec").get("volumes")):
        claim = part(volume, "persistentVolumeClaim")
        if claim:
            found[text(claim.get("claimName"))] = False
        elif "ephemeral" in volume:
            found[f"{name}-{text(volume.get('name'))}"] = True
    return found


def _image(name: str) -> str:
    """Return an image's name with its tag."""
    return name if name.rfind(":") > name.rfind("/") else f"{name}:latest"


def _owner(meta: JsonObject) -> tuple[str, str] | None:
    """Return kind and name of what manages an object."""
    for row in rows(meta.get("ownerReferences")):
        if row.get("controller") is True:
            return text(row.get("kind")), text(row.get("name"))
    return None


def selector_terms(selector: Json) -> Terms | None:
    """Read a label selector: None selects nothing, an empty one everything."""
    return read_selector(selector).terms if isinstance(selector, dict) else None


def _with_keys(terms: Terms | None, row: JsonObject, labels: Labels) -> Terms | None:
    """Add what `matchLabelKeys` and `mismatchLabelKeys` ask for."""
    if terms is None:
        return None
    more: list[Requirement] = []
    for field, operator in (("matchLabelKeys", "in"), ("mismatchLabelKeys", "notin")):
        keys = row.get(field)
        named = map(text, keys if isinstance(keys, list) else [])
        more += [
            Requirement(key, operator, frozenset({labels[key]})) for key in named if key in labels
        ]
    return terms + tuple(more)


def _neighbours(affinity: JsonObject, namespace: str, labels: Labels) -> Neighbours:
    required = rows(affinity.get("requiredDuringSchedulingIgnoredDuringExecution"))
    preferred = rows(affinity.get("preferredDuringSchedulingIgnoredDuringExecution"))
    return Neighbours(
        tuple(_affinity_term(row, namespace, labels) for row in required),
        tuple(
            (
                whole(row.get("weight")),
                _affinity_term(part(row, "podAffinityTerm"), namespace, labels),
            )
            for row in preferred
        ),
    )


def _affinity_term(row: JsonObject, namespace: str, labels: Labels) -> AffinityTerm:
    named = row.get("namespaces")
    names = frozenset(map(text, named if isinstance(named, list) else []))
    scope = selector_terms(row.get("namespaceSelector"))
    return AffinityTerm(
        text(row.get("topologyKey")),
        _with_keys(selector_terms(row.get("labelSelector")), row, labels),
        names or (frozenset({namespace}) if scope is None else frozenset()),
        scope,
    )


def _spread_rule(row: JsonObject, labels: Labels) -> SpreadRule:
    return SpreadRule(
        max_skew=whole(row.get("maxSkew"), 1),
        topology=text(row.get("topologyKey")),
        selector=_with_keys(selector_terms(row.get("labelSelector")), row, labels),
        min_domains=whole(row.get("minDomains"), 1),
        honors_affinity=row.get("nodeAffinityPolicy") != "Ignore",
        honors_taints=row.get("nodeTaintsPolicy") == "Honor",
        is_hard=row.get("whenUnsatisfiable") != "ScheduleAnyway",
    )
