"""Collectors that misbehave, while telemetry flows: spans are lost and counted, nothing else is; and TLS."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.config.observe import Observe, Otlp, Traces
from gateway.errors import GatewayError
from gateway.model.message import Adapter, Kind, Principal, Upload
from gateway.observe import batches
from gateway.observe.otlp import build_exports
from gateway.observe.tracing import new_context
from gateway.runtime.module import Readiness, running
from tests.device_pki import Holder, issue, private_pem
from tests.hono_rig import Core, a_core, a_fleet, until
from tests.otlp_receiver import a_collector, a_grpc_collector

QUEUE = 100
HALF = 200
LIMIT_SECONDS = 0.3
DEAD = "127.0.0.1:9"
ANSWER = b"HTTP/1.1 %s\r\nContent-Type: text/plain\r\nContent-Length: 100000\r\n\r\n"

Peer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def hole(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Takes all, and says nothing."""
    await asyncio.Event().wait()


async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers a byte at a time, so that no single read takes long."""
    await reader.read(100)
    writer.write(ANSWER % b"200 OK")
    while True:
        writer.write(b".")
        await asyncio.sleep(0.02)


async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(100)
    writer.write(b"\x00\xffSSH-2.0-x\r\n\r\n")
    writer.close()


def says(status: bytes) -> Peer:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65_536)
        writer.write(b"HTTP/1.1 %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % status)
        writer.close()

    return answer


@asynccontextmanager
async def listening(peer: Peer | None) -> AsyncIterator[str]:
    """`host:port` of a peer; None: nobody is there."""
    if peer is None:
        yield DEAD
        return
    tasks: set[asyncio.Task[None]] = set()

    async def each(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(peer(reader, writer))
        tasks.add(task)
        await asyncio.wait({task})
        writer.close()

    server = await asyncio.start_server(each, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    try:
        yield f"{host}:{port}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a collector."""

    peer: Peer | None
    protocol: str = "http/protobuf"
    scheme: str = "http"


FAULTS = {
    "refused": Fault(None),
    "hole": Fault(hole),
    "drip": Fault(drip),
    "garbage": Fault(garbage),
    "500": Fault(says(b"500 Internal Server Error")),
    "503": Fault(says(b"503 Service Unavailable")),
    "no-tls": Fault(says(b"400 Bad Request"), scheme="https"),
    "grpc-refused": Fault(None, "grpc"),
    "grpc-hole": Fault(hole, "grpc"),
    "grpc-garbage": Fault(garbage, "grpc"),
}


def counted(core: Core) -> dict[str, float]:
    name = "twinspan_otlp_spans_total"
    return {each: core.sample(name, outcome=each) for each in ("sent", "dropped", "failed")}


def upload(core: Core, first: int, count: int) -> list[GatewayError | None]:
    """Submit numbered uploads, each of a sampled trace, without giving anybody else a turn."""
    outcomes: list[GatewayError | None] = []
    for number in range(first, first + count):
        message = Upload(
            adapter=Adapter.MQTT,
            principal=Principal("acme", "d1", "sensor1"),
            kind=Kind.TELEMETRY,
            qos=1,
            payload=str(number).encode(),
            address="telemetry",
            trace=new_context(),
        )
        core.ingress.submit(message, outcomes.append)
    assert core.sample("twinspan_queue_depth", queue="otlp_spans") <= QUEUE
    return outcomes


@pytest.fixture
async def core(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Core]:
    monkeypatch.setattr(batches, "EVERY", 0.02)
    async with a_core() as core:
        await a_fleet(core)
        outcomes: list[Any] = []
        first = Upload(
            adapter=Adapter.MQTT,
            principal=Principal("acme", "d1", "sensor1"),
            kind=Kind.TELEMETRY,
            qos=1,
            payload=b"warm",
            address="telemetry",
        )
        core.ingress.submit(first, outcomes.append)  # asks the registry; those after it need not
        await until(lambda: bool(outcomes))
        core.consumer.messages.clear()
        yield core


def export_to(core: Core, **otlp: Any) -> Any:
    settings = Otlp(enabled=True, timeout=LIMIT_SECONDS, max_queue=QUEUE, **otlp)
    (export,) = build_exports(
        Observe(traces=Traces(otlp=settings)), core.tracer, core.metrics, {"service.version": "1"}
    )
    return export


@pytest.mark.parametrize("name", FAULTS)
async def test_telemetry_passes_at_once_and_in_order_whatever_the_collector_does(
    core: Core, name: str
) -> None:
    fault = FAULTS[name]
    async with listening(fault.peer) as address, asyncio.timeout(30):
        endpoint = f"{fault.scheme}://{address}"
        async with running(
            export_to(core, endpoint=endpoint, protocol=fault.protocol), Readiness(())
        ):
            assert upload(core, 0, HALF) == [None] * HALF, "answered before anybody had a turn"
            depth = "twinspan_queue_depth"
            await until(lambda: core.sample(depth, queue="otlp_spans") == 0)  # one is under way
            assert upload(core, HALF, HALF) == [None] * HALF
            assert counted(core)["dropped"] >= HALF - QUEUE
        # the end came though a collector that does not answer still holds its request
    assert [int(m.payload) for m in core.consumer.messages] == list(range(2 * HALF))
    assert counted(core)["sent"] == 0
    assert sum(counted(core).values()) == 2 * HALF, "each span is counted once"


# --- over TLS


def authority(name: str) -> Holder:
    return issue(f"CN={name}", extensions=((x509.BasicConstraints(True, None), True),))


def pem(holder: Holder) -> bytes:
    return holder.certificate.public_bytes(Encoding.PEM)


@dataclass(frozen=True, slots=True)
class Pki:
    """An authority, a server that it vouches for and a client."""

    ca: Path
    other_ca: Path
    server: Holder
    client_cert: Path
    client_key: Path

    @classmethod
    def made(cls, folder: Path) -> Pki:
        ca, other = authority("own"), authority("other")
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        server = issue(
            "CN=collector", ca, extensions=((x509.SubjectAlternativeName([address]), False),)
        )
        client = issue("CN=gateway", ca)
        files = {
            "ca": pem(ca),
            "other": pem(other),
            "cert": pem(client),
            "key": private_pem(client.key),
        }
        for name, data in files.items():
            (folder / name).write_bytes(data)
        return cls(folder / "ca", folder / "other", server, folder / "cert", folder / "key")


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki.made(tmp_path_factory.mktemp("pki"))


def receiver(protocol: str, pki: Pki, folder: Path) -> Any:
    """A collector that wants a client certificate."""
    if protocol == "grpc":
        import grpc

        pair = (private_pem(pki.server.key), pem(pki.server))
        return a_grpc_collector(
            grpc.ssl_server_credentials([pair], pki.ca.read_bytes(), require_client_auth=True)
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki.server.save(folder, "server"))
    context.load_verify_locations(pki.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    return a_collector(context)


@pytest.mark.parametrize("trusted", [True, False], ids=["own-ca", "other-ca"])
@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
async def test_spans_go_over_tls_to_whom_the_ca_file_vouches_for_and_to_nobody_else(
    core: Core,
    pki: Pki,
    tmp_path: Path,
    protocol: str,
    trusted: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(pki.other_ca if trusted else pki.ca))
    with receiver(protocol, pki, tmp_path) as collector:
        export = export_to(
            core,
            endpoint=collector.endpoint,
            protocol=protocol,
            ca_file=str(pki.ca if trusted else pki.other_ca),
            cert_file=str(pki.client_cert),
            key_file=str(pki.client_key),
        )
        async with running(export, Readiness(())):
            upload(core, 0, 3)
            outcome = "sent" if trusted else "failed"
            await until(lambda: counted(core)[outcome] == 3)
        assert len(collector.spans) == (3 if trusted else 0)
