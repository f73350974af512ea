"""What of a Device does not work here, told to the cloud: it stands in the DeviceStatus.

Drivers, push methods and whoever judges Devices note faults by the part that has them; a part without one
is right. What is right again soon is not told. What was told is on disk, so that it is taken back after a
restart that mended it. KubeEdge has no words for faults: they go with a state report, in a member that it
ignores.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from edge.store import EdgeStore, MetaObject
from gateway.errors import DeviceNotFound, GatewayError
from gateway.wire.cloudedge.subjects import DeviceKey

log = logging.getLogger(__name__)

META_TYPE = "devicefaults"
SETTLE_SECONDS = 3.0
"""How long something must be as it is before it is told."""
MAX_PARTS = 50
MAX_TEXT = 300

_told_form = msgspec.json.Decoder(dict[str, str])


class FaultTwin(Protocol):
    """DeviceTwin, as faults need it."""

    def tell_faults(
        self,
        key: DeviceKey,
        faults: Mapping[str, str],
        done: Callable[[GatewayError | None], None],
    ) -> None:
        """Report a Device's faults with its state.

        Errors (through `done`): DeviceNotFound, StoreUnavailable.
        """


class DeviceFaults:
    """The faults of all Devices as a module."""

    name = "edge.devicefaults"

    def __init__(self, twin: FaultTwin, store: EdgeStore) -> None:
        self._twin = twin
        self._store = store
        self._now: dict[DeviceKey, dict[str, str]] = {}
        self._told: dict[DeviceKey, dict[str, str]] = {}
        self._due: dict[DeviceKey, float] = {}
        self._wake = asyncio.Event()

    def note(self, key: DeviceKey, part: str, fault: str) -> None:
        """Say what is wrong with a part of a Device; "" when it is right again."""
        if not fault and key not in self._now:
            return
        parts = self._now.setdefault(key, {})
        before = parts.get(part, "")
        if fault and (part in parts or len(parts) < MAX_PARTS):
            parts[part] = fault[:MAX_TEXT]
        elif not fault:
            parts.pop(part, None)
        if parts.get(part, "") != before:
            self._changed(key)

    def forget(self, key: DeviceKey, *parts: str) -> None:
        """Nothing is wrong any more with parts that have these names, or begin so."""
        for part in [each for each in self._now.get(key, ()) if each.startswith(parts)]:
            self.note(key, part, "")

    def gone(self, key: DeviceKey) -> None:
        """The Device is not this node's any more."""
        self._now.pop(key, None)
        self._due.pop(key, None)
        if self._told.pop(key, None) is not None:
            self._store.delete_meta(_row(key), "", _logged)

    def of(self, key: DeviceKey) -> Mapping[str, str]:
        """Return what is wrong with a Device, by part."""
        return self._now.get(key, {})

    def facts(self) -> dict[str, dict[str, str]]:
        """Return the faults as `edge status` lists them: device -> part -> fault."""
        return {str(key): dict(parts) for key, parts in sorted(self._now.items()) if parts}

    def _changed(self, key: DeviceKey) -> None:
        """Tell it in a moment; who changes all the time is told of that often, not never."""
        self._due.setdefault(key, asyncio.get_running_loop().time() + SETTLE_SECONDS)
        self._wake.set()

    # --- telling ----------------------------------------------------------------------------------

    async def run(self, ready: Callable[[], None]) -> None:
        await self._load()
        ready()
        time = asyncio.get_running_loop().time
        while True:
            if not self._due:
                await self._wake.wait()
            self._wake.clear()
            await asyncio.sleep(max(min(self._due.values(), default=0.0) - time(), 0.0))
            for key in [key for key, due in self._due.items() if due <= time()]:
                if self._due.pop(key, None) is not None:  # it may have gone while another was told
                    await self._tell(key)

    async def _load(self) -> None:
        for entry in await self._store.meta_of_type(META_TYPE):
            try:
                key = DeviceKey.parse(entry.key.partition("/")[2])
                self._told[key] = _told_form.decode(entry.value)
            except (GatewayError, msgspec.MsgspecError) as error:
                log.warning("stored faults are of no use", extra={"cause": str(error)})
                continue
            self._changed(key)

    async def _tell(self, key: DeviceKey) -> None:
        faults = dict(self._now.get(key, {}))
        if faults == self._told.get(key, {}):
            return
        future: asyncio.Future[GatewayError | None] = asyncio.get_running_loop().create_future()

        def told(error: GatewayError | None) -> None:
            if not future.done():
                future.set_result(error)

        self._twin.tell_faults(key, faults, told)
        error = await future
        if isinstance(error, DeviceNotFound):
            self.gone(key)
        elif error is not None:
            log.warning("faults are not told yet", extra={"cause": error.message})
            self._changed(key)
        else:
            self._note_told(key, faults)

    def _note_told(self, key: DeviceKey, faults: dict[str, str]) -> None:
        for part, fault in faults.items():
            if self._told.get(key, {}).get(part) != fault:
                facts = {"device": str(key), "part": part, "cause": fault}
                log.warning("something of a device does not work", extra=facts)
        if faults:
            self._told[key] = faults
            text = msgspec.json.encode(faults).decode()
            self._store.put_meta(MetaObject(_row(key), META_TYPE, text), _logged)
        else:
            self._told.pop(key, None)
            self._store.delete_meta(_row(key), "", _logged)


def _row(key: DeviceKey) -> str:
    return f"{META_TYPE}/{key}"


def _logged(error: bool | GatewayError | None) -> None:
    if isinstance(error, GatewayError):
        log.warning("what was told of faults is not on disk", extra={"cause": error.message})
