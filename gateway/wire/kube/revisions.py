"""ControllerRevisions: what a DaemonSet or StatefulSet wanted before, one for each template it had.

A revision holds a patch that brings its template back. Equal templates share a revision: a rollback gives
the old one the highest number. Source: Kubernetes API `apps/v1` ControllerRevision; "Perform a Rollback".
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.clock import parse_rfc3339
from gateway.wire.kube.parts import part, text, whole
from gateway.wire.kube.templates import safe_text

GROUP_VERSION, PLURAL, KIND = "apps/v1", "controllerrevisions", "ControllerRevision"
REVISION_LABEL = "controller-revision-hash"
"""On Pods: which revision made them. A StatefulSet writes the revision's name, a DaemonSet its hash."""
HISTORY_LIMIT = 10
MAX_PREFIX = 223
_FNV_BASIS, _FNV_PRIME = 2_166_136_261, 16_777_619
_ESCAPES = str.maketrans(
    {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
)


@dataclass(frozen=True, slots=True)
class History:
    """The revisions of an owner as its newest template sorts them.

    Shape:  `current` are those that hold that template, `old` the others, both in order of their numbers.
    """

    current: tuple[JsonObject, ...]
    old: tuple[JsonObject, ...]

    @property
    def next_number(self) -> int:
        """The number of the newest revision: above all others."""
        return max((number_of(revision) for revision in self.old), default=0) + 1


def history_of(owner: JsonObject, revisions: Iterable[JsonObject]) -> History:
    """Sort an owner's revisions."""
    wanted = revision_data(owner)
    ordered = in_order(revisions)
    current = [each for each in ordered if is_same_data(part(each, "data"), wanted)]
    old = [each for each in ordered if not is_same_data(part(each, "data"), wanted)]
    return History(tuple(current), tuple(old))


def in_order(revisions: Iterable[JsonObject]) -> list[JsonObject]:
    """Sort revisions by number; of equal ones the older, then the first by name."""
    return sorted(revisions, key=_rank)


def _rank(revision: JsonObject) -> tuple[int, float, str]:
    meta = part(revision, "metadata")
    created = parse_rfc3339(meta.get("creationTimestamp"))
    return number_of(revision), created or 0.0, text(meta.get("name"))


def number_of(revision: JsonObject) -> int:
    """Return which revision it is, counted from 1."""
    return whole(revision.get("revision"))


def revision_data(owner: JsonObject) -> JsonObject:
    """Return the patch that brings the owner's template back."""
    return {"spec": {"template": {**part(owner, "spec", "template"), "$patch": "replace"}}}


def is_same_data(one: JsonObject, other: JsonObject) -> bool:
    """True when two patches mean the same; an explicit null means nothing."""
    return one == other or _without_nulls(one) == _without_nulls(other)


def _without_nulls(value: Json) -> Json:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def restored(owner: JsonObject, revision: JsonObject) -> JsonObject:
    """Return the owner with the template of a revision; it shares its parts with both."""
    template = dict(part(revision, "data", "spec", "template"))
    template.pop("$patch", None)
    return {**owner, "spec": {**part(owner, "spec"), "template": template}}


def data_hash(data: JsonObject, collisions: int) -> str:
    """Return a short name of a patch; `collisions` gives it another one."""
    said = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return safe_text(str(_fnv32(said.translate(_ESCAPES).encode() + str(collisions).encode())))


def _fnv32(data: bytes) -> int:
    """Return the FNV-1 hash, 32 bits."""
    value = _FNV_BASIS
    for byte in data:
        value = value * _FNV_PRIME & 0xFFFF_FFFF ^ byte
    return value


def revision_name(owner: str, short: str) -> str:
    """Return the name of a revision of an owner."""
    return f"{owner[:MAX_PREFIX]}-{short}"


def new_revision(
    owner: JsonObject, reference: JsonObject, number: int, short: str, label: str
) -> JsonObject:
    """Return a revision of the owner's template.

    Shape:  `label` is the key under which it carries its hash.
    """
    meta = part(owner, "metadata")
    labels: dict[str, Json] = dict(part(owner, "spec", "template", "metadata", "labels"))
    metadata: JsonObject = {
        "name": revision_name(text(meta.get("name")), short),
        "namespace": meta.get("namespace"),
        "labels": {**labels, label: short},
        "ownerReferences": [reference],
    }
    if part(meta, "annotations"):
        metadata["annotations"] = dict(part(meta, "annotations"))
    return {
        "apiVersion": GROUP_VERSION,
        "kind": KIND,
        "metadata": metadata,
        "data": _sorted(revision_data(owner)),
        "revision": number,
    }


def _sorted(value: Json) -> Json:
    """Sort keys: servers compare what a revision holds byte by byte, and write it sorted when patched."""
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value


def history_limit(owner: JsonObject) -> int:
    """Return how many revisions that are not in use are kept."""
    return whole(part(owner, "spec").get("revisionHistoryLimit"), HISTORY_LIMIT)


def surplus(unused: Sequence[JsonObject], limit: int) -> list[JsonObject]:
    """Return the revisions to delete, of those that nobody uses, oldest first."""
    return list(unused[: max(len(unused) - limit, 0)]) if limit >= 0 else []


def unused(
    revisions: Iterable[JsonObject], live: Container[str], marks: str = "name"
) -> list[JsonObject]:
    """Return the revisions that are not `live`.

    Shape:  `live` has names, or values of the label `marks`.
    """
    return [each for each in revisions if _mark(each, marks) not in live]


def _mark(revision: JsonObject, marks: str) -> str:
    meta = part(revision, "metadata")
    held = meta if marks == "name" else part(meta, "labels")
    return text(held.get(marks))
