"""Keys for benchmarks over mutual TLS, and the bare servers that they compare with."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives import serialization

from bench.things_rig import Server
from cloud.certificates import issue, make_ca, make_server, pem
from tests.cloud_samples import a_request

HOST = "localhost"


def make_keys(folder: Path, node: str = "bench") -> ssl.SSLContext:
    """Write keys of a server into the folder; return a client's context for it, that of one node."""
    now = datetime.now(UTC)
    ca = make_ca(now)
    server = make_server(ca, (HOST,), now)
    (folder / "ca.pem").write_text(ca.certificate_pem)
    (folder / "server.pem").write_bytes(server.key_pem + server.certificate_pem.encode())
    key, csr = a_request(node)
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    issued = issue(ca, csr, node, [], now, 1)
    (folder / "client.pem").write_bytes(secret + pem(issued.der).encode())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(folder / "ca.pem")
    context.load_cert_chain(folder / "client.pem")
    return context


@contextmanager
def bare(kind: str, folder: Path) -> Iterator[Server]:
    """Run a bare server (`bare_tls_sink`) for the length of the block."""
    command = (sys.executable, "-m", "bench.bare_tls_sink", kind, str(folder))
    with subprocess.Popen(command, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        try:
            yield Server(running.pid, int(running.stdout.readline()))
        finally:
            running.terminate()


async def bare_kilobytes(server: Server, context: ssl.SSLContext, connections: int) -> float:
    """Return the memory of one connection that has said something and is silent."""

    async def connect() -> asyncio.StreamWriter:
        reader, writer = await asyncio.open_connection(HOST, server.port, ssl=context)
        writer.write(b"x" * 500)
        await reader.readexactly(500)
        return writer

    writers = [await connect() for _ in range(20)]  # warms caches up
    before = server.resident()
    writers += [await connect() for _ in range(connections)]
    grown = server.resident() - before
    for writer in writers:
        writer.close()
    return grown * 1_024 / connections
