"""The spool and its pump on a real database: order, limits, losses, restarts, the cloud's answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from edge.spool import DROPPED_OLDEST, REFUSED_BY_CLOUD, SPOOL_FULL, Spool
from edge.spoolpump import SpoolPump
from gateway.config.edge import Spool as SpoolSettings
from gateway.errors import GatewayError, NoConsumer, Rejected, TooLarge
from gateway.model.message import Kind
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracer
from gateway.runtime.module import running
from gateway.store.database import Database
from gateway.store.disk import Disk
from gateway.wire.cloudedge.envelope import Envelope, Stamp
from gateway.wire.cloudedge.to_edge import Answer, read_to_edge
from gateway.wire.cloudedge.uploads import EdgeUpload, answer_upload, read_upload
from tests.integration.edge_support import until


class FakeLink:
    """A hub that keeps what it was given."""

    def __init__(self) -> None:
        self.sent: list[Envelope] = []

    def send(self, envelope: Envelope) -> None:
        self.sent.append(envelope)

    async def ask(self, envelope: Envelope, seconds: float = 1.0) -> Answer:
        raise AssertionError("the pump does not ask")

    @property
    def uploads(self) -> list[EdgeUpload]:
        return [read_upload(envelope) for envelope in self.sent]

    @property
    def payloads(self) -> list[str]:
        return [item.payload.decode() for item in self.uploads]


class Bench:
    """A spool, its pump and a link, running."""

    def __init__(self, spool: Spool, pump: SpoolPump, link: FakeLink) -> None:
        self.spool = spool
        self.pump = pump
        self.link = link

    async def put(self, device: str, text: str, kind: Kind = Kind.TELEMETRY) -> GatewayError | None:
        future: asyncio.Future[GatewayError | None] = asyncio.get_running_loop().create_future()
        item = EdgeUpload(
            topic=f"{kind}//{device}", payload=text.encode(), kind=kind, device=device, at=1
        )
        self.pump.submit(item, future.set_result)
        return await future

    def of_device(self, device: str) -> list[int]:
        """Which of the sent messages are this device's."""
        return [at for at, item in enumerate(self.link.uploads) if item.device == device]

    async def sent(self, count: int) -> None:
        await until(lambda: len(self.link.sent) == count)

    async def sent_of(self, device: str, count: int) -> None:
        await until(lambda: len(self.of_device(device)) == count)

    def answer(self, at: int, error: GatewayError | None = None) -> None:
        reply = read_to_edge(answer_upload(self.link.sent[at], Stamp("answer", 1), error))
        assert isinstance(reply, Answer)
        assert self.pump.take_answer(reply)


@asynccontextmanager
async def a_bench(
    path: Path,
    settings: SpoolSettings | None = None,
    *,
    window: int = 100,
    disk: Disk | None = None,
) -> AsyncIterator[Bench]:
    database = Database(path, "edge")
    link = FakeLink()
    metrics = Metrics()
    spool = Spool(database, settings or SpoolSettings(), metrics, disk)
    pump = SpoolPump(
        spool, link, lambda: "edge-uuid", window=window, metrics=metrics, tracer=Tracer()
    )
    async with database.running(), running(pump):
        yield Bench(spool, pump, link)


async def test_an_upload_is_sent_with_its_place_and_removed_after_the_answer(
    tmp_path: Path,
) -> None:
    async with a_bench(tmp_path / "edge.db") as bench:
        bench.pump.link_up(has_spool=True)
        assert await bench.put("a", "1") is None
        await until(lambda: len(bench.link.sent) == 1)
        (item,) = bench.link.uploads
        assert item.spool is not None
        assert (item.spool.edge, item.spool.lane) == ("edge-uuid", "t/a")
        assert item.trace is not None
        bench.answer(0)
        await until(lambda: bench.spool.depths[Kind.TELEMETRY].messages == 0)
        assert len(bench.pump) == 0


async def test_a_lane_sends_one_at_a_time_in_order_and_others_go_on(tmp_path: Path) -> None:
    async with a_bench(tmp_path / "edge.db") as bench:
        for text in ("a1", "a2", "b1", "b2"):
            await bench.put(text[0], text)
        bench.pump.link_up(has_spool=True)
        await until(lambda: bench.link.payloads == ["a1", "b1"])
        bench.answer(1)
        await until(lambda: bench.link.payloads == ["a1", "b1", "b2"])
        bench.answer(0)
        await until(lambda: bench.link.payloads == ["a1", "b1", "b2", "a2"])


async def test_telemetry_and_events_of_a_device_do_not_wait_for_each_other(tmp_path: Path) -> None:
    async with a_bench(tmp_path / "edge.db") as bench:
        bench.pump.link_up(has_spool=True)
        await bench.put("a", "t")
        await bench.put("a", "e", Kind.EVENT)
        await until(lambda: bench.link.payloads == ["t", "e"])
        assert [item.kind for item in bench.link.uploads] == [Kind.TELEMETRY, Kind.EVENT]


async def test_no_consumer_makes_the_lane_try_again_with_the_same_place(tmp_path: Path) -> None:
    async with a_bench(tmp_path / "edge.db") as bench:
        bench.pump.link_up(has_spool=True)
        await bench.put("a", "1")
        await bench.put("a", "2")
        await until(lambda: len(bench.link.sent) == 1)
        bench.answer(0, NoConsumer())
        await until(lambda: len(bench.link.sent) == 2)
        first, again = bench.link.uploads
        assert (first.payload, first.spool) == (again.payload, again.spool)
        assert bench.spool.depths[Kind.TELEMETRY].messages == 2


async def test_a_final_refusal_is_dropped_and_counted(tmp_path: Path) -> None:
    async with a_bench(tmp_path / "edge.db") as bench:
        bench.pump.link_up(has_spool=True)
        await bench.put("a", "1")
        await until(lambda: len(bench.link.sent) == 1)
        bench.answer(0, Rejected("no such device"))
        await until(lambda: bench.spool.depths[Kind.TELEMETRY].messages == 0)
        assert bench.spool.losses == {REFUSED_BY_CLOUD: 1}


async def test_what_was_on_its_way_when_the_link_broke_is_sent_again_first(tmp_path: Path) -> None:
    async with a_bench(tmp_path / "edge.db") as bench:
        bench.pump.link_up(has_spool=True)
        await bench.put("a", "1")
        await until(lambda: len(bench.link.sent) == 1)
        bench.pump.link_down()
        await bench.put("a", "2")
        bench.pump.link_up(has_spool=True)
        await until(lambda: bench.link.payloads == ["1", "1"])
        bench.answer(1)
        await until(lambda: bench.link.payloads == ["1", "1", "2"])
        places = [item.spool.sequence for item in bench.link.uploads if item.spool]
        assert places[0] == places[1] < places[2]


async def test_a_restart_goes_on_where_it_stopped(tmp_path: Path) -> None:
    async with a_bench(tmp_path / "edge.db") as bench:
        for at in range(50):
            await bench.put("a", f"{at}")
        await bench.put("b", "b")
    async with a_bench(tmp_path / "edge.db") as bench:
        assert bench.spool.depths[Kind.TELEMETRY].messages == 51
        bench.pump.link_up(has_spool=True)
        await bench.put("a", "50")
        for at in range(51):
            await bench.sent_of("a", at + 1)
            bench.answer(bench.of_device("a")[-1])
        texts = [bench.link.payloads[place] for place in bench.of_device("a")]
        assert texts == [str(at) for at in range(51)]


async def test_a_long_backlog_flows_in_order_while_more_arrives(tmp_path: Path) -> None:
    async with a_bench(tmp_path / "edge.db") as bench:
        for at in range(60):
            await bench.put("a", f"{at}")
        bench.pump.link_up(has_spool=True)
        for at in range(120):
            if at % 2:
                await bench.put("a", f"{60 + at // 2}")
            await bench.sent(at + 1)
            bench.answer(at)
        assert bench.link.payloads == [str(at) for at in range(120)]
        await until(lambda: len(bench.pump) == 0)


async def test_full_telemetry_pushes_out_the_oldest_and_counts_it(tmp_path: Path) -> None:
    async with a_bench(tmp_path / "edge.db", SpoolSettings(max_telemetry_bytes=1_000)) as bench:
        for at in range(10):
            assert await bench.put("a", f"{at}") is None
        kept = bench.spool.depths[Kind.TELEMETRY]
        assert kept.bytes <= 1_000
        assert bench.spool.losses == {DROPPED_OLDEST: 10 - kept.messages}
        bench.pump.link_up(has_spool=True)
        await until(lambda: len(bench.link.sent) == 1)
        assert bench.link.payloads == [str(10 - kept.messages)]
    async with a_bench(tmp_path / "edge.db") as bench:
        assert bench.spool.losses[DROPPED_OLDEST] == 10 - kept.messages


async def test_full_events_refuse_the_new_one_and_drop_none(tmp_path: Path) -> None:
    async with a_bench(tmp_path / "edge.db", SpoolSettings(max_event_bytes=1_000)) as bench:
        results = [await bench.put("a", f"{at}", Kind.EVENT) for at in range(10)]
        taken = sum(result is None for result in results)
        assert 0 < taken < 10
        assert all(result is None for result in results[:taken])
        assert all(result is not None and result.status == 503 for result in results[taken:])
        assert bench.spool.losses == {SPOOL_FULL: 10 - taken}
        assert await bench.put("a", "telemetry still goes") is None


async def test_an_upload_larger_than_the_spool_is_refused(tmp_path: Path) -> None:
    async with a_bench(tmp_path / "edge.db", SpoolSettings(max_telemetry_bytes=1_000)) as bench:
        assert isinstance(await bench.put("a", "x" * 2_000), TooLarge)


async def test_a_cloud_without_acknowledgements_gets_each_message_once(tmp_path: Path) -> None:
    async with a_bench(tmp_path / "edge.db") as bench:
        bench.pump.link_up(has_spool=False)
        for at in range(5):
            await bench.put("a", f"{at}")
        await until(lambda: bench.link.payloads == ["0", "1", "2", "3", "4"])
        await until(lambda: bench.spool.depths[Kind.TELEMETRY].messages == 0)


@pytest.mark.parametrize("payload", [b"\xff\x00binary", "grüße".encode(), b""])
async def test_payload_bytes_survive_disk_and_link(tmp_path: Path, payload: bytes) -> None:
    async with a_bench(tmp_path / "edge.db") as bench:
        future: asyncio.Future[GatewayError | None] = asyncio.get_running_loop().create_future()
        item = EdgeUpload(
            topic="event//a",
            payload=payload,
            kind=Kind.EVENT,
            device="a",
            content_type="text/plain",
            qos=1,
            ttl=5.0,
            properties={"n": 1},
        )
        bench.pump.submit(item, future.set_result)
        await future
    async with a_bench(tmp_path / "edge.db") as bench:
        bench.pump.link_up(has_spool=True)
        await until(lambda: len(bench.link.sent) == 1)
        (got,) = bench.link.uploads
        assert (got.payload, got.content_type, got.qos, got.ttl) == (payload, "text/plain", 1, 5.0)
        assert got.properties == {"n": 1}
