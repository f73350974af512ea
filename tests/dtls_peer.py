"""A DTLS client of the test's own, on OpenSSL: for what command-line clients cannot be asked to do."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from OpenSSL import SSL

from gateway.runtime.dtls import datagrams_of
from gateway.wire.coap import codec
from gateway.wire.coap.codec import Message
from tests.coap_rig import a_request
from tests.hono_rig import until

_binding: Any = importlib.import_module("OpenSSL._util")
ffi, lib = _binding.ffi, _binding.lib


class DtlsDevice(asyncio.DatagramProtocol):
    """One end of a DTLS session."""

    def __init__(self, identity: bytes = b"", key: bytes = b"", file: Path | None = None) -> None:
        context = SSL.Context(SSL.DTLS_CLIENT_METHOD)
        context.set_options(SSL.OP_NO_QUERY_MTU)
        if file is None:
            context.set_cipher_list(b"PSK-AES128-CCM8:@SECLEVEL=0")
            self._answer = self._callback(identity, key)
            lib.SSL_CTX_set_psk_client_callback(context._context, self._answer)
        else:
            context.set_cipher_list(b"ECDHE-ECDSA-AES128-CCM8:@SECLEVEL=0")
            context.use_certificate_file(str(file))
            context.use_privatekey_file(str(file))
        self._tls = SSL.Connection(context, None)
        self._tls.set_connect_state()
        self._tls.set_ciphertext_mtu(1_200)
        self._mid = 0
        self.transport: asyncio.DatagramTransport
        self.seen: list[Message] = []
        self.flights: list[bytes] = []
        self.mute_after: int | None = None
        """Flights after which it hears nothing more."""
        self.is_open = self.is_over = False

    def _callback(self, identity: bytes, key: bytes) -> Any:
        def answer(_ssl: Any, _hint: Any, name: Any, most: int, room: Any, size: int) -> int:
            assert len(identity) < most
            assert len(key) <= size
            ffi.memmove(name, identity + b"\0", len(identity) + 1)
            ffi.memmove(room, key, len(key))
            return len(key)

        return ffi.callback(
            "unsigned int(SSL *, const char *, char *, unsigned int, unsigned char *, unsigned int)",
            answer,
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def datagram_received(self, data: bytes, addr: object) -> None:
        if self.mute_after is not None and len(self.flights) >= self.mute_after:
            return
        self._tls.bio_write(data)
        self.step()

    def step(self) -> None:
        try:
            if not self.is_open:
                self._tls.do_handshake()
                self.is_open = True
            while True:
                self.seen.append(codec.decode(self._tls.recv(4_096)))
        except SSL.WantReadError:
            pass
        except SSL.Error:
            self.is_over = True
        self.flush()

    def flush(self) -> None:
        try:
            while True:
                for datagram in datagrams_of(self._tls.bio_read(65_536)):
                    self.flights.append(datagram)
                    self.transport.sendto(datagram)
        except SSL.WantReadError:
            pass

    async def shake_hands(self) -> None:
        self.step()
        await until(lambda: self.is_open or self.is_over)

    def say_goodbye(self) -> None:
        self._tls.shutdown()
        self.flush()

    def send(self, message: Message) -> None:
        self._tls.send(codec.encode(message))
        self.flush()

    async def ask(self, path: str, payload: bytes = b"x", **more: Any) -> Message:
        self._mid += 1
        seen = len(self.seen)
        self.send(a_request(path, payload, mid=self._mid, **more))
        await until(lambda: len(self.seen) > seen or self.is_over)
        return self.seen[seen]


@asynccontextmanager
async def a_dtls_device(
    address: str, identity: bytes = b"", key: bytes = b"", file: Path | None = None
) -> AsyncIterator[DtlsDevice]:
    """A client of `address` that has not begun yet."""
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    transport, device = await loop.create_datagram_endpoint(
        lambda: DtlsDevice(identity, key, file), remote_addr=(host, int(port))
    )
    try:
        yield device
    finally:
        transport.close()
        await asyncio.sleep(0)
