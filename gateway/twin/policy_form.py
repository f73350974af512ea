"""The form of a policy: what each of its parts takes as a value, and how it is stored."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from gateway.errors import NotBuilt
from gateway.model.entity_id import check_entity_id, is_entity_id, is_key
from gateway.model.json import Json, JsonObject, parse_pointer
from gateway.model.policy import Permission, Policy
from gateway.twin.ditto_errors import ditto_error

_SUBJECT = re.compile(r"[^:]+:.+", re.DOTALL)
_PLACEHOLDER = re.compile(r"\{\{\s*request:subjectId\s*\}\}|\$\{request\.subjectId\}")
_KINDS: Final = ("thing", "policy", "message")
_IMPORTABLE: Final = ("implicit", "explicit", "never")
_MAX_SUBJECT = 1_024


class PolicyPart(enum.StrEnum):
    """Kinds of resources of a policy; values are the first half of their error codes where they have any."""

    POLICY = "policy"
    ENTRIES = "entries"
    ENTRY = "entry"
    SUBJECTS = "subjects"
    SUBJECT = "subject"
    RESOURCES = "resources"
    RESOURCE = "resource"
    IMPORTABLE = "importable"
    NAMESPACES = "namespaces"
    IMPORTS = "imports"
    IMPORT = "import"
    IMPORT_ENTRIES = "import.entries"


# --- form --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Caller:
    """What checking a policy's form needs to know beside it."""

    policy_id: str
    subject: str
    now: str


def policy_document(
    caller: Caller, value: Json, code: str = "policies:id.notsettable"
) -> JsonObject:
    """A policy's JSON as it is stored: all optional members filled in, placeholders resolved.

    Errors: BadRequest naming the label, subject or resource at fault; `code` for a foreign `policyId`.
    """
    given = checked_object(value, "a Policy")
    found = given.get("policyId")
    if found is not None and found != caller.policy_id:
        raise ditto_error(code, found=found, expected=f": it should be '{caller.policy_id}'")
    if "entries" not in given:
        raise ditto_error("json.field.missing", field="entries")
    document: JsonObject = {"entries": _entries(caller, given["entries"])}
    imports = given.get("imports")
    if imports:
        document["imports"] = _imports(caller, imports)
    return document


def checked_object(value: Json, what: str) -> JsonObject:
    if not isinstance(value, dict):
        raise ditto_error("json.invalid", reason=f"{what} is a JSON object")
    return value


def _entries(caller: Caller, value: Json) -> Json:
    return {
        checked_label(label): _entry(caller, body)
        for label, body in checked_object(value, "'entries'").items()
    }


def checked_label(label: str) -> str:
    if not is_key(label):
        raise ditto_error(
            "policies:label.invalid", label=label[:200], reason="it is empty or has a '/'"
        )
    if label.startswith(("imported", "nsimported-")):
        raise ditto_error(
            "policies:label.invalid",
            label=label,
            reason="'imported' is reserved for resolved views",
        )
    return label


def _entry(caller: Caller, value: Json) -> Json:
    given = checked_object(value, "a policy entry")
    for member in ("allowedAdditions", "references"):
        if given.get(member):
            raise NotBuilt(f"policies: '{member}' of an entry is not built")
    entry: JsonObject = {
        "subjects": _subjects(caller, given.get("subjects") or {}),
        "resources": _resources(caller, given.get("resources") or {}),
        "importable": _importable(caller, given.get("importable") or "implicit"),
    }
    if given.get("namespaces") is not None:
        entry["namespaces"] = _namespaces(caller, given["namespaces"])
    return entry


def _subjects(caller: Caller, value: Json) -> Json:
    subjects: JsonObject = {}
    for key, body in checked_object(value, "'subjects'").items():
        subjects[resolved_subject(caller, key)] = _subject(caller, body)
    return subjects


def resolved_subject(caller: Caller, key: str) -> str:
    """A subject id with its placeholder replaced by the caller.

    Errors: BadRequest `policies:subjectid.invalid`.
    """
    subject = _PLACEHOLDER.sub(lambda _: caller.subject, key)
    if len(subject) > _MAX_SUBJECT or _SUBJECT.fullmatch(subject) is None:
        raise ditto_error("policies:subjectid.invalid", key=key[:200])
    return subject


def _subject(caller: Caller, value: Json) -> Json:
    given = checked_object(value, "a subject")
    if given.get("announcement"):
        raise NotBuilt("policies: announcements of subject expiry are not built")
    subject: JsonObject = {"type": str(given.get("type") or "unknown")}
    if given.get("expiry") is not None:
        subject["expiry"] = _expiry(caller, given["expiry"])
    return subject


def _expiry(caller: Caller, value: Json) -> str:
    try:
        moment = datetime.fromisoformat(str(value)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ditto_error(
            "policies:subjectexpiry.invalid", value=value, reason=str(error)
        ) from error
    text = moment.isoformat().replace("+00:00", "Z")
    if text <= caller.now:
        raise ditto_error("policies:subjectexpiry.invalid", value=value, reason="it is in the past")
    return text


def _resources(caller: Caller, value: Json) -> Json:
    resources: JsonObject = {}
    for key, body in checked_object(value, "'resources'").items():
        resources[checked_resource_key(key)] = _resource(caller, body)
    return resources


def checked_resource_key(key: str) -> str:
    kind, colon, path = key.partition(":")
    if not colon or kind not in _KINDS or not path.startswith("/"):
        raise ditto_error(
            "policies:entry.invalid",
            reason=f"the resource '{key[:200]}' is not '<{'|'.join(_KINDS)}>:/<path>'",
        )
    parse_pointer(path)
    return key


def _resource(_caller: Caller, value: Json) -> Json:
    given = checked_object(value, "a resource")
    return {name: _permissions(given.get(name) or [], name) for name in ("grant", "revoke")}


def _permissions(value: Json, name: str) -> Json:
    if not isinstance(value, list) or any(one not in Permission.__members__ for one in value):
        raise ditto_error(
            "policies:entry.invalid",
            reason=f"'{name}' is an array of {', '.join(Permission)}",
        )
    return list(dict.fromkeys(value))


def _importable(_caller: Caller, value: Json) -> Json:
    if value not in _IMPORTABLE:
        raise ditto_error(
            "policies:entry.invalid", reason=f"'importable' is one of {', '.join(_IMPORTABLE)}"
        )
    return value


def _namespaces(_caller: Caller, value: Json) -> Json:
    if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
        raise ditto_error("policies:entry.invalid", reason="'namespaces' is an array of texts")
    return value


def _imports(caller: Caller, value: Json) -> Json:
    imports: JsonObject = {}
    for policy_id, body in checked_object(value, "'imports'").items():
        imports[checked_import_id(caller, policy_id)] = _import(caller, body)
    return imports


def checked_import_id(caller: Caller, policy_id: str) -> str:
    check_entity_id(policy_id, "policies:id.invalid")
    if policy_id == caller.policy_id:
        raise ditto_error("policies:import.invalid", reason="a policy cannot import itself")
    return policy_id


def _import(caller: Caller, value: Json) -> Json:
    given = checked_object(value or {}, "an import")
    if given.get("transitiveImports"):
        raise NotBuilt("policies: transitive imports are not built")
    listed = given.get("entries")
    return {"entries": _import_entries(caller, listed)} if listed is not None else {}


def _import_entries(_caller: Caller, value: Json) -> Json:
    if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
        raise ditto_error("policies:import.invalid", reason="'entries' is an array of labels")
    return value


CHECKS: Final[dict[PolicyPart, Callable[[Caller, Json], Json]]] = {
    PolicyPart.POLICY: policy_document,
    PolicyPart.ENTRIES: _entries,
    PolicyPart.ENTRY: _entry,
    PolicyPart.SUBJECTS: _subjects,
    PolicyPart.SUBJECT: _subject,
    PolicyPart.RESOURCES: _resources,
    PolicyPart.RESOURCE: _resource,
    PolicyPart.IMPORTABLE: _importable,
    PolicyPart.NAMESPACES: _namespaces,
    PolicyPart.IMPORTS: _imports,
    PolicyPart.IMPORT: _import,
    PolicyPart.IMPORT_ENTRIES: _import_entries,
}


def default_policy(subject: str) -> JsonObject:
    """The policy of a thing that was created without one."""
    everything: list[Json] = [Permission.READ.value, Permission.WRITE.value]
    return {
        "entries": {
            "DEFAULT": {
                "subjects": {subject: {"type": "generated"}},
                "resources": {
                    f"{kind}:/": {"grant": list(everything), "revoke": []} for kind in _KINDS
                },
                "importable": "implicit",
            }
        }
    }


def policy_json(policy: Policy) -> JsonObject:
    """A policy as it is shown."""
    return {"policyId": policy.policy_id, **policy.document}


def check_new_policy_id(text: Json) -> str:
    """A policy id from a body.

    Errors: BadRequest `policies:id.invalid`.
    """
    if not isinstance(text, str) or not is_entity_id(text):
        return check_entity_id(str(text), "policies:id.invalid")
    return text
