"""What is removed and what stays: images, ended containers, old logs."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from edge.pods import housekeeping
from edge.pods.housekeeping import Housekeeping
from edge.pods.imagegc import (
    ContainerCollector,
    DiskStaysFull,
    ImageCollector,
    Policy,
    percent_used,
    remains,
    size_text,
    to_free,
)
from edge.pods.logrotation import LogRotation, remove_logs, tidy
from edge.pods.podspec import Container, Pod
from edge.pods.runtime import (
    POD_UID,
    ContainerState,
    FilesystemUsage,
    Image,
    RuntimeAway,
    RuntimeFault,
    RuntimeNotFound,
    Sandbox,
    State,
)
from gateway.errors import Undeliverable


class Told:
    def __init__(self) -> None:
        self.events: list[tuple[str, str, str]] = []

    def event(
        self, pod: Pod, kind: str, reason: str, message: str, container: Container | None = None
    ) -> None:
        raise AssertionError("an event of a Pod")

    def node_event(self, kind: str, reason: str, message: str) -> None:
        self.events.append((kind, reason, message))


def touch(path: str) -> None:
    Path(path).touch()


def names_in(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


# --- images -----------------------------------------------------------------------------------------


class Shelf:
    """Images on a disk of 1,000 bytes."""

    def __init__(self, **sizes: int) -> None:
        self.items = {
            name: Image(id=name, tags=(f"{name}:1",), size=n) for name, n in sizes.items()
        }
        self.used: set[str] = set()
        self.stuck: set[str] = set()
        self.other_bytes = 0

    async def images(self) -> list[Image]:
        return list(self.items.values())

    async def used_images(self) -> frozenset[str]:
        return frozenset(self.used)

    async def remove_image(self, reference: str) -> None:
        if reference in self.stuck:
            raise RuntimeFault("read-only file system")
        del self.items[reference]

    async def image_filesystems(self) -> list[FilesystemUsage]:
        return [FilesystemUsage(mountpoint="/images", used_bytes=0, used_inodes=0)]

    def measure(self, _path: str) -> tuple[int, int]:
        used = self.other_bytes + sum(each.size for each in self.items.values())
        return 1_000, 1_000 - used


class Yard:
    """A collector and its clock."""

    def __init__(self, shelf: Shelf, policy: Policy | None = None) -> None:
        self.shelf, self.told, self.now = shelf, Told(), 1_000.0
        self.collector = ImageCollector(
            shelf, self.told, policy, measure=shelf.measure, clock=lambda: self.now
        )


@pytest.mark.parametrize(
    ("available", "bytes_to_free"), [(1_000, 0), (160, 0), (150, 50), (100, 100), (0, 200)]
)
def test_from_the_high_threshold_on_the_disk_is_freed_to_the_low_one(
    available: int, bytes_to_free: int
) -> None:
    assert to_free(Policy(), 1_000, available) == bytes_to_free


def test_more_available_than_there_is_counts_as_all() -> None:
    assert percent_used(100, 200) == 0


async def test_below_the_threshold_nothing_goes() -> None:
    yard = Yard(Shelf(a=400, b=400))
    await yard.collector.collect()
    yard.now += 1_000
    assert await yard.collector.collect() == 0


async def test_the_longest_unused_go_first_and_no_more_than_needed() -> None:
    yard = Yard(Shelf(a=300, b=300, c=300))
    yard.shelf.used = {"a"}
    yard.shelf.other_bytes = -100
    await yard.collector.collect()
    yard.shelf.used, yard.now = {"c:1"}, yard.now + 500
    yard.shelf.other_bytes = 0
    assert await yard.collector.collect() == 300
    assert list(yard.shelf.items) == ["a", "c"]


async def test_images_in_use_pinned_or_new_stay_and_that_is_told() -> None:
    yard = Yard(Shelf(used=300, pinned=300, old=50))
    yard.shelf.used = {"used:1"}
    yard.shelf.items["pinned"] = Image(id="pinned", size=300, pinned=True)
    await yard.collector.collect()
    yard.now += 200
    yard.shelf.items["new"] = Image(id="new", size=300)
    with pytest.raises(DiskStaysFull, match=r"\(95% of 1000 B used\).*freed 50 bytes"):
        await yard.collector.collect()
    assert sorted(yard.shelf.items) == ["new", "pinned", "used"]
    assert [reason for _, reason, _ in yard.told.events] == ["FreeDiskSpaceFailed"]


async def test_an_image_that_cannot_be_removed_leaves_the_others_their_turn() -> None:
    yard = Yard(Shelf(a=300, b=300, c=300))
    yard.shelf.stuck = {"a"}
    yard.shelf.other_bytes = -100
    await yard.collector.collect()
    yard.now, yard.shelf.other_bytes = yard.now + 500, 0
    with pytest.raises(RuntimeFault, match="read-only file system"):
        await yard.collector.collect()
    assert list(yard.shelf.items) == ["a", "c"]


async def test_by_age_images_go_whatever_the_disk() -> None:
    yard = Yard(Shelf(idle=1, used=1), Policy(max_age=1_000.0))
    yard.shelf.used = {"used"}
    await yard.collector.collect()
    yard.now += 1_000
    assert await yard.collector.collect() == 0
    yard.now += 1
    assert await yard.collector.collect() == 1
    assert list(yard.shelf.items) == ["used"]


async def test_for_eviction_all_that_is_unused_goes() -> None:
    yard = Yard(Shelf(a=10, b=20, c=30))
    yard.shelf.used = {"b"}
    await yard.collector.collect()
    yard.now += 200
    assert await yard.collector.free_all() == 40
    assert list(yard.shelf.items) == ["b"]


async def test_a_second_failure_in_a_row_is_an_event() -> None:
    shelf = Shelf(a=950)
    yard = Yard(shelf)
    runtime = Boxes()
    house = Housekeeping(
        LogRotation(runtime), ContainerCollector(runtime, lambda: None), yard.collector, yard.told
    )
    await house.collect_images()
    assert [reason for _, reason, _ in yard.told.events] == ["FreeDiskSpaceFailed"]
    await house.collect_images()
    assert [reason for _, reason, _ in yard.told.events[1:]] == [
        "FreeDiskSpaceFailed",
        "ImageGCFailed",
    ]


async def test_a_round_that_fails_is_told_and_the_next_one_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("LOGS_SECONDS", "CONTAINERS_SECONDS", "IMAGES_SECONDS"):
        monkeypatch.setattr(housekeeping, name, 0.001)
    yard, runtime = Yard(Shelf()), Boxes()
    runtime.is_away = True
    house = Housekeeping(
        LogRotation(runtime), ContainerCollector(runtime, lambda: None), yard.collector, yard.told
    )
    up = asyncio.Event()
    running = asyncio.create_task(house.run(up.set))
    async with asyncio.timeout(10):
        await up.wait()
        while sum(r == "ContainerGCFailed" for _, r, _ in yard.told.events) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


def test_sizes_are_written_for_people() -> None:
    assert [size_text(n) for n in (1, 1_536, 5 << 30)] == ["1 B", "1.5 KiB", "5.0 GiB"]


# --- containers -------------------------------------------------------------------------------------


def container(
    name: str, made: float, state: State = State.EXITED, uid: str = "u", box: str = "s"
) -> ContainerState:
    return ContainerState(
        id=f"{name}-{made:g}",
        sandbox_id=box,
        name=name,
        attempt=0,
        state=state,
        created_at=int(made * 1e9),
        labels={POD_UID: uid},
    )


def sandbox(box: str, made: int, *, uid: str = "u", is_ready: bool = False) -> Sandbox:
    return Sandbox(
        id=box, name="p", namespace="n", uid=uid, attempt=0, is_ready=is_ready, created_at=made
    )


def test_of_each_container_the_last_ended_one_stays() -> None:
    found = remains(
        [container("a", 1), container("a", 2), container("a", 3), container("b", 1)],
        [],
        frozenset({"u"}),
        1_000,
    )
    assert found.containers == ("a-2", "a-1")


def test_running_ones_and_those_about_to_start_stay_also_of_gone_pods() -> None:
    found = remains(
        [
            container("a", 1, State.RUNNING),
            container("b", 999, State.CREATED),
            container("c", 1, State.CREATED),
            container("d", 1, State.UNKNOWN),
        ],
        [],
        frozenset(),
        1_000,
    )
    assert (found.containers, found.stops) == (("c-1", "d-1"), frozenset({"d-1"}))


def test_a_sandbox_goes_when_it_is_dead_empty_and_not_the_newest() -> None:
    boxes = [
        sandbox("old", 1),
        sandbox("held", 2),
        sandbox("newest", 3),
        sandbox("gone", 1, uid="x"),
        sandbox("alive", 2, uid="x", is_ready=True),
    ]
    found = remains([container("a", 1, box="held")], boxes, frozenset({"u"}), 1_000)
    assert found.sandboxes == ("old", "gone")


class Boxes:
    """Containers with logs."""

    def __init__(self, *states: ContainerState, logs: Mapping[str, str] | None = None) -> None:
        self.items = {each.id: each for each in states}
        self.logs = logs or {}
        self.reopened: list[str] = []
        self.done: list[str] = []
        self.rooms: list[Sandbox] = []
        self.stuck: set[str] = set()
        """Sandboxes that cannot be stopped."""
        self.refuses = self.is_away = False

    async def containers(self) -> list[ContainerState]:
        if self.is_away:
            raise RuntimeAway("no runtime")
        return list(self.items.values())

    async def container(self, container_id: str) -> ContainerState:
        if container_id not in self.items:
            raise RuntimeNotFound(container_id)
        found = self.items[container_id]
        return ContainerState(
            id=found.id,
            sandbox_id="",
            name=found.name,
            attempt=0,
            state=found.state,
            created_at=0,
            log_path=self.logs.get(container_id, ""),
        )

    async def reopen_log(self, container_id: str) -> None:
        if self.refuses:
            raise RuntimeFault("container is not running")
        self.reopened.append(container_id)
        touch(self.logs[container_id])

    async def sandboxes(self) -> list[Sandbox]:
        return self.rooms

    async def stop_container(self, container_id: str, grace_seconds: int) -> None:
        self.done.append(f"stop {container_id} {grace_seconds}")

    async def remove_container(self, container_id: str) -> None:
        self.done.append(f"remove {container_id}")
        self.items.pop(container_id)

    async def stop_sandbox(self, sandbox_id: str) -> None:
        if sandbox_id in self.stuck:
            raise RuntimeFault("failed to destroy network for sandbox")
        self.done.append(f"stop {sandbox_id}")

    async def remove_sandbox(self, sandbox_id: str) -> None:
        self.done.append(f"remove {sandbox_id}")


async def test_an_old_container_goes_with_its_logs(tmp_path: Path) -> None:
    for name in ("0.log", "0.log.20260101-000000.gz", "1.log"):
        (tmp_path / name).touch()
    boxes = Boxes(container("a", 1), container("a", 2), logs={"a-1": str(tmp_path / "0.log")})
    assert await ContainerCollector(boxes, lambda: frozenset({"u"})).collect() == 1
    assert boxes.done == ["remove a-1"]
    assert names_in(tmp_path) == ["1.log"]


async def test_a_sandbox_that_cannot_go_is_in_no_other_s_way() -> None:
    boxes = Boxes()
    boxes.rooms = [sandbox("b1", 1, uid="gone"), sandbox("b2", 2, uid="gone")]
    boxes.stuck = {"b1", "b2"}
    collector = ContainerCollector(boxes, lambda: frozenset())
    with pytest.raises(RuntimeFault, match="failed to destroy network"):
        await collector.collect()
    for left in ("b1", "b2"):
        boxes.stuck, boxes.done = {left}, []
        with pytest.raises(RuntimeFault):
            await collector.collect()
        (other,) = {"b1", "b2"} - {left}
        assert boxes.done == [f"stop {other}", f"remove {other}"]


async def test_while_the_pods_are_not_known_nothing_goes() -> None:
    boxes = Boxes(container("a", 1), container("a", 2))
    assert await ContainerCollector(boxes, lambda: None).collect() == 0
    assert boxes.done == []


# --- logs -------------------------------------------------------------------------------------------


def test_rotated_logs_are_packed_and_the_oldest_go() -> None:
    found = tidy(["l.1.gz", "l.2.gz", "l.3.gz", "l.4"], max_files=5)
    assert (found.removed, found.packed) == (("l.1.gz",), ("l.4",))


def test_what_a_crash_left_half_done_goes() -> None:
    found = tidy(["l.1", "l.1.gz", "l.2", "l.2.tmp"], max_files=5)
    assert (found.removed, found.packed) == (("l.1", "l.2.tmp"), ("l.2",))


def test_with_two_files_no_packed_one_is_kept() -> None:
    assert tidy(["l.1.gz", "l.2"], max_files=2).removed == ("l.1.gz", "l.2")


class Chatty:
    """A running container whose log grows."""

    def __init__(self, folder: Path, max_files: int = 4) -> None:
        self.log = folder / "0.log"
        self.boxes = Boxes(container("a", 1, State.RUNNING), logs={"a-1": str(self.log)})
        self.now = 0.0
        self.rotation = LogRotation(
            self.boxes, max_bytes=10, max_files=max_files, clock=lambda: self.now
        )

    async def says(self, text: str) -> int:
        with self.log.open("a") as log:
            log.write(text)
        self.now += 1
        return await self.rotation.rotate()


async def test_a_log_that_has_grown_is_rotated_and_the_older_packed(tmp_path: Path) -> None:
    chatty = Chatty(tmp_path)
    assert await chatty.says("short") == 0
    for round_ in range(5):
        assert await chatty.says(f"{round_} is long enough") == 1
    names = names_in(tmp_path)
    assert names == [
        "0.log",
        "0.log.19700101-000004.gz",
        "0.log.19700101-000005.gz",
        "0.log.19700101-000006",
    ]
    packed = gzip.decompress((tmp_path / names[1]).read_bytes())
    assert packed == b"2 is long enough"
    assert (tmp_path / "0.log").read_text() == ""
    assert chatty.boxes.reopened == ["a-1"] * 5


async def test_names_go_on_where_the_clock_stands_or_was_set_back(tmp_path: Path) -> None:
    chatty = Chatty(tmp_path, max_files=5)
    for number, chatty.now in enumerate((60.0, 60.0, 5.0)):
        chatty.log.write_text(f"{number} is long enough")
        assert await chatty.rotation.rotate() == 1
    names = names_in(tmp_path)[1:]
    stamps = ("000100.gz", "000101.gz", "000102")
    assert names == [f"0.log.19700101-{each}" for each in stamps]
    assert gzip.decompress((tmp_path / names[1]).read_bytes()) == b"1 is long enough"


async def test_when_the_runtime_will_not_reopen_all_is_as_before(tmp_path: Path) -> None:
    chatty = Chatty(tmp_path)
    chatty.boxes.refuses = True
    assert await chatty.says("long enough") == 0
    assert names_in(tmp_path) == ["0.log"]
    chatty.boxes.refuses = False
    assert await chatty.says("") == 1


async def test_a_log_that_was_renamed_before_a_crash_is_begun_anew(tmp_path: Path) -> None:
    chatty = Chatty(tmp_path)
    (tmp_path / "0.log.19700101-000001").write_text("what was said before")
    assert await chatty.rotation.rotate() == 0
    assert chatty.boxes.reopened == ["a-1"]
    assert chatty.log.exists()


async def test_a_container_without_a_log_is_left_alone() -> None:
    boxes = Boxes(container("a", 1, State.RUNNING))
    assert await LogRotation(boxes).rotate() == 0


def test_logs_of_others_stay_when_one_goes(tmp_path: Path) -> None:
    for name in ("1.log", "1.log.x", "11.log", "10.log"):
        (tmp_path / name).touch()
    remove_logs(str(tmp_path / "1.log"))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["10.log", "11.log"]
    remove_logs(str(tmp_path / "none" / "1.log"))


class _Breaking:
    """Rotates, unless it is told to fail."""

    fails = True

    async def rotate(self) -> None:
        if self.fails:
            raise Undeliverable("the runtime is away")


async def test_what_goes_on_failing_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    rotation = _Breaking()
    keeping = Housekeeping(cast(Any, rotation), cast(Any, None), cast(Any, None), cast(Any, None))
    for fails in (True, True, False, True):
        rotation.fails = fails
        await keeping.rotate_logs()
    assert [each.levelname for each in caplog.records].count("WARNING") == 2
