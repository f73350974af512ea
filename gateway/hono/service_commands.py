"""Commands on their way to adapters elsewhere: receivers at `command_internal/{adapter instance}`.

An instance has one receiver, the newest counts. What the adapter answers is passed back as it is; no receiver
or no credit: NoConsumer. A command that has no outcome after `OUTCOME_SECONDS` is taken back.
Commands that came over Kafka carry a reply address of ours, as adapters here speak AMQP to us.
Source: Hono, Command and Control, internal flow.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from gateway.errors import ConsumerTimeout, GatewayError, NoConsumer, NotProcessed
from gateway.hono.amqp_messages import TRACE_ANNOTATION, scalar, trace_map
from gateway.hono.amqp_outcomes import device_error
from gateway.hono.amqp_shell import AmqpProtocol
from gateway.model.message import DeviceCommand, MessagingType
from gateway.model.ports import Done
from gateway.wire.amqp.link import SenderLink, Sent
from gateway.wire.amqp.message import AmqpMessage, Data, Properties, encode_message
from gateway.wire.amqp.performatives import RELEASED
from gateway.wire.amqp.values import Symbol

ENDPOINT: Final = "command_internal"
KAFKA_REPLY_ID: Final = "twinspan-kafka"
"""Stands for the place of all responses of a tenant whose messaging is Kafka."""
OUTCOME_SECONDS: Final = 8.0
MAX_UNSETTLED: Final = 10_000


def encode_command(command: DeviceCommand) -> bytes:
    """Write a command as Hono's command router sends it to an adapter instance."""
    asked = command.command
    given: dict[object, object] = {name: scalar(v) for name, v in asked.properties.items()}
    given |= dict(command.marks)
    if command.gateway is not None:
        given["via"] = command.gateway
    return encode_message(
        AmqpMessage(
            message_annotations=_annotations(command),
            properties=Properties(
                to=f"command/{asked.tenant}/{command.target}",
                subject=asked.name,
                correlation_id=asked.correlation_id,
                reply_to=_reply_to(command),
                content_type=asked.content_type,
            ),
            application_properties=given,
            body=Data(asked.payload) if asked.payload else None,
        )
    )


def _annotations(command: DeviceCommand) -> Mapping[object, object] | None:
    trace = command.command.trace
    return None if trace is None else {Symbol(TRACE_ANNOTATION): trace_map(trace)}


def _reply_to(command: DeviceCommand) -> str | None:
    asked = command.command
    if asked.reply_to is not None and asked.messaging is MessagingType.KAFKA:
        return f"command_response/{asked.tenant}/{KAFKA_REPLY_ID}"
    return asked.reply_to


class CommandReceivers:
    """The receivers of adapter instances."""

    def __init__(self) -> None:
        self._links: dict[str, list[InstanceLink]] = {}
        self._neighbours: set[str] = set()

    def add(
        self, instance: str, link: InstanceLink, on_gone: Callable[[], None] | None = None
    ) -> None:
        """Send an instance's commands to `link` until it leaves.

        Shape:  `on_gone` is for instances that do not come back, of our own worker processes.
        """
        self._links.setdefault(instance, []).append(link)
        if on_gone is not None:
            self._neighbours.add(instance)

        def leave() -> None:
            links = self._links[instance]
            links.remove(link)
            if not links:
                del self._links[instance]
                self._neighbours.discard(instance)
                if on_gone is not None:
                    on_gone()

        link.leave = leave

    def has(self, instance: str) -> bool:
        return instance in self._links

    def is_neighbour(self, instance: str) -> bool:
        """True for an instance of our own worker processes."""
        return instance in self._neighbours

    def deliver(self, instance: str, command: DeviceCommand, done: Done) -> None:
        """Send a command to an instance.

        Errors (through `done`): NoConsumer; what the adapter answered.
        """
        links = self._links.get(instance)
        if links is None:
            done(NoConsumer())
        else:
            links[-1].deliver(command, done)


class RemoteDevice:
    """The `DeviceLink` of a device that is connected to an adapter elsewhere."""

    def __init__(self, instance: str, receivers: CommandReceivers) -> None:
        self._instance = instance
        self._receivers = receivers

    def deliver(self, command: DeviceCommand, done: Done) -> None:
        self._receivers.deliver(self._instance, command, done)


class InstanceLink:
    """One adapter instance's receiver of commands."""

    def __init__(self, protocol: AmqpProtocol, link: SenderLink) -> None:
        self.leave: Callable[[], None] = lambda: None
        self._protocol = protocol
        self._link = link

    def deliver(self, command: DeviceCommand, done: Done) -> None:
        """Send a command; `done` once the adapter has answered."""
        link = self._link
        is_full = link.unsettled >= MAX_UNSETTLED or not self._protocol.is_writable
        if link.sendable <= 0 or is_full:
            done(NoConsumer())
            return
        waiting = _Waiting(done)
        sent = link.send(encode_command(command), waiting)
        self._protocol.flush_soon()
        if sent is None:
            done(None)
            return
        waiting.timer = asyncio.get_running_loop().call_later(
            OUTCOME_SECONDS, self._expire, sent, waiting
        )

    def _expire(self, sent: Sent, waiting: _Waiting) -> None:
        self._link.withdraw(sent, RELEASED)
        self._protocol.flush_soon()
        waiting.finish(ConsumerTimeout())

    def lost(self, unsettled: tuple[Sent, ...]) -> None:
        for sent in unsettled:
            if isinstance(sent.context, _Waiting):
                sent.context.finish(NotProcessed())
        self.leave()


class _Waiting:
    """One command without an outcome."""

    __slots__ = ("_done", "timer")

    def __init__(self, done: Done) -> None:
        self._done = done
        self.timer: asyncio.TimerHandle | None = None

    def end(self, state: object) -> None:
        """The adapter has answered."""
        self.finish(device_error(state))

    def finish(self, error: GatewayError | None) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self._done(error)
