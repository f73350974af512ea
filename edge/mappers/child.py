"""The process of one family of mappers: `python -m edge.mappers.child FD`, started by EdgeCore.

It ends with its link, so it never outlives EdgeCore. Calls of different devices run side by side; a driver's
failure is its caller's answer and nobody else's.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import importlib
import logging
import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, cast

from edge.clock import now_ms
from edge.mappers.driver import Driver, KeepsWrites, NotServed, TellsFaults
from edge.mappers.family import Discovered, Family, FamilyFactory, Surroundings, TakesOrders
from edge.mappers.link import (
    Ask,
    Broken,
    Call,
    Cancel,
    Changed,
    Done,
    Failed,
    FrameTooLong,
    Hello,
    LinkBroken,
    Open,
    Ping,
    Seen,
    State,
    ToChild,
    ToParent,
    Up,
    receive,
    send,
    to_child,
)
from gateway.errors import GatewayError, InvalidSetting, NotFound, Rejected, TooLarge
from gateway.observe.logs import set_up
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.models import ModelView, with_defaults

log = logging.getLogger(__name__)

FLUSH_SECONDS = 0.05
"""News of devices are gathered for so long: a device that says 10,000 things a second costs twenty frames."""
MAX_SEEN = 1_000
"""Discovered devices that wait to be told; more are dropped until then and told when seen again."""
SEEN_A_FRAME = 100
CLOSE_SECONDS = 2.0
OOM_SCORE = 500
"""Half of all memory on top of what the kernel counts for us: more than EdgeCore's, whatever that takes."""
_PR_SET_PDEATHSIG = 1


class Child:
    """The child's end of the link."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._drivers: dict[int, Driver | GatewayError] = {}
        self._calls: dict[int, asyncio.Task[None]] = {}
        self._changed: set[int] = set()
        self._found: dict[str, Discovered] = {}
        self._lost: set[str] = set()
        self._counts: Counter[str] = Counter()
        self._news = asyncio.Event()
        self._family: Family | None = None

    async def run(self) -> None:
        """Work until the link ends."""
        hello = to_child.decode(await receive(self._reader))
        if not isinstance(hello, Hello):
            raise LinkBroken("expected a greeting first")
        set_up(hello.log_level, hello.log_form)
        try:
            family = self._family = _make(hello, self)
        except (GatewayError, ImportError) as error:
            self._say(Broken(_said(error)))
            await self._writer.drain()
            return
        async with asyncio.TaskGroup() as group:
            work = [
                group.create_task(self._work(family)),
                group.create_task(self._tell_news()),
            ]
            try:
                await self._listen(family, group)
            except LinkBroken:
                log.debug("the link has ended")
            finally:
                for task in self._calls.values():
                    task.cancel()
                await self._close_drivers()
                for task in work:
                    task.cancel()

    async def _close_drivers(self) -> None:
        """Give connections back while what they go through is still there."""
        drivers = [each for each in self._drivers.values() if not isinstance(each, GatewayError)]
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await asyncio.gather(*(each.close() for each in drivers), return_exceptions=True)
        except TimeoutError:
            log.warning("not all devices could be let go in time")

    async def _work(self, family: Family) -> None:
        def ready() -> None:
            self._say(Up(list(family.orders()) if isinstance(family, TakesOrders) else []))

        try:
            await family.run(ready)
        except InvalidSetting as error:
            self._say(Broken(error.message))
        else:
            self._say(Broken("the mapper has ended by itself"))
        await self._writer.drain()
        self._writer.close()

    # --- what EdgeCore says -----------------------------------------------------------------------

    async def _listen(self, family: Family, group: asyncio.TaskGroup) -> None:
        while True:
            frame: ToChild = to_child.decode(await receive(self._reader))
            match frame:
                case Open():
                    self._drivers[frame.device] = _driver(family, frame)
                case Call():
                    self._begin(group, frame.id, self._call(frame))
                case Ask():
                    self._begin(group, frame.id, self._order(family, frame))
                case Cancel():
                    task = self._calls.get(frame.id)
                    if task is not None:
                        task.cancel()
                case Ping():
                    self._say(State(_resident(), dict(family.facts()), dict(self._counts)))
                    self._counts.clear()
                case Hello():
                    raise LinkBroken("a second greeting")

    def _begin(
        self, group: asyncio.TaskGroup, number: int, work: Coroutine[Any, Any, Done]
    ) -> None:
        task = group.create_task(self._answer(number, work))
        self._calls[number] = task
        task.add_done_callback(lambda _task: self._calls.pop(number, None))

    async def _answer(self, number: int, work: Coroutine[Any, Any, Done]) -> None:
        try:
            self._say(await work)
        except NotServed as error:
            self._say(Failed(number, "notserved", error.message))
        except Rejected as error:
            self._say(Failed(number, "rejected", error.message, error.status, error.code))
        except GatewayError as error:
            self._say(Failed(number, "unreachable", error.message, error.status, error.code))
        except TimeoutError:
            self._say(Failed(number, "timeout", "the device does not answer in time"))
        except FrameTooLong as error:  # of one call's answer: in parts it may fit
            self._say(Failed(number, "rejected", str(error), TooLarge.status, TooLarge.code))
        except OSError as error:
            self._say(Failed(number, "unreachable", str(error) or type(error).__name__))
        except Exception:  # the top of a call: a driver's bug is the answer of its device alone
            log.exception("a driver failed")
            self._say(Failed(number, "error", "the driver failed; the edge's log says how"))

    async def _call(self, call: Call) -> Done:
        driver = self._drivers.get(call.device)
        if driver is None:
            raise NotFound("this device is not open")
        if isinstance(driver, GatewayError):
            if call.what == "close":
                del self._drivers[call.device]
                return Done(call.id)
            raise driver
        match call.what:
            case "connect":
                await driver.connect()
                driver.subscribe(lambda: self._note_changed(call.device))
                faults = driver.faults() if isinstance(driver, TellsFaults) else {}
                return Done(call.id, faults=dict(faults))
            case "read":
                return Done(call.id, readings=dict(await driver.read(call.names)))
            case "write":
                await driver.write(call.name, call.text)
            case "withdraw":
                if isinstance(driver, KeepsWrites):
                    await driver.withdraw(call.name)
            case "close":
                del self._drivers[call.device]
                self._changed.discard(call.device)
                await driver.close()
        return Done(call.id)

    async def _order(self, family: Family, ask: Ask) -> Done:
        if not isinstance(family, TakesOrders):
            raise NotFound("this mapper takes no orders")
        return Done(ask.id, result=dict(await family.order(ask.name, ask.arguments)))

    # --- what devices say -------------------------------------------------------------------------

    def _note_changed(self, device: int) -> None:
        self._changed.add(device)
        self._news.set()

    def discovered(self, found: Discovered) -> None:
        if found.address in self._found or len(self._found) < MAX_SEEN:
            self._found[found.address] = found
            self._lost.discard(found.address)
            self._news.set()

    def lost(self, address: str) -> None:
        self._found.pop(address, None)
        if len(self._lost) < MAX_SEEN:
            self._lost.add(address)
            self._news.set()

    def count(self, name: str, by: int) -> None:
        self._counts[name] += by

    async def _tell_news(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            if self._changed:
                self._say(Changed(sorted(self._changed)))
                self._changed.clear()
            while self._found or self._lost:
                some = list(self._found)[:SEEN_A_FRAME]
                self._tell_seen([self._found.pop(address) for address in some])
                self._lost.clear()
            await asyncio.sleep(FLUSH_SECONDS)

    def _tell_seen(self, found: list[Discovered]) -> None:
        try:
            self._say(Seen(found, sorted(self._lost)))
        except FrameTooLong:
            if len(found) < 2:
                log.warning("a discovered device says too much of itself: left out")
                return
            half = len(found) // 2
            self._tell_seen(found[:half])
            self._tell_seen(found[half:])

    def _say(self, frame: ToParent) -> None:
        if not self._writer.is_closing():
            send(self._writer, frame)


def _make(hello: Hello, child: Child) -> Family:
    module, _, attribute = hello.maker.partition(":")
    make = cast(FamilyFactory, getattr(importlib.import_module(module), attribute))
    folder = Path(hello.folder)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return make(
        Surroundings(hello.settings, folder, now_ms, child.discovered, child.lost, child.count)
    )


def _driver(family: Family, opened: Open) -> Driver | GatewayError:
    """Make a driver; why there can be none is the answer of its calls."""
    model = None if opened.model is None else ModelView.read(opened.model)
    try:
        return family.driver(with_defaults(DeviceView.read(opened.document), model), model)
    except GatewayError as error:
        return error
    except Exception:  # the top of a device: a bug in reading its configuration is its own
        log.exception("a driver could not be made")
        return GatewayError("the driver could not be made; the edge's log says how")


def _said(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"the library {error.name} is not installed"
    return str(error) or type(error).__name__


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _end_with_parent() -> None:
    """Let the kernel end us with EdgeCore, should a driver hold up the loop that would notice."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def be_ended_first(path: Path = Path("/proc/self/oom_score_adj")) -> None:
    """Have the kernel end us before EdgeCore when memory is short: we are started again, the node is not.

    A score that is higher already stays; where there is none (not Linux, not permitted) nothing is done.
    """
    with contextlib.suppress(OSError, ValueError):
        if int(path.read_text()) < OOM_SCORE:
            path.write_text(str(OOM_SCORE))


async def main(descriptor: int) -> None:
    """Serve the link on an inherited socket."""
    link = socket.socket(fileno=descriptor)
    reader, writer = await asyncio.open_connection(sock=link)
    try:
        await Child(reader, writer).run()
    except* LinkBroken as error:
        log.info("the link to EdgeCore has ended", extra={"cause": str(error.exceptions[0])})


if __name__ == "__main__":
    _end_with_parent()
    be_ended_first()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's ^C is EdgeCore's to handle
    asyncio.run(main(int(sys.argv[1])))
