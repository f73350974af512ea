"""MetaManager: keeps what the cloud says on disk, and only then acknowledges it.

Every insert, update and delete of an object is written, acknowledged after the commit and handed to the room
that it is for (DeviceTwin for Devices and DeviceModels; `edge.podless` for Pods, which nothing here runs).
Questions about objects are `edge.edgeapi`'s.

Source: KubeEdge reference, section 11.2.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from edge.clock import stamp
from edge.devicetwin import DeviceTwin
from edge.hub import Sender
from edge.ports import ObjectTaker
from edge.store import EdgeStore, MetaObject, Record
from gateway.errors import GatewayError
from gateway.model.json import JsonObject
from gateway.model.trace import TraceContext
from gateway.wire.cloudedge.devices import mapping
from gateway.wire.cloudedge.envelope import Envelope
from gateway.wire.cloudedge.names import STILL_SHOWN, Operation, Source
from gateway.wire.cloudedge.subjects import DeviceKey
from gateway.wire.cloudedge.to_cloud import acknowledge, report_failure
from gateway.wire.cloudedge.to_edge import ObjectChanged

log = logging.getLogger(__name__)

RecordListener = Callable[[Record, Operation], None]
"""Told a record and what was done with it: insert, update or delete (then as it was named last)."""
RecordOf = Callable[[ObjectChanged], Record | None]


class MetaManager:
    """Cloud objects on disk; a handler of the hub's `ObjectChanged`, no task of its own."""

    def __init__(self, store: EdgeStore, sender: Sender, twin: DeviceTwin) -> None:
        self._store = store
        self._sender = sender
        self._twin = twin
        self._takers: dict[str, ObjectTaker] = {}
        self._record_listeners: list[RecordListener] = []
        self.record_of: RecordOf = _no_record
        """What MetaServer shows of a change; None for what it does not show. MetaServer sets it."""
        self.on_kind("device", _Devices(twin))
        self.on_kind("devicemodel", _Models(twin))

    def on_kind(self, kind: str, taker: ObjectTaker) -> None:
        """Hand objects of a type (the link's token, `pod`) to `taker`; before `run`."""
        self._takers[kind] = taker

    def listen(self, listener: RecordListener) -> None:
        """Tell `listener` of records as they change, after the commit: what MetaServer's watches show."""
        self._record_listeners.append(listener)

    # --- from the cloud -----------------------------------------------------------------------

    def on_object(self, envelope: Envelope, change: ObjectChanged) -> None:
        """Store a change, acknowledge it, hand it on; a later object with this name stays untouched."""

        def answer(result: bool | GatewayError | None) -> None:
            if isinstance(result, GatewayError):
                log.error(
                    "an object of the cloud is not on disk",
                    extra={"resource": str(change.subject), "cause": result.message},
                )
                self._reply(report_failure(envelope, stamp(), result.message))
                if _ends_pod(change):  # and frees the disk; the cloud sends it until it is kept
                    self._hand_on(change, envelope.trace)
                return
            self._reply(acknowledge(envelope, stamp()))
            if result is not False:
                self._tell(record, change.operation)
                self._hand_on(change, envelope.trace)

        key = str(change.subject)
        record = None if _is_still_shown(change) else self.record_of(change)
        if change.source == Source.DYNAMIC_CONTROLLER:
            self._on_watched(envelope, change, record)
        elif change.operation is Operation.DELETE:
            record_key = record.key if record else ""
            self._store.delete_meta(key, change.uid, answer, record_key=record_key)
        else:
            text = msgspec.json.encode(change.object).decode()
            entry = MetaObject(key, change.subject.type, text)
            self._store.put_meta(entry, answer, record=record)

    def _on_watched(self, envelope: Envelope, change: ObjectChanged, record: Record | None) -> None:
        """Store what a watch of MetaServer brought: it is shown, and nothing here works on it."""

        def answer(result: bool | GatewayError | None) -> None:
            if isinstance(result, GatewayError):
                self._reply(report_failure(envelope, stamp(), result.message))
                return
            self._reply(acknowledge(envelope, stamp()))
            if result is not False:
                self._tell(record, change.operation)

        if record is None:
            answer(None)
        elif change.operation is Operation.DELETE:
            self._store.delete_record(record.key, change.uid, answer)
        else:
            self._store.put_record(record, answer)

    def _tell(self, record: Record | None, operation: Operation) -> None:
        if record is not None:
            for listener in self._record_listeners:
                listener(record, operation)

    def _reply(self, envelope: Envelope) -> None:
        try:
            self._sender.send(envelope)
        except GatewayError as error:
            log.debug("the cloud will send it again", extra={"cause": error.message})

    def _hand_on(self, change: ObjectChanged, trace: TraceContext | None) -> None:
        taker = self._takers.get(change.subject.type)
        if taker is not None:
            try:
                taker.object_changed(change, trace)
            except GatewayError as error:
                log.warning(
                    "an object is kept, but of no use",
                    extra={"resource": str(change.subject), "cause": error.message},
                )

    # --- what is kept -------------------------------------------------------------------------

    async def list(self, kind: str) -> list[JsonObject]:
        """Return all stored objects of a type, by key."""
        return [msgspec.json.decode(entry.value) for entry in await self._store.meta_of_type(kind)]


class _Devices:
    """Devices for DeviceTwin."""

    def __init__(self, twin: DeviceTwin) -> None:
        self._twin = twin

    def object_changed(self, change: ObjectChanged, trace: TraceContext | None) -> None:
        if change.operation is Operation.DELETE:
            self._twin.delete_device(DeviceKey(change.subject.namespace or "", change.subject.name))
        else:
            self._twin.put_device(change.object, trace)


class _Models:
    """DeviceModels for DeviceTwin."""

    def __init__(self, twin: DeviceTwin) -> None:
        self._twin = twin

    def object_changed(self, change: ObjectChanged, _trace: TraceContext | None) -> None:
        if change.operation is Operation.DELETE:
            self._twin.delete_model(change.subject.namespace or "", change.subject.name)
        else:
            self._twin.put_model(change.object)


def _is_still_shown(change: ObjectChanged) -> bool:
    """True for the end of what this node works with that a watch of MetaServer goes on to show."""
    annotations = mapping(mapping(change.object.get("metadata")).get("annotations"))
    return change.operation is Operation.DELETE and STILL_SHOWN in annotations


def _ends_pod(change: ObjectChanged) -> bool:
    is_deleted = change.operation is Operation.DELETE
    metadata = mapping(change.object.get("metadata"))
    return change.subject.type == "pod" and (is_deleted or "deletionTimestamp" in metadata)


def _no_record(_change: ObjectChanged) -> Record | None:
    """MetaServer is off."""
    return None
