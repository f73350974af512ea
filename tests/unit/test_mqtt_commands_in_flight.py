"""Commands to one MQTT device that it does not acknowledge, on a clock of the test."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any, cast

from gateway.hono.adapters.mqtt_subscriptions import PATIENCE, CommandsInFlight
from gateway.wire.mqtt import packets as p
from gateway.wire.mqtt.packets import V3, V5
from gateway.wire.mqtt.properties import NONE, Properties
from gateway.wire.mqtt.reasons import Reason
from gateway.wire.mqtt.state import Acked
from tests.mqtt_sessions import a_server, feed

SECONDS = 1.0


class Timer:
    def __init__(self) -> None:
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class Clock:
    """What the in-flight commands use of a loop."""

    def __init__(self) -> None:
        self.now = 0.0
        self.due: list[tuple[float, int, Timer, Callable[[], None]]] = []
        self.count = 0

    def call_later(self, seconds: float, call: Callable[..., None], *args: object) -> Timer:
        timer = Timer()
        self.count += 1
        heapq.heappush(self.due, (self.now + seconds, self.count, timer, lambda: call(*args)))
        return timer

    def advance(self, seconds: float) -> None:
        until = self.now + seconds
        while self.due and self.due[0][0] <= until:
            self.now, _, timer, call = heapq.heappop(self.due)
            if not timer.is_cancelled:
                call()
        self.now = until

    @property
    def pending(self) -> int:
        return sum(not timer.is_cancelled for _, _, timer, _ in self.due)


class Peer:
    """A device with a session and no socket."""

    def __init__(self, receive_maximum: int, version: int = V5) -> None:
        said = Properties(receive_maximum=receive_maximum) if version == V5 else NONE
        self.session = a_server(version, properties=said)
        self.clock = Clock()
        self.loop = cast("Any", self.clock)
        self.unsent = 0
        self.ended: list[Reason | None] = []
        self.flights = CommandsInFlight(self, SECONDS)

    def flush_soon(self) -> None:
        self.session.to_send()

    def end(self, reason: Reason | None = None) -> None:
        self.ended.append(reason)

    def send(self) -> list[object]:
        told: list[object] = []
        self.flights.send("c", b"x" * 100, 1, NONE, told.append)
        return told

    def acknowledge(self, packet_id: int) -> None:
        for event in feed(self.session, p.PubAck(packet_id)):
            assert isinstance(event, Acked)
            self.flights.answered(event.packet_id, event.reason)


def test_a_connection_without_a_place_left_ends_when_the_last_puback_is_overdue() -> None:
    peer = Peer(2)
    peer.send()
    peer.clock.advance(0.5)
    peer.send()
    peer.clock.advance(SECONDS * (1 + PATIENCE) - 0.25)
    assert peer.ended == []
    peer.clock.advance(0.5)
    assert peer.ended == [Reason.QUOTA_EXCEEDED]


def test_a_connection_with_a_place_left_stays() -> None:
    peer = Peer(2)
    peer.send()
    peer.clock.advance(100)
    assert peer.ended == []
    assert peer.session.window == 1


def test_a_command_under_way_beside_an_overdue_one_keeps_the_connection() -> None:
    peer = Peer(2)
    peer.send()
    peer.clock.advance(SECONDS * (1 + PATIENCE) - 0.5)
    told = peer.send()
    peer.clock.advance(0.75)
    assert (peer.ended, told) == ([], [])
    peer.acknowledge(2)
    peer.clock.advance(100)
    assert (peer.ended, told) == ([], [None])


def test_an_overdue_puback_that_comes_after_all_frees_the_place() -> None:
    peer = Peer(2)
    peer.send()
    peer.clock.advance(100)
    peer.acknowledge(1)
    peer.send()
    peer.clock.advance(100)
    assert (peer.ended, peer.session.window) == ([], 1)


def test_the_payload_of_a_command_that_was_given_up_is_not_kept() -> None:
    peer = Peer(2)
    told = peer.send()
    peer.clock.advance(SECONDS)
    assert len(told) == 1
    assert peer.session.state.outbound == {1: None}


def test_a_connection_that_ends_leaves_no_timer() -> None:
    peer = Peer(3)
    peer.send()
    peer.clock.advance(SECONDS)
    told = peer.send()
    peer.flights.give_all_up()
    assert len(told) == 1
    assert peer.clock.pending == 0


def test_a_device_of_3_1_1_may_owe_as_many_as_there_are_identifiers() -> None:
    peer = Peer(0, V3)
    for _ in range(100):
        peer.send()
    peer.clock.advance(100)
    assert peer.ended == []
    assert peer.session.window == 65_535 - 100
