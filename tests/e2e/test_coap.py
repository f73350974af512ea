"""CoAP into the shipped process: libcoap's clients as devices, a Ditto application that sends a command."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests import process

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(shutil.which("coap-client-openssl") is None, reason="no libcoap3-bin"),
]

LOGIN = ("-u", "sensor1@DEFAULT_TENANT", "-k", "hono-secret")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[process.Twinspan]:
    folder = tmp_path_factory.mktemp("coap") / "data"
    plain = ("--set", "hono.coap.authentication_required=false")
    with process.twinspan(folder, "gateway", "--demo", *plain) as up:
        yield up


def client(program: str, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [process.tool(program), "-B", "20", "-v", "6", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def answered(program: str, *args: str) -> str:
    """Run a client; returns what it printed."""
    text, _ = client(program, *args).communicate(timeout=60)
    return text


def requests(running: process.Twinspan) -> float:
    """How many requests came over CoAP."""
    metrics = process.run("curl", "-sS", running.url("ops.http", "/metrics"))
    found = re.search(r'^twinspan_coap_datagrams_total\{outcome="request"\} (\S+)', metrics, re.M)
    return float(found[1]) if found else 0.0


def test_telemetry_changes_a_twin(running: process.Twinspan) -> None:
    path = "/features/temperature/properties/value"
    change = {"topic": "org.acme/4711/things/twin/commands/modify", "path": path, "value": 77}
    url = f"coap://{running.endpoints['hono.coap']}/telemetry/DEFAULT_TENANT/4711"
    text = answered("coap-client-notls", "-m", "put", "-t", "50", "-e", json.dumps(change), url)
    assert "c:2.04" in text

    def value() -> str:
        thing = f"http://{running.endpoints['ditto.http']}/api/2/things/org.acme:4711{path}"
        return process.run("curl", "-sS", "-u", "ditto:ditto", thing)

    process.eventually(lambda: value() == "77")


@pytest.mark.parametrize("program", ["coap-client-openssl", "coap-client-gnutls"])
def test_a_command_comes_in_the_answer_and_its_response_goes_back(
    running: process.Twinspan, program: str
) -> None:
    coaps = f"coaps://{running.endpoints['hono.coaps']}"
    before = requests(running)
    polling = client(program, *LOGIN, "-m", "post", f"{coaps}/e?hono-ttd=20&empty")
    process.eventually(lambda: requests(running) > before)
    thing = f"http://{running.endpoints['ditto.http']}/api/2/things/org.acme:4711"
    asking = subprocess.Popen(
        [
            *("curl", "-sS", "-u", "ditto:ditto", "-H", "Content-Type: application/json"),
            *("--data", '{"n":2}', f"{thing}/inbox/messages/blink?timeout=20"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    text, _ = polling.communicate(timeout=60)
    assert "Location-Query:hono-command=blink" in text
    found = re.search(r"Location-Path:cr, Location-Path:([^,\s]+)", text)
    assert found is not None, text
    response = f"{coaps}/cr/{found[1]}?hono-cmd-status=200"
    text = answered(program, *LOGIN, "-m", "post", "-t", "0", "-e", "done", response)
    assert "c:2.04" in text
    answer, _ = asking.communicate(timeout=60)
    assert answer == "done"


def test_doctor_says_that_dtls_is_there(running: process.Twinspan) -> None:
    command = (sys.executable, "-m", "gateway.cli", "doctor", "-o", "json", "--data-dir")
    done = subprocess.run(
        [*command, str(running.data_dir)], capture_output=True, text=True, check=False
    ).stdout
    (found,) = (row for row in json.loads(done) if row["check"] == "coap")
    assert (found["state"], "DTLS" in found["finding"]) == ("ok", True)
