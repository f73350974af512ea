"""A Kubernetes API whose disk is full says so in its readiness, and that it is well again."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import StoreUnavailable
from gateway.model.json import JsonObject
from tests.kube_server import KubeServer, kube_server

CAUSE = "kube.db cannot be written: database or disk is full"


def state(server: KubeServer) -> tuple[bool, object]:
    return server.api.is_well, server.api.facts()


async def test_a_store_that_cannot_write_is_not_well_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_connection: sqlite3.Connection, _work: object) -> Any:
        raise sqlite3.OperationalError("database or disk is full")

    body: JsonObject = {"metadata": {"name": "a"}}
    async with kube_server(tmp_path) as server:
        kube = server.api.client("test")
        with monkeypatch.context() as patched:
            patched.setattr("gateway.store.database._in_savepoint", full)
            with pytest.raises(StoreUnavailable, match="database or disk is full"):
                await kube.create("v1", "configmaps", "default", body)
            assert state(server) == (False, {"cause": CAUSE})
        await kube.create("v1", "configmaps", "default", body)
        assert state(server) == (True, {})
