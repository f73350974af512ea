"""`twinspan thing`: digital twins from the command line."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import quote

import click

from gateway.cli import client
from gateway.cli.client import Api, service_options
from gateway.cli.options import output_option
from gateway.cli.output import parse_value, print_data, print_rows
from gateway.model.json import JsonObject

T = TypeVar("T")


class Where:
    """What `--data-dir`, `--url` and `--user` said."""

    def __init__(self, data_dir: Path | None, url: str | None, user: str | None) -> None:
        self._options = (data_dir, url, user)

    def run(self, work: Callable[[Api], Coroutine[Any, Any, T]]) -> T:
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


@click.group()
def thing() -> None:
    """Get, set, watch and search things.

    \b
    PATH is a path below the thing, e.g. features/lamp/properties/on; VALUE is JSON, or text.
    """


@thing.command()
@click.argument("thing_id")
@click.argument("path", default="")
@click.option("--fields", help="Only these, e.g. thingId,features/lamp/properties.")
@click.option(
    "-o", "--output", type=click.Choice(["json", "yaml"]), default="json", show_default=True
)
@at_things
def get(where: Where, thing_id: str, path: str, fields: str | None, output: str) -> None:
    """Show a thing, or what stands at PATH."""
    query = {"fields": fields} if fields else None
    _, value = where.run(lambda api: api.call("GET", _path(thing_id, path), query=query))
    print_data(value, output)


@thing.command("set")
@click.argument("thing_id")
@click.argument("path")
@click.argument("value")
@at_things
def set_(where: Where, thing_id: str, path: str, value: str) -> None:
    """Set what stands at PATH to VALUE."""
    body = json.dumps(parse_value(value)).encode()
    headers = {"Content-Type": "application/json"}
    status, _ = where.run(
        lambda api: api.call("PUT", _path(thing_id, path), body=body, headers=headers)
    )
    click.echo(f"{thing_id} /{path.strip('/')} {'created' if status == 201 else 'modified'}")


@thing.command()
@click.argument("thing_id")
@click.argument("path", default="")
@at_things
def delete(where: Where, thing_id: str, path: str) -> None:
    """Delete a thing, or what stands at PATH."""
    where.run(lambda api: api.call("DELETE", _path(thing_id, path)))
    click.echo(f"{thing_id} /{path.strip('/')} deleted")


@thing.command()
@click.argument("filter_", metavar="[FILTER]", default="")
@click.option("--fields", default="thingId,policyId,_revision,_modified", help="What to show.")
@output_option
@at_things
def search(where: Where, filter_: str, fields: str, output: str) -> None:
    """List things; FILTER is RQL, e.g. 'gt(features/temp/properties/value,20)'."""

    async def work(api: Api) -> list[JsonObject]:
        found: list[JsonObject] = []
        query = {
            "fields": fields,
            "option": "size(200)",
            **({"filter": filter_} if filter_ else {}),
        }
        while True:
            _, value = await api.call("GET", "/api/2/search/things", query=query)
            body = cast(dict[str, Any], value)
            found += body["items"]
            if not body.get("cursor"):
                return found
            query["option"] = f"cursor({body['cursor']})"

    found = where.run(work)
    print_rows(found, [f.split("/")[0] for f in fields.split(",")], output, found)


@thing.command()
@click.argument("thing_id", required=False)
@click.option("--filter", "filter_", help="RQL on the changes.")
@at_things
def watch(where: Where, thing_id: str | None, filter_: str | None) -> None:
    """Follow changes of one thing, or of all that may be read; one JSON object a line."""
    query = {**({"ids": thing_id} if thing_id else {}), **({"filter": filter_} if filter_ else {})}

    async def work(api: Api) -> None:
        async with api.stream("/api/2/things", query) as response:
            async for line in response.content:
                if line.startswith(b"data:") and line[5:].strip():
                    click.echo(line[5:].strip().decode())

    where.run(work)


@thing.command()
@click.argument("thing_id")
@click.option(
    "--from",
    "first",
    type=int,
    default=-20,
    show_default=True,
    help="First revision; negative counts from the newest.",
)
@at_things
def history(where: Where, thing_id: str, first: int) -> None:
    """Show what happened to a thing, oldest first; one JSON object a line."""
    query = {
        "from-historical-revision": str(first),
        "fields": "thingId,attributes,features,_revision,_modified,_context/topic,_context/path",
    }

    async def work(api: Api) -> None:
        path = f"/api/2/things/{quote(thing_id, ':')}"
        async with api.stream(path, query) as response:
            async for line in response.content:
                if line.startswith(b"data:") and line[5:].strip():
                    click.echo(line[5:].strip().decode())

    where.run(work)


def _path(thing_id: str, path: str) -> str:
    below = "/".join(quote(segment, "") for segment in path.strip("/").split("/") if segment)
    return f"/api/2/things/{quote(thing_id, ':')}" + (f"/{below}" if below else "")
