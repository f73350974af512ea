"""PodDisruptionBudgets: how many of their Pods may be evicted now.

Evictions count a budget down by themselves, so a status is only ever written over the one that was judged.
Source: Kubernetes "Specifying a Disruption Budget for your Application".
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable

from gateway.errors import Conflict, GatewayError, NotFound
from gateway.kube.client import PatchType
from gateway.kube.control.context import Context
from gateway.kube.control.loop import Loop
from gateway.kube.control.mirrors import controller_of, key_of, uid_of
from gateway.kube.events import NORMAL, WARNING
from gateway.kube.informer import Change, Key
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.budgets import (
    Noted,
    budget_status,
    demand,
    failed_status,
    healthy,
    is_same_status,
    needs_scale,
    not_targeted,
    noted_evictions,
    selector_words,
    stale_target,
)
from gateway.wire.kube.disruption import budgets_of
from gateway.wire.kube.parts import part, rows, text, whole
from gateway.wire.kube.selectors import read_selector

PLACE = "policy/v1", "poddisruptionbudgets"
KIND = "PodDisruptionBudget"
COMPONENT = "controllermanager"
PAUSE = 0.05
"""Between two looks at one budget: what many Pods report at once is taken in with one look."""
OWNERS = {
    ("", "ReplicationController"): ("v1", "replicationcontrollers"),
    ("apps", "ReplicaSet"): ("apps/v1", "replicasets"),
    ("apps", "Deployment"): ("apps/v1", "deployments"),
    ("apps", "StatefulSet"): ("apps/v1", "statefulsets"),
}
"""Owners of Pods whose wish is known here; others are asked for their `scale`."""
UNMANAGED = (
    "Pods selected by this PodDisruptionBudget (selector: {selector}) were found to be unmanaged. As a"
    " result, the status of the PDB cannot be calculated correctly, which may result in undefined"
    ' behavior. To account for these pods please set ".spec.minAvailable" field of the PDB to an integer'
    " value."
)


class Disruption:
    """The control loop of PodDisruptionBudgets, and of Pods that were to go and stay."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._budgets = context.mirrors.of(*PLACE)
        self._pods = context.mirrors.of("v1", "pods")
        self._owners = {kind: context.mirrors.of(*place) for kind, place in OWNERS.items()}
        self._loop: Loop[Key] = Loop(self._settle, pause=PAUSE)
        self._staying: Loop[Key] = Loop(self._clear)
        self._budgets.on_change(lambda change: self._loop.poke(change.key))
        self._pods.on_change(self._on_pod)

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._loop.run())
            group.create_task(self._staying.run())

    def _on_pod(self, change: Change) -> None:
        for pod in (change.old, change.new):
            for budget in () if pod is None else self._budgets_of(pod):
                self._loop.poke(key_of(budget))
        if change.new is None:
            self._staying.forget(change.key)
        else:
            self._watch_target(change.key, change.new)
            self._tell_many(change.new)

    def _budgets_of(self, pod: JsonObject) -> list[JsonObject]:
        return budgets_of(pod, self._budgets.in_namespace(key_of(pod)[0]))

    def _tell_many(self, pod: JsonObject) -> None:
        found = self._budgets_of(pod)
        if len(found) > 1:
            namespace, name = key_of(pod)
            message = (
                f'Pod "{namespace}"/"{name}" matches multiple PodDisruptionBudgets. '
                f' Chose "{key_of(found[0])[1]}" arbitrarily.'
            )
            self._tell(_as_pod(pod), "MultiplePodDisruptionBudgets", message, WARNING)

    # --- one budget -------------------------------------------------------------------------------

    async def _settle(self, key: Key) -> None:
        budget = self._budgets.get(*key)
        if budget is None:
            self._loop.forget(key)
            return
        try:
            await self._judge(key, budget)
        except Conflict:
            raise  # an eviction came in between: look again
        except GatewayError as error:
            status = failed_status(budget, error.message, self._context.now())
            if status != part(budget, "status"):
                await self._write(budget, status)

    async def _judge(self, key: Key, budget: JsonObject) -> None:
        pods = self._selected(budget)
        if not pods:
            self._tell(_as_budget(budget), "NoPods", "No matching pods found", NORMAL)
        scale = await self._scale(budget, pods) if needs_scale(budget) else 0
        now = self._context.now()
        noted = noted_evictions(budget, pods, now)
        self._tell_expired(budget, noted)
        wanted = demand(budget, len(pods), scale)
        status = budget_status(budget, wanted, healthy(pods, noted), noted, now)
        if not is_same_status(status, part(budget, "status")):
            await self._write(budget, status)
        if noted.until is not None:
            self._loop.poke_after(key, noted.until - now + 1)

    def _selected(self, budget: JsonObject) -> list[JsonObject]:
        """Return the Pods of a budget; without a selector there are none."""
        said = part(budget, "spec").get("selector")
        if not isinstance(said, dict):
            return []
        selector = read_selector(said)
        found = self._pods.in_namespace(key_of(budget)[0])
        return [pod for pod in found if selector.matches(pod)]

    async def _write(self, budget: JsonObject, status: JsonObject) -> None:
        """Write over the state that was judged, no other: Conflict when an eviction was granted since."""
        body = {**_as_budget(budget), "status": status}
        stored = await self._context.kube.update(
            *PLACE, key_of(budget)[0], body, subresource="status"
        )
        self._budgets.put(stored)

    # --- what owners want -------------------------------------------------------------------------

    async def _scale(self, budget: JsonObject, pods: Iterable[JsonObject]) -> int:
        """Return how many Pods the owners of these want in all."""
        found: dict[str, int] = {}
        has_unmanaged = False
        asked: set[str] = set()
        try:
            for pod in pods:
                owner = controller_of(pod)
                has_unmanaged = has_unmanaged or owner is None
                if owner is not None and text(owner.get("uid")) not in asked:
                    asked.add(text(owner.get("uid")))
                    uid, count = await self._wish_of(pod, owner)
                    found[uid] = count
        except GatewayError as error:
            message = f"Failed to calculate the number of expected pods: {error.message}"
            reason = "CalculateExpectedPodCountFailed"
            self._tell(_as_budget(budget), reason, message, WARNING)
            raise
        if has_unmanaged:
            words = selector_words(part(budget, "spec", "selector"))
            self._tell(
                _as_budget(budget), "UnmanagedPods", UNMANAGED.format(selector=words), WARNING
            )
        return sum(found.values())

    async def _wish_of(self, pod: JsonObject, reference: JsonObject) -> tuple[str, int]:
        """Return who decides how many Pods there are, by uid, and how many it wants."""
        namespace, name = key_of(pod)
        owner = self._known(namespace, reference)
        if owner is not None:
            above = controller_of(owner)
            if above is not None and above.get("kind") == "Deployment":
                owner = self._known(namespace, above)
        if owner is not None:
            return uid_of(owner), whole(part(owner, "spec").get("replicas"), 1)
        scale = await self._ask_scale(namespace, reference)
        if scale is None or uid_of(scale) != reference.get("uid"):
            raise GatewayError(f'found no controllers for pod "{name}"')
        return uid_of(scale), whole(part(scale, "spec").get("replicas"))

    def _known(self, namespace: str, reference: JsonObject) -> JsonObject | None:
        group = text(reference.get("apiVersion")).rpartition("/")[0]
        mirror = self._owners.get((group, text(reference.get("kind"))))
        found = None if mirror is None else mirror.get(namespace, text(reference.get("name")))
        return found if found is not None and uid_of(found) == reference.get("uid") else None

    async def _ask_scale(self, namespace: str, reference: JsonObject) -> JsonObject | None:
        version, kind = text(reference.get("apiVersion")), text(reference.get("kind"))
        found = await self._resources(version)
        plural = next(
            (
                text(row.get("name"))
                for row in found
                if row.get("kind") == kind and "/" not in text(row.get("name"))
            ),
            None,
        )
        if plural is None:
            raise GatewayError(f'no matches for kind "{kind}" in version "{version}"')
        if not any(row.get("name") == f"{plural}/scale" for row in found):
            group = version.rpartition("/")[0]
            named = f"{plural}.{group}" if group else plural
            raise GatewayError(f"{named} does not implement the scale subresource")
        name = text(reference.get("name"))
        try:
            return await self._context.kube.get(
                version, plural, namespace, name, subresource="scale"
            )
        except NotFound:
            return None

    async def _resources(self, version: str) -> list[JsonObject]:
        path = f"/apis/{version}" if "/" in version else f"/api/{version}"
        try:
            found: Json = json.loads(await self._context.kube.read(path))
        except NotFound:
            return []
        return rows(found.get("resources")) if isinstance(found, dict) else []

    # --- Pods that stay ---------------------------------------------------------------------------

    def _watch_target(self, key: Key, pod: JsonObject) -> None:
        left = stale_target(pod, self._context.now())
        if left is not None:
            self._staying.poke_after(key, left)

    async def _clear(self, key: Key) -> None:
        """A Pod was said to go and did not: it does not say so any more."""
        pod = self._pods.get(*key)
        left = None if pod is None else stale_target(pod, self._context.now())
        if pod is None or left is None:
            return
        if left > 0:
            self._staying.poke_after(key, left)
            return
        patch: JsonObject = {
            "metadata": {"uid": uid_of(pod)},
            **not_targeted(self._context.now()),
        }
        stored = await self._context.kube.patch(
            "v1", "pods", *key, patch, patch_type=PatchType.STRATEGIC, subresource="status"
        )
        self._pods.put(stored)

    # --- Events -----------------------------------------------------------------------------------

    def _tell_expired(self, budget: JsonObject, noted: Noted) -> None:
        namespace, name = key_of(budget)
        message = f"Pod was expected by PDB {namespace}/{name} to be deleted but it wasn't"
        for pod in noted.expired:
            self._tell(_as_pod(pod), "NotDeleted", message, WARNING)

    def _tell(self, about: JsonObject, reason: str, message: str, type_: str) -> None:
        self._context.events.record(about, reason, message, type_=type_, component=COMPONENT)


def _as_budget(budget: JsonObject) -> JsonObject:
    return {**budget, "apiVersion": PLACE[0], "kind": KIND}


def _as_pod(pod: JsonObject) -> JsonObject:
    return {**pod, "apiVersion": "v1", "kind": "Pod"}
