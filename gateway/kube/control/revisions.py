"""The ControllerRevisions of one kind of owner: found, made, numbered again and taken away.

Every write may be repeated: a run that was cut off is finished by the next one.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from gateway.errors import Conflict, NotFound, Unprocessable
from gateway.kube.control.context import Context
from gateway.kube.control.mirrors import key_of, metadata_of, uid_of
from gateway.kube.control.pods_of import Claims, OwnerKind
from gateway.model.json import JsonObject
from gateway.wire.kube.parts import part
from gateway.wire.kube.revisions import (
    GROUP_VERSION,
    PLURAL,
    History,
    data_hash,
    history_of,
    is_same_data,
    new_revision,
    number_of,
    revision_data,
)
from gateway.wire.kube.selectors import LabelSelector
from gateway.wire.kube.status import AlreadyExists

MAX_COLLISIONS = 20
"""So many names in a row are taken by others only when something is wrong: try later."""


class Revisions:
    """Construct it before the mirrors run.

    Shape:  `label` is the key under which a revision carries its hash.
    """

    def __init__(self, context: Context, kind: OwnerKind, label: str) -> None:
        self._kube = context.kube
        self._label = label
        self.claims = Claims(context, kind, (GROUP_VERSION, PLURAL))

    async def history(self, owner: JsonObject, selector: LabelSelector) -> History:
        """Return the revisions of an owner, orphans that match adopted."""
        mirror = self.claims.mirror
        found = await self.claims.claim(owner, selector, lambda each: not mirror.is_doomed(each))
        return history_of(owner, found)

    async def settle(
        self, owner: JsonObject, history: History, collisions: int
    ) -> tuple[JsonObject, int]:
        """Return the newest revision, made or numbered as need be, and how often its name was taken."""
        if not history.current:
            return await self._create(owner, history.next_number, collisions)
        newest = history.current[-1]
        if number_of(newest) < history.next_number:
            newest = await self._renumber(newest, history.next_number)
        return newest, collisions

    async def delete(self, revisions: Iterable[JsonObject]) -> None:
        """Delete revisions; one that is gone is no error.

        Errors: Conflict when another one has its name by now: look again; what the server says.
        """
        for revision in revisions:
            namespace, name = key_of(revision)
            with suppress(NotFound):
                await self._kube.delete(
                    GROUP_VERSION, PLURAL, namespace, name, uid=uid_of(revision)
                )
            self.claims.mirror.doom(revision)

    async def _create(
        self, owner: JsonObject, number: int, collisions: int
    ) -> tuple[JsonObject, int]:
        namespace = key_of(owner)[0]
        data = revision_data(owner)
        reference = self.claims.kind.reference(owner)
        for taken in range(collisions, collisions + MAX_COLLISIONS):
            body = new_revision(owner, reference, number, data_hash(data, taken), self._label)
            try:
                stored = await self._kube.create(GROUP_VERSION, PLURAL, namespace, body)
            except AlreadyExists:
                name = str(metadata_of(body).get("name"))
                stored = await self._kube.get(GROUP_VERSION, PLURAL, namespace, name)
                if not is_same_data(part(stored, "data"), data):
                    continue
            self.claims.mirror.put(stored)
            return stored, taken
        raise Conflict(f"{namespace}: {MAX_COLLISIONS} names of revisions are taken by others")

    async def _renumber(self, revision: JsonObject, number: int) -> JsonObject:
        """Give a revision another number.

        A server that compares what it holds byte by byte may refuse a patch, because it writes some
        characters otherwise than they came; sent back as it was, it is the same.
        """
        place = GROUP_VERSION, PLURAL
        namespace, name = key_of(revision)
        patch: JsonObject = {"metadata": {"uid": uid_of(revision)}, "revision": number}
        try:
            stored = await self._kube.patch(*place, namespace, name, patch)
        except Unprocessable:
            fresh = await self._kube.get(*place, namespace, name)
            stored = await self._kube.update(*place, namespace, {**fresh, "revision": number})
        self.claims.mirror.put(stored)
        return stored
