"""What of Devices is not right: told as Events about them. What stays as it is, is told once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from gateway.wire.cloudedge.subjects import DeviceKey

if TYPE_CHECKING:
    from cloud.catalog import Catalog
    from cloud.events import EventRecorder


class Concerns:
    """Warnings of the controller by Device, and which of them stand.

    Bounds: texts of the Devices that there are; a Device that goes takes its own along.
    """

    def __init__(self, catalog: Catalog, events: EventRecorder) -> None:
        self._catalog = catalog
        self._events = events
        self._standing: dict[DeviceKey, dict[str, frozenset[str]]] = {}

    def warn(self, key: DeviceKey, reason: str, message: str) -> None:
        """Tell what has just happened."""
        document = self._catalog.device_object(key)
        if document is not None:
            self._events.warn(document, reason, message)

    def stand(self, key: DeviceKey, reason: str, messages: Iterable[str]) -> None:
        """Say all that is not right for a reason now; told are those that were right before."""
        now = frozenset(messages)
        standing = self._standing.setdefault(key, {})
        before = standing.pop(reason, frozenset())
        if now:
            standing[reason] = now
        if not standing:
            del self._standing[key]
        for message in sorted(now - before):
            self.warn(key, reason, message)

    def forget(self, key: DeviceKey) -> None:
        """A Device is gone: a namesake is told of its own."""
        self._standing.pop(key, None)
