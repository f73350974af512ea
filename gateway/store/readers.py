"""Who may read what under a policy, in a form that a query can judge without reading the policy.

Of each subject that a policy names, the entries that hold for it are kept as a text: its signature; what
is imported, referred to and added by root policies is worked in before. Policies of one make share
signatures, so a fleet with a policy per thing has a handful of them. Entries for some namespaces only are
kept with these, and judged for each namespace that there is. A policy that is not signed yet has the
signature `ODD` for the subject '': its things are judged one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import msgspec

from gateway.model.json import Pointer, format_pointer, parse_pointer
from gateway.twin.metadata import METADATA
from gateway.twin.policy import READ, Enforcer, Entry, Permissions

ODD: Final = ""
ANYBODY: Final = ""

_SHORT: Final = 4_096
"""Characters of signatures whose enforcers are kept in memory."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def signatures_of(entries: Iterable[Entry]) -> dict[str, str]:
    """Subject to signature; subjects that may read nothing of a thing and are denied nothing are left out.

    Shape:  a JSON array of `[expiry, [[path, granted, revoked], ...]]`, with the namespaces as a third
            element where an entry counts for some only.
    """
    found: dict[str, list[Any]] = {}
    for entry in entries:
        says = [
            [format_pointer(path), bool(grant & READ), bool(revoke & READ)]
            for kind, path, grant, revoke in entry.resources
            if kind == "thing" and (grant | revoke) & READ
        ]
        if says:
            scope = [sorted(entry.namespaces)] if entry.namespaces else []
            for subject, expiry in entry.subjects.items():
                found.setdefault(subject, []).append([expiry, sorted(says), *scope])
    return {subject: _encode(sorted(parts, key=str)).decode() for subject, parts in found.items()}


@dataclass(frozen=True, slots=True)
class Rights:
    """Signatures that mean the same for a query: everywhere, and in some namespaces only."""

    signatures: tuple[int, ...] = ()
    scoped: tuple[tuple[tuple[str, ...], tuple[int, ...]], ...] = ()
    """Namespaces, and the signatures that have this meaning there."""

    def __bool__(self) -> bool:
        return bool(self.signatures or self.scoped)

    @property
    def all(self) -> tuple[int, ...]:
        """All of them, wherever they count."""
        scoped = (number for _, numbers in self.scoped for number in numbers)
        return tuple(dict.fromkeys((*self.signatures, *scoped)))


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a caller's signatures mean for one query.

    Shape:  a policy with a signature in `good` for one of the caller's subjects, and none in `bad`, lets the
            caller read all that the query names; one with a signature in `unsure` or `bad` may let it read
            some; others nothing. `known` is None when all signatures were judged, else those that were.
    """

    good: Rights
    bad: Rights
    unsure: Rights
    known: tuple[int, ...] | None = None

    @property
    def is_certain(self) -> bool:
        return not self.bad and not self.unsure and self.known is None


_GOOD, _BAD, _UNSURE, _NOTHING = range(4)


def judge(
    bodies: Mapping[int, str],
    subjects: Sequence[str],
    pointers: Iterable[Pointer],
    now: str,
    namespaces: Callable[[], Sequence[str] | None],
    *,
    are_all: bool = True,
) -> Judgement:
    """Sort signatures by what they let the caller read.

    Shape:  `pointers` are what the query filters and sorts by; from the first `*` on everything counts.
            Of several subjects, a revoke of one that concerns what the query names is not weighed against
            what others grant: it is `bad`. `namespaces` gives those that things are in, None for too many
            to look at each.
    """
    paths = {_bound(pointer) for pointer in pointers}
    revoking = [one for one in bodies.values() if len(subjects) > 1 and _revoked(one)]
    harmful = {one for one in revoking if _concerns(_revoked(one), paths)}
    needs_root = bool(revoking) and not paths
    plain: tuple[list[int], ...] = ([], [], [], [])
    scoped: list[int] = []
    for signature, body in bodies.items():
        if body == ODD or body in harmful:
            plain[_BAD].append(signature)
        elif _is_scoped(body):
            scoped.append(signature)
        else:
            plain[_meaning(body, paths, now, "", needs_root)].append(signature)
    by_namespace: dict[tuple[tuple[int, ...], ...], list[str]] = {}
    if scoped:
        there = namespaces()
        if there is None:
            plain[_UNSURE].extend(scoped)
        for namespace in there or ():
            found: tuple[list[int], ...] = ([], [], [], [])
            for signature in scoped:
                kind = _meaning(bodies[signature], paths, now, namespace, needs_root)
                found[kind].append(signature)
            by_namespace.setdefault(tuple(map(tuple, found)), []).append(namespace)
    good, bad, unsure = (
        Rights(
            tuple(plain[kind]),
            tuple(
                (tuple(names), kinds[kind]) for kinds, names in by_namespace.items() if kinds[kind]
            ),
        )
        for kind in (_GOOD, _BAD, _UNSURE)
    )
    return Judgement(good, bad, unsure, None if are_all else tuple(bodies))


def _bound(pointer: Pointer) -> Pointer:
    """What has to be readable; metadata are as readable as what they are about."""
    if pointer[0] == METADATA:
        pointer = pointer[1:]
    return pointer[: pointer.index("*")] if "*" in pointer else pointer


def _concerns(revoked: Iterable[Pointer], paths: set[Pointer]) -> bool:
    """True when a revoke may change what is readable at, above or below one of these paths; or at all."""
    for place in revoked:
        if not place or any(place[: len(path)] == path[: len(place)] for path in paths):
            return True
    return False


def _meaning(
    body: str, paths: Iterable[Pointer], now: str, namespace: str, needs_root: bool
) -> int:
    """What a signature lets read; `needs_root` where others' revokes below may take all the rest."""
    enforcer = _kept_enforcer(body) if len(body) <= _SHORT else _enforcer(body)
    permissions = enforcer.permissions((ANYBODY,), namespace, now)
    if not permissions.partial("thing", (), READ):
        return _NOTHING
    is_good = all(_is_shown(permissions, path) for path in paths)
    if needs_root:
        is_good, _ = permissions.deciding("thing", (), READ)
    return _GOOD if is_good else _UNSURE


def _is_shown(permissions: Permissions, path: Pointer) -> bool:
    """True when all values at a path are shown; an array on the way is shown whole or not at all."""
    if not permissions.unrestricted("thing", path, READ):
        return False
    first = _FIRST_ARRAY.get(path[0], 2) if path else 0
    return all(permissions.deciding("thing", path[:n], READ)[0] for n in range(first, len(path)))


_FIRST_ARRAY: Final = {"features": 4}
"""Segments of the shortest path that may have an array: what is above is objects."""


@lru_cache(maxsize=1_024)
def _revoked(body: str) -> tuple[Pointer, ...]:
    """Where a signature revokes something."""
    if body == ODD:
        return ()
    says = (said for entry in _decode(body) for said in entry[1])
    return tuple(parse_pointer(path) for path, _, revoked in says if revoked)


@lru_cache(maxsize=1_024)
def _is_scoped(body: str) -> bool:
    return any(len(entry) > 2 for entry in _decode(body))


def _enforcer(body: str) -> Enforcer:
    return Enforcer(
        [
            Entry(
                "",
                {ANYBODY: entry[0]},
                tuple(
                    ("thing", parse_pointer(path), READ * granted, READ * revoked)
                    for path, granted, revoked in entry[1]
                ),
                tuple(entry[2]) if len(entry) > 2 else (),
            )
            for entry in _decode(body)
        ]
    )


_kept_enforcer = lru_cache(maxsize=4_096)(_enforcer)
