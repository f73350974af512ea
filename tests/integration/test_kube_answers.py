"""Forms of the answers of the Kubernetes API: YAML, indented, packed; pages that go on."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import yaml

from gateway.config.kube import Kube, KubeHttps
from tests.integration.test_kube_http import session
from tests.kube_server import KubeServer, kube_server

MAPS = "/api/v1/namespaces/default/configmaps"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[KubeServer]:
    settings = Kube(https=KubeHttps(bind="127.0.0.1:0"), watch_window=100, watch_window_bytes=1)
    async with kube_server(tmp_path, settings) as running:
        yield running


@pytest.fixture
async def http(server: KubeServer) -> AsyncIterator[aiohttp.ClientSession]:
    async with session(server, token=server.token) as found:
        yield found


async def a_map(http: aiohttp.ClientSession, name: str, text: str = "x") -> None:
    body = {"metadata": {"name": name}, "data": {"a": text}}
    async with http.post(MAPS, json=body) as response:
        assert response.status == 201, await response.text()


async def test_an_object_is_answered_in_yaml_and_indented(http: aiohttp.ClientSession) -> None:
    await a_map(http, "here")
    async with http.get(f"{MAPS}/here", headers={"Accept": "application/yaml"}) as response:
        assert response.headers["Content-Type"] == "application/yaml"
        assert yaml.safe_load(await response.text())["data"] == {"a": "x"}
    async with http.get(f"{MAPS}/here?pretty=true") as response:
        text = await response.text()
    assert text.startswith('{\n  "')
    assert json.loads(text)["data"] == {"a": "x"}
    async with http.get(f"{MAPS}/here", headers={"User-Agent": "curl/8"}) as response:
        assert (await response.text()).startswith("{\n")
    async with http.get(f"{MAPS}/here") as response:
        assert "\n" not in await response.text()


async def test_large_answers_are_packed_for_who_takes_them_so(http: aiohttp.ClientSession) -> None:
    await a_map(http, "large", "x" * 200_000)
    async with http.get(MAPS, headers={"Accept-Encoding": "gzip"}) as response:
        assert response.headers["Content-Encoding"] == "gzip"
        assert "large" in [item["metadata"]["name"] for item in (await response.json())["items"]]
    async with http.get(MAPS, headers={"Accept-Encoding": "identity"}) as response:
        assert "Content-Encoding" not in response.headers


async def test_a_page_of_a_forgotten_state_can_go_on_with_the_newest(
    http: aiohttp.ClientSession,
) -> None:
    for name in ("a", "b", "c"):
        await a_map(http, name)
    async with http.get(f"{MAPS}?limit=1") as response:
        token = (await response.json())["metadata"]["continue"]
    for at in range(120):
        await a_map(http, f"m{at:03}")
    async with http.get(f"{MAPS}?limit=1&continue={token}") as response:
        assert response.status == 410
        gone = await response.json()
    assert gone["reason"] == "Expired"
    onward = gone["metadata"]["continue"]
    async with http.get(f"{MAPS}?limit=1&continue={onward}") as response:
        (item,) = (await response.json())["items"]
    assert item["metadata"]["name"] == "b"


async def test_a_subresource_is_not_deleted(http: aiohttp.ClientSession) -> None:
    async with http.delete("/api/v1/namespaces/default/status") as response:
        assert response.status == 405
    async with http.get("/api/v1/namespaces/default") as response:
        assert "deletionTimestamp" not in (await response.json())["metadata"]


async def test_a_deleted_pod_is_answered_as_a_pod_and_a_map_with_success(
    http: aiohttp.ClientSession,
) -> None:
    await a_map(http, "gone")
    pods = "/api/v1/namespaces/default/pods"
    pod = {"metadata": {"name": "gone"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    async with http.post(pods, json=pod) as response:
        assert response.status == 201, await response.text()
    async with http.delete(f"{pods}/gone") as response:
        answer = await response.json()
        assert (answer["kind"], answer["metadata"]["name"]) == ("Pod", "gone")
        assert answer["status"]["phase"] == "Pending"
    async with http.get(f"{pods}/gone") as response:
        assert response.status == 404
    async with http.delete(f"{MAPS}/gone") as response:
        answer = await response.json()
        assert (answer["kind"], answer["status"]) == ("Status", "Success")
