"""kubectl at an edge whose cloud has been killed: the shipped command, in processes of their own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.process import Twinspan, eventually, run, tool, twinspan

MODEL: dict[str, Any] = {
    "apiVersion": "devices.kubeedge.io/v1beta1",
    "kind": "DeviceModel",
    "metadata": {"name": "m1", "namespace": "default"},
    "spec": {"properties": [{"name": "temp", "type": "INT", "accessMode": "ReadWrite"}]},
}
DEVICE: dict[str, Any] = {
    "apiVersion": "devices.kubeedge.io/v1beta1",
    "kind": "Device",
    "metadata": {"name": "d1", "namespace": "default"},
    "spec": {
        "deviceModelRef": {"name": "m1"},
        "nodeName": "edge-9",
        "protocol": {"protocolName": "none"},
        "properties": [{"name": "temp", "desired": {"value": "1"}}],
    },
}


def cli(*arguments: str) -> str:
    return run(sys.executable, "-m", "gateway.cli", *arguments)


class Kubectl:
    """kubectl with one kubeconfig and a cache of its own."""

    def __init__(self, home: Path, name: str, config: str) -> None:
        self.file = home / f"{name}.kubeconfig"
        self.file.write_text(config)
        self.file.chmod(0o600)
        self.cache = home / f"{name}.cache"

    def __call__(self, *arguments: str, stdin: str | None = None) -> str:
        options = (f"--kubeconfig={self.file}", f"--cache-dir={self.cache}")
        return run(tool("kubectl"), *options, *arguments, stdin=stdin)


def join(cloud: Twinspan, folder: Path) -> None:
    token = cli("token", "--data-dir", str(cloud.data_dir)).strip()
    address = f"https://{cloud.endpoints['cloudhub.https']}"
    hub = ("--hub", cloud.endpoints["cloudhub.wss"], "--node-name", "edge-9")
    cli("edge", "join", address, *hub, "--token", token, "--data-dir", str(folder))


def test_kubectl_reads_an_edges_disk_after_its_cloud_was_killed(tmp_path: Path) -> None:
    with twinspan(tmp_path / "cloud", "cloud", "--demo") as cloud:
        join(cloud, tmp_path / "edge")
        there = Kubectl(tmp_path, "cloud", cli("kubeconfig", "--data-dir", str(cloud.data_dir)))
        with twinspan(tmp_path / "edge", "edge", "run") as edge:
            for document in (MODEL, DEVICE):
                there("apply", "-f", "-", stdin=json.dumps(document))
            eventually(lambda: _devices(edge) == 1, what="the Device at the edge")
            cloud.kill()
            here = Kubectl(
                tmp_path, "edge", cli("edge", "kubeconfig", "--data-dir", str(edge.data_dir))
            )
            assert here("get", "devices", "-o", "name").split() == ["device.devices.kubeedge.io/d1"]
            found = json.loads(here("get", "device", "d1", "-o", "json"))
            assert found["spec"]["properties"][0]["desired"]["value"] == "1"
            edge.kill()
            edge.start()  # and once more from nothing but the disk
            here = Kubectl(
                tmp_path, "again", cli("edge", "kubeconfig", "--data-dir", str(edge.data_dir))
            )
            assert here("get", "devicemodels", "-o", "name").split() == [
                "devicemodel.devices.kubeedge.io/m1"
            ]
            assert here("get", "secrets", "-o", "name") == ""  # the admin token's right


def _devices(edge: Twinspan) -> int:
    found = json.loads(cli("edge", "status", "--output", "json", "--data-dir", str(edge.data_dir)))
    return int(found["devices"])
