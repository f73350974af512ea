"""`twinspan device discovered|accept`: what edges see, and one command that makes a Device of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gateway.cli.options import data_dir_option, output_option
from gateway.cli.output import print_data, print_rows
from gateway.errors import Conflict, NotFound, Undeliverable

if TYPE_CHECKING:
    from gateway.kube.remote import RemoteClient
    from gateway.model.json import JsonObject

WAIT_SECONDS = 30.0
ASK_SECONDS = 0.2
COLUMNS = ("name", "node", "protocol", "address", "says", "model", "signal", "seen", "accepted")

F = TypeVar("F", bound=Callable[..., Any])


def at_cluster(function: F) -> F:
    """Add `--kubeconfig` and `--data-dir`."""
    function = click.option(
        "--kubeconfig",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        help="A cluster's.  [default: that of the embedded API]",
    )(function)
    return data_dir_option(function)


@click.command("discovered", short_help="List what edges see.")
@click.option("--node", default="", help="Only what this node sees.")
@output_option
@at_cluster
def discovered_command(
    node: str, output: str, kubeconfig: Path | None, data_dir: Path | None
) -> None:
    """List the devices that mappers at edge nodes see: the DiscoveredDevices of the cluster."""
    items = asyncio.run(_listed(node, kubeconfig, data_dir))
    if output in ("json", "yaml"):
        print_data(items, output)
    elif items:
        print_rows([_row(each) for each in items], COLUMNS, "table", items)
    else:
        click.echo("No devices are seen.", err=True)


@click.command("accept", short_help="Make a Device of a discovered device.")
@click.argument("discovered", metavar="NAME")
@click.option("-n", "--namespace", default="default", show_default=True, help="Of the Device.")
@click.option("--name", default="", help="The Device's name.  [default: what it calls itself]")
@click.option("--model", default="", help="Its DeviceModel; one that is there is taken as it is.")
@click.option("--dry-run", is_flag=True, help="Print what would be written, and write nothing.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["yaml", "json"]),
    default="yaml",
    show_default=True,
    help="How --dry-run prints.",
)
@at_cluster
def accept_command(
    discovered: str,
    namespace: str,
    name: str,
    model: str,
    dry_run: bool,
    output: str,
    kubeconfig: Path | None,
    data_dir: Path | None,
) -> None:
    """Make a Device of a discovered device, with a DeviceModel where there is none.

    NAME is that of its DiscoveredDevice, or its address. CloudCore does the work; this waits for its answer.

    \b
    twinspan device discovered
    twinspan device accept edge-1.bluetooth-a4c138000001 --name kitchen
    twinspan device accept A4:C1:38:00:00:01 --dry-run
    kubectl patch dd NAME --type merge -p '{"spec":{"accept":{"name":"kitchen"}}}'
    """
    said = {"namespace": namespace, "name": name, "model": model}
    wish = {key: value for key, value in said.items() if value}
    if dry_run:
        documents = asyncio.run(_planned(discovered, wish, kubeconfig, data_dir))
        for document in documents:
            if output == "yaml":
                click.echo("---")
            print_data(document, output)
        return
    accepted = asyncio.run(_accepted(discovered, wish, kubeconfig, data_dir))
    click.echo(f"{discovered} is Device {accepted}")


def _client(
    kubeconfig: Path | None, data_dir: Path | None
) -> AbstractAsyncContextManager[RemoteClient]:
    from gateway.cli.cloud import kubeconfig_file
    from gateway.kube.remote import connect  # heavy, and the registry's commands need none of it

    return connect(kubeconfig or kubeconfig_file(data_dir), manager="twinspan-cli")


async def _listed(node: str, kubeconfig: Path | None, data_dir: Path | None) -> list[JsonObject]:
    from cloud.discovered import DISCOVERED, NODE_LABEL, PLURAL

    labels = f"{NODE_LABEL}={node}" if node else None
    found: list[JsonObject] = []
    async with _client(kubeconfig, data_dir) as client:
        page = await client.list(DISCOVERED, PLURAL, labels=labels, limit=500)
        found += page.items
        while page.next_page:
            page = await client.list(
                DISCOVERED, PLURAL, labels=labels, limit=500, page=page.next_page
            )
            found += page.items
    return found


def _row(document: Any) -> dict[str, object]:
    from gateway.wire.kube.clock import age_since

    said = document.get("status") or {}
    return {
        **{name: said.get(name) for name in COLUMNS},
        "name": document["metadata"]["name"],
        "says": said.get("name"),
        "seen": age_since(said.get("lastSeen"), time.time()),
    }


async def _found(client: RemoteClient, discovered: str) -> Any:
    """Return the object of this name or address. Errors: NotFound; Conflict for an address seen twice."""
    from cloud.discovered import DISCOVERED, PLURAL

    try:
        return await client.get(DISCOVERED, PLURAL, None, discovered.lower())
    except NotFound:
        listed: Any = (await client.list(DISCOVERED, PLURAL)).items
    known = [
        each
        for each in listed
        if (each.get("status") or {}).get("address", "").casefold() == discovered.casefold()
    ]
    if len(known) > 1:
        names = ", ".join(each["metadata"]["name"] for each in known)
        raise Conflict(f"{discovered} is seen more than once: give one of {names}")
    if not known:
        raise NotFound(
            f"nothing of the name or address {discovered} is seen",
            description="What is seen: twinspan device discovered",
        )
    return known[0]


async def _planned(
    discovered: str, wish: dict[str, str], kubeconfig: Path | None, data_dir: Path | None
) -> list[JsonObject]:
    """Return the DeviceModel and the Device that would be written where there are none."""
    from cloud.discovered import Found, device_name, device_of, model_of

    async with _client(kubeconfig, data_dir) as client:
        document = await _found(client, discovered)
    found = Found.read({**document, "spec": {"accept": {**wish}}})
    namespace, name = device_name(found)
    model: Any = model_of(found, namespace)
    return [model, device_of(found, namespace, name, model["metadata"]["name"])]


async def _accepted(
    discovered: str, wish: dict[str, str], kubeconfig: Path | None, data_dir: Path | None
) -> str:
    """Say the wish anew and return the Device. Errors: Conflict, saying why it is none; Undeliverable."""
    from cloud.discovered import DISCOVERED, PLURAL, Found, condition_of

    async with _client(kubeconfig, data_dir) as client:
        document = await _found(client, discovered)
        name = document["metadata"]["name"]

        async def ask(accept: JsonObject | None) -> Found:
            patch: JsonObject = {"spec": {"accept": accept}}
            return Found.read(await client.patch(DISCOVERED, PLURAL, None, name, patch))

        if Found.read(document).wish is not None:  # a wish is judged once: it is said anew
            await ask(None)
        said = await ask({**wish})
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            found: Any = await client.get(DISCOVERED, PLURAL, None, name)
            now = Found.read(found)
            if now.accepted and now.judged >= said.meta.generation:
                return now.accepted
            if now.judged >= said.meta.generation:
                raise Conflict(str(condition_of(found["status"]).get("message")))
            await asyncio.sleep(ASK_SECONDS)
    raise Undeliverable("no CloudCore has judged it yet; it will: kubectl get dd -o wide")
