"""The mappers that have registered: remembered on disk, so that they are found after a restart.

One mapper serves a protocol; who registers later for the same takes its place. A mapper names its own socket,
so the path is judged twice: as text when it registers, when there may be no socket yet, and on disk before
each connection.
Source: KubeEdge reference, sections 17.2, 17.4.
"""

from __future__ import annotations

import asyncio
import logging
import os
import stat
from pathlib import Path

import msgspec
from msgspec import Struct

from edge.store import EdgeStore, MetaObject
from gateway.errors import BadRequest, GatewayError
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.devices import text

log = logging.getLogger(__name__)

META_TYPE = "devicemapper"
MAX_MAPPERS = 32
MAX_TEXT = 256
MAX_PATH = 107
"""Bytes of a Unix socket's path."""


class MapperInfo(Struct, frozen=True):
    """Who serves a protocol, and where."""

    name: str
    protocol: str
    address: str
    version: str = ""
    api_version: str = ""


def read_mapper(message: JsonObject, folder: Path) -> MapperInfo:
    """Read DMI's `MapperInfo`. Errors: BadRequest, naming the field."""
    found = {name: text(message.get(name)) for name in MapperInfo.__struct_fields__}
    for name, value in found.items():
        if len(value) > (MAX_PATH if name == "address" else MAX_TEXT) or "\0" in value:
            raise BadRequest(f"mapper.{name}: too long, or not text")
    for name in ("name", "protocol", "address"):
        if not found[name]:
            raise BadRequest(f"mapper.{name}: expected a value")
    check_address(found["address"], folder)
    return MapperInfo(**found)


def check_address(address: str, folder: Path) -> None:
    """Judge the text of a socket's path. Errors: BadRequest."""
    path = Path(address.removeprefix("unix://"))
    if not path.is_absolute() or ".." in path.parts or not path.is_relative_to(folder):
        raise BadRequest(
            f"mapper.address: expected the absolute path of a socket below {folder}",
            description="Let the mapper listen there, or set edge.dmi.mappers_dir.",
        )


def socket_path(mapper: MapperInfo, folder: Path) -> str:
    """Return where to connect, links followed. Errors: BadRequest for what is no socket below `folder`."""
    real = os.path.realpath(mapper.address.removeprefix("unix://"))
    if not Path(real).is_relative_to(os.path.realpath(folder)):
        raise BadRequest(f"the socket of mapper {mapper.name} is not below {folder}")
    try:
        mode = os.stat(real).st_mode
    except OSError as error:
        raise BadRequest(f"mapper {mapper.name} has no socket yet") from error
    if not stat.S_ISSOCK(mode):
        raise BadRequest(f"what mapper {mapper.name} names is no socket")
    return real


class MapperBook:
    """The mappers by protocol, on disk and in memory."""

    def __init__(self, store: EdgeStore) -> None:
        self._store = store
        self.mappers: dict[str, MapperInfo] = {}

    async def load(self) -> None:
        """Read what is on disk; what cannot be read is left out."""
        for entry in await self._store.meta_of_type(META_TYPE):
            try:
                mapper = msgspec.json.decode(entry.value, type=MapperInfo)
            except msgspec.MsgspecError as error:
                log.warning("a stored mapper is of no use", extra={"cause": str(error)})
                continue
            self.mappers[mapper.protocol] = mapper

    async def keep(self, mapper: MapperInfo) -> None:
        """Keep a mapper. Errors: BadRequest when there are too many; StoreUnavailable."""
        if mapper.protocol not in self.mappers and len(self.mappers) >= MAX_MAPPERS:
            raise BadRequest(f"at most {MAX_MAPPERS} mappers", status=429)
        future: asyncio.Future[GatewayError | None] = asyncio.get_running_loop().create_future()

        def done(error: GatewayError | None) -> None:
            if not future.done():
                future.set_result(error)

        value = msgspec.json.encode(mapper).decode()
        key = f"{META_TYPE}/{mapper.protocol}"
        self._store.put_meta(MetaObject(key, META_TYPE, value), done)
        error = await future
        if error is not None:
            raise error
        self.mappers[mapper.protocol] = mapper
