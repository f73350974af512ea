"""Settings that a ConfigUpdateJob may change, and the file that keeps them: `<data-dir>/edge/overlay.yaml`.

A job names settings as KubeEdge does, or as we do; what is not in the table cannot be changed from afar: not
who the node is, nor what would open it to other machines. Values are checked as strictly as a start checks
them, since a node that does not start again is lost. They count from the next start.
Source: KubeEdge reference, sections 19 and 25.2.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import yaml

from gateway.config.loading import OVERLAY, check_overlay, read_yaml
from gateway.errors import InvalidSetting
from gateway.model.json import Json, JsonObject
from gateway.runtime.listener import parse_bind

MAX_FIELDS = 100
MAX_VALUE = 1_000
_WORDS: Mapping[str, Json] = MappingProxyType({"true": True, "false": False})
_MODES = MappingProxyType({"0": "internal", "1": "both", "2": "external"})


@dataclass(frozen=True, slots=True)
class Field:
    """One setting: its path here, and how its text is read. `read` raises InvalidSetting."""

    path: str
    read: Callable[[str], Json]


def _flag(text: str) -> Json:
    found = _WORDS.get(text.lower())
    if found is None:
        raise InvalidSetting(f"expected true or false, got {text!r}")
    return found


def _seconds(text: str) -> Json:
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 1 <= found <= 3_600:
        raise InvalidSetting(f"expected 1 to 3600 seconds, got {text!r}")
    return found


def _plain(text: str) -> Json:
    if not text.isprintable():
        raise InvalidSetting("expected printable text")
    return text


def _mode(text: str) -> Json:
    found = _MODES.get(text, text)
    if found not in _MODES.values():
        raise InvalidSetting(f"expected 0 to 2, internal, both or external, got {text!r}")
    return found


def _address(text: str) -> Json:
    address = text.partition("://")[2] or text
    parse_bind(address, "address")
    return address


def _loopback(text: str) -> Json:
    address = text.partition("://")[2] or text
    host, _ = parse_bind(address, "address")
    try:
        is_inside = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_inside = host == "localhost"
    if not is_inside:
        raise InvalidSetting(f"a job may bind to loopback only, got {text!r}")
    return address


FIELDS: Mapping[str, Field] = MappingProxyType(
    {
        "modules.edgeHub.heartbeat": Field("edge.hub.keepalive", _seconds),
        "modules.edgeHub.httpServer": Field("edge.hub.https_server", _address),
        "modules.edgeHub.websocket.server": Field("edge.hub.server", _address),
        "modules.metaManager.metaServer.enable": Field("edge.metaserver.enabled", _flag),
        "modules.metaManager.metaServer.server": Field("edge.metaserver.bind", _loopback),
        "modules.eventBus.mqttMode": Field("edge.mqtt.mode", _mode),
        "modules.eventBus.mqttServerInternal": Field("edge.mqtt.bind", _loopback),
        "modules.eventBus.mqttServerExternal": Field("edge.mqtt.external", _address),
        "modules.eventBus.mqttUsername": Field("edge.mqtt.external_username", _plain),
        "modules.serviceBus.enable": Field("edge.servicebus.enabled", _flag),
        "modules.serviceBus.timeout": Field("edge.servicebus.timeout", _seconds),
        "modules.edgeStream.enable": Field("edge.stream.enabled", _flag),
        "modules.edgeStream.server": Field("edge.stream.server", _address),
    }
)
"""KubeEdge's name -> our setting."""
_KNOWN: Mapping[str, Field] = MappingProxyType(
    {**FIELDS, **{field.path: field for field in FIELDS.values()}}
)


def read_fields(fields: JsonObject) -> dict[str, Json]:
    """Read what a job wants to change: our path -> value.

    Errors: InvalidSetting for an unknown name, a bad value, the same setting twice, or nothing at all.
    """
    if not 0 < len(fields) <= MAX_FIELDS:
        raise InvalidSetting(
            f"updateFields: expected 1 to {MAX_FIELDS} settings, got {len(fields)}"
        )
    found: dict[str, Json] = {}
    for name, value in fields.items():
        field = _KNOWN.get(name)
        if field is None:
            raise InvalidSetting(f"{name[:200]}: a job cannot change this setting")
        if not isinstance(value, str) or len(value) > MAX_VALUE:
            raise InvalidSetting(f"{name}: expected text of at most {MAX_VALUE} characters")
        if field.path in found:
            raise InvalidSetting(f"{name}: {field.path} is named twice")
        found[field.path] = _read(name, field, value.strip())
    return found


def _read(name: str, field: Field, value: str) -> Json:
    try:
        return field.read(value)
    except InvalidSetting as error:
        raise InvalidSetting(f"{name}: {error.message}") from error


class Overlay:
    """The file. Blocking: call it on a thread. Errors: OSError."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / OVERLAY
        self._backup = self._path.with_suffix(".before.yaml")

    @property
    def path(self) -> Path:
        return self._path

    def with_changes(self, values: Mapping[str, Json]) -> JsonObject:
        """Return what the file would hold with these changes. Errors: InvalidSetting."""
        content = read_yaml(self._path) if self._path.is_file() else {}
        for path, value in values.items():
            _put(content, path.split("."), value)
        check_overlay(content)
        return content

    def write(self, values: Mapping[str, Json]) -> None:
        """Keep these changes. Errors: InvalidSetting, and nothing is changed."""
        _save(self._path, yaml.safe_dump(self.with_changes(values)).encode())

    def back_up(self) -> None:
        """Keep what the file holds now; an empty copy where there is none."""
        _save(self._backup, self._path.read_bytes() if self._path.is_file() else b"")

    def restore(self) -> None:
        """Put back what `back_up` kept; nothing where it was not called."""
        if not self._backup.is_file():
            return
        content = self._backup.read_bytes()
        if content:
            _save(self._path, content)
        else:
            self._path.unlink(missing_ok=True)


def _put(tree: JsonObject, path: list[str], value: Json) -> None:
    for key in path[:-1]:
        branch = tree.get(key)
        if not isinstance(branch, dict):
            branch = {}
            tree[key] = branch
        tree = branch
    tree[path[-1]] = value


def _save(path: Path, data: bytes) -> None:
    """Write a file that is there as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.new")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
