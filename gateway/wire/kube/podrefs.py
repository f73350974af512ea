"""What a Pod names: the objects that the node it runs on has to read. Pure.

Source: Kubernetes core/v1 Pod; "Using Node Authorization".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gateway.model.json import JsonObject

MIRROR = "kubernetes.io/config.mirror"
"""Annotation of a Pod that only shows one that a node runs by itself: it gives the node no rights."""

Reference = tuple[str, str]
"""(plural, name), in the Pod's namespace."""
_CONTAINERS = ("initContainers", "containers", "ephemeralContainers")
_SECRET_FIELDS = ("secretRef", "nodePublishSecretRef")


def pod_references(pod: JsonObject) -> frozenset[Reference]:
    """Return the Secrets, ConfigMaps, claims and the account that a Pod names."""
    metadata, spec = _table(pod.get("metadata")), _table(pod.get("spec"))
    if MIRROR in _table(metadata.get("annotations")):
        return frozenset()
    found = [
        ("serviceaccounts", spec.get("serviceAccountName")),
        *(("secrets", entry.get("name")) for entry in _tables(spec.get("imagePullSecrets"))),
        *(
            each
            for part in _CONTAINERS
            for container in _tables(spec.get(part))
            for each in _of_container(container)
        ),
        *(
            each
            for volume in _tables(spec.get("volumes"))
            for each in _of_volume(volume, str(metadata.get("name")))
        ),
    ]
    return frozenset((plural, name) for plural, name in found if isinstance(name, str) and name)


def node_of(pod: JsonObject) -> str:
    """Return the node that a Pod is bound to, "" for none."""
    return str(_table(pod.get("spec")).get("nodeName") or "")


def _of_container(container: dict[str, Any]) -> Iterator[tuple[str, object]]:
    for source in _tables(container.get("envFrom")):
        yield "configmaps", _table(source.get("configMapRef")).get("name")
        yield "secrets", _table(source.get("secretRef")).get("name")
    for variable in _tables(container.get("env")):
        source = _table(variable.get("valueFrom"))
        yield "configmaps", _table(source.get("configMapKeyRef")).get("name")
        yield "secrets", _table(source.get("secretKeyRef")).get("name")


def _of_volume(volume: dict[str, Any], pod: str) -> Iterator[tuple[str, object]]:
    for source in (volume, *_tables(_table(volume.get("projected")).get("sources"))):
        yield "configmaps", _table(source.get("configMap")).get("name")
    for source in _tables(_table(volume.get("projected")).get("sources")):
        yield "secrets", _table(source.get("secret")).get("name")
    yield "secrets", _table(volume.get("secret")).get("secretName")
    yield "secrets", _table(volume.get("azureFile")).get("secretName")
    yield "persistentvolumeclaims", _table(volume.get("persistentVolumeClaim")).get("claimName")
    if "ephemeral" in volume:
        yield "persistentvolumeclaims", f"{pod}-{volume.get('name')}"
    for source in volume.values():
        for field in _SECRET_FIELDS:
            yield "secrets", _table(_table(source).get(field)).get("name")


def _table(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _tables(value: object) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
