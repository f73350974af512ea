"""Volumes of Pods on this machine's file system, with real mounts."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge.pods.ports import NotYet
from edge.pods.trees import measure
from gateway.errors import Forbidden, StoreUnavailable, Undeliverable
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.names import Operation
from tests.integration.edge_support import until
from tests.volume_rig import UID, VolumeRig, WithoutRights, encoded, pod_with

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="mounts of volumes are tested as root alone: run these as root"
)

CONFIG: JsonObject = {"name": "v", "configMap": {"name": "c"}}
SECRET: JsonObject = {"name": "v", "secret": {"secretName": "s"}}
TOKEN: JsonObject = {
    "name": "v",
    "projected": {
        "sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca", "path": "ca.crt"}]}},
            {
                "downwardAPI": {
                    "items": [{"path": "ns", "fieldRef": {"fieldPath": "metadata.namespace"}}]
                }
            },
        ]
    },
}


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[VolumeRig]:
    rig = VolumeRig(tmp_path / "pods")
    yield rig
    rig.clean()


@asynccontextmanager
async def running(rig: VolumeRig) -> AsyncIterator[None]:
    ready = asyncio.Event()
    task = asyncio.create_task(rig.volumes.run(ready.set))
    try:
        await ready.wait()
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def folder(rig: VolumeRig, name: str = "v", uid: str = UID) -> Path:
    return rig.root / uid / "volumes" / name


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def owner(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_uid, found.st_gid


# --- emptyDir -------------------------------------------------------------------------------------


async def test_an_empty_dir_is_open_to_all_and_survives_being_mounted_again(rig: VolumeRig) -> None:
    pod = pod_with({"name": "v", "emptyDir": {}})
    made = await rig.volumes.mount(pod)
    path = Path(made.paths["v"])
    assert mode(path) == 0o777
    (path / "kept").write_text("1")
    rig.restart()
    assert await rig.volumes.mount(pod) == made
    assert (path / "kept").read_text() == "1"


async def test_an_empty_dir_belongs_to_the_group_of_the_pod(rig: VolumeRig) -> None:
    pod = pod_with({"name": "v", "emptyDir": {}}, securityContext={"fsGroup": 1234})
    path = Path((await rig.volumes.mount(pod)).paths["v"])
    assert owner(path) == (0, 1234)
    assert mode(path) == 0o2777


async def test_an_empty_dir_in_memory_is_bound_by_its_limit_and_the_node(rig: VolumeRig) -> None:
    pod = pod_with(
        {"name": "small", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        {"name": "big", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
        securityContext={"fsGroup": 1234},
    )
    made = await rig.volumes.mount(pod)
    small, big = (os.statvfs(made.paths[name]) for name in ("small", "big"))
    assert small.f_blocks * small.f_frsize == 1 << 20
    assert big.f_blocks * big.f_frsize == 64 << 20
    assert mode(Path(made.paths["small"])) == 0o3777
    assert owner(Path(made.paths["small"])) == (0, 1234)


async def test_memory_that_is_mounted_is_taken_over_after_a_restart(rig: VolumeRig) -> None:
    pod = pod_with({"name": "v", "emptyDir": {"medium": "Memory"}})
    path = Path((await rig.volumes.mount(pod)).paths["v"])
    (path / "kept").write_text("1")
    rig.restart()
    await rig.volumes.mount(pod)
    assert (path / "kept").read_text() == "1"
    assert len(rig.mounts.below(rig.root)) == 1


@pytest.mark.parametrize(
    ("medium", "words"),
    [("HugePages-2Mi", 'medium "HugePages-2Mi" is not supported'), ("Tape", "unknown storage")],
)
async def test_a_medium_that_is_not_there_is_said(rig: VolumeRig, medium: str, words: str) -> None:
    with pytest.raises(NotYet, match=words):
        await rig.volumes.mount(pod_with({"name": "v", "emptyDir": {"medium": medium}}))


async def test_what_an_empty_dir_takes_is_measured_without_following_links(rig: VolumeRig) -> None:
    pod = pod_with({"name": "v", "emptyDir": {"sizeLimit": "2Mi"}})
    path = Path((await rig.volumes.mount(pod)).paths["v"])
    (path / "inner").mkdir()
    (path / "inner/file").write_bytes(b"x" * 100_000)
    os.link(path / "inner/file", path / "again")
    (path / "away").symlink_to("/usr")
    use = measure(path)
    assert 100_000 <= use.used_bytes < 130_000
    assert use.inodes == 4


async def test_a_volume_that_no_container_uses_is_not_made(rig: VolumeRig) -> None:
    pod = pod_with(CONFIG, containers=[{"name": "main"}])
    assert (await rig.volumes.mount(pod)).paths == {}


# --- ConfigMaps, Secrets, tokens ------------------------------------------------------------------


async def test_a_configmap_is_shown_read_only(rig: VolumeRig) -> None:
    rig.api.put("configmap", "c", data={"a": "1"}, binaryData={"b": encoded("2")})
    made = await rig.volumes.mount(pod_with(CONFIG))
    assert made.read_only == {"v"}
    assert (folder(rig) / "a").read_text() == "1"
    assert (folder(rig) / "b").read_text() == "2"
    assert rig.mounts.kind(folder(rig)) is None


async def test_a_secret_lies_in_memory_behind_a_folder_of_root_alone(rig: VolumeRig) -> None:
    rig.api.put("secret", "s", data={"key": encoded("word")})
    volume: JsonObject = {"name": "v", "secret": {"secretName": "s", "defaultMode": 0o400}}
    await rig.volumes.mount(pod_with(volume))
    assert (folder(rig) / "key").read_text() == "word"
    assert rig.mounts.kind(folder(rig)) == "tmpfs"
    assert mode(folder(rig).parent) == 0o700
    assert mode(folder(rig) / "key") == 0o400


async def test_without_the_right_to_mount_a_secret_is_for_its_owner_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig = VolumeRig(tmp_path / "pods", WithoutRights())
    rig.api.put("secret", "s", data={"key": encoded("word")})
    await rig.volumes.mount(pod_with(SECRET))
    await rig.volumes.mount(pod_with(SECRET, uid=UID[:-1] + "2"))
    assert mode(folder(rig) / "key") == 0o600
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "word" not in caplog.text
    with pytest.raises(NotYet, match="may not mount"):
        await rig.volumes.mount(pod_with({"name": "v", "emptyDir": {"medium": "Memory"}}))


async def test_the_volume_of_a_service_account_has_all_its_parts(rig: VolumeRig) -> None:
    rig.api.put("configmap", "kube-root-ca.crt", data={"ca": "PEM"})
    pod = pod_with(TOKEN, serviceAccountName="robot", securityContext={"fsGroup": 1234})
    await rig.volumes.mount(pod)
    v = folder(rig)
    texts = [(v / name).read_text() for name in ("token", "ca.crt", "ns")]
    assert texts == ["token-robot-1", "PEM", "default"]
    assert mode(v / "token") == 0o640
    assert (v / "token").stat().st_gid == 1234
    (request,) = rig.api.requests
    assert request["spec"] == {
        "audiences": [],
        "expirationSeconds": 3607,
        "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": UID},
    }


async def test_a_token_is_for_the_one_user_of_a_pod(rig: VolumeRig) -> None:
    rig.api.put("configmap", "kube-root-ca.crt", data={"ca": "PEM"})
    await rig.volumes.mount(pod_with(TOKEN, securityContext={"runAsUser": 77}))
    assert (folder(rig) / "token").stat().st_uid == 77
    assert mode(folder(rig) / "token") == 0o600


@pytest.mark.parametrize("volume", [CONFIG, SECRET], ids=["configmap", "secret"])
async def test_what_is_not_there_is_said(rig: VolumeRig, volume: JsonObject) -> None:
    words = r'^MountVolume.SetUp failed for volume "v" : (configmap "c"|secret "s") not found$'
    with pytest.raises(NotYet, match=words) as told:
        await rig.volumes.mount(pod_with(volume))
    assert told.value.reason == "ContainerCreating"


@pytest.mark.parametrize("fault", [Forbidden("no"), StoreUnavailable("disk"), Undeliverable("x")])
async def test_an_error_never_becomes_an_empty_volume(
    rig: VolumeRig, fault: Forbidden | Undeliverable
) -> None:
    rig.api.fault = fault
    volume: JsonObject = {"name": "v", "configMap": {"name": "c", "optional": True}}
    with pytest.raises(NotYet, match=fault.message):
        await rig.volumes.mount(pod_with(volume))
    assert not folder(rig).exists()


async def test_an_optional_configmap_may_come_later(rig: VolumeRig) -> None:
    volume: JsonObject = {"name": "v", "configMap": {"name": "c", "optional": True}}
    await rig.volumes.mount(pod_with(volume))
    assert list(folder(rig).glob("[a-z]*")) == []
    async with running(rig):
        rig.push("configmap", rig.api.put("configmap", "c", data={"a": "1"}), Operation.INSERT)
        await until(lambda: (folder(rig) / "a").exists())


# --- changes --------------------------------------------------------------------------------------


async def test_changes_reach_the_volumes_of_all_pods_that_use_them(rig: VolumeRig) -> None:
    rig.api.put("configmap", "c", data={"a": "1", "b": "1"})
    other = UID[:-1] + "2"
    kicked: list[str] = []
    rig.volumes.kick = kicked.append
    await rig.volumes.mount(pod_with(CONFIG))
    await rig.volumes.mount(pod_with(CONFIG, uid=other))
    async with running(rig):
        rig.push("configmap", rig.api.put("configmap", "c", 2, data={"a": "2"}))
        for uid in (UID, other):
            path = folder(rig, uid=uid)
            await until(lambda path=path: (path / "a").read_text() == "2")  # type: ignore[misc]
            assert not (path / "b").is_symlink()
    assert sorted(kicked) == [UID, other]


async def test_an_older_push_changes_nothing(rig: VolumeRig) -> None:
    rig.api.put("configmap", "c", 5, data={"a": "5"})
    await rig.volumes.mount(pod_with(CONFIG))
    rig.push("configmap", rig.api.put("configmap", "c", 4, data={"a": "4"}))
    await rig.volumes.refresh(UID)
    assert (folder(rig) / "a").read_text() == "5"


async def test_a_configmap_that_is_deleted_leaves_its_files(rig: VolumeRig) -> None:
    item = rig.api.put("configmap", "c", data={"a": "1"})
    await rig.volumes.mount(pod_with(CONFIG))
    rig.push("configmap", item, Operation.DELETE)
    await rig.volumes.refresh(UID)
    await rig.volumes.refresh(UID)
    made = await rig.volumes.mount(pod_with(CONFIG))
    assert made.paths == {"v": str(folder(rig))}, "the Pod goes on"
    assert (folder(rig) / "a").read_text() == "1"
    (event,) = rig.events.texts
    assert event.startswith('Warning FailedMount MountVolume.SetUp failed for volume "v" : ')


async def test_a_restart_goes_on_with_the_files_that_are_there(rig: VolumeRig) -> None:
    rig.api.put("configmap", "c", data={"a": "1"})
    await rig.volumes.mount(pod_with(CONFIG))
    before = os.readlink(folder(rig) / "..data")
    rig.restart()
    await rig.volumes.mount(pod_with(CONFIG))
    assert os.readlink(folder(rig) / "..data") == before
    rig.restart()
    rig.api.fault = StoreUnavailable("disk")
    made = await rig.volumes.mount(pod_with(CONFIG))
    assert made.read_only == {"v"}
    assert (folder(rig) / "a").read_text() == "1"


async def test_labels_reach_a_volume(rig: VolumeRig) -> None:
    volume: JsonObject = {
        "name": "v",
        "downwardAPI": {
            "items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]
        },
    }
    await rig.volumes.mount(pod_with(volume, meta={"labels": {"a": "1"}}))
    async with running(rig):
        rig.volumes.pod_changed(pod_with(volume, meta={"labels": {"a": "2"}}))
        await until(lambda: (folder(rig) / "labels").read_text() == 'a="2"')


async def test_a_token_is_renewed_and_kept_while_none_is_to_be_had(rig: VolumeRig) -> None:
    rig.api.put("configmap", "kube-root-ca.crt", data={"ca": "PEM"})
    clock = [0.0]
    pod = pod_with(TOKEN)
    await rig.volumes.mount(pod)
    first = rig.volumes.tokens
    clock[0] = first.renewal(UID) or 0.0
    first._clock = lambda: clock[0] + 1
    rig.api.fault = Undeliverable("away")
    await rig.volumes.refresh(UID)
    assert (folder(rig) / "token").read_text() == "token-default-1"
    rig.api.fault = None
    clock[0] += 31
    await rig.volumes.refresh(UID)
    assert (folder(rig) / "token").read_text() == "token-default-2"


async def test_a_clock_that_is_set_back_has_tokens_renewed(rig: VolumeRig) -> None:
    rig.api.put("configmap", "kube-root-ca.crt", data={"ca": "PEM"})
    await rig.volumes.mount(pod_with(TOKEN))
    await rig.volumes.refresh(UID)
    assert rig.api.minted == 1
    rig.volumes.tokens._clock = lambda: 1_000.0
    await rig.volumes.refresh(UID)
    await rig.volumes.refresh(UID)
    assert (folder(rig) / "token").read_text() == "token-default-2"


async def test_a_push_while_volumes_are_made_is_not_lost(rig: VolumeRig) -> None:
    item = rig.api.put("configmap", "c", data={"a": "1"})
    await rig.volumes.mount(pod_with(CONFIG))
    async with running(rig):
        for version in range(2, 30):
            item = rig.api.put("configmap", "c", version, data={"a": str(version)})
            rig.push("configmap", item)
            await asyncio.sleep(0.001)
        await until(lambda: (folder(rig) / "a").read_text() == "29")


# --- the end --------------------------------------------------------------------------------------


async def test_the_end_leaves_nothing(rig: VolumeRig) -> None:
    rig.api.put("configmap", "c", data={"a": "1"})
    rig.api.put("secret", "s", data={"key": encoded("word")})
    pod = pod_with(
        CONFIG,
        {"name": "s", "secret": {"secretName": "s"}},
        {"name": "m", "emptyDir": {"medium": "Memory"}},
        {"name": "d", "emptyDir": {}},
    )
    await rig.volumes.mount(pod)
    await rig.volumes.unmount(UID)
    await rig.volumes.unmount(UID)
    assert rig.mounts.below(rig.root) == []
    assert os.listdir(rig.root) == []
    assert rig.objects.kept == frozenset()


async def test_what_a_killed_process_left_is_removed(rig: VolumeRig) -> None:
    rig.api.put("secret", "s", data={"key": encoded("word")})
    await rig.volumes.mount(pod_with(SECRET))
    rig.restart()
    assert await rig.volumes.remove_orphans({UID}) == []
    assert await rig.volumes.remove_orphans(set()) == [UID]
    assert os.listdir(rig.root) == []


async def test_what_is_no_folder_of_a_pod_of_ours_is_no_orphan(rig: VolumeRig) -> None:
    kubelets = rig.root / UID / "volumes" / "kubernetes.io~empty-dir"
    other = rig.root / "lost+found"
    for path in (kubelets, other):
        path.mkdir(parents=True)
    assert await rig.volumes.remove_orphans(set()) == []
    assert kubelets.exists()
    assert other.exists()


async def test_what_others_mounted_inside_is_never_deleted(rig: VolumeRig, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "data").write_text("1")
    made = await rig.volumes.mount(pod_with({"name": "v", "emptyDir": {}}))
    inner = Path(made.paths["v"]) / "deep/inner"
    inner.mkdir(parents=True)
    fd = os.open(precious, os.O_PATH)
    rig.mounts.bind(fd, inner)
    os.close(fd)
    await rig.volumes.unmount(UID)
    assert (precious / "data").read_text() == "1"
    assert not (rig.root / UID).exists()


async def test_a_mount_that_cannot_be_undone_keeps_the_folder(
    rig: VolumeRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Removing goes on only without any mount: by the table, and by what each folder is of."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "data").write_text("1")
    made = await rig.volumes.mount(pod_with({"name": "v", "emptyDir": {}}))
    inner = Path(made.paths["v"]) / "inner"
    inner.mkdir()
    fd = os.open(precious, os.O_PATH)
    rig.mounts.bind(fd, inner)
    os.close(fd)
    for hidden in ("unmount", "table"):
        with monkeypatch.context() as patch:
            patch.setattr(rig.mounts, hidden, lambda *_a, **_k: [])
            with pytest.raises(NotYet, match="mounted"):
                await rig.volumes.unmount(UID)
        assert (precious / "data").read_text() == "1"


async def test_a_busy_mount_goes_lazily(rig: VolumeRig) -> None:
    made = await rig.volumes.mount(pod_with({"name": "v", "emptyDir": {"medium": "Memory"}}))
    with (Path(made.paths["v"]) / "held").open("w"):
        await rig.volumes.unmount(UID)
    assert not (rig.root / UID).exists()


async def test_a_link_in_place_of_a_volume_is_removed_not_followed(
    rig: VolumeRig, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "data").write_text("1")
    made = await rig.volumes.mount(pod_with({"name": "v", "emptyDir": {}}))
    (Path(made.paths["v"]) / "link").symlink_to(outside)
    await rig.volumes.unmount(UID)
    assert (outside / "data").read_text() == "1"


async def test_a_very_deep_folder_is_removed(rig: VolumeRig) -> None:
    made = await rig.volumes.mount(pod_with({"name": "v", "emptyDir": {}}))
    fd = os.open(made.paths["v"], os.O_RDONLY)
    for _ in range(900):
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    await rig.volumes.unmount(UID)
    assert not (rig.root / UID).exists()


async def test_no_uid_leads_out_of_the_root(rig: VolumeRig) -> None:
    pod = pod_with({"name": "v", "emptyDir": {}})
    for uid in ("..", "a/b", "", "."):
        misnamed = msgspec.structs.replace(pod, meta=msgspec.structs.replace(pod.meta, uid=uid))
        with pytest.raises(NotYet):
            await rig.volumes.mount(misnamed)
        with pytest.raises(NotYet):
            await rig.volumes.unmount(uid)


async def test_a_pod_that_has_volumes_is_no_orphan(rig: VolumeRig) -> None:
    pod = pod_with({"name": "v", "emptyDir": {}})
    other = UID[:-1] + "2"
    (rig.root / other / "volumes").mkdir(parents=True)
    await rig.volumes.mount(pod)
    assert await rig.volumes.remove_orphans(set()) == [other]
    assert folder(rig).is_dir()


async def test_many_pods_are_mounted_and_unmounted_at_once(rig: VolumeRig) -> None:
    rig.api.put("secret", "s", data={"key": encoded("word")})
    uids = [f"{UID[:-2]}{number:02d}" for number in range(40)]
    await asyncio.gather(*(rig.volumes.mount(pod_with(SECRET, uid=uid)) for uid in uids))
    assert len(rig.mounts.below(rig.root)) == 40
    await asyncio.gather(*(rig.volumes.unmount(uid) for uid in uids))
    assert rig.mounts.below(rig.root) == []
    assert os.listdir(rig.root) == []


async def test_who_is_cancelled_waits_for_what_is_written(
    rig: VolumeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.api.put("configmap", "c", data={"a": "1"})
    began, gate = threading.Event(), threading.Event()
    write = rig.volumes.folders.write

    def slowly(*args: Any, **kwargs: Any) -> bool:
        began.set()
        gate.wait(10)
        return write(*args, **kwargs)

    monkeypatch.setattr(rig.volumes.folders, "write", slowly)
    mounting = asyncio.create_task(rig.volumes.mount(pod_with(CONFIG)))
    await asyncio.to_thread(began.wait, 10)
    mounting.cancel()
    unmounting = asyncio.create_task(rig.volumes.unmount(UID))
    gate.set()
    await unmounting
    assert mounting.cancelled()
    assert not (rig.root / UID).exists()
