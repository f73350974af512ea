"""Amounts of resources as Kubernetes writes them: `250m`, `1.5Gi`, `2e3`. Source: its API's Quantity."""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache

from gateway.model.json import Json

_FORM = re.compile(
    r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(Ki|Mi|Gi|Ti|Pi|Ei|[numkMGTPE]|[eE][+-]?[0-9]{1,3})?"
)
_BINARY = {f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", 1)}
_DECIMAL = {
    letter: Decimal(10) ** power
    for letter, power in zip("numkMGTPE", (-9, -6, -3, 3, 6, 9, 12, 15, 18), strict=True)
}
_UNITS = {"": Decimal(1), **_BINARY, **_DECIMAL}
MAX_LENGTH = 64


@lru_cache(maxsize=4_096)
def _read(text: str) -> Decimal | None:
    found = _FORM.fullmatch(text) if len(text) <= MAX_LENGTH else None
    if found is None:
        return None
    number, unit = found[1], found[2] or ""
    factor = _UNITS.get(unit)
    if factor is None:
        factor = Decimal(10) ** int(unit[1:])
    return Decimal(number) * factor


def quantity(value: Json) -> Decimal | None:
    """Read an amount, None where it is none."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return _read(str(value)) if is_number or isinstance(value, str) else None


def units(value: Json) -> int:
    """Return an amount in whole units, rounded up; 0 where it is none."""
    found = quantity(value)
    return 0 if found is None else int(found.to_integral_value(ROUND_CEILING))


def thousandths(value: Json) -> int:
    """Return an amount in thousandths (millicores), rounded up; 0 where it is none."""
    found = quantity(value)
    return 0 if found is None else int((found * 1_000).to_integral_value(ROUND_CEILING))
