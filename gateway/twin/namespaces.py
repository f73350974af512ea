"""Which namespaces may be touched: patterns that allow, patterns that block."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from gateway.model.glob import glob_matches
from gateway.twin.ditto_errors import ditto_error


@dataclass(frozen=True, slots=True)
class Scope:
    """Some namespaces.

    Shape:  patterns with `*` for any run of characters and `?` for one; `allowed` None for all; what is
            blocked is out even where it is allowed.
    """

    allowed: tuple[str, ...] | None = None
    blocked: tuple[str, ...] = ()

    @property
    def is_everywhere(self) -> bool:
        return self.allowed is None and not self.blocked

    def admits(self, namespace: str) -> bool:
        """True for a namespace that is in."""
        if self.is_everywhere:
            return True
        return _admits(self, namespace)

    def within(self, namespaces: tuple[str, ...]) -> tuple[str, ...]:
        """Those of some namespaces that are in."""
        return tuple(one for one in namespaces if self.admits(one))


EVERYWHERE: Final = Scope()
NOWHERE: Final = Scope(())


@dataclass(frozen=True, slots=True)
class Access:
    """The namespaces that a caller may touch, whatever policies say."""

    things: Scope = EVERYWHERE
    policies: Scope = EVERYWHERE

    def check(self, kind: str, entity_id: str) -> None:
        """Refuse an entity in another namespace; `kind` is `thing` or `policy`. What is no id passes.

        Errors: 403 `gateway:namespace.notaccessible`.
        """
        scope = self.policies if kind == "policy" else self.things
        namespace, colon, _ = entity_id.partition(":")
        if colon and not scope.admits(namespace):
            raise ditto_error("gateway:namespace.notaccessible", namespace=namespace)


UNLIMITED: Final = Access()


def is_exact(pattern: str) -> bool:
    """True for a pattern that is a namespace itself."""
    return "*" not in pattern and "?" not in pattern


@lru_cache(maxsize=4_096)
def _admits(scope: Scope, namespace: str) -> bool:
    if any(glob_matches(one, namespace) for one in scope.blocked):
        return False
    return scope.allowed is None or any(glob_matches(one, namespace) for one in scope.allowed)
