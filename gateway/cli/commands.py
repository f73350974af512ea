"""`twinspan command`: send one to a device, look at those that wait for devices that are away."""

from __future__ import annotations

from typing import cast
from urllib.parse import quote

import click

from gateway.cli.client import Api
from gateway.cli.options import output_option
from gateway.cli.output import print_rows
from gateway.cli.registry import Where, at_registry
from gateway.cli.traffic import command as send_command
from gateway.model.json import JsonObject

PAGE = 1_000
_COLUMNS = ("device-id", "id", "subject", "stored", "expires")
_WIDE = ("one-way", "messaging", "attempts", "size", "content-type", "correlation-id")


class SendsByDefault(click.Group):
    """A group whose arguments are those of `send` unless they begin with the name of a command.

    Nothing is ambiguous: a thing's id has a colon.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        names = (*self.commands, *self.get_help_option_names(ctx))
        if args and args[0] not in names:
            args = ["send", *args]
        return super().parse_args(ctx, args)


@click.group(cls=SendsByDefault)
def command() -> None:
    """Send a command to a device, or look at commands that wait for devices that are away.

    \b
    twinspan command THING_ID SUBJECT [PAYLOAD]     send one through its thing, show the answer
    twinspan command list TENANT [DEVICE]           what waits on disk
    twinspan command delete TENANT DEVICE [ID]      give it up
    """


command.add_command(send_command, "send")


@command.command("list")
@click.argument("tenant_id")
@click.argument("device_id", required=False)
@output_option
@at_registry
def list_waiting(where: Where, tenant_id: str, device_id: str | None, output: str) -> None:
    """List the commands that wait for the devices of a tenant, oldest first."""
    found = where.run(lambda api: _all(api, _path(tenant_id, device_id)))
    print_rows(found, (*_COLUMNS, *(_WIDE if output == "wide" else ())), output, found)


@command.command("delete")
@click.argument("tenant_id")
@click.argument("device_id", required=False)
@click.argument("command_id", required=False)
@click.option("--all", "everything", is_flag=True, help="All commands of the tenant.")
@at_registry
def delete_waiting(
    where: Where,
    tenant_id: str,
    device_id: str | None,
    command_id: str | None,
    everything: bool,
) -> None:
    """Give up one command, all that wait for a device, or (--all) all of a tenant.

    Applications that wait for a response are told.
    """
    if (device_id is None) is not everything:
        raise click.UsageError("expected DEVICE_ID, or --all without it")
    path = _path(tenant_id, device_id, command_id)
    where.run(lambda api: api.call("DELETE", path))
    click.echo(f"command {command_id} deleted" if command_id else "commands deleted")


def _path(tenant: str, device: str | None, command_id: str | None = None) -> str:
    parts = [quote(part, "") for part in (tenant, device, command_id) if part is not None]
    return "/v1/commands/" + "/".join(parts)


async def _all(api: Api, path: str) -> list[JsonObject]:
    """Return all that waits, page after page."""
    found: list[JsonObject] = []
    query = {"limit": str(PAGE)}
    while True:
        _, value = await api.call("GET", path, query=query)
        page = cast(JsonObject, value)
        found += cast(list[JsonObject], page["result"])
        if "next" not in page:
            return found
        query["after"] = str(page["next"])
