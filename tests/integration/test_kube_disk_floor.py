"""A disk that is nearly full: the Kubernetes API takes no new objects, nodes' leases and deletions go on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import StoreUnavailable
from gateway.kube.storage import LITTLE, Storage
from gateway.kube.watch import Key
from gateway.store.database import Database
from gateway.store.disk import Disk


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[Storage]:
    database = Database(tmp_path / "kube.db", "kube", min_free=1)
    storage = Storage(database)
    async with database.running(), storage.running():
        yield storage


def an_object(name: str, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": spec}


def key(name: str) -> Key:
    return Key("nodes", "", name)


async def test_below_the_floor_objects_are_renewed_and_deleted_and_none_is_added(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await storage.create(key("a"), an_object("a", n=1))
    monkeypatch.setattr(Disk, "is_tight", True)
    with pytest.raises(StoreUnavailable, match="nearly full"):
        await storage.create(key("b"), an_object("b"))
    with pytest.raises(StoreUnavailable, match="nearly full"):
        await storage.replace(first, an_object("a", n="x" * 2 * LITTLE))
    second = await storage.replace(first, an_object("a", n=2, more="y"))
    assert second.version > first.version
    await storage.remove(second)
    monkeypatch.setattr(Disk, "is_tight", False)
    await storage.create(key("b"), an_object("b"))
