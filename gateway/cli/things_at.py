"""What all commands on things share: where the server is, paths, searching, completing thing IDs."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar, cast
from urllib.parse import quote

import click

from gateway.cli import client
from gateway.cli.client import Api, service_options
from gateway.errors import GatewayError
from gateway.model.json import JsonObject

T = TypeVar("T")

PAGE: Final = 200
_COMPLETION_SECONDS: Final = 1.0
_MAX_COMPLETIONS: Final = 50


class Where:
    """What `--data-dir`, `--url` and `--user` said."""

    def __init__(self, data_dir: Path | None, url: str | None, user: str | None) -> None:
        self._options = (data_dir, url, user)

    def run(self, work: Callable[[Api], Coroutine[Any, Any, T]]) -> T:
        """Run the requests of one command."""
        return client.run(client.find("ditto.http", "ditto", *self._options), work)


def at_things(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say where the things are; the command gets them as `where`."""

    @service_options
    @functools.wraps(function)
    def inner(
        *args: Any, data_dir: Path | None, url: str | None, user: str | None, **options: Any
    ) -> None:
        function(Where(data_dir, url, user), *args, **options)

    return inner


def thing_path(thing_id: str, path: str = "") -> str:
    """The URL path of a thing, or of what is below it."""
    below = "/".join(quote(segment, "") for segment in path.strip("/").split("/") if segment)
    return f"/api/2/things/{quote(thing_id, ':')}" + (f"/{below}" if below else "")


async def search(
    api: Api,
    filter_: str | None,
    fields: str | None = None,
    *,
    namespaces: Sequence[str] = (),
    sort: str | None = None,
) -> AsyncIterator[list[JsonObject]]:
    """All things that match and may be read, page after page."""
    order = f",sort({sort})" if sort else ""
    query = {"option": f"size({PAGE}){order}"}
    query |= {"filter": filter_} if filter_ else {}
    query |= {"fields": fields} if fields else {}
    query |= {"namespaces": ",".join(namespaces)} if namespaces else {}
    while True:
        _, value = await api.call("GET", "/api/2/search/things", query=query)
        body = cast(dict[str, Any], value)
        yield body["items"]
        if not body.get("cursor"):
            return
        query["option"] = f"cursor({body['cursor']})"


def complete_thing(context: click.Context, _parameter: click.Parameter, given: str) -> list[str]:
    """Thing IDs that begin like this, asked of the server; none where it does not answer at once."""
    options = context.params
    where = Where(options.get("data_dir"), options.get("url"), options.get("user"))

    async def ask(api: Api) -> list[str]:
        pattern = given.replace("\\", "").replace('"', "")
        query = {
            "fields": "thingId",
            "filter": f'like(thingId,"{pattern}*")',
            "option": f"size({_MAX_COMPLETIONS}),sort(+thingId)",
        }
        async with asyncio.timeout(_COMPLETION_SECONDS):
            _, value = await api.call("GET", "/api/2/search/things", query=query)
        return [str(one["thingId"]) for one in cast(dict[str, Any], value)["items"]]

    with suppress(GatewayError, OSError):
        return where.run(ask)
    return []
