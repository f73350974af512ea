"""Pushing: what one sample meets is not what the others meet."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from edge.mappers import pushhttp
from edge.mappers.pushhttp import HttpPusher
from edge.mappers.pushing import AT_ONCE, Pushing, Sample
from edge.mappers.pushmqtt import make_mqtt_pusher
from gateway.errors import Rejected, Undeliverable
from gateway.model.json import JsonObject
from gateway.observe.metrics import Metrics
from gateway.runtime.module import running
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.subjects import DeviceKey

KEY = DeviceKey("default", "lamp")


class NoFaults:
    def note(self, key: DeviceKey, part: str, fault: str) -> None:
        """Not asked here."""

    def forget(self, key: DeviceKey, *parts: str) -> None:
        """Not asked here."""


class Sink:
    """Takes samples; refuses a batch that has one of `bad`."""

    at_once = AT_ONCE

    def __init__(self, *bad: int) -> None:
        self.bad = set(bad)
        self.got: list[int] = []
        self.asked = asyncio.Event()
        self.answers = asyncio.Event()

    async def push(self, samples: Sequence[Sample]) -> None:
        self.asked.set()
        await self.answers.wait()
        if any(sample.at in self.bad for sample in samples):
            raise Rejected("one of them is bad")
        self.got += [sample.at for sample in samples]

    async def close(self) -> None:
        """Nothing is open."""


def a_device() -> DeviceView:
    prop: JsonObject = {"name": "on", "pushMethod": {"http": {}}}
    return DeviceView.read(
        {
            "metadata": {"namespace": "default", "name": "lamp", "uid": "u"},
            "spec": {"properties": [prop]},
        }
    )


async def test_a_refused_sample_costs_none_of_those_that_were_pushed_with_it() -> None:
    sink, metrics = Sink(3, 5), Metrics()
    pushing = Pushing({"http": lambda _: sink}, metrics, NoFaults())
    async with running(pushing):
        pushing.bind(a_device())
        pushing.offer(Sample(KEY, "on", at, str(at), at) for at in range(10))
        sink.answers.set()
        async with asyncio.timeout(10):
            while len(sink.got) < 8:  # noqa: ASYNC110 - a turn of the loop, nothing to be woken by
                await asyncio.sleep(0)
    assert sink.got == [0, 1, 2, 4, 6, 7, 8, 9]
    labels = {"method": "http", "outcome": "refused"}
    name = "twinspan_edge_mapper_pushes_total"
    assert metrics.registry.get_sample_value(name, labels) == 2


async def test_posts_that_were_delivered_are_not_sent_again_with_one_that_was_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    posted: list[bytes] = []

    async def post(_url: str, _headers: object, body: bytes, _seconds: float) -> None:
        posted.append(body.partition(b"&")[0])
        if len(posted) == 2:
            raise Undeliverable("away for a moment")

    monkeypatch.setattr(pushhttp, "post", post)
    pushing = Pushing({"http": lambda _: HttpPusher("http://x/", 1.0)}, Metrics(), NoFaults())
    async with running(pushing):
        pushing.bind(a_device())
        pushing.offer(Sample(KEY, "on", at, str(at), at) for at in range(3))
        async with asyncio.timeout(10):
            while len(posted) < 4:  # noqa: ASYNC110 - nothing to be woken by
                await asyncio.sleep(0.02)
    assert posted == [b"on=0", b"on=1", b"on=1", b"on=2"]


async def test_a_broker_whose_name_can_be_no_host_stops_nothing_but_its_own_lane() -> None:
    host = "a" * 70
    pusher = make_mqtt_pusher({"address": f"tcp://{host}:1883", "topic": "t"})
    pushing, other = Pushing({"http": lambda _: pusher}, Metrics(), NoFaults()), Sink()
    async with running(pushing):
        pushing.bind(a_device())
        pushing.offer([Sample(KEY, "on", True, "true", 1)])
        async with asyncio.timeout(10):
            while pusher._task is None:  # noqa: ASYNC110 - a turn of the loop, nothing to be woken by
                await asyncio.sleep(0)
        await asyncio.wait([pusher._task], timeout=0.1)
        assert not pusher._task.done()  # it tries again: a name may be mended where it is looked up
        pushing.unbind(KEY)
        await asyncio.wait([pusher._task])
        pushing._pushers = {"http": lambda _: other}
        pushing.bind(a_device())
        other.answers.set()
        pushing.offer([Sample(KEY, "on", True, "true", 2)])
        async with asyncio.timeout(10):
            while not other.got:  # noqa: ASYNC110 - a turn of the loop, nothing to be woken by
                await asyncio.sleep(0)
