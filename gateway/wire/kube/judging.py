"""The sentences in which the API server says what is wrong: small judges that the kinds' rules share.

Each returns the causes of a 422, none where all is well. Source: Kubernetes API conventions, validation;
texts seen on version 1.36.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from ipaddress import ip_address, ip_network

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.names import (
    Rule,
    invalid_value,
    label_value_fault,
    qualified_fault,
    quoted,
    required,
)
from gateway.wire.kube.parts import part, rows, text
from gateway.wire.kube.status import Cause

MOST_INT = 2**31 - 1
PROTOCOLS = ("SCTP", "TCP", "UDP")
_PERCENT = re.compile(r"[0-9]+%")
_PERCENT_RULE = (
    "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%',"
    " regex used for validation is '[0-9]+%')"
)
_IP_RULE = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
_CIDR_RULE = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"


def unsupported(path: str, value: Json, allowed: Iterable[str]) -> Cause:
    """The value is none of the words that are known."""
    words = ", ".join(f'"{word}"' for word in allowed)
    text_ = f"Unsupported value: {quoted(value)}: supported values: {words}"
    return Cause("FieldValueNotSupported", text_, path)


def forbidden(path: str, why: str) -> Cause:
    return Cause("FieldValueForbidden", f"Forbidden: {why}", path)


def duplicate(path: str, value: Json) -> Cause:
    return Cause("FieldValueDuplicate", f"Duplicate value: {quoted(value)}", path)


def not_found(path: str, value: Json) -> Cause:
    return Cause("FieldValueNotFound", f"Not found: {quoted(value)}", path)


def known(
    path: str, value: Json, allowed: tuple[str, ...], *, must: bool = False
) -> Iterator[Cause]:
    """The value is one of some words; absent only where it need not be there."""
    if value in (None, ""):
        if must:
            yield required(path)
    elif value not in allowed:
        yield unsupported(path, value, allowed)


def not_negative(path: str, value: Json) -> Iterator[Cause]:
    if isinstance(value, int) and value < 0:
        yield invalid_value(path, value, "must be greater than or equal to 0")


def none_negative(item: JsonObject, path: str, *names: str) -> Iterator[Cause]:
    """The same for several fields."""
    for name in names:
        yield from not_negative(f"{path}.{name}", item.get(name))


def between(path: str, value: Json, low: int, high: int) -> Iterator[Cause]:
    if isinstance(value, int) and not low <= value <= high:
        yield invalid_value(path, value, f"must be between {low} and {high}, inclusive")


def port_number(path: str, value: Json) -> Iterator[Cause]:
    return between(path, value, 1, 65_535)


def port_name(path: str, name: str) -> Iterator[Cause]:
    """A name of a port: short, of lower case letters and digits."""
    for why in _port_name_rules(name):
        yield invalid_value(path, name, why)


def _port_name_rules(name: str) -> Iterator[str]:
    if len(name) > 15:
        yield "must be no more than 15 characters"
    if not re.fullmatch(r"[-a-z0-9]*", name):
        yield "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)"
    if not re.search(r"[a-z]", name):
        yield "must contain at least one letter (a-z)"
    if "--" in name:
        yield "must not contain consecutive hyphens"
    if name.startswith("-") or name.endswith("-"):
        yield "must not begin or end with a hyphen"


def port_or_name(path: str, value: Json) -> Iterator[Cause]:
    """A port by number or by name."""
    if isinstance(value, str):
        yield from port_name(path, value)
    else:
        yield from port_number(path, 0 if value is None else value)


def named(path: str, value: Json, rule: Rule) -> Iterator[Cause]:
    """A text that obeys a grammar."""
    why = rule(text(value))
    if why:
        yield invalid_value(path, value, why)


def is_address(value: Json) -> bool:
    try:
        ip_address(text(value))
    except ValueError:
        return False
    return True


def address(path: str, value: Json) -> Iterator[Cause]:
    if not is_address(value):
        yield invalid_value(path, value, _IP_RULE)


def reachable_address(path: str, value: Json) -> Iterator[Cause]:
    """An address that somebody else can have."""
    if not is_address(value):
        yield invalid_value(path, value, _IP_RULE)
        return
    found = ip_address(text(value))
    rules: tuple[tuple[bool, str], ...] = (
        (found.is_unspecified, f"may not be unspecified ({found})"),
        (found.is_loopback, "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
        (
            found.is_link_local,
            "may not be in the link-local range (169.254.0.0/16, fe80::/10)",
        ),
    )
    for holds, why in rules:
        if holds:
            yield invalid_value(path, value, why)


def network(path: str, value: Json) -> Iterator[Cause]:
    """A range of addresses."""
    try:
        ip_network(text(value), strict=False)
        is_right = "/" in text(value)
    except ValueError:
        is_right = False
    if not is_right:
        yield invalid_value(path, value, _CIDR_RULE)


def count_or_share(path: str, value: Json, *, most: bool = True) -> Iterator[Cause]:
    """A number of Pods, or a share of them in per cent."""
    if isinstance(value, str):
        if not _PERCENT.fullmatch(value):
            yield invalid_value(path, value, _PERCENT_RULE)
        elif most and int(value[:-1]) > 100:
            yield invalid_value(path, value, "must not be greater than 100%")
    else:
        yield from not_negative(path, value)


def is_nothing(value: Json) -> bool:
    """True for 0 Pods and for 0 per cent of them."""
    return value == 0 or (isinstance(value, str) and value.strip("0") == "%")


# --- labels -----------------------------------------------------------------------------------------


def label_faults(path: str, labels: Json) -> Iterator[Cause]:
    """Labels by key and value."""
    for key, value in labels.items() if isinstance(labels, dict) else ():
        why = qualified_fault(key)
        if why:
            yield invalid_value(path, key, why)
        why = label_value_fault(text(value))
        if why:
            yield invalid_value(path, value, why)


def selector_faults(path: str, selector: Json) -> Iterator[Cause]:
    """A label selector as objects have it."""
    if not isinstance(selector, dict):
        return
    yield from label_faults(f"{path}.matchLabels", selector.get("matchLabels"))
    for at, row in enumerate(rows(selector.get("matchExpressions"))):
        yield from _expression_faults(f"{path}.matchExpressions[{at}]", row)


def _expression_faults(path: str, row: JsonObject) -> Iterator[Cause]:
    operator, values = row.get("operator"), row.get("values")
    if operator in ("In", "NotIn"):
        if not values:
            why = "must be specified when `operator` is 'In' or 'NotIn'"
            yield required(f"{path}.values", why)
    elif operator in ("Exists", "DoesNotExist"):
        if values:
            why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
            yield forbidden(f"{path}.values", why)
    else:
        yield invalid_value(f"{path}.operator", operator or "", "not a valid selector operator")
    why_key = qualified_fault(text(row.get("key")))
    if why_key:
        yield invalid_value(f"{path}.key", row.get("key") or "", why_key)
    for at, value in enumerate(values if isinstance(values, list) else []):
        yield from named(f"{path}.values[{at}]", value, label_value_fault)


def is_readable(selector: JsonObject) -> bool:
    """True for a selector that says which objects it means."""
    return not any(
        cause.field.endswith(("operator", "values"))
        for cause in selector_faults("", selector)
        if cause.field
    )


# --- what may not change ----------------------------------------------------------------------------

IMMUTABLE = "field is immutable"


def fixed(path: str, before: Json, after: Json) -> Iterator[Cause]:
    """A field that stays as it was made."""
    if (before or None) != (after or None):
        yield invalid_value(path, after, IMMUTABLE)


def all_fixed(
    before: JsonObject, after: JsonObject, path: str, names: Iterable[str]
) -> Iterator[Cause]:
    """The same for several fields of a part."""
    for name in names:
        yield from fixed(f"{path}.{name}", before.get(name), after.get(name))


# --- sources ----------------------------------------------------------------------------------------

Judge = Callable[[str, JsonObject], Iterator[Cause]]


def only_one(
    path: str, item: JsonObject, names: Iterable[str], judges: Mapping[str, Judge], what: str
) -> Iterator[Cause]:
    """Of some alternatives one is there, and it is right; the others are forbidden."""
    found = False
    for name in names:
        value = item.get(name)
        if value is None:
            continue
        if found:
            yield forbidden(f"{path}.{name}", f"may not specify more than 1 {what} type")
            continue
        found = True
        judge = judges.get(name)
        if judge is not None:
            yield from judge(f"{path}.{name}", part(item, name))
