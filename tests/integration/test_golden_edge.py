"""Golden transcripts of the link, played against a running EdgeCore by a scripted cloud."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gateway.config.edge_services import ServiceBus
from gateway.runtime.listener import Endpoints
from gateway.runtime.small_client import fetch
from gateway.runtime.small_service import Request, Response, serve_requests
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


async def post(node: Node, target: str, payload: Any = None) -> tuple[int, Any]:
    """Ask ServiceBus as a service of this machine does."""
    body = json.dumps({"method": "POST", "targetURL": target, "payload": payload}).encode()
    url = f"http://{node.endpoints.get('edge.servicebus')}/"
    answer = await fetch("POST", url, body=body, seconds=10, max_body=65_536)
    return answer.status, json.loads(answer.body)


def service_actions(node: Node) -> dict[str, Action]:
    posting: list[asyncio.Task[tuple[int, Any]]] = []

    async def start(what: Any) -> None:
        target, payload = what["target"], what["payload"]
        await until(lambda: node.core.targets.allows(target))
        posting.append(asyncio.create_task(post(node, target, payload)))

    async def posted(what: Any) -> None:
        status, body = await posting.pop()
        assert {"status": status, "code": body["code"], "body": body["body"]} == what

    async def refused(what: Any) -> None:
        await until(lambda: not node.core.targets.allows(what["target"]))
        assert (await post(node, what["target"]))[0] == 403

    return {"post": start, "posted": posted, "refused": refused}


async def echo(request: Request) -> Response:
    """The service of the transcripts."""
    answer = {"Content-Type": request.headers["content-type"]}
    return Response(201 if request.path == "/x/y" else 404, answer, request.body)


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

    return {"publish": publish, "heard": heard, "has": has, **service_actions(node)}


@pytest.mark.parametrize("path", transcripts(EDGE), ids=lambda path: path.stem)
async def test_the_edge_plays_its_part(path: Path, tmp_path: Path, cloud: ScriptedCloud) -> None:
    script = Transcript.read(path)
    await join_edge(cloud, tmp_path / "edge")
    cloud.is_scripted = script.from_connect
    services, free = Endpoints(), "127.0.0.1:0"
    async with (
        serve_requests(services, "echo", free, echo, max_body=1_000, setting="echo"),
        a_node(tmp_path / "edge", servicebus=ServiceBus(enabled=True, bind=free)) as node,
    ):
        if not script.from_connect:
            await linked(node, cloud)
            await asyncio.sleep(0)
            cloud.is_scripted = True
        known = {"call": f"{services.port('echo')}:/x/y"}
        failure = await Player(script, EDGE, Link(cloud), actions(node), known=known).failure()
    assert not failure, failure
