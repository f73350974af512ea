"""What nodes report of node jobs by HTTPS: KubeEdge's older form (v1alpha1).

Only with the node's own certificate: KubeEdge asks for none, so anybody could end anybody's job.
Source: KubeEdge reference, sections 4.4 and 19.3; keys are Go's field names.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, TypeVar

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from gateway.errors import BadRequest, TooLarge
from gateway.model.json import Json
from gateway.wire.cloudedge.names import check_node_name
from gateway.wire.cloudedge.tasks import (
    BACK_UP,
    CHECK,
    MAX_PART,
    MAX_TEXT,
    PREPULL_JOB,
    PULL,
    ROLL_BACK,
    UPGRADE,
    UPGRADE_JOB,
    TaskReported,
)

if TYPE_CHECKING:
    from cloud.tasks import NodeTasks

MAX_BODY = 3 * 1024 * 1024
BODY_SECONDS = 10.0
TASK_PATH, UPGRADE_PATH = "/task/{type}/name/{id}/node/{node}/status", "/nodeupgrade"

CheckPeer = Callable[[web.Request, str], None]
"""Raises unless the request comes with the certificate of this node."""
S = TypeVar("S", bound=Struct)
_Short = Annotated[str, Meta(max_length=MAX_PART)]
_Long = Annotated[str, Meta(max_length=MAX_TEXT)]

_KINDS = MappingProxyType({"upgrade": UPGRADE_JOB, "rollback": UPGRADE_JOB, "prepull": PREPULL_JOB})
_ACTIONS: Mapping[str, str] = MappingProxyType(
    {
        "init": CHECK,
        "check": CHECK,
        "pull": PULL,
        "backup": BACK_UP,
        "upgrade": UPGRADE,
        "upgrading": UPGRADE,
        "rollback": ROLL_BACK,
    }
)
"""Event of the older form, in small letters -> action of the newer."""


class _Response(Struct, frozen=True, rename="pascal"):
    """NodeTaskResponse."""

    node_name: _Short = ""
    event: _Short = ""
    action: _Short = ""
    time: _Short = ""
    reason: _Long = ""
    external_message: _Long = ""


class _Upgraded(Struct, frozen=True, rename="pascal"):
    """NodeUpgradeJobResponse."""

    upgrade_id: Annotated[_Short, Meta(min_length=1)] = msgspec.field(name="UpgradeID")
    node_name: _Short = ""
    from_version: _Short = ""
    to_version: _Short = ""
    status: _Short = ""
    reason: _Long = ""


_response = msgspec.json.Decoder(_Response)
_upgraded = msgspec.json.Decoder(_Upgraded)


class TaskHttp:
    """The two routes, for the application of the HTTPS listener."""

    def __init__(self, tasks: NodeTasks, check_peer: CheckPeer) -> None:
        self._tasks = tasks
        self._check_peer = check_peer

    def add_to(self, app: web.Application) -> None:
        app.router.add_post(UPGRADE_PATH, self._upgraded)
        app.router.add_post(TASK_PATH, self._task)

    async def _task(self, request: web.Request) -> web.Response:
        node = check_node_name(request.match_info["node"])
        self._check_peer(request, node)
        kind = _KINDS.get(request.match_info["type"])
        if kind is None:
            raise BadRequest(f"task type: expected one of {', '.join(_KINDS)}")
        body = _read(_response, await read_body(request))
        self._tasks.report(task_report(kind, request.match_info["id"], node, body))
        return web.Response(text="ok")

    async def _upgraded(self, request: web.Request) -> web.Response:
        body = _read(_upgraded, await read_body(request))
        self._check_peer(request, check_node_name(body.node_name))
        for report in upgrade_reports(body):
            self._tasks.report(report)
        return web.Response(text="ok")


async def read_body(request: web.Request) -> bytes:
    """Read a body of the size that these routes take. Errors: TooLarge; TimeoutError."""
    parts, size = list[bytes](), 0
    async with asyncio.timeout(BODY_SECONDS):
        async for part in request.content.iter_chunked(65_536):
            size += len(part)
            if size > MAX_BODY:
                raise TooLarge(f"at most {MAX_BODY} bytes")
            parts.append(part)
    return b"".join(parts)


def task_report(kind: str, job: str, node: str, body: _Response) -> TaskReported:
    """Return the newer form of a NodeTaskResponse. Errors: BadRequest for an unknown event."""
    action = _ACTIONS.get(body.event.lower())
    if action is None:
        raise BadRequest(f"Event: expected one of {', '.join(_ACTIONS)}, got {body.event!r}")
    ok = body.action.lower() == "success"
    extend = body.external_message
    if kind == PREPULL_JOB and extend:
        extend = _image_status(extend)
    return TaskReported(kind, job, node, action, ok, body.time, body.reason, extend)


def upgrade_reports(body: _Upgraded) -> list[TaskReported]:
    """Return what an upgrade's result means: it went well, or failed and was rolled back or not."""
    versions = f"{body.from_version},{body.to_version}"
    ok = body.status == "upgrade_success"
    upgrade = TaskReported(
        UPGRADE_JOB, body.upgrade_id, body.node_name, UPGRADE, ok, "", body.reason, versions
    )
    if ok:
        return [upgrade]
    rolled_back = body.status == "upgrade_failed_rollback_success"
    back = TaskReported(
        UPGRADE_JOB, body.upgrade_id, body.node_name, ROLL_BACK, rolled_back, "", body.reason
    )
    return [upgrade, back]


def _image_status(text: str) -> str:
    """Say `status` where the older form says `state`."""
    try:
        rows: Json = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return ""
    words = {"successful": "True", "failed": "False"}
    found: list[Json] = [
        {**row, "status": words.get(str(row.get("state")).lower(), "Unknown")}
        for row in (rows if isinstance(rows, list) else [])
        if isinstance(row, dict)
    ]
    return msgspec.json.encode(found).decode()


def _read(decoder: msgspec.json.Decoder[S], body: bytes) -> S:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the body cannot be read: {error}") from None
