"""Settings of edged: Pods of this node, run by a container runtime."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Workloads:
    """Pods of this node."""

    enabled: str = "auto"
    """`auto`: when a container runtime with CRI answers at start; `on`: always, the node is not ready
    without one; `off`: never."""
    runtime: str = ""
    """CRI socket, `unix:///run/containerd/containerd.sock`; empty takes the first that is there of
    containerd's and CRI-O's."""
    root: str = ""
    """Folder of the Pods' volumes; empty takes `<data-dir>/edge/pods`."""
    logs: str = "/var/log/pods"
    """Folder of the containers' logs."""
    max_pods: int = 110
    """Pods at a time; more are refused with `OutOfpods`."""
    labels: dict[str, str] = field(default_factory=dict)
    """More labels of this Node."""
