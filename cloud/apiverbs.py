"""The verbs of edges' MetaServers on the Kubernetes API.

An answer travels in one envelope, so a list has a largest size: more is refused with the way to ask for it in
pages. What the port to the API cannot say (dry runs, orphaned dependents) is refused, never done half.
Source: KubeEdge reference, section 13.2.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import msgspec

from cloud.apikinds import ApiKinds
from cloud.authorizer import Authorizer, View
from cloud.restrictions import check_same_words, check_words
from cloud.slices import Topology, as_seen
from gateway.errors import BadRequest, MethodNotAllowed, NotBuilt, TooLarge
from gateway.kube.bodies import delete_options, patch_type, read_patch
from gateway.kube.client import KubeClient, ObjectList
from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.applications import ApiKey, Application, Verb
from gateway.wire.cloudedge.devices import ObjectMeta, mapping, text
from gateway.wire.kube.status import forbidden, success

PAGE = 500
LARGEST_PAGE = 1_000
"""Objects of one page, however many a node asks for: it is told how to go on."""
LISTS_AT_ONCE = 32
"""Lists of all nodes that are put together side by side: each may take `MAX_ANSWER` of memory."""
MAX_ANSWER = (8 * 1024 * 1024 - 131_072) // 4 * 3
"""Bytes of a body that fit into one envelope as base64, beside the request that goes back with it."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of one node."""

    node: str
    key: ApiKey
    app: Application
    option: JsonObject
    is_narrow: bool = False
    """True: of Pods, a node lists and watches its own."""

    @property
    def subresource(self) -> str | None:
        return self.app.subresource or None

    @property
    def is_node(self) -> bool:
        """True for a Node: it says itself what it is, but not what the cloud made of it."""
        return (self.key.group, self.key.resource) == ("", "nodes")

    @property
    def name(self) -> str:
        """Return the name. Errors: MethodNotAllowed for a whole collection."""
        if self.key.name is None:
            raise MethodNotAllowed(
                "the server does not allow this method on the requested resource"
            )
        return self.key.name

    def selectors(self) -> dict[str, str | None]:
        """Return the selectors as `KubeClient` takes them."""
        fields = text(self.option.get("fieldSelector"))
        if self.key.name is not None:
            fields = ",".join(each for each in (fields, f"metadata.name={self.key.name}") if each)
        if self.is_narrow and (self.key.group, self.key.resource) == ("", "pods"):
            # A Node authorizer allows no more, and refuses who asks for more.
            fields = ",".join(each for each in (fields, f"spec.nodeName={self.node}") if each)
        return {"labels": text(self.option.get("labelSelector")) or None, "fields": fields or None}

    def is_of_another(self, item: JsonObject) -> bool:
        """True for a Pod that is not the node's, where it may see its own alone."""
        if not self.is_narrow or (self.key.group, self.key.resource) != ("", "pods"):
            return False
        return text(mapping(item.get("spec")).get("nodeName")) != self.node

    def check_whole(self, option: JsonObject) -> None:
        """Errors: NotBuilt for a trial run, which the port to the API does not have."""
        if option.get("dryRun"):
            raise NotBuilt("dry runs through the cloud-edge link are not built")


def asked_of(node: str, app: Application, *, is_narrow: bool) -> Asked:
    """Read a request. Errors: MalformedPacket."""
    return Asked(node, ApiKey.parse(app.key), app, app.option_json(), is_narrow)


class ApiVerbs:
    """Does what an Application asks for, within the node's rights; watches are `cloud.watches`'."""

    def __init__(self, authorizer: Authorizer, kinds: ApiKinds, topology: Topology) -> None:
        self._authorizer = authorizer
        self._kinds = kinds
        self._topology = topology
        self._lists = asyncio.Semaphore(LISTS_AT_ONCE)

    async def answer(self, asked: Asked) -> bytes:
        """Return the body of the answer. Errors: those of the API; TooLarge; NotBuilt."""
        verb = self._VERBS.get(asked.app.verb)
        if verb is None or (asked.key.raw and asked.app.verb != Verb.GET):
            raise MethodNotAllowed(f"verb {asked.app.verb[:50]!r} of {str(asked.key)[:200]}")
        body = await verb(self, asked)
        if len(body) + len(asked.app.request or "") + len(asked.app.option or "") > MAX_ANSWER:
            raise _too_large()
        return body

    # --- reads --------------------------------------------------------------------------------

    async def _get(self, asked: Asked) -> bytes:
        if asked.key.raw:
            return await self._read_plain(asked)
        key, name = asked.key, asked.name
        if asked.subresource not in (None, "status"):
            raise NotBuilt(f"reading {asked.subresource} of an object is not built")
        item, view = await self._authorizer.read(
            asked.node,
            key,
            lambda client: client.get(key.group_version, key.resource, key.namespace, name),
        )
        if not view.may_see(item) or asked.is_of_another(item):
            raise forbidden(key.resource, key.group, name, f"node {asked.node} does not use it")
        return _encoded(await self._named(asked, item))

    async def _read_plain(self, asked: Asked) -> bytes:
        path, _, _ = asked.key.raw.partition("?")
        body, _ = await self._authorizer.read(
            asked.node, asked.key, lambda client: client.read(path)
        )
        return body

    async def _list(self, asked: Asked) -> bytes:
        async with self._lists:
            return await self._whole_list(asked)

    async def _whole_list(self, asked: Asked) -> bytes:
        limit, page = asked.option.get("limit"), text(asked.option.get("continue")) or None
        size = limit if isinstance(limit, int) and not isinstance(limit, bool) and limit > 0 else 0
        found, view = await self._page(asked, min(size, LARGEST_PAGE) or PAGE, page)
        kind = await self._kinds.kind(asked.key.group_version, asked.key.resource)
        items = _Items(asked, kind, view, self._topology)
        items.take(found)
        while found.next_page is not None and not size:
            found = await self._next_page(asked, view, found.next_page)
            items.take(found)
        return items.document(found)

    async def _page(self, asked: Asked, limit: int, page: str | None) -> tuple[ObjectList, View]:
        return await self._authorizer.read(
            asked.node, asked.key, lambda client: list_page(client, asked, limit, page)
        )

    async def _next_page(self, asked: Asked, view: View, page: str) -> ObjectList:
        return await list_page(view.client, asked, PAGE, page)

    async def _named(self, asked: Asked, item: JsonObject) -> JsonObject:
        """Return an object with its kind, as the node should see it."""
        if not (item.get("kind") and item.get("apiVersion")):
            kind = await self._kinds.kind(asked.key.group_version, asked.key.resource)
            item = {"apiVersion": asked.key.group_version, "kind": kind, **item}
        return as_seen(str(item["kind"]), item, asked.node, self._topology)

    # --- writes -------------------------------------------------------------------------------

    async def _create(self, asked: Asked) -> bytes:
        asked.check_whole(asked.option)
        key, body = asked.key, _document(asked.app.request_bytes())
        if asked.is_node:
            check_same_words(asked.node, body, None)
        return await self._write(
            asked,
            lambda client: client.create(
                key.group_version,
                key.resource,
                key.namespace,
                body,
                name=key.name or "",
                subresource=asked.subresource,
            ),
        )

    async def _update(self, asked: Asked) -> bytes:
        return await self._replace(asked, asked.subresource)

    async def _update_status(self, asked: Asked) -> bytes:
        return await self._replace(asked, "status")

    async def _replace(self, asked: Asked, subresource: str | None) -> bytes:
        asked.check_whole(asked.option)
        key, body = asked.key, _document(asked.app.request_bytes())
        named = ObjectMeta.read(body).name
        if key.name is not None and named != key.name:
            raise BadRequest(
                f"the name of the object ({named}) does not match the name on the URL ({key.name})"
            )
        if asked.is_node:
            body = await self._as_the_cloud_says(asked, body)
        return await self._write(
            asked,
            lambda client: client.update(
                key.group_version, key.resource, key.namespace, body, subresource=subresource
            ),
        )

    async def _as_the_cloud_says(self, asked: Asked, body: JsonObject) -> JsonObject:
        """Return a Node to be written over the state that it was compared with. Errors: Forbidden."""
        key, name = asked.key, ObjectMeta.read(body).name
        if name != asked.node:
            raise forbidden(key.resource, key.group, name, f"node {asked.node} is another one")
        stored, _ = await self._authorizer.read(
            asked.node, key, lambda client: client.get(key.group_version, key.resource, None, name)
        )
        check_same_words(asked.node, body, stored)
        version: JsonObject = {"resourceVersion": ObjectMeta.read(stored).version}
        return {**body, "metadata": {**version, **mapping(body.get("metadata"))}}

    async def _patch(self, asked: Asked) -> bytes:
        key, option = asked.key, asked.option
        options = mapping(option.get("Options"))
        asked.check_whole(options)
        kind = patch_type(text(option.get("PatchType")))
        patch = read_patch(_data(option), kind)
        if asked.is_node:
            check_words(asked.node, patch)
        subresources = option.get("Subresources")
        first = subresources[0] if isinstance(subresources, list) and subresources else None
        subresource = text(first) or asked.subresource
        name = asked.name
        return await self._write(
            asked,
            lambda client: client.patch(
                key.group_version,
                key.resource,
                key.namespace,
                name,
                patch,
                patch_type=kind,
                subresource=subresource,
                force=options.get("force") is True,
            ),
        )

    async def _delete(self, asked: Asked) -> bytes:
        key, name, options = asked.key, asked.name, delete_options(asked.option, {})
        asked.check_whole({"dryRun": options.dry_run})
        if options.policy not in (None, "Background"):
            raise NotBuilt(f"propagationPolicy {options.policy} through the link is not built")
        await self._authorizer.write(
            asked.node,
            key,
            lambda client: client.delete(
                key.group_version,
                key.resource,
                key.namespace,
                name,
                uid=options.uid,
                resource_version=options.resource_version,
                grace_seconds=options.grace_seconds,
            ),
        )
        return _encoded(success(name, key.group, key.resource, options.uid or ""))

    async def _write(
        self, asked: Asked, writing: Callable[[KubeClient], Awaitable[JsonObject]]
    ) -> bytes:
        item = await self._authorizer.write(asked.node, asked.key, writing)
        return _encoded(item if asked.subresource else await self._named(asked, item))

    _VERBS: Mapping[str, Callable[[ApiVerbs, Asked], Awaitable[bytes]]] = {
        Verb.GET: _get,
        Verb.LIST: _list,
        Verb.CREATE: _create,
        Verb.UPDATE: _update,
        Verb.UPDATE_STATUS: _update_status,
        Verb.PATCH: _patch,
        Verb.DELETE: _delete,
    }


async def list_page(
    client: KubeClient, asked: Asked, limit: int, page: str | None = None
) -> ObjectList:
    """Ask for one page of what a list or watch is about."""
    key, selectors = asked.key, asked.selectors()
    return await client.list(
        key.group_version,
        key.resource,
        key.namespace,
        labels=selectors["labels"],
        fields=selectors["fields"],
        limit=limit,
        page=page,
    )


class _Items:
    """The items of a list that a node may see, encoded; bounded."""

    def __init__(self, asked: Asked, kind: str, view: View, topology: Topology) -> None:
        self._kind = kind
        self._named: JsonObject = {"apiVersion": asked.key.group_version, "kind": kind}
        self._view = view
        self._node = asked.node
        self._topology = topology
        self._items: list[msgspec.Raw] = []
        self._size = 0

    def take(self, found: ObjectList) -> None:
        """Errors: TooLarge."""
        for item in found.items:
            if self._view.may_see(item):
                named = {**self._named, **item}
                data = _encoded(as_seen(self._kind, named, self._node, self._topology))
                self._size += len(data) + 1
                if self._size > MAX_ANSWER:
                    raise _too_large()
                self._items.append(msgspec.Raw(data))

    def document(self, last: ObjectList) -> bytes:
        metadata: JsonObject = {"resourceVersion": last.resource_version}
        if last.next_page is not None:
            metadata["continue"] = last.next_page
        named = {**self._named, "kind": f"{self._kind}List"}
        return msgspec.json.encode({**named, "metadata": metadata, "items": self._items})


def _too_large() -> TooLarge:
    return TooLarge(
        f"the answer is larger than the {MAX_ANSWER} bytes that fit through the cloud-edge link: ask for"
        " less, or in pages (limit)"
    )


def _encoded(item: Json) -> bytes:
    return msgspec.json.encode(item)


def _document(body: bytes) -> JsonObject:
    """Read an object. Errors: BadRequest."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BadRequest(f"the body of the request is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadRequest(f"expected a JSON object, got {type(value).__name__}")
    return value


def _data(option: JsonObject) -> bytes:
    """Return a patch's bytes. Errors: BadRequest."""
    try:
        return base64.b64decode(text(option.get("Data")), validate=True)
    except binascii.Error as error:
        raise BadRequest(f"Data: not base64: {error}") from error
