"""The key that signs the tokens of ServiceAccounts (ES256), and its public half as others read it."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.errors import InvalidSetting, Unauthenticated
from gateway.model.json import JsonObject

ALGORITHM, FORMER = "ES256", "HS256"
MAX_TOKEN = 16_384
_BYTES = 32
"""Of a coordinate on P-256."""


def make_key() -> bytes:
    """Make a new key, as PEM."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key and its name in tokens: the hash of its public half."""

    key: ec.EllipticCurvePrivateKey
    key_id: str

    @classmethod
    def read(cls, pem: bytes) -> SigningKey:
        """Read a key. Errors: InvalidSetting."""
        try:
            key = serialization.load_pem_private_key(pem, None)
        except ValueError as error:
            raise InvalidSetting("accounts.pem: expected an EC key on P-256") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
            raise InvalidSetting("accounts.pem: expected an EC key on P-256")
        der = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return cls(key, _text(hashlib.sha256(der).digest()))

    def sign(self, claims: dict[str, Any]) -> str:
        return jwt.encode(claims, self.key, ALGORITHM, headers={"kid": self.key_id, "typ": None})

    def verified(self, token: str) -> dict[str, Any]:
        """Return the claims of a token that this key signed; times are not looked at.

        Errors: Unauthenticated.
        """
        if len(token) > MAX_TOKEN or not token.isascii():
            raise Unauthenticated("invalid bearer token")
        try:
            if jwt.get_unverified_header(token).get("alg") == FORMER:
                why = "it was signed by a former version (HS256): ask for a new one"
                raise Unauthenticated(f"[invalid bearer token, {why}]")
            claims: dict[str, Any] = jwt.decode(
                token, self.key.public_key(), [ALGORITHM], options=_SIGNATURE_ALONE
            )
        except jwt.InvalidTokenError as error:
            raise Unauthenticated("invalid bearer token") from error
        return claims

    def public_document(self) -> JsonObject:
        """The public half as a JSON Web Key."""
        numbers = self.key.public_key().public_numbers()
        return {
            "use": "sig",
            "kty": "EC",
            "kid": self.key_id,
            "crv": "P-256",
            "alg": ALGORITHM,
            "x": _text(numbers.x.to_bytes(_BYTES, "big")),
            "y": _text(numbers.y.to_bytes(_BYTES, "big")),
        }


_SIGNATURE_ALONE: Any = {
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_aud": False,
    "verify_iss": False,
}


def _text(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()
