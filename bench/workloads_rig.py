"""A node with containers as benchmarks run it: containerd, cloud and edge of their own, and CRI beside them.

The cloud (`twinspan cloud --demo` with its embedded Kubernetes API) and the edge (`twinspan edge run`) are
the shipped program, one process each. `Bare` asks the same containerd for the same container without any
of them: what no kubelet gets below.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
from cri_api.v1 import api_pb2 as pb
from cri_api.v1 import api_pb2_grpc

from edge.pods.mounts import Mounts
from gateway.errors import NotFound, Undeliverable
from gateway.kube.client import EventType, KubeClient
from gateway.kube.remote import connect
from gateway.model.json import JsonObject
from gateway.wire.kube.parts import part, text
from tests.containerd import Containerd, running_containerd
from tests.edge_walk import join, new_token
from tests.pods_e2e import NODE, a_kubectl, settings
from tests.ports import free_port
from tests.process import Twinspan, eventually, twinspan
from tests.walk import Walk

NAMESPACE = "default"
COMMAND = ["sh", "-c", "trap 'exit 0' TERM; while true; do sleep 1 & wait; done"]
PATIENCE = 180.0
TRIES = 5
MEGABYTE = 1024.0 * 1024.0


# --- the node ---------------------------------------------------------------------------------------


@dataclass
class Rig:
    """What is measured."""

    folder: Path
    containerd: Containerd
    cloud: Twinspan
    kubectl: Path
    edge: Twinspan

    @property
    def kubeconfig(self) -> Path:
        return self.cloud.data_dir / "kube" / "kubeconfig"

    def edge_with(self, *sets: str, enabled: str = "on") -> Twinspan:
        """Return this edge with other settings, not started."""
        told = (*settings(self.containerd, self.folder, enabled=enabled), *sets)
        return Twinspan(self.folder / "edge", ("edge", "run"), told)

    def apply(self, manifest: JsonObject) -> None:
        """Run kubectl to its end."""
        words = [str(self.kubectl), "--kubeconfig", str(self.kubeconfig), "apply", "-f", "-"]
        subprocess.run(words, input=json.dumps(manifest).encode(), check=True, capture_output=True)

    def running(self) -> int:
        """Return how many containers of the node's Pods run, as containerd says."""
        with self.containerd.calls() as stub:
            wanted = pb.ContainerFilter(
                state=pb.ContainerStateValue(state=pb.CONTAINER_RUNNING),
                label_selector={"twinspan.io/node": NODE},
            )
            found = stub.ListContainers(pb.ListContainersRequest(filter=wanted), timeout=30.0)
        return len(found.containers)

    def adopted(self) -> int:
        """Return how many Pods EdgeCore knows with the containers that they have."""
        with suppress(OSError, ValueError, KeyError):
            url = self.edge.url("edge.kubelet", "/runningpods/")
            with urllib.request.urlopen(url, timeout=10) as answer:
                return len(json.load(answer).get("items") or [])
        return 0


@contextmanager
def the_rig(folder: Path, *sets: str) -> Iterator[Rig]:
    """Run all for the length of the block; the Node is ready when it begins."""
    hub, tunnel = (f"127.0.0.1:{free_port()}" for _ in range(2))
    ports = (f"cloud.hub.wss.bind={hub}", f"cloud.stream.tunnel_bind={tunnel}")
    with ExitStack() as stack:
        containerd = stack.enter_context(running_containerd())
        stack.callback(Mounts().clear, folder)  # Pods, and so their volumes, outlive EdgeCore
        cloud = stack.enter_context(twinspan(folder / "cloud", "cloud", "--demo", sets=ports))
        walk = Walk(cloud)
        said = join(walk, folder / "edge", new_token(walk), "--node-name", NODE)
        assert said.startswith("0 "), said
        rig = Rig(folder, containerd, cloud, a_kubectl(), cloud)
        rig.edge = rig.edge_with(f"edge.stream.server={tunnel}", *sets)
        stack.callback(lambda: rig.edge.stop())
        rig.edge.start()
        eventually(lambda: is_ready(rig), seconds=90, what="the Node is ready")
        yield rig


def is_ready(rig: Rig) -> bool:
    """True when the API calls the Node ready."""
    words = ["get", "node", NODE, "-o", "json", "--ignore-not-found"]
    done = subprocess.run(
        [str(rig.kubectl), "--kubeconfig", str(rig.kubeconfig), *words],
        capture_output=True,
        check=False,
    )
    node = json.loads(done.stdout) if done.stdout.strip() else {}
    rows = node.get("status", {}).get("conditions", [])
    return any(row["type"] == "Ready" and row["status"] == "True" for row in rows)


# --- what the API says ------------------------------------------------------------------------------


@dataclass
class Pods:
    """Pods of the API, and when what was seen of them."""

    client: KubeClient
    image: str
    running: dict[str, float] = field(default_factory=dict)
    """Name -> when a watch said that it runs, by `perf_counter`."""
    gone: dict[str, float] = field(default_factory=dict)
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)

    def manifest(self, name: str, *, is_placed: bool = True, **more: Any) -> JsonObject:
        """Return a Pod of one container; `is_placed`: without a scheduler."""
        container = {"name": "c", "image": self.image, "command": COMMAND, **more}
        spec: JsonObject = {"terminationGracePeriodSeconds": 2, "containers": [container]}
        if is_placed:
            spec["nodeName"] = NODE
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}

    async def create(self, name: str, *, is_placed: bool = True, **more: Any) -> None:
        body = self.manifest(name, is_placed=is_placed, **more)
        await self.client.create("v1", "pods", NAMESPACE, body)

    async def delete(self, name: str) -> None:
        """Delete, again where a server under load did not answer in time."""
        for left in reversed(range(TRIES)):
            try:
                await self.client.delete("v1", "pods", NAMESPACE, name)
            except NotFound:
                return
            except Undeliverable:
                if not left:
                    raise
            else:
                return

    async def create_all(self, names: Sequence[str], **more: Any) -> None:
        await asyncio.gather(*(self.create(name, **more) for name in names))
        await self.until_running(names)

    async def delete_all(self, names: Sequence[str]) -> None:
        await asyncio.gather(*(self.delete(name) for name in names))
        await self.until_gone(names)

    async def until_running(self, names: Sequence[str]) -> float:
        """Wait, and return when the last one was seen."""
        return await self._until(names, self.running)

    async def until_gone(self, names: Sequence[str]) -> float:
        return await self._until(names, self.gone)

    async def _until(self, names: Sequence[str], seen: dict[str, float]) -> float:
        async with asyncio.timeout(PATIENCE), self._news:
            await self._news.wait_for(lambda: all(name in seen for name in names))
        return max(seen[name] for name in names)

    async def follow(self) -> None:
        """Note what the API tells; until cancelled."""
        found = await self.client.list("v1", "pods", NAMESPACE)
        version = found.resource_version
        while True:
            events = self.client.watch("v1", "pods", NAMESPACE, resource_version=version)
            async for event in events:
                at = time.perf_counter()
                version = text(part(event.object, "metadata").get("resourceVersion"))
                async with self._news:
                    self._note(event.type, event.object, at)
                    self._news.notify_all()

    def _note(self, kind: EventType, pod: JsonObject, at: float) -> None:
        name = text(part(pod, "metadata").get("name"))
        if kind is EventType.DELETED:
            self.gone.setdefault(name, at)
        elif part(pod, "status").get("phase") == "Running":
            self.running.setdefault(name, at)


@asynccontextmanager
async def following(rig: Rig) -> AsyncIterator[Pods]:
    """Follow the Pods of a rig for the length of the block."""
    async with connect(rig.kubeconfig, manager="bench") as client:
        pods = Pods(client, rig.containerd.image("busybox"))
        async with asyncio.TaskGroup() as group:
            work = group.create_task(pods.follow())
            yield pods
            work.cancel()


# --- without us -------------------------------------------------------------------------------------


class Bare:
    """CRI alone: the same container of the same image, by the three calls that it takes."""

    def __init__(self, rig: Containerd, folder: Path) -> None:
        self._rig, self._folder = rig, folder
        self._channel = grpc.aio.insecure_channel(rig.endpoint)
        self._cri: Any = api_pb2_grpc.RuntimeServiceStub(self._channel)  # type: ignore[no-untyped-call]

    async def start(self, name: str) -> str:
        """Start one and return its sandbox."""
        config = pb.PodSandboxConfig(
            metadata=pb.PodSandboxMetadata(name=name, uid=name, namespace="bare"),
            hostname=name,
            log_directory=str(self._folder / name),
            linux=pb.LinuxPodSandboxConfig(cgroup_parent=f"/{self._rig.cgroup_root}/{name}"),
        )
        made = await self._cri.RunPodSandbox(pb.RunPodSandboxRequest(config=config))
        wanted = pb.ContainerConfig(
            metadata=pb.ContainerMetadata(name="c"),
            image=pb.ImageSpec(image=self._rig.image("busybox")),
            command=COMMAND,
            log_path="c.log",
            linux=pb.LinuxContainerConfig(),
        )
        asked = pb.CreateContainerRequest(
            pod_sandbox_id=made.pod_sandbox_id, config=wanted, sandbox_config=config
        )
        container = await self._cri.CreateContainer(asked)
        await self._cri.StartContainer(
            pb.StartContainerRequest(container_id=container.container_id)
        )
        return str(made.pod_sandbox_id)

    async def remove(self, sandbox: str) -> None:
        """Stop one as a Pod is stopped, and remove it."""
        found = await self._cri.ListContainers(
            pb.ListContainersRequest(filter=pb.ContainerFilter(pod_sandbox_id=sandbox))
        )
        for each in found.containers:
            await self._cri.StopContainer(
                pb.StopContainerRequest(container_id=each.id, timeout=2), timeout=60
            )
        await self._cri.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=sandbox))
        await self._cri.RemovePodSandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=sandbox))

    async def close(self) -> None:
        await self._channel.close(None)


# --- figures ----------------------------------------------------------------------------------------


def resident(pid: int) -> dict[str, float]:
    """Return what a process has in memory, its share of it, and what is no file's, in MB."""
    rows = dict(
        line.split(":", 1)
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    )
    return {
        key.lower(): round(int(rows[key].split()[0]) * 1024 / MEGABYTE, 1)
        for key in ("Rss", "Pss", "Anonymous")
    }


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of all threads of a process."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def load() -> float:
    """Return the load average of the last minute."""
    return float(Path("/proc/loadavg").read_text().split()[0])


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Return median and 99th percentile, in milliseconds."""
    found = sorted(seconds)
    last = found[min(len(found) - 1, int(len(found) * 0.99))]
    return {"p50_ms": round(statistics.median(found) * 1e3, 1), "p99_ms": round(last * 1e3, 1)}


def names(prefix: str, count: int) -> list[str]:
    """Return names of Pods."""
    return [f"{prefix}-{number}" for number in range(count)]


def seconds_until(check: Callable[[], bool], what: str) -> float:
    """Return how long it took until something was so."""
    began = time.perf_counter()
    eventually(check, seconds=PATIENCE, every=0.05, what=what)
    return time.perf_counter() - began
