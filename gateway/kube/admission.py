"""From a request's body to the next state of an object: decoding, completing, checking, ownership of fields.

Plain functions over documents; nothing is stored here and no clock is read. A document that comes in is never
changed. Source: Kubernetes "API concepts" and "API conventions".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import msgspec

from gateway.errors import BadRequest, GatewayError
from gateway.kube.auth import User
from gateway.kube.ownership import claims_of_new, claims_of_next
from gateway.kube.strategies import own_table, strategy_of, table
from gateway.kube.typedata import catalogue
from gateway.model.json import Json, JsonObject
from gateway.wire.kube import fields, validate
from gateway.wire.kube.amounts import with_shortest
from gateway.wire.kube.doors import changes_spec, door_faults, taken, without_ephemeral
from gateway.wire.kube.names import invalid_value, metadata_faults, quoted
from gateway.wire.kube.resources import ResourceType
from gateway.wire.kube.status import Cause, conflict, invalid

MAX_WARNINGS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteOptions:
    """How a write is to be done.

    Shape:  `manager` names who writes, for `managedFields`; `validation` is `Ignore`, `Warn` or `Strict`;
            `force` lets an apply take over foreign fields; `user` is whose rights count, None for all;
            `repeated` are paths of fields that the body has twice; `sent` is the body of a custom resource
            as it came over HTTP, which must say what it is.
    """

    manager: str = "unknown"
    dry_run: bool = False
    validation: str = "Warn"
    force: bool = False
    user: User | None = None
    repeated: tuple[str, ...] = ()
    sent: bytes = b""


@dataclass(slots=True)
class Remarks:
    """What the client is warned of; one that does not look need not be worked for (`is_wanted`)."""

    texts: list[str] = field(default_factory=list)
    is_wanted: bool = True
    user: User | None = None
    """Who writes; None for us."""

    @classmethod
    def of(cls, options: WriteOptions) -> Remarks:
        return cls(is_wanted=options.validation != "Ignore", user=options.user)

    def add(self, text: str) -> None:
        if len(self.texts) < MAX_WARNINGS and text not in self.texts:
            self.texts.append(text)


# --- decoding -------------------------------------------------------------------------------------


def decoded(
    resource: ResourceType,
    body: Json,
    options: WriteOptions,
    remarks: Remarks,
    *,
    is_patch: bool = False,
    is_config: bool = False,
) -> JsonObject:
    """Read a document as an object of its kind: right type, known fields only.

    Shape:  `is_config` for an apply: what is empty in it is meant.

    Errors: BadRequest for another kind, a value of the wrong type, unknown fields under `Strict`.
    """
    if not isinstance(body, dict):
        raise BadRequest("the object provided is unrecognized: expected a JSON object")
    if resource.is_custom and options.sent and not is_patch:
        _require_type(resource, body, options)
    item = _typed(resource, body)
    if not resource.is_custom and not is_config:
        quick = validate.taken(resource.schema, item)
        if quick is not None and not options.repeated:
            return _with_plain_metadata(quick)
    prefix = "" if is_patch else f"{_cannot(resource)}: "
    fault = _type_fault(resource, item)
    if fault:
        raise BadRequest(f"{prefix}{fault}")
    kept, unknown = validate.pruned(resource.schema, item)
    if unknown or options.repeated:
        _report_unknown(unknown, options, remarks, prefix)
    if is_config:
        return cast("JsonObject", kept)
    if not resource.is_custom:
        kept = validate.without_empty(resource.schema, kept)
    return _with_plain_metadata(cast("JsonObject", kept))


SUMMARY_BYTES = 30
"""How much of a body is shown to say which one is meant."""


def summary(body: bytes) -> str:
    """The beginning of a body, as messages show it."""
    start = body[:SUMMARY_BYTES]
    text = start.decode("utf-8", "replace") if start.startswith(b"{") else start.hex()
    return (text + " ..." if len(body) > SUMMARY_BYTES else text) or "<empty>"


def _require_type(resource: ResourceType, body: JsonObject, options: WriteOptions) -> None:
    """A custom resource says itself what it is; built-in kinds are known by their path.

    Errors: BadRequest.
    """
    if not body.get("kind"):
        why = f"Object 'Kind' is missing in '{options.sent.decode('utf-8', 'replace')}'"
        if options.validation == "Ignore":
            raise BadRequest(f"{_cannot(resource)}: {why}")
        start = f"the object provided is unrecognized (must be of type {resource.kind}): "
        raise BadRequest(f"{start}{why} ({summary(options.sent)})")
    if not body.get("apiVersion"):
        start = f'{body["kind"]} in version "" cannot be handled as a {resource.kind}: '
        raise BadRequest(f"{start}request to convert CR from an invalid group/version: ")


def _cannot(resource: ResourceType) -> str:
    return f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}'


def _typed(resource: ResourceType, body: JsonObject) -> JsonObject:
    version, kind = body.get("apiVersion"), body.get("kind")
    is_same_version = version in (None, "", resource.group_version)
    if is_same_version and kind in (None, "", resource.kind):
        return {**body, "apiVersion": resource.group_version, "kind": resource.kind}
    if resource.is_custom and is_same_version:
        name = str(table(body, "metadata").get("name") or "")
        cause = invalid_value("kind", kind, f"must be {resource.kind}")
        raise invalid(str(kind), resource.group, name, [cause])
    if resource.is_custom or (kind == resource.kind and "/" in str(version)):
        raise BadRequest(
            f"the API version in the data ({version}) does not match the expected API version"
            f" ({resource.group_version})"
        )
    raise BadRequest(_other_kind(resource, str(version or resource.group_version), str(kind)))


def _other_kind(resource: ResourceType, group_version: str, kind: str) -> str:
    """Why an object of another kind is not taken, in the words of an API server."""
    group, _, version = group_version.rpartition("/")
    prefix = f'{kind} in version "{version}" cannot be handled as a {resource.kind}'
    name = f"io.k8s.api.{group.partition('.')[0] or 'core'}.{version}.{kind}"
    if _is_type(name):
        target = f"{resource.group.partition('.')[0] or 'core'}.{resource.kind}"
        return f"{prefix}: converting ({version}.{kind}) to ({target}): unknown conversion"
    scheme = "pkg/runtime/scheme.go:111"
    return (
        f'{prefix}: no kind "{kind}" is registered for version "{group_version}" in scheme'
        f' "{scheme}"'
    )


def _is_type(name: str) -> bool:
    try:
        return bool(catalogue().source(name))
    except KeyError:
        return False


def _type_fault(resource: ResourceType, item: JsonObject) -> str | None:
    """Built-in kinds are decoded whole; of custom resources only the metadata."""
    if not resource.is_custom:
        return validate.type_fault(resource.schema, item, resource.kind)
    metadata = resource.schema.child("metadata")
    if metadata is None:
        return None
    return validate.type_fault(metadata, item.get("metadata"), f"{resource.kind}.metadata")


def _report_unknown(
    unknown: Sequence[str], options: WriteOptions, remarks: Remarks, prefix: str
) -> None:
    texts = [
        *(f"duplicate field {quoted(path)}" for path in options.repeated),
        *(f"unknown field {quoted(path)}" for path in unknown),
    ]
    if options.validation == "Strict":
        raise BadRequest(f"{prefix}strict decoding error: {', '.join(texts)}")
    if options.validation == "Warn":
        for text in texts:
            remarks.add(text)


def _clone(item: JsonObject) -> JsonObject:
    """A copy that shares nothing (much faster than `copy.deepcopy` for JSON)."""
    return cast("JsonObject", msgspec.json.decode(msgspec.json.encode(item)))


_EMPTY_MEANS_ABSENT = ("labels", "annotations", "finalizers", "ownerReferences")


def _with_plain_metadata(item: JsonObject) -> JsonObject:
    metadata: JsonObject = {
        key: value
        for key, value in table(item, "metadata").items()
        if value is not None and not (key in _EMPTY_MEANS_ABSENT and not value)
    }
    return {**item, "metadata": metadata}


# --- create ---------------------------------------------------------------------------------------

_NOT_ON_CREATE = (
    "resourceVersion",
    "selfLink",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "managedFields",
    "generation",
)


def admitted_new(
    resource: ResourceType,
    item: JsonObject,
    *,
    uid: str,
    now: str,
    manager: fields.Manager,
    claims: tuple[fields.Claim, ...] | None = None,
    sent: JsonObject | None = None,
) -> JsonObject:
    """Complete and check a decoded object that is to be created; its name is set already.

    Shape:  `claims` says who owns what when an apply has worked it out; else `manager` owns what was in
            `sent`, the object before rules completed it.
    Errors: Unprocessable, naming every fault.
    """
    fresh = _clone(item)
    metadata = own_table(fresh, "metadata")
    for key in _NOT_ON_CREATE:
        metadata.pop(key, None)
    metadata |= {"uid": uid, "creationTimestamp": now}
    if resource.counts_generation:
        metadata["generation"] = 1
    if resource.has_status and not strategy_of(resource.storage_key).keeps_status:
        fresh.pop("status", None)
    _complete(resource, fresh, None)
    fresh = _defaulted(resource, fresh)
    check(resource, fresh, None)
    if claims is None:
        claims = claims_of_new(resource, item if sent is None else sent, item, fresh, manager, now)
    return with_claims(fresh, claims)


def _complete(resource: ResourceType, item: JsonObject, old: JsonObject | None) -> None:
    strategy_of(resource.storage_key).prepare(item, old)


def _defaulted(resource: ResourceType, item: JsonObject) -> JsonObject:
    done = validate.defaulted(resource.schema, item)
    return cast("JsonObject", done if resource.is_custom else with_shortest(resource.schema, done))


def check(
    resource: ResourceType, item: JsonObject, old: JsonObject | None, part: str | None = None
) -> None:
    """Judge a completed object. Errors: Unprocessable with a cause per fault."""
    strategy = strategy_of(resource.storage_key)
    causes = metadata_faults(table(item, "metadata"), strategy.name_rule)
    if resource.is_custom:
        causes += (
            validate.faults(resource.schema, item)
            if old is None
            else validate.faults(resource.schema, item, old=old)
        )
    if changes_spec(part):
        causes += strategy.faults(without_ephemeral(item), None)
    else:
        causes += strategy.faults(item, old)
    if old is not None:
        causes += door_faults(resource, part, old, item)
    if causes:
        name = table(item, "metadata").get("name")
        raise invalid(resource.kind, resource.group, str(name or ""), causes)


# --- update ---------------------------------------------------------------------------------------

_KEPT_ON_UPDATE = (
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "name",
    "namespace",
    "generateName",
    "selfLink",
)


def admitted_next(
    resource: ResourceType,
    before: JsonObject,
    item: JsonObject,
    subresource: str | None,
    *,
    now: str,
    manager: fields.Manager,
    claims: tuple[fields.Claim, ...] | None = None,
) -> JsonObject:
    """Complete and check the next state of an object; equal to `before` when nothing changes.

    Shape:  `claims` says who owns what when an apply has worked it out; else `manager` owns what changes.
    Errors: Conflict for a stale resourceVersion or another uid; Unprocessable.
    """
    _check_identity(resource, before, item)
    wanted = _clone(item)
    after = dict(taken(resource, before, wanted, subresource))
    _keep_metadata(before, after)
    if subresource is None or changes_spec(subresource):
        _complete(resource, after, before)
    after = _defaulted(resource, after)
    _count_generation(resource, before, after, subresource)
    if not validate.are_same(_bare(after), _bare(before)):
        check(resource, after, before, subresource)
        _check_finalizers(resource, before, after)
    if claims is None:
        claims = claims_of_next(resource, before, after, item, manager, now)
    return with_claims(after, claims)


def _check_identity(resource: ResourceType, before: JsonObject, item: JsonObject) -> None:
    old, new = table(before, "metadata"), table(item, "metadata")
    name = str(old.get("name"))
    uid, version = new.get("uid"), new.get("resourceVersion")
    if uid and uid != old.get("uid"):
        why = (
            f"Precondition failed: UID in precondition: {uid}, UID in object meta: {old.get('uid')}"
        )
        raise conflict(resource.plural, resource.group, name, why)
    if version and not str(version).isdigit():
        text = f'strconv.ParseUint: parsing "{version}": invalid syntax'
        raise GatewayError(text, details={"reason": ""})
    if version and version not in ("0", old.get("resourceVersion")):
        raise conflict(resource.plural, resource.group, name)


def _keep_metadata(before: JsonObject, after: JsonObject) -> None:
    old, new = table(before, "metadata"), own_table(after, "metadata")
    for key in _KEPT_ON_UPDATE:
        if key in old:
            new[key] = old[key]
        else:
            new.pop(key, None)
    new["resourceVersion"] = old.get("resourceVersion")
    for key in _EMPTY_MEANS_ABSENT:
        if key in new and not new[key]:
            del new[key]


def _count_generation(
    resource: ResourceType, before: JsonObject, after: JsonObject, part: str | None
) -> None:
    if not resource.counts_generation:
        return
    ignored = ("metadata", "status") if resource.has_status else ("metadata",)
    counts_notes = resource.storage_key == "deployments.apps" and part is None
    if validate.are_same(_without(before, ignored), _without(after, ignored)) and not (
        counts_notes and _notes(before) != _notes(after)
    ):
        return
    metadata = own_table(after, "metadata")
    generation = metadata.get("generation")
    metadata["generation"] = (generation if isinstance(generation, int) else 0) + 1


def _notes(item: JsonObject) -> JsonObject:
    """Annotations: of a Deployment, they count as wishes."""
    return table(table(item, "metadata"), "annotations")


def _without(item: JsonObject, keys: Sequence[str]) -> JsonObject:
    return {key: value for key, value in item.items() if key not in keys}


def _bare(item: JsonObject) -> JsonObject:
    metadata = {
        key: value for key, value in table(item, "metadata").items() if key != "managedFields"
    }
    return {**item, "metadata": metadata}


def _check_finalizers(resource: ResourceType, before: JsonObject, after: JsonObject) -> None:
    old, new = table(before, "metadata"), table(after, "metadata")
    if not old.get("deletionTimestamp"):
        return
    known = _list(old.get("finalizers"))
    added = [item for item in _list(new.get("finalizers")) if item not in known]
    if added:
        shown = ", ".join(quoted(item) for item in added)
        text = (
            "Forbidden: no new finalizers can be added if the object is being deleted,"
            f" found new finalizers []string{{{shown}}}"
        )
        cause = Cause("FieldValueForbidden", text, "metadata.finalizers")
        raise invalid(resource.kind, resource.group, str(old.get("name")), [cause])


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


def require_version(resource: ResourceType, item: JsonObject) -> None:
    """A replaced custom resource must say which state it replaces. Errors: Unprocessable."""
    metadata = table(item, "metadata")
    if resource.is_custom and not metadata.get("resourceVersion"):
        cause = invalid_value("metadata.resourceVersion", 0, "must be specified for an update")
        name = str(metadata.get("name") or "")
        raise invalid(resource.plural, resource.group, name, [cause])


def with_claims(item: JsonObject, claims: Sequence[fields.Claim]) -> JsonObject:
    """The object with its `managedFields`."""
    metadata = dict(table(item, "metadata"))
    entries = fields.write_claims(claims)
    if entries:
        metadata["managedFields"] = entries
    else:
        metadata.pop("managedFields", None)
    return {**item, "metadata": metadata}


def is_same(before: JsonObject, after: JsonObject) -> bool:
    return validate.are_same(before, after)
