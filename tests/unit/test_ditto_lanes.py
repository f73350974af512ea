"""Lanes of commands, and things in memory: one that goes wrong or takes long harms no other."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.ditto.lane import Lane, Resume, Wait
from gateway.ditto.policy_cache import PolicyCache
from gateway.ditto.thing_cache import Look, ThingCache
from gateway.errors import GatewayError
from gateway.store.things_memory import MemoryThingStore


class Owner:
    """Answers each command with itself; some are bugs."""

    def step(self, command: Any, _pending: Any, /) -> Any:
        if command == "bug":
            raise KeyError(command)
        return command

    def forget(self) -> None:
        raise AssertionError("nothing was lost")


def test_a_bug_in_one_command_is_its_own_answer_and_holds_up_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lane: Lane[Any] = Lane(Owner())
    told: list[Any] = []
    for command in ("one", "bug", "two"):
        lane.push(command, told.append)
    assert told[::2] == ["one", "two"]
    assert isinstance(told[1], GatewayError)
    assert told[1].status == 500
    assert lane.is_idle
    assert "command failed" in caplog.text


def test_a_thing_in_use_keeps_no_others_in_memory() -> None:
    waiting: list[Resume] = []

    def step(_entry: Any, _job: Any, _pending: Any) -> None:
        raise Wait(waiting.append)

    cache = ThingCache(MemoryThingStore(), step, 10)
    busy = cache.entry("a:busy")
    busy.lane.push(Look(lambda _entry: None), lambda _answer: None)
    for number in range(100):
        cache.entry(f"a:{number}")
        assert len(cache) <= 10
    assert cache.entry("a:busy") is busy


def test_a_policy_in_use_keeps_no_others_in_memory() -> None:
    cache = PolicyCache(MemoryThingStore(), lambda *_: None, 10)
    busy = cache.entry("a:busy")
    busy.in_flight = 1
    for number in range(100):
        cache.entry(f"a:{number}")
        assert sum(cache.known(f"a:{one}") is not None for one in range(100)) < 10
    assert cache.known("a:busy") is busy
