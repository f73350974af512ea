"""EventBus: what clients of the edge's MQTT broker publish to this node, and what they are told.

Three families of topics end here: KubeEdge's `$hw/events/...` (DeviceTwin answers), Hono's telemetry and
event topics with mappers' data (to the spool; the PUBACK waits until they are on disk), and what only the
cloud's router may want (straight to the cloud, lost without one, as in KubeEdge). All other topics are
between local clients. Every message also goes to local subscribers: the broker sees to that.

Source: KubeEdge reference, section 14; Hono's MQTT topics.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import parse_qsl

from edge.clock import now_ms, stamp
from edge.deviceforms import membership_list, node_topic
from edge.deviceport import MQTT
from edge.devicetwin import DeviceTwin
from edge.hub import Sender
from edge.spoolpump import SpoolPump
from edge.store import DeviceRow, EdgeStore
from edge.twinrules import Change, alive
from gateway.errors import BadRequest, GatewayError, MalformedTopic, StoreUnavailable
from gateway.model.message import Kind
from gateway.model.ports import Done
from gateway.model.trace import TraceContext
from gateway.observe.tracing import Tracer
from gateway.wire.cloudedge.envelope import Envelope
from gateway.wire.cloudedge.names import Operation
from gateway.wire.cloudedge.subjects import DeviceKey
from gateway.wire.cloudedge.to_edge import BusCommand
from gateway.wire.cloudedge.twins import (
    LOCAL_STATE,
    QUESTION,
    STATES,
    TWIN_UPDATE,
    LocalStateDevice,
    LocalStateResult,
    TwinError,
    TwinUpdate,
    read,
    write,
)
from gateway.wire.cloudedge.uploads import EdgeUpload, address_of, upload
from gateway.wire.mqtt.filters import FilterTree, TopicFilter
from gateway.wire.mqtt.packets import Publish

log = logging.getLogger(__name__)

MAX_ROUTER_TOPICS = 1_000
MAX_DEVICE = 512
MAX_CONTENT_TYPE = 256
"""Characters; the link's envelope has no room for more, and a cloud would end the link over it."""
MAX_BAG_FIELDS = 50
_ROUTER = ("$hw/events/upload/#", "SYS/dis/upload_records", "+/user/#")
_DATA = "$ke/events/device/+/+/data/update"
_BAG = "/?"
_MAPPED, _RULE = "mapped", "rule "
"""Keys of routes that the settings or the cloud's rules ask for."""


class Broker(Protocol):
    """What EventBus needs of the edge's broker."""

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> None:
        """Give a message to local subscribers."""


class Remote(Protocol):
    """A broker that must be asked for what EventBus works on."""

    def subscribe(self, topic_filter: str) -> None: ...
    def unsubscribe(self, topic_filter: str) -> None: ...
    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> None:
        """Give a message to that broker's subscribers."""


Handler = Callable[[Publish, Done], None]


class EventBus:
    """Routes what local clients publish; a module (it restores the router's topics) and a hub handler."""

    name = "edge.eventbus"

    def __init__(
        self,
        node: str,
        broker: Broker | None,
        twin: DeviceTwin,
        pump: SpoolPump,
        sender: Sender,
        store: EdgeStore,
        *,
        telemetry_map: Mapping[str, str],
        tracer: Tracer,
        remote: Remote | None = None,
    ) -> None:
        self._remote = remote
        self._node = node
        self._broker = broker
        self._twin = twin
        self._pump = pump
        self._sender = sender
        self._store = store
        self._tracer = tracer
        self._routes: FilterTree[str, Handler] = FilterTree()
        self._router_topics: set[str] = set()
        self._wire(telemetry_map)
        twin.publish = self._tell

    def _wire(self, telemetry_map: Mapping[str, str]) -> None:
        for head in ("telemetry", "t", "event", "e"):
            self._route(f"{head}/#", self._take_upload)
        for text in _ROUTER:
            self._route(text, self._take_for_router)
        self._route(_DATA, self._take_data)
        self._route("$hw/events/device/+/+/twin/update", self._take_twin_update)
        self._route("$hw/events/device/+/+/twin/get", self._take_twin_get)
        self._route("$hw/events/device/+/+/state/update", self._take_state)
        self._route("$hw/events/node/+/membership/get", self._take_membership)
        for text, kind in telemetry_map.items():
            self._route(text, _Mapped(self, Kind(kind)), key=_MAPPED)

    def _route(self, text: str, handler: Handler, key: str = "") -> None:
        self._routes.add(TopicFilter.parse(text), key or text, handler)
        if self._remote is not None:
            self._remote.subscribe(text)

    # --- from local clients ---------------------------------------------------------------------

    def take(self, message: Publish, done: Done) -> None:
        """Work on a message that a local client published; `done` before its PUBACK.

        Errors (through `done`): BadRequest, SpoolFull, StoreUnavailable. Topics of nobody here: done at once.
        """
        handlers = self._routes.match(message.topic)
        if not handlers:
            done(None)
            return
        own = [entry for entry in handlers if not entry[0].startswith(_RULE)]
        mapped = next((handler for key, handler in own if key == _MAPPED), None)
        chosen = mapped or (own[0][1] if own else self._take_for_router)
        if mapped is not None and len(own) < len(handlers):
            self._take_for_router(message, _unheard)  # a rule wants it, too
        try:
            chosen(message, done)
        except GatewayError as error:
            log.info(
                "a publish was refused", extra={"topic": message.topic, "cause": error.message}
            )
            done(error)

    # --- telemetry and events -------------------------------------------------------------------

    def _take_upload(self, message: Publish, done: Done) -> None:
        topic, _, bag_text = message.topic.partition(_BAG)
        kind, device = address_of(topic)
        if kind is None or not device or len(device) > MAX_DEVICE:
            raise MalformedTopic(
                f"expected telemetry|t|event|e/[tenant]/device, got {message.topic[:128]!r}"
            )
        self._spool(message, message.topic, kind, device, _bag(bag_text), done)

    def _take_data(self, message: Publish, done: Done) -> None:
        """A mapper's data: telemetry of its Device, whatever it holds."""
        key = _device_of(message.topic)
        bag = {"content-type": "application/json"} if message.payload[:1] == b"{" else {}
        if message.properties.content_type:
            bag = {}
        device = f"{key.namespace}:{key.name}"
        self._spool(message, message.topic, Kind.TELEMETRY, device, bag, done)

    def _spool(
        self,
        message: Publish,
        topic: str,
        kind: Kind,
        device: str,
        bag: Mapping[str, str],
        done: Done,
    ) -> None:
        properties = message.properties
        content_type = bag.get("content-type") or properties.content_type or ""
        if len(content_type) > MAX_CONTENT_TYPE:
            raise BadRequest(f"content type: at most {MAX_CONTENT_TYPE} characters")
        ttl = bag.get("hono-ttl") or properties.message_expiry
        span = self._tracer.start_frequent(
            "edge.eventbus publish", trace_of_publish(message), "server", {"device": device}
        )
        item = EdgeUpload(
            topic=topic,
            payload=message.payload,
            kind=kind,
            device=device,
            content_type=content_type,
            qos=min(message.qos, 1),
            ttl=_seconds(ttl) if kind is Kind.EVENT else None,
            at=now_ms(),
            trace=span.context,
        )

        def spooled(error: GatewayError | None) -> None:
            span.end(error)
            done(error)

        self._pump.submit(item, spooled)

    def _take_for_router(self, message: Publish, done: Done) -> None:
        """Send to the cloud now or never, as KubeEdge does."""
        item = EdgeUpload(
            topic=message.topic, payload=message.payload, trace=trace_of_publish(message)
        )
        try:
            self._sender.send(upload(stamp(), item))
        except GatewayError as error:
            log.info(
                "a message for the router is lost",
                extra={"topic": message.topic, "cause": error.message},
            )
        done(None)

    # --- device twins ---------------------------------------------------------------------------

    def _take_twin_update(self, message: Publish, done: Done) -> None:
        key, answer = _device_of(message.topic), f"{message.topic}/result"
        try:
            request = read(message.payload, TWIN_UPDATE)
        except GatewayError as error:
            self._fail(answer, "", error)
            done(None)
            return

        def updated(result: Change | GatewayError) -> None:
            if isinstance(result, GatewayError):
                self._fail(answer, request.event_id, result)
                done(result if isinstance(result, StoreUnavailable) else None)
                return
            body = TwinUpdate(request.event_id, now_ms(), result.result)
            self._tell(answer, write(body))
            done(None)

        trace = trace_of_publish(message)
        self._twin.update(
            key, request.twin, updated, origin=MQTT, event_id=request.event_id, trace=trace
        )

    def _take_twin_get(self, message: Publish, done: Done) -> None:
        answer, event_id = f"{message.topic}/result", ""
        try:
            event_id = read(message.payload, QUESTION).event_id
            twins = self._twin.twins(_device_of(message.topic))
        except GatewayError as error:
            self._fail(answer, event_id, error)
        else:
            self._tell(answer, write(TwinUpdate(event_id, now_ms(), alive(twins))))
        done(None)

    def _take_state(self, message: Publish, done: Done) -> None:
        key, answer = _device_of(message.topic), f"{message.topic}/result"
        try:
            request = read(message.payload, LOCAL_STATE)
        except GatewayError as error:
            self._fail(answer, "", error)
            done(None)
            return
        if request.state not in STATES:
            log.info("an unknown device state is ignored", extra={"device": str(key)})
            done(None)
            return

        def noted(result: DeviceRow | GatewayError) -> None:
            if isinstance(result, GatewayError):
                self._fail(answer, request.event_id, result)
                done(result if isinstance(result, StoreUnavailable) else None)
                return
            device = LocalStateDevice(result.name, result.state, result.last_online)
            self._tell(answer, write(LocalStateResult(request.event_id, now_ms(), device)))
            done(None)

        self._twin.set_state(key, request.state, noted)

    def _take_membership(self, message: Publish, done: Done) -> None:
        if message.topic.split("/")[3] == self._node:
            answer, event_id = f"{node_topic(self._node)}/membership/get/result", ""
            try:
                event_id = read(message.payload, QUESTION).event_id
            except GatewayError as error:
                self._fail(answer, "", error)
            else:
                self._tell(answer, membership_list(self._twin.members(), event_id))
        done(None)

    def _fail(self, topic: str, event_id: str, error: GatewayError) -> None:
        code = error.status if error.status in (400, 404, 409) else 500
        code = 400 if 400 < error.status < 500 and code == 500 else code
        self._tell(topic, write(TwinError(event_id, now_ms(), code, error.message)))

    def _tell(self, topic: str, payload: bytes) -> None:
        if self._broker is not None:
            self._broker.publish(topic, payload)
        if self._remote is not None:
            self._remote.publish(topic, payload)

    # --- the cloud's router ----------------------------------------------------------------------

    async def run(self, ready: Callable[[], None]) -> None:
        for topic in await self._store.topics():
            self._subscribe(topic)
        ready()
        await asyncio.get_running_loop().create_future()

    def on_command(self, _envelope: Envelope, command: BusCommand) -> None:
        """The cloud's router publishes here, or wants a topic sent up."""
        if command.operation == Operation.PUBLISH:
            self._tell(command.topic, command.payload)
        elif command.operation == Operation.SUBSCRIBE:
            if self._subscribe(command.topic):
                self._store.add_topic(command.topic, _logged)
        elif command.operation == Operation.UNSUBSCRIBE:
            self._unsubscribe(command.topic)
            self._store.remove_topic(command.topic, _logged)
        else:
            log.warning("an unknown bus command", extra={"operation": command.operation})

    def _subscribe(self, topic: str) -> bool:
        if topic in self._router_topics:
            return True
        if len(self._router_topics) >= MAX_ROUTER_TOPICS:
            log.warning("too many topics for the router", extra={"topic": topic})
            return False
        try:
            self._route(topic, self._take_for_router, key=_RULE + topic)
        except MalformedTopic as error:
            log.warning("a topic for the router is malformed", extra={"cause": error.message})
            return False
        self._router_topics.add(topic)
        return True

    def _unsubscribe(self, topic: str) -> None:
        if topic in self._router_topics:
            self._router_topics.discard(topic)
            self._routes.remove(TopicFilter.parse(topic), _RULE + topic)
            if self._remote is not None:
                self._remote.unsubscribe(topic)


@dataclass(frozen=True, slots=True)
class _Mapped:
    """A topic that the settings send north; without a device in it the node itself speaks."""

    bus: EventBus
    kind: Kind

    def __call__(self, message: Publish, done: Done) -> None:
        self.bus._spool(message, message.topic, self.kind, self.bus._node, {}, done)


def trace_of_publish(message: Publish) -> TraceContext | None:
    """Read W3C trace context from MQTT 5 user properties."""
    properties = message.properties
    return TraceContext.parse(
        properties.user_value("traceparent"), properties.user_value("tracestate")
    )


def _device_of(topic: str) -> DeviceKey:
    """Read the device from `$hw/events/device/<ns>/<name>/...`; the filter has seen to its shape."""
    levels = topic.split("/")
    return DeviceKey.parse(f"{levels[3]}/{levels[4]}")


def _bag(text: str) -> dict[str, str]:
    """Read Hono's property bag. Errors: BadRequest."""
    try:
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_BAG_FIELDS))
    except ValueError as error:
        raise BadRequest(f"property bag: {error}") from None


def _seconds(value: str | int | None) -> float | None:
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        raise BadRequest(f"hono-ttl: expected seconds, got {value!r}") from None
    if not math.isfinite(seconds):
        raise BadRequest(f"hono-ttl: expected seconds, got {value!r}")
    return seconds if seconds >= 0 else None


def _unheard(_error: GatewayError | None) -> None:
    """Another handler answers for the message."""


def _logged(error: GatewayError | None) -> None:
    if error is not None:
        log.warning("a router topic is not on disk", extra={"cause": error.message})
