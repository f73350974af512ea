"""The command as people type it: help, settings, exit codes, output forms."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests import process

pytestmark = pytest.mark.e2e


def twinspan(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[process.Twinspan]:
    with process.twinspan(tmp_path_factory.mktemp("cli") / "data", "up", "--demo") as up:
        yield up


def test_help_names_every_command() -> None:
    done = twinspan("--help")
    assert done.returncode == 0
    for name in ("up", "gateway", "cloud", "edge", "token", "kubeconfig", "thing", "doctor"):
        assert f"\n  {name} " in done.stdout


@pytest.mark.parametrize(
    "command",
    [
        ("up",),
        ("edge", "join"),
        ("edge", "run"),
        ("token",),
        ("tenant", "create"),
        ("device", "list"),
        ("thing", "watch"),
        ("send",),
        ("tail",),
        ("command",),
        ("doctor",),
        ("bench",),
    ],
)
def test_every_command_has_help(command: tuple[str, ...]) -> None:
    done = twinspan(*command, "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage: twinspan " + " ".join(command) in done.stdout
    assert len(done.stdout.splitlines()) > 5


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("config", "show", "--set", "hono.nope=1"), 2, "hono.nope: unknown setting"),
        (("config", "show", "--config", "/no/such/file"), 2, "/no/such/file: cannot be read"),
        (("nonsense",), 2, "No such command"),
        (("token", "--ttl", "soon", "--data-dir", "/tmp"), 2, "--ttl: expected a number"),
        (("thing", "search", "--url", "http://127.0.0.1:9", "-u", "a:b"), 5, "cannot be reached"),
        (("kubeconfig", "--data-dir", "/no/such"), 2, "has not run on this data directory"),
        (
            ("up", "--demo", "--set", "ditto.http.bind=0.0.0.0:0"),
            2,
            "ditto.http.bind: 0.0.0.0:0 is reachable from other machines",
        ),
    ],
)
def test_a_mistake_is_told_in_one_line_with_its_code(
    arguments: tuple[str, ...], code: int, told: str
) -> None:
    done = twinspan(*arguments)
    assert done.returncode == code, done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_settings_shown_can_be_used_as_a_settings_file(tmp_path: Path) -> None:
    shown = twinspan("config", "show", "--set", "hono.mqtt.max_payload=77").stdout
    file = tmp_path / "twinspan.yaml"
    file.write_text(shown)
    again = twinspan("config", "show", "--config", str(file), "-o", "json")
    assert json.loads(again.stdout) == yaml.safe_load(shown)
    assert json.loads(again.stdout)["hono"]["mqtt"]["max_payload"] == 77


def test_the_schema_is_json_schema() -> None:
    schema = json.loads(twinspan("config", "schema").stdout)
    assert schema["properties"]["hono"]["properties"]["mqtt"]["additionalProperties"] is False


def test_registry_commands_print_tables_and_json(running: process.Twinspan) -> None:
    where = ("--data-dir", str(running.data_dir))
    table = twinspan("device", "list", "DEFAULT_TENANT", *where)
    assert table.stdout.splitlines()[0].split() == ["ID", "ENABLED", "VIA"]
    found = json.loads(twinspan("device", "list", "DEFAULT_TENANT", "-o", "json", *where).stdout)
    assert {"4711", "4712", "gw-1"} <= {entry["id"] for entry in found}
    assert twinspan("tenant", "get", "nobody", *where).returncode == 3
    assert twinspan("tenant", "list", "-u", "hono-client:wrong", *where).returncode == 4


def test_things_are_read_set_and_searched(running: process.Twinspan) -> None:
    where = ("--data-dir", str(running.data_dir))
    path = "attributes/location"
    assert twinspan("thing", "set", "org.acme:4711", path, '"Oslo"', *where).returncode == 0
    assert twinspan("thing", "get", "org.acme:4711", path, *where).stdout == '"Oslo"\n'
    hit = twinspan("thing", "search", 'eq(attributes/location,"Oslo")', "-o", "json", *where)
    assert [thing["thingId"] for thing in json.loads(hit.stdout)] == ["org.acme:4711"]
    assert twinspan("thing", "get", "org.acme:none", *where).returncode == 3
    line = twinspan("thing", "history", "org.acme:4711", "--from", "-1", *where).stdout
    assert json.loads(line)["attributes"] == {"location": "Oslo"}


def test_doctor_finds_the_running_process_and_its_ports(running: process.Twinspan) -> None:
    done = twinspan("doctor", "-o", "json", "--data-dir", str(running.data_dir))
    findings = {
        entry["check"]: entry for entry in json.loads(done.stdout) if entry["check"] != "port"
    }
    assert findings["process"]["finding"].startswith("ready")
    assert findings["data directory"]["state"] == "ok"
    assert findings["certificate"]["state"] == "ok"
    assert "/metrics; Prometheus: scrape_configs" in findings["metrics"]["finding"]
    assert "TLS yes" in findings["amqp client"]["finding"]


def test_a_token_is_for_one_node_and_a_kubeconfig_is_private(running: process.Twinspan) -> None:
    where = ("--data-dir", str(running.data_dir))
    token = twinspan("token", "--node", "edge-7", "--ttl", "5m", *where).stdout.strip()
    assert token.count(".") == 3
    assert len(token.partition(".")[0]) == 64
    config = yaml.safe_load(twinspan("kubeconfig", *where).stdout)
    assert (
        config["clusters"][0]["cluster"]["server"] == f"https://{running.endpoints['kube.https']}"
    )
    kept = running.data_dir / "kube" / "kubeconfig"
    assert kept.stat().st_mode & 0o077 == 0


def test_without_demo_users_are_random_shown_once_and_private(tmp_path: Path) -> None:
    with process.twinspan(tmp_path / "data", "gateway") as first:
        shown = first.text()
    known = json.loads((tmp_path / "data" / "credentials.json").read_text())
    assert known["ditto"]["ditto"] in shown
    assert (tmp_path / "data" / "credentials.json").stat().st_mode & 0o077 == 0
    with process.twinspan(tmp_path / "data", "gateway") as second:
        assert known["ditto"]["ditto"] not in second.text().replace(shown, "")
        where = ("--data-dir", str(second.data_dir))
        assert twinspan("tenant", "create", "t1", *where).returncode == 0


def test_tail_shows_what_a_device_sends(running: process.Twinspan) -> None:
    watching = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "gateway.cli",
            "tail",
            "DEFAULT_TENANT",
            "--device",
            "4711",
            "-n",
            "1",
            "-o",
            "json",
            "--kind",
            "event",
            "--data-dir",
            str(running.data_dir),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        user = ("-u", "sensor1@DEFAULT_TENANT:hono-secret", "--data-dir", str(running.data_dir))
        while watching.poll() is None:  # it sees what comes after it began to watch
            assert twinspan("send", "event", '{"door": "open"}', *user).returncode == 0
        out, _ = watching.communicate(timeout=30)
    finally:
        watching.kill()
    assert watching.returncode == 0
    assert json.loads(out)["payload"] == {"door": "open"}


def test_tail_of_an_unknown_tenant_says_so(running: process.Twinspan) -> None:
    done = twinspan("tail", "nobody", "--data-dir", str(running.data_dir))
    assert done.returncode == 3
    assert "404" in done.stderr
