"""What doctor says of a machine that is to run Pods, in made-up folders."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from edge.network.runtimefiles import RuntimeFiles, read_runtime_files
from edge.verdicts import Verdict
from edge.workloadchecks import (
    _no_cri,
    cgroup_verdict,
    disk_verdicts,
    oom_verdict,
    registry_fault,
    workload_checks,
)
from gateway.config.edge import Edge
from gateway.config.edge_workloads import Workloads
from gateway.config.switch import Switch

FULL, NESTED = "000001ffffffffff", "000001fffeffffff"


def a_machine(root: Path, config: str = "", rights: str = FULL) -> Path:
    for folder in ("proc/self", "proc/sys/net/ipv4", "etc/containerd", "var/lib/containerd"):
        (root / folder).mkdir(parents=True)
    (root / "proc/self/status").write_text(f"CapBnd:\t{rights}\nCapEff:\t{rights}\n")
    (root / "proc/self/mounts").write_text("/dev/sda / ext4 rw 0 0\n")
    (root / "proc/filesystems").write_text("nodev\toverlay\n\text4\n")
    (root / "proc/sys/net/ipv4/ip_forward").write_text("1\n")
    if config:
        (root / "etc/containerd/config.toml").write_text(config)
    return root


def told(root: Path, endpoint: Path, enabled: str = "on") -> dict[str, Verdict]:
    workloads = Workloads(enabled=Switch(enabled), runtime=str(endpoint))
    return {each.name: each for each in workload_checks(Edge(workloads=workloads), root)}


def test_a_runtime_that_is_not_there_is_told_with_its_command(tmp_path: Path) -> None:
    found = told(a_machine(tmp_path), tmp_path / "none.sock")["container runtime"]
    assert (found.state, found.mend) == ("fail", "systemctl start containerd")


def test_a_node_that_is_to_run_none_is_asked_nothing_more(tmp_path: Path) -> None:
    assert list(told(tmp_path, tmp_path / "none.sock", "off")) == ["workloads"]


def test_docker_s_containerd_has_its_cri_switched_off(tmp_path: Path) -> None:
    root = a_machine(tmp_path, 'version = 2\ndisabled_plugins = ["cri"]\n')
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "c.sock"))
        silent.listen()
        silent.close()
        path = tmp_path / "c.sock"
        found = told(root, path)["container runtime"]
        assert found.state == "fail"

    verdict = _no_cri("unknown service", read_runtime_files(root))
    assert "sed -i '/^disabled_plugins/d'" in verdict.mend


def test_without_the_right_to_protect_the_lines_to_write_are_told(tmp_path: Path) -> None:
    root = a_machine(tmp_path, rights=NESTED)
    found = oom_verdict(RuntimeFiles(file="/etc/containerd/config.toml"), root)
    assert found.state == "fail"
    assert "restrict_oom_score_adj = true" in found.mend
    assert '[plugins."io.containerd.grpc.v1.cri"]' in found.mend
    assert oom_verdict(RuntimeFiles(restricts_oom_score=True), root).state == "ok"
    (root / "proc/self/status").write_text(f"CapBnd:\t{FULL}\n")
    assert oom_verdict(RuntimeFiles(), root).state == "ok"


@pytest.mark.parametrize(
    ("is_unified", "has_systemd", "driver", "state"),
    [
        (True, True, True, "ok"),
        (True, True, False, "warn"),
        (False, True, False, "ok"),
        (False, False, True, "fail"),
    ],
)
def test_runtime_and_machine_agree_on_cgroups(
    tmp_path: Path, is_unified: bool, has_systemd: bool, driver: bool, state: str
) -> None:
    if is_unified:
        (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
        (tmp_path / "sys/fs/cgroup/cgroup.controllers").write_text("cpu")
    if has_systemd:
        (tmp_path / "run/systemd/system").mkdir(parents=True)
    found = cgroup_verdict(RuntimeFiles(has_systemd_cgroups=driver, version=3), tmp_path)
    assert found.state == state
    if found.mend:
        assert 'io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]' in found.mend


def test_overlay_on_overlay_is_told(tmp_path: Path) -> None:
    root = a_machine(tmp_path)
    (root / "proc/self/mounts").write_text("overlay / overlay rw 0 0\n")
    found = {each.name: each for each in disk_verdicts(RuntimeFiles(), root)}["snapshotter"]
    assert found.state == "fail"
    assert 'snapshotter = "native"' in found.mend
    (root / "proc/self/mounts").write_text("overlay / overlay rw\n/dev/b /var/lib ext4 rw\n")
    found = {each.name: each for each in disk_verdicts(RuntimeFiles(), root)}["snapshotter"]
    assert found.text == "overlayfs on ext4"
    (root / "proc/filesystems").write_text("\text4\n")
    found = {each.name: each for each in disk_verdicts(RuntimeFiles(), root)}["snapshotter"]
    assert "modprobe overlay" in found.mend


def test_plugins_and_configuration_of_cni_are_looked_for(tmp_path: Path) -> None:
    config = (
        "version = 2\n"
        '[plugins."io.containerd.grpc.v1.cri".cni]\nbin_dir = "/opt/cni/bin"\nconf_dir = "/etc/x"\n'
    )
    root = a_machine(tmp_path, config)
    found = told(root, tmp_path / "none.sock")
    assert found["CNI plugins"].mend == "apt-get install containernetworking-plugins"
    assert found["CNI configuration"].mend == "twinspan edge setup-cni"
    (root / "usr/lib/cni").mkdir(parents=True)
    for name in ("bridge", "host-local", "loopback"):
        (root / "usr/lib/cni" / name).write_text("")
    (root / "etc/x").mkdir()
    (root / "etc/x/00-other.conf").write_text("{}")
    (root / "etc/x/10-twinspan.conflist").write_text("{}")
    found = told(root, tmp_path / "none.sock")
    assert "/usr/lib/cni" in found["CNI plugins"].mend
    assert found["CNI configuration"].state == "warn"


def test_who_may_not_give_addresses_is_told_what_pods_lack(tmp_path: Path) -> None:
    found = told(a_machine(tmp_path, rights="0" * 16), tmp_path / "none.sock")
    assert "CAP_NET_ADMIN" in found["cluster DNS and Services"].text


def test_a_registry_that_is_not_there_is_named() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert f"127.0.0.1:{port}" in registry_fault(f"127.0.0.1:{port}/pause:1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert registry_fault(f"127.0.0.1:{server.getsockname()[1]}/pause:1") == ""


def test_a_runtime_without_cri_is_told_apart_from_one_that_is_silent() -> None:
    off, silent = (_no_cri(why, RuntimeFiles()) for why in ("unknown service runtime.v1.R", "x"))
    assert "disabled_plugins" in off.mend
    assert silent.mend == "look at: journalctl -u containerd"
