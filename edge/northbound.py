"""What goes north of a Device that something at this edge serves: its values and its states.

Reported values are telemetry, or events by the annotation `twinspan.io/report-as`; states are events. They
are marked so that they change no twin a second time: DeviceTwin has told the cloud already.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping

import msgspec

from edge.clock import now_ms
from gateway.errors import GatewayError
from gateway.model.json import Json
from gateway.model.message import NO_PROPERTIES, Kind, Scalar
from gateway.model.trace import TraceContext
from gateway.wire.cloudedge.devices import DeviceView, StateReport
from gateway.wire.cloudedge.models import ModelView
from gateway.wire.cloudedge.subjects import DeviceKey
from gateway.wire.cloudedge.uploads import EdgeUpload
from gateway.wire.cloudedge.values import PropertyType, Typed, parse_text

log = logging.getLogger(__name__)

REPORT_AS = "twinspan.io/report-as"
JSON_TYPE = "application/json"
UNCERTAIN = "uncertain"
"""Application property: the names of values whose quality is uncertain, with commas between."""
MAX_MARKS = 1_000

Submit = Callable[[EdgeUpload, Callable[[GatewayError | None], None]], None]
"""Puts a message into the spool; the callback comes once it is on disk."""


class Northbound:
    """Sends values and states through the spool."""

    def __init__(self, submit: Submit) -> None:
        self._submit = submit

    def values(
        self,
        view: DeviceView,
        model: ModelView | None,
        values: Mapping[str, str],
        trace: TraceContext | None,
        *,
        at: int = 0,
        uncertain: Iterable[str] = (),
    ) -> None:
        """Send those values that the Device reports to the cloud, typed as its model says.

        Shape:  `at` is the time of the newest of them, Unix ms, 0 for now; `uncertain` names those that
                cannot be trusted fully: an application property of the message does so, too.
        """
        body = {
            name: typed(model, name, text)
            for name, text in values.items()
            if name in view.properties and view.properties[name].report_to_cloud
        }
        if body:
            is_event = view.meta.annotations.get(REPORT_AS) == Kind.EVENT
            marked = ",".join(name for name in uncertain if name in body)
            marks = {UNCERTAIN: marked[:MAX_MARKS]} if marked else NO_PROPERTIES
            kind = Kind.EVENT if is_event else Kind.TELEMETRY
            self._send(view.key, kind, body, trace, at=at, properties=marks)

    def state(self, key: DeviceKey, state: str, report: StateReport) -> None:
        """Send a Device's state, unless the Device says that it is not reported to the cloud."""
        if report.to_cloud or not report.is_set:
            self._send(key, Kind.EVENT, {"state": state}, None)

    def _send(
        self,
        key: DeviceKey,
        kind: Kind,
        body: Mapping[str, Json],
        trace: TraceContext | None,
        *,
        at: int = 0,
        properties: Mapping[str, Scalar] = NO_PROPERTIES,
    ) -> None:
        device = f"{key.namespace}:{key.name}"
        item = EdgeUpload(
            topic=f"{kind}//{device}",
            payload=msgspec.json.encode(body),
            kind=kind,
            device=device,
            content_type=JSON_TYPE,
            qos=1,
            at=at or now_ms(),
            twin_owned=True,
            properties=properties,
            trace=trace,
        )
        self._submit(item, _logged)


def typed(model: ModelView | None, name: str, text: str) -> Typed:
    """Return a value as its model types it; a text where it does not fit, or without a model."""
    rule = None if model is None else model.rules.get(name)
    try:
        return parse_text(PropertyType.STRING if rule is None else rule.type, text)
    except GatewayError:
        return text


def _logged(error: GatewayError | None) -> None:
    if error is not None:
        log.warning("a report does not go north", extra={"cause": error.message})
