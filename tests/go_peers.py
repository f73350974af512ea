"""Peers written in Go: programs of `.peers/go/bin` that speak JSON lines on their pipes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

BIN = Path(__file__).parents[1] / ".peers" / "go" / "bin"
SECONDS = 20.0
LINE = 16 * 1024 * 1024


def go_program(name: str) -> Path:
    """Return a built program, or skip with the command that builds it."""
    path = BIN / name
    if not path.exists():
        pytest.skip(f"NOT RUN: the Go peer '{name}' is not built; scripts/go-peers.sh builds it")
    return path


class GoPeer:
    """One running program: what it told, and what to tell it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.told: list[dict[str, Any]] = []
        self._news = asyncio.Event()

    async def read_forever(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.told.append(json.loads(line))
            self._news.set()
        self._news.set()

    async def tell(self, command: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        await self._process.stdin.drain()

    async def event(self, name: str, fits: Callable[[Any], bool] = lambda _: True) -> Any:
        """Return the first event of this name that fits, past or future; fail when the program fails."""
        async with asyncio.timeout(SECONDS):
            while True:
                self._news.clear()
                for told in self.told:
                    assert told["event"] != "failed", told
                    if told["event"] == name and fits(told):
                        return told
                await self._news.wait()

    async def message(self, resource: str, operation: str = "", *, parent: str = "") -> Any:
        """Return the message about `resource` that the program got, with what it read from it."""

        def fits(told: Any) -> bool:
            found = told["message"]
            return (
                found["route"].get("resource") == resource
                and operation in ("", found["route"].get("operation"))
                and parent in ("", found["header"].get("parent_msg_id"))
            )

        return await self.event("message", fits)

    async def send(
        self, resource: str, operation: str, content: Any, *, version: str = "", **route: str
    ) -> str:
        """Let the program send a message; return its id."""
        count = len([told for told in self.told if told["event"] == "sent"])
        route |= {"resource": resource, "operation": operation}
        await self.tell({"route": route, "resourceversion": version, "content": content})
        sent = await self.event("sent", lambda told: self._index(told) >= count)
        return str(sent["id"])

    def _index(self, told: Any) -> int:
        return [each for each in self.told if each["event"] == "sent"].index(told)


@asynccontextmanager
async def go_peer(name: str, *arguments: str) -> AsyncIterator[GoPeer]:
    """Run a program for the length of the block."""
    process = await asyncio.create_subprocess_exec(
        go_program(name),
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=LINE,
    )
    peer = GoPeer(process)
    reader = asyncio.create_task(peer.read_forever())
    try:
        yield peer
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await reader
