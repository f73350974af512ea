"""Mirrors of kinds that become known while running: one watch for each, as long as somebody uses it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Container
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

from gateway.errors import Undeliverable
from gateway.kube.client import KubeClient
from gateway.kube.informer import Change, Informer, Key
from gateway.model.json import JsonObject

READY_SECONDS = 10.0
Place: TypeAlias = "tuple[str, str]"
"""(group version, plural)."""


@dataclass(slots=True)
class _Mirror:
    informer: Informer
    is_ready: asyncio.Event
    task: asyncio.Task[None]


class Mirrors:
    """Watches the objects of a label; `on_change` is told of all of them, synchronously and in order."""

    def __init__(
        self,
        kube: KubeClient,
        labels: str,
        on_change: Callable[[Change], None],
        trim: Callable[[JsonObject], JsonObject],
    ) -> None:
        self._kube = kube
        self._labels = labels
        self._on_change = on_change
        self._trim = trim
        self._mirrors: dict[Place, _Mirror] = {}
        self._group: asyncio.TaskGroup | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Watches live as long as the block at most."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                yield
            finally:
                self.keep(())
                self._group = None

    async def open(self, place: Place) -> Informer:
        """Return the mirror of a kind, with all its objects. Errors: Undeliverable when it takes too long."""
        mirror = self._mirrors.get(place) or self._start(place)
        try:
            async with asyncio.timeout(READY_SECONDS):
                await mirror.is_ready.wait()
        except TimeoutError:
            raise Undeliverable(f"{place[1]} of {place[0]} could not be listed in time") from None
        return mirror.informer

    def _start(self, place: Place) -> _Mirror:
        if self._group is None:
            raise Undeliverable("the cloud is stopping")
        informer = Informer(
            self._kube,
            *place,
            self._on_change,
            labels=self._labels,
            trim=self._trim,
            is_needed=False,
        )
        is_ready = asyncio.Event()
        task = self._group.create_task(informer.run(is_ready.set), name=informer.name)
        self._mirrors[place] = _Mirror(informer, is_ready, task)
        return self._mirrors[place]

    def find(self, place: Place, key: Key) -> JsonObject | None:
        """Return what is known of an object."""
        mirror = self._mirrors.get(place)
        return None if mirror is None else mirror.informer.objects.get(key)

    def keep(self, places: Container[Place]) -> None:
        """End the watches of all other kinds."""
        for place in [place for place in self._mirrors if place not in places]:
            self._mirrors.pop(place).task.cancel()
