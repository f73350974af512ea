"""One adapter on the real core, as a server for ingest benchmarks: only the application is missing.

Tenant `T` with the device `bench`, password `x`; logins, registry, limits, metrics and traces as ever; each
message is accepted at once. The garbage collector is set as in the shipped program. Prints the port, serves
until its standard input ends.
Run: `python -m bench.ingest_core mqtt|http [--plain-loop]`.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from gateway.config.hono import MqttAdapter as MqttSettings
from gateway.hono.adapters.mqtt import MqttAdapter
from gateway.hono.adapters.mqtt_device import Rooms
from gateway.model.json import Json
from gateway.model.message import Message
from gateway.model.ports import Done
from gateway.runtime import process
from gateway.runtime.memory import settle_memory
from gateway.runtime.module import running
from tests.hono_rig import FREE, Consumer, Core, a_core, an_http_adapter

TENANT, DEVICE, PASSWORD = "T", "bench", b"x"
DEVICES = 500
"""Devices `d0` to `d499` with password `pw` are there too, for loads by many."""


class Everything(Consumer):
    """An application that takes all and keeps nothing."""

    def send(self, message: Message, done: Done) -> None:
        del message
        done(None)


@asynccontextmanager
async def an_mqtt_adapter(core: Core) -> AsyncIterator[None]:
    """The MQTT adapter of `core`."""
    rooms = Rooms(
        ingress=core.ingress,
        commands=core.commands,
        authenticator=core.authenticator,
        admission=core.connections,
        assertions=core.registry,
    )
    async with running(MqttAdapter(MqttSettings(bind=FREE), core.endpoints, core.metrics, rooms)):
        yield


ADAPTERS: dict[str, Callable[[Core], AbstractAsyncContextManager[object]]] = {
    "mqtt": an_mqtt_adapter,
    "http": an_http_adapter,
}


async def serve(protocol: str) -> None:
    """Serve one adapter until standard input ends."""
    async with a_core() as core:
        core.consumer.send = Everything().send  # type: ignore[method-assign]
        await fill(core)
        async with ADAPTERS[protocol](core):
            settle_memory()
            print(core.endpoints.port(f"hono.{protocol}"), flush=True)
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


async def fill(core: Core) -> None:
    """Make the tenant and its devices."""
    logins = {DEVICE: PASSWORD} | {f"d{number}": b"pw" for number in range(DEVICES)}
    await core.tenant(TENANT)
    for name, password in logins.items():
        digest = base64.b64encode(hashlib.sha256(password).digest()).decode()
        secret: Json = {"pwd-hash": digest, "hash-function": "sha-256"}
        await core.device(TENANT, name)
        credentials: Json = {"type": "hashed-password", "auth-id": name, "secrets": [secret]}
        await core.registry.update_credentials(TENANT, name, [credentials], None)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("protocol", choices=ADAPTERS)
    parser.add_argument("--plain-loop", action="store_true")
    options = parser.parse_args()
    process.run(serve(options.protocol), fast=not options.plain_loop)


if __name__ == "__main__":
    main()
