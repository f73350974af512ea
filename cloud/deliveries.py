"""Counts what rules delivered, and writes it to the status of the Rules a little later.

Best effort, as in KubeEdge: what is not written when the process dies is lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.errors import GatewayError, NotFound
from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.devices import mapping, number

if TYPE_CHECKING:
    from cloud.rules import Rules
    from gateway.kube.client import KubeClient
    from gateway.kube.informer import Key
    from gateway.observe.metrics import Metrics

log = logging.getLogger(__name__)

FLUSH_SECONDS = 1.0
MAX_ERRORS = 10
"""Errors that a Rule's status keeps."""
MAX_ERROR = 300


@dataclass(slots=True)
class _Count:
    taken: int = 0
    failed: int = 0
    errors: list[str] = field(default_factory=list)


class Deliveries:
    """Module: the counters of rules."""

    name = "cloud.deliveries"

    def __init__(self, kube: KubeClient, rules: Rules, metrics: Metrics) -> None:
        self._kube = kube
        self._rules = rules
        self._metrics = metrics
        self._counts: dict[Key, _Count] = {}

    def note(self, rule: Key, target: str, error: str = "") -> None:
        """Count one delivery; `error` says why it failed."""
        outcome = "failed" if error else "delivered"
        self._metrics.edge.router_deliveries.labels(target, outcome).inc()
        count = self._counts.setdefault(rule, _Count())
        if error:
            count.failed += 1
            count.errors = [*count.errors, error[:MAX_ERROR]][-MAX_ERRORS:]
        else:
            count.taken += 1

    async def run(self, ready: Callable[[], None]) -> None:
        ready()
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            counts, self._counts = self._counts, {}
            for rule, count in counts.items():
                await self._write(rule, count)

    async def _write(self, rule: Key, count: _Count) -> None:
        document = self._rules.document(rule)
        if document is None:
            return
        patch: JsonObject = {"status": _status(mapping(document.get("status")), count)}
        try:
            written = await self._kube.patch("rules.kubeedge.io/v1", "rules", *rule, patch)
        except NotFound:
            return
        except GatewayError as error:
            log.info("status of a rule not written", extra={"cause": error.message})
        else:
            self._rules.put(written)


def _status(stored: JsonObject, count: _Count) -> JsonObject:
    before = stored.get("errors")
    errors: list[Json] = [*(before if isinstance(before, list) else ()), *count.errors]
    return {
        "successMessages": number(stored.get("successMessages")) + count.taken,
        "failMessages": number(stored.get("failMessages")) + count.failed,
        "errors": errors[-MAX_ERRORS:],
    }
