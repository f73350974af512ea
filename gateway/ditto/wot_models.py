"""Thing Models in memory: fetched, resolved, kept; whoever asks for one that is on its way waits with others.

A model that is out of date serves until its successor is there; a fetch that failed is not tried again for a
while. See `docs/wot.md`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Final, TypeAlias, TypeVar

from gateway.config.wot import WotModels
from gateway.ditto.wot_cache import Cache, Kept
from gateway.ditto.wot_fetch import Fetcher, not_found
from gateway.errors import GatewayError, Undeliverable
from gateway.model.json import JsonObject
from gateway.observe.metrics import Metrics
from gateway.twin.documents import encoded
from gateway.twin.wot.documents import invalid, read_document
from gateway.twin.wot.model import ThingModel
from gateway.twin.wot.resolving import NeedsDocuments, resolve

log = logging.getLogger(__name__)

Found: TypeAlias = dict[str, ThingModel | GatewayError]
"""By URL: the model, or why there is none."""

T = TypeVar("T")

MAX_MODELS: Final = 100
"""Models that one command may need, and as many submodels."""
MAX_UNDER_WAY: Final = 1_000
"""Models that are fetched at the same time; more are refused with 503."""
_FAILURE_BYTES: Final = 1_024


class ThingModels:
    """Module: the models that things name. Its tasks end with it."""

    name = "ditto.wot"

    def __init__(self, settings: WotModels, fetcher: Fetcher, metrics: Metrics) -> None:
        self._settings = settings
        self._fetcher = fetcher
        self._metrics = metrics
        room = (settings.cache_entries, settings.cache_bytes)
        self._documents: Cache[JsonObject] = Cache(*room)
        self._models: Cache[ThingModel] = Cache(*room)
        self._failures: Cache[GatewayError] = Cache(settings.cache_entries, settings.cache_bytes)
        self._under_way: dict[str, asyncio.Task[ThingModel | GatewayError]] = {}
        self._fetching: dict[str, asyncio.Task[Kept[JsonObject] | GatewayError]] = {}
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self, ready: Callable[[], None]) -> None:
        """Module: own the fetches until cancelled."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                ready()
                await asyncio.Event().wait()
        finally:
            self._tasks = None
            await self._fetcher.close()

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run `work` as a task that ends with this module.

        Errors: Undeliverable before and after.
        """
        if self._tasks is None:
            work.close()
            raise Undeliverable("Thing Models are not served yet, or no longer.")
        return self._tasks.create_task(work)

    # --- asking -----------------------------------------------------------------------------------

    def look(self, urls: Iterable[str]) -> Found | None:
        """These models and their submodels from memory; None when one has to be fetched: see `gather`."""
        found: Found = {}
        for url in urls:
            model = self._in_memory(url)
            if model is None:
                return None
            found[url] = model
        for url in _submodels(found):
            below = self._in_memory(url)
            if below is None:
                return None
            found[url] = below
        return found

    async def gather(self, urls: Iterable[str]) -> Found:
        """These models and their submodels, fetched where needed, within `resolve_seconds`."""
        deadline = asyncio.get_running_loop().time() + self._settings.resolve_seconds
        found = await self._all(dict.fromkeys(urls), deadline)
        return {**found, **await self._all(_submodels(found), deadline)}

    async def each(self, urls: Iterable[str]) -> Found:
        """These models without their submodels, likewise."""
        known = {url: self._in_memory(url) for url in dict.fromkeys(urls)}
        deadline = asyncio.get_running_loop().time() + self._settings.resolve_seconds
        fetched = await self._all((url for url, one in known.items() if one is None), deadline)
        return {url: fetched[url] if one is None else one for url, one in known.items()}

    async def model(self, url: str) -> ThingModel:
        """One model, without its submodels.

        Errors: `wot:tm.notfound`, `wot:tm.invalid`, `wot:tm.ref.invalid`, Undeliverable.
        """
        found = (await self.each((url,)))[url]
        if isinstance(found, GatewayError):
            raise found
        return found

    async def _all(self, urls: Iterable[str], deadline: float) -> Found:
        """Several models side by side; what is not there in time counts as not found."""
        wanted = [*urls]
        found: Found = {url: _too_many(url) for url in wanted[MAX_MODELS:]}
        tasks = {url: self._on_its_way(url) for url in wanted[:MAX_MODELS]}
        if tasks:
            left = max(0.0, deadline - asyncio.get_running_loop().time())
            await asyncio.wait(tasks.values(), timeout=left)
        for url, task in tasks.items():
            found[url] = task.result() if task.done() else not_found(url)
        return found

    # --- memory -----------------------------------------------------------------------------------

    def _in_memory(self, url: str) -> ThingModel | GatewayError | None:
        now = asyncio.get_running_loop().time()
        kept = self._models.get(url)
        if kept is not None:
            is_old = kept.expires <= now
            self._count("stale" if is_old else "memory")
            if is_old and self._tasks is not None and len(self._under_way) < MAX_UNDER_WAY:
                self._on_its_way(url)
            return kept.value
        failure = self._failures.get(url)
        if failure is not None and failure.expires > now:
            self._count("missing")
            return failure.value.with_traceback(None)
        return None

    def _count(self, found: str) -> None:
        self._metrics.wot_models.labels(found).inc()

    def _on_its_way(self, url: str) -> asyncio.Task[ThingModel | GatewayError]:
        """The task that brings a model, begun when there is none."""
        task = self._under_way.get(url)
        if task is None:
            if len(self._under_way) >= MAX_UNDER_WAY:
                raise Undeliverable("Too many Thing Models are fetched at the moment.")
            task = self._under_way[url] = self.start(_guarded(url, self._bring))
            task.add_done_callback(lambda _: self._under_way.pop(url, None))
        return task

    async def _bring(self, url: str) -> ThingModel | GatewayError:
        """Fetch and resolve a model, and keep what came of it."""
        try:
            async with asyncio.timeout(self._settings.resolve_seconds):
                kept = await self._resolved(url)
        except TimeoutError:
            return self._failed(url, not_found(url))
        except Undeliverable as error:
            return error
        except GatewayError as error:
            return self._failed(url, error)
        self._models.put(url, kept)
        self._failures.drop(url)
        self._count("fetched")
        return kept.value

    def _failed(self, url: str, error: GatewayError) -> ThingModel | GatewayError:
        """An older model goes on to serve; without one the failure is kept for a while."""
        self._count("failed")
        until = asyncio.get_running_loop().time() + self._settings.failure_seconds
        older = self._models.get(url)
        if older is not None:
            self._models.put(url, Kept(older.value, older.size, until))
            return older.value
        self._failures.put(url, Kept(error, _FAILURE_BYTES, until))
        return error

    # --- documents --------------------------------------------------------------------------------

    async def _resolved(self, url: str) -> Kept[ThingModel]:
        kept: dict[str, Kept[JsonObject]] = {}
        while True:
            model = _tried(url, {name: one.value for name, one in kept.items()})
            if isinstance(model, ThingModel):
                expires = min(one.expires for one in kept.values())
                return Kept(model, len(encoded({**model.document})), expires)
            kept.update(await self._several(model))

    async def _several(self, urls: frozenset[str]) -> dict[str, Kept[JsonObject]]:
        """Documents, side by side; the first that cannot be had is the error of all."""
        tasks = {url: self._document(url) for url in sorted(urls)}
        await asyncio.wait(tasks.values())
        found: dict[str, Kept[JsonObject]] = {}
        for url, task in tasks.items():
            answer = task.result()
            if isinstance(answer, GatewayError):
                raise answer.with_traceback(None)
            found[url] = answer
        return found

    def _document(self, url: str) -> asyncio.Task[Kept[JsonObject] | GatewayError]:
        """The task that brings a document; whoever wants the same one waits for the same task."""
        task = self._fetching.get(url)
        if task is None:
            task = self._fetching[url] = self.start(_guarded(url, self._fetch))
            task.add_done_callback(lambda _: self._fetching.pop(url, None))
        return task

    async def _fetch(self, url: str) -> Kept[JsonObject] | GatewayError:
        now = asyncio.get_running_loop().time()
        older = self._documents.get(url)
        if older is not None and older.expires > now:
            return older
        try:
            value, size = await self._fetcher.fetch(url)
            document = read_document(url, value)
        except GatewayError as error:
            if older is None:
                return error
            kept = Kept(older.value, older.size, now + self._settings.failure_seconds)
        else:
            kept = Kept(document, size, now + self._settings.cache_seconds)
        self._documents.put(url, kept)
        return kept


def _tried(url: str, documents: dict[str, JsonObject]) -> ThingModel | frozenset[str]:
    """The model, or the documents that it still needs."""
    try:
        return resolve(url, documents)
    except NeedsDocuments as needs:
        return needs.urls


async def _guarded(url: str, work: Callable[[str], Awaitable[T]]) -> T | GatewayError:
    """The top of a task: a bug in it ends neither the others nor the module."""
    try:
        return await work(url)
    except Exception:
        log.exception("thing model could not be made", extra={"url": url[:300]})
        return GatewayError()


def _submodels(found: Found) -> list[str]:
    """The URLs of the direct submodels that are not there yet."""
    models = (one for one in found.values() if isinstance(one, ThingModel))
    hrefs = dict.fromkeys(one.href for model in models for one in model.submodels)
    return [url for url in hrefs if url not in found]


def _too_many(url: str) -> GatewayError:
    return invalid(url, f"more than {MAX_MODELS} models are needed at once")
