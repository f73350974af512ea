"""Who may create things and policies in which namespace: the operator's rules."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from gateway.config.ditto import Creation, CreationRule
from gateway.model.entity_id import namespace_of
from gateway.twin.ditto_errors import ditto_error


@dataclass(frozen=True, slots=True)
class CreationRules:
    """The rules of the settings; the default lets everybody create everything."""

    settings: Creation = field(default_factory=Creation)

    def check(self, kind: str, entity_id: str, subjects: tuple[str, ...]) -> None:
        """Refuse a creation that no rule grants, or that one revokes.

        Shape:  `kind` is `thing` or `policy`.
        Errors: 403 `entity.notcreatable`.
        """
        if _any_fits(self.settings.grant, kind, entity_id, subjects) and not _any_fits(
            self.settings.revoke, kind, entity_id, subjects
        ):
            return
        raise ditto_error("entity.notcreatable", id=entity_id)


def _any_fits(
    rules: Iterable[CreationRule], kind: str, entity_id: str, subjects: tuple[str, ...]
) -> bool:
    namespace = namespace_of(entity_id)
    return any(
        (not rule.resource_types or kind in rule.resource_types)
        and _matches(rule.namespaces, (namespace,))
        and _matches(rule.auth_subjects, subjects)
        for rule in rules
    )


def _matches(patterns: tuple[str, ...], found: tuple[str, ...]) -> bool:
    return not patterns or any(_regex(one).fullmatch(text) for one in patterns for text in found)


@lru_cache(maxsize=1_024)
def _regex(pattern: str) -> re.Pattern[str]:
    """`*` takes any run of characters, `?` one."""
    escaped = (".*" if char == "*" else "." if char == "?" else re.escape(char) for char in pattern)
    return re.compile("".join(escaped), re.DOTALL)
