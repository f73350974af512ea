"""Listening sockets: where they are bound, and one clear line when a port is taken."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl as tls
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from gateway.errors import InvalidSetting

if TYPE_CHECKING:
    from aiohttp import web

    from gateway.runtime.http_protocol import Answer

ENDPOINTS_FILE = "endpoints.json"
"""Name of the file in the data directory that holds the addresses really bound."""
BACKLOG = 1_024
SHUTDOWN_SECONDS = 2.0
HEADER_SECONDS = 10.0
HANDSHAKE_SECONDS = 10.0
"""In which a peer must have finished its TLS handshake."""
MAX_CONNECTIONS = 10_000


class PortTaken(OSError):
    """Another process holds the port; the text names port, holder (if readable) and setting."""


class Endpoints:
    """The addresses really bound: name -> `host:port`, as `endpoints.json` shows them.

    Shape:  `shares_ports` lets other processes of this user listen on the same addresses.
    """

    def __init__(self, *, shares_ports: bool = False) -> None:
        self.shares_ports = shares_ports
        self._bound: dict[str, str] = {}

    def add(self, name: str, host: str, port: int) -> None:
        self._bound[name] = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def get(self, name: str) -> str:
        """Return `host:port`; KeyError when that listener does not run."""
        return self._bound[name]

    def port(self, name: str) -> int:
        return int(self._bound[name].rpartition(":")[2])

    def __contains__(self, name: object) -> bool:
        return name in self._bound

    def __iter__(self) -> Iterator[str]:
        return iter(self._bound)

    def as_dict(self) -> dict[str, str]:
        return dict(self._bound)


def parse_bind(bind: str, setting: str = "bind") -> tuple[str, int]:
    """Read `host:port`, `[v6]:port` or `:port` (all addresses).

    Errors: InvalidSetting, naming the setting.
    """
    host, sep, port = bind.rpartition(":")
    if not sep or not port.isdigit() or int(port) > 65_535:
        raise InvalidSetting(f"{setting}: expected host:port, got {bind!r}")
    return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104  an empty host asks for all addresses


def _holder_of(port: int) -> str | None:
    """Name the process that listens on `port`, as far as /proc lets us read it."""
    inode = _listening_inode(port)
    if inode is None:
        return None
    link = f"socket:[{inode}]"
    for fd in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if fd.readlink().as_posix() == link:
                process = fd.parents[1]
                return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
        except OSError:
            continue  # gone meanwhile, or not ours to read
    return None


def _listening_inode(port: int) -> str | None:
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        try:
            rows = table.read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            cells = row.split()
            if cells[3] == "0A" and int(cells[1].rpartition(":")[2], 16) == port:
                return cells[9]
    return None


def _port_taken(error: OSError, name: str, host: str, port: int, setting: str) -> OSError:
    if error.errno != errno.EADDRINUSE:
        return OSError(error.errno, f"{name}: cannot listen on {host}:{port}: {error.strerror}")
    holder = _holder_of(port)
    by = f" by {holder}" if holder else ""
    return PortTaken(
        errno.EADDRINUSE,
        f"{name}: port {port} on {host} is taken{by}; choose another with --set {setting}={host}:0",
    )


async def listen_tcp(
    endpoints: Endpoints,
    name: str,
    bind: str,
    factory: Callable[[], asyncio.Protocol],
    *,
    setting: str,
    ssl: tls.SSLContext | None = None,
    reuse_port: bool = False,
) -> asyncio.Server:
    """Listen with a protocol factory and note the address under `name`.

    Errors: PortTaken; InvalidSetting for a bad `bind`.
    """
    host, port = parse_bind(bind, setting)
    loop = asyncio.get_running_loop()
    try:
        server = await loop.create_server(
            factory,
            host,
            port,
            ssl=ssl,
            ssl_handshake_timeout=HANDSHAKE_SECONDS if ssl else None,
            backlog=BACKLOG,
            reuse_port=reuse_port or None,
        )
    except OSError as error:
        raise _port_taken(error, name, host, port, setting) from error
    endpoints.add(name, host, server.sockets[0].getsockname()[1])
    return server


def listening_socket(endpoints: Endpoints, name: str, bind: str, *, setting: str) -> socket.socket:
    """Listen, and note the address under `name`; accepting is the caller's.

    Errors: as `listen_tcp`.
    """
    host, port = parse_bind(bind, setting)
    try:
        sock = _bound_alone(host, port)
        try:
            sock.listen(BACKLOG)
        except OSError:
            sock.close()
            raise
    except OSError as error:
        raise _port_taken(error, name, host, port, setting) from error
    sock.setblocking(False)
    endpoints.add(name, host, sock.getsockname()[1])
    return sock


@dataclass(frozen=True, slots=True)
class Door:
    """One address to listen on, and the setting that an operator changes it with."""

    name: str
    bind: str
    setting: str
    ssl: tls.SSLContext | None = None


@contextmanager
def reserved(endpoints: Endpoints, doors: Sequence[Door]) -> Iterator[dict[str, str]]:
    """Hold addresses that other processes of this user will listen on, for the length of the block.

    Shape:  -> setting -> `host:port` with the port that was taken; they are noted in `endpoints`.
    Errors: PortTaken, also when another process shares the port; InvalidSetting for a bad `bind`.
    """
    with ExitStack() as held:
        found = {}
        for door in doors:
            host, port = parse_bind(door.bind, door.setting)
            try:
                if port:
                    _bound_alone(host, port).close()
                sock = held.enter_context(_bound_shared(host, port))
            except OSError as error:
                raise _port_taken(error, door.name, host, port, door.setting) from error
            endpoints.add(door.name, host, sock.getsockname()[1])
            found[door.setting] = endpoints.get(door.name)
        yield found


def _bound_alone(host: str, port: int) -> socket.socket:
    """Bind as nobody else may; sockets in their last minutes are no obstacle."""
    sock = _socket_for(host, port)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return _bound(sock, host, port)


def _bound_shared(host: str, port: int) -> socket.socket:
    sock = _socket_for(host, port)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return _bound(sock, host, port)


def _socket_for(host: str, port: int) -> socket.socket:
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    return socket.socket(family, socket.SOCK_STREAM)


def _bound(sock: socket.socket, host: str, port: int) -> socket.socket:
    try:
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock


@asynccontextmanager
async def listening(
    endpoints: Endpoints, factory: Callable[[], asyncio.Protocol], doors: Sequence[Door]
) -> AsyncIterator[None]:
    """Listen on all `doors` for the length of the block; what is connected then is the caller's to end.

    Errors: as `listen_tcp`; none of them is open then.
    """
    async with AsyncExitStack() as stack:
        for door in doors:
            server = await listen_tcp(
                endpoints,
                door.name,
                door.bind,
                factory,
                setting=door.setting,
                ssl=door.ssl,
                reuse_port=endpoints.shares_ports,
            )
            stack.callback(server.close)
        yield


def doors_of(
    plain: Door, tls_name: str, tls_bind: str, context: tls.SSLContext | None
) -> tuple[Door, ...]:
    """Return the plain door, and beside it one for TLS where there is a context."""
    if context is None:
        return (plain,)
    setting = plain.setting.removesuffix("bind") + "tls_bind"
    return plain, Door(tls_name, tls_bind, setting, context)


@asynccontextmanager
async def serve_app(
    endpoints: Endpoints,
    name: str,
    bind: str,
    app: web.Application,
    *,
    setting: str,
    ssl: tls.SSLContext | None = None,
    max_header_bytes: int = 16_384,
    keepalive_seconds: float = 75.0,
    header_seconds: float = HEADER_SECONDS,
    max_connections: int = MAX_CONNECTIONS,
    answer: Answer | None = None,
) -> AsyncIterator[None]:
    """Serve an aiohttp application for the length of the block.

    Shape:  `answer` says what is answered to bytes that are no request; else it is aiohttp's plain text.
    Units:  the first request of a connection must have its headers within `header_seconds`. Beyond
            `max_connections` open sockets new ones are hung up on.
    Errors: PortTaken; InvalidSetting for a bad `bind`.
    """
    from aiohttp import web  # heavy: only those who serve HTTP pay for it

    host, port = parse_bind(bind, setting)
    options: dict[str, Any] = {
        "access_log": None,
        "keepalive_timeout": keepalive_seconds,
        "max_field_size": max_header_bytes,
        "max_line_size": max_header_bytes,
    }
    runner = web.AppRunner(
        app,
        handle_signals=False,
        shutdown_timeout=SHUTDOWN_SECONDS,
        handler_cancellation=True,
        **options,
    )
    await runner.setup()
    loop = asyncio.get_running_loop()
    assert runner.server is not None  # noqa: S101  setup makes it
    handlers = runner.server
    connection = handlers if answer is None else _answering(handlers, answer, options)
    try:
        try:
            server = await loop.create_server(
                lambda: FirstHeaders(
                    connection(),
                    header_seconds,
                    is_full=lambda: len(handlers.connections) >= max_connections,
                ),
                host,
                port,
                ssl=ssl,
                ssl_handshake_timeout=HANDSHAKE_SECONDS if ssl else None,
                backlog=BACKLOG,
            )
        except OSError as error:
            raise _port_taken(error, name, host, port, setting) from error
        try:
            endpoints.add(name, host, server.sockets[0].getsockname()[1])
            yield
        finally:
            server.close()
    finally:
        await runner.cleanup()


def _answering(
    handlers: web.Server, answer: Answer, options: dict[str, Any]
) -> Callable[[], asyncio.Protocol]:
    from gateway.runtime.http_protocol import AnsweringProtocol

    loop = asyncio.get_running_loop()
    return lambda: AnsweringProtocol(handlers, loop=loop, answer=answer, **options)


class FirstHeaders(asyncio.Protocol):
    """Stands before an HTTP protocol until the first headers are in, and hangs up when they do not come.

    aiohttp limits how long a kept-alive connection is silent, but not how long a new one takes to ask.
    """

    def __init__(
        self, behind: asyncio.Protocol, seconds: float, *, is_full: Callable[[], bool]
    ) -> None:
        self._behind = behind
        self._seconds = seconds
        self._is_full = is_full
        self._seen = b""
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._is_full():
            self._transport.abort()
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._transport.abort)
        self._behind.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._seen = self._seen[-3:] + data
        if b"\r\n\r\n" in self._seen or b"\n\n" in self._seen:
            self._step_aside()
        self._behind.data_received(data)

    def _step_aside(self) -> None:
        self._cancel()
        if self._transport is not None:
            self._transport.set_protocol(self._behind)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def eof_received(self) -> bool | None:
        return self._behind.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel()
        self._behind.connection_lost(exc)

    def pause_writing(self) -> None:
        self._behind.pause_writing()

    def resume_writing(self) -> None:
        self._behind.resume_writing()
