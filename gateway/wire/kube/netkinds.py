"""How endpoints, slices of them, ingresses and network policies are completed and judged.

Source: Kubernetes API reference, `networking.k8s.io/v1`, `discovery.k8s.io/v1`; texts seen on version 1.36.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.judging import (
    PROTOCOLS,
    fixed,
    forbidden,
    is_address,
    known,
    named,
    network,
    port_name,
    port_number,
    reachable_address,
    selector_faults,
    unsupported,
)
from gateway.wire.kube.names import (
    invalid_value,
    label_fault,
    required,
    subdomain_fault,
)
from gateway.wire.kube.parts import part, rows, text
from gateway.wire.kube.podspecs import fill, opened
from gateway.wire.kube.status import Cause

TYPES = ("FQDN", "IPv4", "IPv6")
MAX_ADDRESSES = 100
_TCP: JsonObject = {"protocol": "TCP"}


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


# --- endpoints ------------------------------------------------------------------------------------


def prepare_endpoints(item: JsonObject, _old: JsonObject | None) -> None:
    for subset in rows(item.get("subsets")):
        for port in rows(subset.get("ports")):
            fill(port, _TCP)


def endpoints_faults(item: JsonObject, _old: JsonObject | None) -> list[Cause]:
    """What is wrong with Endpoints."""
    return [
        cause
        for at, subset in enumerate(rows(item.get("subsets")))
        for cause in _subset(f"subsets[{at}]", subset)
    ]


def _subset(path: str, subset: JsonObject) -> Iterator[Cause]:
    if not subset.get("addresses") and not subset.get("notReadyAddresses"):
        yield required(path, "must specify `addresses` or `notReadyAddresses`")
    for name in ("addresses", "notReadyAddresses"):
        for at, row in enumerate(rows(subset.get(name))):
            where = f"{path}.{name}[{at}].ip"
            yield from reachable_address(where, row.get("ip") or "")
            if not is_address(row.get("ip")):
                yield invalid_value(where, row.get("ip") or "", "must be a valid IP address")
    ports = rows(subset.get("ports"))
    for at, port in enumerate(ports):
        where = f"{path}.ports[{at}]"
        if not port.get("name") and len(ports) > 1:
            yield required(f"{where}.name")
        elif port.get("name"):
            yield from named(f"{where}.name", port["name"], label_fault)
        yield from port_number(f"{where}.port", port.get("port") or 0)
        yield from known(f"{where}.protocol", port.get("protocol"), PROTOCOLS, must=True)


def prepare_slice(item: JsonObject, _old: JsonObject | None) -> None:
    """Fill in what an EndpointSlice does not say."""
    for port in rows(item.get("ports")):
        port.setdefault("name", "")
        fill(port, _TCP)
    for endpoint in rows(item.get("endpoints")):
        opened(endpoint, "conditions")
    item.setdefault("endpoints", None)
    item.setdefault("ports", None)


def slice_faults(item: JsonObject, old: JsonObject | None) -> list[Cause]:
    """What is wrong with an EndpointSlice; its type of addresses stays."""
    if old is not None and old.get("addressType") != item.get("addressType"):
        return [*fixed("addressType", old.get("addressType"), item.get("addressType"))]
    return [*_slice(item)]


def _slice(item: JsonObject) -> Iterator[Cause]:
    kind = text(item.get("addressType"))
    yield from known("addressType", kind, TYPES, must=True)
    yield from _slice_ports(rows(item.get("ports")))
    for at, endpoint in enumerate(rows(item.get("endpoints"))):
        where, found = f"endpoints[{at}]", _list(endpoint.get("addresses"))
        if not found:
            yield required(f"{where}.addresses", "must contain at least 1 address")
        elif len(found) > MAX_ADDRESSES:
            text_ = f"Too many: {len(found)}: must have at most {MAX_ADDRESSES} items"
            yield Cause("FieldValueTooMany", text_, f"{where}.addresses")
        for index, each in enumerate(found):
            yield from _slice_address(f"{where}.addresses[{index}]", kind, each)
        node = endpoint.get("nodeName")
        if node is not None:
            yield from named(f"{where}.nodeName", node, subdomain_fault)


def _slice_ports(ports: list[JsonObject]) -> Iterator[Cause]:
    seen: set[str] = set()
    for at, port in enumerate(ports):
        name = text(port.get("name"))
        if name:
            yield from named(f"ports[{at}].name", name, label_fault)
        if name in seen:
            yield Cause("FieldValueDuplicate", f'Duplicate value: "{name}"', f"ports[{at}].name")
        seen.add(name)
        yield from known(f"ports[{at}].protocol", port.get("protocol"), PROTOCOLS, must=True)


def _slice_address(path: str, kind: str, value: Json) -> Iterator[Cause]:
    if kind == "FQDN":
        yield from named(path, value, subdomain_fault)
    elif kind in ("IPv4", "IPv6"):
        wrong = is_address(value) and ip_address(text(value)).version != int(kind[-1])
        if wrong:
            yield invalid_value(path, value, f"must be an {kind} address")
        yield from reachable_address(path, value)


# --- ingresses ------------------------------------------------------------------------------------

PATH_TYPES = ("Exact", "ImplementationSpecific", "Prefix")


def prepare_ingress(item: JsonObject, _old: JsonObject | None) -> None:
    opened(item, "spec")
    opened(opened(item, "status"), "loadBalancer")


def ingress_faults(item: JsonObject, _old: JsonObject | None) -> list[Cause]:
    """What is wrong with an Ingress."""
    return [*_ingress(part(item, "spec"))]


def _ingress(spec: JsonObject) -> Iterator[Cause]:
    if not spec.get("rules") and "defaultBackend" not in spec:
        why = "either `defaultBackend` or `rules` must be specified"
        yield Cause("FieldValueInvalid", f"Invalid value: null: {why}", "spec")
    if "defaultBackend" in spec:
        yield from _backend("spec.defaultBackend", part(spec, "defaultBackend"))
    for at, rule in enumerate(rows(spec.get("rules"))):
        yield from _rule(f"spec.rules[{at}]", rule)
    for at, row in enumerate(rows(spec.get("tls"))):
        for index, host in enumerate(_list(row.get("hosts"))):
            yield from _host(f"spec.tls[{at}].hosts[{index}]", text(host))
    if spec.get("ingressClassName") is not None:
        yield from named("spec.ingressClassName", spec["ingressClassName"], subdomain_fault)


def _host(path: str, host: str) -> Iterator[Cause]:
    yield from named(path, host, lambda name: subdomain_fault(name.removeprefix("*.")))


def _rule(path: str, rule: JsonObject) -> Iterator[Cause]:
    host = text(rule.get("host"))
    if host:
        if is_address(host):
            yield invalid_value(f"{path}.host", host, "must be a DNS name, not an IP address")
        yield from _host(f"{path}.host", host)
    if "http" not in rule:
        return
    found = rows(part(rule, "http").get("paths"))
    if not found:
        yield required(f"{path}.http.paths")
    for at, row in enumerate(found):
        yield from _path(f"{path}.http.paths[{at}]", row)


def _path(path: str, row: JsonObject) -> Iterator[Cause]:
    kind, place = row.get("pathType"), text(row.get("path"))
    if not kind:
        yield required(f"{path}.pathType", "pathType must be specified")
        return
    if kind in ("Exact", "Prefix"):
        if not place.startswith("/"):
            yield invalid_value(f"{path}.path", place, "must be an absolute path")
        elif "//" in place or "/./" in place or "/../" in place:
            bad = next(each for each in ("//", "/./", "/../") if each in place)
            yield invalid_value(f"{path}.path", place, f"must not contain '{bad}'")
    elif kind == "ImplementationSpecific":
        if place and not place.startswith("/"):
            yield invalid_value(f"{path}.path", place, "must be an absolute path")
    else:
        yield unsupported(f"{path}.pathType", kind, PATH_TYPES)
    yield from _backend(f"{path}.backend", part(row, "backend"))


def _backend(path: str, backend: JsonObject) -> Iterator[Cause]:
    if "resource" in backend and "service" in backend:
        yield invalid_value(path, "", "cannot set both resource and service backends")
    elif "resource" in backend:
        for name in ("kind", "name"):
            if not part(backend, "resource").get(name):
                yield required(f"{path}.resource.{name}")
    elif "service" in backend:
        yield from _service_backend(path, part(backend, "service"))
    else:
        yield invalid_value(path, "", "resource or service backend is required")


def _service_backend(path: str, service: JsonObject) -> Iterator[Cause]:
    if not service.get("name"):
        yield required(f"{path}.service.name")
    else:
        yield from named(f"{path}.service.name", service["name"], label_fault)
    port = part(service, "port")
    number, name = port.get("number"), text(port.get("name"))
    if number and name:
        yield invalid_value(path, "", "cannot set both port name & port number")
    elif name:
        yield from port_name(f"{path}.service.port.name", name)
    elif number:
        yield from port_number(f"{path}.service.port.number", number)
    else:
        yield required(path, "port name or number is required")


def prepare_class(item: JsonObject, _old: JsonObject | None) -> None:
    parameters = part(item, "spec").get("parameters")
    if isinstance(parameters, dict):
        fill(parameters, {"scope": "Cluster"})


def class_faults(item: JsonObject, old: JsonObject | None) -> list[Cause]:
    """What is wrong with an IngressClass; who implements it stays."""
    return [*_class(part(item, "spec"), part(old or {}, "spec") if old else None)]


def _class(spec: JsonObject, before: JsonObject | None) -> Iterator[Cause]:
    controller, parameters = text(spec.get("controller")), part(spec, "parameters")
    if before is not None:
        yield from fixed("spec.controller", before.get("controller"), controller)
    domain, slash, rest = controller.partition("/")
    if not controller:
        yield required("spec.controller")
    elif not slash or not rest or subdomain_fault(domain):
        why = 'must be a domain-prefixed path (such as "acme.io/foo")'
        yield invalid_value("spec.controller", controller, why)
    if not parameters:
        return
    for name in ("kind", "name"):
        if not parameters.get(name):
            yield required(f"spec.parameters.{name}")
    scope, where = parameters.get("scope"), "spec.parameters"
    yield from known(f"{where}.scope", scope, ("Cluster", "Namespace"), must=True)
    if scope == "Namespace" and not parameters.get("namespace"):
        why = '`parameters.scope` is set to "Namespace"'
        yield required(f"{where}.namespace", why)
    elif scope == "Cluster" and parameters.get("namespace") is not None:
        why = '`parameters.scope` is set to "Cluster"'
        yield forbidden(f"{where}.namespace", why)


# --- network policies -----------------------------------------------------------------------------

_POLICY_PROTOCOLS = ("TCP", "UDP", "SCTP")
_POLICY_TYPES = ("Ingress", "Egress")


def prepare_policy(item: JsonObject, _old: JsonObject | None) -> None:
    """Fill in what a NetworkPolicy does not say: it rules what comes in, and what goes out if it says how."""
    spec = opened(item, "spec")
    opened(spec, "podSelector")
    if not spec.get("policyTypes"):
        spec["policyTypes"] = ["Ingress", *(["Egress"] if spec.get("egress") else [])]
    for name in ("ingress", "egress"):
        for rule in rows(spec.get(name)):
            for port in rows(rule.get("ports")):
                fill(port, _TCP)


def policy_faults(item: JsonObject, _old: JsonObject | None) -> list[Cause]:
    """What is wrong with a NetworkPolicy."""
    return [*_policy(part(item, "spec"))]


def _policy(spec: JsonObject) -> Iterator[Cause]:
    yield from selector_faults("spec.podSelector", spec.get("podSelector"))
    for name, side in (("ingress", "from"), ("egress", "to")):
        for at, rule in enumerate(rows(spec.get(name))):
            where = f"spec.{name}[{at}]"
            for index, port in enumerate(rows(rule.get("ports"))):
                yield from _policy_port(f"{where}.ports[{index}]", port)
            for index, peer in enumerate(rows(rule.get(side))):
                yield from _peer(f"{where}.{side}[{index}]", peer)
    kinds = _list(spec.get("policyTypes"))
    if len(kinds) > len(_POLICY_TYPES):
        yield invalid_value("spec.policyTypes", kinds, "may not specify more than two policyTypes")
        return
    for at, kind in enumerate(kinds):
        if kind not in _POLICY_TYPES:
            yield unsupported(f"spec.policyTypes[{at}]", kind, _POLICY_TYPES)


def _policy_port(path: str, row: JsonObject) -> Iterator[Cause]:
    port, last = row.get("port"), row.get("endPort")
    yield from known(f"{path}.protocol", row.get("protocol"), _POLICY_PROTOCOLS)
    if port is None:
        if last is not None:
            why = "may not be specified when `port` is not specified"
            yield invalid_value(f"{path}.endPort", last, why)
    elif isinstance(port, int):
        yield from port_number(f"{path}.port", port)
        if isinstance(last, int) and last < port:
            why = "must be greater than or equal to `port`"
            yield invalid_value(f"{path}.endPort", last, why)
    else:
        if last is not None:
            why = "may not be specified when `port` is non-numeric"
            yield invalid_value(f"{path}.endPort", last, why)
        yield from port_name(f"{path}.port", text(port))


def _peer(path: str, peer: JsonObject) -> Iterator[Cause]:
    names = [name for name in ("podSelector", "namespaceSelector", "ipBlock") if name in peer]
    for name in names:
        if name != "ipBlock":
            yield from selector_faults(f"{path}.{name}", peer.get(name))
    if "ipBlock" in names:
        block = part(peer, "ipBlock")
        yield from network(f"{path}.ipBlock.cidr", block.get("cidr") or "")
        for at, each in enumerate(_list(block.get("except"))):
            yield from network(f"{path}.ipBlock.except[{at}]", each)
        if len(names) > 1:
            yield forbidden(path, "may not specify both ipBlock and another peer")
    if not names:
        yield required(path, "must specify a peer")
