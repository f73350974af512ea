"""Requests of the router to HTTP services at the edge, each waiting for its answer.

A request leaves once: whether the service saw it is not known when no answer comes.
Source: KubeEdge reference, section 18.5.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from cloud.sessions import stamp
from gateway.errors import CommandTimeout, QuotaExceeded, Undeliverable
from gateway.wire.cloudedge.envelope import MAX_FRAME, encode
from gateway.wire.cloudedge.link import ObjectMessage
from gateway.wire.cloudedge.routing import ServiceBusAnswer, ServiceBusCall, call_service

if TYPE_CHECKING:
    from cloud.hub import CloudHub
    from cloud.sessions import Inbound

MAX_WAITING = 1_000
"""Requests that wait for an answer, of all nodes."""


class ServiceCalls:
    """Asks nodes; a listener of the hub."""

    def __init__(self, hub: CloudHub) -> None:
        self._hub = hub
        self._waiting: dict[tuple[str, str], asyncio.Future[ServiceBusAnswer]] = {}
        hub.on(ServiceBusAnswer, self.on_answer, lambda answer: answer.parent_id)
        hub.add_listener(self)

    async def ask(self, node: str, call: ServiceBusCall, seconds: float) -> ServiceBusAnswer:
        """Send a request and return what the service answered; the message gets an id of its own.

        Errors: TooLarge for what does not fit the link; QuotaExceeded; Undeliverable when the node is away
                or goes; CommandTimeout after `seconds`.
        """
        if len(self._waiting) >= MAX_WAITING:
            raise QuotaExceeded("too many requests wait for services at the edge")
        mark = stamp()
        envelope = call_service(mark, replace(call, msg_id=mark.msg_id))
        if len(encode(envelope)) > MAX_FRAME:
            raise Undeliverable("the request does not fit the link to the node", status=413)
        future: asyncio.Future[ServiceBusAnswer] = asyncio.get_running_loop().create_future()
        key = (node, mark.msg_id)
        self._waiting[key] = future
        try:
            if not self._hub.push(node, envelope):
                raise Undeliverable(f"node {node} is not connected here, or too much waits for it")
            async with asyncio.timeout(seconds):
                return await future
        except TimeoutError as error:
            raise CommandTimeout(f"no answer of the service in {seconds:g} s") from error
        finally:
            del self._waiting[key]

    async def on_answer(self, inbound: Inbound, answer: ServiceBusAnswer) -> None:
        """Take an answer; one that nobody waits for is dropped."""
        future = self._waiting.get((inbound.node, answer.parent_id))
        if future is not None and not future.done():
            future.set_result(answer)

    def node_disconnected(self, node: str) -> None:
        """Whoever waits for it waits in vain: answers are sent once."""
        for (asked, _), future in self._waiting.items():
            if asked == node and not future.done():
                future.set_exception(Undeliverable(f"node {node} went away before it answered"))

    def node_connected(self, node: str) -> None:
        """Nothing waits for a node that was away."""

    def node_is_new(self, node: str) -> None:
        """Nothing waits for a node that was away."""

    def delivered(self, node: str, item: ObjectMessage) -> None:
        """Nothing of ours is acknowledged."""
