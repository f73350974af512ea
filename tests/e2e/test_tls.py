"""TLS listeners of the adapters and the northbound endpoint, asked by clients that verify them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from proton import SSLDomain
from proton.utils import BlockingConnection

from tests import process

pytestmark = pytest.mark.e2e

LOGIN = "sensor1@DEFAULT_TENANT"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[process.Twinspan]:
    with process.twinspan(tmp_path_factory.mktemp("tls") / "data", "gateway", "--demo") as up:
        yield up


@pytest.fixture
def authority(running: process.Twinspan) -> Path:
    return running.data_dir / "tls" / "ca.crt"


def test_https_takes_telemetry_from_a_client_that_trusts_our_authority(
    running: process.Twinspan, authority: Path
) -> None:
    url = f"https://{running.endpoints['hono.https']}/telemetry"
    common = ("curl", "-sS", "-u", f"{LOGIN}:hono-secret", "-w", "%{http_code}", "--data", "{}")
    header = ("-H", "Content-Type: application/json")
    assert process.run(*common, *header, "--cacert", str(authority), url) == "202"
    refused = subprocess.run([*common, *header, url], capture_output=True, text=True, check=False)
    assert refused.returncode == 60, refused.stderr  # curl: the peer's certificate is not known


def test_mqtts_takes_telemetry(running: process.Twinspan, authority: Path) -> None:
    process.run(
        process.tool("mosquitto_pub"),
        *("--cafile", str(authority), "-h", "127.0.0.1", "-p", str(running.port("hono.mqtts"))),
        *("-u", LOGIN, "-P", "hono-secret", "-q", "1", "-t", "telemetry", "-m", "{}"),
    )


def test_amqps_northbound_lets_an_application_in(
    running: process.Twinspan, authority: Path
) -> None:
    domain = SSLDomain(SSLDomain.MODE_CLIENT)
    domain.set_trusted_ca_db(str(authority))
    domain.set_peer_authentication(SSLDomain.VERIFY_PEER)
    connection = BlockingConnection(
        f"amqps://localhost:{running.port('northbound.amqps')}",
        ssl_domain=domain,
        user="consumer@HONO",
        password="verysecret",
        allowed_mechs="PLAIN",
    )
    try:
        receiver = connection.create_receiver("event/DEFAULT_TENANT")
        assert receiver.link.remote_source.address == "event/DEFAULT_TENANT"
    finally:
        connection.close()


def test_the_authority_stays_over_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "data" / "tls" / "ca.crt"
    with process.twinspan(tmp_path / "data", "gateway", "--demo"):
        first = file.read_bytes()
    with process.twinspan(tmp_path / "data", "gateway", "--demo"):
        assert file.read_bytes() == first


def test_a_key_that_does_not_fit_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "a.crt").write_text("not a certificate")
    (tmp_path / "a.key").write_text("not a key")
    running = process.Twinspan(
        tmp_path / "data",
        ("gateway", "--demo"),
        (f"hono.tls.certificate={tmp_path / 'a.crt'}", f"hono.tls.key={tmp_path / 'a.key'}"),
    )
    with pytest.raises(pytest.fail.Exception, match=r"hono\.tls\.certificate: cannot load"):
        running.start()
