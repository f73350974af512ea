"""`twinspan edge join|run`: enrol this machine at a cloud, and run EdgeCore."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from edge import status
from edge.core import build_edge
from edge.identity import Identity
from edge.join import JoinRequest, join
from edge.machinechecks import machine_checks
from gateway.cli.edge_cni import setup_cni_command, within_join
from gateway.cli.edge_devices import discovered_command, order_command
from gateway.cli.edge_images import offline_images
from gateway.cli.edge_pods import devices_command, logs_command, pods_command
from gateway.cli.join_report import JoinReport
from gateway.cli.options import output_option, settings_of, settings_options
from gateway.cli.output import print_data, print_rows
from gateway.cli.serving import Process, start_edge
from gateway.config import Settings
from gateway.runtime import process
from gateway.runtime.module import Module

MOST_PARTS = 8
"""Lines, links and the like of one mapper that are shown."""


@click.group()
def edge() -> None:
    """Join this machine to a cloud and run EdgeCore."""


@edge.command("join", short_help="Check machine and cloud, get this node's certificate.")
@click.argument("cloud", metavar="https://HOST:10002")
@click.option("--token", required=True, help="From 'twinspan token' (or keadm gettoken).")
@click.option("--node-name", default="", help="This node's name.  [default: the host's name]")
@click.option(
    "--hub",
    default="",
    metavar="HOST:PORT",
    help="CloudHub's WebSocket listener.  [default: as the cloud says, else HOST:10000]",
)
@click.option("--replace", is_flag=True, help="Take the place of the node of that name.")
@click.option("--setup-cni", is_flag=True, help="Give this node's Pods a network, too.")
@click.option("--pod-cidr", default="", help="Pods' subnet for --setup-cni.  [default: by name]")
@click.option("--run", "and_run", is_flag=True, help="Run EdgeCore afterwards.")
@output_option
@settings_options
def join_command(
    cloud: str,
    token: str,
    node_name: str,
    hub: str,
    replace: bool,
    setup_cni: bool,
    pod_cidr: str,
    and_run: bool,
    output: str,
    file: Path | None,
    sets: tuple[str, ...],
    data_dir: Path | None,
) -> None:
    """Check this machine and the way to the cloud, get this node's certificate and keep it.

    What stands in the way is named with its mend; warnings do not end it. Nothing is written before every
    step went well.
    """
    settings = settings_of(file, sets, data_dir)
    request = JoinRequest(cloud=cloud, token=token, node=node_name, hub=hub, replace=replace)
    report = JoinReport(output)
    with report.ended(), process.only_one(settings.data_dir):
        runtime = settings.edge.workloads.runtime
        for check in machine_checks(runtime=runtime):
            report.tell(check)
        joined = join(request, Identity(settings.data_dir), report.tell)
        report.joined = joined.node
        if setup_cni:
            within_join(joined.node, pod_cidr, runtime, report.tell)
    if not report.is_data:
        click.secho(f"Node {joined.node} has joined {cloud}.", fg="green")
    if and_run:
        _run(settings)
    elif not report.is_data:
        click.echo(f"Start it: twinspan edge run --data-dir {settings.data_dir}")


edge.add_command(setup_cni_command)
for _command in (pods_command, logs_command, devices_command, discovered_command, order_command):
    edge.add_command(_command)


@edge.command("run")
@settings_options
def run_command(file: Path | None, sets: tuple[str, ...], data_dir: Path | None) -> None:
    """Run EdgeCore on a node that has joined."""
    _run(settings_of(file, sets, data_dir))


def _run(settings: Settings) -> None:
    start_edge(settings, _modules)


def _modules(shared: Process) -> Sequence[Module]:
    core = build_edge(shared)
    shared.documents.update(status.documents(core))
    return core.modules


edge.add_command(offline_images)


@edge.command("kubeconfig", short_help="Print a kubeconfig of this node's MetaServer.")
@settings_options
def kubeconfig_command(file: Path | None, sets: tuple[str, ...], data_dir: Path | None) -> None:
    """Print the administrator's kubeconfig of this node's MetaServer.

    The first call makes its token and certificate; delete metaserver.token to revoke it.

    \b
    twinspan edge kubeconfig > edge.kubeconfig
    kubectl --kubeconfig edge.kubeconfig get devices
    """
    from gateway.cli.edge_kubeconfig import edge_kubeconfig  # certificates: heavy, for this alone

    click.echo(edge_kubeconfig(settings_of(file, sets, data_dir)), nl=False)


@edge.command("status", short_help="Show link, spool, devices and losses.")
@output_option
@settings_options
def status_command(
    output: str, file: Path | None, sets: tuple[str, ...], data_dir: Path | None
) -> None:
    """Show link, spool, devices and losses of the node on this machine, running or not."""
    settings = settings_of(file, sets, data_dir)
    found = status.ask(settings.data_dir)
    if found is None:
        found = status.of_disk(settings.data_dir, settings.edge.spool)
    if output in ("json", "yaml"):
        print_data(found, output)
    else:
        _show(found)


def _show(found: dict[str, Any]) -> None:
    link = found["link"]
    is_up = link["state"] == "up"
    since = f" since {link['since']} ({status.age(link['since'])})" if link["since"] else ""
    said = link["state"] if found["running"] else "down: EdgeCore does not run"
    click.echo(f"node      {click.style(found['node'], bold=True)}")
    click.echo(f"link      {click.style(said, fg='green' if is_up else 'yellow')}{since}")
    if link["last_error"]:
        click.echo(f"          {link['last_error']}")
    click.echo(f"devices   {found['devices']}, twins {found['twins']}")
    if found.get("workloads"):
        _show_workloads(found["workloads"])
    if found["devices_with_reports"]:
        click.echo(f"reports   of {found['devices_with_reports']} devices wait for the cloud")
    if found["external_mqtt"] is not None:
        click.echo(f"mqtt      external broker {'up' if found['external_mqtt'] else 'down'}")
    _show_mappers(found)
    for device, parts in found.get("faults", {}).items():
        for part, fault in parts.items():
            click.echo(f"fault     {device}: {part}: {click.style(fault, fg='yellow')}")
    for job in found.get("jobs", []):
        said = "waits for a confirmation" if job["waits_for_confirmation"] else job["action"]
        click.echo(f"job       {job['kind']}/{job['job']} {click.style(said, fg='yellow')}")
    if found["losses"]:
        causes = ", ".join(f"{cause} {count}" for cause, count in sorted(found["losses"].items()))
        click.echo(f"lost      {click.style(causes, fg='red')}")
    if found.get("set_aside"):
        _show_set_aside(found["set_aside"])
    rows = [{"spool": kind, **cells} for kind, cells in found["spool"].items()]
    print_rows(rows, ("spool", "messages", "bytes", "limit_bytes", "hours_left"), "table", rows)


def _show_mappers(found: dict[str, Any]) -> None:
    for mapper in found.get("mappers", []):  # an older EdgeCore that runs tells none
        said = "serves" if mapper["connected"] else "does not answer for"
        click.echo(f"mapper    {mapper['name']} {said} {mapper['protocol']}")
    for mapper in found.get("mapper_processes", []):
        _show_process(mapper)
    for plugin in found.get("plugins", []):
        said = "runs" if plugin["running"] else f"failed: {plugin['last_error']}"
        click.echo(f"plug-in   {plugin['name']} {said}")


def _show_process(mapper: dict[str, Any]) -> None:
    """Say how the process of a mapper is, and its hardware."""
    count = mapper["devices"]
    many = f"{count} device{'' if count == 1 else 's'}"
    said = f"runs for {many}" if mapper["running"] else f"does not run, {many} wait"
    if mapper["broken"]:
        said = click.style(mapper["broken"], fg="red")
    ends = mapper.get("ended_lately", 0)  # an older EdgeCore does not tell
    if ends and not mapper["broken"]:
        said += click.style(f", ended {ends} times in ten minutes", fg="yellow")
    facts = mapper["hardware"]
    parts = {key: value for key, value in facts.items() if isinstance(value, dict)}
    more = _pairs({key: value for key, value in facts.items() if key not in parts})
    click.echo(f"mapper    {mapper['name']:<7} {said}{f' ({more})' if more else ''}")
    for key, value in list(parts.items())[:MOST_PARTS]:
        click.echo(f"            {key}: {_pairs(value)}")
    if len(parts) > MOST_PARTS:
        click.echo(f"            and {len(parts) - MOST_PARTS} more: -o json")


def _pairs(facts: dict[str, Any]) -> str:
    """Return facts on one line, without those that say nothing."""
    return ", ".join(f"{key} {value}" for key, value in facts.items() if value not in ("", None))


def _show_workloads(found: dict[str, Any]) -> None:
    for problem in found["problems"]:
        click.echo(f"runtime   {click.style(problem, fg='red')}")
    if found["runtime"] and not found["problems"]:
        click.echo(f"runtime   {found['runtime']}")
    phases = ", ".join(f"{phase} {count}" for phase, count in sorted(found["phases"].items()))
    click.echo(f"pods      {found['pods']}{f': {phases}' if phases else ''}")


def _show_set_aside(case: dict[str, Any]) -> None:
    click.echo(f"store     {click.style('begun anew', fg='red')} {case['at']}: {case['cause']}")
    lost = "how much waited in it is not known"
    if case["messages"] is not None:
        lost = f"{case['messages']} messages waited in it"
    click.echo(f"          the old one is {case['file']}; {lost}")
