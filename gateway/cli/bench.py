"""`twinspan bench`: the benchmarks of the checkout, as ratios to a peer or ceiling in the same run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click

from gateway.errors import NotFound

ROOT = Path(__file__).parents[2]
"""Benchmarks start peers and load generators: they live in the checkout, not in the installed package."""
HELPERS = ("_sink", "_load", "_sender", "_core")
"""Endings of programs that benchmarks start: they measure nothing by themselves."""


def benchmarks() -> dict[str, str]:
    """Return module name -> first line of its docstring."""
    found = {}
    for file in sorted((ROOT / "bench").glob("*.py")):
        text = file.read_text("utf-8")
        is_program = '__name__ == "__main__"' in text and not file.stem.endswith(HELPERS)
        if is_program and text.startswith('"""'):
            found[file.stem] = text[3:].split("\n", 1)[0].rstrip('"')
    return found


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--all", "run_all", is_flag=True, help="Run every benchmark, one after another.")
@click.argument("name", required=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bench(run_all: bool, name: str | None, arguments: tuple[str, ...]) -> None:
    """Run one benchmark, or list them.

    Wall-clock figures depend on the machine; the ratios within one run are what counts.
    """
    known = benchmarks()
    if not known:
        raise NotFound("benchmarks are part of the source checkout, not of the installed package")
    if run_all:
        sys.exit(max(_run(each, ()) for each in known))
    if name is None:
        for each, title in known.items():
            click.echo(f"{each:<20} {title}")
        return
    if name not in known:
        raise NotFound(f"no benchmark {name!r}; there are {', '.join(known)}")
    sys.exit(_run(name, arguments))


def _run(name: str, arguments: tuple[str, ...]) -> int:
    command = [sys.executable, "-m", f"bench.{name}", *arguments]
    return subprocess.run(command, cwd=ROOT, check=False).returncode  # noqa: S603  our own module
