"""The kinds of `storage.k8s.io`."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.kube.kinds.rows import row
from gateway.wire.kube.resources import ResourceType

GROUP_VERSION = "storage.k8s.io/v1"


def kinds() -> Iterator[ResourceType]:
    """Rows in the order of discovery."""
    yield row(GROUP_VERSION, "csidrivers", "CSIDriver", namespaced=False)
    yield row(GROUP_VERSION, "csinodes", "CSINode", namespaced=False)
    yield row(GROUP_VERSION, "csistoragecapacities", "CSIStorageCapacity")
    yield row(GROUP_VERSION, "storageclasses", "StorageClass", namespaced=False, short=("sc",))
    yield row(GROUP_VERSION, "volumeattachments", "VolumeAttachment", namespaced=False, status=True)
    yield row(GROUP_VERSION, "volumeattributesclasses", "VolumeAttributesClass", namespaced=False,
              short=("vac",))  # fmt: skip
