"""Names of others: asked of the machine's resolvers, and kept for as long as they say.

Each question goes out from a port of its own with an id of its own. Bounds: questions on their way, answers
kept, seconds for all tries. The resolvers are read again when their file changes.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from edge.network.dnsmessages import MAX_MESSAGE, Heard, Query, read_answer, readdressed
from gateway.errors import GatewayError, InvalidSetting, MalformedPacket, Undeliverable
from gateway.runtime.listener import parse_bind

log = logging.getLogger(__name__)

PORT = 53
MAX_UNDER_WAY = 256
MAX_KEPT = 1_000
MAX_KEPT_BYTES = 1_048_576
MAX_SECONDS = 300
"""For which an answer is kept at most."""
TRY_SECONDS = 2.0
TRIES = 2
MAX_RESOLVERS = 3
MAX_FILE = 65_536
_NO_CODES = frozenset({2, 5})
"""SERVFAIL and REFUSED: the next resolver may know more."""

Address = tuple[str, int]


class Resolvers:
    """Where others' names are asked: as set, else as the machine's file says."""

    def __init__(self, said: str, own: str, file: Path = Path("/etc/resolv.conf")) -> None:
        self._said = read_upstream(said)
        self._own = own
        self._file = file
        self._seen: tuple[int, int] | None = None
        self._found: list[Address] = []

    def now(self) -> list[Address]:
        if self._said:
            return self._said
        try:
            status = self._file.stat()
            if (status.st_mtime_ns, status.st_ino) != self._seen:
                with self._file.open("rb") as file:
                    text = file.read(MAX_FILE).decode(errors="replace")
                self._found = [a for a in read_resolvers(text) if a[0] != self._own]
                self._seen = (status.st_mtime_ns, status.st_ino)
        except OSError:
            self._found, self._seen = [], None
        return self._found


def read_upstream(said: str) -> list[Address]:
    """Read `host[:port],...`. Errors: InvalidSetting."""
    return [_upstream(part) for part in map(str.strip, said.split(",")) if part]


def _upstream(said: str) -> Address:
    try:
        return str(ipaddress.ip_address(said)), PORT
    except ValueError:
        host, port = parse_bind(said, "edge.network.upstream")
    try:
        return str(ipaddress.ip_address(host)), port
    except ValueError as error:
        raise InvalidSetting(
            f"edge.network.upstream: expected addresses, got {said[:100]!r}"
        ) from error


def read_resolvers(text: str) -> list[Address]:
    """Read the `nameserver` lines of a resolv.conf."""
    found: list[Address] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver":
            continue
        try:
            found.append((str(ipaddress.ip_address(words[1].partition("%")[0])), PORT))
        except ValueError:
            continue
    return found[:MAX_RESOLVERS]


@dataclass(frozen=True, slots=True)
class _Kept:
    data: bytes
    heard: Heard
    at: float


class Forwarder:
    """Asks others. Errors of `ask`: Undeliverable when nobody answers, or too much is under way."""

    def __init__(self, resolvers: Callable[[], Sequence[Address]]) -> None:
        self._resolvers = resolvers
        self._kept: OrderedDict[tuple[object, ...], _Kept] = OrderedDict()
        self._bytes = 0
        self._under_way = 0

    def kept(self, query: Query, limit: int) -> bytes | None:
        """Return a kept answer that fits, None without one."""
        key = _key(query)
        found = self._kept.get(key)
        if found is None:
            return None
        age = int(asyncio.get_running_loop().time() - found.at)
        if age >= min(found.heard.seconds, MAX_SECONDS):
            self._drop(key)
            return None
        if len(found.data) > limit:
            return None
        self._kept.move_to_end(key)
        return readdressed(found.data, query, found.heard.ttls, age)

    async def ask(self, data: bytes, query: Query, *, over_tcp: bool) -> bytes:
        """Ask for what is not kept; `data` the question as it came."""
        if self._under_way >= MAX_UNDER_WAY:
            raise Undeliverable("too many questions are under way")
        self._under_way += 1
        try:
            answer, heard = await self._ask_all(data, over_tcp)
        finally:
            self._under_way -= 1
        self._keep(query, answer, heard)
        return readdressed(answer, query)

    async def _ask_all(self, data: bytes, over_tcp: bool) -> tuple[bytes, Heard]:
        resolvers = list(self._resolvers())
        worst: tuple[bytes, Heard] | None = None
        for resolver in [each for _ in range(TRIES) for each in resolvers]:
            try:
                async with asyncio.timeout(TRY_SECONDS):
                    ask = _ask_tcp if over_tcp else _ask_udp
                    answer, heard = await ask(data, resolver)
            except (OSError, GatewayError, asyncio.IncompleteReadError) as error:
                log.debug("a resolver did not answer", extra={"cause": str(error)})
                continue
            if heard.code not in _NO_CODES:
                return answer, heard
            worst = answer, heard
        if worst is None:
            raise Undeliverable("no resolver of this machine answers")
        return worst

    def _keep(self, query: Query, answer: bytes, heard: Heard) -> None:
        if heard.is_truncated or heard.seconds <= 0 or heard.code not in (0, 3):
            return
        key = _key(query)
        self._drop(key)
        self._kept[key] = _Kept(answer, heard, asyncio.get_running_loop().time())
        self._bytes += len(answer)
        while len(self._kept) > MAX_KEPT or self._bytes > MAX_KEPT_BYTES:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: tuple[object, ...]) -> None:
        gone = self._kept.pop(key, None)
        if gone is not None:
            self._bytes -= len(gone.data)


def _key(query: Query) -> tuple[object, ...]:
    """What must be the same for an answer to be the same; a name that is no text is never found."""
    name: object = query.question.lower() if "?" in query.name else query.name
    checks = query.flags & 0x0130
    return name, query.type, query.group, checks, query.udp_size is None, query.wants_dnssec


async def _ask_udp(data: bytes, resolver: Address) -> tuple[bytes, Heard]:
    loop = asyncio.get_running_loop()
    number = secrets.randbelow(65_536)
    transport, one = await loop.create_datagram_endpoint(
        lambda: _One(number, data), remote_addr=resolver
    )
    try:
        return await one.answer
    finally:
        transport.abort()


class _One(asyncio.DatagramProtocol):
    """One question and its answer; what does not belong to it is passed over."""

    def __init__(self, number: int, data: bytes) -> None:
        self._number = number
        self._data = number.to_bytes(2, "big") + data[2:]
        self.answer: asyncio.Future[tuple[bytes, Heard]] = (
            asyncio.get_running_loop().create_future()
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.DatagramTransport", transport).sendto(self._data)

    def datagram_received(self, data: bytes, _addr: object) -> None:
        try:
            heard = _heard(data, self._number, self._data)
        except MalformedPacket as error:
            log.debug("not the answer", extra={"cause": error.message})
            return
        if not self.answer.done():
            self.answer.set_result((data, heard))

    def error_received(self, exc: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(exc)

    def connection_lost(self, _exc: Exception | None) -> None:
        if not self.answer.done():
            self.answer.cancel()


async def _ask_tcp(data: bytes, resolver: Address) -> tuple[bytes, Heard]:
    number = secrets.randbelow(65_536)
    asked = number.to_bytes(2, "big") + data[2:]
    reader, writer = await asyncio.open_connection(*resolver, limit=MAX_MESSAGE)
    try:
        writer.write(len(asked).to_bytes(2, "big") + asked)
        await writer.drain()
        length = int.from_bytes(await reader.readexactly(2), "big")
        answer = await reader.readexactly(length)
        return answer, _heard(answer, number, asked)
    finally:
        writer.transport.abort()


def _heard(data: bytes, number: int, asked: bytes) -> Heard:
    """Read an answer to what was asked. Errors: MalformedPacket for another one."""
    heard = read_answer(data)
    size = len(heard.question)
    if heard.id != number or heard.question.lower() != asked[12 : 12 + size].lower():
        raise MalformedPacket("an answer to another question")
    return heard
