"""The dynamic controller: answers what edges' MetaServers ask of the Kubernetes API.

Every request is answered, a failure with the API's Status. Source: KubeEdge reference, section 13.2.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING
from zlib import crc32

from cloud.apikinds import ApiKinds
from cloud.apiverbs import ApiVerbs, asked_of
from cloud.sessions import Inbound, stamp
from cloud.watches import Watches
from gateway.errors import Forbidden, GatewayError, Undeliverable
from gateway.wire.cloudedge.applications import (
    Application,
    ApplicationAsked,
    Verb,
    WatchesSynced,
    answer_application,
    answer_watches,
    approved,
    rejected,
)
from gateway.wire.kube.status import status_of

if TYPE_CHECKING:
    from cloud.authorizer import Authorizer
    from cloud.hub import CloudHub
    from cloud.topology import NodeTopology
    from gateway.config.cloud_services import Dynamic
    from gateway.kube.client import KubeClient
    from gateway.observe.metrics import Metrics
    from gateway.observe.tracing import Tracer

log = logging.getLogger(__name__)

_KNOWN_VERBS = frozenset(Verb)
AT_ONCE = 8
"""Requests of one node that are worked on side by side, beside its watches: their answers may be large."""


class Applications:
    """Answers `ApplicationAsked` and `WatchesSynced`."""

    def __init__(
        self,
        settings: Dynamic,
        verbs: ApiVerbs,
        watches: Watches,
        metrics: Metrics,
        tracer: Tracer,
        *,
        is_narrow: bool,
    ) -> None:
        self._settings = settings
        self._is_narrow = is_narrow
        self._verbs = verbs
        self._watches = watches
        self._metrics = metrics
        self._tracer = tracer

    def attach(self, hub: CloudHub) -> None:
        """Take the hub's questions; a node's watches keep their order."""
        hub.on(ApplicationAsked, self.on_asked, _lane)
        # A list of watches from before a new one must not end it.
        hub.on(WatchesSynced, self.on_synced, lambda _: "watches", beside=ApplicationAsked)

    async def on_asked(self, inbound: Inbound, message: ApplicationAsked) -> None:
        app = message.application
        verb = app.verb if app.verb in _KNOWN_VERBS else "other"
        facts = {"node": inbound.node, "key": app.key[:200]}
        with self._tracer.start_frequent(
            f"dynamiccontroller {verb}", inbound.envelope.trace, "server", facts
        ):
            answer, outcome = await self._answered(inbound.node, app)
        self._metrics.edge.applications.labels(verb, outcome).inc()
        inbound.reply(answer_application(inbound.envelope, stamp(), answer))

    async def _answered(self, node: str, app: Application) -> tuple[Application, str]:
        try:
            return approved(app, await self._do(node, app)), "approved"
        except GatewayError as error:
            log.debug(
                "an edge's request to the API failed",
                extra={"node": node, "resource": app.key[:200], "cause": error.message},
            )
            return rejected(app, status_of(error)), "rejected"

    async def _do(self, node: str, app: Application) -> bytes:
        self._check(node, app)
        asked = asked_of(node, app, is_narrow=self._is_narrow)
        if app.verb == Verb.WATCH:
            await self._watches.start(asked)
            return b""
        return await self._verbs.answer(asked)

    def _check(self, node: str, app: Application) -> None:
        if not self._settings.enabled:
            raise Undeliverable("the cloud serves no MetaServers (cloud.dynamic.enabled)")
        if app.node != node:
            raise Forbidden(f"node {node} may not ask as {app.node[:100]}")

    async def on_synced(self, inbound: Inbound, message: WatchesSynced) -> None:
        """Make a node's watches those that it has, and say which cannot be."""
        node, failed = inbound.node, dict[str, Application]()
        self._watches.keep(node, message.live)
        for app_id, app in message.live.items():
            failure = await self._begin(node, app)
            if failure is not None:
                failed[app_id] = failure
        inbound.reply(answer_watches(inbound.envelope, stamp(), failed))

    async def _begin(self, node: str, app: Application) -> Application | None:
        """Begin a watch unless it is there; what may work later is tried at the next sync."""
        try:
            self._check(node, app)
            asked = asked_of(node, app, is_narrow=self._is_narrow)
            if app.verb != Verb.WATCH:
                raise Forbidden(f"{app.verb[:50]!r} is no watch")
            await self._watches.start(asked)
        except Undeliverable as error:
            log.debug("a watch must wait", extra={"node": node, "cause": error.message})
        except GatewayError as error:
            return rejected(app, status_of(error))
        return None


def _lane(message: ApplicationAsked) -> str | int:
    app = message.application
    return "watches" if app.verb == Verb.WATCH else crc32(app.id.encode()) % AT_ONCE


def build_applications(
    kube: KubeClient,
    authorizer: Authorizer,
    hub: CloudHub,
    topology: NodeTopology,
    settings: Dynamic,
    metrics: Metrics,
    tracer: Tracer,
) -> Watches:
    """Answer edges' MetaServers; returns the module that follows their watches."""
    kinds = ApiKinds(kube)
    watches = Watches(hub, authorizer, kinds, topology, settings, metrics)
    topology.on_change(watches.topology_changed)
    verbs = ApiVerbs(authorizer, kinds, topology)
    applications = Applications(
        settings, verbs, watches, metrics, tracer, is_narrow=authorizer.is_enabled
    )
    applications.attach(hub)
    return watches
