"""DMI: mappers that are processes of their own register here, get their Devices, and report.

The module is EdgeCore's server, and owns one client for each mapper. A mapper that answers serves the Devices
of its protocol alone: while it is connected, the driver of that protocol in this process is told that they
are gone (`Precedence`).
Source: KubeEdge reference, section 17.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import socket
import stat
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from edge.deviceport import DeviceListener, TwinPort
from edge.dmiforms import device_form, model_form
from edge.dmimappers import MAX_PATH, MapperBook, MapperInfo, read_mapper
from edge.dmireports import DmiReports
from edge.northbound import Northbound
from edge.store import EdgeStore
from gateway.config.edge_services import Dmi
from gateway.errors import DeviceNotFound, GatewayError, InvalidSetting, Rejected
from gateway.model.json import Json, JsonObject
from gateway.model.trace import TraceContext
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracer
from gateway.wire.cloudedge.devices import DeviceView, mapping, text
from gateway.wire.cloudedge.models import ModelView, with_defaults
from gateway.wire.cloudedge.subjects import DeviceKey
from gateway.wire.dmi.anyvalues import Numbers
from gateway.wire.dmi.fields import MANAGER
from gateway.wire.dmi.messages import decode, encode

if TYPE_CHECKING:
    from edge.core import ProcessParts
    from edge.devicetwin import DeviceTwin
    from edge.dmiclients import Item, MapperClient

log = logging.getLogger(__name__)

DEVICE, MODEL = "device", "model"
BACKLOG = 100


class DmiServer:
    """EdgeCore's end of DMI as a module; a listener of DeviceTwin.

    Shape:  `folder` is where sockets are by default; `served` is told when a mapper begins and ceases to
            serve a protocol.
    Errors: InvalidSetting for a setting that has a bad value.
    """

    name = "edge.dmi"

    def __init__(
        self,
        settings: Dmi,
        folder: Path,
        twin: TwinPort,
        north: Northbound,
        store: EdgeStore,
        *,
        metrics: Metrics,
        tracer: Tracer,
        served: Callable[[str, bool], None],
    ) -> None:
        self._settings = settings
        self.socket = Path(settings.socket or folder / "dmi.sock").absolute()
        self.mappers_dir = Path(settings.mappers_dir or folder / "mappers").absolute()
        self._numbers = _numbers(settings.numbers)
        self._twin = twin
        self._metrics = metrics
        self._tracer = tracer
        self._served = served
        self._views: dict[DeviceKey, tuple[DeviceView, ModelView | None]] = {}
        self._models: dict[tuple[str, str], ModelView] = {}
        self._book = MapperBook(store)
        self._clients: dict[str, MapperClient] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._bucket = Bucket(settings.calls_per_second, settings.burst)
        self._reports = DmiReports(twin, north, tracer, self._views.get)
        metrics.edge.dmi_mappers.set_function(self._count)

    # --- life ---------------------------------------------------------------------------------

    async def run(self, ready: Callable[[], None]) -> None:
        from edge.unarygrpc import GrpcServer

        self.mappers_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        await self._book.load()
        server = GrpcServer(
            {
                f"{MANAGER}MapperRegister": self._call("MapperRegister", self._register),
                f"{MANAGER}ReportDeviceStatus": self._call("ReportDeviceStatus", self._status),
                f"{MANAGER}ReportDeviceStates": self._call("ReportDeviceStates", self._state),
            }
        )
        listening = open_socket(self.socket)
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for mapper in self._book.mappers.values():
                    self._start(mapper, None)
                await server.listen(listening)
                ready()
                await asyncio.get_running_loop().create_future()
        finally:
            self._group = None
            await server.close()
            listening.close()
            self.socket.unlink(missing_ok=True)

    def _start(self, mapper: MapperInfo, told: Iterable[Item] | None) -> None:
        """Serve a mapper with a client of its own, in place of an earlier one of its protocol."""
        from edge.dmiclients import MapperClient

        if self._group is None:
            return
        before = self._tasks.pop(mapper.protocol, None)
        if before is not None:
            before.cancel()
            self._served(mapper.protocol, False)
        client = MapperClient(
            mapper,
            self.mappers_dir,
            self,
            self._numbers,
            self._metrics,
            self._tracer,
            self._say_served,
        )
        if told is not None:
            client.knows(told)
        self._clients[mapper.protocol] = client
        self._tasks[mapper.protocol] = self._group.create_task(
            client.run(), name=f"dmi {mapper.protocol}"
        )

    def _say_served(self, client: MapperClient) -> None:
        protocol = client.mapper.protocol
        if self._clients.get(protocol) is not client:
            return
        for key, (view, _) in self._views.items():
            if view.protocol == protocol:
                self._remember(key)
        self._served(protocol, client.is_connected)

    def _count(self) -> float:
        return float(sum(client.is_connected for client in self._clients.values()))

    def facts(self) -> list[Json]:
        """Return the mappers as `edge status` lists them."""
        return [
            {
                "name": client.mapper.name,
                "protocol": protocol,
                "connected": client.is_connected,
            }
            for protocol, client in sorted(self._clients.items())
        ]

    # --- calls --------------------------------------------------------------------------------

    def _call(
        self, method: str, answer: Callable[[JsonObject], Awaitable[JsonObject]]
    ) -> Callable[[bytes], Awaitable[bytes]]:
        async def call(data: bytes) -> bytes:
            outcome = "failed"
            try:
                if not self._bucket.take(asyncio.get_running_loop().time()):
                    raise Rejected("mappers call too often", status=429)
                found = await answer(decode(f"{method}Request", data))
                outcome = "ok"
                return encode(f"{method}Response", found, self._numbers)
            except GatewayError as error:
                outcome = "refused" if error.status < 500 else "failed"
                raise
            finally:
                self._metrics.edge.dmi_calls.labels(method, outcome).inc()

        return call

    async def _register(self, message: JsonObject) -> JsonObject:
        """Register a mapper. Without `withData` it gets nothing and is not called, as with KubeEdge."""
        mapper = read_mapper(mapping(message.get("mapper")), self.mappers_dir)
        if not message.get("withData"):
            return {}
        await self._book.keep(mapper)
        items = list(self.items(mapper.protocol))
        answer = self._lists(mapper.protocol, items)
        try:
            encode("MapperRegisterResponse", answer, self._numbers)
        except GatewayError as error:  # too large: the mapper is told one by one
            log.info(
                "a mapper gets no lists", extra={"mapper": mapper.name, "cause": error.message}
            )
            self._start(mapper, None)
            return {}
        self._start(mapper, items)
        log.info("a mapper registers", extra={"mapper": mapper.name, "protocol": mapper.protocol})
        return answer

    def _lists(self, protocol: str, items: Iterable[Item]) -> JsonObject:
        forms = [(item[0], self.form(protocol, item)) for item in items]
        return {
            "modelList": [form for kind, form in forms if kind == MODEL and form is not None],
            "deviceList": [form for kind, form in forms if kind == DEVICE and form is not None],
        }

    async def _status(self, message: JsonObject) -> JsonObject:
        try:
            await self._reports.status(message)
        except DeviceNotFound:
            namespace = text(message.get("deviceNamespace")) or "default"
            item = DEVICE, namespace, text(message.get("deviceName"))
            for client in self._clients.values():
                client.stray(item)
            raise
        return {}

    async def _state(self, message: JsonObject) -> JsonObject:
        await self._reports.state(message)
        return {}

    # --- Devices (what mappers shall have) ------------------------------------------------------

    def items(self, protocol: str) -> Iterable[Item]:
        """Return the models and then the Devices of a protocol."""
        views = [view for view, _ in self._views.values() if view.protocol == protocol]
        used = {(view.meta.namespace, view.model) for view in views}
        for key, model in self._models.items():
            if key in used or model.protocol == protocol:
                yield MODEL, *key
        for view in views:
            yield DEVICE, view.meta.namespace, view.meta.name

    def form(self, protocol: str, item: Item) -> JsonObject | None:
        """Return an object as a mapper shall have it now, None when it shall not."""
        kind, namespace, name = item
        if kind == MODEL:
            model = self._models.get((namespace, name))
            return None if model is None else model_form(model)
        found = self._views.get(DeviceKey(namespace, name))
        if found is None or found[0].protocol != protocol:
            return None
        try:
            return device_form(found[0], self._twin.twins(found[0].key))
        except DeviceNotFound:
            return None

    def model_of(self, item: Item) -> Item | None:
        kind, namespace, name = item
        found = self._views.get(DeviceKey(namespace, name)) if kind == DEVICE else None
        if found is None or found[1] is None:
            return None
        return MODEL, namespace, found[0].model

    # --- DeviceListener -------------------------------------------------------------------------

    def device_bound(
        self,
        view: DeviceView,
        model: ModelView | None,
        trace: TraceContext | None,
    ) -> None:
        """Tell the Device's mapper once the twin has what the Device wants."""
        whole = with_defaults(view, model)
        self._views[view.key] = (whole, model)
        self._device_changed(view.key, whole.protocol, trace)

    def device_gone(self, key: DeviceKey) -> None:
        found = self._views.pop(key, None)
        self._reports.forget(key)
        self._device_changed(key, "" if found is None else found[0].protocol)

    def desired_changed(self, key: DeviceKey, trace: TraceContext) -> None:
        """A local wish: the Device itself did not change, what is told of it does."""
        found = self._views.get(key)
        if found is not None:
            self._device_changed(key, found[0].protocol, trace)

    def model_bound(self, model: ModelView) -> None:
        self._models[model.meta.namespace, model.meta.name] = model
        self._changed((MODEL, model.meta.namespace, model.meta.name), model.protocol)

    def model_gone(self, namespace: str, name: str) -> None:
        found = self._models.pop((namespace, name), None)
        self._changed((MODEL, namespace, name), "" if found is None else found.protocol)

    def _device_changed(
        self, key: DeviceKey, protocol: str, trace: TraceContext | None = None
    ) -> None:
        client = self._clients.get(protocol)
        if client is not None and key in self._views:
            asyncio.get_running_loop().call_soon(self._remember, key)
        self._changed((DEVICE, key.namespace, key.name), protocol, trace)

    def _remember(self, key: DeviceKey) -> None:
        if key in self._views:
            try:
                self._reports.expected(key)
            except DeviceNotFound:
                return

    def _changed(self, item: Item, protocol: str, trace: TraceContext | None = None) -> None:
        for served, client in self._clients.items():
            if served == protocol or client.has(item):
                client.changed(item, trace)


class Precedence:
    """In front of the drivers of this process: hides Devices whose protocol a mapper serves."""

    def __init__(self, drivers: DeviceListener, twin: TwinPort) -> None:
        self._drivers = drivers
        self._twin = twin
        self._served: set[str] = set()

    def served(self, protocol: str, is_served: bool) -> None:
        """A mapper begins or ceases to serve a protocol."""
        if is_served:
            self._served.add(protocol)
        else:
            self._served.discard(protocol)
        for view, model in list(self._twin.bound()):
            if _protocol(view, model) == protocol:
                self.device_bound(view, model, None)

    def device_bound(
        self, view: DeviceView, model: ModelView | None, trace: TraceContext | None
    ) -> None:
        if _protocol(view, model) in self._served:
            self._drivers.device_gone(view.key)
        else:
            self._drivers.device_bound(view, model, trace)

    def device_gone(self, key: DeviceKey) -> None:
        self._drivers.device_gone(key)

    def desired_changed(self, key: DeviceKey, trace: TraceContext) -> None:
        self._drivers.desired_changed(key, trace)

    def model_bound(self, model: ModelView) -> None:
        self._drivers.model_bound(model)

    def model_gone(self, namespace: str, name: str) -> None:
        self._drivers.model_gone(namespace, name)


def _protocol(view: DeviceView, model: ModelView | None) -> str:
    return view.protocol or ("" if model is None else model.protocol)


class Bucket:
    """Calls that may be made: `rate` each second, `burst` at once."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = burst
        self._left = float(burst)
        self._at: float | None = None

    def take(self, now: float) -> bool:
        """Take one call; `now` in seconds."""
        if self._at is not None:
            self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


def build_dmi(
    process: ProcessParts,
    folder: Path,
    twin: DeviceTwin,
    north: Northbound,
    store: EdgeStore,
    drivers: DeviceListener,
    served: Callable[[str, bool], None],
) -> list[DmiServer]:
    """Build DMI where it is enabled, and let DeviceTwin tell it and the drivers of this process.

    Shape:  `served` is told, too, when a mapper begins and ceases to serve a protocol.
    Errors: InvalidSetting where grpclib is not installed, or a setting has a bad value.
    """
    settings = process.settings.edge.dmi
    if not settings.enabled:
        twin.listen(drivers)
        return []
    if importlib.util.find_spec("grpclib") is None:
        raise InvalidSetting("edge.dmi.enabled needs grpclib: pip install 'twinspan[edge]'")
    if settings.burst < 1 or settings.calls_per_second <= 0:
        raise InvalidSetting("edge.dmi.burst and edge.dmi.calls_per_second: expected more than 0")
    precedence = Precedence(drivers, twin)

    def tell(protocol: str, is_served: bool) -> None:
        precedence.served(protocol, is_served)
        served(protocol, is_served)

    server = DmiServer(
        settings,
        folder,
        twin,
        north,
        store,
        metrics=process.metrics,
        tracer=process.tracer,
        served=tell,
    )
    twin.listen(precedence)
    twin.listen(server)
    return [server]


def _numbers(text: str) -> Numbers:
    if text not in set(Numbers):
        raise InvalidSetting(f"edge.dmi.numbers: expected float or exact, got {text!r}")
    return Numbers(text)


def open_socket(path: Path) -> socket.socket:
    """Bind a Unix socket that only this user can reach; one that nobody listens on any more is replaced.

    Errors: InvalidSetting, naming what is in the way.
    """
    if len(str(path).encode()) > MAX_PATH:
        raise InvalidSetting(f"edge.dmi.socket: {path} is longer than {MAX_PATH} bytes")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _clear(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.setblocking(False)
        listening.bind(str(path))
        path.chmod(0o600)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise InvalidSetting(f"edge.dmi.socket: {path}: {error}") from error
    return listening


def _clear(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise InvalidSetting(f"edge.dmi.socket: {path} is there and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise InvalidSetting(f"edge.dmi.socket: {path}: {error}") from error
    raise InvalidSetting(f"edge.dmi.socket: another process listens at {path}")
