"""Acting for others (`kubectl --as`): each part of whom one wants to be is judged with verb `impersonate`.

Source: Kubernetes "User impersonation".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from gateway.errors import BadRequest
from gateway.kube.auth import ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED, Access, Extra, User
from gateway.kube.authorizer import Authorizer, require
from gateway.wire.kube.rules import SERVICE_ACCOUNT

USER, GROUP, UID = "Impersonate-User", "Impersonate-Group", "Impersonate-Uid"
EXTRA_PREFIX = "impersonate-extra-"
AUTHENTICATION = "authentication.k8s.io"
ACCOUNTS = "system:serviceaccounts"
MAX_PARTS = 256
"""Groups and extras of one request: each costs a decision."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Whom a caller wants to be. Shape: `groups` empty leaves them to the kind of user."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: Extra = ()


def wanted_of(headers: Iterable[tuple[str, str]]) -> Wanted | None:
    """Read the headers; None when the caller is to be itself.

    Errors: BadRequest for groups, uid or extras without a user, and for too many of them.
    """
    name, uid = "", ""
    groups: list[str] = []
    extra: dict[str, list[str]] = {}
    for header, value in headers:
        word = header.lower()
        if not word.startswith("impersonate-"):
            continue
        if word == USER.lower():
            name = value
        elif word == UID.lower():
            uid = value
        elif word == GROUP.lower():
            groups.append(value)
        elif word.startswith(EXTRA_PREFIX):
            extra.setdefault(unquote(word.removeprefix(EXTRA_PREFIX)), []).append(value)
    if len(groups) + sum(map(len, extra.values())) > MAX_PARTS:
        raise BadRequest(f"more than {MAX_PARTS} groups and extras to impersonate")
    if name:
        facts = tuple((key, tuple(values)) for key, values in sorted(extra.items()))
        return Wanted(name, tuple(groups), uid, facts)
    if groups or uid or extra:
        raise BadRequest("requested groups, a uid or extras without impersonating a user")
    return None


def impersonated(authorizer: Authorizer, caller: User, wanted: Wanted | None) -> User:
    """Return whom the request is made for. Errors: Forbidden for each part that the caller may not be."""
    if wanted is None:
        return caller
    for access in _accesses(wanted):
        require(authorizer, caller, access)
    return acting_as(wanted.name, wanted.groups, wanted.uid, wanted.extra)


def acting_as(name: str, groups: Sequence[str] = (), uid: str = "", extra: Extra = ()) -> User:
    """Return a user by its name, with the groups that every such user has."""
    held = tuple(groups)
    account = _account(name)
    if account and not held:
        held = (ACCOUNTS, f"{ACCOUNTS}:{account[0]}")
    if name == ANONYMOUS.name:
        if UNAUTHENTICATED not in held:
            held = (*held, UNAUTHENTICATED)
    elif AUTHENTICATED not in held and UNAUTHENTICATED not in held:
        held = (*held, AUTHENTICATED)
    return User(name, held, uid, extra)


def _accesses(wanted: Wanted) -> Iterable[Access]:
    account = _account(wanted.name)
    if account:
        yield _access("serviceaccounts", account[1], namespace=account[0])
    else:
        yield _access("users", wanted.name)
    for group in wanted.groups:
        yield _access("groups", group)
    for key, values in wanted.extra:
        for value in values:
            yield _access("userextras", value, group=AUTHENTICATION, subresource=key)
    if wanted.uid:
        yield _access("uids", wanted.uid, group=AUTHENTICATION)


def _access(
    resource: str, name: str, *, group: str = "", namespace: str = "", subresource: str = ""
) -> Access:
    return Access(
        verb="impersonate",
        group=group,
        resource=resource,
        subresource=subresource,
        namespace=namespace,
        name=name,
    )


def _account(name: str) -> tuple[str, str] | None:
    """Namespace and name of a ServiceAccount's user, None for others."""
    namespace, colon, own = name.removeprefix(SERVICE_ACCOUNT).partition(":")
    if not name.startswith(SERVICE_ACCOUNT) or not colon or not namespace or not own or ":" in own:
        return None
    return namespace, own
