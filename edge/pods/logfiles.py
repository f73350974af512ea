r"""A container's log in CRI's form, as the kubelet shows it: what of its bytes goes out.

A line is `<RFC 3339 time> <stdout|stderr> <tag> <text>\n`; with the tag `P` the text goes on in the next
line. Lines that are something else are left out. Where nothing is asked of single lines, a block of them is
one substitution. Source: CRI `logging.go`; kubelet 1.36 (what is a new line, what `tailLines` counts).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from gateway.errors import BadRequest, GatewayError

_STAMP = rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)"
_STAMP_LIKE = rb"[0-9][0-9T:.Z+-]{19,34}"
"""Quicker to match, and enough to tell a line of a log from something else."""
_PLAIN = re.compile(
    rb"^(?:" + _STAMP_LIKE + rb" std(?:out|err) "
    rb"(?:P(?::[^ \n]*)? ([^\n]*)\n|[^ \n]* ([^\n]*\n?))|[^\n]*\n?)",
    re.MULTILINE,
)
_LINE = re.compile(rb"^(" + _STAMP + rb") (stdout|stderr) ([^ \n]*) ([^\n]*)(\n|\Z)", re.MULTILINE)
_PARTIAL = b"P"
_SECOND = 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BLOCK = 65_536
_MAX_LINES = 2**63 - 1
ALL, STDOUT, STDERR = "All", "Stdout", "Stderr"
_WANTED: Final = {ALL: None, STDOUT: b"stdout", STDERR: b"stderr"}


class InvalidLogOptions(GatewayError):
    """Options that contradict each other, or are out of range."""

    status = 422
    code = "edge.kubelet.logoptions"
    default_message = '{"message": "Invalid request."}'


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOptions:
    """What of a log is asked for.

    Units:  `since` Unix nanoseconds; `limit` bytes that go out; `tail` lines of the file, all streams.
    """

    follow: bool = False
    previous: bool = False
    timestamps: bool = False
    tail: int | None = None
    limit: int | None = None
    since: int | None = None
    stream: str = ALL


def read_options(query: dict[str, str], now: int) -> LogOptions:
    """Read a query of `/containerLogs`; `now` in Unix nanoseconds.

    Errors: BadRequest for what cannot be read, InvalidLogOptions for what cannot be meant.
    """
    tail, limit, seconds = (
        _whole(query, key) for key in ("tailLines", "limitBytes", "sinceSeconds")
    )
    if query.get("tail"):  # an older name
        tail = None if query["tail"] == "all" else _whole(query, "tail")
    since = _instant(query.get("sinceTime", ""))
    stream = query.get("stream") or ALL
    out_of_range = any(
        value is not None and value < least
        for value, least in ((tail, 0), (limit, 1), (seconds, 1))
    )
    is_odd = stream not in _WANTED or (stream != ALL and tail is not None)
    if out_of_range or is_odd or (since is not None and seconds is not None):
        raise InvalidLogOptions
    return LogOptions(
        follow=_flag(query, "follow"),
        previous=_flag(query, "previous"),
        timestamps=_flag(query, "timestamps"),
        tail=tail,
        limit=limit,
        since=now - seconds * _SECOND if seconds is not None else since,
        stream=stream,
    )


def _undecodable() -> BadRequest:
    return BadRequest('{"message": "Unable to decode query."}')


def _flag(query: dict[str, str], key: str) -> bool:
    return key in query and query[key].lower() not in ("false", "0")


def _whole(query: dict[str, str], key: str) -> int | None:
    text = query.get(key)
    if not text:
        return None
    if not re.fullmatch(r"[+-]?[0-9]{1,19}", text) or abs(int(text)) > _MAX_LINES:
        raise _undecodable()
    return int(text)


def _instant(text: str) -> int | None:
    if not text:
        return None
    try:
        found = parse_stamp(text.encode("ascii"))
    except UnicodeError:
        found = None
    if found is None:
        raise _undecodable()
    return found


# --- times ----------------------------------------------------------------------------------------


def parse_stamp(stamp: bytes) -> int | None:
    """Return the Unix nanoseconds of an RFC 3339 time, None for what is none."""
    if not re.fullmatch(_STAMP, stamp):
        return None
    fraction, zone = _split(stamp)
    try:
        whole = datetime.fromisoformat(stamp[:19].decode()).replace(tzinfo=UTC) - _zone(zone)
    except (ValueError, OverflowError):
        return None
    since = whole - _EPOCH
    return (since.days * 86_400 + since.seconds) * _SECOND + int(fraction[:9].ljust(9, b"0"))


def _split(stamp: bytes) -> tuple[bytes, bytes]:
    """Return the digits behind the point and the zone of a well-formed stamp."""
    end = len(stamp) - (1 if stamp.endswith(b"Z") else 6)
    return stamp[20:end], stamp[end:]


def _zone(zone: bytes) -> timedelta:
    if zone == b"Z":
        return timedelta()
    hours, minutes = int(zone[1:3]), int(zone[4:6])
    if hours > 24 or minutes > 60:
        raise ValueError("no such zone")
    return (1 if zone[:1] == b"+" else -1) * timedelta(hours=hours, minutes=minutes)


def fixed_stamp(stamp: bytes) -> bytes:
    """Return a stamp with nine digits behind the point, as `timestamps` shows it."""
    fraction, zone = _split(stamp)
    zone = b"Z" if zone in (b"+00:00", b"-00:00") else zone
    return stamp[:19] + b"." + fraction[:9].ljust(9, b"0") + zone


def _is_before(since: int) -> Callable[[bytes], bool]:
    """Return a test whether a stamp is before `since`; most are judged by their first bytes."""
    moment = _EPOCH + timedelta(seconds=max(0, since // _SECOND))
    second = moment.strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0").encode()

    def is_before(stamp: bytes) -> bool:
        if stamp[-1:] == b"Z" and stamp[:19] != second:
            return stamp[:19] < second
        found = parse_stamp(stamp)
        return found is not None and found < since

    return is_before


# --- lines ----------------------------------------------------------------------------------------


class LogView:
    """Turns blocks of a log file into what goes out, in order.

    Shape:  blocks are whole lines; the last one of a file may end without its `\\n`.
    """

    def __init__(self, options: LogOptions) -> None:
        self._wanted = _WANTED[options.stream]
        self._timestamps = options.timestamps
        self._is_old = None if options.since is None else _is_before(options.since)
        self._left = options.limit
        self._lines = None if options.follow else options.tail
        self._is_new_line = True
        self._has_begun = False
        self.is_done = self._lines == 0

    def take(self, block: bytes) -> bytes:
        """Return what goes out of a block; `is_done` afterwards when nothing more will.

        Errors: BadRequest when the file is no log of this form.
        """
        if not self._has_begun and block:
            self._check(block)
        is_plain = self._wanted is None and self._is_old is None and not self._timestamps
        if is_plain and self._lines is None:
            return self._cut(_PLAIN.sub(rb"\1\2", block))
        return self._cut(b"".join(self._pieces(block)))

    def _check(self, block: bytes) -> None:
        self._has_begun = True
        first = block.split(b"\n", 1)[0]
        if _LINE.match(first) is None:
            shown = first[:100].decode("utf-8", "replace")
            raise BadRequest(f'failed to get parse function: unsupported log format: "{shown}"')

    def _cut(self, out: bytes) -> bytes:
        if self._left is None:
            return out
        out = out[: self._left]
        self._left -= len(out)
        self.is_done = self.is_done or self._left <= 0
        return out

    def _pieces(self, block: bytes) -> list[bytes]:
        out = []
        for found in _LINE.finditer(block):
            if self.is_done:
                break
            stamp, stream, tag, text, end = found.groups()
            is_partial = (tag == _PARTIAL or tag.startswith(b"P:")) and end
            line = text if is_partial else text + end
            is_meant = self._wanted is None or stream == self._wanted
            if is_meant and not (self._is_old is not None and self._is_old(stamp)):
                if self._timestamps and self._is_new_line:
                    out.append(fixed_stamp(stamp) + b" ")
                out.append(line)
            self._is_new_line = not line or line.endswith(b"\n")
            if self._lines is not None:
                self._lines -= 1
                self.is_done = self._lines <= 0
        return out


def tail_start(read: Callable[[int, int], bytes], size: int, lines: int) -> int:
    """Return where the last `lines` lines of a file begin, reading it backwards.

    Shape:  `read(offset, length)`; a last line without its end is not counted as one.
    """
    left, need = size, lines
    while left > 0:
        begin = max(0, left - _BLOCK)
        block = read(begin, left - begin)
        count = block.count(b"\n")
        if count > need:
            at = len(block)
            for _ in range(need + 1):
                at = block.rfind(b"\n", 0, at)
            return begin + at + 1
        need -= count
        left = begin
    return 0
