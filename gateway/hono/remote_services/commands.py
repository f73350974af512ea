"""Commands and responses by way of Hono's command router: the port `CommandRouting` beside adapters.

Who listens here is registered with the router under this process's adapter instances, one for each type of
adapter; the commands for one come on its link `command_internal/{instance}` and go to the link that is here
for the device or, with the property `via`, for that gateway. The link's outcome is the delivery's.

A device that listens twice here is registered again each time, so that this process is the latest, and is
taken out when the last of its links has gone. A registration that failed is tried again. When the connection
was away, the router is told whose commands to route, and everything is registered anew.
Full: a link's credit bounds the commands under way; the router releases others.
Source: Hono, Command Router API; Command & Control API, internal.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final, Protocol

import msgspec

from gateway.errors import (
    BadRequest,
    GatewayError,
    MalformedPacket,
    NoConsumer,
    NotBuilt,
    Unencodable,
)
from gateway.hono.amqp_messages import COMMAND_RESPONSE, command_of, encode_response
from gateway.hono.amqp_outcomes import command_state
from gateway.hono.ingress import WAITS_FOR_COMMANDS
from gateway.hono.remote_services.connection import ServiceConnection
from gateway.hono.remote_services.links import OutLinks
from gateway.hono.remote_services.requests import Answer, Question, Services
from gateway.hono.request_ids import encode_request_id
from gateway.hono.subscriptions import Subscription, Subscriptions
from gateway.hono.unencodable import note_unencodable
from gateway.model.message import (
    COMMAND_ID,
    DUPLICATE,
    Adapter,
    Command,
    CommandMark,
    CommandResponse,
    DeviceCommand,
    Scalar,
)
from gateway.model.ports import DeviceLink, Done
from gateway.model.trace import TraceContext
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracer
from gateway.outcome import BAD_REQUEST
from gateway.wire.amqp.link import Incoming, ReceiverLink
from gateway.wire.amqp.message import decode_message
from gateway.wire.amqp.performatives import RELEASED, Error, Rejected
from gateway.wire.amqp.values import Int

log = logging.getLogger(__name__)

ROUTER: Final = "cmd_router"
REGISTER: Final = "register-command-consumer"
UNREGISTER: Final = "unregister-command-consumer"
ENABLE: Final = "enable-command-routing"
VIA: Final = "via"
FOREVER: Final = -1
WAIT_SECONDS: Final = 110
"""Lifespan of a registration for one command; what is waited for longer is registered again before."""
RENEW_SECONDS: Final = 90.0
COMMAND_CREDIT: Final = 500
MAX_COMMAND: Final = 1_048_576
ENABLE_BATCH: Final = 1_000
MAX_REPLY_LINKS: Final = 500
RETRY_SECONDS: Final = 2.0
DONE: Final = (204, 412)
"""A registration is as wanted; 412 says that another instance has taken over."""


class Responder(Protocol):
    """Checks responses of devices and hands them on (`commands.CommandRouter`)."""

    def respond(self, response: CommandResponse, done: Done) -> None: ...
    def asked(self, command: Command, trace: TraceContext) -> None: ...


class Gate(Protocol):
    """Says whether a command may go to its device, and accounts for it."""

    def pass_on(self, command: Command, deliver: Callable[[Done], None], done: Done) -> None: ...


class RemoteCommands:
    """The port `CommandRouting`.

    Shape:  `instance` names this process among all with adapters; `gate` where not the router accounts for
            commands.
    """

    def __init__(
        self,
        services: Services,
        messaging: ServiceConnection,
        responder: Responder,
        tracer: Tracer,
        *,
        instance: str,
        gate: Gate | None = None,
    ) -> None:
        self.respond = responder.respond
        self._asked = responder.asked
        self._services = services
        self._messaging = messaging
        self._tracer = tracer
        self._instance = instance
        self._gate = gate
        self._subscriptions = Subscriptions()
        self._receivers: dict[Adapter, _Receiver] = {}
        self._registered: dict[tuple[str, str], Adapter] = {}
        self._waits: dict[Subscription, asyncio.TimerHandle] = {}
        services.connection.on_open(self._opened)

    def route(self, command: Command, done: Done) -> None:
        """Applications' commands come to the process with the router, never here."""
        del command
        done(NotBuilt("commands are routed by the command router"))

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
        """Register a link, see `CommandRouting.subscribe`."""
        behalf = None if gateway == device else gateway
        mine = Subscription(tenant, device, link, adapter, behalf, announce, for_its_devices)
        self._subscriptions.add(mine)
        self._receiver(adapter)
        self._register(mine, is_told=announce)
        return partial(self._end, mine)

    def _end(self, mine: Subscription) -> None:
        if not self._subscriptions.has(mine):
            return
        self._subscriptions.remove(mine)
        timer = self._waits.pop(mine, None)
        if timer is not None:
            timer.cancel()
        others = self._subscriptions.of(mine.tenant, mine.device)
        is_told = mine.announce and not any(other.announce for other in others)
        if others and not is_told and self._registered.get(_key(mine)) is others[-1].adapter:
            return
        self._unregister(mine, is_told=is_told)
        if others:
            self._register(others[-1], is_told=False)

    # --- registrations --------------------------------------------------------------------------------

    def _register(self, mine: Subscription, *, is_told: bool) -> None:
        """Have the router send the device's commands here; `is_told` tells applications too."""
        self._registered[_key(mine)] = mine.adapter
        properties = self._properties(mine, is_told)
        properties["lifespan"] = Int(self._lifespan(mine))
        again = partial(self._register, mine, is_told=is_told)
        self._ask(mine, Question(REGISTER, properties), again)

    def _lifespan(self, mine: Subscription) -> int:
        """A device that waits for one command does not wait for long."""
        if mine.announce or mine.adapter not in WAITS_FOR_COMMANDS:
            return FOREVER
        loop = asyncio.get_running_loop()
        timer = self._waits.get(mine)
        if timer is not None:
            timer.cancel()
        self._waits[mine] = loop.call_later(RENEW_SECONDS, self._renew, mine)
        return WAIT_SECONDS

    def _renew(self, mine: Subscription) -> None:
        self._waits.pop(mine, None)
        if self._subscriptions.of(mine.tenant, mine.device)[-1:] == [mine]:
            self._register(mine, is_told=False)

    def _unregister(self, mine: Subscription, *, is_told: bool) -> None:
        self._registered.pop(_key(mine), None)
        question = Question(UNREGISTER, self._properties(mine, is_told))
        self._services.ask(ROUTER, mine.tenant, question, partial(_unregistered, mine))

    def _properties(self, mine: Subscription, is_told: bool) -> dict[object, object]:
        return {
            "device_id": mine.device,
            "adapter_instance_id": self.instance_of(mine.adapter),
            "send_event": is_told,
        }

    def instance_of(self, adapter: Adapter) -> str:
        """Return the name under which the router knows this process's adapter of a type."""
        return f"{adapter.value}-{self._instance}"

    def _ask(self, mine: Subscription, question: Question, again: Callable[[], None]) -> None:
        def told(answer: Answer | GatewayError) -> None:
            if isinstance(answer, Answer) and answer.status in DONE:
                return
            why = answer.message if isinstance(answer, GatewayError) else str(answer.status)
            facts = {"tenant": mine.tenant, "device": mine.device, "cause": why}
            log.warning("the command router has not registered a device", extra=facts)
            asyncio.get_running_loop().call_later(RETRY_SECONDS, once_more)

        def once_more() -> None:
            newest = self._subscriptions.of(mine.tenant, mine.device)[-1:]
            if mine in newest and self._services.connection.is_open:
                again()

        self._services.ask(ROUTER, mine.tenant, question, told)

    def _opened(self) -> None:
        """The router may have forgotten us."""
        newest = self._subscriptions.newest()
        tenants = sorted({mine.tenant for mine in newest})
        for at in range(0, len(tenants), ENABLE_BATCH):
            batch = tenants[at : at + ENABLE_BATCH]
            question = Question(ENABLE, body=msgspec.json.encode(batch))
            self._services.ask(ROUTER, batch[0], question, _enabled)
        for adapter in {mine.adapter for mine in newest}:
            self._receiver(adapter)
        for mine in newest:
            self._register(mine, is_told=False)

    # --- commands -------------------------------------------------------------------------------------

    def _receiver(self, adapter: Adapter) -> None:
        """Have a link for the commands of one type of adapter."""
        receiver = self._receivers.get(adapter)
        if receiver is None:
            address = f"command_internal/{self.instance_of(adapter)}"
            receiver = self._receivers[adapter] = _Receiver(self._messaging, address, self._route)
        receiver.attach()

    def _route(
        self, command: Command, via: str | None, mark: CommandMark | None, done: Done
    ) -> None:
        """Deliver a command that the router sent here."""
        chosen = self._choose(command, via)
        if chosen is None:
            done(NoConsumer())
            return
        try:
            request_id = encode_request_id(command)
        except BadRequest as error:
            done(error)
            return
        gateway = via if via is not None else chosen.gateway
        span = self._tracer.start(
            "process received command",
            command.trace,
            "consumer",
            {"tenant_id": command.tenant, "device_id": command.device},
        )
        self._asked(command, span.context)
        if gateway is not None:
            span.set("gateway_id", gateway)
        to_device = DeviceCommand(
            command=replace(command, trace=span.context),
            target=command.device,
            request_id=request_id,
            gateway=gateway,
            mark=mark,
        )

        def ended(error: GatewayError | None) -> None:
            span.end(error)
            done(error)

        def deliver(told: Done) -> None:
            try:
                chosen.link.deliver(to_device, told)
            except GatewayError as error:  # what the device's protocol has no way to say
                told(error)

        if self._gate is None:
            deliver(ended)
        else:
            self._gate.pass_on(command, deliver, ended)

    def _choose(self, command: Command, via: str | None) -> Subscription | None:
        """The link that is here for a device; through `via` only that gateway's."""
        subscriptions, tenant, device = self._subscriptions, command.tenant, command.device
        if via is not None:
            behalf = subscriptions.on_behalf(tenant, device, (via,))
            return behalf or subscriptions.of_gateway(tenant, via)
        here = subscriptions.of(tenant, device)
        return here[-1] if here else None


def _key(mine: Subscription) -> tuple[str, str]:
    return mine.tenant, mine.device


def _unregistered(mine: Subscription, answer: Answer | GatewayError) -> None:
    if isinstance(answer, GatewayError) or answer.status not in DONE:
        why = answer.message if isinstance(answer, GatewayError) else str(answer.status)
        facts = {"tenant": mine.tenant, "device": mine.device, "cause": why}
        log.warning("the command router still has a device that has gone", extra=facts)


def _enabled(answer: Answer | GatewayError) -> None:
    if isinstance(answer, GatewayError) or answer.status != 204:
        why = answer.message if isinstance(answer, GatewayError) else str(answer.status)
        log.warning("command routing is not enabled", extra={"cause": why})


class _Receiver:
    """The link of one adapter instance, attached again when it is lost."""

    def __init__(
        self,
        connection: ServiceConnection,
        address: str,
        route: Callable[[Command, str | None, CommandMark | None, Done], None],
    ) -> None:
        self._connection = connection
        self._address = address
        self._route = route
        self._link: ReceiverLink | None = None
        connection.on_open(self.attach)

    def attach(self) -> None:
        """Attach where there is a connection and no link."""
        if self._link is not None or not self._connection.is_open:
            return
        try:
            self._link = self._connection.attach_receiver(
                self._address, self, credit=COMMAND_CREDIT, max_message_size=MAX_COMMAND
            )
        except GatewayError as error:
            log.warning("commands are not received", extra={"cause": error.message})

    def attached(self) -> None:
        """Commands may come."""

    def sendable(self) -> None:
        """Nothing is sent here."""

    def arrived(self, link: ReceiverLink, delivery: Incoming) -> None:
        try:
            message = decode_message(delivery.payload)
            command = command_of(message, None)
        except GatewayError as error:
            is_foreign = isinstance(error, MalformedPacket)
            log.warning("a command is malformed", extra={"cause": error.message})
            state: object = Rejected(Error(BAD_REQUEST, error.message))
            self._settle(link, delivery, RELEASED if is_foreign else state)
            return
        given = dict(command.properties)
        via, mark = given.pop(VIA, None), _mark(given)
        self._route(
            replace(command, properties=given),
            via if isinstance(via, str) else None,
            mark,
            lambda error: self._settle(link, delivery, command_state(error)),
        )

    def _settle(self, link: ReceiverLink, delivery: Incoming, state: object) -> None:
        link.settle(delivery, state)
        self._connection.flush_soon()

    def detached(self, error: Error | None) -> None:
        self._link = None
        if error is not None:
            facts = {"address": self._address, "cause": f"{error.condition}: {error.description}"}
            log.warning("commands are not received", extra=facts)
            asyncio.get_running_loop().call_later(RETRY_SECONDS, self.attach)


def _mark(given: dict[str, Scalar]) -> CommandMark | None:
    """Take out what tells that a command may come more than once."""
    command_id, redelivered = given.pop(COMMAND_ID, None), given.pop(DUPLICATE, None)
    if not isinstance(command_id, str):
        return None
    return CommandMark(command_id, redelivered in (True, "true"))


class RemoteResponses:
    """Sends responses to their reply addresses: the `ResponseSink` of a process with adapters.

    Units:  `timeout` in seconds.
    """

    def __init__(
        self, connection: ServiceConnection, metrics: Metrics, *, timeout: float = 1.0
    ) -> None:
        self._metrics = metrics
        self._links = OutLinks(connection, timeout, capacity=MAX_REPLY_LINKS)

    def owns(self, tenant: str, reply_id: str) -> bool:
        """Every reply address is asked for there."""
        return bool(tenant and reply_id)

    def take(self, response: CommandResponse, done: Done) -> None:
        """Send a response; `done` once the application has accepted it."""
        address = f"{COMMAND_RESPONSE}/{response.tenant}/{response.reply_id}"
        try:
            payload = encode_response(response)
        except Unencodable as error:
            note_unencodable(
                self._metrics, COMMAND_RESPONSE, response.tenant, response.device, error
            )
            done(error)
        else:
            self._links.send(address, payload, done)
