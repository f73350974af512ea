"""Node jobs in the cloud, on nodes made by hand: turns, tolerance, who is away, restarts, bad reports."""

from __future__ import annotations

import io
import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp

from cloud.tasks import finalizer_of
from gateway.config.cloud_services import Tasks
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.envelope import Envelope
from gateway.wire.cloudedge.names import Operation
from gateway.wire.cloudedge.subjects import Subject
from gateway.wire.cloudedge.tasks import (
    CHECK,
    PREPULL_JOB,
    PULL,
    UPGRADE,
    UPGRADE_JOB,
    TaskCommand,
    TaskReported,
    report_task,
)
from gateway.wire.cloudedge.to_edge import read_to_edge
from tests.cloud_pair import another_cloud
from tests.cloud_rig import (
    Certificate,
    CloudCore,
    Edge,
    a_cloud,
    a_stamp,
    an_edge,
    content_of,
    eventually,
    fetch_ca,
    join,
    make_ready_node,
    trust,
)

OPERATIONS = "operations.kubeedge.io/v1alpha2"
PULLS = "imageprepulljobs"


def a_prepull(*nodes: str, **template: Any) -> dict[str, Any]:
    spec = {"images": ["nginx:1"], "nodeNames": list(nodes), **template}
    return {
        "apiVersion": OPERATIONS,
        "kind": "ImagePrePullJob",
        "metadata": {"name": "job1"},
        "spec": {"imagePrePullTemplate": spec},
    }


def is_command(envelope: Envelope) -> bool:
    return isinstance(read_to_edge(envelope), TaskCommand)


def commands(edge: Edge) -> list[Envelope]:
    return [envelope for envelope in edge.received if is_command(envelope)]


async def report(
    edge: Edge,
    action: str,
    *,
    ok: bool = True,
    reason: str = "",
    extend: str = "",
    job: str = "job1",
) -> None:
    said = TaskReported(PREPULL_JOB, job, edge.node, action, ok, "", reason, extend)
    await edge.send(report_task(a_stamp(), said))


async def job_is(cloud: CloudCore, phase: str, plural: str = PULLS) -> dict[str, Any]:
    """Wait for a phase of job1 and return its status."""

    async def status() -> dict[str, Any] | None:
        found = (await cloud.object(OPERATIONS, plural, None, "job1")).get("status", {})
        return found if found.get("phase") == phase else None

    found = await eventually(status, phase)
    assert found is not None
    return found


def phases(status: dict[str, Any]) -> dict[str, str]:
    return {node["nodeName"]: node["phase"] for node in status["nodeStatus"]}


async def a_member(cloud: CloudCore, name: str) -> Certificate:
    certificate = await join(cloud, name)
    await make_ready_node(cloud, name)
    return certificate


async def test_a_job_runs_on_a_node_and_tells_each_action(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        member = await a_member(cloud, "edge-1")
        async with an_edge(cloud, "edge-1", member) as edge:
            await cloud.kube.create(OPERATIONS, PULLS, None, a_prepull("edge-1"))
            command = await edge.wait_for(is_command)
            assert command.route.operation == CHECK
            assert command.route.resource == f"{OPERATIONS}/imageprepulljob/job1/node/edge-1"
            await report(edge, CHECK)
            images = [{"image": "nginx:1", "status": "True"}]
            await report(edge, PULL, extend=json.dumps(images))
            status = await job_is(cloud, "Completed")
            (node,) = status["nodeStatus"]
            assert node["phase"] == "Successful"
            assert [(d["action"], d["status"]) for d in node["actionFlow"]] == [
                ("Check", "True"),
                ("Pull", "True"),
            ]
            assert node["imageStatus"] == images
            stored = await cloud.object(OPERATIONS, PULLS, None, "job1")
            assert stored["metadata"]["finalizers"] == [finalizer_of(PREPULL_JOB)]
            assert len(commands(edge)) == 1
            sample = cloud.sample(
                "twinspan_cloud_node_tasks_total", kind=PREPULL_JOB, outcome="successful"
            )
            assert sample == 1


async def test_nodes_take_turns_and_one_that_fails_too_many_stops_the_job(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud, AsyncExitStack() as up:
        names = [f"edge-{n}" for n in range(4)]
        edges = {}
        for name in names:
            member = await a_member(cloud, name)
            edges[name] = await up.enter_async_context(an_edge(cloud, name, member))
        job = a_prepull(*names, concurrency=2, failureTolerate="0.25")
        await cloud.kube.create(OPERATIONS, PULLS, None, job)
        for name in names[:2]:
            await edges[name].wait_for(is_command)
        assert not commands(edges["edge-2"])
        await report(edges["edge-0"], CHECK, ok=False, reason="disk")
        await edges["edge-2"].wait_for(is_command)
        await report(edges["edge-1"], CHECK, ok=False, reason="disk")
        await report(edges["edge-2"], CHECK)
        await report(edges["edge-2"], PULL)
        status = await job_is(cloud, "Failure")
        assert phases(status) == {
            "edge-0": "Failure",
            "edge-1": "Failure",
            "edge-2": "Successful",
            "edge-3": "Pending",
        }
        assert not commands(edges["edge-3"])


async def test_a_node_that_is_away_is_unknown_and_one_that_comes_is_asked(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        member = await a_member(cloud, "edge-1")
        await make_ready_node(cloud, "edge-2")
        job = a_prepull("edge-2", "edge-1", timeoutSeconds=4, failureTolerate="0.5")
        await cloud.kube.create(OPERATIONS, PULLS, None, job)
        status = await job_is(cloud, "InProgress")
        assert {node["reason"] for node in status["nodeStatus"]} == {"the node is not connected"}
        async with an_edge(cloud, "edge-1", member) as edge:
            await edge.wait_for(is_command)
            await report(edge, CHECK)
            await report(edge, PULL)
            status = await job_is(cloud, "Completed")
        assert phases(status) == {"edge-2": "Unknown", "edge-1": "Successful"}


async def test_a_cloudcore_that_starts_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        member = await a_member(cloud, "edge-1")
        async with an_edge(cloud, "edge-1", member, store="store-1") as edge:
            await cloud.kube.create(OPERATIONS, PULLS, None, a_prepull("edge-1"))
            first = await edge.wait_for(is_command)
            await report(edge, CHECK)

            async def noted() -> bool:
                (node,) = (await job_is(cloud, "InProgress"))["nodeStatus"]
                return bool(node["actionFlow"][0]["status"] == "True")

            await eventually(noted)
    async with (
        a_cloud(tmp_path) as cloud,
        an_edge(cloud, "edge-1", member, store="store-1") as edge,
    ):
        again = await edge.wait_for(is_command)
        assert again.msg_id == first.msg_id
        await report(edge, CHECK)
        await report(edge, PULL)
        status = await job_is(cloud, "Completed")
        assert len(status["nodeStatus"][0]["actionFlow"]) == 2


async def test_a_foreign_node_is_not_told_twice_to_upgrade(tmp_path: Path) -> None:
    spec: JsonObject = {"version": "v9.9.9", "nodeNames": ["edge-1"]}
    job: JsonObject = {"metadata": {"name": "job1"}, "spec": spec}
    async with a_cloud(tmp_path) as cloud:
        member = await a_member(cloud, "edge-1")
        async with an_edge(cloud, "edge-1", member) as edge:
            await cloud.kube.create(OPERATIONS, "nodeupgradejobs", None, job)
            await edge.wait_for(is_command)
        async with an_edge(cloud, "edge-1", member) as edge:
            said = TaskReported(UPGRADE_JOB, "job1", "edge-1", UPGRADE, True, "", "", "v1,v9.9.9")
            await edge.send(report_task(a_stamp(), said))
            status = await job_is(cloud, "Completed", "nodeupgradejobs")
            assert status["nodeStatus"][0]["currentVersion"] == "v9.9.9"
            assert not commands(edge)


async def test_a_node_reports_for_itself_alone(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        one, two = await a_member(cloud, "edge-1"), await a_member(cloud, "edge-2")
        async with an_edge(cloud, "edge-1", one) as edge, an_edge(cloud, "edge-2", two) as liar:
            await cloud.kube.create(OPERATIONS, PULLS, None, a_prepull("edge-1"))
            await edge.wait_for(is_command)
            forged = TaskReported(PREPULL_JOB, "job1", "edge-1", CHECK, False, "", "forged")
            await liar.send(report_task(a_stamp(), forged))
            await report(liar, CHECK, ok=False, reason="not asked")
            await report(edge, "rm -rf /", ok=False)
            await report(edge, CHECK, job="another")
            await report(edge, CHECK)
            await report(edge, PULL, reason="x" * 60_000, extend="[" * 60_000)
            status = await job_is(cloud, "Completed")
            assert "forged" not in json.dumps(status)
            assert len(json.dumps(status)) < 2_000


async def test_reports_by_https_need_the_nodes_own_certificate(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        one, two = await a_member(cloud, "edge-1"), await a_member(cloud, "edge-2")
        ca = await fetch_ca(cloud)
        path = "/task/prepull/name/job1/node/edge-1/status"

        async def post(path: str, body: Any, who: Certificate | None) -> tuple[int, str]:
            context = who.context(ca) if who else trust(ca)
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            async with (
                aiohttp.ClientSession() as http,
                http.post(cloud.https + path, data=io.BytesIO(data), ssl=context) as answer,
            ):
                return answer.status, await answer.text()

        async with an_edge(cloud, "edge-1", one) as edge:
            await cloud.kube.create(OPERATIONS, PULLS, None, a_prepull("edge-1"))
            await edge.wait_for(is_command)
            said = {"NodeName": "edge-1", "Event": "Check", "Action": "Success", "Reason": ""}
            assert (await post(path, said, None))[0] == 401
            assert (await post(path, said, two))[0] == 403
            assert (await post("/task/exec/name/job1/node/edge-1/status", said, one))[0] == 400
            assert (await post(path.replace("job1", "other"), said, one))[0] == 404
            assert (await post(path, {**said, "Event": "Reboot"}, one))[0] == 400
            assert (await post(path, b"{", one))[0] == 400
            assert (await post(path, b"[" * 100_000, one))[0] == 400
            assert (await post(path, b" " * (3 * 1024 * 1024 + 1), one))[0] == 413
            assert await post(path, {**said, "Reason": "x" * 65_536}, one) == (200, "ok")
            images = json.dumps([{"image": "nginx:1", "state": "Failed", "reason": "no room"}])
            pulled = {**said, "Event": "Pull", "Action": "Failure", "ExternalMessage": images}
            assert await post(path, pulled, one) == (200, "ok")
            (node,) = (await job_is(cloud, "Failure"))["nodeStatus"]
            assert node["imageStatus"] == [
                {"image": "nginx:1", "status": "False", "reason": "no room"}
            ]


async def test_an_older_upgrade_tells_its_end_by_https(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        member = await a_member(cloud, "edge-1")
        async with an_edge(cloud, "edge-1", member) as edge:
            spec: JsonObject = {"version": "v9.9.9", "nodeNames": ["edge-1"]}
            job: JsonObject = {"metadata": {"name": "job1"}, "spec": spec}
            await cloud.kube.create(OPERATIONS, "nodeupgradejobs", None, job)
            await edge.wait_for(is_command)
            body = {
                "UpgradeID": "job1",
                "NodeName": "edge-1",
                "FromVersion": "v1.0.0",
                "ToVersion": "v9.9.9",
                "Status": "upgrade_failed_rollback_success",
                "Reason": "no room",
            }
            context = member.context(await fetch_ca(cloud))
            async with (
                aiohttp.ClientSession() as http,
                http.post(f"{cloud.https}/nodeupgrade", json=body, ssl=context) as answer,
            ):
                assert (answer.status, await answer.text()) == (200, "ok")
            (node,) = (await job_is(cloud, "Failure", "nodeupgradejobs"))["nodeStatus"]
            assert node["reason"] == "Upgrade: no room"
            assert node["actionFlow"][-1]["status"] == "True"  # it was rolled back


async def test_the_leader_gives_turns_and_each_cloudcore_serves_its_own_nodes(
    tmp_path: Path,
) -> None:
    async with (
        a_cloud(tmp_path) as cloud,
        another_cloud(cloud, tmp_path / "other", advertise=("192.0.2.7",)) as other,
    ):
        here, there = await a_member(cloud, "edge-1"), await a_member(cloud, "edge-2")
        async with an_edge(cloud, "edge-1", here) as edge, an_edge(other, "edge-2", there) as far:
            await cloud.kube.create(OPERATIONS, PULLS, None, a_prepull("edge-2", "edge-1"))
            await far.wait_for(is_command)
            assert not commands(edge)
            await report(far, CHECK)
            await report(far, PULL)
            await edge.wait_for(is_command)
            await report(edge, CHECK)
            await report(edge, PULL)
            await job_is(cloud, "Completed")
            assert len(commands(far)) == len(commands(edge)) == 1


async def test_a_job_that_is_deleted_is_let_go_and_its_nodes_are_not_asked(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        member = await a_member(cloud, "edge-1")
        await cloud.kube.create(OPERATIONS, PULLS, None, a_prepull("edge-1"))
        await job_is(cloud, "InProgress")
        await cloud.kube.delete(OPERATIONS, PULLS, None, "job1")

        async def is_gone() -> bool:
            return not (await cloud.kube.list(OPERATIONS, PULLS)).items

        await eventually(is_gone)
        async with an_edge(cloud, "edge-1", member) as edge:
            await report(edge, CHECK)  # an answer to what is gone
            await cloud.kube.create(OPERATIONS, PULLS, None, a_prepull("edge-1"))
            await edge.wait_for(is_command)
            assert len(commands(edge)) == 1


async def test_jobs_are_left_alone_where_they_are_switched_off(tmp_path: Path) -> None:
    async with a_cloud(tmp_path, tasks=Tasks(enabled=False)) as cloud:
        member = await a_member(cloud, "edge-1")
        await cloud.kube.create(OPERATIONS, PULLS, None, a_prepull("edge-1"))
        context = member.context(await fetch_ca(cloud))
        path = "/task/prepull/name/job1/node/edge-1/status"
        async with (
            aiohttp.ClientSession() as http,
            http.post(cloud.https + path, data=b"{}", ssl=context) as answer,
        ):
            assert answer.status == 501
        assert "status" not in await cloud.object(OPERATIONS, PULLS, None, "job1")


async def test_a_node_reads_the_secret_of_its_images_while_it_pulls(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        one, two = await a_member(cloud, "edge-1"), await a_member(cloud, "edge-2")
        secret: JsonObject = {"metadata": {"name": "registry"}, "stringData": {"a": "b"}}
        await cloud.kube.create("v1", "secrets", "default", secret)

        async def kind_of_answer(edge: Edge) -> bool:
            answer = await edge.ask_object(
                Subject("default", "secret", "registry"), Operation.QUERY
            )
            return "data" in content_of(answer)

        async with (
            an_edge(cloud, "edge-1", one, store="s1") as edge,
            an_edge(cloud, "edge-2", two, store="s2") as other,
        ):
            assert not await kind_of_answer(edge)
            job = a_prepull("edge-1", imageSecrets="default/registry")
            await cloud.kube.create(OPERATIONS, PULLS, None, job)
            await edge.wait_for(is_command)
            assert await kind_of_answer(edge)
            assert not await kind_of_answer(other)
            await report(edge, CHECK)
            await report(edge, PULL)
            await job_is(cloud, "Completed")
            assert not await kind_of_answer(edge)


async def test_a_flood_of_reports_is_one_report_of_each_action(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        member = await a_member(cloud, "edge-1")
        async with an_edge(cloud, "edge-1", member) as edge:
            await cloud.kube.create(OPERATIONS, PULLS, None, a_prepull("edge-1"))
            await edge.wait_for(is_command)
            for number in range(1_000):
                await report(edge, CHECK, reason=str(number))
            await report(edge, PULL)
            (node,) = (await job_is(cloud, "Completed"))["nodeStatus"]
            assert [(d["action"], d.get("reason")) for d in node["actionFlow"]] == [
                ("Check", "999"),
                ("Pull", None),
            ]
