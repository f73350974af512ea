"""What a thing command needs under a policy, and the errors when it is not there."""

from __future__ import annotations

from typing import Final

from gateway.errors import GatewayError
from gateway.model.json import Pointer
from gateway.model.thing import Action, Direction, Thing, ThingCommand, ThingMessage
from gateway.twin import merge, patch
from gateway.twin.ditto_errors import ditto_error
from gateway.twin.policy import READ, WRITE, Permissions
from gateway.twin.resources import Part, not_found, not_modifiable

_BOX: Final = {Direction.TO: "inbox", Direction.FROM: "outbox"}
_DIRECTION: Final = {box: direction for direction, box in _BOX.items()}
CLAIM = "claim"


def authorize(command: ThingCommand, part: Part, permissions: Permissions) -> None:
    """Refuse a command that its subjects may not run.

    Errors: reads 404 `...notfound`; changes 403 `...notmodifiable` or `thing.notdeletable`.
    """
    match command.action:
        case Action.RETRIEVE:
            allowed = permissions.partial("thing", command.path, READ)
        case Action.MERGE | Action.MIGRATE:
            allowed = _may_merge(command, permissions)
        case Action.PATCH:
            allowed = _may_patch(command, permissions)
        case _:
            allowed = permissions.unrestricted("thing", command.path, WRITE)
    if not allowed:
        raise refusal(command, part)


def refusal(command: ThingCommand, part: Part) -> GatewayError:
    """What a caller without the permission is told."""
    if command.action is Action.RETRIEVE:
        return not_found(command.thing_id, part, command.path)
    if command.action is Action.DELETE and part is Part.THING:
        return ditto_error("things:thing.notdeletable", id=command.thing_id)
    if command.action in (Action.MERGE, Action.MIGRATE):
        return not_modifiable(command.thing_id, Part.THING, ())
    return not_modifiable(command.thing_id, part, command.path)


def without_policy(thing: Thing, *, is_read: bool) -> GatewayError:
    """What a caller is told of a thing whose policy does not exist."""
    if is_read:
        return ditto_error("things:thing.notfound", id=thing.thing_id)
    error = ditto_error("things:thing.notmodifiable", id=thing.thing_id)
    return type(error)(
        f"{error.message} Its Policy '{thing.policy_id}' does not exist.",
        code=error.code,
        description="Create the policy anew, or ask who may.",
    )


def _may_merge(command: ThingCommand, permissions: Permissions) -> bool:
    """WRITE on the whole, or partly there and whole on each leaf that is written."""
    if permissions.unrestricted("thing", command.path, WRITE):
        return True
    return permissions.partial("thing", command.path, WRITE) and all(
        permissions.unrestricted("thing", leaf, WRITE)
        for leaf in merge.leaves(command.value, command.path)
    )


def _may_patch(command: ThingCommand, permissions: Permissions) -> bool:
    """As a merge; what `test`, `copy` and `move` read needs READ besides, so that nothing leaks."""
    wanted = command.value
    written = patch.paths_of(wanted)
    assert isinstance(wanted, list)  # noqa: S101  paths_of refuses anything else
    return all(
        permissions.unrestricted("thing", command.path + path, WRITE) for path in written
    ) and all(
        permissions.unrestricted("thing", command.path + path, READ)
        for path in patch.read_paths_of(wanted)
    )


def message_path(message: ThingMessage) -> Pointer:
    """The message resource, e.g. `/features/motor/outbox/messages/x`."""
    tail = (_BOX[message.direction], "messages", *message.subject.split("/"))
    return tail if message.feature_id is None else ("features", message.feature_id, *tail)


def message_at(thing_id: str, path: Pointer) -> ThingMessage | None:
    """The message whose resource a path is, None for a path that no message has."""
    feature_id, tail = (
        (path[1], path[2:]) if path[:1] == ("features",) and path[1:] else (None, path)
    )
    if len(tail) < 3 or tail[0] not in _DIRECTION or tail[1] != "messages":
        return None
    return ThingMessage(
        thing_id=thing_id,
        subject="/".join(tail[2:]),
        direction=_DIRECTION[tail[0]],
        correlation_id="",
        subjects=(),
        feature_id=feature_id,
    )


def authorize_message(message: ThingMessage, permissions: Permissions) -> None:
    """Refuse a message that its sender may not send; a claim needs no permission.

    Errors: 403 `messages:send.notallowed`.
    """
    is_claim = message.subject == CLAIM and message.feature_id is None
    if is_claim and message.direction is Direction.TO:
        return
    path = message_path(message)
    if not permissions.unrestricted("message", path, WRITE):
        raise ditto_error("messages:send.notallowed", id=message.thing_id, path=path)


def may_receive(message: ThingMessage, permissions: Permissions) -> bool:
    """True with READ on the whole of the message's resource."""
    return permissions.unrestricted("message", message_path(message), READ)


def may_receive_command(path: Pointer, permissions: Permissions) -> bool:
    """True with READ on the whole of what a live command is about."""
    return permissions.unrestricted("thing", path, READ)
