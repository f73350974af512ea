"""What the actions of node jobs do on this node. Nothing of a job reaches a shell.

Source: KubeEdge reference, section 19.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import msgspec

from edge.machine import measure
from edge.overlay import Overlay, read_fields
from edge.ports import EdgeApi, Images
from edge.upgrades import Upgrades, check_version, is_same, running_version
from gateway.errors import BadRequest, GatewayError
from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.devices import mapping, number, text
from gateway.wire.cloudedge.subjects import Subject
from gateway.wire.cloudedge.tasks import (
    BACK_UP,
    CHECK,
    CONFIG_JOB,
    CONFIRMATION,
    PREPULL_JOB,
    PULL,
    ROLL_BACK,
    UPDATE,
    UPGRADE,
    UPGRADE_JOB,
)

log = logging.getLogger(__name__)

MAX_USE = 0.8
"""Part of a supply that may be in use, so that a job may run."""
CPU_SECONDS = 1.0
MAX_IMAGES, MAX_IMAGE, MAX_RETRIES = 100, 300, 10
RETRY_SECONDS = 0.5
DEFAULT_SECONDS = 300.0
NO_RUNTIME = "there is no container runtime at this node"
RESTART = "it counts from the next start of EdgeCore"


@dataclass(frozen=True, slots=True)
class Task:
    """A job as it came; `has_run` says that the upgrade command was started already."""

    kind: str
    job: str
    spec: JsonObject
    has_run: bool = False

    @property
    def seconds(self) -> float:
        return float(max(0, number(self.template.get("timeoutSeconds")))) or DEFAULT_SECONDS

    @property
    def template(self) -> JsonObject:
        return (
            mapping(self.spec.get("imagePrePullTemplate"))
            if self.kind == PREPULL_JOB
            else self.spec
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an action ended; `pauses` leaves the rest until somebody confirms."""

    ok: bool = True
    reason: str = ""
    extend: str = ""
    pauses: bool = False


Usage = Callable[[str], Awaitable[float]]
"""Returns which part of `cpu`, `mem` or `disk` is in use. Errors: BadRequest for another name."""
Action = Callable[[Task], Awaitable[Outcome]]


class TaskActions:
    """The actions of all kinds of jobs."""

    def __init__(
        self,
        overlay: Overlay,
        upgrades: Upgrades,
        api: EdgeApi,
        usage: Usage,
        images: Images | None = None,
    ) -> None:
        self._overlay = overlay
        self._upgrades = upgrades
        self._api = api
        self._usage = usage
        self._images = images
        self._table: Mapping[tuple[str, str], Action] = MappingProxyType(
            {
                (PREPULL_JOB, CHECK): self._check,
                (PREPULL_JOB, PULL): self._pull,
                (CONFIG_JOB, CHECK): self._check_fields,
                (CONFIG_JOB, BACK_UP): self._keep_settings,
                (CONFIG_JOB, UPDATE): self._update,
                (CONFIG_JOB, ROLL_BACK): self._restore_settings,
                (UPGRADE_JOB, CHECK): self._check_upgrade,
                (UPGRADE_JOB, CONFIRMATION): self._confirm,
                (UPGRADE_JOB, BACK_UP): self._back_up,
                (UPGRADE_JOB, UPGRADE): self._upgrade,
                (UPGRADE_JOB, ROLL_BACK): self._roll_back,
            }
        )

    async def run(self, task: Task, action: str) -> Outcome:
        """Do an action; what goes wrong is its outcome."""
        found = self._table.get((task.kind, action))
        if found is None:
            return Outcome(False, f"{task.kind} has no action {action[:100]!r}")
        try:
            return await found(task)
        except GatewayError as error:
            return Outcome(False, error.message, _versions(task, action))
        except TimeoutError:
            return Outcome(False, f"took longer than {task.seconds:g} s", _versions(task, action))
        except OSError as error:
            log.warning("action of a job failed", extra={"job": task.job, "cause": str(error)})
            return Outcome(False, error.strerror or str(error), _versions(task, action))

    async def _check(self, task: Task) -> Outcome:
        items = task.template.get("checkItems")
        for item in items if isinstance(items, list) else []:
            used = await self._usage(text(item))
            if used > MAX_USE:
                return Outcome(
                    False, f"{item}: {used:.0%} are in use, at most {MAX_USE:.0%} may be"
                )
        return Outcome()

    # --- images -------------------------------------------------------------------------------------

    async def _pull(self, task: Task) -> Outcome:
        wanted = task.template.get("images")
        names = [text(each) for each in (wanted if isinstance(wanted, list) else [])]
        if not names or len(names) > MAX_IMAGES or any(not 0 < len(n) <= MAX_IMAGE for n in names):
            raise BadRequest(
                f"images: expected 1 to {MAX_IMAGES} names of up to {MAX_IMAGE} characters"
            )
        if self._images is None:
            states: list[Json] = [_state(name, NO_RUNTIME) for name in names]
            return Outcome(False, NO_RUNTIME, msgspec.json.encode(states).decode())
        secret = await self._secret(text(task.template.get("imageSecrets")))
        async with asyncio.timeout(task.seconds):
            states = [await self._pull_one(self._images, name, secret, task) for name in names]
        failed = sum(mapping(state).get("status") != "True" for state in states)
        reason = f"{failed} of {len(names)} images could not be pulled" if failed else ""
        return Outcome(not failed, reason, msgspec.json.encode(states).decode())

    async def _pull_one(
        self, images: Images, name: str, secret: JsonObject | None, task: Task
    ) -> JsonObject:
        why = ""
        for attempt in range(min(MAX_RETRIES, max(0, number(task.template.get("retryTimes")))) + 1):
            if attempt:
                await asyncio.sleep(RETRY_SECONDS)
            try:
                await images.pull(name, secret, task.seconds)
            except GatewayError as error:
                why = error.message
            else:
                return _state(name)
        return _state(name, why)

    async def _secret(self, name: str) -> JsonObject | None:
        """Return the Secret `<namespace>/<name>`. Errors: BadRequest; what the API refused."""
        if not name:
            return None
        namespace, _, own = name.partition("/")
        if not namespace or not own or "/" in own:
            raise BadRequest("imageSecrets: expected NAMESPACE/NAME")
        return await self._api.query(Subject(namespace, "secret", own))

    # --- settings -----------------------------------------------------------------------------------

    async def _check_fields(self, task: Task) -> Outcome:
        await asyncio.to_thread(self._overlay.with_changes, _fields(task))
        return Outcome()

    async def _keep_settings(self, _task: Task) -> Outcome:
        await asyncio.to_thread(self._overlay.back_up)
        return Outcome()

    async def _update(self, task: Task) -> Outcome:
        values = _fields(task)
        await asyncio.to_thread(self._overlay.write, values)
        log.info("settings changed by a job", extra={"job": task.job, "cause": ", ".join(values)})
        return Outcome(reason=f"restart needed: {RESTART}")

    async def _restore_settings(self, _task: Task) -> Outcome:
        await asyncio.to_thread(self._overlay.restore)
        return Outcome()

    # --- upgrades -----------------------------------------------------------------------------------

    async def _check_upgrade(self, task: Task) -> Outcome:
        check_version(task.spec.get("version"))
        return await self._check(task)

    async def _confirm(self, task: Task) -> Outcome:
        return Outcome(pauses=task.spec.get("requireConfirmation") is True)

    async def _back_up(self, task: Task) -> Outcome:
        await asyncio.to_thread(self._overlay.back_up)
        place = await asyncio.to_thread(self._upgrades.back_up, running_version())
        log.info("store and settings copied", extra={"job": task.job, "path": str(place)})
        return Outcome(extend=_versions(task, BACK_UP))

    async def _upgrade(self, task: Task) -> Outcome:
        wanted, running = check_version(task.spec.get("version")), running_version()
        if is_same(wanted, running):
            return Outcome(extend=_versions(task, UPGRADE))
        if task.has_run:
            await self._upgrades.settle(task.seconds)
            return Outcome(
                False, f"EdgeCore came back with version {running}", f"{running},{running}"
            )
        await self._upgrades.run(wanted, task.seconds)
        return Outcome(reason=f"installed; {RESTART}", extend=_versions(task, UPGRADE))

    async def _roll_back(self, task: Task) -> Outcome:
        """Put back the settings, and the program where the command had been at work."""
        await asyncio.to_thread(self._overlay.restore)
        if task.has_run and self._upgrades.command:
            await self._upgrades.run(running_version(), task.seconds)
        return Outcome(extend=f"{running_version()},{running_version()}")


def _fields(task: Task) -> dict[str, Json]:
    return read_fields(mapping(task.spec.get("updateFields")))


def _versions(task: Task, action: str) -> str:
    """Return `<from>,<to>` where a report says it."""
    if task.kind != UPGRADE_JOB or action in (CHECK, CONFIRMATION):
        return ""
    return f"{running_version()},{text(task.spec.get('version'))[:64].replace(',', '')}"


def _state(image: str, why: str = "") -> JsonObject:
    state: JsonObject = {"image": image, "status": "False" if why else "True"}
    return {**state, "reason": why} if why else state


def usage_of(folder: Path) -> Usage:
    """Return how the supplies of this machine are measured; `folder` says which disk."""

    async def usage(item: str) -> float:
        if item == "cpu":
            busy, total = _cpu()
            await asyncio.sleep(CPU_SECONDS)
            later_busy, later = _cpu()
            return (later_busy - busy) / max(1, later - total)
        supplies = measure(folder)
        if item == "mem":
            return 1 - supplies.memory_free / max(1, supplies.memory)
        if item == "disk":
            return 1 - supplies.disk_free / max(1, supplies.disk)
        raise BadRequest(f"checkItems: expected cpu, mem or disk, got {item[:50]!r}")

    return usage


def _cpu() -> tuple[int, int]:
    """Return the ticks that the CPUs were busy, and all: the first line of /proc/stat."""
    cells = [
        int(cell) for cell in Path("/proc/stat").read_text("ascii").splitlines()[0].split()[1:9]
    ]
    idle = cells[3] + cells[4]
    return sum(cells) - idle, sum(cells)
