"""A client's login at an AMQP 1.0 peer: the SASL layer in front of the connection, sans-IO.

PLAIN, EXTERNAL and ANONYMOUS: mechanisms that say all they have to say at once. What comes behind the outcome
belongs to the connection and is handed on as `rest`.
Source: OASIS AMQP 1.0, part 5, section 5.3.
"""

from __future__ import annotations

import struct
from typing import Final

from gateway.errors import MalformedPacket, Unauthenticated, Undeliverable
from gateway.wire.amqp.connection import MAX_SASL_FRAME, SASL_AUTH, SASL_HEADER, SASL_OK
from gateway.wire.amqp.performatives import SASL, SaslInit, SaslMechanisms, SaslOutcome

_FRAME: Final = struct.Struct(">IBBH")
_HEAD: Final = 8


class SaslClient:
    """One login; `is_done` once the peer has let us in.

    Shape:  `to_send` has the protocol header from the start.
    """

    def __init__(self, mechanism: str, response: bytes, host: str) -> None:
        self.is_done = False
        self.rest = b""
        self._init = SaslInit(mechanism, response, host)
        self._out = [SASL_HEADER]
        self._held = b""
        self._has_header = False
        self._has_asked = False

    def to_send(self) -> bytes:
        """Return the bytes for the peer; each byte once."""
        data, self._out = b"".join(self._out), []
        return data

    def receive(self, data: bytes) -> None:
        """Take what the peer sent.

        Errors: Unauthenticated when it refuses; Undeliverable when it cannot say now; MalformedPacket.
        """
        self._held += data
        while not self.is_done:
            frame = self._next()
            if frame is None:
                return
            self._on_frame(frame)
        self.rest, self._held = self._held, b""

    def _next(self) -> object | None:
        """Return the next frame's performative; None while it is not whole."""
        if len(self._held) < _HEAD:
            return None
        if not self._has_header:
            header, self._held = self._held[:_HEAD], self._held[_HEAD:]
            if header != SASL_HEADER:
                raise MalformedPacket(f"protocol header: expected SASL, got {header!r}")
            self._has_header = True
            return self._next()
        size, offset, kind, _ = _FRAME.unpack_from(self._held)
        if kind != 1 or offset < 2 or not offset * 4 <= size <= MAX_SASL_FRAME:
            raise MalformedPacket(f"SASL frame: size {size}, offset {offset}, type {kind}")
        if len(self._held) < size:
            return None
        body, self._held = self._held[offset * 4 : size], self._held[size:]
        performative: object = SASL.decode(body)[0]
        return performative

    def _on_frame(self, performative: object) -> None:
        match performative:
            case SaslMechanisms(offered) if not self._has_asked:
                self._ask(offered)
            case SaslOutcome(code) if self._has_asked:
                self._on_outcome(code)
            case _:
                raise MalformedPacket(f"SASL: {type(performative).__name__} was not expected")

    def _ask(self, offered: tuple[str, ...]) -> None:
        mechanism = self._init.mechanism
        if mechanism not in offered:
            raise Unauthenticated(f"SASL: {mechanism} is not offered, only {', '.join(offered)}")
        self._has_asked = True
        body = SASL.write(self._init)
        self._out.append(_FRAME.pack(len(body) + _HEAD, 2, 1, 0) + body)

    def _on_outcome(self, code: int) -> None:
        if code == SASL_OK:
            self.is_done = True
        elif code == SASL_AUTH:
            raise Unauthenticated("SASL: the credentials are wrong")
        else:
            raise Undeliverable(f"SASL: the peer cannot check credentials now (code {code})")


def plain_response(username: str, password: str) -> bytes:
    """Return what PLAIN sends."""
    return b"\0" + username.encode() + b"\0" + password.encode()
