"""What is to be done for a Pod, case by case."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from edge.pods.podplan import (
    Kill,
    Plan,
    Verdicts,
    has_failed,
    is_changed,
    matching_rule,
    plan_of,
    restarts_after,
    superseded,
)
from edge.pods.podspec import Container, Pod, read_pod
from edge.pods.ports import Observed
from edge.pods.runtime import ContainerState, Sandbox, State
from edge.pods.spechash import HASH, spec_hash
from tests.pod_rig import a_container, a_pod

CREATED, RUNNING, EXITED, UNKNOWN = State.CREATED, State.RUNNING, State.EXITED, State.UNKNOWN


@dataclass
class Said(Verdicts):
    """What probes found: names of containers."""

    failing: dict[str, str] = field(default_factory=dict)
    unstarted: frozenset[str] = frozenset()

    def is_started(self, pod: Pod, container: Container, container_id: str) -> bool:
        return container.name not in self.unstarted

    def failed(self, container_id: str) -> str | None:
        return self.failing.get(container_id.partition("-")[0])


def a_sandbox(
    attempt: int = 0, *, is_ready: bool = True, ips: tuple[str, ...] = ("10.0.0.2",)
) -> Sandbox:
    return Sandbox(
        id=f"s{attempt}",
        name="p",
        namespace="default",
        uid="u1",
        attempt=attempt,
        is_ready=is_ready,
        created_at=attempt + 1,
        ips=ips,
    )


def a_run(
    name: str,
    state: State,
    code: int = 0,
    attempt: int = 0,
    *,
    image: str = "app:1",
    reason: str = "",
) -> ContainerState:
    notes = {HASH: spec_hash(Container(name=name, image=image))}
    return ContainerState(
        id=f"{name}-{attempt}",
        sandbox_id="s0",
        name=name,
        attempt=attempt,
        state=state,
        created_at=attempt + 1,
        exit_code=code,
        reason=reason,
        annotations=notes,
    )


def plan(
    spec: dict[str, Any],
    runs: list[ContainerState] | None = None,
    sandboxes: list[Sandbox] | None = None,
    said: Said | None = None,
) -> Plan:
    pod = read_pod(a_pod(**spec))
    boxes = [a_sandbox()] if sandboxes is None else sandboxes
    return plan_of(pod, Observed("u1", tuple(boxes), tuple(runs or [])), said or Said())


INIT = {"initContainers": [a_container("i1"), a_container("i2")]}
SIDE = {"initContainers": [a_container("s", restartPolicy="Always"), a_container("i")]}
TWO = {"containers": [a_container("c"), a_container("d")]}
NEVER = {"restartPolicy": "Never"}
ON_FAILURE = {"restartPolicy": "OnFailure"}


# --- sandboxes ------------------------------------------------------------------------------------


def test_a_new_pod_gets_a_sandbox_and_its_containers() -> None:
    found = plan(TWO, sandboxes=[])
    assert found.create_sandbox
    assert found.attempt == 0
    assert not found.kill_pod
    assert found.starts == ("c", "d")


def test_a_new_pod_with_init_containers_starts_the_first_only() -> None:
    assert plan({**TWO, **INIT}, sandboxes=[]).starts == ("i1",)


@pytest.mark.parametrize(
    "sandboxes",
    [
        [a_sandbox(0, is_ready=False)],
        [a_sandbox(1), a_sandbox(0)],
        [a_sandbox(1, is_ready=False), a_sandbox(0)],
        [a_sandbox(0, ips=())],
    ],
    ids=["dead", "two are ready", "only an old one is ready", "without address"],
)
def test_a_sandbox_that_is_not_well_is_replaced_with_all_that_is_in_it(
    sandboxes: list[Sandbox],
) -> None:
    found = plan({}, [a_run("c", RUNNING)], sandboxes)
    assert found.kill_pod
    assert found.create_sandbox
    assert not found.ends_pod
    assert found.attempt == sandboxes[0].attempt + 1
    assert found.starts == ("c",)


def test_a_pod_on_the_nodes_network_needs_no_address() -> None:
    spec = {"hostNetwork": True}
    assert plan(spec, [a_run("c", RUNNING)], [a_sandbox(ips=())]).is_empty


def test_a_pod_that_never_restarts_gets_no_second_sandbox() -> None:
    found = plan(NEVER, [a_run("c", EXITED, 255)], [a_sandbox(is_ready=False)])
    assert found.ends_pod
    assert not found.starts


def test_a_pod_that_never_restarts_and_never_had_a_container_gets_another_sandbox() -> None:
    found = plan(NEVER, [], [a_sandbox(is_ready=False)])
    assert found.create_sandbox
    assert found.attempt == 1


def test_what_has_succeeded_is_not_done_again_in_a_new_sandbox() -> None:
    dead = [a_sandbox(is_ready=False)]
    half = plan({**TWO, **ON_FAILURE}, [a_run("c", EXITED), a_run("d", EXITED, 1)], dead)
    assert half.starts == ("d",)
    whole = plan({**TWO, **ON_FAILURE}, [a_run("c", EXITED), a_run("d", EXITED)], dead)
    assert whole.ends_pod


def test_a_new_sandbox_makes_all_runs_of_init_containers_void() -> None:
    runs = [
        a_run("c", EXITED, 1),
        a_run("i2", EXITED),
        a_run("i1", EXITED, 0, 1),
        a_run("i1", EXITED),
    ]
    found = plan(INIT, runs, [a_sandbox(is_ready=False)])
    assert found.removes == ("i2-0", "i1-1", "i1-0")
    assert found.starts == ("i1",)


# --- containers -----------------------------------------------------------------------------------


def test_nothing_is_to_be_done_for_what_runs() -> None:
    assert plan(TWO, [a_run("c", RUNNING), a_run("d", RUNNING)]).is_empty


@pytest.mark.parametrize(
    ("policy", "code", "restarts"),
    [
        ("Always", 0, True),
        ("Always", 1, True),
        ("OnFailure", 0, False),
        ("OnFailure", 1, True),
        ("Never", 0, False),
        ("Never", 1, False),
    ],
)
def test_an_ended_container_restarts_by_the_policy(policy: str, code: int, restarts: bool) -> None:
    spec = {**TWO, "restartPolicy": policy}
    found = plan(spec, [a_run("c", EXITED, code), a_run("d", RUNNING)])
    assert found.starts == (("c",) if restarts else ())
    assert not found.kill_pod


def test_a_containers_own_policy_and_rules_count_before_the_pods() -> None:
    rules = [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]
    own = a_container("c", restartPolicy="Never", restartPolicyRules=rules)
    pod = read_pod(a_pod(containers=[own], restartPolicy="Always"))
    container = pod.spec.containers[0]
    assert restarts_after(pod, container, 42)
    assert not restarts_after(pod, container, 1)
    other = [{"action": "Restart", "exitCodes": {"operator": "NotIn", "values": [42]}}]
    pod = read_pod(a_pod(containers=[{**own, "restartPolicyRules": other}]))
    assert matching_rule(pod.spec.containers[0], 42) == ""
    assert matching_rule(pod.spec.containers[0], 1) == "Restart"


def test_a_pod_all_of_whose_containers_have_ended_for_good_ends() -> None:
    assert plan({**TWO, **NEVER}, [a_run("c", EXITED), a_run("d", EXITED, 1)]).ends_pod


def test_what_was_made_and_never_started_is_removed_and_made_again() -> None:
    found = plan({}, [a_run("c", CREATED)])
    assert found.removes == ("c-0",)
    assert found.starts == ("c",)


def test_a_container_in_no_known_state_is_removed_before_its_successor() -> None:
    found = plan(NEVER, [a_run("c", UNKNOWN)])
    assert found.removes == ("c-0",)
    assert found.starts == ("c",)


def test_an_edited_container_is_killed_and_started_whatever_the_policy() -> None:
    found = plan(NEVER, [a_run("c", RUNNING, image="app:0")])
    message = "Container c definition changed, will be restarted"
    assert found.kills == (Kill("c-0", "c", message),)
    assert found.starts == ("c",)


@pytest.mark.parametrize("why", ["liveness", "startup"])
def test_a_failed_probe_kills_and_the_policy_says_what_follows(why: str) -> None:
    said = Said(failing={"c": why})
    again = plan({}, [a_run("c", RUNNING)], said=said)
    message = f"Container c failed {why} probe"
    assert again.kills == (Kill("c-0", "c", f"{message}, will be restarted", is_probe=True),)
    assert again.starts == ("c",)
    never = plan(NEVER | TWO, [a_run("c", RUNNING), a_run("d", RUNNING)], said=said)
    assert never.kills == (Kill("c-0", "c", message, is_probe=True),)
    assert not never.starts
    assert not never.kill_pod


def test_a_container_without_a_hash_is_not_judged_changed() -> None:
    state = ContainerState(id="c", sandbox_id="s", name="c", attempt=0, state=RUNNING, created_at=1)
    assert not is_changed(Container(name="c", image="app:2"), state)


def test_an_ephemeral_container_starts_once() -> None:
    spec = {"ephemeralContainers": [a_container("e")]}
    assert plan(spec, [a_run("c", RUNNING)]).ephemeral == ("e",)
    for state in (RUNNING, EXITED, UNKNOWN):
        assert plan(spec, [a_run("c", RUNNING), a_run("e", state)]).is_empty
    again = plan(spec, [a_run("c", RUNNING), a_run("e", CREATED)])
    assert (again.removes, again.ephemeral) == (("e-0",), ("e",))


def test_an_ephemeral_container_starts_before_initialisation_is_over() -> None:
    spec = {**INIT, "ephemeralContainers": [a_container("e")]}
    found = plan(spec, [a_run("i1", RUNNING)])
    assert found.starts == ("e",)


# --- init containers ------------------------------------------------------------------------------

INIT_CASES: list[tuple[str, dict[str, Any], list[ContainerState], tuple[str, ...], bool]] = [
    ("none yet", INIT, [], ("i1",), False),
    ("the first runs", INIT, [a_run("i1", RUNNING)], (), False),
    ("the first is done", INIT, [a_run("i1", EXITED)], ("i2",), False),
    ("the first was forgotten", INIT, [a_run("i2", RUNNING)], (), False),
    ("all done", INIT, [a_run("i2", EXITED), a_run("i1", EXITED)], ("c",), False),
    ("failed, again", INIT, [a_run("i1", EXITED, 1)], ("i1",), False),
    ("failed for good", {**INIT, **NEVER}, [a_run("i1", EXITED, 1)], (), True),
    (
        "killed for memory",
        {**INIT, **NEVER},
        [a_run("i1", EXITED, 0, reason="OOMKilled")],
        (),
        True,
    ),
    ("never started", INIT, [a_run("i1", CREATED)], ("i1",), False),
    ("unknown", INIT, [a_run("i1", UNKNOWN)], ("i1",), False),
    ("unknown for good", {**INIT, **NEVER}, [a_run("i1", UNKNOWN)], (), True),
    ("all forgotten, c runs", INIT, [a_run("c", RUNNING)], (), False),
    ("the sidecar comes first", SIDE, [], ("s",), False),
    ("the sidecar runs", SIDE, [a_run("s", RUNNING)], ("i",), False),
    ("the sidecar has ended", SIDE, [a_run("s", EXITED)], ("s",), False),
    ("sidecar runs, init done", SIDE, [a_run("i", EXITED), a_run("s", RUNNING)], ("c",), False),
    ("sidecar ended later", SIDE, [a_run("c", RUNNING), a_run("s", EXITED, 3)], ("s",), False),
    ("sidecar forgotten", SIDE, [a_run("c", RUNNING)], ("s",), False),
]


@pytest.mark.parametrize(
    ("spec", "runs", "starts", "ends"),
    [case[1:] for case in INIT_CASES],
    ids=[case[0] for case in INIT_CASES],
)
def test_init_containers(
    spec: dict[str, Any], runs: list[ContainerState], starts: tuple[str, ...], ends: bool
) -> None:
    found = plan(spec, runs)
    assert found.starts == starts
    assert found.ends_pod is ends


def test_a_sidecar_that_has_not_started_up_holds_back_the_next() -> None:
    said = Said(unstarted=frozenset({"s"}))
    assert plan(SIDE, [a_run("s", RUNNING)], said=said).is_empty


@pytest.mark.parametrize("why", ["liveness", "startup"])
def test_a_sidecar_whose_probe_failed_is_killed_and_started(why: str) -> None:
    unstarted = frozenset({"s"}) if why == "startup" else frozenset()
    said = Said(failing={"s": why}, unstarted=unstarted)
    runs = [a_run("c", RUNNING), a_run("i", EXITED), a_run("s", RUNNING)]
    found = plan(SIDE, runs, said=said)
    assert [each.message for each in found.kills] == [f"Init container s failed {why} probe"]
    assert found.starts == ("s",)


def test_sidecars_do_not_keep_a_pod_alive() -> None:
    runs = [a_run("c", EXITED), a_run("i", EXITED), a_run("s", EXITED)]
    found = plan({**SIDE, **NEVER}, runs)
    assert found.ends_pod
    assert not found.starts


# --- all anew -------------------------------------------------------------------------------------


def test_all_containers_go_and_who_asked_for_it_goes_last() -> None:
    rule = {"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [9]}}
    asks = a_container("c", restartPolicy="Never", restartPolicyRules=[rule])
    spec = {"containers": [asks, a_container("d")], **INIT}
    runs = [a_run("c", EXITED, 9), a_run("d", RUNNING), a_run("i2", EXITED), a_run("i1", EXITED)]
    found = plan(spec, runs)
    assert found.removes == ("d-0", "i1-0", "i2-0", "c-0")
    assert not found.starts
    assert not found.kill_pod


# --- the rest -------------------------------------------------------------------------------------


def test_of_ended_runs_the_newest_stays() -> None:
    runs = (
        a_run("i", RUNNING, attempt=3),
        a_run("i", EXITED, attempt=2),
        a_run("i", EXITED, attempt=1),
        a_run("c", EXITED, attempt=0),
    )
    assert superseded(Observed("u1", (), runs), ["i"]) == ("i-1",)


def test_an_init_container_killed_for_memory_has_failed() -> None:
    assert has_failed(a_run("i", EXITED, 0, reason="OOMKilled"))
    assert not has_failed(a_run("i", EXITED, 0))
