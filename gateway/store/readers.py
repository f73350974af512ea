"""Who may read what under a policy, in a form that a query can judge without reading the policy.

Of each subject that a policy names, the entries that hold for it are kept as a text: its signature. Policies
of one make share signatures, so a fleet with a policy per thing has a handful of them. A policy that says
more than its own entries do (imports, references, entries for some namespaces only, members unknown here)
has the signature `ODD` for the subject '': its things are judged one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from gateway.model.json import Json, JsonObject, Pointer, format_pointer, parse_pointer
from gateway.twin.metadata import METADATA
from gateway.twin.policy import READ, Enforcer, Entry, Permissions, read_entry

ODD: Final = ""
ANYBODY: Final = ""
_PLAIN_MEMBERS: Final = frozenset(("policyId", "entries"))
_PLAIN_ENTRY: Final = frozenset(("subjects", "resources", "importable", "allowedAdditions"))

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def signatures_of(document: JsonObject) -> dict[str, str]:
    """Subject to signature; subjects that may read nothing of a thing and are denied nothing are left out."""
    found: dict[str, list[Any]] = {}
    for entry in _entries(document):
        says = [
            [format_pointer(path), bool(grant & READ), bool(revoke & READ)]
            for kind, path, grant, revoke in entry.resources
            if kind == "thing" and (grant | revoke) & READ
        ]
        if says:
            for subject, expiry in entry.subjects.items():
                found.setdefault(subject, []).append([expiry, sorted(says)])
    made = {subject: _encode(sorted(parts, key=str)).decode() for subject, parts in found.items()}
    return made if _is_plain(document) else {**made, ANYBODY: ODD}


def _entries(document: JsonObject) -> list[Entry]:
    entries = document.get("entries")
    if not isinstance(entries, dict):
        return []
    return [read_entry(label, body) for label, body in entries.items() if isinstance(body, dict)]


def _is_plain(document: JsonObject) -> bool:
    entries = document.get("entries")
    if not isinstance(entries, dict):
        return False
    extra = [name for name in document if name not in _PLAIN_MEMBERS and document[name]]
    return not extra and all(_is_plain_entry(entry) for entry in entries.values())


def _is_plain_entry(entry: Json) -> bool:
    return isinstance(entry, dict) and all(
        name in _PLAIN_ENTRY or not said for name, said in entry.items()
    )


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a caller's signatures mean for one query.

    Shape:  a policy with a signature in `good` for one of the caller's subjects, and none in `bad`, lets the
            caller read all that the query names; one with a signature in `unsure` or `bad` may let it read
            some; others nothing.
    """

    good: tuple[int, ...]
    bad: tuple[int, ...]
    unsure: tuple[int, ...]

    @property
    def is_certain(self) -> bool:
        return not self.bad and not self.unsure


def judge(
    bodies: Mapping[int, str], subjects: Sequence[str], pointers: Iterable[Pointer], now: str
) -> Judgement:
    """Sort signatures by what they let the caller read.

    Shape:  `pointers` are what the query filters and sorts by; from the first `*` on everything counts.
            Of several subjects, those with revokes are not weighed against each other: they are `bad`.
    """
    paths = {_bound(pointer) for pointer in pointers}
    good: list[int] = []
    bad: list[int] = []
    unsure: list[int] = []
    for signature, body in bodies.items():
        if body == ODD or (len(subjects) > 1 and _revokes(body)):
            bad.append(signature)
            continue
        permissions = _permissions(body, now)
        if not permissions.partial("thing", (), READ):
            continue
        is_good = all(permissions.unrestricted("thing", path, READ) for path in paths)
        (good if is_good else unsure).append(signature)
    return Judgement(tuple(good), tuple(bad), tuple(unsure))


def _bound(pointer: Pointer) -> Pointer:
    """What has to be readable; metadata are as readable as what they are about."""
    if pointer[0] == METADATA:
        pointer = pointer[1:]
    return pointer[: pointer.index("*")] if "*" in pointer else pointer


def _revokes(body: str) -> bool:
    return any(revoked for _, says in _decode(body) for _, _, revoked in says)


def _permissions(body: str, now: str) -> Permissions:
    entries = [
        Entry(
            "",
            {ANYBODY: expiry},
            tuple(
                ("thing", parse_pointer(path), READ * granted, READ * revoked)
                for path, granted, revoked in says
            ),
        )
        for expiry, says in _decode(body)
    ]
    return Enforcer(entries).permissions((ANYBODY,), "", now)
