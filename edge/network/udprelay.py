"""UDP through a Service: each client has a socket of its own towards who serves it, until it is silent.

Bounds: clients of all Services together; of more the one that was silent longest goes. A datagram that
nobody takes is lost, as datagrams are.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import cast

log = logging.getLogger(__name__)

Address = tuple[str, int]
MAX_WAITING = 16
"""Datagrams of one client that wait for its socket."""


class Clients:
    """The clients of all Services, longest silent first."""

    def __init__(self, limit: int, idle: float) -> None:
        self._limit = limit
        self._idle = idle
        self._known: OrderedDict[tuple[Front, Address], Back] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def find(self, front: Front, client: Address) -> Back | None:
        back = self._known.get((front, client))
        if back is not None:
            self.heard(front, client)
        return back

    def heard(self, front: Front, client: Address) -> None:
        key = front, client
        if key in self._known:
            self._known[key].heard_at = asyncio.get_running_loop().time()
            self._known.move_to_end(key)

    def add(self, front: Front, client: Address, back: Back) -> None:
        while len(self._known) >= self._limit:
            _, oldest = self._known.popitem(last=False)
            oldest.close()
        self._known[front, client] = back
        self.heard(front, client)

    def drop(self, front: Front, client: Address, back: Back) -> None:
        if self._known.get((front, client)) is back:
            del self._known[front, client]
        back.close()

    def sweep(self) -> None:
        """Forget who was silent for too long."""
        before = asyncio.get_running_loop().time() - self._idle
        while self._known:
            key, back = next(iter(self._known.items()))
            if back.heard_at > before:
                return
            del self._known[key]
            back.close()

    def drop_where(self, judge: Callable[[Front, Address], bool]) -> None:
        """Forget clients of a front whose endpoint is not wanted any more."""
        for (front, client), back in list(self._known.items()):
            if judge(front, back.target):
                self.drop(front, client, back)


class Back(asyncio.DatagramProtocol):
    """One client's socket towards an endpoint."""

    def __init__(self, front: Front, client: Address, target: Address) -> None:
        self._front = front
        self._client = client
        self.target = target
        self.heard_at = 0.0
        self._transport: asyncio.DatagramTransport | None = None
        self._waiting: list[bytes] = []
        self._is_closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        opened = cast("asyncio.DatagramTransport", transport)
        if self._is_closed:
            opened.abort()
            return
        self._transport = opened
        for data in self._waiting:
            opened.sendto(data)
        self._waiting.clear()

    def send(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.sendto(data)
        elif len(self._waiting) < MAX_WAITING:
            self._waiting.append(data)

    def datagram_received(self, data: bytes, _addr: object) -> None:
        self._front.answer(self._client, data)

    def error_received(self, exc: Exception) -> None:
        """Nobody is there: the next datagram asks another."""
        log.debug("an endpoint refused a datagram", extra={"cause": str(exc)})
        self._front.forget(self._client, self)

    def close(self) -> None:
        self._is_closed = True
        self._waiting.clear()
        if self._transport is not None:
            self._transport.abort()
            self._transport = None


class Front(asyncio.DatagramProtocol):
    """A port of a Service. `choose` tells who serves a client, `own` runs the connecting."""

    def __init__(
        self,
        clients: Clients,
        choose: Callable[[str], Sequence[Address]],
        own: Callable[[Back], None],
    ) -> None:
        self._clients = clients
        self._choose = choose
        self._own = own
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        client = (addr[0], addr[1])
        back = self._clients.find(self, client)
        if back is None:
            targets = self._choose(client[0])
            if not targets:
                return
            back = Back(self, client, targets[0])
            self._clients.add(self, client, back)
            self._own(back)
        back.send(data)

    def answer(self, client: Address, data: bytes) -> None:
        self._clients.heard(self, client)
        if self._transport is not None:
            self._transport.sendto(data, client)

    def forget(self, client: Address, back: Back) -> None:
        self._clients.drop(self, client, back)

    def error_received(self, exc: Exception) -> None:
        log.debug("a client refused a datagram", extra={"cause": str(exc)})

    def close(self) -> None:
        self._clients.drop_where(lambda front, _target: front is self)
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
