"""A Pod's life as its worker leads it, on a runtime in memory and a clock that jumps."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from edge.pods.ports import NeverRuns, NotYet
from edge.pods.runtime import RuntimeFault, State
from gateway.errors import GatewayError
from gateway.model.json import JsonObject
from tests.pod_rig import PodRig, a_container, a_pod, on_a_rig


def starts(rig: PodRig, name: str = "c") -> int:
    return Counter(rig.runtime.calls)[f"start_container {name}"]


def test_a_pod_gets_a_sandbox_and_its_container_and_is_running() -> None:
    async def work(rig: PodRig) -> None:
        async with rig.process():
            rig.apply(a_pod())
            await rig.until(lambda: rig.phase() == "Running")
            assert len(rig.runtime.rooms) == 1
            assert [each.state for each in rig.runtime.boxes.values()] == [State.RUNNING]
            assert rig.rooms.told("Created") == ["Container created"]
            assert rig.rooms.told("Started") == ["Container started"]
            assert rig.rooms.statuses["u1"]["podIP"] == "10.9.0.2"

    on_a_rig(work)


def test_a_deleted_pod_is_stopped_within_its_grace_told_and_cleared_away() -> None:
    async def work(rig: PodRig) -> None:
        async with rig.process():
            pod = a_pod()
            rig.apply(pod)
            await rig.until(lambda: rig.phase() == "Running")
            rig.delete(pod, grace=7)
            await rig.until(lambda: rig.rooms.ended == ["u1"])
            assert "stop_container c 7" in rig.runtime.calls
            assert rig.rooms.told("Killing") == ["Stopping container c"]
            assert "terminated" in rig.state()
            assert not rig.rooms.mounted
            assert rig.rooms.prepared, "its logs can be read until the API has forgotten it"
            rig.remove(pod)
            await rig.until(lambda: rig.is_clean)
            await rig.until(lambda: rig.edged is not None and not rig.edged.pods())

    on_a_rig(work)


def test_a_sandbox_that_cannot_be_stopped_is_tried_again() -> None:
    async def work(rig: PodRig) -> None:
        async with rig.process():
            pod = a_pod()
            rig.apply(pod)
            await rig.until(lambda: rig.phase() == "Running")
            words = 'plugin type="bridge" failed (delete): no such device'
            rig.runtime.faults["stop_sandbox"] = [RuntimeFault(words), RuntimeFault(words)]
            rig.delete(pod, grace=7)
            await rig.until(lambda: rig.rooms.ended == ["u1"])
            assert rig.rooms.told("FailedKillPod") == [f"error killing pod: {words}"] * 2
            assert starts(rig) == 1
            rig.remove(pod)
            await rig.until(lambda: rig.is_clean)

    on_a_rig(work)


def test_the_probes_of_a_pod_that_ends_know_it() -> None:
    async def work(rig: PodRig) -> None:
        rig.runtime.stubborn.add("c")
        async with rig.process():
            rig.apply(a_pod())
            await rig.until(lambda: rig.phase() == "Running")
            rig.delete(a_pod())
            await rig.until(lambda: rig.rooms.told("Killing"))
            assert rig.rooms.probed["u1"].is_deleting
            assert rig.runtime.boxes

    on_a_rig(work)


def test_a_pod_deleted_by_force_ends_without_a_word_to_the_api() -> None:
    async def work(rig: PodRig) -> None:
        async with rig.process():
            pod = a_pod()
            rig.apply(pod)
            await rig.until(lambda: rig.phase() == "Running")
            rig.remove(pod, grace=0)
            await rig.until(lambda: rig.is_clean)
            assert "stop_container c 2" in rig.runtime.calls, "a container always has two seconds"
            assert not rig.rooms.ended

    on_a_rig(work)


def test_a_shorter_grace_cuts_a_longer_one_short() -> None:
    async def work(rig: PodRig) -> None:
        async with rig.process():
            pod = a_pod(terminationGracePeriodSeconds=3600)
            rig.runtime.stubborn = {"c"}
            rig.apply(pod)
            await rig.until(lambda: rig.phase() == "Running")
            rig.delete(pod, grace=3600)
            await rig.until(lambda: "stop_container c 3600" in rig.runtime.calls)
            began = rig.clock()
            rig.delete(pod, grace=5)
            await rig.until(lambda: rig.rooms.ended == ["u1"])
            assert rig.clock() - began < 10
            rig.delete(pod, grace=60)
            await asyncio.sleep(5)
            assert "stop_container c 60" not in rig.runtime.calls, "a grace never gets longer"

    on_a_rig(work)


def test_a_container_that_crashes_is_restarted_with_a_back_off_that_doubles() -> None:
    async def work(rig: PodRig) -> None:
        async with rig.process():
            rig.apply(a_pod())
            await rig.until(lambda: rig.phase() == "Running")
            rig.runtime.end("c", 3)
            await rig.until(lambda: starts(rig) == 2)
            pauses = []
            for _ in range(4):
                rig.runtime.end("c", 3)
                ended, count = rig.clock(), starts(rig)
                await rig.until(lambda: rig.waits_for("CrashLoopBackOff"))
                await rig.until(lambda n=count: starts(rig) > n)  # type: ignore[misc]
                pauses.append(round(rig.clock() - ended))
            assert pauses == [10, 20, 40, 80]
            assert rig.state(key="restartCount") == {"value": 5}
            told = "Back-off restarting failed container c in pod p_default(u1)"
            assert told in rig.rooms.told("BackOff")

    on_a_rig(work)


def test_the_waiting_container_says_how_long_and_how_it_ended_last() -> None:
    async def work(rig: PodRig) -> None:
        async with rig.process():
            rig.runtime.exits_at_once = {"c": 7}
            rig.apply(a_pod())
            await rig.until(lambda: rig.waits_for("CrashLoopBackOff"))
            waiting: Any = rig.state()["waiting"]
            assert waiting["message"] == (
                "back-off 10s restarting failed container=c pod=p_default(u1)"
            )
            last: Any = rig.state(key="lastState")
            assert last["terminated"]["exitCode"] == 7

    on_a_rig(work)


def test_a_container_that_ran_well_for_ten_minutes_starts_at_once_again() -> None:
    async def work(rig: PodRig) -> None:
        async with rig.process():
            rig.apply(a_pod())
            for count in (1, 2, 3):
                await rig.until(lambda n=count: starts(rig) == n)  # type: ignore[misc]
                rig.runtime.end("c", 1)
            await rig.until(lambda: starts(rig) == 4)
            await asyncio.sleep(700)
            rig.runtime.end("c", 1)
            ended = rig.clock()
            await rig.until(lambda: starts(rig) == 5)
            assert rig.clock() - ended < 2

    on_a_rig(work)


def test_a_pod_that_never_restarts_ends_and_keeps_its_containers_for_their_logs() -> None:
    async def work(rig: PodRig) -> None:
        async with rig.process():
            rig.apply(a_pod(restartPolicy="Never"))
            await rig.until(lambda: rig.phase() == "Running")
            rig.runtime.end("c", 0)
            await rig.until(lambda: rig.phase() == "Succeeded")
            await rig.until(lambda: not any(each.is_ready for each in rig.runtime.rooms.values()))
            assert len(rig.runtime.boxes) == 1
            assert not rig.rooms.mounted
            assert not rig.rooms.ended, "nobody deleted it"
            await asyncio.sleep(100)
            assert starts(rig) == 1
            rig.delete(a_pod(restartPolicy="Never"))
            await rig.until(lambda: rig.rooms.ended == ["u1"])

    on_a_rig(work)


def test_a_job_is_tried_again_until_it_succeeds() -> None:
    async def work(rig: PodRig) -> None:
        async with rig.process():
            rig.apply(a_pod(restartPolicy="OnFailure"))
            await rig.until(lambda: rig.phase() == "Running")
            rig.runtime.end("c", 1)
            await rig.until(lambda: starts(rig) == 2)
            rig.runtime.end("c", 0)
            await rig.until(lambda: rig.phase() == "Succeeded")

    on_a_rig(work)


def test_init_containers_run_one_after_another_before_all_others() -> None:
    async def work(rig: PodRig) -> None:
        async with rig.process():
            rig.apply(a_pod(initContainers=[a_container("i1"), a_container("i2")]))
            for name in ("i1", "i2"):
                await rig.until(lambda n=name: rig.runtime.running(n))  # type: ignore[misc]
                assert not rig.runtime.running("c")
                assert rig.phase() == "Pending"
                rig.runtime.end(name)
            await rig.until(lambda: rig.phase() == "Running")
            order = [each for each in rig.runtime.calls if each.startswith("start_container")]
            assert order == ["start_container i1", "start_container i2", "start_container c"]

    on_a_rig(work)


def test_a_failed_init_container_ends_a_pod_that_never_restarts() -> None:
    async def work(rig: PodRig) -> None:
        async with rig.process():
            rig.apply(a_pod(restartPolicy="Never", initContainers=[a_container("i1")]))
            await rig.until(lambda: rig.runtime.running("i1"))
            rig.runtime.end("i1", 4)
            await rig.until(lambda: rig.phase() == "Failed")
            assert not starts(rig)

    on_a_rig(work)


def test_a_sidecar_is_started_first_restarted_always_and_stopped_last() -> None:
    sidecars = [a_container(name, restartPolicy="Always") for name in ("s1", "s2")]

    async def work(rig: PodRig) -> None:
        async with rig.process():
            rig.rooms.unstarted = {"s1"}
            pod = a_pod(initContainers=sidecars)
            rig.apply(pod)
            await rig.until(lambda: rig.runtime.running("s1"))
            await asyncio.sleep(30)
            assert not starts(rig, "s2"), "the one before has not started up"
            rig.rooms.unstarted.clear()
            assert rig.edged is not None
            rig.edged.kick("u1")
            await rig.until(lambda: rig.phase() == "Running" and rig.runtime.running("c"))
            rig.runtime.end("s1", 0)
            await rig.until(lambda: starts(rig, "s1") == 2)
            rig.delete(pod)
            await rig.until(lambda: rig.rooms.ended == ["u1"])
            stops = [each.split()[1] for each in rig.runtime.calls if "stop_container" in each]
            assert stops == ["c", "s2", "s1"]

    on_a_rig(work)


def test_a_job_with_a_sidecar_ends_when_the_job_does() -> None:
    async def work(rig: PodRig) -> None:
        async with rig.process():
            sidecar = a_container("s1", restartPolicy="Always")
            rig.apply(a_pod(restartPolicy="Never", initContainers=[sidecar]))
            await rig.until(lambda: rig.runtime.running("c"))
            rig.runtime.end("c", 0)
            await rig.until(lambda: rig.phase() == "Succeeded")
            assert not rig.runtime.running("s1")

    on_a_rig(work)


def test_after_a_reboot_there_is_a_new_sandbox_and_all_starts_again() -> None:
    async def work(rig: PodRig) -> None:
        async with rig.process():
            rig.apply(a_pod(initContainers=[a_container("i1")]))
            await rig.until(lambda: rig.runtime.running("i1"))
            rig.runtime.end("i1")
            await rig.until(lambda: rig.runtime.running("c"))
        rig.runtime.kill_sandboxes()
        async with rig.process():
            await rig.until(lambda: len(rig.runtime.running("i1")) == 1)
            rig.runtime.end("i1")
            await rig.until(lambda: rig.runtime.running("c"))
            ready = [each for each in rig.runtime.rooms.values() if each.is_ready]
            assert [each.attempt for each in ready] == [1]
            assert rig.rooms.told("SandboxChanged")
            assert starts(rig) == 2

    on_a_rig(work)


def test_an_edited_image_restarts_the_container_and_only_it() -> None:
    async def work(rig: PodRig) -> None:
        async with rig.process():
            rig.apply(a_pod(containers=[a_container(), a_container("d")]))
            await rig.until(lambda: rig.runtime.running("c") and rig.runtime.running("d"))
            rig.apply(a_pod(containers=[a_container(image="app:2"), a_container("d")]))
            await rig.until(lambda: starts(rig) == 2)
            assert rig.rooms.told("Killing") == [
                "Container c definition changed, will be restarted"
            ]
            assert rig.runtime.running("c")[0].image == "app:2"
            assert starts(rig, "d") == 1

    on_a_rig(work)


def test_a_failed_liveness_probe_kills_with_its_own_grace_and_restarts() -> None:
    async def work(rig: PodRig) -> None:
        async with rig.process():
            rig.apply(a_pod())
            await rig.until(lambda: rig.runtime.running("c"))
            rig.rooms.probe_grace = 9
            rig.rooms.failed_probes = {rig.runtime.running("c")[0].id: "liveness"}
            assert rig.edged is not None
            rig.edged.kick("u1")
            await rig.until(lambda: starts(rig) == 2)
            assert "stop_container c 9" in rig.runtime.calls
            assert rig.rooms.told("Killing") == [
                "Container c failed liveness probe, will be restarted"
            ]

    on_a_rig(work)


def test_an_ephemeral_container_starts_once_and_never_again() -> None:
    async def work(rig: PodRig) -> None:
        async with rig.process():
            rig.apply(a_pod())
            await rig.until(lambda: rig.runtime.running("c"))
            rig.apply(a_pod(ephemeralContainers=[a_container("debug")]))
            await rig.until(lambda: rig.runtime.running("debug"))
            rig.runtime.end("debug", 1)
            await asyncio.sleep(60)
            assert starts(rig, "debug") == 1
            assert rig.phase() == "Running"

    on_a_rig(work)


def test_a_pod_past_its_deadline_fails() -> None:
    async def work(rig: PodRig) -> None:
        async with rig.process():
            rig.apply(a_pod(activeDeadlineSeconds=60))
            await rig.until(lambda: rig.phase() == "Running")
            began = rig.clock()
            await rig.until(lambda: rig.phase() == "Failed")
            assert 50 < rig.clock() - began < 70
            status = rig.rooms.statuses["u1"]
            assert status["reason"] == "DeadlineExceeded"
            assert not rig.runtime.running("c")

    on_a_rig(work)


def test_an_evicted_pod_fails_with_the_reason_and_stays_so() -> None:
    async def work(rig: PodRig) -> None:
        async with rig.process() as edged:
            rig.apply(a_pod())
            await rig.until(lambda: rig.phase() == "Running")
            edged.evict("u1", "Evicted", "The node was low on resource: memory.", 1)
            await rig.until(lambda: rig.phase() == "Failed")
            assert rig.rooms.statuses["u1"]["reason"] == "Evicted"
        async with rig.process():
            await asyncio.sleep(60)
            assert starts(rig) == 1
            assert rig.phase() == "Failed"

    on_a_rig(work)


def test_a_pod_that_this_node_refuses_never_starts_and_says_why() -> None:
    async def work(rig: PodRig) -> None:
        async with rig.process():
            rig.rooms.refused = NeverRuns("OutOfcpu", "Node didn't have enough resource: cpu")
            pod = a_pod()
            rig.apply(pod)
            await rig.until(lambda: rig.phase() == "Failed")
            assert rig.rooms.statuses["u1"]["reason"] == "OutOfcpu"
            assert not rig.runtime.calls
            rig.delete(pod)
            await rig.until(lambda: rig.rooms.ended == ["u1"])

    on_a_rig(work)


def test_a_pod_that_has_ended_is_judged_no_more() -> None:
    async def work(rig: PodRig) -> None:
        rig.rooms.refused = NeverRuns("OutOfcpu", "Node didn't have enough resource: cpu")
        async with rig.process():
            rig.apply({**a_pod(restartPolicy="Never"), "status": {"phase": "Succeeded"}})
            await asyncio.sleep(10)
            assert rig.phase() == "Succeeded"
            assert not rig.runtime.calls

    on_a_rig(work)


def test_what_cannot_be_had_now_is_waited_for_and_said() -> None:
    async def work(rig: PodRig) -> None:
        async with rig.process():
            rig.rooms.not_yet = {
                "volumes": NotYet("ContainerCreating", 'configmap "settings" not found')
            }
            rig.apply(a_pod())
            await rig.until(lambda: rig.rooms.told("FailedMount"))
            assert not rig.runtime.rooms, "volumes come first"
            reason = "CreateContainerConfigError"
            rig.rooms.not_yet = {"c": NotYet(reason, 'secret "s" not found')}
            await rig.until(lambda: rig.waits_for(reason))
            assert rig.rooms.told("Failed")[0] == 'Error: secret "s" not found'
            rig.rooms.not_yet = {"image of c": NotYet("ErrImagePull", "no such image")}
            await rig.until(lambda: rig.waits_for("ErrImagePull"))
            rig.rooms.not_yet = {}
            await rig.until(lambda: rig.phase() == "Running")

    on_a_rig(work)


def test_a_sandbox_that_cannot_be_made_is_tried_again_under_another_attempt() -> None:
    async def work(rig: PodRig) -> None:
        async with rig.process():
            fault = RuntimeFault("failed to reserve sandbox name")
            rig.runtime.faults = {"run_sandbox": [fault, fault]}
            rig.apply(a_pod())
            await rig.until(lambda: rig.phase() == "Running")
            assert rig.rooms.told("FailedCreatePodSandBox")[0] == (
                "Failed to create pod sandbox: failed to reserve sandbox name"
            )
            assert [each.attempt for each in rig.runtime.rooms.values()] == [1]

    on_a_rig(work)


def test_a_container_that_cannot_be_created_or_started_says_so() -> None:
    async def work(rig: PodRig) -> None:
        async with rig.process():
            rig.runtime.faults = {"create_container": [RuntimeFault("no such device")]}
            rig.apply(a_pod())
            await rig.until(lambda: rig.waits_for("CreateContainerError"))
            rig.runtime.faults = {"start_container": [RuntimeFault("no such program")]}
            await rig.until(lambda: rig.waits_for("RunContainerError"))
            await rig.until(lambda: rig.phase() == "Running")
            assert len(rig.runtime.boxes) == 1, "what never ran was removed"

    on_a_rig(work)


def test_a_hook_after_the_start_that_fails_ends_its_container() -> None:
    async def fail(_name: str) -> None:
        raise GatewayError("exit code 1")

    async def work(rig: PodRig) -> None:
        async with rig.process():
            rig.rooms.on_hook = fail
            hook = {"postStart": {"exec": {"command": ["false"]}}}
            rig.apply(a_pod(containers=[a_container(lifecycle=hook)]))
            await rig.until(lambda: rig.waits_for("PostStartHookError"))
            assert rig.rooms.told("FailedPostStartHook") == ["PostStartHook failed"]
            assert not rig.runtime.running("c")
            rig.rooms.on_hook = None
            await rig.until(lambda: rig.phase() == "Running" and rig.runtime.running("c"))

    on_a_rig(work)


def test_a_hook_before_the_end_takes_from_the_grace() -> None:
    async def rest(_name: str) -> None:
        await asyncio.sleep(12)

    async def work(rig: PodRig) -> None:
        async with rig.process():
            rig.rooms.on_hook = rest
            hook = {"preStop": {"exec": {"command": ["drain"]}}}
            pod = a_pod(containers=[a_container(lifecycle=hook)])
            rig.apply(pod)
            await rig.until(lambda: rig.phase() == "Running")
            rig.delete(pod, grace=30)
            await rig.until(lambda: rig.rooms.ended == ["u1"])
            assert rig.rooms.hooks == ["c"]
            assert "stop_container c 18" in rig.runtime.calls

    on_a_rig(work)


def test_an_exit_code_may_let_all_containers_begin_anew() -> None:
    rule: JsonObject = {
        "action": "RestartAllContainers",
        "exitCodes": {"operator": "In", "values": [88]},
    }
    watcher = a_container("w", restartPolicy="Never", restartPolicyRules=[rule])

    async def work(rig: PodRig) -> None:
        async with rig.process():
            rig.apply(
                a_pod(
                    restartPolicy="Never",
                    initContainers=[a_container("i1")],
                    containers=[a_container(), watcher],
                )
            )
            await rig.until(lambda: rig.runtime.running("i1"))
            rig.runtime.end("i1")
            await rig.until(lambda: rig.runtime.running("c") and rig.runtime.running("w"))
            rig.runtime.end("w", 88)
            await rig.until(lambda: rig.runtime.running("i1"))
            assert not rig.runtime.running("c")
            rig.runtime.end("i1")
            await rig.until(lambda: rig.runtime.running("c") and rig.runtime.running("w"))
            assert len([each for each in rig.runtime.rooms.values() if each.is_ready]) == 1

    on_a_rig(work)


def test_a_new_pod_waits_until_the_old_one_of_its_name_has_ended() -> None:
    async def work(rig: PodRig) -> None:
        async with rig.process():
            rig.runtime.stubborn = {"c"}
            old = a_pod()
            rig.apply(old)
            await rig.until(lambda: rig.phase() == "Running")
            rig.apply(a_pod(uid="u2"))
            await asyncio.sleep(20)
            assert rig.phase("u2") is None
            await rig.until(lambda: rig.phase("u2") == "Running")
            assert {each.uid for each in rig.runtime.rooms.values()} == {"u2"}

    on_a_rig(work)


def test_nothing_is_concluded_while_the_runtime_is_away() -> None:
    async def work(rig: PodRig) -> None:
        async with rig.process():
            rig.apply(a_pod())
            await rig.until(lambda: rig.phase() == "Running")
            told = len(rig.rooms.history["u1"])
            rig.runtime.is_away = True
            await asyncio.sleep(120)
            assert len(rig.rooms.history["u1"]) == told
            rig.apply(a_pod("q", "u2"))
            await asyncio.sleep(30)
            rig.runtime.is_away = False
            await rig.until(lambda: rig.phase("u2") == "Running")
            assert starts(rig) == 2, "one each: the first Pod's goes on"

    on_a_rig(work)


def test_what_belongs_to_no_pod_is_ended_with_its_own_grace_and_removed() -> None:
    async def work(rig: PodRig) -> None:
        async with rig.process():
            rig.apply(a_pod(terminationGracePeriodSeconds=17))
            await rig.until(lambda: rig.phase() == "Running")
        rig.meta.stored.clear()
        told = len(rig.rooms.history["u1"])
        async with rig.process():
            await rig.until(lambda: rig.is_clean)
            assert "stop_container c 17" in rig.runtime.calls
            assert len(rig.rooms.history["u1"]) == told, "there is nobody to be told"

    on_a_rig(work)


def test_the_pods_of_a_deleted_node_end_and_are_forgotten() -> None:
    async def work(rig: PodRig) -> None:
        async with rig.process() as edged:
            rig.apply(a_pod())
            await rig.until(lambda: rig.phase() == "Running")
            edged.revoked()
            await rig.until(lambda: rig.is_clean)
            assert not rig.meta.stored

    on_a_rig(work)


def test_the_end_of_the_process_ends_no_pod() -> None:
    async def work(rig: PodRig) -> None:
        async with rig.process():
            rig.apply(a_pod())
            await rig.until(lambda: rig.phase() == "Running")
        before = list(rig.runtime.calls)
        async with rig.process():
            await asyncio.sleep(90)
        assert rig.runtime.calls == before

    on_a_rig(work)


def test_sixty_pods_start_four_sandboxes_at_a_time() -> None:
    async def work(rig: PodRig) -> None:
        async with rig.process():
            for number in range(60):
                rig.apply(a_pod(f"p{number}", f"u{number}"))
            await rig.until(lambda: len(rig.runtime.boxes) == 60)
            await rig.until(lambda: all(rig.phase(f"u{n}") == "Running" for n in range(60)))

    on_a_rig(work)
