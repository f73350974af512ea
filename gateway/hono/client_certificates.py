"""Whom a device's certificate stands for: judged by the trust anchors of its tenant.

The chain has exactly one link, the device's own certificate, signed by the key of an anchor that has the
issuer's name and is valid now. Extended key usages are not asked for, as devices' certificates often have
none; critical extensions that are not known here are refused.
Left out: revocation. An anchor that asks for it (OCSP) trusts nobody, which is safer than ignoring the wish.
Source: Hono, Device Authentication, client certificates; RFC 5280, section 6.1.
"""

from __future__ import annotations

from collections.abc import Iterable

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PSS, PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key
from cryptography.x509.oid import ExtensionOID

from gateway.errors import BadRequest, Unauthenticated
from gateway.hono.certificates import apply_template
from gateway.model.registry import TrustAnchor

MAX_BYTES = 16_384
MIN_RSA_BITS = 2_048
MIN_EC_BITS = 224
_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_KNOWN_CRITICAL = frozenset(
    (
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.CERTIFICATE_POLICIES,
    )
)
_MALFORMED = (
    ValueError,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
    x509.DuplicateExtension,
)
UNTRUSTED = "client certificate is not trusted"


def load_certificate(data: bytes) -> x509.Certificate:
    """Read a DER certificate with all that is asked of it later.

    Errors: Unauthenticated for what is none, or larger than any device needs.
    """
    if len(data) > MAX_BYTES:
        raise Unauthenticated("client certificate is too long")
    try:
        certificate = x509.load_der_x509_certificate(data)
        _ = certificate.issuer, certificate.subject, certificate.extensions
    except _MALFORMED as error:
        raise Unauthenticated("client certificate is malformed") from error
    return certificate


def trusted_anchor(
    certificate: x509.Certificate, anchors: Iterable[TrustAnchor], now: float
) -> TrustAnchor:
    """Return the anchor that a certificate leads to; `now` in seconds since the epoch.

    Errors: Unauthenticated when there is none, or the certificate's time is not now.
    """
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not start.timestamp() <= now <= end.timestamp():
        raise Unauthenticated("client certificate is not valid now")
    if any(e.critical and e.oid not in _KNOWN_CRITICAL for e in certificate.extensions):
        raise Unauthenticated(UNTRUSTED)
    issuer = _folded(certificate.issuer)
    for anchor in anchors:
        if (
            anchor.is_valid(now)
            and not anchor.checks_revocation
            and _is_named(anchor, issuer)
            and _is_signed_by(certificate, anchor.public_key)
        ):
            return anchor
    raise Unauthenticated(UNTRUSTED)


def auth_id_of(certificate: x509.Certificate, anchor: TrustAnchor) -> str:
    """Return the auth-id of a device: by the anchor's template, else its subject name.

    Errors: Unauthenticated when the subject lacks what the template asks for.
    """
    template = anchor.auth_id_template or "{{subject-dn}}"
    try:
        return apply_template(template, certificate.subject)
    except BadRequest as error:
        raise Unauthenticated(error.message) from error


def _is_named(anchor: TrustAnchor, issuer: tuple[object, ...]) -> bool:
    try:
        return _folded(x509.Name.from_rfc4514_string(anchor.subject_dn)) == issuer
    except ValueError:
        return False


def _folded(name: x509.Name) -> tuple[object, ...]:
    """A name for comparing: case and runs of blanks do not count (RFC 5280, section 7.1)."""
    return tuple(
        frozenset((a.oid, " ".join(str(a.value).casefold().split())) for a in rdn)
        for rdn in name.rdns
    )


def _is_signed_by(certificate: x509.Certificate, public_key: bytes) -> bool:
    try:
        key = load_der_public_key(public_key)
        if not isinstance(certificate.signature_hash_algorithm, _HASHES):
            return False
        if isinstance(key, RSAPublicKey):
            return _is_signed_by_rsa(certificate, key)
        if isinstance(key, EllipticCurvePublicKey):
            return _is_signed_by_ec(certificate, key)
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature):
        return False
    return False


def _is_signed_by_rsa(certificate: x509.Certificate, key: RSAPublicKey) -> bool:
    scheme, digest = (
        certificate.signature_algorithm_parameters,
        certificate.signature_hash_algorithm,
    )
    if not isinstance(scheme, PKCS1v15 | PSS) or digest is None or key.key_size < MIN_RSA_BITS:
        return False
    key.verify(certificate.signature, certificate.tbs_certificate_bytes, scheme, digest)
    return True


def _is_signed_by_ec(certificate: x509.Certificate, key: EllipticCurvePublicKey) -> bool:
    scheme = certificate.signature_algorithm_parameters
    if not isinstance(scheme, ECDSA) or key.key_size < MIN_EC_BITS:
        return False
    key.verify(certificate.signature, certificate.tbs_certificate_bytes, scheme)
    return True
