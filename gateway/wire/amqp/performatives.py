"""AMQP 1.0 performatives, delivery states, termini and SASL frames as frozen values.

Attributes have the standard's names with `_` for `-`, plain Python values, and the standard's defaults.
Source: OASIS AMQP 1.0, part 2 (transport, section 2.7), part 3 (section 3.4, 3.5), part 5 (section 5.3.3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

import msgspec

from gateway.wire.amqp.fields import (
    ANY,
    BINARY,
    BOOLEAN,
    MAP,
    STRING,
    SYMBOL,
    SYMBOLS,
    UBYTE,
    UINT,
    ULONG,
    USHORT,
    Catalogue,
    Field,
    any_of,
)

MAX_UINT: Final = 0xFFFF_FFFF

SENDER: Final = False
"""`role` of the end that sends messages on a link."""
RECEIVER: Final = True

SND_UNSETTLED: Final = 0
SND_SETTLED: Final = 1
SND_MIXED: Final = 2
RCV_FIRST: Final = 0
RCV_SECOND: Final = 1


@dataclass(frozen=True, slots=True)
class Error:
    """Why a connection, session, link or delivery ended: a condition symbol and a text for people."""

    condition: str
    description: str | None = None
    info: Mapping[object, object] | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """The receiver took responsibility."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The message is invalid and must not come again."""

    error: Error | None = None


@dataclass(frozen=True, slots=True)
class Released:
    """Not processed; may go to anyone again."""


@dataclass(frozen=True, slots=True)
class Modified:
    """Not processed, with what to change before it goes out again."""

    delivery_failed: bool | None = None
    undeliverable_here: bool | None = None
    message_annotations: Mapping[object, object] | None = None


@dataclass(frozen=True, slots=True)
class Received:
    """How far a message came; not an outcome."""

    section_number: int
    section_offset: int


DeliveryState: TypeAlias = "Accepted | Rejected | Released | Modified | Received"
Outcome: TypeAlias = "Accepted | Rejected | Released | Modified"
OUTCOMES: Final = (Accepted, Rejected, Released, Modified)

ACCEPTED: Final = Accepted()
RELEASED: Final = Released()


@dataclass(frozen=True, slots=True)
class Source:
    """Where a link's messages come from."""

    address: str | None = None
    durable: int = 0
    expiry_policy: str = "session-end"
    timeout: int = 0
    dynamic: bool = False
    dynamic_node_properties: Mapping[object, object] | None = None
    distribution_mode: str | None = None
    filter: Mapping[object, object] | None = None
    default_outcome: object = None
    outcomes: tuple[str, ...] | None = None
    capabilities: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """Where a link's messages go; a null address is the anonymous terminus."""

    address: str | None = None
    durable: int = 0
    expiry_policy: str = "session-end"
    timeout: int = 0
    dynamic: bool = False
    dynamic_node_properties: Mapping[object, object] | None = None
    capabilities: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Open:
    """Negotiates a connection."""

    container_id: str
    hostname: str | None = None
    max_frame_size: int = MAX_UINT
    channel_max: int = 0xFFFF
    idle_time_out: int | None = None
    outgoing_locales: tuple[str, ...] | None = None
    incoming_locales: tuple[str, ...] | None = None
    offered_capabilities: tuple[str, ...] | None = None
    desired_capabilities: tuple[str, ...] | None = None
    properties: Mapping[object, object] | None = None


@dataclass(frozen=True, slots=True)
class Begin:
    """Begins a session on a channel."""

    next_outgoing_id: int
    incoming_window: int
    outgoing_window: int
    remote_channel: int | None = None
    handle_max: int = MAX_UINT
    offered_capabilities: tuple[str, ...] | None = None
    desired_capabilities: tuple[str, ...] | None = None
    properties: Mapping[object, object] | None = None


@dataclass(frozen=True, slots=True)
class Attach:
    """Attaches a link to a session."""

    name: str
    handle: int
    role: bool
    snd_settle_mode: int = SND_MIXED
    rcv_settle_mode: int = RCV_FIRST
    source: object = None
    target: object = None
    unsettled: Mapping[object, object] | None = None
    incomplete_unsettled: bool = False
    initial_delivery_count: int | None = None
    max_message_size: int | None = None
    offered_capabilities: tuple[str, ...] | None = None
    desired_capabilities: tuple[str, ...] | None = None
    properties: Mapping[object, object] | None = None


class Flow(msgspec.Struct, frozen=True):
    """Updates session windows and, with a handle, a link's credit."""

    incoming_window: int
    next_outgoing_id: int
    outgoing_window: int
    next_incoming_id: int | None = None
    handle: int | None = None
    delivery_count: int | None = None
    link_credit: int | None = None
    available: int | None = None
    drain: bool = False
    echo: bool = False
    properties: Mapping[object, object] | None = None


class Transfer(msgspec.Struct, frozen=True):
    """A message or a part of one; its payload follows in the frame."""

    handle: int
    delivery_id: int | None = None
    delivery_tag: bytes | None = None
    message_format: int | None = None
    settled: bool | None = None
    more: bool = False
    rcv_settle_mode: int | None = None
    state: object = None
    resume: bool = False
    aborted: bool = False
    batchable: bool = False


class Disposition(msgspec.Struct, frozen=True):
    """Tells the state of a range of deliveries."""

    role: bool
    first: int
    last: int | None = None
    settled: bool = False
    state: object = None
    batchable: bool = False


class Detach(msgspec.Struct, frozen=True):
    """Detaches a link; with `closed` it is gone for good."""

    handle: int
    closed: bool = False
    error: Error | None = None


@dataclass(frozen=True, slots=True)
class End:
    """Ends a session."""

    error: Error | None = None


@dataclass(frozen=True, slots=True)
class Close:
    """Closes a connection."""

    error: Error | None = None


@dataclass(frozen=True, slots=True)
class SaslMechanisms:
    """What the server offers."""

    sasl_server_mechanisms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SaslInit:
    """What the client picked, and its first answer."""

    mechanism: str
    initial_response: bytes | None = None
    hostname: str | None = None


@dataclass(frozen=True, slots=True)
class SaslOutcome:
    """How it ended: 0 ok, 1 auth, 2 sys, 3 sys-perm, 4 sys-temp."""

    code: int
    additional_data: bytes | None = None


_CAPABILITIES: Final = (
    Field("offered-capabilities", SYMBOLS),
    Field("desired-capabilities", SYMBOLS),
    Field("properties", MAP),
)
_TERMINUS: Final = (
    Field("address", ANY),
    Field("durable", UINT),
    Field("expiry-policy", SYMBOL),
    Field("timeout", UINT),
    Field("dynamic", BOOLEAN),
    Field("dynamic-node-properties", MAP),
)

_STATE: Final = any_of({0x24: ACCEPTED, 0x26: RELEASED})

TRANSPORT: Final = Catalogue()
"""What AMQP frames carry, and what is nested in it."""
TRANSPORT.add(
    0x10,
    "amqp:open:list",
    Open,
    Field("container-id", STRING, mandatory=True),
    Field("hostname", STRING),
    Field("max-frame-size", UINT),
    Field("channel-max", USHORT),
    Field("idle-time-out", UINT),
    Field("outgoing-locales", SYMBOLS),
    Field("incoming-locales", SYMBOLS),
    *_CAPABILITIES,
)
TRANSPORT.add(
    0x11,
    "amqp:begin:list",
    Begin,
    Field("remote-channel", USHORT),
    Field("next-outgoing-id", UINT, mandatory=True),
    Field("incoming-window", UINT, mandatory=True),
    Field("outgoing-window", UINT, mandatory=True),
    Field("handle-max", UINT),
    *_CAPABILITIES,
)
TRANSPORT.add(
    0x12,
    "amqp:attach:list",
    Attach,
    Field("name", STRING, mandatory=True),
    Field("handle", UINT, mandatory=True),
    Field("role", BOOLEAN, mandatory=True),
    Field("snd-settle-mode", UBYTE),
    Field("rcv-settle-mode", UBYTE),
    Field("source", ANY),
    Field("target", ANY),
    Field("unsettled", MAP),
    Field("incomplete-unsettled", BOOLEAN),
    Field("initial-delivery-count", UINT),
    Field("max-message-size", ULONG),
    *_CAPABILITIES,
)
TRANSPORT.add(
    0x13,
    "amqp:flow:list",
    Flow,
    Field("next-incoming-id", UINT),
    Field("incoming-window", UINT, mandatory=True),
    Field("next-outgoing-id", UINT, mandatory=True),
    Field("outgoing-window", UINT, mandatory=True),
    Field("handle", UINT),
    Field("delivery-count", UINT),
    Field("link-credit", UINT),
    Field("available", UINT),
    Field("drain", BOOLEAN),
    Field("echo", BOOLEAN),
    Field("properties", MAP),
)
TRANSPORT.add(
    0x14,
    "amqp:transfer:list",
    Transfer,
    Field("handle", UINT, mandatory=True),
    Field("delivery-id", UINT),
    Field("delivery-tag", BINARY),
    Field("message-format", UINT),
    Field("settled", BOOLEAN),
    Field("more", BOOLEAN),
    Field("rcv-settle-mode", UBYTE),
    Field("state", _STATE),
    Field("resume", BOOLEAN),
    Field("aborted", BOOLEAN),
    Field("batchable", BOOLEAN),
)
TRANSPORT.add(
    0x15,
    "amqp:disposition:list",
    Disposition,
    Field("role", BOOLEAN, mandatory=True),
    Field("first", UINT, mandatory=True),
    Field("last", UINT),
    Field("settled", BOOLEAN),
    Field("state", _STATE),
    Field("batchable", BOOLEAN),
)
TRANSPORT.add(
    0x16,
    "amqp:detach:list",
    Detach,
    Field("handle", UINT, mandatory=True),
    Field("closed", BOOLEAN),
    Field("error", ANY),
)
TRANSPORT.add(0x17, "amqp:end:list", End, Field("error", ANY))
TRANSPORT.add(0x18, "amqp:close:list", Close, Field("error", ANY))
TRANSPORT.add(
    0x1D,
    "amqp:error:list",
    Error,
    Field("condition", SYMBOL, mandatory=True),
    Field("description", STRING),
    Field("info", MAP),
)
TRANSPORT.add(
    0x23,
    "amqp:received:list",
    Received,
    Field("section-number", UINT, mandatory=True),
    Field("section-offset", ULONG, mandatory=True),
)
TRANSPORT.add(0x24, "amqp:accepted:list", Accepted)
TRANSPORT.add(0x25, "amqp:rejected:list", Rejected, Field("error", ANY))
TRANSPORT.add(0x26, "amqp:released:list", Released)
TRANSPORT.add(
    0x27,
    "amqp:modified:list",
    Modified,
    Field("delivery-failed", BOOLEAN),
    Field("undeliverable-here", BOOLEAN),
    Field("message-annotations", MAP),
)
TRANSPORT.add(
    0x28,
    "amqp:source:list",
    Source,
    *_TERMINUS,
    Field("distribution-mode", SYMBOL),
    Field("filter", MAP),
    Field("default-outcome", ANY),
    Field("outcomes", SYMBOLS),
    Field("capabilities", SYMBOLS),
)
TRANSPORT.add(0x29, "amqp:target:list", Target, *_TERMINUS, Field("capabilities", SYMBOLS))

SASL: Final = Catalogue()
"""What SASL frames carry; challenge and response belong to mechanisms that are not offered."""
SASL.add(
    0x40,
    "amqp:sasl-mechanisms:list",
    SaslMechanisms,
    Field("sasl-server-mechanisms", SYMBOLS, mandatory=True),
)
SASL.add(
    0x41,
    "amqp:sasl-init:list",
    SaslInit,
    Field("mechanism", SYMBOL, mandatory=True),
    Field("initial-response", BINARY),
    Field("hostname", STRING),
)
SASL.add(
    0x44,
    "amqp:sasl-outcome:list",
    SaslOutcome,
    Field("code", UBYTE, mandatory=True),
    Field("additional-data", BINARY),
)
