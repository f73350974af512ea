"""Tokens of devices: whose they are, how long they live, whose key signed them."""

from __future__ import annotations

from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import Unauthenticated
from gateway.hono.tokens import (
    MAX_BYTES,
    check_token,
    claimed_by_client_id,
    looks_like_token,
    read_token,
)
from gateway.model.registry import Secret
from tests.device_pki import Key, a_key, public_der

NOW = 1_800_000_000.0
EC = a_key()
RSA = rsa.generate_private_key(65_537, 2_048)
HONO: Any = {"aud": "hono-adapter", "tid": "acme", "sub": "s1"}
CLAIMED = ("acme", "s1")


def a_token(key: Any = EC, algorithm: str = "ES256", headers: Any = None, **claims: Any) -> str:
    body = {"iat": int(NOW), "exp": int(NOW) + 3_600, **claims}
    body = {name: value for name, value in body.items() if value is not None}
    return jwt.encode(body, key, algorithm, headers=headers)


def secret(key: Key) -> Secret:
    return Secret(data={"key": public_der(key), "algorithm": "any"})


def checked(text: str, *keys: Key, now: float = NOW) -> float:
    return check_token(read_token(text, CLAIMED), [secret(key) for key in keys or (EC,)], now)


def test_the_claims_say_whose_it_is() -> None:
    token = read_token(a_token(**HONO), None)
    assert (token.tenant, token.auth_id, token.issuer) == ("acme", "s1", "s1")
    assert read_token(a_token(**HONO, iss="x"), None).issuer == "x"
    assert read_token(a_token(**HONO | {"aud": ["a", "hono-adapter"]}), None).tenant == "acme"


def test_else_the_client_identifier_says_it() -> None:
    claimed = claimed_by_client_id("projects/p/tenants/acme/devices/s1")
    token = read_token(a_token(aud="my-project", tid="other", sub="x"), claimed)
    assert (token.tenant, token.auth_id, token.issuer) == ("acme", "s1", "s1")
    assert claimed_by_client_id("acme/s1") is None


@pytest.mark.parametrize("missing", ["tid", "sub"])
def test_a_token_for_hono_names_tenant_and_device(missing: str) -> None:
    with pytest.raises(Unauthenticated, match=missing):
        read_token(a_token(**HONO | {missing: None}), CLAIMED)


def test_a_token_that_names_nobody_is_refused() -> None:
    with pytest.raises(Unauthenticated, match="whose"):
        read_token(a_token(), None)


@pytest.mark.parametrize("algorithm", ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"])
def test_rsa_keys_sign_with_all_their_algorithms(algorithm: str) -> None:
    assert checked(a_token(RSA, algorithm), RSA) == NOW + 3_600 + 600


@pytest.mark.parametrize(
    ("curve", "algorithm"),
    [(ec.SECP256R1(), "ES256"), (ec.SECP384R1(), "ES384"), (ec.SECP521R1(), "ES512")],
)
def test_each_curve_signs_with_its_algorithm(curve: ec.EllipticCurve, algorithm: str) -> None:
    key = ec.generate_private_key(curve)
    assert checked(a_token(key, algorithm), key)


def test_any_of_several_keys_may_have_signed() -> None:
    assert checked(a_token(), RSA, a_key(), EC)


def test_another_key_proves_nothing() -> None:
    with pytest.raises(Unauthenticated, match="invalid"):
        checked(a_token(), a_key(), RSA)
    with pytest.raises(Unauthenticated, match="invalid"):
        check_token(read_token(a_token(), CLAIMED), [], NOW)


def test_a_public_key_is_no_password_of_a_token() -> None:
    """The public key must never serve as the secret of an HMAC, nor may a token go unsigned."""
    for text in (a_token("x" * 64, "HS256"), a_token(None, "none")):
        with pytest.raises(Unauthenticated, match="algorithm"):
            read_token(text, CLAIMED)


@pytest.mark.parametrize("headers", [{"typ": "at+jwt"}, {"typ": None}, {"crit": ["b64"]}])
def test_other_types_and_extensions_are_refused(headers: Any) -> None:
    with pytest.raises(Unauthenticated):
        read_token(a_token(headers=headers), CLAIMED)


@pytest.mark.parametrize(
    "claims",
    [
        {"iat": None},
        {"exp": None},
        {"iat": "1800000000"},
        {"exp": True},
        {"iat": int(NOW), "exp": int(NOW)},
        {"iat": int(NOW) + 601},
        {"iat": int(NOW) - 7_200, "exp": int(NOW) - 600},
        {"exp": int(NOW) + 86_400 + 601},
        {"nbf": int(NOW) + 601},
        {"exp": 2**60},
    ],
)
def test_a_life_that_is_not_now_or_too_long_is_refused(claims: Any) -> None:
    with pytest.raises(Unauthenticated):
        checked(a_token(**claims))


@pytest.mark.parametrize(
    "claims",
    [
        {"iat": int(NOW) + 600, "exp": int(NOW) + 700},
        {"iat": int(NOW) - 7_200, "exp": int(NOW) - 599},
        {"exp": int(NOW) + 86_400 + 600},
        {"nbf": int(NOW) + 600},
    ],
)
def test_clocks_may_differ_by_ten_minutes(claims: Any) -> None:
    assert checked(a_token(**claims)) > NOW


def test_a_changed_claim_breaks_the_signature() -> None:
    head, _, mark = a_token().split(".")
    _, body, _ = a_token(sub="other").split(".")
    with pytest.raises(Unauthenticated, match="invalid"):
        checked(f"{head}.{body}.{mark}")


@pytest.mark.parametrize(
    "text", ["hono-secret", "a.b.c", "e30.e30", "e30.W10.x", "", "...", "é.e30.x"]
)
def test_a_password_is_not_taken_for_a_token(text: str) -> None:
    assert not looks_like_token(text)


def test_size_is_bounded() -> None:
    long = a_token(x="y" * MAX_BYTES)
    assert not looks_like_token(long)
    with pytest.raises(Unauthenticated, match="at most"):
        read_token(long, CLAIMED)


@given(st.text(max_size=200))
def test_no_text_breaks_the_reader(text: str) -> None:
    looks_like_token(text)
    for given_text in (text, f"{text}.{text}.{text}", "e30." + text + ".x"):
        with pytest.raises(Unauthenticated):
            read_token(given_text, CLAIMED)
