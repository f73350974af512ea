"""Where each edge's spool stands: spooled commands are applied once, whatever is sent again.

A lane's commands may be under way together only where they change the same thing: there the store refuses
all that follows a failed one. A command for another thing waits, so that no later one is stored while an
earlier one of its lane can still fail.
"""

from __future__ import annotations

from gateway.ditto.lane import Resume, Wait
from gateway.errors import GatewayError
from gateway.model.message import SpoolId
from gateway.store.things import ThingStore


class _Lane:
    __slots__ = ("has_failed", "in_flight", "sequence", "settled", "thing_id")

    def __init__(self, sequence: int) -> None:
        self.sequence = sequence
        self.in_flight = 0
        self.thing_id = ""
        self.has_failed = False
        self.settled: list[Resume] = []


class Spools:
    """Last sequences in memory, read from the store when first needed."""

    def __init__(self, store: ThingStore, cache: int = 50_000) -> None:
        self._store = store
        self._cache = cache
        self._lanes: dict[tuple[str, str], _Lane] = {}

    def is_duplicate(self, spool: SpoolId, thing_id: str) -> bool:
        """True when a command with this place was applied already.

        Errors: Wait while the lane is read, or another thing's command of it is under way.
        """
        lane = self._lanes.get((spool.edge, spool.lane))
        if lane is None:
            raise Wait(lambda resume: self._fetch(spool, resume))
        if lane.in_flight and (lane.thing_id != thing_id or lane.has_failed):
            raise Wait(lane.settled.append)
        return spool.sequence <= lane.sequence

    def begin(self, spool: SpoolId, thing_id: str) -> None:
        """A command with this place is on its way to the store."""
        lane = self._lanes[spool.edge, spool.lane]
        lane.sequence, lane.thing_id = spool.sequence, thing_id
        lane.in_flight += 1

    def finish(self, spool: SpoolId, error: GatewayError | None) -> None:
        """It is durable, or failed: then the lane is read from the store again."""
        key = (spool.edge, spool.lane)
        lane = self._lanes[key]
        lane.in_flight -= 1
        lane.has_failed = lane.has_failed or error is not None
        if lane.in_flight:
            return
        if lane.has_failed:
            del self._lanes[key]
        for resume in lane.settled:
            resume(None)
        lane.settled = []

    def _fetch(self, spool: SpoolId, resume: Resume) -> None:
        def loaded(answer: int | GatewayError) -> None:
            if isinstance(answer, GatewayError):
                resume(answer)
                return
            self._make_room()
            self._lanes.setdefault((spool.edge, spool.lane), _Lane(answer))
            resume(None)

        self._store.load_spool(spool.edge, spool.lane, loaded)

    def _make_room(self) -> None:
        if len(self._lanes) < self._cache:
            return
        for key, lane in self._lanes.items():
            if not lane.in_flight and not lane.settled:
                del self._lanes[key]
                return
