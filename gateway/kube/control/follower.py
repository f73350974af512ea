"""A collection that passes by: each object is told of and none is kept, unlike an informer's."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from gateway.errors import Forbidden, GatewayError, Gone, MethodNotAllowed, NotFound
from gateway.kube.client import EventType, KubeClient
from gateway.kube.informer import STEADY_SECONDS, needs_list
from gateway.model.json import JsonObject
from gateway.runtime.backoff import Backoff
from gateway.wire.kube.parts import part, text

log = logging.getLogger(__name__)

PAGE = 500


class Follower:
    """Tells `seen` of each object that is there or changes, `gone` of each that goes.

    After a list `listed` gets uid and namespace of all there are: what else was known is gone. Ready after
    the first list, or once the kind turns out not to be listed for us.
    """

    def __init__(
        self,
        kube: KubeClient,
        place: tuple[str, str],
        *,
        seen: Callable[[JsonObject], None],
        gone: Callable[[str], None],
        listed: Callable[[dict[str, str]], None],
    ) -> None:
        self._kube = kube
        self._place = place
        self._seen = seen
        self._gone = gone
        self._listed = listed
        self._version = ""

    async def run(self, ready: Callable[[], None]) -> None:
        """Follow until cancelled."""
        backoff = Backoff(0.2, 30.0)
        while True:
            try:
                if not self._version:
                    await self._list()
                    ready()
                if await self._watch():
                    backoff.reset()
                    continue
            except Gone:
                self._version = ""
            except (NotFound, Forbidden, MethodNotAllowed):
                self._version = ""
                ready()
            except GatewayError as error:
                if needs_list(error):
                    self._version = ""
                facts = {"plural": self._place[1], "cause": error.message}
                log.info("watch interrupted", extra=facts)
            await asyncio.sleep(backoff.next())

    async def _list(self) -> None:
        found: dict[str, str] = {}
        page: str | None = None
        while True:
            answer = await self._kube.list(*self._place, limit=PAGE, page=page)
            for item in answer.items:
                found[_uid(item)] = text(part(item, "metadata").get("namespace"))
                self._seen(item)
            page = answer.next_page
            if not page:
                break
            await asyncio.sleep(0)
        self._version = answer.resource_version
        self._listed(found)

    async def _watch(self) -> bool:
        has_news, now = False, asyncio.get_running_loop().time
        steady_at = now() + STEADY_SECONDS
        async for event in self._kube.watch(*self._place, resource_version=self._version):
            self._version, has_news = event.resource_version, True
            if event.type is EventType.DELETED:
                self._gone(_uid(event.object))
            elif event.type is not EventType.BOOKMARK:
                self._seen(event.object)
        return has_news or now() >= steady_at


def _uid(item: JsonObject) -> str:
    return text(part(item, "metadata").get("uid"))
