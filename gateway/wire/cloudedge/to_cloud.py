"""What an edge sends: builders for the edge, and `read_to_cloud`, the cloud's one reader.

Source: KubeEdge, dispatch of edge messages in CloudHub (first match wins) and the edge-to-cloud catalogue.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from msgspec import Raw

from gateway.model.json import Json
from gateway.model.trace import TraceContext
from gateway.wire.cloudedge.applications import (
    ApplicationAsked,
    WatchesSynced,
    read_application,
)
from gateway.wire.cloudedge.control import CONTROL, ControlAsked
from gateway.wire.cloudedge.discoveries import Sightings, read_sightings
from gateway.wire.cloudedge.envelope import (
    NULL,
    OK,
    Envelope,
    Route,
    Stamp,
    answer_to,
    make,
    struct_of,
    text_of,
)
from gateway.wire.cloudedge.names import (
    CA_RESOURCE,
    Group,
    Operation,
    Source,
)
from gateway.wire.cloudedge.routing import (
    RouterUpload,
    ServiceBusAnswer,
    ServiceBusUpload,
    read_service_upload,
)
from gateway.wire.cloudedge.spans import EdgeSpans, read_spans
from gateway.wire.cloudedge.subjects import (
    STATE_UPDATED,
    TWIN_UPDATED,
    DeviceKey,
    Subject,
    device_resource,
    parse_device_resource,
)
from gateway.wire.cloudedge.tasks import TaskReported, read_task_report
from gateway.wire.cloudedge.twins import (
    MEMBERSHIP_QUESTION,
    STATE_UPDATE,
    TWIN_UPDATE,
    MembershipQuestion,
    StateUpdate,
    TwinUpdate,
    write,
)
from gateway.wire.cloudedge.uploads import EdgeUpload, read_upload

MEMBERSHIP_DETAIL = "membership/detail"


@dataclass(frozen=True, slots=True)
class Keepalive:
    """The edge is alive."""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """Operation `response`: the edge has stored the message `parent_id` (unknown ids are noise)."""

    parent_id: str


@dataclass(frozen=True, slots=True)
class EdgeFailed:
    """Operation `error`: the edge could not work on `parent_id`; the resend timer goes on."""

    parent_id: str
    text: str


@dataclass(frozen=True, slots=True)
class CaAsked:
    """Query for `k8s/ca.crt`."""


@dataclass(frozen=True, slots=True)
class MembershipAsked:
    """`membership/detail`: which devices does this node have?"""

    question: MembershipQuestion


@dataclass(frozen=True, slots=True)
class TwinReported:
    """`edge_updated`: properties of one device as they are at the edge."""

    device: DeviceKey
    update: TwinUpdate


@dataclass(frozen=True, slots=True)
class StateReported:
    """A device went online, offline, ...; its name is in the route."""

    device: DeviceKey
    update: StateUpdate


@dataclass(frozen=True, slots=True)
class ResourceAsked:
    """A question or a write about a Kubernetes object; content forms differ by `subject.type`."""

    subject: Subject
    operation: str
    content: Raw


@dataclass(frozen=True, slots=True)
class NotServed:
    """Known to KubeEdge, not built here: CSI; `what` names it."""

    what: str


@dataclass(frozen=True, slots=True)
class Ignored:
    """Not for a cloud; `why` is for the log."""

    why: str


ToCloud: TypeAlias = (
    Keepalive
    | Acknowledged
    | EdgeFailed
    | ControlAsked
    | EdgeUpload
    | RouterUpload
    | ServiceBusAnswer
    | ServiceBusUpload
    | TaskReported
    | Sightings
    | EdgeSpans
    | ApplicationAsked
    | WatchesSynced
    | CaAsked
    | MembershipAsked
    | TwinReported
    | StateReported
    | ResourceAsked
    | NotServed
    | Ignored
)

_CLOUD_SOURCES = frozenset(
    {
        Source.CLOUD_HUB,
        Source.CLOUD_STREAM,
        Source.EDGE_CONTROLLER,
        Source.DEVICE_CONTROLLER,
        Source.SYNC_CONTROLLER,
    }
)
_TASKS = frozenset({Operation.PREPULL, Operation.UPGRADE, Operation.NODE_ACTION})


def read_to_cloud(envelope: Envelope) -> ToCloud:
    """Read one message from an edge. Errors: MalformedPacket, naming the field at fault."""
    for applies, read in _RULES:
        if applies(envelope.route):
            return read(envelope)
    return ResourceAsked(
        Subject.parse(envelope.route.resource), envelope.route.operation, envelope.content
    )


def _read_twin(envelope: Envelope) -> ToCloud:
    resource = envelope.route.resource
    if resource == MEMBERSHIP_DETAIL:
        return MembershipAsked(struct_of(envelope.content, MEMBERSHIP_QUESTION))
    device, what = parse_device_resource(resource)
    if what == TWIN_UPDATED:
        return TwinReported(device, struct_of(envelope.content, TWIN_UPDATE))
    if what == STATE_UPDATED:
        return StateReported(device, struct_of(envelope.content, STATE_UPDATE))
    return Ignored(f"twin message about {what[:100]}")


def _read_upload(envelope: Envelope) -> EdgeUpload | RouterUpload:
    """Tell telemetry and events from what only a rule may want; who waits for an answer is no rule."""
    item = read_upload(envelope)
    if item.spool is not None or (item.kind is not None and item.device):
        return item
    return RouterUpload(item.topic, item.payload, item.trace)


def _is_upload(route: Route) -> bool:
    return route.operation == Operation.UPLOAD and route.group == Group.USER


def _is_volume(route: Route) -> bool:
    parts = route.resource.split("/")
    return len(parts) == 3 and parts[1] == "volume"


_RULES: tuple[tuple[Callable[[Route], bool], Callable[[Envelope], ToCloud]], ...] = (
    (lambda r: r.operation == Operation.KEEPALIVE, lambda _: Keepalive()),
    (lambda r: r.operation in CONTROL, lambda _: ControlAsked()),
    (_is_volume, lambda _: NotServed("CSI volumes")),
    (lambda r: r.operation == Operation.RESPONSE, lambda e: Acknowledged(e.parent_id)),
    (
        lambda r: r.operation == Operation.ERROR,
        lambda e: EdgeFailed(e.parent_id, text_of(e.content)[:1_000]),
    ),
    (lambda r: _is_upload(r) and r.source == Source.SERVICE_BUS, read_service_upload),
    (_is_upload, _read_upload),
    (lambda r: r.operation in _TASKS, read_task_report),
    (lambda r: r.resource == CA_RESOURCE, lambda _: CaAsked()),
    (lambda r: r.source == Source.META_SERVER, read_application),
    (lambda r: r.source == Source.DISCOVERY, read_sightings),
    (lambda r: r.source == Source.TRACES, read_spans),
    (lambda r: r.source == Source.TWIN, _read_twin),
    (lambda r: r.source in _CLOUD_SOURCES, lambda e: Ignored(f"source {e.route.source}")),
)


# --- builders (edge) -----------------------------------------------------------------------------


def keepalive(stamp: Stamp) -> Envelope:
    """Build the sign of life: at connect, then every 15 s."""
    route = Route(
        source=Source.EDGE_HUB,
        group=Group.RESOURCE,
        operation=Operation.KEEPALIVE,
        resource="node",
    )
    return make(stamp, route, "ping")


def acknowledge(received: Envelope, stamp: Stamp) -> Envelope:
    """Build the answer to a stored insert, update or delete (and the noise after query answers)."""
    return answer_to(received, stamp, _answer_route(received, Operation.RESPONSE), OK)


def acknowledge_answer(resource: str, msg_id: str, stamp: Stamp) -> Envelope:
    """Build the word that the answer `msg_id` to a query of ours is stored (edge).

    KubeEdge's cloud sends answers about ConfigMaps, Secrets, volumes and claims until it hears this, and
    nothing else of what must be stored before.
    """
    route = Route(
        source=Source.EDGE_CONTROLLER,
        group=Group.RESOURCE,
        operation=Operation.RESPONSE,
        resource=resource,
    )
    return make(stamp, route, OK, parent=msg_id)


def report_failure(received: Envelope, stamp: Stamp, text: str) -> Envelope:
    """Build the answer to a message that could not be worked on; the cloud will send it again."""
    return answer_to(received, stamp, _answer_route(received, Operation.ERROR), text)


def _answer_route(received: Envelope, operation: Operation) -> Route:
    route = received.route
    kind = route.resource.split("/")[1:2]
    if kind in (["device"], ["devicemodel"]) and route.operation != Operation.UPDATE:
        return Route(
            source=Source.META, group=Group.TWIN, operation=operation, resource=route.resource
        )
    return Route(
        source=route.source, group=route.group, operation=operation, resource=route.resource
    )


def ask(
    stamp: Stamp,
    subject: Subject,
    operation: Operation,
    content: Json | Raw = None,
    *,
    source: Source = Source.EDGED,
    trace: TraceContext | None = None,
) -> Envelope:
    """Build a question or write about a Kubernetes object.

    Shape:  `content` is the object for insert and update, None for query, the patch as **text** for patch.
    """
    route = Route(source=source, group=Group.META, operation=operation, resource=str(subject))
    return make(stamp, route, content, trace=trace)


def ask_ca(stamp: Stamp) -> Envelope:
    """Build the query for `k8s/ca.crt`."""
    route = Route(
        source=Source.META_MANAGER,
        group=Group.META,
        operation=Operation.QUERY,
        resource=CA_RESOURCE,
    )
    return make(stamp, route, NULL)


def ask_membership(stamp: Stamp, node: str) -> Envelope:
    """Build `membership/detail`; send again every 60 s until answered."""
    route = Route(
        source=Source.TWIN,
        group=Group.RESOURCE,
        operation=Operation.GET,
        resource=MEMBERSHIP_DETAIL,
    )
    question = MembershipQuestion(event_id=stamp.msg_id, timestamp=stamp.millis, group_id=node)
    return make(stamp, route, write(question).decode())


def report_twin(
    stamp: Stamp, device: DeviceKey, update: TwinUpdate, *, trace: TraceContext | None = None
) -> Envelope:
    """Build `edge_updated`; send again every 60 s until answered."""
    route = Route(
        source=Source.TWIN,
        group=Group.RESOURCE,
        operation=Operation.UPDATE,
        resource=device_resource(device, TWIN_UPDATED),
    )
    return make(stamp, route, update, trace=trace)


def report_state(
    stamp: Stamp, device: DeviceKey, update: StateUpdate, *, trace: TraceContext | None = None
) -> Envelope:
    """Build the report of a device's state; send again every 60 s until answered."""
    route = Route(
        source=Source.TWIN,
        group=Group.RESOURCE,
        operation=Operation.UPDATE,
        resource=device_resource(device, STATE_UPDATED),
    )
    return make(stamp, route, write(update).decode(), trace=trace)
