"""The Kubernetes API as edged uses it: writes, deletions and tokens, with and without the cloud."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import edge.edgeapi
from gateway.errors import Conflict, NotFound, StoreUnavailable, Undeliverable
from gateway.model.json import JsonObject
from gateway.model.trace import TraceContext
from gateway.store.database import Database
from gateway.wire.cloudedge.envelope import MAX_FRAME, Envelope
from gateway.wire.cloudedge.names import Operation, Source
from gateway.wire.cloudedge.subjects import Subject
from gateway.wire.cloudedge.to_cloud import Acknowledged, ResourceAsked
from gateway.wire.cloudedge.to_edge import (
    ObjectChanged,
    answer_object,
    answer_result,
    change_object,
    err_status,
)
from tests.integration.edge_cloud import Authority, FakeCloud, a_cloud, stamp
from tests.integration.edge_node import a_node, join_edge, linked
from tests.integration.edge_support import until

AWAY = "127.0.0.1:1"
POD = Subject("default", "pod", "p1")
PATCH = Subject("default", "podpatch", "p1")
REQUEST: JsonObject = {"spec": {"expirationSeconds": 3_600, "audiences": None}}


class PodCloud(FakeCloud):
    """A cloud that also takes pods and gives tokens."""

    def __init__(self, authority: Authority) -> None:
        super().__init__(authority)
        self.status: dict[str, Any] | None = None
        self.token_ends = datetime.now(UTC) + timedelta(hours=1)
        self.tokens_given = 0

    def _answer_resource(self, asked: Envelope, message: ResourceAsked) -> Envelope | None:
        kind, operation = message.subject.type, message.operation
        if kind == "serviceaccounttoken":
            self.tokens_given += 1
            ends = self.token_ends.isoformat()
            status: JsonObject = {"token": f"t{self.tokens_given}", "expirationTimestamp": ends}
            filled: JsonObject = {"expirationSeconds": 3_600, "audiences": ["https://api"]}
            return answer_object(asked, stamp(), {"spec": filled, "status": status})
        if kind in ("pod", "podpatch") and self.status is not None:
            if operation == Operation.DELETE:
                return answer_object(asked, stamp(), err_status(self.status))
            return answer_result(asked, stamp(), None, self.status)
        if kind == "pod" and operation == Operation.DELETE:
            return answer_object(asked, stamp(), "OK")
        if kind in ("pod", "podpatch"):
            return answer_result(asked, stamp(), {"metadata": {"name": "p1", "uid": "u1"}})
        return super()._answer_resource(asked, message)


def answers_acknowledged(cloud: FakeCloud) -> list[str]:
    """The parents of acknowledgements: KubeEdge's cloud sends nothing else before it has them."""
    return [
        envelope.route.resource
        for envelope, message in cloud.got
        if isinstance(message, Acknowledged) and envelope.route.resource.startswith("default/conf")
    ]


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[PodCloud]:
    folder = tmp_path / "cloud"
    folder.mkdir()
    async with a_cloud(folder, PodCloud) as running:
        yield running


@pytest.fixture
async def data_dir(cloud: PodCloud, tmp_path: Path) -> Path:
    await join_edge(cloud, tmp_path / "edge")
    return tmp_path / "edge"


async def test_a_patch_is_on_disk_before_the_cloud_answers(cloud: PodCloud, data_dir: Path) -> None:
    async with a_node(data_dir, server=AWAY) as node:
        with pytest.raises(Undeliverable):
            await node.core.api.patch(PATCH, '{"status":{"phase":"Running"}}')
        assert (await node.core.api.query(PATCH)) == {"status": {"phase": "Running"}}
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        found = await node.core.api.patch(PATCH, '{"status":{"phase":"Running"}}')
        assert found == {"metadata": {"name": "p1", "uid": "u1"}}
        assert (await node.core.api.query(PATCH)) == found  # the answer takes its place


async def test_what_the_api_refuses_is_an_error_and_never_kept(
    cloud: PodCloud, data_dir: Path
) -> None:
    conflict = {"status": "Failure", "code": 409, "reason": "Conflict", "message": "another uid"}
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        cloud.status = conflict
        with pytest.raises(Conflict, match="another uid"):
            await node.core.api.insert(POD, {"metadata": {"name": "p1"}})
        with pytest.raises(NotFound):
            await node.core.api.query(POD)
        with pytest.raises(Conflict):
            await node.core.api.delete(POD, {"gracePeriodSeconds": 0})
        missing = Subject("default", "configmap", "missing")
        with pytest.raises(NotFound):
            await node.core.api.query(missing)
        await until(lambda: len(answers_acknowledged(cloud)) == 1)
    async with a_node(data_dir, server=AWAY) as node:
        with pytest.raises(NotFound):
            await node.core.api.query(missing)


async def test_a_pod_that_is_gone_is_deleted(cloud: PodCloud, data_dir: Path) -> None:
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        await cloud.push("pod", "p1", {"spec": {}})
        await node.core.api.delete(POD, {"gracePeriodSeconds": 0})
        assert await node.core.api.query(POD)  # until the cloud's own delete comes
        cloud.status = {"status": "Failure", "code": 404, "reason": "NotFound", "message": "gone"}
        await node.core.api.delete(POD, {"gracePeriodSeconds": 0})
        await cloud.push("pod", "p1", {}, Operation.DELETE)
        with pytest.raises(NotFound):
            await node.core.api.query(POD)


async def test_pods_are_answered_from_disk_alone(cloud: PodCloud, data_dir: Path) -> None:
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        await cloud.push("pod", "p1", {"spec": {"nodeName": "edge-1"}})
        cloud.got.clear()
        assert (await node.core.api.query(POD))["spec"] == {"nodeName": "edge-1"}
        asked = [m for _, m in cloud.got if isinstance(m, ResourceAsked)]
        assert not [m for m in asked if m.subject.type == "pod"]


async def test_a_token_is_used_until_most_of_its_life_is_over_and_offline_all_of_it(
    cloud: PodCloud, data_dir: Path
) -> None:
    async def token() -> Any:
        found: Any = await node.core.api.token("default", "app", REQUEST)
        return found["status"]["token"]

    async with a_node(data_dir) as node:
        await linked(node, cloud)
        assert [await token(), await token()] == ["t1", "t1"]
        other: JsonObject = {"spec": {"expirationSeconds": 600}}
        await node.core.api.token("default", "app", other)
        assert cloud.tokens_given == 2
    async with a_node(data_dir, server=AWAY) as node:
        assert await token() == "t1"  # the audiences that the API filled in are no part of the key
        with pytest.raises(Undeliverable):
            await node.core.api.token("default", "unknown", REQUEST)


async def test_an_old_token_is_renewed_and_an_ended_one_is_given_offline_only(
    cloud: PodCloud, data_dir: Path
) -> None:
    cloud.token_ends = datetime.now(UTC) - timedelta(seconds=1)
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        await node.core.api.token("default", "app", REQUEST)
        await node.core.api.token("default", "app", REQUEST)
        assert cloud.tokens_given == 2
    async with a_node(data_dir, server=AWAY) as node:
        found: Any = await node.core.api.token("default", "app", REQUEST)
        assert found["status"]["token"] == "t2"


async def test_a_clock_that_is_set_back_has_a_token_renewed(
    cloud: PodCloud, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        await node.core.api.token("default", "app", REQUEST)
        monkeypatch.setattr(edge.edgeapi, "now_ms", lambda: 1_000)
        for _ in range(2):
            found: Any = await node.core.api.token("default", "app", REQUEST)
            assert found["status"]["token"] == "t2"


class Seen:
    """Takes Pods."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []

    def object_changed(self, change: ObjectChanged, _trace: TraceContext | None) -> None:
        self.operations.append(change.operation)


async def test_on_a_full_disk_statuses_are_told_objects_are_read_and_pods_end(
    cloud: PodCloud, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full, seen = StoreUnavailable("the edge store cannot write: disk is full"), Seen()
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        node.core.meta.on_kind("pod", seen)
        monkeypatch.setattr(Database, "submit", lambda _self, _work, done: done(full))
        assert (await node.core.api.patch(PATCH, "{}"))["metadata"]
        assert (await node.core.api.token("default", "app", REQUEST))["status"]
        going: JsonObject = {"name": "p1", "deletionTimestamp": "2026-01-01T00:00:00Z"}
        steps: tuple[tuple[Operation, JsonObject], ...] = (
            (Operation.INSERT, {"name": "p1"}),
            (Operation.UPDATE, going),
            (Operation.DELETE, going),
        )
        for operation, metadata in steps:
            item: JsonObject = {"metadata": metadata}
            await cloud.send(
                change_object(
                    stamp(), POD, operation, item, version="1", source=Source.EDGE_CONTROLLER
                )
            )
        await until(lambda: len(seen.operations) == 2)
        assert seen.operations == [Operation.UPDATE, Operation.DELETE]


async def test_what_is_too_large_to_read_does_not_cut_the_link(
    cloud: PodCloud, data_dir: Path
) -> None:
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        socket = cloud.socket
        assert socket is not None
        await socket.send_str('{"header":{"msg_id":"m"},"content":"' + "x" * MAX_FRAME + '"}')
        await cloud.push("pod", "p1", {"spec": {}})
        assert cloud.socket is socket
