"""The order in which Pods are tried, what they wait for, and what a node's conditions mean."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from gateway.model.json import JsonObject
from gateway.wire.kube.nodehealth import (
    evicting_taints,
    settled_taints,
    silence,
    sparing_taints,
)
from gateway.wire.kube.quantity import quantity, thousandths, units
from gateway.wire.kube.scheduling.filters import Cause
from gateway.wire.kube.scheduling.pods import Key, PodInfo, read_pod
from gateway.wire.kube.scheduling.queue import FORGOTTEN_SECONDS, SchedulingQueue
from gateway.wire.kube.taints import Taint, stay, tolerations_of
from tests.scheduling_samples import a_pod

GONE = Cause.POD_GONE


def info(name: str, **more: Any) -> PodInfo:
    return read_pod(a_pod(name, **more))


def key(name: str) -> Key:
    return "default", name


def fail(queue: SchedulingQueue, name: str, now: float, causes: Cause = GONE) -> None:
    mark = queue.mark()
    assert queue.pop(now) == key(name)
    queue.park(key(name), causes, mark, now)


# --- the queue -------------------------------------------------------------------------------------


def test_pods_come_by_priority_and_then_in_the_order_in_which_they_came() -> None:
    queue = SchedulingQueue()
    for pod in (info("a"), info("b", priority=5), info("c"), info("d", priority=5)):
        queue.add(pod)
    assert [queue.pop(0.0) for _ in range(5)] == [key(name) for name in "bdac"] + [None]


def test_a_pod_that_failed_waits_for_a_cause_that_concerns_it_and_for_its_back_off() -> None:
    queue = SchedulingQueue()
    queue.add(info("a"))
    fail(queue, "a", 0.0)
    queue.wake(Cause.NODE)
    assert (queue.pop(100.0), queue.next_due(100.0)) == (None, None)
    queue.wake(GONE)
    assert queue.pop(100.0) == key("a")
    queue.park(key("a"), GONE, queue.mark(), 100.0)
    queue.wake(GONE)
    assert queue.pop(101.9) is None
    assert queue.next_due(101.5) == pytest.approx(0.5)
    assert queue.pop(102.0) == key("a")


def test_back_off_doubles_up_to_ten_seconds() -> None:
    queue, now = SchedulingQueue(), 0.0
    queue.add(info("a"))
    pauses: list[float | None] = []
    for _ in range(6):
        assert queue.pop(now) == key("a")
        queue.retry(key("a"), now)
        pauses.append(queue.next_due(now))
        now += 10.0
    assert pauses == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_what_happens_while_a_decision_is_written_down_is_not_missed() -> None:
    queue = SchedulingQueue()
    queue.add(info("a"))
    mark = queue.mark()
    queue.pop(0.0)
    queue.wake(GONE)
    queue.park(key("a"), GONE, mark, 0.0)
    assert queue.pop(1.0) == key("a")
    queue.add(info("a", nodeSelector={"x": "y"}))
    queue.park(key("a"), Cause.VOLUME, queue.mark(), 1.0)
    assert queue.pop(3.0) == key("a")


def test_a_pod_that_changes_is_tried_at_once_one_that_is_gone_never() -> None:
    queue = SchedulingQueue()
    for name in "ab":
        queue.add(info(name))
        fail(queue, name, 0.0)
    queue.add(info("a", nodeSelector={"x": "y"}))
    queue.drop(key("b"))
    queue.wake(Cause.ANY)
    assert [queue.pop(0.1), queue.pop(500.0)] == [key("a"), None]
    assert queue.mark() == Counter(dict.fromkeys(Cause.ANY, 1))


def test_what_was_forgotten_is_tried_again() -> None:
    queue = SchedulingQueue()
    queue.add(info("a"))
    fail(queue, "a", 0.0, Cause.VOLUME)
    queue.wake_forgotten(FORGOTTEN_SECONDS - 1)
    assert queue.pop(FORGOTTEN_SECONDS - 1) is None
    queue.wake_forgotten(FORGOTTEN_SECONDS)
    assert queue.pop(FORGOTTEN_SECONDS) == key("a")


# --- taints ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tolerations", "seconds"),
    [
        ([], 0),
        ([{"key": "a", "operator": "Exists"}], 0),
        ([{"operator": "Exists"}], None),
        ([{"key": "a", "operator": "Exists"}, {"key": "b", "operator": "Exists"}], None),
        (
            [
                {"key": "a", "operator": "Exists", "tolerationSeconds": 30},
                {"key": "b", "operator": "Exists", "tolerationSeconds": 20},
            ],
            20,
        ),
        ([{"operator": "Exists", "tolerationSeconds": -1}], 0),
        ([{"operator": "Exists", "effect": "NoSchedule"}], 0),
    ],
)
def test_how_long_a_pod_stays_where_taints_send_it_away(
    tolerations: list[JsonObject], seconds: int | None
) -> None:
    taints = (
        Taint("a", "", "NoExecute"),
        Taint("b", "", "NoExecute"),
        Taint("c", "", "NoSchedule"),
    )
    assert stay(taints, tolerations_of({"spec": {"tolerations": [*tolerations]}})) == seconds


# --- nodes -----------------------------------------------------------------------------------------

NOW = 1_795_377_600.0
AT = "2026-11-22T20:00:00Z"


def node(*taints: JsonObject, closed: bool = False, **conditions: str) -> JsonObject:
    listed: list[Any] = [{"type": kind, "status": value} for kind, value in conditions.items()]
    spec: JsonObject = {"taints": [*taints]}
    if closed:
        spec["unschedulable"] = True
    meta: JsonObject = {"name": "n", "creationTimestamp": AT}
    return {"metadata": meta, "spec": spec, "status": {"conditions": listed}}


def taint(name: str, effect: str = "NoSchedule") -> JsonObject:
    return {"key": f"node.kubernetes.io/{name}", "effect": effect}


def marks(taints: Any) -> list[str] | None:
    if taints is None:
        return None
    return [f"{row['key'].rpartition('/')[2]}:{row['effect']}" for row in taints]


OWN: JsonObject = {"key": "mine", "value": "x", "effect": "NoSchedule"}


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (node(Ready="True"), None),
        (node(Ready="False"), ["not-ready:NoSchedule"]),
        (node(taint("not-ready")), None),
        (node(taint("not-ready"), Ready="True"), []),
        (
            node(taint("not-ready"), OWN, Ready="Unknown"),
            ["mine:NoSchedule", "unreachable:NoSchedule"],
        ),
        (
            node(OWN, Ready="True", MemoryPressure="True"),
            ["mine:NoSchedule", "memory-pressure:NoSchedule"],
        ),
        (node(taint("disk-pressure"), Ready="True", DiskPressure="False"), []),
        (node(closed=True, Ready="True"), ["unschedulable:NoSchedule"]),
        (node(taint("unschedulable"), closed=True, Ready="True"), None),
        (node(taint("unschedulable"), Ready="True"), []),
        (
            node(taint("not-ready"), taint("not-ready", "NoExecute"), Ready="Unknown"),
            ["unreachable:NoSchedule", "unreachable:NoExecute"],
        ),
        (node(taint("unreachable", "NoExecute"), Ready="True"), []),
        (node(taint("out-of-service", "NoExecute"), Ready="True"), None),
    ],
)
def test_taints_follow_what_a_node_says(found: JsonObject, wanted: list[str] | None) -> None:
    assert marks(settled_taints(found, NOW)) == wanted


def test_evicting_taints_are_put_on_lost_nodes_only_and_taken_off() -> None:
    lost = node(OWN, Ready="Unknown")
    assert marks(evicting_taints(lost, NOW)) == ["mine:NoSchedule", "unreachable:NoExecute"]
    assert evicting_taints(node(Ready="True"), NOW) is None
    assert evicting_taints(node(), NOW) is None
    assert evicting_taints(node(taint("not-ready", "NoExecute"), Ready="False"), NOW) is None
    held = node(OWN, taint("unreachable", "NoExecute"), Ready="Unknown")
    assert marks(sparing_taints(held)) == ["mine:NoSchedule"]
    assert sparing_taints(lost) is None


def test_of_a_silent_node_all_conditions_are_unknown() -> None:
    rows: Any = silence(node(Ready="True", MemoryPressure="Unknown", DiskPressure="False"), NOW)
    assert {row["type"]: row["reason"] for row in rows} == {
        "Ready": "NodeStatusUnknown",
        "DiskPressure": "NodeStatusUnknown",
        "PIDPressure": "NodeStatusNeverUpdated",
    }
    assert {row["status"] for row in rows} == {"Unknown"}
    assert rows[0]["message"] == "Kubelet stopped posting node status."
    assert rows[2]["lastHeartbeatTime"] == AT


# --- amounts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "whole", "milli"),
    [
        ("2", 2, 2_000),
        (2, 2, 2_000),
        ("250m", 1, 250),
        ("1.5Gi", 1_610_612_736, 1_610_612_736_000),
        ("2e3", 2_000, 2_000_000),
        ("1E", 10**18, 10**21),
        ("1Ki", 1_024, 1_024_000),
        ("100u", 1, 1),
        ("-1k", -1_000, -1_000_000),
        (".5", 1, 500),
        ("", 0, 0),
        ("two", 0, 0),
        ("1e9999", 0, 0),
        (None, 0, 0),
        (True, 0, 0),
    ],
)
def test_amounts_are_read_as_kubernetes_writes_them(text: Any, whole: int, milli: int) -> None:
    assert (units(text), thousandths(text)) == (whole, milli)
    assert (quantity(text) is None) is (not whole and not milli)
