"""Which device a DTLS peer is: its pre-shared key or certificate against the registry's credentials.

An identity is `{auth-id}@{tenant}`; of several valid secrets the first counts.
Source: Hono, CoAP Adapter user guide.
"""

from __future__ import annotations

import base64
import logging
import time
from collections.abc import Callable
from functools import partial

from gateway.errors import GatewayError
from gateway.hono.registry_view import RegistryView
from gateway.model.credentials_json import KEY
from gateway.model.login import Login, TlsPeer
from gateway.model.message import Adapter, Principal
from gateway.model.ports import Authenticator
from gateway.model.registry import PSK, DeviceCredential, Secret, Tenant
from gateway.runtime.dtls import Doorman, Key

log = logging.getLogger(__name__)

MAX_IDENTITY = 512
"""Bytes of an identity."""

FoundKey = Callable[[Key[Principal] | None], None]


class CoapKeys:
    """Keys and certificates of devices.

    Shape:  `clock` gives seconds since the epoch.
    """

    def __init__(
        self,
        registry: RegistryView,
        authenticator: Authenticator,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._registry = registry
        self._authenticator = authenticator
        self._clock = clock

    def doorman(self, *, takes_strangers: bool) -> Doorman[Principal]:
        """Return what DTLS asks."""
        return Doorman(self.find_key, self.judge, takes_strangers)

    def find_key(self, identity: bytes, done: FoundKey) -> None:
        """Find the key of an identity; None where there is none, or it cannot be read now."""
        try:
            auth_id, at, tenant = identity.decode().partition("@")
        except UnicodeDecodeError:
            done(None)
            return
        if not at or not auth_id or not tenant or len(identity) > MAX_IDENTITY:
            done(None)
            return
        self._registry.find_tenant(tenant, partial(self._with_tenant, auth_id, done))

    def _with_tenant(self, auth_id: str, done: FoundKey, found: Tenant | GatewayError) -> None:
        if isinstance(found, GatewayError):
            _refuse(found, done)
        else:
            self._registry.find_credential(
                found.tenant_id, PSK, auth_id, partial(self._with_credential, done)
            )

    def _with_credential(self, done: FoundKey, found: DeviceCredential | GatewayError) -> None:
        if isinstance(found, GatewayError):
            _refuse(found, done)
            return
        secret = self._usable(found)
        raw = None if secret is None else _key_of(secret)
        if secret is None or raw is None:
            done(None)
            return
        owner = Principal(found.tenant_id, found.device_id, found.credential.auth_id, PSK)
        done(Key(raw, owner, secret.not_after))

    def _usable(self, found: DeviceCredential) -> Secret | None:
        if not found.credential.enabled:
            return None
        now = self._clock()
        return next((s for s in found.credential.secrets if s.is_usable(now)), None)

    def judge(self, peer: TlsPeer, done: Callable[[Principal | None], None]) -> None:
        """Find out whose certificate this is."""

        def judged(found: Principal | GatewayError) -> None:
            if isinstance(found, GatewayError):
                log.debug("certificate refused", extra={"cause": found.message})
                done(None)
            else:
                done(found)

        self._authenticator.check_login(Login(peer=peer), Adapter.COAP, judged)


def _refuse(error: GatewayError, done: FoundKey) -> None:
    log.debug("pre-shared key refused", extra={"cause": error.message})
    done(None)


def _key_of(secret: Secret) -> bytes | None:
    try:
        return base64.b64decode(secret.data.get(KEY, ""), validate=True) or None
    except ValueError:
        return None
