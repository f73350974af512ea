"""The Devices of this node as its disk has them, for those who look on from outside. Nothing is written."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from edge.dmimappers import META_TYPE as MAPPER
from edge.dmimappers import MapperInfo
from edge.identity import FOLDER
from gateway.errors import GatewayError, InvalidSetting
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.models import ModelView, with_defaults

BUSY_SECONDS: Final = 2.0
_SELECT: Final = "SELECT value FROM meta WHERE type = ? ORDER BY key"


@dataclass(frozen=True, slots=True)
class Stored:
    """What the disk has.

    Shape:  `devices` with their models' defaults; `mappers` over DMI, protocol -> name.
    """

    devices: tuple[DeviceView, ...] = ()
    mappers: Mapping[str, str] = field(default_factory=dict)


def read_stored(data_dir: Path) -> Stored:
    """Read it; nothing where there is no edge. Errors: InvalidSetting for a database that cannot be read."""
    file = data_dir / FOLDER / "edge.db"
    if not file.is_file():
        return Stored()
    try:
        source = f"{file.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(source, uri=True, timeout=BUSY_SECONDS)) as db:
            devices, models, mappers = (
                _texts(db, kind) for kind in ("device", "devicemodel", MAPPER)
            )
    except sqlite3.Error as error:
        raise InvalidSetting(f"{file} cannot be read: {error}") from error
    return Stored(tuple(_devices(devices, models)), dict(_mappers(mappers)))


def _texts(db: sqlite3.Connection, kind: str) -> list[str]:
    return [value for (value,) in db.execute(_SELECT, (kind,))]


def _devices(devices: list[str], models: list[str]) -> Iterator[DeviceView]:
    """Give the Devices that can be read; EdgeCore's log names the others."""
    known: dict[tuple[str, str], ModelView] = {}
    for document in _documents(models):
        try:
            model = ModelView.read(document)
        except GatewayError:
            continue
        known[model.meta.namespace, model.meta.name] = model
    for document in _documents(devices):
        try:
            view = DeviceView.read(document)
        except GatewayError:
            continue
        yield with_defaults(view, known.get((view.meta.namespace, view.model)))


def _documents(texts: list[str]) -> Iterator[JsonObject]:
    for text in texts:
        try:
            found = msgspec.json.decode(text)
        except msgspec.DecodeError:
            continue
        if isinstance(found, dict):
            yield found


def _mappers(texts: list[str]) -> Iterator[tuple[str, str]]:
    for text in texts:
        try:
            mapper = msgspec.json.decode(text, type=MapperInfo)
        except msgspec.MsgspecError:
            continue
        yield mapper.protocol, mapper.name
