"""What of a Pod's status goes to the API: strategic merge patches. Pure.

What others write into a Pod's status is left alone. Lists of containers go whole, conditions and addresses by
their merge keys. Source: Kubernetes, strategic merge patch of core/v1 PodStatus; KubeEdge reference, 9.2.
"""

from __future__ import annotations

import msgspec

from edge.pods.podconditions import DISRUPTION, OWN
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.parts import part, rows, text

_LISTS = ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses")
_ADDRESSES = ("hostIPs", "podIPs")
_PLAIN = ("phase", "reason", "message", "hostIP", "podIP", "startTime", "qosClass",
          "observedGeneration", "allocatedResources", *_LISTS)  # fmt: skip
_MINE = OWN | {DISRUPTION}


def own_part(status: JsonObject) -> JsonObject:
    """Return what the node answers for: its fields, its conditions."""
    kept = {key: status[key] for key in (*_PLAIN, *_ADDRESSES) if key in status}
    mine = [row for row in rows(status.get("conditions")) if text(row.get("type")) in _MINE]
    return kept | ({"conditions": [*mine]} if mine else {})


def patch_text(uid: str, status: JsonObject, accepted: JsonObject | None, shown: JsonObject) -> str:
    """Return the patch that brings the API's Pod to `status`, empty when it is there.

    Shape:  `accepted` is what the API took last, None when that is not known: then all goes, and what
            `shown` (the API's Pod as it came last) has and `status` has not is removed.
    """
    wanted = own_part(status)
    base = own_part(shown if accepted is None else accepted)
    if accepted is not None and base == wanted:
        return ""
    is_whole = accepted is None
    fields: JsonObject = {
        key: wanted.get(key)
        for key in _PLAIN
        if (key in wanted and (is_whole or wanted[key] != base.get(key)))
        or (key in base and key not in wanted)
    }
    for key in _ADDRESSES:
        if key in wanted and (is_whole or wanted[key] != base.get(key)):
            fields[key] = _addresses(rows(wanted[key]), rows(base.get(key)), is_whole=is_whole)
        elif key in base and key not in wanted:
            fields[key] = None
    if is_whole or wanted.get("conditions") != base.get("conditions"):
        fields["conditions"] = _conditions(wanted, base)
    return msgspec.json.encode({"metadata": {"uid": uid}, "status": fields}).decode()


def _addresses(wanted: list[JsonObject], base: list[JsonObject], *, is_whole: bool) -> Json:
    """Addresses merge by `ip`: those that went have to be taken out."""
    is_more = not is_whole and all(row in wanted for row in base)
    return [*wanted] if is_more else [{"$patch": "replace"}, *wanted]


def _conditions(wanted: JsonObject, base: JsonObject) -> list[Json]:
    """Conditions merge by `type`, field by field: what a condition no longer has is taken out by null."""
    mine = rows(wanted.get("conditions"))
    before = {row.get("type"): row for row in rows(base.get("conditions"))}
    gone = [kind for kind in before if kind not in {row.get("type") for row in mine}]
    kept: list[Json] = [{**dict.fromkeys(before.get(row.get("type"), {})), **row} for row in mine]
    return [*kept, *({"$patch": "delete", "type": kind} for kind in gone)]


def is_another_s(shown: JsonObject, accepted: JsonObject) -> bool:
    """True when somebody else has changed what this node had told."""
    return _gist(shown) != _gist(accepted)


def _gist(status: JsonObject) -> object:
    found = [row for key in _LISTS for row in rows(status.get(key))]
    ready = [
        (row.get("type"), row.get("status"))
        for row in rows(status.get("conditions"))
        if text(row.get("type")) in OWN
    ]
    return (
        status.get("phase"),
        sorted(ready, key=str),
        [
            (row.get("name"), row.get("ready"), row.get("restartCount"), *part(row, "state"))
            for row in found
        ],
    )


def version_of(pod: JsonObject) -> int:
    """Return the resourceVersion of a Pod as a number, 0 where it is none."""
    version = text(part(pod, "metadata").get("resourceVersion"))
    return int(version) if version.isascii() and version.isdigit() and len(version) < 20 else 0
