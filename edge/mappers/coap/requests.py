"""What a CoAP library must do for drivers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from edge.mappers.coap.places import Access
from gateway.errors import Rejected


@dataclass(frozen=True, slots=True)
class Answer:
    """A payload and its content format, None where the device does not say one."""

    payload: bytes
    form: int | None


class AnsweredBadly(Rejected):
    """A response code that is no success."""

    code = "edge.coap.code"


class Client(Protocol):
    """Errors of all: DeviceUnreachable; AnsweredBadly."""

    async def open(self) -> None: ...
    async def ask(
        self, access: Access, method: str, url: str, payload: bytes = b"", form: int | None = None
    ) -> Answer: ...
    def observe(
        self, access: Access, url: str
    ) -> AbstractAsyncContextManager[AsyncIterator[Answer]]: ...
    async def close(self) -> None: ...
