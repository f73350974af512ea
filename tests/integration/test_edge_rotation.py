"""A node's certificate is renewed with the old one before it ends, at a real CloudCore."""

from __future__ import annotations

import asyncio
import os
import stat
import time
from pathlib import Path

import pytest
from cryptography import x509

from edge import rotation
from edge.identity import Identity
from edge.join import JoinFailed, renew
from edge.validity import Validity, read_validity
from gateway.errors import MalformedPacket
from tests.cloud_rig import a_cloud
from tests.integration.edge_node import a_node
from tests.integration.edge_support import until
from tests.integration.test_edge_real_cloud import join_cloud

DAY = 86_400


def serial_of(identity: Identity) -> int:
    return x509.load_pem_x509_certificate(identity.certificate.read_bytes()).serial_number


def test_the_moment_lies_between_70_and_90_percent_and_stays() -> None:
    moments = {rotation.moment(Validity(serial, 1_000.0, 2_000.0)) for serial in range(2_000)}
    assert min(moments) == 1_700.0
    assert 1_890.0 < max(moments) < 1_900.0
    assert len(moments) == 1_000


async def test_validity_is_read_as_the_library_reads_it(tmp_path: Path) -> None:
    async with a_cloud(tmp_path / "cloud") as cloud:
        await join_cloud(cloud, tmp_path / "edge")
    identity = Identity(tmp_path / "edge")
    for file in (identity.certificate, identity.ca):  # the CA's end is a GeneralizedTime
        pem = file.read_text()
        known = x509.load_pem_x509_certificate(pem.encode())
        found = read_validity(pem)
        assert found.serial == known.serial_number
        assert found.not_before == known.not_valid_before_utc.timestamp()
        assert found.not_after == known.not_valid_after_utc.timestamp()


@pytest.mark.parametrize("text", ["", "-----BEGIN CERTIFICATE-----\nAAAA", "no certificate"])
def test_what_is_no_certificate_is_named(text: str) -> None:
    with pytest.raises(MalformedPacket, match="certificate"):
        read_validity(text)


def test_every_cut_of_a_certificate_is_an_error_and_no_crash(tmp_path: Path) -> None:
    from tests.integration.edge_cloud import Authority

    der = Authority(tmp_path).der
    import ssl

    for cut in range(1, len(der), 7):
        pem = ssl.DER_cert_to_PEM_cert(der[:cut])
        with pytest.raises(MalformedPacket):
            read_validity(pem)


async def test_a_due_certificate_is_renewed_and_the_link_made_anew_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_cloud(tmp_path / "cloud", certificate_days=1) as cloud:
        await join_cloud(cloud, tmp_path / "edge")
        identity = Identity(tmp_path / "edge")
        first = serial_of(identity)
        offset = 0
        monkeypatch.setattr(rotation, "LOOK_SECONDS", 0.02)
        monkeypatch.setattr(rotation, "RETRY_CAP", 0.02)
        monkeypatch.setattr(rotation, "now_ms", lambda: int((time.time() + offset) * 1_000))
        async with a_node(tmp_path / "edge", drivers={}) as node:
            await until(lambda: node.core.hub.is_connected)
            since = node.core.hub.since
            offset = DAY - 3_600
            await until(lambda: serial_of(identity) != first)
            offset = 0
            await until(lambda: node.core.hub.is_connected and node.core.hub.since != since)
            assert node.core.hub.last_error == ""
        assert stat.S_IMODE(os.stat(identity.key).st_mode) == 0o600
        async with a_node(tmp_path / "edge", drivers={}) as node:  # also after a restart
            await until(lambda: node.core.hub.is_connected)


async def test_a_revoked_certificate_cannot_be_renewed(tmp_path: Path) -> None:
    async with a_cloud(tmp_path / "cloud") as cloud:
        await join_cloud(cloud, tmp_path / "old")
        await join_cloud(cloud, tmp_path / "new", replace=True)
        with pytest.raises(JoinFailed, match="403 revoked"):
            await asyncio.to_thread(renew, Identity(tmp_path / "old"))


async def test_a_node_that_was_replaced_is_told_how_to_go_on(tmp_path: Path) -> None:
    async with a_cloud(tmp_path / "cloud") as cloud:
        await join_cloud(cloud, tmp_path / "old")
        await join_cloud(cloud, tmp_path / "new", replace=True)
        async with a_node(tmp_path / "old", drivers={}) as node:
            await until(lambda: node.core.hub.last_error)
            assert "403 revoked; its Node was deleted or replaced" in node.core.hub.last_error
            assert "join again: twinspan edge join" in node.core.hub.last_error


async def test_joining_anew_puts_a_renewed_certificate_away(tmp_path: Path) -> None:
    async with a_cloud(tmp_path / "cloud") as cloud:
        await join_cloud(cloud, tmp_path / "edge")
        identity = Identity(tmp_path / "edge")
        await asyncio.to_thread(renew, identity)
        renewed = serial_of(identity)
        await join_cloud(cloud, tmp_path / "edge", replace=True)
        assert serial_of(identity) != renewed
        identity.client_context()
