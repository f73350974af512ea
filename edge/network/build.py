"""Builds the network of a node that runs Pods: cluster DNS, addresses of Services, and what they know.

In two steps, as Pods are told of the DNS and of Services, and Services are served by Pods.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Network
from pathlib import Path

from edge.network.addresses import Addresses
from edge.network.cni import configured_subnets
from edge.network.dns import ClusterDns
from edge.network.dnsanswers import Zone
from edge.network.dnsforward import Forwarder, Resolvers
from edge.network.runtimefiles import CNI_FOLDER, read_runtime_files
from edge.network.serviceproxy import ServiceProxy
from edge.network.services import Cloud, ServiceFeed
from edge.network.servicetable import ServiceTable
from edge.pods.ports import NotYet, PodView
from gateway.config.edge_workloads import Network, Workloads
from gateway.errors import InvalidSetting
from gateway.model.json import JsonObject
from gateway.observe.metrics import Metrics
from gateway.runtime.listener import Endpoints
from gateway.runtime.module import Module

AUTO, ON, OFF = "auto", "on", "off"
ADDRESSES_FILE = "service-addresses.json"
LOOK_SECONDS = 10.0
"""Between two looks at the CNI configuration."""
PATIENCE_SECONDS = 10.0
"""For which containers wait at a start that Services become known: their variables tell of them."""


class EdgeNetwork:
    """A node's network. Errors of construction: InvalidSetting."""

    def __init__(
        self,
        settings: Network,
        workloads: Workloads,
        node: str,
        folder: Path,
        endpoints: Endpoints,
        metrics: Metrics,
    ) -> None:
        _check(settings, workloads)
        self._settings = settings
        self._workloads = workloads
        self._node = node
        self.table = ServiceTable(node)
        self.addresses = Addresses(folder / ADDRESSES_FILE)
        self._subnets = PodSubnets(settings.pod_cidr)
        self._begun = time.monotonic()
        self._is_fed = False
        resolvers = Resolvers(settings.upstream, workloads.cluster_dns)
        self.dns = ClusterDns(
            settings,
            workloads.cluster_dns,
            Zone(workloads.cluster_domain, self.table, node),
            Forwarder(resolvers.now),
            self.addresses,
            self._subnets.may_ask,
            endpoints,
            metrics,
        )
        self.proxy = ServiceProxy(
            settings, node, self.table, self.addresses, metrics, self._subnets.may_ask
        )

    def dns_servers(self) -> tuple[str, ...]:
        """Return where Pods ask names now: nowhere of ours while nobody answers there."""
        said = self._workloads.cluster_dns
        if not said:
            return ()
        if self._settings.dns == OFF:
            return (said,)
        return (said,) if self.dns.address else ()

    def services(self) -> list[JsonObject]:
        """Return the Services that containers are told of in their variables.

        Errors: NotYet for a moment after the start, while nobody has told of any.
        """
        is_early = time.monotonic() < self._begun + PATIENCE_SECONDS
        if self._is_fed and not self.table.is_known and is_early:
            raise NotYet(
                "CreateContainerConfigError", "services have not yet been read at least once"
            )
        return [service.facts for service in self.table.services()]

    def modules(self, cloud: Cloud | None, view: PodView) -> list[Module]:
        """Return what runs; `cloud` None without MetaServer: then nothing tells of Services."""
        self._subnets.view = view
        self._is_fed = cloud is not None
        found: list[Module] = [_Ground(self.addresses)]
        if cloud is not None:
            found.append(ServiceFeed(cloud, self.table, view))
        if self._workloads.cluster_dns and self._settings.dns != OFF:
            found.append(self.dns)
        if cloud is not None and self._settings.services != OFF:
            found.append(self.proxy)
        return found


class _Ground:
    """Module: takes over addresses of before, and gives all back at the end."""

    name = "edge.network.addresses"

    def __init__(self, addresses: Addresses) -> None:
        self._addresses = addresses

    async def run(self, ready: Callable[[], None]) -> None:
        await self._addresses.open()
        ready()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await self._addresses.close()


class PodSubnets:
    """Whose questions are answered: subnets of the CNI configuration, those set, and known Pods."""

    def __init__(self, said: str, root: Path = Path("/")) -> None:
        self._said = tuple(read_subnets(said))
        self._root = root
        self._found: tuple[IPv4Network, ...] = ()
        self._looked = -LOOK_SECONDS
        self.view: PodView | None = None

    def may_ask(self, client: ipaddress.IPv4Address) -> bool:
        if any(client in subnet for subnet in (*self._said, *self._configured())):
            return True
        return self.view is not None and str(client) in set(_addresses(self.view))

    def _configured(self) -> tuple[IPv4Network, ...]:
        now = time.monotonic()
        if now >= self._looked + LOOK_SECONDS:
            self._looked = now
            folder = read_runtime_files(self._root).conf_dir or f"/{CNI_FOLDER}"
            self._found = tuple(configured_subnets(self._root / folder.lstrip("/")))
        return self._found


def _addresses(view: PodView) -> Iterator[str]:
    for running in view.pods():
        yield str(running.status.get("podIP", ""))
        for sandbox in running.observed.sandboxes:
            yield from sandbox.ips


def read_subnets(said: str) -> Iterator[IPv4Network]:
    """Read `10.88.0.0/16,...`. Errors: InvalidSetting."""
    for part in filter(None, (part.strip() for part in said.split(","))):
        try:
            yield IPv4Network(part)
        except ValueError as error:
            raise InvalidSetting(f"edge.network.pod_cidr: {error}") from error


def _check(settings: Network, workloads: Workloads) -> None:
    for name in ("dns", "services"):
        value = getattr(settings, name)
        if value not in (AUTO, ON, OFF):
            raise InvalidSetting(
                f"edge.network.{name}: expected auto, on or off, got {str(value)[:100]!r}"
            )
    if workloads.cluster_dns:
        try:
            ipaddress.IPv4Address(workloads.cluster_dns)
        except ValueError as error:
            raise InvalidSetting(f"edge.workloads.cluster_dns: {error}") from error
