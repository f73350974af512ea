"""One end of an AMQP 1.0 link: credit, deliveries, settlement. The session carries its frames.

A `SenderLink` is one on which we send (the peer attached as receiver), a `ReceiverLink` one on which we
receive. A link lives from the peer's attach to its end; `is_open` is true between `accept` and that end,
`is_gone` after it.
Source: OASIS AMQP 1.0, part 2, section 2.6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from gateway.wire.amqp.performatives import (
    ACCEPTED,
    MAX_UINT,
    RCV_FIRST,
    RECEIVER,
    SENDER,
    SND_SETTLED,
    Attach,
    Detach,
    Error,
    Flow,
    Source,
    Target,
    Transfer,
)

if TYPE_CHECKING:
    from gateway.wire.amqp.events import LinkDetached
    from gateway.wire.amqp.session import Session

DEFAULT_OUTCOMES: Final = (
    "amqp:accepted:list",
    "amqp:rejected:list",
    "amqp:released:list",
    "amqp:modified:list",
)


class Sent(msgspec.Struct, eq=False):
    """A delivery that we sent and that has no outcome yet; `context` belongs to whoever sent it."""

    link: SenderLink
    id: int
    context: object


class Incoming:
    """A message that came in: whole payload, and what is needed to settle it."""

    __slots__ = ("id", "message_format", "payload", "settled", "tag")

    def __init__(
        self, delivery_id: int, tag: bytes, payload: bytes, settled: bool, message_format: int
    ) -> None:
        self.id = delivery_id
        self.tag = tag
        self.payload = payload
        self.settled = settled
        self.message_format = message_format


class Partial:
    """A message whose frames are still coming."""

    __slots__ = ("format", "id", "parts", "settled", "size", "tag")

    def __init__(self, transfer: Transfer) -> None:
        self.id = transfer.delivery_id or 0
        self.tag = transfer.delivery_tag or b""
        self.format = transfer.message_format or 0
        self.settled = False
        self.parts: list[bytes] = []
        self.size = 0


class BaseLink:
    """What both kinds of link share."""

    def __init__(self, session: Session, attach: Attach) -> None:
        self.session = session
        self.name = attach.name
        self.handle = attach.handle
        self.attach = attach
        self.is_open = False
        self.is_gone = False
        self.context: object = None

    @property
    def source(self) -> Source | None:
        """The source as the peer asked for it; None for a missing one."""
        source = self.attach.source
        return source if isinstance(source, Source) else None

    @property
    def target(self) -> Target | None:
        """The target as the peer asked for it; None for a missing one, or a coordinator."""
        target = self.attach.target
        return target if isinstance(target, Target) else None

    def detach(self, error: Error | None = None) -> LinkDetached:
        """End the link from our side; the event tells what became of it."""
        return self.session.detach(self, error)

    def _refuse(self, reply: Attach, error: Error) -> None:
        self.session.write(reply)
        self.session.write(Detach(handle=self.handle, closed=True, error=error))
        self.session.forget(self, wait_for_peer=True)


class SenderLink(BaseLink):
    """A link on which we send."""

    def __init__(self, session: Session, attach: Attach) -> None:
        super().__init__(session, attach)
        self.credit = 0
        self.draining = False
        """The receiver's last word on it; what we send repeats it."""
        self.delivery_count = 0
        self.presettled = attach.snd_settle_mode == SND_SETTLED
        self.unsettled = 0

    @property
    def sendable(self) -> int:
        """How many messages may be sent now: credit, and room in the peer's session window."""
        if not self.is_open:
            return 0
        session, credit = self.session, self.credit
        window = 0 if session.backlog else session.remote_window
        return credit if credit < window else window

    def accept(self, *, snd_settle_mode: int | None = None, source: Source | None = None) -> None:
        """Attach with the termini as the peer asked for them; `source` says which node a dynamic one got."""
        asked = self.attach
        if snd_settle_mode is not None:
            self.presettled = snd_settle_mode == SND_SETTLED
        self.session.write(
            Attach(
                name=self.name,
                handle=self.handle,
                role=SENDER,
                snd_settle_mode=asked.snd_settle_mode
                if snd_settle_mode is None
                else snd_settle_mode,
                rcv_settle_mode=asked.rcv_settle_mode,
                source=source or asked.source,
                target=asked.target,
                initial_delivery_count=0,
                max_message_size=asked.max_message_size,
            )
        )
        self.is_open = True

    def refuse(self, error: Error) -> None:
        """Answer with a null source, then detach with `error`."""
        reply = Attach(
            name=self.name,
            handle=self.handle,
            role=SENDER,
            target=self.attach.target,
            initial_delivery_count=0,
        )
        self._refuse(reply, error)

    def send(self, payload: bytes, context: object = None) -> Sent | None:
        """Send one message; None when it goes out settled, for which no outcome will come.

        The caller looks at `sendable` first.
        """
        return self.session.send(self, payload, context)

    def withdraw(self, sent: Sent, state: object) -> None:
        """Settle a delivery from our side with `state`: no outcome is wanted any more."""
        self.session.withdraw(sent, state)

    def drained(self) -> None:
        """Say that nothing more is there: uses up the credit of a draining link."""
        if self.draining and self.credit > 0 and self.is_open:
            self.delivery_count = (self.delivery_count + self.credit) & MAX_UINT
            self.credit = 0
            self.session.write_flow(self.handle, self.flow)

    def on_flow(self, flow: Flow) -> None:
        """Take the receiver's credit."""
        if flow.link_credit is not None:
            limit = (flow.delivery_count or 0) + flow.link_credit
            credit = (limit - self.delivery_count) & MAX_UINT
            self.credit = credit if credit < 0x8000_0000 else 0
        self.draining = flow.drain
        if flow.drain and self.credit == 0:
            self.session.write_flow(self.handle, self.flow)

    def flow(self) -> dict[str, object]:
        """This link's part of a flow frame."""
        return {
            "handle": self.handle,
            "delivery_count": self.delivery_count,
            "link_credit": self.credit,
            "available": 0,
            "drain": self.draining,
        }


class ReceiverLink(BaseLink):
    """A link on which we receive.

    Credit keeps what is on its way plus what is being worked on within the granted window: settling a
    delivery, also one that came settled, is what makes room for the next.
    """

    def __init__(self, session: Session, attach: Attach) -> None:
        super().__init__(session, attach)
        self.delivery_count = attach.initial_delivery_count or 0
        self.window = 0
        self.credit = 0
        self.outstanding = 0
        self.max_message_size = 0
        self.settle_second = False

    def accept(self, *, credit: int, max_message_size: int) -> None:
        """Attach with the termini as the peer asked for them, and grant credit at once."""
        asked = self.attach
        self.max_message_size = max_message_size
        self.settle_second = asked.rcv_settle_mode != RCV_FIRST
        self.session.write(
            Attach(
                name=self.name,
                handle=self.handle,
                role=RECEIVER,
                snd_settle_mode=asked.snd_settle_mode,
                rcv_settle_mode=asked.rcv_settle_mode,
                source=asked.source,
                target=asked.target,
                max_message_size=max_message_size,
            )
        )
        self.is_open = True
        self.window = credit
        self.top_up()

    def refuse(self, error: Error) -> None:
        """Answer with a null target, then detach with `error`."""
        reply = Attach(name=self.name, handle=self.handle, role=RECEIVER, source=self.attach.source)
        self._refuse(reply, error)

    def settle(self, delivery: Incoming, state: object = ACCEPTED) -> None:
        """Tell the peer the outcome of a delivery and make room for another."""
        if not self.is_open:
            return
        self.outstanding -= 1
        if not delivery.settled:
            self.session.settle(delivery.id, state, not self.settle_second)
        self.top_up()

    def tell(self, delivery: Incoming, state: object = ACCEPTED) -> None:
        """Tell the peer the outcome of a delivery that is still being worked on; `finish` makes room."""
        if self.is_open and not delivery.settled:
            self.session.settle(delivery.id, state, not self.settle_second)

    def finish(self) -> None:
        """Make room for another delivery: the work on one whose outcome was told is over."""
        if self.is_open:
            self.outstanding -= 1
            self.top_up()

    def top_up(self) -> None:
        """Grant credit again once half of the window is free."""
        free = self.window - self.outstanding - self.credit
        if free > 0 and (free * 2 >= self.window or self.credit == 0):
            self.credit += free
            self.session.write_flow(self.handle, self.flow)

    def flow(self) -> dict[str, object]:
        """This link's part of a flow frame."""
        return {
            "handle": self.handle,
            "delivery_count": self.delivery_count,
            "link_credit": self.credit,
        }


Link: TypeAlias = SenderLink | ReceiverLink
