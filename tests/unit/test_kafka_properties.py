"""Kafka properties: what operators write for Java clients means the same to ours."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.config import load
from gateway.config.hono import Kafka
from gateway.errors import InvalidSetting
from gateway.hono.kafka_properties import (
    admin_properties,
    consumer_properties,
    delivery_seconds,
    producer_properties,
    translated,
)


def kafka(**more: Any) -> Kafka:
    return Kafka(bootstrap_servers="b:9092", **more)


def test_the_producer_has_honos_times_and_java_s_partitioner() -> None:
    found = producer_properties(kafka(max_queue=7))
    expected = {
        "bootstrap.servers": "b:9092",
        "enable.idempotence": True,
        "delivery.timeout.ms": 2_500,
        "request.timeout.ms": 750,
        "partitioner": "murmur2_random",
        "queue.buffering.max.messages": 7,
    }
    assert expected.items() <= found.items()
    assert delivery_seconds(found) == 2.5


def test_a_client_s_own_property_wins_over_the_common_one_and_over_ours() -> None:
    settings = kafka(
        common_client_config={"linger.ms": "9", "client.id": "x"},
        producer_config={"linger.ms": "1", "delivery.timeout.ms": "5000"},
    )
    found = producer_properties(settings)
    assert (found["linger.ms"], found["client.id"]) == ("1", "x")
    assert delivery_seconds(found) == 5.0
    assert "delivery.timeout.ms" not in consumer_properties(settings)


@pytest.mark.parametrize("name", ["enable.idempotence", "enable.auto.offset.store"])
def test_what_delivery_rests_on_cannot_be_set(name: str) -> None:
    settings = kafka(producer_config={name: "false"}, consumer_config={name: "true"})
    assert producer_properties(settings)["enable.idempotence"] is True
    assert consumer_properties(settings)["enable.auto.offset.store"] is False


def test_the_consumer_reads_from_the_beginning_in_honos_group() -> None:
    found = consumer_properties(kafka())
    assert found["group.id"] == "cmd-router-group"
    assert found["auto.offset.reset"] == "earliest"
    assert found["partition.assignment.strategy"] == "cooperative-sticky"
    assert admin_properties(kafka())["bootstrap.servers"] == "b:9092"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        (
            "sasl.jaas.config",
            'org.apache.kafka.common.security.scram.ScramLoginModule required username="hono"'
            ' password="hono-\\"secret";',
            {"sasl.username": "hono", "sasl.password": 'hono-"secret'},
        ),
        ("sasl.mechanism", "SCRAM-SHA-512", {"sasl.mechanism": "SCRAM-SHA-512"}),
        ("security.protocol", "SASL_SSL", {"security.protocol": "SASL_SSL"}),
        ("ssl.truststore.location", "/ca.pem", {"ssl.ca.location": "/ca.pem"}),
        ("ssl.truststore.type", "PEM", {}),
        ("ssl.endpoint.identification.algorithm", "", {"ssl.endpoint.identification.algorithm": "none"}),
        ("key.serializer", "org.apache.kafka.common.serialization.StringSerializer", {}),
        ("max.block.ms", "500", {}),
        ("buffer.memory", "33554432", {"queue.buffering.max.kbytes": 32_768}),
        (
            "partition.assignment.strategy",
            "org.apache.kafka.clients.consumer.CooperativeStickyAssignor",
            {"partition.assignment.strategy": "cooperative-sticky"},
        ),
    ],
)  # fmt: skip
def test_java_s_words_are_translated(name: str, value: str, expected: dict[str, Any]) -> None:
    assert translated(name, value, "p") == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ssl.truststore.location", "/trust.jks"),
        ("ssl.truststore.type", "JKS"),
        ("sasl.jaas.config", "com.sun.security.auth.module.Krb5LoginModule required;"),
        ("sasl.jaas.config", 'PlainLoginModule required username="x";'),
        ("partition.assignment.strategy", "com.example.Mine"),
        ("buffer.memory", "much"),
    ],
)
def test_what_cannot_be_honoured_is_refused_with_its_path(name: str, value: str) -> None:
    with pytest.raises(InvalidSetting, match=rf"^hono\.kafka\.producer_config\.{name}: "):
        producer_properties(kafka(producer_config={name: value}))


@pytest.mark.parametrize(("value", "seconds"), [("1500", 1.5), ("0", 300.0), ("", 300.0)])
def test_delivery_is_bounded_also_where_the_operator_does_not(value: str, seconds: float) -> None:
    settings = kafka(producer_config={"delivery.timeout.ms": value})
    assert delivery_seconds(producer_properties(settings)) == seconds


def test_a_time_that_is_none_is_refused() -> None:
    settings = kafka(producer_config={"delivery.timeout.ms": "soon"})
    with pytest.raises(InvalidSetting, match=r"delivery\.timeout\.ms: expected milliseconds"):
        delivery_seconds(producer_properties(settings))


def test_a_password_is_not_part_of_a_refusal() -> None:
    line = 'OtherLoginModule required username="u" password="hush";'
    with pytest.raises(InvalidSetting) as caught:
        translated("sasl.jaas.config", line, "p")
    assert "hush" not in str(caught.value)


def test_properties_with_dots_can_be_given_on_the_command_line() -> None:
    settings = load(
        environ={},
        sets=[
            "hono.kafka.bootstrap_servers=127.0.0.1:9092",
            "hono.kafka.common_client_config={security.protocol: SASL_SSL, linger.ms: 5}",
        ],
    )
    found = producer_properties(settings.hono.kafka)
    assert (found["security.protocol"], found["linger.ms"]) == ("SASL_SSL", "5")
