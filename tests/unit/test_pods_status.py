"""The status of a Pod as its node writes it, and what `kubectl get pods` prints of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edge.pods.containerstatuses import Facts, HeldBack, Stop
from edge.pods.podspec import Pod, read_pod
from edge.pods.podstatus import closed, pod_status, rejected
from edge.pods.ports import Observed
from edge.pods.runtime import ContainerState, Sandbox, State
from gateway.wire.kube.podcells import ready_count, restarts, status_word

NOW = 1_800_000_000.0
SECOND = 1_000_000_000
HOST = ("192.0.2.1",)


def a_pod(
    *names: str,
    init: tuple[dict[str, Any], ...] = (),
    policy: str = "Always",
    meta: dict[str, Any] | None = None,
    status: dict[str, Any] | None = None,
    **spec: Any,
) -> Pod:
    base: dict[str, Any] = {"name": "p", "namespace": "default", "uid": "u1", "generation": 1}
    return read_pod(
        {
            "metadata": base | (meta or {}),
            "spec": {
                "containers": [{"name": name, "image": "i:1"} for name in names or ("c",)],
                "initContainers": list(init),
                "restartPolicy": policy,
                **spec,
            },
            "status": status or {"phase": "Pending", "qosClass": "BestEffort"},
        }
    )


def a_box(*, ready: bool = True, ips: tuple[str, ...] = ("10.0.0.5",)) -> Sandbox:
    return Sandbox(
        id="s1",
        name="p",
        namespace="default",
        uid="u1",
        attempt=0,
        is_ready=ready,
        created_at=1,
        ips=ips,
    )


def a_run(name: str = "c", *, attempt: int = 0, **fields: Any) -> ContainerState:
    base = ContainerState(
        id=f"{name}-{attempt}",
        sandbox_id="s1",
        name=name,
        attempt=attempt,
        state=State.RUNNING,
        created_at=attempt + 1,
        image="i:1",
        image_ref="sha256:1",
        started_at=int((NOW - 60) * SECOND),
    )
    return replace(base, **fields)


def an_end(name: str = "c", code: int = 0, *, attempt: int = 0, **fields: Any) -> ContainerState:
    ended: dict[str, Any] = {
        "state": State.EXITED,
        "exit_code": code,
        "finished_at": int((NOW - 10) * SECOND),
    }
    return a_run(name, attempt=attempt, **(ended | fields))


def facts(*runs: ContainerState, box: Sandbox | None = None, **more: Any) -> Facts:
    seen = Observed("u1", (box or a_box(),), runs)
    return Facts(observed=more.pop("observed", seen), now=NOW, host_ips=HOST, **more)


def nothing(**more: Any) -> Facts:
    return facts(observed=Observed("u1"), **more)


def shown(pod: Pod, status: dict[str, Any]) -> str:
    """`READY STATUS RESTARTS` of kubectl."""
    item = {**pod.raw, "status": status}
    return f"{ready_count(item)} {status_word(item)} {restarts(item, NOW)}"


def condition(status: Any, kind: str) -> dict[str, Any]:
    (found,) = [row for row in status["conditions"] if row["type"] == kind]
    return dict(found)


INIT = {"name": "i", "image": "i:1"}
SIDECAR = {"name": "side", "image": "i:1", "restartPolicy": "Always"}
OOM = {"reason": "OOMKilled"}
BACK_OFF = {"c": HeldBack("CrashLoopBackOff", "back-off 10s restarting failed container=c")}

TABLE: list[tuple[str, Pod, Facts, str, str]] = [
    ("nothing yet", a_pod(), nothing(), "Pending", "0/1 ContainerCreating 0"),
    (
        "no image",
        a_pod(),
        facts(waiting={"c": HeldBack("ErrImagePull", "no such image")}),
        "Pending",
        "0/1 ErrImagePull 0",
    ),
    ("created", a_pod(), facts(a_run(state=State.CREATED)), "Pending", "0/1 ContainerCreating 0"),
    ("running", a_pod(), facts(a_run()), "Running", "1/1 Running 0"),
    (
        "not ready",
        a_pod(),
        facts(a_run(), is_ready=lambda *_: False),
        "Running",
        "0/1 Running 0",
    ),
    (
        "not started",
        a_pod(),
        facts(a_run(), is_started=lambda *_: False),
        "Running",
        "0/1 Running 0",
    ),
    ("one of two", a_pod("a", "b"), facts(a_run("a")), "Pending", "1/2 ContainerCreating 0"),
    (
        "crashed",
        a_pod(),
        facts(an_end(code=1)),
        "Running",
        "0/1 Error 0",
    ),
    (
        "crash loop",
        a_pod(),
        facts(an_end(code=1, attempt=2), an_end(code=1, attempt=1), waiting=BACK_OFF),
        "Running",
        "0/1 CrashLoopBackOff 2 (10s ago)",
    ),
    (
        "restarted",
        a_pod(),
        facts(a_run(attempt=1), an_end(code=1)),
        "Running",
        "1/1 Running 1 (10s ago)",
    ),
    (
        "killed for memory",
        a_pod(policy="Never"),
        facts(an_end(code=137, reason="OOMKilled")),
        "Failed",
        "0/1 OOMKilled 0",
    ),
    (
        "killed for memory, as the kernel says",
        a_pod(policy="Never"),
        facts(an_end(code=137), oom_killed=frozenset({"c-0"})),
        "Failed",
        "0/1 OOMKilled 0",
    ),
    (
        "done",
        a_pod(policy="OnFailure"),
        facts(an_end(), box=a_box(ready=False, ips=())),
        "Succeeded",
        "0/1 Completed 0",
    ),
    ("failed", a_pod(policy="Never"), facts(an_end(code=2)), "Failed", "0/1 Error 0"),
    (
        "failed, and starts again",
        a_pod(policy="OnFailure"),
        facts(an_end(code=2)),
        "Running",
        "0/1 Error 0",
    ),
    (
        "one done, one runs",
        a_pod("a", "b", policy="Never"),
        facts(an_end("a"), a_run("b")),
        "Running",
        "1/2 NotReady 0",
    ),
    ("init waits", a_pod(init=(INIT,)), nothing(), "Pending", "0/1 Init:0/1 0"),
    ("init runs", a_pod(init=(INIT,)), facts(a_run("i")), "Pending", "0/1 Init:0/1 0"),
    (
        "init failed",
        a_pod(init=(INIT,)),
        facts(an_end("i", 1)),
        "Pending",
        "0/1 Init:Error 0",
    ),
    (
        "init loops",
        a_pod(init=(INIT,)),
        facts(an_end("i", 1, attempt=1), waiting={"i": HeldBack("CrashLoopBackOff")}),
        "Pending",
        "0/1 Init:CrashLoopBackOff 1 (10s ago)",
    ),
    (
        "init failed for good",
        a_pod(init=(INIT,), policy="Never"),
        facts(an_end("i", 1)),
        "Failed",
        "0/1 Init:Error 0",
    ),
    (
        "init done",
        a_pod(init=(INIT,)),
        facts(an_end("i")),
        "Pending",
        "0/1 PodInitializing 0",
    ),
    (
        "init done, all runs",
        a_pod(init=(INIT,)),
        facts(a_run(), an_end("i")),
        "Running",
        "1/1 Running 0",
    ),
    (
        "init forgotten by the runtime",
        a_pod(init=(INIT,)),
        facts(a_run()),
        "Running",
        "1/1 Running 0",
    ),
    (
        "sidecar not started",
        a_pod(init=(SIDECAR,)),
        facts(a_run("side"), is_started=lambda _p, each, _i: each.name != "side"),
        "Pending",
        "0/2 Init:0/1 0",
    ),
    (
        "sidecar runs",
        a_pod(init=(SIDECAR,)),
        facts(a_run(), a_run("side")),
        "Running",
        "2/2 Running 0",
    ),
    (
        "sidecar crashed, the rest runs",
        a_pod(init=(SIDECAR,)),
        facts(a_run(), an_end("side", 1)),
        "Running",
        "1/2 Init:Error 0",
    ),
    (
        "being deleted",
        a_pod(meta={"deletionTimestamp": "2027-01-15T08:00:00Z"}),
        facts(a_run()),
        "Running",
        "1/1 Terminating 0",
    ),
    (
        "deleted, ended well",
        a_pod(meta={"deletionTimestamp": "2027-01-15T08:00:00Z"}),
        facts(an_end(), is_over=True),
        "Succeeded",
        "0/1 Completed 0",
    ),
    (
        "deleted, killed",
        a_pod(meta={"deletionTimestamp": "2027-01-15T08:00:00Z"}),
        facts(an_end(code=137), is_over=True),
        "Failed",
        "0/1 Error 0",
    ),
    (
        "evicted, still running",
        a_pod(),
        facts(a_run(), stop=Stop("Evicted", "low on memory")),
        "Pending",
        "1/1 Pending 0",
    ),
    (
        "evicted",
        a_pod(),
        facts(an_end(code=137), stop=Stop("Evicted", "low on memory"), is_over=True),
        "Failed",
        "0/1 Error 0",
    ),
    (
        "evicted before it began",
        a_pod(),
        nothing(stop=Stop("Evicted", "low on memory"), is_over=True),
        "Failed",
        "0/1 ContainerCreating 0",
    ),
]


@pytest.mark.parametrize(
    ("pod", "known", "phase", "cells"),
    [row[1:] for row in TABLE],
    ids=[row[0] for row in TABLE],
)
def test_phase_and_what_kubectl_shows(pod: Pod, known: Facts, phase: str, cells: str) -> None:
    status = pod_status(pod, known)
    assert (status["phase"], shown(pod, status)) == (phase, cells)


def test_a_running_pod_s_status_has_all_that_the_kubelet_writes() -> None:
    resources = {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "64Mi"}}
    mounts = [{"name": "v", "mountPath": "/v", "readOnly": True}]
    containers = [{"name": "c", "image": "i:1", "resources": resources, "volumeMounts": mounts}]
    pod = a_pod(containers=containers, status={"phase": "Pending", "qosClass": "Burstable"})
    status = pod_status(pod, facts(a_run(image_id="reg/i@sha256:1")))
    since = "2027-01-15T08:00:00Z"
    common = {"lastProbeTime": None, "lastTransitionTime": since, "observedGeneration": 1}
    kinds = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
    assert status == {
        "phase": "Running",
        "conditions": [{"type": kind, "status": "True", **common} for kind in kinds],
        "hostIP": "192.0.2.1",
        "hostIPs": [{"ip": "192.0.2.1"}],
        "podIP": "10.0.0.5",
        "podIPs": [{"ip": "10.0.0.5"}],
        "qosClass": "Burstable",
        "startTime": since,
        "observedGeneration": 1,
        "allocatedResources": {"cpu": "100m", "memory": "64Mi"},
        "containerStatuses": [
            {
                "name": "c",
                "state": {"running": {"startedAt": "2027-01-15T07:59:00Z"}},
                "lastState": {},
                "ready": True,
                "started": True,
                "restartCount": 0,
                "image": "i:1",
                "imageID": "reg/i@sha256:1",
                "containerID": "containerd://c-0",
                "resources": resources,
                "allocatedResources": resources["requests"],
                "volumeMounts": [
                    {
                        "name": "v",
                        "mountPath": "/v",
                        "readOnly": True,
                        "recursiveReadOnly": "Disabled",
                    }
                ],
            }
        ],
    }


def test_what_is_not_ready_is_named() -> None:
    pod = a_pod("b", "a", init=(INIT,))
    status: Any = pod_status(pod, facts(a_run("i")))
    initialized = condition(status, "Initialized")
    assert (initialized["reason"], initialized["message"]) == (
        "ContainersNotInitialized",
        "containers with incomplete status: [i]",
    )
    for kind in ("Ready", "ContainersReady"):
        ready = condition(status, kind)
        assert (ready["reason"], ready["message"]) == (
            "ContainersNotReady",
            "containers with unready status: [b a]",
        )
    assert [row["name"] for row in status["containerStatuses"]] == ["a", "b"]


@pytest.mark.parametrize(
    ("gate", "told"),
    [
        (None, 'corresponding condition of pod readiness gate "a/b" does not exist.'),
        ("False", 'the status of pod readiness gate "a/b" is not "True", but False'),
        ("True", None),
    ],
)
def test_a_readiness_gate_holds_readiness_back(gate: str | None, told: str | None) -> None:
    mine = [{"type": "a/b", "status": gate}] if gate else []
    pod = a_pod(readinessGates=[{"conditionType": "a/b"}], status={"conditions": mine})
    status: Any = pod_status(pod, facts(a_run()))
    assert condition(status, "Ready").get("message") == told
    assert condition(status, "ContainersReady")["status"] == "True"
    assert [row for row in status["conditions"] if row["type"] == "a/b"] == mine


def test_the_time_of_a_condition_is_that_of_its_last_change() -> None:
    pod = a_pod()
    first = pod_status(pod, facts(a_run(), is_ready=lambda *_: False))
    later = replace(facts(a_run()), now=NOW + 60)
    second = pod_status(pod, later, first)
    assert condition(second, "Ready")["lastTransitionTime"] == "2027-01-15T08:01:00Z"
    assert condition(second, "PodScheduled")["lastTransitionTime"] == "2027-01-15T08:00:00Z"
    assert second["startTime"] == first["startTime"]


def test_restarts_are_counted_when_the_runtime_has_forgotten_them() -> None:
    pod = a_pod()
    old = pod_status(pod, facts(a_run(attempt=3), an_end(code=1, attempt=2)))
    status: Any = pod_status(pod, facts(a_run(attempt=3)), old)
    row = status["containerStatuses"][0]
    assert row["restartCount"] == 3
    assert row["lastState"]["terminated"]["exitCode"] == 1


def test_a_container_that_vanished_while_running_is_told_as_unknown() -> None:
    pod = a_pod()
    old = pod_status(pod, facts(a_run()))
    status = pod_status(pod, nothing(), old)
    row: Any = status["containerStatuses"]
    ended = row[0]["lastState"]["terminated"]
    assert (ended["reason"], ended["exitCode"]) == ("ContainerStatusUnknown", 137)
    assert row[0]["restartCount"] == 1
    assert status["phase"] == "Running"
    assert status["podIP"] == "10.0.0.5"


def test_a_container_of_unknown_state_has_ended_in_doubt() -> None:
    pod = a_pod(policy="Never")
    old = pod_status(pod, facts(a_run()))
    row: Any = pod_status(pod, facts(a_run(state=State.UNKNOWN)), old)["containerStatuses"]
    assert row[0]["state"]["terminated"]["reason"] == "ContainerStatusUnknown"


def test_the_last_words_of_a_container_are_told_and_cut() -> None:
    pod = a_pod("a", "b", policy="Never")
    words = {"a-0": "no disk", "b-0": "ö" * 10_000}
    status: Any = pod_status(
        pod,
        facts(an_end("a", 1, message="failed", reason="StartError"), an_end("b"), last_words=words),
    )
    a, b = (row["state"]["terminated"] for row in status["containerStatuses"])
    assert (a["reason"], a["message"]) == ("StartError", "failed: no disk")
    assert len(b["message"].encode()) == 6_144


def test_an_evicted_pod_says_so_when_nothing_of_it_runs_any_more() -> None:
    pod, stop = a_pod(), Stop("Evicted", "low on memory", "The node was low on memory")
    before = pod_status(pod, facts(a_run()))
    during = pod_status(pod, facts(a_run(), stop=stop), before)
    assert "reason" not in during
    assert during["phase"] == "Running"
    after = pod_status(pod, facts(an_end(code=137), stop=stop, is_over=True), during)
    assert (after["phase"], after["reason"], after["message"]) == (
        "Failed",
        "Evicted",
        "low on memory",
    )
    assert condition(after, "DisruptionTarget")["reason"] == "TerminationByKubelet"
    assert condition(after, "Ready")["reason"] == "PodFailed"
    again = pod_status(pod, facts(an_end(code=137)), after)  # nobody remembers the eviction
    assert (again["phase"], again["reason"]) == ("Failed", "Evicted")


def test_a_rejected_pod_has_failed_and_says_why() -> None:
    pod = a_pod(status={"phase": "Pending", "qosClass": "BestEffort"})
    status = rejected(pod, "OutOfcpu", "Node didn't have enough resource: cpu", NOW)
    assert status["message"] == "Pod was rejected: Node didn't have enough resource: cpu"
    assert shown(pod, status) == "0/1 OutOfcpu 0"
    later = pod_status(pod, nothing(), status)
    assert (later["phase"], later["reason"]) == ("Failed", "OutOfcpu")


def test_the_end_of_a_pod_of_the_api_stays_though_this_node_knows_nothing() -> None:
    pod = a_pod(status={"phase": "Failed", "reason": "Shutdown", "message": "m"})
    status = pod_status(pod, facts(a_run()))
    assert (status["phase"], status["reason"], status["message"]) == ("Failed", "Shutdown", "m")


def test_a_pod_that_succeeded_does_not_fail_later() -> None:
    pod = a_pod("a", "b", init=(INIT,))
    old = pod_status(pod, facts(an_end("a"), an_end("b"), is_over=True))
    assert old["phase"] == "Succeeded"
    later = pod_status(pod, facts(a_run("b", state=State.CREATED), is_over=True), old)
    assert later["phase"] == "Succeeded"


def test_a_container_that_ended_for_good_does_not_run_again() -> None:
    pod = a_pod(policy="Never")
    old = pod_status(pod, facts(an_end(), a_run("other")))
    assert pod_status(pod, facts(a_run(attempt=1)), old) == old


def test_what_nobody_saw_end_counts_as_failed_at_the_last() -> None:
    pod = a_pod("a", "b")
    last = closed(pod, pod_status(pod, facts(a_run("a"), an_end("b"))), NOW)
    assert last["phase"] == "Failed"
    rows: Any = last["containerStatuses"]
    assert [row["state"]["terminated"]["reason"] for row in rows] == [
        "ContainerStatusUnknown",
        "Completed",
    ]


def test_a_pod_that_never_came_to_its_containers_leaves_them_waiting() -> None:
    pod = a_pod(init=(INIT, {**INIT, "name": "j"}))
    last: Any = closed(pod, pod_status(pod, facts(a_run("i"))), NOW)
    assert "terminated" in last["initContainerStatuses"][0]["state"]
    assert "waiting" in last["initContainerStatuses"][1]["state"]
    assert "waiting" in last["containerStatuses"][0]["state"]
    assert last["phase"] == "Failed"


def test_a_pod_on_the_node_s_network_has_the_node_s_addresses() -> None:
    status = pod_status(a_pod(hostNetwork=True), facts(a_run(), box=a_box(ips=())))
    assert status["podIPs"] == [{"ip": "192.0.2.1"}]
    assert condition(status, "PodReadyToStartContainers")["status"] == "True"


def test_addresses_of_the_node_s_own_family_come_first() -> None:
    box = a_box(ips=("fd00::5", "10.0.0.5", "10.0.0.6"))
    status = pod_status(a_pod(), facts(a_run(), box=box))
    assert status["podIPs"] == [{"ip": "10.0.0.5"}, {"ip": "fd00::5"}]


def test_ephemeral_containers_have_no_readiness() -> None:
    pod = a_pod(ephemeralContainers=[{"name": "debug", "image": "i:1"}])
    row: Any = pod_status(pod, facts(a_run(), a_run("debug")))["ephemeralContainerStatuses"]
    assert "running" in row[0]["state"]
    assert "started" not in row[0]
    assert row[0]["ready"] is False


def test_a_static_pod_does_not_end_for_good() -> None:
    pod = a_pod(meta={"annotations": {"kubernetes.io/config.source": "file"}})
    assert pod_status(pod, facts(an_end(), is_over=True))["phase"] == "Running"


def test_containers_that_are_taken_away_to_begin_anew_say_so() -> None:
    rule = {"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [3]}}
    watcher = {"name": "w", "image": "i", "restartPolicy": "Never", "restartPolicyRules": [rule]}
    pod = a_pod(containers=[{"name": "c", "image": "i"}, watcher])
    old = pod_status(pod, facts(a_run(), a_run("w")))
    status: Any = pod_status(pod, facts(an_end("w", 3)), old)
    assert condition(status, "AllContainersRestarting")["status"] == "True"
    first = status["containerStatuses"][0]
    assert first["state"]["waiting"]["reason"] == "RestartingAllContainers"
    assert (status["phase"], first["restartCount"]) == ("Running", 1)
    done: Any = pod_status(pod, facts(), status)
    assert condition(done, "AllContainersRestarting")["status"] == "False"
    assert done["phase"] == "Running"
    back: Any = pod_status(pod, facts(a_run(), a_run("w")), done)
    assert [row["restartCount"] for row in back["containerStatuses"]] == [1, 1]


def test_a_machine_without_an_address_of_its_own_keeps_the_one_it_had() -> None:
    """Before the link is back a machine without a default route knows only its loopback."""
    pod = a_pod()
    before: Any = pod_status(pod, facts(a_run(), box=a_box()))
    alone = replace(facts(a_run(), box=a_box()), host_ips=("127.0.0.1",))
    assert pod_status(pod, alone, before)["hostIPs"] == before["hostIPs"]
    assert pod_status(pod, alone)["hostIP"] == "127.0.0.1"
    moved = replace(alone, host_ips=("192.0.2.9",))
    assert pod_status(pod, moved, before)["hostIP"] == "192.0.2.9"
