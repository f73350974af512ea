"""Telemetry and events from edges on their way downstream: whose they are, once, and the answer.

Which tenant a message belongs to is decided here, never at the edge: a Device bound to the node belongs to
its namespace's tenant and goes downstream at once; any other id is a device of Hono's registry, in the
Node's tenant, and goes through the ingress with all its checks. The node is the gateway of a message (`via`)
unless it speaks for itself. A spooled upload is answered with the outcome; those of a lane are taken one
after another.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from cloud.catalog import Catalog
from cloud.hub import CloudHub
from cloud.sessions import Inbound, stamp
from gateway.errors import BadRequest, Forbidden, GatewayError, NotBuilt, Undeliverable
from gateway.model.message import (
    CONTENT_ENCODING,
    OCTET_STREAM,
    Adapter,
    Kind,
    Message,
    Scalar,
    SpoolId,
    Upload,
)
from gateway.model.ports import Done, Downstream, Ingress
from gateway.model.trace import TraceContext
from gateway.outcome import outcome_of
from gateway.store import edge_sequences
from gateway.store.database import Database
from gateway.wire.cloudedge.uploads import EdgeUpload, answer_upload

if TYPE_CHECKING:
    from gateway.hono.traffic import Traffic
    from gateway.observe.metrics import Metrics
    from gateway.observe.tracing import Tracer

log = logging.getLogger(__name__)

FLUSH_SECONDS = 0.2
MAX_LANES = 50_000
ORIGIN_NODE = "edge_node"
"""Application property that says which node a message came from."""
MAX_PROPERTIES = 50
MAX_PROPERTY = 1_024
"""Characters of a property's name or text."""
RESERVED = frozenset(
    {"tenant_id", "device_id", "gateway_id", "via", "orig_adapter", "orig_address", "qos", "ttd"}
)
"""What only the cloud may say about a message."""
LATEST = 253_402_300_800_000
"""Unix ms of the year 10000: an edge's clock may say anything, what stores and writes times may not."""
LONGEST = 1e9
"""Seconds of the longest time to live that is counted."""


class Sequences:
    """Module: the last sequence taken of each lane; read at first use, written a little later.

    What is lost when the process dies makes a redelivery look new: delivery is at least once. Changes of
    twins store their sequence in their own transaction.
    """

    name = "cloud.sequences"

    def __init__(self, database: Database) -> None:
        self._database = database
        self._last: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._dirty: dict[tuple[str, str], int] = {}

    async def run(self, ready: Callable[[], None]) -> None:
        ready()
        try:
            while True:
                await asyncio.sleep(FLUSH_SECONDS)
                await self.flush()
        finally:
            await self.flush()

    async def is_duplicate(self, spool: SpoolId) -> bool:
        """True when this message, or a later one of its lane, was taken before."""
        key = (spool.edge, spool.lane)
        last = self._last.get(key)
        if last is None:
            last = await self._database.read(
                lambda c: edge_sequences.last(c, spool.edge, spool.lane)
            )
            last = max(last, self._dirty.get(key, 0))
            self._keep(key, last)
        return spool.sequence <= last

    def taken(self, spool: SpoolId) -> None:
        """Note that a message was taken."""
        key = (spool.edge, spool.lane)
        if spool.sequence > self._last.get(key, 0):
            self._keep(key, spool.sequence)
            self._dirty[key] = spool.sequence

    async def flush(self) -> None:
        """Write what was noted."""
        if not self._dirty:
            return
        batch, self._dirty = self._dirty, {}
        spools = [SpoolId(edge, lane, sequence) for (edge, lane), sequence in batch.items()]
        try:
            await self._database.write(
                lambda c: [edge_sequences.advance(c, spool) for spool in spools]
            )
        except GatewayError as error:
            log.warning("sequences not written", extra={"cause": error.message})
            self._dirty = {**batch, **self._dirty}

    def _keep(self, key: tuple[str, str], sequence: int) -> None:
        self._last[key] = sequence
        self._last.move_to_end(key)
        while len(self._last) > MAX_LANES:
            self._last.popitem(last=False)


class Upstream:
    """Takes uploads from the hub. Call `attach` once."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        ingress: Ingress,
        downstream: Downstream,
        sequences: Sequences,
        metrics: Metrics,
        tracer: Tracer,
        traffic: Traffic,
    ) -> None:
        self._traffic = traffic
        self._catalog = catalog
        self._ingress = ingress
        self._downstream = downstream
        self._sequences = sequences
        self._metrics = metrics
        self._tracer = tracer

    def attach(self, hub: CloudHub) -> None:
        """Take the hub's uploads; those of one lane stay in order."""
        hub.on(EdgeUpload, self.on_upload, _lane)

    async def on_upload(self, inbound: Inbound, item: EdgeUpload) -> None:
        """Send an upload downstream and answer it, where an answer is wanted."""
        if item.spool is not None:  # a copied store must not make another node's messages look old
            item = replace(
                item, spool=replace(item.spool, edge=f"{inbound.node}/{item.spool.edge}")
            )
        error = await self._outcome(inbound.node, item)
        kind = item.kind.value if item.kind else "none"
        self._metrics.edge_uploads.labels(kind, outcome_of(error).metric.value).inc()
        if error is not None:
            _log_refusal(inbound.node, item, error)
        if item.spool is not None:
            inbound.reply(answer_upload(inbound.envelope, stamp(), error))

    async def _outcome(self, node: str, item: EdgeUpload) -> GatewayError | None:
        try:
            await self._send(node, item)
        except GatewayError as error:
            return error
        if item.spool is not None:
            self._sequences.taken(item.spool)
        return None

    async def _send(self, node: str, item: EdgeUpload) -> None:
        """Send one upload and wait for its outcome. Errors: what the port says; Forbidden."""
        if item.kind is None or not item.device:
            raise NotBuilt(f"topic {item.topic[:200]!r} is for the router, which is not built")
        tenant = self._catalog.tenant_of(node, item.device)
        if tenant is None:
            raise Forbidden(f"node {node} may not send for device {item.device}")
        if (
            not item.content_type.isascii()
        ):  # in AMQP it is a symbol: no application could be given it
            raise BadRequest("content type: expected ASCII")
        is_again = item.spool is not None and await self._sequences.is_duplicate(item.spool)
        with self._tracer.start(
            f"cloudhub upload {item.kind}",
            item.trace,
            "server",
            {"node": node, "tenant_id": tenant, "device_id": item.device},
        ) as span:
            if item.trace is not None and item.at:
                span.set("waited_ms", max(0, time.time_ns() // 1_000_000 - item.at))
            message = _message(tenant, node, item, span.context, is_again=is_again)
            key = self._catalog.find_device(item.device)
            if key is not None:
                await self._send_of_device(message, item)
            else:
                await _wait(lambda done: self._ingress.submit(_upload(message, item), done))

    async def _send_of_device(self, message: Message, item: EdgeUpload) -> None:
        """Send a message that needs no ingress, and show it to who watches. Errors: what the port says."""
        error = None
        try:
            await _wait(lambda done: self._downstream.send(message, done))
        except GatewayError as failure:
            error = failure
            raise
        finally:
            if self._traffic.watchers:
                self._traffic.uploaded(
                    _upload(message, item),
                    message.tenant,
                    message.device,
                    message.trace.trace_id,
                    error,
                    via=message.via,
                )


def _message(
    tenant: str, node: str, item: EdgeUpload, trace: TraceContext, *, is_again: bool
) -> Message:
    kind = item.kind or Kind.TELEMETRY
    return Message(
        tenant=tenant,
        device=item.device.replace("/", ":", 1),
        kind=kind,
        qos=1 if kind is Kind.EVENT else item.qos,
        payload=item.payload,
        at=item.at / 1_000 if 0 < item.at < LATEST else time.time(),
        trace=trace,
        content_type=item.content_type or (OCTET_STREAM if item.payload else None),
        adapter=Adapter.EDGE.value,
        address=item.topic,
        via=None if item.device == node else node,
        ttl=None if item.ttl is None else min(item.ttl, LONGEST),
        properties={**_own_properties(item), ORIGIN_NODE: node},
        twin_owned=item.twin_owned,
        spool=item.spool,
        duplicate=is_again,
    )


def _own_properties(item: EdgeUpload) -> dict[str, Scalar]:
    """Return what the edge may say of a message in application properties."""
    kept = [
        (name, value)
        for name, value in item.properties.items()
        if name not in RESERVED
        and not name.startswith("x-opt-")
        and len(name) <= MAX_PROPERTY
        and len(str(value)) <= MAX_PROPERTY
        and (name != CONTENT_ENCODING or str(value).isascii())
    ]
    return dict(kept[:MAX_PROPERTIES])


def _upload(message: Message, item: EdgeUpload) -> Upload:
    """Return a message for a device of the registry as its adapter would have read it."""
    return Upload(
        adapter=Adapter.EDGE,
        principal=None,
        kind=message.kind,
        qos=message.qos,
        payload=message.payload,
        address=message.address,
        tenant=message.tenant,
        device=message.device,
        content_type=item.content_type or None,
        ttl=message.ttl,
        properties=message.properties,
        trace=message.trace,
        spool=message.spool,
        duplicate=message.duplicate,
        via=message.via,
    )


async def _wait(send: Callable[[Done], None]) -> None:
    """Turn an outcome callback into an await. Errors: the outcome."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def done(error: GatewayError | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)

    send(done)
    await future


def _lane(item: EdgeUpload) -> object:
    return (item.spool.edge, item.spool.lane) if item.spool else (item.kind, item.device)


def _log_refusal(node: str, item: EdgeUpload, error: GatewayError) -> None:
    level = logging.DEBUG if isinstance(error, Undeliverable) else logging.INFO
    log.log(
        level,
        "edge upload refused",
        extra={
            "node": node,
            "device": item.device[:200],
            "status": error.status,
            "cause": error.message,
        },
    )
