"""The dynamic controller with a made-up edge: every verb, what is refused, watches through cuts."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cloud import apiverbs
from cloud.apiverbs import list_page
from gateway.config.cloud_services import Authorization, Dynamic
from gateway.errors import NotFound
from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.applications import (
    ApiKey,
    Application,
    Verb,
    ask_application,
    make_application,
    read_application_answer,
    read_watches_answer,
    sync_watches,
)
from gateway.wire.cloudedge.envelope import Envelope
from gateway.wire.cloudedge.names import Operation, Source
from gateway.wire.cloudedge.subjects import Subject
from tests.cloud_rig import (
    Certificate,
    CloudCore,
    Edge,
    a_cloud,
    a_stamp,
    an_edge,
    apply_device,
    apply_model,
    content_of,
    eventually,
    join,
)
from tests.cloud_samples import a_device

MAPS = ApiKey("", "v1", "configmaps", "default")
SERVICES = ApiKey("", "v1", "services", "default")
OPEN = Authorization(enabled=False)


@asynccontextmanager
async def a_node(tmp_path: Path, **hub: Any) -> AsyncIterator[tuple[CloudCore, Edge]]:
    async with (
        a_cloud(tmp_path, **hub) as cloud,
        an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge,
    ):
        await edge.register()
        yield cloud, edge


async def send(edge: Edge, app: Application) -> Application:
    answer = await edge.ask(ask_application(a_stamp(), app))
    return read_application_answer(answer.content)


async def ask(
    edge: Edge,
    verb: str,
    key: ApiKey,
    *,
    option: Json = None,
    body: JsonObject | None = None,
    subresource: str = "",
) -> Application:
    data = None if body is None else json.dumps(body).encode()
    return await send(
        edge,
        make_application(
            edge.node,
            key,
            verb,
            option={} if option is None else option,
            body=data,
            subresource=subresource,
        ),
    )


def document(app: Application) -> Any:
    assert app.is_approved, app.error.status
    return json.loads(app.response_bytes())


def code(app: Application) -> int:
    assert app.status == "Rejected"
    return int(app.error.status["code"])


def named(key: ApiKey, name: str) -> ApiKey:
    return ApiKey(key.group, key.version, key.resource, key.namespace, name)


def a_map(name: str, **data: str) -> JsonObject:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "default"},
        "data": dict(data),
    }


def a_service(name: str, **labels: str) -> JsonObject:
    return {
        "metadata": {"name": name, "labels": dict(labels)},
        "spec": {"ports": [{"port": 80}]},
    }


def a_patch(kind: str, patch: Json, *subresources: str, **options: Any) -> JsonObject:
    data = base64.b64encode(json.dumps(patch).encode()).decode()
    return {
        "Name": "c1",
        "PatchType": kind,
        "Data": data,
        "Options": options,
        "Subresources": list(subresources),
    }


# --- verbs ---------------------------------------------------------------------------------------


async def test_every_verb_answers_as_the_api_does(tmp_path: Path) -> None:
    async with a_node(tmp_path, authorization=OPEN) as (cloud, edge):
        made = document(await ask(edge, Verb.CREATE, MAPS, body=a_map("c1", a="1")))
        one = named(MAPS, "c1")
        assert made == document(await ask(edge, Verb.GET, one))
        assert made["kind"] == "ConfigMap"
        changed = document(await ask(edge, Verb.UPDATE, one, body={**made, "data": {"a": "2"}}))
        assert changed["data"] == {"a": "2"}
        assert code(await ask(edge, Verb.UPDATE, one, body=made)) == 409
        merge = a_patch("application/merge-patch+json", {"data": {"b": "3"}})
        patched = document(await ask(edge, Verb.PATCH, one, option=merge))
        assert patched["data"] == {"a": "2", "b": "3"}
        steps: Json = [{"op": "remove", "path": "/data/a"}]
        jsons = a_patch("application/json-patch+json", steps)
        assert document(await ask(edge, Verb.PATCH, one, option=jsons))["data"] == {"b": "3"}
        found = document(await ask(edge, Verb.LIST, MAPS))
        assert (found["kind"], found["apiVersion"]) == ("ConfigMapList", "v1")
        assert ("ConfigMap", "c1") in [(i["kind"], i["metadata"]["name"]) for i in found["items"]]
        assert found["metadata"]["resourceVersion"]
        gone = document(await ask(edge, Verb.DELETE, one))
        assert gone["status"] == "Success"
        assert code(await ask(edge, Verb.GET, one)) == 404
        with pytest.raises(NotFound):
            await cloud.kube.get("v1", "configmaps", "default", "c1")


async def test_server_side_apply_makes_and_takes_over(tmp_path: Path) -> None:
    async with a_node(tmp_path, authorization=OPEN) as (_, edge):
        apply = a_patch("application/apply-patch+yaml", a_map("c1", a="1"))
        assert document(await ask(edge, Verb.PATCH, named(MAPS, "c1"), option=apply))["data"]


async def test_status_is_written_by_updatestatus_and_by_patch(tmp_path: Path) -> None:
    async with a_node(tmp_path) as (_, edge):
        node = ApiKey("", "v1", "nodes", None, "edge-1")
        item = document(await ask(edge, Verb.GET, node))
        item["status"]["phase"] = "Running"
        written = document(
            await ask(edge, Verb.UPDATE_STATUS, node, body=item, subresource="status")
        )
        assert written["status"]["phase"] == "Running"
        option = {**a_patch("application/merge-patch+json", {"status": {"phase": ""}}, "status")}
        option["Name"] = "edge-1"
        patched = document(await ask(edge, Verb.PATCH, node, option=option))
        assert "phase" not in patched["status"]  # empty is not there, as elsewhere


async def test_a_list_comes_in_pages_and_by_selector(tmp_path: Path) -> None:
    async with a_node(tmp_path) as (cloud, edge):
        for name, colour in (("a", "red"), ("b", "blue"), ("c", "red")):
            await cloud.kube.create("v1", "services", "default", a_service(name, colour=colour))

        async def names(**option: Any) -> tuple[list[str], str]:
            found = document(await ask(edge, Verb.LIST, SERVICES, option=option))
            rest = found["metadata"].get("continue", "")
            return [item["metadata"]["name"] for item in found["items"]], rest

        assert await names(labelSelector="colour=red") == (["a", "c"], "")
        assert await names(fieldSelector="metadata.name=b") == (["b"], "")
        first, rest = await names(limit=2)
        assert first == ["a", "b"]
        assert await names(**{"limit": 2, "continue": rest}) == (["c", "kubernetes"], "")


async def test_a_node_gets_no_page_larger_than_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apiverbs, "LARGEST_PAGE", 2)
    async with a_node(tmp_path, authorization=OPEN) as (cloud, edge):
        for number in range(3):
            await cloud.kube.create("v1", "configmaps", "default", a_map(f"c{number}", a="x"))
        found = document(await ask(edge, Verb.LIST, MAPS, option={"limit": 10**9}))
        assert len(found["items"]) == 2
        assert found["metadata"]["continue"]


async def test_a_list_larger_than_the_link_is_refused_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apiverbs, "MAX_ANSWER", 2_000)
    async with a_node(tmp_path, authorization=OPEN) as (cloud, edge):
        for number in range(4):
            await cloud.kube.create("v1", "configmaps", "default", a_map(f"c{number}", a="x" * 500))
        refused = await ask(edge, Verb.LIST, MAPS)
        assert code(refused) == 413
        assert "limit" in refused.reason
        assert len(document(await ask(edge, Verb.LIST, MAPS, option={"limit": 1}))["items"]) == 1


@pytest.mark.parametrize(
    ("path", "holds"),
    [
        ("/version", "gitVersion"),
        ("/api", "versions"),
        ("/apis/devices.kubeedge.io/v1beta1", "resources"),
    ],
)
async def test_plain_paths_are_passed_through(tmp_path: Path, path: str, holds: str) -> None:
    async with a_node(tmp_path) as (_, edge):
        assert holds in document(await ask(edge, Verb.GET, ApiKey.parse(path)))


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "key", "body", "status"),
    [
        (Verb.CREATE, MAPS, a_map("c1"), 403),
        (Verb.DELETE, named(MAPS, "c1"), None, 403),
        (Verb.GET, named(MAPS, "c1"), None, 404),
        (Verb.LIST, ApiKey("", "v1", "serviceaccounts", "default"), None, 403),
        (Verb.WATCH, ApiKey("", "v1", "serviceaccounts", "default"), None, 403),
        (Verb.LIST, ApiKey("no.such", "v1", "things"), None, 403),
        (
            Verb.UPDATE,
            ApiKey("", "v1", "nodes", None, "edge-2"),
            {"metadata": {"name": "edge-2"}},
            403,
        ),
        (Verb.DELETE, ApiKey("", "v1", "nodes"), None, 405),
        (Verb.GET, SERVICES, None, 405),
        (Verb.CREATE, ApiKey(raw="/version"), {}, 405),
        ("frobnicate", MAPS, None, 405),
    ],
)
async def test_what_a_node_may_not_do_has_the_apis_status(
    tmp_path: Path, verb: str, key: ApiKey, body: JsonObject | None, status: int
) -> None:
    async with a_node(tmp_path) as (_, edge):
        assert code(await ask(edge, verb, key, body=body)) == status


@pytest.mark.parametrize("dry", [{"dryRun": ["All"]}])
async def test_a_trial_run_is_refused_and_never_done(tmp_path: Path, dry: JsonObject) -> None:
    async with a_node(tmp_path, authorization=OPEN) as (_, edge):
        assert code(await ask(edge, Verb.CREATE, MAPS, option=dry, body=a_map("c1"))) == 501
        assert code(await ask(edge, Verb.GET, named(MAPS, "c1"))) == 404


@pytest.mark.parametrize(
    ("key", "option", "body"),
    [
        (named(MAPS, "c1"), {}, b"[]"),
        (named(MAPS, "c1"), {}, b"{"),
        (named(MAPS, "c1"), {}, b'{"metadata":{"name":"other"}}'),
    ],
)
async def test_odd_bodies_are_bad_requests(
    tmp_path: Path, key: ApiKey, option: JsonObject, body: bytes
) -> None:
    async with a_node(tmp_path, authorization=OPEN) as (_, edge):
        app = make_application("edge-1", key, Verb.UPDATE, option=option, body=body)
        assert code(await send(edge, app)) == 400


async def test_a_node_does_not_ask_as_another(tmp_path: Path) -> None:
    async with a_node(tmp_path) as (_, edge):
        app = make_application("edge-2", ApiKey("", "v1", "nodes"), Verb.LIST, option={})
        assert code(await send(edge, app)) == 403


async def test_a_refusal_passes_and_is_logged_where_the_settings_only_watch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watching = Authorization(enabled=True, debug=True)
    async with a_node(tmp_path, authorization=watching) as (_, edge):
        assert document(await ask(edge, Verb.CREATE, MAPS, body=a_map("c1")))
        assert any("would be refused" in record.message for record in caplog.records)
        other = ApiKey("", "v1", "nodes", None, "edge-2")
        merge = a_patch("application/merge-patch+json", {"metadata": {"labels": {"a": "b"}}})
        assert code(await ask(edge, Verb.PATCH, other, option=merge)) == 403


async def test_devices_of_others_are_shown_and_logged_where_the_settings_only_watch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = ApiKey("devices.kubeedge.io", "v1beta1", "devices", "default", "other")
    async with a_node(tmp_path, authorization=Authorization(debug=True)) as (cloud, edge):
        await apply_model(cloud)
        await apply_device(cloud, a_device("other", node="edge-2"))
        assert document(await ask(edge, Verb.GET, other))["metadata"]["name"] == "other"
        assert any("would be refused" in record.message for record in caplog.records)


async def test_a_watch_that_is_begun_twice_at_once_is_one(tmp_path: Path) -> None:
    async with a_node(tmp_path) as (cloud, edge):
        await cloud.kube.create("v1", "services", "default", a_service("one"))
        begin = ask_application(a_stamp(), a_watch())
        known = sync_watches(a_stamp(), {a_watch().id: a_watch()})
        await edge.send(begin)
        await edge.send(known)
        await edge.wait_for(lambda e: e.parent_id == begin.msg_id)
        await edge.wait_for(lambda e: e.parent_id == known.msg_id)
        await watched(edge, Operation.INSERT, "one")
        assert cloud.sample("twinspan_cloud_watches") == 1


async def test_a_list_of_watches_from_before_a_new_one_does_not_end_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free, asked = asyncio.Event(), list[str]()

    async def slowly(client: Any, what: Any, *more: Any) -> Any:
        asked.append(what.key.resource)
        if what.key.resource == "endpoints":
            await free.wait()
        return await list_page(client, what, *more)

    monkeypatch.setattr("cloud.watches.list_page", slowly)
    other = make_application(
        "edge-1", ApiKey("", "v1", "endpoints", "default"), Verb.WATCH, option={}
    )
    async with a_node(tmp_path) as (cloud, edge):
        first, empty = sync_watches(a_stamp(), {other.id: other}), sync_watches(a_stamp(), {})
        new = ask_application(a_stamp(), a_watch())
        for message in (first, empty, new):
            await edge.send(message)

        async def is_asked() -> bool:
            return "endpoints" in asked

        await eventually(is_asked)
        await edge.ask_object(Subject(None, "node", "edge-1"), Operation.QUERY)
        free.set()
        for message in (empty, new):
            await edge.wait_for(lambda e, message=message: e.parent_id == message.msg_id)  # type: ignore[misc]
        assert cloud.sample("twinspan_cloud_watches") == 1


async def test_a_node_sees_the_devices_bound_to_it(tmp_path: Path) -> None:
    devices = ApiKey("devices.kubeedge.io", "v1beta1", "devices", "default")
    models = ApiKey("devices.kubeedge.io", "v1beta1", "devicemodels", "default")
    async with a_node(tmp_path) as (cloud, edge):
        await apply_model(cloud)
        assert document(await ask(edge, Verb.LIST, models))["items"] == []
        await apply_device(cloud, a_device("mine", node="edge-1"))
        await apply_device(cloud, a_device("other", node="edge-2"))
        await edge.object("default/device/mine")
        found = document(await ask(edge, Verb.LIST, devices))
        assert [item["metadata"]["name"] for item in found["items"]] == ["mine"]
        assert len(document(await ask(edge, Verb.LIST, models))["items"]) == 1
        assert code(await ask(edge, Verb.GET, named(devices, "other"))) == 403
        assert (await ask(edge, Verb.WATCH, devices)).is_approved


@pytest.mark.parametrize("is_enabled", [True, False])
async def test_of_pods_a_node_lists_its_own(tmp_path: Path, is_enabled: bool) -> None:
    settings = Authorization(enabled=is_enabled)
    async with a_node(tmp_path, authorization=settings) as (cloud, edge):
        for name, node in (("own", edge.node), ("other", "edge-9")):
            pod: JsonObject = {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "namespace": "default"},
                "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]},
            }
            await cloud.kube.create("v1", "pods", "default", pod)
        found = document(await ask(edge, Verb.LIST, ApiKey("", "v1", "pods", "default", None)))
        names = {item["metadata"]["name"] for item in found["items"]}
        assert names == ({"own"} if is_enabled else {"own", "other"})
        pods = ApiKey("", "v1", "pods", "default")
        assert (await ask(edge, Verb.GET, named(pods, "own"))).is_approved
        assert (await ask(edge, Verb.GET, named(pods, "other"))).is_approved is not is_enabled


async def test_pods_at_the_edge_find_the_api_at_the_edge(tmp_path: Path) -> None:
    slices = ApiKey("discovery.k8s.io", "v1", "endpointslices", "default")
    places: JsonObject = {
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.1.2.3"]}],
        "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}],
    }
    other: JsonObject = {**places, "metadata": {"name": "other", "namespace": "default"}}
    async with a_node(tmp_path) as (cloud, edge):
        group = ("discovery.k8s.io/v1", "endpointslices", "default")
        await cloud.kube.create(*group, other)
        own = await cloud.kube.patch(*group, "kubernetes", places)

        def place(item: Any) -> tuple[str, int]:
            return item["endpoints"][0]["addresses"][0], item["ports"][0]["port"]

        assert place(own) == ("10.1.2.3", 6443)

        app = make_application("edge-1", slices, Verb.WATCH, option={})
        assert (await send(edge, app)).is_approved
        pushed = await edge.object("default/endpointslice/kubernetes", "insert")
        found = document(await ask(edge, Verb.LIST, slices))["items"]
        one = document(await ask(edge, Verb.GET, named(slices, "kubernetes")))
        assert {place(one), place(content_of(pushed)), place(found[0])} == {("127.0.0.1", 10550)}
        assert place(found[1]) == ("10.1.2.3", 6443)


# --- watches -------------------------------------------------------------------------------------


def is_watched(envelope: Envelope, operation: Operation, name: str) -> bool:
    route = envelope.route
    return (
        route.source == Source.DYNAMIC_CONTROLLER
        and route.operation == operation
        and route.resource == f"default/service/{name}"
    )


async def watched(edge: Edge, operation: Operation, name: str) -> Any:
    return content_of(await edge.wait_for(lambda e: is_watched(e, operation, name)))


def a_watch(**option: Any) -> Application:
    return make_application("edge-1", SERVICES, Verb.WATCH, option=option)


async def sync(edge: Edge, *live: Application) -> Any:
    answer = await edge.ask(sync_watches(a_stamp(), {app.id: app for app in live}))
    return read_watches_answer(answer.content)


async def test_a_watch_brings_what_is_there_and_what_changes(tmp_path: Path) -> None:
    async with a_node(tmp_path) as (cloud, edge):
        await cloud.kube.create("v1", "services", "default", a_service("one"))
        assert (await send(edge, a_watch())).is_approved
        first = await watched(edge, Operation.INSERT, "one")
        assert (first["kind"], first["apiVersion"]) == ("Service", "v1")
        await cloud.kube.patch(
            "v1", "services", "default", "one", {"metadata": {"labels": {"a": "b"}}}
        )
        assert (await watched(edge, Operation.UPDATE, "one"))["metadata"]["labels"] == {"a": "b"}
        await cloud.kube.delete("v1", "services", "default", "one")
        gone = await watched(edge, Operation.DELETE, "one")
        assert gone["metadata"]["uid"] == first["metadata"]["uid"]
        assert cloud.sample("twinspan_cloud_watches") == 1
        assert await sync(edge) == {}
        assert cloud.sample("twinspan_cloud_watches") == 0
        await cloud.kube.create("v1", "services", "default", a_service("two"))
        assert (await send(edge, a_watch(labelSelector="a=b"))).is_approved
        await cloud.kube.create("v1", "services", "default", a_service("three", a="b"))
        await watched(edge, Operation.INSERT, "three")
        assert not any(is_watched(e, Operation.INSERT, "two") for e in edge.received)


async def test_an_object_that_leaves_one_watch_and_not_another_stays(tmp_path: Path) -> None:
    async with a_node(tmp_path) as (cloud, edge):
        await cloud.kube.create("v1", "services", "default", a_service("one", a="b"))
        await send(edge, a_watch())
        await send(edge, a_watch(labelSelector="a=b"))
        await watched(edge, Operation.INSERT, "one")
        labels: JsonObject = {"metadata": {"labels": {"a": "c"}}}
        await cloud.kube.patch("v1", "services", "default", "one", labels)
        await watched(edge, Operation.UPDATE, "one")
        await cloud.kube.create("v1", "services", "default", a_service("two", a="b"))
        await watched(edge, Operation.INSERT, "two")
        assert not any(is_watched(e, Operation.DELETE, "one") for e in edge.received)


async def test_changes_during_a_cut_arrive_afterwards(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        certificate: Certificate = await join(cloud, "edge-1")
        await cloud.kube.create("v1", "services", "default", a_service("one"))
        async with an_edge(cloud, "edge-1", certificate) as edge:
            await edge.register()
            await send(edge, a_watch())
            await watched(edge, Operation.INSERT, "one")

        async def is_away() -> bool:
            return cloud.sample("twinspan_cloudhub_connected_nodes") == 0

        await eventually(is_away)
        await cloud.kube.create("v1", "services", "default", a_service("two"))
        await cloud.kube.delete("v1", "services", "default", "one")
        async with an_edge(cloud, "edge-1", certificate) as edge:
            await watched(edge, Operation.INSERT, "two")
            await watched(edge, Operation.DELETE, "one")
            assert not any(is_watched(e, Operation.INSERT, "one") for e in edge.received)


async def test_what_was_not_acknowledged_comes_again(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        certificate = await join(cloud, "edge-1")
        await cloud.kube.create("v1", "services", "default", a_service("one"))
        async with an_edge(cloud, "edge-1", certificate) as edge:
            edge.acknowledges = False
            await edge.register()
            await send(edge, a_watch())
            await watched(edge, Operation.INSERT, "one")
        async with an_edge(cloud, "edge-1", certificate) as edge:
            await watched(edge, Operation.INSERT, "one")


async def test_a_sync_begins_what_the_cloud_does_not_know_and_names_what_cannot_be(
    tmp_path: Path,
) -> None:
    accounts = ApiKey("", "v1", "serviceaccounts")
    async with a_node(tmp_path) as (cloud, edge):
        await cloud.kube.create("v1", "services", "default", a_service("one"))
        good, bad = a_watch(), make_application("edge-1", accounts, Verb.WATCH, option={})
        failed = await sync(edge, good, bad)
        assert set(failed) == {bad.id}
        assert code(failed[bad.id]) == 403
        await watched(edge, Operation.INSERT, "one")


async def test_a_node_has_at_most_so_many_watches(tmp_path: Path) -> None:
    async with a_node(tmp_path, dynamic=Dynamic(max_watches=1)) as (_, edge):
        assert (await send(edge, a_watch())).is_approved
        assert (await send(edge, a_watch())).is_approved  # it is there already
        assert code(await send(edge, a_watch(labelSelector="a=b"))) == 429


async def test_watches_of_a_node_that_stays_away_end(tmp_path: Path) -> None:
    async with a_cloud(tmp_path, dynamic=Dynamic(keep_watches=0.1)) as cloud:
        async with an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge:
            await edge.register()
            await send(edge, a_watch())
            assert cloud.sample("twinspan_cloud_watches") == 1

        async def are_over() -> bool:
            return cloud.sample("twinspan_cloud_watches") == 0

        await eventually(are_over)


async def test_switched_off_it_says_so_and_edges_take_their_disk(tmp_path: Path) -> None:
    async with a_node(tmp_path, dynamic=Dynamic(enabled=False)) as (_, edge):
        assert code(await ask(edge, Verb.LIST, SERVICES)) == 503
        assert await sync(edge, a_watch()) == {}
