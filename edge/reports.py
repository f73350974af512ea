"""Twin and state reports on their way to the cloud: kept on disk until answered, in order per device.

One report of a device is on its way at a time, so that a cloud with many workers cannot swap two of them;
it is sent again with the same id after `RESEND_SECONDS` and whenever the link comes back. The versions
inside make a repeated report harmless. A device that reports faster than the cloud takes keeps at most
`MAX_WAITING`: then new values are merged into its last waiting report.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from msgspec import Raw

from edge.clock import now_ms
from edge.hub import Sender
from edge.spool import trace_of
from edge.store import EdgeStore, Report
from gateway.errors import GatewayError, Undeliverable
from gateway.observe.metrics import Metrics
from gateway.wire.cloudedge.envelope import Envelope, Route, Stamp, make
from gateway.wire.cloudedge.names import Group, Operation, Source
from gateway.wire.cloudedge.to_edge import Answer

log = logging.getLogger(__name__)

MAX_WAITING = 500
"""Reports of one device on disk."""
WINDOW = 200
"""Reports of all devices on their way."""
RESEND_SECONDS = 15.0
RETRY_SECONDS = 1.0


@dataclass(slots=True)
class _Queue:
    """One device's reports: `sent` is on its way, later ones are on disk up to `newest`."""

    device: str
    done_up_to: int = 0
    newest: int = 0
    sent: Report | None = None
    is_queued: bool = False
    timer: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        return self.sent is None and self.done_up_to >= self.newest


class Reports:
    """The queue of reports; a module, and a listener of the link."""

    name = "edge.reports"

    def __init__(self, store: EdgeStore, sender: Sender, metrics: Metrics) -> None:
        self._store = store
        self._sender = sender
        self._metrics = metrics
        self._queues: dict[str, _Queue] = {}
        self._ready: deque[_Queue] = deque()
        self._on_way: dict[str, _Queue] = {}
        self._is_up = False
        self._wake = asyncio.Event()
        metrics.edge_reports_waiting.watch("local", lambda: float(len(self._queues)))

    def __len__(self) -> int:
        """How many devices have reports that wait."""
        return len(self._queues)

    def stored(self, device: str, row_id: int) -> None:
        """Take note of a report that is on disk now (0 or less: nothing new to send)."""
        if row_id > 0:
            queue = self._queues.get(device)
            if queue is None:  # all before this one is answered
                queue = self._queues[device] = _Queue(device, done_up_to=row_id - 1)
            queue.newest = row_id
            self._offer(queue)

    def forget(self, device: str) -> None:
        """The device has left this node; its reports are gone from disk."""
        queue = self._queues.pop(device, None)
        if queue is not None:
            queue.newest = queue.done_up_to = 0
            self._stop_waiting(queue)

    # --- the link -----------------------------------------------------------------------------

    def link_up(self, *, has_spool: bool) -> None:  # noqa: ARG002  reports are answered by every cloud
        self._is_up = True
        for queue in list(self._queues.values()):
            self._offer(queue)

    def link_down(self) -> None:
        self._is_up = False
        self._ready.clear()
        for queue in self._queues.values():
            queue.is_queued = False
            self._stop_waiting(queue)

    def _stop_waiting(self, queue: _Queue) -> None:
        if queue.timer is not None:
            queue.timer.cancel()
            queue.timer = None
        if queue.sent is not None:
            self._on_way.pop(queue.sent.msg_id, None)
            queue.sent = None

    def take_answer(self, answer: Answer) -> bool:
        """Take the cloud's answer to a report; False when it is not about one."""
        queue = self._on_way.get(answer.parent_id)
        if queue is None or queue.sent is None:
            return False
        report = queue.sent
        self._stop_waiting(queue)
        outcome = "taken" if answer.ok else "refused"
        self._metrics.edge_reports_answered.labels(outcome).inc()
        if not answer.ok:
            log.warning("the cloud refused a report", extra={"device": queue.device})
        self._settle(queue, report)
        return True

    def _settle(self, queue: _Queue, report: Report) -> None:
        """A report is done with: forget it, go on with the device's next."""
        self._store.reported(queue.device, report.id)
        queue.done_up_to = report.id
        if queue.is_idle:
            self._queues.pop(queue.device, None)
        self._offer(queue)
        self._wake.set()

    # --- out ----------------------------------------------------------------------------------

    async def run(self, ready: Callable[[], None]) -> None:
        for device, newest in await self._store.reporting_devices():
            self._queues[device] = _Queue(device, newest=newest)
        ready()
        self._wake.set()
        for queue in list(self._queues.values()):
            self._offer(queue)
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._ready and self._is_up and len(self._on_way) < WINDOW:
                queue = self._ready.popleft()
                queue.is_queued = False
                await self._send_next(queue)

    def _offer(self, queue: _Queue) -> None:
        if self._is_up and queue.sent is None and not queue.is_idle and not queue.is_queued:
            queue.is_queued = True
            self._ready.append(queue)
            self._wake.set()

    async def _send_next(self, queue: _Queue) -> None:
        if queue.sent is not None:
            return  # its answer offers the next; what is read now would be old by then
        goal = queue.newest
        try:
            found = await self._store.reports(queue.device, queue.done_up_to, 1)
        except GatewayError as error:
            log.warning("reports cannot be read", extra={"cause": error.message})
            self._later(queue)
            return
        is_current = self._queues.get(queue.device) is queue
        if not self._is_up or queue.sent is not None or not is_current:
            return
        if found:
            self._send(queue, found[0])
            return
        queue.done_up_to = goal
        if queue.is_idle:
            self._queues.pop(queue.device, None)
        self._offer(queue)

    def _send(self, queue: _Queue, report: Report) -> None:
        try:
            self._sender.send(_envelope(report))
        except Undeliverable as error:
            log.debug("a report must wait", extra={"cause": error.message})
            self._later(queue)
            return
        except (
            GatewayError
        ) as error:  # no link would ever take it: it must not block the later ones
            log.warning(
                "a report cannot be sent", extra={"device": queue.device, "cause": error.message}
            )
            self._metrics.edge_reports_answered.labels("refused").inc()
            self._settle(queue, report)
            return
        queue.sent = report
        self._on_way[report.msg_id] = queue
        queue.timer = asyncio.get_running_loop().call_later(RESEND_SECONDS, self._again, queue)

    def _later(self, queue: _Queue) -> None:
        asyncio.get_running_loop().call_later(RETRY_SECONDS, self._offer, queue)

    def _again(self, queue: _Queue) -> None:
        self._metrics.edge_reports_answered.labels("unanswered").inc()
        self._stop_waiting(queue)
        self._offer(queue)


def _envelope(report: Report) -> Envelope:
    route = Route(
        source=Source.TWIN,
        group=Group.RESOURCE,
        operation=Operation.UPDATE,
        resource=report.resource,
    )
    content = Raw(report.content.encode())
    return make(Stamp(report.msg_id, now_ms()), route, content, trace=trace_of(report.trace))
