"""Commands on policies: what a policy's parts take, and what a change leads to."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from gateway.errors import GatewayError, NotBuilt
from gateway.model.entity_id import check_entity_id, is_entity_id, is_key
from gateway.model.json import Json, JsonObject, Pointer, parse_pointer
from gateway.model.policy import Permission, Policy, PolicyCommand, PolicyEvent
from gateway.model.thing import Action, EventAction
from gateway.twin.conditions import IfEqual, check_tags, equal_refused, revision_tag, value_tag
from gateway.twin.ditto_errors import ditto_error
from gateway.twin.documents import MISSING, Maybe, encoded, get, put, remove, same
from gateway.twin.limits import Limits
from gateway.twin.policy import WRITE, Enforcer, Permissions, build_enforcer

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


_ERROR_PART: Final = {
    PolicyPart.ENTRIES: "policy",
    PolicyPart.IMPORTABLE: "entry",
    PolicyPart.NAMESPACES: "entry",
    PolicyPart.IMPORT_ENTRIES: "import",
}
_OF_ENTRY: Final[dict[str, tuple[PolicyPart, PolicyPart | None]]] = {
    "subjects": (PolicyPart.SUBJECTS, PolicyPart.SUBJECT),
    "resources": (PolicyPart.RESOURCES, PolicyPart.RESOURCE),
    "importable": (PolicyPart.IMPORTABLE, None),
    "namespaces": (PolicyPart.NAMESPACES, None),
}
_LATER: Final = frozenset(("allowedAdditions", "references", "transitiveImports"))
_UNDELETABLE: Final = frozenset(
    (
        PolicyPart.ENTRIES,
        PolicyPart.SUBJECTS,
        PolicyPart.RESOURCES,
        PolicyPart.IMPORTABLE,
        PolicyPart.NAMESPACES,
        PolicyPart.IMPORT_ENTRIES,
    )
)


def policy_part_of(path: Pointer) -> PolicyPart:
    """Which part a path from the policy's root names.

    Errors: BadRequest `protocoladapter:unknown.path`; NotBuilt for references and transitive imports.
    """
    part = _lookup(path)
    if part is None:
        if len(path) > 2 and path[-1] in _LATER:
            raise NotBuilt(f"policies: '{path[-1]}' is not built")
        raise ditto_error("protocoladapter:unknown.path", path=path)
    return part


def _lookup(path: Pointer) -> PolicyPart | None:
    match path:
        case ():
            return PolicyPart.POLICY
        case ("entries",):
            return PolicyPart.ENTRIES
        case ("entries", _):
            return PolicyPart.ENTRY
        case ("entries", _, name):
            return _OF_ENTRY.get(name, (None, None))[0]
        case ("entries", _, name, _):
            return _OF_ENTRY.get(name, (None, None))[1]
        case ("imports",):
            return PolicyPart.IMPORTS
        case ("imports", _):
            return PolicyPart.IMPORT
        case ("imports", _, "entries"):
            return PolicyPart.IMPORT_ENTRIES
        case _:
            return None


def _facts(policy_id: str, path: Pointer) -> dict[str, object]:
    facts: dict[str, object] = {"id": policy_id, "path": path, "key": path[-1] if path else ""}
    if len(path) > 1 and path[0] == "entries":
        facts["label"] = path[1]
    return facts


def policy_not_found(policy_id: str, path: Pointer = ()) -> GatewayError:
    """404 of a part of a policy: absent, or not readable."""
    part = policy_part_of(path)
    return ditto_error(f"policies:{_ERROR_PART.get(part, part)}.notfound", _facts(policy_id, path))


def policy_not_modifiable(policy_id: str, path: Pointer = ()) -> GatewayError:
    """403 of a part of a policy: not writable."""
    part = policy_part_of(path)
    return ditto_error(
        f"policies:{_ERROR_PART.get(part, part)}.notmodifiable", _facts(policy_id, path)
    )


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
    given = _object(value, "a Policy")
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


def _object(value: Json, what: str) -> JsonObject:
    if not isinstance(value, dict):
        raise ditto_error("json.invalid", reason=f"{what} is a JSON object")
    return value


def _entries(caller: Caller, value: Json) -> Json:
    return {
        _label(label): _entry(caller, body) for label, body in _object(value, "'entries'").items()
    }


def _label(label: str) -> str:
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
    given = _object(value, "a policy entry")
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
    for key, body in _object(value, "'subjects'").items():
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
    given = _object(value, "a subject")
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
    for key, body in _object(value, "'resources'").items():
        resources[_resource_key(key)] = _resource(caller, body)
    return resources


def _resource_key(key: str) -> str:
    kind, colon, path = key.partition(":")
    if not colon or kind not in _KINDS or not path.startswith("/"):
        raise ditto_error(
            "policies:entry.invalid",
            reason=f"the resource '{key[:200]}' is not '<{'|'.join(_KINDS)}>:/<path>'",
        )
    parse_pointer(path)
    return key


def _resource(_caller: Caller, value: Json) -> Json:
    given = _object(value, "a resource")
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
    for policy_id, body in _object(value, "'imports'").items():
        imports[_import_id(caller, policy_id)] = _import(caller, body)
    return imports


def _import_id(caller: Caller, policy_id: str) -> str:
    check_entity_id(policy_id, "policies:id.invalid")
    if policy_id == caller.policy_id:
        raise ditto_error("policies:import.invalid", reason="a policy cannot import itself")
    return policy_id


def _import(caller: Caller, value: Json) -> Json:
    given = _object(value or {}, "an import")
    if given.get("transitiveImports"):
        raise NotBuilt("policies: transitive imports are not built")
    listed = given.get("entries")
    return {"entries": _import_entries(caller, listed)} if listed is not None else {}


def _import_entries(_caller: Caller, value: Json) -> Json:
    if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
        raise ditto_error("policies:import.invalid", reason="'entries' is an array of labels")
    return value


_CHECKS: Final[dict[PolicyPart, Callable[[Caller, Json], Json]]] = {
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


# --- deciding ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PolicyDecision:
    """What a command leads to: the answer, and the event to store."""

    status: int
    event: PolicyEvent
    value: Maybe
    etag: str | None


@dataclass(frozen=True, slots=True)
class PolicyContext:
    """What judging needs beside policy and command.

    Shape:  `revision` is the last one that the id ever had; `imported` the documents that the change may
            import; `permissions` None where there is no policy yet.
    """

    now: str
    revision: int
    permissions: Permissions | None
    limits: Limits
    imported: dict[str, JsonObject]


def read_policy(policy: Policy, command: PolicyCommand, permissions: Permissions) -> Json:
    """The value at the command's path as the caller may read it.

    Errors: 404 of the part; 304 or 412 of entity tags.
    """
    part, path = policy_part_of(command.path), command.path
    value = get(policy_json(policy), path)
    seen = (
        permissions.view(_resource_path(path), value, "policy") if value is not MISSING else MISSING
    )
    if seen is MISSING:
        raise policy_not_found(policy.policy_id, path)
    tag = policy_tag(policy, part, value)
    check_tags(command.headers, tag, service="policies", is_read=True)
    if part is PolicyPart.POLICY and isinstance(seen, dict):
        return {"policyId": policy.policy_id, **seen}
    return seen


def _resource_path(path: Pointer) -> Pointer:
    """The path as resource keys name it: a resource key below `resources` counts as its segments."""
    if len(path) > 3 and path[2] == "resources":
        return (*path[:3], *parse_pointer(path[3]))
    return path


def policy_tag(policy: Policy, part: PolicyPart, value: Maybe) -> str | None:
    """The entity tag of a part, None where it is absent."""
    if value is MISSING:
        return None
    return revision_tag(policy.revision) if part is PolicyPart.POLICY else value_tag(value)


def decide_policy(
    policy: Policy | None, command: PolicyCommand, context: PolicyContext
) -> PolicyDecision:
    """Judge a change of a policy.

    Errors: those of Ditto's policies: 403, 404, 409, 412, 413, 400.
    """
    part = policy_part_of(command.path)
    if policy is None:
        return _decide_absent(command, part, context)
    _authorize(command, context)
    if command.action is Action.CREATE:
        raise ditto_error("policies:policy.conflict", id=command.policy_id)
    present = get(policy_json(policy), command.path)
    tag = policy_tag(policy, part, present)
    check_tags(command.headers, tag, service="policies", is_read=False)
    if command.action is Action.DELETE:
        return _delete(policy, command, part, context)
    value = _checked(command, part, context)
    if IfEqual.of(command.headers) is not IfEqual.UPDATE and present is not MISSING:
        shown = {"policyId": policy.policy_id, **_object(value, "")} if not command.path else value
        if same(present, shown):
            raise equal_refused("policies", tag)
    return _modify(policy, command, part, value, context)


def _decide_absent(
    command: PolicyCommand, part: PolicyPart, context: PolicyContext
) -> PolicyDecision:
    if part is not PolicyPart.POLICY or command.action is Action.DELETE:
        raise policy_not_found(command.policy_id)
    check_tags(command.headers, None, service="policies", is_read=False)
    document = policy_document(_caller(command, context), command.value)
    return created_policy(command, document, context)


def created_policy(
    command: PolicyCommand, document: JsonObject, context: PolicyContext
) -> PolicyDecision:
    """A new policy from a checked document.

    Errors: 403 `policies:policy.notcreatable` when the caller would not hold WRITE on it.
    """
    enforcer = build_enforcer(document, context.imported)
    if not _allows_lockout(command):
        mine = enforcer.permissions(command.subjects, "", context.now)
        if not mine.unrestricted("policy", (), WRITE):
            raise ditto_error("policies:policy.notcreatable", id=command.policy_id)
    made = Policy(command.policy_id, context.revision + 1, document, context.now, context.now)
    _check_usable(made, command, enforcer, context)
    event = _event(command, context, EventAction.CREATED, policy_json(made), None, made)
    return PolicyDecision(201, event, policy_json(made), revision_tag(made.revision))


def _allows_lockout(command: PolicyCommand) -> bool:
    return str(command.headers.get("allow-policy-lockout", "")).lower() == "true"


def _caller(command: PolicyCommand, context: PolicyContext) -> Caller:
    return Caller(command.policy_id, (*command.subjects, "")[0], context.now)


def _authorize(command: PolicyCommand, context: PolicyContext) -> None:
    permissions = context.permissions
    path = _resource_path(command.path)
    if permissions is None or not permissions.unrestricted("policy", path, WRITE):
        raise policy_not_modifiable(command.policy_id, command.path)


def _checked(command: PolicyCommand, part: PolicyPart, context: PolicyContext) -> Json:
    """The new value in its stored form; keys on the path are checked with it."""
    caller = _caller(command, context)
    match command.path:
        case ("entries", label, *_):
            _label(label)
        case ("imports", policy_id, *_):
            _import_id(caller, policy_id)
    if part is PolicyPart.SUBJECT:
        resolved_subject(caller, command.path[-1])
    elif part is PolicyPart.RESOURCE:
        _resource_key(command.path[-1])
    return _CHECKS[part](caller, command.value)


def _target(command: PolicyCommand, part: PolicyPart, context: PolicyContext) -> Pointer:
    """The path that is written; a placeholder in a subject id is resolved in it."""
    if part is PolicyPart.SUBJECT:
        return (*command.path[:-1], resolved_subject(_caller(command, context), command.path[-1]))
    return command.path


def _modify(
    policy: Policy, command: PolicyCommand, part: PolicyPart, value: Json, context: PolicyContext
) -> PolicyDecision:
    path = _target(command, part, context)
    if len(path) > 2 and get(policy.document, path[:2]) is MISSING:
        raise policy_not_found(command.policy_id, path[:2])
    existed = get(policy.document, path) is not MISSING or part is PolicyPart.IMPORTS
    document = put(policy.document, path, value) if path else _object(value, "a Policy")
    after = Policy(policy.policy_id, policy.revision + 1, document, policy.created, context.now)
    _check_usable(after, command, build_enforcer(document, context.imported), context)
    shown: Json = policy_json(after) if not path else value
    action = EventAction.MODIFIED if existed else EventAction.CREATED
    event = _event(command, context, action, shown, policy, after, path)
    tag = policy_tag(after, part, shown)
    return PolicyDecision(204 if existed else 201, event, MISSING if existed else shown, tag)


def _delete(
    policy: Policy, command: PolicyCommand, part: PolicyPart, context: PolicyContext
) -> PolicyDecision:
    if part is PolicyPart.POLICY:
        event = _event(command, context, EventAction.DELETED, None, policy, None)
        return PolicyDecision(204, event, MISSING, None)
    if part in _UNDELETABLE:
        raise ditto_error("protocoladapter:unknown.path", path=command.path)
    if get(policy.document, command.path) is MISSING:
        raise policy_not_found(command.policy_id, command.path)
    document = remove(policy.document, command.path)
    after = Policy(policy.policy_id, policy.revision + 1, document, policy.created, context.now)
    _check_usable(after, command, build_enforcer(document, context.imported), context)
    event = _event(command, context, EventAction.DELETED, None, policy, after)
    return PolicyDecision(204, event, MISSING, None)


def _check_usable(
    policy: Policy, command: PolicyCommand, enforcer: Enforcer, context: PolicyContext
) -> None:
    size = len(encoded(policy.document))
    if size > context.limits.policy_bytes:
        raise ditto_error("policies:policy.toolarge", size=size, limit=context.limits.policy_bytes)
    imports = policy.document.get("imports")
    if isinstance(imports, dict) and len(imports) > context.limits.policy_imports:
        raise ditto_error("policies:imports.toolarge", limit=context.limits.policy_imports)
    if imports or enforcer.has_permanent_writer():
        return
    reason = "It needs a subject without expiry that holds 'WRITE' on 'policy:/', not revoked."
    code = "policies:entry.modificationinvalid" if len(command.path) > 1 else None
    raise ditto_error(
        code or "policies:policy.modificationinvalid",
        {**_facts(command.policy_id, command.path), "reason": reason},
    )


def _event(
    command: PolicyCommand,
    context: PolicyContext,
    action: EventAction,
    value: Json,
    before: Policy | None,
    after: Policy | None,
    path: Pointer | None = None,
) -> PolicyEvent:
    return PolicyEvent(
        policy_id=command.policy_id,
        action=action,
        path=command.path if path is None else path,
        revision=context.revision + 1,
        timestamp=context.now,
        after=after,
        before=before,
        value=value,
        originator=command.originator,
        subjects=command.subjects,
        trace=command.trace,
    )


def check_new_policy_id(text: Json) -> str:
    """A policy id from a body.

    Errors: BadRequest `policies:id.invalid`.
    """
    if not isinstance(text, str) or not is_entity_id(text):
        return check_entity_id(str(text), "policies:id.invalid")
    return text
