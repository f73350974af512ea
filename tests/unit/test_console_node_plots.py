"""Plots of one node at a time."""

from __future__ import annotations

import pytest

from gateway.console.plots import NODE_PLOTS, Plot
from gateway.console.sampler import Sampler
from gateway.console.series import NODE_SERIES, Ring
from gateway.observe.metrics import Metrics


@pytest.mark.parametrize("plot", NODE_PLOTS, ids=lambda plot: plot.id)
def test_every_plot_of_a_node_is_of_a_metric_with_nodes(plot: Plot) -> None:
    assert plot.by == ("node",)
    assert Metrics().registry.collector(plot.sample) is not None


async def test_the_points_of_one_node_come_alone() -> None:
    metrics = Metrics()
    rows = [((f"edge-{number}",), float(number)) for number in range(100)]
    metrics.own.node_waiting.watch(lambda: rows)
    sampler = Sampler(metrics.registry, clock=lambda: 7.0, steady=lambda: 1.0)
    await sampler.sample()
    plot = next(each for each in NODE_PLOTS if each.id == "node-waiting")
    [found] = sampler.shown(plot, 300, "edge-99")
    assert found == {"labels": {"node": "edge-99"}, "points": [[7.0, 99.0]]}
    assert sampler.shown(plot, 300, "edge-100") == []


def test_nodes_have_a_bound_too() -> None:
    ring = Ring(NODE_SERIES)
    for number in range(NODE_SERIES + 50):
        ring.put({ring.key((f"edge-{number}",)): 1.0})
    assert len(ring.series) == NODE_SERIES
