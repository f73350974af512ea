"""Amounts in the one form that the API shows: `0.5` is `500m`, `1024Mi` is `1Gi`.

Source: Kubernetes API reference, Quantity: the family of the suffix stays, the number is as short as it can
be, nothing is lost above a thousand-millionth.
"""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal, localcontext
from functools import cache, lru_cache
from typing import cast

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.quantity import quantity
from gateway.wire.kube.schema import Schema

FORMAT = "quantity"
"""How a type says that its values are amounts."""
_DECIMAL = {-9: "n", -6: "u", -3: "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T", 15: "P", 18: "E"}
_BINARY = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")
_NANO = Decimal(1).scaleb(-9)
_MOST = 2**63 - 1
_EXPONENT = re.compile(r"[eE][+-]?[0-9]+$")


@lru_cache(maxsize=4_096)
def shortest(amount: str) -> str:
    """Return an amount in its one form; a text that is none as it is."""
    value = quantity(amount)
    if value is None:
        return amount
    with localcontext() as exact:
        exact.prec = 80
        value = min(max(value, Decimal(-_MOST)), Decimal(_MOST)) if abs(value) > _MOST else value
        value = value.quantize(_NANO, ROUND_CEILING) if value > 0 else -_rounded(-value)
        return _written(amount, value)


def _rounded(value: Decimal) -> Decimal:
    return value.quantize(_NANO, ROUND_CEILING)


def _written(amount: str, value: Decimal) -> str:
    if value == 0:
        return "0"
    if amount.endswith("i") and abs(value) >= 1_024 and value == value.to_integral_value():
        return _binary(int(value))
    return _decimal(value, is_exponent=_EXPONENT.search(amount) is not None)


def _binary(value: int) -> str:
    power = 0
    while value % 1_024 == 0 and power < len(_BINARY) - 1:
        value, power = value // 1_024, power + 1
    return f"{value}{_BINARY[power]}"


def _decimal(value: Decimal, *, is_exponent: bool) -> str:
    sign, digits, exponent = value.normalize().as_tuple()
    power = cast("int", exponent) // 3 * 3
    power = min(max(power, -9), 18)
    number = int("".join(map(str, digits))) * 10 ** (cast("int", exponent) - power)
    mark = (f"e{power}" if power else "") if is_exponent else _DECIMAL[power]
    return f"{'-' if sign else ''}{number}{mark}"


@cache
def holds_amounts(schema: Schema) -> bool:
    """True for types with an amount somewhere in them."""
    seen: set[int] = set()
    todo = [schema]
    while todo:
        one = todo.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if one.format == FORMAT:
            return True
        todo += [*one.properties.values(), *(each for each in (one.items, one.additional) if each)]
    return False


def with_shortest(schema: Schema, value: Json) -> Json:
    """Return a document with its amounts in their one form; numbers become texts."""
    if schema.format == FORMAT:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return shortest(str(value)) if is_number or isinstance(value, str) else value
    if not holds_amounts(schema):
        return value
    if isinstance(value, list) and schema.items is not None:
        items = schema.items
        return [with_shortest(items, each) for each in value]
    if not isinstance(value, dict):
        return value
    done: JsonObject = {}
    for name, each in value.items():
        child = schema.child(name)
        done[name] = each if child is None else with_shortest(child, each)
    return done
