"""Golden transcripts of the link, played against a running CloudCore by a scripted edge."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.kube.client import PatchType
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.names import NODE_ID, PROJECT_ID
from tests.cloud_rig import Certificate, CloudCore, a_cloud, eventually, fetch_ca, join
from tests.transcripts import CLOUD, Action, Player, Transcript, transcripts

DEVICES = "devices.kubeedge.io/v1beta1"
OPERATIONS = "operations.kubeedge.io/v1alpha2"


class Link:
    """The player's end: raw text frames."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._received: list[str] = []

    @property
    def received(self) -> list[str]:
        return self._received

    async def send(self, frame: str) -> None:
        await self._socket.send_str(frame + "\n")  # as Go's encoder ends its documents

    async def read_forever(self) -> None:
        async for message in self._socket:
            self._received.append(message.data)


@asynccontextmanager
async def a_link(cloud: CloudCore, certificate: Certificate) -> AsyncIterator[Link]:
    """Connect as KubeEdge's edge does: no header of ours."""
    context = certificate.context(await fetch_ca(cloud))
    headers = {NODE_ID: "edge-1", PROJECT_ID: "p", "ConnectionUse": "msg"}
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(
            f"{cloud.wss}/p/edge-1/events", headers=headers, ssl=context, max_msg_size=0, compress=0
        ) as socket,
    ):
        link = Link(socket)
        reader = asyncio.create_task(link.read_forever())
        try:
            yield link
        finally:
            await socket.close()
            await reader


def actions(cloud: CloudCore) -> dict[str, Action]:
    async def create(document: Any) -> None:
        plural = document["kind"].lower() + "s"
        namespace = document["metadata"].get("namespace")
        await cloud.kube.create(document["apiVersion"], plural, namespace, document)

    async def want(what: Any) -> None:
        path = f"/spec/properties/{what['property']}/desired/value"
        patch: Any = [{"op": "replace", "path": path, "value": what["value"]}]
        await cloud.kube.patch(
            DEVICES, "devices", "default", what["name"], patch, patch_type=PatchType.JSON
        )

    async def delete(what: Any) -> None:
        group_version = what.get("apiVersion", DEVICES)
        await cloud.kube.delete(group_version, what["plural"], "default", what["name"])

    async def job(what: Any) -> None:
        async def is_there() -> bool:
            found = await cloud.object(OPERATIONS, what["plural"], None, what["name"])
            return bool(found.get("status", {}).get("phase") == what["phase"])

        await eventually(is_there, "the job's phase")

    return {"create": create, "want": want, "delete": delete, "job": job}


@pytest.mark.parametrize("path", transcripts(CLOUD), ids=lambda path: path.stem)
async def test_the_cloud_plays_its_part(path: Path, tmp_path: Path) -> None:
    script = Transcript.read(path)
    async with a_cloud(tmp_path) as cloud:
        certificate = await join(cloud, "edge-1")
        if not script.from_connect:
            await cloud.kube.create("v1", "nodes", None, a_registered_node())
        async with a_link(cloud, certificate) as link:
            failure = await Player(script, CLOUD, link, actions(cloud)).failure()
    assert not failure, failure


def a_registered_node() -> JsonObject:
    return {"metadata": {"name": "edge-1", "labels": {"node-role.kubernetes.io/edge": ""}}}
