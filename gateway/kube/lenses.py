"""Subresources that show an object as another kind: today `scale`.

What is sent and answered there is a document of that kind; what is stored and judged is the object.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import msgspec

from gateway.kube.questions import asked_kind
from gateway.kube.strategies import table
from gateway.kube.watch import Stored
from gateway.model.json import JsonObject
from gateway.wire.kube import scale
from gateway.wire.kube.names import invalid_value
from gateway.wire.kube.resources import ResourceType
from gateway.wire.kube.status import invalid

SCALE = "scale"


@dataclass(frozen=True, slots=True)
class Lens:
    """One way to look at an object.

    Shape:  `kind` of the documents; `show` an object as one, `base` what a patch is applied to; `take` from
            an object and a document the next object; `config` what an applied document says of the object.
    """

    kind: ResourceType
    show: Callable[[JsonObject], JsonObject]
    base: Callable[[JsonObject], JsonObject]
    take: Callable[[JsonObject, JsonObject], JsonObject]
    config: Callable[[JsonObject], JsonObject]

    def shown(self, stored: Stored) -> Stored:
        """The object as it is answered."""
        item = self.show(stored.object)
        return Stored(stored.key, stored.version, item, msgspec.json.encode(item))


def lens_of(resource: ResourceType, subresource: str | None) -> Lens | None:
    """How a subresource shows objects of a kind; None where it shows them as they are."""
    if subresource != SCALE or resource.scale is None:
        return None
    return Lens(
        asked_kind("autoscaling", "v1", scale.KIND),
        partial(scale.scale_of, resource),
        partial(scale.scale_to_change, resource),
        partial(_scaled, resource),
        partial(_config, resource),
    )


def shown_through(resource: ResourceType, subresource: str | None, stored: Stored) -> Stored:
    """An object as the subresource shows it."""
    lens = lens_of(resource, subresource)
    return lens.shown(stored) if lens else stored


def _scaled(resource: ResourceType, item: JsonObject, document: JsonObject) -> JsonObject:
    """Errors: Unprocessable for replicas that cannot be."""
    _judge(resource, item, document)
    return scale.scaled(resource, item, document)


def _config(resource: ResourceType, document: JsonObject) -> JsonObject:
    _judge(resource, document, document)
    return scale.applied_scale(resource, document)


def _judge(resource: ResourceType, named: JsonObject, document: JsonObject) -> None:
    faults = scale.scale_faults(document)
    if faults and resource.is_custom:
        path = resource.scale.spec if resource.scale else ""
        value = scale.replicas_of(document)
        cause = invalid_value(path, value, "should be a non-negative integer")
        name = str(table(named, "metadata").get("name") or "")
        raise invalid(resource.kind, resource.group, name, [cause])
    if faults:
        name = str(table(named, "metadata").get("name") or "")
        raise invalid(scale.KIND, "autoscaling", name, faults)
