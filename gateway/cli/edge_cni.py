"""`twinspan edge setup-cni`, and the same within `join --setup-cni`."""

from __future__ import annotations

import json
import socket
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from edge.identity import FOLDER, Identity
from edge.join import Check
from edge.network.cni import CniRequest, remove, setup
from edge.workloadchecks import runtime_files
from gateway.cli.join_report import JoinReport
from gateway.cli.options import output_option, settings_of, settings_options
from gateway.config import Settings
from gateway.errors import InvalidSetting, Rejected

BUSY_SECONDS = 5.0


@click.command("setup-cni", short_help="Give this node's Pods a network: a ready-made CNI bridge.")
@click.option("--pod-cidr", default="", help="Pods' subnet.  [default: as given, or by name]")
@click.option("--node-name", default="", help="Node that a subnet is chosen for.")
@click.option("--conf-dir", default="", help="Folder of CNI.  [default: as the runtime says]")
@click.option("--plugin-dir", default="", help="Folder of CNI's plugins.  [default: found]")
@click.option("--remove", "and_remove", is_flag=True, help="Remove what this command made.")
@output_option
@settings_options
def setup_cni_command(
    pod_cidr: str,
    node_name: str,
    conf_dir: str,
    plugin_dir: str,
    and_remove: bool,
    output: str,
    file: Path | None,
    sets: tuple[str, ...],
    data_dir: Path | None,
) -> None:
    """Write a CNI configuration for the Pods of one node; again changes nothing.

    A bridge with a subnet of its own, masquerading, host ports and limits of bandwidth where the plugins are
    there. What another program wrote is never changed.
    """
    settings = settings_of(file, sets, data_dir)
    node = node_name or _node(settings)
    request = CniRequest(
        node=node,
        pod_cidr=pod_cidr,
        known=known_cidr(settings.data_dir, node),
        conf_dir=conf_dir,
        plugin_dir=plugin_dir,
        runtime=runtime_files(settings.edge.workloads.runtime),
    )
    report = SetupReport(output)
    with report.ended():
        for check in remove(request) if and_remove else setup(request):
            report.tell(check)


class SetupReport(JoinReport):
    """As that of a join, without a node."""

    key = "done"


def within_join(node: str, pod_cidr: str, runtime: str, tell: Callable[[Check], None]) -> None:
    """Do it for a node that has just joined; what stands in the way is told and does not undo the join."""
    try:
        request = CniRequest(node=node, pod_cidr=pod_cidr, runtime=runtime_files(runtime))
        for check in setup(request):
            tell(check)
    except Rejected as error:
        again = error.description or "Then: twinspan edge setup-cni"
        tell(Check("CNI configuration", error.message, again))


def _node(settings: Settings) -> str:
    try:
        return Identity(settings.data_dir).load().node
    except InvalidSetting:
        return settings.edge.node_name or socket.gethostname().lower()


def known_cidr(data_dir: Path, node: str) -> str:
    """Return the subnet that the cluster gave a node, "" where it gave none or nobody knows."""
    file = data_dir / FOLDER / "edge.db"
    if not file.is_file():
        return ""
    try:
        with closing(
            sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS)
        ) as db:
            row = db.execute(
                "SELECT value FROM meta WHERE key = ?", (f"null/node/{node}",)
            ).fetchone()
        found: Any = json.loads(row[0]) if row else {}
    except (sqlite3.Error, ValueError):
        return ""
    spec = found.get("spec") if isinstance(found, dict) else None
    cidr = spec.get("podCIDR") if isinstance(spec, dict) else None
    return cidr if isinstance(cidr, str) and ":" not in cidr else ""
