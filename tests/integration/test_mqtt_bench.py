"""The MQTT benchmark runs: both servers answer every message of a small load."""

from __future__ import annotations

from bench.mqtt_ingest import LOADS, report, run
from tests.mqtt_peers import tool


def test_the_ingest_benchmark_measures_both_servers() -> None:
    tool("mosquitto")
    found = run(2_000, 1, loads=LOADS[1:2])
    (row,) = found["loads"]
    assert (row["load"], row["qos"]) == ("coalesced", 0)
    assert min(row["adapter_per_cpu_s"], row["mosquitto_per_cpu_s"], row["ratio"]) > 0
    assert "coalesced" in report(found)
