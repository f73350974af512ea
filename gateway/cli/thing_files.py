"""`twinspan thing export|import`: things, with their policies, to a file and back."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, Final, cast

import click

from gateway.cli.client import Api
from gateway.cli.options import output_option
from gateway.cli.things_at import Where, at_things, search
from gateway.cli.things_bulk import (
    BULK,
    Envelope,
    Failure,
    Item,
    Tally,
    progress,
    report,
    send,
)
from gateway.model.entity_id import is_entity_id
from gateway.wire.ditto.topic import policy_topic, thing_topic
from gateway.wire.ndjson import Line, LineSplitter

FIELDS: Final = "thingId,policyId,definition,attributes,features,_revision"
MAX_LINE: Final = 1_048_576
_READ: Final = 65_536
_WHOLE: Final = ("create", "modify")
_UNMET: Final = ("things:precondition.failed", "policies:precondition.failed")


# --- export ------------------------------------------------------------------------------------


@click.command("export", short_help="Write things to a file, one a line.")
@click.option("--filter", "filter_", metavar="RQL", help="Only things that match.")
@click.option("--namespace", multiple=True, help="Only of this namespace; may be repeated.")
@click.option(
    "--with-policies", is_flag=True, help="Their policies too, and what these import, before them."
)
@click.option(
    "-f",
    "--file",
    type=click.Path(dir_okay=False, path_type=Path, allow_dash=True),
    default="-",
    help="Where to write.  [default: standard output]",
)
@at_things
def export(
    where: Where,
    filter_: str | None,
    namespace: tuple[str, ...],
    with_policies: bool,
    file: Path,
) -> None:
    """Write things, as you may read them, one a line.

    \b
    Each line is the Ditto Protocol command that makes the thing: the file can be imported here or
    elsewhere, or posted to /api/2/bulk as it is. The revision stands beside it for comparing.
    History, metadata and times are not in it; it is no snapshot: what changes meanwhile may be in
    the old or the new state. What you may not read is left out without a word.

    \b
    Examples:
      twinspan thing export --with-policies > all.ndjson
      twinspan thing export --filter 'eq(attributes/site,"Oslo")' -f oslo.ndjson
      twinspan thing export | jq -c .value
    """
    exporter = _Exporter(with_policies)
    with ExitStack() as stack:
        out = _output(file, stack)

        async def work(api: Api) -> None:
            query = {"filter": filter_} if filter_ else {}
            query |= {"namespaces": ",".join(namespace)} if namespace else {}
            _, total = await api.call("GET", "/api/2/search/things/count", query=query)
            with progress("export", cast(int, total)) as advance:
                async for page in search(
                    api, filter_, FIELDS, namespaces=namespace, sort="+thingId"
                ):
                    async for command in exporter.page(api, cast("list[Envelope]", page)):
                        out.write(json.dumps(command, ensure_ascii=False) + "\n")
                    advance(len(page))

        where.run(work)
    click.echo(
        f"{exporter.things} things, {len(exporter.policies)} policies exported"
        + (f", {len(exporter.unreadable)} policies not readable" if exporter.unreadable else ""),
        err=True,
    )
    for policy_id in sorted(exporter.unreadable)[:20]:
        click.secho(f"policy {policy_id}: not there, or you may not read it", err=True, fg="yellow")
    sys.exit(int(bool(exporter.unreadable)))


def _output(file: Path, stack: ExitStack) -> IO[str]:
    if str(file) == "-":
        return sys.stdout
    return stack.enter_context(file.open("w", encoding="utf-8"))


class _Exporter:
    """Turns pages of things into commands, each policy once and before what needs it."""

    def __init__(self, with_policies: bool) -> None:
        self._with_policies = with_policies
        self.things = 0
        self.policies: set[str] = set()
        self.unreadable: set[str] = set()

    async def page(self, api: Api, things: list[Envelope]) -> AsyncIterator[Envelope]:
        if self._with_policies:
            for command in await self._of_policies(
                api, {str(one["policyId"]) for one in things if "policyId" in one}
            ):
                yield command
        for thing in things:
            revision = thing.pop("_revision", None)
            self.things += 1
            topic = thing_topic(thing["thingId"], "twin", "commands", "modify")
            yield {"topic": topic, "path": "/", "value": thing, "revision": revision}

    async def _of_policies(self, api: Api, wanted: set[str]) -> list[Envelope]:
        """The commands of policies that were not written yet, imported ones first."""
        documents: dict[str, Envelope] = {}
        while missing := wanted - self.policies - self.unreadable - documents.keys():
            found = await _policies(api, sorted(missing))
            documents |= found
            self.unreadable |= missing - found.keys()
            wanted = {name for one in found.values() for name in one.get("imports", {})}
        ordered: list[str] = []
        for name in documents:
            self._order(name, documents, ordered)
        return [
            {
                "topic": policy_topic(name, "commands", "modify"),
                "path": "/",
                "revision": documents[name].pop("_revision", None),
                "value": documents[name],
            }
            for name in ordered
        ]

    def _order(self, name: str, documents: dict[str, Envelope], ordered: list[str]) -> None:
        """After what it imports; a ring of imports is cut where it is entered."""
        if name in self.policies or name not in documents:
            return
        self.policies.add(name)
        for imported in documents[name].get("imports", {}):
            self._order(imported, documents, ordered)
        ordered.append(name)


async def _policies(api: Api, ids: list[str]) -> dict[str, Envelope]:
    """The readable ones of these policies."""

    async def body() -> AsyncIterator[bytes]:
        for name in ids:
            topic = policy_topic(name, "commands", "retrieve")
            command = {"topic": topic, "path": "/", "fields": "policyId,imports,entries,_revision"}
            yield json.dumps(command).encode() + b"\n"

    answers = [json.loads(line) async for line in api.lines(BULK, body())]
    return {
        name: answer["value"]
        for name, answer in zip(ids, answers, strict=False)
        if answer.get("status") == 200
    }


# --- import ------------------------------------------------------------------------------------


@click.command("import", short_help="Read things and policies from a file.")
@click.argument(
    "file", type=click.Path(exists=True, dir_okay=False, path_type=Path, allow_dash=True)
)
@click.option(
    "--if-exists",
    type=click.Choice(["fail", "skip", "replace"]),
    default="fail",
    show_default=True,
    help="What to do with things and policies that are there. 'replace' stores nothing where nothing"
    " differs.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option(
    "--from-line", type=click.IntRange(1), default=1, help="Leave out what stands before."
)
@click.option(
    "--failed",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the lines that failed to this file, to be imported again.",
)
@click.option(
    "--allow-policy-lockout",
    is_flag=True,
    help="Also make policies that you will not be able to change.",
)
@output_option
@at_things
def import_(
    where: Where,
    file: Path,
    if_exists: str,
    dry_run: bool,
    from_line: int,
    failed: Path | None,
    allow_policy_lockout: bool,
    output: str,
) -> None:
    """Read things and policies from FILE, one a line; '-' is standard input.

    \b
    A line is what 'export' writes, any other command of the Ditto Protocol, or the plain JSON of a
    thing or policy. A line that fails is told with its number, the others go on; the exit code is 1
    then. When the connection breaks (exit code 5), the same import can be run again with
    --if-exists skip or replace: what is there already is not made twice.

    \b
    Examples:
      twinspan thing import all.ndjson --dry-run
      twinspan thing import all.ndjson --if-exists replace --failed rest.ndjson
      twinspan thing export | twinspan thing import - --url http://other:8080 -u me:secret
    """
    plan = _Plan(if_exists, allow_policy_lockout)
    names = ("created", "replaced", "unchanged", "skipped", "done")
    tally = Tally.of(*(_WOULD if dry_run else names))
    with ExitStack() as stack:
        source = _source(file, stack)
        rejected = stack.enter_context(failed.open("wb")) if failed else None

        def keep(item: Item) -> None:
            if rejected is not None:
                rejected.write(item.source + b"\n")

        lines = (line for line in _lines(source) if line.number >= from_line)
        items = _readable(lines, plan, tally, keep)
        judge = plan.judge
        if dry_run:
            items = map(_looking, items)
            judge = plan.foresee
        with progress("import", _count(file)) as advance:
            where.run(lambda api: send(api, items, judge, tally, lambda _item: advance(1), keep))
    sys.exit(report(tally, output, dryRun=dry_run))


def _source(file: Path, stack: ExitStack) -> BufferedReader:
    if str(file) == "-":
        return cast(BufferedReader, sys.stdin.buffer)
    return stack.enter_context(file.open("rb"))


def _count(file: Path) -> int | None:
    """How many lines a file has; unknown for what is not a file."""
    if not file.is_file() or not sys.stderr.isatty():
        return None
    with file.open("rb") as source:
        return sum(piece.count(b"\n") for piece in iter(lambda: source.read(_READ), b""))


def _lines(source: BufferedReader) -> Iterator[Line]:
    splitter = LineSplitter(MAX_LINE)
    while data := source.read1(_READ):
        yield from splitter.feed(data)
    yield from splitter.end()


def _readable(
    lines: Iterable[Line], plan: _Plan, tally: Tally, keep: Callable[[Item], None]
) -> Iterator[Item]:
    """The lines that can be sent; the others are counted as failed."""
    for line in lines:
        try:
            yield plan.item(line)
        except ValueError as error:
            tally.fail(Failure(line.number, "", 0, "line.invalid", str(error)))
            keep(Item(line.number, "", {}, line.data or b""))


_WOULD: Final = ("wouldCreate", "wouldReplace", "wouldSkip", "wouldDo")


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is done with what is there, and with policies that lock their maker out."""

    if_exists: str
    allow_lockout: bool

    def item(self, line: Line) -> Item:
        """The command that a line stands for.

        Errors: ValueError saying what is wrong with the line.
        """
        if line.data is None:
            raise ValueError(f"longer than {MAX_LINE} bytes")
        value = json.loads(line.data)
        if not isinstance(value, dict):
            raise ValueError("expected a JSON object")  # noqa: TRY004  the reader's error, not a bug
        command = value if "topic" in value else _command(value)
        topic = command.get("topic")
        if not isinstance(topic, str) or topic.count("/") < 3:
            raise ValueError("'topic' is no topic of the Ditto Protocol")
        command.pop("revision", None)
        namespace, name = topic.split("/")[:2]
        is_whole = _is_whole(command)
        if is_whole:
            self._conditioned(command)
        return Item(line.number, f"{namespace}:{name}", command, line.data, is_whole)

    def _conditioned(self, command: Envelope) -> None:
        headers = command["headers"] = {**(command.get("headers") or {})}
        head = command["topic"].rpartition("/")[0]
        command["topic"] = f"{head}/{'create' if self.if_exists == 'fail' else 'modify'}"
        if self.if_exists == "skip":
            headers["if-none-match"] = "*"
        elif self.if_exists == "replace":
            headers.setdefault("if-equal", "skip")
        if self.allow_lockout:
            headers["allow-policy-lockout"] = True

    def judge(self, item: Item, answer: Envelope) -> str | None:
        status = answer.get("status", 0)
        if status < 400:
            if not item.is_whole:
                return "done"
            return "created" if status == 201 else "replaced"
        code = _code(answer)
        if not item.is_whole or code not in _UNMET:
            return None
        return {"skip": "skipped", "replace": "unchanged"}.get(self.if_exists)

    def foresee(self, item: Item, answer: Envelope) -> str | None:
        """What would come of it, by whether the thing or policy is there."""
        if not item.is_whole:
            return "wouldDo"
        if answer.get("status") == 404:
            return "wouldCreate"
        if answer.get("status") == 200 and self.if_exists != "fail":
            return "wouldSkip" if self.if_exists == "skip" else "wouldReplace"
        if answer.get("status") == 200:
            answer["status"], answer["value"] = 409, _CONFLICT
        return None


_CONFLICT: Final = {"error": "conflict", "message": "it exists already"}


def _command(value: Envelope) -> Envelope:
    """The command that makes a thing or a policy from its plain JSON."""
    thing_id, policy_id = value.get("thingId"), value.get("policyId")
    plain = {
        name: one for name, one in value.items() if not name.startswith("_") or name in _INLINE
    }
    if isinstance(thing_id, str) and is_entity_id(thing_id):
        topic = thing_topic(thing_id, "twin", "commands", "modify")
        return {"topic": topic, "path": "/", "value": plain}
    if "entries" in value and isinstance(policy_id, str) and is_entity_id(policy_id):
        return {"topic": policy_topic(policy_id, "commands", "modify"), "path": "/", "value": plain}
    raise ValueError("neither a command ('topic') nor a thing ('thingId') nor a policy ('entries')")


_INLINE: Final = ("_policy", "_copyPolicyFrom")


def _is_whole(command: Envelope) -> bool:
    """True for what makes or replaces a whole thing or policy."""
    head, _, action = str(command["topic"]).rpartition("/")
    is_twin = head.endswith(("/things/twin/commands", "/policies/commands"))
    return is_twin and action in _WHOLE and command.get("path", "/") == "/"


def _looking(item: Item) -> Item:
    """The question whether the thing or policy is there; what is no whole one asks for nothing."""
    head = str(item.command["topic"]).rpartition("/")[0]
    field = "policyId" if head.endswith("/policies/commands") else "thingId"
    if not item.is_whole:
        head, field = "a/b/things/twin/commands", "thingId"
    return replace(item, command={"topic": f"{head}/retrieve", "path": "/", "fields": field})


def _code(answer: Any) -> str:
    told = answer.get("value")
    return str(told.get("error", "")) if isinstance(told, dict) else ""
