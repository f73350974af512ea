"""Cut the public Kubernetes type catalogue down to the kinds that the embedded API serves.

    python tools/kube_types.py DEFINITIONS.json PROTOBUF.json

DEFINITIONS is a JSON Schema catalogue with the `x-kubernetes-*` extensions, as the PyPI package
`kubernetes-validate` carries one per Kubernetes version; PROTOBUF maps `<group/version>.<Kind>` to
`{"<field number>": ["<json name>", "<type>", 1 if pointer]}` as `gateway.wire.kube.protobuf` reads it.
Writes one file per package into `gateway/kube/data/types` and `gateway/kube/data/protobuf`, without prose.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

API = "io.k8s.api."
META = "io.k8s.apimachinery.pkg.apis.meta.v1."
EXTENSIONS = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1."
KINDS = {
    "core/v1": (
        "Binding",
        "ComponentStatus",
        "ConfigMap",
        "Endpoints",
        "Event",
        "LimitRange",
        "Namespace",
        "Node",
        "PersistentVolume",
        "PersistentVolumeClaim",
        "Pod",
        "PodTemplate",
        "ReplicationController",
        "ResourceQuota",
        "Secret",
        "Service",
        "ServiceAccount",
    ),
    "apps/v1": ("ControllerRevision", "DaemonSet", "Deployment", "ReplicaSet", "StatefulSet"),
    "authentication.k8s.io/v1": ("SelfSubjectReview", "TokenRequest", "TokenReview"),
    "authorization.k8s.io/v1": (
        "LocalSubjectAccessReview",
        "SelfSubjectAccessReview",
        "SelfSubjectRulesReview",
        "SubjectAccessReview",
    ),
    "autoscaling/v1": ("HorizontalPodAutoscaler", "Scale"),
    "autoscaling/v2": ("HorizontalPodAutoscaler",),
    "batch/v1": ("CronJob", "Job"),
    "certificates.k8s.io/v1": ("CertificateSigningRequest",),
    "coordination.k8s.io/v1": ("Lease",),
    "discovery.k8s.io/v1": ("EndpointSlice",),
    "events.k8s.io/v1": ("Event",),
    "networking.k8s.io/v1": (
        "IPAddress",
        "Ingress",
        "IngressClass",
        "NetworkPolicy",
        "ServiceCIDR",
    ),
    "node.k8s.io/v1": ("RuntimeClass",),
    "policy/v1": ("Eviction", "PodDisruptionBudget"),
    "rbac.authorization.k8s.io/v1": ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"),
    "scheduling.k8s.io/v1": ("PriorityClass",),
    "storage.k8s.io/v1": (
        "CSIDriver",
        "CSINode",
        "CSIStorageCapacity",
        "StorageClass",
        "VolumeAttachment",
        "VolumeAttributesClass",
    ),
}
"""Every kind that is served or taken in a body, by group and version."""


def package(group_version: str) -> str:
    """`storage.k8s.io/v1` -> `io.k8s.api.storage.v1.`, the types' package in the catalogue."""
    group, version = group_version.split("/")
    return f"{API}{group.partition('.')[0]}.{version}."


ROOTS = (
    *(package(version) + kind for version, kinds in KINDS.items() for kind in kinds),
    EXTENSIONS + "CustomResourceDefinition",
    META + "DeleteOptions",
    META + "Status",
    META + "ListMeta",
)
PROTOBUF_ROOTS = (
    *(f"{version}.{kind}" for version, kinds in KINDS.items() for kind in kinds),
    "meta/v1.DeleteOptions",
)
NODE = "node.k8s.io/v1."
MORE_MESSAGES = {
    NODE + "RuntimeClass": {
        "1": ["metadata", "meta/v1.ObjectMeta"],
        "2": ["handler", "s"],
        "3": ["overhead", NODE + "Overhead", 1],
        "4": ["scheduling", NODE + "Scheduling", 1],
    },
    NODE + "Overhead": {"1": ["podFixed", "%Quantity"]},
    NODE + "Scheduling": {
        "1": ["nodeSelector", "%s"],
        "2": ["tolerations", "*core/v1.Toleration"],
    },
}
"""Messages that the reference lacks."""
DEFAULTS: dict[tuple[str, str], Any] = {
    ("AzureDiskVolumeSource", "cachingMode"): "ReadWrite",
    ("AzureDiskVolumeSource", "fsType"): "ext4",
    ("AzureDiskVolumeSource", "kind"): "Shared",
    ("AzureDiskVolumeSource", "readOnly"): False,
    ("ContainerPort", "protocol"): "TCP",
    ("ISCSIPersistentVolumeSource", "iscsiInterface"): "default",
    ("ISCSIVolumeSource", "iscsiInterface"): "default",
    ("RBDPersistentVolumeSource", "keyring"): "/etc/ceph/keyring",
    ("RBDPersistentVolumeSource", "pool"): "rbd",
    ("RBDPersistentVolumeSource", "user"): "admin",
    ("RBDVolumeSource", "keyring"): "/etc/ceph/keyring",
    ("RBDVolumeSource", "pool"): "rbd",
    ("RBDVolumeSource", "user"): "admin",
    ("ReplicationControllerSpec", "replicas"): 1,
    ("ScaleIOPersistentVolumeSource", "fsType"): "xfs",
    ("ScaleIOPersistentVolumeSource", "storageMode"): "ThinProvisioned",
    ("ScaleIOVolumeSource", "fsType"): "xfs",
    ("ScaleIOVolumeSource", "storageMode"): "ThinProvisioned",
    ("ServicePort", "protocol"): "TCP",
}
"""Defaults that a server publishes with its types and the catalogue leaves out."""
OUT = Path(__file__).parent.parent / "gateway" / "kube" / "data"


def reduced(node: Any) -> Any:
    """Drop prose, turn `[T, "null"]` into `T` and shorten references to the bare name."""
    if isinstance(node, list):
        return [reduced(item) for item in node]
    if not isinstance(node, dict):
        return node
    out = {}
    for key, value in node.items():
        if key == "description" and isinstance(value, str):
            continue
        if key == "type" and isinstance(value, list):
            out[key] = next(item for item in value if item != "null")
        elif key == "$ref" and isinstance(value, str):
            out[key] = value.rpartition("/")[2]
        else:
            out[key] = reduced(value)
    return out


def references(node: Any) -> set[str]:
    """Names that a schema points to."""
    if isinstance(node, list):
        return set().union(*(references(item) for item in node))
    if not isinstance(node, dict):
        return set()
    found = set().union(*(references(item) for item in node.values()))
    if isinstance(node.get("$ref"), str):
        found.add(node["$ref"])
    return found


def closure(roots: tuple[str, ...], links: Any) -> list[str]:
    """Everything that can be reached from `roots`."""
    seen: set[str] = set()
    todo = list(roots)
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += links(name)
    return sorted(seen)


def message_types(fields: dict[str, list[Any]], known: dict[str, Any]) -> list[str]:
    names = [str(field[1]).lstrip("*%") for field in fields.values()]
    return [name.removeprefix("L:") for name in names if name.removeprefix("L:") in known]


def main(definitions_path: str, protobuf_path: str) -> None:
    definitions = json.loads(Path(definitions_path).read_text("utf-8"))
    catalogue = reduced(definitions.get("$defs") or definitions["definitions"])
    catalogue["io.k8s.apimachinery.pkg.api.resource.Quantity"]["format"] = "quantity"
    for (kind, key), value in DEFAULTS.items():
        catalogue[f"{API}core.v1.{kind}"]["properties"][key]["default"] = value
    names = closure(ROOTS, lambda name: references(catalogue[name]))
    write("types", {name: without_fixed_kind(catalogue[name]) for name in names})
    messages = json.loads(Path(protobuf_path).read_text("utf-8")) | MORE_MESSAGES
    inline = set(messages.pop("_inline"))
    served = closure(PROTOBUF_ROOTS, lambda name: message_types(messages[name], messages))
    write("protobuf", {name: unfolded(messages[name], messages, inline) for name in served})


def without_fixed_kind(definition: Any) -> Any:
    """A server publishes `apiVersion` and `kind` as plain text."""
    for key in ("apiVersion", "kind"):
        field = definition.get("properties", {}).get(key)
        if isinstance(field, dict):
            field.pop("enum", None)
    return definition


def unfolded(
    fields: dict[str, list[Any]], known: dict[str, Any], inline: set[str]
) -> dict[str, list[Any]]:
    """Fields whose message is part of its parent in JSON get the empty name."""
    return {
        number: ["", *row[1:]] if row[0] in inline and row[1] in known else row
        for number, row in fields.items()
    }


def write(folder: str, table: dict[str, Any]) -> None:
    """One file for each package: what is not asked for is not read."""
    packages: dict[str, dict[str, Any]] = {}
    for name, value in sorted(table.items()):
        packages.setdefault(name.rpartition(".")[0], {})[name] = value
    for package_name, entries in packages.items():
        lines = ",\n".join(
            f"{json.dumps(key)}: {json.dumps(value, separators=(',', ':'), sort_keys=True)}"
            for key, value in entries.items()
        )
        path = OUT / folder / f"{package_name.replace('/', '_')}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text("{\n" + lines + "\n}\n", "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
