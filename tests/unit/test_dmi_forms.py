"""What mappers are told of Devices, and how the sockets that they name are judged."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from edge.dmi import Bucket, open_socket
from edge.dmiforms import device_form, model_form, push_form
from edge.dmimappers import MapperInfo, read_mapper, socket_path
from gateway.errors import BadRequest, InvalidSetting
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.models import ModelView, with_defaults
from gateway.wire.cloudedge.twins import Twin, TwinValue
from gateway.wire.dmi.messages import encode

META: Any = {"name": "d1", "namespace": "default"}
MODEL: Any = {
    "metadata": {"name": "m1", "namespace": "default"},
    "spec": {
        "protocol": "modbus",
        "protocolConfigData": {"port": 502},
        "properties": [
            {
                "name": "temp",
                "type": "INT",
                "accessMode": "ReadWrite",
                "minimum": "0",
                "maximum": "100",
                "unit": "C",
                "description": "of the room",
                "visitors": {"protocolName": "modbus", "configData": {"offset": 2}},
            }
        ],
    },
}
PUSH: Any = {
    "http": {"hostName": "h", "port": 80, "requestPath": "/x", "timeout": 5},
    "mqtt": {"address": "tcp://b", "topic": "t", "qos": 1, "retained": True},
    "otel": {"endpointURL": "http://o"},
    "dbMethod": {
        "influxdb2": {
            "influxdb2ClientConfig": {"url": "u", "org": "o", "bucket": "b"},
            "influxdb2DataConfig": {"measurement": "m", "tag": {"a": "b"}, "fieldKey": "f"},
        },
        "redis": {"redisClientConfig": {"addr": "r", "db": 1, "poolsize": 2, "minIdleConns": 3}},
        "TDEngine": {"TDEngineClientConfig": {"addr": "t", "dbName": "d"}},
        "mysql": {"mysqlClientConfig": {"addr": "s", "database": "d", "userName": "u"}},
    },
    "anomalyDetection": {"limit": 5},
}
DEVICE: Any = {
    "metadata": META,
    "spec": {
        "deviceModelRef": {"name": "m1"},
        "protocol": {"configData": {"ip": "10.0.0.5", "slaveID": 1}},
        "properties": [
            {
                "name": "temp",
                "desired": {"value": "25", "metadata": {"type": "int"}},
                "collectCycle": 1000,
                "reportCycle": 5000,
                "reportToCloud": True,
                "pushMethod": PUSH,
                "visitors": {"configData": {"limit": 1}},
            },
            {"name": "other"},
        ],
        "methods": [{"name": "warm", "description": "w", "propertyNames": ["temp"]}],
        "stateReport": {"reportToCloud": True, "reportCycle": 9},
    },
}


def a_view(document: Any = DEVICE) -> DeviceView:
    return with_defaults(DeviceView.read(document), ModelView.read(MODEL))


def test_a_device_is_told_whole_with_its_models_defaults() -> None:
    assert device_form(a_view(), {}) == {
        "name": "d1",
        "namespace": "default",
        "spec": {
            "deviceModelReference": "m1",
            "protocol": {
                "protocolName": "modbus",
                "configData": {"data": {"port": 502, "ip": "10.0.0.5", "slaveID": 1}},
            },
            "properties": [
                {
                    "name": "temp",
                    "desired": {"value": "25", "metadata": {"type": "int"}},
                    "visitors": {
                        "protocolName": "modbus",
                        "configData": {"data": {"offset": 2, "limit": 1}},
                    },
                    "reportCycle": 5000,
                    "collectCycle": 1000,
                    "reportToCloud": True,
                    "pushMethod": push_form(PUSH),
                },
                {
                    "name": "other",
                    "desired": {"value": "", "metadata": {}},
                    "visitors": {"protocolName": "", "configData": {"data": {}}},
                    "reportCycle": 0,
                    "collectCycle": 0,
                    "reportToCloud": False,
                    "pushMethod": None,
                },
            ],
            "methods": [{"name": "warm", "description": "w", "propertyNames": ["temp"]}],
        },
        "status": {"reportToCloud": True, "reportCycle": 9},
    }


def test_push_methods_have_dmis_names() -> None:
    found: Any = push_form(PUSH)
    assert found == {
        "http": {"hostname": "h", "port": 80, "requestpath": "/x", "timeout": 5},
        "mqtt": PUSH["mqtt"],
        "otel": PUSH["otel"],
        "dbMethod": {
            "influxdb2": PUSH["dbMethod"]["influxdb2"],
            "redis": PUSH["dbMethod"]["redis"],
            "tdengine": {"tdEngineClientConfig": {"addr": "t", "dbname": "d"}},
            "mysql": PUSH["dbMethod"]["mysql"],
        },
        "anomalyDetection": {"data": {"limit": 5}},
    }
    assert encode("PushMethod", found)


@pytest.mark.parametrize(
    "push",
    [
        {"http": {"port": "80", "hostName": 7}},
        {"http": 5, "dbMethod": []},
        {"mqtt": {"qos": 2**40, "retained": "yes"}},
        {"dbMethod": {"influxdb2": {"influxdb2DataConfig": {"tag": {"a": 1}}}}},
    ],
)
def test_odd_push_methods_are_told_without_what_is_odd(push: Any) -> None:
    assert isinstance(encode("PushMethod", push_form(push)), bytes)


@pytest.mark.parametrize(
    ("twin", "wanted"),
    [
        (Twin(expected=TwinValue(value="30")), "30"),
        (Twin(actual=TwinValue(value="5")), ""),
        (Twin(expected=TwinValue(value="30"), metadata={"type": "deleted"}), "25"),
    ],
)
def test_the_twin_says_what_is_wanted(twin: Twin, wanted: str) -> None:
    form: Any = device_form(a_view(), {"temp": twin})
    assert form["spec"]["properties"][0]["desired"]["value"] == wanted


def test_a_model_is_told_with_its_bounds() -> None:
    assert model_form(ModelView.read(MODEL)) == {
        "name": "m1",
        "namespace": "default",
        "spec": {
            "properties": [
                {
                    "name": "temp",
                    "description": "of the room",
                    "type": "INT",
                    "accessMode": "ReadWrite",
                    "minimum": "0",
                    "maximum": "100",
                    "unit": "C",
                }
            ]
        },
    }


# --- who registers ---------------------------------------------------------------------------------


def info(**other: str) -> Any:
    return {"name": "n", "protocol": "modbus", "address": "/run/m/a.sock", **other}


def test_a_mapper_is_read() -> None:
    found = read_mapper(info(version="v1"), Path("/run/m"))
    assert found == MapperInfo("n", "modbus", "/run/m/a.sock", "v1")


@pytest.mark.parametrize(
    "other",
    [
        {"name": ""},
        {"protocol": ""},
        {"protocol": "x" * 300},
        {"address": ""},
        {"address": "a.sock"},
        {"address": "/run/m/../a.sock"},
        {"address": "/run/other/a.sock"},
        {"address": "127.0.0.1:80"},
        {"address": "/run/m/" + "a" * 200},
        {"address": "/run/m/a\0.sock"},
    ],
)
def test_a_mapper_of_no_use_is_refused(other: dict[str, str]) -> None:
    with pytest.raises(BadRequest):
        read_mapper(info(**other), Path("/run/m"))


def a_socket(path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(path))
    listening.listen()
    return listening


def test_only_a_socket_inside_the_folder_is_called(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "file").write_text("")
    with a_socket(tmp_path / "out.sock"), a_socket(folder / "in.sock"):
        (folder / "link.sock").symlink_to(tmp_path / "out.sock")
        (folder / "inner.sock").symlink_to(folder / "in.sock")
        for name in ("link.sock", "file", "none.sock"):
            with pytest.raises(BadRequest):
                socket_path(MapperInfo("n", "p", str(folder / name)), folder)
        for name in ("in.sock", "inner.sock"):
            found = socket_path(MapperInfo("n", "p", str(folder / name)), folder)
            assert found == str((folder / "in.sock").resolve())


# --- the edge's own socket ---------------------------------------------------------------------------


def test_the_socket_is_for_its_user_alone(tmp_path: Path) -> None:
    with open_socket(tmp_path / "run" / "dmi.sock"):
        assert (tmp_path / "run" / "dmi.sock").stat().st_mode & 0o777 == 0o600


def test_a_socket_that_nobody_listens_on_is_replaced(tmp_path: Path) -> None:
    a_socket(tmp_path / "dmi.sock").close()
    with open_socket(tmp_path / "dmi.sock"):
        assert (tmp_path / "dmi.sock").is_socket()


def test_a_socket_in_use_and_a_file_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with a_socket(tmp_path / "dmi.sock"):
        for name, words in (("dmi.sock", "another process"), ("file", "no socket")):
            with pytest.raises(InvalidSetting, match=words):
                open_socket(tmp_path / name)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_path_too_long_for_a_socket_is_named() -> None:
    with pytest.raises(InvalidSetting, match="107"):
        open_socket(Path("/tmp/" + "x" * 200))


def test_calls_come_at_a_rate_after_a_burst() -> None:
    bucket = Bucket(1.0, 3)
    assert [bucket.take(10.0) for _ in range(4)] == [True, True, True, False]
    assert [bucket.take(11.5) for _ in range(2)] == [True, False]
    assert [bucket.take(1_000.0) for _ in range(4)] == [True, True, True, False]
