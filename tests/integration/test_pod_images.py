"""Images, their removal and log rotation against a real containerd and a registry on loopback."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from edge.pods.cri import CriRuntime
from edge.pods.imagegc import ContainerCollector, DiskStaysFull, ImageCollector, Policy
from edge.pods.images import JobImages, PodImages, Puller
from edge.pods.logrotation import LogRotation
from edge.pods.podspec import Container, Pod, read_pod
from edge.pods.ports import NotYet
from edge.pods.runtime import ContainerConfig, RuntimeAway, SandboxConfig, State
from edge.taskactions import Task, TaskActions
from gateway.errors import NotFound, Rejected
from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.subjects import Subject
from gateway.wire.cloudedge.tasks import PREPULL_JOB, PULL
from tests.containerd import Containerd, running_containerd
from tests.containerd import containerd as containerd
from tests.integration.edge_support import until
from tests.ociimages import PASSWORD, USER, filler
from tests.ports import free_port


@pytest.fixture
async def runtime(containerd: Containerd) -> AsyncIterator[CriRuntime]:
    made = CriRuntime(containerd.endpoint, "edge-1")
    try:
        yield made
    finally:
        containerd.registry.failing.clear()
        containerd.remove_pods()
        await made.close()


class Told:
    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def event(
        self, pod: Pod, kind: str, reason: str, message: str, container: Container | None = None
    ) -> None:
        self.events.append((reason, message))

    def node_event(self, kind: str, reason: str, message: str) -> None:
        self.events.append((reason, message))

    @property
    def reasons(self) -> list[str]:
        return [reason for reason, _ in self.events]


class OneSecret:
    """The Secret `pull` with one user's credentials."""

    def __init__(self, host: str, password: str = PASSWORD) -> None:
        auth = base64.b64encode(f"{USER}:{password}".encode()).decode()
        text = json.dumps({"auths": {f"http://{host}/v2/": {"auth": auth}}})
        self.item: JsonObject = {
            "type": "kubernetes.io/dockerconfigjson",
            "data": {".dockerconfigjson": base64.b64encode(text.encode()).decode()},
        }

    async def secret(self, namespace: str, name: str) -> JsonObject:
        if name != "pull":
            raise NotFound(f"{namespace}/{name}")
        return self.item


class Rig:
    def __init__(self, containerd: Containerd, runtime: CriRuntime) -> None:
        self.told, self.now, self.runtime = Told(), 0.0, runtime
        self.secrets = OneSecret(containerd.registry.host)
        self.images = PodImages(runtime, Puller(runtime), self.secrets, self.told, lambda: self.now)

    async def ensure(self, image: str, policy: str = "", *secrets: str) -> str:
        spec: JsonObject = {"imagePullSecrets": [{"name": each} for each in secrets]}
        pod = read_pod({"metadata": {"uid": "u1", "name": "p"}, "spec": spec})
        container = Container(name="main", image=image, image_pull_policy=policy)
        return await self.images.ensure(pod, container, None)


@pytest.fixture
def rig(containerd: Containerd, runtime: CriRuntime) -> Rig:
    return Rig(containerd, runtime)


# --- pulls ------------------------------------------------------------------------------------------


async def test_an_image_is_pulled_once_and_present_afterwards(
    rig: Rig, containerd: Containerd
) -> None:
    name = containerd.image("busybox-env")
    reference = await rig.ensure(name)
    assert await rig.ensure(name) == reference
    assert rig.told.reasons == ["Pulling", "Pulled", "Pulled"]
    found = await rig.runtime.image(name)
    assert found is not None
    assert rig.told.events[1][1].endswith(f"Image size: {found.size} bytes.")
    assert await rig.ensure(name, "Always") == reference
    await rig.runtime.remove_image(reference)


async def test_a_private_image_comes_with_the_pods_secret_alone(
    rig: Rig, containerd: Containerd
) -> None:
    name = containerd.image("private/busybox")
    with pytest.raises(NotYet, match="401 Unauthorized") as caught:
        await rig.ensure(name)
    assert caught.value.reason == "ErrImagePull"
    with pytest.raises(NotYet) as again:
        await rig.ensure(name, "", "pull")
    assert again.value.reason == "ImagePullBackOff"
    rig.now = 10.0
    reference = await rig.ensure(name, "", "lost", "pull")
    assert rig.told.reasons == [
        *["Pulling", "Failed", "BackOff"],
        *["FailedToRetrieveImagePullSecret", "Pulling", "Pulled"],
    ]
    assert USER in containerd.registry.logins
    await rig.runtime.remove_image(reference)


async def test_a_registry_that_fails_is_tried_again_until_it_does_not(
    rig: Rig, containerd: Containerd
) -> None:
    name = containerd.image("busybox-entry")
    containerd.registry.failing["busybox-entry"] = 503
    with pytest.raises(NotYet, match="503"):
        await rig.ensure(name)
    containerd.registry.failing.clear()
    rig.now = 10.0
    await rig.runtime.remove_image(await rig.ensure(name))


async def test_a_registry_nobody_answers_at_is_told(rig: Rig) -> None:
    with pytest.raises(NotYet, match="connection refused"):
        await rig.ensure(f"127.0.0.1:{free_port()}/app:1")


async def test_a_pull_that_stalls_ends_with_its_pod(rig: Rig, containerd: Containerd) -> None:
    registry = containerd.registry
    registry.images["slow:1"] = filler("slow", 200_000)
    registry.held["slow"] = threading.Event()
    pull = asyncio.ensure_future(rig.ensure(registry.name("slow")))
    await until(lambda: any(each.startswith("slow:") for each in registry.pulls))
    pull.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pull
    registry.held["slow"].set()
    await rig.runtime.remove_image(await rig.ensure(registry.name("slow")))


async def test_a_job_pulls_with_its_secret_and_tells_what_it_could_not(
    rig: Rig, containerd: Containerd
) -> None:
    jobs, name = JobImages(Puller(rig.runtime)), containerd.image("private/busybox")
    with pytest.raises(Rejected, match="not found"):
        await jobs.pull(containerd.image("nothing"), None, 30.0)
    await jobs.pull(name, rig.secrets.item, 30.0)
    assert await rig.runtime.image(name) is not None
    await rig.runtime.remove_image(name)


class SecretsOfTheApi:
    """As much of EdgeApi as a pre-pull job asks."""

    def __init__(self, secrets: OneSecret) -> None:
        self._secrets = secrets

    async def query(self, subject: Subject, content: Json = None) -> JsonObject:
        return await self._secrets.secret(subject.namespace or "", subject.name)


async def test_a_pre_pull_job_has_its_images_on_the_node(rig: Rig, containerd: Containerd) -> None:
    actions = TaskActions(
        cast("Any", None),
        cast("Any", None),
        cast("Any", SecretsOfTheApi(rig.secrets)),
        cast("Any", None),
        JobImages(Puller(rig.runtime)),
    )
    names = [containerd.image("private/busybox"), containerd.image("nothing")]
    template: JsonObject = {"images": list(names), "imageSecrets": "default/pull"}
    done = await actions.run(Task(PREPULL_JOB, "job", {"imagePrePullTemplate": template}), PULL)
    states = json.loads(done.extend)
    assert (done.ok, done.reason) == (False, "1 of 2 images could not be pulled")
    assert states[0] == {"image": names[0], "status": "True"}
    assert (states[1]["status"], "not found" in states[1]["reason"]) == ("False", True)
    found = await rig.runtime.image(names[0])
    assert found is not None
    await rig.runtime.remove_image(found.id)


# --- removal ----------------------------------------------------------------------------------------


async def start(
    runtime: CriRuntime, rig: Containerd, logs: Path, script: str, attempt: int = 0
) -> tuple[str, str]:
    """Run a script in a container, in a sandbox of its own unless one is there."""
    config = SandboxConfig(
        name="pod", uid="u1", namespace="default", attempt=0, log_directory=str(logs)
    )
    boxes = await runtime.sandboxes()
    box = boxes[0].id if boxes else await runtime.run_sandbox(config)
    made = ContainerConfig(
        name="main",
        attempt=attempt,
        image=rig.image(),
        command=("sh", "-c", script),
        log_path=f"{attempt}.log",
    )
    container_id = await runtime.create_container(box, made, config)
    await runtime.start_container(container_id)
    return box, container_id


async def test_a_full_disk_is_freed_of_what_nobody_uses(
    rig: Rig, containerd: Containerd, tmp_path: Path
) -> None:
    """Another edge's container uses an image too: it stays, as the sandboxes' own does."""
    other = CriRuntime(containerd.endpoint, "edge-2")
    await start(other, containerd, tmp_path, "sleep 100")
    await other.close()
    for name in ("fill-a", "fill-b"):
        containerd.registry.images[f"{name}:1"] = filler(name, 300_000)
        await rig.runtime.pull(containerd.image(name))
    before = {each.tags[0] for each in await rig.runtime.images() if each.tags}
    assert {containerd.image("fill-a"), containerd.image("pause")} <= before
    collector = ImageCollector(
        rig.runtime, rig.told, Policy(min_age=0.0), measure=lambda _: (10_000_000, 1_000_000)
    )
    with pytest.raises(DiskStaysFull, match=r"90% of .* used"):
        await collector.collect()
    left = {each.tags[0] for each in await rig.runtime.images() if each.tags}
    assert left == {containerd.image("pause"), containerd.image()}
    assert rig.told.reasons == ["FreeDiskSpaceFailed"]


async def test_ended_runs_go_but_the_last_and_its_log(
    runtime: CriRuntime, containerd: Containerd, tmp_path: Path
) -> None:
    ids = []
    for attempt in range(3):
        _, container_id = await start(runtime, containerd, tmp_path, "echo bye", attempt)
        async with asyncio.timeout(20):
            while (await runtime.container(container_id)).state is not State.EXITED:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        ids.append(container_id)
    await ContainerCollector(runtime, lambda: frozenset({"u1"})).collect()
    assert [each.id for each in await runtime.containers()] == ids[2:]
    assert os.listdir(tmp_path) == ["2.log"]
    assert len(await runtime.sandboxes()) == 1


async def test_what_is_left_of_a_gone_pod_goes_and_what_runs_stays(
    runtime: CriRuntime, containerd: Containerd, tmp_path: Path
) -> None:
    box, running = await start(runtime, containerd, tmp_path, "sleep 100")
    collector = ContainerCollector(runtime, lambda: frozenset())
    assert await collector.collect() == 0
    assert (await runtime.container(running)).state is State.RUNNING
    await runtime.stop_sandbox(box)
    await collector.collect()
    await collector.collect()
    assert await runtime.containers() == []
    assert await runtime.sandboxes() == []


# --- logs -------------------------------------------------------------------------------------------

CHATTY = "i=0; while :; do i=$((i+1)); echo line $i; done"


async def test_a_chatty_container_keeps_to_its_files_and_loses_no_line(
    runtime: CriRuntime, containerd: Containerd, tmp_path: Path
) -> None:
    now = 0.0
    rotation = LogRotation(runtime, max_bytes=200_000, max_files=4, clock=lambda: now)
    await start(runtime, containerd, tmp_path, CHATTY)
    rotated = 0
    async with asyncio.timeout(60):
        while rotated < 5:
            now += 1
            rotated += await rotation.rotate()
            await asyncio.sleep(0.02)
    await rotation.rotate()
    for each in await runtime.sandboxes():
        await runtime.stop_sandbox(each.id)
    names = sorted(os.listdir(tmp_path))
    assert len(names) <= 4
    assert [name.endswith(".gz") for name in names[1:]] == [True] * (len(names) - 2) + [False]
    numbers = [n for name in [*names[1:], names[0]] for n in lines_of(tmp_path / name)]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert numbers[0] > 1


def lines_of(path: Path) -> list[int]:
    data = path.read_bytes()
    text = gzip.decompress(data) if path.name.endswith(".gz") else data
    return [int(line.rpartition(b" ")[2]) for line in text.splitlines()]


async def test_a_log_renamed_by_a_crash_is_begun_anew(
    runtime: CriRuntime, containerd: Containerd, tmp_path: Path
) -> None:
    await start(runtime, containerd, tmp_path, "while :; do echo tick; sleep 0.05; done")
    log = tmp_path / "0.log"
    await until(log.exists)
    log.rename(tmp_path / "0.log.20260101-000000")
    await LogRotation(runtime).rotate()
    await until(lambda: log.exists() and log.stat().st_size)


async def test_images_that_fill_a_real_disk_make_room_for_the_next() -> None:
    """14 MB of an image are 28 MB on the disk: packed, and unpacked."""
    with running_containerd(disk_bytes=64 << 20) as small:
        runtime = CriRuntime(small.endpoint, "edge-1")
        rig = Rig(small, runtime)
        for name in ("one", "two", "three"):
            small.registry.images[f"{name}:1"] = filler(name, 14_000_000)
        await rig.ensure(small.image("one"))
        await rig.ensure(small.image("two"))
        with pytest.raises(NotYet, match="no space left on device") as caught:
            await rig.ensure(small.image("three"))
        assert caught.value.reason == "ErrImagePull"
        collector = ImageCollector(runtime, rig.told, Policy(min_age=0.0))
        assert await collector.collect() > 14_000_000
        assert "FreeDiskSpaceFailed" not in rig.told.reasons
        async with asyncio.timeout(30):
            while True:  # containerd gives the room back in its own time
                rig.now += 300.0
                try:
                    await rig.ensure(small.image("three"))
                    break
                except NotYet:
                    await asyncio.sleep(0.2)
        await runtime.close()


# --- containerd away --------------------------------------------------------------------------------


async def test_a_pull_that_containerd_dies_in_is_made_good_afterwards(
    rig: Rig, containerd: Containerd
) -> None:
    registry = containerd.registry
    registry.images["cut:1"] = filler("cut", 200_000)
    registry.held["cut"] = threading.Event()
    pull = asyncio.ensure_future(rig.ensure(registry.name("cut")))
    await until(lambda: any(each.startswith("cut:") for each in registry.pulls))
    await asyncio.to_thread(containerd.kill)
    with pytest.raises(RuntimeAway):
        await pull
    registry.held.pop("cut").set()
    await asyncio.to_thread(containerd.start)
    async with asyncio.timeout(20):
        while True:
            try:
                reference = await rig.ensure(registry.name("cut"))
                break
            except RuntimeAway:
                await asyncio.sleep(0.05)
    assert rig.told.reasons[-1] == "Pulled"
    await rig.runtime.remove_image(reference)


async def test_a_containers_log_is_rotated_after_containerd_came_back(
    runtime: CriRuntime, containerd: Containerd, tmp_path: Path
) -> None:
    """The shim keeps the container, containerd opens its log anew; a rotation goes on as before."""
    _, container_id = await start(runtime, containerd, tmp_path, CHATTY)
    await asyncio.to_thread(containerd.restart, hard=True)
    rotation = LogRotation(runtime, max_bytes=10_000)
    async with asyncio.timeout(30):
        rotated = 0
        while not rotated:
            try:
                rotated = await rotation.rotate()
            except RuntimeAway:
                await asyncio.sleep(0.05)
    log = tmp_path / "0.log"
    await until(lambda: log.exists() and log.stat().st_size)
    assert (await runtime.container(container_id)).state is State.RUNNING
