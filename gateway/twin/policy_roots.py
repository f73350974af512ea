"""Which root policies count for a namespace."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from gateway.twin.policy import namespace_matches


class Root(Protocol):
    """Policies whose implicit entries count in every policy of some namespaces."""

    @property
    def namespace(self) -> str:
        """A namespace, `<prefix>.*` for those below it, or `*` for all."""

    @property
    def policies(self) -> tuple[str, ...]:
        """Their ids."""


def root_ids(roots: Iterable[Root], namespace: str) -> list[str]:
    """The root policies of a namespace, those of the closest pattern first."""
    matching = [one for one in roots if namespace_matches(one.namespace, namespace)]
    matching.sort(key=lambda one: (one.namespace != namespace, -len(one.namespace)))
    return list(dict.fromkeys(name for one in matching for name in one.policies))
