"""A python-qpid-proton receiver for benchmarks: accepts each message, stops at its number."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from proton.handlers import MessagingHandler
from proton.reactor import Container


class Sink(MessagingHandler):
    """One receiver with 1,000 credits."""

    def __init__(self, address: str, user: str, host: str, port: str, messages: int) -> None:
        super().__init__(prefetch=1_000)
        self._url = f"amqp://{user}@{host}:{port}"
        self._address = address
        self._left = self._messages = messages
        self._first = 0.0

    def on_start(self, event: Any) -> None:
        connection = event.container.connect(self._url, reconnect=False, allowed_mechs="PLAIN")
        event.container.create_receiver(connection, self._address)

    def on_link_opened(self, _event: Any) -> None:
        print("attached", flush=True)

    def on_message(self, _event: Any) -> None:
        self._first = self._first or time.perf_counter()
        self._left -= 1
        if self._left == 0:
            seconds = time.perf_counter() - self._first
            facts = {"messages": self._messages, "seconds": seconds, "cpu": time.process_time()}
            print(json.dumps(facts), flush=True)

    def on_disconnected(self, event: Any) -> None:
        event.container.stop()


if __name__ == "__main__":
    address, user, host, port, messages = sys.argv[1:]
    Container(Sink(address, user, host, port, int(messages))).run()
