"""Logs of Pods through the console: as they come, until the reader, the session or the kubelet ends them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from gateway.console.streams import UNHEARD, UNHEARD_MILLIS, settle
from gateway.errors import NotBuilt, Undeliverable
from gateway.kube.kubelets import Answer, ByteStream
from gateway.model.json import JsonObject
from tests.cloud_samples import a_node
from tests.console_rig import HEADER, Rig, a_console


@dataclass
class FakeKubelets:
    """Tells pieces, then ends, breaks or stays silent."""

    pieces: Sequence[bytes] = (b"one\n", b"two\n")
    end: str = "end"
    asked: list[tuple[str, str]] = field(default_factory=list)
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def get(self, _node: JsonObject, path: str, query: str, /) -> Answer:
        self.asked.append((path, query))
        if self.end == "refuse":
            return Answer(400, "text/plain", self._told())
        return Answer(200, "text/plain", self._told())

    async def _told(self) -> AsyncIterator[bytes]:
        try:
            for piece in self.pieces:
                yield piece
            if self.end == "break":
                raise Undeliverable("the node has gone")
            if self.end == "bug":
                raise ValueError("nobody thought of this")
            if self.end == "silent":
                await asyncio.Event().wait()
        finally:
            self.closed.set()

    async def upgrade(self, *_: object) -> ByteStream:
        raise NotBuilt("not here")


async def a_pod(rig: Rig) -> None:
    await rig.kube.create("v1", "nodes", None, a_node("edge-1"))
    containers: JsonObject = {"containers": [{"name": "web", "image": "web:1"}]}
    body: JsonObject = {
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {**containers, "nodeName": "edge-1"},
    }
    await rig.kube.create("v1", "pods", "default", body)


def log_of(rig: Rig, query: str = "") -> str:
    return f"{rig.url}/console/api/pods/default/web/log?{query}"


async def test_a_log_is_asked_for_as_kubectl_does(tmp_path: Path) -> None:
    kubelets = FakeKubelets()
    async with a_console(tmp_path, kubelets=kubelets) as rig:
        await a_pod(rig)
        async with rig.http.get(log_of(rig, "tail=7&timestamps=true"), headers=HEADER) as response:
            assert await response.text() == "one\ntwo\n"
            assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
            assert response.headers["X-Content-Type-Options"] == "nosniff"
        ((path, query),) = kubelets.asked
        assert path == "/containerLogs/default/web/web"
        assert set(query.split("&")) == {"tailLines=7", "timestamps=true"}
        for bad in ("tail=-1", "tail=10001", "container=other"):
            status, _ = await rig.ask(f"pods/default/web/log?{bad}")
            assert status == 400, bad


async def test_a_kubelet_s_refusal_is_told(tmp_path: Path) -> None:
    kubelets = FakeKubelets((b"container is waiting",), "refuse")
    async with a_console(tmp_path, kubelets=kubelets) as rig:
        await a_pod(rig)
        status, found = await rig.ask("pods/default/web/log")
        assert (status, found["message"]) == (400, "container is waiting")


async def test_a_log_that_breaks_says_so(tmp_path: Path) -> None:
    async with a_console(tmp_path, kubelets=FakeKubelets(end="break")) as rig:
        await a_pod(rig)
        async with rig.http.get(log_of(rig), headers=HEADER) as response:
            assert (await response.text()).endswith("the log ended early: the node has gone\n")


@pytest.mark.parametrize("ends", ["reader", "session"])
async def test_a_silent_log_is_closed_when_nobody_is_there_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    monkeypatch.setattr("gateway.console.streams.LOOK_SECONDS", 0.05)
    kubelets = FakeKubelets(end="silent")
    async with a_console(tmp_path, kubelets=kubelets) as rig:
        await a_pod(rig)
        async with rig.http.get(log_of(rig, "follow=true"), headers=HEADER) as response:
            assert await response.content.readline() == b"one\n"
            if ends == "reader":
                response.close()
            else:
                await rig.ask("session", "DELETE")
            async with asyncio.timeout(10):
                await kubelets.closed.wait()


async def test_what_breaks_after_the_answer_began_cuts_it_and_writes_no_other_into_it(
    tmp_path: Path,
) -> None:
    async with a_console(tmp_path, kubelets=FakeKubelets(end="bug")) as rig:
        await a_pod(rig)
        async with rig.http.get(log_of(rig), headers=HEADER) as response:
            assert await response.content.readuntil(b"two\n") == b"one\ntwo\n"
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.content.read()
        assert len(rig.console.streams) == 0


@pytest.mark.skipif(UNHEARD is None, reason="this system cannot say how long a peer may be silent")
def test_a_reader_whose_machine_is_silent_is_given_up() -> None:
    with socket.socket() as line:
        settle(FakeTransport(line))
        assert UNHEARD is not None
        assert line.getsockopt(socket.IPPROTO_TCP, UNHEARD) == UNHEARD_MILLIS
    settle(FakeTransport(line))  # closed already
    settle(None)


class FakeTransport(asyncio.Transport):
    """Knows its socket."""

    def __init__(self, line: socket.socket) -> None:
        super().__init__({"socket": line})

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing waits here."""
