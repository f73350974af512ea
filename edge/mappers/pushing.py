"""Pushes what mappers read to where a property's `pushMethod` says, beside the way to the cloud.

Each property has a bounded queue of its own and one task: a destination that is away or slow holds up neither
the twin nor other properties. A sample that could not be delivered is tried again, with back-off, in order;
one that the destination refuses is dropped. Everything that is lost is counted. A method that is not here is
said in the log when its Device comes, and its samples are counted.

`anomalyDetection` is no push method of EdgeCore: KubeEdge has a field without a meaning there, which goes to
mappers over DMI as it is. Source: KubeEdge reference, section 16.2.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from edge.deviceport import FaultPort
from gateway.errors import GatewayError
from gateway.model.json import JsonObject
from gateway.observe.metrics import Metrics
from gateway.runtime.backoff import Backoff
from gateway.wire.cloudedge.devices import DeviceView, mapping
from gateway.wire.cloudedge.subjects import DeviceKey
from gateway.wire.cloudedge.values import Typed

log = logging.getLogger(__name__)

MAX_WAITING = 1_000
AT_ONCE = 100
ONE = 1
"""For destinations that get each sample by itself: what was delivered is not sent again with the next, a
slow one delivers in the end, and a refusal is of one sample."""
PUSH_SECONDS = 30.0
RETRY_FIRST = 0.5
RETRY_CAP = 30.0
METHODS = ("http", "mqtt", "otel", "anomalyDetection")
DATABASES = ("influxdb2", "redis", "TDEngine", "mysql")
"""Members of `pushMethod`, and those of its `dbMethod`."""


_NOT_THERE = "the push method {} is not there: nothing is pushed"
NOT_THERE = {
    "anomalyDetection": "anomalyDetection is not there: EdgeCore detects nothing;"
    " mappers over DMI get it as it is"
}
"""What is said of methods that are not there, where there is more to say."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of a property; `at` in ms since the epoch."""

    device: DeviceKey
    name: str
    value: Typed
    text: str
    at: int


class Pusher(Protocol):
    """One destination; it gets at most `at_once` samples a call."""

    @property
    def at_once(self) -> int: ...

    async def push(self, samples: Sequence[Sample]) -> None:
        """Deliver in order. Errors: of status 500 and above: again later; below: refused for good."""

    async def close(self) -> None:
        """Give connections back; never raises."""


PusherFactory = Callable[[JsonObject], Pusher]
"""Makes the pusher of a method's configuration. Errors: Rejected for one that cannot work."""


_LaneKey = tuple[DeviceKey, str, str]
"""Device, property, method."""


@dataclass(slots=True)
class _Lane:
    """The queue of one property and method."""

    key: _LaneKey
    config: JsonObject
    pusher: Pusher
    waiting: deque[Sample] = field(default_factory=deque)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    has_begun: bool = False
    suspects: int = 0
    """The first samples that wait were refused together: each goes by itself, or one costs the others."""

    @property
    def method(self) -> str:
        return self.key[2]


class Pushing:
    """All lanes, as a module."""

    name = "edge.mappers.push"

    def __init__(
        self, pushers: Mapping[str, PusherFactory], metrics: Metrics, faults: FaultPort
    ) -> None:
        self._pushers = pushers
        self._faults = faults
        self._metrics = metrics
        self._lanes: dict[_LaneKey, _Lane] = {}
        self._refused: set[_LaneKey] = set()
        self._ended: list[_Lane] = []
        """Lanes that ended before this ran."""
        self._group: asyncio.TaskGroup | None = None

    async def run(self, ready: Callable[[], None]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for lane in self._ended:
                    await lane.pusher.close()
                self._ended.clear()
                for lane in self._lanes.values():
                    self._start(lane)
                ready()
                await asyncio.get_running_loop().create_future()
        finally:
            self._group = None

    # --- for the runner -------------------------------------------------------------------------

    def bind(self, view: DeviceView) -> None:
        """Keep lanes whose configuration is the same; begin and end the others."""
        wanted = {
            (view.key, prop.name, method): config
            for prop in view.properties.values()
            for method, config in methods(prop.push_method)
        }
        for key in [key for key in self._keys(view.key) if key not in wanted]:
            self._end(key)
        for key, config in wanted.items():
            lane = self._lanes.get(key)
            if lane is None or lane.config != config:
                self._end(key)
                self._begin(key, config)

    def unbind(self, device: DeviceKey) -> None:
        """Nothing of this Device is pushed any more."""
        for key in self._keys(device):
            self._end(key)

    def offer(self, samples: Iterable[Sample]) -> None:
        """Take samples of properties that are pushed; with a full queue the oldest goes."""
        for sample in samples:
            for method in (*METHODS, *DATABASES):
                key = (sample.device, sample.name, method)
                lane = self._lanes.get(key)
                if lane is not None:
                    self._put(lane, sample)
                elif key in self._refused:
                    self._count(method, "not_there")

    def _put(self, lane: _Lane, sample: Sample) -> None:
        if len(lane.waiting) >= MAX_WAITING:
            lane.waiting.popleft()
            self._count(lane.method, "overflow")
        lane.waiting.append(sample)
        lane.wake.set()

    # --- lanes ----------------------------------------------------------------------------------

    def _keys(self, device: DeviceKey) -> list[_LaneKey]:
        return [key for key in (*self._lanes, *self._refused) if key[0] == device]

    def _begin(self, key: _LaneKey, config: JsonObject) -> None:
        device, name, method = key
        try:
            make = self._pushers.get(method)
            if make is None:
                self._refuse(key, NOT_THERE.get(method, _NOT_THERE.format(method)))
                return
            lane = self._lanes[key] = _Lane(key, config, make(config))
        except GatewayError as error:
            self._refuse(key, error.message)
            return
        if self._group is not None:
            self._start(lane)
        log.debug("a property is pushed", extra={"device": str(device), "property": name})

    def _refuse(self, key: _LaneKey, cause: str) -> None:
        self._refused.add(key)
        facts = {"device": str(key[0]), "property": key[1], "method": key[2], "cause": cause}
        log.warning("a property is not pushed", extra=facts)
        self._faults.note(key[0], _part(key), cause)

    def _end(self, key: _LaneKey) -> None:
        if key in self._refused:
            self._refused.discard(key)
            self._faults.note(key[0], _part(key), "")
        lane = self._lanes.pop(key, None)
        if lane is None:
            return
        self._faults.note(key[0], _part(key), "")
        if lane.has_begun and lane.task is not None:
            lane.task.cancel()
        elif self._group is not None:  # a task that is cancelled before it begins closes nothing
            if lane.task is not None:
                lane.task.cancel()
            self._group.create_task(lane.pusher.close(), name=f"close push {lane.method}")
        else:
            self._ended.append(lane)

    def _start(self, lane: _Lane) -> None:
        if self._group is not None:
            lane.task = self._group.create_task(self._work(lane), name=f"push {lane.method}")

    async def _work(self, lane: _Lane) -> None:
        backoff = Backoff(RETRY_FIRST, RETRY_CAP)
        lane.has_begun = True
        try:
            while True:
                await lane.wake.wait()
                lane.wake.clear()
                while lane.waiting:
                    if await self._push(lane):
                        backoff.reset()
                    else:
                        await asyncio.sleep(backoff.next())
        finally:
            await lane.pusher.close()

    async def _push(self, lane: _Lane) -> bool:
        """Push what waits; False when it is to be tried again."""
        count = min(1 if lane.suspects else lane.pusher.at_once, len(lane.waiting))
        batch = [lane.waiting.popleft() for _ in range(count)]
        outcome, cause = "ok", ""
        try:
            async with asyncio.timeout(PUSH_SECONDS):
                await lane.pusher.push(batch)
        except (GatewayError, TimeoutError, OSError) as error:
            outcome = _outcome(error)
            cause = str(error) or "no answer in time"
            log.warning("a push failed", extra={"method": lane.method, "cause": cause})
        except Exception:  # the top of a lane's task: a pusher's bug must not stop the others
            outcome, cause = "refused", "the pusher failed; the edge's log says how"
            log.exception("a pusher failed", extra={"method": lane.method})
        self._faults.note(lane.key[0], _part(lane.key), cause)
        if outcome == "refused" and count > 1:
            self._put_back(lane, batch)
            lane.suspects = count
            return True
        if outcome != "again":
            lane.suspects = max(lane.suspects - count, 0)
            self._count(lane.method, outcome, len(batch))
            return True
        self._put_back(lane, batch)
        return False

    def _put_back(self, lane: _Lane, batch: Sequence[Sample]) -> None:
        room = max(MAX_WAITING - len(lane.waiting), 0)
        kept = batch[-room:] if room else []
        lane.waiting.extendleft(reversed(kept))
        self._count(lane.method, "again")
        if len(kept) < len(batch):
            self._count(lane.method, "overflow", len(batch) - len(kept))

    def _count(self, method: str, outcome: str, number: int = 1) -> None:
        self._metrics.edge.pushes.labels(method, outcome).inc(number)


def methods(push: JsonObject | None) -> list[tuple[str, JsonObject]]:
    """Return what a `pushMethod` asks for: pairs of method and configuration."""
    if push is None:
        return []
    known = [(name, mapping(push[name])) for name in METHODS if isinstance(push.get(name), dict)]
    databases = mapping(push.get("dbMethod"))
    return known + [
        (name, mapping(databases[name]))
        for name in DATABASES
        if isinstance(databases.get(name), dict)
    ]


def _part(key: _LaneKey) -> str:
    return f"push {key[2]} of {key[1]}"


def _outcome(error: BaseException) -> str:
    if isinstance(error, GatewayError) and error.status < 500:
        return "refused"
    return "again"
