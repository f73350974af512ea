"""Cut the public Kubernetes type catalogue down to the kinds that the embedded API serves.

    python tools/kube_types.py DEFINITIONS.json PROTOBUF.json

DEFINITIONS is a JSON Schema catalogue with the `x-kubernetes-*` extensions, as the PyPI package
`kubernetes-validate` carries one per Kubernetes version; PROTOBUF maps `<group/version>.<Kind>` to
`{"<field number>": ["<json name>", "<type>", 1 if pointer]}` as `gateway.wire.kube.protobuf` reads it.
Writes `gateway/kube/data/types.json` and `gateway/kube/data/protobuf.json`. Prose is left out.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

API = "io.k8s.api."
META = "io.k8s.apimachinery.pkg.apis.meta.v1."
RBAC = ("Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")
ROOTS = (
    *(
        API + "core.v1." + kind
        for kind in (
            "Node",
            "Namespace",
            "ConfigMap",
            "Secret",
            "ServiceAccount",
            "Event",
            "Pod",
            "Service",
            "Endpoints",
            "PersistentVolume",
            "PersistentVolumeClaim",
        )
    ),
    API + "coordination.v1.Lease",
    API + "discovery.v1.EndpointSlice",
    API + "storage.v1.VolumeAttachment",
    API + "certificates.v1.CertificateSigningRequest",
    API + "policy.v1.Eviction",
    *(API + "rbac.v1." + kind for kind in RBAC),
    API + "authentication.v1.TokenRequest",
    API + "authentication.v1.TokenReview",
    API + "authorization.v1.SelfSubjectAccessReview",
    API + "authorization.v1.SelfSubjectRulesReview",
    API + "authentication.v1.SelfSubjectReview",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
    META + "DeleteOptions",
    META + "Status",
    META + "ListMeta",
)
PROTOBUF_ROOTS = (
    *(
        "core/v1." + kind
        for kind in (
            "Node",
            "Namespace",
            "ConfigMap",
            "Secret",
            "ServiceAccount",
            "Event",
            "Pod",
            "Service",
            "Endpoints",
            "PersistentVolume",
            "PersistentVolumeClaim",
        )
    ),
    "coordination.k8s.io/v1.Lease",
    "discovery.k8s.io/v1.EndpointSlice",
    "storage.k8s.io/v1.VolumeAttachment",
    "certificates.k8s.io/v1.CertificateSigningRequest",
    "policy/v1.Eviction",
    *("rbac.authorization.k8s.io/v1." + kind for kind in RBAC),
    "authentication.k8s.io/v1.TokenRequest",
    "authentication.k8s.io/v1.TokenReview",
    "authorization.k8s.io/v1.SelfSubjectAccessReview",
    "authorization.k8s.io/v1.SelfSubjectRulesReview",
    "authentication.k8s.io/v1.SelfSubjectReview",
    "meta/v1.DeleteOptions",
)
KEY_DEFAULTS = {
    (API + "core.v1.ContainerPort", "protocol"): "TCP",
    (API + "core.v1.ServicePort", "protocol"): "TCP",
}
"""Defaults that elements of keyed lists need before they can be told apart; the catalogue leaves them out."""
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
    for (name, key), value in KEY_DEFAULTS.items():
        catalogue[name]["properties"][key]["default"] = value
    names = closure(ROOTS, lambda name: references(catalogue[name]))
    write("types.json", {name: catalogue[name] for name in names})
    messages = json.loads(Path(protobuf_path).read_text("utf-8"))
    served = closure(PROTOBUF_ROOTS, lambda name: message_types(messages[name], messages))
    write("protobuf.json", {name: messages[name] for name in served})


def write(name: str, table: dict[str, Any]) -> None:
    lines = ",\n".join(
        f"{json.dumps(key)}: {json.dumps(value, separators=(',', ':'), sort_keys=True)}"
        for key, value in sorted(table.items())
    )
    (OUT / name).write_text("{\n" + lines + "\n}\n", "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
