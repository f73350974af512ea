"""Devices that do not acknowledge commands: places, identifiers, the end of a connection without any."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from paho.mqtt.packettypes import PacketTypes

from gateway.errors import NotProcessed
from gateway.model.ports import DeviceLink
from gateway.runtime.module import running
from gateway.wire.mqtt import packets as p
from gateway.wire.mqtt.codec import decode, encode
from gateway.wire.mqtt.packets import V5, Packet
from gateway.wire.mqtt.properties import Properties
from gateway.wire.mqtt.reasons import Reason
from gateway.wire.mqtt.state import WindowFull
from tests.mqtt_peers import Raw, properties_of, raw_client, until
from tests.mqtt_rig import V50, Outcome, Rig, a_command

FOR_EVER = 1_000.0


class Device:
    """An MQTT 5 device of bare bytes: it acknowledges when the test says."""

    def __init__(self, rig: Rig, raw: Raw) -> None:
        self._rig = rig
        self._raw = raw

    def send(self, packet: Packet) -> None:
        self._raw.send(encode(packet, V5))

    async def next(self) -> Packet:
        """The next packet; all of them are short here."""
        first, size = await self._raw.read(2)
        while size & 0x80:
            size = size & 0x7F | (await self._raw.read(1))[0] << 7
        return decode(first, await self._raw.read(size), V5)

    async def command(self) -> int:
        """Take a command; its packet identifier."""
        packet = await self.next()
        assert isinstance(packet, p.Publish), packet
        return packet.packet_id

    async def still_there(self) -> None:
        self.send(p.PingReq())
        assert await self.next() == p.PingResp()

    @property
    def link(self) -> DeviceLink:
        return self._rig.commands.links["T", "4711", None, False]


@asynccontextmanager
async def a_device(rig: Rig, receive_maximum: int | None = 1) -> AsyncIterator[Device]:
    """A connected device with a command subscription of QoS 1."""
    async with raw_client(rig.address) as raw:
        device = Device(rig, raw)
        properties = Properties(receive_maximum=receive_maximum)
        connect = p.Connect("raw", V5, True, 0, "sensor1@T", b"hono-secret", properties=properties)
        device.send(connect)
        assert isinstance(await device.next(), p.ConnAck)
        device.send(p.Subscribe(1, (p.Subscription("c///q/#", 1),)))
        assert isinstance(await device.next(), p.SubAck)
        yield device


async def released(outcome: Outcome) -> None:
    """Wait until an application was told that a command was not acknowledged."""
    await until(lambda: outcome.told)
    (error,) = outcome.told
    assert isinstance(error, NotProcessed)
    assert error.status == 503


async def test_a_device_that_owes_every_acknowledgement_is_disconnected_and_can_come_back() -> None:
    rig = Rig(send_to_device_timeout=0.02)
    first, second = Outcome(), Outcome()
    async with running(rig.adapter):
        async with a_device(rig) as device:
            device.link.deliver(a_command(), first)
            assert await device.command() == 1
            await released(first)
            end = await device.next()
            assert isinstance(end, p.Disconnect)
            assert end.reason == Reason.QUOTA_EXCEEDED
            await until(lambda: not rig.commands.links)
        async with a_device(rig) as device:
            device.link.deliver(a_command(), second)
            device.send(p.PubAck(await device.command()))
            await until(lambda: second.told)
    assert (second.told, len(first.told)) == ([None], 1)


async def test_a_late_acknowledgement_frees_the_place_and_is_no_answer_to_another_command() -> None:
    rig = Rig(send_to_device_timeout=0.3)  # the device has three seconds after that
    first, refused, second = Outcome(), Outcome(), Outcome()
    async with running(rig.adapter), a_device(rig) as device:
        device.link.deliver(a_command(), first)
        late = await device.command()
        await released(first)
        device.link.deliver(a_command(), refused)
        assert [type(error) for error in refused.told] == [WindowFull]
        device.send(p.PubAck(late))
        await device.still_there()
        device.link.deliver(a_command(), second)
        packet_id = await device.command()
        assert packet_id != late
        device.send(p.PubAck(late))
        await device.still_there()
        assert second.told == []
        device.send(p.PubAck(packet_id))
        await until(lambda: second.told)
        await device.still_there()
    assert (len(first.told), second.told) == (1, [None])


async def test_an_identifier_without_answer_is_not_used_again_and_other_places_go_on() -> None:
    rig = Rig(send_to_device_timeout=0.02)
    lost = Outcome()
    async with running(rig.adapter), a_device(rig, receive_maximum=2) as device:
        device.link.deliver(a_command(), lost)
        assert await device.command() == 1
        await released(lost)
        for expected in range(2, 40):
            outcome = Outcome()
            device.link.deliver(a_command(), outcome)
            assert await device.command() == expected
            device.send(p.PubAck(expected))
            await until(lambda outcome=outcome: outcome.told)  # type: ignore[misc]
        await device.still_there()


async def test_a_command_that_still_may_be_acknowledged_keeps_the_connection() -> None:
    rig = Rig(send_to_device_timeout=FOR_EVER)
    async with running(rig.adapter), a_device(rig, receive_maximum=2) as device:
        outcomes = [Outcome(), Outcome(), Outcome()]
        for outcome in outcomes:
            device.link.deliver(a_command(), outcome)
        assert [await device.command(), await device.command()] == [1, 2]
        await device.still_there()
        assert [len(outcome.told) for outcome in outcomes] == [0, 0, 1]


async def test_paho_that_does_not_acknowledge_is_told_why_it_is_disconnected() -> None:
    rig = Rig(send_to_device_timeout=0.02)
    outcome = Outcome()
    narrow = properties_of(PacketTypes.CONNECT, ReceiveMaximum=1)
    async with running(rig.adapter), rig.sensor(V50, connect_properties=narrow) as device:
        device.client.manual_ack_set(True)
        assert await device.connack() == 0
        await device.subscribe(("c///q/#", 1))
        rig.commands.links["T", "4711", None, False].deliver(a_command(), outcome)
        await asyncio.wait_for(device.messages.get(), 30)
        await released(outcome)
        await device.disconnected()
        assert device.gone_reasons == [Reason.QUOTA_EXCEEDED]
