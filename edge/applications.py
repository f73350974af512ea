"""The Kubernetes API through the cloud: one Application a request, and the watches that the cloud keeps.

Reads that are the same at the same time are asked once. The cloud forgets watches that it is not told of, so
all live ones are told after each connect and every minute; one that nobody holds any more lives on for a
minute, as clients come back. Source: KubeEdge reference, section 13.2.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from edge.clock import stamp
from edge.hub import NoAnswer, Sender
from edge.ports import APPLICATION_SECONDS
from gateway.errors import GatewayError, MalformedPacket, QuotaExceeded, Undeliverable
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.applications import (
    MAX_WATCHES,
    Application,
    Verb,
    ask_application,
    read_application_answer,
    read_watches_answer,
    sync_watches,
)
from gateway.wire.cloudedge.envelope import Envelope
from gateway.wire.cloudedge.to_edge import Answer
from gateway.wire.kube.status import error_from

log = logging.getLogger(__name__)

SYNC_SECONDS = 60.0
LINGER_SECONDS = 60.0
SILENT_SECONDS = SYNC_SECONDS + APPLICATION_SECONDS + 5.0
"""For which reads do not wait for a cloud that did not answer: many have no dynamic controller at all. What
tells it of the watches asks again before the time is up.
"""
_READS = frozenset({Verb.GET, Verb.LIST, Verb.WATCH})

Refresh = Callable[[Application], Awaitable[None]]


@dataclass(slots=True)
class _Live:
    app: Application
    holders: int = 0
    idle_since: float = 0.0


class Applications:
    """Module: requests to the cloud, and its watches for this edge (`edge.ports.CloudApi`)."""

    name = "edge.applications"

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._asked: dict[str, asyncio.Task[Application]] = {}
        self._live: dict[str, _Live] = {}
        self._wake = asyncio.Event()
        self._is_up = False
        self._is_new = False
        self._silent_until = 0.0
        self.refresh: Refresh = _nothing
        """Called for each live watch after a connect: what was missed must be found."""

    async def run(self, ready: Callable[[], None]) -> None:
        ready()
        try:
            while True:
                self._wake.clear()
                if self._is_up:
                    await self._sync()
                try:
                    async with asyncio.timeout(SYNC_SECONDS):
                        await self._wake.wait()
                except TimeoutError:
                    continue
        finally:
            tasks = list(self._asked.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # --- the link -----------------------------------------------------------------------------

    def link_up(self, *, has_spool: bool) -> None:  # noqa: ARG002  no matter whose cloud it is
        self._is_up = self._is_new = True
        self._silent_until = 0.0
        self._wake.set()

    def link_down(self) -> None:
        self._is_up = False

    @property
    def live(self) -> frozenset[str]:
        """Ids of the watches that the cloud is told to keep."""
        return frozenset(self._live)

    # --- requests -----------------------------------------------------------------------------

    async def apply(self, app: Application, seconds: float = APPLICATION_SECONDS) -> Application:
        """Send an Application and return its answer, approved or rejected.

        Errors: Undeliverable offline or without an answer in time.
        """
        if app.verb not in _READS:
            return await self._ask(app, seconds)
        if asyncio.get_running_loop().time() < self._silent_until:
            raise Undeliverable("the cloud did not answer such requests lately")
        task = self._asked.get(app.id)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._ask(app, seconds))
            self._asked[app.id] = task
            task.add_done_callback(lambda done: self._forget(app.id, done))
        return await asyncio.shield(task)

    def _forget(self, app_id: str, task: asyncio.Task[Application]) -> None:
        self._asked.pop(app_id, None)
        if not task.cancelled():
            task.exception()  # read by who asked; if all went away, by nobody

    async def _ask(self, app: Application, seconds: float) -> Application:
        answer = await self._heard(ask_application(stamp(), app), seconds)
        try:
            return read_application_answer(answer.content)
        except MalformedPacket as error:
            raise Undeliverable(f"the cloud's answer cannot be read: {error.message}") from error

    async def _heard(self, envelope: Envelope, seconds: float) -> Answer:
        """Ask, and note whether the cloud answers what is asked here. Errors: Undeliverable."""
        try:
            answer = await self._sender.ask(envelope, seconds)
        except NoAnswer:
            self._silent_until = asyncio.get_running_loop().time() + SILENT_SECONDS
            raise
        self._silent_until = 0.0
        return answer

    # --- watches ------------------------------------------------------------------------------

    async def hold(self, app: Application) -> None:
        """Have the cloud send changes until `release`; offline as soon as it is back.

        Errors: what the API refused; QuotaExceeded for too many watches.
        """
        live = self._live.get(app.id)
        if live is None:
            if len(self._live) >= MAX_WATCHES:
                raise QuotaExceeded(f"at most {MAX_WATCHES} different watches")
            live = self._live[app.id] = _Live(app)
        live.holders += 1
        if live.holders > 1 or live.idle_since:
            live.idle_since = 0.0
            return
        try:
            await self._begin(app)
        except BaseException:
            self.release(app)
            if not live.holders:
                self._live.pop(app.id, None)
            raise

    async def _begin(self, app: Application) -> None:
        try:
            answer = await self.apply(app)
        except Undeliverable as error:
            log.debug("a watch waits for the cloud", extra={"cause": error.message})
            return
        failure = failure_of(answer)
        if failure is not None and not isinstance(failure, Undeliverable):
            raise failure

    def release(self, app: Application) -> None:
        """End a `hold`."""
        live = self._live.get(app.id)
        if live is None:
            return
        live.holders -= 1
        if live.holders <= 0:
            live.idle_since = asyncio.get_running_loop().time()

    async def _sync(self) -> None:
        before = asyncio.get_running_loop().time() - LINGER_SECONDS
        for app_id, live in list(self._live.items()):
            if live.holders <= 0 and live.idle_since < before:
                del self._live[app_id]
        apps = {app_id: live.app for app_id, live in self._live.items()}
        is_new, self._is_new = self._is_new, False
        try:
            envelope = sync_watches(stamp(), apps)
            answer = await self._heard(envelope, APPLICATION_SECONDS)
            failed = read_watches_answer(answer.content)
        except GatewayError as error:
            log.debug("the watches were not told", extra={"cause": error.message})
            failed = {}
        for app_id, app in failed.items():
            log.warning("the cloud keeps no watch", extra={"key": app.key, "cause": app.reason})
            self._live.pop(app_id, None)
        if is_new:
            for app in apps.values():
                await self._refresh(app)

    async def _refresh(self, app: Application) -> None:
        try:
            await self.refresh(app)
        except GatewayError as error:
            log.debug("a watch was not refreshed", extra={"cause": error.message})


async def _nothing(_app: Application) -> None:
    """Nobody keeps what watches bring."""


def failure_of(app: Application) -> GatewayError | None:
    """Return what the API refused, None for an approved answer."""
    if app.is_approved:
        return None
    status: JsonObject = dict(app.error.status)
    code = status.get("code")
    if not isinstance(code, int) or not 400 <= code <= 599:
        return Undeliverable(app.reason or "the cloud rejected the request without a reason")
    return error_from(status, code)
