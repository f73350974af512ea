"""Services: what is filled in, and what a change of type takes away.

Addresses and ports of nodes are given out where Services are stored (`gateway.kube.serviceaddresses`).
Source: Kubernetes core/v1 Service, as kube-apiserver 1.36 completes it.
"""

from __future__ import annotations

from typing import cast

from gateway.model.json import Json, JsonObject

CLUSTER_IP, NODE_PORT, LOAD_BALANCER, EXTERNAL_NAME = (
    "ClusterIP",
    "NodePort",
    "LoadBalancer",
    "ExternalName",
)
HEADLESS = "None"
AFFINITY_SECONDS = 10_800


def spec_of(item: JsonObject) -> JsonObject:
    """Return the spec of a Service."""
    spec = item.get("spec")
    return spec if isinstance(spec, dict) else {}


def ports_of(spec: JsonObject) -> list[JsonObject]:
    """Return its ports."""
    ports = spec.get("ports")
    return [port for port in ports if isinstance(port, dict)] if isinstance(ports, list) else []


def ips_of(spec: JsonObject) -> list[str]:
    """Return its addresses in the cluster, `None` among them."""
    ips = spec.get("clusterIPs")
    return [str(ip) for ip in ips] if isinstance(ips, list) else []


def is_headless(spec: JsonObject) -> bool:
    """True for a Service without an address of its own."""
    return ips_of(spec) == [HEADLESS] or spec.get("clusterIP") == HEADLESS


def needs_ip(spec: JsonObject) -> bool:
    """True where an address belongs to it, be it `None`."""
    return spec.get("type") != EXTERNAL_NAME


def needs_node_ports(spec: JsonObject) -> bool:
    """True where each of its ports has one at the nodes."""
    if spec.get("type") == LOAD_BALANCER:
        return spec.get("allocateLoadBalancerNodePorts") is not False
    return spec.get("type") == NODE_PORT


def needs_health_port(spec: JsonObject) -> bool:
    """True where a load balancer asks nodes whether they have a Pod of it."""
    return spec.get("type") == LOAD_BALANCER and spec.get("externalTrafficPolicy") == "Local"


def is_external(spec: JsonObject) -> bool:
    """True where it can be reached from outside the cluster."""
    if spec.get("type") in (NODE_PORT, LOAD_BALANCER):
        return True
    return spec.get("type") == CLUSTER_IP and bool(spec.get("externalIPs"))


# --- completing -----------------------------------------------------------------------------------


def prepare_service(item: JsonObject, old: JsonObject | None) -> None:
    """Fill in what was left out; keep what was given out before; drop what the new type has not."""
    spec = dict(spec_of(item))
    item["spec"] = spec
    _sync_ips(spec, spec_of(old or {}))
    spec.setdefault("sessionAffinity", "None")
    spec.setdefault("type", CLUSTER_IP)
    if spec["sessionAffinity"] == "ClientIP":
        _default_affinity(spec)
    elif spec["sessionAffinity"] == "None":
        spec.pop("sessionAffinityConfig", None)
    spec_ports = [_port(port) for port in ports_of(spec)]
    if spec_ports:
        spec["ports"] = cast("list[Json]", spec_ports)
    if old is not None:
        _keep_given(spec, spec_of(old))
        _drop_other_types(spec, spec_of(old))
    if spec["type"] in (NODE_PORT, LOAD_BALANCER):
        spec.setdefault("externalTrafficPolicy", "Cluster")
    if spec["type"] != EXTERNAL_NAME:
        spec.setdefault("internalTrafficPolicy", "Cluster")
    if spec["type"] == LOAD_BALANCER:
        spec.setdefault("allocateLoadBalancerNodePorts", True)
    if spec["type"] != LOAD_BALANCER or "status" not in item:
        item["status"] = {"loadBalancer": {}}


def _default_affinity(spec: JsonObject) -> None:
    config = spec.get("sessionAffinityConfig")
    table = config if isinstance(config, dict) else {}
    client = table.get("clientIP")
    seconds = client if isinstance(client, dict) else {}
    spec["sessionAffinityConfig"] = {
        **table,
        "clientIP": {"timeoutSeconds": AFFINITY_SECONDS, **seconds},
    }


def _port(port: JsonObject) -> JsonObject:
    target = port.get("targetPort")
    full: JsonObject = {**port, "protocol": port.get("protocol") or "TCP"}
    if target in (None, 0, ""):
        full["targetPort"] = port.get("port")
    return full


def _sync_ips(spec: JsonObject, old: JsonObject) -> None:
    """Old clients know `clusterIP` alone: the list follows it, and it the list."""
    ip, ips = spec.get("clusterIP"), ips_of(spec)
    if ip and (not ips or (ips == ips_of(old) and ip != old.get("clusterIP"))):
        spec["clusterIPs"] = [ip, *cast("list[Json]", ips[1:])]
    elif ips and not ip:
        if old.get("clusterIP") and ips == ips_of(old):
            del spec["clusterIPs"]  # they took the one field away, so both
        else:
            spec["clusterIP"] = ips[0]


def _keep_given(spec: JsonObject, old: JsonObject) -> None:
    """What an update leaves out and the old state was given stays."""
    if needs_ip(old) and needs_ip(spec):
        if not spec.get("clusterIP") and old.get("clusterIP"):
            spec["clusterIP"] = old["clusterIP"]
            spec["clusterIPs"] = [*cast("list[Json]", ips_of(old))]
        for key in ("ipFamilies", "ipFamilyPolicy"):
            if key in old:
                spec.setdefault(key, old[key])
    if needs_node_ports(old) and needs_node_ports(spec):
        _keep_node_ports(spec, old)
    if needs_health_port(old) and needs_health_port(spec) and old.get("healthCheckNodePort"):
        spec.setdefault("healthCheckNodePort", old["healthCheckNodePort"])


def _keep_node_ports(spec: JsonObject, old: JsonObject) -> None:
    given = {place_of(port): port.get("nodePort") for port in ports_of(old)}
    wanted = {port.get("nodePort") for port in ports_of(spec)} - {None, 0}
    for port in ports_of(spec):
        known = given.get(place_of(port))
        if not port.get("nodePort") and known and known not in wanted:
            port["nodePort"] = known


def place_of(port: JsonObject) -> tuple[Json, Json]:
    """Return protocol and number: what tells the ports of a Service apart."""
    return port.get("protocol"), port.get("port")


def _drop_other_types(spec: JsonObject, old: JsonObject) -> None:
    """Fields that the old type had, the new one has not, and nobody touched."""
    if needs_ip(old) and not needs_ip(spec):
        same = all(spec.get(key) == old.get(key) for key in ("clusterIP", "clusterIPs"))
        for key in ("clusterIP", "clusterIPs") if same else ():
            spec.pop(key, None)
        _drop_same(spec, old, "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy")
    if needs_node_ports(old) and not needs_node_ports(spec):
        before = [port.get("nodePort") for port in ports_of(old)]
        if before == [port.get("nodePort") for port in ports_of(spec)]:
            for port in ports_of(spec):
                port.pop("nodePort", None)
    if needs_health_port(old) and not needs_health_port(spec):
        _drop_same(spec, old, "healthCheckNodePort")
    if old.get("type") == LOAD_BALANCER and spec.get("type") != LOAD_BALANCER:
        _drop_same(spec, old, "allocateLoadBalancerNodePorts", "loadBalancerClass")
    if is_external(old) and not is_external(spec):
        _drop_same(spec, old, "externalTrafficPolicy")


def _drop_same(spec: JsonObject, old: JsonObject, *keys: str) -> None:
    for key in keys:
        if key in old and spec.get(key) == old[key]:
            spec.pop(key, None)
