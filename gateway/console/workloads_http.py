"""`workloads`, `pods`, `namespaces`: what runs, its logs, and the few things that are done to it by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Final, Protocol

from aiohttp import web

from gateway.console.fleet import pod_row
from gateway.console.guard import Call, answer, nothing
from gateway.console.mirrors import Mirrors
from gateway.console.streams import Streams
from gateway.console.workloads import (
    CLUSTER_SCOPED,
    KINDS,
    RESTARTED,
    SCALED,
    restart_patch,
    workload_row,
)
from gateway.errors import BadRequest, Forbidden, NotFound, Undeliverable
from gateway.kube.client import KubeClient
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.devices import mapping, text

MAX_ITEMS: Final = 1_000
MAX_PODS: Final = 2_000
MAX_REPLICAS: Final = 1_000
MAX_TAIL: Final = 10_000
MAX_NAMESPACES: Final = 1_000
TEXT: Final = "text/plain; charset=utf-8"
PLURALS: Final = {plural: kind for kind, (_, plural) in KINDS.items()}


class Logs(Protocol):
    """The way to logs of Pods (`gateway.kube.module.KubeApi`)."""

    def pod_log(
        self, namespace: str, name: str, query: Mapping[str, str]
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]: ...


class WorkloadRoutes:
    """The handlers; all are for operators."""

    def __init__(self, kube: KubeClient, mirrors: Mirrors, logs: Logs, streams: Streams) -> None:
        self._kube = kube
        self._mirrors = mirrors
        self._logs = logs
        self._streams = streams

    async def everything(self, call: Call) -> web.StreamResponse:
        namespace = call.query("namespace") or None
        await self._mirrors.known()
        items: list[JsonObject] = []
        is_cut = False
        for kind in KINDS:
            left = MAX_ITEMS - len(items)
            found, more = await self._of_kind(kind, namespace, left) if left else ([], True)
            items += found
            is_cut = is_cut or more
        known = self._mirrors.pods.objects
        keys = [key for key in known if namespace is None or key[0] == namespace]
        return answer(
            {
                "items": [*items],
                "pods": [pod_row(known[key]) for key in sorted(keys)[:MAX_PODS]],
                "truncated": is_cut or len(keys) > MAX_PODS,
            }
        )

    async def _of_kind(
        self, kind: str, namespace: str | None, limit: int
    ) -> tuple[list[JsonObject], bool]:
        group, plural = KINDS[kind]
        try:
            found = await self._kube.list(
                group, plural, None if kind in CLUSTER_SCOPED else namespace, limit=limit
            )
        except (NotFound, Forbidden):  # a cluster need not know, or show, all kinds
            return [], False
        return [workload_row(kind, each) for each in found.items], found.next_page is not None

    async def namespaces(self, _call: Call) -> web.StreamResponse:
        found = await self._kube.list("v1", "namespaces", limit=MAX_NAMESPACES)
        names = [text(mapping(each.get("metadata")).get("name")) for each in found.items]
        return answer({"items": [*sorted(names)]})

    # --- by hand --------------------------------------------------------------------------------------

    async def scale(self, call: Call) -> web.StreamResponse:
        """Errors: BadRequest; NotFound; what the API says."""
        replicas = (await call.body()).get("replicas")
        if not isinstance(replicas, int) or not 0 <= replicas <= MAX_REPLICAS:
            raise BadRequest(f"replicas: expected a number from 0 to {MAX_REPLICAS}")
        if isinstance(replicas, bool):
            raise BadRequest("replicas: expected a number")
        group, plural, namespace, name = _target(call, SCALED)
        patch: JsonObject = {"spec": {"replicas": replicas}}
        await self._kube.patch(group, plural, namespace, name, patch)
        return answer({"replicas": replicas})

    async def restart(self, call: Call) -> web.StreamResponse:
        """Errors: BadRequest; NotFound; what the API says."""
        group, plural, namespace, name = _target(call, RESTARTED)
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        await self._kube.patch(group, plural, namespace, name, restart_patch(now))
        return nothing(202)

    async def delete_pod(self, call: Call) -> web.StreamResponse:
        """Errors: NotFound; what the API says."""
        await self._kube.delete("v1", "pods", call.part("namespace"), call.part("name"))
        return nothing(202)

    # --- logs -----------------------------------------------------------------------------------------

    async def log(self, call: Call) -> web.StreamResponse:
        """A Pod's log, as the kubelet tells it. Errors: NotFound; BadRequest; Undeliverable."""
        namespace, name = call.part("namespace"), call.part("name")
        query = {"tailLines": str(call.number("tail", 200, MAX_TAIL))}
        if container := call.query("container"):
            query["container"] = container[:253]
        query |= {each: "true" for each in ("follow", "previous", "timestamps") if call.flag(each)}
        async with self._logs.pod_log(namespace, name, query) as body:
            async with self._streams.opened(call.request, call.session, TEXT) as stream:
                try:
                    await stream.hand_on(body)
                except Undeliverable as error:
                    await stream.write(f"\n--- the log ended early: {error.message}\n".encode())
            return stream.response


def _target(call: Call, kinds: frozenset[str]) -> tuple[str, str, str, str]:
    """What is to be changed. Errors: BadRequest for a kind that this is not done to."""
    plural = call.part("kind").lower()
    kind = PLURALS.get(plural) or next((k for k in KINDS if k.lower() == plural), "")
    if kind not in kinds:
        raise BadRequest(f"kind: expected one of {', '.join(sorted(kinds))}")
    return *KINDS[kind], call.part("namespace"), call.part("name")
