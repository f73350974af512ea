"""Where the entries of a resolved policy were written, and what was left out of it and why."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from gateway.model.json import JsonObject


class How(enum.StrEnum):
    """How an entry came into a policy."""

    OWN = "own"
    IMPORT = "import"
    ROOT = "root"


@dataclass(frozen=True, slots=True)
class Part:
    """One of the entries that make an entry with references: where it stands, and what counts of it.

    Shape:  `parts` what it was itself made from, where it is an imported one with references.
    """

    policy_id: str
    label: str
    body: JsonObject
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an entry was written.

    Shape:  `policy_id` and `label` as its author knows them; `via` the policies between the importer and
            `policy_id`, the importer's own import first; `parts` only for an entry with references;
            `ignored` the own additions that what it refers to does not allow.
    """

    how: How
    policy_id: str
    label: str
    via: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()
    ignored: JsonObject | None = None

    @property
    def source(self) -> str:
        """The policy that brings the entry: the one that is imported, or the root policy."""
        return self.via[0] if self.via else self.policy_id

    def through(self, policy_id: str) -> Origin:
        """The same, seen by one who imports `policy_id`, in which this is visible."""
        via = self.via if policy_id == self.policy_id else (policy_id, *self.via)
        return replace(self, how=How.IMPORT, via=via)


class Why(enum.StrEnum):
    """Why something does not count in a policy."""

    MISSING = "missing"
    """The imported policy does not exist."""
    NEVER = "never"
    """The entry says that it is not imported."""
    NOT_LISTED = "notListed"
    """The entry is imported only where the import lists it."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An entry, or a whole import where `label` is empty, that a policy does not get."""

    policy_id: str
    label: str
    why: Why
    body: JsonObject


Sourced: TypeAlias = "tuple[str, JsonObject, Origin]"
"""An entry under its label, with its origin."""

MAX_LEFT_OUT: Final = 100
"""Kept for one policy."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """A policy with imports, references and root policies worked in."""

    entries: list[Sourced]
    left_out: tuple[LeftOut, ...] = ()
