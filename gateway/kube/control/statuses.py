"""Writing the status of an object that a control loop looks after."""

from __future__ import annotations

from gateway.errors import Conflict
from gateway.kube.control.context import Context
from gateway.kube.control.mirrors import key_of, uid_of
from gateway.model.json import JsonObject


async def write_status(
    context: Context, place: tuple[str, str], item: JsonObject, status: JsonObject
) -> JsonObject:
    """Replace the status of an object and return it as stored; the mirror knows it at once.

    When another writer was first it is tried once more on what that one left: it was not about the status.

    Shape:  `place` is group version and plural; `item` carries its apiVersion and kind.
    Errors: Conflict, NotFound: look again; what the server says otherwise.
    """
    namespace, name = key_of(item)
    try:
        stored = await _write(context, place, item, status)
    except Conflict:
        fresh = await context.kube.get(*place, namespace or None, name)
        if uid_of(fresh) != uid_of(item):
            raise
        stored = await _write(context, place, fresh, status)
    context.mirrors.of(*place).put(stored)
    return stored


async def _write(
    context: Context, place: tuple[str, str], item: JsonObject, status: JsonObject
) -> JsonObject:
    namespace = key_of(item)[0] or None
    body: JsonObject = {**item, "status": status}
    return await context.kube.update(*place, namespace, body, subresource="status")
