"""The join token in the cluster stays valid, whatever the clock and the API do."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from cloud import identity
from gateway.config.cloud import Cloud
from gateway.errors import NotFound, StoreUnavailable
from tests.cloud_rig import eventually


class Secrets:
    """Keeps Secrets; refuses to write while it `is_away`."""

    def __init__(self) -> None:
        self.is_away = False
        self.tokens = 0

    async def get(self, _version: str, plural: str, _namespace: str | None, name: str) -> Any:
        if plural == "namespaces":
            return {}
        raise NotFound(name)

    async def create(self, _version: str, _plural: str, _namespace: str, body: Any) -> Any:
        if self.is_away:
            raise StoreUnavailable
        if body["metadata"]["name"] == identity.TOKEN_SECRET:
            self.tokens += 1
        return body


async def test_a_token_that_could_not_be_renewed_is_tried_again_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "RETRY_SECONDS", 0.01)
    now, kube = 1_000_000.0, Secrets()
    monkeypatch.setattr("cloud.identity.time.time", lambda: now)
    room: Any = identity.Identity(kube, Cloud(), tmp_path)  # type: ignore[arg-type]
    is_ready = asyncio.Event()
    running = asyncio.create_task(room.run(is_ready.set))
    await is_ready.wait()
    try:
        await asyncio.sleep(0.05)
        assert kube.tokens == 1
        kube.is_away, now = True, now + 13 * 3_600  # as after a long sleep
        await asyncio.sleep(0.05)
        kube.is_away = False

        async def renewed() -> bool:
            return kube.tokens == 2

        await eventually(renewed)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
