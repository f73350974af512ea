"""A node and its own Node through MetaServer's way: what the cloud decides about it stays the cloud's."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from gateway.config.cloud_services import Authorization
from gateway.model.json import Json
from gateway.wire.cloudedge.applications import (
    ApiKey,
    Verb,
    ask_application,
    make_application,
    read_application_answer,
)
from tests.cloud_rig import CloudCore, Edge, a_cloud, a_stamp, an_edge, join

NODE = ApiKey("", "v1", "nodes", None, "edge-1")
TENANT = "twinspan.io/tenant"
MERGE, JSON = "application/merge-patch+json", "application/json-patch+json"
STRATEGIC, APPLY = "application/strategic-merge-patch+json", "application/apply-patch+yaml"


async def patch(edge: Edge, kind: str, patch: Json, subresource: str = "") -> int:
    option: Json = {
        "Name": "edge-1",
        "PatchType": kind,
        "Data": base64.b64encode(json.dumps(patch).encode()).decode(),
        "Options": {},
        "Subresources": [subresource] if subresource else [],
    }
    app = make_application(edge.node, NODE, Verb.PATCH, option=option)
    answer = read_application_answer((await edge.ask(ask_application(a_stamp(), app))).content)
    return 200 if answer.is_approved else int(answer.error.status["code"])


async def words(cloud: CloudCore) -> dict[str, Any]:
    found: Any = await cloud.object("v1", "nodes", None, "edge-1")
    return dict(found["metadata"]["annotations"])


FORGED: list[tuple[str, Json]] = [
    (MERGE, {"metadata": {"annotations": {TENANT: "theirs"}}}),
    (MERGE, {"metadata": {"annotations": {TENANT: None}}}),
    (MERGE, {"metadata": {"annotations": None}}),
    (MERGE, {"metadata": {"labels": {TENANT: "theirs"}}}),
    (STRATEGIC, {"metadata": {"annotations": {"$patch": "replace"}}}),
    (STRATEGIC, {"metadata": {"annotations": {"$patch": "delete"}}}),
    (STRATEGIC, {"metadata": {"$patch": "replace", "name": "edge-1"}}),
    (STRATEGIC, {"$patch": "replace", "metadata": {"name": "edge-1"}}),
    (STRATEGIC, {"metadata": {"$retainKeys": ["name"], "name": "edge-1"}}),
    (JSON, [{"op": "add", "path": "/metadata/annotations/twinspan.io~1tenant", "value": "theirs"}]),
    (JSON, [{"op": "remove", "path": "/metadata/annotations/twinspan.io~1tenant"}]),
    (JSON, [{"op": "replace", "path": "/metadata/annotations", "value": {TENANT: "theirs"}}]),
    (JSON, [{"op": "remove", "path": "/metadata/annotations"}]),
    (
        JSON,
        [
            {
                "op": "move",
                "from": "/metadata/annotations/twinspan.io~1tenant",
                "path": "/metadata/annotations/x",
            }
        ],
    ),
    (
        APPLY,
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": "edge-1", "annotations": {TENANT: "theirs"}},
        },
    ),
]


@pytest.mark.parametrize("mode", [Authorization(), Authorization(enabled=False)], ids=["on", "off"])
async def test_a_node_cannot_choose_its_tenant_by_the_way_of_metaserver(
    tmp_path: Path, mode: Authorization
) -> None:
    async with (
        a_cloud(tmp_path, authorization=mode) as cloud,
        an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge,
    ):
        await edge.register()
        own: Json = {"metadata": {"annotations": {TENANT: "ours"}}}
        await cloud.kube.patch("v1", "nodes", None, "edge-1", own)
        for subresource in ("", "status"):
            for kind, forged in FORGED:
                code = await patch(edge, kind, forged, subresource)
                assert (await words(cloud))[TENANT] == "ours", (kind, forged, subresource)
                assert code == 403, (kind, forged, subresource)


async def test_a_node_may_say_the_rest_of_itself(tmp_path: Path) -> None:
    async with (
        a_cloud(tmp_path) as cloud,
        an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge,
    ):
        await edge.register()
        backend: Json = {"metadata": {"annotations": {"flannel.alpha.coreos.com/x": "1"}}}
        assert await patch(edge, STRATEGIC, backend, "status") == 200
        assert (await words(cloud))["flannel.alpha.coreos.com/x"] == "1"
        one: Json = [{"op": "add", "path": "/metadata/annotations/mine", "value": "2"}]
        assert await patch(edge, JSON, one) == 200
        assert (await words(cloud))["mine"] == "2"


async def put(edge: Edge, node: Json, verb: Verb) -> int:
    body = json.dumps(node).encode()
    app = make_application(edge.node, NODE, verb, option={}, body=body)
    answer = read_application_answer((await edge.ask(ask_application(a_stamp(), app))).content)
    return 200 if answer.is_approved else int(answer.error.status["code"])


@pytest.mark.parametrize("verb", [Verb.UPDATE, Verb.UPDATE_STATUS])
async def test_a_whole_node_keeps_what_the_cloud_says_of_it(tmp_path: Path, verb: Verb) -> None:
    async with (
        a_cloud(tmp_path) as cloud,
        an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge,
    ):
        await edge.register()
        own: Json = {"metadata": {"annotations": {TENANT: "ours"}}}
        await cloud.kube.patch("v1", "nodes", None, "edge-1", own)
        node: Any = await cloud.object("v1", "nodes", None, "edge-1")
        for annotations in ({**await words(cloud), TENANT: "theirs"}, {}):
            forged = {**node, "metadata": {**node["metadata"], "annotations": annotations}}
            assert await put(edge, forged, verb) == 403
        assert await put(edge, node, verb) == 200
        assert (await words(cloud))[TENANT] == "ours"
