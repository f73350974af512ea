"""Addresses of Services on this machine: local routes of our own, one for each.

A local route makes an address this machine's without an interface of ours that could clash with another or
lack its kernel module. What was added is noted in a file before it is: a start after a crash takes it over,
and what the machine had before is never removed. Needs CAP_NET_ADMIN and the program `ip`.
Source: Linux ip-route(8), type `local`.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from gateway.errors import GatewayError

log = logging.getLogger(__name__)

PROTOCOL = 84
"""Says in `ip route show table local` who made a route; any number that nobody else uses."""
BATCH_SECONDS = 30.0
MAX_ADDRESSES = 10_000
_FAILED = re.compile(r"Command failed \S*?:(\d+)")

Batch = Callable[[Sequence[str]], Awaitable["dict[int, str]"]]
"""Runs commands of `ip`, all of them; returns what failed: its place and why."""


class NoAddresses(GatewayError):
    """This process may not, or cannot, give the machine addresses; the text says what helps."""

    status = 503
    code = "edge.network.addresses"


class Addresses:
    """The addresses that rooms want; `open` first, `close` gives all back."""

    def __init__(self, file: Path, batch: Batch | None = None) -> None:
        self._file = file
        self._batch = batch or run_ip
        self._wanted: dict[str, frozenset[str]] = {}
        self._ours: set[str] = set()
        self._there: set[str] = set()
        self._lock = asyncio.Lock()

    @property
    def held(self) -> frozenset[str]:
        """Addresses that this machine has now because of us, or had already."""
        return frozenset(self._there)

    async def open(self) -> None:
        """Take over what an earlier process left behind."""
        self._ours = set(await asyncio.to_thread(_read, self._file))

    async def keep(self, owner: str, wanted: Iterable[str]) -> None:
        """Have the machine have what an owner wants now, and no more what nobody wants.

        Errors: NoAddresses.
        """
        async with self._lock:
            self._wanted[owner] = frozenset(filter(is_ours_to_give, wanted))
            target = frozenset().union(*self._wanted.values())
            await self._add(sorted(target - self._there)[:MAX_ADDRESSES])
            await self._remove(sorted((self._ours | self._there) - target))

    async def _add(self, missing: list[str]) -> None:
        if not missing:
            return
        before = set(self._ours)
        await self._note(self._ours | set(missing))
        failed = await self._batch([f"route add {_route(address)}" for address in missing])
        for at, address in enumerate(missing):
            why = failed.get(at, "")
            if not why or "exists" in why.lower():
                self._there.add(address)
            if why and address not in before:
                self._ours.discard(address)
        await self._note(self._ours)
        refused = {why for why in failed.values() if "exists" not in why.lower()}
        if refused:
            raise NoAddresses(f"ip route: {'; '.join(sorted(refused))[:500]}")

    async def _remove(self, gone: list[str]) -> None:
        ours = [address for address in gone if address in self._ours]
        if ours:
            failed = await self._batch([f"route del {_route(address)}" for address in ours])
            stayed = {ours[at] for at, why in failed.items() if "no such" not in why.lower()}
            if stayed:
                log.warning("addresses of Services stay", extra={"addresses": sorted(stayed)[:20]})
            await self._note(self._ours - (set(ours) - stayed))
        self._there.difference_update(gone)

    async def close(self) -> None:
        """Give all addresses back."""
        async with self._lock:
            self._wanted.clear()
            try:
                await self._remove(sorted(self._ours | self._there))
            except NoAddresses as error:
                log.warning("addresses of Services stay", extra={"cause": error.message})

    async def _note(self, ours: set[str]) -> None:
        self._ours = ours
        try:
            await asyncio.to_thread(_write, self._file, sorted(ours))
        except OSError as error:
            raise NoAddresses(f"{self._file}: {error.strerror}") from error


def is_ours_to_give(address: str) -> bool:
    """Say whether an address may become this machine's."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    return found.version == 4 and not (
        found.is_loopback or found.is_multicast or found.is_unspecified or found.is_reserved
    )


def is_service_s(address: str) -> bool:
    """Say whether a Service's address may become this machine's: none that means something on a link."""
    return is_ours_to_give(address) and not ipaddress.ip_address(address).is_link_local


def _route(address: str) -> str:
    return f"local {address}/32 dev lo proto {PROTOCOL}"


async def run_ip(commands: Sequence[str]) -> dict[int, str]:
    """Run commands of `ip`, all of them. Errors: NoAddresses where there is no `ip`, or it hangs."""
    try:
        process = await asyncio.create_subprocess_exec(
            "ip",
            "-force",
            "-batch",
            "-",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        what = "not installed" if error.errno == errno.ENOENT else error.strerror
        raise NoAddresses(f"ip: {what}; apt-get install iproute2") from error
    try:
        async with asyncio.timeout(BATCH_SECONDS):
            _, said = await process.communicate("\n".join([*commands, ""]).encode())
    except TimeoutError as error:
        raise NoAddresses("ip did not end in time") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return failures(said.decode(errors="replace"))


def failures(said: str) -> dict[int, str]:
    """Read what `ip -force -batch` says: the place of each command that failed, from 0, and why."""
    found: dict[int, str] = {}
    why: list[str] = []
    for line in said.splitlines():
        match = _FAILED.search(line)
        if match is None:
            why.append(line.removeprefix("RTNETLINK answers: ").strip())
            continue
        found[int(match[1]) - 1] = " ".join(why) or "failed"
        why.clear()
    return found


def _read(file: Path) -> list[str]:
    try:
        found = msgspec.json.decode(file.read_bytes(), type=list[str])
    except (OSError, msgspec.DecodeError):
        return []
    return [address for address in found if is_ours_to_give(address)]


def _write(file: Path, addresses: list[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = file.with_name(f".{file.name}.new")
    draft.write_bytes(msgspec.json.encode(addresses))
    draft.replace(file)
