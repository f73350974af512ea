"""TLS that takes any client certificate: what it says of the peer, and what a Python without it does."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from gateway.model.login import NO_TLS
from gateway.runtime import device_tls
from gateway.runtime.device_tls import DeviceTls, device_context, tls_peer
from tests.device_pki import a_server, client_context, issue


def shake_hands(
    server: ssl.SSLContext, client: ssl.SSLContext, host: str | None = None
) -> ssl.SSLObject:
    """Let two contexts meet in memory; returns the server's end."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    end = server.wrap_bio(to_server, to_client, server_side=True)
    other = client.wrap_bio(to_client, to_server, server_hostname=host)
    waiting: list[ssl.SSLObject] = [other, end]
    for _ in range(10):
        for side in tuple(waiting):
            try:
                side.do_handshake()
                waiting.remove(side)
            except ssl.SSLWantReadError:
                continue
    assert not waiting
    return end


@pytest.fixture
def server(tmp_path: Path) -> ssl.SSLContext:
    file = a_server(tmp_path)
    return device_context(file, file, "test")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_any_certificate_passes_the_handshake_and_is_shown(
    server: ssl.SSLContext, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    holder = issue("CN=nobody knows me", issue("CN=nor me"))
    client = client_context(holder.save(tmp_path, "device"), version)
    peer = tls_peer(shake_hands(server, client, "acme.hono.test"))
    assert (peer.certificate, peer.server_name) == (holder.der, "acme.hono.test")


def test_a_peer_may_come_without_certificate_and_host(server: ssl.SSLContext) -> None:
    assert tls_peer(shake_hands(server, client_context())) == NO_TLS


def test_hosts_of_two_connections_are_kept_apart(server: ssl.SSLContext) -> None:
    ends = [shake_hands(server, client_context(), host) for host in ("a.test", "b.test")]
    assert [tls_peer(end).server_name for end in ends] == ["a.test", "b.test"]


def test_without_tls_there_is_no_peer() -> None:
    assert tls_peer(None) is NO_TLS


def test_a_python_that_hides_its_openssl_asks_for_no_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(device_tls, "_openssl", lambda: None)
    file = a_server(tmp_path)
    context = device_context(file, file, "test")
    assert context.verify_mode is ssl.CERT_NONE
    assert "client certificates are not asked for" in caplog.text
    device = issue("CN=d1").save(tmp_path, "device")
    assert tls_peer(shake_hands(context, client_context(device))) == NO_TLS


def test_a_context_that_is_not_where_it_is_expected_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = a_server(tmp_path)
    other = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    other.options |= ssl.OP_NO_TICKET
    wrong = device_tls._pointer(other)
    monkeypatch.setattr(device_tls, "_pointer", lambda _context: wrong)
    context = device_context(file, file, "test")
    assert context.verify_mode is ssl.CERT_NONE
    assert context.sslobject_class is not DeviceTls
