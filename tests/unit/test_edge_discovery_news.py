"""What the edge tells its cloud of what it sees: news, gathered and bounded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from edge import discoverynews
from edge.discovery import DiscoveryBook
from edge.discoverynews import DiscoveryNews
from edge.hub import LinkFull
from edge.mappers.family import Discovered, DiscoveredProperty
from gateway.observe.metrics import Metrics
from gateway.runtime.module import running
from gateway.wire.cloudedge.discoveries import SeenDevice, Sightings
from gateway.wire.cloudedge.envelope import Envelope, decode, encode
from gateway.wire.cloudedge.to_cloud import read_to_cloud

TEMP = (DiscoveredProperty("t", "INT"),)


class Link:
    """The hub, as far as news need it: what went over it, read as the cloud reads it."""

    def __init__(self) -> None:
        self.sent: list[Sightings] = []
        self.sizes: list[int] = []
        self.is_full = False

    def send(self, envelope: Envelope) -> None:
        if self.is_full:
            raise LinkFull
        frame = encode(envelope)
        message = read_to_cloud(decode(frame))
        assert isinstance(message, Sightings)
        self.sizes.append(len(frame))
        self.sent.append(message)

    async def ask(self, envelope: Envelope, seconds: float = 0) -> object:
        raise AssertionError(envelope, seconds)

    @property
    def seen(self) -> list[SeenDevice]:
        return [device for each in self.sent for device in each.seen]


class Rig:
    def __init__(self) -> None:
        self.now = 1_800_000_000_000
        self.book = DiscoveryBook(Metrics(), lambda: self.now)
        self.link = Link()
        self.news = DiscoveryNews(self.book, self.link)  # type: ignore[arg-type]

    def see(
        self, number: int, properties: tuple[DiscoveredProperty, ...] = TEMP, name: str = ""
    ) -> None:
        address = f"00:00:00:00:{number // 256:02x}:{number % 256:02x}"
        self.book.take(Discovered("bluetooth", address, name=name, properties=properties))


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    monkeypatch.setattr(discoverynews, "GATHER_SECONDS", 0.02)
    monkeypatch.setattr(discoverynews, "CHANGE_SECONDS", 0.1)
    made = Rig()
    async with running(made.news):
        yield made


async def until(is_so: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not is_so():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.005)


async def test_what_is_seen_is_told_once_with_all_that_is_known(rig: Rig) -> None:
    rig.news.link_up(has_spool=True)
    rig.see(1, name="Lamp")
    rig.see(2)
    await until(lambda: len(rig.link.seen) == 2)
    assert [each.name for each in rig.link.seen] == ["Lamp", ""]
    assert rig.link.seen[0].properties[0].type == "INT"
    assert len(rig.link.sent) == 1


async def test_a_cloud_that_is_not_ours_is_told_nothing(rig: Rig) -> None:
    rig.news.link_up(has_spool=False)
    rig.see(1)
    await asyncio.sleep(0.1)
    assert rig.link.sent == []


async def test_after_a_break_all_is_told_again(rig: Rig) -> None:
    rig.news.link_up(has_spool=True)
    rig.see(1)
    await until(lambda: rig.link.seen)
    rig.news.link_down()
    rig.news.link_up(has_spool=True)
    await until(lambda: len(rig.link.seen) == 2)


async def test_a_change_and_a_loss_are_told_and_a_signal_alone_is_not(rig: Rig) -> None:
    rig.news.link_up(has_spool=True)
    rig.see(1)
    await until(lambda: rig.link.seen)
    rig.see(1, name="Named")
    await until(lambda: len(rig.link.seen) == 2)
    rig.book.take(
        Discovered("bluetooth", "00:00:00:00:00:01", name="Named", signal=-50, properties=TEMP)
    )
    rig.book.lost("bluetooth", "00:00:00:00:00:01")
    await until(lambda: [each.gone for each in rig.link.sent if each.gone])
    assert len(rig.link.seen) == 2
    assert rig.link.sent[-1].gone == ("bluetooth-000000000001",)


async def test_what_is_still_there_is_told_now_and_then(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discoverynews, "STILL_SECONDS", 0.05)
    rig.news.link_up(has_spool=True)
    rig.see(1)
    await until(lambda: [each for each in rig.link.sent if each.still])
    assert rig.link.sent[-1].still["bluetooth-000000000001"].last == rig.now
    assert len(rig.link.seen) == 1


async def test_strangers_are_told_when_they_stay(rig: Rig) -> None:
    rig.news.link_up(has_spool=True)
    rig.see(1, properties=())
    rig.see(2)
    await until(lambda: rig.link.seen)
    assert [each.address[-1] for each in rig.link.seen] == ["2"]
    rig.now += 60_000
    rig.see(1, properties=())
    await until(lambda: len(rig.link.seen) == 2)


async def test_a_flood_of_new_devices_is_told_as_far_as_the_bound_allows(rig: Rig) -> None:
    rig.news.link_up(has_spool=True)
    for number in range(3_000):
        rig.now += 1
        rig.see(number)
        if number % 300 == 0:
            await asyncio.sleep(0.03)
    await asyncio.sleep(0.2)
    assert len(rig.link.seen) <= discoverynews.MAX_TOLD + 1


async def test_a_full_link_makes_news_wait(rig: Rig) -> None:
    rig.link.is_full = True
    rig.news.link_up(has_spool=True)
    rig.see(1)
    await asyncio.sleep(0.1)
    rig.link.is_full = False
    await until(lambda: rig.link.seen)


async def test_large_devices_go_in_several_messages(rig: Rig) -> None:
    large = tuple(DiscoveredProperty(f"p{n}", "INT", visitor={"a": "x" * 500}) for n in range(50))
    rig.news.link_up(has_spool=True)
    for number in range(20):
        rig.see(number, large)
    await until(lambda: len(rig.link.seen) == 20)
    assert len(rig.link.sent) > 1
    assert max(rig.link.sizes) < 400_000
