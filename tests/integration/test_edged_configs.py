"""What a Pod asks for, seen from within its containers on a real containerd."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edge.pods.cgroups import Cgroups
from edge.pods.cgrouptrees import Tree, find_tree
from edge.pods.configs import Folders, NodeFacts, PodConfigs
from edge.pods.cri import CriRuntime
from edge.pods.podresources import Machine
from edge.pods.podspec import Container, Pod, read_pod
from edge.pods.ports import MountedVolumes, NotYet
from edge.pods.resolvconf import Cluster
from edge.pods.runtime import ContainerState, Mount, State
from gateway.errors import NotFound
from gateway.model.json import Json, JsonObject
from tests.containerd import Containerd, remove_sandboxes
from tests.containerd import containerd as containerd

UID = "0b5c2d1e-aaaa-bbbb-cccc-000000000001"
NODE_HOSTS = Path("/etc/hosts").read_text()
NODE_NAME, NODE_PIDS = socket.gethostname(), str(Path("/proc/self/ns/pid").readlink())
SLEEP: list[Json] = ["sleep", "600"]


class FewObjects:
    async def configmap(self, namespace: str, name: str) -> JsonObject:
        if (namespace, name) == ("shop", "settings"):
            return {"data": {"COLOUR": "red"}}
        raise NotFound(f'configmap "{name}" not found')

    async def secret(self, namespace: str, name: str) -> JsonObject:
        raise NotFound(f'secret "{name}" not found in {namespace}')


class NoVolumes:
    async def mount(self, pod: Pod) -> MountedVolumes:
        return MountedVolumes()

    def mounts(
        self, pod: Pod, container: Container, volumes: MountedVolumes, envs: Mapping[str, str]
    ) -> tuple[Mount, ...]:
        return ()

    async def unmount(self, uid: str) -> None: ...


@dataclass
class Told:
    events: list[tuple[str, str]] = field(default_factory=list)

    def event(
        self, pod: Pod, kind: str, reason: str, message: str, container: Container | None = None
    ) -> None:
        self.events.append((reason, message))

    def node_event(self, kind: str, reason: str, message: str) -> None:
        self.events.append((reason, message))


@dataclass
class Rig:
    """A node of one Pod at a time."""

    runtime: CriRuntime
    configs: PodConfigs
    tree: Tree
    image: str
    sandbox_id: str = ""
    ids: dict[str, str] = field(default_factory=dict)

    def pod(self, containers: list[Json], **spec: Json) -> Pod:
        rows = [{"image": self.image, "command": SLEEP, **row} for row in containers]  # type: ignore[dict-item]
        meta: JsonObject = {"name": "web", "namespace": "shop", "uid": UID, "labels": {"app": "w"}}
        return read_pod({"metadata": meta, "spec": {"containers": rows, **spec}})  # type: ignore[dict-item]

    async def run(self, pod: Pod) -> None:
        await self.configs.prepare(pod)
        config = await self.configs.sandbox(pod, 0)
        self.sandbox_id = await self.runtime.run_sandbox(config)
        sandbox = await self.runtime.sandbox(self.sandbox_id)
        for each in pod.spec.containers:
            made = await self.configs.container(
                pod,
                each,
                attempt=0,
                image=self.image,
                sandbox=sandbox,
                volumes=MountedVolumes(),
            )
            self.ids[each.name] = await self.runtime.create_container(sandbox.id, made, config)
            await self.runtime.start_container(self.ids[each.name])

    async def out(self, command: str, name: str = "main") -> str:
        ran = await self.runtime.exec_sync(self.ids[name], ["sh", "-c", command], 10.0)
        return (ran.stdout + ran.stderr).decode().strip()

    async def ended(self, name: str = "main") -> ContainerState:
        found = await self.runtime.container(self.ids[name])
        for _ in range(200):
            if found.state is State.EXITED:
                return found
            await asyncio.sleep(0.05)
            found = await self.runtime.container(self.ids[name])
        pytest.fail(f"{name} did not end: {found.state}")


@pytest.fixture
async def rig(containerd: Containerd, tmp_path: Path) -> AsyncIterator[Rig]:
    runtime = CriRuntime(containerd.endpoint, "edge-1")
    tree = find_tree("cgroupfs", containerd.cgroup_root)
    assert tree is not None
    folders = Folders(pods=tmp_path / "pods", logs=tmp_path / "logs", profiles=tmp_path / "seccomp")
    facts = NodeFacts(
        machine=lambda: Machine(memory=8 << 30),
        host_ips=lambda: ("192.0.2.7",),
        allocatable=lambda: {"cpu": "2", "memory": "8Gi"},
        cluster=lambda: Cluster(servers=("169.254.20.10",), domain="cluster.local"),
    )
    configs = PodConfigs(
        folders=folders,
        facts=facts,
        objects=FewObjects(),
        volumes=NoVolumes(),
        cgroups=Cgroups(tree, pids=200),
        recorder=Told(),
        image=runtime.image,
    )
    made = Rig(runtime, configs, tree, containerd.image())
    try:
        yield made
    finally:
        await remove_sandboxes(runtime)
        await runtime.close()
        await configs.cgroups.remove(UID)


async def test_a_container_has_its_environment_names_and_resolvers(rig: Rig) -> None:
    env: list[Json] = [
        {"name": "A", "value": "$(COLOUR)-$(NODE)"},
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "B", "value": "$(COLOUR) $(NODE)"},
    ]
    main: JsonObject = {
        "name": "main",
        "env": env,
        "envFrom": [{"configMapRef": {"name": "settings"}}],
        "workingDir": "/tmp",
    }
    pod = rig.pod(
        [main], subdomain="inner", hostAliases=[{"ip": "192.0.2.9", "hostnames": ["far", "away"]}]
    )
    await rig.run(pod)

    sandbox = await rig.runtime.sandbox(rig.sandbox_id)
    told = dict(line.split("=", 1) for line in (await rig.out("env")).splitlines())
    assert (told["A"], told["B"]) == ("red-$(NODE)", "red 192.0.2.7")
    assert (told["IP"], told["PWD"]) == (sandbox.ips[0], "/tmp")
    assert await rig.out("hostname") == "web"
    hosts = await rig.out("cat /etc/hosts")
    assert f"{sandbox.ips[0]}\tweb.inner.shop.svc.cluster.local\tweb" in hosts
    assert "192.0.2.9\tfar\taway" in hosts
    resolvers = await rig.out("cat /etc/resolv.conf")
    assert "nameserver 169.254.20.10" in resolvers
    assert "search shop.svc.cluster.local svc.cluster.local cluster.local" in resolvers
    assert "options ndots:5" in resolvers


async def test_a_container_is_held_to_its_security_context(rig: Rig) -> None:
    context: JsonObject = {
        "runAsUser": 1000,
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    of_pod: JsonObject = {"runAsGroup": 2000, "fsGroup": 3000, "supplementalGroups": [4000]}
    await rig.run(
        rig.pod([{"name": "main", "securityContext": context}, {"name": "free"}], securityContext=of_pod)
    )  # fmt: skip

    assert await rig.out("id -u; id -g; id -G") == "1000\n2000\n2000 3000 4000"
    status = dict(
        line.split(":\t", 1)
        for line in (await rig.out("cat /proc/self/status")).splitlines()
        if ":\t" in line
    )
    assert int(status["CapBnd"], 16) == 1 << 10
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert "Read-only file system" in await rig.out("touch /new")
    assert (await rig.out("cat /proc/timer_list | wc -c")).endswith("0")
    free = await rig.out("grep -E 'Seccomp:|NoNewPrivs' /proc/self/status; id -u", "free")
    assert free.split() == ["NoNewPrivs:", "0", "Seccomp:", "0", "0"]


async def test_a_pods_group_has_limits_and_goes_with_it(rig: Rig) -> None:
    if rig.tree.version != 1:
        pytest.skip("CGROUP FILES ARE NOT TESTED HERE: the names are those of version 1")
    resources: JsonObject = {
        "requests": {"cpu": "250m", "memory": "32Mi"},
        "limits": {"cpu": "500m", "memory": "64Mi"},
    }
    pod = rig.pod([{"name": "main", "resources": resources}])
    await rig.run(pod)

    group = rig.tree.pod("Burstable", UID)
    memory = rig.tree.mounts["memory"] / group[1:]
    cpu = rig.tree.mounts["cpu"] / group[1:]
    assert (memory / "memory.limit_in_bytes").read_text().strip() == str(64 << 20)
    assert (cpu / "cpu.cfs_quota_us").read_text().strip() == "50000"
    assert (cpu / "cpu.shares").read_text().strip() == "256"
    assert (cpu.parent / "cpu.shares").read_text().strip() == "256"
    assert (rig.tree.mounts["pids"] / group[1:] / "pids.max").read_text().strip() == "200"
    inner = memory / rig.ids["main"]
    assert (inner / "memory.limit_in_bytes").read_text().strip() == str(64 << 20)
    assert await rig.out("cat /proc/self/oom_score_adj") == "997"
    cgroups = rig.configs.cgroups
    assert isinstance(cgroups, Cgroups)
    used = await cgroups.usage(pod)
    assert all((used.memory_working_set, used.cpu_nanoseconds, used.pids))
    assert used.memory_limit == 64 << 20

    await rig.runtime.stop_sandbox(rig.sandbox_id)
    await rig.runtime.remove_sandbox(rig.sandbox_id)
    await rig.configs.discard(pod)
    await rig.configs.discard(pod)
    assert not [each for each in rig.tree.folders() if (each / group[1:]).exists()]
    assert not rig.configs.folders.logs_of(pod).exists()
    assert not rig.configs.folders.of_pod(UID).exists()


async def test_last_words_are_read_from_the_file_and_from_the_log(rig: Rig) -> None:
    said = "echo noise; echo -n 'out of coffee' > /dev/termination-log; exit 3"
    silent = "for i in 1 2 3; do echo line $i; done; exit 4"
    pod = rig.pod(
        [
            {"name": "main", "command": ["sh", "-c", said]},
            {
                "name": "silent",
                "command": ["sh", "-c", silent],
                "terminationMessagePolicy": "FallbackToLogsOnError",
            },
            {"name": "mute", "command": ["sh", "-c", silent]},
        ]
    )
    await rig.run(pod)
    words = {}
    for each in pod.spec.containers:
        state = await rig.ended(each.name)
        words[each.name] = await rig.configs.termination_message(pod, each, state)
    assert words == {"main": "out of coffee", "silent": "line 1\nline 2\nline 3\n", "mute": ""}


async def test_a_pod_with_the_nodes_network_has_the_nodes_names(rig: Rig) -> None:
    pod = rig.pod(
        [{"name": "main", "securityContext": {"privileged": True}}],
        hostNetwork=True,
        hostPID=True,
        dnsPolicy="ClusterFirst",
    )
    await rig.run(pod)
    hosts = await rig.out("cat /etc/hosts")
    assert hosts.startswith("# Kubernetes-managed hosts file (host network).")
    assert NODE_HOSTS.strip() in hosts
    assert await rig.out("hostname") == NODE_NAME
    assert "169.254.20.10" not in await rig.out("cat /etc/resolv.conf")
    assert await rig.out("readlink /proc/self/ns/pid") == NODE_PIDS
    assert await rig.out("ls /dev/null /dev/kmsg") == "/dev/kmsg\n/dev/null"


async def test_a_running_container_is_resized(rig: Rig) -> None:
    def sized(memory: str) -> Pod:
        resources: JsonObject = {"limits": {"memory": memory, "cpu": "1"}}
        return rig.pod([{"name": "main", "resources": resources}])

    await rig.run(sized("64Mi"))
    larger = sized("96Mi")
    await rig.configs.prepare(larger)
    resources = rig.configs.resources(larger, larger.spec.containers[0])
    await rig.runtime.update_resources(rig.ids["main"], resources)
    state = await rig.runtime.container(rig.ids["main"])
    assert state.state is State.RUNNING
    group = rig.tree.pod("Guaranteed", UID)
    if rig.tree.version == 1:
        folder = rig.tree.mounts["memory"] / group[1:]
        for each in (folder, folder / rig.ids["main"]):
            assert (each / "memory.limit_in_bytes").read_text().strip() == str(96 << 20)


async def test_processes_of_one_pod_see_each_other_when_they_share(rig: Rig) -> None:
    pod = rig.pod([{"name": "main"}, {"name": "other"}], shareProcessNamespace=True)
    await rig.run(pod)
    assert (await rig.out("ps")).count("sleep 600") == 2


async def test_a_profile_of_this_node_forbids_what_it_says(rig: Rig) -> None:
    folder = rig.configs.folders.profiles
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}
    await asyncio.to_thread(_write_profile, folder / "no-folders.json", json.dumps(profile))
    named: JsonObject = {"type": "Localhost", "localhostProfile": "no-folders.json"}
    await rig.run(rig.pod([{"name": "main", "securityContext": {"seccompProfile": named}}]))
    assert "Operation not permitted" in await rig.out("mkdir /new")
    assert await rig.out("touch /file && ls /file") == "/file"


def _write_profile(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(content)


async def test_an_ephemeral_container_sees_the_processes_of_its_target(rig: Rig) -> None:
    pod = rig.pod(
        [{"name": "main", "command": ["sleep", "611"]}],
        ephemeralContainers=[
            {
                "name": "debug",
                "image": rig.image,
                "command": SLEEP,
                "targetContainerName": "main",
            }
        ],
    )
    await rig.run(pod)
    made = await rig.configs.container(
        pod,
        pod.spec.ephemeral_containers[0],
        attempt=0,
        image=rig.image,
        sandbox=await rig.runtime.sandbox(rig.sandbox_id),
        volumes=MountedVolumes(),
        target_id=rig.ids["main"],
    )
    config = await rig.configs.sandbox(pod, 0)
    rig.ids["debug"] = await rig.runtime.create_container(rig.sandbox_id, made, config)
    await rig.runtime.start_container(rig.ids["debug"])
    seen = await rig.out("ps", "debug")
    assert "sleep 611" in seen
    assert "sleep 600" in seen


async def test_sysctls_of_a_pod_are_set_in_its_namespaces(rig: Rig) -> None:
    wanted: Json = [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}]
    await rig.run(rig.pod([{"name": "main"}], securityContext={"sysctls": wanted}))
    assert await rig.out("cat /proc/sys/net/ipv4/ip_unprivileged_port_start") == "0"


async def test_a_container_of_an_image_of_root_is_not_made_where_root_may_not_be(rig: Rig) -> None:
    pod = rig.pod([{"name": "main"}], securityContext={"runAsNonRoot": True})
    with pytest.raises(NotYet) as held:
        await rig.run(pod)
    where = f'(pod: "web_shop({UID})", container: main)'
    assert held.value.message == f"container has runAsNonRoot and image will run as root {where}"


async def test_what_still_runs_in_a_group_keeps_it_in_a_sweep_and_not_at_the_end(rig: Rig) -> None:
    await rig.run(rig.pod([{"name": "main"}]))
    cgroups = rig.configs.cgroups
    group = rig.tree.pod("BestEffort", UID)[1:]

    def left() -> list[Path]:
        return [each for each in rig.tree.folders() if (each / group).exists()]

    before = left()
    assert await rig.configs.sweep([]) == []
    assert left() == before
    assert await rig.out("echo alive") == "alive"
    await cgroups.remove(UID)
    assert left() == []
    assert (await rig.ended()).state is State.EXITED
