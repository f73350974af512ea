"""What keeps Pods from running on this machine, each with the command or the lines of a file that mend it.

Only looks: files, sockets, the runtime's own words. Source: containerd's and runc's documentation; what was
seen of runc without CAP_SYS_RESOURCE and of overlayfs on overlayfs.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from edge.network.cni import BRIDGE, FILE, bridge_left, configured_subnets
from edge.network.runtimefiles import (
    CNI_FOLDER,
    PLUGIN_FOLDERS,
    RuntimeFiles,
    read_runtime_files,
    told_by,
)
from edge.pods.sockets import SOCKETS, find_endpoint
from edge.verdicts import FAIL, OK, WARN, Verdict
from gateway.config.edge import Edge
from gateway.errors import GatewayError

if TYPE_CHECKING:
    from edge.pods.runtime import RuntimeInfo

OLDEST = (1, 6)
SYS_RESOURCE, NET_ADMIN, NET_BIND = 24, 12, 10
NEEDED_PLUGINS = ("bridge", "host-local", "loopback")
LOW_DISK, LOW_INODES = 0.15, 0.05
"""Parts of the images' disk below which the node is under pressure."""
SECONDS = 5.0
RESTART = "systemctl restart containerd"
DEFAULT_ROOT = "/var/lib/containerd"
PORTS = {"docker.io": "registry-1.docker.io"}


def workload_checks(settings: Edge, root: Path = Path("/")) -> Iterator[Verdict]:
    """Look at all that Pods need; one line where this node is to run none."""
    workloads = settings.workloads
    if workloads.enabled == "off":
        yield Verdict("workloads", OK, "edge.workloads.enabled is off: this node runs no Pods")
        return
    files = read_runtime_files(root)
    bad = FAIL if workloads.enabled == "on" else WARN
    endpoint = find_endpoint(workloads.runtime)
    reached = list(_runtime(endpoint, files, bad))
    yield from reached
    if endpoint is None and bad == WARN:
        return  # devices and telemetry need none of the rest
    info = _info(endpoint) if reached[-1].state == OK and endpoint is not None else None
    if isinstance(info, str):
        yield _no_cri(info, files)
    elif info is not None and endpoint is not None:
        yield from _told(info)
        files = told_by(files, _configuration(endpoint))
    yield from _cni(files, root)
    yield cgroup_verdict(files, root)
    yield oom_verdict(files, root)
    yield from disk_verdicts(files, root)
    yield from _packets(root)
    yield from _rights(settings, root)
    if endpoint is not None and info is not None and not isinstance(info, str):
        yield _pause(endpoint, files)


def runtime_files(runtime: str) -> RuntimeFiles:
    """Return what the runtime's files say, and itself where it runs. Shape: the setting's text."""
    files = read_runtime_files()
    endpoint = find_endpoint(runtime)
    if importlib.util.find_spec("cri_api") is None or endpoint is None:
        return files
    if _connect(Path(endpoint.removeprefix("unix://"))) is not None:
        return files
    return told_by(files, _configuration(endpoint))


# --- the runtime ------------------------------------------------------------------------------------


def _runtime(endpoint: str | None, files: RuntimeFiles, bad: str) -> Iterator[Verdict]:
    if importlib.util.find_spec("cri_api") is None:
        mend = "pip install 'twinspan[workloads]'"
        yield Verdict("runtime library", bad, "not installed: no Pods are run", mend)
        return
    if endpoint is None:
        said = f"no container runtime: none of {', '.join(SOCKETS)} is there"
        mend = (
            "apt-get install containerd containernetworking-plugins && systemctl start containerd"
        )
        yield Verdict("container runtime", bad, said, mend)
        return
    path = Path(endpoint.removeprefix("unix://"))
    why = _connect(path)
    if why is None:
        yield Verdict("container runtime", OK, f"{path} answers")
    elif isinstance(why, PermissionError):
        mend = "run twinspan as root (sudo)"
        yield Verdict("container runtime", FAIL, f"{path}: no right to use it", mend)
    else:
        mend = f"systemctl start {'crio' if files.kind == 'CRI-O' else 'containerd'}"
        yield Verdict("container runtime", FAIL, f"{path}: {why.strerror or why}", mend)


def _connect(path: Path) -> OSError | None:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(SECONDS)
        try:
            probe.connect(str(path))
        except OSError as error:
            return error
    return None


def _info(endpoint: str) -> RuntimeInfo | str:
    """Return what the runtime says of itself, or why it does not over CRI."""
    from edge.pods.cri import CriRuntime

    async def ask() -> RuntimeInfo:
        runtime = CriRuntime(endpoint, "doctor")
        try:
            return await runtime.info()
        finally:
            await runtime.close()

    try:
        return asyncio.run(ask())
    except GatewayError as error:
        return error.message


def _configuration(endpoint: str) -> str:
    """Return the settings that a running runtime works by, "" where it does not say."""
    from edge.pods.cri import CriRuntime

    async def ask() -> str:
        runtime = CriRuntime(endpoint, "doctor")
        try:
            return await runtime.configuration()
        finally:
            await runtime.close()

    try:
        return asyncio.run(ask())
    except GatewayError:
        return ""


def _no_cri(why: str, files: RuntimeFiles) -> Verdict:
    if files.is_cri_disabled:
        mend = f"sed -i '/^disabled_plugins/d' {files.file} && {RESTART}"
        text = f"CRI is switched off in {files.file} (as Docker's packages do): {why}"
        return Verdict("CRI", FAIL, text, mend)
    mend = f"look at: journalctl -u {_unit(files)}"
    if why.startswith("unknown service"):
        mend = (
            f"remove cri from disabled_plugins in the configuration it was started with; {RESTART}"
        )
    return Verdict("CRI", FAIL, f"does not answer: {why}", mend)


def _unit(files: RuntimeFiles) -> str:
    return "crio" if files.kind == "CRI-O" else "containerd"


def _told(info: RuntimeInfo) -> Iterator[Verdict]:
    is_old = info.name == "containerd" and _version(info.version) < OLDEST
    mend = "apt-get install containerd (1.6 or newer)" if is_old else ""
    yield Verdict("CRI", WARN if is_old else OK, f"{info.name} {info.version}", mend)
    if not info.is_ready:
        yield Verdict("runtime ready", FAIL, info.runtime_message, "journalctl -u containerd")
    if not info.is_network_ready:
        yield Verdict("network ready", FAIL, info.network_message, "twinspan edge setup-cni")


def _version(text: str) -> tuple[int, ...]:
    parts = text.removeprefix("v").split(".")[:2]
    return tuple(int(part) for part in parts if part.isdigit()) or OLDEST


# --- CNI --------------------------------------------------------------------------------------------


def _cni(files: RuntimeFiles, root: Path) -> Iterator[Verdict]:
    folders = [root / each.lstrip("/") for each in files.plugin_dirs or PLUGIN_FOLDERS]
    lacks = {each: [n for n in NEEDED_PLUGINS if not (each / n).is_file()] for each in folders}
    best = min(lacks, key=lambda each: len(lacks[each]))
    if not lacks[best]:
        yield Verdict("CNI plugins", OK, str(best))
    else:
        elsewhere = _elsewhere(root, set(folders))
        mend = "apt-get install containernetworking-plugins"
        if elsewhere is not None:
            mend = f'set bin_dir = "{elsewhere}" in {files.section[:-1]}.cni] of {files.file}; {RESTART}'
        missing = ", ".join(lacks[best])
        yield Verdict("CNI plugins", FAIL, f"missing in {best}: {missing}", mend)
    folder = root / (files.conf_dir or CNI_FOLDER).lstrip("/")
    try:
        found = sorted(
            p.name for p in folder.iterdir() if p.suffix in (".conf", ".conflist", ".json")
        )
    except OSError:
        found = []
    if not found:
        mend = "twinspan edge setup-cni"
        yield Verdict("CNI configuration", FAIL, f"{folder} has none: Pods get no network", mend)
    elif FILE in found and found[0] != FILE:
        mend = f"mv {folder / found[0]} /root/"
        yield Verdict("CNI configuration", WARN, f"{found[0]} comes before {FILE} and wins", mend)
    else:
        yield Verdict("CNI configuration", OK, str(folder / found[0]))
    for subnet in configured_subnets(folder)[:1] if found[:1] == [FILE] else []:
        stale = bridge_left(subnet, root)
        if stale is not None:
            yield Verdict("bridge", FAIL, *stale)


def _elsewhere(root: Path, folders: set[Path]) -> Path | None:
    return next(
        (
            root / each
            for each in PLUGIN_FOLDERS
            if root / each not in folders
            and all((root / each / name).is_file() for name in NEEDED_PLUGINS)
        ),
        None,
    )


# --- cgroups and kills ------------------------------------------------------------------------------


def cgroup_verdict(files: RuntimeFiles, root: Path) -> Verdict:
    """Judge whether runtime and machine agree on who makes cgroups."""
    version = 2 if (root / "sys/fs/cgroup/cgroup.controllers").exists() else 1
    has_systemd = (root / "run/systemd/system").is_dir()
    driver = "systemd" if files.has_systemd_cgroups else "cgroupfs"
    said = f"v{version}, the runtime's driver is {driver}"
    options = f"{files.section[:-1]}.containerd.runtimes.runc.options]"
    name = files.file or "/etc/containerd/config.toml"
    if files.kind != "containerd":
        return Verdict("cgroup driver", OK, said)
    if files.has_systemd_cgroups and not has_systemd:
        mend = f"{name}: SystemdCgroup = false in {options}; restart containerd"
        return Verdict("cgroup driver", FAIL, f"{said}, but systemd does not run here", mend)
    if version == 2 and has_systemd and not files.has_systemd_cgroups:
        mend = f"{name}: SystemdCgroup = true in {options}; {RESTART}"
        return Verdict("cgroup driver", WARN, f"{said}: two managers of one tree", mend)
    return Verdict("cgroup driver", OK, said)


def oom_verdict(files: RuntimeFiles, root: Path) -> Verdict:
    """Judge whether the runtime can protect its sandboxes from the kernel's killer, as it wants to."""
    name = "oom_score_adj"
    if files.restricts_oom_score:
        return Verdict(name, OK, "the runtime keeps within its rights")
    if _has(SYS_RESOURCE, root):
        return Verdict(name, OK, "CAP_SYS_RESOURCE is there")
    at = files.file or "/etc/containerd/config.toml"
    mend = f"{at}: restrict_oom_score_adj = true in {files.section}; {RESTART}"
    text = "without CAP_SYS_RESOURCE no sandbox starts (\"can't get final child's PID from pipe\")"
    return Verdict(name, FAIL, text, mend)


def _has(capability: int, root: Path, field: str = "CapBnd") -> bool:
    """Say whether a right is within reach on this machine; unknown counts as there."""
    try:
        lines = (root / "proc/self/status").read_text().splitlines()
    except OSError:
        return True
    found = next((line.split()[1] for line in lines if line.startswith(f"{field}:")), "")
    return bool(int(found, 16) >> capability & 1) if found else True


# --- disk -------------------------------------------------------------------------------------------


def disk_verdicts(files: RuntimeFiles, root: Path) -> Iterator[Verdict]:
    """Judge the images' disk: what it is, and what is left."""
    folder = root / (files.root or DEFAULT_ROOT).lstrip("/")
    nearest = next(each for each in (folder, *folder.parents) if each.exists())
    if files.snapshotter == "overlayfs":
        yield _overlay(files, nearest, root)
    try:
        found = os.statvfs(nearest)
    except OSError as error:
        yield Verdict("images' disk", WARN, f"{folder}: {error.strerror}", "run it as root")
        return
    free = found.f_bavail / max(1, found.f_blocks)
    inodes = found.f_favail / found.f_files if found.f_files else 1.0
    text = f"{folder}: {found.f_bavail * found.f_frsize // 2**20} MiB free ({free:.0%})"
    if free < LOW_DISK:
        mend = "make room, e.g. crictl rmi --prune; images are removed from 85 % on anyhow"
        yield Verdict("images' disk", WARN, f"{text}: Pods will be evicted", mend)
    elif inodes < LOW_INODES:
        mend = "remove small files; df -i shows where"
        yield Verdict("images' disk", WARN, f"{folder}: {inodes:.0%} of inodes left", mend)
    else:
        yield Verdict("images' disk", OK, f"{text}, {inodes:.0%} of inodes")


def _overlay(files: RuntimeFiles, folder: Path, root: Path) -> Verdict:
    try:
        known = (root / "proc/filesystems").read_text().split()
        mounts = (root / "proc/self/mounts").read_text().splitlines()
    except OSError:
        return Verdict("snapshotter", OK, files.snapshotter)
    lines = f'snapshotter = "native" in {files.section[:-1]}.containerd]'
    mend = f"{files.file or '/etc/containerd/config.toml'}: {lines}; {RESTART}"
    if "overlay" not in known:
        return Verdict(
            "snapshotter", FAIL, "overlayfs is not in this kernel", f"modprobe overlay, or {mend}"
        )
    points = [(words[1], words[2]) for words in map(str.split, mounts) if len(words) > 2]
    place = Path("/") / folder.relative_to(root)
    holding = [p for p in points if place.is_relative_to(p[0])]
    kind = max(holding, key=lambda each: len(each[0]))[1] if holding else ""
    if kind == "overlay":
        return Verdict("snapshotter", FAIL, f"{folder} is on overlayfs itself", mend)
    return Verdict("snapshotter", OK, f"overlayfs on {kind or 'an unknown file system'}")


# --- packets and rights -----------------------------------------------------------------------------


def _packets(root: Path) -> Iterator[Verdict]:
    if shutil.which("iptables") is None:
        text = "not there: Pods reach nothing beyond this machine, host ports do not work"
        yield Verdict("iptables", FAIL, text, "apt-get install iptables")
    else:
        yield Verdict("iptables", OK, "there")
        if _drops_forwarded():
            mend = f"iptables -I FORWARD -i {BRIDGE} -j ACCEPT; iptables -I FORWARD -o {BRIDGE} -j ACCEPT"
            yield Verdict("forwarding", WARN, "the chain FORWARD drops (as Docker sets it)", mend)
    try:
        forwards = (root / "proc/sys/net/ipv4/ip_forward").read_text().strip() == "1"
    except OSError:
        forwards = True
    mend = "" if forwards else "sysctl -w net.ipv4.ip_forward=1"
    said = "on" if forwards else "off: the bridge plugin switches it on with the first Pod"
    yield Verdict("ip_forward", OK if forwards else WARN, said, mend)


def _drops_forwarded() -> bool:
    try:
        done = subprocess.run(
            ["iptables", "-S", "FORWARD"],  # noqa: S607  wherever it is
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    lines = done.stdout.splitlines()
    return "-P FORWARD DROP" in lines and not any(
        BRIDGE in line and line.endswith("-j ACCEPT") for line in lines
    )


def _rights(settings: Edge, root: Path) -> Iterator[Verdict]:
    """Judge whether cluster DNS and Services can be served."""
    if settings.network.dns == "off" and settings.network.services == "off":
        return
    name = "cluster DNS and Services"
    lacking = [
        text
        for number, text in ((NET_ADMIN, "CAP_NET_ADMIN"), (NET_BIND, "CAP_NET_BIND_SERVICE"))
        if not _has(number, root, "CapEff")
    ]
    if lacking:
        text = f"this user lacks {' and '.join(lacking)}: Pods get neither"
        yield Verdict(name, WARN, text, "run twinspan as root (sudo)")
    elif shutil.which("ip") is None:
        yield Verdict(name, WARN, "the program ip is missing", "apt-get install iproute2")
    else:
        yield Verdict(name, OK, "the rights are there")


# --- the pause image --------------------------------------------------------------------------------


def _pause(endpoint: str, files: RuntimeFiles) -> Verdict:
    """Judge whether the image of sandboxes is there, or can be had."""
    from edge.pods.cri import CriRuntime

    name = files.sandbox_image
    if not name:
        return Verdict("pause image", OK, "the runtime's own choice")

    async def ask() -> bool:
        runtime = CriRuntime(endpoint, "doctor")
        try:
            return await runtime.image(name) is not None
        finally:
            await runtime.close()

    try:
        if asyncio.run(ask()):
            return Verdict("pause image", OK, f"{name} is here")
    except GatewayError as error:
        return Verdict("pause image", WARN, error.message, "")
    why = registry_fault(name)
    if not why:
        return Verdict("pause image", OK, f"{name} is not here yet; its registry answers")
    mend = (
        f"ctr -n k8s.io images import pause.tar (from a machine that has {name}), or sandbox_image in"
        f" {files.section} of {files.file}"
    )
    return Verdict("pause image", FAIL, f"{name} is not here, and {why}: no Pod starts", mend)


def registry_fault(image: str) -> str:
    """Return why an image's registry cannot be reached, "" when it answers."""
    first = image.partition("/")[0]
    host = first if "." in first or ":" in first or first == "localhost" else "docker.io"
    host, _, port = PORTS.get(host, host).partition(":")
    is_here = host in ("localhost", "127.0.0.1")
    number = int(port) if port.isdigit() else 80 if is_here else 443
    try:
        socket.create_connection((host, number), SECONDS).close()
    except OSError as error:
        return f"{host}:{number} does not answer ({error})"
    return ""
