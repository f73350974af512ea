"""`twinspan edge pods|logs|devices`: what runs on this node, without a cloud."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import click

from edge import podreport
from edge.podreport import PodReport
from gateway.cli.options import output_option, settings_of, settings_options
from gateway.cli.output import print_data, print_rows
from gateway.errors import BadRequest
from gateway.model.json import JsonObject
from gateway.wire.kube.clock import age_since, rfc3339
from gateway.wire.kube.parts import annotations_of, part, rows, text
from gateway.wire.kube.podcells import ready_count, restarts, status_word

_UNITS = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d)")
DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"
_COLUMNS = ("name", "ready", "status", "restarts", "age")


def _duration(said: str) -> float:
    """Read a time into seconds."""
    if not re.fullmatch(f"({_DURATION.pattern})+", said):
        raise click.BadParameter(f"expected a time as 90s, 5m, 1h30m or 2d, got {said!r}")
    return sum(float(count) * _UNITS[unit] for count, unit in _DURATION.findall(said))


@click.command("pods", short_help="List the Pods of this node.")
@click.option("-n", "--namespace", default="", help="Only this namespace.  [default: default]")
@click.option("-A", "--all-namespaces", is_flag=True, help="Of all namespaces.")
@output_option
@settings_options
def pods_command(
    namespace: str,
    all_namespaces: bool,
    output: str,
    file: Path | None,
    sets: tuple[str, ...],
    data_dir: Path | None,
) -> None:
    """List the Pods of this node, as EdgeCore runs them; neither cloud nor kubectl is needed.

    A running EdgeCore is asked. While none runs, the Pods are shown as they were last known on disk, and a
    note says so; their containers may well be running.

    \b
    twinspan edge pods                  those of the namespace default
    twinspan edge pods -A -o wide       all, with address and containers
    twinspan edge pods -o json | jq .   a PodList, as the API has it
    """
    found = podreport.report(settings_of(file, sets, data_dir).data_dir)
    wanted = None if all_namespaces else namespace or "default"
    pods = [each for each in found.pods if wanted in (None, _namespace(each))]
    if output in ("json", "yaml"):
        print_data({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods}, output)
        return
    _say_source(found)
    columns = (("namespace",) if all_namespaces else ()) + _COLUMNS
    if output == "wide":
        columns += ("ip", "containers")
    now = time.time()
    lines = sorted(
        (_cells(each, now) for each in pods), key=lambda row: (row["namespace"], row["name"])
    )
    if lines:
        print_rows(lines, columns, "table", lines)
    else:
        click.echo("No Pods." if wanted is None else f"No Pods in namespace {wanted}.", err=True)


def _say_source(found: PodReport) -> None:
    if not found.is_live:
        click.secho("EdgeCore does not run: as last known on disk.", fg="yellow", err=True)


def _namespace(pod: JsonObject) -> str:
    return text(part(pod, "metadata").get("namespace")) or "default"


def _cells(pod: JsonObject, now: float) -> dict[str, str]:
    meta, status = part(pod, "metadata"), part(pod, "status")
    return {
        "namespace": _namespace(pod),
        "name": text(meta.get("name")),
        "ready": ready_count(pod),
        "status": status_word(pod),
        "restarts": restarts(pod, now),
        "age": age_since(meta.get("creationTimestamp"), now),
        "ip": text(status.get("podIP")) or "-",
        "containers": ",".join(podreport.containers_of(pod)),
    }


@click.command("logs", short_help="Print the log of a container of this node.")
@click.argument("pod")
@click.option("-n", "--namespace", default="default", show_default=True, help="Of the Pod.")
@click.option("-c", "--container", default="", help="[default: the Pod's first one]")
@click.option(
    "-f", "--follow", is_flag=True, help="Go on with what comes, until the container ends."
)
@click.option("-p", "--previous", is_flag=True, help="Of the container before its last restart.")
@click.option("--tail", type=click.IntRange(0), help="Only so many lines from the end.")
@click.option(
    "--since", type=_duration, metavar="TIME", help="Only what is newer, e.g. 90s, 5m, 1h30m."
)
@click.option("--timestamps", is_flag=True, help="Each line with its time.")
@settings_options
def logs_command(
    pod: str,
    namespace: str,
    container: str,
    follow: bool,
    previous: bool,
    tail: int | None,
    since: float | None,
    timestamps: bool,
    file: Path | None,
    sets: tuple[str, ...],
    data_dir: Path | None,
) -> None:
    """Print the log of a container of POD on this node; neither cloud nor kubectl is needed.

    A running EdgeCore is asked. While none runs, the log's file is read: containers live on without EdgeCore
    and still write it, so -f follows it then until Ctrl-C.

    \b
    twinspan edge logs web-0                        all that is kept since the last rotation
    twinspan edge logs web-0 -c nginx -f --tail 20  the last 20 lines, then what comes
    twinspan edge logs web-0 --previous             why it restarted
    """
    settings = settings_of(file, sets, data_dir)
    found = podreport.report(settings.data_dir)
    meant = found.of(namespace, pod)
    name = _container(meant, container)
    query = _query(follow=follow, previous=previous, tail=tail, since=since, timestamps=timestamps)
    try:
        if found.is_live:
            address = podreport.kubelet_address(settings.data_dir)
            _write(podreport.live_log(address, namespace, pod, name, query))
        else:
            _say_source(found)
            logs = Path(settings.edge.workloads.logs)
            path = podreport.log_file(logs, meant, name, previous=previous)
            asyncio.run(_from_file(path, query))
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:  # `| head` has seen enough
        sys.stderr.close()


def _container(pod: JsonObject, asked: str) -> str:
    """Errors: BadRequest."""
    names = podreport.containers_of(pod)
    if asked and asked not in names:
        raise BadRequest(f"container {asked!r}: expected one of {', '.join(names)}")
    if asked or not names:
        return asked
    preferred = annotations_of(pod).get(DEFAULT_CONTAINER, "")
    chosen = preferred if preferred in names else names[0]
    if len(rows(part(pod, "spec").get("containers"))) > 1:
        click.echo(f'Container "{chosen}" out of: {", ".join(names)}', err=True)
    return chosen


def _query(
    *, follow: bool, previous: bool, tail: int | None, since: float | None, timestamps: bool
) -> dict[str, str]:
    flags = {"follow": follow, "previous": previous, "timestamps": timestamps}
    query = {key: "true" for key, is_set in flags.items() if is_set}
    if tail is not None:
        query["tailLines"] = str(tail)
    if since is not None:
        query["sinceTime"] = rfc3339(datetime.now(UTC).timestamp() - since)
    return query


def _write(pieces: Iterable[bytes]) -> None:
    for piece in pieces:
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()


async def _from_file(path: Path, query: dict[str, str]) -> None:
    from edge.pods.logfiles import read_options
    from edge.pods.podlogs import open_log, read_log

    async def is_running() -> bool:  # nobody is there to ask
        return True

    options = read_options(query, time.time_ns())
    log = await open_log(str(path), options)
    async for piece in read_log(log, follow=options.follow, is_running=is_running):
        _write([piece])


@click.command("devices", short_help="List the devices of this node with their values.")
@output_option
@settings_options
def devices_command(
    output: str, file: Path | None, sets: tuple[str, ...], data_dir: Path | None
) -> None:
    """List the devices of this node, who serves them, and the values of their twins.

    Read from this node's disk, which EdgeCore keeps up to date: the same with and without a cloud, and
    whether EdgeCore runs or not. A value with an arrow is wished for and not there yet.

    \b
    twinspan edge devices              one line for each
    twinspan edge devices -o wide      with the values of all properties
    twinspan edge devices -o json      for programs
    """
    found = podreport.devices(settings_of(file, sets, data_dir).data_dir)
    if output in ("json", "yaml"):
        print_data(found, output)
        return
    if not found:
        click.echo("No devices.", err=True)
        return
    now = time.time()
    lines = [_device_cells(each, now) for each in found]
    columns = ("namespace", "name", "protocol", "model", "state", "last online", "properties")
    print_rows(lines, columns if output == "wide" else columns[:-1], "table", lines)


def _device_cells(device: JsonObject, now: float) -> dict[str, str]:
    cells = {
        key: text(device.get(key)) or "-"
        for key in ("namespace", "name", "protocol", "model", "state")
    }
    online = text(device.get("last_online"))
    twins = part(device, "twins")
    shown = [_property(name, part(twins, name)) for name in twins]
    return {
        **cells,
        "last online": f"{age_since(online, now)} ago" if online else "-",
        "properties": " ".join(shown) or "-",
    }


def _property(name: str, sides: JsonObject) -> str:
    reported, desired = sides.get("reported"), sides.get("desired")
    shown = "?" if reported is None else text(reported)
    return f"{name}={shown}" if desired in (None, reported) else f"{name}={shown}->{text(desired)}"
