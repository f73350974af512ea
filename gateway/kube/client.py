"""The port through which other rooms use a Kubernetes API: the embedded one, or a cluster far away.

Every method has the semantics of the HTTP verb of the same name: optimistic concurrency on
`metadata.resourceVersion`, generation, finalizers, watches that can be resumed. Objects are plain JSON
documents in the form of the API. A returned object is shared with others: read it, never mutate it;
copy what you change (`copy.deepcopy`) and hand the copy to `update`. Lists and watches may leave out
`metadata.managedFields`; a write without them keeps those that there are.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from gateway.errors import BadRequest
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.requests import parse_target

NO_QUERY: Mapping[str, str] = MappingProxyType({})


class EventType(enum.StrEnum):
    """What a watch says about an object."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"
    BOOKMARK = "BOOKMARK"


class PatchType(enum.StrEnum):
    """How a patch document is to be read; the values are its media types."""

    JSON = "application/json-patch+json"
    MERGE = "application/merge-patch+json"
    STRATEGIC = "application/strategic-merge-patch+json"
    APPLY = "application/apply-patch+yaml"


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One line of a watch.

    Shape:  `object` is the whole object after the change (for DELETED its last state with the
            deletion's resourceVersion; for BOOKMARK only kind, apiVersion and metadata);
            `resource_version` is the one to resume from.
    """

    type: EventType
    object: JsonObject
    resource_version: str


@dataclass(frozen=True, slots=True)
class ObjectList:
    """A page of a collection.

    Shape:  `resource_version` is the instant of the snapshot: watch from there to miss nothing;
            `next_page` is the token for the following page, None on the last one.
    """

    items: list[JsonObject]
    resource_version: str
    next_page: str | None = None


class KubeClient(Protocol):
    """A Kubernetes API.

    Shape:  `group_version` is `v1` or `devices.kubeedge.io/v1beta1`; `plural` is `devices`;
            `namespace` is None for cluster-scoped kinds and, in list and watch, for all namespaces;
            `subresource` is `status` or None.
    Errors: (from `gateway.errors`) NotFound 404; Conflict 409 for a stale resourceVersion, its child
            `gateway.wire.kube.status.AlreadyExists` for a create of what exists; BadRequest 400;
            Forbidden 403; Unprocessable 422 (schema); Gone 410 (watch or page too old: list again);
            Undeliverable 503/504 (store or server away: try again).
    """

    async def get(
        self,
        group_version: str,
        plural: str,
        namespace: str | None,
        name: str,
        *,
        subresource: str | None = None,
    ) -> JsonObject:
        """Return the newest state of one object, or of its `subresource` (`scale`)."""

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
        """Return a consistent snapshot, or one page of it; `labels` and `fields` are selectors."""

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
        """Store a new object and return it as stored; AlreadyExists when the name is taken.

        With `name` and `subresource` (`token` of a ServiceAccount, `eviction` of a Pod) ask that of an
        object instead: the answer is what the subresource returns.
        """

    async def update(
        self,
        group_version: str,
        plural: str,
        namespace: str | None,
        body: JsonObject,
        *,
        subresource: str | None = None,
    ) -> JsonObject:
        """Replace an object; Conflict when the body's resourceVersion is not the newest."""

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
        """Change an object; a patch that changes nothing keeps its resourceVersion.

        Shape:  `patch` is a list of operations for JSON, an object otherwise; APPLY creates what is
                absent and takes over foreign fields only with `force`.
        """

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
        """Delete an object, now or once its finalizers are gone; Conflict when a precondition fails.

        Shape:  `propagation` says what becomes of its dependents: `Background`, `Foreground`, `Orphan`.

        Units:  `grace_seconds` for kinds that end gracefully (Pods): 0 removes at once, None waits as
                long as the object says.
        """

    async def read(
        self,
        path: str,
        query: Mapping[str, str] = NO_QUERY,
        *,
        accept: str = "application/json",
    ) -> bytes:
        """Return what a path that is no object's shows: `/version`, `/apis`, `/openapi/v3`, `/readyz`.

        Errors: NotFound; BadRequest for an object's path.
        """

    def acting_as(self, user: str, groups: Sequence[str] = ()) -> KubeClient:
        """Return a client whose calls are made, and judged, as those of another user.

        It stands on our own rights, also when this client acts for somebody already.

        Shape:  `user` as a certificate's CN, e.g. `system:node:edge-1`; `system:authenticated` is added.
        Errors: (of its calls) Forbidden for what that user may not do, or when we may not act for it.
        """

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
        """Yield changes after `resource_version`, in order.

        Without a resource version every existing object comes first as ADDED, then a BOOKMARK, then
        what happens. Ends quietly when the server closes the stream or the reader is too slow: watch
        again from the last resource version. Errors: Gone when that point is no longer kept.
        """


def plain_path(path: str) -> str:
    """Return a path for `KubeClient.read`. Errors: BadRequest for an object's, or what leads elsewhere."""
    parts = path.split("/")
    if not path or parts[0] or any(part in (".", "..") or not part.isprintable() for part in parts):
        raise BadRequest(f"expected a path, got {path[:200]!r}")
    if "?" in path or "#" in path or "%" in path:
        raise BadRequest(f"expected a path without query or escapes, got {path[:200]!r}")
    if parse_target(path) is not None:
        raise BadRequest(f"{path[:200]} is the path of objects: get or list them")
    return path
