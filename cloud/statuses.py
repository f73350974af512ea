"""DeviceStatus documents: what is in them, and how a report changes them. Pure.

Source: CRD DeviceStatus v1beta1: `status.twins[] {propertyName, reported, observedDesired}`, `state`,
`lastOnlineTime`, `extensions`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cloud.mapping import (
    Layout,
    features_patch,
    kubeedge_attributes,
    missing_features,
    reported_by_thing,
)
from gateway.errors import GatewayError
from gateway.kube.informer import number_of
from gateway.model.json import Json, JsonObject
from gateway.twin.documents import same
from gateway.wire.cloudedge.devices import GROUP_VERSION, DeviceView, mapping, text
from gateway.wire.cloudedge.twins import Twin, TwinValue
from gateway.wire.cloudedge.values import TWIN_TYPE, PropertyType, Typed, parse_text

MAX_TWINS = 1_000
MAX_FAULTS = 50
FAULTS = "faults"
"""Member of `status.extensions`, ours: a list of part, message and the node that says so."""
REPORTS = "reports"
"""Member of `status.extensions`, ours: which store of which node reported, and its version by property."""
GOOD, UNCERTAIN = "good", "uncertain"
"""Quality of a reported value; only what is not good is written."""
FRESH_MILLIS = 60_000
"""A report of the same value writes the DeviceStatus anew only when this old."""


def twin_entries(status: JsonObject | None) -> dict[str, JsonObject]:
    """Return the entries of `status.twins` by property."""
    twins = mapping((status or {}).get("status")).get("twins")
    entries = twins if isinstance(twins, list) else []
    return {
        text(entry.get("propertyName")): entry
        for entry in entries
        if isinstance(entry, dict) and entry.get("propertyName")
    }


def belongs_to(status: JsonObject, uid: str) -> bool:
    """False for the DeviceStatus of an earlier Device of the same name, which is collected a little later."""
    owners = mapping(status.get("metadata")).get("ownerReferences")
    uids = [
        text(owner.get("uid"))
        for owner in (owners if isinstance(owners, list) else [])
        if isinstance(owner, dict) and owner.get("kind") == "Device"
    ]
    return not uids or uid in uids


def state_of(status: JsonObject | None) -> dict[str, str]:
    """Return `state` and `lastOnlineTime`, where they are known."""
    body = mapping((status or {}).get("status"))
    found = {name: text(body.get(name)) for name in ("state", "lastOnlineTime")}
    return {name: value for name, value in found.items() if value}


@dataclass(frozen=True, slots=True)
class Faults:
    """What a node said does not work of a Device: part -> message."""

    node: str
    parts: Mapping[str, str]


def faults_of(status: JsonObject | None) -> Faults | None:
    """Return what stands there as wrong with a Device; None where nothing was ever said."""
    found = mapping(mapping((status or {}).get("status")).get("extensions")).get(FAULTS)
    if not isinstance(found, list):
        return None
    entries = [mapping(entry) for entry in found]
    node = text(entries[0].get("node")) if entries else ""
    return Faults(node, {text(e.get("part")): text(e.get("message")) for e in entries})


@dataclass(frozen=True, slots=True)
class Reporter:
    """Whose reports a DeviceStatus shows, and which version of each property was the last that was news.

    With it a CloudCore that was killed knows again what it has written and not answered.
    """

    node: str = ""
    store: str = ""
    versions: Mapping[str, int] = field(default_factory=dict)

    def with_versions(self, node: str, store: str, versions: Mapping[str, int]) -> Reporter:
        """Return the state after a report; another store counts anew."""
        before = self.versions if (node, store) == (self.node, self.store) else {}
        return Reporter(node, store, {**before, **versions})


NOBODY = Reporter()


def reporter_of(status: JsonObject | None) -> Reporter:
    """Return what stands there of who reported, nothing where nobody did."""
    found = mapping(mapping(mapping((status or {}).get("status")).get("extensions")).get(REPORTS))
    listed = found.get("versions")
    entries = [mapping(entry) for entry in (listed if isinstance(listed, list) else [])]
    numbers = ((text(e.get("propertyName")), e.get("version")) for e in entries)
    versions = {name: version for name, version in numbers if isinstance(version, int)}
    return Reporter(text(found.get("node")), text(found.get("store")), versions)


def reported_by_status(status: JsonObject | None, layout: Layout) -> dict[str, Json]:
    """Return reported values, typed; those that do not parse are left out."""
    values: dict[str, Json] = {}
    for name, entry in twin_entries(status).items():
        reported = mapping(entry.get("reported"))
        value = reported.get("value")
        if name in layout.places and isinstance(value, str):
            try:
                values[name] = parse_text(layout.rule(name).type, value)
            except GatewayError:
                continue
    return values


_BY_TWIN_TYPE = {
    "int": PropertyType.INT,
    "integer": PropertyType.INT,
    "float": PropertyType.DOUBLE,
    "boolean": PropertyType.BOOLEAN,
}


def thing_patch(
    device: DeviceView,
    layout: Layout,
    document: JsonObject,
    desired: Mapping[str, Json],
    status: JsonObject | None,
) -> JsonObject:
    """Build the merge patch that gives a thing wanted values, what its Device says of itself, and reports
    that it never got; empty where it has all of it.
    """
    known = reported_by_thing(document, layout)
    missed = {n: v for n, v in reported_by_status(status, layout).items() if n not in known}
    facts = kubeedge_attributes(device, state_of(status))
    features = {**missing_features(layout, document), **features_patch(layout, desired, missed)}
    patch: JsonObject = {"features": features} if features else {}
    if not _contains(mapping(mapping(document.get("attributes")).get("kubeedge")), facts):
        patch["attributes"] = {"kubeedge": facts}
    return patch


def _contains(present: JsonObject, wanted: JsonObject) -> bool:
    return all(name in present and same(present[name], value) for name, value in wanted.items())


def reported_by_entries(entries: Mapping[str, JsonObject], layout: Layout) -> dict[str, Json]:
    """Return all reported values that a thing can have, typed, also of what only the edge knows."""
    values: dict[str, Json] = {}
    for name, entry in entries.items():
        side = mapping(entry.get("reported"))
        value, said = side.get("value"), text(mapping(side.get("metadata")).get("type"))
        if "/" in name or not isinstance(value, str):
            continue
        known = layout.rules.get(name)
        kind = known.type if known else _BY_TWIN_TYPE.get(said, PropertyType.STRING)
        try:
            values[name] = parse_text(kind, value)
        except GatewayError:
            continue
    return values


def type_of(layout: Layout, name: str, twin: Twin) -> PropertyType:
    """Return a property's type: the model's, else what the edge says it is."""
    if name in layout.rules:
        return layout.rules[name].type
    return _BY_TWIN_TYPE.get(twin.type, PropertyType.STRING)


def parse_reported(layout: Layout, name: str, twin: Twin) -> Typed | None:
    """Return the reported value, typed; None where the twin has none. Errors: BadRequest."""
    if twin.actual is None or twin.actual.value is None:
        return None
    return parse_text(type_of(layout, name, twin), twin.actual.value)


def twin_entry(layout: Layout, name: str, twin: Twin, old: JsonObject | None) -> JsonObject:
    """Build the entry of `status.twins` after a report; what the report leaves out stays."""
    kind = TWIN_TYPE.get(type_of(layout, name, twin), "string")
    entry: JsonObject = {**(old or {}), "propertyName": name}
    if twin.actual is not None and twin.actual.value is not None:
        entry["reported"] = _reported(twin.actual, kind)
    if twin.expected is not None and twin.expected.value is not None:
        entry["observedDesired"] = _side(twin.expected, kind)
    return entry


def _side(value: TwinValue, kind: str) -> JsonObject:
    metadata: JsonObject = {"timestamp": str(value.timestamp), "type": kind}
    return {"value": value.value, "metadata": metadata}


def _reported(value: TwinValue, kind: str) -> JsonObject:
    side = _side(value, kind)
    if value.quality == UNCERTAIN:
        mapping(side["metadata"])["quality"] = UNCERTAIN
    return side


def quality_of(entry: JsonObject | None) -> str:
    """Return how far the reported value of an entry can be trusted."""
    said = text(mapping(mapping((entry or {}).get("reported")).get("metadata")).get("quality"))
    return said or GOOD


def is_news(old: JsonObject | None, new: JsonObject) -> bool:
    """True when an entry is worth a write: another value, or the old report is a minute old."""
    if old is None:
        return True
    for side in ("reported", "observedDesired"):
        before, after = mapping(old.get(side)), mapping(new.get(side))
        if before.get("value") != after.get("value"):
            return True
        if abs(_millis(after) - _millis(before)) >= FRESH_MILLIS:  # also when a clock was set back
            return True
    return quality_of(old) != quality_of(new)


def reported_at(entry: JsonObject | None) -> int:
    """Return when the value of an entry was reported, ms by the edge's clock; 0 where none was."""
    return _millis(mapping((entry or {}).get("reported")))


def _millis(side: JsonObject) -> int:
    stamp = text(mapping(side.get("metadata")).get("timestamp"))
    return number_of(stamp) or 0


def new_status(device: DeviceView, status: JsonObject) -> JsonObject:
    """Build a DeviceStatus that belongs to its Device."""
    owner: JsonObject = {
        "apiVersion": GROUP_VERSION,
        "kind": "Device",
        "name": device.meta.name,
        "uid": device.meta.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {
        "apiVersion": GROUP_VERSION,
        "kind": "DeviceStatus",
        "metadata": {
            "name": device.meta.name,
            "namespace": device.meta.namespace,
            "ownerReferences": [owner],
        },
        "spec": {},
        "status": status,
    }


def status_patch(
    entries: Mapping[str, JsonObject],
    state: Mapping[str, str],
    faults: Faults | None = None,
    reporter: Reporter | None = None,
) -> JsonObject:
    """Build `status` from all entries, the state, the faults where any were ever told, and who reported."""
    twins: list[Json] = [entries[name] for name in list(entries)[:MAX_TWINS]]
    body: JsonObject = {"twins": twins}
    body.update(state)
    extensions: JsonObject = {}
    if reporter is not None and reporter.node:
        # A list, since a merge patch takes nothing out of a table.
        versions: list[Json] = [
            {"propertyName": name, "version": reporter.versions[name]}
            for name in entries
            if name in reporter.versions
        ]
        said: JsonObject = {"node": reporter.node, "store": reporter.store, "versions": versions}
        extensions[REPORTS] = said
    if faults is not None:
        listed: list[Json] = [
            {"part": part, "message": message, "node": faults.node}
            for part, message in sorted(faults.parts.items())
        ]
        extensions[FAULTS] = listed[:MAX_FAULTS]
    if extensions:
        body["extensions"] = extensions
    return body
