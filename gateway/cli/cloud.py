"""`twinspan token`: what an operator of CloudCore asks for."""

from __future__ import annotations

import asyncio
import os
import re
import time
from pathlib import Path

import click

from cloud.identity import create_join_token
from gateway.cli.options import data_dir_option
from gateway.config import default_data_dir
from gateway.errors import InvalidSetting
from gateway.kube.module import FOLDER, KUBECONFIG
from gateway.kube.remote import connect

UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def kubeconfig_file(data_dir: Path | None) -> Path:
    """Return the administrator's kubeconfig of a data directory.

    Errors: InvalidSetting when the embedded API never ran there.
    """
    folder = data_dir or default_data_dir(os.environ)
    file = folder / FOLDER / KUBECONFIG
    if not file.exists():
        raise InvalidSetting(
            f"{folder}: the embedded Kubernetes API has not run on this data directory",
            description="Start it with: twinspan up, or give --data-dir.",
        )
    return file


@click.command()
@click.option("--node", metavar="NAME", help="Only a node of this name may join with the token.")
@click.option(
    "--ttl", default="24h", show_default=True, help="How long it is good, e.g. 30m, 24h, 7d."
)
@click.option(
    "--replace", is_flag=True, help="Let it take over the name of an existing, Ready node."
)
@click.option(
    "--kubeconfig",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The cluster that CloudCore works on, where it is not the embedded API.",
)
@data_dir_option
def token(
    node: str | None, ttl: str, replace: bool, kubeconfig: Path | None, data_dir: Path | None
) -> None:
    """Print a token with which an edge node joins this cloud.

    \b
    On the node:  twinspan edge join https://HOST:10002 --token TOKEN --run
    """
    seconds = duration(ttl)
    if replace and node is None:
        raise InvalidSetting(
            "--replace: needs --node: a token that may take over any node is not made"
        )

    async def make() -> str:
        file = kubeconfig or kubeconfig_file(data_dir)
        async with connect(file, manager="twinspan-cli") as client:
            return await create_join_token(
                client, now=time.time(), ttl=seconds, node=node, replace=replace
            )

    click.echo(asyncio.run(make()))


def duration(text: str) -> float:
    """Read `90s`, `30m`, `24h`, `7d`; the result is in seconds.

    Errors: InvalidSetting.
    """
    match = re.fullmatch(r"(\d{1,6})([smhd])", text.strip())
    if match is None:
        raise InvalidSetting(f"--ttl: expected a number and s, m, h or d, got {text!r}")
    return int(match[1]) * UNITS[match[2]]
