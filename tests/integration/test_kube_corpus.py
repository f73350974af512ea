"""Bad and odd requests, and what the API answers to each: code, reason, message, details, headers."""

from __future__ import annotations

import asyncio
import io
import json
import re
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from tests.kube_corpus import GROUPS, Case, world
from tests.kube_server import KubeServer, kube_server

EXPECTED: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "golden" / "kube_corpus.json").read_text("utf-8")
)
_HEADERS = ("Warning", "Retry-After")
_UID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_VERSION = re.compile(r"(ResourceVersion in object meta: |in record \(|current: )\d+")
_SHOWN = ("finalizers", "deletionGracePeriodSeconds", "name", "generation")


def told(status: int, headers: Any, text: str) -> dict[str, Any]:
    """An answer without what differs from run to run."""
    try:
        body = json.loads(text)
    except ValueError:
        body = text
    if isinstance(body, dict):
        body = _of_status(body) if body.get("kind") == "Status" else _of_object(body)
    answer = {"code": status, "body": body, **{k: headers[k] for k in _HEADERS if k in headers}}
    plain = _VERSION.sub(r"\1RV", _UID.sub("UID", json.dumps(answer)))
    done: dict[str, Any] = json.loads(plain)
    return done


def _of_status(body: dict[str, Any]) -> dict[str, Any]:
    kept = ("status", "message", "reason", "code")
    found = {key: body[key] for key in kept if key in body}
    return found | ({"details": body["details"]} if body.get("details") else {})


def _of_object(body: dict[str, Any]) -> dict[str, Any]:
    metadata = body.get("metadata") or {}
    found = {key: metadata[key] for key in _SHOWN if key in metadata}
    return found | {"kind": body.get("kind"), "is ending": "deletionTimestamp" in metadata}


def is_as_expected(answer: dict[str, Any], expected: dict[str, Any]) -> bool:
    """All that is expected is there; without a body only code and reason are."""
    if "body" in expected:
        return answer == expected
    body = answer["body"]
    reason = body.get("reason", "") if isinstance(body, dict) else ""
    return bool((answer["code"], reason) == (expected["code"], expected["reason"]))


async def send(http: aiohttp.ClientSession, case: Case, headers: dict[str, str]) -> dict[str, Any]:
    skipped = ["User-Agent", *([] if "Content-Type" in case.headers else ["Content-Type"])]
    async with (
        asyncio.timeout(20),
        http.request(
            case.method,
            URL(str(http._base_url).rstrip("/") + case.path, encoded=True),
            data=io.BytesIO(case.body) if case.body else None,
            headers=headers | case.headers,
            skip_auto_headers=skipped,
        ) as response,
    ):
        return told(
            response.status, response.headers, (await response.read()).decode("utf-8", "replace")
        )


async def answers(server: KubeServer, group: str) -> dict[str, dict[str, Any]]:
    """What a server with the world in it answers to the cases of a group, in order."""
    context = ssl.create_default_context(cafile=str(server.folder / "kube" / "ca.crt"))
    headers = {"Authorization": f"Bearer {server.token}"}
    connector = aiohttp.TCPConnector(ssl=context)
    async with aiohttp.ClientSession(server.url, connector=connector) as http:
        for method, path, body in world():
            async with http.request(method, path, json=body, headers=headers) as response:
                assert response.status < 300 or response.status == 409, await response.text()
        return {case.name: await send(http, case, headers) for case in GROUPS[group]()}


@pytest.mark.parametrize("group", list(GROUPS))
async def test_odd_requests_are_answered_as_a_kubernetes_api_does(
    tmp_path: Path, group: str
) -> None:
    async with kube_server(tmp_path) as server:
        found = await answers(server, group)
    wrong = {
        name: {"answered": answer, "expected": EXPECTED[name]}
        for name, answer in found.items()
        if not is_as_expected(answer, EXPECTED[name])
    }
    assert not wrong, json.dumps(wrong, indent=1)


def test_every_expectation_is_of_a_case() -> None:
    assert {case.name for group in GROUPS.values() for case in group()} == set(EXPECTED)
