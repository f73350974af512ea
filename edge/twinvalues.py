"""What a twin's value may be, by the type that twin or DeviceModel gives it, and when two values are one.

Pure. Source: KubeEdge reference, section 14.3.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from gateway.errors import BadRequest
from gateway.wire.cloudedge.twins import DELETED
from gateway.wire.cloudedge.values import ValueRule, parse_text

STRING = "string"
MAX_VALUE_CHARS = 4_096

_TEXT = re.compile(r"[a-zA-Z0-9\-_.,:/@#]{1,512}")
_INT = re.compile(r"[+-]?[0-9]{1,19}")
_FLOAT = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_INT64 = 2**63


def _is_int(text: str) -> bool:
    return _INT.fullmatch(text) is not None and -_INT64 <= int(text) < _INT64


_CHECKS: dict[str, Callable[[str], bool]] = {
    STRING: lambda text: _TEXT.fullmatch(text) is not None,
    "int": _is_int,
    "integer": _is_int,
    "float": lambda text: _FLOAT.fullmatch(text) is not None,
    "boolean": lambda text: text in ("true", "false"),
    DELETED: lambda _text: True,
}

_READERS: dict[str, Callable[[str], object]] = {
    "int": int,
    "integer": int,
    "float": float,
}


def check_value(name: str, kind: str, text: str, rule: ValueRule | None = None) -> None:
    """Refuse a value that its type does not allow; a DeviceModel's rule says it better than the twin's type.

    Errors: BadRequest, naming property, type and value.
    """
    if rule is not None:
        _check_by_model(name, rule, text)
        return
    check = _CHECKS.get(kind)
    if check is None:
        raise BadRequest(f"twin.{name}: type {kind!r} is not one of {', '.join(sorted(_CHECKS))}")
    if len(text) > MAX_VALUE_CHARS or not check(text):
        raise BadRequest(f"twin.{name}: expected a value of type {kind}, got {text[:64]!r}")


def _check_by_model(name: str, rule: ValueRule, text: str) -> None:
    try:
        parse_text(rule.type, text)
    except BadRequest as error:
        raise BadRequest(f"twin.{name}: {error.message}") from error


def same(kind: str, left: str, right: str) -> bool:
    """True when two texts mean the same value of this type (`25` and `25.0` as float)."""
    if left == right:
        return True
    reader = _READERS.get(kind)
    if reader is None:
        return False
    try:
        return reader(left) == reader(right)
    except ValueError:
        return False
