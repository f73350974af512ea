"""Hono's own Grafana dashboards, asked of a real Prometheus that scrapes the shipped program."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from proton import Message

from tests.hono_dashboards import DASHBOARDS, NOT_THERE, PROCESS_VARIABLE, VARIABLES, Ask
from tests.process import twinspan
from tests.prometheus_server import ask, prometheus
from tests.walk import DEMO_DEVICE, Device, Walk, curl, in_thread

pytestmark = pytest.mark.e2e

EVENT_ROOM = 2_000
"""Bytes of events that a tenant may keep: little, so that some are refused."""


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    folder = tmp_path_factory.mktemp("dashboards")
    sets = (f"hono.events.max_bytes_per_tenant={EVENT_ROOM}",)
    with twinspan(folder / "data", "up", "--demo", sets=sets) as running:
        yield Walk(running)


@pytest.fixture(scope="module")
def lonely(walk: Walk) -> Device:
    """A device whose tenant has no application."""
    return walk.a_device("lonely", "d1")


def some_traffic(walk: Walk, lonely: Device) -> None:
    """Every kind of message with every outcome, once."""
    for device in (DEMO_DEVICE, lonely):
        for qos in ("0", "1"):
            walk.upload(device, "telemetry", {"n": 1}, "-H", f"qos-level: {qos}")
        walk.upload(device, "event", {"filler": "x" * 500})
    nothing = ("-H", "Content-Type: application/vnd.eclipse-hono-empty-notification")
    for path in ("telemetry", "event"):
        walk.upload(DEMO_DEVICE, path, {"n": 1}, *nothing, content_type="text/plain")
        url = walk.running.url("hono.http", f"/{path}")
        curl("POST", url, *nothing, "--data-binary", "not empty", user=DEMO_DEVICE.curl_user)
    walk.publish(DEMO_DEVICE, "telemetry", {"n": 2}, "-q", "1")


def values_of(base: str, metric: str, label: str) -> str:
    """All values of a label as Grafana joins them."""
    path = f"/api/v1/label/{label}/values?match[]={quote(metric)}"
    found: list[str] = curl("GET", base + path, "-g").json["data"]
    return "|".join(found)


def filled(base: str) -> dict[str, str]:
    return {label: values_of(base, metric, label) for label, metric in VARIABLES.items()}


async def test_every_query_of_hono_s_dashboards_has_an_answer(
    walk: Walk, lonely: Device, tmp_path: Path
) -> None:
    asked: list[Ask] = [one for board in DASHBOARDS.values() for one in board]
    with (
        prometheus(walk, tmp_path) as base,
        walk.subscribed(DEMO_DEVICE, "-t", "command///req/#"),
    ):
        async with walk.application(prefetch=100) as app:
            app.receive_from(f"event/{DEMO_DEVICE.tenant}")
            await app.expect("attached")

            def still_empty() -> list[str]:
                some_traffic(walk, lonely)
                values = filled(base)
                queries = [one.query(values) for one in asked]
                return [query for query in queries if not ask(base, query)]

            for attempt in range(40):
                for device in ("4711", "4712", "nobody"):
                    address = f"command/{DEMO_DEVICE.tenant}/{device}"
                    command = Message(body=b"on", address=address, subject="blink")
                    app.send(f"command/{DEMO_DEVICE.tenant}", command, tag=f"{device}-{attempt}")
                empty = await in_thread(still_empty)
                if not empty:
                    break
            assert empty == []
        assert all(filled(base).values())
        assert "hono-mqtt" in values_of(base, VARIABLES["component_name"], "component_name")
        label, metric = PROCESS_VARIABLE
        assert values_of(base, metric, label)
        assert not any(ask(base, metric) for metric in NOT_THERE)
