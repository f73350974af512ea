"""A Pod's status over many turns: what has ended stays so, and counts never fall."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from edge.pods.containerstatuses import Stop
from edge.pods.podstatus import closed, pod_status
from edge.pods.runtime import ContainerState, State
from tests.unit.test_pods_status import (
    INIT,
    NOW,
    SIDECAR,
    a_pod,
    a_run,
    an_end,
    condition,
    facts,
)

STATES = st.sampled_from(["absent", "created", "running", "done", "failed", "unknown"])


def _run_of(name: str, state: str, attempt: int) -> ContainerState | None:
    match state:
        case "absent":
            return None
        case "done":
            return an_end(name, attempt=attempt)
        case "failed":
            return an_end(name, 1, attempt=attempt)
        case _:
            return a_run(name, attempt=attempt, state=State(state))


@given(
    steps=st.lists(
        st.tuples(st.tuples(STATES, STATES, STATES), st.booleans(), st.booleans()), max_size=6
    ),
    policy=st.sampled_from(["Always", "OnFailure", "Never"]),
    lasting=st.booleans(),
)
def test_an_end_is_never_taken_back_and_counts_never_fall(
    steps: list[tuple[tuple[str, str, str], bool, bool]], policy: str, lasting: bool
) -> None:
    pod = a_pod("a", "b", init=(SIDECAR if lasting else INIT,), policy=policy)
    names = ("side" if lasting else "i", "a", "b")
    known: Any = None
    for attempt, (states, is_over, is_stopped) in enumerate(steps):
        runs = [_run_of(n, s, attempt) for n, s in zip(names, states, strict=True)]
        stop = Stop("Evicted", "m") if is_stopped else None
        found = facts(*[run for run in runs if run], is_over=is_over, stop=stop)
        status: Any = pod_status(pod, found, known)
        assert {"phase", "conditions", "containerStatuses", "startTime"} <= set(status)
        if known is not None:
            if known["phase"] in ("Succeeded", "Failed"):
                assert status["phase"] == known["phase"]
            for key in ("initContainerStatuses", "containerStatuses"):
                pairs = zip(known[key], status[key], strict=True)
                assert all(old["restartCount"] <= new["restartCount"] for old, new in pairs)
        if status["phase"] in ("Succeeded", "Failed"):
            assert condition(status, "Ready")["status"] == "False"
        known = status
    if known is not None:
        last: Any = closed(pod, known, NOW)
        assert last["phase"] in ("Succeeded", "Failed")
