"""Cgroups of Pods: names, what is written, what is read, with trees of both versions made of plain files."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.pods.cgroups import Cgroups, usage_of
from edge.pods.cgrouptrees import (
    Tree,
    Usage,
    driver_of,
    find_tree,
    properties_of,
    read_mounts,
    read_number,
    read_table,
    read_usage,
    settings_of,
)
from edge.pods.podresources import Limits
from edge.pods.podspec import Pod, read_pod
from edge.pods.ports import NotYet
from gateway.model.json import JsonObject

UID = "1a-2b"
V1_CONTROLLERS = ("cpu", "cpuacct", "memory", "pids", "freezer", "name=systemd")


def v1_tree(root: Path) -> Tree:
    mounts = {name: root / name for name in V1_CONTROLLERS}
    for folder in mounts.values():
        folder.mkdir(parents=True)
    return Tree(version=1, mounts=mounts)


def pod_of(cpu: str = "", memory: str = "", uid: str = UID) -> Pod:
    amounts: JsonObject = {"cpu": cpu} if cpu else {}
    limits: JsonObject = {"memory": memory} if memory else {}
    container: JsonObject = {"name": "a", "resources": {"requests": amounts, "limits": limits}}
    return read_pod({"metadata": {"uid": uid}, "spec": {"containers": [container]}})


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("driver", "qos", "path"),
    [
        ("cgroupfs", "Guaranteed", "/edgepods/pod1a-2b"),
        ("cgroupfs", "Burstable", "/edgepods/burstable/pod1a-2b"),
        ("cgroupfs", "BestEffort", "/edgepods/besteffort/pod1a-2b"),
        ("systemd", "Guaranteed", "/edgepods.slice/edgepods-pod1a_2b.slice"),
        (
            "systemd",
            "Burstable",
            "/edgepods.slice/edgepods-burstable.slice/edgepods-burstable-pod1a_2b.slice",
        ),
    ],
)
def test_a_pods_group_is_named_by_its_class_and_uid(driver: str, qos: str, path: str) -> None:
    tree = Tree(version=2, mounts={"": Path("/x")}, driver=driver)
    assert tree.pod(qos, UID) == path
    assert tree.uid_of(path.rpartition("/")[2]) == UID


@pytest.mark.parametrize("name", ["burstable", "pod", "cpu.shares", "edgepods-burstable.slice"])
def test_what_is_no_pods_group_has_no_uid(name: str) -> None:
    for driver in ("cgroupfs", "systemd"):
        assert Tree(version=1, mounts={}, driver=driver).uid_of(name) is None


# --- finding --------------------------------------------------------------------------------------

V1_MOUNTS = [
    "30 25 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755",
    "31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate",
    "32 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd",
    "33 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct",
    "34 30 0:30 / /sys/fs/cgroup/memory rw shared:10 - cgroup cgroup rw,memory",
]
V2_MOUNTS = ["30 25 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate"]


def test_version_1_is_found_by_its_controllers() -> None:
    tree = read_mounts(V1_MOUNTS, "cgroupfs", "edgepods", lambda _: True)
    assert tree is not None
    assert tree.version == 1
    assert tree.mounts["cpu"] == tree.mounts["cpuacct"] == Path("/sys/fs/cgroup/cpu,cpuacct")
    assert [str(each) for each in tree.folders()] == [
        "/sys/fs/cgroup/systemd",
        "/sys/fs/cgroup/cpu,cpuacct",
        "/sys/fs/cgroup/memory",
        "/sys/fs/cgroup/unified",
    ]


def test_version_2_is_found_where_it_is_alone() -> None:
    tree = read_mounts(V2_MOUNTS, "systemd", "edgepods", lambda _: True)
    assert tree is not None
    assert (tree.version, tree.driver, tree.mounts["memory"]) == (
        2,
        "systemd",
        Path("/sys/fs/cgroup"),
    )


def test_no_mounts_are_no_tree(tmp_path: Path) -> None:
    assert read_mounts(V2_MOUNTS, "cgroupfs", "x", lambda _: False) is None
    assert read_mounts([], "cgroupfs", "x", lambda _: True) is None
    assert find_tree("cgroupfs", "x", tmp_path / "none") is None


@given(st.lists(st.text(max_size=60), max_size=5))
def test_lines_of_any_form_are_read(lines: list[str]) -> None:
    read_mounts(lines, "cgroupfs", "x", lambda _: False)


@pytest.mark.parametrize(
    ("setting", "config", "driver"),
    [
        ("systemd", "", "systemd"),
        ("cgroupfs", "SystemdCgroup = true", "cgroupfs"),
        ("auto", "", "cgroupfs"),
        ("auto", "not TOML [", "cgroupfs"),
        ("auto", "[plugins.cri.runtimes.runc.options]\nSystemdCgroup = true", "systemd"),
        ("auto", "[plugins.cri.runtimes.runc.options]\nSystemdCgroup = false", "cgroupfs"),
    ],
)
def test_the_driver_is_the_one_set_or_containerds(setting: str, config: str, driver: str) -> None:
    assert driver_of(setting, config) == driver


# --- limits ---------------------------------------------------------------------------------------

ALL = Limits(cpu_shares=512, cpu_quota=50_000, memory=1_024, pids=9, huge_pages={"2MB": 4_096})


@pytest.mark.parametrize(
    ("version", "limits", "rows"),
    [
        (1, Limits(), [("cpu", "cpu.shares", "2")]),
        (2, Limits(), [("cpu", "cpu.weight", "1")]),
        (
            1,
            ALL,
            [
                ("cpu", "cpu.shares", "512"),
                ("cpu", "cpu.cfs_period_us", "100000"),
                ("cpu", "cpu.cfs_quota_us", "50000"),
                ("memory", "memory.limit_in_bytes", "1024"),
                ("pids", "pids.max", "9"),
                ("hugetlb", "hugetlb.2MB.limit_in_bytes", "4096"),
            ],
        ),
        (
            2,
            ALL,
            [
                ("cpu", "cpu.weight", "20"),
                ("cpu", "cpu.max", "50000 100000"),
                ("memory", "memory.max", "1024"),
                ("pids", "pids.max", "9"),
                ("hugetlb", "hugetlb.2MB.max", "4096"),
            ],
        ),
    ],
)
def test_limits_are_written_in_the_words_of_each_version(
    version: int, limits: Limits, rows: list[tuple[str, str, str]]
) -> None:
    assert settings_of(Tree(version=version, mounts={}), limits) == rows


def test_limits_are_told_to_systemd() -> None:
    assert " ".join(properties_of(2, ALL)) == (
        "4 CPUWeight t 20 CPUQuotaPerSecUSec t 500000 MemoryMax t 1024 TasksMax t 9"
    )
    assert " ".join(properties_of(1, Limits(memory=7))) == "2 CPUShares t 2 MemoryLimit t 7"


# --- use ------------------------------------------------------------------------------------------

V1_FILES = {
    "cpuacct.usage": "123456789\n",
    "memory.usage_in_bytes": "1000\n",
    "memory.limit_in_bytes": "9223372036854771712\n",
    "memory.stat": "cache 1\ntotal_inactive_file 300\ntotal_rss 500\ntotal_pgfault 7\ntotal_pgmajfault 2\n",
    "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
    "pids.current": "4\n",
}
V2_FILES = {
    "cpu.stat": "usage_usec 123456\nuser_usec 1\n",
    "memory.current": "1000\n",
    "memory.max": "max\n",
    "memory.stat": "anon 500\ninactive_file 300\npgfault 7\npgmajfault 2\n",
    "memory.events": "low 0\noom 4\noom_kill 3\n",
    "pids.current": "4\n",
}


@pytest.mark.parametrize(
    ("version", "files", "nanoseconds"), [(1, V1_FILES, 123_456_789), (2, V2_FILES, 123_456_000)]
)
def test_use_is_read_in_the_words_of_each_version(
    version: int, files: dict[str, str], nanoseconds: int
) -> None:
    assert read_usage(version, lambda _, name: files.get(name)) == Usage(
        cpu_nanoseconds=nanoseconds,
        memory_usage=1_000,
        memory_working_set=700,
        memory_rss=500,
        memory_limit=None,
        page_faults=7,
        major_page_faults=2,
        pids=4,
        oom_kills=3,
    )


@pytest.mark.parametrize("version", [1, 2])
def test_files_that_are_not_there_tell_nothing(version: int) -> None:
    assert read_usage(version, lambda *_: None) == Usage()


def test_more_inactive_than_used_is_nothing_used() -> None:
    files = {"memory.current": "5", "memory.stat": "inactive_file 9"}
    assert read_usage(2, lambda _, name: files.get(name)).memory_working_set == 0


@given(st.text())
def test_texts_of_any_form_are_read(text: str) -> None:
    assert all(value >= 0 for value in read_table(text).values())
    number = read_number(text)
    assert number is None or number >= 0


@given(st.dictionaries(st.from_regex(r"[a-z_]+", fullmatch=True), st.integers(0, 2**63)))
def test_a_table_is_read_as_it_was_written(table: dict[str, int]) -> None:
    assert read_table("".join(f"{key} {value}\n" for key, value in table.items())) == table


# --- groups ---------------------------------------------------------------------------------------


def kernel_files(folder: Path, *names: str) -> None:
    """What the kernel has in a group that was made."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


async def test_a_pods_group_is_made_by_all_controllers_that_limit(tmp_path: Path) -> None:
    tree = v1_tree(tmp_path)
    group = "edgepods/burstable/pod1a-2b"
    kernel_files(tmp_path / "cpu" / group, "cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us")
    kernel_files(tmp_path / "memory" / group, "memory.limit_in_bytes")
    kernel_files(tmp_path / "cpu/edgepods/burstable", "cpu.shares")
    kernel_files(tmp_path / "cpu/edgepods/burstable/podother", "cpu.shares")
    (tmp_path / "cpu/edgepods/burstable/podother/cpu.shares").write_text("100\n")
    cgroups = Cgroups(tree)
    pod = pod_of(cpu="250m", memory="1Mi")

    assert cgroups.parent(pod) == f"/{group}"
    await cgroups.ensure(pod)

    assert (tmp_path / "cpu" / group / "cpu.shares").read_text() == "256"
    assert (tmp_path / "cpu" / group / "cpu.cfs_quota_us").read_text() == ""
    assert (tmp_path / "memory" / group / "memory.limit_in_bytes").read_text() == str(1 << 20)
    assert (tmp_path / "pids" / group).is_dir()
    assert not (tmp_path / "freezer" / group).exists()
    assert (tmp_path / "cpu/edgepods/burstable/cpu.shares").read_text() == "356"


async def test_a_group_goes_with_all_below_by_every_controller(tmp_path: Path) -> None:
    tree = v1_tree(tmp_path)
    cgroups = Cgroups(tree)
    pod = pod_of()
    await cgroups.ensure(pod)
    group = "edgepods/besteffort/pod1a-2b"
    (tmp_path / "memory" / group / "container").mkdir()
    (tmp_path / "freezer" / group / "container").mkdir(parents=True)
    await cgroups.remove(UID)
    await cgroups.remove(UID)
    assert not [each for each in tree.folders() if (each / group).exists()]
    assert (tmp_path / "memory/edgepods/besteffort").is_dir()


async def test_with_version_2_controllers_are_handed_down(tmp_path: Path) -> None:
    tree = Tree(version=2, mounts=dict.fromkeys(("", "cpu", "memory"), tmp_path))
    levels = ["", "edgepods", "edgepods/burstable", "edgepods/besteffort"]
    for name in (*levels, "edgepods/burstable/pod1a-2b"):
        kernel_files(tmp_path / name, "cgroup.subtree_control", "cpu.weight", "memory.max")
        (tmp_path / name / "cgroup.controllers").write_text("cpu io memory\n")
    await Cgroups(tree).ensure(pod_of(cpu="1", memory="1Mi"))
    group = tmp_path / "edgepods/burstable/pod1a-2b"
    assert (group / "cpu.weight").read_text() == "39"
    assert (group / "memory.max").read_text() == str(1 << 20)
    for name in (*levels[:3], "edgepods/burstable/pod1a-2b"):
        assert (tmp_path / name / "cgroup.subtree_control").read_text() == "+cpu +memory"
    (group / "memory.current").write_text("5\n")
    assert usage_of(tree, "/edgepods/burstable/pod1a-2b").memory_usage == 5


async def test_without_the_right_to_make_groups_pods_run_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    tree = Tree(version=1, mounts={"cpu": tmp_path / "file", "memory": tmp_path / "file"})
    for cgroups in (Cgroups(tree), Cgroups(None)):
        await cgroups.ensure(pod_of())
        await cgroups.remove(UID)
        assert cgroups.parent(pod_of()) == ""
        assert await cgroups.usage(pod_of()) == Usage()
    told = [each.message for each in caplog.records]
    assert told == ["cgroups cannot be made: Pods run without limits of their own"]


async def test_a_group_that_cannot_be_made_now_holds_its_pod_up(tmp_path: Path) -> None:
    cgroups = Cgroups(v1_tree(tmp_path))
    cgroups.parent(pod_of())
    (tmp_path / "memory/edgepods/besteffort").touch()
    with pytest.raises(NotYet, match="failed to ensure that the pod's cgroup") as held:
        await cgroups.ensure(pod_of())
    assert held.value.reason == "ContainerCreating"


# --- systemd --------------------------------------------------------------------------------------


class Systemd:
    """Makes the folder of a slice that is started."""

    def __init__(self, root: Path, *, works: bool = True) -> None:
        self.root, self.works = root, works
        self.calls: list[list[str]] = []

    def __call__(self, words: Sequence[str]) -> None:
        if not self.works:
            raise subprocess.CalledProcessError(1, "busctl")
        self.calls.append(list(words)[6:])
        name = words[8]
        parts = name.removesuffix(".slice").split("-")
        slices = ["-".join(parts[: count + 1]) + ".slice" for count in range(len(parts))]
        if words[6] == "StartTransientUnit":
            (self.root.joinpath(*slices)).mkdir(parents=True, exist_ok=True)


async def test_slices_are_made_changed_and_stopped_by_systemd(tmp_path: Path) -> None:
    tree = Tree(version=2, mounts=dict.fromkeys(("", "cpu"), tmp_path), driver="systemd")
    systemd = Systemd(tmp_path)
    cgroups = Cgroups(tree, run=systemd)
    pod = pod_of(cpu="1", memory="1Mi")
    await cgroups.ensure(pod)
    await cgroups.ensure(pod)
    await cgroups.remove(UID)
    name = "edgepods-burstable-pod1a_2b.slice"
    of_pod = [each for each in systemd.calls if name in each]
    values = ["2", "CPUWeight", "t", "39", "MemoryMax", "t", "1048576"]
    assert of_pod == [
        ["StartTransientUnit", "ssa(sv)a(sa(sv))", name, "replace", *values, "0"],
        ["SetUnitProperties", "sba(sv)", name, "true", *values],
        ["StopUnit", "ss", name, "replace"],
    ]
    assert not (tmp_path / tree.pod("Burstable", UID)[1:]).exists()


async def test_without_systemd_there_are_no_groups(tmp_path: Path) -> None:
    tree = Tree(version=2, mounts=dict.fromkeys(("", "cpu"), tmp_path), driver="systemd")
    assert Cgroups(tree, run=Systemd(tmp_path, works=False)).parent(pod_of()) == ""
