"""Addresses of Services in the cluster, and their ports at the nodes: given out when a Service is stored.

What is in use follows from the stored Services. Between a choice and its store the choice is pending, for a
while at most, so that two writers never get the same.
Source: Kubernetes "Service ClusterIP allocation"; texts as kube-apiserver 1.36 says them.
"""

from __future__ import annotations

import ipaddress
import random
import time
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar, cast

from gateway.errors import InvalidSetting, Undeliverable
from gateway.kube.client import EventType
from gateway.kube.watch import Change
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.names import invalid_value
from gateway.wire.kube.services import (
    HEADLESS,
    ips_of,
    is_headless,
    needs_health_port,
    needs_ip,
    needs_node_ports,
    ports_of,
    spec_of,
)
from gateway.wire.kube.status import Cause, invalid

V = TypeVar("V", bound=Hashable)

SERVICES = "services"
PENDING_SECONDS = 30.0
MAX_TRIES = 64
"""Random choices before all values are looked at."""
LOW_SHARE = 16
"""The first addresses of a range are for those who choose by themselves: a sixteenth, 16 to 256."""


class Pool(Generic[V]):
    """Values that are free, in use, or pending."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._used: dict[V, int] = {}
        self._pending: dict[V, float] = {}

    def use(self, value: V) -> None:
        self._used[value] = self._used.get(value, 0) + 1
        self._pending.pop(value, None)

    def free(self, value: V) -> None:
        left = self._used.get(value, 0) - 1
        if left > 0:
            self._used[value] = left
        else:
            self._used.pop(value, None)

    def is_taken(self, value: V) -> bool:
        return value in self._used or self._pending.get(value, 0.0) > self._now()

    def hold(self, value: V) -> None:
        """Keep a value for somebody who is about to store it."""
        now = self._now()
        if len(self._pending) > MAX_TRIES:
            self._pending = {each: end for each, end in self._pending.items() if end > now}
        self._pending[value] = now + PENDING_SECONDS


class ServiceAddresses:
    """Gives out addresses and ports.

    Shape:  `network` as 10.96.0.0/16; `ports` as 30000-32767.
    Errors: InvalidSetting for a network or a range that is none.
    """

    def __init__(
        self, network: str, ports: str, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._network = read_network(network)
        self._ports = read_ports(ports)
        self._ips: Pool[str] = Pool(now)
        self._node_ports: Pool[int] = Pool(now)
        self._random = random.SystemRandom()

    @property
    def first(self) -> str:
        """The address of the API server's own Service."""
        return str(self._network[1])

    # --- what is in use ---------------------------------------------------------------------------

    def on_change(self, change: Change) -> None:
        """Follow stored Services."""
        if change.after.key.kind != SERVICES:
            return
        if change.before is not None:
            self._leave(change.before.object)
        if change.type is not EventType.DELETED:
            self.enter(change.after.object)

    def enter(self, service: JsonObject) -> None:
        """Note what a stored Service has."""
        for ip in _addresses(service):
            self._ips.use(ip)
        for port in _node_ports(service):
            self._node_ports.use(port)

    def _leave(self, service: JsonObject) -> None:
        for ip in _addresses(service):
            self._ips.free(ip)
        for port in _node_ports(service):
            self._node_ports.free(port)

    # --- giving out -------------------------------------------------------------------------------

    def allot(self, item: JsonObject, old: JsonObject | None) -> JsonObject:
        """Return a Service with all that belongs to it.

        Errors: Unprocessable; Undeliverable when nothing is left to give.
        """
        spec = dict(spec_of(item))
        faults = [*self._family(spec), *self._address(spec, old), *self._at_nodes(spec, old)]
        if faults:
            metadata = cast("JsonObject", item["metadata"])
            raise invalid("Service", "", str(metadata.get("name") or ""), faults)
        return {**item, "spec": spec}

    def _family(self, spec: JsonObject) -> Iterator[Cause]:
        """One family of addresses is served here; who says nothing gets it."""
        if not needs_ip(spec):
            return
        own = f"IPv{self._network.version}"
        families, policy = spec.get("ipFamilies"), spec.get("ipFamilyPolicy")
        if is_headless(spec) and not spec.get("selector"):
            spec.setdefault("ipFamilyPolicy", "RequireDualStack")
            both: list[Json] = [own, *({"IPv4", "IPv6"} - {own})]
            spec.setdefault("ipFamilies", both)
            return
        for at, family in enumerate(families if isinstance(families, list) else ()):
            if family != own:
                yield invalid_value(
                    f"spec.ipFamilies[{at}]", family, "not configured on this cluster"
                )
        if policy == "RequireDualStack":
            why = "this cluster is not configured for dual-stack services"
            yield invalid_value("spec.ipFamilyPolicy", policy, why)
        spec["ipFamilyPolicy"] = policy or "SingleStack"
        spec["ipFamilies"] = families or [own]

    def _address(self, spec: JsonObject, old: JsonObject | None) -> Iterator[Cause]:
        if not needs_ip(spec) or is_headless(spec):
            return
        given = set(_addresses(old)) if old is not None else set()
        asked = ips_of(spec)
        if not asked:
            ip = self._free_ip()
            spec |= {"clusterIP": ip, "clusterIPs": [ip]}
            return
        for ip in asked:
            why = "" if ip in given else self._why_not(ip)
            if why:
                text = f"failed to allocate IP {ip}: {why}"
                yield invalid_value("spec.clusterIPs", cast("list[Json]", asked), text)
            elif ip not in given:
                self._ips.hold(ip)

    def _why_not(self, ip: str) -> str:
        address = ipaddress.ip_address(ip)
        network = self._network
        ends = (network.network_address, network.broadcast_address)
        if address not in network or address in ends:
            return "the provided network does not match the current range"
        return "provided IP is already allocated" if self._ips.is_taken(ip) else ""

    def _free_ip(self) -> str:
        size = self._network.num_addresses - 2
        low = min(max(16, size // LOW_SHARE), 256, size // 2)
        for _ in range(MAX_TRIES):
            ip = str(self._network[1 + low + self._random.randrange(size - low)])
            if not self._ips.is_taken(ip):
                self._ips.hold(ip)
                return ip
        for at in (*range(1 + low, size + 1), *range(1, 1 + low)):
            ip = str(self._network[at])
            if not self._ips.is_taken(ip):
                self._ips.hold(ip)
                return ip
        raise Undeliverable(f"failed to allocate a serviceIP: range {self._network} is full")

    def _at_nodes(self, spec: JsonObject, old: JsonObject | None) -> Iterator[Cause]:
        given = set(_node_ports(old)) if old is not None else set()
        ports = [dict(port) for port in ports_of(spec)]
        by_number: dict[tuple[Json, Json], int] = {}
        for at, port in enumerate(ports):
            asked = port.get("nodePort")
            if isinstance(asked, int) and asked:
                yield from self._asked_port(asked, f"spec.ports[{at}].nodePort", given)
                by_number[port.get("port"), None] = asked
        if needs_node_ports(spec):
            for port in ports:
                if not port.get("nodePort"):
                    port["nodePort"] = self._paired_port(port, by_number)
        if ports:
            spec["ports"] = cast("list[Json]", ports)
        if needs_health_port(spec):
            asked = spec.get("healthCheckNodePort")
            if isinstance(asked, int) and asked:
                yield from self._asked_port(asked, "spec.healthCheckNodePort", given)
            else:
                spec["healthCheckNodePort"] = self._free_port()

    def _paired_port(self, port: JsonObject, known: dict[tuple[Json, Json], int]) -> int:
        """The same number for the same port of another protocol (DNS over TCP and UDP)."""
        key = port.get("port"), None
        if key not in known:
            known[key] = self._free_port()
        return known[key]

    def _asked_port(self, port: int, path: str, given: set[int]) -> Iterator[Cause]:
        if port in given:
            return
        if port not in self._ports:
            shown = f"{self._ports.start}-{self._ports.stop - 1}"
            why = f"provided port is not in the valid range. The range of valid ports is {shown}"
            yield invalid_value(path, port, why)
        elif self._node_ports.is_taken(port):
            yield invalid_value(path, port, "provided port is already allocated")
        else:
            self._node_ports.hold(port)
            given.add(port)

    def _free_port(self) -> int:
        start = self._random.randrange(len(self._ports))
        for step in range(len(self._ports)):
            port = self._ports[(start + step) % len(self._ports)]
            if not self._node_ports.is_taken(port):
                self._node_ports.hold(port)
                return port
        raise Undeliverable("failed to allocate a nodePort: range is full")


def _addresses(service: JsonObject | None) -> list[str]:
    return [ip for ip in ips_of(spec_of(service or {})) if ip != HEADLESS]


def _node_ports(service: JsonObject | None) -> set[int]:
    """Two protocols may share a number: it counts once for its Service."""
    spec = spec_of(service or {})
    found = [*(port.get("nodePort") for port in ports_of(spec)), spec.get("healthCheckNodePort")]
    return {port for port in found if isinstance(port, int) and port}


def read_network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Read `kube.service_network`. Errors: InvalidSetting."""
    try:
        found = ipaddress.ip_network(text)
    except ValueError as error:
        raise InvalidSetting(f"kube.service_network: {error}") from error
    if found.num_addresses < 8 or found.num_addresses > 1 << 20:
        raise InvalidSetting(f"kube.service_network: {text}: expected 8 to 1048576 addresses")
    return found


def read_ports(text: str) -> range:
    """Read `kube.node_ports`. Errors: InvalidSetting."""
    first, _, last = text.partition("-")
    if first.isdigit() and last.isdigit() and 0 < int(first) <= int(last) < 65_536:
        return range(int(first), int(last) + 1)
    raise InvalidSetting(f"kube.node_ports: expected first-last, got {text!r}")
