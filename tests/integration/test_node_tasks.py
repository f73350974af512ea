"""Node jobs in the cloud, on nodes made by hand: turns, tolerance, who is away, restarts, bad reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cloud.tasks import finalizer_of
from gateway.wire.cloudedge.envelope import Envelope
from gateway.wire.cloudedge.tasks import (
    CHECK,
    PREPULL_JOB,
    PULL,
    TaskCommand,
    TaskReported,
    report_task,
)
from gateway.wire.cloudedge.to_edge import read_to_edge
from tests.cloud_rig import (
    Certificate,
    CloudCore,
    Edge,
    a_cloud,
    a_stamp,
    an_edge,
    eventually,
    join,
    make_ready_node,
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
