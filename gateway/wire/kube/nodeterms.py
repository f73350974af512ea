"""Which nodes a Pod or a volume asks for by label and name. Source: Kubernetes, "Assigning Pods to Nodes"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.parts import part, rows, text, whole
from gateway.wire.kube.selectors import Requirement

NAME_FIELD = "metadata.name"
_OPERATORS = {
    "In": "in",
    "NotIn": "notin",
    "Exists": "exists",
    "DoesNotExist": "absent",
    "Gt": "gt",
    "Lt": "lt",
}
_NEVER = Requirement("", "in")


@dataclass(frozen=True, slots=True)
class NodeTerm:
    """All requirements on labels and on fields must hold."""

    labels: tuple[Requirement, ...]
    fields: tuple[Requirement, ...]

    def matches(self, name: str, labels: Mapping[str, Json]) -> bool:
        return all(entry.matches(labels) for entry in self.labels) and all(
            entry.matches({NAME_FIELD: name}) for entry in self.fields
        )


@dataclass(frozen=True, slots=True)
class NodeWish:
    """What a Pod requires of its node: all labels, and one of the terms unless there are none."""

    labels: tuple[tuple[str, str], ...] = ()
    terms: tuple[NodeTerm, ...] | None = None

    def matches(self, name: str, labels: Mapping[str, Json]) -> bool:
        if any(labels.get(key) != value for key, value in self.labels):
            return False
        return self.terms is None or any(term.matches(name, labels) for term in self.terms)


def node_wish(pod: JsonObject) -> NodeWish:
    """Read `nodeSelector` and the required node affinity of a Pod."""
    spec = part(pod, "spec")
    wanted = tuple((key, text(value)) for key, value in part(spec, "nodeSelector").items())
    affinity = part(spec, "affinity", "nodeAffinity")
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    return NodeWish(wanted, node_terms(required))


def node_terms(selector: Json) -> tuple[NodeTerm, ...] | None:
    """Read a NodeSelector; None where there is none. Of its terms one must match; an empty one never does."""
    if not isinstance(selector, dict):
        return None
    found = (_term(row) for row in rows(selector.get("nodeSelectorTerms")))
    return tuple(term for term in found if term.labels or term.fields)


def preferred_terms(pod: JsonObject) -> tuple[tuple[int, NodeTerm], ...]:
    """Read the preferred node affinity of a Pod, with its weights."""
    affinity = part(pod, "spec", "affinity", "nodeAffinity")
    wishes = rows(affinity.get("preferredDuringSchedulingIgnoredDuringExecution"))
    found = ((whole(row.get("weight")), _term(part(row, "preference"))) for row in wishes)
    return tuple((weight, term) for weight, term in found if term.labels or term.fields)


def _term(row: JsonObject) -> NodeTerm:
    return NodeTerm(
        tuple(_requirement(entry) for entry in rows(row.get("matchExpressions"))),
        tuple(_requirement(entry) for entry in rows(row.get("matchFields"))),
    )


def _requirement(row: JsonObject) -> Requirement:
    """Read one requirement; one that cannot be read is never met."""
    operator = _OPERATORS.get(text(row.get("operator")))
    values = row.get("values")
    held = frozenset(text(value) for value in (values if isinstance(values, list) else []))
    if operator is None or (operator in ("gt", "lt") and not _is_bound(held)):
        return _NEVER
    return Requirement(text(row.get("key")), operator, held)


def _is_bound(values: frozenset[str]) -> bool:
    (bound, *more) = values or ("",)
    digits = bound.removeprefix("-")
    return not more and digits.isascii() and digits.isdigit() and len(digits) < 20
