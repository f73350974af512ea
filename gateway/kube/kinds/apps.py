"""The kinds of `apps`: sets of pods that keep running."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.kube.kinds.rows import ALL, row
from gateway.wire.kube.resources import ResourceType, ScalePaths

GROUP_VERSION = "apps/v1"
_SCALE = ScalePaths()


def kinds() -> Iterator[ResourceType]:
    """Rows in the order of discovery."""
    yield row(GROUP_VERSION, "controllerrevisions", "ControllerRevision")
    yield row(
        GROUP_VERSION,
        "daemonsets",
        "DaemonSet",
        short=("ds",),
        categories=ALL,
        status=True,
        generation=True,
    )
    yield row(
        GROUP_VERSION,
        "deployments",
        "Deployment",
        short=("deploy",),
        categories=ALL,
        status=True,
        scale=_SCALE,
        generation=True,
    )
    yield row(
        GROUP_VERSION,
        "replicasets",
        "ReplicaSet",
        short=("rs",),
        categories=ALL,
        status=True,
        scale=_SCALE,
        generation=True,
    )
    yield row(GROUP_VERSION, "statefulsets", "StatefulSet", short=("sts",), categories=ALL,
              status=True, scale=_SCALE, generation=True)  # fmt: skip
