"""From MQTT devices to one application: the shipped gateway beside RabbitMQ, Node-RED and mosquitto.

All get the same messages (150 bytes of JSON) from the same publishers, in turns, on the first core:
  twinspan   publishers -> AMQP 1.0 receiver; logins, registry, limits, metrics, traces
  rabbitmq   publishers -> MQTT plug-in -> topic exchange -> AMQP 1.0 plug-in -> the same receiver
  node-red   publishers -> mosquitto -> a flow of one node in and one out -> mosquitto -> subscriber
  mosquitto  publishers -> subscriber
At QoS 1 every hop acknowledges. The CPU time of the brokers that Node-RED needs is not counted. RabbitMQ runs
as Debian ships it, on all cores, and once more as it suits one core: with one scheduler that does not spin.
Peers that are missing are named and left out; without any the exit status is 1.
Run: `python -m bench.mqtt_peers [--messages 20000] [--rounds 3] [--peers ...] [--json]`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path

from bench.devices_rig import (
    Rate,
    Target,
    await_port,
    child,
    free_port,
    in_turns,
    mosquitto,
    mosquitto_process,
    plain,
    scratch,
    the_gateway,
)
from bench.things_rig import Server, pinned
from tests import rabbit_rig

DEVICES = 10
RABBIT_PLUGINS = "[rabbitmq_mqtt,rabbitmq_amqp1_0]."
ONE_CORE = "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none"
NODE_RED = Path(".peers/node-red/node_modules/node-red/red.js")
TOPIC = "telemetry"


class Missing(Exception):
    """A peer is not installed; the text says what installs it."""


# --- RabbitMQ ------------------------------------------------------------------------------------------


@contextmanager
def rabbitmq(*, on_one_core: bool) -> Iterator[Target]:
    """Debian's RabbitMQ with its MQTT and AMQP 1.0 plug-ins."""
    if not rabbit_rig.HOME.exists():
        raise Missing("rabbitmq-server; scripts/debian-packages.sh installs it")
    amqp, mqtt = free_port(), free_port()
    user, _, password = rabbit_rig.USER.partition(":")
    lines = (
        f"mqtt.listeners.tcp.1 = 127.0.0.1:{mqtt}",
        f"mqtt.allow_anonymous = true\nmqtt.default_user = {user}\nmqtt.default_pass = {password}",
    )
    settings, emulator = "\n".join(lines) + "\n", ONE_CORE if on_one_core else ""
    with scratch() as folder, ExitStack() as up:
        with first_core() if on_one_core else nullcontext():
            broker = rabbit_rig.rabbitmq(
                folder, amqp, (), (), plugins=RABBIT_PLUGINS, settings=settings, emulator=emulator
            )
            up.enter_context(broker)
        await_port(mqtt)
        pid = int((folder / "pid").read_text())
        sink = {"kind": "amqp", "port": amqp, "user": rabbit_rig.USER}
        sink["address"] = f"/topic/{TOPIC}"
        name = "rabbitmq on one core" if on_one_core else "rabbitmq"
        yield Target(name, plain("mqtt", mqtt, [pid], sink, topic=TOPIC))


@contextmanager
def first_core() -> Iterator[None]:
    """Stay on the first core; what is started meanwhile stays there for good."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


# --- Node-RED ------------------------------------------------------------------------------------------


@contextmanager
def node_red() -> Iterator[Target]:
    """Node-RED between two brokers."""
    node = shutil.which("node")
    if node is None or not NODE_RED.exists():
        raise Missing("node-red; scripts/bench-peers.sh installs it")
    with mosquitto_process() as (_, south), mosquitto_process() as (_, north), scratch() as folder:
        (folder / "flows.json").write_text(json.dumps(_flow(south, north)))
        (folder / "settings.js").write_text(_settings(free_port()))
        command = [*pinned(0), node, str(NODE_RED.absolute()), "-u", str(folder), "flows.json"]
        with child(command, folder) as pid:
            sink = {"kind": "mqtt", "port": north, "topic": TOPIC}
            spec = plain("mqtt", south, [pid], sink, topic=TOPIC)
            _await_relay(south, north)
            yield Target("node-red", spec)


def _flow(south: int, north: int) -> list[dict[str, object]]:
    """What is subscribed to on one broker is published on the other one, as bytes, with its QoS."""
    tab: dict[str, object] = {"id": "tab", "type": "tab", "label": "relay"}
    source = {"id": "in", "type": "mqtt in", "z": "tab", "broker": "south", "wires": [["out"]]}
    target = {"id": "out", "type": "mqtt out", "z": "tab", "broker": "north", "wires": []}
    return [
        tab,
        {**source, "topic": TOPIC, "qos": "1", "datatype": "buffer"},
        {**target, "topic": TOPIC, "qos": ""},
        *(
            {
                "id": name,
                "type": "mqtt-broker",
                "broker": "127.0.0.1",
                "port": str(port),
                "clientid": f"node-red-{name}",
                "cleansession": True,
                "protocolVersion": "4",
            }
            for name, port in (("south", south), ("north", north))
        ),
    ]


def _settings(port: int) -> str:
    facts = {
        "uiHost": "127.0.0.1",
        "uiPort": port,
        "httpAdminRoot": False,
        "httpNodeRoot": False,
        "telemetry": {"enabled": False},
        "logging": {"console": {"level": "warn"}},
    }
    return f"module.exports = {json.dumps(facts)};\n"


def _await_relay(south: int, north: int) -> None:
    """Send until something comes through."""
    import asyncio

    from bench.devices_load import mqtt_client
    from bench.mqtt_load import connect, subscribe

    async def probe() -> None:
        seen = asyncio.Event()
        taker = await mqtt_client(north, connect("probe-n"), lambda _topic, _payload: seen.set())
        taker.transport.write(subscribe(TOPIC, 0))
        sender = await mqtt_client(south, connect("probe-s"))
        async with asyncio.timeout(60):
            while not seen.is_set():
                sender.publish(TOPIC, [b"{}"], 0)
                await asyncio.sleep(0.2)
        sender.transport.close()
        await asyncio.sleep(0.5)
        taker.transport.close()

    asyncio.run(probe())


# --- all of them ------------------------------------------------------------------------------------------


@contextmanager
def twinspan() -> Iterator[Target]:
    """The shipped gateway."""
    with the_gateway(DEVICES) as gateway:
        yield gateway.to_amqp("mqtt")


PEERS: dict[str, Callable[[], AbstractContextManager[Target]]] = {
    "rabbitmq": partial(rabbitmq, on_one_core=False),
    "rabbitmq on one core": partial(rabbitmq, on_one_core=True),
    "node-red": node_red,
    "mosquitto": mosquitto,
}


def measure(
    names: Sequence[str], messages: int, rounds: int
) -> Iterator[tuple[int, dict[str, Rate], dict[str, float]]]:
    """Measure QoS 0 and 1 in turns: (QoS, rates, megabytes resident), the gateway first."""
    with ExitStack() as stack:
        targets = [stack.enter_context(twinspan())]
        for name in names:
            try:
                targets.append(stack.enter_context(PEERS[name]()))
            except Missing as missing:
                print(f"left out: {missing}", file=sys.stderr)
        if len(targets) == 1:
            raise SystemExit("there is none of the peers")
        for qos in (0, 1):
            rates = in_turns(targets, qos, DEVICES, messages, rounds)
            memory = {t.name: Server(t.spec["pids"][0], 0).resident() for t in targets}
            yield qos, {t.name: r for t, r in zip(targets, rates, strict=True)}, memory


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    for qos, rates, memory in measure(options.peers, options.messages, options.rounds):
        ours = rates["twinspan"]
        for name, rate in rates.items():
            times = ours.per_second / rate.per_second, ours.per_cpu_second / rate.per_cpu_second
            rows.append({"qos": qos, "name": name, **asdict(rate), "times": times})
            rows[-1]["resident_mb"] = round(memory[name], 1)
            if not options.json:
                print(
                    f"QoS {qos}  {name:<20}{rate.per_second:>9,.0f}/s{rate.per_cpu_second:>9,.0f}/CPU s"
                    f"{memory[name]:>7.0f} MB   twinspan is {times[0]:.1f} times as fast,"
                    f" {times[1]:.1f} times by CPU",
                    flush=True,
                )
    if options.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
