"""A device as its row on disk, the membership documents, MQTT topics and the twin's rules know it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from msgspec import Raw

from edge.clock import now_ms
from edge.store import DeviceRow
from edge.twinrules import NO_RULES, Bound, Change, Wanted, bind
from gateway.errors import GatewayError
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.subjects import DeviceKey
from gateway.wire.cloudedge.twins import MemberDevice, MembershipList, Twin, write
from gateway.wire.cloudedge.values import (
    TWIN_TYPE,
    PropertyType,
    ValueRule,
    check_typed,
    parse_text,
)


@dataclass(slots=True)
class LocalDevice:
    """One device: `twins` as they are with all changes on their way to disk, `stored` as on disk.

    Shape:  `bound` and `stored_bound` likewise: the desired values last taken over from the Device.
    """

    row: DeviceRow
    twins: dict[str, Twin] = field(default_factory=dict)
    stored: dict[str, Twin] = field(default_factory=dict)
    bound: dict[str, Bound] = field(default_factory=dict)
    stored_bound: dict[str, Bound] = field(default_factory=dict)
    view: DeviceView | None = None
    rules: Mapping[str, ValueRule] = field(default_factory=lambda: NO_RULES)

    def load(self, twins: dict[str, Twin], bound: dict[str, Bound]) -> None:
        """Take what is on disk."""
        self.twins, self.stored = twins, dict(twins)
        self.bound, self.stored_bound = bound, dict(bound)

    def bind(self, view: DeviceView, rules: Mapping[str, ValueRule]) -> Change:
        """Belong to this Device from now on; return what follows for the twins."""
        before = self.bound.keys() | (frozenset() if self.view is None else self.view.properties)
        gone = frozenset(before - view.properties.keys())
        self.view, self.rules = view, rules
        wanted = wanted_of(view, rules)
        return bind(self.twins, wanted, gone, now_ms(), uid=view.meta.uid, bound=self.bound)

    def begin(self, change: Change) -> None:
        """Have a change that is on its way to disk."""
        self.twins.update(change.changed)
        _note_bound(self.bound, change)

    def written(self, change: Change) -> None:
        """Know that a change is on disk."""
        self.stored.update(change.changed)
        _note_bound(self.stored_bound, change)

    def undo(self, change: Change) -> None:
        """Take a failed change out of memory, except where a later one is on top of it.

        What comes back is what is on disk: the change below may have failed as well.
        """
        for name, after in change.changed.items():
            if self.twins.get(name) is not after:
                continue
            before = self.stored.get(name)
            if before is None:
                del self.twins[name]
            else:
                self.twins[name] = before
        for name, it in change.bound.items():
            if self.bound.get(name) is it:
                _set_bound(self.bound, name, self.stored_bound.get(name))


def _note_bound(bound: dict[str, Bound], change: Change) -> None:
    for name, it in change.bound.items():
        _set_bound(bound, name, it)


def _set_bound(bound: dict[str, Bound], name: str, it: Bound | None) -> None:
    if it is None:
        bound.pop(name, None)
    else:
        bound[name] = it


DEVICE_TOPICS = "$hw/events/device"


def topic_of(key: DeviceKey) -> str:
    """Return the MQTT topic prefix of a device."""
    return f"{DEVICE_TOPICS}/{key}"


def node_topic(node: str) -> str:
    """Return the MQTT topic prefix of a node."""
    return f"$hw/events/node/{node}"


def membership_list(members: Iterable[MemberDevice], event_id: str) -> bytes:
    """Write the payload of `membership/get/result`."""
    return write(MembershipList(event_id, now_ms(), list(members)))


def row_of(member: MemberDevice) -> DeviceRow:
    """Return the row of a device that came."""
    return DeviceRow(member.id, member.name, member.description)


def member_of(row: DeviceRow, attributes: dict[str, Raw] | None = None) -> MemberDevice:
    """Return a device as membership documents list it."""
    state, online = row.state, row.last_online
    return MemberDevice(row.id, row.name, row.description, state, online, attributes)


def wanted_of(view: DeviceView, rules: Mapping[str, ValueRule]) -> dict[str, Wanted]:
    """Return what a Device wants of each property; streams are not twinned."""
    out = {}
    for name, prop in view.properties.items():
        rule = rules.get(name)
        if rule is not None and rule.type is PropertyType.STREAM:
            continue
        said = (prop.desired_metadata or {}).get("type") or "string"
        if rule is None:
            out[name] = Wanted(prop.desired, said)
        else:
            out[name] = Wanted(prop.desired, TWIN_TYPE[rule.type], _is_usable(rule, prop.desired))
    return out


def _is_usable(rule: ValueRule, text: str | None) -> bool:
    """Judge a desired value as the cloud does, which also tells the operator."""
    if text is None:
        return True
    try:
        check_typed(rule, parse_text(rule.type, text))
    except GatewayError:
        return False
    return rule.writable
