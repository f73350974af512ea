"""EdgeCore as the client of one mapper: it is told which Devices and models there are, and what is wanted.

What is still to tell waits by object, not by change: of a Device that changes ten times while the mapper is
away it is told the latest. What a mapper was told last is compared, so an event that changes nothing for it
is not told. A mapper that refuses is asked again with the next change; one that is away, with back-off.

A mapper that has just registered has what its registration was answered with. Of one that was connected to
again nobody knows what it has, so it is told everything: RegisterDevice, which it may ignore, and
UpdateDevice, which it may not.
Source: KubeEdge reference, section 17.4.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from edge.dmimappers import MapperInfo, socket_path
from edge.unarygrpc import CallFailed, GrpcClient
from gateway.errors import GatewayError, Undeliverable
from gateway.model.json import JsonObject
from gateway.model.trace import TraceContext
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracer
from gateway.runtime.backoff import Backoff
from gateway.wire.dmi.anyvalues import Numbers
from gateway.wire.dmi.fields import MAPPER
from gateway.wire.dmi.messages import encode

log = logging.getLogger(__name__)

CALL_SECONDS = 5.0
RETRY_FIRST, RETRY_CAP = 0.2, 10.0
LOOK_SECONDS = 0.5
"""How soon it is noticed that an idle mapper has gone."""

MAX_PENDING = 20_000
"""Objects that wait to be told; more are not noted: who comes back is told everything in any case."""
DEVICE, MODEL = "device", "model"

Item = tuple[str, str, str]
"""DEVICE or MODEL, namespace, name."""


class Devices(Protocol):
    """What a mapper of a protocol shall have, now."""

    def items(self, protocol: str) -> Iterable[Item]:
        """Return its models and then its Devices."""

    def form(self, protocol: str, item: Item) -> JsonObject | None:
        """Return the object as DMI's message, None when the mapper shall not have it."""

    def model_of(self, item: Item) -> Item | None:
        """Return a Device's model where there is one."""


class MapperClient:
    """One mapper's client; `run` until cancelled."""

    def __init__(
        self,
        mapper: MapperInfo,
        folder: Path,
        devices: Devices,
        numbers: Numbers,
        metrics: Metrics,
        tracer: Tracer,
        served: Callable[[MapperClient], None],
    ) -> None:
        self.mapper = mapper
        self.is_connected = False
        self._folder = folder
        self._devices = devices
        self._numbers = numbers
        self._metrics = metrics
        self._tracer = tracer
        self._served = served
        self._told: dict[Item, bytes] = {}
        self._pending: dict[Item, TraceContext | None] = {}
        self._cause: TraceContext | None = None
        self._wake = asyncio.Event()
        self._is_sure = False
        self._said = ""

    def knows(self, told: Iterable[Item]) -> None:
        """Note what the answer to the mapper's registration told it."""
        self._is_sure = True
        for item in told:
            form = self._devices.form(self.mapper.protocol, item)
            if form is not None:
                self._told[item] = self._encode(item, form)

    def has(self, item: Item) -> bool:
        """Tell whether the mapper has, or is about to get, an object."""
        return item in self._told or item in self._pending

    def changed(self, item: Item, trace: TraceContext | None = None) -> None:
        """Tell the mapper about an object as it is when its turn comes; `trace` is what it belongs to."""
        if item in self._pending or len(self._pending) < MAX_PENDING:
            self._pending[item] = trace or self._pending.get(item)
            self._wake.set()

    def stray(self, item: Item) -> None:
        """A Device was reported that is nobody's: a mapper that may still have it is told to remove it."""
        if not self._is_sure and self.is_connected:
            self.changed(item)

    async def run(self) -> None:
        backoff = Backoff(RETRY_FIRST, RETRY_CAP)
        is_first = True
        while True:
            try:
                path = socket_path(self.mapper, self._folder)
                client = await GrpcClient.connect(path, CALL_SECONDS)
            except (GatewayError, OSError) as error:
                self._log_away(error)
            else:
                try:
                    self._begin(again=not (is_first and self._is_sure))
                    is_first = False
                    await self._serve(client, backoff)
                except Undeliverable as error:
                    self._log_away(error)
                except Exception:  # the top of a mapper's task: the others and the edge go on
                    log.exception("a mapper's client failed", extra={"mapper": self.mapper.name})
                finally:
                    client.close()
                    self._say(is_connected=False)
            await asyncio.sleep(backoff.next())

    def _begin(self, *, again: bool) -> None:
        if again:
            self._is_sure = False
            self._told.clear()
            self._pending |= dict.fromkeys(self._devices.items(self.mapper.protocol))
        self._said = ""
        self._say(is_connected=True)

    def _say(self, *, is_connected: bool) -> None:
        if self.is_connected != is_connected:
            self.is_connected = is_connected
            self._served(self)

    def _log_away(self, error: Exception) -> None:
        """Say why a mapper is away, once for each reason."""
        cause = str(error) or type(error).__name__
        if cause != self._said:
            self._said = cause
            log.info("a mapper is not reached", extra={"mapper": self.mapper.name, "cause": cause})

    async def _serve(self, client: GrpcClient, backoff: Backoff) -> None:
        while not client.is_lost:
            self._wake.clear()
            while self._pending:
                await self._tell(client, next(iter(self._pending)))
                backoff.reset()
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                continue
        raise Undeliverable("the mapper has gone")

    async def _tell(self, client: GrpcClient, item: Item) -> None:
        """Tell one object; it stays pending when the mapper does not answer."""
        form = self._devices.form(self.mapper.protocol, item)
        self._cause = self._pending.get(item)
        try:
            if form is None:
                await self._remove(client, item)
            else:
                await self._put(client, item, form)
        except Undeliverable:
            raise
        except GatewayError as error:
            log.warning(
                "a mapper refuses an object",
                extra={"mapper": self.mapper.name, "object": str(item), "cause": error.message},
            )
        if self._devices.form(self.mapper.protocol, item) == form:
            self._pending.pop(item, None)

    async def _remove(self, client: GrpcClient, item: Item) -> None:
        kind, namespace, name = item
        if self._told.pop(item, None) is None and self._is_sure:
            return
        if kind == DEVICE:
            body: JsonObject = {"deviceName": name, "deviceNamespace": namespace}
            await self._call(client, "RemoveDevice", body)
        else:
            await self._call(
                client, "RemoveDeviceModel", {"modelName": name, "modelNamespace": namespace}
            )

    async def _put(self, client: GrpcClient, item: Item, form: JsonObject) -> None:
        model = self._devices.model_of(item)
        if model is not None and model not in self._told:
            model_form = self._devices.form(self.mapper.protocol, model)
            if model_form is not None:
                await self._put(client, model, model_form)
        data = self._encode(item, form)
        before = self._told.get(item)
        if data == before:
            return
        kind = item[0]
        noun = "DeviceModel" if kind == MODEL else "Device"
        if before is None:
            await self._introduce(client, noun, {kind: form})
        else:
            await self._call(client, f"Update{noun}", {kind: form})
        self._told[item] = data

    async def _introduce(self, client: GrpcClient, noun: str, body: JsonObject) -> None:
        """Tell of a new object; one that the mapper has already is brought up to date."""
        verb = "Create" if noun == "DeviceModel" else "Register"
        try:
            await self._call(client, f"{verb}{noun}", body)
        except CallFailed:
            await self._call(client, f"Update{noun}", body)
        else:
            if not self._is_sure:
                await self._call(client, f"Update{noun}", body)

    async def _call(self, client: GrpcClient, method: str, body: JsonObject) -> None:
        outcome = "failed"
        facts = {"mapper": self.mapper.name}
        try:
            with self._tracer.start(f"edge.dmi {method}", self._cause, "client", facts) as span:
                request = encode(f"{method}Request", body, self._numbers)
                trace = span.context.traceparent
                await client.call(MAPPER + method, request, CALL_SECONDS, trace=trace)
            outcome = "ok"
        except CallFailed:
            outcome = "refused"
            raise
        finally:
            self._metrics.edge.dmi_calls.labels(method, outcome).inc()

    def _encode(self, item: Item, form: JsonObject) -> bytes:
        return encode("DeviceModel" if item[0] == MODEL else "Device", form, self._numbers)
