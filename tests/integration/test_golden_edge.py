"""Golden transcripts of the link, played against a running EdgeCore by a scripted cloud."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.integration.edge_cloud import Authority, FakeCloud, a_cloud
from tests.integration.edge_node import Node, a_node, join_edge, linked
from tests.integration.edge_support import until
from tests.transcripts import EDGE, Action, Player, Transcript, transcripts


class ScriptedCloud(FakeCloud):
    """A cloud that answers by itself until a script takes over."""

    def __init__(self, authority: Authority) -> None:
        super().__init__(authority)
        self.is_scripted = False
        self.received: list[str] = []

    async def _take_frame(self, socket: web.WebSocketResponse, frame: str) -> None:
        if self.is_scripted:
            self.received.append(frame)
        else:
            await super()._take_frame(socket, frame)

    async def send_frame(self, frame: str) -> None:
        await until(lambda: self.socket is not None)
        assert self.socket is not None
        await self.socket.send_str(frame)


class Link:
    """The player's end."""

    def __init__(self, cloud: ScriptedCloud) -> None:
        self._cloud = cloud

    @property
    def received(self) -> list[str]:
        return self._cloud.received

    async def send(self, frame: str) -> None:
        await self._cloud.send_frame(frame)


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[ScriptedCloud]:
    async with a_cloud(tmp_path, ScriptedCloud) as running:
        yield running


def actions(node: Node) -> dict[str, Action]:
    async def publish(what: Any) -> None:
        payload = what["payload"]
        data = payload.encode() if isinstance(payload, str) else payload
        assert await node.publish(what["topic"], data) is None

    async def heard(what: Any) -> None:
        await until(lambda: (what["topic"], what["payload"].encode()) in node.told)

    async def has(what: Any) -> None:
        _, kind, name = what["key"].split("/")
        stored: list[Any] = await node.core.meta.list(kind)
        assert (name in [each["metadata"]["name"] for each in stored]) is what["there"]

    return {"publish": publish, "heard": heard, "has": has}


@pytest.mark.parametrize("path", transcripts(EDGE), ids=lambda path: path.stem)
async def test_the_edge_plays_its_part(path: Path, tmp_path: Path, cloud: ScriptedCloud) -> None:
    script = Transcript.read(path)
    await join_edge(cloud, tmp_path / "edge")
    cloud.is_scripted = script.from_connect
    async with a_node(tmp_path / "edge") as node:
        if not script.from_connect:
            await linked(node, cloud)
            await asyncio.sleep(0)
            cloud.is_scripted = True
        failure = await Player(script, EDGE, Link(cloud), actions(node)).failure()
    assert not failure, failure
