"""Reports of devices: each is sent once, unless its answer does not come."""

from __future__ import annotations

import asyncio
from typing import cast

from msgspec import Raw

from edge.reports import Reports
from edge.store import EdgeStore, Report
from gateway.observe.metrics import Metrics
from gateway.runtime.module import running
from gateway.wire.cloudedge.envelope import Envelope
from gateway.wire.cloudedge.to_edge import Answer


class SlowStore:
    """Holds every answer to a read until it is let go, as it was when the read began."""

    def __init__(self) -> None:
        self.rows: list[Report] = []
        self.reads: list[asyncio.Event] = []

    async def reporting_devices(self) -> list[tuple[str, int]]:
        return []

    async def reports(self, device: str, after: int, limit: int) -> list[Report]:
        found = [row for row in self.rows if row.device == device and row.id > after][:limit]
        let_go = asyncio.Event()
        self.reads.append(let_go)
        await let_go.wait()
        return found

    def reported(self, device: str, up_to: int) -> None:
        self.rows = [row for row in self.rows if row.device != device or row.id > up_to]


class Link:
    """A link that takes everything."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    def send(self, envelope: Envelope) -> None:
        self.sent.append(envelope.msg_id)


async def read(store: SlowStore, number: int) -> asyncio.Event:
    """The read of this number, once it began."""
    async with asyncio.timeout(10):
        while len(store.reads) < number:  # noqa: ASYNC110 - a turn of the loop, nothing to be woken by
            await asyncio.sleep(0)
    return store.reads[number - 1]


async def test_a_report_that_is_answered_while_the_next_is_looked_for_is_not_sent_again() -> None:
    store, link = SlowStore(), Link()
    reports = Reports(cast(EdgeStore, store), link, Metrics())  # type: ignore[arg-type]
    async with running(reports):
        reports.link_up(has_spool=True)
        store.rows.append(Report(1, "d1", "m1", "device/d1/twin/edge_updated", "{}"))
        reports.stored("d1", 1)
        first = await read(store, 1)
        store.rows.append(Report(2, "d1", "m2", "device/d1/twin/edge_updated", "{}"))
        reports.stored("d1", 2)
        first.set()
        async with asyncio.timeout(10):
            while not link.sent:  # noqa: ASYNC110 - a turn of the loop, nothing to be woken by
                await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        assert reports.take_answer(Answer("m1", "", Raw(b'"OK"')))
        number = 2
        while len(link.sent) < 2:
            (await read(store, number)).set()
            number += 1
            for _ in range(20):
                await asyncio.sleep(0)
        assert link.sent == ["m1", "m2"]
