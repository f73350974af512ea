"""`hono.mode: remote` with the shipped program at both ends: the tour, and kill -9 under load at each."""

from __future__ import annotations

import base64
import http.client
import json
import random
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from proton import Message

from tests.integration.proton_peer import Peer, until
from tests.mqtt_peers import paho_client
from tests.ports import free_port
from tests.process import Twinspan, eventually, twinspan
from tests.walk import CONSUMER, REGISTRY_USER, curl

pytestmark = pytest.mark.e2e

TENANT = "DEFAULT_TENANT"
DEVICES = ("r0", "r1", "r2")
PROTOCOLS = pytest.mark.parametrize("protocol", ["amqp", "mqtt"])


def register(at: Twinspan, *, behind: str | None = None) -> None:
    """Make the devices: behind a gateway, or with a password of their own."""
    for device in DEVICES:
        body = {} if behind is None else {"via": [behind]}
        url = at.url("hono.registry", f"/v1/devices/{TENANT}/{device}")
        assert curl("POST", url, user=REGISTRY_USER, data=body).status == 201
        if behind is None:
            secret = {
                "type": "hashed-password",
                "auth-id": device,
                "secrets": [{"pwd-plain": "pw"}],
            }
            url = at.url("hono.registry", f"/v1/credentials/{TENANT}/{device}")
            assert curl("PUT", url, user=REGISTRY_USER, data=[secret]).status == 204


@contextmanager
def two(folder: Path, protocol: str) -> Iterator[tuple[Twinspan, Twinspan]]:
    """A remote, and one that relays to it; both come back on their ports after a kill."""
    port, secret = free_port(), folder / "secret"
    secret.write_text("gw-secret\n")
    gateway = {"tenant": TENANT, "username": f"gw@{TENANT}", "password_file": str(secret)}
    remote_sets = (f"hono.{protocol}.bind=127.0.0.1:{port}",)
    near_sets = (
        "hono.mode=remote",
        f"hono.remote.address={protocol}://127.0.0.1:{port}",
        f"hono.remote.gateways={json.dumps([gateway])}",
        "hono.remote.reconnect_cap=0.5",
        f"hono.http.bind=127.0.0.1:{free_port()}",
    )
    with (
        twinspan(folder / "remote", "gateway", "--demo", sets=remote_sets) as remote,
        twinspan(folder / "near", "gateway", "--demo", sets=near_sets) as near,
    ):
        register(remote, behind="gw-1")
        register(near)
        yield remote, near


def relay_check(near: Twinspan) -> Any:
    """What `/readiness` says of the relay."""
    checks = json.loads(curl("GET", near.url("ops.http", "/readiness")).body)["checks"]
    return next(check for check in checks if check["name"] == f"hono.remote.{TENANT}")


def doctor(near: Twinspan) -> str:
    """What `twinspan doctor` finds about the remote."""
    command = [sys.executable, "-m", "gateway.cli", "doctor", "-o", "json"]
    done = subprocess.run(
        [*command, "--data-dir", str(near.data_dir)], capture_output=True, text=True, check=False
    )  # other findings may fail: it looks at the default ports too
    findings = {found["check"]: found["finding"] for found in json.loads(done.stdout)}
    return str(findings["remote hono"])


def application(remote: Twinspan, **options: Any) -> Peer:
    return Peer(f"amqp://{CONSUMER}@{remote.endpoints['northbound.amqp']}", **options)


@PROTOCOLS
async def test_the_tour_through_a_remote_hono(protocol: str, tmp_path: Path) -> None:
    with two(tmp_path, protocol) as (remote, near):
        eventually(lambda: relay_check(near)["data"]["connected"])
        assert relay_check(near)["data"]["remote"].startswith(f"{protocol}://127.0.0.1:")
        assert "connected, 0 telemetry, 0 events wait" in doctor(near)
        async with application(remote) as peer:
            for address in ("telemetry", "event", "command_response"):
                peer.receive_from(f"{address}/{TENANT}" + "/app" * (address == "command_response"))
                await peer.expect("attached")
            answer = curl(
                "POST", near.url("hono.http", "/telemetry"), "-H", "qos-level: 1",
                user=f"r0@{TENANT}:pw", data={"t": 21},
            )  # fmt: skip
            assert answer.status == 202
            message = await next_upload(peer)
            assert (message.address, message.properties["device_id"]) == (
                f"telemetry/{TENANT}",
                "r0",
            )
            assert json.loads(message.body) == {"t": 21}
            assert message.content_type == "application/json"

            async with paho_client(
                near.endpoints["hono.mqtt"], username=f"r0@{TENANT}", password="pw"
            ) as lamp:
                assert await lamp.connack() == 0
                assert await lamp.subscribe(("command///req/#", 1)) == [1]
                peer.send(f"command/{TENANT}", a_request("on"), "c1")
                asked = await lamp.message()
                assert asked.payload == b"on"
                assert (await peer.expect("outcome"))[2] == "accepted"
                request_id = asked.topic.split("/")[4]
                lamp.client.publish(f"command///res/{request_id}/200", b"is on", 1)
                response = await next_upload(peer)
                assert response.address == f"command_response/{TENANT}/app"
                assert (response.correlation_id, response.body) == ("c1", b"is on")
                assert response.properties["status"] == 200

                one_way = Message(address=f"command/{TENANT}/r0", subject="blink", body=b"3")
                peer.send(f"command/{TENANT}", one_way, "c2")
                blink = await lamp.message()
                assert blink.topic == "command///req//blink"
                assert (await peer.expect("outcome"))[2] == "accepted"
            await until(lambda: "device disconnected" in near.text())
            peer.send(f"command/{TENANT}", a_request("off"), "c3")
            assert (await peer.expect("outcome"))[2] == "released"
        remote.kill()
        eventually(lambda: not relay_check(near)["data"]["connected"])
        assert relay_check(near)["status"] == "UP"
        assert "away" in doctor(near)


def a_request(body: str) -> Message:
    return Message(
        address=f"command/{TENANT}/r0",
        subject="light",
        reply_to=f"command_response/{TENANT}/app",
        correlation_id="c1",
        body=body.encode(),
    )


async def next_upload(peer: Peer) -> Any:
    """The next message that is no word of the remote's router."""
    while True:
        _, _, message = await peer.expect("message")
        if "ttd" not in message.properties:
            return message


# --- kill -9 ------------------------------------------------------------------------------------------


class Sender(threading.Thread):
    """A device that sends numbered events over HTTP, each once, and knows which were acknowledged."""

    def __init__(self, device: str, address: str) -> None:
        super().__init__(daemon=True)
        self.device = device
        self.acknowledged: list[int] = []
        self._address = address
        self._over = threading.Event()

    def run(self) -> None:
        login = base64.b64encode(f"{self.device}@{TENANT}:pw".encode()).decode()
        headers = {"Authorization": f"Basic {login}", "Content-Type": "text/plain"}
        with closing(http.client.HTTPConnection(self._address, timeout=10)) as link:
            self._send(link, headers)

    def _send(self, link: http.client.HTTPConnection, headers: dict[str, str]) -> None:
        number = 0
        while not self._over.is_set():
            number += 1
            try:
                link.request("POST", "/event", str(number).encode(), headers)
                answer = link.getresponse()
                answer.read()
                if answer.status == 202:
                    self.acknowledged.append(number)
            except (OSError, http.client.HTTPException):
                link.close()
                self._over.wait(0.05)

    def stop(self) -> None:
        self._over.set()
        self.join(30)
        assert not self.is_alive()


@pytest.mark.timeout(300)
@PROTOCOLS
async def test_kill_9_at_both_ends_under_load_loses_nothing_acknowledged(
    protocol: str, tmp_path: Path
) -> None:
    rng = random.Random(7)
    with two(tmp_path, protocol) as (remote, near):
        eventually(lambda: relay_check(near)["data"]["connected"])
        senders = [Sender(device, near.endpoints["hono.http"]) for device in DEVICES]
        for sender in senders:
            sender.start()
        for victim in (remote, near, near, remote):
            wanted = sum(len(s.acknowledged) for s in senders) + rng.randrange(50, 200)
            eventually(lambda wanted=wanted: sum(len(s.acknowledged) for s in senders) > wanted)  # type: ignore[misc]
            victim.kill()
            if victim is remote:
                enough = wanted + 100  # goes on while the remote is away
                eventually(lambda enough=enough: sum(len(s.acknowledged) for s in senders) > enough)  # type: ignore[misc]
            victim.start()
        for sender in senders:
            sender.stop()
        eventually(lambda: relay_check(near)["data"]["event-waiting"] == 0, seconds=60)
        received = await drain(remote, {s.device: set(s.acknowledged) for s in senders})
    for sender in senders:
        first = list(dict.fromkeys(number for number, _ in received[sender.device]))
        assert set(sender.acknowledged) <= set(first), "an acknowledged event is lost"
        assert first == sorted(first), "the order of a device's events"
        seen = set()
        for number, is_marked in received[sender.device]:
            assert is_marked or number not in seen, "a second time, and not marked"
            seen.add(number)


async def drain(remote: Twinspan, wanted: dict[str, set[int]]) -> dict[str, list[tuple[int, bool]]]:
    """All events that the remote has: device -> number, and whether it was marked."""
    received: dict[str, list[tuple[int, bool]]] = defaultdict(list)
    missing = {device: set(numbers) for device, numbers in wanted.items()}
    async with application(remote, prefetch=500) as peer:
        peer.receive_from(f"event/{TENANT}")
        while any(missing.values()):
            message = await next_upload(peer)
            device, number = message.properties["device_id"], int(message.body)
            mark = message.annotations.get("x-opt-twinspan-duplicate") is True
            received[device].append((number, mark))
            missing[device].discard(number)
    return received


@pytest.mark.parametrize(
    ("sets", "told"),
    [
        (["hono.mode=remote"], "hono.remote.address: expected amqps://host:port"),
        (["hono.mode=remote", "hono.remote.address=mqtt://h"], "hono.remote.gateways: expected"),
        (["hono.mode=far"], "hono.mode: expected embedded or remote, got 'far'"),
        (
            ["hono.mode=remote", "hono.kafka.bootstrap_servers=127.0.0.1:1"],
            "hono.mode: remote does not go with hono.kafka.bootstrap_servers",
        ),
    ],
)
def test_settings_that_make_no_remote_are_named(sets: list[str], told: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gateway.cli", "gateway", "--data-dir", str(tmp_path / "d")]
    arguments = [part for each in sets for part in ("--set", each)]
    done = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode != 0
    assert told in done.stderr
    assert "Traceback" not in done.stderr
