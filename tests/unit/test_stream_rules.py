"""Rules of the stream tunnel that need no socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from types import SimpleNamespace
from typing import Any

import pytest

import cloud.streams
from cloud.streams import MAX_WAITING, TunnelStream, void
from cloud.streamserver import StreamServer, check_caller, host_of, proxied
from edge.streamlinks import lines
from gateway.errors import Forbidden, Undeliverable
from gateway.wire.cloudedge.tunnel import Frame, FrameType, kind_of


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/containerLogs/default/p/c", FrameType.LOGS),
        ("/exec/default/p/c", FrameType.EXEC),
        ("/attach/default/p/uid/c", FrameType.ATTACH),
        ("/stats/summary", FrameType.METRICS),
        ("/metrics", FrameType.METRICS),
        ("/metrics/cadvisor", FrameType.METRICS),
        ("/stats", None),
        ("/metricsfoo", None),
        ("/pods", FrameType.LOGS),
        ("/healthz", FrameType.LOGS),
        ("/run/default/p/c", None),
        ("/containerLogs/../pods", None),
        ("/containerLogs//pods", None),
        ("/stats/summary\r\nX: y", None),
        ("metrics", None),
        ("", None),
    ],
)
def test_only_the_kubelets_paths_are_carried(path: str, kind: FrameType | None) -> None:
    assert kind_of(path) is kind


@pytest.mark.parametrize(
    ("authority", "host"),
    [("edge-1:10351", "edge-1"), ("edge-1", "edge-1"), ("[fd00::1]:10351", "fd00::1")],
)
def test_the_host_header_names_the_node(authority: str, host: str) -> None:
    assert host_of(authority) == host


def test_a_nodes_certificate_does_not_do_for_an_api_server() -> None:
    check_caller({"subject": ((("commonName", "apiserver"),),)})
    with pytest.raises(Forbidden):
        check_caller({"subject": ((("organizationName", "system:nodes"),),)})
    with pytest.raises(Forbidden):
        check_caller({"subject": ((("commonName", "kubeedge.io"),),)})
    with pytest.raises(Forbidden):
        check_caller(None)


async def test_metrics_come_line_by_line_each_with_its_end() -> None:
    async def body(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    found = [line async for line in lines(body([b"a 1\nb", b" 2\n\nc", b" 3"]))]
    assert found == [b"a 1\n", b"b 2\n", b"\n", b"c 3\n"]


async def test_a_client_that_does_not_read_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloud.streams, "SLOW_SECONDS", 0.01)
    stream = TunnelStream(1, _send, void)
    stream.take(bytes(MAX_WAITING))
    assert await stream.has_room()
    stream.take(b"x")
    assert not await stream.has_room()
    await stream.read()
    assert await stream.has_room()


async def test_what_came_is_read_before_the_bad_end() -> None:
    stream = TunnelStream(1, _send, void)
    stream.take(b"x")
    stream.end("its tunnel broke")
    assert await stream.read() == b"x"
    with pytest.raises(Undeliverable, match="its tunnel broke"):
        await stream.read()
    with pytest.raises(Undeliverable):
        await stream.write(b"y")


async def _send(_frame: Frame) -> None: ...


@pytest.mark.parametrize(
    ("uri", "node"),
    [
        ("/api/v1/nodes/edge-1/proxy/stats/summary", "edge-1"),
        ("/api/v1/nodes/https:edge-1:10351/proxy", "edge-1"),
        ("/api/v1/nodes/edge-1/status", ""),
        ("/api/v1/pods/edge-1/proxy", ""),
        ("", ""),
    ],
)
def test_an_api_server_s_proxy_names_the_node(uri: str, node: str) -> None:
    assert proxied(uri) == node


@pytest.mark.parametrize(
    ("path", "headers", "node"),
    [
        ("/portForward/ns/web", {"host": "127.0.0.1:6443"}, "edge-1"),
        ("/portForward/ns/web", {"host": "edge-2:10351"}, "edge-2"),
        ("/exec/ns/other/c", {"host": "10.0.0.7:10351"}, "10.0.0.7"),
        ("/stats/summary", {"host": "10.0.0.7:10351"}, "10.0.0.7"),
        (
            "/stats/summary",
            {"host": "api:6443", "x-forwarded-uri": "/api/v1/nodes/edge-2/proxy/stats/summary"},
            "edge-2",
        ),
    ],
)
def test_the_node_is_found_where_the_host_is_an_api_server_s(
    path: str, headers: dict[str, str], node: str
) -> None:
    """Port-forward, and exec by SPDY, come with the Host that kubectl asked."""
    pods: Any = SimpleNamespace(
        pod=lambda *key: {"spec": {"nodeName": "edge-1"}} if key == ("ns", "web") else None
    )
    peers: Any = SimpleNamespace(is_node=lambda name: name == "edge-2")
    none: Any = None
    server = StreamServer(none, none, none, peers, pods, none, none)
    assert server._meant(path, headers) == node
