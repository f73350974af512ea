"""The kinds of the core group, and events in their second form."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.kube.kinds.rows import ALL, paths, review, row
from gateway.wire.kube.resources import (
    STANDARD_VERBS,
    ResourceType,
    ScalePaths,
    Subresource,
)
from gateway.wire.kube.views import EVENTS

_INVOLVED = ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
EVENT_FIELDS = {
    **{f"involvedObject.{field}": ("involvedObject", field) for field in _INVOLVED},
    **paths("reason", "type", "reportingComponent"),
    "source": ("source", "component"),
}
_VIEWED_EVENT_FIELDS = {
    **{f"regarding.{field}": ("involvedObject", field) for field in _INVOLVED},
    **paths("reason", "type"),
    "reportingController": ("reportingComponent",),
}
_POD_FIELDS = {
    **paths(
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "status.phase",
        "status.podIP",
        "status.podIPs",
        "status.nominatedNodeName",
    ),
    "spec.host": ("spec", "nodeName"),
    "spec.hostNetwork": ("spec", "hostNetwork", "=false"),
}
_TOKEN = Subresource("token", "TokenRequest", ("create",), "authentication.k8s.io", "v1")
_UPGRADED = ("create", "get")
_POD_PARTS = (
    Subresource("attach", "PodAttachOptions", _UPGRADED),
    Subresource("exec", "PodExecOptions", _UPGRADED),
    Subresource("log", "Pod", ("get",)),
    Subresource("portforward", "PodPortForwardOptions", _UPGRADED),
    Subresource("binding", "Binding", ("create",)),
    Subresource("ephemeralcontainers", "Pod"),
    Subresource("eviction", "Eviction", ("create",), "policy", "v1"),
    Subresource("resize", "Pod"),
)
_FINALIZE = Subresource("finalize", "Namespace", ("update",))
_NAMESPACE_VERBS = tuple(verb for verb in STANDARD_VERBS if verb != "deletecollection")
_REPLICATION = ScalePaths()


def kinds() -> Iterator[ResourceType]:
    """Rows in the order of discovery."""
    yield review("v1", "bindings", "Binding", namespaced=True)
    yield row("v1", "configmaps", "ConfigMap", short=("cm",))
    yield row("v1", "endpoints", "Endpoints", short=("ep",))
    yield row("v1", "events", "Event", short=("ev",), fields=EVENT_FIELDS)
    yield row("v1", "limitranges", "LimitRange", short=("limits",))
    yield row(
        "v1",
        "namespaces",
        "Namespace",
        namespaced=False,
        short=("ns",),
        status=True,
        verbs=_NAMESPACE_VERBS,
        more=(_FINALIZE,),
        fields=paths("status.phase"),
    )
    yield row(
        "v1",
        "nodes",
        "Node",
        namespaced=False,
        short=("no",),
        status=True,
        more=(Subresource("proxy", "NodeProxyOptions", ("get",)),),
        fields={"spec.unschedulable": ("spec", "unschedulable", "=false")},
    )
    yield row("v1", "persistentvolumeclaims", "PersistentVolumeClaim", short=("pvc",), status=True)
    yield row(
        "v1", "persistentvolumes", "PersistentVolume", namespaced=False, short=("pv",), status=True
    )
    yield row(
        "v1",
        "pods",
        "Pod",
        short=("po",),
        categories=ALL,
        status=True,
        generation=True,
        more=_POD_PARTS,
        fields=_POD_FIELDS,
    )
    yield row("v1", "podtemplates", "PodTemplate", generation=True)
    yield row(
        "v1",
        "replicationcontrollers",
        "ReplicationController",
        short=("rc",),
        categories=ALL,
        status=True,
        scale=_REPLICATION,
        generation=True,
        fields={"status.replicas": ("status", "replicas", "=0")},
    )
    yield row("v1", "resourcequotas", "ResourceQuota", short=("quota",), status=True)
    yield row("v1", "secrets", "Secret", fields=paths("type"))
    yield row("v1", "serviceaccounts", "ServiceAccount", short=("sa",), more=(_TOKEN,))
    yield row("v1", "services", "Service", short=("svc",), categories=ALL, status=True,
              fields=paths("spec.clusterIP", "spec.type"))  # fmt: skip
    yield row("events.k8s.io/v1", "events", "Event", short=("ev",), fields=_VIEWED_EVENT_FIELDS,
              view=EVENTS)  # fmt: skip
