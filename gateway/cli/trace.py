"""`twinspan trace`: one message's walk as a tree, from the spans that a running process keeps."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import quote

import click

from gateway.cli import client
from gateway.cli.client import Api, Service
from gateway.cli.exit_codes import NOT_FOUND
from gateway.cli.options import data_dir_option
from gateway.cli.output import print_data
from gateway.config import default_data_dir
from gateway.errors import InvalidSetting

KINDS: Final = ("telemetry", "event", "command", "twin", "edge", "api")
BAR: Final = 24
MAX_DEPTH: Final = 40
_SHOWN: Final = 72
"""Characters of one attribute in the table; `wide` shows all."""
_UNSHOWN: Final = frozenset(("message_bus.destination", "http.request.method", "http.method"))

Span = dict[str, Any]


@click.command()
@click.argument("trace_id", metavar="[ID]", required=False)
@click.option(
    "--last", is_flag=False, flag_value=1, default=None, metavar="[N]",
    type=click.IntRange(1, 100), help="The newest N that fit.  [default: 1]",
)  # fmt: skip
@click.option("--thing", default="", help="Only what touches this thing.")
@click.option(
    "--device",
    default="",
    help="Only what touches this device; at the edge NAME or NAMESPACE/NAME.",
)
@click.option("--kind", type=click.Choice(KINDS), help="Only what is about this.")
@click.option("--failed", is_flag=True, help="Only what has a span that failed.")
@click.option(
    "-o", "--output", type=click.Choice(["table", "wide", "json", "yaml"]), default="table",
    show_default=True, help="How to print.",
)  # fmt: skip
@click.option("--url", help="Base URL of the operations port.  [default: from --data-dir]")
@data_dir_option
def trace(
    trace_id: str | None,
    last: int | None,
    thing: str,
    device: str,
    kind: str | None,
    failed: bool,
    output: str,
    url: str | None,
    data_dir: Path | None,
) -> None:
    """Draw the trace ID as a tree: what happened where, when it began and how long it took.

    ID is 32 hex digits, the first 6 or more of them, or a whole traceparent. Spans are those that the process
    keeps (the last 2,000: observe.traces.keep), with those that edges sent over the hub; which traces are
    sampled is in docs/observability.md. Without ID and --last the newest 20 are listed.

    \b
    What happened to this message?      twinspan trace 4bf92f3577b34da6a3ce929d0e0e4736
    The last command to this device:    twinspan trace --last --kind command --device 4711
    What went wrong lately:             twinspan trace --failed
    """
    service = _service(url, data_dir)
    if trace_id is not None:
        if last is not None or thing or device or kind or failed:
            raise click.UsageError("give an ID, or what to look for; not both")
        one = client.run(service, lambda api: _fetch(api, f"/traces/{quote(trace_id, '')}", {}))
        _show([one], one, output)
        return
    wish = {
        "thing": thing,
        "device": device,
        "kind": kind or "",
        "failed": "true" if failed else "",
    }
    query = {"last": str(last or 20), **{name: text for name, text in wish.items() if text}}
    found = client.run(service, lambda api: _fetch(api, "/traces", query))
    traces = cast(list[dict[str, Any]], found["traces"])
    if not traces:
        click.secho(f"none of the {found['seen']} traces that are kept fits", err=True)
        sys.exit(NOT_FOUND)
    if last is None and output in ("table", "wide"):
        _list(traces)
    else:
        _show(traces, traces, output)


def _service(url: str | None, data_dir: Path | None) -> Service:
    import os

    if url is None:
        folder = data_dir or default_data_dir({**os.environ})
        return Service(f"http://{client.address_of(folder, 'ops.http')}", "", "")
    if not url.startswith(("http://", "https://")):
        raise InvalidSetting(f"--url: expected http://HOST:PORT, got {url!r}")
    return Service(url.rstrip("/"), "", "")


async def _fetch(api: Api, path: str, query: dict[str, str]) -> dict[str, Any]:
    _, body = await api.call("GET", path, query=query)
    if not isinstance(body, dict):
        raise InvalidSetting(f"--url: no operations port of Twinspan answers there at {path}")
    return cast(dict[str, Any], body)


def _show(traces: Sequence[dict[str, Any]], data: object, output: str) -> None:
    if output in ("json", "yaml"):
        print_data(data, output)
        return
    for place, one in enumerate(traces):
        if place:
            click.echo()
        for line in drawn(one, is_wide=output == "wide"):
            click.echo(line)


def _list(traces: Sequence[dict[str, Any]]) -> None:
    click.secho(f"{'TRACE':<34}{'STARTED':<15}{'MS':>10}{'SPANS':>7}  FIRST SPAN", bold=True)
    for one in traces:
        spans = one["spans"]
        about = plain(spans[0]["name"]) + _facts(spans[0], is_wide=False)
        colour = "red" if one["failed"] else None
        click.echo(
            f"{one['trace_id']:<34}{_clock(one['started']):<15}{one['duration_ms']:>10.1f}"
            f"{len(spans):>7}  {click.style(about, fg=colour)}"
        )


def drawn(one: dict[str, Any], *, is_wide: bool) -> Iterator[str]:
    """Yield the lines of one trace's tree.

    Shape:  `one` is a document of `/traces`; a span whose parent is not there stands at the left edge.
    """
    rows = list(_rows(one["spans"]))
    width = max(len(stem) + len(plain(span["name"])) for stem, span in rows)
    began = _clock(one["started"])
    yield click.style(
        f"{one['trace_id']}  {one['started'][:10]} {began}"
        f"  {one['duration_ms']:.1f} ms  {len(rows)} spans",
        bold=True,
    )
    yield f"{'':<{width}}  {'at ms':>9} {'took ms':>9}"
    for stem, span in rows:
        name = plain(span["name"])
        colour = "red" if span["error"] else None
        pad = " " * (width - len(stem) - len(name))
        times = f"{span['offset_ms']:>9.1f} {span['duration_ms']:>9.1f}"
        bar = _bar(span["offset_ms"], span["duration_ms"], one["duration_ms"])
        facts = _facts(span, is_wide=is_wide)
        yield f"{stem}{click.style(name, fg=colour)}{pad}  {times}  {bar}{facts}".rstrip()
        if span["error"]:
            yield f"{' ' * len(stem)}  {click.style(plain(span['error']), fg='red')}"
        if is_wide:
            for event in span["events"]:
                at = f"{event['offset_ms']:.1f}"
                yield f"{' ' * len(stem)}  at {at}: {plain(event['name'])}{_pairs(event['attributes'])}"


def _rows(spans: Sequence[Span]) -> Iterator[tuple[str, Span]]:
    """Yield each span once with the lines before its name, parents first, in the order of their start."""
    below: dict[str | None, list[Span]] = defaultdict(list)
    known = {span["span_id"] for span in spans}
    for span in spans:
        has_parent = span["parent_id"] in known and span["parent_id"] != span["span_id"]
        below[span["parent_id"] if has_parent else None].append(span)
    left = {id(span) for span in spans}

    def walk(span: Span, stem: str, rest: str, depth: int) -> Iterator[tuple[str, Span]]:
        left.discard(id(span))
        yield stem, span
        children = below[span["span_id"]] if depth < MAX_DEPTH else []
        for child in children:
            is_last = child is children[-1]
            if id(child) in left:
                yield from walk(
                    child,
                    rest + ("└─ " if is_last else "├─ "),
                    rest + ("   " if is_last else "│  "),
                    depth + 1,
                )

    for span in below[None]:
        yield from walk(span, "", "", 0)
    yield from (
        ("? ", span) for span in spans if id(span) in left
    )  # a ring, or deeper than is drawn


def _bar(offset: float, duration: float, whole: float) -> str:
    """Where in the trace's time a span is; at least one sign long."""
    scale = BAR / whole if whole > 0 else 0.0
    begin = min(BAR - 1, max(0, int(offset * scale)))
    length = max(1, min(BAR - begin, round(duration * scale)))
    return " " * begin + "━" * length + " " * (BAR - begin - length)


def _facts(span: Span, *, is_wide: bool) -> str:
    facts = {k: v for k, v in span["attributes"].items() if is_wide or k not in _UNSHOWN}
    where = span["node"] and f"  @{plain(span['node'])}"
    return where + _pairs(facts, None if is_wide else _SHOWN)


def _pairs(facts: dict[str, Any], width: int | None = None) -> str:
    return "".join(f"  {plain(name)}={plain(str(value))[:width]}" for name, value in facts.items())


def _clock(started: str) -> str:
    at = datetime.fromisoformat(started).astimezone()
    return f"{at:%H:%M:%S}.{at.microsecond // 1000:03}"


def plain(text: str) -> str:
    """One line without what a terminal would obey: names and errors come from devices, too."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
