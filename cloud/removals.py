"""What happens to a thing when its Device is gone: deleted if the controller made it and nobody keeps it.

A Device that was deleted and made again under its name is another Device: its predecessor's thing goes
first. Where that failed and the new one took the thing over meanwhile, the thing is the new one's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from cloud.devicethings import DeviceThings
from gateway.errors import GatewayError, NotFound, Rejected
from gateway.wire.cloudedge.subjects import DeviceKey

if TYPE_CHECKING:
    from cloud.bases import Bases
    from cloud.catalog import Catalog

log = logging.getLogger(__name__)


class Removals:
    """Devices that are gone and not yet dealt with; `find` gives the Device that a thing stands for."""

    def __init__(
        self,
        own: DeviceThings,
        bases: Bases,
        catalog: Catalog,
        find: Callable[[str], DeviceKey | None],
        deleted: Callable[[], None],
    ) -> None:
        self._own = own
        self._bases = bases
        self._catalog = catalog
        self._find = find
        self._deleted = deleted
        self._gone: dict[DeviceKey, dict[str, None]] = {}

    def note(self, key: DeviceKey, uid: str) -> None:
        """Remember that the Device of this uid is gone."""
        self._gone.setdefault(key, {})[uid] = None

    async def settle(self, key: DeviceKey) -> None:
        """Deal with those gone under a name. Errors: what can be tried again; then they are still noted."""
        for uid in list(self._gone.get(key, ())):
            await self._remove(uid)
            left = self._gone.get(key, {})
            left.pop(uid, None)
            if not left:
                self._gone.pop(key, None)

    async def sweep(self) -> bool:
        """Deal with Devices that were deleted while nobody watched; False where some of them are left."""
        is_done = True
        alive = {
            view.meta.uid
            for key in self._catalog.device_keys
            if (view := self._catalog.device(key)) is not None
        }
        for uid in self._bases.uids:
            if uid in alive:
                continue
            try:
                await self._remove(uid)
            except GatewayError as error:  # the next start tries again
                is_done = False
                log.warning("thing not removed", extra={"uid": uid, "cause": error.message})
        return is_done

    async def _remove(self, uid: str) -> None:
        memory = self._bases.of(uid)
        heir = self._heir(uid, memory.thing_id)
        if heir is not None:
            keep = self._bases.of(heir).keep
            await self._bases.bind(heir, memory.thing_id, made=memory.made, keep=keep)
        elif memory.made and not memory.keep:
            await self._delete(memory.thing_id)
        await self._bases.forget(uid)

    def _heir(self, uid: str, thing_id: str) -> str | None:
        """Return the uid of the living Device that has taken the thing over."""
        key = self._find(thing_id)
        device = self._catalog.device(key) if key else None
        if device is None or device.meta.uid == uid:
            return None
        return device.meta.uid if self._bases.of(device.meta.uid).thing_id == thing_id else None

    async def _delete(self, thing_id: str) -> None:
        try:
            await self._own.delete(thing_id)
            self._deleted()
        except NotFound:
            log.debug("thing is gone already", extra={"thing": thing_id})
        except Rejected as error:
            log.warning("thing not deleted", extra={"thing": thing_id, "cause": error.message})
