"""Who waits for what: answers of devices, acknowledgements of those who declared labels.

A sender that waits has a place here under its thing and correlation id; answers and acknowledgements name
both. A correlation id in use gets a suffix meanwhile, so that two senders never get each other's answers.
What nobody will ever issue is acknowledged in its place: weakly where the declarer of a label was not told of
the signal, as missed where the time is up. Source: Ditto, acknowledgements and messages.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeAlias

from gateway.ditto.acknowledgements import (
    BUILT_IN,
    LIVE_RESPONSE,
    NOT_RECEIVED,
    Ack,
    check_own_labels,
)
from gateway.errors import GatewayError, Undeliverable
from gateway.model.thing import ThingMessageResponse, ThingResult
from gateway.twin.ditto_errors import ditto_error
from gateway.wire.ditto.read import Acknowledgement, Response

MAX_WAITING: Final = 10_000

Answer: TypeAlias = ThingMessageResponse | Response
"""What a device says to a message or live command."""

Told: TypeAlias = Ack | ThingResult | Answer

Collected: TypeAlias = Mapping[str, Told]
"""Label to what was told under it; a label that is missing was not told in time."""

Finished = Callable[["Collected | GatewayError"], None]


class Waiter:
    """One sender that waits.

    Shape:  `correlation_id` is the one that answers carry.
    """

    __slots__ = (
        "_done",
        "_fits",
        "_forget",
        "_published",
        "_timer",
        "correlation_id",
        "labels",
        "told",
    )

    def __init__(
        self,
        correlation_id: str,
        labels: Iterable[str],
        done: Finished,
        fits: Callable[[Answer], bool],
        forget: Callable[[], None],
    ) -> None:
        self.correlation_id = correlation_id
        self.labels = tuple(labels)
        self.told: dict[str, Told] = {}
        self._done: Finished | None = done
        self._fits = fits
        self._forget = forget
        self._published = False
        self._timer: asyncio.TimerHandle | None = None

    def start(self, timeout: float) -> None:
        """Begin to wait."""
        self._timer = asyncio.get_running_loop().call_later(timeout, self.end)

    def end(self, error: GatewayError | None = None) -> None:
        """Wait no more: for an error, or with what was told so far."""
        done, self._done = self._done, None
        if done is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._forget()
        done(self.told if error is None else error)

    def take(self, label: str, told: Told) -> bool:
        """Note what was told under a label; False where it is not, or no more, waited for."""
        if label not in self.labels or label in self.told or self._done is None:
            return False
        self.told[label] = told
        if len(self.told) == len(self.labels):
            self.end()
        return True

    def answered(self, answer: Answer) -> bool:
        """Note a device's answer if it fits; False where it does not."""
        return self._fits(answer) and self.take(LIVE_RESPONSE, answer)

    def published(self, weak: Callable[[str], bool]) -> None:
        """The signal went out; labels for which `weak` holds will not be issued by their declarers."""
        self._published = True
        self._stand_in(weak)

    def settled(self) -> None:
        """The command is done; where it changed nothing, nobody was told and nobody will acknowledge."""
        if not self._published:
            self._stand_in(lambda _label: True)

    def _stand_in(self, weak: Callable[[str], bool]) -> None:
        for label in self.labels:
            if label not in BUILT_IN and label not in self.told and weak(label):
                self.take(label, NOT_RECEIVED)


class Desk:
    """Everybody who waits, and everybody who declared labels."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, str], Waiter] = {}
        self._declared: dict[str, str] = {}
        self._reached: dict[tuple[str, str], set[str]] = {}
        self._suffixes = itertools.count(1)

    def __len__(self) -> int:
        return len(self._waiting)

    # --- declaring --------------------------------------------------------------------------------

    def declare(self, labels: Iterable[str], owner: str) -> Callable[[], None]:
        """Keep labels for one owner; returns the way to give them back.

        Errors: Conflict `acknowledgement:label.not.unique`, BadRequest
                `acknowledgement:ditto.acklabel.forbidden`.
        """
        own = check_own_labels(labels)
        for label in own:
            if self._declared.get(label, owner) != owner:
                raise ditto_error("acknowledgement:label.not.unique", label=label)
        self._declared.update(dict.fromkeys(own, owner))

        def end() -> None:
            for label in own:
                if self._declared.get(label) == owner:
                    del self._declared[label]

        return end

    # --- waiting ----------------------------------------------------------------------------------

    def expect(
        self,
        thing_id: str,
        correlation_id: str,
        labels: Iterable[str],
        done: Finished,
        fits: Callable[[Answer], bool],
        timeout: float,
    ) -> Waiter:
        """Wait for all labels; the signal has to go out with the waiter's correlation id.

        Shape:  `done` gets what was told, be it all, or what came in time.
        Errors: Undeliverable when too many wait already.
        """
        if len(self._waiting) >= MAX_WAITING:
            raise Undeliverable(f"more than {MAX_WAITING} signals wait for an answer")
        unique = correlation_id
        while (thing_id, unique) in self._waiting:
            unique = f"{correlation_id}-{next(self._suffixes)}"
        key = (thing_id, unique)
        waiter = Waiter(unique, labels, done, fits, lambda: self._forget(key))
        self._waiting[key] = waiter
        waiter.start(timeout)
        return waiter

    def _forget(self, key: tuple[str, str]) -> None:
        self._waiting.pop(key, None)
        self._reached.pop(key, None)

    # --- answers ----------------------------------------------------------------------------------

    def answer(self, thing_id: str, correlation_id: str, answer: Answer) -> bool:
        """Hand an answer to who waits for it; False when nobody does. The first one counts."""
        waiter = self._waiting.get((thing_id, correlation_id))
        return waiter is not None and waiter.answered(answer)

    def acknowledge(self, issued: Acknowledgement, owner: str) -> bool:
        """Hand an acknowledgement to who waits for it; False when nobody does.

        Errors: BadRequest `acknowledgement:ditto.acklabel.forbidden`,
                `acknowledgement:label.not.declared`.
        """
        self.check_declared(issued.label, owner)
        waiter = self._waiting.get((issued.thing_id, issued.correlation_id))
        return waiter is not None and waiter.take(issued.label, Ack.of(issued))

    def check_declared(self, label: str, owner: str) -> None:
        """Refuse a label that its issuer did not declare; errors as `acknowledge`."""
        if label in BUILT_IN:
            raise ditto_error("acknowledgement:ditto.acklabel.forbidden", label=label)
        if self._declared.get(label) != owner:
            raise ditto_error("acknowledgement:label.not.declared", label=label)

    # --- signals on their way out -----------------------------------------------------------------

    def reached(self, thing_id: str, correlation_id: str, labels: Iterable[str]) -> None:
        """Those who declared these labels were told of a signal."""
        key = (thing_id, correlation_id)
        if key in self._waiting:
            self._reached.setdefault(key, set()).update(labels)

    def published(self, thing_id: str, correlation_id: str) -> None:
        """All listeners were told of a signal: declarers that it did not reach will not acknowledge it."""
        key = (thing_id, correlation_id)
        waiter = self._waiting.get(key)
        if waiter is None:
            return
        reached = self._reached.pop(key, set())
        waiter.published(lambda label: label in self._declared and label not in reached)

    def close(self) -> None:
        """Answer all that wait: nobody will."""
        for waiter in list(self._waiting.values()):
            waiter.end(Undeliverable("shutting down"))
