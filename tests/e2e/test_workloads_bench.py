"""The benchmark of Pods reaches its end with the shipped program and says what it found."""

from __future__ import annotations

import pytest

from bench.workloads import PARTS, Plan, growth, measure, report

SMALL = Plan(pods=1, at_once=2, few=1, churn=0.1, idle=0.2, settle=0.2, log_megabytes=1)


@pytest.mark.e2e
@pytest.mark.timeout(400)
def test_a_small_run_measures_every_part() -> None:
    found = measure(SMALL)
    assert list(found) == list(PARTS)
    for way in ("bare", "placed", "scheduled", "kubectl"):
        assert 0 < found["apply"][way]["p50_ms"] <= found["apply"][way]["p99_ms"]
    assert min(found["burst"]["running_s"], found["burst"]["bare_running_s"]) > 0
    assert min(found["memory"][key]["rss"] for key in ("off", "0", "1", "2")) > 0
    assert min(found["restart"]["2"].values()) > 0
    assert found["churn"]["pods"] >= 4
    assert found["logs"]["megabytes"] == 1.0
    assert found["idle"]["probed"]["edge_s_per_minute"] > 0
    assert all(f"{part} (load" in report(found) for part in PARTS)


def test_growth_is_the_slope_after_the_first_quarter() -> None:
    jump = [(pods, 50.0 if pods < 25 else 60.0 + pods / 100) for pods in range(101)]
    assert growth(jump) == pytest.approx(10.0)


def test_what_stays_as_it_is_does_not_grow() -> None:
    assert growth([(1, 50.0), (2, 50.0), (3, 50.0)]) == 0.0
    assert growth([(1, 50.0)]) == 0.0
