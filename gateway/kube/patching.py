"""From a patched document to an object: what a patch may leave behind, and what is said when it may not."""

from __future__ import annotations

import msgspec

from gateway.errors import BadRequest, Unprocessable
from gateway.kube import admission
from gateway.kube.admission import Remarks, WriteOptions
from gateway.kube.checks import check_name
from gateway.kube.client import PatchType
from gateway.kube.strategies import table
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.names import invalid_value
from gateway.wire.kube.resources import ResourceType
from gateway.wire.kube.status import invalid

MAX_SHOWN = 4_096
"""Characters of a document that are shown with what is wrong with it."""


def decoded_patch(
    resource: ResourceType,
    kind: PatchType,
    patch: Json,
    document: JsonObject,
    options: WriteOptions,
    remarks: Remarks,
) -> JsonObject:
    """Read a patched document. Errors: Unprocessable, showing what the patch has led to."""
    try:
        return admission.decoded(resource, document, options, remarks, is_patch=True)
    except Unprocessable:
        raise
    except BadRequest as error:
        is_strategic = kind is PatchType.STRATEGIC
        text = go_text(patch) if is_strategic else msgspec.json.encode(document).decode()
        cause = invalid_value("patch", text[:MAX_SHOWN], str(error))
        raise invalid("", "", "", [cause]) from error


def go_text(value: Json) -> str:
    """A value as Go prints it."""
    if isinstance(value, dict):
        return f"map[{' '.join(f'{key}:{go_text(value[key])}' for key in sorted(value))}]"
    if isinstance(value, list):
        return f"[{' '.join(go_text(item) for item in value)}]"
    if value is None:
        return "<nil>"
    return str(value).lower() if isinstance(value, bool) else str(value)


def check_patched(resource: ResourceType, before: JsonObject, patched: JsonObject) -> None:
    """Refuse a patch that makes another object of it. Errors: BadRequest; Unprocessable."""
    old, new = table(before, "metadata"), table(patched, "metadata")
    name = str(old.get("name"))
    check_name(patched, name)
    if resource.namespaced and new.get("namespace") not in (None, "", old.get("namespace")):
        raise BadRequest(
            "the namespace of the provided object does not match the namespace sent on the request"
        )
    uid = new.get("uid")
    if uid and uid != old.get("uid"):  # judged as any object's, and as this kind's: told twice
        cause = invalid_value("metadata.uid", uid, "field is immutable")
        raise invalid(resource.kind, resource.group, name, [cause, cause])


def check_config(resource: ResourceType, config: Json) -> None:
    """An applied configuration says what it is of. Errors: BadRequest."""
    item = config if isinstance(config, dict) else {}
    version, kind = item.get("apiVersion") or "", item.get("kind") or ""
    if (version, kind) != (resource.group_version, resource.kind):
        group, _, name = str(version).rpartition("/")
        raise BadRequest(f"invalid object type: {group}/{name}, Kind={kind}")


def identified(merged: JsonObject, config: JsonObject) -> JsonObject:
    """The merged document with the identity that the configuration asks for, to be compared."""
    asked = table(config, "metadata")
    own = {key: asked[key] for key in ("uid", "resourceVersion") if asked.get(key)}
    return {**merged, "metadata": table(merged, "metadata") | own} if own else merged
