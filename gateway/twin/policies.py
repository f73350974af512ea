"""Commands on policies: what a policy's parts take, and what a change leads to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from gateway.errors import GatewayError
from gateway.model.entity_id import namespace_of
from gateway.model.json import Json, JsonObject, Pointer, parse_pointer
from gateway.model.policy import Policy, PolicyCommand, PolicyEvent
from gateway.model.thing import Action, EventAction
from gateway.twin.conditions import IfEqual, check_tags, equal_refused, revision_tag, value_tag
from gateway.twin.ditto_errors import ditto_error
from gateway.twin.documents import MISSING, Maybe, encoded, get, put, remove, same
from gateway.twin.limits import Limits
from gateway.twin.policy import READ, WRITE, Permissions, build_enforcer
from gateway.twin.policy_form import (
    CHECKS,
    Caller,
    PolicyPart,
    checked_import_id,
    checked_label,
    checked_object,
    checked_resource_key,
    policy_document,
    policy_json,
    resolved_subject,
)
from gateway.twin.policy_references import (
    Rights,
    check_imports,
    check_references,
    check_still_imported,
    check_unreferenced,
    written_imports,
)
from gateway.twin.policy_resolution import Documents, members

_ERROR_PART: Final = {
    PolicyPart.ENTRIES: "policy",
    PolicyPart.IMPORTABLE: "entry",
    PolicyPart.NAMESPACES: "entry",
    PolicyPart.ADDITIONS: "entry",
    PolicyPart.REFERENCES: "entry",
    PolicyPart.IMPORT_ENTRIES: "import",
    PolicyPart.TRANSITIVE_IMPORTS: "import",
}
_OF_ENTRY: Final[dict[str, tuple[PolicyPart, PolicyPart | None]]] = {
    "subjects": (PolicyPart.SUBJECTS, PolicyPart.SUBJECT),
    "resources": (PolicyPart.RESOURCES, PolicyPart.RESOURCE),
    "importable": (PolicyPart.IMPORTABLE, None),
    "namespaces": (PolicyPart.NAMESPACES, None),
    "allowedAdditions": (PolicyPart.ADDITIONS, None),
    "references": (PolicyPart.REFERENCES, None),
}
_OF_IMPORT: Final = {
    "entries": PolicyPart.IMPORT_ENTRIES,
    "transitiveImports": PolicyPart.TRANSITIVE_IMPORTS,
}
_EMPTY_WHEN_ABSENT: Final = frozenset(
    (
        PolicyPart.REFERENCES,
        PolicyPart.ADDITIONS,
        PolicyPart.IMPORT_ENTRIES,
        PolicyPart.TRANSITIVE_IMPORTS,
    )
)
"""Arrays that read as empty where they were never written."""
_ALWAYS_THERE: Final = frozenset(
    (
        PolicyPart.IMPORTS,
        PolicyPart.NAMESPACES,
        PolicyPart.ADDITIONS,
        PolicyPart.IMPORT_ENTRIES,
        PolicyPart.TRANSITIVE_IMPORTS,
    )
)
"""Parts that a change modifies and never creates."""
_WITH_REFERENCES: Final = frozenset(
    (PolicyPart.POLICY, PolicyPart.ENTRIES, PolicyPart.ENTRY, PolicyPart.REFERENCES)
)
_KEPT: Final = ("correlation-id",)
"""Headers of a command that its event carries."""
_UNDELETABLE: Final = frozenset(
    (
        PolicyPart.ENTRIES,
        PolicyPart.SUBJECTS,
        PolicyPart.RESOURCES,
        PolicyPart.IMPORTABLE,
        PolicyPart.NAMESPACES,
        PolicyPart.IMPORT_ENTRIES,
        PolicyPart.TRANSITIVE_IMPORTS,
    )
)


def policy_part_of(path: Pointer) -> PolicyPart:
    """Which part a path from the policy's root names.

    Errors: BadRequest `protocoladapter:unknown.path`.
    """
    part = _lookup(path)
    if part is None:
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
        case ("imports", _, name):
            return _OF_IMPORT.get(name)
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

    Shape:  `revision` is the last one that the id ever had; `imported` finds the documents that the change
            may import, and `rights` what the caller may do under them; `permissions` None where there is
            no policy yet; `roots` the operator's root policies of its namespace.
    """

    now: str
    revision: int
    permissions: Permissions | None
    limits: Limits
    imported: Documents
    roots: Mapping[str, JsonObject] = field(default_factory=dict)
    rights: Rights = lambda _policy_id: None


def read_policy(policy: Policy, command: PolicyCommand, permissions: Permissions) -> Json:
    """The value at the command's path as the caller may read it.

    Errors: 404 of the part; 304 or 412 of entity tags.
    """
    part, path = policy_part_of(command.path), command.path
    value = get(policy_json(policy), path)
    if value is MISSING and part in _EMPTY_WHEN_ABSENT:
        value = [] if get(policy.document, path[:2]) is not MISSING else MISSING
    seen = (
        permissions.view(resource_path(path), value, "policy") if value is not MISSING else MISSING
    )
    if seen is MISSING:
        raise policy_not_found(policy.policy_id, path)
    tag = policy_tag(policy, part, value)
    check_tags(command.headers, tag, service="policies", is_read=True)
    if part is PolicyPart.POLICY and isinstance(seen, dict):
        return {"policyId": policy.policy_id, **seen}
    return seen


def reduced_policy_event(event: PolicyEvent, permissions: Permissions) -> PolicyEvent | None:
    """The event with what may be read of its value, None for nothing."""
    path = resource_path(event.path)
    if event.action is EventAction.DELETED:
        return event if permissions.partial("policy", path, READ) else None
    seen = permissions.view(path, event.value, "policy")
    return None if seen is MISSING else replace(event, value=seen)


def resource_path(path: Pointer) -> Pointer:
    """The path as resource keys name it: a resource key below `resources` counts as its segments."""
    if len(path) > 3 and path[2] == "resources":
        kind, colon, below = path[3].partition(":")
        return (*path[:3], kind + colon, *parse_pointer(below))
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
    try:
        authorize_policy(command.policy_id, command.path, context.permissions)
    except GatewayError:
        _check_form(command, part, context)
        raise
    if command.action is Action.CREATE:
        raise ditto_error("policies:policy.conflict", id=command.policy_id)
    present = get(policy_json(policy), command.path)
    tag = policy_tag(policy, part, present)
    if command.action is not Action.DELETE or tag is not None:
        check_tags(command.headers, tag, service="policies", is_read=False)
    if command.action is Action.DELETE:
        return _delete(policy, command, part, context)
    value = _checked(command, part, context)
    if IfEqual.of(command.headers) is not IfEqual.UPDATE and present is not MISSING:
        shown = (
            {"policyId": policy.policy_id, **checked_object(value, "")}
            if not command.path
            else value
        )
        if same(present, shown):
            raise equal_refused("policies", tag)
    return _modify(policy, command, part, value, context)


def _decide_absent(
    command: PolicyCommand, part: PolicyPart, context: PolicyContext
) -> PolicyDecision:
    if part is not PolicyPart.POLICY or command.action is Action.DELETE:
        _check_form(command, part, context)
        raise policy_not_found(command.policy_id)
    document = policy_document(_caller(command, context), command.value)
    check_tags(command.headers, None, service="policies", is_read=False)
    return created_policy(command, document, context)


def created_policy(
    command: PolicyCommand, document: JsonObject, context: PolicyContext
) -> PolicyDecision:
    """A new policy from a checked document.

    Errors: 403 `policies:policy.notcreatable` when the caller would not hold WRITE on it.
    """
    policy_id = command.policy_id
    if not _allows_lockout(command):
        enforcer = build_enforcer(document, context.imported, context.roots, policy_id)
        mine = enforcer.permissions(command.subjects, namespace_of(policy_id), context.now)
        if not mine.unrestricted("policy", (), WRITE):
            raise ditto_error("policies:policy.notcreatable", id=command.policy_id)
    made = Policy(policy_id, context.revision + 1, document, context.now, context.now)
    check_usable(made, command.path, context)
    check_imports(document, context.imported, context.rights)
    check_references(document, context.imported, context.rights)
    event = _event(command, context, EventAction.CREATED, policy_json(made), None, made)
    return PolicyDecision(201, event, policy_json(made), revision_tag(made.revision))


def _allows_lockout(command: PolicyCommand) -> bool:
    return str(command.headers.get("allow-policy-lockout", "")).lower() == "true"


def _caller(command: PolicyCommand, context: PolicyContext) -> Caller:
    return Caller(command.policy_id, (*command.subjects, "")[0], context.now, context.limits)


def authorize_policy(policy_id: str, path: Pointer, permissions: Permissions | None) -> None:
    """Refuse a change of a part of a policy that its caller may not make.

    Errors: 403 `policies:*.notmodifiable`.
    """
    if permissions is None or not permissions.unrestricted("policy", resource_path(path), WRITE):
        raise policy_not_modifiable(policy_id, path)


def _checked(command: PolicyCommand, part: PolicyPart, context: PolicyContext) -> Json:
    """The new value in its stored form; keys on the path are checked with it."""
    caller = _caller(command, context)
    match command.path:
        case ("entries", label, *_):
            checked_label(label)
        case ("imports", policy_id, *_):
            checked_import_id(caller, policy_id)
    if part is PolicyPart.SUBJECT:
        resolved_subject(caller, command.path[-1])
    elif part is PolicyPart.RESOURCE:
        checked_resource_key(command.path[-1])
    return CHECKS[part](caller, command.value)


def _check_form(command: PolicyCommand, part: PolicyPart, context: PolicyContext) -> None:
    """Refuse a value that no policy could hold: that is said before who may do it, and to what."""
    if command.action is not Action.DELETE:
        _checked(command, part, context)


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
    existed = part in _ALWAYS_THERE or get(policy.document, path) not in (MISSING, [])
    document = put(policy.document, path, value) if path else checked_object(value, "a Policy")
    after = Policy(policy.policy_id, policy.revision + 1, document, policy.created, context.now)
    check_usable(after, command.path, context)
    check_imports(written_imports(document, part, path), context.imported, context.rights)
    if part in (PolicyPart.IMPORTS, PolicyPart.IMPORT, PolicyPart.IMPORT_ENTRIES):
        check_still_imported(policy, document)
    elif part is PolicyPart.IMPORTABLE and value == "never":
        check_unreferenced(policy, document, path[1])
    elif part in _WITH_REFERENCES:
        check_references(document, context.imported, context.rights, path[1:2])
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
    if part is PolicyPart.ENTRY:
        check_unreferenced(policy, document, command.path[1])
    elif part in (PolicyPart.IMPORTS, PolicyPart.IMPORT):
        check_still_imported(policy, document)
    after = Policy(policy.policy_id, policy.revision + 1, document, policy.created, context.now)
    check_usable(after, command.path, context)
    event = _event(command, context, EventAction.DELETED, None, policy, after)
    return PolicyDecision(204, event, MISSING, None)


def check_usable(policy: Policy, path: Pointer, context: PolicyContext) -> None:
    """Refuse a policy that is too large or that nobody could change any more.

    Shape:  `path` is what was written; it names the code.
    Errors: 413 `policies:policy.toolarge`, 400 `policies:imports.toolarge`, 403 `*.modificationinvalid`.
    """
    size = len(encoded(policy.document))
    if size > context.limits.policy_bytes:
        raise ditto_error("policies:policy.toolarge", size=size, limit=context.limits.policy_bytes)
    imports = policy.document.get("imports")
    if isinstance(imports, dict) and len(imports) > context.limits.policy_imports:
        raise ditto_error("policies:imports.toolarge", limit=context.limits.policy_imports)
    if imports or not context.limits.lockout_prevention:
        return
    enforcer = build_enforcer(policy.document, {})
    if enforcer.has_permanent_writer(namespace_of(policy.policy_id)):
        return
    reason = "It needs a subject without expiry that holds 'WRITE' on 'policy:/', not revoked."
    code = "policies:entry.modificationinvalid" if len(path) > 1 else None
    raise ditto_error(
        code or "policies:policy.modificationinvalid",
        {**_facts(policy.policy_id, path), "reason": reason},
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
        headers={name: command.headers[name] for name in _KEPT if name in command.headers},
        originator=command.originator,
        subjects=command.subjects,
        trace=command.trace,
    )


# --- the past ----------------------------------------------------------------------------------


def applied(policy: Policy | None, event: PolicyEvent) -> Policy | None:
    """The policy after an event that the store kept, without its states."""
    if event.action is EventAction.DELETED and not event.path:
        return None
    document = policy.document if policy is not None else {}
    if not event.path:
        document = {k: v for k, v in members(event.value).items() if k != "policyId"}
    elif event.action is EventAction.DELETED:
        document = remove(document, event.path)
    else:
        document = put(document, event.path, event.value)
    created = policy.created if policy is not None else event.timestamp
    return Policy(event.policy_id, event.revision, document, created, event.timestamp)


def replayed_policy(base: Policy | None, events: Iterable[PolicyEvent]) -> Policy | None:
    """The state after a run of events."""
    for event in events:
        base = applied(base, event)
    return base
