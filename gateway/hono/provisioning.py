"""Devices that register themselves: by a certificate of a trusted authority, or through a gateway that may.

The device is written in one transaction that looks again, so of several first messages at once one makes the
device and all find it. Then an event tells the applications, at least once: the device's status remembers
whether it went out, and what is left over (a crash, no messaging) is sent by and by.
Source: Hono, Device Provisioning; Event API, device provisioning notification.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from cryptography import x509

from gateway.errors import BadRequest, DeviceNotFound, Forbidden, GatewayError
from gateway.hono import provisioning_store as store
from gateway.hono.certificates import apply_template
from gateway.hono.registry import Registry, new_id
from gateway.hono.registry_changes import device_change
from gateway.hono.registry_store import StoredDevice
from gateway.model.json import JsonObject
from gateway.model.members import format_instant
from gateway.model.message import Kind, Message
from gateway.model.ports import Downstream
from gateway.model.registry import (
    AUTO_PROVISIONING,
    X509,
    Assertion,
    Change,
    Credential,
    Device,
    DeviceCredential,
    Secret,
    Tenant,
    TrustAnchor,
)
from gateway.model.registry_json import check_device_id, parse_device
from gateway.observe.tracing import Tracer
from gateway.store.database import Database

log = logging.getLogger(__name__)

PROVISIONED = "application/vnd.eclipse-hono-device-provisioning-notification"
RECHECK_SECONDS = 30.0
BATCH = 100
MAX_WAITING = 1_000
"""Messages of one new device that may wait until it is there."""

Asserted = Callable[[Assertion | GatewayError], None]
Found = Callable[[DeviceCredential | GatewayError], None]


@dataclass(frozen=True, slots=True)
class Newcomer:
    """A certificate that was found good, and what it was found good for."""

    tenant: Tenant
    anchor: TrustAnchor
    certificate: x509.Certificate
    auth_id: str


class Provisioning:
    """Makes devices and announces them; a module that announces what earlier runs could not.

    Shape:  `clock` gives seconds since the epoch.
    """

    name = "provisioning"

    def __init__(
        self,
        registry: Registry,
        database: Database,
        downstream: Downstream,
        tracer: Tracer,
        *,
        recheck_seconds: float = RECHECK_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._registry = registry
        self._database = database
        self._downstream = downstream
        self._tracer = tracer
        self._recheck_seconds = recheck_seconds
        self._clock = clock
        self._waiting: dict[tuple[str, str, str], list[Asserted]] = {}
        self._announcing: set[tuple[str, str]] = set()
        registry.on_unknown_device = self.by_gateway

    async def run(self, ready: Callable[[], None]) -> None:
        """Announce now and then what has not been announced, until cancelled."""
        ready()
        while True:
            await self._announce_rest()
            await asyncio.sleep(self._recheck_seconds)

    async def _announce_rest(self) -> None:
        try:
            rest = await self._database.read(lambda db: tuple(store.unannounced(db, BATCH)))
        except GatewayError as error:
            log.warning("provisioned devices were not read", extra={"cause": error.message})
            return
        for found in rest:
            device = found.device
            gateway = device.via[0] if device.via else None
            self._announce(device.tenant_id, device.device_id, gateway, _nothing)

    # --- through a gateway ------------------------------------------------------------------------

    def by_gateway(self, tenant: Tenant, device: str, gateway: str, done: Asserted) -> None:
        """Make a device that a gateway speaks for, where the gateway has that right.

        Errors (through `done`): DeviceNotFound where it has not; Forbidden over the tenant's limit, or when
            another gateway was faster; StoreUnavailable.
        """
        key = (tenant.tenant_id, device, gateway)
        waiting = self._waiting.get(key)
        if waiting is None:
            self._waiting[key] = [done]
            self._registry.find_device(
                tenant.tenant_id, gateway, partial(self._with_gateway, tenant, key)
            )
        elif len(waiting) < MAX_WAITING:
            waiting.append(done)
        else:
            done(DeviceNotFound())

    def _with_gateway(
        self, tenant: Tenant, key: tuple[str, str, str], found: StoredDevice | GatewayError
    ) -> None:
        answer = partial(self._answer, key)
        if isinstance(found, GatewayError) and not isinstance(found, DeviceNotFound):
            answer(found)
            return
        if isinstance(found, GatewayError) or not _may_provision(found.device):
            answer(DeviceNotFound())
            return
        try:
            device = _behind(found.device, check_device_id(key[1]))
        except BadRequest:
            answer(DeviceNotFound())
            return
        self._registry.submit(
            lambda db: store.add_device(db, device, self._status(), (new_id(), new_id())),
            lambda result: device_change(Change.CREATE, device) if result[1] else None,
            partial(self._added, tenant, key[2], answer),
        )

    def _added(
        self,
        tenant: Tenant,
        gateway: str,
        answer: Asserted,
        result: tuple[StoredDevice, bool] | GatewayError,
    ) -> None:
        if isinstance(result, GatewayError):
            answer(result)
            return
        found, is_new = result
        if is_new:
            assertion = Assertion(tenant, found.device, found.gateways)
            self._announce(
                tenant.tenant_id, found.device.device_id, gateway, lambda: answer(assertion)
            )
        elif not found.device.enabled:
            answer(DeviceNotFound())
        elif gateway not in found.gateways:
            answer(Forbidden("device already auto-provisioned for another gateway"))
        else:
            answer(Assertion(tenant, found.device, found.gateways))

    def _answer(self, key: tuple[str, str, str], answer: Assertion | GatewayError) -> None:
        for done in self._waiting.pop(key, ()):
            try:
                done(answer)
            except Exception:  # top of a callback: the others in line must hear theirs
                log.exception("an answer of provisioning was not taken")

    # --- by certificate ---------------------------------------------------------------------------

    def by_certificate(self, new: Newcomer, done: Found) -> None:
        """Make the device that a trusted certificate stands for, and its credential.

        Errors (through `done`): BadRequest when the template's device id is none; Conflict when it is taken;
            Forbidden over the tenant's limit; StoreUnavailable.
        """
        try:
            device = _from_certificate(new)
        except BadRequest as error:
            done(error)
            return
        credential = Credential(
            type=X509, auth_id=new.auth_id, secrets=(Secret(secret_id=new_id()),)
        )
        self._registry.submit(
            lambda db: store.add_device_with_credential(
                db, device, credential, self._status(), (new_id(), new_id())
            ),
            lambda result: device_change(Change.CREATE, device) if result[1] else None,
            partial(self._added_with_credential, done),
        )

    def _added_with_credential(
        self, done: Found, result: tuple[DeviceCredential, bool] | GatewayError
    ) -> None:
        if isinstance(result, GatewayError):
            done(result)
            return
        found, is_new = result
        if is_new:
            self._announce(found.tenant_id, found.device_id, None, lambda: done(found))
        else:
            done(found)

    # --- telling applications ---------------------------------------------------------------------

    def _status(self) -> JsonObject:
        return {
            "created": format_instant(self._clock()),
            "auto-provisioned": True,
            store.SENT: False,
        }

    def _announce(
        self, tenant: str, device: str, gateway: str | None, then: Callable[[], None]
    ) -> None:
        """Send the event; `then` comes after its outcome, whatever it is."""
        key = (tenant, device)
        if key in self._announcing:
            then()
            return
        self._announcing.add(key)
        span = self._tracer.start("send provisioning event", None, "producer")
        properties = {"hono_registration_status": "NEW", "tenant_id": tenant}
        if gateway is not None:
            properties["gateway_id"] = gateway
        message = Message(
            tenant=tenant,
            device=device,
            kind=Kind.EVENT,
            qos=1,
            payload=b"",
            at=self._clock(),
            trace=span.context,
            content_type=PROVISIONED,
            via=gateway,
            properties=properties,
        )

        def sent(error: GatewayError | None) -> None:
            span.end(error)
            self._announcing.discard(key)
            if error is None:
                self._registry.submit(
                    lambda db: store.mark_announced(db, tenant, device), _no_change, _marked
                )
            else:
                who = {"tenant": tenant, "device": device, "cause": error.message}
                log.warning("a provisioned device was not announced yet", extra=who)
            then()

        self._downstream.send(message, sent)


def _may_provision(gateway: Device) -> bool:
    return gateway.enabled and AUTO_PROVISIONING in gateway.authorities


def _behind(gateway: Device, device_id: str) -> Device:
    document: JsonObject = {"via": [gateway.device_id]}
    if gateway.member_of:
        document["viaGroups"] = list(gateway.member_of)
    return parse_device(gateway.tenant_id, device_id, document)


def _from_certificate(new: Newcomer) -> Device:
    template = new.anchor.device_id_template
    device_id = apply_template(template, new.certificate.subject) if template else new_id()
    document: JsonObject = {}
    if new.anchor.provisions_gateways:
        document["authorities"] = [AUTO_PROVISIONING]
    return parse_device(new.tenant.tenant_id, check_device_id(device_id), document)


def _no_change(_result: None) -> None:
    return None


def _marked(result: GatewayError | None) -> None:
    if result is not None:
        log.warning("a provisioned device is announced again", extra={"cause": result.message})


def _nothing() -> None:
    """Nobody waits."""
