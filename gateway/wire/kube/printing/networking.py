"""What `kubectl get` prints of services, endpoints, ingresses and network policies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.parts import part, rows, text
from gateway.wire.kube.printing.cells import (
    NONE,
    UNKNOWN,
    UNSET,
    Printed,
    age,
    columns,
    counted,
    labels_text,
    name_of,
    selector_cell,
    strings,
    word,
)

_DEFAULT_CLASS = "ingressclass.kubernetes.io/is-default-class"


def _service(item: JsonObject, now: float) -> list[Json]:
    spec = part(item, "spec")
    addresses = strings(spec.get("clusterIPs"))
    return [
        name_of(item),
        text(spec.get("type")),
        addresses[0] if addresses else NONE,
        _outside(item),
        ",".join(_port(port) for port in rows(spec.get("ports"))) or NONE,
        age(item, now),
        labels_text(spec.get("selector")),
    ]


def _outside(item: JsonObject) -> str:
    """Under which address the outside world reaches a service."""
    spec = part(item, "spec")
    kind, own = spec.get("type"), strings(spec.get("externalIPs"))
    if kind == "ExternalName":
        return text(spec.get("externalName"))
    if kind in ("ClusterIP", "NodePort"):
        return ",".join(own) or NONE
    if kind == "LoadBalancer":
        return ",".join([*_balancers(item), *own]) or "<pending>"
    return UNKNOWN


def _balancers(item: JsonObject) -> list[str]:
    found = rows(part(item, "status", "loadBalancer").get("ingress"))
    return sorted({text(each.get("ip") or each.get("hostname")) for each in found} - {""})


def _port(port: JsonObject) -> str:
    node = port.get("nodePort")
    middle = f":{node}" if node else ""
    return f"{port.get('port')}{middle}/{port.get('protocol')}"


def _endpoints(item: JsonObject, now: float) -> list[Json]:
    return [name_of(item), counted(_addresses(item), NONE), age(item, now)]


def _addresses(item: JsonObject) -> Iterator[str]:
    for subset in rows(item.get("subsets")):
        found = [text(each.get("ip")) for each in rows(subset.get("addresses"))]
        ports = rows(subset.get("ports"))
        if not ports:
            yield from found
        for port in ports:
            for address in found:
                shown = f"[{address}]" if ":" in address else address
                yield f"{shown}:{port.get('port')}"


def _slice(item: JsonObject, now: float) -> list[Json]:
    ports = (_slice_port(port) for port in rows(item.get("ports")))
    found = (
        address
        for each in rows(item.get("endpoints"))
        for address in strings(each.get("addresses"))
    )
    return [
        name_of(item),
        text(item.get("addressType")),
        counted(ports, UNSET),
        counted(found, UNSET),
        age(item, now),
    ]


def _slice_port(port: JsonObject) -> str:
    number, name = port.get("port"), port.get("name")
    return str(number) if number is not None else str(name) if name is not None else "*"


def _ingress(item: JsonObject, now: float) -> list[Json]:
    spec = part(item, "spec")
    return [
        name_of(item),
        word(spec.get("ingressClassName")),
        _hosts(rows(spec.get("rules"))),
        ",".join(_balancers(item)),
        "80, 443" if rows(spec.get("tls")) else "80",
        age(item, now),
    ]


def _hosts(rules: list[JsonObject]) -> str:
    """The first hosts; rules without one take every host and are not counted before the list is full."""
    shown: list[str] = []
    for rule in rules:
        if len(shown) == 3:
            return f"{','.join(shown)} + {len(rules) - 3} more..."
        host = text(rule.get("host"))
        if host:
            shown.append(host)
    return ",".join(shown) or "*"


def _ingressclass(item: JsonObject, now: float) -> list[Json]:
    spec, notes = part(item, "spec"), part(item, "metadata", "annotations")
    mark = " (default)" if notes.get(_DEFAULT_CLASS) == "true" else ""
    parameters = part(spec, "parameters")
    group = parameters.get("apiGroup")
    kind = text(parameters.get("kind")) + (f".{group}" if group is not None else "")
    shown = f"{kind}/{text(parameters.get('name'))}" if parameters else NONE
    return [name_of(item) + mark, text(spec.get("controller")), shown, age(item, now)]


def _networkpolicy(item: JsonObject, now: float) -> list[Json]:
    return [name_of(item), selector_cell(part(item, "spec", "podSelector")), age(item, now)]


PRINTED: Mapping[str, Printed] = {
    "services": Printed(
        columns("Type", "Cluster-IP", "External-IP", "Port(s)", "Age", "Selector*"), _service
    ),
    "endpoints": Printed(columns("Endpoints", "Age"), _endpoints),
    "endpointslices.discovery.k8s.io": Printed(
        columns("AddressType", "Ports", "Endpoints", "Age"), _slice
    ),
    "ingresses.networking.k8s.io": Printed(
        columns("Class", "Hosts", "Address", "Ports", "Age"), _ingress
    ),
    "ingressclasses.networking.k8s.io": Printed(
        columns("Controller", "Parameters", "Age"), _ingressclass
    ),
    "networkpolicies.networking.k8s.io": Printed(columns("Pod-Selector", "Age"), _networkpolicy),
}
