"""The API's Node of this machine, as it came last: its labels, taints and uid are known without cloud.

It comes when somebody has changed it, and as the answer to each report of this node.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from edge.metamanager import MetaManager
from edge.pods.statuspatch import version_of
from gateway.model.json import JsonObject
from gateway.model.trace import TraceContext
from gateway.wire.cloudedge.names import Operation
from gateway.wire.cloudedge.to_edge import ObjectChanged
from gateway.wire.kube.parts import part, text

NODE = "node"


class NodeCopy:
    """Taker of Nodes, and a module that first reads what is on disk: start it before whoever asks."""

    name = "edge.pods.nodecopy"

    def __init__(
        self, name: str, meta: MetaManager, answered: Callable[[], JsonObject] = dict
    ) -> None:
        self._answered = answered
        self._name = name
        self._meta = meta
        self._node: JsonObject | None = None
        meta.on_kind(NODE, self)

    def object_changed(self, change: ObjectChanged, _trace: TraceContext | None) -> None:
        if change.subject.name == self._name:
            self._node = None if change.operation is Operation.DELETE else change.object

    async def run(self, ready: Callable[[], None]) -> None:
        await self._load()
        ready()
        await asyncio.Event().wait()

    async def _load(self) -> None:
        """Read the stored Node, unless a newer one came."""
        for item in await self._meta.list(NODE):
            if text(part(item, "metadata").get("name")) == self._name and self._node is None:
                self._node = item

    @property
    def node(self) -> JsonObject | None:
        """The Node, None where none came yet."""
        answered = self._answered()
        if answered and (self._node is None or version_of(answered) > version_of(self._node)):
            self._node = answered
        return self._node

    @property
    def uid(self) -> str:
        return text(part(self.node or {}, "metadata").get("uid"))
