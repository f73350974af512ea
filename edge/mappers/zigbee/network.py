"""All Zigbee devices of a node: one coordinator, found again when it was away, and who cares for each device.

The stick is opened by its path each time anew: a path below /dev/serial/by-id may come to mean another tty.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edge.mappers.driver import Driver
from edge.mappers.family import Surroundings
from edge.mappers.readings import rules_of
from edge.mappers.zigbee import database, meanings
from edge.mappers.zigbee.codecs import Raw
from edge.mappers.zigbee.coordinator import MAX_PERMIT, CoordinatorDriver
from edge.mappers.zigbee.device import ZigbeeDriver
from edge.mappers.zigbee.places import ieee_of, is_coordinator, places_of
from edge.mappers.zigbee.plan import Plan
from edge.mappers.zigbee.proposal import propose
from edge.mappers.zigbee.radio import Network, NetworkRefused, Radio, StickAway
from edge.mappers.zigbee.reporting import Told
from edge.mappers.zigbee.waiting import Waiting
from gateway.errors import GatewayError, NotFound, Rejected
from gateway.model.json import JsonObject
from gateway.runtime.backoff import Backoff
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.models import ModelView

log = logging.getLogger(__name__)

RETRY_FIRST, RETRY_CAP = 0.5, 5.0
"""Seconds between tries to open the stick."""
OBEYED = "permit.json"
PERMIT_STEP = 10
"""What is left of a permit is told in steps of so many seconds, not each second."""
OFFER_SECONDS = 3_600.0
"""How often devices that are still there are offered again: what was not seen for a day is forgotten."""
MAX_LOOKS = 8
"""Devices that are asked about colours and zones at once."""
LOOKS = {meanings.COLOUR: 0x400A, meanings.ZONE: 1}
"""Attributes that say what a device is."""


class ZigbeeFamily:
    """The family; see `edge.mappers.family.Family`."""

    def __init__(self, surroundings: Surroundings) -> None:
        self.plan = Plan.read(surroundings.settings)
        self.clock = surroundings.clock
        self.count = surroundings.count
        self.told = Told(surroundings.folder)
        self._around = surroundings
        self._radio = Radio(self.plan, surroundings.folder, self)
        self._network: Network | None = None
        self._state, self._why = "starting", "the coordinator is being started"
        self._damage = ""
        self._lost = asyncio.Event()
        self._permit_until = 0
        self._drivers: dict[str, list[ZigbeeDriver]] = {}
        self._waiting: dict[str, dict[str, Waiting]] = {}
        self._cares: dict[ZigbeeDriver, asyncio.Task[None]] = {}
        self._listeners: list[Callable[[], None]] = []
        self._looks: set[str] = set()
        self._group: asyncio.TaskGroup | None = None

    # --- the coordinator ----------------------------------------------------------------------------

    async def run(self, ready: Callable[[], None]) -> None:
        await asyncio.to_thread(self.told.load)
        ready()
        backoff = Backoff(RETRY_FIRST, RETRY_CAP)
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for drivers in self._drivers.values():
                    for driver in drivers:
                        self._care_for(driver)
                group.create_task(self._offer_again())
                while True:
                    await self._work(backoff)
                    await asyncio.sleep(backoff.next())
        finally:
            self._group = None
            await self._radio.stop()

    async def _work(self, backoff: Backoff) -> None:
        """Start the coordinator, and stay until it is lost."""
        self._lost.clear()
        try:
            await self._check_database()
            self._network = await self._radio.start()
        except NetworkRefused as error:
            self._became("refused", error.message)
            return
        except StickAway as error:
            self._became("away", error.message)
            return
        except sqlite3.OperationalError as error:
            self._became("away", f"{database.NAME} cannot be used now: {error}")
            return
        except sqlite3.Error as error:
            await self._set_aside(str(error))
            return
        backoff.reset()
        self._became("up", "")
        log.info("the Zigbee coordinator works", extra={"channel": self._network.channel})
        for seen in self._radio.all_seen():
            self.came(seen.ieee)
        try:
            await self._lost.wait()
        finally:
            await self._radio.stop()

    async def _check_database(self) -> None:
        path = self._around.folder / database.NAME
        damage = await asyncio.to_thread(database.find_damage, path)
        if damage:
            await self._set_aside(damage)

    async def _set_aside(self, damage: str) -> None:
        path = self._around.folder / database.NAME
        aside = await asyncio.to_thread(database.set_aside, path, damage, self.clock())
        self._damage = f"the database was damaged and is now {aside.name}; devices are asked anew"

    def _became(self, state: str, why: str) -> None:
        if (state, why) != (self._state, self._why) and why:
            log.warning("the Zigbee coordinator does not work", extra={"cause": why})
        self._state, self._why = state, why
        if state != "up":
            self._permit_until = 0  # a stick that starts lets nobody join
        self._tell()
        if state != "up":
            for drivers in self._drivers.values():
                for driver in drivers:
                    driver.lose(why)

    def _tell(self) -> None:
        for changed in list(self._listeners):
            changed()

    def facts(self) -> JsonObject:
        names = ("state", "why", "channel", "panId", "extendedPanId", "ieee", "devices", "firmware")
        facts: JsonObject = {"is_up": self._state == "up", "device": self.plan.device}
        facts |= {"radio": self.plan.radio, "database": self._damage}
        facts |= {name: value for name in names if isinstance(value := self.fact(name), str | int)}
        return {name: value for name, value in facts.items() if value != ""}

    # --- the coordinator as a Device ------------------------------------------------------------------

    def fact(self, name: str) -> object:
        """Return a property of the coordinator."""
        network = self._network
        match name:
            case "state":
                return self._state
            case "why":
                return self._why or self._damage
            case "permitJoin":
                left = (self._permit_until - self.clock()) / 1_000
                return max(0, math.ceil(left / PERMIT_STEP) * PERMIT_STEP)
            case "devices":
                return len(self._radio.all_seen())
        if network is None:
            return None
        known: dict[str, object] = {
            "channel": network.channel,
            "panId": network.pan_id,
            "extendedPanId": network.extended_pan_id,
            "ieee": network.ieee,
            "firmware": f"{network.model} {network.firmware}".strip(),
        }
        return known.get(name)

    def why_away(self) -> str:
        return self._why if self._state != "up" else ""

    async def permit(self, seconds: int) -> None:
        await self.radio().permit(seconds)
        self._permit_until = self.clock() + seconds * 1_000
        self._tell()

    def obeyed(self) -> str:
        try:
            found = json.loads(self._obeyed_path.read_text())
        except (OSError, ValueError):
            return ""
        return found if isinstance(found, str) else ""

    def note_obeyed(self, text: str) -> None:
        part = self._obeyed_path.with_suffix(".part")
        try:
            part.write_text(json.dumps(text))
            part.replace(self._obeyed_path)
        except OSError as error:
            log.warning("that joining was permitted is not kept", extra={"cause": str(error)})

    @property
    def _obeyed_path(self) -> Path:
        return self._around.folder / OBEYED

    def listen(self, changed: Callable[[], None]) -> None:
        self._listeners.append(changed)

    def unlisten(self, changed: Callable[[], None]) -> None:
        self._listeners.remove(changed)

    # --- orders ---------------------------------------------------------------------------------------

    def orders(self) -> Sequence[str]:
        return ("permit-join", "remove")

    async def order(self, name: str, arguments: Mapping[str, str]) -> JsonObject:
        if name == "permit-join":
            text = arguments.get("seconds", "60")
            if not text.isdecimal() or int(text) > MAX_PERMIT:
                raise Rejected(f"seconds: expected 0 to {MAX_PERMIT}, got {text[:20]!r}")
            await self.permit(int(text))
            return {"permitJoin": int(text)}
        if name == "remove":
            ieee = arguments.get("ieee", "").lower()
            if ieee not in {seen.ieee for seen in self._radio.all_seen()}:
                raise NotFound(f"no device {ieee[:40]!r} in this network")
            await self._radio.remove(ieee)
            return {"removed": ieee}
        raise NotFound(f"no order {name!r}: there are {', '.join(self.orders())}")

    # --- devices --------------------------------------------------------------------------------------

    def driver(self, view: DeviceView, model: ModelView | None) -> Driver:
        rules = rules_of(view, model)
        if is_coordinator(view):
            return CoordinatorDriver(tuple(view.properties), rules, self)
        ieee = ieee_of(view)
        places, faults = places_of(view)
        return ZigbeeDriver(ieee, str(view.key), places, faults, rules, self)

    def radio(self) -> Radio:
        if self._state != "up":
            raise StickAway(self._why)
        return self._radio

    def waiting(self, ieee: str, owner: str) -> Waiting:
        return self._waiting.setdefault(ieee, {}).setdefault(owner, Waiting())

    def attach(self, driver: ZigbeeDriver) -> None:
        drivers = self._drivers.setdefault(driver.ieee, [])
        if driver not in drivers:
            drivers.append(driver)
            self._care_for(driver)

    def detach(self, driver: ZigbeeDriver) -> None:
        drivers = self._drivers.get(driver.ieee, [])
        if driver in drivers:
            drivers.remove(driver)
        if not drivers:
            self._drivers.pop(driver.ieee, None)
        task = self._cares.pop(driver, None)
        if task is not None:
            task.cancel()

    def _care_for(self, driver: ZigbeeDriver) -> None:
        if self._group is not None and driver not in self._cares:
            task = self._group.create_task(self._care(driver), name=f"zigbee {driver.ieee}")
            self._cares[driver] = task

    async def _care(self, driver: ZigbeeDriver) -> None:
        """Attend to one device whenever there is something to do."""
        while True:
            try:
                async with asyncio.timeout(driver.wakes_in):
                    await driver.woken.wait()
            except TimeoutError:
                pass
            driver.woken.clear()
            try:
                await driver.attend()
            except GatewayError as error:
                self._failed(driver, error)
            except Exception:  # the top of a device's task: a bug with one must not end the others
                log.exception(
                    "a Zigbee device could not be attended to", extra={"ieee": driver.ieee}
                )

    def _failed(self, driver: ZigbeeDriver, error: GatewayError) -> None:
        log.info("a Zigbee device failed", extra={"ieee": driver.ieee, "cause": error.message})
        driver.fail(error)

    # --- what the radio hears ---------------------------------------------------------------------------

    def heard(self, ieee: str) -> None:
        for driver in self._drivers.get(ieee, ()):
            driver.heard(self.clock())

    def reported(self, ieee: str, endpoint: int, cluster: int, attribute: int, raw: Raw) -> None:
        for driver in self._drivers.get(ieee, ()):
            driver.take((endpoint, cluster, attribute), raw, self.clock())

    def joined(self, ieee: str) -> None:
        self.told.forget(ieee)
        for driver in self._drivers.get(ieee, ()):
            driver.forget()

    def came(self, ieee: str) -> None:
        self._offer(ieee)
        self._tell()
        seen = self._radio.seen(ieee)
        wants = seen is not None and any(seen.endpoint_with(cluster) for cluster in LOOKS)
        if (
            wants
            and self._group is not None
            and len(self._looks) < MAX_LOOKS
            and ieee not in self._looks
        ):
            self._looks.add(ieee)
            self._group.create_task(self._look(ieee), name=f"zigbee look {ieee}")

    async def _look(self, ieee: str) -> None:
        """Ask a new device what colours it can show and what its zone is, and offer it again."""
        try:
            seen = self._radio.seen(ieee)
            for cluster, attribute in LOOKS.items():
                endpoint = 0 if seen is None else seen.endpoint_with(cluster)
                if endpoint and self._radio.cached(ieee, endpoint, cluster, attribute) is None:
                    await self._radio.read(ieee, endpoint, cluster, [attribute])
            self._offer(ieee)
        except GatewayError as error:
            log.info(
                "what a Zigbee device is stays open", extra={"ieee": ieee, "cause": error.message}
            )
        except Exception:  # the top of a task: what one device answers must not end the others
            log.exception("a Zigbee device could not be looked at", extra={"ieee": ieee})
        finally:
            self._looks.discard(ieee)

    async def _offer_again(self) -> None:
        while True:
            await asyncio.sleep(OFFER_SECONDS)
            oldest = self.clock() - self.plan.battery_silence * 1_000
            for seen in self._radio.all_seen():
                if seen.last_seen >= oldest:
                    self._offer(seen.ieee)

    def _offer(self, ieee: str) -> None:
        seen = self._radio.seen(ieee)
        if seen is not None and seen.is_ready:
            self._around.discovered(propose(seen))

    def left(self, ieee: str, *, for_good: bool) -> None:
        for driver in self._drivers.get(ieee, ()):
            driver.lose("the device has left the network")
        if for_good:
            self._waiting.pop(ieee, None)
            self.told.forget(ieee)
            self._around.lost(ieee)
        self._tell()

    def stick_lost(self, why: str) -> None:
        if self._state == "up":
            self._became("away", f"{self.plan.device}: {why}")
        self._lost.set()
