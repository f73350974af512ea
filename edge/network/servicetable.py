"""What this node knows of Services: who they are, and who serves them.

The cloud's EndpointSlices tell of other nodes; of this node's Pods their own state here counts, with and
without a cloud. What is kept is what is asked for, not the objects. Source: Kubernetes core/v1 Service,
discovery.k8s.io/v1 EndpointSlice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from gateway.model.json import JsonObject
from gateway.wire.kube.endpoints import SERVICE_NAME, family_of, groups_of
from gateway.wire.kube.parts import labels_of, part, rows, text, whole
from gateway.wire.kube.services import (
    AFFINITY_SECONDS,
    CLUSTER_IP,
    EXTERNAL_NAME,
    HEADLESS,
    ips_of,
    spec_of,
)

Key = tuple[str, str]
"""Namespace and name."""
MAX_PORT = 65_535
MAX_ENDPOINTS = 1_000
"""Of one Service."""


@dataclass(frozen=True, slots=True)
class ServicePort:
    name: str
    protocol: str
    port: int
    node_port: int = 0

    @property
    def is_one(self) -> bool:
        """False for a number that no port has: it cannot be listened on, nor told by a DNS."""
        return 0 < self.port <= MAX_PORT


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address behind a Service.

    Shape:  `ports` by name and protocol of the Service's port; `node` "" where nobody says.
    """

    address: str
    ports: Mapping[tuple[str, str], int]
    is_ready: bool = True
    is_serving: bool = True
    is_terminating: bool = False
    node: str = ""
    hostname: str = ""
    pod: str = ""
    """Name of the Pod."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A Service.

    Shape:  `addresses` its own in the cluster, none for headless ones and names of others; `selector` None
            where others keep its endpoints. Units: `affinity` seconds, 0 for none.
    """

    namespace: str
    name: str
    type: str = CLUSTER_IP
    addresses: tuple[str, ...] = ()
    is_headless: bool = False
    external_name: str = ""
    ports: tuple[ServicePort, ...] = ()
    selector: Mapping[str, str] | None = None
    affinity: int = 0
    is_local_only: bool = False
    """`internalTrafficPolicy: Local`."""
    facts: JsonObject = field(default_factory=dict, repr=False)
    """Of the object, what tells its endpoints from its Pods, and its variables in containers."""

    @property
    def key(self) -> Key:
        return self.namespace, self.name

    def selects(self, pod: JsonObject) -> bool:
        labels = labels_of(pod)
        return self.selector is not None and all(
            labels.get(key) == value for key, value in self.selector.items()
        )


def read_service(item: JsonObject) -> Service | None:
    """Read a Service; None for what has no name."""
    meta, spec = part(item, "metadata"), spec_of(item)
    namespace, name = text(meta.get("namespace")), text(meta.get("name"))
    if not namespace or not name:
        return None
    ips = ips_of(spec) or ([text(spec.get("clusterIP"))] if spec.get("clusterIP") else [])
    is_external = spec.get("type") == EXTERNAL_NAME
    selector = spec.get("selector")
    kept = (
        "ports",
        "selector",
        "ipFamilies",
        "publishNotReadyAddresses",
        "clusterIP",
        "clusterIPs",
    )
    return Service(
        namespace=namespace,
        name=name,
        type=text(spec.get("type")) or CLUSTER_IP,
        addresses=tuple(ip for ip in ips if family_of(ip) and not is_external),
        is_headless=HEADLESS in ips,
        external_name=text(spec.get("externalName")) if is_external else "",
        ports=tuple(port for row in rows(spec.get("ports")) if (port := _port(row)).is_one),
        selector={key: str(value) for key, value in selector.items()}
        if isinstance(selector, dict) and selector
        else None,
        affinity=_affinity(spec),
        is_local_only=spec.get("internalTrafficPolicy") == "Local",
        facts={
            "metadata": {"namespace": namespace, "name": name},
            "spec": {field: spec[field] for field in kept if field in spec},
        },
    )


def _port(row: JsonObject) -> ServicePort:
    return ServicePort(
        text(row.get("name")),
        text(row.get("protocol")) or "TCP",
        whole(row.get("port")),
        whole(row.get("nodePort")),
    )


def _affinity(spec: JsonObject) -> int:
    if spec.get("sessionAffinity") != "ClientIP":
        return 0
    said = part(spec, "sessionAffinityConfig", "clientIP")
    return whole(said.get("timeoutSeconds"), AFFINITY_SECONDS)


def read_endpoints(rows_: Iterable[JsonObject], ports: Sequence[JsonObject]) -> Iterator[Endpoint]:
    """Yield the endpoints of a slice, one for each of its first addresses."""
    numbers = {
        (text(row.get("name")), text(row.get("protocol")) or "TCP"): number
        for row in ports
        if 0 < (number := whole(row.get("port"))) <= MAX_PORT
    }
    for row in rows_:
        addresses = row.get("addresses")
        first = addresses[0] if isinstance(addresses, list) and addresses else None
        if not isinstance(first, str) or not family_of(first):
            continue  # slices of names are for others
        conditions, target = part(row, "conditions"), part(row, "targetRef")
        is_ready = conditions.get("ready") is not False
        serving = conditions.get("serving")
        yield Endpoint(
            first,
            numbers,
            is_ready,
            is_ready if serving is None else serving is True,
            conditions.get("terminating") is True,
            text(row.get("nodeName")),
            text(row.get("hostname")),
            text(target.get("name")) if target.get("kind") == "Pod" else "",
        )


@dataclass(frozen=True, slots=True)
class _Slice:
    service: Key
    endpoints: tuple[Endpoint, ...]


class ServiceTable:
    """Services and endpoints of the cluster, this node's Pods among them. Listeners hear which changed."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._services: dict[Key, Service] = {}
        self._slices: dict[Key, _Slice] = {}
        self._of_service: dict[Key, set[Key]] = {}
        self._by_address: dict[str, Key] = {}
        self._pods: dict[str, JsonObject] | None = None
        self._found: dict[Key, tuple[Endpoint, ...]] = {}
        self._backs: dict[str, list[tuple[Key, Endpoint]]] | None = None
        self._listeners: list[Callable[[set[Key]], None]] = []
        self.is_known = False
        """True once somebody told which Services there are."""

    def listen(self, listener: Callable[[set[Key]], None]) -> None:
        self._listeners.append(listener)

    # --- questions ----------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._services)

    def find(self, namespace: str, name: str) -> Service | None:
        return self._services.get((namespace, name))

    def services(self, namespace: str | None = None) -> list[Service]:
        """Return all Services, or those of a namespace."""
        return [s for s in self._services.values() if namespace in (None, s.namespace)]

    def has_namespace(self, namespace: str) -> bool:
        return any(key[0] == namespace for key in self._services)

    def at_address(self, address: str) -> Service | None:
        """Return the Service that has an address."""
        key = self._by_address.get(address)
        return None if key is None else self._services.get(key)

    def endpoints(self, key: Key) -> tuple[Endpoint, ...]:
        """Return who serves a Service, ready or not: this node's Pods as they are here."""
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = tuple(self._merged(key))[:MAX_ENDPOINTS]
        return found

    def behind(self, address: str) -> list[tuple[Key, Endpoint]]:
        """Return the Services that an address serves."""
        if self._backs is None:
            self._backs = {}
            for key in self._services:
                for endpoint in self.endpoints(key):
                    self._backs.setdefault(endpoint.address, []).append((key, endpoint))
        return self._backs.get(address, [])

    def _merged(self, key: Key) -> Iterator[Endpoint]:
        service = self._services.get(key)
        is_ours = self._pods is not None and service is not None and service.selector is not None
        seen: set[str] = set()
        if is_ours and service is not None:
            for endpoint in self._local(service):
                seen.add(endpoint.address)
                yield endpoint
        for name in sorted(self._of_service.get(key, ())):
            for endpoint in self._slices[name].endpoints:
                if endpoint.address not in seen and not (is_ours and endpoint.node == self._node):
                    yield endpoint

    def _local(self, service: Service) -> Iterator[Endpoint]:
        pods = [
            pod
            for pod in (self._pods or {}).values()
            if text(part(pod, "metadata").get("namespace")) == service.namespace
            and service.selects(pod)
        ]
        for group in groups_of(service.facts, pods, {}) if pods else ():
            yield from read_endpoints(group.endpoints.values(), group.ports)

    # --- news ---------------------------------------------------------------------------------

    def put_service(self, item: JsonObject) -> None:
        service = read_service(item)
        if service is None or self._services.get(service.key) == service:
            return
        self._unaddress(service.key)
        self._services[service.key] = service
        for address in service.addresses:
            self._by_address[address] = service.key
        self._changed({service.key})

    def drop_service(self, key: Key) -> None:
        self._unaddress(key)
        if self._services.pop(key, None) is not None:
            self._changed({key})

    def _unaddress(self, key: Key) -> None:
        known = self._services.get(key)
        for address in known.addresses if known else ():
            if self._by_address.get(address) == key:
                del self._by_address[address]

    def replace_services(self, items: Iterable[JsonObject]) -> None:
        """Take all Services that there are."""
        self.is_known = True
        found = {_key(item): item for item in items}
        for key in [key for key in self._services if key not in found]:
            self.drop_service(key)
        for item in found.values():
            self.put_service(item)

    def put_slice(self, item: JsonObject) -> None:
        key, owner = _key(item), labels_of(item).get(SERVICE_NAME, "")
        if not owner:
            self.drop_slice(key)
            return
        found = _Slice(
            (key[0], owner),
            tuple(read_endpoints(rows(item.get("endpoints")), rows(item.get("ports")))),
        )
        known = self._slices.get(key)
        if known == found:
            return
        if known is not None and known.service != found.service:
            self.drop_slice(key)
        self._slices[key] = found
        self._of_service.setdefault(found.service, set()).add(key)
        self._changed({found.service})

    def drop_slice(self, key: Key) -> None:
        known = self._slices.pop(key, None)
        if known is None:
            return
        names = self._of_service[known.service]
        names.discard(key)
        if not names:
            del self._of_service[known.service]
        self._changed({known.service})

    def replace_slices(self, items: Iterable[JsonObject]) -> None:
        """Take all slices that there are."""
        found = {_key(item): item for item in items}
        for key in [key for key in self._slices if key not in found]:
            self.drop_slice(key)
        for item in found.values():
            self.put_slice(item)

    def set_pods(self, pods: Mapping[str, JsonObject]) -> None:
        """Take this node's Pods with their statuses here, by uid."""
        before, self._pods = self._pods, dict(pods)
        if before is None:
            self._changed(set(self._services))
            return
        moved = [
            pod
            for uid in before.keys() | pods.keys()
            for pod in (before.get(uid), pods.get(uid))
            if before.get(uid) != pods.get(uid) and pod is not None
        ]
        if moved:
            self._changed({s.key for s in self._services.values() if any(map(s.selects, moved))})

    def _changed(self, keys: set[Key]) -> None:
        for key in keys:
            self._found.pop(key, None)
        self._backs = None
        for listener in self._listeners if keys else ():
            listener(keys)


def _key(item: JsonObject) -> Key:
    meta = part(item, "metadata")
    return text(meta.get("namespace")), text(meta.get("name"))


def usable(service: Service, endpoints: Iterable[Endpoint], node: str) -> list[Endpoint]:
    """Return who takes traffic: the ready ones, else those that end and still serve; this node's first."""
    own = [e for e in endpoints if not service.is_local_only or e.node == node]
    chosen = [e for e in own if e.is_ready] or [e for e in own if e.is_serving and e.is_terminating]
    return sorted(chosen, key=lambda endpoint: endpoint.node != node)
