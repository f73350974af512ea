"""The runner of drivers: what a driver does wrong ends with its Device."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast
from unittest.mock import Mock

from edge.mappers.driver import Driver, Reading
from edge.mappers.runner import MapperRunner
from edge.mappers.session import Services
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracer
from gateway.runtime.module import running
from gateway.wire.cloudedge.devices import DeviceView


class BadAtClosing:
    """Never connects, and cannot be closed."""

    def __init__(self) -> None:
        self.connects = 0
        self.closes = 0

    async def connect(self) -> None:
        self.connects += 1
        await asyncio.get_running_loop().create_future()

    async def read(self, names: Sequence[str]) -> Mapping[str, Reading]:
        raise AssertionError(names)

    async def write(self, name: str, text: str) -> None:
        raise AssertionError(name, text)

    def subscribe(self, changed: Callable[[], None]) -> None:
        raise AssertionError(changed)

    async def close(self) -> None:
        self.closes += 1
        raise RuntimeError("a bug")


async def turns(is_so: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not is_so():  # noqa: ASYNC110 - a turn of the loop, nothing to be woken by
            await asyncio.sleep(0)


async def test_a_driver_that_cannot_be_closed_goes_with_its_device() -> None:
    driver = BadAtClosing()
    twin, north, faults = Mock(), Mock(), Mock()
    services = Services(cast(Any, twin), cast(Any, north), Metrics(), Tracer(), cast(Any, faults))
    runner = MapperRunner({"odd": lambda *_: cast(Driver, driver)}, services)
    view = DeviceView.read(
        {
            "metadata": {"namespace": "default", "name": "d1", "uid": "u"},
            "spec": {"protocol": {"protocolName": "odd"}},
        }
    )
    async with running(runner):
        runner.device_bound(view, None)
        await turns(lambda: driver.connects)
        task = runner._served[view.key].task
        assert task is not None
        runner.device_gone(view.key)
        await turns(lambda: driver.closes)
        await asyncio.wait([task], timeout=5)
        assert task.cancelled()
        runner.device_bound(view, None)
        await turns(lambda: driver.connects == 2)
    assert (driver.connects, driver.closes) == (2, 2)
    assert not twin.set_state.called
