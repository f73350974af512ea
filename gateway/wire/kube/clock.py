"""Instants and ages as Kubernetes writes them; what time it is comes from the caller."""

from __future__ import annotations

from datetime import UTC, datetime

_MINUTE, _HOUR, _DAY, _YEAR = 60, 3_600, 86_400, 31_536_000


def rfc3339(seconds: float) -> str:
    """Write seconds since 1970 with whole seconds: `2026-11-22T20:05:00Z`."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def rfc3339_micro(seconds: float) -> str:
    """Write seconds since 1970 with microseconds, as leases have them."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_rfc3339(text: object) -> float | None:
    """Read an instant with offset; None when it is not one."""
    if not isinstance(text, str) or "T" not in text:
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        return None
    return None if instant.tzinfo is None else instant.timestamp()


def age(seconds: float) -> str:
    """Write a span as kubectl's columns do: two units while small, one when large.

    Shape:  `5s`, `3m22s`, `12m`, `5h10m`, `9h`, `2d3h`, `45d`, `2y40d`, `9y`; below -2 s `<invalid>`.
    """
    total = int(seconds)
    if total < -1:
        return "<invalid>"
    total = max(total, 0)
    for limit, unit, mark, part, small in _STEPS:
        if total < limit:
            if not part:
                return f"{total // unit}{mark}"
            rest = total % unit // part
            return f"{total // unit}{mark}" + (f"{rest}{small}" if rest else "")
    return f"{total // _YEAR}y"


# (below this many seconds, big unit, its mark, small unit or 0 for none, its mark)
_STEPS = (
    (2 * _MINUTE, 1, "s", 0, ""),
    (10 * _MINUTE, _MINUTE, "m", 1, "s"),
    (3 * _HOUR, _MINUTE, "m", 0, ""),
    (8 * _HOUR, _HOUR, "h", _MINUTE, "m"),
    (2 * _DAY, _HOUR, "h", 0, ""),
    (8 * _DAY, _DAY, "d", _HOUR, "h"),
    (2 * _YEAR, _DAY, "d", 0, ""),
    (8 * _YEAR, _YEAR, "y", _DAY, "d"),
)


def age_since(timestamp: object, now: float) -> str:
    """The age of something with this timestamp; `<unknown>` where there is none."""
    then = parse_rfc3339(timestamp)
    return "<unknown>" if then is None else age(now - then)
