"""The push method `dbMethod.redis`: samples in sorted sets, scored by their time, as KubeEdge's mappers do.

Shape: the key is the Device's name, the score the time in ms, the member a JSON object with `DeviceName`,
`PropertyName`, `Namespace`, `Value`, `Type`, `TimeStamp`. The password comes from the environment variable
`PASSWORD`. Properties that go to one server share a connection; `poolsize` and `minIdleConns` are not used.
Source: KubeEdge reference, section 16.2, and its mapper template.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence

import msgspec

from edge.mappers.pushaddress import Address, read_address
from edge.mappers.pushing import AT_ONCE, Sample
from edge.mappers.redisclient import RedisClient
from edge.mappers.sharedlinks import SharedLinks
from gateway.errors import GatewayError, Rejected
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.devices import mapping
from gateway.wire.cloudedge.values import Typed

PORT = 6379
FIELD = "redisClientConfig"
_Server = tuple[Address, int]


class RedisServers:
    """The connections, one to each server and database."""

    def __init__(self) -> None:
        self._links: SharedLinks[_Server, _Link] = SharedLinks(FIELD)

    def make(self, config: JsonObject) -> RedisPusher:
        """Read `redis` of a `dbMethod`. Errors: Rejected."""
        client = mapping(config.get(FIELD))
        address = read_address(f"{FIELD}.addr", client.get("addr"), PORT)
        database = client.get("db", 0)
        if (
            not isinstance(database, int)
            or isinstance(database, bool)
            or not 0 <= database < 65_536
        ):
            raise Rejected(f"{FIELD}.db: expected a number from 0")
        password = os.environ.get("PASSWORD", "")
        if password:
            address.require_secrecy(f"{FIELD}.addr", "the password")
        server = address, database
        return RedisPusher(*self._links.take(server, lambda: _Link(address, database, password)))


class _Link:
    """One connection and who uses it."""

    def __init__(self, address: Address, database: int, password: str) -> None:
        self._at = address, password, database
        self._client: RedisClient | None = None
        self._turn = asyncio.Lock()

    async def ask(self, *words: str | bytes) -> None:
        """Send one command, alone. Errors: as `RedisClient.ask`."""
        async with self._turn:
            if self._client is None:
                self._client = await RedisClient.connect(*self._at)
            try:
                await self._client.ask(*words)
            except GatewayError as error:
                if error.status >= 500:
                    self.close()
                raise
            except (
                BaseException
            ):  # cancelled in the middle: what comes next would be another's answer
                self.close()
                raise

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None


class RedisPusher:
    """A property's samples to one server."""

    at_once = AT_ONCE

    def __init__(self, link: _Link, release: Callable[[], None]) -> None:
        self._link = link
        self._release = release

    async def push(self, samples: Sequence[Sample]) -> None:
        pairs = [part for sample in samples for part in (str(sample.at), member(sample))]
        await self._link.ask("ZADD", samples[0].device.name, *pairs)

    async def close(self) -> None:
        self._release()


def member(sample: Sample) -> bytes:
    """Write a sample as KubeEdge's data model has it."""
    return msgspec.json.encode(
        {
            "DeviceName": sample.device.name,
            "PropertyName": sample.name,
            "Namespace": sample.device.namespace,
            "Value": sample.text,
            "Type": type_name(sample.value),
            "TimeStamp": sample.at,
        }
    )


def type_name(value: Typed) -> str:
    """Return a value's type by the names that twins have for types."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "int"
    return "float" if isinstance(value, float) else "string"
