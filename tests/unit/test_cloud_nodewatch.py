"""What a Node's changes mean: one that was made again under its name was deleted before."""

from __future__ import annotations

from typing import Any

import pytest

from cloud.nodes import NodeWatch
from gateway.config.cloud import CloudHub
from gateway.kube.informer import Change
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.names import EDGE_LABEL


class Book:
    """Notes what is asked of it."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.registered = {"edge-1"}

    async def revoke(self, node: str, _now: float, *, spare: str = "") -> None:
        self.done.append(f"revoke {node}")

    def revoked_at(self, _node: str) -> float:
        return -1.0

    async def unregister(self, node: str) -> None:
        self.registered.discard(node)

    async def register(self, node: str, _uid: str) -> None:
        self.done.append(f"register {node}")


class Quiet:
    """Takes every call, and does nothing."""

    def __getattr__(self, _name: str) -> Any:
        return Quiet()

    def __call__(self, *_args: object, **_options: object) -> Any:
        return Quiet()


def a_node(uid: str) -> JsonObject:
    return {"metadata": {"name": "edge-1", "uid": uid, "labels": {EDGE_LABEL: ""}}}


@pytest.mark.parametrize(
    ("old", "new", "done"),
    [
        ("u1", "u1", ["register edge-1"]),
        ("u1", "u2", ["revoke edge-1", "register edge-1"]),
    ],
)
async def test_a_node_that_was_deleted_between_two_looks_was_deleted(
    old: str, new: str, done: list[str]
) -> None:
    book = Book()
    quiet: Any = Quiet()
    watch = NodeWatch(quiet, quiet, book, quiet, quiet, CloudHub())  # type: ignore[arg-type]
    watch._note(Change(("", "edge-1"), a_node(old), a_node(new)))
    while watch._waiting:
        await watch._take(next(iter(watch._waiting)))
    assert book.done == done
