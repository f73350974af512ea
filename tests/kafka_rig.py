"""Kafka for tests: librdkafka's cluster inside this process, and an Apache Kafka broker as a process.

Both are real servers of the protocol; the first is there in milliseconds and keeps nothing.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.group import LeaveGroupRequest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.ports import free_port

JARS = Path(__file__).parents[1] / ".peers" / "kafka" / "broker"
START_SECONDS = 60.0
_QUIET = logging.getLogger("tests.kafka")
_QUIET.propagate = False
_QUIET.addHandler(logging.NullHandler())

Headers = dict[str, bytes]


@contextmanager
def mock_cluster(brokers: int = 1) -> Iterator[str]:
    """Run librdkafka's mock cluster; yields its bootstrap servers."""
    host = Producer(
        {"bootstrap.servers": "127.0.0.1:1", "test.mock.num.brokers": brokers, "logger": _QUIET}
    )
    found = host.list_topics(timeout=10).brokers.values()
    yield ",".join(f"{broker.host}:{broker.port}" for broker in found)
    del host


class Record:
    """A record as an application reads it."""

    def __init__(self, message: Any) -> None:
        self.topic: str = message.topic()
        self.partition: int = message.partition()
        self.key: bytes = message.key()
        self.value: bytes | None = message.value()
        self.headers: Headers = dict(message.headers() or [])

    def __repr__(self) -> str:
        return f"{self.topic} {self.key!r} {self.value!r} {self.headers}"


def read_all(bootstrap: str, topic: str, seconds: float = 10.0) -> list[Record]:
    """Read a topic from its beginning to its end."""
    reader = Consumer({"bootstrap.servers": bootstrap, "group.id": "test", "logger": _QUIET})
    try:
        found = reader.list_topics(topic, timeout=seconds).topics[topic].partitions
        places = [TopicPartition(topic, number, 0) for number in found]
        left = {p.partition: reader.get_watermark_offsets(p, timeout=seconds)[1] for p in places}
        reader.assign(places)
        records = []
        deadline = time.monotonic() + seconds
        while any(left.values()) and time.monotonic() < deadline:
            message = reader.poll(0.2)
            if message is not None and message.error() is None:
                records.append(Record(message))
                if (message.offset() or 0) + 1 >= left[message.partition() or 0]:
                    left[message.partition() or 0] = 0
        return records
    finally:
        reader.close()


def write(bootstrap: str, topic: str, key: str, value: bytes | None, headers: Headers) -> None:
    """Write one record and wait for its acknowledgement."""
    writer = Producer(
        {"bootstrap.servers": bootstrap, "partitioner": "murmur2_random", "logger": _QUIET}
    )
    writer.produce(topic, value, key, headers=dict(headers))
    assert writer.flush(10) == 0


def members(bootstrap: str, group: str) -> list[str]:
    """Ids of a consumer group's members."""
    asked = AdminClient({"bootstrap.servers": bootstrap})
    described = asked.describe_consumer_groups([group])[group].result(timeout=20)
    return [member.member_id for member in described.members]


async def leave(bootstrap: str, group: str, member: str) -> None:
    """Take a member out of its group at once, as the group's session timeout does one day."""
    client = AIOKafkaClient(bootstrap_servers=bootstrap)
    await client.bootstrap()
    try:
        [node] = client.cluster.brokers()
        answer = await client.send(node.nodeId, LeaveGroupRequest(group, member))
    finally:
        await client.close()
    assert answer.error_code == 0, answer


class Broker:
    """One Apache Kafka broker, its own controller; its data survive `kill`."""

    def __init__(self, folder: Path, scram: str = "", **settings: str) -> None:
        """`scram` is `name=...,password=...` of a user whose password is kept as SCRAM-SHA-512."""
        if not JARS.is_dir() or shutil.which("java") is None:
            pytest.skip("there is no Kafka broker; scripts/kafka.sh gets one")
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._settings = folder / "server.properties"
        port, controller = free_port(), free_port()
        self._process: subprocess.Popen[bytes] | None = None
        given = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": str(folder / "data"),
            "num.partitions": "4",
            "offsets.topic.num.partitions": "1",
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            **settings,
        }
        self._bootstrap = given["advertised.listeners"].partition("://")[2].partition(",")[0]
        self._settings.write_text("".join(f"{name}={value}\n" for name, value in given.items()))
        users = ("--add-scram", f"SCRAM-SHA-512=[{scram}]") if scram else ()
        words = ("format", *users, "-t", "dHdpbnNwYW4tdGVzdHMtMQ", "-c")
        assert self._java("kafka.tools.StorageTool", *words).wait() == 0

    @property
    def bootstrap(self) -> str:
        """The plain listener."""
        return self._bootstrap

    def _java(self, main: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self._folder / "broker.log").open("ab") as log:
            return subprocess.Popen(
                [
                    "java",
                    "-Xmx256m",
                    "-XX:TieredStopAtLevel=1",
                    "-cp",
                    f"{JARS}/*",
                    main,
                    *arguments,
                    str(self._settings),
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "LOG_DIR": str(self._folder)},
            )

    def start(self) -> Broker:
        """Start and wait until it answers."""
        self._process = self._java("kafka.Kafka")
        deadline = time.monotonic() + START_SECONDS
        probe = Producer({"bootstrap.servers": self.bootstrap, "logger": _QUIET})
        while True:
            try:
                probe.list_topics(timeout=1.0)
            except KafkaException:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"no broker:\n{(self._folder / 'broker.log').read_text()[-4_000:]}")
            else:
                return self

    def kill(self) -> None:
        """Kill -9."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(20)

    def pause(self) -> None:
        """Let it hang: its sockets stay, nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        threads = Path(f"/proc/{self._process.pid}/task")
        while not all(" T " in (t / "stat").read_text() for t in threads.iterdir()):
            time.sleep(0.005)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it, however it is."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(20)


@contextmanager
def a_broker(folder: Path, scram: str = "", **settings: str) -> Iterator[Broker]:
    """Run an Apache Kafka broker for the length of the block."""
    broker = Broker(folder, scram, **settings)
    try:
        yield broker.start()
    finally:
        broker.stop()
