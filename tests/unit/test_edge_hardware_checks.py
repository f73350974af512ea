"""What `twinspan doctor` says of the mappers of a node; the machine is a folder here."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from edge import bluetoothchecks, hardwarechecks, reachability
from edge.hardwarechecks import Place, hardware_checks
from edge.mappers.family import FAMILIES
from edge.mappers.process import family_name
from edge.reachability import Target, reached
from edge.serialchecks import serial_verdict
from edge.storeddevices import Stored, read_stored
from edge.verdicts import FAIL, OK, WARN, Verdict
from gateway.config.edge_mappers import Edgex, HttpDevices, Mappers, Webhook, Zigbee
from gateway.errors import InvalidSetting
from gateway.store.database import Database
from gateway.wire.cloudedge.devices import DeviceView
from tests.ble.bus import private_bus


def device(protocol: str, name: str = "d1", **config: Any) -> DeviceView:
    return DeviceView.read(
        {
            "metadata": {"namespace": "plant", "name": name},
            "spec": {"protocol": {"protocolName": protocol, "configData": config}},
        }
    )


def found(tmp_path: Path, *devices: DeviceView, **more: Any) -> list[Verdict]:
    settings = more.pop("settings", Mappers())
    stored = Stored(devices, more.pop("mappers", {}))
    return [*hardware_checks(Place(settings, stored, tmp_path, root=tmp_path, **more))]


def bad(verdicts: list[Verdict]) -> list[Verdict]:
    return [each for each in verdicts if each.state != OK]


def test_a_node_without_such_devices_hears_nothing(tmp_path: Path) -> None:
    assert found(tmp_path, device("virtual"), device("mqtt")) == []


def test_every_family_is_looked_at() -> None:
    assert set(hardwarechecks.CHECKS) == {family_name(maker) for maker in FAMILIES.values()}


# --- libraries and who serves -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("protocol", "radio", "extra"),
    [
        ("bluetooth", "deconz", "ble"),
        ("zigbee", "deconz", "zigbee"),
        ("zigbee", "ezsp", "zigbee-ezsp"),
        ("zigbee", "znp", "zigbee-znp"),
        ("modbus", "deconz", "modbus"),
        ("opcua", "deconz", "opcua"),
        ("coap", "deconz", "coap"),
    ],
)
def test_a_missing_library_is_named_with_its_extra(
    protocol: str, radio: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    settings = Mappers(always=(protocol,), zigbee=Zigbee(radio=radio, device="/dev/x"))
    mends = {each.mend for each in found(tmp_path, settings=settings)}
    assert f"pip install 'twinspan[{extra}]'" in mends


def test_http_devices_need_no_library(tmp_path: Path) -> None:
    assert found(tmp_path, settings=Mappers(always=("http",))) == []


def test_a_protocol_that_two_would_serve_is_told_and_not_looked_at(tmp_path: Path) -> None:
    (verdict,) = found(tmp_path, device("modbus"), mappers={"modbus": "acme"})
    assert (verdict.state, "served by acme over DMI" in verdict.text) == (WARN, True)
    assert verdict.mend.startswith("--set 'edge.mappers.disabled=[\"modbus\"]'")


def test_a_protocol_that_is_left_to_a_mapper_which_is_not_there_is_told(tmp_path: Path) -> None:
    settings = Mappers(disabled=("modbus",))
    (verdict,) = found(tmp_path, device("modbus"), settings=settings)
    assert "none has registered" in verdict.text
    assert found(tmp_path, device("modbus"), settings=settings, mappers={"modbus": "acme"}) == []


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"broken": "no stick"}, "no stick"),
        ({"ended_lately": 3}, "its process has ended 3 times in the last ten minutes"),
        ({"ended_lately": 2}, ""),
        ({}, ""),
    ],
)
def test_processes_that_do_not_stay_are_told(
    facts: dict[str, Any], said: str, tmp_path: Path
) -> None:
    verdicts = found(tmp_path, processes=[{"name": "zigbee", **facts}])
    assert [each.text for each in verdicts] == ([said] if said else [])


# --- serial ports -------------------------------------------------------------------------------------


@pytest.fixture
def port(tmp_path: Path) -> Iterator[Path]:
    """A pty as /dev/ttyUSB0 of the folder, with a USB device behind it and a name that lasts."""
    ours, theirs = os.openpty()
    real = Path(os.ttyname(theirs))
    (tmp_path / "dev/serial/by-id").mkdir(parents=True)
    (tmp_path / "dev/ttyUSB0").symlink_to(real)
    (tmp_path / "dev/serial/by-id/usb-stick").symlink_to(real)
    tty = tmp_path / "sys/devices/usb1/1-1/1-1:1.0/tty"
    tty.mkdir(parents=True)
    (tmp_path / "sys/class/tty" / real.name).mkdir(parents=True)
    (tmp_path / "sys/class/tty" / real.name / "device").symlink_to(tty)
    usb = {"idVendor": "10c4", "idProduct": "ea60", "product": "Sonoff Zigbee 3.0 USB Dongle Plus"}
    for name, text in usb.items():
        (tmp_path / "sys/devices/usb1/1-1" / name).write_text(f"{text}\n")
    yield real
    os.close(ours)
    os.close(theirs)


def held(root: Path, real: Path, pid: int, program: str) -> None:
    folder = root / "proc" / str(pid)
    (folder / "fd").mkdir(parents=True)
    (folder / "comm").write_text(f"{program}\n")
    (folder / "fd/7").symlink_to(real)


@pytest.mark.usefixtures("port")
def test_a_name_that_lasts_is_proposed(tmp_path: Path) -> None:
    verdict = serial_verdict("zigbee", "/dev/ttyUSB0", tmp_path)
    assert verdict.state == WARN
    assert verdict.text == "/dev/ttyUSB0 (Sonoff Zigbee 3.0 USB Dongle Plus): this name may change"
    assert verdict.mend == "say /dev/serial/by-id/usb-stick instead"
    lasting = serial_verdict("zigbee", "/dev/serial/by-id/usb-stick", tmp_path)
    assert (lasting.state, lasting.mend) == (OK, "")


def test_a_port_in_use_is_told_with_who_uses_it(tmp_path: Path, port: Path) -> None:
    held(tmp_path, port, 71, "ModemManager")
    verdict = serial_verdict("modbus", "/dev/ttyUSB0", tmp_path)
    assert verdict.text == "/dev/ttyUSB0 is in use by ModemManager (process 71)"
    assert verdict.mend == "systemctl disable --now ModemManager"
    assert serial_verdict("modbus", "/dev/ttyUSB0", tmp_path, {71}).state == WARN  # our mapper


def test_a_port_without_rights_names_the_group(
    tmp_path: Path, port: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert port.exists()
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "usermod -aG dialout" in serial_verdict("modbus", "/dev/ttyUSB0", tmp_path).mend


@pytest.mark.usefixtures("port")
def test_a_port_that_is_none_names_those_that_are_there(tmp_path: Path) -> None:
    verdict = serial_verdict("modbus", "/dev/ttyUSB7", tmp_path)
    assert verdict.text == "/dev/ttyUSB7 is not there"
    assert verdict.mend == "there are /dev/serial/by-id/usb-stick"
    assert "no serial port" in serial_verdict("modbus", "/dev/serial", tmp_path).text


@pytest.mark.usefixtures("port")
def test_a_stick_of_another_kind_than_settings_say_is_told(tmp_path: Path) -> None:
    stick = "/dev/serial/by-id/usb-stick"
    wrong = Mappers(always=("zigbee",), zigbee=Zigbee(radio="ezsp", device=stick))
    (verdict,) = bad(found(tmp_path, settings=wrong))
    assert "looks like a stick of the kind znp, not ezsp" in verdict.text
    assert verdict.mend == "--set edge.mappers.zigbee.radio=znp"
    right = Mappers(always=("zigbee",), zigbee=Zigbee(radio="znp", device=stick))
    assert bad(found(tmp_path, settings=right)) == []
    unset = found(tmp_path, settings=Mappers(always=("zigbee",)))
    assert bad(unset)[0].mend == f"--set edge.mappers.zigbee.device={stick}"


@pytest.mark.usefixtures("port")
def test_serial_modbus_devices_are_judged_by_their_port_once(tmp_path: Path) -> None:
    units = [device("modbus", f"d{n}", serialPort="/dev/ttyUSB0", slaveID=n) for n in (1, 2, 3)]
    assert len(bad(found(tmp_path, *units))) == 1


# --- addresses ----------------------------------------------------------------------------------------


@contextmanager
def tcp_server() -> Iterator[int]:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server.getsockname()[1]


def closed_port() -> int:
    with tcp_server() as port:
        return port


def test_who_answers_is_counted_and_who_does_not_is_named(tmp_path: Path) -> None:
    closed = closed_port()
    with tcp_server() as port:
        verdicts = found(
            tmp_path,
            device("modbus", "a", ip="127.0.0.1", port=port),
            device("modbus", "b", ip="127.0.0.1", port=closed),
            device("modbus", "c", ip="127.0.0.1", port=closed, slaveID=2),
        )
    assert [each.state for each in verdicts] == [OK, WARN, OK]
    assert f"127.0.0.1:{closed} (plant/b and 1 more): Connection refused" in verdicts[1].text
    assert verdicts[2].text == "1 of 2 addresses answer"


@pytest.mark.parametrize(
    ("protocol", "key", "scheme"),
    [
        ("opcua", "url", "opc.tcp"),
        ("http", "url", "http"),
        ("edgex", "commandUrl", "http"),
    ],
)
def test_servers_behind_urls_are_asked(
    protocol: str, key: str, scheme: str, tmp_path: Path
) -> None:
    with tcp_server() as port:
        settings = Mappers(edgex=Edgex(broker=f"127.0.0.1:{port}"))
        url = {key: f"{scheme}://127.0.0.1:{port}/x"}
        verdicts = found(tmp_path, device(protocol, **url), settings=settings)
    assert bad(verdicts) == []
    assert verdicts[-1].text == "1 of 1 addresses answer"


def test_a_coap_server_is_pinged() -> None:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as server:
        server.bind(("127.0.0.1", 0))

        def answer() -> None:
            data, peer = server.recvfrom(64)
            server.sendto(b"\x70\x00" + data[2:4], peer)

        thread = threading.Thread(target=answer)
        thread.start()
        target = Target("127.0.0.1", server.getsockname()[1], is_coap=True)
        assert reached([target]) == {target: ""}
        thread.join()
    assert reached([target])[target] == "Connection refused"


def test_one_that_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(reachability, "SECONDS", 0.05)
    monkeypatch.setattr(reachability, "_tcp", lambda _target: release.wait(10))
    target = Target("192.0.2.1", 502)
    try:
        assert "no answer" in reached([target])[target]
    finally:
        release.set()


def test_a_device_that_cannot_work_says_why(tmp_path: Path) -> None:
    (verdict,) = bad(found(tmp_path, device("modbus", ip="192.0.2.1", port="many")))
    assert verdict.text.startswith("plant/d1: configData.port: expected a whole number")
    assert verdict.mend == "kubectl edit device d1 -n plant"
    (verdict,) = bad(found(tmp_path, device("opcua", url="opc.tcp://[")))
    assert verdict.text == "plant/d1: names no address"


# --- webhook, secrets, Bluetooth ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bind", "certificate", "state"),
    [
        ("127.0.0.1:8099", "", OK),
        ("0.0.0.0:8099", "", FAIL),
        ("0.0.0.0:8099", "/tls.pem", OK),
        ("", "", FAIL),
        ("8099", "", FAIL),
    ],
)
def test_a_webhook_is_private_or_encrypted(
    bind: str, certificate: str, state: str, tmp_path: Path
) -> None:
    webhook = Webhook(bind=bind, certificate=certificate)
    settings = Mappers(http=HttpDevices(webhook=webhook))
    (verdict,) = found(tmp_path, device("http", mode="webhook"), settings=settings)
    assert verdict.state == state
    assert bool(verdict.mend) == (state != OK)


def test_secrets_are_there_and_nobody_elses(tmp_path: Path) -> None:
    folder = tmp_path / "edge/hardware/http/secrets"
    folder.mkdir(parents=True)
    for name, mode in (("good", 0o600), ("open", 0o640)):
        (folder / name).write_text("x")
        (folder / name).chmod(mode)
    config = {"userName": "u", "passwordFile": "open", "tokenFile": "good"}
    verdicts = found(tmp_path, device("http", **config), device("http", "d2", tokenFile="none"))
    assert [(each.state, each.mend.split(" (")[0]) for each in bad(verdicts)] == [
        (WARN, f"chmod 600 {folder / 'open'}"),
        (FAIL, f"install -D -m 600 /dev/stdin {folder / 'none'}"),
    ]


async def test_bluetooth_without_a_bus_or_without_bluetoothd_says_what_to_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/none")
    verdict = await bluetoothchecks.judged("ble", "hci0")
    assert verdict.text.startswith("there is no system D-Bus")
    async with private_bus(tmp_path) as address:
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
        verdict = await bluetoothchecks.judged("ble", "hci0")
    assert "bluetoothd does not run" in verdict.text
    assert verdict.mend == "apt-get install bluez && systemctl enable --now bluetooth"


# --- the disk -----------------------------------------------------------------------------------------


async def test_devices_are_read_from_disk_with_what_their_models_say(tmp_path: Path) -> None:
    assert read_stored(tmp_path) == Stored()
    model = {
        "metadata": {"namespace": "plant", "name": "meter"},
        "spec": {"protocol": "modbus", "protocolConfigData": {"ip": "192.0.2.9"}},
    }
    own = {
        "metadata": {"namespace": "plant", "name": "m1"},
        "spec": {
            "deviceModelRef": {"name": "meter"},
            "protocol": {"protocolName": "modbus", "configData": {"slaveID": 3}},
        },
    }
    mapper = {"name": "acme", "protocol": "ble", "address": "/x", "version": "", "api_version": ""}
    rows = [
        ("d/1", "device", json.dumps(own)),
        ("d/2", "device", "no JSON"),
        ("m/1", "devicemodel", json.dumps(model)),
        ("x/1", "devicemapper", json.dumps(mapper)),
    ]
    file = tmp_path / "edge/edge.db"
    file.parent.mkdir()
    database = Database(file, "edge")
    async with database.running():
        await database.write(
            lambda db: db.executemany("INSERT INTO meta (key, type, value) VALUES (?, ?, ?)", rows)
        )
        stored = read_stored(tmp_path)  # beside an EdgeCore that runs
    (view,) = stored.devices
    assert view.protocol_config == {"ip": "192.0.2.9", "slaveID": 3}
    assert stored.mappers == {"ble": "acme"}


def test_a_database_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "edge").mkdir()
    (tmp_path / "edge/edge.db").write_text("this is none")
    with pytest.raises(InvalidSetting, match="cannot be read"):
        read_stored(tmp_path)
