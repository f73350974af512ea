"""Which addresses Thing Models may come from.

URLs of models are written by users, and the request comes from this machine: without this check anybody who
may create a thing could ask what only this machine reaches. So only global addresses are asked, and what
the settings allow; a name counts as what it resolves to, and the connection goes to the address that was
judged.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from gateway.errors import InvalidSetting

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")


@dataclass(frozen=True, slots=True)
class Allowance:
    """One entry of the settings: a network or a host name, at one port or at any."""

    target: Network | str
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Allowance:
        """Read `10.0.0.0/8`, `127.0.0.1:8000`, `[::1]:8000`, `::1`, `models.plant.local` or `host:443`.

        Errors: InvalidSetting.
        """
        entry = text.strip()
        network = _network(entry.strip("[]") if entry.endswith("]") else entry)
        if network is not None:
            return cls(network)
        host, colon, port = entry.rpartition(":")
        if not colon:
            return cls(_named(entry, text))
        if not port.isdigit() or not 0 < int(port) < 65_536:
            raise _invalid(text)
        return cls(_network(host.strip("[]")) or _named(host, text), int(port))

    def covers(self, host: str, address: Address, port: int) -> bool:
        """True when a connection for `host` to this address and port is allowed by this entry."""
        if self.port is not None and self.port != port:
            return False
        if isinstance(self.target, str):
            return self.target == host.lower().rstrip(".")
        return any(one in self.target for one in _meant(address))


def _network(text: str) -> Network | None:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        return None


def _named(host: str, text: str) -> str:
    name = host.lower().rstrip(".")
    if not name or any(char in name for char in "/[]:@ "):
        raise _invalid(text)
    return name


def _invalid(text: str) -> InvalidSetting:
    return InvalidSetting(
        f"ditto.wot.allowed_addresses: expected a network, an address or a host name, perhaps with"
        f" ':port', got {text!r}"
    )


@dataclass(frozen=True, slots=True)
class AddressRules:
    """Judges addresses."""

    allowances: tuple[Allowance, ...] = ()

    @classmethod
    def of(cls, texts: Sequence[str]) -> AddressRules:
        """The rules of the settings.

        Errors: InvalidSetting.
        """
        return cls(tuple(Allowance.parse(text) for text in texts))

    def allow(self, host: str, address: str, port: int) -> bool:
        """True when `host`, resolved to `address`, may be asked at `port`."""
        try:
            parsed = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        if all(_is_public(one) for one in _meant(parsed)):
            return True
        return any(one.covers(host, parsed, port) for one in self.allowances)


def _is_public(address: Address) -> bool:
    return address.is_global and not (
        address.is_multicast
        or address.is_reserved
        or address.is_unspecified
        or address.is_loopback
        or address.is_link_local
        or address.is_private
    )


def _meant(address: Address) -> tuple[Address, ...]:
    """The IPv4 addresses that an IPv6 one carries, where it does; else the address itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return (address,)
    if address.ipv4_mapped is not None:
        return (address.ipv4_mapped,)
    carried = [one for one in (address.sixtofour, *(address.teredo or ())) if one is not None]
    if address in _NAT64 or (address in _COMPATIBLE and int(address) > 0xFFFF):
        carried.append(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
    return (address, *carried)
