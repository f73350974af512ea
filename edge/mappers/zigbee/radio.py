"""The radio library, zigpy, behind a few calls in our own words.

Nothing but this module and `zigpyviews` imports it, and both are imported when a family is made.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import logging
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import voluptuous
from zigpy import exceptions, types
from zigpy.application import ControllerApplication
from zigpy.backups import NetworkBackup
from zigpy.device import BaseDevice, ZigbeeDevice
from zigpy.zcl import AttributeReportedEvent, AttributeUpdatedEvent, Cluster
from zigpy.zcl.clusters.security import IasZone
from zigpy.zcl.foundation import Status
from zigpy.zcl.helpers import ReportingConfig, UnsupportedAttribute

from edge.mappers.driver import DeviceUnreachable
from edge.mappers.zigbee import database, meanings
from edge.mappers.zigbee.codecs import Raw
from edge.mappers.zigbee.meanings import Reporting
from edge.mappers.zigbee.plan import BRANCH, RADIOS, Plan
from edge.mappers.zigbee.seen import Seen
from edge.mappers.zigbee.zigpyviews import check, foreign, plain, said, seen_of, status_name
from gateway.errors import InvalidSetting, Rejected

log = logging.getLogger(__name__)
logging.getLogger("zigpy").setLevel(logging.WARNING)  # it tells of each step of each device

CALL_SECONDS = 8.0
COMMIT_SECONDS = 1.0
MAX_BACKUP = 1024 * 1024
BACKUP_MINUTES = 360
COUNTER_LEAP = 1_000_000
"""More than are sent from backup to backup: devices take what has a lower number for a replay."""


class Ears(Protocol):
    """Who is told what the radio hears; calls are short and never raise."""

    def heard(self, ieee: str) -> None: ...
    def reported(
        self, ieee: str, endpoint: int, cluster: int, attribute: int, raw: Raw
    ) -> None: ...
    def came(self, ieee: str) -> None:
        """A device has been interviewed, or is there again."""

    def joined(self, ieee: str) -> None:
        """A device has joined, or joined again: what it was told to report is forgotten."""

    def left(self, ieee: str, *, for_good: bool) -> None: ...
    def stick_lost(self, why: str) -> None: ...


class StickAway(DeviceUnreachable):
    """There is no coordinator to speak to."""

    default_message = "the Zigbee coordinator is away"


class NetworkRefused(DeviceUnreachable):
    """The stick's network is not this node's; nothing is done to it unasked."""


@dataclass(frozen=True, slots=True)
class Network:
    """What a started coordinator is."""

    ieee: str
    channel: int
    pan_id: int
    extended_pan_id: str
    model: str
    firmware: str


class Radio:
    """One coordinator, from start to stop."""

    def __init__(self, plan: Plan, folder: Path, ears: Ears) -> None:
        self._plan = plan
        self._folder = folder
        self._ears = ears
        self._class = _radio_class(plan.radio)
        self._app: ControllerApplication | None = None
        self._attached: dict[str, ZigbeeDevice] = {}

    # --- start and stop -----------------------------------------------------------------------------

    async def start(self) -> Network:
        """Open the stick and start its network.

        Errors: StickAway; NetworkRefused; InvalidSetting; sqlite3.Error for a damaged database.
        """
        path = self._plan.device
        if path.startswith("/") and not await asyncio.to_thread(os.path.exists, path):
            raise StickAway(f"{path}: there is no such device")
        app = await self._load()
        try:
            await self._start(app)
            for device in list(app.devices.values()):
                self._attach(device)
            app.backups.add_backup(app.backups.from_network_state())
        except BaseException:
            await self._end(app)
            raise
        self._app = app
        return self._network(app)

    async def _load(self) -> ControllerApplication:
        try:
            app: ControllerApplication = await self._class.new(self._config(), start_radio=False)
        except exceptions.CorruptDatabase as error:
            raise sqlite3.DatabaseError(str(error)) from error
        except voluptuous.Invalid as error:
            raise InvalidSetting(f"{BRANCH}: {error}") from error
        app.add_listener(_Listener(self))
        app.backups.add_listener(_Keeper(self._folder))
        app.backups.restore_backup = partial(  # type: ignore[method-assign]
            app.backups.restore_backup, counter_increment=COUNTER_LEAP
        )
        kept = self._folder / database.BACKUP
        if app.backups.most_recent_backup() is None and kept.exists():
            with contextlib.suppress(ValueError, KeyError, TypeError, OSError):
                text = kept.read_text()[:MAX_BACKUP]
                app.backups.add_backup(NetworkBackup.from_dict(json.loads(text)))
        return app

    def _config(self) -> dict[str, Any]:
        plan = self._plan
        device: dict[str, Any] = {"path": plan.device}
        if plan.baudrate:
            device["baudrate"] = plan.baudrate
        if plan.flow_control:
            device["flow_control"] = plan.flow_control
        network = {
            "channel": plan.channel or None,
            "pan_id": plan.pan_id or None,
            "extended_pan_id": plan.extended_pan_id or None,
            "key": list(bytes.fromhex(plan.key)) if plan.key else None,
        }
        return {
            "device": device,
            "database_path": str(self._folder / database.NAME),
            "database_commit_interval": COMMIT_SECONDS,
            "network": {name: value for name, value in network.items() if value is not None},
            "validate_network_settings": plan.foreign != "adopt",
            "ota": {"enabled": False},
            "topology_scan_enabled": False,
            "backup_enabled": True,
            "backup_period": BACKUP_MINUTES,
        }

    async def _start(self, app: ControllerApplication) -> None:
        try:
            try:
                await app.startup(auto_form=self._plan.form)
            except exceptions.NetworkSettingsInconsistent as error:
                if self._plan.foreign != "replace":
                    raise
                await app.connect()
                await app.backups.restore_backup(error.old_state)
                await app.initialize()
        except exceptions.NetworkNotFormed as error:
            raise NetworkRefused(f"the stick has no network, and {BRANCH}.form is false") from error
        except exceptions.NetworkSettingsInconsistent as error:
            raise NetworkRefused(foreign(error)) from error
        except (
            TimeoutError,
            OSError,
            exceptions.ZigbeeException,
            exceptions.RadioException,
        ) as error:
            raise StickAway(f"{self._plan.device}: {said(error)}") from error
        except (AssertionError, AttributeError, RuntimeError, ValueError) as error:
            raise StickAway(
                f"{self._plan.device}: it says what no stick says: {said(error)}"
            ) from error

    def _network(self, app: ControllerApplication) -> Network:
        info, node = app.state.network_info, app.state.node_info
        return Network(
            ieee=str(node.ieee),
            channel=int(info.channel or 0),
            pan_id=int(info.pan_id or 0),
            extended_pan_id=str(info.extended_pan_id),
            model=str(node.model or ""),
            firmware=str(node.version or ""),
        )

    async def stop(self) -> None:
        """Let the stick go; never raises."""
        app, self._app = self._app, None
        self._attached.clear()
        if app is not None:
            await self._end(app)

    async def _end(self, app: ControllerApplication) -> None:
        try:
            async with asyncio.timeout(CALL_SECONDS):
                await app.shutdown()
        except Exception:  # the library's clean-up of a stick that is gone must not end the mapper
            log.debug("the radio library did not end cleanly", exc_info=True)

    # --- what is known ------------------------------------------------------------------------------

    def seen(self, ieee: str) -> Seen | None:
        """Return what is known of a device."""
        device = None if self._app is None else self._app.devices.get(types.EUI64.convert(ieee))
        return seen_of(device) if isinstance(device, ZigbeeDevice) else None

    def all_seen(self) -> list[Seen]:
        """Return all devices but the coordinator."""
        if self._app is None:
            return []
        own = self._app.state.node_info.ieee
        return [
            seen_of(device)
            for device in self._app.devices.values()
            if isinstance(device, ZigbeeDevice) and device.ieee != own
        ]

    def cached(
        self, ieee: str, endpoint: int, cluster: int, attribute: int
    ) -> tuple[Raw, int] | None:
        """Return the last known value of an attribute and when it came, Unix ms."""
        try:
            found = self._cluster(ieee, endpoint, cluster)
            definition = found.find_attribute(attribute)
            value = plain(found._attr_cache.get_value(definition))
            at = found._attr_cache.get_last_updated(definition)
        except (KeyError, UnsupportedAttribute, DeviceUnreachable, Rejected):
            return None
        return None if value is None else (value, int(at.timestamp() * 1_000))

    def attribute(self, cluster: int, name: int | str) -> tuple[int, str]:
        """Return number and type of an attribute. Errors: Rejected for one that nobody knows."""
        known = Cluster._registry.get(cluster)
        try:
            definition = None if known is None else known.find_attribute(name)
        except KeyError:
            definition = None
        if definition is None:
            raise Rejected(f"cluster {cluster:#06x} has no attribute {name!r} that is known")
        return int(definition.id), definition.zcl_type.name.rstrip("_")

    # --- calls to devices ---------------------------------------------------------------------------

    async def permit(self, seconds: int) -> None:
        """Let devices join for a while; 0 ends it. Errors: DeviceUnreachable."""
        app = self._running()
        async with self._calling("permit join"):
            await app.permit(seconds)

    async def remove(self, ieee: str) -> None:
        """Ask a device to leave, and forget it. Errors: StickAway."""
        app = self._running()
        async with self._calling("remove"):
            await app.remove(types.EUI64.convert(ieee))

    async def ping(self, ieee: str) -> None:
        """Ask a device for a sign of life. Errors: DeviceUnreachable."""
        device = self._device(ieee)
        endpoint = seen_of(device).endpoint_with(meanings.BASIC)
        async with self._calling("ping"):
            if endpoint:
                cluster = self._cluster(ieee, endpoint, meanings.BASIC)
                await cluster.read_attributes([0], retries=1)
            else:
                await device.zdo.Node_Desc_req(device.nwk)

    async def read(
        self, ieee: str, endpoint: int, cluster: int, attributes: Sequence[int]
    ) -> tuple[Mapping[int, Raw], Mapping[int, str]]:
        """Read attributes; return values, and the status names of those that failed.

        Errors: DeviceUnreachable; Rejected for an attribute that nobody knows.
        """
        found = self._cluster(ieee, endpoint, cluster)
        definitions = {self.attribute(cluster, number)[0]: number for number in attributes}
        async with self._calling("read"):
            values, failures = await found.read_attributes(list(definitions))
        plains = {number: plain(value) for number, value in values.items()}
        failed = {number: status_name(status) for number, status in failures.items()}
        failed |= {number: "no plain value" for number, raw in plains.items() if raw is None}
        return {number: raw for number, raw in plains.items() if raw is not None}, failed

    async def write(
        self, ieee: str, endpoint: int, cluster: int, attribute: int, value: int | float | str
    ) -> None:
        """Write an attribute. Errors: DeviceUnreachable; Rejected with the status that the device gave."""
        found = self._cluster(ieee, endpoint, cluster)
        try:
            async with self._calling("write"):
                records = await found.write_attributes({attribute: value})
        except (ValueError, TypeError, OverflowError) as error:
            raise Rejected(f"the attribute cannot hold {value!r}: {error}") from error
        for record in records[0]:
            check(record.status, "write")

    async def command(
        self, ieee: str, endpoint: int, cluster: int, number: int, arguments: Sequence[int]
    ) -> None:
        """Send a cluster command. Errors: DeviceUnreachable; Rejected with the device's status."""
        found = self._cluster(ieee, endpoint, cluster)
        async with self._calling("command"):
            answer = await found.command(number, *arguments)
        status = getattr(answer, "status", None)
        if status is not None:
            check(status, "command")

    async def configure(
        self, ieee: str, endpoint: int, cluster: int, wanted: Mapping[int, Reporting]
    ) -> set[int]:
        """Bind a cluster and ask for reports; return the attributes that will be reported.

        Errors: DeviceUnreachable.
        """
        found = self._cluster(ieee, endpoint, cluster)
        configs = {
            found.find_attribute(number): ReportingConfig(
                each.low,
                each.high,
                each.change,  # type: ignore[arg-type]  # of the attribute's type
            )
            for number, each in wanted.items()
        }
        async with self._calling("bind"):
            bound = await found.bind()
        if bound[0] != 0:
            return set()
        async with self._calling("configure reporting"):
            statuses = await found.configure_reporting_multiple(configs)
        return {int(each.id) for each, status in statuses.items() if status == Status.SUCCESS}

    async def enroll(self, ieee: str, endpoint: int) -> None:
        """Tell an IAS zone whom to notify. Errors: DeviceUnreachable; Rejected."""
        own = self._running().state.node_info.ieee
        found = self._cluster(ieee, endpoint, meanings.ZONE)
        async with self._calling("enroll"):
            await found.bind()
            records = await found.write_attributes({0x0010: own})
        check(records[0][0].status, "enroll")
        async with self._calling("enroll"):
            await found.enroll_response(
                enroll_response_code=0, zone_id=1, expect_reply=False, disable_default_response=True
            )

    # --- inside -------------------------------------------------------------------------------------

    def _running(self) -> ControllerApplication:
        if self._app is None:
            raise StickAway
        return self._app

    def _device(self, ieee: str) -> ZigbeeDevice:
        device = self._running().devices.get(types.EUI64.convert(ieee))
        if not isinstance(device, ZigbeeDevice):
            raise DeviceUnreachable("the device is not in the network")
        return device

    def _cluster(self, ieee: str, endpoint: int, cluster: int) -> Any:
        device = self._device(ieee)
        try:
            return device.endpoints[endpoint].in_clusters[cluster]
        except (KeyError, AttributeError):
            raise Rejected(f"endpoint {endpoint} has no cluster {cluster:#06x}") from None

    @contextlib.asynccontextmanager
    async def _calling(self, what: str) -> AsyncIterator[None]:
        """Put a time limit around a call, and its failures in our words."""
        app = self._running()
        try:
            async with asyncio.timeout(CALL_SECONDS):
                yield
        except TimeoutError as error:
            raise DeviceUnreachable(f"{what}: no answer in time") from error
        except exceptions.DeliveryError as error:
            raise DeviceUnreachable(f"{what}: {said(error)}") from error
        except (exceptions.ZigbeeException, exceptions.RadioException) as error:
            raise DeviceUnreachable(f"{what}: {said(error)}") from error
        except (AttributeError, AssertionError) as error:
            if self._app is app:
                raise
            raise StickAway from error  # the library's state of a stick that went meanwhile

    def _attach(self, device: BaseDevice) -> None:
        """Hear what a device reports."""
        if not isinstance(device, ZigbeeDevice) or not device.is_initialized:
            return
        ieee = str(device.ieee)
        if self._attached.get(ieee) is device:
            return
        self._attached[ieee] = device
        for endpoint in device.non_zdo_endpoints:
            for cluster in endpoint.in_clusters.values():
                for event in (AttributeReportedEvent.event_type, AttributeUpdatedEvent.event_type):
                    cluster.on_event(event, lambda event, ieee=ieee: self._take(ieee, event))
            if IasZone.cluster_id in endpoint.in_clusters:
                self._attach_zone(device, endpoint)

    def _take(self, ieee: str, event: AttributeReportedEvent | AttributeUpdatedEvent) -> None:
        raw = plain(event.value)
        if raw is not None:
            self._ears.reported(ieee, event.endpoint_id, event.cluster_id, event.attribute_id, raw)

    def _attach_zone(self, device: ZigbeeDevice, endpoint: Any) -> None:
        ieee, number = str(device.ieee), int(endpoint.endpoint_id)
        zone = endpoint.in_clusters[IasZone.cluster_id]
        commands = IasZone.ClientCommandDefs

        def notified(_header: Any, command: Any) -> None:
            self._ears.reported(ieee, number, IasZone.cluster_id, 2, int(command.zone_status))

        async def asked(header: Any, _command: Any) -> None:
            await zone.enroll_response(
                enroll_response_code=0,
                zone_id=1,
                tsn=header.tsn,
                expect_reply=False,
                disable_default_response=True,
            )

        listen: Callable[..., Any] = device.application.register_callback_listener
        listen(device, [commands.status_change_notification.schema()], notified)
        listen(device, [commands.enroll.schema()], asked)


class _Listener:
    """The names that the library calls."""

    def __init__(self, radio: Radio) -> None:
        self._radio = radio
        self._ears = radio._ears

    def handle_message(self, sender: BaseDevice, *_args: object) -> None:
        self._ears.heard(str(sender.ieee))

    def device_joined(self, device: BaseDevice) -> None:
        self._ears.joined(str(device.ieee))

    def device_initialized(self, device: BaseDevice) -> None:
        self._radio._attach(device)
        if device.nwk != 0:
            self._ears.came(str(device.ieee))

    device_reinterviewed = device_initialized

    def device_init_failure(self, device: BaseDevice) -> None:
        log.warning("a Zigbee device could not be interviewed", extra={"ieee": str(device.ieee)})

    def device_left(self, device: BaseDevice) -> None:
        self._ears.left(str(device.ieee), for_good=False)

    def device_removed(self, device: BaseDevice) -> None:
        self._radio._attached.pop(str(device.ieee), None)
        self._ears.left(str(device.ieee), for_good=True)

    def connection_lost(self, error: BaseException | None) -> None:
        self._ears.stick_lost(said(error) if error is not None else "it was unplugged")


class _Keeper:
    """Keeps each backup beside the database, too: a damaged one must not lose the network."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / database.BACKUP

    def network_backup_created(self, backup: NetworkBackup) -> None:
        database.keep(self._path, json.dumps(backup.as_dict()))


def _radio_class(name: str) -> type[ControllerApplication]:
    module, extra = RADIOS[name]
    try:
        found: type[ControllerApplication] = importlib.import_module(module).ControllerApplication
    except ModuleNotFoundError as error:
        raise InvalidSetting(
            f"{BRANCH}.radio: {name} needs {error.name}: pip install 'twinspan[{extra}]'"
        ) from error
    return found
