"""What a session makes of readings: quality, source time, faults, and how often it reads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, cast

import pytest

from edge.deviceport import MAPPER
from edge.mappers import properties
from edge.mappers import runner as runners
from edge.mappers import session as sessions
from edge.mappers.driver import DeviceUnreachable, Quality, Reading, TakenLater
from edge.mappers.properties import beyond
from edge.mappers.runner import MapperRunner
from edge.mappers.session import Services
from edge.mappers.sources import source_time
from edge.northbound import Northbound
from edge.twinrules import Change
from gateway.errors import BadRequest, GatewayError, Rejected
from gateway.model.json import JsonObject
from gateway.model.message import Kind
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracer
from gateway.runtime.module import running
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.models import ModelView
from gateway.wire.cloudedge.subjects import DeviceKey
from gateway.wire.cloudedge.twins import Twin, TwinValue
from gateway.wire.cloudedge.uploads import EdgeUpload
from gateway.wire.cloudedge.values import PropertyType, ValueRule

NOW = 1_800_000_000_000


class FakeTwin:
    """DeviceTwin as a session sees it: what it was told."""

    def __init__(self) -> None:
        self.reports: list[dict[str, Twin | None]] = []
        self.refuses: set[str] = set()
        self.states: list[str] = []

    def update(
        self,
        _key: DeviceKey,
        asks: Mapping[str, Twin | None],
        done: Callable[[Change | GatewayError], None],
        *,
        origin: str,
        **_: Any,
    ) -> None:
        assert origin == MAPPER
        if self.refuses & asks.keys():
            done(BadRequest("expected a value of type int"))
            return
        self.reports.append(dict(asks))
        done(Change())

    def set_state(self, _key: DeviceKey, state: str, _done: object) -> None:
        self.states.append(state)

    def twins(self, _key: DeviceKey) -> dict[str, Twin]:
        return {}

    def said(self, name: str) -> list[tuple[str | None, int, str]]:
        """The reported values of a property: text, time, mark."""
        found = [each[name] for each in self.reports if name in each]
        sides = [twin.actual for twin in found if twin is not None and twin.actual is not None]
        return [(side.value, side.timestamp, side.quality) for side in sides]


class FakeFaults:
    def __init__(self) -> None:
        self.parts: dict[str, str] = {}

    def note(self, _key: DeviceKey, part: str, fault: str) -> None:
        if fault:
            self.parts[part] = fault
        else:
            self.parts.pop(part, None)

    def forget(self, _key: DeviceKey, *parts: str) -> None:
        for part in [each for each in self.parts if each.startswith(parts)]:
            self.parts.pop(part)


class FakeDriver:
    """A device whose readings the test sets."""

    def __init__(self, **readings: Reading) -> None:
        self.readings: dict[str, Reading] = dict(readings)
        self.broken: dict[str, GatewayError] = {}
        self.reads: list[tuple[str, ...]] = []
        self.changed: Callable[[], None] = lambda: None

    async def connect(self) -> None: ...

    async def read(self, names: Sequence[str]) -> Mapping[str, Reading]:
        self.reads.append(tuple(names))
        for name in names:
            if name in self.broken:
                raise self.broken[name]
        return {name: self.readings[name] for name in names if name in self.readings}

    async def write(self, name: str, text: str) -> None:
        raise AssertionError(name, text)

    def subscribe(self, changed: Callable[[], None]) -> None:
        self.changed = changed

    async def close(self) -> None: ...


class Hanging(FakeDriver):
    async def read(self, names: Sequence[str]) -> Mapping[str, Reading]:
        self.reads.append(tuple(names))
        await asyncio.get_running_loop().create_future()
        raise AssertionError


def good(text: str, at: int = 0) -> Reading:
    return Reading(text, Quality.GOOD, at)


def a_model(**bounds: str) -> ModelView:
    """A model whose property `a` is a number within bounds."""
    prop: JsonObject = {"name": "a", "type": "FLOAT", "accessMode": "ReadWrite", **bounds}
    return ModelView.read({"metadata": {"name": "m"}, "spec": {"properties": [prop]}})


def a_view(name: str, *properties: str, collect: int = 100) -> DeviceView:
    return DeviceView.read(
        {
            "metadata": {"namespace": "default", "name": name, "uid": name},
            "spec": {
                "protocol": {"protocolName": "fake"},
                "properties": [
                    {"name": each, "collectCycle": collect, "reportToCloud": True}
                    for each in properties
                ],
            },
        }
    )


class Rig:
    def __init__(self, drivers: Mapping[str, FakeDriver]) -> None:
        self.twin, self.faults, self.metrics = FakeTwin(), FakeFaults(), Metrics()
        self.sent: list[EdgeUpload] = []
        north = Northbound(self._submit)
        services = Services(
            cast(Any, self.twin), north, self.metrics, Tracer(), cast(Any, self.faults)
        )
        self.runner = MapperRunner({"fake": lambda view, _model: drivers[view.meta.name]}, services)

    def _submit(self, item: EdgeUpload, _done: object) -> None:
        if item.kind is Kind.TELEMETRY:
            self.sent.append(item)

    def sample(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, {"driver": "fake", **labels}) or 0.0


async def until(is_so: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not is_so():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.01)


@pytest.fixture
def driver() -> FakeDriver:
    return FakeDriver()


@pytest.fixture
async def rig(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    monkeypatch.setattr(sessions, "now_ms", lambda: NOW)
    made = Rig({"d": driver})
    async with running(made.runner):
        yield made


async def test_a_value_is_reported_with_its_sources_time(rig: Rig, driver: FakeDriver) -> None:
    driver.readings = {"a": good("1", NOW - 5_000), "b": good("2", NOW - 9_000)}
    rig.runner.device_bound(a_view("d", "a", "b"), None)
    await until(lambda: rig.sent)
    assert rig.twin.said("a") == [("1", NOW - 5_000, "")]
    assert rig.twin.said("b") == [("2", NOW - 9_000, "")]
    assert rig.sent[0].at == NOW - 5_000
    assert "uncertain" not in rig.sent[0].properties


async def test_an_uncertain_value_is_reported_with_its_mark_and_the_mark_goes_alone(
    rig: Rig, driver: FakeDriver
) -> None:
    driver.readings = {"a": Reading("1", Quality.UNCERTAIN, NOW, "stale"), "b": good("2", NOW)}
    rig.runner.device_bound(a_view("d", "a", "b"), None)
    await until(lambda: rig.sent)
    assert rig.twin.said("a") == [("1", NOW, "uncertain")]
    assert rig.sent[0].properties == {"uncertain": "a"}
    driver.readings["a"] = good("1", NOW)
    await until(lambda: len(rig.twin.said("a")) == 2)
    assert rig.twin.said("a")[1] == ("1", NOW, "")
    assert rig.twin.said("b") == [("2", NOW, "")]


async def test_a_bad_reading_is_a_fault_until_the_next_good_one_and_is_never_reported(
    rig: Rig, driver: FakeDriver
) -> None:
    driver.readings = {"a": Reading("nan", Quality.BAD, NOW, "not a number"), "b": good("2", NOW)}
    rig.runner.device_bound(a_view("d", "a", "b"), None)
    await until(lambda: rig.sent)
    assert rig.faults.parts == {"property a": "not a number"}
    assert rig.sample("twinspan_edge_mapper_reads_total", quality="bad") >= 1
    assert rig.twin.said("a") == []
    driver.readings["a"] = good("7", NOW)
    await until(lambda: rig.twin.said("a"))
    assert rig.faults.parts == {}


async def test_a_property_that_the_device_refuses_to_read_does_not_stop_the_others(
    rig: Rig, driver: FakeDriver
) -> None:
    driver.broken = {"a": Rejected("illegal address")}
    driver.readings = {"b": good("2", NOW), "c": good("3", NOW)}
    rig.runner.device_bound(a_view("d", "a", "b", "c"), None)
    await until(lambda: rig.sent)
    assert (rig.twin.said("b"), rig.twin.said("c")) == ([("2", NOW, "")], [("3", NOW, "")])
    assert rig.faults.parts == {"property a": "illegal address"}
    failures = "twinspan_edge_mapper_call_failures_total"
    assert rig.sample(failures, call="read", cause="refused") >= 2


async def test_a_value_that_the_twin_refuses_is_a_fault_that_stays_while_it_is_read(
    rig: Rig, driver: FakeDriver
) -> None:
    rig.twin.refuses = {"a"}
    driver.readings = {"a": good("warm", NOW), "b": good("2", NOW)}
    rig.runner.device_bound(a_view("d", "a", "b"), None)
    await until(lambda: len(driver.reads) > 2)
    assert rig.twin.said("b") == [("2", NOW, "")]
    assert rig.faults.parts == {"property a": "expected a value of type int"}
    assert rig.sample("twinspan_edge_mapper_reads_total", quality="bad") == 1
    assert [each.payload for each in rig.sent if b"state" not in each.payload] == [b'{"b":"2"}']
    rig.twin.refuses = set()
    driver.readings["a"] = good("7", NOW)
    await until(lambda: rig.twin.said("a"))
    assert rig.faults.parts == {}


async def test_a_clock_that_is_far_off_is_a_fault_and_the_nodes_time_counts(
    rig: Rig, driver: FakeDriver
) -> None:
    driver.readings = {"a": good("1", NOW + 7_200_000), "b": good("2", NOW)}
    rig.runner.device_bound(a_view("d", "a", "b"), None)
    await until(lambda: rig.sent)
    assert rig.twin.said("a") == [("1", NOW, "")]
    assert "clock is hours ahead" in rig.faults.parts["clock"]
    driver.readings["a"] = good("1", NOW)
    await until(lambda: not rig.faults.parts)


@pytest.mark.parametrize(
    ("at", "expected", "fault"),
    [
        (0, NOW, ""),
        (NOW + 60_000, NOW + 60_000, ""),
        (NOW + 60_001, NOW, "minutes ahead"),
        (NOW + 10**15, NOW, "days ahead"),
        (NOW - 365 * 86_400_000, NOW - 365 * 86_400_000, ""),
        (946_684_800_000, NOW, "not set"),
        (-5, NOW, "not set"),
    ],
    ids=["none", "a little", "minutes", "far", "last year", "2000", "before 1970"],
)
def test_a_source_time_counts_where_it_can_be_true(at: int, expected: int, fault: str) -> None:
    when, said = source_time(good("1", at), NOW)
    assert when == expected
    assert fault in said
    assert bool(said) == bool(fault)


async def test_ten_thousand_pushes_cost_few_reads_and_the_last_value_arrives(
    rig: Rig, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "READ_SECONDS", 60.0)
    driver.readings = {"a": good("0", NOW)}
    rig.runner.device_bound(a_view("d", "a", collect=3_600_000), None)
    await until(lambda: rig.twin.said("a"))
    for number in range(10_000):
        driver.readings["a"] = good(str(number), NOW)
        driver.changed()
        if number % 100 == 0:
            await asyncio.sleep(0)
    assert len(driver.reads) == 1


async def test_a_push_is_read_at_once(rig: Rig, driver: FakeDriver) -> None:
    driver.readings = {"a": good("0", NOW)}
    rig.runner.device_bound(a_view("d", "a", collect=3_600_000), None)
    await until(lambda: rig.twin.said("a"))
    for number in range(1, 4):
        driver.readings["a"] = good(str(number), NOW)
        driver.changed()
        await until(lambda: rig.twin.said("a")[-1][0] == driver.readings["a"].text)


async def test_one_device_that_hangs_holds_up_none_of_fifty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drivers = {f"d{n}": FakeDriver(a=good("1", NOW)) for n in range(49)}
    hanging = Hanging()
    made = Rig({**drivers, "bad": hanging})
    monkeypatch.setattr(sessions, "now_ms", lambda: NOW)
    async with running(made.runner):
        made.runner.device_bound(a_view("bad", "a"), None)
        for name in drivers:
            made.runner.device_bound(a_view(name, "a"), None)
        await until(lambda: all(len(each.reads) > 1 for each in drivers.values()))
        assert len(hanging.reads) == 1
        assert made.sample("twinspan_edge_mapper_devices", state="connected") == 50
    assert made.sample("twinspan_edge_mapper_devices", state="connected") == 0


async def test_a_device_that_does_not_answer_waits_and_is_counted(
    rig: Rig, driver: FakeDriver
) -> None:
    driver.broken = {"a": DeviceUnreachable()}
    rig.runner.device_bound(a_view("d", "a"), None)
    await until(lambda: "connection" in rig.faults.parts)
    failures = "twinspan_edge_mapper_call_failures_total"
    assert rig.sample(failures, call="read", cause="unreachable") == 1
    assert rig.sample("twinspan_edge_mapper_devices", state="waiting") == 1
    assert rig.sample("twinspan_edge_mapper_call_duration_seconds_count", call="connect") == 1


class Sleeper(FakeDriver):
    """Takes a value for later until it is heard."""

    def __init__(self) -> None:
        super().__init__(lamp=good("off", NOW))
        self.wrote: list[str] = []
        self.withdrawn: list[str] = []

    async def write(self, name: str, text: str) -> None:
        self.wrote.append(text)
        raise TakenLater(f"{text!r} waits")

    async def withdraw(self, name: str) -> None:
        self.withdrawn.append(name)


async def test_a_value_that_waits_for_a_sleeper_is_told_until_it_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver = Sleeper()
    rig = Rig({"d": driver})
    async with running(rig.runner):
        wanted = {"lamp": Twin(expected=TwinValue(value="on"), actual=TwinValue(value="off"))}
        monkeypatch.setattr(rig.twin, "twins", lambda _key: wanted)
        rig.runner.device_bound(a_view("d", "lamp"), None)
        await until(lambda: rig.faults.parts.get("wish lamp") == "'on' waits")
        wanted["lamp"] = Twin(expected=TwinValue(value="on"), actual=TwinValue(value="on"))
        driver.changed()
        await until(lambda: "wish lamp" not in rig.faults.parts)
        assert driver.wrote == ["on"]


async def test_a_wish_that_is_taken_back_is_taken_from_the_driver_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else a valve would open when its device wakes, hours after somebody thought better of it."""
    driver = Sleeper()
    rig = Rig({"d": driver})
    async with running(rig.runner):
        on, off = TwinValue(value="on"), TwinValue(value="off")
        wanted = {"lamp": Twin(expected=on, actual=off)}
        monkeypatch.setattr(rig.twin, "twins", lambda _key: wanted)
        rig.runner.device_bound(a_view("d", "lamp"), None)
        await until(lambda: "wish lamp" in rig.faults.parts)
        assert driver.withdrawn == []
        wanted["lamp"] = Twin(expected=off, actual=off)
        driver.changed()
        await until(lambda: driver.withdrawn == ["lamp"])
        wanted["lamp"] = Twin(expected=on, actual=off)  # and thought so again: it is asked at once
        driver.changed()
        await until(lambda: driver.wrote == ["on", "on"])


async def test_a_wish_that_a_lost_driver_kept_is_written_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What waits for a sleeper is lost with the mapper's process; the wish is not."""
    monkeypatch.setattr(runners, "RETRY_FIRST", 0.01)
    driver = Sleeper()
    rig = Rig({"d": driver})
    async with running(rig.runner):
        wanted = {"lamp": Twin(expected=TwinValue(value="on"), actual=TwinValue(value="off"))}
        monkeypatch.setattr(rig.twin, "twins", lambda _key: wanted)
        rig.runner.device_bound(a_view("d", "lamp"), None)
        await until(lambda: driver.wrote == ["on"])
        driver.broken = {"lamp": DeviceUnreachable()}
        driver.changed()
        await until(lambda: rig.faults.parts.get("connection"))
        driver.broken = {}
        await until(lambda: driver.wrote == ["on", "on"])


class Mute(FakeDriver):
    """Takes values, and shows those that the test sets."""

    def __init__(self) -> None:
        super().__init__(seen=good("0", NOW))
        self.wrote: list[tuple[str, str]] = []

    async def write(self, name: str, text: str) -> None:
        self.wrote.append((name, text))


async def test_what_cannot_be_read_is_written_once_for_each_wish_and_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(properties, "REWRITE_SECONDS", 0.0)
    monkeypatch.setattr(runners, "RETRY_FIRST", 0.01)
    driver = Mute()
    driver.readings["bad"] = Reading("", Quality.BAD, NOW, "write only")
    rig = Rig({"d": driver})
    wanted = {name: Twin(expected=TwinValue(value="1")) for name in ("seen", "mute", "bad")}
    monkeypatch.setattr(rig.twin, "twins", lambda _key: wanted)
    async with running(rig.runner):
        rig.runner.device_bound(a_view("d", *wanted), None)
        await until(lambda: driver.wrote.count(("seen", "1")) > 3)  # it shows another value
        assert driver.wrote.count(("mute", "1")) == driver.wrote.count(("bad", "1")) == 1
        wanted["mute"] = Twin(expected=TwinValue(value="2"))
        await until(lambda: ("mute", "2") in driver.wrote)
        wanted["mute"] = Twin(expected=TwinValue(value="1"))
        await until(lambda: driver.wrote.count(("mute", "1")) == 2)
        driver.broken = {"seen": DeviceUnreachable()}
        await until(lambda: rig.faults.parts.get("connection"))
        driver.broken = {}
        await until(lambda: driver.wrote.count(("mute", "1")) == 3)
        driver.readings["mute"] = good("7", NOW)
        await until(lambda: driver.wrote.count(("mute", "1")) > 4)


async def test_a_sleeper_that_shows_nothing_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(properties, "REWRITE_SECONDS", 0.0)
    driver = Sleeper()
    driver.readings = {}
    rig = Rig({"d": driver})
    wanted = {"lamp": Twin(expected=TwinValue(value="on"))}
    monkeypatch.setattr(rig.twin, "twins", lambda _key: wanted)
    async with running(rig.runner):
        rig.runner.device_bound(a_view("d", "lamp"), None)
        await until(lambda: len(driver.wrote) > 2)


async def test_a_value_beyond_the_models_bounds_is_reported_as_uncertain_and_says_why(
    rig: Rig, driver: FakeDriver
) -> None:
    driver.readings = {"a": good("100.5", NOW)}
    rig.runner.device_bound(a_view("d", "a"), a_model(minimum="0", maximum="100"))
    await until(lambda: rig.sent)
    assert rig.twin.said("a") == [("100.5", NOW, "uncertain")]
    assert rig.sent[0].properties == {"uncertain": "a"}
    assert rig.faults.parts == {"property a": "a value above the model's maximum of 100"}
    assert rig.sample("twinspan_edge_mapper_reads_total", quality="uncertain") >= 1
    driver.readings["a"] = good("100", NOW)
    await until(lambda: len(rig.twin.said("a")) == 2)
    assert rig.twin.said("a")[1] == ("100", NOW, "")
    assert rig.faults.parts == {}


@pytest.mark.parametrize(
    ("rule", "text", "fault"),
    [
        (
            ValueRule(PropertyType.INT, minimum=0, maximum=10),
            "-1",
            "below the model's minimum of 0",
        ),
        (ValueRule(PropertyType.DOUBLE, maximum=1.5), "1.5000001", "above the model's maximum"),
        (ValueRule(PropertyType.FLOAT, maximum=0.1), "0.10000000149011612", ""),
        (ValueRule(PropertyType.FLOAT, minimum=-0.1), "-0.11", "below"),
        (ValueRule(PropertyType.INT, maximum=10), "warm", ""),
        (ValueRule(PropertyType.STRING, maximum=10), "11", ""),
        (ValueRule(PropertyType.INT), "11", ""),
        (None, "11", ""),
    ],
    ids=["low", "high", "32 bits", "low in 32 bits", "no number", "text", "no bounds", "no model"],
)
def test_bounds_of_the_model_hold_for_numbers(
    rule: ValueRule | None, text: str, fault: str
) -> None:
    said = beyond(rule, text)
    assert fault in said
    assert bool(said) == bool(fault)
