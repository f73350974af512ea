"""Containers of a real containerd behind our kubelet's API, without edged: what runs is put there by hand.

`HandMadePods` is a `PodView` whose Pods are made through CRI; `a_kubelet` serves them, `a_node_with_pods`
puts an EdgeCore, its tunnel and an embedded API before it.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from edge.identity import FOLDER
from edge.kubeletaccess import ENDPOINT, KubeletToken
from edge.pods.cri import CriRuntime
from edge.pods.kubeletserver import KubeletServer
from edge.pods.podspec import Pod, read_pod
from edge.pods.ports import Observed, Running
from edge.pods.runtime import (
    CONTAINER_NAME,
    POD_NAME,
    POD_NAMESPACE,
    POD_UID,
    ContainerConfig,
    ContainerState,
    Sandbox,
    SandboxConfig,
    State,
)
from gateway.config.edge_services import EdgeStream
from gateway.config.edge_workloads import Workloads
from gateway.model.json import Json, JsonObject
from gateway.observe.metrics import Metrics
from gateway.runtime.listener import Endpoints
from gateway.runtime.module import running
from gateway.wire.kube.clock import rfc3339
from tests.cloud_rig import CloudCore, a_cloud
from tests.containerd import Containerd, remove_sandboxes
from tests.integration.edge_node import Node, a_node
from tests.integration.edge_support import until
from tests.integration.test_edge_real_cloud import join_cloud
from tests.integration.test_stream_tunnel import a_client
from tests.kubectl import Kubectl

NODE = "edge-1"
ECHO = ("nc", "-ll", "-p", "8080", "-e", "/bin/cat")
"""Gives back what it gets, many connections at a time."""


def labels_of(pod: Pod, container: str = "") -> dict[str, str]:
    namespace, name = pod.key
    found = {POD_NAME: name, POD_NAMESPACE: namespace, POD_UID: pod.uid}
    return found | ({CONTAINER_NAME: container} if container else {})


@dataclass
class HandMadePods:
    """Pods of one node."""

    runtime: CriRuntime
    image: str
    logs: Path
    made: dict[str, tuple[Pod, SandboxConfig, str]] = field(default_factory=dict)
    seen: dict[str, Running] = field(default_factory=dict)

    # --- PodView ------------------------------------------------------------------------------------

    def pods(self) -> list[Running]:
        return list(self.seen.values())

    def find(self, namespace: str, name: str, uid: str = "") -> Running | None:
        for each in self.seen.values():
            if each.pod.key == (namespace, name) and uid in ("", each.pod.uid):
                return each
        return None

    def evict(self, uid: str, reason: str, message: str) -> None:
        raise AssertionError(f"{uid} {reason} {message}")

    def kick(self, uid: str) -> None:
        raise AssertionError(uid)

    # --- making -------------------------------------------------------------------------------------

    async def make(self, raw: JsonObject) -> Pod:
        """Run the sandbox of a Pod and all of its containers."""
        pod = read_pod(raw)
        namespace, name = pod.key
        config = SandboxConfig(
            name=name,
            uid=pod.uid,
            namespace=namespace,
            attempt=0,
            hostname=name,
            log_directory=str(self.logs / f"{namespace}_{name}_{pod.uid}"),
            labels=labels_of(pod),
        )
        self.made[pod.uid] = (pod, config, await self.runtime.run_sandbox(config))
        for each in pod.spec.containers:
            await self.start(pod, each.name)
        await self.refresh()
        return pod

    async def start(self, pod: Pod, container: str, attempt: int = 0) -> str:
        """Create and start a container, or its next attempt."""
        _, sandbox, sandbox_id = self.made[pod.uid]
        spec = pod.container(container)
        assert spec is not None
        config = ContainerConfig(
            name=container,
            attempt=attempt,
            image=self.image,
            command=tuple(spec.command),
            args=tuple(spec.args),
            labels=labels_of(pod, container),
            log_path=f"{container}/{attempt}.log",
            stdin=spec.stdin,
            stdin_once=spec.stdin_once,
            tty=spec.tty,
        )
        folder = Path(sandbox.log_directory, container)
        folder.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240  a test's own
        container_id = await self.runtime.create_container(sandbox_id, config, sandbox)
        await self.runtime.start_container(container_id)
        return container_id

    async def refresh(self) -> None:
        """Look at the runtime, as edged does each second."""
        sandboxes = await self.runtime.sandboxes()
        listed = await self.runtime.containers()
        found = [await self.runtime.container(each.id) for each in listed]
        found.sort(key=lambda each: -each.attempt)
        for uid, (pod, _, _) in self.made.items():
            own = tuple(each for each in found if each.labels.get(POD_UID) == uid)
            rooms = tuple(each for each in sandboxes if each.uid == uid)
            self.seen[uid] = Running(pod, status_of(pod, own), Observed(uid, rooms, own))

    async def settled(self, pod: Pod, container: str, state: State) -> None:
        """Wait until the newest container of a name is in a state."""
        async with asyncio.timeout(20):
            while True:
                await self.refresh()
                newest = self.seen[pod.uid].observed.newest(container)
                if newest is not None and newest.state is state:
                    return
                await asyncio.sleep(0.05)

    async def remove(self) -> None:
        if self.made:
            await remove_sandboxes(self.runtime, *(each for _, _, each in self.made.values()))


def status_of(pod: Pod, containers: Sequence[ContainerState]) -> JsonObject:
    rows: list[Json] = []
    for spec in pod.spec.containers:
        found = [each for each in containers if each.name == spec.name]
        row: JsonObject = {
            "name": spec.name,
            "image": spec.image,
            "imageID": "",
            "ready": bool(found) and found[0].state is State.RUNNING,
            "restartCount": found[0].attempt if found else 0,
            "state": _state(found[0]) if found else {"waiting": {"reason": "ContainerCreating"}},
            "lastState": _state(found[1]) if len(found) > 1 else {},
        }
        if found:
            row["containerID"] = f"containerd://{found[0].id}"
        rows.append(row)
    return {"phase": "Running" if containers else "Pending", "containerStatuses": rows}


def _state(found: ContainerState) -> JsonObject:
    started: Json = rfc3339(found.started_at / 1e9)
    if found.state is State.RUNNING:
        return {"running": {"startedAt": started}}
    ended: Json = rfc3339(found.finished_at / 1e9)
    times: JsonObject = {"startedAt": started, "finishedAt": ended}
    facts: JsonObject = {"containerID": f"containerd://{found.id}", "exitCode": found.exit_code}
    return {"terminated": times | facts}


def a_pod(name: str, *commands: Sequence[str], **fields: Json) -> JsonObject:
    """A Pod with a container for each command: `c`, `c1`, `c2` ...; `fields` of the first one."""
    containers: list[Json] = []
    for number, command in enumerate(commands):
        own = fields if number == 0 else {}
        containers.append(
            {"name": f"c{number or ''}", "image": "busybox", "command": [*command], **own}
        )
    return {
        "metadata": {"name": name, "namespace": "default", "uid": str(uuid.uuid4())},
        "spec": {"nodeName": NODE, "containers": containers},
    }


@dataclass
class Served:
    """A kubelet's API."""

    pods: HandMadePods
    endpoints: Endpoints
    token: KubeletToken
    server: KubeletServer

    @property
    def url(self) -> str:
        return f"http://{self.endpoints.get(ENDPOINT)}"

    @property
    def login(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token.read()}"}


@asynccontextmanager
async def a_kubelet(
    containerd: Containerd, data_dir: Path, endpoints: Endpoints | None = None
) -> AsyncIterator[Served]:
    """Serve what is made by hand on a containerd."""
    runtime = CriRuntime(containerd.endpoint, NODE)
    pods = HandMadePods(runtime, containerd.image(), data_dir / "logs")
    bound = endpoints or Endpoints()
    (data_dir / FOLDER).mkdir(parents=True, exist_ok=True)
    token = KubeletToken(data_dir / FOLDER)
    settings = Workloads(bind="127.0.0.1:0")
    server = KubeletServer(settings, NODE, bound, token, pods, runtime, Metrics())
    try:
        async with running(server):
            yield Served(pods, bound, token, server)
    finally:
        await pods.remove()
        await runtime.close()


@dataclass
class Whole:
    """Embedded API, CloudCore, tunnel, EdgeCore, our kubelet, containerd."""

    cloud: CloudCore
    node: Node
    served: Served
    client: Path

    @property
    def pods(self) -> HandMadePods:
        return self.served.pods

    async def run(self, name: str, *commands: Sequence[str], **fields: Json) -> Pod:
        """Have a Pod in the API and run it."""
        raw = a_pod(name, *commands, **fields)
        meta: JsonObject = {"name": name, "namespace": "default"}
        kube = self.cloud.kube
        made = await kube.create("v1", "pods", "default", {"metadata": meta, "spec": raw["spec"]})
        pod = await self.pods.make({**made, "spec": raw["spec"]})
        await self.tell(pod)
        return pod

    async def tell(self, pod: Pod) -> None:
        """Report a Pod's status to the API."""
        status = self.pods.seen[pod.uid].status
        await self.cloud.kube.patch(
            "v1", "pods", *pod.key, {"status": status}, subresource="status"
        )

    def kubectl(self, binary: Path, home: Path) -> Kubectl:
        return Kubectl(binary, self.cloud.data_dir / "kube" / "kubeconfig", home)


@asynccontextmanager
async def a_node_with_pods(containerd: Containerd, folder: Path) -> AsyncIterator[Whole]:
    """Everything between kubectl and a container. What fails inside is raised alone, in no group."""
    failure: Exception | None = None
    async with a_cloud(folder / "cloud") as cloud:
        await join_cloud(cloud, folder / "edge")
        server = f"localhost:{cloud.process.endpoints.port('tunnel.wss')}"
        stream = EdgeStream(server=server)
        async with a_node(folder / "edge", drivers={}, stream=stream) as node:
            try:
                async with a_kubelet(containerd, folder / "edge", node.endpoints) as served:
                    await until(lambda: cloud.sample("twinspan_cloud_tunnels") == 1)
                    async with asyncio.timeout(20):
                        while not (await cloud.kube.list("v1", "nodes")).items:  # noqa: ASYNC110  the edge's
                            await asyncio.sleep(0.05)
                    try:
                        yield Whole(cloud, node, served, await a_client(cloud))
                    except Exception as error:  # noqa: BLE001  raised below
                        failure = error
            except Exception as error:  # noqa: BLE001  raised below
                failure = failure or error
    if failure is not None:
        raise failure


__all__ = [
    "ECHO",
    "NODE",
    "HandMadePods",
    "Sandbox",
    "Served",
    "Whole",
    "a_kubelet",
    "a_node_with_pods",
    "a_pod",
]
