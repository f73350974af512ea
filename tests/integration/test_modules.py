"""The life of modules: order, failure, stopping."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from gateway.runtime.module import ModuleEnded, Readiness, serve


class Recorder:
    """A module that writes down when it starts and stops."""

    def __init__(self, name: str, log: list[str], failure: Exception | None = None) -> None:
        self.name = name
        self._log = log
        self._failure = failure

    async def run(self, ready: Callable[[], None]) -> None:
        self._log.append(f"+{self.name}")
        ready()
        try:
            if self._failure is not None:
                await asyncio.sleep(0)
                raise self._failure
            await asyncio.Event().wait()
        finally:
            self._log.append(f"-{self.name}")


class EndsEarly:
    name = "short"

    async def run(self, ready: Callable[[], None]) -> None:
        ready()


async def test_modules_start_in_order_and_stop_in_reverse() -> None:
    log: list[str] = []
    stop = asyncio.Event()
    readiness = Readiness(["a", "b"])
    states = []

    def on_ready() -> None:
        states.append(readiness.all_ready)
        stop.set()

    await serve(
        [Recorder("a", log), Recorder("b", log)], stop, readiness=readiness, on_ready=on_ready
    )
    assert log == ["+a", "+b", "-b", "-a"]
    assert states == [True]
    assert not readiness.all_ready


async def test_a_failing_module_ends_the_others() -> None:
    log: list[str] = []
    modules = [Recorder("a", log), Recorder("b", log, ValueError("broken"))]
    with pytest.raises(BaseExceptionGroup) as caught:
        await serve(modules, asyncio.Event())
    assert caught.group_contains(ValueError, match="broken")
    assert log[-1] == "-a"


async def test_a_module_that_returns_early_is_a_failure() -> None:
    with pytest.raises(BaseExceptionGroup) as caught:
        await serve([EndsEarly()], asyncio.Event())
    assert caught.group_contains(ModuleEnded)
