"""What the main process keeps about its workers: their share of tenants' limits, and their scrapes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from functools import partial

import msgspec

from gateway.errors import GatewayError
from gateway.hono.limits import Usage
from gateway.hono.registry_view import RegistryView
from gateway.hono.remote_services.usage import Share, Total
from gateway.model.registry import Tenant
from gateway.observe.merging import Families, lasting, merged, read_families

log = logging.getLogger(__name__)

Shares = Mapping[str, Share]


class Ledger:
    """Adds up what workers say of tenants, and tells each of them the rest."""

    def __init__(self, registry: RegistryView, usage: Usage) -> None:
        self._registry = registry
        self._usage = usage
        self._shares: dict[int, Shares] = {}

    def take(self, worker: int, shares: Shares) -> None:
        """Note a worker's figures; seconds of connections that ended count from now on."""
        before = self._shares.get(worker, {})
        self._shares[worker] = shares
        for tenant, share in shares.items():
            known = before.get(tenant)
            more = share.seconds - (0.0 if known is None else known.seconds)
            if more > 0:
                self._registry.find_tenant(tenant, partial(self._count, more))

    def gone(self, worker: int) -> None:
        """A worker has ended, and its connections with it."""
        for tenant, share in self._shares.pop(worker, {}).items():
            if share.open_seconds:
                self._registry.find_tenant(tenant, partial(self._count, share.open_seconds))

    def _count(self, seconds: float, found: Tenant | GatewayError) -> None:
        if isinstance(found, Tenant):
            self._usage.add_seconds(found, seconds)

    def totals(self, worker: int) -> dict[str, Total]:
        """Return what a worker has to know of the tenants that have limits."""
        names = {name for shares in self._shares.values() for name in shares}
        names |= set(self._usage.tenants())
        return {name: self._total(worker, name) for name in names}

    def _total(self, worker: int, name: str) -> Total:
        tenant = self._registry.cached_tenant(name)
        used_bytes, used_seconds = (0.0, 0.0) if tenant is None else self._usage.used(tenant)
        own = self._shares.get(worker, {}).get(name, Share())
        others = [s[name] for at, s in self._shares.items() if at != worker and name in s]
        return Total(
            used_bytes,
            used_seconds,
            own.seconds,
            Share(
                connections=sum(share.connections for share in others),
                open_seconds=sum(share.open_seconds for share in others),
            ),
        )


class Scrapes:
    """The last scrape of each worker; what the ended ones had counted stays counted."""

    def __init__(self) -> None:
        self._texts: dict[int, str] = {}
        self._ended: list[Families] = []

    def take(self, worker: int, text: str) -> None:
        """Keep a scrape."""
        self._texts[worker] = text

    def gone(self, worker: int) -> None:
        """Keep the counters of a worker that has ended."""
        for families in _read(self._texts.pop(worker, "")):
            self._ended.append(lasting(families))
        if len(self._ended) > 1:
            self._ended = [_sum(self._ended)]

    def families(self) -> Iterator[Families]:
        """Yield what is to be added to this process's own metrics."""
        for text in self._texts.values():
            yield from _read(text)
        yield from self._ended


def _read(text: str) -> Iterator[Families]:
    try:
        if text:
            yield read_families(text)
    except ValueError as error:
        log.warning("a worker's metrics are malformed", extra={"cause": str(error)[:128]})


def _sum(several: list[Families]) -> Families:

    names = dict.fromkeys(name for families in several for name in families)
    found = {}
    for name in names:
        first, *rest = [families[name] for families in several if name in families]
        found[name] = merged(first, rest)
    return found


def read_shares(body: bytes) -> Shares:
    """Read a worker's figures.

    Errors: msgspec.DecodeError, also for JSON of another form.
    """
    return msgspec.json.decode(body, type=dict[str, Share])


def read_totals(body: bytes) -> Mapping[str, Total]:
    """Read the main process's figures; errors as `read_shares`."""
    return msgspec.json.decode(body, type=dict[str, Total])
