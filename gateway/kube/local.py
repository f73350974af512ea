"""The client port on the embedded API, in process: the same verbs and rules, without a socket."""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterator, Mapping, Sequence

from gateway.errors import BadRequest, NotFound, Undeliverable
from gateway.kube import impersonation
from gateway.kube.admission import WriteOptions
from gateway.kube.auth import MASTERS, Access, User, access_to
from gateway.kube.checks import DeleteOptions, allow, as_version
from gateway.kube.client import NO_QUERY, EventType, ObjectList, PatchType, WatchEvent, plain_path
from gateway.kube.documents import Documents
from gateway.kube.lenses import lens_of, shown_through
from gateway.kube.objects import Objects
from gateway.kube.patching import check_config
from gateway.kube.reviews import review
from gateway.kube.strategies import table
from gateway.kube.watch import Item
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.requests import PageToken, read_token, write_token
from gateway.wire.kube.resources import ResourceType

ADMIN = User("system:apiserver", (MASTERS,))


class LocalClient:
    """Acts on the objects directly; `manager` names the writer in `managedFields`.

    Fields that a kind does not know are dropped, as the API server drops them for any client. Lists and
    watches show objects without `managedFields`, the same object to all who ask.
    """

    def __init__(
        self, objects: Objects, documents: Documents, *, manager: str, user: User | None = None
    ) -> None:
        self._objects = objects
        self._documents = documents
        self._manager = manager
        self._user = user
        """Whose rights count; None for all of them."""
        self._options = WriteOptions(manager=manager, validation="Ignore", user=user)
        self._forcing = WriteOptions(manager=manager, validation="Ignore", force=True, user=user)

    def acting_as(self, user: str, groups: Sequence[str] = ()) -> LocalClient:
        other = impersonation.acting_as(user, groups)
        return LocalClient(self._objects, self._documents, manager=self._manager, user=other)

    async def read(
        self,
        path: str,
        query: Mapping[str, str] = NO_QUERY,  # noqa: ARG002  no document here depends on it
        *,
        accept: str = "application/json",
    ) -> bytes:
        plain = plain_path(path).rstrip("/") or "/"
        if self._user is not None:
            self._objects.rights.require(self._user, Access(verb="get", path=plain))
        found = self._documents.find(plain, accept)
        if found is None:
            raise NotFound("the server could not find the requested resource")
        if found.status >= 500:
            raise Undeliverable(found.body.decode())
        return found.body

    def _find(
        self,
        verb: str,
        group_version: str,
        plural: str,
        namespace: str | None,
        name: str = "",
        subresource: str | None = None,
        *,
        fields: str | None = None,
        asked: Json = None,
    ) -> ResourceType:
        """Return a kind, where the user may do this to it; `asked` is what it asks of an object.

        Errors: Forbidden; NotFound.
        """
        if self._user is not None:
            rights = self._objects.rights
            access = access_to(
                verb,
                group_version.rpartition("/")[0],
                plural,
                subresource=subresource or "",
                namespace=namespace or "",
                name=name,
                fields=fields,
            )
            rights.require(self._user, access)
            if asked is not None:
                rights.require_asking(self._user, access, asked)
        return self._objects.resource(group_version, plural)

    async def get(
        self,
        group_version: str,
        plural: str,
        namespace: str | None,
        name: str,
        *,
        subresource: str | None = None,
    ) -> JsonObject:
        resource = self._find("get", group_version, plural, namespace, name, subresource)
        if subresource is not None:
            allow(resource, "get", subresource)
        stored = self._objects.get(resource, namespace, name)
        return shown_through(resource, subresource, stored).object

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
        resource = self._find("list", group_version, plural, namespace, fields=fields)
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
        return ObjectList([item.plain for item in found.items], str(found.version), following)

    async def create(
        self,
        group_version: str,
        plural: str,
        namespace: str | None,
        body: JsonObject,
        *,
        name: str = "",
        subresource: str | None = None,
    ) -> JsonObject:
        asked = body if subresource is not None else None
        resource = self._find(
            "create", group_version, plural, namespace, name, subresource, asked=asked
        )
        if subresource is not None:
            return await self._objects.ask(resource, namespace, name, subresource, body)
        if resource.is_virtual:
            question = {**body, "kind": resource.kind, "apiVersion": resource.group_version}
            return review(plural, question, self._user or ADMIN, self._objects, namespace or "")
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
        name = str(table(body, "metadata").get("name") or "")
        resource = self._find("update", group_version, plural, namespace, name, subresource)
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
        resource = self._find("patch", group_version, plural, namespace, name, subresource)
        if patch_type is PatchType.APPLY:
            lens = lens_of(resource, subresource)
            check_config(lens.kind if lens else resource, patch)
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
        grace_seconds: int | None = None,
        propagation: str = "Background",
    ) -> None:
        resource = self._find("delete", group_version, plural, namespace, name)
        options = DeleteOptions(
            uid=uid,
            resource_version=resource_version,
            policy=propagation,
            grace_seconds=grace_seconds,
        )
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
        resource = self._find("watch", group_version, plural, namespace, fields=fields)
        wanted = objects.filter(resource, namespace, labels, fields)
        first: builtins.list[WatchEvent] = []
        if resource_version in (None, "", "0"):
            page = objects.page(resource, wanted)
            since = page.version
            first = [
                WatchEvent(EventType.ADDED, item.plain, str(item.version)) for item in page.items
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
                    yield _event(resource, item)
        finally:
            watcher.close()


def _event(resource: ResourceType, item: Item) -> WatchEvent:
    return WatchEvent(item.type, as_version(resource, item.stored).plain, str(item.stored.version))


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
