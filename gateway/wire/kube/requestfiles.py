"""Certificate signing requests as `certificates.k8s.io` carries them: read, and judged by signer. Pure.

Source: Kubernetes "Certificates and Certificate Signing Requests".
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from gateway.model.json import Json

CLIENT = "kubernetes.io/kube-apiserver-client"
KUBELET_CLIENT = "kubernetes.io/kube-apiserver-client-kubelet"
KUBELET_SERVING = "kubernetes.io/kubelet-serving"
LEGACY = "kubernetes.io/legacy-unknown"
SIGNERS = (CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY)
NODES, NODE_PREFIX, MASTERS = "system:nodes", "system:node:", "system:masters"

_BASE = frozenset({"digital signature", "key encipherment"})
_SIGNATURE = frozenset({"digital signature"})
MAX_REQUEST = 65_536
_ANY_KEY = (rsa.RSAPublicKey, ec.EllipticCurvePublicKey, ed25519.Ed25519PublicKey)


@dataclass(frozen=True, slots=True)
class Request:
    """What a signing request asks for. Shape: `names` are DNS names, `addresses` IPs as text."""

    common_name: str
    organizations: tuple[str, ...]
    names: tuple[str, ...]
    addresses: tuple[str, ...]
    others: int
    """E-mail addresses and URIs that it names, too."""
    raw: x509.CertificateSigningRequest


def read_request(text: Json) -> Request:
    """Read `spec.request` (base64 of PEM). Errors: ValueError, with a text for the user."""
    if not isinstance(text, str) or len(text) > MAX_REQUEST:
        raise ValueError("PEM block type must be CERTIFICATE REQUEST")
    try:
        pem = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("illegal base64 data") from error
    if b"-----BEGIN CERTIFICATE REQUEST-----" not in pem and b"-----BEGIN NEW CERT" not in pem:
        raise ValueError("PEM block type must be CERTIFICATE REQUEST")
    try:
        request = x509.load_pem_x509_csr(pem)
        key, is_signed = request.public_key(), request.is_signature_valid
    except Exception as error:  # the library raises many kinds
        raise ValueError("the certificate request cannot be read") from error
    if not is_signed:
        raise ValueError("the signature of the certificate request is wrong")
    if not isinstance(key, _ANY_KEY):
        raise ValueError("expected an RSA, EC or Ed25519 key")  # noqa: TRY004  the text is bad
    return _request(request)


def _request(request: x509.CertificateSigningRequest) -> Request:
    def values(oid: x509.ObjectIdentifier) -> tuple[str, ...]:
        return tuple(str(each.value) for each in request.subject.get_attributes_for_oid(oid))

    names: list[str] = []
    addresses: list[str] = []
    others = 0
    try:
        found = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        found = None
    for each in found or ():
        if isinstance(each, x509.DNSName):
            names.append(each.value)
        elif isinstance(each, x509.IPAddress):
            addresses.append(str(each.value))
        else:
            others += 1
    common = values(NameOID.COMMON_NAME)
    return Request(
        common[0] if common else "",
        values(NameOID.ORGANIZATION_NAME),
        tuple(names),
        tuple(addresses),
        others,
        request,
    )


def signer_fault(signer: str, request: Request, usages: frozenset[str]) -> str:
    """Say why a signer of ours does not sign a request, "" when it does."""
    judge = _JUDGES.get(signer)
    return f"no such signer: {signer}" if judge is None else judge(request, usages)


def _client_fault(_request: Request, usages: frozenset[str]) -> str:
    if "client auth" not in usages or not usages <= _BASE | {"client auth"}:
        return 'invalid usages for client certificate: must include "client auth"'
    return ""


def _common_fault(request: Request) -> str:
    if request.organizations != (NODES,):
        return f"subject organization is not {NODES}"
    if not request.common_name.startswith(NODE_PREFIX):
        return f"subject common name does not begin with {NODE_PREFIX}"
    return ""


def _kubelet_client_fault(request: Request, usages: frozenset[str]) -> str:
    if fault := _common_fault(request):
        return fault
    if request.names:
        return "DNS subjectAltNames are not allowed"
    if request.others:
        return "Email and URI subjectAltNames are not allowed"
    if request.addresses:
        return "IP subjectAltNames are not allowed"
    if usages not in (_BASE | {"client auth"}, _SIGNATURE | {"client auth"}):
        return "usages did not match [digital signature client auth] and perhaps [key encipherment]"
    return ""


def _kubelet_serving_fault(request: Request, usages: frozenset[str]) -> str:
    if fault := _common_fault(request):
        return fault
    if not request.names and not request.addresses:
        return "DNS or IP subjectAltName is required"
    if request.others:
        return "Email and URI subjectAltNames are not allowed"
    if usages not in (_BASE | {"server auth"}, _SIGNATURE | {"server auth"}):
        return "usages did not match [digital signature server auth] and perhaps [key encipherment]"
    return ""


def _no_fault(_request: Request, _usages: frozenset[str]) -> str:
    return ""


_JUDGES = {
    CLIENT: _client_fault,
    KUBELET_CLIENT: _kubelet_client_fault,
    KUBELET_SERVING: _kubelet_serving_fault,
    LEGACY: _no_fault,
}
