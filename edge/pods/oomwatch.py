"""Containers in which the kernel killed for want of memory, whatever the runtime says of their end.

Two witnesses: the kernel's log, which names the cgroup of each process that it kills, and the cgroups' own
counters, looked at while containers run. Where neither can be read the runtime's word stands.
Source: Linux, mm/oom_kill.c (the line `oom-kill:constraint=...`); /dev/kmsg.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edge.pods.ports import Recorder

log = logging.getLogger(__name__)

KMSG = Path("/dev/kmsg")
MAX_KNOWN = 1_000
"""Containers that are remembered; the oldest go first."""
MAX_RECORD = 8_192
MAX_RECORDS = 500
"""Records that are read in one go; the rest waits its turn."""
_KILL = re.compile(
    r"oom-kill:constraint=(?P<constraint>CONSTRAINT_[A-Z]+),.*?task_memcg=(?P<group>[^,]+),"
    r"task=(?P<task>.*),pid=(?P<pid>\d+),uid=\d+"
)
_ID = re.compile(r"(?:[a-z-]+-)?([0-9a-f]{64})(?:\.scope)?")
SYSTEM = "SystemOOM"


@dataclass(frozen=True, slots=True)
class Kill:
    """One process that the kernel killed. `container` is "" where it was in none."""

    container: str
    task: str
    pid: int
    is_systems: bool
    """The machine was out of memory, no limit was met."""


def read_record(record: str) -> Kill | None:
    """Read a record of the kernel's log; None for one about something else."""
    found = _KILL.search(record)
    if found is None:
        return None
    last = found["group"].rstrip("/").rpartition("/")[2]
    named = _ID.fullmatch(last)
    is_systems = found["constraint"] == "CONSTRAINT_NONE"
    return Kill(named[1] if named else "", found["task"], int(found["pid"]), is_systems)


class OomWatch:
    """Module. `kick` is told each container's id."""

    name = "edge.pods.oom"

    def __init__(
        self,
        recorder: Recorder,
        *,
        kick: Callable[[str], None] = lambda _: None,
        kmsg: Path = KMSG,
    ) -> None:
        self._recorder = recorder
        self._kick = kick
        self._path = kmsg
        self._known: OrderedDict[str, None] = OrderedDict()

    def killed(self) -> frozenset[str]:
        """Return the ids of containers in which the kernel killed."""
        return frozenset(self._known)

    def counted(self, containers: Iterable[tuple[str, int | None]]) -> None:
        """Take what the cgroups of containers count: id and number of kills."""
        for container, kills in containers:
            if kills:
                self._note(container)

    async def run(self, ready: Callable[[], None]) -> None:
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            log.info("the kernel's log cannot be read", extra={"cause": str(error)})
            ready()
            await asyncio.Event().wait()
            return
        try:
            with suppress(OSError):
                os.lseek(fd, 0, os.SEEK_END)  # what was before is over
            await self._follow(fd, ready)
        finally:
            os.close(fd)

    async def _follow(self, fd: int, ready: Callable[[], None]) -> None:
        loop, news = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(fd, news.set)
        ready()
        try:
            while True:
                await news.wait()
                news.clear()
                self._read(fd)
                await asyncio.sleep(0)
        finally:
            loop.remove_reader(fd)

    def _read(self, fd: int) -> None:
        for _ in range(MAX_RECORDS):
            try:
                record = os.read(fd, MAX_RECORD)
            except BlockingIOError:
                return
            except BrokenPipeError:  # records were overwritten before they were read
                continue
            except OSError as error:
                log.warning("the kernel's log ended", extra={"cause": str(error)})
                return
            if not record:
                return
            for line in record.decode("utf-8", "replace").splitlines():
                self._take(line)

    def _take(self, line: str) -> None:
        kill = read_record(line)
        if kill is None:
            return
        if kill.is_systems:
            said = f"System OOM encountered, victim process: {kill.task}, pid: {kill.pid}"
            self._recorder.node_event("Warning", SYSTEM, said)
        if kill.container:
            self._note(kill.container)

    def _note(self, container: str) -> None:
        if container in self._known:
            return
        self._known[container] = None
        while len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        self._kick(container)
