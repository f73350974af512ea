"""`twinspan cloud install-crds`: what a cluster must know before CloudCore works on it."""

from __future__ import annotations

import asyncio

import click
import yaml

from gateway.config.kube import Kube


@click.command("install-crds")
@click.option(
    "--kubeconfig",
    type=click.Path(exists=True, dir_okay=False),
    help="The cluster; without it a Pod's ServiceAccount, $KUBECONFIG or ~/.kube/config.",
)
@click.option("--context", default="", help="Context of the kubeconfig instead of its current one.")
@click.option("--print", "prints", is_flag=True, help="Print them as YAML and ask no cluster.")
def install_crds(kubeconfig: str | None, context: str, prints: bool) -> None:
    """Bring CloudCore's CustomResourceDefinitions to a cluster.

    Safe to repeat; needs the right to patch customresourcedefinitions.
    """
    from gateway.kube.builtin import definitions

    if prints:
        click.echo(yaml.safe_dump_all(definitions(), sort_keys=False), nl=False)
        return
    asyncio.run(_install(Kube(kubeconfig=kubeconfig or "", context=context)))


async def _install(settings: Kube) -> None:
    from gateway.kube.cluster import install_definitions
    from gateway.kube.credentials import find_access
    from gateway.kube.remote import Connection, RemoteClient

    connection = Connection(find_access(settings))
    async with connection.opened():
        client = RemoteClient(connection, "twinspan")
        await install_definitions(client, lambda name: click.echo(f"{name} served"))
