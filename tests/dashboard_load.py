"""A cloud and an edge with containers, and what makes every part of them count: load, and scripted faults."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloud import demo
from edge.pods.mounts import Mounts
from tests.containerd import Containerd
from tests.edge_walk import LINK, join, new_token
from tests.pods_e2e import NODE, PodsCluster, a_kubectl, settings
from tests.ports import free_port
from tests.process import Twinspan, eventually, tool, twinspan
from tests.walk import DEMO_DEVICE, DITTO_USER, Device, Lines, Walk, curl, lines_of

EVENT_ROOM = 4_000
SPOOL_ROOM = 20_000
CLOUD_SETS = (f"hono.events.max_bytes_per_tenant={EVENT_ROOM}",)
EDGE_SETS = (
    f"edge.spool.max_telemetry_bytes={SPOOL_ROOM}",
    "edge.network.services=off",
    "edge.network.dns=off",
    *LINK,
)
PODS = """
apiVersion: v1
kind: Pod
metadata: {name: steady, namespace: default}
spec:
  nodeName: edge-1
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: IMAGE
    command: [sleep, "600"]
    resources: {limits: {memory: 32Mi}}
    readinessProbe: {exec: {command: ["false"]}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: crashing, namespace: default}
spec:
  nodeName: edge-1
  terminationGracePeriodSeconds: 0
  containers:
  - {name: main, image: IMAGE, command: [sh, -c, "sleep 1; exit 1"]}
"""
UNREACHABLE = {
    "apiVersion": demo.API,
    "kind": "Device",
    "metadata": {"name": "meter", "namespace": "default"},
    "spec": {
        "deviceModelRef": {"name": "meter"},
        "nodeName": NODE,
        "protocol": {
            "protocolName": "modbus",
            "configData": {"communicateMode": "TCP", "ip": "127.0.0.1", "port": 1, "slaveID": 1},
        },
        "properties": [
            {
                "name": "voltage",
                "reportToCloud": True,
                "collectCycle": 200,
                "visitors": {
                    "protocolName": "modbus",
                    "configData": {"register": "InputRegister", "offset": 0},
                },
            }
        ],
    },
}
METER = {
    "apiVersion": demo.API,
    "kind": "DeviceModel",
    "metadata": {"name": "meter", "namespace": "default"},
    "spec": {
        "protocol": "modbus",
        "properties": [{"name": "voltage", "type": "INT", "accessMode": "ReadOnly"}],
    },
}
"""A Modbus device behind a port where nobody listens."""


@dataclass(frozen=True, slots=True)
class Site:
    """What runs, and devices that send."""

    cloud: Walk
    edge: Twinspan
    cluster: PodsCluster
    lonely: Device
    wrong: Device

    def some_traffic(self, turn: int) -> None:
        """Every kind of message with every outcome, once."""
        cloud = self.cloud
        for device in (DEMO_DEVICE, self.lonely):
            cloud.upload(device, "telemetry", {"n": turn}, "-H", "qos-level: 1")
            cloud.upload(device, "event", {"filler": "x" * 500})
        cloud.upload(self.wrong, "telemetry", {"n": turn})
        cloud.try_publish(self.wrong, "telemetry", "{}", "-q", "1")
        cloud.publish(DEMO_DEVICE, "telemetry", {"temp": turn}, "-q", "1")
        cloud.try_publish(DEMO_DEVICE, "wrong-topic", "x", "-q", "1")
        self._twins(turn)
        self._at_the_edge(turn)

    def _twins(self, turn: int) -> None:
        cloud = self.cloud
        cloud.ditto("GET", "things/org.acme:4711")
        cloud.ditto("GET", "things/org.acme:none")
        cloud.ditto("PUT", "things/org.acme:4711/attributes/turn", data=turn)
        cloud.ditto(
            "PUT",
            "things/default:thermostat/features/target/desiredProperties/value",
            data=20 + turn % 5,
        )
        cloud.ditto(
            "POST",
            "bulk",
            data=[{"topic": "org.acme/4711/things/twin/commands/retrieve", "path": "/"}],
        )
        self.cluster.kubectl("get", "pods", "-A")
        self.cluster.kubectl("logs", "steady", "--tail=1", is_ok=False)

    def _at_the_edge(self, turn: int) -> None:
        edge = Walk(self.edge)
        for payload in ({"n": turn}, {"filler": "x" * 4_000}):
            edge.try_publish(None, "telemetry//default:lamp", payload, "-q", "1")
        edge.try_publish(None, "event//default:lamp", {"n": turn}, "-q", "1")
        edge.try_publish(None, "telemetry/foreign/nobody", {"n": turn}, "-q", "1")
        url = self.edge.url("edge.metaserver", "/api/v1/pods")
        curl("GET", url)


@contextmanager
def site(folder: Path, containerd: Containerd, *cloud_sets: str) -> Iterator[Site]:
    """Run both processes for the length of the block; the node is ready, its Devices and Pods are there."""
    hub = f"cloud.hub.wss.bind=127.0.0.1:{free_port()}"
    told = (*settings(containerd, folder), *EDGE_SETS)
    try:
        with ExitStack() as stack:
            sets = (hub, *CLOUD_SETS, *cloud_sets)
            running = stack.enter_context(twinspan(folder / "cloud", "cloud", "--demo", sets=sets))
            cloud = Walk(running)
            cluster = PodsCluster(running, containerd, a_kubectl(), folder)
            said = join(cloud, folder / "edge", new_token(cloud), "--node-name", NODE)
            assert said.startswith("0 "), said
            join(cloud, folder / "stranger", "no-token", "--node-name", "stranger")
            tunnel = f"edge.stream.server={running.endpoints['tunnel.wss']}"
            at_edge = twinspan(folder / "edge", "edge", "run", sets=(*told, tunnel))
            edge = stack.enter_context(at_edge)
            _ready(cloud, cluster)
            lonely = cloud.a_device("lonely", "d1")
            wrong = Device(DEMO_DEVICE.tenant, "4711", DEMO_DEVICE.login, "wrong")
            yield Site(cloud, edge, cluster, lonely, wrong)
    finally:
        Mounts().clear(folder)


def _ready(cloud: Walk, cluster: PodsCluster) -> None:
    eventually(lambda: cluster.condition().get("status") == "True", seconds=90, what="Ready")
    documents: list[Any] = [METER, UNREACHABLE]
    documents += [
        make for kind in demo.MODELS for make in (demo.model(kind), demo.device(kind, NODE))
    ]
    cluster.kubectl("apply", "-f", "-", stdin="\n---\n".join(map(json.dumps, documents)))
    cluster.apply(PODS)
    cluster.until_running("steady")
    eventually(lambda: cloud.thing("default:thermostat") is not None, what="the thing of a Device")


@contextmanager
def followers(site: Site) -> Iterator[Lines]:
    """A device that listens for commands (what it got), and an application that follows changes."""
    stream = site.cloud.running.url("ditto.http", "/api/2/things")
    follow = (tool("curl"), "-sN", "-u", DITTO_USER, "-H", "Accept: text/event-stream", stream)
    watch = site.cloud.subscribed(DEMO_DEVICE, "-t", "command///req/#")
    local = Walk(site.edge).subscribed(None, "-t", "$hw/#")
    with lines_of(*follow), watch as commands, local:
        yield commands


def answer(site: Site, commands: Lines) -> None:
    """Answer the next request, as the device that follows."""
    topic = commands.message("/state").split(" ", 1)[0]
    site.cloud.publish(DEMO_DEVICE, f"command///res/{topic.split('/')[4]}/200", {"done": True})


def scrapes(site: Site, folder: Path) -> dict[str, Any]:
    """Settings of a Prometheus that scrapes all of it, as docs/monitoring.md and docs/edge-metrics.md say."""
    data = site.cloud.running.data_dir
    token = folder / "token"
    token.write_text((data / "kube" / "admin.token").read_text().strip())
    kubelet = {
        "scheme": "https",
        "authorization": {"credentials_file": str(token)},
        "tls_config": {"ca_file": str(data / "kube" / "ca.crt")},
        "static_configs": [
            {"targets": [site.cloud.running.endpoints["kube.https"]], "labels": {"node": NODE}}
        ],
    }
    proxied = [
        {
            "job_name": f"edge-{path}",
            "metrics_path": f"/api/v1/nodes/{NODE}/proxy/metrics/{path}",
            "scrape_interval": "2s",
            "scrape_timeout": "2s",
            **kubelet,
        }
        for path in ("cadvisor", "probes")
    ]
    own = {"targets": [site.edge.endpoints["ops.http"]], "labels": {"node": NODE}}
    cloud = {"targets": [site.cloud.running.endpoints["ops.http"]]}
    return {
        "global": {
            "scrape_interval": "500ms",
            "scrape_timeout": "500ms",
            "evaluation_interval": "1s",
        },
        "rule_files": [str(Path(__file__).parents[1] / "dashboards" / "rules" / "*.yaml")],
        "scrape_configs": [
            {"job_name": "twinspan", "static_configs": [cloud]},
            {"job_name": "twinspan-edge", "static_configs": [own]},
            *proxied,
        ],
    }
