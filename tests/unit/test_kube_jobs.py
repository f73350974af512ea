"""One look at a Job: what its Pods say, who comes and goes, what the status says then."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.kube.control.ttl import seconds_left
from gateway.wire.kube.clock import parse_rfc3339
from gateway.wire.kube.jobindexes import Indexes
from gateway.wire.kube.jobplan import Look, births, look, removed, surplus
from gateway.wire.kube.jobpods import TRACKING, Backoff, ended_at, judge_failure, judge_success
from gateway.wire.kube.jobtally import counted, finish, settle, tally
from gateway.wire.kube.jobtemplates import job_pod

NOW = parse_rfc3339("2026-11-23T12:00:00Z") or 0.0
INDEX = "batch.kubernetes.io/job-completion-index"


def a_job(status: Any = None, **spec: Any) -> Any:
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "c"}]}}
    return {
        "metadata": {"name": "j", "namespace": "n", "uid": "u"},
        "spec": {
            "parallelism": 1,
            "completions": 1,
            "backoffLimit": 6,
            "template": template,
            **spec,
        },
        "status": status or {},
    }


def a_pod(
    name: str, phase: str = "Running", *, index: int | None = None, code: int = 0, **notes: str
) -> Any:
    annotations: Any = dict(notes)
    if index is not None:
        annotations[INDEX] = str(index)
    ended: Any = {"exitCode": code, "finishedAt": "2026-11-23T11:59:58Z"}
    container: Any = {"name": "c"}
    if phase in ("Succeeded", "Failed"):
        container["state"] = {"terminated": ended}
    return {
        "metadata": {
            "name": name,
            "namespace": "n",
            "uid": f"uid-{name}",
            "finalizers": [TRACKING],
            "annotations": annotations,
        },
        "spec": {},
        "status": {"phase": phase, "containerStatuses": [container]},
    }


def seen(job: Any, *pods: Any, record: Backoff | None = None) -> Look:
    return look(job, pods, record or Backoff(), NOW)


def condition_names(found: Look) -> list[Any]:
    return [row["type"] for row in found.conditions]


# --- indexes ----------------------------------------------------------------------------------------

numbers = st.sets(st.integers(0, 40))


@given(numbers, numbers)
def test_indexes_are_sets(one: set[int], other: set[int]) -> None:
    mine, others = Indexes.of(one), Indexes.of(other)
    assert len(mine) == len(one)
    assert Indexes.parse(str(mine), 100) == mine
    assert mine.with_(others) == Indexes.of(one | other)
    assert mine.common(others) == len(one & other)
    assert list(mine.missing(41)) == sorted(set(range(41)) - one)
    assert all((number in mine) is (number in one) for number in range(41))


@given(numbers, st.integers(1, 40))
def test_what_is_not_below_the_limit_is_left_out(held: set[int], limit: int) -> None:
    found = Indexes.parse(str(Indexes.of(held)), limit)
    assert found == Indexes.of(number for number in held if number < limit)


def test_indexes_are_written_as_spans() -> None:
    assert str(Indexes.of([7, 0, 2, 3, 4, 9, 10])) == "0,2-4,7,9,10"
    assert Indexes.parse("x,1-,3-2,5", 10) == Indexes.of([1, 5])


# --- policies ---------------------------------------------------------------------------------------


def test_the_first_rule_that_fits_a_failure_decides() -> None:
    policy: Any = {
        "rules": [
            {
                "action": "Ignore",
                "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
            },
            {"action": "Count", "onExitCodes": {"operator": "In", "values": [3]}},
            {"action": "FailJob", "onExitCodes": {"operator": "NotIn", "values": [3, 4]}},
        ]
    }
    pod = a_pod("p", "Failed", code=42)
    verdict = judge_failure(policy, pod)
    assert (verdict.action, verdict.counts) == ("FailJob", True)
    assert verdict.message == (
        "Container c for pod n/p failed with exit code 42 matching FailJob rule at index 2"
    )
    assert judge_failure(policy, a_pod("p", "Failed", code=3)).action == "Count"
    assert judge_failure(policy, a_pod("p", "Failed", code=4)).action == ""
    gone = a_pod("p", "Failed", code=42)
    gone["status"]["conditions"] = [{"type": "DisruptionTarget", "status": "True"}]
    assert not judge_failure(policy, gone).counts


@pytest.mark.parametrize(
    ("rule", "succeeded", "is_met"),
    [
        ({"succeededIndexes": "0,2"}, [0, 2], True),
        ({"succeededIndexes": "0,2"}, [0, 1], False),
        ({"succeededIndexes": "0-4", "succeededCount": 2}, [1, 3], True),
        ({"succeededCount": 3}, [0, 1], False),
        ({"succeededCount": 2}, [0, 4], True),
    ],
)
def test_a_success_policy_is_met_by_indexes_or_their_number(
    rule: Any, succeeded: list[int], is_met: bool
) -> None:
    found = judge_success({"rules": [rule]}, 5, Indexes.of(succeeded))
    assert found == ("Matched rules at index 0" if is_met else None)


def test_failures_in_a_row_wait_longer_until_one_succeeds() -> None:
    failed = a_pod("a", "Failed")
    record = Backoff()
    pauses = []
    for _ in range(8):
        record = record.after([], [failed])
        pauses.append(record.left(ended_at(failed)))
    assert pauses == [10, 20, 40, 80, 160, 320, 600, 600]
    assert record.after([a_pod("b", "Succeeded")], []).left(NOW) == 0


# --- who comes and goes -----------------------------------------------------------------------------


def test_no_more_pods_come_than_are_needed() -> None:
    assert births(seen(a_job(parallelism=5, completions=3))) == [None] * 3
    assert births(seen(a_job(parallelism=2, completions=3), a_pod("a"))) == [None]
    assert births(seen(a_job(parallelism=2, completions=3, suspend=True))) == []
    queue = a_job(parallelism=2)
    del queue["spec"]["completions"]
    assert births(seen(queue, a_pod("a", "Succeeded"))) == []


def test_a_failed_pod_is_replaced_after_its_pause() -> None:
    found = seen(a_job(), a_pod("a", "Failed"))
    assert births(found) == []
    assert found.again == pytest.approx(8.0)


def test_missing_indexes_come_and_double_ones_go() -> None:
    job = a_job(parallelism=3, completions=3, completionMode="Indexed")
    found = seen(job, a_pod("a", index=1), a_pod("b", "Succeeded", index=0))
    assert births(found) == [2]
    doubled = seen(job, a_pod("a", index=1), a_pod("b", index=1), a_pod("c", index=7), a_pod("d"))
    surplus_pods: list[Any] = list(surplus(doubled))
    going = {pod["metadata"]["name"] for pod in surplus_pods}
    assert going in ({"a", "c", "d"}, {"b", "c", "d"})


def test_a_suspended_job_gives_up_its_pods_and_its_start() -> None:
    job = a_job({"startTime": "2026-11-23T11:00:00Z"}, suspend=True)
    found = seen(job, a_pod("a"))
    going = surplus(found)
    assert len(going) == 1
    removed(found, going)
    settle(found)
    assert "startTime" not in found.status
    assert (found.running, found.terminating) == (0, 1)
    assert found.events == [("Normal", "Suspended", "Job suspended")]


def test_the_pod_of_an_index_knows_how_often_it_failed() -> None:
    job = a_job(completionMode="Indexed", backoffLimitPerIndex=3)
    before = a_pod("j-0-x", "Failed", index=0)
    before["metadata"]["annotations"]["batch.kubernetes.io/job-index-failure-count"] = "1"
    pod: Any = job_pod(job, {"uid": "u"}, 0, before)
    assert pod["metadata"]["annotations"] == {
        INDEX: "0",
        "batch.kubernetes.io/job-index-failure-count": "2",
    }
    assert pod["metadata"]["generateName"] == "j-0-"
    assert pod["spec"]["hostname"] == "j-0"
    assert pod["spec"]["containers"][0]["env"][0]["name"] == "JOB_COMPLETION_INDEX"
    assert job["spec"]["template"]["spec"]["containers"] == [{"name": "c"}]


# --- the end ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "pods", "reason"),
    [
        ({"backoffLimit": 0}, [a_pod("a", "Failed")], "BackoffLimitExceeded"),
        ({"activeDeadlineSeconds": 60}, [a_pod("a")], "DeadlineExceeded"),
        (
            {"completions": 2, "completionMode": "Indexed", "backoffLimitPerIndex": 0},
            [a_pod("a", "Failed", index=0), a_pod("b", "Succeeded", index=1)],
            "FailedIndexes",
        ),
        (
            {
                "completions": 3,
                "completionMode": "Indexed",
                "backoffLimitPerIndex": 0,
                "maxFailedIndexes": 0,
            },
            [a_pod("a", "Failed", index=0)],
            "MaxFailedIndexesExceeded",
        ),
    ],
)
def test_a_job_fails_for_a_reason(spec: Any, pods: list[Any], reason: str) -> None:
    found = seen(a_job({"startTime": "2026-11-23T11:58:00Z"}, **spec), *pods)
    assert found.verdict is not None
    assert (found.verdict["type"], found.verdict["reason"]) == ("FailureTarget", reason)


def test_a_job_is_failed_only_when_its_pods_are_gone() -> None:
    job = a_job({"startTime": "2026-11-23T11:58:00Z"}, activeDeadlineSeconds=60)
    found = seen(job, a_pod("a"))
    removed(found, found.active)
    stripped, _ = tally(found)
    assert condition_names(found) == ["FailureTarget"]
    counted(found, set())
    assert not finish(found)
    later = seen({**job, "status": found.status})
    tally(later)
    assert finish(later)
    assert condition_names(later) == ["FailureTarget", "Failed"]
    assert (len(stripped), later.status["failed"]) == (1, 1)


def test_a_job_that_is_deleted_lets_its_pods_go() -> None:
    job = a_job()
    job["metadata"]["deletionTimestamp"] = "2026-11-23T11:59:00Z"
    found = seen(job, a_pod("a"))
    settle(found, is_managed=False)
    stripped, _ = tally(found)
    assert len(stripped) == 1


class Cluster:
    """A model of a Job of six, its Pods, and a loop that is killed between any two writes."""

    def __init__(self, data: st.DataObject) -> None:
        self.job = a_job(parallelism=3, completions=6, backoffLimit=100)
        self.pods: list[Any] = []
        self.ended = {"Succeeded": 0, "Failed": 0}
        self._data = data

    def _is_killed(self) -> bool:
        return self._data.draw(st.booleans())

    def go_on(self) -> None:
        """Time passes for the Pods."""
        for pod in self.pods:
            if pod["status"]["phase"] != "Running":
                continue
            phase = self._data.draw(st.sampled_from(["Running", "Succeeded", "Failed"]))
            pod["status"] = a_pod("x", phase)["status"]
            self.ended[phase] = self.ended.get(phase, 0) + 1

    def work(self) -> None:
        """A run of the loop, or its beginning."""
        found = look(self.job, self.pods, Backoff(), NOW + 10_000)
        if found.verdict is None:
            for _index in births(found):
                self.pods.append(a_pod(f"p{len(self.pods)}"))
                found.running += 1
            settle(found)
        if self._is_killed():
            return
        stripped, _ = tally(found)
        self.job = {**self.job, "status": dict(found.status)}
        gone: list[Any] = list(stripped)
        for pod in gone:
            if self._is_killed():
                return
            pod["metadata"]["finalizers"] = []
        left = {pod["metadata"]["uid"] for pod in self.pods if pod["metadata"]["finalizers"]}
        counted(found, left)
        finish(found)
        self.job = {**self.job, "status": dict(found.status)}

    def is_complete(self) -> bool:
        rows = self.job["status"].get("conditions", [])
        return any(row["type"] == "Complete" for row in rows)


@settings(deadline=None)
@given(st.data())
def test_each_pod_counts_once_wherever_the_loop_is_ended(data: st.DataObject) -> None:
    cluster = Cluster(data)
    for _ in range(30):
        cluster.go_on()
        cluster.work()
        if cluster.is_complete():
            break
    status = cluster.job["status"]
    uncounted = status.get("uncountedTerminatedPods", {})
    for kind, phase in (("succeeded", "Succeeded"), ("failed", "Failed")):
        assert status.get(kind, 0) + len(uncounted.get(kind, [])) <= cluster.ended[phase]
    if cluster.is_complete():
        assert status["succeeded"] == 6 == cluster.ended["Succeeded"]
        assert status.get("failed", 0) == cluster.ended["Failed"]


def test_a_finished_job_stays_for_its_time() -> None:
    status = {
        "conditions": [
            {"type": "Complete", "status": "True", "lastTransitionTime": "2026-11-23T11:59:50Z"}
        ]
    }
    assert seconds_left(a_job(status, ttlSecondsAfterFinished=30), NOW) == pytest.approx(20.0)
    assert seconds_left(a_job(status), NOW) is None
    assert seconds_left(a_job(ttlSecondsAfterFinished=30), NOW) is None
