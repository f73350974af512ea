"""Services: what must hold of one, and of a change.

Source: Kubernetes core/v1 Service; texts as kube-apiserver 1.36 says them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import cast

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.names import (
    invalid_value,
    label_fault,
    label_value_fault,
    qualified_fault,
    quoted,
    required,
    subdomain_fault,
)
from gateway.wire.kube.services import (
    CLUSTER_IP,
    EXTERNAL_NAME,
    HEADLESS,
    LOAD_BALANCER,
    NODE_PORT,
    ips_of,
    is_external,
    is_headless,
    needs_health_port,
    needs_ip,
    place_of,
    ports_of,
    spec_of,
)
from gateway.wire.kube.status import Cause

PROTOCOLS = ("SCTP", "TCP", "UDP")
TYPES = (CLUSTER_IP, EXTERNAL_NAME, LOAD_BALANCER, NODE_PORT)
POLICIES = ("Cluster", "Local")
FAMILIES = ("IPv4", "IPv6")
FAMILY_POLICIES = ("PreferDualStack", "RequireDualStack", "SingleStack")
AFFINITIES = ("ClientIP", "None")
DISTRIBUTIONS = ("PreferClose", "PreferSameZone", "PreferSameNode")
MAX_AFFINITY_SECONDS = 86_400
MAX_IPS = 2
PORTS = range(1, 65_536)


def service_name_fault(name: str) -> str | None:
    """Say what is wrong with the name of a Service; None when it is right."""
    return "must not contain dots" if "." in name else label_fault(name)


def service_faults(item: JsonObject, old: JsonObject | None) -> list[Cause]:
    """Return what is wrong with a Service."""
    spec = spec_of(item)
    found = [] if old is None else list(_change_faults(spec, spec_of(old)))
    if not ports_of(spec) and not is_headless(spec) and needs_ip(spec):
        found.append(required("spec.ports"))
    for part in (
        _type_faults,
        _port_faults,
        _selector_faults,
        _affinity_faults,
        _ip_faults,
        _outside_faults,
        _policy_faults,
    ):
        found += part(spec)
    return found


def _unsupported(field: str, value: Json, allowed: tuple[str, ...]) -> Cause:
    words = ", ".join(f'"{word}"' for word in allowed)
    text = f"Unsupported value: {quoted(value)}: supported values: {words}"
    return Cause("FieldValueNotSupported", text, field)


def _forbidden(field: str, why: str) -> Cause:
    return Cause("FieldValueForbidden", f"Forbidden: {why}", field)


def _duplicate(field: str, value: Json) -> Cause:
    return Cause("FieldValueDuplicate", f"Duplicate value: {quoted(value)}", field)


def _type_faults(spec: JsonObject) -> Iterator[Cause]:
    kind = spec.get("type")
    if kind not in TYPES:
        yield _unsupported("spec.type", kind, TYPES)
    if kind in (LOAD_BALANCER, NODE_PORT) and is_headless(spec):
        why = f"may not be set to 'None' for {kind} services"
        yield invalid_value("spec.clusterIPs[0]", HEADLESS, why)
    if kind != EXTERNAL_NAME:
        return
    for key in ("clusterIPs", "ipFamilies", "ipFamilyPolicy"):
        if spec.get(key):
            yield _forbidden(f"spec.{key}", "may not be set for ExternalName services")
    name = str(spec.get("externalName") or "").removesuffix(".")
    if not name:
        yield required("spec.externalName")
    elif fault := subdomain_fault(name):
        yield invalid_value("spec.externalName", name, fault)


def _port_faults(spec: JsonObject) -> Iterator[Cause]:
    ports = ports_of(spec)
    names: set[str] = set()
    places: set[tuple[Json, Json]] = set()
    at_nodes: set[tuple[Json, Json]] = set()
    for at, port in enumerate(ports):
        path = f"spec.ports[{at}]"
        yield from _one_port_faults(port, path, len(ports) > 1, names)
        if spec.get("type") == CLUSTER_IP and port.get("nodePort"):
            yield _forbidden(f"{path}.nodePort", "may not be used when `type` is 'ClusterIP'")
        at_node = port.get("protocol"), port.get("nodePort")
        if port.get("nodePort") and at_node in at_nodes:
            yield _duplicate(f"{path}.nodePort", port.get("nodePort"))
        at_nodes.add(at_node)
    for at, port in enumerate(ports):
        if place_of(port) in places:
            yield _duplicate(f"spec.ports[{at}]", _shown(port))
        places.add(place_of(port))


def _shown(port: JsonObject) -> JsonObject:
    """The place of a port in the words of the API server."""
    empty: JsonObject = {"Name": "", "Protocol": port.get("protocol"), "AppProtocol": None}
    return {**empty, "Port": port.get("port"), "TargetPort": 0, "NodePort": 0}


def _one_port_faults(
    port: JsonObject, path: str, wants_name: bool, names: set[str]
) -> Iterator[Cause]:
    name = str(port.get("name") or "")
    if not name and wants_name:
        yield required(f"{path}.name")
    if name:
        if why := label_fault(name):
            yield invalid_value(f"{path}.name", name, why)
        if name in names:
            yield _duplicate(f"{path}.name", name)
        names.add(name)
    number = port.get("port")
    if not isinstance(number, int) or number not in PORTS:
        why = "must be between 1 and 65535, inclusive"
        yield invalid_value(f"{path}.port", number or 0, why)
    if port.get("protocol") not in PROTOCOLS:
        yield _unsupported(f"{path}.protocol", port.get("protocol"), PROTOCOLS)
    yield from _target_faults(port.get("targetPort"), f"{path}.targetPort")
    protocol = port.get("appProtocol")
    if protocol is not None and (why := qualified_fault(str(protocol))):
        yield invalid_value(f"{path}.appProtocol", protocol, why)


def _target_faults(target: Json, path: str) -> Iterator[Cause]:
    if isinstance(target, int):
        if target not in PORTS:
            yield invalid_value(path, target, "must be between 1 and 65535, inclusive")
        return
    for fault in port_name_faults(str(target or "")):
        yield invalid_value(path, target, fault)


def port_name_faults(name: str) -> Iterator[str]:
    """Say what is wrong with the name of a container's port."""
    if len(name) > 15:
        yield "must be no more than 15 characters"
    if not name or not all(c.isdigit() or c.islower() or c == "-" for c in name):
        yield "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)"
    if not any(c.islower() for c in name):
        yield "must contain at least one letter (a-z)"
    if "--" in name:
        yield "must not contain consecutive hyphens"
    if name.startswith("-") or name.endswith("-"):
        yield "must not begin or end with a hyphen"


def _selector_faults(spec: JsonObject) -> Iterator[Cause]:
    selector = spec.get("selector")
    for key, value in selector.items() if isinstance(selector, dict) else ():
        if why := qualified_fault(key):
            yield invalid_value("spec.selector", key, why)
        if why := label_value_fault(str(value)):
            yield invalid_value("spec.selector", value, why)


def _affinity_faults(spec: JsonObject) -> Iterator[Cause]:
    affinity, config = spec.get("sessionAffinity"), spec.get("sessionAffinityConfig")
    if affinity not in AFFINITIES:
        yield _unsupported("spec.sessionAffinity", affinity, AFFINITIES)
    client = config.get("clientIP") if isinstance(config, dict) else None
    seconds = client.get("timeoutSeconds") if isinstance(client, dict) else None
    if isinstance(seconds, int) and not 0 < seconds <= MAX_AFFINITY_SECONDS:
        path = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
        why = f"must be greater than 0 and less than {MAX_AFFINITY_SECONDS}"
        yield invalid_value(path, seconds, why)


def _ip_faults(spec: JsonObject) -> Iterator[Cause]:
    if not needs_ip(spec):
        return
    ip, ips = spec.get("clusterIP"), ips_of(spec)
    shown = cast("list[Json]", ips)
    if ip and ips and ips[0] != ip:
        yield invalid_value("spec.clusterIPs", shown, "first value must match `clusterIP`")
    yield from _family_faults(spec)
    if HEADLESS in ips:
        if len(ips) > 1:
            yield invalid_value("spec.clusterIPs", shown, "'None' must be the first and only value")
        return
    wrong = [(at, each) for at, each in enumerate(ips) if not is_ip(each)]
    for at, each in wrong:
        why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
        yield invalid_value(f"spec.clusterIPs[{at}]", each, why)
    if len(ips) > MAX_IPS:
        yield invalid_value("spec.clusterIPs", shown, "may only hold up to 2 values")
    if not wrong:
        yield from _version_faults(spec, ips)


def _family_faults(spec: JsonObject) -> Iterator[Cause]:
    seen: set[Json] = set()
    families, policy = spec.get("ipFamilies"), spec.get("ipFamilyPolicy")
    for at, family in enumerate(families if isinstance(families, list) else ()):
        if family not in FAMILIES:
            yield _unsupported(f"spec.ipFamilies[{at}]", family, FAMILIES)
        if family in seen:
            yield _duplicate(f"spec.ipFamilies[{at}]", family)
        seen.add(family)
    if policy is not None and policy not in FAMILY_POLICIES:
        yield _unsupported("spec.ipFamilyPolicy", policy, FAMILY_POLICIES)


def _version_faults(spec: JsonObject, ips: list[str]) -> Iterator[Cause]:
    versions = [f"IPv{ipaddress.ip_address(each).version}" for each in ips]
    if len(versions) > len(set(versions)):
        why = "may specify no more than one IP for each IP family"
        yield invalid_value("spec.clusterIPs", cast("list[Json]", ips), why)
    families = spec.get("ipFamilies")
    pairs = zip(ips, versions, families if isinstance(families, list) else (), strict=False)
    for at, (each, version, family) in enumerate(pairs):
        if family in FAMILIES and family != version:
            why = f"expected an {family} value as indicated by `ipFamilies[{at}]`"
            yield invalid_value(f"spec.clusterIPs[{at}]", each, why)


def _outside_faults(spec: JsonObject) -> Iterator[Cause]:
    ips = spec.get("externalIPs")
    for at, each in enumerate(ips if isinstance(ips, list) else ()):
        why = endpoint_ip_fault(str(each))
        if why:
            yield invalid_value(f"spec.externalIPs[{at}]", each, why)


_NO_ENDPOINT = (
    ("is_unspecified", "may not be unspecified (0.0.0.0 or ::)"),
    ("is_loopback", "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
    ("is_link_local", "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
)


def endpoint_ip_fault(text: str) -> str | None:
    """Say why an address cannot be where a Service leads; None when it can."""
    if not is_ip(text):
        return "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
    address = ipaddress.ip_address(text)
    for mark, why in _NO_ENDPOINT:
        if getattr(address, mark):
            return why
    if address.is_multicast and text.startswith(("224.0.0.", "ff02:", "ff12:")):
        return "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"
    return None


def is_ip(text: str) -> bool:
    """True for an IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


_OF_LOAD_BALANCERS = (
    ("loadBalancerSourceRanges", "LoadBalancerSourceRanges"),
    ("allocateLoadBalancerNodePorts", "allocateLoadBalancerNodePorts"),
    ("loadBalancerClass", "loadBalancerClass"),
)


def _policy_faults(spec: JsonObject) -> Iterator[Cause]:
    kind, outside = spec.get("type"), spec.get("externalTrafficPolicy")
    if outside is not None and not is_external(spec):
        why = "may only be set for externally-accessible services"
        yield invalid_value("spec.externalTrafficPolicy", outside, why)
    elif outside is not None and outside not in POLICIES:
        yield _unsupported("spec.externalTrafficPolicy", outside, POLICIES)
    inside = spec.get("internalTrafficPolicy")
    if inside is not None and inside not in POLICIES:
        yield _unsupported("spec.internalTrafficPolicy", inside, POLICIES)
    if kind != LOAD_BALANCER:
        only = "may only be used when `type` is 'LoadBalancer'"
        for key, shown in _OF_LOAD_BALANCERS:
            if spec.get(key) not in (None, "", []):
                yield _forbidden(f"spec.{shown}", only)
    if spec.get("healthCheckNodePort") and not needs_health_port(spec):
        why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
        yield invalid_value("spec.healthCheckNodePort", spec.get("healthCheckNodePort"), why)
    spread = spec.get("trafficDistribution")
    if spread is not None and spread not in DISTRIBUTIONS:
        yield _unsupported("spec.trafficDistribution", spread, DISTRIBUTIONS)


def _change_faults(spec: JsonObject, old: JsonObject) -> Iterator[Cause]:
    if not needs_ip(spec) or not needs_ip(old):
        return
    before, after = ips_of(old), ips_of(spec)
    if before and after and before[0] != after[0]:
        shown = cast("list[Json]", after)
        yield invalid_value("spec.clusterIPs[0]", shown, "may not change once set")
    families, were = spec.get("ipFamilies"), old.get("ipFamilies")
    is_other = isinstance(families, list) and isinstance(were, list) and families[:1] != were[:1]
    if is_other and (not after or after == [HEADLESS]):
        yield invalid_value("spec.ipFamilies[0]", families, "may not change once set")
    kind, of_load_balancer = spec.get("type"), spec.get("loadBalancerClass")
    if kind == LOAD_BALANCER == old.get("type") and of_load_balancer != old.get(
        "loadBalancerClass"
    ):
        yield invalid_value("spec.loadBalancerClass", of_load_balancer, "may not change once set")
