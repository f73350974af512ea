"""Makes Devices of DiscoveredDevices that somebody accepts, and says which are Devices already.

`spec.accept` is a wish that is judged once for each generation of its object: what it became, or why not,
stands in the condition `Accepted`. A Device that is deleted later is not made again. Everything can be
repeated: a CloudCore that was killed in between finds what it has made. The CloudCore that leads does it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from cloud.chores import Chores
from cloud.discovered import (
    DISCOVERED,
    FROM,
    NODE_LABEL,
    PLURAL,
    Found,
    Verdict,
    condition_of,
    device_name,
    device_of,
    is_it,
    is_same_model,
    model_of,
    renamed,
    verdict_status,
    with_model,
)
from gateway.errors import GatewayError, NotFound
from gateway.kube.informer import Change
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.devices import (
    DEVICES,
    GROUP_VERSION,
    MODELS,
    DeviceView,
    ObjectMeta,
    mapping,
)
from gateway.wire.kube.status import AlreadyExists

if TYPE_CHECKING:
    from cloud.catalog import Catalog, DeviceChange
    from cloud.discoveries import Discoveries
    from cloud.ports import Leadership
    from gateway.kube.client import KubeClient

log = logging.getLogger(__name__)

DONE, TAKEN, REFUSED = "Accepted", "NameTaken", "Refused"
DELETED, UNKNOWN = "DeviceDeleted", "NothingKnown"


class Acceptance:
    """Module: one worker, one object after another."""

    name = "cloud.acceptance"

    def __init__(
        self,
        kube: KubeClient,
        catalog: Catalog,
        discoveries: Discoveries,
        leadership: Leadership,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._kube = kube
        self._catalog = catalog
        self._objects = discoveries.objects
        self._leadership = leadership
        self._now = now
        self._chores: Chores[str] = Chores()
        self._by_node: dict[str, set[str]] = {}
        discoveries.on_change(self._object_changed)
        catalog.on_device(self._device_changed)
        leadership.on_change(self._lead)

    def _object_changed(self, change: Change) -> None:
        name = change.key[1]
        node = name.rpartition(".")[0]
        if change.new is not None:
            self._by_node.setdefault(node, set()).add(name)
            self._chores.add((name,))
            return
        names = self._by_node.get(node, set())
        names.discard(name)
        if not names:
            self._by_node.pop(node, None)

    def _device_changed(self, change: DeviceChange) -> None:
        for node in {each.node for each in (change.old, change.new) if each is not None}:
            self._chores.add(self._by_node.get(node, ()))

    def _lead(self, leads: bool) -> None:
        if leads:
            self._chores.add([name for _, name in self._objects])

    async def run(self, ready: Callable[[], None]) -> None:
        ready()
        while True:
            name = await self._chores.next()
            try:
                await self._judge(name)
            except NotFound:
                self._chores.done(name)  # it went meanwhile
            except GatewayError as error:
                facts = {"object": name, "cause": error.message}
                log.warning("a discovered device could not be judged", extra=facts)
                self._chores.again(name)
            else:
                self._chores.done(name)
            await asyncio.sleep(0)

    async def _judge(self, name: str) -> None:
        document = self._objects.get(("", name))
        if document is None or not self._leadership.leads:
            return
        found = Found.read(document)
        if not found.node or found.meta.labels.get(NODE_LABEL) != found.node:
            return  # its status is not written yet, or it is nobody's sight
        verdict = await self._verdict(found)
        if verdict is None:
            return
        before = mapping(document.get("status"))
        patch = verdict_status(found, before, verdict, self._now())
        if found.accepted != verdict.accepted or condition_of(before) != condition_of(patch):
            await self._kube.patch(
                DISCOVERED, PLURAL, None, name, {"status": patch}, subresource="status"
            )

    async def _verdict(self, found: Found) -> Verdict | None:
        """Return what is to be said of it now, None for nothing."""
        device = self._device_of(found)
        if device is not None:
            return Verdict(str(device.key), DONE, f"it is Device {device.key}")
        if found.is_new_wish:
            try:
                return await self._accept(found)
            except GatewayError as error:
                if error.status >= 500:
                    raise
                return Verdict("", REFUSED, error.message)
        if found.accepted and not await self._is_there(found.accepted):
            why = f"Device {found.accepted} is gone; set spec.accept anew to make it again"
            return Verdict("", DELETED, why)
        return None

    def _device_of(self, found: Found) -> DeviceView | None:
        devices = self._catalog.devices_of(found.node)
        return next((each for each in devices if _is_of(found, each)), None)

    async def _is_there(self, accepted: str) -> bool:
        namespace, _, name = accepted.partition("/")
        try:
            await self._kube.get(GROUP_VERSION, DEVICES, namespace, name)
        except NotFound:
            return False
        return True

    async def _accept(self, found: Found) -> Verdict:
        """Write model and Device. Errors: of the API."""
        namespace, name = device_name(found)
        if not found.properties and not (found.wish or {}).get("model"):
            why = "no mapper knows its properties: write a DeviceModel and name it in spec.accept.model"
            return Verdict("", UNKNOWN, why)
        model = await self._model(found, model_of(found, namespace))
        device = device_of(with_model(found, model), namespace, name, ObjectMeta.read(model).name)
        try:
            await self._kube.create(GROUP_VERSION, DEVICES, namespace, device)
        except AlreadyExists:
            known = DeviceView.read(await self._kube.get(GROUP_VERSION, DEVICES, namespace, name))
            if not _is_of(found, known):
                return Verdict("", TAKEN, f"there is another Device {known.key}: name it otherwise")
        log.info("a discovered device was accepted", extra={"object": found.meta.name})
        return Verdict(f"{namespace}/{name}", DONE, f"it is Device {namespace}/{name}")

    async def _model(self, found: Found, wanted: JsonObject) -> JsonObject:
        """Return the DeviceModel to use: the one that is named, one that says the same, or a new one."""
        model = await self._made(wanted)
        if (found.wish or {}).get("model") or is_same_model(model, wanted):
            return model
        return await self._made(renamed(wanted))

    async def _made(self, wanted: JsonObject) -> JsonObject:
        meta = ObjectMeta.read(wanted)
        try:
            return await self._kube.create(GROUP_VERSION, MODELS, meta.namespace, wanted)
        except AlreadyExists:
            return await self._kube.get(GROUP_VERSION, MODELS, meta.namespace, meta.name)


def _is_of(found: Found, device: DeviceView) -> bool:
    return is_it(found, device) or (
        device.meta.annotations.get(FROM) == found.meta.name and device.node == found.node
    )
