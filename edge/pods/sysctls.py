"""Which sysctls a Pod may set: those that are its own and touch no other Pod. Pure.

Source: Kubernetes, "Using sysctls in a Kubernetes Cluster"; behaviour of kubelet 1.36.
"""

from __future__ import annotations

from collections.abc import Iterable

from edge.pods.podspec import PodSpec

Kernel = tuple[int, int]
FORBIDDEN = "SysctlForbidden"
IPC, NET = "IPC", "Net"
_SAFE: tuple[tuple[str, Kernel], ...] = (
    ("kernel.shm_rmid_forced", (0, 0)),
    ("net.ipv4.ip_local_port_range", (0, 0)),
    ("net.ipv4.tcp_syncookies", (0, 0)),
    ("net.ipv4.ping_group_range", (0, 0)),
    ("net.ipv4.ip_unprivileged_port_start", (0, 0)),
    ("net.ipv4.ip_local_reserved_ports", (3, 16)),
    ("net.ipv4.tcp_keepalive_time", (4, 5)),
    ("net.ipv4.tcp_fin_timeout", (4, 6)),
    ("net.ipv4.tcp_keepalive_intvl", (4, 5)),
    ("net.ipv4.tcp_keepalive_probes", (4, 5)),
    ("net.ipv4.tcp_rmem", (4, 15)),
    ("net.ipv4.tcp_wmem", (4, 15)),
)
"""Safe ones, and the kernel from which on they are a Pod's own."""
_SWAPPED = str.maketrans("/.", "./")
_OF_IPC = ("kernel.sem", "kernel.shm", "kernel.msg", "fs.mqueue.")


def namespace_of(name: str) -> str:
    """Return which namespace a sysctl (or the beginning of its name) belongs to, "" for the machine's."""
    if name.startswith(_OF_IPC):
        return IPC
    return NET if name.startswith("net.") else ""


def normalized(name: str) -> str:
    """Return a name with dots: `net/ipv4/conf/eth0.1/x` is `net.ipv4.conf.eth0/1.x`."""
    first = min((at for at in (name.find("."), name.find("/")) if at >= 0), default=-1)
    if first < 0 or name[first] == ".":
        return name
    return name.translate(_SWAPPED)


def forbidden_sysctl(spec: PodSpec, kernel: Kernel, allowed: Iterable[str] = ()) -> str:
    """Return why a Pod's sysctls are not allowed, empty when they are.

    Shape:  `allowed` are more names, or beginnings with `*`, that the operator allows.
    """
    safe = [name for name, since in _SAFE if kernel >= since]
    known = [normalized(name) for name in (*safe, *allowed)]
    for each in spec.security_context.sysctls:
        fault = _fault(normalized(each.name), known, spec)
        if fault:
            return f"forbidden sysctl: {fault}"
    return ""


def _fault(name: str, known: Iterable[str], spec: PodSpec) -> str:
    namespace = namespace_of(name)
    if not namespace or not any(_covers(each, name) for each in known):
        return f'"{name}" not allowlisted'
    if (namespace == NET and spec.host_network) or (namespace == IPC and spec.host_ipc):
        return f'"{name}" not allowed with host {namespace} enabled'
    return ""


def _covers(known: str, name: str) -> bool:
    return name.startswith(known[:-1]) if known.endswith("*") else name == known
