"""Who is it: user name and password against the registry's hashed passwords.

A password that was right is remembered for a minute as an HMAC under a key that only this process has, and
forgotten when something about its device changes; so a device that sends its password with each request costs
one bcrypt a minute. While a credential's hash is being computed, others for it wait in line: one flight per
credential; unknown users share one line of their own, so that they cannot crowd out devices.
Full: StoreUnavailable.
"""

from __future__ import annotations

import base64
import binascii
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from gateway.errors import GatewayError, StoreUnavailable, TenantNotFound, Unauthenticated
from gateway.hono.passwords import is_slow, matches
from gateway.hono.registry_view import RegistryView
from gateway.model.credentials_json import BCRYPT, FUNCTION, HASH
from gateway.model.login import NO_CONTEXT
from gateway.model.message import Adapter, Principal
from gateway.model.registry import (
    HASHED_PASSWORD,
    Change,
    Credential,
    DeviceCredential,
    RegistryChange,
    Secret,
    Tenant,
)
from gateway.runtime.passwords import NOBODY, RightPasswords

log = logging.getLogger(__name__)

KEEP_SECONDS = 60.0
MAX_KEPT = 10_000
MAX_IN_LINE = 100
"""Different passwords of one credential that wait to be checked."""
MAX_SHARED = 10_000
"""Logins that wait for one check: a fleet with one credential that comes back at once."""
MAX_NAME = 1_024
MAX_PASSWORD = 1_024

Answer = Callable[[Principal | GatewayError], None]

CLIENT_ID = "client-id"
CONTEXT = (CLIENT_ID, "iss")
"""Facts about a login that credentials may ask for in their `ext`."""
WRONG = "credentials are missing, unknown or wrong"


def is_meant(credential: Credential, context: Mapping[str, str]) -> bool:
    """True unless a credential asks for another value of a known fact, e.g. another `client-id`."""
    wanted = credential.ext or {}
    return all(wanted.get(name, value) == value for name, value in context.items())


def asks_for_context(credential: Credential, names: tuple[str, ...] = CONTEXT) -> bool:
    """True where a right password alone does not decide: another login with it is to be looked at again."""
    return credential.ext is not None and any(name in credential.ext for name in names)


def split_username(username: str, password: bytes) -> tuple[str, str, bytes]:
    """Return (auth-id, tenant, password).

    Shape:  `{auth-id}@{tenant}`, split at the first `@`. With an empty password the name may be base64 of
            `{auth-id}@{tenant}:{password}`.
    Errors: Unauthenticated.
    """
    if len(username) > MAX_NAME or len(password) > MAX_PASSWORD:
        raise Unauthenticated("user name or password is too long")
    if not password:
        username, password = _unpacked(username)
    auth_id, at, tenant = username.partition("@")
    if not at or not auth_id or not tenant:
        raise Unauthenticated("user name: expected <auth-id>@<tenant>")
    return auth_id, tenant, password


def _unpacked(username: str) -> tuple[str, bytes]:
    try:
        name, colon, password = base64.b64decode(username, validate=True).partition(b":")
        return name.decode(), password if colon else b""
    except (binascii.Error, ValueError):
        return username, b""


_NOBODY = DeviceCredential(
    "",
    "",
    Credential(
        type=HASHED_PASSWORD, auth_id="", secrets=(Secret(data={HASH: NOBODY, FUNCTION: BCRYPT}),)
    ),
)
"""Whom users are checked against that are unknown or switched off: the time it takes is not to tell."""


@dataclass(slots=True)
class _Check:
    """One password that is to be checked against one credential.

    Shape:  `generation` is how many changes the registry had told when the login came: after another one the
            credential may be an old one, and what proves right is not remembered.
    """

    digest: bytes
    password: bytes = field(repr=False)
    done: Answer
    generation: int
    credential: DeviceCredential = _NOBODY
    context: Mapping[str, str] = field(default_factory=lambda: NO_CONTEXT)

    def is_same(self, other: _Check) -> bool:
        """True when one answer fits both; a credential that was read anew may have changed."""
        return self.digest == other.digest and self.credential is other.credential


def _join(line: deque[list[_Check]], check: _Check) -> bool:
    """Put a check beside its like, or last in line; False when there is no place."""
    same = next((group for group in line if group[0].is_same(check)), None)
    if same is not None and len(same) < MAX_SHARED:
        same.append(check)
        return True
    if same is not None or len(line) >= MAX_IN_LINE:
        return False
    line.append([check])
    return True


def _tell(check: _Check, verdict: Principal | GatewayError) -> None:
    try:
        check.done(verdict)
    except Exception:  # top of a callback: the others in line must hear theirs
        log.exception("a login's verdict was not taken")


class PasswordAuthenticator:
    """The port `Authenticator` on the registry.

    Shape:  `clock` gives seconds since the epoch.
    """

    def __init__(self, registry: RegistryView, *, clock: Callable[[], float] = time.time) -> None:
        self._registry = registry
        self._clock = clock
        self._known: RightPasswords[Principal] = RightPasswords(capacity=MAX_KEPT, now=clock)
        self._lines: dict[tuple[str, str], deque[list[_Check]]] = {}
        self._generation = 0
        registry.on_change(self._changed)

    def check_password(
        self,
        username: str,
        password: bytes,
        adapter: Adapter,
        done: Answer,
        *,
        context: Mapping[str, str] = NO_CONTEXT,
    ) -> None:
        """Check `{auth-id}@{tenant}` and password; answers at once when it was right a moment ago.

        Errors (through `done`): Unauthenticated, also for an unknown tenant; StoreUnavailable when busy.
        """
        del adapter  # whether the tenant uses it is checked with the upload or the connection
        digest = self._known.mark(username.encode("utf-8", "surrogatepass"), password)
        known = self._known.find(digest)
        if known is not None:
            done(known)
            return
        try:
            auth_id, tenant, secret = split_username(username, password)
        except Unauthenticated as error:
            done(error)
            return
        check = _Check(digest, secret, done, self._generation, context=context)
        self._registry.find_tenant(tenant, lambda found: self._with_tenant(check, auth_id, found))

    def _with_tenant(self, check: _Check, auth_id: str, found: Tenant | GatewayError) -> None:
        if isinstance(found, TenantNotFound):
            self._check(check)
        elif isinstance(found, GatewayError):
            check.done(found)
        else:
            self._registry.find_credential(
                found.tenant_id,
                HASHED_PASSWORD,
                auth_id,
                partial(self._with_credential, check),
            )

    def _with_credential(self, check: _Check, found: DeviceCredential | GatewayError) -> None:
        if isinstance(found, Unauthenticated):
            self._check(check)
        elif isinstance(found, GatewayError):
            check.done(found)
        else:
            if is_meant(found.credential, check.context):
                check.credential = found
            self._check(check)

    # --- one flight per credential ----------------------------------------------------------------

    def _check(self, check: _Check) -> None:
        secrets = self._usable(check.credential)
        if not secrets:
            check.credential = _NOBODY
            secrets = self._usable(_NOBODY)
        if not any(map(is_slow, secrets)):
            right = next((s for s in secrets if matches(s, check.password)), None)
            check.done(self._verdict(check, right))
            return
        key = (check.credential.tenant_id, check.credential.credential.auth_id)
        line = self._lines.get(key)
        if line is None:
            self._lines[key] = deque(([check],))
            self._fly(key)
        elif not _join(line, check):
            is_nobody = check.credential is _NOBODY  # whose line strangers could fill
            busy = StoreUnavailable("too many passwords wait to be checked")
            check.done(Unauthenticated(WRONG) if is_nobody else busy)

    def _fly(self, key: tuple[str, str]) -> None:
        """Check the first in line; those with the same password share its answer."""
        check = self._lines[key][0][0]
        self._registry.passwords.check(
            self._usable(check.credential),
            check.password,
            partial(self._landed, key, check),
        )

    def _landed(
        self,
        key: tuple[str, str],
        check: _Check,
        result: Secret | GatewayError | None,
    ) -> None:
        verdict = result if isinstance(result, GatewayError) else self._verdict(check, result)
        line = self._lines[key]
        same = line.popleft()
        if not line:
            del self._lines[key]
        for other in same:
            _tell(other, verdict)
        if line:
            self._fly(key)

    def _usable(self, found: DeviceCredential) -> tuple[Secret, ...]:
        if not found.credential.enabled:
            return ()
        now = self._clock()
        return tuple(s for s in found.credential.secrets if s.is_usable(now))

    def _verdict(self, check: _Check, right: Secret | None) -> Principal | GatewayError:
        found = check.credential
        if right is None or found is _NOBODY:
            return Unauthenticated(WRONG)
        principal = Principal(
            found.tenant_id, found.device_id, found.credential.auth_id, HASHED_PASSWORD
        )
        if check.generation == self._generation and not asks_for_context(found.credential):
            self._remember(check.digest, principal, right)
        return principal

    # --- what was right ---------------------------------------------------------------------------

    def _remember(self, digest: bytes, principal: Principal, secret: Secret) -> None:
        until = self._clock() + KEEP_SECONDS
        if secret.not_after is not None:
            until = min(until, secret.not_after)
        self._known.keep(digest, principal, until)

    def _changed(self, change: RegistryChange) -> None:
        if change.change is Change.CREATE:
            return
        self._generation += 1
        self._known.forget(lambda known: change.concerns(known.tenant, known.device))
