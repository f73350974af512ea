"""The relay's pump over its store: order, loss, duplicates, limits, with a link that the test plays."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from pathlib import Path

import pytest

from gateway.errors import TooLarge, Undeliverable
from gateway.hono.remote import pump as pump_module
from gateway.hono.remote.uplink import NotTaken, Refused
from gateway.model.message import Kind, Message
from gateway.model.ports import Done
from gateway.store.relay import RelayFull, RelayLimits
from tests.hono_rig import until
from tests.relay_rig import PlayedLink, a_message, a_pump, an_event

NOW = 1_700_000_000.0


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries and house-keeping without the waits of a real network."""
    monkeypatch.setattr(pump_module, "RETRY_FIRST", 0.005)
    monkeypatch.setattr(pump_module, "RETRY_CAP", 0.01)
    monkeypatch.setattr(pump_module, "HOUSE_SECONDS", 0.02)
    monkeypatch.setattr(pump_module, "PURGE_SECONDS", 0.02)


def limits(telemetry: int = 10_000_000, event: int = 10_000_000, **more: object) -> RelayLimits:
    given: dict[str, object] = {"age": {Kind.TELEMETRY: 0.0, Kind.EVENT: 0.0}, **more}
    return RelayLimits(bytes={Kind.TELEMETRY: telemetry, Kind.EVENT: event}, **given)  # type: ignore[arg-type]


async def test_a_message_is_acknowledged_when_it_is_on_disk_though_the_remote_is_away() -> None:
    async with a_pump() as rig:
        rig.submit(a_message("a"))
        rig.submit(an_event("b"))
        assert await rig.outcomes.all(2) == {b"a": None, b"b": None}
        assert rig.waiting == 2


async def test_what_the_remote_accepts_is_deleted() -> None:
    async with a_pump() as rig:
        link = PlayedLink()
        link.policy = lambda _m: None
        rig.pump.up(link)
        for number in range(500):
            rig.submit(a_message(str(number), f"d{number % 7}"))
        await rig.outcomes.all(500)
        await until(lambda: rig.waiting == 0)
        assert sorted(map(int, link.payloads)) == list(range(500))
        assert not any(m.duplicate for m in link.sent)
        assert rig.sample("twinspan_remote_messages_total", outcome="accepted") == 500


async def test_one_message_of_a_device_and_kind_is_under_way_at_a_time() -> None:
    async with a_pump() as rig:
        link = PlayedLink()
        rig.pump.up(link)
        for number in range(3):
            rig.submit(a_message(f"t{number}"))
            rig.submit(an_event(f"e{number}"))
            rig.submit(a_message(f"o{number}", "d2"))
        await until(lambda: len(link.waiting) == 3)
        assert sorted(link.payloads) == ["e0", "o0", "t0"]
        for _ in range(6):
            before = len(link.sent)
            link.answer()
            await until(lambda before=before: len(link.sent) == before + 1)  # type: ignore[misc]
        for prefix in "toe":
            mine = [p for p in link.payloads if p[0] == prefix]
            assert mine == [f"{prefix}{n}" for n in range(3)]


async def test_the_window_bounds_what_is_under_way_and_keeps_a_part_for_events() -> None:
    async with a_pump(window=8) as rig:
        link = PlayedLink()
        rig.pump.up(link)
        for number in range(20):
            rig.submit(a_message("t", f"d{number}"), number)
        await until(lambda: len(link.waiting) == 6)
        for number in range(20):
            rig.submit(an_event("e", f"d{number}"), 100 + number)
        await until(lambda: len(link.waiting) == 8)
        await rig.outcomes.all(40)
        assert link.payloads.count("e") == 2


async def test_a_message_that_was_not_taken_is_tried_again_before_its_successor() -> None:
    async with a_pump() as rig:
        link = PlayedLink()
        refusals = [NotTaken(), NotTaken()]
        link.policy = lambda _m: refusals.pop() if refusals else None
        rig.pump.up(link)
        rig.submit(a_message("a"))
        rig.submit(a_message("b"))
        await until(lambda: rig.waiting == 0 and len(rig.outcomes.told) == 2)
        assert link.payloads == ["a", "a", "a", "b"]
        assert [m.duplicate for m in link.sent] == [False, True, True, False]
        assert rig.sample("twinspan_remote_messages_total", outcome="released") == 2


async def test_what_the_remote_refuses_for_good_is_counted_and_not_sent_again() -> None:
    async with a_pump() as rig:
        link = PlayedLink()
        link.policy = lambda m: Refused("unknown device", status=404) if m.payload == b"a" else None
        rig.pump.up(link)
        rig.submit(an_event("a"))
        rig.submit(an_event("b"))
        await until(lambda: rig.waiting == 0 and len(link.sent) == 2)
        assert link.payloads == ["a", "b"]
        assert rig.loss("refused", "event") == 1
        assert rig.pump.last_refusal is not None
        assert rig.pump.last_refusal.text.endswith("event of d1: 404 unknown device")


async def test_a_lane_that_waits_holds_up_no_other() -> None:
    async with a_pump() as rig:
        link = PlayedLink()
        link.policy = lambda m: NotTaken() if m.device == "stuck" else None
        rig.pump.up(link)
        rig.submit(a_message("s", "stuck"))
        for number in range(50):
            rig.submit(a_message("t", f"d{number}"), number)
        await until(lambda: rig.waiting == 1)
        assert len(rig.outcomes.told) == 51


async def test_what_was_under_way_when_the_link_was_lost_is_sent_again_and_marked() -> None:
    async with a_pump() as rig:
        first, second = PlayedLink(), PlayedLink()
        rig.pump.up(first)
        rig.submit(a_message("a"))
        rig.submit(a_message("b"))
        await until(lambda: len(first.waiting) == 1)
        rig.pump.down(by_peer=False)
        rig.submit(a_message("c"))
        second.policy = lambda _m: None
        rig.pump.up(second)
        await until(lambda: rig.waiting == 0 and len(second.sent) == 3)
        assert second.payloads == ["a", "b", "c"]
        assert [m.duplicate for m in second.sent] == [True, False, False]
        assert rig.sample("twinspan_remote_messages_total", outcome="unanswered") == 1
        first.answer()  # too late: counts for nothing
        assert rig.sample("twinspan_remote_messages_total", outcome="accepted") == 3


async def test_a_restart_goes_on_where_it_was(tmp_path: Path) -> None:
    file = tmp_path / "relay.db"
    async with a_pump(file) as rig:
        for number in range(100):
            rig.submit(an_event(str(number), f"d{number % 3}"))
        await rig.outcomes.all(100)
    async with a_pump(file) as rig:
        assert rig.waiting == 100
        link = PlayedLink()
        link.policy = lambda _m: None
        rig.pump.up(link)
        await until(lambda: rig.waiting == 0)
        assert not any(m.duplicate for m in link.sent), "nothing was sent before"
        by_device = defaultdict(list)
        for message in link.sent:
            by_device[message.device].append(int(message.payload))
        assert all(numbers == sorted(numbers) for numbers in by_device.values())
        assert sum(map(len, by_device.values())) == 100


async def test_after_a_crash_what_may_have_been_sent_is_marked(tmp_path: Path) -> None:
    file = tmp_path / "relay.db"
    async with a_pump(file, gently=False) as rig:
        link = PlayedLink()
        rig.pump.up(link)
        rig.submit(an_event("a"))
        await until(lambda: len(link.waiting) == 1)
    async with a_pump(file) as rig:
        link = PlayedLink()
        link.policy = lambda _m: None
        rig.pump.up(link)
        await until(lambda: rig.waiting == 0)
        assert [(m.payload, m.duplicate) for m in link.sent] == [(b"a", True)]


async def test_after_a_crash_all_that_was_accepted_and_not_yet_deleted_is_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "relay.db"
    async with a_pump(file, gently=False) as rig:
        monkeypatch.setattr(rig.spool, "remove", lambda *_: None)
        link = PlayedLink()
        link.policy = lambda _m: None
        rig.pump.up(link)
        for number in range(3):
            rig.submit(an_event(str(number)))
        await until(lambda: len(link.sent) == 3)
    async with a_pump(file) as rig:
        link = PlayedLink()
        link.policy = lambda _m: None
        rig.pump.up(link)
        await until(lambda: rig.waiting == 0)
        assert [m.duplicate for m in link.sent] == [True, True, True]


async def test_what_was_never_near_the_remote_is_not_marked_after_a_crash(tmp_path: Path) -> None:
    file = tmp_path / "relay.db"
    async with a_pump(file, gently=False) as rig:
        rig.submit(an_event("a"))
        await rig.outcomes.all(1)
    async with a_pump(file) as rig:
        link = PlayedLink()
        link.policy = lambda _m: None
        rig.pump.up(link)
        await until(lambda: rig.waiting == 0)
        assert [m.duplicate for m in link.sent] == [False]


async def test_a_gentle_stop_marks_what_had_no_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pump_module, "WIND_UP_SECONDS", 0.05)
    file = tmp_path / "relay.db"
    async with a_pump(file) as rig:
        link = PlayedLink()
        rig.pump.up(link)
        rig.submit(an_event("a"))
        await until(lambda: len(link.waiting) == 1)
    async with a_pump(file) as rig:
        link = PlayedLink()
        link.policy = lambda _m: None
        rig.pump.up(link)
        await until(lambda: rig.waiting == 0)
        assert [m.duplicate for m in link.sent] == [True]


async def test_without_credit_nothing_is_sent_and_nothing_lost() -> None:
    async with a_pump() as rig:
        link = PlayedLink()
        link.can_send, link.policy = False, lambda _m: None
        rig.pump.up(link)
        for number in range(10):
            rig.submit(a_message(str(number), qos=number % 2))
        await rig.outcomes.all(10)
        assert link.sent == []
        link.can_send = True
        rig.pump.has_room()
        await until(lambda: rig.waiting == 0)
        assert link.payloads == [str(n) for n in range(10)]


async def test_telemetry_of_qos_0_goes_directly_unless_its_device_has_something_waiting() -> None:
    async with a_pump() as rig:
        link = PlayedLink()
        rig.pump.up(link)
        rig.submit(a_message("a", qos=0))
        assert link.payloads == ["a"]
        assert rig.outcomes.told == {b"a": None}
        rig.submit(a_message("b"))
        rig.submit(a_message("c", qos=0))
        rig.submit(a_message("x", "d2", qos=0))
        assert link.payloads == ["a", "x"]
        await until(lambda: len(link.waiting) == 1)
        link.answer()
        await until(lambda: rig.waiting == 0)
        assert link.payloads == ["a", "x", "b", "c"]


# --- limits -------------------------------------------------------------------------------------------


async def test_events_over_their_limit_are_refused_and_none_is_dropped() -> None:
    async with a_pump(limits=limits(event=2_000)) as rig:
        for number in range(20):
            rig.submit(an_event(str(number)), number)
        told = await rig.outcomes.all(20)
        kept = [number for number, error in told.items() if error is None]
        assert kept
        assert kept == list(range(len(kept)))
        assert all(isinstance(e, RelayFull) for n, e in told.items() if n not in kept)
        assert RelayFull().status == 503
        link = PlayedLink()
        link.policy = lambda _m: None
        rig.pump.up(link)
        await until(lambda: rig.waiting == 0)
        assert link.payloads == list(map(str, kept))
        assert rig.sample(
            "twinspan_remote_messages_total", "event", outcome="not_taken"
        ) == 20 - len(kept)


async def test_telemetry_over_its_limit_pushes_out_the_oldest() -> None:
    async with a_pump(limits=limits(telemetry=5_000)) as rig:
        for number in range(100):
            rig.submit(a_message(str(number), f"d{number % 3}"), number)
        told = await rig.outcomes.all(100)
        assert set(told.values()) == {None}
        await until(lambda: rig.spool.depths[Kind.TELEMETRY].bytes <= 5_000)
        left = rig.waiting
        assert 0 < left < 30
        assert rig.loss("dropped_oldest") == 100 - left
        link = PlayedLink()
        link.policy = lambda _m: None
        rig.pump.up(link)
        await until(lambda: rig.waiting == 0)
        assert sorted(map(int, link.payloads)) == list(range(100 - left, 100))


async def test_telemetry_may_be_refused_instead() -> None:
    async with a_pump(limits=limits(telemetry=2_000, drops_telemetry=False)) as rig:
        for number in range(20):
            rig.submit(a_message(str(number)), number)
        told = await rig.outcomes.all(20)
        assert told[0] is None
        assert isinstance(told[19], RelayFull)
        assert rig.loss("dropped_oldest") == 0


async def test_a_message_that_no_limit_allows_is_too_large() -> None:
    async with a_pump(limits=limits(telemetry=1_000)) as rig:
        rig.submit(a_message("x" * 2_000), "big")
        assert isinstance((await rig.outcomes.all(1))["big"], TooLarge)


async def test_a_message_over_the_remotes_limit_is_refused_at_once() -> None:
    async with a_pump() as rig:
        link = PlayedLink()
        link.limit = 1_500
        rig.pump.up(link)
        rig.submit(a_message("x" * 2_000), "big")
        assert isinstance((await rig.outcomes.all(1))["big"], TooLarge)
        assert rig.waiting == 0


async def test_what_is_too_old_is_dropped_and_counted_once() -> None:
    now = [NOW]
    ages = {Kind.TELEMETRY: 60.0, Kind.EVENT: 0.0}
    async with a_pump(limits=limits(age=ages), clock=lambda: now[0]) as rig:
        rig.submit(a_message("old", at=NOW))
        rig.submit(an_event("kept", at=NOW))
        rig.submit(an_event("short", "d2", ttl=30.0, at=NOW))
        await rig.outcomes.all(3)
        now[0] += 61
        await until(lambda: rig.waiting == 1)
        assert (rig.loss("expired"), rig.loss("expired", "event")) == (1, 1)
        link = PlayedLink()
        link.policy = lambda _m: None
        rig.pump.up(link)
        await until(lambda: rig.waiting == 0)
        assert link.payloads == ["kept"]


async def test_an_event_says_how_long_it_has_left() -> None:
    now = [NOW]
    async with a_pump(clock=lambda: now[0]) as rig:
        rig.submit(an_event("a", ttl=30.0, at=NOW))
        await rig.outcomes.all(1)
        now[0] += 12
        link = PlayedLink()
        rig.pump.up(link)
        await until(lambda: bool(link.waiting))
        assert link.sent[0].ttl == pytest.approx(18.0)


# --- links that give nothing, or break ---------------------------------------------------------------


async def test_a_link_without_outcomes_is_given_up() -> None:
    async with a_pump(answer_timeout=0.05) as rig:
        link = PlayedLink()
        rig.pump.up(link)
        rig.submit(a_message("a"))
        await until(lambda: bool(link.ended))
        assert link.ended == "no outcome in 0.05 s"


async def test_a_message_that_ends_every_connection_is_given_up_and_the_others_arrive() -> None:
    accepted: list[bytes] = []
    connections = 0

    class Fragile(PlayedLink):
        """A remote that hangs up on the poison, and accepts what else is sent."""

        def send(self, message: Message, done: Done) -> None:
            if message.payload == b"poison":
                asyncio.get_running_loop().call_soon(again)
            else:
                accepted.append(message.payload)
                done(None)

    async with a_pump() as rig:

        def again() -> None:
            nonlocal connections
            connections += 1
            rig.pump.down(by_peer=True)
            rig.pump.up(Fragile())

        rig.submit(an_event("poison", "bad"))
        for number in range(5):
            rig.submit(an_event(str(number), f"d{number}"))
        rig.submit(an_event("after", "bad"))
        link = PlayedLink()
        rig.pump.up(link)
        await until(lambda: len(link.waiting) == 6)
        again()
        await until(lambda: rig.waiting == 0)
        assert sorted(accepted) == [b"0", b"1", b"2", b"3", b"4", b"after"]
        assert rig.loss("unsendable", "event") == 1
        assert connections == 1 + pump_module.MAX_STRIKES


async def test_a_network_that_breaks_five_times_costs_no_message() -> None:
    async with a_pump() as rig:
        rig.submit(an_event("a"))
        await rig.outcomes.all(1)
        for _ in range(10):
            link = PlayedLink()
            rig.pump.up(link)
            await until(lambda link=link: bool(link.waiting))  # type: ignore[misc]
            rig.pump.down(by_peer=False)
        link = PlayedLink()
        link.policy = lambda _m: None
        rig.pump.up(link)
        await until(lambda: rig.waiting == 0)
        assert rig.loss("unsendable", "event") == 0


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_happens_order_is_kept_nothing_lost_and_every_second_time_marked(
    seed: int, tmp_path: Path
) -> None:
    """A random run of uploads, outcomes, losses of the link and crashes."""
    rng = random.Random(seed)
    file = tmp_path / "relay.db"
    acknowledged: dict[str, list[int]] = defaultdict(list)
    accepted: dict[str, list[int]] = defaultdict(list)
    offered: set[tuple[str, int]] = set()
    numbers = iter(range(1_000_000))

    def take(message: Message) -> None:
        accepted[message.device].append(int(message.payload))

    for _ in range(4):
        async with a_pump(file, gently=rng.random() < 0.5) as rig:
            link = PlayedLink()
            for _ in range(120):
                what = rng.random()
                if what < 0.5:
                    number, device = next(numbers), f"d{rng.randrange(4)}"

                    def done(error: object, device: str = device, number: int = number) -> None:
                        assert error is None
                        acknowledged[device].append(number)

                    rig.pump.submit(an_event(str(number), device), done)
                elif what < 0.6:
                    rig.pump.down(by_peer=False)
                    link = PlayedLink()
                    rig.pump.up(link)
                elif link.waiting:
                    message, settle = link.waiting.pop(rng.randrange(len(link.waiting)))
                    key = (message.device, int(message.payload))
                    assert message.duplicate or key not in offered, "a second time, not marked"
                    offered.add(key)
                    error = rng.choice([None, None, NotTaken()])
                    if error is None or rng.random() < 0.3:  # the remote may have it all the same
                        take(message)
                    settle(error)
                await asyncio.sleep(rng.choice([0, 0, 0.002]))
            for message, _ in link.waiting:  # sent, and nobody heard an outcome
                offered.add((message.device, int(message.payload)))
    async with a_pump(file) as rig:
        link = PlayedLink()

        def last(message: Message) -> None:
            assert message.duplicate or (message.device, int(message.payload)) not in offered
            take(message)

        link.policy = last
        rig.pump.up(link)
        await until(lambda: rig.waiting == 0)
    for device, wanted in acknowledged.items():
        first_times = list(dict.fromkeys(accepted[device]))
        assert [n for n in first_times if n in set(wanted)] == wanted
        assert first_times == sorted(first_times)


async def test_more_devices_than_may_wait_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pump_module, "MAX_LANES", 2)
    async with a_pump() as rig:
        for number in range(3):
            rig.submit(a_message("a", f"d{number}"), number)
        told = await rig.outcomes.all(3)
        assert [told[0], told[1]] == [None, None]
        assert isinstance(told[2], Undeliverable)
