"""The one door for uploads: what Hono checks whatever the protocol, then downstream.

tenant and device of the address -> tenant enabled -> adapter enabled -> device enabled, gateway authorised ->
data volume -> payload and content type -> defaults and TTL -> `Downstream.send`. What the registry says is
resolved once per (sender, address) into a `Route` and kept until something about it changes, so a message
of a known device needs no read and no await.
Source: Hono, concepts Tenancy, Device identity, Connecting devices, Resource limits; API Telemetry, Event.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol, TypeAlias

import msgspec

from gateway.errors import (
    AdapterDisabled,
    AuthenticatedDeviceNotFound,
    BadRequest,
    DeviceNotFound,
    GatewayError,
    QuotaExceeded,
    TenantDisabled,
    TenantNotFound,
    Unauthenticated,
)
from gateway.hono.limits import Usage
from gateway.hono.meters import UNKNOWN, Ttd, UploadMeter, status_of
from gateway.hono.registry_store import StoredDevice
from gateway.hono.registry_view import RegistryView
from gateway.hono.routes import Route, check_payload, make_route, resolve_address
from gateway.hono.traffic import Traffic
from gateway.model.message import (
    OCTET_STREAM,
    Adapter,
    Kind,
    Message,
    Upload,
)
from gateway.model.ports import Done, Downstream
from gateway.model.registry import ANONYMOUS, Assertion, Device, RegistryChange, Tenant
from gateway.observe.histograms import FOLD
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import AttributeValue, Span, Tracer
from gateway.outcome import Processing

log = logging.getLogger(__name__)

MAX_ROUTES = 100_000
_EVENT = Kind.EVENT
_clock = time.perf_counter

WAITS_FOR_COMMANDS = frozenset({Adapter.HTTP, Adapter.COAP, Adapter.LORA, Adapter.SIGFOX})
"""Adapters that learn later how a wait for a command ended: they record their waiting uploads themselves."""

RouteKey: TypeAlias = tuple[str, str, str | None, str | None, Adapter]


class Noting(Protocol):
    """Hears through which gateway a device spoke that several may speak for."""

    def note(self, tenant: str, device: str, gateway: str | None) -> None: ...


class IngressService:
    """The port `Ingress`.

    Shape:  `clock` gives seconds since the epoch.
    """

    def __init__(
        self,
        registry: RegistryView,
        downstream: Downstream,
        usage: Usage,
        last_gateways: Noting,
        metrics: Metrics,
        tracer: Tracer,
        *,
        traffic: Traffic | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._registry = registry
        self._downstream = downstream
        self._usage = usage
        self._last_gateways = last_gateways
        self._traffic = traffic or Traffic()
        self._meter = UploadMeter(metrics)
        self._tracer = tracer
        self._clock = clock
        self._routes: dict[RouteKey, Route] = {}
        self._by_device: dict[tuple[str, str], set[RouteKey]] = {}
        self._generation = 0
        registry.on_change(self._changed)

    def submit(self, upload: Upload, done: Done) -> None:
        """Check the upload and send it downstream; `done` tells the device's outcome.

        Errors (through `done`): BadRequest; Forbidden, TenantDisabled, AdapterDisabled, GatewayDisabled;
            TenantNotFound, DeviceNotFound; QuotaExceeded; what `Downstream.send` says; StoreUnavailable.
        """
        started = _clock()
        route = self._routes.get(_key(upload))
        if route is None:
            self._resolve(upload, done, started)
        else:
            self._forward(route, upload, done, started)

    # --- the way of a message -----------------------------------------------------------------------

    def _forward(self, route: Route, upload: Upload, done: Done, started: float) -> None:
        if route.sampling is not None:
            span = self._span_as_wished(route, upload)
        elif upload.kind is _EVENT:
            span = self._tracer.start("upload event", upload.trace, "server", route.span_attributes)
        else:
            span = self._tracer.start_frequent(
                "upload telemetry", upload.trace, "server", route.span_attributes
            )
        size = route.tenant.metered_size(len(upload.payload))
        passage = _Passage(self, route, upload, done, started, size, span)
        if route.is_metered or not upload.payload or upload.content_type is not None:
            refusal = self._refusal(route, upload, size)
            if refusal is not None:
                passage.end(refusal)
                return
        if route.several_gateways and upload.via is None:
            self._last_gateways.note(route.tenant.tenant_id, route.device, route.via)
        self._downstream.send(self._message(route, upload, span), passage.end)

    def _span_as_wished(self, route: Route, upload: Upload) -> Span:
        """A span for a tenant that says which of its uploads are traced."""
        auth_id = upload.principal.auth_id if upload.principal else None
        wish = None if route.sampling is None else route.sampling.of(auth_id)
        name, facts = f"upload {upload.kind.value}", route.span_attributes
        if wish is None and upload.kind is not _EVENT:
            return self._tracer.start_frequent(name, upload.trace, "server", facts)
        return self._tracer.start(name, upload.trace, "server", facts, sampled=wish)

    def _refusal(self, route: Route, upload: Upload, size: int) -> GatewayError | None:
        if self._usage.would_exceed(route.tenant, size):
            return QuotaExceeded()
        try:
            check_payload(upload.payload, upload.content_type)
        except BadRequest as error:
            return error
        return None

    def _message(self, route: Route, upload: Upload, span: Span) -> Message:
        content_type = upload.content_type or route.content_type
        if content_type is None and upload.payload:
            content_type = OCTET_STREAM
        properties = route.properties
        if upload.properties:
            properties = {**properties, **upload.properties}
        return Message(
            tenant=route.tenant.tenant_id,
            device=route.device,
            kind=upload.kind,
            qos=1 if upload.kind is _EVENT else upload.qos,
            payload=upload.payload,
            at=self._clock(),
            trace=span.context,
            content_type=content_type,
            adapter=route.adapter,
            address=upload.address,
            via=upload.via or route.via,
            ttl=route.ttl(upload),
            ttd=upload.ttd,
            retain=upload.retain,
            properties=properties,
            spool=upload.spool,
            duplicate=upload.duplicate,
        )

    def forwarded(
        self, route: Route, upload: Upload, started: float, size: int, span: Span
    ) -> None:
        """Account for the good case, which is to be short."""
        if self._traffic.watchers:
            self._traffic.uploaded(
                upload,
                route.tenant.tenant_id,
                route.device,
                span.context.trace_id,
                via=upload.via or route.via,
            )
        if route.is_metered:
            self._usage.add_bytes(route.tenant, size)
        if upload.ttd and upload.adapter in WAITS_FOR_COMMANDS:
            return
        index = -1 if upload.kind is _EVENT else upload.qos
        meters = route.forwarded.get(index)
        if meters is None:
            meters = route.forwarded[index] = self._meter.meters(
                route.tenant.tenant_id,
                upload.kind,
                Processing.FORWARDED,
                upload.qos,
                upload.adapter,
            )
        seconds = _clock() - started
        of_time, of_size = meters
        times = of_time.pending
        times.append(seconds)
        of_size.pending.append(size)
        if len(times) >= FOLD:
            of_time.fold()
            of_size.fold()
        if span.sink is not None:
            of_time.mark(seconds, span.context.trace_id)

    def finish(
        self,
        tenant: Tenant | None,
        upload: Upload,
        error: GatewayError,
        started: float,
        size: int,
        span: Span,
    ) -> None:
        status = status_of(error)
        if tenant is not None and status is not Processing.UNDELIVERABLE:
            self._usage.add_bytes(tenant, size)
        if not (upload.ttd and upload.adapter in WAITS_FOR_COMMANDS):
            self._record(tenant, upload, status, started, size)
        self._tracer.failed(span, error, _facts_of(upload, error))
        if self._traffic.watchers and tenant is not None:
            device, via = _sender(upload)
            self._traffic.uploaded(
                upload, tenant.tenant_id, device, span.context.trace_id, error, via=via
            )
        log.debug(
            "upload refused",
            extra={
                "adapter": upload.adapter.value,
                "address": upload.address,
                "status": error.status,
                "cause": error.message,
                "trace": span.context.trace_id,
            },
        )

    def _record(
        self,
        tenant: Tenant | None,
        upload: Upload,
        status: Processing,
        started: float,
        size: int,
        ttd: Ttd = Ttd.NONE,
    ) -> None:
        self._meter.record(
            UNKNOWN if tenant is None else tenant.tenant_id,
            upload.kind,
            status,
            upload.qos,
            upload.adapter,
            _clock() - started,
            size,
            ttd,
        )

    def record_waited(
        self, upload: Upload, error: GatewayError | None, started: float, ttd: Ttd
    ) -> None:
        """Count an upload whose device waited for a command; `started` as `time.perf_counter` gives it."""
        route = self._routes.get(_key(upload))
        tenant = None if route is None else route.tenant
        size = len(upload.payload) if tenant is None else tenant.metered_size(len(upload.payload))
        self._record(tenant, upload, status_of(error), started, size, ttd)

    # --- finding a route ---------------------------------------------------------------------------

    def _resolve(self, upload: Upload, done: Done, started: float) -> None:
        try:
            tenant, device, via = resolve_address(upload.principal, upload.tenant, upload.device)
        except GatewayError as error:
            self._refuse(upload, error, done, started)
            return
        generation = self._generation

        def resolved(found: Assertion | GatewayError) -> None:
            if not isinstance(found, GatewayError):
                found = _check_adapter(found, upload)
            if isinstance(found, GatewayError):
                self._refuse(upload, found, done, started)
                return
            route = make_route(found, via, upload.adapter)
            if generation == self._generation:
                self._keep(_key(upload), route)
            self._forward(route, upload, done, started)

        if upload.adapter is Adapter.EDGE and upload.principal is None:
            self._assert_edge_device(tenant, device, resolved)
        else:
            self._assert_device(tenant, device, via, resolved)

    def _assert_device(
        self,
        tenant: str,
        device: str,
        via: str | None,
        done: Callable[[Assertion | GatewayError], None],
    ) -> None:
        """Ask the registry; an unknown device is final for a connection whose own device is gone too."""

        def asserted(found: Assertion | GatewayError) -> None:
            if not isinstance(found, DeviceNotFound):
                done(found)
            elif via is None:
                done(AuthenticatedDeviceNotFound())
            else:
                self._registry.assert_device(
                    tenant,
                    via,
                    None,
                    lambda own: done(
                        AuthenticatedDeviceNotFound() if isinstance(own, DeviceNotFound) else found
                    ),
                )

        self._registry.assert_device(tenant, device, via, asserted)

    def _assert_edge_device(
        self, tenant: str, device: str, done: Callable[[Assertion | GatewayError], None]
    ) -> None:
        """Take a device that only the cluster knows: its cloud side decided which node speaks for it."""

        def with_tenant(found: Tenant | GatewayError) -> None:
            if isinstance(found, GatewayError):
                done(found)
            elif not found.enabled:
                done(TenantDisabled())
            else:
                self._registry.find_device(
                    found.tenant_id, device, lambda known: done(_edge_word(found, device, known))
                )

        self._registry.find_tenant(tenant, with_tenant)

    def _refuse(self, upload: Upload, error: GatewayError, done: Done, started: float) -> None:
        tenant = self._known_tenant(upload, error)
        name = f"upload {upload.kind.value}"
        span = self._tracer.start_frequent(name, upload.trace, "server", {})
        size = len(upload.payload)
        self.finish(tenant, upload, error, started, size, span)
        done(error)

    def _known_tenant(self, upload: Upload, error: GatewayError) -> Tenant | None:
        if isinstance(error, TenantNotFound):
            return None
        name = upload.principal.tenant if upload.principal else upload.tenant
        return None if name is None else self._registry.cached_tenant(name)

    def _keep(self, key: RouteKey, route: Route) -> None:
        if len(self._routes) >= MAX_ROUTES:
            self._forget(next(iter(self._routes)))
        self._routes[key] = route
        for device in route.devices:
            self._by_device.setdefault(device, set()).add(key)

    def _forget(self, key: RouteKey) -> None:
        route = self._routes.pop(key)
        for device in route.devices:
            keys = self._by_device[device]
            keys.discard(key)
            if not keys:
                del self._by_device[device]

    def _changed(self, change: RegistryChange) -> None:
        self._generation += 1
        if change.device_id is None or change.regroups:
            stale = [k for k, r in self._routes.items() if r.tenant.tenant_id == change.tenant_id]
        else:
            stale = list(self._by_device.get((change.tenant_id, change.device_id), ()))
        for key in stale:
            self._forget(key)


class _Passage(msgspec.Struct, eq=False):
    """An upload between its checks and its outcome: what the callback's closure would hold, for less."""

    service: IngressService
    route: Route
    upload: Upload
    done: Done
    started: float
    size: int
    span: Span

    def end(self, error: GatewayError | None) -> None:
        """The outcome is known."""
        if error is None:
            self.service.forwarded(self.route, self.upload, self.started, self.size, self.span)
            if self.span.sink is not None:
                self.span.end()
        else:
            self.service.finish(
                self.route.tenant, self.upload, error, self.started, self.size, self.span
            )
        self.done(error)


def _facts_of(upload: Upload, error: GatewayError) -> dict[str, AttributeValue]:
    """Tags of a refused upload, as far as it said who it is from."""
    facts: dict[str, AttributeValue] = {
        "component": upload.adapter.value,
        "qos": upload.qos,
        "http.status_code": error.status,
    }
    if upload.principal is not None:
        facts["tenant_id"] = upload.principal.tenant
        facts["auth_id"] = upload.principal.auth_id
        facts["device_id"] = upload.device or upload.principal.device
    return facts


def _sender(upload: Upload) -> tuple[str, str | None]:
    """Whom a refused upload was for, and through which gateway, as far as it said."""
    own = upload.principal.device if upload.principal else None
    device = upload.device or own or ""
    return device, own if own != device else upload.via


def _key(upload: Upload) -> RouteKey:
    sender = upload.principal
    if sender is None:
        return "", "", upload.tenant, upload.device, upload.adapter
    return sender.tenant, sender.device, upload.tenant, upload.device, upload.adapter


def _check_adapter(found: Assertion, upload: Upload) -> Assertion | GatewayError:
    options = found.tenant.adapter(upload.adapter)
    if not options.enabled:
        return AdapterDisabled()
    if options.refuses_anonymous and upload.principal is None:
        return Unauthenticated(ANONYMOUS)
    return found


def _edge_word(
    tenant: Tenant, device: str, known: StoredDevice | GatewayError
) -> Assertion | GatewayError:
    if isinstance(known, DeviceNotFound):
        return Assertion(tenant, Device(tenant_id=tenant.tenant_id, device_id=device, document={}))
    if isinstance(known, GatewayError):
        return known
    return Assertion(tenant, known.device) if known.device.enabled else DeviceNotFound()
