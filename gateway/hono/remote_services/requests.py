"""Questions to Hono's services and their answers, over a pair of links for each endpoint and tenant.

A question waits for the links and for credit, at most `timeout` in all; then, and while there is no
connection, its answer is StoreUnavailable; so it is when 1,000 questions of one pair have no answer.
Pairs are kept for the tenants that asked last.
Source: Hono, Tenant, Device Registration, Credentials and Command Router API, common rules.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Final
from uuid import uuid4

from gateway.errors import BadRequest, GatewayError, MalformedPacket, StoreUnavailable
from gateway.hono.remote_services.connection import AWAY, ServiceConnection
from gateway.wire.amqp.link import Incoming, ReceiverLink, SenderLink
from gateway.wire.amqp.message import (
    AmqpMessage,
    Data,
    Properties,
    decode_message,
    encode_message,
    payload_of,
)
from gateway.wire.amqp.performatives import RELEASED, Accepted, Error, Rejected

log = logging.getLogger(__name__)

MAX_WAITING: Final = 1_000
MAX_PAIRS: Final = 3_000
REPLY_CREDIT: Final = 200
MAX_ANSWER: Final = 1_048_576
DEFAULT_AGE: Final = 600.0
LONGEST_AGE: Final = 86_400.0
JSON: Final = "application/json"
_MAX_AGE = re.compile(r"max-age\s*=\s*(\d{1,10})")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a service said.

    Shape:  `body` is JSON for good answers, text or nothing for others.
    Units:  `max_age` in seconds: how long it may be kept, 0 for not at all.
    """

    status: int
    body: bytes = b""
    max_age: float = 0.0

    @property
    def text(self) -> str:
        return self.body[:256].decode(errors="replace")


Told = Callable[[Answer | GatewayError], None]


@dataclass(frozen=True, slots=True)
class Question:
    """One operation with its parameters."""

    subject: str
    properties: Mapping[object, object] | None = None
    body: bytes | None = None


class _Asked:
    """A question without an answer."""

    __slots__ = ("_told", "key", "payload", "sent", "timer")

    def __init__(self, key: str, payload: bytes, told: Told) -> None:
        self.key = key
        self.payload = payload
        self._told: Told | None = told
        self.sent = False
        self.timer: asyncio.TimerHandle | None = None

    def answer(self, answer: Answer | GatewayError) -> None:
        told, self._told = self._told, None
        if told is None:
            return
        if self.timer is not None:
            self.timer.cancel()
        try:
            told(answer)
        except Exception:  # top of a callback: the other questions must hear theirs
            log.exception("an answer of a service was not taken")


class Services:
    """Asks the endpoints behind one connection.

    Units:  `timeout` in seconds.
    """

    def __init__(self, connection: ServiceConnection, *, timeout: float) -> None:
        self.connection = connection
        self._timeout = timeout
        self._pairs: OrderedDict[str, _Pair] = OrderedDict()

    def ask(self, endpoint: str, tenant: str | None, question: Question, told: Told) -> None:
        """Put a question; `told` hears the answer, or why there is none.

        Shape:  `tenant` None where the endpoint has no tenant in its address.
        Errors (through `told`): StoreUnavailable; BadRequest when the service finds the question malformed.
        """
        address = endpoint if tenant is None else f"{endpoint}/{tenant}"
        pair = self._pairs.get(address)
        if pair is None or pair.is_over:
            try:
                pair = self._pairs[address] = _Pair(self.connection, address)
            except GatewayError as error:
                told(error)
                return
            self._make_room()
        self._pairs.move_to_end(address)
        pair.ask(question, self._timeout, told)

    def _make_room(self) -> None:
        while len(self._pairs) > MAX_PAIRS:
            _, pair = self._pairs.popitem(last=False)
            pair.close()


class _Pair:
    """Sender and receiver of one address, until one of them goes."""

    def __init__(self, connection: ServiceConnection, address: str) -> None:
        self._connection = connection
        self._reply_to = f"{address}/{uuid4()}"
        self._numbers = count(1)
        self._waiting: deque[_Asked] = deque()
        self._asked: dict[str, _Asked] = {}
        self.is_over = False
        self._receiver = connection.attach_receiver(
            self._reply_to, self, credit=REPLY_CREDIT, max_message_size=MAX_ANSWER
        )
        try:
            self._sender: SenderLink = connection.attach_sender(address, self)
        except GatewayError:
            connection.detach(self._receiver)
            raise

    def ask(self, question: Question, timeout: float, told: Told) -> None:
        """Queue a question and send what may be sent."""
        if len(self._asked) >= MAX_WAITING:
            told(StoreUnavailable("too many questions wait for the service"))
            return
        key = f"q{next(self._numbers)}"
        asked = self._asked[key] = _Asked(key, self._message(key, question), told)
        asked.timer = asyncio.get_running_loop().call_later(timeout, self._expire, asked)
        self._waiting.append(asked)
        self.sendable()

    def _message(self, key: str, question: Question) -> bytes:
        has_body = question.body is not None
        return encode_message(
            AmqpMessage(
                properties=Properties(
                    message_id=key,
                    correlation_id=key,
                    subject=question.subject,
                    reply_to=self._reply_to,
                    content_type=JSON if has_body else None,
                ),
                application_properties=question.properties,
                body=Data(question.body or b"") if has_body else None,
            )
        )

    def _expire(self, asked: _Asked) -> None:
        self._asked.pop(asked.key, None)
        if asked in self._waiting:
            self._waiting.remove(asked)
        asked.answer(StoreUnavailable("the service gave no answer in time"))

    def close(self) -> None:
        """End both links; what is asked is told so."""
        self._connection.detach(self._sender)
        self._connection.detach(self._receiver)

    # --- the links' owner ---------------------------------------------------------------------------------

    def attached(self) -> None:
        self.sendable()

    def sendable(self) -> None:
        """Send while both links are there and credit is left."""
        sender, waiting = self._sender, self._waiting
        if not self._receiver.is_open:
            return
        while waiting and sender.sendable > 0 and self._connection.is_writable:
            asked = waiting.popleft()
            sender.send(asked.payload, partial(self._taken, asked))
            self._connection.flush_soon()

    def _taken(self, asked: _Asked, state: object) -> None:
        """The service has taken a question, or not."""
        if isinstance(state, Accepted):
            return
        self._asked.pop(asked.key, None)
        if isinstance(state, Rejected):
            why = state.error.description if isinstance(state.error, Error) else None
            asked.answer(BadRequest(why or "the service finds the question malformed"))
        else:
            asked.answer(StoreUnavailable("the service did not take the question"))

    def arrived(self, link: ReceiverLink, delivery: Incoming) -> None:
        try:
            message = decode_message(delivery.payload)
            answer = _answer(message)
        except MalformedPacket as error:
            log.warning("an answer is malformed", extra={"cause": error.message})
            link.settle(delivery, RELEASED)
            return
        link.settle(delivery)
        self._connection.flush_soon()
        asked = self._asked.pop(str(message.properties.correlation_id), None)
        if asked is not None:
            asked.answer(answer)

    def detached(self, error: Error | None) -> None:
        if self.is_over:
            return
        self.is_over = True
        self.close()
        why = StoreUnavailable(AWAY if error is None else f"{error.condition}: {error.description}")
        asked, self._asked = self._asked, {}
        self._waiting.clear()
        for one in asked.values():
            one.answer(why)


def _answer(message: AmqpMessage) -> Answer:
    properties = message.application_properties or {}
    status = properties.get("status")
    if isinstance(status, bool) or not isinstance(status, int):
        raise MalformedPacket("answer: expected an integer as application property status")
    return Answer(int(status), payload_of(message) or b"", _age(properties.get("cache_control")))


def _age(directive: object) -> float:
    """Return for how many seconds an answer may be kept."""
    if not isinstance(directive, str):
        return DEFAULT_AGE if directive is None else 0.0
    found = _MAX_AGE.search(directive)
    return min(float(found[1]), LONGEST_AGE) if found else 0.0
