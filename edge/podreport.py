"""The Pods, logs and devices of this node as its own command line sees them: without a cloud.

A running EdgeCore is asked at its kubelet's API; else the disk tells what was last known. Nothing is written.
"""

from __future__ import annotations

import http.client
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from edge.identity import FOLDER, Identity
from edge.kubeletaccess import ENDPOINT
from edge.podstatuses import KEPT, own_uid, with_newest
from gateway.errors import BadRequest, GatewayError, InvalidSetting, NotFound, Undeliverable
from gateway.model.json import JsonObject
from gateway.runtime.listener import ENDPOINTS_FILE
from gateway.wire.kube.parts import part, rows, text

SECONDS = 5.0
BUSY_SECONDS = 2.0
MAX_LIST = 64 * 1024 * 1024
MAX_SAID = 4_096
PIECE = 65_536
_REFUSED = {400: BadRequest, 404: NotFound}


@dataclass(frozen=True, slots=True)
class PodReport:
    """Pods, and whether they are told by a running EdgeCore or by the disk."""

    is_live: bool
    pods: list[JsonObject]

    def of(self, namespace: str, name: str) -> JsonObject:
        """Errors: NotFound."""
        for each in self.pods:
            meta = part(each, "metadata")
            if (meta.get("namespace") or "default", meta.get("name")) == (namespace, name):
                return each
        raise NotFound(f'pods "{name}" not found on this node, in namespace {namespace}')


def report(data_dir: Path) -> PodReport:
    """Return this node's Pods. Errors: InvalidSetting when it has not joined or its disk cannot be read."""
    address = kubelet_address(data_dir)
    if address:
        try:
            with closing(_connected(address)) as connection:
                connection.request("GET", "/pods")
                found = json.loads(connection.getresponse().read(MAX_LIST))
            return PodReport(True, [each for each in found["items"] if isinstance(each, dict)])
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
            pass  # it has ended; its file is still there
    return PodReport(False, pods_of_disk(data_dir))


def kubelet_address(data_dir: Path) -> str:
    """Return `host:port` of the kubelet's API of the process of this folder, "" without one."""
    try:
        found = json.loads((data_dir / ENDPOINTS_FILE).read_text("utf-8"))[ENDPOINT]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return found if isinstance(found, str) else ""


def _connected(address: str, seconds: float | None = SECONDS) -> http.client.HTTPConnection:
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=SECONDS)
    connection.connect()
    connection.sock.settimeout(seconds)
    return connection


def live_log(
    address: str, namespace: str, name: str, container: str, query: dict[str, str]
) -> Iterator[bytes]:
    """Yield a log from a running EdgeCore; a quiet one is waited for.

    Errors: BadRequest, NotFound with the kubelet's words; Undeliverable when it breaks.
    """
    path = "/".join(quote(each, safe="") for each in (namespace, name, container))
    try:
        with closing(_connected(address, None)) as connection:
            connection.request("GET", f"/containerLogs/{path}?{urlencode(query)}")
            answer = connection.getresponse()
            if answer.status != 200:
                said = answer.read(MAX_SAID).decode("utf-8", "replace").strip()
                raise _refusal(answer.status, said)
            while piece := answer.read1(PIECE):
                yield piece
    except (OSError, http.client.HTTPException) as error:
        raise Undeliverable(f"EdgeCore's kubelet API at {address}: {error}") from error


def _refusal(status: int, said: str) -> GatewayError:
    return _REFUSED.get(status, Undeliverable)(said)


# --- the disk -------------------------------------------------------------------------------------


def _query(data_dir: Path, sql: str, *values: str) -> list[tuple[Any, ...]]:
    """Errors: InvalidSetting."""
    Identity(data_dir).load()  # says how to join where this folder has not
    file = data_dir / FOLDER / "edge.db"
    if not file.is_file():
        return []
    try:
        uri = f"{file.resolve().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS)) as db:
            return db.execute(sql, values).fetchall()
    except sqlite3.Error as error:
        raise InvalidSetting(f"{file} cannot be read: {error}") from error


def _objects(data_dir: Path, kind: str) -> Iterator[JsonObject]:
    for (value,) in _query(data_dir, "SELECT value FROM meta WHERE type = ? ORDER BY key", kind):
        found = json.loads(value)
        if isinstance(found, dict):
            yield found


def pods_of_disk(data_dir: Path) -> list[JsonObject]:
    """Return the Pods as they were last known, each with its newest status. Errors: InvalidSetting."""
    statuses = {text(each.get("uid")): each for each in _objects(data_dir, KEPT)}
    return [with_newest(pod, statuses) for pod in _objects(data_dir, "pod")]


def log_file(logs: Path, pod: JsonObject, container: str, *, previous: bool) -> Path:
    """Return the file of a container's newest attempt, or of the one before. Errors: NotFound."""
    meta = part(pod, "metadata")
    namespace, name = text(meta.get("namespace")) or "default", text(meta.get("name"))
    folder = logs / f"{namespace}_{name}_{own_uid(pod)}" / container
    numbers = sorted(int(each.stem) for each in folder.glob("*.log") if each.stem.isdigit())
    if len(numbers) <= previous:
        what = f'previous terminated container "{container}"' if previous else "log"
        raise NotFound(f'{what} of pod "{name}" not found in {folder}')
    return folder / f"{numbers[-2 if previous else -1]}.log"


def containers_of(pod: JsonObject) -> list[str]:
    """Return the names of all containers: plain, init, ephemeral."""
    spec = part(pod, "spec")
    keys = ("containers", "initContainers", "ephemeralContainers")
    return [text(row.get("name")) for key in keys for row in rows(spec.get(key))]


def devices(data_dir: Path) -> list[JsonObject]:
    """Return this node's devices with what is known of them. Errors: InvalidSetting.

    Shape:  twins: property -> the value it has and the one that is wished for, each None where it was never
            set.
    """
    twins: dict[str, JsonObject] = {}
    sql = "SELECT deviceid, name, expected, actual FROM device_twin ORDER BY deviceid, name"
    for device, name, expected, actual in _query(data_dir, sql):
        row: JsonObject = {"reported": _value(actual), "desired": _value(expected)}
        twins.setdefault(device, {})[name] = row
    specs = {_device_id(each): part(each, "spec") for each in _objects(data_dir, "device")}
    found: list[JsonObject] = []
    for key, state, online in _query(
        data_dir, "SELECT id, state, last_online FROM device ORDER BY id"
    ):
        spec = specs.get(key, {})
        namespace, _, name = key.rpartition("/")
        found.append(
            {
                "namespace": namespace or "default",
                "name": name,
                "protocol": text(part(spec, "protocol").get("protocolName")),
                "model": text(part(spec, "deviceModelRef").get("name")),
                "state": state,
                "last_online": online,
                "twins": twins.get(key, {}),
            }
        )
    return found


def _device_id(device: JsonObject) -> str:
    meta = part(device, "metadata")
    return f"{text(meta.get('namespace')) or 'default'}/{text(meta.get('name'))}"


def _value(side: str | None) -> str | None:
    """Return the value of a twin's side, which is JSON text."""
    if side is None:
        return None
    try:
        found = json.loads(side)
    except ValueError:
        return side
    value = found.get("value") if isinstance(found, dict) else found
    return value if isinstance(value, str) or value is None else json.dumps(value)
