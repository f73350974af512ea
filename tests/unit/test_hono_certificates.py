"""Certificates in registry documents: what they stand for, and names in one form."""

from __future__ import annotations

import base64
import itertools
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key

from gateway.errors import BadRequest
from gateway.hono.certificates import (
    apply_template,
    canonical_dn,
    expand_credentials,
    expand_tenant,
    templates_of,
)
from gateway.model.credentials_json import parse_credentials
from gateway.model.registry_json import parse_tenant

EC = ec.generate_private_key(ec.SECP256R1())


def a_certificate(
    subject: str = "CN=d1,OU=Things,O=Acme",
    issuer: str = "CN=Acme CA,O=Acme",
    key: CertificateIssuerPrivateKeyTypes = EC,
) -> str:
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name.from_rfc4514_string(subject))
        .issuer_name(x509.Name.from_rfc4514_string(issuer))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2026, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2027, 1, 1, tzinfo=UTC))
        .sign(EC, hashes.SHA256())
    )
    return base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()


def ids() -> Any:
    counter = itertools.count(1)
    return lambda: f"id-{next(counter)}"


def test_an_anchors_certificate_becomes_name_key_and_validity() -> None:
    body: Any = {"trusted-ca": [{"cert": a_certificate("CN=Acme CA,O=Acme")}]}
    expanded: Any = expand_tenant(body, ids())
    (anchor,) = expanded["trusted-ca"]
    assert "cert" not in anchor
    assert (anchor["id"], anchor["subject-dn"], anchor["algorithm"]) == (
        "id-1",
        "CN=Acme CA,O=Acme",
        "EC",
    )
    assert anchor["not-after"] == "2027-01-01T00:00:00Z"
    assert load_der_public_key(base64.b64decode(anchor["public-key"])) == EC.public_key()
    assert parse_tenant("acme", expanded).anchors == ("CN=Acme CA,O=Acme",)
    assert "cert" in body["trusted-ca"][0]


def test_an_rsa_anchor_says_so() -> None:
    key = rsa.generate_private_key(65_537, 2_048)
    body: Any = {"trusted-ca": [{"cert": a_certificate(key=key)}]}
    expanded: Any = expand_tenant(body, ids())
    assert expanded["trusted-ca"][0]["algorithm"] == "RSA"


def test_names_are_kept_in_one_form() -> None:
    assert canonical_dn("CN=Acme CA, O=Acme", "x") == canonical_dn("cn=Acme CA,o=Acme", "x")
    with pytest.raises(BadRequest, match="subject-dn"):
        canonical_dn("no name", "subject-dn")


def test_a_devices_certificate_becomes_auth_id_and_validity() -> None:
    body: Any = [{"type": "x509-cert", "cert": a_certificate()}]
    (credential,) = parse_credentials(expand_credentials(body, {}))
    assert credential.auth_id == "CN=d1,OU=Things,O=Acme"
    assert credential.secrets[0].not_after is not None


def test_the_anchors_template_makes_the_auth_id() -> None:
    tenant: Any = {
        "trusted-ca": [
            {
                "subject-dn": "CN=Acme CA,O=Acme",
                "auth-id-template": "{{subject-ou}}-{{subject-cn}}",
            },
            {"subject-dn": "CN=Other"},
        ]
    }
    templates = templates_of(tenant)
    body: Any = [{"type": "x509-cert", "cert": a_certificate()}]
    assert parse_credentials(expand_credentials(body, templates))[0].auth_id == "Things-d1"
    with pytest.raises(BadRequest, match="subject-ou"):
        apply_template("{{subject-ou}}", x509.Name.from_rfc4514_string("CN=d1"))


def test_a_raw_public_key_is_taken_from_its_certificate() -> None:
    body: Any = [{"type": "rpk", "auth-id": "s1", "secrets": [{"cert": a_certificate()}]}]
    (credential,) = parse_credentials(expand_credentials(body, {}))
    assert credential.secrets[0].data["algorithm"] == "EC"
    assert credential.secrets[0].not_before is not None


@pytest.mark.parametrize(
    "cert", ["%", "YQ==", 7, a_certificate(key=ed25519.Ed25519PrivateKey.generate())]
)
def test_what_is_no_usable_certificate_is_refused(cert: Any) -> None:
    with pytest.raises(BadRequest, match=r"trusted-ca\[0\]"):
        expand_tenant({"trusted-ca": [{"cert": cert}]}, ids())


@pytest.mark.parametrize("body", [None, [], {}, {"trusted-ca": 7}, {"trusted-ca": [7]}])
def test_other_shapes_are_left_for_the_parser(body: Any) -> None:
    assert expand_tenant(body, ids()) == body
    assert expand_credentials({"x": 1}, {}) == {"x": 1}
    assert expand_credentials([7, {"type": "rpk", "secrets": 7}], {}) == [
        7,
        {"type": "rpk", "secrets": 7},
    ]
