"""What a stranger does by hand against a running Twinspan: curl, mosquitto's programs, kubectl."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tests.integration.proton_peer import Peer
from tests.kubectl import find_kubectls
from tests.process import Twinspan, eventually, tool

T = TypeVar("T")

OWN_TALK = re.compile(r"(Client )?\S+ (sending|received) [A-Z]+|Subscribed").match
CURL_SECONDS = "30"
REGISTRY_USER = "hono-client:secret"
DITTO_USER = "ditto:ditto"
CONSUMER = "consumer%40HONO:verysecret"


@dataclass(frozen=True, slots=True)
class Answer:
    """What curl got; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: str

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def parse_answer(text: str) -> Answer:
    """Read the output of `curl -i`; interim answers are skipped."""
    head, _, body = text.partition("\r\n\r\n")
    status = int(head.split(maxsplit=2)[1])
    if status < 200:
        return parse_answer(body)
    lines = (line.partition(":") for line in head.split("\r\n")[1:])
    return Answer(status, {name.lower(): value.strip() for name, _, value in lines}, body)


def curl(
    method: str, url: str, *options: str, user: str = "", data: Any = None, content_type: str = ""
) -> Answer:
    """Run curl and return what it got, whatever the status.

    Shape:  `data` as text is sent as it is, anything else as JSON; `content_type` replaces application/json.
    """
    words = [tool("curl"), "-sS", "-i", "-m", CURL_SECONDS, "-X", method, url, *options]
    if user:
        words += ["-u", user]
    if data is not None:
        text = data if isinstance(data, str) else json.dumps(data)
        words += [
            "-H",
            f"Content-Type: {content_type or 'application/json'}",
            "--data-binary",
            "@-",
        ]
        return parse_answer(_output(words, text))
    return parse_answer(_output(words, ""))


def _output(words: list[str], stdin: str) -> str:
    """Run to the end with line ends as they came."""
    done = subprocess.run(words, input=stdin.encode(), capture_output=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stderr.decode()}"
    return done.stdout.decode()


@dataclass(frozen=True, slots=True)
class Device:
    """A device with a password, and its way in."""

    tenant: str
    name: str
    login: str
    password: str

    @property
    def user(self) -> str:
        return f"{self.login}@{self.tenant}"

    @property
    def curl_user(self) -> str:
        return f"{self.user}:{self.password}"


DEMO_DEVICE = Device("DEFAULT_TENANT", "4711", "sensor1", "hono-secret")


@dataclass(frozen=True, slots=True)
class Walk:
    """One running Twinspan, seen from outside."""

    running: Twinspan

    # --- registry, Ditto, devices over HTTP

    def registry(self, method: str, path: str, *options: str, data: Any = None) -> Answer:
        url = self.running.url("hono.registry", f"/v1/{path}")
        return curl(method, url, *options, user=REGISTRY_USER, data=data)

    def ditto(self, method: str, path: str, *options: str, **more: Any) -> Answer:
        url = self.running.url("ditto.http", f"/api/2/{path}")
        return curl(method, url, *options, **{"user": DITTO_USER, **more})

    def thing(self, thing_id: str, path: str = "") -> Any:
        """A thing or a part of it; None where there is none."""
        answer = self.ditto("GET", f"things/{thing_id}{path}")
        return answer.json if answer.status == 200 else None

    def upload(self, device: Device, path: str, data: Any, *options: str, **more: Any) -> Answer:
        """Post as a device to the HTTP adapter."""
        url = self.running.url("hono.http", f"/{path}")
        return curl("POST", url, *options, data=data, **{"user": device.curl_user, **more})

    def a_device(self, tenant: str, name: str, *, password: str = "my-password") -> Device:
        """Make a tenant (if need be), a device and its password, as the tour does."""
        assert self.registry("POST", f"tenants/{tenant}").status in (201, 409)
        assert self.registry("POST", f"devices/{tenant}/{name}").status == 201
        login = f"login-{name.replace(':', '-')}"
        secret = {"auth-id": login, "type": "hashed-password", "secrets": [{"pwd-plain": password}]}
        assert self.registry("PUT", f"credentials/{tenant}/{name}", data=[secret]).status == 204
        return Device(tenant, name, login, password)

    # --- MQTT

    def mqtt(self, name: str, device: Device | None, *words: str) -> list[str]:
        """The command line of one of mosquitto's programs against the adapter, or the edge's broker."""
        port = self.running.port("hono.mqtt" if device else "edge.mqtt")
        login = ("-u", device.user, "-P", device.password) if device else ()
        return [tool(name), "-h", "127.0.0.1", "-p", str(port), *login, *words]

    def publish(self, device: Device | None, topic: str, payload: Any, *words: str) -> None:
        """Run mosquitto_pub; fail when it fails."""
        assert self.try_publish(device, topic, payload, *words) == ""

    def try_publish(self, device: Device | None, topic: str, payload: Any, *words: str) -> str:
        """Run mosquitto_pub and return its complaint; empty when there was none."""
        text = payload if isinstance(payload, str) else json.dumps(payload)
        command = self.mqtt("mosquitto_pub", device, "-t", topic, "-s", *words)
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=30, check=False
        )
        said = (done.stdout + done.stderr).strip()
        return said if done.returncode == 0 or said else f"exit code {done.returncode}"

    @contextmanager
    def subscribed(self, device: Device | None, *words: str) -> Iterator[Lines]:
        """Run mosquitto_sub for the length of the block, once it is subscribed."""
        command = self.mqtt("mosquitto_sub", device, "-v", "-d", *words)
        with lines_of(tool("stdbuf"), "-oL", *command) as lines:
            lines.until("received SUBACK")
            yield lines

    # --- AMQP

    def application(self, **options: Any) -> Peer:
        """A python-qpid-proton application at the northbound endpoint."""
        return Peer(f"amqp://{CONSUMER}@{self.running.endpoints['northbound.amqp']}", **options)

    def amqp_device(self, device: Device, **options: Any) -> Peer:
        """A python-qpid-proton device at the AMQP adapter."""
        login = f"{device.login}%40{device.tenant}:{device.password}"
        return Peer(f"amqp://{login}@{self.running.endpoints['hono.amqp']}", **options)

    # --- Kubernetes

    def kubectl(
        self,
        *words: str,
        stdin: str = "",
        fails: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> str:
        """Run kubectl as administrator; return what it printed (its complaint when it should fail)."""
        done = subprocess.run(
            [str(a_kubectl()), *words],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**self.kubectl_environment(), **(environment or {})},
        )
        assert (done.returncode != 0) == fails, f"kubectl {words}: {done.stdout}{done.stderr}"
        return done.stdout if not fails else done.stdout + done.stderr

    def kubectl_json(self, *words: str) -> Any:
        return json.loads(self.kubectl(*words, "-o", "json"))

    def kubectl_environment(self) -> dict[str, str]:
        """Environment for a kubectl of this Twinspan's administrator."""
        home = self.running.data_dir.parent / "kubectl-home"
        home.mkdir(exist_ok=True)
        config = self.running.data_dir / "kube" / "kubeconfig"
        return {"PATH": os.environ["PATH"], "HOME": str(home), "KUBECONFIG": str(config)}


def a_kubectl() -> Path:
    """The newest kubectl at hand; the test is skipped where there is none."""
    found = list(find_kubectls().values())
    return found[0] if found else Path(tool("kubectl"))


def twinspan_cli(*words: str, fails: bool = False) -> str:
    """Run `twinspan WORDS` to its end and return what it printed."""
    done = try_twinspan(*words)
    assert (done.returncode != 0) == fails, f"twinspan {words}: {done.stdout}{done.stderr}"
    return done.stdout + (done.stderr if fails else "")


def try_twinspan(*words: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run `twinspan WORDS` to its end, whatever comes of it."""
    return subprocess.run(
        [*prefix, sys.executable, "-m", "gateway.cli", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@dataclass(slots=True)
class Lines:
    """What a program that goes on has printed so far, line by line, in a file."""

    file: Path
    process: subprocess.Popen[bytes]
    taken: int = 0
    _seen: list[str] = field(default_factory=list)

    def all(self) -> list[str]:
        return self.file.read_text(errors="replace").splitlines()

    def until(self, part: str, seconds: float = 20.0) -> str:
        """The next line that has `part` in it; lines before it are passed."""
        return self._next(lambda line: part in line, part, seconds)

    def message(self, part: str = "", seconds: float = 20.0) -> str:
        """The next `topic payload` line of a mosquitto_sub, its own talk left out."""
        return self._next(lambda line: part in line and not OWN_TALK(line), part, seconds)

    def _next(self, wanted: Callable[[str], bool], part: str, seconds: float) -> str:
        def look() -> str:
            lines = self.all()
            for at in range(self.taken, len(lines)):
                if wanted(lines[at]):
                    self.taken = at + 1
                    return lines[at]
            return ""

        return eventually(look, seconds=seconds, what=f"{part!r} in\n" + "\n".join(self.all()))


@contextmanager
def lines_of(*command: str, env: dict[str, str] | None = None) -> Iterator[Lines]:
    """Run a program for the length of the block and watch what it prints."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "out"
        with file.open("wb") as out:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=env
            )
        try:
            yield Lines(file, process)
        finally:
            process.kill()
            process.wait(10)


async def in_thread(work: Callable[..., T], *args: Any, **named: Any) -> T:
    """Run what blocks (curl, mosquitto_pub) beside the loop."""
    return await asyncio.to_thread(work, *args, **named)
