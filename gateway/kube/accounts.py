"""Tokens of ServiceAccounts: made by TokenRequest, judged by TokenReview and at the door.

A token is bound to its account's uid, and to the Pod, Secret or Node that the request names: it ends with
them. Signed with a key of this server alone (HS256), so nobody else can check one: ask for a TokenReview.
Source: Kubernetes "Managing Service Accounts", TokenRequest and TokenReview.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jwt

from gateway.errors import NotFound, Unauthenticated
from gateway.kube.auth import AUTHENTICATED, User
from gateway.kube.strategies import table
from gateway.kube.watch import Key, Stored
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.clock import rfc3339
from gateway.wire.kube.names import invalid_value
from gateway.wire.kube.status import conflict, invalid, not_found

if TYPE_CHECKING:
    from gateway.kube.objects import Objects

ISSUER = "https://kubernetes.default.svc.cluster.local"
"""Who makes the tokens, and the audience that this API is."""
ALGORITHM = "HS256"
DEFAULT_SECONDS, MIN_SECONDS, MAX_SECONDS = 3_600, 600, 1 << 32
GROUP = "system:serviceaccounts"
MAX_TOKEN = 16_384
_BOUND = {"Pod": "pods", "Secret": "secrets", "Node": "nodes"}


class Accounts:
    """Shape: `key` signs the tokens; who knows it is every account."""

    def __init__(self, objects: Objects, key: bytes) -> None:
        self._objects = objects
        self._key = key

    # --- TokenRequest -----------------------------------------------------------------------------

    async def token(self, account: Stored, body: Json) -> JsonObject:
        """Answer a TokenRequest for an account.

        Errors: Unprocessable for a bad duration; NotFound, Conflict for what it is to be bound to.
        """
        request: JsonObject = body if isinstance(body, dict) else {}
        spec = table(request, "spec")
        seconds = _seconds(spec.get("expirationSeconds"))
        audiences = _texts(spec.get("audiences")) or [ISSUER]
        now = int(self._objects.now())
        claims: dict[str, Any] = {
            "iss": ISSUER,
            "sub": _user_name(account.key.namespace, account.key.name),
            "aud": audiences,
            "iat": now,
            "nbf": now,
            "exp": now + seconds,
            "jti": str(uuid.uuid4()),
            "kubernetes.io": self._binding(account, table(spec, "boundObjectRef")),
        }
        return {
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {"name": account.key.name, "namespace": account.key.namespace},
            "spec": {**spec, "audiences": [*audiences], "expirationSeconds": seconds},
            "status": {
                "token": jwt.encode(claims, self._key, ALGORITHM),
                "expirationTimestamp": rfc3339(now + seconds),
            },
        }

    def _binding(self, account: Stored, reference: JsonObject) -> JsonObject:
        binding: JsonObject = {
            "namespace": account.key.namespace,
            "serviceaccount": _name_and_uid(account),
        }
        if not reference:
            return binding
        kind, name = str(reference.get("kind") or ""), str(reference.get("name") or "")
        plural = _BOUND.get(kind)
        if plural is None:
            cause = invalid_value("spec.boundObjectRef.kind", kind, "must be Pod, Secret or Node")
            raise invalid("TokenRequest", "authentication.k8s.io", account.key.name, [cause])
        bound = self._find(plural, account.key.namespace, name)
        if bound is None:
            raise not_found(plural, "", name)
        uid = table(bound.object, "metadata").get("uid")
        if reference.get("uid") not in (None, "", uid):
            why = f"the UID in the bound object reference ({reference.get('uid')}) does not match"
            raise conflict(plural, "", name, why)
        binding[kind.lower()] = _name_and_uid(bound)
        return binding

    def _find(self, plural: str, namespace: str, name: str) -> Stored | None:
        place = "" if plural == "nodes" else namespace
        return self._objects.storage.get(Key(plural, place, name))

    # --- judging ----------------------------------------------------------------------------------

    def user(self, token: str, audiences: list[str] | None = None) -> tuple[User, list[str]]:
        """Return whose token it is, and for which of the audiences. Errors: Unauthenticated."""
        if len(token) > MAX_TOKEN or not token.isascii():
            raise Unauthenticated("the token is too long, or no text of a token")
        try:
            claims = jwt.decode(
                token,
                self._key,
                [ALGORITHM],
                audience=audiences or [ISSUER],
                issuer=ISSUER,
                options={"require": ["exp", "sub"], "verify_iat": False},
            )
        except jwt.InvalidTokenError as error:
            raise Unauthenticated(f"the token is not valid: {error}") from error
        binding = claims.get("kubernetes.io")
        user = self._bound_user(binding if isinstance(binding, dict) else {})
        return user, [each for each in audiences or [ISSUER] if each in claims["aud"]]

    def _bound_user(self, binding: Mapping[str, Any]) -> User:
        """Errors: Unauthenticated when what the token is bound to is gone."""
        namespace = str(binding.get("namespace"))
        for kind, plural in (("serviceaccount", "serviceaccounts"), *_LOWER):
            part = binding.get(kind)
            if not isinstance(part, dict):
                continue
            stored = self._find(plural, namespace, str(part.get("name")))
            if stored is None or table(stored.object, "metadata").get("uid") != part.get("uid"):
                raise Unauthenticated(f"the token's {kind} is gone")
        account = binding["serviceaccount"]
        groups = (GROUP, f"{GROUP}:{namespace}", AUTHENTICATED)
        return User(_user_name(namespace, str(account["name"])), groups, str(account["uid"]))

    def review(self, body: JsonObject) -> JsonObject:
        """Answer a TokenReview: its status."""
        spec = table(body, "spec")
        try:
            user, audiences = self.user(str(spec.get("token") or ""), _texts(spec.get("audiences")))
        except (Unauthenticated, NotFound) as error:
            return {"authenticated": False, "user": {}, "error": error.message}
        info: JsonObject = {"username": user.name, "uid": user.uid, "groups": [*user.groups]}
        return {"authenticated": True, "user": info, "audiences": [*audiences]}


_LOWER = tuple((kind.lower(), plural) for kind, plural in _BOUND.items())


def _seconds(value: Json) -> int:
    if value is None:
        return DEFAULT_SECONDS
    if not isinstance(value, int) or isinstance(value, bool) or value < MIN_SECONDS:
        why = "may not specify a duration less than 10 minutes"
    elif value > MAX_SECONDS:
        why = "may not specify a duration larger than 2^32 seconds"
    else:
        return value
    cause = invalid_value("spec.expirationSeconds", value, why)
    raise invalid("TokenRequest", "authentication.k8s.io", "", [cause])


def _user_name(namespace: str, name: str) -> str:
    return f"system:serviceaccount:{namespace}:{name}"


def _name_and_uid(stored: Stored) -> JsonObject:
    return {"name": stored.key.name, "uid": table(stored.object, "metadata").get("uid")}


def _texts(value: Json) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
