"""Whom a certificate stands for: anchors, times, signatures, templates."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from gateway.errors import Unauthenticated
from gateway.hono.client_certificates import (
    MAX_BYTES,
    auth_id_of,
    load_certificate,
    trusted_anchor,
)
from gateway.model.registry import TrustAnchor
from gateway.model.registry_json import parse_tenant
from tests.device_pki import DAY, Holder, issue

AUTHORITY = issue("CN=Acme CA,O=Acme")
NOW = time.time()


def anchors_of(*entries: Any) -> tuple[TrustAnchor, ...]:
    found: Any = [{"id": f"a{at}", **entry} for at, entry in enumerate(entries)]
    return parse_tenant("acme", {"trusted-ca": found}).trust_anchors


def judge(holder: Holder, *entries: Any, now: float = NOW) -> TrustAnchor:
    return trusted_anchor(load_certificate(holder.der), anchors_of(*entries), now)


def test_a_certificate_of_an_anchor_is_trusted() -> None:
    device = issue("CN=d1", AUTHORITY)
    assert judge(device, AUTHORITY.anchor()).subject_dn == "CN=Acme CA,O=Acme"


def test_a_self_signed_certificate_may_be_its_own_anchor() -> None:
    device = issue("CN=d1")
    assert judge(device, device.anchor()).subject_dn == "CN=d1"


def test_of_several_anchors_of_one_name_the_one_that_signed_counts() -> None:
    old, new = issue("CN=CA"), issue("CN=CA")
    assert judge(issue("CN=d1", new), old.anchor(), new.anchor()).anchor_id == "a1"


def test_names_are_compared_without_case_and_blanks() -> None:
    device = issue("CN=d1", AUTHORITY, issuer_name="CN=ACME  ca,O=acme")
    assert judge(device, AUTHORITY.anchor())


@pytest.mark.parametrize("bits", [2_048, 3_072])
@pytest.mark.parametrize("digest", [hashes.SHA256(), hashes.SHA512()])
def test_authorities_with_rsa_keys_are_trusted(bits: int, digest: Any) -> None:
    authority = issue("CN=CA", key=rsa.generate_private_key(65_537, bits))
    assert judge(issue("CN=d1", authority, digest=digest), authority.anchor())


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_authorities_on_the_common_curves_are_trusted(curve: ec.EllipticCurve) -> None:
    authority = issue("CN=CA", key=ec.generate_private_key(curve))
    assert judge(issue("CN=d1", authority), authority.anchor())


def untrusted() -> dict[str, tuple[Holder, Any]]:
    weak = issue("CN=CA", key=rsa.generate_private_key(65_537, 1_024))
    between = issue("CN=Between", AUTHORITY)
    unknown = x509.UnrecognizedExtension(ObjectIdentifier("1.2.3.4"), b"x")
    good = issue("CN=d1", AUTHORITY)
    other_key = issue("CN=Acme CA,O=Acme")
    return {
        "signed by another key of that name": (issue("CN=d1", other_key), AUTHORITY.anchor()),
        "another issuer's name": (
            issue("CN=d1", AUTHORITY, issuer_name="CN=Other CA"),
            AUTHORITY.anchor(),
        ),
        "two links away": (issue("CN=d1", between), AUTHORITY.anchor()),
        "over": (issue("CN=d1", AUTHORITY, end=-timedelta(hours=1)), AUTHORITY.anchor()),
        "not yet": (issue("CN=d1", AUTHORITY, start=timedelta(hours=1)), AUTHORITY.anchor()),
        "a weak key": (issue("CN=d1", weak), weak.anchor()),
        "a weak digest": (issue("CN=d1", AUTHORITY, digest=hashes.SHA224()), AUTHORITY.anchor()),
        "an unknown critical extension": (
            issue("CN=d1", AUTHORITY, extensions=((unknown, True),)),
            AUTHORITY.anchor(),
        ),
        "an anchor that is over": (good, AUTHORITY.anchor(**{"not-after": "2021-01-01T00:00:00Z"})),
        "an anchor of later": (good, AUTHORITY.anchor(**{"not-before": "2089-01-01T00:00:00Z"})),
        "an anchor whose key is none": (good, AUTHORITY.anchor(**{"public-key": "bm90QmFzZTY0"})),
        "an anchor whose key is no base64": (good, AUTHORITY.anchor(**{"public-key": "%"})),
        "an anchor that asks for revocation": (
            good,
            AUTHORITY.anchor(**{"ocsp-revocation-enabled": True}),
        ),
    }


@pytest.mark.parametrize(("device", "anchor"), untrusted().values(), ids=untrusted().keys())
def test_what_is_not_signed_by_a_valid_anchor_is_not_trusted(device: Holder, anchor: Any) -> None:
    with pytest.raises(Unauthenticated):
        judge(device, anchor)


def test_a_signature_that_was_changed_is_not_trusted() -> None:
    device = issue("CN=d1", AUTHORITY)
    spoilt = device.der[:-3] + bytes((device.der[-3] ^ 1,)) + device.der[-2:]
    with pytest.raises(Unauthenticated):
        trusted_anchor(load_certificate(spoilt), anchors_of(AUTHORITY.anchor()), NOW)


def test_known_critical_extensions_are_no_obstacle() -> None:
    extensions: Any = (
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), True),
        (x509.UnrecognizedExtension(ObjectIdentifier("1.2.3.4"), b"x"), False),
    )
    assert judge(issue("CN=d1", AUTHORITY, extensions=extensions), AUTHORITY.anchor())


def test_the_moment_counts() -> None:
    device = issue("CN=d1", AUTHORITY)
    with pytest.raises(Unauthenticated, match="not valid now"):
        judge(device, AUTHORITY.anchor(), now=NOW + 2 * DAY.total_seconds())


@pytest.mark.parametrize("data", [b"", b"x", issue("CN=d1").der[:-9], b"0" * (MAX_BYTES + 1)])
def test_what_is_no_certificate_is_refused(data: bytes) -> None:
    with pytest.raises(Unauthenticated):
        load_certificate(data)


def test_the_auth_id_is_the_subject_or_what_the_template_makes() -> None:
    device = load_certificate(issue("CN=d1,OU=Things,O=Acme", AUTHORITY).der)
    (plain,) = anchors_of(AUTHORITY.anchor())
    assert auth_id_of(device, plain) == "CN=d1,OU=Things,O=Acme"
    (made,) = anchors_of(AUTHORITY.anchor(**{"auth-id-template": "{{subject-ou}}.{{subject-cn}}"}))
    assert auth_id_of(device, made) == "Things.d1"
    with pytest.raises(Unauthenticated, match="subject-ou"):
        auth_id_of(load_certificate(issue("CN=d1", AUTHORITY).der), made)
