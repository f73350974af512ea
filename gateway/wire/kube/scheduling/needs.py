"""What a Pod takes from its node. Source: Kubernetes, "Resource Management for Pods and Containers".

Units:  `cpu` in thousandths, all others in whole units (bytes, pieces).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.parts import part, rows
from gateway.wire.kube.quantity import thousandths, units

Amounts: TypeAlias = "dict[str, int]"
CPU, MEMORY, PODS = "cpu", "memory", "pods"
ASSUMED = {CPU: 100, MEMORY: 200 * 1024 * 1024}
"""What a container that asks for nothing counts for when nodes are compared."""
_OF_PODS = (CPU, MEMORY)
_HUGE = "hugepages-"


def amounts(table: Mapping[str, Json]) -> Amounts:
    """Read a table of amounts."""
    return {key: amount(key, value) for key, value in table.items()}


def amount(resource: str, value: Json) -> int:
    """Read one amount of a resource."""
    return thousandths(value) if resource == CPU else units(value)


def requests_of(pod: JsonObject, assumed: Mapping[str, int] | None = None) -> Amounts:
    """Return what a Pod takes: its containers with the sidecars, or its greediest moment at the start.

    Shape:  `assumed` counts for a container that does not ask for such a resource.
    """
    spec = part(pod, "spec")

    def asked(container: JsonObject) -> Amounts:
        return {**(assumed or {}), **amounts(part(container, "resources", "requests"))}

    total: Amounts = {}
    for container in rows(spec.get("containers")):
        _add(total, asked(container))
    peak = _starting(rows(spec.get("initContainers")), asked, total)
    for key, value in peak.items():
        total[key] = max(total.get(key, 0), value)
    for key, said in part(spec, "resources", "requests").items():
        if key in _OF_PODS or key.startswith(_HUGE):
            total[key] = amount(key, said)
    _add(total, amounts(part(spec, "overhead")))
    return total


def _starting(
    containers: list[JsonObject], asked: Callable[[JsonObject], Amounts], total: Amounts
) -> Amounts:
    """Return the greediest moment while init containers run; sidecars among them stay: added to `total`."""
    beside: Amounts = {}
    peak: Amounts = {}
    for container in containers:
        moment = dict(beside)
        _add(moment, asked(container))
        if container.get("restartPolicy") == "Always":
            _add(total, asked(container))
            beside = moment
        for key, value in moment.items():
            peak[key] = max(peak.get(key, 0), value)
    return peak


def _add(total: Amounts, more: Mapping[str, int]) -> None:
    for key, value in more.items():
        total[key] = total.get(key, 0) + value
