"""`twinspan`: parses arguments, calls the rooms, prints. Commands are imported when they are used."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import cast

import click

from gateway.cli.exit_codes import exit_code_of, explain
from gateway.errors import GatewayError
from gateway.runtime.memory import collect_rarely

COMMANDS: dict[str, tuple[str, str]] = {
    # name -> (module:attribute, one-line help); the help is here so that listing imports nothing
    "up": ("gateway.cli.run:up", "Run everything on this machine."),
    "gateway": ("gateway.cli.run:gateway", "Run only the Hono- and Ditto-compatible services."),
    "adapters": ("gateway.cli.adapters:adapters", "Run only the adapters, for an existing Hono."),
    "cloud": ("gateway.cli.run:cloud", "Run CloudCore, with the gateway and the Kubernetes API."),
    "edge": ("gateway.cli.edge:edge", "Join this machine to a cloud and run EdgeCore."),
    "token": ("gateway.cli.cloud:token", "Print a token with which an edge node joins."),
    "kubeconfig": ("gateway.cli.kubeconfigs:kubeconfig", "Print a kubeconfig of the embedded API."),
    "config": ("gateway.cli.config:config", "Show effective settings, or their schema."),
    "tenant": ("gateway.cli.registry:tenant", "Create, show, list and delete tenants."),
    "device": ("gateway.cli.registry:device", "Create, show, list and delete devices."),
    "credential": ("gateway.cli.registry:credential", "Show and set a device's credentials."),
    "thing": ("gateway.cli.thing:thing", "Get, set, search, explain, export and import things."),
    "tail": ("gateway.cli.tail:tail", "Follow a tenant's messages as they pass."),
    "trace": ("gateway.cli.trace:trace", "Draw a message's walk as a tree, from recent traces."),
    "send": ("gateway.cli.traffic:send", "Send telemetry or an event as a device."),
    "command": (
        "gateway.cli.commands:command",
        "Send a command to a device; list those that wait.",
    ),
    "doctor": ("gateway.cli.doctor:doctor", "Check machine, settings, ports, disks and peers."),
    "bench": ("gateway.cli.bench:bench", "Run the benchmarks, as ratios to a peer."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported only when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        return [name for name, (target, _) in COMMANDS.items() if _is_built(target)]

    def get_command(  # the context is click's signature
        self,
        ctx: click.Context,  # noqa: ARG002
        cmd_name: str,
    ) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        if entry is None or not _is_built(entry[0]):
            return None
        module, _, attribute = entry[0].partition(":")
        return cast(click.Command, getattr(importlib.import_module(module), attribute))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, COMMANDS[name][1]) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _is_built(target: str) -> bool:
    return importlib.util.find_spec(target.partition(":")[0]) is not None


@click.command(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(version("twinspan"), prog_name="twinspan")
def root() -> None:
    """IoT integration gateway: KubeEdge, Eclipse Ditto, Eclipse Hono and Kubernetes in one process.

    \b
    Start everything with sample data:   twinspan up --demo
    What can be set, and is:             twinspan config schema | twinspan config show
    Shell completion (bash):             eval "$(_TWINSPAN_COMPLETE=bash_source twinspan)"

    \b
    Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 denied, 5 unreachable.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the command `twinspan`."""
    collect_rarely()
    try:
        root.main(args=arguments, prog_name="twinspan", standalone_mode=False)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(1)
    except (GatewayError, OSError, BaseExceptionGroup) as error:
        for line in explain(error):
            click.secho(line, err=True, fg="red")
        sys.exit(exit_code_of(error))
