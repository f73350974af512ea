"""Nodes that fall silent and Pods that taints send away, on a running API with a clock in the test's hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.kube.client import KubeClient, PatchType
from gateway.kube.control.nodelifecycle import (
    EVICTION_SECONDS,
    GRACE_SECONDS,
    START_SECONDS,
    NodeLifecycle,
)
from gateway.kube.control.tainteviction import TaintEviction
from gateway.model.json import JsonObject
from gateway.wire.kube.nodehealth import heartbeat
from tests.cloud_rig import eventually
from tests.control_rig import ControlRig
from tests.kube_server import kube_server

PODS = ("v1", "pods", "default")
LEASES = ("coordination.k8s.io/v1", "leases", "kube-node-lease")
STEP = 4.0
"""Less than what counts as a sleep of our own."""
LOST = ["unreachable:NoSchedule"]
EVICTED = ["unreachable:NoExecute", "unreachable:NoSchedule"]


@dataclass(slots=True)
class Nodes:
    kube: KubeClient
    rig: ControlRig
    lifecycle: NodeLifecycle
    beats: int = 0

    async def add(self, name: str, *, edge: bool = False, ready: str | None = "True") -> None:
        labels: JsonObject = {"node-role.kubernetes.io/edge": ""} if edge else {}
        node: JsonObject = {"metadata": {"name": name, "labels": labels}}
        await self.kube.create("v1", "nodes", None, node)
        lease: JsonObject = {"metadata": {"name": name}, "spec": {"holderIdentity": name}}
        await self.kube.create(*LEASES, lease)
        if ready is not None:
            await self.says(name, ready)
        await self.lifecycle.look()

    async def says(self, name: str, ready: str) -> None:
        """A node posts its status."""
        self.beats += 1
        beat = f"2020-01-01T00:{self.beats // 60:02}:{self.beats % 60:02}Z"
        row: JsonObject = {"type": "Ready", "status": ready, "lastHeartbeatTime": beat}
        patch: JsonObject = {"status": {"conditions": [row]}}
        strategic = PatchType.STRATEGIC
        await self.kube.patch(
            "v1", "nodes", None, name, patch, patch_type=strategic, subresource="status"
        )
        mirror = self.rig.context.mirrors.of("v1", "nodes")

        def seen() -> bool:
            node = mirror.get(None, name)
            return node is not None and heartbeat(node) == beat

        await self.rig.seen(seen)

    async def renews(self, name: str) -> None:
        """A node renews its Lease; its own clock is years behind."""
        self.beats += 1
        renewed = f"1970-01-01T00:{self.beats // 60:02}:{self.beats % 60:02}.000000Z"
        await self.kube.patch(*LEASES, name, {"spec": {"renewTime": renewed}})
        mirror = self.rig.context.mirrors.of("coordination.k8s.io/v1", "leases")

        def seen() -> bool:
            lease: Any = mirror.get("kube-node-lease", name)
            return bool(lease and lease["spec"].get("renewTime") == renewed)

        await self.rig.seen(seen)

    async def go_on(self, seconds: float, *alive: str) -> None:
        """Let time pass in small steps, in which some nodes renew their Leases."""
        until = self.rig.clock.seconds + seconds
        while self.rig.clock.seconds < until:
            for name in alive:
                await self.renews(name)
            self.rig.clock.seconds = min(self.rig.clock.seconds + STEP, until)
            await self.lifecycle.look()

    async def get(self, name: str) -> Any:
        return await self.kube.get("v1", "nodes", None, name)

    async def ready(self, name: str) -> str:
        rows = (await self.get(name))["status"]["conditions"]
        return next(str(row["status"]) for row in rows if row["type"] == "Ready")

    async def taints(self, name: str) -> list[str]:
        rows = (await self.get(name)).get("spec", {}).get("taints") or []
        return sorted(f"{row['key'].rpartition('/')[2]}:{row['effect']}" for row in rows)

    async def has_taints(self, name: str, wanted: list[str]) -> None:
        async def there() -> bool:
            await self.lifecycle.look()
            return await self.taints(name) == wanted

        await eventually(there)


@asynccontextmanager
async def nodes(folder: Path) -> AsyncIterator[Nodes]:
    async with kube_server(folder) as server:
        kube = server.api.client("tester")
        rig = ControlRig(kube)
        lifecycle = NodeLifecycle(rig.context, clock=rig.clock)
        async with rig.running(), asyncio.TaskGroup() as group:
            loops = group.create_task(lifecycle._loop.run())
            try:
                yield Nodes(kube, rig, lifecycle)
            finally:
                loops.cancel()


async def a_running_pod(kube: KubeClient, name: str, node: str, **spec: Any) -> None:
    body: JsonObject = {
        "metadata": {"name": name},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "app"}], **spec},
    }
    await kube.create(*PODS, body)
    status: JsonObject = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    await kube.patch(*PODS, name, {"status": status}, subresource="status")


async def is_pod_ready(kube: KubeClient, name: str) -> bool:
    pod: Any = await kube.get(*PODS, name)
    return [row["status"] for row in pod["status"]["conditions"] if row["type"] == "Ready"] == [
        "True"
    ]


async def test_a_silent_node_is_unknown_and_comes_back_when_it_says_so_itself(
    tmp_path: Path,
) -> None:
    async with nodes(tmp_path) as at:
        await at.add("a")
        await at.add("b")
        await a_running_pod(at.kube, "p", "a")
        await at.go_on(GRACE_SECONDS, "b")
        assert (await at.ready("a"), await at.taints("a")) == ("True", [])
        await at.go_on(STEP, "b")
        assert (await at.ready("a"), await at.ready("b")) == ("Unknown", "True")
        rows = {row["type"]: row for row in (await at.get("a"))["status"]["conditions"]}
        assert rows["Ready"]["reason"] == "NodeStatusUnknown"
        assert rows["DiskPressure"]["reason"] == "NodeStatusNeverUpdated"

        async def is_lost() -> bool:
            return not await is_pod_ready(at.kube, "p")

        await eventually(is_lost)
        await at.go_on(2 * STEP, "b")
        await at.has_taints("a", EVICTED)
        await at.go_on(STEP, "a", "b")
        assert await at.ready("a") == "Unknown"
        await at.says("a", "True")
        await at.has_taints("a", [])
        await at.go_on(GRACE_SECONDS, "a", "b")
        assert await at.ready("a") == "True"


async def test_leases_alone_or_heartbeats_alone_keep_a_node_alive_whatever_its_clock_says(
    tmp_path: Path,
) -> None:
    async with nodes(tmp_path) as at:
        await at.add("leases")
        await at.add("beats")
        for _ in range(5):
            await at.go_on(20.0, "leases")
            await at.says("beats", "True")
            await at.go_on(0.1)
        assert (await at.ready("leases"), await at.ready("beats")) == ("True", "True")


async def test_a_node_that_never_said_anything_has_some_time(tmp_path: Path) -> None:
    async with nodes(tmp_path) as at:
        await at.add("new", ready=None)
        await at.go_on(START_SECONDS)
        assert "conditions" not in (await at.get("new")).get("status", {})
        await at.go_on(STEP)
        assert await at.ready("new") == "Unknown"
        await at.has_taints("new", LOST)


async def test_when_nobody_is_heard_of_nothing_is_evicted_and_all_get_time_again(
    tmp_path: Path,
) -> None:
    async with nodes(tmp_path) as at:
        await at.add("a")
        await at.add("b")
        await at.go_on(GRACE_SECONDS + 20 * STEP)
        for name in "ab":
            await at.has_taints(name, LOST)
        await at.says("a", "True")
        await at.has_taints("a", [])
        await at.go_on(STEP, "a")
        await at.go_on(STEP, "a")
        await at.has_taints("b", EVICTED)


async def test_an_edge_that_is_away_takes_no_new_pods_and_loses_none(tmp_path: Path) -> None:
    async with nodes(tmp_path) as at:
        await at.add("cloud")
        await at.add("edge", edge=True)
        await at.go_on(GRACE_SECONDS + 50 * STEP, "cloud")
        await at.has_taints("edge", LOST)
        assert await at.ready("edge") == "Unknown"


async def test_nodes_are_given_up_one_after_another(tmp_path: Path) -> None:
    async with nodes(tmp_path) as at:
        for name in "abc":
            await at.add(name)
        await at.go_on(GRACE_SECONDS + 2 * STEP, "a")
        given_up = [name for name in "bc" if await at.taints(name) == EVICTED]
        assert len(given_up) == 1
        await at.go_on(EVICTION_SECONDS + STEP, "a")
        for name in "bc":
            await at.has_taints(name, EVICTED)


async def test_where_most_of_a_small_cluster_is_lost_no_node_is_given_up(tmp_path: Path) -> None:
    async with nodes(tmp_path) as at:
        for name in "abcde":
            await at.add(name)
        await at.go_on(GRACE_SECONDS + 20 * STEP, "a")
        for name in "bcde":
            await at.has_taints(name, LOST)


async def test_after_a_long_sleep_of_our_own_nobody_is_lost_at_once(tmp_path: Path) -> None:
    async with nodes(tmp_path) as at:
        await at.add("a")
        await at.go_on(STEP)
        at.rig.clock.seconds += 10 * GRACE_SECONDS
        await at.lifecycle.look()
        assert await at.ready("a") == "True"
        await at.go_on(GRACE_SECONDS + STEP)
        assert await at.ready("a") == "Unknown"


async def test_a_cordoned_node_and_one_under_pressure_carry_taints(tmp_path: Path) -> None:
    async with nodes(tmp_path) as at:
        await at.add("a")
        await at.kube.patch("v1", "nodes", None, "a", {"spec": {"unschedulable": True}})
        await at.has_taints("a", ["unschedulable:NoSchedule"])
        await at.kube.patch("v1", "nodes", None, "a", {"spec": {"unschedulable": None}})
        await at.has_taints("a", [])
        await at.says("a", "False")
        await at.has_taints("a", ["not-ready:NoSchedule"])


# --- eviction --------------------------------------------------------------------------------------


@asynccontextmanager
async def evicting(folder: Path) -> AsyncIterator[KubeClient]:
    async with kube_server(folder) as server:
        kube = server.api.client("tester")
        rig = ControlRig(kube)
        eviction = TaintEviction(rig.context)
        async with rig.running(), asyncio.TaskGroup() as group:
            loops = group.create_task(eviction.run())
            try:
                yield kube
            finally:
                loops.cancel()


async def ending(kube: KubeClient) -> set[str]:
    items: list[Any] = (await kube.list(*PODS)).items
    return {pod["metadata"]["name"] for pod in items if pod["metadata"].get("deletionTimestamp")}


def tolerating(seconds: float | None) -> dict[str, Any]:
    row: dict[str, Any] = {"key": "out", "operator": "Exists", "effect": "NoExecute"}
    return {"tolerations": [row if seconds is None else row | {"tolerationSeconds": seconds}]}


OUT: JsonObject = {"spec": {"taints": [{"key": "out", "effect": "NoExecute"}]}}


async def told(kube: KubeClient, name: str) -> set[str]:
    items: list[Any] = (await kube.list("v1", "events", "default")).items
    return {event["message"] for event in items if event["involvedObject"]["name"] == name}


async def test_pods_go_at_once_in_time_or_never_as_they_tolerate(tmp_path: Path) -> None:
    async with evicting(tmp_path) as kube:
        for node in ("a", "b"):
            await kube.create("v1", "nodes", None, {"metadata": {"name": node}})
        await a_running_pod(kube, "now", "a")
        await a_running_pod(kube, "soon", "a", **tolerating(1))
        await a_running_pod(kube, "late", "a", **tolerating(3_600))
        await a_running_pod(kube, "ever", "a", **tolerating(None))
        await a_running_pod(kube, "elsewhere", "b")
        await kube.patch("v1", "nodes", None, "a", OUT)

        async def gone() -> bool:
            return await ending(kube) == {"now", "soon"}

        await eventually(gone)
        pod: Any = await kube.get(*PODS, "now")
        (row,) = [row for row in pod["status"]["conditions"] if row["type"] == "DisruptionTarget"]
        assert (row["status"], row["reason"]) == ("True", "DeletionByTaintManager")

        async def said() -> bool:
            return "Marking for deletion Pod default/now" in await told(kube, "now")

        await eventually(said)
        await kube.patch("v1", "nodes", None, "a", {"spec": {"taints": None}})

        async def spared() -> bool:
            return "Cancelling deletion of Pod default/late" in await told(kube, "late")

        await eventually(spared)
        assert await ending(kube) == {"now", "soon"}


async def test_a_pod_that_comes_to_a_tainted_node_goes_and_tolerations_may_be_added(
    tmp_path: Path,
) -> None:
    async with evicting(tmp_path) as kube:
        await kube.create("v1", "nodes", None, {"metadata": {"name": "a"}, **OUT})
        await a_running_pod(kube, "p", "a", **tolerating(1))
        added: Any = (await kube.get(*PODS, "p"))["spec"]
        rows = [
            {**row, "tolerationSeconds": 3_600} if row["key"] == "out" else row
            for row in added["tolerations"]
        ]
        await kube.patch(*PODS, "p", {"spec": {"tolerations": rows}})
        await a_running_pod(kube, "q", "a")

        async def gone() -> bool:
            return await ending(kube) == {"q"}

        await eventually(gone)
