"""Tokens of ServiceAccounts: made by TokenRequest, judged by TokenReview and at the door.

A token is bound to its account's uid, and to the Pod, Secret or Node that the request names: it ends with
them. Signed with ES256; whoever wants to check one reads `/openid/v1/jwks`, or asks for a TokenReview, which
also knows what has ended since. Tokens of former versions (HS256) are refused.
Source: Kubernetes "Managing Service Accounts", TokenRequest and TokenReview.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from gateway.errors import BadRequest, NotFound, Unauthenticated
from gateway.kube.auth import AUTHENTICATED, User, authenticated, user_info
from gateway.kube.signing import SigningKey
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
EXTENDED_FROM, EXTENDED_TO = 3_607, 365 * 86_400
"""A Pod's usual token is good for a year: programs that never read it anew go on; `warnafter` tells."""
DEFAULT_SECONDS, MIN_SECONDS, MAX_SECONDS = 3_600, 600, 1 << 32
GROUP = "system:serviceaccounts"
MAX_VERIFIED = 1_000
"""Tokens whose signature has been checked already."""
_BOUND = {"Pod": "pods", "Secret": "secrets", "Node": "nodes"}
_FACT = "authentication.kubernetes.io/"


class Accounts:
    """Shape: `key` (PEM, EC P-256) signs the tokens; who knows it is every account."""

    def __init__(self, objects: Objects, key: bytes) -> None:
        self._objects = objects
        self._key = SigningKey.read(key)
        self._verified: dict[str, dict[str, Any]] = {}
        self.others: Callable[[str], User] | None = None
        """Says whose a token of another kind is, for TokenReviews. Errors: Unauthenticated."""

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
        binding = self._binding(account, table(spec, "boundObjectRef"))
        good_for = seconds
        if seconds == EXTENDED_FROM and "pod" in binding and ISSUER in audiences:
            good_for, binding["warnafter"] = EXTENDED_TO, now + seconds
        claims = self._claims(account, binding, audiences, now) | {"exp": now + good_for}
        return {
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {"name": account.key.name, "namespace": account.key.namespace},
            "spec": {**spec, "audiences": [*audiences], "expirationSeconds": seconds},
            "status": {
                "token": self._key.sign(claims),
                "expirationTimestamp": rfc3339(now + seconds),
            },
        }

    def _claims(
        self, account: Stored, binding: JsonObject, audiences: list[str], now: int
    ) -> dict[str, Any]:
        return {
            "iss": ISSUER,
            "sub": _user_name(account.key.namespace, account.key.name),
            "aud": audiences,
            "iat": now,
            "nbf": now,
            "jti": str(uuid.uuid4()),
            "kubernetes.io": binding,
        }

    def secret_token(self, account: JsonObject, secret: JsonObject) -> str:
        """Make the token of a Secret for an account: it ends with the Secret, not before."""
        meta = table(account, "metadata")
        namespace, name = str(meta.get("namespace")), str(meta.get("name"))
        claims = {
            "iss": "kubernetes/serviceaccount",
            "kubernetes.io/serviceaccount/namespace": namespace,
            "kubernetes.io/serviceaccount/secret.name": table(secret, "metadata").get("name"),
            _LEGACY_NAME: name,
            f"{_LEGACY}.uid": meta.get("uid"),
            "sub": _user_name(namespace, name),
        }
        return self._key.sign(claims)

    def key_set(self) -> JsonObject:
        """The public key, as `/openid/v1/jwks` shows it."""
        return {"keys": [self._key.public_document()]}

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
        if kind == "Pod" and _account_of(bound) != account.key.name:
            raise BadRequest(
                f'cannot bind token for serviceaccount "{account.key.name}" to pod running with different'
                " serviceaccount name."
            )
        binding[kind.lower()] = _name_and_uid(bound)
        node = table(bound.object, "spec").get("nodeName") if kind == "Pod" else None
        host = self._find("nodes", "", str(node)) if node else None
        if host is not None:
            binding["node"] = _name_and_uid(host)
        return binding

    def _find(self, plural: str, namespace: str, name: str) -> Stored | None:
        place = "" if plural == "nodes" else namespace
        return self._objects.storage.get(Key(plural, place, name))

    # --- judging ----------------------------------------------------------------------------------

    def user(self, token: str, audiences: list[str] | None = None) -> tuple[User, list[str]]:
        """Return whose token it is, and for which of the audiences. Errors: Unauthenticated."""
        claims = self._verify(token)
        wanted = audiences or [ISSUER]
        if _LEGACY_NAME in claims:
            return self._secret_user(claims, token), [each for each in wanted if each == ISSUER]
        held = claims["aud"] if isinstance(claims.get("aud"), list) else [claims.get("aud")]
        fitting = [each for each in wanted if each in held]
        if not fitting:
            shown, asked = _quoted_list(held), _quoted_list(wanted)
            why = f"token audiences {shown} is invalid for the target audiences {asked}"
            raise Unauthenticated(f"[invalid bearer token, {why}]")
        binding = claims.get("kubernetes.io")
        user = self._bound_user(binding if isinstance(binding, dict) else {}, claims.get("jti"))
        return user, fitting

    def judge(self, token: str) -> User | None:
        """Return whose token it is, None when it is none of an account. Errors: Unauthenticated."""
        return self.user(token)[0] if token.count(".") == 2 else None

    def _verify(self, token: str) -> dict[str, Any]:
        """Return the claims of a token that we signed and that is good now. Errors: Unauthenticated."""
        known = self._verified.get(token)
        if known is None:
            known = self._key.verified(token)
            if len(self._verified) >= MAX_VERIFIED:
                self._verified.clear()
            self._verified[token] = known
        now = self._objects.now()
        if "exp" in known and now > known["exp"] + LEEWAY:
            raise Unauthenticated(_bad("service account token has expired"))
        if "nbf" in known and now < known["nbf"] - LEEWAY:
            raise Unauthenticated(_bad("service account token is not valid yet"))
        if "exp" not in known and _LEGACY_NAME not in known:
            raise Unauthenticated("invalid bearer token")
        return known

    def _bound_user(self, binding: Mapping[str, Any], token_id: object) -> User:
        """Errors: Unauthenticated when what the token is bound to is gone."""
        namespace = str(binding.get("namespace"))
        facts: dict[str, str] = {"credential-id": f"JTI={token_id}"} if token_id else {}
        for kind, plural in (("serviceaccount", "serviceaccounts"), *_LOWER):
            part = binding.get(kind)
            if not isinstance(part, dict):
                continue
            if kind in ("pod", "node"):
                facts[f"{kind}-name"] = str(part.get("name"))
                facts[f"{kind}-uid"] = str(part.get("uid"))
            if kind == "node" and "pod" in binding:
                continue  # a fact about the Pod: the token ends with the Pod alone
            self._require(plural, namespace, part, is_account=kind == "serviceaccount")
        account = binding.get("serviceaccount")
        if not isinstance(account, dict):
            raise Unauthenticated("invalid bearer token")
        return _account_user(namespace, str(account["name"]), str(account["uid"]), facts)

    def _require(
        self, plural: str, namespace: str, part: Mapping[str, Any], *, is_account: bool
    ) -> None:
        """Errors: Unauthenticated when an object is gone, or another one of its name is there."""
        name, uid = str(part.get("name")), part.get("uid")
        stored = self._find(plural, namespace, name)
        if stored is None:
            why = f'serviceaccounts "{name}" not found' if is_account else _INVALIDATED
            raise Unauthenticated(_bad(why))
        if _uid(stored) == uid:
            return
        kind = plural.removesuffix("s").removeprefix("service")
        claim = "claim" if is_account else f"service account {kind} ref claim"
        shown = "service account" if is_account else kind
        raise Unauthenticated(_bad(f"{shown} UID ({_uid(stored)}) does not match {claim} ({uid})"))

    def _secret_user(self, claims: Mapping[str, Any], token: str) -> User:
        """The account of a Secret's token. Errors: Unauthenticated when Secret or account are gone."""
        namespace = str(claims.get("kubernetes.io/serviceaccount/namespace"))
        name, uid = str(claims[_LEGACY_NAME]), str(claims.get(f"{_LEGACY}.uid"))
        self._require("serviceaccounts", namespace, {"name": name, "uid": uid}, is_account=True)
        place = str(claims.get("kubernetes.io/serviceaccount/secret.name"))
        secret = self._find("secrets", namespace, place)
        held = table(secret.object, "data").get("token") if secret else None
        if held != base64.b64encode(token.encode()).decode():
            raise Unauthenticated(_bad(_INVALIDATED))
        return _account_user(namespace, name, uid, {})

    def review(self, body: JsonObject) -> JsonObject:
        """Answer a TokenReview: its status."""
        spec = table(body, "spec")
        token, wanted = str(spec.get("token") or ""), _texts(spec.get("audiences"))
        try:
            user, audiences = self._reviewed(token, wanted)
        except (Unauthenticated, NotFound) as error:
            why = error.message if error.message != "Unauthorized" else "invalid bearer token"
            return {"user": {}, "error": why}
        answer: JsonObject = {"authenticated": True, "user": user_info(authenticated(user))}
        return answer | {"audiences": [*(audiences or [ISSUER])]}

    def _reviewed(self, token: str, wanted: list[str]) -> tuple[User, list[str]]:
        """Whose a token of any kind is. Errors: Unauthenticated."""
        if token.count(".") == 2:
            return self.user(token, wanted)
        if self.others is None:
            raise Unauthenticated("invalid bearer token")
        return self.others(token), [each for each in wanted if each == ISSUER]


LEEWAY = 60
_LEGACY = "kubernetes.io/serviceaccount/service-account"
_LEGACY_NAME = f"{_LEGACY}.name"
_INVALIDATED = "service account token has been invalidated"


def _bad(why: str) -> str:
    return f"[invalid bearer token, {why}]"


def _account_user(namespace: str, name: str, uid: str, facts: Mapping[str, str]) -> User:
    groups = (GROUP, f"{GROUP}:{namespace}", AUTHENTICATED)
    extra = tuple((_FACT + key, (value,)) for key, value in sorted(facts.items()))
    return User(_user_name(namespace, name), groups, uid, extra)


def _account_of(pod: Stored) -> str:
    return str(table(pod.object, "spec").get("serviceAccountName") or "")


def _uid(stored: Stored) -> str:
    return str(table(stored.object, "metadata").get("uid") or "")


def _quoted_list(values: Iterable[object]) -> str:
    return "[" + " ".join(f'"{each}"' for each in values) + "]"


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
