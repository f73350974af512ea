"""JSON Web Tokens of devices: read, then checked with the device's raw public keys.

Who a token is for stands in its claims when its audience is `hono-adapter` (`tid`, `sub`, `iss`), else in the
client identifier or address that came with it. Its life is at most a day; clocks may differ by ten minutes.
Source: Hono, Device Authentication, JSON Web Token based authentication.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from gateway.errors import Unauthenticated
from gateway.model.registry import Secret

AUDIENCE = "hono-adapter"
MAX_BYTES = 8_192
SKEW_SECONDS = 600
LONGEST_LIFE_SECONDS = 86_400
_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_BY_CURVE = {"secp256r1": ("ES256",), "secp384r1": ("ES384",), "secp521r1": ("ES512",)}
_ALGORITHMS = frozenset((*_RSA, "ES256", "ES384", "ES512"))
_INVALID = "token is invalid"

PublicKey = RSAPublicKey | EllipticCurvePublicKey
_decode = msgspec.json.Decoder(dict[str, Any]).decode


@dataclass(frozen=True, slots=True)
class Token:
    """A token that was read and not checked; `issuer` is what credentials may ask for as `iss`."""

    text: str = field(repr=False)
    algorithm: str
    claims: Mapping[str, Any] = field(repr=False)
    tenant: str
    auth_id: str
    issuer: str


def looks_like_token(text: str) -> bool:
    """True for what has the form of a signed token; a password hardly ever has."""
    try:
        return len(text) <= MAX_BYTES and bool(_sections(text))
    except ValueError:
        return False


def read_token(text: str, claimed: tuple[str, str] | None) -> Token:
    """Read a token without checking it.

    Shape:  `claimed` is (tenant, auth-id) from elsewhere, for tokens of another audience.
    Errors: Unauthenticated.
    """
    if len(text) > MAX_BYTES:
        raise Unauthenticated(f"token: at most {MAX_BYTES} bytes")
    try:
        header, claims = _sections(text)
    except ValueError as error:
        raise Unauthenticated("token: expected a signed JSON Web Token") from error
    if header.get("typ") != "JWT" or header.get("alg") not in _ALGORITHMS or "crit" in header:
        raise Unauthenticated("token: expected type JWT and an RS, PS or ES algorithm")
    audience = claims.get("aud")
    if audience == AUDIENCE or (isinstance(audience, list) and AUDIENCE in audience):
        tenant, auth_id = _claim(claims, "tid"), _claim(claims, "sub")
        issuer = claims.get("iss", auth_id)
        return Token(text, str(header["alg"]), claims, tenant, auth_id, str(issuer))
    if claimed is None:
        raise Unauthenticated("token: neither its claims nor the address say whose it is")
    return Token(text, str(header["alg"]), claims, *claimed, claimed[1])


def _sections(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return header and claims; ValueError for what is no token."""
    parts = text.split(".", 3)
    if len(parts) != 3:
        raise ValueError("expected three sections")
    return _section(parts[0]), _section(parts[1])


def _section(text: str) -> dict[str, Any]:
    try:
        return _decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError("expected a JSON object") from error


def _claim(claims: Mapping[str, Any], name: str) -> str:
    found = claims.get(name)
    if not isinstance(found, str) or not found:
        raise Unauthenticated(f"token: expected claim {name}")
    return found


def claimed_by_client_id(client_id: str) -> tuple[str, str] | None:
    """Return (tenant, auth-id) of `.../{tenant}/{any}/{auth-id}`; None for another form."""
    parts = client_id.split("/")
    return (parts[-3], parts[-1]) if len(parts) >= 3 else None


def check_token(token: Token, secrets: Iterable[Secret], now: float) -> float:
    """Check signature and life; return when the login ends, in seconds since the epoch.

    Errors: Unauthenticated.
    """
    end = _end_of_life(token.claims, now)
    if not any(_is_signed(token, secret) for secret in secrets):
        raise Unauthenticated(_INVALID)
    return end


def _end_of_life(claims: Mapping[str, Any], now: float) -> float:
    issued, expires = _instant(claims, "iat"), _instant(claims, "exp")
    start = _instant(claims, "nbf") if "nbf" in claims else issued
    longest = LONGEST_LIFE_SECONDS + SKEW_SECONDS
    if max(issued, start) > now + SKEW_SECONDS:
        raise Unauthenticated("token is not valid yet")
    if not issued < expires <= issued + longest:
        raise Unauthenticated(f"token: expected exp after iat, by at most {longest} s")
    if expires + SKEW_SECONDS <= now:
        raise Unauthenticated("token has expired")
    return expires + SKEW_SECONDS


def _instant(claims: Mapping[str, Any], name: str) -> float:
    found = claims.get(name)
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found < 2**40:
        raise Unauthenticated(f"token: expected claim {name} as seconds since the epoch")
    return found


def _is_signed(token: Token, secret: Secret) -> bool:
    key = _key(secret.data.get("key", ""))
    if key is None or token.algorithm not in _algorithms(key):
        return False
    options: Any = dict.fromkeys(
        (
            "verify_exp",
            "verify_nbf",
            "verify_iat",
            "verify_aud",
            "verify_iss",
            "verify_sub",
            "verify_jti",
        ),
        False,
    )
    try:
        jwt.decode(token.text, key, algorithms=[token.algorithm], options=options)
    except (jwt.InvalidTokenError, ValueError):
        return False
    return True


def _algorithms(key: PublicKey) -> tuple[str, ...]:
    return _RSA if isinstance(key, RSAPublicKey) else _BY_CURVE.get(key.curve.name, ())


@lru_cache(maxsize=1_024)
def _key(text: str) -> PublicKey | None:
    """Read a stored key, None for one that was kept though nobody can use it."""
    try:
        key = load_der_public_key(base64.b64decode(text, validate=True))
    except ValueError:
        return None
    return key if isinstance(key, RSAPublicKey | EllipticCurvePublicKey) else None
