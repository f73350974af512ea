"""One device's connection to the AMQP adapter: who it is, what it sends, what it listens to.

A message's disposition is the outcome of its upload, told through a callback; nothing here awaits. What is
in work is bounded by link credit.
Source: Hono, AMQP Adapter.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from gateway.config.hono import AmqpAdapter as Settings
from gateway.errors import AdapterFull, BadRequest, GatewayError, QuotaExceeded, Unauthenticated
from gateway.hono.adapters.admission import Admission, Assertions, Lease
from gateway.hono.adapters.amqp_links import CommandReceiver, UploadReader, command_source
from gateway.hono.amqp_outcomes import link_error, upload_state
from gateway.hono.amqp_shell import AmqpProtocol
from gateway.hono.limits import attempt_outcome
from gateway.hono.meters import UNKNOWN
from gateway.hono.sasl import parse_plain
from gateway.model.login import Login
from gateway.model.message import Adapter, CommandResponse, Principal
from gateway.model.ports import Authenticator, CommandRouting, Ingress
from gateway.model.registry import ANONYMOUS, Assertion
from gateway.observe.metrics import Metrics
from gateway.outcome import BAD_REQUEST, NOT_FOUND, PRECONDITION_FAILED, UNAUTHORIZED, outcome_of
from gateway.runtime.device_tls import tls_peer
from gateway.wire.amqp.connection import SASL_AUTH, SASL_OK, SASL_TEMP
from gateway.wire.amqp.events import (
    ConnectionEnded,
    Disposed,
    Event,
    LinkDetached,
    LinkRequested,
    MessageArrived,
    OpenRequested,
    SaslRequested,
    SendPossible,
)
from gateway.wire.amqp.link import Incoming, ReceiverLink, SenderLink
from gateway.wire.amqp.performatives import SND_UNSETTLED, Error

log = logging.getLogger(__name__)

MAX_COMMAND_LINKS = 1_000
"""Command receivers of one connection; more are refused."""


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
    rooms: Rooms
    metrics: Metrics
    uploads: UploadReader

    @property
    def is_full(self) -> bool: ...

    def accepted(self, *, is_anonymous: bool) -> None: ...

    def left(self, *, is_anonymous: bool) -> None: ...


class AmqpDevice:
    """What one accepted socket may do."""

    def __init__(self, owner: Owner, protocol: AmqpProtocol) -> None:
        self._owner = owner
        self._rooms = owner.rooms
        self._protocol = protocol
        self._principal: Principal | None = None
        self._lease: Lease | None = None
        self._is_accepted = False
        self._is_over = False
        self._container = ""
        self._receivers: set[CommandReceiver] = set()

    def on_event(self, event: Event) -> None:
        match event:
            case MessageArrived(link=link, delivery=delivery):
                self._on_message(link, delivery)
            case Disposed(deliveries=deliveries, state=state):
                for sent in deliveries:
                    sent.context.finish(state)  # type: ignore[attr-defined]
            case SendPossible(link=link):
                link.drained()
            case LinkRequested(link=link):
                self._on_link(link)
            case LinkDetached(link=link, unsettled=unsettled):
                for sent in unsettled:
                    sent.context.finish(None)  # type: ignore[attr-defined]
                if isinstance(link.context, CommandReceiver):
                    self._receivers.discard(link.context)
                    link.context.end()
            case SaslRequested(mechanism=mechanism, response=response):
                self._on_sasl(mechanism, response)
            case OpenRequested(open=opened):
                self._container = opened.container_id
                self._on_open()
            case ConnectionEnded(error=error):
                self._on_end(error)

    def on_writable(self) -> None:
        """Commands are never queued here."""

    def _who(self) -> dict[str, object]:
        principal = self._principal
        return {
            "container_id": self._container[:256],
            "tenant": principal.tenant if principal else None,
            "device": principal.device if principal else None,
        }

    # --- SASL and open ---------------------------------------------------------------------------------

    def _on_sasl(self, mechanism: str, response: bytes) -> None:
        if mechanism == "ANONYMOUS":
            self._answer_sasl(SASL_OK)
            return
        if mechanism == "EXTERNAL":
            login = Login(peer=tls_peer(self._protocol.fact("ssl_object")))
            self._rooms.authenticator.check_login(login, Adapter.AMQP, self._authenticated)
            return
        name, password = parse_plain(response)
        self._rooms.authenticator.check_password(name, password, Adapter.AMQP, self._authenticated)

    def _authenticated(self, found: Principal | GatewayError) -> None:
        if isinstance(found, Principal):
            self._principal = found
            self._answer_sasl(SASL_OK)
            return
        self._count_refusal(found)
        self._answer_sasl(SASL_AUTH if found.status < 500 else SASL_TEMP)

    def _answer_sasl(self, code: int) -> None:
        protocol = self._protocol
        protocol.handle(protocol.connection.answer_sasl(code, protocol.now))
        protocol.flush_soon()

    def _on_open(self) -> None:
        if self._owner.is_full:
            self._count_refusal(AdapterFull())
            self._refuse(AdapterFull())
        elif self._principal is None:
            self._accept()
        else:
            self._rooms.admission.admit(
                self._principal,
                Adapter.AMQP,
                self._expelled,
                self._admitted,
                cipher_suite=self._cipher_suite,
                remote_id=self._container,
            )

    def _admitted(self, found: Lease | GatewayError) -> None:
        if self._is_over:
            if not isinstance(found, GatewayError):
                found.release()
        elif isinstance(found, GatewayError):
            self._refuse(found)
        else:
            self._lease = found
            self._accept()

    def _accept(self) -> None:
        self._is_accepted = True
        self._owner.accepted(is_anonymous=self._principal is None)
        log.info("device connected", extra=self._who())
        protocol = self._protocol
        protocol.handle(protocol.connection.accept(protocol.now))
        protocol.flush_soon()

    def _refuse(self, error: GatewayError) -> None:
        log.info("device refused", extra=self._who() | {"cause": error.message})
        self._protocol.close(Error(_connection_condition(error), error.message))

    def _expelled(self, error: GatewayError) -> None:
        """The device or its tenant is gone, or may not be connected any more."""
        log.info("device expelled", extra=self._who() | {"cause": error.message})
        self._protocol.close(Error(_connection_condition(error), error.message))

    def _count_refusal(self, error: GatewayError) -> None:
        is_full = isinstance(error, AdapterFull)
        outcome = "adapter-connections-exceeded" if is_full else attempt_outcome(error)
        tenant = self._principal.tenant if self._principal else UNKNOWN
        self._owner.metrics.connection_attempts.labels(
            tenant, outcome, self._cipher_suite, Adapter.AMQP.value
        ).inc()

    @property
    def _cipher_suite(self) -> str:
        cipher = self._protocol.fact("cipher")
        return str(cipher[0]) if isinstance(cipher, tuple) else "UNKNOWN"

    def _on_end(self, error: Error | None) -> None:
        if self._is_over:
            return
        self._is_over = True
        if self._lease is not None:
            self._lease.release()
        if self._is_accepted:
            self._owner.left(is_anonymous=self._principal is None)
            cause = None if error is None else f"{error.condition}: {error.description}"
            log.info("device disconnected", extra=self._who() | {"cause": cause})

    # --- links -----------------------------------------------------------------------------------------

    def _on_link(self, link: SenderLink | ReceiverLink) -> None:
        if isinstance(link, SenderLink):
            self._on_command_receiver(link)
        elif link.target is not None and link.target.address:  # an empty one names nothing either
            link.refuse(Error(BAD_REQUEST, "container supports anonymous terminus only"))
        else:
            settings = self._owner.settings
            link.accept(credit=settings.prefetch, max_message_size=settings.max_payload)

    def _on_command_receiver(self, link: SenderLink) -> None:
        address = link.source.address if link.source is not None else None
        try:
            source = command_source(address, self._principal)
        except GatewayError as error:
            link.refuse(link_error(error))
            return
        if source is None:
            link.refuse(Error(NOT_FOUND, "no such node"))
        elif len(self._receivers) >= MAX_COMMAND_LINKS:
            link.refuse(Error("amqp:resource-limit-exceeded", "too many command receivers"))
        elif self._principal is not None and source.device == self._principal.device:
            self._listen(link, source.tenant, source.device, for_its_devices=source.is_for_all)
        else:
            gateway = None if self._principal is None else self._principal.device
            self._rooms.assertions.assert_device(
                source.tenant,
                source.device,
                gateway,
                partial(self._asserted, link, source.tenant, source.device),
            )

    def _asserted(
        self, link: SenderLink, tenant: str, device: str, found: Assertion | GatewayError
    ) -> None:
        if self._is_over or link.is_gone:
            return
        is_anonymous = self._principal is None
        if isinstance(found, GatewayError):
            link.refuse(link_error(found))
        elif is_anonymous and found.tenant.adapter(Adapter.AMQP).refuses_anonymous:
            link.refuse(link_error(Unauthenticated(ANONYMOUS)))
        else:
            self._listen(link, tenant, device, for_its_devices=False)
        self._protocol.flush_soon()

    def _listen(self, link: SenderLink, tenant: str, device: str, *, for_its_devices: bool) -> None:
        principal = self._principal
        timeout = self._owner.settings.send_to_device_timeout
        receiver = CommandReceiver(self._protocol, link, timeout)
        link.context = receiver
        link.accept(snd_settle_mode=SND_UNSETTLED)
        self._receivers.add(receiver)
        is_own = principal is None or principal.device == device
        receiver.end = self._rooms.commands.subscribe(
            tenant,
            device,
            receiver,
            adapter=Adapter.AMQP,
            gateway=None if is_own or principal is None else principal.device,
            for_its_devices=for_its_devices,
        )

    # --- messages ----------------------------------------------------------------------------------------

    def _on_message(self, link: ReceiverLink, delivery: Incoming) -> None:
        done = partial(self._settled, link, delivery)
        try:
            item = self._owner.uploads.read(delivery, self._principal)
        except GatewayError as error:
            done(error)
            return
        if isinstance(item, CommandResponse):
            self._rooms.commands.respond(item, done)
        else:
            self._rooms.ingress.submit(item, done)

    def _settled(self, link: ReceiverLink, delivery: Incoming, error: GatewayError | None) -> None:
        """The outcome of a message is known."""
        link.settle(delivery, upload_state(error))
        self._protocol.flush_soon()
        if error is not None and error.is_terminal and self._principal is not None:
            self._protocol.close(Error(_connection_condition(error), error.message))


def _connection_condition(error: GatewayError) -> str:
    """The condition that a connection is closed with; limits count as a missing right."""
    if isinstance(error, QuotaExceeded | AdapterFull | Unauthenticated):
        return UNAUTHORIZED
    if isinstance(error, BadRequest):
        return PRECONDITION_FAILED
    return outcome_of(error).condition or PRECONDITION_FAILED
