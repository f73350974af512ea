"""Cloud and edge as two processes: joining, twins, telemetry, and what a cut of the link leaves whole."""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from edge.identity import Identity
from tests.edge_walk import (
    NAMESPACE,
    NODE,
    Edge,
    a_cloud,
    an_edge,
    history,
    join,
    level,
    new_token,
)
from tests.integration.proton_peer import Peer, Received
from tests.process import eventually, tool, twinspan
from tests.walk import Walk, curl, in_thread, try_twinspan

pytestmark = pytest.mark.e2e

DEVICES = ("meter-1", "meter-2")


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    with a_cloud(tmp_path_factory.mktemp("pair") / "cloud") as cloud:
        yield cloud


@pytest.fixture(scope="module")
def home(cloud: Walk, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data directory of a node that has joined."""
    folder = tmp_path_factory.mktemp("edge") / "edge"
    said = join(cloud, folder, new_token(cloud, "--node", NODE), "--node-name", NODE)
    assert said.startswith("0 "), said
    assert f"Node {NODE} has joined" in said
    return folder


@pytest.fixture(scope="module")
def edge(cloud: Walk, home: Path) -> Iterator[Edge]:
    with an_edge(cloud, home, "edge.traces.interval=0.2") as edge:
        yield edge


# --- joining


def test_a_joined_node_is_ready_in_kubernetes(cloud: Walk, edge: Edge) -> None:
    def row() -> list[str]:
        return cloud.kubectl("get", "node", NODE, "--no-headers").split()

    eventually(lambda: row()[:3] == [NODE, "Ready", "agent,edge"])


def test_join_refuses_tokens_and_names_that_are_not_good(
    cloud: Walk, edge: Edge, tmp_path: Path
) -> None:
    good = new_token(cloud)
    head, _, tail = good.rpartition(".")
    forged = f"{head}.{tail[:-4]}{'AAAA' if tail[-4:] != 'AAAA' else 'BBBB'}"
    short = new_token(cloud, "--ttl", "1s")
    with twinspan(tmp_path / "other", "cloud") as other:
        foreign = new_token(Walk(other))
    said = {
        "forged": join(cloud, tmp_path / "a", forged, "--node-name", "edge-7"),
        "nonsense": join(cloud, tmp_path / "b", "nonsense", "--node-name", "edge-7"),
        "foreign": join(cloud, tmp_path / "c", foreign, "--node-name", "edge-7"),
        "bound": join(cloud, tmp_path / "d", new_token(cloud, "--node", "x"), "--node-name", "y"),
        "taken": join(cloud, tmp_path / "e", good, "--node-name", NODE),
        "long": join(cloud, tmp_path / "f", good, "--node-name", "n" * 60),
        "bad": join(cloud, tmp_path / "g", good, "--node-name", "Not A Name"),
        "expired": join(cloud, tmp_path / "h", short, "--node-name", "edge-7"),
    }
    assert [name for name, text in said.items() if text.startswith("0 ")] == []
    assert "expired" in said["expired"]
    assert "Traceback" not in "".join(said.values())
    assert all(len(text.strip().splitlines()) <= 12 for text in said.values()), said
    assert list(tmp_path.glob("?/edge/*")) == []
    again = join(
        cloud, tmp_path / "i", new_token(cloud, "--node", "edge-8"), "--node-name", "edge-8"
    )
    assert again.startswith("0 "), again


def test_a_node_name_that_is_not_the_certificates_is_refused(
    cloud: Walk, edge: Edge, home: Path
) -> None:
    identity = Identity(home)
    project = identity.load().project

    url = f"https://{cloud.running.endpoints['cloudhub.wss']}/{project}/edge-2/events"
    files = ("--cert", str(identity.certificate), "--key", str(identity.key))
    upgrade = (
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
        "node_id: edge-2",
    )
    words = [word for header in upgrade for word in ("-H", header)]
    answer = curl("GET", url, "--http1.1", "--cacert", str(identity.ca), *files, *words)
    assert answer.status == 403, answer
    assert NODE in answer.body, answer
    assert edge.link_is_up()


# --- twins


def test_a_twin_update_at_the_edge_changes_the_thing_and_is_told_locally(
    cloud: Walk, edge: Edge
) -> None:
    with edge.walk.subscribed(None, "-t", "$hw/events/device/+/meter-1/#") as local:
        edge.report("meter-1", 41)
        result = json.loads(local.message("/twin/update/result").partition(" ")[2])
        assert result["event_id"] == "meter-1-41"
        document = json.loads(local.message("/twin/update/document").partition(" ")[2])
        assert document["twin"]["level"]["current"]["actual"]["value"] == "41"
        delta = json.loads(local.message("/twin/update/delta").partition(" ")[2])
        assert delta["delta"] == {"level": "0"}
    eventually(lambda: level(cloud, "meter-1") == 41)
    status = cloud.kubectl_json("get", "devicestatus", "meter-1", "-n", NAMESPACE)["status"]
    assert status["twins"][0]["reported"]["value"] == "41"


def test_a_wanted_value_reaches_the_edge_as_a_delta_and_is_settled_by_a_report(
    cloud: Walk, edge: Edge
) -> None:
    with edge.walk.subscribed(None, "-t", "$hw/events/device/+/meter-1/twin/update/#") as local:
        path = f"things/{NAMESPACE}:meter-1/features/level/desiredProperties"
        assert cloud.ditto("PUT", path, data={"value": 77}).status == 204
        eventually(lambda: '"delta":{"level":"77"}' in local.message("/delta"))
        edge.report("meter-1", 77)
        document = local.message('"event_id":"meter-1-77"')
        assert '"77"' in document
    eventually(lambda: level(cloud, "meter-1") == 77)


def test_a_local_update_that_is_not_one_is_answered_and_changes_nothing(
    cloud: Walk, edge: Edge
) -> None:
    before = level(cloud, "meter-2")
    with edge.walk.subscribed(None, "-t", "$hw/events/device/+/+/twin/update/result") as local:
        topic = f"$hw/events/device/{NAMESPACE}/meter-2/twin/update"
        edge.publish(topic, "{broken", '{"event_id": "b", "twin": 5}')
        edge.publish(f"$hw/events/device/{NAMESPACE}/nobody/twin/update", '{"twin": {}}')
        for _ in range(2):
            assert '"code"' in local.message("meter-2")
    assert level(cloud, "meter-2") == before
    assert edge.link_is_up()


# --- telemetry and events


def as_text(message: Received) -> str:
    return str(bytes(message.body), "utf-8")


async def take(app: Peer, count: int) -> list[Received]:
    """That many messages; repeated ones that say so do not count."""
    found: list[Received] = []
    while len(found) < count:
        message: Received = (await app.expect("message", 20.0))[2]
        if not message.annotations.get("x-opt-twinspan-duplicate"):
            found.append(message)
    return found


async def test_telemetry_of_the_edge_reaches_the_northbound_consumer(
    cloud: Walk, edge: Edge
) -> None:
    async with cloud.application() as app:
        for kind in ("telemetry", "event"):
            app.receive_from(f"{kind}/{NAMESPACE}")
            await app.expect("attached")
        for topic in ("telemetry//plant:meter-1", "e//plant:meter-2/?content-type=text%2Fplain"):
            await in_thread(edge.publish, topic, f"over {topic}")
            (message,) = await take(app, 1)
            assert as_text(message) == f"over {topic}"
            device = topic.split("/")[2]
            assert message.annotations["tenant_id"] == NAMESPACE
            assert message.annotations["device_id"] == device
            assert message.properties["device_id"] == device
            assert message.properties["orig_address"] == topic
            assert message.properties["edge_node"] == NODE
            assert "traceparent" in message.annotations["x-opt-trace-context"]


async def test_telemetry_for_a_tenant_or_device_that_is_not_the_nodes_is_refused(
    cloud: Walk, edge: Edge
) -> None:
    cloud.a_device("foreign", "d")
    async with cloud.application() as app:
        for tenant in ("foreign", NAMESPACE):
            app.receive_from(f"telemetry/{tenant}")
            await app.expect("attached")
        await in_thread(edge.publish, "telemetry/foreign/d", "not mine")
        await in_thread(edge.publish, "telemetry//other:device", "not mine")
        await in_thread(edge.publish, "telemetry//plant:meter-1", "mine")
        (message,) = await take(app, 1)
        assert as_text(message) == "mine"
    eventually(lambda: edge.metric("twinspan_edge_spool_messages") == 0)


# --- cuts


def by_device(messages: Sequence[Received]) -> dict[tuple[str, str], list[str]]:
    """(kind, device) -> bodies in order of arrival."""
    found: dict[tuple[str, str], list[str]] = {}
    for message in messages:
        kind = str(message.address).partition("/")[0]
        found.setdefault((kind, message.properties["device_id"]), []).append(as_text(message))
    return found


def send_everything(edge: Edge, numbers: range) -> None:
    """Report, measure and notify with each device; returns when the edge has acknowledged it."""
    for device in DEVICES:
        for number in numbers:
            edge.report(device, number)
        for kind in ("telemetry", "event"):
            edge.publish(f"{kind}//{NAMESPACE}:{device}", *map(str, numbers))


async def check_arrivals(cloud: Walk, since: dict[str, int], numbers: range) -> None:
    """Everything arrives, in order per device; every reported value once in the thing's past."""
    async with cloud.application(prefetch=100) as app:
        for kind in ("telemetry", "event"):
            app.receive_from(f"{kind}/{NAMESPACE}")
        messages = await take(app, len(numbers) * 4)
    wanted = list(map(str, numbers))
    for kind in ("telemetry", "event"):
        for device in DEVICES:
            assert by_device(messages)[kind, f"{NAMESPACE}:{device}"] == wanted
    for device in DEVICES:
        await in_thread(
            eventually, lambda device=device: level(cloud, device) == numbers[-1], seconds=30.0
        )
        past = [v for revision, v in history(cloud, device) if revision > since[device]]
        # Other writes, of the Device's state for one, are revisions too: only changes count.
        assert [value for value, _ in groupby(past)] == list(numbers), device


def revisions(cloud: Walk) -> dict[str, int]:
    return {
        device: cloud.thing(f"{NAMESPACE}:{device}", "?fields=_revision")["_revision"]
        for device in DEVICES
    }


async def test_what_the_edge_took_while_the_cloud_was_dead_arrives_in_order_and_once(
    cloud: Walk, edge: Edge
) -> None:
    since = revisions(cloud)
    cloud.running.kill()
    edge.wait_for_link(up=False)
    send_everything(edge, range(1, 11))
    edge.running.kill()
    edge.running.start()
    send_everything(edge, range(11, 16))
    edge.running.kill()
    edge.running.start()
    assert edge.metric("twinspan_edge_spool_messages") == 15 * 4
    await in_thread(cloud.running.start)
    edge.wait_for_link(up=True)
    await check_arrivals(cloud, since, range(1, 16))
    eventually(lambda: edge.metric("twinspan_edge_spool_messages") == 0)


async def test_a_cloud_killed_in_the_middle_loses_nothing_that_the_edge_took(
    cloud: Walk, edge: Edge
) -> None:
    since = revisions(cloud)
    async with cloud.application(prefetch=100) as app:
        app.receive_from(f"event/{NAMESPACE}")
        await app.expect("attached")
        await in_thread(send_everything, edge, range(100, 105))
        cloud.running.kill()
        await in_thread(send_everything, edge, range(105, 110))
        await in_thread(cloud.running.start)
        await in_thread(edge.wait_for_link, up=True)
    for device in DEVICES:
        await in_thread(eventually, lambda device=device: level(cloud, device) == 109, seconds=30.0)
        past = [v for revision, v in history(cloud, device) if revision > since[device]]
        assert [value for value, _ in groupby(past)] == list(range(100, 110)), device


# --- traces


def spans_at(cloud: Walk, trace: str) -> dict[str, Any]:
    """What `twinspan trace` at the cloud knows of a trace: name -> span."""
    done = try_twinspan("trace", trace, "-o", "json", "--data-dir", str(cloud.running.data_dir))
    found = json.loads(done.stdout)["spans"] if done.returncode == 0 else ()
    return {span["name"]: span for span in found}


def test_a_trace_goes_on_when_the_edge_is_linked_again(cloud: Walk, edge: Edge) -> None:
    trace, root = secrets.token_hex(16), secrets.token_hex(8)
    header = ("-D", "publish", "user-property", "traceparent", f"00-{trace}-{root}-01")
    cloud.running.kill()
    edge.wait_for_link(up=False)
    edge.walk.publish(None, "event//plant:meter-1", "late", "-q", "1", "-V", "mqttv5", *header)
    cloud.running.start()
    edge.wait_for_link(up=True)
    line = ("edge.eventbus publish", "edge.spool send", "cloudhub upload event")

    def whole() -> dict[str, Any]:
        found = spans_at(cloud, trace)
        return found if found.keys() >= set(line) else {}

    spans = eventually(whole)
    assert [spans[name]["parent_id"] for name in line] == [
        root,
        *(spans[name]["span_id"] for name in line[:-1]),
    ]
    assert [spans[name]["kind"] for name in line] == ["server", "producer", "server"]
    assert [spans[name]["node"] for name in line] == [NODE, NODE, ""]
    waited = spans["edge.spool send"]["attributes"]["waited_ms"]
    assert waited > 100  # the cloud was away for longer
    assert spans["edge.spool send"]["offset_ms"] >= waited - 1_000  # by the same clock


# --- a link that goes silent

OUTSIDE, INSIDE = "10.213.77.1", "10.213.77.2"


@contextmanager
def network() -> Iterator[tuple[str, str]]:
    """A network namespace joined by a veth pair; its name and the name of our end."""
    if os.geteuid() != 0:
        pytest.skip("NOT RUN: cutting a link needs root (ip netns); run the tests as root")
    ip = tool("ip")
    space, ours, theirs = (f"ts{os.getpid()}{end}" for end in "nab")

    def run_ip(*words: str) -> None:
        done = subprocess.run([ip, *words], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"NOT RUN: ip {' '.join(words)}: {done.stderr.strip()}")

    run_ip("netns", "add", space)
    try:
        run_ip("link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", space)
        run_ip("addr", "add", f"{OUTSIDE}/30", "dev", ours)
        run_ip("link", "set", ours, "up")
        for words in (
            ("addr", "add", f"{INSIDE}/30", "dev", theirs),
            ("link", "set", theirs, "up"),
            ("link", "set", "lo", "up"),
        ):
            run_ip("-n", space, *words)
        yield space, ours
    finally:
        subprocess.run([ip, "netns", "del", space], check=False, capture_output=True)
        subprocess.run([ip, "link", "del", ours], check=False, capture_output=True)


def set_link(name: str, state: str) -> None:
    subprocess.run([tool("ip"), "link", "set", name, state], check=True)


async def test_a_link_that_goes_silent_is_noticed_at_both_ends_and_heals(tmp_path: Path) -> None:
    with network() as (space, ours):
        inside = (tool("ip"), "netns", "exec", space)
        hub = tuple(f"cloud.hub.{which}.bind={OUTSIDE}:0" for which in ("wss", "https"))
        sets = (*hub, "cloud.hub.keepalive_timeout=4")
        with a_cloud(tmp_path / "cloud", *sets, words=("--advertise", OUTSIDE)) as cloud:
            token = new_token(cloud)
            said = join(cloud, tmp_path / "edge", token, "--node-name", NODE, prefix=inside)
            assert said.startswith("0 "), said
            with an_edge(cloud, tmp_path / "edge", prefix=inside) as edge:
                send_everything(edge, range(1, 3))
                eventually(lambda: [level(cloud, d) for d in DEVICES] == [2, 2])
                since = dict.fromkeys(DEVICES, 0)
                set_link(ours, "down")
                send_everything(edge, range(3, 8))
                edge.wait_for_link(up=False)
                eventually(lambda: connected_nodes(cloud) == 0, what="CloudHub's end of the link")
                send_everything(edge, range(8, 10))
                set_link(ours, "up")
                edge.wait_for_link(up=True)
                await check_arrivals(cloud, since, range(1, 10))
                assert connected_nodes(cloud) == 1


def connected_nodes(cloud: Walk) -> int:
    text = curl("GET", cloud.running.url("ops.http", "/metrics")).body
    found = re.search(r"^twinspan_cloudhub_connected_nodes (\S+)$", text, re.MULTILINE)
    assert found is not None
    return int(float(found[1]))


def test_neither_process_wrote_an_error(cloud: Walk, edge: Edge) -> None:
    for running in (cloud.running, edge.running):
        text = running.log.read_text()
        assert re.findall(r"^.* ERROR .*$|^Traceback.*$", text, re.MULTILINE) == []
