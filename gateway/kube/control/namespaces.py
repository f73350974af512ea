"""Deletion of namespaces: everything in one goes, Pods first, then the namespace itself.

What stays because of finalizers is told in its conditions. Source: Kubernetes, "Namespaces"; ordered
namespace deletion.
"""

from __future__ import annotations

from gateway.errors import Conflict, GatewayError, MethodNotAllowed, NotFound
from gateway.kube.client import KubeClient
from gateway.kube.control.context import Context
from gateway.kube.control.discovered import Kind, discover
from gateway.kube.control.loop import Loop
from gateway.kube.control.mirrors import key_of, uid_of
from gateway.kube.control.pods_of import first_error, side_by_side
from gateway.model.json import JsonObject
from gateway.wire.kube.clock import parse_rfc3339
from gateway.wire.kube.namespaces import Content, conditions
from gateway.wire.kube.parts import part, text, whole
from gateway.wire.kube.podstate import is_deleting, is_ended

PLACE = "v1", "namespaces"
FINALIZER = "kubernetes"
PODS = "", "pods"
PAGE = 500
FINALIZER_SECONDS = 15
FIRST_PAUSE = 0.5


class NamespaceController:
    """Follows namespaces that are being deleted."""

    def __init__(self, context: Context) -> None:
        self._kube = context.kube
        self._now = context.now
        self._mirror = context.mirrors.of(*PLACE)
        self._tries: dict[str, int] = {}
        self._loop: Loop[str] = Loop(self._work, at_once=4)
        self._mirror.on_change(lambda change: self._loop.poke(change.key[1]))

    async def run(self) -> None:
        """Work until cancelled."""
        await self._loop.run()

    async def _work(self, name: str) -> None:
        known = self._mirror.get(None, name)
        if known is None or not is_deleting(known):
            self._loop.forget(name)
            self._tries.pop(name, None)
            return
        try:
            await self._empty(await self._kube.get(*PLACE, None, name))
        except NotFound:
            return

    async def _empty(self, namespace: JsonObject) -> None:
        if not is_deleting(namespace) or not part(namespace, "spec").get("finalizers"):
            return  # what else holds it is the work of others
        namespace = await self._mark(namespace)
        found = await discover(self._kube)
        kinds = [kind for kind in found.kinds if kind.is_namespaced and kind.may("delete", "list")]
        pods = [kind for kind in kinds if (kind.group, kind.plural) == PODS]
        content = Content()
        await self._delete(namespace, pods, content)
        if not content.kinds:
            await self._delete(namespace, [kind for kind in kinds if kind not in pods], content)
        namespace = await self._tell(namespace, content, found.failed)
        if content.is_empty and not found.failed:
            await self._finalize(namespace)
        else:
            self._look_again(key_of(namespace)[1], content.seconds)

    def _look_again(self, name: str, seconds: int) -> None:
        tries = self._tries.get(name, 0)
        self._tries[name] = tries + 1
        pause = FIRST_PAUSE * (1 << min(tries, 10))
        self._loop.poke_after(name, min(pause, seconds / 2 + 1))

    # --- its content ------------------------------------------------------------------------------

    async def _delete(self, namespace: JsonObject, kinds: list[Kind], content: Content) -> None:
        async def delete(kind: Kind) -> None:
            try:
                await self._delete_kind(namespace, kind, content)
            except (NotFound, MethodNotAllowed):
                return  # it is not served any more
            except GatewayError as error:
                content.failures.append(error.message)

        await side_by_side([lambda kind=kind: delete(kind) for kind in kinds])  # type: ignore[misc]

    async def _delete_kind(self, namespace: JsonObject, kind: Kind, content: Content) -> None:
        name = key_of(namespace)[1]
        items = await _all(self._kube, kind, name)
        if not items:
            return
        grace = self._grace(namespace, items) if (kind.group, kind.plural) == PODS else 0
        errors = await side_by_side([lambda item=item: self._remove(kind, item) for item in items])  # type: ignore[misc]
        content.seconds = max(content.seconds, grace)
        error = first_error(errors)
        if error is not None:
            raise error
        left = await _all(self._kube, kind, name)
        if left:
            self._count(kind, left, content, name, grace)

    async def _remove(self, kind: Kind, item: JsonObject) -> None:
        try:
            await self._kube.delete(*kind.place, *key_of(item), uid=uid_of(item))
        except (NotFound, Conflict):
            return  # gone, or another one by now: the next list tells

    def _grace(self, namespace: JsonObject, pods: list[JsonObject]) -> int:
        """How long Pods may take to end; 0 once the namespace has waited so long."""
        allowed = max(
            (
                whole(part(pod, "spec").get("terminationGracePeriodSeconds"))
                for pod in pods
                if not is_ended(pod)
            ),
            default=0,
        )
        since = parse_rfc3339(part(namespace, "metadata").get("deletionTimestamp")) or 0.0
        return 0 if self._now() - since >= allowed else allowed

    @staticmethod
    def _count(
        kind: Kind, left: list[JsonObject], content: Content, namespace: str, grace: int
    ) -> None:
        held = [text(name) for item in left for name in _finalizers(item)]
        content.kinds[f"{kind.plural}.{kind.group}"] += len(left)
        content.finalizers.update(held)
        if not grace and held:
            content.seconds = max(content.seconds, FINALIZER_SECONDS)
        elif not grace:
            told = f"unexpected items still remain in namespace: {namespace} for gvr: {kind}"
            content.failures.append(told)

    # --- itself -----------------------------------------------------------------------------------

    async def _mark(self, namespace: JsonObject) -> JsonObject:
        if part(namespace, "status").get("phase") == "Terminating":
            return namespace
        status = {**part(namespace, "status"), "phase": "Terminating"}
        return await self._kube.update(
            *PLACE, None, {**namespace, "status": status}, subresource="status"
        )

    async def _tell(
        self, namespace: JsonObject, content: Content, unknown: tuple[str, ...]
    ) -> JsonObject:
        told = conditions(namespace, content, unknown, self._now())
        status: JsonObject = {**part(namespace, "status"), "conditions": told}
        if status == part(namespace, "status"):
            return namespace
        return await self._kube.update(
            *PLACE, None, {**namespace, "status": status}, subresource="status"
        )

    async def _finalize(self, namespace: JsonObject) -> None:
        spec = part(namespace, "spec")
        held = spec.get("finalizers")
        left = [name for name in held if name != FINALIZER] if isinstance(held, list) else []
        body: JsonObject = {**namespace, "spec": {**spec, "finalizers": left}}
        try:
            await self._kube.update(*PLACE, None, body, subresource="finalize")
        except NotFound:
            return


async def _all(kube: KubeClient, kind: Kind, namespace: str) -> list[JsonObject]:
    """Return all objects of a kind in a namespace."""
    found: list[JsonObject] = []
    page: str | None = None
    while True:
        answer = await kube.list(*kind.place, namespace, limit=PAGE, page=page)
        found += answer.items
        page = answer.next_page
        if not page:
            return found


def _finalizers(item: JsonObject) -> list[str]:
    held = part(item, "metadata").get("finalizers")
    return [text(name) for name in held] if isinstance(held, list) else []
