"""Where a Device's requests may lead: which redirects are followed, and which addresses a name may have.

Many services of a machine listen on loopback alone and trust whoever comes from there. Neither a device nor
whoever answers for its name (DNS rebinding) may lead us to them, or to what only this machine's link has.
"""

from __future__ import annotations

import asyncio
import enum
import socket
from collections.abc import Sequence
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

from edge.mappers.driver import DeviceUnreachable

_DEFAULT_PORTS = {"http": 80, "https": 443}


class Follow(enum.Enum):
    """Which redirects are followed."""

    NONE = "none"
    SAME = "same host"
    ANY = "any"


FOLLOW = {
    "same-host": Follow.SAME,
    "any": Follow.ANY,
    "none": Follow.NONE,
    "true": Follow.SAME,
    "false": Follow.NONE,
}
"""Words of `followRedirects`."""


class LedAstray(DeviceUnreachable):
    """A name has only addresses that its Device may not mean."""


def refusal(follow: Follow, url: str, there: str) -> str:
    """Say why a redirect is not followed, "" where it is. Both URLs can be split."""
    old, new = urlsplit(url), urlsplit(there)
    if new.scheme not in _DEFAULT_PORTS or (old.scheme, new.scheme) == ("https", "http"):
        return "to another scheme"
    if follow is Follow.NONE:
        return "and followRedirects is none"
    if follow is Follow.SAME and not is_same_server(url, there):
        where = f"{new.scheme}://{new.netloc}"[:100]
        return f"to another server, {where}: followRedirects: any permits it"
    return ""


def is_same_server(url: str, there: str) -> bool:
    """Say whether two URLs are of one server, or the second of its https at the port for that."""
    old, new = urlsplit(url), urlsplit(there)
    if old.hostname != new.hostname:
        return False
    if old.scheme == new.scheme:
        return _port(old) == _port(new)
    return (old.scheme, new.scheme, _port(new)) == ("http", "https", 443)


def _port(parts: SplitResult) -> int | None:
    try:
        return parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return None


def host_of(url: str) -> str:
    return urlsplit(url).hostname or ""


async def addresses(host: str, port: int, named: str, *, may_be_local: bool) -> Sequence[str]:
    """Return the addresses to connect to: those, and no others that the name may have a moment later.

    Shape:  `named` is the host that the Device's configuration names: where it is an address, `localhost`, or
            this machine's own name, it is what somebody wants.
    Errors: OSError for a name without addresses; LedAstray.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    places = list(dict.fromkeys(str(each[4][0]) for each in found))
    if may_be_local or (host == named and _is_meant(host)):
        return places
    good = [each for each in places if not _is_local(each)]
    if places and not good:
        what = f"{host[:100]} leads to {places[0]}, this machine's own services or its link"
        raise LedAstray(f"{what}: allowLocal: true permits it")
    return good


def _is_meant(host: str) -> bool:
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        own = socket.gethostname().lower()
        return host == own or host == "localhost" or host.endswith(".localhost")
    return True


def _is_local(text: str) -> bool:
    place = ip_address(text.partition("%")[0])
    plain = getattr(place, "ipv4_mapped", None) or place
    return plain.is_loopback or plain.is_link_local or plain.is_unspecified or plain.is_multicast
