"""rhea, the AMQP 1.0 library of Node.js, as application and as device of the shipped program."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.device_pki import issue
from tests.process import tool, twinspan
from tests.walk import Walk

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
MODULES = ROOT / ".peers" / "amqp" / "rhea" / "node_modules"
TENANT, OPEN = "rhea", "open"
ALL_PASSED = re.compile(r"^[1-9]\d* passed, 0 failed$", re.MULTILINE)


def words(walk: Walk, endpoint: str, **more: Any) -> dict[str, Any]:
    """How rhea connects."""
    return {"host": "localhost", "port": walk.running.port(endpoint), **more}


def login(name: str, password: str = "pw") -> dict[str, str]:
    return {"username": name, "password": password}


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the scripts are told, of a service where their tenants and devices are."""
    folder = tmp_path_factory.mktemp("rhea")
    authority = issue("CN=Rhea CA")
    device = issue("CN=d1,O=Rhea", authority).save(folder, "d1")
    sets = ("hono.amqp.authentication_required=false",)
    with twinspan(folder / "data", "gateway", "--demo", sets=sets) as running:
        walk = Walk(running)
        _register(walk, {"trusted-ca": [authority.anchor()], "adapters": [_adapter(True)]})
        yield {
            "tenant": TENANT,
            "openTenant": OPEN,
            "application": words(walk, "northbound.amqp", **login("consumer@HONO", "verysecret")),
            "device": words(walk, "hono.amqp", **login(f"d1@{TENANT}")),
            "gateway": words(walk, "hono.amqp", **login(f"gw@{TENANT}")),
            "open": words(walk, "hono.amqp", username="anonymous"),
            "secret": words(
                walk,
                "hono.amqps",
                transport="tls",
                ca=str(running.data_dir / "tls" / "ca.crt"),
                cert=str(device),
                key=str(device),
            ),
        }


def _adapter(required: bool) -> dict[str, Any]:
    return {"type": "hono-amqp", "enabled": True, "device-authentication-required": required}


def _register(walk: Walk, tenant: dict[str, Any]) -> None:
    for path, body in (
        (f"tenants/{TENANT}", tenant),
        (f"tenants/{OPEN}", {"adapters": [_adapter(False)]}),
        (f"devices/{TENANT}/d1", {}),
        (f"devices/{TENANT}/gw", {}),
        (f"devices/{TENANT}/d2", {"via": ["gw"]}),
        (f"devices/{OPEN}/o1", {}),
    ):
        assert walk.registry("POST", path, data=body).status == 201
    for name in ("d1", "gw"):
        password = {"type": "hashed-password", "auth-id": name, "secrets": [{"pwd-plain": "pw"}]}
        secrets: list[Any] = [password]
        if name == "d1":
            secrets.append({"type": "x509-cert", "auth-id": "CN=d1,O=Rhea", "secrets": [{}]})
        assert walk.registry("PUT", f"credentials/{TENANT}/{name}", data=secrets).status == 204


@pytest.mark.parametrize("name", ["application.js", "device.js"])
def test_rhea_finds_all_it_asks_for(rig: dict[str, Any], name: str) -> None:
    if not MODULES.exists():
        pytest.skip("NOT RUN: rhea is missing; scripts/amqp-peers.sh gets it")
    script = ROOT / "tests" / "clients" / "amqp" / name
    done = subprocess.run(
        [tool("node"), str(script)],
        env={**os.environ, "AMQP_RIG": json.dumps(rig), "AMQP_MODULES": str(MODULES)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert ALL_PASSED.search(done.stdout), said
