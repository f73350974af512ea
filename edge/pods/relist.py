"""What the runtime has: listed once a second and whenever it tells of a change, details only of what changed.

While the runtime is away nothing is concluded from its silence: what was seen last stands.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from edge.pods.ports import Observed
from edge.pods.runtime import (
    POD_UID,
    ContainerState,
    Runtime,
    RuntimeFault,
    RuntimeLacks,
    RuntimeNotFound,
    Sandbox,
    State,
)
from gateway.runtime.backoff import Backoff

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
AWAY_CAP = 5.0

Listener = Callable[[str], None]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Listed:
    """One Pod as listed: without details."""

    sandboxes: tuple[Sandbox, ...]
    containers: tuple[ContainerState, ...]

    @property
    def marks(self) -> tuple[object, ...]:
        """By what a change is seen."""
        return (
            tuple((each.id, each.is_ready) for each in self.sandboxes),
            tuple((each.id, each.state) for each in self.containers),
        )


class Relist:
    """All that carries our label, by the uid of its Pod."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._listeners: list[Listener] = []
        self._observed: dict[str, Observed] = {}
        self._marks: dict[str, tuple[object, ...]] = {}
        self._containers: dict[str, tuple[State, ContainerState]] = {}
        """Details, and the state with which they were listed: while it is the same they stand."""
        self._sandboxes: dict[str, tuple[bool, Sandbox]] = {}
        self._poke = asyncio.Event()
        self._turn = asyncio.Lock()
        self._begun = self._done = 0
        """Numbers of the last listing that began, and of the last that was finished."""
        self.first = asyncio.Event()
        """Set once all was listed."""
        self.error = ""
        """What the runtime said when it was asked last; empty when it answered."""

    def listen(self, listener: Listener) -> None:
        """Tell `listener` the uid of each Pod of which something changed."""
        self._listeners.append(listener)

    def uids(self) -> list[str]:
        """Return the uids of all Pods of which the runtime has something."""
        return list(self._observed)

    def of(self, uid: str) -> Observed:
        """Return what was seen last of a Pod."""
        return self._observed.get(uid, Observed(uid))

    async def look(self, uid: str) -> Observed:
        """Ask the runtime and return what it has of a Pod now. Errors: RuntimeFault.

        One listing serves all who asked before it began.
        """
        ticket = self._begun + 1
        while self._done < ticket:
            async with self._turn:
                if self._done < ticket:
                    await self._relist()
        return self.of(uid)

    async def run(self) -> None:
        """List again and again; until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_events())
            await self._poll()

    async def _poll(self) -> None:
        backoff = Backoff(0.2, AWAY_CAP)
        while True:
            delay = POLL_SECONDS
            self._poke.clear()
            try:
                async with self._turn:
                    await self._relist()
                backoff.reset()
            except RuntimeFault as error:
                self._note(error.message)
                delay = backoff.next()
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._poke.wait()

    async def _follow_events(self) -> None:
        """Look at once where the runtime tells of changes; polling goes on all the same."""
        backoff = Backoff(1.0, 60.0)
        while True:
            try:
                async for _uid in self._runtime.events():
                    backoff.reset()
                    self._poke.set()
            except RuntimeLacks:
                return
            except RuntimeFault as error:
                log.debug("no events of the runtime now", extra={"cause": error.message})
            await asyncio.sleep(backoff.next())

    async def _relist(self) -> None:
        """List all, one listing at a time. Errors: RuntimeFault; then what was known stands."""
        self._begun += 1
        number = self._begun
        sandboxes = await self._runtime.sandboxes()
        containers = await self._runtime.containers()
        listed = _by_pod(sandboxes, containers)
        changed = [
            uid
            for uid in {*listed, *self._observed}
            if await self._take(uid, listed.get(uid, _NOTHING))
        ]
        self._drop_details(sandboxes, containers)
        self._done = number
        self._note("")
        self.first.set()
        for uid in changed:
            for listener in self._listeners:
                listener(uid)

    async def _take(self, uid: str, listed: _Listed) -> bool:
        """Take one Pod as listed; True when it is another than before."""
        if self._marks.get(uid) == listed.marks and self._is_settled(listed):
            return False
        before = self._observed.get(uid)
        found = Observed(
            uid,
            tuple([await self._sandbox(each) for each in listed.sandboxes]),
            tuple([await self._container(each) for each in listed.containers]),
        )
        self._marks[uid] = listed.marks
        self._observed[uid] = found
        if not found.sandboxes and not found.containers:
            del self._observed[uid], self._marks[uid]
        return found != (before or Observed(uid))

    def _is_settled(self, listed: _Listed) -> bool:
        return all(each.id in self._containers for each in listed.containers) and all(
            each.id in self._sandboxes for each in listed.sandboxes
        )

    async def _container(self, listed: ContainerState) -> ContainerState:
        known = self._containers.get(listed.id)
        if known is not None and known[0] is listed.state:
            return known[1]
        try:
            found = await self._runtime.container(listed.id)
        except RuntimeNotFound:
            return listed
        if found.state is listed.state:
            self._containers[listed.id] = (listed.state, found)
        else:
            self._containers.pop(listed.id, None)  # it changed in between: look again
        return found

    async def _sandbox(self, listed: Sandbox) -> Sandbox:
        known = self._sandboxes.get(listed.id)
        if known is not None and known[0] is listed.is_ready:
            return known[1]
        try:
            found = await self._runtime.sandbox(listed.id)
        except RuntimeNotFound:
            return listed
        if found.is_ready is listed.is_ready:
            self._sandboxes[listed.id] = (listed.is_ready, found)
        else:
            self._sandboxes.pop(listed.id, None)
        return found

    def _drop_details(
        self, sandboxes: Iterable[Sandbox], containers: Iterable[ContainerState]
    ) -> None:
        _keep_only(self._sandboxes, {each.id for each in sandboxes})
        _keep_only(self._containers, {each.id for each in containers})

    def _note(self, error: str) -> None:
        if bool(error) is not bool(self.error):
            text = "the container runtime is away" if error else "the container runtime is back"
            (log.warning if error else log.info)(text, extra={"cause": error or self.error})
        self.error = error


_NOTHING = _Listed((), ())


def _by_pod(
    sandboxes: Iterable[Sandbox], containers: Iterable[ContainerState]
) -> Mapping[str, _Listed]:
    """Group by Pod, newest first."""
    rooms: dict[str, list[Sandbox]] = {}
    inhabitants: dict[str, list[ContainerState]] = {}
    for sandbox in sandboxes:
        rooms.setdefault(sandbox.uid, []).append(sandbox)
    for container in containers:
        inhabitants.setdefault(container.labels.get(POD_UID, ""), []).append(container)
    return {
        uid: _Listed(
            tuple(sorted(rooms.get(uid, ()), key=_age_of_sandbox, reverse=True)),
            tuple(sorted(inhabitants.get(uid, ()), key=_age_of_container, reverse=True)),
        )
        for uid in {*rooms, *inhabitants}
        if uid
    }


def _age_of_sandbox(sandbox: Sandbox) -> tuple[int, int, str]:
    """Attempts first: the clock may have been set back in between."""
    return sandbox.attempt, sandbox.created_at, sandbox.id


def _age_of_container(container: ContainerState) -> tuple[int, int, str]:
    return container.attempt, container.created_at, container.id


def _keep_only(known: dict[str, T], ids: set[str]) -> None:
    for each in known.keys() - ids:
        del known[each]
