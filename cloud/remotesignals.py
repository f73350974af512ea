"""Events of things elsewhere, as the frames of one WebSocket session bring them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final
from urllib.parse import quote

from cloud.remotemirror import Mirror
from gateway.errors import GatewayError
from gateway.model.ports import SignalListener
from gateway.model.thing import ThingEvent
from gateway.observe.edge_metrics import EdgeMetrics
from gateway.wire.ditto.envelope import decode
from gateway.wire.ditto.read import signal_of
from gateway.wire.ditto.signals import Response, Sender

log = logging.getLogger(__name__)

START: Final = "START-SEND-EVENTS"
ACKNOWLEDGED: Final = f"{START}:ACK"
_NOBODY: Final = Sender(())


class RemoteSignals:
    """Port `ThingSignals`: tells listeners what the mirror has seen change."""

    def __init__(self) -> None:
        self._listeners: list[SignalListener] = []

    def listen(self, listener: SignalListener) -> Callable[[], None]:
        """Add a listener; returns the way to end it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def add_change_guard(self, guard: Callable[[ThingEvent], None]) -> Callable[[], None]:
        """A Ditto elsewhere asks nobody before it stores: bad wishes are answered after the fact."""
        del guard
        return lambda: None

    def tell(self, event: ThingEvent) -> None:
        """Hand an event on."""
        for listener in tuple(self._listeners):
            listener.on_event(event)


class Frames:
    """Reads the frames of one session.

    Shape:  `acknowledged` is told that the subscription is in force, `refused` which error the remote sent,
            `suspicious` that something came which nobody could read: it may have been an event.
    """

    def __init__(
        self,
        mirror: Mirror,
        metrics: EdgeMetrics,
        *,
        acknowledged: Callable[[], None],
        refused: Callable[[int, str], None],
        suspicious: Callable[[], None],
    ) -> None:
        self._mirror = mirror
        self._metrics = metrics
        self._acknowledged = acknowledged
        self._refused = refused
        self._suspicious = suspicious

    def take(self, text: str) -> None:
        """Read one text frame."""
        if text.startswith(ACKNOWLEDGED):
            self._acknowledged()
            return
        try:
            signal = signal_of(decode(text), _NOBODY)
        except GatewayError as error:
            log.warning("frame not read", extra={"cause": error.message[:300]})
            self._count("unreadable")
            self._suspicious()
            return
        match signal:
            case ThingEvent():
                self._count(self._mirror.event(signal))
            case Response() if signal.status >= 400:
                self._refused(signal.status, _text(signal))

    def _count(self, outcome: str) -> None:
        self._metrics.remote_events.labels(outcome).inc()


def _text(error: Response) -> str:
    value = error.value if isinstance(error.value, dict) else {}
    return f"{value.get('error', error.status)}: {value.get('message', '')}"[:500]


def start_events(namespaces: Iterable[str]) -> str:
    """Return the control message that asks for the events of these namespaces."""
    listed = ",".join(quote(one, safe="") for one in sorted(namespaces))
    return f"{START}?namespaces={listed}"
