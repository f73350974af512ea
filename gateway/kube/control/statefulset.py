"""StatefulSets: members with names that last, made and replaced in order, with claims of their own.

A run does what the plan says up to the first thing that has to be waited for. Claims are made as the set
says; without a provisioner they stay Pending, and so do the Pods that want them. Source: Kubernetes
"StatefulSets".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from gateway.errors import Conflict, GatewayError, NotFound
from gateway.kube.control.context import Context
from gateway.kube.control.loop import Loop
from gateway.kube.control.mirrors import key_of, uid_of
from gateway.kube.control.pods_of import OwnerKind, PodsOf, slow_start
from gateway.kube.control.revisions import Revisions
from gateway.kube.control.statuses import write_status
from gateway.kube.events import NORMAL, WARNING
from gateway.kube.informer import Key
from gateway.model.json import JsonObject
from gateway.wire.kube.parts import part, text, whole
from gateway.wire.kube.podstate import is_deleting, seconds_to_available
from gateway.wire.kube.revisions import History, history_limit, surplus, unused
from gateway.wire.kube.selectors import LabelSelector, read_selector
from gateway.wire.kube.statefulplans import (
    Deed,
    StatefulPlan,
    StatefulView,
    Step,
    is_news,
    plan,
    revision_of,
    stateful_status,
)
from gateway.wire.kube.statefulsets import (
    claim_name,
    claim_owners,
    claim_templates,
    has_foreign_controller,
    is_stale_claim,
    member_claims,
    member_of,
    name_of,
    ordinal_of,
    repaired,
)
from gateway.wire.kube.status import AlreadyExists

STATEFUL_SET = OwnerKind("apps/v1", "statefulsets", "StatefulSet", "statefulset-controller")
PLACE = STATEFUL_SET.group_version, STATEFUL_SET.plural
HASH_LABEL = "controller.kubernetes.io/hash"
CLAIMS = "persistentvolumeclaims"


class StatefulSets:
    """The control loop of StatefulSets."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._pods = PodsOf(context, STATEFUL_SET)
        self._revisions = Revisions(context, STATEFUL_SET, HASH_LABEL)
        self._claims = context.mirrors.of("v1", CLAIMS)
        self._loop: Loop[Key] = Loop(self._settle)
        self._pods.listen(self._loop.poke)
        self._revisions.claims.listen(self._loop.poke)

    async def run(self) -> None:
        """Work until cancelled."""
        await self._loop.run()

    # --- one StatefulSet --------------------------------------------------------------------------

    async def _settle(self, key: Key) -> None:
        stateful_set = self._pods.owners.get(*key)
        if stateful_set is None:
            self._loop.forget(key)
            return
        selector = read_selector(part(stateful_set, "spec", "selector"))
        history = await self._revisions.history(stateful_set, selector)
        if is_deleting(stateful_set) and not history.current:
            return
        known = whole(part(stateful_set, "status").get("collisionCount"))
        update, collisions = await self._revisions.settle(stateful_set, history, known)
        current = _current(stateful_set, history) or update
        run = _Run(stateful_set, selector, current, update)
        await self._pods.claim(stateful_set, selector, run.is_member)
        await self._work(key, run, history, collisions)

    async def _work(self, key: Key, run: _Run, history: History, collisions: int) -> None:
        view = self._view(run)
        error = None
        try:
            await self._carry_out(run, plan(view))
        except GatewayError as fault:
            error = fault
        await self._report(key, run, collisions)
        await self._clean(run, history)
        if error is not None:
            raise error  # the loop tries again, later and later

    def _view(self, run: _Run) -> StatefulView:
        pods = [
            self._pods.mirror.as_seen(pod)
            for pod in self._pods.owned(run.stateful_set)
            if run.is_member(pod) and run.selector.matches(pod)
        ]
        return StatefulView(run.stateful_set, run.current, run.update, pods, self._context.now())

    async def _report(self, key: Key, run: _Run, collisions: int) -> None:
        """Write the status of what is there now. A deleted Pod is counted as such already."""
        view = self._view(run)
        ready = seconds_to_available(view.pods, whole(view.spec.get("minReadySeconds")), view.now)
        if ready is not None:
            self._loop.poke_after(key, ready)
        status = stateful_status(view, collisions)
        if is_news(status, part(run.stateful_set, "status")):
            named = STATEFUL_SET.named(run.stateful_set)
            await write_status(self._context, PLACE, named, status)

    async def _clean(self, run: _Run, history: History) -> None:
        pods = self._pods.owned(run.stateful_set)
        live = {name_of(run.current), name_of(run.update), *map(revision_of, pods)}
        idle = unused((*history.old, *history.current), live)
        await self._revisions.delete(surplus(idle, history_limit(run.stateful_set)))

    # --- its members ------------------------------------------------------------------------------

    async def _carry_out(self, run: _Run, todo: StatefulPlan) -> None:
        for steps in todo.stages:
            if todo.in_order:
                for step in steps:
                    await self._do(run, step)
            else:
                left = iter(steps)
                _, error = await slow_start(len(steps), partial(self._do_next, run, left))
                if error is not None:
                    raise error

    async def _do_next(self, run: _Run, left: Iterator[Step]) -> None:
        await self._do(run, next(left))

    async def _do(self, run: _Run, step: Step) -> None:
        match step.deed:
            case Deed.CREATE:
                await self._create(run, step.pod)
            case Deed.CLAIMS:
                await self._make_claims(run, step.pod)
                await self._mend_owners(run, step.pod)
            case Deed.REPAIR:
                await self._repair(run, step.pod)
            case Deed.RELEASE:
                await self._mend_owners(run, step.pod)
            case Deed.DELETE:
                await self._delete(run, step.pod)

    async def _create(self, run: _Run, pod: JsonObject) -> None:
        if any(is_stale_claim(run.stateful_set, claim, pod) for claim in self._claims_of(run, pod)):
            return  # it goes with the Pod that was here before
        try:
            await self._make_claims(run, pod)
        except GatewayError as error:
            self._tell_pod(run, "create", pod, error)
            raise
        stored = await self._attempt(run, "create", pod)
        self._pods.mirror.put(stored)
        await self._mend_owners(run, stored)

    async def _attempt(self, run: _Run, verb: str, pod: JsonObject) -> JsonObject:
        """Create or update a Pod, and tell how it went. AlreadyExists is not told."""
        write = self._context.kube.create if verb == "create" else self._context.kube.update
        try:
            stored = await write("v1", "pods", key_of(run.stateful_set)[0], pod)
        except AlreadyExists:
            raise
        except GatewayError as error:
            self._tell_pod(run, verb, pod, error)
            raise
        self._tell_pod(run, verb, pod)
        return stored

    async def _repair(self, run: _Run, pod: JsonObject) -> None:
        fixed = repaired(run.stateful_set, pod)
        if fixed is not None:
            await self._make_claims(run, pod)
            body: JsonObject = {**fixed, "apiVersion": "v1", "kind": "Pod"}
            self._pods.mirror.put(await self._attempt(run, "update", body))
        await self._mend_owners(run, pod)

    async def _delete(self, run: _Run, pod: JsonObject) -> None:
        namespace, name = key_of(pod)
        try:
            await self._context.kube.delete("v1", "pods", namespace, name, uid=uid_of(pod))
        except NotFound:
            self._pods.mirror.doom(pod)
            return
        except Conflict:  # another one has its name, which the mirror will show
            raise
        except GatewayError as error:
            self._tell_pod(run, "delete", pod, error)
            raise
        self._pods.mirror.doom(pod)
        self._tell_pod(run, "delete", pod)

    # --- their claims -----------------------------------------------------------------------------

    def _claims_of(self, run: _Run, pod: JsonObject) -> list[JsonObject]:
        """Return the claims of a member that are there."""
        namespace = key_of(run.stateful_set)[0]
        names = (
            claim_name(template, run.stateful_set, ordinal_of(pod))
            for template in claim_templates(run.stateful_set)
        )
        found = (self._claims.get(namespace, name) for name in names)
        return [claim for claim in found if claim is not None]

    async def _make_claims(self, run: _Run, pod: JsonObject) -> None:
        """Make the claims that a member lacks. Errors: Conflict while one of them is being deleted."""
        for claim in member_claims(run.stateful_set, ordinal_of(pod)):
            namespace, name = key_of(claim)
            known = self._claims.get(namespace, name)
            if known is None:
                await self._make_claim(run, pod, claim)
            elif is_deleting(known):
                raise Conflict(f"pvc {name} is being deleted")

    async def _make_claim(self, run: _Run, pod: JsonObject, claim: JsonObject) -> None:
        namespace, name = key_of(claim)
        try:
            stored = await self._context.kube.create("v1", CLAIMS, namespace, claim)
        except AlreadyExists as error:
            raise Conflict(f"failed to create PVC {name}: {error.message}") from error
        except GatewayError as error:
            self._tell_claim(run, pod, name, error)
            raise
        self._claims.put(stored)
        self._tell_claim(run, pod, name)

    async def _mend_owners(self, run: _Run, pod: JsonObject) -> None:
        """See to it that claims go, or stay, with their Pod and their set as the set says."""
        for claim in self._claims_of(run, pod):
            if has_foreign_controller(run.stateful_set, claim, pod):
                message = (
                    f"PersistentVolumeClaim {name_of(claim)} has a conflicting OwnerReference that"
                    " acts as a managing controller, the retention policy is ignored for this claim"
                )
                self._tell(run, "ConflictingController", message, WARNING)
            owners = claim_owners(run.stateful_set, claim, pod)
            if owners is not None:
                patch: JsonObject = {
                    "metadata": {
                        "uid": uid_of(claim),
                        "resourceVersion": part(claim, "metadata").get("resourceVersion"),
                        "ownerReferences": owners,
                    }
                }
                stored = await self._context.kube.patch("v1", CLAIMS, *key_of(claim), patch)
                self._claims.put(stored)

    # --- Events -----------------------------------------------------------------------------------

    def _tell_pod(
        self, run: _Run, verb: str, pod: JsonObject, error: GatewayError | None = None
    ) -> None:
        about = f"{verb.capitalize()} Pod {name_of(pod)} in StatefulSet {name_of(run.stateful_set)}"
        if error is None:
            self._tell(run, f"Successful{verb.capitalize()}", f"{about} successful", NORMAL)
        else:
            message = f"{about} failed error: {error.message}"
            self._tell(run, f"Failed{verb.capitalize()}", message, WARNING)

    def _tell_claim(
        self, run: _Run, pod: JsonObject, name: str, error: GatewayError | None = None
    ) -> None:
        where = f"Pod {name_of(pod)} in StatefulSet {name_of(run.stateful_set)}"
        if error is None:
            message = f"Create Claim {name} {where} success"
            self._tell(run, "SuccessfulCreate", message, NORMAL)
        else:
            message = f"Create Claim {name} for {where} failed error: {error.message}"
            self._tell(run, "FailedCreate", message, WARNING)

    def _tell(self, run: _Run, reason: str, message: str, type_: str) -> None:
        about = STATEFUL_SET.named(run.stateful_set)
        self._context.events.record(
            about, reason, message, type_=type_, component=STATEFUL_SET.component
        )


@dataclass(frozen=True, slots=True)
class _Run:
    """One look at a StatefulSet, with the revisions it has and is to have."""

    stateful_set: JsonObject
    selector: LabelSelector
    current: JsonObject
    update: JsonObject

    def is_member(self, pod: JsonObject) -> bool:
        """True for a Pod that is called like a member."""
        return member_of(pod)[0] == name_of(self.stateful_set)


def _current(stateful_set: JsonObject, history: History) -> JsonObject | None:
    """Return the revision that the set's status names."""
    name = text(part(stateful_set, "status").get("currentRevision"))
    found = (each for each in (*history.old, *history.current) if name_of(each) == name)
    return next(found, None)


def stateful_sets(context: Context) -> StatefulSets:
    """Build the loop of StatefulSets."""
    return StatefulSets(context)
