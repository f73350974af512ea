"""Rules between REST, the edge's MQTT and its services: curl, mosquitto, a real CloudCore and EdgeCore."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from gateway.config.cloud_services import Router
from gateway.config.edge_services import ServiceBus
from gateway.ditto.auth import write_users
from gateway.errors import InvalidSetting
from gateway.model.json import JsonObject
from gateway.runtime.small_service import Request, Response, serve_requests
from tests.cloud_rig import FREE, CloudCore, a_cloud, eventually
from tests.integration.edge_node import Node, a_node
from tests.integration.edge_support import until
from tests.integration.test_edge_real_cloud import a_joined_node, join_cloud

RULES = "rules.kubeedge.io/v1"
ON = Router(enabled=True, bind=FREE)

pytestmark = pytest.mark.skipif(
    not all(shutil.which(name) for name in ("curl", "mosquitto_sub", "mosquitto_pub")),
    reason="curl and mosquitto-clients are not installed; scripts/debian-packages.sh installs them",
)


@dataclass
class Rig:
    cloud: CloudCore
    node: Node

    def url(self, path: str) -> str:
        return f"http://{self.cloud.process.endpoints.get('router.http')}{path}"

    async def apply(self, kind: str, name: str, spec: JsonObject) -> None:
        body: JsonObject = {
            "apiVersion": RULES,
            "kind": kind,
            "metadata": {"name": name, "namespace": "default"},
            "spec": spec,
        }
        await self.cloud.kube.create(RULES, f"{kind.lower()}s", "default", body)

    async def ends(self, *types: str) -> None:
        for each in types:
            await self.apply("RuleEndpoint", f"my-{each}", {"ruleEndpointType": each})

    async def to_bus(self, name: str, path: str, topic: str) -> None:
        spec: JsonObject = {
            "source": "my-rest",
            "sourceResource": {"path": path},
            "target": "my-eventbus",
            "targetResource": {"topic": topic},
        }
        await self.apply("Rule", name, spec)

    async def to_rest(self, name: str, topic: str, url: str) -> None:
        spec: JsonObject = {
            "source": "my-eventbus",
            "sourceResource": {"topic": topic, "node_name": "edge-1"},
            "target": "my-rest",
            "targetResource": {"resource": url},
        }
        await self.apply("Rule", name, spec)

    def mqtt(self) -> list[str]:
        host, _, port = self.node.endpoints.get("edge.mqtt").rpartition(":")
        return ["-h", host, "-p", port]

    async def status(self, name: str) -> dict[str, Any]:
        rule = await self.cloud.object(RULES, "rules", "default", name)
        return dict(rule.get("status", {}))


@asynccontextmanager
async def a_rig(
    tmp_path: Path, router: Router = ON, servicebus: ServiceBus | None = None
) -> AsyncIterator[Rig]:
    async with a_cloud(tmp_path / "cloud", router=router) as cloud:
        await join_cloud(cloud, tmp_path / "edge")
        async with a_node(tmp_path / "edge", drivers={}, servicebus=servicebus) as node:
            await until(lambda: node.core.hub.is_connected and node.core.node.is_registered)
            yield Rig(cloud, node)


async def run(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(15):
        out, _ = await process.communicate()
    return out.decode()


async def curl(url: str, *options: str) -> tuple[int, str]:
    out = await run("curl", "-s", "-w", "\n%{http_code}", *options, url)
    body, _, status = out.rpartition("\n")
    return int(status), body


async def delivered(url: str, *options: str) -> None:
    """Ask until the rule is known."""

    async def asked() -> bool:
        return await curl(url, *options) == (200, "message delivered")

    await eventually(asked, "a delivery")


async def test_a_curl_at_the_cloud_is_a_publish_at_the_edge(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        await rig.ends("rest", "eventbus")
        await rig.to_bus("down", "/shop", "orders")
        await delivered(rig.url("/edge-1/default/shop"), "-d", "first")
        listening = asyncio.create_task(
            run("mosquitto_sub", *rig.mqtt(), "-t", "orders/a/#", "-C", "1", "-W", "10", "-v")
        )

        async def heard() -> bool:
            await delivered(rig.url("/edge-1/default/shop/a/b"), "-X", "PUT", "-d", "hello body")
            await asyncio.sleep(0.05)
            return listening.done()

        await eventually(heard, "mosquitto_sub")
        assert await listening == "orders/a/b hello body\n"

        async def counted() -> bool:
            return bool((await rig.status("down")).get("successMessages", 0) >= 2)

        await eventually(counted, "the status")


async def test_the_longest_path_of_the_namespace_wins(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        await rig.ends("rest", "eventbus")
        await rig.to_bus("short", "/a", "short")
        await rig.to_bus("long", "a/b/", "long")
        await delivered(rig.url("/edge-1/default/a/b"), "-d", "x")
        await until(lambda: ("long", b"x") in rig.node.told)
        await delivered(rig.url("/edge-1/default/a/c"), "-d", "y")
        await until(lambda: ("short/c", b"y") in rig.node.told)


async def test_what_cannot_be_delivered_says_why(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        await rig.ends("rest", "eventbus")
        await rig.to_bus("down", "/shop", "orders")
        await delivered(rig.url("/edge-1/default/shop"), "-d", "first")
        assert (await curl(rig.url("/edge-1/default/other"), "-d", "x"))[0] == 404
        assert (await curl(rig.url("/edge-1/elsewhere/shop"), "-d", "x"))[0] == 404
        assert (await curl(rig.url("/nobody/default/shop"), "-d", "x"))[0] == 404
        assert (await curl(rig.url("/edge-1/default"), "-d", "x"))[0] == 400
        assert (await curl(rig.url("/edge-1/default/shop/%2B"), "-d", "x"))[0] == 400
        binary = tmp_path / "binary"
        binary.write_bytes(b"\xff\xfe")
        data = ("--data-binary", f"@{binary}")
        assert (await curl(rig.url("/edge-1/default/shop"), *data))[0] == 400
        binary.write_bytes(b"x" * 8_400_000)
        assert (await curl(rig.url("/edge-1/default/shop"), *data))[0] == 413
        binary.write_bytes(b"x" * 12_600_000)
        assert (await curl(rig.url("/edge-1/default/shop"), *data))[0] == 413


async def test_a_node_that_is_away_is_a_failure_at_once(tmp_path: Path) -> None:
    async with a_cloud(tmp_path / "cloud", router=ON) as cloud:
        async with a_joined_node(cloud, tmp_path / "edge") as node:
            rig = Rig(cloud, node)
            await rig.ends("rest", "eventbus")
            await rig.to_bus("down", "/shop", "orders")
            await delivered(rig.url("/edge-1/default/shop"), "-d", "first")

        async def failed() -> bool:
            status, text = await curl(rig.url("/edge-1/default/shop"), "-d", "x")
            return status == 500 and text.startswith("All attempts fail: #1: ")

        await eventually(failed, "a failure")

        async def told() -> bool:
            return bool((await rig.status("down")).get("errors"))

        await eventually(told, "the status")


async def test_callers_need_a_password_or_the_token_where_there_are_some(tmp_path: Path) -> None:
    users, token = tmp_path / "users", tmp_path / "token"
    write_users(users, {"shop": "secret"})
    token.write_text("0123456789abcdef\n")
    settings = Router(enabled=True, bind=FREE, users_file=str(users), token_file=str(token))
    async with a_rig(tmp_path, settings) as rig:
        await rig.ends("rest", "eventbus")
        await rig.to_bus("down", "/shop", "orders")
        url = rig.url("/edge-1/default/shop")
        assert (await curl(url, "-d", "x"))[0] == 401
        assert (await curl(url, "-d", "x", "-u", "shop:wrong"))[0] == 401
        assert (await curl(url, "-d", "x", "-u", "nobody:secret"))[0] == 401
        assert (await curl(url, "-d", "x", "-H", "Authorization: Bearer wrong"))[0] == 401
        await delivered(url, "-d", "x", "-u", "shop:secret")
        await delivered(url, "-d", "x", "-H", "Authorization: Bearer 0123456789abcdef")


async def test_nothing_listens_for_other_machines_without_a_password(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="users_file"):
        async with a_cloud(tmp_path, router=Router(enabled=True, bind="0.0.0.0:0")):
            pass


async def test_a_rule_that_cannot_work_is_told(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        await rig.ends("rest", "eventbus")
        await rig.to_bus("wild", "/shop", "orders/#")

        async def told() -> bool:
            events = await rig.cloud.kube.list("v1", "events", "default")
            return any(event.get("reason") == "InvalidRule" for event in events.items)

        await eventually(told, "an event")


# --- from the edge ---------------------------------------------------------------------------------


@dataclass
class Shop:
    """A target of rules; `answers` are its next statuses, then 200."""

    endpoints: Any
    answers: list[int] = field(default_factory=list)
    got: list[tuple[str, str, bytes]] = field(default_factory=list)
    traces: list[str] = field(default_factory=list)

    async def respond(self, request: Request) -> Response:
        self.got.append((request.method, request.path, request.body))
        self.traces.append(request.headers.get("traceparent", ""))
        return Response(self.answers.pop(0) if self.answers else 200, {}, b"")

    @property
    def url(self) -> str:
        return f"http://{self.endpoints.get('shop')}"


@asynccontextmanager
async def a_shop(rig: Rig) -> AsyncIterator[Shop]:
    shop = Shop(rig.cloud.process.endpoints)
    async with serve_requests(
        shop.endpoints, "shop", FREE, shop.respond, max_body=1_000_000, setting="shop"
    ):
        yield shop


async def publish_until_heard(rig: Rig, shop: Shop, topic: str, text: str) -> None:
    async def heard() -> bool:
        await run("mosquitto_pub", *rig.mqtt(), "-t", topic, "-m", text, "-q", "1")
        return bool(shop.got)

    await eventually(heard, "the target")


async def test_a_publish_at_the_edge_is_a_request_of_the_cloud(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig, a_shop(rig) as shop:
        await rig.ends("rest", "eventbus")
        await rig.to_rest("up", "sales", f"{shop.url}/orders?x=1")
        await publish_until_heard(rig, shop, "default/sales", "from edge")
        assert (shop.got.pop(0), shop.traces[0]) == (("POST", "/orders", b"from edge"), "")
        trace = f"00-{'a' * 32}-{'b' * 16}-01"
        traced = ("-V", "5", "-D", "publish", "user-property", "traceparent", trace)
        await run("mosquitto_pub", *rig.mqtt(), *traced, "-t", "default/sales", "-m", "x")
        await until(lambda: shop.traces[-1] == trace)
        await rig.cloud.kube.delete(RULES, "rules", "default", "up")
        await until(lambda: not rig.node.core.bus._router_topics)


async def test_a_target_that_was_not_ready_is_asked_again_and_one_that_refused_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud.ruleuploads.PAUSE_SECONDS", 0.01)
    async with a_rig(tmp_path) as rig, a_shop(rig) as shop:
        await rig.ends("rest", "eventbus")
        await rig.to_rest("up", "sales", f"{shop.url}/orders")
        shop.answers = [503, 200]
        await until(lambda: "default/sales" in rig.node.core.bus._router_topics)
        await rig.node.publish("default/sales", b"one")
        await until(lambda: len(shop.got) == 2)
        shop.answers = [500]
        await rig.node.publish("default/sales", b"two")

        async def failed() -> bool:
            status = await rig.status("up")
            return status.get("failMessages") == 1 and status.get("successMessages") == 1

        await eventually(failed, "the status")
        assert [body for _, _, body in shop.got] == [b"one", b"one", b"two"]


async def test_a_node_is_asked_again_when_it_comes_back(tmp_path: Path) -> None:
    async with a_cloud(tmp_path / "cloud", router=ON) as cloud:
        async with a_joined_node(cloud, tmp_path / "edge") as node:
            rig = Rig(cloud, node)
        async with a_shop(rig) as shop:
            await rig.ends("rest", "eventbus")
            await rig.to_rest("up", "sales", shop.url)
            async with a_joined_node(cloud, tmp_path / "new", replace=True) as again:
                await until(lambda: "default/sales" in again.core.bus._router_topics)
                await again.publish("default/sales", b"hello")
                await until(lambda: bool(shop.got))


async def test_targets_are_only_where_the_operator_allows(tmp_path: Path) -> None:
    router = Router(enabled=True, bind=FREE, allowed_targets=("http://shop.example/in",))
    async with a_rig(tmp_path, router) as rig:
        await rig.ends("rest", "eventbus")
        for number, url in enumerate(
            ("http://shop.example.org/in", "http://shop.example/inner", "file:///etc/passwd")
        ):
            await rig.to_rest(f"bad-{number}", f"t{number}", url)
        await rig.to_rest("good", "good", "http://shop.example/in/orders")
        await until(lambda: bool(rig.node.core.bus._router_topics))
        assert rig.node.core.bus._router_topics == {"default/good"}


# --- services at the edge --------------------------------------------------------------------------


class Service(BaseHTTPRequestHandler):
    """Answers the status that the path names, with what it was asked."""

    asked: ClassVar[list[tuple[str, str, str, str | None]]] = []

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        self.asked.append((self.command, self.path, body, self.headers.get("Authorization")))
        self.send_response(int(self.path.partition("?")[0].rpartition("/")[2]))
        self.send_header("X-Kind", self.headers.get("X-Kind", "none"))
        self.send_header("Content-Type", "text/x-echo")
        self.end_headers()
        self.wfile.write(f"got {body}".encode())

    do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815  the names of http.server

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Be silent."""


@contextmanager
def a_service() -> Iterator[int]:
    Service.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


async def to_service(rig: Rig, port: int) -> None:
    await rig.ends("rest")
    end: JsonObject = {
        "ruleEndpointType": "servicebus",
        "properties": {"service_port": str(port)},
    }
    await rig.apply("RuleEndpoint", "my-service", end)
    spec: JsonObject = {
        "source": "my-rest",
        "sourceResource": {"path": "/api"},
        "target": "my-service",
        "targetResource": {"path": "/v1/"},
    }
    await rig.apply("Rule", "call", spec)

    async def is_known() -> bool:
        return (await curl(rig.url("/edge-1/default/api/200")))[0] != 404

    await eventually(is_known, "the rule")
    Service.asked.clear()


async def test_a_curl_at_the_cloud_is_a_request_to_a_service_at_the_edge(tmp_path: Path) -> None:
    with a_service() as port:
        async with a_rig(tmp_path, servicebus=ServiceBus(enabled=True)) as rig:
            await to_service(rig, port)
            for status in (200, 201, 404, 500):
                url = rig.url(f"/edge-1/default/api/a%20b/{status}?x=1%2F2")
                got = await curl(url, "-d", "hello", "-H", "X-Kind: k", "-i")
                assert got[0] == status
                assert got[1].endswith("got hello")
                assert "x-kind: k\r\n" in got[1].lower()
                assert "content-type: text/x-echo\r\n" in got[1].lower()
            paths = [f"/v1/a%20b/{status}?x=1%2F2" for status in (200, 201, 404, 500)]
            assert [(m, p, b) for m, p, b, _ in Service.asked] == [
                ("POST", path, "hello") for path in paths
            ]
            assert (await curl(rig.url("/edge-1/default/api/200"), "-X", "DELETE"))[0] == 200
            big = tmp_path / "big"
            big.write_bytes(b"x" * 7_000_000)
            data = ("--data-binary", f"@{big}")
            assert (await curl(rig.url("/edge-1/default/api/200"), *data))[0] == 413
            big.write_bytes(b"x" * 4_000_000)
            status, body = await curl(rig.url("/edge-1/default/api/200"), *data)
            assert (status, len(body)) == (200, 4_000_004)


async def test_without_a_service_at_the_edge_it_is_a_bad_gateway(tmp_path: Path) -> None:
    with a_service() as port:
        pass
    async with a_rig(tmp_path, servicebus=ServiceBus(enabled=True)) as rig:
        await to_service(rig, port)
        status, text = await curl(rig.url("/edge-1/default/api/200"))
        assert (status, str(port) in text) == (502, True)


async def test_a_node_whose_servicebus_is_off_says_so(tmp_path: Path) -> None:
    with a_service() as port:
        async with a_rig(tmp_path) as rig:
            await to_service(rig, port)
            assert (await curl(rig.url("/edge-1/default/api/200")))[0] == 501
            assert Service.asked == []


async def test_a_service_that_does_not_answer_is_asked_once(tmp_path: Path) -> None:
    asked = 0

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        router = Router(enabled=True, bind=FREE, timeout=0.3)
        async with a_rig(tmp_path, router, servicebus=ServiceBus(enabled=True)) as rig:
            await to_service(rig, port)
            before = asked
            assert (await curl(rig.url("/edge-1/default/api/200"), "-d", "x"))[0] == 504
            assert asked == before + 1


async def test_the_log_in_at_the_router_is_not_for_the_service(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("0123456789abcdef")
    router = Router(enabled=True, bind=FREE, token_file=str(token))
    with a_service() as port:
        async with a_rig(tmp_path, router, servicebus=ServiceBus(enabled=True)) as rig:
            await to_service(rig, port)
            header = ("-H", "Authorization: Bearer 0123456789abcdef")

            async def asked() -> bool:
                return (await curl(rig.url("/edge-1/default/api/200"), *header))[0] == 200

            await eventually(asked, "an answer")
            assert [authorization for *_, authorization in Service.asked] == [None]


async def test_who_waits_for_a_node_that_goes_away_is_told_at_once(tmp_path: Path) -> None:
    asked = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if b"/hang" in await reader.readline():
            asked.set()
            await reader.read()
        else:
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server, a_cloud(tmp_path / "cloud", router=ON) as cloud:
        await join_cloud(cloud, tmp_path / "edge")
        settings = ServiceBus(enabled=True)
        async with a_node(tmp_path / "edge", drivers={}, servicebus=settings) as node:
            await until(lambda: node.core.hub.is_connected and node.core.node.is_registered)
            rig = Rig(cloud, node)
            await to_service(rig, server.sockets[0].getsockname()[1])
            waiting = asyncio.create_task(curl(rig.url("/edge-1/default/api/hang")))
            await asked.wait()
        status, text = await waiting
        assert status == 500
        assert "went away" in text
