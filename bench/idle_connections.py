"""Memory of one idle device connection, over MQTT and AMQP, with Debian's mosquitto in the same run.

The gateway is the shipped program with its demo device: each connection is logged in, admitted, counted.
Mosquitto lets everybody in. A part of the connections is made first, so that what is set up once is not
counted; memory is resident memory as the kernel counts it, without the kernel's own socket buffers.
The goal is under 20 kB for an idle MQTT connection.
Run: `python -m bench.idle_connections [--connections 5000] [--json]`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.mqtt_ingest import the_ceiling
from gateway.wire.amqp.connection import AMQP_HEADER, SASL_HEADER
from gateway.wire.amqp.performatives import SASL, TRANSPORT, Begin, Open, SaslInit
from gateway.wire.mqtt.codec import encode
from gateway.wire.mqtt.packets import V3, Connect

GOAL_KB = 20.0
WARM = 5
"""One part in so many of the connections is made before the first measurement."""
PATIENCE = 30.0
START_SECONDS = 60.0
USER, PASSWORD = "sensor1@DEFAULT_TENANT", b"hono-secret"
BINDS = (
    "hono.registry.bind", "hono.registry.tls_bind", "hono.http.bind", "hono.http.tls_bind",
    "hono.mqtt.bind", "hono.mqtt.tls_bind",
    "hono.amqp.bind", "hono.amqp.tls_bind", "hono.coap.bind", "hono.coap.tls_bind", "hono.northbound.bind",
    "hono.northbound.tls_bind", "ditto.http.bind", "observe.http.bind",
)  # fmt: skip
SETTINGS = (*(f"{bind}=127.0.0.1:0" for bind in BINDS), "hono.amqp.idle_timeout=600")


@dataclass(frozen=True, slots=True)
class Footprint:
    """What idle connections of one kind cost.

    Units:  kilobytes of 1,000 bytes for each connection; megabytes resident with all of them.
    """

    server: str
    protocol: str
    connections: int
    kb_each: float
    resident_mb: float


# --- connections ------------------------------------------------------------------------------------------


def mqtt(port: int, number: int) -> socket.socket:
    """Open an MQTT 3.1.1 connection and wait until it is let in."""
    peer = socket.create_connection(("127.0.0.1", port), PATIENCE)
    peer.sendall(encode(Connect(f"idle-{number}", V3, username=USER, password=PASSWORD), V3))
    _await(peer, b"\x20\x02\0\0")
    return peer


def amqp(port: int, _number: int) -> socket.socket:
    """Open an AMQP 1.0 connection with a session and wait until both are there."""
    peer = socket.create_connection(("127.0.0.1", port), PATIENCE)
    login = SaslInit("PLAIN", b"\0" + USER.encode() + b"\0" + PASSWORD, "localhost")
    peer.sendall(SASL_HEADER + _frame(SASL.write(login), 1))
    _await(peer, b"\x00\x53\x44")  # the SASL outcome
    begin = Begin(next_outgoing_id=0, incoming_window=100, outgoing_window=100)
    opening = _frame(TRANSPORT.write(Open("idle"))) + _frame(TRANSPORT.write(begin))
    peer.sendall(AMQP_HEADER + opening)
    _await(peer, b"\x00\x53\x11")  # the session's begin
    return peer


def _frame(body: bytes, kind: int = 0) -> bytes:
    return struct.pack(">IBBH", len(body) + 8, 2, kind, 0) + body


def _await(peer: socket.socket, data: bytes) -> None:
    got = b""
    while data not in got:
        piece = peer.recv(4_096)
        if not piece:
            raise ConnectionError(f"the server has closed the connection after {got[-64:]!r}")
        got += piece


# --- measuring --------------------------------------------------------------------------------------------


def resident(pid: int) -> int:
    """Return the resident memory of a process in bytes."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize()


def measure(
    what: tuple[str, str], pid: int, connect: Callable[[int], socket.socket], connections: int
) -> Footprint:
    """Open the connections and return what those after the first part cost."""
    first = max(1, connections // WARM)
    with contextlib.ExitStack() as held:
        for number in range(first):
            held.enter_context(connect(number))
        before = _settled(pid)
        for number in range(first, first + connections):
            held.enter_context(connect(number))
        after = _settled(pid)
    each = (after - before) / connections / 1_000
    return Footprint(*what, connections, round(each, 2), round(after / 1e6, 1))


def _settled(pid: int) -> int:
    """Resident memory once the server has done what the last connection asked for."""
    time.sleep(0.5)
    return resident(pid)


@contextlib.contextmanager
def the_gateway() -> Iterator[tuple[int, dict[str, str]]]:
    """The shipped program with its demo device; yields its id and endpoints."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        words = [word for setting in SETTINGS for word in ("--set", setting)]
        program = [sys.executable, "-m", "gateway.cli", "gateway", "--demo"]
        with subprocess.Popen(
            [*program, "--data-dir", str(data), *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as child:
            try:
                yield child.pid, _endpoints(child, data / "endpoints.json")
            finally:
                child.terminate()


def _endpoints(child: subprocess.Popen[bytes], file: Path) -> dict[str, str]:
    until = time.monotonic() + START_SECONDS
    while not file.exists():
        if child.poll() is not None or time.monotonic() > until:
            raise SystemExit(f"the gateway did not start: {child.poll()}")
        time.sleep(0.05)
    found: dict[str, str] = json.loads(file.read_text())
    return found


def run(connections: int = 5_000) -> list[Footprint]:
    """Measure each server in turn."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    found = []
    for protocol, connect in (("mqtt", mqtt), ("amqp", amqp)):
        with the_gateway() as (pid, endpoints):
            port = int(endpoints[f"hono.{protocol}"].rpartition(":")[2])
            opened = measure(("twinspan", protocol), pid, _to(connect, port), connections)
            found.append(opened)
    with the_ceiling() as server:
        found.append(
            measure(("mosquitto", "mqtt"), server.pid, _to(mqtt, server.port), connections)
        )
    return found


def _to(connect: Callable[[int, int], socket.socket], port: int) -> Callable[[int], socket.socket]:
    return lambda number: connect(port, number)


def report(found: list[Footprint]) -> str:
    """Return what `run` found as a table."""
    lines = ["server     protocol  connections  kB each  MB resident"]
    lines += [
        f"{r.server:<10} {r.protocol:<8}  {r.connections:>11,}  {r.kb_each:>7.2f}  {r.resident_mb:>11.1f}"
        for r in found
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory of idle device connections")
    parser.add_argument("--connections", type=int, default=5_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = run(options.connections)
    print(json.dumps([asdict(r) for r in found], indent=2) if options.json else report(found))


if __name__ == "__main__":
    main()
