"""Base64 that a peer sends may hold any character; what is no ASCII is as wrong as all else."""

from __future__ import annotations

import pytest

from gateway.errors import BadRequest, MalformedPacket, Unauthenticated
from gateway.hono.adapters.http_messages import basic_login
from gateway.hono.registry_http import _basic
from gateway.model.credentials_json import parse_credentials
from gateway.wire.cloudedge import applications, routing
from gateway.wire.ditto.functions import _base64_decode

WRONG = ("\u00e9", "a", "YQ=", "\u00e9===")


@pytest.mark.parametrize("text", WRONG)
def test_a_login_that_is_no_base64_is_unauthorized(text: str) -> None:
    with pytest.raises(Unauthenticated):
        basic_login(text)
    assert _basic(text) == ("", "")


@pytest.mark.parametrize("text", WRONG)
def test_a_hash_that_is_no_base64_is_refused(text: str) -> None:
    secret = {"pwd-hash": text, "hash-function": "sha-256"}
    credential = {"type": "hashed-password", "auth-id": "a", "secrets": [secret]}
    with pytest.raises(BadRequest, match="base64"):
        parse_credentials([credential], 10)  # type: ignore[list-item]


@pytest.mark.parametrize("text", WRONG)
def test_frames_with_what_is_no_base64_are_malformed(text: str) -> None:
    with pytest.raises(MalformedPacket):
        routing._bytes(text)
    with pytest.raises(MalformedPacket):
        applications._bytes("body", text)
    assert _base64_decode(text) is None
