"""`twinspan edge discovered|order`: what the mappers of this node see, and what they are told to do."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from edge import status
from gateway.cli.options import output_option, settings_of, settings_options
from gateway.cli.output import print_data, print_rows
from gateway.errors import Undeliverable
from gateway.wire.cloudedge.discoveries import key_of
from gateway.wire.kube.clock import age

WATCH_SECONDS = 2.0
COLUMNS = ("protocol", "address", "name", "model", "signal", "seen")
WIDE = (*COLUMNS, "manufacturer", "properties", "facts")
Devices = dict[str, dict[str, Any]]


@click.command("discovered", short_help="List the devices that this node's mappers see.")
@click.option("-p", "--protocol", default="", help="Only those of this protocol.")
@click.option("-w", "--watch", is_flag=True, help="Go on, and print what changes.")
@output_option
@settings_options
def discovered_command(
    protocol: str,
    watch: bool,
    output: str,
    file: Path | None,
    sets: tuple[str, ...],
    data_dir: Path | None,
) -> None:
    """List the devices that the mappers of this node see and that may be nobody's Device yet.

    The running EdgeCore is asked; a mapper runs with the first Device of its protocol, or always where
    edge.mappers.always names it. With --watch and json or yaml, each change is a document of its own.

    \b
    twinspan edge discovered
    twinspan edge discovered -p bluetooth --watch
    twinspan edge discovered -o wide     with properties and what else is known
    twinspan device accept NAME        at the cloud: makes a Device of one
    """
    folder = settings_of(file, sets, data_dir).data_dir
    known = _ask(folder, protocol)
    if watch:
        _watch(folder, protocol, output, known)
    elif output in ("json", "yaml"):
        print_data(list(known.values()), output)
    else:
        _print(list(known.values()), output)


@click.command("order", short_help="Have a mapper of this node do something.")
@click.argument("protocol", required=False)
@click.argument("order", required=False)
@click.argument("arguments", nargs=-1, metavar="[KEY=VALUE]...")
@settings_options
def order_command(
    protocol: str | None,
    order: str | None,
    arguments: tuple[str, ...],
    file: Path | None,
    sets: tuple[str, ...],
    data_dir: Path | None,
) -> None:
    """Have a mapper of this node do something that is no property of a Device, and print what came of it.

    It goes through this node's MetaServer, with its administrator's token: who may read the data directory
    may do it. An order that a mapper does not know is answered with those that it knows.

    Without ORDER the orders of PROTOCOL are listed, with their keys, and without PROTOCOL all that there are;
    no EdgeCore needs to run for that.

    \b
    twinspan edge order zigbee
    twinspan edge order zigbee permit-join seconds=60
    twinspan edge order modbus scan ip=192.0.2.10 units=1-10

    \b
    What it finds is offered: twinspan edge discovered
    """
    if protocol is None or order is None:
        from edge.mappers.orders import (
            ORDERS,
            described,
        )  # readers of Devices: heavy, for this alone

        shown = [protocol] if protocol else [name for name, orders in ORDERS.items() if orders]
        click.echo("\n\n".join(described(each) for each in shown))
        return
    given = [argument.partition("=") for argument in arguments]
    wrong = [name for name, sign, _ in given if not (name and sign)]
    if wrong:
        raise click.BadParameter(f"expected KEY=VALUE, got {wrong[0]!r}")
    from gateway.cli.edge_orders import give_order  # certificates: heavy, for this alone

    settings = settings_of(file, sets, data_dir)
    print_data(give_order(settings, protocol, order, {k: v for k, _, v in given}), "yaml")


def _ask(folder: Path, protocol: str) -> Devices:
    """Errors: Undeliverable when no EdgeCore answers."""
    found: Any = status.ask(folder, status.DISCOVERED_PATH, status.MAX_SEEN)
    if found is None:
        raise Undeliverable(
            f"no EdgeCore runs on {folder}",
            description="What mappers see is known while they run: twinspan edge run",
        )
    return {
        key_of(each["protocol"], each["address"]): each
        for each in found["devices"]
        if protocol in ("", each["protocol"])
    }


def _print(devices: Sequence[dict[str, Any]], output: str) -> None:
    if not devices:
        click.echo("No devices are seen.", err=True)
        return
    rows = [_row(each) for each in devices]
    print_rows(rows, WIDE if output == "wide" else COLUMNS, "table", rows)


def _row(device: dict[str, Any]) -> dict[str, object]:
    seen = max(0.0, time.time() - device.get("last", 0) / 1_000)
    properties = [each["name"] for each in device.get("properties", ())]
    facts = [f"{name}={value}" for name, value in device.get("facts", {}).items()]
    return {
        **{name: device.get(name) for name in (*COLUMNS, "manufacturer")},
        "seen": f"{age(seen)} ago",
        "properties": ",".join(properties) or "-",
        "facts": " ".join(facts) or "-",
    }


def _watch(folder: Path, protocol: str, output: str, known: Devices) -> None:
    """Print all, then what changes, until interrupted."""
    _changes(list(known.values()), "added", output)
    while True:
        time.sleep(WATCH_SECONDS)
        found = _ask(folder, protocol)
        added = [each for key, each in found.items() if key not in known]
        changed = [each for key, each in found.items() if key in known and each != known[key]]
        gone = [each for key, each in known.items() if key not in found]
        for devices, kind in ((added, "added"), (changed, "changed"), (gone, "gone")):
            _changes(devices, kind, output)
        known = found


def _changes(devices: Sequence[dict[str, Any]], kind: str, output: str) -> None:
    for device in devices:
        if output == "json":
            click.echo(json.dumps({"type": kind, "device": device}, ensure_ascii=False))
        elif output == "yaml":
            click.echo("---")
            print_data({"type": kind, "device": device}, output)
        else:
            row = _row(device)
            cells = [str(row.get(name) or "-") for name in (WIDE if output == "wide" else COLUMNS)]
            click.echo("   ".join((kind.ljust(7), *cells)))
