"""`twinspan config`: what is set, and what can be."""

from __future__ import annotations

import json
from pathlib import Path

import click

from gateway.cli.options import settings_of, settings_options
from gateway.cli.output import print_data
from gateway.config.schema import json_schema, plain


@click.group()
def config() -> None:
    """Show effective settings, or the schema of the settings file."""


@config.command()
@settings_options
@click.option(
    "-o", "--output", type=click.Choice(["yaml", "json"]), default="yaml", show_default=True
)
def show(file: Path | None, sets: tuple[str, ...], data_dir: Path | None, output: str) -> None:
    """Print the settings in force: defaults, then file, environment, --set."""
    print_data(plain(settings_of(file, sets, data_dir)), output)


@config.command()
def schema() -> None:
    """Print a JSON Schema of the settings file, with the unit of each field."""
    click.echo(json.dumps(json_schema(), indent=2))
