"""Samples in the forms of the kubelet: `/stats/summary`, `/metrics/resource`, `/metrics/cadvisor`. Pure.

Source: kubelet stats v1alpha1; kubelet's resource metrics; cAdvisor's Prometheus names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from edge.clock import rfc3339
from edge.pods.samples import (
    ContainerSample,
    Cpu,
    FileSystem,
    Interface,
    Memory,
    NodeSample,
    PodSample,
    Sample,
)
from gateway.model.json import Json, JsonObject

_MILLION = 1_000_000
_BILLION = 1_000_000_000


# --- /stats/summary --------------------------------------------------------------------------------


def summary(node: str, sample: Sample, *, only_cpu_and_memory: bool = False) -> JsonObject:
    """Return the document of `/stats/summary`."""
    whole = not only_cpu_and_memory
    pods: list[Json] = [_pod(each, sample.node, whole) for each in sample.pods]
    return {"node": _node(node, sample.node, whole), "pods": pods}


def _node(name: str, sample: NodeSample, whole: bool) -> JsonObject:
    at = _time(sample.at)
    found: JsonObject = {"nodeName": name, "startTime": _time(sample.boot)}
    found |= _cpu(sample.cpu, at) | _memory(sample.memory, at)
    if not whole:
        return found
    found |= _network(sample.interfaces, at)
    found["fs"] = _file_system(sample.disk, at)
    found["runtime"] = {
        "imageFs": _file_system(sample.images, at),
        "containerFs": _file_system(sample.images, at),
    }
    found["rlimit"] = {"time": at, "maxpid": sample.pids_max, "curproc": sample.pids}
    return found


def _pod(sample: PodSample, node: NodeSample, whole: bool) -> JsonObject:
    at, (namespace, name) = _time(node.at), sample.pod.key
    containers: list[Json] = [_container(each, node, whole) for each in sample.containers]
    found: JsonObject = {
        "podRef": {"name": name, "namespace": namespace, "uid": sample.pod.uid},
        "startTime": _time(sample.started_at),
        "containers": containers,
    }
    found |= _cpu(sample.cpu, at) | _memory(sample.memory, at)
    if not whole:
        return found
    found |= _network(sample.interfaces, at)
    volumes: list[Json] = [
        {**_file_system(each, at), "name": volume} for volume, each in sample.volumes.items()
    ]
    found |= {"volume": volumes} if volumes else {}
    found["ephemeral-storage"] = _file_system(
        _within(node.disk, sample.disk_used, sample.inodes_used), at
    )
    if sample.processes is not None:
        found["process_stats"] = {"process_count": sample.processes}
    return found


def _container(sample: ContainerSample, node: NodeSample, whole: bool) -> JsonObject:
    at = _time(node.at)
    found: JsonObject = {"name": sample.name, "startTime": _time(sample.started_at)}
    found |= _cpu(sample.cpu, at) | _memory(sample.memory, at)
    if whole:
        layer, logs = sample.rootfs, sample.logs
        inside = _within(node.images, layer.used, layer.inodes_used)
        found["rootfs"] = _file_system(inside, at)
        found["logs"] = _file_system(_within(node.disk, logs.used, logs.inodes_used), at)
    return found


def _within(whole: FileSystem, used: int | None, inodes: int | None) -> FileSystem:
    """Return what one uses of a file system."""
    return FileSystem(
        available=whole.available,
        capacity=whole.capacity,
        used=used,
        inodes_free=whole.inodes_free,
        inodes=whole.inodes,
        inodes_used=inodes,
    )


def _cpu(cpu: Cpu, at: str) -> JsonObject:
    cells = _told({"usageNanoCores": cpu.rate, "usageCoreNanoSeconds": cpu.total})
    return {"cpu": {"time": at, **cells}} if cells else {}


def _memory(memory: Memory, at: str) -> JsonObject:
    cells = _told(
        {
            "availableBytes": memory.available,
            "usageBytes": memory.usage,
            "workingSetBytes": memory.working_set,
            "rssBytes": memory.rss,
            "pageFaults": memory.page_faults,
            "majorPageFaults": memory.major_page_faults,
        }
    )
    return {"memory": {"time": at, **cells}} if cells else {}


def _file_system(found: FileSystem, at: str) -> JsonObject:
    cells = {
        "availableBytes": found.available,
        "capacityBytes": found.capacity,
        "usedBytes": found.used,
        "inodesFree": found.inodes_free,
        "inodes": found.inodes,
        "inodesUsed": found.inodes_used,
    }
    return {"time": at, **_told(cells)}


def _network(found: tuple[Interface, ...], at: str) -> JsonObject:
    if not found:
        return {}
    rows: list[Json] = [_interface(each) for each in found]
    return {"network": {"time": at, **_interface(found[0]), "interfaces": rows}}


def _interface(each: Interface) -> JsonObject:
    return {
        "name": each.name,
        "rxBytes": each.received,
        "rxErrors": each.receive_errors,
        "txBytes": each.sent,
        "txErrors": each.send_errors,
    }


def _told(cells: Mapping[str, int | None]) -> JsonObject:
    return {name: value for name, value in cells.items() if value is not None}


def _time(nanoseconds: int) -> str:
    return rfc3339(nanoseconds // _MILLION)


# --- texts for Prometheus ----------------------------------------------------------------------------

_Row = tuple[Mapping[str, str], int | float | None]


def resource_metrics(sample: Sample | None) -> str:
    """Return the text of `/metrics/resource`; without a sample only that there was an error."""
    out = _Text()
    if sample is not None:
        _resources(out, sample)
    failed = sample is None or not sample.is_whole
    out.add(
        "resource_scrape_error",
        "1 if there was an error while getting container metrics, 0 otherwise",
        "gauge",
        [({}, int(failed))],
    )
    about = "1 if there was an error while getting container metrics, 0 otherwise"
    out.add("scrape_error", about, "gauge", [({}, int(failed))])  # its name of before, told as well
    return out.text()


def _resources(out: _Text, sample: Sample) -> None:
    node, at = sample.node, sample.node.at // _MILLION
    containers = [(_labels(pod, each), each) for pod in sample.pods for each in pod.containers]
    pods = [(_labels(pod), pod) for pod in sample.pods]
    cpu, memory = (
        "Cumulative cpu time consumed by the {} in core-seconds",
        "Current working set of ",
    )
    for name, whole, rows in (
        ("container", "container", [(labels, each.cpu.total) for labels, each in containers]),
        ("node", "node", [(_NONE, node.cpu.total)]),
        ("pod", "pod", [(labels, each.cpu.total) for labels, each in pods]),
    ):
        seconds = [(labels, _seconds(value)) for labels, value in rows]
        out.add(f"{name}_cpu_usage_seconds_total", cpu.format(whole), "counter", seconds, at)
    for name, sets in (
        ("container", [(labels, each.memory.working_set) for labels, each in containers]),
        ("node", [(_NONE, node.memory.working_set)]),
        ("pod", [(labels, each.memory.working_set) for labels, each in pods]),
    ):
        about = f"{memory}the {name} in bytes"
        out.add(f"{name}_memory_working_set_bytes", about, "gauge", sets, at)
    starts = [(labels, _seconds(each.started_at)) for labels, each in containers]
    about = "Start time of the container since unix epoch in seconds"
    out.add("container_start_time_seconds", about, "gauge", starts)


_NONE: Mapping[str, str] = {}


def cadvisor_metrics(sample: Sample | None) -> str:
    """Return the text of `/metrics/cadvisor`."""
    out = _Text()
    if sample is None:
        return out.text()
    at = sample.node.at // _MILLION
    rows = list(_cadvisor_rows(sample))
    for name, about, kind, value in _CADVISOR:
        more = _TOTAL if name == "container_cpu_usage_seconds_total" else {}
        found: list[_Row] = [({**labels, **more}, value(each)) for labels, each in rows]
        out.add(name, about, kind, found, at)
    _cadvisor_extras(out, sample, at)
    return out.text()


_TOTAL = {"cpu": "total"}
"""Of all cores together: cAdvisor can tell of each."""
_Measured = ContainerSample | PodSample | NodeSample
_CADVISOR: tuple[tuple[str, str, str, Callable[[_Measured], int | float | None]], ...] = (
    (
        "container_cpu_usage_seconds_total",
        "Cumulative cpu time consumed in seconds.",
        "counter",
        lambda each: _seconds(each.cpu.total),
    ),
    (
        "container_memory_usage_bytes",
        "Current memory usage in bytes, including all memory regardless of when it was accessed",
        "gauge",
        lambda each: each.memory.usage,
    ),
    (
        "container_memory_working_set_bytes",
        "Current working set in bytes.",
        "gauge",
        lambda each: each.memory.working_set,
    ),
    ("container_memory_rss", "Size of RSS in bytes.", "gauge", lambda each: each.memory.rss),
    (
        "container_spec_memory_limit_bytes",
        "Memory limit for the container.",
        "gauge",
        lambda each: None if isinstance(each, NodeSample) else each.memory.limit or 0,
    ),
    (
        "container_start_time_seconds",
        "Start time of the container since unix epoch in seconds.",
        "gauge",
        lambda each: _seconds(each.boot if isinstance(each, NodeSample) else each.started_at),
    ),
    (
        "container_processes",
        "Number of processes running inside the container.",
        "gauge",
        lambda each: each.pids if isinstance(each, NodeSample) else each.processes,
    ),
)


def _cadvisor_rows(sample: Sample) -> Iterator[tuple[Mapping[str, str], _Measured]]:
    empty = {"container": "", "image": "", "name": "", "namespace": "", "pod": ""}
    yield {**empty, "id": "/"}, sample.node
    for pod in sample.pods:
        yield {**empty, **_labels(pod), "id": pod.group}, pod
        for each in pod.containers:
            yield _container_labels(pod, each), each


def _container_labels(pod: PodSample, each: ContainerSample) -> Mapping[str, str]:
    return {**_labels(pod, each), "id": each.group, "image": each.image, "name": each.id}


def _cadvisor_extras(out: _Text, sample: Sample, at: int) -> None:
    containers = [
        (_container_labels(pod, each), each) for pod in sample.pods for each in pod.containers
    ]
    out.add(
        "container_fs_usage_bytes",
        "Number of bytes that are consumed by the container on this filesystem.",
        "gauge",
        [({**labels, "device": ""}, each.rootfs.used) for labels, each in containers],
        at,
    )
    out.add(
        "container_oom_events_total",
        "Count of out of memory events observed for the container",
        "counter",
        [(labels, each.oom_kills) for labels, each in containers],
    )
    wires = [({"id": "/"}, each) for each in sample.node.interfaces]
    wires += [
        ({**_labels(pod), "id": pod.group}, each) for pod in sample.pods for each in pod.interfaces
    ]
    for name, about, value in _WIRES:
        rows: list[_Row] = [
            ({**labels, "interface": each.name}, value(each)) for labels, each in wires
        ]
        out.add(name, about, "counter", rows, at)
    out.add("machine_cpu_cores", "Number of logical CPU cores.", "gauge", [({}, sample.node.cores)])
    total = sample.node.memory_total
    out.add(
        "machine_memory_bytes", "Amount of memory installed on the machine.", "gauge", [({}, total)]
    )


_WIRES: tuple[tuple[str, str, Callable[[Interface], int]], ...] = (
    (
        "container_network_receive_bytes_total",
        "Cumulative count of bytes received",
        lambda each: each.received,
    ),
    (
        "container_network_receive_errors_total",
        "Cumulative count of errors encountered while receiving",
        lambda each: each.receive_errors,
    ),
    (
        "container_network_transmit_bytes_total",
        "Cumulative count of bytes transmitted",
        lambda each: each.sent,
    ),
    (
        "container_network_transmit_errors_total",
        "Cumulative count of errors encountered while transmitting",
        lambda each: each.send_errors,
    ),
)


def probe_metrics(totals: Mapping[tuple[str, ...], int]) -> str:
    """Return the text of `/metrics/probes`, from `edge.pods.probes.PodProbes.totals`."""
    names = ("probe_type", "result", "container", "pod", "namespace", "pod_uid")
    rows: list[_Row] = [
        (dict(zip(names, key, strict=True)), number) for key, number in sorted(totals.items())
    ]
    out = _Text()
    about = "Cumulative number of a liveness, readiness or startup probe for a container by result."
    out.add("prober_probe_total", about, "counter", rows)
    return out.text()


def _labels(pod: PodSample, container: ContainerSample | None = None) -> Mapping[str, str]:
    namespace, name = pod.pod.key
    own = {} if container is None else {"container": container.name}
    return {**own, "namespace": namespace, "pod": name}


def _seconds(nanoseconds: int | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / _BILLION


class _Text:
    """A text of Prometheus' exposition format."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(
        self, name: str, about: str, kind: str, rows: Iterable[_Row], at: int | None = None
    ) -> None:
        """Add a metric with rows of which something is known; `at` is Unix milliseconds."""
        known = [(labels, value) for labels, value in rows if value is not None]
        if not known:
            return
        self._lines += [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]
        stamp = "" if at is None else f" {at}"
        self._lines += [f"{name}{_braced(labels)} {value!r}{stamp}" for labels, value in known]

    def text(self) -> str:
        return "".join(f"{line}\n" for line in self._lines)


def _braced(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    cells = (f'{name}="{_escaped(labels[name])}"' for name in sorted(labels))
    return "{" + ",".join(cells) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
