"""Runs a list of modules as a process: data directory, users, signals, addresses."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import click

from gateway.cli import exposure
from gateway.config import Settings
from gateway.console.operations import Operations
from gateway.model.json import JsonObject
from gateway.observe import logs
from gateway.observe.loop import LoopMonitor
from gateway.observe.metrics import Metrics
from gateway.observe.otlp import build_exports
from gateway.observe.otlp_choices import sampling
from gateway.observe.own_metrics import VERSION
from gateway.observe.recent import RecentTraces
from gateway.observe.tracing import Tracer
from gateway.runtime import process, users
from gateway.runtime.listener import ENDPOINTS_FILE, Endpoints
from gateway.runtime.memory import settle_memory
from gateway.runtime.module import Described, Module, Readiness, serve
from gateway.runtime.small_http import Reply

log = logging.getLogger(__name__)

WRITE_AGAIN_SECONDS = 10.0
NOBODY = users.Users({}, {}, {}, {})

TITLES = {
    "ditto.http": "Ditto HTTP API, WebSocket, SSE; the console",
    "hono.registry": "Hono device registry",
    "hono.registrys": "Hono device registry, TLS",
    "hono.http": "Hono HTTP adapter",
    "hono.mqtt": "Hono MQTT adapter",
    "hono.amqp": "Hono AMQP adapter",
    "hono.coap": "Hono CoAP adapter (UDP)",
    "hono.coaps": "Hono CoAP adapter, DTLS (UDP)",
    "hono.mqtts": "Hono MQTT adapter, TLS",
    "hono.https": "Hono HTTP adapter, TLS",
    "hono.amqps": "Hono AMQP adapter, TLS",
    "hono.lora": "Hono LoRaWAN adapter",
    "hono.loras": "Hono LoRaWAN adapter, TLS",
    "hono.sigfox": "Hono Sigfox adapter",
    "hono.sigfoxs": "Hono Sigfox adapter, TLS",
    "hono.internal": "Hono's services for adapters elsewhere",
    "hono.internals": "Hono's services for adapters elsewhere, TLS",
    "northbound.amqps": "northbound AMQP 1.0, TLS",
    "northbound.amqp": "northbound AMQP 1.0 for applications",
    "ops.http": "metrics, liveness, readiness",
    "kube.https": "embedded Kubernetes API",
    "cloudhub.wss": "CloudHub WebSocket",
    "cloudhub.https": "CloudHub HTTPS (join)",
    "admission.https": "KubeEdge's admission webhook",
    "stream.https": "kubelets of the edge nodes, for API servers",
    "tunnel.wss": "stream tunnels of edges",
    "edge.mqtt": "MQTT broker of the local edge",
    "edge.metaserver": "Kubernetes API of the local edge",
    "edge.dns": "cluster DNS of the local edge's Pods",
    "edge.kubelet": "kubelet's API of the local edge",
    "edge.servicebus": "REST targets of the cloud, for services of the local edge",
}


@dataclass(slots=True)
class Process:
    """What every core of one process has in common."""

    settings: Settings
    users: users.Users
    readiness: Readiness = field(default_factory=lambda: Readiness(()))
    endpoints: Endpoints = field(default_factory=Endpoints)
    metrics: Metrics = field(default_factory=Metrics)
    documents: dict[str, Callable[[], JsonObject | Reply]] = field(default_factory=dict)
    """What the operations port serves beside its own: path -> JSON document, or the whole reply."""
    tracer: Tracer = field(init=False)
    traces: RecentTraces = field(init=False)

    def __post_init__(self) -> None:
        traces = self.settings.observe.traces
        chosen = sampling(traces, os.environ)
        self.tracer = Tracer(
            ratio=chosen.ratio,
            frequent_per_second=traces.telemetry_per_second,
            per_second=chosen.per_second,
            follows=chosen.follows,
            keep=max(1, traces.keep),
        )
        self.traces = RecentTraces(self.tracer)


Build = Callable[[Process], Sequence[Module]]


def start(settings: Settings, build: Build) -> None:
    """Run a gateway or cloud: users are made at the first start and shown once."""
    exposure.check(settings)
    logs.set_up(settings.observe.logs.level, settings.observe.logs.form)
    with process.only_one(settings.data_dir):
        known, is_new = users.load_or_create(
            settings.data_dir,
            demo=settings.demo,
            file=Path(settings.credentials_file) if settings.credentials_file else None,
        )
        if is_new:
            _show_users(known, settings.data_dir)
        process.run(run_modules(Process(settings, known), build))


def start_edge(settings: Settings, build: Build) -> None:
    """Run an edge node: it has no users of its own, and asyncio's loop, which needs less memory."""
    logs.set_up(settings.observe.logs.level, settings.observe.logs.form)
    with process.only_one(settings.data_dir):
        process.run(run_modules(Process(settings, NOBODY), build), fast=False)


def _process_modules(shared: Process) -> list[Module]:
    observe = shared.settings.observe
    modules: list[Module] = [
        Operations(
            observe.http,
            shared.endpoints,
            shared.metrics,
            shared.readiness,
            shared.documents,
            shared.traces,
        ),
        LoopMonitor(shared.metrics),
    ]
    modules += build_exports(observe, shared.tracer, shared.metrics, {"service.version": VERSION})
    return modules


async def run_modules(shared: Process, build: Build) -> None:
    """Build and serve until a signal comes."""
    started = time.monotonic()
    settings, readiness = shared.settings, shared.readiness
    modules = [*_process_modules(shared), *build(shared)]
    for module in modules:
        readiness.mark(module.name, False)
        shared.metrics.modules_ready.watch(module.name, partial(readiness.is_ready, module.name))
        if isinstance(module, Described):
            readiness.describe(module.name, module)
    stop = asyncio.Event()
    process.stop_on_signals(stop)

    telling: set[asyncio.Task[None]] = set()

    def on_ready() -> None:
        settle_memory()
        if not write_endpoints(settings.data_dir, shared.endpoints):
            again = _write_later(settings.data_dir, shared.endpoints)
            telling.add(asyncio.create_task(again, name="endpoints"))
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
        for task in (stopping, *telling):
            task.cancel()
        (settings.data_dir / ENDPOINTS_FILE).unlink(missing_ok=True)


def write_endpoints(data_dir: Path, endpoints: Endpoints) -> bool:
    """Write the addresses really bound, in one step; False on a full disk, which stops nobody's work."""
    text = json.dumps(endpoints.as_dict(), indent=2) + "\n"
    try:
        users.write_private(data_dir / ENDPOINTS_FILE, text)
    except OSError as error:
        facts = {"file": str(data_dir / ENDPOINTS_FILE), "cause": str(error)}
        log.warning("the addresses of this process are not on disk", extra=facts)
        return False
    return True


async def _write_later(data_dir: Path, endpoints: Endpoints) -> None:
    """Try again until the addresses are on disk."""
    await asyncio.sleep(WRITE_AGAIN_SECONDS)
    while not write_endpoints(data_dir, endpoints):  # noqa: ASYNC110  it is the disk that is waited for
        await asyncio.sleep(WRITE_AGAIN_SECONDS)


def show(endpoints: Endpoints, settings: Settings, seconds: float) -> None:
    """Print each address, and what to try first."""
    for name in endpoints:
        title = TITLES.get(name, "")
        click.echo(f"  {name:<16} {click.style(endpoints.get(name), bold=True):<24} {title}")
    if "hono.http" in endpoints and "hono.coaps" not in endpoints and settings.hono.coap.enabled:
        from gateway.hono.adapters.coap_dtls import why_not  # an edge does not load the services

        why = why_not(settings.hono.coap.tls)
        click.echo(f"  {'hono.coaps':<16} {'-':<16} does not run: {why}")
    click.secho(f"Ready in {seconds:.1f} s. Data in {settings.data_dir}. Ctrl-C stops.", fg="green")
    if settings.demo and "ditto.http" in endpoints:
        click.echo(
            f"Try: curl -u ditto:ditto http://{endpoints.get('ditto.http')}/api/2/search/things"
        )
    if "ditto.http" in endpoints and settings.console.enabled:
        who = "   as ditto/ditto (things) or devops/foobar (everything)" if settings.demo else ""
        click.echo(f"Console: http://{endpoints.get('ditto.http')}/{who}")
    sys.stdout.flush()


def _show_users(known: users.Users, data_dir: Path) -> None:
    click.secho("First start: these users were made. They are shown once and kept in", bold=True)
    click.echo(f"  {data_dir / users.CREDENTIALS} (readable by its owner only)")
    for service in ("ditto", "devops", "registry", "northbound"):
        for name, password in getattr(known, service).items():
            click.echo(f"  {service:<11} {name} / {password}")
