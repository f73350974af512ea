"""DeviceTwin's answers for those who wait for them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TypeVar

from edge.deviceport import TwinPort
from edge.store import DeviceRow
from edge.twinrules import Change
from gateway.errors import GatewayError
from gateway.model.trace import TraceContext
from gateway.wire.cloudedge.subjects import DeviceKey
from gateway.wire.cloudedge.twins import Twin

T = TypeVar("T")


async def ask_change(
    twin: TwinPort,
    key: DeviceKey,
    asks: Mapping[str, Twin | None],
    *,
    origin: str,
    trace: TraceContext | None = None,
) -> Change:
    """Apply a report or wish; return when it is on disk. Errors: see `TwinPort.update`."""
    future: asyncio.Future[Change | GatewayError] = asyncio.get_running_loop().create_future()
    twin.update(key, asks, lambda result: _settle(future, result), origin=origin, trace=trace)
    return _value(await future)


async def ask_state(twin: TwinPort, key: DeviceKey, state: str) -> DeviceRow:
    """Note a device's state; return when it is on disk. Errors: see `TwinPort.set_state`."""
    future: asyncio.Future[DeviceRow | GatewayError] = asyncio.get_running_loop().create_future()
    twin.set_state(key, state, lambda result: _settle(future, result))
    return _value(await future)


def _settle(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _value(result: T | GatewayError) -> T:
    if isinstance(result, GatewayError):
        raise result
    return result
