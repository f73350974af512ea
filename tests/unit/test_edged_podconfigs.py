"""Configs of sandboxes and containers: what is made, told and refused, without a runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import pytest

from edge.pods.cgrouptrees import Tree
from edge.pods.configbuild import cgroup_tree, facts_of, folders_of, machine_of
from edge.pods.configs import (
    Folders,
    NodeFacts,
    PodConfigs,
    annotations_of,
    port_mappings,
)
from edge.pods.podresources import Machine
from edge.pods.podspec import Container, Pod, read_pod
from edge.pods.ports import MountedVolumes, NotYet
from edge.pods.resolvconf import Cluster
from edge.pods.runtime import ContainerConfig, Image, Mount, Namespace, Sandbox
from gateway.config.edge_workloads import Workloads
from gateway.errors import NotFound, Undeliverable
from gateway.model.json import Json, JsonObject

UID = "0b5c2d1e-aaaa-bbbb-cccc-000000000001"
BUSY = "0b5c2d1e-aaaa-bbbb-cccc-000000000002"


@dataclass
class Rooms:
    """What the room needs of others."""

    objects: dict[str, JsonObject] = field(default_factory=dict)
    is_away: bool = False
    events: list[tuple[str, str]] = field(default_factory=list)
    node_events: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    seen_envs: Mapping[str, str] = field(default_factory=dict)

    async def configmap(self, namespace: str, name: str) -> JsonObject:
        if self.is_away:
            raise Undeliverable("the cloud is away")
        if name not in self.objects:
            raise NotFound(f'configmap "{name}" not found: is not on disk')
        return self.objects[name]

    secret = configmap

    async def mount(self, pod: Pod) -> MountedVolumes:
        return MountedVolumes()

    def mounts(
        self, pod: Pod, container: Container, volumes: MountedVolumes, envs: Mapping[str, str]
    ) -> tuple[Mount, ...]:
        self.seen_envs = envs
        return tuple(
            Mount(container_path=each.mount_path, host_path=volumes.paths[each.name])
            for each in container.volume_mounts
        )

    async def unmount(self, uid: str) -> None: ...

    def event(
        self, pod: Pod, kind: str, reason: str, message: str, container: Container | None = None
    ) -> None:
        self.events.append((reason, message))

    def node_event(self, kind: str, reason: str, message: str) -> None:
        self.node_events.append(reason)

    def parent(self, pod: Pod) -> str:
        return f"/edgepods/pod{pod.uid}"

    async def ensure(self, pod: Pod) -> None:
        self.groups.append(pod.uid)

    async def remove(self, uid: str, *, kill: bool = True) -> bool:
        self.groups.append(f"-{uid} {kill}")
        return uid != BUSY

    async def image(self, reference: str) -> Image | None:
        return Image(id=reference, uid=7)


@pytest.fixture
def rooms() -> Rooms:
    return Rooms()


@pytest.fixture
def configs(rooms: Rooms, tmp_path: Path) -> PodConfigs:
    (tmp_path / "resolv.conf").write_text("nameserver 192.0.2.53\n")
    (tmp_path / "hosts").write_text("127.0.0.1 node\n")
    return PodConfigs(
        folders=Folders(pods=tmp_path / "pods", logs=tmp_path / "logs", profiles=tmp_path / "sc"),
        facts=NodeFacts(
            machine=lambda: Machine(memory=1 << 30),
            host_ips=lambda: ("192.0.2.7",),
            cluster=lambda: Cluster(servers=("169.254.20.10",), domain="cluster.local"),
            resolv_conf=tmp_path / "resolv.conf",
            hosts=tmp_path / "hosts",
        ),
        objects=rooms,
        volumes=rooms,
        cgroups=rooms,
        recorder=rooms,
        image=rooms.image,
    )


def pod_of(container: Json = None, **spec: Json) -> Pod:
    meta: JsonObject = {
        "name": "web",
        "namespace": "shop",
        "uid": UID,
        "labels": {"app": "w", "io.kubernetes.pod.uid": "another"},
        "annotations": {"note": "x"},
    }
    own = container if isinstance(container, dict) else {}
    rows: list[Json] = [{"name": "main", "image": "busybox", **own}]
    return read_pod({"metadata": meta, "spec": {"containers": rows, **spec}})


async def made(
    configs: PodConfigs, pod: Pod, volumes: MountedVolumes | None = None, attempt: int = 0
) -> ContainerConfig:
    sandbox = Sandbox(
        id="s",
        name="web",
        namespace="shop",
        uid=UID,
        attempt=0,
        is_ready=True,
        created_at=1,
        ips=("10.1.0.2",),
    )
    return await configs.container(
        pod,
        pod.spec.containers[0],
        attempt=attempt,
        image="sha256:1",
        sandbox=sandbox,
        volumes=volumes or MountedVolumes(),
    )


# --- sandboxes ------------------------------------------------------------------------------------


async def test_a_sandbox_is_named_placed_and_labelled(configs: PodConfigs, tmp_path: Path) -> None:
    found = await configs.sandbox(pod_of(), 3)
    assert (found.name, found.namespace, found.uid, found.attempt) == ("web", "shop", UID, 3)
    assert found.hostname == "web"
    assert found.log_directory == str(tmp_path / "logs" / f"shop_web_{UID}")
    assert found.cgroup_parent == f"/edgepods/pod{UID}"
    assert found.labels["app"] == "w"
    assert found.labels["io.kubernetes.pod.uid"] == UID
    assert found.annotations == {"note": "x"}
    assert found.dns is not None
    assert found.dns.servers == ("169.254.20.10",)


async def test_with_the_nodes_network_a_sandbox_has_no_hostname(configs: PodConfigs) -> None:
    found = await configs.sandbox(pod_of(hostNetwork=True), 0)
    assert (found.hostname, found.security.namespaces.network) == ("", Namespace.NODE)
    assert found.dns is not None
    assert found.dns.servers == ("192.0.2.53",)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"hostUsers": False}, "user namespaces"),
        ({"hostname": "A_B"}, "is not a valid DNS label"),
        ({"subdomain": "x" * 60, "setHostnameAsFQDN": True}, "failed to construct FQDN"),
    ],
)
async def test_a_sandbox_that_cannot_be_made_says_why(
    configs: PodConfigs, spec: dict[str, Json], words: str
) -> None:
    with pytest.raises(NotYet, match=words) as held:
        await configs.sandbox(pod_of(None, **spec), 0)
    assert held.value.reason == "ContainerCreating"


async def test_a_missing_cluster_dns_is_told_once(configs: PodConfigs, rooms: Rooms) -> None:
    alone = replace(configs, facts=replace(configs.facts, cluster=Cluster))
    for attempt in range(3):
        await alone.sandbox(pod_of(), attempt)
    assert [reason for reason, _ in rooms.events] == ["MissingClusterDNS"]
    assert rooms.node_events == ["MissingClusterDNS"]


async def test_a_node_without_resolv_conf_runs_pods(configs: PodConfigs, tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").unlink()
    found = await configs.sandbox(pod_of(dnsPolicy="Default"), 0)
    assert found.dns is not None
    assert found.dns.servers == ()


def test_ports_are_mapped_once_by_name() -> None:
    ports: list[Json] = [
        {"containerPort": 80, "hostPort": 8080},
        {"containerPort": 80, "hostPort": 8080},
        {"containerPort": 80, "hostPort": 8080, "hostIP": "192.0.2.1"},
        {"name": "dns", "containerPort": 53, "protocol": "UDP"},
        {"name": "dns", "containerPort": 54, "protocol": "UDP"},
    ]
    found = port_mappings(pod_of({"ports": ports}))
    assert [(each.container_port, each.host_port, each.host_ip) for each in found] == [
        (80, 8080, ""),
        (80, 8080, "192.0.2.1"),
        (53, 0, ""),
    ]


# --- containers -----------------------------------------------------------------------------------


async def test_a_container_is_made_of_what_its_pod_says(
    configs: PodConfigs, rooms: Rooms, tmp_path: Path
) -> None:
    rooms.objects["settings"] = {"data": {"WHO": "world"}}
    container: JsonObject = {
        "command": ["echo", "hello $(WHO)"],
        "args": ["$$(WHO)"],
        "workingDir": "/w",
        "envFrom": [{"configMapRef": {"name": "settings"}}],
        "stdin": True,
        "stdinOnce": True,
        "tty": True,
        "lifecycle": {"stopSignal": "SIGUSR1"},
    }
    found = await made(configs, pod_of(container), attempt=2)
    assert (found.command, found.args) == (("echo", "hello world"), ("$(WHO)",))
    assert (found.image, found.user_image, found.working_dir) == ("sha256:1", "busybox", "/w")
    assert (found.stdin, found.stdin_once, found.tty) == (True, True, True)
    assert (found.log_path, found.stop_signal) == ("main/2.log", "SIGUSR1")
    assert found.envs == (("WHO", "world"),)
    assert rooms.seen_envs == {"WHO": "world"}
    assert found.security.run_as_user == 7
    assert found.labels["io.kubernetes.container.name"] == "main"
    folder = tmp_path / "pods" / UID
    assert [(each.container_path, each.host_path) for each in found.mounts] == [
        ("/etc/hosts", str(folder / "etc-hosts")),
        ("/dev/termination-log", str(folder / "containers/main/termination-log-2")),
    ]
    assert "10.1.0.2\tweb" in (folder / "etc-hosts").read_text()
    assert (tmp_path / "logs" / f"shop_web_{UID}" / "main").is_dir()


async def test_a_volume_over_the_hosts_is_not_covered(configs: PodConfigs) -> None:
    container: JsonObject = {
        "volumeMounts": [{"name": "v", "mountPath": "/etc/hosts"}],
        "terminationMessagePath": "",
    }
    found = await made(configs, pod_of(container), MountedVolumes({"v": "/data"}))
    assert [each.host_path for each in found.mounts] == ["/data"]


async def test_with_the_nodes_network_a_container_is_told_the_nodes_addresses(
    configs: PodConfigs, tmp_path: Path
) -> None:
    source: JsonObject = {"fieldRef": {"fieldPath": "status.podIP"}}
    found = await made(
        configs, pod_of({"env": [{"name": "IP", "valueFrom": source}]}, hostNetwork=True)
    )
    assert found.envs == (("IP", "192.0.2.7"),)
    assert "127.0.0.1 node\n" in (tmp_path / "pods" / UID / "etc-hosts").read_text()


async def test_services_are_told_unless_a_pod_does_not_want_them(configs: PodConfigs) -> None:
    service: JsonObject = {
        "metadata": {"name": "db", "namespace": "shop"},
        "spec": {"clusterIP": "10.96.0.9", "ports": [{"port": 1}]},
    }
    known = replace(configs, facts=replace(configs.facts, services=lambda: [service]))
    assert ("DB_SERVICE_HOST", "10.96.0.9") in (await made(known, pod_of())).envs
    assert (await made(known, pod_of(enableServiceLinks=False))).envs == ()


@pytest.mark.parametrize("is_away", [True, False])
async def test_an_object_that_cannot_be_had_holds_the_container_up(
    configs: PodConfigs, rooms: Rooms, *, is_away: bool
) -> None:
    rooms.is_away = is_away
    pod = pod_of({"envFrom": [{"secretRef": {"name": "gone"}}]})
    with pytest.raises(NotYet) as held:
        await made(configs, pod)
    assert held.value.reason == "CreateContainerConfigError"
    expected = (
        "the cloud is away" if is_away else 'configmap "gone" not found: is not on disk'
    )  # as the room that reads objects says it
    assert held.value.message == expected


async def test_block_devices_of_volumes_are_refused(configs: PodConfigs) -> None:
    pod = pod_of({"volumeDevices": [{"name": "v", "devicePath": "/dev/x"}]})
    with pytest.raises(NotYet, match="block devices of volumes are not supported"):
        await made(configs, pod)


async def test_a_folder_that_cannot_be_made_holds_the_container_up(
    configs: PodConfigs, tmp_path: Path
) -> None:
    (tmp_path / "logs").write_text("a file")
    with pytest.raises(NotYet, match="Not a directory"):
        await made(configs, pod_of())


async def test_a_variable_of_a_file_is_read_from_within_its_volume_only(
    configs: PodConfigs, tmp_path: Path
) -> None:
    volume = tmp_path / "v"
    volume.mkdir()
    (volume / "env").write_text("A='one'\n")
    (tmp_path / "outside").write_text("A='two'\n")
    (volume / "link").symlink_to(tmp_path / "outside")

    def asking(path: str) -> Pod:
        ref: JsonObject = {"fileKeyRef": {"volumeName": "v", "path": path, "key": "A"}}
        return pod_of({"env": [{"name": "X", "valueFrom": ref}]})

    volumes = MountedVolumes({"v": str(volume)})
    assert (await made(configs, asking("env"), volumes)).envs == (("X", "one"),)
    for path in ("link", "../outside"):
        with pytest.raises(NotYet, match="leads out of the volume"):
            await made(configs, asking(path), volumes)
    with pytest.raises(NotYet, match="couldn't parse env file"):
        await made(configs, asking("none"), volumes)


def test_a_container_carries_what_is_needed_without_its_pod() -> None:
    container: JsonObject = {
        "ports": [{"containerPort": 80}],
        "lifecycle": {"preStop": {"exec": {"command": ["bye"]}}},
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    pod = pod_of(container, terminationGracePeriodSeconds=5)
    found = annotations_of(pod, pod.spec.containers[0], 4)
    prefix = "io.kubernetes.container."
    assert found[f"{prefix}restartCount"] == "4"
    assert found[f"{prefix}terminationMessagePath"] == "/dev/termination-log"
    assert found[f"{prefix}terminationMessagePolicy"] == "FallbackToLogsOnError"
    assert found["io.kubernetes.pod.terminationGracePeriod"] == "5"
    assert msgspec.json.decode(found[f"{prefix}preStopHandler"]) == {"exec": {"command": ["bye"]}}
    assert msgspec.json.decode(found[f"{prefix}ports"]) == [{"containerPort": 80}]
    assert found[f"{prefix}hash"]


# --- before and after -----------------------------------------------------------------------------


async def test_what_is_prepared_is_discarded(
    configs: PodConfigs, rooms: Rooms, tmp_path: Path
) -> None:
    pod = pod_of()
    await configs.prepare(pod)
    await configs.prepare(pod)
    await made(configs, pod)
    volume = tmp_path / "pods" / UID / "volumes"
    volume.mkdir()
    await configs.discard(pod)
    assert volume.is_dir()  # another room's
    volume.rmdir()
    await configs.discard(pod)
    assert not list((tmp_path / "pods").iterdir())
    assert not list((tmp_path / "logs").iterdir())
    assert rooms.groups == [UID, UID, f"-{UID} True", f"-{UID} True"]


async def test_of_what_was_prepared_the_folder_goes_last(
    configs: PodConfigs, tmp_path: Path
) -> None:
    await configs.prepare(pod_of())
    with pytest.raises(OSError, match="not empty"):
        (tmp_path / "pods" / UID).rmdir()  # as the volumes' room does; then the process is killed
    assert await configs.sweep([]) == [UID]
    assert not list((tmp_path / "pods").iterdir())
    assert not list((tmp_path / "logs").iterdir())


async def test_what_nobody_knows_is_swept_and_nothing_is_killed(
    configs: PodConfigs, rooms: Rooms, tmp_path: Path
) -> None:
    other = UID.replace("1e", "2e")
    for uid in (UID, BUSY, other, "lost+found"):
        (tmp_path / "pods" / uid / "containers").mkdir(parents=True)
        (tmp_path / "logs" / f"shop_web_{uid}").mkdir(parents=True)
    assert await configs.sweep([other]) == [UID]
    assert sorted(each.name for each in (tmp_path / "pods").iterdir()) == [
        BUSY,
        other,
        "lost+found",
    ]
    assert len(list((tmp_path / "logs").iterdir())) == 3
    assert rooms.groups == [f"-{UID} False", f"-{BUSY} False"]


# --- building -------------------------------------------------------------------------------------


def test_folders_and_facts_are_those_that_are_set(tmp_path: Path) -> None:
    folders = folders_of(Workloads(), tmp_path)
    assert (folders.pods, folders.profiles) == (tmp_path / "pods", tmp_path / "seccomp")
    own = folders_of(Workloads(root="/r", seccomp_profiles="/s"), tmp_path)
    assert (own.pods, own.profiles) == (Path("/r"), Path("/s"))
    facts = facts_of(
        Workloads(cluster_dns=""), None, host_ips=tuple, allocatable=dict, services=list
    )
    assert facts.cluster() == Cluster(domain="cluster.local")
    assert facts.machine().memory > 1 << 20


def test_no_groups_are_made_where_none_are_wanted(tmp_path: Path) -> None:
    assert cgroup_tree(Workloads(cgroup_root=""), tmp_path / "none") is None


def test_the_machine_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "pages/hugepages-2048kB").mkdir(parents=True)
    (tmp_path / "pages/hugepages-1048576kB").mkdir()
    (tmp_path / "own").write_text("0::/user/me\n")
    tree = Tree(version=2, mounts={"": tmp_path})
    first = machine_of(tree, tmp_path / "pages", tmp_path / "own")
    assert (set(first.page_sizes), first.is_unified, first.has_swap) == (
        {"2MB", "1GB"},
        True,
        False,
    )
    (tmp_path / "user/me").mkdir(parents=True)
    (tmp_path / "user/me/memory.swap.max").touch()
    assert machine_of(tree, tmp_path / "pages", tmp_path / "own").has_swap
    assert not machine_of(None, tmp_path / "none", tmp_path / "none").is_unified
