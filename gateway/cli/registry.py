"""`twinspan tenant|device|credential`: the device registry from the command line."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import quote

import click

from gateway.cli import client
from gateway.cli.client import Api, service_options
from gateway.cli.device_accept import accept_command, discovered_command
from gateway.cli.options import output_option
from gateway.cli.output import print_data, print_rows
from gateway.errors import InvalidSetting
from gateway.model.json import Json, JsonObject

PAGE = 200

T = TypeVar("T")


class Where:
    """What `--data-dir`, `--url` and `--user` said."""

    def __init__(self, data_dir: Path | None, url: str | None, user: str | None) -> None:
        self._options = (data_dir, url, user)

    def run(self, work: Callable[[Api], Coroutine[Any, Any, T]]) -> T:
        return client.run(client.find("hono.registry", "registry", *self._options), work)


def at_registry(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say where the registry is; the command gets them as `where`."""

    @service_options
    @functools.wraps(function)
    def inner(
        *args: Any, data_dir: Path | None, url: str | None, user: str | None, **options: Any
    ) -> None:
        function(Where(data_dir, url, user), *args, **options)

    return inner


@click.group()
def tenant() -> None:
    """Create, show, list and delete tenants."""


@click.group()
def device() -> None:
    """Create, show, list and delete devices of a tenant; list and accept what edges see."""


@click.group()
def credential() -> None:
    """Show and set the credentials of a device."""


def _document(text: str | None) -> JsonObject:
    """Read `--json`: a JSON object, or `@file`, or nothing."""
    if text is None:
        return {}
    source = Path(text[1:]).read_text("utf-8") if text.startswith("@") else text
    try:
        value = json.loads(source)
    except ValueError as error:
        raise InvalidSetting(f"--json: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidSetting(f"--json: expected an object, got {type(value).__name__}")
    return cast(JsonObject, value)


json_option = click.option(
    "--json", "document", metavar="JSON|@FILE", help="The whole record as Hono's registry takes it."
)


@tenant.command("create")
@click.argument("tenant_id")
@json_option
@at_registry
def create_tenant(where: Where, tenant_id: str, document: str | None) -> None:
    """Create a tenant."""
    body = _document(document)
    where.run(lambda api: api.call("POST", f"/v1/tenants/{quote(tenant_id, '')}", body=body))
    click.echo(f"tenant {tenant_id} created")


@tenant.command("get")
@click.argument("tenant_id")
@click.option(
    "-o", "--output", type=click.Choice(["yaml", "json"]), default="yaml", show_default=True
)
@at_registry
def get_tenant(where: Where, tenant_id: str, output: str) -> None:
    """Show one tenant."""
    _, value = where.run(lambda api: api.call("GET", f"/v1/tenants/{quote(tenant_id, '')}"))
    print_data(value, output)


@tenant.command("list")
@output_option
@at_registry
def list_tenants(where: Where, output: str) -> None:
    """List tenants."""
    found = where.run(lambda api: _search(api, "/v1/tenants"))
    print_rows(
        found, ("id", "enabled", *(("alias", "ext") if output == "wide" else ())), output, found
    )


@tenant.command("delete")
@click.argument("tenant_id")
@at_registry
def delete_tenant(where: Where, tenant_id: str) -> None:
    """Delete a tenant."""
    where.run(lambda api: api.call("DELETE", f"/v1/tenants/{quote(tenant_id, '')}"))
    click.echo(f"tenant {tenant_id} deleted")


@device.command("create")
@click.argument("tenant_id")
@click.argument("device_id")
@click.option("--via", multiple=True, help="A gateway that may send for the device; repeatable.")
@click.option("--auth-id", help="Also set a password for this authentication id.")
@click.option(
    "--password",
    help="The password, with --auth-id.  [default: asked for]",
)
@json_option
@at_registry
def create_device(
    where: Where,
    tenant_id: str,
    device_id: str,
    via: tuple[str, ...],
    auth_id: str | None,
    password: str | None,
    document: str | None,
) -> None:
    """Create a device, with a password if wanted."""
    body = _document(document)
    if via:
        body["via"] = list(via)
    secret = _asked(auth_id, password)
    path = _device_path(tenant_id, device_id)

    async def work(api: Api) -> None:
        await api.call("POST", f"/v1/devices/{path}", body=body)
        if auth_id is not None:
            await api.call("PUT", f"/v1/credentials/{path}", body=_password(auth_id, secret))

    where.run(work)
    click.echo(f"device {device_id} created in tenant {tenant_id}")


@device.command("get")
@click.argument("tenant_id")
@click.argument("device_id")
@click.option(
    "-o", "--output", type=click.Choice(["yaml", "json"]), default="yaml", show_default=True
)
@at_registry
def get_device(where: Where, tenant_id: str, device_id: str, output: str) -> None:
    """Show one device."""
    path = _device_path(tenant_id, device_id)
    _, value = where.run(lambda api: api.call("GET", f"/v1/devices/{path}"))
    print_data(value, output)


@device.command("list")
@click.argument("tenant_id")
@output_option
@at_registry
def list_devices(where: Where, tenant_id: str, output: str) -> None:
    """List the devices of a tenant."""
    found = where.run(lambda api: _search(api, f"/v1/devices/{quote(tenant_id, '')}"))
    wide = ("defaults", "ext") if output == "wide" else ()
    print_rows(found, ("id", "enabled", "via", *wide), output, found)


@device.command("delete")
@click.argument("tenant_id")
@click.argument("device_id")
@at_registry
def delete_device(where: Where, tenant_id: str, device_id: str) -> None:
    """Delete a device and its credentials."""
    path = _device_path(tenant_id, device_id)
    where.run(lambda api: api.call("DELETE", f"/v1/devices/{path}"))
    click.echo(f"device {device_id} deleted from tenant {tenant_id}")


@credential.command("get")
@click.argument("tenant_id")
@click.argument("device_id")
@output_option
@at_registry
def get_credentials(where: Where, tenant_id: str, device_id: str, output: str) -> None:
    """Show a device's credentials; secrets are never told."""
    path = _device_path(tenant_id, device_id)
    _, value = where.run(lambda api: api.call("GET", f"/v1/credentials/{path}"))
    rows = [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []
    wide = ("secrets",) if output == "wide" else ()
    print_rows(rows, ("type", "auth-id", "enabled", *wide), output, value)


@credential.command("set")
@click.argument("tenant_id")
@click.argument("device_id")
@click.option("--auth-id", required=True, help="Authentication id.")
@click.option("--password", help="The password.  [default: asked for]")
@at_registry
def set_credentials(
    where: Where, tenant_id: str, device_id: str, auth_id: str, password: str | None
) -> None:
    """Set a device's password; all its other credentials are replaced."""
    path = _device_path(tenant_id, device_id)
    body = _password(auth_id, _asked(auth_id, password))
    where.run(lambda api: api.call("PUT", f"/v1/credentials/{path}", body=body))
    click.echo(f"password of {auth_id} set for device {device_id} in tenant {tenant_id}")


device.add_command(accept_command)
device.add_command(discovered_command)


def _device_path(tenant_id: str, device_id: str) -> str:
    return f"{quote(tenant_id, '')}/{quote(device_id, '')}"


def _asked(auth_id: str | None, password: str | None) -> str:
    if auth_id is None or password is not None:
        return password or ""
    return str(click.prompt("Password", hide_input=True, confirmation_prompt=True))


def _password(auth_id: str, password: str) -> list[Json]:
    return [{"type": "hashed-password", "auth-id": auth_id, "secrets": [{"pwd-plain": password}]}]


async def _search(api: Api, path: str) -> list[JsonObject]:
    """Return all hits, page after page; Hono answers 404 where there is none."""
    found: list[JsonObject] = []
    for page in range(10_000):
        try:
            _, value = await api.call(
                "GET", path, query={"pageSize": str(PAGE), "pageOffset": str(page)}
            )
        except client.ApiError as error:
            if error.status == 404:
                return found
            raise
        body = cast(dict[str, Any], value)
        found += body["result"]
        if len(found) >= body["total"]:
            break
    return found
