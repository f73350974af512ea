"""The client's end of an AMQP 1.0 connection, without I/O: it logs in, begins sessions and attaches links.

Driven as the server's end (`gateway.wire.amqp.connection`). What the client has to say first is in `to_send`
from the start. `ConnectionOpened` comes once a session has begun; from then on `attach_sender` and
`attach_receiver` make links, whose answers are `LinkAttached` or `LinkDetached`. Channel and handle numbers
of the two ends may differ: a session translates the peer's into its own. A session that the peer ends takes
the connection with it, as who lost part of its links starts anew.

Left out: links that the server attaches, resumption, SASL mechanisms with challenges.
Source: OASIS AMQP 1.0, part 2, sections 2.4 to 2.6; part 5, section 5.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import msgspec

from gateway.errors import Undeliverable
from gateway.wire.amqp.connection import (
    AMQP_HEADER,
    SASL_HEADER,
    SASL_OK,
    Connection,
    _framing,
)
from gateway.wire.amqp.events import ConnectionEnded, ConnectionOpened, Event, LinkAttached
from gateway.wire.amqp.limits import Limits
from gateway.wire.amqp.link import ReceiverLink, SenderLink
from gateway.wire.amqp.performatives import (
    MAX_UINT,
    RECEIVER,
    SENDER,
    SND_MIXED,
    SND_SETTLED,
    SND_UNSETTLED,
    Attach,
    Begin,
    Detach,
    End,
    Error,
    Flow,
    Open,
    SaslInit,
    SaslMechanisms,
    SaslOutcome,
    Source,
    Target,
    Transfer,
)
from gateway.wire.amqp.session import Session, SessionFault
from gateway.wire.amqp.states import State

UNAUTHORIZED: Final = "amqp:unauthorized-access"
SASL_SYS_TEMP: Final = 4


@dataclass(frozen=True, slots=True)
class SaslLogin:
    """How to log in: PLAIN, EXTERNAL or ANONYMOUS, with its initial response."""

    mechanism: str = "ANONYMOUS"
    response: bytes = field(default=b"", repr=False)

    @classmethod
    def plain(cls, username: str, password: str) -> SaslLogin:
        """Log in with name and password (RFC 4616)."""
        return cls("PLAIN", b"\0".join((b"", username.encode(), password.encode())))


class ClientConnection(Connection):
    """Our connection to a server; `hostname` is the virtual host that we ask for."""

    def __init__(
        self, limits: Limits, now: float, login: SaslLogin, *, hostname: str | None = None
    ) -> None:
        super().__init__(limits, now)
        self._login = login
        self._hostname = hostname
        self._begun: dict[int, None] = {}
        self._newest: ClientSession | None = None
        self._names = 0
        self.out.append(SASL_HEADER)

    # --- links -----------------------------------------------------------------------------------------

    def attach_sender(self, address: str | None, *, context: object = None) -> SenderLink:
        """Attach a link on which we send, at least once; None is the anonymous terminus.

        Errors: Undeliverable when the server takes no more links.
        """
        session = self._roomy_session()
        attach = Attach(
            name=self._name(address),
            handle=session.next_handle(),
            role=SENDER,
            snd_settle_mode=SND_UNSETTLED,
            source=Source(),
            target=Target(address=address),
            initial_delivery_count=0,
        )
        link = SenderLink(session, attach)
        link.context = context
        session.attach(link, attach)
        return link

    def attach_receiver(
        self, address: str, *, credit: int, max_message_size: int, context: object = None
    ) -> ReceiverLink:
        """Attach a link on which we receive; `credit` is granted as soon as the server has attached.

        Errors: Undeliverable when the server takes no more links.
        """
        session = self._roomy_session()
        attach = Attach(
            name=self._name(address),
            handle=session.next_handle(),
            role=RECEIVER,
            snd_settle_mode=SND_MIXED,
            source=Source(address=address),
            target=Target(),
            max_message_size=max_message_size,
        )
        link = ReceiverLink(session, attach)
        link.context = context
        link.window, link.max_message_size = credit, max_message_size
        session.attach(link, attach)
        return link

    def _name(self, address: str | None) -> str:
        self._names += 1
        return f"{self.limits.container_id}-{self._names}-{address or 'anonymous'}"

    def _roomy_session(self) -> ClientSession:
        """Return a session with a free handle; the next one is begun before the newest is full."""
        for session in self._sessions.values():
            if isinstance(session, ClientSession) and session.room:
                newest = self._newest
                if newest is not None and newest.room * 2 <= newest.handle_max:
                    self._begin()
                return session
        raise Undeliverable("the AMQP server takes no more links on this connection")

    def _begin(self) -> None:
        channels = {session.channel for session in self._sessions.values()} | set(self._begun)
        maximum = min(
            self.limits.channel_max, 0xFFFF if self.remote is None else self.remote.channel_max
        )
        if self._begun or len(channels) > maximum:
            return
        channel = next(n for n in range(maximum + 1) if n not in channels)
        self._begun[channel] = None
        window = self.limits.incoming_window
        self.write(
            channel,
            Begin(
                next_outgoing_id=0,
                incoming_window=window,
                outgoing_window=MAX_UINT,
                handle_max=self.limits.handle_max,
            ),
        )

    # --- logging in --------------------------------------------------------------------------------------

    def _on_header(self, header: bytes, events: list[Event]) -> int:
        if self._state is State.FIRST_HEADER and header == SASL_HEADER:
            self._state = State.SASL_INIT
        elif self._state is State.SECOND_HEADER and header == AMQP_HEADER:
            self._state = State.OPEN
        else:
            self._wrong_header(events)
        return 8

    def _wrong_header(self, events: list[Event]) -> None:
        self._state = State.CLOSED
        events.append(
            ConnectionEnded(Error("amqp:framing-error", "the server does not speak AMQP 1.0"))
        )

    def _on_sasl(self, performative: object, events: list[Event]) -> None:
        if isinstance(performative, SaslMechanisms):
            self._choose(performative.sasl_server_mechanisms, events)
        elif isinstance(performative, SaslOutcome):
            self._on_outcome(performative.code, events)
        else:
            raise _framing("expected sasl-mechanisms or sasl-outcome")

    def _choose(self, offered: tuple[str, ...], events: list[Event]) -> None:
        login = self._login
        if login.mechanism not in offered:
            self._not_let_in(f"the server offers {', '.join(offered)[:128]} only", events)
            return
        self._write_sasl(SaslInit(login.mechanism, login.response, self._hostname))

    def _on_outcome(self, code: int, events: list[Event]) -> None:
        if code != SASL_OK:
            busy = "the server cannot tell now" if code >= SASL_SYS_TEMP else "credentials refused"
            self._not_let_in(busy, events)
            return
        self._sasl_done = True
        self._state = State.SECOND_HEADER
        self.out.append(AMQP_HEADER)
        self._write_open()
        self._begin()

    def _not_let_in(self, text: str, events: list[Event]) -> None:
        self._state = State.CLOSED
        events.append(ConnectionEnded(Error(UNAUTHORIZED, text)))

    def _write_open(
        self,
        capabilities: tuple[str, ...] = (),
        properties: Mapping[object, object] | None = None,
    ) -> None:
        limits = self.limits
        self._open_sent = True
        self.write(
            0,
            Open(
                container_id=limits.container_id,
                hostname=self._hostname,
                max_frame_size=limits.max_frame_size,
                channel_max=limits.channel_max,
                idle_time_out=int(limits.idle_timeout * 500),
                offered_capabilities=capabilities or None,
                properties=properties,
            ),
        )

    def _on_open(self, performative: object, events: list[Event]) -> None:
        asked: list[Event] = []
        super()._on_open(performative, asked)
        self._state = State.OPENED
        del events  # it is told when the first session has begun

    # --- sessions ----------------------------------------------------------------------------------------

    def _on_begin(self, channel: int, begin: Begin) -> None:
        ours = begin.remote_channel
        if ours is None or ours not in self._begun or channel in self._sessions:
            raise _framing(f"begin on channel {channel} answers none of ours")
        del self._begun[ours]
        self._newest = self._sessions[channel] = ClientSession(self, ours, begin)

    def _dispatch(
        self, channel: int, performative: object, payload: bytes, events: list[Event]
    ) -> None:
        super()._dispatch(channel, performative, payload, events)
        if isinstance(performative, Begin) and self._handshake_until is not None:
            self._handshake_until = None
            if self.remote is not None:
                events.append(ConnectionOpened(self.remote))

    def _on_session_frame(
        self, channel: int, performative: object, payload: bytes, events: list[Event]
    ) -> None:
        super()._on_session_frame(channel, performative, payload, events)
        session = self._sessions.get(channel)
        if isinstance(performative, End) or (session is not None and session.ended):
            self._fail("amqp:connection:forced", "a session has ended", events)


class ClientSession(Session):
    """A session that we began."""

    def __init__(self, connection: ClientConnection, channel: int, begin: Begin) -> None:
        self._ours: dict[int, int] = {}
        self._unanswered: dict[tuple[str, bool], SenderLink | ReceiverLink] = {}
        super().__init__(connection, channel, begin)
        self.handle_max = min(begin.handle_max, connection.limits.handle_max)

    def introduce(self) -> None:
        """We have said begin before."""

    @property
    def room(self) -> int:
        """How many more links it takes."""
        return 0 if self.ended else self.handle_max + 1 - len(self.links)

    def next_handle(self) -> int:
        """Return the lowest handle that is free."""
        return next(n for n in range(self.handle_max + 1) if n not in self.links)

    def attach(self, link: SenderLink | ReceiverLink, attach: Attach) -> None:
        """Ask the peer for a link."""
        self.links[link.handle] = link
        self._unanswered[link.name, attach.role] = link
        self.write(attach)

    def on_frame(self, performative: object, payload: bytes, events: list[Event]) -> None:
        handle = getattr(performative, "handle", None)
        if handle is None:
            super().on_frame(performative, payload, events)
            return
        if isinstance(performative, Attach):
            self._on_reply(performative, events)
            return
        ours = self._ours.get(handle)
        if ours is None:
            raise SessionFault("amqp:session:unattached-handle", f"handle {handle} is not attached")
        if isinstance(performative, Detach):
            del self._ours[handle]
            self._forget_question(ours)
        if ours != handle and isinstance(performative, Flow | Transfer | Detach):
            performative = msgspec.structs.replace(performative, handle=ours)
        super().on_frame(performative, payload, events)

    def take_whole(
        self,
        handle: int,
        delivery_id: int,
        tag: bytes,
        settled: bool,
        payload: bytes,
        events: list[Event],
    ) -> bool:
        ours = self._ours.get(handle)
        return ours is not None and super().take_whole(
            ours, delivery_id, tag, settled, payload, events
        )

    def _forget_question(self, handle: int) -> None:
        link: Any = self.links.get(handle)
        if link is not None:
            self._unanswered.pop((link.name, isinstance(link, ReceiverLink)), None)

    def _on_reply(self, reply: Attach, events: list[Event]) -> None:
        """Take the answer to one of our attaches; a null terminus announces a refusal's detach."""
        link = self._unanswered.pop((reply.name, not reply.role), None)
        if link is None:
            raise SessionFault("amqp:not-allowed", "links are attached by the client")
        self._ours[reply.handle] = link.handle
        if link.handle in self._leaving:
            return
        link.attach = replace(reply, handle=link.handle)
        if (link.target if isinstance(link, SenderLink) else link.source) is None:
            return
        link.is_open = True
        if isinstance(link, ReceiverLink):
            link.delivery_count = reply.initial_delivery_count or 0
            link.top_up()
            self.flush()  # credit goes out before anything that asks for an answer on this link
        else:
            link.presettled = reply.snd_settle_mode == SND_SETTLED
        events.append(LinkAttached(link))
