"""Sends many commands in one request and counts what became of them."""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import click

from gateway.cli.client import Api
from gateway.cli.exit_codes import FAILED as EXIT_FAILED
from gateway.cli.exit_codes import OK, UNREACHABLE
from gateway.cli.output import print_data, print_rows
from gateway.model.json import JsonObject

BULK: Final = "/api/2/bulk"
MAX_SHOWN: Final = 20
"""Failures that are printed; all are counted."""
MAX_KEPT: Final = 1_000
_CHUNK: Final = 65_536

FAILED: Final = "failed"

Envelope: TypeAlias = "dict[str, Any]"


@dataclass(frozen=True, slots=True)
class Item:
    """One command on its way.

    Shape:  `number` counts lines from 1; `entity` the ID that it is about; `source` the line as it was
            read; `is_whole` for what makes or replaces a whole thing or policy.
    """

    number: int
    entity: str
    command: Envelope
    source: bytes = b""
    is_whole: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """One command that failed."""

    number: int
    entity: str
    status: int
    error: str
    message: str

    def __str__(self) -> str:
        about = f" {self.entity}:" if self.entity else ""
        told = f" {self.status} {self.error}" if self.status else " not sent"
        return f"line {self.number}:{about}{told}: {self.message}"

    def as_json(self) -> JsonObject:
        return {
            "line": self.number,
            "id": self.entity,
            "status": self.status,
            "error": self.error,
            "message": self.message,
        }


@dataclass(slots=True)
class Tally:
    """What became of all commands; every outcome that can come has its place from the start.

    Shape:  `cut` says why sending ended early; `unanswered` commands were sent then and may be done.
    """

    counts: dict[str, int]
    failures: list[Failure] = field(default_factory=list)
    cut: str | None = None
    unanswered: int = 0

    @classmethod
    def of(cls, *outcomes: str) -> Tally:
        return cls(dict.fromkeys((*outcomes, FAILED), 0))

    def add(self, outcome: str) -> None:
        self.counts[outcome] = self.counts.get(outcome, 0) + 1

    def fail(self, failure: Failure) -> None:
        self.add(FAILED)
        if len(self.failures) < MAX_KEPT:
            self.failures.append(failure)

    @property
    def exit_code(self) -> int:
        if self.cut is not None:
            return UNREACHABLE
        return EXIT_FAILED if self.counts[FAILED] else OK


Judge: TypeAlias = "Callable[[Item, Envelope], str | None]"
"""The outcome of an answer, None where it is a failure."""


async def send(
    api: Api,
    items: Iterable[Item],
    judge: Judge,
    tally: Tally,
    advance: Callable[[Item], None] = lambda _item: None,
    on_failure: Callable[[Item], None] = lambda _item: None,
) -> None:
    """Send commands and count their answers, which come in the same order.

    Errors: ApiError where the request as a whole is refused. That the server went away is noted.
    """
    waiting: deque[Item] = deque()

    async def body() -> Any:
        for chunk in _chunks(items, waiting):
            yield chunk

    try:
        async for line in api.lines(BULK, body()):
            answer: Envelope = json.loads(line)
            item = waiting.popleft() if waiting else Item(0, "", {})
            outcome = judge(item, answer)
            if outcome is None:
                tally.fail(failure_of(item, answer))
                on_failure(item)
            else:
                tally.add(outcome)
            advance(item)
    except ConnectionError as error:
        tally.cut = str(error)
    if waiting:
        tally.cut = tally.cut or "the server ended its answer before all was answered"
        tally.unanswered = len(waiting)


def _chunks(items: Iterable[Item], waiting: deque[Item]) -> Iterator[bytes]:
    pending = bytearray()
    for item in items:
        waiting.append(item)
        pending += json.dumps(item.command, ensure_ascii=False).encode() + b"\n"
        if len(pending) >= _CHUNK:
            yield bytes(pending)
            pending.clear()
    if pending:
        yield bytes(pending)


def failure_of(item: Item, answer: Envelope) -> Failure:
    """What a refused command was told."""
    told = answer.get("value")
    error: Envelope = told if isinstance(told, dict) else {}
    return Failure(
        item.number,
        item.entity,
        int(answer.get("status", 0)),
        str(error.get("error", "unknown")),
        str(error.get("message", "no text")),
    )


def report(tally: Tally, output: str, **more: Any) -> int:
    """Print what became of all; returns the exit code.

    Shape:  failures go to standard error, the sum to standard output; `more` are members of the JSON.
    """
    for failure in tally.failures[:MAX_SHOWN] if output not in ("json", "yaml") else ():
        click.secho(str(failure), err=True, fg="red")
    hidden = tally.counts[FAILED] - MAX_SHOWN
    if hidden > 0 and output not in ("json", "yaml"):
        click.secho(f"... and {hidden} more failed", err=True, fg="red")
    if tally.cut is not None:
        click.secho(f"Error: {tally.cut}", err=True, fg="red")
        if tally.unanswered:
            lost = f"{tally.unanswered} commands were sent and not answered; they may be done."
            click.secho(f"       {lost}", err=True, fg="red")
    if output in ("json", "yaml"):
        found = {**tally.counts, "failures": [one.as_json() for one in tally.failures], **more}
        if tally.cut is not None:
            found |= {"cut": tally.cut, "unanswered": tally.unanswered}
        print_data(found, output)
    else:
        print_rows([tally.counts], list(tally.counts), output, None)
    return tally.exit_code


@contextmanager
def progress(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on standard error where that is a terminal; the block gets what moves it on by so many."""
    if not sys.stderr.isatty():
        yield lambda _count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda count: bar.advance(task, count)
