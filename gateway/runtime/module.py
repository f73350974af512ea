"""The life of a module: one coroutine, one signal, one way to stop.

Starting is entering, stopping is cancelling, cleaning up is `finally`. A module that returns early or
raises ends the whole process with that error: a gateway with a dead part must not look alive.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Protocol, runtime_checkable


class Module(Protocol):
    """A long-running part of a core, e.g. EdgeHub or the MQTT adapter."""

    @property
    def name(self) -> str: ...

    async def run(self, ready: Callable[[], None]) -> None:
        """Work until cancelled; call `ready()` once others may rely on it."""


@runtime_checkable
class Described(Protocol):
    """A module that can be up and yet not well, e.g. because a peer is away."""

    @property
    def is_well(self) -> bool: ...

    def facts(self) -> Mapping[str, str | int | bool]:
        """Return what an operator wants to know; never secrets."""


class ModuleEnded(Exception):
    """A module returned though nobody asked it to stop."""

    def __init__(self, name: str) -> None:
        super().__init__(f"module {name} ended by itself")
        self.name = name


class Readiness:
    """Which modules are up, for `/readiness` and `twinspan doctor`."""

    def __init__(self, names: Sequence[str]) -> None:
        self._ready = dict.fromkeys(names, False)
        self._described: dict[str, Described] = {}

    def mark(self, name: str, is_ready: bool) -> None:
        self._ready[name] = is_ready

    def is_ready(self, name: str) -> bool:
        return self._ready[name]

    def describe(self, name: str, module: Described) -> None:
        """Let a module say more of itself than that it is up."""
        self._described[name] = module

    def facts(self, name: str) -> Mapping[str, str | int | bool]:
        """Return what a module that is up says of itself; nothing where it says nothing."""
        described = self._described.get(name)
        return {} if described is None or not self._ready[name] else described.facts()

    @property
    def states(self) -> dict[str, bool]:
        """Which modules are up and well."""
        found = dict(self._ready)
        for name, described in self._described.items():
            found[name] = found[name] and described.is_well
        return found

    @property
    def all_ready(self) -> bool:
        """True once all modules are up, well or not."""
        return all(self._ready.values())


async def _guard(module: Module, ready: Callable[[], None]) -> None:
    await module.run(ready)
    raise ModuleEnded(module.name)


@asynccontextmanager
async def running(module: Module, readiness: Readiness | None = None) -> AsyncIterator[None]:
    """Keep `module` up for the length of the block; its failure ends the block."""
    up = asyncio.Event()

    def ready() -> None:
        if readiness is not None:
            readiness.mark(module.name, True)
        up.set()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(_guard(module, ready), name=module.name)
        await up.wait()
        try:
            yield
        finally:
            if readiness is not None:
                readiness.mark(module.name, False)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.wait({task})


async def serve(
    modules: Sequence[Module],
    stop: asyncio.Event,
    *,
    readiness: Readiness | None = None,
    on_ready: Callable[[], None] | None = None,
) -> None:
    """Start modules in the order given, each after the last is ready; stop in reverse.

    Errors: whatever a module raised, inside an ExceptionGroup.
    """
    async with AsyncExitStack() as up:
        for module in modules:
            await up.enter_async_context(running(module, readiness))
        if on_ready is not None:
            on_ready()
        await stop.wait()
