"""What of this machine may get in the way of an edge node; found before it joins, told as warnings.

Nothing here refuses: devices work without a container runtime, and whoever runs a kubelet beside EdgeCore may
know why. Only looks: files below /proc, /run and /sys, and whether a socket answers.
Source: KubeEdge reference, section 22.3.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

from edge.join import Check

RUNTIMES = (
    ("containerd", "run/containerd/containerd.sock"),
    ("CRI-O", "run/crio/crio.sock"),
    ("cri-dockerd", "run/cri-dockerd.sock"),
    ("containerd of k3s", "run/k3s/containerd/containerd.sock"),
)
CONTROLLERS = ("cpu", "memory", "pids")
RIVALS = ("kubelet", "kube-proxy")
SECONDS = 2.0


def machine_checks(root: Path = Path("/"), runtime: str = "") -> Iterator[Check]:
    """Look at the machine whose file system begins at `root`. Shape: `runtime` "" for the usual sockets."""
    yield _runtime(root, runtime.removeprefix("unix://").lstrip("/"))
    yield _cgroups(root)
    yield _rivals(root)


# --- container runtime --------------------------------------------------------------------------


def _runtime(root: Path, said: str) -> Check:
    faults = []
    for name, path in (("the one of edge.workloads.runtime", said),) if said else RUNTIMES:
        at = root / path
        if not at.exists():
            continue
        why = _connect(at)
        if not why:
            return Check("container runtime", f"{name} at {at}")
        faults.append(f"{name} at {at}: {why}")
    if faults:
        mend = "Start it (systemctl start containerd), or join as a user who may reach it."
        return Check("container runtime", "; ".join(faults), mend)
    mend = "Install one, e.g. apt-get install containerd; devices and telemetry need none."
    return Check("container runtime", "none found: this node can run no Pods", mend)


def _connect(path: Path) -> str:
    """Return why nobody answers at a socket, "" when somebody does."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(SECONDS)
        try:
            probe.connect(str(path))
        except OSError as error:
            return error.strerror or str(error)
    return ""


# --- cgroups --------------------------------------------------------------------------------------


def _cgroups(root: Path) -> Check:
    unified = root / "sys/fs/cgroup/cgroup.controllers"
    if unified.exists():
        return _judged("v2", set(_text(unified).split()))
    enabled = _enabled_v1(root)
    if not enabled:
        mend = "Mount /sys/fs/cgroup; in a container, give it the host's cgroups."
        return Check("cgroups", "none mounted: Pods cannot be limited", mend)
    return _judged("v1", enabled)


def _enabled_v1(root: Path) -> set[str]:
    """Controllers of the old hierarchies that are switched on and mounted."""
    rows = (line.split() for line in _text(root / "proc/cgroups").splitlines())
    names = {row[0] for row in rows if len(row) == 4 and row[3] == "1"}
    return {name for name in names if (root / "sys/fs/cgroup" / name).is_dir()}


def _judged(version: str, enabled: set[str]) -> Check:
    missing = [name for name in CONTROLLERS if name not in enabled]
    if not missing:
        return Check("cgroups", f"{version} with {', '.join(CONTROLLERS)}")
    mend = (
        "Enable them at boot, e.g. cgroup_enable=memory on the kernel's command line, and reboot."
    )
    if missing != ["memory"]:
        mend = "Enable them in the kernel, or for this container (cgroup.subtree_control)."
    return Check("cgroups", f"{version} without {', '.join(missing)}", mend)


# --- other node agents ------------------------------------------------------------------------------


def _rivals(root: Path) -> Check:
    found = sorted({name for name in _processes(root) if name in RIVALS})
    if not found:
        return Check("other node agents", "none")
    mend = f"Stop them for good: systemctl disable --now {' '.join(found)}"
    said = f"{' and '.join(found)} here: two agents answer for one machine"
    return Check("other node agents", said, mend)


def _processes(root: Path) -> Iterator[str]:
    try:
        folders = list((root / "proc").iterdir())
    except OSError:
        return
    for folder in folders:
        if folder.name.isdigit():
            yield _text(folder / "comm")


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
