"""What jobs may change and hand on at an edge: settings by table, versions by pattern."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from edge.overlay import FIELDS, Overlay, read_fields
from edge.upgrades import Upgrades, check_version
from gateway.config import load
from gateway.config.tree import Settings
from gateway.errors import BadRequest, GatewayError, InvalidSetting

GOOD = {
    "modules.edgeHub.heartbeat": ("30", 30.0),
    "modules.edgeHub.httpServer": ("https://10.0.0.1:10002", "10.0.0.1:10002"),
    "modules.edgeHub.websocket.server": ("10.0.0.1:10000", "10.0.0.1:10000"),
    "modules.metaManager.metaServer.enable": ("False", False),
    "modules.metaManager.metaServer.server": ("127.0.0.1:10551", "127.0.0.1:10551"),
    "modules.eventBus.mqttMode": ("1", "both"),
    "modules.eventBus.mqttServerInternal": ("tcp://127.0.0.1:1885", "127.0.0.1:1885"),
    "modules.eventBus.mqttServerExternal": ("tcp://10.0.0.2:1883", "10.0.0.2:1883"),
    "modules.eventBus.mqttUsername": ("$(id)", "$(id)"),
    "modules.serviceBus.enable": ("true", True),
    "modules.serviceBus.timeout": ("5", 5.0),
    "modules.edgeStream.enable": ("true", True),
    "modules.edgeStream.server": ("10.0.0.1:10004", "10.0.0.1:10004"),
}


def value_at(settings: Settings, path: str) -> object:
    found: object = settings
    for name in path.split("."):
        found = getattr(found, name)
    return found


def test_every_setting_of_the_table_is_tried_here() -> None:
    assert GOOD.keys() == FIELDS.keys()


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_a_setting_that_a_job_changed_counts_at_the_next_start(name: str, tmp_path: Path) -> None:
    text, wanted = GOOD[name]
    Overlay(tmp_path).write(read_fields({name: text}))
    found = load(environ={}, sets=[f"data_dir={tmp_path}"])
    assert value_at(found, FIELDS[name].path) == wanted


def test_our_own_names_are_taken_too() -> None:
    assert read_fields({"edge.hub.keepalive": " 20 "}) == {"edge.hub.keepalive": 20.0}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("modules.edged.hostnameOverride", "other"),
        ("edge.mqtt.users_file", "/etc/passwd"),
        ("edge.tasks.upgrade_command", "/bin/sh"),
        ("data_dir", "/"),
        ("modules.edgeHub.heartbeat", "0"),
        ("modules.edgeHub.heartbeat", "nan"),
        ("modules.edgeHub.heartbeat", "15; reboot"),
        ("modules.eventBus.mqttMode", "3"),
        ("modules.eventBus.mqttServerInternal", "tcp://0.0.0.0:1884"),
        ("modules.metaManager.metaServer.server", "10.0.0.1:10550"),
        ("modules.edgeHub.websocket.server", "no port"),
        ("modules.eventBus.mqttUsername", "a\nb"),
        ("modules.eventBus.mqttUsername", "x" * 1_001),
        ("modules.serviceBus.enable", "yes"),
    ],
)
def test_what_a_job_may_not_set_is_refused_by_its_name(name: str, value: str) -> None:
    with pytest.raises(InvalidSetting) as failure:
        read_fields({name: value})
    assert name in failure.value.message


@pytest.mark.parametrize("fields", [{}, {f"a{n}": "" for n in range(101)}])
def test_nothing_and_too_much_are_refused(fields: dict[str, str]) -> None:
    with pytest.raises(InvalidSetting, match="updateFields"):
        read_fields(dict(fields))


def test_one_setting_cannot_be_named_twice() -> None:
    both = {"modules.edgeHub.heartbeat": "20", "edge.hub.keepalive": "30"}
    with pytest.raises(InvalidSetting, match="twice"):
        read_fields(dict(both))


def test_a_rollback_brings_back_what_was_there(tmp_path: Path) -> None:
    overlay = Overlay(tmp_path)
    overlay.back_up()
    overlay.write({"edge.hub.keepalive": 20.0})
    overlay.restore()
    assert not overlay.path.exists()
    overlay.write({"edge.hub.keepalive": 20.0})
    overlay.back_up()
    overlay.write({"edge.servicebus.timeout": 5.0})
    assert yaml.safe_load(overlay.path.read_text())["edge"].keys() == {"hub", "servicebus"}
    overlay.restore()
    assert yaml.safe_load(overlay.path.read_text()) == {"edge": {"hub": {"keepalive": 20.0}}}


def test_a_rollback_without_a_copy_changes_nothing(tmp_path: Path) -> None:
    overlay = Overlay(tmp_path)
    overlay.write({"edge.hub.keepalive": 20.0})
    overlay.restore()
    assert overlay.path.exists()


def test_environment_and_options_win_over_a_job_and_a_job_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(f"data_dir: {tmp_path}\nedge: {{hub: {{keepalive: 10, reconnect_cap: 3}}}}\n")
    Overlay(tmp_path).write({"edge.hub.keepalive": 20.0, "edge.hub.reconnect_cap": 20.0})
    found = load(file, environ={"TWINSPAN__EDGE__HUB__RECONNECT_CAP": "7"})
    assert (found.edge.hub.keepalive, found.edge.hub.reconnect_cap) == (20.0, 7.0)
    assert load(file, environ={}, sets=["edge.hub.keepalive=1"]).edge.hub.keepalive == 1.0


def test_an_overlay_of_odd_bytes_is_left_out(tmp_path: Path) -> None:
    path = Overlay(tmp_path).path
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\xff\xfe\x00")
    assert load(environ={}, sets=[f"data_dir={tmp_path}"]) == Settings(data_dir=tmp_path)


@pytest.mark.parametrize(
    "text", ["edge: {nonsense: 1}", "demo: true", "[1]", "edge: {hub: {keepalive: x}}"]
)
def test_an_overlay_that_cannot_be_is_left_out_and_the_node_starts(
    text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = Overlay(tmp_path).path
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with caplog.at_level(logging.WARNING):
        found = load(environ={}, sets=[f"data_dir={tmp_path}"])
    assert found == Settings(data_dir=tmp_path)
    assert "left out" in caplog.text


@pytest.mark.parametrize("version", ["v1.2.3", "1.23.1", "0.1.0.dev0", "v1.2.3-rc.1", "1.0rc1+b"])
def test_versions_are_taken(version: str) -> None:
    assert check_version(version) == version


@given(st.text(alphabet=" ;$()`|&<>\\'\"\n/*?~#\x00", min_size=1, max_size=20), st.integers(0, 6))
def test_no_character_of_a_shell_or_path_passes_in_a_version(text: str, at: int) -> None:
    with pytest.raises(BadRequest):
        check_version("v1.2.3"[:at] + text + "v1.2.3"[at:])


@pytest.mark.parametrize("version", ["-1.0", "--help", "", "v", "1", None, 5, "1.0" + "a" * 62])
def test_what_is_no_version_is_refused(version: object) -> None:
    with pytest.raises(BadRequest):
        check_version(version)


def test_the_upgrade_command_is_an_absolute_path() -> None:
    with pytest.raises(InvalidSetting, match=r"edge\.tasks\.upgrade_command"):
        Upgrades(Path("/tmp"), "sh -c")


@given(st.dictionaries(st.text(max_size=30), st.text(max_size=30), max_size=5))
def test_whatever_a_job_asks_for_is_taken_or_refused(fields: dict[str, str]) -> None:
    try:
        found = read_fields(dict(fields))
    except GatewayError:
        return
    assert found
