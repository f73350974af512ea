"""What every verb checks and how documents are read for it; used by `gateway.kube.objects`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from secrets import choice
from typing import cast

import msgspec

from gateway.errors import BadRequest, UnsupportedMediaType
from gateway.kube.client import PatchType
from gateway.kube.strategies import own_table, strategy_of, table
from gateway.kube.watch import Key, Stored
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.clock import rfc3339
from gateway.wire.kube.names import required
from gateway.wire.kube.patches import apply_json_patch, apply_merge_patch
from gateway.wire.kube.resources import ResourceType
from gateway.wire.kube.schema import Schema
from gateway.wire.kube.status import conflict, invalid, not_allowed, not_served
from gateway.wire.kube.strategic import apply_strategic
from gateway.wire.kube.validate import defaulted

SUFFIX_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
SUFFIX_LENGTH = 5
MAX_GENERATED_BASE = 58
"""With the suffix a generated name is a label, and may be a host name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteOptions:
    """How an object is to go."""

    uid: str | None = None
    resource_version: str | None = None
    policy: str | None = None
    dry_run: bool = False
    grace_seconds: int | None = None
    """Seconds that the deletion may take, None for the kind's own; for kinds that end gracefully."""


def allow(resource: ResourceType, verb: str, subresource: str | None = None) -> None:
    """Refuse a verb that a kind or subresource does not have. Errors: MethodNotAllowed; NotFound."""
    if subresource is not None:
        sub = resource.subresource(subresource)
        if sub is None:
            raise not_served()
        verbs = sub.verbs
    else:
        verbs = resource.verbs
    if verb not in verbs:
        raise not_allowed()


def metadata_namespace(resource: ResourceType, metadata: JsonObject, namespace: str | None) -> None:
    """Settle the namespace of a document. Errors: BadRequest when it is not the one of the request."""
    if not resource.namespaced:
        metadata.pop("namespace", None)
        return
    own = metadata.get("namespace")
    if own and own != namespace:
        raise BadRequest(
            "the namespace of the provided object does not match the namespace sent on the request"
        )
    metadata["namespace"] = namespace


def named(resource: ResourceType, namespace: str | None, item: JsonObject) -> JsonObject:
    """Return a new document with its name and namespace settled.

    Errors: BadRequest for another namespace; Unprocessable without a name or the beginning of one.
    """
    done = dict(item)
    metadata = own_table(done, "metadata")
    metadata_namespace(resource, metadata, namespace)
    base = metadata.get("generateName")
    if not metadata.get("name") and isinstance(base, str) and base:
        suffix = "".join(choice(SUFFIX_ALPHABET) for _ in range(SUFFIX_LENGTH))
        metadata["name"] = base[:MAX_GENERATED_BASE] + suffix
    if not metadata.get("name"):
        cause = required("metadata.name", "name or generateName is required")
        raise invalid(resource.kind, resource.group, "", [cause])
    return done


def check_name(item: JsonObject, name: str) -> None:
    """Refuse a document of another name than the request's. Errors: BadRequest."""
    own = table(item, "metadata").get("name")
    if not own:
        raise BadRequest(
            f"the name of the object ({name} based on URL) was undeterminable: name must be provided"
        )
    if own != name:
        raise BadRequest(
            f"the name of the object ({own}) does not match the name on the URL ({name})"
        )


def check_preconditions(resource: ResourceType, before: Stored, how: DeleteOptions) -> None:
    """Refuse a deletion of another state than the client means. Errors: Conflict."""
    metadata = table(before.object, "metadata")
    checks = (
        ("UID", how.uid, metadata.get("uid"), "deleted and then recreated"),
        ("ResourceVersion", how.resource_version, metadata.get("resourceVersion"), "modified"),
    )
    is_namespace = resource.storage_key == "namespaces"
    word_of_kind = resource.plural if is_namespace else resource.kind
    for word, wanted, found, what in checks:
        if not wanted or wanted == found:
            continue
        why = (
            f"the {word} in the precondition ({wanted}) does not match the {word} in record"
            f" ({found}). The object might have been {what}"
        )
        if is_namespace:
            why = (
                f"Precondition failed: {word} in precondition: {wanted},"
                f" {word} in object meta: {found}"
            )
        raise conflict(word_of_kind, resource.group, before.key.name, why)


def patcher(
    resource: ResourceType, patch_type: PatchType, schema: Schema
) -> Callable[[JsonObject, Json], JsonObject]:
    """The way to apply a kind of patch to documents of a type.

    Errors: UnsupportedMediaType where a kind does not take it.
    """
    if patch_type is PatchType.JSON:
        return apply_json_patch
    if patch_type is PatchType.MERGE:
        return apply_merge_patch
    if resource.is_custom:
        known = (PatchType.JSON, PatchType.MERGE, PatchType.APPLY)
        raise UnsupportedMediaType(
            "the body of the request was in an unknown format - accepted media types include:"
            f" {', '.join(known)}"
        )
    return lambda document, patch: apply_strategic(schema, document, patch)


def is_finished(item: JsonObject) -> bool:
    """True when an object is marked as deleted and nothing holds it back any more."""
    metadata = table(item, "metadata")
    if not metadata.get("deletionTimestamp") or metadata.get("finalizers"):
        return False
    if metadata.get("deletionGracePeriodSeconds"):
        return False  # whoever runs it says when it has ended, with a grace of 0
    return item.get("kind") != "Namespace" or not table(item, "spec").get("finalizers")


def unstored(key: Key, item: JsonObject) -> Stored:
    """A state that is shown and not kept (dry run)."""
    return Stored(key, 0, item, msgspec.json.encode(item))


def as_version(resource: ResourceType, stored: Stored) -> Stored:
    """The object as this version of its kind shows it (most versions differ in their name only)."""
    if resource.view is not None:
        shown = resource.view.shown(stored.object)
        return Stored(stored.key, stored.version, shown, msgspec.json.encode(shown))
    if not resource.is_custom:
        return stored  # a built-in kind without a view is stored as it is shown
    held = stored.object
    is_named = held.get("apiVersion") == resource.group_version
    if is_named and not resource.schema.fills:
        return stored
    item = cast("JsonObject", defaulted(resource.schema, held))  # defaults may be younger than it
    if is_named and item == held:
        return stored
    item = {**item, "apiVersion": resource.group_version}
    return Stored(stored.key, stored.version, item, msgspec.json.encode(item))


ORPHAN, FOREGROUND = "orphan", "foregroundDeletion"
_POLICY_FINALIZERS = {"Orphan": ORPHAN, "Foreground": FOREGROUND}


def deletion_marked(
    resource: ResourceType, item: JsonObject, how: DeleteOptions, now: float
) -> JsonObject:
    """The object with its mark of deletion and the finalizers that the policy asks for."""
    marked = dict(item)
    metadata = own_table(marked, "metadata")
    finalizers = [
        each
        for each in cast("list[Json]", metadata.get("finalizers") or [])
        if how.policy is None or each not in _POLICY_FINALIZERS.values()
    ]
    wanted = _POLICY_FINALIZERS.get(how.policy or "")
    if wanted:
        finalizers.append(wanted)
    metadata["finalizers"] = finalizers
    if not finalizers:
        del metadata["finalizers"]
    grace = strategy_of(resource.storage_key).grace(item, how.grace_seconds)
    is_new = _shorten(metadata, grace, how.grace_seconds, now)
    if is_new and resource.counts_generation:
        generation = metadata.get("generation")
        metadata["generation"] = (generation if isinstance(generation, int) else 0) + 1
    if resource.storage_key == "namespaces":
        own_table(marked, "status")["phase"] = "Terminating"
        metadata.pop("deletionGracePeriodSeconds", None)
    return marked


def _shorten(metadata: JsonObject, grace: int, asked: int | None, now: float) -> bool:
    """Say until when the object may take to end; later words only shorten it. True when it is new."""
    is_new = not metadata.get("deletionTimestamp")
    held = metadata.get("deletionGracePeriodSeconds")
    if not is_new and (asked is None or not isinstance(held, int) or grace >= held):
        return False
    metadata["deletionTimestamp"] = rfc3339(now + grace)
    metadata["deletionGracePeriodSeconds"] = grace
    return is_new
