"""Cluster DNS on this node: UDP and TCP on one address, for this node's Pods and itself.

Names of the cluster come from the Services that this node knows, with and without a cloud; all others are
asked of the machine's resolvers. Zone transfers and questions for ANY are refused, and so is who is neither
a Pod of this node nor on it. Bounds: questions that wait for others, TCP connections, seconds of silence.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import cast

from edge.network.addresses import Addresses, NoAddresses
from edge.network.dnsanswers import Elsewhere, Zone
from edge.network.dnsforward import Forwarder
from edge.network.dnsmessages import (
    HEADER,
    IN,
    MAX_MESSAGE,
    Code,
    Query,
    Record,
    Reply,
    Type,
    encode_name,
    read_answer,
    read_query,
    write_failure,
    write_reply,
)
from gateway.config.edge_workloads import Network
from gateway.errors import GatewayError, InvalidSetting, MalformedPacket, Undeliverable
from gateway.observe.metrics import Metrics
from gateway.runtime.listener import Endpoints

log = logging.getLogger(__name__)

OWNER = "dns"
PORT = 53
ENDPOINT = "edge.dns"
RETRY_SECONDS = 30.0
IDLE_SECONDS = 10.0
MAX_CONNECTIONS, MAX_OF_ONE = 64, 16
"""TCP connections, of all clients and of one."""
MAX_WAITING, MAX_WAITING_OF_ONE = 512, 128
"""Questions over UDP that wait for others, of all clients and of one; more are answered with SERVFAIL."""
LOCAL_SECONDS = 30.0
"""For which it is not asked again whose an address is."""
_REFUSED = frozenset({Type.AXFR, Type.IXFR, Type.ANY})
_BIG = 4_096

MayAsk = Callable[[ipaddress.IPv4Address], bool]
"""Says whether an address is a Pod's of this node."""


class ClusterDns:
    """Module."""

    name = "edge.network.dns"

    def __init__(
        self,
        settings: Network,
        address: str,
        zone: Zone,
        forwarder: Forwarder,
        addresses: Addresses,
        is_pod: MayAsk,
        endpoints: Endpoints,
        metrics: Metrics,
        port: int = PORT,
    ) -> None:
        self._settings = settings
        self._address = address
        self._port = port
        self._zone = zone
        self._forwarder = forwarder
        self._addresses = addresses
        self._is_pod = is_pod
        self._endpoints = endpoints
        self._metrics = metrics.edge
        self._waiting: Counter[str] = Counter()
        self._connections: Counter[str] = Counter()
        self._fault = ""
        self._is_up = False
        self._group: asyncio.TaskGroup | None = None

    @property
    def address(self) -> str:
        """Where Pods may ask now; "" while nobody answers there."""
        return self._address if self._is_up else ""

    @property
    def is_well(self) -> bool:
        return not self._fault or self._settings.dns != "on"

    def facts(self) -> dict[str, str | int | bool]:
        found: dict[str, str | int | bool] = {"address": self._address, "answers": self._is_up}
        return {**found, "cause": self._fault} if self._fault else found

    # --- life ---------------------------------------------------------------------------------

    async def run(self, ready: Callable[[], None]) -> None:
        is_told = False
        while True:
            try:
                await self._serve(ready)
            except (NoAddresses, OSError) as error:
                self._fault = error.message if isinstance(error, GatewayError) else _said(error)
                if self._settings.dns == "on":
                    raise InvalidSetting(f"edge.network.dns: {self._fault}") from error
            if not is_told:
                log.warning(
                    "no cluster DNS for Pods here: twinspan doctor says what helps",
                    extra={"address": self._address, "cause": self._fault},
                )
                is_told = True
            ready()
            await asyncio.sleep(RETRY_SECONDS)

    async def _serve(self, ready: Callable[[], None]) -> None:
        """Answer until cancelled. Errors: NoAddresses; OSError."""
        await self._addresses.keep(OWNER, [self._address])
        loop = asyncio.get_running_loop()
        udp, tcp = _bind(self._address, self._port)
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                transport, _ = await loop.create_datagram_endpoint(
                    lambda: _Datagrams(self), sock=udp
                )
                server = await asyncio.start_server(self._connected, sock=tcp, limit=MAX_MESSAGE)
                self._endpoints.add(ENDPOINT, *udp.getsockname())
                self._is_up, self._fault = True, ""
                ready()
                try:
                    await loop.create_future()
                finally:
                    self._is_up, self._group = False, None
                    transport.abort()
                    server.close()
        finally:
            udp.close()
            tcp.close()

    # --- UDP ----------------------------------------------------------------------------------

    def datagram(self, data: bytes, client: tuple[str, int], send: Callable[[bytes], None]) -> None:
        """Answer a datagram, at once or once others have."""
        try:
            found = self._judged(data, client[0])
        except MalformedPacket:
            found = write_failure(data, Code.FORMERR)
        if isinstance(found, Query):
            limit = found.udp_limit
            at_once = self._at_once(found, limit)
            if at_once is None:
                self._later(data, found, client[0], send)
                return
            found = at_once
        if found:
            send(found)

    def _later(self, data: bytes, query: Query, client: str, send: Callable[[bytes], None]) -> None:
        is_full = _is_full(self._waiting, client, MAX_WAITING, MAX_WAITING_OF_ONE)
        if is_full or self._group is None:
            send(self._failed(query))
            return
        self._waiting[client] += 1

        async def answer() -> None:
            try:
                send(await self._slowly(data, query, query.udp_limit, over_tcp=False))
            except Exception:  # top of a task: one odd question must not end all
                log.exception("a question was not answered")
            finally:
                self._waiting -= Counter((client,))  # what comes to nothing goes

        self._group.create_task(answer())

    # --- TCP ----------------------------------------------------------------------------------

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client: str = writer.get_extra_info("peername")[0]
        if _is_full(self._connections, client, MAX_CONNECTIONS, MAX_OF_ONE):
            writer.transport.abort()
            return
        self._connections[client] += 1
        try:
            await self._converse(reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, MalformedPacket) as error:
            log.debug("a client of the DNS went", extra={"cause": str(error)})
        finally:
            self._connections -= Counter((client,))
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host = writer.get_extra_info("peername")[0]
        while True:
            async with asyncio.timeout(IDLE_SECONDS):
                length = int.from_bytes(await reader.readexactly(2), "big")
                data = await reader.readexactly(length)
            found = self._judged(data, host)
            if isinstance(found, Query):
                at_once = self._at_once(found, MAX_MESSAGE)
                found = at_once or await self._slowly(data, found, MAX_MESSAGE, over_tcp=True)
            writer.write(len(found).to_bytes(2, "big") + found)
            async with asyncio.timeout(IDLE_SECONDS):
                await writer.drain()

    # --- answers ------------------------------------------------------------------------------

    def _judged(self, data: bytes, client: str) -> Query | bytes:
        """Return a question that is worth an answer, else the refusal. Errors: MalformedPacket."""
        if not self._may_ask(client):
            self._count("nobody", Code.REFUSED)
            return write_failure(data, Code.REFUSED)
        query = read_query(data)
        if query.opcode:
            return write_failure(data, Code.NOTIMP)
        if query.edns_version:
            return write_reply(query, Reply(Code.BADVERS, is_ours=False))
        if query.type in _REFUSED or query.group != IN:
            self._count("nobody", Code.REFUSED)
            return write_reply(query, Reply(Code.REFUSED, is_ours=False))
        return query

    def _may_ask(self, client: str) -> bool:
        try:
            found = ipaddress.IPv4Address(client)
        except ValueError:
            return False
        return is_of_this_machine(client) or self._is_pod(found)

    def _at_once(self, query: Query, limit: int) -> bytes | None:
        """Return an answer that needs nobody else."""
        found = self._zone.answer(query)
        if isinstance(found, Reply):
            self._count("cluster", found.code)
            return write_reply(query, found, limit)
        if found is None:
            kept = self._forwarder.kept(query, limit)
            if kept is not None:
                self._count("cache", kept[3] & 0xF)
            return kept
        return None

    async def _slowly(self, data: bytes, query: Query, limit: int, *, over_tcp: bool) -> bytes:
        found = self._zone.answer(query)
        try:
            if isinstance(found, Elsewhere):
                reply = await self._followed(query, found)
                self._count("cluster", reply.code)
                return write_reply(query, reply, limit)
            answer = await self._forwarder.ask(data, query, over_tcp=over_tcp)
        except Undeliverable:
            return self._failed(query)
        self._count("upstream", answer[3] & 0xF)
        if len(answer) > limit:
            return write_reply(query, Reply(is_ours=False), limit, is_cut=True)
        return answer

    async def _followed(self, query: Query, found: Elsewhere) -> Reply:
        """Add the addresses of another name; without them the name alone is told."""
        if query.type not in (Type.A, Type.AAAA):
            return found.reply
        question = encode_name(found.target) + query.type.to_bytes(2, "big") + b"\0\1"
        asked = replace(query, name=found.target, question=question, udp_size=_BIG)
        own = self._zone.answer(asked)
        if isinstance(own, Reply):
            return replace(found.reply, answers=[*found.reply.answers, *own.answers])
        if own is not None:  # a name that leads to another such name: who asks may go on
            return found.reply
        data = HEADER.pack(0, 0x0100, 1, 0, 0, 0) + question
        try:
            heard = read_answer(await self._forwarder.ask(data, asked, over_tcp=False))
        except (Undeliverable, MalformedPacket):
            return found.reply
        records = [
            Record(found.target, query.type, ttl, body) for ttl, body in heard.addresses(query.type)
        ]
        return replace(found.reply, answers=[*found.reply.answers, *records])

    def _failed(self, query: Query) -> bytes:
        self._count("nobody", Code.SERVFAIL)
        return write_reply(query, Reply(Code.SERVFAIL, is_ours=False))

    def _count(self, origin: str, code: int) -> None:
        outcome = Code(code).name.lower() if code in _CODES else "other"
        self._metrics.dns_queries.labels(origin, outcome).inc()


_CODES = frozenset(Code)


def _is_full(held: Counter[str], client: str, limit: int, limit_of_one: int) -> bool:
    return held[client] >= limit_of_one or held.total() >= limit


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, dns: ClusterDns) -> None:
        self._dns = dns
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        def send(answer: bytes) -> None:
            if self._transport is not None and not self._transport.is_closing():
                self._transport.sendto(answer, addr)

        self._dns.datagram(data, addr, send)

    def error_received(self, exc: Exception) -> None:
        log.debug("a client of the DNS refused an answer", extra={"cause": str(exc)})


def is_of_this_machine(address: str) -> bool:
    """Say whether an address is this machine's: then what goes there comes from there."""
    return _is_local(address, int(time.monotonic() // LOCAL_SECONDS))


@lru_cache(maxsize=256)
def _is_local(address: str, _when: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, PORT))
            return str(probe.getsockname()[0]) == address
        except OSError:
            return False


def _bind(address: str, port: int) -> tuple[socket.socket, socket.socket]:
    """Return sockets for UDP and TCP on one address. Errors: OSError."""
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        udp.bind((address, port))
        tcp.bind((address, udp.getsockname()[1]))
        tcp.listen(MAX_CONNECTIONS)
    except OSError:
        udp.close()
        tcp.close()
        raise
    return udp, tcp


def _said(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "port 53 is taken; who listens on all addresses must leave this one: ss -lunp 'sport = :53'"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "no right to listen on port 53 (root, or CAP_NET_BIND_SERVICE)"
    return error.strerror or str(error)
