"""Request bodies: JSON, YAML or protobuf, and the options that travel with a write."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import cast

import msgspec
import yaml

from gateway.errors import BadRequest, UnsupportedMediaType
from gateway.kube.admission import WriteOptions
from gateway.kube.checks import DeleteOptions
from gateway.kube.client import PatchType
from gateway.kube.strategies import table
from gateway.kube.typedata import protobuf_table
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.names import quoted
from gateway.wire.kube.patches import shallow
from gateway.wire.kube.protobuf import decode as decode_protobuf
from gateway.wire.kube.requests import flag, media_parts
from gateway.wire.kube.status import Cause, invalid

JSON, YAML = "application/json", "application/yaml"
PROTOBUF = "application/vnd.kubernetes.protobuf"
MAX_MANAGER = 128
_INTEGER = re.compile(r"-?[0-9]{1,18}")


def _read_json(body: bytes) -> Json:
    try:
        return cast("Json", msgspec.json.decode(body))
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise BadRequest(f"the body of the request is no JSON: {error}") from error


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
        raise BadRequest(f"the body of the request is no YAML: {type(error).__name__}") from error


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


def read_object(body: bytes, content_type: str | None) -> Json:
    """Read the object of a create, replace or delete.

    Errors: UnsupportedMediaType; BadRequest.
    """
    name, _ = media_parts(content_type or "")
    reader = _READERS.get(name)
    if reader is None:
        raise _unknown_type(_READERS)
    return shallow(reader(body))


def read_patch(body: bytes, content_type: str | None) -> tuple[Json, PatchType]:
    """Read a patch and its kind. Errors: UnsupportedMediaType; BadRequest."""
    name, _ = media_parts(content_type or "")
    kind = _PATCH_TYPES.get(name)
    if kind is None:
        raise _unknown_type(_PATCH_TYPES)
    if kind is PatchType.APPLY and not body.lstrip().startswith(b"{"):
        return shallow(_read_yaml(body)), kind
    return shallow(_read_json(body)), kind


def _unknown_type(known: Mapping[str, object]) -> UnsupportedMediaType:
    names = ", ".join(name for name in known if name)
    return UnsupportedMediaType(
        f"the body of the request was in an unknown format - accepted media types include: {names}"
    )


# --- options --------------------------------------------------------------------------------------


def write_options(query: Mapping[str, str], user_agent: str, *, kind: str) -> WriteOptions:
    """Read the options of a write; `kind` names them in messages.

    Errors: Unprocessable for values that are not known.
    """
    validation = query.get("fieldValidation") or "Warn"
    if validation not in ("Ignore", "Warn", "Strict"):
        raise _unsupported(kind, "fieldValidation", validation, ("", "Ignore", "Warn", "Strict"))
    manager = query.get("fieldManager") or ""
    if len(manager) > MAX_MANAGER:
        cause = Cause(
            "FieldValueTooLong",
            f"Too long: may not be more than {MAX_MANAGER} bytes",
            "fieldManager",
        )
        raise invalid(kind, "meta.k8s.io", "", [cause])
    return WriteOptions(
        manager=manager or user_agent.partition("/")[0][:MAX_MANAGER] or "unknown",
        dry_run=_is_dry_run(query.get("dryRun"), kind),
        validation=validation,
        force=flag(query, "force") is True,
    )


def _is_dry_run(text: Json, kind: str) -> bool:
    if text in (None, ""):
        return False
    if text != "All":
        raise _unsupported(kind, "dryRun", text, ("All",))
    return True


def _unsupported(kind: str, field: str, value: Json, known: tuple[str, ...]) -> Exception:
    allowed = ", ".join(f'"{item}"' for item in known)
    text = f"Unsupported value: {quoted(value)}: supported values: {allowed}"
    return invalid(kind, "meta.k8s.io", "", [Cause("FieldValueNotSupported", text, field)])


_POLICIES = ("Background", "Foreground", "Orphan")


def delete_options(body: Json, query: Mapping[str, str]) -> DeleteOptions:
    """Read how to delete, from the body or the query. Errors: BadRequest; Unprocessable."""
    options: JsonObject = body if isinstance(body, dict) else {}
    dry = options.get("dryRun") or query.get("dryRun")
    policy = options.get("propagationPolicy") or query.get("propagationPolicy")
    if policy is not None and policy not in _POLICIES:
        raise _unsupported("DeleteOptions", "propagationPolicy", policy, _POLICIES)
    if policy is None and (
        options.get("orphanDependents") is True or flag(query, "orphanDependents")
    ):
        policy = "Orphan"
    preconditions = table(options, "preconditions")
    return DeleteOptions(
        uid=_optional_text(preconditions.get("uid")),
        resource_version=_optional_text(preconditions.get("resourceVersion")),
        policy=_optional_text(policy),
        dry_run=_is_dry_run(dry[0] if isinstance(dry, list) and dry else dry, "DeleteOptions"),
        grace_seconds=_grace(options.get("gracePeriodSeconds", query.get("gracePeriodSeconds"))),
    )


def _grace(value: Json) -> int | None:
    """Read a whole number of seconds, from JSON or a query. Errors: BadRequest; Unprocessable below 0."""
    if value is None or value == "":
        return None
    seconds = int(value) if isinstance(value, str) and _INTEGER.fullmatch(value) else value
    if not isinstance(seconds, int) or isinstance(seconds, bool):
        raise BadRequest(f"gracePeriodSeconds: expected a whole number, got {quoted(value)}")
    if seconds < 0:
        text = f"Invalid value: {seconds}: must be greater than or equal to 0"
        cause = Cause("FieldValueInvalid", text, "gracePeriodSeconds")
        raise invalid("DeleteOptions", "meta.k8s.io", "", [cause])
    return seconds


def _optional_text(value: Json) -> str | None:
    return value if isinstance(value, str) and value else None
