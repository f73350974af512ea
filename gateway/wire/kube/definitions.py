"""Custom resource definitions: what must hold for them.

Source: Kubernetes "CustomResourceDefinitions"; the texts are kube-apiserver's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.names import invalid_value, quoted, required
from gateway.wire.kube.parts import part, rows
from gateway.wire.kube.status import Cause
from gateway.wire.kube.structural import structural_faults

APPROVAL = "api-approved.kubernetes.io"
_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_LABEL_RULE = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic"
    " character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for"
    " validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
)
_LABEL_LENGTH = 63


def definition_faults(item: JsonObject, old: JsonObject | None) -> list[Cause]:
    """Everything that keeps a definition from being served."""
    spec = part(item, "spec")
    names = part(spec, "names")
    found = [required(f"spec.{key}") for key in ("group", "scope", "versions") if not spec.get(key)]
    found += [required(f"spec.names.{key}") for key in ("plural", "kind") if not names.get(key)]
    if found:
        return found
    return [
        *_name_faults(item, spec, names),
        *_version_faults(spec),
        *_conversion_faults(spec),
        *_fixed_faults(spec, old),
        *_stored_faults(spec, old),
    ]


def _name_faults(item: JsonObject, spec: JsonObject, names: JsonObject) -> Iterator[Cause]:
    metadata, group = part(item, "metadata"), str(spec["group"])
    if metadata.get("name") != f"{names['plural']}.{group}":
        why = 'must be spec.names.plural+"."+spec.group'
        yield invalid_value("metadata.name", metadata.get("name"), why)
    if "." not in group:
        yield invalid_value("spec.group", group, "should be a domain with at least one dot")
    if spec["scope"] not in ("Namespaced", "Cluster"):
        yield _unsupported("spec.scope", spec["scope"], '"Cluster", "Namespaced"')
    if group.endswith((".k8s.io", ".kubernetes.io")) and not part(metadata, "annotations").get(
        APPROVAL
    ):
        why = "protected groups must have approval annotation"
        yield required(f"metadata.annotations[{APPROVAL}]", why)
    for key in ("plural", "singular"):
        yield from _label_faults(names.get(key), f"spec.names.{key}")
    for key in ("kind", "listKind"):
        yield from _label_faults(names.get(key), f"spec.names.{key}", lower=True)
    for key in ("shortNames", "categories"):
        listed = names.get(key)
        for at, word in enumerate(listed if isinstance(listed, list) else []):
            yield from _label_faults(word, f"spec.names.{key}[{at}]")


def _label_faults(value: Json, path: str, *, lower: bool = False) -> Iterator[Cause]:
    text = value if isinstance(value, str) else ""
    if not text:
        return
    if len(text) > _LABEL_LENGTH:
        yield invalid_value(path, text, f"must be no more than {_LABEL_LENGTH} characters")
    elif not _LABEL.fullmatch(text.lower() if lower else text):
        yield invalid_value(path, text, _LABEL_RULE)


def _unsupported(path: str, value: Json, known: str) -> Cause:
    text = f"Unsupported value: {quoted(value)}: supported values: {known}"
    return Cause("FieldValueNotSupported", text, path)


def _version_faults(spec: JsonObject) -> Iterator[Cause]:
    versions = rows(spec.get("versions"))
    schemas = [part(row, "schema", "openAPIV3Schema") for row in versions]
    is_one = all(schema == schemas[0] for schema in schemas)
    for at, schema in enumerate(schemas[:1] if is_one else schemas):
        path = f"spec.versions[{at}].schema.openAPIV3Schema"
        if not schema:
            yield required(path, "schemas are required")
        else:
            shown = "spec.validation.openAPIV3Schema" if is_one else path
            yield from structural_faults(schema, shown)
    names = [row.get("name") for row in versions]
    if sum(row.get("storage") is True for row in versions) != 1:
        why = "must have exactly one version marked as storage version"
        yield invalid_value("spec.versions", spec["versions"], why)
    if any(name in names[:at] for at, name in enumerate(names)):
        yield invalid_value("spec.versions", spec["versions"], "must contain unique version names")


def _conversion_faults(spec: JsonObject) -> Iterator[Cause]:
    """Versions are told apart by their name alone here: no webhook is called to convert."""
    strategy = part(spec, "conversion").get("strategy")
    if strategy not in (None, "", "None"):
        yield _unsupported("spec.conversion.strategy", strategy, '"None"')


def _fixed_faults(spec: JsonObject, old: JsonObject | None) -> Iterator[Cause]:
    if old is None:
        return
    before = part(old, "spec")
    for key in ("group", "scope"):
        if spec.get(key) != before.get(key):
            yield invalid_value(f"spec.{key}", spec.get(key), "field is immutable")
    names, held = part(spec, "names"), part(before, "names")
    for key in ("kind", "plural"):
        if names.get(key) != held.get(key):
            yield invalid_value(f"spec.names.{key}", names.get(key), "field is immutable")


def _stored_faults(spec: JsonObject, old: JsonObject | None) -> Iterator[Cause]:
    """A version that objects may be stored in cannot go."""
    stored = part(old, "status").get("storedVersions")
    names = [row.get("name") for row in rows(spec.get("versions"))]
    for at, name in enumerate(stored if isinstance(stored, list) else []):
        if name not in names:
            why = (
                f"missing from spec.versions; {name} was previously a storage version, and must remain in"
                " spec.versions until a storage migration ensures no data remains persisted in"
                f" {name} and removes {name} from status.storedVersions"
            )
            yield invalid_value(f"status.storedVersions[{at}]", name, why)
