"""Commands that wait on disk for their devices: order, bounds, crashes, failures; with links of the test."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.config.hono import StoredCommands as Settings
from gateway.errors import (
    GatewayError,
    NoConsumer,
    NotProcessed,
    Rejected,
    StoreUnavailable,
    Undeliverable,
)
from gateway.hono import stored_command_failures
from gateway.hono.kafka_records import DELIVERY_FAILURE
from gateway.hono.stored_commands import StoredCommands
from gateway.model.message import (
    Adapter,
    Command,
    CommandResponse,
    DeviceCommand,
    MessagingType,
)
from gateway.model.ports import Done
from gateway.store.database import Database
from tests.hono_rig import Core, a_core, a_fleet, until

KEEPS: Any = {"ext": {"stored-commands": {"ttl": 600}}}


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


class Link:
    """A device's link: keeps what it gets, answers with `outcome`, or holds the answers."""

    def __init__(self, outcome: GatewayError | None = None, *, holds: bool = False) -> None:
        self.got: list[DeviceCommand] = []
        self.held: list[Done] | None = [] if holds else None
        self.outcome = outcome

    def deliver(self, command: DeviceCommand, done: Done) -> None:
        self.got.append(command)
        if self.held is None:
            done(self.outcome)
        else:
            self.held.append(done)

    @property
    def names(self) -> list[str]:
        return [command.command.name for command in self.got]


class App:
    """Who waits for responses."""

    def __init__(self, error: GatewayError | None = None) -> None:
        self.got: list[CommandResponse] = []
        self.error = error

    def owns(self, tenant: str, reply_id: str) -> bool:
        return tenant == "acme" and reply_id in ("app", "")

    def take(self, response: CommandResponse, done: Done) -> None:
        self.got.append(response)
        done(self.error)


def a_command(name: str, device: str = "d1", **changes: Any) -> Command:
    members: dict[str, Any] = {"tenant": "acme", "device": device, "name": name, "payload": b"x"}
    return Command(**{**members, **changes})


def a_request(name: str, **changes: Any) -> Command:
    return a_command(
        name, **{"correlation_id": f"c-{name}", "reply_to": "command_response/acme/app", **changes}
    )


def send(core: Core, command: Command) -> list[GatewayError | None]:
    """Route a command; its outcome comes into the list."""
    outcomes: list[GatewayError | None] = []
    core.commands.route(command, outcomes.append)
    return outcomes


async def route(core: Core, command: Command) -> GatewayError | None:
    outcomes = send(core, command)
    await until(lambda: bool(outcomes))
    return outcomes[0]


def listen(core: Core, link: Link, device: str = "d1", **options: Any) -> Any:
    return core.commands.subscribe("acme", device, link, adapter=Adapter.MQTT, **options)


def outcomes_of(core: Core, outcome: str) -> float:
    return core.sample("twinspan_stored_commands_total", tenant="acme", outcome=outcome)


def waiting(core: Core) -> float:
    return core.sample("twinspan_stored_commands_waiting", tenant="acme")


async def a_keeping_fleet(core: Core) -> None:
    await a_fleet(core)
    await core.registry.update_tenant("acme", KEEPS, None)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def core(clock: Clock) -> AsyncIterator[Core]:
    async with a_core(clock=clock) as core:
        await a_keeping_fleet(core)
        yield core


# --- keeping and delivering -------------------------------------------------------------------------


async def test_without_the_option_an_application_knows_at_once(core: Core) -> None:
    await core.registry.update_tenant("acme", {}, None)
    assert isinstance(await route(core, a_command("a", ttl=60.0)), NoConsumer)
    assert waiting(core) == 0


async def test_commands_wait_and_come_in_their_order_when_the_device_does(core: Core) -> None:
    for name in "abc":
        assert await route(core, a_command(name)) is None
    assert waiting(core) == 3
    link = Link()
    listen(core, link)
    await until(lambda: waiting(core) == 0)
    assert link.names == ["a", "b", "c"]
    assert (outcomes_of(core, "kept"), outcomes_of(core, "delivered")) == (3, 3)
    assert core.sample("twinspan_stored_commands_bytes") == 0


async def test_who_watches_sees_it_kept_and_then_delivered(core: Core) -> None:
    watcher, end = core.traffic.watch("acme", frozenset(), None)
    await route(core, a_command("a"))
    listen(core, Link())
    await until(lambda: waiting(core) == 0)
    _, lines = await watcher.lines()
    end()
    assert [(line.subject, line.kept, line.status) for line in lines] == [
        ("a", True, 202),
        ("a", False, 202),
    ]
    name = "hono_command_processing_duration_seconds_count"
    labels = {"tenant": "acme", "direction": "one-way", "component_name": "hono-command-router"}
    assert core.sample(name, status="forwarded", **labels) == 1


async def test_a_device_that_listens_gets_its_command_without_the_disk(core: Core) -> None:
    link = Link()
    listen(core, link)
    assert await route(core, a_command("a")) is None
    assert (link.names, outcomes_of(core, "kept")) == (["a"], 0)


async def test_a_command_that_the_device_did_not_take_is_kept_and_sent_again_with_its_id(
    core: Core,
) -> None:
    mute = Link(Undeliverable("no PUBACK"))
    end = listen(core, mute)
    assert await route(core, a_command("a")) is None
    assert waiting(core) == 1
    end()
    link = Link()
    listen(core, link)
    await until(lambda: waiting(core) == 0)
    first, second = mute.got[0].mark, link.got[0].mark
    assert first is not None
    assert second is not None
    assert (first.redelivered, second.redelivered) == (False, True)
    assert first.command_id == second.command_id


async def test_a_device_that_listens_and_takes_nothing_is_tried_again_after_a_while() -> None:
    async with a_core(first_pause=0.001) as core:
        await a_keeping_fleet(core)
        link = Link(Undeliverable("no PUBACK"))
        listen(core, link)
        assert await route(core, a_command("a")) is None
        await until(lambda: len(link.got) >= 3)
        link.outcome = None
        await until(lambda: waiting(core) == 0)
        assert set(link.names) == {"a"}


async def test_what_comes_while_one_is_under_way_waits_behind_it(core: Core) -> None:
    link = Link(holds=True)
    listen(core, link)
    first = send(core, a_command("a"))
    await until(lambda: bool(link.got))
    assert await route(core, a_command("b")) is None
    assert await route(core, a_command("c")) is None
    assert (first, link.names, waiting(core)) == ([], ["a"], 2)
    assert link.held is not None
    for name in "abc":
        await until(lambda: bool(link.held))
        assert link.names[-1] == name
        link.held.pop()(None)
    await until(lambda: waiting(core) == 0)
    assert first == [None]


async def test_one_that_failed_comes_before_those_that_were_kept_meanwhile(core: Core) -> None:
    link = Link(holds=True)
    end = listen(core, link)
    first = send(core, a_command("a"))
    await until(lambda: bool(link.got))
    assert await route(core, a_command("b")) is None
    assert link.held is not None
    end()
    link.held.pop()(Undeliverable("the device is gone"))
    await until(lambda: first == [None])
    other = Link()
    listen(core, other)
    await until(lambda: waiting(core) == 0)
    assert other.names == ["a", "b"]


async def test_a_command_that_is_not_to_be_kept_does_not_wait_for_those_that_are(
    core: Core,
) -> None:
    await core.registry.update_tenant("acme", {"ext": {"stored-commands": True}}, None)
    assert await route(core, a_command("a", ttl=60.0)) is None
    assert isinstance(await route(core, a_command("b")), NoConsumer)


async def test_a_link_that_takes_one_at_a_time_gets_the_next_with_the_next_poll(
    core: Core,
) -> None:
    for name in "ab":
        await route(core, a_command(name))

    class Poll(Link):
        def deliver(self, command: DeviceCommand, done: Done) -> None:
            if self.got:
                done(NoConsumer())
            else:
                super().deliver(command, done)

    for name, left in (("a", 1), ("b", 0)):
        poll = Poll()
        end = listen(core, poll, announce=False)
        await until(lambda left=left: waiting(core) == left)  # type: ignore[misc]
        end()
        assert poll.names == [name]


async def test_the_request_id_is_the_same_each_time(core: Core) -> None:
    mute = Link(Undeliverable("no PUBACK"))
    end = listen(core, mute)
    await route(core, a_request("a"))
    end()
    link = Link()
    listen(core, link)
    await until(lambda: bool(link.got))
    assert mute.got[0].request_id == link.got[0].request_id == "003c-aapp"


# --- gateways ---------------------------------------------------------------------------------------


async def test_commands_wait_for_the_gateway_of_a_device(core: Core) -> None:
    assert await route(core, a_command("a", "d2")) is None
    assert await route(core, a_command("b")) is None
    own = Link()
    listen(core, own, "gw-1", for_its_devices=False)
    gateway = Link()
    listen(core, gateway, "gw-1")
    await until(lambda: waiting(core) == 1)
    assert (gateway.names, own.names) == (["a"], [])
    assert gateway.got[0].gateway == "gw-1"
    assert gateway.got[0].target == "d2"


async def test_commands_wait_for_a_gateway_that_listens_for_one_device(core: Core) -> None:
    assert await route(core, a_command("a", "d2")) is None
    gateway = Link()
    listen(core, gateway, "d2", gateway="gw-1")
    await until(lambda: waiting(core) == 0)
    assert gateway.names == ["a"]


async def test_commands_wait_for_the_gateways_of_a_group(core: Core) -> None:
    await core.device("acme", "gw-2", {"memberOf": ["hall", "yard"]})
    await core.device("acme", "d3", {"viaGroups": ["hall"]})
    await core.device("acme", "d4", {"viaGroups": ["cellar"]})
    for device in ("d3", "d4"):
        assert await route(core, a_command(device, device)) is None
    gateway = Link()
    listen(core, gateway, "gw-2")
    await until(lambda: waiting(core) == 1)
    assert gateway.names == ["d3"]


async def test_many_devices_behind_one_gateway_all_get_theirs(core: Core) -> None:
    names = [f"e{number}" for number in range(150)]
    for name in names:
        await core.device("acme", name, {"via": ["gw-1"]})
    outcomes = [send(core, a_command(name, name)) for name in names]
    await until(lambda: waiting(core) == 150)
    gateway = Link()
    listen(core, gateway, "gw-1")
    await until(lambda: waiting(core) == 0)
    assert sorted(gateway.names) == sorted(names)
    assert outcomes == [[None]] * 150


# --- bounds -----------------------------------------------------------------------------------------


async def test_a_full_line_refuses_as_without_the_option(clock: Clock) -> None:
    async with a_core(keeps=Settings(max_per_device=2), clock=clock) as core:
        await a_keeping_fleet(core)
        outcomes = [await route(core, a_command(name)) for name in "abc"]
        assert outcomes[:2] == [None, None]
        assert isinstance(outcomes[2], Undeliverable)
        assert await route(core, a_command("other", "d2")) is None
        assert outcomes_of(core, "refused") == 1
        link = Link()
        listen(core, link)
        await until(lambda: waiting(core) == 1)
        assert link.names == ["a", "b"]


@pytest.mark.parametrize(
    "settings", [Settings(max_bytes_per_tenant=3_000), Settings(max_bytes=3_000)]
)
async def test_bytes_are_bounded(clock: Clock, settings: Settings) -> None:
    async with a_core(keeps=settings, clock=clock) as core:
        await a_keeping_fleet(core)
        big = a_command("a", payload=bytes(2_000))
        assert await route(core, big) is None
        assert isinstance(await route(core, big), Undeliverable)
        assert isinstance(await route(core, a_command("a", "d2", payload=bytes(2_000))), NoConsumer)
        listen(core, Link())
        await until(lambda: waiting(core) == 0)
        assert await route(core, a_command("a", "d2", payload=bytes(2_000))) is None


async def test_a_store_that_cannot_write_refuses(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    database: Any = core.stored._database

    def full(_work: Any, done: Any, *, grows: bool = False) -> None:
        assert grows
        done(StoreUnavailable("the disk is nearly full"))

    monkeypatch.setattr(database, "submit", full)
    assert isinstance(await route(core, a_command("a")), NoConsumer)
    assert waiting(core) == 0
    monkeypatch.undo()
    assert await route(core, a_command("b")) is None


async def test_what_was_delivered_while_the_store_could_not_write_is_noted_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with a_core(first_pause=0.05) as core:
        await a_keeping_fleet(core)
        await _delivered_to_a_full_disk(core, monkeypatch)


async def _delivered_to_a_full_disk(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    await route(core, a_command("a"))
    database: Any = core.stored._database
    line = core.stored._accounts.line("acme", "d1")

    def full(_work: Any, done: Any, *, grows: bool = False) -> None:
        assert not grows
        done(StoreUnavailable("the disk is full"))

    class Once(Link):
        def deliver(self, command: DeviceCommand, done: Done) -> None:
            monkeypatch.setattr(database, "submit", full)
            super().deliver(command, done)

    link = Once()
    end = listen(core, link)
    await until(lambda: line.over is not None and line.timer is not None)
    end()
    monkeypatch.undo()
    await until(lambda: waiting(core) == 0)
    listen(core, link)
    assert link.names == ["a"]


# --- crashes ----------------------------------------------------------------------------------------


async def test_commands_outlive_the_process_and_the_first_may_be_a_repetition(
    tmp_path: Path, clock: Clock
) -> None:
    file = tmp_path / "gateway.db"
    async with a_core(Database(file, "gateway"), clock=clock) as core:
        await a_keeping_fleet(core)
        for name in "ab":
            await route(core, a_request(name))
        held = Link(holds=True)
        listen(core, held)
        await until(lambda: bool(held.got))
    async with a_core(Database(file, "gateway"), clock=clock) as core:
        assert waiting(core) == 2
        link = Link()
        listen(core, link)
        await until(lambda: waiting(core) == 0)
        assert link.names == ["a", "b"]
        marks = [command.mark for command in link.got]
        assert [mark.redelivered for mark in marks if mark is not None] == [True, False]
        assert held.got[0].mark is not None
        assert marks[0] is not None
        assert marks[0].command_id == held.got[0].mark.command_id
        assert link.got[0].request_id == held.got[0].request_id


async def test_a_command_that_is_read_again_at_its_sender_waits_once(core: Core) -> None:
    for _ in range(2):
        assert await route(core, a_command("a", origin="kafka/0/17")) is None
    assert waiting(core) == 1
    link = Link()
    listen(core, link)
    await until(lambda: waiting(core) == 0)
    assert link.names == ["a"]
    assert link.got[0].marks == (("x-opt-twinspan-command-id", "kafka/0/17"),)


class Moody(Link):
    """A link that takes some commands, and says so a moment later."""

    def __init__(self, chance: random.Random, taken: list[str]) -> None:
        super().__init__()
        self._chance = chance
        self._taken = taken

    def deliver(self, command: DeviceCommand, done: Done) -> None:
        outcome = self._chance.choice([None, None, NoConsumer(), Undeliverable("no PUBACK")])
        if outcome is None:
            self._taken.append(command.command.name)
        asyncio.get_running_loop().call_soon(done, outcome)


class Life:
    """What happens to three devices: commands, links that come and go."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        devices = ("d1", "d2", "d3")
        self.accepted: dict[str, list[str]] = {device: [] for device in devices}
        self.taken: dict[str, list[str]] = {device: [] for device in devices}

    def come(self, core: Core, device: str) -> Any:
        return listen(core, Moody(self.chance, self.taken[device]), device, announce=False)

    async def go_on(self, core: Core) -> None:
        ends: list[Any] = []
        for number in range(60):
            device = self.chance.choice(list(self.taken))
            step = self.chance.randrange(4)
            if step < 2 and await route(core, a_command(f"{number}", device)) is None:
                self.accepted[device].append(f"{number}")
            elif step == 2:
                ends.append(self.come(core, device))
            elif step == 3 and ends:
                ends.pop(self.chance.randrange(len(ends)))()
        for end in ends:
            end()
        lines = core.stored._accounts._lines
        await until(lambda: not any(line.is_busy for line in lines.values()))


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_happens_each_device_gets_its_commands_once_and_in_order(
    tmp_path: Path, seed: int
) -> None:
    life = Life(seed)
    file = tmp_path / "gateway.db"
    for number in range(3):
        async with a_core(Database(file, "gateway"), first_pause=0.001) as core:
            if number == 0:
                await a_keeping_fleet(core)
                await core.device("acme", "d3")
            await life.go_on(core)
    async with a_core(Database(file, "gateway"), first_pause=0.001) as core:
        for device in life.taken:
            life.come(core, device)
        await until(lambda: waiting(core) == 0)
    assert life.taken == life.accepted
    assert all(len(names) > 10 for names in life.taken.values())


# --- what is not delivered --------------------------------------------------------------------------


async def test_who_waits_for_a_response_hears_that_the_command_expired(
    core: Core, clock: Clock
) -> None:
    app = App()
    core.commands.add_sink(app)
    assert await route(core, a_request("a", ttl=60.0)) is None
    assert await route(core, a_command("b", ttl=60.0)) is None
    assert await route(core, a_request("c", ttl=600.0)) is None
    clock.now += 61
    core.stored._failures.expect(0.0)
    await until(lambda: waiting(core) == 1)
    (told,) = app.got
    assert (told.status, told.correlation_id, told.reply_id) == (503, "c-a", "app")
    assert told.content_type == DELIVERY_FAILURE
    assert msgspec.json.decode(told.payload) == {"error": stored_command_failures.EXPIRED}
    assert outcomes_of(core, "expired") == 2
    link = Link()
    listen(core, link)
    await until(lambda: waiting(core) == 0)
    assert link.names == ["c"]


async def test_expiry_needs_nobody_to_come(core: Core, clock: Clock) -> None:
    await route(core, a_command("a", ttl=0.05))
    clock.now += 0.05
    await until(lambda: waiting(core) == 0)
    assert outcomes_of(core, "expired") == 1


async def test_an_expired_command_is_not_delivered(core: Core, clock: Clock) -> None:
    await route(core, a_command("a", ttl=60.0))
    await route(core, a_command("b", ttl=120.0))
    clock.now += 61
    link = Link()
    listen(core, link)
    await until(lambda: bool(link.got))
    assert link.names == ["b"]


@pytest.mark.parametrize(
    ("refusal", "status"),
    [
        (Rejected("no such room"), 400),
        (NotProcessed(details={"delivery_failed": False, "undeliverable_here": True}), 404),
    ],
)
async def test_what_the_device_refuses_is_told_and_the_next_one_comes(
    core: Core, refusal: GatewayError, status: int
) -> None:
    app = App()
    core.commands.add_sink(app)
    for name in "ab":
        await route(core, a_request(name))

    class Picky(Link):
        def deliver(self, command: DeviceCommand, done: Done) -> None:
            self.outcome = refusal if command.command.name == "a" else None
            super().deliver(command, done)

    link = Picky()
    listen(core, link)
    await until(lambda: waiting(core) == 0)
    assert link.names == ["a", "b"]
    assert [(told.correlation_id, told.status) for told in app.got] == [("c-a", status)]
    assert (outcomes_of(core, "rejected"), outcomes_of(core, "delivered")) == (1, 1)


async def test_over_the_data_volume_commands_wait(core: Core) -> None:
    await route(core, a_command("a"))
    volume: Any = {"effective-since": "2020-01-01T00:00:00Z", "max-bytes": 0}
    await core.registry.update_tenant(
        "acme", {**KEEPS, "resource-limits": {"data-volume": volume}}, None
    )
    link = Link()
    end = listen(core, link)
    await until(lambda: core.stored._accounts.line("acme", "d1").timer is not None)
    assert (link.names, waiting(core)) == ([], 1)
    end()
    await core.registry.update_tenant("acme", KEEPS, None)
    listen(core, link)
    await until(lambda: waiting(core) == 0)
    assert link.names == ["a"]


async def test_kafka_applications_get_their_metadata_back(core: Core) -> None:
    app = App()
    core.commands.add_sink(app)
    metadata = {"delivery-failure-notification-metadata-x": "7"}
    await route(
        core,
        a_request(
            "a",
            reply_to="command_response/acme/",
            messaging=MessagingType.KAFKA,
            properties=metadata,
        ),
    )
    await core.stored.give_up("acme", "d1")
    await until(lambda: bool(app.got))
    assert (app.got[0].reply_id, app.got[0].status) == ("", 410)
    assert app.got[0].properties == metadata


async def test_kafka_applications_that_want_no_notifications_get_none(clock: Clock) -> None:
    async with a_core(clock=clock) as core:
        await a_keeping_fleet(core)
        app = App()
        core.commands.add_sink(app)
        core.stored._failures._tells_kafka = False
        await route(
            core,
            a_request("a", reply_to="command_response/acme/", messaging=MessagingType.KAFKA),
        )
        await core.stored.give_up("acme", "d1")
        await until(lambda: waiting(core) == 0)
        assert app.got == []


async def test_an_application_that_cannot_be_told_now_is_told_later(
    core: Core, clock: Clock
) -> None:
    app = App(Undeliverable("the broker is away"))
    core.commands.add_sink(app)
    await route(core, a_request("a"))
    await core.stored.give_up("acme", "d1")
    await until(lambda: bool(app.got))
    assert waiting(core) == 1
    app.error = None
    clock.now += stored_command_failures.TRY_AGAIN
    core.stored._failures.expect(0.0)
    await until(lambda: waiting(core) == 0)
    assert len(app.got) == 2


async def test_an_application_is_not_told_for_ever(core: Core, clock: Clock) -> None:
    app = App(Undeliverable("the broker is away"))
    core.commands.add_sink(app)
    await route(core, a_request("a"))
    clock.now += 600 + stored_command_failures.PATIENCE + 1
    core.stored._failures.expect(0.0)
    await until(lambda: waiting(core) == 0)
    assert len(app.got) == 1


# --- registry ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["device", "devices", "tenant"])
async def test_commands_of_what_is_deleted_do_not_reach_its_successor(
    core: Core, what: str
) -> None:
    app = App()
    core.commands.add_sink(app)
    await route(core, a_request("a"))
    if what == "device":
        await core.registry.delete_device("acme", "d1", None)
    elif what == "devices":
        await core.registry.delete_devices("acme")
    else:
        await core.registry.delete_tenant("acme", None)
        await core.tenant("acme", KEEPS)
    if what != "tenant":
        await core.device("acme", "d1")
    await until(lambda: waiting(core) == 0)
    assert [told.status for told in app.got] == [404]
    link = Link()
    listen(core, link)
    assert await route(core, a_command("b")) is None
    assert link.names == ["b"]


async def test_a_device_that_went_while_nobody_looked_leaves_no_commands(
    tmp_path: Path, clock: Clock
) -> None:
    database = Database(tmp_path / "gateway.db", "gateway")
    async with a_core(database, clock=clock) as core:
        await a_keeping_fleet(core)
        await route(core, a_command("a"))
        await database.write(lambda db: db.execute("DELETE FROM device WHERE id = 'd1'") and None)
    async with a_core(Database(tmp_path / "gateway.db", "gateway"), clock=clock) as core:
        await until(lambda: outcomes_of(core, "rejected") == 1)
        assert waiting(core) == 0


async def test_a_disabled_device_gets_its_commands_when_it_is_enabled_again(core: Core) -> None:
    await route(core, a_command("a"))
    await core.registry.update_device("acme", "d1", {"enabled": False}, None)
    link = Link()
    end = listen(core, link)
    await until(lambda: not core.stored._accounts.line("acme", "d1").is_busy)
    end()
    assert (link.names, waiting(core)) == ([], 1)
    await core.registry.update_device("acme", "d1", {}, None)
    listen(core, link)
    await until(lambda: waiting(core) == 0)
    assert link.names == ["a"]


async def test_before_and_after_it_runs_commands_go_as_without_it(core: Core) -> None:
    still = StoredCommands(core.stored._database, Settings(), core.metrics)
    found: list[Any] = []
    core.registry.assert_device("acme", "d1", None, found.append)
    await until(lambda: bool(found))
    assert core.stored.terms(found[0], a_command("a")) is not None
    assert still.terms(found[0], a_command("a")) is None
    assert core.stored.terms(found[0], a_command("a", tenant="alias")) is None


async def test_a_hundred_devices_that_come_and_go_lose_and_double_nothing(core: Core) -> None:
    """Devices come while commands do; each command arrives once, in its order."""
    devices = [f"r{number}" for number in range(20)]
    for device in devices:
        await core.device("acme", device)
    links = {device: Link() for device in devices}
    outcomes = []
    for number in range(10):
        for at, device in enumerate(devices):
            outcomes.append(send(core, a_command(f"{number}", device)))
            if (at + number) % 3 == 0:
                end = listen(core, links[device], device, announce=False)
                await asyncio.sleep(0)
                end()
    await until(lambda: all(outcomes))
    assert set(map(tuple, outcomes)) == {(None,)}
    for device in devices:
        listen(core, links[device], device)
    await until(lambda: waiting(core) == 0)
    expected = [str(number) for number in range(10)]
    assert {device: link.names for device, link in links.items()} == dict.fromkeys(
        devices, expected
    )
