"""Every TLS port of `twinspan up`: with each version of TLS forced, and with certificates of clients."""

from __future__ import annotations

import socket
import ssl
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.device_pki import Holder, issue
from tests.process import Twinspan, twinspan

pytestmark = pytest.mark.e2e

CONNECT = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00"
SASL = b"AMQP\x03\x01\x00\x00"
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

SAID = {
    "hono.mqtts": (CONNECT, b"\x20\x02"),
    "edge.mqtt": (CONNECT, b"\x20\x02\x00\x00"),
    "hono.amqps": (SASL, SASL),
    "northbound.amqps": (SASL, SASL),
    "hono.https": (REQUEST, b"HTTP/1.1 404"),
    "hono.registrys": (REQUEST, b"HTTP/1.1 404"),
    "hono.loras": (REQUEST, b"HTTP/1.1 4"),
    "hono.sigfoxs": (REQUEST, b"HTTP/1.1 4"),
    "kube.https": (REQUEST, b"HTTP/1.1 403"),
    "cloudhub.https": (REQUEST, b"HTTP/1.1 404"),
}
"""TLS port -> what is said there without a certificate, and how the answer begins."""
VERSIONS = pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["tls1.2", "tls1.3"]
)
OLD = [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1]


def a_broker(folder: Path) -> Path:
    """Key and certificate of the edge's broker, signed by itself."""
    holder: Holder = issue("CN=broker")
    return holder.save(folder, "broker")


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twinspan]:
    folder = tmp_path_factory.mktemp("tls-versions")
    broker = a_broker(folder)
    adapters = (
        f"hono.{name}.{setting}"
        for name in ("lora", "sigfox")
        for setting in ("enabled=true", "bind=127.0.0.1:0", "tls_bind=127.0.0.1:0")
    )
    sets = (f"edge.mqtt.tls_cert={broker}", f"edge.mqtt.tls_key={broker}", *adapters)
    with twinspan(folder / "data", "up", "--demo", sets=sets) as running:
        yield running


SILENT = {"cloudhub.wss", "stream.https", "tunnel.wss"}
"""Ports that demand a certificate before they say anything."""


def authority(up: Twinspan, name: str) -> Path:
    """Who vouches for a port."""
    if name == "edge.mqtt":
        return up.data_dir.parent / "broker.pem"
    cloud = dict.fromkeys(("cloudhub", "stream", "tunnel"), "edge/rootCA.crt")
    files = {"kube": "kube/ca.crt", **cloud}
    return up.data_dir / files.get(name.partition(".")[0], "tls/ca.crt")


def a_context(up: Twinspan, name: str, version: ssl.TLSVersion) -> ssl.SSLContext:
    """TLS of this version alone, by a client that verifies the server."""
    context = ssl.create_default_context(cafile=str(authority(up, name)))
    context.check_hostname = name != "edge.mqtt"
    context.minimum_version = context.maximum_version = version
    return context


def ask(up: Twinspan, name: str, context: ssl.SSLContext, words: bytes) -> tuple[str, bytes]:
    """Say `words` and return the version of TLS and the answer's first bytes."""
    with (
        socket.create_connection(("127.0.0.1", up.port(name)), timeout=20) as raw,
        context.wrap_socket(raw, server_hostname="127.0.0.1") as sock,
    ):
        sock.sendall(words)
        return sock.version() or "", sock.recv(4_096)


def is_hung_up_on(up: Twinspan, name: str, context: ssl.SSLContext) -> bool:
    """True when the server ends the connection without a word: asyncio sends no alert in a handshake."""
    try:
        return ask(up, name, context, REQUEST)[1] == b""
    except (ssl.SSLEOFError, ConnectionError):
        return True


def test_no_tls_port_is_left_out(up: Twinspan) -> None:
    datagrams = {"hono.coaps"}  # DTLS: `test_coap_dtls`
    plain = {
        name
        for name in up.endpoints
        if name.endswith((".http", ".mqtt", ".amqp", ".registry", ".lora", ".sigfox", ".coap"))
    } | {"edge.metaserver"}  # it takes TLS once `twinspan edge kubeconfig` made a certificate
    assert set(up.endpoints) - (plain - {"edge.mqtt"}) == set(SAID) | SILENT | datagrams


@VERSIONS
@pytest.mark.parametrize("name", SAID)
def test_each_version_of_tls_is_spoken_on_each_port(
    up: Twinspan, name: str, version: ssl.TLSVersion
) -> None:
    words, expected = SAID[name]
    spoken, answer = ask(up, name, a_context(up, name, version), words)
    assert spoken == {772: "TLSv1.3", 771: "TLSv1.2"}[version]
    assert answer.startswith(expected), answer


@pytest.mark.parametrize("name", [*SAID, *sorted(SILENT)])
def test_older_versions_are_refused(up: Twinspan, name: str) -> None:
    for version in OLD:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context = a_context(up, name, version)
        context.set_ciphers("ALL:@SECLEVEL=0")
        assert is_hung_up_on(up, name, context), version


@VERSIONS
def test_the_administrators_certificate_opens_the_kubernetes_api(
    up: Twinspan, version: ssl.TLSVersion
) -> None:
    context = a_context(up, "kube.https", version)
    kube = up.data_dir / "kube"
    context.load_cert_chain(kube / "admin.crt", kube / "admin.key")
    words = REQUEST.replace(b"GET /", b"GET /api/v1/namespaces")
    assert ask(up, "kube.https", context, words)[1].startswith(b"HTTP/1.1 200")


@VERSIONS
def test_a_strangers_certificate_is_no_way_into_the_kubernetes_api(
    up: Twinspan, version: ssl.TLSVersion, tmp_path: Path
) -> None:
    context = a_context(up, "kube.https", version)
    context.load_cert_chain(issue("CN=kubernetes-admin,O=system:masters").save(tmp_path, "me"))
    assert is_hung_up_on(up, "kube.https", context)


@VERSIONS
@pytest.mark.parametrize("name", sorted(SILENT - {"cloudhub.wss"}))
def test_nobody_comes_to_streams_without_a_certificate(
    up: Twinspan, name: str, version: ssl.TLSVersion
) -> None:
    assert is_hung_up_on(up, name, a_context(up, name, version))


@VERSIONS
def test_a_node_needs_its_certificate_for_the_hub(up: Twinspan, version: ssl.TLSVersion) -> None:
    assert is_hung_up_on(up, "cloudhub.wss", a_context(up, "cloudhub.wss", version))
    context = a_context(up, "cloudhub.wss", version)
    context.load_cert_chain(
        up.data_dir / "edge" / "server.crt", up.data_dir / "edge" / "server.key"
    )
    spoken, answer = ask(up, "cloudhub.wss", context, REQUEST)
    assert answer.startswith(b"HTTP/1.1 4"), answer
    assert spoken
