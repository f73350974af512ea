"""Who calls: by client certificate, bearer token, in another's name, or nobody."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gateway.errors import BadRequest, Unauthenticated
from gateway.model.json import JsonObject
from gateway.wire.kube.selectors import parse_fields

MASTERS = "system:masters"
NODES = "system:nodes"
AUTHENTICATED = "system:authenticated"
UNAUTHENTICATED = "system:unauthenticated"
CREDENTIAL = "authentication.kubernetes.io/credential-id"
"""Extra fact about a caller: which certificate or token it showed."""

Extra = tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True)
class User:
    """A caller. Shape: `extra` are further facts, by name."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: Extra = ()


ANONYMOUS = User("system:anonymous", (UNAUTHENTICATED,))


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What a request wants: an object, or a plain path.

    Shape:  `name` is also set for a list or watch of one name; `fields` are the terms of a field selector
            that ask for equality, as (path, value).
    """

    verb: str
    path: str = ""
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    fields: tuple[tuple[str, str], ...] = ()


def selected(fields: str | None) -> tuple[tuple[str, str], ...]:
    """The terms of a field selector's text that ask for equality, split exactly as the list will be.

    Shape:  none for a text that is no selector: such a request is refused after it was judged.
    """
    try:
        terms = parse_fields(fields, any_field=True).terms
    except BadRequest:
        return ()
    return tuple((term.path, term.value) for term in terms if term.is_equal)


def access_to(
    verb: str,
    group: str,
    resource: str,
    *,
    subresource: str = "",
    namespace: str = "",
    name: str = "",
    fields: str | None = None,
) -> Access:
    """What a request for objects wants; `fields` is the text of its field selector."""
    terms = selected(fields) if verb in _MANY else ()
    if verb in _MANY and not name:
        name = next((value for path, value in terms if path == "metadata.name"), "")
    if resource == "namespaces" and not group and not namespace and verb not in _MANY:
        namespace = name
    return Access(
        verb=verb,
        group=group,
        resource=resource,
        subresource=subresource,
        namespace=namespace,
        name=name,
        fields=terms,
    )


_MANY = ("list", "watch", "deletecollection")

TokenJudge = Callable[[str], "User | None"]
"""Says whose a token is; None when it is of another kind. Errors: Unauthenticated."""


class Authenticator:
    """Reads certificates and bearer tokens.

    Shape:  `tokens` are known ones, `judges` are asked in turn about others; without `anonymous` a caller has
            to show something.
    """

    def __init__(
        self,
        tokens: Mapping[str, User],
        judges: Sequence[TokenJudge] = (),
        *,
        anonymous: bool = True,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._tokens = tuple((token.encode(), user) for token, user in tokens.items())
        self._judges = tuple(judges)
        self._anonymous = anonymous
        self._now = now

    def user(
        self,
        certificate: Mapping[str, object] | None,
        authorization: str | None,
        der: bytes | None = None,
    ) -> User:
        """Return the caller; a token is looked at only when there is no certificate.

        Shape:  `certificate` as the TLS layer reads it, verified but for its time; `der` the whole of it.
        Errors: Unauthenticated for a wrong token, a certificate that ended, or nobody where nobody may.
        """
        if certificate:
            return _from_certificate(certificate, der, self._now())
        if authorization is None:
            return self._nobody()
        scheme, _, token = authorization.strip().partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            return self._from_token(token.strip())
        return self._nobody()  # other schemes say nothing here

    def _nobody(self) -> User:
        if not self._anonymous:
            raise Unauthenticated("Unauthorized")
        return ANONYMOUS

    def _from_token(self, token: str) -> User:
        sent = token.encode("utf-8", "surrogateescape")  # header bytes need not be UTF-8
        for known, user in self._tokens:
            if hmac.compare_digest(known, sent):
                return authenticated(user)
        try:
            for judge in self._judges:
                found = judge(token)
                if found is not None:
                    return authenticated(found)
        except Unauthenticated as error:
            raise Unauthenticated("Unauthorized") from error
        raise Unauthenticated("Unauthorized")

    def of_token(self, token: str) -> User:
        """Return whose a token is. Errors: Unauthenticated, without saying why."""
        return self._from_token(token)


def user_info(user: User) -> JsonObject:
    """A user as reviews and audit events show it."""
    info: JsonObject = {"username": user.name}
    if user.uid:
        info["uid"] = user.uid
    if user.groups:
        info["groups"] = [*user.groups]
    if user.extra:
        info["extra"] = {key: [*values] for key, values in user.extra}
    return info


def authenticated(user: User) -> User:
    """Add the group of all who showed who they are."""
    if AUTHENTICATED in user.groups:
        return user
    return User(user.name, (*user.groups, AUTHENTICATED), user.uid, user.extra)


def _from_certificate(certificate: Mapping[str, object], der: bytes | None, now: float) -> User:
    """CN is the user, each O a group; the handshake has verified the chain."""
    name, groups = "", []
    subject = certificate.get("subject")
    for rdn in subject if isinstance(subject, tuple) else ():
        for key, value in rdn:
            if key == "commonName":
                name = str(value)
            elif key == "organizationName":
                groups.append(str(value))
    if not name or not _is_valid_at(certificate, now):
        raise Unauthenticated("Unauthorized")
    extra: Extra = ()
    if der:
        extra = ((CREDENTIAL, (f"X509SHA256={hashlib.sha256(der).hexdigest()}",)),)
    return authenticated(User(name, tuple(groups), "", extra))


def _is_valid_at(certificate: Mapping[str, object], now: float) -> bool:
    begin, end = certificate.get("notBefore"), certificate.get("notAfter")
    if isinstance(begin, str) and now < ssl.cert_time_to_seconds(begin):
        return False
    return not isinstance(end, str) or now <= ssl.cert_time_to_seconds(end)


def der_of(transport: asyncio.Transport | None) -> bytes | None:
    """The whole certificate of the caller."""
    tls = transport.get_extra_info("ssl_object") if transport else None
    return tls.getpeercert(binary_form=True) if tls is not None else None
