"""DiscoveredDevice documents, and the DeviceModel and Device that one becomes. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from gateway.model.json import Json, JsonObject
from gateway.twin.documents import same
from gateway.wire.cloudedge.devices import (
    GROUP_VERSION,
    DeviceView,
    ObjectMeta,
    mapping,
    number,
    text,
    texts,
)
from gateway.wire.cloudedge.discoveries import MAX_PROPERTIES, SeenDevice, SeenProperty
from gateway.wire.cloudedge.lenient import objects
from gateway.wire.kube.clock import parse_rfc3339, rfc3339

DISCOVERED = "devices.twinspan.io/v1alpha1"
PLURAL, KIND = "discovereddevices", "DiscoveredDevice"
NODE_LABEL = "twinspan.io/node"
PROTOCOL_LABEL = "twinspan.io/protocol"
FROM = "twinspan.io/discovered"
"""Annotation of a Device and of a DeviceModel: the DiscoveredDevice that it was made of."""
ACCEPTED = "Accepted"
"""Type of the condition."""
DEFAULT_NAMESPACE = "default"
MAX_NAME = 63
_LATEST = 253_402_300_799_000


def name_of(node: str, key: str) -> str:
    """Return the name of what a node sees: `edge-1.bluetooth-a4c138aabbcc`."""
    return f"{node}.{key}"


def slug(said: str, instead: str) -> str:
    """Return a DNS label made of what a stranger said."""
    made = re.sub(r"[^a-z0-9]+", "-", said.lower()).strip("-")[:MAX_NAME].strip("-")
    return made or instead


# --- what is seen ----------------------------------------------------------------------------------


def new_object(node: str, device: SeenDevice, node_uid: str) -> JsonObject:
    """Build the object; it goes with its Node."""
    metadata: JsonObject = {
        "name": name_of(node, device.key),
        "labels": {NODE_LABEL: node, PROTOCOL_LABEL: device.protocol},
    }
    if node_uid:
        owner: JsonObject = {"apiVersion": "v1", "kind": "Node", "name": node, "uid": node_uid}
        metadata["ownerReferences"] = [owner]
    return {"apiVersion": DISCOVERED, "kind": KIND, "metadata": metadata, "spec": {}}


def sight_status(node: str, device: SeenDevice) -> JsonObject:
    """Build what of `status` the node says; absent members are null, so that a merge removes them."""
    said: JsonObject = {
        "node": node,
        "protocol": device.protocol,
        "address": device.address,
        "name": device.name or None,
        "model": device.model or None,
        "manufacturer": device.manufacturer or None,
        "signal": device.signal or None,
        "firstSeen": _instant(device.first),
        "lastSeen": _instant(device.last),
        "config": device.config,
        "facts": dict(device.facts) or None,
        "properties": [_property(each) for each in device.properties],
    }
    return said


def replacing(status: JsonObject, before: JsonObject) -> JsonObject:
    """Return a merge patch that also removes what the open members had and have not any more."""
    patch = dict(status)
    for name in ("config", "facts"):
        old, new = mapping(before.get(name)), status.get(name)
        if isinstance(new, dict):
            patch[name] = {**dict.fromkeys(old.keys() - new.keys()), **new}
    return patch


def says_more(status: JsonObject, before: JsonObject) -> bool:
    """Say whether a status is worth a write."""
    return any(not same(before.get(name), value) for name, value in status.items())


def _instant(millis: int) -> str | None:
    return rfc3339(millis / 1_000) if 0 < millis <= _LATEST else None


def _property(prop: SeenProperty) -> JsonObject:
    said: JsonObject = {
        "name": prop.name,
        "type": prop.type,
        "accessMode": prop.access,
        "unit": prop.unit,
        "minimum": prop.minimum,
        "maximum": prop.maximum,
        "description": prop.description,
        "visitor": prop.visitor,
    }
    return {name: value for name, value in said.items() if value}


# --- what is wanted of it --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Found:
    """A DiscoveredDevice as its acceptance sees it.

    Shape:  `wish` is `spec.accept`, None where nobody wants it; `judged` the generation that the condition
            speaks of, 0 for none.
    """

    meta: ObjectMeta
    node: str
    protocol: str
    address: str
    said_name: str
    said_model: str
    config: JsonObject
    properties: tuple[JsonObject, ...]
    wish: Mapping[str, str] | None
    accepted: str
    judged: int
    reason: str
    last_seen: float

    @classmethod
    def read(cls, document: JsonObject) -> Found:
        spec, status = mapping(document.get("spec")), mapping(document.get("status"))
        wish = spec.get("accept")
        condition = condition_of(status)
        return cls(
            meta=ObjectMeta.read(document),
            node=text(status.get("node")),
            protocol=text(status.get("protocol")),
            address=text(status.get("address")),
            said_name=text(status.get("name")),
            said_model=text(status.get("model")),
            config=mapping(status.get("config")),
            properties=tuple(objects(status.get("properties"), MAX_PROPERTIES)),
            wish=texts(wish) if isinstance(wish, dict) else None,
            accepted=text(status.get("accepted")),
            judged=number(condition.get("observedGeneration")),
            reason=text(condition.get("reason")),
            last_seen=parse_rfc3339(text(status.get("lastSeen"))) or 0.0,
        )

    @property
    def is_new_wish(self) -> bool:
        """Say whether somebody wants it, and nobody has judged that yet."""
        return self.wish is not None and self.judged < self.meta.generation


def condition_of(status: JsonObject) -> JsonObject:
    """Return the condition that tells whether it was accepted, empty where there is none."""
    found = objects(status.get("conditions"), 20)
    return next((each for each in found if each.get("type") == ACCEPTED), {})


def is_it(found: Found, device: DeviceView) -> bool:
    """Say whether a Device is this one: the same node and protocol, and all of its configuration."""
    config = device.protocol_config or {}
    return (
        bool(found.config)
        and (device.node, device.protocol) == (found.node, found.protocol)
        and all(
            name in config and _alike(config[name], value) for name, value in found.config.items()
        )
    )


def _alike(left: Json, right: Json) -> bool:
    if isinstance(left, str) and isinstance(right, str):
        return left.casefold() == right.casefold()
    return same(left, right)


def device_name(found: Found) -> tuple[str, str]:
    """Return namespace and name of the Device that it becomes."""
    wish = found.wish or {}
    made = slug(found.said_name or found.said_model, "")
    if made:  # two of a kind have the same name for themselves
        tail = re.sub(r"[^a-z0-9]+", "", found.address.lower())[-4:]
        made = f"{made[: MAX_NAME - 5].strip('-')}-{tail}" if tail else made
    name = wish.get("name") or made or slug(found.meta.name.partition(".")[2], "device")
    return wish.get("namespace") or DEFAULT_NAMESPACE, name


def model_of(found: Found, namespace: str) -> JsonObject:
    """Build its DeviceModel."""
    name = (found.wish or {}).get("model") or slug(
        found.said_model, f"{slug(found.protocol, 'x')}-device"
    )
    entries: list[Json] = []
    for prop in found.properties:
        entry: JsonObject = {k: v for k, v in prop.items() if k != "visitor"}
        if mapping(prop.get("visitor")):
            entry["visitors"] = _visitors(found, prop)
        entries.append(entry)
    return {
        "apiVersion": GROUP_VERSION,
        "kind": "DeviceModel",
        "metadata": {"name": name, "namespace": namespace, "annotations": {FROM: found.meta.name}},
        "spec": {"protocol": found.protocol, "properties": entries},
    }


def with_model(found: Found, model: JsonObject) -> Found:
    """Return it with the properties of a model that somebody named; what was seen of them counts."""
    seen = {text(prop.get("name")): prop for prop in found.properties}
    entries = objects(mapping(model.get("spec")).get("properties"), 10 * MAX_PROPERTIES)
    listed = [(text(entry.get("name")), entry) for entry in entries]
    kept = [seen.get(name) or _as_seen(name, entry) for name, entry in listed if name]
    return replace(found, properties=tuple(kept))


def _as_seen(name: str, entry: JsonObject) -> JsonObject:
    visitor = mapping(mapping(entry.get("visitors")).get("configData"))
    return {"name": name, "visitor": dict(visitor)}


def renamed(model: JsonObject) -> JsonObject:
    """Return a model under a name that only equal ones have."""
    metadata = mapping(model["metadata"])
    written = msgspec.json.encode(model["spec"], order="deterministic")
    digest = hashlib.sha256(written).hexdigest()[:8]
    name = f"{text(metadata.get('name'))[: MAX_NAME - 9].strip('-')}-{digest}"
    return {**model, "metadata": {**metadata, "name": name}}


def is_same_model(one: JsonObject, other: JsonObject) -> bool:
    """Say whether two DeviceModels describe the same."""
    return same(_described(one), _described(other))


def _described(model: JsonObject) -> JsonObject:
    spec = mapping(model.get("spec"))
    entries = objects(spec.get("properties"), 10 * MAX_PROPERTIES)
    return {"protocol": text(spec.get("protocol")), "properties": list[Json](entries)}


def device_of(found: Found, namespace: str, name: str, model: str) -> JsonObject:
    """Build the Device."""
    entries: list[Json] = [
        {"name": prop["name"], "reportToCloud": True, "visitors": _visitors(found, prop)}
        for prop in found.properties
    ]
    return {
        "apiVersion": GROUP_VERSION,
        "kind": "Device",
        "metadata": {"name": name, "namespace": namespace, "annotations": {FROM: found.meta.name}},
        "spec": {
            "deviceModelRef": {"name": model},
            "nodeName": found.node,
            "protocol": {"protocolName": found.protocol, "configData": dict(found.config)},
            "properties": entries,
        },
    }


def _visitors(found: Found, prop: JsonObject) -> JsonObject:
    return {"protocolName": found.protocol, "configData": dict(mapping(prop.get("visitor")))}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a wish: `accepted` is the Device, "" for none; `reason` and `message` say why."""

    accepted: str
    reason: str
    message: str


def verdict_status(found: Found, before: JsonObject, verdict: Verdict, now: float) -> JsonObject:
    """Build the merge patch of `status` that tells it."""
    state = "True" if verdict.accepted else "False"
    old = condition_of(before)
    since: Any = old.get("lastTransitionTime") if old.get("status") == state else None
    condition: JsonObject = {
        "type": ACCEPTED,
        "status": state,
        "reason": verdict.reason,
        "message": verdict.message[:1_000],
        "observedGeneration": found.meta.generation,
        "lastTransitionTime": since or rfc3339(now),
    }
    others = [e for e in objects(before.get("conditions"), 20) if e.get("type") != ACCEPTED]
    return {"accepted": verdict.accepted or None, "conditions": [*others, condition]}
