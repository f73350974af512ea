"""The subresource `scale`: the number of replicas of an object as a `Scale`, whatever its kind calls it.

Source: Kubernetes API `autoscaling/v1` Scale; "Extend the Kubernetes API with CustomResourceDefinitions",
scale subresource.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from gateway.errors import BadRequest, GatewayError
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.names import invalid_value
from gateway.wire.kube.resources import ResourceType, ScalePaths
from gateway.wire.kube.selectors import read_selector, selector_text
from gateway.wire.kube.status import Cause

API_VERSION, KIND = "autoscaling/v1", "Scale"
_SHOWN = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")


def scale_of(resource: ResourceType, item: JsonObject) -> JsonObject:
    """Show an object as its Scale.

    Errors: GatewayError (500) for a custom resource that does not say how many replicas it wants.
    """
    paths = _paths(resource)
    replicas = _at(item, paths.spec)
    if replicas is None and resource.is_custom:
        raise GatewayError(
            f'Internal error occurred: the spec replicas field "{paths.spec}" does not exist'
        )
    return _scale(resource, item, replicas)


def scale_to_change(resource: ResourceType, item: JsonObject) -> JsonObject:
    """The same for a patch: what is absent is left out, and the patch must say it."""
    return _scale(resource, item, _at(item, _paths(resource).spec))


def _scale(resource: ResourceType, item: JsonObject, replicas: Json) -> JsonObject:
    paths = _paths(resource)
    metadata = cast("JsonObject", item.get("metadata") or {})
    status: JsonObject = {"replicas": _at(item, paths.status) or 0}
    text = _selector(resource, item, paths)
    if text:
        status["selector"] = text
    return {
        "kind": KIND,
        "apiVersion": API_VERSION,
        "metadata": {key: metadata[key] for key in _SHOWN if key in metadata},
        "spec": {} if replicas is None else {"replicas": replicas},
        "status": status,
    }


def _selector(resource: ResourceType, item: JsonObject, paths: ScalePaths) -> str:
    held = _at(item, paths.selector) if paths.selector else None
    if isinstance(held, str):
        return held
    if not isinstance(held, dict) or resource.is_custom:
        return ""
    is_plain = not held.keys() & {"matchLabels", "matchExpressions"}
    return selector_text(read_selector({"matchLabels": held} if is_plain else held))


def scaled(resource: ResourceType, item: JsonObject, scale: JsonObject) -> JsonObject:
    """The object with the replicas that a Scale asks for, and its identity to be compared.

    Errors: BadRequest for a custom resource whose Scale does not say how many.
    """
    paths = _paths(resource)
    replicas = replicas_of(scale)
    if replicas is None and resource.is_custom:
        raise BadRequest(f'the spec replicas field "{paths.spec}" cannot be empty')
    changed = _with(item, _steps(paths.spec), replicas or 0)
    metadata = dict(cast("JsonObject", item.get("metadata") or {}))
    sent = scale.get("metadata")
    for key in ("uid", "resourceVersion"):
        if isinstance(sent, dict) and sent.get(key):
            metadata[key] = sent[key]
    return {**changed, "metadata": metadata}


def applied_scale(resource: ResourceType, scale: JsonObject) -> JsonObject:
    """What an applied Scale says about the object itself."""
    spec, metadata = scale.get("spec"), scale.get("metadata")
    named = metadata if isinstance(metadata, dict) else {}
    config: JsonObject = {
        "apiVersion": resource.group_version,
        "kind": resource.kind,
        "metadata": {key: named[key] for key in ("name", "namespace", "uid") if key in named},
    }
    if isinstance(spec, dict) and "replicas" in spec:
        config = _with(config, _steps(_paths(resource).spec), spec["replicas"])
    return config


def replicas_of(scale: JsonObject) -> Json:
    """How many a Scale asks for; None when it does not say."""
    spec = scale.get("spec")
    return spec.get("replicas") if isinstance(spec, dict) else None


def scale_faults(scale: JsonObject) -> list[Cause]:
    """What is wrong with a Scale."""
    replicas = replicas_of(scale)
    if isinstance(replicas, int) and replicas < 0:
        return [invalid_value("spec.replicas", replicas, "must be greater than or equal to 0")]
    return []


# --- paths ----------------------------------------------------------------------------------------


def _paths(resource: ResourceType) -> ScalePaths:
    return resource.scale or ScalePaths()


def _steps(path: str) -> list[str]:
    return path.removeprefix(".").split(".")


def _at(item: JsonObject, path: str) -> Json:
    value: Json = item
    for step in _steps(path):
        value = value.get(step) if isinstance(value, dict) else None
    return value


def _with(item: JsonObject, steps: Sequence[str], value: Json) -> JsonObject:
    """A copy of the tables on the way, with the value at its end."""
    if not steps:
        return item
    first, rest = steps[0], steps[1:]
    if not rest:
        return {**item, first: value}
    held = item.get(first)
    return {**item, first: _with(held if isinstance(held, dict) else {}, rest, value)}
