"""Devices that log in with certificates: curl, mosquitto_pub, paho, proton, openssl; TLS 1.2 and 1.3."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt import client as paho
from proton import Message, SSLDomain

from gateway.config.hono import AmqpAdapter as AmqpSettings
from gateway.config.hono import MqttAdapter as MqttSettings
from gateway.hono.adapters.amqp import AmqpAdapter
from gateway.hono.adapters.amqp_device import Rooms as AmqpRooms
from gateway.hono.adapters.mqtt import MqttAdapter
from gateway.hono.adapters.mqtt_device import Rooms as MqttRooms
from gateway.runtime.device_tls import device_context
from gateway.runtime.module import running
from tests.device_pki import Holder, a_server, client_context, issue
from tests.hono_rig import FREE, Core, a_core, an_http_adapter, curl, until
from tests.integration.proton_peer import Peer
from tests.mqtt_peers import paho_client, run_tool

V311, V50 = int(paho.MQTTv311), int(paho.MQTTv5)
TLS_VERSIONS = pytest.mark.parametrize(
    "tls", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["tls1.2", "tls1.3"]
)


@dataclass
class Site:
    """Tenant `acme` that trusts `authority`, device d1 with a certificate, and where adapters listen."""

    core: Core
    folder: Path
    authority: Holder
    device: Path

    def at(self, name: str) -> str:
        return self.core.endpoints.get(name)

    def stranger(self, **more: Any) -> Path:
        """A certificate that no tenant trusts, though it names a trusted issuer."""
        fake = issue(self.authority.subject)
        return issue("CN=d1,O=Acme", fake, **more).save(self.folder, "stranger")


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    authority = issue("CN=Acme CA,O=Acme")
    device = issue("CN=d1,O=Acme", authority).save(tmp_path, "d1")
    server = a_server(tmp_path)
    async with contextlib.AsyncExitStack() as stack:
        core = await stack.enter_async_context(a_core())
        await core.tenant("acme", {"trusted-ca": [authority.anchor()]})
        await core.device("acme", "d1", auth_id="sensor1")
        await _add_certificate(core, "d1", "CN=d1,O=Acme")
        context = device_context(server, server, "test")
        await stack.enter_async_context(an_http_adapter(core, context))
        doors: dict[str, Any] = {
            "ingress": core.ingress,
            "commands": core.commands,
            "authenticator": core.authenticator,
            "admission": core.connections,
            "assertions": core.registry,
        }
        mqtt = MqttSettings(bind=FREE, tls_bind=FREE)
        amqp = AmqpSettings(bind=FREE, tls_bind=FREE)
        ends, metrics = core.endpoints, core.metrics
        for adapter in (
            MqttAdapter(mqtt, ends, metrics, MqttRooms(**doors), tls_context=context),
            AmqpAdapter(amqp, ends, metrics, AmqpRooms(**doors), tls_context=context),
        ):
            await stack.enter_async_context(running(adapter))
        yield Site(core, tmp_path, authority, device)


async def _add_certificate(core: Core, device: str, subject: str) -> None:
    stored, version = await core.registry.read_credentials("acme", device)
    added: Any = {"type": "x509-cert", "auth-id": subject, "secrets": [{}]}
    await core.registry.update_credentials("acme", device, [*stored, added], version)


async def post(site: Site, *args: str, path: str = "/telemetry") -> int:
    """POST with curl over TLS."""
    status, _ = await curl("-k", "-d", "x", *args, f"https://{site.at('hono.https')}{path}")
    return status


# --- HTTP ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", ["--tlsv1.2", "--tlsv1.3"])
async def test_curl_logs_in_with_a_certificate(site: Site, tls: str) -> None:
    limit = ("--tls-max", tls[-3:])
    assert await post(site, tls, *limit, "--cert", str(site.device)) == 202
    (message,) = site.core.consumer.uploads
    assert (message.tenant, message.device) == ("acme", "d1")


async def test_an_untrusted_certificate_is_401_not_a_broken_handshake(site: Site) -> None:
    assert await post(site, "--cert", str(site.stranger())) == 401
    assert site.core.consumer.uploads == []


async def test_a_password_counts_where_the_certificate_is_untrusted(site: Site) -> None:
    assert await post(site, "--cert", str(site.stranger()), "-u", "sensor1@acme:pw") == 202
    assert await post(site, "--cert", str(site.stranger()), "-u", "sensor1@acme:no") == 401


async def test_a_certificate_is_not_demanded(site: Site) -> None:
    assert await post(site, "-u", "sensor1@acme:pw") == 202
    assert await post(site) == 401


async def test_a_trusted_certificate_decides_before_a_wrong_password(site: Site) -> None:
    assert await post(site, "--cert", str(site.device), "-u", "sensor1@acme:no") == 202


async def test_a_trusted_certificate_without_credentials_is_401(site: Site) -> None:
    unknown = issue("CN=d9,O=Acme", site.authority).save(site.folder, "d9")
    assert await post(site, "--cert", str(unknown)) == 401
    assert await post(site, "--cert", str(unknown), "-u", "sensor1@acme:pw") == 401


async def test_a_change_of_the_tenant_counts_with_the_next_request(site: Site) -> None:
    cert = ("--cert", str(site.device))
    assert await post(site, *cert) == 202
    await site.core.registry.update_tenant("acme", {"trusted-ca": []}, None)
    assert await post(site, *cert) == 401
    await site.core.registry.update_tenant("acme", {"trusted-ca": [site.authority.anchor()]}, None)
    assert await post(site, *cert) == 202
    await site.core.registry.update_credentials("acme", "d1", [], None)
    assert await post(site, *cert) == 401


async def test_tenants_that_share_an_authority_are_told_apart_by_the_host_asked_for(
    site: Site,
) -> None:
    trusted: Any = {"trust-anchor-group": "fleet", "trusted-ca": [site.authority.anchor()]}
    await site.core.registry.update_tenant("acme", trusted, None)
    await site.core.tenant("other", {**trusted, "alias": "second"})
    await site.core.device("other", "e1")
    await site.core.registry.update_credentials(
        "other", "e1", [{"type": "x509-cert", "auth-id": "CN=d1,O=Acme", "secrets": [{}]}], None
    )
    port = site.at("hono.https").rpartition(":")[2]

    async def to(host: str) -> int:
        status, _ = await curl(
            *("-k", "-d", "x", "--cert", str(site.device)),
            *("--resolve", f"{host}:{port}:127.0.0.1"),
            f"https://{host}:{port}/telemetry",
        )
        return status

    assert [await to("acme.hono.test"), await to("second.hono.test")] == [202, 202]
    assert [(m.tenant, m.device) for m in site.core.consumer.uploads] == [
        ("acme", "d1"),
        ("other", "e1"),
    ]
    assert await to("acme") == 401  # a host of one label names no tenant
    assert await to("unknown.hono.test") == 401
    assert await post(site, "--cert", str(site.device)) == 401


# --- MQTT ---------------------------------------------------------------------------------------------


def tls_paho(site: Site, device: Path | None, version: int, **more: Any) -> Any:
    context = client_context(device, more.pop("tls", None))
    return paho_client(site.at("hono.mqtts"), version, tls_context=context, **more)


@TLS_VERSIONS
@pytest.mark.parametrize("version", [V311, V50])
async def test_paho_logs_in_with_a_certificate(
    site: Site, version: int, tls: ssl.TLSVersion
) -> None:
    async with tls_paho(site, site.device, version, tls=tls) as device:
        assert await device.connack() == 0
        device.client.publish("telemetry", b"x", 1)
        await device.ack()
    (message,) = site.core.consumer.uploads
    assert (message.tenant, message.device, message.adapter) == ("acme", "d1", "hono-mqtt")


@pytest.mark.parametrize("version", ["mqttv311", "mqttv5"])
async def test_mosquitto_pub_logs_in_with_a_certificate(site: Site, version: str) -> None:
    port = site.at("hono.mqtts").rpartition(":")[2]
    arguments = ["-V", version, "-h", "127.0.0.1", "-p", port, "-t", "t", "-m", "x", "-q", "1"]
    arguments += ["--cafile", str(site.folder / "server.pem"), "--insecure"]
    cert = ["--cert", str(site.device), "--key", str(site.device)]
    assert (await run_tool("mosquitto_pub", *arguments, *cert)).code == 0
    assert len(site.core.consumer.uploads) == 1
    stranger = str(site.stranger())
    refused = await run_tool("mosquitto_pub", *arguments, "--cert", stranger, "--key", stranger)
    assert refused.code != 0
    assert "error" in refused.err.lower() or "refused" in refused.err.lower()
    assert len(site.core.consumer.uploads) == 1


@pytest.mark.parametrize(("version", "code"), [(V311, 134), (V50, 134)])
async def test_an_untrusted_certificate_is_refused_in_connack(
    site: Site, version: int, code: int
) -> None:
    async with tls_paho(site, site.stranger(), version) as device:
        assert await device.connack() == code
    async with tls_paho(
        site, site.stranger(), version, username="sensor1@acme", password="pw"
    ) as device:
        assert await device.connack() == 0


async def test_a_certificate_of_a_disabled_tenant_is_not_authorized(site: Site) -> None:
    await site.core.registry.update_tenant(
        "acme", {"enabled": False, "trusted-ca": [site.authority.anchor()]}, None
    )
    async with tls_paho(site, site.device, V311) as device:
        assert await device.connack() == 135


async def test_a_device_that_is_deleted_is_disconnected(site: Site) -> None:
    async with tls_paho(site, site.device, V311) as device:
        assert await device.connack() == 0
        await site.core.registry.delete_device("acme", "d1", None)
        await device.disconnected()


# --- AMQP ---------------------------------------------------------------------------------------------


def external(device: Path) -> SSLDomain:
    domain = SSLDomain(SSLDomain.MODE_CLIENT)
    domain.set_credentials(str(device), str(device), None)
    domain.set_peer_authentication(SSLDomain.ANONYMOUS_PEER)
    return domain


def amqp(site: Site, device: Path, **more: Any) -> Peer:
    url = f"amqps://{site.at('hono.amqps')}"
    return Peer(url, ssl_domain=external(device), **more)


async def test_proton_logs_in_with_sasl_external(site: Site) -> None:
    async with amqp(site, site.device, mechs="EXTERNAL") as peer:
        await peer.expect("opened")
        peer.send(None, Message(address="telemetry", body=b"x"), "1")
        assert (await peer.expect("outcome"))[2] == "accepted"
    (message,) = site.core.consumer.uploads
    assert (message.device, message.adapter) == ("d1", "hono-amqp")


async def test_sasl_external_with_an_untrusted_certificate_fails(site: Site) -> None:
    async with amqp(site, site.stranger(), mechs="EXTERNAL") as peer:
        assert (await peer.expect("failed"))[1] == "amqp:unauthorized-access"


async def test_external_is_offered_only_to_who_has_a_certificate(site: Site) -> None:
    host, _, port = site.at("hono.amqps").rpartition(":")
    for device, offered in ((site.device, True), (None, False)):
        reader, writer = await asyncio.open_connection(host, int(port), ssl=client_context(device))
        writer.write(b"AMQP\x03\x01\x00\x00")
        said = b""
        while b"PLAIN" not in said:
            said += await reader.read(100)
        assert (b"EXTERNAL" in said) is offered
        writer.close()


# --- the handshake itself -----------------------------------------------------------------------------


async def test_openssl_sees_that_a_certificate_is_asked_for(site: Site) -> None:
    address = site.at("hono.https")
    process = await asyncio.create_subprocess_exec(
        *("openssl", "s_client", "-connect", address, "-tls1_2"),
        *("-cert", str(site.device), "-key", str(site.device)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    out, _ = await process.communicate(b"POST /event HTTP/1.1\nConnection: close\n\n")
    assert b"No client certificate CA names sent" in out
    assert b"Client Certificate Types" in out


async def test_a_session_that_is_resumed_still_has_its_certificate(site: Site) -> None:
    context = client_context(site.device, ssl.TLSVersion.TLSv1_2)
    host, _, port = site.at("hono.https").rpartition(":")
    request = (
        b"POST /telemetry HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx"
    )

    def ask(session: ssl.SSLSession | None) -> tuple[bytes, ssl.SSLSession | None, bool | None]:
        with (
            socket.create_connection((host, int(port))) as raw,
            context.wrap_socket(raw, session=session) as sock,
        ):
            sock.sendall(request)
            answer = sock.recv(4_096)
            return answer, sock.session, sock.session_reused

    first, session, _ = await asyncio.to_thread(ask, None)
    second, _, was_reused = await asyncio.to_thread(ask, session)
    assert was_reused
    assert [first[9:12], second[9:12]] == [b"202", b"202"]
    await site.core.registry.update_credentials("acme", "d1", [], None)
    third, _, _ = await asyncio.to_thread(ask, session)
    assert third[9:12] == b"401"


async def test_connections_of_a_certificate_are_counted_like_others(site: Site) -> None:
    async with tls_paho(site, site.device, V311) as device:
        assert await device.connack() == 0
        assert site.core.connections.count("acme") == 1
    await until(lambda: site.core.connections.count("acme") == 0)
