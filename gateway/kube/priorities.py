"""PriorityClasses that every cluster has. Source: Kubernetes, "Pod Priority and Preemption"."""

from __future__ import annotations

from gateway.kube.admission import WriteOptions
from gateway.kube.objects import Objects
from gateway.kube.watch import Key
from gateway.model.json import JsonObject

GROUP_VERSION, PLURAL = "scheduling.k8s.io/v1", "priorityclasses"
CLASSES = (
    ("system-node-critical", 2_000_001_000, "Pods that a node cannot do without."),
    ("system-cluster-critical", 2_000_000_000, "Pods that the cluster cannot do without."),
)


async def install_priorities(objects: Objects, options: WriteOptions) -> None:
    """Create the classes that are not there."""
    resource = objects.resource(GROUP_VERSION, PLURAL)
    for name, value, description in CLASSES:
        if objects.storage.get(Key(resource.storage_key, "", name)) is not None:
            continue
        body: JsonObject = {
            "metadata": {"name": name},
            "value": value,
            "description": description,
            "preemptionPolicy": "PreemptLowerPriority",
        }
        await objects.create(resource, None, body, options)
