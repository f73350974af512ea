"""One port for plain and TLS clients: a connection's first byte tells which it is.

The byte is looked at, not taken: the protocol above sees all of it. Sockets are accepted here, as event
loops differ in what they do with a transport whose reading was paused from the start.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl as tls
from collections.abc import Callable, Coroutine

from gateway.runtime.listener import HANDSHAKE_SECONDS

log = logging.getLogger(__name__)

FIRST_SECONDS = 10.0
"""In which a client must say something."""
BREATH_SECONDS = 0.1
"""After an accept that failed: out of files, perhaps."""
HELLO = b"\x16"
"""First byte of TLS: the type of a handshake record. No HTTP method starts with it."""

Context = Callable[[], "tls.SSLContext | None"]
Own = Callable[[Coroutine[object, object, None]], object]


class Doorman:
    """Accepts connections and hands each on, plain or through TLS.

    Shape:  `own` runs a coroutine and ends it with the server; `context` is asked for at each TLS client,
            None sends it away.
    """

    def __init__(self, inner: Callable[[], asyncio.Protocol], context: Context, own: Own) -> None:
        self._inner = inner
        self._context = context
        self._own = own

    async def accept(self, listening: socket.socket, has_room: Callable[[], bool]) -> None:
        """Accept until cancelled; who comes while there is no room is hung up on."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, _ = await loop.sock_accept(listening)
            except OSError as error:
                log.warning("a connection was not accepted", extra={"cause": str(error)})
                await asyncio.sleep(BREATH_SECONDS)
                continue
            if has_room():
                self._own(self._hand_on(client))
            else:
                client.close()

    async def _hand_on(self, client: socket.socket) -> None:
        client.setblocking(False)
        try:
            async with asyncio.timeout(FIRST_SECONDS):
                first = await first_byte(client)
            context = self._context() if first == HELLO else None
            if first == b"" or (first == HELLO and context is None):
                client.close()
                return
            await asyncio.get_running_loop().connect_accepted_socket(
                self._inner,
                client,
                ssl=context,
                ssl_handshake_timeout=HANDSHAKE_SECONDS if context else None,
            )
        except (OSError, TimeoutError) as error:
            log.debug("a connection ended at its start", extra={"cause": str(error)})
            client.close()
        except asyncio.CancelledError:
            client.close()
            raise


async def first_byte(client: socket.socket) -> bytes:
    """Return the first byte, b"" at the end, and leave it where it is. Errors: OSError."""
    loop = asyncio.get_running_loop()
    there = asyncio.Event()
    loop.add_reader(client, there.set)
    try:
        await there.wait()
    finally:
        loop.remove_reader(client)
    return client.recv(1, socket.MSG_PEEK)
