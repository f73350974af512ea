"""Block-wise transfer: requests put together from their blocks, responses handed out in blocks.

Both are kept by peer and resource, for as long as a peer may take, and within bounds: too many requests in
blocks are answered with 5.03, of responses the oldest is forgotten (4.08 for who still wants its rest).
Source: RFC 7959.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from gateway.errors import BadRequest, Rejected, TooLarge, Undeliverable
from gateway.wire.coap.codec import Message, Option
from gateway.wire.coap.options import BLOCK1, BLOCK2, SIZE1, SIZE2, URI_PATH, URI_QUERY, Block

LIFETIME = 300.0
"""Seconds that a transfer may rest between two blocks."""
MAX_UPLOADS = 1_000
"""Requests that are being put together."""
MAX_UPLOADS_OF_PEER = 4
MAX_DOWNLOADS = 1_000
MAX_DOWNLOAD_BYTES = 4 * 1_048_576
"""Bytes of all responses that are being handed out."""

_OF_TRANSFER = (BLOCK1, BLOCK2, SIZE1, SIZE2)


class Incomplete(Rejected):
    """A block came whose predecessors are not there (any more)."""

    status = 408
    code = "incomplete"
    default_message = "the blocks before this one are missing"


class Busy(Undeliverable):
    """Too many transfers at once."""


class BodyTooLarge(TooLarge):
    """A body over the limit; `limit` goes to the peer in option Size1."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit


@dataclass(slots=True)
class _Upload:
    body: bytearray
    until: float


class Uploads:
    """Requests that come in blocks; `limit` bytes each."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: dict[tuple[Hashable, Hashable], _Upload] = {}

    def __len__(self) -> int:
        return len(self._open)

    def take(self, peer: Hashable, request: Message, block: Block, now: float) -> bytes | None:
        """Add a block; returns the whole body with the last one, else None.

        Errors: BodyTooLarge; Incomplete; Busy; BadRequest for a block of another size than it says. The
            transfer has ended then.
        """
        self._expire(now)
        key = (peer, _identity(request))
        upload = self._open.pop(key, None)
        if block.number == 0:
            self._check_room(peer)
            upload = _Upload(bytearray(), 0.0)
        if upload is None or block.start != len(upload.body):
            raise Incomplete
        self._append(upload, request.payload, block)
        if not block.more:
            return bytes(upload.body)
        upload.until = now + LIFETIME
        self._open[key] = upload
        return None

    def _append(self, upload: _Upload, payload: bytes, block: Block) -> None:
        if len(payload) > block.size or (block.more and len(payload) != block.size):
            raise BadRequest(f"a block of {block.size} bytes has {len(payload)}")
        if len(upload.body) + len(payload) > self._limit:
            raise BodyTooLarge(self._limit)
        upload.body += payload

    def _check_room(self, peer: Hashable) -> None:
        if len(self._open) >= MAX_UPLOADS:
            raise Busy
        if len(self._open) >= MAX_UPLOADS_OF_PEER:
            mine = sum(1 for owner, _ in self._open if owner == peer)
            if mine >= MAX_UPLOADS_OF_PEER:
                raise Busy

    def _expire(self, now: float) -> None:
        while self._open:
            key = next(iter(self._open))
            if self._open[key].until > now:
                return
            del self._open[key]

    def forget(self, now: float) -> None:
        """Drop what rested too long."""
        self._expire(now)


@dataclass(frozen=True, slots=True)
class Download:
    """A response that goes out in blocks of at most 2 ** (`exponent` + 4) bytes."""

    code: int
    options: tuple[Option, ...]
    body: bytes
    exponent: int
    until: float

    def part(self, block: Block) -> tuple[Option, bytes]:
        """Return option Block2 and the bytes of one block.

        Errors: BadRequest for a block behind the end.
        """
        if block.start >= len(self.body):
            raise BadRequest(f"block {block.number} is behind the end of the response")
        end = block.start + block.size
        told = Block(block.number, end < len(self.body), block.exponent)
        return (BLOCK2, told.encode()), self.body[block.start : end]


class Downloads:
    """Responses that go out in blocks."""

    def __init__(self) -> None:
        self._kept: dict[tuple[Hashable, Hashable], Download] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, peer: Hashable, request: Message, download: Download) -> None:
        """Keep a response for the requests for its other blocks."""
        key = (peer, _resource(request))
        self._drop(key)
        self._kept[key] = download
        self._bytes += len(download.body)
        while self._kept and (len(self._kept) > MAX_DOWNLOADS or self._bytes > MAX_DOWNLOAD_BYTES):
            self._drop(next(iter(self._kept)))

    def find(self, peer: Hashable, request: Message, now: float) -> Download:
        """Return the response that a request for a later block means.

        Errors: Incomplete where it is not kept (any more).
        """
        self.forget(now)
        found = self._kept.get((peer, _resource(request)))
        if found is None:
            raise Incomplete("the response whose next block this asks for is not kept any more")
        return found

    def forget(self, now: float) -> None:
        """Drop what rested too long."""
        while self._kept:
            key = next(iter(self._kept))
            if self._kept[key].until > now:
                return
            self._drop(key)

    def _drop(self, key: tuple[Hashable, Hashable]) -> None:
        dropped = self._kept.pop(key, None)
        if dropped is not None:
            self._bytes -= len(dropped.body)


def _identity(request: Message) -> Hashable:
    """Return what the blocks of one request have in common."""
    return request.code, tuple(o for o in request.options if o[0] not in _OF_TRANSFER)


def _resource(request: Message) -> Hashable:
    return request.code, tuple(o for o in request.options if o[0] in (URI_PATH, URI_QUERY))
