"""Refuses what applications may not want of a Device: asked by the things service before each change.

A desired value of the wrong type, range or length, or of a ReadOnly property, is refused with 400 before it
is stored, whatever way it came; a Device whose `twinspan.io/desired-source` is `device` refuses all with 409.
"""

from __future__ import annotations

from collections.abc import Callable

from cloud.agreement import DesiredSource
from cloud.catalog import Catalog
from cloud.mapping import SOURCE_ANNOTATION, check_wanted, desired_source, wanted_by_thing
from gateway.errors import BadRequest, Conflict
from gateway.model.json import Json
from gateway.model.thing import ThingEvent
from gateway.twin.documents import same
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.subjects import DeviceKey

BAD_VALUE = "things:desired.invalid"
NOT_YOURS = "things:desired.notallowed"


class DeviceGuard:
    """The guard; `find` gives the Device that a thing stands for."""

    def __init__(
        self, catalog: Catalog, find: Callable[[str], DeviceKey | None], originator: str
    ) -> None:
        self._catalog = catalog
        self._find = find
        self._originator = originator

    def __call__(self, change: ThingEvent) -> None:
        """Judge a change. Errors: BadRequest, Conflict."""
        key = self._find(change.thing_id)
        if key is None or change.after is None or change.originator == self._originator:
            return
        device = self._catalog.device(key)
        if device is not None:
            self._judge(device, change)

    def _judge(self, device: DeviceView, change: ThingEvent) -> None:
        layout = self._catalog.layout(device)
        before = wanted_by_thing(change.before.document, layout) if change.before else {}
        after = wanted_by_thing(change.after.document, layout) if change.after else {}
        changed = [
            name
            for name in layout.places
            if name in before or name in after
            if not _is_same(before, after, name)
        ]
        if changed and desired_source(device) is DesiredSource.DEVICE:
            raise Conflict(
                f"Device {device.key} takes desired values from its resource only"
                f" ({SOURCE_ANNOTATION}: device)",
                code=NOT_YOURS,
            )
        for name in changed:
            if name in after:
                self._check(device, name, after[name])

    def _check(self, device: DeviceView, name: str, value: Json) -> None:
        layout = self._catalog.layout(device)
        try:
            check_wanted(layout.rule(name), value)
        except BadRequest as error:
            pointer = "/".join(("", *layout.place(name).desired))
            raise BadRequest(
                f"Property '{name}' of Device {device.key}: {error.message}",
                description=f"Check the value at '{pointer}' against its DeviceModel.",
                code=BAD_VALUE,
            ) from error


def _is_same(before: dict[str, Json], after: dict[str, Json], name: str) -> bool:
    return name in before and name in after and same(before[name], after[name])
