"""The kinds that say how pods may be disturbed, ranked and run."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.kube.kinds.rows import row
from gateway.wire.kube.resources import ResourceType


def kinds() -> Iterator[ResourceType]:
    """Rows in the order of discovery."""
    yield row(
        "policy/v1",
        "poddisruptionbudgets",
        "PodDisruptionBudget",
        short=("pdb",),
        status=True,
        generation=True,
    )
    yield row(
        "scheduling.k8s.io/v1",
        "priorityclasses",
        "PriorityClass",
        namespaced=False,
        short=("pc",),
        generation=True,
    )
    yield row("node.k8s.io/v1", "runtimeclasses", "RuntimeClass", namespaced=False)
    yield row("coordination.k8s.io/v1", "leases", "Lease")  # fmt: skip
