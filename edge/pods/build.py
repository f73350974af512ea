"""Builds edged's rooms for a node with a container runtime.

The library that speaks to the runtime is loaded here and not before: a node without workloads never has it.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edge.edgeapi import CloudOrDisk
from edge.hub import EdgeHub, LinkListener
from edge.machine import Machine
from edge.metamanager import MetaManager
from edge.pods.sockets import SOCKETS, find_endpoint
from edge.ports import Images
from edge.store import EdgeStore
from gateway.config.edge_workloads import Workloads
from gateway.errors import InvalidSetting
from gateway.model.json import JsonObject
from gateway.observe.metrics import Metrics
from gateway.runtime.listener import Endpoints
from gateway.runtime.memory import share_arenas
from gateway.runtime.module import Module

if TYPE_CHECKING:
    from edge.pods.health import RuntimeHealth
    from edge.pods.ports import PodView
    from edge.pods.runtime import Runtime

log = logging.getLogger(__name__)

AUTO, ON, OFF = "auto", "on", "off"
LIBRARY = "cri_api"
INSTALL = "pip install 'twinspan[workloads]'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What edged stands on: rooms of EdgeCore that are there without it."""

    node: str
    folder: Path
    settings: Workloads
    store: EdgeStore
    hub: EdgeHub
    meta: MetaManager
    api: CloudOrDisk
    machine: Machine
    address: Callable[[], str]
    """The node's own address."""
    kick: Callable[[], None]
    """Has the Node's status told now."""
    endpoints: Endpoints
    metrics: Metrics
    dns_servers: Callable[[], tuple[str, ...]] = tuple
    """The cluster's DNS as Pods are told it now; empty while there is none."""
    services: Callable[[], Iterable[JsonObject]] = tuple
    """Services that containers are told of. Errors: NotYet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pods:
    """What is added to EdgeCore."""

    modules: list[Module]
    listeners: list[LinkListener]
    view: PodView
    runtime: Runtime
    health: RuntimeHealth
    images: Images
    """Of pre-pull jobs."""
    revoked: Callable[[], None]
    """The Node was deleted: its Pods end."""


class Answers(Protocol):
    """Asks a socket whether CRI is behind it."""

    def __call__(self, endpoint: str) -> bool: ...


def endpoint_of(settings: Workloads, answers: Answers | None = None) -> str | None:
    """Return the runtime's socket where this node is to run Pods, else None.

    Errors: InvalidSetting for a value that is none, and for `on` without the library.
    """
    if settings.enabled not in (AUTO, ON, OFF):
        raise InvalidSetting(
            f"edge.workloads.enabled: expected auto, on or off, got {settings.enabled[:100]!r}"
        )
    if settings.enabled == OFF:
        return None
    found = find_endpoint(settings.runtime)
    has_library = importlib.util.find_spec(LIBRARY) is not None
    if settings.enabled == ON:
        if not has_library:
            raise InvalidSetting(f"edge.workloads.enabled: on needs a library: {INSTALL}")
        return found or f"unix://{SOCKETS[0]}"
    if found is None or not Path(found.removeprefix("unix://")).is_socket():
        return None
    if not has_library:
        log.warning("Pods are not run: the library is missing", extra={"mend": INSTALL})
        return None
    return found if (answers or _answers)(found) else None


def _answers(endpoint: str) -> bool:
    from edge.pods.cri import answers

    share_arenas()  # the library begins threads now
    return answers(endpoint)


def build_pods(ground: Ground, endpoint: str) -> Pods:
    """Build all rooms of edged. Errors: InvalidSetting."""
    from edge.pods.assembly import assemble

    share_arenas()
    return assemble(ground, endpoint)
