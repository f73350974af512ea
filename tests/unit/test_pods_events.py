"""Events of Pods: counted, combined, held back as spam, bounded, in KubeEdge's form."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from edge.hub import LinkFull, NotConnected
from edge.pods.eventseries import COMBINED, About, Correlator, Notice, Recent
from edge.pods.pacing import Bucket
from edge.pods.podspec import Pod, read_pod
from edge.pods.recorder import MAX_WAITING, EventRecorder
from gateway.errors import GatewayError
from gateway.observe.metrics import Metrics
from gateway.wire.cloudedge.envelope import Envelope
from gateway.wire.cloudedge.to_edge import Answer
from tests.integration.edge_support import until

NOW = 1_800_000_000.0
ABOUT = About("Pod", "default", "p", "u1")


def a_notice(message: str = "m", *, at: float = NOW, reason: str = "Failed") -> Notice:
    return Notice(ABOUT, "Warning", reason, message, f"p.{at}", at, at)


def judged(correlator: Correlator, *notices: Notice) -> list[tuple[str, int]]:
    found = [correlator.judge(each) for each in notices]
    return [(each.message, each.count) for each in found if each is not None]


def test_the_same_again_counts_up_under_its_first_name() -> None:
    correlator = Correlator()
    first = correlator.judge(a_notice())
    again = correlator.judge(a_notice(at=NOW + 5))
    assert first is not None
    assert again is not None
    assert (again.name, again.count, again.first, again.last) == (first.name, 2, NOW, NOW + 5)


def test_many_texts_of_one_reason_become_one_event() -> None:
    found = judged(Correlator(), *(a_notice(f"m{n}", at=NOW + n) for n in range(12)))
    assert found[:9] == [(f"m{n}", 1) for n in range(9)]
    assert [count for _, count in found[9:]] == [1, 2, 3]
    assert all(text.startswith(COMBINED) for text, _ in found[9:])


def test_texts_of_long_ago_are_not_combined_with_those_of_now() -> None:
    correlator = Correlator()
    judged(correlator, *(a_notice(f"m{n}", at=NOW + n) for n in range(9)))
    assert judged(correlator, a_notice("m9", at=NOW + 700)) == [("m9", 1)]


def test_who_says_too_much_is_heard_no_more_for_a_while() -> None:
    correlator = Correlator()
    assert len(judged(correlator, *(a_notice(at=NOW) for _ in range(40)))) == 25
    assert judged(correlator, a_notice(at=NOW + 299)) == []
    assert judged(correlator, a_notice(at=NOW + 301)) == [("m", 42)]
    other = replace(a_notice(), about=replace(ABOUT, name="q"))
    assert correlator.judge(other) is not None


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 400)), max_size=200))
def test_what_is_known_stays_bounded_and_counts_only_rise(steps: list[tuple[int, int]]) -> None:
    correlator, at, counts = Correlator(limit=8), NOW, dict[str, int]()
    for text, later in steps:
        at += later + 1e-6
        found = correlator.judge(a_notice(f"m{text}", at=at))
        if found is not None:
            assert found.count > counts.get(found.name, 0)
            counts[found.name] = found.count


@given(st.lists(st.integers(0, 20), max_size=100))
def test_only_the_last_used_entries_are_kept(keys: list[int]) -> None:
    recent: Recent[int, int] = Recent(5)
    for key in keys:
        assert recent.use(key, lambda key=key: key) == key  # type: ignore[misc]
    last = list(dict.fromkeys(reversed(keys)))[:5]
    assert all(key in recent for key in last)
    assert sum(key in recent for key in range(21)) == len(last)


def test_a_bucket_lets_a_burst_through_and_then_so_many_each_second() -> None:
    bucket = Bucket(rate=10, burst=2)
    assert [round(bucket.take(0.0), 3) for _ in range(4)] == [0, 0, 0.1, 0.2]
    assert bucket.take(10.0) == 0
    strict = Bucket(rate=1, burst=1)
    assert [strict.try_take(at) for at in (0.0, 0.5, 1.0, 1.5, 0.0)] == [
        True,
        False,
        True,
        False,
        False,
    ]


# --- to the cloud -----------------------------------------------------------------------------


@dataclass
class Link:
    """A link that takes messages, or refuses them with `fault`."""

    sent: list[tuple[str, str, Any]] = field(default_factory=list)
    fault: GatewayError | None = None

    def send(self, envelope: Envelope) -> None:
        if self.fault is not None:
            raise self.fault
        route = envelope.route
        self.sent.append((route.operation, route.resource, json.loads(bytes(envelope.content))))

    async def ask(self, envelope: Envelope, seconds: float = 1.0) -> Answer:
        raise AssertionError("nobody answers an event")


def a_pod() -> Pod:
    meta: Any = {"name": "p", "namespace": "apps", "uid": "u1", "resourceVersion": "7"}
    spec: Any = {
        "containers": [{"name": "c", "image": "i"}],
        "initContainers": [{"name": "i", "image": "i"}],
    }
    return read_pod({"metadata": meta, "spec": spec})


def a_recorder(link: Link) -> EventRecorder:
    return EventRecorder("edge-1", link, Metrics(), clock=lambda: NOW)


def of(recorder: EventRecorder, outcome: str) -> float:
    return float(recorder._count.labels(outcome)._value.get())


async def test_an_event_goes_as_kubeedge_s_edges_send_it() -> None:
    link = Link()
    recorder, pod = a_recorder(link), a_pod()
    task = asyncio.create_task(recorder.run(lambda: None))
    recorder.event(pod, "Warning", "Failed", "no image", pod.spec.init_containers[0])
    recorder.node_event("Normal", "Starting", "Starting kubelet.")
    await asyncio.sleep(0)
    assert link.sent == []
    recorder.link_up(has_spool=True)
    await until(lambda: len(link.sent) == 2)
    operation, resource, event = link.sent[0]
    assert operation == "insert"
    assert resource == f"apps/event/{event['metadata']['name']}"
    assert event["involvedObject"] == {
        "kind": "Pod",
        "apiVersion": "v1",
        "namespace": "apps",
        "name": "p",
        "uid": "u1",
        "resourceVersion": "7",
        "fieldPath": "spec.initContainers{i}",
    }
    assert event["source"] == {"component": "kubelet", "host": "edge-1"}
    assert (event["count"], event["firstTimestamp"]) == (1, "2027-01-15T08:00:00Z")
    node = link.sent[1][2]
    assert node["metadata"]["namespace"] == "default"
    assert node["involvedObject"] == {"kind": "Node", "name": "edge-1", "uid": "edge-1"}
    recorder.event(pod, "Warning", "Failed", "no image", pod.spec.init_containers[0])
    await until(lambda: len(link.sent) == 3)
    operation, again, content = link.sent[2]
    assert (operation, again) == ("patch", resource)
    assert content["event"]["count"] == 2
    assert json.loads(content["patchData"])["count"] == 2
    task.cancel()


async def test_without_cloud_the_newest_are_kept_each_once_with_its_count() -> None:
    link = Link(fault=NotConnected())
    recorder, pod = a_recorder(link), a_pod()
    for _ in range(3):
        recorder.event(pod, "Normal", "Pulled", "image is present")
    assert recorder.waiting() == 1
    for number in range(MAX_WAITING + 5):
        other = read_pod({**pod.raw, "metadata": {"name": f"p{number}", "uid": f"u{number}"}})
        recorder.event(other, "Normal", "Pulled", "image is present")
    assert recorder.waiting() == MAX_WAITING
    assert of(recorder, "dropped") == 6
    link.fault = None
    task = asyncio.create_task(recorder.run(lambda: None))
    recorder.link_up(has_spool=True)
    await until(lambda: len(link.sent) >= 50)
    assert link.sent[0][2]["involvedObject"]["name"] == "p5"
    task.cancel()


async def test_an_event_whose_first_telling_was_lost_is_inserted_with_its_count() -> None:
    link = Link()
    recorder, pod = a_recorder(link), a_pod()
    for _ in range(2):
        recorder.event(pod, "Normal", "Pulled", "image is present")
    task = asyncio.create_task(recorder.run(lambda: None))
    recorder.link_up(has_spool=True)
    await until(lambda: bool(link.sent))
    assert link.sent[0][0] == "insert"
    assert link.sent[0][2]["count"] == 2
    task.cancel()


async def test_a_full_link_is_tried_again_with_the_same_event_first() -> None:
    link = Link(fault=LinkFull())
    recorder, pod = a_recorder(link), a_pod()
    recorder.event(pod, "Normal", "Pulled", "image is present")
    recorder.link_up(has_spool=True)
    assert recorder._send_one() is False
    assert recorder.waiting() == 1
    link.fault = None
    assert recorder._send_one() is True
    assert [operation for operation, _, _ in link.sent] == ["insert"]
