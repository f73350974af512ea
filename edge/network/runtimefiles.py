"""What the container runtime's own configuration says: where CNI is, and what may keep Pods from starting.

Files, and what a running containerd tells of itself (`told_by`), which counts more: it may have been started
with another file. Source: containerd's CRI plugin configuration, versions 2 and 3, and its verbose status;
CRI-O's `crio.conf`.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

CONTAINERD_FILES = (
    "etc/containerd/config.toml",
    "var/lib/rancher/k3s/agent/etc/containerd/config.toml",
)
CRIO_FILE, CRIO_FOLDER = "etc/crio/crio.conf", "etc/crio/crio.conf.d"
CNI_FOLDER = "etc/cni/net.d"
PLUGIN_FOLDERS = ("usr/lib/cni", "opt/cni/bin", "usr/libexec/cni")
MAX_FILE = 1_048_576
CRI_OLD, CRI_NEW = "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"
CRI_IMAGES = "io.containerd.cri.v1.images"


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeFiles:
    """What was found; empty and None for what nobody says.

    Shape:  `file` "" where there is no file; `fault` why it cannot be read.
    """

    kind: str = "containerd"
    file: str = ""
    fault: str = ""
    version: int = 2
    conf_dir: str = ""
    plugin_dirs: tuple[str, ...] = ()
    is_cri_disabled: bool = False
    restricts_oom_score: bool = False
    has_systemd_cgroups: bool = False
    sandbox_image: str = ""
    snapshotter: str = "overlayfs"
    root: str = ""
    is_told: bool = False
    """The running runtime said so itself."""

    @property
    def section(self) -> str:
        """Return the heading of the CRI plugin's settings."""
        name = CRI_NEW if self.version >= 3 else CRI_OLD
        return f'[plugins."{name}"]'


def read_runtime_files(root: Path = Path("/")) -> RuntimeFiles:
    """Return what the first runtime says whose configuration is on this machine."""
    for name in CONTAINERD_FILES:
        if (root / name).is_file():
            return _containerd(root / name)
    crio = root / CRIO_FILE
    if crio.is_file() or (root / CRIO_FOLDER).is_dir():
        return _crio(root, crio)
    return RuntimeFiles()


def told_by(files: RuntimeFiles, config: str) -> RuntimeFiles:
    """Return what a running containerd says of itself, in place of what its files say.

    Shape:  `config` as in the verbose status of CRI: JSON; anything else changes nothing.
    """
    try:
        cri = json.loads(config)
    except ValueError:
        return files
    if files.kind != "containerd" or not isinstance(cri, dict) or "containerd" not in cri:
        return files
    cni, engine = _part(cri, "cni"), _part(cri, "containerd")
    options = _part(
        _part(_part(engine, "runtimes"), _text(engine, "defaultRuntimeName")), "options"
    )
    systemd = cri.get("systemdCgroup") is True or options.get("SystemdCgroup") is True
    folders = cni.get("binDirs") or [cni.get("binDir")]
    return replace(
        files,
        conf_dir=_text(cni, "confDir") or files.conf_dir,
        plugin_dirs=tuple(f for f in folders if isinstance(f, str) and f) or files.plugin_dirs,
        restricts_oom_score=cri.get("restrictOOMScoreAdj") is True,
        has_systemd_cgroups=systemd,
        sandbox_image=_text(cri, "sandboxImage") or files.sandbox_image,
        snapshotter=_text(engine, "snapshotter") or files.snapshotter,
        root=_text(cri, "containerdRootDir") or files.root,
        is_told=True,
    )


def _containerd(file: Path) -> RuntimeFiles:
    table, fault = _toml(file)
    if fault:
        return RuntimeFiles(file=str(file), fault=fault)
    plugins = _part(table, "plugins")
    cri = _part(plugins, CRI_NEW) or _part(plugins, CRI_OLD)
    images = _part(plugins, CRI_IMAGES)
    cni, engine = _part(cri, "cni"), _part(cri, "containerd")
    folders = cni.get("bin_dirs") or [cni.get("bin_dir")]
    disabled = table.get("disabled_plugins")
    version = table.get("version")
    return RuntimeFiles(
        file=str(file),
        version=version if isinstance(version, int) else 1,
        conf_dir=_text(cni, "conf_dir"),
        plugin_dirs=tuple(f for f in folders if isinstance(f, str) and f)
        if isinstance(folders, list)
        else (),
        is_cri_disabled=isinstance(disabled, list)
        and any(name in ("cri", CRI_OLD, CRI_NEW) for name in disabled),
        restricts_oom_score=cri.get("restrict_oom_score_adj") is True,
        has_systemd_cgroups=_has_systemd_cgroups(cri, engine),
        sandbox_image=_text(cri, "sandbox_image")
        or _text(_part(images, "pinned_images"), "sandbox"),
        snapshotter=_text(engine, "snapshotter") or _text(images, "snapshotter") or "overlayfs",
        root=_text(table, "root"),
    )


def _has_systemd_cgroups(cri: Mapping[str, Any], engine: Mapping[str, Any]) -> bool:
    name = _text(engine, "default_runtime_name") or "runc"
    options = _part(_part(_part(engine, "runtimes"), name), "options")
    return cri.get("systemd_cgroup") is True or options.get("SystemdCgroup") is True


def _crio(root: Path, file: Path) -> RuntimeFiles:
    runtime: dict[str, Any] = {}
    network: dict[str, Any] = {}
    image: dict[str, Any] = {}
    try:
        more = sorted((root / CRIO_FOLDER).glob("*.conf"))
    except OSError:
        more = []
    for each in (file, *more):
        table, _ = _toml(each)
        crio = _part(table, "crio")
        runtime.update(_part(crio, "runtime"))
        network.update(_part(crio, "network"))
        image.update(_part(crio, "image"))
    folders = network.get("plugin_dirs")
    return RuntimeFiles(
        kind="CRI-O",
        file=str(file),
        conf_dir=_text(network, "network_dir"),
        plugin_dirs=tuple(f for f in folders if isinstance(f, str))
        if isinstance(folders, list)
        else (),
        has_systemd_cgroups=runtime.get("cgroup_manager", "systemd") == "systemd",
        sandbox_image=_text(image, "pause_image"),
        restricts_oom_score=True,
    )


def _toml(file: Path) -> tuple[dict[str, Any], str]:
    try:
        with file.open("rb") as opened:
            return tomllib.loads(opened.read(MAX_FILE).decode()), ""
    except FileNotFoundError:
        return {}, ""
    except OSError as error:
        return {}, error.strerror or str(error)
    except ValueError as error:
        return {}, str(error)


def _part(table: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = table.get(name)
    return found if isinstance(found, dict) else {}


def _text(table: Mapping[str, Any], name: str) -> str:
    found = table.get(name)
    return found if isinstance(found, str) else ""
