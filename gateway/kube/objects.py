"""The verbs of the API on objects: what HTTP and the in-process client both call.

Reads come from memory; a write works out the next state from the newest one and stores it by compare-and-set,
again from the newer state when somebody was first (patches and deletions, up to `MAX_TRIES`).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar, cast

from gateway.errors import BadRequest, GatewayError, NotBuilt, NotFound, RevisionConflict
from gateway.kube import admission
from gateway.kube.accounts import Accounts
from gateway.kube.admission import Remarks, WriteOptions
from gateway.kube.checks import (
    DeleteOptions,
    allow,
    as_version,
    check_name,
    check_preconditions,
    deletion_marked,
    is_finished,
    metadata_namespace,
    named,
    patcher,
    unstored,
)
from gateway.kube.client import PatchType
from gateway.kube.hooks import Hooks
from gateway.kube.lenses import lens_of, shown_through
from gateway.kube.ownership import applied
from gateway.kube.patching import check_patched, decoded_patch, identified
from gateway.kube.questions import Asking, Question, kind_of, of_today
from gateway.kube.rights import Rights
from gateway.kube.storage import Snapshot, Storage
from gateway.kube.strategies import table
from gateway.kube.watch import Filter, Key, Stored, Watcher, stamped
from gateway.kube.written import Deleted, Written, selectable
from gateway.model.json import Json, JsonObject
from gateway.wire.kube import fields
from gateway.wire.kube.clock import rfc3339
from gateway.wire.kube.names import required
from gateway.wire.kube.resources import Registry, ResourceType
from gateway.wire.kube.selectors import parse_fields, parse_labels
from gateway.wire.kube.status import (
    AlreadyExists,
    already_exists,
    conflict,
    forbidden,
    invalid,
    namespace_ending,
    not_found,
)

MAX_TRIES = 8
PROTECTED_NAMESPACES = ("default", "kube-system", "kube-public")

SILENT = WriteOptions(validation="Ignore")
T = TypeVar("T")


class Objects:
    """Kinds and their objects."""

    def __init__(
        self, storage: Storage, registry: Registry, *, now: Callable[[], float] = time.time
    ) -> None:
        self.storage = storage
        self.registry = registry
        self.now = now
        self.askings: dict[tuple[str, str], Asking] = {}
        """(kind's storage key, subresource) -> who answers a create of it."""
        self.accounts: Accounts | None = None
        self.hooks = Hooks()
        self.rights = Rights(storage, self.hooks)

    # --- reads ------------------------------------------------------------------------------------

    def resource(self, group_version: str, plural: str) -> ResourceType:
        """Return a served kind. Errors: NotFound."""
        found = self.registry.find(group_version, plural)
        if found is None:
            raise NotFound("the server could not find the requested resource")
        return found

    def key(self, resource: ResourceType, namespace: str | None, name: str) -> Key:
        """Where an object lives. Errors: BadRequest when the scope does not fit."""
        if resource.namespaced and not namespace:
            raise BadRequest(f"an empty namespace may not be set for {resource.plural}")
        return Key(
            resource.storage_key, namespace if resource.namespaced and namespace else "", name
        )

    def get(self, resource: ResourceType, namespace: str | None, name: str) -> Stored:
        """Return the newest state. Errors: NotFound."""
        stored = self.storage.get(self.key(resource, namespace, name))
        if stored is None:
            raise not_found(resource.plural, resource.group, name)
        return as_version(resource, stored)

    def filter(
        self,
        resource: ResourceType,
        namespace: str | None,
        labels: str | None = None,
        selected: str | None = None,
    ) -> Filter:
        """Read the selectors of a list or watch. Errors: BadRequest."""
        return Filter(
            namespace or None, parse_labels(labels), parse_fields(selected, selectable(resource))
        )

    def page(
        self,
        resource: ResourceType,
        wanted: Filter,
        *,
        limit: int = 0,
        after: tuple[str, str] | None = None,
        version: int | None = None,
    ) -> Snapshot:
        """List. Errors: Gone."""
        found = self.storage.page(
            resource.storage_key, wanted, limit=limit, after=after, version=version
        )
        items = [as_version(resource, item) for item in found.items]
        return Snapshot(items, found.version, found.rest, found.last)

    def follow(self, resource: ResourceType, wanted: Filter, since: int) -> Watcher:
        """Watch. Errors: Gone; TooEarly."""
        return self.storage.follow(resource.storage_key, wanted, since)

    # --- create -----------------------------------------------------------------------------------

    async def create(
        self, resource: ResourceType, namespace: str | None, body: Json, options: WriteOptions
    ) -> Written:
        """Store a new object.

        Errors: AlreadyExists; BadRequest; Unprocessable; NotFound or Forbidden for its namespace.
        """
        allow(resource, "create")
        remarks = Remarks.of(options)
        item = admission.decoded(resource, body, options, remarks)
        if table(item, "metadata").get("resourceVersion"):
            text = "resourceVersion should not be set on objects to be created"
            raise GatewayError(text, details={"reason": ""})
        item = named(resource, namespace, item)
        return await self._create_shown(resource, item, options, remarks)

    async def _create_shown(
        self, resource: ResourceType, item: JsonObject, options: WriteOptions, remarks: Remarks
    ) -> Written:
        """Store a new object in its stored form and say how the asked-for kind shows it."""
        if resource.view is None:
            return await self._create(resource, item, options, remarks, None)
        home, kept = self.registry.home(resource), resource.view.kept(item)
        written = await self._create(home, kept, options, remarks, None)
        return replace(written, stored=as_version(resource, written.stored))

    async def _create(
        self,
        resource: ResourceType,
        item: JsonObject,
        options: WriteOptions,
        remarks: Remarks,
        claims: tuple[fields.Claim, ...] | None,
    ) -> Written:
        manager = fields.Manager(options.manager, "Update", resource.group_version)
        fresh = admission.admitted_new(
            resource,
            self.hooks.changed(resource, self.hooks.stamped(resource, item, options.user), None),
            uid=str(uuid.uuid4()),
            now=rfc3339(self.now()),
            manager=manager,
            claims=claims,
            sent=item,
        )
        metadata = table(fresh, "metadata")
        key = self.key(
            resource, cast("str | None", metadata.get("namespace")), str(metadata["name"])
        )
        self._check_namespace(resource, key)
        await self.hooks.check(resource, None, fresh, remarks)
        if self.storage.get(key) is not None:
            raise already_exists(resource.plural, resource.group, key.name)
        fresh = self.hooks.allotted(resource, fresh, None)
        if options.dry_run:
            return Written(unstored(key, fresh), is_new=True, remarks=remarks)
        try:
            return Written(await self.storage.create(key, fresh), is_new=True, remarks=remarks)
        except AlreadyExists as error:
            raise already_exists(resource.plural, resource.group, key.name) from error

    def _check_namespace(self, resource: ResourceType, key: Key) -> None:
        if not resource.namespaced:
            return
        stored = self.storage.get(Key("namespaces", "", key.namespace))
        if stored is None:
            raise not_found("namespaces", "", key.namespace)
        if table(stored.object, "metadata").get("deletionTimestamp"):
            raise namespace_ending(resource.plural, resource.group, key.name, key.namespace)

    async def ask(
        self,
        resource: ResourceType,
        namespace: str | None,
        name: str,
        subresource: str,
        body: Json,
        options: WriteOptions = SILENT,
        remarks: Remarks | None = None,
    ) -> JsonObject:
        """Create a subresource of an object (a token of a ServiceAccount, a Pod's binding).

        Errors: NotFound; BadRequest for another document than is asked for; NotBuilt; of who answers.
        """
        allow(resource, "create", subresource)
        sub = resource.subresource(subresource)
        asking = self.askings.get((resource.storage_key, subresource))
        if sub is None or asking is None:
            raise NotBuilt(f"{subresource} of {resource.plural} is not built")
        told = remarks or Remarks.of(options)
        item = admission.decoded(kind_of(resource, sub), of_today(body), options, told)
        metadata_namespace(resource, table(item, "metadata"), namespace)
        stored = self.get(resource, namespace, name)
        await self.hooks.check(resource, stored.object, stored.object, told, subresource)
        return await asking(Question(resource, stored, item, options))

    async def rewrite(
        self,
        resource: ResourceType,
        namespace: str | None,
        name: str,
        change: Callable[[JsonObject], JsonObject],
        *,
        dry_run: bool = False,
    ) -> Stored:
        """Change an object as the server itself does: nothing is judged, no field changes its owner.

        Errors: NotFound; what `change` raises; Conflict when others are first too often.
        """
        options = WriteOptions(dry_run=dry_run)

        async def attempt() -> Stored:
            before = self.get(resource, namespace, name)
            return await self._store(before, change(before.object), options)

        return await self._retried(resource, name, attempt)

    # --- update -----------------------------------------------------------------------------------

    async def update(
        self,
        resource: ResourceType,
        namespace: str | None,
        name: str,
        body: Json,
        options: WriteOptions,
        *,
        subresource: str | None = None,
    ) -> Written:
        """Replace an object or its status.

        Errors: NotFound; Conflict; BadRequest; Unprocessable.
        """
        allow(resource, "update", subresource)
        remarks = Remarks.of(options)
        lens = lens_of(resource, subresource)
        item = admission.decoded(lens.kind if lens else resource, body, options, remarks)
        check_name(item, name)
        metadata_namespace(resource, table(item, "metadata"), namespace)
        self.get(resource, namespace, name)
        if lens is None:
            admission.require_version(resource, item)

        def change(before: JsonObject) -> JsonObject:
            return lens.take(before, item) if lens else item

        return await self._change(resource, namespace, name, change, options, subresource, remarks)

    async def patch(
        self,
        resource: ResourceType,
        namespace: str | None,
        name: str,
        patch: Json,
        patch_type: PatchType,
        options: WriteOptions,
        *,
        subresource: str | None = None,
    ) -> Written:
        """Change an object by a patch document.

        Errors: NotFound; Conflict; BadRequest; Unprocessable; UnsupportedMediaType.
        """
        allow(resource, "patch", subresource)
        if patch_type is PatchType.APPLY:
            return await self._apply(resource, namespace, name, patch, options, subresource)
        lens = lens_of(resource, subresource)
        kind = lens.kind if lens else resource
        apply = patcher(resource, patch_type, kind.schema)
        remarks = Remarks.of(options)

        def change(before: JsonObject) -> JsonObject:
            document = apply(lens.base(before) if lens else before, patch)
            patched = decoded_patch(kind, patch_type, patch, document, options, remarks)
            check_patched(resource, before, patched)
            return lens.take(before, patched) if lens else patched

        return await self._change(resource, namespace, name, change, options, subresource, remarks)

    async def _change(
        self,
        resource: ResourceType,
        namespace: str | None,
        name: str,
        change: Callable[[JsonObject], JsonObject],
        options: WriteOptions,
        subresource: str | None,
        remarks: Remarks,
    ) -> Written:
        if resource.view is not None:
            home, view = self.registry.home(resource), resource.view
            written = await self._change(
                home,
                namespace,
                name,
                lambda before: view.kept(change(view.shown(before))),
                options,
                subresource,
                remarks,
            )
            return replace(written, stored=as_version(resource, written.stored))
        manager = fields.Manager(
            options.manager, "Update", resource.group_version, subresource or ""
        )

        async def attempt() -> Written:
            before = self.get(resource, namespace, name)
            after = admission.admitted_next(
                resource,
                before.object,
                self.hooks.changed(resource, change(before.object), subresource),
                subresource,
                now=rfc3339(self.now()),
                manager=manager,
            )
            await self.hooks.check(resource, before.object, after, remarks, subresource)
            after = self.hooks.allotted(resource, after, before.object, subresource)
            stored = await self._store(before, after, options)
            return Written(shown_through(resource, subresource, stored), remarks=remarks)

        return await self._retried(resource, name, attempt)

    async def _store(self, before: Stored, after: JsonObject, options: WriteOptions) -> Stored:
        if admission.is_same(before.object, after):
            return before
        if options.dry_run:
            return unstored(before.key, after)
        if is_finished(after):
            gone = await self.storage.remove(before)
            return stamped(unstored(before.key, after), gone.version)
        return await self.storage.replace(before, after)

    async def _retried(
        self, resource: ResourceType, name: str, attempt: Callable[[], Awaitable[T]]
    ) -> T:
        for _ in range(MAX_TRIES):
            try:
                return await attempt()
            except RevisionConflict:
                continue  # somebody was first: decide again from the newer state
        raise conflict(resource.plural, resource.group, name)

    # --- apply ------------------------------------------------------------------------------------

    async def _apply(
        self,
        resource: ResourceType,
        namespace: str | None,
        name: str,
        config: Json,
        options: WriteOptions,
        subresource: str | None,
    ) -> Written:
        if not options.manager:
            cause = required("fieldManager", "is required for apply patch")
            raise invalid("PatchOptions", "meta.k8s.io", "", [cause])
        if resource.view is not None:
            raise NotBuilt(
                f"server-side apply of {resource.plural} in {resource.group_version} is not built:"
                f" apply them in {resource.view.home}"
            )
        remarks = Remarks.of(options)
        lens = lens_of(resource, subresource)
        kind = lens.kind if lens else resource
        item = admission.decoded(kind, config, options, remarks, is_patch=True, is_config=True)
        item = {**item, "metadata": {"name": name, **table(item, "metadata")}}
        check_name(item, name)
        metadata_namespace(resource, table(item, "metadata"), namespace)
        if lens is not None:
            item = lens.config(item)
        manager = fields.Manager(
            options.manager, "Apply", resource.group_version, subresource or ""
        )

        async def attempt() -> Written:
            before = self.storage.get(self.key(resource, namespace, name))
            if before is not None:
                before = as_version(resource, before)
            elif subresource is not None or table(item, "metadata").get("uid"):
                raise not_found(resource.plural, resource.group, name)
            now = rfc3339(self.now())
            merged, claims = applied(
                resource,
                before.object if before else None,
                item,
                now=now,
                manager=manager,
                force=options.force,
            )
            merged = identified(merged, item)
            if before is None:
                self.rights.require_create(options.user, resource, namespace)
                return await self._create(resource, merged, options, remarks, claims)
            after = admission.admitted_next(
                resource,
                before.object,
                self.hooks.changed(resource, merged, subresource),
                subresource,
                now=now,
                manager=manager,
                claims=claims,
            )
            await self.hooks.check(resource, before.object, after, remarks, subresource)
            after = self.hooks.allotted(resource, after, before.object, subresource)
            stored = await self._store(before, after, options)
            return Written(shown_through(resource, subresource, stored), remarks=remarks)

        return await self._retried(resource, name, attempt)

    # --- delete -----------------------------------------------------------------------------------

    async def delete(
        self,
        resource: ResourceType,
        namespace: str | None,
        name: str,
        options: DeleteOptions | None = None,
    ) -> Deleted:
        """Delete an object, or mark it until its finalizers are gone.

        Errors: NotFound; Conflict when a precondition fails; Forbidden for namespaces that must stay.
        """
        allow(resource, "delete")
        if resource.view is not None:
            gone = await self.delete(self.registry.home(resource), namespace, name, options)
            return replace(gone, stored=as_version(resource, gone.stored))
        how = options or DeleteOptions()
        if resource.storage_key == "namespaces" and name in PROTECTED_NAMESPACES:
            raise forbidden("namespaces", "", name, "this namespace may not be deleted")

        async def attempt() -> Deleted:
            before = self.get(resource, namespace, name)
            check_preconditions(resource, before, how)
            marked = deletion_marked(resource, before.object, how, self.now())
            if is_finished(marked):
                if not how.dry_run:
                    return Deleted(await self.storage.remove(before), is_gone=True)
                return Deleted(before, is_gone=True)
            if how.dry_run:
                return Deleted(unstored(before.key, marked), is_gone=False)
            if admission.is_same(before.object, marked):
                return Deleted(before, is_gone=False)
            return Deleted(await self.storage.replace(before, marked), is_gone=False)

        return await self._retried(resource, name, attempt)

    async def delete_collection(
        self, resource: ResourceType, wanted: Filter, options: DeleteOptions, *, limit: int = 0
    ) -> list[Stored]:
        """Delete everything that matches, or the first `limit`; returns the last states."""
        allow(resource, "deletecollection")
        deleted = []
        for stored in self.page(resource, wanted, limit=limit).items:
            try:
                gone = await self.delete(resource, stored.key.namespace, stored.key.name, options)
            except NotFound:
                continue  # somebody else was first
            deleted.append(gone.stored)
        return deleted
