"""The shipped program with its adapters in worker processes."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from proton import Message

from tests.otlp_receiver import Collector, a_collector
from tests.process import Twinspan, eventually, twinspan
from tests.walk import DEMO_DEVICE, Walk, in_thread

pytestmark = pytest.mark.e2e


def workers_of(running: Twinspan) -> list[int]:
    """The process ids of the workers."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            command = (stat.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if int(fields[1]) == running.pid and b"gateway.cli.worker" in command:
            found.append(int(stat.parent.name))
    return sorted(found)


def is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def post(running: Twinspan, number: int = 0, path: str = "/event") -> int:
    """Send an event as the sample device over a connection of its own; returns the status."""
    done = subprocess.run(
        [
            "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-m", "10",
            "-u", "sensor1@DEFAULT_TENANT:hono-secret", "-H", "content-type: application/json",
            "-d", f'{{"n": {number}}}', running.url("hono.http", path),
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return int(done.stdout or 0)


def metric(running: Twinspan, name: str, *labels: str) -> float:
    """The sum of a metric's samples that have all the labels."""
    text = urllib.request.urlopen(running.url("ops.http", "/metrics"), timeout=10).read().decode()
    return sum(
        float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if re.match(rf"{name}[{{ ]", line) and all(label in line for label in labels)
    )


@pytest.fixture
def collector() -> Iterator[Collector]:
    with a_collector() as collector:
        yield collector


@pytest.fixture
def running(tmp_path: Path, collector: Collector) -> Iterator[Twinspan]:
    sets = (
        "hono.workers=2",
        "hono.lora.enabled=false",
        "observe.traces.otlp.enabled=true",
        f"observe.traces.otlp.endpoint={collector.endpoint}",
    )
    with twinspan(tmp_path / "data", "gateway", "--demo", sets=sets) as up:
        yield up


def test_devices_are_served_by_workers_and_counted_as_one(running: Twinspan) -> None:
    assert len(workers_of(running)) == 2
    assert {post(running, n) for n in range(20)} == {202}
    labels = ('type="event"', 'status="forwarded"')
    name = "hono_telemetry_processing_duration_seconds_count"
    eventually(lambda: metric(running, name, *labels) == 20, what="20 events counted")
    assert metric(running, "twinspan_workers") == 2
    assert metric(running, "twinspan_module_ready", 'module="hono.mqtt"') == 1


async def test_a_device_at_a_worker_and_the_main_process_tell_one_trace(
    running: Twinspan, collector: Collector
) -> None:
    walk = Walk(running)
    trace, root = secrets.token_hex(16), secrets.token_hex(8)
    path = "things/org.acme:4711/inbox/messages/blink?timeout=10"
    words = ("POST", path, "-H", f"traceparent: 00-{trace}-{root}-01")
    async with walk.amqp_device(DEMO_DEVICE) as device:
        device.receive_from("command")
        await device.expect("attached")
        asked = asyncio.create_task(in_thread(walk.ditto, *words, data=1))
        command = (await device.expect("message"))[2]
        device.send(
            None,
            Message(
                address=command.reply_to,
                correlation_id=command.correlation_id,
                properties={"status": 200},
            ),
            "answer",
        )
        assert (await asked).status == 200
    line = (
        "ditto POST",
        "map and delegate command",
        "process received command",
        "upload Command response",
    )

    def whole() -> dict[str, Span]:
        found = {span.name: span for span in collector.trace(trace)}
        return found if found.keys() >= set(line) else {}

    spans = await in_thread(eventually, whole, what="spans of both processes")
    above = [root, *(spans[name].span_id.hex() for name in line)]
    assert [spans[name].parent_span_id.hex() for name in line] == above[:-1]
    about = [collector.resources[spans[name].span_id] for name in line]
    whose = [resource.get("service.instance.id", "") for resource in about]
    assert whose[0] == whose[1] == ""
    assert whose[2] == whose[3] != ""


def test_a_killed_worker_comes_back_while_the_other_serves(running: Twinspan) -> None:
    first, second = workers_of(running)
    assert post(running) == 202
    os.kill(first, signal.SIGKILL)
    eventually(lambda: not is_alive(first), what="worker gone")
    assert [post(running, n) for n in range(5)] == [202] * 5
    eventually(lambda: len(workers_of(running)) == 2, what="worker back")
    back = workers_of(running)
    assert second in back
    assert first not in back
    eventually(lambda: metric(running, "twinspan_workers") == 2, what="two workers up")
    assert metric(running, "twinspan_worker_ends_total") == 1


def test_workers_end_with_the_main_process(running: Twinspan) -> None:
    pids = workers_of(running)
    assert running.stop() == 0
    assert not any(map(is_alive, pids))
    assert "Fatal" not in running.text()


def test_workers_end_when_the_main_process_is_killed(running: Twinspan) -> None:
    pids = workers_of(running)
    running.kill()
    eventually(lambda: not any(map(is_alive, pids)), what="workers gone")

    running.start()
    assert post(running) == 202
