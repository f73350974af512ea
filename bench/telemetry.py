"""Telemetry of 1, 50 and 500 devices by each adapter to one AMQP application and to Kafka, beside ceilings.

The shipped gateway, all its threads on one core: logins, registry, limits, metrics and traces as they are by
default. At QoS 1 a device is answered after the application has accepted, or the broker has acknowledged. The
ceiling of each protocol takes the same load in turns with the gateway, on the same core:
  mqtt   mosquitto, from publishers to a subscriber
  amqp   the example broker of proton's C library, from senders to a receiver
  http   a bare aiohttp server, and coap a bare aiocoap resource: both answer and send nothing on
What Kafka costs is compared with the way to AMQP; its own ceiling is in `bench.kafka`. The ratio is that of
messages per second of the server's CPU time. `--without-ceilings` measures the gateway alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass

from bench.devices_rig import CEILINGS, Gateway, Rate, Target, in_turns, scratch, the_gateway

PROTOCOLS = ("mqtt", "http", "amqp", "coap")
DEVICES = (1, 50, 500)
SHARE = {"mqtt": 1.0, "amqp": 1.0, "http": 0.4, "coap": 0.3}
"""Messages of a run, as a part of those asked for: a run is to last about as long for each protocol."""

WAITING = ("http", "coap")
"""Protocols whose devices have one request under way."""
ALONE = 5
"""One such device alone sends one part in so many of the messages."""


@dataclass(frozen=True, slots=True)
class Row:
    """One load, and who carried it how fast."""

    protocol: str
    qos: int
    devices: int
    rates: dict[str, Rate]

    def ratio(self, name: str) -> float:
        """Messages per CPU second of the first, divided by those of `name`."""
        first = next(iter(self.rates.values()))
        return first.per_cpu_second / self.rates[name].per_cpu_second


@contextmanager
def targets(gateway: Gateway, protocol: str, *, ceilings: bool) -> Iterator[dict[str, Target]]:
    """What carries the messages of one protocol."""
    with ExitStack() as stack:
        found = {"to AMQP": gateway.to_amqp(protocol)}
        if ceilings:
            ceiling = stack.enter_context(CEILINGS[protocol]())
            found[ceiling.name] = ceiling
        if gateway.kafka is not None:
            found["to Kafka"] = gateway.to_kafka(protocol)
        yield found


def measure(
    gateway: Gateway,
    protocols: Sequence[str],
    devices: Sequence[int],
    messages: int,
    rounds: int,
    *,
    ceilings: bool,
) -> Iterator[Row]:
    """Measure each protocol, QoS and number of devices."""
    for protocol in protocols:
        with targets(gateway, protocol, ceilings=ceilings) as found:
            for qos in (0, 1):
                for count in devices:
                    number = int(messages * SHARE[protocol])
                    if count == 1 and protocol in WAITING:
                        number //= ALONE
                    rates = in_turns(list(found.values()), qos, count, number, rounds)
                    yield Row(protocol, qos, count, dict(zip(found, rates, strict=True)))


def line(row: Row) -> str:
    """One row of the table."""
    parts = [f"{row.protocol:<5}{row.qos:>4}{row.devices:>8}"]
    for at, (name, rate) in enumerate(row.rates.items()):
        ratio = f" ({row.ratio(name):.2f})" if at else ""
        parts.append(f"  {name}: {rate.per_second:,.0f}/s, {rate.per_cpu_second:,.0f}/CPU s{ratio}")
    return "".join(parts)


def as_json(row: Row) -> dict[str, object]:
    """The row with its ratios."""
    ratios = {name: round(row.ratio(name), 3) for name in row.rates}
    return asdict(row) | {"ratios": ratios}


@contextmanager
def the_broker(*, wanted: bool) -> Iterator[str | None]:
    """An Apache Kafka broker's bootstrap servers, when it is wanted."""
    if not wanted:
        yield None
        return
    from tests.kafka_rig import a_broker

    with scratch() as folder, a_broker(folder) as broker:
        yield broker.bootstrap


def main() -> None:
    """Print a line for each load, or JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--messages", type=int, default=30_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--protocols", nargs="+", choices=PROTOCOLS, default=PROTOCOLS)
    parser.add_argument("--devices", nargs="+", type=int, default=DEVICES)
    parser.add_argument("--without-ceilings", action="store_true")
    parser.add_argument("--without-kafka", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    with (
        the_broker(wanted=not options.without_kafka) as bootstrap,
        the_gateway(max(options.devices), kafka=bootstrap) as gateway,
    ):
        for row in measure(
            gateway,
            options.protocols,
            options.devices,
            options.messages,
            options.rounds,
            ceilings=not options.without_ceilings,
        ):
            rows.append(as_json(row))
            if not options.json:
                print(line(row), flush=True)
    if options.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
