"""Enrolment at start: the local edge of `twinspan up` joins its own cloud, a joined node checks itself."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import replace

from edge.identity import Identity
from edge.join import JoinRequest, join, renew

log = logging.getLogger(__name__)

Ticket = Callable[[], Awaitable[JoinRequest]]
"""Makes a fresh join request, e.g. with a token of the cloud in the same process; its `node` is not used."""


class Enrolment:
    """Makes sure that this node has an identity before the hub needs it.

    Without a `ticket` a node that has not joined ends the process with the command that mends it.
    """

    name = "edge.enrolment"

    def __init__(
        self, identity: Identity, node: str, ticket: Ticket | None, https_server: str = ""
    ) -> None:
        self._https_server = https_server
        self._identity = identity
        self._node = node
        self._ticket = ticket

    async def run(self, ready: Callable[[], None]) -> None:
        if self._ticket is None:
            self._identity.load()
        else:
            await self._join_if_needed(replace(await self._ticket(), node=self._node))
        ready()
        await asyncio.get_running_loop().create_future()

    async def renew(self) -> None:
        """Get a new certificate: by a ticket where there is one, else by the old certificate.

        Errors: JoinFailed, InvalidSetting.
        """
        if self._ticket is None:
            await asyncio.to_thread(renew, self._identity, self._https_server)
        else:
            request = replace(await self._ticket(), node=self._node)
            await asyncio.to_thread(join, request, self._identity)

    async def _join_if_needed(self, request: JoinRequest) -> None:
        if self._identity.has_joined and self._knows(request):
            return
        settings = await asyncio.to_thread(join, request, self._identity)
        log.info("node joined", extra={"node": settings.node})

    def _knows(self, request: JoinRequest) -> bool:
        """True when our CA is the one that the token names and our name is the one asked for."""
        der = ssl.PEM_cert_to_DER_cert(self._identity.ca.read_text())
        is_same_cloud = request.token.partition(".")[0] == hashlib.sha256(der).hexdigest()
        return is_same_cloud and request.node == self._identity.load().node
