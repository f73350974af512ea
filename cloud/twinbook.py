"""Which thing stands for which Device, and what is known of it."""

from __future__ import annotations

from collections.abc import Callable

from cloud.catalog import Catalog
from cloud.devicethings import Twinned
from cloud.mapping import NotMappable
from gateway.kube.informer import number_of
from gateway.model.thing import EventAction, Thing, ThingEvent
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.subjects import DeviceKey


class TwinBook:
    """Devices and things by each other's names; `warn` tells about what cannot be named."""

    def __init__(self, catalog: Catalog, warn: Callable[[DeviceKey, str, str], None]) -> None:
        self._catalog = catalog
        self._warn = warn
        self._twins: dict[DeviceKey, Twinned] = {}
        self._by_thing: dict[str, DeviceKey] = {}

    @property
    def thing_ids(self) -> list[str]:
        """The things of all Devices."""
        return list(self._by_thing)

    def find(self, thing_id: str) -> DeviceKey | None:
        """Return the Device that a thing stands for."""
        return self._by_thing.get(thing_id)

    def get(self, key: DeviceKey) -> Twinned | None:
        """Return what is known of a Device's thing."""
        return self._twins.get(key)

    def thing_of(self, key: DeviceKey) -> Thing | None:
        """Return the thing as last seen, None when it is not known."""
        twin = self._twins.get(key)
        return twin.thing if twin else None

    def newest(self, key: DeviceKey, twin: Twinned) -> DeviceView | None:
        """Return the Device as the watch has it, or as our own last patch left it if that is newer."""
        seen, patched = self._catalog.device(key), twin.patched
        if seen is None or patched is None or patched.meta.uid != seen.meta.uid:
            twin.patched = None
            return seen
        if _version(patched) > _version(seen):
            return patched
        twin.patched = None
        return seen

    def name(self, key: DeviceKey) -> Twinned | None:
        """Return a Device's thing, known from now on; None where it can have none, which is told."""
        try:
            thing_id = self._catalog.thing_id(key)
        except NotMappable as error:
            self._warn(key, "NotMappable", error.message)
            return None
        other = self._by_thing.get(thing_id, key)
        if other != key:
            self._warn(key, "NotMappable", f"thing {thing_id} stands for Device {other} already")
            return None
        twin = self._twins.get(key)
        if twin is None or twin.thing_id != thing_id:
            self.forget(key)
            twin = self._twins[key] = Twinned(thing_id)
            self._by_thing[thing_id] = key
        return twin

    def forget(self, key: DeviceKey) -> str | None:
        """A Device is gone; return the thing that stood for it."""
        twin = self._twins.pop(key, None)
        if twin is None:
            return None
        if self._by_thing.get(twin.thing_id) == key:
            del self._by_thing[twin.thing_id]
        return twin.thing_id


def remember(twin: Twinned, event: ThingEvent) -> None:
    """Keep the newest; a whole thing that is older comes from a service that went back to a backup."""
    old, new = twin.thing, event.after
    is_whole = not event.path and event.action is EventAction.MODIFIED
    if old is None or new is None or event.revision > old.revision or is_whole:
        twin.thing, twin.is_loaded = new, True


def _version(view: DeviceView) -> int:
    return number_of(view.meta.version) or 0
