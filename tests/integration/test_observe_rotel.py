"""A collector that is not ours, rotel, takes what we export, over both transports."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.config.observe import Observe, Otlp, Traces
from gateway.observe.metrics import Metrics
from gateway.observe.otlp import build_exports
from gateway.observe.tracing import Tracer
from gateway.runtime.module import Readiness, running
from tests.ports import free_port

rotel = pytest.importorskip("rotel", reason="the package rotel (group peers) has no wheel here")
COLOURS = re.compile(rb"\x1b\[\d*m")
AGENT = Path(rotel.__file__).parent / "rotel-agent"


@asynccontextmanager
async def an_agent(folder: Path) -> AsyncIterator[tuple[dict[str, str], asyncio.StreamReader]]:
    """rotel's agent: its endpoints by protocol, and what it says."""
    ports = {"grpc": free_port(), "http/protobuf": free_port()}
    process = await asyncio.create_subprocess_exec(
        str(AGENT),
        "start",
        *("--otlp-grpc-endpoint", f"127.0.0.1:{ports['grpc']}"),
        *("--otlp-http-endpoint", f"127.0.0.1:{ports['http/protobuf']}"),
        *("--exporter", "blackhole", "--debug-log", "traces"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=folder,
    )
    assert process.stdout is not None
    try:
        for port in ports.values():
            await listening(port)
        yield {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}, process.stdout
    finally:
        process.terminate()
        await process.wait()


async def listening(port: int) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                await writer.wait_closed()
                return


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
async def test_rotel_takes_our_spans(protocol: str, tmp_path: Path) -> None:
    async with an_agent(tmp_path) as (endpoints, said):
        tracer, metrics = Tracer(), Metrics()
        otlp = Otlp(enabled=True, endpoint=endpoints[protocol], protocol=protocol)
        (export,) = build_exports(Observe(traces=Traces(otlp=otlp)), tracer, metrics, {})
        async with running(export, Readiness(())):
            for _ in range(3):
                tracer.start("upload telemetry", None, "server", {"tenant_id": "t"}).end()
        sent = metrics.registry.get_sample_value("twinspan_otlp_spans_total", {"outcome": "sent"})
        assert sent == 3
        async with asyncio.timeout(10):
            while b"Received traces" not in (line := await said.readline()):
                assert line, "the agent has ended"
        assert COLOURS.sub(b"", line).endswith(b"resource_spans=1 spans=3\n")
