"""The addresses that a Pod's status tells: one field and a list that say the same, one of each family."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.judging import address, fixed, is_address
from gateway.wire.kube.names import invalid_value
from gateway.wire.kube.parts import part, rows, text
from gateway.wire.kube.status import Cause

_FAMILIES = "may specify no more than one IP for each IP family"


def with_agreeing_addresses(status: JsonObject) -> JsonObject:
    """A status whose `podIP` is the first of its `podIPs`; where the two differ, `podIP` is right."""
    ip, ips = text(status.get("podIP")), _ips(status, "podIPs")
    first = ips[0] if ips else ""
    if ip == first:
        return status
    return {**status, "podIPs": [{"ip": ip}]} if ip else {**status, "podIP": first}


def pod_status_faults(before: JsonObject, after: JsonObject) -> list[Cause]:
    """What a Pod's status may not say."""
    old, new = part(before, "status"), part(after, "status")
    found = [*fixed("status.qosClass", old.get("qosClass"), new.get("qosClass"))]
    found += _address_faults("podIPs", old, new)
    hosts = _ips(new, "hostIPs")
    if hosts and hosts[0] != text(new.get("hostIP")):
        found.append(invalid_value("status.hostIPs[0].ip", hosts[0], "must be equal to `hostIP`"))
    return [*found, *_address_faults("hostIPs", old, new)]


def _address_faults(key: str, old: JsonObject, new: JsonObject) -> Iterator[Cause]:
    ips, known = _ips(new, key), _ips(old, key)
    for at, ip in enumerate(ips):
        if ip not in known:
            yield from address(f"status.{key}[{at}]", ip)
    if len(ips) > 1 and not _is_a_pair(ips):
        shown: list[Json] = [{"IP": ip} for ip in ips]
        yield invalid_value(f"status.{key}", shown, _FAMILIES)


def _is_a_pair(ips: list[str]) -> bool:
    if len(ips) > 2 or not all(is_address(ip) for ip in ips):
        return False
    one, other = (ipaddress.ip_address(ip).version for ip in ips)
    return one != other


def _ips(status: JsonObject, key: str) -> list[str]:
    return [text(row.get("ip")) for row in rows(status.get(key))]
