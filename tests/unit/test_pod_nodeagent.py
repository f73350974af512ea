"""What changes of a Node is told at once, and the Lease keeps its pace."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from edge import node as nodes
from edge.node import NodeAgent
from gateway.model.json import JsonObject
from tests.virtual_time import VirtualLoop, run_virtually


class Plain:
    """A machine that has nothing to say by itself."""

    name = "edge-1"
    stored: JsonObject = {}  # noqa: RUF012

    def node(self, _now: int) -> JsonObject:
        return {}

    def status(self, _now: int) -> JsonObject:
        return {}

    def has_news(self, _now: int) -> bool:
        return False


def test_a_kick_is_a_patch_at_once_and_leases_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(loop: VirtualLoop) -> list[tuple[str, float]]:
        sent: list[tuple[str, float]] = []
        parts: Any = Plain()
        agent = NodeAgent(parts, parts)

        def noted(name: str) -> Any:
            async def note(*_: object) -> None:
                sent.append((name, loop.time()))

            return note

        monkeypatch.setattr(agent, "_patch_status", noted("patch"))
        monkeypatch.setattr(agent, "_register", noted("register"))
        monkeypatch.setattr(agent, "_ask_lease", noted("lease"))
        task = asyncio.create_task(agent.run(lambda: None))
        agent.link_up(has_spool=True)
        await asyncio.sleep(12)
        agent.kick()
        await asyncio.sleep(3)
        agent.link_down()
        await asyncio.sleep(60)
        agent.kick()
        await asyncio.sleep(60)
        agent.link_up(has_spool=True)
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return sent

    assert nodes.RENEW_SECONDS == 10.0
    sent = [(name, round(when)) for name, when in run_virtually(work)]
    assert sent == [
        ("lease", 0),
        ("register", 0),
        ("lease", 0),
        ("lease", 10),
        ("patch", 12),
        ("lease", 135),
        ("register", 135),
        ("lease", 135),
    ]


def test_a_lease_ends_with_its_node() -> None:
    owner: JsonObject = {"metadata": {"uid": "n-1"}}
    owners = [{"apiVersion": "v1", "kind": "Node", "name": "edge-1", "uid": "n-1"}]
    new: Any = nodes.lease("edge-1", 0, None, owner)
    assert new["metadata"]["ownerReferences"] == owners
    found: Any = nodes.lease("edge-1", 0, {"metadata": {"name": "edge-1"}}, owner)
    assert found["metadata"] == {"ownerReferences": owners, "name": "edge-1"}
    kept: Any = nodes.lease("edge-1", 0, {"metadata": {"ownerReferences": []}}, owner)
    assert kept["metadata"] == {"ownerReferences": []}
    unknown: Any = nodes.lease("edge-1", 0, None, {})
    assert "ownerReferences" not in unknown["metadata"]
