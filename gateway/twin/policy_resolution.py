"""What a policy says once its references, imports and the operator's root policies are worked in.

Order: each import is loaded; those of its own imports that `transitiveImports` names are resolved first;
its entries take what they refer to; `importable` selects; only then the policy's own entries take what
they refer to. References are followed one step: what is taken is the entry as it was written, or, of an
import, as the importer sees it. Source: Ditto, policy imports, entry references, namespace root policies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from gateway.model.json import Json, JsonObject

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
    """All entries that count under a policy, own ones first; none of them refers to another any more.

    Shape:  `roots` root policy id to document; an entry of a root gives way to an own one of its label.
            A label can occur twice when imports of imports have it.
    """
    walk = _Walk(imported)
    visible = {
        name: walk.visible(name, body, 0, frozenset((policy_id,)))
        for name, body in imports_of(document).items()
    }
    found = _own(document, visible)
    for name, entries in visible.items():
        found += [(imported_label(name, label), body) for label, body in entries]
    own = members(document.get("entries"))
    for name, root in (roots or {}).items():
        if name != policy_id:
            found += [
                (root_label(name, label), body)
                for label, body in _own(root, {})
                if label not in own and _is_selected(label, body, ())
            ]
    return found


@dataclass(slots=True)
class _Walk:
    """One walk through imports of imports; remembers how many there were."""

    imported: Documents
    left: int = MAX_RESOLVED

    def visible(
        self, policy_id: str, body: JsonObject, depth: int, visited: frozenset[str]
    ) -> list[Labelled]:
        """What an import brings, under the labels that the imported policy gives."""
        if self.left <= 0:
            return []
        self.left -= 1
        document = self.imported.get(policy_id)
        if document is None:
            return []
        below = self._below(document, texts(body.get("transitiveImports")), depth, visited)
        entries = _own(document, below)
        for brought in below.values():
            entries += brought
        listed = texts(body.get("entries"))
        return [(label, entry) for label, entry in entries if _is_selected(label, entry, listed)]

    def _below(
        self, document: JsonObject, wanted: Sequence[str], depth: int, visited: frozenset[str]
    ) -> dict[str, list[Labelled]]:
        """The imports of an import that its importer lists; what is listed and no import is skipped."""
        opened = frozenset(wanted) - visited
        if not opened or depth >= MAX_DEPTH:
            return {}
        return {
            name: self.visible(name, body, depth + 1, visited | opened)
            for name, body in imports_of(document).items()
            if name in opened
        }


def _is_selected(label: str, entry: JsonObject, listed: Sequence[str]) -> bool:
    how = entry.get("importable", "implicit")
    return how == "implicit" or (how == "explicit" and label in listed)


def _own(document: JsonObject, visible: Mapping[str, list[Labelled]]) -> list[Labelled]:
    entries = members(document.get("entries"))
    return [
        (label, _merged(members(body), _referenced(body, entries, visible)))
        for label, body in entries.items()
    ]


def _referenced(
    body: Json, entries: JsonObject, visible: Mapping[str, list[Labelled]]
) -> list[JsonObject]:
    """The entries that one refers to, in its order; what is not there or not to be had is skipped."""
    found: list[JsonObject] = []
    for policy_id, label in references_of(body):
        if policy_id is None:
            mine = entries.get(label)
            candidates = [members(mine)] if mine is not None and mine is not body else []
        else:
            candidates = [entry for name, entry in visible.get(policy_id, ()) if name == label]
        found += [one for one in candidates if one.get("importable") != NO_REFERENCE]
    return found


def _merged(entry: JsonObject, referenced: Sequence[JsonObject]) -> JsonObject:
    """An entry with what it refers to; its own additions only where all of these allow them."""
    if "references" not in entry:
        return entry
    own = {name: value for name, value in entry.items() if name != "references"}
    allowed = _allowed(referenced)
    kept: JsonObject = {
        name: value for name, value in own.items() if name not in ADDITIONS or name in allowed
    }
    parts = [*referenced, kept]
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
    return merged


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
) -> JsonObject:
    """The policy as it is evaluated, for the view `resolved`: all entries under their labels."""
    entries: JsonObject = {}
    for label, body in resolved_entries(document, imported, roots, policy_id):
        entries.setdefault(label, body)
    return {**document, "entries": entries}
