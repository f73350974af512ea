"""The server with control loops and a kubelet that runs nothing: for tests of workloads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from gateway.kube.client import KubeClient
from gateway.model.json import JsonObject
from gateway.wire.kube.parts import part, text
from tests.fake_kubelet import FakeKubelet
from tests.kube_server import KubeServer, kube_server

T = TypeVar("T")
PATIENCE = 15.0
GLANCE = 0.02
NAMESPACE = "default"


async def eventually(probe: Callable[[], Awaitable[T]], is_so: Callable[[T], bool]) -> T:
    """Wait until what is seen is so, and return it."""
    seen = await probe()
    try:
        async with asyncio.timeout(PATIENCE):
            while not is_so(seen):
                await asyncio.sleep(GLANCE)
                seen = await probe()
    except TimeoutError:
        raise AssertionError(f"never so; last seen: {seen}") from None
    return seen


@dataclass
class Workloads:
    """A client of the server, and its kubelet."""

    kube: KubeClient
    kubelet: FakeKubelet
    server: KubeServer

    async def pods(self) -> list[JsonObject]:
        return (await self.kube.list("v1", "pods", NAMESPACE)).items

    async def until_pods(self, is_so: Callable[[list[JsonObject]], bool]) -> list[JsonObject]:
        """Wait until the Pods of the namespace are so."""
        return await eventually(self.pods, is_so)

    async def until(
        self, place: tuple[str, str], name: str, is_so: Callable[[JsonObject], bool]
    ) -> JsonObject:
        """Wait until the status of an object is so."""

        async def status() -> JsonObject:
            return part(await self.kube.get(*place, NAMESPACE, name), "status")

        return await eventually(status, is_so)

    async def until_empty(self, place: tuple[str, str]) -> None:
        """Wait until there is no object of a kind."""
        await eventually(lambda: self.kube.list(*place, NAMESPACE), lambda found: not found.items)

    async def told(self) -> list[tuple[str, str]]:
        """Reason and message of each Event."""
        found = await self.kube.list("v1", "events", NAMESPACE)
        return [(text(item["reason"]), text(item["message"])) for item in found.items]


@asynccontextmanager
async def workloads(folder: Path, *controllers: str) -> AsyncIterator[Workloads]:
    """Run a server with these control loops; a second block continues with its data."""
    async with (
        kube_server(folder, controllers=controllers) as server,
        FakeKubelet(server.api.client("kubelet")).running() as kubelet,
    ):
        yield Workloads(server.api.client("tests"), kubelet, server)


def name_of(item: JsonObject) -> str:
    """Return an object's name."""
    return text(part(item, "metadata").get("name"))


def names(items: list[JsonObject]) -> set[str]:
    """Return the names of objects."""
    return {name_of(item) for item in items}
