"""Who containers run as, and what they may: security contexts of Pods and containers put together.

Source: Kubernetes "Configure a Security Context"; merging, paths and texts as the kubelet of 1.36.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Final, TypeVar

from edge.pods.podspec import Container, Pod, PodSecurityContext, SeccompProfile, SecurityContext
from edge.pods.ports import NotYet
from edge.pods.runtime import (
    ContainerSecurity,
    Image,
    Namespace,
    Namespaces,
    SandboxSecurity,
    Seccomp,
)
from gateway.wire.kube.names import quoted

T = TypeVar("T")

CREATE_ERROR: Final = "CreateContainerConfigError"
MAX_USER: Final = 2**31 - 1
MASKED: Final = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
READ_ONLY: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_APPARMOR_OF: Final = "container.apparmor.security.beta.kubernetes.io/"
_APPARMOR_LOCAL: Final = "localhost/"
_APPARMOR_KINDS: Final = {"runtime/default": "RuntimeDefault", "unconfined": "Unconfined"}
_CPUS: Final = Path("/sys/devices/system/cpu")


def pod_named(pod: Pod) -> str:
    """A Pod as the kubelet's messages name it."""
    return f"{pod.meta.name}_{pod.meta.namespace}({pod.uid})"


def is_privileged(container: Container) -> bool:
    own = container.security_context
    return own is not None and bool(own.privileged)


# --- namespaces -----------------------------------------------------------------------------------


def namespaces_of(pod: Pod, target_id: str = "") -> Namespaces:
    """Return whose namespaces a Pod's containers use.

    Shape:  `target_id` is the container whose processes an ephemeral one sees, where each has its own.
    """
    spec = pod.spec
    pid = Namespace.CONTAINER
    if spec.host_pid:
        pid = Namespace.NODE
    elif spec.share_process_namespace:
        pid = Namespace.POD
    elif target_id:
        pid = Namespace.TARGET
    return Namespaces(
        network=Namespace.NODE if spec.host_network else Namespace.POD,
        pid=pid,
        ipc=Namespace.NODE if spec.host_ipc else Namespace.POD,
        target_id=target_id if pid is Namespace.TARGET else "",
    )


def sandbox_security(pod: Pod) -> SandboxSecurity:
    """Return what the sandbox runs with: the least profile, so that its containers may have less."""
    own = pod.spec.security_context
    return SandboxSecurity(
        namespaces=namespaces_of(pod),
        run_as_user=own.run_as_user,
        # a group without a user is refused by containerd; nothing of a sandbox depends on it
        run_as_group=own.run_as_group if own.run_as_user is not None else None,
        supplemental_groups=_groups(own),
        privileged=any(is_privileged(each) for each in pod.containers()),
        seccomp=Seccomp(kind="RuntimeDefault"),
        selinux=dict(own.se_linux_options),
    )


def _groups(own: PodSecurityContext) -> tuple[int, ...]:
    first = () if own.fs_group is None else (own.fs_group,)
    return (*first, *own.supplemental_groups)


def sysctls_of(pod: Pod) -> dict[str, str]:
    return {each.name: each.value for each in pod.spec.security_context.sysctls}


def cannot(pod: Pod) -> str | None:
    """Return what a Pod's security context asks for that no runtime is asked for here, else None."""
    if pod.spec.host_users is False:
        return "user namespaces (hostUsers: false) are not supported by this node"
    if pod.spec.security_context.supplemental_groups_policy == "Strict":
        return "SupplementalGroupsPolicy=Strict is not supported in this node"
    return None


# --- containers -----------------------------------------------------------------------------------


def container_security(
    pod: Pod, container: Container, image: Image | None, *, target_id: str = "", profiles: Path
) -> ContainerSecurity:
    """Return what a container runs with.

    Shape:  `image` is the present image, whose user stands where none is asked for; `profiles` is the folder
            of seccomp profiles.
    Errors: NotYet (`CreateContainerConfigError`): a user that breaks `runAsNonRoot`, a profile without name.
    """
    _check_user(pod, container, image)
    own, of_pod = container.security_context or SecurityContext(), pod.spec.security_context
    user = _first(own.run_as_user, of_pod.run_as_user)
    found = ContainerSecurity(
        privileged=bool(own.privileged),
        namespaces=namespaces_of(pod, target_id),
        run_as_user=user,
        run_as_group=_first(own.run_as_group, of_pod.run_as_group),
        readonly_rootfs=bool(own.read_only_root_filesystem),
        supplemental_groups=_groups(of_pod),
        no_new_privs=own.allow_privilege_escalation is False,
        masked_paths=() if own.proc_mount == "Unmasked" else masked_paths(),
        readonly_paths=() if own.proc_mount == "Unmasked" else READ_ONLY,
        seccomp=_seccomp(own.seccomp_profile or of_pod.seccomp_profile, profiles),
        apparmor=_apparmor(pod, container),
        selinux=_first_of(own.se_linux_options, of_pod.se_linux_options),
    )
    if own.capabilities is not None:
        add, drop = tuple(own.capabilities.add), tuple(own.capabilities.drop)
        found = replace(found, capabilities_add=add, capabilities_drop=drop)
    return found if user is not None else _as_image(found, image)


def _as_image(found: ContainerSecurity, image: Image | None) -> ContainerSecurity:
    """An image that names no user runs as root."""
    if image is not None and image.uid is None and image.username:
        return replace(found, run_as_username=image.username)
    return replace(found, run_as_user=(image.uid if image is not None else None) or 0)


def _first(own: T | None, of_pod: T | None) -> T | None:
    return of_pod if own is None else own


def _first_of(own: Mapping[str, str], of_pod: Mapping[str, str]) -> dict[str, str]:
    return dict(own or of_pod)


@cache
def masked_paths() -> tuple[str, ...]:
    """Return what of /proc and /sys containers do not see on this machine."""
    throttles = (_CPUS / f"{each.name}/thermal_throttle" for each in _CPUS.glob("cpu[0-9]*"))
    return (*MASKED, *sorted(str(each) for each in throttles if each.exists()))


# --- runAsNonRoot ---------------------------------------------------------------------------------


def _check_user(pod: Pod, container: Container, image: Image | None) -> None:
    own, of_pod = container.security_context or SecurityContext(), pod.spec.security_context
    if not _first(own.run_as_non_root, of_pod.run_as_non_root):
        return
    where = f"(pod: {quoted(pod_named(pod))}, container: {container.name})"
    fault = _user_fault(_first(own.run_as_user, of_pod.run_as_user), image)
    if fault is not None:
        raise NotYet(CREATE_ERROR, f"{fault} {where}")


def _user_fault(asked: int | None, image: Image | None) -> str | None:
    if asked is not None:
        return "container's runAsUser breaks non-root policy" if asked == 0 else None
    if image is not None and image.uid is None and image.username:
        return (
            f"container has runAsNonRoot and image has non-numeric user ({image.username}),"
            " cannot verify user is non-root"
        )
    uid = (image.uid if image is not None else None) or 0
    if uid == 0:
        return "container has runAsNonRoot and image will run as root"
    if not 0 <= uid <= MAX_USER:
        return (
            f"container has runAsNonRoot and image has an invalid user id ({uid})."
            f" (Must be 1-({MAX_USER})): must be between 0 and {MAX_USER}, inclusive"
        )
    return None


# --- profiles -------------------------------------------------------------------------------------


def _seccomp(profile: SeccompProfile | None, profiles: Path) -> Seccomp:
    """Nothing said is no profile: what the kubelet does, too."""
    kind = profile.type if profile is not None else ""
    if profile is None or kind not in ("RuntimeDefault", "Localhost"):
        return Seccomp(kind="Unconfined")
    if kind == "RuntimeDefault":
        return Seccomp(kind=kind)
    if not profile.localhost_profile:
        text = "localhostProfile must be set if seccompProfile type is Localhost."
        raise NotYet(CREATE_ERROR, text)
    name = PurePosixPath(profile.localhost_profile)
    if name.is_absolute() or ".." in name.parts:
        text = f"localhostProfile {quoted(str(name))} must be a path below the folder of profiles"
        raise NotYet(CREATE_ERROR, text)
    return Seccomp(kind=kind, path=str(profiles / name))


def _apparmor(pod: Pod, container: Container) -> Seccomp | None:
    """A container's own, that of the annotation that came before the field, the Pod's, none."""
    own = container.security_context.app_armor_profile if container.security_context else None
    found = own or _annotated(pod, container) or pod.spec.security_context.app_armor_profile
    if found is None:
        return None
    if found.type not in ("RuntimeDefault", "Unconfined", "Localhost"):
        raise NotYet(CREATE_ERROR, f"unknown apparmor profile type: {quoted(found.type)}")
    if found.type == "Localhost" and not found.localhost_profile:
        raise NotYet(CREATE_ERROR, "missing localhost apparmor profile name")
    return Seccomp(kind=found.type, path=found.localhost_profile)


def _annotated(pod: Pod, container: Container) -> SeccompProfile | None:
    value = pod.meta.annotations.get(_APPARMOR_OF + container.name)
    if value is None:
        return None
    if value.startswith(_APPARMOR_LOCAL):
        name = value.removeprefix(_APPARMOR_LOCAL)
        return SeccompProfile(type="Localhost", localhost_profile=name)
    kind = _APPARMOR_KINDS.get(value)
    return SeccompProfile(type=kind) if kind else None
