"""Which other CloudCore of the cluster a node is at: what is for the node is forwarded there, once.

The Node's annotations say where: `cloudcore`, and one of ours for the stream tunnel. They count only for an
address that the CloudCores' own record holds, for a node may have a say in its annotations. CloudCores are
taken to use the same port for the same listener, as KubeEdge's do.
Source: KubeEdge reference, sections 18.2 and 21.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloud.catalog import INTERNAL
from cloud.restrictions import CLOUDCORE, TUNNEL
from gateway.errors import NotFound, Undeliverable
from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.devices import mapping

if TYPE_CHECKING:
    from cloud.catalog import Catalog
    from cloud.streamport import StreamPort

FORWARDED = "twinspan-forwarded"
"""Header of a forwarded request: it is answered where it comes to, never forwarded again."""


class Peers:
    """Finds the CloudCore of a node."""

    def __init__(self, catalog: Catalog, place: StreamPort) -> None:
        self.catalog = catalog
        self._place = place
        self.address = place.address
        """Of this CloudCore."""

    def is_node(self, name: str) -> bool:
        """True for the name of a Node."""
        return ("", name) in self.catalog.nodes.objects

    def node_at(self, host: str) -> str:
        """Return the node with this name or internal address.

        Errors: NotFound; Undeliverable for an address of several.
        """
        nodes = self.catalog.nodes.objects
        if ("", host) in nodes:
            return host
        found = [name for (_, name), node in nodes.items() if host in _addresses(node)]
        if len(found) > 1:
            raise Undeliverable(f"{host[:100]}: several nodes have that address")
        if not found:
            raise NotFound(f"{host[:100]}: no node has that name or address")
        return found[0]

    async def find(self, node: str, *, of_tunnel: bool = False) -> str | None:
        """Return the address of the CloudCore that a node is at, None where that is this one or not known.

        Shape:  `of_tunnel` asks for the one with its stream tunnel.
        Errors: Undeliverable for an address that is no CloudCore's; those of the API.
        """
        annotations = self.catalog.node_annotations(node) or {}
        address = (of_tunnel and annotations.get(TUNNEL)) or annotations.get(CLOUDCORE, "")
        if address in ("", self.address):
            return None
        if address not in (await self._place.known()).ports:
            raise Undeliverable(
                f"node {node} is at {address[:100]}, which is no CloudCore known here"
            )
        return address


def authority(address: str, port: int) -> str:
    """Return `host:port` as URLs have it."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _addresses(node: JsonObject) -> list[Json]:
    listed = mapping(node.get("status")).get("addresses")
    return [
        mapping(each).get("address")
        for each in (listed if isinstance(listed, list) else ())
        if mapping(each).get("type") == INTERNAL
    ]
