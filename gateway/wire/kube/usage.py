"""What nodes and Pods use, as `kubectl top` reads it: from two readings of a kubelet's `/metrics/resource`.

CPU is a rate between the two, memory the newer one. A Pod is shown once all of its containers were read
twice.
Source: Kubernetes metrics.k8s.io/v1beta1, kubelet resource metrics.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.clock import rfc3339

GROUP, VERSION = "metrics.k8s.io", "v1beta1"
NODES, PODS = "nodes", "pods"
_LINE = re.compile(
    rb"^(node|container)_(cpu_usage_seconds_total|memory_working_set_bytes)(?:\{([^\n]*?)\})? "
    rb"([0-9.eE+-]+)(?: ([0-9]{1,14}))?$",
    re.MULTILINE,
)
_LABEL = re.compile(rb'(container|namespace|pod)="([^"\\\n]*)"')
_CPU = b"cpu_usage_seconds_total"
MAX_ROWS = 100_000
_MAX = 2.0**63
"""Of seconds and bytes: more, and what is no number, was never measured."""
LEAST_SECONDS = 0.5
"""Between two readings of which a rate is made."""

Place = tuple[str, str, str]
"""Namespace, Pod, container; all empty for the node."""
NODE: Place = ("", "", "")


@dataclass(slots=True)
class Point:
    """Units: `cpu` seconds since the start, `memory` bytes, `at` Unix seconds."""

    cpu: float = math.nan
    memory: float = math.nan
    at: float = 0.0

    @property
    def is_whole(self) -> bool:
        return 0 <= self.cpu < _MAX and 0 <= self.memory < _MAX and self.at > 0


@dataclass(frozen=True, slots=True)
class Reading:
    """One node's figures."""

    points: Mapping[Place, Point]


@dataclass(frozen=True, slots=True)
class Used:
    """Units: `cores`, `memory` bytes, `window` seconds, `at` Unix seconds."""

    cores: float
    memory: float
    at: float
    window: float

    @property
    def amounts(self) -> JsonObject:
        return {"cpu": f"{math.ceil(self.cores * 1e9)}n", "memory": f"{int(self.memory) // 1024}Ki"}


@dataclass(frozen=True, slots=True)
class NodeUsage:
    """What a node and its Pods used between two readings: Pod -> container -> what it used."""

    node: Used | None = None
    pods: Mapping[tuple[str, str], Mapping[str, Used]] = field(default_factory=dict)


def read_metrics(text: bytes, now: float) -> Reading:
    """Read a kubelet's text; lines of something else are passed over, `now` stands for missing times."""
    points: dict[Place, Point] = {}
    for count, found in enumerate(_LINE.finditer(text)):
        if count >= MAX_ROWS:
            break
        what, name, labels, value, millis = found.groups()
        place = NODE if what == b"node" else _place(labels or b"")
        point = points.setdefault(place, Point())
        try:
            number = float(value)
        except ValueError:
            continue
        if name == _CPU:
            point.cpu, point.at = number, int(millis) / 1_000 if millis else now
        else:
            point.memory = number
    return Reading({place: point for place, point in points.items() if point.is_whole})


def _place(labels: bytes) -> Place:
    found = {key: value.decode("utf-8", "replace") for key, value in _LABEL.findall(labels)}
    return found.get(b"namespace", ""), found.get(b"pod", ""), found.get(b"container", "")


def usage_between(old: Reading, new: Reading) -> NodeUsage:
    """Return what was used between two readings."""
    pods: dict[tuple[str, str], dict[str, Used]] = {}
    incomplete = set()
    for place, point in new.points.items():
        if place == NODE:
            continue
        namespace, pod, container = place
        used = _used(old.points.get(place), point)
        if used is None:
            incomplete.add((namespace, pod))
        else:
            pods.setdefault((namespace, pod), {})[container] = used
    whole = {key: found for key, found in pods.items() if key not in incomplete}
    node = new.points.get(NODE)
    return NodeUsage(_used(old.points.get(NODE), node) if node else None, whole)


def _used(old: Point | None, new: Point) -> Used | None:
    """Return None where there is no rate: one reading, or a counter that began anew."""
    if old is None or new.at - old.at < LEAST_SECONDS or new.cpu < old.cpu:
        return None
    window = new.at - old.at
    return Used((new.cpu - old.cpu) / window, new.memory, new.at, window)


def node_metrics(name: str, used: Used, labels: Json, now: float) -> JsonObject:
    """Return a NodeMetrics."""
    return {**_head("NodeMetrics", {"name": name}, labels, used, now), "usage": used.amounts}


def pod_metrics(
    namespace: str, name: str, used: Mapping[str, Used], labels: Json, now: float
) -> JsonObject:
    """Return a PodMetrics."""
    oldest = min(used.values(), key=lambda each: each.at)
    rows: list[Json] = [
        {"name": container, "usage": each.amounts} for container, each in sorted(used.items())
    ]
    place: JsonObject = {"name": name, "namespace": namespace}
    return {**_head("PodMetrics", place, labels, oldest, now), "containers": rows}


def _head(kind: str, place: JsonObject, labels: Json, used: Used, now: float) -> JsonObject:
    window = f"{used.window:.3f}".rstrip("0").rstrip(".")
    metadata: JsonObject = {**place, "creationTimestamp": rfc3339(now)}
    if labels:
        metadata["labels"] = labels
    return {
        "kind": kind,
        "apiVersion": f"{GROUP}/{VERSION}",
        "metadata": metadata,
        "timestamp": rfc3339(used.at),
        "window": f"{window}s",
    }


def each_pod(usage: NodeUsage) -> Iterator[tuple[str, str, Mapping[str, Used]]]:
    """Yield namespace, name and what the containers used."""
    for (namespace, name), used in usage.pods.items():
        yield namespace, name, used
