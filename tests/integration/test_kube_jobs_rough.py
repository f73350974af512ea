"""Jobs on a server that refuses, conflicts and loses answers: the numbers are right in the end."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import Conflict, Undeliverable
from gateway.kube.client import KubeClient
from gateway.kube.control.manager import ControllerManager
from gateway.model.json import JsonObject
from gateway.runtime.module import running
from gateway.wire.kube.jobpods import outcome_of
from gateway.wire.kube.parts import part
from tests.fake_kubelet import Fate
from tests.integration.test_kube_jobs import JOBS, NS, a_job, held
from tests.workload_rig import eventually, workloads

WRITES = ("create", "update", "patch", "delete")


class Rough:
    """A client whose writes fail before they happen, or after: nobody can tell."""

    def __init__(self, kube: KubeClient, chance: random.Random, share: float) -> None:
        self._kube = kube
        self._chance = chance
        self._share = share

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._kube, name)
        return self._rough(found) if name in WRITES else found

    def _rough(self, write: Any) -> Any:
        async def attempt(*where: Any, **how: Any) -> Any:
            if self._chance.random() < self._share:
                raise self._chance.choice([Conflict("moved"), Undeliverable("away")])
            done = await write(*where, **how)
            if where[1] != "events" and self._chance.random() < self._share:
                raise Undeliverable("the answer was lost")
            return done

        return attempt


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("mode", ["NonIndexed", "Indexed"])
async def test_each_pod_counts_once_on_a_rough_server(tmp_path: Path, seed: int, mode: str) -> None:
    chance = random.Random(seed)
    ended: dict[str, Fate] = {}

    def fate(pod: JsonObject) -> Fate:
        uid = str(part(pod, "metadata")["uid"])
        if uid not in ended:
            ended[uid] = "failed" if chance.random() < 0.15 else "succeeded"
        return ended[uid]

    async with workloads(tmp_path) as rig:
        rig.kubelet.fate = fate
        client = rig.server.api.client
        loops = ControllerManager(
            lambda name: Rough(client(name), chance, 0.15),
            ("job",),
            now=_hurried(),
        )
        await rig.kube.create(
            *JOBS, NS, a_job(completions=8, parallelism=3, completionMode=mode, backoffLimit=100)
        )

        async def status() -> JsonObject:
            return part(await rig.kube.get(*JOBS, NS, "pi"), "status")

        async with running(loops):
            found = await eventually(status, lambda seen: outcome_of({"status": seen}) is not None)
        lost = sum(word == "failed" for word in ended.values())
        won = sum(word == "succeeded" for word in ended.values())
        assert found.get("failed", 0) == lost
        # an answer that was lost may have made one Pod more than was needed
        assert found["succeeded"] == (8 if mode == "Indexed" else won)
        assert won >= 8
        assert "uncountedTerminatedPods" not in found or not found["uncountedTerminatedPods"]
        await rig.until_pods(lambda pods: all(entry is None for entry in held(pods)))


def _hurried() -> Any:
    """A clock that is always far ahead: no back-off of Pods lasts."""
    return lambda: 4_000_000_000.0
