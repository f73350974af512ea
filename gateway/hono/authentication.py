"""Who a device is, by whatever it brought: certificate, token, user name and password, in this order.

A certificate that is trusted decides alone; one that nobody trusts leaves the word to what else was brought,
and so does a password that only looks like a token. Verdicts about certificates and tokens are remembered as
those about passwords are: for a minute, and until something about the device or its tenant changes.
Source: Hono, Device Authentication.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

from cryptography import x509

from gateway.errors import GatewayError, StoreUnavailable, TenantNotFound, Unauthenticated
from gateway.hono.client_certificates import (
    UNTRUSTED,
    auth_id_of,
    load_certificate,
    trusted_anchor,
)
from gateway.hono.credentials import (
    CLIENT_ID,
    KEEP_SECONDS,
    MAX_KEPT,
    Answer,
    PasswordAuthenticator,
    asks_for_context,
    is_meant,
)
from gateway.hono.provisioning import Found, Newcomer
from gateway.hono.registry_view import RegistryView
from gateway.hono.tokens import Token, check_token, looks_like_token, read_token
from gateway.model.login import Login, TlsPeer
from gateway.model.message import Adapter, Principal
from gateway.model.registry import (
    RPK,
    X509,
    Change,
    DeviceCredential,
    RegistryChange,
    Secret,
    Subject,
    Tenant,
)
from gateway.runtime.passwords import RightPasswords

MISSING = "credentials are missing"
UNKNOWN = "credentials are unknown, switched off or not valid now"


class ProvisionsByCertificate(Protocol):
    """Makes the devices that trusted certificates stand for (`provisioning.Provisioning`)."""

    def by_certificate(self, new: Newcomer, done: Found) -> None: ...


class DeviceAuthenticator:
    """The port `Authenticator` on the registry; without `provisioning` unknown devices stay unknown.

    Shape:  `clock` gives seconds since the epoch.
    """

    def __init__(
        self,
        registry: RegistryView,
        passwords: PasswordAuthenticator | None = None,
        provisioning: ProvisionsByCertificate | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._registry = registry
        self._passwords = passwords or PasswordAuthenticator(registry, clock=clock)
        self._provisioning = provisioning
        self._clock = clock
        self._known: RightPasswords[Principal] = RightPasswords(capacity=MAX_KEPT, now=clock)
        self._generation = 0
        self.check_password = self._passwords.check_password
        registry.on_change(self._changed)

    def check_login(self, login: Login, adapter: Adapter, done: Answer) -> None:
        """Find out who logs in; answers at once when the same was right a moment ago.

        Errors (through `done`): Unauthenticated, also for unknown tenants; StoreUnavailable; what
            provisioning says.
        """
        if login.peer.certificate is None:
            self._by_token(login, adapter, done)
            return

        def judged(found: Principal | GatewayError) -> None:
            if isinstance(found, _Untrusted) and (login.token or login.username is not None):
                self._by_token(login, adapter, done)
            else:
                done(found)

        self._by_certificate(login.peer, judged)

    def _by_token(self, login: Login, adapter: Adapter, done: Answer) -> None:
        if login.token is not None:
            self._check_token(login.token, login, done)
        elif adapter is Adapter.MQTT and (text := _as_token(login)) is not None:
            self._check_token(text, login, done)
        elif login.username is not None and login.password is not None:
            self._passwords.check_password(
                login.username, login.password, adapter, done, context=login.context
            )
        else:
            done(Unauthenticated(MISSING))

    # --- certificates -------------------------------------------------------------------------------

    def _by_certificate(self, peer: TlsPeer, done: Answer) -> None:
        data = peer.certificate or b""
        mark = self._known.mark(b"x509", data, (peer.server_name or "").encode())
        known = self._known.find(mark)
        if known is not None:
            done(known)
            return
        try:
            certificate = load_certificate(data)
        except Unauthenticated as error:
            done(_Untrusted(error.message))
            return
        attempt = _Attempt(mark, self._generation, done, certificate)
        self._registry.find_tenant_by_anchor(
            certificate.issuer.rfc4514_string(), partial(self._with_tenant, attempt, peer)
        )

    def _with_tenant(self, attempt: _Attempt, peer: TlsPeer, found: Tenant | GatewayError) -> None:
        label, dot, _ = (peer.server_name or "").partition(".")
        if isinstance(found, TenantNotFound) and label and dot:
            self._registry.find_tenant(label, partial(self._judge, attempt))
        else:
            self._judge(attempt, found)

    def _judge(self, attempt: _Attempt, found: Tenant | GatewayError) -> None:
        if isinstance(found, TenantNotFound):
            attempt.done(_Untrusted(UNTRUSTED))
            return
        if isinstance(found, GatewayError):
            attempt.done(found)
            return
        try:
            anchor = trusted_anchor(attempt.certificate, found.trust_anchors, self._clock())
            auth_id = auth_id_of(attempt.certificate, anchor)
        except Unauthenticated as error:
            attempt.done(_Untrusted(error.message))
            return
        newcomer = Newcomer(found, anchor, attempt.certificate, auth_id)
        self._registry.find_credential(
            found.tenant_id, X509, auth_id, partial(self._with_credential, attempt, newcomer)
        )

    def _with_credential(
        self, attempt: _Attempt, newcomer: Newcomer, found: DeviceCredential | GatewayError
    ) -> None:
        is_unknown = isinstance(found, Unauthenticated)
        if is_unknown and newcomer.anchor.provisions and self._provisioning is not None:
            self._provisioning.by_certificate(newcomer, partial(self._provisioned, attempt))
        else:
            self._identified(attempt, found)

    def _provisioned(self, attempt: _Attempt, found: DeviceCredential | GatewayError) -> None:
        if isinstance(found, GatewayError) and not isinstance(found, StoreUnavailable):
            found = Unauthenticated(found.message)
        self._identified(attempt, found)

    def _identified(self, attempt: _Attempt, found: DeviceCredential | GatewayError) -> None:
        if isinstance(found, GatewayError):
            attempt.done(found)
            return
        secrets = usable_secrets(found, self._clock())
        if not secrets:
            attempt.done(Unauthenticated(UNKNOWN))
            return
        end = attempt.certificate.not_valid_after_utc.timestamp()
        self._accept(attempt, _principal(found, X509), min(end, _end_of(secrets)))

    # --- tokens ---------------------------------------------------------------------------------------

    def _check_token(self, text: str, login: Login, done: Answer) -> None:
        claimed = "/".join(login.claimed or ())
        mark = self._known.mark(b"rpk", text.encode("utf-8", "surrogatepass"), claimed.encode())
        known = self._known.find(mark)
        if known is not None:
            done(known)
            return
        try:
            token = read_token(text, login.claimed)
        except Unauthenticated as error:
            done(error)
            return
        attempt = _Attempt(mark, self._generation, done)
        self._registry.find_tenant(token.tenant, partial(self._token_tenant, attempt, token, login))

    def _token_tenant(
        self, attempt: _Attempt, token: Token, login: Login, found: Tenant | GatewayError
    ) -> None:
        if isinstance(found, TenantNotFound):
            attempt.done(Unauthenticated(UNKNOWN))
        elif isinstance(found, GatewayError):
            attempt.done(found)
        else:
            self._registry.find_credential(
                found.tenant_id, RPK, token.auth_id, partial(self._token_key, attempt, token, login)
            )

    def _token_key(
        self, attempt: _Attempt, token: Token, login: Login, found: DeviceCredential | GatewayError
    ) -> None:
        if isinstance(found, GatewayError):
            attempt.done(found)
            return
        now = self._clock()
        if not is_meant(found.credential, {**login.context, "iss": token.issuer}):
            attempt.done(Unauthenticated(UNKNOWN))
            return
        secrets = usable_secrets(found, now)
        try:
            end = check_token(token, secrets, now)
        except Unauthenticated as error:
            attempt.done(error)
            return
        principal = _principal(found, RPK, end)
        if asks_for_context(found.credential, (CLIENT_ID,)):
            attempt.done(principal)
        else:
            self._accept(attempt, principal, min(end, _end_of(secrets)))

    # --- what was right -------------------------------------------------------------------------------

    def _accept(self, attempt: _Attempt, principal: Principal, end: float) -> None:
        if attempt.generation == self._generation:
            self._known.keep(attempt.mark, principal, min(self._clock() + KEEP_SECONDS, end))
        attempt.done(principal)

    def _changed(self, change: RegistryChange) -> None:
        if change.change is Change.CREATE and change.subject is not Subject.TENANT:
            return
        self._generation += 1
        if (
            change.subject is Subject.TENANT
        ):  # another tenant's anchors may have made a name ambiguous
            self._known.forget(lambda _known: True)
        else:
            self._known.forget(lambda known: change.concerns(known.tenant, known.device))


class _Untrusted(Unauthenticated):
    """A certificate that stands for nobody here: something else may still prove who it is."""


class _Attempt:
    """One login on its way to its verdict."""

    __slots__ = ("_certificate", "done", "generation", "mark")

    def __init__(
        self,
        mark: bytes,
        generation: int,
        done: Answer,
        certificate: x509.Certificate | None = None,
    ) -> None:
        self.mark = mark
        self.generation = generation
        self.done = done
        self._certificate = certificate

    @property
    def certificate(self) -> x509.Certificate:
        if self._certificate is None:
            raise AssertionError("asked of a login by certificate only")
        return self._certificate


def usable_secrets(found: DeviceCredential, now: float) -> tuple[Secret, ...]:
    """Return the secrets of a credential that may be used now, none when it is switched off."""
    if not found.credential.enabled:
        return ()
    return tuple(secret for secret in found.credential.secrets if secret.is_usable(now))


def _end_of(secrets: tuple[Secret, ...]) -> float:
    """When the first of the secrets that were right may stop being so."""
    return min((s.not_after for s in secrets if s.not_after is not None), default=float("inf"))


def _principal(found: DeviceCredential, kind: str, expires: float | None = None) -> Principal:
    return Principal(found.tenant_id, found.device_id, found.credential.auth_id, kind, expires)


def _as_token(login: Login) -> str | None:
    """Return the password where it is a token that says, or was said, whose it is."""
    try:
        text = (login.password or b"").decode("ascii")
        if looks_like_token(text):
            read_token(text, login.claimed)
            return text
    except (UnicodeDecodeError, Unauthenticated):
        pass
    return None
