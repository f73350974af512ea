"""The command router service: which adapter instance a device's commands go to, and its last known gateway.

Registrations are in `gateway.hono.service_routes`. The older device connection service does the same under
other names.
Source: Hono, Command Router API; Device Connection API.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, Protocol

from gateway.errors import (
    BadRequest,
    GatewayError,
    NotFound,
    PreconditionFailed,
)
from gateway.hono.registry import Registry
from gateway.hono.service_requests import Answer, Handler, Operations, Request, Response
from gateway.hono.service_routes import Router, Routes
from gateway.model.json import Json
from gateway.model.message import EMPTY_NOTIFICATION, Kind, Message
from gateway.model.ports import Done, Downstream
from gateway.model.registry import Tenant
from gateway.observe.tracing import Tracer

log = logging.getLogger(__name__)

ENDPOINT: Final = "cmd_router"
CONNECTION_ENDPOINT: Final = "device_con"
MAX_BATCH: Final = 1_000
MAX_ID: Final = 1_024
ALIASES: Final = {
    "register-cmd-consumer": "register-command-consumer",
    "unregister-cmd-consumer": "unregister-command-consumer",
    "set-last-gw": "set-last-known-gw",
}
"""Names in the text of the API, and what Hono's own components say."""
TTD_CONNECTED: Final = -1
TTD_GONE: Final = 0
FOREVER: Final = -1


class Gateways(Protocol):
    """Through which gateway devices were heard last."""

    def note(self, tenant: str, device: str, gateway: str | None) -> None: ...

    def get(self, tenant: str, device: str) -> str | None: ...


class RouterService:
    """Answers for `cmd_router` and `device_con`; `clock` gives seconds since the epoch."""

    def __init__(
        self,
        registry: Registry,
        router: Router,
        routes: Routes,
        gateways: Gateways,
        downstream: Downstream,
        tracer: Tracer,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._registry = registry
        self._router = router
        self._routes = routes
        self._gateways = gateways
        self._downstream = downstream
        self._tracer = tracer
        self._clock = clock
        by_hono: Operations = {
            "register-command-consumer": self._for_tenant(self._register),
            "unregister-command-consumer": self._for_tenant(self._unregister),
            "set-last-known-gw": self._for_tenant(self._set_last),
            "enable-command-routing": self._enable,
        }
        by_its_text = {name: by_hono[known] for name, known in ALIASES.items()}
        self.operations: Operations = {**by_hono, **by_its_text}
        self.connection_operations: Operations = {
            "set-last-gw": self._for_tenant(self._set_last),
            "get-last-gw": self._for_tenant(self._get_last),
            "set-cmd-handling-adapter-instance": self._for_tenant(self._register),
            "remove-cmd-handling-adapter-instance": self._for_tenant(self._unregister),
            "get-cmd-handling-adapter-instances": self._for_tenant(self._instances),
        }

    def _for_tenant(self, work: Callable[[Request, str, Answer], None]) -> Handler:
        """Look the link's tenant up, by id or alias, before `work`."""

        def handle(request: Request, answer: Answer) -> None:
            self._registry.find_tenant(request.tenant, partial(found, request, answer))

        def found(request: Request, answer: Answer, tenant: Tenant | GatewayError) -> None:
            if isinstance(tenant, GatewayError):
                answer(tenant)
                return
            try:
                work(request, tenant.tenant_id, answer)
            except GatewayError as error:
                answer(error)

        return handle

    # --- who listens ------------------------------------------------------------------------------

    def _register(self, request: Request, tenant: str, answer: Answer) -> None:
        device, instance = _id(request, "device_id"), _id(request, "adapter_instance_id")
        lifespan = request.parameters.get("lifespan", FOREVER)
        if isinstance(lifespan, bool) or not isinstance(lifespan, int):
            raise BadRequest("lifespan: expected seconds as an integer")
        is_announced = request.flag("send_event")

        def announced(error: GatewayError | None) -> None:
            if error is not None:
                self._routes.remove(tenant, device, instance)
            answer(error or Response(status=204, device=device))

        def written(error: GatewayError | None) -> None:
            if error is None and is_announced:
                self._announce(tenant, device, instance, TTD_CONNECTED, announced)
            else:
                announced(error)

        self._routes.set(tenant, device, instance, lifespan, written)

    def _unregister(self, request: Request, tenant: str, answer: Answer) -> None:
        device, instance = _id(request, "device_id"), _id(request, "adapter_instance_id")
        is_announced = request.flag("send_event")

        def announced(_error: GatewayError | None) -> None:
            answer(Response(status=204, device=device))

        def written(error: GatewayError | None) -> None:
            if error is not None:
                answer(error)
            elif is_announced:
                self._announce(tenant, device, instance, TTD_GONE, announced)
            else:
                announced(None)

        if not self._routes.remove(tenant, device, instance, written):
            raise PreconditionFailed("the device's commands do not go to this adapter instance")

    def _announce(self, tenant: str, device: str, instance: str, ttd: int, done: Done) -> None:
        """Tell applications that a device may be reached (-1) or not any more (0)."""
        span = self._tracer.start("send TTD event", None, "producer")
        message = Message(
            tenant=tenant,
            device=device,
            kind=Kind.EVENT,
            qos=1,
            payload=b"",
            at=self._clock(),
            trace=span.context,
            content_type=EMPTY_NOTIFICATION,
            adapter=instance,
            ttd=ttd,
        )

        def sent(error: GatewayError | None) -> None:
            span.end(error)
            if error is not None:
                who = {"tenant": tenant, "device": device, "ttd": ttd}
                log.warning("TTD event was not taken", extra=who)
            done(error)

        self._downstream.send(message, sent)

    def _enable(self, request: Request, answer: Answer) -> None:
        """Commands of every tenant are routed anyway; those that a broker brings are asked for now."""
        tenants = request.json()
        if not isinstance(tenants, list) or not all(isinstance(name, str) for name in tenants):
            raise BadRequest("body: expected an array of tenant ids")
        for name in tenants:
            self._registry.find_tenant(str(name), self._expect)
        answer(Response(status=204))

    def _expect(self, found: Tenant | GatewayError) -> None:
        if isinstance(found, Tenant):
            self._router.expect(found.tenant_id)

    def _instances(self, request: Request, tenant: str, answer: Answer) -> None:
        device = _id(request, "device_id")
        listed = request.document().get("gateway-ids", []) if request.payload else []
        if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
            raise BadRequest("body: expected gateway-ids as an array of ids")
        gateways = [str(name) for name in listed[:MAX_BATCH]]
        chosen = self._chosen(tenant, device, gateways)
        if not chosen:
            raise NotFound("no adapter instance handles commands of the device")
        answer(Response(body={"adapter-instances": chosen}, device=device))

    def _chosen(self, tenant: str, device: str, gateways: list[str]) -> list[Json]:
        """Return the device's own instance, else its last gateway's, else those of all gateways."""
        last = self._gateways.get(tenant, device)
        for one in (device, last if last in gateways else None):
            found = self._entries(tenant, (one,) if one else ())
            if found:
                return found
        return self._entries(tenant, gateways)

    def _entries(self, tenant: str, devices: Iterable[str]) -> list[Json]:
        return [
            {"adapter-instance-id": instance, "device-id": device}
            for device in devices
            if (instance := self._routes.instance(tenant, device)) is not None
        ]

    # --- last known gateways ------------------------------------------------------------------------

    def _set_last(self, request: Request, tenant: str, answer: Answer) -> None:
        for device, gateway in _last_gateways(request):
            self._gateways.note(tenant, device, None if gateway == device else gateway)
        answer(Response(status=204))

    def _get_last(self, request: Request, tenant: str, answer: Answer) -> None:
        device = _id(request, "device_id")
        gateway = self._gateways.get(tenant, device)
        if gateway is None:
            raise NotFound("no gateway is known for the device")
        answer(Response(body={"gateway-id": gateway}, device=device))


def _last_gateways(request: Request) -> list[tuple[str, str]]:
    """Read one pair from the parameters, or many from the body.

    Errors: BadRequest.
    """
    if "device_id" in request.parameters or "gateway_id" in request.parameters:
        return [(_id(request, "device_id"), _id(request, "gateway_id"))]
    pairs = request.document()
    if len(pairs) > MAX_BATCH:
        raise BadRequest(f"body: expected at most {MAX_BATCH} devices, got {len(pairs)}")
    return [(_check(device), _check(gateway)) for device, gateway in pairs.items()]


def _id(request: Request, name: str) -> str:
    return _check(request.text(name))


def _check(value: Json) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_ID:
        raise BadRequest(f"id: expected 1..{MAX_ID} characters")
    return value
