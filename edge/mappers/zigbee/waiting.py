"""What is to be written to a device that sleeps, until it is heard: the latest per property, for a time."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.errors import QuotaExceeded

MAX_PROPERTIES = 32
"""Properties of one device that may wait to be written; more are refused."""


@dataclass(slots=True)
class Waiting:
    """Wishes of one device; times are ms.

    Bounds: one per property, the latest wins; `MAX_PROPERTIES`; each until its time is over.
    """

    _wishes: dict[str, tuple[str, int]] = field(default_factory=dict)

    def put(self, name: str, text: str, until: int) -> None:
        """Keep a wish, in place of an older one of the property. Errors: QuotaExceeded."""
        if name not in self._wishes and len(self._wishes) >= MAX_PROPERTIES:
            raise QuotaExceeded(f"{MAX_PROPERTIES} properties wait for this device already")
        held = self._wishes.get(name)
        if held is not None and held[0] == text:
            return  # asked again: it does not live longer for that
        self._wishes.pop(name, None)
        self._wishes[name] = text, until

    def holds(self, name: str, text: str) -> bool:
        """Say whether just this waits."""
        held = self._wishes.get(name)
        return held is not None and held[0] == text

    def first(self) -> tuple[str, str] | None:
        """Return what is to be written next; it stays until `drop`."""
        return next(((name, held[0]) for name, held in self._wishes.items()), None)

    def drop(self, name: str, text: str) -> None:
        """A wish is done with; a newer one of the property stays."""
        if self.holds(name, text):
            del self._wishes[name]

    def forget(self, name: str) -> None:
        """A property's wish was taken back."""
        self._wishes.pop(name, None)

    def expired(self, now: int) -> list[str]:
        """Give up what is too old; return the properties."""
        over = [name for name, (_, until) in self._wishes.items() if until <= now]
        for name in over:
            del self._wishes[name]
        return over

    def __len__(self) -> int:
        return len(self._wishes)
