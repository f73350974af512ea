"""The built-in kinds: one row each, their types from the catalogue, definitions installed at start."""

from __future__ import annotations

from functools import cache
from importlib import resources

import msgspec
import yaml

from gateway.model.json import JsonObject
from gateway.wire.kube.protobuf import MessageTable
from gateway.wire.kube.resources import Registry, ResourceType, Subresource
from gateway.wire.kube.schema import Catalogue

KUBERNETES_VERSION = "v1.36.0"
"""The Kubernetes whose types and messages are served."""

CORE = "io.k8s.api.core.v1."
OBJECT_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
DEFINITIONS = "customresourcedefinitions.apiextensions.k8s.io"


def _data(name: str) -> bytes:
    return (resources.files("gateway.kube.data") / name).read_bytes()


@cache
def catalogue() -> Catalogue:
    """The types of the built-in kinds."""
    return Catalogue(msgspec.json.decode(_data("types.json")))


@cache
def protobuf_table() -> MessageTable:
    """Field numbers of the messages that clients send."""
    return msgspec.json.decode(_data("protobuf.json"), type=dict[str, dict[str, list[str | int]]])


@cache
def definitions() -> tuple[JsonObject, ...]:
    """The custom resource definitions that every start installs."""
    folder = resources.files("gateway.kube.data.crds")
    texts = sorted((entry.name, entry.read_text("utf-8")) for entry in folder.iterdir())
    return tuple(yaml.safe_load(text) for name, text in texts if name.endswith(".yaml"))


_INVOLVED = ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")

_EVENT_FIELDS = {
    **{f"involvedObject.{field}": ("involvedObject", field) for field in _INVOLVED},
    "reason": ("reason",),
    "type": ("type",),
    "reportingComponent": ("reportingComponent",),
    "source": ("source", "component"),
}

_POD_FIELDS = {
    path: tuple(path.split("."))
    for path in (
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    )
}


def _core(
    plural: str,
    kind: str,
    *,
    namespaced: bool = True,
    short: tuple[str, ...] = (),
    status: bool = False,
    fields: dict[str, tuple[str, ...]] | None = None,
    subresources: tuple[Subresource, ...] = (),
) -> ResourceType:
    return ResourceType(
        group="",
        version="v1",
        plural=plural,
        singular=kind.lower(),
        kind=kind,
        namespaced=namespaced,
        short_names=short,
        schema=catalogue().get(CORE + kind),
        type_name=CORE + kind,
        fields=fields or {},
        subresources=(Subresource("status", kind),) if status else subresources,
        counts_generation=False,
    )


_TOKEN = Subresource("token", "TokenRequest", ("create",), "authentication.k8s.io", "v1")
_EVICTION = Subresource("eviction", "Eviction", ("create",), "policy", "v1")


def _pods() -> ResourceType:
    """Pods are kept and brought to the node that they name; nothing here chooses one or runs them."""
    return ResourceType(
        group="",
        version="v1",
        plural="pods",
        singular="pod",
        kind="Pod",
        namespaced=True,
        short_names=("po",),
        categories=("all",),
        schema=catalogue().get(CORE + "Pod"),
        type_name=CORE + "Pod",
        fields=_POD_FIELDS,
        subresources=(Subresource("status", "Pod"), _EVICTION),
    )


def _kind(
    group: str,
    plural: str,
    kind: str,
    *,
    namespaced: bool = True,
    short: tuple[str, ...] = (),
    status: bool = False,
) -> ResourceType:
    """A kind of a named group, kept as it is written."""
    name = f"io.k8s.api.{group.partition('.')[0]}.v1.{kind}"
    return ResourceType(
        group=group,
        version="v1",
        plural=plural,
        singular=kind.lower(),
        kind=kind,
        namespaced=namespaced,
        short_names=short,
        schema=catalogue().get(name),
        type_name=name,
        subresources=(Subresource("status", kind),) if status else (),
        counts_generation=False,
    )


def _definitions_kind() -> ResourceType:
    name = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition"
    return ResourceType(
        group="apiextensions.k8s.io",
        version="v1",
        plural="customresourcedefinitions",
        singular="customresourcedefinition",
        kind="CustomResourceDefinition",
        namespaced=False,
        short_names=("crd", "crds"),
        categories=("api-extensions",),
        schema=catalogue().get(name),
        type_name=name,
        subresources=(Subresource("status", "CustomResourceDefinition"),),
    )


def _review(group: str, plural: str, kind: str) -> ResourceType:
    name = f"io.k8s.api.{group.partition('.')[0]}.v1.{kind}"
    return ResourceType(
        group=group,
        version="v1",
        plural=plural,
        singular=kind.lower(),
        kind=kind,
        namespaced=False,
        verbs=("create",),
        schema=catalogue().get(name),
        type_name=name,
        counts_generation=False,
        is_virtual=True,
    )


AUTHENTICATION, AUTHORIZATION = "authentication.k8s.io", "authorization.k8s.io"
RBAC = "rbac.authorization.k8s.io"
_RBAC_KINDS = (
    ("roles", "Role"),
    ("rolebindings", "RoleBinding"),
    ("clusterroles", "ClusterRole"),
    ("clusterrolebindings", "ClusterRoleBinding"),
)


def builtin_registry() -> Registry:
    """All kinds that need no definition."""
    return Registry(
        (
            _core("namespaces", "Namespace", namespaced=False, short=("ns",), status=True,
                  fields={"status.phase": ("status", "phase")}),
            _core("nodes", "Node", namespaced=False, short=("no",), status=True,
                  fields={"spec.unschedulable": ("spec", "unschedulable")}),
            _core("configmaps", "ConfigMap", short=("cm",)),
            _core("secrets", "Secret", fields={"type": ("type",)}),
            _core("serviceaccounts", "ServiceAccount", short=("sa",), subresources=(_TOKEN,)),
            _core("events", "Event", short=("ev",), fields=_EVENT_FIELDS),
            _pods(),
            _core("services", "Service", short=("svc",), status=True),
            _core("endpoints", "Endpoints", short=("ep",)),
            _core("persistentvolumes", "PersistentVolume", namespaced=False, short=("pv",),
                  status=True),
            _core("persistentvolumeclaims", "PersistentVolumeClaim", short=("pvc",), status=True),
            _kind("coordination.k8s.io", "leases", "Lease"),
            _kind("discovery.k8s.io", "endpointslices", "EndpointSlice"),
            _kind("storage.k8s.io", "volumeattachments", "VolumeAttachment", namespaced=False,
                  status=True),
            _kind("certificates.k8s.io", "certificatesigningrequests", "CertificateSigningRequest",
                  namespaced=False, short=("csr",), status=True),
            *(_kind(RBAC, plural, kind, namespaced=not kind.startswith("Cluster"))
              for plural, kind in _RBAC_KINDS),
            _definitions_kind(),
            _review(AUTHENTICATION, "selfsubjectreviews", "SelfSubjectReview"),
            _review(AUTHENTICATION, "tokenreviews", "TokenReview"),
            _review(AUTHORIZATION, "selfsubjectaccessreviews", "SelfSubjectAccessReview"),
            _review(AUTHORIZATION, "selfsubjectrulesreviews", "SelfSubjectRulesReview"),
        )
    )  # fmt: skip
