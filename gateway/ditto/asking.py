"""Sending signals over HTTP and waiting for their outcome."""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web

from gateway.ditto.acknowledgements import Acknowledgements, Requested
from gateway.ditto.dispatch import Dispatcher, Outcome
from gateway.ditto.endpoint import json_response
from gateway.errors import GatewayError, Undeliverable
from gateway.model.thing import ThingCommand, ThingMessage, ThingMessageResponse, ThingResult

ENFORCEMENT_SECONDS: Final = 3.0
"""How long a signal without response is watched for a refusal."""

Good = ThingResult | ThingMessageResponse | Acknowledgements


class Asking:
    """The HTTP requests that wait."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._waiting: set[asyncio.Future[Good]] = set()

    def close(self) -> None:
        """Tell those who wait that no answer will come."""
        for future in self._waiting:
            if not future.done():
                future.set_exception(Undeliverable("The server is shutting down."))

    async def ask(self, signal: ThingCommand | ThingMessage, wanted: Requested | None) -> Good:
        """Send a signal and wait; raises what was answered with."""
        found = self._dispatcher.at_once(signal)
        if found is not None:
            return found
        future = self._sent(signal, wanted)
        try:
            return await future
        finally:
            self._waiting.discard(future)

    async def tell(self, signal: ThingCommand | ThingMessage, wanted: Requested) -> None:
        """Send a signal that wants no answer; a refusal that comes soon is raised, silence is consent."""
        future = self._sent(signal, wanted)
        try:
            await asyncio.wait({future}, timeout=ENFORCEMENT_SECONDS)
        finally:
            self._waiting.discard(future)
        if future.done():
            future.result()
        else:
            future.add_done_callback(_forget)

    def _sent(
        self, signal: ThingCommand | ThingMessage, wanted: Requested | None
    ) -> asyncio.Future[Good]:
        future: asyncio.Future[Good] = asyncio.get_running_loop().create_future()

        def told(outcome: Outcome) -> None:
            if future.done():
                return
            if isinstance(outcome, GatewayError):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        self._waiting.add(future)
        self._dispatcher.run(signal, told, wanted)
        return future


def _forget(future: asyncio.Future[Good]) -> None:
    """Nobody waits for the outcome any more; it was counted where it was decided."""
    if not future.cancelled():
        future.exception()


def acknowledged(acks: Acknowledgements) -> web.Response:
    """All acknowledgements as HTTP answers them; nothing to tell is 202."""
    if not acks.response_required and acks.is_good:
        return web.Response(status=202)
    return json_response({**acks.body()}, acks.status)
