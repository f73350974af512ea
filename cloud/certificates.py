"""CloudCore's certificate authority: the CA, the server's certificate, certificates for edge nodes.

Pure but for randomness and the clock that callers hand in: keeping the keys is `cloud.identity`'s job.
Source: KubeEdge, certificates of CloudHub (EC P-256 throughout; DER in Secrets and over HTTPS).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gateway.errors import BadRequest, Forbidden
from gateway.wire.cloudedge.names import ORGANISATION, Refusal, check_node_name, node_of

CA_DAYS = 36_400
SERVER_DAYS = 36_400
PEER_DAYS = 30
CA_SERIAL = 1_024
COMMON_NAME = "KubeEdge"
OLD_COMMON_NAME = "kubeedge.io"
"""With organisation `KubeEdge`, the subject of every edge's certificate before nodes had names in theirs."""
MAX_CSR = 65_536
_SKEW = timedelta(hours=2)
"""How long before its making a certificate is valid: clocks jump, and edges without one start in the past."""
_LAST = datetime(9999, 12, 31, tzinfo=UTC)

USAGES = {1: ExtendedKeyUsageOID.SERVER_AUTH, 2: ExtendedKeyUsageOID.CLIENT_AUTH}
"""Go's ExtKeyUsage numbers that an edge may ask for."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its private key, both DER; the key in SEC1 form."""

    certificate: bytes
    key: bytes

    @property
    def certificate_pem(self) -> str:
        return pem(self.certificate)

    @property
    def ends_at(self) -> float:
        """When the certificate ends, Unix seconds."""
        return x509.load_der_x509_certificate(self.certificate).not_valid_after_utc.timestamp()

    @property
    def key_pem(self) -> bytes:
        return _load_key(self.key).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate for an edge node; `serial` hexadecimal; times Unix seconds."""

    der: bytes
    node: str
    serial: str
    issued_at: float
    expires_at: float


@dataclass(frozen=True, slots=True)
class NodeCertificate:
    """What a peer's certificate says, as far as CloudHub asks."""

    node: str
    serial: str
    issued_at: float


def pem(der: bytes) -> str:
    """Write a DER certificate as PEM."""
    certificate = x509.load_der_x509_certificate(der)
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")


def make_ca(now: datetime) -> KeyPair:
    """Make the self-signed CA."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, COMMON_NAME)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(CA_SERIAL)
        .not_valid_before(now - _SKEW)
        .not_valid_after(_end(now, CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_key_usage(signs=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage(list(USAGES.values())), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return _pair(builder.sign(key, hashes.SHA256()), key)


def make_server(ca: KeyPair, hosts: Iterable[str], now: datetime) -> KeyPair:
    """Make the server's certificate for names and addresses."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, COMMON_NAME),
            x509.NameAttribute(NameOID.COMMON_NAME, COMMON_NAME),
        ]
    )
    certificate = _sign(
        ca,
        subject,
        key.public_key(),
        now,
        SERVER_DAYS,
        [ExtendedKeyUsageOID.SERVER_AUTH],
        x509.SubjectAlternativeName([_general_name(host) for host in dict.fromkeys(hosts)]),
    )
    return _pair(certificate, key)


def make_peer(ca: KeyPair, now: datetime) -> KeyPair:
    """Make the certificate that a CloudCore shows to another one of its cluster."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, COMMON_NAME),
            x509.NameAttribute(NameOID.COMMON_NAME, "cloudcore"),
        ]
    )
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
    return _pair(_sign(ca, subject, key.public_key(), now, PEER_DAYS, usages), key)


def server_fits(ca: KeyPair, server: KeyPair, hosts: Iterable[str], now: datetime) -> bool:
    """True when the server's certificate is of this CA, still valid, and names all `hosts`."""
    certificate = x509.load_der_x509_certificate(server.certificate)
    if not is_issued_by(certificate, x509.load_der_x509_certificate(ca.certificate)):
        return False
    is_valid = certificate.not_valid_after_utc > now + timedelta(days=1)
    return is_valid and not unnamed_hosts(server, hosts)


def is_issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """True when the authority's key has signed the certificate, in its name."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def unnamed_hosts(server: KeyPair, hosts: Iterable[str]) -> list[str]:
    """Return those of `hosts` that the server's certificate does not name."""
    certificate = x509.load_der_x509_certificate(server.certificate)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return list(hosts)
    known = set(names.value)
    return [host for host in hosts if _general_name(host) not in known]


def issue(
    ca: KeyPair, csr_der: bytes, node: str, usages: Sequence[int], now: datetime, days: int
) -> Issued:
    """Sign an edge node's request.

    Shape:  `usages` are Go's ExtKeyUsage numbers, empty for client authentication.
    Errors: BadRequest for a request that cannot be read, is not signed by its key, or whose subject is
            not O `system:nodes`, CN `system:node:<node>`; or usages other than server and client.
    """
    request = _load_request(csr_der)
    check_node_name(node)
    _check_subject(request.subject, node)
    try:
        oids = [USAGES[number] for number in usages] or [ExtendedKeyUsageOID.CLIENT_AUTH]
    except KeyError as error:
        raise BadRequest(f"ExtKeyUsages: expected 1 or 2, got {error.args[0]}") from None
    key = request.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise BadRequest("certificate request: expected an EC or RSA key")
    certificate = _sign(ca, request.subject, key, now, days, oids)
    return Issued(
        der=certificate.public_bytes(serialization.Encoding.DER),
        node=node,
        serial=f"{certificate.serial_number:x}",
        issued_at=now.timestamp(),
        expires_at=certificate.not_valid_after_utc.timestamp(),
    )


def read_node_certificate(der: bytes) -> NodeCertificate:
    """Read a peer's certificate that TLS has verified.

    Errors: Forbidden when it is not a node's.
    """
    certificate = x509.load_der_x509_certificate(der)
    common = _attribute(certificate.subject, NameOID.COMMON_NAME)
    node = node_of(common)
    if not node or _attribute(certificate.subject, NameOID.ORGANIZATION_NAME) != ORGANISATION:
        raise Forbidden(
            f"the client certificate of {common!r} is not a node's",
            details={"refusal": Refusal.NO_CERTIFICATE},
        )
    issued = certificate.not_valid_before_utc + _SKEW
    return NodeCertificate(node, f"{certificate.serial_number:x}", issued.timestamp())


def read_old_certificate(der: bytes, node: str) -> Issued | None:
    """Read an edge's certificate of the old form, which names no node, as one of `node`; None for others."""
    certificate = x509.load_der_x509_certificate(der)
    subject = certificate.subject
    if (
        _attribute(subject, NameOID.COMMON_NAME) != OLD_COMMON_NAME
        or _attribute(subject, NameOID.ORGANIZATION_NAME) != COMMON_NAME
    ):
        return None
    return Issued(
        der=der,
        node=node,
        serial=f"{certificate.serial_number:x}",
        issued_at=certificate.not_valid_before_utc.timestamp(),
        expires_at=certificate.not_valid_after_utc.timestamp(),
    )


def check_issuer(ca: KeyPair, der: bytes, now: datetime) -> None:
    """Check that a certificate was signed by the CA and is valid now. Errors: Forbidden."""
    certificate = x509.load_der_x509_certificate(der)
    if not is_issued_by(certificate, x509.load_der_x509_certificate(ca.certificate)):
        raise Forbidden("the client certificate is not of this CA")
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise Forbidden("the client certificate is not valid now")


def _load_request(der: bytes) -> x509.CertificateSigningRequest:
    if len(der) > MAX_CSR:
        raise BadRequest(f"certificate request: at most {MAX_CSR} bytes, got {len(der)}")
    try:
        request = x509.load_der_x509_csr(der)
        is_signed = request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm, InvalidSignature):
        raise BadRequest("the body is not a certificate request in DER form") from None
    if not is_signed:
        raise BadRequest("the certificate request is not signed by its own key")
    return request


def _check_subject(subject: x509.Name, node: str) -> None:
    common = _attribute(subject, NameOID.COMMON_NAME)
    organisation = _attribute(subject, NameOID.ORGANIZATION_NAME)
    if node_of(common) != node or organisation != ORGANISATION:
        raise BadRequest(
            f"certificate request: expected O={ORGANISATION}, CN=system:node:{node},"
            f" got O={organisation}, CN={common}"
        )


def _attribute(name: x509.Name, oid: x509.ObjectIdentifier) -> str:
    values = [str(attribute.value) for attribute in name.get_attributes_for_oid(oid)]
    return values[0] if len(values) == 1 else ""


def _sign(
    ca: KeyPair,
    subject: x509.Name,
    public_key: CertificatePublicKeyTypes,
    now: datetime,
    days: int,
    usages: list[x509.ObjectIdentifier],
    names: x509.SubjectAlternativeName | None = None,
) -> x509.Certificate:
    authority, ca_key = x509.load_der_x509_certificate(ca.certificate), _load_key(ca.key)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(authority.subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(_end(now, days))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(_key_identifier(authority), critical=False)
    )
    if names is not None:
        builder = builder.add_extension(names, critical=False)
    return builder.sign(ca_key, hashes.SHA256())


def _key_identifier(authority: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """Name the CA's key as the CA itself does: how the name is made of the key is everybody's own choice."""
    try:
        own = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        key = authority.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise BadRequest("the CA's key is not an EC key") from None
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own.value)


def _end(now: datetime, days: int) -> datetime:
    return min(now + timedelta(days=days), _LAST)


def _key_usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=True,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        return x509.DNSName(host)


def _load_key(der: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_der_private_key(der, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise BadRequest("the CA's key is not an EC key")
    return key


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> KeyPair:
    return KeyPair(
        certificate.public_bytes(serialization.Encoding.DER),
        key.private_bytes(
            serialization.Encoding.DER,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        ),
    )
