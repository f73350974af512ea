"""Which links listen for commands, and which of them a command goes to.

Who gets a command for device D, in this order: a link of D itself; a link of a gateway that subscribed for
D; D's last known gateway; another gateway that may act for D. Within one slot the newest link wins, and when
it ends the one before it serves again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gateway.model.message import Adapter
from gateway.model.ports import DeviceLink


@dataclass(frozen=True, slots=True, eq=False)
class Subscription:
    """One link that listens; `device` is whose commands it asked for, `gateway` who carries them."""

    tenant: str
    device: str
    link: DeviceLink
    adapter: Adapter
    gateway: str | None
    announce: bool
    for_its_devices: bool


class Subscriptions:
    """The links that listen, by (tenant, device), each slot newest last."""

    def __init__(self) -> None:
        self._slots: dict[tuple[str, str, bool], list[Subscription]] = {}

    def add(self, subscription: Subscription) -> None:
        self._slots.setdefault(_slot(subscription), []).append(subscription)

    def remove(self, subscription: Subscription) -> bool:
        """Take a subscription out; True when its slot has no other that announces."""
        key = _slot(subscription)
        slot = self._slots.get(key, [])
        if subscription not in slot:
            return False
        slot.remove(subscription)
        if not slot:
            del self._slots[key]
        return not any(other.announce for other in slot)

    def own(self, tenant: str, device: str) -> Subscription | None:
        """Return the newest link of the device itself."""
        return self._newest(tenant, device, False)

    def on_behalf(self, tenant: str, device: str, allowed: tuple[str, ...]) -> Subscription | None:
        """Return the newest link of an allowed gateway that subscribed for this device."""
        slot = self._slots.get((tenant, device, True), ())
        return next((s for s in reversed(slot) if s.gateway in allowed), None)

    def of_gateway(self, tenant: str, gateway: str) -> Subscription | None:
        """Return the newest link of a gateway that takes commands for its devices."""
        slot = self._slots.get((tenant, gateway, False), ())
        return next((s for s in reversed(slot) if s.for_its_devices), None)

    def of(self, tenant: str, device: str) -> list[Subscription]:
        """Return all links for a device: those of gateways, then its own, each newest last."""
        return [
            *self._slots.get((tenant, device, True), ()),
            *self._slots.get((tenant, device, False), ()),
        ]

    def has(self, subscription: Subscription) -> bool:
        return subscription in self._slots.get(_slot(subscription), ())

    def newest(self) -> list[Subscription]:
        """Return for each device the link that `of` names last."""
        keys = {(tenant, device) for tenant, device, _ in self._slots}
        return [self.of(tenant, device)[-1] for tenant, device in keys]

    def _newest(self, tenant: str, device: str, by_gateway: bool) -> Subscription | None:
        slot = self._slots.get((tenant, device, by_gateway))
        return slot[-1] if slot else None

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))


def _slot(subscription: Subscription) -> tuple[str, str, bool]:
    return subscription.tenant, subscription.device, subscription.gateway is not None


def choose(
    subscriptions: Subscriptions,
    tenant: str,
    device: str,
    via: tuple[str, ...],
    last_gateway: str | None,
) -> Subscription | None:
    """Pick the link for a device's command, as the module's text says; `via` are its gateways."""
    found = subscriptions.own(tenant, device) or subscriptions.on_behalf(tenant, device, via)
    if found is not None:
        return found
    for gateway in _gateways(via, last_gateway):
        found = subscriptions.of_gateway(tenant, gateway)
        if found is not None:
            return found
    return None


def _gateways(via: tuple[str, ...], last: str | None) -> Iterator[str]:
    if last is not None and last in via:
        yield last
    yield from (gateway for gateway in via if gateway != last)
