"""Control loops on a running API with clocks in the test's hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from gateway.kube.client import KubeClient
from gateway.kube.control.context import Context
from gateway.kube.control.mirrors import Mirrors
from gateway.kube.events import EventRecorder


@dataclass(slots=True)
class Clock:
    """Seconds that go on when a test says so."""

    seconds: float = 1_000.0

    def __call__(self) -> float:
        return self.seconds


@dataclass(slots=True)
class ControlRig:
    """Shape: `context` for controllers that are built before `running`."""

    kube: KubeClient
    clock: Clock = field(default_factory=Clock)
    context: Context = field(init=False)

    def __post_init__(self) -> None:
        events = EventRecorder(self.kube, "kube-controller-manager")
        self.context = Context(kube=self.kube, mirrors=Mirrors(self.kube), events=events)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Follow the cluster, and write Events, for the length of the block."""
        in_sync = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self.context.mirrors.run(in_sync.set)),
                group.create_task(self.context.events.run()),
            ]
            await in_sync.wait()
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()

    async def seen(self, is_so: Callable[[], bool]) -> None:
        """Wait until the mirrors show something."""
        async with asyncio.timeout(10):
            while not is_so():  # noqa: ASYNC110  mirrors tell nobody outside
                await asyncio.sleep(0.005)
