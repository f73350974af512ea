"""Prints results: tables and colours for people, JSON and YAML for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import click
import yaml

from gateway.model.json import Json


def print_data(value: object, output: str) -> None:
    """Print plain data as JSON or YAML."""
    if output == "json":
        click.echo(json.dumps(value, indent=2, ensure_ascii=False))
    else:
        click.echo(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), nl=False)


def print_rows(
    rows: Sequence[Mapping[str, object]], columns: Sequence[str], output: str, data: object
) -> None:
    """Print rows as an aligned table, or `data` where a program asked.

    Shape:  `columns` are keys of the rows, in order; headings are their upper-case names.
    """
    if output in ("json", "yaml"):
        print_data(data, output)
        return
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [
        max([len(column), *(len(line[at]) for line in cells)]) for at, column in enumerate(columns)
    ]
    heading = "   ".join(c.upper().ljust(w) for c, w in zip(columns, widths, strict=True))
    click.secho(heading.rstrip(), bold=True)
    for line in cells:
        click.echo("   ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip())


def parse_value(text: str) -> Json:
    """Read a value from the command line: JSON where it is JSON, else the text itself."""
    try:
        value: Json = json.loads(text)
    except ValueError:
        return text
    return value


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)
