"""Between the port's values and CRI v1's messages. Source: Kubernetes CRI v1 (`api.proto`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import msgspec
from cri_api.v1 import api_pb2 as pb

from edge.pods.runtime import (
    CONTAINER_NAME,
    NODE_LABEL,
    POD_NAME,
    POD_NAMESPACE,
    POD_UID,
    Auth,
    ContainerConfig,
    ContainerSecurity,
    ContainerState,
    ContainerStats,
    Device,
    FilesystemUsage,
    Image,
    LinuxResources,
    Mount,
    Namespace,
    Namespaces,
    PortMapping,
    Propagation,
    RuntimeInfo,
    Sandbox,
    SandboxConfig,
    SandboxSecurity,
    Seccomp,
    State,
)

MAX_NAMES = 100
"""Tags and digests of one image that are read; an image of more has them cut."""

_NAMESPACES = MappingProxyType(
    {
        Namespace.POD: pb.POD,
        Namespace.CONTAINER: pb.CONTAINER,
        Namespace.NODE: pb.NODE,
        Namespace.TARGET: pb.TARGET,
    }
)
_PROPAGATIONS = MappingProxyType(
    {
        Propagation.PRIVATE: pb.PROPAGATION_PRIVATE,
        Propagation.HOST_TO_CONTAINER: pb.PROPAGATION_HOST_TO_CONTAINER,
        Propagation.BIDIRECTIONAL: pb.PROPAGATION_BIDIRECTIONAL,
    }
)
_PROTOCOLS = MappingProxyType({"TCP": pb.TCP, "UDP": pb.UDP, "SCTP": pb.SCTP})
_PROFILES = MappingProxyType(
    {
        "RuntimeDefault": pb.SecurityProfile.RuntimeDefault,
        "Unconfined": pb.SecurityProfile.Unconfined,
        "Localhost": pb.SecurityProfile.Localhost,
    }
)
_STATES = MappingProxyType(
    {
        pb.CONTAINER_CREATED: State.CREATED,
        pb.CONTAINER_RUNNING: State.RUNNING,
        pb.CONTAINER_EXITED: State.EXITED,
    }
)
_SIGNALS = MappingProxyType({name: pb.Signal.Value(name) for name in pb.Signal.keys()})  # noqa: SIM118
RUNTIME_READY, NETWORK_READY = "RuntimeReady", "NetworkReady"


# --- to the runtime ---------------------------------------------------------------------------------


def sandbox_config(config: SandboxConfig, node: str) -> pb.PodSandboxConfig:
    """Return the message, with the labels by which we know our own."""
    labels = {POD_NAME: config.name, POD_NAMESPACE: config.namespace, POD_UID: config.uid}
    made = pb.PodSandboxConfig(
        metadata=pb.PodSandboxMetadata(
            name=config.name, uid=config.uid, namespace=config.namespace, attempt=config.attempt
        ),
        hostname=config.hostname,
        log_directory=config.log_directory,
        port_mappings=[_port(each) for each in config.ports],
        labels={**labels, **config.labels, NODE_LABEL: node},
        annotations=config.annotations,
        linux=pb.LinuxPodSandboxConfig(
            cgroup_parent=config.cgroup_parent,
            sysctls=config.sysctls,
            security_context=_sandbox_security(config.security),
        ),
    )
    if config.dns is not None:
        made.dns_config.servers.extend(config.dns.servers)
        made.dns_config.searches.extend(config.dns.searches)
        made.dns_config.options.extend(config.dns.options)
    if config.overhead is not None:
        made.linux.overhead.CopyFrom(resources(config.overhead))
    if config.resources is not None:
        made.linux.resources.CopyFrom(resources(config.resources))
    return made


def container_config(
    config: ContainerConfig, sandbox: SandboxConfig, node: str
) -> pb.ContainerConfig:
    """Return the message, with the labels by which we know our own."""
    labels = {
        CONTAINER_NAME: config.name,
        POD_NAME: sandbox.name,
        POD_NAMESPACE: sandbox.namespace,
        POD_UID: sandbox.uid,
    }
    return pb.ContainerConfig(
        metadata=pb.ContainerMetadata(name=config.name, attempt=config.attempt),
        image=pb.ImageSpec(image=config.image, user_specified_image=config.user_image),
        command=config.command,
        args=config.args,
        working_dir=config.working_dir,
        envs=[pb.KeyValue(key=key, value=value) for key, value in config.envs],
        mounts=[_mount(each) for each in config.mounts],
        devices=[_device(each) for each in config.devices],
        labels={**labels, **config.labels, NODE_LABEL: node},
        annotations=config.annotations,
        log_path=config.log_path,
        stdin=config.stdin,
        stdin_once=config.stdin_once,
        tty=config.tty,
        linux=pb.LinuxContainerConfig(
            resources=resources(config.resources),
            security_context=_container_security(config.security),
        ),
        stop_signal=_SIGNALS.get(config.stop_signal, pb.RUNTIME_DEFAULT),
    )


def resources(wanted: LinuxResources) -> pb.LinuxContainerResources:
    return pb.LinuxContainerResources(
        cpu_shares=wanted.cpu_shares,
        cpu_quota=wanted.cpu_quota,
        cpu_period=wanted.cpu_period,
        memory_limit_in_bytes=wanted.memory_limit,
        oom_score_adj=wanted.oom_score_adj,
        cpuset_cpus=wanted.cpuset_cpus,
        cpuset_mems=wanted.cpuset_mems,
        hugepage_limits=[
            pb.HugepageLimit(page_size=size, limit=limit) for size, limit in wanted.hugepage_limits
        ],
        unified=wanted.unified,
    )


def auth_config(auth: Auth) -> pb.AuthConfig:
    return pb.AuthConfig(
        username=auth.username,
        password=auth.password,
        auth=auth.auth,
        server_address=auth.server_address,
        identity_token=auth.identity_token,
        registry_token=auth.registry_token,
    )


def _port(port: PortMapping) -> pb.PortMapping:
    return pb.PortMapping(
        protocol=_PROTOCOLS.get(port.protocol, pb.TCP),
        container_port=port.container_port,
        host_port=port.host_port,
        host_ip=port.host_ip,
    )


def _mount(mount: Mount) -> pb.Mount:
    return pb.Mount(
        container_path=mount.container_path,
        host_path=mount.host_path,
        readonly=mount.readonly,
        selinux_relabel=mount.selinux_relabel,
        propagation=_PROPAGATIONS[mount.propagation],
    )


def _device(device: Device) -> pb.Device:
    return pb.Device(
        container_path=device.container_path,
        host_path=device.host_path,
        permissions=device.permissions,
    )


def _sandbox_security(wanted: SandboxSecurity) -> pb.LinuxSandboxSecurityContext:
    return pb.LinuxSandboxSecurityContext(
        namespace_options=_namespaces(wanted.namespaces),
        selinux_options=_selinux(wanted.selinux),
        run_as_user=_number(wanted.run_as_user),
        run_as_group=_number(wanted.run_as_group),
        readonly_rootfs=wanted.readonly_rootfs,
        supplemental_groups=wanted.supplemental_groups,
        privileged=wanted.privileged,
        seccomp=_profile(wanted.seccomp),
    )


def _container_security(wanted: ContainerSecurity) -> pb.LinuxContainerSecurityContext:
    return pb.LinuxContainerSecurityContext(
        capabilities=pb.Capability(
            add_capabilities=wanted.capabilities_add, drop_capabilities=wanted.capabilities_drop
        ),
        privileged=wanted.privileged,
        namespace_options=_namespaces(wanted.namespaces),
        selinux_options=_selinux(wanted.selinux),
        run_as_user=_number(wanted.run_as_user),
        run_as_username=wanted.run_as_username,
        run_as_group=_number(wanted.run_as_group),
        readonly_rootfs=wanted.readonly_rootfs,
        supplemental_groups=wanted.supplemental_groups,
        no_new_privs=wanted.no_new_privs,
        masked_paths=wanted.masked_paths,
        readonly_paths=wanted.readonly_paths,
        seccomp=_profile(wanted.seccomp),
        apparmor=_profile(wanted.apparmor),
    )


def _namespaces(wanted: Namespaces) -> pb.NamespaceOption:
    return pb.NamespaceOption(
        network=_NAMESPACES[wanted.network],
        pid=_NAMESPACES[wanted.pid],
        ipc=_NAMESPACES[wanted.ipc],
        target_id=wanted.target_id,
    )


def _selinux(wanted: Mapping[str, str]) -> pb.SELinuxOption | None:
    if not wanted:
        return None
    return pb.SELinuxOption(
        user=wanted.get("user", ""),
        role=wanted.get("role", ""),
        type=wanted.get("type", ""),
        level=wanted.get("level", ""),
    )


def _profile(wanted: Seccomp | None) -> pb.SecurityProfile | None:
    if wanted is None:
        return None
    return pb.SecurityProfile(profile_type=_PROFILES[wanted.kind], localhost_ref=wanted.path)


def _number(value: int | None) -> pb.Int64Value | None:
    return None if value is None else pb.Int64Value(value=value)


# --- from the runtime -------------------------------------------------------------------------------


def runtime_info(version: pb.VersionResponse, status: pb.RuntimeStatus) -> RuntimeInfo:
    found = {each.type: each for each in status.conditions}
    runtime = found.get(RUNTIME_READY, pb.RuntimeCondition())
    network = found.get(NETWORK_READY, pb.RuntimeCondition())
    return RuntimeInfo(
        name=version.runtime_name,
        version=version.runtime_version,
        api_version=version.runtime_api_version,
        is_ready=runtime.status,
        is_network_ready=network.status,
        runtime_message=_why(runtime),
        network_message=_why(network),
    )


def sandbox_image(info: Mapping[str, str]) -> str:
    """Return the image of sandboxes from a verbose status (containerd's `sandboxImage`), "" without one."""
    try:
        found = msgspec.json.decode(info.get("config") or "{}")
    except msgspec.DecodeError:
        return ""
    name = found.get("sandboxImage") if isinstance(found, dict) else None
    return name if isinstance(name, str) else ""


def _why(condition: pb.RuntimeCondition) -> str:
    """Return reason and message as the kubelet shows them in the Ready condition; "" for a true one."""
    if condition.status:
        return ""
    reason, message = condition.reason, condition.message
    return f"{condition.type}=false reason:{reason} message:{message}"


def sandbox(item: pb.PodSandbox) -> Sandbox:
    return _sandbox(item, ())


def sandbox_status(status: pb.PodSandboxStatus) -> Sandbox:
    ips = [status.network.ip, *(each.ip for each in status.network.additional_ips)]
    return _sandbox(status, ips)


def _sandbox(item: pb.PodSandbox | pb.PodSandboxStatus, ips: Iterable[str]) -> Sandbox:
    return Sandbox(
        id=item.id,
        name=item.metadata.name,
        namespace=item.metadata.namespace,
        uid=item.metadata.uid,
        attempt=item.metadata.attempt,
        is_ready=item.state == pb.SANDBOX_READY,
        created_at=item.created_at,
        ips=tuple(each for each in ips if each),
        labels=dict(item.labels),
        annotations=dict(item.annotations),
    )


def container(item: pb.Container) -> ContainerState:
    """Read a container of a list; its `image_id` is the id that images are listed by."""
    return ContainerState(
        id=item.id,
        sandbox_id=item.pod_sandbox_id,
        name=item.metadata.name,
        attempt=item.metadata.attempt,
        state=_STATES.get(item.state, State.UNKNOWN),
        created_at=item.created_at,
        image=item.image.user_specified_image or item.image.image,
        image_ref=item.image_ref,
        image_id=item.image_id or item.image_ref,
        labels=dict(item.labels),
        annotations=dict(item.annotations),
    )


def image_names(item: pb.Container) -> tuple[str, ...]:
    """Return all that a container calls its image."""
    return item.image.image, item.image.user_specified_image, item.image_ref, item.image_id


def container_status(status: pb.ContainerStatus, sandbox_id: str) -> ContainerState:
    return ContainerState(
        id=status.id,
        sandbox_id=sandbox_id,
        name=status.metadata.name,
        attempt=status.metadata.attempt,
        state=_STATES.get(status.state, State.UNKNOWN),
        created_at=status.created_at,
        image=status.image.user_specified_image or status.image.image,
        image_ref=status.image_ref,
        image_id=status.image_ref,
        labels=dict(status.labels),
        annotations=dict(status.annotations),
        started_at=_started(status),
        finished_at=status.finished_at,
        exit_code=status.exit_code,
        reason=status.reason,
        message=status.message,
        log_path=status.log_path,
    )


def _started(status: pb.ContainerStatus) -> int:
    """Return when a container started, never after its end.

    containerd takes the start's time after its shim has answered, the end's from the shim: a program
    that ends at once would have ended before it began.
    """
    if status.finished_at > 0:
        return min(status.started_at, status.finished_at)
    return status.started_at


def image(item: pb.Image) -> Image:
    return Image(
        id=item.id,
        tags=tuple(item.repo_tags[:MAX_NAMES]),
        digests=tuple(item.repo_digests[:MAX_NAMES]),
        size=item.size,
        uid=item.uid.value if item.HasField("uid") else None,
        username=item.username,
        pinned=item.pinned,
    )


def container_stats(item: pb.ContainerStats) -> ContainerStats:
    memory, layer = item.memory, item.writable_layer
    return ContainerStats(
        id=item.attributes.id,
        labels=dict(item.attributes.labels),
        at=item.cpu.timestamp or memory.timestamp,
        cpu_nanoseconds=_told(item.cpu, "usage_core_nano_seconds"),
        memory_working_set=_told(memory, "working_set_bytes"),
        memory_usage=_told(memory, "usage_bytes"),
        memory_rss=_told(memory, "rss_bytes"),
        memory_page_faults=_told(memory, "page_faults"),
        memory_major_page_faults=_told(memory, "major_page_faults"),
        rootfs_bytes=_told(layer, "used_bytes"),
        rootfs_inodes=_told(layer, "inodes_used"),
    )


def _told(usage: pb.CpuUsage | pb.MemoryUsage | pb.FilesystemUsage, name: str) -> int | None:
    """Return a number of a usage; None where the runtime says nothing."""
    known: bool = usage.HasField(name)  # type: ignore[arg-type]  # a name checked by the tests
    return int(getattr(usage, name).value) if known else None


def filesystem(item: pb.FilesystemUsage) -> FilesystemUsage:
    return FilesystemUsage(
        mountpoint=item.fs_id.mountpoint,
        used_bytes=item.used_bytes.value,
        used_inodes=item.inodes_used.value,
    )
