"""Who is asking: pre-authenticated header, bearer token or basic authentication, tried in this order.

The result is the ordered list of authorization subjects that policies speak of. Basic users come from a
users file (`name:bcrypt-hash` per line) and become `nginx:<name>`, as behind the proxy of a standard Ditto;
the names `devops` and `status` belong to the operations API alone. Source: Ditto, authentication.
"""

from __future__ import annotations

import binascii
import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from gateway.ditto.passwords import PasswordChecks, hash_password
from gateway.ditto.throttle import Throttle
from gateway.ditto.tokens import Tokens
from gateway.errors import GatewayError, InvalidSetting, Unauthenticated
from gateway.twin.namespaces import UNLIMITED, Access

SUBJECT_PREFIX = "nginx"
JWT = "jwt"
OPERATOR = "operator"
"""The kind of a caller who is an operator: without subjects."""
DEVOPS = "devops"
STATUS = "status"
RESERVED = frozenset((DEVOPS, STATUS))
MAX_SUBJECTS = 100
MAX_USERS_FILE = 1_048_576
PRE_AUTHENTICATED = "x-ditto-pre-authenticated"


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Caller:
    """A proved caller.

    Shape:  `subjects` in order, the first is the default subject; `expires` seconds since the epoch for
            tokens, else None; `claims` what a token says; `access` the namespaces that it may touch;
            `is_over` says whether a session has ended in which it was proved.
    """

    subjects: tuple[str, ...]
    kind: str
    expires: float | None = None
    claims: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    access: Access = UNLIMITED
    is_over: Callable[[], bool] = field(default=_never, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Presented:
    """What a request says about its caller; nothing in it is checked yet."""

    authorization: str | None = None
    pre_authenticated: str | None = None
    access_token: str | None = None
    session: str | None = None
    """The cookie of the console, where the page itself asks."""
    address: str = ""
    """Whose guesses of passwords are counted together."""


class Sessions(Protocol):
    """Who is signed in at the console, by the cookie."""

    def caller(self, session: str) -> Caller | None:
        """The API's user of a living session."""

    def operator(self, session: str) -> str | None:
        """The operator of a living session."""


def read_users(file: Path) -> dict[str, str]:
    """Read a users file: name -> bcrypt hash.

    Errors: InvalidSetting, naming file and line.
    """
    try:
        text = file.read_text("utf-8")
    except OSError as error:
        raise InvalidSetting(f"{file}: cannot be read: {error.strerror}") from error
    if len(text) > MAX_USERS_FILE:
        raise InvalidSetting(f"{file}: at most {MAX_USERS_FILE} bytes, got {len(text)}")
    users: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, sep, hashed = line.strip().partition(":")
        if not sep or not name or not hashed.startswith(("$2a$", "$2b$", "$2y$")):
            raise InvalidSetting(f"{file}:{number}: expected name:bcrypt-hash")
        users[name] = hashed
    return users


def write_users(file: Path, passwords: Mapping[str, str]) -> None:
    """Write a users file with these passwords, readable by its owner alone."""
    lines = "".join(f"{name}:{hash_password(word)}\n" for name, word in passwords.items())
    new = file.with_suffix(".new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as out:
        out.write(lines)
    new.replace(file)


class Authentication:
    """Turns what a request presents into a Caller.

    Shape:  `users` name -> bcrypt hash; `pre_authentication` trusts the header of a proxy in front;
            `sessions` are those of the console, which count where nothing else is presented.
    """

    def __init__(
        self,
        users: Mapping[str, str],
        checks: PasswordChecks,
        tokens: Tokens,
        *,
        pre_authentication: bool = False,
        sessions: Sessions | None = None,
    ) -> None:
        self._sessions = sessions
        self._users = users
        self._checks = checks
        self._tokens = tokens
        self._pre_authentication = pre_authentication

    async def close(self) -> None:
        """End threads and connections."""
        await self._tokens.close()
        self._checks.close()

    async def caller(self, presented: Presented) -> Caller:
        """Prove an API caller.

        Errors: Unauthenticated `gateway:authentication.failed`, `gateway:jwt.issuer.notsupported`;
                BadRequest `jwt:invalid`; Undeliverable when too many passwords wait;
                QuotaExceeded `gateway:authentication.throttled` after too many wrong ones.
        """
        if self._pre_authentication and presented.pre_authenticated:
            return _pre_authenticated(presented.pre_authenticated)
        scheme, _, credentials = (presented.authorization or "").partition(" ")
        if scheme.lower() == "bearer" or (presented.access_token and not scheme):
            return await self.bearer(credentials.strip() or presented.access_token or "")
        if scheme.lower() == "basic":
            return await self._basic(credentials, RESERVED, presented.address)
        if not scheme and (caller := self._of_session(presented)) is not None:
            return caller
        raise failed("No authentication was presented.")

    def _of_session(self, presented: Presented) -> Caller | None:
        if self._sessions is None or presented.session is None:
            return None
        return self._sessions.caller(presented.session)

    def _operator_of(self, presented: Presented) -> str | None:
        """The operator that is signed in at the console, where nothing else is presented."""
        if self._sessions is None or presented.session is None or presented.authorization:
            return None
        return self._sessions.operator(presented.session)

    @property
    def throttle(self) -> Throttle:
        """What slows down who guesses passwords."""
        return self._checks.throttle

    async def is_right(self, name: str, password: bytes) -> bool:
        """Return True for a user, of the API or of operations, and its password; who asks counts the tries.

        Errors: Undeliverable.
        """
        return await self._checks.verify(name, password, self._users.get(name))

    async def bearer(self, token: str) -> Caller:
        """Prove the owner of a token; errors as `caller`."""
        found = await self._tokens.verify(token)
        return Caller(found.subjects, JWT, found.expires, found.claims)

    async def operator(self, presented: Presented, *names: str) -> None:
        """Prove an operator: one of `names` by basic authentication.

        Errors: Unauthenticated; Undeliverable; QuotaExceeded.
        """
        if self._operator_of(presented) in names:
            return
        scheme, _, credentials = (presented.authorization or "").partition(" ")
        if scheme.lower() != "basic":
            raise failed("No authentication was presented.")
        caller = await self._basic(credentials, frozenset(), presented.address)
        if caller.subjects[0].removeprefix(f"{SUBJECT_PREFIX}:") not in names:
            raise failed("The user is no operator.")

    async def caller_or_operator(self, presented: Presented, *names: str) -> Caller:
        """Prove an API caller, or an operator where its user is one of `names`; errors as `caller`."""
        scheme, _, credentials = (presented.authorization or "").partition(" ")
        if scheme.lower() == "basic" and _decoded(credentials)[0] in names:
            await self.operator(presented, *names)
            return Caller((), OPERATOR)
        if self._of_session(presented) is None and self._operator_of(presented) in names:
            return Caller((), OPERATOR)
        return await self.caller(presented)

    async def _basic(self, credentials: str, refused: frozenset[str], address: str) -> Caller:
        name, password = _decoded(credentials)
        hashed = None if name in refused else self._users.get(name)
        if not await self._checks.verify(name, password, hashed, address):
            raise failed("User name or password is wrong.")
        return Caller((f"{SUBJECT_PREFIX}:{name}",), "pre-authenticated-http")


def _decoded(credentials: str) -> tuple[str, bytes]:
    with contextlib.suppress(binascii.Error, UnicodeDecodeError, ValueError):
        decoded = binascii.a2b_base64(credentials.strip(), strict_mode=True)
        name, sep, password = decoded.partition(b":")
        if sep and name:
            return name.decode(), password
    raise failed("The Basic credentials could not be read.")


def _pre_authenticated(header: str) -> Caller:
    subjects = tuple(dict.fromkeys(s for part in header.split(",") if (s := part.strip())))
    if not subjects or len(subjects) > MAX_SUBJECTS:
        raise failed(f"Expected 1 to {MAX_SUBJECTS} pre-authenticated subjects.")
    return Caller(subjects, "pre-authenticated-http")


def failed(reason: str) -> GatewayError:
    """The one answer to a failed authentication."""
    return Unauthenticated(
        "The request could not be authenticated.",
        code="gateway:authentication.failed",
        description=f"{reason} For a successful authentication present Basic credentials"
        " or a Bearer token.",
    )
