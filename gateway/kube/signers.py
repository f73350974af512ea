"""Certificates for signing requests, by the API's own authority.

What is asked for is signed as it is, names and usages, for no longer than a year.
Source: Kubernetes "Certificates and Certificate Signing Requests".
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from gateway.runtime.certificates import Pair
from gateway.wire.kube.requestfiles import Request

LONGEST, SHORTEST = 365 * 86_400, 600
BACKDATE = 300
"""Seconds by which a certificate begins earlier: clocks differ."""
SHORT = 8 * 3_600
_EXTENDED: dict[str, ObjectIdentifier] = {
    "any": ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
    "server auth": ExtendedKeyUsageOID.SERVER_AUTH,
    "client auth": ExtendedKeyUsageOID.CLIENT_AUTH,
    "code signing": ExtendedKeyUsageOID.CODE_SIGNING,
    "email protection": ExtendedKeyUsageOID.EMAIL_PROTECTION,
    "s/mime": ExtendedKeyUsageOID.EMAIL_PROTECTION,
    "ipsec end system": ObjectIdentifier("1.3.6.1.5.5.7.3.5"),
    "ipsec tunnel": ObjectIdentifier("1.3.6.1.5.5.7.3.6"),
    "ipsec user": ObjectIdentifier("1.3.6.1.5.5.7.3.7"),
    "timestamping": ExtendedKeyUsageOID.TIME_STAMPING,
    "ocsp signing": ExtendedKeyUsageOID.OCSP_SIGNING,
    "microsoft sgc": ObjectIdentifier("1.3.6.1.4.1.311.10.3.3"),
    "netscape sgc": ObjectIdentifier("2.16.840.1.113730.4.1"),
}
_PLAIN = {
    "signing": "digital_signature",
    "digital signature": "digital_signature",
    "content commitment": "content_commitment",
    "key encipherment": "key_encipherment",
    "key agreement": "key_agreement",
    "data encipherment": "data_encipherment",
    "cert sign": "key_cert_sign",
    "crl sign": "crl_sign",
    "encipher only": "encipher_only",
    "decipher only": "decipher_only",
}


def lifetime(asked: object) -> int:
    """Return for how many seconds a certificate is good, from `expirationSeconds`."""
    if not isinstance(asked, int) or isinstance(asked, bool):
        return LONGEST
    return max(SHORTEST, min(asked, LONGEST))


def sign(
    authority: Pair, request: Request, usages: Iterable[str], seconds: int, now: float
) -> bytes:
    """Return the certificate, as PEM.

    Units:  `seconds` it is good for, from `now` (Unix time).
    Errors: ValueError where the authority has ended, or signs with no EC key.
    """
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    key = serialization.load_pem_private_key(authority.key, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("the authority's key: expected EC")  # noqa: TRY004  a bad file
    begin = datetime.fromtimestamp(now, UTC).replace(microsecond=0)
    shown = seconds if seconds < SHORT else seconds - BACKDATE
    end = min(begin + timedelta(seconds=shown), issuer.not_valid_after_utc)
    if begin >= issuer.not_valid_after_utc:
        raise ValueError(f"the signer has expired: NotAfter={issuer.not_valid_after_utc}")
    builder = (
        x509.CertificateBuilder()
        .subject_name(request.raw.subject)
        .issuer_name(issuer.subject)
        .public_key(request.raw.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin - timedelta(seconds=BACKDATE))
        .not_valid_after(end)
    )
    for extension, critical in _extensions(issuer, request, frozenset(usages)):
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _extensions(
    issuer: x509.Certificate, request: Request, usages: frozenset[str]
) -> Iterable[tuple[x509.ExtensionType, bool]]:
    plain = {_PLAIN[usage] for usage in usages if usage in _PLAIN}
    if plain:
        yield _key_usage(plain), True
    extended = [_EXTENDED[usage] for usage in sorted(usages) if usage in _EXTENDED]
    if extended:
        yield x509.ExtendedKeyUsage(list(dict.fromkeys(extended))), False
    yield x509.BasicConstraints(ca=False, path_length=None), True
    held = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    yield x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(held), False
    try:
        names = request.raw.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return
    yield names.value, names.critical


def _key_usage(plain: set[str]) -> x509.KeyUsage:
    flags = {name: name in plain for name in _PLAIN.values()}
    if not flags["key_agreement"]:  # only then the other two mean something
        flags["encipher_only"] = flags["decipher_only"] = False
    return x509.KeyUsage(**flags)
