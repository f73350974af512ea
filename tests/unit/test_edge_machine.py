"""The Node's conditions follow what is measured, with the kubelet's thresholds."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge.machine import (
    DISK,
    MEMORY,
    PIDS,
    Machine,
    Supplies,
    address_of,
    measure,
    pressures,
)

MIB = 1024 * 1024
PLENTY = Supplies(
    memory=1_000 * MIB,
    memory_free=500 * MIB,
    disk=100 * MIB,
    disk_free=50 * MIB,
    inodes=1_000,
    inodes_free=500,
    pids=1_000,
    pids_free=500,
)


@pytest.mark.parametrize(
    ("shortage", "expected"),
    [
        ({}, set()),
        ({"memory_free": 100 * MIB}, set()),
        ({"memory_free": 100 * MIB - 1}, {MEMORY}),
        ({"disk_free": 10 * MIB}, set()),
        ({"disk_free": 10 * MIB - 1}, {DISK}),
        ({"inodes_free": 49}, {DISK}),
        ({"inodes": 0, "inodes_free": 0}, set()),
        ({"pids_free": 99}, {PIDS}),
        ({"memory_free": 0, "disk_free": 0, "pids_free": 0}, {MEMORY, DISK, PIDS}),
    ],
)
def test_a_shortage_is_a_pressure(shortage: dict[str, int], expected: set[str]) -> None:
    assert pressures(replace(PLENTY, **shortage)) == expected


class Rig:
    """A machine whose supplies and clock a test sets."""

    def __init__(self) -> None:
        self.supplies = PLENTY
        self.clock = 0.0
        self.machine = Machine(
            "edge-1", Path("/"), measure=lambda _: self.supplies, clock=lambda: self.clock
        )

    def condition(self, kind: str, now: int) -> Any:
        status: Any = self.machine.status(now)
        return next(c for c in status["conditions"] if c["type"] == kind)


def test_a_pressure_is_told_with_its_reason_and_time_and_lasts_five_minutes() -> None:
    rig = Rig()
    assert rig.condition(MEMORY, 1_000)["status"] == "False"
    assert not rig.machine.has_news(2_000)
    rig.supplies = replace(PLENTY, memory_free=1)
    assert rig.machine.has_news(3_000)
    pressed = rig.condition(MEMORY, 4_000)
    assert (pressed["status"], pressed["reason"]) == ("True", "EdgeHasInsufficientMemory")
    assert pressed["lastTransitionTime"] == "1970-01-01T00:00:03Z"
    rig.supplies = PLENTY
    rig.clock = 299.0
    assert rig.condition(MEMORY, 303_000)["status"] == "True"
    rig.clock = 300.0
    assert rig.machine.has_news(304_000)
    assert rig.condition(MEMORY, 304_000)["status"] == "False"


def test_allocatable_is_what_is_left_before_a_pressure() -> None:
    status: Any = Rig().machine.status(0)
    assert status["capacity"]["memory"] == f"{1_000 * 1024}Ki"
    assert status["allocatable"]["memory"] == f"{900 * 1024}Ki"
    assert status["allocatable"]["ephemeral-storage"] == f"{90 * 1024}Ki"


def test_this_machine_can_be_measured(tmp_path: Path) -> None:
    found = measure(tmp_path)
    assert 0 < found.memory_free <= found.memory
    assert 0 < found.disk_free <= found.disk
    assert 0 < found.pids_free < found.pids


class Line(asyncio.BaseTransport):
    """A connection whose own end has an address."""

    def __init__(self, address: str) -> None:
        super().__init__({"sockname": (address, 1)})


def test_a_node_has_the_address_of_its_link_also_without_a_default_route(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edge.machine.own_address", lambda: "198.51.100.7")
    assert address_of(Line("10.99.0.2")) == "10.99.0.2"
    assert address_of(Line("127.0.0.1")) == "198.51.100.7"
    assert address_of(None) == "198.51.100.7"
    machine = Machine("edge-1", Path("/"), measure=lambda _: PLENTY, address=lambda: "10.99.0.2")
    status: Any = machine.status(1_000)
    assert status["addresses"][0] == {"type": "InternalIP", "address": "10.99.0.2"}
