"""What the API server does by itself, without any control loop."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.kube import housekeeping
from gateway.kube.housekeeping import Housekeeping, last_seen
from gateway.model.json import JsonObject
from gateway.wire.kube.clock import rfc3339
from tests.kube_server import KubeServer, kube_server
from tests.workload_rig import names


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[KubeServer]:
    async with kube_server(tmp_path, controllers=None) as running:
        yield running


async def happened(server: KubeServer, name: str, seconds_ago: float) -> None:
    when = rfc3339(server.api.objects.now() - seconds_ago)
    body: JsonObject = {
        "metadata": {"name": name},
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
        "reason": "Tested",
        "type": "Normal",
        "firstTimestamp": when,
        "lastTimestamp": when,
        "source": {"component": "test"},
    }
    await server.api.client("test").create("v1", "events", "default", body)


async def left(server: KubeServer) -> set[str]:
    return names((await server.api.client("test").list("v1", "events", "default")).items)


async def test_events_stay_for_an_hour_after_they_happened_last(server: KubeServer) -> None:
    now = server.api.objects.now()
    await happened(server, "old", 100.0)
    await happened(server, "new", 0.0)
    server.api.objects.now = lambda: now + 3_550.0
    await Housekeeping(server.api.objects).forget_events()
    assert await left(server) == {"old", "new"}  # stored a moment ago: that counts, too
    server.api.objects.now = lambda: now + 7_300.0
    await Housekeeping(server.api.objects).forget_events()
    assert await left(server) == set()


async def test_of_too_many_events_the_oldest_go(
    server: KubeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "MAX_EVENTS", 2)
    for number in range(5):
        await happened(server, f"e{number}", -10.0 * number)
    await Housekeeping(server.api.objects).forget_events()
    assert await left(server) == {"e3", "e4"}


def test_an_event_was_seen_when_it_was_last_told_of() -> None:
    stamp = "2026-11-23T12:00:00Z"
    assert last_seen({}) is None
    assert last_seen({"eventTime": stamp}) == last_seen({"lastTimestamp": stamp})
    later: JsonObject = {"series": {"lastObservedTime": "2026-11-23T13:00:00Z"}, "eventTime": stamp}
    assert (last_seen(later) or 0) - (last_seen({"eventTime": stamp}) or 0) == 3_600.0
