"""The rules of things: a thing and a command in, the event that follows out.

`judge` checks in Ditto's order (permission, entity tags, `condition`, `if-equal`), decides, and checks the
result. Applying is part of deciding: an event holds the state after it, and cannot fail later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

from gateway.errors import GatewayError
from gateway.model.json import Json, JsonObject, Pointer
from gateway.model.thing import (
    BUILT_IN_ACKS,
    Action,
    EventAction,
    Thing,
    ThingCommand,
    ThingEvent,
)
from gateway.twin import merge, metadata, patch
from gateway.twin.authorization import authorize, refusal
from gateway.twin.conditions import IfEqual, check_tags, equal_refused
from gateway.twin.ditto_errors import ditto_error
from gateway.twin.documents import MISSING, Maybe, encoded, get, put, remove, same
from gateway.twin.limits import Limits
from gateway.twin.policy import WRITE
from gateway.twin.resources import (
    Part,
    checked_at,
    checked_path,
    checked_value,
    not_found,
    part_of,
    thing_document,
)
from gateway.twin.rql_predicate import predicate
from gateway.twin.showing import (
    Context,
    absent,
    check_command_condition,
    condition_node,
    full_json,
    lookup_for,
    tag_of,
    value_at,
)
from gateway.twin.wot import migration

INLINE_POLICY: Final = ("_policy", "_copyPolicyFrom")
"""Members of a new thing that speak of its policy; ignored on an existing one."""
_COMMAND_ONLY: Final = frozenset(
    (
        "if-match",
        "if-none-match",
        "if-equal",
        "condition",
        "timeout",
        "response-required",
        "requested-acks",
        "allow-policy-lockout",
        "merge-thing-patch-conditions",
        "etag",
        "version",
        "content-type",
        "accept",
        "authorization",
        "reply-to",
        "channel",
        "put-metadata",
        "get-metadata",
        "delete-metadata",
        "live-channel-condition",
        "live-channel-timeout-strategy",
        "policy-view",
        "dry-run",
        "at-historical-revision",
        "at-historical-timestamp",
        "entity-revision",
        "ditto-originator",
        "declared-acks",
    )
)
"""Headers that steer a command and are not carried over to its event."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What a command leads to: the answer, and the event to store with its document in bytes.

    Shape:  no event where a JSON Patch changed nothing.
    """

    status: int
    event: ThingEvent | None
    value: Maybe
    etag: str | None
    document: bytes | None


# --- judging -----------------------------------------------------------------------------------


def judge(thing: Thing | None, command: ThingCommand, context: Context) -> Decision:
    """Judge a change of a thing (None: it does not exist) and return what follows.

    Errors: Ditto's for things: 400, 403, 404, 409, 412, 413.
    """
    part = checked_path(command.path)
    if command.headers:
        metadata.check_headers(command)
    if thing is None:
        return _judge_absent(command, part, context)
    if command.action in (Action.MERGE, Action.MIGRATE):
        merge.check_patch(command.value)
    try:
        authorize(command, part, context.permissions)
    except GatewayError:
        check_form(command)
        raise
    case = _Case(thing, command, part, value_at(thing, part, command.path), context)
    if command.headers and not (command.action is Action.DELETE and case.present is MISSING):
        check_tags(command.headers, case.tag, service="things", is_read=False)
    if command.action is Action.CREATE:
        raise ditto_error("things:thing.conflict", id=command.thing_id)
    check_command_condition(thing, command, context)
    return _DECIDE[command.action](case)


def _judge_absent(command: ThingCommand, part: Part, context: Context) -> Decision:
    if part is not Part.THING or command.action not in _CREATING:
        check_form(command)
        raise ditto_error("things:thing.notfound", id=command.thing_id)
    document = new_document(command)
    check_tags(command.headers, None, service="things", is_read=False)
    if not context.permissions.unrestricted("thing", (), WRITE):
        raise refusal(replace(command, action=Action.MODIFY), Part.THING)
    revision = context.revision + 1
    thing = Thing(command.thing_id, revision, document, context.now, context.now)
    case = _Case(thing, command, part, MISSING, context)
    return _decision(case, EventAction.CREATED, None, thing, full_json(thing), status=201)


def check_form(command: ThingCommand) -> None:
    """Refuse a value that no thing could hold: that is said before who may do it, and to what.

    Errors: BadRequest.
    """
    part, value = checked_path(command.path), command.value
    if command.action in (Action.CREATE, Action.MODIFY):
        if part is Part.THING:
            thing_document(command.thing_id, value)
        else:
            checked_at(part, command.path, value)
    elif command.action is Action.MERGE:
        _check_merge_form(command, part)


def _check_merge_form(command: ThingCommand, part: Part) -> None:
    merge.check_patch(command.value)
    if part is Part.THING:
        new_document(command)
    elif command.value is None:
        if part is Part.POLICY_ID:
            raise ditto_error("things:policyId.notdeletable", id=command.thing_id)
    else:
        made = merge.merged(MISSING, command.value)
        if made is not MISSING:
            checked_at(part, command.path, made)


_CREATING: Final = frozenset((Action.CREATE, Action.MODIFY, Action.MERGE))


def new_document(command: ThingCommand) -> JsonObject:
    """The document of a thing that a command creates; `policyId` may still be missing.

    Errors: BadRequest for a bad body.
    """
    value: Maybe = command.value
    if command.action is Action.MERGE:
        _check_merge_root(command, command.value)
        value = merge.merged({}, command.value)
    assert value is not MISSING  # noqa: S101  null was refused above
    return thing_document(command.thing_id, value)


@dataclass(frozen=True, slots=True)
class _Case:
    """A change that passed its conditions."""

    thing: Thing
    command: ThingCommand
    part: Part
    present: Maybe
    context: Context

    @property
    def tag(self) -> str | None:
        """The entity tag of what is there; worked out only where somebody asks."""
        return tag_of(self.thing, self.part, self.present)

    @property
    def path(self) -> Pointer:
        return self.command.path


def _modify(case: _Case) -> Decision:
    if case.part is Part.THING:
        return _modify_thing(case)
    _require_feature(case)
    value = checked_at(case.part, case.path, case.command.value)
    if IfEqual.of(case.command.headers) is not IfEqual.UPDATE:
        _refuse_equal(case, value)
    existed = case.present is not MISSING
    action = EventAction.MODIFIED if existed else EventAction.CREATED
    after = _after(case, put(case.thing.document, case.path, value))
    status = 204 if existed or case.part is Part.POLICY_ID else 201
    return _decision(case, action, case.thing, after, value, status=status)


def _modify_thing(case: _Case) -> Decision:
    document = thing_document(case.thing.thing_id, case.command.value)
    if "policyId" not in document:
        document = {"policyId": case.thing.policy_id, **document}
    after = _after(case, document)
    shown = full_json(after)
    if IfEqual.of(case.command.headers) is not IfEqual.UPDATE:
        _refuse_equal(case, shown)
    return _decision(case, EventAction.MODIFIED, case.thing, after, shown, status=204)


def _refuse_equal(case: _Case, value: Maybe) -> None:
    present = case.present
    if present is not MISSING and value is not MISSING and same(present, value):
        raise equal_refused("things", case.tag)


def _require_feature(case: _Case) -> None:
    """A part of a feature that is not there cannot be set: only a merge makes the feature."""
    path = case.path
    if len(path) > 2 and path[0] == "features" and get(case.thing.document, path[:2]) is MISSING:
        raise not_found(case.thing.thing_id, Part.FEATURE, path[:2])


def _delete(case: _Case) -> Decision:
    if case.part is Part.POLICY_ID:
        raise ditto_error("things:policyId.notdeletable", id=case.thing.thing_id)
    if case.present is MISSING:
        raise absent(case.thing, case.part, case.path)
    if case.part is Part.THING:
        return _decision(case, EventAction.DELETED, case.thing, None, MISSING, status=204)
    after = _after(case, remove(case.thing.document, case.path))
    return _decision(case, EventAction.DELETED, case.thing, after, MISSING, status=204)


def _merge(case: _Case) -> Decision:
    wanted = _conditioned(case)
    if case.part is Part.THING:
        _check_merge_root(case.command, wanted)
    if case.part is Part.POLICY_ID and wanted is None:
        raise ditto_error("things:policyId.notdeletable", id=case.thing.thing_id)
    if case.part is Part.THING and isinstance(wanted, dict):
        wanted = {key: below for key, below in wanted.items() if key not in INLINE_POLICY}
    how = IfEqual.of(case.command.headers)
    value = merge.merged(case.present, wanted)
    if how is not IfEqual.UPDATE and _unchanged(case.present, value):
        raise equal_refused("things", case.tag)
    if how is IfEqual.SKIP_MINIMIZING_MERGE:
        smaller = merge.minimized(wanted, case.present)
        wanted = wanted if smaller is MISSING else smaller
    after = _after(case, _with_value(case, value))
    return _decision(case, EventAction.MERGED, case.thing, after, wanted, status=204)


def _migrate(case: _Case) -> Decision:
    """A merge of the whole thing; the command's value is the patch by now, which the answer shows."""
    decision = _merge(case)
    assert decision.event is not None  # noqa: S101  a merge has one
    patch: Json = decision.event.value
    told: Json = {"thingId": case.thing.thing_id, **patch} if isinstance(patch, dict) else patch
    event = replace(decision.event, action=EventAction.MIGRATED, value=told)
    answer = migration.told(case.thing.thing_id, patch, is_dry_run=False)
    return replace(decision, status=200, event=event, value=answer)


def _unchanged(present: Maybe, value: Maybe) -> bool:
    if present is MISSING or value is MISSING:
        return present is value
    return same(present, value)


def _check_merge_root(command: ThingCommand, wanted: Json) -> None:
    merge.check_patch(wanted)
    if not isinstance(wanted, dict):
        reason = "a Thing is merged with a JSON object"
        raise ditto_error("things:merge.invalid", reason=reason)
    if command.value == {}:
        raise ditto_error("things:merge.invalid", reason="an empty object says nothing to merge")
    if "thingId" in wanted and wanted["thingId"] is None:
        raise ditto_error("things:id.notdeletable")
    if "policyId" in wanted and wanted["policyId"] is None:
        raise ditto_error("things:policyId.notdeletable", id=command.thing_id)


def _with_value(case: _Case, value: Maybe) -> JsonObject:
    """The whole document with the new value at the path, checked as that part is."""
    document = case.thing.document
    if case.part is Part.THING:
        assert value is not MISSING  # noqa: S101  a null patch was refused
        return thing_document(case.thing.thing_id, value)
    if value is MISSING:
        return remove(document, case.path)
    return put(document, case.path, checked_at(case.part, case.path, value))


def _conditioned(case: _Case) -> Json:
    """The patch without the parts whose `merge-thing-patch-conditions` do not hold."""
    given = case.command.headers.get("merge-thing-patch-conditions")
    if given is None:
        return case.command.value
    conditions = merge.patch_conditions(given)
    lookup, moment = lookup_for(case.thing, case.context.permissions), case.context.moment
    return merge.filtered(
        case.command.value,
        case.path,
        conditions,
        lambda text: predicate(condition_node(text))(lookup, moment),
    )


def _patch(case: _Case) -> Decision:
    operations = case.command.value
    patch.paths_of(operations)
    assert isinstance(operations, list)  # noqa: S101  paths_of refuses anything else
    if case.present is MISSING:
        raise absent(case.thing, case.part, case.path)
    value = patch.apply(case.present, operations)
    if IfEqual.of(case.command.headers) is not IfEqual.UPDATE:
        _refuse_equal(case, value)
    checked = _checked_result(case, value)
    if case.part is Part.THING and "policyId" not in checked:
        raise ditto_error("things:policyId.notdeletable", id=case.thing.thing_id)
    return _patched(case, _after(case, checked))


def _patched(case: _Case, after: Thing) -> Decision:
    """The event of a JSON Patch: a merge where one can say it, else the new value; none for no change."""
    written = value_at(after, case.part, case.path)
    assert written is not MISSING  # noqa: S101  it was just put there
    smaller = merge.difference(case.present, written)
    if smaller is MISSING:
        return Decision(204, None, MISSING, case.tag, None)
    again = merge.merged(case.present, smaller)
    if isinstance(smaller, dict) and again is not MISSING and same(again, written):
        return _decision(case, EventAction.MERGED, case.thing, after, smaller, status=204)
    return _decision(case, EventAction.MODIFIED, case.thing, after, written, status=204)


def _checked_result(case: _Case, value: Json) -> JsonObject:
    if case.part is Part.THING:
        return thing_document(case.thing.thing_id, value)
    return put(case.thing.document, case.path, checked_at(case.part, case.path, value))


_DECIDE: Final[dict[Action, Callable[[_Case], Decision]]] = {
    Action.MODIFY: _modify,
    Action.DELETE: _delete,
    Action.MERGE: _merge,
    Action.PATCH: _patch,
    Action.MIGRATE: _migrate,
}


def _after(case: _Case, document: JsonObject) -> Thing:
    thing = case.thing
    return Thing(
        thing.thing_id, case.context.revision + 1, document, thing.created, case.context.now
    )


def _decision(
    case: _Case,
    action: EventAction,
    before: Thing | None,
    after: Thing | None,
    value: Maybe,
    *,
    status: int,
) -> Decision:
    command = case.command
    told: JsonObject | None = None
    if after is not None:
        kept, told = metadata.changed(command, case.part, before, after, value)
        after = after if kept is after.document else replace(after, document=kept)
    document = None if after is None else checked_size(after, case.context.limits)
    event = ThingEvent(
        thing_id=command.thing_id,
        action=action,
        path=command.path,
        revision=case.context.revision + 1,
        timestamp=case.context.now,
        after=after,
        before=before,
        value=None if value is MISSING else value,
        headers=event_headers(command),
        originator=command.originator,
        subjects=command.subjects,
        trace=command.trace,
        metadata=told,
    )
    answer = value if status == 201 else MISSING
    written = MISSING if after is None else value_at(after, case.part, command.path)
    tag = None if after is None else tag_of(after, case.part, written)
    return Decision(status, event, answer, tag, document)


def checked_size(thing: Thing, limits: Limits) -> bytes:
    """The document in bytes.

    Errors: 413 `things:thing.toolarge`.
    """
    document = encoded(thing.document)
    size = len(document) + len(thing.thing_id)
    if size > limits.thing_bytes:
        raise ditto_error("things:thing.toolarge", size=size, limit=limits.thing_bytes)
    return document


def event_headers(
    command: ThingCommand,
) -> dict[str, str | bool | int | list[str] | dict[str, Json]]:
    """What of a command's headers its event carries: correlation id, open acks, custom ones."""
    if not command.headers:
        return {}
    kept = {name: value for name, value in command.headers.items() if name not in _COMMAND_ONLY}
    wanted = command.headers.get("requested-acks")
    if isinstance(wanted, list) and (open_acks := [w for w in wanted if w not in BUILT_IN_ACKS]):
        kept["requested-acks"] = open_acks
    return kept


# --- applying ----------------------------------------------------------------------------------


def apply(thing: Thing | None, event: ThingEvent) -> Thing | None:
    """The state after an event. Cannot fail for an event that `judge` made from this state."""
    if not event.path:
        return _apply_whole(thing, event)
    assert thing is not None  # noqa: S101  a part changes only where the thing is
    document, part = thing.document, part_of(event.path)
    value: Maybe = event.value
    if event.action is EventAction.DELETED:
        value = MISSING
    elif event.action.is_merge:
        value = merge.merged(get(document, event.path), event.value)
    changed = (
        remove(document, event.path)
        if value is MISSING
        else put(document, event.path, checked_value(part, value))
    )
    document = _carried(thing, event, changed)
    return Thing(thing.thing_id, event.revision, document, thing.created, event.timestamp)


def _carried(thing: Thing | None, event: ThingEvent, document: JsonObject) -> JsonObject:
    """The document with the metadata that it has after the event."""
    told = event.metadata
    kept = metadata.carried(thing, document) if told is None else told
    return metadata.with_metadata(document, kept)


def _apply_whole(thing: Thing | None, event: ThingEvent) -> Thing | None:
    if event.action is EventAction.DELETED:
        return None
    value: Maybe = event.value
    if event.action.is_merge:
        value = merge.merged(full_json(thing) if thing else {}, event.value)
    assert value is not MISSING  # noqa: S101  null merges are refused
    created = thing.created if thing else event.timestamp
    document = _carried(thing, event, thing_document(event.thing_id, value))
    return Thing(event.thing_id, event.revision, document, created, event.timestamp)


def replayed(base: Thing | None, events: Iterable[ThingEvent]) -> Thing | None:
    """The state after a run of events."""
    for event in events:
        base = apply(base, event)
    return base
