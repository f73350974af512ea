"""One device's connection to the MQTT adapter: the walk of its uploads, responses and subscriptions.

A message's acknowledgement is the outcome of its upload, told through a callback; nothing here awaits. When
too many uploads have no outcome yet, reading from the device stops.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Protocol

import msgspec

from gateway.config.hono import MqttAdapter as Settings
from gateway.errors import (
    AdapterFull,
    AuthenticatedDeviceNotFound,
    BadRequest,
    Forbidden,
    GatewayError,
    MalformedTopic,
    TooLarge,
    Unauthenticated,
)
from gateway.hono.adapters.admission import Admission, Assertions, Lease
from gateway.hono.adapters.mqtt_subscriptions import CommandsInFlight, Subscriptions
from gateway.hono.adapters.mqtt_topics import (
    BadTopic,
    OnError,
    ResponseRoute,
    Route,
    UploadRoute,
    parse_topic,
)
from gateway.hono.device_texts import text_for_device
from gateway.hono.request_ids import parse_request_id
from gateway.hono.tokens import claimed_by_client_id
from gateway.model.login import NO_TLS, Login
from gateway.model.message import Adapter, CommandResponse, Principal, Upload
from gateway.model.ports import Authenticator, CommandRouting, Ingress
from gateway.model.trace import TraceContext
from gateway.outcome import outcome_of
from gateway.runtime.device_tls import tls_peer
from gateway.runtime.mqtt_link import Hold, MqttLink
from gateway.wire.mqtt.filters import check_topic
from gateway.wire.mqtt.packets import Connect, Publish, Subscribe, Unsubscribe
from gateway.wire.mqtt.properties import NONE, Properties
from gateway.wire.mqtt.reasons import Reason
from gateway.wire.mqtt.server import ServerSession
from gateway.wire.mqtt.state import Acked, Closed, Event, Limits

log = logging.getLogger(__name__)

CACHED_ROUTES = 64
_MQTT = Adapter.MQTT
HEADER_BYTES = 128
"""What Hono grants the variable header of a packet."""
FIXED_HEADER_BYTES = 5
TOPIC_ALIASES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Rooms:
    """What a connection hands its events to."""

    ingress: Ingress
    commands: CommandRouting
    authenticator: Authenticator
    admission: Admission
    assertions: Assertions


class Owner(Protocol):
    """The adapter that listens."""

    settings: Settings
    limits: Limits
    rooms: Rooms

    @property
    def is_full(self) -> bool: ...

    def joined(self, device: MqttDevice) -> None: ...

    def accepted(self, device: MqttDevice) -> None: ...

    def left(self, device: MqttDevice) -> None: ...

    def refused(self, tenant: str | None, error: GatewayError, cipher_suite: str) -> None:
        """Count an attempt that ended before admission was asked."""


def limits_of(settings: Settings) -> Limits:
    """Return what the adapter takes from a device."""
    return Limits(
        max_packet=settings.max_payload + HEADER_BYTES + FIXED_HEADER_BYTES,
        receive_maximum=settings.max_in_flight,
        topic_alias_maximum=TOPIC_ALIASES,
        connect_timeout=settings.connect_timeout,
    )


class MqttDevice(MqttLink[ServerSession]):
    """One accepted socket."""

    def __init__(self, owner: Owner) -> None:
        super().__init__()
        self._owner = owner
        self._rooms = owner.rooms
        self._settings = owner.settings
        self._principal: Principal | None = None
        self._client_id = ""
        self._lease: Lease | None = None
        self._subscriptions: Subscriptions | None = None
        self._flights = CommandsInFlight(self, owner.settings.send_to_device_timeout)
        self._routes: dict[str, UploadRoute] = {}
        self._in_work = 0
        self._max_in_work = owner.settings.max_in_flight
        self._is_ending = False
        self._expiry: asyncio.TimerHandle | None = None

    def make_session(self, now: float) -> ServerSession:
        self._owner.joined(self)
        return ServerSession(self._owner.limits, now)

    @property
    def is_accepted(self) -> bool:
        """True once CONNECT was answered with success."""
        return self._subscriptions is not None

    @property
    def is_anonymous(self) -> bool:
        return self._principal is None

    def handle(self, event: Event) -> None:
        if self._is_ending:
            return
        match event:
            case Publish():
                self.on_publish(event)
            case Acked():
                self._flights.answered(event.packet_id, event.reason)
            case Subscribe():
                self._accepted_subscriptions.subscribe(event)
            case Unsubscribe():
                codes = tuple(self._accepted_subscriptions.unsubscribe(f) for f in event.filters)
                self.session.unsuback(event.packet_id, codes)
            case Connect():
                self._on_connect(event)
            case Closed(error=error) if error is not None:
                log.info("device broke the protocol", extra=self._who() | {"cause": error.message})
            case _:  # DISCONNECT is followed by Closed; re-authentication was never offered
                pass

    def resumed(self, now: float) -> None:
        self.session.heard(now)

    def lost(self) -> None:
        self._flights.give_all_up()
        if self._subscriptions is not None:
            self._subscriptions.end()
            log.info("device disconnected", extra=self._who())
        if self._expiry is not None:
            self._expiry.cancel()
        if self._lease is not None:
            self._lease.release()
            self._lease = None
        self._owner.left(self)

    def end(self, reason: Reason | None = None) -> None:
        """Close the connection; an MQTT 5 device is told `reason` when there is one."""
        if self._is_ending:
            return
        self._is_ending = True
        session = self.session
        self.process(session.close() if reason is None else session.disconnect(reason))

    def _who(self) -> dict[str, object]:
        principal = self._principal
        return {
            "client_id": self._client_id,
            "tenant": principal.tenant if principal else None,
            "device": principal.device if principal else None,
        }

    @property
    def _accepted_subscriptions(self) -> Subscriptions:
        if self._subscriptions is None:
            raise AssertionError("the session gives no request before CONNECT is accepted")
        return self._subscriptions

    # --- CONNECT --------------------------------------------------------------------------------------

    def _on_connect(self, packet: Connect) -> None:
        self._client_id = packet.client_id
        if packet.properties.authentication_method is not None:
            self._refuse_with(Reason.BAD_AUTHENTICATION_METHOD)
        elif self._owner.is_full:
            self._refuse(None, AdapterFull())
        elif (login := self._login(packet)) is None:
            self._without_credentials()
        else:
            self.hold(Hold.DECISION)
            self._rooms.authenticator.check_login(login, Adapter.MQTT, self._authenticated)

    def _login(self, packet: Connect) -> Login | None:
        """What the device brought to prove who it is; None for nothing."""
        peer = tls_peer(self.fact("ssl_object"))
        is_certified = peer.certificate is not None and self._settings.authentication_required
        has_password = packet.username is not None and packet.password is not None
        if not has_password and not is_certified:
            return None
        return Login(
            peer=peer if is_certified else NO_TLS,
            username=packet.username if has_password else None,
            password=packet.password if has_password else None,
            claimed=claimed_by_client_id(packet.client_id),
            context={"client-id": packet.client_id},
        )

    def _without_credentials(self) -> None:
        if self._settings.authentication_required:
            self._refuse(None, Unauthenticated("expected user name and password, got none"))
        else:
            self._accept()

    def _authenticated(self, found: Principal | GatewayError) -> None:
        if self.session.closed:
            return
        if isinstance(found, GatewayError):
            self._refuse(None, found)
            return
        self._principal = found
        self._rooms.admission.admit(
            found,
            Adapter.MQTT,
            self._expelled,
            self._admitted,
            cipher_suite=self._cipher_suite,
            remote_id=self._client_id,
        )

    def _admitted(self, found: Lease | GatewayError) -> None:
        if self.session.closed:
            if not isinstance(found, GatewayError):
                found.release()
        elif isinstance(found, GatewayError):
            self._answer_refusal(found)
        else:
            self._lease = found
            self._accept()

    def _accept(self) -> None:
        self._subscriptions = Subscriptions(
            self, self._principal, self._rooms.commands, self._rooms.assertions, self._flights
        )
        self._expire_later()
        self._owner.accepted(self)
        log.info("device connected", extra=self._who())
        said = Properties(
            session_expiry=0,
            maximum_qos=1,
            shared_available=0,
            assigned_client_id=None if self._client_id else f"twinspan-{id(self):x}",
        )
        events = self.session.accept(self.loop.time(), properties=said)
        self.process(events)
        self.release(Hold.DECISION)

    def _expire_later(self) -> None:
        """End the connection when the proof of who the device is ends."""
        if self._principal is not None and self._principal.expires is not None:
            left = max(0.0, self._principal.expires - time.time())
            self._expiry = self.loop.call_later(left, self.end, Reason.NOT_AUTHORIZED)

    def _refuse(self, tenant: str | None, error: GatewayError) -> None:
        self._owner.refused(tenant, error, self._cipher_suite)
        self._answer_refusal(error)

    def _answer_refusal(self, error: GatewayError) -> None:
        is_gone = isinstance(
            error, AuthenticatedDeviceNotFound
        )  # right credentials, yet no right to connect
        outcome = outcome_of(Forbidden() if is_gone else error)
        log.info("device refused", extra=self._who() | {"cause": error.message})
        self._refuse_with(outcome.connack5, outcome.connack3)

    def _refuse_with(self, reason: int, code3: int | None = None) -> None:
        self.process(self.session.refuse(reason, code3))

    def _expelled(self, error: GatewayError) -> None:
        """The device or its tenant is gone, or may not be connected any more."""
        log.info("device expelled", extra=self._who() | {"cause": error.message})
        self.end(Reason.ADMINISTRATIVE_ACTION)

    @property
    def _cipher_suite(self) -> str:
        cipher = self.fact("cipher")
        return str(cipher[0]) if isinstance(cipher, tuple) else "UNKNOWN"

    # --- PUBLISH --------------------------------------------------------------------------------------

    def on_publish(self, message: Publish) -> None:
        if self._is_ending:
            return
        self._in_work += 1
        if self._in_work > self._max_in_work:
            self.hold(Hold.WORK)
        qos = message.qos
        route = self._routes.get(message.topic) or self._learn(message)
        if route is None:
            return
        if qos == 2 or (route.is_event and not qos):
            self._settled(message, route, _bad_qos(message, route))
            return
        content_type, ttl, trace = route.content_type, route.ttl, route.trace
        said = message.properties
        if said is not NONE:
            content_type = content_type or said.content_type
            trace = trace or _trace_of(said)
            if ttl is None and said.message_expiry is not None and route.is_event:
                ttl = float(said.message_expiry)
        upload = Upload(
            adapter=_MQTT,
            principal=self._principal,
            kind=route.kind,
            qos=qos,
            payload=message.payload,
            address=message.topic,
            tenant=route.tenant,
            device=route.device,
            content_type=content_type,
            ttl=ttl,
            retain=message.retain,
            trace=trace,
            duplicate=route.duplicate,
        )
        self._rooms.ingress.submit(upload, partial(self._settled, message, route))

    def _learn(self, message: Publish) -> UploadRoute | None:
        """Return where a topic leads that was not seen before; None when it is no upload and dealt with."""
        try:
            route = parse_topic(message.topic)
        except BadTopic as error:
            self._settled(message, error.route, error)
            return None
        if isinstance(route, ResponseRoute):
            self._respond(message, route)
            return None
        if route.is_cacheable:
            if len(self._routes) >= CACHED_ROUTES:
                self._routes.clear()
            self._routes[message.topic] = route
        return route

    def _respond(self, message: Publish, route: ResponseRoute) -> None:
        try:
            if message.qos == 2:
                raise _bad_qos(message, route)
            response = self._response(message, route)
        except GatewayError as error:
            self._settled(message, route, error)
            return
        self._rooms.commands.respond(response, partial(self._settled, message, route))

    def _response(self, message: Publish, route: ResponseRoute) -> CommandResponse:
        tenant, device, via = self._target(route)
        correlation_id, reply_id = parse_request_id(route.request_id, tenant, device)
        said = message.properties
        return CommandResponse(
            tenant=tenant,
            device=device,
            reply_id=reply_id,
            correlation_id=correlation_id,
            status=route.status,
            payload=message.payload,
            content_type=route.content_type or said.content_type,
            at=time.time(),
            trace=route.trace or _trace_of(said),
            adapter=Adapter.MQTT.value,
            via=via,
        )

    def _target(self, route: Route) -> tuple[str, str, str | None]:
        """Return (tenant, device, gateway or None) that a response's topic means."""
        peer = self._principal
        if peer is None:
            if not route.tenant or not route.device:
                raise BadRequest("topic: an unauthenticated device must name tenant and device")
            return route.tenant, route.device, None
        if route.tenant and route.tenant != peer.tenant:
            raise Forbidden("topic: a device may not send for another tenant")
        device = route.device or peer.device
        return peer.tenant, device, None if device == peer.device else peer.device

    # --- outcomes ---------------------------------------------------------------------------------------

    def _settled(self, message: Publish, route: Route, error: GatewayError | None) -> None:
        """The outcome of a message is known."""
        self._in_work -= 1
        if self._holds and self._in_work * 2 <= self._max_in_work:
            self.release(Hold.WORK)
        if error is not None:
            self._failed(message, route, error)
        elif message.qos:
            self.session.acknowledge(message.packet_id)
            if not self._flush_due:
                self.flush_soon()

    def _failed(self, message: Publish, route: Route, error: GatewayError) -> None:
        """Tell the device as it has asked for: error topic, then go on or close (Hono, Error Reporting)."""
        if self._is_ending or self._subscriptions is None:
            return
        was_told = self._report(message, route, error)
        wish = route.on_error
        if wish is OnError.DEFAULT:
            wish = OnError.IGNORE if was_told else OnError.DISCONNECT
        if wish is OnError.DISCONNECT or (error.is_terminal and self._principal is not None):
            log.debug("device closed for a failed message", extra={"cause": error.message})
            self.end()
        elif message.qos and wish is OnError.IGNORE:
            self.session.acknowledge(message.packet_id, Reason.UNSPECIFIED_ERROR)
        elif message.qos:
            self.session.skip(message.packet_id)
        self.flush_soon()

    def _report(self, message: Publish, route: Route, error: GatewayError) -> bool:
        """Publish to the error topic if the device listens there."""
        peer = self._principal
        tenant = peer.tenant if peer else route.tenant or ""
        device = route.device or (peer.device if peer else "")
        found = self._accepted_subscriptions.error_filter(tenant, device)
        if found is None:
            return False
        error_filter, properties = found
        correlation = _correlation(message, route)
        topic = error_filter.topic(
            tenant=tenant,
            device=device,
            endpoint=route.endpoint,
            correlation=correlation,
            status=error.status,
        )
        said = Properties(subscription_ids=properties.subscription_ids)
        try:
            self.session.publish(topic, _error_payload(error, correlation), properties=said)
        except TooLarge:
            return False
        return True


def _bad_qos(message: Publish, route: Route) -> BadRequest:
    return BadRequest(f"QoS {message.qos} is not supported for {route.endpoint}")


def _trace_of(said: Properties) -> TraceContext | None:
    if not said.user:
        return None
    return TraceContext.parse(said.user_value("traceparent"), said.user_value("tracestate"))


def _correlation(message: Publish, route: Route) -> str:
    """What the device recognises its message by: its own id, or the packet identifier."""
    wished = route.correlation_id
    if wished:
        try:
            return check_topic(wished)
        except MalformedTopic:
            pass
    return str(message.packet_id) if message.qos == 1 else "-1"


def _error_payload(error: GatewayError, correlation: str) -> bytes:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return msgspec.json.encode(
        {
            "code": error.status,
            "message": text_for_device(error),
            "timestamp": now,
            "correlation-id": correlation,
        }
    )
