"""Host paths, claims and sub paths of volumes, on this machine's file system."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.pods.hostpaths import host_path
from edge.pods.podspec import HostPath, Pod
from edge.pods.ports import MountedVolumes, NotYet
from edge.pods.runtime import Mount, Propagation
from edge.pods.trees import give_to_group
from gateway.errors import BadRequest
from gateway.model.json import Json, JsonObject
from tests.volume_rig import UID, VolumeRig, pod_with

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="mounts of volumes are tested as root alone: run these as root"
)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[VolumeRig]:
    rig = VolumeRig(tmp_path / "pods")
    yield rig
    rig.clean()


def text(path: str | Path) -> str:
    return Path(path).read_text()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- hostPath -------------------------------------------------------------------------------------


@pytest.fixture
def things(tmp_path: Path) -> Iterator[dict[str, Path]]:
    """One of each kind of file."""
    found = {name: tmp_path / name for name in ("folder", "file", "socket", "nothing")}
    found["folder"].mkdir()
    found["file"].touch()
    found["char"] = Path("/dev/null")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(found["socket"]))
        yield found


_ACCEPTED = {
    "": {"folder", "file", "socket", "nothing", "char"},
    "Directory": {"folder"},
    "DirectoryOrCreate": {"folder", "nothing"},
    "File": {"file"},
    "FileOrCreate": {"file", "nothing"},
    "Socket": {"socket"},
    "CharDevice": {"char"},
    "BlockDevice": set(),
}


@pytest.mark.parametrize("kind", _ACCEPTED)
@pytest.mark.parametrize("thing", ["folder", "file", "socket", "nothing", "char"])
def test_a_host_path_is_what_its_type_says(things: dict[str, Path], kind: str, thing: str) -> None:
    path = things[thing]
    wanted = HostPath(path=str(path), type=kind)
    if thing in _ACCEPTED[kind]:
        assert host_path(wanted) == str(path)
        assert path.exists() or not kind
    else:
        with pytest.raises(BadRequest, match=f"hostPath type check failed: {path} is not a "):
            host_path(wanted)


def test_a_type_that_is_none_and_a_path_that_leads_back_are_refused() -> None:
    with pytest.raises(BadRequest, match="Tape is an invalid volume type"):
        host_path(HostPath(path="/x", type="Tape"))
    with pytest.raises(BadRequest, match="invalid HostPath"):
        host_path(HostPath(path="/x/../y"))


async def test_a_host_path_is_never_removed(rig: VolumeRig, tmp_path: Path) -> None:
    pod = pod_with(
        {
            "name": "v",
            "hostPath": {"path": str(tmp_path / "precious"), "type": "DirectoryOrCreate"},
        }
    )
    made = await rig.volumes.mount(pod)
    (tmp_path / "precious/data").write_text("1")
    assert made.paths == {"v": str(tmp_path / "precious")}
    (mount,) = rig.volumes.mounts(pod, pod.spec.containers[0], made, {})
    assert mount == Mount(container_path="/v", host_path=str(tmp_path / "precious"))
    await rig.volumes.unmount(UID)
    assert (tmp_path / "precious/data").read_text() == "1"


async def test_all_volumes_that_are_not_there_are_named(rig: VolumeRig, tmp_path: Path) -> None:
    pod = pod_with(
        {"name": "a", "hostPath": {"path": f"{tmp_path}/no", "type": "Directory"}},
        {"name": "b", "nfs": {"server": "s", "path": "/"}},
        {"name": "c", "emptyDir": {}},
    )
    with pytest.raises(NotYet) as told:
        await rig.volumes.mount(pod)
    assert told.value.message == (
        'MountVolume.SetUp failed for volume "a" : hostPath type check failed: '
        f"{tmp_path}/no is not a directory; "
        'MountVolume.SetUp failed for volume "b" : volume source nfs is not supported by this node'
    )


# --- claims ---------------------------------------------------------------------------------------

CLAIM: JsonObject = {"name": "v", "persistentVolumeClaim": {"claimName": "data"}}


def claim(rig: VolumeRig, **spec: Json) -> None:
    rig.api.put(
        "persistentvolumeclaim", "data", spec={"volumeName": "pv1"}, status={"phase": "Bound"}
    )
    item = rig.api.put("persistentvolume", "pv1", spec={"claimRef": {"uid": "uid-data"}, **spec})
    rig.api.items["null/persistentvolume/pv1"] = item


def of_node(name: str) -> JsonObject:
    row: JsonObject = {"key": "kubernetes.io/hostname", "operator": "In", "values": [name]}
    return {"required": {"nodeSelectorTerms": [{"matchExpressions": [row]}]}}


async def test_a_claim_of_a_local_volume_belongs_to_the_group(
    rig: VolumeRig, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    (disk / "inner").mkdir(parents=True)
    (disk / "inner/file").touch(mode=0o600)
    outside = tmp_path / "outside"
    outside.touch(mode=0o600)
    (disk / "link").symlink_to(outside)
    claim(rig, local={"path": str(disk)}, nodeAffinity=of_node("edge-1"))
    made = await rig.volumes.mount(pod_with(CLAIM, securityContext={"fsGroup": 1234}))
    assert made.paths == {"v": str(disk)}
    assert (disk / "inner/file").stat().st_gid == 1234
    assert mode(disk / "inner/file") == 0o660
    assert mode(disk) & 0o2770 == 0o2770
    assert (disk / "link").lstat().st_gid == 1234
    assert (outside.stat().st_gid, mode(outside)) == (0, 0o600)
    await rig.volumes.unmount(UID)
    assert (disk / "inner/file").exists()


async def test_a_volume_that_fits_is_left_alone_where_that_is_wished(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    (disk / "file").touch(mode=0o600)
    give_to_group(disk, 1234, read_only=False, only_on_mismatch=True)
    assert mode(disk / "file") == 0o660
    (disk / "file").chmod(0o600)
    give_to_group(disk, 1234, read_only=False, only_on_mismatch=True)
    assert mode(disk / "file") == 0o600
    give_to_group(disk, 1234, read_only=False, only_on_mismatch=False)
    assert mode(disk / "file") == 0o660


async def test_a_claim_is_found_once_and_may_be_read_only(rig: VolumeRig, tmp_path: Path) -> None:
    claim(rig, hostPath={"path": str(tmp_path / "x"), "type": "DirectoryOrCreate"})
    pod = pod_with({"name": "v", "persistentVolumeClaim": {"claimName": "data", "readOnly": True}})
    made = await rig.volumes.mount(pod)
    assert made.read_only == {"v"}
    await rig.volumes.mount(pod)
    assert len(rig.api.queries) == 2


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"nfs": {"server": "s"}}, 'persistentvolume "pv1": source nfs is not supported'),
        ({"csi": {"driver": "d"}, "capacity": {}}, "source csi is not supported"),
        ({"local": {"path": "/no/such"}}, "is not a directory of this node"),
        ({"local": {"path": "/tmp"}, "nodeAffinity": of_node("edge-2")}, "no matching NodeSel"),
        ({"hostPath": {"path": "/tmp"}, "claimRef": {"uid": "x"}}, "is not bound to claim"),
    ],
)
async def test_a_claim_that_cannot_be_had_says_why(
    rig: VolumeRig, spec: JsonObject, words: str
) -> None:
    claim(rig, **spec)
    with pytest.raises(NotYet, match=words):
        await rig.volumes.mount(pod_with(CLAIM))


async def test_a_claim_that_is_not_there_or_not_bound_is_waited_for(rig: VolumeRig) -> None:
    with pytest.raises(NotYet, match='persistentvolumeclaim "data" not found'):
        await rig.volumes.mount(pod_with(CLAIM))
    rig.api.put("persistentvolumeclaim", "data", spec={}, status={"phase": "Pending"})
    with pytest.raises(NotYet, match="is not bound to a PersistentVolume"):
        await rig.volumes.mount(pod_with(CLAIM))


# --- sub paths ------------------------------------------------------------------------------------


def pod_mounting(**mount: Json) -> Pod:
    row: JsonObject = {"name": "v", "mountPath": "/in", **mount}
    return pod_with(
        {"name": "v", "emptyDir": {}}, containers=[{"name": "main", "volumeMounts": [row]}]
    )


async def made(rig: VolumeRig, pod: Pod) -> tuple[Path, MountedVolumes]:
    volumes = await rig.volumes.mount(pod)
    return Path(volumes.paths["v"]), volumes


def mounted(rig: VolumeRig, pod: Pod, volumes: MountedVolumes, **envs: str) -> Mount:
    (mount,) = rig.volumes.mounts(pod, pod.spec.containers[0], volumes, envs)
    return mount


async def test_a_sub_path_is_made_with_the_permissions_of_its_volume(rig: VolumeRig) -> None:
    pod = pod_mounting(subPathExpr="logs/$(POD)", readOnly=True)
    volume, volumes = await made(rig, pod)
    mount = mounted(rig, pod, volumes, POD="p-0")
    bound = Path(mount.host_path)
    assert bound == rig.root / UID / "volume-subpaths/v/main/0"
    assert mount.readonly
    (volume / "logs/p-0/x").write_text("1")
    assert (bound / "x").read_text() == "1"
    assert mode(volume / "logs") == mode(volume / "logs/p-0") == 0o777
    assert mounted(rig, pod, volumes, POD="p-0") == mount, "the next start of the container"
    assert len(rig.mounts.below(bound)) == 1
    await rig.volumes.unmount(UID)
    assert not (rig.root / UID).exists()


async def test_a_part_that_was_replaced_is_bound_anew(rig: VolumeRig) -> None:
    pod = pod_mounting(subPath="x")
    volume, volumes = await made(rig, pod)
    (volume / "x").write_text("old")
    bound = Path(mounted(rig, pod, volumes).host_path)
    (volume / "new").write_text("new")
    (volume / "new").rename(volume / "x")
    assert text(bound) == "old"
    assert mounted(rig, pod, volumes).host_path == str(bound)
    assert text(bound) == "new"
    (volume / "x").unlink()
    mounted(rig, pod, volumes)
    assert stat.S_ISDIR(os.stat(bound).st_mode)


async def test_a_key_of_a_configmap_is_mounted_and_stays_as_it_was(rig: VolumeRig) -> None:
    rig.api.put("configmap", "c", data={"a": "1"})
    row: JsonObject = {"name": "v", "mountPath": "/a", "subPath": "a"}
    pod = pod_with(
        {"name": "v", "configMap": {"name": "c"}},
        containers=[{"name": "main", "volumeMounts": [row]}],
    )
    volumes = await rig.volumes.mount(pod)
    mount = mounted(rig, pod, volumes)
    assert mount.readonly
    rig.push("configmap", rig.api.put("configmap", "c", 2, data={"a": "2"}))
    await rig.volumes.refresh(UID)
    assert text(mount.host_path) == "1"
    assert text(mounted(rig, pod, volumes).host_path) == "2"


@pytest.mark.parametrize("path", ["away", "away/etc", "inner/away/passwd", "loop", "dangling/x"])
async def test_a_link_that_leads_out_of_the_volume_is_refused(rig: VolumeRig, path: str) -> None:
    pod = pod_mounting(subPath=path)
    volume, volumes = await made(rig, pod)
    (volume / "inner").mkdir()
    (volume / "away").symlink_to("/")
    (volume / "inner/away").symlink_to("../../../../../../../../../../etc")
    (volume / "loop").symlink_to("loop")
    (volume / "dangling").symlink_to("/such/place")
    with pytest.raises(NotYet) as told:
        mounted(rig, pod, volumes)
    assert told.value.reason == "CreateContainerConfigError"
    assert told.value.message == (
        'failed to prepare subPath for volumeMount "v" of container "main"'
    )
    assert "such" not in os.listdir("/")  # nothing was made where the link leads


async def test_a_link_within_the_volume_is_followed(rig: VolumeRig) -> None:
    pod = pod_mounting(subPath="current/x")
    volume, volumes = await made(rig, pod)
    (volume / "v1").mkdir()
    (volume / "v1/x").write_text("1")
    (volume / "current").symlink_to("v1")
    assert text(mounted(rig, pod, volumes).host_path) == "1"


@pytest.mark.parametrize(
    ("mount", "words"),
    [
        ({"subPath": "/etc"}, "must not be an absolute path"),
        ({"subPath": "../x"}, "must not contain '..'"),
        ({"subPathExpr": "$(UP)"}, "must not contain '..'"),
        ({"subPathExpr": "$(NO)"}, "missing value for NO"),
        ({"mountPropagation": "Both"}, "invalid MountPropagation mode"),
        ({"readOnly": True, "recursiveReadOnly": "Enabled"}, "not supported by the runtime"),
        ({"name": "other"}, 'cannot find volume "other" to mount into container "main"'),
    ],
)
async def test_a_mount_that_cannot_be_says_why(
    rig: VolumeRig, mount: JsonObject, words: str
) -> None:
    pod = pod_mounting(**mount)
    volumes = MountedVolumes({"v": str(rig.root)})
    with pytest.raises(NotYet, match=words) as told:
        mounted(rig, pod, volumes, UP="..")
    assert told.value.reason == "CreateContainerConfigError"


async def test_devices_are_refused(rig: VolumeRig) -> None:
    device: JsonObject = {"name": "v", "devicePath": "/dev/v"}
    pod = pod_with(containers=[{"name": "main", "volumeDevices": [device]}])
    with pytest.raises(NotYet, match="volumeDevices"):
        rig.volumes.mounts(pod, pod.spec.containers[0], MountedVolumes(), {})


async def test_propagation_is_handed_on(rig: VolumeRig) -> None:
    pod = pod_mounting(mountPropagation="HostToContainer", mountPath="in")
    _, volumes = await made(rig, pod)
    mount = mounted(rig, pod, volumes)
    assert mount.propagation is Propagation.HOST_TO_CONTAINER
    assert mount.container_path == "/in"


async def test_other_volumes_can_be_mounted_inside_of_a_read_only_one(rig: VolumeRig) -> None:
    rig.api.put("configmap", "c", data={"a": "1"})
    mounts: list[Json] = [
        {"name": "v", "mountPath": "/etc/app"},
        {"name": "e", "mountPath": "/etc/app/cache"},
    ]
    pod = pod_with(
        {"name": "v", "configMap": {"name": "c"}},
        {"name": "e", "emptyDir": {}},
        containers=[{"name": "main", "volumeMounts": mounts}],
    )
    volume, _ = await made(rig, pod)
    assert (volume / "cache").is_dir()
    rig.push("configmap", rig.api.put("configmap", "c", 2, data={"b": "1"}))
    await rig.volumes.refresh(UID)
    assert (volume / "cache").is_dir()
