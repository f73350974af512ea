"""`twinspan thing set|patch|delete`: change one thing, or all that a filter finds."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

import click

from gateway.cli.client import Api
from gateway.cli.options import output_option
from gateway.cli.output import parse_value, print_rows
from gateway.cli.things_at import Where, at_things, complete_thing, search, thing_path
from gateway.cli.things_bulk import Envelope, Item, Tally, progress, report, send
from gateway.errors import InvalidSetting
from gateway.model.json import Json
from gateway.wire.ditto.headers import JSON, JSON_PATCH, MERGE_PATCH
from gateway.wire.ditto.topic import thing_topic

SKIPPED: Final = "skipped"
_NO_MORE: Final = "things:condition.failed"


def _with_filter(function: Callable[..., None]) -> Callable[..., None]:
    """Add what changes many things at once."""
    for option in (
        output_option,
        click.option("--yes", is_flag=True, help="With --filter: do not ask."),
        click.option("--dry-run", is_flag=True, help="With --filter: only list the things."),
        click.option(
            "--filter",
            "filter_",
            metavar="RQL",
            help="All things that match, e.g. 'eq(attributes/site,\"Oslo\")'; no THING_ID then.",
        ),
    ):
        function = option(function)
    return function


def _complete_first(context: click.Context, parameter: click.Parameter, given: str) -> list[str]:
    """The first argument is a thing ID, unless there is a filter."""
    if context.params.get("arguments") or context.params.get("filter_"):
        return []
    return complete_thing(context, parameter, given)


@click.command("set", short_help="Set a value, of one thing or of many.")
@click.argument(
    "arguments",
    nargs=-1,
    required=True,
    metavar="[THING_ID] PATH VALUE",
    shell_complete=_complete_first,
)
@_with_filter
@at_things
def set_(where: Where, arguments: tuple[str, ...], **options: Any) -> None:
    """Set what stands at PATH to VALUE.

    \b
    VALUE is JSON, or text. With --filter, all things that match are changed in one request,
    each only if it still matches when its turn comes.

    \b
    Examples:
      twinspan thing set org.acme:lamp features/lamp/desiredProperties/on true
      twinspan thing set --filter 'eq(attributes/site,"Oslo")' attributes/zone '"Europe/Oslo"'
    """
    thing_id, (path, value) = _split(arguments, 2, options["filter_"])
    parsed = parse_value(value)
    if thing_id is not None:
        body = json.dumps(parsed).encode()
        headers = {"Content-Type": JSON}
        status, _ = where.run(
            lambda api: api.call("PUT", thing_path(thing_id, path), body=body, headers=headers)
        )
        click.echo(f"{thing_id} {_shown(path)} {'created' if status == 201 else 'modified'}")
        return
    _change_all(where, "modify", path, parsed, options)


@click.command("patch", short_help="Merge a patch into one thing or many.")
@click.argument(
    "arguments",
    nargs=-1,
    required=True,
    metavar="[THING_ID] [PATH] PATCH",
    shell_complete=_complete_first,
)
@click.option(
    "--type",
    "kind",
    type=click.Choice(["merge", "json"]),
    default="merge",
    show_default=True,
    help="RFC 7396 merge patch (null deletes), or RFC 6902 JSON Patch.",
)
@_with_filter
@at_things
def patch(where: Where, arguments: tuple[str, ...], kind: str, **options: Any) -> None:
    """Merge PATCH into a thing, or into what stands at PATH.

    \b
    Examples:
      twinspan thing patch org.acme:lamp '{"attributes": {"site": "Oslo", "old": null}}'
      twinspan thing patch org.acme:lamp attributes '{"site": "Oslo"}'
      twinspan thing patch --filter 'exists(attributes/old)' attributes '{"old": null}'
      twinspan thing patch org.acme:lamp --type json '[{"op": "remove", "path": "/attributes/old"}]'
    """
    fewest = 1 if options["filter_"] else 2
    wanted = 1 if len(arguments) == fewest else 2
    thing_id, rest = _split(arguments, wanted, options["filter_"])
    path, text = rest if len(rest) == 2 else ("", rest[0])
    try:
        value: Json = json.loads(text)
    except ValueError as error:
        raise InvalidSetting(f"PATCH: not JSON: {error}") from error
    if thing_id is not None:
        headers = {"Content-Type": MERGE_PATCH if kind == "merge" else JSON_PATCH}
        body = json.dumps(value).encode()
        status, _ = where.run(
            lambda api: api.call("PATCH", thing_path(thing_id, path), body=body, headers=headers)
        )
        click.echo(f"{thing_id} {_shown(path)} {'created' if status == 201 else 'modified'}")
        return
    _change_all(where, "merge" if kind == "merge" else "patch", path, value, options)


@click.command("delete", short_help="Delete things, or parts of them.")
@click.argument(
    "arguments",
    nargs=-1,
    metavar="[THING_ID] [PATH]",
    shell_complete=_complete_first,
)
@_with_filter
@at_things
def delete(where: Where, arguments: tuple[str, ...], **options: Any) -> None:
    """Delete a thing, or what stands at PATH.

    \b
    The policy of a thing stays.
    Examples:
      twinspan thing delete org.acme:lamp
      twinspan thing delete org.acme:lamp features/lamp
      twinspan thing delete --filter 'like(thingId,"org.acme:test-*")' --dry-run
    """
    fewest = 0 if options["filter_"] else 1
    wanted = 0 if len(arguments) == fewest else 1
    thing_id, rest = _split(arguments, wanted, options["filter_"])
    path = rest[0] if rest else ""
    if thing_id is not None:
        where.run(lambda api: api.call("DELETE", thing_path(thing_id, path)))
        click.echo(f"{thing_id} {_shown(path)} deleted")
        return
    _change_all(where, "delete", path, None, options)


def _split(
    arguments: Sequence[str], wanted: int, filter_: str | None
) -> tuple[str | None, Sequence[str]]:
    """The thing ID where there is no filter, and the rest."""
    expected = wanted + (0 if filter_ else 1)
    if len(arguments) != expected:
        named = "without THING_ID, for there is a filter" if filter_ else "THING_ID first"
        raise click.UsageError(f"Expected {expected} arguments, {named}; got {len(arguments)}.")
    return (None, arguments) if filter_ else (arguments[0], arguments[1:])


def _shown(path: str) -> str:
    return f"/{path.strip('/')}"


# --- all that a filter finds -------------------------------------------------------------------


def _change_all(where: Where, action: str, path: str, value: Json, options: Any) -> None:
    filter_, output = options["filter_"], options["output"]
    found = where.run(lambda api: _ids(api, filter_))
    if options["dry_run"]:
        print_rows([{"thingId": one} for one in found], ("thingId",), output, found)
        return
    if not options["yes"]:
        _confirm(f"{action} {_shown(path)} of {len(found)} things")
    items = [
        Item(number, one, _command(one, action, path, value, filter_))
        for number, one in enumerate(found, 1)
    ]
    tally = Tally.of("created", "changed", SKIPPED)
    with progress(action, len(items)) as advance:
        where.run(lambda api: send(api, items, _judge, tally, lambda _item: advance(1)))
    sys.exit(report(tally, output))


async def _ids(api: Api, filter_: str) -> list[str]:
    return [
        str(one["thingId"])
        async for page in search(api, filter_, "thingId", sort="+thingId")
        for one in page
    ]


def _confirm(what: str) -> None:
    if not sys.stdin.isatty():
        raise InvalidSetting(f"{what}: add --yes, or look first with --dry-run")
    click.confirm(f"{what}?", abort=True, err=True)


def _command(thing_id: str, action: str, path: str, value: Json, filter_: str) -> Envelope:
    command: Envelope = {
        "topic": thing_topic(thing_id, "twin", "commands", action),
        "path": _shown(path),
        "headers": {"condition": filter_},
    }
    return command if action == "delete" else {**command, "value": value}


def _judge(_item: Item, answer: Envelope) -> str | None:
    status = answer.get("status", 0)
    if status < 400:
        return "created" if status == 201 else "changed"
    told = answer.get("value")
    no_more = isinstance(told, dict) and told.get("error") == _NO_MORE
    gone = status == 404 and answer.get("topic", "").endswith("/errors") and _is_whole(told)
    return SKIPPED if no_more or gone else None


def _is_whole(told: Any) -> bool:
    """True where the thing itself is not there any more."""
    return isinstance(told, dict) and told.get("error") == "things:thing.notfound"
