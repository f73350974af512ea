"""Probes: the rules, and the timetable under a clock that jumps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.pods.podspec import Container, HttpGetAction, HttpHeader, Pod, Probe, read_pod
from edge.pods.ports import Observed
from edge.pods.probehttp import TriedInVain, Verdict, probe_http, request_of
from edge.pods.proberules import Found, Kind, Tally, Turn, after, fresh, turn
from edge.pods.probes import PodProbes
from edge.pods.runtime import ContainerState, State
from tests.virtual_time import VirtualLoop, run_virtually

BASE = 1_700_000_000.0
GOOD, BAD = Verdict(Found.SUCCESS), Verdict(Found.FAILURE, "no")


def tallied(kind: Kind, probe: Probe, results: Iterable[bool]) -> Tally:
    tally = fresh(kind)
    for each in results:
        tally = after(tally, kind, probe, is_success=each)
    return tally


@pytest.mark.parametrize(
    ("kind", "results", "expected", "rests"),
    [
        (Kind.LIVENESS, "", True, False),
        (Kind.LIVENESS, "ff", True, False),
        (Kind.LIVENESS, "ffsff", True, False),
        (Kind.LIVENESS, "sfff", False, True),
        (Kind.READINESS, "", False, False),
        (Kind.READINESS, "s", False, False),
        (Kind.READINESS, "ss", True, False),
        (Kind.READINESS, "ssff", True, False),
        (Kind.READINESS, "ssfff", False, False),
        (Kind.READINESS, "ssfffs", False, False),
        (Kind.STARTUP, "ff", None, False),
        (Kind.STARTUP, "fff", False, True),
        (Kind.STARTUP, "fss", True, True),
    ],
)
def test_results_count_once_they_come_often_enough_in_a_row(
    kind: Kind, results: str, expected: bool | None, rests: bool
) -> None:
    probe = Probe(failure_threshold=3, success_threshold=2 if kind is not Kind.LIVENESS else 1)
    tally = tallied(kind, probe, (each == "s" for each in results))
    assert (tally.result, tally.is_resting) == (expected, rests)


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 5), st.integers(1, 5))
def test_readiness_is_the_last_run_that_was_long_enough(
    results: list[bool], success: int, failure: int
) -> None:
    probe = Probe(success_threshold=success, failure_threshold=failure)
    expected, run, last = False, 0, None
    for each in results:
        run, last = (run + 1 if each is last else 1), each
        if run >= (success if each else failure):
            expected = each
    assert tallied(Kind.READINESS, probe, results).result is expected


@given(st.text(max_size=30), st.text(max_size=20), st.text(max_size=10), st.text(max_size=10))
def test_any_action_is_a_request_or_refused(path: str, host: str, name: str, value: str) -> None:
    headers = [HttpHeader(name=name, value=value)]
    action = HttpGetAction(path=path, host=host, port=80, http_headers=headers)
    request = request_of(action, Container(name="c"), "10.0.0.1", "probe")
    assert request.url.isascii() or host
    verdict = asyncio.run(probe_http(replace(request, url=f"gopher{request.url}"), 1.0))
    assert verdict.found is Found.FAILURE  # and nothing else is raised


@pytest.mark.parametrize(
    ("kind", "started", "seconds", "deleting", "expected"),
    [
        (Kind.LIVENESS, True, 5.0, False, Turn.PROBE),
        (Kind.LIVENESS, True, 4.9, False, Turn.WAIT),
        (Kind.LIVENESS, False, 9.0, False, Turn.WAIT),
        (Kind.LIVENESS, True, 9.0, True, Turn.CEASE),
        (Kind.READINESS, True, 9.0, True, Turn.PROBE),
        (Kind.READINESS, False, 9.0, False, Turn.WAIT),
        (Kind.STARTUP, False, 9.0, False, Turn.PROBE),
        (Kind.STARTUP, True, 9.0, False, Turn.WAIT),
        (Kind.STARTUP, False, 9.0, True, Turn.CEASE),
    ],
)
def test_a_probe_has_its_turn(
    kind: Kind, started: bool, seconds: float, deleting: bool, expected: Turn
) -> None:
    probe = Probe(initial_delay_seconds=5)
    found = turn(
        kind,
        probe,
        fresh(kind),
        is_deleting=deleting,
        is_started=started,
        running_seconds=seconds,
    )
    assert found is expected


# --- the timetable -----------------------------------------------------------------------------------


@dataclass
class Bench:
    """PodProbes with probers that answer from a script: `answer(kind, seconds since start)`."""

    loop: VirtualLoop
    answer: Callable[[str, float], Verdict]
    status: dict[str, Any] | None = None
    tries: list[tuple[str, float]] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    kicks: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.probes = PodProbes(
            self,  # type: ignore[arg-type]
            self,  # type: ignore[arg-type]
            lambda _uid: self.kicks.append(self.loop.time()),
            lambda _uid: self.status,
            clock=self.loop.time,
            now=lambda: BASE + self.loop.time(),
            jitter=lambda: 0.0,
        )

    async def try_(
        self, _pod: Pod, container: Container, _id: str, probe: Probe, _ip: str
    ) -> Verdict:
        kind = next(
            name
            for name in ("liveness", "readiness", "startup")
            if getattr(container, f"{name}_probe") is probe
        )
        self.tries.append((kind, self.loop.time()))
        return self.answer(kind, self.loop.time())

    def event(self, _pod: Pod, kind: str, reason: str, message: str, _container: object) -> None:
        self.events.append(f"{kind} {reason} {message}")

    async def until(self, seconds: float) -> None:
        task = asyncio.create_task(self.probes.run(lambda: None))
        await asyncio.sleep(seconds)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def times(self, kind: str) -> list[float]:
        return [when for name, when in self.tries if name == kind]


def pod_with(**probes: dict[str, Any]) -> Pod:
    container: dict[str, Any] = {"name": "c", "image": "i"}
    for name, each in probes.items():
        container[f"{name}Probe"] = {"exec": {"command": ["true"]}, **each}
    return read_pod(
        {
            "metadata": {"name": "p", "namespace": "default", "uid": "u"},
            "spec": {"containers": [container]},
        }
    )


def running(ident: str = "c1", started: float = BASE) -> Observed:
    state = ContainerState(
        id=ident,
        sandbox_id="s",
        name="c",
        attempt=0,
        state=State.RUNNING,
        created_at=1,
        started_at=int(started * 1e9),
    )
    return Observed("u", (), (state,))


def ready(bench: Bench, pod: Pod, ident: str = "c1") -> bool:
    return bench.probes.is_ready(pod, pod.spec.containers[0], ident)


def started(bench: Bench, pod: Pod, ident: str = "c1") -> bool:
    return bench.probes.is_started(pod, pod.spec.containers[0], ident)


def test_a_container_without_probes_is_started_and_ready() -> None:
    async def work(loop: VirtualLoop) -> None:
        bench, pod = Bench(loop, lambda _k, _t: BAD), pod_with()
        bench.probes.update(pod, running(), "10.0.0.1")
        assert started(bench, pod)
        assert ready(bench, pod)

    run_virtually(work)


def test_readiness_is_tried_at_once_and_each_period() -> None:
    async def work(loop: VirtualLoop) -> None:
        pod = pod_with(readiness={"periodSeconds": 5, "failureThreshold": 1})
        bench = Bench(loop, lambda _k, when: GOOD if when < 12 else BAD)
        bench.probes.update(pod, running(), "10.0.0.1")
        assert not ready(bench, pod)
        await bench.until(11)
        assert bench.times("readiness") == pytest.approx([0, 5, 10])
        assert ready(bench, pod)
        assert bench.kicks == pytest.approx([0])
        await bench.until(5)
        assert not ready(bench, pod)
        assert bench.events == ["Warning Unhealthy Readiness probe failed: no"]
        assert bench.probes.failed("c1") is None

    run_virtually(work)


def test_initial_delay_is_counted_from_the_container_s_start() -> None:
    async def work(loop: VirtualLoop) -> None:
        pod = pod_with(readiness={"periodSeconds": 10, "initialDelaySeconds": 7})
        bench = Bench(loop, lambda _k, _t: GOOD)
        bench.probes.update(pod, running(started=BASE - 3), "10.0.0.1")
        await bench.until(6)
        assert bench.times("readiness") == pytest.approx([4])

    run_virtually(work)


def test_others_wait_for_the_startup_probe() -> None:
    async def work(loop: VirtualLoop) -> None:
        pod = pod_with(
            startup={"periodSeconds": 2, "failureThreshold": 30},
            liveness={"periodSeconds": 3},
            readiness={"periodSeconds": 30},
        )
        bench = Bench(loop, lambda kind, when: BAD if kind == "startup" and when < 8 else GOOD)
        bench.probes.update(pod, running(), "10.0.0.1")
        await bench.until(7)
        assert not started(bench, pod)
        assert {kind for kind, _ in bench.tries} == {"startup"}
        await bench.until(10)
        assert started(bench, pod)
        assert ready(bench, pod)
        assert bench.times("startup") == pytest.approx([0, 2, 4, 6, 8])
        assert bench.times("readiness") == pytest.approx([8])
        assert bench.times("liveness")[0] >= 8

    run_virtually(work)


@pytest.mark.parametrize("kind", ["liveness", "startup"])
def test_a_failed_probe_asks_for_a_kill_with_its_own_grace_and_rests(kind: str) -> None:
    async def work(loop: VirtualLoop) -> None:
        probe = {"periodSeconds": 1, "failureThreshold": 2, "terminationGracePeriodSeconds": 3}
        pod, bench = pod_with(**{kind: probe}), Bench(loop, lambda _k, _t: BAD)
        bench.probes.update(pod, running(), "10.0.0.1")
        await bench.until(10)
        assert len(bench.tries) == 2
        assert bench.probes.failed("c1") == kind
        assert bench.probes.grace_seconds("c1") == 3
        assert bench.kicks == pytest.approx([1])
        bench.probes.update(pod, running("c2", BASE + 10), "10.0.0.1")
        assert bench.probes.failed("c1") is None
        assert bench.probes.failed("c2") is None

    run_virtually(work)


def test_a_deleted_pod_is_not_killed_by_its_probes() -> None:
    async def work(loop: VirtualLoop) -> None:
        pod = pod_with(liveness={"periodSeconds": 1, "failureThreshold": 3})
        bench = Bench(loop, lambda _k, _t: BAD)
        bench.probes.update(pod, running(), "10.0.0.1")
        await bench.until(1.5)
        raw = dict(pod.raw)
        raw["metadata"] = {"name": "p", "uid": "u", "deletionTimestamp": "2026-01-01T00:00:00Z"}
        bench.probes.update(read_pod(raw), running(), "10.0.0.1")
        await bench.until(10)
        assert len(bench.tries) == 2
        assert bench.probes.failed("c1") is None

    run_virtually(work)


def test_what_was_started_and_ready_before_a_restart_stays_so() -> None:
    async def work(loop: VirtualLoop) -> None:
        row = {"name": "c", "containerID": "containerd://c1", "started": True, "ready": True}
        pod = pod_with(
            startup={"periodSeconds": 1, "failureThreshold": 1}, readiness={"periodSeconds": 5}
        )
        bench = Bench(loop, lambda _k, _t: BAD, status={"containerStatuses": [row]})
        assert ready(bench, pod)
        bench.probes.update(pod, running(started=BASE - 900), "10.0.0.1")
        assert started(bench, pod)
        assert ready(bench, pod)
        await bench.until(9)
        assert bench.times("startup") == []
        assert bench.probes.failed("c1") is None
        assert ready(bench, pod)  # two failures of three
        await bench.until(2)
        assert not ready(bench, pod)

    run_virtually(work)


def test_a_status_of_another_container_says_nothing() -> None:
    async def work(loop: VirtualLoop) -> None:
        row = {"name": "c", "containerID": "containerd://c0", "started": True, "ready": True}
        pod, status = pod_with(startup={}, readiness={}), {"containerStatuses": [row]}
        bench = Bench(loop, lambda _k, _t: BAD, status=status)
        bench.probes.update(pod, running(), "10.0.0.1")
        assert not started(bench, pod)
        assert not ready(bench, pod)

    run_virtually(work)


def test_a_try_that_says_nothing_changes_nothing() -> None:
    def in_vain(_kind: str, _when: float) -> Verdict:
        raise TriedInVain("no such port")

    async def work(loop: VirtualLoop) -> None:
        pod = pod_with(liveness={"periodSeconds": 1, "failureThreshold": 1})
        bench = Bench(loop, in_vain)
        bench.probes.update(pod, running(), "10.0.0.1")
        await bench.until(3.5)
        assert bench.probes.failed("c1") is None
        said = "Liveness probe errored and resulted in unknown state: no such port"
        assert bench.events == [f"Warning Unhealthy {said}"] * 4
        assert bench.probes.totals() == {}

    run_virtually(work)


def test_a_warning_is_told_of_and_counts_as_success() -> None:
    async def work(loop: VirtualLoop) -> None:
        pod = pod_with(readiness={"periodSeconds": 10})
        bench = Bench(loop, lambda _k, _t: Verdict(Found.WARNING, "elsewhere"))
        bench.probes.update(pod, running(), "10.0.0.1")
        await bench.until(1)
        assert ready(bench, pod)
        assert bench.events == ["Warning ProbeWarning Readiness probe warning: elsewhere"]
        labels = ("Readiness", "successful", "c", "p", "default", "u")
        assert bench.probes.totals() == {labels: 1}
        bench.probes.forget("u")
        assert bench.probes.totals() == {}

    run_virtually(work)


@pytest.mark.parametrize("error", [RuntimeError("a bug"), asyncio.CancelledError()])
def test_a_try_that_breaks_is_not_the_last(error: BaseException) -> None:
    def broken(_kind: str, when: float) -> Verdict:
        if when < 3:
            raise error
        return GOOD

    async def work(loop: VirtualLoop) -> None:
        pod = pod_with(readiness={"periodSeconds": 1})
        bench = Bench(loop, broken)
        bench.probes.update(pod, running(), "10.0.0.1")
        await bench.until(5)
        assert ready(bench, pod)

    run_virtually(work)


def test_slow_probes_are_bounded_and_do_not_pile_up() -> None:
    async def work(loop: VirtualLoop) -> None:
        at_once, most = 0, 0

        class Slow:
            async def try_(self, *_: object) -> Verdict:
                nonlocal at_once, most
                at_once += 1
                most = max(most, at_once)
                await asyncio.sleep(3)
                at_once -= 1
                return GOOD

        slow: Any = Slow()
        bench = Bench(loop, lambda _k, _t: GOOD)
        probes = bench.probes
        probes._probers = slow
        for number in range(200):
            pod = pod_with(readiness={"periodSeconds": 1})
            raw: dict[str, Any] = {
                **pod.raw,
                "metadata": {"name": f"p{number}", "uid": f"u{number}"},
            }
            probes.update(read_pod(raw), running(f"c{number}"), "10.0.0.1")
        await bench.until(30)
        assert most == 128
        assert sum(probes.totals().values()) > 250

    run_virtually(work)


def test_a_pod_whose_probes_hang_holds_up_no_other_pod() -> None:
    async def work(loop: VirtualLoop) -> None:
        tried: list[str] = []

        class Hanging:
            async def try_(self, pod: Pod, *_: object) -> Verdict:
                tried.append(pod.uid)
                if pod.uid == "bad":
                    await asyncio.sleep(3_600)
                return GOOD

        hanging: Any = Hanging()
        bench = Bench(loop, lambda _k, _t: GOOD)
        bench.probes._probers = hanging
        probe = {"exec": {"command": ["true"]}, "periodSeconds": 1}
        names = [f"c{number}" for number in range(300)]
        for uid, containers in (("bad", names), ("good", names[:1])):
            rows: list[Any] = [{"name": n, "readinessProbe": probe} for n in containers]
            meta: Any = {"name": uid, "namespace": "default", "uid": uid}
            pod = read_pod({"metadata": meta, "spec": {"containers": rows}})
            states = [
                replace(running(f"{uid}-{n}").containers[0], name=n, sandbox_id=uid)
                for n in containers
            ]
            bench.probes.update(pod, Observed(uid, (), tuple(states)), "10.0.0.1")
        await bench.until(5)
        assert tried.count("good") >= 4
        assert 1 <= tried.count("bad") <= 8

    run_virtually(work)


def test_a_try_that_ends_after_its_pod_leaves_nothing_behind() -> None:
    async def work(loop: VirtualLoop) -> None:
        class Slow:
            async def try_(self, *_: object) -> Verdict:
                await asyncio.sleep(3)
                return GOOD

        slow: Any = Slow()
        bench, pod = Bench(loop, lambda _k, _t: GOOD), pod_with(readiness={"periodSeconds": 1})
        bench.probes._probers = slow
        bench.probes.update(pod, running(), "10.0.0.1")
        loop.call_later(1, bench.probes.forget, pod.uid)
        await bench.until(10)
        assert bench.probes.totals() == {}
        assert bench.probes._busy == {}

    run_virtually(work)


@pytest.mark.parametrize("port", ["0", "65536", "0000000080" + "9" * 5_000, "1" * 5_000])
def test_a_port_of_absurd_length_is_no_port(port: str) -> None:
    with pytest.raises(TriedInVain):
        request_of(HttpGetAction(port=port), Container(name="c"), "10.0.0.1", "probe")
