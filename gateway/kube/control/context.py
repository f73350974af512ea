"""What every control loop gets, and what it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gateway.kube.client import KubeClient
from gateway.kube.control.keys import Keys, no_keys
from gateway.kube.control.mirrors import Mirrors
from gateway.kube.events import EventRecorder


class Controller(Protocol):
    """One control loop. Its constructor asks for mirrors and listens to them; it starts nothing."""

    async def run(self) -> None:
        """Work until cancelled; the mirrors are complete by then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Shape: `kube` writes as the controller; `events` shows people what was done.

    Units:  `now` in seconds since the epoch.
    """

    kube: KubeClient
    mirrors: Mirrors
    events: EventRecorder
    now: Callable[[], float] = time.time
    client: Callable[[str], KubeClient] | None = None
    """Makes a client that writes under another name."""
    keys: Callable[[], Keys | None] = no_keys
    """Keys of the API, where it is our own."""

    def as_writer(self, name: str) -> KubeClient:
        """Return a client that writes under this name, where there can be one."""
        return self.kube if self.client is None else self.client(name)
