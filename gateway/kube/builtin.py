"""The built-in kinds together, and the definitions that every start installs."""

from __future__ import annotations

from functools import cache
from importlib import resources

import yaml

from gateway.kube.kinds import (
    apps,
    batch,
    core,
    extensions,
    networking,
    policy,
    rbac,
    storage,
)
from gateway.model.json import JsonObject
from gateway.wire.kube.resources import Registry

DEFINITIONS = "customresourcedefinitions.apiextensions.k8s.io"
_GROUPS = (core, apps, batch, policy, networking, rbac, storage, extensions)


@cache
def definitions() -> tuple[JsonObject, ...]:
    """The custom resource definitions that every start installs."""
    folder = resources.files("gateway.kube.data.crds")
    files = sorted(
        (entry for entry in folder.iterdir() if entry.name.endswith(".yaml")),
        key=lambda entry: entry.name,
    )
    return tuple(yaml.safe_load(entry.read_text("utf-8")) for entry in files)


def builtin_registry() -> Registry:
    """All kinds that need no definition."""
    return Registry(kind for group in _GROUPS for kind in group.kinds())
