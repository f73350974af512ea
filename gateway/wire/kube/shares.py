"""Numbers that may be shares: `maxSurge: 25%`, `minAvailable: 2`. Source: Kubernetes API, IntOrString."""

from __future__ import annotations

import re

from gateway.model.json import Json

_SHARE = re.compile(r"(\d{1,9})%")


def share_of(value: Json, total: int, *, up: bool) -> int:
    """Return a number, or that share of `total`, rounded up or down; 0 for what is neither."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        return 0
    if isinstance(value, int):
        return value
    found = _SHARE.fullmatch(value)
    if found is None:
        return 0
    hundreds = int(found[1]) * total
    return -(-hundreds // 100) if up else hundreds // 100
