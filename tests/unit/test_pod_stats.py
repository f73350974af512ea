"""What the node, Pods and containers use: from cgroups of both versions, in the kubelet's forms."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from edge.pods import hostfigures
from edge.pods.cgrouptrees import SYSTEMD, Tree
from edge.pods.podspec import read_pod
from edge.pods.ports import Observed, Running
from edge.pods.runtime import (
    ContainerState,
    ContainerStats,
    FilesystemUsage,
    RuntimeAway,
    Sandbox,
    State,
)
from edge.pods.samples import Cpu, Interface
from edge.pods.statsource import Places, PodStats, Rates

SECOND = 10**9
MIB = 1024 * 1024
AT = 1_700_000_000 * SECOND
STAT = "cpu  100 20 30 1000 5 6 7 8 0 0\ncpu0 1 2 3\nbtime 1699990000\n"
MEMINFO = """MemTotal:  1000 kB
MemFree:    200 kB
MemAvailable: 700 kB
Inactive(file): 300 kB
AnonPages:  150 kB
HugePages_Total: 0
"""
NET = """Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo
    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0
  eth0: 100 2 3 0 0 0 0 0 200 4 5 0 0 0 0 0
veth12: 7 1 0 0 0 0 0 0 7 1 0 0 0 0 0 0
"""
POD = read_pod(
    {
        "metadata": {"name": "web", "namespace": "shop", "uid": "u1"},
        "spec": {
            "containers": [{"name": "c", "resources": {"limits": {"memory": "64Mi"}}}],
            "volumes": [
                {"name": "data", "emptyDir": {}},
                {"name": "ram", "emptyDir": {"medium": "Memory"}},
                {"name": "conf", "configMap": {"name": "x"}},
            ],
        },
    }
)


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


# --- /proc -------------------------------------------------------------------------------------------


def test_figures_of_the_machine_are_read() -> None:
    assert hostfigures.cpu_total(STAT) == (100 + 20 + 30 + 6 + 7 + 8) * hostfigures._TICK
    assert hostfigures.boot_time(STAT) == 1_699_990_000 * SECOND
    total, memory = hostfigures.memory(MEMINFO)
    assert total == 1_000 * 1_024
    assert (memory.usage, memory.working_set) == (800 * 1_024, 500 * 1_024)
    assert (memory.available, memory.rss) == (500 * 1_024, 150 * 1_024)
    assert hostfigures.interfaces(NET) == (Interface("eth0", 100, 3, 200, 5),)
    limits = {"a": "4194304", "b": "30000", "c": ""}
    assert hostfigures.pids("0.1 0.2 0.3 2/345 99", limits) == (30_000, 345)


@pytest.mark.parametrize("text", ["", "nonsense\n", "cpu\n", ":\n", "a: b c kB\n"[:0]])
def test_figures_that_are_not_there_are_not_known(text: str) -> None:
    assert hostfigures.cpu_total(text) is None
    assert hostfigures.boot_time(text) == 0
    assert hostfigures.memory(text)[0] == 0
    assert hostfigures.interfaces(text) == ()
    assert hostfigures.pids(text, {}) == (0, 0)


def test_a_rate_is_made_of_samples_far_enough_apart() -> None:
    rates = Rates()
    assert rates.cpu("a", 10 * SECOND, 100) == Cpu(total=100, rate=None)
    assert rates.cpu("a", 12 * SECOND, 100 + SECOND) == Cpu(total=100 + SECOND, rate=SECOND // 2)
    near = rates.cpu("a", 12 * SECOND + 5, 200 + SECOND)
    assert near == Cpu(total=200 + SECOND, rate=SECOND // 2)
    assert rates.cpu("a", 20 * SECOND, 7).rate is None  # another run
    assert rates.cpu("a", 30 * SECOND, None) == Cpu()


# --- Pods --------------------------------------------------------------------------------------------

V1_POD = {
    "cpuacct/{group}/cpuacct.usage": "5000000000\n",
    "memory/{group}/memory.usage_in_bytes": f"{40 * MIB}\n",
    "memory/{group}/memory.stat": f"total_inactive_file {10 * MIB}\ntotal_rss {20 * MIB}\n",
    "memory/{group}/memory.limit_in_bytes": f"{64 * MIB}\n",
    "memory/{group}/memory.oom_control": "oom_kill_disable 0\noom_kill 2\n",
    "pids/{group}/pids.current": "3\n",
}
V2_POD = {
    "{group}/cpu.stat": "usage_usec 5000000\n",
    "{group}/memory.current": f"{40 * MIB}\n",
    "{group}/memory.stat": f"inactive_file {10 * MIB}\nanon {20 * MIB}\n",
    "{group}/memory.max": f"{64 * MIB}\n",
    "{group}/memory.events": "oom 2\noom_kill 2\n",
    "{group}/pids.current": "3\n",
}


@dataclass
class Says:
    """A runtime that tells statistics."""

    is_away: bool = False
    calls: int = 0
    images: str = "/"

    async def container_stats(self) -> list[ContainerStats]:
        self.calls += 1
        if self.is_away:
            raise RuntimeAway("no socket")
        return [
            ContainerStats(
                id="c1",
                labels={},
                at=AT,
                cpu_nanoseconds=7 * SECOND,
                memory_working_set=8 * MIB,
                rootfs_bytes=4_096,
                rootfs_inodes=2,
            )
        ]

    async def image_filesystems(self) -> list[FilesystemUsage]:
        return [FilesystemUsage(mountpoint=self.images, used_bytes=1, used_inodes=1)]


@dataclass
class Bench:
    folder: Path
    tree: Tree | None
    group: str
    says: Says = field(default_factory=Says)
    clock: float = 100.0
    pods: list[Running] = field(default_factory=list)

    def __post_init__(self) -> None:
        write(
            self.folder / "proc",
            {"stat": STAT, "meminfo": MEMINFO, "net/dev": NET, "loadavg": "0 0 0 1/9 1"},
        )
        write(self.folder / "proc/sys/kernel", {"pid_max": "99", "threads-max": "100"})
        sandbox = Sandbox(
            id="s",
            name="web",
            namespace="shop",
            uid="u1",
            attempt=0,
            is_ready=True,
            created_at=AT - 60 * SECOND,
        )
        state = ContainerState(
            id="c1",
            sandbox_id="s",
            name="c",
            attempt=0,
            state=State.RUNNING,
            created_at=1,
            image="busybox:1",
            started_at=AT - 30 * SECOND,
        )
        self.pods = [Running(POD, {"phase": "Running"}, Observed("u1", (sandbox,), (state,)))]
        runtime: Any = self.says
        self.stats = PodStats(
            "edge-1",
            runtime,
            lambda: self.pods,
            places=Places(self.folder / "pods", self.folder / "logs"),
            tree=self.tree,
            group_of=lambda _: self.group,
            probes=lambda: {("Liveness", "failed", "c", "web", "shop", "u1"): 2},
            clock=lambda: self.clock,
            now=lambda: AT,
            proc=self.folder / "proc",
        )


def v1(folder: Path) -> Bench:
    controllers = ("cpu", "cpuacct", "memory", "pids")
    tree = Tree(version=1, mounts={name: folder / "cg" / name for name in controllers})
    for group in ("edgepods/podu1", "edgepods/podu1/c1"):
        write(folder / "cg", {k.format(group=group): v for k, v in V1_POD.items()})
    write(folder / "cg", {"memory/edgepods/podu1/c1/cgroup.procs": "4242\n4243\n"})
    write(folder / "proc", {"4242/net/dev": NET})
    return Bench(folder, tree, "/edgepods/podu1")


def v2(folder: Path) -> Bench:
    tree = Tree(
        version=2, mounts={"": folder / "cg", "memory": folder / "cg", "cpu": folder / "cg",
                           "pids": folder / "cg"}, driver=SYSTEMD,
    )  # fmt: skip
    slice_ = "edgepods.slice/edgepods-podu1.slice"
    for group in (slice_, f"{slice_}/cri-containerd-c1.scope"):
        write(folder / "cg", {k.format(group=group): v for k, v in V2_POD.items()})
    write(folder / "cg", {f"{slice_}/cri-containerd-c1.scope/cgroup.procs": "4242\n"})
    write(folder / "proc", {"4242/net/dev": NET})
    return Bench(folder, tree, f"/{slice_}")


@pytest.mark.parametrize("make", [v1, v2])
async def test_use_is_read_from_cgroups_of_both_versions(make: Any, tmp_path: Path) -> None:
    bench = make(tmp_path)
    pod = (await bench.stats.sample()).of("u1")
    assert pod is not None
    container = pod.containers[0]
    for each in (pod, container):
        assert each.cpu.total == 5 * SECOND
        assert each.memory.working_set == 30 * MIB
        assert each.memory.rss == 20 * MIB
        assert each.memory.available == 34 * MIB
        assert each.processes == 3
    assert container.oom_kills == 2
    assert container.rootfs.used == 4_096
    assert pod.interfaces == (Interface("eth0", 100, 3, 200, 5),)


async def test_without_cgroups_the_runtime_s_word_counts(tmp_path: Path) -> None:
    bench = Bench(tmp_path, None, "")
    pod = (await bench.stats.sample()).of("u1")
    assert pod is not None
    assert pod.cpu.total == pod.containers[0].cpu.total == 7 * SECOND
    assert pod.memory.working_set == 8 * MIB
    assert pod.containers[0].memory.available == 56 * MIB


async def test_logs_and_volumes_are_counted_once_a_minute(tmp_path: Path) -> None:
    bench = v1(tmp_path)
    write(tmp_path / "logs/shop_web_u1/c", {"0.log": "x" * 10_000})
    write(tmp_path / "pods/u1/volumes/data", {"big": "x" * 100_000})
    write(tmp_path / "pods/u1/volumes/ram", {"small": "x"})
    write(tmp_path / "pods/u1/volumes/conf", {"key": "x" * 50_000})
    pod = (await bench.stats.sample()).of("u1")
    assert pod is not None
    assert set(pod.volumes) == {"data", "ram"}
    used = pod.volumes["data"].used
    assert used is not None
    assert used >= 100_000
    assert (pod.containers[0].logs.used or 0) >= 10_000
    on_disk = used + (pod.containers[0].logs.used or 0) + 4_096
    assert pod.disk_used == on_disk
    write(tmp_path / "pods/u1/volumes/data", {"bigger": "x" * 200_000})
    bench.clock += 59.0
    again = (await bench.stats.sample()).of("u1")
    assert again is not None
    assert again.volumes["data"].used == used
    bench.clock += 10.0
    later = (await bench.stats.sample()).of("u1")
    assert later is not None
    assert (later.volumes["data"].used or 0) >= 300_000


async def test_samples_are_kept_for_ten_seconds_and_ended_pods_are_left_out(tmp_path: Path) -> None:
    bench = v1(tmp_path)
    first = await bench.stats.sample()
    bench.clock += 9.9
    assert await bench.stats.sample() is first
    bench.clock += 0.2
    bench.pods = [Running(POD, {"phase": "Failed"}, bench.pods[0].observed)]
    assert (await bench.stats.sample()).pods == ()
    assert bench.says.calls == 2


# --- forms -------------------------------------------------------------------------------------------


async def test_the_summary_has_the_kubelet_s_shape(tmp_path: Path) -> None:
    bench = v1(tmp_path)
    write(tmp_path / "pods/u1/volumes/data", {"big": "x" * 100_000})
    found: Any = await bench.stats.summary()
    node, (pod,) = found["node"], found["pods"]
    assert node["nodeName"] == "edge-1"
    assert node["startTime"] == "2023-11-14T19:26:40Z"
    assert node["memory"]["availableBytes"] == 500 * 1_024
    assert node["rlimit"] == {"time": "2023-11-14T22:13:20Z", "maxpid": 99, "curproc": 9}
    assert node["network"]["name"] == "eth0"
    assert node["network"]["rxBytes"] == 100
    assert set(node["runtime"]) == {"imageFs", "containerFs"}
    assert node["fs"]["capacityBytes"] > 0
    assert pod["podRef"] == {"name": "web", "namespace": "shop", "uid": "u1"}
    assert pod["cpu"]["usageCoreNanoSeconds"] == 5 * SECOND
    assert pod["process_stats"] == {"process_count": 3}
    assert {each["name"] for each in pod["volume"]} == {"data", "ram"}
    assert pod["ephemeral-storage"]["usedBytes"] >= 100_000
    container = pod["containers"][0]
    assert container["name"] == "c"
    assert container["startTime"] == "2023-11-14T22:12:50Z"
    assert container["memory"]["workingSetBytes"] == 30 * MIB
    assert container["rootfs"]["usedBytes"] == 4_096
    lean: Any = await bench.stats.summary(only_cpu_and_memory=True)
    assert set(lean["node"]) == {"nodeName", "startTime", "cpu", "memory"}
    assert set(lean["pods"][0]) == {"podRef", "startTime", "containers", "cpu", "memory"}


def rows_of(text: str) -> dict[str, list[tuple[dict[str, str], float, Any]]]:
    return {
        sample.name: [
            (each.labels, each.value, each.timestamp)
            for each in family.samples
            if each.name == sample.name
        ]
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_resource_metrics_are_the_kubelet_s(tmp_path: Path) -> None:
    rows = rows_of(await v1(tmp_path).stats.resource_metrics())
    own = {"namespace": "shop", "pod": "web"}
    at = AT // SECOND
    assert rows["container_cpu_usage_seconds_total"] == [({**own, "container": "c"}, 5.0, at)]
    assert rows["container_memory_working_set_bytes"][0][1] == 30 * MIB
    assert rows["container_start_time_seconds"] == [({**own, "container": "c"}, at - 30, None)]
    assert rows["pod_cpu_usage_seconds_total"] == [(own, 5.0, at)]
    assert rows["pod_memory_working_set_bytes"] == [(own, 30 * MIB, at)]
    assert rows["node_memory_working_set_bytes"] == [({}, 500 * 1_024, at)]
    assert rows["node_cpu_usage_seconds_total"][0][1] == pytest.approx(1.71)
    assert rows["resource_scrape_error"] == rows["scrape_error"] == [({}, 0.0, None)]


async def test_a_runtime_that_is_away_is_a_scrape_error_and_the_rest_is_told(
    tmp_path: Path,
) -> None:
    bench = v1(tmp_path)
    bench.says.is_away = True
    rows = rows_of(await bench.stats.resource_metrics())
    assert rows["resource_scrape_error"][0][1] == 1.0
    assert rows["container_memory_working_set_bytes"][0][1] == 30 * MIB


async def test_cadvisor_metrics_carry_the_kubelet_s_labels(tmp_path: Path) -> None:
    rows = rows_of(await v1(tmp_path).stats.cadvisor_metrics())
    names = {"container", "id", "image", "name", "namespace", "pod"}
    found = {labels["id"]: labels for labels, _, _ in rows["container_memory_usage_bytes"]}
    assert set(found) == {"/", "/edgepods/podu1", "/edgepods/podu1/c1"}
    assert all(set(labels) == names for labels in found.values())
    assert found["/edgepods/podu1/c1"] == {
        "container": "c",
        "id": "/edgepods/podu1/c1",
        "image": "busybox:1",
        "name": "c1",
        "namespace": "shop",
        "pod": "web",
    }
    assert found["/edgepods/podu1"]["container"] == ""
    sent = rows["container_network_transmit_bytes_total"]
    assert [labels.get("pod", "") for labels, _, _ in sent] == ["", "web"]
    assert rows["container_oom_events_total"][0][1] == 2.0
    assert rows["machine_memory_bytes"][0][1] == 1_000 * 1_024


async def test_probe_metrics_are_the_kubelet_s(tmp_path: Path) -> None:
    rows = rows_of(v1(tmp_path).stats.probe_metrics())
    assert rows["prober_probe_total"] == [
        (
            {
                "probe_type": "Liveness",
                "result": "failed",
                "container": "c",
                "pod": "web",
                "namespace": "shop",
                "pod_uid": "u1",
            },
            2.0,
            None,
        )
    ]
