"""ReplicaSets and ReplicationControllers: as many Pods as they say, no more and no fewer.

A run looks at one owner: it claims its Pods, creates or deletes what makes the number right, and writes the
status. What it did is known to the next run at once, so nothing is made twice; after a restart the mirror is
complete before the first run. Source: Kubernetes "ReplicaSet".
"""

from __future__ import annotations

from functools import partial

from gateway.errors import GatewayError
from gateway.kube.control.context import Context
from gateway.kube.control.loop import Loop
from gateway.kube.control.mirrors import controller_of, controller_uid
from gateway.kube.control.pods_of import (
    OwnerKind,
    PodsOf,
    first_error,
    is_namespace_ending,
    side_by_side,
    slow_start,
)
from gateway.kube.control.statuses import write_status
from gateway.kube.informer import Key
from gateway.model.json import JsonObject
from gateway.wire.kube.clock import rfc3339
from gateway.wire.kube.parts import part, text
from gateway.wire.kube.podstate import (
    deletion_order,
    is_active,
    is_deleting,
    is_ended,
    seconds_to_available,
)
from gateway.wire.kube.replicas import (
    Failure,
    min_ready_seconds,
    missing,
    replica_status,
    selector_of,
)
from gateway.wire.kube.selectors import LabelSelector

REPLICA_SET = OwnerKind("apps/v1", "replicasets", "ReplicaSet", "replicaset-controller")
REPLICATION_CONTROLLER = OwnerKind(
    "v1", "replicationcontrollers", "ReplicationController", "replication-controller"
)


class Replicas:
    """The control loop of one of the two kinds."""

    def __init__(self, kind: OwnerKind, context: Context) -> None:
        self._context = context
        self._kind = kind
        self._counts_terminating = kind is REPLICA_SET
        self._pods = PodsOf(context, kind)
        self._siblings = self._pods.owners.index("controller", controller_uid)
        self._loop: Loop[Key] = Loop(self._settle)
        self._pods.listen(self._loop.poke)

    async def run(self) -> None:
        """Work until cancelled."""
        await self._loop.run()

    async def _settle(self, key: Key) -> None:
        owner = self._pods.owners.get(*key)
        selector = None if owner is None else selector_of(owner)
        if owner is None or selector is None:
            self._loop.forget(key)
            return
        active = await self._claimed(owner, selector)
        error: GatewayError | None = None
        change = 0 if is_deleting(owner) else missing(owner, len(active))
        if change:
            error = await self._change(owner, active, change)
            active = self._active(owner, selector)
        failure = None
        if error is not None:
            reason = "FailedCreate" if change > 0 else "FailedDelete"
            failure = Failure(reason, error.message)
        await self._report(key, owner, selector, active, failure)
        if error is not None:
            raise error  # the loop tries again, later and later

    # --- Pods -------------------------------------------------------------------------------------

    async def _claimed(self, owner: JsonObject, selector: LabelSelector) -> list[JsonObject]:
        return await self._pods.claim(owner, selector, self._is_active)

    def _active(self, owner: JsonObject, selector: LabelSelector) -> list[JsonObject]:
        return [
            pod for pod in self._pods.owned(owner) if self._is_active(pod) and selector.matches(pod)
        ]

    def _is_active(self, pod: JsonObject) -> bool:
        return is_active(pod) and not self._pods.mirror.is_doomed(pod)

    async def _change(
        self, owner: JsonObject, active: list[JsonObject], change: int
    ) -> GatewayError | None:
        if change > 0:
            template = part(owner, "spec", "template")
            _, error = await slow_start(change, partial(self._pods.create, owner, template))
            return None if error is not None and is_namespace_ending(error) else error
        ordered = deletion_order(active, self._related(owner), self._context.now())
        going = [partial(self._pods.delete, owner, pod) for pod in ordered[:-change]]
        error = first_error(await side_by_side(going))
        return error and GatewayError(f"unable to delete pods: {error.message}")

    def _related(self, owner: JsonObject) -> list[JsonObject]:
        """The Pods of all owners that serve the same purpose."""
        reference = controller_of(owner)
        if reference is None:
            return []
        family = self._siblings.get(text(reference.get("uid")))
        return [pod for one in family for pod in self._pods.owned(one)]

    # --- status -----------------------------------------------------------------------------------

    async def _report(
        self,
        key: Key,
        owner: JsonObject,
        selector: LabelSelector,
        active: list[JsonObject],
        failure: Failure | None,
    ) -> None:
        seconds = self._context.now()
        status = replica_status(
            owner,
            active,
            self._terminating(owner, selector) if self._counts_terminating else None,
            failure,
            now=rfc3339(seconds),
            seconds=seconds,
        )
        wait = seconds_to_available(active, min_ready_seconds(owner), seconds)
        if wait is not None:
            self._loop.poke_after(key, wait)
        if status != part(owner, "status"):
            place = self._kind.group_version, self._kind.plural
            await write_status(self._context, place, self._kind.named(owner), status)

    def _terminating(self, owner: JsonObject, selector: LabelSelector) -> int:
        return sum(
            self._pods.mirror.is_doomed(pod) and not is_ended(pod) and selector.matches(pod)
            for pod in self._pods.owned(owner)
        )


def replica_sets(context: Context) -> Replicas:
    """Build the loop of ReplicaSets."""
    return Replicas(REPLICA_SET, context)


def replication_controllers(context: Context) -> Replicas:
    """Build the loop of ReplicationControllers."""
    return Replicas(REPLICATION_CONTROLLER, context)
