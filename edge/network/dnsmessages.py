"""DNS messages on the wire: questions as they come, answers of our own, and what of others' is looked at.

A codec of our own: answers here are of seven types, and others' messages pass as they are; a whole library
is 6 MB of an edge agent's memory. No name is ever followed through more pointers than it has bytes, and
nothing is read beyond the message. Source: RFC 1035, section 4; RFC 2782; RFC 3596; RFC 6891.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from gateway.errors import MalformedPacket, Unencodable

HEADER = struct.Struct("!6H")
_FIXED = struct.Struct("!HHIH")
_QUESTION = struct.Struct("!HH")
MAX_NAME = 255
MAX_LABEL = 63
MAX_MESSAGE = 65_535
PLAIN_SIZE = 512
"""Bytes of an answer over UDP to who says nothing of its size."""
MAX_UDP_SIZE = 1_232
"""Bytes of an answer over UDP at most: what passes every usual link in one piece."""
MAX_RECORDS = 4_096
"""Of others' messages that are looked through."""
QR, AA, TC, RD, RA, CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0010
DO = 0x8000
IN = 1


class Type(IntEnum):
    """Types of records; those from 251 on are for questions alone, but for OPT."""

    A = 1
    NS = 2
    CNAME = 5
    SOA = 6
    PTR = 12
    TXT = 16
    AAAA = 28
    SRV = 33
    OPT = 41
    IXFR = 251
    AXFR = 252
    ANY = 255


class Code(IntEnum):
    """Outcomes."""

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5
    BADVERS = 16


@dataclass(frozen=True, slots=True)
class Query:
    """A question.

    Shape:  `name` in lower case, without the last dot; labels that are no ASCII text read as `?`, which no
            name here has; `question` its bytes as sent, echoed in answers; `udp_size` None without EDNS.
    """

    id: int
    flags: int
    name: str
    type: int
    group: int
    question: bytes
    udp_size: int | None = None
    edns_version: int = 0
    wants_dnssec: bool = False

    @property
    def opcode(self) -> int:
        return self.flags >> 11 & 0xF

    @property
    def udp_limit(self) -> int:
        """Bytes of an answer over UDP."""
        return (
            PLAIN_SIZE
            if self.udp_size is None
            else max(PLAIN_SIZE, min(self.udp_size, MAX_UDP_SIZE))
        )


@dataclass(frozen=True, slots=True)
class Record:
    """One resource record of class IN. Units: `ttl` seconds."""

    name: str
    type: int
    ttl: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """What is answered. `is_ours`: with authority."""

    code: int = Code.NOERROR
    answers: Sequence[Record] = ()
    authority: Sequence[Record] = ()
    extra: Sequence[Record] = ()
    is_ours: bool = True


# --- reading ----------------------------------------------------------------------------------------


def read_query(data: bytes) -> Query:
    """Read a question. Errors: MalformedPacket for what is no question, or not exactly one."""
    if not HEADER.size <= len(data) <= MAX_MESSAGE:
        raise MalformedPacket(f"expected a DNS message, got {len(data)} bytes")
    query_id, flags, questions, answers, authority, extra = HEADER.unpack_from(data)
    if flags & QR or questions != 1 or answers or authority > 1:
        raise MalformedPacket("expected one question")
    labels, at = _plain_labels(data)
    kind, group = _at(_QUESTION, data, at)
    at += _QUESTION.size
    size, version, wants_dnssec = None, 0, False
    if extra and not authority:
        size, version, wants_dnssec = _read_options(data, at, extra)
    return Query(
        query_id,
        flags,
        _text(labels),
        kind,
        group,
        data[HEADER.size : at],
        size,
        version,
        wants_dnssec,
    )


def _plain_labels(data: bytes) -> tuple[list[bytes], int]:
    """Read the name of the question: nothing stands before it that a pointer could mean."""
    labels: list[bytes] = []
    at, total = HEADER.size, 1
    while True:
        if at >= len(data):
            raise MalformedPacket("a name that does not end")
        length = data[at]
        at += 1
        if length == 0:
            return labels, at
        total += length + 1
        if length > MAX_LABEL or total > MAX_NAME or at + length > len(data):
            raise MalformedPacket("no name in the question")
        labels.append(data[at : at + length])
        at += length


def _text(labels: Iterable[bytes]) -> str:
    return ".".join(
        text.lower()
        if label.isascii() and (text := label.decode("ascii")).isprintable() and "." not in text
        else "?"
        for label in labels
    )


def _at(form: struct.Struct, data: bytes, at: int) -> tuple[int, ...]:
    try:
        return form.unpack_from(data, at)
    except struct.error as error:
        raise MalformedPacket("the message ends too soon") from error


def _read_options(data: bytes, at: int, count: int) -> tuple[int | None, int, bool]:
    """Return size, version and DO of an OPT record; other additional records are passed over."""
    for _ in range(min(count, 4)):
        at = _skip_name(data, at)
        kind, size, flags, length = _at(_FIXED, data, at)
        at += _FIXED.size + length
        if at > len(data):
            raise MalformedPacket("the message ends too soon")
        if kind == Type.OPT:
            return size, flags >> 16 & 0xFF, bool(flags & DO)
    return None, 0, False


def _skip_name(data: bytes, at: int) -> int:
    """Return where a name ends that stands at `at`; pointers end it and are not followed."""
    start = at
    while at < len(data) and at - start <= MAX_NAME:
        length = data[at]
        if length == 0:
            return at + 1
        if length & 0xC0 == 0xC0:
            return at + 2
        if length > MAX_LABEL:
            break
        at += length + 1
    raise MalformedPacket("a name that does not end")


@dataclass(frozen=True, slots=True)
class Heard:
    """What is looked at of an answer of others.

    Shape:  `ttls` offsets of the TTLs; `seconds` for which it may be kept, 0 for not at all; `records` by
            type and data of the answer section.
    """

    id: int
    flags: int
    question: bytes
    ttls: tuple[int, ...]
    seconds: int
    answers: tuple[tuple[int, int, bytes], ...]
    """Type, TTL and data; data with names in it cannot be taken elsewhere: see `addresses`."""

    @property
    def code(self) -> int:
        return self.flags & 0xF

    @property
    def is_truncated(self) -> bool:
        return bool(self.flags & TC)

    def addresses(self, kind: int) -> list[tuple[int, bytes]]:
        """Return TTLs and data of the addresses of a type."""
        size = {Type.A: 4, Type.AAAA: 16}.get(Type(kind)) if kind in (1, 28) else None
        return [
            (ttl, data) for each, ttl, data in self.answers if each == kind and len(data) == size
        ]


def read_answer(data: bytes) -> Heard:
    """Look through an answer of others. Errors: MalformedPacket."""
    if not HEADER.size <= len(data) <= MAX_MESSAGE:
        raise MalformedPacket(f"expected a DNS message, got {len(data)} bytes")
    query_id, flags, questions, *counts = HEADER.unpack_from(data)
    if not flags & QR or questions != 1 or sum(counts) > MAX_RECORDS:
        raise MalformedPacket("expected an answer to one question")
    _, at = _plain_labels(data)
    _at(_QUESTION, data, at)
    at += _QUESTION.size
    question = data[HEADER.size : at]
    offsets: list[int] = []
    answers: list[tuple[int, int, bytes]] = []
    lives: list[int] = []
    for place in range(sum(counts)):
        at = _skip_name(data, at)
        kind, _, ttl, length = _at(_FIXED, data, at)
        body = at + _FIXED.size
        if body + length > len(data):
            raise MalformedPacket("the message ends too soon")
        if place < counts[0]:
            answers.append((kind, ttl, data[body : body + length]))
        if kind != Type.OPT:
            offsets.append(at + 4)
            lives.append(_life(kind, ttl, data[body : body + length]))
        at = body + length
    # Without records there is nothing that says for how long; a TTL with its first bit set is none.
    seconds = min((life if life < 2**31 else 0 for life in lives), default=0)
    return Heard(query_id, flags, question, tuple(offsets), seconds, tuple(answers))


def _life(kind: int, ttl: int, data: bytes) -> int:
    """For how long a record says anything; a SOA also for how long nothing is there (RFC 2308, section 5)."""
    if kind == Type.SOA and len(data) >= 20:
        return min(ttl, int.from_bytes(data[-4:], "big"))
    return ttl


def readdressed(data: bytes, query: Query, ttls: Sequence[int] = (), age: int = 0) -> bytes:
    """Return an answer of others as an answer to `query`: its id, its spelling, TTLs `age` seconds later."""
    changed = bytearray(data)
    changed[0:2] = query.id.to_bytes(2, "big")
    changed[HEADER.size : HEADER.size + len(query.question)] = query.question
    for at in ttls:
        left = max(0, int.from_bytes(changed[at : at + 4], "big") - age)
        changed[at : at + 4] = left.to_bytes(4, "big")
    return bytes(changed)


# --- writing ----------------------------------------------------------------------------------------


def write_reply(
    query: Query, reply: Reply, limit: int = MAX_MESSAGE, *, is_cut: bool = False
) -> bytes:
    """Return the bytes of an answer; what does not fit goes, told by TC where answers are missing."""
    writer = _Writer(query, limit)
    counts = [0, 0, 0]
    for section, records in enumerate((reply.answers, reply.authority, reply.extra)):
        for record in records:
            if is_cut or not writer.add(record):
                is_cut = is_cut or section < 2
                break
            counts[section] += 1
    if query.udp_size is not None:
        counts[2] += 1
    flags = QR | query.flags & (0x7800 | RD | CD) | RA | reply.code & 0xF
    flags |= (AA if reply.is_ours else 0) | (TC if is_cut else 0)
    return writer.finish(flags, counts, reply.code)


class _Writer:
    def __init__(self, query: Query, limit: int) -> None:
        self._query = query
        self._room = limit - (11 if query.udp_size is not None else 0)
        self._data = bytearray(HEADER.size) + query.question
        self._known: dict[str, int] = {query.name: HEADER.size} if "?" not in query.name else {}

    def add(self, record: Record) -> bool:
        """Append a record; False where there is no room."""
        at = self._known.get(record.name)
        owner = encode_name(record.name) if at is None else (0xC000 | at).to_bytes(2, "big")
        full = owner + _FIXED.pack(record.type, IN, record.ttl, len(record.data)) + record.data
        if len(self._data) + len(full) > self._room:
            return False
        if at is None and len(self._data) < 0x4000:
            self._known[record.name] = len(self._data)
        self._data += full
        return True

    def finish(self, flags: int, counts: Sequence[int], code: int) -> bytes:
        HEADER.pack_into(self._data, 0, self._query.id, flags, 1, *counts)
        if self._query.udp_size is not None:
            above = code >> 4 << 24 | (DO if self._query.wants_dnssec else 0)
            self._data += b"\0" + _FIXED.pack(Type.OPT, MAX_UDP_SIZE, above, 0)
        return bytes(self._data)


def write_failure(data: bytes, code: Code) -> bytes:
    """Return an answer to what cannot be read; b"" where there is not even an id, or it is no question."""
    if len(data) < HEADER.size or data[2] & 0x80:
        return b""
    query_id, flags = struct.unpack_from("!HH", data)
    return HEADER.pack(query_id, QR | flags & (0x7800 | RD) | RA | code, 0, 0, 0, 0)


def encode_name(name: str) -> bytes:
    """Return a name's bytes. Errors: Unencodable for one that is too long, or has an empty label."""
    labels = [label.encode("ascii", "replace") for label in name.split(".")] if name else []
    data = b"".join(bytes((len(label),)) + label for label in labels if 0 < len(label) <= MAX_LABEL)
    if len(data) != sum(len(label) + 1 for label in labels) or len(data) >= MAX_NAME:
        raise Unencodable(f"not a DNS name: {name[:100]!r}")
    if any(not label for label in labels):
        raise Unencodable(f"not a DNS name: {name[:100]!r}")
    return data + b"\0"


def address_record(name: str, address: str, ttl: int) -> Record:
    """Return an A or AAAA record. Errors: ValueError for what is no address."""
    found = ipaddress.ip_address(address)
    return Record(name, Type.A if found.version == 4 else Type.AAAA, ttl, found.packed)


def name_record(name: str, kind: Type, target: str, ttl: int) -> Record:
    """Return a CNAME, NS or PTR record. Errors: Unencodable."""
    return Record(name, kind, ttl, encode_name(target))


def service_record(name: str, port: int, weight: int, target: str, ttl: int) -> Record:
    """Return an SRV record. Errors: Unencodable."""
    return Record(name, Type.SRV, ttl, struct.pack("!3H", 0, weight, port) + encode_name(target))


def authority_record(zone: str, serial: int, ttl: int) -> Record:
    """Return the SOA record of a zone whose absences last for `ttl` seconds."""
    names = encode_name(f"ns.dns.{zone}") + encode_name(f"hostmaster.{zone}")
    times = struct.pack("!5I", serial % 2**32, 7_200, 1_800, 86_400, ttl)
    return Record(zone, Type.SOA, ttl, names + times)
