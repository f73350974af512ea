"""What a Node that runs Pods says of itself, and when this machine runs short."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.machine import Machine, Supplies
from edge.pods.nodeinfo import NodeInfo, aggregated, amounts, huge_pages, image_rows, reserve_of
from edge.pods.pressure import (
    MEMORY,
    NODE_DISK,
    Amount,
    Observation,
    Strain,
    Threshold,
    look,
    met,
    pressures,
    read_span,
    read_thresholds,
)
from edge.pods.runtime import Image
from gateway.config.edge_workloads import Workloads
from gateway.errors import InvalidSetting

MIB = 1024 * 1024
HARD = read_thresholds(Workloads().eviction_hard, {}, {}, {})


# --- thresholds --------------------------------------------------------------------------------------


def test_the_thresholds_are_the_kubelet_s() -> None:
    shown = {each.signal: each.amount.of(1_000) for each in HARD}
    assert shown == {
        "memory.available": 100 * MIB,
        "nodefs.available": 100,
        "nodefs.inodesFree": 50,
        "imagefs.available": 150,
        "imagefs.inodesFree": 50,
        "pid.available": 100,
    }
    assert all(each.is_hard for each in HARD)


@pytest.mark.parametrize(
    ("hard", "soft", "grace"),
    [
        ({"memory.free": "1"}, {}, {}),
        ({MEMORY: "lots"}, {}, {}),
        ({MEMORY: "-1Mi"}, {}, {}),
        ({MEMORY: "101%"}, {}, {}),
        ({}, {MEMORY: "1Gi"}, {}),
        ({}, {MEMORY: "1Gi"}, {MEMORY: "soon"}),
    ],
)
def test_thresholds_that_cannot_be_are_refused(
    hard: dict[str, str], soft: dict[str, str], grace: dict[str, str]
) -> None:
    with pytest.raises(InvalidSetting, match=r"edge\.workloads\.eviction"):
        read_thresholds(hard, soft, grace, {})


def test_zero_switches_a_threshold_off() -> None:
    assert read_thresholds({MEMORY: "0", NODE_DISK: "0%"}, {}, {}, {}) == ()


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("1m30s", 90), ("2h", 7_200), ("", 0), ("1d", 0)]
)
def test_times_are_read(text: str, seconds: float) -> None:
    assert read_span(text) == seconds


@given(st.integers(0, 1_000), st.integers(0, 1_000))
def test_a_threshold_is_met_below_its_amount(available: int, wanted: int) -> None:
    threshold = Threshold(MEMORY, Amount(number=Decimal(wanted)))
    found = met([threshold], {MEMORY: Observation(available, 1_000)})
    assert bool(found) is (available < wanted)


def test_a_soft_threshold_counts_after_its_grace_and_until_enough_is_reclaimed() -> None:
    soft = read_thresholds({}, {MEMORY: "100"}, {MEMORY: "1m"}, {MEMORY: "50"})
    strain = Strain()

    def seen(available: int) -> dict[str, Observation]:
        return {MEMORY: Observation(available, 1_000)}

    strain = look(strain, soft, seen(99), 0.0)
    assert strain.acting == ()
    assert pressures(strain, 0.0) == {"MemoryPressure"}
    strain = look(strain, soft, seen(99), 60.0)
    assert strain.acting == soft
    strain = look(strain, soft, seen(149), 70.0)
    assert strain.acting == soft
    strain = look(strain, soft, seen(150), 80.0)
    assert strain.acting == ()
    assert pressures(strain, 369.0) == {"MemoryPressure"}
    assert pressures(strain, 370.0) == frozenset()


def test_memory_goes_before_other_shortages() -> None:
    seen = {NODE_DISK: Observation(0, 100), MEMORY: Observation(0, 100)}
    strain = look(Strain(), HARD, seen, 0.0)
    assert [each.signal for each in strain.acting] == [MEMORY, NODE_DISK]
    assert pressures(strain, 0.0) == {"MemoryPressure", "DiskPressure"}


# --- the Node ----------------------------------------------------------------------------------------


def test_allocatable_is_capacity_less_what_is_kept() -> None:
    capacity = {"cpu": "4", "memory": "2048Mi", "ephemeral-storage": "1000Ki", "pods": "1"}
    reserve = reserve_of([{"cpu": "150m"}, {"memory": "48Mi"}], HARD, 2_048 * MIB, 1_024_000)
    pages = {"hugepages-2Mi": 100 * MIB, "hugepages-1Gi": 0}
    whole, left = amounts(dict(capacity), reserve, 60, pages)
    assert whole == {
        "cpu": "4",
        "memory": f"{2_048 * 1_024}Ki",
        "ephemeral-storage": "1000Ki",
        "pods": "60",
        "hugepages-2Mi": f"{100 * 1_024}Ki",
        "hugepages-1Gi": "0",
    }
    assert left["cpu"] == "3850m"
    assert left["memory"] == f"{(2_048 - 48 - 100 - 100) * 1_024}Ki"
    assert left["ephemeral-storage"] == str(1_024_000 - 102_400)
    assert left["pods"] == "60"


def test_reserves_of_what_there_is_not_are_refused() -> None:
    with pytest.raises(InvalidSetting, match="reserved"):
        reserve_of([{"gpu": "1"}], HARD, 0, 0)


def test_huge_pages_are_named_by_their_size(tmp_path: Path) -> None:
    for name, number in (("hugepages-2048kB", 3), ("hugepages-1048576kB", 0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "nr_hugepages").write_text(f"{number}\n")
    assert huge_pages(tmp_path) == {"hugepages-2Mi": 6 * MIB, "hugepages-1Gi": 0}
    assert huge_pages(tmp_path / "none") == {}


def test_images_are_shown_biggest_first_and_fifty_at_most() -> None:
    images = [Image(id=f"i{n}", tags=(f"t{n}",), digests=("d",), size=n) for n in range(60)]
    rows: Any = image_rows(images)
    assert len(rows) == 50
    assert rows[0] == {"names": ["d", "t59"], "sizeBytes": 59}


def test_problems_are_one_message() -> None:
    assert aggregated(["a"]) == "a"
    assert aggregated(["a", "b"]) == "[a, b]"


@dataclass
class Healthy:
    version: str = ""
    problems: tuple[str, ...] = ()

    def listen(self, listener: Callable[[], None]) -> None:
        self.listener = listener


@dataclass
class Heard:
    events: list[str] = field(default_factory=list)

    def node_event(self, kind: str, reason: str, message: str) -> None:
        self.events.append(f"{kind} {reason} {message}")

    async def images(self) -> list[Image]:
        return [Image(id="i", tags=("busybox:1",), size=7)]


class Rig:
    def __init__(self, folder: Path) -> None:
        self.health, self.heard = Healthy(), Heard()
        self.pressed: frozenset[str] = frozenset()
        self.kicks = 0
        self.boot = folder / "boot"
        self.boot.write_text("first\n")
        heard: Any = self.heard
        self.info = NodeInfo(
            "edge-1",
            heard,
            self.health,
            heard,
            folder=folder / "pods",
            max_pods=60,
            reserved=[],
            thresholds=HARD,
            pressures=lambda: self.pressed,
            kick=self.kick,
            boot_id=self.boot,
        )
        plenty = Supplies(
            memory=1_000 * MIB,
            memory_free=1,
            disk=100 * MIB,
            disk_free=1,
            inodes=1,
            inodes_free=1,
            pids=10,
            pids_free=10,
        )
        self.machine = Machine("edge-1", folder, measure=lambda _: plenty, address=lambda: "a")
        self.machine.pods = self.info

    def kick(self) -> None:
        self.kicks += 1

    def status(self, now: int = 0) -> Any:
        return self.machine.status(now)

    def ready(self, now: int = 0) -> Any:
        return self.status(now)["conditions"][-1]


def test_a_node_is_ready_when_runtime_and_network_are(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    first = rig.ready(1_000)
    assert (first["type"], first["status"], first["reason"]) == (
        "Ready",
        "False",
        "KubeletNotReady",
    )
    assert first["message"] == "container runtime status check may not have completed yet"
    assert rig.status()["nodeInfo"]["containerRuntimeVersion"] == "none://"
    network = (
        "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady "
        "message:cni plugin not initialized"
    )
    rig.health.version, rig.health.problems = "containerd://1.6.20", (network,)
    assert rig.info.has_news()
    assert rig.ready(2_000)["message"] == network
    assert rig.ready(2_000)["lastTransitionTime"] == "1970-01-01T00:00:01Z"
    rig.health.problems = ()
    assert rig.machine.has_news(0)
    ready = rig.ready(3_000)
    assert (ready["status"], ready["reason"]) == ("True", "EdgeReady")
    assert ready["lastTransitionTime"] == "1970-01-01T00:00:03Z"
    assert not rig.machine.has_news(0)
    rig.health.problems = ("container runtime is down", network)
    assert rig.ready(4_000)["message"] == f"[container runtime is down, {network}]"
    assert rig.status()["nodeInfo"]["containerRuntimeVersion"] == "containerd://1.6.20"
    assert rig.status()["declaredFeatures"] == ["RestartAllContainersOnContainerExits"]
    changes = [each for each in rig.heard.events if "Ready" in each]
    assert changes == [
        "Normal NodeReady Node edge-1 status is now: NodeReady",
        "Normal NodeNotReady Node edge-1 status is now: NodeNotReady",
    ]


def test_pressures_are_those_of_the_thresholds(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rows = {row["type"]: row["status"] for row in rig.status()["conditions"]}
    assert rows["DiskPressure"] == "False"  # whatever the machine alone would say
    rig.pressed = frozenset({"DiskPressure"})
    assert rig.info.has_news()
    row = next(each for each in rig.status(5_000)["conditions"] if each["type"] == "DiskPressure")
    assert (row["status"], row["reason"]) == ("True", "EdgeHasDiskPressure")
    said = "Normal NodeHasDiskPressure Node edge-1 status is now: NodeHasDiskPressure"
    assert said in rig.heard.events


async def test_images_and_a_reboot_are_told(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    assert not rig.status()["images"]
    for boot in ("first", "first", "second"):
        rig.boot.write_text(f"{boot}\n")
        is_up = asyncio.Event()
        task = asyncio.create_task(rig.info.run(is_up.set))
        await is_up.wait()
        while not rig.status()["images"]:  # noqa: ASYNC110  nothing tells of it but the status
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert rig.status()["images"] == [{"names": ["busybox:1"], "sizeBytes": 7}]
    booted = [each for each in rig.heard.events if "Rebooted" in each]
    assert booted == ["Warning Rebooted Node edge-1 has been rebooted, boot id: second"]
    assert rig.heard.events.count("Normal Starting Starting kubelet.") == 3
