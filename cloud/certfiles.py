"""CA and server certificate out of files that the settings name, where somebody brings their own.

Files are PEM or DER; keys are EC, in SEC1 or PKCS #8 form, without a password. Whatever would only show
later, when an edge refuses the connection, is refused here and names its setting.
Source: KubeEdge reference, sections 4.1 and 27.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from cloud.certificates import KeyPair, is_issued_by, unnamed_hosts
from gateway.config.cloud import CloudHub
from gateway.errors import InvalidSetting

MAX_FILE = 65_536

T = TypeVar("T")
E = TypeVar("E", bound=x509.ExtensionType)


def read_ca(settings: CloudHub, now: datetime) -> KeyPair | None:
    """Read the CA, None where no files are named.

    Errors: InvalidSetting, naming the setting, for files that cannot be read, do not belong together, or
            are not a valid CA with an EC key.
    """
    pair = _read_pair("ca_file", settings.ca_file, "ca_key_file", settings.ca_key_file, now)
    if pair is not None:
        certificate = x509.load_der_x509_certificate(pair.certificate)
        basic = _extension(certificate, x509.BasicConstraints)
        usage = _extension(certificate, x509.KeyUsage)
        if basic is None or not basic.ca or (usage is not None and not usage.key_cert_sign):
            raise _fault("ca_file", settings.ca_file, "not the certificate of a CA")
        if not is_issued_by(certificate, certificate):
            why = "not self-signed: many clients take no other for a root"
            raise _fault("ca_file", settings.ca_file, why)
    return pair


def read_server(
    settings: CloudHub, ca: KeyPair, hosts: Sequence[str], now: datetime
) -> KeyPair | None:
    """Read the server's certificate, None where no files are named.

    Shape:  `hosts` are the names and addresses that it must carry.
    Errors: as for the CA; also for one that edges would refuse: of another CA, for other names.
    """
    pair = _read_pair("cert_file", settings.cert_file, "key_file", settings.key_file, now)
    if pair is None:
        return None
    certificate = x509.load_der_x509_certificate(pair.certificate)
    if not is_issued_by(certificate, x509.load_der_x509_certificate(ca.certificate)):
        raise _fault("cert_file", settings.cert_file, "not issued by the CA that edges are given")
    usages = _extension(certificate, x509.ExtendedKeyUsage)
    if usages is not None and ExtendedKeyUsageOID.SERVER_AUTH not in usages:
        raise _fault("cert_file", settings.cert_file, "not for servers (extended key usage)")
    missing = unnamed_hosts(pair, hosts)
    if missing:
        why = f"does not name {', '.join(missing)} (subject alternative names)"
        raise _fault("cert_file", settings.cert_file, why)
    return pair


def _read_pair(
    cert_setting: str, cert_file: str, key_setting: str, key_file: str, now: datetime
) -> KeyPair | None:
    if not cert_file and not key_file:
        return None
    for given, missing in ((cert_file, key_setting), (key_file, cert_setting)):
        if given and not (key_file if missing == key_setting else cert_file):
            raise InvalidSetting(f"cloud.hub.{missing}: needed with {given}")
    certificate = _read(cert_setting, cert_file, _certificate)
    key = _read(key_setting, key_file, _key)
    if certificate.public_key() != key.public_key():
        raise _fault(key_setting, key_file, f"not the key of {cert_file}")
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        span = f"{certificate.not_valid_before_utc:%F} to {certificate.not_valid_after_utc:%F}"
        raise _fault(cert_setting, cert_file, f"not valid now, but from {span}")
    return KeyPair(
        certificate.public_bytes(serialization.Encoding.DER),
        key.private_bytes(
            serialization.Encoding.DER,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        ),
    )


def _read(setting: str, file: str, parse: Callable[[bytes], T]) -> T:
    try:
        with Path(file).open("rb") as handle:
            return parse(handle.read(MAX_FILE))
    except OSError as error:
        raise _fault(setting, file, str(error.strerror)) from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _fault(setting, file, str(error).strip() or type(error).__name__) from error


def _certificate(data: bytes) -> x509.Certificate:
    if b"-----BEGIN" not in data:
        return x509.load_der_x509_certificate(data)
    found = x509.load_pem_x509_certificates(data)
    if len(found) != 1:
        raise ValueError(f"expected one certificate, got {len(found)}")
    return found[0]


def _key(data: bytes) -> ec.EllipticCurvePrivateKey:
    is_pem = b"-----BEGIN" in data
    load = serialization.load_pem_private_key if is_pem else serialization.load_der_private_key
    key = load(data, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("expected an EC key: edges of KubeEdge take no other")
    return key


def _extension(certificate: x509.Certificate, kind: type[E]) -> E | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _fault(setting: str, file: str, why: str) -> InvalidSetting:
    return InvalidSetting(f"cloud.hub.{setting}: {file}: {why}")
