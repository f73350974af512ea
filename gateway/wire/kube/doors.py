"""What a write may change of an object, by the door through which it comes: the whole, or a subresource.

A door takes from the object that was sent what it is for, and everything else from the one that is stored.
Subresources that show another kind (`scale`) are not here. Source: Kubernetes API reference, per subresource.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.names import invalid_value, quoted, required
from gateway.wire.kube.parts import part, rows
from gateway.wire.kube.podaddresses import pod_status_faults, with_agreeing_addresses
from gateway.wire.kube.pods import qos_class
from gateway.wire.kube.resources import ResourceType
from gateway.wire.kube.status import Cause

Take = Callable[[JsonObject, JsonObject], JsonObject]
"""From the stored object and the one that was sent to the next one; changes neither."""
Judge = Callable[[JsonObject, JsonObject], list[Cause]]
"""What is wrong with a change through a door: of the stored object to the next one."""

EPHEMERAL, RESIZE, APPROVAL, FINALIZE, STATUS = (
    "ephemeralcontainers",
    "resize",
    "approval",
    "finalize",
    "status",
)


def taken(
    resource: ResourceType, before: JsonObject, item: JsonObject, door: str | None
) -> JsonObject:
    """What a write through `door` (None: the object itself) leads to."""
    if door is None or door == "scale":
        return _with(item, "status", before) if resource.has_status else item
    if resource.is_custom:
        return _with(before, "status", item)
    return _TAKES.get((resource.storage_key, door), _TAKES_OF.get(door, _nothing))(before, item)


def door_faults(
    resource: ResourceType, door: str | None, before: JsonObject, after: JsonObject
) -> list[Cause]:
    """What a door itself refuses."""
    judge = _JUDGES.get((resource.storage_key, door or ""))
    return judge(before, after) if judge else []


def changes_spec(door: str | None) -> bool:
    """True for doors that let the spec of a Pod change where it is fixed otherwise."""
    return door in (EPHEMERAL, RESIZE)


def without_ephemeral(item: JsonObject) -> JsonObject:
    """A Pod as it would be without containers for debugging: they have rules of their own."""
    spec = {key: value for key, value in part(item, "spec").items() if key != _EPHEMERAL_KEY}
    return {**item, "spec": spec}


_EPHEMERAL_KEY = "ephemeralContainers"


# --- taking ---------------------------------------------------------------------------------------


def _with(item: JsonObject, key: str, source: JsonObject) -> JsonObject:
    """The item with one member as the source has it."""
    rest = {name: value for name, value in item.items() if name != key}
    return rest | ({key: source[key]} if key in source else {})


def _nothing(before: JsonObject, _item: JsonObject) -> JsonObject:
    return before


def _status(before: JsonObject, item: JsonObject) -> JsonObject:
    return {**_with(before, "status", item), "metadata": item.get("metadata", {})}


def _status_alone(before: JsonObject, item: JsonObject) -> JsonObject:
    return _with(before, "status", item)


def _pod_status(before: JsonObject, item: JsonObject) -> JsonObject:
    """Owners stay: agents of old lost them; the class of service is settled at the start."""
    metadata = _with(part(item, "metadata"), "ownerReferences", part(before, "metadata"))
    status = part(item, "status")
    quality = status.get("qosClass") or part(before, "status").get("qosClass")
    status = {**status, **({"qosClass": quality} if quality else {})}
    return {**before, "metadata": metadata, "status": with_agreeing_addresses(status)}


def _deployment_status(before: JsonObject, item: JsonObject) -> JsonObject:
    metadata = _with(part(item, "metadata"), "labels", part(before, "metadata"))
    return {**_status(before, item), "metadata": metadata}


def _ephemeral(before: JsonObject, item: JsonObject) -> JsonObject:
    return {
        **before,
        "spec": _with(part(before, "spec"), "ephemeralContainers", part(item, "spec")),
    }


def _resized(before: JsonObject, item: JsonObject) -> JsonObject:
    """Resources of the containers; other containers than there are go on to be refused."""
    old, new = part(before, "spec"), part(item, "spec")
    spec = dict(old)
    for key in ("containers", "initContainers"):
        held, wanted = rows(old.get(key)), rows(new.get(key))
        if [row.get("name") for row in held] != [row.get("name") for row in wanted]:
            return {**before, "spec": {**spec, key: new.get(key) or []}}
        if held:
            spec[key] = [_row_resized(row, sent) for row, sent in zip(held, wanted, strict=True)]
    return {**before, "spec": _with(spec, "resources", new)}


def _row_resized(row: JsonObject, sent: JsonObject) -> JsonObject:
    return _with(_with(row, "resources", sent), "resizePolicy", sent)


def _finalized(before: JsonObject, item: JsonObject) -> JsonObject:
    return {**before, "metadata": item.get("metadata", {}), "spec": item.get("spec", {})}


def _approved(before: JsonObject, item: JsonObject) -> JsonObject:
    status = _with(part(before, "status"), "conditions", part(item, "status"))
    return {**before, "metadata": item.get("metadata", {}), "status": status}


_VERDICTS = ("Approved", "Denied")


def _request_status(before: JsonObject, item: JsonObject) -> JsonObject:
    """All of the status but what approves or denies: that has a door of its own."""
    held = {row.get("type"): row for row in rows(part(before, "status").get("conditions"))}
    kept: list[Json] = [
        row
        for row in rows(part(item, "status").get("conditions"))
        if row.get("type") not in _VERDICTS
    ]
    verdicts: list[Json] = [held[kind] for kind in _VERDICTS if kind in held]
    conditions = verdicts + kept
    status = {
        **part(item, "status"),
        **({"conditions": conditions} if conditions else {}),
    }
    return {**_status(before, item), "status": status}


_REQUESTS = "certificatesigningrequests.certificates.k8s.io"

_TAKES_OF: Mapping[str, Take] = {STATUS: _status, FINALIZE: _finalized}
_TAKES: Mapping[tuple[str, str], Take] = {
    ("pods", STATUS): _pod_status,
    ("pods", EPHEMERAL): _ephemeral,
    ("pods", RESIZE): _resized,
    ("deployments.apps", STATUS): _deployment_status,
    ("customresourcedefinitions.apiextensions.k8s.io", STATUS): _status_alone,
    (_REQUESTS, STATUS): _request_status,
    (_REQUESTS, APPROVAL): _approved,
}


# --- judging --------------------------------------------------------------------------------------


def _ephemeral_faults(before: JsonObject, after: JsonObject) -> list[Cause]:
    """A debugging container says what it runs, and stays as it is once it was added."""
    found = [*_new_faults(part(after, "spec"))]
    kept = {row.get("name"): row for row in rows(part(after, "spec").get("ephemeralContainers"))}
    for row in rows(part(before, "spec").get("ephemeralContainers")):
        name = quoted(row.get("name"))
        if row.get("name") not in kept:
            why = f"existing ephemeral containers {name} may not be removed\n"
        elif kept[row.get("name")] != row:
            why = f"existing ephemeral containers {name} may not be changed\n"
        else:
            continue
        found.append(_forbidden("spec.ephemeralContainers", why))
    return found


def _new_faults(spec: JsonObject) -> Iterator[Cause]:
    seen = {row.get("name") for key in _OTHERS for row in rows(spec.get(key))}
    for at, row in enumerate(rows(spec.get(_EPHEMERAL_KEY))):
        path, name = f"spec.{_EPHEMERAL_KEY}[{at}]", row.get("name")
        if not name:
            yield required(f"{path}.name")
        elif name in seen:
            yield Cause("FieldValueDuplicate", f"Duplicate value: {quoted(name)}", f"{path}.name")
        seen.add(name)
        if not row.get("image"):
            yield required(f"{path}.image")


_OTHERS = ("containers", "initContainers")


def _resize_faults(before: JsonObject, after: JsonObject) -> list[Cause]:
    old, new = part(before, "spec"), part(after, "spec")
    found: list[Cause] = []
    if qos_class(old) != qos_class(new):
        quality = part(after, "status").get("qosClass")
        why = "Pod QOS Class may not change as a result of resizing"
        found.append(invalid_value("spec", quality, why))
    order = [
        fault
        for key in ("containers", "initContainers")
        for fault in _order_faults(key, rows(old.get(key)), rows(new.get(key)))
    ]
    if order:
        return found + order
    for key in ("initContainers", "containers"):
        pairs = zip(rows(old.get(key)), rows(new.get(key)), strict=True)
        for at, (row, sent) in enumerate(pairs):
            found += _amount_faults(f"spec.{key}[{at}].resources", row, sent)
    return found


def _order_faults(key: str, held: list[JsonObject], wanted: list[JsonObject]) -> list[Cause]:
    if len(held) != len(wanted):
        return [_forbidden(f"spec.{key}", f"{key} may not be added or removed on resize")]
    why = f"{key} may not be renamed or reordered on resize"
    return [
        _forbidden(f"spec.{key}[{at}].name", why)
        for at, (row, sent) in enumerate(zip(held, wanted, strict=True))
        if row.get("name") != sent.get("name")
    ]


_RESIZABLE = ("cpu", "memory")


def _amount_faults(path: str, row: JsonObject, sent: JsonObject) -> list[Cause]:
    found = []
    is_fixed_kept = True
    for kind in ("requests", "limits"):
        held, wanted = part(row, "resources", kind), part(sent, "resources", kind)
        if held.keys() - wanted.keys():
            found.append(_forbidden(f"{path}.{kind}", f"resource {kind} cannot be removed"))
        is_fixed_kept &= _fixed(held) == _fixed(wanted)
    if not is_fixed_kept:
        found.append(_forbidden("spec", "only cpu and memory resources are mutable"))
    return found


def _fixed(amounts: JsonObject) -> JsonObject:
    return {key: value for key, value in amounts.items() if key not in _RESIZABLE}


_JUDGES: Mapping[tuple[str, str], Judge] = {
    ("pods", STATUS): pod_status_faults,
    ("pods", EPHEMERAL): _ephemeral_faults,
    ("pods", RESIZE): _resize_faults,
}


def _forbidden(path: str, why: str) -> Cause:
    return Cause("FieldValueForbidden", f"Forbidden: {why}", path)
