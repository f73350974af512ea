"""What clients of the Kubernetes API send that nobody should: refused in a word, and the server goes on."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.config.kube import Kube, KubeHttps
from gateway.kube import streams
from tests.cloud_rig import eventually
from tests.kube_server import KubeServer, kube_server

CONFIGMAPS = "/api/v1/namespaces/default/configmaps"
JSON_PATCH = {"Content-Type": "application/json-patch+json"}
MERGE = {"Content-Type": "application/merge-patch+json"}
YAML = {"Content-Type": "application/yaml"}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[KubeServer]:
    settings = Kube(https=KubeHttps(bind="127.0.0.1:0"), watch_buffer=5)
    async with kube_server(tmp_path, settings, controllers=None) as running:
        yield running


def trusting(server: KubeServer) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(server.folder / "kube" / "ca.crt"))


@pytest.fixture
async def http(server: KubeServer) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(
        server.url,
        headers={"Authorization": f"Bearer {server.token}"},
        connector=aiohttp.TCPConnector(ssl=trusting(server)),
    ) as found:
        yield found


async def ask(
    http: aiohttp.ClientSession, method: str, path: str, expected: int, **kwargs: Any
) -> Any:
    async with http.request(method, path, **kwargs) as response:
        text = await response.text()
        assert response.status == expected, text[:500]
        return json.loads(text)


async def a_configmap(http: aiohttp.ClientSession, name: str = "c", **data: str) -> None:
    body = {"metadata": {"name": name}, "data": data}
    await ask(http, "POST", CONFIGMAPS, 201, json=body)


@pytest.mark.parametrize(
    "text",
    [
        "metadata: {name: a, generation: " + "9" * 6_000 + "}",
        "data: {a: 2020-13-45}",
        "a: " + "[" * 3_000,
        "a: &a [x]\nb: *a",
    ],
)
async def test_yaml_that_is_no_object_is_the_client_s_fault(
    http: aiohttp.ClientSession, text: str
) -> None:
    await ask(http, "POST", CONFIGMAPS, 400, data=text, headers=YAML)


async def test_field_names_cannot_break_out_of_a_warning(http: aiohttp.ClientSession) -> None:
    body = {"metadata": {"name": "w"}, 'a\r\nX-Own: "1': 1, "long" * 10_000: 2}
    async with http.post(CONFIGMAPS, json=body) as response:
        assert response.status == 201
        warnings = response.headers.getall("Warning")
        assert warnings[0] == '299 - "unknown field \\"a??X-Own: \\\\\\"1\\""'
        assert len(warnings) == 2
        assert all(len(text) < 600 for text in warnings)


async def test_a_token_of_odd_bytes_is_a_wrong_token(server: KubeServer) -> None:
    port = server.endpoints.port("kube.https")
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=trusting(server), server_hostname="localhost"
    )
    head = b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    writer.write(head + b"Authorization: Bearer \xff\xfe\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 401 ")
    writer.close()


async def test_copies_in_a_json_patch_are_bounded(http: aiohttp.ClientSession) -> None:
    await a_configmap(http, a="x" * 1_000)
    copies = [{"op": "copy", "from": "/data", "path": f"/data/k{n}"} for n in range(40)]
    said = await ask(http, "PATCH", CONFIGMAPS + "/c", 413, json=copies, headers=JSON_PATCH)
    assert "copies" in said["message"]


async def test_a_patch_cannot_nest_an_object_without_end(http: aiohttp.ClientSession) -> None:
    await a_configmap(http)
    deep: list[dict[str, Any]] = [{"op": "add", "path": "/x", "value": {}}]
    deep += [{"op": "add", "path": "/x" * n, "value": {}} for n in range(2, 200)]
    await ask(http, "PATCH", CONFIGMAPS + "/c", 400, json=deep, headers=JSON_PATCH)


async def test_an_object_cannot_grow_for_ever(http: aiohttp.ClientSession) -> None:
    path = "/apis/devices.kubeedge.io/v1beta1/namespaces/default/devices"
    body: dict[str, Any] = {
        "apiVersion": "devices.kubeedge.io/v1beta1",
        "kind": "Device",
        "metadata": {"name": "d"},
        "spec": {"nodeName": "n"},
    }
    await ask(http, "POST", path, 201, json=body)
    big = {"metadata": {"annotations": {"a": "x" * 200_000}}}
    await ask(http, "PATCH", f"{path}/d", 200, json=big, headers=MERGE)
    config = {f"k{n}": "x" * 500_000 for n in range(2)}
    grow = {"spec": {"protocol": {"protocolName": "p", "configData": config}}}
    kept = await ask(http, "PATCH", f"{path}/d", 200, json=grow, headers=MERGE)
    config = {f"more{n}": "x" * 500_000 for n in range(2)}
    grow = {"spec": {"protocol": {"protocolName": "p", "configData": config}}}
    said = await ask(http, "PATCH", f"{path}/d", 413, json=grow, headers=MERGE)
    assert said["reason"] == "RequestEntityTooLarge"
    now = await ask(http, "GET", f"{path}/d", 200)
    assert now["metadata"]["resourceVersion"] == kept["metadata"]["resourceVersion"]


async def test_a_watcher_that_does_not_read_is_hung_up_on(
    server: KubeServer, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "WRITE_SECONDS", 0.1)
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    raw.connect(("127.0.0.1", server.endpoints.port("kube.https")))
    raw.setblocking(False)
    reader, writer = await asyncio.open_connection(
        sock=raw, ssl=trusting(server), server_hostname="localhost", limit=1
    )
    head = f"GET {CONFIGMAPS}?watch=1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.token}"
    writer.write(f"{head}\r\n\r\n".encode())
    await reader.read(1)  # it has begun; nothing more is read
    watchers = server.api.objects.storage.watchers
    assert watchers() == 1

    async def is_cut() -> bool:
        return server.metrics.registry.get_sample_value("twinspan_kube_watchers") == 0.0

    for number in range(40):
        if await is_cut():
            break
        await a_configmap(http, f"big-{number}", a="x" * 200_000)
    await eventually(is_cut)
    assert watchers() == 0
    writer.transport.abort()
