"""What is found on a machine before it becomes an edge node; the machine is a folder here."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge.join import Check
from edge.machinechecks import machine_checks


def found(root: Path, name: str) -> Check:
    return {check.name: check for check in machine_checks(root)}[name]


def put(root: Path, path: str, text: str = "") -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


@contextmanager
def listening(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        yield


def test_a_runtime_that_answers_is_named(tmp_path: Path) -> None:
    with listening(tmp_path / "run/crio/crio.sock"):
        put(tmp_path, "run/containerd/containerd.sock")  # no socket at all
        check = found(tmp_path, "container runtime")
    assert check == Check("container runtime", f"CRI-O at {tmp_path}/run/crio/crio.sock")


def test_a_runtime_that_does_not_answer_says_why(tmp_path: Path) -> None:
    path = tmp_path / "run/containerd/containerd.sock"
    with listening(path):
        pass  # the file stays, nobody listens
    check = found(tmp_path, "container runtime")
    assert "Connection refused" in check.text
    assert "systemctl start containerd" in check.mend


def test_without_a_runtime_devices_go_on(tmp_path: Path) -> None:
    check = found(tmp_path, "container runtime")
    assert "can run no Pods" in check.text
    assert "apt-get install containerd" in check.mend


def test_cgroups_of_the_second_version_are_judged_by_their_controllers(tmp_path: Path) -> None:
    put(tmp_path, "sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n")
    assert found(tmp_path, "cgroups") == Check("cgroups", "v2 with cpu, memory, pids")
    put(tmp_path, "sys/fs/cgroup/cgroup.controllers", "cpu pids\n")
    check = found(tmp_path, "cgroups")
    assert (check.text, "cgroup_enable=memory" in check.mend) == ("v2 without memory", True)
    put(tmp_path, "sys/fs/cgroup/cgroup.controllers", "")
    check = found(tmp_path, "cgroups")
    assert (check.text, "subtree_control" in check.mend) == ("v2 without cpu, memory, pids", True)


def test_cgroups_of_the_first_version_must_be_on_and_mounted(tmp_path: Path) -> None:
    rows = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t2\t9\t1\nmemory\t0\t9\t0\npids\t3\t9\t1\n"
    put(tmp_path, "proc/cgroups", rows)
    assert "none mounted" in found(tmp_path, "cgroups").text
    for name in ("cpu", "memory", "pids"):
        (tmp_path / "sys/fs/cgroup" / name).mkdir(parents=True)
    assert found(tmp_path, "cgroups").text == "v1 without memory"
    put(tmp_path, "proc/cgroups", rows.replace("memory\t0\t9\t0", "memory\t4\t9\t1"))
    assert found(tmp_path, "cgroups") == Check("cgroups", "v1 with cpu, memory, pids")


def test_other_node_agents_are_named(tmp_path: Path) -> None:
    assert found(tmp_path, "other node agents") == Check("other node agents", "none")
    for pid, name in (("1", "systemd"), ("7", "kubelet"), ("8", "kube-proxy"), ("self", "kubelet")):
        put(tmp_path, f"proc/{pid}/comm", name + "\n")
    check = found(tmp_path, "other node agents")
    assert check.text.startswith("kube-proxy and kubelet here")
    assert check.mend.endswith("systemctl disable --now kube-proxy kubelet")


def test_this_machine_can_be_looked_at() -> None:
    names = [check.name for check in machine_checks()]
    assert names == ["container runtime", "cgroups", "other node agents"]
