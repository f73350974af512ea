"""`twinspan thing explain`: why may, or may not, somebody read, write or receive something?"""

from __future__ import annotations

import sys
from typing import Any, Final, cast
from urllib.parse import quote

import click

from gateway.cli.exit_codes import DENIED, OK
from gateway.cli.output import print_data
from gateway.cli.things_at import Where, at_things, complete_thing, thing_path

_COLOURS: Final = {"unrestricted": "green", "partial": "yellow", "denied": "red"}
_EXTENTS: Final = {"whole": "green", "part": "yellow", "nothing": "red"}


@click.command("explain", short_help="Tell why somebody may, or may not.")
@click.argument("thing_id", shell_complete=complete_thing)
@click.option(
    "--subject",
    "subjects",
    multiple=True,
    metavar="SUBJECT",
    help="Who, e.g. nginx:alice; may be repeated for one who has several.  [default: you]",
)
@click.option("--path", required=True, help="A path below the thing, e.g. /attributes/secret.")
@click.option(
    "--resource",
    type=click.Choice(["thing", "message", "policy"]),
    default="thing",
    show_default=True,
    help="What the path is of; for messages it is e.g. /inbox/messages/reset.",
)
@click.option(
    "--permission",
    "permissions",
    multiple=True,
    type=click.Choice(["READ", "WRITE", "EXECUTE"], case_sensitive=False),
    help="Only this; may be repeated.",
)
@click.option("--check", is_flag=True, help="Exit code 4 unless all that is asked for is granted.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json", "yaml"]),
    default="text",
    show_default=True,
    help="How to print.",
)
@at_things
def explain(
    where: Where,
    thing_id: str,
    subjects: tuple[str, ...],
    path: str,
    resource: str,
    permissions: tuple[str, ...],
    check: bool,
    output: str,
) -> None:
    """Tell why somebody may, or may not, read, write or receive something.

    \b
    Names the entry that decides (own, imported, of a root policy), what it overrides, which deeper
    paths differ, and who could have counted and does not: expired subjects, entries for other
    namespaces, imports that are missing. The server's own enforcement is asked, so that is what
    happens. You need READ on the thing's whole policy, or to be the operator 'devops'.

    \b
    Examples:
      twinspan thing explain org.acme:lamp --subject nginx:alice --path /attributes/secret
      twinspan thing explain org.acme:lamp --subject nginx:alice --resource message \\
                             --path /inbox/messages/reset --permission WRITE --check
    """
    parts = [f"path={quote(path or '/', '')}", f"resource={resource}"]
    parts += [f"subject={quote(one, '')}" for one in subjects]
    parts += [f"permission={one}" for one in permissions]
    url = f"{thing_path(thing_id)}/explain?{'&'.join(parts)}"
    _, value = where.run(lambda api: api.call("GET", url))
    found = cast(dict[str, Any], value)
    if output == "text":
        _print(found)
    else:
        print_data(found, output)
    verdicts = {one["verdict"] for one in found["permissions"].values()}
    sys.exit(DENIED if check and verdicts != {"unrestricted"} else OK)


def _print(found: dict[str, Any]) -> None:
    who = ", ".join(found["subjects"])
    click.secho(f"{found['thingId']}  {found['resource']}  for {who}", bold=True)
    missing = "  (does not exist)" if found["policy"] == "missing" else ""
    click.echo(f"policy {found['policyId']}{missing}")
    for name, finding in found["permissions"].items():
        verdict = finding["verdict"]
        click.echo(f"\n{name:<8} {click.style(verdict, fg=_COLOURS[verdict])}")
        click.echo(f"  {finding['because']}")
        for one in finding["decisive"]:
            click.echo(f"  decides:   {_statement(one)}")
        for one in finding["overridden"]:
            click.echo(click.style(f"  overruled: {_statement(one)}", dim=True))
        for turn in finding["below"]:
            _print_turn(turn)
        if finding.get("belowIsCut"):
            click.echo("  ... and more below")
    _print_outcomes("may", found["attempts"])
    _print_outcomes("receives", found["receives"])
    if found["notCounted"]:
        click.echo("\nDoes not count:")
        for note in found["notCounted"]:
            click.echo(f"  {note['text']}")


def _print_turn(turn: dict[str, Any]) -> None:
    what, colour = ("granted", "green") if turn["granted"] else ("hidden", "red")
    by = "; ".join(_statement(one) for one in turn["by"])
    click.echo(f"  {click.style(what, fg=colour)} below: {turn['resource']}  {by}")


def _statement(one: dict[str, Any]) -> str:
    text = f"{one['effect']} at {one['resource']} by entry '{one['entry']}' of {one['policyId']}"
    if one["how"] != "own":
        text += f" ({one['how']})"
    if one.get("via"):
        text += f" via {', '.join(one['via'])}"
    for part in one.get("references", ()):
        text += f", taken from '{part['entry']}' of {part['policyId']}"
    return f"{text} for {', '.join(one['subjects'])}"


def _print_outcomes(title: str, outcomes: dict[str, Any]) -> None:
    if not outcomes:
        return
    click.echo()
    for name, one in outcomes.items():
        told = f"  ({one['status']} {one['error']})" if "error" in one else ""
        extent = click.style(one["extent"], fg=_EXTENTS[one["extent"]])
        click.echo(f"{title:<8} {name:<13} {extent}{told}")
