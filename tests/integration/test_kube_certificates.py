"""Certificate requests on the embedded API: approved, signed, refused, used."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.runtime.certificates import Pair
from tests.kube_callers import Caller, bearer, calling, eventually
from tests.kube_server import KubeServer, kube_server

REQUESTS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
CLIENT = "kubernetes.io/kube-apiserver-client"
LOOPS = ("csrapproving", "csrsigning", "csrcleaner")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[KubeServer]:
    async with kube_server(tmp_path, controllers=LOOPS) as running:
        yield running


@pytest.fixture
async def http(server: KubeServer) -> AsyncIterator[aiohttp.ClientSession]:
    async with calling(server) as found:
        yield found


@pytest.fixture
def admin(http: aiohttp.ClientSession, server: KubeServer) -> Caller:
    return Caller(http, bearer(server.token))


def a_request(name: str, subject: str, signer: str, *usages: str, **spec: Any) -> tuple[Any, bytes]:
    """Return the object and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name.from_rfc4514_string(subject)
    )
    pem = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    text = base64.b64encode(pem).decode()
    body = {
        "metadata": {"name": name},
        "spec": {"request": text, "signerName": signer, "usages": list(usages), **spec},
    }
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return body, secret


async def judge(caller: Caller, name: str, verdict: str, expected: int = 200) -> Any:
    item = await caller.ask("GET", f"{REQUESTS}/{name}", 200)
    condition = {"type": verdict, "status": "True", "reason": "ByHand", "message": "m"}
    item["status"] = {"conditions": [condition]}
    return await caller.ask("PUT", f"{REQUESTS}/{name}/approval", expected, item)


async def signed(admin: Caller, name: str) -> bytes:
    found: dict[str, Any] = {}

    async def is_there() -> bool:
        found.update((await admin.ask("GET", f"{REQUESTS}/{name}", 200))["status"])
        return "certificate" in found

    await eventually(is_there)
    return base64.b64decode(found["certificate"])


async def test_a_user_with_an_issued_certificate_may_what_his_role_says(
    admin: Caller, server: KubeServer, tmp_path: Path
) -> None:
    body, key = a_request(
        "ann", "CN=ann,O=dev", CLIENT, "client auth", expirationSeconds=3_600, username="root"
    )
    made = await admin.ask("POST", REQUESTS, 201, body)
    assert made["spec"]["username"] == "kubernetes-admin"
    assert "system:masters" in made["spec"]["groups"]
    changed = await admin.patch(f"{REQUESTS}/ann", 200, {"spec": {"username": "root"}})
    assert changed["spec"] == made["spec"]
    await judge(admin, "ann", "Approved")
    certificate = await signed(admin, "ann")
    pair = Pair(certificate, key)
    async with calling(server, client=pair, folder=tmp_path) as http:
        ann = Caller(http, {})
        maps = "/api/v1/namespaces/default/configmaps"
        await ann.ask("GET", maps, 403)
        role = {
            "metadata": {"name": "r"},
            "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}],
        }
        await admin.ask("POST", f"{RBAC}/namespaces/default/roles", 201, role)
        binding = {
            "metadata": {"name": "b"},
            "roleRef": {"kind": "Role", "name": "r"},
            "subjects": [{"kind": "User", "name": "ann"}],
        }
        await admin.ask("POST", f"{RBAC}/namespaces/default/rolebindings", 201, binding)
        await ann.ask("GET", maps, 200)
        await ann.ask("POST", maps, 403, {"metadata": {"name": "x"}})


async def test_what_a_signer_does_not_take_fails_with_its_reason(admin: Caller) -> None:
    body, _ = a_request("bad", "CN=ann", "kubernetes.io/kubelet-serving", "server auth")
    await admin.ask("POST", REQUESTS, 201, body)
    await judge(admin, "bad", "Approved")

    async def failed() -> Any:
        item = await admin.ask("GET", f"{REQUESTS}/bad", 200)
        return [each for each in item["status"]["conditions"] if each["type"] == "Failed"]

    await eventually(failed)
    (condition,) = await failed()
    assert condition["reason"] == "SignerValidationFailure"
    assert condition["message"] == "subject organization is not system:nodes"


async def test_a_denied_request_is_not_signed(admin: Caller) -> None:
    for name in ("no", "yes"):
        body, _ = a_request(name, "CN=ann", CLIENT, "client auth")
        await admin.ask("POST", REQUESTS, 201, body)
    await judge(admin, "no", "Denied")
    await judge(admin, "yes", "Approved")
    await signed(admin, "yes")
    assert "certificate" not in (await admin.ask("GET", f"{REQUESTS}/no", 200))["status"]


async def test_nobody_asks_to_be_an_administrator(admin: Caller) -> None:
    body, _ = a_request("m", "CN=ann,O=system:masters", CLIENT, "client auth")
    said = await admin.ask("POST", REQUESTS, 403, body)
    assert said["message"].endswith(
        f"use of {CLIENT} signer with system:masters group is not allowed"
    )


async def test_a_node_that_may_is_approved_by_itself(
    admin: Caller, http: aiohttp.ClientSession, server: KubeServer
) -> None:
    group = "system:certificates.k8s.io:certificatesigningrequests"
    for name, role in (("a", "system:node-bootstrapper"), ("b", f"{group}:nodeclient")):
        binding = {
            "metadata": {"name": name},
            "roleRef": {"kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "Group", "name": "newcomers"}],
        }
        await admin.ask("POST", f"{RBAC}/clusterrolebindings", 201, binding)
    headers = {"Impersonate-User": "new", "Impersonate-Group": "newcomers"}
    new = Caller(http, bearer(server.token) | headers)
    body, _ = a_request(
        "n1",
        "O=system:nodes,CN=system:node:n1",
        "kubernetes.io/kube-apiserver-client-kubelet",
        "digital signature",
        "client auth",
    )
    await new.ask("POST", REQUESTS, 201, body)
    made = x509.load_pem_x509_certificate(await signed(admin, "n1"))
    assert made.subject.rfc4514_string() == "O=system:nodes,CN=system:node:n1"


async def test_approving_needs_the_right_on_the_signer(
    admin: Caller, http: aiohttp.ClientSession, server: KubeServer
) -> None:
    body, _ = a_request("ann", "CN=ann", CLIENT, "client auth")
    await admin.ask("POST", REQUESTS, 201, body)
    rules: list[Any] = [
        {
            "apiGroups": ["certificates.k8s.io"],
            "resources": [f"certificatesigningrequests{part}" for part in ("", "/approval")],
            "verbs": ["get", "update"],
        }
    ]
    await admin.ask(
        "POST", f"{RBAC}/clusterroles", 201, {"metadata": {"name": "c"}, "rules": rules}
    )
    binding = {
        "metadata": {"name": "c"},
        "roleRef": {"kind": "ClusterRole", "name": "c"},
        "subjects": [{"kind": "User", "name": "bob"}],
    }
    await admin.ask("POST", f"{RBAC}/clusterrolebindings", 201, binding)
    bob = Caller(http, bearer(server.token) | {"Impersonate-User": "bob"})
    said = await judge(bob, "ann", "Approved", 403)
    assert said["message"].endswith(
        f'user not permitted to approve requests with signerName "{CLIENT}"'
    )
    rules.append(
        {
            "apiGroups": ["certificates.k8s.io"],
            "resources": ["signers"],
            "resourceNames": ["kubernetes.io/*"],
            "verbs": ["approve"],
        }
    )
    await admin.patch(f"{RBAC}/clusterroles/c", 200, {"rules": rules})
    await judge(bob, "ann", "Approved")
    await signed(admin, "ann")
