"""How much a placeholder may grow to: templates come from users, values from devices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod

from gateway.errors import BadRequest

MAX_VALUES = 1_000
"""Values that one expression or template may stand for."""
MAX_CHARACTERS = 65_536
"""Characters of all these values together."""
MAX_STEPS = 1_000_000
"""Characters of a pattern times those of the text that it is compared with."""


def too_large(what: str) -> BadRequest:
    """400 `placeholder:function.too.complex`, naming what was too much."""
    return BadRequest(
        f"The placeholder stands for too much: {what}.",
        code="placeholder:function.too.complex",
        description=f"At most {MAX_VALUES} values with {MAX_CHARACTERS} characters in all.",
    )


def bounded(values: tuple[str, ...]) -> tuple[str, ...]:
    """The values, if they are not too many and not too long; errors as `check_size`."""
    check_size(len(values), sum(map(len, values)))
    return values


def check_size(values: int, characters: int) -> None:
    """Refuse what would become too large, before it is made.

    Errors: BadRequest `placeholder:function.too.complex`.
    """
    if values > MAX_VALUES:
        raise too_large(f"{values} values")
    if characters > MAX_CHARACTERS:
        raise too_large(f"{characters} characters")


def check_pattern(text: str, pattern: str) -> None:
    """Refuse to compare what would take too long; errors as `check_size`."""
    if len(text) * len(pattern) > MAX_STEPS:
        raise too_large(f"a pattern of {len(pattern)} characters for a text of {len(text)}")


def bounded_product(parts: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Every text with one value of each part, the parts in order; errors as `check_size`."""
    values = prod(map(len, parts))
    if values:
        check_size(values, sum(sum(map(len, part)) * values // len(part) for part in parts))
    texts: tuple[str, ...] = ("",)
    for part in parts:
        texts = tuple(text + value for text in texts for value in part)
    return texts


def bounded_chain(pieces: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """All texts of all pieces, each taken only while it fits; errors as `check_size`."""
    texts: list[str] = []
    characters = 0
    for piece in pieces:
        characters += sum(map(len, piece))
        check_size(len(texts) + len(piece), characters)
        texts += piece
    return tuple(texts)
