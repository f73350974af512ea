"""What amounts of resources must obey, of containers, claims and quotas.

Source: Kubernetes "Resource Management for Pods and Containers"; texts seen on version 1.36.
"""

from __future__ import annotations

from collections.abc import Iterator

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.amounts import shortest
from gateway.wire.kube.names import invalid_value, qualified_fault, required
from gateway.wire.kube.parts import part
from gateway.wire.kube.quantity import quantity
from gateway.wire.kube.status import Cause

HUGE = "hugepages-"
_STANDARD = ("cpu", "memory", "ephemeral-storage")


def resource_faults(path: str, resources: JsonObject) -> Iterator[Cause]:
    """What a container asks for and what it is limited to."""
    limits, requests = part(resources, "limits"), part(resources, "requests")
    for name, amount in sorted(limits.items()):
        yield from _amount_faults(f"{path}.limits[{name}]", name, amount)
    for name, amount in sorted(requests.items(), reverse=True):
        yield from _amount_faults(f"{path}.requests[{name}]", name, amount)
        yield from _limit_faults(path, name, amount, limits)


def _amount_faults(path: str, name: str, amount: Json) -> Iterator[Cause]:
    why = qualified_fault(name)
    if why:
        yield invalid_value(path, name, why)
    elif "/" not in name and not is_of_containers(name):
        yield invalid_value(path, name, "must be a standard resource type or fully qualified")
        yield invalid_value(path, name, "must be a standard resource for containers")
    value = quantity(amount)
    if value is not None and value < 0:
        yield invalid_value(path, shortest(str(amount)), "must be greater than or equal to 0")
    elif value is not None and "/" in name and value != value.to_integral_value():
        yield invalid_value(path, shortest(str(amount)), "must be an integer")


def is_of_containers(name: str) -> bool:
    return name in _STANDARD or name.startswith(HUGE)


def _limit_faults(path: str, name: str, amount: Json, limits: JsonObject) -> Iterator[Cause]:
    asked, limit = quantity(amount), quantity(limits.get(name))
    if "/" in name or name.startswith(HUGE):
        if name not in limits:
            yield required(f"{path}.limits", "Limit must be set for non overcommitable resources")
            return
        if asked != limit:
            why = f"must be equal to {name} limit of {shortest(str(limits[name]))}"
            yield invalid_value(f"{path}.requests", shortest(str(amount)), why)
    elif asked is not None and limit is not None and asked > limit:
        why = f"must be less than or equal to {name} limit of {shortest(str(limits[name]))}"
        yield invalid_value(f"{path}.requests", shortest(str(amount)), why)
