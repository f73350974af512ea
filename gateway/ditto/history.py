"""The past of a thing or policy as a stream: which revisions or instants, read in pages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeVar

from gateway.ditto.service import PoliciesService, ThingsService
from gateway.errors import BadRequest
from gateway.model.policy import PolicyEvent
from gateway.model.thing import ThingEvent

E = TypeVar("E", ThingEvent, PolicyEvent)

HISTORICAL = (
    "from-historical-revision",
    "to-historical-revision",
    "from-historical-timestamp",
    "to-historical-timestamp",
)
PAGE = 100


@dataclass(frozen=True, slots=True)
class Span:
    """From one revision or instant to another, both included."""

    first: int = 1
    last: int | None = None
    since: datetime | None = None
    until: datetime | None = None

    @classmethod
    def parse(cls, query: Mapping[str, str], newest: int) -> Span:
        """Read the parameters; negative revisions count from the newest, which is -1.

        Errors: BadRequest naming the parameter.
        """
        first = _revision(query, HISTORICAL[0], newest)
        last = _revision(query, HISTORICAL[1], newest)
        return cls(
            max(1, first or 1), last, _instant(query, HISTORICAL[2]), _instant(query, HISTORICAL[3])
        )

    async def events(self, things: ThingsService, thing_id: str) -> AsyncIterator[ThingEvent]:
        """Yield what is kept of a thing, oldest first; nobody waits for their acknowledgements any more."""
        async for event in self._pages(lambda after: things.history(thing_id, after, PAGE)):
            if "requested-acks" in event.headers:
                kept = {k: v for k, v in event.headers.items() if k != "requested-acks"}
                event = replace(event, headers=kept)
            yield event

    async def policy_events(
        self, policies: PoliciesService, policy_id: str
    ) -> AsyncIterator[PolicyEvent]:
        """Yield what is kept of a policy, oldest first."""
        async for event in self._pages(lambda after: policies.history(policy_id, after, PAGE)):
            yield event

    async def _pages(self, read: Callable[[int], Awaitable[list[E]]]) -> AsyncIterator[E]:
        after = self.first - 1
        while page := await read(after):
            for event in page:
                if self._is_over(event):
                    return
                if self.since is None or datetime.fromisoformat(event.timestamp) >= self.since:
                    yield event
            after = page[-1].revision

    def _is_over(self, event: ThingEvent | PolicyEvent) -> bool:
        if self.last is not None and event.revision > self.last:
            return True
        return self.until is not None and datetime.fromisoformat(event.timestamp) > self.until


def _revision(query: Mapping[str, str], name: str, newest: int) -> int | None:
    """A revision; 0 and absence stand for no bound."""
    text = query.get(name)
    if text is None:
        return None
    try:
        number = int(text)
    except ValueError as error:
        raise BadRequest(
            f"'{name}' is a whole number, got '{text[:50]}'.", code="header.invalid"
        ) from error
    if number < 0:
        return newest + 1 + number
    return number or None


def _instant(query: Mapping[str, str], name: str) -> datetime | None:
    text = query.get(name)
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text.replace(" ", "+"))
    except ValueError as error:
        raise BadRequest(
            f"'{name}' is an ISO 8601 instant, got '{text[:50]}'.", code="header.invalid"
        ) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
