"""Applications hear when devices come and go: connection events, where they are switched on.

A device whose arrival could not be told is not let in. Of connections that the gateway ends because the
device or its tenant went, nothing is told. What `logging` tells are the adapters' own lines in the log.
Source: Hono, Event API, device connection notification; Common Configuration, connection events.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import msgspec

from gateway.errors import GatewayError, InvalidSetting, Undeliverable
from gateway.hono.adapters.admission import Admission, Lease
from gateway.model.message import Adapter, Kind, Message, Principal
from gateway.model.ports import Done, Downstream
from gateway.observe.tracing import Tracer

log = logging.getLogger(__name__)

CONTENT_TYPE = "application/vnd.eclipse-hono-dc-notification+json"
EVENTS = "events"
PRODUCERS = ("none", "logging", EVENTS)
UNKNOWN = "unknown"
MAX_REMOTE_ID = 1_024


def with_events(
    producer: str, admission: Admission, downstream: Downstream, tracer: Tracer
) -> Admission:
    """Return what adapters ask, by the setting `hono.connection_events`.

    Errors: InvalidSetting.
    """
    if producer not in PRODUCERS:
        raise InvalidSetting(
            f"hono.connection_events: expected one of {', '.join(PRODUCERS)}, got {producer!r}"
        )
    return ConnectionEvents(admission, downstream, tracer) if producer == EVENTS else admission


class ConnectionEvents:
    """The port `Admission` before another one, with an event for each device that comes and goes.

    Shape:  `clock` gives seconds since the epoch.
    """

    def __init__(
        self,
        admission: Admission,
        downstream: Downstream,
        tracer: Tracer,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._admission = admission
        self._downstream = downstream
        self._tracer = tracer
        self._clock = clock

    def admit(
        self,
        principal: Principal,
        adapter: Adapter,
        close: Callable[[GatewayError], None],
        done: Callable[[Lease | GatewayError], None],
        *,
        cipher_suite: str = "UNKNOWN",
        remote_id: str = "",
    ) -> None:
        """Ask the other admission, then tell of the arrival.

        Errors (through `done`): as the other's; Undeliverable when nobody took the event.
        """
        stay = _Stay(self, principal, adapter, remote_id[:MAX_REMOTE_ID] or UNKNOWN, close)

        def admitted(found: Lease | GatewayError) -> None:
            if isinstance(found, GatewayError):
                done(found)
            else:
                stay.lease = found
                self.tell(stay, "connected", told)

        def told(error: GatewayError | None) -> None:
            if error is None and not stay.is_over:
                done(stay)
                return
            stay.withdraw()
            done(Undeliverable() if error is not None else stay.reason)

        self._admission.admit(
            principal, adapter, stay.expel, admitted, cipher_suite=cipher_suite, remote_id=remote_id
        )

    def tell(self, stay: _Stay, cause: str, done: Done) -> None:
        """Send one event; `done` hears its outcome."""
        who = stay.principal
        span = self._tracer.start("send connection event", None, "producer")
        payload = {"cause": cause, "remote-id": stay.remote_id, "source": stay.adapter.value}
        message = Message(
            tenant=who.tenant,
            device=who.device,
            kind=Kind.EVENT,
            qos=1,
            payload=msgspec.json.encode(payload),
            at=self._clock(),
            trace=span.context,
            content_type=CONTENT_TYPE,
            adapter=stay.adapter,
        )

        def sent(error: GatewayError | None) -> None:
            span.end(error)
            if error is not None:
                facts = {"tenant": who.tenant, "device": who.device, "cause": error.message}
                log.warning("a connection event was not taken", extra=facts)
            done(error)

        self._downstream.send(message, sent)


class _Stay:
    """One device's connection from its admission to its end."""

    __slots__ = (
        "_close",
        "_events",
        "adapter",
        "is_over",
        "lease",
        "principal",
        "reason",
        "remote_id",
    )

    def __init__(
        self,
        events: ConnectionEvents,
        principal: Principal,
        adapter: Adapter,
        remote_id: str,
        close: Callable[[GatewayError], None],
    ) -> None:
        self._events = events
        self._close = close
        self.principal = principal
        self.adapter = adapter
        self.remote_id = remote_id
        self.lease: Lease | None = None
        self.is_over = False
        self.reason: GatewayError = Undeliverable()

    def expel(self, reason: GatewayError) -> None:
        """The device or its tenant has gone: end the connection, tell nobody."""
        self.is_over = True
        self.reason = reason
        self._close(reason)

    def withdraw(self) -> None:
        """Give the place back without a word."""
        lease, self.lease = self.lease, None
        if lease is not None:
            lease.release()

    def release(self) -> None:
        """Give the place back and tell of the departure; a second call changes nothing."""
        if self.lease is None:
            return
        self.withdraw()
        if not self.is_over:
            self._events.tell(self, "disconnected", _nothing)


def _nothing(_error: GatewayError | None) -> None:
    """The device has gone: there is nobody to tell."""
