"""The edge's MQTT broker with real clients: paho-mqtt (3.1.1 and 5), mosquitto's tools, and bare bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from paho.mqtt import client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.subscribeoptions import SubscribeOptions

from edge.broker import Broker
from gateway.config.edge import EdgeMqtt
from gateway.errors import BadRequest, GatewayError, InvalidSetting, StoreUnavailable
from gateway.model.ports import Done
from gateway.observe.metrics import Metrics
from gateway.runtime.listener import Endpoints
from gateway.runtime.module import running
from gateway.wire.mqtt import packets as p
from gateway.wire.mqtt.codec import encode
from gateway.wire.mqtt.packets import V3, V5
from gateway.wire.mqtt.properties import Properties
from tests.mqtt_peers import Paho, paho_client, properties_of, raw_client, run_tool, until

V311, V50 = int(paho.MQTTv311), int(paho.MQTTv5)
BOTH = pytest.mark.parametrize("version", [V311, V50], ids=["3.1.1", "5.0"])


class Rig:
    """A running broker; `seen` is what its intercept saw."""

    def __init__(self, **settings: Any) -> None:
        self.metrics = Metrics()
        self.endpoints = Endpoints()
        self.seen: list[p.Publish] = []
        self.held: list[Done] | None = None
        self.error: GatewayError | None = None
        bind = settings.pop("bind", "127.0.0.1:0")
        self.broker = Broker(
            EdgeMqtt(bind=bind, **settings), self.endpoints, self.metrics, self.take
        )

    def take(self, message: p.Publish, done: Done) -> None:
        self.seen.append(message)
        if self.held is not None:
            self.held.append(done)
        else:
            done(self.error)

    @property
    def address(self) -> str:
        return self.endpoints.get("edge.mqtt")

    @property
    def tool_address(self) -> tuple[str, str, str, str]:
        host, _, port = self.address.rpartition(":")
        return "-h", host, "-p", port

    def client(self, version: int = V311, **more: Any) -> Any:
        return paho_client(self.address, version, **more)

    def delayed_will(self, client_id: str) -> p.Will | None:
        return self.broker._sessions[client_id].delayed_will

    def dropped(self, cause: str) -> float:
        value = self.metrics.registry.get_sample_value(
            "twinspan_edge_mqtt_dropped_total", {"cause": cause}
        )
        return value or 0.0


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    async with running(made.broker):
        yield made


async def payloads(client: Paho, count: int) -> list[bytes]:
    return [bytes((await client.message()).payload) for _ in range(count)]


async def ask(client: Paho, *filters: tuple[str, SubscribeOptions]) -> list[int]:
    """Subscribe with MQTT 5 options."""
    client.client.subscribe(list(filters))
    return await asyncio.wait_for(client.subacks.get(), 10)


# --- messages ---------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_a_message_reaches_subscribers_and_the_intercept(
    rig: Rig, version: int, qos: int
) -> None:
    async with rig.client(version) as one, rig.client(version) as other:
        assert await one.subscribe(("a/+", qos), ("#", 0)) == [qos, 0]
        other.client.publish("a/b", b"hello", qos)
        message = await one.message()
        assert (message.topic, message.payload, message.qos) == ("a/b", b"hello", qos)
        await other.ack()
        assert one.messages.empty()
    assert [(m.topic, m.payload, m.qos) for m in rig.seen] == [("a/b", b"hello", qos)]


async def test_versions_and_qualities_mix(rig: Rig) -> None:
    async with rig.client(V311) as old, rig.client(V50) as new:
        await old.subscribe(("x", 0))
        await new.subscribe(("x", 2))
        said = properties_of(PacketTypes.PUBLISH, ContentType="a/b", UserProperty=[("k", "v")])
        new.client.publish("x", b"1", 1, properties=said)
        assert (await old.message()).qos == 0
        message = await new.message()
        assert message.qos == 1
        assert message.properties is not None
        assert (message.properties.ContentType, message.properties.UserProperty) == (
            "a/b",
            [("k", "v")],
        )


@pytest.mark.parametrize("version", ["mqttv311", "mqttv5"])
@pytest.mark.parametrize("qos", ["0", "1", "2"])
async def test_mosquittos_tools_talk_through_the_broker(rig: Rig, version: str, qos: str) -> None:
    sub = asyncio.ensure_future(
        run_tool(
            "mosquitto_sub", *rig.tool_address, "-V", version, "-q", qos, "-t", "in/#", "-C", "2",
            "-F", "%t %p %q",
        )
    )  # fmt: skip
    await until(lambda: rig.broker.has_subscribers("in/x") or sub.done())
    sent = await run_tool(
        "mosquitto_pub", *rig.tool_address, "-V", version, "-q", qos, "-t", "in/1", "-l",
        stdin=b"one\ntwo\n",
    )  # fmt: skip
    assert (sent.code, sent.err) == (0, "")
    assert (await sub).out == f"in/1 one {qos}\nin/1 two {qos}\n"


async def test_eventbus_publishes_and_asks_who_listens(rig: Rig) -> None:
    async with rig.client() as client:
        assert not rig.broker.has_subscribers("$hw/events/device/d/lamp/twin/update/delta")
        await client.subscribe(("$hw/events/device/+/+/twin/update/delta", 1))
        assert rig.broker.has_subscribers("$hw/events/device/d/lamp/twin/update/delta")
        assert list(rig.broker.filters()) == ["$hw/events/device/+/+/twin/update/delta"]
        rig.broker.publish("$hw/events/device/d/lamp/twin/update/delta", b"{}", qos=1)
        message = await client.message()
        assert (message.payload, message.qos) == (b"{}", 1)
        await client.unsubscribe("$hw/events/device/+/+/twin/update/delta")
        assert not rig.broker.has_subscribers("$hw/events/device/d/lamp/twin/update/delta")
    assert rig.seen == []


async def test_wildcards_do_not_reach_into_dollar_topics(rig: Rig) -> None:
    async with rig.client() as client:
        await client.subscribe(("#", 0))
        rig.broker.publish("$hw/x", b"hidden")
        rig.broker.publish("x", b"seen")
        assert await payloads(client, 1) == [b"seen"]


async def test_an_mqtt_5_subscriber_chooses_how_it_is_told(rig: Rig) -> None:
    async with rig.client(V50) as client:
        quiet = SubscribeOptions(qos=1, noLocal=True)
        as_sent = SubscribeOptions(qos=1, retainAsPublished=True)
        await ask(client, ("quiet", quiet), ("loud", as_sent))
        client.client.publish("quiet", b"own", 1)
        client.client.publish("loud", b"own", 1, retain=True)
        message = await client.message()
        assert (message.topic, message.retain) == ("loud", True)
        rig.broker.publish("quiet", b"others", retain=True)
        message = await client.message()
        assert (message.topic, message.retain) == ("quiet", False)


async def test_subscription_identifiers_come_back(rig: Rig) -> None:
    async with raw_client(rig.address) as raw:
        raw.send(encode(p.Connect("c", V5), V5))
        head = await raw.read(2)
        await raw.read(head[1])
        for number, text in ((1, "a/#"), (2, "a/b")):
            said = Properties(subscription_ids=(number,))
            raw.send(encode(p.Subscribe(number, (p.Subscription(text),), said), V5))
            await raw.read(6)
        rig.broker.publish("a/b", b"x")
        received = await raw.read(2)
        body = await raw.read(received[1])
        assert body[:5] == b"\0\3a/b"
        assert {body[7], body[9]} == {1, 2}


async def test_shared_subscriptions_take_turns(rig: Rig) -> None:
    async with rig.client(V50) as one, rig.client(V50) as other, rig.client(V50) as all_of_it:
        await one.subscribe(("$share/g/w/#", 0))
        await other.subscribe(("$share/g/w/#", 0))
        await all_of_it.subscribe(("w/#", 0))
        for number in range(4):
            rig.broker.publish("w/x", str(number).encode())
        assert len(await payloads(all_of_it, 4)) == 4
        got = [await payloads(one, 2), await payloads(other, 2)]
        assert sorted(got) == [[b"0", b"2"], [b"1", b"3"]]
        await one.unsubscribe("$share/g/w/#")
        rig.broker.publish("w/x", b"last")
        assert await payloads(other, 1) == [b"last"]


@pytest.mark.parametrize("text", ["a/#/b", "a+", "$share/x", "/" * 200])
async def test_a_bad_filter_is_refused_alone(rig: Rig, text: str) -> None:
    async with raw_client(rig.address) as raw:
        entries = (p.Subscription(text), p.Subscription("good", 1))
        raw.send(encode(p.Connect("c", V3), V3) + encode(p.Subscribe(1, entries), V3))
        assert await raw.read(10) == b"\x20\x02\0\0\x90\x04\0\1\x80\1"


# --- acknowledgement ----------------------------------------------------------------------------------


@BOTH
async def test_puback_waits_for_the_intercept(rig: Rig, version: int) -> None:
    rig.held = []
    async with rig.client(version) as client:
        client.client.publish("event//d", b"x", 1)
        await until(lambda: rig.held)
        await asyncio.sleep(0.02)
        assert client.acks.empty()
        rig.held[0](None)
        assert (await client.ack())[1] == 0


async def test_a_refused_message_has_a_reason_in_mqtt_5(rig: Rig) -> None:
    async with rig.client(V50) as client:
        for error, reason in ((StoreUnavailable(), 0x97), (BadRequest(), 0x99)):
            rig.error = error
            client.client.publish("event//d", b"x", 1)
            assert (await client.ack())[1] == reason


async def test_a_3_1_1_client_is_disconnected_when_it_should_try_again(rig: Rig) -> None:
    rig.error = StoreUnavailable()
    async with rig.client() as client:
        await client.connack()
        client.client.publish("event//d", b"x", 1)
        await client.disconnected()
        assert client.acks.empty()


async def test_a_3_1_1_clients_hopeless_message_is_acknowledged(rig: Rig) -> None:
    rig.error = BadRequest()
    async with rig.client() as client:
        client.client.publish("event//d", b"x", 1)
        await client.ack()


async def test_reading_stops_while_too_many_messages_wait() -> None:
    rig = Rig(max_in_flight=2)
    rig.held = []
    async with running(rig.broker), raw_client(rig.address) as raw:
        raw.send(encode(p.Connect("c", V3), V3))
        await raw.read(4)
        for number in range(3):
            raw.send(encode(p.Publish("a", b"x", 1, packet_id=number + 1), V3))
            await asyncio.sleep(0.01)
        await until(lambda: len(rig.seen) == 3)
        raw.send(encode(p.Publish("a", b"y", 1, packet_id=9), V3))
        await asyncio.sleep(0.02)
        assert len(rig.seen) == 3
        for done in rig.held[:]:
            done(None)
        await until(lambda: len(rig.seen) == 4)


# --- retained messages --------------------------------------------------------------------------------


@BOTH
async def test_retained_messages_greet_new_subscribers(rig: Rig, version: int) -> None:
    async with rig.client(version) as one:
        one.client.publish("r/1", b"old", 1, retain=True)
        one.client.publish("r/1", b"new", 1, retain=True)
        one.client.publish("r/2", b"gone", 1, retain=True)
        one.client.publish("r/2", b"", 1, retain=True)
        for _ in range(4):
            await one.ack()
        await one.subscribe(("r/#", 1))
        message = await one.message()
        assert (message.topic, message.payload, message.retain) == ("r/1", b"new", True)
        rig.broker.publish("r/1", b"live", retain=True)
        assert (await one.message()).retain is False


async def test_retain_handling_is_kept(rig: Rig) -> None:
    rig.broker.publish("r", b"x", retain=True)
    async with rig.client(V50) as client:
        await ask(client, ("r", SubscribeOptions(retainHandling=2)))
        await ask(client, ("r", SubscribeOptions(retainHandling=1)))
        await ask(client, ("r", SubscribeOptions(retainHandling=0)))
        assert await payloads(client, 1) == [b"x"]
        await ask(client, ("r", SubscribeOptions(retainHandling=1)))
        rig.broker.publish("r", b"end")
        assert await payloads(client, 1) == [b"end"]


async def test_retained_messages_are_bounded() -> None:
    rig = Rig(max_retained=2, max_retained_bytes=1_000)
    async with running(rig.broker), rig.client() as client:
        for topic, size in (("a", 400), ("b", 400), ("c", 1), ("a", 1), ("d", 1)):
            rig.broker.publish(topic, bytes(size), retain=True)
        assert rig.dropped("no room to retain") == 2
        await client.subscribe(("#", 0))
        topics = sorted([(await client.message()).topic for _ in range(2)])
        assert topics == ["a", "c"]


async def test_an_expired_message_is_not_delivered(rig: Rig) -> None:
    async with rig.client(V50) as client:
        soon = properties_of(PacketTypes.PUBLISH, MessageExpiryInterval=0)
        later = properties_of(PacketTypes.PUBLISH, MessageExpiryInterval=100)
        client.client.publish("x/1", b"gone", 1, retain=True, properties=soon)
        client.client.publish("x/2", b"here", 1, retain=True, properties=later)
        await client.ack()
        await client.ack()
        await client.subscribe(("x/#", 1))
        message = await client.message()
        assert message.payload == b"here"
        assert message.properties is not None
        assert 90 <= message.properties.MessageExpiryInterval <= 100


# --- sessions -----------------------------------------------------------------------------------------


async def test_a_session_waits_for_its_client(rig: Rig) -> None:
    async with rig.client(client_id="keeps", clean=False) as client:
        await client.subscribe(("q", 1))
    for number in range(3):
        rig.broker.publish("q", str(number).encode(), qos=1)
    rig.broker.publish("q", b"not kept", qos=0)
    async with rig.client(client_id="keeps", clean=False) as client:
        assert await payloads(client, 3) == [b"0", b"1", b"2"]
    assert rig.dropped("offline") == 1


async def test_an_unanswered_message_is_sent_again(rig: Rig) -> None:
    connect = encode(p.Connect("c", V3, clean_start=False), V3)
    async with raw_client(rig.address) as raw:
        raw.send(connect + encode(p.Subscribe(1, (p.Subscription("q", 1),)), V3))
        await raw.read(4 + 5)
        rig.broker.publish("q", b"x", qos=1)
        assert await raw.read(8) == b"\x32\x06\0\1q\0\1x"
    await until(lambda: rig.broker._connected == 0)
    async with raw_client(rig.address) as raw:
        raw.send(connect)
        assert await raw.read(4) == b"\x20\x02\1\0"
        assert await raw.read(8) == b"\x3a\x06\0\1q\0\1x"
        raw.send(encode(p.PubAck(1), V3))
        rig.broker.publish("q", b"y", qos=1)
        assert await raw.read(8) == b"\x32\x06\0\1q\0\2y"


async def test_a_clean_start_forgets(rig: Rig) -> None:
    async with rig.client(client_id="c", clean=False) as client:
        await client.subscribe(("q", 1))
    async with rig.client(client_id="c", clean=True) as client:
        await client.connack()
        assert not rig.broker.has_subscribers("q")
    await until(lambda: not rig.broker._sessions)


async def test_an_mqtt_5_session_ends_when_it_expires(rig: Rig) -> None:
    said = properties_of(PacketTypes.CONNECT, SessionExpiryInterval=1)
    async with rig.client(V50, client_id="c", connect_properties=said) as client:
        await client.subscribe(("q", 1))
    await until(lambda: not rig.broker._sessions)
    assert not rig.broker.has_subscribers("q")


async def test_sessions_of_clients_that_are_away_are_bounded() -> None:
    rig = Rig(max_connections=2)
    async with running(rig.broker):
        for number in range(4):
            async with rig.client(client_id=f"c{number}", clean=False) as client:
                assert await client.connack() == 0
            await until(lambda: rig.broker._connected == 0)
        assert list(rig.broker._sessions) == ["c2", "c3"]


@BOTH
async def test_a_client_id_is_taken_over(rig: Rig, version: int) -> None:
    async with rig.client(version, client_id="same") as one:
        await one.connack()
        async with rig.client(version, client_id="same") as other:
            assert await other.connack() == 0
            await one.disconnected()
            assert one.gone_reasons[0] == (0x8E if version == V50 else 0x80)
            await other.subscribe(("x", 0))
            rig.broker.publish("x", b"1")
            assert await payloads(other, 1) == [b"1"]


async def test_a_full_broker_refuses() -> None:
    rig = Rig(max_connections=1)
    async with running(rig.broker), rig.client() as first:
        await first.connack()
        async with raw_client(rig.address) as raw:
            raw.send(encode(p.Connect("c", V3), V3))
            assert await raw.rest() == b"\x20\x02\0\3"


# --- wills --------------------------------------------------------------------------------------------


async def will_of(rig: Rig, listener: Paho, end: bytes, version: int = V3, **will: Any) -> None:
    """Connect with a will and leave with `end` as last bytes."""
    await listener.subscribe(("will", 1))
    async with raw_client(rig.address) as raw:
        said = p.Will("will", b"gone", 1, False, Properties(**will))
        raw.send(encode(p.Connect("dies", version, will=said), version) + end)
        head = await raw.read(2)
        await raw.read(head[1])
    await until(lambda: rig.broker._connected == 1)


async def test_a_will_is_published_when_a_client_is_lost(rig: Rig) -> None:
    async with rig.client() as listener:
        await will_of(rig, listener, b"")
        assert await payloads(listener, 1) == [b"gone"]
    assert [m.payload for m in rig.seen] == [b"gone"]


async def test_a_will_is_dropped_at_good_bye(rig: Rig) -> None:
    async with rig.client() as listener:
        await will_of(rig, listener, encode(p.Disconnect(), V3))
        rig.broker.publish("will", b"nothing else")
        assert await payloads(listener, 1) == [b"nothing else"]


async def test_a_good_bye_may_ask_for_the_will(rig: Rig) -> None:
    async with rig.client(V50) as listener:
        await will_of(rig, listener, encode(p.Disconnect(4), V5), V5)
        assert await payloads(listener, 1) == [b"gone"]


async def test_a_delayed_will_goes_with_the_session(rig: Rig) -> None:
    """The delay is longer than the session (which ends at once): the will is due when that ends."""
    async with rig.client(V50) as listener:
        await will_of(rig, listener, b"", V5, will_delay=1_000)
        assert await payloads(listener, 1) == [b"gone"]


async def test_a_client_that_comes_back_in_time_takes_its_will_back(rig: Rig) -> None:
    keep = Properties(session_expiry=100)
    will = p.Will("will", b"gone", 1, False, Properties(will_delay=50))
    async with rig.client(V50) as listener:
        await listener.subscribe(("will", 1))
        for clean in (True, False):
            async with raw_client(rig.address) as raw:
                raw.send(encode(p.Connect("back", V5, clean, will=will, properties=keep), V5))
                await raw.read(2)
            await until(lambda: rig.broker._connected == 1)
        assert rig.delayed_will("back") == will
        async with raw_client(rig.address) as raw:
            raw.send(encode(p.Connect("back", V5, False, properties=keep), V5))
            await raw.read(2)
            assert rig.delayed_will("back") is None
        await until(lambda: rig.broker._connected == 1)
        async with raw_client(rig.address) as raw:
            raw.send(encode(p.Connect("back", V5, True), V5))
            await raw.read(2)
        rig.broker.publish("will", b"only this")
        assert await payloads(listener, 1) == [b"only this"]


async def test_a_clean_start_ends_the_session_so_its_delayed_will_is_due(rig: Rig) -> None:
    keep = Properties(session_expiry=100)
    will = p.Will("will", b"gone", 1, False, Properties(will_delay=50))
    async with rig.client(V50) as listener:
        await listener.subscribe(("will", 1))
        async with raw_client(rig.address) as raw:
            raw.send(encode(p.Connect("back", V5, True, will=will, properties=keep), V5))
            await raw.read(2)
        await until(lambda: rig.delayed_will("back") == will)
        async with raw_client(rig.address) as raw:
            raw.send(encode(p.Connect("back", V5, True), V5))
            await raw.read(2)
        rig.broker.publish("will", b"behind it")
        assert await payloads(listener, 2) == [b"gone", b"behind it"]


# --- slow clients -------------------------------------------------------------------------------------


async def a_sleeper(rig: Rig, raw: Any, qos: int, version: int = V3) -> None:
    """A subscriber to `q` that stops reading."""
    subscribe = encode(p.Subscribe(1, (p.Subscription("q", qos),)), version)
    raw.send(encode(p.Connect("slow", version, clean_start=False), version) + subscribe)
    await until(lambda: rig.broker.has_subscribers("q"))
    raw.stop_reading()


async def test_a_slow_client_loses_the_oldest_qos_0_messages() -> None:
    rig = Rig(max_queue=10)
    async with running(rig.broker), raw_client(rig.address) as raw:
        await a_sleeper(rig, raw, 0)
        session = rig.broker._sessions["slow"]
        for number in range(2_000):
            rig.broker.publish("q", number.to_bytes(4, "big") + bytes(50_000))
            await asyncio.sleep(0)
            if rig.dropped("queue full") >= 5:
                break
        assert rig.dropped("queue full") >= 5
        assert session.waiting == 10
        raw.go_on_reading()
        newest = number.to_bytes(4, "big") + bytes(50_000)
        async with asyncio.timeout(10):
            data = b""
            while not data.endswith(newest):
                data += await raw.reader.read(1_000_000)
        assert rig.broker._room == EdgeMqtt().max_queued_bytes


@pytest.mark.parametrize("version", [V3, V5])
async def test_a_slow_client_that_must_not_lose_is_ended(version: int) -> None:
    rig = Rig(max_queue=10, max_in_flight=5)
    async with running(rig.broker), raw_client(rig.address) as raw:
        await a_sleeper(rig, raw, 1, version)
        for _ in range(15):
            rig.broker.publish("q", b"x", qos=1)
        assert "slow" in rig.broker._sessions
        rig.broker.publish("q", b"one too many", qos=1)
        await until(lambda: "slow" not in rig.broker._sessions)
        raw.go_on_reading()
        rest = await raw.rest()
        assert (b"\xe0\x01\x97" in rest) is (version == V5)
        assert rig.broker._room == EdgeMqtt().max_queued_bytes


async def test_what_waits_for_all_clients_together_is_bounded() -> None:
    rig = Rig(max_queued_bytes=10_000)
    async with running(rig.broker):
        for name in ("a", "b"):
            async with rig.client(client_id=name, clean=False) as client:
                await client.subscribe((name, 1))
            await until(lambda: rig.broker._connected == 0)
        rig.broker.publish("a", bytes(8_000), qos=1)
        rig.broker.publish("b", bytes(8_000), qos=1)
        await until(lambda: "b" not in rig.broker._sessions)
        assert rig.broker._sessions["a"].waiting == 1


# --- trust and bad input --------------------------------------------------------------------------------


async def test_beyond_loopback_needs_users_and_tls() -> None:
    rig = Rig(bind="0.0.0.0:0")
    with pytest.raises(ExceptionGroup) as caught:
        async with running(rig.broker):
            pass
    (error,) = caught.value.exceptions
    assert isinstance(error, InvalidSetting)
    assert "edge.mqtt.users_file" in str(error)


async def test_users_log_in_with_their_password(tmp_path: Path) -> None:
    users = tmp_path / "users"
    digest = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
    users.write_text(f"# who may come\nann:{digest}\n\n")
    rig = Rig(users_file=str(users))
    async with running(rig.broker):
        for name, password, code in (
            ("ann", "secret", 0),
            ("ann", "secret", 0),
            ("ann", "wrong", 0x86),
            ("bob", "secret", 0x86),
            (None, None, 0x86),
        ):
            async with rig.client(V50, username=name, password=password) as client:
                assert await client.connack() == code


@pytest.mark.parametrize("text", ["ann", "ann:plain", ":$2b$04$x"])
async def test_a_bad_users_file_names_its_line(tmp_path: Path, text: str) -> None:
    users = tmp_path / "users"
    users.write_text(f"\n{text}\n")
    rig = Rig(users_file=str(users))
    with pytest.raises(ExceptionGroup) as caught:
        async with running(rig.broker):
            pass
    assert f"{users}:2: expected user:bcrypt hash" in str(caught.value.exceptions[0])


@pytest.mark.parametrize("data", [b"\x30\xff\xff\xff\x7f", b"\xff" * 50, b"GET / HTTP/1.1\r\n\r\n"])
async def test_broken_input_ends_that_connection_alone(rig: Rig, data: bytes) -> None:
    async with rig.client() as client, raw_client(rig.address) as raw:
        raw.send(encode(p.Connect("c", V3), V3))
        await raw.read(4)
        raw.send(data)
        assert await raw.rest() == b""
        client.client.publish("x", b"1", 1)
        await client.ack()


async def test_a_client_that_says_nothing_is_closed() -> None:
    rig = Rig(connect_timeout=0.05)
    async with running(rig.broker), raw_client(rig.address) as raw:
        assert await raw.rest() == b""


async def test_a_silent_client_is_ended_by_keep_alive(rig: Rig) -> None:
    async with rig.client() as listener:
        await listener.subscribe(("will", 1))
        async with raw_client(rig.address) as raw:
            will = p.Will("will", b"gone", 0)
            raw.send(encode(p.Connect("c", V3, keep_alive=1, will=will), V3))
            assert await raw.rest() == b"\x20\x02\0\0"
        assert await payloads(listener, 1) == [b"gone"]


async def test_stopping_tells_clients() -> None:
    rig = Rig()
    async with running(rig.broker):
        entered = rig.client(V50)
        client = await entered.__aenter__()
        await client.connack()
    await client.disconnected()
    await entered.__aexit__(None, None, None)
    assert client.gone_reasons[0] == 0x8B
