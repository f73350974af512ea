"""EdgeCore against a cloud written by hand, over real TLS: node, devices, twins, offline, refusals."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from edge.enrolment import Ticket
from edge.identity import Identity
from edge.join import JoinRequest
from edge.mappers.driver import DeviceUnreachable, Driver, Quality, Reading
from gateway.errors import InvalidSetting, NoConsumer, NotFound, StoreUnavailable
from gateway.model.message import Kind
from gateway.store.database import Database
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.envelope import Route, make
from gateway.wire.cloudedge.models import ModelView
from gateway.wire.cloudedge.names import Group, Operation, Source
from gateway.wire.cloudedge.subjects import Subject
from gateway.wire.cloudedge.to_edge import change_membership
from gateway.wire.cloudedge.twins import (
    MemberDevice,
    MembershipUpdate,
    Twin,
    TwinUpdate,
    TwinValue,
    TwinVersion,
)
from gateway.wire.mqtt.properties import Properties
from tests.integration.edge_cloud import FakeCloud, a_cloud, serving, stamp
from tests.integration.edge_node import (
    LAMP_MODEL,
    MODEL,
    a_device,
    a_node,
    join_edge,
    linked,
)
from tests.integration.edge_support import until


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[FakeCloud]:
    folder = tmp_path / "cloud"
    folder.mkdir()
    async with a_cloud(folder) as running:
        running.members = [MemberDevice(id="default/d1", name="d1")]
        yield running


@pytest.fixture
async def data_dir(cloud: FakeCloud, tmp_path: Path) -> Path:
    await join_edge(cloud, tmp_path / "edge")
    return tmp_path / "edge"


async def with_device(cloud: FakeCloud, *, temp: str | None) -> None:
    await cloud.push("devicemodel", "m1", MODEL)
    await cloud.push("device", "d1", a_device(temp=temp))


# --- the node ------------------------------------------------------------------------------------


async def test_the_edge_registers_its_node_and_lease(cloud: FakeCloud, data_dir: Path) -> None:
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        registered = cloud.nodes["edge-1"]
        assert registered["metadata"]["labels"]["node-role.kubernetes.io/edge"] == ""
        conditions = {c["type"]: c["status"] for c in registered["status"]["conditions"]}
        assert conditions["Ready"] == "True"
        assert int(registered["status"]["capacity"]["cpu"]) >= 1
        assert cloud.leases["edge-1"]["spec"]["holderIdentity"] == "edge-1"
        assert cloud.got[0][0].route.operation == Operation.KEEPALIVE


async def test_a_node_registers_again_with_a_cloud_that_forgot_it(
    cloud: FakeCloud, data_dir: Path
) -> None:
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        cloud.nodes.clear()
        cloud.leases.clear()
        await cloud.cut()
        await until(lambda: "edge-1" in cloud.nodes and "edge-1" in cloud.leases)


async def test_a_refused_node_says_why_and_goes_on_alone(cloud: FakeCloud, data_dir: Path) -> None:
    cloud.refusal = "revoked"
    async with a_node(data_dir) as node:
        await until(lambda: "revoked" in node.core.hub.last_error)
        assert await node.publish("telemetry//default:d1", b"kept") is None
        cloud.refusal = ""
        await until(lambda: [u.payload for u in cloud.uploads] == [b"kept"])


def a_ticket(cloud: FakeCloud) -> Ticket:
    async def make_request() -> JoinRequest:
        return JoinRequest(cloud=cloud.https, token=cloud.authority.token(), hub=cloud.hub)

    return make_request


async def test_a_local_edge_joins_its_cloud_at_start_and_once(
    cloud: FakeCloud, tmp_path: Path
) -> None:
    async with a_node(tmp_path / "local", ticket=a_ticket(cloud)) as node:
        await linked(node, cloud)
    key = Identity(tmp_path / "local").key.read_bytes()
    async with a_node(tmp_path / "local", ticket=a_ticket(cloud)) as node:
        await linked(node, cloud)
    assert Identity(tmp_path / "local").key.read_bytes() == key


async def test_a_local_edge_joins_anew_when_its_cloud_is_another(
    cloud: FakeCloud, tmp_path: Path
) -> None:
    async with a_node(tmp_path / "local", ticket=a_ticket(cloud)) as node:
        await linked(node, cloud)
    (tmp_path / "other").mkdir()
    async with (
        a_cloud(tmp_path / "other") as other,
        a_node(tmp_path / "local", ticket=a_ticket(other)) as node,
    ):
        await linked(node, other)


async def test_a_node_that_has_not_joined_is_told_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="has not joined"):
        async with a_node(tmp_path / "fresh"):
            pass


# --- objects -------------------------------------------------------------------------------------


async def test_objects_are_acknowledged_and_survive_a_restart_without_cloud(
    cloud: FakeCloud, data_dir: Path
) -> None:
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        await with_device(cloud, temp="25")
    async with a_node(data_dir, server="127.0.0.1:1") as node:
        await node.publish("$hw/events/device/default/d1/twin/get", {"event_id": "g"})
        (answer,) = node.heard("/twin/get/result")
        assert answer["event_id"] == "g"
        assert answer["twin"]["temp"]["expected"]["value"] == "25"
        assert answer["twin"]["temp"]["metadata"]["type"] == "int"


async def test_the_same_insert_twice_is_acknowledged_twice_and_changes_nothing(
    cloud: FakeCloud, data_dir: Path
) -> None:
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        await with_device(cloud, temp="25")
        await until(lambda: node.heard("/twin/update/delta"))
        told = len(node.told)
        await cloud.push("device", "d1", a_device(temp="25"))
        await node.publish("$hw/events/device/default/d1/twin/get", {})
        assert node.told.pop()[0].endswith("/twin/get/result")
        assert len(node.told) == told


async def test_a_delete_with_another_uid_keeps_the_object(cloud: FakeCloud, data_dir: Path) -> None:
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        await cloud.push("configmap", "c1", {"data": {"a": "1"}})
        gone = {"metadata": {"uid": "another"}}
        await cloud.push("configmap", "c1", gone, Operation.DELETE)
        store = node.core.modules[0]
        assert (await store.meta("default/configmap/c1")) is not None  # type: ignore[attr-defined]
        await cloud.push("configmap", "c1", {}, Operation.DELETE)
        assert (await store.meta("default/configmap/c1")) is None  # type: ignore[attr-defined]


async def test_a_question_is_answered_by_the_cloud_and_from_disk_without_it(
    cloud: FakeCloud, data_dir: Path
) -> None:
    subject = Subject("default", "configmap", "c1")
    cloud.objects["default/configmap/c1"] = {"metadata": {"name": "c1"}, "data": {"a": "1"}}
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        assert (await node.core.api.query(subject))["data"] == {"a": "1"}
        with pytest.raises(NotFound, match=r"^no$"):
            await node.core.api.query(Subject("default", "configmap", "missing"))
    async with a_node(data_dir, server="127.0.0.1:1") as node:
        assert (await node.core.api.query(subject))["data"] == {"a": "1"}
        assert [o["data"] for o in await node.core.meta.list("configmap")] == [{"a": "1"}]
        with pytest.raises(NotFound, match="the cloud is away"):
            await node.core.api.query(Subject("default", "configmap", "missing"))


async def test_garbage_from_the_cloud_does_not_end_the_link(
    cloud: FakeCloud, data_dir: Path
) -> None:
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        assert cloud.socket is not None
        await cloud.socket.send_str("{not json")
        await cloud.socket.send_str('{"header":{"msg_id":"x"},"route":{"group":"nobody"}}')
        await with_device(cloud, temp="25")
        assert cloud.connections == 1


# --- twins ---------------------------------------------------------------------------------------


async def test_a_report_is_answered_told_and_sent_up(cloud: FakeCloud, data_dir: Path) -> None:
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        await with_device(cloud, temp="25")
        assert await node.report("d1", temp="20") is None
        (result,) = node.heard("/twin/update/result")
        assert result["event_id"] == "e"
        assert result["twin"]["temp"]["actual"]["value"] == "20"
        document = node.heard("/twin/update/document")[-1]
        assert document["twin"]["temp"]["current"]["actual"]["value"] == "20"
        delta = node.heard("/twin/update/delta")[-1]
        assert delta["delta"] == {"temp": "25"}
        await until(lambda: cloud.reported("temp") == ["20"])
        (report,) = cloud.reports
        twin = (report.update.twin or {})["temp"]
        assert twin is not None
        assert (str(report.device), twin.actual_version) == ("default/d1", TwinVersion(0, 1))


async def test_a_desired_value_that_is_reached_ends_the_delta(
    cloud: FakeCloud, data_dir: Path
) -> None:
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        await with_device(cloud, temp="25")
        await until(lambda: node.heard("/twin/update/delta"))
        assert node.heard("/twin/update/delta")[-1]["delta"] == {"temp": "25"}
        count = len(node.heard("/twin/update/delta"))
        await node.report("d1", temp="25")
        assert len(node.heard("/twin/update/delta")) == count


async def test_a_changed_desired_value_is_told_to_local_subscribers(
    cloud: FakeCloud, data_dir: Path
) -> None:
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        await with_device(cloud, temp="25")
        await cloud.push("device", "d1", a_device(temp="30"), Operation.UPDATE)
        await until(
            lambda: node.heard("/delta") and node.heard("/delta")[-1]["delta"]["temp"] == "30"
        )


@pytest.mark.parametrize(
    ("device", "payload", "code"),
    [
        ("d1", b"{broken", 400),
        ("d1", b'{"twin": {}}', 400),
        ("d1", b'{"twin": {"temp": {"actual": {"value": "warm"}}}}', 400),
        ("d1", b'"text"', 400),
        ("nobody", b'{"twin": {"temp": {"actual": {"value": "1"}}}}', 404),
    ],
)
async def test_a_bad_update_gets_an_error_on_the_result_topic(
    cloud: FakeCloud, data_dir: Path, device: str, payload: bytes, code: int
) -> None:
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        await with_device(cloud, temp=None)
        await node.publish(f"$hw/events/device/default/{device}/twin/update", payload)
        (error,) = node.heard(f"/{device}/twin/update/result")
        assert error["code"] == code
        assert error["reason"]


async def test_a_cloud_update_with_old_versions_gets_the_edges_data_back(
    cloud: FakeCloud, data_dir: Path
) -> None:
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        await with_device(cloud, temp=None)
        for value in ("1", "2", "3"):
            await node.report("d1", temp=value)
        await until(lambda: cloud.reported("temp") == ["1", "2", "3"])
        old = Twin(
            actual=TwinValue(value="9"),
            actual_version=TwinVersion(0, 1),
            metadata={"type": "int"},
        )
        route = Route(
            source=Source.DEVICE_CONTROLLER,
            group=Group.TWIN,
            operation=Operation.UPDATE,
            resource="device/default/d1/twin/cloud_updated",
        )
        await cloud.send(make(stamp(), route, TwinUpdate("", 0, {"temp": old})))
        await until(lambda: cloud.reported("temp") == ["1", "2", "3", "3"])


async def test_a_state_is_answered_and_sent_up(cloud: FakeCloud, data_dir: Path) -> None:
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        await with_device(cloud, temp=None)
        topic = "$hw/events/device/default/d1/state/update"
        await node.publish(topic, {"event_id": "s", "state": "dancing"})
        await node.publish(topic, {"event_id": "s", "state": "online"})
        (result,) = node.heard("/state/update/result")
        assert result["device"]["state"] == "online"
        await until(lambda: [s.update.device.state for s in cloud.states] == ["online"])


async def test_membership_is_listed_changed_and_told(cloud: FakeCloud, data_dir: Path) -> None:
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        await until(lambda: node.core.twin.members())
        update = MembershipUpdate(
            added_devices=[MemberDevice(id="default/d2", name="d2", description="second")],
            removed_devices=[MemberDevice(id="default/d1", name="d1")],
        )
        await cloud.send(change_membership(stamp(), update))
        await until(lambda: [m.id for m in node.core.twin.members()] == ["default/d2"])
        await node.publish("$hw/events/node/edge-1/membership/get", {"event_id": "m"})
        (listed,) = node.heard("/membership/get/result")
        assert listed["devices"][0]["description"] == "second"
        assert node.heard("/membership/updated")[-1]["removed_devices"][0]["id"] == "default/d1"


async def test_a_device_that_left_takes_its_twins_along(cloud: FakeCloud, data_dir: Path) -> None:
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        await with_device(cloud, temp="25")
        await cloud.push("device", "d1", {}, Operation.DELETE)
        await until(lambda: not node.core.twin.members())
    cloud.members = []
    async with a_node(data_dir) as node:
        assert not node.core.twin.members()


async def test_a_disk_that_cannot_write_is_told_and_leaves_the_twin_as_it_was(
    cloud: FakeCloud, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        await with_device(cloud, temp=None)
        await node.report("d1", temp="1")
        full = StoreUnavailable("the edge store cannot write: disk is full")
        with monkeypatch.context() as patch:
            patch.setattr(Database, "submit", lambda _self, _work, done: done(full))
            assert await node.report("d1", temp="2") is full
            assert await node.publish("e//default:d1", b"x") is full
        assert node.heard("/twin/update/result")[-1]["code"] == 500
        await node.publish("$hw/events/device/default/d1/twin/get", {})
        assert node.heard("/twin/get/result")[-1]["twin"]["temp"]["actual"]["value"] == "1"
        assert await node.report("d1", temp="3") is None
        await until(lambda: cloud.reported("temp") == ["1", "3"])


# --- offline -------------------------------------------------------------------------------------


async def test_what_happens_offline_arrives_in_order_and_once(
    cloud: FakeCloud, data_dir: Path
) -> None:
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        await with_device(cloud, temp=None)
    async with a_node(data_dir, server="127.0.0.1:1") as node:
        for at in range(20):
            assert await node.report("d1", temp=str(at)) is None
            assert await node.publish("t//default:d1", f"t{at}".encode()) is None
            assert await node.publish("e//default:d1", f"e{at}".encode()) is None
    async with a_node(data_dir) as node:
        await until(lambda: len(cloud.reported("temp")) == 20 and len(cloud.uploads) == 40)
        await linked(node, cloud)
    assert cloud.reported("temp") == [str(at) for at in range(20)]
    for kind, letter in ((Kind.TELEMETRY, "t"), (Kind.EVENT, "e")):
        texts = [u.payload.decode() for u in cloud.uploads if u.kind is kind]
        assert texts == [f"{letter}{at}" for at in range(20)]
    versions = [(r.update.twin or {})["temp"] for r in cloud.reports]
    assert [v.actual_version.edge for v in versions if v and v.actual_version] == [*range(1, 21)]


async def test_an_unanswered_report_is_sent_again_with_the_same_id_after_a_cut(
    cloud: FakeCloud, data_dir: Path
) -> None:
    cloud.answers_twins = False
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        await with_device(cloud, temp=None)
        await node.report("d1", temp="1")
        await until(lambda: len(cloud.reports) == 1)
        await node.report("d1", temp="2")
        cloud.answers_twins = True
        await cloud.cut()
        await until(lambda: cloud.reported("temp") == ["1", "1", "2"])
        ids = [e.msg_id for e, m in cloud.got if m in cloud.reports]
        assert ids[0] == ids[1] != ids[2]


# --- telemetry -----------------------------------------------------------------------------------


async def test_an_upload_carries_trace_content_type_and_time(
    cloud: FakeCloud, data_dir: Path
) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        properties = Properties(content_type="text/plain", user=(("traceparent", parent),))
        await node.publish("telemetry/T/default:d1", b"x", properties=properties)
        await until(lambda: len(cloud.uploads) == 1)
        (item,) = cloud.uploads
        assert item.trace is not None
        assert item.trace.trace_id == "0af7651916cd43dd8448eb211c80319c"
        assert (item.content_type, item.qos, item.device) == ("text/plain", 1, "default:d1")
        assert item.at > 0
        names = {span.name for span in node.tracer.recent(item.trace.trace_id)}
        assert {"edge.eventbus publish", "edge.spool send"} <= names


async def test_a_property_bag_names_content_type_and_life_time(
    cloud: FakeCloud, data_dir: Path
) -> None:
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        await node.publish("event//4711/?content-type=text%2Fplain&hono-ttl=30", b"x")
        await until(lambda: len(cloud.uploads) == 1)
        (item,) = cloud.uploads
        assert (item.device, item.content_type, item.ttl) == ("4711", "text/plain", 30.0)


@pytest.mark.parametrize("topic", ["telemetry", "t/", "e/tenant", "event//"])
async def test_an_upload_without_a_device_is_refused(
    cloud: FakeCloud, data_dir: Path, topic: str
) -> None:
    async with a_node(data_dir) as node:
        error = await node.publish(topic, b"x")
        assert error is not None
        assert error.status == 400
        assert not cloud.uploads


async def test_without_a_consumer_one_device_waits_and_others_go_on(
    cloud: FakeCloud, data_dir: Path
) -> None:
    blocked = True
    cloud.outcome = lambda item: NoConsumer() if item.device == "a" and blocked else None
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        await node.publish("t//a", b"a1")
        await node.publish("t//a", b"a2")
        await node.publish("t//b", b"b1")
        await until(lambda: b"b1" in [u.payload for u in cloud.uploads])
        blocked = False
        await until(lambda: b"a2" in [u.payload for u in cloud.uploads])
        await until(lambda: node.core.spool.depths[Kind.TELEMETRY].messages == 0)


async def test_router_topics_go_straight_up_and_are_restored(
    cloud: FakeCloud, data_dir: Path
) -> None:
    def command(operation: Operation, topic: str, content: str | None = None) -> Any:
        route = Route(
            source=Source.ROUTER_EVENT_BUS,
            group=Group.USER,
            operation=operation,
            resource=topic,
        )
        return make(stamp(), route, content)

    async with a_node(data_dir) as node:
        await linked(node, cloud)
        await cloud.send(command(Operation.SUBSCRIBE, "default/up"))
        await cloud.send(command(Operation.PUBLISH, "test/sub/x", "hello body"))
        await until(lambda: ("test/sub/x", b"hello body") in node.told)
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        await node.publish("default/up", b"from edge")
        await node.publish("default/other", b"stays here")
        await until(lambda: cloud.for_router)
        assert [(u.resource, u.payload) for u in cloud.for_router] == [("default/up", b"from edge")]


# --- mappers -------------------------------------------------------------------------------------


async def test_a_virtual_lamp_obeys_its_desired_value_and_reports(
    cloud: FakeCloud, data_dir: Path
) -> None:
    cloud.members = [MemberDevice(id="default/lamp", name="lamp")]
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        await cloud.push("devicemodel", "m1", LAMP_MODEL)
        lamp = a_device(protocol="virtual", on=None, brightness=None)
        await cloud.push("device", "lamp", lamp)
        await until(lambda: cloud.reported("on") == ["false"])
        lamp = a_device(protocol="virtual", on="true", brightness=None)
        await cloud.push("device", "lamp", lamp, Operation.UPDATE)
        await until(lambda: cloud.reported("on")[-1] == "true")
        await until(lambda: any(b'"on":true' in u.payload for u in cloud.uploads))
        copies = [u for u in cloud.uploads if u.kind is Kind.TELEMETRY]
        assert all(u.twin_owned and u.device == "default:lamp" for u in copies)
        states = [u.payload for u in cloud.uploads if u.kind is Kind.EVENT]
        assert states == [b'{"state":"online"}']


class StuckDriver:
    """A device that never answers."""

    async def connect(self) -> None:
        await asyncio.get_running_loop().create_future()

    async def read(self, names: Sequence[str]) -> Mapping[str, Reading]:
        raise DeviceUnreachable

    async def write(self, name: str, text: str) -> None:
        raise DeviceUnreachable

    def subscribe(self, changed: Any) -> None:
        raise AssertionError("never connected")

    async def close(self) -> None:
        """Nothing to give back."""


class BuggyDriver(StuckDriver):
    """A driver with a bug."""

    async def connect(self) -> None:
        raise ZeroDivisionError


class GoodDriver(StuckDriver):
    """A device that always reads 7."""

    async def connect(self) -> None:
        """At once."""

    async def read(self, names: Sequence[str]) -> Mapping[str, Reading]:
        return {name: Reading("7", Quality.GOOD, 1) for name in names}

    def subscribe(self, changed: Any) -> None:
        """Nothing comes by itself."""


async def test_a_failing_device_never_stalls_its_neighbours(
    cloud: FakeCloud, data_dir: Path
) -> None:
    kinds: dict[str, type[Driver]] = {
        "stuck": StuckDriver,
        "buggy": BuggyDriver,
        "good": GoodDriver,
    }

    def factory(kind: str) -> Any:
        def make_driver(_view: DeviceView, _model: ModelView | None) -> Driver:
            return kinds[kind]()

        return make_driver

    cloud.members = [MemberDevice(id=f"default/{kind}", name=kind) for kind in kinds]
    async with a_node(data_dir, drivers={kind: factory(kind) for kind in kinds}) as node:
        await linked(node, cloud)
        await cloud.push("devicemodel", "m1", MODEL)
        for kind in kinds:
            await cloud.push("device", kind, a_device(protocol=kind, temp=None))
        await until(lambda: cloud.reported("temp") == ["7"])
        states = {(s.device.name, s.update.device.state) for s in cloud.states}
        await until(
            lambda: (
                ("buggy", "unhealthy")
                in {(s.device.name, s.update.device.state) for s in cloud.states}
            )
        )
        assert ("stuck", "online") not in states


# --- the link ------------------------------------------------------------------------------------


async def test_a_cloud_that_comes_late_is_found(
    tmp_path: Path, cloud: FakeCloud, data_dir: Path
) -> None:
    async with serving(cloud.listening(), cloud.authority.context(insist=True)) as port:
        address = f"127.0.0.1:{port}"
    async with a_node(data_dir, server=address) as node:
        await until(lambda: node.core.hub.last_error)
        async with serving(cloud.listening(), cloud.authority.context(insist=True), port):
            await linked(node, cloud)
        await until(lambda: not node.core.hub.is_connected)


async def test_a_stop_says_goodbye_to_the_cloud(cloud: FakeCloud, data_dir: Path) -> None:
    async with a_node(data_dir) as node:
        await linked(node, cloud)
    await until(lambda: cloud.socket is None)
