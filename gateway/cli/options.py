"""Options that many commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from gateway.config import Settings, load

F = TypeVar("F", bound=Callable[..., Any])


def data_dir_option(function: F) -> F:
    """Add `--data-dir`."""
    return click.option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        envvar="TWINSPAN__DATA_DIR",
        help="Where state lives.  [default: /var/lib/twinspan for root, else"
        " $XDG_DATA_HOME/twinspan]",
    )(function)


def settings_options(function: F) -> F:
    """Add `--config`, `--set` and `--data-dir`."""
    function = click.option(
        "--set",
        "sets",
        multiple=True,
        metavar="PATH=VALUE",
        help="One setting, e.g. hono.mqtt.bind=127.0.0.1:0; may be repeated.",
    )(function)
    function = click.option(
        "--config",
        "file",
        type=click.Path(dir_okay=False, path_type=Path),
        envvar="TWINSPAN_CONFIG",
        help="Settings file (YAML).",
    )(function)
    return data_dir_option(function)


def output_option(function: F) -> F:
    """Add `-o table|wide|json|yaml`."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "wide", "json", "yaml"]),
        default="table",
        show_default=True,
        help="How to print.",
    )(function)


def settings_of(
    file: Path | None, sets: tuple[str, ...], data_dir: Path | None, *more: str
) -> Settings:
    """Load settings as the options say; `more` are sets that a flag stands for.

    Errors: InvalidSetting.
    """
    extra = [f"data_dir={data_dir}"] if data_dir is not None else []
    return load(file, sets=[*extra, *more, *sets])
