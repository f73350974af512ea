"""A collection of Kubernetes objects in memory: list, watch, and list again when the past is gone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from gateway.errors import (
    GatewayError,
    Gone,
    NotFound,
    QuotaExceeded,
    Unauthenticated,
    Undeliverable,
)
from gateway.kube.client import EventType, KubeClient, WatchEvent
from gateway.model.json import JsonObject
from gateway.runtime.backoff import Backoff

log = logging.getLogger(__name__)

PAGE = 500
STEADY_SECONDS = 10.0
"""A watch that lasted so long did its work, also where nothing happened."""
Key: TypeAlias = "tuple[str, str]"


@dataclass(frozen=True, slots=True)
class Change:
    """One object before and after; `new` None: it is gone, `old` None: it is new to us."""

    key: Key
    old: JsonObject | None
    new: JsonObject | None


class Informer:
    """Module: mirrors one collection and tells `on_change`, synchronously and in order.

    Ready once the whole collection is known. Objects are shared: read, never mutate.

    Shape:  `fields` and `labels` are selectors; `keep` says which objects stay in memory, the others pass
            unseen: tell `put` what was read by itself once it is to be kept, and `forget` what is not any
            more; `trim` leaves of an object what is to be remembered (its metadata at least); one that is
            not `is_needed` is ready also where its kind is not served.
    """

    def __init__(
        self,
        kube: KubeClient,
        group_version: str,
        plural: str,
        on_change: Callable[[Change], None],
        *,
        namespace: str | None = None,
        fields: str | None = None,
        labels: str | None = None,
        keep: Callable[[Key], bool] | None = None,
        trim: Callable[[JsonObject], JsonObject] | None = None,
        is_needed: bool = True,
    ) -> None:
        self._kube = kube
        self._fields = fields
        self._labels = labels
        self._keep = keep
        self._trim = trim
        self._is_needed = is_needed
        self._group_version = group_version
        self._plural = plural
        self._namespace = namespace
        self._on_change = on_change
        self._version = ""
        self._is_served = True
        self.objects: dict[Key, JsonObject] = {}
        """(namespace, name) -> object; the namespace is "" for cluster-scoped kinds."""

    @property
    def name(self) -> str:
        return f"kube.watch.{self._plural}"

    @property
    def version(self) -> str:
        """Up to where the collection is known; empty before it was listed."""
        return self._version

    def put(self, item: JsonObject) -> None:
        """Take in an object that was read by itself, unless a newer state is known."""
        key = _key(item)
        if not _is_older(item, self.objects.get(key)):
            self._set(key, item)

    def forget(self, key: Key) -> None:
        """Drop an object that is not to be kept any more; nobody is told."""
        self.objects.pop(key, None)

    async def run(self, ready: Callable[[], None]) -> None:
        backoff = Backoff(0.2, 30.0)
        while True:
            try:
                if not self._version:
                    self._version = await self._list()
                    ready()
                if await self._watch():
                    backoff.reset()
                    continue  # the server ends watches now and then
            except Gone:
                self._version = ""
            except NotFound as error:
                self._version = ""
                self._tell_unserved(error)
                if not self._is_needed:
                    ready()
            except GatewayError as error:
                if needs_list(error):
                    self._version = ""
                log.warning(
                    "watch interrupted", extra={"plural": self._plural, "cause": error.message}
                )
            await asyncio.sleep(backoff.next())

    def _tell_unserved(self, error: NotFound) -> None:
        """Say once what is missing; the clusters of others do not know our kinds by themselves."""
        log.log(
            logging.WARNING if self._is_served else logging.DEBUG,
            "the cluster does not serve a kind that is needed here: install its"
            " CustomResourceDefinition there; trying again until it is",
            extra={
                "plural": self._plural,
                "group_version": self._group_version,
                "cause": error.message,
            },
        )
        self._is_served = False

    async def _list(self) -> str:
        seen: dict[Key, JsonObject | None] = {}
        page: str | None = None
        while True:
            found = await self._kube.list(
                self._group_version,
                self._plural,
                self._namespace,
                labels=self._labels,
                fields=self._fields,
                limit=PAGE,
                page=page,
            )
            for item in found.items:
                key = _key(item)
                seen[key] = item if self._is_kept(key) else None
            page = found.next_page
            if page is None:
                break
        for key in [k for k in self.objects if k not in seen]:
            self._set(key, None)
        for key, kept in seen.items():
            if kept is not None and not _is_same(self.objects.get(key), kept):
                self._set(key, kept)
        self._is_served = True
        return found.resource_version

    async def _watch(self) -> bool:
        """Follow one stream to its end; True when it brought something, or lasted.

        The version moves with each event: after a failure in the middle nothing is told twice.
        """
        stream = self._kube.watch(
            self._group_version,
            self._plural,
            self._namespace,
            resource_version=self._version,
            labels=self._labels,
            fields=self._fields,
        )
        has_news, now = False, asyncio.get_running_loop().time
        steady_at = now() + STEADY_SECONDS
        async for event in stream:
            self._version, has_news = event.resource_version, True
            if event.type is not EventType.BOOKMARK:
                self._take(event)
        return has_news or now() >= steady_at

    def _take(self, event: WatchEvent) -> None:
        """Take in one event; what `put` brought already, or is older, is no news."""
        key, is_gone = _key(event.object), event.type is EventType.DELETED
        known = self.objects.get(key)
        if not self._is_kept(key) or _is_older(event.object, known):
            return
        if is_gone or not _is_same(known, event.object):
            self._set(key, None if is_gone else event.object)

    def _is_kept(self, key: Key) -> bool:
        return self._keep is None or self._keep(key)

    def _set(self, key: Key, new: JsonObject | None) -> None:
        old = self.objects.pop(key, None) if new is None else self.objects.get(key)
        if new is not None:
            self.objects[key] = new if self._trim is None else self._trim(new)
        if old is not None or new is not None:
            self._on_change(Change(key, old, new))


def needs_list(error: GatewayError) -> bool:
    """Say whether a watch that ended so has to begin anew: the same one would end so again.

    What a server cannot do now goes on from where it was: it is away, busy, or does not know us. A watch that
    it refuses, that breaks inside it, or from a point that it has not reached (it was restored) begins with
    a list; where lists are all that it allows, one follows the other.
    """
    if error.status in (500, 504):
        return True
    return not isinstance(error, Undeliverable | QuotaExceeded | Unauthenticated)


def _meta(item: JsonObject) -> JsonObject:
    """Return the metadata: these questions are asked of every object of every event."""
    found = item.get("metadata")
    return found if isinstance(found, dict) else {}


def _key(item: JsonObject) -> Key:
    meta = _meta(item)
    namespace, name = meta.get("namespace"), meta.get("name")
    return (
        namespace if isinstance(namespace, str) else "",
        name if isinstance(name, str) else "",
    )


def _is_same(old: JsonObject | None, new: JsonObject) -> bool:
    if old is None:
        return False
    before, after = _meta(old), _meta(new)
    return before.get("uid") == after.get("uid") and _version_of(old) == _version_of(new)


def _is_older(item: JsonObject, than: JsonObject | None) -> bool:
    if than is None:
        return False
    one, other = number_of(_version_of(item)), number_of(_version_of(than))
    return one is not None and other is not None and one < other


def _version_of(item: JsonObject) -> str:
    found = _meta(item).get("resourceVersion")
    return found if isinstance(found, str) else ""


def number_of(version: str) -> int | None:
    """Read a resourceVersion as a number, None where it is none (Kubernetes' are 64 bits wide)."""
    is_number = version.isascii() and version.isdigit() and len(version) <= 20
    return int(version) if is_number else None
