"""What is wrong with a JSON text, in the words that Kubernetes clients know; and fields that come twice.

Only asked about texts that were refused already, or that may repeat a key: exactness before speed.
Source: RFC 8259; the wording of Kubernetes' decoder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from gateway.model.json import Json
from gateway.wire.kube.validate import join

MAX_EXPLAINED = 65_536
"""Bytes of a text that is looked through for its fault."""
_CUT = "unexpected end of JSON input"
_SPACE = re.compile(rb"[ \t\r\n]*")
_STRING = re.compile(rb'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*')
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_LITERALS = {b"t": b"true", b"f": b"false", b"n": b"null"}


class _Fault(Exception):
    """Where reading ends."""


def fault_of(text: bytes) -> str:
    """Return the first thing wrong with a text that is no JSON."""
    if len(text) > MAX_EXPLAINED:
        return "invalid JSON"
    try:
        _Reader(text).whole()
    except _Fault as fault:
        return str(fault)
    except RecursionError:
        return "exceeded max depth"
    return "invalid JSON"


def shown(mark: bytes) -> str:
    """A byte as it is quoted."""
    plain = {b"'": "'\\''", b'"': "'\"'"}.get(mark)
    if plain:
        return plain
    return f"'{mark.decode()}'" if b" " <= mark <= b"~" else f"'\\x{mark.hex()}'"


class _Reader:
    """Walks through the structure; strings and numbers are matched whole."""

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.at = 0

    def whole(self) -> None:
        opened: list[bytes] = []
        self._begin(opened, "looking for beginning of value")
        while opened:
            self._after_value(opened)
        if self._peek():
            self._refuse("after top-level value")

    def _peek(self) -> bytes:
        match = _SPACE.match(self.text, self.at)
        self.at = match.end() if match else self.at
        return self.text[self.at : self.at + 1]

    def _refuse(self, why: str) -> None:
        mark = self.text[self.at : self.at + 1]
        raise _Fault(f"invalid character {shown(mark)} {why}" if mark else _CUT)

    def _begin(self, opened: list[bytes], why: str) -> None:
        """A value; what it opens is closed later."""
        mark = self._peek()
        if mark in (b"{", b"["):
            self._open(opened, mark)
        elif mark == b'"':
            self._string()
        elif mark and mark in b"-0123456789":
            self._number()
        elif mark in _LITERALS:
            self._literal(_LITERALS[mark])
        else:
            self._refuse(why)

    def _open(self, opened: list[bytes], mark: bytes) -> None:
        self.at += 1
        if self._peek() == {b"{": b"}", b"[": b"]"}[mark]:
            self.at += 1
            return
        opened.append(mark)
        if mark == b"{":
            self._key(opened)
        else:
            self._begin(opened, "looking for beginning of value")

    def _key(self, opened: list[bytes]) -> None:
        if self._peek() != b'"':
            self._refuse("looking for beginning of object key string")
        self._string()
        if self._peek() != b":":
            self._refuse("after object key")
        self.at += 1
        self._begin(opened, "looking for beginning of value")

    def _after_value(self, opened: list[bytes]) -> None:
        mark, inside = self._peek(), opened[-1]
        if mark == b",":
            self.at += 1
            if inside == b"{":
                self._key(opened)
            else:
                self._begin(opened, "looking for beginning of value")
        elif mark == (b"}" if inside == b"{" else b"]"):
            self.at += 1
            opened.pop()
        else:
            kind = "object key:value pair" if inside == b"{" else "array element"
            self._refuse(f"after {kind}")

    def _string(self) -> None:
        match = _STRING.match(self.text, self.at)
        self.at = match.end() if match else self.at
        mark = self.text[self.at : self.at + 1]
        if mark == b'"':
            self.at += 1
        elif mark == b"\\":
            self.at += 1
            self._refuse("in string escape code")
        else:
            self._refuse("in string literal")

    def _number(self) -> None:
        match = _NUMBER.match(self.text, self.at)
        if match is None:
            self.at += 1
            self._refuse("in numeric literal")
        else:
            self.at = match.end()

    def _literal(self, word: bytes) -> None:
        for at, letter in enumerate(word):
            if self.text[self.at : self.at + 1] != bytes([letter]):
                self._refuse(f"in literal {word.decode()} (expecting '{chr(letter)}')")
            self.at += 1 if at < len(word) else 0


# --- fields that come twice -------------------------------------------------------------------------

_KEYS = re.compile(rb'"\s*:')


def may_repeat(text: bytes, value: Json) -> bool:
    """False when no object in the text can have a key twice: it has as many as were read."""
    return len(_KEYS.findall(text)) != _keys(value)


def _keys(value: Json) -> int:
    found, level = 0, [value]
    while level:
        item = level.pop()
        if isinstance(item, dict):
            found += len(item)
            level += [child for child in item.values() if isinstance(child, (dict, list))]
        elif isinstance(item, list):
            level += [child for child in item if isinstance(child, (dict, list))]
    return found


class _Table(dict[str, Json]):
    """An object that knows which of its keys came more than once."""

    twice: tuple[str, ...] = ()


def _read_pairs(pairs: list[tuple[str, Json]]) -> _Table:
    table = _Table(pairs)
    if len(table) != len(pairs):
        names = [key for key, _ in pairs]
        table.twice = tuple(key for key in table if names.count(key) > 1)
    return table


def repeated(text: bytes) -> list[str]:
    """Paths of fields that come twice in a JSON text."""
    found: list[str] = []
    try:
        _collect(json.loads(text, object_pairs_hook=_read_pairs), "", found.append)
    except (ValueError, RecursionError):
        return []  # what cannot be read is told elsewhere
    return found


def _collect(value: Json, path: str, add: Callable[[str], None]) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _collect(item, join(path, key), add)
        for key in value.twice if isinstance(value, _Table) else ():
            add(join(path, key))
    elif isinstance(value, list):
        for at, item in enumerate(value):
            _collect(item, f"{path}[{at}]", add)
