"""A cloud and an edge as two processes, and what is published at the edge."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.ports import free_port
from tests.process import Twinspan, eventually, tool, twinspan
from tests.walk import Walk, curl, try_twinspan, twinspan_cli

API = "devices.kubeedge.io/v1beta1"
NAMESPACE = "plant"
"""Also the tenant: it has no connection, so telemetry waits for a consumer."""
NODE = "edge-1"
LINK = ("edge.hub.keepalive=1", "edge.hub.reconnect_cap=0.5")


@contextmanager
def a_cloud(data_dir: Path, *sets: str, words: Sequence[str] = ()) -> Iterator[Walk]:
    """A cloud whose CloudHub keeps its address over restarts."""
    hub = f"cloud.hub.wss.bind=127.0.0.1:{free_port()}"
    with twinspan(data_dir, "cloud", "--demo", *words, sets=(hub, *sets)) as running:
        walk = Walk(running)
        assert walk.registry("POST", f"tenants/{NAMESPACE}").status == 201
        walk.kubectl("apply", "-f", "-", stdin=json.dumps(documents()))
        yield walk


def documents() -> dict[str, Any]:
    """Namespace, model and two Devices of the node."""
    model = {
        "apiVersion": API,
        "kind": "DeviceModel",
        "metadata": {"name": "meter-model", "namespace": NAMESPACE},
        "spec": {"properties": [{"name": "level", "type": "INT", "accessMode": "ReadWrite"}]},
    }
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    return {
        "apiVersion": "v1",
        "kind": "List",
        "items": [namespace, model, *(a_device(f"meter-{n}") for n in (1, 2))],
    }


def a_device(name: str) -> dict[str, Any]:
    """A Device without a mapper: an MQTT client at the edge speaks for it."""
    return {
        "apiVersion": API,
        "kind": "Device",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "deviceModelRef": {"name": "meter-model"},
            "nodeName": NODE,
            "protocol": {"protocolName": "mqtt"},
            "properties": [{"name": "level", "desired": {"value": "0"}}],
        },
    }


def new_token(cloud: Walk, *words: str) -> str:
    """What `twinspan token` prints."""
    return twinspan_cli("token", *words, "--data-dir", str(cloud.running.data_dir)).strip()


def join(cloud: Walk, data_dir: Path, token: str, *words: str, prefix: tuple[str, ...] = ()) -> str:
    """Run `twinspan edge join`; return its exit code and what it said."""
    ends = cloud.running.endpoints
    done = try_twinspan(
        "edge",
        "join",
        f"https://{ends['cloudhub.https']}",
        "--hub",
        ends["cloudhub.wss"],
        "--token",
        token,
        "--data-dir",
        str(data_dir),
        *words,
        prefix=prefix,
    )
    return f"{done.returncode} {done.stdout}{done.stderr}"


@dataclass(frozen=True, slots=True)
class Edge:
    """A running edge, seen by a local MQTT client."""

    walk: Walk
    prefix: tuple[str, ...] = ()

    @property
    def running(self) -> Twinspan:
        return self.walk.running

    def report(self, device: str, level: int) -> None:
        """Say what the device's level is, as KubeEdge's mappers and devices do."""
        now = int(time.time() * 1000)
        value = {"value": str(level), "metadata": {"timestamp": now}}
        twin = {"level": {"actual": value, "metadata": {"type": "int"}}}
        payload = {"event_id": f"{device}-{level}", "timestamp": now, "twin": twin}
        topic = f"$hw/events/device/{NAMESPACE}/{device}/twin/update"
        self.publish(topic, json.dumps(payload))

    def publish(self, topic: str, *lines: str) -> None:
        """Publish each line at QoS 1; returns when the edge has acknowledged all."""
        command = self.walk.mqtt("mosquitto_pub", None, "-q", "1", "-t", topic, "-l")
        run_in(self.prefix, command, "\n".join(lines) + "\n")

    def link_is_up(self) -> bool:
        """What its own metrics say."""
        return self.metric("twinspan_edge_link_up") == 1

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        command = [tool("curl"), "-sS", self.running.url("ops.http", "/metrics")]
        text = run_in(self.prefix, command)
        found = re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE)
        return sum(map(float, found))

    def wait_for_link(self, *, up: bool) -> None:
        eventually(lambda: self.link_is_up() is up, seconds=30.0, what=f"link up: {up}")


def run_in(prefix: tuple[str, ...], command: list[str], stdin: str = "") -> str:
    """Run a program to its end, in the edge's own network if it has one."""
    done = subprocess.run(
        [*prefix, *command], input=stdin, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@contextmanager
def an_edge(
    cloud: Walk, data_dir: Path, *sets: str, prefix: tuple[str, ...] = ()
) -> Iterator[Edge]:
    """Run the edge of a data directory that has joined, once it is linked."""
    with twinspan(data_dir, "edge", "run", sets=(*LINK, *sets), prefix=prefix) as running:
        edge = Edge(Walk(running), prefix)
        edge.wait_for_link(up=True)
        eventually(
            lambda: knows(edge, "meter-1") and knows(edge, "meter-2"),
            seconds=60,
            what="the devices",
        )
        yield edge


def knows(edge: Edge, device: str) -> bool:
    """True when the edge has the Device."""
    reply = f"$hw/events/device/{NAMESPACE}/{device}/twin/get"
    command = edge.walk.mqtt(
        "mosquitto_rr", None, "-t", reply, "-e", f"{reply}/result", "-m", "{}", "-W", "2"
    )
    done = subprocess.run(
        [*edge.prefix, *command], capture_output=True, text=True, timeout=10, check=False
    )
    return '"level"' in done.stdout


def level(cloud: Walk, device: str) -> Any:
    """What the thing says the device last reported."""
    return cloud.thing(f"{NAMESPACE}:{device}", "/features/level/properties/value")


def history(cloud: Walk, device: str) -> list[tuple[int, Any]]:
    """Every revision of the thing that set the reported level, with the value."""
    url = cloud.running.url(
        "ditto.http",
        f"/api/2/things/{NAMESPACE}:{device}?from-historical-revision=1"
        "&fields=_revision,features/level/properties/value",
    )
    answer = curl("GET", url, "-N", "-H", "Accept: text/event-stream", user="ditto:ditto")
    found = [
        json.loads(line.removeprefix("data:"))
        for line in answer.body.splitlines()
        if line.startswith("data:") and line != "data:"
    ]
    levels = ((part["_revision"], part.get("features", {}).get("level")) for part in found)
    return [(revision, part["properties"]["value"]) for revision, part in levels if part]
