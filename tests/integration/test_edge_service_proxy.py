"""Services at the edge: real sockets on real addresses, in a network of the test's own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from edge.network.addresses import Addresses, NoAddresses, is_service_s
from edge.network.build import PodSubnets
from edge.network.serviceproxy import ServiceProxy
from edge.network.servicetable import ServiceTable
from gateway.config.edge_workloads import Network
from gateway.model.json import Json, JsonObject
from gateway.observe.metrics import Metrics
from gateway.runtime.module import running
from tests.network_space import HOST, SUBNET, Loop, Neighbour, in_namespace, ip, needs_root
from tests.service_samples import NODE, a_service, a_slice, an_endpoint

pytestmark = needs_root
VIP = "10.96.0.20"


def _uvloop() -> asyncio.AbstractEventLoop:
    uvloop = pytest.importorskip("uvloop")
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


LOOPS = pytest.mark.parametrize(
    "loop", [asyncio.new_event_loop, _uvloop], ids=["asyncio", "uvloop"]
)


async def until(judge: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not judge():  # noqa: ASYNC110  nobody tells
            await asyncio.sleep(0.01)


@asynccontextmanager
async def a_proxy(
    table: ServiceTable, folder: Path, settings: Network | None = None, pods: str = SUBNET
) -> AsyncIterator[ServiceProxy]:
    addresses = Addresses(folder / "addresses.json")
    await addresses.open()
    is_pod = PodSubnets(pods, folder).may_ask
    proxy = ServiceProxy(settings or Network(), NODE, table, addresses, Metrics(), is_pod)
    try:
        async with running(proxy):
            yield proxy
    finally:
        await addresses.close()


@asynccontextmanager
async def a_server(host: str, port: int, word: bytes = b"") -> AsyncIterator[None]:
    """Says `word`, then all that it hears, reversed, once the client has ended its half."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(word)
        heard = await reader.read()
        writer.write(heard[::-1])
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, host, port)
    try:
        yield
    finally:
        server.close()


async def ask(host: str, port: int, said: bytes) -> bytes:
    async with asyncio.timeout(15):
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(said)
        writer.write_eof()
        heard = await reader.read()
        writer.close()
        return heard


def own(*addresses: str) -> None:
    for address in addresses:
        ip("addr", "add", f"{address}/32", "dev", "lo")


@LOOPS
def test_a_service_is_reached_at_its_address_and_each_half_closes_for_itself(
    tmp_path: Path, loop: Loop
) -> None:
    async def work() -> None:
        own("10.88.0.5")
        table = ServiceTable(NODE)
        table.put_service(a_service())
        table.put_slice(a_slice(an_endpoint("10.88.0.5")))
        async with a_server("10.88.0.5", 8080, b"hello "), a_proxy(table, tmp_path) as proxy:
            assert await ask(VIP, 80, b"abc") == b"hello cba"
            big = bytes(range(256)) * 20_000
            assert await ask(VIP, 80, big) == b"hello " + big[::-1]
            await until(lambda: proxy.facts()["connections"] == 0)
        assert f"{VIP} " not in ip("route", "show", "table", "local")

    in_namespace(work, loop)


@LOOPS
def test_a_dead_endpoint_is_passed_over_and_others_take_turns(tmp_path: Path, loop: Loop) -> None:
    async def work() -> None:
        own("10.88.0.5", "10.88.0.6", "10.88.0.7")
        table = ServiceTable(NODE)
        table.put_service(a_service())
        table.put_slice(a_slice(*(an_endpoint(f"10.88.0.{n}") for n in (5, 6, 7))))
        async with (
            a_server("10.88.0.5", 8080, b"5"),
            a_server("10.88.0.6", 8080, b"6"),
            a_proxy(table, tmp_path),
        ):
            heard = {await ask(VIP, 80, b"") for _ in range(9)}
        assert heard == {b"5", b"6"}

    in_namespace(work, loop)


def test_a_service_without_anybody_refuses_and_serves_once_somebody_is_ready(
    tmp_path: Path,
) -> None:
    async def work() -> None:
        own("10.88.0.5")
        table = ServiceTable(NODE)
        table.put_service(a_service())
        table.put_slice(a_slice(an_endpoint("10.88.0.5", ready=False)))
        async with a_server("10.88.0.5", 8080, b"5"), a_proxy(table, tmp_path) as proxy:
            with pytest.raises(ConnectionRefusedError):
                await ask(VIP, 80, b"")
            table.put_slice(a_slice(an_endpoint("10.88.0.5")))
            await until(lambda: proxy.facts()["listening"] == 1)
            assert await ask(VIP, 80, b"") == b"5"
            table.drop_service(("shop", "web"))
            await until(lambda: proxy.facts()["listening"] == 0)
            assert VIP not in ip("route", "show", "table", "local")

    in_namespace(work)


def test_an_endpoint_on_loopback_is_never_connected_to(tmp_path: Path) -> None:
    async def work() -> None:
        table = ServiceTable(NODE)
        table.put_service(a_service())
        table.put_slice(a_slice(an_endpoint("127.0.0.1")))
        async with a_server("127.0.0.1", 8080, b"secret"), a_proxy(table, tmp_path):
            with pytest.raises(ConnectionRefusedError):
                await ask(VIP, 80, b"")

    in_namespace(work)


def test_services_that_lead_to_each_other_are_no_ring(tmp_path: Path) -> None:
    async def work() -> None:
        table = ServiceTable(NODE)
        table.put_service(a_service())
        table.put_service(a_service("other", ip="10.96.0.21"))
        table.put_slice(a_slice(an_endpoint("10.96.0.21")))
        table.put_slice(a_slice(an_endpoint(VIP), service="other"))
        async with a_proxy(table, tmp_path) as proxy:
            assert proxy.facts()["listening"] == 0

    in_namespace(work)


def test_more_connections_than_allowed_are_hung_up_on(tmp_path: Path) -> None:
    async def work() -> None:
        own("10.88.0.5")
        table = ServiceTable(NODE)
        table.put_service(a_service())
        table.put_slice(a_slice(an_endpoint("10.88.0.5")))
        settings = Network(max_connections=1)
        async with a_server("10.88.0.5", 8080, b"5"), a_proxy(table, tmp_path, settings) as proxy:
            reader, writer = await asyncio.open_connection(VIP, 80)
            assert await reader.readexactly(1) == b"5"
            late, late_writer = await asyncio.open_connection(VIP, 80)
            assert await late.read() == b""
            for each in (late_writer, writer):
                each.close()
                await each.wait_closed()
            await until(lambda: proxy.facts()["connections"] == 0)

    in_namespace(work)


def test_one_client_cannot_take_all_connections(tmp_path: Path) -> None:
    async def work() -> None:
        own("10.88.0.5")
        pod, held, table = Neighbour(), list[socket.socket](), ServiceTable(NODE)
        table.put_service(a_service())
        table.put_slice(a_slice(an_endpoint("10.88.0.5")))

        def crowd() -> list[bytes]:
            for _ in range(4):
                held.append(socket.create_connection((VIP, 80), 5))
            return [each.recv(1) for each in held]

        settings = Network(max_connections=4)
        try:
            async with (
                a_server("10.88.0.5", 8080, b"5"),
                a_proxy(table, tmp_path, settings) as proxy,
            ):
                assert sorted(await pod.run(crowd)) == [b"", b"", b"5", b"5"]
                assert await ask(VIP, 80, b"") == b"5"
                for each in held:
                    each.close()
                await until(lambda: proxy.facts()["connections"] == 0)
        finally:
            pod.close()

    in_namespace(work)


@LOOPS
def test_datagrams_go_there_and_back_and_silent_peers_are_forgotten(
    tmp_path: Path, loop: Loop
) -> None:
    async def work() -> None:
        own("10.88.0.5")
        table = ServiceTable(NODE)
        dns: list[JsonObject] = [{"name": "dns", "port": 53, "protocol": "UDP"}]
        table.put_service(a_service(ports=dns))
        table.put_slice(
            a_slice(
                an_endpoint("10.88.0.5"),
                ports=({"name": "dns", "port": 5353, "protocol": "UDP"},),
            )
        )
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind(("10.88.0.5", 5353))
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

        def echo(word: bytes) -> bytes:
            client.send(word)
            heard, peer = server.recvfrom(100)
            assert heard == word
            server.sendto(heard.upper(), peer)
            return client.recv(100)

        with server, client:
            for each in (server, client):
                each.settimeout(10)
            async with a_proxy(table, tmp_path, Network(udp_idle=0.05)) as proxy:
                client.connect((VIP, 53))
                for word in (b"one", b"two"):
                    assert await asyncio.to_thread(echo, word) == word.upper()
                assert len(proxy._clients) == 1
                await asyncio.sleep(0.06)
                proxy._clients.sweep()
                assert len(proxy._clients) == 0

    in_namespace(work, loop)


def test_a_pod_behind_a_cable_reaches_a_service(tmp_path: Path) -> None:
    async def work() -> None:
        pod = Neighbour()
        try:
            table = ServiceTable(NODE)
            table.put_service(a_service())
            table.put_slice(a_slice(an_endpoint(HOST)))
            async with a_server(HOST, 8080, b"from here"), a_proxy(table, tmp_path):
                assert await pod.run(lambda: _blocking_ask(VIP, 80)) == b"from here"
        finally:
            pod.close()

    in_namespace(work)


def _blocking_ask(host: str, port: int) -> bytes:
    with socket.create_connection((host, port), timeout=10) as client:
        client.shutdown(socket.SHUT_WR)
        heard = b""
        while data := client.recv(1000):
            heard += data
        return heard


def test_a_start_after_a_crash_takes_over_its_addresses_and_leaves_others(tmp_path: Path) -> None:
    async def work() -> None:
        own("10.96.0.99")
        crashed = Addresses(tmp_path / "a.json")
        await crashed.open()
        await crashed.keep("services", ["10.96.0.1", "10.96.0.2", "10.96.0.99", "127.0.0.9", "x"])
        routes = ip("route", "show", "table", "local")
        assert "10.96.0.1 " in routes
        assert "10.96.0.2 " in routes
        again = Addresses(tmp_path / "a.json")
        await again.open()
        await again.keep("services", ["10.96.0.2", "10.96.0.99"])
        assert "10.96.0.1 " not in ip("route", "show", "table", "local")
        await again.close()
        routes = ip("route", "show", "table", "local")
        assert "10.96.0.2 " not in routes
        assert "10.96.0.99 " in routes

    in_namespace(work)


async def test_without_the_right_it_is_told_once_and_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def refused(_commands: object) -> dict[int, str]:
        raise NoAddresses("ip: not installed; apt-get install iproute2")

    table = ServiceTable(NODE)
    table.put_service(a_service())
    addresses = Addresses(tmp_path / "a.json", refused)
    proxy = ServiceProxy(Network(), NODE, table, addresses, Metrics(), lambda _: True)
    async with running(proxy):
        table.put_service(a_service("other", ip="10.96.0.21"))
        await until(lambda: not proxy._wake.is_set())
        assert proxy.facts()["cause"] == "ip: not installed; apt-get install iproute2"
    assert caplog.text.count("Services have no addresses here") == 1


def _asked(kind: socket.SocketKind) -> bytes:
    """Ask as a neighbour does; nothing where nobody answers."""
    with socket.socket(socket.AF_INET, kind) as client:
        client.settimeout(2)
        try:
            client.connect((VIP, 80))
            client.send(b"abc")
            return client.recv(100)
        except OSError:
            return b""


@pytest.mark.parametrize(("pods", "heard"), [(SUBNET, b"cba"), ("10.1.0.0/24", b"")])
@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_a_neighbour_that_is_no_pod_of_this_node_reaches_no_service(
    tmp_path: Path, protocol: str, pods: str, heard: bytes
) -> None:
    async def work() -> None:
        own("10.88.0.5")
        neighbour, table = Neighbour(), ServiceTable(NODE)
        table.put_service(a_service(ports=[{"port": 80, "protocol": protocol}]))
        ports: list[Json] = [{"port": 8080, "protocol": protocol}]
        table.put_slice({**a_slice(an_endpoint("10.88.0.5")), "ports": ports})
        loop = asyncio.get_running_loop()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write((await reader.read(100))[::-1])
            await writer.drain()
            writer.close()

        class Echo(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
                transport.sendto(data[::-1], addr)

        transport, _ = await loop.create_datagram_endpoint(Echo, local_addr=("10.88.0.5", 8080))
        server = await asyncio.start_server(serve, "10.88.0.5", 8080)
        kind = socket.SOCK_STREAM if protocol == "TCP" else socket.SOCK_DGRAM
        try:
            async with a_proxy(table, tmp_path, pods=pods):
                assert await neighbour.run(lambda: _asked(kind)) == heard
                assert await asyncio.to_thread(_asked, kind) == b"cba"
        finally:
            neighbour.close()
            transport.close()
            server.close()

    in_namespace(work)


@pytest.mark.parametrize("address", ["169.254.169.254", "127.0.0.1", "0.0.0.0", "224.0.0.1", "::1"])
def test_an_address_with_a_meaning_of_its_own_is_never_a_service_s(address: str) -> None:
    assert not is_service_s(address)
    assert is_service_s(VIP)
