"""A running CloudCore for tests: embedded Kubernetes API, things service, TLS sockets, a made-up edge."""

from __future__ import annotations

import asyncio
import itertools
import json
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloud.core import build_cloud
from cloud.identity import create_join_token
from gateway.config.cloud import Cloud, CloudHub, HubListener
from gateway.config.cloud_services import AdmissionWebhook, Dynamic, Router, Stream, Tasks
from gateway.config.ditto import Ditto
from gateway.config.kube import Kube, KubeHttps
from gateway.config.tree import Settings
from gateway.ditto.service import PoliciesService, ThingsService
from gateway.errors import GatewayError
from gateway.hono.traffic import Traffic
from gateway.kube.client import KubeClient
from gateway.kube.control.manager import ControllerManager
from gateway.kube.module import KubeApi
from gateway.model.json import Json, JsonObject
from gateway.model.message import Message, Upload
from gateway.model.ports import Done
from gateway.model.thing import Action, Thing, ThingCommand, ThingResult
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracer
from gateway.runtime.listener import Endpoints
from gateway.runtime.module import Module, serve
from gateway.store.database import Database
from gateway.store.things_sqlite import SqliteThingStore
from gateway.wire.cloudedge import to_cloud
from gateway.wire.cloudedge.envelope import Envelope, Stamp, decode, encode
from gateway.wire.cloudedge.names import EDGE, NODE_ID, PROJECT_ID, Operation
from gateway.wire.cloudedge.subjects import DeviceKey, Subject
from gateway.wire.cloudedge.to_edge import ObjectChanged, read_to_edge
from gateway.wire.cloudedge.twins import Twin, TwinUpdate, TwinValue, TwinVersion, ValueMetadata
from tests.cloud_samples import DEVICES, a_device, a_model, a_node, a_request
from tests.kube_server import GROUND

FREE = "127.0.0.1:0"
OPERATOR = "nginx:ditto"
WAIT_SECONDS = 10.0

T = TypeVar("T")
_numbers = itertools.count(1)


def a_stamp() -> Stamp:
    return Stamp(f"test-{next(_numbers)}", 1_795_377_600_000)


async def eventually(check: Callable[[], Awaitable[T]], what: str = "") -> T:
    """Return the first truthy result of `check`."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            found = await check()
            if found:
                return found
            await asyncio.sleep(0.02)
    raise AssertionError(what)


# --- doubles for the ports ---------------------------------------------------------------------


@dataclass
class Downstream:
    """Takes messages; `answer` decides their outcome, what `holds` picks waits in `held`."""

    messages: list[Message] = field(default_factory=list)
    answer: Callable[[Message], GatewayError | None] = lambda _: None
    holds: Callable[[Message], bool] = lambda _: False
    held: list[Done] = field(default_factory=list)

    def send(self, message: Message, done: Done) -> None:
        self.messages.append(message)
        if self.holds(message):
            self.held.append(done)
        else:
            done(self.answer(message))


@dataclass
class Ingress:
    """Takes uploads; `answer` decides their outcome."""

    uploads: list[Upload] = field(default_factory=list)
    answer: Callable[[Upload], GatewayError | None] = lambda _: None

    def submit(self, upload: Upload, done: Done) -> None:
        self.uploads.append(upload)
        done(self.answer(upload))


@dataclass
class GatewayParts:
    """What CloudCore needs of the gateway."""

    database: Database
    things: ThingsService
    policies: PoliciesService
    messaging: Downstream = field(default_factory=Downstream)
    ingress: Ingress = field(default_factory=Ingress)
    traffic: Traffic = field(default_factory=Traffic)


@dataclass
class ProcessParts:
    """What CloudCore needs of its process."""

    settings: Settings
    endpoints: Endpoints = field(default_factory=Endpoints)
    metrics: Metrics = field(default_factory=Metrics)
    tracer: Tracer = field(default_factory=Tracer)


class StoreModule:
    """Keeps a database open."""

    name = "store"

    def __init__(self, database: Database) -> None:
        self._database = database

    async def run(self, ready: Callable[[], None]) -> None:
        async with self._database.running():
            ready()
            await asyncio.Event().wait()


class North(Protocol):
    """Things as applications see them, here or elsewhere."""

    async def load(self, thing_id: str) -> Thing | None: ...

    async def execute(self, command: ThingCommand) -> ThingResult: ...


@dataclass
class CloudCore:
    """A CloudCore that runs, and how to look at it."""

    process: ProcessParts
    gateway: GatewayParts
    kube: KubeClient
    data_dir: Path
    north: North
    api: KubeApi

    @property
    def wss(self) -> str:
        return f"wss://localhost:{self.process.endpoints.port('cloudhub.wss')}"

    @property
    def https(self) -> str:
        return f"https://localhost:{self.process.endpoints.port('cloudhub.https')}"

    def sample(self, name: str, **labels: str) -> float:
        return self.process.metrics.registry.get_sample_value(name, labels) or 0.0

    async def token(self, **options: Any) -> str:
        return await create_join_token(self.kube, now=time.time(), **options)

    async def thing(self, thing_id: str) -> dict[str, Any] | None:
        """The newest document of a thing, no policy asked."""
        thing = await self.north.load(thing_id)
        return None if thing is None else dict(thing.document)

    async def object(
        self, group_version: str, plural: str, namespace: str | None, name: str
    ) -> dict[str, Any]:
        """A Kubernetes object."""
        return dict(await self.kube.get(group_version, plural, namespace, name))

    async def command(
        self, thing_id: str, action: Action, path: tuple[str, ...], value: Json = None
    ) -> ThingResult:
        """Run a command as an operator."""
        return await self.north.execute(
            ThingCommand(
                thing_id=thing_id, action=action, subjects=(OPERATOR,), path=path, value=value
            )
        )

    async def want(self, thing_id: str, name: str, value: Json) -> ThingResult:
        path = ("features", name, "desiredProperties", "value")
        return await self.command(thing_id, Action.MODIFY, path, value)

    async def device(self, name: str, namespace: str = "default") -> JsonObject:
        return await self.kube.get(DEVICES, "devices", namespace, name)


def settings_of(data_dir: Path, ditto: Ditto, **hub: Any) -> Settings:
    options: dict[str, Any] = {"sync_interval": 0.1, **hub}
    dynamic = options.pop("dynamic", Dynamic())
    router = options.pop("router", Router(bind=FREE))
    stream = options.pop("stream", Stream(bind=FREE, tunnel_bind=FREE))
    advertise = options.pop("advertise", ())
    tasks = options.pop("tasks", Tasks())
    admission = options.pop("admission", AdmissionWebhook(bind=FREE))
    return Settings(
        data_dir=data_dir,
        demo=True,
        ditto=ditto,
        kube=Kube(https=KubeHttps(bind=FREE)),
        cloud=Cloud(
            hub=CloudHub(wss=HubListener(bind=FREE), https=HubListener(bind=FREE), **options),
            dynamic=dynamic,
            router=router,
            stream=stream,
            advertise=advertise,
            tasks=tasks,
            admission=admission,
        ),
    )


@asynccontextmanager
async def a_cloud(
    data_dir: Path,
    *,
    cloudcore: bool = True,
    ditto: Ditto | None = None,
    north: North | None = None,
    **hub: Any,
) -> AsyncIterator[CloudCore]:
    """A CloudCore on the stores of `data_dir`; `hub` changes settings of `cloud.hub`.

    `dynamic`, `router`, `stream` and `advertise` among them are those of `cloud`. Without `cloudcore` only
    the Kubernetes API and the things service run. With `ditto.mode: remote` the things of Devices are where
    `north` looks.
    """
    process = ProcessParts(settings_of(data_dir, ditto or Ditto(), **hub))
    gateway_db = Database(data_dir / "gateway.db", "gateway")
    store = SqliteThingStore(gateway_db)
    policies = PoliciesService(store)
    things = ThingsService(store, policies, metrics=process.metrics, tracer=process.tracer)
    gateway = GatewayParts(gateway_db, things, policies)
    api = KubeApi(
        process.settings.kube,
        process.endpoints,
        Database(data_dir / "kube.db", "kube"),
        process.metrics,
        data_dir,
    )
    modules: list[Module] = [StoreModule(gateway_db), things, api]
    modules.append(ControllerManager(api.client, GROUND, keys=api.keys))
    if cloudcore:
        modules += build_cloud(process, gateway, api)
    stop, is_up = asyncio.Event(), asyncio.Event()
    serving = asyncio.create_task(serve(modules, stop, on_ready=is_up.set))
    starting = asyncio.create_task(is_up.wait())
    await asyncio.wait((serving, starting), return_when=asyncio.FIRST_COMPLETED)
    starting.cancel()
    try:
        if is_up.is_set():
            yield CloudCore(process, gateway, api.client("test"), data_dir, north or things, api)
    finally:
        stop.set()
        await serving


# --- sample objects ----------------------------------------------------------------------------


async def apply_model(cloud: CloudCore) -> None:
    await cloud.kube.create(DEVICES, "devicemodels", "default", a_model())


async def apply_device(cloud: CloudCore, document: JsonObject) -> JsonObject:
    return await cloud.kube.create(DEVICES, "devices", "default", document)


# --- a hand-written edge -------------------------------------------------------------------------


@dataclass
class Certificate:
    """A node's key and certificate, PEM, in one file."""

    path: Path

    def context(self, ca: bytes) -> ssl.SSLContext:
        context = trust(ca)
        context.load_cert_chain(self.path)
        return context


def trust(ca_der: bytes) -> ssl.SSLContext:
    """A client context that trusts this CA alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=ca_der)
    return context


def save(folder: Path, node: str, key: ec.EllipticCurvePrivateKey, der: bytes) -> Certificate:
    path = folder / f"{node}-{next(_numbers)}.pem"
    pem = x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
        + pem
    )
    return Certificate(path)


async def fetch_ca(cloud: CloudCore) -> bytes:
    """What an edge downloads before it trusts anybody."""
    blind = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    blind.check_hostname, blind.verify_mode = False, ssl.CERT_NONE
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"{cloud.https}/ca.crt", ssl=blind) as answer,
    ):
        assert answer.status == 200
        return await answer.read()


@dataclass(frozen=True)
class JoinAnswer:
    status: int
    body: bytes
    refusal: str | None


async def ask_certificate(
    cloud: CloudCore,
    node: str,
    csr: bytes,
    *,
    token: str = "",
    certificate: Certificate | None = None,
    **headers: str,
) -> JoinAnswer:
    """GET /edge.crt with a body, as an edge does it."""
    ca = await fetch_ca(cloud)
    context = certificate.context(ca) if certificate else trust(ca)
    headers["NodeName"] = node
    if token:
        headers["Authorization"] = "Bearer " + token.partition(".")[2]
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"{cloud.https}/edge.crt", data=csr, headers=headers, ssl=context) as answer,
    ):
        body = await answer.read()
        return JoinAnswer(answer.status, body, answer.headers.get("twinspan-refusal"))


async def join(cloud: CloudCore, name: str, **options: Any) -> Certificate:
    """Join a node with a fresh token, made with `options`, and keep its certificate."""
    key, csr = a_request(name)
    answer = await ask_certificate(cloud, name, csr, token=await cloud.token(**options))
    assert answer.status == 200, answer.body
    return save(cloud.data_dir, name, key, answer.body)


async def make_ready_node(cloud: CloudCore, name: str) -> None:
    """Store a Node that is Ready, as if an edge had registered it."""
    node = a_node(name)
    await cloud.kube.create("v1", "nodes", None, node)
    patch: JsonObject = {"status": node["status"]}
    await cloud.kube.patch("v1", "nodes", None, name, patch, subresource="status")


class Edge:
    """One connection of a node: everything that came, and what to send."""

    def __init__(self, node: str, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.node = node
        self.socket = socket
        self.received: list[Envelope] = []
        self.acknowledges = True
        self._news = asyncio.Event()

    async def read_forever(self) -> None:
        async for message in self.socket:
            if message.type is not aiohttp.WSMsgType.TEXT:
                break
            envelope = decode(message.data)
            self.received.append(envelope)
            self._news.set()
            if self.acknowledges and isinstance(read_to_edge(envelope), ObjectChanged):
                await self.send(to_cloud.acknowledge(envelope, a_stamp()))
        self._news.set()

    async def send(self, envelope: Envelope) -> None:
        await self.socket.send_str(encode(envelope).decode())

    async def wait_for(self, wanted: Callable[[Envelope], bool]) -> Envelope:
        """Return the first message, past or future, that is wanted."""
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                for envelope in self.received:
                    if wanted(envelope):
                        return envelope
                self._news.clear()
                await self._news.wait()

    async def ask(self, envelope: Envelope) -> Envelope:
        """Send a message and return its answer."""
        await self.send(envelope)
        return await self.wait_for(lambda e: e.parent_id == envelope.msg_id)

    async def ask_object(
        self, subject: Subject, operation: Operation, content: Json = None
    ) -> Envelope:
        return await self.ask(to_cloud.ask(a_stamp(), subject, operation, content))

    async def object(self, resource: str, operation: str | None = None) -> Envelope:
        """Wait for an object message about `resource`."""
        return await self.wait_for(
            lambda e: (
                e.route.resource == resource
                and not e.parent_id
                and operation in (None, e.route.operation)
            )
        )

    def forget(self) -> None:
        self.received.clear()

    async def closed(self) -> int | None:
        """Wait for the end of the connection; return the close code."""

        async def is_closed() -> bool:
            return self.socket.closed

        await eventually(is_closed)
        return self.socket.close_code

    async def register(self, **labels: str) -> Envelope:
        subject = Subject(None, "node", self.node)
        return await self.ask_object(subject, Operation.INSERT, a_node(self.node, **labels))

    async def report(self, device: str, version: int = 1, **values: str | None) -> Envelope:
        """Report values of a Device and return the answer."""
        return await self.ask(a_report(device, version, **values))


def a_report(device: str, version: int = 1, **values: str | None) -> Envelope:
    twins: dict[str, Twin | None] = {
        name: None
        if value is None
        else Twin(
            actual=TwinValue(value, ValueMetadata(1_795_377_600_000 + version)),
            actual_version=TwinVersion(0, version),
        )
        for name, value in values.items()
    }
    at = a_stamp()
    return to_cloud.report_twin(
        at, DeviceKey("default", device), TwinUpdate(at.msg_id, at.millis, twins)
    )


@asynccontextmanager
async def an_edge(
    cloud: CloudCore,
    node: str,
    certificate: Certificate,
    *,
    node_id: str | None = None,
    store: str = "",
) -> AsyncIterator[Edge]:
    """Connect a node to CloudHub; `store` names the edge's store as Twinspan's edges do."""
    context = certificate.context(await fetch_ca(cloud))
    headers = {NODE_ID: node_id or node, PROJECT_ID: "test", "ConnectionUse": "msg"}
    if store:
        headers[EDGE] = store
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(
            f"{cloud.wss}/test/{node}/events",
            headers=headers,
            ssl=context,
            max_msg_size=0,
            compress=0,
        ) as socket,
    ):
        edge = Edge(node, socket)
        reader = asyncio.create_task(edge.read_forever())
        await edge.send(to_cloud.keepalive(a_stamp()))
        try:
            yield edge
        finally:
            await socket.close()
            await reader


def content_of(envelope: Envelope) -> Any:
    """The content of an envelope, parsed."""
    return json.loads(bytes(envelope.content))


__all__ = ["a_device", "a_model", "a_node", "a_request"]
