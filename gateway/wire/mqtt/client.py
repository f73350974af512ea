"""The client's end of an MQTT connection: sans-IO, for MQTT 3.1.1 and 5.0.

A new session has CONNECT in `to_send`. Reconnecting is the shell's: it makes a new session with the
`state` of the last one. When the server does not know the session any more, the state is emptied, and the
shell must publish again what it still cares for.
"""

from __future__ import annotations

from gateway.wire.mqtt import codec
from gateway.wire.mqtt.packets import (
    V3,
    V5,
    Auth,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PingResp,
    Publish,
    SubAck,
    Subscribe,
    Subscription,
    UnsubAck,
    Unsubscribe,
)
from gateway.wire.mqtt.properties import NONE, Properties
from gateway.wire.mqtt.reasons import Fault, Reason, protocol_error
from gateway.wire.mqtt.session import Session
from gateway.wire.mqtt.state import NEW, OPEN, Event, Limits, SessionState

_PINGREQ = codec.encode(PingReq(), V3)


class ClientSession(Session):
    """Events: ConnAck, Publish, Acked, SubAck, UnsubAck, Disconnect, Auth, Closed.

    A refusal gives ConnAck (its reason tells why) and Closed.
    """

    def __init__(
        self, connect: Connect, limits: Limits, now: float, state: SessionState | None = None
    ) -> None:
        super().__init__(limits, now, state)
        self.version = connect.version
        self._connect = connect
        self._deadline = now + limits.connect_timeout
        self._keep_alive = connect.keep_alive
        self._ping_at = 0.0
        self._pinged_at: float | None = None
        self._asked: dict[int, Subscribe | Unsubscribe] = {}
        self._handlers |= {
            ConnAck: self._on_connack,
            Publish: self._on_publish,
            SubAck: self._on_answer,
            UnsubAck: self._on_answer,
            PingResp: self._on_pong,
            Disconnect: self._on_disconnect,
            Auth: self._on_auth,
        }
        self._send(connect)

    @property
    def wake_at(self) -> float | None:
        if self._phase is NEW:
            return self._deadline
        if self._phase is OPEN and self._keep_alive:
            return self._ping_at
        return None

    def tick(self, now: float) -> list[Event]:
        """Send a PINGREQ when it is due; end when the last one had no answer, or CONNECT had none."""
        due = self.wake_at
        if due is None or now < due:
            return []
        if self._phase is NEW:
            return self._fail(Fault("no CONNACK in time", Reason.KEEP_ALIVE_TIMEOUT))
        if self._pinged_at is not None and self._heard < self._pinged_at:
            return self._fail(Fault("no answer to PINGREQ", Reason.KEEP_ALIVE_TIMEOUT))
        self._out.append(_PINGREQ)
        self._pinged_at = now
        self._ping_at = now + self._keep_alive
        return []

    # --- requests ---------------------------------------------------------------------------------

    def subscribe(self, *subscriptions: Subscription, properties: Properties = NONE) -> int:
        """Ask for messages; `SubAck` with the returned packet identifier tells what was granted."""
        return self._ask(Subscribe(self._take_id(), subscriptions, properties))

    def unsubscribe(self, *filters: str, properties: Properties = NONE) -> int:
        """Ask for no more messages; answered by `UnsubAck`."""
        return self._ask(Unsubscribe(self._take_id(), filters, properties))

    def auth(self, reason: int, properties: Properties = NONE) -> None:
        """Send a step of extended authentication (5.0)."""
        self._send(Auth(reason, properties))

    def disconnect(self, reason: int = 0, properties: Properties = NONE) -> list[Event]:
        """Say good-bye and end; the server then drops the will (unless the reason asks for it)."""
        if self.closed:
            return []
        if self.is_open:
            self._send(Disconnect(reason, properties))
        return self._end(reason)

    def _take_id(self) -> int:
        return self.state.take_id(self._asked)

    def _ask(self, packet: Subscribe | Unsubscribe) -> int:
        self._asked[packet.packet_id] = packet
        self._send(packet)
        return packet.packet_id

    # --- what the server says -----------------------------------------------------------------------

    def _handle(self, packet: Packet, events: list[Event]) -> None:
        if self._phase is NEW and not isinstance(packet, ConnAck | Auth):
            raise protocol_error(f"{type(packet).__name__.upper()} before CONNACK")
        super()._handle(packet, events)

    def _on_connack(self, packet: ConnAck, events: list[Event]) -> None:
        if self._phase is not NEW:
            raise protocol_error("CONNACK: a second one on the same connection")
        if packet.session_present and self._connect.clean_start:
            raise protocol_error("CONNACK: session present after a clean start")
        events.append(packet)
        if packet.reason:
            events += self._end(packet.reason)
            return
        self._phase = OPEN
        self._meet(packet.properties)
        if packet.properties.server_keep_alive is not None:
            self._keep_alive = packet.properties.server_keep_alive
        self._ping_at = self._heard + self._keep_alive
        if packet.session_present:
            self._resume()
        else:
            self.state.outbound.clear()
            self.state.received.clear()

    def _on_answer(self, packet: SubAck | UnsubAck, events: list[Event]) -> None:
        asked = self._asked.pop(packet.packet_id, None)
        expected = Subscribe if isinstance(packet, SubAck) else Unsubscribe
        name = type(packet).__name__.upper()
        if not isinstance(asked, expected):
            raise protocol_error(f"{name}: nothing was asked with {packet.packet_id}")
        wanted = len(asked.subscriptions if isinstance(asked, Subscribe) else asked.filters)
        if len(packet.codes) != wanted and (isinstance(packet, SubAck) or self.version == V5):
            raise protocol_error(f"{name}: expected {wanted} codes, got {len(packet.codes)}")
        events.append(packet)

    def _on_pong(self, _packet: PingResp, _events: list[Event]) -> None:
        self._pinged_at = None

    def _on_auth(self, packet: Auth, events: list[Event]) -> None:
        if self._connect.properties.authentication_method is None:
            raise protocol_error("AUTH: no authentication method was offered")
        events.append(packet)

    def _on_disconnect(self, packet: Disconnect, events: list[Event]) -> None:
        if self.version != V5:
            raise protocol_error("DISCONNECT: a 3.1.1 server does not send it")
        events.append(packet)
        events += self._end(packet.reason)
