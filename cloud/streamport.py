"""The ports by which API servers reach the kubelets of edge nodes: one for each CloudCore, on record.

A Node says the port of the CloudCore that it is connected to. On the hosts of API servers, packets for that
port are redirected to that CloudCore's stream port (10003); KubeEdge's iptables manager does so by the same
record, the ConfigMap `tunnelport`. By it CloudCores of one cluster know each other, too.
Source: KubeEdge reference, section 21.1.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass

from cloud.identity import NAMESPACE
from gateway.errors import Conflict, GatewayError, NotFound
from gateway.kube.client import KubeClient
from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.devices import ObjectMeta, mapping
from gateway.wire.kube.status import AlreadyExists

log = logging.getLogger(__name__)

CONFIG_MAP = "tunnelport"
RECORD = "tunnelportrecord.kubeedge.io"
FIRST_PORT = 10_351
LAST_PORT = 65_535
CHECK_SECONDS = 30.0
TRIES = 5


@dataclass(frozen=True, slots=True)
class PortRecord:
    """Which CloudCore has which port: address -> port, and the ports that are taken."""

    ports: dict[str, int]
    taken: frozenset[int]

    @classmethod
    def read(cls, text: str) -> PortRecord:
        """Read the annotation; what is odd in it counts as not there."""
        try:
            record = mapping(json.loads(text))
        except ValueError:
            record = {}
        ports = {
            address: port
            for address, port in mapping(record.get("ipTunnelPort")).items()
            if isinstance(port, int) and 0 < port <= LAST_PORT
        }
        listed = mapping(record.get("port"))
        taken = {int(port) for port, is_taken in listed.items() if port.isdigit() and is_taken}
        return cls(ports, frozenset(taken | set(ports.values())))

    def with_port_of(self, address: str) -> PortRecord:
        """Return the record with a port for `address`: the one that it has, else the first free one."""
        if address in self.ports:
            return self
        port = next(p for p in range(FIRST_PORT, LAST_PORT) if p not in self.taken)
        return PortRecord({**self.ports, address: port}, self.taken | {port})

    def __str__(self) -> str:
        ports: dict[str, Json] = dict(self.ports)
        taken: dict[str, Json] = {str(port): True for port in sorted(self.taken)}
        return json.dumps({"ipTunnelPort": ports, "port": taken}, separators=(",", ":"))


class StreamPort:
    """Module: keeps this CloudCore in the record."""

    name = "cloud.streamport"

    def __init__(self, kube: KubeClient, address: str, *, has_streams: bool) -> None:
        self._kube = kube
        self._has_streams = has_streams
        self.address = address
        """Of this CloudCore, as Nodes and the record name it."""
        self.port = 0
        """This CloudCore's port; 0 until it is recorded."""

    @property
    def status(self) -> JsonObject:
        """What the status of a node of this CloudCore says of its kubelet; {} without stream tunnels."""
        if not self._has_streams or not self.port:
            return {}
        return {"daemonEndpoints": {"kubeletEndpoint": {"Port": self.port}}}

    def told(self, status: JsonObject) -> JsonObject:
        """Return a Node's status as its edge reports it, with our port for the kubelet's."""
        return {**status, **self.status} if "daemonEndpoints" in status else status

    async def run(self, ready: Callable[[], None]) -> None:
        await self._keep()
        ready()
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            await self._keep()

    async def known(self) -> PortRecord:
        """Read the record. Errors: those of the API."""
        return _record_of(await self._read())

    async def _keep(self) -> None:
        try:
            await self._record()
        except GatewayError as error:
            log.warning("tunnel port not recorded", extra={"cause": error.message})

    async def _record(self) -> None:
        """Write our address where it is missing; others may do so at the same time."""
        for _ in range(TRIES):
            found = await self._read()
            known = _record_of(found)
            wanted = known.with_port_of(self.address)
            if wanted is not known:
                try:
                    await self._write(found, wanted)
                except (Conflict, AlreadyExists):
                    continue
                log.info("tunnel port recorded", extra={"port": wanted.ports[self.address]})
            self.port = wanted.ports[self.address]
            return
        raise Conflict(f"{NAMESPACE}/{CONFIG_MAP}: others write it all the time")

    async def _read(self) -> JsonObject | None:
        try:
            return await self._kube.get("v1", "configmaps", NAMESPACE, CONFIG_MAP)
        except NotFound:
            return None

    async def _write(self, found: JsonObject | None, record: PortRecord) -> None:
        annotations: JsonObject = {RECORD: str(record)}
        if found is None:
            meta: JsonObject = {"name": CONFIG_MAP, "annotations": annotations}
            await self._kube.create("v1", "configmaps", NAMESPACE, {"metadata": meta})
            return
        seen: JsonObject = {"resourceVersion": ObjectMeta.read(found).version}
        patch: JsonObject = {"metadata": {**seen, "annotations": annotations}}
        await self._kube.patch("v1", "configmaps", NAMESPACE, CONFIG_MAP, patch)


def _record_of(found: JsonObject | None) -> PortRecord:
    annotations = ObjectMeta.read(found).annotations if found is not None else {}
    return PortRecord.read(annotations.get(RECORD, ""))
