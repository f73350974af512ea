"""CloudHub alone, for a benchmark: what comes is answered at once, what it is asked to push is acknowledged.

Lines on standard input: a number of objects to push to the node that is connected. Lines on standard
output: the port, then for each order the seconds until all were acknowledged.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
import time
from pathlib import Path
from typing import Any

from bench.bare_tls_sink import context
from cloud.hub import CloudHub
from cloud.sessions import Inbound, stamp
from gateway.config.cloud import CloudHub as Settings
from gateway.config.cloud import HubListener
from gateway.observe.metrics import Metrics
from gateway.runtime import process
from gateway.runtime.listener import Endpoints
from gateway.runtime.module import running
from gateway.wire.cloudedge.link import ObjectMessage
from gateway.wire.cloudedge.names import Operation
from gateway.wire.cloudedge.subjects import Subject
from gateway.wire.cloudedge.to_edge import change_object
from gateway.wire.cloudedge.uploads import EdgeUpload, answer_upload

ROUND = 500
"""Objects that wait at a time; a node's queue holds 1,000."""


class Keys:
    """What the hub needs of CloudCore's identity."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def tls(self, _verify: ssl.VerifyMode) -> ssl.SSLContext:
        return context(self._folder)


class Book:
    """Nothing is revoked."""

    def is_revoked(self, _certificate: object) -> bool:
        return False


class Pusher:
    """A listener of the hub that pushes objects and counts what is acknowledged."""

    def __init__(self, hub: CloudHub) -> None:
        self._hub = hub
        self._left = 0
        self._done = asyncio.Event()

    def node_connected(self, node: str) -> None: ...

    def node_disconnected(self, node: str) -> None: ...

    def node_is_new(self, node: str) -> None: ...

    def delivered(self, _node: str, _item: ObjectMessage) -> None:
        self._left -= 1
        if not self._left:
            self._done.set()

    async def push(self, count: int) -> float:
        """Push objects, return the seconds until all were acknowledged."""
        began = time.perf_counter()
        for first in range(0, count, ROUND):
            self._left = min(ROUND, count - first)
            self._done.clear()
            for number in range(first, first + self._left):
                self._hub.offer(self._hub.nodes[0], _object(number))
            await self._done.wait()
        return time.perf_counter() - began


def _object(number: int) -> ObjectMessage:
    name, version = f"config-{number}", str(number + 1)
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": "default",
        "uid": f"uid-{number}",
        "resourceVersion": version,
    }
    body: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata,
        "data": {"key": "x" * 100},
    }
    subject = Subject("default", "configmap", name)
    envelope = change_object(stamp(), subject, Operation.UPDATE, body, version=version)
    return ObjectMessage(f"uid-{number}", version, envelope)


async def _taken(inbound: Inbound, _item: EdgeUpload) -> None:
    inbound.reply(answer_upload(inbound.envelope, stamp(), None))


async def main(folder: Path) -> None:
    settings = Settings(wss=HubListener(bind="127.0.0.1:0"))
    endpoints, identity, book = Endpoints(), Keys(folder), Book()
    hub = CloudHub(settings, identity, book, endpoints, Metrics())  # type: ignore[arg-type]
    hub.on(EdgeUpload, _taken, lambda item: item.device)
    pusher = Pusher(hub)
    hub.add_listener(pusher)
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with running(hub):
        print(endpoints.port("cloudhub.wss"), flush=True)
        while line := await reader.readline():
            print(await pusher.push(int(line)), flush=True)


if __name__ == "__main__":
    process.run(main(Path(sys.argv[1])))
