"""LoRaWAN and Sigfox devices of the shipped program: switched on by a setting, pushed to with curl."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator

import pytest

from tests import process
from tests.lora_samples import EUI, SAMPLES

pytestmark = pytest.mark.e2e

ON = tuple(
    setting
    for name in ("lora", "sigfox")
    for setting in (
        f"hono.{name}.enabled=true",
        f"hono.{name}.bind=127.0.0.1:0",
        f"hono.{name}.tls_bind=127.0.0.1:0",
    )
)
JSON = ("-H", "Content-Type: application/json")
ADMIN = ("-u", "hono-client:secret")
SERVER = ("-u", "gw@DEFAULT_TENANT:gw-secret")
SIGFOX = "2F81C4"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[process.Twinspan]:
    folder = tmp_path_factory.mktemp("lora") / "data"
    with process.twinspan(folder, "gateway", "--demo", sets=ON) as up:
        devices = f"http://{up.endpoints['hono.registry']}/v1/devices/DEFAULT_TENANT"
        for device in (EUI, SIGFOX):
            assert curl(*ADMIN, *JSON, "--data", '{"via":["gw-1"]}', f"{devices}/{device}") == "201"
        yield up


def curl(*args: str) -> str:
    """The status that curl gets."""
    return process.run("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", *args)


@pytest.mark.parametrize("endpoint", ["hono.lora", "hono.loras"])
@pytest.mark.parametrize("name", ["chirpStackV4", "theThingsStack"])
def test_a_network_server_pushes(running: process.Twinspan, endpoint: str, name: str) -> None:
    scheme = "https" if endpoint.endswith("s") else "http"
    url = f"{scheme}://{running.endpoints[endpoint]}{SAMPLES[name].path}"
    trust = ("--cacert", str(running.data_dir / "tls" / "ca.crt"))
    body = json.dumps(SAMPLES[name].body)
    assert curl(*trust, *SERVER, *JSON, "--data", body, url) == "202"
    assert _count(running, "hono-lora") > 0


def test_the_sigfox_backend_calls_back(running: process.Twinspan) -> None:
    url = f"http://{running.endpoints['hono.sigfox']}/data/event/DEFAULT_TENANT"
    assert curl(*SERVER, f"{url}?device={SIGFOX}&data=0a1b") == "204"
    assert _count(running, "hono-sigfox") == 1


def _count(running: process.Twinspan, component: str) -> float:
    """Forwarded uploads that one adapter has counted."""
    url = f"http://{running.endpoints['ops.http']}/metrics"
    with urllib.request.urlopen(url, timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    name = "hono_telemetry_processing_duration_seconds_count"
    found = [
        x for x in lines if x.startswith(name) and component in x and 'status="forwarded"' in x
    ]
    return sum(float(line.rpartition(" ")[2]) for line in found)
