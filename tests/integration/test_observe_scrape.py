"""A large scrape leaves the event loop its turns, and says what a small one says."""

from __future__ import annotations

import asyncio
import contextlib

from gateway.config.observe import OpsHttp
from gateway.console.operations import Operations
from gateway.observe.metrics import Metrics
from gateway.observe.scrape import scraped
from gateway.runtime.listener import Endpoints
from gateway.runtime.module import Readiness, running

NODES = tuple(f"node-{number:04}" for number in range(1_000))


def a_fleet() -> Metrics:
    metrics = Metrics()
    for rows in (metrics.own.node_connected, metrics.own.node_seen, metrics.own.node_waiting):
        rows.watch(lambda: (((node,), 1.0) for node in NODES))
    for tenant in range(20):
        metrics.telemetry_seconds.labels(
            f"t{tenant}", "event", "forwarded", "1", "none", "hono-mqtt"
        ).observe(1)
    return metrics


def fixed(text: bytes) -> list[bytes]:
    """Lines whose values do not change between two scrapes."""
    return [line for line in text.splitlines() if line.startswith((b"twinspan_cloudhub", b"hono_"))]


async def test_it_says_what_a_scrape_in_one_go_says() -> None:
    metrics = a_fleet()
    assert fixed(await scraped(metrics, openmetrics=False)) == fixed(metrics.text())
    assert fixed(await scraped(metrics, openmetrics=True)) == fixed(metrics.openmetrics())


async def test_others_have_many_turns_during_a_large_scrape() -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    metrics = a_fleet()
    running_beside = asyncio.create_task(others())
    try:
        await scraped(metrics, openmetrics=True)
    finally:
        running_beside.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running_beside
    assert turns > 20


async def test_scrapes_on_one_connection_are_answered_in_their_order() -> None:
    endpoints, metrics = Endpoints(), a_fleet()
    module = Operations(OpsHttp(bind="127.0.0.1:0"), endpoints, metrics, Readiness(()))
    async with running(module):
        host, port = endpoints.get("ops.http").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"GET /metrics HTTP/1.1\r\n\r\nGET /liveness HTTP/1.1\r\nConnection: close\r\n\r\n"
        )
        answer = await reader.read(-1)
        writer.close()
        await writer.wait_closed()
    first, _, second = answer.partition(b"twinspan_cloudhub_node_connected")
    assert b"text/plain" in first
    assert b'{"status": "UP"' in second
    assert answer.count(b"HTTP/1.1 200 OK") == 2
