"""What is counted about the relay of one tenant."""

from __future__ import annotations

from functools import partial

from gateway.model.message import Kind
from gateway.observe.metrics import Metrics
from gateway.store.relay import RelaySpool


class RelayMeters:
    """The relay's metrics with their labels filled in."""

    def __init__(self, metrics: Metrics, tenant: str) -> None:
        self._tenant = tenant
        self._metrics = metrics
        self._seconds = {
            kind: metrics.elsewhere.remote_seconds.labels(tenant, kind.value) for kind in Kind
        }
        self._accepted = {
            kind: metrics.elsewhere.remote_messages.labels(tenant, kind.value, "accepted")
            for kind in Kind
        }

    def watch(self, spool: RelaySpool) -> None:
        """Show how much waits."""
        for kind in Kind:
            labels = (self._tenant, kind.value)
            self._metrics.elsewhere.remote_waiting.watch(labels, partial(_messages, spool, kind))
            self._metrics.elsewhere.remote_waiting_bytes.watch(labels, partial(_bytes, spool, kind))

    def delivered(self, kind: Kind, seconds: float) -> None:
        """The remote has accepted a message."""
        self._accepted[kind].inc()
        self._seconds[kind].observe(seconds)

    def outcome(self, kind: Kind, outcome: str) -> None:
        """Another outcome: sent (QoS 0), rejected, released, unanswered."""
        self._metrics.elsewhere.remote_messages.labels(self._tenant, kind.value, outcome).inc()

    def refused(self, kind: Kind) -> None:
        """A device was told that we do not take its message."""
        self._metrics.elsewhere.remote_messages.labels(self._tenant, kind.value, "not_taken").inc()

    def lost(self, cause: str, kind: Kind, count: int) -> None:
        """Messages that nobody will get."""
        self._metrics.elsewhere.remote_loss.labels(self._tenant, kind.value, cause).inc(count)

    def command(self, outcome: str) -> None:
        """What a device's side made of a command."""
        self._metrics.elsewhere.remote_commands.labels(self._tenant, outcome).inc()

    def connected(self, is_up: bool) -> None:
        """Whether the remote has let us in."""
        self._metrics.elsewhere.remote_up.labels(self._tenant).set(float(is_up))

    def ended(self, reason: str) -> None:
        """A connection, or a try to make one, has ended."""
        self._metrics.elsewhere.remote_connections.labels(self._tenant, reason).inc()


def _messages(spool: RelaySpool, kind: Kind) -> float:
    return float(spool.depths[kind].messages)


def _bytes(spool: RelaySpool, kind: Kind) -> float:
    return float(spool.depths[kind].bytes)
