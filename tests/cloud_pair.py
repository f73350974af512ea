"""A second CloudCore on the cluster of a first one, in the same loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cloud.core import build_cloud
from gateway.config.ditto import Ditto
from gateway.ditto.service import PoliciesService, ThingsService
from gateway.runtime.module import Module, serve
from gateway.store.database import Database
from gateway.store.things_sqlite import SqliteThingStore
from tests.cloud_rig import CloudCore, GatewayParts, ProcessParts, StoreModule, settings_of


@asynccontextmanager
async def another_cloud(
    first: CloudCore, data_dir: Path, *, has_own_things: bool = False, **hub: Any
) -> AsyncIterator[CloudCore]:
    """Run a CloudCore of its own disk on the Kubernetes API of `first`, with the same things or its own."""
    await asyncio.to_thread(data_dir.mkdir, exist_ok=True)
    process = ProcessParts(settings_of(data_dir, Ditto(), **hub))
    database = Database(data_dir / "gateway.db", "gateway")
    things, policies = first.gateway.things, first.gateway.policies
    modules: list[Module] = [StoreModule(database)]
    if has_own_things:
        store = SqliteThingStore(database)
        policies = PoliciesService(store)
        things = ThingsService(store, policies, metrics=process.metrics, tracer=process.tracer)
        modules.append(things)
    gateway = GatewayParts(database, things, policies)
    modules += build_cloud(process, gateway, first.api)
    stop, is_up = asyncio.Event(), asyncio.Event()
    serving = asyncio.create_task(serve(modules, stop, on_ready=is_up.set))
    starting = asyncio.create_task(is_up.wait())
    await asyncio.wait((serving, starting), return_when=asyncio.FIRST_COMPLETED)
    starting.cancel()
    try:
        if is_up.is_set():
            yield CloudCore(process, gateway, first.kube, data_dir, things, first.api)
    finally:
        stop.set()
        await serving
