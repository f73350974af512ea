"""Signing requests: what our signers take, and when one is forgotten."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.kube.signers import LONGEST, SHORTEST, lifetime, sign
from gateway.model.json import JsonObject
from gateway.runtime.certificates import make_authority
from gateway.wire.kube import requestfiles as files
from gateway.wire.kube.signingrequests import faults, old_at

NODE = "O=system:nodes,CN=system:node:n1"
CLIENT = frozenset({"digital signature", "client auth"})
SERVER = frozenset({"digital signature", "key encipherment", "server auth"})


def a_request(name: str = "CN=ann", *hosts: str) -> str:
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name.from_rfc4514_string(name)
    )
    if hosts:
        names = x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts])
        builder = builder.add_extension(names, critical=False)
    request = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return base64.b64encode(request.public_bytes(serialization.Encoding.PEM)).decode()


def test_a_request_says_who_and_where() -> None:
    request = files.read_request(a_request(NODE, "n1.example"))
    assert request.common_name == "system:node:n1"
    assert (request.organizations, request.names) == (("system:nodes",), ("n1.example",))


@pytest.mark.parametrize("text", [None, 7, "", "%%", base64.b64encode(b"hello").decode()])
def test_what_is_no_request_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"PEM|base64"):
        files.read_request(text)  # type: ignore[arg-type]


def test_a_broken_request_is_refused() -> None:
    pem = b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"
    with pytest.raises(ValueError, match="cannot be read"):
        files.read_request(base64.b64encode(pem).decode())


@pytest.mark.parametrize(
    ("signer", "name", "hosts", "usages", "fault"),
    [
        (files.CLIENT, "CN=ann", (), frozenset({"client auth"}), ""),
        (files.CLIENT, "CN=ann", (), SERVER, "invalid usages"),
        (files.KUBELET_CLIENT, NODE, (), CLIENT, ""),
        (files.KUBELET_CLIENT, NODE, ("a.b",), CLIENT, "DNS subjectAltNames are not allowed"),
        (files.KUBELET_CLIENT, "CN=ann", (), CLIENT, "organization is not system:nodes"),
        (files.KUBELET_CLIENT, "O=system:nodes,CN=x", (), CLIENT, "does not begin with"),
        (files.KUBELET_CLIENT, NODE, (), SERVER, "usages did not match"),
        (files.KUBELET_SERVING, NODE, ("n1.example",), SERVER, ""),
        (files.KUBELET_SERVING, NODE, (), SERVER, "DNS or IP subjectAltName is required"),
        (files.KUBELET_SERVING, NODE, ("n1.example",), CLIENT, "usages did not match"),
        ("example.com/other", "CN=ann", (), CLIENT, "no such signer"),
    ],
)
def test_a_signer_takes_what_is_for_it(
    signer: str, name: str, hosts: tuple[str, ...], usages: frozenset[str], fault: str
) -> None:
    found = files.signer_fault(signer, files.read_request(a_request(name, *hosts)), usages)
    assert (fault in found) if fault else found == ""


def test_a_certificate_is_as_asked_and_no_longer_than_a_year() -> None:
    authority = make_authority("test")
    request = files.read_request(a_request(NODE, "n1.example"))
    now = datetime(2026, 6, 1, tzinfo=UTC).timestamp()
    pem = sign(authority, request, ["server auth", "digital signature"], 3_600, now)
    made = x509.load_pem_x509_certificate(pem)
    assert made.subject.rfc4514_string() == "O=system:nodes,CN=system:node:n1"
    assert made.not_valid_after_utc.timestamp() == now + 3_600
    assert made.not_valid_before_utc.timestamp() == now - 300
    usage = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["n1.example"]
    made.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.certificate))
    assert (lifetime(None), lifetime(1), lifetime(1 << 40)) == (LONGEST, SHORTEST, LONGEST)


def an_object(*conditions: str, issued: bool = False, made: str = "") -> JsonObject:
    return {
        "metadata": {"creationTimestamp": made or "2026-01-01T00:00:00Z"},
        "status": {
            "conditions": [
                {"type": kind, "status": "True", "lastUpdateTime": "2026-01-01T00:00:00Z"}
                for kind in conditions
            ],
            **({"certificate": "eA=="} if issued else {}),
        },
    }


@pytest.mark.parametrize(
    ("item", "hours"),
    [
        (an_object(), 24),
        (an_object("Denied"), 1),
        (an_object("Approved"), 24),
        (an_object("Approved", issued=True), 1),
        (an_object("Approved", "Failed"), 1),
    ],
)
def test_requests_are_forgotten_after_their_time(item: JsonObject, hours: int) -> None:
    made = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    assert old_at(item) == made + hours * 3_600


def test_faults_of_requests_name_their_fields() -> None:
    spec: JsonObject = {
        "request": a_request(),
        "signerName": "nodomain",
        "usages": ["client auth", "client auth", "bla"],
        "expirationSeconds": 60,
    }
    fields = [cause.field for cause in faults({"spec": spec}, None)]
    assert fields == [
        "spec.usages[1]",
        "spec.usages[2]",
        "spec.signerName",
        "spec.expirationSeconds",
    ]
    both = {"spec": spec, **an_object("Approved", "Denied")}
    assert any("mutually exclusive" in cause.text for cause in faults(both, None))
