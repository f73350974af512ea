"""A TLS listener for thousands who come at once: so many handshakes at a time, the others wait their turn.

A handshake costs milliseconds of the server's time. When a whole fleet comes back in one moment and all
handshakes are begun together, each takes longer than anybody waits for it, and all begin again: nobody
gets in. One after another, those who waited longest get in, and the time goes into handshakes that succeed.

Bounds: `HANDSHAKES` at a time, half of them from one address; ten seconds for each; who has not said a first
word yet holds none. Who waits costs a socket and nothing else, who gave up meanwhile costs no handshake.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl as tls
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress

from gateway.runtime.either_tls import FIRST_SECONDS, first_byte
from gateway.runtime.listener import HANDSHAKE_SECONDS, MAX_CONNECTIONS, Endpoints, listening_socket

log = logging.getLogger(__name__)

HANDSHAKES = 64
ESTABLISHED = b"\x01"
"""State of a connection that its peer has not ended (the first byte of `struct tcp_info`)."""
BREATH_SECONDS = 0.1
"""After an accept that failed: out of files, perhaps."""


class Gate:
    """Accepts connections and lets them through."""

    def __init__(self, factory: Callable[[], asyncio.Protocol], context: tls.SSLContext) -> None:
        self._factory = factory
        self._context = context
        self._slots = asyncio.Semaphore(HANDSHAKES)
        self._shares: defaultdict[str, asyncio.Semaphore] = defaultdict(_share)
        self._waiting: defaultdict[str, int] = defaultdict(int)
        self._tasks: set[asyncio.Task[None]] = set()

    async def accept(self, listening: socket.socket) -> None:
        """Accept until cancelled; who comes when too many wait is hung up on."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    self._take(*await loop.sock_accept(listening))
                    self._take_all(listening)
                except OSError as error:
                    log.warning("a connection was not accepted", extra={"cause": str(error)})
                    await asyncio.sleep(BREATH_SECONDS)
        finally:
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _take_all(self, listening: socket.socket) -> None:
        """Take who else is there: one in a turn of a busy loop would be too few. Errors: OSError."""
        with suppress(BlockingIOError):
            while True:
                self._take(*listening.accept())

    def _take(self, client: socket.socket, address: tuple[str, int]) -> None:
        if len(self._tasks) < MAX_CONNECTIONS:
            self._own(self._let_in(client, address[0]))
        else:
            client.close()

    def _own(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _let_in(self, client: socket.socket, peer: str) -> None:
        client.setblocking(False)
        self._waiting[peer] += 1
        try:
            async with asyncio.timeout(FIRST_SECONDS):
                is_there = await first_byte(client) != b""
            if is_there:
                async with self._shares[peer], self._slots:
                    await self._shake_hands(client)
            else:
                client.close()
        except (OSError, TimeoutError) as error:
            log.debug("a connection ended at its start", extra={"cause": str(error)})
            client.close()
        except asyncio.CancelledError:
            client.close()
            raise
        finally:
            self._waiting[peer] -= 1
            if not self._waiting[peer]:
                del self._waiting[peer]
                self._shares.pop(peer, None)

    async def _shake_hands(self, client: socket.socket) -> None:
        if client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) != ESTABLISHED:
            client.close()
            return
        await asyncio.get_running_loop().connect_accepted_socket(
            self._factory,
            client,
            ssl=self._context,
            ssl_handshake_timeout=HANDSHAKE_SECONDS,
        )


def _share() -> asyncio.Semaphore:
    return asyncio.Semaphore(HANDSHAKES // 2)


@asynccontextmanager
async def listening_gate(
    endpoints: Endpoints,
    name: str,
    bind: str,
    factory: Callable[[], asyncio.Protocol],
    *,
    ssl: tls.SSLContext,
    setting: str,
) -> AsyncIterator[None]:
    """Listen for the length of the block; what is connected then is the caller's to end.

    Errors: PortTaken; InvalidSetting for a bad `bind`.
    """
    sock = listening_socket(endpoints, name, bind, setting=setting)
    accepting = asyncio.get_running_loop().create_task(Gate(factory, ssl).accept(sock))
    try:
        yield
    finally:
        accepting.cancel()
        await asyncio.gather(accepting, return_exceptions=True)
        sock.close()
