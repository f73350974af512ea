"""The loads of the device benchmarks reach their end with the shipped program, over each protocol."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench import commands
from bench.devices_rig import Gateway, measured, the_gateway

pytestmark = pytest.mark.e2e

PROTOCOLS = ("mqtt", "amqp", "http", "coap")


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with the_gateway(3) as running:
        yield running


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("qos", [0, 1])
def test_telemetry_of_several_devices_is_counted_at_the_application(
    gateway: Gateway, protocol: str, qos: int
) -> None:
    rate = measured(gateway.to_amqp(protocol), qos, devices=3, messages=60)
    assert rate.per_second > 0
    assert rate.per_cpu_second > 0


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_commands_come_back_answered(gateway: Gateway, protocol: str) -> None:
    trip = commands.measured(commands.spec_of(gateway, protocol), devices=2, commands=40)
    assert 0 < trip.p50 <= trip.p99
    assert trip.per_cpu_second > 0
