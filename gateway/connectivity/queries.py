"""What a source asks that is not one command: several things, searches, streams of past events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeAlias

from gateway.ditto.histories import Histories
from gateway.ditto.permissions import PermissionChecks
from gateway.ditto.searches import Searches, Send
from gateway.ditto.service import ThingsService
from gateway.errors import GatewayError, QuotaExceeded, Undeliverable
from gateway.model.json import JsonObject
from gateway.model.policy import PolicyCommand
from gateway.model.thing import ThingResult
from gateway.twin.fields import FieldSelector
from gateway.wire.ditto.signals import (
    CheckPermissions,
    RetrieveThings,
    SearchSignal,
    StreamSignal,
)

log = logging.getLogger(__name__)

MAX_WORKS: Final = 100
"""Queries of one connection under way; more are refused."""

Begin: TypeAlias = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]
Found: TypeAlias = "ThingResult | list[JsonObject] | JsonObject"
Answered: TypeAlias = Callable[["Found | GatewayError"], None]


class Works:
    """The work of one open connection that takes more than one step of the loop.

    Shape:  `begin` makes a task that somebody else awaits at the end, e.g. of a TaskGroup.
    """

    def __init__(self, begin: Begin) -> None:
        self._begin = begin
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin a piece of work, which handles its errors itself.

        Errors: QuotaExceeded `too.many.requests` above `MAX_WORKS`.
        """
        if len(self._tasks) >= MAX_WORKS:
            work.close()
            raise QuotaExceeded(
                f"A connection has at most {MAX_WORKS} queries under way.", code="too.many.requests"
            )
        task = self._begin(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """End all of it."""
        for task in self._tasks:
            task.cancel()


class Queries:
    """The queries of one source; what they find goes out through `send`."""

    def __init__(self, things: ThingsService, works: Works, send: Send) -> None:
        self._things = things
        self._works = works
        self._permissions = PermissionChecks(things, things.policies)
        self._searches = Searches(things, send)
        self._histories = Histories(things, send)

    def close(self) -> None:
        """Forget all searches and streams."""
        self._searches.close()
        self._histories.close()

    def handle(self, signal: SearchSignal | StreamSignal) -> None:
        """Do what a signal asks.

        Errors: those of `Searches.handle` and `Histories.handle`, and of `Works.start`.
        """
        if isinstance(signal, SearchSignal):
            self._searches.handle(signal, self._works.start)
        else:
            self._histories.handle(signal, self._works.start)

    def retrieve(self, signal: RetrieveThings, answered: Answered) -> None:
        """Read several things.

        Errors: `Works.start`; all others through `answered`.
        """
        self._works.start(_tell(self._found(signal), answered))

    def check(self, signal: CheckPermissions, answered: Answered) -> None:
        """Answer questions about permissions; errors as `retrieve`."""
        answers = self._permissions.answers(signal.questions, signal.subjects)
        self._works.start(_tell(answers, answered))

    def look_back(self, command: PolicyCommand, answered: Answered) -> None:
        """Read a policy as it was; errors as `retrieve`."""
        self._works.start(_tell(self._things.policies.execute(command), answered))

    async def _found(self, signal: RetrieveThings) -> list[JsonObject]:
        fields = FieldSelector.parse(signal.fields) if signal.fields else None
        return await self._things.retrieve_many(signal.thing_ids, signal.subjects, fields)


async def _tell(work: Coroutine[Any, Any, Found], answered: Answered) -> None:
    try:
        answered(await work)
    except asyncio.CancelledError:
        answered(Undeliverable("The connection was closed."))
        raise
    except GatewayError as error:
        answered(error)
    except Exception:  # top of one request: the connection goes on
        log.exception("query failed")
        answered(GatewayError())
    finally:
        work.close()
