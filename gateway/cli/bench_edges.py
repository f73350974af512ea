"""`twinspan bench edges`: load a CloudCore with hollow edges."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from edge.hollow.plan import Snapshot
from edge.hollow.run import Run, run
from gateway.cli.cloud import kubeconfig_file
from gateway.cli.options import data_dir_option
from gateway.cli.output import print_data
from gateway.config import default_data_dir
from gateway.errors import InvalidSetting
from gateway.kube.client import KubeClient
from gateway.model.json import JsonObject
from gateway.runtime.listener import ENDPOINTS_FILE

TOKEN_SECONDS = 86_400.0
EVERYWHERE = ("0.0.0.0", "::", "[::]")  # noqa: S104  what listeners may be bound to
TELL_SECONDS = 10.0


@click.command("edges")
@click.option("--nodes", default=100, show_default=True, type=click.IntRange(1, 50_000))
@click.option("--url", default="", metavar="https://HOST:10002", help="CloudCore's HTTPS port.")
@click.option("--hub", default="", metavar="HOST:PORT", help="CloudHub's WebSocket port.")
@click.option("--token", default="", envvar="TWINSPAN_TOKEN", help="To join with.")
@click.option(
    "--kubeconfig",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    help="Of the cluster: makes the token and the Devices, and takes all away at the end.",
)
@click.option(
    "--keys",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep keys and certificates here and use them again: nodes that have one do not join anew.",
)
@click.option("--prefix", default="hollow", show_default=True, help="Of the nodes' names.")
@click.option("--namespace", default="default", show_default=True, help="Of the Devices.")
@click.option("--devices", default=0, show_default=True, help="Devices of each node.")
@click.option("--telemetry", default=0.0, help="Messages a second of each device (QoS 1).")
@click.option("--reports", default=0.0, help="Twin reports a second of each device.")
@click.option("--churn", default=0.0, help="Links broken a minute, of all nodes together.")
@click.option("--ramp", default=50.0, show_default=True, help="New nodes a second.")
@click.option(
    "--duration", default=60.0, show_default=True, help="Seconds to hold; 0 until Ctrl-C."
)
@click.option(
    "--storm", is_flag=True, help="At the end break all links at once and time the return."
)
@click.option("--processes", default=0, help="Processes to use.  [default: by nodes and cores]")
@click.option("--pid", default=0, help="CloudCore's process, if it is here: tell memory and CPU.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json", "yaml"]),
    default="table",
    show_default=True,
)
@data_dir_option
def edges(output: str, data_dir: Path | None, kubeconfig: Path | None, **options: Any) -> None:
    """Load a CloudCore, this one or any other, with hollow edge nodes.

    \b
    Real:   enrolment (token, key, certificate request), the TLS link with its keep-alives and reconnects,
            Node, status patches and Lease renewals at the usual pace, DeviceTwin, the store's SQL,
            acknowledgements, twin reports, the telemetry spool.
    Hollow: stores are in memory; the machine's supplies are measured once for all; there is no MQTT
            broker, mapper, MetaServer, log tunnel or Pod. A made-up device takes over wishes at once.

    Without --url the CloudCore of --data-dir on this machine is loaded. Without a kubeconfig the Nodes stay
    when the run is over: kubectl delete nodes -l twinspan.io/hollow

    \b
    twinspan bench edges --nodes 500 --duration 120
    twinspan bench edges --nodes 2000 --url https://cloud:10002 --token TOKEN --keys ./keys --storm
    """
    url, hub = options.pop("url"), options.pop("hub")
    if not url:
        url, hub, kubeconfig = _local(data_dir, hub, kubeconfig)
    if options["devices"] and kubeconfig is None:
        raise InvalidSetting("--devices: needs --kubeconfig, to make them in the cluster")
    if (options["telemetry"] or options["reports"]) and not options["devices"]:
        raise InvalidSetting("--telemetry, --reports: need --devices that send them")
    keys = options.pop("keys")
    with tempfile.TemporaryDirectory(prefix="twinspan-edges-") as folder:
        wanted = Run(
            cloud=url, hub=hub, folder=keys or Path(folder), keeps=keys is not None, **options
        )
        found = asyncio.run(_edges(wanted, kubeconfig, _Progress(output)))
    if output == "table":
        _show(found)
    else:
        print_data(found, output)
    if not found["complete"]:
        sys.exit(1)


def _local(
    data_dir: Path | None, hub: str, kubeconfig: Path | None
) -> tuple[str, str, Path | None]:
    """Return address, hub and kubeconfig of the CloudCore that runs here. Errors: InvalidSetting."""
    import os

    folder = data_dir or default_data_dir(os.environ)
    try:
        bound = json.loads((folder / ENDPOINTS_FILE).read_text("utf-8"))
        url, wss = bound["cloudhub.https"], bound["cloudhub.wss"]
    except (OSError, ValueError, KeyError):
        raise InvalidSetting(
            f"no CloudCore runs on {folder}",
            description="Start one (twinspan up), give its --data-dir, or --url and --token.",
        ) from None
    return f"https://{_here(url)}", hub or _here(wss), kubeconfig or kubeconfig_file(data_dir)


def _here(bound: str) -> str:
    """Return where a listener is reached from here: `localhost` is in the certificate, 0.0.0.0 is not."""
    host, _, port = bound.rpartition(":")
    return f"localhost:{port}" if host in EVERYWHERE else bound


@asynccontextmanager
async def _cluster(kubeconfig: Path | None) -> AsyncIterator[KubeClient | None]:
    if kubeconfig is None:
        yield None
        return
    from gateway.kube.remote import connect  # an HTTP client: for those who ask for it

    async with connect(kubeconfig, manager="twinspan-bench") as client:
        yield client


async def _edges(wanted: Run, kubeconfig: Path | None, progress: _Progress) -> JsonObject:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with _cluster(kubeconfig) as kube:
        if not wanted.token:
            wanted = replace(wanted, token=await _token(kube))
        return await run(wanted, kube, progress.tell, stop)


async def _token(kube: KubeClient | None) -> str:
    """Make a token from the cluster's CA. Errors: InvalidSetting without a cluster."""
    if kube is None:
        raise InvalidSetting("--token or --kubeconfig: one of them is needed to join")
    from cloud.identity import create_join_token

    return await create_join_token(kube, now=time.time(), ttl=TOKEN_SECONDS)


class _Progress:
    """One line that is written over on a terminal, else one now and then; on standard error."""

    def __init__(self, output: str) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._is_quiet = output != "table" and not self._is_terminal
        self._phase = ""
        self._told = 0.0

    def tell(self, phase: str, now: Snapshot) -> None:
        pause = 0.0 if self._is_terminal else TELL_SECONDS
        if self._is_quiet or (phase == self._phase and time.monotonic() - self._told < pause):
            return
        self._phase, self._told = phase, time.monotonic()
        text = (
            f"{phase}: {now.joined} joined, {now.up} connected, {now.registered} registered,"
            f" {now.bound} devices, {now.lost} links lost, {sum(now.errors.values())} errors"
            f"{_most_of(now.errors)}"
        )
        click.echo(
            f"\r\x1b[K{text}" if self._is_terminal else text, err=True, nl=not self._is_terminal
        )


def _most_of(errors: dict[str, int]) -> str:
    """Return the error that most nodes had, in brackets."""
    return f" ({max(errors, key=lambda text: errors[text])})" if errors else ""


def _show(found: JsonObject) -> None:
    click.echo("", err=True)
    for name, value in _flat("", found):
        click.echo(f"{name:<36} {value}")


def _flat(path: str, value: object) -> list[tuple[str, object]]:
    if not isinstance(value, dict):
        return [(path.strip(), "-" if value is None else value)]
    rows: list[tuple[str, object]] = []
    for name, item in value.items():
        rows += _flat(f"{path} {str(name).replace('_', ' ')}", item)
    return rows
