"""Which objects a Pod needs: the only ones that its node may read (as Kubernetes' Node authorizer rules)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.devices import mapping, text

Reference: TypeAlias = "tuple[str, str]"
"""(type token of the cloud-edge link, name), in the Pod's namespace."""

MIRROR = "kubernetes.io/config.mirror"
"""Annotation of a Pod that its node made for one of its static Pods."""
_CONTAINERS = ("containers", "initContainers", "ephemeralContainers")
_VOLUMES: tuple[tuple[str, str, str], ...] = (
    ("configMap", "name", "configmap"),
    ("secret", "secretName", "secret"),
    ("persistentVolumeClaim", "claimName", "persistentvolumeclaim"),
)
_SOURCES = (("configMapRef", "configmap"), ("secretRef", "secret"))
_KEYS = (("configMapKeyRef", "configmap"), ("secretKeyRef", "secret"))
_PROJECTED = (("configMap", "configmap"), ("secret", "secret"))


def references(pod: JsonObject) -> frozenset[Reference]:
    """Return what a Pod names: ConfigMaps, Secrets, claims, its ServiceAccount."""
    spec = mapping(pod.get("spec"))
    found = {*_of_volumes(spec), *_of_containers(spec)}
    found.update(("secret", text(s.get("name"))) for s in _objects(spec.get("imagePullSecrets")))
    found.add(("serviceaccounttoken", account_of(pod)))
    return frozenset(reference for reference in found if reference[1])


def account_of(pod: JsonObject) -> str:
    """Return the ServiceAccount that a Pod runs as, "" for none: what a node made by itself has no rights."""
    if MIRROR in mapping(mapping(pod.get("metadata")).get("annotations")):
        return ""
    return text(mapping(pod.get("spec")).get("serviceAccountName")) or "default"


def _of_volumes(spec: JsonObject) -> Iterator[Reference]:
    for volume in _objects(spec.get("volumes")):
        for kind, key, token in _VOLUMES:
            yield token, text(mapping(volume.get(kind)).get(key))
        for source in _objects(mapping(volume.get("projected")).get("sources")):
            for kind, token in _PROJECTED:
                yield token, text(mapping(source.get(kind)).get("name"))


def _of_containers(spec: JsonObject) -> Iterator[Reference]:
    for container in (c for key in _CONTAINERS for c in _objects(spec.get(key))):
        for source in _objects(container.get("envFrom")):
            for key, token in _SOURCES:
                yield token, text(mapping(source.get(key)).get("name"))
        for variable in _objects(container.get("env")):
            origin = mapping(variable.get("valueFrom"))
            for key, token in _KEYS:
                yield token, text(mapping(origin.get(key)).get("name"))


def _objects(value: Json) -> list[JsonObject]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
