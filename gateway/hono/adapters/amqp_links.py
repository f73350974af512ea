"""What a device's messages and links over AMQP 1.0 mean, and the way of a command to it.

| `to` of a message | what |
|---|---|
| `telemetry` or `t`, `event` or `e`, each with `/{tenant}/{device}` or `//{device}` | upload |
| `command_response` or `cr`, then `/{tenant}/{device}/{request id}` | response to a command |

| source of a receiver | commands for |
|---|---|
| `command` or `c` | the device itself, and a gateway's devices |
| `command/{tenant}/{device}`, `command//{device}` | that device |
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from gateway.errors import BadRequest, Forbidden, GatewayError, NoConsumer, NotFound, Undeliverable
from gateway.hono.amqp_messages import TRACE_ANNOTATION, trace_map, trace_of
from gateway.hono.amqp_outcomes import device_error
from gateway.hono.amqp_shell import AmqpProtocol
from gateway.hono.request_ids import encode_amqp_reply_to, parse_amqp_reply_to
from gateway.hono.routes import resolve_address
from gateway.model.message import (
    COMMAND_ID,
    DUPLICATE,
    Adapter,
    CommandResponse,
    DeviceCommand,
    Kind,
    Principal,
    Upload,
)
from gateway.model.ports import Done
from gateway.wire.amqp.link import Incoming, SenderLink, Sent
from gateway.wire.amqp.message import (
    AmqpMessage,
    Data,
    Properties,
    decode_message,
    encode_message,
    last_data_section,
    payload_of,
)
from gateway.wire.amqp.performatives import RELEASED
from gateway.wire.amqp.values import Symbol

KINDS: Final = {
    "telemetry": Kind.TELEMETRY,
    "t": Kind.TELEMETRY,
    "event": Kind.EVENT,
    "e": Kind.EVENT,
}
RESPONSES: Final = ("command_response", "cr")
COMMANDS: Final = ("command", "c")
MIN_EVENT_TTL: Final = 1.0
KEPT: Final = 1_000
MAX_HEAD: Final = 512
"""Bytes before the data of a message; longer ones are read each time."""
_DUPLICATE: Final = Symbol(DUPLICATE)
"""A gateway that relays for others says that it may have sent a message before."""


# --- what comes in ---------------------------------------------------------------------------------------


def upload_or_response(delivery: Incoming, principal: Principal | None) -> Upload | CommandResponse:
    """Read a device's message.

    Errors: NotFound for a `to` that is missing, malformed or of an unknown endpoint; BadRequest; Forbidden;
            MalformedPacket.
    """
    message = decode_message(delivery.payload)
    to = message.properties.to or ""
    endpoint = to.partition("/")[0]
    if endpoint in RESPONSES:
        return _response(message, to, principal)
    kind = KINDS.get(endpoint)
    if kind is None:
        raise NotFound(f"no such node: {to[:128]!r}")
    return _upload(message, to, kind, principal, 0 if delivery.settled else 1)


class UploadReader:
    """`upload_or_response` for devices that send the same properties again and again.

    What stands before a message's data is read once and kept, as long as there are at most `KEPT` such heads;
    then all are forgotten. An upload is the same whichever way it was read.
    """

    def __init__(self) -> None:
        self._drafts: dict[bytes, Upload] = {}

    def read(self, delivery: Incoming, principal: Principal | None) -> Upload | CommandResponse:
        """Read a device's message; errors as `upload_or_response` says."""
        found = last_data_section(delivery.payload)
        if found is None or found[0] > MAX_HEAD:
            return upload_or_response(delivery, principal)
        head = delivery.payload[: found[0]]
        draft = self._drafts.get(head)
        if draft is None or (delivery.settled and draft.kind is Kind.EVENT):
            item = upload_or_response(delivery, principal)
            if isinstance(item, Upload):
                self._keep(head, item)
            return item
        return Upload(
            adapter=Adapter.AMQP,
            principal=principal,
            kind=draft.kind,
            qos=0 if delivery.settled else 1,
            payload=delivery.payload[found[1] :],
            address=draft.address,
            tenant=draft.tenant,
            device=draft.device,
            content_type=draft.content_type,
            ttl=draft.ttl,
            trace=draft.trace,
            duplicate=draft.duplicate,
        )

    def _keep(self, head: bytes, upload: Upload) -> None:
        if len(self._drafts) >= KEPT:
            self._drafts.clear()
        self._drafts[head] = msgspec.structs.replace(upload, payload=b"", principal=None)


def _upload(
    message: AmqpMessage, to: str, kind: Kind, principal: Principal | None, qos: int
) -> Upload:
    tenant, device = _address(to)
    if kind is Kind.EVENT and qos == 0:
        raise BadRequest("events must be sent unsettled (at least once)")
    payload = payload_of(message)
    if payload is None:
        raise BadRequest("unsupported body: expected data, or a string or binary value")
    ttl = message.header.ttl
    return Upload(
        adapter=Adapter.AMQP,
        principal=principal,
        kind=kind,
        qos=qos,
        payload=payload,
        address=to,
        tenant=tenant,
        device=device,
        content_type=message.properties.content_type,
        ttl=None if ttl is None else max(MIN_EVENT_TTL, ttl / 1_000),
        trace=trace_of(message),
        duplicate=(message.message_annotations or {}).get(_DUPLICATE) is True,
    )


def _address(to: str) -> tuple[str | None, str | None]:
    """Split `E`, `E/T`, `E/T/D`, `E//D`; whether a form is allowed is the ingress's business."""
    parts = to.split("/")
    if len(parts) > 3:
        raise NotFound(f"no such node: {to[:128]!r}")
    tenant, device = [*parts[1:], "", ""][:2]
    return tenant or None, device or None


def _response(message: AmqpMessage, to: str, principal: Principal | None) -> CommandResponse:
    endpoint, _, rest = to.partition("/")
    del endpoint  # long or short, it means the same
    tenant, device, reply_id = parse_amqp_reply_to(f"{RESPONSES[0]}/{rest}")
    if principal is not None and tenant != principal.tenant:
        raise Forbidden("address: a device may not send for another tenant")
    correlation_id = message.properties.correlation_id
    if not isinstance(correlation_id, str) or not correlation_id:
        raise BadRequest("correlation-id: expected a string")
    payload = payload_of(message)
    if payload is None:
        raise BadRequest("unsupported body: expected data, or a string or binary value")
    is_own = principal is None or principal.device == device
    return CommandResponse(
        tenant=tenant,
        device=device,
        reply_id=reply_id,
        correlation_id=correlation_id,
        status=_status(message),
        payload=payload,
        content_type=message.properties.content_type,
        at=time.time(),
        trace=trace_of(message),
        adapter=Adapter.AMQP.value,
        via=None if is_own or principal is None else principal.device,
    )


def _status(message: AmqpMessage) -> int:
    status = (message.application_properties or {}).get("status")
    if isinstance(status, bool) or not isinstance(status, int):
        raise BadRequest("application property status: expected an integer")
    return int(status)


# --- who listens -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CommandSource:
    """What a command receiver asks for; `is_for_all` includes a gateway's devices."""

    tenant: str
    device: str
    is_for_all: bool


def command_source(address: object, principal: Principal | None) -> CommandSource | None:
    """Read a receiver's source address; None when it is none of ours.

    Errors: BadRequest for a tenant without device, or nothing from an unauthenticated one; Forbidden.
    """
    parts = (address if isinstance(address, str) else "").split("/")
    if parts[0] not in COMMANDS or len(parts) > 3:
        return None
    tenant, device = [*parts[1:], "", ""][:2]
    of, target, _ = resolve_address(principal, tenant or None, device or None)
    return CommandSource(of, target, is_for_all=len(parts) == 1)


# --- commands to a device ----------------------------------------------------------------------------------


class CommandReceiver:
    """The port `DeviceLink` of one receiver link."""

    def __init__(self, protocol: AmqpProtocol, link: SenderLink, timeout: float) -> None:
        self.end: Callable[[], None] = lambda: None
        self._protocol = protocol
        self._link = link
        self._timeout = timeout

    def deliver(self, command: DeviceCommand, done: Done) -> None:
        """Send a command; `done` tells the device's outcome.

        Errors (through `done`): NoConsumer without credit; Undeliverable when released or silent; Rejected
            with the device's text; NotProcessed for modified; BadRequest for a reply-to of another form.
        """
        if self._link.sendable <= 0 or not self._protocol.is_writable:
            done(NoConsumer())
            return
        try:
            payload = encode_message(_command_message(command))
        except GatewayError as error:
            done(error)
            return
        flight = _CommandFlight(done)
        sent = self._link.send(payload, flight)
        self._protocol.flush_soon()
        if sent is None:
            done(None)
        elif self._timeout > 0:
            flight.timer = asyncio.get_running_loop().call_later(
                self._timeout, self._expire, sent, flight
            )

    def _expire(self, sent: Sent, flight: _CommandFlight) -> None:
        self._link.withdraw(sent, RELEASED)
        self._protocol.flush_soon()
        flight.finish(RELEASED)


class _CommandFlight:
    """A command on its way to the device."""

    __slots__ = ("_done", "timer")

    def __init__(self, done: Done) -> None:
        self._done = done
        self.timer: asyncio.TimerHandle | None = None

    def finish(self, state: object) -> None:
        """Tell the outcome; None says that the link is gone."""
        if self.timer is not None:
            self.timer.cancel()
        self._done(Undeliverable("the device is gone") if state is None else device_error(state))


def _command_message(command: DeviceCommand) -> AmqpMessage:
    asked = command.command
    annotations: dict[object, object] = {}
    if command.mark is not None:
        annotations[Symbol(COMMAND_ID)] = command.mark.command_id
        if command.mark.redelivered:
            annotations[_DUPLICATE] = True
    if asked.trace is not None:
        annotations[Symbol(TRACE_ANNOTATION)] = trace_map(asked.trace)
    return AmqpMessage(
        message_annotations=annotations,
        properties=Properties(
            message_id=None if command.mark is None else command.mark.command_id,
            to=f"command/{asked.tenant}/{command.target}",
            subject=asked.name,
            reply_to=encode_amqp_reply_to(asked),
            correlation_id=asked.correlation_id,
            content_type=asked.content_type,
        ),
        application_properties={"device_id": command.target} if command.gateway else None,
        body=Data(asked.payload) if asked.payload else None,
    )
