"""Bootstrap tokens, `ID.SECRET`: Secrets of kube-system with which new nodes ask for certificates.

Source: Kubernetes "Authenticating with Bootstrap Tokens".
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Callable

from gateway.errors import Unauthenticated
from gateway.kube.auth import User
from gateway.kube.storage import Storage
from gateway.kube.strategies import table
from gateway.kube.watch import Key
from gateway.model.json import JsonObject
from gateway.wire.kube.clock import parse_rfc3339

TYPE = "bootstrap.kubernetes.io/token"
NAMESPACE, PREFIX = "kube-system", "bootstrap-token-"
GROUP, USER = "system:bootstrappers", "system:bootstrap:"
_TOKEN = re.compile(r"([a-z0-9]{6})\.([a-z0-9]{16})")
_GROUP = re.compile(r"system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]")


class BootstrapTokens:
    """Says whose such a token is, from the Secret of its id."""

    def __init__(self, storage: Storage, now: Callable[[], float]) -> None:
        self._storage = storage
        self._now = now

    def judge(self, token: str) -> User | None:
        """Return the user, None for a token of another kind. Errors: Unauthenticated."""
        match = _TOKEN.fullmatch(token)
        if match is None:
            return None
        token_id, secret = match.groups()
        stored = self._storage.get(Key("secrets", NAMESPACE, PREFIX + token_id))
        data = _usable(stored.object) if stored else None
        if data is None or not hmac.compare_digest(data.get("token-secret", ""), secret):
            raise Unauthenticated("invalid bearer token")
        ends = data.get("expiration")
        when = parse_rfc3339(ends) if ends else None
        is_over = bool(ends) and (when is None or when <= self._now())
        if is_over or data.get("token-id") != token_id:
            raise Unauthenticated("invalid bearer token")
        if data.get("usage-bootstrap-authentication") != "true":
            raise Unauthenticated("invalid bearer token")
        return User(USER + token_id, (*_groups(data.get("auth-extra-groups", "")), GROUP))


def _usable(secret: JsonObject) -> dict[str, str] | None:
    """The contents of a Secret that holds a token and stays."""
    if secret.get("type") != TYPE or table(secret, "metadata").get("deletionTimestamp"):
        return None
    found = {}
    for key, value in table(secret, "data").items():
        try:
            found[key] = base64.b64decode(str(value), validate=True).decode("ascii")
        except (binascii.Error, ValueError):
            return None
    return found


def _groups(text: str) -> tuple[str, ...]:
    """The further groups; one that is not allowed makes the token useless."""
    groups = sorted({group.strip() for group in text.split(",") if group.strip()})
    if any(not _GROUP.fullmatch(group) for group in groups):
        raise Unauthenticated("invalid bearer token")
    return tuple(groups)
