"""`twinspan up|gateway|cloud`: builds the lists of modules and keeps them running."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from gateway.cli import exposure
from gateway.cli.client import ENDPOINTS
from gateway.cli.options import settings_of, settings_options
from gateway.config import Settings
from gateway.core import Shared, build_gateway, build_kube, build_process
from gateway.observe import logs
from gateway.runtime import process, users
from gateway.runtime.listener import Endpoints
from gateway.runtime.module import Module, Readiness, serve

F = TypeVar("F", bound=Callable[..., Any])

Build = Callable[[Shared], Sequence[Module]]

TITLES = {
    "ditto.http": "Ditto HTTP API, WebSocket, SSE",
    "hono.registry": "Hono device registry",
    "hono.http": "Hono HTTP adapter",
    "hono.mqtt": "Hono MQTT adapter",
    "hono.amqp": "Hono AMQP adapter",
    "northbound.amqp": "northbound AMQP 1.0 for applications",
    "ops.http": "metrics, liveness, readiness",
    "kube.https": "embedded Kubernetes API",
    "cloudhub.wss": "CloudHub WebSocket",
    "cloudhub.https": "CloudHub HTTPS (join)",
    "edge.mqtt": "MQTT broker of the local edge",
}


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
        "--bind", metavar="ADDR", help="Address on which edge nodes reach CloudHub (10000, 10002)."
    )(function)


@click.command()
@start_options
@hub_options
def up(bind: str | None, advertise: tuple[str, ...], **options: Any) -> None:
    """Run everything on this machine: gateway, CloudCore, Kubernetes API, one local edge."""
    _start(_settings(options, bind, advertise), _everything)


@click.command()
@start_options
def gateway(**options: Any) -> None:
    """Run only the Hono- and Ditto-compatible services."""
    _start(_settings(options), lambda shared: build_gateway(shared).modules)


@click.command()
@start_options
@hub_options
def cloud(bind: str | None, advertise: tuple[str, ...], **options: Any) -> None:
    """Run CloudCore, with the gateway and the embedded Kubernetes API."""
    _start(_settings(options, bind, advertise), _cloud_side)


def _settings(
    options: dict[str, Any], bind: str | None = None, advertise: tuple[str, ...] = ()
) -> Settings:
    more = [f"{flag}=true" for flag in ("demo", "insecure") if options[flag]]
    if bind:
        more += [f"cloud.hub.wss.bind={bind}:10000", f"cloud.hub.https.bind={bind}:10002"]
    if advertise:
        more.append(f"cloud.advertise={json.dumps(list(advertise))}")
    return settings_of(options["file"], options["sets"], options["data_dir"], *more)


def _cloud_side(shared: Shared) -> Sequence[Module]:
    from cloud.core import build_cloud

    built, kube = build_gateway(shared), build_kube(shared)
    return [*built.modules, kube, *build_cloud(shared, built, kube)]


def _everything(shared: Shared) -> Sequence[Module]:
    from edge.core import build_edge

    return [*_cloud_side(shared), *build_edge(shared)]


def _start(settings: Settings, build: Build) -> None:
    exposure.check(settings)
    logs.set_up(settings.observe.logs.level, settings.observe.logs.form)
    with process.only_one(settings.data_dir):
        known, is_new = users.load_or_create(settings.data_dir, demo=settings.demo)
        if is_new:
            _show_users(known, settings.data_dir)
        process.run(run_modules(settings, known, build))


async def run_modules(settings: Settings, known: users.Users, build: Build) -> None:
    """Build and serve until a signal comes."""
    started = time.monotonic()
    readiness = Readiness(())
    shared = Shared(settings=settings, users=known, readiness=readiness)
    modules = [*build_process(shared), *build(shared)]
    for module in modules:
        readiness.mark(module.name, False)
        shared.metrics.modules_ready.watch(
            module.name, lambda name=module.name: readiness.states[name]
        )
    stop = asyncio.Event()
    process.stop_on_signals(stop)

    def on_ready() -> None:
        write_endpoints(settings.data_dir, shared.endpoints)
        show(shared.endpoints, settings, time.monotonic() - started)

    serving = asyncio.create_task(
        serve(modules, stop, readiness=readiness, on_ready=on_ready), name="serve"
    )
    stopping = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not serving.done() and not readiness.all_ready:
            serving.cancel()  # asked to stop while still starting
        await asyncio.gather(serving, return_exceptions=serving.cancelled() or stop.is_set())
    finally:
        stopping.cancel()
        (settings.data_dir / ENDPOINTS).unlink(missing_ok=True)


def write_endpoints(data_dir: Path, endpoints: Endpoints) -> None:
    """Write the addresses really bound, in one step."""
    users.write_private(data_dir / ENDPOINTS, json.dumps(endpoints.as_dict(), indent=2) + "\n")


def show(endpoints: Endpoints, settings: Settings, seconds: float) -> None:
    """Print each address, and what to try first."""
    for name in endpoints:
        title = TITLES.get(name, "")
        click.echo(f"  {name:<16} {click.style(endpoints.get(name), bold=True):<24} {title}")
    click.secho(f"Ready in {seconds:.1f} s. Data in {settings.data_dir}. Ctrl-C stops.", fg="green")
    if settings.demo and "ditto.http" in endpoints:
        click.echo(
            f"Try: curl -u ditto:ditto http://{endpoints.get('ditto.http')}/api/2/search/things"
        )
    sys.stdout.flush()


def _show_users(known: users.Users, data_dir: Path) -> None:
    click.secho("First start: these users were made. They are shown once and kept in", bold=True)
    click.echo(f"  {data_dir / users.CREDENTIALS} (readable by its owner only)")
    for service in ("ditto", "devops", "registry", "northbound"):
        for name, password in getattr(known, service).items():
            click.echo(f"  {service:<11} {name} / {password}")
