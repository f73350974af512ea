"""Who owns which field after a write: `managedFields` of creates, updates, patches and applies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import msgspec

from gateway.errors import BadRequest, Conflict
from gateway.kube.strategies import own_table, table
from gateway.model.json import JsonObject
from gateway.wire.kube import fields
from gateway.wire.kube.fieldsets import NOTHING, Paths, child_of, compare, describe_path, paths_of
from gateway.wire.kube.resources import ResourceType
from gateway.wire.kube.status import Cause
from gateway.wire.kube.tracked import blank_of, given_to, over_blank, reset_of
from gateway.wire.kube.validate import without_empty

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
UPGRADING_MANAGER = "kubectl"

Claims = tuple[fields.Claim, ...]


def claims_of_new(
    resource: ResourceType,
    sent: JsonObject,
    item: JsonObject,
    fresh: JsonObject,
    manager: fields.Manager,
    now: str,
) -> Claims:
    """Whoever creates an object owns what is in it, but for what the server gave it.

    Shape:  `sent` is what came, `item` the same after rules completed it, `fresh` what will be stored.
    """
    given = given_to(resource, sent, item)
    return _updated(resource, {}, fresh, (), manager, now, given)


def claims_of_next(
    resource: ResourceType,
    before: JsonObject,
    after: JsonObject,
    sent: JsonObject,
    manager: fields.Manager,
    now: str,
) -> Claims:
    """Whoever changes fields owns them; `sent` is the document as the client wrote it.

    An object whose ownership was reset is not followed until somebody applies to it.
    """
    claims = _held(before, sent, manager.subresource)
    if not claims:
        return ()
    return _updated(resource, before, after, claims, manager, now)


def _updated(
    resource: ResourceType,
    before: JsonObject,
    after: JsonObject,
    claims: Claims,
    manager: fields.Manager,
    now: str,
    given: Paths = NOTHING,
) -> Claims:
    try:
        return fields.after_update(
            resource.schema,
            fields.managed_part(before),
            fields.managed_part(after),
            claims,
            manager,
            now,
            reset=reset_of(resource, manager.subresource or None) | given,
            blank=blank_of(resource),
        )
    except BadRequest:
        return ()  # elements of a list that nothing names: whose they are cannot be said


def _held(before: JsonObject, sent: JsonObject, subresource: str) -> Claims:
    """Ownership as the client sends it back; an empty list resets it, none at all keeps it."""
    live = table(before, "metadata").get("managedFields")
    if subresource:
        return fields.read_claims(live)
    own = table(sent, "metadata").get("managedFields")
    if fields.is_reset(own):
        return ()
    return fields.read_claims(own) or fields.read_claims(live)


# --- apply ----------------------------------------------------------------------------------------


def applied(
    resource: ResourceType,
    before: JsonObject | None,
    config: JsonObject,
    *,
    now: str,
    manager: fields.Manager,
    force: bool,
) -> tuple[JsonObject, Claims]:
    """Lay an applied configuration over the live object; returns the merged document and who owns what.

    Errors: BadRequest when the configuration carries managedFields; Conflict naming each contested field.
    """
    if table(config, "metadata").get("managedFields") is not None:
        raise BadRequest("metadata.managedFields must be nil")
    live = fields.managed_part(before) if before is not None else {"metadata": {}}
    claims = _claims_before(resource, before, manager, now)
    wanted = fields.managed_part(config)
    result = _apply(resource, live, wanted, claims, manager, now, force=force)
    if result.conflicts:
        foreign = _not_from_client_side(resource, live, result.conflicts, manager)
        if foreign:
            raise apply_conflict(foreign)
        result = _apply(resource, live, wanted, claims, manager, now, force=True)
    base = table(before if before is not None else config, "metadata")
    merged = dict(result.document)
    server_kept = {key: value for key, value in base.items() if key not in _OWNED_METADATA}
    merged["metadata"] = server_kept | table(merged, "metadata")
    for key in ("apiVersion", "kind"):
        merged[key] = config.get(key)
    merged = _tidy(resource, merged)
    _note_last_applied(merged, config, manager)
    return merged, result.claims


def _tidy(resource: ResourceType, item: JsonObject) -> JsonObject:
    """The merged document as its type keeps it; of custom resources, the metadata."""
    if not resource.is_custom:
        return cast("JsonObject", without_empty(resource.schema, item))
    metadata = without_empty(child_of(resource.schema, "metadata"), item.get("metadata"))
    return {**item, "metadata": metadata}


_OWNED_METADATA = ("labels", "annotations", "finalizers", "ownerReferences", "managedFields")


def _apply(
    resource: ResourceType,
    live: JsonObject,
    wanted: JsonObject,
    claims: Claims,
    manager: fields.Manager,
    now: str,
    *,
    force: bool,
) -> fields.Applied:
    return fields.apply(
        resource.schema,
        live,
        wanted,
        claims,
        manager,
        now,
        force=force,
        reset=reset_of(resource, manager.subresource or None),
        blank=blank_of(resource),
    )


def _claims_before(
    resource: ResourceType, before: JsonObject | None, manager: fields.Manager, now: str
) -> Claims:
    """Ownership before an apply; what nobody was known to own belongs to an entry of its own."""
    if before is None:
        return ()
    claims = fields.read_claims(table(before, "metadata").get("managedFields"))
    if claims:
        return claims
    past = fields.Manager(
        fields.BEFORE_APPLY, "Update", resource.group_version, manager.subresource
    )
    return _updated(resource, {}, before, (), past, now)


def _not_from_client_side(
    resource: ResourceType,
    live: JsonObject,
    conflicts: Sequence[fields.FieldConflict],
    manager: fields.Manager,
) -> list[fields.FieldConflict]:
    """Conflicts that are more than kubectl's own earlier client-side apply of the same object."""
    text = table(table(live, "metadata"), "annotations").get(LAST_APPLIED)
    if manager.name != UPGRADING_MANAGER or not isinstance(text, str) or not text:
        return list(conflicts)
    owned = _applied_before(resource, live, text)
    return [item for item in conflicts if item.path not in owned]


def _applied_before(resource: ResourceType, live: JsonObject, text: str) -> Paths:
    """What the last client-side apply wrote and is still so."""
    try:
        last = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return frozenset()
    if not isinstance(last, dict) or last.get("apiVersion") != resource.group_version:
        return frozenset()
    part, blank = fields.managed_part(last), blank_of(resource)
    found = compare(resource.schema, over_blank(blank, part), over_blank(blank, live))
    return paths_of(resource.schema, part) - found.written - found.removed


def _note_last_applied(merged: JsonObject, config: JsonObject, manager: fields.Manager) -> None:
    """Keep the annotation of client-side applies true, for as long as it is there."""
    if manager.name != UPGRADING_MANAGER:
        return
    if not table(table(merged, "metadata"), "annotations").get(LAST_APPLIED):
        return
    plain = dict(config)
    notes = own_table(own_table(plain, "metadata"), "annotations")
    notes.pop(LAST_APPLIED, None)
    if not notes:
        del cast("JsonObject", plain["metadata"])["annotations"]
    text = msgspec.json.encode(plain, order="sorted").decode() + "\n"
    own_table(own_table(merged, "metadata"), "annotations")[LAST_APPLIED] = text


def apply_conflict(conflicts: Sequence[fields.FieldConflict]) -> Conflict:
    """409 as kubectl explains it: one cause per field."""
    rows = sorted(conflicts, key=lambda item: (_identity(item.manager), item.path))
    causes = [
        Cause(
            "FieldManagerConflict",
            f"conflict with {_conflict_text(item.manager)}",
            describe_path(item.path),
        ).as_json()
        for item in rows
    ]
    return Conflict(_conflict_message(rows), details={"causes": causes})


def _conflict_message(rows: Sequence[fields.FieldConflict]) -> str:
    if len(rows) == 1:
        who, where = _conflict_text(rows[0].manager), describe_path(rows[0].path)
        return f"Apply failed with 1 conflict: conflict with {who}: {where}"
    lines: list[str] = []
    last: fields.Manager | None = None
    for item in rows:
        if item.manager != last:
            lines.append(f"conflicts with {_conflict_text(item.manager)}:")
            last = item.manager
        lines.append(f"- {describe_path(item.path)}")
    return f"Apply failed with {len(rows)} conflicts: " + "\n".join(lines)


def _identity(manager: fields.Manager) -> tuple[str, ...]:
    return (manager.name, manager.operation, manager.api_version, manager.subresource)


def _conflict_text(manager: fields.Manager) -> str:
    """Whose field it is; of those who apply, the version says nothing."""
    sub = f' with subresource "{manager.subresource}"' if manager.subresource else ""
    using = f" using {manager.api_version}" if manager.operation == "Update" else ""
    return f'"{manager.name}"{sub}{using}'
