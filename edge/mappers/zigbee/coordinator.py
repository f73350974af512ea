"""The coordinator as a Device: `configData: {kind: coordinator}`.

Properties: `permitJoin` (INT, ReadWrite: seconds that devices may still join), `state` (`up`, `starting`,
`away`, `refused`), `channel`, `panId`, `extendedPanId`, `ieee`, `devices`, `firmware`, `why`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from edge.mappers.driver import Clock, Reading
from edge.mappers.readings import bad, reading_of
from gateway.errors import Rejected
from gateway.wire.cloudedge.values import PropertyType, ValueRule, parse_text

PERMIT = "permitJoin"
MAX_PERMIT = 254
PROPERTIES = (
    PERMIT,
    "state",
    "channel",
    "panId",
    "extendedPanId",
    "ieee",
    "devices",
    "firmware",
    "why",
)
ALWAYS = ("state", "why")
"""What can be said of a coordinator that is away."""


class Desk(Protocol):
    """What the coordinator's driver needs of its family."""

    clock: Clock

    def fact(self, name: str) -> object:
        """Return a property's value now, None where it has none."""

    def why_away(self) -> str:
        """Say why the coordinator does not work, "" when it does."""

    async def permit(self, seconds: int) -> None: ...
    def obeyed(self) -> str:
        """Return the wish for `permitJoin` that was obeyed last, also before a restart."""

    def note_obeyed(self, text: str) -> None: ...
    def listen(self, changed: Callable[[], None]) -> None: ...
    def unlisten(self, changed: Callable[[], None]) -> None: ...


class CoordinatorDriver:
    """The port of the coordinator; it is connected even while its stick is away, to say so."""

    def __init__(self, names: Sequence[str], rules: Mapping[str, ValueRule], desk: Desk) -> None:
        self._names, self._rules, self._desk = names, rules, desk
        self._changed: list[Callable[[], None]] = []

    async def connect(self) -> None:
        """There is nothing to wait for."""

    async def read(self, names: Sequence[str]) -> Mapping[str, Reading]:
        now, away = self._desk.clock(), self._desk.why_away()
        return {
            name: bad(away, now) if away and name not in ALWAYS else self._reading(name, now)
            for name in names
            if name in PROPERTIES
        }

    def _reading(self, name: str, now: int) -> Reading:
        value, rule = self._desk.fact(name), self._rules[name]
        if name == "panId" and rule.type is PropertyType.STRING and isinstance(value, int):
            value = f"0x{value:04x}"
        return bad("not known", now) if value is None else reading_of(rule, value, now)

    async def write(self, name: str, text: str) -> None:
        if name != PERMIT:
            raise Rejected(f"a coordinator's {name} can only be read")
        seconds = int(parse_text(PropertyType.INT, text))
        if not 0 <= seconds <= MAX_PERMIT:
            raise Rejected(f"{PERMIT}: expected 0 to {MAX_PERMIT} seconds, got {seconds}")
        if text == self._desk.obeyed():
            return  # the same wish, still there: it was meant once, not for ever
        await self._desk.permit(seconds)
        self._desk.note_obeyed(text)

    def subscribe(self, changed: Callable[[], None]) -> None:
        self._changed.append(changed)
        self._desk.listen(changed)

    def faults(self) -> Mapping[str, str]:
        """Return the properties that a coordinator has not."""
        known = ", ".join(PROPERTIES)
        return {
            name: f"a coordinator has {known}" for name in self._names if name not in PROPERTIES
        }

    async def close(self) -> None:
        while self._changed:
            self._desk.unlisten(self._changed.pop())
