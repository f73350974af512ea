"""The listener that lets in so many at a time: everybody gets in, nobody holds it up for the others."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pytest

from cloud.certificates import make_ca, make_server
from gateway.runtime import gate
from gateway.runtime.listener import Endpoints

HELLO = b"\x16\x03\x01"
"""The beginning of a handshake that never goes on."""
NAME = "gate"


class Greeter(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).write(b"in")


@asynccontextmanager
async def a_gate(folder: Path) -> AsyncIterator[tuple[int, ssl.SSLContext]]:
    now = datetime.now(UTC)
    ca = make_ca(now)
    server = make_server(ca, ("localhost",), now)
    pem = folder / "server.pem"
    pem.write_bytes(server.key_pem + server.certificate_pem.encode())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trust.load_verify_locations(cadata=ca.certificate_pem)
    endpoints = Endpoints()
    async with gate.listening_gate(
        endpoints, NAME, "127.0.0.1:0", Greeter, ssl=context, setting="x.bind"
    ):
        yield endpoints.port(NAME), trust


async def come_in(port: int, trust: ssl.SSLContext, source: str = "127.0.0.1") -> bytes:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=trust, server_hostname="localhost", local_addr=(source, 0)
    )
    found = await reader.readexactly(2)
    writer.close()
    return found


async def knock(port: int, words: bytes) -> asyncio.StreamWriter:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(words)
    await writer.drain()
    return writer


async def test_many_more_than_shake_hands_at_a_time_get_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "HANDSHAKES", 2)
    async with a_gate(tmp_path) as (port, trust), asyncio.timeout(20):
        found = await asyncio.gather(*(come_in(port, trust) for _ in range(30)))
    assert found == [b"in"] * 30


async def test_who_says_nothing_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "HANDSHAKES", 2)
    async with a_gate(tmp_path) as (port, trust), asyncio.timeout(8):
        silent = [await knock(port, b"") for _ in range(10)]
        assert await come_in(port, trust) == b"in"
        for writer in silent:
            writer.close()


async def test_one_address_cannot_take_all_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "HANDSHAKES", 4)
    async with a_gate(tmp_path) as (port, trust), asyncio.timeout(8):
        stuck = [await knock(port, HELLO) for _ in range(6)]
        assert await come_in(port, trust, "127.0.0.2") == b"in"
        for writer in stuck:
            writer.close()


async def test_who_goes_away_gives_the_turn_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "HANDSHAKES", 2)
    async with a_gate(tmp_path) as (port, trust), asyncio.timeout(8):
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(HELLO)
        assert await come_in(port, trust) == b"in"
