"""The load of the MQTT ingest benchmark: blocking sockets that send packets built beforehand.

A process of its own, so that it costs the servers nothing; prints how many seconds the load took.
"""

from __future__ import annotations

import argparse
import json
import socket
import time
from dataclasses import dataclass

from gateway.wire.mqtt.codec import encode
from gateway.wire.mqtt.packets import V3, Connect, Publish

PAYLOAD = json.dumps({"temperature": 21.5, "humidity": 40, "note": "x" * 104}).encode()
TOPIC = "telemetry"
USERNAME, PASSWORD = "bench@T", b"x"
PATIENCE = 60.0
_PINGREQ, _PINGRESP = b"\xc0\0", b"\xd0\0"


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent.

    Shape:  `window` messages per connection before its answers are awaited; `batch` messages per `send`.
    """

    name: str
    qos: int
    connections: int
    window: int
    batch: int


class Sender:
    """One connection of the load."""

    def __init__(self, port: int, load: Load, number: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client_id = f"bench-{number}"
        self.socket.sendall(
            encode(Connect(client_id, V3, username=USERNAME, password=PASSWORD), V3)
        )
        self._expect(b"\x20\x02\0\0")
        self._load = load
        ids = range(1, load.window + 1)
        packets = [
            encode(Publish(TOPIC, PAYLOAD, load.qos, packet_id=i if load.qos else 0), V3)
            for i in ids
        ]
        at = range(0, load.window, load.batch)
        self._sends = [b"".join(packets[i : i + load.batch]) for i in at]
        self._answers = b"".join(b"\x40\x02" + i.to_bytes(2, "big") for i in ids)

    def send_window(self) -> None:
        send = self.socket.sendall
        for data in self._sends:
            send(data)
        if not self._load.qos:
            send(_PINGREQ)

    def await_window(self) -> None:
        self._expect(self._answers if self._load.qos else _PINGRESP)

    def _expect(self, data: bytes) -> None:
        got = b""
        while len(got) < len(data):
            piece = self.socket.recv(len(data) - len(got))
            if not piece:
                raise ConnectionError("the server has closed the connection")
            got += piece
        if got != data:
            raise ValueError(f"expected {data[:16]!r}, got {got[:16]!r}")


def send_load(port: int, load: Load, messages: int) -> float:
    """Send about `messages` messages; returns the seconds until all are answered."""
    senders = [Sender(port, load, n) for n in range(load.connections)]
    rounds = max(1, messages // (load.connections * load.window))
    started = time.perf_counter()
    for sender in senders:
        sender.send_window()
    for _ in range(rounds - 1):
        for sender in senders:
            sender.await_window()
            sender.send_window()
    for sender in senders:
        sender.await_window()
    seconds = time.perf_counter() - started
    for sender in senders:
        sender.socket.close()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description="MQTT load")
    parser.add_argument("--load", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--messages", type=int, required=True)
    options = parser.parse_args()
    print(send_load(options.port, Load(**json.loads(options.load)), options.messages))


if __name__ == "__main__":
    main()
