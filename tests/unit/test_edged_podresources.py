"""Amounts of Pods as the kernel is told them: classes, shares, quotas, sums, who is killed first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.pods.podresources import (
    Limits,
    Machine,
    container_resources,
    limits_of,
    oom_score_adj,
    page_size,
    pod_limits,
    qos_of,
    quota_of,
    shares_of,
    shares_of_weight,
    weight_of,
)
from edge.pods.podspec import Pod, read_pod
from gateway.model.json import Json, JsonObject

GIB = 1 << 30


def sized(name: str, limits: Json = None, requests: Json = None, **more: Json) -> JsonObject:
    return {
        "name": name,
        "resources": {"limits": limits or {}, "requests": requests or {}},
        **more,
    }


def pod_of(*containers: Json, init: list[Json] | None = None, **spec: Json) -> Pod:
    return read_pod(
        {"spec": {"containers": list(containers), "initContainers": init or [], **spec}}
    )


FIXED: JsonObject = {"cpu": "500m", "memory": "1Gi"}


@pytest.mark.parametrize(
    ("millicores", "shares", "quota"),
    [
        (0, 2, 0),
        (1, 2, 1_000),
        (5, 5, 1_000),
        (250, 256, 25_000),
        (1_000, 1_024, 100_000),
        (1_500, 1_536, 150_000),
        (300_000, 262_144, 30_000_000),
    ],
)
def test_processors_become_shares_and_quotas(millicores: int, shares: int, quota: int) -> None:
    assert (shares_of(millicores), quota_of(millicores)) == (shares, quota)


@pytest.mark.parametrize(("shares", "weight"), [(2, 1), (1_024, 39), (262_144, 10_000), (0, 1)])
def test_shares_become_weights(shares: int, weight: int) -> None:
    assert weight_of(shares) == weight


@given(st.integers(2, 262_144))
def test_a_weight_stands_for_about_its_shares(shares: int) -> None:
    assert weight_of(shares_of_weight(weight_of(shares))) in range(
        weight_of(shares) - 1, weight_of(shares) + 1
    )


@pytest.mark.parametrize(
    ("pod", "qos"),
    [
        (pod_of(sized("a")), "BestEffort"),
        (pod_of(sized("a", FIXED, FIXED)), "Guaranteed"),
        (pod_of(sized("a", FIXED)), "Guaranteed"),
        (pod_of(sized("a", FIXED), sized("b")), "Burstable"),
        (pod_of(sized("a", None, {"cpu": "1m"})), "Burstable"),
        (pod_of(sized("a"), resources={"limits": FIXED, "requests": FIXED}), "Guaranteed"),
    ],
)
def test_a_class_follows_from_what_is_asked_for(pod: Pod, qos: str) -> None:
    assert qos_of(pod) == qos


def test_a_class_that_the_status_says_stands() -> None:
    pod = read_pod({"spec": {"containers": [sized("a")]}, "status": {"qosClass": "Burstable"}})
    assert qos_of(pod) == "Burstable"


@pytest.mark.parametrize(
    ("pod", "limits"),
    [
        (pod_of(sized("a")), Limits()),
        (
            pod_of(sized("a", FIXED, FIXED), sized("b", FIXED, FIXED)),
            Limits(cpu_shares=1_024, cpu_quota=100_000, memory=2 * GIB),
        ),
        (
            pod_of(sized("a", {"memory": "1Gi"}, {"cpu": "250m"}), sized("b", {"memory": "1Gi"})),
            Limits(cpu_shares=256, memory=2 * GIB),
        ),
        (pod_of(sized("a", FIXED, FIXED), sized("b")), Limits(cpu_shares=512)),
        (
            pod_of(sized("a", FIXED, FIXED), init=[sized("i")]),
            Limits(cpu_shares=512),
        ),
        (
            pod_of(sized("a"), resources={"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "1"}}),
            Limits(cpu_shares=1_024, cpu_quota=200_000, memory=GIB),
        ),
        (
            pod_of(sized("a", {"hugepages-2Mi": "4Mi", **FIXED}, {"hugepages-2Mi": "4Mi", **FIXED})),
            Limits(cpu_shares=512, cpu_quota=50_000, memory=GIB, huge_pages={"2MB": 4 << 20}),
        ),
    ],
)  # fmt: skip
def test_a_pod_is_limited_where_all_of_it_is(pod: Pod, limits: Limits) -> None:
    assert pod_limits(pod) == limits


def test_processes_are_limited_where_it_is_set() -> None:
    assert pod_limits(pod_of(sized("a")), 100).pids == 100


def test_the_sum_is_that_of_the_greediest_moment() -> None:
    sidecar = sized("s", {"cpu": "1"}, restartPolicy="Always")
    pod = pod_of(sized("a", {"cpu": "1"}), init=[sidecar, sized("i", {"cpu": "5", "memory": "9"})])
    assert limits_of(pod) == {"cpu": 6_000, "memory": 9}
    late = pod_of(sized("a", {"cpu": "9"}), init=[sidecar], overhead={"cpu": "1", "memory": "5"})
    assert limits_of(late) == {"cpu": 11_000}


def test_a_container_is_limited_by_its_own_or_its_pods() -> None:
    machine = Machine(memory=8 * GIB, page_sizes=("2MB", "1GB"))
    pod = pod_of(sized("a", {"cpu": "2", "memory": "1Gi", "hugepages-2Mi": "4Mi"}, {"cpu": "500m"}))
    found = container_resources(pod, pod.spec.containers[0], machine)
    assert (found.cpu_shares, found.cpu_quota, found.cpu_period) == (512, 200_000, 100_000)
    assert found.memory_limit == GIB
    assert found.hugepage_limits == (("2MB", 4 << 20), ("1GB", 0))
    assert found.unified == {}
    whole = pod_of(sized("a"), resources={"limits": {"cpu": "1", "memory": "2Gi"}})
    of_pod = container_resources(whole, whole.spec.containers[0], machine)
    assert (of_pod.cpu_shares, of_pod.cpu_quota, of_pod.memory_limit) == (1_024, 100_000, 2 * GIB)


def test_with_cgroup_v2_a_container_goes_as_a_whole_and_swaps_nothing() -> None:
    pod = pod_of(sized("a"))
    machine = Machine(memory=GIB, is_unified=True, has_swap=True)
    found = container_resources(pod, pod.spec.containers[0], machine)
    assert found.unified == {"memory.oom.group": "1", "memory.swap.max": "0"}


@pytest.mark.parametrize(
    ("size", "name"), [("2Mi", "2MB"), ("1Gi", "1GB"), ("64Ki", "64KB"), ("512", "512B")]
)
def test_a_page_size_is_named_as_cgroups_do(size: str, name: str) -> None:
    assert page_size(f"hugepages-{size}") == name


@pytest.mark.parametrize(
    ("pod", "score"),
    [
        (pod_of(sized("a", FIXED, FIXED)), -997),
        (pod_of(sized("a")), 1_000),
        (pod_of(sized("a", None, {"memory": "1Gi"})), 900),
        (pod_of(sized("a", None, {"cpu": "1"})), 999),
        (pod_of(sized("a", None, {"memory": "10Gi"})), 3),
        (
            pod_of(sized("a"), priority=2_000_001_000, priorityClassName="system-node-critical"),
            -997,
        ),
        (
            pod_of(sized("a"), sized("b"), resources={"requests": {"memory": "2Gi", "cpu": "1"}}),
            900,
        ),
    ],
)
def test_who_asks_for_more_memory_is_killed_later(pod: Pod, score: int) -> None:
    assert oom_score_adj(pod, pod.spec.containers[0], 10 * GIB) == score


def test_a_sidecar_is_not_killed_before_those_it_serves() -> None:
    sidecar = sized("s", None, {"memory": "1Mi"}, restartPolicy="Always")
    pod = pod_of(sized("a", None, {"memory": "5Gi"}), init=[sidecar])
    assert oom_score_adj(pod, pod.spec.init_containers[0], 10 * GIB) == 500
