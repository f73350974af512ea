"""Wishes that a Device cannot take and that nobody could refuse in time, because its thing is elsewhere.

The good value is written back once for each bad one. Who insists on the same bad value is left alone then:
the Device keeps what was agreed, the event says why, and nobody writes for ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gateway.errors import Conflict, GatewayError, Unprocessable
from gateway.model.json import Json
from gateway.twin.documents import same


class Refusals:
    """Bad values by thing and property, until the property gets a good one."""

    def __init__(self) -> None:
        self._refused: dict[str, dict[str, Json]] = {}

    def fresh(self, thing_id: str, wished: Mapping[str, Json], bad: Iterable[str]) -> list[str]:
        """Return the properties whose bad value was not refused before."""
        known = self._refused.get(thing_id, {})
        return [n for n in bad if n not in known or not same(known[n], wished.get(n))]

    def refused(self, thing_id: str, wished: Mapping[str, Json], names: Iterable[str]) -> None:
        """Remember what was written back."""
        self._refused.setdefault(thing_id, {}).update({name: wished.get(name) for name in names})

    def accepted(self, thing_id: str, names: Iterable[str]) -> None:
        """A good value came: the next bad one is news again."""
        known = self._refused.get(thing_id, {})
        for name in names:
            known.pop(name, None)
        if not known:
            self._refused.pop(thing_id, None)

    def forget(self, thing_id: str) -> None:
        """The thing stands for no Device any more."""
        self._refused.pop(thing_id, None)


def was_beaten(error: GatewayError) -> bool:
    """True when others were faster each time; False when the value itself is not taken."""
    return isinstance(error, Conflict | Unprocessable) and not error.details.get("causes")
