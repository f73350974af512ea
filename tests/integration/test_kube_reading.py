"""Lists, watches and plain paths in the forms that a Kubernetes API server gives them."""

from __future__ import annotations

import asyncio
import base64
import json
import platform
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.kube.documents import go_platform
from tests.kube_server import KubeServer, kube_server

MAPS = "/api/v1/namespaces/default/configmaps"
ONE_PARTIAL = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io,application/json"
MANY_PARTIAL = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
MERGE = {"Content-Type": "application/merge-patch+json"}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[KubeServer]:
    async with kube_server(tmp_path) as running:
        yield running


class Asking:
    """Requests as the administrator, or as nobody."""

    def __init__(self, session: aiohttp.ClientSession, server: KubeServer) -> None:
        self._session = session
        self._url = server.url
        self._token = {"Authorization": f"Bearer {server.token.strip()}"}

    async def __call__(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, Any, Any]:
        sent = self._token | {name.replace("_", "-"): value for name, value in headers.items()}
        async with self._session.request(
            method, self._url + path, json=body, headers=sent, ssl=False
        ) as response:
            text = await response.text()
            lines = [json.loads(line) for line in text.splitlines()] if "watch=1" in path else None
            is_json = response.content_type == "application/json" and text
            found = lines if lines is not None else json.loads(text) if is_json else text
            return response.status, response.headers, found

    async def raw(self, method: str, path: str, body: str) -> tuple[int, str]:
        """Send a document as it is written."""
        sent = self._token | {"Content-Type": "application/json"}
        async with self._session.request(
            method, self._url + path, data=body, headers=sent, ssl=False
        ) as response:
            return response.status, await response.text()


@pytest.fixture
async def ask(server: KubeServer) -> AsyncIterator[Asking]:
    async with aiohttp.ClientSession() as session:
        yield Asking(session, server)


async def made(ask: Asking, name: str, **metadata: Any) -> str:
    """Make a map and return its resourceVersion."""
    _, _, item = await ask("POST", MAPS, {"metadata": {"name": name, **metadata}})
    return str(item["metadata"]["resourceVersion"])


async def test_a_watch_of_metadata_is_asked_for_as_one_object(ask: Asking) -> None:
    version = int(await made(ask, "a")) - 1
    path = f"{MAPS}?watch=1&timeoutSeconds=1&resourceVersion={version}"
    status, _, events = await ask("GET", path, Accept=ONE_PARTIAL)
    assert status == 200
    assert [event["object"]["kind"] for event in events] == ["PartialObjectMetadata"]
    status, _, refused = await ask("GET", path, Accept=MANY_PARTIAL)
    assert status == 406
    assert "is not a list" in refused[0]["message"]


@pytest.mark.parametrize("seconds", [-1, -(2**63)])
async def test_a_watch_of_less_than_no_time_is_over_when_it_begins(
    ask: Asking, seconds: int
) -> None:
    await made(ask, "a")
    async with asyncio.timeout(20):
        status, _, events = await ask("GET", f"{MAPS}?watch=1&timeoutSeconds={seconds}")
    assert status == 200
    assert "a" in [event["object"]["metadata"]["name"] for event in events]


async def test_a_watch_of_more_seconds_than_a_number_holds_is_refused(ask: Asking) -> None:
    status, _, refused = await ask("GET", f"{MAPS}?watch=1&timeoutSeconds={10**20}")
    assert (status, refused[0]["reason"]) == (400, "BadRequest")


PODS = "/api/v1/namespaces/default/pods"


@pytest.mark.parametrize("amount", ["1e300", "-1e300", "1e400", "1e-300", str(10**40)])
async def test_an_amount_as_a_number_beyond_all_bounds_is_no_internal_error(
    ask: Asking, amount: str
) -> None:
    container = {"name": "c", "image": "x", "resources": {"requests": {"memory": "AMOUNT"}}}
    spec = {"containers": [container]}
    body = json.dumps({"metadata": {"generateName": "p-"}, "spec": spec})
    status, said = await ask.raw("POST", PODS, body.replace('"AMOUNT"', amount))
    assert status in (201, 400, 422), said


async def test_the_platform_is_named_as_go_names_it(ask: Asking) -> None:
    _, _, version = await ask("GET", "/version")
    assert version["platform"] == go_platform(platform.system(), platform.machine())
    named = [go_platform("Linux", machine) for machine in ("x86_64", "aarch64", "riscv64")]
    assert named == ["linux/amd64", "linux/arm64", "linux/riscv64"]


async def test_a_watch_is_no_yaml_and_a_list_no_stream(ask: Asking) -> None:
    status, _, said = await ask("GET", f"{MAPS}?watch=1", Accept="application/yaml")
    assert (status, said[0]["message"]) == (
        406,
        "only the following media types are accepted: application/json;stream=watch",
    )
    assert (await ask("GET", MAPS, Accept="application/json;stream=watch"))[0] == 406


async def test_a_watch_of_tables_refuses_unknown_objects_before_it_begins(ask: Asking) -> None:
    table = "application/json;as=Table;v=v1;g=meta.k8s.io"
    status, _, _ = await ask("GET", f"{MAPS}?watch=1&includeObject=Some", Accept=table)
    assert status == 400


async def test_what_is_shown_as_deleted_is_what_was_there(ask: Asking) -> None:
    version = await made(ask, "held", finalizers=["example.com/hold"])
    await ask("DELETE", f"{MAPS}/held")
    patch = {"metadata": {"finalizers": None}, "data": {"last": "words"}}
    _, _, answered = await ask("PATCH", f"{MAPS}/held", patch, **MERGE)
    assert answered["data"] == {"last": "words"}
    path = f"{MAPS}?watch=1&timeoutSeconds=1&resourceVersion={version}"
    _, _, events = await ask("GET", path)
    last = events[-1]
    assert last["type"] == "DELETED"
    assert last["object"]["metadata"]["finalizers"] == ["example.com/hold"]
    assert "data" not in last["object"]
    assert int(last["object"]["metadata"]["resourceVersion"]) > int(version) + 1


async def test_a_limit_bounds_how_many_are_deleted(ask: Asking) -> None:
    for name in ("a", "b", "c"):
        await made(ask, name, labels={"x": "1"})
    _, _, gone = await ask("DELETE", f"{MAPS}?labelSelector=x%3D1&limit=2")
    assert [item["metadata"]["name"] for item in gone["items"]] == ["a", "b"]
    _, _, left = await ask("GET", f"{MAPS}?labelSelector=x%3D1")
    assert [item["metadata"]["name"] for item in left["items"]] == ["c"]


def token(text: bytes) -> str:
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


@pytest.mark.parametrize(
    ("page", "why"),
    [
        ("%25%25", "illegal base64 data at input byte 0"),
        (token(b"i"), "invalid character 'i' looking for beginning of value"),
        (
            token(b'{"v":"meta.k8s.io/v2","rv":1,"start":"a"}'),
            "server does not recognize this encoded version meta.k8s.io/v2",
        ),
    ],
)
async def test_a_page_that_is_none_is_refused_with_the_reason(
    ask: Asking, page: str, why: str
) -> None:
    status, _, said = await ask("GET", f"{MAPS}?limit=1&continue={page}")
    assert status == 400
    assert said["message"] == f"invalid continue token: continue key is not valid: {why}"


@pytest.mark.parametrize(
    ("limit", "why"),
    [
        ("", 'parsing "": invalid syntax'),
        ("99999999999999999999", 'parsing "99999999999999999999": value out of range'),
    ],
)
async def test_a_limit_is_a_number_of_64_bits(ask: Asking, limit: str, why: str) -> None:
    status, _, said = await ask("GET", f"{MAPS}?limit={limit}")
    assert (status, said["message"]) == (400, f"strconv.ParseInt: {why}")


async def test_a_version_that_is_forgotten_is_told_apart_from_a_page(ask: Asking) -> None:
    status, _, said = await ask("GET", f"{MAPS}?resourceVersion=1&resourceVersionMatch=Exact")
    assert status == 410
    assert said["message"] == "The resourceVersion for the provided list is too old."


async def test_health_tells_of_each_check(ask: Asking) -> None:
    status, headers, text = await ask("GET", "/readyz?verbose")
    assert (status, text) == (200, "[+]ping ok\n[+]ready ok\nreadyz check passed\n")
    assert headers["X-Content-Type-Options"] == "nosniff"
    _, _, text = await ask("GET", "/livez?verbose&exclude=ping&exclude=moon")
    assert text == (
        "[+]ping excluded: ok\n"
        'warn: some health checks cannot be excluded: no matches for "moon"\n'
        "livez check passed\n"
    )
    assert (await ask("GET", "/livez/ping"))[2] == "ok"
    assert (await ask("GET", "/livez/moon"))[0] == 404


@pytest.mark.parametrize("shown", ["Basic YTpi", "Bearer", "Digest a=b", ""])
async def test_who_shows_nothing_that_counts_is_nobody(ask: Asking, shown: str) -> None:
    status, _, said = await ask("GET", "/api/v1/pods", Authorization=shown)
    assert status == 403
    assert 'User "system:anonymous"' in said["message"]


async def test_a_tag_is_found_among_several(ask: Asking) -> None:
    _, headers, _ = await ask("GET", "/openapi/v2")
    tags = f'"other", W/{headers["ETag"]}'
    assert (await ask("GET", "/openapi/v2", If_None_Match=tags))[0] == 304
    assert (await ask("GET", "/openapi/v2", If_None_Match='"other"'))[0] == 200


async def test_a_body_that_is_not_packed_as_it_says_is_refused(ask: Asking) -> None:
    status, _, said = await ask("POST", MAPS, {"metadata": {"name": "x"}}, Content_Encoding="gzip")
    assert (status, said["reason"]) == (400, "BadRequest")


async def test_a_watch_ends_with_its_definition(ask: Asking) -> None:
    definition = {
        "metadata": {"name": "moons.example.com"},
        "spec": {
            "group": "example.com",
            "scope": "Namespaced",
            "names": {"plural": "moons", "kind": "Moon"},
            "versions": [
                {
                    "name": "v1",
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": {"type": "object"}},
                }
            ],
        },
    }
    definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    assert (await ask("POST", definitions, definition))[0] == 201
    moons = "/apis/example.com/v1/namespaces/default/moons"
    io = {"apiVersion": "example.com/v1", "kind": "Moon", "metadata": {"name": "io"}}
    _, _, made = await ask("POST", moons, io)
    version = made["metadata"]["resourceVersion"]
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        path = f"{moons}?watch=1&timeoutSeconds=60&resourceVersion={version}"
        watching = group.create_task(ask("GET", path))
        await ask("DELETE", f"{definitions}/moons.example.com")
    last = watching.result()[2][-1]
    assert (last["type"], last["object"]["metadata"]["name"]) == ("DELETED", "io")


# --- what bodies say of themselves ----------------------------------------------------------------

DEVICE_MODELS = "/apis/devices.kubeedge.io/v1beta1/namespaces/default/devicemodels"


@pytest.mark.parametrize("validation", ["Strict", "Warn", "Ignore"])
async def test_a_custom_resource_says_what_it_is(ask: Asking, validation: str) -> None:
    path = f"{DEVICE_MODELS}?fieldValidation={validation}"
    bare = {"metadata": {"name": "m"}}
    status, _, said = await ask("POST", path, bare)
    assert (status, said["reason"]) == (400, "BadRequest")
    assert 'Object \'Kind\' is missing in \'{"metadata": {"name": "m"}}\'' in said["message"]
    status, _, said = await ask("POST", path, {"kind": "DeviceModel", **bare})
    assert (status, said["reason"]) == (400, "BadRequest")
    assert said["message"].startswith(
        'DeviceModel in version "" cannot be handled as a DeviceModel'
    )
    whole = {"apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceModel", **bare}
    assert (await ask("POST", path, whole))[0] == 201
    status, _, said = await ask("PUT", DEVICE_MODELS + "/m", bare)
    assert (status, said["reason"]) == (400, "BadRequest")


async def test_patches_and_built_in_kinds_are_known_by_their_path(ask: Asking) -> None:
    whole = {
        "apiVersion": "devices.kubeedge.io/v1beta1",
        "kind": "DeviceModel",
        "metadata": {"name": "m"},
    }
    assert (await ask("POST", DEVICE_MODELS, whole))[0] == 201
    labels = {"metadata": {"labels": {"a": "b"}}}
    assert (await ask("PATCH", DEVICE_MODELS + "/m", labels, **MERGE))[0] == 200
    assert (await ask("POST", MAPS, {"metadata": {"name": "c"}}))[0] == 201
    assert (await ask("PUT", MAPS + "/c", {"metadata": {"name": "c"}, "data": {"a": "b"}}))[
        0
    ] == 200
