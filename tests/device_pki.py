"""Authorities and devices with certificates, for tests of how devices log in."""

from __future__ import annotations

import base64
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from gateway.model.json import JsonObject

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
DAY = timedelta(days=1)


def name_of(text: str) -> x509.Name:
    return x509.Name.from_rfc4514_string(text)


def public_der(key: Key) -> str:
    """Base64 of the public key, as registries take it."""
    data = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(data).decode()


def private_pem(key: Key) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@dataclass(frozen=True)
class Holder:
    """A key with a certificate for it."""

    key: Key
    certificate: x509.Certificate

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def subject(self) -> str:
        return self.certificate.subject.rfc4514_string()

    def save(self, folder: Path, name: str) -> Path:
        """Write certificate and key into one PEM file."""
        file = folder / f"{name}.pem"
        file.write_bytes(self.certificate.public_bytes(Encoding.PEM) + private_pem(self.key))
        return file

    def anchor(self, **more: object) -> JsonObject:
        """A tenant's `trusted-ca` entry for this authority, by name and key alone."""
        kind = "EC" if isinstance(self.key, ec.EllipticCurvePrivateKey) else "RSA"
        entry: JsonObject = {
            "subject-dn": self.subject,
            "public-key": public_der(self.key),
            "algorithm": kind,
            "not-before": "2020-01-01T00:00:00Z",
            "not-after": "2090-01-01T00:00:00Z",
        }
        entry.update(more)  # type: ignore[arg-type]
        return entry


def a_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def issue(
    subject: str,
    issuer: Holder | None = None,
    *,
    key: Key | None = None,
    start: timedelta = -DAY,
    end: timedelta = DAY,
    digest: hashes.SHA224 | hashes.SHA256 | hashes.SHA512 | None = None,
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = (),
    issuer_name: str | None = None,
) -> Holder:
    """Make a certificate; without `issuer` it is signed by its own key."""
    key = key or a_key()
    own = name_of(subject)
    now = datetime.now(UTC)
    signer = issuer.key if issuer else key
    by = name_of(issuer_name) if issuer_name else issuer.certificate.subject if issuer else own
    builder = (
        x509.CertificateBuilder(by, own, key.public_key(), x509.random_serial_number())
        .not_valid_before(now + start)
        .not_valid_after(now + end)
    )
    for extension, is_critical in extensions:
        builder = builder.add_extension(extension, is_critical)
    return Holder(key, builder.sign(signer, digest or hashes.SHA256()))


def a_server(folder: Path) -> Path:
    """A PEM file with a server's key and certificate for 127.0.0.1 and any host below acme."""
    hosts: list[x509.GeneralName] = [x509.DNSName("localhost")]
    names = x509.SubjectAlternativeName(hosts)
    return issue("CN=localhost", extensions=((names, False),)).save(folder, "server")


def client_context(
    device: Path | None = None, version: ssl.TLSVersion | None = None
) -> ssl.SSLContext:
    """TLS of a client that trusts every server, and shows a certificate where it has one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if version is not None:
        context.minimum_version = context.maximum_version = version
    if device is not None:
        context.load_cert_chain(device)
    return context
