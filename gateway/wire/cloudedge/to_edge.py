"""What a cloud sends: builders for the cloud, and `read_to_edge`, the edge's one reader.

Source: KubeEdge, dispatch of cloud messages in EdgeHub, the cloud-to-edge catalogue, answers to edge queries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import msgspec
from msgspec import Raw, Struct

from gateway.errors import MalformedPacket
from gateway.model.json import Json, JsonObject
from gateway.model.trace import TraceContext
from gateway.wire.cloudedge.applications import (
    WATCHES,
    WatchesAnswered,
    read_watches_answer,
)
from gateway.wire.cloudedge.control import CONTROL, ControlAsked
from gateway.wire.cloudedge.envelope import (
    NULL,
    OK,
    Envelope,
    Route,
    Stamp,
    answer_to,
    data_of,
    make,
    object_of,
    struct_of,
)
from gateway.wire.cloudedge.names import CA_RESOURCE, Group, Operation, Source
from gateway.wire.cloudedge.routing import ServiceBusCall, ServiceBusTarget, read_service
from gateway.wire.cloudedge.subjects import (
    ATTRIBUTES_UPDATED,
    TWIN_CLOUD_UPDATED,
    DeviceKey,
    Subject,
    parse_device_resource,
)
from gateway.wire.cloudedge.tasks import TaskCommand, read_task_command
from gateway.wire.cloudedge.to_cloud import MEMBERSHIP_DETAIL
from gateway.wire.cloudedge.twins import (
    ATTRIBUTES_UPDATE,
    MEMBERSHIP_UPDATE,
    TWIN_UPDATE,
    AttributesUpdate,
    MembershipList,
    MembershipUpdate,
    TwinUpdate,
)

MEMBERSHIP = "membership"
TWIN_ANSWER = "twin"


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to one of our messages; try the request that waits for `parent_id` first.

    Shape:  `msg_id` is the answer's own: some are sent until they are acknowledged (`acknowledge_answer`).
    `ok` says that the content is the text `OK` (twin reports, pod deletions, spooled uploads).
    """

    parent_id: str
    resource: str
    content: Raw
    msg_id: str = ""

    @property
    def ok(self) -> bool:
        return data_of(self.content) == b"OK"


@dataclass(frozen=True, slots=True)
class ObjectChanged:
    """A Kubernetes object to store, then to acknowledge.

    Shape:  `operation` insert, update or delete; `object` may hold only `metadata` (name, namespace, uid) for
            a delete, and {} where the delete has no content; `version` "" where the cloud gave none.
    """

    subject: Subject
    operation: Operation
    object: JsonObject
    version: str
    source: str

    @property
    def uid(self) -> str:
        metadata = self.object.get("metadata")
        uid = metadata.get("uid") if isinstance(metadata, dict) else None
        return uid if isinstance(uid, str) else ""


@dataclass(frozen=True, slots=True)
class MembershipChanged:
    """Devices that came to, or left, this node. Never acknowledged."""

    update: MembershipUpdate


@dataclass(frozen=True, slots=True)
class TwinCommanded:
    """`cloud_updated` of older clouds: desired values with versions."""

    device: DeviceKey
    update: TwinUpdate


@dataclass(frozen=True, slots=True)
class AttributesChanged:
    """Attributes of a device, from older clouds."""

    device: DeviceKey
    update: AttributesUpdate


@dataclass(frozen=True, slots=True)
class BusCommand:
    """For EventBus: `operation` publish, subscribe or unsubscribe on `topic`."""

    operation: str
    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class NotForUs:
    """A message that this edge does not know; log and drop."""

    why: str


ToEdge: TypeAlias = (
    Answer
    | ControlAsked
    | ObjectChanged
    | MembershipChanged
    | TwinCommanded
    | AttributesChanged
    | BusCommand
    | ServiceBusCall
    | ServiceBusTarget
    | TaskCommand
    | WatchesAnswered
    | NotForUs
)

_WRITES = frozenset({Operation.INSERT, Operation.UPDATE, Operation.DELETE})
_STORED_GROUPS = frozenset({Group.RESOURCE, Group.FUNC})


def read_to_edge(envelope: Envelope) -> ToEdge:
    """Read one message from a cloud. Errors: MalformedPacket, naming the field at fault."""
    route = envelope.route
    if envelope.parent_id:
        return Answer(envelope.parent_id, route.resource, envelope.content, envelope.msg_id)
    for applies, read in _RULES:
        if applies(route):
            return read(envelope)
    return NotForUs(f"group {route.group!r}, source {route.source!r}, {route.operation!r}")


def needs_acknowledgement(envelope: Envelope) -> bool:
    """True for what the edge answers with `acknowledge` once it is stored."""
    route = envelope.route
    return not envelope.parent_id and route.group in _STORED_GROUPS and route.operation in _WRITES


def _read_object(envelope: Envelope) -> ObjectChanged:
    route = envelope.route
    empty = route.operation == Operation.DELETE and data_of(envelope.content) in (b"null", b"")
    return ObjectChanged(
        Subject.parse(route.resource),
        Operation(route.operation),
        {} if empty else object_of(envelope.content),
        envelope.header.resourceversion,
        route.source,
    )


def _read_twin(envelope: Envelope) -> ToEdge:
    resource = envelope.route.resource
    if resource == MEMBERSHIP:
        return MembershipChanged(struct_of(envelope.content, MEMBERSHIP_UPDATE))
    if resource.endswith(TWIN_CLOUD_UPDATED):
        device, _ = parse_device_resource(resource)
        return TwinCommanded(device, struct_of(envelope.content, TWIN_UPDATE))
    if resource.startswith("device/"):
        device, what = parse_device_resource(resource)
        if what == ATTRIBUTES_UPDATED:
            return AttributesChanged(device, struct_of(envelope.content, ATTRIBUTES_UPDATE))
    return NotForUs(f"twin message {resource[:100]!r}")


def _payload(content: Raw) -> bytes:
    data = data_of(content)
    return b"" if data == b"null" else data


def _read_bus(envelope: Envelope) -> BusCommand:
    route = envelope.route
    return BusCommand(route.operation, route.resource, _payload(envelope.content))


def _is_watches_answer(route: Route) -> bool:
    return route.operation == Operation.APPLICATION_RESPONSE and route.resource == WATCHES


def _is_router(route: Route, source: Source) -> bool:
    return route.group == Group.USER and route.source == source


_RULES: tuple[tuple[Callable[[Route], bool], Callable[[Envelope], ToEdge]], ...] = (
    (lambda r: r.operation in CONTROL, lambda _: ControlAsked()),
    (lambda r: r.group in _STORED_GROUPS and r.operation in _WRITES, _read_object),
    (_is_watches_answer, lambda e: WatchesAnswered(read_watches_answer(e.content))),
    (lambda r: r.group == Group.TWIN, _read_twin),
    (lambda r: _is_router(r, Source.ROUTER_EVENT_BUS), _read_bus),
    (lambda r: _is_router(r, Source.ROUTER_SERVICE_BUS), read_service),
    (lambda r: r.group == Group.TASK_MANAGER, read_task_command),
)


# --- answers about Kubernetes objects ----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ApiFailure:
    """Why the API server said no: HTTP `code`, Kubernetes `reason` (`NotFound`, `AlreadyExists`, ...)."""

    code: int
    reason: str
    message: str


class _Status(Struct, frozen=True, omit_defaults=True):
    message: str = ""
    reason: str = ""
    code: int = 0


class _Err(Struct, frozen=True, rename={"status": "ErrStatus"}):
    status: _Status | None = None


class _Result(Struct, frozen=True, rename={"object": "Object", "error": "Err"}):
    object: dict[str, Raw] | None = None
    error: _Err | None = None


_RESULT = msgspec.json.Decoder(_Result)
_ERR = msgspec.json.Decoder(_Err)


def read_result(content: Raw) -> JsonObject | ApiFailure:
    """Read an ObjectResp `{"Object": ..., "Err": ...}` (edge). Errors: MalformedPacket.

    An `Err` without a status (a bug of KubeEdge's cloud) reads as ApiFailure 500.
    """
    body = struct_of(content, _RESULT)
    if body.error is not None:
        return _failure(body.error)
    if body.object is None:
        raise MalformedPacket("content: neither Object nor Err in the answer")
    value = object_of(content)["Object"]
    return value if isinstance(value, dict) else {}


def read_object(content: Raw) -> JsonObject | ApiFailure:
    """Read the bare object of a query's answer, or its ErrStatus (edge). Errors: MalformedPacket."""
    value = object_of(content)
    if "ErrStatus" in value and "metadata" not in value:
        return _failure(struct_of(content, _ERR))
    return value


def _failure(error: _Err) -> ApiFailure:
    status = error.status or _Status()
    return ApiFailure(
        status.code or 500, status.reason or "InternalError", status.message or "no status given"
    )


# --- builders (cloud) ----------------------------------------------------------------------------


def change_object(
    stamp: Stamp,
    subject: Subject,
    operation: Operation,
    content: Json | Raw,
    *,
    version: str,
    source: Source = Source.EDGE_CONTROLLER,
    trace: TraceContext | None = None,
) -> Envelope:
    """Build a write; `version` is the object's resourceVersion, "" for a bare delete."""
    route = Route(source=source, group=Group.RESOURCE, operation=operation, resource=str(subject))
    return make(stamp, route, content, version=version, trace=trace)


def answer_object(asked: Envelope, stamp: Stamp, content: Json | Raw) -> Envelope:
    """Build the answer to a query: the bare object, `{"ErrStatus": ...}` (see `err_status`), or `"OK"`."""
    return answer_to(asked, stamp, _answer_route(asked), content)


def answer_result(
    asked: Envelope,
    stamp: Stamp,
    value: JsonObject | None,
    status: JsonObject | None = None,
) -> Envelope:
    """Build an ObjectResp: `value`, or the Kubernetes Status `status` of the failure."""
    body: JsonObject = {"Object": value, "Err": None if status is None else err_status(status)}
    return answer_to(asked, stamp, _answer_route(asked), body)


def err_status(status: JsonObject) -> JsonObject:
    """Wrap a Kubernetes Status as Go's `StatusError` marshals; `metadata` is always there."""
    return {"ErrStatus": {"metadata": {}, **status}}


def answer_ca(asked: Envelope, stamp: Stamp, pem: str) -> Envelope:
    """Build the answer to `k8s/ca.crt`."""
    route = Route(
        source=Source.CLOUD_HUB,
        group=Group.RESOURCE,
        operation=Operation.RESPONSE,
        resource=CA_RESOURCE,
    )
    return answer_to(asked, stamp, route, pem)


def answer_twin(asked: Envelope, stamp: Stamp) -> Envelope:
    """Build the answer to a twin or state report: it is stored."""
    route = Route(
        source=Source.DEVICE_CONTROLLER,
        group=Group.TWIN,
        operation=Operation.RESPONSE,
        resource=TWIN_ANSWER,
    )
    return answer_to(asked, stamp, route, OK)


def change_membership(stamp: Stamp, update: MembershipUpdate) -> Envelope:
    """Build `membership`: devices added to or removed from a node."""
    route = Route(
        source=Source.DEVICE_CONTROLLER,
        group=Group.TWIN,
        operation=Operation.UPDATE,
        resource=MEMBERSHIP,
    )
    return make(stamp, route, update)


def answer_membership(asked: Envelope, stamp: Stamp, members: MembershipList) -> Envelope:
    """Build the answer to `membership/detail`; it replaces the edge's list."""
    route = Route(
        source=Source.DEVICE_CONTROLLER,
        group=Group.TWIN,
        operation=Operation.RESPONSE,
        resource=MEMBERSHIP_DETAIL,
    )
    return answer_to(asked, stamp, route, members)


def end_node(stamp: Stamp, node: str) -> Envelope:
    """Build the `delete` of a Node: the session ends after it."""
    route = Route(
        source=Source.EDGE_CONTROLLER,
        group=Group.RESOURCE,
        operation=Operation.DELETE,
        resource=str(Subject(None, "node", node)),
    )
    return make(stamp, route, NULL)


def _answer_route(asked: Envelope) -> Route:
    return Route(
        source=Source.EDGE_CONTROLLER,
        group=Group.RESOURCE,
        operation=Operation.RESPONSE,
        resource=asked.route.resource,
    )
