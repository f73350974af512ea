"""What services at the edge send through ServiceBus: one request to the URL of the rule, and its answer back.

Who asks at the edge waits meanwhile. A request is sent again only where the target could not be reached.
KubeEdge's edges take an answer's text and nothing else, so they are told what a target answered, whatever
its status, and nothing where there is no answer. Source: KubeEdge reference, section 18.6.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from cloud.routes import REST, ServiceToRest
from cloud.sessions import Inbound, stamp
from gateway.errors import Forbidden, GatewayError, NotBuilt, QuotaExceeded, Undeliverable
from gateway.runtime.small_client import HttpAnswer, NotSent, fetch
from gateway.wire.cloudedge.routing import (
    ServiceBusUpload,
    ServiceReply,
    decode_service_body,
    reply_to_service,
)

if TYPE_CHECKING:
    from cloud.deliveries import Deliveries
    from cloud.hub import CloudHub
    from cloud.rules import Rules
    from gateway.config.cloud_services import Router as RouterSettings

log = logging.getLogger(__name__)

TRIES = 3
PAUSE_SECONDS = 0.5
MAX_CALLS = 200
"""Requests that wait for their targets, of all nodes."""
MAX_CALLS_OF_NODE = 20
MAX_ANSWER = 1_048_576
"""Bytes of an answer, as KubeEdge."""


class ServiceRequests:
    """Module: takes `ServiceBusUpload` from the hub."""

    name = "cloud.servicerequests"

    def __init__(
        self, settings: RouterSettings, rules: Rules, hub: CloudHub, deliveries: Deliveries
    ) -> None:
        self._settings = settings
        self._rules = rules
        self._deliveries = deliveries
        self._group: asyncio.TaskGroup | None = None
        self._running: dict[str, int] = {}
        hub.on(ServiceBusUpload, self.on_upload, lambda item: item.target)

    async def run(self, ready: Callable[[], None]) -> None:
        async with asyncio.TaskGroup() as group:
            self._group = group
            ready()
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self._group = None

    async def on_upload(self, inbound: Inbound, item: ServiceBusUpload) -> None:
        """Send a request where its rule says; a node whose list of targets is old is told so."""
        route = self._rules.find_service(inbound.node, item.target)
        if route is None:
            self._rules.forbid(inbound.node, item.target)
            _refuse(inbound, Forbidden(f"no rule takes what is sent to {item.target[:200]}"))
        elif self._group is None or not self._has_room(inbound.node):
            error = QuotaExceeded("too many requests wait for the targets of rules", status=503)
            self._deliveries.note(route.rule, REST, error.message)
            _refuse(inbound, error)
        else:
            self._running[inbound.node] = self._running.get(inbound.node, 0) + 1
            body = decode_service_body(item.body)
            self._group.create_task(self._serve(inbound, route, body))

    def _has_room(self, node: str) -> bool:
        is_idle = sum(self._running.values()) < MAX_CALLS
        return is_idle and self._running.get(node, 0) < MAX_CALLS_OF_NODE

    async def _serve(self, inbound: Inbound, route: ServiceToRest, body: bytes) -> None:
        try:
            async with asyncio.timeout(self._settings.timeout):
                answer = await self._ask(route, body, _headers_of(inbound))
        except TimeoutError:
            text = f"no answer of the target in {self._settings.timeout:g} s"
            self._fail(inbound, route, Undeliverable(text, status=504))
        except GatewayError as error:
            is_late = isinstance(error.__cause__, TimeoutError)
            self._fail(inbound, route, Undeliverable(error.message, status=504 if is_late else 502))
        else:
            is_good = 200 <= answer.status < 300
            error_text = "" if is_good else f"the target answered {answer.status}"
            self._deliveries.note(route.rule, REST, error_text)
            _answer(inbound, ServiceReply(answer.status, answer.body))
        finally:
            self._running[inbound.node] -= 1
            if not self._running[inbound.node]:
                del self._running[inbound.node]

    async def _ask(
        self, route: ServiceToRest, body: bytes, headers: Mapping[str, str]
    ) -> HttpAnswer:
        """Return what the target answered. Errors: NotSent, Undeliverable, TooLarge."""
        for attempt in range(TRIES):
            await asyncio.sleep(PAUSE_SECONDS if attempt else 0)
            try:
                return await fetch(
                    "POST",
                    route.url,
                    headers=headers,
                    body=body,
                    seconds=self._settings.timeout,
                    max_body=MAX_ANSWER,
                )
            except NotSent as error:
                if attempt == TRIES - 1:
                    raise NotSent(f"{error.message} ({TRIES} tries)") from error
        raise NotSent

    def _fail(self, inbound: Inbound, route: ServiceToRest, error: GatewayError) -> None:
        facts = {"rule": "/".join(route.rule), "node": route.node, "cause": error.message}
        log.info("a service's request is lost", extra=facts)
        self._deliveries.note(route.rule, REST, error.message)
        _refuse(inbound, error)


def _headers_of(inbound: Inbound) -> dict[str, str]:
    trace, headers = inbound.envelope.trace, {"Content-Type": "application/json"}
    return headers if trace is None else {**headers, "traceparent": trace.traceparent}


def refuse_requests(hub: CloudHub) -> None:
    """Say to edges whose services ask that this CloudCore has no router."""

    async def refuse(inbound: Inbound, _item: ServiceBusUpload) -> None:
        _refuse(inbound, NotBuilt("cloud.router.enabled is false at this CloudCore"))

    hub.on(ServiceBusUpload, refuse, lambda item: item.target)


def _refuse(inbound: Inbound, error: GatewayError) -> None:
    """Say why there is no answer, to an edge that can tell a refusal from an answer."""
    if inbound.session.is_ours:
        _answer(inbound, ServiceReply(error.status, error.message.encode()))


def _answer(inbound: Inbound, reply: ServiceReply) -> None:
    as_text = not inbound.session.is_ours
    inbound.reply(reply_to_service(inbound.envelope, stamp(), reply, as_text=as_text))
