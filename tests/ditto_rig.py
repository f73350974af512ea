"""A running Ditto server for tests: real things service on SQLite, real sockets, clients."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web

from gateway.config.ditto import Creation, DittoHttp, DittoWebSocket, NamespaceRule, Policies
from gateway.config.schema import plain
from gateway.config.wot import Wot
from gateway.ditto.auth import Authentication
from gateway.ditto.creation_rules import CreationRules
from gateway.ditto.endpoint import Endpoints
from gateway.ditto.fanout import Fanout
from gateway.ditto.http import DittoServer, fallback, routes
from gateway.ditto.namespace_access import AccessRules
from gateway.ditto.passwords import PasswordChecks, hash_password
from gateway.ditto.service import PoliciesService, ThingsService
from gateway.ditto.sse import EventStreams
from gateway.ditto.subject_expiry import SubjectExpiry
from gateway.ditto.tokens import Tokens
from gateway.ditto.upkeep import Upkeep
from gateway.ditto.websocket import WebSockets
from gateway.ditto.wot import WotHook
from gateway.ditto.wot_addresses import AddressRules
from gateway.ditto.wot_config_http import routes as wot_config_routes
from gateway.ditto.wot_config_service import WotConfig
from gateway.ditto.wot_config_store import WotConfigStore
from gateway.ditto.wot_fetch import Fetcher
from gateway.ditto.wot_http import Descriptions
from gateway.ditto.wot_judge import WotJudge
from gateway.ditto.wot_models import ThingModels
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracer
from gateway.runtime.listener import Endpoints as Bound
from gateway.runtime.module import running
from gateway.store.database import Database
from gateway.store.things_sqlite import SqliteThingStore
from tests.hono_rig import basic

FREE = "127.0.0.1:0"
PUMP = "org.acme:pump-1"
USERS = {"ditto": "ditto", "alice": "wonder", "devops": "foobar", "status": "status"}
_HASHED = {name: hash_password(word, cost=4) for name, word in USERS.items()}


@dataclass
class Stack:
    """What every part stands on."""

    things: ThingsService
    policies: PoliciesService
    database: Database
    metrics: Metrics
    endpoints: Endpoints
    auth: Authentication
    fanout: Fanout
    models: ThingModels
    wot_config: WotConfig
    wot: Wot = field(default_factory=Wot)
    bound: Bound = field(default_factory=Bound)

    @property
    def address(self) -> str:
        return self.bound.get("ditto.http")

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def api(self) -> str:
        return f"{self.url}/api/2"

    def sample(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def a_ditto(
    http: DittoHttp | None = None,
    websocket: DittoWebSocket | None = None,
    extra: list[web.RouteDef] | None = None,
    policies: Policies | None = None,
    creation: Creation | None = None,
    database: Database | None = None,
    wot: Wot | None = None,
    access: Sequence[NamespaceRule] = (),
    **settings: Any,
) -> AsyncIterator[Stack]:
    """A server, on an empty store unless it is given one."""
    http = http or DittoHttp(bind=FREE, **settings)
    made = a_service(http, policies, creation, database, wot, access)
    async with made as stack, serving(stack, http, websocket, extra or []):
        yield stack


@asynccontextmanager
async def a_service(
    http: DittoHttp,
    policy_settings: Policies | None = None,
    creation: Creation | None = None,
    database: Database | None = None,
    wot: Wot | None = None,
    access: Sequence[NamespaceRule] = (),
) -> AsyncIterator[Stack]:
    """The services without a server."""
    wot = wot or Wot()
    database = database or Database(None, "gateway")
    metrics, tracer = Metrics(), Tracer()
    store = SqliteThingStore(database, (policy_settings or Policies()).namespace_roots)
    creating = CreationRules(creation or Creation())
    policies = PoliciesService(store, settings=policy_settings, rules=creating)
    rules = AddressRules.of(wot.allowed_addresses)
    models = ThingModels(wot.models, Fetcher(wot.models, rules, metrics, tracer), metrics)
    wot_config = WotConfig(WotConfigStore(database), wot.validation)
    hook = WotHook(models, wot.skeleton, WotJudge(wot_config, metrics))
    things = ThingsService(store, policies, metrics=metrics, tracer=tracer, wot=hook)
    auth = Authentication(
        _HASHED,
        PasswordChecks(),
        Tokens(http.openid),
        pre_authentication=http.pre_authentication,
    )
    endpoints = Endpoints(auth, http, metrics, tracer, AccessRules(access))
    fanout = Fanout(things)
    async with (
        database.running(),
        running(Upkeep(store)),
        running(models),
        running(wot_config),
        running(things),
        running(SubjectExpiry(policies)),
    ):
        yield Stack(
            things, policies, database, metrics, endpoints, auth, fanout, models, wot_config, wot
        )


@asynccontextmanager
async def serving(
    stack: Stack,
    http: DittoHttp,
    websocket: DittoWebSocket | None,
    extra: list[web.RouteDef],
) -> AsyncIterator[None]:
    """The server on top of the services."""
    settings = websocket or DittoWebSocket()
    streams = EventStreams(stack.things, stack.fanout, stack.endpoints, settings, stack.metrics)
    sockets = WebSockets(
        stack.things,
        stack.policies,
        stack.fanout,
        stack.auth,
        settings,
        stack.metrics,
        http.max_body,
    )
    descriptions = Descriptions(stack.things, stack.models, stack.wot.description)
    table = [
        *routes(
            stack.endpoints,
            stack.things,
            stack.policies,
            streams,
            sockets,
            descriptions,
            {"ditto": {"http": plain(http)}},
        ),
        *wot_config_routes(stack.endpoints, stack.wot_config),
        *extra,
        *fallback(stack.endpoints),
    ]
    server = DittoServer(http, stack.bound, table, stack.auth, sockets, streams)
    async with running(server):
        yield


@dataclass
class Answer:
    """What curl got."""

    status: int
    headers: dict[str, str]
    body: str

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The code of Ditto's error form."""
        assert self.json["status"] == self.status
        assert self.json["message"]
        return str(self.json["error"])


async def curl(*args: str, user: str = "ditto:ditto", stdin: bytes | None = None) -> Answer:
    """Run the real curl; `user` empty asks without credentials."""
    credentials = ["-u", user] if user else []
    process = await asyncio.create_subprocess_exec(
        "curl",
        "-sS",
        "-i",
        "-m",
        "20",
        *credentials,
        *args,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate(stdin)
    head, _, body = out.partition(b"\r\n\r\n")
    while head.startswith(b"HTTP/1.1 100"):
        head, _, body = body.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {n.lower(): v for n, _, v in (line.partition(": ") for line in lines)}
    return Answer(int(status.split()[1]), headers, body.decode())


def json_body(value: Any, media_type: str = "application/json") -> list[str]:
    """curl's arguments for a JSON body."""
    return ["-H", f"Content-Type: {media_type}", "--data-binary", json.dumps(value)]


async def put(url: str, value: Any, *more: str, user: str = "ditto:ditto") -> Answer:
    return await curl("-X", "PUT", url, *json_body(value), *more, user=user)


class WsClient:
    """A WebSocket client that speaks Ditto Protocol."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self._count = 0

    async def text(self) -> str:
        message = await self.socket.receive(timeout=10)
        assert message.type is aiohttp.WSMsgType.TEXT, message
        return str(message.data)

    async def envelope(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(await self.text())
        return found

    async def control(self, message: str) -> None:
        """Send a control message and wait for its acknowledgement."""
        await self.socket.send_str(message)
        assert await self.text() == f"{message.partition('?')[0]}:ACK"

    async def ask(self, topic: str, path: str, value: Any = ..., **members: Any) -> dict[str, Any]:
        """Send an envelope; returns the answer with its correlation id."""
        self._count += 1
        headers = {"correlation-id": f"c{self._count}", **members.pop("headers", {})}
        envelope = {"topic": topic, "path": path, "headers": headers, **members}
        if value is not ...:
            envelope["value"] = value
        await self.socket.send_str(json.dumps(envelope))
        answer = await self.envelope()
        assert answer["headers"].get("correlation-id") == headers["correlation-id"], answer
        return answer


@asynccontextmanager
async def a_websocket(
    stack: Stack, user: str = "ditto", query: str = ""
) -> AsyncIterator[WsClient]:
    """A connected client."""
    headers = basic(user, USERS[user]) if user else {}
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{stack.url}/ws/2{query}", headers=headers) as socket,
    ):
        yield WsClient(socket)


@asynccontextmanager
async def an_event_stream(url: str, user: str = "ditto:ditto") -> AsyncIterator[EventReader]:
    """`curl -N` on an event stream; it is open when the block begins."""
    process = await asyncio.create_subprocess_exec(
        "curl",
        "-sS",
        "-N",
        "-u",
        user,
        "-H",
        "Accept: text/event-stream",
        url,
        stdout=asyncio.subprocess.PIPE,
        limit=1_048_576,
    )
    assert process.stdout is not None
    reader = EventReader(process.stdout)
    try:
        assert await reader.line() == ":"
        yield reader
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


class EventReader:
    """Reads server-sent events from curl's output."""

    def __init__(self, stream: asyncio.StreamReader) -> None:
        self._stream = stream

    async def line(self) -> str:
        async with asyncio.timeout(10):
            return (await self._stream.readline()).decode().rstrip("\n")

    async def event(self) -> tuple[str, str]:
        """The next event's name and data; heartbeats are skipped."""
        name, data = "", []
        while True:
            line = await self.line()
            if line.startswith("event:"):
                name = line.removeprefix("event:").strip()
            elif line.startswith("data:"):
                data.append(line.removeprefix("data:"))
            elif not line and data:
                return name, "\n".join(data)

    async def json(self) -> Any:
        return json.loads((await self.event())[1])
