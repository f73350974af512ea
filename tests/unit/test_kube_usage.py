"""What nodes and Pods use, from two readings of a kubelet's text; the rounds that read it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.nodeusage import MAX_TEXT, NodeUsages
from gateway.errors import Undeliverable
from gateway.kube.usage import UsageAnswers, kinds
from gateway.kube.watch import Key
from gateway.wire.cloudedge.tunnel import FrameType
from gateway.wire.kube.requests import Target
from gateway.wire.kube.resources import Registry
from gateway.wire.kube.usage import (
    PODS,
    NodeUsage,
    Used,
    node_metrics,
    pod_metrics,
    read_metrics,
    usage_between,
)


def text(at: float, node: float = 0.0, **cpu: float) -> bytes:
    """A kubelet's answer; each container uses 2 MiB."""
    millis = int(at * 1_000)
    lines = [
        "# TYPE container_cpu_usage_seconds_total counter",
        f"node_cpu_usage_seconds_total {node} {millis}",
        f"node_memory_working_set_bytes 1.048576e+06 {millis}",
        "scrape_error 0",
    ]
    for name, value in cpu.items():
        labels = f'{{container="{name}",namespace="default",pod="web"}}'
        lines.append(f"container_cpu_usage_seconds_total{labels} {value} {millis}")
        lines.append(f"container_memory_working_set_bytes{labels} 2097152 {millis}")
    return "\n".join([*lines, ""]).encode()


def between(old: bytes, new: bytes) -> NodeUsage:
    return usage_between(read_metrics(old, 0), read_metrics(new, 0))


def test_cpu_is_the_rate_between_two_readings() -> None:
    found = between(text(100, node=5, c=1.0), text(110, node=7, c=1.5))
    assert found.node is not None
    assert node_metrics("n", found.node, {"a": "b"}, 120) == {
        "kind": "NodeMetrics",
        "apiVersion": "metrics.k8s.io/v1beta1",
        "metadata": {
            "name": "n",
            "creationTimestamp": "1970-01-01T00:02:00Z",
            "labels": {"a": "b"},
        },
        "timestamp": "1970-01-01T00:01:50Z",
        "window": "10s",
        "usage": {"cpu": "200000000n", "memory": "1024Ki"},
    }
    shown = pod_metrics("default", "web", found.pods["default", "web"], None, 120)
    assert shown["containers"] == [{"name": "c", "usage": {"cpu": "50000000n", "memory": "2048Ki"}}]


def test_a_pod_is_shown_when_all_of_its_containers_were_read_twice() -> None:
    assert not between(text(100, c=1.0), text(110, c=1.5, d=0.1)).pods
    assert between(text(100, c=1.0, d=0.0), text(110, c=1.5, d=0.1)).pods


@pytest.mark.parametrize("new", [text(110, node=5, c=0.5), text(100, node=5, c=2.0)])
def test_a_counter_that_began_anew_or_stood_still_is_no_rate(new: bytes) -> None:
    assert not between(text(100, c=1.0), new).pods


@pytest.mark.parametrize("value", ["1e308", "-1", "1e309", "9223372036854775808"])
@pytest.mark.parametrize("name", ["cpu_usage_seconds_total", "memory_working_set_bytes"])
def test_a_figure_that_nobody_measured_is_none(name: str, value: str) -> None:
    """Else one node that lies would spoil the answer about all others."""

    def odd(at: int) -> bytes:
        plain = text(at, node=at, c=at).decode().splitlines()
        return "\n".join(
            f"{line.rpartition(' ')[0].rpartition(' ')[0]} {value} {at}000"
            if name in line
            else line
            for line in plain
        ).encode()

    found = between(odd(100), odd(110))
    assert found.node is None
    assert found.pods == {}


def test_a_time_beyond_all_calendars_is_no_time() -> None:
    far = text(100, node=1).replace(b" 100000", b" 9999999999999999")
    assert between(far, far).node is None


@dataclass
class _Stored:
    object: dict[str, object]


class _Pods:
    """Two Pods, one of each node."""

    def get(self, key: Key) -> _Stored | None:
        node = {"web": "edge-1", "api": "edge-2"}.get(key.name)
        return None if node is None else _Stored({"metadata": {}, "spec": {"nodeName": node}})


class _Says:
    def usage(self) -> dict[str, NodeUsage]:
        used = Used(1.0, 1_024.0, 100.0, 10.0)
        both = {("default", "web"): {"c": used}, ("default", "api"): {"c": used}}
        return {"edge-1": NodeUsage(used, both)}


def test_a_node_does_not_tell_of_another_node_s_pods() -> None:
    registry = Registry([])
    answers = UsageAnswers(_Says(), registry)
    storage: Any = _Pods()
    kind = next(each for each in kinds() if each.plural == PODS)
    target = Target("metrics.k8s.io/v1beta1", PODS)
    found = msgspec.json.decode(answers.answer(storage, 120.0, kind, target, {}))
    assert [item["metadata"]["name"] for item in found["items"]] == ["web"]


@given(st.binary(max_size=200))
def test_a_text_of_something_else_is_nothing(junk: bytes) -> None:
    found = read_metrics(junk + b"\n" + text(1, c=1.0), 0)
    assert ("default", "web", "c") in found.points


# --- rounds -----------------------------------------------------------------------------------------


@dataclass
class Kubelets:
    """Nodes that answer with a text each, or are silent."""

    texts: dict[str, bytes | None] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def nodes(self) -> Iterable[str]:
        return self.texts

    async def fetch(
        self, node: str, kind: FrameType, path: str, query: str, headers: object
    ) -> AsyncIterator[bytes]:
        assert (kind, path) == (FrameType.METRICS, "/metrics/resource")
        self.asked.append(node)
        found = self.texts[node]
        if found is None:
            raise Undeliverable("the node is silent")
        yield found


async def test_two_rounds_tell_what_is_used_and_a_silent_node_is_asked_less() -> None:
    clock = [100.0]
    kubelets = Kubelets({"a": text(100, c=1.0), "b": None})
    usages = NodeUsages(kubelets, 15, lambda: clock[0])
    await usages.look()
    assert not usages.usage()["a"].pods
    clock[0], kubelets.texts["a"] = 115.0, text(115, c=2.5)
    await usages.look()
    used = usages.usage()["a"].pods["default", "web"]["c"]
    assert used.cores == pytest.approx(0.1)
    assert kubelets.asked.count("b") == 1
    for _ in range(6):
        await usages.look()
    assert kubelets.asked.count("b") == 3
    clock[0] = 1_000.0
    assert not usages.usage()
    del kubelets.texts["a"]
    await usages.look()
    assert "a" not in usages.usage()


async def test_an_endless_answer_is_cut() -> None:
    kubelets = Kubelets({"a": b"x" * (MAX_TEXT + 1)})
    usages = NodeUsages(kubelets, 15)
    await usages.look()
    assert not usages.usage()
