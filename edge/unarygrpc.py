"""gRPC for calls with one request and one answer: over Unix sockets, as a client also over TCP.

It is built on grpclib's HTTP/2.

grpclib's own server and client read a message of any length into memory; here it is capped. Nobody imports
this module but who serves mappers: the HTTP/2 library is loaded with it.

Bounds: connections, calls at a time on all of them, bytes of a message, seconds of a call.
Source: gRPC over HTTP/2.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from urllib.parse import quote, unquote

from grpclib.client import Handler as ClientHandler
from grpclib.config import Configuration
from grpclib.const import Status
from grpclib.exceptions import StreamTerminatedError
from grpclib.protocol import AbstractHandler, H2Protocol, Stream
from grpclib.utils import Wrapper
from h2.config import H2Configuration
from h2.exceptions import ProtocolError

from gateway.errors import GatewayError, Rejected, TooLarge, Undeliverable
from gateway.wire.dmi.messages import MAX_MESSAGE

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 64
MAX_CALLS = 64
SERVE_SECONDS = 30.0
"""How long one call may take, reading its request included."""
_HEAD = struct.Struct(">BI")
_STATUS = {
    400: Status.INVALID_ARGUMENT,
    401: Status.UNAUTHENTICATED,
    403: Status.PERMISSION_DENIED,
    404: Status.NOT_FOUND,
    409: Status.ABORTED,
    413: Status.RESOURCE_EXHAUSTED,
    429: Status.RESOURCE_EXHAUSTED,
    501: Status.UNIMPLEMENTED,
    503: Status.UNAVAILABLE,
    504: Status.DEADLINE_EXCEEDED,
}

Call = Callable[[bytes], Awaitable[bytes]]
"""Answers one request. Errors: GatewayError, told as the gRPC status of its own."""


class CallFailed(GatewayError):
    """The peer answered with a gRPC status that is not OK; `grpc_status` says which."""

    status = 502
    code = "edge.dmi.refused"

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{_name_of(status)}: {message}" if message else _name_of(status))
        self.grpc_status = status


def _name_of(status: int) -> str:
    return Status(status).name if status in Status._value2member_map_ else str(status)


class _Protocol(H2Protocol):
    """HTTP/2 that ends a connection of odd bytes quietly, whatever the library makes of them."""

    def data_received(self, data: bytes) -> None:
        try:
            super().data_received(data)
        except (ProtocolError, ValueError, LookupError, NotImplementedError, AssertionError):
            log.debug("bytes that are not HTTP/2", exc_info=True)
            self.processor.close("bytes that are not HTTP/2")


def _h2(*, is_client: bool) -> H2Configuration:
    return H2Configuration(
        client_side=is_client,
        header_encoding="ascii",
        validate_inbound_headers=False,
        validate_outbound_headers=False,
        normalize_inbound_headers=False,
        normalize_outbound_headers=False,
    )


def _framed(message: bytes) -> bytes:
    return _HEAD.pack(0, len(message)) + message


async def _read_message(stream: Stream) -> bytes | None:
    """Return one message, None where the stream ended before it.

    Errors: TooLarge; CallFailed for one that is compressed or cut off.
    """
    try:
        head = await stream.recv_data(_HEAD.size)
        if not head:
            return None
        is_compressed, size = _HEAD.unpack(head)
        if is_compressed:
            raise CallFailed(Status.UNIMPLEMENTED.value, "compressed messages are not read")
        if size > MAX_MESSAGE:
            raise TooLarge(f"a message of {size} bytes; at most {MAX_MESSAGE}")
        return bytes(await stream.recv_data(size))
    except AssertionError as error:  # how the library says that the stream ended early
        raise CallFailed(Status.INTERNAL.value, "a message is cut off") from error


def _whole(message: bytes | None) -> bytes:
    if message is None:
        raise CallFailed(Status.INTERNAL.value, "a message is missing")
    return message


# --- serving ---------------------------------------------------------------------------------------


class GrpcServer:
    """Calls by path; listens from `listen` to `close`."""

    def __init__(self, calls: Mapping[str, Call]) -> None:
        self.calls = calls
        self._handlers: set[_Serving] = set()
        self._server: asyncio.Server | None = None

    async def listen(self, listening: socket.socket) -> None:
        """Serve a bound Unix socket."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(self._connected, sock=listening)

    def _connected(self) -> asyncio.Protocol:
        if len(self._handlers) >= MAX_CONNECTIONS:
            log.warning("too many connections of mappers", extra={"limit": MAX_CONNECTIONS})
            return _Refused()
        handler = _Serving(self)
        protocol = _Protocol(handler, Configuration().__for_server__(), _h2(is_client=False))
        handler.protocol = protocol
        self._handlers.add(handler)
        return protocol

    def check_room(self) -> None:
        """Refuse a call, its own task included, over the limit. Errors: Rejected, 429."""
        if sum(len(handler.tasks) for handler in self._handlers) > MAX_CALLS:
            raise Rejected(f"more than {MAX_CALLS} calls at a time", status=429)

    def gone(self, handler: _Serving) -> None:
        self._handlers.discard(handler)

    async def close(self) -> None:
        """Stop listening, end what runs and wait for its end."""
        if self._server is not None:
            self._server.close()
        tasks = [task for handler in self._handlers for task in handler.tasks.values()]
        for handler in list(self._handlers):
            if handler.protocol is not None and hasattr(handler.protocol, "processor"):
                handler.protocol.processor.close("the server stops")
        if tasks:
            await asyncio.wait(tasks)


class _Refused(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


class _Serving(AbstractHandler):
    """One connection: a task for each call."""

    def __init__(self, server: GrpcServer) -> None:
        self._server = server
        self.protocol: H2Protocol | None = None
        self.tasks: dict[Stream, asyncio.Task[None]] = {}

    def accept(
        self, stream: Stream, headers: list[tuple[str, str]], release_stream: Callable[[], None]
    ) -> None:
        work = self._serve(stream, dict(headers), release_stream)
        self.tasks[stream] = asyncio.get_running_loop().create_task(work, name="grpc call")

    def cancel(self, stream: Stream) -> None:
        task = self.tasks.get(stream)
        if task is not None:
            task.cancel()

    def close(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        self._server.gone(self)

    async def _serve(
        self, stream: Stream, headers: Mapping[str, str], release: Callable[[], None]
    ) -> None:
        try:
            async with asyncio.timeout(SERVE_SECONDS):
                await self._answer(stream, headers)
        except (TimeoutError, OSError, ProtocolError) as error:
            log.debug("a call ended early", extra={"cause": str(error) or type(error).__name__})
        except Exception:  # the top of a call's task
            log.exception("a call failed")
            with suppress(OSError, ProtocolError, AttributeError):
                await _refuse(stream, Status.INTERNAL, "internal error")
        finally:
            self.tasks.pop(stream, None)
            with suppress(OSError, ProtocolError, AttributeError, KeyError):
                release()

    async def _answer(self, stream: Stream, headers: Mapping[str, str]) -> None:
        call = self._server.calls.get(headers.get(":path", ""))
        if call is None or not headers.get("content-type", "").startswith("application/grpc"):
            await _refuse(stream, Status.UNIMPLEMENTED, "no such method")
            return
        try:
            self._server.check_room()
            answer = await call(_whole(await _read_message(stream)))
        except CallFailed as error:
            await _refuse(stream, Status(error.grpc_status), error.message)
            return
        except GatewayError as error:
            await _refuse(stream, _STATUS.get(error.status, Status.INTERNAL), error.message)
            return
        await stream.send_headers([(":status", "200"), ("content-type", "application/grpc+proto")])
        await stream.send_data(_framed(answer))
        await stream.send_headers(_trailers(Status.OK, ""), end_stream=True)


async def _refuse(stream: Stream, status: Status, message: str) -> None:
    headers = [(":status", "200"), ("content-type", "application/grpc+proto")]
    await stream.send_headers(headers + _trailers(status, message), end_stream=True)
    if stream.closable:
        stream.reset_nowait()


def _trailers(status: Status, message: str) -> list[tuple[str, str]]:
    said = [("grpc-message", quote(message, safe=" !#$&'()*+,/:;=?@[]\"-._~"))] if message else []
    return [("grpc-status", str(status.value)), *said]


# --- calling ---------------------------------------------------------------------------------------


class GrpcClient:
    """One connection, to a Unix socket or over TCP."""

    def __init__(
        self,
        protocol: H2Protocol,
        handler: ClientHandler,
        authority: str = "localhost",
        agent: str = "",
    ) -> None:
        self._protocol = protocol
        self._handler = handler
        self._authority = authority
        self._agent = agent

    @classmethod
    async def connect(cls, path: str, seconds: float) -> GrpcClient:
        """Connect. Errors: OSError, TimeoutError."""
        handler = ClientHandler()

        def make() -> H2Protocol:
            return _Protocol(handler, Configuration().__for_client__(), _h2(is_client=True))

        loop = asyncio.get_running_loop()
        async with asyncio.timeout(seconds):
            _, protocol = await loop.create_unix_connection(make, path)
        return cls(protocol, handler)

    @classmethod
    async def connect_tcp(cls, host: str, port: int, seconds: float, agent: str = "") -> GrpcClient:
        """Connect without TLS; `agent` is sent as `user-agent`. Errors: OSError, TimeoutError."""
        handler = ClientHandler()

        def make() -> H2Protocol:
            return _Protocol(handler, Configuration().__for_client__(), _h2(is_client=True))

        loop = asyncio.get_running_loop()
        async with asyncio.timeout(seconds):
            _, protocol = await loop.create_connection(make, host, port)
        authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return cls(protocol, handler, authority, agent)

    @property
    def is_lost(self) -> bool:
        return bool(self._handler.connection_lost)

    def close(self) -> None:
        if not self.is_lost:
            self._protocol.processor.close("done")

    async def call(self, path: str, request: bytes, seconds: float, *, trace: str = "") -> bytes:
        """Call a method.

        Shape:  `trace` is a `traceparent`, sent as metadata.
        Errors: CallFailed with the peer's status; Undeliverable for a connection that is or gets lost, and
                for no answer in time.
        """
        if self.is_lost:
            raise Undeliverable("the connection is lost")
        task = asyncio.current_task()
        before = 0 if task is None else task.cancelling()
        # The library wakes whoever waits by cancelling its task, perhaps twice: it gets one of its own.
        work = asyncio.get_running_loop().create_task(self._call(path, request, seconds, trace))
        try:
            async with asyncio.timeout(seconds):
                return await work
        except TimeoutError as error:
            raise Undeliverable(f"no answer within {seconds:g} s") from error
        except (asyncio.CancelledError, StreamTerminatedError, OSError, ProtocolError) as error:
            if task is not None and task.cancelling() > before:
                raise asyncio.CancelledError from error  # whoever cancelled this call is not let down
            raise Undeliverable(f"the connection is lost: {error}") from error

    async def _call(self, path: str, request: bytes, seconds: float, trace: str) -> bytes:
        wrapper = Wrapper()
        stream = self._protocol.processor.connection.create_stream(wrapper=wrapper)
        release = await stream.send_request(
            [
                (":method", "POST"),
                (":scheme", "http"),
                (":path", path),
                (":authority", self._authority),
                ("grpc-timeout", f"{int(seconds * 1_000)}m"),
                ("te", "trailers"),
                ("content-type", "application/grpc+proto"),
                *([("user-agent", self._agent)] if self._agent else []),
                *([("traceparent", trace)] if trace else []),
            ],
            _processor=self._protocol.processor,
        )
        try:
            with wrapper:
                return await _exchange(stream, request)
        finally:
            with suppress(OSError, ProtocolError, AttributeError, KeyError):
                if stream.closable:
                    stream.reset_nowait()
                release()


async def _exchange(stream: Stream, request: bytes) -> bytes:
    await stream.send_data(_framed(request), end_stream=True)
    headers = dict(await stream.recv_headers())
    if headers.get("grpc-status", "0") != "0":
        raise _failure(headers)
    if headers.get(":status") != "200":
        raise CallFailed(Status.UNKNOWN.value, f"HTTP status {headers.get(':status')}")
    answer = await _read_message(stream)
    trailers = dict(await stream.recv_trailers())
    if trailers.get("grpc-status") != "0":
        raise _failure(trailers)
    return _whole(answer)


def _failure(headers: Mapping[str, str]) -> CallFailed:
    said = headers.get("grpc-status", "")
    status = int(said) if said.isascii() and said.isdigit() and len(said) < 4 else 2
    return CallFailed(status, unquote(headers.get("grpc-message", ""))[:1_000])
