"""`twinspan up|gateway|cloud`: builds the lists of modules and keeps them running."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gateway.cli.clusters import install_crds
from gateway.cli.options import settings_of, settings_options
from gateway.cli.serving import Process, start
from gateway.config import Settings
from gateway.console.page import Console
from gateway.core import Once, build_controllers, build_gateway, build_kube
from gateway.runtime.module import Module

if TYPE_CHECKING:
    from edge.pods.runtime import Runtime
    from gateway.kube.client import KubeClient
    from gateway.kube.cluster import ClusterApi
    from gateway.kube.module import KubeApi

F = TypeVar("F", bound=Callable[..., Any])

FOR_NODES = {
    "cloud.hub.wss.bind": 10000,
    "cloud.hub.https.bind": 10002,
    "cloud.stream.tunnel_bind": 10004,
}
"""What edge nodes connect to, each with certificates or a token: setting -> port."""


def start_options(function: F) -> F:
    """Add the options that every long-running command takes."""
    function = click.option(
        "--insecure", is_flag=True, help="Allow plain-text listeners beyond loopback."
    )(function)
    function = click.option(
        "--demo", is_flag=True, help="Add sample tenant, devices, users and their passwords."
    )(function)
    return settings_options(function)


def hub_options(function: F) -> F:
    """Add the options that open CloudHub to other machines."""
    function = click.option(
        "--advertise",
        multiple=True,
        metavar="HOST",
        help="Name or address of this machine for edge nodes; goes into the server certificate.",
    )(function)
    return click.option(
        "--bind",
        metavar="ADDR",
        help="Address on which edge nodes reach CloudHub (10000, 10002) and the stream tunnel (10004).",
    )(function)


@click.command()
@start_options
@hub_options
def up(bind: str | None, advertise: tuple[str, ...], **options: Any) -> None:
    """Run everything on this machine: gateway, CloudCore, Kubernetes API, one local edge."""
    start(_settings(options, bind, advertise), _everything)


@click.command()
@start_options
def gateway(**options: Any) -> None:
    """Run only the Hono- and Ditto-compatible services."""
    start(_settings(options), _gateway_alone)


@click.group(invoke_without_command=True)
@start_options
@hub_options
@click.option(
    "--kubeconfig",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Work on the cluster of this kubeconfig instead of the embedded API (kube.mode=cluster).",
)
@click.pass_context
def cloud(
    context: click.Context,
    /,
    bind: str | None,
    advertise: tuple[str, ...],
    kubeconfig: Path | None,
    **options: Any,
) -> None:
    """Run CloudCore, with the gateway and the Kubernetes API, embedded or of a cluster.

    \b
    twinspan cloud --kubeconfig ~/.kube/config --advertise cloud.example.org --bind 0.0.0.0
    twinspan cloud --set kube.mode=cluster          in a Pod, as its ServiceAccount
    twinspan cloud install-crds --kubeconfig FILE   once, by somebody who may
    """
    if context.invoked_subcommand is None:
        start(_settings(options, bind, advertise, kubeconfig), _cloud_side)


cloud.add_command(install_crds)


def _settings(
    options: dict[str, Any],
    bind: str | None = None,
    advertise: tuple[str, ...] = (),
    kubeconfig: Path | None = None,
) -> Settings:
    more = [f"{flag}=true" for flag in ("demo", "insecure") if options[flag]]
    if bind:
        more += [f"{setting}={bind}:{port}" for setting, port in FOR_NODES.items()]
    if advertise:
        more.append(f"cloud.advertise={json.dumps(list(advertise))}")
    if kubeconfig is not None:
        more += ["kube.mode=cluster", f"kube.kubeconfig={json.dumps(str(kubeconfig.absolute()))}"]
    return settings_of(options["file"], options["sets"], options["data_dir"], *more)


def _console(shared: Process) -> Console | None:
    """The web page, None where it is switched off."""
    return Console(shared) if shared.settings.console.enabled else None


def _gateway_alone(shared: Process) -> Sequence[Module]:
    console = _console(shared)
    return [*build_gateway(shared, console).modules, *(console.modules if console else [])]


def _cloud_side(shared: Process) -> Sequence[Module]:
    from cloud.core import build_cloud

    console = _console(shared)
    built, kube = build_gateway(shared, console), build_kube(shared)
    controllers = build_controllers(shared, kube)
    cloud_modules = build_cloud(shared, built, kube, console.show_cloud if console else None)
    shown = _shown(console, kube)
    return [*built.modules, kube, *controllers, *cloud_modules, *shown]


def _shown(console: Console | None, kube: KubeApi | ClusterApi) -> Sequence[Module]:
    """What the console runs by itself, once it knows the cluster."""
    if console is None:
        return []
    console.show_cluster(kube)
    return console.modules


async def _run_sample(settings: Settings, runtime: Runtime | None, client: KubeClient) -> None:
    """Have the sample workload run at the local edge; what stands in its way is told, with its mend."""
    from cloud import demo
    from edge.pods import sample, sampleimages, sockets

    if runtime is None:
        hindrance = await asyncio.to_thread(_no_runtime, settings)
    else:
        endpoint = sockets.find_endpoint(settings.edge.workloads.runtime) or ""
        hindrance = await sample.hindrance(runtime, endpoint)
    if hindrance:
        click.secho(f"No sample container: {hindrance}\n  then start this again", fg="yellow")
        return
    await demo.provision_workload(client, sampleimages.HEARTBEAT)
    click.echo(
        "Containers: twinspan kubeconfig > kc; kubectl --kubeconfig kc logs -f deploy/heartbeat"
    )


def _no_runtime(settings: Settings) -> str:
    """Return why this node runs no Pods, and what mends it."""
    from edge.verdicts import OK
    from edge.workloadchecks import workload_checks

    found = next((each for each in workload_checks(settings.edge) if each.state != OK), None)
    if found is None:
        return "edge.workloads.enabled is off"
    return f"{found.text}\n  -> {found.mend}" if found.mend else found.text


def _everything(shared: Process) -> Sequence[Module]:
    """The local edge joins its cloud in the same process through the same loopback mTLS as any other."""
    from cloud import demo
    from cloud.core import build_cloud
    from cloud.identity import create_join_token
    from edge import status
    from edge.core import build_edge
    from edge.join import JoinRequest

    console = _console(shared)
    built, kube = build_gateway(shared, console), build_kube(shared)
    cloud_modules = build_cloud(shared, built, kube, console.show_cloud if console else None)
    client = kube.client("twinspan-cli")

    async def ticket() -> JoinRequest:
        return JoinRequest(
            cloud=shared.endpoints.get("cloudhub.https"),
            token=await create_join_token(
                client, now=time.time(), node=local.node_name, replace=True
            ),
            hub=shared.endpoints.get("cloudhub.wss"),
        )

    local = build_edge(shared, ticket=ticket, server=lambda: shared.endpoints.get("cloudhub.wss"))
    shared.documents.update(status.documents(local))
    controllers = build_controllers(shared, kube)
    modules = [*built.modules, kube, *controllers, *cloud_modules, *local.modules]
    modules += _shown(console, kube)
    if shared.settings.demo:
        modules.append(Once("cloud.demo", lambda: demo.provision(client, local.node_name)))
        runtime = local.pods.runtime if local.pods is not None else None
        modules.append(Once("edge.demo", partial(_run_sample, shared.settings, runtime, client)))
    return modules
