"""The control loops of a cluster, as one module over the public API: what kube-controller-manager and
kube-scheduler are elsewhere. Works against any API server; runs where the API is our own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

from gateway.errors import InvalidSetting
from gateway.kube.client import KubeClient
from gateway.kube.control.certificates import Approving, Cleaning, Signing
from gateway.kube.control.clusterroles import Aggregation
from gateway.kube.control.context import Context, Controller
from gateway.kube.control.cronjob import CronJobController
from gateway.kube.control.daemonset import daemon_sets
from gateway.kube.control.deployments import Deployments
from gateway.kube.control.disruption import Disruption
from gateway.kube.control.endpoints import EndpointsController, EndpointSlices, MirroredSlices
from gateway.kube.control.garbage import GarbageCollector
from gateway.kube.control.job import JobController
from gateway.kube.control.keys import Keys, no_keys
from gateway.kube.control.mirrors import Mirrors
from gateway.kube.control.namespaces import NamespaceController
from gateway.kube.control.nodelifecycle import NodeLifecycle
from gateway.kube.control.podgc import PodCollector
from gateway.kube.control.replicasets import replica_sets, replication_controllers
from gateway.kube.control.scheduler import Scheduler
from gateway.kube.control.statefulset import stateful_sets
from gateway.kube.control.tainteviction import TaintEviction
from gateway.kube.control.tenancy import root_certificates, service_accounts
from gateway.kube.control.tokensecrets import TokenSecrets
from gateway.kube.control.ttl import TtlController
from gateway.kube.events import EventRecorder

log = logging.getLogger(__name__)

MANAGER = "kube-controller-manager"
SETTING = "kube.controllers"

CONTROLLERS: Mapping[str, Callable[[Context], Controller]] = {
    "scheduler": Scheduler,
    "nodelifecycle": NodeLifecycle,
    "podgc": PodCollector,
    "taint-eviction-controller": TaintEviction,
    "clusterrole-aggregation": Aggregation,
    "csrapproving": Approving,
    "csrcleaner": Cleaning,
    "csrsigning": Signing,
    "serviceaccount-token": TokenSecrets,
    "cronjob": CronJobController,
    "garbagecollector": GarbageCollector,
    "job": JobController,
    "namespace": NamespaceController,
    "root-ca-cert-publisher": root_certificates,
    "serviceaccount": service_accounts,
    "ttl-after-finished": TtlController,
    "daemonset": daemon_sets,
    "disruption": Disruption,
    "deployment": Deployments,
    "endpoint": EndpointsController,
    "endpointslice": EndpointSlices,
    "endpointslicemirroring": MirroredSlices,
    "replicaset": replica_sets,
    "replicationcontroller": replication_controllers,
    "statefulset": stateful_sets,
}
"""Name, as `kube-controller-manager --controllers` knows it -> how it is built."""


def chosen(wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Return the controllers that a setting names: `*` all, `name` one, `-name` not that one.

    Errors: InvalidSetting for a name that no controller has.
    """
    unknown = [word for word in wanted if word != "*" and word.removeprefix("-") not in CONTROLLERS]
    if unknown:
        known = ", ".join(sorted(CONTROLLERS))
        raise InvalidSetting(f"{SETTING}: no controller is called {unknown[0]!r}; known: {known}")
    refused = {word.removeprefix("-") for word in wanted if word.startswith("-")}
    return tuple(
        name for name in CONTROLLERS if name not in refused and ("*" in wanted or name in wanted)
    )


class ControllerManager:
    """Module: runs control loops once their mirrors are complete.

    Shape:  `client` makes a client that writes under a name; `keys` are those of an API of our own.
    """

    name = "kube.controllers"

    def __init__(
        self,
        client: Callable[[str], KubeClient],
        wanted: tuple[str, ...] = ("*",),
        *,
        now: Callable[[], float] = time.time,
        keys: Callable[[], Keys | None] = no_keys,
    ) -> None:
        self._client = client
        self._keys = keys
        self._names = chosen(wanted)
        self._now = now

    async def run(self, ready: Callable[[], None]) -> None:
        """Work until cancelled."""
        kube = self._client(MANAGER)
        mirrors = Mirrors(kube)
        events = EventRecorder(kube, MANAGER, now=self._now)
        context = Context(
            kube=kube,
            mirrors=mirrors,
            events=events,
            now=self._now,
            client=self._client,
            keys=self._keys,
        )
        controllers = [CONTROLLERS[name](context) for name in self._names]
        in_sync = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(mirrors.run(in_sync.set))
            group.create_task(events.run())
            await in_sync.wait()
            for controller in controllers:
                group.create_task(controller.run())
            ready()
