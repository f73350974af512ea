"""Servers that benchmarks send devices' messages to: the shipped gateway, and peers and ceilings beside it.

All run on the first core, so that a rate is what one core gives, and the load generator on the last one.
A `Target` says what the load generator (`bench.devices_load`) is to do with a server.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.devices_load import PASSWORD
from bench.things_rig import pinned
from tests import process

AMQP_TENANT, KAFKA_TENANT = "bench", "benchk"
USER = "consumer@HONO:verysecret"
"""The demo's application."""
START_SECONDS = 60.0
LOAD_SECONDS = 300.0
WINDOW = 500
"""Messages between devices and application; with more devices one for each."""
DATAGRAMS = 100
"""The same for CoAP: what a socket of a slow peer keeps without losing any."""
PROTON_EXAMPLE = Path("/usr/share/proton/examples/c")


@dataclass(frozen=True, slots=True)
class Target:
    """One server as the load generator sees it; `spec` as in `bench.devices_load`, without the numbers."""

    name: str
    spec: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Rate:
    """What a load gave: messages a second by the clock, and of the server's CPU time."""

    per_second: float
    per_cpu_second: float

    @classmethod
    def median(cls, rates: Sequence[Rate]) -> Rate:
        """The middle of several runs, each figure by itself."""
        return cls(
            statistics.median(rate.per_second for rate in rates),
            statistics.median(rate.per_cpu_second for rate in rates),
        )


def measured(target: Target, qos: int, devices: int, messages: int) -> Rate:
    """One load on one server."""
    spec = {**target.spec, "qos": qos, "devices": devices, "messages": messages}
    spec["window"] = DATAGRAMS if spec["protocol"] == "coap" else max(WINDOW, devices)
    if spec["sink"] is not None:
        spec["sink"] = {**spec["sink"], "qos": qos}
    command = [*pinned(-1), sys.executable, "-m", "bench.devices_load"]
    done = subprocess.run(
        command,
        input=json.dumps(spec),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        timeout=LOAD_SECONDS,
    )
    if done.returncode:
        raise SystemExit(f"the load on {target.name} ended before its time (QoS {qos})")
    found: dict[str, float] = json.loads(done.stdout)
    return Rate(messages / found["seconds"], messages / max(found["cpu"], 1e-6))


def in_turns(
    targets: Sequence[Target], qos: int, devices: int, messages: int, rounds: int
) -> list[Rate]:
    """One load on several servers, one after the other, so that what the machine does meets all."""
    found: list[list[Rate]] = [[] for _ in targets]
    for _ in range(rounds):
        for target, rates in zip(targets, found, strict=True):
            rates.append(measured(target, qos, devices, messages))
    return [Rate.median(rates) for rates in found]


# --- the gateway -----------------------------------------------------------------------------


@dataclass(slots=True)
class Gateway:
    """The shipped program with a tenant for AMQP and one for Kafka, both with the same devices."""

    pid: int
    endpoints: Mapping[str, int]
    kafka: str | None = None

    def to_amqp(self, protocol: str) -> Target:
        """Devices of one protocol, and an application that receives over AMQP."""
        sink = {"kind": "amqp", "port": self.endpoints["northbound.amqp"], "user": USER}
        return self._target(protocol, AMQP_TENANT, sink | {"address": f"telemetry/{AMQP_TENANT}"})

    def to_kafka(self, protocol: str) -> Target:
        """Devices of one protocol, and a topic of Kafka."""
        sink = {"kind": "kafka", "bootstrap": self.kafka}
        return self._target(
            protocol, KAFKA_TENANT, sink | {"topic": f"hono.telemetry.{KAFKA_TENANT}"}
        )

    def _target(self, protocol: str, tenant: str, sink: dict[str, Any]) -> Target:
        spec = {
            "protocol": protocol,
            "port": self.endpoints[f"hono.{protocol}"],
            "pids": [self.pid],
            "tenant": tenant,
            "topic": "telemetry" if protocol == "mqtt" else None,
            "sink": sink,
        }
        return Target("twinspan", spec)


@contextmanager
def the_gateway(
    devices: int, *, kafka: str | None = None, sets: Sequence[str] = ()
) -> Iterator[Gateway]:
    """`twinspan gateway --demo`, open to CoAP without credentials."""
    settings = [*sets, "hono.coap.authentication_required=false"]
    if kafka is not None:
        settings.append(f"hono.kafka.bootstrap_servers={kafka}")
    with (
        scratch() as folder,
        process.twinspan(
            folder / "data", "gateway", "--demo", sets=tuple(settings), prefix=pinned(0)
        ) as running,
    ):
        ports = {name: int(at.rpartition(":")[2]) for name, at in running.endpoints.items()}
        _provision(ports["hono.registry"], devices, with_kafka=kafka is not None)
        yield Gateway(running.pid, ports, kafka)


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for the length of the block."""
    with tempfile.TemporaryDirectory(prefix="twinspan-bench-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def _provision(port: int, devices: int, *, with_kafka: bool) -> None:
    """Register tenants and devices whose passwords cost nothing to check: logins are not what is measured."""
    tenants = {AMQP_TENANT: "amqp"} | ({KAFKA_TENANT: "kafka"} if with_kafka else {})
    digest = base64.b64encode(hashlib.sha256(PASSWORD.encode()).digest()).decode()
    secret = {"pwd-hash": digest, "hash-function": "sha-256"}
    for tenant, messaging in tenants.items():
        _call(port, "POST", f"tenants/{tenant}", {"ext": {"messaging-type": messaging}})
        for number in range(devices):
            credentials = {"type": "hashed-password", "auth-id": f"d{number}", "secrets": [secret]}
            _call(port, "POST", f"devices/{tenant}/d{number}", {})
            _call(port, "PUT", f"credentials/{tenant}/d{number}", [credentials])


def _call(port: int, method: str, path: str, body: Any) -> None:
    login = "Basic " + base64.b64encode(b"hono-client:secret").decode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/{path}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": login},
        method=method,
    )
    urllib.request.urlopen(request, timeout=10).close()


# --- ceilings -----------------------------------------------------------------------------


@contextmanager
def mosquitto() -> Iterator[Target]:
    """Debian's mosquitto between publishers and one subscriber, without logins."""
    with mosquitto_process() as (pid, port):
        sink = {"kind": "mqtt", "port": port, "topic": "telemetry"}
        yield Target("mosquitto", plain("mqtt", port, [pid], sink, topic="telemetry"))


@contextmanager
def mosquitto_process() -> Iterator[tuple[int, int]]:
    """Debian's mosquitto on a port of its own, with queues that drop nothing and without Nagle's delay."""
    path = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if path is None:
        raise SystemExit("mosquitto is not there; scripts/debian-packages.sh installs it")
    with scratch() as folder:
        port = free_port()
        lines = [f"listener {port} 127.0.0.1", "allow_anonymous true", "max_queued_messages 0"]
        lines += ["set_tcp_nodelay true", "max_inflight_messages 0"]
        (folder / "conf").write_text("\n".join(lines) + "\n")
        with child([*pinned(0), path, "-c", str(folder / "conf")], folder) as pid:
            await_port(port)
            yield pid, port


@contextmanager
def proton() -> Iterator[Target]:
    """The broker that proton's C library has as an example, with a window of 500 messages instead of 5."""
    source, compiler = PROTON_EXAMPLE / "broker.c", shutil.which("cc")
    if not source.exists() or compiler is None:
        raise SystemExit("proton's C library is not there; scripts/bench-peers.sh installs it")
    with scratch() as folder:
        text = source.read_text().replace("WINDOW=5;", "WINDOW=500;")
        (folder / "broker.c").write_text(text)
        words = ["-O2", "-w", f"-I{PROTON_EXAMPLE}", "-o", "broker", "broker.c", "-lqpid-proton"]
        subprocess.run([compiler, *words, "-lpthread"], cwd=folder, check=True)
        port = free_port()
        with child([*pinned(0), str(folder / "broker"), "127.0.0.1", str(port)], folder) as pid:
            await_port(port)
            sink = {"kind": "amqp", "port": port, "user": None, "address": "bench"}
            yield Target("proton C", plain("amqp", port, [pid], sink, topic="bench"))


@contextmanager
def bare(kind: str) -> Iterator[Target]:
    """What answers at once and does nothing: aiohttp for `http`, aiocoap for `coap`."""
    command = {
        "http": ["-m", "bench.bare_sink"],
        "coap": ["-m", "bench.coap", "--serve", "aiocoap"],
    }[kind]
    with subprocess.Popen(
        [*pinned(0), sys.executable, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        try:
            port = int(running.stdout.readline() if running.stdout else "")
            name = {"http": "aiohttp", "coap": "aiocoap"}[kind]
            spec = plain(kind, port, [running.pid], None) | {"tenant": "acme", "only": 1}
            yield Target(name, spec)
        finally:
            running.terminate()


CEILINGS: Mapping[str, Callable[[], AbstractContextManager[Target]]] = {
    "mqtt": mosquitto,
    "amqp": proton,
    "http": lambda: bare("http"),
    "coap": lambda: bare("coap"),
}


def plain(
    protocol: str,
    port: int,
    pids: list[int],
    sink: Mapping[str, Any] | None,
    *,
    topic: str | None = None,
) -> dict[str, Any]:
    """A load's specification for a server that asks nobody to log in."""
    return {
        "protocol": protocol,
        "port": port,
        "pids": pids,
        "tenant": None,
        "topic": topic,
        "sink": sink,
    }


# --- processes -----------------------------------------------------------------------------


@contextmanager
def child(
    command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
) -> Iterator[int]:
    """A process for the length of the block, its words in `folder/log`; yields its id."""
    with (folder / "log").open("ab") as log:
        running = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, env={**os.environ, **(environment or {})}
        )
    try:
        yield running.pid
    finally:
        running.terminate()
        try:
            running.wait(10)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def free_port() -> int:
    """A port of loopback that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def await_port(port: int, seconds: float = START_SECONDS) -> None:
    """Wait until somebody listens."""
    until = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        if time.monotonic() > until:
            raise SystemExit(f"nobody listens on port {port}")
        time.sleep(0.05)
