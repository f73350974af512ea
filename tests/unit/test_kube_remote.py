"""What the client of a far API server makes of odd names and odd answers."""

from __future__ import annotations

import ssl

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from gateway.errors import BadRequest, Gone, Undeliverable
from gateway.kube.client import EventType
from gateway.kube.credentials import Access
from gateway.kube.remote import Connection, RemoteClient, _event, _path


@pytest.mark.parametrize("name", ["..", ".", "a/b", "../secrets/casecret"])
def test_a_name_that_leads_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(BadRequest):
        _path("v1", "configmaps", "default", name)
    with pytest.raises(BadRequest):
        _path("v1", "configmaps", name, "x")


@pytest.mark.parametrize("group_version", ["v1/secrets/x", "../api/v1", "a/b/v1"])
def test_a_version_that_leads_elsewhere_is_refused(group_version: str) -> None:
    with pytest.raises(BadRequest):
        _path(group_version, "services", None)


def test_a_version_stays_one_part_of_the_path() -> None:
    assert _path("v1%2Fsecrets?x=", "services", None) == "/api/v1%252Fsecrets%3Fx%3D/services"


def test_names_stay_one_part_of_the_path() -> None:
    assert _path("v1", "pods", "n", "a?dryRun=All#x%2e", "status") == (
        "/api/v1/namespaces/n/pods/a%3FdryRun%3DAll%23x%252e/status"
    )
    assert _path("apps/v1", "deployments", None) == "/apis/apps/v1/deployments"


@pytest.mark.parametrize(
    "line",
    [
        b'{"type":"ADDED","obj',
        b"[]",
        b'{"type":"NEW","object":{"metadata":{}}}',
        b"1\n",
        b'{"type":"ERROR","object":"gone"}',
        b'{"type":"ERROR","object":{"code":"many"}}',
        b"[" * 100_000,
    ],
)
def test_half_a_line_is_a_broken_connection(line: bytes) -> None:
    with pytest.raises(Undeliverable):
        _event(line)


def test_events_and_errors_of_a_watch_are_told_apart() -> None:
    event = _event(b'{"type":"ADDED","object":{"metadata":{"resourceVersion":"7"}}}\n')
    assert (event.type, event.resource_version) == (EventType.ADDED, "7")
    with pytest.raises(Gone):
        _event(b'{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired"}}')


@pytest.mark.parametrize(
    "body",
    [
        "<html>log in</html>",
        "[]",
        '{"items":[]}',
        '{"metadata":{},"items":{"a":1}}',
        '{"metadata":{},"items":[1]}',
        "[" * 100_000,
    ],
)
async def test_a_list_that_is_none_is_a_server_that_cannot_answer_now(body: str) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=body, content_type="application/json")

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    async with TestServer(app) as server:
        address = str(server.make_url("")).rstrip("/")
        connection = Connection(Access(address, ssl.create_default_context(), {}))
        async with connection.opened():
            with pytest.raises(Undeliverable):
                await RemoteClient(connection, "tester").list("v1", "pods")


async def test_a_log_that_is_cut_says_so() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"one\n")
        assert request.transport is not None
        request.transport.abort()
        return response

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    async with TestServer(app) as server:
        address = str(server.make_url("")).rstrip("/")
        connection = Connection(Access(address, ssl.create_default_context(), {}))
        async with connection.opened():
            client = RemoteClient(connection, "tester")
            async with client.pod_log("default", "web", {}) as pieces:
                assert await anext(pieces) == b"one\n"
                with pytest.raises(Undeliverable, match="cut"):
                    await anext(pieces)
