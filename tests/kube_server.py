"""The embedded Kubernetes API for tests: on a free port, in the test's own loop."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from gateway.config.kube import Kube, KubeHttps
from gateway.kube.control.manager import ControllerManager
from gateway.kube.module import KubeApi
from gateway.observe.metrics import Metrics
from gateway.runtime.listener import Endpoints
from gateway.runtime.module import running
from gateway.store.database import Database

GROUND = ("garbagecollector", "namespace", "root-ca-cert-publisher", "serviceaccount")
"""The control loops without which no API server is like any other."""


@dataclass(frozen=True, slots=True)
class KubeServer:
    """A running server and where to find it."""

    api: KubeApi
    endpoints: Endpoints
    folder: Path
    metrics: Metrics = field(default_factory=Metrics)

    @property
    def url(self) -> str:
        return f"https://{self.endpoints.get('kube.https')}"

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "kube" / "kubeconfig"

    @property
    def token(self) -> str:
        return (self.folder / "kube" / "admin.token").read_text()


@asynccontextmanager
async def kube_server(
    folder: Path, settings: Kube | None = None, *, controllers: tuple[str, ...] | None = ()
) -> AsyncIterator[KubeServer]:
    """Run a server on `folder` for the length of the block; a second block continues with its data.

    Shape:  `controllers` names control loops that run beside those of the `GROUND`; None for none at all.
    """
    endpoints, metrics = Endpoints(), Metrics()
    api = KubeApi(
        settings or Kube(https=KubeHttps(bind="127.0.0.1:0")),
        endpoints,
        Database(folder / "kube.db", "kube"),
        metrics,
        folder,
    )
    async with AsyncExitStack() as up:
        await up.enter_async_context(running(api))
        if controllers is not None:
            manager = ControllerManager(api.client, (*GROUND, *controllers), keys=api.keys)
            await up.enter_async_context(running(manager))
        yield KubeServer(api, endpoints, folder, metrics)
