"""Node jobs with strangers in Go, as KubeEdge's parts put them on the link: their edge, and their cloud."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edge.join import JoinRequest
from gateway.model.json import JsonObject
from tests.cloud_rig import a_cloud, eventually
from tests.go_peers import go_peer, go_program
from tests.integration.edge_node import a_node
from tests.integration.edge_support import until
from tests.integration.test_stranger_go import NODE, address, until_joined

OPERATIONS = "operations.kubeedge.io/v1alpha2"
REPORT = "UpdateNodeActionStatus"
TO_EDGE = {"source": "taskmanager", "group": "taskmanager"}
TO_CLOUD = {"source": "websocket", "group": "hub"}


async def test_a_go_edge_runs_a_job_of_our_cloud(tmp_path: Path) -> None:
    go_program("edge")
    async with a_cloud(tmp_path) as cloud:
        token = await cloud.token()
        arguments = ("-https", address(cloud.https), "-hub", address(cloud.wss), "-node", NODE)
        async with go_peer("edge", *arguments, "-token", token) as edge:
            await edge.message(f"null/nodepatch/{NODE}", "response")
            template: JsonObject = {
                "images": ["nginx:1"],
                "nodeNames": [NODE],
                "checkItems": ["cpu"],
            }
            job: JsonObject = {
                "metadata": {"name": "pull"},
                "spec": {"imagePrePullTemplate": template},
            }
            await cloud.kube.create(OPERATIONS, "imageprepulljobs", None, job)
            resource = f"{OPERATIONS}/imageprepulljob/pull/node/{NODE}"
            asked = await edge.message(resource, "Check")
            assert asked["message"]["route"] | TO_EDGE == asked["message"]["route"]
            assert asked["message"]["content"] == {"imagePrePullTemplate": template}
            images = json.dumps([{"image": "nginx:1", "status": "True"}])
            for action, extend in (("Check", ""), ("Pull", images)):
                said = {
                    "action": action,
                    "succ": True,
                    "finishTime": "",
                    "reason": "",
                    "extend": extend,
                }
                await edge.send(resource, REPORT, said, **TO_CLOUD)

            async def ended() -> Any:
                found = await cloud.object(OPERATIONS, "imageprepulljobs", None, "pull")
                status = found.get("status", {})
                return status if status.get("phase") == "Completed" else None

            status = await eventually(ended, "the job's end")
            assert status["nodeStatus"][0]["imageStatus"] == json.loads(images)


async def test_our_edge_runs_the_jobs_of_a_go_cloud(tmp_path: Path) -> None:
    go_program("cloud")
    async with go_peer("cloud") as cloud:
        listening = await cloud.event("listening")
        request = JoinRequest(
            cloud=f"https://{listening['https']}",
            token=listening["token"],
            node="edge-1",
            hub=listening["hub"],
        )
        await until_joined(request, tmp_path)
        async with a_node(tmp_path) as node:
            await until(lambda: node.core.node.is_registered)
            resource = f"{OPERATIONS}/configupdatejob/slower/node/edge-1"
            spec = {"nodeNames": ["edge-1"], "updateFields": {"modules.edgeHub.heartbeat": "30"}}
            await cloud.send(resource, "Check", spec, **TO_EDGE)
            await until(lambda: len(reports(cloud, resource)) == 3)
            assert [(r["action"], r["succ"]) for r in reports(cloud, resource)] == [
                ("Check", True),
                ("BackUp", True),
                ("Update", True),
            ]
            upgrade = f"{OPERATIONS}/nodeupgradejob/up/node/edge-1"
            await cloud.send(upgrade, "Check", {"version": "v9.9.9; id"}, **TO_EDGE)
            await until(lambda: len(reports(cloud, upgrade)) == 1)
            assert reports(cloud, upgrade)[0]["succ"] is False


def reports(cloud: Any, resource: str) -> list[Any]:
    """What the edge reported about a job, oldest first."""
    messages = [told["message"] for told in cloud.told if told["event"] == "message"]
    return [
        m["content"]
        for m in messages
        if m["route"]["resource"] == resource and m["route"]["operation"] == REPORT
    ]
