"""The rules of node jobs: turns, tolerance, time, reports; and walks through all of them at random."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.taskflow import (
    COMPLETED,
    EDGE_LABEL,
    FAILURE,
    IN_PROGRESS,
    MAX_NODES,
    NOT_CONNECTED,
    PENDING,
    SUCCESSFUL,
    UNKNOWN,
    JobView,
    Progress,
    advance,
    begin,
    read_selector,
    take,
    wake_at,
)
from gateway.errors import Unprocessable
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.tasks import (
    BACK_UP,
    CHECK,
    CONFIG_JOB,
    CONFIRMATION,
    FLOWS,
    KINDS,
    PREPULL_JOB,
    PULL,
    ROLL_BACK,
    UPDATE,
    UPGRADE,
    UPGRADE_JOB,
    TaskReported,
)

NOW = 1_795_377_600.0
NODES: dict[str, JsonObject] = {
    f"edge-{n}": {"metadata": {"name": f"edge-{n}", "labels": {EDGE_LABEL: ""}}} for n in range(9)
}


def a_job(kind: str = PREPULL_JOB, *names: str, **spec: Any) -> JobView:
    given_names = {} if "labelSelector" in spec else {"nodeNames": list(names) or ["edge-0"]}
    body = {**given_names, "timeoutSeconds": 60, **spec}
    if kind == PREPULL_JOB:
        body = {"imagePrePullTemplate": body}
    return JobView.read(kind, {"metadata": {"name": "j", "uid": "u"}, "spec": body})


def everywhere(_node: str) -> bool:
    return True


def begun(job: JobView, connected: Any = everywhere) -> Progress:
    return advance(job, begin(job, NODES), connected, NOW)


def said(
    job: JobView, node: str, action: str, *, ok: bool = True, extend: str = ""
) -> TaskReported:
    reason = "" if ok else "no room"
    return TaskReported(job.kind, job.name, node, action, ok, "", reason, extend)


def after(job: JobView, progress: Progress, *reports: TaskReported, now: float = NOW) -> Progress:
    for report in reports:
        progress = take(job, progress, report, now)
    return advance(job, progress, everywhere, now)


def phases(progress: Progress) -> list[str]:
    return [task.phase for task in progress.nodes]


# --- turns --------------------------------------------------------------------------------------


def test_no_more_nodes_than_concurrency_are_asked_at_a_time() -> None:
    job = a_job(PREPULL_JOB, "edge-0", "edge-1", "edge-2", concurrency=2)
    progress = begun(job)
    assert phases(progress) == [IN_PROGRESS, IN_PROGRESS, PENDING]
    progress = after(job, progress, said(job, "edge-1", CHECK), said(job, "edge-1", PULL))
    assert phases(progress) == [IN_PROGRESS, SUCCESSFUL, IN_PROGRESS]


def test_a_node_that_is_away_takes_nobodys_place_and_is_unknown_in_the_end() -> None:
    job = a_job(PREPULL_JOB, "edge-0", "edge-1")
    progress = begun(job, lambda node: node != "edge-0")
    assert progress.nodes[0].is_waiting
    assert not progress.nodes[0].is_asked
    assert progress.nodes[1].is_asked
    late = advance(job, progress, lambda _: False, NOW + 60)
    assert late.nodes[0].phase == UNKNOWN
    assert NOT_CONNECTED in late.nodes[0].reason


def test_a_node_that_comes_back_in_time_gets_its_turn_and_its_whole_time() -> None:
    job = a_job(PREPULL_JOB, "edge-0")
    progress = begun(job, lambda _: False)
    back = advance(job, progress, everywhere, NOW + 50)
    assert back.nodes[0].is_asked
    assert wake_at(job, back, NOW + 50) == NOW + 110


def test_a_silent_node_is_unknown_and_each_report_gives_it_more_time() -> None:
    job = a_job(PREPULL_JOB, "edge-0")
    progress = after(job, begun(job), said(job, "edge-0", CHECK), now=NOW + 50)
    assert advance(job, progress, everywhere, NOW + 100).nodes[0].phase == IN_PROGRESS
    late = advance(job, progress, everywhere, NOW + 110)
    assert (late.phase, late.nodes[0].phase) == (FAILURE, UNKNOWN)
    assert "after Check" in late.nodes[0].reason


def test_a_late_report_still_counts_while_the_job_goes_on() -> None:
    job = a_job(PREPULL_JOB, "edge-0", "edge-1", failureTolerate="1")
    progress = advance(job, begun(job), everywhere, NOW + 60)
    assert phases(progress) == [UNKNOWN, IN_PROGRESS]
    progress = after(job, progress, said(job, "edge-0", CHECK), said(job, "edge-0", PULL))
    assert phases(progress) == [SUCCESSFUL, IN_PROGRESS]


# --- tolerance ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tolerate", "phase"),
    [("", FAILURE), ("0", FAILURE), ("0.3", FAILURE), ("0.34", COMPLETED), ("1", COMPLETED)],
)
def test_the_job_fails_when_more_than_the_tolerated_part_of_nodes_fails(
    tolerate: str, phase: str
) -> None:
    job = a_job(PREPULL_JOB, "edge-0", "edge-1", "edge-2", concurrency=3, failureTolerate=tolerate)
    progress = begun(job)
    for node in ("edge-1", "edge-2"):
        progress = after(job, progress, said(job, node, CHECK), said(job, node, PULL))
    progress = after(job, progress, said(job, "edge-0", CHECK, ok=False))
    assert progress.phase == phase


def test_no_node_is_asked_any_more_once_too_many_failed() -> None:
    job = a_job(PREPULL_JOB, "edge-0", "edge-1", "edge-2", failureTolerate="0.2")
    progress = after(job, begun(job), said(job, "edge-0", CHECK, ok=False))
    assert phases(progress) == [FAILURE, PENDING, PENDING]
    assert progress.phase == FAILURE
    assert "1 of 3 nodes failed" in progress.reason
    assert progress.nodes[1].reason.startswith("not started")


def test_nodes_under_way_are_waited_for_before_a_job_fails() -> None:
    job = a_job(PREPULL_JOB, "edge-0", "edge-1", concurrency=2, failureTolerate="0")
    progress = after(job, begun(job), said(job, "edge-0", CHECK, ok=False))
    assert progress.phase == IN_PROGRESS
    progress = after(job, progress, said(job, "edge-1", CHECK), said(job, "edge-1", PULL))
    assert progress.phase == FAILURE


# --- reports ---------------------------------------------------------------------------------------


def test_a_failed_update_that_was_rolled_back_is_a_failure() -> None:
    job = a_job(CONFIG_JOB, "edge-0")
    progress = begun(job)
    for action, ok in ((CHECK, True), (BACK_UP, True), (UPDATE, False)):
        progress = after(job, progress, said(job, "edge-0", action, ok=ok))
    assert progress.nodes[0].phase == IN_PROGRESS
    progress = after(job, progress, said(job, "edge-0", ROLL_BACK))
    assert (progress.phase, progress.nodes[0].reason) == (FAILURE, "Update: no room")


def test_a_failure_that_nobody_rolls_back_is_a_failure_when_time_is_over() -> None:
    job = a_job(CONFIG_JOB, "edge-0")
    progress = after(job, begun(job), said(job, "edge-0", UPDATE, ok=False))
    progress = advance(job, progress, everywhere, NOW + 60)
    assert (progress.nodes[0].phase, progress.nodes[0].reason) == (FAILURE, "Update: no room")


def test_the_same_reports_again_change_nothing_and_the_furthest_one_counts() -> None:
    job = a_job(PREPULL_JOB, "edge-0", "edge-1", concurrency=2)
    reports = [said(job, "edge-0", CHECK), said(job, "edge-0", PULL)]
    progress = after(job, begun(job), *reports)
    assert after(job, progress, *reports, now=NOW + 5) == progress
    assert phases(after(job, begun(job), *reversed(reports))) == phases(progress)


def test_an_upgrade_tells_that_it_waits_and_which_versions_there_were() -> None:
    job = a_job(UPGRADE_JOB, "edge-0", requireConfirmation=True)
    progress = after(job, begun(job), said(job, "edge-0", CHECK), said(job, "edge-0", CONFIRMATION))
    assert "confirmation" in progress.nodes[0].reason
    progress = after(
        job,
        progress,
        said(job, "edge-0", BACK_UP),
        said(job, "edge-0", UPGRADE, extend="v1,v2"),
    )
    assert progress.phase == COMPLETED
    assert progress.nodes[0].more == {"historicVersion": "v1", "currentVersion": "v2"}


@pytest.mark.parametrize("extend", ["", "not json", "{}", '[1,{"image":5}]', "[" * 2_000])
def test_odd_image_lists_are_no_harm(extend: str) -> None:
    job = a_job()
    done = said(job, "edge-0", PULL, extend=extend)
    assert after(job, begun(job), said(job, "edge-0", CHECK), done).phase == COMPLETED


def test_reports_that_nobody_asked_for_are_refused() -> None:
    job = a_job(PREPULL_JOB, "edge-0", "edge-1")
    progress = begun(job)
    for report in (
        said(job, "edge-7", CHECK),
        said(job, "edge-1", CHECK),  # it is not its turn
        said(job, "edge-0", UPGRADE),
        said(job, "edge-0", "x" * 500),
    ):
        with pytest.raises(Unprocessable):
            take(job, progress, report, NOW)


def test_a_job_that_ended_takes_nothing_in() -> None:
    job = a_job()
    ended = after(job, begun(job), said(job, "edge-0", CHECK, ok=False))
    assert after(job, ended, said(job, "edge-0", PULL)) == ended


# --- who is meant -------------------------------------------------------------------------------


def test_nodes_that_cannot_be_meant_fail_by_name() -> None:
    nodes: dict[str, JsonObject] = {**NODES, "cloud": {"metadata": {"name": "cloud", "labels": {}}}}
    job = a_job(PREPULL_JOB, "edge-0", "cloud", "nobody", "edge-0", failureTolerate="1")
    progress = begin(job, nodes)
    assert [(task.name, task.phase) for task in progress.nodes] == [
        ("edge-0", PENDING),
        ("cloud", FAILURE),
        ("nobody", FAILURE),
    ]


def test_nodes_are_found_by_labels() -> None:
    nodes: dict[str, JsonObject] = {
        n: {"metadata": {"name": n, "labels": {EDGE_LABEL: "", "zone": n}}} for n in NODES
    }
    term = {"key": "zone", "operator": "In", "values": ["edge-3", "edge-1", "else"]}
    job = a_job(PREPULL_JOB, labelSelector={"matchExpressions": [term]})
    assert [task.name for task in begin(job, nodes).nodes] == ["edge-1", "edge-3"]


@pytest.mark.parametrize(
    "spec",
    [
        {"nodeNames": []},
        {"nodeNames": ["a"], "labelSelector": {"matchLabels": {"a": "b"}}},
        {"nodeNames": ["a"], "failureTolerate": "1.1"},
        {"nodeNames": ["a"], "failureTolerate": "nan"},
        {"nodeNames": ["a"], "failureTolerate": "some"},
        {"labelSelector": {"matchExpressions": [{"key": "a", "operator": "Is"}]}},
        {"labelSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}},
        {
            "labelSelector": {
                "matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]
            }
        },
    ],
)
def test_a_job_that_cannot_be_is_refused(spec: dict[str, Any]) -> None:
    with pytest.raises(Unprocessable):
        JobView.read(CONFIG_JOB, {"metadata": {"name": "j"}, "spec": spec})


def test_a_job_without_nodes_or_with_too_many_is_refused() -> None:
    nobody = a_job(CONFIG_JOB, labelSelector={"matchLabels": {"zone": "none"}})
    with pytest.raises(Unprocessable, match="no node matches"):
        begin(nobody, NODES)
    with pytest.raises(Unprocessable, match=str(MAX_NODES)):
        begin(a_job(CONFIG_JOB, *(f"n{n}" for n in range(MAX_NODES + 1))), {})


def test_an_empty_selector_means_every_node() -> None:
    assert read_selector({}).matches(NODES["edge-0"])


# --- the status as it is written ---------------------------------------------------------------


def test_what_others_wrote_into_a_status_stays() -> None:
    status: JsonObject = {
        "phase": IN_PROGRESS,
        "state": "Upgrading",
        "nodeStatus": [{"nodeName": "edge-0", "phase": IN_PROGRESS, "event": "Check"}],
    }
    progress = Progress.read({"status": status})
    assert progress.document() == status


def test_a_status_of_kubeedge_without_times_is_gone_on_with() -> None:
    row: JsonObject = {
        "nodeName": "edge-0",
        "phase": IN_PROGRESS,
        "actionFlow": [{"action": CHECK}],
    }
    progress = Progress.read({"status": {"phase": IN_PROGRESS, "nodeStatus": [row]}})
    job = a_job()
    progress = advance(job, progress, everywhere, NOW)
    assert progress.nodes[0].is_asked
    assert wake_at(job, progress, NOW) == NOW + 60


@given(
    kind=st.sampled_from(sorted(KINDS)),
    concurrency=st.integers(1, 4),
    tolerate=st.sampled_from(["0", "0.1", "0.5", "1"]),
    steps=st.lists(
        st.tuples(st.integers(0, 5), st.booleans(), st.booleans(), st.integers(0, 40)), max_size=60
    ),
)
def test_any_walk_keeps_the_rules_survives_the_disk_and_ends(
    kind: str, concurrency: int, tolerate: str, steps: list[tuple[int, bool, bool, int]]
) -> None:
    names = [f"edge-{n}" for n in range(6)]
    job = a_job(kind, *names, concurrency=concurrency, failureTolerate=tolerate)
    progress, now = begin(job, NODES), NOW
    away: set[str] = set()

    def is_here(node: str) -> bool:
        return node not in away

    for at, ok, flips, seconds in steps:
        now += seconds
        if flips:
            away ^= {names[at]}
        task = progress.nodes[at]
        if task.is_asked and not progress.is_final:
            action = next_action(kind, [(d.action, d.status) for d in task.flow])
            progress = take(job, progress, said(job, names[at], action, ok=ok), now)
        progress = advance(job, progress, is_here, now)
        assert sum(t.is_asked for t in progress.nodes) <= concurrency
        assert Progress.read({"status": progress.document()}) == progress
    for _ in range(len(names) + 1):
        now += 60
        progress = advance(job, progress, is_here, now)
    assert progress.is_final
    assert all(t.phase in (SUCCESSFUL, FAILURE, UNKNOWN, PENDING) for t in progress.nodes)
    if progress.phase == COMPLETED:
        assert PENDING not in phases(progress)


def next_action(kind: str, flow: list[tuple[str, str]]) -> str:
    """What a node does next."""
    done = [(action, status) for action, status in flow if status != "Unknown"]
    if not done:
        return CHECK
    follows = FLOWS[kind][done[-1][0]]
    return follows.success if done[-1][1] == "True" else follows.failure
