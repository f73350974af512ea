"""Node jobs at the edge: a running EdgeCore, a cloud made by hand, an installer that is a script."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from edge import status
from edge.overlay import Overlay
from edge.taskactions import NO_RUNTIME, Task, TaskActions
from edge.upgrades import Upgrades, running_version
from gateway.config.edge import Spool
from gateway.config.edge_services import EdgeTasks
from gateway.errors import Rejected
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.envelope import Stamp
from gateway.wire.cloudedge.subjects import Subject
from gateway.wire.cloudedge.tasks import (
    BACK_UP,
    CHECK,
    CONFIG_JOB,
    PREPULL_JOB,
    PULL,
    UPGRADE,
    UPGRADE_JOB,
    TaskCommand,
    TaskReported,
    command_task,
)
from tests.integration.edge_cloud import FakeCloud, a_cloud
from tests.integration.edge_node import Node, a_node, join_edge, linked
from tests.integration.edge_support import until

VERSION = "v9.9.9"


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[FakeCloud]:
    async with a_cloud(tmp_path) as running:
        await join_edge(running, tmp_path / "edge")
        yield running


@asynccontextmanager
async def an_edge(cloud: FakeCloud, tmp_path: Path, **settings: Any) -> AsyncIterator[Node]:
    async with a_node(tmp_path / "edge", tasks=EdgeTasks(**settings)) as node:
        await linked(node, cloud)
        yield node


async def ask(
    cloud: FakeCloud, kind: str, spec: JsonObject, *, key: str = "c1", job: str = "j", **more: Any
) -> None:
    command = TaskCommand(kind, job, more.get("node", "edge-1"), more.get("action", CHECK), spec)
    await cloud.send(command_task(Stamp(key, 1), command))


def reports(cloud: FakeCloud) -> list[TaskReported]:
    return [message for _, message in cloud.got if isinstance(message, TaskReported)]


def told(cloud: FakeCloud) -> list[str]:
    return [f"{r.job} {r.action} {r.ok}" for r in reports(cloud)]


def an_installer(folder: Path, script: str) -> str:
    path = folder / "install"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


# --- the link and the disk ----------------------------------------------------------------------


async def test_a_command_that_comes_again_is_answered_and_not_run_again(
    cloud: FakeCloud, tmp_path: Path
) -> None:
    spec: JsonObject = {"updateFields": {"edge.hub.keepalive": "20"}}
    async with an_edge(cloud, tmp_path):
        await ask(cloud, CONFIG_JOB, spec)
        await until(lambda: len(reports(cloud)) == 3)
        path = Overlay(tmp_path / "edge").path
        path.unlink()
        await ask(cloud, CONFIG_JOB, spec)
        await until(lambda: len(reports(cloud)) == 6)
        assert (
            told(cloud)[:3] == told(cloud)[3:] == ["j Check True", "j BackUp True", "j Update True"]
        )
        assert not path.exists()
        assert reports(cloud)[2].reason.startswith("restart needed")


async def test_a_restart_remembers_what_was_run(cloud: FakeCloud, tmp_path: Path) -> None:
    async with an_edge(cloud, tmp_path):
        await ask(cloud, PREPULL_JOB, {"imagePrePullTemplate": {"images": ["a"]}})
        await until(lambda: len(reports(cloud)) == 2)
    async with an_edge(cloud, tmp_path):
        await ask(cloud, PREPULL_JOB, {"imagePrePullTemplate": {"images": ["a"]}})
        await until(lambda: len(reports(cloud)) == 4)
        assert told(cloud)[:2] == told(cloud)[2:] == ["j Check True", "j Pull False"]
        assert reports(cloud)[3].at == reports(cloud)[1].at
        assert reports(cloud)[1].reason == NO_RUNTIME


async def test_what_was_done_without_a_cloud_is_reported_on_return(
    cloud: FakeCloud, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    command = an_installer(tmp_path, f"while [ ! -e {go} ]; do sleep 0.05; done")
    async with an_edge(cloud, tmp_path, upgrade_command=command) as node:
        await ask(cloud, UPGRADE_JOB, {"version": VERSION})
        await until(lambda: told(cloud)[-1:] == ["j BackUp True"])
        assert cloud.socket is not None
        before = cloud.connections
        await cloud.socket.close()
        go.touch()
        await until(lambda: told(cloud)[-1:] == ["j Upgrade True"])
        assert cloud.connections > before
        assert node.core.hub.is_connected


async def test_jobs_run_one_after_another_and_too_many_are_refused(
    cloud: FakeCloud, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    command = an_installer(tmp_path, f"while [ ! -e {go} ]; do sleep 0.05; done")
    async with an_edge(cloud, tmp_path, upgrade_command=command):
        for number in range(23):
            await ask(cloud, UPGRADE_JOB, {"version": VERSION}, key=f"c{number}", job=f"j{number}")
        await until(lambda: "j22 Check False" in told(cloud))
        assert sum(r.action == UPGRADE for r in reports(cloud)) == 0
        go.touch()
        await until(lambda: sum(r.action == UPGRADE and r.ok for r in reports(cloud)) == 20)


# --- refusals ----------------------------------------------------------------------------------


async def test_a_node_that_takes_no_jobs_says_so(cloud: FakeCloud, tmp_path: Path) -> None:
    async with an_edge(cloud, tmp_path, enabled=False):
        await ask(cloud, UPGRADE_JOB, {"version": VERSION})
        await until(lambda: told(cloud) == ["j Check False"])
        assert "edge.tasks.enabled" in reports(cloud)[0].reason


async def test_odd_commands_are_refused_and_the_next_one_is_served(
    cloud: FakeCloud, tmp_path: Path
) -> None:
    async with an_edge(cloud, tmp_path):
        await ask(cloud, PREPULL_JOB, {}, key="1", node="edge-2")
        await ask(cloud, PREPULL_JOB, {}, key="2", job="odd", action="Reboot; now")
        await ask(cloud, PREPULL_JOB, {"imagePrePullTemplate": []}, key="3", job="none")
        huge: JsonObject = {"imagePrePullTemplate": {"images": ["x" * 100_000]}}
        await ask(cloud, PREPULL_JOB, huge, key="4", job="huge")
        await ask(cloud, CONFIG_JOB, {"updateFields": "all"}, key="5", job="fields")
        await ask(cloud, UPGRADE_JOB, {"version": ["$(id)"]}, key="6", job="version")
        await until(lambda: "version Check False" in told(cloud))
        assert told(cloud) == [
            "odd Reboot; now False",
            "none Check True",
            "none Pull False",
            "huge Check True",
            "huge Pull False",
            "fields Check False",
            "version Check False",
        ]


# --- upgrades -----------------------------------------------------------------------------------


async def test_an_upgrade_without_a_command_fails_honestly_and_changes_nothing(
    cloud: FakeCloud, tmp_path: Path
) -> None:
    async with an_edge(cloud, tmp_path):
        await ask(cloud, UPGRADE_JOB, {"version": VERSION})
        await until(lambda: told(cloud)[-1:] == ["j RollBack True"])
        failed = next(r for r in reports(cloud) if r.action == UPGRADE)
        assert not failed.ok
        assert "package manager" in failed.reason
        assert failed.extend == f"{running_version()},{VERSION}"
        copy = tmp_path / "edge" / "edge" / "backup" / running_version() / "edge.db"
        assert copy.read_bytes().startswith(b"SQLite format 3")
        assert copy.stat().st_mode & 0o077 == 0


async def test_the_command_gets_the_version_alone_and_nothing_of_our_environment(
    cloud: FakeCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWINSPAN__SECRET", "s3cret")
    command = an_installer(
        tmp_path, f'echo "$#:$*" > {tmp_path}/args; env > {tmp_path}/env; echo said; exit 3'
    )
    async with an_edge(cloud, tmp_path, upgrade_command=command):
        await ask(cloud, UPGRADE_JOB, {"version": VERSION, "image": "$(id)", "extra": ";"})
        await until(lambda: told(cloud)[-1:] == ["j RollBack False"])
    failed = next(r for r in reports(cloud) if r.action == UPGRADE)
    assert "ended with 3" in failed.reason
    # the last run is that of RollBack: it asks for the version that runs
    assert (tmp_path / "args").read_text() == f"1:{running_version()}\n"
    assert "s3cret" not in (tmp_path / "env").read_text()
    assert (tmp_path / "edge" / "edge" / "upgrade.log").read_text() == "said\nsaid\n"


@pytest.mark.parametrize(
    ("mode", "why"),
    [
        (0o644, "Permission denied"),
        (0o775, "others may write"),
        (None, "No such file or directory"),
    ],
)
async def test_a_command_that_cannot_be_run_is_a_failure(
    mode: int | None, why: str, cloud: FakeCloud, tmp_path: Path
) -> None:
    command = an_installer(tmp_path, "exit 0")
    if mode is None:
        os.unlink(command)
    else:
        os.chmod(command, mode)
    async with an_edge(cloud, tmp_path, upgrade_command=command):
        await ask(cloud, UPGRADE_JOB, {"version": VERSION})
        await until(lambda: "j Upgrade False" in told(cloud))
        assert why in next(r for r in reports(cloud) if r.action == UPGRADE).reason


async def test_a_restart_waits_for_the_command_that_still_runs_before_it_rolls_back(
    cloud: FakeCloud, tmp_path: Path
) -> None:
    go, log = tmp_path / "go", tmp_path / "log"
    script = (
        f"echo begin $1 >> {log}; while [ ! -e {go} ]; do sleep 0.05; done; echo end $1 >> {log}"
    )
    command = an_installer(tmp_path, script)
    async with an_edge(cloud, tmp_path, upgrade_command=command):
        await ask(cloud, UPGRADE_JOB, {"version": VERSION})
        await until((tmp_path / "edge" / "edge" / "upgrade.pid").exists)
        await until(log.exists)
    async with an_edge(cloud, tmp_path, upgrade_command=command):
        assert UPGRADE not in [r.action for r in reports(cloud)]
        go.touch()
        await until(lambda: told(cloud)[-1:] == ["j RollBack True"])
    mine = running_version()
    lines = [f"begin {VERSION}", f"end {VERSION}", f"begin {mine}", f"end {mine}"]
    assert log.read_text().splitlines() == lines


async def test_a_command_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    command = an_installer(tmp_path, f"sleep 600 & echo $! > {tmp_path}/child; wait")
    with pytest.raises(Rejected, match="longer than"):
        await Upgrades(tmp_path, command).run(VERSION, 0.1)
    child = int((tmp_path / "child").read_text())
    await until(lambda: not _lives(child))


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def test_an_upgrade_that_restarts_edgecore_is_judged_by_the_version_that_comes_back(
    cloud: FakeCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = an_installer(tmp_path, "sleep 0.1; exec sleep 5")
    async with an_edge(cloud, tmp_path, upgrade_command=command):
        await ask(cloud, UPGRADE_JOB, {"version": VERSION})
        await until(lambda: (tmp_path / "edge" / "edge" / "upgrade.log").exists())
    monkeypatch.setattr("edge.taskactions.running_version", lambda: "9.9.9")
    async with an_edge(cloud, tmp_path, upgrade_command=command):
        await until(lambda: told(cloud)[-1:] == ["j Upgrade True"])


# --- images -------------------------------------------------------------------------------------


class Runtime:
    """Pulls what is not called bad, at the second try what is called shaky."""

    def __init__(self) -> None:
        self.pulled: list[tuple[str, Any]] = []

    async def pull(self, image: str, secret: JsonObject | None, seconds: float) -> None:
        self.pulled.append((image, secret))
        tries = sum(name == image for name, _ in self.pulled)
        if image == "bad" or (image == "shaky" and tries < 2):
            raise Rejected("manifest unknown")
        await asyncio.sleep(seconds if image == "slow" else 0)


class Api:
    """Secrets by name."""

    async def query(self, subject: Subject, content: Any = None) -> JsonObject:
        return {"metadata": {"name": str(subject)}}


def actions(tmp_path: Path, runtime: Runtime | None = None, used: float = 0.1) -> TaskActions:
    async def usage(_item: str) -> float:
        return used

    api: Any = Api()
    return TaskActions(Overlay(tmp_path), Upgrades(tmp_path, ""), api, usage, runtime)


async def test_images_are_pulled_with_their_secret_and_tried_again(tmp_path: Path) -> None:
    runtime = Runtime()
    template: JsonObject = {
        "images": ["a", "shaky", "bad"],
        "imageSecrets": "ns/s",
        "retryTimes": 1,
    }
    task = Task(PREPULL_JOB, "j", {"imagePrePullTemplate": template})
    found = await actions(tmp_path, runtime).run(task, PULL)
    assert (found.ok, found.reason) == (False, "1 of 3 images could not be pulled")
    assert json.loads(found.extend) == [
        {"image": "a", "status": "True"},
        {"image": "shaky", "status": "True"},
        {"image": "bad", "status": "False", "reason": "manifest unknown"},
    ]
    assert runtime.pulled[0][1] == {"metadata": {"name": "ns/secret/s"}}


@pytest.mark.parametrize("secret", ["s", "/s", "ns/", "ns/a/b"])
async def test_a_secret_without_namespace_is_refused(secret: str, tmp_path: Path) -> None:
    template: JsonObject = {"images": ["a"], "imageSecrets": secret}
    task = Task(PREPULL_JOB, "j", {"imagePrePullTemplate": template})
    found = await actions(tmp_path, Runtime()).run(task, PULL)
    assert "NAMESPACE/NAME" in found.reason


async def test_pulling_ends_with_the_jobs_time(tmp_path: Path) -> None:
    template: JsonObject = {"images": ["slow", "slow"], "timeoutSeconds": 1}
    task = Task(PREPULL_JOB, "j", {"imagePrePullTemplate": template})
    found = await actions(tmp_path, Runtime()).run(task, PULL)
    assert found.reason == "took longer than 1 s"


@pytest.mark.parametrize(("used", "ok"), [(0.8, True), (0.81, False)])
async def test_a_supply_that_is_used_up_stops_a_job(used: float, ok: bool, tmp_path: Path) -> None:
    task = Task(PREPULL_JOB, "j", {"imagePrePullTemplate": {"checkItems": ["disk"]}})
    assert (await actions(tmp_path, used=used).run(task, CHECK)).ok is ok


async def test_a_job_that_waits_is_told_by_the_running_edge_and_by_its_disk(
    cloud: FakeCloud, tmp_path: Path
) -> None:
    waiting = {
        "kind": UPGRADE_JOB,
        "job": "j",
        "action": BACK_UP,
        "waits_for_confirmation": True,
    }
    async with an_edge(cloud, tmp_path) as node:
        await ask(cloud, UPGRADE_JOB, {"version": VERSION, "requireConfirmation": True})
        await until(lambda: told(cloud)[-1:] == ["j WaitingConfirmation True"])
        assert status.of_core(node.core)["jobs"] == [waiting]
    assert status.of_disk(tmp_path / "edge", Spool())["jobs"] == [waiting]
    async with an_edge(cloud, tmp_path) as node:
        assert node.core.tasks.confirm() == "j"
        await until(lambda: told(cloud)[-1:] == ["j RollBack True"])
        assert status.of_core(node.core)["jobs"] == []


async def test_a_store_that_cannot_be_copied_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "edge.db").write_bytes(b"no database" * 1_000)
    found = await actions(tmp_path).run(Task(UPGRADE_JOB, "j", {"version": VERSION}), BACK_UP)
    assert (found.ok, "cannot be copied" in found.reason) == (False, True)


async def test_a_bug_in_an_action_is_a_failure_of_that_job_alone(
    cloud: FakeCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_self: Overlay, _values: Any) -> None:
        raise ZeroDivisionError

    async with an_edge(cloud, tmp_path):
        with monkeypatch.context() as patch:
            patch.setattr(Overlay, "with_changes", broken)
            await ask(cloud, CONFIG_JOB, {"updateFields": {"edge.hub.keepalive": "20"}}, key="1")
            await until(lambda: told(cloud) == ["j Check False"])
        await ask(cloud, CONFIG_JOB, {"updateFields": {"edge.hub.keepalive": "20"}}, key="2")
        await until(lambda: told(cloud)[-1:] == ["j Update True"])


async def test_old_copies_go(tmp_path: Path) -> None:
    upgrades = Upgrades(tmp_path, "")
    for number in range(5):
        upgrades.back_up(f"1.0.{number}")
    assert {path.name for path in (tmp_path / "backup").iterdir()} == {"1.0.3", "1.0.4"}
