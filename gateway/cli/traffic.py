"""`twinspan send|command`: be a device, or an application, for one message."""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import quote

import click

from gateway.cli import client
from gateway.cli.client import Api, service_options
from gateway.cli.options import data_dir_option
from gateway.cli.output import print_data
from gateway.errors import InvalidSetting


@click.command()
@click.argument("kind", type=click.Choice(["telemetry", "event"]))
@click.argument("payload", required=False)
@click.option(
    "-u",
    "--user",
    required=True,
    metavar="AUTH-ID@TENANT:PASSWORD",
    help="The device's credentials, e.g. sensor1@DEFAULT_TENANT:hono-secret.",
)
@click.option("--content-type", default="application/json", show_default=True)
@click.option("--qos", type=click.Choice(["0", "1"]), default="1", show_default=True)
@click.option("--device", help="Send for this device, as its gateway.")
@click.option("--url", help="Base URL of the HTTP adapter.  [default: from --data-dir]")
@data_dir_option
def send(
    kind: str,
    payload: str | None,
    user: str,
    content_type: str,
    qos: str,
    device: str | None,
    url: str | None,
    data_dir: Path | None,
) -> None:
    """Send telemetry or an event as a device, over the HTTP adapter.

    PAYLOAD is read from standard input when it is not given.
    """
    body = payload.encode() if payload is not None else sys.stdin.buffer.read()
    headers = {"Content-Type": content_type}
    if kind == "telemetry":
        headers["qos-level"] = qos
    service = client.find("hono.http", "registry", data_dir, url, user)

    async def work(api: Api) -> int:
        method, path = ("POST", f"/{kind}") if device is None else ("PUT", f"/{kind}//{device}")
        status, _ = await api.call(method, path, body=body, headers=headers)
        return status

    click.echo(f"{kind} accepted ({client.run(service, work)})")


@click.command()
@click.argument("thing_id")
@click.argument("subject")
@click.argument("payload", default="")
@click.option("--content-type", default="application/json", show_default=True)
@click.option(
    "--timeout",
    type=click.IntRange(0, 60),
    default=10,
    show_default=True,
    help="Seconds to wait for the device's answer; 0 sends one way.",
)
@service_options
def command(
    thing_id: str,
    subject: str,
    payload: str,
    content_type: str,
    timeout: int,
    data_dir: Path | None,
    url: str | None,
    user: str | None,
) -> None:
    """Send a command to a device through its thing and show the answer."""
    if not subject:
        raise InvalidSetting("SUBJECT: expected the command's name")
    service = client.find("ditto.http", "ditto", data_dir, url, user)
    path = f"/api/2/things/{quote(thing_id, ':')}/inbox/messages/{quote(subject, '')}"

    async def work(api: Api) -> None:
        status, value = await api.call(
            "POST",
            path,
            body=payload.encode(),
            headers={"Content-Type": content_type},
            query={"timeout": str(timeout)},
        )
        if timeout == 0:
            click.echo("sent")
            return
        click.secho(f"{thing_id} answered {status}", err=True)
        if value is not None:
            print_data(value, "json")

    client.run(service, work)
