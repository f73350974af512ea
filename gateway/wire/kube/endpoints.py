"""Where a Service leads: Endpoints and EndpointSlices from its Pods, as plain functions.

Source: Kubernetes "EndpointSlices", "Service"; what kube-controller-manager 1.36 writes.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.parts import labels_of, part, rows, text
from gateway.wire.kube.podstate import is_deleting, is_ended, is_ready
from gateway.wire.kube.services import is_headless, ports_of, spec_of

MAX_PER_SLICE = 100
MAX_ADDRESSES = 1_000
SERVICE_NAME = "kubernetes.io/service-name"
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
SLICE_CONTROLLER = "endpointslice-controller.k8s.io"
MIRROR_CONTROLLER = "endpointslicemirroring-controller.k8s.io"
SKIP_MIRROR = "endpointslice.kubernetes.io/skip-mirror"
ENDPOINTS_MANAGED_BY = "endpoints.kubernetes.io/managed-by"
ENDPOINTS_CONTROLLER = "endpoint-controller"
OVER_CAPACITY = "endpoints.kubernetes.io/over-capacity"
HEADLESS_LABEL = "service.kubernetes.io/headless"
ZONE = "topology.kubernetes.io/zone"
LEADER = "control-plane.alpha.kubernetes.io/leader"


@dataclass(frozen=True, slots=True)
class Group:
    """Endpoints that share their ports: what one or more slices hold.

    Shape:  `family` is IPv4 or IPv6; `endpoints` by what tells them apart.
    """

    family: str
    ports: tuple[JsonObject, ...]
    endpoints: Mapping[str, JsonObject]


# --- Pods -----------------------------------------------------------------------------------------


def serves(service: JsonObject, pod: JsonObject) -> bool:
    """True when the selector of a Service takes a Pod."""
    selector = spec_of(service).get("selector")
    if not isinstance(selector, dict) or not selector:
        return False
    labels = labels_of(pod)
    return all(labels.get(key) == value for key, value in selector.items())


def _addresses(pod: JsonObject, family: str) -> list[str]:
    status = part(pod, "status")
    ips = [text(row.get("ip")) for row in rows(status.get("podIPs"))] or [text(status.get("podIP"))]
    return [ip for ip in ips if ip and family_of(ip) == family]


def family_of(ip: str) -> str:
    """Return IPv4 or IPv6, empty for what is no address."""
    try:
        return f"IPv{ipaddress.ip_address(ip).version}"
    except ValueError:
        return ""


def families_of(service: JsonObject) -> list[str]:
    """Return the families of addresses that a Service leads to."""
    families = spec_of(service).get("ipFamilies")
    found = [str(family) for family in families] if isinstance(families, list) else []
    return found or ["IPv4"]


def target_port(pod: JsonObject, port: JsonObject) -> int | None:
    """Return the number of the port in a Pod, None when it has none of that name."""
    target = port.get("targetPort")
    if isinstance(target, int):
        return target
    if not target:
        number = port.get("port")
        return number if isinstance(number, int) else None
    spec = part(pod, "spec")
    sidecars = [
        row for row in rows(spec.get("initContainers")) if row.get("restartPolicy") == "Always"
    ]
    for container in (*rows(spec.get("containers")), *sidecars):
        for known in rows(container.get("ports")):
            same = (known.get("protocol") or "TCP") == (port.get("protocol") or "TCP")
            number = known.get("containerPort")
            if known.get("name") == target and same and isinstance(number, int):
                return number
    return None


def _ports_in(pod: JsonObject, service: JsonObject, *, names_always: bool) -> list[JsonObject]:
    found: list[JsonObject] = []
    for port in ports_of(spec_of(service)):
        number = target_port(pod, port)
        if number is None:
            continue
        row: JsonObject = {"port": number, "protocol": port.get("protocol") or "TCP"}
        if port.get("name") or names_always:
            row["name"] = port.get("name") or ""
        if port.get("appProtocol"):
            row["appProtocol"] = port["appProtocol"]
        found.append(row)
    return found


def _hostname(pod: JsonObject, service: JsonObject) -> str:
    spec = part(pod, "spec")
    is_named = text(spec.get("subdomain")) == text(part(service, "metadata").get("name"))
    return text(spec.get("hostname")) if is_named else ""


def _reference(pod: JsonObject) -> JsonObject:
    meta = part(pod, "metadata")
    return {
        "kind": "Pod",
        "namespace": meta.get("namespace"),
        "name": meta.get("name"),
        "uid": meta.get("uid"),
    }


def _is_published(service: JsonObject) -> bool:
    return spec_of(service).get("publishNotReadyAddresses") is True


# --- Endpoints ------------------------------------------------------------------------------------


def endpoints_of(service: JsonObject, pods: Iterable[JsonObject]) -> tuple[list[JsonObject], bool]:
    """Return the subsets of a Service's Endpoints, and whether some did not fit."""
    family, published = families_of(service)[0], _is_published(service)
    groups: dict[str, tuple[list[JsonObject], list[JsonObject], list[JsonObject]]] = {}
    total, is_cut = 0, False
    for pod in sorted(pods, key=lambda each: text(part(each, "status").get("podIP"))):
        if is_ended(pod) or (is_deleting(pod) and not published):
            continue
        ports = _ports_in(pod, service, names_always=False)
        if not ports and not is_headless(spec_of(service)):
            continue
        for ip in _addresses(pod, family)[:1]:
            if total == MAX_ADDRESSES:
                is_cut = True
                continue
            total += 1
            group = groups.setdefault(repr(ports), (ports, [], []))
            group[1 if published or is_ready(pod) else 2].append(_address(pod, service, ip))
    return [_subset(*group) for group in groups.values()], is_cut


def _address(pod: JsonObject, service: JsonObject, ip: str) -> JsonObject:
    found: JsonObject = {"ip": ip, "targetRef": _reference(pod)}
    node, hostname = text(part(pod, "spec").get("nodeName")), _hostname(pod, service)
    if node:
        found["nodeName"] = node
    if hostname:
        found["hostname"] = hostname
    return found


def _subset(
    ports: list[JsonObject], ready: list[JsonObject], waiting: list[JsonObject]
) -> JsonObject:
    found: JsonObject = {}
    if ready:
        found["addresses"] = cast("list[Json]", ready)
    if waiting:
        found["notReadyAddresses"] = cast("list[Json]", waiting)
    if ports:
        found["ports"] = cast("list[Json]", ports)
    return found


def endpoints_labels(service: JsonObject) -> JsonObject:
    """Return the labels of a Service's Endpoints."""
    labels: JsonObject = {**labels_of(service), ENDPOINTS_MANAGED_BY: ENDPOINTS_CONTROLLER}
    if is_headless(spec_of(service)):
        labels[HEADLESS_LABEL] = ""
    return labels


# --- slices of Pods -------------------------------------------------------------------------------


def groups_of(
    service: JsonObject, pods: Iterable[JsonObject], zones: Mapping[str, str]
) -> list[Group]:
    """Return what a Service's slices are to hold, one group for each family and set of ports.

    Shape:  `zones` by node.
    """
    found: list[Group] = []
    running = [pod for pod in pods if not is_ended(pod)]
    for family in families_of(service):
        groups: dict[str, tuple[list[JsonObject], dict[str, JsonObject]]] = {}
        for pod in running:
            ips = _addresses(pod, family)
            ports = _ports_in(pod, service, names_always=True)
            if not ips or (not ports and not is_headless(spec_of(service))):
                continue
            group = groups.setdefault(repr(ports), (ports, {}))
            uid = text(part(pod, "metadata").get("uid"))
            group[1][uid] = _endpoint(pod, service, ips, zones)
        found += [Group(family, tuple(ports), held) for ports, held in groups.values()]
        if not groups:
            found.append(Group(family, (), {}))
    return found


def _endpoint(
    pod: JsonObject, service: JsonObject, ips: list[str], zones: Mapping[str, str]
) -> JsonObject:
    ready, going = is_ready(pod), is_deleting(pod)
    found: JsonObject = {
        "addresses": [*ips],
        "conditions": {
            "ready": _is_published(service) or (ready and not going),
            "serving": ready,
            "terminating": going,
        },
        "targetRef": _reference(pod),
    }
    node, hostname = text(part(pod, "spec").get("nodeName")), _hostname(pod, service)
    if node:
        found["nodeName"] = node
        if zone := zones.get(node):
            found["zone"] = zone
    if hostname:
        found["hostname"] = hostname
    return found


def slice_labels(service: JsonObject) -> JsonObject:
    """Return the labels of a Service's slices."""
    labels: JsonObject = {
        **labels_of(service),
        SERVICE_NAME: part(service, "metadata").get("name"),
        MANAGED_BY: SLICE_CONTROLLER,
    }
    if is_headless(spec_of(service)):
        labels[HEADLESS_LABEL] = ""
    return labels


# --- slices of Endpoints that people write --------------------------------------------------------


def is_mirrored(endpoints: JsonObject) -> bool:
    """True for Endpoints that people or programs keep, not the controller of Endpoints."""
    labels, notes = labels_of(endpoints), part(part(endpoints, "metadata"), "annotations")
    return (
        labels.get(SKIP_MIRROR) != "true"
        and labels.get(ENDPOINTS_MANAGED_BY) != ENDPOINTS_CONTROLLER
        and LEADER not in notes
    )


def mirrored_groups(endpoints: JsonObject) -> list[Group]:
    """Return what the slices of such Endpoints are to hold."""
    groups: dict[tuple[str, str], tuple[list[JsonObject], dict[str, JsonObject]]] = {}
    for subset in rows(endpoints.get("subsets")):
        ports: list[JsonObject] = [
            {"name": "", "protocol": "TCP", **port} for port in rows(subset.get("ports"))
        ]
        for key, ready in (("notReadyAddresses", False), ("addresses", True)):
            for address in rows(subset.get(key))[:MAX_ADDRESSES]:
                ip = text(address.get("ip"))
                place = family_of(ip), repr(ports)
                if place[0]:
                    group = groups.setdefault(place, (ports, {}))
                    group[1][ip] = _mirrored(address, ip, ready)
    return [Group(family, tuple(ports), held) for (family, _), (ports, held) in groups.items()]


def _mirrored(address: JsonObject, ip: str, ready: bool) -> JsonObject:
    kept: JsonObject = {
        key: address[key] for key in ("hostname", "nodeName", "targetRef") if key in address
    }
    return {"addresses": [ip], "conditions": {"ready": ready}, **kept}


def mirrored_labels(endpoints: JsonObject) -> JsonObject:
    """Return the labels of the slices of such Endpoints."""
    name = part(endpoints, "metadata").get("name")
    return {**labels_of(endpoints), SERVICE_NAME: name, MANAGED_BY: MIRROR_CONTROLLER}


# --- which slice holds what -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SlicePlan:
    """What is to be done: slices to change (old, endpoints, ports), to make, to delete."""

    change: tuple[tuple[JsonObject, list[JsonObject], tuple[JsonObject, ...]], ...]
    make: tuple[tuple[str, list[JsonObject], tuple[JsonObject, ...]], ...]
    delete: tuple[JsonObject, ...]


def plan(groups: Sequence[Group], slices: Sequence[JsonObject]) -> SlicePlan:
    """Spread groups over slices: each endpoint stays where it is, new ones fill what has room.

    One slice stays where there is nothing to hold, as a sign that it was looked at.
    """
    left = list(slices)
    change: list[tuple[JsonObject, list[JsonObject], tuple[JsonObject, ...]]] = []
    make: list[tuple[str, list[JsonObject], tuple[JsonObject, ...]]] = []
    for group in groups:
        own = [
            each
            for each in left
            if each.get("addressType") == group.family and ports_match(each, group)
        ]
        waiting = dict(group.endpoints)
        held = [(each, _kept(each, waiting)) for each in own]
        for each, kept in held:
            while waiting and len(kept) < MAX_PER_SLICE:
                kept.append(waiting.pop(next(iter(waiting))))
            if kept or (not group.endpoints and not change and not make):
                left.remove(each)
                change.append((each, kept, group.ports))
        rest = list(waiting.values())
        chunks = [rest[at : at + MAX_PER_SLICE] for at in range(0, len(rest), MAX_PER_SLICE)]
        if not group.endpoints and not any(each not in left for each in own):
            chunks = [[]]
        make += [(group.family, chunk, group.ports) for chunk in chunks]
    return SlicePlan(tuple(change), tuple(make), tuple(left))


def _kept(slice_: JsonObject, waiting: dict[str, JsonObject]) -> list[JsonObject]:
    """Return the endpoints of a slice that stay, in their new state, and take them off `waiting`."""
    found = []
    for endpoint in rows(slice_.get("endpoints")):
        key = key_of_endpoint(endpoint)
        if key in waiting:
            found.append(waiting.pop(key))
    return found


def key_of_endpoint(endpoint: JsonObject) -> str:
    """Return what tells an endpoint apart: its Pod's uid, else its address."""
    uid = text(part(endpoint, "targetRef").get("uid"))
    addresses = endpoint.get("addresses")
    return uid or (str(addresses[0]) if isinstance(addresses, list) and addresses else "")


def ports_match(slice_: JsonObject, group: Group) -> bool:
    """True when a slice has a group's ports; an empty slice without any takes whatever comes."""
    own = [{"protocol": "TCP", "name": "", **row} for row in rows(slice_.get("ports"))]
    if not own and not rows(slice_.get("endpoints")):
        return True
    return sorted(map(_sign, own)) == sorted(map(_sign, group.ports))


def _sign(port: Mapping[str, Json]) -> str:
    return repr([port.get(key) for key in ("name", "port", "protocol", "appProtocol")])
