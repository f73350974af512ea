"""What Hono's sandbox has is there with `--demo`, line by line: tenants, devices, logins, users, ports."""

from __future__ import annotations

import base64
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.config.hono import Hono
from gateway.hono import demo
from gateway.hono.service_samples import sample_users
from gateway.model.login import Login, TlsPeer
from gateway.model.message import Adapter, Principal
from gateway.runtime.users import DEMO
from tests.hono_rig import Core, a_core, until
from tests.process import tool

CA = "CN=DEFAULT_TENANT_CA,OU=Hono,O=Eclipse IoT,L=Ottawa,C=CA"
DEVICE_DN = "CN=Device 4711,OU=Hono,O=Eclipse IoT,L=Ottawa,C=CA"
D4711 = Principal("DEFAULT_TENANT", "4711", "sensor1")
GATEWAY = Principal("DEFAULT_TENANT", "gw-1", "gw")

DEVICES: dict[str, dict[str, Any]] = {
    "4711": {"defaults": {"content-type": "application/vnd.bumlux", "importance": "high"}},
    "4712": {"via": ["gw-1"]},
    "gw-1": {},
}
COMPONENTS = {
    "http-adapter@HONO": "http-secret",
    "mqtt-adapter@HONO": "mqtt-secret",
    "amqp-adapter@HONO": "amqp-secret",
    "coap-adapter@HONO": "coap-secret",
    "lora-adapter@HONO": "lora-secret",
    "command-router@HONO": "cmd-router-secret",
    "hono-client@HONO": "secret",
    "consumer@HONO": "verysecret",
}
LISTENERS = [
    ("registry", "bind", 28080),
    ("registry", "tls_bind", 28443),
    ("mqtt", "bind", 1883),
    ("mqtt", "tls_bind", 8883),
    ("amqp", "bind", 5672),
    ("amqp", "tls_bind", 5671),
    ("coap", "bind", 5683),
    ("coap", "tls_bind", 5684),
    ("northbound", "bind", 15672),
    ("northbound", "tls_bind", 15671),
]
"""Ports of the sandbox that are ours too; HTTP listens on 18080 and 18443 here."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "sandbox"


@pytest.fixture
async def core(folder: Path) -> AsyncIterator[Core]:
    async with a_core() as core:
        await demo.provision(core.registry, folder)
        yield core


async def logged_in(core: Core, login: Login) -> Any:
    found: list[Any] = []
    core.authenticator.check_login(login, Adapter.MQTT, found.append)
    await until(lambda: bool(found))
    return found[0]


async def test_the_tenants(core: Core) -> None:
    document, _ = await core.registry.read_tenant("DEFAULT_TENANT")
    anchors = document["trusted-ca"]
    assert isinstance(anchors, list)
    (anchor,) = anchors
    assert isinstance(anchor, dict)
    assert (anchor["subject-dn"], anchor["algorithm"]) == (CA, "EC")
    document, _ = await core.registry.read_tenant("HTTP_TENANT")
    assert document["adapters"] == [{"type": "hono-http", "enabled": True}]


@pytest.mark.parametrize("device", DEVICES)
async def test_the_devices(core: Core, device: str) -> None:
    document, _ = await core.registry.read_device("DEFAULT_TENANT", device)
    for name, value in DEVICES[device].items():
        assert document[name] == value


@pytest.mark.parametrize(
    ("user", "password", "who"),
    [("sensor1", b"hono-secret", D4711), ("gw", b"gw-secret", GATEWAY)],
)
async def test_the_passwords(core: Core, user: str, password: bytes, who: Principal) -> None:
    login = Login(username=f"{user}@DEFAULT_TENANT", password=password)
    assert await logged_in(core, login) == who


@pytest.mark.parametrize(("auth_id", "key"), [("sensor1", b"hono-secret"), ("gw", b"gw-secret")])
async def test_the_pre_shared_keys(core: Core, auth_id: str, key: bytes) -> None:
    found: list[Any] = []
    core.registry.find_credential("DEFAULT_TENANT", "psk", auth_id, found.append)
    await until(lambda: bool(found))
    (secret,) = found[0].credential.secrets
    assert base64.b64decode(secret.data["key"]) == key


async def test_the_certificate_of_the_sample_device(core: Core, folder: Path) -> None:
    pem = (folder / "device-4711.crt").read_text()
    login = Login(peer=TlsPeer(ssl.PEM_cert_to_DER_cert(pem)))
    who = await logged_in(core, login)
    assert (who.tenant, who.device, who.auth_id) == ("DEFAULT_TENANT", "4711", DEVICE_DN)


def test_openssl_takes_the_sample_certificates(folder: Path) -> None:
    demo.sample_authority(folder)
    authority, device = str(folder / "default_tenant.crt"), str(folder / "device-4711.crt")
    words = (tool("openssl"), "verify", "-CAfile", authority, device)
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.stdout.strip().endswith("OK"), done.stderr
    assert (folder / "device-4711.key").stat().st_mode & 0o077 == 0


async def test_a_second_start_keeps_the_authority(core: Core, folder: Path) -> None:
    before = (folder / "default_tenant.crt").read_bytes(), (folder / "device-4711.crt").read_bytes()
    await demo.provision(core.registry, folder)
    after = (folder / "default_tenant.crt").read_bytes(), (folder / "device-4711.crt").read_bytes()
    assert before == after


@pytest.mark.parametrize(("name", "password"), COMPONENTS.items())
def test_the_users(name: str, password: str) -> None:
    user = sample_users(DEMO.northbound)[name]
    assert user.has_password(password.encode())
    assert user.authorities.claims


def test_the_users_of_applications_and_of_the_registry() -> None:
    assert DEMO.northbound == {"consumer@HONO": "verysecret"}
    assert DEMO.registry == {"hono-client": "secret"}


def test_the_router_may_ask_for_tenants_and_devices_alone() -> None:
    router = sample_users({})["command-router@HONO"].authorities
    assert router.may_execute("assert", "registration/t")
    assert router.may_execute("get", "tenant")
    assert not router.may_execute("get", "credentials/t")


@pytest.mark.parametrize(("branch", "setting", "port"), LISTENERS)
def test_the_ports(branch: str, setting: str, port: int) -> None:
    assert getattr(getattr(Hono(), branch), setting) == f"127.0.0.1:{port}"
