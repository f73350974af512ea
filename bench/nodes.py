"""Memory per idle connected node, and connections per second, of one CloudCore.

Starts a CloudCore with its embedded API in a process of its own, gives each node a certificate from its CA,
connects them over mutual TLS from this process, lets them register nothing and only keep alive, and reads the
server's resident memory and CPU time before and after.
Run: `python -m bench.nodes [--nodes 200] [--json]`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import ssl
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cloud.certificates import KeyPair, issue, pem
from gateway.runtime import process
from gateway.wire.cloudedge.envelope import Stamp, encode
from gateway.wire.cloudedge.names import NODE_ID, ORGANISATION, common_name
from gateway.wire.cloudedge.to_cloud import keepalive

AT_ONCE = 20
START_SECONDS = 60.0
TICKS = 100.0
"""Clock ticks per second in /proc."""


@dataclass(frozen=True, slots=True)
class Nodes:
    """What one run found.

    Units:  kilobytes of resident memory per connected idle node; connections per second by the wall clock,
            and per second of the server's CPU time.
    """

    nodes: int
    kilobytes_per_node: float
    connects_per_second: float
    connects_per_cpu_second: float


def measure(nodes: int = 200) -> Nodes:
    """Run the benchmark."""
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_run(Path(folder), nodes))


async def _run(folder: Path, nodes: int) -> Nodes:
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.nodes", "--server", str(folder)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert server.stdout is not None
    try:
        async with asyncio.timeout(START_SECONDS):
            told = json.loads(await server.stdout.readline())
        return await _connect_all(folder, server.pid, told, nodes)
    finally:
        server.terminate()
        await server.wait()


async def _connect_all(folder: Path, pid: int, told: dict[str, Any], nodes: int) -> Nodes:
    ca = KeyPair(bytes.fromhex(told["certificate"]), bytes.fromhex(told["key"]))
    contexts = [_context(folder, ca, f"node-{number}") for number in range(nodes + 1)]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        first = await _connect(http, told["port"], "node-0", contexts[0])  # warms caches up
        memory, cpu, started = _resident(pid), _cpu_seconds(pid), time.perf_counter()
        slots = asyncio.Semaphore(AT_ONCE)

        async def one(number: int) -> aiohttp.ClientWebSocketResponse:
            async with slots:
                name = f"node-{number}"
                return await _connect(http, told["port"], name, contexts[number])

        sockets = await asyncio.gather(*(one(number) for number in range(1, nodes + 1)))
        seconds = time.perf_counter() - started
        cpu_seconds = max(_cpu_seconds(pid) - cpu, 1 / TICKS)
        grown = _resident(pid) - memory
        for socket in (first, *sockets):
            await socket.close()
    return Nodes(
        nodes,
        round(grown / nodes, 1),
        round(nodes / seconds, 1),
        round(nodes / cpu_seconds, 1),
    )


async def _connect(
    http: aiohttp.ClientSession, port: int, name: str, context: ssl.SSLContext
) -> aiohttp.ClientWebSocketResponse:
    url = f"wss://localhost:{port}/bench/{name}/events"
    socket = await http.ws_connect(url, headers={NODE_ID: name}, ssl=context, compress=0)
    await socket.send_str(encode(keepalive(Stamp(name, 1))).decode())
    return socket


def _context(folder: Path, ca: KeyPair, name: str) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANISATION),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name(name)),
        ]
    )
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    der = csr.public_bytes(serialization.Encoding.DER)
    issued = issue(ca, der, name, [], datetime.now(UTC), 1)
    path = folder / f"{name}.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    path.write_bytes(secret + pem(issued.der).encode("ascii"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=ca.certificate)
    context.load_cert_chain(path)
    path.unlink()
    return context


def _resident(pid: int) -> float:
    """Kilobytes of resident memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return float(line.split()[1])
    raise RuntimeError("no VmRSS in /proc")


def _cpu_seconds(pid: int) -> float:
    cells = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(cells[11]) + int(cells[12])) / TICKS


# --- the server's process ------------------------------------------------------------------------


async def _serve(folder: Path) -> None:
    """Run a CloudCore and print, in one line, what the clients need."""
    from cloud.identity import read_ca
    from tests.cloud_rig import a_cloud

    async with a_cloud(folder, node_limit=100_000, keepalive_timeout=600.0) as cloud:
        ca = await read_ca(cloud.kube)
        told = {
            "port": cloud.process.endpoints.port("cloudhub.wss"),
            "certificate": ca.certificate.hex(),
            "key": ca.key.hex(),
        }
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--server", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.server:
        process.run(_serve(options.server))  # the loop that `twinspan cloud` runs on
        return
    found = measure(options.nodes)
    if options.json:
        print(json.dumps(asdict(found)))
        return
    print(f"idle nodes connected           {found.nodes}")
    print(f"memory per idle node           {found.kilobytes_per_node:.1f} kB")
    print(f"connections per second         {found.connects_per_second:.0f}")
    print(f"connections per CPU second     {found.connects_per_cpu_second:.0f}")


if __name__ == "__main__":
    main()
