"""For whom an EdgeApplication makes a copy of each workload, and how the copy gets there. Pure.

Source: KubeEdge reference, section 20.2: names, node selectors and affinities are as KubeEdge makes them, but
what the template itself asks of nodes stays in force.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from cloud.groupmembers import BELONGING
from cloud.overriders import overridden, pod_spec
from gateway.errors import BadRequest
from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.devices import mapping, text, texts

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist")


@dataclass(frozen=True, slots=True)
class Target:
    """A NodeGroup by name, or nodes by a label selector."""

    group: str = ""
    selector: JsonObject = field(default_factory=dict)
    overriders: JsonObject = field(default_factory=dict)

    def name_of(self, template: str) -> str:
        """Return the name of this target's copy."""
        return f"{template}-{self.group or _suffix(self.selector)}"

    def copy_of(self, template: JsonObject) -> JsonObject:
        """Return this target's copy of a workload. Errors: BadRequest."""
        copied = overridden(template, self.overriders)
        metadata = {**mapping(copied.get("metadata"))}
        metadata["name"] = self.name_of(text(metadata.get("name")))
        spec = pod_spec(copied)
        if self.group:
            spec["nodeSelector"] = {**mapping(spec.get("nodeSelector")), BELONGING: self.group}
        else:
            spec["affinity"] = _affinity(mapping(spec.get("affinity")), _terms(self.selector))
        return {**copied, "metadata": metadata}


def targets_of(scope: JsonObject) -> Iterator[Target]:
    """Yield the targets of `spec.workloadScope`."""
    for entry in _entries(scope.get("targetNodeGroups")):
        name = text(entry.get("name"))
        if name:
            yield Target(group=name, overriders=mapping(entry.get("overriders")))
    for entry in _entries(scope.get("targetNodeLabels")):
        selector = mapping(entry.get("labelSelector"))
        yield Target(selector=selector, overriders=mapping(entry.get("overriders")))


def _entries(value: Json) -> list[JsonObject]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _suffix(selector: JsonObject) -> str:
    """Return KubeEdge's suffix for labels; expressions, which it leaves out, count here."""
    words = [word for pair in sorted(texts(selector.get("matchLabels")).items()) for word in pair]
    for entry in _entries(selector.get("matchExpressions")):
        words += [text(entry.get("key")), text(entry.get("operator")), *_values(entry)]
    return "ls-" + hashlib.sha256("".join(words).encode()).hexdigest()[:8]


def _values(entry: JsonObject) -> list[str]:
    values = entry.get("values")
    return [text(value) for value in values] if isinstance(values, list) else []


def _terms(selector: JsonObject) -> list[Json]:
    """Return what a label selector asks for as terms of a node affinity. Errors: BadRequest."""
    found: list[Json] = [
        {"key": key, "operator": "In", "values": [value]}
        for key, value in sorted(texts(selector.get("matchLabels")).items())
    ]
    for entry in _entries(selector.get("matchExpressions")):
        if entry.get("operator") not in OPERATORS:
            raise BadRequest(f"labelSelector: expected an operator of {', '.join(OPERATORS)}")
        found.append({**entry})
    if not found:
        raise BadRequest("labelSelector: it must ask for something")
    return found


def _affinity(affinity: JsonObject, terms: list[Json]) -> JsonObject:
    """Add terms to every alternative of what is required already."""
    node = mapping(affinity.get("nodeAffinity"))
    known = _entries(mapping(node.get(REQUIRED)).get("nodeSelectorTerms")) or [{}]
    alternatives: list[Json] = []
    for each in known:
        old = each.get("matchExpressions")
        alternatives.append(
            {**each, "matchExpressions": [*(old if isinstance(old, list) else []), *terms]}
        )
    return {**affinity, "nodeAffinity": {**node, REQUIRED: {"nodeSelectorTerms": alternatives}}}
