"""Commands over the MQTT adapter with real clients: subscriptions, delivery, responses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.errors import (
    BadRequest,
    NoConsumer,
)
from gateway.model.message import (
    DeviceCommand,
)
from gateway.model.trace import TraceContext
from gateway.runtime.module import running
from gateway.wire.mqtt import packets as p
from gateway.wire.mqtt.codec import encode
from gateway.wire.mqtt.packets import V3, V5
from tests.mqtt_peers import raw_client, run_tool, until
from tests.mqtt_rig import BOTH, TRACEPARENT, V50, Outcome, Rig, a_command


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    async with running(made.adapter):
        yield made
    assert made.registry.leases == 0
    assert not made.commands.links


# --- commands ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("filters", "codes"),
    [
        ([("command///req/#", 0), ("c///q/#", 1)], [0, 1]),
        ([("command//+/req/#", 1), ("command/T/+/req/#", 1)], [1, 1]),
        ([("command//4712/req/#", 1), ("command//unknown/req/#", 1)], [1, 0x80]),
        ([("command/+//req/#", 1), ("command/OTHER//req/#", 1)], [0x80, 0x80]),
        ([("command///req/#", 2), ("command///req", 1), ("#", 0)], [0x80, 0x80, 0x80]),
        ([("error///#", 1), ("error///#", 0), ("error//unknown/#", 0)], [0x80, 0, 0x80]),
        ([("command///res/#", 0), ("c///req/#/x", 0)], [0x80, 0x80]),
    ],
)
@BOTH
async def test_subscriptions_are_granted_or_not_one_by_one(
    rig: Rig, version: int, filters: list[tuple[str, int]], codes: list[int]
) -> None:
    async with raw_client(rig.address) as raw:
        wire_version = V5 if version == V50 else V3
        connect = p.Connect("c", wire_version, username="gw@T", password=b"gw-secret")
        raw.send(encode(connect, wire_version))
        head = await raw.read(2)
        await raw.read(head[1])
        entries = tuple(p.Subscription(f, qos) for f, qos in filters)
        raw.send(encode(p.Subscribe(9, entries), wire_version))
        answer = encode(p.SubAck(9, tuple(codes)), wire_version)
        assert await raw.read(len(answer)) == answer


async def test_a_one_way_command_reaches_the_device(rig: Rig) -> None:
    outcome = Outcome()
    async with rig.sensor() as device:
        assert await device.subscribe(("command///req/#", 1)) == [1]
        rig.commands.links["T", "4711", None, False].deliver(a_command(), outcome)
        message = await device.message()
        assert (message.topic, message.payload, message.qos, message.retain) == (
            "command///req//set",
            b"on",
            1,
            False,
        )
        await until(lambda: outcome.told)
    assert outcome.told == [None]


@pytest.mark.parametrize(
    ("listens", "link", "command", "topic"),
    [
        ("c///q/#", ("4711", None, False), a_command(request_id="0abc"), "c///q/0abc/set"),
        ("command/T//req/#", ("4711", None, False), a_command(), "command/T//req//set"),
        ("command//4711/req/#", ("4711", None, False), a_command(), "command//4711/req//set"),
        ("c/T/4711/req/#", ("4711", None, False), a_command(), "c/T/4711/req//set"),
    ],
)
async def test_command_topics_have_the_form_of_the_filter(
    rig: Rig, listens: str, link: tuple[str, str | None, bool], command: DeviceCommand, topic: str
) -> None:
    async with rig.sensor() as device:
        await device.subscribe((listens, 0))
        rig.commands.links["T", *link].deliver(command, outcome := Outcome())
        assert outcome.told == [None]
        assert (await device.message()).topic == topic


async def test_a_gateway_gets_commands_for_its_devices(rig: Rig) -> None:
    async with rig.gateway() as client:
        await client.subscribe(("command//+/req/#", 0), ("c//4712/q/#", 0), ("c///q/#", 0))
        links = rig.commands.links
        assert set(links) == {
            ("T", "gw-1", None, True),
            ("T", "4712", "gw-1", False),
            ("T", "gw-1", None, False),
        }
        command = a_command(target="4712", gateway="gw-1")
        links["T", "gw-1", None, True].deliver(command, Outcome())
        assert (await client.message()).topic == "command//4712/req//set"
        links["T", "4712", "gw-1", False].deliver(command, Outcome())
        assert (await client.message()).topic == "c//4712/q//set"
        links["T", "gw-1", None, False].deliver(a_command(target="gw-1"), Outcome())
        assert (await client.message()).topic == "c///q//set"


async def test_an_mqtt_5_device_gets_content_type_and_trace_of_a_command(rig: Rig) -> None:
    trace = TraceContext.parse(TRACEPARENT, "a=b")
    async with rig.sensor(V50) as device:
        await device.subscribe(("command///req/#", 0))
        link = rig.commands.links["T", "4711", None, False]
        link.deliver(a_command(content_type="text/plain", trace=trace), Outcome())
        said = (await device.message()).properties
        assert said is not None
        assert said.ContentType == "text/plain"
        assert said.UserProperty == [("traceparent", TRACEPARENT), ("tracestate", "a=b")]


async def test_a_command_without_puback_is_released() -> None:
    rig = Rig(send_to_device_timeout=0.05)
    outcome = Outcome()
    async with running(rig.adapter), raw_client(rig.address) as raw:
        raw.send(rig.connect + encode(p.Subscribe(1, (p.Subscription("c///q/#", 1),)), V3))
        await raw.read(9)
        rig.commands.links["T", "4711", None, False].deliver(a_command(), outcome)
        await until(lambda: outcome.told)
        (error,) = outcome.told
        assert error is not None
        assert error.status == 503
        await raw.read(18)
        raw.send(encode(p.PubAck(1), V3) + b"\xc0\0")
        assert await raw.read(2) == b"\xd0\0"
    assert len(outcome.told) == 1


async def test_a_command_to_a_device_that_leaves_is_released(rig: Rig) -> None:
    outcome = Outcome()
    async with raw_client(rig.address) as raw:
        raw.send(rig.connect + encode(p.Subscribe(1, (p.Subscription("c///q/#", 1),)), V3))
        await raw.read(9)
        link = rig.commands.links["T", "4711", None, False]
        link.deliver(a_command(), outcome)
    await until(lambda: outcome.told)
    await until(lambda: not rig.commands.links)
    link.deliver(a_command(), outcome)
    assert [error.status for error in outcome.told if error] == [503, 503]


async def test_a_command_whose_name_makes_no_topic_is_rejected(rig: Rig) -> None:
    outcome = Outcome()
    async with rig.sensor() as device:
        await device.subscribe(("command///req/#", 1))
        rig.commands.links["T", "4711", None, False].deliver(a_command(name="a#"), outcome)
    (error,) = outcome.told
    assert isinstance(error, BadRequest)


@BOTH
async def test_unsubscribe_ends_a_subscription(rig: Rig, version: int) -> None:
    async with rig.sensor(version) as device:
        await device.subscribe(("command///req/#", 1))
        codes = await device.unsubscribe("c//4711/q/#", "command///req/#", "nonsense")
        assert codes == ([0, 0x80, 0x80] if version == V50 else codes)
        assert not rig.commands.links


async def test_of_equal_filters_the_last_wins(rig: Rig) -> None:
    async with rig.sensor() as device:
        assert await device.subscribe(("command///req/#", 1), ("c//4711/q/#", 0)) == [1, 0]
        assert list(rig.commands.links) == [("T", "4711", None, False)]
        rig.commands.links["T", "4711", None, False].deliver(a_command(), Outcome())
        assert (await device.message()).topic == "c//4711/q//set"
        await device.subscribe(("command///req/#", 0))
        rig.commands.links["T", "4711", None, False].deliver(a_command(), Outcome())
        assert (await device.message()).topic == "command///req//set"


@pytest.mark.parametrize("form", ["command///res/{}/200", "c///s/{}/200", "c/T/4711/s/{}/200"])
async def test_a_response_reaches_who_waits(rig: Rig, form: str) -> None:
    topic = form.format("004corrreply-1") + "/?content-type=text%2Fplain"
    async with rig.sensor() as device:
        device.client.publish(topic, b"", 1)
        await device.ack()
    (response,) = rig.commands.responses
    assert (response.tenant, response.device, response.via) == ("T", "4711", None)
    assert (response.correlation_id, response.reply_id) == ("corr", "reply-1")
    assert (response.status, response.payload, response.content_type) == (200, b"", "text/plain")
    assert response.adapter == "hono-mqtt"


async def test_a_gateway_answers_for_its_device(rig: Rig) -> None:
    async with rig.gateway() as client:
        client.client.publish("c//4712/s/104corrreply-1/503", b"no", 0)
        await until(lambda: rig.commands.responses)
    (response,) = rig.commands.responses
    assert (response.device, response.via, response.status) == ("4712", "gw-1", 503)
    assert response.reply_id == "4712/reply-1"


async def test_a_refused_response_is_a_failed_message(rig: Rig) -> None:
    rig.commands.error = NoConsumer()
    async with rig.sensor() as device:
        await device.subscribe(("e///#", 0))
        device.client.publish("c///s/004corrreply-1/200", b"x", 0)
        assert (await device.message()).topic == "e///c-s/-1/503"


async def test_mosquitto_sub_gets_a_command(rig: Rig) -> None:
    host, _, port = rig.address.rpartition(":")
    waiting = asyncio.ensure_future(
        run_tool(
            "mosquitto_sub",
            "-h",
            host,
            "-p",
            port,
            "-u",
            "sensor1@T",
            "-P",
            "hono-secret",
            "-t",
            "command///req/#",
            "-q",
            "1",
            "-C",
            "1",
            "-F",
            "%t %p",
        )
    )
    await until(lambda: rig.commands.links or waiting.done())
    rig.commands.links["T", "4711", None, False].deliver(a_command(), Outcome())
    done = await waiting
    assert done.out == "command///req//set on\n"
