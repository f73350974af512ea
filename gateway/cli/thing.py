"""`twinspan thing`: digital twins from the command line."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

import click

from gateway.cli.client import Api
from gateway.cli.options import output_option
from gateway.cli.output import print_data, print_rows
from gateway.cli.thing_change import delete, patch, set_
from gateway.cli.thing_explain import explain
from gateway.cli.thing_files import export, import_
from gateway.cli.things_at import Where, at_things, complete_thing, search, thing_path
from gateway.model.json import JsonObject

COLUMNS: Final = "thingId,policyId,_revision,_modified"


@click.group()
def thing() -> None:
    """Get, set, watch and search things, one or many at a time; carry them from here to there.

    \b
    PATH is a path below the thing, e.g. features/lamp/properties/on; VALUE is JSON, or text.
    FILTER is RQL, e.g. 'and(eq(attributes/site,"Oslo"),gt(features/temp/properties/value,20))'.

    \b
    The server and who you are come from --data-dir, or from --url and --user NAME:PASSWORD.
    Exit codes: 0 ok, 1 failed, or some of many did, 2 usage, 3 not found, 4 denied, 5 unreachable.
    """


@thing.command()
@click.argument("arguments", nargs=-1, metavar="[THING_ID] [PATH]", shell_complete=complete_thing)
@click.option("--fields", help="Only these, e.g. thingId,features/lamp/properties.")
@click.option("--filter", "filter_", metavar="RQL", help="All things that match; no THING_ID then.")
@click.option(
    "-o", "--output", type=click.Choice(["json", "yaml"]), default="json", show_default=True
)
@at_things
def get(
    where: Where,
    arguments: tuple[str, ...],
    fields: str | None,
    filter_: str | None,
    output: str,
) -> None:
    """Show a thing, or what stands at PATH; with --filter, of all things that match.

    \b
    Examples:
      twinspan thing get org.acme:lamp
      twinspan thing get org.acme:lamp features/lamp/properties/on
      twinspan thing get --filter 'gt(features/temp/properties/value,20)' features/temp
    """
    most = 1 if filter_ else 2
    if len(arguments) > most or (not filter_ and not arguments):
        raise click.UsageError("Expected THING_ID [PATH], or --filter RQL [PATH].")
    if filter_:
        wanted = (
            ",".join(("thingId", *(path.strip("/") for path in arguments))) if arguments else None
        )
        print_data(where.run(lambda api: _all(api, filter_, fields or wanted)), output)
        return
    thing_id, path = arguments[0], arguments[1] if len(arguments) > 1 else ""
    query = {"fields": fields} if fields else {}
    _, value = where.run(lambda api: api.call("GET", thing_path(thing_id, path), query=query))
    print_data(value, output)


@thing.command("list")
@click.option("--filter", "filter_", metavar="RQL", help="Only things that match.")
@click.option("--namespace", multiple=True, help="Only of this namespace; may be repeated.")
@click.option("--sort", metavar="+FIELD", help="E.g. -_modified, or +attributes/site,-thingId.")
@click.option("--limit", type=click.IntRange(1), help="At most so many.")
@click.option("--fields", default=COLUMNS, show_default=True, help="What to show.")
@output_option
@at_things
def list_(
    where: Where,
    filter_: str | None,
    namespace: tuple[str, ...],
    sort: str | None,
    limit: int | None,
    fields: str,
    output: str,
) -> None:
    """List the things that you may read.

    \b
    Examples:
      twinspan thing list --sort -_modified --limit 10
      twinspan thing list --filter 'exists(features/lamp)' --fields thingId,features/lamp -o json
    """
    found = where.run(
        lambda api: _all(api, filter_, fields, namespaces=namespace, sort=sort, limit=limit)
    )
    _print_things(found, fields, output)


@thing.command("search", short_help="List the things that match a filter.")
@click.argument("filter_", metavar="[FILTER]", default="")
@click.option("--fields", default=COLUMNS, show_default=True, help="What to show.")
@output_option
@at_things
def search_(where: Where, filter_: str, fields: str, output: str) -> None:
    """List things; FILTER is RQL, e.g. 'gt(features/temp/properties/value,20)'."""
    _print_things(where.run(lambda api: _all(api, filter_, fields)), fields, output)


async def _all(
    api: Api,
    filter_: str | None,
    fields: str | None,
    *,
    namespaces: tuple[str, ...] = (),
    sort: str | None = None,
    limit: int | None = None,
) -> list[JsonObject]:
    found: list[JsonObject] = []
    async for page in search(api, filter_, fields, namespaces=namespaces, sort=sort):
        found += page
        if limit is not None and len(found) >= limit:
            return found[:limit]
    return found


def _print_things(found: list[JsonObject], fields: str, output: str) -> None:
    columns = list(dict.fromkeys(field.split("/")[0] for field in fields.split(",")))
    print_rows(found, columns, output, found)


@thing.command(short_help="Follow changes as they happen.")
@click.argument("thing_id", required=False, shell_complete=complete_thing)
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


@thing.command(short_help="Show what happened to a thing.")
@click.argument("thing_id", shell_complete=complete_thing)
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


for _command in (set_, patch, delete, explain, export, import_):
    thing.add_command(_command)
