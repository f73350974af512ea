"""The client port over HTTPS: an API server in another process, with the credentials of `credentials`."""

from __future__ import annotations

import asyncio
import builtins
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import cast
from urllib.parse import quote

import aiohttp

from gateway.errors import BadRequest, Gone, InvalidSetting, Undeliverable, Unprocessable
from gateway.kube.client import NO_QUERY, EventType, ObjectList, PatchType, WatchEvent, plain_path
from gateway.kube.credentials import Access, from_kubeconfig
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.status import error_from

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 30.0
RENEW_SECONDS = 60.0
"""How often credentials that end are looked at again."""
PAGE = 500
_INITIAL = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
MAX_LINE_BYTES = 4 * 1024 * 1024
LOG_BUFFER = 65_536
"""Bytes of a log that wait for a slow reader, twice; watches need room for a whole object."""
WATCH_SECONDS = 300
"""How long the server is asked to keep a watch; it says goodbye then."""
GOODBYE_SECONDS = 30.0
"""How much longer silence may last; then the connection is dead, though nobody told."""


class Connection:
    """Requests to one API server, made while `opened()` is entered; clients may be made before."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self._session: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Keep connections for the length of the block, and credentials fresh."""
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                ssl=self.access.tls, limit=0
            ),  # each watch holds one open
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS),
            read_bufsize=MAX_LINE_BYTES,
        ) as session:
            self._session = session
            renewing = asyncio.create_task(self._renew())
            try:
                yield
            finally:
                self._session = None
                renewing.cancel()
                with suppress(asyncio.CancelledError):
                    await renewing

    async def _renew(self) -> None:
        while self.access.renew is not None:
            await asyncio.sleep(RENEW_SECONDS)
            try:
                self.access.headers = await asyncio.to_thread(self.access.renew)
            except InvalidSetting as error:  # the old ones may still do
                log.warning("credentials not renewed", extra={"cause": error.message})

    def request(
        self,
        method: str,
        path: str,
        *,
        headers: Iterable[tuple[str, str]],
        params: Mapping[str, str] | None = None,
        data: str | None = None,
        timeout: aiohttp.ClientTimeout | None = None,
        read_bufsize: int | None = None,
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """Begin a request. Errors: Undeliverable while not opened; those of aiohttp."""
        if self._session is None:
            raise Undeliverable(f"{self.access.server}: not connected")
        return self._session.request(
            method,
            self.access.server + path,
            params=params,
            data=data,
            headers=[*self.access.headers.items(), *headers],
            timeout=timeout or self._session.timeout,
            read_bufsize=read_bufsize,
        )


class RemoteClient:
    """Speaks HTTPS to an API server; see `KubeClient` for what the verbs mean.

    Errors: what the server's `Status` says; Undeliverable when it cannot be reached.
    """

    def __init__(
        self,
        connection: Connection,
        manager: str,
        *,
        as_: Sequence[tuple[str, str]] = (),
    ) -> None:
        self._connection = connection
        self._server = connection.access.server
        self._manager = manager
        self._as = tuple(as_)
        """Headers of the user that is acted for."""

    async def get(
        self,
        group_version: str,
        plural: str,
        namespace: str | None,
        name: str,
        *,
        subresource: str | None = None,
    ) -> JsonObject:
        return await self._call("GET", _path(group_version, plural, namespace, name, subresource))

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
        query = _query(
            labelSelector=labels,
            fieldSelector=fields,
            limit=str(limit) if limit else None,
            **{"continue": page},
        )
        body = await self._call("GET", _path(group_version, plural, namespace), query=query)
        items, metadata = body.get("items") or [], body.get("metadata")
        if not isinstance(metadata, dict) or not isinstance(items, builtins.list):
            raise Undeliverable(f"{self._server}: an answer that is no list")
        if not all(isinstance(item, dict) for item in items):
            raise Undeliverable(f"{self._server}: a list of what is no object")
        return ObjectList(
            cast(builtins.list[JsonObject], items),
            str(metadata.get("resourceVersion") or ""),
            str(metadata.get("continue") or "") or None,
        )

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
        path = _path(group_version, plural, namespace, name, subresource)
        return await self._call("POST", path, body=body, query=self._writer())

    async def update(
        self,
        group_version: str,
        plural: str,
        namespace: str | None,
        body: JsonObject,
        *,
        subresource: str | None = None,
    ) -> JsonObject:
        name = str(cast(JsonObject, body["metadata"])["name"])
        path = _path(group_version, plural, namespace, name, subresource)
        return await self._call("PUT", path, body=body, query=self._writer())

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
        return await self._call(
            "PATCH",
            _path(group_version, plural, namespace, name, subresource),
            body=patch,
            content_type=str(patch_type),
            query={**self._writer(), **({"force": "true"} if force else {})},
        )

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
        preconditions = cast(JsonObject, _query(uid=uid, resourceVersion=resource_version))
        body: JsonObject = {
            "kind": "DeleteOptions",
            "apiVersion": "v1",
            "preconditions": preconditions,
            "propagationPolicy": propagation,
        }
        if grace_seconds is not None:
            body["gracePeriodSeconds"] = grace_seconds
        await self._call("DELETE", _path(group_version, plural, namespace, name), body=body)

    async def read(
        self,
        path: str,
        query: Mapping[str, str] = NO_QUERY,
        *,
        accept: str = "application/json",
    ) -> bytes:
        plain = plain_path(path)
        return await self._ask(
            "GET", plain, data=None, headers={"Accept": accept}, query=dict(query)
        )

    def acting_as(self, user: str, groups: Sequence[str] = ()) -> RemoteClient:
        headers = [("Impersonate-User", user)]
        headers += [("Impersonate-Group", group) for group in groups]
        return RemoteClient(self._connection, self._manager, as_=headers)

    def watch(
        self,
        group_version: str,
        plural: str,
        namespace: str | None = None,
        *,
        resource_version: str | None = None,
        labels: str | None = None,
        fields: str | None = None,
    ) -> AsyncIterator[WatchEvent]:
        if resource_version is None:
            return self._from_the_start(group_version, plural, namespace, labels, fields)
        return self._watch(
            group_version, plural, namespace, labels, fields, resourceVersion=resource_version
        )

    async def _from_the_start(
        self,
        group_version: str,
        plural: str,
        namespace: str | None,
        labels: str | None,
        fields: str | None,
    ) -> AsyncGenerator[WatchEvent]:
        """What there is, a bookmark, and what happens then; servers before 1.32 have to be asked twice."""
        at = group_version, plural, namespace
        try:
            async with aclosing(self._watch(*at, labels, fields, **_INITIAL)) as news:
                async for event in news:
                    yield event
        except Unprocessable:  # refused before anything came
            pass
        else:
            return
        page: str | None = None
        while True:
            found = await self.list(*at, labels=labels, fields=fields, limit=PAGE, page=page)
            for item in found.items:
                yield WatchEvent(EventType.ADDED, item, _version_of(item))
            page = found.next_page
            if page is None:
                break
        version = found.resource_version
        yield WatchEvent(EventType.BOOKMARK, {"metadata": {"resourceVersion": version}}, version)
        start = {"resourceVersion": version}
        async with aclosing(self._watch(*at, labels, fields, **start)) as news:
            async for event in news:
                yield event

    async def _watch(
        self,
        group_version: str,
        plural: str,
        namespace: str | None,
        labels: str | None,
        fields: str | None,
        **start: str,
    ) -> AsyncGenerator[WatchEvent]:
        query = _query(
            watch="true",
            allowWatchBookmarks="true",
            timeoutSeconds=str(WATCH_SECONDS),
            labelSelector=labels,
            fieldSelector=fields,
            **start,
        )
        try:
            async with self._connection.request(
                "GET",
                _path(group_version, plural, namespace),
                params=query,
                headers=self._as,
                timeout=aiohttp.ClientTimeout(
                    total=None,
                    sock_connect=TIMEOUT_SECONDS,
                    sock_read=WATCH_SECONDS + GOODBYE_SECONDS,
                ),
            ) as response:
                await _check(response)
                async for line in response.content:
                    yield _event(line)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Undeliverable(f"{self._server}: {error}") from error
        except ValueError as error:
            raise Gone(f"{self._server}: a line of a watch is too long") from error

    @asynccontextmanager
    async def pod_log(
        self, namespace: str, name: str, query: Mapping[str, str]
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """A Pod's log, for the length of the block. Errors: as the verbs."""
        try:
            async with self._connection.request(
                "GET",
                _path("v1", "pods", namespace, name, "log"),
                params=query,
                headers=self._as,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT_SECONDS),
                read_bufsize=LOG_BUFFER,
            ) as response:
                await _check(response)
                yield self._pieces(response)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Undeliverable(f"{self._server}: {error}") from error

    async def _pieces(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        """An answer as it comes. Errors: Undeliverable when it is cut."""
        try:
            async for piece in response.content.iter_any():
                yield piece
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Undeliverable(f"{self._server}: the answer was cut") from error

    def _writer(self) -> dict[str, str]:
        return {"fieldManager": self._manager}

    async def _call(
        self,
        method: str,
        path: str,
        *,
        body: Json = None,
        content_type: str = "application/json",
        query: Mapping[str, str] | None = None,
    ) -> JsonObject:
        data = None if body is None else json.dumps(body)
        headers = {"Content-Type": content_type}
        answer = await self._ask(method, path, data=data, headers=headers, query=query)
        try:
            found = json.loads(answer)
        except (ValueError, RecursionError) as error:
            raise Undeliverable(f"{self._server}: an answer that is no JSON") from error
        if not isinstance(found, dict):
            raise Undeliverable(f"{self._server}: an answer that is no object")
        return found

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        data: str | None,
        headers: Mapping[str, str],
        query: Mapping[str, str] | None,
    ) -> bytes:
        try:
            async with self._connection.request(
                method,
                path,
                data=data,
                headers=[*headers.items(), *self._as],
                params=query,
            ) as response:
                await _check(response)
                return await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Undeliverable(f"{self._server}: {error}") from error


@asynccontextmanager
async def connect(kubeconfig: Path, *, manager: str) -> AsyncIterator[RemoteClient]:
    """Open a client for the length of the block.

    Errors: InvalidSetting for a kubeconfig that cannot be read.
    """
    connection = Connection(from_kubeconfig(kubeconfig))
    async with connection.opened():
        yield RemoteClient(connection, manager)


def _path(
    group_version: str,
    plural: str,
    namespace: str | None,
    name: str | None = None,
    subresource: str | None = None,
) -> str:
    """Errors: BadRequest for a name that would lead elsewhere; names may come from edges."""
    group, _, version = group_version.rpartition("/")
    root = ("apis", group) if group else ("api",)
    scope = ("namespaces", namespace) if namespace else ()
    parts = (*root, version, *scope, plural, name, subresource)
    return "".join(f"/{_segment(part)}" for part in parts if part)


def _segment(part: str) -> str:
    if part in (".", "..") or "/" in part:
        raise BadRequest(f"expected a name, got {part[:200]!r}")
    return quote(part, safe="")


def _version_of(item: JsonObject) -> str:
    metadata = item.get("metadata")
    return str(metadata.get("resourceVersion") or "") if isinstance(metadata, dict) else ""


def _query(**values: str | None) -> dict[str, str]:
    return {name: value for name, value in values.items() if value is not None}


async def _check(response: aiohttp.ClientResponse) -> None:
    if response.status < 400:
        return
    text = await response.text(errors="replace")
    try:
        status = json.loads(text)
    except (ValueError, RecursionError):
        status = None
    if not isinstance(status, dict):
        status = {"message": text[:500]}
    raise error_from(status, response.status)


def _event(line: bytes) -> WatchEvent:
    """Read one line of a watch.

    Errors: what an ERROR line's `Status` says (Gone when too old); Undeliverable for half a line.
    """
    try:
        parsed = json.loads(line)
        kind, item = parsed["type"], cast(JsonObject, parsed["object"])
        if kind != "ERROR":
            metadata = cast(dict[str, str], item["metadata"])
            return WatchEvent(EventType(kind), item, metadata["resourceVersion"])
        code = int(cast(int, item.get("code") or 500))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Undeliverable("a watch brought something that is no event") from error
    raise error_from(item, code)
