"""Resident memory and start time of the edge agent: goals are under 60 MB and under one second.

Each run starts an EdgeCore process with 50 virtual devices on its disk (DeviceTwin, MQTT broker, spool,
mappers, hub looking for its cloud), measures from the start of the process to the line that says it is
ready, then publishes telemetry over MQTT and measures again.
Run: `python -m bench.edge_footprint [--runs 5] [--json]`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gateway.config.tree import Settings

GOAL_MB = 60.0
GOAL_SECONDS = 1.0
DEVICES = 50
MESSAGES = 2_000


@dataclass(frozen=True, slots=True)
class Footprint:
    """Medians over the runs.

    Units:  megabytes (resident), seconds.
    """

    start_seconds: float
    idle_mb: float
    busy_mb: float
    devices: int = DEVICES
    messages: int = MESSAGES

    @property
    def reaches_goals(self) -> bool:
        return self.start_seconds < GOAL_SECONDS and max(self.idle_mb, self.busy_mb) < GOAL_MB


def measure(runs: int = 5) -> Footprint:
    """Run the agent `runs` times and return the medians."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_prepare(Path(folder)))
        found = [asyncio.run(_one_run(Path(folder))) for _ in range(runs)]
    return Footprint(*(round(statistics.median(column), 3) for column in zip(*found, strict=True)))


async def _one_run(folder: Path) -> tuple[float, float, float]:
    started = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.edge_footprint", "--agent", str(folder)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        port = int(await process.stdout.readline())
        seconds = time.perf_counter() - started
        await asyncio.sleep(2.0)
        idle = _resident_mb(process.pid)
        await _publish(port)
        return seconds, idle, _resident_mb(process.pid)
    finally:
        process.terminate()
        await process.wait()


def _resident_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1_024
    raise OSError(f"no VmRSS for {pid}")


async def _publish(port: int) -> None:
    """Publish QoS 1 telemetry and wait for every acknowledgement."""
    from paho.mqtt.client import Client
    from paho.mqtt.enums import CallbackAPIVersion

    client = Client(CallbackAPIVersion.VERSION2)
    client.max_inflight_messages_set(50)
    await asyncio.to_thread(client.connect, "127.0.0.1", port)
    client.loop_start()
    payload = json.dumps({"temperature": 20.5, "text": "x" * 120}).encode()
    sent = [client.publish(f"t//default:d{n % 20}", payload, 1) for n in range(MESSAGES)]
    while not all(info.is_published() for info in sent):  # noqa: ASYNC110  paho has its own thread
        await asyncio.sleep(0.05)
    client.disconnect()
    await asyncio.to_thread(client.loop_stop)


# --- the agent's disk and process ------------------------------------------------------------------


async def _prepare(folder: Path) -> None:
    """Write a joined identity (of a cloud that is not there) and the devices."""
    from edge.identity import Identity, NodeSettings
    from edge.store import DeviceRow, EdgeStore, MetaObject
    from gateway.runtime.module import running
    from gateway.store.database import Database

    certificate, key = _certificate()
    settings = NodeSettings("edge-bench", "127.0.0.1:1", "127.0.0.1:1")
    Identity(folder).save(settings, ca=certificate, certificate=certificate, key=key)
    store = EdgeStore(Database(folder / "edge" / "edge.db", "edge"))
    async with running(store):
        for number in range(DEVICES):
            name = f"d{number}"
            row = DeviceRow(f"default/{name}", name)
            text = json.dumps(_device(name))
            store.put_device(row, lambda _error: None)
            store.put_meta(
                MetaObject(f"default/device/{name}", "device", text), lambda _error: None
            )


def _device(name: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "default", "uid": name},
        "spec": {
            "protocol": {"protocolName": "virtual", "configData": {"kind": "thermostat"}},
            "properties": [
                {"name": "temperature", "reportCycle": 5_000, "reportToCloud": True},
                {"name": "target", "desired": {"value": "25"}},
            ],
        },
    }


def _certificate() -> tuple[bytes, bytes]:
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "system:node:edge-bench")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM), key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )


async def _agent(folder: Path) -> None:
    """Run EdgeCore until terminated; the first line of output is the broker's port."""
    import signal

    from edge.core import build_edge
    from gateway.config.edge import Edge, EdgeMqtt
    from gateway.config.edge_services import MetaServer
    from gateway.config.tree import Settings
    from gateway.runtime.module import serve

    edge = Edge(mqtt=EdgeMqtt(bind="127.0.0.1:0"), metaserver=MetaServer(bind="127.0.0.1:0"))
    process = _Process(Settings(data_dir=folder, edge=edge))
    stop = asyncio.Event()
    core = build_edge(process)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await serve(
        core.modules, stop, on_ready=lambda: print(process.endpoints.port("edge.mqtt"), flush=True)
    )


class _Process:
    """What a process gives to EdgeCore."""

    def __init__(self, settings: Settings) -> None:
        from gateway.observe.metrics import Metrics
        from gateway.observe.tracing import Tracer
        from gateway.runtime.listener import Endpoints

        self.settings = settings
        self.endpoints = Endpoints()
        self.metrics = Metrics()
        self.tracer = Tracer()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--agent", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.agent is not None:
        asyncio.run(_agent(arguments.agent))
        return
    found = measure(arguments.runs)
    if arguments.json:
        print(json.dumps(asdict(found)))
        return
    print(f"start to ready     {found.start_seconds:6.2f} s   (goal < {GOAL_SECONDS:g})")
    print(f"resident, idle     {found.idle_mb:6.1f} MB  (goal < {GOAL_MB:g})")
    print(f"resident, {MESSAGES} msgs {found.busy_mb:5.1f} MB")


if __name__ == "__main__":
    main()
