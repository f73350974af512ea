"""Requests that a Kubernetes API must answer with an error, or with care: what is sent, in which world.

The expected answers are in `golden/kube_corpus.json`, by the name of the case; each was read and checked
against Kubernetes 1.36. `world()` says which objects are there before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.kube_corpus_documents import Case, world
from tests.kube_corpus_requests import callers, deletions, doors, hostile, places, reads
from tests.kube_corpus_writes import bodies, updates, validation

__all__ = ["GROUPS", "Case", "cases", "world"]

GROUPS: dict[str, Callable[[], Iterator[Case]]] = {
    "bodies": bodies,
    "validation": validation,
    "updates": updates,
    "deletions": deletions,
    "reads": reads,
    "places": places,
    "callers": callers,
    "doors": doors,
    "hostile": hostile,
}


def cases() -> Iterator[Case]:
    """All of them."""
    for group in GROUPS.values():
        yield from group()
