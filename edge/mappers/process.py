"""EdgeCore's side of mappers in processes of their own: one process per family, started when it is needed.

A process starts with the first Device of its protocol (or always, where settings say so), stays a while after
the last one has gone, and is started again with back-off when it ends. While it is away its devices are
unreachable and nothing else suffers. One that does not answer pings is ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from asyncio.subprocess import Process
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from edge.mappers.callers import Link
from edge.mappers.driver import DeviceUnreachable, Driver, DriverFactory, Reading
from edge.mappers.family import FAMILIES, Discovered
from edge.mappers.link import (
    Ask,
    Broken,
    Call,
    Changed,
    Done,
    Failed,
    Hello,
    LinkBroken,
    Open,
    Ping,
    Seen,
    State,
    ToParent,
    Up,
    error_of,
    receive,
    send,
    to_parent,
)
from edge.mappers.spawn import end, spawn
from gateway.config.edge_mappers import Mappers
from gateway.config.observe import Logs
from gateway.config.schema import plain
from gateway.errors import InvalidSetting, NotFound, Rejected
from gateway.model.json import JsonObject
from gateway.observe.mapper_metrics import MapperMetrics
from gateway.runtime.backoff import Backoff
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.models import ModelView

log = logging.getLogger(__name__)

START_SECONDS = 30.0
"""What a process may take to start, more than it may be silent later."""
PING_SECONDS = 5.0
UNUSED_SECONDS = 0.5
"""How often it is seen whether anybody needs a process."""
CONNECT_SECONDS = 8.0
"""How long a device waits for its mapper's process; less than the time limit of a call."""
SILENT_PINGS = 4
"""A process that has left so many pings unanswered is ended: a driver holds up its loop."""
STEADY_SECONDS = 60.0
BROKEN_SECONDS = 30.0
"""Pause before a family that cannot work is tried again: somebody must change something first."""
ORDER_SECONDS = 60.0
LATELY_SECONDS = 600.0
"""How far back ends of a process are counted for those who look at it."""

Take = Callable[[str, Sequence[Discovered], Sequence[str]], None]
"""Takes what a family sees: its name, devices found or changed, addresses that are gone."""


class FamilyProcess:
    """One family: its process, started again and again while somebody needs it."""

    def __init__(
        self,
        name: str,
        label: str,
        hello: Hello,
        metrics: MapperMetrics,
        take: Take,
        *,
        linger: float,
        is_always: bool,
    ) -> None:
        self.name = name
        self._label = label
        self._hello = hello
        self._metrics = metrics
        self._take = take
        self._linger = linger
        self._is_always = is_always
        self._users = 0
        self._last_used = float("-inf")
        self._wanted = asyncio.Event()
        self._link: Link | None = None
        self._up = asyncio.Event()
        self._process: Process | None = None
        self._broken = ""
        self._facts: dict[str, Any] = {}
        self._orders: list[str] = []
        self._starts = 0
        self._ends: deque[float] = deque(maxlen=100)
        self._unanswered = 0

    # --- for drivers ------------------------------------------------------------------------------

    def take_up(self) -> None:
        """Somebody needs the process from now on."""
        self._users += 1
        self._touch()
        self._wanted.set()

    def give_back(self) -> None:
        """Somebody needs it no more."""
        self._users -= 1
        self._touch()

    def _touch(self) -> None:
        self._last_used = asyncio.get_running_loop().time()

    def _is_needed(self) -> bool:
        """Say whether the process has work, or had some a moment ago: devices come back after a pause."""
        unused = asyncio.get_running_loop().time() - self._last_used
        return self._is_always or self._users > 0 or unused < self._linger

    async def link(self) -> Link:
        """Return the link of a process that works. Errors: Rejected for what must be changed first."""
        while self._link is None or not self._up.is_set():
            if self._broken:
                raise Rejected(f"{self.name}: {self._broken}")
            await self._up.wait()
        return self._link

    async def order(self, name: str, arguments: Mapping[str, str]) -> JsonObject:
        """Have the family do something.

        Errors: NotFound for an order that it does not know; of the order; DeviceUnreachable.
        """
        self.take_up()
        try:
            async with asyncio.timeout(ORDER_SECONDS):
                link = await self.link()
                if name not in self._orders:
                    known = ", ".join(self._orders) or "none"
                    raise NotFound(f"{self.name} has no order {name}; it knows: {known}")
                done = await link.ask(lambda number: Ask(number, name, dict(arguments)))
        except TimeoutError as error:
            raise DeviceUnreachable(f"{self.name}: the order took too long") from error
        finally:
            self.give_back()
        return done.result

    def facts(self) -> JsonObject:
        """Say how the process is, for `edge status`; `ended_lately` counts ends while it was needed."""
        since = asyncio.get_running_loop().time() - LATELY_SECONDS
        return {
            "name": self.name,
            "running": self._up.is_set(),
            "pid": None if self._process is None else self._process.pid,
            "devices": self._users,
            "starts": self._starts,
            "ended_lately": sum(ended > since for ended in self._ends),
            "broken": self._broken or None,
            "orders": [*self._orders],
            "hardware": self._facts,
        }

    # --- its life ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run the process whenever it is needed."""
        backoff = Backoff(1.0, 60.0)
        now = asyncio.get_running_loop().time
        while True:
            while not self._is_needed():
                self._wanted.clear()
                await self._wanted.wait()
            began = now()
            try:
                await self._run_once()
            except OSError as error:  # no process, no descriptors, no memory: that may pass
                facts = {"mapper": self.name, "cause": str(error)}
                log.error("a mapper's process cannot be started", extra=facts)  # noqa: TRY400
            if now() - began > STEADY_SECONDS:
                backoff.reset()
            if self._is_needed():
                self._ends.append(now())
                await asyncio.sleep(BROKEN_SECONDS if self._broken else backoff.next())

    async def _run_once(self) -> None:
        """Start the process and serve it until it ends, or nobody needs it."""
        ours, process = await spawn()
        self._process = process
        self._starts += 1
        self._metrics.starts.labels(self._label).inc()
        try:
            reader, writer = await asyncio.open_connection(sock=ours)
        except BaseException:
            ours.close()  # it ends with its link
            await end(process)
            raise
        link = Link(writer)
        try:
            async with asyncio.TaskGroup() as group:
                work = [
                    group.create_task(self._watch(process, link)),
                    group.create_task(self._end_when_unused(writer)),
                ]
                await self._serve(link, reader)
                for task in work:
                    task.cancel()
        finally:
            self._ended(link)
            writer.close()
            await end(process)
            self._process = None

    async def _serve(self, link: Link, reader: asyncio.StreamReader) -> None:
        try:
            send(link.writer, self._hello)
            while True:
                self._on(link, to_parent.decode(await receive(reader)))
        except LinkBroken as error:
            log.info("a mapper's process ends", extra={"mapper": self.name, "cause": str(error)})
        except (msgspec.MsgspecError, RecursionError) as error:
            facts = {"mapper": self.name, "cause": str(error)}
            log.error("a mapper's process says what cannot be", extra=facts)  # noqa: TRY400  told whole

    def _on(self, link: Link, frame: ToParent) -> None:
        match frame:
            case Up():
                self._broken, self._orders = "", frame.orders
                self._link = link
                self._up.set()
                self._metrics.up.labels(self._label).set(1)
            case Broken():
                self._broken = frame.message
                log.error(
                    "a mapper cannot work", extra={"mapper": self.name, "cause": frame.message}
                )
                self._up.set()  # wakes who waits: they are told why
                self._up.clear()
            case Done():
                answer = link.calls.get(frame.id)
                if answer is not None and not answer.done():
                    answer.set_result(frame)
            case Failed():
                answer = link.calls.get(frame.id)
                if answer is not None and not answer.done():
                    answer.set_exception(error_of(frame))
            case Changed():
                for device in frame.devices:
                    changed = link.changed.get(device)
                    if changed is not None:
                        changed()
            case Seen():
                self._take(self.name, frame.found, frame.lost)
            case State():
                self._note(frame)

    def _note(self, state: State) -> None:
        self._unanswered = 0
        self._facts = state.facts
        self._metrics.memory.labels(self._label).set(state.resident)
        if isinstance(state.facts.get("is_up"), bool):
            self._metrics.hardware_up.labels(self._label).set(state.facts["is_up"])
        for outcome, count in state.counts.items():
            if outcome in NOTIFICATIONS:
                self._metrics.notifications.labels(self._label, outcome).inc(count)

    async def _watch(self, process: Process, link: Link) -> None:
        """Ask how the process is; end one that does not start, or does not answer.

        Pings are counted, not seconds: while EdgeCore itself stood still, it has asked nobody.
        """
        self._unanswered = -int(START_SECONDS / PING_SECONDS)
        while True:
            with contextlib.suppress(DeviceUnreachable):
                link.say(Ping())
            self._unanswered += 1
            if self._unanswered > SILENT_PINGS:
                log.error("a mapper's process does not answer", extra={"mapper": self.name})
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                return
            await asyncio.sleep(PING_SECONDS)

    async def _end_when_unused(self, writer: asyncio.StreamWriter) -> None:
        while True:
            await asyncio.sleep(UNUSED_SECONDS)
            if not self._is_needed():
                break
        log.info("a mapper has no devices any more", extra={"mapper": self.name})
        writer.close()

    def _ended(self, link: Link) -> None:
        self._link = None
        self._up.clear()
        self._facts = {}
        self._metrics.up.labels(self._label).set(0)
        link.end()


NOTIFICATIONS = ("taken", "coalesced", "malformed")


class ProcessDriver:
    """The port of one Device whose driver is in another process."""

    def __init__(self, family: FamilyProcess, view: DeviceView, model: ModelView | None) -> None:
        self._family = family
        self._document = view.document
        self._model = None if model is None else model.document
        self._link: Link | None = None
        self._number = 0
        self._faults: Mapping[str, str] = {}
        self._is_user = False

    async def connect(self) -> None:
        if not self._is_user:
            self._is_user = True
            self._family.take_up()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                link = self._link = await self._family.link()
        except TimeoutError as error:
            raise DeviceUnreachable("the mapper is being started") from error
        self._number = next(link.numbers)
        link.say(Open(self._number, dict(self._document), _copied(self._model)))
        self._faults = (await self._ask("connect")).faults

    async def _ask(
        self, what: str, names: Sequence[str] = (), name: str = "", text: str = ""
    ) -> Done:
        if self._link is None:
            raise DeviceUnreachable("the device is not connected")
        device = self._number
        return await self._link.ask(
            lambda number: Call(number, device, what, list(names), name, text)
        )

    async def read(self, names: Sequence[str]) -> Mapping[str, Reading]:
        return (await self._ask("read", names)).readings

    async def write(self, name: str, text: str) -> None:
        await self._ask("write", name=name, text=text)

    async def withdraw(self, name: str) -> None:
        """Have a value that is kept for a sleeping device forgotten. Errors: DeviceUnreachable."""
        await self._ask("withdraw", name=name)

    def subscribe(self, changed: Callable[[], None]) -> None:
        if self._link is not None:
            self._link.changed[self._number] = changed

    def faults(self) -> Mapping[str, str]:
        """Return what the driver has nothing for, as it said when it connected."""
        return self._faults

    async def close(self) -> None:
        if self._is_user:
            self._is_user = False
            self._family.give_back()
        link, self._link = self._link, None
        if link is None or not link.is_open:
            return
        link.changed.pop(self._number, None)
        device = self._number
        with contextlib.suppress(DeviceUnreachable, Rejected):
            await link.ask(lambda number: Call(number, device, "close"))


class MapperProcesses:
    """Module: the processes of all families."""

    name = "edge.mapperprocesses"

    def __init__(
        self, settings: Mappers, logs: Logs, folder: Path, metrics: MapperMetrics, take: Take
    ) -> None:
        """`folder` has a folder for each family. Errors: InvalidSetting for an unknown protocol."""
        always = {FAMILIES[each] for each in _checked("always", settings.always)}
        self._disabled = frozenset(_checked("disabled", settings.disabled))
        self._families: dict[str, FamilyProcess] = {}
        for maker in dict.fromkeys(FAMILIES.values()):
            name = family_name(maker)
            own = plain(getattr(settings, name))
            hello = Hello(
                maker,
                own if isinstance(own, dict) else {},
                str(folder / name),
                logs.level,
                logs.form,
            )
            self._families[maker] = FamilyProcess(
                name,
                next(protocol for protocol, its in FAMILIES.items() if its == maker),
                hello,
                metrics,
                take,
                linger=settings.linger,
                is_always=maker in always,
            )

    async def run(self, ready: Callable[[], None]) -> None:
        async with asyncio.TaskGroup() as group:
            for family in self._families.values():
                group.create_task(family.run(), name=f"mapper process {family.name}")
            ready()

    def drivers(self) -> dict[str, DriverFactory]:
        """Return the factories of drivers by protocol, without those that are left to others."""
        return {
            protocol: _factory(self._families[maker])
            for protocol, maker in FAMILIES.items()
            if protocol not in self._disabled
        }

    async def order(self, protocol: str, name: str, arguments: Mapping[str, str]) -> JsonObject:
        """Have a family do something. Errors: NotFound; Rejected; DeviceUnreachable."""
        maker = FAMILIES.get(protocol)
        if maker is None:
            raise NotFound(f"no mapper {protocol} here; there are {', '.join(FAMILIES)}")
        return await self._families[maker].order(name, arguments)

    def facts(self) -> list[JsonObject]:
        """Return how the processes are that ever ran."""
        shown = (family.facts() for family in self._families.values())
        return [facts for facts in shown if facts["starts"]]


def family_name(maker: str) -> str:
    """Return a family's name from its maker: the name of its package."""
    return maker.split(".")[2]


def _checked(setting: str, protocols: Sequence[str]) -> Sequence[str]:
    for protocol in protocols:
        if protocol not in FAMILIES:
            known = ", ".join(FAMILIES)
            raise InvalidSetting(
                f"edge.mappers.{setting}: no protocol {protocol}; there are {known}"
            )
    return protocols


def _factory(family: FamilyProcess) -> DriverFactory:
    def make(view: DeviceView, model: ModelView | None) -> Driver:
        return ProcessDriver(family, view, model)

    return make


def _copied(document: JsonObject | None) -> dict[str, Any] | None:
    return None if document is None else dict(document)
