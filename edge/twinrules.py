"""DeviceTwin's rules: what a report, a cloud sync or a Device object does to a device's twins.

Pure: twins and a request in, the new twins and what to tell client, cloud and subscribers out. A twin has
two sides, `expected` (the wanted value) and `actual` (the reported one), and each side has a version that
counts the cloud's and the edge's writes. Each rule builds a `Change`; nothing is altered in place.

Source: KubeEdge reference, sections 14.3, 15.1, 15.2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

from msgspec.structs import replace

from edge.twinvalues import STRING, check_value, same
from gateway.errors import BadRequest
from gateway.wire.cloudedge.twins import (
    DELETED,
    Twin,
    TwinChange,
    TwinValue,
    TwinVersion,
    ValueMetadata,
)
from gateway.wire.cloudedge.values import ValueRule

MAX_PROPERTIES = 1_000
"""Properties in one request, and properties of one device."""
MAX_METADATA = 32
"""Keys in the metadata of one property."""

_NAME = re.compile(r"[a-zA-Z0-9\-_.,:/@#]{1,128}")
_NEVER = TwinVersion()
NO_RULES: Mapping[str, ValueRule] = MappingProxyType({})

Twins: TypeAlias = Mapping[str, Twin]
Asks: TypeAlias = Mapping[str, Twin | None]


@dataclass(frozen=True, slots=True)
class Bound:
    """The desired value that was last taken over from a Device; `text` None: it wanted nothing."""

    uid: str
    text: str | None


_NOTHING_BOUND: Mapping[str, Bound] = MappingProxyType({})


@dataclass(slots=True)
class Change:
    """What follows from a request.

    Shape:  `changed` maps each touched property to its new twin; `before` to its old one (None: new);
            `result` is what the client is told; `sync` what the cloud is told; `rejected` names the sides
            that lost against newer local data (`temp.expected`); `bound` is what to remember of the
            Device's desired values (None: nothing any more).
    """

    changed: dict[str, Twin] = field(default_factory=dict)
    before: dict[str, Twin | None] = field(default_factory=dict)
    result: dict[str, Twin | None] = field(default_factory=dict)
    sync: dict[str, Twin | None] = field(default_factory=dict)
    rejected: list[str] = field(default_factory=list)
    bound: dict[str, Bound | None] = field(default_factory=dict)

    def note(self, name: str, before: Twin | None, after: Twin) -> None:
        if before != after:
            self.before.setdefault(name, before)
            self.changed[name] = after


# --- values and names ------------------------------------------------------------------------------


def type_of(twin: Twin) -> str:
    """The twin's type; text where nothing says otherwise."""
    return twin.type or STRING


def is_deleted(twin: Twin) -> bool:
    return twin.type == DELETED


def delta_of(twin: Twin) -> str | None:
    """The wanted value where the device does not have it yet; typed values are compared, not texts."""
    wanted, got = text_of(twin.expected), text_of(twin.actual)
    if is_deleted(twin) or not wanted or (got is not None and same(type_of(twin), wanted, got)):
        return None
    return wanted


def text_of(value: TwinValue | None) -> str | None:
    return None if value is None else value.value


def _stamped(text: str, now_ms: int) -> TwinValue:
    return TwinValue(value=text, metadata=ValueMetadata(timestamp=now_ms))


def _newer(mine: TwinVersion | None, theirs: TwinVersion) -> bool:
    return mine is not None and (mine.cloud > theirs.cloud or mine.edge > theirs.edge)


# --- local updates (section 15.1) ------------------------------------------------------------------


def check_asks(asks: Asks | None) -> Asks:
    """Return what a client asks for, if a request may look so.

    Errors: BadRequest for no, too many or wrongly named properties.
    """
    if not asks:
        raise BadRequest("twin: expected an object with at least one property")
    if len(asks) > MAX_PROPERTIES:
        raise BadRequest(f"twin: at most {MAX_PROPERTIES} properties, got {len(asks)}")
    for name in asks:
        if _NAME.fullmatch(name) is None:
            raise BadRequest(f"twin: property name {name[:64]!r} must match {_NAME.pattern}")
    return asks


def report(
    twins: Twins,
    asks: Asks,
    now_ms: int,
    rules: Mapping[str, ValueRule] = NO_RULES,
    *,
    is_sourced: bool = False,
) -> Change:
    """Apply what a client or mapper at the edge says; `rules` are those of the device's model.

    Shape:  `is_sourced` lets a reported value have its own time and quality; KubeEdge ignores a client's.
    Errors: BadRequest when one value does not fit its type; then nothing at all changes.
    """
    change = Change()
    for name, ask in check_asks(asks).items():
        stored = twins.get(name)
        writer = _Writer(name, rules.get(name), now_ms, is_sourced)
        if ask is None:
            _forget(change, name, stored)
        elif stored is None or is_deleted(stored):
            _insert(change, name, stored, ask, writer)
        else:
            _update(change, name, stored, ask, writer)
    if len(twins.keys() | change.changed.keys()) > MAX_PROPERTIES:
        raise BadRequest(f"twin: a device has at most {MAX_PROPERTIES} properties")
    return change


def _forget(change: Change, name: str, stored: Twin | None) -> None:
    if stored is None or stored.optional is False or is_deleted(stored):
        return
    after = _emptied(stored, _bumped(stored.expected_version), _bumped(stored.actual_version))
    change.note(name, stored, after)
    change.result[name] = None
    change.sync[name] = after


def _emptied(stored: Twin, expected: TwinVersion | None, actual: TwinVersion | None) -> Twin:
    return replace(
        stored,
        expected=None,
        actual=None,
        expected_version=expected,
        actual_version=actual,
        metadata={"type": DELETED},
    )


def _check_metadata(name: str, twin: Twin) -> None:
    """Refuse metadata that grows without end. Errors: BadRequest."""
    if len(twin.metadata or ()) > MAX_METADATA:
        raise BadRequest(f"twin.{name}.metadata: at most {MAX_METADATA} keys")


def _insert(change: Change, name: str, stored: Twin | None, ask: Twin, writer: _Writer) -> None:
    if text_of(ask.expected) is None and text_of(ask.actual) is None:
        return
    kind = STRING if is_deleted(ask) else type_of(ask)
    base = Twin(
        metadata={**(ask.metadata or {}), "type": kind},
        optional=ask.optional is not False,
        expected_version=None if stored is None else stored.expected_version,
        actual_version=None if stored is None else stored.actual_version,
    )
    _check_metadata(name, base)
    _accept(change, name, stored, writer.write(base, ask), ask)


def _update(change: Change, name: str, stored: Twin, ask: Twin, writer: _Writer) -> None:
    after = writer.write(stored, ask)
    extra = {key: value for key, value in (ask.metadata or {}).items() if key != "type"}
    if extra:
        after = replace(after, metadata={**(stored.metadata or {}), **extra})
        _check_metadata(writer.name, after)
    if ask.optional is False:
        after = replace(after, optional=False)
    if after != stored:
        _accept(change, name, stored, after, ask)


@dataclass(frozen=True, slots=True)
class _Writer:
    """Sets the sides that a request has. An equal value counts as a write too."""

    name: str
    rule: ValueRule | None
    now_ms: int
    is_sourced: bool = False

    def write(self, twin: Twin, ask: Twin) -> Twin:
        expected, actual = text_of(ask.expected), text_of(ask.actual)
        if expected is not None:
            twin = replace(
                twin,
                expected=self._value("expected", twin, expected),
                expected_version=_bumped(twin.expected_version),
            )
        if actual is not None:
            twin = replace(
                twin,
                actual=self._value("actual", twin, actual, ask.actual),
                actual_version=_bumped(twin.actual_version),
            )
        return twin

    def _value(self, side: str, twin: Twin, text: str, said: TwinValue | None = None) -> TwinValue:
        check_value(f"{self.name}.{side}", type_of(twin), text, self.rule)
        return said if self.is_sourced and said and said.timestamp else _stamped(text, self.now_ms)


def _bumped(version: TwinVersion | None) -> TwinVersion:
    version = version or _NEVER
    return TwinVersion(cloud=version.cloud, edge=version.edge + 1)


def _accept(change: Change, name: str, before: Twin | None, after: Twin, ask: Twin) -> None:
    change.note(name, before, after)
    change.sync[name] = after
    change.result[name] = replace(
        unversioned(after),
        expected=None if text_of(ask.expected) is None else after.expected,
        actual=None if text_of(ask.actual) is None else after.actual,
    )


# --- cloud sync (section 15.2) ---------------------------------------------------------------------


def sync(twins: Twins, asks: Asks, now_ms: int) -> Change:
    """Apply a `cloud_updated`: each side by its version; newer local data wins and goes back."""
    change = Change()
    for name, ask in asks.items():
        if ask is None or not ask.metadata:
            continue  # the cloud deletes by type, and always says the type
        if is_deleted(ask):
            _sync_delete(change, name, twins.get(name), ask)
        else:
            _sync_values(change, name, twins.get(name), ask, now_ms)
    return change


def _sync_delete(change: Change, name: str, stored: Twin | None, ask: Twin) -> None:
    if stored is None or is_deleted(stored):
        return
    sides = (
        ("expected", stored.expected_version, ask.expected_version),
        ("actual", stored.actual_version, ask.actual_version),
    )
    lost = [side for side, mine, theirs in sides if theirs is not None and _newer(mine, theirs)]
    if lost:
        change.rejected += [f"{name}.{side}" for side in lost]
        change.sync[name] = stored
        return
    after = _emptied(
        stored,
        ask.expected_version or stored.expected_version,
        ask.actual_version or stored.actual_version,
    )
    change.note(name, stored, after)


def _sync_values(change: Change, name: str, stored: Twin | None, ask: Twin, now_ms: int) -> None:
    base = stored
    if base is None or is_deleted(base):
        base = replace(
            base or Twin(), metadata=dict(ask.metadata or {}), optional=ask.optional is not False
        )
    after, lost = base, False
    expected, actual = text_of(ask.expected), text_of(ask.actual)
    if expected is not None:
        if _passes(f"{name}.expected", base, expected, base.expected_version, ask.expected_version):
            after = replace(
                after,
                expected=_stamped(expected, now_ms),
                expected_version=ask.expected_version,
            )
        else:
            change.rejected.append(f"{name}.expected")
            lost = True
    if actual is not None:
        if _passes(f"{name}.actual", base, actual, base.actual_version, ask.actual_version):
            after = replace(
                after, actual=_stamped(actual, now_ms), actual_version=ask.actual_version
            )
        else:
            change.rejected.append(f"{name}.actual")
            lost = True
    if after is not base:
        change.note(name, stored, after)
    if lost and stored is not None:
        change.sync[name] = after


def _passes(
    where: str, twin: Twin, text: str, mine: TwinVersion | None, theirs: TwinVersion | None
) -> bool:
    """True when a side from the cloud may be taken."""
    try:
        check_value(where, type_of(twin), text)
    except BadRequest:
        return False
    return theirs is not None and not _newer(mine, theirs)


# --- the Device object (section 15.3) --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wanted:
    """A property as the Device and its model say it; `text` None: no desired value.

    `is_usable` False: the model does not allow this text, so the last good desired value stays.
    """

    text: str | None
    type: str
    is_usable: bool = True


def bind(
    twins: Twins,
    wanted: Mapping[str, Wanted],
    gone: frozenset[str],
    now_ms: int,
    *,
    uid: str = "",
    bound: Mapping[str, Bound] = _NOTHING_BOUND,
) -> Change:
    """Take over a Device's properties: desired values become expected ones, lost properties go.

    Shape:  `gone` are the properties that the Device had before and has no longer; `bound` what was
            taken over before. Only what differs is written, so the same Device again changes nothing,
            and a desired value that is still the same leaves a later wish of the edge alone.
    """
    change = Change(bound={name: None for name in gone if name in bound})
    for name in gone:
        stored = twins.get(name)
        if stored is not None and not is_deleted(stored):
            after = _emptied(stored, stored.expected_version, stored.actual_version)
            change.note(name, stored, after)
    for name, want in wanted.items():
        stored = twins.get(name)
        fresh = stored is None or is_deleted(stored)
        base, before = stored or Twin(), bound.get(name)
        if not fresh and before is not None and _is_taken(base, want, before, uid):
            want = Wanted(want.text, want.type, is_usable=False)
        elif want.is_usable and before != Bound(uid, want.text):
            change.bound[name] = Bound(uid, want.text)
        change.note(name, stored, _bound(base, fresh, want, now_ms))
    return change


def _is_taken(base: Twin, want: Wanted, before: Bound, uid: str) -> bool:
    """True when this desired value was taken over before, and what is expected since may stay."""
    if before != Bound(uid, want.text):
        return False
    held = text_of(base.expected)
    return held is None or type_of(base) == want.type or _fits(want.type, held)


def _fits(kind: str, text: str) -> bool:
    try:
        check_value("expected", kind, text)
    except BadRequest:
        return False
    return True


def _bound(base: Twin, fresh: bool, want: Wanted, now_ms: int) -> Twin:
    after = base
    if fresh or type_of(base) != want.type:
        after = replace(after, metadata={**(base.metadata or {}), "type": want.type})
    if base.optional is None:
        after = replace(after, optional=True)
    held = text_of(base.expected)
    if (
        not want.is_usable
        or held == want.text
        or (held is not None and want.text is not None and same(want.type, held, want.text))
    ):
        return after
    version = base.expected_version or _NEVER
    return replace(
        after,
        expected=None if want.text is None else _stamped(want.text, now_ms),
        expected_version=TwinVersion(cloud=version.cloud + 1, edge=version.edge),
    )


# --- what goes out ---------------------------------------------------------------------------------


def unversioned(twin: Twin) -> Twin:
    """A twin as local clients see it in results and documents."""
    return replace(twin, expected_version=None, actual_version=None)


def changes_of(change: Change) -> dict[str, TwinChange]:
    """The `twin` part of `twin/update/document`: each touched property before and after."""
    return {
        name: TwinChange(last=_visible(change.before.get(name)), current=_visible(after))
        for name, after in change.changed.items()
    }


def _visible(twin: Twin | None) -> Twin | None:
    return None if twin is None or is_deleted(twin) else unversioned(twin)


def deltas(twins: Twins) -> dict[str, str]:
    """Property -> wanted value, for each property whose device is behind."""
    return {name: text for name, twin in twins.items() if (text := delta_of(twin)) is not None}


def alive(twins: Twins) -> dict[str, Twin | None]:
    """Everything that is not deleted: the `twin` part of `twin/get/result` and of a delta."""
    return {name: twin for name, twin in twins.items() if not is_deleted(twin)}
