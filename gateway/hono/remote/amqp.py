"""The way to a remote Hono over its AMQP adapter.

A few links without a target carry uploads and responses, whichever has credit: Hono gives each 30. One from
`command` brings the commands of all our devices. An outcome of the remote is the outcome of the message.
Source: Hono, AMQP Adapter user guide.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from itertools import count
from typing import Any, Final

from gateway.errors import BadRequest, GatewayError, NoConsumer, TooLarge
from gateway.hono.amqp_messages import (
    COMMAND_RESPONSE,
    TRACE_ANNOTATION,
    trace_map,
    trace_of,
)
from gateway.hono.amqp_outcomes import INTERNAL_ERROR, command_state
from gateway.hono.remote.replies import decode_reply, encode_reply
from gateway.hono.remote.uplink import Hub, NotTaken, Refused, refusal
from gateway.model.message import DUPLICATE, Command, CommandResponse, Kind, Message
from gateway.model.ports import Done
from gateway.outcome import BAD_REQUEST, NOT_FOUND, RESOURCE_LIMIT, UNAUTHORIZED
from gateway.runtime.amqp_client import AmqpClient, AmqpLogin, condition_of
from gateway.wire.amqp import performatives as amqp
from gateway.wire.amqp.message import (
    AmqpMessage,
    Data,
    Header,
    Properties,
    decode_message,
    encode_message,
    payload_of,
)
from gateway.wire.amqp.values import Int, Symbol

log = logging.getLogger(__name__)

SENDERS: Final = 4
COMMANDS_AT_ONCE: Final = 100
MAX_COMMAND: Final = 1_048_576
MAX_UNSENT: Final = 1_048_576
"""Bytes that wait for the remote's session window; above it nothing more is sent."""
MAX_TTL_MS: Final = 0xFFFF_FFFF

_STATUS: Final = {
    BAD_REQUEST: 400,
    UNAUTHORIZED: 403,
    NOT_FOUND: 404,
    RESOURCE_LIMIT: 429,
    INTERNAL_ERROR: 500,
}
_RETAIN: Final = Symbol("x-opt-retain")
_DUPLICATE: Final = Symbol(DUPLICATE)
_TRACE: Final = Symbol(TRACE_ANNOTATION)


class AmqpUplink(AmqpClient):
    """The port `Uplink` of one connection.

    Shape:  `tenant` is ours; what a command says of the remote's tenant goes back with its response.
    """

    def __init__(
        self, proton: Any, login: AmqpLogin, hub: Hub, tenant: str, *, commands: bool
    ) -> None:
        super().__init__(proton, login)
        self._hub = hub
        self._tenant = tenant
        self._asks_commands = commands
        self._senders: list[Any] = []
        self._receiver: Any = None
        self._session: Any = None
        self._is_up = False
        self._tags = count(1)
        self._waiting: dict[str, Done] = {}
        states = proton.Delivery
        self._final = {states.ACCEPTED, states.REJECTED, states.RELEASED, states.MODIFIED}

    # --- the port ------------------------------------------------------------------------------------

    @property
    def protocol(self) -> asyncio.Protocol:
        return self

    @property
    def can_send(self) -> bool:
        return (
            self._is_up
            and self.is_writable
            and any(sender.credit > 0 for sender in self._senders)
            and self._session.outgoing_bytes < MAX_UNSENT
        )

    def fits(self, message: Message) -> bool:
        limit = self._limit
        return not limit or len(message.payload) * 2 < limit or self._size(message) <= limit

    @property
    def _limit(self) -> int:
        """Bytes of a message that the remote takes; 0 where it has not said."""
        return int(self._senders[0].remote_max_message_size or 0)

    @staticmethod
    def _size(message: Message) -> int:
        return len(encode_message(upload_message(message)))

    def send(self, message: Message, done: Done) -> None:
        """Send an upload: settled for QoS 0, else `done` tells the remote's outcome."""
        self._transfer(encode_message(upload_message(message)), done, settled=not message.qos)

    def respond(self, response: CommandResponse, done: Done) -> None:
        """Send a device's answer.

        Errors (through `done`): BadRequest for a reply id that is none; NoConsumer without credit.
        """
        try:
            tenant, reply_id, correlation_id = decode_reply(response.reply_id, 3)
        except BadRequest as error:
            done(error)
            return
        if not self.can_send:
            done(NoConsumer())
            return
        if "/" in tenant:  # the device's own word: it must not make another device of it
            done(BadRequest("command request id: not one of this remote's"))
            return
        to = f"{COMMAND_RESPONSE}/{tenant}/{response.device}/{reply_id}"
        message = response_message(response, to, correlation_id)
        self._transfer(encode_message(message), done, settled=False)

    def end(self, cause: str) -> None:
        self.abort(cause)

    def _transfer(self, payload: bytes, done: Done, *, settled: bool) -> None:
        limit = self._limit
        if limit and len(payload) > limit:
            done(TooLarge(f"message of {len(payload)} bytes, the remote takes {limit}"))
            return
        tag = f"{next(self._tags):x}"
        sender = max(self._senders, key=_credit)
        delivery = sender.delivery(tag)
        sender.stream(payload)
        sender.advance()
        self.flush_soon()
        if settled:
            delivery.settle()
            done(None)
        else:
            self._waiting[tag] = done

    # --- the connection ------------------------------------------------------------------------------

    def opened(self) -> None:
        if self._session is not None:
            return
        self._session = self.session()
        for number in range(SENDERS):
            sender = self._session.sender(f"twinspan-uploads-{number}")
            sender.open()
            self._senders.append(sender)
        if self._asks_commands:
            self._receiver = self._session.receiver("twinspan-commands")
            self._receiver.source.address = "command"
            self._receiver.max_message_size = MAX_COMMAND
            self._receiver.open()
            self._receiver.flow(COMMANDS_AT_ONCE)

    def attached(self, link: Any) -> None:
        is_refused = link.remote_target.type == self.proton.Terminus.UNSPECIFIED
        if self._is_up or not link.is_sender or is_refused:
            return
        self._is_up = True
        self._hub.up(self)

    def detached(self, link: Any) -> None:
        name, text = condition_of(link)
        if link == self._receiver:
            log.warning(
                "the remote sends no commands", extra={"condition": name, "cause": text or None}
            )
        else:
            self._peer_ends(link.remote_condition, "the remote ended the link for uploads")
            self.close(self.cause)

    def flowed(self, link: Any) -> None:
        if self._is_up and link.is_sender:
            self._hub.has_room()

    def writable(self) -> None:
        if self._is_up:
            self._hub.has_room()

    def over(self) -> None:
        self._waiting.clear()
        self._is_up = False
        self._hub.down(self, by_peer=self.by_peer)

    # --- outcomes ------------------------------------------------------------------------------------

    def delivered(self, delivery: Any) -> None:
        if delivery.link == self._receiver:
            self._on_command(delivery)
            return
        state = delivery.remote_state
        if state not in self._final and not delivery.settled:
            return
        done = self._waiting.pop(delivery.tag, None)
        error = self._outcome(delivery, state)
        delivery.settle()
        self.flush_soon()
        if done is not None:
            done(error)
        self._hub.has_room()

    def _outcome(self, delivery: Any, state: object) -> GatewayError | None:
        states = self.proton.Delivery
        if state == states.ACCEPTED:
            return None
        if state == states.REJECTED:
            name, text = condition_of(delivery.remote)
            return refusal(_STATUS.get(name, 400), f"{name} {text}".strip())
        if state == states.MODIFIED and delivery.remote.undeliverable:
            return Refused("the remote says that the message cannot be delivered there")
        return NotTaken("the remote released the message")

    # --- commands ------------------------------------------------------------------------------------

    def _on_command(self, delivery: Any) -> None:
        if delivery.partial or not delivery.readable:
            if delivery.pending > MAX_COMMAND:
                self.abort("a command is larger than was agreed")
            return
        raw = bytes(self._receiver.recv(delivery.pending) or b"")
        self._receiver.advance()
        done = partial(self._commanded, delivery)
        try:
            command = command_of(raw, self._tenant)
        except GatewayError as error:
            done(error)
            return
        self._hub.command(command, done)

    def _commanded(self, delivery: Any, error: GatewayError | None) -> None:
        """Tell the remote what became of a command."""
        if not self._is_up:
            return
        states, state = self.proton.Delivery, command_state(error)
        local = delivery.local
        match state:
            case amqp.Accepted():
                delivery.update(states.ACCEPTED)
            case amqp.Rejected(amqp.Error() as why):
                local.condition = self.proton.Condition(why.condition, why.description)
                delivery.update(states.REJECTED)
            case amqp.Modified(delivery_failed=failed, undeliverable_here=here):
                local.failed, local.undeliverable = bool(failed), bool(here)
                delivery.update(states.MODIFIED)
            case _:
                delivery.update(states.RELEASED)
        delivery.settle()
        self._receiver.flow(1)
        self.flush_soon()


def _credit(sender: Any) -> int:
    return int(sender.credit)


def upload_message(message: Message) -> AmqpMessage:
    """Return a message as the gateway device sends it for its device."""
    annotations: dict[object, object] = {_TRACE: trace_map(message.trace)}
    if message.retain:
        annotations[_RETAIN] = True
    if message.duplicate:
        annotations[_DUPLICATE] = True
    is_event = message.kind is Kind.EVENT
    ttl = None if message.ttl is None else max(1, min(int(message.ttl * 1_000), MAX_TTL_MS))
    return AmqpMessage(
        header=Header(durable=is_event, ttl=ttl if is_event else None),
        message_annotations=annotations,
        properties=Properties(
            to=f"{message.kind.value}//{message.device}", content_type=message.content_type
        ),
        body=Data(message.payload) if message.payload else None,
    )


def response_message(response: CommandResponse, to: str, correlation_id: str) -> AmqpMessage:
    """Return a device's answer as the gateway device sends it."""
    annotations: dict[object, object] = {}
    if response.trace is not None:
        annotations[_TRACE] = trace_map(response.trace)
    return AmqpMessage(
        message_annotations=annotations,
        properties=Properties(
            to=to, correlation_id=correlation_id, content_type=response.content_type
        ),
        application_properties={"status": Int(response.status)},
        body=Data(response.payload) if response.payload else None,
    )


def command_of(raw: bytes, tenant: str) -> Command:
    """Read a command for a device of ours.

    Shape:  `command/{its tenant}/{device}`; the reply-to is `command_response/{its tenant}/{device}/{rest}`.
    Errors: BadRequest, MalformedPacket.
    """
    message = decode_message(raw)
    properties = message.properties
    parts = (properties.to or "").split("/", 2)
    payload, correlation = payload_of(message), properties.correlation_id
    if len(parts) != 3 or not parts[2] or not properties.subject or payload is None:
        raise BadRequest("malformed command message")
    device = parts[2]
    reply_to = None
    if properties.reply_to is not None:
        if not isinstance(correlation, str) or not correlation:
            raise BadRequest("malformed command message")
        reply_id = encode_reply(parts[1], _rest(properties.reply_to, device), correlation)
        reply_to = f"{COMMAND_RESPONSE}/{tenant}/{reply_id}"
    return Command(
        tenant=tenant,
        device=device,
        name=properties.subject,
        payload=payload,
        content_type=properties.content_type,
        correlation_id=correlation if isinstance(correlation, str) else None,
        reply_to=reply_to,
        trace=trace_of(message),
    )


def _rest(reply_to: str, device: str) -> str:
    parts = reply_to.split("/", 3)
    if len(parts) != 4 or parts[0] != COMMAND_RESPONSE or parts[2] != device or not parts[3]:
        raise BadRequest("malformed command message")
    return parts[3]
