"""A device that is heard, as a Device somebody may want: its model guessed from what it advertises."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from edge.mappers.ble import beacons, bthome
from edge.mappers.ble.heard import AddressKind, Heard
from edge.mappers.ble.sig import CHARACTERISTICS, SERVICES
from edge.mappers.ble.uuids import number_of, sig
from edge.mappers.family import Discovered, DiscoveredProperty
from gateway.errors import BadRequest

MAX_PROPERTIES: Final = 40
_MAKERS: Final = {0x004C: "Apple", 0x0006: "Microsoft", 0x0075: "Samsung", 0x00E0: "Google", 0x0059: "Nordic",
                  0x0499: "Ruuvi", 0x0157: "Huami", 0x038F: "Xiaomi", 0x0BA9: "Shelly"}  # fmt: skip
_RSSI: Final = DiscoveredProperty(
    "rssi", "INT", unit="dBm", visitor={"advertisement": {"rssi": True}}
)


def proposed(heard: Heard) -> Discovered:
    """Return what is offered. Pure; what cannot be read of an advertisement is left out."""
    kind, properties = _first(heard)
    config: dict[str, Any] = {"macAddress": heard.address}
    if kind in _PASSIVE:
        config["kind"] = "passive"
    names = [each.name for each in properties]
    return Discovered(
        protocol="bluetooth",
        address=heard.address,
        name=heard.name,
        model=_model(kind, names),
        manufacturer=_maker(heard),
        signal=heard.rssi,
        config=config,
        properties=(*properties, _RSSI)[:MAX_PROPERTIES],
        facts=_facts(heard, kind),
    )


_PASSIVE: Final = frozenset({"bthome", "ibeacon", "eddystone", "advertiser"})


def _first(heard: Heard) -> tuple[str, list[DiscoveredProperty]]:
    """Return the kind of device and its properties: the first format that is known."""
    if _has_bthome(heard):
        return "bthome", list(_bthome(heard))
    if beacons.EDDYSTONE in {number_of(uuid) for uuid in heard.service_data}:
        return "eddystone", list(_beacon("eddystone", beacons.EDDYSTONE_FIELDS))
    if heard.manufacturer.get(beacons.APPLE, b"")[:2] == b"\x02\x15":
        return "ibeacon", list(_beacon("ibeacon", beacons.IBEACON_FIELDS))
    services = [number for uuid in sorted(heard.services) if (number := number_of(uuid))]
    known = [SERVICES[number] for number in services if number in SERVICES]
    if known:
        kind = "-".join(name for name, _characteristics in known)
        return kind, list(_gatt(number for _name, each in known for number in each))
    is_mute = not heard.services and not heard.name
    return ("advertiser" if is_mute else "ble"), list(_raw(heard))


def _has_bthome(heard: Heard) -> bool:
    try:
        return bthome.packet_in(heard.service_data) is not None
    except BadRequest:
        return sig(bthome.SERVICE) in heard.service_data


def _bthome(heard: Heard) -> Iterable[DiscoveredProperty]:
    try:
        packet = bthome.packet_in(heard.service_data)
        if packet is None:
            return
        for name, kind, _value in packet.values(heard.address, None):
            if name != "packet_id":
                yield DiscoveredProperty(
                    _camel(name),
                    "STRING" if kind is None else kind.type,
                    unit="" if kind is None else kind.unit,
                    visitor={"advertisement": {"bthome": name}},
                )
    except BadRequest:
        return  # encrypted, or broken: its facts say so


def _beacon(part: str, fields: Iterable[str]) -> Iterable[DiscoveredProperty]:
    for field in fields:
        yield DiscoveredProperty(
            field,
            beacons.TYPES.get(field, "STRING"),
            unit=beacons.UNITS.get(field, ""),
            visitor={"advertisement": {part: field}},
        )


def _gatt(numbers: Iterable[int]) -> Iterable[DiscoveredProperty]:
    for number in dict.fromkeys(numbers):
        yield characteristic_property(number)


def characteristic_property(number: int, access: str = "ReadOnly") -> DiscoveredProperty:
    """Return the property of one of the SIG's characteristics."""
    standard = CHARACTERISTICS[number]
    return DiscoveredProperty(
        standard.name,
        standard.codec.type,
        access,
        standard.unit,
        visitor={"characteristicUUID": f"{number:04X}"},
    )


def _raw(heard: Heard) -> Iterable[DiscoveredProperty]:
    for company in sorted(heard.manufacturer):
        yield DiscoveredProperty(
            f"maker{company:04x}",
            "STRING",
            visitor={"advertisement": {"manufacturerData": company, "decoder": "hex"}},
        )
    for uuid in sorted(heard.service_data):
        number = number_of(uuid)
        name = uuid[:8] if number is None else f"{number:04x}"
        yield DiscoveredProperty(
            f"service{name}",
            "STRING",
            visitor={"advertisement": {"serviceData": uuid, "decoder": "hex"}},
        )


def _model(kind: str, names: Iterable[str]) -> str:
    """Return a name for devices of this kind, as Kubernetes takes it."""
    word = "-".join(("bluetooth", kind, *(names if kind == "bthome" else ())))
    return re.sub(r"[^a-z0-9]+", "-", word.lower())[:60].strip("-")


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.title() for part in rest)


def _maker(heard: Heard) -> str:
    return next((_MAKERS[each] for each in sorted(heard.manufacturer) if each in _MAKERS), "")


def _is_secret(heard: Heard) -> bool:
    try:
        packet = bthome.packet_in(heard.service_data)
    except BadRequest:
        return False
    return packet is not None and packet.is_encrypted


def _facts(heard: Heard, kind: str) -> dict[str, str]:
    facts = {"format": kind, "addressKind": heard.kind.value}
    if heard.kind is AddressKind.PRIVATE:
        facts["note"] = "the address changes: find the device by name or service instead"
    if kind == "bthome" and _is_secret(heard):
        facts["encrypted"] = "needs configData.bindKey"
    services = sorted(heard.services)[:8]
    if services:
        facts["services"] = " ".join(
            f"{number:04X}" if (number := number_of(each)) is not None else each
            for each in services
        )
    return facts
