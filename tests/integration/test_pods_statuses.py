"""Statuses of Pods: kept on disk, coalesced, told in order, and a Pod's end after its last status."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from edge.hub import LinkLost, NotConnected
from edge.pods.podspec import Pod, read_pod
from edge.pods.statuses import Statuses
from edge.store import EdgeStore, MetaObject
from gateway.errors import BadRequest, Conflict, GatewayError, NotFound, QuotaExceeded
from gateway.model.json import Json, JsonObject
from gateway.observe.metrics import Metrics
from gateway.runtime.module import running
from gateway.store.database import Database
from gateway.wire.cloudedge.subjects import Subject
from tests.integration.edge_support import until

MIRROR = {"kubernetes.io/config.source": "file"}


@dataclass
class Api:
    """The API through the cloud: `fault` refuses, a closed `gate` holds up."""

    told: list[tuple[str, str, Any]] = field(default_factory=list)
    fault: GatewayError | None = None
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    version: int = 10
    most: int = 0
    now: int = 0

    def __post_init__(self) -> None:
        self.gate.set()

    async def _take(self, what: str, subject: Subject, content: Any) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await self.gate.wait()
            if self.fault is not None:
                raise self.fault
            self.told.append((what, str(subject), content))
        finally:
            self.now -= 1

    async def patch(self, subject: Subject, text: str) -> JsonObject:
        await self._take("patch", subject, json.loads(text))
        self.version += 1
        return {"metadata": {"resourceVersion": str(self.version)}}

    async def delete(self, subject: Subject, options: JsonObject) -> None:
        await self._take("delete", subject, options)

    async def query(self, subject: Subject, content: Json = None) -> JsonObject:
        raise AssertionError

    async def insert(self, subject: Subject, body: JsonObject) -> JsonObject:
        raise AssertionError

    async def token(self, namespace: str, account: str, request: JsonObject) -> JsonObject:
        raise AssertionError

    def phases(self) -> list[str]:
        return [c["status"].get("phase", "") for what, _, c in self.told if what == "patch"]


def a_pod(uid: str = "u1", *, name: str = "p", static: bool = False, version: str = "5") -> Pod:
    meta: Any = {"name": name, "namespace": "default", "uid": uid, "resourceVersion": version}
    if static:
        meta["annotations"] = MIRROR
    spec: Any = {"containers": [{"name": "c", "image": "i"}], "nodeName": "edge-1"}
    return read_pod({"metadata": meta, "spec": spec, "status": {"phase": "Pending"}})


@asynccontextmanager
async def a_store(folder: Path) -> AsyncIterator[EdgeStore]:
    store = EdgeStore(Database(folder / "edge.db", "edge"))
    async with running(store):
        yield store


@asynccontextmanager
async def statuses_of(
    api: Api, store: EdgeStore, *, linked: bool = True
) -> AsyncIterator[Statuses]:
    statuses = Statuses(api, store, Metrics())
    async with running(statuses):
        if linked:
            statuses.link_up(has_spool=True)
        yield statuses


async def keep(store: EdgeStore, pod: Pod) -> None:
    """Put a Pod on disk, as MetaManager does."""
    written = asyncio.Event()
    text = json.dumps(pod.raw)
    store.put_meta(MetaObject(f"default/pod/{pod.meta.name}", "pod", text), lambda _: written.set())
    await written.wait()


async def has_rows(store: EdgeStore, count: int) -> None:
    """Wait until so many statuses are on disk: writes are not waited for."""
    async with asyncio.timeout(10):
        while len(await store.meta_of_type("podstatus")) != count:  # noqa: ASYNC110  nobody tells
            await asyncio.sleep(0.01)


RUNNING: JsonObject = {"phase": "Running", "startTime": "2027-01-15T08:00:00Z"}


async def test_a_status_is_patched_with_the_uid_and_only_when_it_changes(tmp_path: Path) -> None:
    api = Api()
    async with a_store(tmp_path) as store, statuses_of(api, store) as statuses:
        statuses.set(a_pod(), RUNNING)
        await until(lambda: len(api.told) == 1)
        statuses.set(a_pod(), dict(RUNNING))
        statuses.set(a_pod(), {**RUNNING, "podIP": "10.0.0.5"})
        await until(lambda: len(api.told) == 2)
    assert api.told[0][1] == "default/podpatch/p"
    assert api.told[0][2]["metadata"] == {"uid": "u1"}
    assert api.told[1][2]["status"] == {"podIP": "10.0.0.5"}


async def test_what_comes_while_a_patch_is_on_its_way_goes_as_one(tmp_path: Path) -> None:
    api = Api()
    async with a_store(tmp_path) as store, statuses_of(api, store) as statuses:
        api.gate.clear()
        statuses.set(a_pod(), {"phase": "Pending"})
        await until(lambda: api.now == 1)
        for number in range(20):
            statuses.set(a_pod(), {**RUNNING, "message": str(number)})
        assert api.now == 1
        api.gate.set()
        await until(lambda: statuses.waiting() == 0)
    assert api.phases() == ["Pending", "Running"]
    assert api.told[1][2]["status"]["message"] == "19"


async def test_statuses_of_many_pods_go_a_few_at_a_time(tmp_path: Path) -> None:
    api = Api()
    async with a_store(tmp_path) as store, statuses_of(api, store, linked=False) as statuses:
        for number in range(60):
            statuses.set(a_pod(f"u{number}", name=f"p{number}"), RUNNING)
        statuses.link_up(has_spool=True)
        await until(lambda: len(api.told) == 60)
    assert api.most <= 8


async def test_without_cloud_the_newest_is_kept_and_goes_when_it_is_back(tmp_path: Path) -> None:
    api = Api(fault=NotConnected())
    async with a_store(tmp_path) as store:
        async with statuses_of(api, store, linked=False) as statuses:
            await keep(store, a_pod())
            statuses.set(a_pod(), {"phase": "Pending"})
            statuses.set(a_pod(), {**RUNNING, "message": "restarted twice"})
        async with statuses_of(api, store, linked=False) as statuses:
            known = statuses.known("u1")
            assert known == {**RUNNING, "message": "restarted twice"}
            api.fault = None
            statuses.set(a_pod(), known)
            statuses.link_up(has_spool=True)
            await until(lambda: len(api.told) == 1)
    assert api.told[0][2]["status"]["message"] == "restarted twice"


async def test_a_lost_answer_has_the_status_told_again(tmp_path: Path) -> None:
    api = Api(fault=LinkLost())
    async with a_store(tmp_path) as store, statuses_of(api, store) as statuses:
        statuses.set(a_pod(), RUNNING)
        await until(lambda: statuses.waiting() == 1 and api.now == 0)
        statuses.link_down()
        api.fault = None
        statuses.link_up(has_spool=True)
        await until(lambda: api.phases() == ["Running"])


@pytest.mark.parametrize("fault", [NotFound("no pod"), Conflict("another uid")])
async def test_a_status_without_its_pod_is_dropped(tmp_path: Path, fault: GatewayError) -> None:
    api = Api(fault=fault)
    async with a_store(tmp_path) as store, statuses_of(api, store) as statuses:
        statuses.set(a_pod(), RUNNING)
        await until(lambda: statuses.waiting() == 0 and api.most == 1)
        api.fault = None
        statuses.set(a_pod(), {**RUNNING, "message": "more"})
        statuses.set(a_pod("u2"), RUNNING)
        await until(lambda: len(api.told) == 1)
    assert api.told[0][2]["metadata"] == {"uid": "u2"}


async def test_a_refused_status_is_told_again_when_it_changes_and_not_before(
    tmp_path: Path,
) -> None:
    api = Api(fault=BadRequest("no"))
    async with a_store(tmp_path) as store, statuses_of(api, store) as statuses:
        statuses.set(a_pod(), RUNNING)
        await until(lambda: statuses.waiting() == 0 and api.most == 1)
        api.fault = None
        statuses.set(a_pod(), RUNNING)
        assert statuses.waiting() == 0
        statuses.set(a_pod(), {**RUNNING, "message": "more"})
        await until(lambda: len(api.told) == 1)
    assert api.told[0][2]["status"]["phase"] == "Running"


async def test_a_busy_api_is_asked_again(tmp_path: Path) -> None:
    api = Api(fault=QuotaExceeded("slower"))
    async with a_store(tmp_path) as store, statuses_of(api, store) as statuses:
        statuses.set(a_pod(), RUNNING)
        await until(lambda: statuses.waiting() == 1 and api.most == 1 and api.now == 0)
        api.fault = None
        statuses.link_up(has_spool=True)
        await until(lambda: api.phases() == ["Running"])


async def test_what_somebody_else_wrote_over_it_is_told_again(tmp_path: Path) -> None:
    api = Api()
    async with a_store(tmp_path) as store, statuses_of(api, store) as statuses:
        statuses.set(a_pod(), RUNNING)
        await until(lambda: len(api.told) == 1)
        statuses.set(a_pod(version="11"), RUNNING)  # our own patch comes back
        assert statuses.waiting() == 0
        statuses.set(a_pod(version="12"), RUNNING)  # it says Pending
        await until(lambda: len(api.told) == 2)
    assert api.phases() == ["Running", "Running"]


async def test_a_pod_is_deleted_after_its_last_status_and_forgotten_at_last(
    tmp_path: Path,
) -> None:
    api = Api()
    async with a_store(tmp_path) as store, statuses_of(api, store) as statuses:
        statuses.set(a_pod(), RUNNING)
        statuses.finished(a_pod())
        await until(lambda: len(api.told) >= 2 and api.told[-1][0] == "delete")
        assert api.phases()[-1] == "Failed"
        assert api.told[-1][1:] == (
            "default/pod/p",
            {"gracePeriodSeconds": 0, "preconditions": {"uid": "u1"}},
        )
        await has_rows(store, 1)
        statuses.forget("u1")
        assert statuses.known("u1") is None
        await has_rows(store, 0)


async def test_an_end_is_told_over_restarts_until_it_is_taken(tmp_path: Path) -> None:
    api = Api(fault=NotConnected())
    async with a_store(tmp_path) as store:
        await keep(store, a_pod())
        async with statuses_of(api, store, linked=False) as statuses:
            statuses.finished(a_pod())
        api.fault = None
        async with statuses_of(api, store) as statuses:
            await until(lambda: [what for what, *_ in api.told] == ["patch", "delete"])
        async with statuses_of(api, store) as statuses:  # the cloud has not sent its delete yet
            await until(lambda: [what for what, *_ in api.told][2:] == ["patch", "delete"])


async def test_statuses_of_pods_that_are_no_more_go_from_the_disk(tmp_path: Path) -> None:
    api = Api()
    async with a_store(tmp_path) as store:
        async with statuses_of(api, store, linked=False) as statuses:
            statuses.set(a_pod(), RUNNING)
            statuses.set(a_pod("s1", name="s", static=True), RUNNING)
        await has_rows(store, 2)
        async with statuses_of(api, store, linked=False) as statuses:
            assert statuses.known("u1") is None
            assert statuses.known("s1") == RUNNING
            statuses.keep_static(frozenset())
        await has_rows(store, 0)


async def test_a_static_pod_is_told_under_its_mirror_s_uid_and_never_deleted(
    tmp_path: Path,
) -> None:
    api, mirrors = Api(), dict[str, str]()
    pod = a_pod("s1", name="s", static=True)
    async with a_store(tmp_path) as store, statuses_of(api, store) as statuses:
        statuses.mirror_uid = mirrors.get
        statuses.set(pod, RUNNING)
        await until(lambda: statuses.waiting() == 0)
        assert api.told == []
        mirrors["s1"] = "m1"
        statuses.mirror_changed("s1")
        await until(lambda: len(api.told) == 1)
        mirrors["s1"] = "m2"
        statuses.mirror_changed("s1")
        await until(lambda: len(api.told) == 2)
        statuses.finished(pod)
        await until(lambda: statuses.waiting() == 0)
    assert [c["metadata"]["uid"] for _, _, c in api.told][:2] == ["m1", "m2"]
    assert {what for what, *_ in api.told} == {"patch"}


async def test_an_end_is_not_taken_back(tmp_path: Path) -> None:
    api = Api()
    async with a_store(tmp_path) as store, statuses_of(api, store) as statuses:
        statuses.set(a_pod(), {"phase": "Failed"})
        statuses.set(a_pod(), RUNNING)
        assert statuses.known("u1") == {"phase": "Failed"}


async def test_a_start_time_stays(tmp_path: Path) -> None:
    api = Api()
    async with a_store(tmp_path) as store, statuses_of(api, store) as statuses:
        statuses.set(a_pod(), RUNNING)
        await until(lambda: len(api.told) == 1)
        statuses.set(a_pod(), {**RUNNING, "startTime": "2027-01-15T09:00:00Z"})
        assert statuses.waiting() == 0
