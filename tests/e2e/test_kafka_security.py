"""Kafka over TLS with SCRAM, set as Hono's documentation has it, against an Apache Kafka broker."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.config.hono import Kafka
from gateway.errors import GatewayError
from gateway.hono.kafka_library import BrokerUnavailable
from gateway.hono.kafka_producer import KafkaProducer
from gateway.hono.kafka_properties import producer_properties
from gateway.hono.kafka_records import Record
from gateway.observe.metrics import Metrics
from gateway.runtime.certificates import ensure_server
from gateway.runtime.module import running
from tests.kafka_rig import Broker, a_broker, read_all
from tests.ports import free_port

pytestmark = pytest.mark.e2e

LOGIN = "org.apache.kafka.common.security.scram.ScramLoginModule required"


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Broker, str, Path]]:
    """A broker with a TLS listener beside the plain one: itself, the TLS address, the CA's file."""
    folder = tmp_path_factory.mktemp("kafka-tls")
    chain, key = ensure_server(folder / "tls", "broker", "tests", ("localhost", "127.0.0.1"))
    store = folder / "broker.pem"
    store.write_text(key.read_text() + chain.read_text())
    plain, tls, controller = free_port(), free_port(), free_port()
    settings = {
        "listeners": f"PLAINTEXT://127.0.0.1:{plain},SASL_SSL://127.0.0.1:{tls},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{plain},SASL_SSL://127.0.0.1:{tls}",
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "PLAINTEXT",
        "sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": f"{LOGIN};",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(store),
    }
    with a_broker(folder, "name=hono,password=hono-secret", **settings) as broker:
        yield broker, f"127.0.0.1:{tls}", folder / "tls" / "ca.crt"


async def sent(
    servers: str, ca: Path, password: str, topic: str, milliseconds: int = 15_000
) -> GatewayError | None:
    settings = Kafka(
        bootstrap_servers=servers,
        common_client_config={
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.jaas.config": f'{LOGIN} username="hono" password="{password}";',
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(ca),
        },
        producer_config={"delivery.timeout.ms": str(milliseconds), "request.timeout.ms": "2000"},
    )
    producer = KafkaProducer(producer_properties(settings), Metrics())
    answer: asyncio.Future[GatewayError | None] = asyncio.get_running_loop().create_future()
    async with running(producer):
        producer.send("event", Record(topic, b"d", b"secret", []), answer.set_result)
        async with asyncio.timeout(30):
            return await answer


async def test_records_go_over_tls_with_a_user_s_password(
    secured: tuple[Broker, str, Path],
) -> None:
    broker, servers, ca = secured
    assert await sent(servers, ca, "hono-secret", "hono.event.secured") is None
    [record] = await asyncio.to_thread(read_all, broker.bootstrap, "hono.event.secured")
    assert record.value == b"secret"


async def test_a_wrong_password_is_no_way_in_and_not_logged(
    secured: tuple[Broker, str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    _, servers, ca = secured
    answer = await sent(servers, ca, "hush-hush", "hono.event.refused", 3_000)
    assert isinstance(answer, BrokerUnavailable)
    said = " ".join(f"{record.message} {record.__dict__}" for record in caplog.records)
    assert "uthentication" in said
    assert "hush-hush" not in said


async def test_a_broker_that_nobody_vouches_for_is_not_trusted(
    secured: tuple[Broker, str, Path], tmp_path: Path
) -> None:
    _, servers, _ = secured
    ensure_server(tmp_path / "other", "other", "other", ("127.0.0.1",))
    ca = tmp_path / "other" / "ca.crt"
    answer = await sent(servers, ca, "hono-secret", "hono.event.x", 3_000)
    assert isinstance(answer, BrokerUnavailable)
