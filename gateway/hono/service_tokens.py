"""Tokens of the authentication service: who a component is and what it may do, for `token_lifetime`.

Signed with a secret that both sides have (HS256) or with a key of ours (ES256, ES384, RS256) whose public
half others fetch as a JSON Web Key Set. Without either a key is made for the life of this process.
Source: Hono, Authentication API; RFC 7515, 7517, 7638.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from gateway.errors import InvalidSetting
from gateway.hono.service_authorities import ServiceUser
from gateway.model.json import JsonObject

KEYS_PATH: Final = "/validating-keys"
KEYS_TYPE: Final = "application/jwk-set+json"
MIN_SECRET_BYTES: Final = 32
_CURVES: Final = {"secp256r1": "ES256", "secp384r1": "ES384"}
_THUMBPRINT: Final = {"EC": ("crv", "kty", "x", "y"), "RSA": ("e", "kty", "n")}

SigningKey = ec.EllipticCurvePrivateKey | RSAPrivateKey | bytes


class Tokens:
    """Issues tokens; `clock` gives seconds since the epoch, `lifetime` in seconds."""

    def __init__(
        self,
        key: SigningKey,
        *,
        issuer: str,
        audience: str,
        lifetime: float,
        clock: Callable[[], float],
    ) -> None:
        self._key = key
        self._issuer = issuer
        self._audience = audience
        self._lifetime = lifetime
        self._clock = clock
        self._algorithm = _algorithm_of(key)
        self._public = {} if isinstance(key, bytes) else _public_key(key, self._algorithm)
        self._id = str(self._public.get("kid", "shared-secret"))

    def issue(self, user: ServiceUser) -> str:
        """Return a token that says who `user` is and what it may do."""
        now = int(self._clock())
        claims: dict[str, Any] = {
            **user.authorities.claims,
            "iss": self._issuer,
            "aud": self._audience,
            "sub": user.name,
            "iat": now,
            "exp": now + int(self._lifetime),
        }
        return jwt.encode(claims, self._key, algorithm=self._algorithm, headers={"kid": self._id})

    def keys(self) -> JsonObject:
        """Return the keys that tokens can be checked with; none where the secret is shared."""
        return {"keys": [self._public] if self._public else []}


def signing_key(key_file: str, secret_file: str) -> SigningKey:
    """Return the key that settings name; a new one where they name none.

    Errors: InvalidSetting.
    """
    if key_file and secret_file:
        raise InvalidSetting("hono.internal.signing_key: expected no shared_secret beside it")
    if secret_file:
        secret = _read(secret_file, "hono.internal.shared_secret").strip()
        if len(secret) < MIN_SECRET_BYTES:
            raise InvalidSetting(
                f"hono.internal.shared_secret: {secret_file}: expected at least"
                f" {MIN_SECRET_BYTES} bytes, got {len(secret)}"
            )
        return secret
    if not key_file:
        return ec.generate_private_key(ec.SECP256R1())
    return _private_key(key_file)


def _private_key(file: str) -> SigningKey:
    setting = "hono.internal.signing_key"
    try:
        key = load_pem_private_key(_read(file, setting), None)
    except (ValueError, TypeError) as error:
        raise InvalidSetting(f"{setting}: {file}: expected a key as PEM: {error}") from error
    if isinstance(key, RSAPrivateKey) or (
        isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES
    ):
        return key
    raise InvalidSetting(f"{setting}: {file}: expected RSA, or EC on P-256 or P-384")


def _read(file: str, setting: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise InvalidSetting(f"{setting}: {file} cannot be read: {error.strerror}") from error


def _algorithm_of(key: SigningKey) -> str:
    if isinstance(key, bytes):
        return "HS256"
    return "RS256" if isinstance(key, RSAPrivateKey) else _CURVES[key.curve.name]


def _public_key(key: ec.EllipticCurvePrivateKey | RSAPrivateKey, algorithm: str) -> JsonObject:
    if isinstance(key, RSAPrivateKey):
        found: JsonObject = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    else:
        found = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    found.pop("key_ops", None)
    named = {name: found[name] for name in _THUMBPRINT[str(found["kty"])]}
    return {**found, "kid": _digest(msgspec.json.encode(named)), "use": "sig", "alg": algorithm}


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
