"""The Kubernetes API over HTTPS as other clients see it: forms, errors, streams, trust."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.config.kube import Kube, KubeHttps
from gateway.kube import http as front
from gateway.kube.certs import ensure_identity
from gateway.runtime.certificates import issue
from tests.kube_server import KubeServer, kube_server

DEVICES = "/apis/devices.kubeedge.io/v1beta1/namespaces/default/devices"
CONFIGMAPS = "/api/v1/namespaces/default/configmaps"
TABLE = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}
MERGE = {"Content-Type": "application/merge-patch+json"}
APPLY = {"Content-Type": "application/apply-patch+yaml"}


def a_device(name: str = "lamp") -> dict[str, Any]:
    return {
        "apiVersion": "devices.kubeedge.io/v1beta1",
        "kind": "Device",
        "metadata": {"name": name},
        "spec": {"nodeName": "edge-1"},
    }


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[KubeServer]:
    settings = Kube(
        https=KubeHttps(bind="127.0.0.1:0", max_body=200_000), watch_window=20, watch_buffer=5
    )
    async with kube_server(tmp_path, settings) as running:
        yield running


def trusting(server: KubeServer) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(server.folder / "kube" / "ca.crt"))


@pytest.fixture
async def http(server: KubeServer) -> AsyncIterator[aiohttp.ClientSession]:
    async with session(server, token=server.token) as found:
        yield found


def session(
    server: KubeServer, *, token: str | None = None, context: ssl.SSLContext | None = None
) -> aiohttp.ClientSession:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    connector = aiohttp.TCPConnector(ssl=context or trusting(server))
    return aiohttp.ClientSession(server.url, headers=headers, connector=connector)


async def ask(
    http: aiohttp.ClientSession, method: str, path: str, expected: int = 200, **kwargs: Any
) -> Any:
    async with http.request(method, path, **kwargs) as response:
        text = await response.text()
        assert response.status == expected, text
        return json.loads(text) if "json" in response.content_type else text


def reason(status: dict[str, Any]) -> tuple[str, int]:
    assert status["kind"] == "Status"
    assert status["status"] == "Failure"
    return status["reason"], status["code"]


# --- trust ----------------------------------------------------------------------------------------


async def test_health_and_version_are_open_and_nothing_else(server: KubeServer) -> None:
    async with session(server) as anyone:
        for path in ("/healthz", "/livez", "/readyz"):
            assert await ask(anyone, "GET", path) == "ok"
        assert (await ask(anyone, "GET", "/version"))["gitVersion"].startswith("v1.36")
        for path in ("/api", "/apis", "/openapi/v3", "/api/v1/nodes", DEVICES):
            said = await ask(anyone, "GET", path, 403)
            assert reason(said) == ("Forbidden", 403)
            assert 'User "system:anonymous" cannot' in said["message"]


async def test_a_wrong_token_is_unauthorized(server: KubeServer) -> None:
    async with session(server, token="wrong") as stranger:
        assert reason(await ask(stranger, "GET", "/api/v1/nodes", 401)) == ("Unauthorized", 401)
    async with session(server) as basic:
        headers = {"Authorization": "Basic YTpi"}
        await ask(basic, "GET", "/api/v1/nodes", 403, headers=headers)


def client_context(
    server: KubeServer, folder: Path, user: str, groups: tuple[str, ...]
) -> ssl.SSLContext:
    identity = ensure_identity(server.folder / "kube")
    pair = issue(identity.authority, user, groups=groups)
    (folder / "c.crt").write_bytes(pair.certificate)
    (folder / "c.key").write_bytes(pair.key)
    context = trusting(server)
    context.load_cert_chain(folder / "c.crt", folder / "c.key")
    return context


async def test_a_certificate_names_user_and_groups(server: KubeServer, tmp_path: Path) -> None:
    context = client_context(server, tmp_path, "ann", ("system:masters", "staff"))
    async with session(server, context=context) as ann:
        body = {"kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1"}
        answer = await ask(
            ann, "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", 201, json=body
        )
        info = answer["status"]["userInfo"]
        assert info["username"] == "ann"
        assert {"system:masters", "staff", "system:authenticated"} <= set(info["groups"])


async def test_a_node_may_write_itself_and_its_lease_alone(
    server: KubeServer, tmp_path: Path
) -> None:
    context = client_context(server, tmp_path, "system:node:edge-1", ("system:nodes",))
    async with session(server, context=context) as node:
        await ask(node, "POST", "/api/v1/nodes", 201, json={"metadata": {"name": "edge-1"}})
        status = {"status": {"phase": "Running"}}
        await ask(node, "PATCH", "/api/v1/nodes/edge-1/status", json=status, headers=MERGE)
        await ask(node, "PATCH", "/api/v1/nodes/edge-2/status", 403, json=status, headers=MERGE)
        await ask(node, "DELETE", "/api/v1/nodes/edge-1", 403)
        await ask(node, "GET", "/api/v1/secrets", 403)
        await ask(node, "GET", "/api/v1/namespaces/kubeedge/secrets/casecret", 403)
        await ask(node, "POST", "/api/v1/nodes", 403, json={"metadata": {"name": "edge-2"}})
        await ask(node, "POST", "/api/v1/nodes", 403, json={"metadata": {"generateName": "edge-"}})
        leases = "/apis/coordination.k8s.io/v1/namespaces/{}/leases"
        lease = {"metadata": {"name": "edge-1"}}
        await ask(node, "POST", leases.format("kube-node-lease"), 201, json=lease)
        await ask(node, "POST", leases.format("default"), 403, json=lease)
        other = {"metadata": {"name": "edge-2"}}
        await ask(node, "POST", leases.format("kube-node-lease"), 403, json=other)
        review = {"spec": {"resourceAttributes": {"verb": "list", "resource": "secrets"}}}
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        answer = await ask(node, "POST", path, 201, json=review)
        assert answer["status"]["allowed"] is False


async def test_an_administrator_may_act_as_somebody_else(
    server: KubeServer, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
    headers = {"Impersonate-User": "bob", "Impersonate-Group": "staff"}
    answer = await ask(http, "POST", path, 201, json={}, headers=headers)
    assert answer["status"]["userInfo"] == {
        "username": "bob",
        "groups": ["staff", "system:authenticated"],
    }
    said = await ask(http, "GET", "/api/v1/nodes", 403, headers=headers)
    assert 'nodes is forbidden: User "bob" cannot list resource "nodes"' in said["message"]
    await ask(http, "GET", "/healthz", headers={"Impersonate-User": "system:anonymous"})
    await ask(http, "GET", "/api", 403, headers={"Impersonate-User": "system:anonymous"})
    await ask(http, "GET", "/api", 400, headers={"Impersonate-Group": "staff"})
    context = client_context(server, tmp_path, "system:node:edge-1", ("system:nodes",))
    async with session(server, context=context) as node:
        said = await ask(node, "GET", "/api/v1/nodes", 403, headers=headers)
        assert "cannot impersonate" in said["message"]


async def test_keys_are_private_and_last(server: KubeServer) -> None:
    folder = server.folder / "kube"
    for name in ("ca.key", "server.key", "admin.key", "admin.token", "kubeconfig"):
        assert (folder / name).stat().st_mode & 0o077 == 0
    before = (folder / "ca.crt").read_bytes(), (folder / "server.crt").read_bytes()
    ensure_identity(folder)
    assert ((folder / "ca.crt").read_bytes(), (folder / "server.crt").read_bytes()) == before
    ensure_identity(folder, ["gateway.example"])
    assert (folder / "ca.crt").read_bytes() == before[0]
    assert (folder / "server.crt").read_bytes() != before[1]


# --- forms and errors -----------------------------------------------------------------------------


async def test_the_common_errors_are_statuses(http: aiohttp.ClientSession) -> None:
    await ask(http, "POST", DEVICES, 201, json=a_device())
    assert reason(await ask(http, "GET", f"{DEVICES}/no", 404)) == ("NotFound", 404)
    assert reason(await ask(http, "POST", DEVICES, 409, json=a_device())) == ("AlreadyExists", 409)
    stale = a_device() | {"metadata": {"name": "lamp", "resourceVersion": "1"}}
    assert reason(await ask(http, "PUT", f"{DEVICES}/lamp", 409, json=stale)) == ("Conflict", 409)
    unversioned = await ask(http, "PUT", f"{DEVICES}/lamp", 422, json=a_device())
    assert "must be specified for an update" in unversioned["message"]
    reviews = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
    assert reason(await ask(http, "GET", reviews, 405)) == ("MethodNotAllowed", 405)
    assert reason(await ask(http, "GET", "/api/v1/things", 404)) == ("NotFound", 404)
    assert "404 page not found" in await ask(http, "GET", "/apis/no.such/v1/things", 404)
    assert "404 page not found" in await ask(http, "GET", "/nowhere", 404)
    assert reason(await ask(http, "PATCH", f"{DEVICES}/lamp", 415, json={})) == (
        "UnsupportedMediaType",
        415,
    )
    strategic = {"Content-Type": "application/strategic-merge-patch+json"}
    await ask(http, "PATCH", f"{DEVICES}/lamp", 415, json={}, headers=strategic)
    html = {"Content-Type": "text/html"}
    await ask(http, "POST", DEVICES, 415, data=b"<p>", headers=html)
    await ask(http, "GET", DEVICES, 406, headers={"Accept": "application/vnd.kubernetes.protobuf"})


def a_body(**members: Any) -> bytes:
    return json.dumps(
        {"apiVersion": a_device()["apiVersion"], "kind": "Device", **members}
    ).encode()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "unexpected end of JSON input"),
        (b"[]", "cannot unmarshal array"),
        (b"", "unexpected end of JSON input"),
        (b'{"kind":"Device","apiVersion":"v9"}', "does not match the expected API version"),
        (
            a_body(metadata={"name": "a", "namespace": "other"}),
            "does not match the namespace sent on the request",
        ),
        (a_body(metadata={"name": 5}), "cannot unmarshal number"),
        (b"[" * 5_000 + b"]" * 5_000, ""),
        (b'{"a":' * 200 + b"1" + b"}" * 200, "nested deeper"),
        (b"\xff\xfe", "invalid character"),
    ],
)
async def test_a_broken_body_is_a_bad_request(
    http: aiohttp.ClientSession, body: bytes, said: str
) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await ask(http, "POST", DEVICES, 400, data=body, headers=headers)
    assert reason(answer) == ("BadRequest", 400)
    assert said in answer["message"]


async def test_a_body_over_the_limit_is_refused(http: aiohttp.ClientSession) -> None:
    large = {"metadata": {"name": "c"}, "data": {"a": "x" * 250_000}}
    assert reason(await ask(http, "POST", CONFIGMAPS, 413, json=large)) == (
        "RequestEntityTooLarge",
        413,
    )
    assert await ask(http, "GET", "/readyz") == "ok"


async def test_a_body_that_does_not_come_is_given_up(
    server: KubeServer, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front, "BODY_SECONDS", 0.05)
    host, _, port = server.endpoints.get("kube.https").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=trusting(server))
    head = f"POST {DEVICES} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {server.token}\r\n"
    writer.write(f"{head}Content-Type: application/json\r\nContent-Length: 9\r\n\r\n{{".encode())
    async with asyncio.timeout(10):
        assert (await reader.readline()).startswith(b"HTTP/1.1 408")
    writer.close()
    assert await ask(http, "GET", "/readyz") == "ok"


async def test_yaml_bodies_are_read_and_their_bombs_are_not(http: aiohttp.ClientSession) -> None:
    headers = {"Content-Type": "application/yaml"}
    await ask(
        http, "POST", CONFIGMAPS, 201, data="metadata: {name: y}\ndata: {a: b}\n", headers=headers
    )
    bomb = "a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n"
    await ask(http, "POST", CONFIGMAPS, 400, data=bomb, headers=headers)
    config = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: z}\ndata: {a: b}\n"
    await ask(http, "PATCH", f"{CONFIGMAPS}/z?fieldManager=m", 201, data=config, headers=APPLY)


async def test_unknown_parameters_do_not_hurt_and_wrong_ones_are_named(
    http: aiohttp.ClientSession,
) -> None:
    await ask(http, "GET", f"{DEVICES}?timeout=32s&pretty=true&frobnicate=1")
    for query in (
        "limit=x",
        "resourceVersion=x",
        "timeoutSeconds=x",
        "continue=zzz",
        "labelSelector=a%20b",
        "fieldSelector=x",
    ):
        assert reason(await ask(http, "GET", f"{DEVICES}?{query}", 400)) == ("BadRequest", 400)
    for query in ("dryRun=Some", "fieldValidation=Loud", f"fieldManager={'m' * 200}"):
        assert reason(await ask(http, "POST", f"{DEVICES}?{query}", 422, json=a_device())) == (
            "Invalid",
            422,
        )
    await ask(http, "GET", f"{DEVICES}?resourceVersionMatch=Exact", 422)
    future = await ask(http, "GET", f"{DEVICES}?resourceVersion=99999999999999999", 504)
    assert reason(future) == ("Timeout", 504)
    assert future["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"


async def test_unknown_fields_warn_or_fail_as_asked(http: aiohttp.ClientSession) -> None:
    body = a_device() | {"zork": 1}
    async with http.post(f"{DEVICES}?dryRun=All", json=body) as response:
        assert response.status == 201
        assert response.headers["Warning"] == '299 - "unknown field \\"zork\\""'
        assert "zork" not in await response.json()
    async with http.post(f"{DEVICES}?dryRun=All&fieldValidation=Ignore", json=body) as response:
        assert "Warning" not in response.headers
    strict = await ask(http, "POST", f"{DEVICES}?fieldValidation=Strict", 400, json=body)
    assert strict["message"] == (
        'Device in version "v1beta1" cannot be handled as a Device: strict decoding error:'
        ' unknown field "zork"'
    )
    await ask(http, "GET", f"{DEVICES}/lamp", 404)


async def test_a_list_is_a_list_a_table_or_metadata(http: aiohttp.ClientSession) -> None:
    for name in ("a", "b", "c"):
        await ask(http, "POST", DEVICES, 201, json=a_device(name))
    whole = await ask(http, "GET", DEVICES)
    assert (whole["kind"], whole["apiVersion"]) == ("DeviceList", "devices.kubeedge.io/v1beta1")
    assert [item["metadata"]["name"] for item in whole["items"]] == ["a", "b", "c"]
    page = await ask(http, "GET", f"{DEVICES}?limit=2")
    assert page["metadata"]["remainingItemCount"] == 1
    rest = await ask(
        http, "GET", DEVICES, params={"limit": "2", "continue": page["metadata"]["continue"]}
    )
    assert [item["metadata"]["name"] for item in rest["items"]] == ["c"]
    assert rest["metadata"]["resourceVersion"] == page["metadata"]["resourceVersion"]
    table = await ask(http, "GET", DEVICES, headers=TABLE)
    assert [column["name"] for column in table["columnDefinitions"]] == [
        "Name",
        "Model",
        "Node",
        "Protocol",
        "Age",
    ]
    assert [row["cells"][0] for row in table["rows"]] == ["a", "b", "c"]
    assert table["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
    full = await ask(http, "GET", f"{DEVICES}/a?includeObject=Object", headers=TABLE)
    assert full["rows"][0]["object"]["spec"] == {"nodeName": "edge-1"}
    bare = await ask(http, "GET", f"{DEVICES}/a?includeObject=None", headers=TABLE)
    assert bare["rows"][0]["object"] is None
    await ask(http, "GET", f"{DEVICES}/a?includeObject=Some", 400, headers=TABLE)
    partial = {"Accept": "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"}
    metadata = await ask(http, "GET", DEVICES, headers=partial)
    assert metadata["kind"] == "PartialObjectMetadataList"
    assert "spec" not in metadata["items"][0]


async def test_deletions_answer_with_a_status_or_the_lingering_object(
    http: aiohttp.ClientSession,
) -> None:
    made = await ask(http, "POST", DEVICES, 201, json=a_device())
    wrong = {"preconditions": {"uid": "other"}}
    assert reason(await ask(http, "DELETE", f"{DEVICES}/lamp", 409, json=wrong)) == (
        "Conflict",
        409,
    )
    gone = await ask(http, "DELETE", f"{DEVICES}/lamp", json={"propagationPolicy": "Background"})
    assert gone["status"] == "Success"
    assert gone["details"]["uid"] == made["metadata"]["uid"]
    held = a_device()
    held["metadata"]["finalizers"] = ["a.io/b"]
    await ask(http, "POST", DEVICES, 201, json=held)
    lingering = await ask(http, "DELETE", f"{DEVICES}/lamp")
    assert lingering["metadata"]["deletionTimestamp"]
    await ask(http, "DELETE", f"{DEVICES}/lamp", 422, json={"propagationPolicy": "Sideways"})
    await ask(
        http, "PATCH", f"{DEVICES}/lamp", json={"metadata": {"finalizers": []}}, headers=MERGE
    )
    await ask(http, "GET", f"{DEVICES}/lamp", 404)


async def test_a_collection_goes_at_once(http: aiohttp.ClientSession) -> None:
    for name in ("a", "b"):
        body = a_device(name)
        body["metadata"]["labels"] = {"n": name}
        await ask(http, "POST", DEVICES, 201, json=body)
    gone = await ask(http, "DELETE", f"{DEVICES}?labelSelector=n%3Da")
    assert [item["metadata"]["name"] for item in gone["items"]] == ["a"]
    assert len((await ask(http, "GET", DEVICES))["items"]) == 1


async def test_orphans_stay_and_foreground_waits(http: aiohttp.ClientSession) -> None:
    statuses = DEVICES.replace("/devices", "/devicestatuses").replace(
        "devicestatuses.kube", "devices.kube"
    )

    async def owner_and_dependent(name: str) -> None:
        made = await ask(http, "POST", DEVICES, 201, json=a_device(name))
        reference = {
            "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device", "name": name,
            "uid": made["metadata"]["uid"], "blockOwnerDeletion": True,
        }  # fmt: skip
        body = {
            "apiVersion": "devices.kubeedge.io/v1beta1",
            "kind": "DeviceStatus",
            "metadata": {"name": name, "ownerReferences": [reference]},
        }
        await ask(http, "POST", statuses, 201, json=body)

    async def until_gone(path: str) -> None:
        async with asyncio.timeout(10):
            while True:
                async with http.get(path) as response:
                    if response.status == 404:
                        return
                await asyncio.sleep(0.02)

    await owner_and_dependent("kept")
    await ask(http, "DELETE", f"{DEVICES}/kept?propagationPolicy=Orphan")
    await until_gone(f"{DEVICES}/kept")
    kept = await ask(http, "GET", f"{statuses}/kept")
    assert "ownerReferences" not in kept["metadata"]
    await owner_and_dependent("front")
    await ask(http, "DELETE", f"{DEVICES}/front?propagationPolicy=Foreground")
    await until_gone(f"{DEVICES}/front")
    await ask(http, "GET", f"{statuses}/front", 404)


# --- discovery ------------------------------------------------------------------------------------


async def test_documents_can_be_kept_by_their_tag(http: aiohttp.ClientSession) -> None:
    index = await ask(http, "GET", "/openapi/v3")
    url = index["paths"]["apis/devices.kubeedge.io/v1beta1"]["serverRelativeURL"]
    async with http.get(url) as response:
        document, tag = await response.json(), response.headers["ETag"]
    parameters = document["paths"][DEVICES.replace("default", "{namespace}") + "/{name}"]["patch"][
        "parameters"
    ]
    assert {"dryRun", "fieldManager", "fieldValidation", "force"} == {
        item["name"] for item in parameters
    }
    async with http.get(url, headers={"If-None-Match": tag}) as response:
        assert response.status == 304
    asked = {"Accept": "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"}
    async with http.get("/apis", headers=asked) as response:
        assert response.headers["Content-Type"] == asked["Accept"]
        assert (await response.json())["kind"] == "APIGroupDiscoveryList"


async def test_plain_discovery_is_complete(http: aiohttp.ClientSession) -> None:
    assert (await ask(http, "GET", "/api"))["versions"] == ["v1"]
    groups = await ask(http, "GET", "/apis")
    assert "devices.kubeedge.io" in {group["name"] for group in groups["groups"]}
    assert (await ask(http, "GET", "/apis/devices.kubeedge.io"))["kind"] == "APIGroup"
    listed = await ask(http, "GET", "/apis/devices.kubeedge.io/v1beta1")
    assert {item["name"] for item in listed["resources"]} == {
        "devices",
        "devicemodels",
        "devicestatuses",
    }
    assert "/api/v1" in (await ask(http, "GET", "/"))["paths"]
    assert (await ask(http, "GET", "/openapi/v2"))["swagger"] == "2.0"


# --- watches --------------------------------------------------------------------------------------


class Stream:
    """The lines of a watch."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(10):
            line = await self.response.content.readline()
        assert line.endswith(b"\n"), "the watch ended"
        found: dict[str, Any] = json.loads(line)
        return found

    async def is_over(self) -> bool:
        async with asyncio.timeout(10):
            return await self.response.content.readline() == b""


async def test_a_watch_shows_what_is_and_what_comes(http: aiohttp.ClientSession) -> None:
    await ask(http, "POST", DEVICES, 201, json=a_device())
    async with http.get(f"{DEVICES}?watch=true") as response:
        watch = Stream(response)
        assert (await watch.next())["type"] == "ADDED"
        await ask(http, "PATCH", f"{DEVICES}/lamp", json={"spec": {"nodeName": "b"}}, headers=MERGE)
        changed = await watch.next()
        assert (changed["type"], changed["object"]["spec"]["nodeName"]) == ("MODIFIED", "b")
        await ask(http, "PATCH", f"{DEVICES}/lamp", json={"spec": {"nodeName": "b"}}, headers=MERGE)
        await ask(http, "DELETE", f"{DEVICES}/lamp")
        gone = await watch.next()
        assert gone["type"] == "DELETED"
        version = int(changed["object"]["metadata"]["resourceVersion"])
        assert int(gone["object"]["metadata"]["resourceVersion"]) > version
    async with http.get(f"{DEVICES}?watch=1&resourceVersion={version}") as response:
        assert (await Stream(response).next())["type"] == "DELETED"


async def test_a_watch_list_ends_its_beginning_with_a_bookmark(http: aiohttp.ClientSession) -> None:
    await ask(http, "POST", DEVICES, 201, json=a_device())
    query = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    async with http.get(f"{DEVICES}?{query}") as response:
        watch = Stream(response)
        added, mark = await watch.next(), await watch.next()
    assert added["type"] == "ADDED"
    assert mark["type"] == "BOOKMARK"
    assert mark["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    listed = await ask(http, "GET", DEVICES)
    assert int(mark["object"]["metadata"]["resourceVersion"]) <= int(
        listed["metadata"]["resourceVersion"]
    )


@pytest.mark.parametrize(
    "query",
    [
        "sendInitialEvents=true",
        "resourceVersionMatch=NotOlderThan",
        "sendInitialEvents=1&resourceVersionMatch=Exact",
    ],
)
async def test_options_that_do_not_go_together_are_refused(
    http: aiohttp.ClientSession, query: str
) -> None:
    assert reason(await ask(http, "GET", f"{DEVICES}?watch=true&{query}", 422)) == ("Invalid", 422)


async def test_a_forgotten_version_is_an_error_event(http: aiohttp.ClientSession) -> None:
    await ask(http, "POST", CONFIGMAPS, 201, json={"metadata": {"name": "c"}, "data": {}})
    for number in range(25):
        patch = {"data": {"n": str(number)}}
        await ask(http, "PATCH", f"{CONFIGMAPS}/c", json=patch, headers=MERGE)
    async with http.get(f"{CONFIGMAPS}?watch=true&resourceVersion=2") as response:
        assert response.status == 200
        watch = Stream(response)
        event = await watch.next()
        assert event["type"] == "ERROR"
        assert reason(event["object"]) == ("Expired", 410)
        assert await watch.is_over()
    old = await ask(http, "GET", f"{CONFIGMAPS}?resourceVersion=2&resourceVersionMatch=Exact", 410)
    assert reason(old) == ("Expired", 410)


async def test_a_watch_ends_at_its_time_with_a_bookmark_if_wanted(
    http: aiohttp.ClientSession,
) -> None:
    async with http.get(
        f"{DEVICES}?watch=true&timeoutSeconds=1&allowWatchBookmarks=true"
    ) as response:
        watch = Stream(response)
        mark = await watch.next()
        assert mark["type"] == "BOOKMARK"
        assert await watch.is_over()


async def test_a_watch_of_tables_carries_rows(http: aiohttp.ClientSession) -> None:
    await ask(http, "POST", DEVICES, 201, json=a_device())
    async with http.get(f"{DEVICES}?watch=true", headers=TABLE) as response:
        watch = Stream(response)
        first = await watch.next()
        assert first["object"]["columnDefinitions"]
        await ask(http, "PATCH", f"{DEVICES}/lamp", json={"spec": {"nodeName": "b"}}, headers=MERGE)
        second = await watch.next()
        assert second["object"]["columnDefinitions"] is None
        assert second["object"]["rows"][0]["cells"][2] == "b"


async def test_a_watch_of_one_name_sees_that_alone(http: aiohttp.ClientSession) -> None:
    query = "watch=true&fieldSelector=metadata.name%3Db&resourceVersion=0"
    async with http.get(f"{DEVICES}?{query}") as response:
        watch = Stream(response)
        for name in ("a", "b"):
            await ask(http, "POST", DEVICES, 201, json=a_device(name))
        assert (await watch.next())["object"]["metadata"]["name"] == "b"


async def test_stopping_ends_open_watches_quickly(tmp_path: Path) -> None:
    async with kube_server(tmp_path) as server:
        http = session(server, token=server.token)
        response = await http.get(f"{DEVICES}?watch=true")
        before = server.metrics.text().decode()
    assert "twinspan_kube_watchers 1.0" in before
    assert await Stream(response).is_over()
    assert "twinspan_kube_watchers 0.0" in server.metrics.text().decode()
    response.close()
    await http.close()


async def test_requests_and_objects_are_counted(
    server: KubeServer, http: aiohttp.ClientSession
) -> None:
    await ask(http, "POST", DEVICES, 201, json=a_device())
    text = server.metrics.text().decode()
    assert 'twinspan_http_requests_total{method="POST",server="kube",status="201"} 1.0' in text
    assert 'twinspan_kube_objects{resource="devices.devices.kubeedge.io"} 1.0' in text
