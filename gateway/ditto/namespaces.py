"""Namespaces that an operator has closed, for instance to erase them.

As Ditto's, the list is in memory: it is short, and a restart opens them again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from gateway.errors import Conflict
from gateway.model.entity_id import namespace_of
from gateway.twin.ditto_errors import ditto_error

MAX_BLOCKED: Final = 1_000
_AT_ONCE: Final = 200
"""Entities erased in one transaction: writers of other namespaces wait that long."""


class BlockedNamespaces:
    """Which namespaces are closed; commands on their things and policies are refused."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def __contains__(self, namespace: object) -> bool:
        return namespace in self._names

    def block(self, namespace: str) -> None:
        """Refuse from now on.

        Errors: Conflict when too many are blocked.
        """
        if len(self._names) >= MAX_BLOCKED:
            raise Conflict(f"At most {MAX_BLOCKED} namespaces are blocked at a time.")
        self._names.add(namespace)

    def unblock(self, namespace: str) -> None:
        self._names.discard(namespace)

    def check(self, entity_id: str) -> None:
        """Refuse an entity of a blocked namespace.

        Errors: Conflict `namespace.blocked`.
        """
        if self._names and (namespace := namespace_of(entity_id)) in self._names:
            raise ditto_error("namespace.blocked", namespace=namespace)


class Erasing(Protocol):
    """What erasing needs of the store."""

    async def erase(self, namespace: str, limit: int) -> int: ...


@dataclass(frozen=True, slots=True)
class Eraser:
    """Erases namespaces.

    Shape:  `forget` drops what is in memory of a namespace.
    """

    store: Erasing
    blocked: BlockedNamespaces
    forget: Callable[[str], None]

    async def purge(self, namespace: str) -> int:
        """Erase things and policies with their past; returns how many there were.

        The namespace is blocked meanwhile: what was decided before is stored first, as the store keeps the
        order, and nothing is decided on a state that goes.
        """
        was_blocked = namespace in self.blocked
        self.blocked.block(namespace)
        try:
            erased = 0
            while some := await self.store.erase(namespace, _AT_ONCE):
                erased += some
            self.forget(namespace)
        finally:
            if not was_blocked:
                self.blocked.unblock(namespace)
        return erased
