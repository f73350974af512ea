"""What edges publish for rules, sent to the URLs of those rules.

At most once, as KubeEdge: what waits is lost with the process. A request is sent again only where the
target cannot have seen it, or said itself that it did not take it. A slow target holds up its own rule alone.
Source: KubeEdge reference, section 18.4.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from cloud.routes import REST, BusToRest
from gateway.errors import GatewayError, Undeliverable
from gateway.runtime.lanes import Lanes, Work
from gateway.runtime.small_client import NotSent, fetch
from gateway.wire.cloudedge.routing import RouterUpload

if TYPE_CHECKING:
    from cloud.deliveries import Deliveries
    from cloud.hub import CloudHub
    from cloud.rules import Rules
    from cloud.sessions import Inbound
    from gateway.config.cloud_services import Router as RouterSettings

log = logging.getLogger(__name__)

TRIES = 3
PAUSE_SECONDS = 0.5
MAX_WAITING = 1_000
"""Messages that wait for one rule; more are dropped and counted as failed."""
MAX_BYTES = 256 * 1_048_576
"""Of all messages that wait."""
MAX_ANSWER = 65_536
AGAIN = frozenset({429, 503})
"""Answers that say that nothing was done."""
_BUILT_IN = ("$hw/events/upload/", "SYS/dis/upload_records")


class RuleUploads:
    """Module: takes `RouterUpload` from the hub."""

    name = "cloud.ruleuploads"

    def __init__(
        self, settings: RouterSettings, rules: Rules, hub: CloudHub, deliveries: Deliveries
    ) -> None:
        self._settings = settings
        self._rules = rules
        self._deliveries = deliveries
        self._lanes: Lanes | None = None
        self._bytes = 0
        hub.on(RouterUpload, self.on_upload, lambda item: item.resource)

    async def run(self, ready: Callable[[], None]) -> None:
        async with asyncio.TaskGroup() as group:
            self._lanes = Lanes(group, limit=MAX_WAITING)
            ready()
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self._lanes = None

    async def on_upload(self, inbound: Inbound, item: RouterUpload) -> None:
        """Hand a message to the rules that want it; a node is told when none does."""
        routes = self._rules.find_bus(inbound.node, item.resource)
        if not routes and not _is_built_in(item.resource):
            self._rules.unsubscribe(inbound.node, item.resource)
        for route in routes:
            self._put(route, item)

    def _put(self, route: BusToRest, item: RouterUpload) -> None:
        size = len(item.payload)

        async def send() -> None:
            try:
                await self._send(route, item)
            finally:
                self._bytes -= size

        self._bytes += size
        try:
            self._put_in_lane(route, send)
        except Undeliverable as error:
            self._bytes -= size
            self._deliveries.note(route.rule, REST, error.message)

    def _put_in_lane(self, route: BusToRest, send: Work) -> None:
        if self._lanes is None or self._bytes > MAX_BYTES:
            raise Undeliverable("too much waits for the targets of rules")
        self._lanes.put(route.rule, send)

    async def _send(self, route: BusToRest, item: RouterUpload) -> None:
        error = ""
        try:
            async with asyncio.timeout(self._settings.timeout):
                error = await self._try(route, item)
        except GatewayError as raised:
            error = raised.message
        except TimeoutError:
            error = f"no delivery in {self._settings.timeout:g} s"
        if error:
            facts = {"rule": "/".join(route.rule), "node": route.node, "cause": error}
            log.info("a rule's message is lost", extra=facts)
        self._deliveries.note(route.rule, REST, error)

    async def _try(self, route: BusToRest, item: RouterUpload) -> str:
        """Return why the target did not take a message, "" when it did. Errors: GatewayError."""
        headers = {} if item.trace is None else {"traceparent": item.trace.traceparent}
        error = ""
        for attempt in range(TRIES):
            await asyncio.sleep(PAUSE_SECONDS if attempt else 0)
            try:
                answer = await fetch(
                    "POST",
                    route.url,
                    headers=headers,
                    body=item.payload,
                    seconds=self._settings.timeout,
                    max_body=MAX_ANSWER,
                )
            except NotSent as raised:
                error = raised.message
                continue
            if 200 <= answer.status < 300:
                return ""
            error = f"the target answered {answer.status}"
            if answer.status not in AGAIN:
                return error
        return f"{error} ({TRIES} tries)"


def _is_built_in(topic: str) -> bool:
    """True for what edges send up without being asked."""
    return topic.startswith(_BUILT_IN) or topic.partition("/")[2].startswith("user/")
