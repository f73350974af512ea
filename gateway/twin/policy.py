"""Policy rules: who may do what under a policy.

`Enforcer` is built once per policy revision; what a set of subjects may do is kept as a tree of resource
nodes per type, so a check is a walk along the path. Revoke wins over grant on the same node; a deeper node
wins over those above it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from gateway.model.json import Json, JsonObject, Pointer, parse_pointer
from gateway.model.policy import Permission
from gateway.twin.documents import MISSING, Maybe
from gateway.twin.policy_origins import How, LeftOut, Origin
from gateway.twin.policy_resolution import Documents, members, resolve, texts

MASKS: Final = {Permission.READ: 1, Permission.WRITE: 2, Permission.EXECUTE: 4}
READ, WRITE, EXECUTE = MASKS[Permission.READ], MASKS[Permission.WRITE], MASKS[Permission.EXECUTE]

_MAX_CACHED_CALLERS = 256
_FOREVER = "9999-12-31T23:59:59.000000Z"


@dataclass(slots=True)
class _Node:
    """A place in the tree of one resource type, with what lies below it summed up."""

    grant: int = 0
    revoke: int = 0
    granted_below: int = 0
    revoked_below: int = 0
    children: dict[str, _Node] = field(default_factory=dict)

    def sum_up(self) -> None:
        for child in self.children.values():
            child.sum_up()
            self.granted_below |= (child.grant & ~child.revoke) | child.granted_below
            self.revoked_below |= child.revoke | child.revoked_below


_NOTHING: Final = _Node()


@dataclass(frozen=True, slots=True)
class Permissions:
    """What one set of subjects may do under one policy.

    Shape:  `valid_until` is the first expiry among the subjects that count, ISO 8601.
    """

    trees: Mapping[str, _Node]
    valid_until: str = _FOREVER

    def unrestricted(self, kind: str, path: Pointer, mask: int) -> bool:
        """True when `mask` is granted at the path and revoked nowhere below it."""
        granted, node = self._walk(kind, path, mask)
        return granted and not (node is not None and node.revoked_below & mask)

    def partial(self, kind: str, path: Pointer, mask: int) -> bool:
        """True when `mask` is granted at the path or somewhere below it."""
        granted, node = self._walk(kind, path, mask)
        return granted or (node is not None and bool(node.granted_below & mask))

    def view(self, path: Pointer, value: Json, kind: str = "thing") -> Maybe:
        """The part of a value that may be read, MISSING for nothing; shares what is whole.

        Shape:  arrays are leaves; objects that filtering made empty vanish.
        """
        granted, node = self._walk(kind, path, READ)
        return _view(value, node, granted)

    def deciding(self, kind: str, path: Pointer, mask: int) -> tuple[bool, Pointer | None]:
        """Whether `mask` is granted at the path, and where that was said; None where nobody said anything."""
        for depth in range(len(path), -1, -1):
            granted, node = self._walk(kind, path[:depth], mask)
            if _speaks(node, mask):
                return granted, path[:depth]
        return False, None

    def turns(self, kind: str, path: Pointer, mask: int) -> Iterator[tuple[Pointer, bool]]:
        """The places below the path where the answer changes, with the answer from there on."""
        granted, node = self._walk(kind, path, mask)
        return iter(()) if node is None else _turns(node, path, mask, granted)

    def _walk(self, kind: str, path: Pointer, mask: int) -> tuple[bool, _Node | None]:
        """Whether the deepest say at or above the path grants, and the node there if the tree has one."""
        node: _Node | None = self.trees.get(kind, _NOTHING)
        granted = _said(node, mask, False)
        for segment in path:
            node = node.children.get(segment) if node is not None else None
            if node is None:
                return granted, None
            granted = _said(node, mask, granted)
        return granted, node


def _said(node: _Node | None, mask: int, above: bool) -> bool:
    if node is None:
        return above
    if node.revoke & mask:
        return False
    return True if node.grant & mask else above


def _speaks(node: _Node | None, mask: int) -> bool:
    """True when what is said here does not depend on what was said above."""
    return _said(node, mask, False) == _said(node, mask, True)


def _turns(node: _Node, path: Pointer, mask: int, granted: bool) -> Iterator[tuple[Pointer, bool]]:
    for segment, child in node.children.items():
        here = _said(child, mask, granted)
        if here != granted:
            yield (*path, segment), here
        yield from _turns(child, (*path, segment), mask, here)


def _view(value: Json, node: _Node | None, granted: bool) -> Maybe:
    if node is None or not node.children or not isinstance(value, dict):
        return value if granted else MISSING
    kept: JsonObject = {}
    whole = True
    for key, below in value.items():
        child = node.children.get(key)
        seen = _view(below, child, _said(child, READ, granted))
        if seen is not MISSING:
            kept[key] = seen
        whole = whole and seen is below
    if whole and granted:
        return value
    return kept or MISSING


NO_PERMISSIONS: Final = Permissions({})
EVERYTHING: Final = Permissions(
    {kind: _Node(grant=READ | WRITE | EXECUTE) for kind in ("thing", "policy", "message")}
)
"""What an operator may do who asks past all policies."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry as it is evaluated: subject id to expiry (None: permanent), node masks per type and path.

    Shape:  `origin` None for an own entry without references.
    """

    label: str
    subjects: Mapping[str, str | None]
    resources: tuple[tuple[str, Pointer, int, int], ...]
    namespaces: tuple[str, ...] = ()
    origin: Origin | None = None

    def covers(self, namespace: str) -> bool:
        """True when the entry counts for things and policies of this namespace; no pattern takes all."""
        if not self.namespaces:
            return True
        return any(namespace_matches(pattern, namespace) for pattern in self.namespaces)

    def live(self, subjects: Iterable[str], now: str) -> dict[str, str | None]:
        """Those of the subjects that the entry names and whose time is not over, with their expiry."""
        named = {name: self.subjects[name] for name in subjects if name in self.subjects}
        return {name: end for name, end in named.items() if end is None or end > now}


def namespace_matches(pattern: str, namespace: str) -> bool:
    """True for the namespace itself, one below `<prefix>.*`, and any for `*`."""
    if pattern.endswith(".*"):
        return namespace.startswith(pattern[:-1])
    return pattern in ("*", namespace)


class Enforcer:
    """Answers for one policy revision, with what it imports resolved; keeps what it worked out."""

    def __init__(self, entries: Sequence[Entry], left_out: Sequence[LeftOut] = ()) -> None:
        self.entries = tuple(entries)
        self.left_out = tuple(left_out)
        self._known: dict[tuple[tuple[str, ...], str], Permissions] = {}

    def permissions(self, subjects: tuple[str, ...], namespace: str, now: str) -> Permissions:
        """What these subjects may do; `now` is an ISO 8601 instant in UTC."""
        key = (subjects, namespace)
        known = self._known.get(key)
        if known is not None and now < known.valid_until:
            return known
        if len(self._known) >= _MAX_CACHED_CALLERS:
            self._known.clear()
        made = self._known[key] = _permissions(self._of(subjects, namespace, now), now)
        return made

    def _of(
        self, subjects: tuple[str, ...], namespace: str, now: str
    ) -> Iterator[tuple[Entry, list[str | None]]]:
        for entry in self.entries:
            if not entry.covers(namespace):
                continue
            live = entry.live(subjects, now)
            if live:
                yield entry, list(live.values())

    def has_permanent_writer(self, namespace: str = "") -> bool:
        """True when some subject without expiry holds WRITE on `policy:/`, not revoked below.

        Shape:  `namespace` is the policy's own.
        """
        counting = [entry for entry in self.entries if entry.covers(namespace)]
        permanent = {
            subject
            for entry in counting
            for subject, expiry in entry.subjects.items()
            if expiry is None
        }
        return any(_writes(counting, subject) for subject in permanent)


def _writes(entries: Sequence[Entry], subject: str) -> bool:
    mine: list[tuple[Entry, list[str | None]]] = [
        (entry, []) for entry in entries if subject in entry.subjects
    ]
    return _permissions(mine, "").unrestricted("policy", (), WRITE)


def _permissions(entries: Iterable[tuple[Entry, list[str | None]]], now: str) -> Permissions:
    trees: dict[str, _Node] = {}
    valid_until = _FOREVER
    for entry, expiries in entries:
        valid_until = min(
            [valid_until, *(expiry for expiry in expiries if expiry and expiry > now)]
        )
        for kind, path, grant, revoke in entry.resources:
            node = trees.setdefault(kind, _Node())
            for segment in path:
                node = node.children.setdefault(segment, _Node())
            node.grant |= grant
            node.revoke |= revoke
    for tree in trees.values():
        tree.sum_up()
    return Permissions(trees, valid_until)


# --- from documents ----------------------------------------------------------------------------


def read_entry(label: str, body: JsonObject, origin: Origin | None = None) -> Entry:
    """One resolved entry of a checked document, ready to be evaluated."""
    return Entry(
        label,
        {name: _expiry(subject) for name, subject in members(body.get("subjects")).items()},
        tuple(
            _resource(key, members(value)) for key, value in members(body.get("resources")).items()
        ),
        texts(body.get("namespaces")),
        origin,
    )


def _expiry(subject: Json) -> str | None:
    expiry = members(subject).get("expiry")
    return comparable(str(expiry)) if expiry is not None else None


def comparable(instant: str) -> str:
    """An instant in the form of clocks, six digits of a second, so that texts order as instants do."""
    return instant if "." in instant else f"{instant.removesuffix('Z')}.000000Z"


def _resource(key: str, value: JsonObject) -> tuple[str, Pointer, int, int]:
    kind, _, path = key.partition(":")
    return kind, parse_pointer(path), _mask(value.get("grant")), _mask(value.get("revoke"))


def _mask(names: Json) -> int:
    mask = 0
    for name in texts(names):
        mask |= MASKS[Permission(name)]
    return mask


def build_enforcer(
    document: JsonObject,
    imported: Documents,
    roots: Mapping[str, JsonObject] | None = None,
    policy_id: str = "",
) -> Enforcer:
    """The enforcer of a policy with what it imports and refers to; an absent import is skipped.

    Shape:  `roots` are the operator's root policies for the policy's namespace, id to document.
    """
    found = resolve(document, imported, roots, policy_id)
    return Enforcer(
        [
            read_entry(label, body, None if _is_plain(origin) else origin)
            for label, body, origin in found.entries
        ],
        found.left_out,
    )


def _is_plain(origin: Origin) -> bool:
    """True where label and policy say it all."""
    return origin.how is How.OWN and not origin.parts
