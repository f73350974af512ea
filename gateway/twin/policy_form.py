"""The form of a policy: what each of its parts takes as a value, and how it is stored."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gateway.errors import GatewayError
from gateway.model.entity_id import check_entity_id, is_entity_id, is_key, is_namespace
from gateway.model.json import Json, JsonObject, parse_pointer
from gateway.model.policy import Permission, Policy
from gateway.twin.ditto_errors import ditto_error
from gateway.twin.durations import (
    duration_text,
    instant_of,
    instant_rounded_up,
    instant_text,
    rounded_up,
    seconds_of,
)
from gateway.twin.limits import DEFAULT_LIMITS, Limits
from gateway.twin.policy import comparable
from gateway.twin.policy_resolution import ADDITIONS

_SUBJECT = re.compile(r"[^:]+:.+", re.DOTALL)
_PLACEHOLDER = re.compile(r"\{\{\s*request:subjectId\s*\}\}|\$\{request\.subjectId\}")
_KINDS: Final = ("thing", "policy", "message")
_IMPORTABLE: Final = ("implicit", "explicit", "never")
_MAX_SUBJECT = 1_024
_LABEL = re.compile(r"[a-zA-Z0-9\-_:]{3,165}")
_MAX_ACKS = 10
_MAX_REFERENCES = 100
MAX_ACK_SECONDS: Final = 60.0
DEFAULT_ACK_SECONDS: Final = 10.0


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
    ADDITIONS = "allowedAdditions"
    REFERENCES = "references"
    IMPORTS = "imports"
    IMPORT = "import"
    IMPORT_ENTRIES = "import.entries"
    TRANSITIVE_IMPORTS = "import.transitiveImports"


# --- form --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Caller:
    """What checking a policy's form needs to know beside it."""

    policy_id: str
    subject: str
    now: str
    limits: Limits = DEFAULT_LIMITS


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
    entry: JsonObject = {
        "subjects": _subjects(caller, given.get("subjects") or {}),
        "resources": _resources(caller, given.get("resources") or {}),
        "importable": _importable(caller, given.get("importable") or "implicit"),
    }
    for member, check in (
        ("namespaces", _namespaces),
        ("allowedAdditions", _additions),
        ("references", _references),
    ):
        if given.get(member) is not None:
            entry[member] = check(caller, given[member])
    return entry


def _additions(_caller: Caller, value: Json) -> Json:
    """Which kinds of own members a referring entry keeps; an empty array allows none."""
    if not isinstance(value, list) or any(one not in ADDITIONS for one in value):
        raise _entry_invalid(f"'allowedAdditions' is an array of {', '.join(ADDITIONS)}")
    return list(dict.fromkeys(value))


def _references(_caller: Caller, value: Json) -> Json:
    if not isinstance(value, list) or len(value) > _MAX_REFERENCES:
        raise _entry_invalid(f"'references' is an array of at most {_MAX_REFERENCES} objects")
    references = [_reference(one) for one in value]
    if any(one in references[:at] for at, one in enumerate(references)):
        raise _entry_invalid("'references' names an entry twice")
    return references


def _reference(value: Json) -> Json:
    label = value.get("entry") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(label, str) or not is_key(label):
        raise _entry_invalid("a reference is an object with the label 'entry'")
    if value.get("import") is None:
        return {"entry": label}
    return {"import": check_entity_id(str(value["import"]), "policies:id.invalid"), "entry": label}


def _entry_invalid(reason: str) -> GatewayError:
    return ditto_error("policies:entry.invalid", reason=reason)


def _subjects(caller: Caller, value: Json) -> Json:
    subjects: JsonObject = {}
    for key, body in checked_object(value, "'subjects'").items():
        subjects[resolved_subject(caller, key)] = _subject(caller, body)
    return subjects


def resolved_subject(caller: Caller, key: str) -> str:
    """A subject id with its placeholder replaced by the caller.

    Errors: BadRequest `policies:subjectid.invalid`.
    """
    return checked_subject_id(_PLACEHOLDER.sub(lambda _: caller.subject, key), key)


def checked_subject_id(subject: str, key: str = "") -> str:
    """A subject id; `key` is how it was written.

    Errors: BadRequest `policies:subjectid.invalid`.
    """
    if len(subject) > _MAX_SUBJECT or _SUBJECT.fullmatch(subject) is None:
        raise ditto_error("policies:subjectid.invalid", key=(key or subject)[:200])
    return subject


def _subject(caller: Caller, value: Json) -> Json:
    given = checked_object(value, "a subject")
    subject: JsonObject = {"type": str(given.get("type") or "unknown")}
    if given.get("expiry") is not None:
        subject["expiry"] = _expiry(caller, given["expiry"])
    if given.get("announcement"):
        subject["announcement"] = subject_announcement(given["announcement"], caller.limits)
    return subject


def _expiry(caller: Caller, value: Json) -> str:
    """An instant to come, rounded up to the grain of expiry."""
    try:
        moment = instant_of(str(value))
        rounded = instant_rounded_up(moment, caller.limits.expiry_grain)
    except (ValueError, OverflowError) as error:
        raise ditto_error(
            "policies:subjectexpiry.invalid", value=value, reason=str(error)
        ) from error
    if comparable(instant_text(moment)) <= comparable(caller.now):
        raise ditto_error("policies:subjectexpiry.invalid", value=value, reason="it is in the past")
    return instant_text(rounded)


def subject_announcement(value: Json, limits: Limits) -> Json:
    """When and how the deletion of a subject is announced.

    Errors: BadRequest `policies:subjectannouncement.invalid`.
    """
    if not isinstance(value, dict):
        raise _announcement_invalid("it is an object")
    found: JsonObject = {}
    if value.get("beforeExpiry") is not None:
        before = rounded_up(_seconds(value, "beforeExpiry"), limits.announcement_grain)
        found["beforeExpiry"] = duration_text(before)
    found["whenDeleted"] = _when_deleted(value.get("whenDeleted") or False)
    if value.get("requestedAcks") is not None:
        found["requestedAcks"] = _requested_acks(value["requestedAcks"])
    if value.get("randomizationInterval") is not None:
        interval = _seconds(value, "randomizationInterval")
        found["randomizationInterval"] = duration_text(interval)
    return found


def _seconds(value: JsonObject, name: str) -> float:
    try:
        return seconds_of(value[name])
    except ValueError as error:
        raise _announcement_invalid(f"'{name}': {error}") from error


def _when_deleted(value: Json) -> bool:
    if not isinstance(value, bool):
        raise _announcement_invalid("'whenDeleted' is true or false")
    return value


def _requested_acks(value: Json) -> Json:
    labels = value.get("labels") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(labels, list) or len(labels) > _MAX_ACKS:
        raise _announcement_invalid(f"'requestedAcks' has at most {_MAX_ACKS} 'labels'")
    for label in labels:
        if not isinstance(label, str) or _LABEL.fullmatch(label) is None:
            raise _announcement_invalid(f"'{str(label)[:200]}' is no acknowledgement label")
    acks: JsonObject = {"labels": labels}
    if value.get("timeout") is not None:
        seconds = _seconds(value, "timeout")
        if seconds > MAX_ACK_SECONDS:
            raise _announcement_invalid(f"'timeout' is at most {MAX_ACK_SECONDS:g}s")
        acks["timeout"] = duration_text(seconds)
    return acks


def _announcement_invalid(reason: str) -> GatewayError:
    return ditto_error("policies:subjectannouncement.invalid", reason=reason)


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
    if not isinstance(value, list) or not all(_is_pattern(one) for one in value):
        raise _entry_invalid("'namespaces' is an array of '<namespace>' or '<prefix>.*'")
    return value


def _is_pattern(value: Json) -> bool:
    if not isinstance(value, str):
        return False
    namespace = value.removesuffix(".*")
    return bool(namespace) and is_namespace(namespace)


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
    found: JsonObject = {}
    if given.get("entries") is not None:
        found["entries"] = _import_entries(caller, given["entries"])
    if given.get("transitiveImports"):
        found["transitiveImports"] = _transitive_imports(caller, given["transitiveImports"])
    return found


def _transitive_imports(caller: Caller, value: Json) -> Json:
    """Policies that the imported one imports itself; the importer is none of them."""
    if not isinstance(value, list):
        raise ditto_error("policies:import.invalid", reason="'transitiveImports' is an array")
    return list(dict.fromkeys(checked_import_id(caller, str(one)) for one in value))


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
    PolicyPart.ADDITIONS: _additions,
    PolicyPart.REFERENCES: _references,
    PolicyPart.IMPORTS: _imports,
    PolicyPart.IMPORT: _import,
    PolicyPart.IMPORT_ENTRIES: _import_entries,
    PolicyPart.TRANSITIVE_IMPORTS: _transitive_imports,
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
