"""A RabbitMQ broker with shovels, on ports of its own, for the length of a test; ended by process id."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.ports import free_ports
from tests.process import eventually

HOME: Final = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
"""Where Debian puts what `/usr/sbin/rabbitmq-server` wants root for."""
PLUGINS: Final = "[rabbitmq_amqp1_0,rabbitmq_shovel]."
START_SECONDS: Final = 90.0
STOP_SECONDS: Final = 20.0
USER: Final = "test:secret"


@dataclass(frozen=True, slots=True)
class Shovel:
    """A static shovel: Erlang's words for its two ends."""

    name: str
    source: str
    destination: str

    def config(self) -> str:
        return (
            f"{{{self.name}, [{{source, [{self.source}]}}, {{destination, [{self.destination}]}},"
            " {ack_mode, on_confirm}, {reconnect_delay, 1}]}"
        )


def over_amqp10(url: str, **words: str) -> str:
    """One end of a shovel that is an AMQP 1.0 peer."""
    return _end("amqp10", f"{url}?sasl=plain", {name: f'<<"{w}">>' for name, w in words.items()})


def from_queue(port: int, queue: str) -> str:
    """The source of a shovel that is a queue of the broker itself."""
    return _end("amqp091", f"amqp://{USER}@127.0.0.1:{port}", {"queue": f'<<"{queue}">>'})


def to_queue(port: int, queue: str) -> str:
    """The destination of a shovel that is a queue of the broker itself."""
    fields = f'[{{exchange, <<"">>}}, {{routing_key, <<"{queue}">>}}]'
    url = f"amqp://{USER}@127.0.0.1:{port}"
    return _end("amqp091", url, {"publish_fields": fields})


def _end(protocol: str, url: str, words: dict[str, str]) -> str:
    said = "".join(f", {{{name}, {word}}}" for name, word in words.items())
    return f'{{protocol, {protocol}}}, {{uris, ["{url}"]}}{said}'


def needs_rabbitmq() -> None:
    """Skip the test with the command that installs the broker."""
    if not HOME.exists():
        pytest.skip("NOT RUN: no RabbitMQ; scripts/debian-packages.sh installs it")


@contextmanager
def rabbitmq(
    folder: Path,
    port: int,
    queues: Sequence[str],
    shovels: Sequence[Shovel],
    *,
    plugins: str = PLUGINS,
    settings: str = "",
    emulator: str = "",
) -> Iterator[Path]:
    """Run a broker with these queues and shovels; yields its log.

    Shape:  `settings` are more lines of rabbitmq.conf, `emulator` arguments of Erlang's; the broker writes
            its process id to `folder/pid`.
    """
    needs_rabbitmq()
    names, distribution = free_ports(2)
    _write_config(folder, port, queues, shovels)
    with (folder / "rabbitmq.conf").open("a") as more:
        more.write(settings)
    (folder / "plugins").write_text(plugins)
    environment = _environment(folder, names, distribution)
    environment["RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"] += f" {emulator}"
    log = folder / "rabbit.log"
    epmd = subprocess.Popen(["epmd", "-port", str(names), "-address", "127.0.0.1"], env=environment)
    try:
        with log.open("wb") as out:
            broker = subprocess.Popen(
                [str(HOME)], env=environment, stdout=out, stderr=subprocess.STDOUT, cwd=folder
            )
        try:
            eventually(lambda: _is_up(broker, log), seconds=START_SECONDS, what="start of RabbitMQ")
            yield log
        finally:
            _end_process(broker)
    finally:
        _end_process(epmd)


def _is_up(broker: subprocess.Popen[bytes], log: Path) -> bool:
    text = log.read_text(errors="replace")
    assert broker.poll() is None, text[-4_000:]
    return "Server startup complete" in text


def _end_process(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(STOP_SECONDS)


def _write_config(
    folder: Path, port: int, queues: Sequence[str], shovels: Sequence[Shovel]
) -> None:
    name, _, password = USER.partition(":")
    every = {"configure": ".*", "write": ".*", "read": ".*"}
    definitions = {
        "users": [{"name": name, "password": password, "tags": ["administrator"]}],
        "vhosts": [{"name": "/"}],
        "permissions": [{"user": name, "vhost": "/", **every}],
        "queues": [
            {"name": queue, "vhost": "/", "durable": True, "auto_delete": False, "arguments": {}}
            for queue in queues
        ],
    }
    (folder / "definitions.json").write_text(json.dumps(definitions))
    (folder / "rabbitmq.conf").write_text(
        f"listeners.tcp.1 = 127.0.0.1:{port}\n"
        f"load_definitions = {folder / 'definitions.json'}\n"
        "log.console = true\nlog.console.level = info\nlog.file = false\n"
    )
    all_shovels = ", ".join(shovel.config() for shovel in shovels)
    (folder / "advanced.config").write_text(
        f"[{{rabbitmq_shovel, [{{shovels, [{all_shovels}]}}]}}]."
    )


def _environment(folder: Path, names: int, distribution: int) -> dict[str, str]:
    """A node that shares neither name server nor cookie nor files with another one."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "ERL_EPMD_PORT": str(names),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODENAME": f"twinspan-{names}@localhost",
        "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
    }
