"""Delivery: which devices came and went is told also where the link had no room at first."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from cloud.catalog import DeviceChange
from cloud.delivery import Delivery
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.envelope import Envelope, json_of
from tests.cloud_samples import a_device
from tests.hono_rig import until


class Quiet:
    """Takes every call, and does nothing."""

    def __getattr__(self, _name: str) -> Any:
        return lambda *_args, **_options: None


class Hub(Quiet):
    """A hub with one node, whose link is full until the test says so."""

    nodes = ("edge-1",)

    def __init__(self) -> None:
        self.has_room = False
        self.told: list[Any] = []

    def is_connected(self, node: str) -> bool:
        return node == "edge-1"

    def push(self, node: str, envelope: Envelope) -> bool:
        if self.has_room:
            self.told.append(json_of(envelope.content))
        return self.has_room


class Book(Quiet):
    def held(self, _node: str) -> dict[str, Any]:
        return {}


class Catalog(Quiet):
    def devices_of(self, _node: str) -> list[DeviceView]:
        return []


def came(name: str) -> DeviceChange:
    view = DeviceView.read(a_device(name, node="edge-1"))
    return DeviceChange(view.key, None, view)


def went(name: str) -> DeviceChange:
    change = came(name)
    return DeviceChange(change.key, change.new, None)


def names(members: list[Any] | None) -> list[str]:
    return [member["name"] for member in members or []]


def a_delivery(hub: Hub) -> Delivery:
    catalog: Any = Catalog()
    book: Any = Book()
    tracer: Any = Quiet()
    link: Any = hub
    return Delivery(catalog, link, book, tracer, 0.01)


async def test_devices_that_came_while_the_link_was_full_are_told_later() -> None:
    hub = Hub()
    delivery = a_delivery(hub)
    for change in (came("a"), came("b"), went("b"), went("c")):
        delivery.device_changed(change)
    running = asyncio.create_task(delivery.run(lambda: None))
    hub.has_room = True
    await until(lambda: bool(hub.told))
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    [update] = hub.told
    assert names(update["added_devices"]) == ["a"]
    assert names(update["removed_devices"]) == ["b", "c"]


async def test_a_node_that_left_asks_for_the_whole_list_itself() -> None:
    hub = Hub()
    delivery = a_delivery(hub)
    delivery.device_changed(came("a"))
    delivery.node_disconnected("edge-1")
    hub.has_room = True
    delivery.device_changed(came("b"))
    assert [names(update["added_devices"]) for update in hub.told] == [["b"]]
