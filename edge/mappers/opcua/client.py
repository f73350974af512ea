"""asyncua, and nothing else here: one session, subscriptions on it, failures as ours."""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asyncua import ua
from asyncua.client.client import Client
from asyncua.client.ua_client import UaClientState
from asyncua.common.node import Node
from asyncua.common.subscription import DataChangeNotif, Subscription
from asyncua.crypto import security_policies
from asyncua.ua.object_ids import ObjectIds
from asyncua.ua.status_codes import StatusCodes
from asyncua.ua.uaerrors import UaError, UaStatusCodeError

from edge.mappers.driver import DeviceUnreachable, Quality
from edge.mappers.opcua.addresses import NodeName, Server
from edge.mappers.opcua.certificates import Certificates
from edge.mappers.opcua.links import ClientFactory, Heard, Value, Variable, Wanted
from edge.mappers.opcua.variants import TYPES, milliseconds, plain, typed_for
from gateway.errors import GatewayError, Rejected
from gateway.wire.cloudedge.values import Typed

logging.getLogger("asyncua").setLevel(logging.CRITICAL)  # what fails is told by whoever asked

KEEP_ALIVE = 20
LIFETIME = 1_000
MAX_MESSAGE = 16 * 1_048_576
MAX_CHUNKS = 1_024
BROWSE_DEPTH = 8
BROWSE_NODES = 5_000
_LOST = (ConnectionError, OSError, TimeoutError)
_NONSENSE = (LookupError, AttributeError, ArithmeticError, RecursionError, struct.error)
"""What the library raises on answers that cannot be, and on ids that cannot be written."""
_OURS = frozenset(
    {
        StatusCodes.BadConnectionClosed,
        StatusCodes.BadSessionClosed,
        StatusCodes.BadSessionIdInvalid,
        StatusCodes.BadSecureChannelClosed,
        StatusCodes.BadServerNotConnected,
        StatusCodes.BadServerHalted,
        StatusCodes.BadShutdown,
        StatusCodes.BadTimeout,
        StatusCodes.BadCommunicationError,
        StatusCodes.BadTooManySessions,
        StatusCodes.BadTcpServerTooBusy,
    }
)
"""Bad status codes that may pass; all others need a change by somebody."""


class AsyncuaClient:
    """One session to one server."""

    def __init__(
        self, server: Server, lost: Callable[[], None], certificates: Certificates
    ) -> None:
        self._server = server
        self._lost = lost
        self._certificates = certificates
        self._client: Client | None = None
        self._is_open = False
        self._types: dict[NodeName, ua.VariantType] = {}
        self._namespaces: list[str] = []

    @property
    def is_open(self) -> bool:
        return (
            self._is_open
            and self._client is not None
            and self._client.uaclient.state is UaClientState.CONNECTED
        )

    async def open(self) -> None:
        await self.close()
        server = self._server
        client = Client(server.url, timeout=server.seconds)
        client.max_messagesize, client.max_chunkcount = MAX_MESSAGE, MAX_CHUNKS
        client.connection_lost_callback = self._on_lost
        if server.user:
            client.set_user(server.user)
            client.set_password(server.password)
        self._client = client
        try:
            async with self._told():
                await self._secure(client)
                await client.connect()
                self._namespaces = [str(uri) for uri in await client.get_namespace_array() or ()]
        except BaseException:
            await self.close()
            raise
        self._is_open = True
        self._types.clear()

    async def _secure(self, client: Client) -> None:
        server = self._server
        client.name, client.application_uri = "twinspan", self._certificates.application_uri
        if not server.policy:
            return
        own = await asyncio.to_thread(self._certificates.own, server)
        client.application_uri = own.application_uri
        policy = getattr(security_policies, f"SecurityPolicy{server.policy}")
        mode = getattr(ua.MessageSecurityMode, server.mode)
        theirs: bytes | str = server.server_certificate
        if not theirs:
            endpoints = await client.connect_and_get_server_endpoints()
            endpoint = Client.find_endpoint(endpoints, mode, policy.URI)
            theirs = self._certificates.first_seen(server, bytes(endpoint.ServerCertificate))
        await client.set_security(
            policy, own.certificate, own.private_key, server_certificate=theirs, mode=mode
        )

    async def _on_lost(self, _error: Exception) -> None:
        self._is_open = False
        self._lost()

    async def watch(self, period: int, heard: Heard) -> AsyncuaWatch:
        params = ua.CreateSubscriptionParameters()
        params.RequestedPublishingInterval = period
        params.RequestedLifetimeCount = LIFETIME
        params.RequestedMaxKeepAliveCount = KEEP_ALIVE
        params.PublishingEnabled = True
        watch = AsyncuaWatch(self, heard)
        async with self._told():
            watch.subscription = await self._session.create_subscription(params, watch)
        return watch

    async def node(self, name: NodeName) -> Node:
        """Return a node of this session. Errors: Rejected where it cannot be named."""
        client = self._session
        if name.path:
            return await client.nodes.objects.get_child(list(name.path))
        try:
            node_id = ua.NodeId.from_string(name.text)
        except (UaError, ValueError) as error:
            raise Rejected(f"{name}: no node id") from error
        if name.uri:
            if name.uri not in self._namespaces:
                raise Rejected(f"the server has no namespace {name.uri}")
            node_id = ua.NodeId(
                node_id.Identifier, ua.Int16(self._namespaces.index(name.uri)), node_id.NodeIdType
            )
        return client.get_node(node_id)

    async def write(self, node: NodeName, value: Typed) -> None:
        async with self._told(f"{node}: "):
            target = await self.node(node)
            kind = self._types.get(node)
            if kind is None:
                kind = self._types[node] = await target.read_data_type_as_variant_type()
            await target.write_value(ua.DataValue(ua.Variant(typed_for(kind, value), kind)))

    async def identity(self) -> dict[str, str]:
        """Return the server's product and maker, where it says them."""
        names = {
            "product": ObjectIds.Server_ServerStatus_BuildInfo_ProductName,
            "manufacturer": ObjectIds.Server_ServerStatus_BuildInfo_ManufacturerName,
            "version": ObjectIds.Server_ServerStatus_BuildInfo_SoftwareVersion,
        }
        found: dict[str, str] = {}
        for name, number in names.items():
            with suppress(UaError):
                found[name] = str(
                    await self._session.get_node(ua.NodeId(ua.Int32(number))).read_value()
                )[:100]
        return found

    async def variables(self, start: NodeName | None, most: int) -> list[Variable]:
        """Return variables of other namespaces than OPC UA's own, level by level."""
        async with self._told():
            root = self._session.nodes.objects if start is None else await self.node(start)
            return await self._walk(root, most)

    async def _walk(self, root: Node, most: int) -> list[Variable]:
        found: list[Variable] = []
        seen = {root.nodeid}
        level: list[tuple[tuple[str, ...], Node]] = [((), root)]
        for _ in range(BROWSE_DEPTH):
            below: list[tuple[tuple[str, ...], Node]] = []
            for path, node in level:
                for child in await node.get_children_descriptions():
                    if child.NodeId.NamespaceIndex == 0 or child.NodeId in seen:
                        continue
                    seen.add(child.NodeId)
                    if len(seen) > BROWSE_NODES or len(found) >= most:
                        return found
                    way = (*path, str(child.BrowseName.Name))
                    inner = self._session.get_node(child.NodeId)
                    if child.NodeClass == ua.NodeClass.Variable:
                        found.append(await self._variable(way, inner))
                    elif child.NodeClass == ua.NodeClass.Object:
                        below.append((way, inner))
            level = below
        return found

    async def _variable(self, path: tuple[str, ...], node: Node) -> Variable:
        kind, is_writable = "STRING", False
        with suppress(UaError, ValueError, *_NONSENSE):
            kind = TYPES.get(await node.read_data_type_as_variant_type(), "STRING")
            is_writable = ua.AccessLevel.CurrentWrite in await node.get_user_access_level()
        return Variable(path, self._lasting_id(node), kind, is_writable)

    def _lasting_id(self, node: Node) -> str:
        """Return a node's id by its namespace's URI; by index where the server does not list that."""
        text, index = str(node.nodeid.to_string()), int(node.nodeid.NamespaceIndex)
        if index >= len(self._namespaces):
            return text
        return f"nsu={self._namespaces[index]};{text.partition(';')[2]}"

    @property
    def _session(self) -> Client:
        if self._client is None:
            raise DeviceUnreachable(f"{self._server.url}: not connected")
        return self._client

    @asynccontextmanager
    async def _told(self, about: str = "") -> AsyncIterator[None]:
        """Turn the library's failures into ours."""
        try:
            yield
        except UaStatusCodeError as error:
            name = ua.StatusCode(error.code).name
            kind = DeviceUnreachable if error.code in _OURS else Rejected
            raise kind(f"{about}{self._server.url}: {name}") from error
        except _LOST as error:
            cause = str(error) or f"no answer in {self._server.seconds:g} s"
            raise DeviceUnreachable(f"{about}{self._server.url}: {cause[:200]}") from error
        except (UaError, ValueError, TypeError) as error:
            raise Rejected(f"{about}{self._server.url}: {str(error)[:200]}") from error
        except _NONSENSE as error:
            why = f"an answer that cannot be ({type(error).__name__})"
            raise Rejected(f"{about}{self._server.url}: {why}") from error

    async def close(self) -> None:
        client, self._client, was_open = self._client, None, self._is_open
        self._is_open = False
        if client is None:
            return
        with suppress(UaError, *_LOST):
            async with asyncio.timeout(self._server.seconds if was_open else 0.5):
                await client.disconnect()
        client.disconnect_socket()


@dataclass(slots=True)
class AsyncuaWatch:
    """One subscription; asyncua calls it with what it hears."""

    owner: AsyncuaClient
    heard: Heard
    subscription: Subscription | None = None
    refused: dict[str, str] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=dict)
    """Properties by node id."""

    async def add(self, wanted: Sequence[Wanted]) -> None:
        asked: dict[int, list[tuple[Wanted, Node]]] = {}
        for each in wanted:
            try:
                async with self.owner._told():
                    node = await self.owner.node(each.node)
            except Rejected as error:
                self.refused[each.name] = error.message
            else:
                self.names.setdefault(node.nodeid.to_string(), []).append(each.name)
                asked.setdefault(each.sampling, []).append((each, node))
        for sampling, group in asked.items():
            await self._subscribe(sampling, group)

    async def _subscribe(self, sampling: int, group: list[tuple[Wanted, Node]]) -> None:
        if self.subscription is None:
            raise DeviceUnreachable("not connected")
        async with self.owner._told():
            results = await self.subscription.subscribe_data_change(
                [node for _, node in group], queuesize=1, sampling_interval=ua.Double(sampling)
            )
        silence = ua.StatusCode(ua.UInt32(StatusCodes.BadNoDataAvailable))
        answers = [*results, *[silence] * (len(group) - len(results))]
        for (wanted, _), result in zip(group, answers, strict=True):
            if isinstance(result, ua.StatusCode):
                self.refused[wanted.name] = f"{wanted.node}: {result.name}"
            else:
                self.refused.pop(wanted.name, None)

    def datachange_notification(self, node: Node, value: Any, data: DataChangeNotif) -> None:
        """Called by asyncua for every change."""
        told = _value(value, data.monitored_item.Value)
        for name in self.names.get(node.nodeid.to_string(), ()):
            self.heard(name, told)

    def status_change_notification(self, _status: Any) -> None:
        """The server has dropped the subscription: the session is made anew."""
        self.owner._is_open = False
        self.owner._lost()

    async def close(self) -> None:
        with suppress(UaError, GatewayError, *_LOST):
            if self.subscription is not None:
                await self.subscription.delete()


def _value(value: object, data: ua.DataValue) -> Value:
    status = data.StatusCode or ua.StatusCode(ua.UInt32(StatusCodes.Good))
    at = milliseconds(data.SourceTimestamp) or milliseconds(data.ServerTimestamp)
    if status.is_bad():
        return Value(None, Quality.BAD, at, status.name)
    quality = Quality.UNCERTAIN if status.is_uncertain() else Quality.GOOD
    return Value(plain(value), quality, at, status.name if status.is_uncertain() else "")


def make_client(folder: Path) -> ClientFactory:
    """Return the factory of clients whose certificates are kept in `folder`."""
    certificates = Certificates(folder)
    return lambda server, lost: AsyncuaClient(server, lost, certificates)
