"""Status reports of nodes about their Pods, without sending them back.

KubeEdge sends a node the whole Pod after each of its own reports. Here a report that changed exactly the
version that the node has counts as delivered; when anybody else changed the Pod too, it is sent.
"""

from __future__ import annotations

from cloud.delivery import Delivery
from gateway.errors import Conflict
from gateway.kube.client import KubeClient, PatchType
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.devices import ObjectMeta, mapping


class PodReports:
    """Writes what nodes report."""

    def __init__(self, kube: KubeClient, delivery: Delivery) -> None:
        self._kube = kube
        self._delivery = delivery

    async def write(self, node: str, pod: JsonObject, patch: JsonObject) -> JsonObject:
        """Apply a node's patch to the status of `pod`, as it was just read; returns the Pod after it.

        Errors: Conflict when the patch names another uid; NotFound.
        """
        meta = ObjectMeta.read(pod)
        uid: JsonObject = {"uid": meta.uid}  # its namesake may be another node's by now
        patch = {**patch, "metadata": {**mapping(patch.get("metadata")), **uid}}
        with self._delivery.resting(node, meta.uid):
            if not self._delivery.has(node, meta.uid, meta.version):
                return await self._patch(meta, patch)
            mine: JsonObject = {"resourceVersion": meta.version}
            exact = {**patch, "metadata": {**mapping(patch.get("metadata")), **mine}}
            try:
                after = await self._patch(meta, exact)
            except Conflict:  # somebody else was first: the node is sent the whole
                return await self._patch(meta, patch)
            self._delivery.echoed(node, meta.uid, ObjectMeta.read(after).version)
            return after

    async def _patch(self, meta: ObjectMeta, patch: JsonObject) -> JsonObject:
        return await self._kube.patch(
            "v1",
            "pods",
            meta.namespace,
            meta.name,
            patch,
            patch_type=PatchType.STRATEGIC,
            subresource="status",
        )
