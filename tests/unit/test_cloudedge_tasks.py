"""Node jobs on the link: KubeEdge's exact form, round trips, bad input."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import MalformedPacket
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.envelope import Envelope, Stamp, decode, encode
from gateway.wire.cloudedge.tasks import (
    CONFIG_JOB,
    KINDS,
    PREPULL_JOB,
    UPGRADE_JOB,
    TaskCommand,
    TaskReported,
    command_task,
    report_task,
)
from gateway.wire.cloudedge.to_cloud import read_to_cloud
from gateway.wire.cloudedge.to_edge import needs_acknowledgement, read_to_edge

STAMP = Stamp("A", 1_795_377_599_127)


def over_the_wire(envelope: Envelope) -> Envelope:
    return decode(encode(envelope))


def body_of(envelope: Envelope) -> JsonObject:
    body: JsonObject = json.loads(encode(envelope))
    return body


def test_an_action_has_kubeedges_form_and_is_not_acknowledged() -> None:
    spec: JsonObject = {"imagePrePullTemplate": {"images": ["nginx"]}}
    command = TaskCommand(PREPULL_JOB, "job1", "edge-1", "Check", spec)
    sent = command_task(STAMP, command)
    assert body_of(sent)["route"] == {
        "source": "taskmanager",
        "group": "taskmanager",
        "operation": "Check",
        "resource": "operations.kubeedge.io/v1alpha2/imageprepulljob/job1/node/edge-1",
    }
    assert body_of(sent)["content"] == spec
    assert not needs_acknowledgement(sent)
    assert read_to_edge(over_the_wire(sent)) == command


def test_a_report_has_kubeedges_form() -> None:
    report = TaskReported(
        CONFIG_JOB, "j", "edge-1", "Update", False, "2026-11-22T20:05:00Z", "no", '{"a":1}'
    )
    sent = report_task(STAMP, report)
    assert body_of(sent)["route"] == {
        "source": "websocket",
        "group": "hub",
        "operation": "UpdateNodeActionStatus",
        "resource": "operations.kubeedge.io/v1alpha2/configupdatejob/j/node/edge-1",
    }
    assert body_of(sent)["content"] == {
        "action": "Update",
        "succ": False,
        "finishTime": "2026-11-22T20:05:00Z",
        "reason": "no",
        "extend": '{"a":1}',
    }
    assert read_to_cloud(over_the_wire(sent)) == report


def test_the_older_form_is_read_and_written() -> None:
    request: JsonObject = {"TaskID": "t1", "Type": "prepull", "State": "", "Item": {}}
    command = TaskCommand(PREPULL_JOB, "t1", "edge-1", "prepull", request, legacy=True)
    sent = command_task(STAMP, command)
    route = body_of(sent)["route"]
    assert isinstance(route, dict)
    assert route["resource"] == "task/t1/node/edge-1"
    assert read_to_edge(over_the_wire(sent)) == command
    rollback = TaskCommand(UPGRADE_JOB, "t1", "edge-1", "rollback", request, legacy=True)
    assert read_to_edge(over_the_wire(command_task(STAMP, rollback))) == rollback


@pytest.mark.parametrize(
    "resource",
    [
        "x/y",
        "operations.kubeedge.io/v1alpha2/otherjob/j/node/n",
        "operations.kubeedge.io/v1alpha1/nodeupgradejob/j/node/n",
        "operations.kubeedge.io/v1alpha2/nodeupgradejob/j/edge/n",
        "operations.kubeedge.io/v1alpha2/nodeupgradejob//node/n",
        "operations.kubeedge.io/v1alpha2/nodeupgradejob/j/node/",
        "operations.kubeedge.io/v1alpha2/nodeupgradejob/j/node/" + "n" * 300,
        "task/t/node/n",
    ],
)
def test_a_resource_that_names_no_job_is_refused(resource: str) -> None:
    down = {"source": "taskmanager", "group": "taskmanager", "operation": "Check"}
    up = {"source": "websocket", "group": "hub", "operation": "UpdateNodeActionStatus"}
    for route, read, content in (
        (down, read_to_edge, {}),
        (up, read_to_cloud, {"action": "Check", "succ": True}),
    ):
        frame = {
            "header": {"msg_id": "A"},
            "route": {**route, "resource": resource},
            "content": content,
        }
        with pytest.raises(MalformedPacket, match="resource"):
            read(decode(json.dumps(frame)))


@pytest.mark.parametrize("content", [None, [], {}, {"action": ""}, {"action": "x", "succ": "yes"}])
def test_an_odd_report_is_refused(content: object) -> None:
    resource = "operations.kubeedge.io/v1alpha2/nodeupgradejob/j/node/n"
    route = {"group": "hub", "operation": "UpdateNodeActionStatus", "resource": resource}
    frame = {"header": {"msg_id": "A"}, "route": route, "content": content}
    with pytest.raises(MalformedPacket):
        read_to_cloud(decode(json.dumps(frame)))


_names = st.text("abcdefghijklmnopqrstuvwxyz-.0123456789", min_size=1, max_size=30)


@given(st.sampled_from(sorted(KINDS)), _names, _names, _names, st.booleans(), st.text(max_size=50))
def test_every_report_survives_the_wire(
    kind: str, job: str, node: str, action: str, ok: bool, reason: str
) -> None:
    report = TaskReported(kind, job, node, action, ok, "", reason)
    assert read_to_cloud(over_the_wire(report_task(STAMP, report))) == report
