"""Metrics in a real Prometheus, the dashboard's queries against it, and one trace of a whole walk."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiocoap
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from proton import Message

from gateway.hono.adapters.coap_messages import JAEGER
from gateway.wire.coap import options
from tests.otlp_receiver import Collector, a_collector
from tests.process import eventually, tool, twinspan
from tests.prometheus_server import prometheus
from tests.walk import DEMO_DEVICE, Device, Walk, curl, in_thread, try_twinspan, twinspan_cli

pytestmark = pytest.mark.e2e

CONNECTION = "pre-authenticated:hono-connection-DEFAULT_TENANT"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with a_collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Walk]:
    sets = (
        "hono.coap.authentication_required=false",
        "observe.traces.otlp.enabled=true",
        f"observe.traces.otlp.endpoint={collector.endpoint}",
    )
    folder = tmp_path_factory.mktemp("observability")
    with twinspan(folder / "data", "up", "--demo", sets=sets) as running:
        yield Walk(running)


# --- the operations port


def test_the_operations_port_says_alive_and_ready(walk: Walk) -> None:
    for path in ("/liveness", "/readiness"):
        assert curl("GET", walk.running.url("ops.http", path)).status == 200
    plain = curl("GET", walk.running.url("ops.http", "/metrics"))
    assert plain.headers["content-type"].startswith("text/plain")
    assert curl("GET", walk.running.url("ops.http", "/prometheus")).status == 200


NAMES_OF_OTHERS = (
    "roundtrip_http_seconds label names should be written in 'snake_case' not 'camelCase'\n",
    'hono_tenants_total non-counter metrics should not have "_total" suffix\n',
    "KubeEdge_CloudHub_connected_nodes metric names should be written in 'snake_case' not 'camelCase'\n",
    'streaming_sessions_count non-histogram and non-summary metrics should not have "_count" suffix\n',
    'system_cpu_count non-histogram and non-summary metrics should not have "_count" suffix\n',
)
"""What Ditto's, Hono's and KubeEdge's dashboards ask for is spelled as they do; promtool lints it."""


def test_promtool_has_nothing_to_say_about_the_metrics(walk: Walk) -> None:
    some_traffic(walk)
    text = curl("GET", walk.running.url("ops.http", "/metrics")).body
    done = subprocess.run(
        [tool("promtool"), "check", "metrics"],
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    for line in NAMES_OF_OTHERS:
        said = said.replace(line, "")
    assert said == ""


def some_traffic(walk: Walk) -> None:
    """What moves every part once."""
    walk.upload(DEMO_DEVICE, "telemetry", {"temp": 1}, "-H", "qos-level: 1")
    walk.upload(DEMO_DEVICE, "event", {"temp": 1})
    walk.publish(DEMO_DEVICE, "telemetry", {"temp": 2}, "-q", "1")
    walk.try_publish(DEMO_DEVICE, "wrong-topic", "x", "-q", "1")
    walk.ditto("GET", "things/org.acme:4711")
    walk.ditto("POST", "things/org.acme:4711/inbox/messages/x?timeout=0", data=1)


async def test_a_latency_leads_to_a_trace_in_prometheus(walk: Walk, tmp_path: Path) -> None:
    with prometheus(walk, tmp_path, "--enable-feature=exemplar-storage") as base:
        query = "hono_telemetry_processing_duration_seconds_bucket"
        address = f"{base}/api/v1/query_exemplars?query={query}&start={time.time() - 600}&end="

        def found() -> list[Any]:
            some_traffic(walk)
            return list(curl("GET", f"{address}{time.time() + 60}").json["data"])

        (series, *_) = await in_thread(lambda: eventually(found, seconds=40))
        exemplar = series["exemplars"][0]
        assert re.fullmatch(r"[0-9a-f]{32}", exemplar["labels"]["trace_id"])
        assert float(exemplar["value"]) > 0


def test_requests_of_kubectl_are_counted_under_the_names_that_its_users_know(walk: Walk) -> None:
    walk.kubectl("get", "devices", "-n", "default")
    text = curl("GET", walk.running.url("ops.http", "/metrics")).body
    wanted = re.compile(r'apiserver_request_total{.*resource="devices".*verb="LIST".*} [1-9]')
    assert wanted.search(text)
    assert "twinspan_cloudhub_node_connected{node=" in text
    assert "twinspan_build_info{" in text


EXEMPLARS = (
    "hono_telemetry_processing_duration_seconds",
    "hono_command_processing_duration_seconds",
    "twinspan_thing_command_duration_seconds",
    "twinspan_http_request_duration_seconds",
    "roundtrip_http_seconds",
)


def scraped(walk: Walk, form: str = "application/openmetrics-text") -> str:
    return curl("GET", walk.running.url("ops.http", "/metrics"), "-H", f"Accept: {form}").body


def test_latencies_of_all_doors_name_a_trace(walk: Walk) -> None:
    some_traffic(walk)
    walk.registry("GET", f"tenants/{DEMO_DEVICE.tenant}")
    with walk.subscribed(DEMO_DEVICE, "-t", "command///req/#"):
        walk.ditto("POST", "things/org.acme:4711/inbox/messages/x?timeout=0", data=1)
    text = scraped(walk)
    for name in EXEMPLARS:
        wanted = re.compile(rf'^{name}_bucket{{.*}} [0-9.]+ # {{trace_id="[0-9a-f]{{32}}"}}', re.M)
        assert wanted.search(text), name
    assert re.search(r'^twinspan_http_request_duration.*server="hono.registry".* # {', text, re.M)


def a_flood(walk: Walk, count: int) -> subprocess.Popen[str]:
    """mosquitto_pub, which sends that many telemetry messages as fast as it can."""
    command = walk.mqtt("mosquitto_pub", DEMO_DEVICE, "-t", "telemetry", "-l", "-q", "1")
    process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)
    assert process.stdin is not None
    process.stdin.write('{"temp": 1}\n' * count)
    process.stdin.close()
    return process


def uploads(text: str) -> float:
    lines = re.findall(
        r'^hono_telemetry_processing_duration_seconds_count{.*hono-mqtt.*type="telemetry".*} (\S+)',
        text,
        re.M,
    )
    return sum(map(float, lines))


def test_scrapes_in_a_flood_are_whole_and_lose_nothing_of_it(walk: Walk) -> None:
    before = uploads(scraped(walk))
    flood = a_flood(walk, 1_000)
    with ThreadPoolExecutor(10) as pool:
        texts = [job.result() for job in [pool.submit(scraped, walk) for _ in range(10)]]
    assert flood.wait(60) == 0
    assert all(text.endswith("# EOF\n") for text in texts)
    seen = [uploads(text) - before for text in texts]
    assert all(0 <= count <= 1_000 for count in seen)
    eventually(lambda: uploads(scraped(walk)) - before == 1_000)
    plain = scraped(walk, "text/plain")
    done = subprocess.run(
        [tool("promtool"), "check", "metrics"],
        input=plain,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "error while linting" not in done.stderr
    assert done.returncode in (0, 3)  # 3: names of others, see above


def a_storm(walk: Walk, salt: str) -> None:
    """Strangers who make up names wherever one can be said."""
    name = f"storm-{salt}"
    for server in ("ditto.http", "hono.registry", "hono.http", "ops.http"):
        for method in ("GET", "PUT", f"X{salt}".upper()):
            url = walk.running.url(server, f"/{name}/{name}?{name}=1")
            curl(method, url, "-H", f"x-{name}: {name}", user=f"{name}@{name}:{name}")
    for path in (f"telemetry/{name}/{name}", f"event/{name}/{name}", name):
        url = walk.running.url("hono.http", f"/{path}?hono-ttd={len(name)}&{name}=1")
        curl("PUT", url, user=DEMO_DEVICE.curl_user, data="{}", content_type=f"x/{name}")
        walk.try_publish(DEMO_DEVICE, path, "x", "-q", "1")
    walk.try_publish(Device(name, name, name, name), "telemetry", "x", "-q", "1")
    walk.ditto("GET", f"things/org.acme:{name}/features/{name}")
    walk.ditto("POST", f"things/org.acme:4711/inbox/messages/{name}?timeout=0", data=1)
    walk.publish(None, f"telemetry//{name}", "x", "-q", "1")
    walk.kubectl("get", name, fails=True)


def series(walk: Walk) -> set[str]:
    lines = scraped(walk, "text/plain").splitlines()
    return {line.rpartition(" ")[0] for line in lines if not line.startswith("#")}


def test_names_that_strangers_make_up_make_no_series(walk: Walk) -> None:
    a_storm(walk, "one")  # what the answers themselves are counted under is there after the first
    before = series(walk)
    for number in range(3):
        a_storm(walk, f"again{number}")
    after = series(walk)
    assert not [line for line in after if "storm" in line]
    assert len(after - before) < 12, (
        "at most what an answer seen for the first time is counted under"
    )


# --- traces


@pytest.fixture(scope="module")
def lamp_speaker(walk: Walk) -> Any:
    """A device over MQTT that may speak for the thing of the virtual lamp, which lives at the edge."""
    eventually(lambda: walk.thing("default:lamp", "/features/on/properties/value") is not None)
    full = {"grant": ["READ", "WRITE"], "revoke": []}
    entry = {"subjects": {CONNECTION: {"type": "x"}}, "resources": {"thing:/": full}}
    policy = walk.thing("default:lamp", "/policyId")
    assert walk.ditto("PUT", f"policies/{policy}/entries/walk", data=entry).status in (201, 204)
    return walk.a_device(DEMO_DEVICE.tenant, "default:lamp")


def new_trace() -> tuple[str, str, str]:
    """Trace id, span id and the header that a device sends."""
    trace, span = secrets.token_hex(16), secrets.token_hex(8)
    return trace, span, f"00-{trace}-{span}-01"


def whole_trace(collector: Collector, trace: str, parts: dict[str, str]) -> dict[str, Span]:
    """Wait until a trace has a span whose name fits each part's pattern."""

    def found() -> dict[str, Span]:
        spans = collector.trace(trace)
        by_part = {
            part: next((s for s in spans if re.search(pattern, s.name)), None)
            for part, pattern in parts.items()
        }
        missing = [part for part, span in by_part.items() if span is None]
        return {} if missing else {part: s for part, s in by_part.items() if s is not None}

    def names() -> list[str]:
        return [span.name for span in collector.trace(trace)]

    try:
        return eventually(found)
    except pytest.fail.Exception:
        pytest.fail(f"the trace has only {names()}")


def check_connected(collector: Collector, trace: str, root: str) -> None:
    """Every span hangs, over its parents, on what the device sent."""
    spans = {span.span_id.hex(): span for span in collector.trace(trace)}
    for span in spans.values():
        at = span
        for _ in range(50):
            parent = at.parent_span_id.hex()
            if parent == root:
                break
            assert parent in spans, f"{at.name} hangs on nothing"
            at = spans[parent]
        else:
            pytest.fail(f"{span.name} hangs in a ring")
        assert span.end_time_unix_nano >= span.start_time_unix_nano > 0


def check_line(spans: dict[str, Span], root: str, line: dict[str, str]) -> None:
    """Each part hangs on the one before, the first on the root, and is of the kind that is named."""
    above = root
    for part, kind in line.items():
        assert spans[part].parent_span_id.hex() == above, part
        assert Span.SpanKind.Name(spans[part].kind) == f"SPAN_KIND_{kind}", part
        above = spans[part].span_id.hex()


def test_one_trace_spans_device_adapter_twin_and_edge(
    walk: Walk, collector: Collector, lamp_speaker: Any
) -> None:
    trace, root, header = new_trace()
    now = walk.thing("default:lamp", "/features/on/desiredProperties/value")
    payload = {
        "topic": "default/lamp/things/twin/commands/modify",
        "headers": {},
        "path": "/features/on/desiredProperties/value",
        "value": not now,
    }
    properties = ("-V", "mqttv5", "-D", "publish", "user-property", "traceparent", header)
    walk.publish(lamp_speaker, "telemetry", payload, "-q", "1", *properties)
    whole_trace(
        collector,
        trace,
        {
            "adapter": "^upload telemetry",
            "twin": "^things",
            "controller": "^devicecontroller reconcile",
            "cloud hub": "^cloudhub update device",
            "edge": "^edge.devicetwin update",
            "mapper": "^edge.mapper write",
            "report": "^edge.mapper report",
            "cloud": "^devicecontroller report",
        },
    )
    check_connected(collector, trace, root)


def test_a_trace_that_starts_at_an_application_goes_down_to_the_mapper(
    walk: Walk, collector: Collector
) -> None:
    trace, root, header = new_trace()
    path = "things/default:thermostat/features/target/desiredProperties"
    wanted = 20 + secrets.randbelow(9) + 0.5
    options = ("-H", f"traceparent: {header}")
    eventually(
        lambda: walk.ditto("PUT", path, *options, data={"value": wanted}).status == 204,
    )
    parts = {
        "http": "^ditto PUT",
        "twin": "^things",
        "controller": "^devicecontroller reconcile",
        "cloud hub": "^cloudhub update device",
        "mapper": "^edge.mapper write",
        "report": "^edge.mapper report",
        "back": "^devicecontroller report",
    }
    spans = whole_trace(collector, trace, parts)
    down = {"http": "SERVER", "twin": "INTERNAL", "controller": "INTERNAL", "cloud hub": "PRODUCER"}
    check_line(spans, root, {**down, "mapper": "CLIENT", "report": "INTERNAL"})
    check_connected(collector, trace, root)

    def taken() -> bool:
        """The report has changed the thing again."""
        made = [s for s in collector.trace(trace) if s.name == "things.change"]
        return spans["back"].span_id in {span.parent_span_id for span in made}

    eventually(taken)


def test_a_trace_that_starts_at_the_edge_goes_up_to_the_twin(
    walk: Walk, collector: Collector, lamp_speaker: Any
) -> None:
    trace, root, header = new_trace()
    properties = ("-V", "mqttv5", "-D", "publish", "user-property", "traceparent", header)
    walk.publish(None, "telemetry//default:lamp", {"temp": 7.25}, "-q", "1", *properties)
    whole_trace(
        collector,
        trace,
        {
            "edge broker": "^edge.eventbus",
            "edge spool": "^edge.spool",
            "cloud": "^cloudhub upload",
            "twin": "^things",
        },
    )
    assert walk.thing("default:lamp", "/features/temperature/properties/value") == 7.25
    check_connected(collector, trace, root)


async def test_telemetry_is_one_trace_from_the_device_to_the_application(
    walk: Walk, collector: Collector
) -> None:
    trace, root, header = new_trace()
    properties = ("-V", "mqttv5", "-D", "publish", "user-property", "traceparent", header)
    async with walk.application(prefetch=100) as app:
        app.receive_from(f"telemetry/{DEMO_DEVICE.tenant}")
        await app.expect("attached")
        publish = (DEMO_DEVICE, "telemetry", {"temp": 2}, "-q", "1", *properties)
        await in_thread(lambda: walk.publish(*publish))
        parts = {"adapter": "^upload telemetry", "northbound": "^forward Telemetry data"}
        spans = await in_thread(lambda: whole_trace(collector, trace, parts))
    assert spans["northbound"].parent_span_id == spans["adapter"].span_id
    check_connected(collector, trace, root)


async def test_an_amqp_device_s_upload_and_its_answer_to_a_command_belong_to_their_traces(
    walk: Walk, collector: Collector
) -> None:
    async with walk.application(prefetch=100) as app, walk.amqp_device(DEMO_DEVICE) as device:
        app.receive_from(f"event/{DEMO_DEVICE.tenant}")
        await app.expect("attached")
        trace, root, header = new_trace()
        marks = {"x-opt-trace-context": {"traceparent": header}}
        event = Message(address="event", body=b"{}", annotations=marks, durable=True)
        device.send(None, event, "up")
        parts = {"adapter": "^upload event", "northbound": "^forward Event"}
        spans = await in_thread(whole_trace, collector, trace, parts)
        check_line(spans, root, {"adapter": "SERVER", "northbound": "PRODUCER"})
        device.receive_from("command")
        await device.expect("attached")
        trace, root, header = new_trace()
        path = "things/org.acme:4711/inbox/messages/blink?timeout=10"
        words = ("POST", path, "-H", f"traceparent: {header}")
        asked = asyncio.create_task(in_thread(walk.ditto, *words, data=1))
        command = (await device.expect("message"))[2]
        answer = Message(
            address=command.reply_to,
            correlation_id=command.correlation_id,
            properties={"status": 200},
        )
        device.send(None, answer, "answer")
        assert (await asked).status == 200
    parts = {"http": "^ditto POST", "router": "^map and", "answer": "^upload Command response"}
    spans = await in_thread(whole_trace, collector, trace, parts)
    check_line(spans, root, {"http": "SERVER", "router": "CONSUMER", "answer": "SERVER"})
    told = str(command.annotations["x-opt-trace-context"]["traceparent"])
    assert told.split("-")[2] == spans["router"].span_id.hex()


async def test_a_coap_device_s_upload_belongs_to_the_trace_that_it_names(
    walk: Walk, collector: Collector
) -> None:
    trace, root, _ = new_trace()
    value = JAEGER.pack(bytes.fromhex(trace), bytes.fromhex(root), bytes(8), 1, 0)
    uri = f"coap://{walk.running.endpoints['hono.coap']}/event/{DEMO_DEVICE.tenant}/4711"
    request = aiocoap.Message(code=aiocoap.PUT, uri=uri, payload=b'{"temp": 4}', content_format=50)
    request.opt.add_option(aiocoap.optiontypes.OpaqueOption(options.TRACE_CONTEXT, value))
    context = await aiocoap.Context.create_client_context()
    try:
        assert (await context.request(request).response).code == aiocoap.CHANGED
    finally:
        await context.shutdown()
    parts = {"adapter": "^upload event", "twin": "^things"}
    spans = await in_thread(whole_trace, collector, trace, parts)
    check_line(spans, root, {"adapter": "SERVER", "twin": "INTERNAL"})


def test_a_command_and_its_answer_are_one_trace(walk: Walk, collector: Collector) -> None:
    trace, root, header = new_trace()
    path = "things/org.acme:4711/inbox/messages/blink?timeout=10"

    def ask() -> int:
        return int(walk.ditto("POST", path, "-H", f"traceparent: {header}", data=1).status)

    with (
        walk.subscribed(DEMO_DEVICE, "-t", "command///req/#") as lines,
        ThreadPoolExecutor(1) as pool,
    ):
        asked = pool.submit(ask)
        request = lines.message("command/").split()[0].split("/")[4]
        walk.publish(DEMO_DEVICE, f"command///res/{request}/200", {"ok": True}, "-q", "1")
        assert asked.result(20) == 200
    whole_trace(
        collector,
        trace,
        {
            "http": "^ditto POST",
            "router": "^map and delegate command",
            "answer": "^upload Command response",
        },
    )
    check_connected(collector, trace, root)


# --- `twinspan trace`


def test_a_walk_is_drawn_in_the_terminal(walk: Walk) -> None:
    trace, _, header = new_trace()
    path = "things/default:thermostat/features/target/desiredProperties"
    options = ("-H", f"traceparent: {header}")
    wanted = {"value": 10 + secrets.randbelow(9) + 0.5}
    assert walk.ditto("PUT", path, *options, data=wanted).status in (201, 204)
    here = ("--data-dir", str(walk.running.data_dir))

    def drawn() -> str:
        said = twinspan_cli("trace", trace[:12], *here)
        return said if "edge.mapper write" in said else ""

    lines = eventually(drawn).splitlines()
    assert lines[0].startswith(f"{trace}  20")
    (first,) = (line for line in lines if line.startswith("ditto PUT"))
    assert "url.path=/api/2/things/default:thermostat/" in first
    (second,) = (line for line in lines if line.startswith("└─ "))
    assert second.startswith("└─ things.change")
    newest = json.loads(twinspan_cli("trace", "--last", "-o", "json", *here))
    assert len(newest) == 1
    for wish in ("--thing=default:thermostat", "--device=default/thermostat", "--kind=edge"):
        listed = twinspan_cli("trace", "--last", "100", wish, "-o", "json", *here)
        assert trace in {one["trace_id"] for one in json.loads(listed)}
    assert trace in twinspan_cli("trace", "--thing=default:thermostat", *here)


def test_a_trace_that_is_not_there_is_said_with_exit_code_3(walk: Walk) -> None:
    here = ("--data-dir", str(walk.running.data_dir))
    done = try_twinspan("trace", "0" * 31 + "1", *here)
    assert done.returncode == 3
    assert "not among those kept" in done.stderr
    assert "not sampled" in done.stderr
    done = try_twinspan("trace", "--last", "--device", "nobody", *here)
    assert done.returncode == 3
    assert "traces that are kept fits" in done.stderr
