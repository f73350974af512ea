"""Calls of Devices' methods at the edge: by MQTT on the edge's broker, and by POST to MetaServer.

A driver in EdgeCore writes the values at once, and the caller is told when the device took them; where
something else was wanted of such a property, what the method wrote is wanted from now on. A mapper over DMI,
and a device that speaks for itself, get the values as wishes: DMI and the `$hw` topics have no other way.

MQTT: `twinspan/method/<ns>/<device>/<method>` takes `{"event_id", "values": {property: value}}` and is
answered on the same topic with `/result`: `{"event_id", "timestamp", "method", "properties"}`, or code and
reason.
Source: KubeEdge reference, section 16.1; ADR 10, point 5. The topic is ours.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec
from msgspec import Struct

from edge.clock import now_ms
from edge.deviceforms import topic_of
from edge.deviceport import MQTT, TwinPort
from edge.mappers.localtopics import LocalTopics
from edge.mappers.runner import MapperRunner
from edge.methodrules import method_of, methods_document, read_call
from edge.serving import Serving
from edge.twinasks import ask_change
from gateway.errors import (
    CommandTimeout,
    GatewayError,
    MalformedPacket,
    QuotaExceeded,
    TooLarge,
    Undeliverable,
)
from gateway.model.json import Json, JsonObject
from gateway.model.trace import TraceContext
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracer
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.models import with_defaults
from gateway.wire.cloudedge.subjects import DeviceKey
from gateway.wire.cloudedge.twins import Twin, TwinError, TwinValue, write

log = logging.getLogger(__name__)

TOPIC = "twinspan/method/+/+/+"
CALL_SECONDS = 30.0
MAX_CALLS = 100
"""Calls at a time; more are refused."""
MAX_PAYLOAD = 65_536
MAX_EVENT_ID = 1_024
WRITTEN, WANTED = "written", "wanted"


class _Request(Struct, frozen=True):
    event_id: str = ""
    values: dict[str, bool | int | float | str] = {}


_requests = msgspec.json.Decoder(_Request)


class Audience(Protocol):
    """The edge's broker, as far as it knows who listens."""

    def has_subscribers(self, topic: str) -> bool: ...


class DeviceMethods:
    """Calls of methods as a module."""

    name = "edge.devicemethods"

    def __init__(
        self,
        twin: TwinPort,
        runner: MapperRunner,
        serving: Serving,
        topics: LocalTopics,
        audience: Audience | None,
        *,
        metrics: Metrics,
        tracer: Tracer,
    ) -> None:
        self._twin = twin
        self._runner = runner
        self._serving = serving
        self._topics = topics
        self._audience = audience
        self._metrics = metrics
        self._tracer = tracer
        self._group: asyncio.TaskGroup | None = None
        self._calls = 0
        self._heard_calls = 0
        """Calls by MQTT that are not answered yet."""

    async def run(self, ready: Callable[[], None]) -> None:
        listening = self._topics.listen(TOPIC, self._heard, retained=False)
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                ready()
                await asyncio.get_running_loop().create_future()
        finally:
            self._group = None
            self._topics.forget(listening)

    # --- what may be asked ------------------------------------------------------------------------

    def list(self, key: DeviceKey) -> JsonObject:
        """Return a Device's methods. Errors: DeviceNotFound."""
        view, model = self._twin.device(key)
        return methods_document(with_defaults(view, model), model)

    async def call(
        self,
        key: DeviceKey,
        name: str,
        values: Mapping[str, Json],
        *,
        way: str,
        trace: TraceContext | None = None,
    ) -> JsonObject:
        """Call a method; return each property with its value, and whether it is written or wanted.

        Errors: NotFound for Device or method; BadRequest for values; Undeliverable when nobody serves the
                Device, or it does not answer; CommandTimeout; QuotaExceeded; what the device refuses.
        """
        if self._calls >= MAX_CALLS:
            self._count(way, "refused")
            raise QuotaExceeded(f"{MAX_CALLS} calls of methods are under way")
        self._calls += 1
        outcome = "failed"
        facts = {"device": str(key), "method": name[:MAX_EVENT_ID]}
        try:
            with self._tracer.start("edge.method call", trace, "server", facts) as span:
                found = await self._call(key, name, values, span.context)
                outcome = "ok"
                return found
        except GatewayError as error:
            outcome = "refused" if error.status < 500 else "failed"
            raise
        finally:
            self._calls -= 1
            self._count(way, outcome)

    async def _call(
        self, key: DeviceKey, name: str, values: Mapping[str, Json], trace: TraceContext
    ) -> JsonObject:
        view, model = self._twin.device(key)
        whole = with_defaults(view, model)
        method = method_of(whole, name)
        texts = read_call(whole, model, method, values)
        try:
            async with asyncio.timeout(CALL_SECONDS):
                state = await self._bring(whole, texts, trace)
        except TimeoutError:
            raise CommandTimeout(f"method {name}: no answer in {CALL_SECONDS:g} s") from None
        shown: JsonObject = {n: {"value": text, "state": state} for n, text in texts.items()}
        return {"method": name, "properties": shown}

    async def _bring(self, view: DeviceView, texts: Mapping[str, str], trace: TraceContext) -> str:
        """Bring values to the device, by who serves it. Errors: Undeliverable when nobody does."""
        if self._runner.serves(view.key):
            await self._runner.write(view.key, texts, trace)
            return WRITTEN
        if not self._is_heard(view):
            raise Undeliverable(
                f"nobody serves device {view.key} here: protocol {view.protocol!r} has no driver,"
                " no mapper is connected, and nobody subscribes to its delta"
            )
        asks = {name: Twin(expected=TwinValue(value=text)) for name, text in texts.items()}
        await ask_change(self._twin, view.key, asks, origin=MQTT, trace=trace)
        return WANTED

    def _is_heard(self, view: DeviceView) -> bool:
        """Say whether somebody will be told what is wanted; on an external broker that is not known."""
        if self._runner.is_left_alone(view.key) or self._serving.has_mapper(view.protocol):
            return True
        delta = f"{topic_of(view.key)}/twin/update/delta"
        return self._audience is None or self._audience.has_subscribers(delta)

    def _count(self, way: str, outcome: str) -> None:
        self._metrics.edge.method_calls.labels(way, outcome).inc()

    # --- MQTT -------------------------------------------------------------------------------------

    def _heard(self, topic: str, payload: bytes) -> None:
        if self._group is None:
            return
        if self._heard_calls >= MAX_CALLS:
            self._count("mqtt", "refused")
            self._fail(topic, "", QuotaExceeded(f"{MAX_CALLS} calls of methods are under way"))
            return
        self._heard_calls += 1
        self._group.create_task(self._answer(topic, payload), name=f"method {topic[:100]}")

    async def _answer(self, topic: str, payload: bytes) -> None:
        _, _, namespace, device, name = topic.split("/")
        event_id = ""
        try:
            request = read_request(payload)
            event_id = request.event_id
            key = DeviceKey.parse(f"{namespace}/{device}")
            found = await self.call(key, name, request.values, way="mqtt")
        except GatewayError as error:
            self._fail(topic, event_id, error)
        except Exception:  # the top of a call: others go on
            log.exception("a call of a method failed", extra={"topic": topic})
            self._fail(topic, event_id, GatewayError("the edge failed; its log says how"))
        else:
            body: JsonObject = {"event_id": event_id, "timestamp": now_ms(), **found}
            self._publish(topic, msgspec.json.encode(body))
        finally:
            self._heard_calls -= 1

    def _fail(self, topic: str, event_id: str, error: GatewayError) -> None:
        self._publish(topic, write(TwinError(event_id, now_ms(), error.status, error.message)))

    def _publish(self, topic: str, payload: bytes) -> None:
        self._topics.publish(f"{topic}/result", payload, qos=1, retain=False)


def read_request(payload: bytes) -> _Request:
    """Read a call. Errors: TooLarge; MalformedPacket."""
    if len(payload) > MAX_PAYLOAD:
        raise TooLarge(f"a call of at most {MAX_PAYLOAD} bytes is taken")
    try:
        request = _requests.decode(payload)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise MalformedPacket(f"a call cannot be read: {error}") from error
    if len(request.event_id) > MAX_EVENT_ID:
        raise MalformedPacket(f"event_id: at most {MAX_EVENT_ID} characters")
    return request
