"""Where this node learns of Services: a watch through the cloud, its copy on disk, and its own Pods.

The watches are those that MetaServer's clients use: the cloud sends changes while the link is up, all of it
is on disk for a start without a cloud, and what went meanwhile is found out when the link comes back. Pods of
this node are looked at here each second: a new address of a crashed one counts at once, cloud or not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec

from edge.applications import Applications
from edge.metakinds import KNOWN, metadata_of, text_of
from edge.metarecords import MetaRecords, Selection
from edge.metawindow import Arrival, Follower
from edge.network.servicetable import Key, ServiceTable
from edge.pods.ports import PodView
from gateway.errors import GatewayError, Undeliverable
from gateway.model.json import JsonObject
from gateway.runtime.backoff import Backoff
from gateway.wire.cloudedge.applications import ApiKey, Application, Verb, make_application
from gateway.wire.kube.parts import part
from gateway.wire.kube.resources import ResourceType

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
ADOPT_SECONDS = 10.0
"""After a start, in which no Pods may mean that nobody has looked."""
CHECK_SECONDS = 60.0
"""After which it is looked whether the cloud still keeps the watches."""
RETRY_FIRST, RETRY_CAP = 5.0, 300.0
QUIET_SECONDS = 3_600.0
OPTION: JsonObject = {"kind": "ListOptions", "apiVersion": "meta.k8s.io/v1", "watch": True}
"""As MetaServer's clients are asked for: watches of the same are one in the cloud."""


@dataclass(frozen=True, slots=True)
class Cloud:
    """What is needed of MetaServer's rooms."""

    node: str
    records: MetaRecords
    applications: Applications


@dataclass(frozen=True, slots=True)
class _Kind:
    resource: ResourceType
    replace: Callable[[Iterable[JsonObject]], None]
    put: Callable[[JsonObject], None]
    drop: Callable[[Key], None]


class ServiceFeed:
    """Module: keeps a `ServiceTable` true."""

    name = "edge.network.services"

    def __init__(self, cloud: Cloud, table: ServiceTable, pods: PodView | None) -> None:
        self._cloud = cloud
        self._table = table
        self._pods = pods
        self._begun = 0.0
        known = {resource.plural: resource for resource in KNOWN}
        self._kinds = (
            _Kind(known["services"], table.replace_services, table.put_service, table.drop_service),
            _Kind(known["endpointslices"], table.replace_slices, table.put_slice, table.drop_slice),
        )

    def facts(self) -> dict[str, str | int | bool]:
        return {"services": len(self._table), "known": self._table.is_known}

    @property
    def is_well(self) -> bool:
        return True

    async def run(self, ready: Callable[[], None]) -> None:
        self._begun = asyncio.get_running_loop().time()
        self._look_at_pods()
        followers = [await self._load(kind) for kind in self._kinds]
        ready()
        async with asyncio.TaskGroup() as group:
            for kind, follower in zip(self._kinds, followers, strict=True):
                group.create_task(self._follow(kind, follower))
                group.create_task(self._hold(kind))
            while True:
                await asyncio.sleep(POLL_SECONDS)
                self._look_at_pods()

    # --- this node's Pods -----------------------------------------------------------------------

    def _look_at_pods(self) -> None:
        if self._pods is None:
            return
        found = {
            running.pod.uid: _served({**running.pod.raw, "status": running.status})
            for running in self._pods.pods()
        }
        if not found and asyncio.get_running_loop().time() < self._begun + ADOPT_SECONDS:
            return  # edged may not have looked yet: what the cloud said of them stands
        self._table.set_pods(found)

    # --- the cloud's word -------------------------------------------------------------------------

    async def _load(self, kind: _Kind) -> Follower:
        """Take what is on disk, and return what comes after it."""
        records = self._cloud.records
        selection = Selection(kind.resource)
        follower = records.window.follow(selection.gvr)
        try:
            kind.replace((await records.list(selection)).items)
        except Undeliverable as error:
            log.debug("not known yet", extra={"cause": error.message})
        return follower

    async def _follow(self, kind: _Kind, follower: Follower) -> None:
        while True:
            try:
                found = await follower.next(asyncio.get_running_loop().time() + QUIET_SECONDS)
            except BaseException:
                follower.close()
                raise
            if found is None:  # too much at once
                follower = await self._load(kind)
                continue
            for arrival in found:
                self._take(kind, arrival)

    def _take(self, kind: _Kind, arrival: Arrival) -> None:
        item: JsonObject = msgspec.json.decode(arrival.record.value)
        if arrival.is_deleted:
            metadata = metadata_of(item)
            kind.drop((text_of(metadata, "namespace"), text_of(metadata, "name")))
        else:
            self._table.is_known = True
            kind.put(item)

    async def _hold(self, kind: _Kind) -> None:
        """Have the cloud keep a watch for as long as this runs."""
        applications, backoff = self._cloud.applications, Backoff(RETRY_FIRST, RETRY_CAP)
        resource = kind.resource
        key = ApiKey(resource.group, resource.version, resource.plural)
        app = make_application(self._cloud.node, key, Verb.WATCH, option=OPTION)
        is_held = False
        try:
            while True:
                if is_held and app.id not in applications.live:
                    is_held = False
                if not is_held:
                    is_held = await self._begin(app, resource)
                if is_held:
                    backoff.reset()
                await asyncio.sleep(CHECK_SECONDS if is_held else backoff.next())
        finally:
            if is_held:
                applications.release(app)

    async def _begin(self, app: Application, resource: ResourceType) -> bool:
        """Begin a watch, and find out what there is; False where the API refuses."""
        applications = self._cloud.applications
        try:
            await applications.hold(app)
        except GatewayError as error:
            log.warning(
                "the cloud does not tell of Services",
                extra={"resource": resource.plural, "cause": error.message},
            )
            return False
        try:
            await applications.refresh(app)
        except GatewayError as error:
            log.debug("Services are known from disk alone", extra={"cause": error.message})
        return True


_STATUS = ("phase", "podIP", "podIPs")


def _served(pod: JsonObject) -> JsonObject:
    """Return of a Pod what says whether and where it serves: two that say the same are equal."""
    status, metadata = part(pod, "status"), part(pod, "metadata")
    conditions = status.get("conditions")
    ready = [
        {"type": "Ready", "status": row.get("status")}
        for row in (conditions if isinstance(conditions, list) else [])
        if isinstance(row, dict) and row.get("type") == "Ready"
    ]
    kept = ("namespace", "name", "uid", "labels", "deletionTimestamp")
    return {
        "metadata": {key: metadata[key] for key in kept if key in metadata},
        "spec": part(pod, "spec"),
        "status": {
            **{key: status[key] for key in _STATUS if key in status},
            "conditions": [*ready],
        },
    }
