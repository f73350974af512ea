"""Command routing: from an application's command to the one link that can carry it, and the answer back.

Who gets a command is decided in `gateway.hono.subscriptions`. Nobody: NoConsumer, unless the command is to be
kept (`gateway.hono.stored_commands`). What took longer than 8 s is released to the application.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from uuid import uuid4

from gateway.errors import (
    AdapterDisabled,
    BadRequest,
    DeviceNotFound,
    GatewayError,
    NoConsumer,
    QuotaExceeded,
    Rejected,
    TenantDisabled,
    TenantNotFound,
)
from gateway.hono.asked_traces import AskedTraces
from gateway.hono.command_walks import ROUTER, ROUTING_SECONDS, Walk
from gateway.hono.last_gateways import LastGateways
from gateway.hono.limits import Usage
from gateway.hono.meters import UNKNOWN, CommandMeter, Direction
from gateway.hono.registry_view import RegistryView
from gateway.hono.request_ids import (
    encode_amqp_reply_to,
    encode_request_id,
    parse_amqp_reply_to,
    parse_request_id,
)
from gateway.hono.routes import (
    Ttl,
    check_content_type,
    default_content_type,
    scalar_defaults,
    seconds_of,
)
from gateway.hono.stored_commands import StoredCommands
from gateway.hono.subscriptions import Subscription, Subscriptions, choose
from gateway.hono.traffic import Traffic
from gateway.model.message import (
    EMPTY_NOTIFICATION,
    OCTET_STREAM,
    Adapter,
    Command,
    CommandMark,
    CommandResponse,
    DeviceCommand,
    Kind,
    Message,
)
from gateway.model.ports import DeviceLink, Done, Downstream, ResponseSink
from gateway.model.registry import Assertion, Device, Tenant
from gateway.model.trace import TraceContext
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Span, Tracer

__all__ = [
    "ROUTER",
    "ROUTING_SECONDS",
    "CommandRouter",
    "check_response_status",
    "encode_amqp_reply_to",
    "encode_request_id",
    "parse_amqp_reply_to",
    "parse_request_id",
]

log = logging.getLogger(__name__)

TTD_CONNECTED = -1
TTD_GONE = 0


def check_response_status(status: int) -> int:
    """Return the status of a device's response; BadRequest where it is none.

    Shape:  200..299 or 400..599.
    """
    if not (200 <= status < 300 or 400 <= status < 600):
        raise BadRequest(f"command response status: expected 200..299 or 400..599, got {status}")
    return status


class CommandRouter:
    """The port `CommandRouting`.

    Shape:  `clock` gives seconds since the epoch.
    """

    def __init__(
        self,
        registry: RegistryView,
        downstream: Downstream,
        usage: Usage,
        last_gateways: LastGateways,
        metrics: Metrics,
        tracer: Tracer,
        *,
        traffic: Traffic | None = None,
        stored: StoredCommands | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._registry = registry
        self._downstream = downstream
        self._usage = usage
        self._last_gateways = last_gateways
        self._traffic = traffic or Traffic()
        self._meter = CommandMeter(metrics)
        self._tracer = tracer
        self._asked = AskedTraces()
        self._clock = clock
        self._subscriptions = Subscriptions()
        self._sinks: list[ResponseSink] = []
        self._on_subscription: list[Callable[[str], None]] = []
        self._instance = uuid4()
        self._stored = stored
        if stored is not None:
            stored.serve(self)
            registry.on_change(stored.changed)

    def add_sink(self, sink: ResponseSink) -> Callable[[], None]:
        """Let `sink` take responses for reply addresses that it owns; returns the way to end it."""
        self._sinks.append(sink)
        return lambda: self._sinks.remove(sink)

    def on_subscription(self, listener: Callable[[str], None]) -> None:
        """Tell `listener` the tenant of every link that subscribes."""
        self._on_subscription.append(listener)

    # --- who listens --------------------------------------------------------------------------------

    def subscribe(
        self,
        tenant: str,
        device: str,
        link: DeviceLink,
        *,
        adapter: Adapter,
        gateway: str | None = None,
        announce: bool = True,
        for_its_devices: bool = True,
    ) -> Callable[[], None]:
        """Register a link, see `CommandRouting.subscribe`; the caller has checked that it may."""
        behalf = None if gateway == device else gateway
        subscription = Subscription(
            tenant, device, link, adapter, behalf, announce, for_its_devices
        )
        self._subscriptions.add(subscription)
        self.expect(tenant)
        if announce:
            self._announce(subscription, TTD_CONNECTED)
        if self._stored is not None:
            is_for_more = behalf is None and for_its_devices
            self._stored.listens(tenant, device, for_its_devices=is_for_more)

        def end() -> None:
            if self._subscriptions.remove(subscription) and announce:
                self._announce(subscription, TTD_GONE)

        return end

    def is_listening(self, tenant: str, device: str) -> bool:
        """True when some link would take a command for the device itself."""
        return self._subscriptions.own(tenant, device) is not None

    def newest_link(self, tenant: str, device: str) -> DeviceLink | None:
        """Return the link that would take a command for the device itself."""
        found = self._subscriptions.own(tenant, device)
        return None if found is None else found.link

    def expect(self, tenant: str) -> None:
        """Devices of a tenant are about to listen, here or at other adapters."""
        for listener in self._on_subscription:
            listener(tenant)

    def _announce(self, subscription: Subscription, ttd: int) -> None:
        """Tell applications that a device may be reached (-1) or not any more (0)."""
        span = self._tracer.start("send TTD event", None, "producer")
        message = Message(
            tenant=subscription.tenant,
            device=subscription.device,
            kind=Kind.EVENT,
            qos=1,
            payload=b"",
            at=self._clock(),
            trace=span.context,
            content_type=EMPTY_NOTIFICATION,
            adapter=f"{subscription.adapter.value}-{self._instance}",
            ttd=ttd,
            via=subscription.gateway,
        )

        def announced(error: GatewayError | None) -> None:
            span.end(error)
            if error is not None:
                log.warning(
                    "TTD event was not taken",
                    extra={"tenant": message.tenant, "device": message.device, "ttd": ttd},
                )

        self._downstream.send(message, announced)

    # --- commands -------------------------------------------------------------------------------------

    def route(self, command: Command, done: Done) -> None:
        """Deliver a command to the one link that applies.

        Errors (through `done`): Rejected (unknown or disabled tenant or device, data volume, malformed reply
            address); NoConsumer; Undeliverable after 8 s; what `DeviceLink.deliver` says.
        """
        span = self._tracer.start_rare(
            "map and delegate command",
            command.trace,
            "consumer",
            {"tenant_id": command.tenant, "device_id": command.device},
        )
        self._asked.note(command, span.context)
        walk = Walk(command, span, self._routed, done)
        self._registry.assert_device(
            command.tenant, command.device, None, lambda found: self._found(walk, found)
        )

    def _found(self, walk: Walk, found: Assertion | GatewayError) -> None:
        """Deliver a command, or hand it to those who keep it where that is wished."""
        assertion = self._checked(walk, self._or_edge(found, walk.command))
        if assertion is None:
            return
        stored = self._stored
        if stored is not None and assertion is found:  # what only the cluster knows is not kept
            terms = stored.terms(assertion, walk.command)
            if terms is not None:
                walk.hand_over()
                stored.take(walk, terms)
                return
        self._deliver(walk, assertion.via)

    # --- commands that are kept -----------------------------------------------------------------------

    def attempt(self, command: Command, mark: CommandMark, done: Done) -> None:
        """Deliver a command that is kept; errors as `route`. Its outcome is not counted here."""
        span = self._tracer.start_rare(
            "delegate Command request",
            command.trace,
            "consumer",
            {"tenant_id": command.tenant, "device_id": command.device},
        )
        walk = Walk(command, span, lambda _walk, _error: None, done, mark)

        def found(result: Assertion | GatewayError) -> None:
            assertion = self._checked(walk, result)
            if assertion is not None:
                self._deliver(walk, assertion.via)

        self._registry.assert_device(command.tenant, command.device, None, found)

    def is_reachable(self, tenant: str, device: str, done: Callable[[bool], None]) -> None:
        """Tell whether a command for the device would find a link."""

        def found(result: Assertion | GatewayError) -> None:
            if isinstance(result, GatewayError):
                done(False)
            else:
                done(self._link(tenant, device, result.via) is not None)

        self._registry.assert_device(tenant, device, None, found)

    def conclude(self, command: Command, error: GatewayError | None, seconds: float) -> None:
        """Count what became of a command that was kept."""
        tenant = self._registry.cached_tenant(command.tenant)
        self._account(command, tenant, command.trace, error, seconds)

    def pass_back(self, response: CommandResponse, done: Done) -> None:
        """Hand a response to the one who waits for it, unchecked."""
        sink = self._sink(response)
        if sink is None:
            done(NoConsumer())
        else:
            sink.take(response, done)

    # --- the way to a link ----------------------------------------------------------------------------

    def _or_edge(
        self, found: Assertion | GatewayError, command: Command
    ) -> Assertion | GatewayError:
        """Let a device that only the cluster knows be reached through the link that its edge made."""
        link = self._subscriptions.own(command.tenant, command.device)
        tenant = self._registry.cached_tenant(command.tenant)
        if (
            isinstance(found, DeviceNotFound)
            and tenant is not None
            and link is not None
            and link.adapter is Adapter.EDGE
        ):
            return Assertion(
                tenant, Device(tenant_id=tenant.tenant_id, device_id=command.device, document={})
            )
        return found

    def _checked(self, walk: Walk, found: Assertion | GatewayError) -> Assertion | None:
        """Return what the registry said of the device where its command may go on."""
        if isinstance(found, DeviceNotFound | TenantNotFound | TenantDisabled):
            walk.end(Rejected(found.message, status=found.status))
            return None
        if isinstance(found, GatewayError):
            walk.end(found)
            return None
        walk.tenant = found.tenant
        size = found.tenant.metered_size(len(walk.command.payload))
        if self._usage.would_exceed(found.tenant, size):
            walk.end(Rejected(QuotaExceeded.default_message, status=429))
            return None
        return found

    def _link(self, tenant: str, device: str, via: tuple[str, ...]) -> Subscription | None:
        last = self._last_gateways.get(tenant, device)
        return choose(self._subscriptions, tenant, device, via, last)

    def _deliver(self, walk: Walk, via: tuple[str, ...]) -> None:
        command = walk.command
        link = self._link(command.tenant, command.device, via)
        if link is None:
            walk.end(NoConsumer())
            return
        try:
            request_id = encode_request_id(command)
        except BadRequest as error:
            walk.end(error)
            return
        gateway = link.gateway if link.device == command.device else link.device
        walk.component = link.adapter.value
        walk.span.set("adapter", walk.component)
        if gateway is not None:
            walk.span.set("gateway_id", gateway)
        to_device = DeviceCommand(
            command=replace(command, trace=walk.span.context),
            target=command.device,
            request_id=request_id,
            gateway=gateway,
            mark=walk.mark,
        )
        try:
            link.link.deliver(to_device, walk.end)
        except GatewayError as error:  # what the device's protocol has no way to say
            walk.end(error)

    def _routed(self, walk: Walk, error: GatewayError | None) -> None:
        seconds = time.perf_counter() - walk.started
        trace = walk.span.context
        if not walk.is_kept:
            self._account(walk.command, walk.tenant, trace, error, seconds, walk.component)
        elif self._traffic.watchers:
            self._traffic.commanded(walk.command, trace.trace_id, error, is_kept=True)

    def _account(
        self,
        command: Command,
        tenant: Tenant | None,
        trace: TraceContext | None,
        error: GatewayError | None,
        seconds: float,
        component: str = ROUTER,
    ) -> None:
        if self._traffic.watchers and tenant is not None:
            told = replace(command, tenant=tenant.tenant_id)
            self._traffic.commanded(told, "" if trace is None else trace.trace_id, error)
        size = len(command.payload) if tenant is None else tenant.metered_size(len(command.payload))
        if tenant is not None and error is None:
            self._usage.add_bytes(tenant, size)
        name = UNKNOWN if tenant is None else tenant.tenant_id
        kind = Direction.ONE_WAY if command.is_one_way else Direction.REQUEST
        self._meter.record(name, kind, error, component, seconds, size, trace)

    # --- responses ------------------------------------------------------------------------------------

    def asked(self, command: Command, trace: TraceContext) -> None:
        """A command has gone to a device here: the answer belongs to its trace."""
        self._asked.note(command, trace)

    def respond(self, response: CommandResponse, done: Done) -> None:
        """Hand a device's response to the one who waits at its reply address.

        Errors (through `done`): BadRequest for a status or content type that is none; what the registry says
            about the device and `response.via`; AdapterDisabled; QuotaExceeded; NoConsumer; what the
            receiver says.
        """
        started = time.perf_counter()
        span = self._tracer.start_rare(
            "upload Command response",
            self._asked.of(response),
            "server",
            {"tenant_id": response.tenant, "device_id": response.device},
        )
        tenant = self._registry.cached_tenant(response.tenant)

        def finish(error: GatewayError | None) -> None:
            span.end(error)
            if self._traffic.watchers and tenant is not None:
                self._traffic.responded(
                    replace(response, tenant=tenant.tenant_id), span.context.trace_id, error
                )
            self._responded(tenant, response, error, started, span)
            done(error)

        def asserted(found: Assertion | GatewayError) -> None:
            nonlocal tenant
            if isinstance(found, GatewayError):
                finish(found)
                return
            tenant = found.tenant
            self._pass_on(found, response, span, finish)

        try:
            check_response_status(response.status)
            check_content_type(response.content_type)
        except BadRequest as error:
            finish(error)
            return
        self._registry.assert_device(response.tenant, response.device, response.via, asserted)

    def pass_response(self, response: CommandResponse, done: Done) -> None:
        """Hand on a response that an adapter elsewhere has checked and completed.

        Errors (through `done`): NoConsumer; what the receiver says.
        """
        sink = self._sink(response)
        if sink is None:
            done(NoConsumer())
        else:
            sink.take(response, done)

    def _pass_on(self, found: Assertion, response: CommandResponse, span: Span, done: Done) -> None:
        if response.adapter and not found.tenant.adapter(response.adapter).enabled:
            done(AdapterDisabled())
        elif self._usage.would_exceed(
            found.tenant, found.tenant.metered_size(len(response.payload))
        ):
            done(QuotaExceeded())
        else:
            completed = self._completed(found, response, span)
            sink = self._sink(completed)
            if sink is None:
                done(NoConsumer())
            else:
                sink.take(completed, done)

    def _sink(self, response: CommandResponse) -> ResponseSink | None:
        return next((s for s in self._sinks if s.owns(response.tenant, response.reply_id)), None)

    def _completed(
        self, found: Assertion, response: CommandResponse, span: Span
    ) -> CommandResponse:
        """Fill in what defaults and limits of tenant and device say."""
        defaults = {**found.tenant.defaults, **found.device.defaults}
        content_type = response.content_type
        if content_type is None and response.payload:
            content_type = default_content_type(defaults) or OCTET_STREAM
        ttl = Ttl(
            seconds_of(defaults.get("ttl-command-response")),
            found.tenant.limits.max_ttl_command_response,
        )
        return replace(
            response,
            content_type=content_type,
            at=response.at or self._clock(),
            ttl=ttl.effective(response.ttl),
            trace=span.context,
            properties={**scalar_defaults(defaults), **response.properties},
        )

    def _responded(
        self,
        tenant: Tenant | None,
        response: CommandResponse,
        error: GatewayError | None,
        started: float,
        span: Span,
    ) -> None:
        size = len(response.payload)
        if tenant is not None:
            size = tenant.metered_size(size)
            if error is None or isinstance(error, Rejected):
                self._usage.add_bytes(tenant, size)
        self._meter.record(
            UNKNOWN if tenant is None else tenant.tenant_id,
            Direction.RESPONSE,
            error,
            response.adapter or ROUTER,
            time.perf_counter() - started,
            size,
            span.context,
        )
