"""What `configData` of Bluetooth Devices may say."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from edge.mappers.ble.configuration import DeviceConfig, Gatt, Kind, Notify, read_device
from edge.mappers.ble.uuids import sig
from gateway.errors import Rejected
from tests.ble.rig import device

MAC = {"macAddress": "c0:de:00:00:00:01"}
TEMPERATURE = {"characteristicUUID": "2A6E"}


def read(config: dict[str, Any], **properties: Any) -> DeviceConfig:
    return read_device(device(config, properties)[0], "hci0", 60.0)


def test_a_device_of_kubeedges_own_form_is_taken() -> None:
    visitor = TEMPERATURE | {"dataConverter": {"startIndex": 1, "endIndex": 0}}
    made = read(MAC, temperature=visitor)
    assert (made.kind, made.match.address, made.adapter) == (
        Kind.CONNECTED,
        "C0:DE:00:00:00:01",
        "hci0",
    )
    source = made.sources["temperature"]
    assert isinstance(source, Gatt)
    assert source.characteristic == sig(0x2A6E)
    assert source.codec.decode(b"\x01\x02") == 0x0201
    assert source.notify is Notify.AUTO


@pytest.mark.parametrize(
    "config",
    [{}, {"kind": "passive"}, {"macAddress": "nonsense"}, MAC | {"connectTimeout": 60},
     MAC | {"bindKey": "00"}, MAC | {"kind": "mesh"}, {"serviceUuid": "x"}, MAC | {"pair": "maybe"},
     {"manufacturerId": 70_000}, MAC | {"idleDisconnect": -1}],
    ids=range(10),
)  # fmt: skip
def test_a_device_that_nobody_could_serve_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(Rejected):
        read(config)


@pytest.mark.parametrize(
    ("config", "visitor", "why"),
    [
        (MAC, {}, "expected characteristicUUID or advertisement"),
        (MAC, {"characteristicUUID": "x"}, "expected a UUID"),
        (MAC, TEMPERATURE | {"decoder": "uint12"}, "decoder"),
        (MAC, TEMPERATURE | {"decoder": "uint16", "scale": 0}, "scale"),
        (MAC, TEMPERATURE | {"notify": "often"}, "notify"),
        (MAC, {"characteristicUUID": "2A37", "field": "pulse"}, "rate"),
        (MAC | {"kind": "passive"}, TEMPERATURE, "never connected"),
        (MAC | {"idleDisconnect": 5}, TEMPERATURE | {"notify": True}, "cannot notify"),
        ({"kind": "adapter"}, {}, "an adapter has"),
    ],
    ids=["none", "uuid", "decoder", "scale", "notify", "field", "passive", "idle", "adapter"],
)
def test_a_property_that_cannot_be_is_a_fault_of_its_own(
    config: dict[str, Any], visitor: dict[str, Any], why: str
) -> None:
    made = read(config, wrong=visitor, **({} if "kind" in config else {"right": TEMPERATURE}))
    assert list(made.faults) == ["wrong"]
    assert why in made.faults["wrong"]
    assert "wrong" not in made.sources


def test_without_the_library_the_mapper_says_what_to_install() -> None:
    script = """
import sys
sys.modules["bleak"] = None
from gateway.errors import InvalidSetting
try:
    import edge.mappers.ble.family
except InvalidSetting as error:
    print(error.message)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "Bluetooth needs the library bleak: pip install 'twinspan[ble]'"
