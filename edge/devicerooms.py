"""Builds what serves Devices at this edge: drivers, push methods, DMI, methods, faults, plug-ins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge.broker import Broker
from edge.clock import now_ms
from edge.devicefaults import DeviceFaults
from edge.devicemethods import DeviceMethods
from edge.devicetwin import DeviceTwin
from edge.discovery import DiscoveryBook
from edge.dmi import DmiServer, build_dmi
from edge.mappers.driver import DriverFactory
from edge.mappers.family import FAMILIES, Discovered
from edge.mappers.localtopics import LocalTopics
from edge.mappers.mqtt import PROTOCOL as MQTT
from edge.mappers.mqtt import make_mqtt
from edge.mappers.process import MapperProcesses, family_name
from edge.mappers.pushers import make_pushers
from edge.mappers.pushing import Pushing
from edge.mappers.runner import MapperRunner
from edge.mappers.session import Services
from edge.mappers.virtual import PROTOCOL as VIRTUAL
from edge.mappers.virtual import make_virtual
from edge.northbound import Northbound, Submit
from edge.pluginmodules import PluginModule, Port, PortRooms
from edge.plugins import load_mappers, load_modules
from edge.serving import Serving
from edge.store import EdgeStore
from gateway.runtime.module import Module

if TYPE_CHECKING:
    from edge.core import ProcessParts

PLUGIN_FOLDER = "plugins"
MAPPER_FOLDER = "hardware"
"""Where mappers in processes of their own keep what is theirs, a folder each."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The rooms of EdgeCore that stand around Devices."""

    node: str
    folder: Path
    twin: DeviceTwin
    submit: Submit
    store: EdgeStore
    topics: LocalTopics
    broker: Broker | None
    is_linked: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class DeviceRooms:
    """What was built; `modules` in start order, to be started after DeviceTwin and the brokers."""

    modules: list[Module]
    methods: DeviceMethods
    faults: DeviceFaults
    dmi: DmiServer | None
    plugins: tuple[PluginModule, ...]
    processes: MapperProcesses
    book: DiscoveryBook


def build_device_rooms(
    process: ProcessParts, around: Surroundings, drivers: Mapping[str, DriverFactory] | None
) -> DeviceRooms:
    """Build them; `drivers` replaces those of EdgeCore and of plug-ins.

    Errors: InvalidSetting for plug-ins that are not there, and for settings of DMI.
    """
    metrics, tracer, twin = process.metrics, process.tracer, around.twin
    plugins = process.settings.edge.plugins
    faults = DeviceFaults(twin, around.store)
    north = Northbound(around.submit)
    pushing = Pushing(make_pushers(), metrics, faults)
    book = DiscoveryBook(metrics)
    processes = MapperProcesses(
        process.settings.edge.mappers,
        process.settings.observe.logs,
        around.folder / MAPPER_FOLDER,
        metrics.mappers,
        _noting(book),
    )
    known = processes.drivers() | _drivers(around.topics) | load_mappers(plugins)
    runner = MapperRunner(
        known if drivers is None else drivers,
        Services(twin, north, metrics, tracer, faults, pushing),
    )
    serving = Serving(runner, twin, faults)
    twin.listen(serving)
    twin.heard = serving.heard
    dmi = build_dmi(process, around.folder, twin, north, around.store, runner, serving.served)
    methods = DeviceMethods(
        twin, runner, serving, around.topics, around.broker, metrics=metrics, tracer=tracer
    )
    rooms = PortRooms(
        around.node,
        around.folder / PLUGIN_FOLDER,
        twin,
        methods,
        around.topics,
        around.submit,
        around.is_linked,
    )
    modules = tuple(
        PluginModule(name, make, Port(name, rooms)) for name, make in load_modules(plugins).items()
    )
    return DeviceRooms(
        [faults, pushing, processes, runner, *dmi, methods, *modules],
        methods,
        faults,
        dmi[0] if dmi else None,
        modules,
        processes,
        book,
    )


def _noting(book: DiscoveryBook) -> Callable[[str, Sequence[Discovered], Sequence[str]], None]:
    """Return what keeps a family's sights in the book."""

    def take(family: str, found: Sequence[Discovered], lost: Sequence[str]) -> None:
        for protocol, maker in FAMILIES.items():
            if family_name(maker) == family:
                for address in lost:
                    book.lost(protocol, address)
        for each in found:
            book.take(each)

    return take


def _drivers(topics: LocalTopics) -> dict[str, DriverFactory]:
    return {VIRTUAL: make_virtual(now_ms), MQTT: make_mqtt(topics, now_ms)}
