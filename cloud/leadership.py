"""Which of several CloudCores of one cluster leads: a Lease, held and renewed.

The holder owes a sign within `lease_seconds`, measured by the watcher's own clock from when it saw the last
one; it stops leading by itself after two thirds of that without a renewal, so that never two lead. A restart
on the same disk is the same holder. Source: Kubernetes "Leases", coordination.k8s.io/v1.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cloud.identity import LEASES, NAMESPACE, ensure_namespace
from gateway.errors import Conflict, GatewayError, NotFound
from gateway.kube.client import KubeClient
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.devices import ObjectMeta, mapping, text
from gateway.wire.kube.clock import rfc3339_micro
from gateway.wire.kube.status import AlreadyExists

log = logging.getLogger(__name__)

LEASE = "twinspan-devicecontroller"
IDENTITY_FILE = "leader-id"
RELEASE_SECONDS = 1.0


class LeaseLeadership:
    """Module, port `Leadership`. Ready once it has tried to lead."""

    name = "cloud.leadership"

    def __init__(self, kube: KubeClient, folder: Path, lease_seconds: float) -> None:
        self._kube = kube
        self._folder = folder
        self._seconds = lease_seconds
        self._me = ""
        self._leads = False
        self._renewed = 0.0
        self._seen: tuple[str, float] = ("", 0.0)
        """Version of the Lease as last seen, and when that was first seen (monotonic)."""
        self._listeners: list[Callable[[bool], None]] = []

    @property
    def leads(self) -> bool:
        return self._leads

    def on_change(self, listener: Callable[[bool], None]) -> None:
        self._listeners.append(listener)

    async def run(self, ready: Callable[[], None]) -> None:
        self._me = await asyncio.to_thread(identity_in, self._folder)
        await ensure_namespace(self._kube, NAMESPACE)
        try:
            await self._round()
            ready()
            while True:
                await asyncio.sleep(self._seconds / 5)
                await self._round()
        finally:
            await self._release()

    async def _round(self) -> None:
        """Renew or try to lead; too long without a renewal ends leading, also while a call hangs."""
        patience = self._seconds / 3
        if self._leads:
            patience = min(patience, max(0.0, self._last_moment - time.monotonic()))
        try:
            async with asyncio.timeout(patience):
                is_mine = await self._hold()
        except (GatewayError, TimeoutError) as error:
            log.info("lease not renewed", extra={"cause": str(error)})
            is_mine = self._leads and time.monotonic() < self._last_moment
        self._set(is_mine)

    @property
    def _last_moment(self) -> float:
        """When leading ends without a renewal (monotonic), in time before others may take over."""
        return self._renewed + self._seconds * 2 / 3

    async def _hold(self) -> bool:
        """Write the Lease where it is ours or free; True when it is ours now."""
        began = time.monotonic()
        try:
            lease = await self._kube.get(LEASES, "leases", NAMESPACE, LEASE)
        except NotFound:
            written = await self._create()
        else:
            written = self._may_take(lease) and await self._take(lease)
        if written:
            self._renewed = began
        return written

    def _may_take(self, lease: JsonObject) -> bool:
        version, now = ObjectMeta.read(lease).version, time.monotonic()
        if version != self._seen[0]:
            self._seen = (version, now)
        holder = text(mapping(lease.get("spec")).get("holderIdentity"))
        return holder in ("", self._me) or now - self._seen[1] > self._seconds

    async def _create(self) -> bool:
        body: JsonObject = {"metadata": {"name": LEASE}, "spec": self._spec({})}
        with suppress(AlreadyExists):
            await self._kube.create(LEASES, "leases", NAMESPACE, body)
            return True
        return False

    async def _take(self, lease: JsonObject) -> bool:
        body: JsonObject = {**lease, "spec": self._spec(mapping(lease.get("spec")))}
        with suppress(Conflict, NotFound):
            await self._kube.update(LEASES, "leases", NAMESPACE, body)
            return True
        return False

    def _spec(self, old: JsonObject) -> JsonObject:
        now = rfc3339_micro(time.time())
        is_same = old.get("holderIdentity") == self._me
        moves = old.get("leaseTransitions")
        return {
            "holderIdentity": self._me,
            "leaseDurationSeconds": max(1, round(self._seconds)),
            "acquireTime": old.get("acquireTime", now) if is_same else now,
            "renewTime": now,
            "leaseTransitions": moves + (not is_same) if isinstance(moves, int) else 0,
        }

    async def _release(self) -> None:
        """Leave the Lease to the next one; who cannot be told waits for its end."""
        if not self._leads:
            return
        self._set(False)
        patch: JsonObject = {"spec": {"holderIdentity": None, "leaseDurationSeconds": 1}}
        with suppress(GatewayError, TimeoutError):
            async with asyncio.timeout(RELEASE_SECONDS):
                await self._kube.patch(LEASES, "leases", NAMESPACE, LEASE, patch)

    def _set(self, leads: bool) -> None:
        if leads == self._leads:
            return
        self._leads = leads
        log.info("leads now" if leads else "leads no more", extra={"holder": self._me})
        for listener in self._listeners:
            listener(leads)


def identity_in(folder: Path) -> str:
    """Read who this CloudCore is, or make it up."""
    path = folder / IDENTITY_FILE
    with suppress(FileNotFoundError):
        return path.read_text("ascii").strip()
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(f"cloudcore-{secrets.token_hex(8)}\n", "ascii")
    return path.read_text("ascii").strip()
