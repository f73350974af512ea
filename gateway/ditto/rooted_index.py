"""The search index for callers to whom root policies lend rights: it does not know of these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.ditto.policies import PoliciesService
from gateway.model.thing import Thing
from gateway.store.search import Ask, Counted, Found
from gateway.store.things import ThingStore


@dataclass(frozen=True, slots=True)
class RootedIndex:
    """As `ThingIndex`: nothing is certain for a caller whom a root policy names, all things are judged."""

    store: ThingStore
    policies: PoliciesService

    async def find(self, ask: Ask, skip: int, take: int) -> Found:
        """See `ThingIndex.find`."""
        if await self.policies.has_root_for(ask.subjects):
            return Found((), has_unsure=True)
        return await self.store.find(ask, skip, take)

    async def count(self, ask: Ask) -> Counted:
        """See `ThingIndex.count`."""
        if await self.policies.has_root_for(ask.subjects):
            return Counted(0, has_unsure=True)
        return await self.store.count(ask)

    async def unsure(self, ask: Ask, after: str, limit: int) -> Sequence[Thing]:
        """See `ThingIndex.unsure`."""
        if await self.policies.has_root_for(ask.subjects):
            return await self.store.page(after, limit, ask.namespaces)
        return await self.store.unsure(ask, after, limit)
