"""Things as an application sees them at a Ditto elsewhere: over its HTTP API alone."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp

from gateway import errors
from gateway.config.ditto import Ditto
from gateway.config.remote_things import RemoteThings
from gateway.model.thing import Action, Thing, ThingCommand, ThingResult
from tests.cloud_rig import CloudCore, a_cloud
from tests.ditto_rig import Stack, a_ditto
from tests.tcp_proxy import TcpProxy, a_proxy

OPERATOR = ("ditto", "ditto")
CLOUDCORE = ("alice", "wonder")
_ERRORS = {
    400: errors.BadRequest,
    403: errors.Forbidden,
    404: errors.NotFound,
    409: errors.Conflict,
    412: errors.PreconditionFailed,
}
_METHODS = {
    Action.CREATE: "PUT",
    Action.MODIFY: "PUT",
    Action.MERGE: "PATCH",
    Action.DELETE: "DELETE",
    Action.RETRIEVE: "GET",
}


@dataclass(frozen=True)
class RemoteNorth:
    """An operator with curl."""

    url: str
    user: tuple[str, str] = OPERATOR

    async def load(self, thing_id: str) -> Thing | None:
        fields = "thingId,policyId,attributes,features,_metadata,_revision"
        status, found = await self.ask("GET", f"things/{quote(thing_id)}?fields={fields}")
        if status == 404:
            return None
        assert status == 200, found
        return Thing(thing_id, found.pop("_revision"), found, "", "")

    async def execute(self, command: ThingCommand) -> ThingResult:
        path = "/".join(quote(one, safe="") for one in (command.thing_id, *command.path))
        kind = "merge-patch+json" if command.action is Action.MERGE else "json"
        headers = {"Content-Type": f"application/{kind}"}
        if command.trace is not None:
            headers["traceparent"] = command.trace.traceparent
        value = None if command.action is Action.DELETE else json.dumps(command.value)
        status, found = await self.ask(_METHODS[command.action], f"things/{path}", value, headers)
        if status >= 400:
            raise _ERRORS.get(status, errors.GatewayError)(str(found))
        return ThingResult(status=status, value=found)

    async def ask(
        self, method: str, path: str, body: str | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        auth = basic(self.user)
        async with (
            aiohttp.ClientSession(headers={"Authorization": auth}) as http,
            http.request(method, f"{self.url}/api/2/{path}", data=body, headers=headers) as answer,
        ):
            text = await answer.text()
            return answer.status, json.loads(text) if text else None


def remote_settings(folder: Path, address: str, **more: Any) -> Ditto:
    """Settings of a CloudCore whose things are at `address`."""
    secret = folder / "remote-password"
    secret.write_text(CLOUDCORE[1] + "\n")
    settings = {
        "url": address,
        "username": CLOUDCORE[0],
        "password_file": str(secret),
        "max_rate": 2_000.0,
        **more,
    }
    remote = RemoteThings(**settings)
    return Ditto(mode="remote", remote=remote)


def basic(user: tuple[str, str]) -> str:
    return "Basic " + base64.b64encode(":".join(user).encode()).decode()


@dataclass
class Far:
    """A Ditto elsewhere, the line to it, and how to start a CloudCore here."""

    ditto: Stack
    line: TcpProxy
    folder: Path
    settings: Ditto
    start: Callable[..., AbstractAsyncContextManager[CloudCore]]

    @property
    def north(self) -> RemoteNorth:
        return RemoteNorth(self.ditto.url)

    def cut(self) -> None:
        """The network between CloudCore and Ditto breaks."""
        self.line.refuses = True
        self.line.cut()

    def mend(self) -> None:
        self.line.refuses = False


@asynccontextmanager
async def far_away(folder: Path, **settings: Any) -> AsyncIterator[Far]:
    remote = {name: settings.pop(name) for name in ("max_rate",) if name in settings}
    async with a_ditto(**settings) as ditto, a_proxy(ditto.address) as line:
        mode = remote_settings(folder, f"http://{line.address}", **remote)
        yield Far(
            ditto,
            line,
            folder,
            mode,
            partial(a_cloud, folder, ditto=mode, north=RemoteNorth(ditto.url)),
        )
