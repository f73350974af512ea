"""What a policy says once its references, imports and the operator's root policies are worked in.

Order: each import is loaded; those of its own imports that `transitiveImports` names are resolved first;
its entries take what they refer to; `importable` selects; only then the policy's own entries take what
they refer to. References are followed one step: what is taken is the entry as it was written, or, of an
import, as the importer sees it. Source: Ditto, policy imports, entry references, namespace root policies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol, TypeAlias

from gateway.model.json import Json, JsonObject
from gateway.twin.policy_origins import (
    MAX_LEFT_OUT,
    How,
    LeftOut,
    Origin,
    Part,
    Resolved,
    Sourced,
    Why,
)

MAX_DEPTH: Final = 10
"""Imports of imports that are followed; what lies deeper is left out."""
MAX_RESOLVED: Final = 500
"""Imports that one policy brings in all told: whitelists of whitelists could multiply without end."""
ADDITIONS: Final = ("subjects", "resources", "namespaces")
NO_REFERENCE: Final = "never"

Labelled: TypeAlias = "tuple[str, JsonObject]"


class Documents(Protocol):
    """Where the documents of other policies come from; a mapping is one."""

    def get(self, policy_id: str, /) -> JsonObject | None:
        """The document of a policy, None where there is none."""


def members(value: Json) -> JsonObject:
    """The value if it is an object, else an empty one: absent members read as empty."""
    return value if isinstance(value, dict) else {}


def texts(value: Json) -> tuple[str, ...]:
    """An array of texts, empty for anything else."""
    return tuple(map(str, value)) if isinstance(value, list) else ()


def imports_of(document: JsonObject) -> dict[str, JsonObject]:
    """Imported policy id to what is said of the import."""
    return {name: members(body) for name, body in members(document.get("imports")).items()}


def references_of(entry: Json) -> list[tuple[str | None, str]]:
    """What an entry refers to: (imported policy id or None, label)."""
    listed = members(entry).get("references")
    found = [members(one) for one in listed] if isinstance(listed, list) else []
    return [
        (str(one["import"]) if one.get("import") is not None else None, str(one.get("entry")))
        for one in found
    ]


def imported_label(policy_id: str, label: str) -> str:
    """The label of an imported entry in resolved views."""
    return f"imported-{policy_id}-{label}"


def root_label(policy_id: str, label: str) -> str:
    """The label of a root policy's entry in resolved views."""
    return f"nsimported-{policy_id}-{label}"


def resolved_entries(
    document: JsonObject,
    imported: Documents,
    roots: Mapping[str, JsonObject] | None = None,
    policy_id: str = "",
) -> list[Labelled]:
    """The entries of `resolve`, without their origins."""
    found = resolve(document, imported, roots, policy_id).entries
    return [(label, body) for label, body, _ in found]


def resolve(
    document: JsonObject,
    imported: Documents,
    roots: Mapping[str, JsonObject] | None = None,
    policy_id: str = "",
) -> Resolved:
    """All entries that count under a policy, own ones first; none of them refers to another any more.

    Shape:  `roots` root policy id to document; they are resolved first, so that nobody's own imports use
            up what the operator's need.
    """
    walk = _Walk(imported)
    rooted: list[Sourced] = []
    for name, root in (roots or {}).items():
        if name != policy_id:
            rooted += _rooted(name, root, walk)
    return Resolved(_expanded(policy_id, document, walk) + rooted, tuple(walk.left_out))


def _expanded(policy_id: str, document: JsonObject, walk: _Walk) -> list[Sourced]:
    """The entries of a policy, and those of what it imports."""
    visible = {
        name: walk.visible(name, body, 0, frozenset((policy_id,)))
        for name, body in imports_of(document).items()
    }
    return _own(policy_id, document, visible) + _brought(visible)


def _brought(visible: Mapping[str, list[Sourced]]) -> list[Sourced]:
    """The entries of imports as their importer has them."""
    return [
        (imported_label(name, label), body, origin.through(name))
        for name, entries in visible.items()
        for label, body, origin in entries
    ]


def _rooted(name: str, root: JsonObject, walk: _Walk) -> list[Sourced]:
    return [
        (root_label(name, label), body, replace(origin.through(name), how=How.ROOT))
        for label, body, origin in walk.selected(_expanded(name, root, walk), ())
    ]


@dataclass(slots=True)
class _Walk:
    """One walk through imports of imports; remembers how many there were, and what they did not give."""

    imported: Documents
    left: int = MAX_RESOLVED
    left_out: list[LeftOut] = field(default_factory=list)

    def visible(
        self, policy_id: str, body: JsonObject, depth: int, visited: frozenset[str]
    ) -> list[Sourced]:
        """What an import brings, under the labels that the imported policy gives."""
        if self.left <= 0:
            return []
        self.left -= 1
        document = self.imported.get(policy_id)
        if document is None:
            self.leave_out(LeftOut(policy_id, "", Why.MISSING, {}))
            return []
        below = self._below(document, texts(body.get("transitiveImports")), depth, visited)
        entries = _own(policy_id, document, below) + _brought(below)
        return self.selected(entries, texts(body.get("entries")))

    def selected(self, entries: list[Sourced], listed: Sequence[str]) -> list[Sourced]:
        """The entries that an importer gets who lists these labels."""
        found: list[Sourced] = []
        for label, entry, origin in entries:
            why = _fault(label, entry, listed)
            if why is None:
                found.append((label, entry, origin))
            else:
                self.leave_out(LeftOut(origin.policy_id, origin.label, why, entry))
        return found

    def leave_out(self, what: LeftOut) -> None:
        if len(self.left_out) < MAX_LEFT_OUT:
            self.left_out.append(what)

    def _below(
        self, document: JsonObject, wanted: Sequence[str], depth: int, visited: frozenset[str]
    ) -> dict[str, list[Sourced]]:
        """The imports of an import that its importer lists; what is listed and no import is skipped."""
        opened = frozenset(wanted) - visited
        if not opened or depth >= MAX_DEPTH:
            return {}
        return {
            name: self.visible(name, body, depth + 1, visited | opened)
            for name, body in imports_of(document).items()
            if name in opened
        }


def _fault(label: str, entry: JsonObject, listed: Sequence[str]) -> Why | None:
    """Why an importer does not get an entry, None where it does."""
    how = entry.get("importable", "implicit")
    if how == "implicit" or (how == "explicit" and label in listed):
        return None
    return Why.NOT_LISTED if how == "explicit" else Why.NEVER


def _own(
    policy_id: str, document: JsonObject, visible: Mapping[str, list[Sourced]]
) -> list[Sourced]:
    entries = members(document.get("entries"))
    found: list[Sourced] = []
    for label, given in entries.items():
        body, origin = members(given), Origin(How.OWN, policy_id, label)
        if "references" in body:
            body, origin = _merged(body, _referenced(policy_id, given, entries, visible), origin)
        found.append((label, body, origin))
    return found


def _referenced(
    own_id: str, body: Json, entries: JsonObject, visible: Mapping[str, list[Sourced]]
) -> list[Part]:
    """The entries that one refers to, in its order; what is not there or not to be had is skipped."""
    found: list[Part] = []
    for policy_id, label in references_of(body):
        if policy_id is None:
            mine = entries.get(label)
            is_other = mine is not None and mine is not body
            candidates = [Part(own_id, label, members(mine))] if is_other else []
        else:
            candidates = [
                Part(origin.policy_id, origin.label, entry, origin.parts)
                for name, entry, origin in visible.get(policy_id, ())
                if name == label
            ]
        found += [one for one in candidates if one.body.get("importable") != NO_REFERENCE]
    return found


def _merged(
    entry: JsonObject, referenced: Sequence[Part], origin: Origin
) -> tuple[JsonObject, Origin]:
    """An entry with what it refers to; its own additions only where all of these allow them."""
    bodies = [part.body for part in referenced]
    own = {name: value for name, value in entry.items() if name != "references"}
    allowed = _allowed(bodies)
    kept: JsonObject = {
        name: value for name, value in own.items() if name not in ADDITIONS or name in allowed
    }
    parts = [*bodies, kept]
    merged: JsonObject = {
        **kept,
        "subjects": _first_of_each(part.get("subjects") for part in parts),
        "resources": _united(part.get("resources") for part in reversed(parts)),
    }
    namespaces = list(
        dict.fromkeys(name for part in reversed(parts) for name in texts(part.get("namespaces")))
    )
    if namespaces:
        merged["namespaces"] = list[Json](namespaces)
    ignored = {name: value for name, value in own.items() if name not in kept}
    mine = Part(origin.policy_id, origin.label, kept)
    return merged, replace(origin, parts=(*referenced, mine), ignored=ignored or None)


def _allowed(referenced: Sequence[JsonObject]) -> frozenset[str]:
    """What may be added to all of these entries; one that says nothing allows everything."""
    allowed = frozenset(ADDITIONS)
    for entry in referenced:
        if isinstance(entry.get("allowedAdditions"), list):
            allowed &= frozenset(texts(entry["allowedAdditions"]))
    return allowed


def _first_of_each(parts: Iterable[Json]) -> JsonObject:
    """Subjects of all parts; of one id, the one that comes first counts, with its expiry."""
    joined: JsonObject = {}
    for part in parts:
        for subject, body in members(part).items():
            joined.setdefault(subject, body)
    return joined


def _united(parts: Iterable[Json]) -> JsonObject:
    """Resources of all parts; grants and revokes of one resource are joined."""
    joined: JsonObject = {}
    for part in parts:
        for key, body in members(part).items():
            before = members(joined.get(key))
            joined[key] = {
                name: list[Json](
                    dict.fromkeys((*texts(before.get(name)), *texts(members(body).get(name))))
                )
                for name in ("grant", "revoke")
            }
    return joined


def resolved_document(
    document: JsonObject,
    imported: Documents,
    roots: Mapping[str, JsonObject] | None = None,
    policy_id: str = "",
    is_seen: Callable[[str, str], bool] = lambda _source, _label: True,
) -> JsonObject:
    """The policy as it is evaluated, for the view `resolved`: all entries under their labels.

    Shape:  `is_seen` judges entries by a policy and their label there: those of others in the policy that
            brings them and where they were written, and whatever an entry takes by reference. An own entry
            that takes what is not seen stands as it was written.
    """
    entries: JsonObject = {}
    own = members(document.get("entries"))
    for label, body, origin in resolve(document, imported, roots, policy_id).entries:
        if all(is_seen(*place) for place in _places(label, origin)):
            entries.setdefault(label, body)
        elif origin.how is How.OWN:
            entries.setdefault(label, own[label])
    return {**document, "entries": entries}


def _places(label: str, origin: Origin) -> Iterator[tuple[str, str]]:
    """The policies and labels where what an entry says can be read, its own ones not."""
    if origin.how is not How.OWN:
        yield origin.source, _label_there(label, origin)
        yield origin.policy_id, origin.label
    itself = (origin.policy_id, origin.label)
    yield from (place for place in _taken_from(origin.parts) if place != itself)


def _taken_from(parts: Iterable[Part]) -> Iterator[tuple[str, str]]:
    for part in parts:
        yield part.policy_id, part.label
        yield from _taken_from(part.parts)


def _label_there(label: str, origin: Origin) -> str:
    """The label that an entry has in the policy that brings it."""
    prefix = root_label if origin.how is How.ROOT else imported_label
    return label.removeprefix(prefix(origin.source, ""))
