"""Push methods: what a mapper reads goes to servers that others wrote."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from google.protobuf import json_format
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from edge.mappers.pushinflux import field_value, line_head
from edge.mappers.pushing import MAX_WAITING, Pushing, Sample
from edge.mappers.pushotel import metrics_of
from gateway.errors import Rejected, Undeliverable
from gateway.model.json import JsonObject
from gateway.observe.metrics import Metrics
from gateway.runtime.module import running
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.names import Operation
from gateway.wire.cloudedge.subjects import DeviceKey
from gateway.wire.cloudedge.twins import MemberDevice
from gateway.wire.cloudedge.values import Typed
from tests.integration.edge_cloud import FakeCloud, a_cloud
from tests.integration.edge_node import LAMP_MODEL, Node, a_device, a_node, join_edge, linked
from tests.integration.edge_support import until
from tests.mqtt_peers import mosquitto, run_tool


def a_lamp(push: dict[str, Any], brightness: str | None = None) -> dict[str, Any]:
    """A virtual lamp whose `brightness` is pushed."""
    lamp = a_device(protocol="virtual", brightness=brightness)
    for prop in lamp["spec"]["properties"]:
        if prop["name"] == "brightness":
            prop["pushMethod"] = push
    return lamp


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[FakeCloud]:
    folder = tmp_path / "cloud"
    folder.mkdir()
    async with a_cloud(folder) as served:
        served.members = [MemberDevice(id="default/lamp", name="lamp")]
        yield served


@pytest.fixture
async def node(cloud: FakeCloud, tmp_path: Path) -> AsyncIterator[Node]:
    await join_edge(cloud, tmp_path / "edge")
    async with a_node(tmp_path / "edge") as served:
        await linked(served, cloud)
        await cloud.push("devicemodel", "m1", LAMP_MODEL)
        yield served


class Sink:
    """An HTTP server that keeps what it gets; the first answers have these statuses."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.port = 0

    async def take(self, request: web.Request) -> web.Response:
        self.got.append((request.path_qs, dict(request.headers), await request.read()))
        return web.Response(status=self.statuses.pop(0) if self.statuses else 204)


@asynccontextmanager
async def a_sink(*statuses: int) -> AsyncIterator[Sink]:
    sink = Sink(*statuses)
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", sink.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    sink.port = runner.addresses[0][1]
    try:
        yield sink
    finally:
        await runner.cleanup()


def pushed(node: Node, method: str, outcome: str) -> float:
    labels = {"method": method, "outcome": outcome}
    name = "twinspan_edge_mapper_pushes_total"
    return node.metrics.registry.get_sample_value(name, labels) or 0.0


async def test_a_value_is_posted_as_a_form_and_again_when_the_server_was_down(
    cloud: FakeCloud, node: Node
) -> None:
    async with a_sink(503) as sink:
        http = {"hostName": "http://127.0.0.1", "port": sink.port, "requestPath": "/a/b"}
        await cloud.push("device", "lamp", a_lamp({"http": http}))
        await until(lambda: len(sink.got) == 2)
        path, headers, body = sink.got[1]
        assert path == "/a/b"
        assert headers["Content-Type"] == "application/x-www-form-urlencoded"
        assert body.startswith(b"brightness=100&time=20")
        assert pushed(node, "http", "again") == 1
        lamp = a_lamp({"http": http}, brightness="40")
        await cloud.push("device", "lamp", lamp, Operation.UPDATE)
        await until(lambda: sink.got[-1][2].startswith(b"brightness=40&"))
        await until(lambda: pushed(node, "http", "ok") == 2)


async def test_a_value_that_the_server_refuses_is_dropped_and_counted(
    cloud: FakeCloud, node: Node
) -> None:
    async with a_sink(404) as sink:
        http = {"hostName": "127.0.0.1", "port": sink.port, "requestPath": "/"}
        await cloud.push("device", "lamp", a_lamp({"http": http}))
        await until(lambda: pushed(node, "http", "refused") == 1)
        assert len(sink.got) == 1


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_a_value_reaches_subscribers_of_another_broker(
    cloud: FakeCloud, node: Node, qos: int
) -> None:
    async with mosquitto() as address:
        mqtt = {"address": f"tcp://{address}", "topic": "plant/b", "qos": qos, "retained": True}
        await cloud.push("device", "lamp", a_lamp({"mqtt": mqtt}))
        await until(lambda: pushed(node, "mqtt", "ok") == 1)
        port = address.rpartition(":")[2]
        heard = await run_tool("mosquitto_sub", "-p", port, "-t", "plant/b", "-C", "1", "-W", "20")
        assert heard.out.startswith("time is 20")
        assert heard.out.endswith("  plant/b: 100\n")


async def test_values_go_to_influxdb_as_lines_with_the_token_of_the_environment(
    cloud: FakeCloud, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "t0")
    async with a_sink() as sink:
        client = {"url": f"http://127.0.0.1:{sink.port}", "org": "o", "bucket": "a b"}
        data = {"measurement": "hall 1", "tag": {"where": "x,y=z"}, "fieldKey": "level"}
        influx = {"influxdb2ClientConfig": client, "influxdb2DataConfig": data}
        await cloud.push("device", "lamp", a_lamp({"dbMethod": {"influxdb2": influx}}))
        await until(lambda: pushed(node, "influxdb2", "ok") == 1)
        path, headers, body = sink.got[0]
        assert path == "/api/v2/write?org=o&bucket=a+b&precision=ns"
        assert headers["Authorization"] == "Token t0"
        head, _, at = body.decode().rpartition(" ")
        assert head == r"hall\ 1,where=x\,y\=z level=100i"
        assert len(at) == 19


@pytest.mark.parametrize(
    ("value", "written"),
    [(True, "true"), (-3, "-3i"), (0.5, "0.5"), ("a", '"a"'), ('q" \\', r'"q\" \\"')],
)
def test_values_are_written_as_line_protocol_has_them(value: Typed, written: str) -> None:
    assert field_value(value) == written


@pytest.mark.parametrize(("measurement", "tags"), [("", {}), ("a\nb", {}), ("m", {"t": "v\\"})])
def test_what_no_line_can_hold_is_refused(measurement: str, tags: dict[str, str]) -> None:
    with pytest.raises(Rejected):
        line_head(measurement, tags)


async def test_values_are_gauges_that_an_otlp_receiver_reads(cloud: FakeCloud, node: Node) -> None:
    async with a_sink() as sink:
        otel = {"endpointURL": f"http://127.0.0.1:{sink.port}"}
        await cloud.push("device", "lamp", a_lamp({"otel": otel}))
        await until(lambda: pushed(node, "otel", "ok") == 1)
        path, _, body = sink.got[0]
        assert path == "/v1/metrics"
        request = json_format.Parse(body, ExportMetricsServiceRequest())
        (resource,) = request.resource_metrics
        assert {a.key: a.value.string_value for a in resource.resource.attributes} == {
            "service.name": "twinspan-edge",
            "device.id": "default/lamp",
        }
        (metric,) = resource.scope_metrics[0].metrics
        assert metric.name == "brightness"
        assert metric.gauge.data_points[0].as_int == 100


def test_texts_are_no_metrics() -> None:
    with pytest.raises(Rejected):
        metrics_of([Sample(DeviceKey("default", "d"), "label", "x", "x", 1)])


async def test_a_method_that_is_not_there_is_said_and_counted(
    cloud: FakeCloud, node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    await cloud.push("device", "lamp", a_lamp({"anomalyDetection": {"any": 1}}))
    await until(lambda: pushed(node, "anomalyDetection", "not_there") == 1)
    said = [r for r in caplog.records if r.message == "a property is not pushed"]
    assert [r.__dict__["method"] for r in said] == ["anomalyDetection"]
    assert "EdgeCore detects nothing" in said[0].__dict__["cause"]
    await until(lambda: cloud.reported("brightness") == ["100"])


@pytest.mark.parametrize(
    "push",
    [
        {"http": {}},
        {"http": {"hostName": "h", "port": 70_000}},
        {"mqtt": {"address": "h:1883", "topic": "a/#"}},
        {"mqtt": {"address": "ftp://h", "topic": "a"}},
        {"mqtt": {"address": "h:x", "topic": "a"}},
        {"mqtt": {"address": "h", "topic": "a", "qos": 3}},
    ],
)
async def test_a_method_that_cannot_work_is_said(
    cloud: FakeCloud, node: Node, push: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    await cloud.push("device", "lamp", a_lamp(push))
    await until(lambda: cloud.reported("brightness") == ["100"])
    assert "a property is not pushed" in [r.message for r in caplog.records]


class Away:
    """A destination that is never there."""

    at_once = 1

    async def push(self, _samples: object) -> None:
        raise Undeliverable

    async def close(self) -> None:
        """Nothing is open."""


class Noted(dict[str, str]):
    """Faults that were noted, by part."""

    def note(self, _key: DeviceKey, part: str, fault: str) -> None:
        self[part] = fault

    def forget(self, _key: DeviceKey, *parts: str) -> None:
        raise AssertionError(parts)


def away(_config: JsonObject) -> Away:
    return Away()


async def test_a_full_queue_loses_the_oldest_and_counts_them() -> None:
    metrics = Metrics()
    pushing = Pushing({"http": away}, metrics, Noted())
    lamp = a_lamp({"http": {}}) | {"metadata": {"namespace": "default", "name": "lamp"}}
    async with running(pushing):
        pushing.bind(DeviceView.read(lamp))
        key = DeviceKey("default", "lamp")
        pushing.offer(Sample(key, "brightness", at, str(at), at) for at in range(MAX_WAITING + 7))
        labels = {"method": "http", "outcome": "overflow"}
        lost = metrics.registry.get_sample_value("twinspan_edge_mapper_pushes_total", labels)
        assert lost == 7
        pushing.unbind(key)
        await asyncio.sleep(0)
