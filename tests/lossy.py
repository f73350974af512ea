"""A bad network between this machine and a namespace on it: every IP packet passes through our hands.

Two TUN devices, one here and one in the namespace, and a thread that carries packets from the one to the
other: late, twice, out of order, or not at all. It needs root and `/dev/net/tun`, no module of the kernel
(`netem` is missing in many of them).
"""

from __future__ import annotations

import fcntl
import heapq
import itertools
import os
import random
import selectors
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import pytest

from tests.process import tool

OUTSIDE, INSIDE = "10.213.78.1", "10.213.78.2"
TUN = "/dev/net/tun"
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
MAX_PACKET = 65_536

UP, DOWN = "up", "down"
"""Directions: from the namespace to this machine, and back."""


@dataclass(frozen=True, slots=True)
class Weather:
    """What happens to packets.

    Shape:  probabilities for each packet; `reorder` ones overtake those that wait; `dead` directions let
            nothing through: one of them makes connections half-open, both a partition.
    Units:  seconds; each packet waits `delay` and up to `jitter` more.
    """

    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    delay: float = 0.0
    jitter: float = 0.0
    dead: frozenset[str] = frozenset()


FINE = Weather()
ROUGH = Weather(loss=0.04, duplicate=0.03, reorder=0.05, delay=0.03, jitter=0.03)
CUT = Weather(dead=frozenset((UP, DOWN)))


@dataclass(slots=True)
class LossyNetwork:
    """The network of one test; `weather` may be changed at any time."""

    space: str
    ends: dict[str, int]
    """Direction -> the device that its packets are read from."""
    weather: Weather = FINE
    seen: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("passed", "lost", "twice"), 0)
    )
    _random: random.Random = field(default_factory=lambda: random.Random(1))
    _ends_soon: threading.Event = field(default_factory=threading.Event)

    @property
    def inside(self) -> tuple[str, ...]:
        """What starts a program in the namespace."""
        return (tool("ip"), "netns", "exec", self.space)

    def carry(self) -> None:
        """Carry packets until `stop`."""
        waiting: list[tuple[float, int, int, bytes]] = []
        numbers = itertools.count()
        with selectors.DefaultSelector() as selector:
            for direction, end in self.ends.items():
                selector.register(end, selectors.EVENT_READ, direction)
            while not self._ends_soon.is_set():
                pause = waiting[0][0] - time.monotonic() if waiting else 0.1
                for ready, _ in selector.select(max(0.0, min(pause, 0.1))):
                    packet = os.read(ready.fd, MAX_PACKET)
                    for due in self._fates(ready.data):
                        far = self.ends[DOWN if ready.data == UP else UP]
                        heapq.heappush(waiting, (due, next(numbers), far, packet))
                while waiting and waiting[0][0] <= time.monotonic():
                    _, _, far, packet = heapq.heappop(waiting)
                    with suppress(OSError):  # the device is full or down: as good as lost
                        os.write(far, packet)

    def _fates(self, direction: str) -> Iterator[float]:
        """When copies of a packet are due."""
        weather, chance = self.weather, self._random.random
        if direction in weather.dead or chance() < weather.loss:
            self.seen["lost"] += 1
            return
        self.seen["passed"] += 1
        wait = 0.0 if chance() < weather.reorder else weather.delay + chance() * weather.jitter
        yield time.monotonic() + wait
        if chance() < weather.duplicate:
            self.seen["twice"] += 1
            yield time.monotonic() + wait + weather.jitter

    def stop(self) -> None:
        self._ends_soon.set()


@contextmanager
def a_lossy_network() -> Iterator[LossyNetwork]:
    """A namespace whose only way out is through the thread; the test is skipped where none can be made."""
    if os.geteuid() != 0:
        pytest.skip("NOT RUN: a network namespace needs root; run the tests as root")
    name = f"tl{os.getpid()}"
    _ip("netns", "add", name)
    ends: dict[str, int] = {}
    carrier: threading.Thread | None = None
    network: LossyNetwork | None = None
    try:
        ends = {DOWN: _tun(f"{name}o"), UP: _tun(f"{name}i")}
        _ip("addr", "add", OUTSIDE, "peer", INSIDE, "dev", f"{name}o")
        _ip("link", "set", f"{name}o", "up")
        _ip("link", "set", f"{name}i", "netns", name)
        _ip("-n", name, "addr", "add", INSIDE, "peer", OUTSIDE, "dev", f"{name}i")
        _ip("-n", name, "link", "set", f"{name}i", "up")
        _ip("-n", name, "link", "set", "lo", "up")
        network = LossyNetwork(name, ends)
        carrier = threading.Thread(target=network.carry, name="lossy")
        carrier.start()
        yield network
    finally:
        if network is not None and carrier is not None:
            network.stop()
            carrier.join()
        for end in ends.values():
            os.close(end)
        subprocess.run([tool("ip"), "netns", "del", name], check=False, capture_output=True)


def _tun(name: str) -> int:
    try:
        end = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    except OSError as error:
        pytest.skip(f"NOT RUN: {TUN}: {error.strerror}")
    return end


def _ip(*words: str) -> None:
    done = subprocess.run([tool("ip"), *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"NOT RUN: ip {' '.join(words)}: {done.stderr.strip()}")
