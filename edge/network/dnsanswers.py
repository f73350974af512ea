"""The cluster's names: what `web.shop.svc.cluster.local` and its like are, from this node's Services.

Pure: questions and a table in, records out; names outside the cluster are left to others. Source: Kubernetes
DNS-Based Service Discovery, version 1.1.0.
"""

from __future__ import annotations

import ipaddress
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from edge.network.dnsmessages import (
    IN,
    Code,
    Query,
    Record,
    Reply,
    Type,
    address_record,
    authority_record,
    name_record,
    service_record,
)
from edge.network.servicetable import Endpoint, Service, ServicePort, ServiceTable
from gateway.errors import Unencodable

STABLE_SECONDS, MOVING_SECONDS, NOTHING_SECONDS = 30, 5, 5
"""TTLs: of addresses of Services, of addresses of Pods, of what is not there."""
MAX_ANSWERS = 500
VERSION = "1.1.0"
_REVERSE = (".in-addr.arpa", ".ip6.arpa")


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Of an ExternalName: `reply` begins the answer, `target` is asked of others for the rest."""

    reply: Reply
    target: str


class Zone:
    """Answers for the cluster's domain and for addresses of its Services and Pods."""

    def __init__(self, domain: str, table: ServiceTable, node: str) -> None:
        self._domain = domain.strip(".").lower()
        self._table = table
        self._node = node
        self._kinds: Mapping[str, Callable[[Query, list[str]], Reply | Elsewhere]] = (
            MappingProxyType({"svc": self._service_names, "pod": self._pod_names})
        )

    def answer(self, query: Query) -> Reply | Elsewhere | None:
        """Answer a question; None for names that others know."""
        if query.group != IN:
            return None
        if query.name.endswith(_REVERSE):
            return self._reverse(query)
        if query.name != self._domain and not query.name.endswith("." + self._domain):
            return None
        if not self._table.is_known:
            return Reply(Code.SERVFAIL)
        try:
            return self._forward(query)
        except Unencodable:  # a name too long to be told: as good as none
            return self._nothing(Code.NXDOMAIN)

    def _forward(self, query: Query) -> Reply | Elsewhere:
        labels = query.name[: -len(self._domain)].rstrip(".").split(".")
        if labels == [""]:
            return self._apex(query)
        if labels == ["dns-version"] and query.type == Type.TXT:
            data = bytes((len(VERSION),)) + VERSION.encode()
            return Reply(answers=[Record(query.name, Type.TXT, STABLE_SECONDS, data)])
        kind = self._kinds.get(labels[-1])
        return self._nothing(Code.NXDOMAIN) if kind is None else kind(query, labels[:-1])

    def _apex(self, query: Query) -> Reply:
        if query.type == Type.SOA:
            return Reply(answers=[self._authority()])
        if query.type == Type.NS:
            name = f"ns.dns.{self._domain}"
            return Reply(answers=[name_record(query.name, Type.NS, name, STABLE_SECONDS)])
        return self._nothing()

    # --- Services -----------------------------------------------------------------------------

    def _service_names(self, query: Query, labels: list[str]) -> Reply | Elsewhere:
        if not labels:
            return self._nothing()
        namespace = labels[-1]
        if len(labels) == 1:
            is_there = self._table.has_namespace(namespace)
            return self._nothing(Code.NOERROR if is_there else Code.NXDOMAIN)
        service = self._table.find(namespace, labels[-2])
        if service is None:
            return self._nothing(Code.NXDOMAIN)
        if len(labels) == 2:
            return self._service(query, service)
        below = labels[:-2]
        if below[-1].startswith("_"):
            return self._ports(query, service, below)
        if len(below) == 1 and not service.addresses and not service.external_name:
            return self._host(query, service, below[0])
        return self._nothing(Code.NXDOMAIN)

    def _service(self, query: Query, service: Service) -> Reply | Elsewhere:
        if service.external_name:
            target = service.external_name.strip(".").lower()
            named = name_record(query.name, Type.CNAME, target, STABLE_SECONDS)
            if query.type == Type.CNAME:
                return Reply(answers=[named])
            return Elsewhere(Reply(answers=[named]), target)
        if query.type == Type.SRV:
            return self._served(query, service, service.ports)
        seconds = STABLE_SECONDS if service.addresses else MOVING_SECONDS
        addresses = service.addresses or [e.address for e in self._ready(service)]
        if not service.addresses and not addresses:
            return self._nothing(Code.NXDOMAIN if service.is_headless else Code.NOERROR)
        return self._addressed(_of_type(query, addresses, seconds))

    def _host(self, query: Query, service: Service, host: str) -> Reply:
        found = [e.address for e in self._ready(service) if _host_of(e) == host]
        if not found:
            return self._nothing(Code.NXDOMAIN)
        return self._addressed(_of_type(query, found, MOVING_SECONDS))

    def _ports(self, query: Query, service: Service, below: list[str]) -> Reply:
        """Answer `_name._protocol`, or `_protocol` alone, which is only there as a step."""
        protocol = below[-1][1:].upper()
        matching = [port for port in service.ports if port.protocol == protocol]
        if len(below) == 1 and matching:
            return self._nothing()
        if len(below) == 2:
            matching = [port for port in matching if port.name and f"_{port.name}" == below[0]]
        if len(below) != 2 or not matching:
            return self._nothing(Code.NXDOMAIN)
        return self._served(query, service, matching)

    def _served(self, query: Query, service: Service, ports: Iterable[ServicePort]) -> Reply:
        if query.type != Type.SRV:
            return self._nothing()
        found = dict(self._targets(service, ports))
        records = [
            service_record(query.name, port, max(1, 100 // len(found)), target, MOVING_SECONDS)
            for target, port in found
        ]
        extra = [
            address_record(target, address, MOVING_SECONDS)
            for (target, _), address in found.items()
        ]
        if not records:
            return self._nothing(Code.NXDOMAIN if service.is_headless else Code.NOERROR)
        return Reply(answers=records, extra=list(dict.fromkeys(extra)))

    def _targets(
        self, service: Service, ports: Iterable[ServicePort]
    ) -> Iterator[tuple[tuple[str, int], str]]:
        """Yield name and port of who serves, with an address."""
        base = self._name(service)
        for port in ports:
            for address in service.addresses[:1]:
                yield (base, port.port), address
            for each in () if service.addresses else self._ready(service):
                number = each.ports.get((port.name, port.protocol))
                if number:
                    yield (f"{_host_of(each)}.{base}", number), each.address

    def _ready(self, service: Service) -> list[Endpoint]:
        return [e for e in self._table.endpoints(service.key) if e.is_ready][:MAX_ANSWERS]

    def _name(self, service: Service) -> str:
        return f"{service.name}.{service.namespace}.svc.{self._domain}"

    # --- Pods and addresses -------------------------------------------------------------------

    def _pod_names(self, query: Query, labels: list[str]) -> Reply:
        """Answer `10-88-0-5.shop.pod`: the address that the name says."""
        if not labels or len(labels) == 1:
            is_there = not labels or self._table.has_namespace(labels[0])
            return self._nothing(Code.NOERROR if is_there else Code.NXDOMAIN)
        address = _said_address(labels[0])
        if len(labels) != 2 or not address or not self._table.has_namespace(labels[1]):
            return self._nothing(Code.NXDOMAIN)
        return self._addressed(_of_type(query, [address], MOVING_SECONDS))

    def _reverse(self, query: Query) -> Reply | None:
        """Answer whose an address is; None for those of others."""
        address = _reversed_address(query.name)
        names = self._names_of(address) if address else []
        if not names:
            return None
        if query.type != Type.PTR:
            return self._nothing()
        return Reply(
            answers=[name_record(query.name, Type.PTR, name, MOVING_SECONDS) for name in names]
        )

    def _names_of(self, address: str) -> list[str]:
        service = self._table.at_address(address)
        if service is not None:
            return [self._name(service)]
        found = []
        for key, endpoint in self._table.behind(address):
            known = self._table.find(*key)
            if known is not None and (known.is_headless or endpoint.hostname):
                found.append(f"{_host_of(endpoint)}.{self._name(known)}")
            elif known is not None and endpoint.pod:
                found.append(f"{_host_of(endpoint)}.{key[0]}.pod.{self._domain}")
        return list(dict.fromkeys(found))

    # --- ground -------------------------------------------------------------------------------

    def _addressed(self, records: list[Record]) -> Reply:
        return Reply(answers=records) if records else self._nothing()

    def _nothing(self, code: Code = Code.NOERROR) -> Reply:
        return Reply(code, authority=[self._authority()])

    def _authority(self) -> Record:
        # Nobody transfers this zone; a serial that stays says the least that is untrue.
        serial = zlib.crc32(self._node.encode())
        return authority_record(self._domain, serial, NOTHING_SECONDS)


def _of_type(query: Query, addresses: Iterable[str], seconds: int) -> list[Record]:
    records = (address_record(query.name, address, seconds) for address in addresses)
    return [record for record in records if record.type == query.type]


def _host_of(endpoint: Endpoint) -> str:
    """Return what an endpoint is called below its Service."""
    return endpoint.hostname or endpoint.address.replace(".", "-").replace(":", "-")


def _said_address(label: str) -> str:
    """Read `10-88-0-5` or `fd00--5`; "" for what is no address."""
    for text in (label.replace("-", "."), label.replace("-", ":")):
        try:
            return str(ipaddress.ip_address(text))
        except ValueError:
            continue
    return ""


def _reversed_address(name: str) -> str:
    """Read `5.0.88.10.in-addr.arpa`; "" for what is no whole address."""
    text, is_old = name.removesuffix(".in-addr.arpa"), name.endswith(".in-addr.arpa")
    parts = name.removesuffix(".ip6.arpa").split(".") if not is_old else text.split(".")
    parts.reverse()
    if len(parts) != (4 if is_old else 32) or any(len(part) > 3 for part in parts):
        return ""
    plain = (
        ".".join(parts)
        if is_old
        else ":".join("".join(parts[at : at + 4]) for at in range(0, 32, 4))
    )
    try:
        return str(ipaddress.ip_address(plain))
    except ValueError:
        return ""
