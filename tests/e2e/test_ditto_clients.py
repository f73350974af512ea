"""Eclipse Ditto's own clients drive the running service: JavaScript, Java, and the Python one."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import bcrypt
import pytest

from tests.ports import free_port
from tests.process import Twinspan, eventually, tool, twinspan

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "tests" / "clients"
CLIENTS = ROOT / ".peers" / "ditto-clients"
SECONDS = 120.0
ALL_PASSED = re.compile(r"^[1-9]\d* passed, 0 failed$", re.MULTILINE)


def installed(language: str) -> Path:
    """Where a client is, or skip with the command that gets it."""
    found = CLIENTS / language
    if not found.exists():
        pytest.skip(f"no client for {language}; scripts/ditto-clients.sh gets it")
    return found


def users_file(folder: Path) -> str:
    """A second user beside the demo's: alice with alice-secret."""
    hashed = bcrypt.hashpw(b"alice-secret", bcrypt.gensalt(4)).decode()
    path = folder / "users"
    path.write_text(f"alice:{hashed}\n")
    return f"ditto.http.users_file={path}"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twinspan]:
    folder = tmp_path_factory.mktemp("clients")
    with twinspan(folder / "data", "gateway", "--demo", sets=(users_file(folder),)) as running:
        yield running


@pytest.fixture
def restartable(tmp_path: Path) -> Iterator[Twinspan]:
    """A service that comes back on the same port."""
    sets = (users_file(tmp_path), f"ditto.http.bind=127.0.0.1:{free_port()}")
    with twinspan(tmp_path / "data", "gateway", "--demo", sets=sets) as running:
        yield running


class Script:
    """A client at work; its words are read from a file, so that it never waits for us to read."""

    def __init__(self, words: list[str], environment: dict[str, str], log: Path) -> None:
        self._log = log
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                words, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **environment}
            )

    def said(self, text: str) -> bool:
        return text in self.text() or self._process.poll() is not None

    def text(self) -> str:
        return self._log.read_text(errors="replace")

    def passed(self) -> bool:
        """Wait for the end; True when all its tests passed and there were some."""
        try:
            code = self._process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self.end()
            return False
        return code == 0 and ALL_PASSED.search(self.text()) is not None

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def javascript(name: str, service: Twinspan, log: Path) -> Script:
    modules = installed("javascript") / "node_modules"
    environment = {"DITTO_HOST": service.endpoints["ditto.http"], "DITTO_MODULES": str(modules)}
    return Script([tool("node"), str(SOURCES / "javascript" / name)], environment, log)


def java(service: Twinspan, log: Path, *arguments: str) -> Script:
    jars = installed("java")
    words = [tool("java"), "-cp", f"{jars}/*", str(SOURCES / "java" / "Clients.java"), *arguments]
    return Script(words, {"DITTO_HOST": service.endpoints["ditto.http"]}, log)


def restart_when_ready(script: Script, service: Twinspan) -> None:
    """What a client must survive: the server goes, and comes back on its port with what it stored."""
    eventually(lambda: script.said("ready"), seconds=30, what="connection of the client")
    service.stop()
    service.start()


@pytest.mark.parametrize("name", ["http.js", "websocket.js"])
def test_the_javascript_client_finds_everything_it_offers(
    service: Twinspan, tmp_path: Path, name: str
) -> None:
    script = javascript(name, service, tmp_path / "log")
    assert script.passed(), script.text()


def test_the_javascript_client_goes_on_after_a_restart(
    restartable: Twinspan, tmp_path: Path
) -> None:
    script = javascript("reconnect.js", restartable, tmp_path / "log")
    try:
        restart_when_ready(script, restartable)
        assert script.passed(), script.text()
    finally:
        script.end()


def test_the_java_client_finds_everything_it_offers(service: Twinspan, tmp_path: Path) -> None:
    script = java(service, tmp_path / "log")
    assert script.passed(), script.text()


def test_the_java_client_goes_on_after_a_restart(restartable: Twinspan, tmp_path: Path) -> None:
    script = java(restartable, tmp_path / "log", "reconnect")
    try:
        restart_when_ready(script, restartable)
        assert script.passed(), script.text()
    finally:
        script.end()


def test_the_python_client_finds_everything_it_offers(service: Twinspan, tmp_path: Path) -> None:
    python = installed("python") / "bin" / "python"
    words = [str(python), str(SOURCES / "python" / "drive.py")]
    environment = {"DITTO_HOST": service.endpoints["ditto.http"], "NO_COLOR": "1"}
    script = Script(words, environment, tmp_path / "log")
    assert script.passed(), script.text()
