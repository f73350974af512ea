"""What travels between devices and applications: uploads, messages, commands, responses.

Uploads and messages are made for every message of every device: msgspec's structs are frozen like our other
values and cost a tenth to make. Change one with `msgspec.structs.replace`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

import msgspec

from gateway.model.trace import TraceContext

Scalar: TypeAlias = str | int | float | bool
NO_PROPERTIES: Mapping[str, Scalar] = MappingProxyType({})

OCTET_STREAM = "application/octet-stream"
EMPTY_NOTIFICATION = "application/vnd.eclipse-hono-empty-notification"
CONTENT_ENCODING = "content-encoding"
"""The default that travels as a standard property, not as one of the application's."""
DITTO_PROTOCOL = "application/vnd.eclipse.ditto+json"
COMMAND_ID = "x-opt-twinspan-command-id"
DUPLICATE = "x-opt-twinspan-duplicate"


class Kind(enum.StrEnum):
    """What a device sends: a measure that may be lost, or a notice that must arrive."""

    TELEMETRY = "telemetry"
    EVENT = "event"


class Adapter(enum.StrEnum):
    """Adapter types as a tenant lists them and as `orig_adapter` names them."""

    HTTP = "hono-http"
    MQTT = "hono-mqtt"
    AMQP = "hono-amqp"
    COAP = "hono-coap"
    LORA = "hono-lora"
    SIGFOX = "hono-sigfox"
    EDGE = "twinspan-edge"


class MessagingType(enum.StrEnum):
    """What carries a tenant's messages to its applications; the values are those of `ext.messaging-type`."""

    AMQP = "amqp"
    KAFKA = "kafka"


@dataclass(frozen=True, slots=True)
class Principal:
    """The device that a connection or request has proved to be.

    Shape:  `expires`, seconds since the epoch, is when the proof ends (tokens), None when it does not.
    """

    tenant: str
    device: str
    auth_id: str
    credential_type: str = "hashed-password"
    expires: float | None = None


@dataclass(frozen=True, slots=True)
class SpoolId:
    """Where a message stood in an edge's spool; makes its redelivery recognisable.

    Shape:  `edge` is the spool's own uuid, `lane` orders messages of one device or kind,
            `sequence` counts up within the lane from 1.
    """

    edge: str
    lane: str
    sequence: int


class Upload(msgspec.Struct, frozen=True, kw_only=True):
    """A device's message as its adapter read it; nothing in it is checked yet.

    Shape:  `tenant` and `device` are what the address said, None where it said nothing; `via` is the edge
            node that speaks for the device (for other adapters the principal does);
            `ttl` and `ttd` in seconds; `address` as the device wrote it (URI, topic, `to`).
    """

    adapter: Adapter
    principal: Principal | None
    kind: Kind
    qos: int
    payload: bytes
    address: str
    tenant: str | None = None
    device: str | None = None
    content_type: str | None = None
    ttl: float | None = None
    ttd: int | None = None
    retain: bool = False
    properties: Mapping[str, Scalar] = NO_PROPERTIES
    trace: TraceContext | None = None
    spool: SpoolId | None = None
    duplicate: bool = False
    via: str | None = None


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A checked message on its way to applications and connections.

    Shape:  `at` is the creation time, seconds since the epoch; `ttl` seconds or None; `properties` are the
            defaults of tenant and device and what the adapter adds. `twin_owned` marks a copy of a
            report that changes the twin by another way (connections skip it).
    """

    tenant: str
    device: str
    kind: Kind
    qos: int
    payload: bytes
    at: float
    trace: TraceContext
    content_type: str | None = None
    adapter: str = ""
    address: str = ""
    via: str | None = None
    ttl: float | None = None
    ttd: int | None = None
    retain: bool = False
    properties: Mapping[str, Scalar] = NO_PROPERTIES
    twin_owned: bool = False
    spool: SpoolId | None = None
    duplicate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """An application's command towards a device.

    Shape:  `name` is the subject; a command with `reply_to` (`command_response/{tenant}/{replyId}`)
            waits for a response that carries `correlation_id`; without it is one-way. Over Kafka the reply
            id is empty: there is one place for all responses of a tenant. `origin` names the command's place
            at its sender, the same when it is read from there again.
    Units:  `ttl` in seconds from now: how long the application wants it delivered.
    """

    tenant: str
    device: str
    name: str
    payload: bytes
    content_type: str | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    trace: TraceContext | None = None
    properties: Mapping[str, Scalar] = field(default_factory=lambda: NO_PROPERTIES)
    messaging: MessagingType = MessagingType.AMQP
    ttl: float | None = None
    origin: str | None = None

    @property
    def is_one_way(self) -> bool:
        return self.reply_to is None


@dataclass(frozen=True, slots=True)
class CommandMark:
    """By what a device recognises a command that comes again.

    Shape:  `command_id` is the same each time; `redelivered` says that it may have been sent before.
    """

    command_id: str
    redelivered: bool = False

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """As names and values."""
        pairs = ((COMMAND_ID, self.command_id),)
        return (*pairs, (DUPLICATE, "true")) if self.redelivered else pairs


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCommand:
    """A command as one device link gets it: routed, and with its request id made.

    Shape:  `target` is the device it is for; `gateway` the gateway whose link carries it, None when the
            device itself listens; `request_id` is Hono's opaque id, empty for one-way commands. `mark` is
            there where the command may come more than once.
    """

    command: Command
    target: str
    request_id: str = ""
    gateway: str | None = None
    mark: CommandMark | None = None

    @property
    def marks(self) -> tuple[tuple[str, str], ...]:
        """What tells a device that it has had this command before, as names and values."""
        return () if self.mark is None else self.mark.pairs


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandResponse:
    """A device's answer to a command, on its way to `command_response/{tenant}/{reply_id}`.

    Shape:  `reply_id` is empty where the command came over Kafka.
    """

    tenant: str
    device: str
    reply_id: str
    correlation_id: str
    status: int
    payload: bytes = b""
    content_type: str | None = None
    at: float = 0.0
    ttl: float | None = None
    trace: TraceContext | None = None
    properties: Mapping[str, Scalar] = field(default_factory=dict)
    adapter: str = ""
    via: str | None = None
    """The gateway that answers for the device, None when the device answers itself."""
