"""`/traces` of the operations port: who may look, and what it takes for a question."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.console.trace_documents import TraceDocuments
from gateway.observe.recent import RecentTraces
from gateway.observe.tracing import Tracer
from gateway.runtime.small_http import Reply


async def ask(path: str, *, peer: str = "127.0.0.1", for_all: bool = False) -> tuple[int, Any]:
    tracer = Tracer()
    tracer.start("upload event", attributes={"device_id": "4711"}).end()
    documents = TraceDocuments(RecentTraces(tracer), for_all=for_all).by_path()
    document = documents["/traces/" if path.startswith("/traces/") else "/traces"]
    made = document({":path": path, ":peer": peer})
    assert not isinstance(made, Reply)
    reply = await made
    return reply.status, json.loads(reply.body)


@pytest.mark.parametrize(
    ("peer", "for_all", "status"),
    [
        ("127.0.0.1", False, 200),
        ("::1", False, 200),
        ("", False, 200),
        ("10.1.2.3", False, 403),
        ("fe80::1%eth0", False, 403),
        ("10.1.2.3", True, 200),
    ],
    ids=repr,
)
async def test_traces_name_devices_and_are_for_this_machine(
    peer: str, for_all: bool, status: int
) -> None:
    assert (await ask("/traces?device=4711", peer=peer, for_all=for_all))[0] == status


@pytest.mark.parametrize(
    "path",
    [
        "/traces?last=0",
        "/traces?last=101",
        "/traces?last=9999999999999999999",
        "/traces?last=-1",
        "/traces?last=%D9%A3",
        "/traces?kind=x",
        "/traces?what=x",
        "/traces?" + "&".join(f"a{number}=1" for number in range(50)),
        "/traces/",
        "/traces/../etc",
        "//[/traces/",
    ],
    ids=lambda path: path[:24],
)
async def test_what_is_not_understood_is_refused_with_what_was_expected(path: str) -> None:
    status, body = await ask(path)
    assert status == 400
    assert body["status"] == 400
    assert body["message"]


async def test_none_that_fits_is_no_error() -> None:
    assert await ask("/traces?last=5&device=nobody") == (200, {"traces": [], "seen": 1})


async def test_an_unknown_trace_is_not_found_and_says_why() -> None:
    status, body = await ask("/traces/" + "b" * 32)
    assert status == 404
    assert "sampled" in body["description"]
