"""A foreign AMQP 1.0 peer: python-qpid-proton's reactor in a thread, with copies of what it received."""

from __future__ import annotations

import asyncio
import functools
import os
import socket
import threading
from collections.abc import Callable
from queue import Empty, Queue
from typing import Any

from proton import Delivery, Message, _reactor
from proton.handlers import MessagingHandler
from proton.reactor import ApplicationEvent, Container, EventInjector

_reactor.SSLConfig = functools.cache(_reactor.SSLConfig)  # type: ignore[assignment, misc]
"""Each container makes two TLS domains, which takes longer than most tests; here all share theirs."""


async def until(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Wait until `condition()` is true and return what it returned."""
    async with asyncio.timeout(seconds):
        while not (result := condition()):  # noqa: ASYNC110  the peer runs in threads
            await asyncio.sleep(0.005)
    return result


def copied(value: Any) -> Any:
    """Copy what may be a view into C memory that dies with its message."""
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, dict):
        return {copied(key): copied(item) for key, item in value.items()}
    if isinstance(value, list):
        return [copied(item) for item in value]
    return value


def word(symbol: str | None) -> str | None:
    """A symbol as text; proton makes the text `None` of one that is not there."""
    return None if symbol in (None, "", "None") else str(symbol)


class Received:
    """A message with everything copied out of proton's memory."""

    def __init__(self, message: Message) -> None:
        self.address = message.address
        self.id = copied(message.id)
        self.subject = message.subject
        self.reply_to = message.reply_to
        self.correlation_id = copied(message.correlation_id)
        self.content_type = word(message.content_type)
        self.content_encoding = word(message.content_encoding)
        self.creation_time = message.creation_time
        self.durable = message.durable
        self.ttl = message.ttl
        self.delivery_count = message.delivery_count
        self.properties = copied(message.properties) or {}
        self.annotations = {str(k): copied(v) for k, v in (message.annotations or {}).items()}
        self.body = copied(message.body)


class Peer(MessagingHandler):
    """One connection that does in its own thread what the test asks for.

    `log` gets ("opened",), ("attached", name), ("message", name, Received), ("outcome", tag, state,
    condition, description), ("detached", name, condition), ("link-error", name, condition, description),
    ("closed", condition), ("failed", condition, description).
    """

    def __init__(
        self, url: str, *, prefetch: int = 10, accept: bool = True, **options: Any
    ) -> None:
        super().__init__(prefetch=prefetch, auto_accept=False, peer_close_is_error=False)
        self.url = url
        self.options = options
        self.accepts = accept
        self.answer: Callable[[Received, Delivery], None] | None = None
        self.log: Queue[tuple[Any, ...]] = Queue()
        self.unsettled: list[Delivery] = []
        self._injector = EventInjector()
        self._container = Container(self)
        self._container.selectable(self._injector)
        self._connection: Any = None
        self._thread = threading.Thread(target=self._container.run, daemon=True)

    async def __aenter__(self) -> Peer:
        self._thread.start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self.do(self._stop)
        await asyncio.to_thread(self._thread.join, 10)
        assert not self._thread.is_alive(), "proton peer does not end"
        for end in self._injector.pipe:
            os.close(end)

    def _stop(self) -> None:
        self._connection.close()
        self._injector.close()

    def kill(self) -> None:
        """End the socket without a word."""

        def work() -> None:
            descriptor = os.dup(self._connection.transport._selectable.fileno())
            with socket.socket(fileno=descriptor) as ours:
                ours.shutdown(socket.SHUT_RDWR)

        self.do(work)

    # --- from the test's thread

    def do(self, work: Callable[[], Any]) -> None:
        """Run `work` in proton's thread."""
        event: Any = ApplicationEvent("work")
        event.work = work
        self._injector.trigger(event)

    def receive_from(self, address: str, *, credit: int | None = None, **options: Any) -> None:
        def work() -> None:
            handler_credit = credit
            receiver = self._container.create_receiver(
                self._connection, address, name=address, **options
            )
            if handler_credit is not None:
                receiver.flow(handler_credit)

        self.do(work)

    def send(self, link: str | None, message: Message, tag: str) -> None:
        """Send on the link to `link` (None is the anonymous one), made when needed."""

        def work() -> None:
            name = link or "anonymous"
            sender = self._senders.get(name)
            if sender is None:
                sender = self._senders[name] = self._container.create_sender(
                    self._connection, link, name=name
                )
            self._outbox.setdefault(name, []).append((message, tag))
            self._pump(sender)

        self.do(work)

    async def expect(self, kind: str, seconds: float = 30.0) -> tuple[Any, ...]:
        """The next log entry of that kind; others before it are dropped."""
        return await asyncio.to_thread(self._expect, kind, seconds)

    def _expect(self, kind: str, seconds: float) -> tuple[Any, ...]:
        while True:
            try:
                entry = self.log.get(timeout=seconds)
            except Empty:
                raise AssertionError(f"proton peer: no {kind!r} came") from None
            if entry[0] == kind:
                return entry

    # --- in proton's thread

    def on_start(self, event: Any) -> None:
        self._senders: dict[str, Any] = {}
        self._outbox: dict[str, list[tuple[Message, str]]] = {}
        self._connection = event.container.connect(
            self.url,
            reconnect=False,
            allowed_mechs=self.options.pop("mechs", "PLAIN"),
            **self.options,
        )

    def on_work(self, event: Any) -> None:
        event.work()

    def _pump(self, sender: Any) -> None:
        waiting = self._outbox.get(sender.name, [])
        while waiting and sender.credit:
            message, tag = waiting.pop(0)
            sender.send(message, tag=tag)

    def on_sendable(self, event: Any) -> None:
        self._pump(event.sender)

    def on_connection_opened(self, event: Any) -> None:
        self.log.put(("opened",))

    def on_link_opened(self, event: Any) -> None:
        self.log.put(("attached", event.link.name))

    def on_link_error(self, event: Any) -> None:
        condition = event.link.remote_condition
        self.log.put(
            (
                "link-error",
                event.link.name,
                condition and condition.name,
                condition and condition.description,
            )
        )

    def on_link_remote_detach(self, event: Any) -> None:
        """A link was detached, not closed."""
        condition = event.link.remote_condition
        self.log.put(("detached", event.link.name, condition and condition.name))

    def on_message(self, event: Any) -> None:
        received = Received(event.message)
        delivery = event.delivery
        self.log.put(("message", event.receiver.name, received))
        if self.answer is not None:
            self.answer(received, delivery)
        elif self.accepts:
            delivery.update(Delivery.ACCEPTED)
            delivery.settle()
        else:
            self.unsettled.append(delivery)

    def _outcome(self, state: str, event: Any) -> None:
        delivery = event.delivery
        condition = delivery.remote.condition if hasattr(delivery.remote, "condition") else None
        self.log.put(
            (
                "outcome",
                delivery.tag,
                state,
                condition and condition.name,
                condition and condition.description,
            )
        )

    def on_accepted(self, event: Any) -> None:
        self._outcome("accepted", event)

    def on_rejected(self, event: Any) -> None:
        self._outcome("rejected", event)

    def on_released(self, event: Any) -> None:
        state = "modified" if event.delivery.remote_state == Delivery.MODIFIED else "released"
        self._outcome(state, event)

    def on_connection_closed(self, event: Any) -> None:
        condition = event.connection.remote_condition
        self.log.put(("closed", condition and condition.name))
        event.connection.close()

    def on_transport_error(self, event: Any) -> None:
        condition = event.transport.condition
        self.log.put(("failed", condition and condition.name, condition and condition.description))
