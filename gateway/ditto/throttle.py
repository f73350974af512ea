"""How often one may try passwords: at the console's sign-in, and with Basic credentials on Ditto's port.

Both count the failures of a user from an address together, since they try the same passwords. An address has
a limit for all users together as well, one at the sign-in and one for requests: a program that has lost its
password must not shut out who signs in from the same address.
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gateway.errors import QuotaExceeded

MAX_TRIES: Final = 10_000
"""Pairs of user and address, and addresses, whose failures are remembered."""
FREE_TRIES: Final = 5
FREE_TRIES_OF_ADDRESS: Final = 50
PENALTY_SECONDS: Final = 15.0
LONGEST_PENALTY: Final = 900.0

Clock = Callable[[], float]
_Key = tuple[str, str]


@dataclass(slots=True)
class _Tries:
    count: int = 0
    until: float = 0.0


class Throttle:
    """Slows down who guesses passwords: free tries for user and address, then pauses that double.

    A try counts as failed when it begins, so that many at once are no way around. What is refused is not
    noted: it would push out the failures of others.
    """

    def __init__(self, now: Clock = time.monotonic) -> None:
        self._now = now
        self._tries: OrderedDict[_Key, _Tries] = OrderedDict()

    def begin(self, user: str, address: str) -> None:
        """Note a try. Errors: QuotaExceeded 429 with `Retry-After`, while a pause lasts."""
        now, network = self._now(), network_of(address)
        keys = (user, network), ("", network)
        self._refuse(keys, "console:login.throttled", now)
        for key, free in zip(keys, (FREE_TRIES, FREE_TRIES_OF_ADDRESS), strict=True):
            self._count(key, free, now)

    def succeeded(self, user: str, address: str) -> None:
        """Forget the failures of a pair; of the address this try does not count."""
        self.forget(user, address)
        tries = self._tries.get(("", network_of(address)))
        if tries is not None:
            tries.count = max(0, tries.count - 1)
            tries.until = tries.until if tries.count >= FREE_TRIES_OF_ADDRESS else 0.0

    def begin_request(self, user: str, address: str) -> None:
        """Note a try with a request; errors as `begin`.

        Of the address only failures count (`failed_request`): many users may come through one proxy.
        """
        now, network = self._now(), network_of(address)
        keys = (user, network), _requests_of(network)
        self._refuse(keys, "gateway:authentication.throttled", now)
        self._count(keys[0], FREE_TRIES, now)

    def failed_request(self, address: str) -> None:
        """The password of a request was wrong."""
        self._count(_requests_of(network_of(address)), FREE_TRIES_OF_ADDRESS, self._now())

    def forget(self, user: str, address: str) -> None:
        """Forget the failures of a pair."""
        self._tries.pop((user, network_of(address)), None)

    def _refuse(self, keys: tuple[_Key, ...], code: str, now: float) -> None:
        for key in keys:
            known = self._tries.get(key)
            if known is not None and known.until > now:
                raise _throttled(known.until - now, code)

    def _count(self, key: _Key, free: int, now: float) -> None:
        tries = self._of(key)
        tries.count += 1
        over = tries.count - free
        if over >= 0:
            tries.until = now + min(LONGEST_PENALTY, PENALTY_SECONDS * 2 ** min(over, 10))

    def _of(self, key: _Key) -> _Tries:
        tries = self._tries.get(key)
        if tries is None:
            tries = self._tries[key] = _Tries()
        elif tries.until and tries.until + LONGEST_PENALTY < self._now():
            tries.count, tries.until = 0, 0.0
        self._tries.move_to_end(key)
        while len(self._tries) > MAX_TRIES:
            self._tries.popitem(last=False)
        return tries


def network_of(address: str) -> str:
    """An address as guesses are counted: of IPv6 the /64, all of which one client may have."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(found) >> 64 << 64, 64)))


def _requests_of(network: str) -> _Key:
    return "", f"requests of {network}"


def _throttled(seconds: float, code: str) -> QuotaExceeded:
    wait = str(int(seconds) + 1)
    return QuotaExceeded(
        "Too many failed attempts to sign in.",
        code=code,
        description=f"Try again in {wait} seconds.",
        details={"headers": {"Retry-After": wait}},
    )
