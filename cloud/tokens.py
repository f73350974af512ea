"""Join tokens in KubeEdge's form: `hex(sha256(CA DER)).JWT`, the JWT signed with the CA's private key.

The first part lets an edge check the CA it downloads without TLS trust; the JWT lets CloudCore give that
edge a certificate. Twinspan may add claims, which an edge passes on unread: `node` binds the token to one
name, `replace` allows to take over the name of a node that is Ready.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import jwt

from gateway.errors import Forbidden, Unauthenticated
from gateway.wire.cloudedge.names import Refusal, check_node_name

ALGORITHM = "HS256"
MAX_TOKEN = 4_096


@dataclass(frozen=True, slots=True)
class JoinGrant:
    """What a valid token allows; `node` None: any name."""

    node: str | None = None
    replace: bool = False


def make_token(
    ca_der: bytes,
    ca_key_der: bytes,
    *,
    expires: int,
    node: str | None = None,
    replace: bool = False,
) -> str:
    """Write a token.

    Units:  `expires` Unix seconds; `ca_key_der` is the CA's key as SEC1 DER.
    Errors: BadRequest for a node name that cannot be one.
    """
    claims: dict[str, object] = {"exp": expires}
    if node is not None:
        claims["node"] = check_node_name(node)
    if replace:
        claims["replace"] = True
    return f"{ca_hash(ca_der)}.{jwt.encode(claims, ca_key_der, ALGORITHM)}"


def ca_hash(ca_der: bytes) -> str:
    """Return the token's first part."""
    return hashlib.sha256(ca_der).hexdigest()


def check_bearer(header: str, ca_key_der: bytes, node: str) -> JoinGrant:
    """Judge an `Authorization` header sent for `node`.

    Errors: Unauthenticated (absent, foreign, expired), Forbidden (made for another node);
            `details["refusal"]` names which.
    """
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token or len(token) > MAX_TOKEN:
        raise _refused(Refusal.BAD_TOKEN, "expected Authorization: Bearer <token>")
    try:
        claims = jwt.decode(token.strip(), ca_key_der, [ALGORITHM], options={"require": ["exp"]})
    except jwt.ExpiredSignatureError as error:
        raise _refused(Refusal.TOKEN_EXPIRED, "the token has expired; make a new one") from error
    except jwt.InvalidTokenError as error:
        raise _refused(Refusal.BAD_TOKEN, "the token is not one of this CloudCore") from error
    bound = claims.get("node")
    if bound is not None and bound != node:
        raise Forbidden(
            f"the token was made for node {bound}, not for {node}",
            details={"refusal": Refusal.TOKEN_FOR_OTHER_NODE},
        )
    return JoinGrant(bound, claims.get("replace") is True)


def _refused(why: Refusal, text: str) -> Unauthenticated:
    return Unauthenticated(text, details={"refusal": why})
