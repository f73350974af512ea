"""Records of MetaServer on the edge's disk: written with the objects, and told after the commit."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from edge.clock import stamp
from edge.devicetwin import DeviceTwin
from edge.metamanager import MetaManager
from edge.store import EdgeStore, MetaObject, Record
from gateway.errors import GatewayError
from gateway.model.json import JsonObject
from gateway.model.trace import TraceContext
from gateway.runtime.module import running
from gateway.store.database import Database
from gateway.wire.cloudedge.envelope import Envelope
from gateway.wire.cloudedge.names import Operation
from gateway.wire.cloudedge.subjects import Subject
from gateway.wire.cloudedge.to_edge import Answer, ObjectChanged, change_object
from tests.integration.edge_support import until

PODS = "/v1, Resource=pods"


def a_record(name: str, namespace: str = "default", uid: str = "u", version: int = 1) -> Record:
    value = {"metadata": {"name": name, "namespace": namespace, "uid": uid}}
    key = f"/core/v1/pods/{namespace}/{name}"
    return Record(key, PODS, namespace, name, version, msgspec.json.encode(value).decode())


class Sender:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[Envelope] = []

    def send(self, envelope: Envelope) -> None:
        self.sent.append(envelope)

    async def ask(self, envelope: Envelope, seconds: float = 1.0) -> Answer:
        raise NotImplementedError


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[EdgeStore]:
    kept = EdgeStore(Database(tmp_path / "edge.db", "edge"))
    async with running(kept):
        yield kept


async def test_records_are_listed_by_resource_and_namespace(store: EdgeStore) -> None:
    done: list[GatewayError | None] = []
    for record in (a_record("b"), a_record("a"), a_record("c", "other")):
        store.put_record(record, done.append)
    store.put_record(
        Record("/core/v1/nodes/null/n", "/v1, Resource=nodes", "", "n", 7, "{}"), done.append
    )
    await until(lambda: len(done) == 4)
    assert done == [None] * 4
    assert [r.name for r in await store.records(PODS)] == ["a", "b", "c"]
    assert [r.name for r in await store.records(PODS, "other")] == ["c"]
    assert await store.records(PODS, "none") == []
    assert await store.record("/core/v1/pods/default/a") == a_record("a")
    assert await store.record("/core/v1/pods/default/z") is None
    (node,) = await store.records("/v1, Resource=nodes")
    assert (node.namespace, node.version) == ("", 7)


async def test_an_object_and_its_record_are_written_and_deleted_together(store: EdgeStore) -> None:
    done: list[Any] = []
    record = a_record("p1", uid="u1")
    store.put_meta(MetaObject("default/pod/p1", "pod", record.value), done.append, record=record)
    store.delete_meta("default/pod/p1", "u2", done.append, record_key=record.key)
    await until(lambda: len(done) == 2)
    assert done == [None, False]
    assert await store.record(record.key) == record
    store.delete_meta("default/pod/p1", "u1", done.append, record_key=record.key)
    await until(lambda: len(done) == 3)
    assert done[2] is True
    assert await store.record(record.key) is None
    assert await store.meta("default/pod/p1") is None


async def test_a_record_alone_is_deleted_unless_it_is_a_later_one(store: EdgeStore) -> None:
    done: list[Any] = []
    store.put_record(a_record("p1", uid="u1"), done.append)
    store.delete_record("/core/v1/pods/default/p1", "u2", done.append)
    store.delete_record("/core/v1/pods/default/p1", "", done.append)
    await until(lambda: len(done) == 3)
    assert done == [None, False, True]


async def test_takers_and_watches_hear_of_an_object_once_it_is_on_disk(store: EdgeStore) -> None:
    sender = Sender()
    meta = MetaManager(store, sender, cast(DeviceTwin, None))
    taken: list[tuple[str, str]] = []
    told: list[tuple[Record, str]] = []

    class Taker:
        def object_changed(self, change: ObjectChanged, trace: TraceContext | None) -> None:
            taken.append((change.operation, str(change.subject)))

    meta.on_kind("pod", Taker())
    meta.listen(lambda record, operation: told.append((record, operation)))
    meta.record_of = lambda _: a_record("p1", uid="u1")
    subject = Subject("default", "pod", "p1")
    pod: JsonObject = {"metadata": {"name": "p1", "namespace": "default", "uid": "u1"}}

    def happened(count: int) -> bool:
        return len(taken) == len(sender.sent) == len(told) == count

    for count, operation in enumerate((Operation.INSERT, Operation.DELETE), 1):
        envelope = change_object(stamp(), subject, operation, pod, version="1")
        meta.on_object(envelope, ObjectChanged(subject, operation, pod, "1", "edgecontroller"))
        assert len(sender.sent) < count
        await until(partial(happened, count))
    assert taken == [("insert", "default/pod/p1"), ("delete", "default/pod/p1")]
    assert [operation for _, operation in told] == ["insert", "delete"]
    assert await store.records(PODS) == []


async def test_no_one_else_reads_the_files_with_secrets_in_them(tmp_path: Path) -> None:
    path = tmp_path / "edge.db"
    for _ in range(2):
        done: list[GatewayError | None] = []
        kept = EdgeStore(Database(path, "edge"))
        async with running(kept):
            kept.put_record(a_record("a"), done.append)
            await until(lambda: done)  # noqa: B023  waited for in its own turn
            assert _modes(tmp_path) == {0o600}
        path.chmod(0o644)


def _modes(folder: Path) -> set[int]:
    return {stat.S_IMODE(each.stat().st_mode) for each in folder.glob("edge.db*")}
