"""Names, labels and annotations: the grammars that every Kubernetes object obeys."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.status import Cause

MAX_SUBDOMAIN = 253
MAX_LABEL = 63
MAX_ANNOTATIONS_BYTES = 262_144

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_QUALIFIED_NAME = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_CONFIG_KEY = re.compile(r"[-._a-zA-Z0-9]+")

SUBDOMAIN_RULE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.',"
    " and must start and end with an alphanumeric character (e.g. 'example.com', regex used for"
    r" validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
LABEL_RULE = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must"
    " start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for"
    " validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
QUALIFIED_RULE = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an"
    " alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is"
    " '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
VALUE_RULE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and"
    " must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345',"
    " regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
KEY_RULE = (
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or"
    " 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
)

Rule = Callable[[str], "str | None"]


def subdomain_fault(name: str) -> str | None:
    """Say what is wrong with a DNS-1123 subdomain; None when it is right."""
    if len(name) > MAX_SUBDOMAIN:
        return f"must be no more than {MAX_SUBDOMAIN} characters"
    return None if _DNS_SUBDOMAIN.fullmatch(name) else SUBDOMAIN_RULE


def label_fault(name: str) -> str | None:
    """Say what is wrong with a DNS-1123 label; None when it is right."""
    if len(name) > MAX_LABEL:
        return f"must be no more than {MAX_LABEL} characters"
    return None if _DNS_LABEL.fullmatch(name) else LABEL_RULE


def path_segment_fault(name: str) -> str | None:
    """Say what is wrong with a name that only has to fit into a path (RBAC and the like)."""
    if name in (".", ".."):
        return f"may not be '{name}'"
    bad = next((mark for mark in "/%" if mark in name), None)
    return f"may not contain '{bad}'" if bad else None


def qualified_fault(key: str) -> str | None:
    """Say what is wrong with a label or annotation key, `[prefix/]name`."""
    prefix, slash, name = key.rpartition("/")
    if slash and not prefix:
        return "prefix part must be non-empty"
    if prefix and subdomain_fault(prefix):
        return f"prefix part {SUBDOMAIN_RULE}"
    if not name:
        return "name part must be non-empty"
    if len(name) > MAX_LABEL:
        return f"name part must be no more than {MAX_LABEL} characters"
    return None if _QUALIFIED_NAME.fullmatch(name) else QUALIFIED_RULE


def label_value_fault(value: str) -> str | None:
    if len(value) > MAX_LABEL:
        return f"must be no more than {MAX_LABEL} characters"
    return None if not value or _QUALIFIED_NAME.fullmatch(value) else VALUE_RULE


def config_key_fault(key: str) -> str | None:
    """Say what is wrong with a key of a ConfigMap or Secret."""
    if len(key) > MAX_SUBDOMAIN:
        return f"must be no more than {MAX_SUBDOMAIN} characters"
    if key in (".", "..") or key.startswith(".."):
        return f"may not be '{key}'" if key in (".", "..") else "may not start with '..'"
    return None if _CONFIG_KEY.fullmatch(key) else KEY_RULE


def invalid_value(field: str, value: Json, why: str) -> Cause:
    """A cause in Kubernetes' words: `Invalid value: "x": why`."""
    return Cause("FieldValueInvalid", f"Invalid value: {quoted(value)}: {why}", field)


def required(field: str, why: str = "") -> Cause:
    return Cause("FieldValueRequired", f"Required value: {why}" if why else "Required value", field)


def quoted(value: Json) -> str:
    """A value as messages show it: text in quotes, scalars plain, the rest as compact JSON."""
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        inner = ",".join(f"{quoted(key)}:{quoted(item)}" for key, item in sorted(value.items()))
        return "{" + inner + "}"
    if isinstance(value, list):
        return "[" + ",".join(quoted(item) for item in value) + "]"
    return str(value)


def metadata_faults(metadata: JsonObject, name_rule: Rule) -> list[Cause]:
    """Check what every object has: name, labels, annotations, finalizers, owners."""
    faults = _name_faults(metadata, name_rule)
    faults += _key_faults(metadata.get("labels"), "metadata.labels", label_value_fault)
    faults += _annotation_faults(metadata.get("annotations"))
    for finalizer in _texts(metadata.get("finalizers")):
        why = qualified_fault(finalizer)
        if why:
            faults.append(invalid_value("metadata.finalizers", finalizer, why))
    return faults + _owner_faults(metadata.get("ownerReferences"))


def _name_faults(metadata: JsonObject, name_rule: Rule) -> list[Cause]:
    name = metadata.get("name")
    if not isinstance(name, str) or not name:
        return [required("metadata.name", "name or generateName is required")]
    why = name_rule(name)
    return [invalid_value("metadata.name", name, why)] if why else []


def _key_faults(table: Json, field: str, value_rule: Rule) -> list[Cause]:
    faults = []
    for key, value in table.items() if isinstance(table, dict) else ():
        why = qualified_fault(key)
        if why:
            faults.append(invalid_value(field, key, why))
        why = value_rule(value) if isinstance(value, str) else None
        if why:
            faults.append(invalid_value(field, value, why))
    return faults


def _annotation_faults(table: Json) -> list[Cause]:
    if not isinstance(table, dict):
        return []
    lowered: Mapping[str, Json] = {key.lower(): value for key, value in table.items()}
    faults = _key_faults(lowered if isinstance(lowered, dict) else {}, "metadata.annotations", _any)
    size = sum(len(key) + len(str(value)) for key, value in table.items())
    if size > MAX_ANNOTATIONS_BYTES:
        why = f"Too long: may not be more than {MAX_ANNOTATIONS_BYTES} bytes"
        faults.append(Cause("FieldValueTooLong", why, "metadata.annotations"))
    return faults


def _any(_value: str) -> str | None:
    return None


_OWNER_FIELDS = ("apiVersion", "kind", "name", "uid")


def _owner_faults(owners: Json) -> list[Cause]:
    rows = [row for row in owners if isinstance(row, dict)] if isinstance(owners, list) else []
    found = [
        invalid_value(f"metadata.ownerReferences.{field}", "", "must not be empty")
        for owner in rows
        for field in _OWNER_FIELDS
        if not owner.get(field)
    ]
    return found + _controller_faults([row for row in rows if row.get("controller") is True])


def _controller_faults(controllers: list[JsonObject]) -> list[Cause]:
    """One owner at most controls an object."""
    if len(controllers) < 2:
        return []
    first, second = (f"{row.get('kind')}/{row.get('name')}" for row in controllers[:2])
    why = (
        'Only one reference can have Controller set to true. Found "true" in references for'
        f" {first} and {second}"
    )
    shown: list[Json] = [*controllers]
    return [invalid_value("metadata.ownerReferences", shown, why)]


def _texts(value: Json) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
