"""Lets an operator look at a tenant's traffic without competing for it: what came, and what became of it.

Watchers take no part in outcomes. Who reads too slowly misses the oldest lines and is told how many. Without
a watcher the traffic pays one look at an empty tuple.
"""

from __future__ import annotations

import asyncio
import base64
import enum
import time
from collections import deque
from collections.abc import Callable

import msgspec

from gateway.errors import GatewayError, QuotaExceeded
from gateway.model.json import Json, nests_within
from gateway.model.message import Command, CommandResponse, Upload

MAX_WATCHERS = 32
MAX_LINES = 1_000
"""Lines that wait for one watcher; above it the oldest go."""
MAX_SHOWN = 16_384
"""Bytes of a payload that are shown."""
MAX_DEPTH = 64


class Passing(enum.StrEnum):
    """What can be watched."""

    TELEMETRY = "telemetry"
    EVENT = "event"
    COMMAND = "command"
    RESPONSE = "response"


class Sighting(msgspec.Struct, frozen=True, kw_only=True, rename="kebab", omit_defaults=True):
    """One message as a watcher is told of it.

    Shape:  `at` seconds since the epoch, when its outcome was known; `payload` a JSON value, text, or
            base64 as `encoding` says (`json`, `text`, `base64`); `size` bytes of the whole payload, `cut`
            when not all is shown; `status` the code that a device on HTTP would have got; `subject` names
            a command, `kept` one that waits for its device; `response-status` is what the device answered.
    """

    at: float
    tenant: str
    device: str
    kind: Passing
    status: int
    error: str | None = None
    gateway: str | None = None
    adapter: str | None = None
    address: str | None = None
    qos: int | None = None
    subject: str | None = None
    kept: bool = False
    correlation_id: str | None = None
    response_status: int | None = None
    content_type: str | None = None
    encoding: str = "text"
    payload: Json = None
    size: int = 0
    cut: bool = False
    trace: str | None = None


class Watcher:
    """One reader's lines, the newest `MAX_LINES` of them.

    Shape:  `kinds` and `device` choose; empty and None take all.
    """

    def __init__(self, tenant: str, kinds: frozenset[Passing], device: str | None) -> None:
        self._tenant = tenant
        self._kinds = kinds
        self._device = device
        self._lines: deque[Sighting] = deque()
        self._missed = 0
        self._news = asyncio.Event()
        self.is_over = False
        """True when the service stops: no more lines come."""

    def wants(self, tenant: str, device: str, kind: Passing) -> bool:
        return (
            tenant == self._tenant
            and (not self._kinds or kind in self._kinds)
            and (self._device is None or device == self._device)
        )

    def take(self, sighting: Sighting) -> None:
        if len(self._lines) >= MAX_LINES:
            self._lines.popleft()
            self._missed += 1
        self._lines.append(sighting)
        self._news.set()

    def close(self) -> None:
        self.is_over = True
        self._news.set()

    async def lines(self) -> tuple[int, list[Sighting]]:
        """Wait for news; return how many were missed before them, and them."""
        await self._news.wait()
        self._news.clear()
        missed, self._missed = self._missed, 0
        found = list(self._lines)
        self._lines.clear()
        return missed, found


class Traffic:
    """Who watches, and what they are told."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.watchers: tuple[Watcher, ...] = ()
        self._clock = clock

    def watch(
        self, tenant: str, kinds: frozenset[Passing], device: str | None
    ) -> tuple[Watcher, Callable[[], None]]:
        """Begin to watch; return the watcher and the way to end it.

        Errors: QuotaExceeded above `MAX_WATCHERS`.
        """
        if len(self.watchers) >= MAX_WATCHERS:
            raise QuotaExceeded(f"at most {MAX_WATCHERS} may watch at a time")
        watcher = Watcher(tenant, kinds, device)
        self.watchers += (watcher,)

        def end() -> None:
            self.watchers = tuple(one for one in self.watchers if one is not watcher)

        return watcher, end

    def close(self) -> None:
        """End all watching: the service stops."""
        for watcher in self.watchers:
            watcher.close()

    # --- what the rooms tell ----------------------------------------------------------------------------

    def uploaded(
        self,
        upload: Upload,
        tenant: str,
        device: str,
        trace: str,
        error: GatewayError | None = None,
        *,
        via: str | None = None,
    ) -> None:
        """An upload has its outcome."""
        kind = Passing(upload.kind.value)
        watchers = self._who(tenant, device, kind)
        if not watchers:
            return
        encoding, payload = _shown(upload.payload)
        self._tell(
            watchers,
            Sighting(
                at=self._clock(),
                tenant=tenant,
                device=device,
                kind=kind,
                status=202 if error is None else error.status,
                error=None if error is None else error.message,
                gateway=via,
                adapter=upload.adapter.value,
                address=upload.address or None,
                qos=upload.qos,
                content_type=upload.content_type,
                encoding=encoding,
                payload=payload,
                size=len(upload.payload),
                cut=len(upload.payload) > MAX_SHOWN,
                trace=trace,
            ),
        )

    def commanded(
        self, command: Command, trace: str, error: GatewayError | None, *, is_kept: bool = False
    ) -> None:
        """A command reached a device's link, or did not, or is kept until the device is back."""
        watchers = self._who(command.tenant, command.device, Passing.COMMAND)
        if not watchers:
            return
        encoding, payload = _shown(command.payload)
        self._tell(
            watchers,
            Sighting(
                at=self._clock(),
                tenant=command.tenant,
                device=command.device,
                kind=Passing.COMMAND,
                status=202 if error is None else error.status,
                error=None if error is None else error.message,
                subject=command.name,
                kept=is_kept,
                correlation_id=command.correlation_id,
                content_type=command.content_type,
                encoding=encoding,
                payload=payload,
                size=len(command.payload),
                cut=len(command.payload) > MAX_SHOWN,
                trace=trace,
            ),
        )

    def responded(self, response: CommandResponse, trace: str, error: GatewayError | None) -> None:
        """A device's answer reached who waits for it, or did not."""
        watchers = self._who(response.tenant, response.device, Passing.RESPONSE)
        if not watchers:
            return
        encoding, payload = _shown(response.payload)
        self._tell(
            watchers,
            Sighting(
                at=self._clock(),
                tenant=response.tenant,
                device=response.device,
                kind=Passing.RESPONSE,
                status=202 if error is None else error.status,
                error=None if error is None else error.message,
                gateway=response.via,
                adapter=response.adapter or None,
                correlation_id=response.correlation_id,
                response_status=response.status,
                content_type=response.content_type,
                encoding=encoding,
                payload=payload,
                size=len(response.payload),
                cut=len(response.payload) > MAX_SHOWN,
                trace=trace,
            ),
        )

    def _who(self, tenant: str, device: str, kind: Passing) -> list[Watcher]:
        return [one for one in self.watchers if one.wants(tenant, device, kind)]

    @staticmethod
    def _tell(watchers: list[Watcher], sighting: Sighting) -> None:
        for watcher in watchers:
            watcher.take(sighting)


def _shown(payload: bytes) -> tuple[str, Json]:
    """Return how a payload is written, and it: JSON where it is JSON, text where it is text."""
    if len(payload) <= MAX_SHOWN:
        try:
            value: Json = msgspec.json.decode(payload)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            pass
        else:
            if nests_within(value, MAX_DEPTH):
                return "json", value
    part = payload[:MAX_SHOWN]
    try:
        return "text", part.decode()
    except UnicodeDecodeError:
        return "base64", base64.b64encode(part).decode()
