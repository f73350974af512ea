"""The client port on the embedded API, in process: the same verbs and rules, without a socket."""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterator

from gateway.errors import BadRequest
from gateway.kube.admission import WriteOptions
from gateway.kube.checks import DeleteOptions
from gateway.kube.client import EventType, ObjectList, PatchType, WatchEvent
from gateway.kube.objects import Objects
from gateway.kube.strategies import table
from gateway.kube.watch import Item
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.requests import PageToken, read_token, write_token
from gateway.wire.kube.resources import ResourceType


class LocalClient:
    """Acts on the objects directly; `manager` names the writer in `managedFields`.

    Fields that a kind does not know are dropped, as the API server drops them for any client.
    """

    def __init__(self, objects: Objects, *, manager: str) -> None:
        self._objects = objects
        self._options = WriteOptions(manager=manager, validation="Ignore")
        self._forcing = WriteOptions(manager=manager, validation="Ignore", force=True)

    async def get(
        self, group_version: str, plural: str, namespace: str | None, name: str
    ) -> JsonObject:
        resource = self._objects.resource(group_version, plural)
        return self._objects.get(resource, namespace, name).object

    async def list(
        self,
        group_version: str,
        plural: str,
        namespace: str | None = None,
        *,
        labels: str | None = None,
        fields: str | None = None,
        limit: int | None = None,
        page: str | None = None,
    ) -> ObjectList:
        resource = self._objects.resource(group_version, plural)
        wanted = self._objects.filter(resource, namespace, labels, fields)
        token = read_token(page) if page else None
        found = self._objects.page(
            resource,
            wanted,
            limit=limit or 0,
            after=(token.namespace, token.name) if token else None,
            version=token.version if token else None,
        )
        following = None
        if found.last is not None:
            last = found.last
            following = write_token(PageToken(found.version, last.namespace, last.name))
        return ObjectList([item.object for item in found.items], str(found.version), following)

    async def create(
        self, group_version: str, plural: str, namespace: str | None, body: JsonObject
    ) -> JsonObject:
        resource = self._objects.resource(group_version, plural)
        return (await self._objects.create(resource, namespace, body, self._options)).stored.object

    async def update(
        self,
        group_version: str,
        plural: str,
        namespace: str | None,
        body: JsonObject,
        *,
        subresource: str | None = None,
    ) -> JsonObject:
        resource = self._objects.resource(group_version, plural)
        name = str(table(body, "metadata").get("name") or "")
        written = await self._objects.update(
            resource, namespace, name, body, self._options, subresource=subresource
        )
        return written.stored.object

    async def patch(
        self,
        group_version: str,
        plural: str,
        namespace: str | None,
        name: str,
        patch: Json,
        *,
        patch_type: PatchType = PatchType.MERGE,
        subresource: str | None = None,
        force: bool = False,
    ) -> JsonObject:
        resource = self._objects.resource(group_version, plural)
        written = await self._objects.patch(
            resource,
            namespace,
            name,
            patch,
            patch_type,
            self._forcing if force else self._options,
            subresource=subresource,
        )
        return written.stored.object

    async def delete(
        self,
        group_version: str,
        plural: str,
        namespace: str | None,
        name: str,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
    ) -> None:
        resource = self._objects.resource(group_version, plural)
        options = DeleteOptions(uid=uid, resource_version=resource_version, policy="Background")
        await self._objects.delete(resource, namespace, name, options)

    async def watch(
        self,
        group_version: str,
        plural: str,
        namespace: str | None = None,
        *,
        resource_version: str | None = None,
        labels: str | None = None,
        fields: str | None = None,
    ) -> AsyncIterator[WatchEvent]:
        objects = self._objects
        resource = objects.resource(group_version, plural)
        wanted = objects.filter(resource, namespace, labels, fields)
        first: builtins.list[WatchEvent] = []
        if resource_version in (None, "", "0"):
            page = objects.page(resource, wanted)
            since = page.version
            first = [
                WatchEvent(EventType.ADDED, item.object, str(item.version)) for item in page.items
            ]
            first.append(_bookmark(resource, since))
        else:
            since = _version(resource_version)
        watcher = objects.follow(resource, wanted, since)
        try:
            for event in first:
                yield event
            while (items := await watcher.next()) is not None:
                for item in items:
                    yield _event(item)
        finally:
            watcher.close()


def _event(item: Item) -> WatchEvent:
    return WatchEvent(item.type, item.stored.object, str(item.stored.version))


def _bookmark(resource: ResourceType, version: int) -> WatchEvent:
    item: JsonObject = {
        "kind": resource.kind,
        "apiVersion": resource.group_version,
        "metadata": {"resourceVersion": str(version)},
    }
    return WatchEvent(EventType.BOOKMARK, item, str(version))


def _version(text: str | None) -> int:
    if text is None or not text.isascii() or not text.isdigit():
        raise BadRequest(f"resource version: expected a whole number, got {text!r}")
    return int(text)
