"""The server's end of an MQTT connection: sans-IO, for MQTT 3.1.1 and 5.0.

The first event is `Connect`; the shell answers it with `accept` or `refuse`, at once or later, and
stops reading until then (what came behind the CONNECT waits in a bounded buffer). Left to the shell: who
may connect, what is published to whom, wills, what outlives a connection (it keeps `state`).
"""

from __future__ import annotations

import msgspec

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
    UnsubAck,
    Unsubscribe,
)
from gateway.wire.mqtt.properties import NONE, Properties
from gateway.wire.mqtt.reasons import CONNACK_3, Fault, Reason, protocol_error
from gateway.wire.mqtt.session import Session
from gateway.wire.mqtt.state import ASKED, NEW, OPEN, Event, Limits, SessionState

_PINGRESP = codec.encode(PingResp(), V3)


class ServerSession(Session):
    """Events: Connect, Publish, Acked, Subscribe, Unsubscribe, Disconnect, Auth, Closed."""

    def __init__(self, limits: Limits, now: float) -> None:
        super().__init__(limits, now)
        self._deadline = now + limits.connect_timeout
        self._alive_for = 0.0
        self._connect = Connect()
        self._handlers |= {
            Connect: self._on_connect,
            Publish: self._on_publish,
            Subscribe: self._on_request,
            Unsubscribe: self._on_request,
            PingReq: self._on_ping,
            Disconnect: self._on_disconnect,
            Auth: self._on_auth,
        }

    @property
    def wake_at(self) -> float | None:
        if self._phase is NEW:
            return self._deadline
        if self._phase is OPEN and self._alive_for:
            return self._heard + self._alive_for
        return None

    def tick(self, now: float) -> list[Event]:
        """End a connection that sends no CONNECT, or nothing for one and a half keep-alive times."""
        due = self.wake_at
        if due is None or now < due:
            return []
        if self._phase is NEW:
            return self._fail(Fault("no CONNECT in time", Reason.KEEP_ALIVE_TIMEOUT))
        return self._fail(
            Fault(f"silent for {self._alive_for:g} s", Reason.KEEP_ALIVE_TIMEOUT),
        )

    def heard(self, now: float) -> None:
        """Count the peer as alive: for a shell that did not read for a while."""
        self._heard = now

    # --- the answer to CONNECT --------------------------------------------------------------------

    def accept(
        self,
        now: float,
        *,
        properties: Properties = NONE,
        state: SessionState | None = None,
    ) -> list[Event]:
        """Let the client in; returns the events of what it sent behind its CONNECT.

        Shape:  `state` of an earlier connection resumes that session: session present is 1, and what had no
                answer is sent again. `properties` go into an MQTT 5 CONNACK, beside what the limits say.
        """
        if self._phase is not ASKED:
            return []
        self._phase = OPEN
        self._heard = now
        keep_alive = self._keep_alive()
        self._alive_for = keep_alive * 1.5
        if self.version == V5:
            properties = self._announce(properties, keep_alive)
        self._send(ConnAck(0, state is not None, properties))
        if state is not None:
            self.state = state
            self._resume()
        early = self._take_held()
        return self.receive(early, now) if early else []

    def _keep_alive(self) -> int:
        asked, limit = self._connect.keep_alive, self._limits.max_keep_alive
        if self.version == V5 and limit and not 0 < asked <= limit:
            return limit
        return asked

    def _announce(self, properties: Properties, keep_alive: int) -> Properties:
        limits = self._limits
        said = {
            "maximum_packet": limits.max_packet,
            "receive_maximum": limits.receive_maximum if limits.receive_maximum < 65_535 else None,
            "topic_alias_maximum": limits.topic_alias_maximum or None,
            "server_keep_alive": keep_alive if keep_alive != self._connect.keep_alive else None,
        }
        return msgspec.structs.replace(properties, **said)

    def refuse(
        self, reason: int, code3: int | None = None, properties: Properties = NONE
    ) -> list[Event]:
        """Answer CONNECT with a failure and end.

        Shape:  `reason` is MQTT 5's; `code3` the 3.1.1 return code, by default what matches it best.
        """
        if self._phase is not ASKED:
            return []
        if self.version == V3:
            reason = CONNACK_3.get(reason, 5) if code3 is None else code3
            properties = NONE
        self._send(ConnAck(reason, False, properties))
        return self._end(reason)

    def _on_connect(self, packet: Connect, events: list[Event]) -> None:
        if self._phase is not NEW:
            raise protocol_error("CONNECT: a second one on the same connection")
        self._connect = packet
        self.version = packet.version
        self._meet(packet.properties)
        self._phase = ASKED
        if packet.version == V3 and not packet.client_id and not packet.clean_start:
            events += self.refuse(Reason.CLIENT_IDENTIFIER_NOT_VALID)
        else:
            events.append(packet)

    def _handle(self, packet: Packet, events: list[Event]) -> None:
        if self._phase is NEW and not isinstance(packet, Connect):
            raise protocol_error(f"{type(packet).__name__.upper()} before CONNECT")
        super()._handle(packet, events)

    def _fail(self, fault: Fault) -> list[Event]:
        if self._phase is NEW and fault.reason is Reason.UNSUPPORTED_PROTOCOL_VERSION:
            self._send(ConnAck(CONNACK_3[fault.reason]))  # 3.1.1's form: the one every client knows
        return super()._fail(fault)

    # --- requests ---------------------------------------------------------------------------------

    def suback(self, packet_id: int, codes: tuple[int, ...], properties: Properties = NONE) -> None:
        """Answer a SUBSCRIBE: a granted QoS or a failure per entry (3.1.1 knows only 0x80)."""
        if self.is_open:
            self._send(SubAck(packet_id, codes, properties))

    def unsuback(
        self, packet_id: int, codes: tuple[int, ...], properties: Properties = NONE
    ) -> None:
        """Answer an UNSUBSCRIBE; 3.1.1 leaves the codes out."""
        if self.is_open:
            self._send(UnsubAck(packet_id, codes, properties))

    def auth(self, reason: int, properties: Properties = NONE) -> None:
        """Send a step of extended authentication (5.0)."""
        self._send(Auth(reason, properties))

    def disconnect(self, reason: int = 0, properties: Properties = NONE) -> list[Event]:
        """End the connection from our side; an MQTT 5 client is told why."""
        if self.closed:
            return []
        if self.is_open and self.version == V5:
            self._send(Disconnect(reason, properties))
        return self._end(reason)

    def _on_request(self, packet: Subscribe | Unsubscribe, events: list[Event]) -> None:
        events.append(packet)

    def _on_ping(self, _packet: PingReq, _events: list[Event]) -> None:
        self._out.append(_PINGRESP)

    def _on_auth(self, packet: Auth, events: list[Event]) -> None:
        method = self._connect.properties.authentication_method
        if method is None or packet.properties.authentication_method != method:
            raise protocol_error("AUTH: not the authentication method of CONNECT")
        events.append(packet)

    def _on_disconnect(self, packet: Disconnect, events: list[Event]) -> None:
        asked = packet.properties.session_expiry
        if asked and not self._connect.properties.session_expiry:
            raise protocol_error("DISCONNECT: a session expiry, after none in CONNECT")
        events.append(packet)
        events += self._end(packet.reason)
