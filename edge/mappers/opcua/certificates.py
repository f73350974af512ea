"""Our certificate towards servers, made at first use, and theirs, remembered from the first time.

A server whose certificate is another than the one seen first is refused until the file is removed, or the
Device names the certificate (`serverCertificate`).
"""

from __future__ import annotations

import datetime
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edge.mappers.opcua.addresses import Server
from gateway.errors import Rejected

CERTIFICATE, KEY, SERVERS = "client.der", "client.pem", "servers"
YEARS = 10


@dataclass(frozen=True, slots=True)
class Own:
    """What we show: paths of certificate and key, and the name in the certificate."""

    certificate: Path
    private_key: Path
    application_uri: str


class Certificates:
    """The certificates of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def application_uri(self) -> str:
        return f"urn:{socket.gethostname()}:twinspan:edge"

    def own(self, server: Server) -> Own:
        """Return the Device's certificate, or ours, made now where there is none.

        Errors: Rejected for files that cannot be read.
        """
        if server.certificate:
            return self._named(Path(server.certificate), Path(server.private_key))
        own = (self._folder / CERTIFICATE, self._folder / KEY)
        if not all(path.is_file() for path in own):
            self._make(*own)
        return self._named(*own)

    def _named(self, certificate: Path, key: Path) -> Own:
        try:
            content = certificate.read_bytes()
            pem = content.startswith(b"-----")
            load = x509.load_pem_x509_certificate if pem else x509.load_der_x509_certificate
            names = load(content).extensions.get_extension_for_class(x509.SubjectAlternativeName)
            uris = names.value.get_values_for_type(x509.UniformResourceIdentifier)
        except x509.ExtensionNotFound:
            uris = []
        except (OSError, ValueError) as error:
            raise Rejected(f"certificate {certificate}: cannot be read") from error
        if not key.is_file():
            raise Rejected(f"privateKey {key}: cannot be read")
        return Own(certificate, key, uris[0] if uris else self.application_uri)

    def _make(self, certificate: Path, key_path: Path) -> None:
        key = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "twinspan edge")])
        now = datetime.datetime.now(datetime.UTC)
        usage = x509.KeyUsage(
            digital_signature=True,
            content_commitment=True,
            key_encipherment=True,
            data_encipherment=True,
            key_agreement=False,
            key_cert_sign=False,
            crl_sign=False,
            encipher_only=False,
            decipher_only=False,
        )
        names = x509.SubjectAlternativeName(
            [
                x509.UniformResourceIdentifier(self.application_uri),
                x509.DNSName(socket.gethostname()),
            ]
        )
        made = (
            x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=365 * YEARS))
            .add_extension(names, critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .sign(key, hashes.SHA256())
        )
        secret = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        _write(key_path, secret)
        _write(certificate, made.public_bytes(serialization.Encoding.DER))

    def first_seen(self, server: Server, offered: bytes) -> bytes:
        """Return the server's certificate: the one offered, if it is that of the first time.

        Errors: Rejected where it has changed.
        """
        known = self._folder / SERVERS / f"{server.name}.der"
        if not known.is_file():
            known.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write(known, offered)
        elif known.read_bytes() != offered:
            raise Rejected(
                f"{server.url}: its certificate is not the one seen first; if that is right, remove {known}"
            )
        return offered


def _write(path: Path, content: bytes) -> None:
    """Write a file of our own whole or not at all."""
    made = path.with_suffix(".new")
    descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    made.replace(path)
