"""Request bodies: JSON, YAML or protobuf, and the options that travel with a write."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TypeVar, cast

import msgspec
import yaml
from multidict import MultiMapping

from gateway.errors import BadRequest, UnsupportedMediaType
from gateway.kube.admission import WriteOptions, summary
from gateway.kube.checks import DeleteOptions
from gateway.kube.client import PatchType
from gateway.kube.strategies import table
from gateway.kube.typedata import catalogue, protobuf_table
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.jsontext import fault_of, may_repeat, repeated
from gateway.wire.kube.names import invalid_value, quoted, required
from gateway.wire.kube.patches import shallow
from gateway.wire.kube.protobuf import decode as decode_protobuf
from gateway.wire.kube.requests import flag, integer, media_parts
from gateway.wire.kube.resources import ResourceType
from gateway.wire.kube.status import Cause, invalid
from gateway.wire.kube.validate import type_fault

JSON, YAML = "application/json", "application/yaml"
PROTOBUF = "application/vnd.kubernetes.protobuf"
MAX_MANAGER = 128
MAX_AT_ONCE = 8_192
"""Bytes of a body that is no JSON and still read at once."""
T = TypeVar("T")


async def read_aside(body: bytes, read: Callable[..., T], *how: object) -> T:
    """Read a body; YAML is slow, so that a large one is read while others are served."""
    if len(body) < MAX_AT_ONCE or body[:1] in (b"{", b"["):
        return read(body, *how)
    return await asyncio.to_thread(read, body, *how)


class Unreadable(BadRequest):
    """A body that is no document; says why."""


def _read_json(body: bytes) -> Json:
    try:
        return cast("Json", msgspec.json.decode(body))
    except (msgspec.DecodeError, ValueError) as error:
        raise Unreadable(f"{NO_KIND}{fault_of(body)}") from error
    except RecursionError as error:
        raise Unreadable(f"{NO_KIND}invalid character '{{' exceeded max depth") from error


class _Loader(yaml.SafeLoader):
    """Refuses aliases: a few bytes of them can stand for gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not taken")
        return super().compose_node(parent, index)


def _read_yaml(body: bytes) -> Json:
    try:
        value = yaml.load(body, _Loader)  # noqa: S506  a safe loader, and stricter
        return cast("Json", msgspec.json.decode(msgspec.json.encode(value)))
    except (yaml.YAMLError, ValueError, RecursionError, TypeError, OverflowError) as error:
        raise Unreadable(f"yaml: {_yaml_fault(error)}") from error


def _yaml_fault(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or type(error).__name__
    return f"line {mark.line + 1}: {problem}" if mark is not None else str(problem)


def _read_protobuf(body: bytes) -> Json:
    return decode_protobuf(body, protobuf_table())


_READERS: Mapping[str, Callable[[bytes], Json]] = {
    "": _read_json,
    JSON: _read_json,
    YAML: _read_yaml,
    PROTOBUF: _read_protobuf,
}

_PATCH_TYPES = {
    **{str(kind): kind for kind in PatchType},
    "application/apply-patch+json": PatchType.APPLY,
}


NO_KIND = "couldn't get version/kind; json parse error: "
_NO_TABLE = (
    f"{NO_KIND}json: cannot unmarshal {{kind}} into Go value of type struct"
    r' {{ APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }}'
)


def read_object(
    body: bytes, content_type: str | None, resource: ResourceType | None = None
) -> JsonObject:
    """Read the object of a create, replace or delete; `resource` is what it should be one of.

    Errors: UnsupportedMediaType; BadRequest for what is no object.
    """
    name, _ = media_parts(content_type or "")
    reader = _READERS.get(name)
    if reader is None:
        names = ", ".join(name for name in _READERS if name)
        raise UnsupportedMediaType(
            "the body of the request was in an unknown format - accepted media types include:"
            f" {names}"
        )
    try:
        return _as_table(shallow(reader(body)))
    except Unreadable as error:
        raise BadRequest(_unrecognized(str(error), body, resource)) from error


def _unrecognized(why: str, body: bytes, resource: ResourceType | None) -> str:
    if resource is None:
        return why
    start = f"the object provided is unrecognized (must be of type {resource.kind})"
    return f"{start}: {why} ({summary(body)})"


def _as_table(value: Json) -> JsonObject:
    """Nothing at all is an empty object. Errors: Unreadable for a list, a text, a number."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Unreadable(_NO_TABLE.format(kind=_GO_NAMES.get(type(value), "number")))
    return value


_GO_NAMES: Mapping[type, str] = {list: "array", str: "string", bool: "bool"}


def repeated_fields(body: bytes, content_type: str | None, value: Json) -> tuple[str, ...]:
    """Fields that a JSON body has twice; the last one counts."""
    name, _ = media_parts(content_type or "")
    if name not in ("", JSON) or not may_repeat(body, value):
        return ()
    return tuple(repeated(body))


def patch_type(content_type: str | None) -> PatchType:
    """Which kind of patch a body is. Errors: UnsupportedMediaType."""
    name, _ = media_parts(content_type or "")
    kind = _PATCH_TYPES.get(name)
    if kind is None:
        raise UnsupportedMediaType("415: Unsupported Media Type")
    return kind


def read_patch(body: bytes, kind: PatchType) -> Json:
    """Read a patch. Errors: BadRequest."""
    try:
        if kind is not PatchType.APPLY:
            return shallow(_read_json(body))
        is_json = body.lstrip().startswith(b"{")
        return _as_table(shallow(_read_json(body) if is_json else _read_yaml(body)))
    except Unreadable as error:
        why = str(error).removeprefix(NO_KIND)
        raise BadRequest(_PATCH_FAULTS.get(kind, "error decoding patch: {}").format(why)) from error


_PATCH_FAULTS = {
    PatchType.STRATEGIC: "{}",
    PatchType.APPLY: "error decoding YAML: error converting YAML to JSON: {}",
}


# --- options --------------------------------------------------------------------------------------


def write_options(
    query: Mapping[str, str], user_agent: str, *, kind: str, patch: PatchType | None = None
) -> WriteOptions:
    """Read the options of a write; `kind` names them in messages, `patch` says how a patch is meant.

    Errors: Unprocessable for values that are not known or do not fit.
    """
    manager = query.get("fieldManager") or ""
    dry, validation = _several(query, "dryRun"), query.get("fieldValidation") or "Warn"
    force = flag(query, "force")
    causes = [
        *_patch_faults(patch, manager, is_forced=force is not None),
        *_manager_faults(manager),
        *_dry_faults(dry),
    ]
    if validation not in _LEVELS:
        causes.append(_unsupported("fieldValidation", quoted(validation), ("", *_LEVELS)))
    if causes:
        raise invalid(kind, "meta.k8s.io", "", causes)
    return WriteOptions(
        manager=manager or user_agent.partition("/")[0][:MAX_MANAGER] or "unknown",
        dry_run=bool(dry),
        validation=validation,
        force=force is True,
    )


_LEVELS = ("Ignore", "Strict", "Warn")


def _several(query: Mapping[str, str], key: str) -> list[str]:
    """All values of a parameter, empty ones left out."""
    found = query.getall(key, []) if isinstance(query, MultiMapping) else [query.get(key, "")]
    return [value for value in found if value]


def _patch_faults(patch: PatchType | None, manager: str, *, is_forced: bool) -> list[Cause]:
    if patch is PatchType.APPLY:
        return [] if manager else [required("fieldManager", "is required for apply patch")]
    if patch is not None and is_forced:
        text = "Forbidden: may not be specified for non-apply patch"
        return [Cause("FieldValueForbidden", text, "force")]
    return []


def _manager_faults(manager: str) -> list[Cause]:
    found = []
    if len(manager.encode()) > MAX_MANAGER:
        text = f"Too long: may not be more than {MAX_MANAGER} bytes"
        found.append(Cause("FieldValueTooLong", text, "fieldManager"))
    for at, mark in enumerate(manager):
        if not mark.isprintable():
            why = f"invalid character U+{ord(mark):04X} (at position {at})"
            found.append(invalid_value("fieldManager", manager, why))
            break
    return found


def _dry_faults(values: list[str]) -> list[Cause]:
    if all(value == "All" for value in values):
        return []
    shown = msgspec.json.encode(values).decode()
    return [_unsupported("dryRun", shown, ("All",))]


def _unsupported(field: str, value: str, known: tuple[str, ...]) -> Cause:
    allowed = ", ".join(f'"{item}"' for item in known)
    text = f"Unsupported value: {value}: supported values: {allowed}"
    return Cause("FieldValueNotSupported", text, field)


_POLICIES = ("Foreground", "Background", "Orphan")
_OPTIONS_KINDS = (None, "", "DeleteOptions")


def delete_options(body: Json, query: Mapping[str, str]) -> DeleteOptions:
    """Read how to delete, from the body, or from the query when there is none.

    Errors: BadRequest for another kind or type; Unprocessable for what is not known or does not fit.
    """
    options = body if isinstance(body, dict) else {}
    if not options:
        options = _asked_in_query(query)
    kind, version = options.get("kind"), options.get("apiVersion") or "v1"
    if kind not in _OPTIONS_KINDS:
        scheme = "pkg/runtime/scheme.go:111"
        raise BadRequest(
            f'no kind "{kind}" is registered for version "{version}" in scheme "{scheme}"'
        )
    fault = type_fault(catalogue().get(_DELETE_OPTIONS), options, "DeleteOptions")
    if fault:
        raise BadRequest(fault)
    policy, orphans = options.get("propagationPolicy"), options.get("orphanDependents")
    dry = [str(item) for item in cast("list[Json]", options.get("dryRun") or [])]
    causes = _policy_faults(policy, orphans) + _dry_faults(dry)
    if causes:
        raise invalid("DeleteOptions", "meta.k8s.io", "", causes)
    if isinstance(orphans, bool):
        policy = "Orphan" if orphans else "Foreground"
    preconditions = table(options, "preconditions")
    return DeleteOptions(
        uid=_optional_text(preconditions.get("uid")),
        resource_version=_optional_text(preconditions.get("resourceVersion")),
        policy=_optional_text(policy),
        dry_run=bool(dry),
        grace_seconds=_grace(options.get("gracePeriodSeconds")),
    )


_DELETE_OPTIONS = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"


def _asked_in_query(query: Mapping[str, str]) -> JsonObject:
    """Errors: BadRequest."""
    options: JsonObject = {"dryRun": list(_several(query, "dryRun"))}
    for key in ("propagationPolicy",):
        if query.get(key):
            options[key] = query[key]
    orphans, grace = flag(query, "orphanDependents"), integer(query, "gracePeriodSeconds")
    if orphans is not None:
        options["orphanDependents"] = orphans
    if grace is not None:
        options["gracePeriodSeconds"] = grace
    return options


def _policy_faults(policy: Json, orphans: Json) -> list[Cause]:
    if policy is None:
        return []
    found = []
    if orphans is not None:
        why = "orphanDependents and deletionPropagation cannot be both set"
        found.append(invalid_value("propagationPolicy", policy, why))
    if policy not in _POLICIES:
        found.append(_unsupported("propagationPolicy", quoted(policy), (*_POLICIES, "nil")))
    return found


def _grace(value: Json) -> int | None:
    """Seconds; what lies below 0 is the shortest time that is still one."""
    if not isinstance(value, int):
        return None
    return 1 if value < 0 else value


def _optional_text(value: Json) -> str | None:
    return value if isinstance(value, str) and value else None
