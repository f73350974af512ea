"""The Rules of the cluster, resolved: which way a message goes, and which topics nodes are asked for.

A Rule works once it and both its RuleEndpoints are there; one that cannot work is told by an Event.
Source: KubeEdge reference, section 18.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cloud.routes import (
    BusToRest,
    RestToBus,
    RestToService,
    RuleRoute,
    ServiceToRest,
    read_route,
)
from cloud.sessions import stamp
from gateway.errors import GatewayError
from gateway.kube.informer import Change, Informer, Key
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.devices import mapping, text
from gateway.wire.cloudedge.link import ObjectMessage
from gateway.wire.cloudedge.names import Operation
from gateway.wire.cloudedge.routing import allow_target, bus_command

if TYPE_CHECKING:
    from cloud.events import EventRecorder
    from cloud.hub import CloudHub
    from gateway.kube.client import KubeClient

log = logging.getLogger(__name__)

RULES = "rules.kubeedge.io/v1"


class Rules:
    """Holds the rules; its informers are modules. A listener of the hub."""

    def __init__(
        self,
        kube: KubeClient,
        hub: CloudHub,
        events: EventRecorder,
        allowed_targets: tuple[str, ...],
    ) -> None:
        self._hub = hub
        self._events = events
        self._allowed = allowed_targets
        self._routes: dict[Key, RuleRoute] = {}
        self._documents = Informer(kube, RULES, "rules", self._rule_changed, is_needed=False)
        self._ends = Informer(kube, RULES, "ruleendpoints", self._end_changed, is_needed=False)
        self.informers = (self._ends, self._documents)
        hub.add_listener(self)

    # --- which way -------------------------------------------------------------------------------

    def find_rest(self, namespace: str, path: tuple[str, ...]) -> RestToBus | RestToService | None:
        """Return the rule of a namespace with the longest path that `path` begins with."""
        found = [
            route
            for route in self._routes.values()
            if isinstance(route, RestToBus | RestToService)
            and route.rule[0] == namespace
            and path[: len(route.path)] == route.path
        ]
        return max(found, key=lambda route: len(route.path), default=None)

    def find_bus(self, node: str, topic: str) -> list[BusToRest]:
        """Return the rules that want what is published on a topic at a node."""
        return [r for r in self._of_node(node) if isinstance(r, BusToRest) and r.topic == topic]

    def find_service(self, node: str, target: str) -> ServiceToRest | None:
        """Return the rule for what services of a node send to `target`, of several the first by name."""
        found = [
            r for r in self._of_node(node) if isinstance(r, ServiceToRest) and r.target == target
        ]
        return min(found, key=lambda route: route.rule, default=None)

    def document(self, key: Key) -> JsonObject | None:
        """Return a Rule as it is stored."""
        return self._documents.objects.get(key)

    def put(self, rule: JsonObject) -> None:
        """Take in a Rule as it was just written, before the watch brings it."""
        self._documents.put(rule)

    def _of_node(self, node: str) -> Iterator[BusToRest | ServiceToRest]:
        """Return the ways up from a node."""
        for route in self._routes.values():
            if isinstance(route, BusToRest | ServiceToRest) and route.node == node:
                yield route

    # --- changes ---------------------------------------------------------------------------------

    def _rule_changed(self, change: Change) -> None:
        is_status = change.old and change.new and change.old.get("spec") == change.new.get("spec")
        if not is_status:
            self._resolve(change.key)

    def _end_changed(self, change: Change) -> None:
        namespace, name = change.key
        for key, rule in self._documents.objects.items():
            spec = mapping(rule.get("spec"))
            if key[0] == namespace and name in (spec.get("source"), spec.get("target")):
                self._resolve(key)

    def _resolve(self, key: Key) -> None:
        old, new = self._routes.pop(key, None), self._read(key)
        if new is not None:
            self._routes[key] = new
        if isinstance(old, BusToRest) and not self.find_bus(old.node, old.topic):
            self.unsubscribe(old.node, old.topic)
        if isinstance(old, ServiceToRest) and not self.find_service(old.node, old.target):
            self.forbid(old.node, old.target)
        if isinstance(new, BusToRest | ServiceToRest):
            self._ask_for(new)

    def _read(self, key: Key) -> RuleRoute | None:
        rule = self._documents.objects.get(key)
        if rule is None:
            return None
        spec = mapping(rule.get("spec"))
        source = self._ends.objects.get((key[0], text(spec.get("source"))))
        target = self._ends.objects.get((key[0], text(spec.get("target"))))
        if source is None or target is None:
            return None  # it comes, or the rule waits for it
        try:
            return read_route(rule, source, target, self._allowed)
        except GatewayError as error:
            named: JsonObject = {"apiVersion": RULES, "kind": "Rule", **rule}
            self._events.warn(named, "InvalidRule", error.message)
            return None

    # --- what nodes are asked for ------------------------------------------------------------------

    def _ask_for(self, route: BusToRest | ServiceToRest) -> None:
        """Tell a node what to send up."""
        if isinstance(route, BusToRest):
            wish = bus_command(stamp(), Operation.SUBSCRIBE, route.topic)
        else:
            wish = allow_target(stamp(), route.target, is_allowed=True)
        self._hub.push(route.node, wish)

    def unsubscribe(self, node: str, topic: str) -> None:
        """Ask a node not to send a topic any more."""
        self._hub.push(node, bus_command(stamp(), Operation.UNSUBSCRIBE, topic))

    def forbid(self, node: str, target: str) -> None:
        """Tell a node that its services may not send to a target any more."""
        self._hub.push(node, allow_target(stamp(), target, is_allowed=False))

    def node_connected(self, node: str) -> None:
        """Ask again: the node's tables may be new, and rules may have come while it was away."""
        asked: set[object] = set()
        for route in self._of_node(node):
            what = route.topic if isinstance(route, BusToRest) else (route.target,)
            if what not in asked:
                asked.add(what)
                self._ask_for(route)

    def node_disconnected(self, node: str) -> None:
        """It keeps what it was asked for."""

    def node_is_new(self, node: str) -> None:
        """It is asked at its connection."""

    def delivered(self, node: str, item: ObjectMessage) -> None:
        """Nothing of ours is acknowledged."""
