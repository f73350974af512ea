"""`twinspan bench`: the benchmarks of the checkout, as ratios to a peer or ceiling in the same run.

`twinspan bench edges` is a command of its own: it needs no checkout and loads any CloudCore.
"""

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
EDGES = "edges"
EDGES_TITLE = "Load a CloudCore with hollow edge nodes (--help tells what is hollow)."


def benchmarks() -> dict[str, str]:
    """Return module name -> first line of its docstring."""
    found = {}
    for file in sorted((ROOT / "bench").glob("*.py")):
        text = file.read_text("utf-8")
        is_program = '__name__ == "__main__"' in text and not file.stem.endswith(HELPERS)
        if is_program and text.startswith('"""'):
            found[file.stem] = text[3:].split("\n", 1)[0].rstrip('"')
    return found


class Benchmarks(click.Group):
    """Benchmarks as subcommands; what follows the name is theirs to read."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        return [EDGES, *benchmarks()]

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002  click's signature
        cmd_name: str,
    ) -> click.Command | None:
        if cmd_name == EDGES:
            from gateway.cli.bench_edges import edges  # the edge's rooms: for this alone

            return edges
        known = benchmarks()
        if cmd_name not in known:
            raise NotFound(f"no benchmark {cmd_name!r}; there are {', '.join((EDGES, *known))}")
        return _command(cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Benchmarks"):
            formatter.write_dl([(EDGES, EDGES_TITLE), *benchmarks().items()])


def _command(name: str) -> click.Command:
    """Return a command that runs one benchmark of the checkout."""

    @click.command(name, context_settings={"ignore_unknown_options": True}, add_help_option=False)
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def command(arguments: tuple[str, ...]) -> None:
        sys.exit(_run(name, arguments))

    return command


@click.group(cls=Benchmarks, invoke_without_command=True)
@click.option("--all", "run_all", is_flag=True, help="Run every benchmark, one after another.")
@click.pass_context
def bench(ctx: click.Context, run_all: bool) -> None:
    """Run one benchmark, or list them.

    Wall-clock figures depend on the machine; the ratios within one run are what counts.
    """
    if ctx.invoked_subcommand is not None:
        return
    known = benchmarks()
    if run_all:
        if not known:
            raise NotFound(
                "benchmarks are part of the source checkout, not of the installed package"
            )
        sys.exit(max(_run(each, ()) for each in known))
    for each, title in ((EDGES, EDGES_TITLE), *known.items()):
        click.echo(f"{each:<20} {title}")


def _run(name: str, arguments: tuple[str, ...]) -> int:
    command = [sys.executable, "-m", f"bench.{name}", *arguments]
    return subprocess.run(command, cwd=ROOT, check=False).returncode  # noqa: S603  our own module
