"""The CNI configuration that a node gets, in a made-up machine's folders."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
from contextlib import closing
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from click.testing import CliRunner

from edge.join import Check
from edge.network.cni import (
    FILE,
    CniRefused,
    CniRequest,
    choose_subnet,
    configured_subnets,
    remove,
    setup,
)
from edge.network.runtimefiles import RuntimeFiles, read_runtime_files, told_by
from gateway.cli import edge_cni
from gateway.cli.edge_cni import setup_cni_command
from gateway.errors import BadRequest

ROUTES = """Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT
eth0 00000000 010200C0 0003 0 0 0 00000000 0 0 0
eth0 000200C0 00000000 0001 0 0 0 00FFFFFF 0 0 0
"""


def a_machine(root: Path, *plugins: str, mtu: int = 1500, routes: str = ROUTES) -> Path:
    folder = root / "usr/lib/cni"
    folder.mkdir(parents=True)
    for name in plugins or ("bridge", "host-local", "loopback", "portmap", "bandwidth"):
        (folder / name).write_text("")
    (root / "proc/net").mkdir(parents=True)
    (root / "proc/net/route").write_text(routes)
    (root / "sys/class/net/eth0").mkdir(parents=True)
    (root / "sys/class/net/eth0/mtu").write_text(f"{mtu}\n")
    return root


def told(root: Path, pod_cidr: str = "", known: str = "") -> dict[str, Check]:
    request = CniRequest(node="edge-1", root=root, pod_cidr=pod_cidr, known=known)
    return {check.name: check for check in setup(request)}


def written(root: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((root / "etc/cni/net.d" / FILE).read_text())
    return found


def test_a_configuration_is_written_once_and_kept(tmp_path: Path) -> None:
    root = a_machine(tmp_path)
    assert "written" in told(root)["CNI configuration"].text
    first = written(root)
    assert [plugin["type"] for plugin in first["plugins"]] == ["bridge", "portmap", "bandwidth"]  # type: ignore[attr-defined]
    assert "as it should be" in told(root)["CNI configuration"].text
    (subnet,) = configured_subnets(root / "etc/cni/net.d")
    assert subnet.subnet_of(IPv4Network("10.88.0.0/16"))
    found = told(root, pod_cidr="10.99.0.0/24")
    assert "changed" in found["CNI configuration"].text


def test_the_cluster_s_subnet_counts_before_one_by_name(tmp_path: Path) -> None:
    found = told(a_machine(tmp_path), known="10.244.3.0/24")
    assert found["Pods' subnet"].text.startswith("10.244.3.0/24")


def test_a_subnet_that_the_machine_routes_elsewhere_is_not_taken() -> None:
    first = choose_subnet("edge-1", [])
    assert choose_subnet("edge-1", [IPv4Network("0.0.0.0/0")]) == first
    second = choose_subnet("edge-1", [first])
    assert not second.overlaps(first)
    with pytest.raises(CniRefused, match="no subnet free"):
        choose_subnet("edge-1", [IPv4Network("10.0.0.0/8")])


def test_what_is_missing_is_named_with_its_mend(tmp_path: Path) -> None:
    root = a_machine(tmp_path, "loopback")
    with pytest.raises(CniRefused, match="bridge, host-local") as caught:
        told(root)
    assert "apt-get install containernetworking-plugins" in (caught.value.description or "")


def test_without_host_ports_it_is_told(tmp_path: Path) -> None:
    found = told(a_machine(tmp_path, "bridge", "host-local", "loopback"))
    assert "host ports" in found["CNI plugin portmap"].text
    assert [p["type"] for p in written(tmp_path)["plugins"]] == ["bridge"]  # type: ignore[attr-defined]


def test_a_file_of_others_is_never_written_over_and_one_before_ours_is_told(tmp_path: Path) -> None:
    root = a_machine(tmp_path)
    folder = root / "etc/cni/net.d"
    folder.mkdir(parents=True)
    (folder / "05-calico.conflist").write_text("{}")
    assert "05-calico.conflist" in told(root)["other CNI configurations"].text
    (folder / FILE).write_text('{"name": "mine"}')
    for attempt in (setup, remove):
        with pytest.raises(CniRefused, match="not one of ours"):
            list(attempt(CniRequest(node="edge-1", root=root)))
    assert (folder / FILE).read_text() == '{"name": "mine"}'


def test_it_can_be_removed_and_removing_again_is_no_error(tmp_path: Path) -> None:
    root = a_machine(tmp_path)
    told(root)
    for _ in range(2):
        list(remove(CniRequest(node="edge-1", root=root)))
        assert not (root / "etc/cni/net.d" / FILE).exists()


def test_a_narrow_way_out_makes_narrow_packets(tmp_path: Path) -> None:
    told(a_machine(tmp_path, mtu=1400))
    assert written(tmp_path)["plugins"][0]["mtu"] == 1400  # type: ignore[index]


@pytest.mark.parametrize("text", ["x", "10.0.0.1/24", "10.0.0.0/30", "127.0.0.0/24", "fd00::/64"])
def test_a_subnet_that_cannot_be_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadRequest, match="--pod-cidr"):
        told(a_machine(tmp_path), pod_cidr=text)


def test_who_may_not_write_is_told_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, _target: Path) -> Path:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    root = a_machine(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(CniRefused, match="Permission denied") as caught:
        told(root)
    assert "sudo" in (caught.value.description or "")


def test_the_folder_is_the_runtime_s(tmp_path: Path) -> None:
    root = a_machine(tmp_path)
    (root / "etc/containerd").mkdir(parents=True)
    (root / "etc/containerd/config.toml").write_text(
        'version = 3\ndisabled_plugins = ["cri"]\n'
        '[plugins."io.containerd.cri.v1.runtime".cni]\n'
        'bin_dirs = ["/usr/lib/cni"]\nconf_dir = "/srv/net.d"\n'
        '[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]\n'
        "SystemdCgroup = true\n"
    )
    told(root)
    assert (root / "srv/net.d" / FILE).is_file()
    files = read_runtime_files(root)
    assert (files.is_cri_disabled, files.has_systemd_cgroups) == (True, True)
    assert files.section == '[plugins."io.containerd.cri.v1.runtime"]'


def test_a_configuration_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    (tmp_path / "etc/containerd").mkdir(parents=True)
    (tmp_path / "etc/containerd/config.toml").write_text("version = [")
    assert read_runtime_files(tmp_path).fault


def test_crio_s_files_are_read_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "etc/crio/crio.conf.d").mkdir(parents=True)
    (tmp_path / "etc/crio/crio.conf").write_text('[crio.network]\nnetwork_dir = "/a"\n')
    (tmp_path / "etc/crio/crio.conf.d/10.conf").write_text('[crio.network]\nnetwork_dir = "/b"\n')
    found = read_runtime_files(tmp_path)
    assert (found.kind, found.conf_dir) == ("CRI-O", "/b")


def test_the_command_line_sets_up_and_removes(tmp_path: Path) -> None:
    root = a_machine(tmp_path)
    words = ["--conf-dir", str(root / "net.d"), "--plugin-dir", str(root / "usr/lib/cni")]
    words += ["--node-name", "edge-1", "--data-dir", str(tmp_path / "data"), "-o", "json"]
    done = CliRunner().invoke(setup_cni_command, words)
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["done"] is True
    assert (root / "net.d" / FILE).is_file()
    done = CliRunner().invoke(setup_cni_command, [*words, "--remove"])
    assert done.exit_code == 0, done.output
    assert not (root / "net.d" / FILE).exists()


def test_a_join_goes_on_where_the_network_cannot_be_set_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_request: CniRequest) -> None:
        raise CniRefused("CNI plugins are missing", description="apt-get install them")

    monkeypatch.setattr(edge_cni, "setup", refuse)
    found: list[Check] = []
    edge_cni.within_join("edge-1", "", "", found.append)
    assert found == [Check("CNI configuration", "CNI plugins are missing", "apt-get install them")]


def test_the_subnet_that_the_cluster_gave_is_read_from_the_node_s_disk(tmp_path: Path) -> None:
    assert edge_cni.known_cidr(tmp_path, "edge-1") == ""
    (tmp_path / "edge").mkdir()
    with closing(sqlite3.connect(tmp_path / "edge/edge.db")) as db:
        db.execute("CREATE TABLE meta (key TEXT, type TEXT, value TEXT)")
        value = json.dumps({"spec": {"podCIDR": "10.244.1.0/24"}})
        db.execute("INSERT INTO meta VALUES ('null/node/edge-1', 'node', ?)", (value,))
        db.commit()
    assert edge_cni.known_cidr(tmp_path, "edge-1") == "10.244.1.0/24"
    assert edge_cni.known_cidr(tmp_path, "other") == ""


def test_what_a_running_containerd_says_of_itself_counts_more_than_a_file() -> None:
    said = {
        "containerd": {
            "snapshotter": "native",
            "defaultRuntimeName": "runc",
            "runtimes": {"runc": {"options": {"SystemdCgroup": True}}},
        },
        "cni": {"binDir": "/own/bin", "confDir": "/own/cni"},
        "sandboxImage": "pause:1",
        "restrictOOMScoreAdj": True,
        "containerdRootDir": "/own/root",
    }
    files = RuntimeFiles(file="/etc/containerd/config.toml", conf_dir="/etc/cni/net.d", version=2)
    found = told_by(files, json.dumps(said))
    assert (found.conf_dir, found.plugin_dirs, found.root) == (
        "/own/cni",
        ("/own/bin",),
        "/own/root",
    )
    assert (found.snapshotter, found.sandbox_image) == ("native", "pause:1")
    assert found.restricts_oom_score
    assert found.has_systemd_cgroups
    assert found.is_told


@pytest.mark.parametrize("config", ["", "[crio]\n", "[]", '{"other": 1}'])
def test_what_is_no_word_of_containerd_changes_nothing(config: str) -> None:
    files = RuntimeFiles(conf_dir="/etc/cni/net.d")
    assert told_by(files, config) is files


def test_the_folder_that_the_runtime_tells_is_taken(tmp_path: Path) -> None:
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    for name in ("bridge", "host-local", "loopback"):
        (bin_dir / name).touch()
    told = RuntimeFiles(conf_dir="/own/cni", plugin_dirs=("/bin",), is_told=True)
    checks = [*setup(CniRequest(node="n", runtime=told, root=tmp_path))]
    assert (tmp_path / "own/cni/10-twinspan.conflist").is_file()
    assert any("as the runtime says" in each.text for each in checks)


BRIDGED = ROUTES + "twinspan0 00075B0A 00000000 0001 0 0 0 00FFFFFF 0 0 0\n"


def test_a_bridge_that_is_there_says_which_subnet_it_is(tmp_path: Path) -> None:
    found = told(a_machine(tmp_path, routes=BRIDGED))
    assert found["Pods' subnet"].text == "10.91.7.0/24, as twinspan0 has it"
    assert "bridge" not in found


def test_a_bridge_of_another_subnet_is_told_with_its_mend(tmp_path: Path) -> None:
    found = told(a_machine(tmp_path, routes=BRIDGED), pod_cidr="10.123.4.0/24")["bridge"]
    assert "10.91.7.0/24: no new Pod of 10.123.4.0/24 starts" in found.text
    assert found.mend.startswith("ip address flush dev twinspan0")
