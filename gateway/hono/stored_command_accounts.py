"""How much waits on disk for devices, by device, tenant and in all, and what is too much."""

from __future__ import annotations

import asyncio

import msgspec

from gateway.config.hono import StoredCommands as Settings
from gateway.errors import Undeliverable
from gateway.hono.stored_command_terms import Terms
from gateway.observe.metrics import Metrics

FULL = "too many commands wait for the device"
BYTES_FULL = "too many bytes of commands wait for devices"


class Over(msgspec.Struct, frozen=True):
    """What became of a command that a link had: delivered, or the status and text of its failure."""

    sequence: int
    size: int
    failure: tuple[int, str] | None = None


class Line(msgspec.Struct, eq=False):
    """One device's commands.

    Shape:  `is_woken` says that a link came while the line was busy; `was_sent` that its first command may
            have been under way when the last process ended; `over` is to be noted on disk before the next
            command is read.
            `refusals` counts tries in a row that the device did not take.
    """

    tenant: str
    device: str
    count: int = 0
    is_busy: bool = False
    is_woken: bool = False
    was_sent: bool = False
    refusals: int = 0
    timer: asyncio.TimerHandle | None = None
    over: Over | None = None

    def stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Accounts:
    """The lines, and what they hold in all."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._lines: dict[tuple[str, str], Line] = {}
        self._counts: dict[str, int] = {}
        self._bytes: dict[str, int] = {}
        self._all_bytes = 0

    def find(self, tenant: str, device: str) -> Line | None:
        """Return a device's line, if something waits or moves there."""
        return self._lines.get((tenant, device))

    def line(self, tenant: str, device: str) -> Line:
        """Return a device's line, a new one where there is none."""
        line = self._lines.get((tenant, device))
        if line is None:
            line = self._lines[tenant, device] = Line(tenant, device)
        return line

    def drop(self, line: Line) -> None:
        """Forget a line in which nothing waits."""
        line.stop_timer()
        self._lines.pop((line.tenant, line.device), None)

    def holds(self, tenant: str) -> bool:
        """True where something of a tenant waits."""
        return tenant in self._counts

    def stop(self) -> None:
        """No line tries again by itself."""
        for line in self._lines.values():
            line.stop_timer()

    def refusal(self, line: Line, size: int, terms: Terms) -> Undeliverable | None:
        """Return why a command of `size` bytes has no room; None where it has."""
        settings = self._settings
        if line.count >= terms.max_per_device:
            return Undeliverable(FULL)
        of_tenant = self._bytes.get(line.tenant, 0) + size
        if of_tenant > settings.max_bytes_per_tenant or self._all_bytes + size > settings.max_bytes:
            return Undeliverable(BYTES_FULL)
        return None

    def add(self, line: Line, count: int, size: int) -> None:
        """Count commands that came (or went, with negative numbers)."""
        tenant = line.tenant
        line.count += count
        self._all_bytes += size
        self._counts[tenant] = self._counts.get(tenant, 0) + count
        self._bytes[tenant] = self._bytes.get(tenant, 0) + size
        self._metrics.stored_commands_waiting.labels(tenant).set(self._counts[tenant])
        self._metrics.stored_commands_bytes.set(self._all_bytes)
        if not self._counts[tenant]:
            del self._counts[tenant], self._bytes[tenant]
            self._metrics.stored_commands_waiting.remove(tenant)

    def tell(self, line: Line, outcome: str) -> None:
        """Count an outcome."""
        self._metrics.stored_commands.labels(line.tenant, outcome).inc()
