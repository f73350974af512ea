"""Certificates of our own: an authority, what it issues, and the folder that keeps them.

Keys are EC P-256, files of keys have mode 0600. A kept certificate that is near its end or lacks a
host name is made anew; the authority stays, so that peers who trust it go on.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from gateway.errors import InvalidSetting

CA_DAYS, LEAF_DAYS, RENEW_DAYS = 3_650, 365, 30
SKEW = timedelta(hours=2)
"""How long before its making a certificate is valid: clocks jump, here and at who checks it."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, as PEM."""

    certificate: bytes
    key: bytes


def kept(folder: Path, name: str) -> Pair | None:
    """Read `<name>.crt` and `<name>.key`; None when one is missing."""
    certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
    if not (certificate.exists() and key.exists()):
        return None
    return Pair(certificate.read_bytes(), key.read_bytes())


def save(folder: Path, name: str, pair: Pair) -> Pair:
    """Write `<name>.crt` and `<name>.key` and return the pair."""
    write_private(folder / f"{name}.key", pair.key)
    (folder / f"{name}.crt").write_bytes(pair.certificate)
    return pair


def write_private(path: Path, data: bytes) -> None:
    """Write a file anew that only its owner may read."""
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)


def ensure_server(
    folder: Path, authority: str, name: str, hosts: Sequence[str]
) -> tuple[Path, Path]:
    """Keep a server certificate of an authority of our own in `folder`; return certificate and key files.

    Shape:  `authority` and `name` are common names; `ca.crt` beside them is what clients are to trust.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    root = kept(folder, "ca") or save(folder, "ca", make_authority(authority))
    server = kept(folder, "server")
    if server is None or not is_usable(server, hosts):
        save(folder, "server", issue(root, name, hosts=hosts))
    return folder / "server.crt", folder / "server.key"


def ends_at(certificate: Path) -> float:
    """Return when the first certificate of a PEM file ends, Unix seconds. Errors: OSError, ValueError."""
    return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc.timestamp()


def server_context(certificate: Path, key: Path, setting: str) -> ssl.SSLContext:
    """Return TLS for a server, 1.2 or newer.

    Errors: InvalidSetting, naming the setting, when the files are missing or do not fit.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise InvalidSetting(f"{setting}: cannot load {certificate} and {key}: {error}") from error
    return context


def make_authority(name: str) -> Pair:
    """Make a self-signed authority (EC P-256); `name` is a common name, or a whole one as in RFC 4514."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject(name)
    builder = _builder(subject, subject, key, CA_DAYS).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    builder = builder.add_extension(_usage(signs_certificates=True), critical=True).add_extension(
        x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
    )
    return _pair(builder.sign(key, hashes.SHA256()), key)


def issue(
    authority: Pair,
    user: str,
    *,
    groups: Sequence[str] = (),
    hosts: Sequence[str] = (),
    seconds: float = LEAF_DAYS * 86_400.0,
) -> Pair:
    """Issue a certificate: for a server when it has `hosts`, else for a client with user and groups.

    Shape:  `user` is a common name, or without groups a whole name as in RFC 4514.
    Units:  `seconds` it is good for.
    """
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    signer = serialization.load_pem_private_key(authority.key, None)
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise TypeError("ca.key: expected an EC key")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject(user, groups)
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = _leaf(_builder(subject, issuer.subject, key, seconds / 86_400), purpose, issuer)
    if hosts:
        names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
        builder = builder.add_extension(names, critical=False)
    return _pair(builder.sign(signer, hashes.SHA256()), key)


def _subject(name: str, groups: Sequence[str] = ()) -> x509.Name:
    if "=" in name and not groups:
        return x509.Name.from_rfc4514_string(name)
    organizations = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    return x509.Name([*organizations, x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: float
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + timedelta(days=days))
    )


def _leaf(
    builder: x509.CertificateBuilder, purpose: ObjectIdentifier, issuer: x509.Certificate
) -> x509.CertificateBuilder:
    authority = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority),
            critical=False,
        )
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
    return Pair(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def is_usable(pair: Pair, hosts: Iterable[str]) -> bool:
    """True when a certificate has time left and names every host."""
    certificate = x509.load_pem_x509_certificate(pair.certificate)
    if certificate.not_valid_after_utc - datetime.now(UTC) < timedelta(days=RENEW_DAYS):
        return False
    wanted = {_general_name(host) for host in hosts}
    return not wanted or wanted <= set(_names_of(certificate))


def _names_of(certificate: x509.Certificate) -> Iterable[x509.GeneralName]:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
