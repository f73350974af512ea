"""Connections that several properties push over: made with their first user, closed with their last."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar

from gateway.errors import Rejected


class Link(Protocol):
    """A connection, lazily opened."""

    def close(self) -> None: ...


K = TypeVar("K", bound=Hashable)
L = TypeVar("L", bound=Link)


class SharedLinks(Generic[K, L]):
    """One link to each server, at most `limit` of them; `field` names the setting when there are more."""

    def __init__(self, field: str, limit: int | None = None) -> None:
        self._field = field
        self._limit = limit
        self._links: dict[K, L] = {}
        self._users: dict[K, int] = {}

    def take(self, server: K, make: Callable[[], L]) -> tuple[L, Callable[[], None]]:
        """Return a server's link, and what gives it back, to be called once. Errors: Rejected."""
        link = self._links.get(server)
        if link is None:
            if self._limit is not None and len(self._links) >= self._limit:
                raise Rejected(f"{self._field}: at most {self._limit} servers")
            link = self._links[server] = make()
        self._users[server] = self._users.get(server, 0) + 1
        return link, lambda: self._release(server)

    def _release(self, server: K) -> None:
        self._users[server] -= 1
        if not self._users[server]:
            del self._users[server]
            self._links.pop(server).close()
