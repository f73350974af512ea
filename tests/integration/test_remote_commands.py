"""Commands to devices at adapters that know the command router through Hono's service APIs alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from gateway.errors import BadRequest, GatewayError, NoConsumer, NotProcessed, Rejected
from gateway.model.json import JsonObject
from gateway.model.message import Adapter, Command, CommandResponse, DeviceCommand
from gateway.model.ports import Done
from tests.hono_rig import Core, a_core, a_fleet, until
from tests.integration.remote_rig import Away, adapters_on, services_and_adapters
from tests.integration.test_remote_services import post
from tests.services_rig import the_services


class Link:
    """A device's link that the test plays."""

    def __init__(self, outcome: GatewayError | None = None) -> None:
        self.got: list[DeviceCommand] = []
        self.outcome = outcome

    def deliver(self, command: DeviceCommand, done: Done) -> None:
        self.got.append(command)
        done(self.outcome)


class Application:
    """Where an application waits for responses."""

    def __init__(self) -> None:
        self.responses: list[CommandResponse] = []
        self.outcome: GatewayError | None = None

    def owns(self, tenant: str, reply_id: str) -> bool:
        return (tenant, reply_id) == ("acme", "app/1")

    def take(self, response: CommandResponse, done: Done) -> None:
        self.responses.append(response)
        done(self.outcome)


def a_command(device: str = "d1", **changes: Any) -> Command:
    given: dict[str, Any] = {
        "tenant": "acme", "device": device, "name": "set", "payload": b'{"on": true}',
        "content_type": "application/json", "correlation_id": "c-1",
        "reply_to": "command_response/acme/app/1", **changes,
    }  # fmt: skip
    return Command(**given)


async def routed(core: Core, command: Command) -> GatewayError | None:
    """The outcome that the application sees."""
    future: asyncio.Future[GatewayError | None] = asyncio.get_running_loop().create_future()

    def told(error: GatewayError | None) -> None:
        if not future.done():
            future.set_result(error)

    core.commands.route(command, told)
    return await future


async def listening(
    core: Core, away: Away, link: Link, device: str = "d1", **options: Any
) -> Callable[[], None]:
    """Subscribe far away and wait until the router knows."""
    given: dict[str, Any] = {"adapter": Adapter.MQTT, "announce": False, **options}
    before = core.commands.newest_link("acme", device)
    end = away.side.commands.subscribe("acme", device, link, **given)
    await until(lambda: core.commands.newest_link("acme", device) is not before)
    return end


async def test_a_command_reaches_the_device_with_all_that_the_application_said() -> None:
    async with a_core() as core, services_and_adapters(core) as away:
        await a_fleet(core)
        link = Link()
        await listening(core, away, link)
        assert await routed(core, a_command(properties={"urgent": True})) is None
        (got,) = link.got
        assert (got.target, got.gateway, got.command.name) == ("d1", None, "set")
        assert (got.command.payload, got.command.content_type) == (
            b'{"on": true}',
            "application/json",
        )
        assert got.command.properties == {"urgent": True}
        assert got.request_id == "003c-1app/1"


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        (BadRequest("no such switch"), "no such switch"),
        (NotProcessed(details={"delivery_failed": True}), NotProcessed),
        (NoConsumer(), GatewayError),
    ],
    ids=["rejected", "modified", "released"],
)
async def test_the_device_s_answer_is_the_application_s_outcome(
    said: GatewayError, heard: type[GatewayError] | str
) -> None:
    async with a_core() as core, services_and_adapters(core) as away:
        await a_fleet(core)
        await listening(core, away, Link(said))
        error = await routed(core, a_command())
        if isinstance(heard, str):
            assert isinstance(error, Rejected)
            assert error.message == heard
        else:
            assert isinstance(error, heard)


async def test_a_response_goes_back_to_the_application_that_asked() -> None:
    async with a_core() as core, services_and_adapters(core) as away:
        await a_fleet(core)
        application = Application()
        core.commands.add_sink(application)
        link = Link()
        await listening(core, away, link, adapter=Adapter.HTTP)
        assert await routed(core, a_command()) is None
        path = f"/command/res/{link.got[0].request_id}?hono-cmd-status=200"
        assert (await post(away, path))[0] == 202
        (response,) = application.responses
        assert (response.device, response.status, response.correlation_id) == ("d1", 200, "c-1")
        assert (response.payload, response.content_type) == (b'{"t": 21}', "application/json")
        application.outcome = BadRequest("not now")
        assert (await post(away, path))[0] == 400
        assert (await post(away, path.replace("app/1", "gone")))[0] == 503


async def test_a_device_that_waits_over_http_gets_its_command() -> None:
    async with a_core() as core, services_and_adapters(core) as away:
        await a_fleet(core)
        upload = asyncio.create_task(post(away, "/telemetry?hono-ttd=20"))
        await until(lambda: bool(core.consumer.uploads))
        assert core.consumer.uploads[0].ttd == 20
        assert await routed(core, a_command()) is None
        assert await upload == (200, '{"on": true}')
        await until(lambda: core.commands.newest_link("acme", "d1") is None)
        assert isinstance(await routed(core, a_command()), NoConsumer)


async def test_a_gateway_gets_commands_of_its_devices() -> None:
    async with a_core() as core, services_and_adapters(core) as away:
        await a_fleet(core)
        link = Link()
        await listening(core, away, link, "gw-1")
        assert await routed(core, a_command("d2")) is None
        assert (link.got[0].target, link.got[0].gateway) == ("d2", "gw-1")


async def test_a_gateway_that_asks_for_one_device_gets_that_device_s_commands() -> None:
    async with a_core() as core, services_and_adapters(core) as away:
        await a_fleet(core)
        link = Link()
        await listening(core, away, link, "d2", gateway="gw-1", for_its_devices=False)
        assert await routed(core, a_command("d2")) is None
        assert (link.got[0].target, link.got[0].gateway) == ("d2", "gw-1")


async def test_of_several_gateways_the_last_known_one_is_chosen() -> None:
    async with a_core() as core, services_and_adapters(core) as away:
        await a_fleet(core)
        await core.device("acme", "gw-2", auth_id="gw2")
        await core.device("acme", "d9", {"via": ["gw-1", "gw-2"]})
        first, second = Link(), Link()
        await listening(core, away, first, "gw-1")
        await listening(core, away, second, "gw-2")
        user = ("gw2@acme", "pw")
        assert (await post(away, "/telemetry/acme/d9", "-X", "PUT", user=user))[0] == 202
        await until(lambda: core.last_gateways.get("acme", "d9") == "gw-2")
        assert await routed(core, a_command("d9")) is None
        assert (len(first.got), len(second.got)) == (0, 1)


async def test_applications_hear_when_a_device_listens_and_when_it_does_not_any_more() -> None:
    async with a_core() as core, services_and_adapters(core) as away:
        await a_fleet(core)
        end = await listening(core, away, Link(), announce=True)
        await until(lambda: [m.ttd for m in core.consumer.messages] == [-1])
        end()
        await until(lambda: [m.ttd for m in core.consumer.messages] == [-1, 0])
        assert core.consumer.messages[0].adapter.startswith("hono-mqtt-away")


async def test_the_newest_of_two_links_gets_commands_and_the_older_one_again_after_it() -> None:
    async with a_core() as core, services_and_adapters(core) as away:
        await a_fleet(core)
        old, new = Link(), Link()
        await listening(core, away, old)
        end = await listening(core, away, new, adapter=Adapter.AMQP)
        assert await routed(core, a_command()) is None
        assert (len(old.got), len(new.got)) == (0, 1)
        before = core.commands.newest_link("acme", "d1")
        end()
        await until(lambda: core.commands.newest_link("acme", "d1") not in (before, None))
        assert await routed(core, a_command()) is None
        assert (len(old.got), len(new.got)) == (1, 1)


async def test_a_device_that_moves_to_another_process_takes_its_commands_along() -> None:
    async with a_core() as core, the_services(core) as services:
        await a_fleet(core)
        async with (
            adapters_on(services, instance="one") as one,
            adapters_on(services, instance="two") as two,
        ):
            old, new = Link(), Link()
            leave = await listening(core, one, old)
            await listening(core, two, new)
            leave()  # the old connection ends later than the new one began
            assert await routed(core, a_command()) is None
            assert (len(old.got), len(new.got)) == (0, 1)


async def test_after_the_services_were_away_commands_find_their_devices_again() -> None:
    async with a_core() as core:
        await a_fleet(core)
        async with the_services(core) as services:
            bind = services.address
            up = adapters_on(services)
            away = await up.__aenter__()
            link = Link()
            await listening(core, away, link)
        try:
            await until(lambda: not away.side.downstream.is_connected)
            assert isinstance(await routed(core, a_command()), NoConsumer)
            async with the_services(core, bind=bind):
                async with asyncio.timeout(30):  # registered still, and reachable again by and by
                    while await routed(core, a_command()) is not None:  # noqa: ASYNC110  no event tells
                        await asyncio.sleep(0.01)
                assert len(link.got) == 1
        finally:
            await up.__aexit__(None, None, None)


async def test_a_command_that_no_device_can_be_told_is_malformed_for_the_application() -> None:
    async with a_core() as core, services_and_adapters(core) as away:
        await a_fleet(core)
        link = Link()
        await listening(core, away, link)
        error = await routed(core, a_command(correlation_id="x" * 256))
        assert isinstance(error, Rejected)
        assert not link.got


async def test_commands_are_counted_and_limited_where_the_router_does_not() -> None:
    async with a_core() as core, services_and_adapters(core) as away:
        await a_fleet(core)
        volume: JsonObject = {"effective-since": "2020-01-01T00:00:00Z", "max-bytes": 30}
        link = Link()
        await listening(core, away, link)
        assert await routed(core, a_command(reply_to=None)) is None
        labels = {
            "tenant": "acme", "direction": "one-way", "status": "forwarded",
            "component_name": "hono-command-router",
        }  # fmt: skip
        assert away.sample("hono_command_payload_bytes_count", **labels) == 1
        heard: list[Any] = []
        away.side.registry.on_change(heard.append)
        await core.registry.update_tenant(
            "acme", {"resource-limits": {"data-volume": volume}}, None
        )
        await until(lambda: bool(heard))
        assert await routed(core, a_command(payload=b"x" * 25)) is None
        core.usage.forget("acme")  # another Hono's router does not count
        error = await routed(core, a_command(payload=b"x" * 25))
        assert isinstance(error, Rejected)
        assert len(link.got) == 2
        assert json.dumps(error.message) == json.dumps(
            "tenant's accumulated message data volume exceeds configured maximum value"
        )
