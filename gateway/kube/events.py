"""Kubernetes Events of the control loops: what `kubectl describe` and `kubectl events` show.

An Event that happens again counts up the one that is there; those that differ in their text alone share one
from the tenth on. Bounded: at most `MAX_WAITING` wait to be written, newer ones are dropped then; a burst
about one object is cut after `BURST`, as client-go does. Source: Kubernetes API concepts, core/v1 Event;
client-go's event correlation (25 at once, one in 5 minutes; 10 texts in 10 minutes).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.errors import GatewayError, NotFound
from gateway.kube.client import KubeClient
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.clock import rfc3339

log = logging.getLogger(__name__)

MAX_WAITING = 1_000
MAX_REMEMBERED = 4_096
MAX_MESSAGE = 1_024
BURST = 25
REFILL_SECONDS = 300.0
SIMILAR = 10
SIMILAR_SECONDS = 600.0
COMBINED = "(combined from similar events): "
NORMAL, WARNING = "Normal", "Warning"


@dataclass(slots=True)
class _Budget:
    left: float
    seen: float


@dataclass(slots=True)
class _Similar:
    """Texts of Events that are alike otherwise, and when the last one came."""

    seen: float
    texts: dict[str, None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Known:
    """An Event that was written: what is counted up when it happens again."""

    name: str
    count: int


class EventRecorder:
    """Writes Events one after another, while `run` runs.

    Shape:  `component` is the writer that Events name (`deployment-controller`) unless `record` does.
    """

    def __init__(
        self, kube: KubeClient, component: str, *, now: Callable[[], float] = time.time
    ) -> None:
        self._kube = kube
        self._component = component
        self._now = now
        self._queue: asyncio.Queue[tuple[tuple[str, ...], JsonObject]] = asyncio.Queue(MAX_WAITING)
        self._known: OrderedDict[tuple[str, ...], _Known] = OrderedDict()
        self._budgets: OrderedDict[tuple[str, str], _Budget] = OrderedDict()
        self._similar: OrderedDict[tuple[str, ...], _Similar] = OrderedDict()

    def record(
        self,
        item: JsonObject,
        reason: str,
        message: str,
        *,
        type_: str = NORMAL,
        component: str = "",
    ) -> None:
        """Say what happened to an object; never waits. `item` needs apiVersion, kind and metadata."""
        source = component or self._component
        reference = reference_to(item)
        uid = str(reference.get("uid") or reference.get("name"))
        if not self._may((source, uid)):
            return
        text = message[:MAX_MESSAGE]
        key: tuple[str, ...] = (source, uid, type_, reason)
        if self._is_one_of_many(key, text):
            text = COMBINED + text
        else:
            key = (*key, str(reference.get("fieldPath") or ""), text)
        try:
            self._queue.put_nowait((key, self._event(reference, type_, reason, text, source)))
        except asyncio.QueueFull:
            log.debug("event dropped", extra={"reason": reason})

    async def run(self) -> None:
        """Write what was recorded until cancelled."""
        while True:
            key, event = await self._queue.get()
            try:
                await self._write(key, event)
            except GatewayError as error:
                log.debug("event not written", extra={"cause": error.message})

    def _may(self, about: tuple[str, str]) -> bool:
        now = self._now()
        budget = self._budgets.setdefault(about, _Budget(BURST, now))
        self._budgets.move_to_end(about)
        while len(self._budgets) > MAX_REMEMBERED:
            self._budgets.popitem(last=False)
        budget.left = min(BURST, budget.left + max(now - budget.seen, 0) / REFILL_SECONDS)
        budget.seen = now
        if budget.left < 1:
            return False
        budget.left -= 1
        return True

    def _is_one_of_many(self, group: tuple[str, ...], text: str) -> bool:
        """True when this text is at least the tenth of its kind in a while."""
        now = self._now()
        similar = self._similar.get(group)
        if similar is None or now - similar.seen > SIMILAR_SECONDS:
            similar = self._similar[group] = _Similar(now)
        similar.seen = now
        similar.texts[text] = None
        self._similar.move_to_end(group)
        while len(self._similar) > MAX_REMEMBERED:
            self._similar.popitem(last=False)
        if len(similar.texts) < SIMILAR:
            return False
        similar.texts.pop(next(iter(similar.texts)))
        return True

    async def _write(self, key: tuple[str, ...], event: JsonObject) -> None:
        namespace = str(metadata(event)["namespace"])
        known = self._known.get(key)
        if known is not None:
            again: JsonObject = {
                "count": known.count + 1,
                "lastTimestamp": event["lastTimestamp"],
                "message": event["message"],
            }
            try:
                await self._kube.patch("v1", "events", namespace, known.name, again)
            except NotFound:  # its hour is over: a new one
                known = None
            else:
                self._remember(key, _Known(known.name, known.count + 1))
        if known is None:
            stored = await self._kube.create("v1", "events", namespace, event)
            self._remember(key, _Known(str(metadata(stored)["name"]), 1))

    def _remember(self, key: tuple[str, ...], known: _Known) -> None:
        self._known[key] = known
        self._known.move_to_end(key)
        while len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)

    def _event(
        self, reference: JsonObject, type_: str, reason: str, message: str, source: str
    ) -> JsonObject:
        now = self._now()
        stamp = rfc3339(now)
        name = f"{str(reference.get('name'))[:230]}.{int(now * 1e9):x}"
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": str(reference.get("namespace") or "default")},
            "involvedObject": reference,
            "reason": reason,
            "message": message,
            "type": type_,
            "source": {"component": source},
            "reportingComponent": source,
            "reportingInstance": "",
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
            "count": 1,
        }


def metadata(item: JsonObject) -> JsonObject:
    """Return an object's metadata."""
    found = item.get("metadata")
    return found if isinstance(found, dict) else {}


def reference_to(item: JsonObject) -> JsonObject:
    """Return an ObjectReference to an object; a reference is returned as it is."""
    if "metadata" not in item:
        return item
    meta = metadata(item)
    found: dict[str, Json] = {
        "kind": item.get("kind"),
        "namespace": meta.get("namespace"),
        "name": meta.get("name"),
        "uid": meta.get("uid"),
        "apiVersion": item.get("apiVersion"),
        "resourceVersion": meta.get("resourceVersion"),
    }
    return {key: value for key, value in found.items() if value}
