"""One hollow edge: the real rooms of an EdgeCore that talk to the cloud, joined as `edge.core` joins them."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from edge.devicetwin import DeviceTwin
from edge.hollow.device import HollowDevices
from edge.hollow.memory import MemoryDatabase
from edge.hollow.plan import Plan, Snapshot
from edge.hollow.spread import Spread
from edge.hub import ASK_SECONDS, EdgeHub, HubTarget, NoAnswer
from edge.identity import Identity
from edge.join import JoinFailed, JoinRequest, join
from edge.machine import Machine, Supplies
from edge.metamanager import MetaManager
from edge.node import NodeAgent
from edge.reports import Reports
from edge.spool import Spool
from edge.spoolpump import SpoolPump
from edge.store import EdgeStore
from gateway.config.edge import EdgeHub as HubSettings
from gateway.config.edge import Spool as SpoolSettings
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracer
from gateway.runtime.backoff import Backoff
from gateway.runtime.listener import parse_bind
from gateway.runtime.module import Module, running
from gateway.wire.cloudedge.envelope import Envelope
from gateway.wire.cloudedge.to_edge import (
    Answer,
    MembershipChanged,
    ObjectChanged,
    TwinCommanded,
)

HOLLOW_LABEL = "twinspan.io/hollow"
JOIN_FIRST, JOIN_CAP = 1.0, 15.0
_TCP_BYTES, _TCP_SEGMENTS = 120, 136
"""Where `struct tcp_info` holds bytes acknowledged, received (u64 each), segments out, in (u32 each)."""


@dataclass
class Shared:
    """What all hollow edges of a process have in common."""

    plan: Plan
    supplies: Callable[[Path], Supplies]
    joins: Executor
    told: Snapshot = field(default_factory=Snapshot)
    metrics: Metrics = field(default_factory=Metrics)
    tracer: Tracer = field(default_factory=lambda: Tracer(keep=10))
    renewals: Spread = field(default_factory=Spread)
    lease_times: Spread = field(default_factory=Spread)
    node_times: Spread = field(default_factory=Spread)
    answer_times: Spread = field(default_factory=Spread)

    def failed(self, text: str) -> None:
        """Count an error by its text; there are only so many kinds."""
        errors = self.told.errors
        key = text[:160] if text[:160] in errors or len(errors) < 20 else "other"
        errors[key] = errors.get(key, 0) + 1


class HollowNode:
    """One node. `run` enrols it, where it has no certificate yet, and keeps it until cancelled."""

    def __init__(self, shared: Shared, name: str) -> None:
        plan, metrics, tracer = shared.plan, shared.metrics, shared.tracer
        self._shared = shared
        self.name = name
        self._identity = Identity(Path(plan.folder) / name)
        self.store = store = EdgeStore(MemoryDatabase("edge"))
        self.hub = hub = EdgeHub(HubSettings(keepalive=plan.keepalive), self._target, metrics)
        self.meter = Meter(hub)
        sender = _Timed(shared, hub)
        spool = Spool(store.database, SpoolSettings(), metrics)
        self.pump = SpoolPump(
            spool,
            sender,
            lambda: store.edge_id,
            window=SpoolSettings().window,
            metrics=metrics,
            tracer=tracer,
        )
        self.reports = Reports(store, sender, metrics)
        self.twin = DeviceTwin(name, store, hub, self.reports, metrics=metrics, tracer=tracer)
        meta = MetaManager(store, hub, self.twin)
        labels = {HOLLOW_LABEL: ""}
        machine = Machine(name, Path(plan.folder), labels, measure=shared.supplies)
        self.node = NodeAgent(machine, sender)
        self.devices = HollowDevices(self.twin, self.pump, shared)
        self.twin.listen(self.devices)
        for listener in (self.reports, self.pump, self.twin.membership, self.node, sender):
            hub.on_link(listener)
        for taker in (sender.watch_answer, self.pump.take_answer, self.reports.take_answer):
            hub.on_answer(taker)
        hub.on_answer(self.twin.membership.take_answer)
        hub.on(ObjectChanged, meta.on_object)
        hub.on(MembershipChanged, self.twin.membership.on_membership)
        hub.on(TwinCommanded, self.twin.on_twin_command)
        self._modules: list[Module] = [store, self.reports, self.pump, self.twin, self.node, hub]

    async def run(self) -> None:
        await self._enrol()
        async with AsyncExitStack() as up:
            for module in self._modules:
                await up.enter_async_context(running(module))
            await self.devices.work()

    async def _enrol(self) -> None:
        """Join, unless the key of an earlier run is there; again and again until the cloud lets us in."""
        pause = Backoff(JOIN_FIRST, JOIN_CAP)
        plan = self._shared.plan
        request = JoinRequest(cloud=plan.cloud, token=plan.token, node=self.name, hub=plan.hub)
        loop = asyncio.get_running_loop()
        while not self._identity.has_joined:
            try:
                work = partial(join, request, self._identity)
                await loop.run_in_executor(self._shared.joins, work)
            except JoinFailed as error:
                self._shared.failed(f"join: {error.message}")
                await asyncio.sleep(pause.next())
        self._shared.told.joined += 1

    def _target(self) -> HubTarget:
        joined = self._identity.load()
        host, port = parse_bind(self._shared.plan.hub or joined.server, "hub")
        context = self._identity.client_context()
        return HubTarget(host, port, joined.node, context, joined.project, self.store.edge_id)

    def drop(self) -> None:
        """Break the link as a network does: without a goodbye."""
        if self.hub.transport is not None:
            self.hub.transport.abort()


class Meter:
    """What one hub's connections carried so far, as the kernel counts it."""

    def __init__(self, hub: EdgeHub) -> None:
        self._hub = hub
        self._transport: asyncio.WriteTransport | None = None
        self._before = self._now = (0, 0, 0)

    def read(self) -> tuple[int, int, int]:
        """Return bytes out, bytes in, segments; of connections that ended, what was seen last."""
        transport = self._hub.transport
        if transport is not self._transport:
            self._before, self._now = self._sum(), (0, 0, 0)
            self._transport = transport
        if transport is not None:
            self._now = _carried(transport) or self._now
        return self._sum()

    def _sum(self) -> tuple[int, int, int]:
        (a, b, c), (d, e, f) = self._before, self._now
        return a + d, b + e, c + f


def _carried(transport: asyncio.WriteTransport) -> tuple[int, int, int] | None:
    found = transport.get_extra_info("socket")
    if found is None or found.fileno() < 0:
        return None
    try:
        with socket.fromfd(found.fileno(), socket.AF_INET, socket.SOCK_STREAM) as copy:
            info = copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
    except OSError:
        return None
    out, into = struct.unpack_from("=QQ", info, _TCP_BYTES)
    return out, into, sum(struct.unpack_from("=II", info, _TCP_SEGMENTS))


class _Timed:
    """The rooms' way to the hub, which times what is answered; and a listener of the link."""

    def __init__(self, shared: Shared, hub: EdgeHub) -> None:
        self._shared = shared
        self._hub = hub
        self._renewed = 0.0
        self._is_registered = False
        self._sent: dict[str, float] = {}

    def send(self, envelope: Envelope) -> None:
        self._hub.send(envelope)
        self._sent[envelope.msg_id] = asyncio.get_running_loop().time()

    def watch_answer(self, answer: Answer) -> bool:
        """Time the answer to what was sent; whoever it is for takes it."""
        sent = self._sent.pop(answer.parent_id, None)
        if sent is not None:
            took = asyncio.get_running_loop().time() - sent
            self._shared.answer_times.add(took * 1_000)
        return False

    async def ask(self, envelope: Envelope, seconds: float = ASK_SECONDS) -> Answer:
        time = asyncio.get_running_loop().time
        started = time()
        try:
            answer = await self._hub.ask(envelope, seconds)
        except NoAnswer:
            self._shared.failed(f"{_kind(envelope)}: no answer in {seconds:g} s")
            raise
        took = (time() - started) * 1_000
        if _kind(envelope) == "lease":
            self._shared.lease_times.add(took)
            self._note_renewal(envelope, time())
        else:
            self._shared.node_times.add(took)
        return answer

    def _note_renewal(self, envelope: Envelope, now: float) -> None:
        if envelope.route.operation == "query":
            return
        if self._renewed:
            self._shared.renewals.add((now - self._renewed) * 1_000)
        self._renewed = now
        if not self._is_registered:
            self._is_registered = True
            self._shared.told.registered += 1

    def link_up(self, *, has_spool: bool) -> None:  # noqa: ARG002  every cloud has nodes
        self._shared.told.up += 1
        self._shared.told.links += 1

    def link_down(self) -> None:
        told = self._shared.told
        told.up -= 1
        told.lost += 1
        told.registered -= int(self._is_registered)
        self._renewed, self._is_registered = 0.0, False
        self._sent.clear()


def _kind(envelope: Envelope) -> str:
    return envelope.route.resource.split("/")[1]
