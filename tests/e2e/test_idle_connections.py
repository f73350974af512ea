"""Thousands of devices that are connected and say nothing: what each of them costs is bounded."""

from __future__ import annotations

import pytest

from bench.idle_connections import GOAL_KB, run
from tests.mqtt_peers import tool

pytestmark = pytest.mark.e2e

DEVICES = 5_000


def test_thousands_of_idle_connections_stay_below_their_bound_of_memory() -> None:
    tool("mosquitto")
    found = run(DEVICES)
    assert [(row.server, row.protocol) for row in found] == [
        ("twinspan", "mqtt"),
        ("twinspan", "amqp"),
        ("mosquitto", "mqtt"),
    ]
    for row in found:
        assert row.connections == DEVICES
        assert 0 < row.kb_each < GOAL_KB, row
