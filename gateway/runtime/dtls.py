"""DTLS 1.2 over one UDP socket: sessions of peers that have proved who they are.

A peer gets no state here before it has answered a cookie sent to its address. The key that it names is looked
up while its datagram waits, so the look-up may take time; OpenSSL finds the answer there. Sessions are not
resumed: whoever comes back proves itself anew.
Full: a new peer takes the place of the session that was silent for longest, if that was a minute; else it
gets no answer and tries again.
Source: RFC 6347, 4.2.1 (cookies), 4.2.8 (a peer that begins anew); RFC 4279 (pre-shared keys).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from gateway.model.login import TlsPeer
from gateway.runtime.dtls_library import MTU, DtlsLibrary

if TYPE_CHECKING:
    from OpenSSL import SSL

log = logging.getLogger(__name__)

HANDSHAKE_SECONDS = 30.0
MAX_HELD = 8
"""Datagrams of one peer that wait while it is found out who it is; more are lost."""
MAX_IDENTITIES = 4
"""Identities that one peer may name in a handshake."""
STALE_SECONDS = 60.0
MAX_PLAIN = 65_536

_RECORD = 13
_MESSAGE = 12
_HANDSHAKE = 22
_CLIENT_HELLO = 1
_CLIENT_KEY_EXCHANGE = 16
_RANDOM = slice(_RECORD + _MESSAGE + 2, _RECORD + _MESSAGE + 2 + 32)

_serials = itertools.count(1)

Owner = TypeVar("Owner")
Address = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Key(Generic[Owner]):
    """A pre-shared key and whom it proves; `until` in seconds since the epoch."""

    secret: bytes = field(repr=False)
    owner: Owner
    until: float | None = None


@dataclass(frozen=True, slots=True)
class Doorman(Generic[Owner]):
    """Who is who; each answers once through its callback, None for nobody.

    Shape:  `find_key` is asked with the identity that a peer names; `judge` with the certificate of a peer
            that has one; `takes_strangers` where a peer without either may come in.
    """

    find_key: Callable[[bytes, Callable[[Key[Owner] | None], None]], None]
    judge: Callable[[TlsPeer, Callable[[Owner | None], None]], None]
    takes_strangers: bool = False


class Session(Generic[Owner]):
    """One peer; one that begins anew is another one, with another key."""

    is_proved = True

    def __init__(
        self, socket: DtlsSocket[Owner], address: Address, connection: SSL.Connection, hello: bytes
    ) -> None:
        self._socket = socket
        self._connection = connection
        self._keys: dict[bytes, Key[Owner] | None] = {}
        self._used: Key[Owner] | None = None
        self._held: list[bytes] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.address = address
        self.key: Hashable = next(_serials)
        """What others may keep for longer than the session lasts."""
        self.hello = hello[_RANDOM]
        self.principal: Owner | None = None
        self.until: float | None = None
        self.is_open = False
        self.is_over = False
        self.last = self.begun = socket.clock()

    def send(self, datagram: bytes) -> None:
        """Send a datagram; it may be lost."""
        if self.is_over or not self.is_open:
            return
        try:
            self._connection.send(datagram)
        except self._socket.library.ssl.Error:
            self.end()
            return
        self._flush()

    def feed(self, data: bytes) -> None:
        """Work on a datagram of the peer."""
        if self.is_over:
            return
        if self._held is not None:
            if len(self._held) < MAX_HELD:
                self._held.append(data)
            return
        if not self.is_open:
            identity = identity_in(data)
            if identity is not None and identity not in self._keys:
                if len(self._keys) >= MAX_IDENTITIES:
                    self._failed("failed")
                    return
                self._held = [data]
                self._socket.doorman.find_key(identity, lambda key: self._found(identity, key))
                return
        self._process(data)

    def _found(self, identity: bytes, key: Key[Owner] | None) -> None:
        """Work on what had to wait; an identity without a key is refused by OpenSSL itself."""
        self._keys[identity] = key
        held, self._held = self._held or [], None
        for data in held:
            self.feed(data)

    def secret_of(self, identity: bytes) -> bytes | None:
        """Answer OpenSSL: the key of an identity that was looked up."""
        self._used = self._keys.get(identity)
        return None if self._used is None else self._used.secret

    def begin(self) -> None:
        """Go on with the handshake whose first message has come already."""
        self._process(b"")

    def _process(self, data: bytes) -> None:
        ssl = self._socket.library.ssl
        try:
            if data:
                self._connection.bio_write(data)
            if not self.is_open:
                self._connection.do_handshake()
                self._opened()
            if self.is_open and self._held is None:
                self._read()
        except ssl.WantReadError:
            pass
        except ssl.ZeroReturnError:
            self.end()
        except ssl.Error:
            self._failed("failed")
        if not self.is_over:
            self._flush()
            self._watch()

    def _read(self) -> None:
        while not self.is_over:
            data = self._connection.recv(MAX_PLAIN)
            self._socket.received(self, data)

    def _opened(self) -> None:
        self.is_open = True
        used, self._used = self._used, None
        self._keys.clear()
        if used is not None:
            self.principal, self.until = used.owner, used.until
            self._socket.count("key")
            return
        certificate = self._connection.get_peer_certificate(as_cryptography=True)
        if certificate is None:
            if self._socket.doorman.takes_strangers:
                self._socket.count("anonymous")
            else:
                self._failed("refused")
            return
        from cryptography.hazmat.primitives.serialization import Encoding

        name = self._connection.get_servername()
        peer = TlsPeer(
            certificate.public_bytes(Encoding.DER),
            name.decode(errors="replace") if name is not None else None,
        )
        self._held = []
        self._socket.doorman.judge(peer, self._judged)

    def _judged(self, owner: Owner | None) -> None:
        if self.is_over:
            return
        if owner is None:
            self._failed("refused")
            return
        self.principal = owner
        self._socket.count("certificate")
        held, self._held = self._held or [], None
        self._process(b"")
        for data in held:
            self.feed(data)

    def _failed(self, outcome: str) -> None:
        if not self.is_open or outcome == "refused":
            self._socket.count(outcome)
        self.end()

    # --- out ----------------------------------------------------------------------------------------

    def _flush(self) -> None:
        self._socket.flush(self._connection, self.address)

    def _watch(self) -> None:
        """Send a flight of the handshake again when it stays without an answer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.is_open:
            return
        seconds = self._connection.DTLSv1_get_timeout()
        if seconds is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(seconds, 0.01), self._again)

    def _again(self) -> None:
        self._timer = None
        try:
            self._connection.DTLSv1_handle_timeout()
        except self._socket.library.ssl.Error:
            self._failed("failed")
            return
        self._flush()
        self._watch()

    def end(self, *, tell: bool = True) -> None:
        """End the session; a second call changes nothing."""
        if self.is_over:
            return
        self.is_over = True
        if self._timer is not None:
            self._timer.cancel()
        if tell:
            with suppress(self._socket.library.ssl.Error):  # OpenSSL has sent an alert of its own
                self._connection.shutdown()
            self._flush()
        self._socket.ended(self)


class DtlsSocket(asyncio.DatagramProtocol, Generic[Owner]):
    """All sessions of one socket.

    Shape:  `received` takes the datagrams of proved peers, `gone` the keys of ended sessions, `count` is
            told of handshakes by outcome (key, certificate, anonymous, failed, refused, full).
    """

    def __init__(
        self,
        doorman: Doorman[Owner],
        received: Callable[[Session[Owner], bytes], None],
        gone: Callable[[Hashable], None],
        count: Callable[[str], None],
        *,
        make_library: Callable[[Callable[[int, bytes], bytes | None]], DtlsLibrary],
        max_sessions: int,
        idle_seconds: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.doorman = doorman
        self.received = received
        self.count = count
        self.clock = clock
        self._gone = gone
        self._max_sessions = max_sessions
        self._idle_seconds = idle_seconds
        self._sessions: dict[Address, Session[Owner]] = {}
        self._by_pointer: dict[int, Session[Owner]] = {}
        self._is_full = False
        self._transport: asyncio.DatagramTransport
        self.library = make_library(self._secret_of)
        self._listener: SSL.Connection = self.library.new_connection()

    def __len__(self) -> int:
        return len(self._sessions)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        for session in tuple(self._sessions.values()):
            session.end(tell=False)

    def close(self) -> None:
        """End all sessions; their peers are told."""
        for session in tuple(self._sessions.values()):
            session.end()

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False

    def _secret_of(self, pointer: int, identity: bytes) -> bytes | None:
        session = self._by_pointer.get(pointer)
        return None if session is None else session.secret_of(identity)

    def datagram_received(self, data: bytes, addr: Address) -> None:
        session = self._sessions.get(addr)
        if is_hello(data) and (session is None or session.hello != data[_RANDOM]):
            self._hello(data, addr)
        elif session is not None:
            if self._is_outdated(session):
                session.end()
                return
            session.last = self.clock()
            self._sessions[addr] = self._sessions.pop(addr)
            session.feed(data)

    def _is_outdated(self, session: Session[Owner]) -> bool:
        return session.until is not None and session.until < self.clock()

    # --- peers that begin ---------------------------------------------------------------------------

    def _hello(self, data: bytes, address: Address) -> None:
        """Answer a first message with a cookie; one that has the cookie begins a session."""
        listener = self._listener
        listener.set_app_data(address)
        try:
            listener.bio_write(data)
            listener.DTLSv1_listen()
        except self.library.ssl.WantReadError:
            self.flush(listener, address)
            return
        except self.library.ssl.Error:
            self.flush(listener, address)
            self._listener = self.library.new_connection()
            return
        self._listener = self.library.new_connection()
        self._begin(listener, data, address)

    def _begin(self, connection: SSL.Connection, data: bytes, address: Address) -> None:
        before = self._sessions.get(address)
        if before is not None:
            before.end(tell=False)
        if not self._has_room():
            self.count("full")
            return
        session: Session[Owner] = Session(self, address, connection, data)
        self._sessions[address] = session
        self._by_pointer[self.library.pointer_of(connection)] = session
        session.begin()

    def _has_room(self) -> bool:
        if len(self._sessions) < self._max_sessions:
            return True
        oldest = next(iter(self._sessions.values()))
        if self.clock() - oldest.last < STALE_SECONDS:
            return False
        oldest.end()
        return True

    # --- all sessions -------------------------------------------------------------------------------

    def flush(self, connection: SSL.Connection, address: Address) -> None:
        """Send what OpenSSL has to say, in datagrams of whole records."""
        while True:
            try:
                data = connection.bio_read(MAX_PLAIN)
            except self.library.ssl.WantReadError:
                return
            if not self._is_full:
                for datagram in datagrams_of(data):
                    self._transport.sendto(datagram, address)

    def ended(self, session: Session[Owner]) -> None:
        """Forget a session."""
        if self._sessions.get(session.address) is session:
            del self._sessions[session.address]
        self._by_pointer.pop(self.library.pointer_of(session._connection), None)
        self._gone(session.key)

    def sweep(self) -> None:
        """End what is silent for too long, and handshakes that do not come to an end."""
        now = self.clock()
        for session in tuple(self._sessions.values()):
            is_late = not session.is_open and now - session.begun > HANDSHAKE_SECONDS
            if is_late or now - session.last > self._idle_seconds or self._is_outdated(session):
                session.end()

    def end_where(self, is_meant: Callable[[Owner], bool]) -> None:
        """End the sessions of these owners."""
        for session in tuple(self._sessions.values()):
            if session.principal is not None and is_meant(session.principal):
                session.end()


# --- records ---------------------------------------------------------------------------------------


def is_hello(data: bytes) -> bool:
    """True for a datagram that begins with an unprotected ClientHello."""
    return (
        len(data) >= _RANDOM.stop
        and data[0] == _HANDSHAKE
        and data[3:5] == b"\0\0"
        and data[_RECORD] == _CLIENT_HELLO
    )


def _records(data: bytes) -> Iterator[bytes]:
    at = 0
    while at + _RECORD <= len(data):
        end = at + _RECORD + (data[at + 11] << 8 | data[at + 12])
        yield data[at:end]
        at = end


def datagrams_of(data: bytes) -> Iterator[bytes]:
    """Cut a run of records into datagrams of at most `MTU` bytes, or of one record."""
    waiting = b""
    for record in _records(data):
        if waiting and len(waiting) + len(record) > MTU:
            yield waiting
            waiting = b""
        waiting += record
    if waiting:
        yield waiting


def identity_in(data: bytes) -> bytes | None:
    """Return the identity that a datagram names in an unprotected, unfragmented ClientKeyExchange."""
    for record in _records(data):
        if record[0] == _HANDSHAKE and record[3:5] == b"\0\0":
            at = _RECORD
            while at + _MESSAGE + 2 <= len(record):
                size = int.from_bytes(record[at + 9 : at + 12], "big")
                body = record[at + _MESSAGE : at + _MESSAGE + size]
                if record[at] == _CLIENT_KEY_EXCHANGE and record[at + 6 : at + 9] == b"\0\0\0":
                    return _identity(body)
                at += _MESSAGE + size
    return None


def _identity(body: bytes) -> bytes | None:
    size = int.from_bytes(body[:2], "big")
    return body[2 : 2 + size] if 2 + size <= len(body) else None
