"""Starts the shipped command as a process of its own, on ports of its own, and ends it by id."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")

START_SECONDS = 60.0
STOP_SECONDS = 20.0

ANY_PORT = tuple(
    f"{setting}=127.0.0.1:0"
    for setting in (
        "hono.registry.bind",
        "hono.registry.tls_bind",
        "hono.http.bind",
        "hono.mqtt.bind",
        "hono.mqtt.tls_bind",
        "hono.http.tls_bind",
        "hono.amqp.tls_bind",
        "hono.northbound.tls_bind",
        "hono.amqp.bind",
        "hono.coap.bind",
        "hono.coap.tls_bind",
        "hono.northbound.bind",
        "ditto.http.bind",
        "kube.https.bind",
        "cloud.hub.wss.bind",
        "cloud.hub.https.bind",
        "cloud.router.bind",
        "cloud.admission.bind",
        "cloud.stream.bind",
        "cloud.stream.tunnel_bind",
        "edge.mqtt.bind",
        "edge.metaserver.bind",
        "edge.servicebus.bind",
        "edge.workloads.bind",
        "observe.http.bind",
    )
)


def eventually(
    check: Callable[[], T], *, seconds: float = 20.0, every: float = 0.05, what: str = ""
) -> T:
    """Return the first true result of `check`; fail when none comes."""
    deadline = time.monotonic() + seconds
    while True:
        result = check()
        if result:
            return result
        if time.monotonic() > deadline:
            pytest.fail(f"did not happen within {seconds} s: {what or check}; last: {result!r}")
        time.sleep(every)


def tool(name: str) -> str:
    """Return the path of a program that tests run, or skip with the command that installs it."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed; scripts/debian-packages.sh installs it")
    return path


class Twinspan:
    """One running `twinspan` process and its data directory."""

    def __init__(
        self,
        data_dir: Path,
        command: tuple[str, ...],
        sets: tuple[str, ...],
        prefix: tuple[str, ...] = (),
    ) -> None:
        self.data_dir = data_dir
        self._prefix = prefix
        self._command = command
        self._sets = sets
        self.log = data_dir.parent / f"{data_dir.name}.log"
        self.module = "gateway.cli"
        """What is run; tests name one of their own that breaks something first."""
        self.environment: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Twinspan:
        """Start and wait until `endpoints.json` is there, which is written when all modules are ready."""
        self.launch()
        eventually(self._is_up, seconds=START_SECONDS, what=f"start of {self._command}")
        return self

    def launch(self) -> None:
        """Start, and wait for nothing."""
        (self.data_dir / "endpoints.json").unlink(missing_ok=True)
        arguments = [a for s in (*ANY_PORT, *self._sets) for a in ("--set", s)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *self._prefix,
                    sys.executable,
                    "-m",
                    self.module,
                    *self._command,
                    "--data-dir",
                    str(self.data_dir),
                    *arguments,
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **self.environment},
            )

    def _is_up(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            pytest.fail(f"{self._command} ended with {self._process.returncode}:\n{self.text()}")
        return (self.data_dir / "endpoints.json").exists()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def endpoints(self) -> dict[str, str]:
        """Name -> host:port."""
        found: dict[str, str] = json.loads((self.data_dir / "endpoints.json").read_text())
        return found

    def url(self, name: str, path: str = "") -> str:
        return f"http://{self.endpoints[name]}{path}"

    def port(self, name: str) -> int:
        return int(self.endpoints[name].rpartition(":")[2])

    def text(self) -> str:
        """What the process printed so far, its last part."""
        return self.log.read_text(errors="replace")[-8_000:]

    def wait(self, seconds: float) -> bool:
        """Wait for its end; False when it has not come within so many seconds."""
        assert self._process is not None
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """Kill -9."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(STOP_SECONDS)

    def stop(self) -> int:
        """Ask to stop and return the exit code."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(STOP_SECONDS)
                pytest.fail(f"did not stop within {STOP_SECONDS} s of SIGTERM:\n{self.text()}")
        return self._process.returncode


@contextmanager
def twinspan(
    data_dir: Path, *command: str, sets: tuple[str, ...] = (), prefix: tuple[str, ...] = ()
) -> Iterator[Twinspan]:
    """Run `twinspan COMMAND` for the length of the block; `prefix` is what starts it, e.g. in a namespace."""
    running = Twinspan(data_dir, command, sets, prefix)
    try:
        yield running.start()
    finally:
        if running._process is not None and running._process.poll() is None:
            running.stop()


def run(*arguments: str, stdin: str | None = None, timeout: float = 60.0) -> str:
    """Run a program to its end and return what it printed; fail with its words otherwise."""
    done = subprocess.run(
        arguments, input=stdin, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, f"{' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
    return done.stdout
