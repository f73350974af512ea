"""What the status of a namespace says while it is being emptied. Source: Kubernetes, "Namespaces" (v1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.clock import rfc3339
from gateway.wire.kube.conditions import find
from gateway.wire.kube.parts import part, rows

CONTENT = "NamespaceDeletionContentFailure"
DISCOVERY = "NamespaceDeletionDiscoveryFailure"
REMAINING = "NamespaceContentRemaining"
FINALIZERS = "NamespaceFinalizersRemaining"
_FINE = {
    DISCOVERY: ("ResourcesDiscovered", "All resources successfully discovered"),
    "NamespaceDeletionGroupVersionParsingFailure": (
        "ParsedGroupVersions",
        "All legacy kube types successfully parsed",
    ),
    CONTENT: (
        "ContentDeleted",
        "All content successfully deleted, may be waiting on finalization",
    ),
    REMAINING: ("ContentRemoved", "All content successfully removed"),
    FINALIZERS: (
        "ContentHasNoFinalizers",
        "All content-preserving finalizers finished",
    ),
}


@dataclass(slots=True)
class Content:
    """What is left in a namespace.

    Shape:  `kinds` counts objects by `<plural>.<group>`, `finalizers` by what holds them; `failures` are
            texts. Units: `seconds` until it may be gone.
    """

    kinds: Counter[str] = field(default_factory=Counter)
    finalizers: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    seconds: int = 0

    @property
    def is_empty(self) -> bool:
        return not self.kinds and not self.failures and not self.seconds


def conditions(
    namespace: JsonObject, content: Content, unknown: Sequence[str], now: float
) -> list[Json]:
    """Return the conditions of a namespace. Shape: `unknown` are groups that could not be discovered."""
    known = rows(part(namespace, "status").get("conditions"))
    bad = _bad(content, unknown)
    found = [_condition(type_, bad.get(type_), find(known, type_), now) for type_ in _FINE]
    others = [row for row in known if row.get("type") not in _FINE]
    return [*others, *found]


def _bad(content: Content, unknown: Sequence[str]) -> dict[str, tuple[str, str]]:
    found: dict[str, tuple[str, str]] = {}
    if unknown:
        named = ", ".join(sorted(unknown))
        told = f"Discovery failed for some groups, {len(unknown)} failing: {named}"
        found[DISCOVERY] = "DiscoveryFailed", told
    if content.failures:
        told = ", ".join(sorted(content.failures))
        told = f"Failed to delete all resource types, {len(content.failures)} remaining: {told}"
        found[CONTENT] = "ContentDeletionFailed", told
    if content.kinds:
        told = ", ".join(
            sorted(
                f"{kind} has {count} resource instances" for kind, count in content.kinds.items()
            )
        )
        found[REMAINING] = "SomeResourcesRemain", f"Some resources are remaining: {told}"
    if content.finalizers:
        told = ", ".join(
            sorted(
                f"{name} in {count} resource instances"
                for name, count in content.finalizers.items()
            )
        )
        told = f"Some content in the namespace has finalizers remaining: {told}"
        found[FINALIZERS] = "SomeFinalizersRemain", told
    return found


def _condition(
    type_: str, bad: tuple[str, str] | None, known: JsonObject | None, now: float
) -> JsonObject:
    reason, message = bad or _FINE[type_]
    status = "False" if bad is None else "True"
    is_new = known is None or known.get("status") != status
    since = rfc3339(now) if is_new or known is None else known.get("lastTransitionTime")
    return {
        "type": type_,
        "status": status,
        "lastTransitionTime": since,
        "reason": reason,
        "message": message,
    }
