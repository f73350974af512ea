"""Which Pods this node refuses for good, in the kubelet's words.

`refusal` is pure: a Pod, the Pods that are there, the Node. A critical Pod (static, or of the system's
priority) is not refused for want of room: others make way. What a node may get later (a ConfigMap, a
volume's source) is no matter of admission.
Source: Kubernetes, "Node-pressure eviction"; behaviour of kubelet 1.36.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from edge.pods.containerstatuses import HeldBack
from edge.pods.podconditions import RESIZE_PENDING
from edge.pods.podspec import Pod, read_pod
from edge.pods.ports import NeverRuns, NotYet, PodView, Recorder, Running
from edge.pods.preemption import MESSAGE, REASON, NoRoom, is_critical, takes, victims
from edge.pods.resizes import DEFERRED, INFEASIBLE
from edge.pods.sysctls import FORBIDDEN, Kernel, forbidden_sysctl
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.nodeterms import node_wish
from gateway.wire.kube.parts import labels_of, part, rows, text
from gateway.wire.kube.scheduling.needs import CPU, MEMORY, PODS, Amounts, amounts
from gateway.wire.kube.scheduling.pods import ANY_ADDRESS, Port
from gateway.wire.kube.scheduling.pods import read_pod as as_scheduled
from gateway.wire.kube.taints import NO_EXECUTE, Taint, is_tolerated, taints_of, tolerations_of

STORAGE = "ephemeral-storage"
UNEXPECTED = "UnexpectedAdmissionError"
LINUX = "linux"
OS_LABEL = "kubernetes.io/os"
ENDED = ("Succeeded", "Failed")
DOUBT_SECONDS = 10.0
"""So long a Pod waits that the Node's labels or taints speak against: their change may be on its way."""
_OF_NODE = ("NodeAffinity", "TaintToleration")
_ORDER = (PODS, CPU, MEMORY, STORAGE)

Admit = Callable[[Pod], None]
"""Raises NeverRuns for a Pod that this node refuses for good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the Node offers and asks. `labels` None: what the API says of the Node is not known here."""

    name: str
    allocatable: Mapping[str, Json] = field(default_factory=dict)
    labels: Mapping[str, Json] | None = None
    taints: tuple[Taint, ...] = ()
    kernel: Kernel = (0, 0)
    allowed_sysctls: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a Pod is refused. `short`: what is missing, when room is all that is."""

    reason: str
    message: str
    short: Mapping[str, int] = field(default_factory=dict)


def refusal(pod: Pod, others: Sequence[Pod], terms: Terms) -> Refusal | None:
    """Return why a Pod never runs here, None where it may. `others`: the Pods that are here and go on."""
    fault = forbidden_sysctl(pod.spec, terms.kernel, terms.allowed_sysctls)
    if fault:
        return Refusal(FORBIDDEN, fault)
    return _unsupported(pod) or _unfit(pod, others, terms)


# --- what no node of this kind does -----------------------------------------------------------


def _unsupported(pod: Pod) -> Refusal | None:
    spec = part(pod.raw, "spec")
    if labels_of(pod.raw).get(OS_LABEL, LINUX) != LINUX:
        why = f"Failed to admit pod as the `{OS_LABEL}` label doesn't match node label"
        return Refusal("PodOSSelectorNodeLabelDoesNotMatch", why)
    if text(part(spec, "os").get("name")) not in ("", LINUX):
        return Refusal(
            "PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"
        )
    if pod.spec.security_context.supplemental_groups_policy == "Strict":
        why = "SupplementalGroupsPolicy=Strict is not supported in this node"
        return Refusal("SupplementalGroupsPolicyNotSupported", why)
    for asked, what in (
        (pod.spec.runtime_class_name, f"RuntimeClass {pod.spec.runtime_class_name!r}"),
        (pod.spec.host_users is False, "a user namespace (hostUsers: false)"),
        (rows(spec.get("resourceClaims")), "claims of devices (resourceClaims)"),
    ):
        if asked:
            return Refusal(UNEXPECTED, f"{what} is not supported on this node")
    return None


# --- what this node has -----------------------------------------------------------------------


def _unfit(pod: Pod, others: Sequence[Pod], terms: Terms) -> Refusal | None:
    """Return the first reason but one that is a want of room, as long as there is another."""
    room = _no_room(pod, others, terms.allocatable)
    rest = _misplaced(pod, others, terms)
    return rest if is_critical(pod) and rest else room or rest


def _no_room(pod: Pod, others: Iterable[Pod], offered: Mapping[str, Json]) -> Refusal | None:
    have = amounts(offered)
    if not have:
        return None
    used: Amounts = {}
    for other in others:
        for name, amount in takes(other).items():
            used[name] = used.get(name, 0) + amount
    wants = takes(pod)
    short = {
        name: wants[name] + used.get(name, 0) - have[name]
        for name in sorted(wants, key=_rank)
        if name in have and wants[name] > max(have[name] - used.get(name, 0), 0)
    }
    if not short:
        return None
    name = next(iter(short))
    message = (
        f"Node didn't have enough resource: {name}, requested: {wants[name]},"
        f" used: {used.get(name, 0)}, capacity: {have[name]}"
    )
    return Refusal(f"OutOf{name}", message, short)


def _rank(name: str) -> tuple[int, str]:
    return (_ORDER.index(name) if name in _ORDER else len(_ORDER)), name


def _misplaced(pod: Pod, others: Iterable[Pod], terms: Terms) -> Refusal | None:
    checks = (
        (
            "NodeAffinity",
            "node(s) didn't match Pod's node affinity/selector",
            terms.labels is not None and not node_wish(pod.raw).matches(terms.name, terms.labels),
        ),
        (
            "NodeName",
            "node(s) didn't match the requested node name",
            pod.spec.node_name not in ("", terms.name),
        ),
        (
            "NodePorts",
            "node(s) didn't have free ports for the requested pod ports",
            _has_taken_ports(pod, others),
        ),
        (
            "TaintToleration",
            "node(s) had taints that the pod didn't tolerate",
            not pod.is_static and _is_repelled(pod, terms.taints),
        ),
    )
    for name, why, is_so in checks:
        if is_so:
            return Refusal(name, f"Predicate {name} failed: {why}")
    return None


def _has_taken_ports(pod: Pod, others: Iterable[Pod]) -> bool:
    wanted = as_scheduled(pod.raw).ports
    if not wanted:
        return False
    taken = {port for other in others for port in as_scheduled(other.raw).ports}
    return any(_collide(port, held) for port in wanted for held in taken)


def _collide(one: Port, other: Port) -> bool:
    """True for the same port of one address, or of one and all."""
    return one[1:] == other[1:] and (one[0] == other[0] or ANY_ADDRESS in (one[0], other[0]))


def _is_repelled(pod: Pod, taints: Iterable[Taint]) -> bool:
    tolerations = tolerations_of(pod.raw)
    return any(
        taint.effect == NO_EXECUTE and not is_tolerated(taint, tolerations) for taint in taints
    )


def allotted(each: Running) -> Pod:
    """Return a Pod with what it was given; where a resize waits that is not what it asks for."""
    if not any(row.get("type") == RESIZE_PENDING for row in rows(each.status.get("conditions"))):
        return each.pod
    given = {
        text(row.get("name")): part(row, "allocatedResources")
        for row in rows(each.status.get("containerStatuses"))
    }
    spec = part(each.pod.raw, "spec")
    containers: list[Json] = [
        {**row, "resources": {"requests": given.get(text(row.get("name")), {})}}
        for row in rows(spec.get("containers"))
    ]
    return read_pod({**each.pod.raw, "spec": {**spec, "containers": containers}})


# --- the gate ---------------------------------------------------------------------------------


class Admission:
    """`edge.pods.parts.Parts.admit`: call it with a Pod before its first step.

    Shape:  `node` returns this Node (labels, `status.allocatable`); `stored` the API's copy of it, None where
            there is none; `first` are judged before all else (a node under pressure). `view` is set once the
            Pods' owner is there.
    """

    def __init__(
        self,
        name: str,
        node: Callable[[], JsonObject],
        recorder: Recorder,
        *,
        stored: Callable[[], JsonObject | None] = lambda: None,
        first: Sequence[Admit] = (),
        kernel: Kernel = (0, 0),
        allowed_sysctls: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._doubts: dict[str, float] = {}
        """Since when the Node speaks against a Pod, by uid."""
        self._name = name
        self._node = node
        self._recorder = recorder
        self._stored = stored
        self._first = first
        self._kernel = kernel
        self._allowed = tuple(allowed_sysctls)
        self.view: PodView | None = None
        self._admitted: set[str] = set()
        """Uids of Pods that may have no sandbox yet and count all the same."""

    def __call__(self, pod: Pod) -> None:
        """Errors: NeverRuns; NotYet while what speaks against the Pod may be outdated."""
        for admit in self._first:
            admit(pod)
        others = self._others(pod)
        found = refusal(pod, others, self._terms())
        if found is not None:
            if found.reason in _OF_NODE:
                self._doubt(pod, found)
            if not (found.short and is_critical(pod)):
                raise NeverRuns(found.reason, found.message)
            self._make_room(pod, others, found)
        self._doubts.pop(pod.uid, None)
        self._admitted.add(pod.uid)

    def room(self, pod: Pod) -> HeldBack | None:
        """Return why a Pod that runs does not fit as it is to be now, None when it does."""
        offered = self._terms().allocatable
        if (alone := _no_room(pod, (), offered)) is not None:
            name = next(iter(alone.short))
            wants, have = takes(pod)[name], amounts(offered)[name]
            told = f"Node didn't have enough capacity: {name}, requested: {wants}"
            return HeldBack(INFEASIBLE, f"{told}, capacity: {have}")
        found = _no_room(pod, self._others(pod), offered)
        return None if found is None else HeldBack(DEFERRED, found.message)

    def _doubt(self, pod: Pod, found: Refusal) -> None:
        """Errors: NotYet."""
        now = self._clock()
        self._doubts = {k: at for k, at in self._doubts.items() if now - at < 6 * DOUBT_SECONDS}
        if now - self._doubts.setdefault(pod.uid, now) < DOUBT_SECONDS:
            raise NotYet(found.reason, found.message)

    def _others(self, pod: Pod) -> list[Pod]:
        running = [] if self.view is None else self.view.pods()
        self._admitted &= {each.pod.uid for each in running}
        return [
            allotted(each)
            for each in running
            if each.pod.uid != pod.uid and each.status.get("phase") not in ENDED
            if each.pod.uid in self._admitted or each.observed.sandboxes
        ]

    def _terms(self) -> Terms:
        node, stored = self._node(), self._stored()
        labels = None if stored is None else {**labels_of(node), **labels_of(stored)}
        return Terms(
            name=self._name,
            allocatable=part(node, "status", "allocatable"),
            labels=labels,
            taints=() if stored is None else taints_of(stored),
            kernel=self._kernel,
            allowed_sysctls=self._allowed,
        )

    def _make_room(self, pod: Pod, others: Sequence[Pod], found: Refusal) -> None:
        """Errors: NeverRuns when also without the others there is too little."""
        try:
            going = victims(pod, others, found.short)
        except NoRoom as error:
            why = (
                "Unexpected error while attempting to recover from admission failure: preemption:"
                " error finding a set of pods to preempt: no set of running pods found to reclaim"
                f" resources: {error}"
            )
            raise NeverRuns(UNEXPECTED, why) from error
        for each in going:
            self._recorder.event(each, "Warning", REASON, MESSAGE)
            if self.view is not None:
                self.view.evict(each.uid, REASON, MESSAGE)


def kernel_of(release: str) -> Kernel:
    """Return a kernel's version from its release: `6.1.0-18-amd64` is (6, 1)."""
    numbers = release.split("-", 1)[0].split(".")[:2]
    found = [int(each) for each in numbers if each.isascii() and each.isdigit()]
    return (found[0], found[1]) if len(found) == 2 else (0, 0)
