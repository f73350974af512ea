"""What a Pod may say about where it runs: affinities, spreading, tolerations.

Source: Kubernetes "Assigning Pods to Nodes", "Taints and Tolerations", "Pod Topology Spread Constraints";
texts seen on version 1.36.
"""

from __future__ import annotations

from collections.abc import Iterator

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.judging import known, named, selector_faults, unsupported
from gateway.wire.kube.names import (
    QUALIFIED_RULE,
    invalid_value,
    label_value_fault,
    qualified_fault,
    required,
)
from gateway.wire.kube.parts import part, rows, text
from gateway.wire.kube.status import Cause

EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def key_faults(path: str, key: Json) -> Iterator[Cause]:
    """A key of a label; an empty one breaks two rules."""
    why = qualified_fault(text(key))
    if why:
        yield invalid_value(path, key or "", why)
        if why == "name part must be non-empty":
            yield invalid_value(path, key or "", QUALIFIED_RULE)


# --- affinities -----------------------------------------------------------------------------------


def affinity_faults(path: str, affinity: JsonObject) -> Iterator[Cause]:
    """To which nodes and which Pods a Pod wants to be near."""
    node = part(affinity, "nodeAffinity")
    if isinstance(node.get(_REQUIRED), dict):
        yield from node_selector_faults(f"{path}.nodeAffinity.{_REQUIRED}", part(node, _REQUIRED))
    for at, row in enumerate(rows(node.get(_PREFERRED))):
        where = f"{path}.nodeAffinity.{_PREFERRED}[{at}]"
        yield from _weight_faults(where, row)
        yield from _term_faults(f"{where}.preference", part(row, "preference"))
    for kind in ("podAffinity", "podAntiAffinity"):
        for at, term in enumerate(rows(part(affinity, kind).get(_REQUIRED))):
            yield from _pod_term_faults(f"{path}.{kind}.{_REQUIRED}[{at}]", term)
        for at, row in enumerate(rows(part(affinity, kind).get(_PREFERRED))):
            where = f"{path}.{kind}.{_PREFERRED}[{at}]"
            yield from _weight_faults(where, row)
            yield from _pod_term_faults(f"{where}.podAffinityTerm", part(row, "podAffinityTerm"))


def _weight_faults(path: str, row: JsonObject) -> Iterator[Cause]:
    weight = row.get("weight") or 0
    if not isinstance(weight, int) or not 1 <= weight <= 100:
        yield invalid_value(f"{path}.weight", weight, "must be in the range 1-100")


def node_selector_faults(path: str, selector: JsonObject) -> Iterator[Cause]:
    """Terms of which a node has to fit one."""
    terms = rows(selector.get("nodeSelectorTerms"))
    if not terms:
        yield required(f"{path}.nodeSelectorTerms", "must have at least one node selector term")
    for at, term in enumerate(terms):
        yield from _term_faults(f"{path}.nodeSelectorTerms[{at}]", term)


def _term_faults(path: str, term: JsonObject) -> Iterator[Cause]:
    for at, row in enumerate(rows(term.get("matchExpressions"))):
        yield from _expression_faults(f"{path}.matchExpressions[{at}]", row)
    for at, row in enumerate(rows(term.get("matchFields"))):
        where = f"{path}.matchFields[{at}]"
        if row.get("operator") not in ("In", "NotIn"):
            why = "not a valid selector operator"
            yield invalid_value(f"{where}.operator", row.get("operator") or "", why)
        if row.get("key") != "metadata.name":
            why = "not a valid field selector key"
            yield invalid_value(f"{where}.key", row.get("key") or "", why)


def _expression_faults(path: str, row: JsonObject) -> Iterator[Cause]:
    operator, found = row.get("operator"), row.get("values")
    values = found if isinstance(found, list) else []
    if operator in ("In", "NotIn"):
        if not values:
            why = "must be specified when `operator` is 'In' or 'NotIn'"
            yield required(f"{path}.values", why)
    elif operator in ("Exists", "DoesNotExist"):
        if values:
            why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
            yield Cause("FieldValueForbidden", f"Forbidden: {why}", f"{path}.values")
    elif operator in ("Gt", "Lt"):
        if len(values) != 1:
            why = "must be specified single value when `operator` is 'Lt' or 'Gt'"
            yield required(f"{path}.values", why)
    else:
        yield invalid_value(f"{path}.operator", operator or "", "not a valid selector operator")
    yield from key_faults(f"{path}.key", row.get("key"))


def _pod_term_faults(path: str, term: JsonObject) -> Iterator[Cause]:
    yield from selector_faults(f"{path}.labelSelector", term.get("labelSelector"))
    yield from selector_faults(f"{path}.namespaceSelector", term.get("namespaceSelector"))
    key = term.get("topologyKey")
    if not key:
        yield required(f"{path}.topologyKey", "can not be empty")
    yield from key_faults(f"{path}.topologyKey", key)


# --- spreading ------------------------------------------------------------------------------------

_WHEN = ("DoNotSchedule", "ScheduleAnyway")


def spread_faults(path: str, spec: JsonObject) -> Iterator[Cause]:
    """How evenly Pods are to be spread."""
    seen: set[tuple[Json, Json]] = set()
    for at, row in enumerate(rows(spec.get("topologySpreadConstraints"))):
        where = f"{path}[{at}]"
        skew, key, when = row.get("maxSkew"), row.get("topologyKey"), row.get("whenUnsatisfiable")
        if not isinstance(skew, int) or skew <= 0:
            yield invalid_value(f"{where}.maxSkew", skew or 0, "must be greater than zero")
        if not key:
            yield required(f"{where}.topologyKey", "can not be empty")
        else:
            yield from key_faults(f"{where}.topologyKey", key)
        if when not in _WHEN:
            yield unsupported(f"{where}.whenUnsatisfiable", when or "", _WHEN)
        elif (text(key), when) in seen:
            shown = f'"{{{key}, {when}}}"'
            yield Cause(
                "FieldValueDuplicate",
                f"Duplicate value: {shown}",
                f"{where}.{{topologyKey, whenUnsatisfiable}}",
            )
        seen.add((text(key), when))
        for name in ("nodeAffinityPolicy", "nodeTaintsPolicy"):
            yield from known(f"{where}.{name}", row.get(name), ("Honor", "Ignore"))
        yield from selector_faults(f"{where}.labelSelector", row.get("labelSelector"))


# --- tolerations ----------------------------------------------------------------------------------


def toleration_faults(path: str, found: list[JsonObject]) -> Iterator[Cause]:
    """Which taints a Pod bears."""
    for at, row in enumerate(found):
        yield from _toleration_faults(f"{path}[{at}]", row)


def _toleration_faults(path: str, row: JsonObject) -> Iterator[Cause]:
    key, operator, effect = row.get("key"), row.get("operator") or "", row.get("effect")
    if key:
        yield from key_faults(f"{path}.key", key)
    elif operator != "Exists":
        why = (
            "operator must be Exists when `key` is empty, which means"
            ' "match all values and all keys"'
        )
        yield invalid_value(f"{path}.operator", operator, why)
    if row.get("tolerationSeconds") is not None and effect != "NoExecute":
        why = "effect must be 'NoExecute' when `tolerationSeconds` is set"
        yield invalid_value(f"{path}.effect", effect or "", why)
    if operator in ("", "Equal"):
        yield from named(f"{path}.operator", row.get("value") or "", label_value_fault)
    elif operator == "Exists":
        if row.get("value"):
            why = "value must be empty when `operator` is 'Exists'"
            yield invalid_value(f"{path}.operator", row["value"], why)
    else:
        yield unsupported(f"{path}.operator", operator, ("Equal", "Exists"))
    yield from known(f"{path}.effect", effect, EFFECTS)
