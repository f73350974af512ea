"""Services at the edge and REST targets of the cloud: curl, a real CloudCore, a real EdgeCore."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gateway.config.cloud_services import Router
from gateway.config.edge_services import ServiceBus
from gateway.model.json import JsonObject
from gateway.runtime.listener import Endpoints
from gateway.runtime.small_service import Request, Response, serve_requests
from gateway.wire.cloudedge.routing import ServiceBusTarget, allow_target, upload_from_service
from tests.cloud_rig import FREE, CloudCore, a_cloud, a_stamp, an_edge, content_of, eventually, join
from tests.integration.edge_node import Node, a_node
from tests.integration.edge_support import until
from tests.integration.test_cloud_router import RULES, Rig, curl, pytestmark
from tests.integration.test_edge_real_cloud import join_cloud

__all__ = ["pytestmark"]

ON = Router(enabled=True, bind=FREE)
OPEN = ServiceBus(enabled=True, bind=FREE)
TARGET = "http://shop.example/orders"


@dataclass
class Shop:
    """A REST target of the cloud that answers what it is told."""

    endpoints: Endpoints = field(default_factory=Endpoints)
    got: list[Request] = field(default_factory=list)
    status: int = 200
    answer: bytes = b"taken"
    waits: bool = False

    async def respond(self, request: Request) -> Response:
        self.got.append(request)
        if self.waits:
            await asyncio.get_running_loop().create_future()
        return Response(self.status, {}, self.answer)

    @property
    def url(self) -> str:
        return f"http://{self.endpoints.get('shop')}/in?x=1"


@asynccontextmanager
async def a_shop() -> AsyncIterator[Shop]:
    shop = Shop()
    async with serve_requests(
        shop.endpoints, "shop", FREE, shop.respond, max_body=9_000_000, setting="shop"
    ):
        yield shop


@asynccontextmanager
async def a_street(tmp_path: Path, router: Router = ON) -> AsyncIterator[tuple[Rig, Shop]]:
    """A cloud with a rule for what `edge-1` sends to the target, and that node."""
    async with a_shop() as shop, a_cloud(tmp_path / "cloud", router=router) as cloud:
        await join_cloud(cloud, tmp_path / "edge")
        async with a_node(tmp_path / "edge", drivers={}, servicebus=OPEN) as node:
            rig = Rig(cloud, node)
            await rule(cloud, shop.url)
            await until(lambda: node.core.targets.allows(TARGET))
            yield rig, shop


async def rule(cloud: CloudCore, url: str, name: str = "up") -> None:
    for kind in ("rest", "servicebus"):
        spec: dict[str, Any] = {"ruleEndpointType": kind}
        if kind == "servicebus":
            spec["properties"] = {"service_port": "1"}
        await apply(cloud, "RuleEndpoint", f"{name}-{kind}", spec)
    await apply(
        cloud,
        "Rule",
        name,
        {
            "source": f"{name}-servicebus",
            "sourceResource": {"target_url": TARGET, "node_name": "edge-1"},
            "target": f"{name}-rest",
            "targetResource": {"resource": url},
        },
    )


async def apply(cloud: CloudCore, kind: str, name: str, spec: dict[str, Any]) -> None:
    metadata: JsonObject = {"name": name, "namespace": "default"}
    body: JsonObject = {"apiVersion": RULES, "kind": kind, "metadata": metadata, "spec": spec}
    await cloud.kube.create(RULES, f"{kind.lower()}s", "default", body)


async def ask(node: Node, target: str = TARGET, payload: Any = 1) -> tuple[int, dict[str, Any]]:
    """Ask ServiceBus with curl: status, and the JSON answer."""
    body = json.dumps({"method": "POST", "targetURL": target, "payload": payload})
    status, text = await curl(f"http://{node.endpoints.get('edge.servicebus')}/", "-d", body)
    return status, json.loads(text)


async def test_a_curl_at_the_edge_is_a_request_of_the_cloud_and_gets_its_answer(
    tmp_path: Path,
) -> None:
    async with a_street(tmp_path) as (rig, shop):
        shop.answer = b'{"order": 7, "text": "\xc3\xa4"}'
        status, answer = await ask(rig.node, payload={"item": "lamp", "count": [1, 2.5]})
        assert (status, answer["code"]) == (200, 200)
        assert answer["body"] == '{"order": 7, "text": "ä"}'
        (got,) = shop.got
        assert (got.method, got.path, got.query) == ("POST", "/in", "x=1")
        assert json.loads(got.body) == {"item": "lamp", "count": [1, 2.5]}
        assert got.headers["content-type"] == "application/json"


async def test_a_trace_goes_through_to_the_target(tmp_path: Path) -> None:
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    async with a_street(tmp_path) as (rig, shop):
        url = f"http://{rig.node.endpoints.get('edge.servicebus')}/"
        body = json.dumps({"targetURL": TARGET})
        assert (await curl(url, "-d", body, "-H", f"traceparent: {trace}"))[0] == 200
        assert shop.got[0].headers["traceparent"] == trace


async def test_the_target_s_status_is_passed_on_once_and_counted(tmp_path: Path) -> None:
    async with a_street(tmp_path) as (rig, shop):
        for shop.status in (201, 404, 500):
            status, answer = await ask(rig.node)
            assert answer["code"] == shop.status
            assert status == (200 if shop.status == 201 else shop.status)
            assert answer["body"] == "taken"
        assert len(shop.got) == 3

        async def is_counted() -> bool:
            status = await rig.status("up")
            return status.get("successMessages") == 1 and status.get("failMessages") == 2

        await eventually(is_counted, "the status")
        assert (await rig.status("up"))["errors"] == [
            "the target answered 404",
            "the target answered 500",
        ]


async def test_only_what_a_rule_takes_may_be_sent(tmp_path: Path) -> None:
    async with a_street(tmp_path) as (rig, shop):
        status, answer = await ask(rig.node, "http://shop.example/other")
        assert (status, answer["code"]) == (403, 403)
        await rig.cloud.kube.delete(RULES, "rules", "default", "up")
        await until(lambda: not rig.node.core.targets.allows(TARGET))
        assert (await ask(rig.node))[0] == 403
        assert shop.got == []


async def test_a_target_that_is_away_is_a_bad_gateway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud.servicerequests.PAUSE_SECONDS", 0.01)
    async with a_shop() as shop:
        url = shop.url
    async with a_cloud(tmp_path / "cloud", router=ON) as cloud:
        await join_cloud(cloud, tmp_path / "edge")
        async with a_node(tmp_path / "edge", drivers={}, servicebus=OPEN) as node:
            await rule(cloud, url)
            await until(lambda: node.core.targets.allows(TARGET))
            status, answer = await ask(node)
            assert (status, "3 tries" in answer["msg"]) == (502, True)


async def test_a_target_that_does_not_answer_is_a_timeout_asked_once(tmp_path: Path) -> None:
    router = Router(enabled=True, bind=FREE, timeout=0.3)
    async with a_street(tmp_path, router) as (rig, shop):
        shop.waits = True
        assert (await ask(rig.node))[0] == 504
        assert len(shop.got) == 1


async def test_an_answer_that_is_too_long_is_a_bad_gateway(tmp_path: Path) -> None:
    async with a_street(tmp_path) as (rig, shop):
        shop.answer = b"x" * 1_048_577
        assert (await ask(rig.node))[0] == 502
        shop.answer = b"x" * 1_048_576
        status, answer = await ask(rig.node)
        assert (status, len(answer["body"])) == (200, 1_048_576)


async def test_what_is_no_request_is_refused(tmp_path: Path) -> None:
    async with a_street(tmp_path) as (rig, shop):
        url = f"http://{rig.node.endpoints.get('edge.servicebus')}/"
        for body in ("", "[]", '{"targetURL": 1}', f'{{"method": "GET", "targetURL": "{TARGET}"}}'):
            status, text = await curl(url, "-X", "POST", "-d", body)
            assert (status, json.loads(text)["code"]) == (400, 400)
        big = tmp_path / "big"
        big.write_text(json.dumps({"targetURL": TARGET, "payload": "x" * 5_242_880}))
        assert (await curl(url, "--data-binary", f"@{big}"))[0] == 413
        big.write_text(json.dumps({"targetURL": TARGET, "payload": "x" * 5_000_000}))
        assert (await curl(url, "--data-binary", f"@{big}"))[0] == 200
        assert len(shop.got[0].body) == 5_000_002


async def test_without_a_link_it_is_unavailable_at_once_also_after_a_restart(
    tmp_path: Path,
) -> None:
    async with a_street(tmp_path) as (rig, _):
        pass
    for _ in range(2):
        async with a_node(tmp_path / "edge", drivers={}, servicebus=OPEN) as node:
            status, answer = await ask(node)
            assert (status, answer["msg"]) == (503, "not connected")
            assert (await ask(node, "http://shop.example/other"))[0] == 403
    assert rig.node is not node


async def test_a_link_that_ends_meanwhile_ends_the_wait(tmp_path: Path) -> None:
    async with a_street(tmp_path) as (rig, shop):
        shop.waits = True
        asking = asyncio.create_task(ask(rig.node))
        await until(lambda: bool(shop.got))
        rig.node.core.hub.reconnect()
        assert (await asking)[0] == 502


async def test_a_node_learns_at_its_connection_what_changed_while_it_was_away(
    tmp_path: Path,
) -> None:
    async with a_street(tmp_path) as (rig, shop):
        url = shop.url
    async with a_cloud(tmp_path / "cloud", router=ON) as cloud:
        await cloud.kube.delete(RULES, "rules", "default", "up")
        await rule(cloud, url, "next")
        await cloud.kube.delete(RULES, "rules", "default", "next")
        async with a_node(
            tmp_path / "edge",
            drivers={},
            servicebus=OPEN,
            server=f"localhost:{cloud.process.endpoints.port('cloudhub.wss')}",
        ) as node:
            await until(lambda: node.core.hub.is_connected)
            assert node.core.targets.allows(TARGET)
            status, answer = await ask(node)  # the edge learns now that its list is old
            assert (status, "no rule" in answer["msg"]) == (403, True)
            await until(lambda: not node.core.targets.allows(TARGET))
    assert rig.node is not node


async def test_a_cloud_without_a_router_says_so(tmp_path: Path) -> None:
    async with a_cloud(tmp_path / "cloud") as cloud:
        await join_cloud(cloud, tmp_path / "edge")
        async with a_node(tmp_path / "edge", drivers={}, servicebus=OPEN) as node:
            await until(lambda: node.core.hub.is_connected)
            command = allow_target(a_stamp(), TARGET, is_allowed=True)
            node.core.targets.on_target(command, ServiceBusTarget(TARGET, is_allowed=True))
            assert (await ask(node))[0] == 501


@pytest.mark.parametrize("is_ours", [True, False])
async def test_kubeedge_s_edges_get_the_text_and_ours_the_status(
    tmp_path: Path, is_ours: bool
) -> None:
    async with a_shop() as shop, a_cloud(tmp_path, router=ON) as cloud:
        await rule(cloud, shop.url)
        certificate = await join(cloud, "edge-1")
        async with an_edge(cloud, "edge-1", certificate, store="s" if is_ours else "") as edge:
            started = await edge.object(TARGET, "start")
            assert (started.route.source, started.route.group) == ("router_servicebus", "user")
            shop.status, shop.answer = 404, b"none"
            answer = await edge.ask(upload_from_service(a_stamp(), TARGET, b'{"a":1}'))
            assert answer.route.operation == "response"
            assert answer.route.resource == TARGET
            status = {"status_code": 404, "header": None, "body": "bm9uZQ=="}
            assert content_of(answer) == (status if is_ours else "none")
            assert shop.got[0].body == b'{"a":1}'
