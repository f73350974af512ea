"""The registry's management API over real sockets, with curl and aiohttp as clients."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from gateway.config.hono import Registry as Settings
from gateway.hono import registry_http
from gateway.hono.registry_http import RegistryHttp, RegistryServer
from gateway.model.registry import Change, RegistryChange, Subject
from gateway.runtime.module import running
from tests.hono_rig import ADMIN, Core, a_core, a_registry_api, basic, curl

JSON = {"Content-Type": "application/json"}
LOGIN = basic(*ADMIN)


class Api:
    """A client that remembers nothing but the URL."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http = http
        self.url = url

    async def __call__(
        self, method: str, path: str, body: object = None, **headers: str
    ) -> tuple[int, Any, dict[str, str]]:
        data = None if body is None else json.dumps(body).encode()
        extra = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self._http.request(
            method, self.url + path, data=data, headers={**(JSON if data else {}), **extra}
        ) as response:
            text = await response.text()
            return (
                response.status,
                json.loads(text) if text else None,
                {name.lower(): value for name, value in response.headers.items()},
            )


@pytest.fixture
async def core() -> AsyncIterator[Core]:
    async with a_core() as core:
        yield core


@pytest.fixture
async def api(core: Core) -> AsyncIterator[Api]:
    async with a_registry_api(core) as url, aiohttp.ClientSession(headers=LOGIN) as http:
        yield Api(http, url)


@pytest.fixture
async def device(api: Api) -> str:
    """A device `/acme/d1` in a fresh tenant."""
    await api("POST", "/tenants/acme")
    await api("POST", "/devices/acme/d1")
    return "/acme/d1"


async def test_curl_makes_tenant_device_and_credentials(api: Api) -> None:
    user = ":".join(ADMIN)
    typed = ("-H", "Content-Type: application/json")
    assert await curl("-u", user, "-X", "POST", f"{api.url}/tenants/acme") == (201, '{"id":"acme"}')
    status, body = await curl(
        "-u", user, *typed, "-d", '{"defaults":{"ttl":5}}', f"{api.url}/devices/acme/d1"
    )
    assert (status, body) == (201, '{"id":"d1"}')
    secrets = '[{"type":"hashed-password","auth-id":"s1","secrets":[{"pwd-plain":"pw"}]}]'
    url = f"{api.url}/credentials/acme/d1"
    status, body = await curl("-u", user, *typed, "-X", "PUT", "-d", secrets, url)
    assert (status, body) == (204, "")
    status, body = await curl("-u", user, url)
    assert status == 200
    assert "pw" not in body.replace("hashed-password", "")


async def test_create_answers_location_etag_and_id(api: Api) -> None:
    status, body, headers = await api("POST", "/tenants/acme")
    assert (status, body) == (201, {"id": "acme"})
    assert headers["location"] == "/v1/tenants/acme"
    assert headers["content-type"] == "application/json; charset=utf-8"
    assert '"' not in headers["etag"]
    _, _, read = await api("GET", "/tenants/acme")
    assert read["etag"] == headers["etag"]


async def test_an_id_is_made_where_none_is_given(api: Api) -> None:
    _, body, headers = await api("POST", "/tenants", {"enabled": False})
    assert headers["location"] == f"/v1/tenants/{body['id']}"
    assert (await api("GET", f"/tenants/{body['id']}"))[1] == {"enabled": False}


async def test_a_new_device_has_empty_credentials_with_a_version(api: Api, device: str) -> None:
    status, body, headers = await api("GET", f"/credentials{device}")
    assert (status, body) == (200, [])
    assert headers["etag"]


async def test_a_device_shows_when_it_was_made_and_changed(api: Api, device: str) -> None:
    _, before, _ = await api("GET", f"/devices{device}")
    assert before["enabled"] is True
    assert set(before["status"]) == {
        "created",
        "auto-provisioned",
        "auto-provisioning-notification-sent",
    }
    await api("PUT", f"/devices{device}", {"via": "gw-1", "status": {"created": "never"}})
    _, after, _ = await api("GET", f"/devices{device}")
    assert after["via"] == ["gw-1"]
    assert after["status"]["created"] == before["status"]["created"]
    assert "updated" in after["status"]


async def test_if_match_is_compared_literally(api: Api, device: str) -> None:
    for path in (f"/devices{device}", "/tenants/acme"):
        body: dict[str, Any] = {}
        _, _, headers = await api("GET", path)
        assert (await api("PUT", path, body, if_match="other"))[0] == 412
        status, _, put = await api("PUT", path, body, if_match=headers["etag"])
        assert status == 204
        assert put["etag"] != headers["etag"]
        assert (await api("DELETE", path, if_match=headers["etag"]))[0] == 412
        assert (await api("DELETE", path, if_match=put["etag"]))[0] == 204
        assert (await api("GET", path))[0] == 404


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/tenants/acme", {}, 409),
        ("POST", "/tenants/other", {"alias": "acme"}, 409),
        ("POST", "/tenants/a b", {}, 400),
        ("POST", "/tenants/x", {"colour": 1}, 400),
        ("POST", "/tenants/x", [], 400),
        ("POST", "/tenants/x", {"adapters": []}, 400),
        ("GET", "/tenants/nobody", None, 404),
        ("PUT", "/tenants/nobody", {}, 404),
        ("PUT", "/tenants/acme", None, 400),
        ("DELETE", "/tenants/nobody", None, 404),
        ("POST", "/devices/nobody/d1", {}, 404),
        ("POST", "/devices/acme/d1", {}, 409),
        ("POST", "/devices/acme/d%3F", {}, 400),
        ("PUT", "/devices/acme/d2", {}, 404),
        ("PUT", "/devices/acme/d1", {"via": ["g"], "memberOf": ["h"]}, 400),
        ("GET", "/devices/acme/d2", None, 404),
        ("DELETE", "/devices/nobody", None, 404),
        ("GET", "/credentials/acme/d2", None, 404),
        ("PUT", "/credentials/acme/d1", {}, 400),
        ("PUT", "/credentials/acme/d1", [{"type": "psk", "auth-id": "a", "secrets": []}], 400),
        ("PATCH", "/tenants/acme", {}, 405),
        ("PUT", "/tenants", {}, 405),
        ("GET", "/nothing", None, 404),
        ("PUT", "/devices/acme/d1", {"ext": {"x": "y" * 2_000}}, 413),
    ],
)
async def test_a_fault_has_its_status_and_a_text(
    api: Api, device: str, method: str, path: str, body: object, status: int
) -> None:
    got, answer, headers = await api(method, path, body)
    assert got == status
    assert set(answer) == {"error"}
    assert headers["content-type"] == "application/json; charset=utf-8"


async def test_a_body_needs_the_json_content_type_and_an_empty_one_does_not(api: Api) -> None:
    async with aiohttp.ClientSession(headers=LOGIN) as http:
        url = f"{api.url}/tenants"
        async with http.post(url, data=b"{}", headers={"Content-Type": "text/plain"}) as response:
            assert response.status == 400
        async with http.post(url, headers={"Content-Type": "text/plain"}) as response:
            assert response.status == 201
        typed = {"Content-Type": "application/json; charset=utf-8"}
        async with http.post(url, data=b"{}", headers=typed) as response:
            assert response.status == 201
        async with http.post(url, data=b"{", headers=typed) as response:
            assert response.status == 400


@pytest.mark.parametrize("login", [{}, basic("hono-client", "wrong"), {"Authorization": "Basic ?"}])
async def test_without_the_right_password_nothing_is_told(api: Api, login: dict[str, str]) -> None:
    async with (
        aiohttp.ClientSession(headers=login) as http,
        http.get(f"{api.url}/tenants") as response,
    ):
        assert response.status == 401
        assert response.headers["WWW-Authenticate"] == 'Basic realm="Hono"'


async def test_preflight_names_methods_and_headers(api: Api) -> None:
    status, _, headers = await api("OPTIONS", "/devices/acme/d1")
    assert status == 204
    assert headers["access-control-allow-origin"] == "*"
    assert headers["access-control-allow-methods"] == "POST, GET, PUT, DELETE"
    assert headers["access-control-allow-headers"] == "content-type, authorization, if-match"


async def test_search_filters_sorts_and_counts_pages(api: Api) -> None:
    await api("POST", "/tenants/acme")
    for n in range(5):
        await api("POST", f"/devices/acme/d{n}", {"ext": {"n": n, "kind": f"lamp{n % 2}"}})
    query = (
        '?filterJson={"field":"/ext/kind","value":"lamp*"}'
        '&sortJson={"field":"/ext/n","direction":"desc"}&pageSize=2&pageOffset=1'
    )
    status, body, _ = await api("GET", f"/devices/acme{query}")
    assert status == 200
    assert body["total"] == 5
    assert [found["id"] for found in body["result"]] == ["d2", "d1"]
    status, body, _ = await api("GET", '/devices/acme?filterJson={"field":"/ext/n","value":3}')
    assert [found["id"] for found in body["result"]] == ["d3"]


async def test_search_tells_gateways_from_devices(api: Api) -> None:
    await api("POST", "/tenants/acme")
    await api("POST", "/devices/acme/gw-1")
    await api("POST", "/devices/acme/gw-2", {"memberOf": ["g"]})
    await api("POST", "/devices/acme/d1", {"via": ["gw-1"]})

    async def ids(flag: str) -> list[str]:
        _, body, _ = await api("GET", f"/devices/acme?isGateway={flag}")
        return [found["id"] for found in body["result"]]

    assert await ids("true") == ["gw-1", "gw-2"]
    assert await ids("false") == ["d1"]


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("pageSize=201", 400),
        ("pageSize=x", 400),
        ("pageOffset=-1", 400),
        ("isGateway=maybe", 400),
        ("filterJson={", 400),
        ('filterJson={"field":"/a"}', 400),
        ('filterJson={"field":"/a","value":1,"op":"gt"}', 400),
        ('filterJson={"field":"/a","value":1,"more":1}', 400),
        ('sortJson={"field":"/a","direction":"up"}', 400),
        ('filterJson={"field":"/id","value":"nobody"}', 404),
    ],
)
async def test_a_bad_search_is_refused_and_no_hit_is_not_found(
    api: Api, device: str, query: str, status: int
) -> None:
    assert (await api("GET", f"/devices/acme?{query}"))[0] == status


async def test_a_get_edit_put_cycle_keeps_the_password(core: Core, api: Api, device: str) -> None:
    path = f"/credentials{device}"
    secrets = [{"pwd-plain": "pw", "comment": "first"}]
    await api("PUT", path, [{"type": "hashed-password", "auth-id": "s1", "secrets": secrets}])
    _, body, _ = await api("GET", path)
    (secret,) = body[0]["secrets"]
    assert set(secret) == {"id", "enabled", "comment"}
    secret["comment"] = "second"
    assert (await api("PUT", path, body))[0] == 204
    found: list[Any] = []
    core.registry.find_credential("acme", "hashed-password", "s1", found.append)
    while not found:
        await core.registry.read_credentials("acme", "d1")
    (kept,) = found[0].credential.secrets
    assert kept.comment == "second"
    assert kept.data["pwd-hash"].startswith("$2a$04$")


async def test_credentials_belong_to_one_device(api: Api, device: str) -> None:
    await api("POST", "/devices/acme/d2")
    body = [{"type": "psk", "auth-id": "s1", "secrets": [{"key": "c2VjcmV0"}]}]
    assert (await api("PUT", "/credentials/acme/d1", body))[0] == 204
    assert (await api("PUT", "/credentials/acme/d2", body))[0] == 409
    body[0]["secrets"] = [{"id": "unknown"}]
    assert (await api("PUT", "/credentials/acme/d1", body))[0] == 400


async def test_limits_of_the_tenant_are_kept(api: Api) -> None:
    limits = {"max-devices": 1, "max-credentials-per-device": 1}
    await api("POST", "/tenants/acme", {"registration-limits": limits})
    assert (await api("POST", "/devices/acme/d1"))[0] == 201
    assert (await api("POST", "/devices/acme/d2"))[0] == 403
    body = [
        {"type": "psk", "auth-id": name, "secrets": [{"key": "c2VjcmV0"}]} for name in ("a", "b")
    ]
    assert (await api("PUT", "/credentials/acme/d1", body))[0] == 403


async def test_all_devices_of_a_tenant_that_is_gone_can_be_deleted(api: Api, device: str) -> None:
    await api("DELETE", "/tenants/acme")
    assert (await api("GET", f"/devices{device}"))[0] == 404
    assert (await api("DELETE", "/devices/acme"))[0] == 204
    assert (await api("DELETE", "/devices/acme"))[0] == 404


async def test_listeners_hear_of_committed_changes_only(core: Core, api: Api, device: str) -> None:
    heard: list[RegistryChange] = []
    end = core.registry.on_change(heard.append)
    await api("PUT", f"/devices{device}", {"enabled": False})
    await api("PUT", f"/devices{device}", {"enabled": 7})
    await api("DELETE", f"/devices{device}", if_match="other")
    assert heard == [
        RegistryChange(Subject.DEVICE, Change.UPDATE, "acme", "d1", enabled=False),
    ]
    assert heard[0].ends_connections
    end()
    await api("DELETE", f"/devices{device}")
    assert len(heard) == 1


async def test_a_body_that_does_not_come_is_given_up(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry_http, "BODY_SECONDS", 0.05)
    host, _, port = api.url.removeprefix("http://").removesuffix("/v1").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    login = LOGIN["Authorization"]
    head = f"POST /v1/tenants HTTP/1.1\r\nHost: a\r\nAuthorization: {login}\r\n"
    writer.write(f"{head}Content-Length: 5\r\n\r\n{{".encode())
    answer = await reader.readuntil(b"}")
    assert answer.startswith(b"HTTP/1.1 408")
    writer.close()


async def test_a_body_in_chunks_has_the_same_limit(api: Api) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b" " * 1_000

    async with (
        aiohttp.ClientSession(headers={**LOGIN, **JSON}) as http,
        http.post(f"{api.url}/tenants", data=chunks()) as response,
    ):
        assert response.status == 413


async def test_a_document_that_is_nested_too_deep_is_refused_before_it_is_stored(api: Api) -> None:
    def nested(levels: int) -> dict[str, Any]:
        document: dict[str, Any] = {}
        for _ in range(levels):
            document = {"a": document}
        return {"ext": document}

    assert (await api("POST", "/tenants/deep", nested(50)))[0] == 201
    assert (await api("GET", "/tenants/deep"))[0] == 200
    assert (await api("PUT", "/tenants/deep", nested(150)))[0] == 400


async def test_json_without_end_of_depth_is_a_bad_request(core: Core) -> None:
    async with aiohttp.ClientSession(headers={**LOGIN, **JSON}) as http:
        settings = Settings(bind="127.0.0.1:0")
        server = RegistryServer(core.registry, settings, None, core.metrics, core.tracer)
        async with running(RegistryHttp(server, settings, core.endpoints)):
            url = core.url("hono.registry") + "/v1/tenants"
            async with http.post(url, data=b'{"ext":' + b'{"a":' * 3_000) as response:
                assert response.status == 400
            async with http.post(url, data=b"{}", headers={"Authorization": ""}) as response:
                assert response.status == 201
