"""Definitions: the kind that makes kinds."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.kube.kinds.rows import row
from gateway.wire.kube.resources import ResourceType

_TYPES = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1."


def kinds() -> Iterator[ResourceType]:
    """Rows in the order of discovery."""
    yield row("apiextensions.k8s.io/v1", "customresourcedefinitions", "CustomResourceDefinition",
              namespaced=False, short=("crd", "crds"), categories=("api-extensions",), status=True,
              generation=True, type_name=_TYPES + "CustomResourceDefinition")  # fmt: skip
