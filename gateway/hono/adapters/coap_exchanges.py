"""CoAP's conversations: duplicates, acknowledgements, responses sent apart, transfer in blocks.

    datagram -> message -> known? -> room? -> options understood? -> blocks -> the adapter's `handle`

A request is answered in its acknowledgement when the answer comes in time; else the acknowledgement goes out
empty and the answer follows in a message of its own, repeated until the peer acknowledges that. What was
answered is remembered, so that a datagram that comes twice has one effect and two equal answers.
Full: 5.03 with Max-Age. Remembered answers over their limit: the oldest is forgotten. To peers whose address
is not proved, no datagram has a body of more than three times what they sent (or 64 bytes).
Source: RFC 7252, 4 (messages), 5.2.2 (separate responses), 11.3 (amplification); RFC 7959.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import Protocol, TypeAlias

from gateway.errors import BadRequest, GatewayError, MalformedPacket, NotBuilt
from gateway.hono.adapters.coap_blocks import LIFETIME, BodyTooLarge, Download, Downloads, Uploads
from gateway.hono.adapters.coap_messages import CONTINUE, OVERLOADED, Response, error_response
from gateway.model.message import Principal
from gateway.wire.coap import codec, options
from gateway.wire.coap.codec import ACK, CON, NON, RST, Message, Option
from gateway.wire.coap.options import BLOCK1, BLOCK2, Block

EXCHANGE_LIFETIME = 247.0
"""Seconds in which a peer may repeat a message."""
ACK_TIMEOUT = 2.0
ACK_RANDOM_FACTOR = 1.5
MAX_RETRANSMIT = 4
MAX_OF_PEER = 100
"""Requests of one peer that wait for their answers."""
UNPROVED_FACTOR = 3
SMALLEST_BLOCK = 2
"""Exponent of 64 bytes, which even an unproved peer may get."""

Written: TypeAlias = Callable[[bool], None]
"""Told whether the peer got an answer: as far as the protocol says."""
Key: TypeAlias = tuple[Hashable, int]


class Peer(Protocol):
    """Whom a datagram came from."""

    @property
    def key(self) -> Hashable:
        """Equal for datagrams of one peer."""

    @property
    def principal(self) -> Principal | None:
        """The device that it has proved to be."""

    @property
    def is_proved(self) -> bool:
        """True where it has answered something that was sent to its address."""

    def send(self, datagram: bytes) -> None:
        """Send a datagram; it may be lost."""


class Counter(Protocol):
    """Counts datagrams by what became of them."""

    def __call__(self, outcome: str) -> None: ...


class Exchange:
    """One request and its answer.

    Shape:  `request` is whole, with the body of all its blocks; `on_gone` is called when the peer resets.
    """

    __slots__ = (
        "_ack_timer",
        "_is_acked",
        "_table",
        "block1",
        "block2",
        "is_over",
        "key",
        "on_gone",
        "peer",
        "request",
        "size",
        "wants_time",
    )

    def __init__(self, table: Exchanges, peer: Peer, request: Message, size: int) -> None:
        self._table = table
        self.peer = peer
        self.request = request
        self.size = size
        self.key: Key = (peer.key, request.mid)
        self.block1: Block | None = None
        self.block2: Block | None = None
        self.is_over = False
        self.wants_time = False
        self.on_gone: Callable[[], None] | None = None
        self._ack_timer: asyncio.TimerHandle | None = None
        self._is_acked = False

    @property
    def is_confirmable(self) -> bool:
        return self.request.type == CON

    def acknowledge_in(self, seconds: float) -> None:
        """Send an empty acknowledgement when there is no answer by then; never below zero, at once for 0."""
        if self.is_over or self._is_acked or self.request.type != CON or seconds < 0:
            return
        self._stop_timer()
        if seconds == 0:
            self.acknowledge()
        else:
            self._ack_timer = asyncio.get_running_loop().call_later(seconds, self.acknowledge)

    def acknowledge(self) -> None:
        """Tell the peer that its request is here and the answer comes later."""
        self._is_acked = True
        self.peer.send(codec.empty(ACK, self.request.mid))

    def repeat(self) -> None:
        """Answer a duplicate that came before the answer."""
        if self._is_acked:
            self.peer.send(codec.empty(ACK, self.request.mid))

    def respond(self, response: Response, written: Written | None = None) -> None:
        """Answer, once."""
        if self.is_over:
            return
        self.close()
        self._table.answer(self, response, written)

    def close(self) -> None:
        """End without an answer."""
        self.is_over = True
        self._stop_timer()

    def _stop_timer(self) -> None:
        if self._ack_timer is not None:
            self._ack_timer.cancel()
            self._ack_timer = None

    @property
    def is_acked(self) -> bool:
        return self._is_acked


class _Sent:
    """A message of ours that the peer has to acknowledge."""

    __slots__ = ("attempt", "datagram", "key", "peer", "timer", "wait", "written")

    def __init__(self, key: Key, peer: Peer, datagram: bytes, written: Written | None) -> None:
        self.key = key
        self.peer = peer
        self.datagram = datagram
        self.written = written
        self.attempt = 0
        self.wait = ACK_TIMEOUT * random.uniform(1.0, ACK_RANDOM_FACTOR)  # noqa: S311  jitter
        self.timer: asyncio.TimerHandle | None = None


class Exchanges:
    """All conversations of an adapter.

    Shape:  `handle` takes whole requests; `max_body` bytes in a request; `count` tells what became of
            datagrams. Seconds from `clock`.
    """

    def __init__(
        self,
        handle: Callable[[Exchange], None],
        count: Counter,
        *,
        max_body: int,
        max_requests: int,
        max_remembered: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._handle = handle
        self._count = count
        self._max_body = max_body
        self._max_requests = max_requests
        self._max_remembered = max(max_remembered, max_requests + 1)
        self._clock = clock
        self._recent: dict[Key, Exchange | bytes] = {}
        self._order: deque[tuple[float, Key]] = deque()
        self._open: dict[Hashable, set[Exchange]] = {}
        self._opened = 0
        self._sent: dict[Key, _Sent] = {}
        self._mid = random.randrange(65_536)  # noqa: S311  only to differ from the run before
        self.uploads = Uploads(max_body)
        self.downloads = Downloads()

    @property
    def load(self) -> int:
        """Requests without an answer, and answers that are not acknowledged."""
        return self._opened + len(self._sent)

    @property
    def remembered(self) -> int:
        return len(self._order)

    # --- what comes in ------------------------------------------------------------------------------

    def received(self, peer: Peer, data: bytes) -> None:
        """Work on one datagram."""
        if not codec.is_coap(data):
            self._count("ignored")
            return
        try:
            message = codec.decode(data)
        except MalformedPacket:
            self._malformed(peer, data)
            return
        if message.is_request and message.type in (CON, NON):
            self._request(peer, message, len(data))
        elif message.type in (ACK, RST):
            self._answered(peer, message)
        else:
            self._strange(peer, message)

    def _malformed(self, peer: Peer, data: bytes) -> None:
        self._count("malformed")
        kind, mid = codec.type_and_mid(data)
        if kind == CON:
            peer.send(codec.empty(RST, mid))

    def _strange(self, peer: Peer, message: Message) -> None:
        """A ping, or a response to what was never asked."""
        self._count("ignored")
        if message.type == CON:
            peer.send(codec.empty(RST, message.mid))

    def _request(self, peer: Peer, message: Message, size: int) -> None:
        now = self._clock()
        self._forget(now)
        key = (peer.key, message.mid)
        known = self._recent.get(key)
        if known is not None:
            self._duplicate(peer, message, known)
            return
        if self.load >= self._max_requests or len(self._open.get(peer.key, ())) >= MAX_OF_PEER:
            self._count("refused")
            self._send_once(peer, message, OVERLOADED)
            return
        self._count("request")
        exchange = Exchange(self, peer, message, size)
        self._recent[key] = exchange
        self._order.append((now + EXCHANGE_LIFETIME, key))
        self._open.setdefault(peer.key, set()).add(exchange)
        self._opened += 1
        try:
            if self._is_whole(exchange, now):
                self._handle(exchange)
        except GatewayError as error:
            exchange.respond(_refusal(error))

    def _duplicate(self, peer: Peer, message: Message, known: Exchange | bytes) -> None:
        self._count("duplicate")
        if message.type != CON:
            return
        if isinstance(known, Exchange):
            known.repeat()
        elif known:
            peer.send(known)

    def _forget(self, now: float) -> None:
        """Drop what is too old to be repeated, and of the rest what is too much; open ones stay."""
        order = self._order
        while order and (order[0][0] <= now or len(order) > self._max_remembered):
            _, key = order.popleft()
            known = self._recent[key]
            if isinstance(known, Exchange):
                order.append((now + EXCHANGE_LIFETIME, key))
            else:
                del self._recent[key]

    def sweep(self) -> None:
        """Drop what is too old, while nothing comes in."""
        now = self._clock()
        self._forget(now)
        self.uploads.forget(now)
        self.downloads.forget(now)

    # --- blocks -------------------------------------------------------------------------------------

    def _is_whole(self, exchange: Exchange, now: float) -> bool:
        """Check options and put blocks together; False when there is nothing to hand on."""
        request = exchange.request
        if not _check_critical(request):
            exchange.close()
            self._closed(exchange, b"")
            return False
        exchange.block2 = block2 = _block(request, BLOCK2)
        block1 = _block(request, BLOCK1)
        if block2 is not None and block2.number > 0:
            self._hand_out(exchange, block2, now)
            return False
        if block1 is None:
            if len(request.payload) > self._max_body:
                raise BodyTooLarge(self._max_body)
            return True
        exchange.block1 = block1
        body = self.uploads.take(exchange.peer.key, request, block1, now)
        if body is None:
            exchange.respond(CONTINUE)
            return False
        exchange.request = _with_body(request, body)
        return True

    def _hand_out(self, exchange: Exchange, block: Block, now: float) -> None:
        found = self.downloads.find(exchange.peer.key, exchange.request, now)
        option, payload = found.part(block)
        exchange.respond(Response(found.code, (*found.options, option), payload))

    def _in_blocks(self, exchange: Exchange, response: Response) -> Response:
        """Return what of a response goes out now; the rest is kept."""
        exponent = _exponent(exchange)
        if len(response.payload) <= 16 << exponent or _has_block(response):
            return response
        mark = (options.ETAG, self._next_mid().to_bytes(2, "big"))
        download = Download(
            response.code,
            (*response.options, mark),
            response.payload,
            exponent,
            self._clock() + LIFETIME,
        )
        self.downloads.keep(exchange.peer.key, exchange.request, download)
        option, payload = download.part(Block(0, True, exponent))
        return Response(download.code, (*download.options, option), payload)

    # --- what goes out ------------------------------------------------------------------------------

    def answer(self, exchange: Exchange, response: Response, written: Written | None) -> None:
        """Send the answer of an exchange that has just ended."""
        if exchange.block1 is not None:
            told = exchange.block1._replace(more=response.code == CONTINUE.code)
            response = response.with_option(BLOCK1, told.encode())
        response = self._in_blocks(exchange, response)
        request, peer = exchange.request, exchange.peer
        if request.type == NON:
            peer.send(_datagram(NON, self._next_mid(), request, response))
            self._closed(exchange, b"")
        elif not exchange.is_acked:
            datagram = _datagram(ACK, request.mid, request, response)
            peer.send(datagram)
            self._closed(exchange, datagram)
        else:
            self._closed(exchange, codec.empty(ACK, request.mid))
            self._send_apart(exchange, response, written)
            return
        if written is not None:
            written(True)

    def _closed(self, exchange: Exchange, remembered: bytes) -> None:
        if self._recent.get(exchange.key) is exchange:
            self._recent[exchange.key] = remembered
        mine = self._open.get(exchange.peer.key)
        if mine is not None and exchange in mine:
            mine.discard(exchange)
            self._opened -= 1
            if not mine:
                del self._open[exchange.peer.key]

    def _send_once(self, peer: Peer, request: Message, response: Response) -> None:
        kind = ACK if request.type == CON else NON
        mid = request.mid if kind == ACK else self._next_mid()
        peer.send(_datagram(kind, mid, request, response))

    def _send_apart(self, exchange: Exchange, response: Response, written: Written | None) -> None:
        mid = self._next_mid()
        datagram = _datagram(CON, mid, exchange.request, response)
        sent = _Sent((exchange.peer.key, mid), exchange.peer, datagram, written)
        self._sent[sent.key] = sent
        self._transmit(sent)

    def _transmit(self, sent: _Sent) -> None:
        if sent.attempt > MAX_RETRANSMIT:
            self._count("unacknowledged")
            self._ended(sent, False)
            return
        sent.attempt += 1
        sent.timer = asyncio.get_running_loop().call_later(sent.wait, self._transmit, sent)
        sent.wait *= 2
        sent.peer.send(sent.datagram)

    def _answered(self, peer: Peer, message: Message) -> None:
        sent = self._sent.get((peer.key, message.mid))
        self._count("acknowledgement" if message.type == ACK else "reset")
        if sent is not None:
            self._ended(sent, message.type == ACK)

    def _ended(self, sent: _Sent, is_acknowledged: bool) -> None:
        del self._sent[sent.key]
        if sent.timer is not None:
            sent.timer.cancel()
        if sent.written is not None:
            sent.written(is_acknowledged)

    def _next_mid(self) -> int:
        self._mid = (self._mid + 1) & 0xFFFF
        return self._mid

    # --- ends ---------------------------------------------------------------------------------------

    def gone(self, key: Hashable) -> None:
        """End all conversations of a peer that is not there any more."""
        for exchange in tuple(self._open.get(key, ())):
            exchange.close()
            self._closed(exchange, b"")
            if exchange.on_gone is not None:
                exchange.on_gone()
        for sent in [s for s in self._sent.values() if s.peer.key == key]:
            self._ended(sent, False)

    def close(self) -> None:
        """End all conversations."""
        for key in (*self._open, *{s.peer.key for s in self._sent.values()}):
            self.gone(key)


# --- messages --------------------------------------------------------------------------------------


def _refusal(error: GatewayError) -> Response:
    response = error_response(error)
    if isinstance(error, BodyTooLarge):
        return response.with_option(options.SIZE1, options.uint_bytes(error.limit))
    return response


def _check_critical(request: Message) -> bool:
    """Refuse what is not understood but must be; False for what is to be dropped in silence.

    Errors: BadRequest (4.02); NotBuilt (5.05) for a proxy's work.
    """
    for number, _ in request.options:
        if number & 1 and number not in options.CRITICAL:
            if request.type == NON:
                return False
            raise BadRequest(f"option {number} is critical and not understood", status=402)
        if number in (options.PROXY_URI, options.PROXY_SCHEME):
            raise NotBuilt("no proxy", status=505)
    return True


def _block(request: Message, number: int) -> Block | None:
    value = request.first(number)
    return None if value is None else options.block(value)


def _with_body(request: Message, body: bytes) -> Message:
    return Message(
        type=request.type,
        code=request.code,
        mid=request.mid,
        token=request.token,
        options=request.options,
        payload=body,
    )


def _has_block(response: Response) -> bool:
    return any(number == BLOCK2 for number, _ in response.options)


def _exponent(exchange: Exchange) -> int:
    """Return the size of blocks for an answer: what the peer wants, as far as it may have it."""
    wanted = exchange.block2
    exponent = options.MAX_SIZE_EXPONENT if wanted is None else wanted.exponent
    if not exchange.peer.is_proved:
        allowed = UNPROVED_FACTOR * exchange.size
        while exponent > SMALLEST_BLOCK and 16 << exponent > allowed:
            exponent -= 1
    return exponent


def _datagram(kind: int, mid: int, request: Message, response: Response) -> bytes:
    return codec.encode(
        Message(
            type=kind,
            code=response.code,
            mid=mid,
            token=request.token,
            options=_sorted(response.options),
            payload=response.payload,
        )
    )


def _sorted(found: tuple[Option, ...]) -> tuple[Option, ...]:
    return found if len(found) < 2 else tuple(sorted(found, key=lambda option: option[0]))
