"""Who has to go when a node runs short, in which order, and with which words."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.pods.eviction import Evictions
from edge.pods.evictionrules import (
    binary,
    is_critical,
    observations,
    over_own_limits,
    ranked,
    request_of,
)
from edge.pods.oomwatch import Kill, OomWatch, read_record
from edge.pods.podspec import Pod, read_pod
from edge.pods.ports import NeverRuns, Observed, Running
from edge.pods.pressure import read_thresholds
from edge.pods.runtime import ContainerState, State
from edge.pods.samples import ContainerSample, FileSystem, Memory, NodeSample, PodSample, Sample
from gateway.config.edge_workloads import Workloads
from gateway.observe.metrics import Metrics
from gateway.wire.kube.quantity import units

MIB = 1024 * 1024
GIB = 1024 * MIB
HARD = read_thresholds(Workloads().eviction_hard, {}, {}, {})
PLENTY = FileSystem(available=90 * GIB, capacity=100 * GIB, inodes_free=900, inodes=1_000)
WELL = NodeSample(
    at=1,
    memory=Memory(available=GIB),
    memory_total=4 * GIB,
    disk=PLENTY,
    images=PLENTY,
    pids_max=1_000,
    pids=10,
)
NO_MEMORY = replace(WELL, memory=Memory(available=50 * MIB))
NO_DISK = replace(WELL, disk=replace(PLENTY, available=5 * GIB))


def pod_of(
    name: str,
    *,
    request: str = "",
    priority: int = 0,
    static: bool = False,
    limits: dict[str, str] | None = None,
    **spec: Any,
) -> Pod:
    resources: dict[str, Any] = {"limits": limits or {}}
    resources |= {"requests": {"memory": request}} if request else {}
    notes = {"kubernetes.io/config.source": "file"} if static else {}
    return read_pod(
        {
            "metadata": {"name": name, "uid": name, "annotations": dict(notes)},
            "spec": {
                "containers": [{"name": "c", "resources": resources}],
                "priority": priority,
                **spec,
            },
        }
    )


def sample_of(pod: Pod, *, memory: int = 0, disk: int = 0, logs: int = 0, **more: Any) -> PodSample:
    container = ContainerSample(
        name="c",
        id=pod.uid,
        memory=Memory(working_set=memory),
        rootfs=FileSystem(used=disk),
        logs=FileSystem(used=logs),
    )
    return PodSample(pod=pod, containers=(container,), memory=Memory(working_set=memory), **more)


# --- the order ---------------------------------------------------------------------------------------


def test_those_over_their_requests_go_first_then_low_priority_then_the_greediest() -> None:
    table = {
        "over-important": (pod_of("over-important", priority=10), 5 * MIB),
        "over-most": (pod_of("over-most"), 9 * MIB),
        "over-little": (pod_of("over-little", request="1Mi"), 2 * MIB),
        "within": (pod_of("within", request="500Mi"), 499 * MIB),
        "within-less": (pod_of("within-less", request="500Mi"), 9 * MIB),
        "static": (pod_of("static", static=True), 999 * MIB),
        "critical": (pod_of("critical", priority=2_000_001_000), 999 * MIB),
    }
    samples = {uid: sample_of(pod, memory=used) for uid, (pod, used) in table.items()}
    unknown = pod_of("unknown")
    found = ranked("memory", [*(pod for pod, _ in table.values()), unknown], samples)
    assert [pod.uid for pod in found] == [
        "unknown",
        "over-most",
        "over-little",
        "over-important",
        "within",
        "within-less",
    ]


def test_for_processes_priority_comes_first() -> None:
    low, high = pod_of("low"), pod_of("high", priority=5)
    samples = {
        "low": replace(sample_of(low), processes=2),
        "high": replace(sample_of(high), processes=200),
    }
    assert [each.uid for each in ranked("pids", [high, low], samples)] == ["low", "high"]


def test_a_pod_asks_for_what_runs_together_or_for_its_greediest_start() -> None:
    inits = [
        {"name": "i", "resources": {"requests": {"memory": "8Mi"}}},
        {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"memory": "1Mi"}}},
    ]
    assert request_of("memory", pod_of("p", request="4Mi", initContainers=inits)) == 8 * MIB
    assert request_of("memory", pod_of("p", request="9Mi", initContainers=inits)) == 10 * MIB


@pytest.mark.parametrize(
    ("pod", "expected"),
    [
        (pod_of("a"), False),
        (pod_of("a", priority=1_999_999_999), False),
        (pod_of("a", priority=2_000_000_000), True),
        (pod_of("a", static=True), True),
    ],
)
def test_static_and_system_pods_are_critical(pod: Pod, expected: bool) -> None:
    assert is_critical(pod) is expected


@given(st.integers(0, 2**62))
def test_bytes_are_written_so_that_they_read_the_same(number: int) -> None:
    assert units(binary(number)) == number


def test_bytes_have_the_biggest_unit_that_fits() -> None:
    assert [binary(each) for each in (0, 1, 1_024, 100 * MIB, 3 * GIB, GIB + 1)] == [
        "0",
        "1",
        "1Ki",
        "100Mi",
        "3Gi",
        "1073741825",
    ]


def test_what_is_not_known_is_not_observed() -> None:
    assert observations(NodeSample(at=1)) == {}


# --- own limits --------------------------------------------------------------------------------------


def test_a_pod_over_its_own_limits_is_told_which() -> None:
    volume = [{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}]
    pod = pod_of("p", volumes=volume)
    full = {"v": FileSystem(used=MIB + 1)}
    said = 'Usage of EmptyDir volume "v" exceeds the limit "1Mi". '
    assert over_own_limits(sample_of(pod, volumes=full), has_own_image_disk=False) == said
    fits = {"v": FileSystem(used=MIB)}
    assert over_own_limits(sample_of(pod, volumes=fits), has_own_image_disk=False) == ""
    limited = pod_of("p", limits={"ephemeral-storage": "2Mi"})
    whole = sample_of(limited, disk=MIB, logs=MIB + 1)
    said = "Pod ephemeral local storage usage exceeds the total limit of containers 2Mi. "
    assert over_own_limits(whole, has_own_image_disk=False) == said


def test_a_container_over_its_limit_is_named_and_its_layer_counts_on_the_same_disk() -> None:
    two = [
        {"name": "c", "resources": {"limits": {"ephemeral-storage": "1Mi"}}},
        {"name": "d", "resources": {"limits": {"ephemeral-storage": "9Mi"}}},
    ]
    pod = pod_of("p", containers=two)
    sample = sample_of(pod, disk=2 * MIB)
    said = 'Container c exceeded its local ephemeral storage limit "1Mi". '
    assert over_own_limits(sample, has_own_image_disk=False) == said
    assert over_own_limits(sample, has_own_image_disk=True) == ""


# --- the module --------------------------------------------------------------------------------------


@dataclass
class Bench:
    node_sample: NodeSample = WELL
    running: list[Running] = field(default_factory=list)
    samples: dict[str, PodSample] = field(default_factory=dict)
    evicted: list[tuple[str, str, int | None]] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    clock: float = 1_000.0
    reclaims: int = 0
    frees: NodeSample | None = None
    kicks: int = 0
    thresholds: tuple[Any, ...] = HARD

    def __post_init__(self) -> None:
        parts: Any = self
        self.evictions = Evictions(
            parts,
            parts,
            parts,
            self.thresholds,
            metrics=Metrics(),
            reclaim=self.reclaim,
            kick=self.kick,
            clock=lambda: self.clock,
        )

    def kick(self) -> None:
        self.kicks += 1

    def add(self, pod: Pod, sample: PodSample | None = None) -> None:
        state = ContainerState(
            id=pod.uid, sandbox_id="s", name="c", attempt=0, state=State.RUNNING, created_at=1
        )
        self.running.append(Running(pod, {"phase": "Running"}, Observed(pod.uid, (), (state,))))
        if sample is not None:
            self.samples[pod.uid] = sample

    async def node(self) -> NodeSample:
        return self.node_sample

    async def sample(self, max_age: float = 0.0, folders_age: float = 0.0) -> Sample:
        return Sample(node=self.node_sample, pods=tuple(self.samples.values()))

    async def reclaim(self) -> None:
        self.reclaims += 1
        self.node_sample = self.frees or self.node_sample

    def pods(self) -> list[Running]:
        return self.running

    def evict(self, uid: str, reason: str, message: str, grace: int | None = None) -> None:
        assert reason == "Evicted"
        self.evicted.append((uid, message, grace))

    def event(self, pod: Pod, kind: str, reason: str, message: str, _c: object = None) -> None:
        self.events.append(f"{pod.uid} {kind} {reason} {message}")

    def node_event(self, kind: str, reason: str, message: str) -> None:
        self.events.append(f"{kind} {reason} {message}")


async def test_the_greediest_pod_goes_with_the_kubelet_s_words() -> None:
    bench = Bench(NO_MEMORY)
    greedy, modest = pod_of("greedy", request="16Mi"), pod_of("modest", request="64Mi")
    bench.add(modest, sample_of(modest, memory=32 * MIB))
    bench.add(greedy, sample_of(greedy, memory=512 * MIB))
    await bench.evictions.look()
    said = (
        "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. "
        "Container c was using 512Mi, request is 16Mi, has larger consumption of memory. "
    )
    assert bench.evicted == [("greedy", said, 1)]
    assert bench.events == [
        "Warning EvictionThresholdMet Attempting to reclaim memory",
        f"greedy Warning Evicted {said}",
    ]
    assert bench.evictions.pressures() == {"MemoryPressure"}
    assert bench.kicks == 1


async def test_the_next_pod_goes_when_the_last_one_has_gone_or_time_is_up() -> None:
    bench = Bench(NO_MEMORY)
    for name in ("a", "b", "c"):
        pod = pod_of(name)
        bench.add(pod, sample_of(pod, memory=MIB))
    await bench.evictions.look()
    await bench.evictions.look()
    assert len(bench.evicted) == 1
    bench.clock += 30.0
    await bench.evictions.look()
    assert len(bench.evicted) == 2
    last = bench.evicted[-1][0]
    bench.running = [each for each in bench.running if each.pod.uid != last]
    await bench.evictions.look()
    assert len({uid for uid, _, _ in bench.evicted}) == 3


async def test_on_a_full_disk_what_nobody_uses_goes_first() -> None:
    bench = Bench(NO_DISK, frees=WELL)
    pod = pod_of("p")
    bench.add(pod, sample_of(pod, disk=GIB))
    await bench.evictions.look()
    assert (bench.reclaims, bench.evicted) == (1, [])
    assert bench.evictions.pressures() == {"DiskPressure"}
    bench = Bench(NO_DISK)
    bench.add(pod, sample_of(pod, disk=GIB, logs=0))
    await bench.evictions.look()
    said = (
        "The node was low on resource: ephemeral-storage. Threshold quantity: 10Gi, available: 5Gi. "
        "Container c was using 1Gi, request is 0, has larger consumption of ephemeral-storage. "
    )
    assert bench.evicted == [("p", said, 1)]


async def test_a_pod_keeps_its_own_grace_when_the_threshold_is_soft() -> None:
    soft = read_thresholds({}, {"memory.available": "200Mi"}, {"memory.available": "30s"}, {})
    bench = Bench(NO_MEMORY, thresholds=soft)
    pod = pod_of("p")
    bench.add(pod, sample_of(pod, memory=MIB))
    await bench.evictions.look()
    assert bench.evicted == []
    bench.clock += 30.0
    await bench.evictions.look()
    assert [(uid, grace) for uid, _, grace in bench.evicted] == [("p", None)]


async def test_a_pod_over_its_own_limit_goes_while_the_node_is_well() -> None:
    bench = Bench()
    volume = [{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}]
    pod, other = pod_of("p", volumes=volume), pod_of("other")
    bench.add(pod, sample_of(pod, volumes={"v": FileSystem(used=2 * MIB)}))
    bench.add(other, sample_of(other, disk=GIB))
    await bench.evictions.look()
    said = 'Usage of EmptyDir volume "v" exceeds the limit "1Mi". '
    assert bench.evicted == [("p", said, 1)]
    assert bench.evictions.pressures() == frozenset()


async def test_a_critical_pod_stays_whatever_happens() -> None:
    bench = Bench(NO_MEMORY)
    pod = pod_of("p", static=True)
    bench.add(pod, sample_of(pod, memory=GIB))
    await bench.evictions.look()
    assert bench.evicted == []


async def test_under_pressure_new_pods_are_refused_as_the_kubelet_does() -> None:
    bench = Bench(NO_MEMORY)
    bench.evictions.admit(pod_of("before"))
    await bench.evictions.look()
    with pytest.raises(NeverRuns) as refused:
        bench.evictions.admit(pod_of("best-effort"))
    assert refused.value.reason == "Evicted"
    assert refused.value.message == "The node had condition: [MemoryPressure]. "
    bench.evictions.admit(pod_of("burstable", request="1Mi"))
    bench.evictions.admit(pod_of("static", static=True))
    taint = {"key": "node.kubernetes.io/memory-pressure", "operator": "Exists"}
    bench.evictions.admit(pod_of("tolerant", tolerations=[taint]))
    bench = Bench(NO_DISK)
    await bench.evictions.look()
    with pytest.raises(NeverRuns):
        bench.evictions.admit(pod_of("burstable", request="1Mi"))


# --- OOM ---------------------------------------------------------------------------------------------

ID = "0123456789abcdef" * 4
MEMCG = (
    "6,1234,99,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset={id},mems_allowed=0,"
    "oom_memcg=/edgepods/burstable/podu1,task_memcg={group},task=my, task,pid=4242,uid=0\n"
)


@pytest.mark.parametrize(
    ("group", "container"),
    [
        (f"/edgepods/podu1/{ID}", ID),
        (f"/edgepods.slice/edgepods-podu1.slice/cri-containerd-{ID}.scope", ID),
        (f"/edgepods.slice/edgepods-podu1.slice/crio-{ID}.scope", ID),
        ("/system.slice/ssh.service", ""),
        ("/", ""),
    ],
)
def test_a_record_of_the_kernel_names_the_container(group: str, container: str) -> None:
    found = read_record(MEMCG.format(id=ID, group=group))
    assert found == Kill(container, "my, task", 4_242, is_systems=False)


def test_other_records_say_nothing() -> None:
    assert read_record("6,1,1,-;eth0: link up") is None
    found = read_record(MEMCG.format(id=ID, group="/a").replace("MEMCG", "NONE"))
    assert found is not None
    assert found.is_systems


async def test_kills_are_followed_from_now_on_and_counted_once(tmp_path: Path) -> None:
    log = tmp_path / "kmsg"
    os.mkfifo(log)
    writer = os.open(log, os.O_RDWR)
    bench: Any = Bench()
    kicked: list[str] = []
    watch, is_up, other = OomWatch(bench, kick=kicked.append, kmsg=log), asyncio.Event(), "f" * 64
    task = asyncio.create_task(watch.run(is_up.set))
    await is_up.wait()
    for text in (MEMCG, MEMCG.replace("MEMCG", "NONE")):
        os.write(writer, text.format(id=ID, group=f"/edgepods/podu1/{ID}").encode())
    async with asyncio.timeout(5):
        while len(bench.events) < 1 or not kicked:  # noqa: ASYNC110  told by the kernel's log alone
            await asyncio.sleep(0.01)
    watch.counted([(other, 3), ("e" * 64, 0), ("d" * 64, None), (ID, 1)])
    assert kicked == [ID, other]
    assert watch.killed() == {ID, other}
    said = "Warning SystemOOM System OOM encountered, victim process: my, task, pid: 4242"
    assert bench.events == [said]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    os.close(writer)


async def test_without_the_kernel_s_log_nothing_fails(tmp_path: Path) -> None:
    bench: Any = Bench()
    watch, is_up = OomWatch(bench, kmsg=tmp_path / "none"), asyncio.Event()
    task = asyncio.create_task(watch.run(is_up.set))
    await is_up.wait()
    assert watch.killed() == frozenset()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
