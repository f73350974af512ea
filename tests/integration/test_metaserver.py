"""MetaServer over HTTP: what the Kubernetes API says at an edge, with and without its cloud."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yarl

from edge.store import MetaObject
from tests.integration.api_cloud import ApiCloud, Refused, an_api_cloud
from tests.integration.edge_node import MODEL, a_device, a_node, join_edge, linked
from tests.integration.edge_support import until
from tests.integration.metaserver_client import ADMIN, AWAY, MAPS, PODS, client_of


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[ApiCloud]:
    async with an_api_cloud(tmp_path / "cloud") as running:
        yield running


@pytest.fixture
async def data_dir(cloud: ApiCloud, tmp_path: Path) -> Path:
    await join_edge(cloud, tmp_path / "edge")
    (tmp_path / "edge" / "edge" / "metaserver.token").write_text("admin")
    return tmp_path / "edge"


# --- reads -----------------------------------------------------------------------------------------


async def test_the_cloud_is_asked_first_and_the_disk_answers_without_it(
    cloud: ApiCloud, data_dir: Path
) -> None:
    cloud.apply("pods", "p1", spec={"nodeName": "edge-1"})
    cloud.apply("pods", "p2", spec={})
    async with a_node(data_dir) as node, client_of(node) as client:
        await linked(node, cloud)
        assert await client.names(PODS) == (["p1", "p2"], "cloud")
        status, pod, origin = await client.ask("GET", f"{PODS}/p1")
        assert (status, pod["kind"], origin) == (200, "Pod", "cloud")
    async with a_node(data_dir, server=AWAY) as node, client_of(node) as client:
        assert await client.names("/api/v1/pods") == (["p1", "p2"], "disk")
        status, pod, origin = await client.ask("GET", f"{PODS}/p1")
        assert (status, pod["spec"], origin) == (200, {"nodeName": "edge-1"}, "disk")
        assert await client.names(PODS + "?fieldSelector=spec.nodeName%3Dedge-1") == (
            ["p1"],
            "disk",
        )


async def test_the_disk_answers_with_the_status_that_the_node_has_of_its_pods(
    cloud: ApiCloud, data_dir: Path
) -> None:
    pod = cloud.apply("pods", "p1", spec={"nodeName": "edge-1"}, status={"phase": "Pending"})
    kept = {"uid": pod["metadata"]["uid"], "status": {"phase": "Running", "podIP": "10.88.0.2"}}
    async with a_node(data_dir) as node, client_of(node) as client:
        await linked(node, cloud)
        await client.names(PODS)
        row = MetaObject("default/podstatus/p1/u", "podstatus", json.dumps(kept))
        written = asyncio.Event()
        node.core.store.put_meta(row, lambda _: written.set())
        await written.wait()
    async with a_node(data_dir, server=AWAY) as node, client_of(node) as client:
        status, found, _ = await client.ask("GET", f"{PODS}/p1")
        assert (status, found["status"]) == (200, kept["status"])
        assert await client.names(PODS + "?fieldSelector=status.phase%3DRunning") == (
            ["p1"],
            "disk",
        )
        assert await client.names(PODS + "?fieldSelector=status.phase%3DPending") == ([], "disk")


async def test_what_the_cloud_does_not_have_is_not_found_and_goes_from_disk(
    cloud: ApiCloud, data_dir: Path
) -> None:
    cloud.apply("pods", "p1")
    cloud.apply("pods", "p2")
    async with a_node(data_dir) as node, client_of(node) as client:
        await linked(node, cloud)
        await client.names(PODS)
        await cloud.remove("pods", "p1", is_told=False)
        status, found, _ = await client.ask("GET", f"{PODS}/p1")
        assert (status, found["kind"], found["reason"]) == (404, "Status", "NotFound")
        cloud.answers_api = False
        await cloud.cut()
        await until(lambda: not node.core.hub.is_connected)
    async with a_node(data_dir, server=AWAY) as node, client_of(node) as client:
        assert await client.names(PODS) == (["p2"], "disk")


async def test_a_list_of_the_cloud_takes_the_place_of_what_was_on_disk(
    cloud: ApiCloud, data_dir: Path
) -> None:
    cloud.apply("pods", "p1", labels={"app": "a"})
    cloud.apply("pods", "p2", labels={"app": "b"})
    async with a_node(data_dir) as node, client_of(node) as client:
        await linked(node, cloud)
        await client.names(PODS)
        await cloud.remove("pods", "p1", is_told=False)
        await cloud.remove("pods", "p2", is_told=False)
        cloud.apply("pods", "p3")
        assert await client.names(PODS + "?labelSelector=app%3Da") == ([], "cloud")
    async with a_node(data_dir, server=AWAY) as node, client_of(node) as client:
        assert await client.names(PODS) == (["p2"], "disk")  # only what was asked for was judged


@pytest.mark.parametrize("code", [500, 501, 503, 504])
async def test_a_cloud_in_trouble_is_replaced_by_the_disk(
    cloud: ApiCloud, data_dir: Path, code: int
) -> None:
    def refuse(_app: Any) -> None:
        raise Refused(code, "InternalError")

    async with a_node(data_dir) as node, client_of(node) as client:
        await linked(node, cloud)
        cloud.apply("pods", "p1")
        await client.names(PODS)
        cloud.refuse = refuse
        assert await client.names(PODS) == (["p1"], "disk")


async def test_a_kind_that_nobody_ever_told_of_is_not_shown_as_empty(
    cloud: ApiCloud, data_dir: Path
) -> None:
    async with a_node(data_dir, server=AWAY) as node, client_of(node) as client:
        for path in ("/api/v1/services", "/apis/example.com/v1/lamps", f"{PODS}/p1"):
            status, found, _ = await client.ask("GET", path)
            assert (status, found["reason"]) == (503, "ServiceUnavailable"), path
        assert await client.names(PODS) == ([], "disk")  # pods come to a node unasked


async def test_a_refusal_is_passed_on_as_the_api_gave_it(cloud: ApiCloud, data_dir: Path) -> None:
    def refuse(_app: Any) -> None:
        raise Refused(403, "Forbidden", "not yours")

    async with a_node(data_dir) as node, client_of(node) as client:
        await linked(node, cloud)
        cloud.refuse = refuse
        status, found, _ = await client.ask("GET", PODS)
        assert (status, found["message"], found["reason"]) == (403, "not yours", "Forbidden")


async def test_tables_and_metadata_are_made_here(cloud: ApiCloud, data_dir: Path) -> None:
    cloud.apply("configmaps", "c1", data={"a": "1"})
    table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
    partial = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
    async with a_node(data_dir) as node, client_of(node) as client:
        await linked(node, cloud)
        _, found, _ = await client.ask("GET", MAPS, headers={"Accept": table})
        assert found["kind"] == "Table"
        assert [c["name"] for c in found["columnDefinitions"]] == ["Name", "Data", "Age"]
        assert found["rows"][0]["cells"][:2] == ["c1", 1]
        _, found, _ = await client.ask("GET", MAPS, headers={"Accept": partial})
        assert found["items"][0]["kind"] == "PartialObjectMetadata"
        assert "data" not in found["items"][0]
        status, found, _ = await client.ask("GET", MAPS, headers={"Accept": "image/png"})
        assert (status, found["reason"]) == (406, "NotAcceptable")


async def test_the_same_question_at_the_same_time_is_asked_once(
    cloud: ApiCloud, data_dir: Path
) -> None:
    cloud.apply("pods", "p1")
    async with a_node(data_dir) as node, client_of(node) as client:
        await linked(node, cloud)
        many = await asyncio.gather(*(client.names(PODS) for _ in range(20)))
        assert many == [(["p1"], "cloud")] * 20
        assert len([app for app in cloud.asked if app.verb == "list"]) < 10


async def test_plain_paths_come_from_the_cloud_and_are_kept(
    cloud: ApiCloud, data_dir: Path
) -> None:
    async with a_node(data_dir) as node, client_of(node) as client:
        await linked(node, cloud)
        assert (await client.ask("GET", "/version"))[1:] == (
            {"major": "1", "minor": "99", "gitVersion": "v1.99.0"},
            "cloud",
        )
        assert (await client.ask("GET", "/apis"))[1]["groups"] == []
        assert (await client.ask("GET", "/openapi/v3"))[0] == 404
    async with a_node(data_dir, server=AWAY) as node, client_of(node) as client:
        assert (await client.ask("GET", "/version"))[1]["minor"] == "99"
        status, found, origin = await client.ask("GET", "/api/v1")
        assert (status, origin) == (200, "disk")
        assert {"pods", "configmaps"} <= {item["name"] for item in found["resources"]}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 404),
        ("/metrics", 404),
        ("/api/v1/namespaces/default/pods/..%2Fsecrets", 400),
        ("/api/v1/namespaces/a%2Fb/pods", 400),
        ("/apis/a/../v1", 400),
        ("/api/v1/pods/p/log/x/y/z", 404),
        (f"{PODS}?limit=", 200),
        (f"{PODS}?labelSelector=(((", 400),
        (f"{PODS}/p1/log", 501),
        (f"{PODS}/p1/exec", 501),
    ],
)
async def test_odd_paths_get_a_status(data_dir: Path, path: str, status: int) -> None:
    async with a_node(data_dir, server=AWAY) as node, client_of(node, **ADMIN) as client:
        url = yarl.URL(client.base + path, encoded=True)
        async with client.session.get(url) as answer:
            document = json.loads(await answer.read())
        assert answer.status == status, document
        assert status == 200 or document["kind"] == "Status"


# --- writes ----------------------------------------------------------------------------------------


async def test_writes_go_through_the_cloud_and_their_result_is_kept(
    cloud: ApiCloud, data_dir: Path
) -> None:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c1"}, "data": {"a": "1"}}
    merge = {"Content-Type": "application/merge-patch+json"}
    async with a_node(data_dir) as node, client_of(node, **ADMIN) as client:
        await linked(node, cloud)
        path = f"{MAPS}?fieldManager=me"
        assert (await client.ask("POST", path, json=body))[0] == 201
        created = cloud.asked[-1]
        assert created.key == "/core/v1/configmaps/default/null"
        assert created.option_json()["fieldManager"] == "me"
        status, found, _ = await client.ask("POST", path, json=body)
        assert (status, found["reason"]) == (409, "AlreadyExists")
        patch = json.dumps({"data": {"a": "2"}})
        status, found, _ = await client.ask("PATCH", f"{MAPS}/c1", data=patch, headers=merge)
        assert (status, found["data"]) == (200, {"a": "2"})
        status, found, _ = await client.ask("PUT", f"{MAPS}/c1", json={**body, "data": {"b": "1"}})
        assert (status, found["data"]) == (200, {"b": "1"})
        cloud.answers_api = False
    async with a_node(data_dir, server=AWAY) as node, client_of(node, **ADMIN) as client:
        assert (await client.ask("GET", f"{MAPS}/c1"))[1]["data"] == {"b": "1"}
        status, found, _ = await client.ask("POST", MAPS, json=body)
        assert (status, found["kind"], found["code"]) == (503, "Status", 503)
        status, _, _ = await client.ask("DELETE", f"{MAPS}/c1")
        assert status == 503


async def test_a_deleted_object_goes_from_the_disk(cloud: ApiCloud, data_dir: Path) -> None:
    cloud.apply("configmaps", "c1")
    async with a_node(data_dir) as node, client_of(node, **ADMIN) as client:
        await linked(node, cloud)
        await client.names(MAPS)
        status, found, _ = await client.ask("DELETE", f"{MAPS}/c1")
        assert (status, found["status"]) == (200, "Success")
        await cloud.cut()
    async with a_node(data_dir, server=AWAY) as node, client_of(node) as client:
        assert await client.names(MAPS) == ([], "disk")


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status"),
    [
        ("POST", MAPS, {"Content-Type": "application/vnd.kubernetes.protobuf"}, b"k8s\0", 415),
        ("POST", MAPS, {}, b"{", 400),
        ("POST", MAPS, {}, b"[]", 400),
        ("POST", f"{MAPS}/c1", {}, b"{}", 405),
        ("POST", f"{PODS}/restart", {}, b"[]", 501),
        ("POST", "/api/v1/nodes/confirm-upgrade", {}, b"", 501),
        ("PATCH", f"{MAPS}/c1", {"Content-Type": "application/json"}, b"{}", 415),
        ("DELETE", MAPS, {}, b"", 405),
        ("PUT", "/version", {}, b"{}", 405),
    ],
)
async def test_writes_that_cannot_be_are_refused_here(
    data_dir: Path, method: str, path: str, headers: dict[str, str], body: bytes, status: int
) -> None:
    headers = {"Content-Type": "application/json", **headers}
    async with a_node(data_dir, server=AWAY) as node, client_of(node, **ADMIN) as client:
        found = await client.ask(method, path, headers=headers, data=body)
        assert found[0] == status, found
        assert found[1]["kind"] == "Status"


async def test_a_put_device_changes_its_twins_here(cloud: ApiCloud, data_dir: Path) -> None:
    body = {"status": {"twins": [{"propertyName": "temp", "reported": {"value": "20"}}]}}
    path = "/apis/devices.kubeedge.io/v1beta1/namespaces/default/devices"
    async with a_node(data_dir) as node, client_of(node, **ADMIN) as client:
        await linked(node, cloud)
        await cloud.push("devicemodel", "m1", MODEL)
        await cloud.push("device", "d1", a_device(temp="25"))
        status, found, _ = await client.ask("PUT", f"{path}/d1", json=body)
        assert (status, list(found["twin"])) == (200, ["temp"])
        await until(lambda: cloud.reported("temp") == ["20"])
        status, found, _ = await client.ask("PUT", f"{path}/unknown", json=body)
        assert (status, found["reason"]) == (404, "NotFound")
