"""DaemonSets: one Pod on each node that fits, updated node by node.

A Pod is pinned to its node by an affinity; the scheduler binds it. One on a node that is away stays: it
tolerates that the node is not ready. Source: Kubernetes "DaemonSet"; "Perform a Rolling Update".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from gateway.errors import GatewayError
from gateway.kube.client import PatchType
from gateway.kube.control.context import Context
from gateway.kube.control.loop import Loop
from gateway.kube.control.mirrors import Mirror, key_of, metadata_of, uid_of
from gateway.kube.control.pods_of import (
    OwnerKind,
    PodsOf,
    first_error,
    is_namespace_ending,
    side_by_side,
    slow_start,
)
from gateway.kube.control.revisions import Revisions
from gateway.kube.control.statuses import write_status
from gateway.kube.events import NORMAL, WARNING
from gateway.kube.informer import Change, Key
from gateway.model.json import JsonObject
from gateway.wire.kube.daemonplans import (
    DaemonPlan,
    daemon_status,
    is_same_status,
    plan_nodes,
    plan_update,
)
from gateway.wire.kube.daemons import (
    DaemonView,
    Fit,
    Placement,
    by_node,
    daemon_template,
    placement_of,
    target_node,
)
from gateway.wire.kube.parts import labels_of, part, whole
from gateway.wire.kube.podstate import is_deleting, seconds_to_available
from gateway.wire.kube.revisions import REVISION_LABEL, History, history_limit, unused
from gateway.wire.kube.selectors import LabelSelector, read_selector

DAEMON_SET = OwnerKind("apps/v1", "daemonsets", "DaemonSet", "daemonset-controller")
PLACE = DAEMON_SET.group_version, DAEMON_SET.plural
BURST = 250
"""So many Pods are made, and so many deleted, in one run."""
PAUSE = 0.05
"""Between two looks at one DaemonSet: what many nodes report at once is taken in with one look."""
FIRST_HOLD, LAST_HOLD = 1.0, 900.0
MAX_HOLDS = 10_000
EVERYTHING = "This daemon set is selecting all pods. A non-empty selector is required."


class DaemonSets:
    """The control loop of DaemonSets."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._pods = PodsOf(context, DAEMON_SET)
        self._revisions = Revisions(context, DAEMON_SET, REVISION_LABEL)
        self._nodes = context.mirrors.of("v1", "nodes")
        self._fits = Fits(self._nodes)
        self._holds = Holds()
        self._loop: Loop[Key] = Loop(self._settle, pause=PAUSE)
        self._pods.listen(self._loop.poke)
        self._revisions.claims.listen(self._loop.poke)
        self._nodes.on_change(self._on_node)

    async def run(self) -> None:
        """Work until cancelled."""
        await self._loop.run()

    def _on_node(self, change: Change) -> None:
        """Look at the DaemonSets that judge a node otherwise than before."""
        if change.old is None or change.new is None or not _is_alike(change.old, change.new):
            for key in self._fits.follow(change):
                self._loop.poke(key)

    # --- one DaemonSet ----------------------------------------------------------------------------

    async def _settle(self, key: Key) -> None:
        daemon_set = self._pods.owners.get(*key)
        if daemon_set is None:
            self._loop.forget(key)
            self._fits.forget(key)
            return
        selector = read_selector(part(daemon_set, "spec", "selector"))
        if not selector.terms:
            self._tell(daemon_set, "SelectingAll", EVERYTHING, WARNING)
        elif not is_deleting(daemon_set):
            await self._work(key, daemon_set, selector)

    async def _work(self, key: Key, daemon_set: JsonObject, selector: LabelSelector) -> None:
        await self._pods.claim(daemon_set, selector)
        history = await self._revisions.history(daemon_set, selector)
        known = part(daemon_set, "status").get("collisionCount")
        newest, collisions = await self._revisions.settle(daemon_set, history, whole(known))
        await self._merge(daemon_set, history)
        run = _Run(daemon_set, selector, labels_of(newest).get(REVISION_LABEL, ""))
        view = self._view(run)
        plan = self._plan(key, run, view)
        error = await self._carry_out(run, plan)
        if error is None:
            await self._clean(run, history)
        seen = view if plan.is_empty else self._view(run)
        await self._report(key, seen, collisions if collisions or known is not None else None)
        if error is not None:
            raise error  # the loop tries again, later and later

    def _view(self, run: _Run) -> DaemonView:
        nodes = self._fits.of(run.daemon_set)
        pods = by_node(self._seen(run))
        return DaemonView(run.daemon_set, run.short, nodes, pods, self._context.now())

    def _seen(self, run: _Run) -> list[JsonObject]:
        """Return the Pods of a DaemonSet; what was deleted a moment ago shows it."""
        found = (pod for pod in self._pods.owned(run.daemon_set) if run.selector.matches(pod))
        return [self._pods.mirror.as_seen(pod) for pod in found]

    def _plan(self, key: Key, run: _Run, view: DaemonView) -> DaemonPlan:
        """Give every node its Pod; once nothing is left to do, go on with an update."""
        generation = whole(part(run.daemon_set, "status").get("observedGeneration"))
        name = f"{uid_of(run.daemon_set)}/{generation}"
        plan = plan_nodes(view, lambda node: self._holds.seconds((name, node), view.now) > 0)
        for pod in plan.failed:
            node = target_node(pod) or ""
            self._holds.note((name, node), view.now)
            self._tell_ended(run, pod, "failed", "kill")
        for pod in plan.succeeded:
            self._tell_ended(run, pod, "succeeded", "delete")
        for node in plan.held:
            self._loop.poke_after(key, self._holds.seconds((name, node), view.now))
        if plan.is_empty and view.rolls:
            plan = plan_update(view)
        return plan

    async def _carry_out(self, run: _Run, plan: DaemonPlan) -> GatewayError | None:
        nodes = iter(plan.create[:BURST])
        _, error = await slow_start(
            len(plan.create[:BURST]), lambda: self._create(run, next(nodes))
        )
        going = [
            partial(self._pods.delete, run.daemon_set, pod)
            for pod in plan.delete[:BURST]
            if not is_deleting(pod)
        ]
        return first_error([error, *await side_by_side(going)])

    async def _create(self, run: _Run, node: str) -> None:
        template = daemon_template(run.daemon_set, run.short, node)
        try:
            await self._pods.create(run.daemon_set, template)
        except GatewayError as error:
            if not is_namespace_ending(error):
                raise

    # --- history ----------------------------------------------------------------------------------

    async def _merge(self, daemon_set: JsonObject, history: History) -> None:
        """Of several revisions with one template the newest stays; the Pods of the others become its."""
        if len(history.current) < 2:
            return
        *doubles, kept = history.current
        short = labels_of(kept).get(REVISION_LABEL)
        gone = {labels_of(each).get(REVISION_LABEL) for each in doubles}
        for pod in self._pods.owned(daemon_set):
            if labels_of(pod).get(REVISION_LABEL) in gone:
                patch: JsonObject = {"metadata": {"labels": {REVISION_LABEL: short}}}
                stored = await self._context.kube.patch(
                    "v1", "pods", *key_of(pod), patch, patch_type=PatchType.MERGE
                )
                self._pods.mirror.put(stored)
        await self._revisions.delete(doubles)

    async def _clean(self, run: _Run, history: History) -> None:
        live = {labels_of(pod).get(REVISION_LABEL, "") for pod in self._pods.owned(run.daemon_set)}
        idle = unused(history.old, live, REVISION_LABEL)
        excess = len(history.old) - history_limit(run.daemon_set)
        await self._revisions.delete(idle[: max(excess, 0)])

    # --- status and Events ------------------------------------------------------------------------

    async def _report(self, key: Key, view: DaemonView, collisions: int | None) -> None:
        daemon_set = view.daemon_set
        generation = whole(metadata_of(daemon_set).get("generation"))
        status = daemon_status(view, generation, collisions)
        wait = seconds_to_available(
            (pods[0] for pods in view.pods.values()), view.min_ready_seconds, view.now
        )
        if wait is not None:
            self._loop.poke_after(key, wait)
        if not is_same_status(status, part(daemon_set, "status")):
            await write_status(self._context, PLACE, DAEMON_SET.named(daemon_set), status)

    def _tell_ended(self, run: _Run, pod: JsonObject, how: str, deed: str) -> None:
        namespace, name = key_of(pod)
        message = (
            f"Found {how} daemon pod {namespace}/{name} on node {target_node(pod)},"
            f" will try to {deed} it"
        )
        type_ = WARNING if how == "failed" else NORMAL
        self._tell(run.daemon_set, f"{how.capitalize()}DaemonPod", message, type_)

    def _tell(self, daemon_set: JsonObject, reason: str, message: str, type_: str) -> None:
        about = DAEMON_SET.named(daemon_set)
        self._context.events.record(
            about, reason, message, type_=type_, component=DAEMON_SET.component
        )


@dataclass(frozen=True, slots=True)
class _Run:
    """One look at a DaemonSet. Shape: `short` is the hash of its newest revision."""

    daemon_set: JsonObject
    selector: LabelSelector
    short: str


class Fits:
    """How nodes fit DaemonSets, remembered until one of them changes: fleets are large."""

    def __init__(self, nodes: Mirror) -> None:
        self._nodes = nodes
        self._known: dict[Key, _Known] = {}

    def of(self, daemon_set: JsonObject) -> Mapping[str, Fit]:
        """Return how each node fits, by name."""
        key, version = key_of(daemon_set), _version_of(daemon_set)
        known = self._known.get(key)
        if known is None or known.version != version:
            placement = placement_of(daemon_set)
            fits = {name: placement.fit(node) for (_, name), node in self._nodes.objects.items()}
            known = self._known[key] = _Known(version, placement, fits)
        return known.fits

    def follow(self, change: Change) -> list[Key]:
        """Take in what became of a node; return the DaemonSets that judge it otherwise now."""
        name = change.key[1]
        found: list[Key] = []
        for key, known in self._known.items():
            old = known.fits.pop(name, None)
            new = None if change.new is None else known.placement.fit(change.new)
            if new is not None:
                known.fits[name] = new
            if old != new:
                found.append(key)
        return found

    def forget(self, key: Key) -> None:
        """A DaemonSet is gone."""
        self._known.pop(key, None)


@dataclass(frozen=True, slots=True)
class _Known:
    """Shape: `version` is the uid and the generation of the DaemonSet that was judged."""

    version: tuple[str, int]
    placement: Placement
    fits: dict[str, Fit]


def _version_of(daemon_set: JsonObject) -> tuple[str, int]:
    return uid_of(daemon_set), whole(metadata_of(daemon_set).get("generation"))


class Holds:
    """How long failed Pods of a node are left alone: twice as long each time, up to a quarter of an hour.

    Bounded: what was quiet for twice the longest time is forgotten, the oldest beyond `MAX_HOLDS` too.
    """

    def __init__(self) -> None:
        self._holds: dict[tuple[str, str], tuple[float, float]] = {}
        """(DaemonSet, node) -> (seconds, since when)."""

    def seconds(self, key: tuple[str, str], now: float) -> float:
        """Return for how long a node has to wait yet."""
        delay, since = self._holds.get(key, (0.0, now))
        return max(since + delay - now, 0.0) if now - since <= 2 * LAST_HOLD else 0.0

    def note(self, key: tuple[str, str], now: float) -> None:
        """A failed Pod is replaced now."""
        delay, since = self._holds.pop(key, (0.0, now))
        is_fresh = not delay or now - since > 2 * LAST_HOLD
        self._holds[key] = (FIRST_HOLD if is_fresh else min(2 * delay, LAST_HOLD)), now
        while len(self._holds) > MAX_HOLDS:
            del self._holds[next(iter(self._holds))]


def _is_alike(old: JsonObject, new: JsonObject) -> bool:
    """True when nothing changed that a DaemonSet looks at."""
    return labels_of(old) == labels_of(new) and part(old, "spec").get("taints") == part(
        new, "spec"
    ).get("taints")


def daemon_sets(context: Context) -> DaemonSets:
    """Build the loop of DaemonSets."""
    return DaemonSets(context)
