"""How CloudHub writes to a node: all that waits, until the node must read first."""

from __future__ import annotations

from typing import Any

import pytest

from cloud.hub import CloudHub
from cloud.sessions import NodeSession
from gateway.config.cloud import CloudHub as HubSettings
from gateway.observe.metrics import Metrics
from gateway.wire.cloudedge.envelope import Route, Stamp, make
from gateway.wire.cloudedge.link import CloudLink, LinkLimits


class Line:
    """A connection that takes `room` batches before its node must read."""

    def __init__(self, room: int) -> None:
        self._room = room
        self.sent: list[int] = []
        self.stalled_since: float | None = None

    def send(self, frames: list[bytes]) -> None:
        self.sent.append(len(frames))
        if len(self.sent) >= self._room:
            self.stalled_since = 0.0


@pytest.mark.parametrize(("room", "sent"), [(10, [1, 1, 1]), (2, [1, 1])])
async def test_all_that_waits_is_written_until_the_node_must_read(
    room: int, sent: list[int]
) -> None:
    nobody: Any = None
    hub = CloudHub(HubSettings(), nobody, nobody, nobody, Metrics())
    link, line = CloudLink(0.0, LinkLimits(batch=1)), Line(room)
    session = NodeSession("edge-1", "s", link, line, 0.0, "store")  # type: ignore[arg-type]
    for number in range(3):
        link.push(make(Stamp(str(number), 1), Route(operation="response"), "OK"))
    hub.writable(session)
    assert line.sent == sent
