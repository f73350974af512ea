"""The book of what nodes hold, where two CloudCores take a node for theirs."""

from __future__ import annotations

from typing import Any

import pytest

from cloud.syncbook import NEVER, Held, SyncBook
from gateway.kube.informer import Change
from gateway.model.json import JsonObject

NODE, UID = "edge-1", "u1"
HELD = Held(UID, "v1", "ConfigMap", "default", "c")


class Kube:
    """Notes what is written of syncs."""

    def __init__(self) -> None:
        self.version = 10
        self.written: list[str] = []

    async def create(self, *_args: object) -> JsonObject:
        return {}

    async def patch(self, *args: Any, **_options: object) -> JsonObject:
        self.version += 1
        self.written.append(args[4]["status"]["objectResourceVersion"])
        return {"metadata": {"resourceVersion": str(self.version)}}


def a_sync(delivered: str, version: int) -> Change:
    name = f"{NODE}.{UID}"
    sync: JsonObject = {
        "metadata": {"name": name, "namespace": "default", "resourceVersion": str(version)},
        "spec": {"objectAPIVersion": "v1", "objectKind": "ConfigMap", "objectName": "c"},
        "status": {"objectResourceVersion": delivered},
    }
    return Change(("default", name), None, sync)


@pytest.mark.parametrize(
    ("mine", "theirs", "after", "written"),
    [
        ("5", "9", "9", []),  # it was delivered there
        ("5", "4", "5", ["5"]),  # written late
        (NEVER, "9", NEVER, [NEVER]),  # the node may have lost it
        ("10", "9", "10", ["10"]),  # numbers, not texts
        ("5", "5", "5", []),
    ],
)
async def test_what_another_cloudcore_says_of_a_node_of_ours(
    mine: str, theirs: str, after: str, written: list[str]
) -> None:
    kube = Kube()
    book = SyncBook(kube)  # type: ignore[arg-type]
    book.own(NODE)
    book.promise(NODE, HELD)
    if mine != NEVER:
        book.acknowledge(NODE, UID, mine)
    await book._write_all()
    kube.written.clear()
    book._changed(a_sync(theirs, 99))
    await book._write_all()
    assert book.held(NODE)[UID].version == after
    assert kube.written == written
