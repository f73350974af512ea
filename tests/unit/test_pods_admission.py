"""Which Pods a node refuses for good, in the kubelet's words, and who makes way for whom."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.pods.admission import Admission, Terms, kernel_of, refusal
from edge.pods.podspec import Container, Pod, read_pod
from edge.pods.ports import NeverRuns, NotYet, Observed, Running
from edge.pods.preemption import NoRoom, takes, victims
from edge.pods.sysctls import forbidden_sysctl, normalized
from gateway.model.json import JsonObject
from gateway.wire.kube.taints import Taint

TERMS = Terms(
    name="edge-1",
    allocatable={"cpu": "2", "memory": "1Gi", "ephemeral-storage": "10Gi", "pods": "5"},
    labels={"zone": "a", "kubernetes.io/os": "linux"},
    kernel=(6, 1),
)
STATIC = {"kubernetes.io/config.source": "file"}


def a_pod(
    uid: str = "u1",
    *,
    cpu: str = "",
    memory: str = "",
    limits: bool = False,
    host_port: int = 0,
    meta: dict[str, Any] | None = None,
    requests: dict[str, str] | None = None,
    host_ip: str = "",
    **spec: Any,
) -> Pod:
    asked = {k: v for k, v in (("cpu", cpu), ("memory", memory)) if v} | (requests or {})
    resources = {"requests": asked, "limits": asked if limits else {}}
    ports = [{"containerPort": 80, "hostPort": host_port, "hostIP": host_ip}] if host_port else []
    container: dict[str, Any] = {"name": "c", "image": "i", "resources": resources, "ports": ports}
    return read_pod(
        {
            "metadata": {"name": uid, "namespace": "default", "uid": uid, **(meta or {})},
            "spec": {"containers": [container], "nodeName": "edge-1", **spec},
        }
    )


def a_static(uid: str = "s1", **spec: Any) -> Pod:
    return a_pod(uid, meta={"annotations": STATIC}, **spec)


REQUIRED = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
    {"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["a"]}]}]}}  # fmt: skip

REFUSED: list[tuple[str, Pod, list[Pod], Terms, str, str]] = [
    (
        "too many Pods",
        a_pod(),
        [a_pod(f"o{n}") for n in range(5)],
        TERMS,
        "OutOfpods",
        "Node didn't have enough resource: pods, requested: 1, used: 5, capacity: 5",
    ),
    (
        "too little CPU",
        a_pod(cpu="600m"),
        [a_pod("o", cpu="1500m")],
        TERMS,
        "OutOfcpu",
        "Node didn't have enough resource: cpu, requested: 600, used: 1500, capacity: 2000",
    ),
    (
        "too little memory",
        a_pod(memory="2Gi"),
        [],
        TERMS,
        "OutOfmemory",
        "Node didn't have enough resource: memory, requested: 2147483648, used: 0,"
        " capacity: 1073741824",
    ),
    (
        "too little disk",
        a_pod(requests={"ephemeral-storage": "11Gi"}),
        [],
        TERMS,
        "OutOfephemeral-storage",
        "Node didn't have enough resource: ephemeral-storage, requested: 11811160064, used: 0,"
        " capacity: 10737418240",
    ),
    (
        "too few of something else",
        a_pod(requests={"example.com/gpu": "2"}),
        [],
        replace(TERMS, allocatable={**TERMS.allocatable, "example.com/gpu": "1"}),
        "OutOfexample.com/gpu",
        "Node didn't have enough resource: example.com/gpu, requested: 2, used: 0, capacity: 1",
    ),
    (
        "another zone",
        a_pod(nodeSelector={"zone": "b"}),
        [],
        TERMS,
        "NodeAffinity",
        "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
    ),
    (
        "no affinity",
        a_pod(affinity={"nodeAffinity": REQUIRED}),
        [],
        TERMS,
        "NodeAffinity",
        "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
    ),
    (
        "another node",
        a_pod(nodeName="edge-2"),
        [],
        TERMS,
        "NodeName",
        "Predicate NodeName failed: node(s) didn't match the requested node name",
    ),
    (
        "a taken port",
        a_pod(host_port=80),
        [a_pod("o", host_port=80, host_ip="192.0.2.1")],
        TERMS,
        "NodePorts",
        "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports",
    ),
    (
        "a taint",
        a_pod(),
        [],
        replace(TERMS, taints=(Taint("away", "", "NoExecute"),)),
        "TaintToleration",
        "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate",
    ),
    (
        "a sysctl that is not safe",
        a_pod(securityContext={"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}),
        [],
        TERMS,
        "SysctlForbidden",
        'forbidden sysctl: "kernel.msgmax" not allowlisted',
    ),
    (
        "another system",
        a_pod(os={"name": "windows"}),
        [],
        TERMS,
        "PodOSNotSupported",
        "Failed to admit pod as the OS field doesn't match node OS",
    ),
    (
        "a label of another system",
        a_pod(meta={"labels": {"kubernetes.io/os": "windows"}}),
        [],
        TERMS,
        "PodOSSelectorNodeLabelDoesNotMatch",
        "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label",
    ),
    (
        "strict groups",
        a_pod(securityContext={"supplementalGroupsPolicy": "Strict"}),
        [],
        TERMS,
        "SupplementalGroupsPolicyNotSupported",
        "SupplementalGroupsPolicy=Strict is not supported in this node",
    ),
    (
        "a runtime class",
        a_pod(runtimeClassName="gvisor"),
        [],
        TERMS,
        "UnexpectedAdmissionError",
        "RuntimeClass 'gvisor' is not supported on this node",
    ),
    (
        "a user namespace",
        a_pod(hostUsers=False),
        [],
        TERMS,
        "UnexpectedAdmissionError",
        "a user namespace (hostUsers: false) is not supported on this node",
    ),
    (
        "a claim of a device",
        a_pod(resourceClaims=[{"name": "gpu"}]),
        [],
        TERMS,
        "UnexpectedAdmissionError",
        "claims of devices (resourceClaims) is not supported on this node",
    ),
]


@pytest.mark.parametrize(
    ("pod", "others", "terms", "reason", "message"),
    [row[1:] for row in REFUSED],
    ids=[row[0] for row in REFUSED],
)
def test_what_a_node_refuses(
    pod: Pod, others: list[Pod], terms: Terms, reason: str, message: str
) -> None:
    found = refusal(pod, others, terms)
    assert found is not None
    assert (found.reason, found.message) == (reason, message)


ADMITTED: list[tuple[str, Pod, list[Pod], Terms]] = [
    ("what fits exactly", a_pod(cpu="500m"), [a_pod("o", cpu="1500m")], TERMS),
    (
        "nothing asked on a full node",
        a_pod(),
        [a_pod("o", cpu="3")],
        TERMS,
    ),
    ("what the node does not count", a_pod(requests={"example.com/gpu": "2"}), [], TERMS),
    ("its zone", a_pod(nodeSelector={"zone": "a"}), [], TERMS),
    (
        "any zone while the API's Node is not known",
        a_pod(nodeSelector={"zone": "b"}),
        [],
        replace(TERMS, labels=None),
    ),
    ("a port of another address", a_pod(host_port=80, host_ip="192.0.2.1"),
     [a_pod("o", host_port=80, host_ip="192.0.2.2")], TERMS),
    (
        "a taint that is tolerated",
        a_pod(tolerations=[{"operator": "Exists"}]),
        [],
        replace(TERMS, taints=(Taint("away", "", "NoExecute"),)),
    ),
    (
        "a taint that only keeps the scheduler away",
        a_pod(),
        [],
        replace(TERMS, taints=(Taint("away", "", "NoSchedule"),)),
    ),
    ("a static Pod on a tainted node", a_static(), [],
     replace(TERMS, taints=(Taint("away", "", "NoExecute"),))),
    ("anything while the amounts are not known", a_pod(cpu="9"), [], Terms(name="edge-1")),
    (
        "a volume that no hands are there for",
        a_pod(volumes=[{"name": "v", "nfs": {"server": "s", "path": "/"}}]),
        [],
        TERMS,
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("pod", "others", "terms"), [row[1:] for row in ADMITTED], ids=[row[0] for row in ADMITTED]
)
def test_what_a_node_admits(pod: Pod, others: list[Pod], terms: Terms) -> None:
    assert refusal(pod, others, terms) is None


def test_a_critical_pod_s_want_of_room_comes_after_all_other_reasons() -> None:
    found = refusal(a_static(cpu="3", host_port=80), [a_pod("o", host_port=80)], TERMS)
    assert found is not None
    assert found.reason == "NodePorts"


# --- sysctls ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "spec", "kernel", "allowed", "fault"),
    [
        ("net.ipv4.tcp_syncookies", {}, (3, 0), (), ""),
        ("net/ipv4/tcp_syncookies", {}, (3, 0), (), ""),
        ("net.ipv4.tcp_rmem", {}, (4, 14), (), '"net.ipv4.tcp_rmem" not allowlisted'),
        ("net.ipv4.tcp_rmem", {}, (4, 15), (), ""),
        ("net.core.somaxconn", {}, (6, 1), (), '"net.core.somaxconn" not allowlisted'),
        ("net.core.somaxconn", {}, (6, 1), ("net.core.*",), ""),
        ("kernel.msgmax", {}, (6, 1), ("kernel.msg*",), ""),
        ("vm.swappiness", {}, (6, 1), ("vm.*",), '"vm.swappiness" not allowlisted'),
        (
            "net.ipv4.tcp_syncookies",
            {"hostNetwork": True},
            (6, 1),
            (),
            '"net.ipv4.tcp_syncookies" not allowed with host Net enabled',
        ),
        (
            "kernel.shm_rmid_forced",
            {"hostIPC": True},
            (6, 1),
            (),
            '"kernel.shm_rmid_forced" not allowed with host IPC enabled',
        ),
    ],
)
def test_which_sysctls_are_allowed(
    name: str, spec: Any, kernel: tuple[int, int], allowed: tuple[str, ...], fault: str
) -> None:
    pod = a_pod(securityContext={"sysctls": [{"name": name, "value": "1"}]}, **spec)
    told = forbidden_sysctl(pod.spec, kernel, allowed)
    assert told == (f"forbidden sysctl: {fault}" if fault else "")


def test_dots_in_a_sysctl_with_slashes_are_slashes() -> None:
    assert normalized("net/ipv4/conf/eth0.1/rp_filter") == "net.ipv4.conf.eth0/1.rp_filter"
    assert normalized("kernel.shm_rmid_forced") == "kernel.shm_rmid_forced"


@pytest.mark.parametrize(
    ("release", "kernel"),
    [("6.1.0-18-amd64", (6, 1)), ("4.15.0", (4, 15)), ("5", (0, 0)), ("x.y", (0, 0))],
)
def test_a_kernel_s_version(release: str, kernel: tuple[int, int]) -> None:
    assert kernel_of(release) == kernel


# --- making room ------------------------------------------------------------------------------


def uids(pods: list[Pod]) -> set[str]:
    return {pod.uid for pod in pods}


def test_the_cheapest_class_that_will_do_makes_way() -> None:
    best = a_pod("best")
    burst = a_pod("burst", cpu="500m")
    more = a_pod("more", cpu="800m")
    fixed = a_pod("fixed", cpu="700m", memory="1Mi", limits=True)
    others = [best, burst, more, fixed]
    assert uids(victims(a_static(), others, {"pods": 1})) == {"best"}
    assert uids(victims(a_static(), others, {"cpu": 600})) == {"more"}
    assert uids(victims(a_static(), others, {"cpu": 1_400})) == {"fixed", "more"}
    with pytest.raises(NoRoom, match=r"res: cpu, q: 1000"):
        victims(a_static(), others, {"cpu": 3_000})


def test_critical_pods_do_not_make_way_for_each_other() -> None:
    with pytest.raises(NoRoom):
        victims(a_static(), [a_pod("o", priority=2_000_000_000, cpu="1")], {"cpu": 1})


AMOUNTS = st.sampled_from(["", "100m", "500m", "1"])


@given(st.lists(st.tuples(AMOUNTS, st.booleans()), max_size=8), st.integers(1, 4_000))
def test_those_who_make_way_are_enough(asked: list[tuple[str, bool]], short: int) -> None:
    others = [
        a_pod(f"o{n}", cpu=cpu, memory="1Mi" if fixed else "", limits=fixed)
        for n, (cpu, fixed) in enumerate(asked)
    ]
    total = sum(takes(pod).get("cpu", 0) for pod in others)
    try:
        going = victims(a_static(), others, {"cpu": short})
    except NoRoom:
        assert total < short
        return
    assert sum(takes(pod).get("cpu", 0) for pod in going) >= short
    assert len(uids(going)) == len(going)


# --- the gate ---------------------------------------------------------------------------------


class View:
    """The Pods of a node."""

    def __init__(self, *pods: Pod) -> None:
        self.all = list(pods)
        self.evicted: list[tuple[str, str]] = []

    def pods(self) -> list[Running]:
        return [Running(pod, {"phase": "Pending"}, Observed(pod.uid)) for pod in self.all]

    def find(self, namespace: str, name: str, uid: str = "") -> Running | None:
        raise AssertionError

    def evict(self, uid: str, reason: str, message: str) -> None:
        self.evicted.append((uid, reason))

    def kick(self, uid: str) -> None:
        raise AssertionError


class Told:
    """Events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, str]] = []

    def event(
        self, pod: Pod, kind: str, reason: str, message: str, container: Container | None = None
    ) -> None:
        self.events.append((pod.uid, kind, reason))

    def node_event(self, kind: str, reason: str, message: str) -> None:
        raise AssertionError


NODE: JsonObject = {
    "metadata": {"labels": {"zone": "a"}},
    "status": {"allocatable": {"cpu": "1", "memory": "1Gi", "pods": "10"}},
}


def test_pods_that_were_admitted_count_before_they_begin() -> None:
    first, second = a_pod("a", cpu="700m"), a_pod("b", cpu="700m")
    gate = Admission("edge-1", lambda: NODE, Told())
    gate.view = View(first, second)
    gate(first)
    with pytest.raises(NeverRuns) as caught:
        gate(second)
    assert caught.value.reason == "OutOfcpu"
    gate.view = View(second)
    gate(second)


def test_others_make_way_for_a_critical_pod() -> None:
    first, static = a_pod("a", cpu="700m"), a_static("s", cpu="700m")
    told, view = Told(), View(first, static)
    gate = Admission("edge-1", lambda: NODE, told)
    gate.view = view
    gate(first)
    gate(static)
    assert view.evicted == [("a", "Preempting")]
    assert told.events == [("a", "Warning", "Preempting")]
    with pytest.raises(NeverRuns, match="no set of running pods found to reclaim resources"):
        gate(a_static("t", cpu="2"))


def test_the_labels_that_an_operator_gave_the_node_count() -> None:
    pod = a_pod(nodeSelector={"rack": "7"})
    stored: JsonObject = {"metadata": {"labels": {"rack": "7"}}}
    Admission("edge-1", lambda: NODE, Told(), stored=lambda: stored)(pod)


def test_labels_of_the_node_that_may_be_outdated_hold_a_pod_up_before_it_is_refused() -> None:
    now, stored = [100.0], dict[str, Any]()
    gate = Admission("edge-1", lambda: NODE, Told(), stored=lambda: stored, clock=lambda: now[0])
    pod, other = a_pod(nodeSelector={"rack": "7"}), a_pod("u2", nodeSelector={"rack": "8"})
    for each in (pod, other):
        with pytest.raises(NotYet):
            gate(each)
    stored["metadata"] = {"labels": {"rack": "7"}}
    gate(pod)
    now[0] += 11
    with pytest.raises(NeverRuns) as caught:
        gate(other)
    assert caught.value.reason == "NodeAffinity"


def test_what_is_asked_first_is_told_first() -> None:
    def under_pressure(_pod: Pod) -> None:
        raise NeverRuns("Evicted", "The node had condition: [MemoryPressure]. ")

    with pytest.raises(NeverRuns) as caught:
        Admission("edge-1", lambda: NODE, Told(), first=(under_pressure,))(a_pod(cpu="9"))
    assert caught.value.reason == "Evicted"
