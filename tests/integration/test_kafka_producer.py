"""The producer against a server of the protocol: outcomes, back-pressure, a broker that is away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.config.hono import Kafka
from gateway.errors import GatewayError, InvalidSetting
from gateway.hono.kafka_library import BrokerUnavailable
from gateway.hono.kafka_producer import KafkaProducer
from gateway.hono.kafka_properties import producer_properties
from gateway.hono.kafka_records import Record
from gateway.observe.metrics import Metrics
from gateway.outcome import outcome_of
from gateway.runtime.module import running
from tests.hono_rig import until
from tests.kafka_rig import mock_cluster, read_all
from tests.ports import free_port


@pytest.fixture(scope="module")
def bootstrap() -> Iterator[str]:
    with mock_cluster() as servers:
        yield servers


def a_record(value: bytes = b"v", topic: str = "hono.telemetry.acme", key: bytes = b"d1") -> Record:
    return Record(topic, key, value, [("qos", b"1")])


class Rig:
    def __init__(self, bootstrap: str, **more: Any) -> None:
        max_queue = more.pop("max_queue", 1_000)
        settings = Kafka(bootstrap_servers=bootstrap, max_queue=max_queue, producer_config=more)
        self.metrics = Metrics()
        self.producer = KafkaProducer(producer_properties(settings), self.metrics)

    async def send(self, record: Record) -> GatewayError | None:
        answer: asyncio.Future[GatewayError | None] = asyncio.get_running_loop().create_future()
        self.producer.send("telemetry", record, answer.set_result)
        async with asyncio.timeout(20):
            return await answer

    def sample(self, outcome: str) -> float:
        labels = {"kind": "telemetry", "outcome": outcome}
        name = "twinspan_kafka_records_total"
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def a_producer(bootstrap: str, **more: Any) -> AsyncIterator[Rig]:
    rig = Rig(bootstrap, **more)
    async with running(rig.producer):
        yield rig


async def test_a_record_is_done_when_the_broker_has_it(bootstrap: str) -> None:
    async with a_producer(bootstrap) as rig:
        assert await rig.send(a_record(b"one", "hono.event.one")) is None
        [record] = await asyncio.to_thread(read_all, bootstrap, "hono.event.one")
    assert (record.key, record.value, record.headers) == (b"d1", b"one", {"qos": b"1"})
    assert rig.sample("delivered") == 1


async def test_records_of_one_device_keep_their_order_in_one_partition(bootstrap: str) -> None:
    answers: list[GatewayError | None] = []
    async with a_producer(bootstrap) as rig:
        for number in range(500):
            record = a_record(b"%d" % number, "hono.event.order")
            rig.producer.send("telemetry", record, answers.append)
        await until(lambda: len(answers) == 500)
        records = await asyncio.to_thread(read_all, bootstrap, "hono.event.order")
    assert answers == [None] * 500
    assert [int(r.value or b"") for r in records] == list(range(500))
    assert len({r.partition for r in records}) == 1


async def test_what_nobody_waits_for_is_done_at_once_and_sent(bootstrap: str) -> None:
    answers: list[GatewayError | None] = []
    async with a_producer(bootstrap) as rig:
        record = a_record(b"q0", "hono.telemetry.q0")
        rig.producer.send_and_forget("telemetry", record, answers.append)
        assert answers == [None]
    # the end of the module waited for what was under way
    [record_read] = await asyncio.to_thread(read_all, bootstrap, "hono.telemetry.q0")
    assert record_read.value == b"q0"


async def test_a_full_queue_refuses_at_once() -> None:
    answers: list[GatewayError | None] = []
    nobody = f"127.0.0.1:{free_port()}"
    async with a_producer(nobody, max_queue=10, **{"delivery.timeout.ms": "1000"}) as rig:
        for _ in range(15):
            rig.producer.send("telemetry", a_record(), answers.append)
        assert len(answers) == 5
        assert rig.sample("refused") == 5
        rig.producer.send_and_forget("telemetry", a_record(), answers.append)
        assert isinstance(answers[5], BrokerUnavailable)
        await until(lambda: len(answers) == 16)
        assert rig.sample("failed") == 10
    assert all(isinstance(answer, BrokerUnavailable) for answer in answers)
    assert outcome_of(answers[0]).status == 503


async def test_a_broker_that_is_away_does_not_keep_the_gateway_from_starting() -> None:
    async with a_producer(f"127.0.0.1:{free_port()}", **{"delivery.timeout.ms": "800"}) as rig:
        assert isinstance(await rig.send(a_record()), BrokerUnavailable)


async def test_stopping_answers_what_has_no_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.hono.kafka_producer.FLUSH_SECONDS", 0.1)
    answers: list[GatewayError | None] = []
    async with a_producer(f"127.0.0.1:{free_port()}", **{"delivery.timeout.ms": "60000"}) as rig:
        rig.producer.send("telemetry", a_record(), answers.append)
    assert [type(answer) for answer in answers] == [BrokerUnavailable]
    rig.producer.send("telemetry", a_record(), answers.append)
    assert isinstance(answers[1], BrokerUnavailable)


async def test_a_record_that_is_too_large_is_refused(bootstrap: str) -> None:
    async with a_producer(bootstrap, **{"message.max.bytes": "2000"}) as rig:
        assert isinstance(await rig.send(a_record(b"x" * 3_000)), BrokerUnavailable)
        assert await rig.send(a_record(b"x")) is None


@pytest.mark.parametrize(
    ("name", "value"), [("no.such.property", "1"), ("reconnect.backoff.ms", "soon"), ("acks", "0")]
)
async def test_a_property_that_librdkafka_does_not_take_is_a_bad_setting(
    bootstrap: str, name: str, value: str
) -> None:
    with pytest.raises(BaseExceptionGroup) as caught:
        async with a_producer(bootstrap, **{name: value}):
            pass
    [error] = caught.value.exceptions
    assert isinstance(error, InvalidSetting)
    assert name in str(error)


class Fatal:
    """An error that ends a producer, as the library gives it to its callback."""

    def fatal(self) -> bool:
        return True

    def str(self) -> str:
        return "fenced"


async def test_after_a_fatal_error_the_producer_is_made_anew(
    bootstrap: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with a_producer(bootstrap) as rig:
        assert await rig.send(a_record()) is None
        rig.producer._on_error(Fatal())  # type: ignore[arg-type]
        await until(lambda: "kafka producer is made anew" in caplog.messages)
        await until(lambda: rig.producer._producer is not None)
        assert await rig.send(a_record()) is None
    [line] = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert line.__dict__["cause"] == "fenced"


async def test_the_depth_of_the_queue_can_be_watched() -> None:
    async with a_producer(f"127.0.0.1:{free_port()}", **{"delivery.timeout.ms": "600"}) as rig:
        answer = asyncio.ensure_future(rig.send(a_record()))
        await asyncio.sleep(0)
        labels = {"client": "producer"}
        sample = rig.metrics.registry.get_sample_value("twinspan_kafka_queue_depth", labels)
        assert sample  # troubles that the library reports stand in its queue too
        await answer
