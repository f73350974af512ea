"""What a server's and a client's session have in common: framing, messages both ways, acknowledgements.

A session takes bytes and the time, and gives events and bytes; it has no socket and no clock. Five
members serve every shell: `receive`, `tick`, `to_send`, `wake_at`, `closed`. Whoever calls a method that
answers or publishes sends `to_send()` afterwards.

Framing is made for speed: all whole packets of a chunk are read where they lie, only the tail is kept,
and a packet's size is checked from its fixed header before anything of it is kept.

Answers to messages leave in the order in which the messages came (MQTT 5.0, 4.6), whatever the order of
their outcomes. A QoS 2 message is handed on when its PUBLISH comes (method A of figure 4.3) and its
identifier is remembered until PUBREL.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from gateway.errors import TooLarge
from gateway.wire.mqtt import body as wire
from gateway.wire.mqtt import codec
from gateway.wire.mqtt import properties as props
from gateway.wire.mqtt.packets import (
    V3,
    V5,
    Disconnect,
    Packet,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
)
from gateway.wire.mqtt.properties import NONE, Properties, Type
from gateway.wire.mqtt.reasons import Fault, Reason, protocol_error, too_large
from gateway.wire.mqtt.state import (
    ASKED,
    CLOSED,
    NEW,
    OPEN,
    Acked,
    Closed,
    Event,
    Limits,
    SessionState,
    WindowFull,
)

_CACHED_TOPICS = 64
_CACHED_TOPIC_BYTES = 256
_MAX_REASON_STRING = 200
_EARLY_BYTES = 262_144
"""What a client may send behind its CONNECT before that is answered: one chunk of a fast reader."""


class Session(ABC):
    """One end of an MQTT connection; see `ServerSession` and `ClientSession`."""

    def __init__(self, limits: Limits, now: float, state: SessionState | None = None) -> None:
        self.closed = False
        """True when nothing more is read; what `to_send` still returns should go out first."""
        self.version = V3
        self.state = state or SessionState()
        self._limits = limits
        self._phase = NEW
        self._heard = now
        self._out: list[bytes] = []
        self._held = bytearray()
        self._needed = 0
        self._topics: dict[bytes, str] = {}
        self._heads: dict[str, bytes] = {}
        self._order: deque[int] = deque()
        self._answers: dict[int, bytes | int] = {}
        self._aliases_in: dict[int, str] = {}
        self._aliases_out: dict[str, int] = {}
        self._peer_aliases = 0
        self._peer_window = 65_535
        self._peer_max_packet = 0
        self._handlers: dict[type, Callable[[Any, list[Event]], None]] = {
            PubAck: self._on_puback,
            PubRec: self._on_pubrec,
            PubRel: self._on_pubrel,
            PubComp: self._on_puback,
        }

    # --- the five members -------------------------------------------------------------------------

    @property
    @abstractmethod
    def wake_at(self) -> float | None:
        """When `tick` is due next, on the clock of `now`."""

    def receive(self, data: bytes, now: float) -> list[Event]:
        """Take what the peer sent (`b""`: it has gone) and return what follows.

        Broken input never raises: the last event is then `Closed` with the Fault.
        """
        if self.closed:
            return []
        if not data:
            return self._end()
        self._heard = now
        if self._held or self._phase is ASKED:
            self._held += data
            if self._phase is ASKED:
                return self._wait_for_decision()
            if len(self._held) < self._needed:
                return []
            data = self._take_held()
        events: list[Event] = []
        try:
            self._consume(data, events)
        except Fault as fault:
            events += self._fail(fault)
        return events

    def _wait_for_decision(self) -> list[Event]:
        if len(self._held) <= self._limits.max_packet + _EARLY_BYTES:
            return []
        return self._fail(Fault("more came after CONNECT than may wait for its answer"))

    def _take_held(self) -> bytes:
        data = bytes(self._held)
        self._held = bytearray()
        return data

    @abstractmethod
    def tick(self, now: float) -> list[Event]:
        """Do what is due by the clock."""

    def to_send(self) -> bytes:
        """Return the bytes for the peer; each byte once."""
        out = self._out
        if not out:
            return b""
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        return data

    def close(self) -> list[Event]:
        """End without a word to the peer; returns the last event."""
        return [] if self.closed else self._end()

    # --- what shells read -------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        return self._phase is OPEN

    @property
    def in_flight(self) -> int:
        """Messages from the peer without our final answer."""
        return len(self._answers) + len(self.state.received)

    @property
    def window(self) -> int:
        """How many more QoS 1 and 2 messages the peer takes now."""
        return self._peer_window - len(self.state.outbound)

    # --- messages from the peer -------------------------------------------------------------------

    def acknowledge(self, packet_id: int, reason: int = 0) -> None:
        """Answer a QoS 1 or 2 message; the answer leaves when all earlier ones have left.

        Shape:  3.1.1 has no reason codes: there every answer is a good one.
        """
        order, answers = self._order, self._answers
        if not reason and order and order[0] == packet_id and answers[packet_id] == 1:  # in turn
            order.popleft()
            del answers[packet_id]
            self._out.append(b"\x40\x02" + packet_id.to_bytes(2, "big"))
            if order and isinstance(answers[order[0]], bytes):
                self._send_ready()
            return
        qos = self._waiting(packet_id)
        if qos is None:
            return
        if qos == 1:
            self._settle(packet_id, self._answer(0x40, packet_id, reason))
            return
        if reason < 0x80 or self.version != V5:
            self.state.received.add(packet_id)
        self._settle(packet_id, self._answer(0x50, packet_id, reason))

    def skip(self, packet_id: int) -> None:
        """Leave a message without any answer, and do not let it hold back later ones."""
        if self._waiting(packet_id) is not None:
            self._settle(packet_id, b"")

    def _waiting(self, packet_id: int) -> int | None:
        qos = self._answers.get(packet_id)
        if isinstance(qos, int):
            return qos
        if self.closed:
            return None  # an outcome that came too late
        raise ValueError(f"no message {packet_id} waits for an answer")

    def _answer(self, first: int, packet_id: int, reason: int) -> bytes:
        if reason and self.version == V5:
            return bytes((first, 3, packet_id >> 8, packet_id & 0xFF, reason))
        return bytes((first, 2, packet_id >> 8, packet_id & 0xFF))

    def _settle(self, packet_id: int, answer: bytes) -> None:
        answers, order = self._answers, self._order
        if order[0] != packet_id:
            answers[packet_id] = answer
            return
        del answers[packet_id]
        order.popleft()
        self._out.append(answer)
        self._send_ready()

    def _send_ready(self) -> None:
        """Send the answers that waited for an earlier one."""
        answers, order = self._answers, self._order
        while order and isinstance(ready := answers[order[0]], bytes):
            del answers[order.popleft()]
            self._out.append(ready)

    # --- messages to the peer -----------------------------------------------------------------------

    def publish(
        self,
        topic: str,
        payload: bytes,
        qos: int = 0,
        retain: bool = False,
        properties: Properties = NONE,
    ) -> int:
        """Send a message; returns its packet identifier (0 for QoS 0), which `Acked` will name.

        Errors: WindowFull when `window` is 0; TooLarge over the peer's maximum packet size.
        """
        packet_id = 0
        if qos:
            if self.window <= 0:
                raise WindowFull
            packet_id = self._take_id()
        data = self._publish_bytes(topic, payload, qos << 1 | retain, packet_id, properties)
        if qos:
            self.state.outbound[packet_id] = Publish(
                topic, payload, qos, retain, packet_id, properties=properties
            )
        self._out.append(data)
        return packet_id

    def _take_id(self) -> int:
        return self.state.take_id()

    def _publish_bytes(
        self, topic: str, payload: bytes, flags: int, packet_id: int, properties: Properties
    ) -> bytes:
        head = self._heads.get(topic)
        if head is None:
            head = self._learn_head(topic)
        middle = packet_id.to_bytes(2, "big") if packet_id else b""
        if self.version == V5:
            alias = self._aliases_out.get(topic)
            if alias is not None:
                properties = msgspec.structs.replace(properties, topic_alias=alias)
                head = b"\0\0"
            elif self._peer_aliases:
                properties = self._new_alias(topic, properties)
            middle += props.write(properties, Type.PUBLISH) if properties is not NONE else b"\0"
        size = len(head) + len(middle) + len(payload)
        data = b"".join((bytes((0x30 | flags,)), wire.varint(size), head, middle, payload))
        if self._peer_max_packet and len(data) > self._peer_max_packet:
            if head != b"\0\0":
                self._aliases_out.pop(topic, None)
            raise TooLarge(f"{len(data)} bytes, the peer takes {self._peer_max_packet}")
        return data

    def _learn_head(self, topic: str) -> bytes:
        head = wire.text(topic)
        if len(head) <= _CACHED_TOPIC_BYTES:
            if len(self._heads) >= _CACHED_TOPICS:
                self._heads.clear()
            self._heads[topic] = head
        return head

    def _new_alias(self, topic: str, properties: Properties) -> Properties:
        """Give the topic an alias while the peer has room for more."""
        if len(self._aliases_out) >= self._peer_aliases:
            return properties
        self._aliases_out[topic] = alias = len(self._aliases_out) + 1
        return msgspec.structs.replace(properties, topic_alias=alias)

    def _resume(self) -> None:
        """Send again what an earlier connection left without an answer (MQTT 5.0, 4.4)."""
        for packet_id, message in self.state.outbound.items():
            if message is None:
                self._out.append(self._answer(0x62, packet_id, 0))
            else:
                self._send(msgspec.structs.replace(message, dup=True))

    # --- the conversation ---------------------------------------------------------------------------

    def _send(self, packet: Packet) -> None:
        self._out.append(codec.encode(packet, self.version))

    def _meet(self, properties: Properties) -> None:
        """Note what the peer's CONNECT or CONNACK says about what it takes."""
        self._peer_window = properties.receive_maximum or 65_535
        self._peer_aliases = properties.topic_alias_maximum or 0
        self._peer_max_packet = properties.maximum_packet or 0

    def _end(self, reason: int = 0, error: Fault | None = None) -> list[Event]:
        """Close, and return the last event."""
        self._phase = CLOSED
        self.closed = True
        self._held = bytearray()
        self._answers.clear()
        self._order.clear()
        return [Closed(reason, error)]

    def _fail(self, fault: Fault) -> list[Event]:
        """Close because of `fault`; tell an MQTT 5 peer why."""
        if self.version == V5 and self._phase is OPEN:
            self._out.append(self._farewell(fault))
        return self._end(fault.reason, fault)

    def _farewell(self, fault: Fault) -> bytes:
        said = Properties(reason_string=fault.message[:_MAX_REASON_STRING])
        data = codec.encode(Disconnect(fault.reason, said), V5)
        if self._peer_max_packet and len(data) > self._peer_max_packet:
            return codec.encode(Disconnect(fault.reason), V5)
        return data

    def _consume(self, data: bytes, events: list[Event]) -> None:
        """Read all whole packets of `data` and keep the rest. The hot loop."""
        at, end = 0, len(data)
        limit = self._limits.max_packet
        is_open = self._phase is OPEN
        while end - at >= 2:
            first, size = data[at], data[at + 1]
            body = at + 2
            if size >= 0x80:
                if body < end and 0x80 > data[body] > 0:  # two bytes: nearly all there are
                    size, body = size & 0x7F | data[body] << 7, body + 1
                else:
                    size, body = wire.read_varint(data, at + 1, end)
                    if size < 0:
                        break
            stop = body + size
            if stop - at > limit:
                raise too_large(stop - at, limit)
            if stop > end:
                codec.check_first_byte(first)
                self._keep(data, at, stop - at)
                return
            at = stop
            if is_open and first & 0xF4 == 0x30:
                if (message := self._publish_in(data, first, body, stop)) is not None:
                    events.append(message)
            elif is_open and first == 0x40 and size == 2:
                self._on_answered(data[body] << 8 | data[body + 1], 0, events)
            else:
                self._handle(codec.decode(first, data[body:stop], self.version), events)
                is_open = self._phase is OPEN
                if not is_open:
                    break
        if at < end and not self.closed:
            self._keep(data, at, 0)

    def _keep(self, data: bytes, at: int, needed: int) -> None:
        """Keep the tail of a chunk until `needed` bytes of the packet are there."""
        self._held = bytearray(data[at:])
        self._needed = needed

    def _handle(self, packet: Packet, events: list[Event]) -> None:
        handler = self._handlers.get(type(packet))
        if handler is None:
            raise protocol_error(f"{type(packet).__name__.upper()} may not be sent by this side")
        handler(packet, events)

    # --- PUBLISH --------------------------------------------------------------------------------------

    def _publish_in(self, data: bytes, first: int, at: int, end: int) -> Publish | None:
        """Read a PUBLISH with QoS 0 or 1; None for a repeated one that is still being worked on."""
        cut = at + 2
        if cut <= end:
            cut += data[at] << 8 | data[at + 1]
        topic = self._topics.get(data[at + 2 : cut])
        qos = first >> 1 & 1
        if topic is None or cut + 3 > end or first & 0x0A == 0x08:
            return self._publish_slowly(first, data[at:end])  # finds the fault, if there is one
        packet_id = 0
        if qos:
            packet_id = data[cut] << 8 | data[cut + 1]
            cut += 2
        if self.version == V5:
            if data[cut]:
                return self._publish_slowly(first, data[at:end])
            cut += 1
        if qos:
            answers = self._answers
            has_room = self.version == V3 or self.in_flight < self._limits.receive_maximum
            if packet_id and packet_id not in answers and has_room:
                answers[packet_id] = 1
                self._order.append(packet_id)
            elif not self._expect(packet_id, 1, first):
                return None
        return Publish(topic, data[cut:end], qos, first & 1 == 1, packet_id, first & 8 == 8)

    def _publish_slowly(self, first: int, data: bytes) -> Publish | None:
        packet = codec.decode_publish(first, data, 0, len(data), self.version)
        if packet.topic:
            self._learn_topic(packet.topic)
        if packet.properties.topic_alias is not None:
            packet = self._resolve_alias(packet)
        if packet.qos and not self._expect(packet.packet_id, packet.qos, first):
            return None
        return packet

    def _learn_topic(self, topic: str) -> None:
        raw = topic.encode()
        if len(raw) <= _CACHED_TOPIC_BYTES:
            if len(self._topics) >= _CACHED_TOPICS:
                self._topics.clear()
            self._topics[raw] = topic

    def _resolve_alias(self, packet: Publish) -> Publish:
        alias = packet.properties.topic_alias or 0
        if not 0 < alias <= self._limits.topic_alias_maximum:
            raise Fault(
                f"PUBLISH: topic alias: expected 1 to {self._limits.topic_alias_maximum}, got {alias}",
                Reason.TOPIC_ALIAS_INVALID,
            )
        if packet.topic:
            self._aliases_in[alias] = packet.topic
        elif alias not in self._aliases_in:
            raise protocol_error(f"PUBLISH: topic alias {alias} has no topic yet")
        properties = msgspec.structs.replace(packet.properties, topic_alias=None)
        if properties == NONE:
            properties = NONE
        topic = self._aliases_in[alias]
        return msgspec.structs.replace(packet, topic=topic, properties=properties)

    def _expect(self, packet_id: int, qos: int, first: int) -> bool:
        """Note that a message needs an answer; False for a repeated one."""
        if not packet_id:
            raise Fault("PUBLISH: packet identifier: 0 is not allowed")
        if packet_id in self._answers:
            if first & 8:
                return False
            raise Fault(
                f"PUBLISH: packet identifier {packet_id} is in use", Reason.PACKET_IDENTIFIER_IN_USE
            )
        if qos == 2 and packet_id in self.state.received:
            self._out.append(self._answer(0x50, packet_id, 0))
            return False
        if self.version == V5 and self.in_flight >= self._limits.receive_maximum:
            raise Fault(
                f"PUBLISH: more than {self._limits.receive_maximum} messages without an answer",
                Reason.RECEIVE_MAXIMUM_EXCEEDED,
            )
        self._answers[packet_id] = qos
        self._order.append(packet_id)
        return True

    def _on_publish(self, packet: Publish, events: list[Event]) -> None:
        """A QoS 2 message (the others take the short way)."""
        first = 0x30 | packet.dup << 3 | packet.qos << 1
        if packet.properties.topic_alias is not None:
            packet = self._resolve_alias(packet)
        if self._expect(packet.packet_id, packet.qos, first):
            events.append(packet)

    # --- answers to our messages, and PUBREL --------------------------------------------------------------

    def _on_puback(self, packet: PubAck | PubComp, events: list[Event]) -> None:
        self._on_answered(packet.packet_id, packet.reason, events)

    def _on_answered(self, packet_id: int, reason: int, events: list[Event]) -> None:
        if packet_id in self.state.outbound:
            del self.state.outbound[packet_id]
            events.append(Acked(packet_id, reason))

    def _on_pubrec(self, packet: PubRec, events: list[Event]) -> None:
        outbound = self.state.outbound
        if packet.packet_id not in outbound:
            reason = int(Reason.PACKET_IDENTIFIER_NOT_FOUND)
            self._out.append(self._answer(0x62, packet.packet_id, reason))
        elif packet.reason >= 0x80:
            self._on_answered(packet.packet_id, packet.reason, events)
        else:
            outbound[packet.packet_id] = None
            self._out.append(self._answer(0x62, packet.packet_id, 0))

    def _on_pubrel(self, packet: PubRel, _events: list[Event]) -> None:
        is_known = packet.packet_id in self.state.received
        self.state.received.discard(packet.packet_id)
        reason = 0 if is_known else int(Reason.PACKET_IDENTIFIER_NOT_FOUND)
        self._out.append(self._answer(0x70, packet.packet_id, reason))
