"""What strangers send by mistake or on purpose: a clear answer each time, and the rest goes on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import ssl
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from proton import Message

from gateway.wire.amqp import performatives
from tests.integration.proton_peer import Peer
from tests.process import Twinspan, eventually, tool, twinspan
from tests.walk import (
    DEMO_DEVICE,
    DITTO_USER,
    Answer,
    Device,
    Walk,
    curl,
    in_thread,
    lines_of,
    try_twinspan,
)

pytestmark = pytest.mark.e2e

SHORT = (
    "hono.mqtt.connect_timeout=1",
    "hono.http.request_timeout=1",
    "hono.http.idle_timeout=2",
    "hono.amqp.idle_timeout=2",
    "hono.northbound.idle_timeout=2",
    "edge.mqtt.connect_timeout=1",
    *(
        f"hono.{adapter}.{setting}"
        for adapter in ("lora", "sigfox")
        for setting in (
            "enabled=true",
            "bind=127.0.0.1:0",
            "tls_bind=127.0.0.1:0",
            "request_timeout=1",
            "idle_timeout=2",
        )
    ),
)
PATIENCE = 45.0
"""Seconds within which every listener lets go of a peer that says nothing useful."""
PACE_SECONDS = 0.2
TENANT = "strict"


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    folder = tmp_path_factory.mktemp("bad")
    with twinspan(folder / "data", "up", "--demo", sets=SHORT) as running:
        yield Walk(running)


@pytest.fixture(scope="module")
def device(walk: Walk) -> Device:
    return walk.a_device(TENANT, "d")


def still_works(walk: Walk) -> None:
    """The main way is open."""
    assert walk.upload(DEMO_DEVICE, "telemetry", {"temp": 5}, "-H", "qos-level: 1").status == 202
    walk.publish(DEMO_DEVICE, "telemetry", {"temp": 6}, "-q", "1")
    assert walk.thing("org.acme:4711", "/features/temperature/properties/value") == 6
    assert "lamp" in walk.kubectl("get", "devices")


# --- who is refused


async def amqp_error(walk: Walk, device: Device) -> str:
    """Why a device does not get in over AMQP."""
    async with walk.amqp_device(device) as peer:
        entry = await peer.expect("failed", 10.0)
        return str(entry[1])


@pytest.mark.parametrize("who", ["wrong password", "unknown tenant", "unknown device"])
async def test_a_stranger_gets_in_by_no_door(walk: Walk, device: Device, who: str) -> None:
    stranger = {
        "wrong password": replace(device, password="not-it"),
        "unknown tenant": replace(device, tenant="nowhere"),
        "unknown device": replace(device, login="nobody"),
    }[who]
    answer = await in_thread(walk.upload, stranger, "telemetry", {})
    assert (answer.status, set(answer.json)) == (401, {"error"})
    said = await in_thread(walk.try_publish, stranger, "telemetry", "x")
    assert re.search("not authorised|bad user name or password", said), said
    assert await amqp_error(walk, stranger) == "amqp:unauthorized-access"


@pytest.mark.parametrize("what", ["tenant", "device", "adapter"])
async def test_what_is_disabled_stays_outside_until_it_is_enabled(walk: Walk, what: str) -> None:
    tenant = f"disabled-{what}"
    device = walk.a_device(tenant, "d")
    path, body = {
        "tenant": (f"tenants/{tenant}", {"enabled": False}),
        "device": (f"devices/{tenant}/d", {"enabled": False}),
        "adapter": (
            f"tenants/{tenant}",
            {
                "adapters": [
                    {"type": f"hono-{a}", "enabled": False} for a in ("http", "mqtt", "amqp")
                ]
            },
        ),
    }[what]
    assert (await in_thread(walk.upload, device, "event", {})).status == 202
    assert walk.registry("PUT", path, data=body).status == 204
    answer = await in_thread(walk.upload, device, "event", {})
    assert answer.status in (401, 403, 404), answer
    assert set(answer.json) == {"error"}
    assert await in_thread(walk.try_publish, device, "event", "x", "-q", "1") != ""
    assert walk.registry("PUT", path, data={}).status == 204
    assert (await in_thread(walk.upload, device, "event", {})).status == 202


async def test_an_application_with_a_wrong_password_stays_outside(walk: Walk) -> None:
    address = walk.running.endpoints["northbound.amqp"]
    async with Peer(f"amqp://consumer%40HONO:wrong@{address}") as peer:
        assert (await peer.expect("failed", 10.0))[1] == "amqp:unauthorized-access"


# --- what is refused


def test_bad_uploads_over_http_are_told_what_is_wrong(walk: Walk, device: Device) -> None:
    url = walk.running.url("hono.http")
    user = {"user": device.curl_user}
    answers: list[tuple[int, Answer]] = [
        (413, walk.upload(device, "event", "x" * 3_000)),
        (400, curl("POST", f"{url}/event", **user)),
        (404, walk.upload(device, "no-such-endpoint", "x")),
        (405, curl("DELETE", f"{url}/event", **user)),
        (400, walk.upload(device, "telemetry", "x", "-H", "qos-level: 7")),
        (400, walk.upload(device, "event", "x", "-H", "qos-level: 0")),
        (403, curl("PUT", f"{url}/event/{TENANT}x/d", data="x", **user)),
        (404, curl("PUT", f"{url}/event/{TENANT}/other", data="x", **user)),
        (414, curl("GET", f"{url}/{'x' * 70_000}", **user)),
    ]
    got = [answer.status for _, answer in answers]
    allowed = {414: (400, 414, 431), 403: (403, 404), 404: (403, 404)}
    for (status, answer), found in zip(answers, got, strict=True):
        assert found in allowed.get(status, (status,)), answer
    assert walk.upload(device, "event", "fine").status == 202


def test_a_broken_ditto_envelope_changes_nothing_and_stands_in_the_connections_log(
    walk: Walk,
) -> None:
    before = walk.thing("org.acme:4711", "?fields=_revision")
    broken: tuple[Any, ...] = (
        '{"topic": "org.acme/4711/things/twin/commands/modify", "path": ',
        {"topic": "nonsense", "path": "/", "value": 1},
        {"topic": "org.acme/4711/things/twin/commands/modify", "path": "no-slash", "value": 1},
        {
            "topic": "org.acme/4711/things/twin/commands/modify",
            "path": "/features/\x01",
            "value": 1,
        },
        {"topic": 5},
        [[[[[]]]]],
        "[" * 1_000,
    )
    for payload in broken:
        sent = walk.upload(
            DEMO_DEVICE,
            "telemetry",
            payload,
            "-H",
            "qos-level: 1",
            content_type="application/vnd.eclipse.ditto+json",
        )
        assert sent.status == 202, (payload, sent)
    assert walk.thing("org.acme:4711", "?fields=_revision") == before
    still_works(walk)


async def test_messages_over_the_limit_over_mqtt_and_amqp_end_where_they_came_from(
    walk: Walk, device: Device
) -> None:
    assert await in_thread(walk.try_publish, device, "event", "x" * 3_000, "-q", "1") != ""
    async with walk.amqp_device(device) as peer:
        message = Message(body=b"x" * 3_000, address="event")
        peer.send(None, message, tag="big")
        kind = (await peer.expect("detached", 10.0))[2]
        assert kind in ("amqp:link:message-size-exceeded", "amqp:precondition-failed")
    assert await in_thread(walk.try_publish, device, "event", "small", "-q", "1") == ""


# --- bytes


def address_of(walk: Walk, name: str) -> tuple[str, int]:
    host, _, port = walk.running.endpoints[name].rpartition(":")
    return host, int(port)


async def closed(reader: asyncio.StreamReader) -> None:
    """Wait until the other side lets go; a reset counts."""
    with contextlib.suppress(ConnectionError):
        while await reader.read(65_536):
            pass


async def refused_at_once(walk: Walk, name: str, data: bytes) -> None:
    """The bytes end the connection."""
    reader, writer = await asyncio.open_connection(*address_of(walk, name))
    try:
        with contextlib.suppress(ConnectionError):
            writer.write(data)
            await writer.drain()
        async with asyncio.timeout(PATIENCE):
            await closed(reader)
    finally:
        writer.close()


TWO_MB = b"\x80\x80\x80\x01"
"""MQTT's remaining length 2,097,152."""
CONNECT = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00"
AMQP = b"AMQP\x00\x01\x00\x00"
SASL = b"AMQP\x03\x01\x00\x00"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("hono.mqtt", b"\x30" + TWO_MB + b"\xff\xff" + b"t" * 2_100_000),
        ("hono.mqtt", b"\x10" + TWO_MB + b"\x00\x04MQTT" + b"t" * 2_100_000),
        ("hono.mqtt", b"GET / HTTP/1.1\r\n\r\n"),
        ("hono.mqtt", b"\x10\xff\xff\xff\xff\xff"),
        ("edge.mqtt", CONNECT + b"\x30" + TWO_MB + b"\xff\xff" + b"t" * 2_100_000),
        ("edge.mqtt", b"\x00" * 100),
        ("hono.amqp", SASL + b"\xff\xff\xff\xff\x02\x01\x00\x00"),
        ("hono.amqp", AMQP + b"\x7f\xff\xff\xff\x02\x00\x00\x00" + b"x" * 100_000),
        ("hono.amqp", b"GET / HTTP/1.1\r\n\r\n"),
        ("northbound.amqp", SASL + b"\x00\x10\x00\x00\x02\x01\x00\x00" + b"x" * 1_000_000),
        ("northbound.amqp", SASL + b"\x00\x00\x00\x03\x02\x01\x00\x00"),
        ("hono.http", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 10),
        ("hono.http", b"GET / HTTP/1.1\r\nX: " + b"x" * 1_000_000),
        ("ditto.http", b"GET / HTTP/1.1\r\nX: " + b"x" * 1_000_000),
        ("hono.registry", b"POST / HTTP/1.1\r\nContent-Length: nan\r\n\r\n"),
        ("ops.http", b"\x00" * 1_000),
        ("kube.https", b"GET / HTTP/1.1\r\n\r\n" * 100),
        ("cloudhub.wss", b"\xff" * 1_000),
        ("cloudhub.https", b"\x16\x03\x01\xff\xff" + b"\x00" * 100_000),
    ],
    ids=lambda value: value if isinstance(value, str) else value[:12].hex(),
)
async def test_bytes_that_no_client_sends_end_their_connection_alone(
    walk: Walk, name: str, data: bytes
) -> None:
    await refused_at_once(walk, name, data)
    assert curl("GET", walk.running.url("ops.http", "/readiness")).status == 200


HELLO = b"\x16\x03\x01"
HALF: dict[str, bytes] = {
    "hono.mqtt": CONNECT[:7],
    "hono.mqtts": HELLO,
    "edge.mqtt": CONNECT[:7],
    "hono.amqp": SASL[:5],
    "hono.amqps": HELLO,
    "northbound.amqp": SASL,
    "northbound.amqps": HELLO,
    "kube.https": HELLO,
    "cloudhub.wss": HELLO,
    "cloudhub.https": HELLO,
    "hono.https": HELLO,
    "hono.registrys": HELLO,
    "hono.loras": HELLO,
    "hono.sigfoxs": HELLO,
}
HALF_INSIDE: dict[str, bytes] = {
    "hono.mqtts": CONNECT[:7],
    "hono.amqps": SASL[:5],
    "northbound.amqps": SASL,
}
"""What is half said once TLS stands; where it is not this, it is a request."""
LOGINS = {
    "hono.amqp": b"sensor1@DEFAULT_TENANT\0hono-secret",
    "northbound.amqp": b"consumer@HONO\0verysecret",
}
DATAGRAMS = ("hono.coap", "hono.coaps")
"""They hold no connection that a slow peer could keep; `test_coap*` are for them."""
HALF_REQUEST = b"POST /x HTTP/1.1\r\nHost: x\r\n"


async def say_nothing(_writer: asyncio.StreamWriter, _half: bytes) -> None:
    await asyncio.Event().wait()


async def say_half(writer: asyncio.StreamWriter, half: bytes) -> None:
    writer.write(half)
    await asyncio.Event().wait()


async def byte_by_byte(writer: asyncio.StreamWriter) -> None:
    """Never silent for long enough to be idle, never done."""
    while True:
        await asyncio.sleep(PACE_SECONDS)
        writer.write(b"x")


async def drip(writer: asyncio.StreamWriter, half: bytes) -> None:
    """Slow-loris: always one more byte, never a whole request."""
    writer.write(half)
    await byte_by_byte(writer)


async def drip_login(writer: asyncio.StreamWriter, half: bytes) -> None:
    """The frame that logs in, announced as a long one, and never whole."""
    del half
    writer.write(SASL + b"\x00\x00\x10\x00\x02\x01\x00\x00")
    await byte_by_byte(writer)


async def log_in_only(writer: asyncio.StreamWriter, half: bytes) -> None:
    """SASL to its good end, `half` being the login, and then no open."""
    init = performatives.SASL.write(performatives.SaslInit("PLAIN", b"\0" + half))
    writer.write(SASL + (len(init) + 8).to_bytes(4, "big") + b"\x02\x01\x00\x00" + init + AMQP)
    await asyncio.Event().wait()


async def drip_body(writer: asyncio.StreamWriter, half: bytes) -> None:
    """A request whose head is whole and whose body never is."""
    del half
    writer.write(b"POST /v1/tenants/x HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n")
    writer.write(b"Content-Type: application/json\r\n\r\n")
    await byte_by_byte(writer)


async def hang_on(walk: Walk, name: str, talk: Callable[..., Awaitable[None]], tls: bool) -> str:
    """Talk until the other side lets go; its name when it does not."""
    context = None
    if tls:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    reader, writer = await asyncio.open_connection(*address_of(walk, name), ssl=context)
    half = HALF_INSIDE.get(name, HALF_REQUEST) if tls else HALF.get(name, HALF_REQUEST)
    if talk is log_in_only:
        half = LOGINS[name.removesuffix("s")]
    talking = asyncio.ensure_future(talk(writer, half))
    try:
        async with asyncio.timeout(PATIENCE):
            await closed(reader)
    except TimeoutError:
        return f"{name} {talk.__name__}{' over TLS' if tls else ''}"
    finally:
        talking.cancel()
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await talking
        writer.close()
    return ""


async def test_no_listener_waits_for_ever_for_a_slow_peer_and_others_go_on(walk: Walk) -> None:
    names = [name for name in walk.running.endpoints if name not in DATAGRAMS]
    assert {*HALF, *HALF_INSIDE} <= set(names)
    plain_http = [n for n in names if n not in HALF]
    secret = [n for n in names if HALF.get(n) == HELLO]
    secret_http = [n for n in secret if n not in HALF_INSIDE]
    amqp = [(n, tls) for n in LOGINS for tls in (False, True)]
    talks: list[tuple[str, Callable[..., Awaitable[None]], bool]] = [
        *((name, talk, False) for name in names for talk in (say_nothing, say_half, drip)),
        *((name, drip_body, False) for name in plain_http),
        *((name, talk, True) for name in secret for talk in (say_nothing, say_half, drip)),
        *((name, drip_body, True) for name in secret_http),
        *(
            (f"{name}s" if tls else name, talk, tls)
            for name, tls in amqp
            for talk in (drip_login, log_in_only)
        ),
    ]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(hang_on(walk, *talk)) for talk in talks]
        await in_thread(still_works, walk)
    assert [stuck for task in tasks if (stuck := task.result())] == []
    still_works(walk)


# --- ports and directories that are taken


def test_a_taken_port_is_named_in_one_line(walk: Walk, tmp_path: Path) -> None:
    taken = walk.running.endpoints["hono.mqtt"]
    said = Twinspan(tmp_path / "data", ("gateway", "--demo"), (f"hono.mqtt.bind={taken}",))
    with pytest.raises(pytest.fail.Exception, match="ended with 1"):
        said.start()
    lines = [line for line in said.log.read_text().splitlines() if " INFO " not in line]
    assert len(lines) <= 2, lines
    assert taken.rpartition(":")[2] in lines[0]
    assert "hono.mqtt.bind" in "".join(lines)
    assert "Traceback" not in said.log.read_text()


def test_a_second_copy_on_a_data_directory_is_refused(walk: Walk) -> None:
    running = walk.running
    done = try_twinspan("up", "--demo", "--data-dir", str(running.data_dir))
    assert done.returncode == 1
    assert str(running.pid) in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2
    assert (running.data_dir / "endpoints.json").exists()
    still_works(walk)


# --- a full disk


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of its own with little room."""
    if os.geteuid() != 0:
        pytest.skip("NOT RUN: a full disk needs a tmpfs, and that root; run the tests as root")
    folder.mkdir()
    made = subprocess.run(
        [tool("mount"), "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode != 0:
        pytest.skip(f"NOT RUN: no tmpfs: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run([tool("umount"), "-l", str(folder)], check=False)


def fill(ballast: Path) -> None:
    """Take all room that there is."""
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(65_536))


@pytest.mark.parametrize("floor", [0, 16_777_216])
async def test_a_full_disk_is_told_to_everyone_and_loses_nothing_acknowledged(
    tmp_path: Path, floor: int
) -> None:
    sets = (f"min_free_bytes={floor}",)
    with small_disk(tmp_path / "disk") as disk:
        data_dir, ballast = disk / "data", disk / "ballast"
        with twinspan(data_dir, "gateway", "--demo", sets=sets) as running:
            walk = Walk(running)
            device = walk.a_device("full", "d")
            kept: list[str] = []

            def send_event(number: int) -> int:
                text = f"{number} {'x' * 1_500}"
                status = walk.upload(device, "event", text, content_type="text/plain").status
                if status == 202:
                    kept.append(text)
                return status

            assert [send_event(n) for n in range(5)] == [202] * 5
            fill(ballast)
            numbers = iter(range(10, 10_000))
            eventually(lambda: send_event(next(numbers)) == 503, what="an event is refused")
            refused = eventually(
                lambda: write_thing(walk) == 503 or None, what="a thing is refused"
            )
            assert refused
            assert walk.registry("POST", "devices/full/more").status == 503
            sent = walk.upload(DEMO_DEVICE, "telemetry", {"temp": 1}, "-H", "qos-level: 1")
            assert sent.status == 503, "the twin cannot be changed, so nobody took it"
            assert walk.ditto("GET", "things/org.acme:4711").status == 200
            assert curl("GET", running.url("ops.http", "/liveness")).status == 200
            ballast.unlink()
            eventually(lambda: send_event(next(numbers)) == 202, what="events after the flood")
            eventually(lambda: write_thing(walk) in (201, 204), what="things after the flood")
            running.kill()
            await in_thread(running.start)
            async with walk.application(prefetch=100) as app:
                app.receive_from("event/full")
                got = [bytes((await app.expect("message", 10.0))[2].body).decode() for _ in kept]
            assert got == kept
            assert "Traceback" not in running.log.read_text()


counter = iter(range(1_000_000))


def write_thing(walk: Walk) -> int:
    number = next(counter)
    return walk.ditto(
        "PUT", "things/org.acme:4711/attributes/flood", data=f'"{number} {"y" * 2_000}"'
    ).status


# --- the end


async def test_sigterm_ends_all_in_good_order_though_clients_hold_on(tmp_path: Path) -> None:
    with twinspan(tmp_path / "data", "up", "--demo") as running:
        walk = Walk(running)
        stream = running.url("ditto.http", "/api/2/things")
        follow = (tool("curl"), "-sN", "-u", DITTO_USER, "-H", "Accept: text/event-stream", stream)
        with (
            lines_of(*follow),
            walk.subscribed(DEMO_DEVICE, "-t", "command///req/#"),
            walk.subscribed(None, "-t", "#"),
        ):
            async with walk.application() as app:
                app.receive_from("telemetry/DEFAULT_TENANT")
                await app.expect("attached")
                assert await in_thread(running.stop) == 0
        assert not (running.data_dir / "endpoints.json").exists()
        text = running.log.read_text()
        assert re.findall(r"^.* (?:ERROR|CRITICAL) .*$|^Traceback.*$", text, re.MULTILINE) == []


def test_the_process_that_took_all_this_wrote_no_traceback(walk: Walk) -> None:
    text = walk.running.log.read_text()
    assert re.findall(r"^.* ERROR .*$|^Traceback.*$", text, re.MULTILINE) == []
