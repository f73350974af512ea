"""From a Pod to what the runtime is asked for: sandboxes, containers, and what must be there before.

Source: Kubernetes CRI v1; the kubelet of 1.36 (what it asks for, in which order it judges, its words).
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import stat
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import msgspec

from edge.pods import hostsfile, terminationlog
from edge.pods.environment import (
    CONFIG_MAP,
    Reference,
    Surroundings,
    environment,
    expand_all,
    faulty,
    references,
    service_variables,
)
from edge.pods.podfields import Amounts
from edge.pods.podresources import Machine, container_resources, pod_limits
from edge.pods.podspec import Container, FileKeyRef, Pod
from edge.pods.ports import MountedVolumes, NotYet, Recorder, Volumes
from edge.pods.resizes import ASKED, asked_text
from edge.pods.resolvconf import MISSING_DNS, Cluster, node_dns, node_file, pod_dns
from edge.pods.runtime import (
    CONTAINER_NAME,
    POD_NAME,
    POD_NAMESPACE,
    POD_UID,
    ContainerConfig,
    ContainerState,
    Dns,
    Image,
    LinuxResources,
    Mount,
    PortMapping,
    Sandbox,
    SandboxConfig,
)
from edge.pods.securitycontexts import (
    cannot,
    container_security,
    sandbox_security,
    sysctls_of,
)
from edge.pods.spechash import HASH, spec_hash
from edge.pods.subpaths import opened_within
from gateway.errors import BadRequest, Forbidden, GatewayError, NotFound
from gateway.model.json import JsonObject

CONTAINERS: Final = "containers"
ATTEMPT: Final = "io.kubernetes.container.restartCount"
GRACE: Final = "io.kubernetes.pod.terminationGracePeriod"
PRE_STOP: Final = "io.kubernetes.container.preStopHandler"
PORTS: Final = "io.kubernetes.container.ports"
"""Annotations of containers, for who meets them without their Pod."""
KEPT_LAST_WORDS: Final = 3
"""Runs of a container whose last words are kept."""
MAX_ENV_FILE: Final = 1 << 20
_UID: Final = re.compile(r"[0-9a-f-]{32,36}")
_SELINUX: Final = Path("/sys/fs/selinux/enforce")


class Objects(Protocol):
    """ConfigMaps and Secrets. Errors: NotFound; GatewayError for an API that is away."""

    async def configmap(self, namespace: str, name: str) -> JsonObject: ...
    async def secret(self, namespace: str, name: str) -> JsonObject: ...


class PodCgroups(Protocol):
    """Cgroups of Pods."""

    def parent(self, pod: Pod) -> str:
        """Return a Pod's cgroup as the runtime is told it; empty where there is none."""

    async def ensure(self, pod: Pod) -> None: ...
    async def remove(self, uid: str, *, kill: bool = True) -> bool:
        """True when nothing of it is left."""


def _nothing() -> tuple[JsonObject, ...]:
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """What Pods are told of their node, asked anew each time."""

    machine: Callable[[], Machine]
    host_ips: Callable[[], tuple[str, ...]] = tuple
    allocatable: Callable[[], Amounts] = dict
    cluster: Callable[[], Cluster] = Cluster
    services: Callable[[], Iterable[JsonObject]] = _nothing
    """Services known here, of all namespaces. Errors: NotYet while they are not known yet."""
    resolv_conf: Path | None = None
    """None: the node's, behind systemd-resolved."""
    hosts: Path = Path("/etc/hosts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Folders:
    """Where a node keeps what Pods need; `profiles`: seccomp profiles by name."""

    pods: Path
    logs: Path
    profiles: Path

    def of_pod(self, uid: str) -> Path:
        return self.pods / uid

    def logs_of(self, pod: Pod) -> Path:
        return self.logs / f"{pod.meta.namespace}_{pod.meta.name}_{pod.uid}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PodConfigs:
    """`edge.pods.ports.Configs`."""

    folders: Folders
    facts: NodeFacts
    objects: Objects
    volumes: Volumes
    cgroups: PodCgroups
    recorder: Recorder
    image: Callable[[str], Awaitable[Image | None]]
    """`Runtime.image`: of whom an image runs as."""
    _told: set[str] = field(default_factory=set)
    """Uids of Pods whose missing cluster DNS was told of."""

    # --- before and after ---------------------------------------------------------------------

    async def prepare(self, pod: Pod) -> None:
        """Make a Pod's folders and its cgroup with limits; again: brings the limits up to date."""
        await asyncio.to_thread(self._make_folders, pod)
        await self.cgroups.ensure(pod)

    def _make_folders(self, pod: Pod) -> None:
        folder = self.folders.of_pod(pod.uid)
        folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        (folder / CONTAINERS).mkdir(
            exist_ok=True
        )  # stays until `discard`: by it a sweep knows the Pod
        self.folders.logs_of(pod).mkdir(parents=True, exist_ok=True, mode=0o755)

    async def discard(self, pod: Pod) -> None:
        """Remove a Pod's cgroup, its logs and what its containers had of this room. Again: no error."""
        self._told.discard(pod.uid)
        await self.cgroups.remove(pod.uid)
        await asyncio.to_thread(self._remove_folders, pod.uid, self.folders.logs_of(pod))

    def _remove_folders(self, uid: str, logs: Path) -> None:
        folder = self.folders.of_pod(uid)
        shutil.rmtree(logs, ignore_errors=True)
        shutil.rmtree(folder / CONTAINERS, ignore_errors=True)
        (folder / "etc-hosts").unlink(missing_ok=True)
        if folder.is_dir() and not os.listdir(folder):
            folder.rmdir()

    async def sweep(self, known: Iterable[str]) -> list[str]:
        """Remove what was made for Pods that nobody knows any more, and return their uids.

        Only what has a folder of this edge is looked at (another edge of this machine has its own), so this
        goes before volumes are swept. Nothing that runs is killed: it keeps what it has.
        """
        found = await asyncio.to_thread(_uids, self.folders.pods)
        gone = []
        for uid in sorted(found - set(known)):
            if await self.cgroups.remove(uid, kill=False):
                await asyncio.to_thread(self._sweep, uid)
                gone.append(uid)
        return gone

    def _sweep(self, uid: str) -> None:
        logs = [*self.folders.logs.glob(f"*_{uid}")] if self.folders.logs.is_dir() else []
        for each in logs or [self.folders.logs / uid]:
            self._remove_folders(uid, each)

    async def termination_message(
        self, pod: Pod, container: Container, state: ContainerState
    ) -> str:
        """Return the last words of an ended container, empty for none."""
        folder = self.folders.of_pod(pod.uid)
        return await asyncio.to_thread(terminationlog.message_of, pod, container, state, folder)

    # --- sandboxes ----------------------------------------------------------------------------

    async def sandbox(self, pod: Pod, attempt: int) -> SandboxConfig:
        """Return what a Pod's sandbox is made of. Errors: NotYet (`ContainerCreating`)."""
        fault = cannot(pod)
        if fault is not None:
            raise NotYet("ContainerCreating", fault)
        try:
            hostname = hostsfile.kernel_hostname(pod, self.facts.cluster().domain)
        except BadRequest as error:
            raise NotYet("ContainerCreating", error.message) from error
        return SandboxConfig(
            name=pod.meta.name,
            uid=pod.uid,
            namespace=pod.meta.namespace,
            attempt=attempt,
            hostname=hostname,
            log_directory=str(self.folders.logs_of(pod)),
            dns=await self._dns(pod),
            ports=port_mappings(pod),
            labels={**pod.meta.labels, **_labels(pod)},
            annotations=dict(pod.meta.annotations),
            cgroup_parent=self.cgroups.parent(pod),
            sysctls=sysctls_of(pod),
            security=sandbox_security(pod),
            resources=_of_pod(pod),
        )

    async def _dns(self, pod: Pod) -> Dns:
        path = self.facts.resolv_conf

        def read() -> Dns:
            return node_dns(path or node_file())

        try:
            node = await asyncio.to_thread(read)
        except FileNotFoundError:
            node = Dns()
        except OSError as error:
            raise NotYet("ContainerCreating", f"resolv.conf: {error}") from error
        return pod_dns(pod, node, self.facts.cluster(), self._teller(pod), self._tell_node)

    def _teller(self, pod: Pod) -> Callable[[str, str], None]:
        def tell(reason: str, message: str) -> None:
            if reason == MISSING_DNS:
                if pod.uid in self._told:
                    return
                self._told.add(pod.uid)
            self.recorder.event(pod, "Warning", reason, message)

        return tell

    def _tell_node(self, reason: str, message: str) -> None:
        if not self._told:
            self.recorder.node_event("Warning", reason, message)

    # --- containers ---------------------------------------------------------------------------

    async def container(
        self,
        pod: Pod,
        container: Container,
        *,
        attempt: int,
        image: str,
        sandbox: Sandbox,
        volumes: MountedVolumes,
        target_id: str = "",
    ) -> ContainerConfig:
        """Return what a container is made of. Errors: NotYet (`CreateContainerConfigError`)."""
        addresses = self.facts.host_ips() if pod.spec.host_network else sandbox.ips
        envs = await self._environment(pod, container, tuple(addresses), volumes)
        mounts = await asyncio.to_thread(
            self._mounts, pod, container, attempt, tuple(addresses), volumes, envs
        )
        security = container_security(
            pod,
            container,
            await self.image(image),
            target_id=target_id,
            profiles=self.folders.profiles,
        )
        return ContainerConfig(
            name=container.name,
            attempt=attempt,
            image=image,
            user_image=container.image,
            command=expand_all(container.command, envs),
            args=expand_all(container.args, envs),
            working_dir=container.working_dir,
            envs=tuple(envs.items()),
            mounts=mounts,
            labels={**_labels(pod), CONTAINER_NAME: container.name},
            annotations=annotations_of(pod, container, attempt),
            log_path=f"{container.name}/{attempt}.log",
            stdin=container.stdin,
            stdin_once=container.stdin_once,
            tty=container.tty,
            resources=self.resources(pod, container),
            security=security,
            stop_signal=container.lifecycle.stop_signal if container.lifecycle else "",
        )

    def resources(self, pod: Pod, container: Container) -> LinuxResources:
        """Return a container's limits, also for `Runtime.update_resources` when it is resized.

        The Pod's own limits follow with `prepare`.
        """
        return container_resources(pod, container, self.facts.machine())

    async def _environment(
        self, pod: Pod, container: Container, addresses: tuple[str, ...], volumes: MountedVolumes
    ) -> dict[str, str]:
        objects, missing = await self._fetched(pod, container)
        has_links = pod.spec.enable_service_links is not False
        around = Surroundings(
            objects=objects,
            missing=missing,
            services=service_variables(self.facts.services(), pod.meta.namespace, has_links),
            pod_ips=addresses,
            host_ips=self.facts.host_ips(),
            allocatable=self.facts.allocatable(),
            read_file=lambda ref: _env_file(ref, volumes),
        )
        return await asyncio.to_thread(environment, pod, container, around)

    async def _fetched(
        self, pod: Pod, container: Container
    ) -> tuple[dict[Reference, JsonObject], dict[Reference, str]]:
        found: dict[Reference, JsonObject] = {}
        missing: dict[Reference, str] = {}
        for ref in references(container):
            read = self.objects.configmap if ref.kind == CONFIG_MAP else self.objects.secret
            try:
                found[ref] = await read(pod.meta.namespace, ref.name)
            except NotFound as error:
                missing[ref] = error.message
            except GatewayError as error:
                raise faulty(error.message) from error
        return found, missing

    # --- mounts -------------------------------------------------------------------------------

    def _mounts(
        self,
        pod: Pod,
        container: Container,
        attempt: int,
        addresses: tuple[str, ...],
        volumes: MountedVolumes,
        envs: Mapping[str, str],
    ) -> tuple[Mount, ...]:
        if container.volume_devices:
            name = container.volume_devices[0].name
            text = f'cannot find volume "{name}" to pass into container "{container.name}"'
            raise faulty(f"{text}: block devices of volumes are not supported by this node")
        found = list(self.volumes.mounts(pod, container, volumes, envs))
        try:
            (self.folders.logs_of(pod) / container.name).mkdir(parents=True, exist_ok=True)
            found += self._hosts_mount(pod, container, addresses)
            found += self._words_mount(pod, container, attempt)
        except OSError as error:
            raise faulty(f"{error.filename}: {error.strerror}") from error
        return tuple(found)

    def _hosts_mount(
        self, pod: Pod, container: Container, addresses: tuple[str, ...]
    ) -> list[Mount]:
        is_taken = any(
            each.mount_path == hostsfile.CONTAINER_PATH for each in container.volume_mounts
        )
        if is_taken or not (addresses or pod.spec.host_network):
            return []
        path = self.folders.of_pod(pod.uid) / "etc-hosts"
        if pod.spec.host_network:
            content = hostsfile.of_node(self.facts.hosts.read_text(errors="replace"), pod)
        else:
            content = hostsfile.managed(pod, addresses, self.facts.cluster().domain)
        hostsfile.write(path, content)
        return [_own_mount(hostsfile.CONTAINER_PATH, path)]

    def _words_mount(self, pod: Pod, container: Container, attempt: int) -> list[Mount]:
        if not container.termination_message_path:
            return []
        path = terminationlog.file_of(self.folders.of_pod(pod.uid), container.name, attempt)
        terminationlog.make(path)
        terminationlog.forget_before(path, KEPT_LAST_WORDS)
        return [_own_mount(str(Path("/", container.termination_message_path)), path)]


def _own_mount(inside: str, path: Path) -> Mount:
    return Mount(container_path=inside, host_path=str(path), selinux_relabel=_SELINUX.exists())


def _uids(folder: Path) -> set[str]:
    """Return which Pods have a folder; what is not named by a uid is none."""
    found = list(folder.iterdir()) if folder.is_dir() else []
    return {each.name for each in found if _UID.fullmatch(each.name) and each.is_dir()}


def _labels(pod: Pod) -> dict[str, str]:
    return {POD_NAME: pod.meta.name, POD_NAMESPACE: pod.meta.namespace, POD_UID: pod.uid}


def annotations_of(pod: Pod, container: Container, attempt: int) -> dict[str, str]:
    """Return what a container carries for who meets it without its Pod."""
    found = {
        HASH: spec_hash(container),
        ATTEMPT: str(attempt),
        terminationlog.PATH: container.termination_message_path,
        terminationlog.POLICY: container.termination_message_policy,
        GRACE: str(pod.spec.termination_grace_period_seconds),
        ASKED: asked_text(pod, container.name),
    }
    if container.lifecycle is not None and container.lifecycle.pre_stop is not None:
        found[PRE_STOP] = msgspec.json.encode(container.lifecycle.pre_stop).decode()
    if container.ports:
        found[PORTS] = msgspec.json.encode(container.ports).decode()
    return found


def port_mappings(pod: Pod) -> tuple[PortMapping, ...]:
    """Return the ports of a Pod's containers; of one name within a container the first."""
    found: list[PortMapping] = []
    for container in pod.spec.containers:
        names: set[object] = set()
        for port in container.ports:
            name = port.name or (port.protocol, port.host_ip, port.container_port, port.host_port)
            if name not in names:
                names.add(name)
                found.append(
                    PortMapping(
                        protocol=port.protocol,
                        container_port=port.container_port,
                        host_port=port.host_port,
                        host_ip=port.host_ip,
                    )
                )
    return tuple(found)


def _of_pod(pod: Pod) -> LinuxResources:
    limits = pod_limits(pod)
    return LinuxResources(
        cpu_shares=limits.cpu_shares,
        cpu_quota=limits.cpu_quota or 0,
        cpu_period=limits.cpu_period,
        memory_limit=limits.memory or 0,
    )


def _env_file(ref: FileKeyRef, volumes: MountedVolumes) -> str:
    """Read a file of a volume, never one outside of it. Errors: NotYet."""
    folder = volumes.paths.get(ref.volume_name)
    if folder is None:
        raise faulty(f'cannot find the volume "{ref.volume_name}" referenced by FileKeyRef')
    try:
        with opened_within(Path(folder), ref.path) as found:
            if not stat.S_ISREG(os.fstat(found).st_mode):
                raise faulty(f'"{ref.path}" is no file of the volume "{ref.volume_name}"')
            with open(f"/proc/self/fd/{found}", encoding="utf-8") as file:
                return file.read(MAX_ENV_FILE)
    except Forbidden as error:
        raise faulty(f'"{ref.path}" leads out of the volume "{ref.volume_name}"') from error
    except (OSError, ValueError) as error:
        raise faulty(f"couldn't parse env file: {ref.path}: {error}") from error
