"""Modules of another package, installed by pip into a directory of its own, run inside EdgeCore."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from edge import pluginmodules
from gateway.config.edge_services import Plugins
from gateway.model.message import Kind
from gateway.wire.cloudedge.twins import MemberDevice
from tests.integration.edge_cloud import FakeCloud, a_cloud
from tests.integration.edge_node import LAMP_MODEL, Node, a_device, a_node, join_edge, linked
from tests.integration.edge_support import until
from tests.mqtt_peers import run_tool

PACKAGE = '''
"""A plug-in: a button on MQTT switches a lamp by its method, and what it did goes north."""

import asyncio
import json


class Buttons:
    name = "acme.buttons"

    def __init__(self, port):
        self.port = port
        self.pressed = asyncio.Queue()

    async def run(self, ready):
        self.port.listen("acme/button", lambda topic, payload: self.pressed.put_nowait(payload))
        ready()
        (self.port.folder / "began").write_text(self.port.node)
        while True:
            payload = await self.pressed.get()
            if payload == b"crash":
                raise RuntimeError("the button broke")
            answer = await self.port.call("default/lamp", "switch", {"on": payload == b"on"})
            state = answer["properties"]["on"]["state"]
            await self.port.report("default/lamp", {"presses": "1"})
            twin = self.port.twins("default/lamp")["presses"]
            said = {"state": state, "presses": twin.reported, "linked": self.port.is_linked}
            body = json.dumps(said).encode()
            await self.port.send("event", "default:lamp", body, "application/json")
            self.port.publish("acme/done", body, qos=1)


def deaf(port):
    def heard(topic, payload):
        raise ValueError("not for me")

    class Deaf:
        name = "deaf"

        async def run(self, ready):
            port.listen("acme/#", heard)
            await asyncio.Event().wait()

    return Deaf()
'''
INFO = "acme_buttons-1.0.dist-info"
FILES = {
    "acme_buttons.py": PACKAGE,
    f"{INFO}/METADATA": "Metadata-Version: 2.1\nName: acme-buttons\nVersion: 1.0\n",
    f"{INFO}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    f"{INFO}/entry_points.txt": (
        "[twinspan.modules]\nbuttons = acme_buttons:Buttons\ndeaf = acme_buttons:deaf\n"
    ),
}


def make_wheel(folder: Path) -> Path:
    """Write the package as a wheel."""
    path = folder / "acme_buttons-1.0-py3-none-any.whl"
    record = "".join(f"{name},,\n" for name in (*FILES, f"{INFO}/RECORD"))
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in {**FILES, f"{INFO}/RECORD": record}.items():
            wheel.writestr(name, text)
    return path


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    wheel = make_wheel(tmp_path_factory.mktemp("source"))
    words = ("install", "-q", "--no-deps", "--no-index", "--target", str(target), str(wheel))
    done = subprocess.run(
        [sys.executable, "-m", "pip", *words],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(pluginmodules, "RETRY_FIRST", 0.05)
    monkeypatch.syspath_prepend(str(site))
    yield
    sys.modules.pop("acme_buttons", None)


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[FakeCloud]:
    folder = tmp_path / "cloud"
    folder.mkdir()
    async with a_cloud(folder) as served:
        served.members = [MemberDevice(id="default/lamp", name="lamp")]
        yield served


@pytest.fixture
async def node(installed: None, cloud: FakeCloud, tmp_path: Path) -> AsyncIterator[Node]:
    await join_edge(cloud, tmp_path / "edge")
    plugins = Plugins(modules=("buttons", "deaf"))
    async with a_node(tmp_path / "edge", plugins=plugins) as served:
        await linked(served, cloud)
        await cloud.push("devicemodel", "m1", LAMP_MODEL)
        lamp = a_device(protocol="virtual", on=None)
        lamp["spec"]["methods"] = [{"name": "switch", "propertyNames": ["on"]}]
        await cloud.push("device", "lamp", lamp)
        await until(lambda: cloud.reported("on") == ["false"])
        yield served


async def press(node: Node, payload: bytes) -> None:
    assert node.core.broker is not None
    port = node.endpoints.port("edge.mqtt")
    words = ("-p", str(port), "-q", "1", "-t", "acme/button", "-m", payload.decode())
    done = await run_tool("mosquitto_pub", *words)
    assert done.code == 0, done.err


async def test_a_plug_in_hears_calls_reports_and_sends(
    cloud: FakeCloud, node: Node, tmp_path: Path
) -> None:
    await press(node, b"on")
    await until(lambda: cloud.reported("on")[-1] == "true")
    said = {"state": "written", "presses": "1", "linked": True}
    await until(lambda: [u for u in cloud.uploads if b"presses" in u.payload])
    events = [u for u in cloud.uploads if b"presses" in u.payload]
    assert [(u.kind, u.device, json.loads(u.payload)) for u in events][:1] == [
        (Kind.EVENT, "default:lamp", said)
    ]
    await until(lambda: node.heard("acme/done"))
    assert (tmp_path / "edge" / "edge" / "plugins" / "buttons" / "began").read_text() == "edge-1"


async def test_a_plug_in_that_fails_is_started_again_and_stops_nobody(
    cloud: FakeCloud, node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    await press(node, b"crash")
    plugin = next(p for p in node.core.devices.plugins if p.plugin == "buttons")
    await until(lambda: "the button broke" in str(plugin.facts()["last_error"]))
    await until(lambda: plugin.facts()["running"])
    await press(node, b"on")
    await until(lambda: cloud.reported("on")[-1] == "true")
    said = {record.message for record in caplog.records}
    assert {"a plug-in failed", "a plug-in failed at a message"} <= said  # `deaf` hears it all


async def test_what_a_plug_in_listens_to_ends_with_it(node: Node) -> None:
    plugin = next(p for p in node.core.devices.plugins if p.plugin == "deaf")
    assert plugin._port._heard
    plugin._port.release()
    assert not plugin._port._heard
    await asyncio.sleep(0)
