"""Kinds that the embedded API keeps for edges without acting on them."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.errors import BadRequest
from gateway.kube.client import KubeClient
from gateway.model.json import JsonObject
from tests.contract.test_kube_client import client, server

__all__ = ["client", "server"]

RBAC = "rbac.authorization.k8s.io/v1"
RULES: JsonObject = {"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]}
ROLE_REF: JsonObject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"}


def a_request() -> str:
    """A certificate signing request as objects carry it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name.from_rfc4514_string("O=system:nodes,CN=system:node:n1")
    request = x509.CertificateSigningRequestBuilder().subject_name(subject)
    pem = request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    return base64.b64encode(pem).decode()


KINDS: list[tuple[str, str, str | None, JsonObject]] = [
    ("v1", "services", "default", {"spec": {"ports": [{"port": 80, "protocol": "TCP"}]}}),
    ("v1", "endpoints", "default", {"subsets": [{"addresses": [{"ip": "10.0.0.1"}]}]}),
    (
        "v1",
        "persistentvolumes",
        None,
        {
            "spec": {
                "capacity": {"storage": "1Gi"},
                "accessModes": ["ReadWriteOnce"],
                "hostPath": {"path": "/data"},
            }
        },
    ),
    (
        "v1",
        "persistentvolumeclaims",
        "default",
        {
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Gi"}},
            }
        },
    ),
    (
        "discovery.k8s.io/v1",
        "endpointslices",
        "default",
        {"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}]},
    ),
    (
        "storage.k8s.io/v1",
        "volumeattachments",
        None,
        {"spec": {"attacher": "a", "nodeName": "n", "source": {"persistentVolumeName": "pv"}}},
    ),
    (RBAC, "roles", "default", RULES),
    (RBAC, "clusterroles", None, RULES),
    (RBAC, "rolebindings", "default", {"roleRef": ROLE_REF}),
    (RBAC, "clusterrolebindings", None, {"roleRef": {**ROLE_REF, "kind": "ClusterRole"}}),
]


def holds(whole: Any, part: Any) -> bool:
    """True when everything of `part` is in `whole`, which may say more."""
    if isinstance(part, dict):
        return all(key in whole and holds(whole[key], value) for key, value in part.items())
    if isinstance(part, list):
        return len(whole) == len(part) and all(map(holds, whole, part))
    return bool(whole == part)


@pytest.mark.parametrize(
    ("group_version", "plural", "namespace", "parts"), KINDS, ids=[row[1] for row in KINDS]
)
async def test_a_kind_is_kept_as_it_is_written(
    client: KubeClient, group_version: str, plural: str, namespace: str | None, parts: JsonObject
) -> None:
    body: JsonObject = {"metadata": {"name": "one"}, **parts}
    made: Any = await client.create(group_version, plural, namespace, body)
    assert holds(made, parts)
    found = await client.list(group_version, plural, namespace)
    assert "one" in [each["metadata"]["name"] for each in found.items]  # type: ignore[index, call-overload]
    wrong: JsonObject = {"metadata": {"name": "two", "labels": ["not", "a", "map"]}}
    with pytest.raises(BadRequest):
        await client.create(group_version, plural, namespace, wrong)
