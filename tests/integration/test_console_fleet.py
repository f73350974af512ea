"""Nodes, devices, workloads and their changes in the console, over a real Kubernetes API."""

from __future__ import annotations

import asyncio
import copy
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gateway.console.mirrors import DISCOVERED
from gateway.kube.client import KubeClient
from gateway.model.json import JsonObject
from gateway.model.message import Adapter, Kind, Upload
from gateway.runtime.listener import Endpoints, serve_app
from tests.cloud_samples import DEVICES, a_device, a_model, a_node
from tests.console_rig import Rig, a_console, events

HOSTILE = "<img src=x onerror=alert(1)>\u202e\n\"'"


async def a_fleet(kube: KubeClient) -> None:
    node = a_node("edge-1", **{"topology.kubernetes.io/zone": "muc"})
    node["metadata"]["annotations"] = {"twinspan.io/location": "48.14, 11.58"}  # type: ignore[index, call-overload]
    for each in (node, a_node("edge-2")):
        await kube.create("v1", "nodes", None, copy.deepcopy(each))
        await kube.update("v1", "nodes", None, {**each}, subresource="status")
    await kube.create(DEVICES, "devicemodels", "default", a_model())
    for name, where in (("lamp", "edge-1"), ("lamp-2", "edge-1"), ("pump", "edge-2")):
        await kube.create(DEVICES, "devices", "default", a_device(name, where, level="20"))
    await a_status(kube, "lamp", "online", temp="21.5")


async def a_status(kube: KubeClient, name: str, state: str, **reported: str) -> None:
    twins: list[Any] = [
        {"propertyName": k, "reported": {"value": v, "metadata": {"timestamp": "1000"}}}
        for k, v in reported.items()
    ]
    status: JsonObject = {
        "state": state,
        "twins": twins,
        "extensions": {"faults": [{"part": "temp", "message": HOSTILE}]},
    }
    body: JsonObject = {"metadata": {"name": name, "namespace": "default"}, "status": status}
    await kube.create(DEVICES, "devicestatuses", "default", body)


async def test_nodes_tell_place_link_and_what_they_have(tmp_path: Path) -> None:
    async with a_console(tmp_path) as rig:
        await a_fleet(rig.kube)
        rig.cloud.links["edge-1"] = 1_000.0
        status, found = await rig.ask("nodes")
        assert status == 200
        one, other = found["items"]
        assert (one["name"], one["location"], one["zone"]) == ("edge-1", [48.14, 11.58], "muc")
        assert one["link"] == {"connected": True, "since": 1_000.0}
        assert (one["devices"], one["devices_online"]) == (2, 1)
        assert other["link"] == {"connected": False, "since": None}
        details = (await rig.ask("nodes/edge-1"))[1]
        assert details["object"]["metadata"]["name"] == "edge-1"
        assert details["certificates"] == {"valid": 1, "revoked_at": None}
        assert (await rig.ask("nodes/none"))[1]["error"] == "console:node.notfound"


async def test_devices_come_page_by_page_and_are_found(tmp_path: Path) -> None:
    async with a_console(tmp_path) as rig:
        await a_fleet(rig.kube)

        async def names(query: str) -> tuple[list[str], str | None, int]:
            status, found = await rig.ask(f"devices?{query}")
            assert status == 200, found
            return [d["name"] for d in found["items"]], found["continue"], found["total"]

        first, token, total = await names("limit=2")
        assert (first, total) == (["lamp", "lamp-2"], 3)
        assert await names(f"limit=2&continue={token}") == (["pump"], None, 3)
        assert (await names("node=edge-2"))[0] == ["pump"]
        assert (await names("q=LAMP-2"))[0] == ["lamp-2"]
        assert (await names("state=online"))[0] == ["lamp"]
        assert (await names("state=unknown&q=lamp-m"))[0] == ["lamp-2", "pump"]
        assert (await names("namespace=other"))[0] == []
        for query in ("limit=501", "limit=0", "limit=x", "state=odd", "continue=%C3%A4"):
            assert (await rig.ask(f"devices?{query}"))[0] == 400, query


async def test_a_device_is_told_whole_and_what_devices_say_comes_as_json(tmp_path: Path) -> None:
    async with a_console(tmp_path) as rig:
        await a_fleet(rig.kube)
        status, found = await rig.ask("devices/default/lamp")
        assert status == 200
        assert found["fault_list"] == [{"part": "temp", "message": HOSTILE, "node": ""}]
        values = {each["name"]: each for each in found["values"]}
        assert values["temp"]["reported"]["value"] == "21.5"
        assert values["temp"]["reported"]["at"] == 1.0
        assert values["temp"]["writable"] is False
        assert values["level"]["desired"]["value"] == "20"
        assert found["model_object"]["metadata"]["name"] == "lamp-model"
        assert (await rig.ask("devices/default/none"))[0] == 404


WISHES: list[tuple[str, Any, int, str]] = [
    ("level", 33, 200, "33"),
    ("level", "34", 200, "34"),
    ("on", True, 200, "true"),
    ("level", 101, 422, "34"),
    ("level", "x", 422, "34"),
    ("level", [1], 422, "34"),
    ("on", "perhaps", 422, "true"),
    ("temp", 1, 422, "None"),
    ("none", 1, 404, "None"),
]


async def test_wishes_are_written_as_kubectl_would_or_refused(tmp_path: Path) -> None:
    async with a_console(tmp_path) as rig:
        await a_fleet(rig.kube)
        for prop, value, status, stored in WISHES:
            path = f"devices/default/lamp/desired/{prop}"
            assert (await rig.ask(path, "PUT", {"value": value}))[0] == status, (prop, value)
            device: Any = await rig.kube.get(DEVICES, "devices", "default", "lamp")
            wishes = {
                each["name"]: each.get("desired", {}).get("value")
                for each in device["spec"]["properties"]
            }
            assert str(wishes.get(prop)) == stored, (prop, value)


async def test_a_wish_can_be_taken_back(tmp_path: Path) -> None:
    async with a_console(tmp_path) as rig:
        await a_fleet(rig.kube)
        path = "devices/default/lamp/desired/level"
        status, found = await rig.ask(path, "PUT", {"value": None})
        assert status == 200
        assert {v["name"]: v["desired"] for v in found["values"]}["level"] is None
        assert (await rig.ask(path, "PUT", {"value": None}))[0] == 200
        assert (await rig.ask(path, "PUT", {}))[0] == 400


async def test_changes_are_told_in_short_forms_and_links_too(tmp_path: Path) -> None:
    async with a_console(tmp_path) as rig:
        await a_fleet(rig.kube)
        async with events(rig, "events?kinds=nodes,devices") as stream:
            assert await stream.next("hello") == {"kinds": ["devices", "nodes"]}
            rig.cloud.links["edge-1"] = 5.0
            rig.cloud.on_link("edge-1")
            change = await stream.next("change")
            assert (change["kind"], change["object"]["link"]["connected"]) == ("nodes", True)
            await a_status(rig.kube, "pump", "offline")
            while (change := await stream.next("change"))["kind"] != "devices":
                pass
            assert (change["object"]["name"], change["object"]["state"]) == ("pump", "offline")
            await rig.kube.delete(DEVICES, "devices", "default", "pump")
            while (change := await stream.next("change"))["type"] != "gone":
                pass
            assert change["object"] == {"namespace": "default", "name": "pump"}


async def test_a_stream_ends_with_its_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.console.streams.LOOK_SECONDS", 0.05)
    async with a_console(tmp_path) as rig, events(rig, "events") as stream:
        await stream.next("hello")
        await rig.ask("session", "DELETE")
        assert await stream.next("resync") == {"reason": "session ended"}


async def test_only_so_many_streams_are_open(tmp_path: Path) -> None:
    async with a_console(tmp_path, max_streams=1) as rig, events(rig, "events") as stream:
        await stream.next("hello")
        status, found = await rig.ask("events")
        assert (status, found["error"]) == (503, "console:streams.full")
        stream.response.close()
        async with asyncio.timeout(10):
            while len(rig.console.streams):
                rig.cloud.on_link("edge-1")
                await rig.kube.create("v1", "nodes", None, a_node(f"n{id(object())}"))
                await asyncio.sleep(0.05)


async def test_workloads_are_told_scaled_and_restarted(tmp_path: Path) -> None:
    async with a_console(tmp_path) as rig:
        labels: JsonObject = {"app": "web"}
        pod: JsonObject = {"spec": {"containers": [{"name": "web", "image": "web:1"}]}}
        spec: JsonObject = {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, **pod},
        }
        body: JsonObject = {"metadata": {"name": "web", "namespace": "default"}, "spec": spec}
        await rig.kube.create("apps/v1", "deployments", "default", body)
        await rig.kube.create(
            "v1", "pods", "default", {"metadata": {"name": "web-1", "namespace": "default"}, **pod}
        )
        found = (await rig.ask("workloads?namespace=default"))[1]
        (item,) = found["items"]
        assert (item["kind"], item["wanted"], item["images"]) == ("Deployment", 1, ["web:1"])
        assert [p["name"] for p in found["pods"]] == ["web-1"]
        scale = "workloads/default/deployments/web/scale"
        assert (await rig.ask(scale, "POST", {"replicas": 3}))[0] == 200
        for bad in (-1, 1_001, True, "3", None):
            assert (await rig.ask(scale, "POST", {"replicas": bad}))[0] == 400, bad
        assert (await rig.ask("workloads/default/Deployment/web/restart", "POST"))[0] == 202
        assert (await rig.ask("workloads/default/jobs/web/restart", "POST"))[0] == 400
        stored: Any = await rig.kube.get("apps/v1", "deployments", "default", "web")
        assert stored["spec"]["replicas"] == 3
        assert stored["spec"]["template"]["metadata"]["annotations"]
        async with rig.http.get(
            f"{rig.url}/console/api/pods/default/web-1/log", headers={"x-twinspan-console": "1"}
        ) as response:
            assert (response.status, await response.read()) == (200, b"")  # no node has it yet
        assert (await rig.ask("pods/default/web-1", "DELETE"))[0] == 202
        assert (await rig.ask("pods/default/web-1/log"))[0] == 404


async def test_plots_have_points_of_this_process(tmp_path: Path) -> None:
    async with a_console(tmp_path) as rig:
        found = (await rig.ask("plots"))[1]
        assert (found["ranges"], found["prometheus"]) == ([300, 900, 3600], False)
        assert len({plot["id"] for plot in found["items"]}) == len(found["items"])
        (series,) = (await rig.ask("plots/memory"))[1]["series"]
        assert series["points"][-1][1] > 1_000_000
        assert (await rig.ask("plots/none"))[0] == 404
        assert (await rig.ask("plots/memory?range=604800"))[0] == 400


async def test_a_prometheus_that_is_not_there_is_told(tmp_path: Path) -> None:
    async with a_console(prometheus="http://127.0.0.1:1") as rig:
        assert 604_800 in (await rig.ask("plots"))[1]["ranges"]
        status, found = await rig.ask("plots/memory?range=86400")
        assert (status, found["error"]) == (503, "console:prometheus.unavailable")


def an_upload(payload: bytes) -> Upload:
    return Upload(
        adapter=Adapter.HTTP,
        principal=None,
        kind=Kind.TELEMETRY,
        qos=0,
        payload=payload,
        address="/telemetry",
        content_type="application/json",
    )


async def pass_by(rig: Rig, count: int) -> None:
    for number in range(count):
        upload = an_upload(b'{"n": %d, "long": "%s"}' % (number, b"x" * 100))
        rig.rooms.traffic.uploaded(upload, "acme", "dev-1", "")


async def test_the_tail_shows_no_more_than_was_asked_for_and_counts_all() -> None:
    async with a_console() as rig:
        await rig.rooms.registry.create_tenant("acme", {})
        async with events(rig, "tail?tenant=acme&max_rate=3&max_bytes=20") as stream:
            await stream.next("hello")
            await pass_by(rig, 10)
            message = await stream.next("message")
            assert message["cut"] is True
            assert len(message["payload"]) == 20
            assert await stream.next("dropped") == {"count": 7}
            assert (await stream.next("rates"))["kinds"] == {"telemetry": 10}
        assert (await rig.ask("tail?tenant=none"))[0] == 404
        assert (await rig.ask("tail"))[0] == 400
        assert (await rig.ask("tail?tenant=acme&kind=odd"))[0] == 400


async def test_a_reader_that_falls_behind_is_told_to_start_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.console.changes.MAX_WAITING", 2)
    async with a_console(tmp_path) as rig, events(rig, "events?kinds=pods") as stream:
        await stream.next("hello")
        assert rig.console.mirrors is not None
        feed = rig.console.mirrors.feed
        for number in range(5):
            feed.tell("pods", "added", "default", f"p{number}", dict)
        assert await stream.next("resync") == {"reason": "too slow"}


async def test_a_discovered_device_is_accepted_by_a_wish_in_its_object(tmp_path: Path) -> None:
    async with a_console(tmp_path) as rig:
        for name in ("ble-1", "ble-2"):
            await rig.kube.create(*DISCOVERED, None, {"metadata": {"name": name}})
        known = {"type": "Accepted", "status": "True", "observedGeneration": 2}
        taken = {"accepted": "plant/thermo", "name": HOSTILE, "conditions": [known]}
        await a_verdict(rig.kube, "ble-1", taken)
        refusal = {
            "type": "Accepted",
            "status": "False",
            "message": "no model",
            "observedGeneration": 2,
        }
        await a_verdict(rig.kube, "ble-2", {"conditions": [refusal]})
        (one, _) = (await rig.ask("discovered"))[1]["items"]
        assert (one["accepted"], one["title"]) == ("plant/thermo", HOSTILE)
        body = {"namespace": "plant", "name": "thermo"}
        assert await rig.ask("discovered/ble-1/accept", "POST", body) == (201, body)
        stored: Any = await rig.kube.get(*DISCOVERED, None, "ble-1")
        assert stored["spec"]["accept"] == body
        status, found = await rig.ask("discovered/ble-2/accept", "POST", {})
        assert (status, found["message"]) == (422, "no model")
        assert (await rig.ask("discovered/none/accept", "POST", {}))[0] == 404
        assert (await rig.ask("discovered/ble-1/accept", "POST", {"name": "x" * 254}))[0] == 400


async def test_a_device_that_was_deleted_is_accepted_once_more(tmp_path: Path) -> None:
    async with a_console(tmp_path) as rig:
        body = {"namespace": "plant", "name": "thermo"}
        accept: JsonObject = {"metadata": {"name": "ble-1"}, "spec": {"accept": {**body}}}
        await rig.kube.create(*DISCOVERED, None, accept)
        gone = {"type": "Accepted", "status": "False", "message": "gone", "observedGeneration": 1}
        await a_verdict(rig.kube, "ble-1", {"accepted": "", "conditions": [gone]})
        asking = asyncio.create_task(rig.ask("discovered/ble-1/accept", "POST", body))
        stored: Any = {"metadata": {"generation": 1}}
        while stored["metadata"]["generation"] < 3:  # the old wish went, and the same was made anew
            await asyncio.sleep(0.02)
            stored = await rig.kube.get(*DISCOVERED, None, "ble-1")
        assert stored["spec"]["accept"] == body
        judged = {"type": "Accepted", "status": "True", "observedGeneration": 3}
        await a_verdict(rig.kube, "ble-1", {"accepted": "plant/thermo", "conditions": [judged]})
        assert await asking == (201, body)


async def test_what_was_accepted_before_is_no_answer_to_a_new_wish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.console.discovered_http.LOOK_SECONDS", 0.001)
    async with a_console(tmp_path) as rig:
        accept: JsonObject = {"metadata": {"name": "ble-1"}, "spec": {"accept": {"name": "old"}}}
        await rig.kube.create(*DISCOVERED, None, accept)
        old = {"type": "Accepted", "status": "True", "observedGeneration": 1}
        await a_verdict(rig.kube, "ble-1", {"accepted": "plant/old", "conditions": [old]})
        status, found = await rig.ask("discovered/ble-1/accept", "POST", {"name": "new"})
        assert (status, found) == (202, {"name": "new", "pending": True})


async def a_verdict(kube: KubeClient, name: str, status: Any) -> None:
    await kube.patch(*DISCOVERED, None, name, {"status": status}, subresource="status")


async def test_long_ranges_come_from_prometheus_by_the_closed_list() -> None:
    asked: list[dict[str, str]] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(dict(request.query))
        rows = [{"metric": {"status": "forwarded", "job": "x"}, "values": [[1, "2.5"], [2, "NaN"]]}]
        return web.json_response({"status": "success", "data": {"result": rows}})

    app = web.Application()
    app.router.add_get("/api/v1/query_range", answer)
    bound = Endpoints()
    async with serve_app(bound, "prometheus", "127.0.0.1:0", app, setting="test"):
        async with a_console(prometheus=f"http://{bound.get('prometheus')}/") as rig:
            status, found = await rig.ask("plots/uploads?range=86400&query=evil")
        assert (status, found["source"]) == (200, "prometheus")
        assert found["series"] == [
            {"labels": {"status": "forwarded"}, "points": [[1, 2.5], [2, None]]}
        ]
        (query,) = asked
        assert query["query"].startswith("topk(24, sum by (status) (rate(hono_telemetry")
        assert query["step"] == "120"
