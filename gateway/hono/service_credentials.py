"""The credentials service: the secrets of a device, for adapters that check logins themselves.

Further members of a request are facts about the login (client context): where the credentials ask for another
value in their `ext`, they are not found. A client certificate of a trusted authority makes the device where
its anchor says so. Pre-shared and raw public keys are not to be cached.
Source: Hono, Credentials API.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from gateway.errors import BadRequest, GatewayError, NotFound, Unauthenticated
from gateway.hono.authentication import usable_secrets
from gateway.hono.certificates import canonical_dn
from gateway.hono.client_certificates import auth_id_of, load_certificate, trusted_anchor
from gateway.hono.provisioning import Newcomer, Provisioning
from gateway.hono.registry import Registry
from gateway.hono.service_requests import Answer, Operations, Request, Response
from gateway.model.json import Json, JsonObject
from gateway.model.members import format_instant
from gateway.model.registry import (
    HASHED_PASSWORD,
    X509,
    DeviceCredential,
    Secret,
    Tenant,
)

ENDPOINT: Final = "credentials"
CERTIFICATE: Final = "client-certificate"
_CACHEABLE: Final = (HASHED_PASSWORD, X509)
_OWN_MEMBERS: Final = frozenset(("type", "auth-id", CERTIFICATE))
_UNKNOWN: Final = "no credentials of that kind, or none that may be used now"


@dataclass(frozen=True, slots=True)
class _Query:
    """What was asked for."""

    kind: str
    auth_id: str
    certificate: bytes | None
    context: Mapping[str, Json]
    answer: Answer


class CredentialsService:
    """Answers from the registry; `max_age` in seconds, `clock` gives seconds since the epoch."""

    def __init__(
        self,
        registry: Registry,
        provisioning: Provisioning,
        *,
        max_age: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._registry = registry
        self._provisioning = provisioning
        self._max_age = max_age
        self._clock = clock
        self.operations: Operations = {"get": self._get}

    def _get(self, request: Request, answer: Answer) -> None:
        query = _query(request.document(), answer)
        self._registry.find_tenant(request.tenant, partial(self._with_tenant, query))

    def _with_tenant(self, query: _Query, found: Tenant | GatewayError) -> None:
        if isinstance(found, GatewayError):
            query.answer(found)
            return
        self._registry.find_credential(
            found.tenant_id,
            query.kind,
            query.auth_id,
            partial(self._with_credential, query, found),
        )

    def _with_credential(
        self, query: _Query, tenant: Tenant, found: DeviceCredential | GatewayError
    ) -> None:
        if isinstance(found, DeviceCredential):
            self._answer(query, found, 200)
        elif not isinstance(found, Unauthenticated):
            query.answer(found)
        elif query.kind == X509 and query.certificate is not None:
            self._provision(query, tenant, query.certificate)
        else:
            query.answer(NotFound(_UNKNOWN))

    def _provision(self, query: _Query, tenant: Tenant, data: bytes) -> None:
        """Make the device that a certificate stands for, where an anchor of the tenant says so."""
        try:
            certificate = load_certificate(data)
            anchor = trusted_anchor(certificate, tenant.trust_anchors, self._clock())
            auth_id = auth_id_of(certificate, anchor)
        except Unauthenticated:
            query.answer(NotFound(_UNKNOWN))
            return
        if not anchor.provisions or auth_id != query.auth_id:
            query.answer(NotFound(_UNKNOWN))
            return
        newcomer = Newcomer(tenant, anchor, certificate, auth_id)

        def made(found: DeviceCredential | GatewayError) -> None:
            if isinstance(found, GatewayError):
                query.answer(found)
            else:
                self._answer(query, found, 201)

        self._provisioning.by_certificate(newcomer, made)

    def _answer(self, query: _Query, found: DeviceCredential, status: int) -> None:
        secrets = usable_secrets(found, self._clock())
        if not secrets or not is_meant(found, query.context):
            query.answer(NotFound(_UNKNOWN))
            return
        query.answer(
            Response(
                status=status,
                body=credentials_body(found, secrets),
                device=found.device_id,
                max_age=self._max_age if query.kind in _CACHEABLE else 0,
            )
        )


def _query(document: JsonObject, answer: Answer) -> _Query:
    """Read a request's body.

    Errors: BadRequest.
    """
    kind, auth_id = document.get("type"), document.get("auth-id")
    if not isinstance(kind, str) or not isinstance(auth_id, str) or not kind or not auth_id:
        raise BadRequest("body: expected type and auth-id")
    context = {name: value for name, value in document.items() if name not in _OWN_MEMBERS}
    if kind == X509:
        auth_id = _canonical(auth_id)
    return _Query(kind, auth_id, _certificate(document.get(CERTIFICATE)), context, answer)


def _canonical(auth_id: str) -> str:
    """Return a subject's name as it is stored; an auth-id made from a template is left as it is."""
    try:
        return canonical_dn(auth_id, "auth-id")
    except BadRequest:
        return auth_id


def _certificate(value: Json) -> bytes | None:
    if value is None:
        return None
    try:
        return base64.b64decode(str(value), validate=True)
    except ValueError as error:
        raise BadRequest(f"{CERTIFICATE}: expected base64") from error


def is_meant(found: DeviceCredential, context: Mapping[str, Json]) -> bool:
    """True unless the credentials ask for another value of a fact that the request tells."""
    wanted = found.credential.ext or {}
    return all(wanted[name] == value for name, value in context.items() if name in wanted)


def credentials_body(found: DeviceCredential, secrets: tuple[Secret, ...]) -> JsonObject:
    """Return credentials with the confidential members of `secrets`."""
    credential = found.credential
    return {
        "device-id": found.device_id,
        "type": credential.type,
        "auth-id": credential.auth_id,
        "enabled": credential.enabled,
        "ext": dict(credential.ext or {}),
        "secrets": [_secret(secret) for secret in secrets],
    }


def _secret(secret: Secret) -> JsonObject:
    body: JsonObject = dict(secret.data)
    for name, at in (("not-before", secret.not_before), ("not-after", secret.not_after)):
        if at is not None:
            body[name] = format_instant(at)
    return body
