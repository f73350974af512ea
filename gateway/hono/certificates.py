"""Certificates in registry documents: a write-only `cert` becomes the members that it stands for.

Distinguished names are kept in one form, so that a name finds its tenant or device however it was written.
Source: Hono device registry API v1, schemas TrustedCA, X509CertificateCredentials, RPKSecret; RFC 4514.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)
from cryptography.x509.oid import NameOID

from gateway.errors import BadRequest
from gateway.model.json import Json, JsonObject
from gateway.model.members import format_instant
from gateway.model.registry import RPK, X509

CERT = "cert"
MIN_RSA_BITS, MAX_RSA_BITS = 2_048, 8_192
_ATTRIBUTE = re.compile(r"(^|(?<!\\)[,+]) *([A-Za-z][A-Za-z0-9-]*) *= *")
_HEX = re.compile(r"(=)#((?:[0-9A-Fa-f]{2}){2,258})(?=$|[,+])")
_STRING_TAGS = {0x0C: "utf-8", 0x13: "ascii", 0x14: "latin-1", 0x16: "ascii", 0x1E: "utf-16-be"}
_NAMES = {
    "E": NameOID.EMAIL_ADDRESS,
    "EMAILADDRESS": NameOID.EMAIL_ADDRESS,
    "SERIALNUMBER": NameOID.SERIAL_NUMBER,
    "GIVENNAME": NameOID.GIVEN_NAME,
    "SURNAME": NameOID.SURNAME,
    "SN": NameOID.SURNAME,
    "T": NameOID.TITLE,
    "TITLE": NameOID.TITLE,
    "S": NameOID.STATE_OR_PROVINCE_NAME,
    "DNQ": NameOID.DN_QUALIFIER,
    "DNQUALIFIER": NameOID.DN_QUALIFIER,
}
"""Attribute names that tools write beside those of RFC 4514."""
_PARTS = {
    "{{subject-cn}}": NameOID.COMMON_NAME,
    "{{subject-ou}}": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "{{subject-o}}": NameOID.ORGANIZATION_NAME,
}


def canonical_dn(text: str, path: str) -> str:
    """Return a distinguished name in the form that is stored and compared.

    Errors: BadRequest naming `path`.
    """
    tight = _ATTRIBUTE.sub(lambda match: match[1] + match[2].upper() + "=", text)
    try:
        plain = _HEX.sub(lambda match: match[1] + _unhexed(match[2]), tight)
        return x509.Name.from_rfc4514_string(plain, _NAMES).rfc4514_string()
    except ValueError as error:
        raise BadRequest(
            f"{path}: expected a distinguished name as RFC 2253 writes it, got {text[:128]!r}"
        ) from error


def _unhexed(digits: str) -> str:
    """Turn a value in RFC 2253's `#hex` form, DER of a short string, into an escaped text."""
    encoded = bytes.fromhex(digits)
    tag, size, raw = encoded[0], encoded[1], encoded[2:]
    if tag not in _STRING_TAGS or size != len(raw):
        raise ValueError("expected DER of a string of at most 127 bytes")
    return re.sub(r'([,+"\\<>;#= ])', r"\\\1", raw.decode(_STRING_TAGS[tag]))


def apply_template(template: str, subject: x509.Name) -> str:
    """Fill a template such as `dev-{{subject-cn}}` from a subject.

    Errors: BadRequest when the subject lacks what the template asks for.
    """
    text = template.replace("{{subject-dn}}", subject.rfc4514_string())
    for placeholder, kind in _PARTS.items():
        if placeholder not in text:
            continue
        found = subject.get_attributes_for_oid(kind)
        if not found:
            raise BadRequest(f"cert: the subject has nothing for {placeholder}")
        text = text.replace(placeholder, str(found[0].value))
    return text


def expand_tenant(body: Json, new_id: Callable[[], str]) -> Json:
    """Return a tenant document whose trust anchors have ids, canonical names and no `cert`.

    Errors: BadRequest. What has another shape is left for `parse_tenant` to refuse.
    """
    if not isinstance(body, dict) or not isinstance(body.get("trusted-ca"), list):
        return body
    anchors: list[Json] = [
        _anchor(item, f"trusted-ca[{at}]", new_id) if isinstance(item, dict) else item
        for at, item in enumerate(_items(body["trusted-ca"]))
    ]
    return {**body, "trusted-ca": anchors}


def _anchor(item: JsonObject, path: str, new_id: Callable[[], str]) -> Json:
    anchor = {"id": new_id(), **item}
    if CERT in anchor:
        certificate = _certificate(anchor.pop(CERT), path)
        anchor.update(_key_of(certificate, path, "public-key"))
        anchor.update(_validity_of(certificate))
        anchor["subject-dn"] = certificate.subject.rfc4514_string()
        anchor["subject-dn-bytes"] = base64.b64encode(certificate.subject.public_bytes()).decode()
    elif isinstance(name := anchor.get("subject-dn"), str):
        anchor["subject-dn"] = canonical_dn(name, f"{path}.subject-dn")
    return anchor


def expand_credentials(body: Json, templates: Mapping[str, str]) -> Json:
    """Return credentials without `cert` and with canonical subject names.

    Shape:  `templates` are the tenant's auth-id templates by the subject name of their trust anchor.
    Errors: BadRequest. What has another shape is left for `parse_credentials` to refuse.
    """
    if not isinstance(body, list):
        return body
    return [
        _credential(item, f"[{at}]", templates) if isinstance(item, dict) else item
        for at, item in enumerate(body)
    ]


def _credential(item: JsonObject, path: str, templates: Mapping[str, str]) -> Json:
    if item.get("type") == X509:
        return _x509(dict(item), path, templates)
    if item.get("type") == RPK and isinstance(item.get("secrets"), list):
        secrets: list[Json] = [
            _rpk(dict(secret), f"{path}.secrets[{at}]") if isinstance(secret, dict) else secret
            for at, secret in enumerate(_items(item["secrets"]))
        ]
        return {**item, "secrets": secrets}
    return item


def _x509(item: JsonObject, path: str, templates: Mapping[str, str]) -> Json:
    if CERT in item:
        certificate = _certificate(item.pop(CERT), path)
        template = templates.get(certificate.issuer.rfc4514_string(), "{{subject-dn}}")
        item["auth-id"] = apply_template(template, certificate.subject)
        item["secrets"] = [_validity_of(certificate)]
    elif isinstance(name := item.get("auth-id"), str) and not templates:
        item["auth-id"] = canonical_dn(name, f"{path}.auth-id")
    return item


def _rpk(secret: JsonObject, path: str) -> Json:
    if CERT in secret:
        certificate = _certificate(secret.pop(CERT), path)
        secret.update(_key_of(certificate, path, "key"))
        secret.update(_validity_of(certificate))
    if isinstance(secret.get("key"), str):
        _check_key(str(secret["key"]), secret.get("algorithm"), path)
    return secret


def _check_key(text: str, algorithm: Json, path: str) -> None:
    """Refuse a raw public key that no token can ever be checked with; what has another shape is left."""
    kinds = {"RSA": RSAPublicKey, "EC": EllipticCurvePublicKey}
    if algorithm not in kinds:
        return
    try:
        key = load_der_public_key(base64.b64decode(text, validate=True))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadRequest(f"{path}.key: expected base64 of a DER public key") from error
    if not isinstance(key, kinds[str(algorithm)]):
        raise BadRequest(f"{path}.key: expected an {algorithm} key")
    if isinstance(key, RSAPublicKey) and not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
        raise BadRequest(f"{path}.key: expected {MIN_RSA_BITS}..{MAX_RSA_BITS} bits")


def templates_of(document: Mapping[str, Json]) -> dict[str, str]:
    """Return a tenant's auth-id templates by the subject name of their trust anchor."""
    return {
        str(anchor["subject-dn"]): str(anchor["auth-id-template"])
        for anchor in _items(document.get("trusted-ca"))
        if isinstance(anchor, dict) and "auth-id-template" in anchor
    }


def _items(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


def _certificate(value: Json, path: str) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(base64.b64decode(str(value), validate=True))
    except (ValueError, binascii.Error) as error:
        raise BadRequest(f"{path}.{CERT}: expected base64 of a DER certificate") from error


def _key_of(certificate: x509.Certificate, path: str, name: str) -> JsonObject:
    key = certificate.public_key()
    if isinstance(key, RSAPublicKey):
        algorithm = "RSA"
    elif isinstance(key, EllipticCurvePublicKey):
        algorithm = "EC"
    else:
        raise BadRequest(f"{path}.{CERT}: expected an RSA or EC key")
    encoded = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return {name: base64.b64encode(encoded).decode(), "algorithm": algorithm}


def _validity_of(certificate: x509.Certificate) -> JsonObject:
    return {
        "not-before": format_instant(certificate.not_valid_before_utc.timestamp()),
        "not-after": format_instant(certificate.not_valid_after_utc.timestamp()),
    }
