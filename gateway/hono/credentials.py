"""Who is it: user name and password against the registry's hashed passwords.

A password that was right is remembered for a minute as an HMAC under a key that only this process has, and
forgotten when something about its device changes; so a device that sends its password with each request costs
one bcrypt a minute. While a credential's hash is being computed, others for it wait in line: one flight per
credential. Full: StoreUnavailable.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from gateway.errors import GatewayError, StoreUnavailable, TenantNotFound, Unauthenticated
from gateway.hono.passwords import is_slow, matches
from gateway.hono.registry import Registry
from gateway.model.message import Adapter, Principal
from gateway.model.registry import (
    HASHED_PASSWORD,
    Change,
    DeviceCredential,
    RegistryChange,
    Secret,
    Tenant,
)

KEEP_SECONDS = 60.0
MAX_KEPT = 10_000
MAX_IN_LINE = 100
MAX_NAME = 1_024
MAX_PASSWORD = 1_024

Answer = Callable[[Principal | GatewayError], None]

WRONG = "credentials are missing, unknown or wrong"


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


@dataclass(slots=True)
class _Check:
    """One password that is to be checked against one credential."""

    digest: bytes
    password: bytes
    credential: DeviceCredential
    done: Answer

    def is_same(self, other: _Check) -> bool:
        """True when one answer fits both; a credential that was read anew may have changed."""
        return self.digest == other.digest and self.credential is other.credential


@dataclass(frozen=True, slots=True)
class _Known:
    """A password that was right; `until` in seconds since the epoch."""

    principal: Principal
    until: float


class PasswordAuthenticator:
    """The port `Authenticator` on the registry.

    Shape:  `clock` gives seconds since the epoch.
    """

    def __init__(self, registry: Registry, *, clock: Callable[[], float] = time.time) -> None:
        self._registry = registry
        self._clock = clock
        self._key = os.urandom(32)
        self._known: dict[bytes, _Known] = {}
        self._lines: dict[tuple[str, str], deque[_Check]] = {}
        self._generation = 0
        registry.on_change(self._changed)

    def check_password(
        self, username: str, password: bytes, adapter: Adapter, done: Answer
    ) -> None:
        """Check `{auth-id}@{tenant}` and password; answers at once when it was right a moment ago.

        Errors (through `done`): Unauthenticated, also for an unknown tenant; StoreUnavailable when busy.
        """
        del adapter  # whether the tenant uses it is checked with the upload or the connection
        digest = self._digest(username, password)
        known = self._known.get(digest)
        if known is not None and known.until > self._clock():
            done(known.principal)
            return
        try:
            auth_id, tenant, secret = split_username(username, password)
        except Unauthenticated as error:
            done(error)
            return
        self._registry.find_tenant(
            tenant, lambda found: self._with_tenant(found, auth_id, secret, digest, done)
        )

    def _digest(self, username: str, password: bytes) -> bytes:
        name = username.encode("utf-8", "surrogatepass")
        return hmac.digest(self._key, len(name).to_bytes(4) + name + password, "sha256")

    def _with_tenant(
        self,
        found: Tenant | GatewayError,
        auth_id: str,
        password: bytes,
        digest: bytes,
        done: Answer,
    ) -> None:
        if isinstance(found, TenantNotFound):
            done(Unauthenticated(WRONG))
        elif isinstance(found, GatewayError):
            done(found)
        else:
            self._registry.find_credential(
                found.tenant_id,
                HASHED_PASSWORD,
                auth_id,
                lambda credential: self._with_credential(credential, password, digest, done),
            )

    def _with_credential(
        self,
        found: DeviceCredential | GatewayError,
        password: bytes,
        digest: bytes,
        done: Answer,
    ) -> None:
        if isinstance(found, Unauthenticated):
            done(Unauthenticated(WRONG))
        elif isinstance(found, GatewayError):
            done(found)
        else:
            self._check(_Check(digest, password, found, done))

    # --- one flight per credential ----------------------------------------------------------------

    def _check(self, check: _Check) -> None:
        secrets = self._usable(check.credential)
        if not any(map(is_slow, secrets)):
            right = next((s for s in secrets if matches(s, check.password)), None)
            check.done(self._verdict(check, right, self._generation))
            return
        key = (check.credential.tenant_id, check.credential.credential.auth_id)
        line = self._lines.get(key)
        if line is None:
            self._lines[key] = deque((check,))
            self._fly(key)
        elif len(line) >= MAX_IN_LINE:
            check.done(StoreUnavailable("too many passwords wait to be checked"))
        else:
            line.append(check)

    def _fly(self, key: tuple[str, str]) -> None:
        """Check the first in line; those with the same password share its answer."""
        check = self._lines[key][0]
        self._registry.passwords.check(
            self._usable(check.credential),
            check.password,
            partial(self._landed, key, check, self._generation),
        )

    def _landed(
        self,
        key: tuple[str, str],
        check: _Check,
        generation: int,
        result: Secret | GatewayError | None,
    ) -> None:
        verdict = (
            result if isinstance(result, GatewayError) else self._verdict(check, result, generation)
        )
        line = self._lines.pop(key)
        rest = deque(other for other in line if not other.is_same(check))
        if rest:
            self._lines[key] = rest
        for other in line:
            if other.is_same(check):
                other.done(verdict)
        if rest:
            self._fly(key)

    def _usable(self, found: DeviceCredential) -> tuple[Secret, ...]:
        if not found.credential.enabled:
            return ()
        now = self._clock()
        return tuple(s for s in found.credential.secrets if s.is_usable(now))

    def _verdict(
        self, check: _Check, right: Secret | None, generation: int
    ) -> Principal | GatewayError:
        if right is None:
            return Unauthenticated(WRONG)
        found = check.credential
        principal = Principal(
            found.tenant_id, found.device_id, found.credential.auth_id, HASHED_PASSWORD
        )
        if generation == self._generation:
            self._remember(check.digest, principal, right)
        return principal

    # --- what was right ---------------------------------------------------------------------------

    def _remember(self, digest: bytes, principal: Principal, secret: Secret) -> None:
        until = self._clock() + KEEP_SECONDS
        if secret.not_after is not None:
            until = min(until, secret.not_after)
        if len(self._known) >= MAX_KEPT:
            del self._known[next(iter(self._known))]
        self._known[digest] = _Known(principal, until)

    def _changed(self, change: RegistryChange) -> None:
        if change.change is Change.CREATE:
            return
        self._generation += 1
        stale = [
            digest
            for digest, known in self._known.items()
            if change.concerns(known.principal.tenant, known.principal.device)
        ]
        for digest in stale:
            del self._known[digest]
