"""Services of the cluster on this machine: who connects to a Service's address reaches one that serves it.

A listening socket for each port of a Service that somebody serves, on the Service's own address; where
nobody serves, the machine itself refuses, as it does for kube-proxy. Connections come from this machine to
who serves: the client's address is not kept. No rules of a packet filter are made. An address of this machine
is answered on all of its links: who is neither a Pod of this node nor on it is refused, as nothing else would
keep a neighbour on the LAN from the cluster's Services.

What is not there: NodePorts, external addresses, load balancers, SCTP, IPv6. An endpoint on loopback is
never connected to: it would be open to all Pods.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from edge.network.addresses import Addresses, NoAddresses, is_service_s
from edge.network.dns import is_of_this_machine
from edge.network.picking import Picker, Target
from edge.network.servicetable import Endpoint, Key, Service, ServicePort, ServiceTable, usable
from edge.network.tcprelay import Address, Half, connect, keep_alive
from edge.network.udprelay import Back, Clients, Front
from gateway.config.edge_workloads import Network
from gateway.observe.metrics import Metrics

log = logging.getLogger(__name__)

OWNER = "services"
GATHER_SECONDS = 0.02
"""For which changes are gathered."""
RETRY_SECONDS = 30.0
"""After which refused addresses and taken ports are tried again."""
SWEEP_SECONDS = 5.0
BREATHS = 25
"""Services after which others get their turn."""
BACKLOG = 128
MAX_TRIES = 5
"""Endpoints that one connection tries."""
ACCEPTS = 32
"""Connections that are accepted at a time."""
BREATH_SECONDS = 0.1
"""After an accept that failed: out of files, perhaps."""

IsPod = Callable[[ipaddress.IPv4Address], bool]
"""Says whether an address is a Pod's of this node."""
Place = tuple[str, str, int]
"""Address, protocol and port."""


@dataclass(slots=True)
class _Port:
    """One port of a Service that is listened on."""

    place: Place
    picker: Picker = field(default_factory=Picker)
    listening: socket.socket | None = None
    front: Front | None = None


class ServiceProxy:
    """Module: the sockets and what goes through them."""

    name = "edge.network.proxy"

    def __init__(
        self,
        settings: Network,
        node: str,
        table: ServiceTable,
        addresses: Addresses,
        metrics: Metrics,
        is_pod: IsPod,
    ) -> None:
        self._settings = settings
        self._node = node
        self._table = table
        self._addresses = addresses
        self._is_pod = is_pod
        self._metrics = metrics.edge
        self._clients = Clients(settings.max_clients, settings.udp_idle)
        self._ports: dict[Place, _Port] = {}
        self._of_service: dict[Key, frozenset[Place]] = {}
        self._dirty: set[Key] = set()
        self._failed: dict[Place, str] = {}
        self._wake = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None
        self._halves: set[Half] = set()
        self._open: Counter[str] = Counter()
        """Connections, by client."""
        self._fault = ""
        self._is_full_told = False
        self.reserved: frozenset[str] = frozenset()
        """Addresses of Services that another room answers for."""
        table.listen(self._changed)

    # --- what an operator asks ----------------------------------------------------------------

    @property
    def is_well(self) -> bool:
        return not self._fault or self._settings.services != "on"

    def facts(self) -> dict[str, str | int | bool]:
        found: dict[str, str | int | bool] = {
            "services": len(self._table),
            "listening": len(self._ports),
            "connections": self._open.total(),
        }
        if self._fault:
            found["cause"] = self._fault
        if self._failed:
            place, why = next(iter(self._failed.items()))
            found["not-listening"] = len(self._failed)
            found["first"] = f"{place[0]}:{place[2]}/{place[1]}: {why}"
        return found

    # --- life ---------------------------------------------------------------------------------

    async def run(self, ready: Callable[[], None]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                self._dirty.update(service.key for service in self._table.services())
                await self._reconcile()
                ready()
                group.create_task(self._sweep(), name="edge.network.proxy sweep")
                while True:
                    await self._next()
                    await self._reconcile()
        finally:
            self._group = None
            for place in list(self._ports):
                self._close(place)
            for half in tuple(self._halves):
                half.abort()

    def _changed(self, keys: set[Key]) -> None:
        self._dirty |= keys
        self._wake.set()

    async def _next(self) -> None:
        """Wait for a change, or until what failed is worth another try."""
        try:
            async with asyncio.timeout(RETRY_SECONDS if self._fault or self._failed else None):
                await self._wake.wait()
        except TimeoutError:
            self._dirty.update(service.key for service in self._table.services())
        await asyncio.sleep(GATHER_SECONDS)
        self._wake.clear()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self._clients.sweep()

    # --- what is listened on ------------------------------------------------------------------

    async def _reconcile(self) -> None:
        dirty, self._dirty = self._dirty, set()
        if not dirty:
            return
        if not await self._hold_addresses():
            self._dirty |= dirty
            return
        for number, key in enumerate(sorted(dirty)):
            if number % BREATHS == 0:
                await asyncio.sleep(0)  # a thousand at a start must not hold up all else
            await self._reconcile_service(key)

    async def _hold_addresses(self) -> bool:
        """Have this machine have all addresses; False where it may not."""
        every = (a for s in self._table.services() for a in s.addresses)
        wanted = [a for a in every if a not in self.reserved and is_service_s(a)]
        try:
            await self._addresses.keep(OWNER, wanted)
        except NoAddresses as error:
            if self._fault != error.message:
                self._fault = error.message
                log.warning(
                    "Services have no addresses here: twinspan doctor says what helps",
                    extra={"cause": error.message},
                )
            return False
        self._fault = ""
        return True

    async def _reconcile_service(self, key: Key) -> None:
        service = self._table.find(*key)
        wanted = {} if service is None else dict(self._wanted(service))
        for place in self._of_service.pop(key, frozenset()) - wanted.keys():
            self._close(place)
        held: set[Place] = set()
        for place, targets in wanted.items():
            port = self._ports.get(place) or await self._listen(place)
            if port is None:
                continue
            held.add(place)
            port.picker.set(targets, service.affinity if service else 0)
            self._clients.drop_where(
                lambda front, target, port=port: (
                    front is port.front  # type: ignore[misc]
                    and target not in port.picker.targets
                )
            )
        if held:
            self._of_service[key] = frozenset(held)

    def _wanted(self, service: Service) -> list[tuple[Place, list[Target]]]:
        """Return the ports that somebody serves, and who."""
        chosen = usable(service, self._table.endpoints(service.key), self._node)
        found = []
        for address in service.addresses:
            if address in self.reserved or not is_service_s(address):
                continue
            for port in service.ports:
                targets = [t for e in chosen if (t := self._target(e, port)) is not None]
                if targets and port.protocol in ("TCP", "UDP"):
                    found.append(((address, port.protocol, port.port), targets))
        return found

    def _target(self, endpoint: Endpoint, port: ServicePort) -> Target | None:
        number = endpoint.ports.get((port.name, port.protocol))
        if not number or not is_reachable(endpoint.address):
            return None
        if self._table.at_address(endpoint.address) is not None:
            return None  # Services that lead to each other would be a ring
        return Target((endpoint.address, number), endpoint.node == self._node)

    async def _listen(self, place: Place) -> _Port | None:
        if len(self._ports) >= self._settings.max_services:
            if not self._is_full_told:
                self._is_full_told = True
                log.warning(
                    "more ports of Services than edge.network.max_services are left out",
                    extra={"limit": self._settings.max_services},
                )
            return None
        port = _Port(place)
        try:
            await (self._listen_tcp(port) if place[1] == "TCP" else self._listen_udp(port))
        except OSError as error:
            why = error.strerror or str(error)
            if place not in self._failed:
                log.warning(
                    "a port of a Service cannot be listened on",
                    extra={"address": f"{place[0]}:{place[2]}", "cause": why},
                )
            self._failed[place] = why
            return None
        self._failed.pop(place, None)
        self._ports[place] = port
        self._metrics.service_ports.set(len(self._ports))
        return port

    async def _listen_tcp(self, port: _Port) -> None:
        address, _, number = port.place
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((address, number))
            listening.listen(BACKLOG)
        except OSError:
            listening.close()
            raise
        port.listening = listening
        asyncio.get_running_loop().add_reader(listening, self._accept, port)

    async def _listen_udp(self, port: _Port) -> None:
        address, _, number = port.place
        loop = asyncio.get_running_loop()

        def choose(client: str) -> Sequence[Address]:
            return self._choose(port, client) if self._may_use(client) else ()

        front = Front(self._clients, choose, self._open_back)
        await loop.create_datagram_endpoint(lambda: front, local_addr=(address, number))
        port.front = front

    def _close(self, place: Place) -> None:
        port = self._ports.pop(place, None)
        if port is None:
            return
        if port.listening is not None:
            asyncio.get_running_loop().remove_reader(port.listening)
            port.listening.close()
        if port.front is not None:
            port.front.close()
        self._metrics.service_ports.set(len(self._ports))

    # --- TCP ----------------------------------------------------------------------------------

    def _accept(self, port: _Port) -> None:
        for _ in range(ACCEPTS):
            if port.listening is None or self._group is None:
                return
            try:
                client, (host, _) = port.listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                log.warning("a connection was not accepted", extra={"cause": str(error)})
                self._pause(port)
                return
            if not self._may_use(host):
                client.close()
                self._metrics.service_connections.labels("tcp", "refused").inc()
                continue
            if self._is_full(host):
                client.close()
                self._metrics.service_connections.labels("tcp", "full").inc()
                continue
            self._open[host] += 1
            self._group.create_task(self._carried(port, client, host))

    def _pause(self, port: _Port) -> None:
        loop, listening = asyncio.get_running_loop(), port.listening
        if listening is None:
            return
        loop.remove_reader(listening)

        def again() -> None:
            if port.listening is listening and self._ports.get(port.place) is port:
                loop.add_reader(listening, self._accept, port)

        loop.call_later(BREATH_SECONDS, again)

    async def _carried(self, port: _Port, client: socket.socket, host: str) -> None:
        try:
            await self._carry(port, client, host)
        except Exception:  # top of a task: one odd connection must not end all
            log.exception("a connection through a Service failed")

    async def _carry(self, port: _Port, client: socket.socket, host: str) -> None:
        """Bring a client together with who serves it; from then on the two go on by themselves."""
        loop = asyncio.get_running_loop()
        client.setblocking(False)
        ends = _Ends(partial(self._ended, host))
        try:
            targets = self._choose(port, host)[:MAX_TRIES]
            back, target = await connect(targets, ends.ended)
        except OSError as error:
            log.debug("nobody serves a connection", extra={"cause": str(error)})
            self._metrics.service_connections.labels("tcp", "failed").inc()
            with suppress(OSError):  # a reset tells more than an end
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.close()
            self._left(host)
            return
        except BaseException:
            client.close()
            self._left(host)
            raise
        self._halves.add(back)
        ends.halves.append(back)
        port.picker.served(host, target, loop.time())
        self._metrics.service_connections.labels("tcp", "carried").inc()
        try:
            _, front = await loop.connect_accepted_socket(lambda: Half(ends.ended), client)
        except OSError:
            client.close()
            ends.missing()
            back.abort()
            return
        except BaseException:
            client.close()
            back.abort()
            raise
        self._halves.add(front)
        ends.halves.append(front)
        if front.transport is not None:
            keep_alive(front.transport)
        front.join(back)

    def _ended(self, client: str, halves: Sequence[Half]) -> None:
        self._left(client)
        self._halves.difference_update(halves)

    def _is_full(self, client: str) -> bool:
        """True where no more connections are taken: no client gets more than half of them."""
        most = self._settings.max_connections
        return self._open.total() >= most or self._open[client] >= max(1, most // 2)

    def _left(self, client: str) -> None:
        self._open -= Counter((client,))  # what comes to nothing goes

    def _may_use(self, client: str) -> bool:
        """True for this machine and its Pods."""
        return is_of_this_machine(client) or self._is_pod(ipaddress.IPv4Address(client))

    def _choose(self, port: _Port, client: str) -> list[Address]:
        return port.picker.order(client, asyncio.get_running_loop().time())

    # --- UDP ----------------------------------------------------------------------------------

    def _open_back(self, back: Back) -> None:
        if self._group is None:
            back.close()
            return
        self._metrics.service_connections.labels("udp", "carried").inc()
        self._group.create_task(self._connect_back(back))

    async def _connect_back(self, back: Back) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_datagram_endpoint(lambda: back, remote_addr=back.target)
        except OSError as error:
            log.debug("no socket for a datagram", extra={"cause": str(error)})
            back.close()


class _Ends:
    """Tells once that both sides of a connection have ended."""

    def __init__(self, tell: Callable[[Sequence[Half]], None]) -> None:
        self._tell = tell
        self._left = 2
        self.halves: list[Half] = []

    def ended(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._tell(self.halves)

    def missing(self) -> None:
        """One side never came."""
        self.ended()


def is_reachable(address: str) -> bool:
    """Say whether an endpoint may be connected to for others."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    return found.version == 4 and not (
        found.is_loopback or found.is_unspecified or found.is_multicast or found.is_link_local
    )
