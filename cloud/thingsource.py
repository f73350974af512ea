"""The way to a remote Ditto: one WebSocket for events, HTTP for commands, and a fresh look after each cut.

A session is good once the remote has acknowledged the subscription *and* all things of Devices have been read
after that: what happened during the cut is found by comparing, what happens from then on comes as events.
Until then, and while the remote is away, commands are Undeliverable at once; who sent them tries again.
Events are asked for by namespace, for the namespaces that things of Devices have.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

import aiohttp

from cloud.remotehttp import AnswerTooLarge, RemoteHttp, segment
from cloud.remotelogin import is_remote
from cloud.remotemirror import READ_FIELDS, Mirror
from cloud.remotepolicies import RemotePolicies
from cloud.remotesignals import Frames, RemoteSignals, start_events
from cloud.remotethings import RemoteThings
from gateway.config.ditto import Ditto
from gateway.config.remote_things import RemoteThings as Settings
from gateway.errors import GatewayError, Undeliverable
from gateway.model.entity_id import namespace_of
from gateway.model.json import JsonObject
from gateway.observe.edge_metrics import EdgeMetrics
from gateway.observe.metrics import Metrics
from gateway.runtime.backoff import Backoff

log = logging.getLogger(__name__)

ACK_SECONDS: Final = 10.0
COVER_SECONDS: Final = 15.0
GATHER_SECONDS: Final = 0.02
"""How long namespaces are gathered before they are asked for at once."""
TOKEN_SECONDS: Final = 2.0
"""How often a token's file is looked at for the session."""
MAX_IDS: Final = 100
MAX_URL: Final = 4_000
"""Characters of ids in one request; the whole URI may have 8,000 in Ditto."""
RECONNECT_CAP: Final = 5.0
MAX_ANSWERS: Final = 10
RESYNC_SECONDS: Final = 1.0
"""Least time between two looks at all things, where no namespace is new."""


class Waiting(Protocol):
    """Who wants to know that all things were read again."""

    def resynced(self) -> None:
        """What waited for that can go on. Called once for each session, and never raises."""


class Devices(Waiting, Protocol):
    """Who the things belong to (the DeviceController)."""

    @property
    def thing_ids(self) -> Iterable[str]:
        """The things of all Devices."""

    def has_thing(self, thing_id: str) -> bool: ...


class RemoteDitto:
    """Module: keeps the session. Ready at once, also while the remote is away."""

    name = "cloud.things"

    def __init__(self, settings: Settings, metrics: EdgeMetrics) -> None:
        self._http = RemoteHttp(settings, metrics)
        self._metrics = metrics
        self._subject = settings.subject
        self._is_ready_without = settings.ready_without_remote
        self._devices: Devices | None = None
        self._waiting: tuple[Waiting, ...] = ()
        self.signals = RemoteSignals()
        self._mirror = Mirror(self._is_ours, self.signals.tell, self._reread)
        self.things = RemoteThings(self._http, self._mirror, self)
        self.policies = RemotePolicies(self._http, self, lambda: self._subject)
        self._wanted: set[str] = set()
        self._covered: frozenset[str] = frozenset()
        self._is_up = False
        self._cause = "not connected yet"
        self._again = asyncio.Event()
        self._changed = asyncio.Event()
        self._answers: asyncio.Queue[tuple[int, str]] = asyncio.Queue()
        self._refusal = ""
        self._rereads: dict[str, None] = {}
        self._group: asyncio.TaskGroup | None = None

    def serve(self, devices: Devices, *others: Waiting) -> None:
        """Say whose things are watched, and who else waits, to be told first; before `run`."""
        self._devices = devices
        self._waiting = (*others, devices)

    # --- module -------------------------------------------------------------------------------------

    async def run(self, ready: Callable[[], None]) -> None:
        try:
            async with self._http.opened(), asyncio.TaskGroup() as group:
                self._group = group
                group.create_task(self._keep_connected())
                ready()
                await asyncio.Event().wait()
        finally:
            self._group = None
            self._down("stopped")

    @property
    def is_connected(self) -> bool:
        """True while events come and all things have been read."""
        return self._is_up

    @property
    def is_well(self) -> bool:
        """What `/readiness` says of it."""
        return self._is_ready_without or self._is_up

    def facts(self) -> Mapping[str, str | int | bool]:
        """Return what an operator wants to know."""
        facts: dict[str, str | int | bool] = {"remote": self._http.url, "connected": self._is_up}
        facts["things"] = len(self._mirror)
        if self._is_up:
            facts["subject"] = self._subject
        else:
            facts["cause"] = self._cause
        return facts

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something beside, for as long as the module runs."""
        if self._group is None:
            work.close()
            raise Undeliverable("the remote Ditto is not asked any more")
        self._group.create_task(work)

    # --- what is watched ------------------------------------------------------------------------------

    async def cover(self, namespace: str) -> None:
        """Return once changes of this namespace are heard of.

        Errors: Undeliverable while the remote is away.
        """
        if namespace in self._covered:
            return
        if not self._is_up:
            raise Undeliverable(f"the remote Ditto is away: {self._cause}")
        self._wanted.add(namespace)
        self._again.set()
        try:
            async with asyncio.timeout(COVER_SECONDS):
                while self._is_up and namespace not in self._covered:
                    await self._changed.wait()
        except TimeoutError:
            pass
        if namespace not in self._covered:
            raise Undeliverable("the remote Ditto does not send events of the namespace yet")

    def _is_ours(self, thing_id: str) -> bool:
        return self._devices is not None and self._devices.has_thing(thing_id)

    def _thing_ids(self) -> list[str]:
        return [] if self._devices is None else list(self._devices.thing_ids)

    # --- one connection after another -------------------------------------------------------------------

    async def _keep_connected(self) -> None:
        backoff = Backoff(0.25, RECONNECT_CAP)
        while True:
            try:
                await self._connect(backoff)
                self._down(self._refusal or "the remote closed the connection")
            except* (GatewayError, aiohttp.ClientError, OSError, TimeoutError) as errors:
                self._down(_cause(errors))
            await asyncio.sleep(backoff.next())

    async def _connect(self, backoff: Backoff) -> None:
        await self._greet()
        async with self._http.websocket() as socket, asyncio.TaskGroup() as group:
            self._answers, self._refusal = asyncio.Queue(), ""
            work = group.create_task(self._work(socket, backoff))
            await self._read(socket)
            work.cancel()

    async def _greet(self) -> None:
        """Ask who we are: policies that we make name us."""
        if self._subject:
            return
        found = (await self._http.call("GET", "/api/2/whoami")).json()
        subject = found.get("defaultSubject") if isinstance(found, dict) else None
        if not isinstance(subject, str) or not subject:
            raise Undeliverable("the remote does not say who we are; set ditto.remote.subject")
        self._subject = subject

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        frames = Frames(
            self._mirror,
            self._metrics,
            acknowledged=lambda: self._answered(200, ""),
            refused=self._answered,
            suspicious=self._again.set,
        )
        async for message in socket:
            if message.type is aiohttp.WSMsgType.TEXT:
                frames.take(message.data)

    def _answered(self, status: int, text: str) -> None:
        self._refusal = text
        if self._answers.qsize() < MAX_ANSWERS:
            self._answers.put_nowait((status, text))

    # --- one session --------------------------------------------------------------------------------

    async def _work(self, socket: aiohttp.ClientWebSocketResponse, backoff: Backoff) -> None:
        token, looked = self._http.login.token, 0.0
        while True:
            is_new = not self._wanted <= self._covered
            early = looked + RESYNC_SECONDS - time.monotonic()
            await asyncio.sleep(GATHER_SECONDS if is_new else max(GATHER_SECONDS, early))
            self._again.clear()
            self._wanted.update(map(namespace_of, self._thing_ids()))
            asked = frozenset(self._wanted)
            if asked != self._covered:
                await self._subscribe(socket, asked)
            await self._resync(asked)
            looked = time.monotonic()
            self._up(asked)
            backoff.reset()
            token = await self._wait(socket, token)

    async def _wait(self, socket: aiohttp.ClientWebSocketResponse, token: str) -> str:
        """Wait until there is something to do; hand on a token that somebody has renewed."""
        while True:
            try:
                async with asyncio.timeout(TOKEN_SECONDS if token else None):
                    await self._again.wait()
            except TimeoutError:
                newest = self._http.login.token
                if newest != token:
                    token = newest
                    await socket.send_str(f"JWT-TOKEN?jwtToken={token}")
            else:
                return token

    async def _subscribe(
        self, socket: aiohttp.ClientWebSocketResponse, namespaces: frozenset[str]
    ) -> None:
        """Ask for events until that is acknowledged; patiently where the remote says that it is too often."""
        pauses = Backoff(1.0, 30.0)
        while True:
            while not self._answers.empty():
                self._answers.get_nowait()
            await socket.send_str(start_events(namespaces))
            async with asyncio.timeout(ACK_SECONDS):
                status, text = await self._answers.get()
            if status < 400:
                return
            if status != 429:
                raise Undeliverable(f"the remote Ditto refuses events: {text}")
            log.info("events asked for too often", extra={"cause": text})
            await asyncio.sleep(pauses.next())

    async def _resync(self, namespaces: frozenset[str]) -> None:
        """Read all things of Devices; the mirror tells what is different."""
        ids = [one for one in self._thing_ids() if namespace_of(one) in namespaces]
        self._mirror.keep(ids)
        for some in chunks(ids):
            await self._read_many(some)
        self._metrics.remote_resyncs.inc()

    async def _read_many(self, ids: Sequence[str]) -> None:
        for thing_id in ids:
            self._mirror.reading(thing_id)
        left = dict.fromkeys(ids)
        try:
            query = {"ids": ",".join(ids), "fields": READ_FIELDS}
            try:
                found = _by_id((await self._http.call("GET", "/api/2/things", query=query)).json())
            except AnswerTooLarge:
                if len(ids) == 1:
                    raise
                middle = len(ids) // 2
                await self._read_many(ids[:middle])
                await self._read_many(ids[middle:])
                return
            for thing_id in ids:
                del left[thing_id]
                self._mirror.found(thing_id, found.get(thing_id), tells=True)
        finally:
            for thing_id in left:
                self._mirror.failed(thing_id)

    # --- up and down ----------------------------------------------------------------------------------

    def _up(self, covered: frozenset[str]) -> None:
        self._covered = covered
        is_new, self._is_up, self._cause = not self._is_up, True, ""
        self._wake()
        if is_new:
            log.info("remote Ditto reached", extra={"remote": self._http.url})
            self._metrics.remote_up.set(1)
            for one in self._waiting:
                one.resynced()

    def _down(self, cause: str) -> None:
        if self._is_up or cause != self._cause:
            log.warning("remote Ditto away", extra={"remote": self._http.url, "cause": cause[:500]})
        self._is_up, self._cause, self._covered = False, cause, frozenset()
        self._metrics.remote_up.set(0)
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # --- reading again ----------------------------------------------------------------------------------

    def _reread(self, thing_id: str) -> None:
        """The mirror lost track of a thing."""
        if thing_id in self._rereads or self._group is None:
            return
        self._rereads[thing_id] = None
        self._group.create_task(self._read_again(thing_id))

    async def _read_again(self, thing_id: str) -> None:
        try:
            await asyncio.sleep(0)
            del self._rereads[thing_id]
            await self.things.read(thing_id, tells=True)
        except GatewayError as error:
            log.info("thing not read", extra={"thing": thing_id, "cause": error.message})
            self._again.set()


def build_remote(settings: Ditto, metrics: Metrics) -> RemoteDitto | None:
    """Return the way to the remote Ditto, None in `ditto.mode: embedded`. Errors: InvalidSetting."""
    return RemoteDitto(settings.remote, metrics.edge) if is_remote(settings.mode) else None


def chunks(ids: Iterable[str]) -> Iterator[list[str]]:
    """Cut ids into what fits into one request."""
    some: list[str] = []
    size = 0
    for one in ids:
        length = len(segment(one)) + 1
        if some and (len(some) >= MAX_IDS or size + length > MAX_URL):
            yield some
            some, size = [], 0
        some.append(one)
        size += length
    if some:
        yield some


def _by_id(found: object) -> dict[str, JsonObject]:
    if not isinstance(found, list):
        raise Undeliverable("the remote Ditto answered no array of things")
    return {str(one["thingId"]): one for one in found if isinstance(one, dict) and "thingId" in one}


def _cause(errors: BaseExceptionGroup[BaseException]) -> str:
    """Return the first cause's words."""
    first: BaseException = errors
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return str(first) or type(first).__name__
