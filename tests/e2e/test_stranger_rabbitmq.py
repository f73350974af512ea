"""RabbitMQ's shovels over AMQP 1.0: as application that reads, as application that commands, as device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from proton import Message
from proton.utils import BlockingConnection

from tests.ports import free_ports
from tests.process import twinspan
from tests.rabbit_rig import (
    USER,
    Shovel,
    from_queue,
    needs_rabbitmq,
    over_amqp10,
    rabbitmq,
    to_queue,
)
from tests.walk import CONSUMER, Device, Walk, in_thread

pytestmark = pytest.mark.e2e

READ, SENT = "rabbit-reads", "rabbit-sends"
QUEUES = ("events", "telemetry", "up", "commands")


@dataclass(frozen=True)
class Site:
    """A service and a broker that shovels from it and to it."""

    walk: Walk
    reader: Device
    sender: Device
    broker: int
    log: Path

    def queue(self, name: str) -> str:
        """A queue's address in the broker's AMQP 1.0."""
        return f"/amq/queue/{name}"

    def connect(self) -> BlockingConnection:
        return BlockingConnection(
            f"amqp://{USER}@127.0.0.1:{self.broker}", allowed_mechs="PLAIN", timeout=30
        )

    def put(self, queue: str, *messages: Message) -> None:
        """Put messages into a queue of the broker."""
        connection = self.connect()
        try:
            sender = connection.create_sender(self.queue(queue))
            for message in messages:
                sender.send(message)
        finally:
            connection.close()

    def take(self, queue: str, last: str) -> list[str]:
        """Take the texts of messages out of a queue of the broker, up to the text `last`."""
        connection = self.connect()
        try:
            receiver = connection.create_receiver(self.queue(queue), credit=1)
            found = [""]
            while found[-1] != last:
                found.append(text(receiver.receive(timeout=30)))
                receiver.accept()
            return found[1:]
        finally:
            connection.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    needs_rabbitmq()
    folder = tmp_path_factory.mktemp("rabbit")
    broker, northbound, adapter = free_ports(3)
    sets = (
        f"hono.northbound.bind=127.0.0.1:{northbound}",
        f"hono.amqp.bind=127.0.0.1:{adapter}",
    )
    with twinspan(folder / "data", "gateway", "--demo", sets=sets) as running:
        walk = Walk(running)
        reader, sender = walk.a_device(READ, "d1"), walk.a_device(SENT, "d2")
        application = f"amqp://{CONSUMER}@{running.endpoints['northbound.amqp']}"
        device = (
            f"amqp://{sender.login}%40{SENT}:{sender.password}@{running.endpoints['hono.amqp']}"
        )
        to_event = '{properties, [{to, <<"event">>}, {content_type, <<"text/plain">>}]}'
        to_device = f'{{properties, [{{to, <<"command/{SENT}/d2">>}}, {{subject, <<"blink">>}}]}}'
        shovels = (
            *(
                Shovel(
                    f"{kind}_down",
                    over_amqp10(application, source_address=f"{kind}/{READ}"),
                    to_queue(broker, queue),
                )
                for kind, queue in (("event", "events"), ("telemetry", "telemetry"))
            ),
            Shovel(
                "up",
                from_queue(broker, "up"),
                f"{over_amqp10(device, target_address='')}, {to_event}",
            ),
            Shovel(
                "commands",
                from_queue(broker, "commands"),
                f"{over_amqp10(application, target_address=f'command/{SENT}')}, {to_device}",
            ),
        )
        with rabbitmq(folder, broker, QUEUES, shovels) as log:
            yield Site(walk, reader, sender, broker, log)


def data(word: str) -> Message:
    """What the broker keeps as plain bytes: a data section."""
    message = Message(body=word.encode(), durable=True)
    message.inferred = True
    return message


def text(message: Message) -> str:
    body: Any = message.body
    return bytes(body).decode()


def upload(site: Site, kind: str, word: str) -> int:
    extra = ("-H", "qos-level: 1") if kind == "telemetry" else ()
    return site.walk.upload(site.reader, kind, word, *extra, content_type="text/plain").status


def test_a_shovel_empties_the_events_of_a_tenant_into_a_queue(site: Site) -> None:
    words = [f"e{number}" for number in range(20)]
    assert [upload(site, "event", word) for word in words] == [202] * 20
    assert site.take("events", words[-1]) == words


def test_telemetry_is_acknowledged_when_the_shovel_has_it_in_its_queue(site: Site) -> None:
    assert upload(site, "telemetry", "t1") == 202
    assert site.take("telemetry", "t1") == ["t1"]


async def test_a_shovel_is_a_device_whose_events_come_from_a_queue(site: Site) -> None:
    words = [f"u{number}" for number in range(5)]
    await in_thread(site.put, "up", *(data(word) for word in words))
    async with site.walk.application() as peer:
        peer.receive_from(f"event/{SENT}")
        found = [(await peer.expect("message"))[2] for _ in words]
    assert [bytes(message.body).decode() for message in found] == words
    assert {message.properties["device_id"] for message in found} == {"d2"}
    assert {message.content_type for message in found} == {"text/plain"}


async def test_a_shovel_sends_commands_that_wait_in_a_queue(site: Site) -> None:
    with site.walk.subscribed(site.sender, "-t", "command///req/#") as lines:
        await in_thread(site.put, "commands", data("fast"))
        line = await in_thread(lines.message, "blink")
    assert line.endswith("command///req//blink fast")


def test_shovels_go_on_after_kill_9_and_no_acknowledged_event_is_lost(site: Site) -> None:
    before = [f"b{number}" for number in range(30)]
    assert [upload(site, "event", word) for word in before] == [202] * 30
    site.walk.running.kill()
    site.walk.running.start()
    after = [f"a{number}" for number in range(10)]
    assert [upload(site, "event", word) for word in after] == [202] * 10
    found = site.take("events", after[-1])
    assert list(dict.fromkeys(found)) == before + after, (
        "again is allowed, lost or out of order not"
    )
