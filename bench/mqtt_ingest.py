"""MQTT ingest of the Hono adapter on the real core, with Debian's mosquitto as the ceiling.

Each server runs in a process of its own and gets the same messages from one load process, in turns. Both
check passwords and count what they do. The adapter's core has all there is but an application: ingress,
registry, limits, metrics, traces, and a downstream that accepts at once; `--bare` measures the adapter alone,
with rooms that say yes and cost nothing: the price of sockets, protocol, routing and acknowledgement.

Compare by CPU time only: mosquitto as Debian ships it leaves Nagle's algorithm on, which keeps its answers to
a window of QoS 1 messages back for 40 ms.

Shapes of load: `devices` (many connections, one QoS 1 message each at a time), `single` (few connections, a
window of messages, one per segment), `coalesced` (the same, many per segment).
Run: `python -m bench.mqtt_ingest [--messages 100000] [--rounds 3] [--bare] [--json]`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.mqtt_sender import PASSWORD, USERNAME, Load
from gateway.config.hono import MqttAdapter as Settings
from gateway.errors import GatewayError
from gateway.hono.adapters.admission import Lease
from gateway.hono.adapters.mqtt import MqttAdapter
from gateway.hono.adapters.mqtt_device import Rooms
from gateway.model.login import Login
from gateway.model.message import Adapter, Command, CommandResponse, Principal, Upload
from gateway.model.ports import DeviceLink, Done
from gateway.model.registry import Assertion
from gateway.observe.metrics import Metrics
from gateway.runtime import process
from gateway.runtime.listener import Endpoints
from gateway.runtime.memory import settle_memory
from gateway.runtime.module import running

PATIENCE = 60.0

LOADS = (
    Load("single", 0, 10, 200, 1),
    Load("coalesced", 0, 10, 200, 20),
    Load("devices", 1, 100, 1, 1),
    Load("single", 1, 10, 20, 1),
    Load("coalesced", 1, 10, 20, 20),
)


@dataclass(frozen=True, slots=True)
class Result:
    """One load: messages per CPU second of each server, and per second of the clock."""

    load: str
    qos: int
    adapter_per_cpu_s: float
    mosquitto_per_cpu_s: float
    adapter_per_s: float
    mosquitto_per_s: float

    @property
    def ratio(self) -> float:
        return self.adapter_per_cpu_s / self.mosquitto_per_cpu_s


# --- the adapter, with rooms that cost nothing ----------------------------------------------------------


class _Nothing:
    """Ingress, authenticator, admission, registry and commands that say yes."""

    def __init__(self) -> None:
        self.uploads = 0

    def submit(self, upload: Upload, done: Done) -> None:
        del upload
        self.uploads += 1
        done(None)

    def check_password(
        self,
        username: str,
        password: bytes,
        adapter: Adapter,
        done: Callable[[Principal | GatewayError], None],
    ) -> None:
        del password, adapter
        done(Principal("T", username, username))

    def check_login(
        self, login: Login, adapter: Adapter, done: Callable[[Principal | GatewayError], None]
    ) -> None:
        self.check_password(login.username or "", login.password or b"", adapter, done)

    def admit(
        self,
        principal: Principal,
        adapter: Adapter,
        close: Callable[[GatewayError], None],
        done: Callable[[Lease | GatewayError], None],
        *,
        cipher_suite: str = "UNKNOWN",
        remote_id: str = "",
    ) -> None:
        del principal, adapter, close, cipher_suite, remote_id
        done(self)

    def release(self) -> None:
        """There is one place for everybody."""

    def assert_device(
        self,
        tenant: str,
        device: str,
        gateway: str | None,
        done: Callable[[Assertion | GatewayError], None],
    ) -> None:
        raise NotImplementedError

    def subscribe(
        self,
        tenant: str,
        device: str,
        link: DeviceLink,
        *,
        adapter: Adapter,
        gateway: str | None = None,
        announce: bool = True,
        for_its_devices: bool = True,
    ) -> Callable[[], None]:
        raise NotImplementedError

    def route(self, command: Command, done: Done) -> None:
        raise NotImplementedError

    def respond(self, response: CommandResponse, done: Done) -> None:
        raise NotImplementedError


async def _serve() -> None:
    rooms, endpoints = _Nothing(), Endpoints()
    adapter = MqttAdapter(
        Settings(bind="127.0.0.1:0"),
        endpoints,
        Metrics(),
        Rooms(
            ingress=rooms, commands=rooms, authenticator=rooms, admission=rooms, assertions=rooms
        ),
    )
    async with running(adapter):
        settle_memory()
        print(endpoints.port("hono.mqtt"), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


# --- the two servers --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    name: str
    pid: int
    port: int

    def cpu(self) -> float:
        """CPU seconds of all its threads."""
        tasks = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


@contextlib.contextmanager
def the_adapter(*, fast: bool = True, bare: bool = False) -> Iterator[Server]:
    """The MQTT adapter in a process of its own, on the real core or on rooms that cost nothing."""
    module = ("bench.mqtt_ingest", "--serve") if bare else ("bench.ingest_core", "mqtt")
    command = [sys.executable, "-m", *module]
    with subprocess.Popen(
        command if fast else [*command, "--plain-loop"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            line = child.stdout.readline() if child.stdout else ""
            yield Server("adapter", child.pid, int(line))
        finally:
            child.terminate()


@contextlib.contextmanager
def the_ceiling(*, login: bool = False) -> Iterator[Server]:
    """Debian's mosquitto; `login` has it check the password of the load."""
    path = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if path is None:
        raise SystemExit("mosquitto is not installed (Debian: mosquitto)")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="twinspan-bench-") as folder:
        words = ["-c", str(_password_settings(Path(folder), port))] if login else ["-p", str(port)]
        with subprocess.Popen(
            [path, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as child:
            try:
                _await_port(port)
                yield Server("mosquitto", child.pid, port)
            finally:
                child.terminate()


def _password_settings(folder: Path, port: int) -> Path:
    """Write mosquitto's settings for who has to log in as the load does."""
    passwords, settings = folder / "passwords", folder / "mosquitto.conf"
    passwords.touch(0o600)
    words = ["mosquitto_passwd", "-b", str(passwords), USERNAME, PASSWORD.decode()]
    subprocess.run(words, check=True, capture_output=True)
    if os.geteuid() == 0:  # it gives up root before it reads
        folder.chmod(0o755)
        passwords.chmod(0o644)
    lines = (f"listener {port} 127.0.0.1", "allow_anonymous false", f"password_file {passwords}")
    settings.write_text("\n".join(lines) + "\n")
    return settings


def _await_port(port: int) -> None:
    until = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)
        else:
            return


def measure_one(server: Server, load: Load, messages: int) -> tuple[float, float]:
    """Return messages per CPU second and per second of one run."""
    before = server.cpu()
    command = [sys.executable, "-m", "bench.mqtt_sender", "--load", json.dumps(asdict(load))]
    done = subprocess.run(
        [*command, "--port", str(server.port), "--messages", str(messages)],
        check=True,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    seconds = float(done.stdout)
    return messages / (server.cpu() - before), messages / seconds


def run(
    messages: int = 100_000,
    rounds: int = 3,
    *,
    fast: bool = True,
    bare: bool = False,
    loads: Sequence[Load] = LOADS,
) -> dict[str, Any]:
    """Measure every load in turns; the median of the rounds counts.

    Shape:  {"messages", "rounds", "uvloop", "bare", "loads": [a row per load: `Result` with its `ratio`]}.
    """
    results = measure(messages, rounds, fast=fast, bare=bare, loads=loads)
    return {
        "messages": messages,
        "rounds": rounds,
        "uvloop": fast,
        "bare": bare,
        "loads": [asdict(r) | {"ratio": round(r.ratio, 3)} for r in results],
    }


def measure(
    messages: int,
    rounds: int,
    *,
    fast: bool = True,
    bare: bool = False,
    loads: Sequence[Load] = LOADS,
) -> list[Result]:
    """Measure every load in turns."""
    results = []
    with the_adapter(fast=fast, bare=bare) as adapter, the_ceiling(login=True) as ceiling:
        for load in loads:
            for server in (adapter, ceiling):
                measure_one(server, load, messages // 10)  # warm
            pairs = [
                (measure_one(adapter, load, messages), measure_one(ceiling, load, messages))
                for _ in range(rounds)
            ]
            ours = [statistics.median(p[0][i] for p in pairs) for i in (0, 1)]
            theirs = [statistics.median(p[1][i] for p in pairs) for i in (0, 1)]
            results.append(Result(load.name, load.qos, ours[0], theirs[0], ours[1], theirs[1]))
    return results


def report(found: dict[str, Any]) -> str:
    """Return what `run` found as a table."""
    lines = ["load        QoS  adapter/CPU s  mosquitto/CPU s  ratio  adapter/s  mosquitto/s"]
    lines += [
        f"{r['load']:<11} {r['qos']:>3}  {r['adapter_per_cpu_s']:>13,.0f}"
        f"  {r['mosquitto_per_cpu_s']:>15,.0f}  {r['ratio']:>5.2f}"
        f"  {r['adapter_per_s']:>9,.0f}  {r['mosquitto_per_s']:>11,.0f}"
        for r in found["loads"]
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="MQTT ingest against mosquitto")
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plain-loop", action="store_true", help="asyncio's own loop, not uvloop")
    parser.add_argument("--bare", action="store_true", help="the adapter alone, without its core")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        process.run(_serve(), fast=not options.plain_loop)
    else:
        fast = not options.plain_loop
        found = run(options.messages, options.rounds, fast=fast, bare=options.bare)
        print(json.dumps(found, indent=2) if options.json else report(found))


if __name__ == "__main__":
    main()
