"""What the radio library says, in our own words: devices, values, statuses, errors."""

from __future__ import annotations

from zigpy import exceptions, types
from zigpy.device import ZigbeeDevice
from zigpy.zcl.foundation import Status

from edge.mappers.zigbee import meanings
from edge.mappers.zigbee.codecs import Raw
from edge.mappers.zigbee.plan import BRANCH
from edge.mappers.zigbee.seen import Seen
from gateway.errors import Rejected

_LISTENS, _MAINS = 0x08, 0x04
"""Bits of a device's capabilities: its receiver is always on; it has mains power."""


def seen_of(device: ZigbeeDevice) -> Seen:
    descriptor = device.node_desc
    capability = 0 if descriptor is None else int(descriptor.mac_capability_flags)
    endpoints = {
        int(each.endpoint_id): tuple(int(number) for number in each.in_clusters)
        for each in device.non_zdo_endpoints
    }
    return Seen(
        ieee=str(device.ieee),
        nwk=int(device.nwk),
        manufacturer=_short(device.manufacturer),
        model=_short(device.model),
        is_sleepy=descriptor is not None and not capability & _LISTENS,
        is_battery=descriptor is not None and not capability & _MAINS,
        is_ready=device.is_initialized,
        last_seen=int((device.last_seen or 0) * 1_000),
        rssi=int(device.rssi or 0),
        endpoints=endpoints,
        zone_type=_held(device, meanings.ZONE, 1),
        colour_capabilities=_held(device, meanings.COLOUR, 0x400A),
    )


def _held(device: ZigbeeDevice, cluster: int, attribute: int) -> int:
    for endpoint in device.non_zdo_endpoints:
        if cluster in endpoint.in_clusters:
            return int(endpoint.in_clusters[cluster].get(attribute) or 0)
    return 0


def _short(text: str | None) -> str:
    printable = "".join(each for each in text or "" if each.isprintable())
    return printable.strip()[:64]


def plain(value: object) -> Raw | None:
    """Return a value of the library as a plain one; None for structures."""
    if isinstance(value, types.Bool):  # which has a third value, for none
        return bool(value) if value in (types.Bool.false, types.Bool.true) else int(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float | str):
        return value
    return None


def status_name(status: object) -> str:
    return str(getattr(status, "name", status))


def check(status: object, what: str) -> None:
    if status != Status.SUCCESS:
        raise Rejected(f"{what}: the device says {status_name(status)}")


def said(error: BaseException) -> str:
    status = getattr(error, "status", None)
    if status is not None and hasattr(status, "name"):
        return str(status.name)
    return str(error)[:200] or type(error).__name__


def foreign(error: exceptions.NetworkSettingsInconsistent) -> str:
    new, old = error.new_state, error.old_state
    return (
        f"the stick {new.node_info.ieee} has another network (PAN {int(new.network_info.pan_id):#06x},"
        f" channel {new.network_info.channel}) than this node's (stick {old.node_info.ieee}, PAN"
        f" {int(old.network_info.pan_id):#06x}, channel {old.network_info.channel}): set"
        f" {BRANCH}.foreign to adopt it, or to replace it by this node's"
    )
