"""Who calls, and what they may do.

Administrators (`system:masters`) may do everything; node identities what an edge node needs; everybody else,
anonymous callers among them, may read health and version, and authenticated ones discovery too. Roles and
bindings are not built yet, so nobody in between exists.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gateway.errors import BadRequest, Forbidden, Unauthenticated

MASTERS = "system:masters"
NODES = "system:nodes"
AUTHENTICATED = "system:authenticated"
UNAUTHENTICATED = "system:unauthenticated"


@dataclass(frozen=True, slots=True)
class User:
    """A caller."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""


ANONYMOUS = User("system:anonymous", (UNAUTHENTICATED,))


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What a request wants: an object, or a plain path."""

    verb: str
    path: str = ""
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""


class Authenticator:
    """Reads certificates and bearer tokens."""

    def __init__(
        self, tokens: Mapping[str, User], judge: Callable[[str], User] | None = None
    ) -> None:
        self._tokens = tuple((token.encode(), user) for token, user in tokens.items())
        self._judge = judge
        """Says whose any other token is. Errors: Unauthenticated."""

    def user(self, certificate: Mapping[str, object] | None, authorization: str | None) -> User:
        """Return the caller; a token counts before a certificate is looked at only when there is none.

        Errors: Unauthenticated for a wrong token.
        """
        if certificate:
            return _from_certificate(certificate)
        if authorization is None:
            return ANONYMOUS
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthenticated("Unauthorized")
        return self._from_token(token.strip())

    def _from_token(self, token: str) -> User:
        sent = token.encode("utf-8", "surrogateescape")  # header bytes need not be UTF-8
        for known, user in self._tokens:
            if hmac.compare_digest(known, sent):
                return _authenticated(user)
        if self._judge is None:
            raise Unauthenticated("Unauthorized")
        try:
            return self._judge(token)
        except Unauthenticated as error:
            raise Unauthenticated("Unauthorized") from error


def acting_as(user: User, name: str | None, groups: Sequence[str], uid: str | None) -> User:
    """The user that an administrator speaks for (`kubectl --as`), or the caller itself.

    Errors: Forbidden for others; BadRequest for groups without a user.
    """
    if name is None:
        if groups or uid:
            raise BadRequest("requested groups or a uid without impersonating a user")
        return user
    if MASTERS not in user.groups:
        raise Forbidden(
            f'users "{name}" is forbidden: User "{user.name}" cannot impersonate resource "users"'
            ' in API group "" at the cluster scope',
            details={"name": name, "kind": "users"},
        )
    if name == ANONYMOUS.name:
        return User(name, (*groups, UNAUTHENTICATED), uid or "")
    return _authenticated(User(name, tuple(groups), uid or ""))


def _authenticated(user: User) -> User:
    return User(user.name, (*user.groups, AUTHENTICATED), user.uid)


def _from_certificate(certificate: Mapping[str, object]) -> User:
    """CN is the user, each O a group; the handshake has verified the chain."""
    name, groups = "", []
    subject = certificate.get("subject")
    for rdn in subject if isinstance(subject, tuple) else ():
        for key, value in rdn:
            if key == "commonName":
                name = str(value)
            elif key == "organizationName":
                groups.append(str(value))
    if not name:
        raise Unauthenticated("Unauthorized")
    return _authenticated(User(name, tuple(groups)))


OPEN_PATHS = ("/healthz", "/livez", "/readyz", "/version")
DISCOVERY_PATHS = ("/api", "/apis", "/openapi")
SELF_REVIEWS = ("selfsubjectaccessreviews", "selfsubjectrulesreviews", "selfsubjectreviews")

READ = ("get", "list", "watch")
NODE_RULES: Mapping[str, tuple[str, ...]] = {
    "nodes": (*READ, "create", "patch", "update"),
    "nodes/status": ("patch", "update"),
    "leases": (*READ, "create", "patch", "update", "delete"),
    "events": ("create", "patch", "update"),
    "pods": READ,
    "tokenreviews": ("create",),
}
"""Secrets, ConfigMaps and tokens of its Pods a node gets through CloudCore, which knows its Pods."""


def is_allowed(user: User, access: Access) -> bool:
    """Decide by group, as the roles that a cluster starts with would."""
    if MASTERS in user.groups:
        return True
    if not access.resource:
        return access.verb in ("get", "head") and _may_read_path(user, access.path)
    if AUTHENTICATED not in user.groups:
        return False
    if access.resource in SELF_REVIEWS:
        return access.verb == "create"
    return NODES in user.groups and _node_may(user, access)


def _may_read_path(user: User, path: str) -> bool:
    if _is_below(path, OPEN_PATHS):
        return True
    return AUTHENTICATED in user.groups and _is_below(path, DISCOVERY_PATHS)


def _is_below(path: str, roots: tuple[str, ...]) -> bool:
    return any(path == root or path.startswith(root + "/") for root in roots)


def _node_may(user: User, access: Access) -> bool:
    resource = f"{access.resource}/{access.subresource}" if access.subresource else access.resource
    if access.verb not in NODE_RULES.get(resource, ()):
        return False
    own = user.name.removeprefix("system:node:")
    if access.resource == "leases":
        return access.namespace == "kube-node-lease" and access.name in ("", own)
    if access.resource == "nodes" and access.verb not in (*READ, "create"):
        return access.name == own
    return True


def require_own(user: User, access: Access) -> None:
    """Refuse a node that makes the Node or Lease of another, as `access` names it. Errors: Forbidden."""
    if NODES not in user.groups or MASTERS in user.groups:
        return
    own = user.name.removeprefix("system:node:")
    if access.resource in ("nodes", "leases") and access.name != own:
        raise _forbidden(user, access)


def require(user: User, access: Access) -> None:
    """Raise what a caller without the right is told. Errors: Forbidden."""
    if is_allowed(user, access):
        return
    raise _forbidden(user, access)


def _forbidden(user: User, access: Access) -> Forbidden:
    if not access.resource:
        return Forbidden(f'forbidden: User "{user.name}" cannot {access.verb} path "{access.path}"')
    where = f'in the namespace "{access.namespace}"' if access.namespace else "at the cluster scope"
    plural = f"{access.resource}.{access.group}" if access.group else access.resource
    resource = f"{access.resource}/{access.subresource}" if access.subresource else access.resource
    named = f' "{access.name}"' if access.name else ""
    return Forbidden(
        f'{plural}{named} is forbidden: User "{user.name}" cannot {access.verb} resource'
        f' "{resource}" in API group "{access.group}" {where}',
        details={"name": access.name, "group": access.group, "kind": access.resource},
    )
