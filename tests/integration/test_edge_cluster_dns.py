"""The edge's cluster DNS, asked by an independent client in a network of the test's own."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rrset
import pytest

from edge.network.addresses import Addresses
from edge.network.build import PodSubnets
from edge.network.dns import MAX_OF_ONE, ClusterDns
from edge.network.dnsanswers import Zone
from edge.network.dnsforward import Forwarder, Resolvers, read_resolvers, read_upstream
from edge.network.servicetable import ServiceTable
from gateway.config.edge_workloads import Network
from gateway.config.switch import Switch
from gateway.errors import InvalidSetting
from gateway.observe.metrics import Metrics
from gateway.runtime.listener import Endpoints
from gateway.runtime.module import running
from tests.network_space import POD, Neighbour, in_namespace, ip, needs_root
from tests.service_samples import NODE, a_service, a_slice, an_endpoint

ADDRESS = "169.254.20.10"
WEB = "web.shop.svc.cluster.local."
Message = dns.message.Message


class Upstream(asyncio.DatagramProtocol):
    """A resolver of others: knows `example.org`, cuts what is `big`, is silent about `silent`."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def answer(self, data: bytes, *, over_tcp: bool) -> bytes | None:
        query = dns.message.from_wire(data)
        name = str(query.question[0].name)
        self.asked.append(name)
        if name.startswith("silent"):
            return None
        reply = dns.message.make_response(query)
        if name.startswith("big") and not over_tcp:
            reply.flags |= dns.flags.TC
        elif name.startswith("big"):
            texts = [f"192.0.2.{n}" for n in range(250)]
            reply.answer.append(dns.rrset.from_text(name, 60, "IN", "A", *texts))
        elif name.lower() == "example.org.":
            reply.answer.append(dns.rrset.from_text(name, 60, "IN", "A", "192.0.2.7"))
        else:
            reply.set_rcode(dns.rcode.NXDOMAIN)
        return reply.to_wire()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        answer = self.answer(data, over_tcp=False)
        if answer is not None and self.transport is not None:
            self.transport.sendto(answer, addr)

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length = int.from_bytes(await reader.readexactly(2), "big")
        answer = self.answer(await reader.readexactly(length), over_tcp=True) or b""
        writer.write(len(answer).to_bytes(2, "big") + answer)
        writer.close()


@asynccontextmanager
async def a_dns(folder: Path, pods: str = "10.77.0.0/24") -> AsyncIterator[Upstream]:
    loop = asyncio.get_running_loop()
    table = ServiceTable(NODE)
    table.replace_services(
        [
            a_service(),
            a_service("db", ip="None"),
            a_service("far", ip="", type="ExternalName", externalName="example.org"),
        ]
    )
    table.put_slice(a_slice(*(an_endpoint(f"10.88.1.{n}") for n in range(200)), service="db"))
    addresses = Addresses(folder / "a.json")
    await addresses.open()
    transport, upstream = await loop.create_datagram_endpoint(
        Upstream, local_addr=("127.0.0.1", 5300)
    )
    server = await asyncio.start_server(upstream.connected, "127.0.0.1", 5300)
    module = ClusterDns(
        Network(),
        ADDRESS,
        Zone("cluster.local", table, NODE),
        Forwarder(Resolvers("127.0.0.1:5300", ADDRESS).now),
        addresses,
        PodSubnets(pods, folder).may_ask,
        Endpoints(),
        Metrics(),
    )
    try:
        async with running(module):
            assert module.address == ADDRESS
            yield upstream
    finally:
        await addresses.close()
        server.close()
        transport.close()


def udp(name: str, kind: str = "A") -> Message:
    return dns.query.udp(dns.message.make_query(name, kind), ADDRESS, timeout=10)


def tcp(name: str, kind: str = "A") -> Message:
    return dns.query.tcp(dns.message.make_query(name, kind), ADDRESS, timeout=10)


async def ask(work: Callable[[], Message]) -> Message:
    return await asyncio.to_thread(work)


def texts(reply: Message) -> list[str]:
    return [str(each) for rrset in reply.answer for each in rrset]


@needs_root
def test_the_cluster_s_names_are_answered_over_udp_and_tcp(tmp_path: Path) -> None:
    async def work() -> None:
        async with a_dns(tmp_path) as upstream:
            for way in (udp, tcp):
                found = await ask(lambda way=way: way(WEB))  # type: ignore[misc]
                assert texts(found) == ["10.96.0.20"]
                assert found.flags & dns.flags.AA
            assert (await ask(lambda: udp("no." + WEB))).rcode() == dns.rcode.NXDOMAIN
            cut = await ask(lambda: udp("db.shop.svc.cluster.local."))
            assert cut.flags & dns.flags.TC
            whole = await ask(lambda: tcp("db.shop.svc.cluster.local."))
            assert len(texts(whole)) == 200
            assert upstream.asked == []

    in_namespace(work)


@needs_root
def test_other_names_are_asked_of_others_once_while_they_last(tmp_path: Path) -> None:
    async def work() -> None:
        async with a_dns(tmp_path) as upstream:
            for name in ("example.org.", "EXAMPLE.org."):
                found = await ask(lambda name=name: udp(name))  # type: ignore[misc]
                assert texts(found) == ["192.0.2.7"]
                assert not found.flags & dns.flags.AA
            assert upstream.asked == ["example.org."]
            assert (await ask(lambda: udp("no.example.org."))).rcode() == dns.rcode.NXDOMAIN
            assert (await ask(lambda: udp("big.example.org."))).flags & dns.flags.TC
            assert len(texts(await ask(lambda: tcp("big.example.org.")))) == 250

    in_namespace(work)


@needs_root
def test_a_name_that_leads_elsewhere_is_followed(tmp_path: Path) -> None:
    async def work() -> None:
        async with a_dns(tmp_path):
            found = await ask(lambda: udp("far.shop.svc.cluster.local."))
            assert texts(found) == ["example.org.", "192.0.2.7"]

    in_namespace(work)


@needs_root
def test_transfers_and_questions_for_all_are_refused(tmp_path: Path) -> None:
    async def work() -> None:
        async with a_dns(tmp_path):
            for kind in ("ANY", "AXFR"):
                found = await ask(lambda kind=kind: tcp(WEB, kind))  # type: ignore[misc]
                assert found.rcode() == dns.rcode.REFUSED

            def garbled() -> bytes:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                    client.settimeout(10)
                    client.sendto(b"\x12\x34\1\0\0\5" + b"\0" * 6, (ADDRESS, 53))
                    return client.recv(100)

            assert (await asyncio.to_thread(garbled))[3] & 0xF == dns.rcode.FORMERR

    in_namespace(work)


@needs_root
@pytest.mark.parametrize(
    ("pods", "code"), [("10.77.0.0/24", "NOERROR"), ("10.1.0.0/24", "REFUSED")]
)
def test_pods_may_ask_and_others_may_not(tmp_path: Path, pods: str, code: str) -> None:
    async def work() -> None:
        pod = Neighbour()
        try:
            async with a_dns(tmp_path, pods):
                found = await pod.run(lambda: udp(WEB))
                assert dns.rcode.to_text(found.rcode()) == code
        finally:
            pod.close()

    assert POD.startswith("10.77.0.")
    in_namespace(work)


@needs_root
def test_busybox_finds_a_service(tmp_path: Path) -> None:
    async def work() -> None:
        async with a_dns(tmp_path):
            done = await asyncio.to_thread(
                subprocess.run,
                ["busybox", "nslookup", "-type=a", WEB.rstrip("."), ADDRESS],
                capture_output=True,
                text=True,
                timeout=20,
                check=False,
            )
            assert "10.96.0.20" in done.stdout, done

    in_namespace(work)


@needs_root
def test_a_taken_port_is_told_and_tried_again_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        addresses = Addresses(tmp_path / "a.json")
        await addresses.open()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as rival:
            rival.bind(("0.0.0.0", 53))
            module = ClusterDns(
                Network(dns=Switch("auto")),
                ADDRESS,
                Zone("cluster.local", ServiceTable(NODE), NODE),
                Forwarder(list),
                addresses,
                lambda _client: True,
                Endpoints(),
                Metrics(),
            )
            async with running(module):
                assert module.address == ""
                assert "port 53 is taken" in str(module.facts()["cause"])
                assert module.is_well
        await addresses.close()
        assert ADDRESS not in ip("route", "show", "table", "local")

    in_namespace(work)
    assert "no cluster DNS for Pods here" in caplog.text


def test_resolvers_are_read_as_the_machine_or_an_operator_says() -> None:
    text = "# x\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\nnameserver x\nsearch a b\n"
    assert read_resolvers(text) == [("192.0.2.1", 53), ("fe80::1", 53)]
    assert read_upstream("192.0.2.1, 192.0.2.2:5353,[fd00::1]:53,fd00::2") == [
        ("192.0.2.1", 53),
        ("192.0.2.2", 5353),
        ("fd00::1", 53),
        ("fd00::2", 53),
    ]
    with pytest.raises(InvalidSetting, match=r"edge\.network\.upstream"):
        read_upstream("dns.example.org:53")


@needs_root
def test_one_client_cannot_take_all_connections(tmp_path: Path) -> None:
    async def work() -> None:
        pod = Neighbour()
        held: list[socket.socket] = []

        def crowd() -> int:
            place = ADDRESS, 53
            held.extend(socket.create_connection(place, 5) for _ in range(MAX_OF_ONE + 4))
            return sum(map(_is_hung_up, held))

        try:
            async with a_dns(tmp_path, "10.77.0.0/24"):
                assert await pod.run(crowd) == 4
                answer = await ask(lambda: tcp(WEB))
                assert dns.rcode.to_text(answer.rcode()) == "NOERROR"
        finally:
            for each in held:
                each.close()
            pod.close()

    in_namespace(work)


def _is_hung_up(connection: socket.socket) -> bool:
    connection.settimeout(0.2)
    try:
        return not connection.recv(1)
    except TimeoutError:
        return False
    except OSError:
        return True
