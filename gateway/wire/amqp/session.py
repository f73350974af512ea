"""An AMQP 1.0 session: windows, transfers cut into frames and put together, dispositions as ranges.

A session belongs to a connection and is begun by the peer. Our channel and handle numbers are the peer's own,
so that each pair of numbers has one meaning. Frames that the peer's window has no room for wait in a backlog,
which is bounded by link credit; dispositions and flows are collected and written once per flush.
Source: OASIS AMQP 1.0, part 2, sections 2.5 and 2.6.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from gateway.errors import MalformedPacket
from gateway.wire.amqp.encode import encode_uint
from gateway.wire.amqp.events import (
    Disposed,
    Event,
    LinkDetached,
    LinkRequested,
    MessageArrived,
    SendPossible,
)
from gateway.wire.amqp.link import BaseLink, Incoming, Partial, ReceiverLink, SenderLink, Sent
from gateway.wire.amqp.performatives import (
    MAX_UINT,
    OUTCOMES,
    RECEIVER,
    SENDER,
    Attach,
    Begin,
    Detach,
    Disposition,
    Error,
    Flow,
    Received,
    Transfer,
)
from gateway.wire.amqp.values import Described

if TYPE_CHECKING:
    from gateway.wire.amqp.connection import Connection

_HALF: Final = 0x8000_0000
_TRANSFER = struct.Struct(">I4s4sBB")
"""A transfer frame up to its fields: size, head of the frame, head of the list, its width, their number."""
_LIST8: Final = b"\x00\x53\x14\xc0"
_ID = struct.Struct(">I")
_MULTI_OVERHEAD: Final = 64
"""Bytes of a frame that a transfer's own fields may take."""


class SessionFault(Exception):
    """The peer broke a rule of the session; it ends with this error."""

    def __init__(self, condition: str, description: str) -> None:
        super().__init__(description)
        self.error = Error(condition, description)


class Session:
    """One session; made by its connection when the peer begins it."""

    def __init__(self, connection: Connection, channel: int, begin: Begin) -> None:
        limits = connection.limits
        self.channel = channel
        self.links: dict[int, SenderLink | ReceiverLink] = {}
        self._connection = connection
        self.ended = False
        self._leaving: set[int] = set()
        self._window = limits.incoming_window
        self._incoming_window = limits.incoming_window
        self._next_incoming = begin.next_outgoing_id
        self._next_outgoing = 0
        self.remote_window = begin.incoming_window
        """Frames that the peer takes."""
        self._next_delivery = 0
        self._unsettled: dict[int, Sent] = {}
        self._incoming: dict[int, BaseLink] = {}
        self._partials: dict[int, Partial] = {}
        self._last_delivery: int | None = None
        self.backlog: deque[tuple[SenderLink, bytes]] = deque()
        """Frames that its window has no room for."""
        self._to_settle: list[tuple[int, object, bool, bool]] = []
        self._flows: dict[int | None, Callable[[], dict[str, object]]] = {}
        self._head = struct.pack(">BBH", 2, 0, channel)
        self._heads: dict[int, bytes] = {}
        self.introduce()

    def introduce(self) -> None:
        """Answer the peer's begin."""
        limits = self._connection.limits
        self.write(
            Begin(
                remote_channel=self.channel,
                next_outgoing_id=0,
                incoming_window=limits.incoming_window,
                outgoing_window=MAX_UINT,
                handle_max=limits.handle_max,
            )
        )

    # --- out ---------------------------------------------------------------------------------------

    @property
    def send_window(self) -> int:
        """Frames that the peer takes now; 0 while some still wait."""
        return 0 if self.backlog else self.remote_window

    def write(self, performative: object) -> None:
        """Queue a frame on this session's channel."""
        self._connection.write(self.channel, performative)

    def write_flow(self, handle: int, part: Callable[[], dict[str, object]]) -> None:
        """Queue a flow with a link's part, made when it is flushed."""
        self._flows[handle] = part
        self._connection.needs_flush(self)

    def send(self, link: SenderLink, payload: bytes, context: object) -> Sent | None:
        """Queue one message on `link`; see `SenderLink.send`."""
        delivery_id = self._next_delivery
        self._next_delivery = (delivery_id + 1) & MAX_UINT
        link.credit -= 1
        link.delivery_count = (link.delivery_count + 1) & MAX_UINT
        raw_id = _ID.pack(delivery_id)
        fields = (
            self._heads.get(link.handle) or self._learn_head(link.handle),
            raw_id,
            b"\xa0\x04",
            raw_id,
            b"\x43\x41" if link.presettled else b"\x43\x42",
        )
        room = self._connection.remote_max_frame - _MULTI_OVERHEAD
        if len(payload) <= room:
            self._send_frame(link, b"".join(fields), 5, payload)
        else:
            self._send_parts(link, b"".join(fields), payload, room)
        if link.presettled:
            return None
        sent = self._unsettled[delivery_id] = Sent(link, delivery_id, context)
        link.unsettled += 1
        return sent

    def _learn_head(self, handle: int) -> bytes:
        """Return a transfer's first field, and the format code of the second, kept per link."""
        head = self._heads[handle] = encode_uint(handle) + b"\x70"
        return head

    def _send_frame(self, link: SenderLink, fields: bytes, count: int, payload: bytes) -> None:
        width = len(fields)
        head = _TRANSFER.pack(
            _TRANSFER.size + width + len(payload), self._head, _LIST8, width + 1, count
        )
        frame = b"".join((head, fields, payload))
        if self.backlog or self.remote_window <= 0:
            self.backlog.append((link, frame))
        else:
            self._next_outgoing = (self._next_outgoing + 1) & MAX_UINT
            self.remote_window -= 1
            self._connection.out.append(frame)

    def _send_parts(self, link: SenderLink, fields: bytes, payload: bytes, room: int) -> None:
        for at in range(0, len(payload), room):
            more = b"\x41" if at + room < len(payload) else b"\x42"
            self._send_frame(link, fields + more, 6, payload[at : at + room])

    def settle(self, delivery_id: int, state: object, settled: bool) -> None:
        """Queue the outcome of a delivery that came in."""
        if settled:
            self._incoming.pop(delivery_id, None)
        self._to_settle.append((delivery_id, state, settled, RECEIVER))
        self._connection.needs_flush(self)

    def withdraw(self, sent: Sent, state: object) -> None:
        """Settle a delivery that went out without waiting for its outcome."""
        if self._unsettled.pop(sent.id, None) is not None:
            sent.link.unsettled -= 1
            self._to_settle.append((sent.id, state, True, SENDER))
            self._connection.needs_flush(self)

    def flush(self) -> None:
        """Write the dispositions and flows that were collected."""
        pending, self._to_settle = self._to_settle, []
        at = 0
        while at < len(pending):
            at = self._write_range(pending, at)
        flows, self._flows = self._flows, {}
        for handle, part in flows.items():
            if handle is None or (handle in self.links and handle not in self._leaving):
                self._write_flow(part())

    def _write_range(self, pending: list[tuple[int, object, bool, bool]], at: int) -> int:
        first, state, settled, role = pending[at]
        last = first
        at += 1
        while at < len(pending) and pending[at] == (last + 1, state, settled, role):
            last += 1
            at += 1
        self.write(
            Disposition(
                role=role,
                first=first,
                last=None if last == first else last,
                settled=settled,
                state=state,
            )
        )
        return at

    def _write_flow(self, part: dict[str, object]) -> None:
        self.write(
            Flow(
                next_incoming_id=self._next_incoming,
                incoming_window=self._incoming_window,
                next_outgoing_id=self._next_outgoing,
                outgoing_window=MAX_UINT,
                **part,  # type: ignore[arg-type]
            )
        )

    def detach(self, link: BaseLink, error: Error | None, *, closed: bool = True) -> LinkDetached:
        """End a link from our side; its state is gone, whether it is `closed` for good or not."""
        if self.links.get(link.handle) is link and link.handle not in self._leaving:
            self.write(Detach(handle=link.handle, closed=closed, error=error))
            return self.forget(link, wait_for_peer=True, error=error)
        return LinkDetached(link, error, ())  # type: ignore[arg-type]

    def forget(
        self, link: BaseLink, *, wait_for_peer: bool, error: Error | None = None
    ) -> LinkDetached:
        """Drop a link's state; its handle stays taken until the peer detached too."""
        link.is_open, link.is_gone = False, True
        self._partials.pop(link.handle, None)
        if any(owner is link for owner, _ in self.backlog):
            self.backlog = deque(item for item in self.backlog if item[0] is not link)
        lost = tuple(sent for sent in self._unsettled.values() if sent.link is link)
        for sent in lost:
            del self._unsettled[sent.id]
        if isinstance(link, ReceiverLink):
            self._incoming = {at: of for at, of in self._incoming.items() if of is not link}
        if wait_for_peer:
            self._leaving.add(link.handle)
        else:
            self.links.pop(link.handle, None)
            self._leaving.discard(link.handle)
        return LinkDetached(link, error, lost)  # type: ignore[arg-type]

    def lose_links(self, error: Error | None) -> list[Event]:
        """Forget every link that is open: the session is gone."""
        gone = [link for link in self.links.values() if link.handle not in self._leaving]
        events: list[Event] = [self.forget(link, wait_for_peer=False, error=error) for link in gone]
        self.links.clear()
        return events

    # --- in ----------------------------------------------------------------------------------------

    def on_frame(self, performative: object, payload: bytes, events: list[Event]) -> None:
        """Take one frame of this channel.

        Errors: SessionFault ends the session; MalformedPacket the connection.
        """
        handler = _HANDLERS.get(type(performative))
        if handler is None:
            raise MalformedPacket(
                f"amqp: {type(performative).__name__.lower()} frame is not expected here",
                code="amqp:not-allowed",
            )
        handler(self, performative, payload, events)

    def _on_attach(self, attach: Attach, _payload: bytes, events: list[Event]) -> None:
        if attach.handle > self._connection.limits.handle_max:
            raise MalformedPacket(
                f"amqp attach: handle {attach.handle} is over {self._connection.limits.handle_max}",
                code="amqp:framing-error",
            )
        if attach.handle in self.links:
            raise SessionFault("amqp:session:handle-in-use", f"handle {attach.handle} is in use")
        kind = SenderLink if attach.role is RECEIVER else ReceiverLink
        link = self.links[attach.handle] = kind(self, attach)
        events.append(LinkRequested(link))

    def _on_flow(self, flow: Flow, _payload: bytes, events: list[Event]) -> None:
        was_blocked = self.send_window == 0
        next_incoming = 0 if flow.next_incoming_id is None else flow.next_incoming_id
        window = (next_incoming + flow.incoming_window - self._next_outgoing) & MAX_UINT
        self.remote_window = window if window < _HALF else 0
        self._send_backlog()
        link = None if flow.handle is None else self._link(flow.handle)
        if isinstance(link, SenderLink):
            link.on_flow(flow)
        if was_blocked and self.send_window:
            events += [SendPossible(sender) for sender in self._senders() if sender.credit]
        elif isinstance(link, SenderLink) and link.credit:
            events.append(SendPossible(link))
        if flow.echo and (link is not None or flow.handle is None):
            self._flows[flow.handle] = dict if link is None else link.flow
        self._connection.needs_flush(self)

    def _senders(self) -> list[SenderLink]:
        return [link for link in self.links.values() if isinstance(link, SenderLink)]

    def _send_backlog(self) -> None:
        while self.backlog and self.remote_window > 0:
            self._next_outgoing = (self._next_outgoing + 1) & MAX_UINT
            self.remote_window -= 1
            self._connection.out.append(self.backlog.popleft()[1])

    def take_whole(
        self,
        handle: int,
        delivery_id: int,
        tag: bytes,
        settled: bool,
        payload: bytes,
        events: list[Event],
    ) -> bool:
        """Take a message that came in one frame; False where something is unusual, and nothing is changed."""
        link = self.links.get(handle)
        if (
            type(link) is not ReceiverLink
            or self.ended
            or link.credit <= 0
            or not link.is_open
            or handle in self._partials
            or delivery_id in self._incoming
            or self._incoming_window <= 0
            or len(payload) > link.max_message_size > 0
        ):
            return False
        self._count_in()
        link.credit -= 1
        link.outstanding += 1
        link.delivery_count = (link.delivery_count + 1) & MAX_UINT
        if not settled:
            self._incoming[delivery_id] = link
        events.append(MessageArrived(link, Incoming(delivery_id, tag, payload, settled, 0)))
        return True

    def _on_transfer(self, transfer: Transfer, payload: bytes, events: list[Event]) -> None:
        self._count_in()
        link = self._link(transfer.handle)
        if link is None:
            return
        if not isinstance(link, ReceiverLink):
            raise SessionFault("amqp:not-allowed", "transfer on a link that you receive on")
        partial = self._partials.get(link.handle)
        if partial is None:
            partial = self._begin_delivery(link, transfer, events)
            if partial is None:
                return
        if transfer.aborted:
            self._abort(link)
            return
        partial.settled = partial.settled or bool(transfer.settled)
        partial.size += len(payload)
        partial.parts.append(payload)
        if partial.size > link.max_message_size > 0:
            text = f"message of more than {link.max_message_size} bytes"
            error = Error("amqp:link:message-size-exceeded", text)
            events.append(
                self.detach(link, error, closed=False)
            )  # as Hono: the device may attach again
        elif not transfer.more:
            self._finish_delivery(link, partial, events)

    def _count_in(self) -> None:
        if self._incoming_window <= 0:
            raise SessionFault(
                "amqp:session:window-violation", "more frames than the window allows"
            )
        self._next_incoming = (self._next_incoming + 1) & MAX_UINT
        self._incoming_window -= 1
        if self._incoming_window * 2 <= self._window:
            self._incoming_window = self._window
            if not self._flows:
                self._flows[None] = dict
            self._connection.needs_flush(self)

    def _begin_delivery(
        self, link: ReceiverLink, transfer: Transfer, events: list[Event]
    ) -> Partial | None:
        if transfer.delivery_id is None:
            raise SessionFault(
                "amqp:invalid-field", "first transfer of a delivery without delivery-id"
            )
        if transfer.delivery_id in self._incoming:
            raise SessionFault(
                "amqp:invalid-field", f"delivery-id {transfer.delivery_id} is in use"
            )
        if not link.is_open or link.credit <= 0:
            error = Error("amqp:link:transfer-limit-exceeded", "transfer without link credit")
            events.append(self.detach(link, error))
            return None
        link.credit -= 1
        link.outstanding += 1
        link.delivery_count = (link.delivery_count + 1) & MAX_UINT
        partial = self._partials[link.handle] = Partial(transfer)
        return partial

    def _abort(self, link: ReceiverLink) -> None:
        del self._partials[link.handle]
        link.outstanding -= 1
        link.top_up()

    def _finish_delivery(self, link: ReceiverLink, partial: Partial, events: list[Event]) -> None:
        del self._partials[link.handle]
        payload = partial.parts[0] if len(partial.parts) == 1 else b"".join(partial.parts)
        if not partial.settled:
            self._incoming[partial.id] = link
        delivery = Incoming(partial.id, partial.tag, payload, partial.settled, partial.format)
        events.append(MessageArrived(link, delivery))

    def _on_disposition(
        self, disposition: Disposition, _payload: bytes, events: list[Event]
    ) -> None:
        first = disposition.first
        last = first if disposition.last is None else disposition.last
        if disposition.role is SENDER:
            if disposition.settled:
                self._forget_incoming(first, last)
            return
        if type(disposition.state) is Received and not disposition.settled:
            return
        if disposition.state is None and not disposition.settled:
            return
        deliveries = self._take_unsettled(first, last)
        if not deliveries:
            return
        if not disposition.settled:
            self._settle_back(deliveries, disposition.state)
        known = isinstance(disposition.state, (*OUTCOMES, Described))
        events.append(Disposed(deliveries, disposition.state if known else None))

    def _settle_back(self, deliveries: list[Sent], state: object) -> None:
        for sent in deliveries:
            self._to_settle.append((sent.id, state, True, SENDER))
        self._connection.needs_flush(self)

    def _take_unsettled(self, first: int, last: int) -> list[Sent]:
        unsettled = self._unsettled
        if first == last:
            sent = unsettled.pop(first, None)
            taken = [] if sent is None else [sent]
        elif ((last - first) & MAX_UINT) < len(unsettled):
            found = (
                unsettled.pop((first + step) & MAX_UINT, None)
                for step in range(((last - first) & MAX_UINT) + 1)
            )
            taken = [sent for sent in found if sent is not None]
        else:
            taken = [sent for sent in unsettled.values() if _in_range(sent.id, first, last)]
            for sent in taken:
                del unsettled[sent.id]
        for sent in taken:
            sent.link.unsettled -= 1
        return taken

    def _forget_incoming(self, first: int, last: int) -> None:
        for item in [item for item in self._incoming if _in_range(item, first, last)]:
            del self._incoming[item]

    def _on_detach(self, detach: Detach, _payload: bytes, events: list[Event]) -> None:
        link = self.links.get(detach.handle)
        if link is None:
            raise SessionFault(
                "amqp:session:unattached-handle", f"handle {detach.handle} is not attached"
            )
        if detach.handle in self._leaving:
            self.forget(link, wait_for_peer=False)
            return
        error = detach.error if isinstance(detach.error, Error) else None
        events.append(self.forget(link, wait_for_peer=False, error=error))
        self.write(Detach(handle=detach.handle, closed=detach.closed))

    def _link(self, handle: int) -> SenderLink | ReceiverLink | None:
        """Return the link; None for one that we have detached and the peer not yet."""
        link = self.links.get(handle)
        if link is None:
            raise SessionFault("amqp:session:unattached-handle", f"handle {handle} is not attached")
        return None if handle in self._leaving else link


def _in_range(item: int, first: int, last: int) -> bool:
    """True when `item` lies in first..last, in serial number arithmetic."""
    return ((item - first) & MAX_UINT) <= ((last - first) & MAX_UINT) < _HALF


_HANDLERS: Final[dict[type, Callable[..., None]]] = {
    Attach: Session._on_attach,
    Flow: Session._on_flow,
    Transfer: Session._on_transfer,
    Disposition: Session._on_disposition,
    Detach: Session._on_detach,
}
