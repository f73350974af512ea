"""An existing cluster in the place of the embedded API: the connection as a module, and what it must have."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Final

import msgspec

from gateway.config.kube import Kube
from gateway.errors import Forbidden, GatewayError, InvalidSetting, Undeliverable
from gateway.kube.builtin import definitions
from gateway.kube.client import KubeClient, PatchType
from gateway.kube.credentials import find_access
from gateway.kube.hooks import Hooks
from gateway.kube.kubelets import Kubelets
from gateway.kube.remote import Connection, RemoteClient
from gateway.kube.strategies import table
from gateway.kube.usage import Usage
from gateway.model.json import JsonObject
from gateway.runtime.backoff import Backoff

log = logging.getLogger(__name__)

MODES: Final = ("embedded", "cluster")
CRDS: Final = ("apiextensions.k8s.io/v1", "customresourcedefinitions")
INSTALLER: Final = "twinspan"
LOOK_SECONDS: Final = 10.0
ESTABLISHED_SECONDS: Final = 30.0


def is_cluster(mode: str) -> bool:
    """Read `kube.mode`. Errors: InvalidSetting."""
    if mode not in MODES:
        raise InvalidSetting(f"kube.mode: expected {' or '.join(MODES)}, got {mode!r}")
    return mode == "cluster"


class ClusterApi:
    """Module: keeps the connection. Ready once the cluster answers.

    Shape:  rules given to `hooks` are not asked: a cluster asks webhooks.
    Errors: InvalidSetting for settings and credentials that lead nowhere.
    """

    name = "kube"

    def __init__(self, settings: Kube) -> None:
        self._settings = settings
        self._connection = Connection(find_access(settings))
        self.hooks = Hooks()
        self._version = ""
        self._cause = "not asked yet"

    def client(self, manager: str) -> KubeClient:
        """A client of the cluster; `manager` names it in `managedFields`. Works while the module runs."""
        return RemoteClient(self._connection, manager)

    def pod_log(
        self, namespace: str, name: str, query: Mapping[str, str]
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """A Pod's log as `kubectl logs` gets it, for the length of the block."""
        return RemoteClient(self._connection, "twinspan-console").pod_log(namespace, name, query)

    def reach(self, way: Callable[[Kubelets], Kubelets]) -> None:
        """Nothing to be done: a cluster's API server asks kubelets by itself."""

    def measure(self, _usage: Usage) -> bool:
        """False: what is measured in a cluster is its metrics-server's matter."""
        return False

    @property
    def is_well(self) -> bool:
        """True while the cluster answers."""
        return not self._cause

    def facts(self) -> Mapping[str, str | int | bool]:
        """Return what an operator wants to know."""
        facts: dict[str, str | int | bool] = {
            "server": self._connection.access.server,
            "version": self._version,
        }
        return facts if self.is_well else {**facts, "cause": self._cause[:500]}

    async def run(self, ready: Callable[[], None]) -> None:
        """Work until cancelled. Errors: InvalidSetting when definitions may not be installed."""
        async with self._connection.opened():
            client = self.client(INSTALLER)
            await self._reach(client)
            if self._settings.install_crds:
                await _install(client)
            ready()
            while True:
                await asyncio.sleep(LOOK_SECONDS)
                await self._look(client)

    async def _reach(self, client: KubeClient) -> None:
        """Return once the cluster answers."""
        backoff = Backoff(0.5, 15.0)
        while True:
            if await self._look(client):
                return
            await asyncio.sleep(backoff.next())

    async def _look(self, client: KubeClient) -> bool:
        """Ask whether the cluster is there; say so when that changes."""
        try:
            found = msgspec.json.decode(await client.read("/version"), type=dict[str, object])
        except (GatewayError, msgspec.DecodeError) as error:
            cause = str(error) or type(error).__name__
            if cause != self._cause:
                log.warning("the cluster does not answer", extra={**self.facts(), "cause": cause})
            self._cause = cause
            return False
        self._version = str(found.get("gitVersion") or "")
        if self._cause:
            self._cause = ""
            log.info("cluster reached", extra=dict(self.facts()))
        return True


async def _install(client: KubeClient) -> None:
    try:
        await install_definitions(client)
    except Forbidden as error:
        raise InvalidSetting(f"kube.install_crds: {error.message}") from error


async def install_definitions(
    client: KubeClient, done: Callable[[str], None] = lambda _name: None
) -> None:
    """Bring CloudCore's definitions to a cluster and wait until they are served; `done` names each.

    What others added to a definition (labels, conversion) stays: fields are applied by the server.
    Errors: Forbidden for somebody who may not; Undeliverable when they are not served in time.
    """
    for definition in definitions():
        name = str(table(definition, "metadata")["name"])
        await client.patch(*CRDS, None, name, definition, patch_type=PatchType.APPLY, force=True)
        try:
            async with asyncio.timeout(ESTABLISHED_SECONDS):
                await _served(client, name)
        except TimeoutError as error:
            raise Undeliverable(f"{name} is not served after {ESTABLISHED_SECONDS:g} s") from error
        done(name)


async def _served(client: KubeClient, name: str) -> None:
    while True:
        if _is_established(await client.get(*CRDS, None, name)):
            return
        await asyncio.sleep(0.1)


def _is_established(definition: JsonObject) -> bool:
    conditions = table(definition, "status").get("conditions")
    return any(
        isinstance(one, dict) and one.get("type") == "Established" and one.get("status") == "True"
        for one in (conditions if isinstance(conditions, list) else [])
    )
