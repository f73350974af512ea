"""Short forms of Nodes, Devices, Pods and what was discovered, as lists and events tell them. Pure.

Objects may hold anything: what cannot be read is left out, texts are cut.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.devices import DeviceView, mapping, text, texts

LOCATION: Final = "twinspan.io/location"
"""Annotation of a Node: `latitude,longitude` in degrees."""
REGION: Final = "topology.kubernetes.io/region"
ZONE: Final = "topology.kubernetes.io/zone"
GROUP: Final = "apps.kubeedge.io/belonging-to"
EDGE: Final = "node-role.kubernetes.io/edge"
MAX_TEXT: Final = 1_024
MAX_LABELS: Final = 64
_NUMBER = re.compile(r"\s*-?\d{1,3}(?:\.\d{1,12})?\s*")


def cut(value: str, most: int = MAX_TEXT) -> str:
    """A text of at most `most` characters."""
    return value if len(value) <= most else f"{value[: most - 1]}…"


def rows(value: Json, most: int = 1_000) -> list[JsonObject]:
    """The objects of a list."""
    found = value if isinstance(value, list) else []
    return [entry for entry in found[:most] if isinstance(entry, dict)]


def seconds(value: Json) -> float | None:
    """Read a time of Kubernetes as seconds since the epoch; None for what is none."""
    if not isinstance(value, str) or not 20 <= len(value) <= 40:
        return None
    try:
        found = datetime.fromisoformat(value.replace("Z", "+00:00"))
    except ValueError:
        return None
    return found.replace(tzinfo=found.tzinfo or UTC).timestamp()


def millis(value: Json) -> float | None:
    """Read a twin's timestamp, milliseconds as text, as seconds; None for what is none."""
    found = text(value) if not isinstance(value, int) else str(value)
    return int(found) / 1_000 if found.isascii() and found.isdigit() and len(found) <= 15 else None


def location(annotations: Mapping[str, str]) -> list[Json] | None:
    """Latitude and longitude of a Node, None where it says none that exists."""
    parts = annotations.get(LOCATION, "")[:100].split(",")
    if len(parts) != 2 or not all(_NUMBER.fullmatch(part) for part in parts):
        return None
    latitude, longitude = float(parts[0]), float(parts[1])
    return [latitude, longitude] if abs(latitude) <= 90 and abs(longitude) <= 180 else None


# --- nodes ---------------------------------------------------------------------------------------------


def node_row(node: JsonObject) -> JsonObject:
    """What a Node says of itself; who counts adds devices, Pods and the link."""
    meta, status = mapping(node.get("metadata")), mapping(node.get("status"))
    labels, annotations = texts(meta.get("labels")), texts(meta.get("annotations"))
    info = mapping(status.get("nodeInfo"))
    ready = _readiness(status)
    return {
        "name": text(meta.get("name")),
        "ready": {"True": True, "False": False}.get(text(ready.get("status"))),
        "reason": cut(text(ready.get("reason"))),
        "since": seconds(ready.get("lastTransitionTime")),
        "heartbeat": seconds(ready.get("lastHeartbeatTime")),
        "edge": EDGE in labels,
        "link": None,
        "location": location(annotations),
        "region": labels.get(REGION),
        "zone": labels.get(ZONE),
        "group": labels.get(GROUP),
        "devices": 0,
        "devices_online": 0,
        "pods": 0,
        "version": cut(text(info.get("kubeletVersion"))),
        "os": cut(text(info.get("operatingSystem"))),
        "architecture": cut(text(info.get("architecture"))),
        "address": next(
            (
                cut(text(each.get("address")))
                for each in rows(status.get("addresses"))
                if each.get("type") == "InternalIP"
            ),
            None,
        ),
        "cordoned": mapping(node.get("spec")).get("unschedulable") is True,
        "labels": {name: cut(value) for name, value in list(labels.items())[:MAX_LABELS]},
        "created": seconds(meta.get("creationTimestamp")),
    }


def is_ready(node: JsonObject) -> bool:
    """True for a Node that says so; cheaper than its row."""
    return _readiness(mapping(node.get("status"))).get("status") == "True"


def _readiness(status: JsonObject) -> JsonObject:
    return next(
        (each for each in rows(status.get("conditions")) if each.get("type") == "Ready"), {}
    )


def node_details(node: JsonObject) -> JsonObject:
    """What is told of one Node beside its row."""
    status = mapping(node.get("status"))
    return {
        "object": node,
        "conditions": [
            {
                "type": cut(text(each.get("type"))),
                "status": text(each.get("status")),
                "reason": cut(text(each.get("reason"))),
                "message": cut(text(each.get("message"))),
                "since": seconds(each.get("lastTransitionTime")),
            }
            for each in rows(status.get("conditions"), 100)
        ],
        "capacity": {
            name: cut(value) for name, value in list(texts(status.get("capacity")).items())[:100]
        },
    }


# --- devices -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Device:
    """What is remembered of a Device. Shape: `haystack` is what a search looks through, folded."""

    namespace: str
    name: str
    uid: str
    node: str
    model: str
    protocol: str
    properties: int
    description: str
    version: str
    haystack: str

    @classmethod
    def read(cls, stored: JsonObject) -> Device:
        """Read a Device of either version."""
        view = DeviceView.read(stored)
        meta = view.meta
        description = cut(meta.annotations.get("description") or meta.labels.get("description", ""))
        words = (meta.name, meta.namespace, view.node, view.model, description)
        return cls(
            meta.namespace,
            meta.name,
            meta.uid,
            view.node,
            view.model,
            cut(view.protocol, 128),
            len(view.properties),
            description,
            meta.version,
            "\n".join(words).casefold(),
        )


@dataclass(frozen=True, slots=True)
class Status:
    """What is remembered of a DeviceStatus. Shape: `owners` are uids of the Device it belongs to."""

    owners: tuple[str, ...] = ()
    state: str = "unknown"
    last_online: str | None = None
    faults: int = 0

    @classmethod
    def read(cls, stored: JsonObject) -> Status:
        """Read a DeviceStatus."""
        body = mapping(stored.get("status"))
        owners = rows(mapping(stored.get("metadata")).get("ownerReferences"), 10)
        return cls(
            tuple(text(each.get("uid")) for each in owners if each.get("kind") == "Device"),
            cut(text(body.get("state")).lower(), 32) or "unknown",
            cut(text(body.get("lastOnlineTime")), 64) or None,
            len(faults_of(stored)),
        )

    def of(self, device: Device) -> Status:
        """This one, or nothing where it belongs to an earlier Device of the name."""
        return self if not self.owners or device.uid in self.owners else NO_STATUS


NO_STATUS: Final = Status()


def faults_of(status: JsonObject | None) -> list[JsonObject]:
    """What does not work of a Device, as its node said: part, message, node."""
    extensions = mapping(mapping((status or {}).get("status")).get("extensions"))
    return [
        {
            "part": cut(text(each.get("part"))),
            "message": cut(text(each.get("message"))),
            "node": cut(text(each.get("node"))),
        }
        for each in rows(extensions.get("faults"), 50)
    ]


def device_row(device: Device, status: Status, thing: str | None) -> JsonObject:
    """A Device as lists and events tell it."""
    return {
        "namespace": device.namespace,
        "name": device.name,
        "node": device.node or None,
        "model": device.model,
        "protocol": device.protocol,
        "state": status.state,
        "last_online": status.last_online,
        "faults": status.faults,
        "properties": device.properties,
        "thing": thing,
        "description": device.description,
        "version": device.version,
    }


# --- pods, and what was discovered ---------------------------------------------------------------------


def pod_row(pod: JsonObject) -> JsonObject:
    """A Pod in short."""
    meta, spec = mapping(pod.get("metadata")), mapping(pod.get("spec"))
    status = mapping(pod.get("status"))
    states = rows(status.get("containerStatuses"), 100)
    containers = rows(spec.get("containers"), 100)
    owner = next(iter(rows(meta.get("ownerReferences"), 1)), None)
    return {
        "namespace": text(meta.get("namespace")),
        "name": text(meta.get("name")),
        "node": text(spec.get("nodeName")) or None,
        "phase": "Terminating" if meta.get("deletionTimestamp") else text(status.get("phase")),
        "ready": f"{sum(each.get('ready') is True for each in states)}/{len(containers)}",
        "restarts": sum(n for each in states if isinstance(n := each.get("restartCount"), int)),
        "reason": cut(next(_reasons(status, states), "")),
        "containers": [text(each.get("name")) for each in containers],
        "owner": {"kind": text(owner.get("kind")), "name": text(owner.get("name"))}
        if owner
        else None,
        "created": seconds(meta.get("creationTimestamp")),
        "address": text(status.get("podIP")) or None,
    }


def _reasons(status: JsonObject, states: list[JsonObject]) -> Iterator[str]:
    """Why a Pod is not well, the closest first."""
    for each in states:
        state = mapping(each.get("state"))
        for kind in ("waiting", "terminated"):
            reason = text(mapping(state.get(kind)).get("reason"))
            if reason and reason != "Completed":
                yield reason
    if text(status.get("reason")):
        yield text(status.get("reason"))
    for each in rows(status.get("conditions"), 50):
        if each.get("status") == "False" and text(each.get("reason")) == "Unschedulable":
            yield "Unschedulable"


def gone_row(namespace: str, name: str) -> JsonObject:
    """What is told of an object that is gone."""
    return {"namespace": namespace, "name": name}
