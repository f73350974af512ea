"""From a wish of an application to the edge's MQTT: a desired property is set over HTTP, the delta comes.

Three processes as shipped: `twinspan cloud --demo` (things, Kubernetes API, CloudCore), `twinspan edge run`
that joined it, and this one, which sets desired properties of 20 Devices and hears `.../twin/update/delta` at
the edge's broker. Beside it, in the same run, the time until the wish itself is durable and answered, and a
message from one client of the edge's broker to another.
Run: `python -m bench.edge_delta [--wishes 500] [--rate 25] [--json]`.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from bench.things_rig import AUTHORIZATION
from edge.hollow.cluster import TARGET, make_devices
from gateway.kube.remote import connect
from tests import process

NODE, DEVICES, WAIT_SECONDS = "bench-edge", 20, 30.0
DELTAS = "$hw/events/device/default/+/twin/update/delta"
ECHO = "bench/echo"


class Heard:
    """What the edge's broker said, and when."""

    def __init__(self, port: int) -> None:
        self._client = Client(CallbackAPIVersion.VERSION2)
        self._client.on_message = self._take
        self._client.connect("127.0.0.1", port)
        self._client.subscribe([(DELTAS, 1), (ECHO, 1)])
        self._at: dict[str, float] = {}
        self._news = threading.Condition()
        self._client.loop_start()

    def _take(self, _client: Client, _data: Any, message: MQTTMessage) -> None:
        at = time.perf_counter()
        body = json.loads(message.payload)
        with self._news:
            self._at.setdefault(str(body["delta"].get(TARGET)), at)
            self._news.notify_all()

    def echo(self, mark: str) -> float:
        """Publish, return the seconds until it comes."""
        began = time.perf_counter()
        self._client.publish(ECHO, json.dumps({"delta": {TARGET: mark}}), 1)
        return self.wait(mark) - began

    def wait(self, mark: str) -> float:
        """Return when a value was heard."""
        with self._news:
            if not self._news.wait_for(lambda: mark in self._at, WAIT_SECONDS):
                raise TimeoutError(f"no delta with {mark}")
            return self._at[mark]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class Things:
    """An application that sets desired properties."""

    def __init__(self, address: str) -> None:
        self._http = http.client.HTTPConnection(address)

    def want(self, device: str, value: int) -> int:
        path = f"/api/2/things/default:{device}/features/{TARGET}/desiredProperties/value"
        headers = {"Authorization": AUTHORIZATION, "Content-Type": "application/json"}
        self._http.request("PUT", path, str(value), headers)
        answer = self._http.getresponse()
        answer.read()
        return answer.status

    def is_wanted(self, device: str, value: int) -> bool:
        return self.want(device, value) < 300


def measure(wishes: int, rate: float) -> dict[str, Any]:
    """Run the benchmark."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        cloud = stack.enter_context(process.twinspan(folder / "cloud", "cloud", "--demo"))
        edge = stack.enter_context(_edge(folder, cloud))
        asyncio.run(_devices(cloud.data_dir))
        heard = Heard(edge.port("edge.mqtt"))
        stack.callback(heard.close)
        things = Things(cloud.endpoints["ditto.http"])
        for number in range(DEVICES):  # until the thing is there, and the Device at the edge
            name, value = f"{NODE}-d{number}", 1_000_000 + number
            process.eventually(partial(things.is_wanted, name, value), what="the thing")
            heard.wait(str(value))
        return _wishes(heard, things, wishes, rate)


def _wishes(heard: Heard, things: Things, wishes: int, rate: float) -> dict[str, Any]:
    sent: list[float] = []
    answered: list[float] = []
    echoes: list[float] = []
    for number in range(wishes):
        began = time.perf_counter()
        status = things.want(f"{NODE}-d{number % DEVICES}", number)
        assert status < 300, status
        sent.append(began)
        answered.append(time.perf_counter() - began)
        if number % 10 == 0:
            echoes.append(heard.echo(f"echo-{number}"))
        time.sleep(max(0.0, began + 1 / rate - time.perf_counter()))
    deltas = [heard.wait(str(number)) - began for number, began in enumerate(sent)]
    return {
        "wishes": wishes,
        "delta_ms": _percentiles(deltas),
        "answer_ms": _percentiles(answered),
        "broker_ms": _percentiles(echoes),
        "delta_of_answer": round(statistics.median(deltas) / statistics.median(answered), 2),
    }


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=100)
    return {"p50": round(cuts[49] * 1e3, 2), "p99": round(cuts[98] * 1e3, 2)}


def _edge(folder: Path, cloud: process.Twinspan) -> Any:
    """Join an edge to the cloud and run it."""
    program = (sys.executable, "-m", "gateway.cli")
    token = process.run(*program, "token", "--data-dir", str(cloud.data_dir)).strip()
    url = f"https://{cloud.endpoints['cloudhub.https']}"
    data_dir = folder / "edge"
    subprocess.run(
        [
            *(*program, "edge", "join", url, "--token", token, "--node-name", NODE),
            *("--hub", cloud.endpoints["cloudhub.wss"], "--data-dir", str(data_dir)),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return process.twinspan(data_dir, "edge", "run")


async def _devices(data_dir: Path) -> None:
    async with connect(data_dir / "kube" / "kubeconfig", manager="bench") as client:
        await make_devices(client, "default", "bench", [NODE], DEVICES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wishes", type=int, default=500)
    parser.add_argument("--rate", type=float, default=25.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure(options.wishes, options.rate)
    if options.json:
        print(json.dumps(found))
        return
    for name in ("delta_ms", "answer_ms", "broker_ms"):
        print(f"{name:<12} p50 {found[name]['p50']:>8} ms   p99 {found[name]['p99']:>8} ms")
    print(f"delta after {found['delta_of_answer']} times the time of the answer")


if __name__ == "__main__":
    main()
