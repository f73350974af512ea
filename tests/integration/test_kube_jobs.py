"""Jobs and CronJobs on the running server, with a kubelet that runs nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from gateway.kube.control.manager import ControllerManager
from gateway.model.json import Json, JsonObject
from gateway.runtime.module import running
from gateway.wire.kube.clock import parse_rfc3339
from gateway.wire.kube.jobpods import TRACKING, outcome_of
from gateway.wire.kube.parts import labels_of, part
from tests.fake_kubelet import Fate
from tests.workload_rig import Workloads, eventually, names, workloads

JOBS, CRONS = ("batch/v1", "jobs"), ("batch/v1", "cronjobs")
NS = "default"


def a_job(name: str = "pi", fate: Fate = "succeeded", **spec: Json) -> JsonObject:
    labels: JsonObject = {"job": name, "fate": fate}
    containers: list[Json] = [{"name": "c", "image": "pi:1"}]
    template: JsonObject = {
        "metadata": {"labels": labels},
        "spec": {"restartPolicy": "Never", "containers": containers},
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {
            "completions": 1,
            "parallelism": 1,
            "template": template,
            **spec,
        },
    }


def a_manual_job() -> JsonObject:
    """One whose Pods another one of its name finds."""
    selector: JsonObject = {"matchLabels": {"job": "pi"}}
    return a_job(
        fate="running", parallelism=2, completions=2, manualSelector=True, selector=selector
    )


def fated(pod: JsonObject) -> Fate:
    """Pods say themselves what becomes of them."""
    return cast("Fate", labels_of(pod).get("fate", "ready"))


async def until_over(rig: Workloads, name: str = "pi") -> JsonObject:
    return await rig.until(JOBS, name, lambda status: outcome_of({"status": status}) is not None)


def held(pods: list[JsonObject]) -> list[Json]:
    return [part(pod, "metadata").get("finalizers") for pod in pods]


async def test_a_job_is_complete_once_enough_pods_succeeded(tmp_path: Path) -> None:
    async with workloads(tmp_path, "job") as rig:
        rig.kubelet.fate = fated
        await rig.kube.create(*JOBS, NS, a_job(completions=5, parallelism=2))
        status: Any = await until_over(rig)
        assert [row["type"] for row in status["conditions"]] == ["SuccessCriteriaMet", "Complete"]
        counts = {key: status.get(key) for key in ("active", "succeeded", "failed", "ready")}
        assert counts == {"active": None, "succeeded": 5, "failed": None, "ready": 0}
        assert status["uncountedTerminatedPods"] == {}
        assert status["completionTime"] == status["conditions"][1]["lastTransitionTime"]
        pods = await rig.pods()
        assert held(pods) == [None] * 5
        told = await eventually(rig.told, lambda told: len(told) == 6)
        made = {("SuccessfulCreate", f"Created pod: {name}") for name in names(pods)}
        assert set(told) == made | {("Completed", "Job completed")}


async def test_each_index_has_its_pod(tmp_path: Path) -> None:
    async with workloads(tmp_path, "job") as rig:
        rig.kubelet.fate = fated
        job = a_job(completions=3, parallelism=3, completionMode="Indexed")
        await rig.kube.create(*JOBS, NS, job)
        status = await until_over(rig)
        assert (status["completedIndexes"], status["succeeded"]) == ("0-2", 3)
        pods = sorted(await rig.pods(), key=lambda pod: str(part(pod, "spec").get("hostname")))
        assert [part(pod, "spec")["hostname"] for pod in pods] == ["pi-0", "pi-1", "pi-2"]
        index = "batch.kubernetes.io/job-completion-index"
        assert [labels_of(pod)[index] for pod in pods] == ["0", "1", "2"]
        assert all(name.startswith(("pi-0-", "pi-1-", "pi-2-")) for name in names(pods))


async def test_pods_of_a_job_with_a_long_name_have_names_of_hosts(tmp_path: Path) -> None:
    name = "j" * 63
    async with workloads(tmp_path, "job") as rig:
        await rig.kube.create(*JOBS, NS, a_job(name, fate="running"))
        indexed = a_job("i" * 60, fate="running", completionMode="Indexed")
        await rig.kube.create(*JOBS, NS, indexed)
        pods = await rig.until_pods(lambda pods: len(pods) == 2)
        found = sorted(names(pods))
        assert [len(each) for each in found] == [63, 63]
        assert found[0].startswith("i" * 55 + "-0-")


async def test_a_job_fails_with_its_last_attempt_and_counts_it(tmp_path: Path) -> None:
    async with workloads(tmp_path, "job") as rig:
        rig.kubelet.fate = fated
        await rig.kube.create(*JOBS, NS, a_job(fate="failed", backoffLimit=0))
        status: Any = await until_over(rig)
        assert status["failed"] == 1
        assert [(row["type"], row["reason"]) for row in status["conditions"]] == [
            ("FailureTarget", "BackoffLimitExceeded"),
            ("Failed", "BackoffLimitExceeded"),
        ]
        message = "Job has reached the specified backoff limit"
        await eventually(rig.told, lambda told: ("BackoffLimitExceeded", message) in told)


async def test_a_job_is_suspended_and_goes_on(tmp_path: Path) -> None:
    async with workloads(tmp_path, "job") as rig:
        rig.kubelet.fate = fated
        await rig.kube.create(*JOBS, NS, a_job(fate="running", suspend=True))
        await rig.until(JOBS, "pi", lambda status: bool(status.get("conditions")))
        assert await rig.pods() == []
        await rig.kube.patch(*JOBS, NS, "pi", {"spec": {"suspend": False}})
        status = await rig.until(JOBS, "pi", lambda status: status.get("active") == 1)
        assert "startTime" in status
        await rig.kube.patch(*JOBS, NS, "pi", {"spec": {"suspend": True}})
        await rig.until(JOBS, "pi", lambda status: "startTime" not in status)
        await rig.until_pods(lambda pods: not pods)
        status = await rig.until(JOBS, "pi", lambda status: status.get("terminating") == 0)
        assert "failed" not in status  # what is suspended has not failed


async def test_loops_that_start_again_count_what_happened_meanwhile_once(tmp_path: Path) -> None:
    async with workloads(tmp_path, "job") as rig:
        rig.kubelet.fate = lambda _pod: "running"
        await rig.kube.create(*JOBS, NS, a_job(completions=4, parallelism=4))
        await rig.until(JOBS, "pi", lambda status: status.get("active") == 4)
    async with workloads(tmp_path) as rig:  # nobody looks after Jobs
        rig.kubelet.fate = lambda _pod: "succeeded"
        rig.kubelet.review()
        is_over = "Succeeded"
        await rig.until_pods(
            lambda pods: all(part(pod, "status").get("phase") == is_over for pod in pods)
        )
    async with workloads(tmp_path, "job") as rig:
        rig.kubelet.fate = lambda _pod: "succeeded"
        status = await until_over(rig)
        assert (status["succeeded"], len(await rig.pods())) == (4, 4)


async def test_pods_without_a_job_lose_their_finalizer(tmp_path: Path) -> None:
    async with workloads(tmp_path, "job") as rig:
        rig.kubelet.fate = fated
        await rig.kube.create(*JOBS, NS, a_manual_job())
        await rig.until(JOBS, "pi", lambda status: status.get("active") == 2)
        assert held(await rig.pods()) == [[TRACKING]] * 2
        await rig.kube.delete(*JOBS, NS, "pi", propagation="Orphan")
        pods = await rig.until_pods(lambda pods: held(pods) == [None, None])
        assert all("ownerReferences" not in part(pod, "metadata") for pod in pods)
        await rig.kube.create(*JOBS, NS, a_manual_job())
        adopted = await rig.until_pods(lambda pods: held(pods) == [[TRACKING]] * 2)
        assert names(adopted) == names(pods)
        await rig.kube.delete(*JOBS, NS, "pi")
        await rig.until_pods(lambda pods: not pods)


async def test_a_finished_job_goes_after_its_time_with_its_pods(tmp_path: Path) -> None:
    async with workloads(tmp_path, "job", "ttl-after-finished") as rig:
        rig.kubelet.fate = fated
        await rig.kube.create(*JOBS, NS, a_job(ttlSecondsAfterFinished=0))
        await eventually(rig.told, lambda told: ("Completed", "Job completed") in told)
        await rig.until_empty(JOBS)
        await rig.until_pods(lambda pods: not pods)


# --- CronJobs ---------------------------------------------------------------------------------------


def a_cron(schedule: str, **spec: Json) -> JsonObject:
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": "tick"},
        "spec": {"schedule": schedule, "jobTemplate": {"spec": a_job("x")["spec"]}, **spec},
    }


class Clock:
    """A clock that a test sets, and that hardly goes by itself."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1e-5
        return self.now


async def started(rig: Workloads) -> set[str]:
    return names((await rig.kube.list(*JOBS, NS)).items)


async def test_a_cron_job_starts_each_job_once_and_knows_how_it_went(tmp_path: Path) -> None:
    clock = Clock()
    async with workloads(tmp_path, "job") as rig:
        rig.kubelet.fate = fated
        made = await rig.kube.create(*CRONS, NS, a_cron("* * * * *", successfulJobsHistoryLimit=1))
        born = parse_rfc3339(part(made, "metadata")["creationTimestamp"]) or 0.0
        first = int(born // 60) + 1
        for minute in (first, first + 1, first + 2):
            clock.now = minute * 60 + 1.0
            loops = ControllerManager(rig.server.api.client, ("cronjob",), now=clock)
            name = f"tick-{minute}"
            async with running(loops):  # killed and started again: it starts nothing twice
                await until_over_there(rig, name)
                status: Any = await rig.until(CRONS, "tick", lambda status: "active" not in status)
                ended = f"Saw completed job: {name}, condition: Complete"
                await eventually(rig.told, lambda told, e=ended: ("SawCompletedJob", e) in told)  # type: ignore[misc]
        assert parse_rfc3339(status["lastScheduleTime"]) == (first + 2) * 60
        assert "lastSuccessfulTime" in status
        assert await started(rig) == {f"tick-{first + 2}"}
        assert ("SuccessfulCreate", f"Created job tick-{first}") in await rig.told()


async def until_over_there(rig: Workloads, name: str) -> None:
    """Wait until a Job of this name is there, and over."""

    async def known() -> set[str]:
        return await started(rig)

    await eventually(known, lambda found: name in found)
    await until_over(rig, name)


async def test_a_running_job_forbids_the_next_one_or_makes_room_for_it(tmp_path: Path) -> None:
    clock = Clock()
    async with workloads(tmp_path, "job") as rig:
        rig.kubelet.fate = lambda _pod: "running"
        cron = a_cron("* * * * *", concurrencyPolicy="Forbid")
        made = await rig.kube.create(*CRONS, NS, cron)
        first = int((parse_rfc3339(part(made, "metadata")["creationTimestamp"]) or 0.0) // 60) + 1
        clock.now = first * 60 + 1.0
        async with running(ControllerManager(rig.server.api.client, ("cronjob",), now=clock)):
            await rig.until(CRONS, "tick", lambda status: len(active(status)) == 1)
        clock.now += 60
        async with running(ControllerManager(rig.server.api.client, ("cronjob",), now=clock)):
            why = (
                "Not starting job because prior execution is running and concurrency policy"
                " is Forbid"
            )
            await eventually(rig.told, lambda told: ("JobAlreadyActive", why) in told)
            assert await started(rig) == {f"tick-{first}"}
            await rig.kube.patch(*CRONS, NS, "tick", {"spec": {"concurrencyPolicy": "Replace"}})
            name = f"tick-{first + 1}"
            await rig.until(CRONS, "tick", lambda status: active(status) == [name])
            await eventually(lambda: started(rig), lambda found: found == {name})


def active(status: JsonObject) -> list[str]:
    entries: Any = status.get("active", [])
    return [entry["name"] for entry in entries]


async def test_a_start_that_comes_too_late_is_told_and_left_out(tmp_path: Path) -> None:
    clock = Clock()
    async with workloads(tmp_path) as rig:
        made = await rig.kube.create(
            *CRONS, NS, a_cron("0 0 1 1 *", startingDeadlineSeconds=20, suspend=True)
        )
        born = parse_rfc3339(part(made, "metadata")["creationTimestamp"]) or 0.0
        clock.now = born + 400 * 86_400
        async with running(ControllerManager(rig.server.api.client, ("cronjob",), now=clock)):
            patch: JsonObject = {"spec": {"suspend": False, "startingDeadlineSeconds": None}}
            await rig.kube.patch(*CRONS, NS, "tick", patch)
            found = await eventually(lambda: started(rig), lambda found: len(found) == 1)
            assert found != set()
