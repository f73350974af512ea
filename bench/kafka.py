"""From MQTT devices to Kafka at QoS 1, with librdkafka alone as the ceiling.

Both write the same messages (150 bytes of JSON, headers as Hono has them, key = device) to the same Apache
Kafka broker, idempotent and acknowledged by it, one after the other in the same run:
  ours      publishers -> MQTT adapter -> producer -> broker; PUBACK after the broker's acknowledgement
  library   kcat (C) with librdkafka, messages from a file, as fast as it goes
  binding   a loop around confluent-kafka's `produce` with a callback for each record, as fast as it goes
Compare by CPU time: what the broker, on the same machine, takes from the clock is not theirs.
Needs what scripts/kafka.sh gets. Run: `python -m bench.kafka [--messages 50000] [--runs 3] [--json]`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.mqtt_load import connect
from bench.relay import (
    PUBLISHERS,
    ROOMS,
    Flow,
    Rates,
    _client,
    _endpoints,
    _payload,
    _process,
    _provision,
)
from tests.kafka_rig import Broker, a_broker

HEADERS = (
    ("device_id", b"d0"),
    ("qos", b"1"),
    ("content-type", b"application/octet-stream"),
    ("orig_adapter", b"hono-mqtt"),
    ("orig_address", b"telemetry"),
    ("creation-time", b"1700000000000"),
    ("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
)
PROPERTIES = {"enable.idempotence": "true", "linger.ms": "2", "partitioner": "murmur2_random"}


@dataclass(frozen=True, slots=True)
class Result:
    """Medians: messages per second of the clock, and of the CPU time of who hands them to the broker."""

    who: str
    per_second: float
    per_cpu_second: float


async def ours(broker: Broker, messages: int) -> Rates:
    """One run of the whole gateway, a process of its own."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        settings = [f"hono.{room}.bind=127.0.0.1:0" for room in ("registry", *ROOMS)]
        settings += [f"hono.{room}.tls_bind=127.0.0.1:0" for room in ROOMS]
        settings += ["ditto.http.bind=127.0.0.1:0", "observe.http.bind=127.0.0.1:0"]
        settings += [f"hono.kafka.bootstrap_servers={broker.bootstrap}"]
        command = [str(Path(sys.executable).parent / "twinspan"), "gateway", "--demo"]
        command += ["--data-dir", str(folder / "data")]
        command += [word for setting in settings for word in ("--set", setting)]
        async with _process(*command, folder=folder) as pid:
            endpoints = await _endpoints(folder / "data" / "endpoints.json")
            await asyncio.to_thread(_provision, endpoints["hono.registry"])
            return await _publish(pid, endpoints["hono.mqtt"], messages)


async def _publish(pid: int, port: int, messages: int) -> Rates:
    greetings = (connect(f"d{n}", f"d{n}@bench", "pw") for n in range(PUBLISHERS))
    clients = [await _client(port, greeting) for greeting in greetings]
    clients[0].publish("telemetry", [b"the topic is to be there"], 1)
    while not clients[0].acknowledged:  # noqa: ASYNC110  a counter of the load generator
        await asyncio.sleep(0.01)
    clients[0].acknowledged = 0
    flow = Flow(messages)

    async def count() -> None:
        while True:
            flow.saw(sum(client.acknowledged for client in clients))
            await asyncio.sleep(0.0005)

    counting = asyncio.create_task(count())
    try:
        return await flow.run(
            pid, lambda burst, lines: clients[burst % PUBLISHERS].publish("telemetry", lines, 1)
        )
    finally:
        counting.cancel()
        for client in clients:
            client.transport.close()


def library(broker: Broker, messages: int) -> Rates:
    """One run of kcat."""
    with tempfile.NamedTemporaryFile(suffix=".txt") as file:
        lines = (b"d%d\t%s\n" % (n % PUBLISHERS, _payload(n)) for n in range(messages))
        file.write(b"".join(lines))
        file.flush()
        words = ["kcat", "-b", broker.bootstrap, "-P", "-t", "hono.telemetry.kcat", "-K", "\t"]
        words += [f"-X{name}={value}" for name, value in PROPERTIES.items()]
        words += [word for name, value in HEADERS for word in ("-H", f"{name}={value.decode()}")]
        started, before = time.perf_counter(), _children()
        subprocess.run([*words, "-l", file.name], check=True)
        seconds = time.perf_counter() - started
        return messages / seconds, messages / max(_children() - before, 0.001)


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def binding(broker: Broker, messages: int) -> Rates:
    """One run of confluent-kafka, in a process of its own."""
    words = [sys.executable, "-m", "bench.kafka", "--binding", broker.bootstrap]
    done = subprocess.run(
        [*words, "--messages", str(messages)], check=True, capture_output=True, text=True
    )
    per_second, per_cpu_second = json.loads(done.stdout)
    return per_second, per_cpu_second


def run_binding(bootstrap: str, messages: int) -> None:
    """Produce in a loop, a thread collecting the reports, and print the rates."""
    from confluent_kafka import Producer

    producer = Producer(
        {"bootstrap.servers": bootstrap, "queue.buffering.max.messages": messages + 1, **PROPERTIES}
    )
    producer.list_topics("hono.telemetry.binding", timeout=10)
    reports: list[object] = []
    ended = threading.Event()

    def collect() -> None:
        while not ended.is_set():
            producer.poll(0.1)

    collecting = threading.Thread(target=collect)
    collecting.start()
    payloads = [_payload(n) for n in range(messages)]
    started, cpu = time.perf_counter(), time.process_time()
    for number, payload in enumerate(payloads):
        producer.produce(
            "hono.telemetry.binding",
            payload,
            b"d%d" % (number % PUBLISHERS),
            headers=list(HEADERS),
            on_delivery=lambda error, _message: reports.append(error),
        )
    producer.flush(60)
    seconds, used = time.perf_counter() - started, time.process_time() - cpu
    ended.set()
    collecting.join()
    if any(reports) or len(reports) != messages:
        raise SystemExit("not every record was delivered")
    print(json.dumps([messages / seconds, messages / used]))


def measure(messages: int, runs: int) -> list[Result]:
    """Run all in turns."""
    found: dict[str, list[Rates]] = {"twinspan": [], "librdkafka": [], "confluent-kafka": []}
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        a_broker(Path(folder)) as broker,
    ):
        for _ in range(runs):
            found["twinspan"].append(asyncio.run(ours(broker, messages)))
            found["librdkafka"].append(library(broker, messages))
            found["confluent-kafka"].append(binding(broker, messages))
    return [
        Result(who, *(round(statistics.median(column)) for column in zip(*rates, strict=True)))
        for who, rates in found.items()
    ]


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=50_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--binding", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.binding:
        run_binding(arguments.binding, arguments.messages)
        return
    results = measure(arguments.messages, arguments.runs)
    if arguments.json:
        print(json.dumps([asdict(result) for result in results]))
        return
    ceiling = next(result for result in results if result.who == "librdkafka")
    print(f"{'who':<18}{'messages/s':>12}{'per CPU s':>12}{'ratio (CPU)':>13}")
    for result in results:
        ratio = result.per_cpu_second / ceiling.per_cpu_second
        print(
            f"{result.who:<18}{result.per_second:>12,.0f}{result.per_cpu_second:>12,.0f}{ratio:>13.2f}"
        )


if __name__ == "__main__":
    main()
