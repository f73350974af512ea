"""`/v1/commands/{tenant}` and `/v1/commands/{tenant}/{device}`: what waits for devices that are away.

An addition of ours to the management API, for its users alone. GET lists, oldest first, without payloads;
DELETE gives up all, those of a device, or one (`/v1/commands/{tenant}/{device}/{id}`).
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.errors import BadRequest, NotFound
from gateway.hono.stored_command_rows import StoredCommand
from gateway.hono.stored_commands import StoredCommands
from gateway.model.json import JsonObject
from gateway.model.members import format_instant

DEFAULT_PAGE = 100
MAX_PAGE = 1_000


async def list_commands(
    stored: StoredCommands, tenant: str, device: str, query: Mapping[str, str]
) -> JsonObject:
    """Return what waits.

    Shape:  query `limit` and `after` (the `next` of the page before); `next` is missing on the last page.
    Errors: BadRequest; StoreUnavailable.
    """
    limit = _number(query, "limit", DEFAULT_PAGE, MAX_PAGE)
    after = _number(query, "after", 0, 2**62)
    total, found = await stored.page(tenant, device or None, after=after, limit=limit)
    page: JsonObject = {"total": total, "result": [_shown(command) for command in found]}
    if len(found) == limit:
        page["next"] = found[-1].sequence
    return page


async def delete_commands(
    stored: StoredCommands, tenant: str, device: str, command_id: str
) -> None:
    """Give up what waits; the applications are told.

    Errors: NotFound for an id that does not wait there; StoreUnavailable.
    """
    count = await stored.give_up(tenant, device or None, command_id or None)
    if command_id and not count:
        raise NotFound(f"no such command: {command_id[:128]}")


def _number(query: Mapping[str, str], name: str, default: int, highest: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 19 or int(text) > highest:
        raise BadRequest(f"{name}: expected a number of 0..{highest}, got {text[:32]!r}")
    return int(text)


def _shown(stored: StoredCommand) -> JsonObject:
    command = stored.command
    shown: JsonObject = {
        "id": stored.command_id,
        "device-id": command.device,
        "subject": command.name,
        "one-way": command.is_one_way,
        "messaging": command.messaging.value,
        "size": len(command.payload),
        "attempts": stored.attempts,
        "stored": format_instant(stored.stored),
        "expires": format_instant(stored.expires),
    }
    if command.correlation_id is not None:
        shown["correlation-id"] = command.correlation_id
    if command.content_type is not None:
        shown["content-type"] = command.content_type
    return shown
