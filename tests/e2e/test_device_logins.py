"""The shipped program lets devices in by certificate, registers new ones, and tells of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from proton import Message, SSLDomain
from proton.utils import BlockingConnection

from tests import process
from tests.device_pki import Holder, issue

pytestmark = pytest.mark.e2e

TENANT = "acme"
NOTIFIED = "application/vnd.eclipse-hono-device-provisioning-notification"
CONNECTION = "application/vnd.eclipse-hono-dc-notification+json"


@pytest.fixture(scope="module")
def authority() -> Holder:
    return issue("CN=Acme CA,O=Acme")


@pytest.fixture(scope="module")
def device(authority: Holder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return issue("CN=d1,O=Acme", authority).save(tmp_path_factory.mktemp("pki"), "d1")


@pytest.fixture(scope="module")
def up(authority: Holder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[process.Twinspan]:
    options = ("gateway", "--demo", "--set", "hono.connection_events=events")
    with process.twinspan(tmp_path_factory.mktemp("logins") / "data", *options) as running:
        templates = {
            "auto-provisioning-enabled": True,
            "auto-provisioning-device-id-template": "{{subject-cn}}",
        }
        tenant: Any = {"trusted-ca": [authority.anchor(**templates)]}
        _post(running, f"/v1/tenants/{TENANT}", tenant)
        yield running


def _post(up: process.Twinspan, path: str, body: Any) -> None:
    process.run(
        *("curl", "-sSf", "-u", "hono-client:secret", "-H", "Content-Type: application/json"),
        *("-d", json.dumps(body), up.url("hono.registry", path)),
    )


def test_devices_come_by_certificate_over_all_adapters_and_are_told_of(
    up: process.Twinspan, device: Path
) -> None:
    ca = str(up.data_dir / "tls" / "ca.crt")
    url = f"https://{up.endpoints['hono.https']}/event"
    curl = ("curl", "-sS", "-w", "%{http_code}", "--cacert", ca, "-d", "h", url)
    assert process.run(*curl, "--cert", str(device)) == "202"
    assert process.run(*curl).endswith("401")
    process.run(
        *(process.tool("mosquitto_pub"), "--cafile", ca, "-h", "127.0.0.1"),
        *("-p", str(up.port("hono.mqtts")), "--cert", str(device), "--key", str(device)),
        *("-i", "pump-7", "-q", "1", "-t", "event", "-m", "m"),
    )
    _send_over_amqp(up, device, ca)
    found = _events(up, 8)
    kinds = [str(message.content_type) for message in found]
    assert kinds.count(NOTIFIED) == 1
    assert kinds[0] == NOTIFIED
    assert _properties(found[0])["hono_registration_status"] == "NEW"
    assert {_properties(message)["device_id"] for message in found} == {"d1"}
    said = [json.loads(_bytes(m)) for m in found if m.content_type == CONNECTION]
    assert [(event["cause"], event["source"]) for event in said] == [
        ("connected", "hono-mqtt"),
        ("disconnected", "hono-mqtt"),
        ("connected", "hono-amqp"),
        ("disconnected", "hono-amqp"),
    ]
    assert said[0]["remote-id"] == "pump-7"
    rest = [_bytes(m) for m in found if m.content_type not in (NOTIFIED, CONNECTION)]
    assert rest == [b"h", b"m", b"a"]


def _send_over_amqp(up: process.Twinspan, device: Path, ca: str) -> None:
    domain = SSLDomain(SSLDomain.MODE_CLIENT)
    domain.set_trusted_ca_db(ca)
    domain.set_peer_authentication(SSLDomain.VERIFY_PEER)
    domain.set_credentials(str(device), str(device), None)
    url = f"amqps://localhost:{up.port('hono.amqps')}"
    connection = BlockingConnection(url, ssl_domain=domain, allowed_mechs="EXTERNAL")
    try:
        connection.create_sender(None).send(Message(address="event", body=b"a"))
    finally:
        connection.close()


def _events(up: process.Twinspan, count: int) -> list[Message]:
    connection = BlockingConnection(
        f"amqp://{up.endpoints['northbound.amqp']}",
        user="consumer@HONO",
        password="verysecret",
        allowed_mechs="PLAIN",
        allow_insecure_mechs=True,
    )
    try:
        receiver = connection.create_receiver(f"event/{TENANT}", credit=20)
        found = []
        for _ in range(count):
            found.append(receiver.receive(timeout=30))
            receiver.accept()
        return found
    finally:
        connection.close()


def _bytes(message: Message) -> bytes:
    body: Any = message.body
    return bytes(body)


def _properties(message: Message) -> Any:
    return message.properties
