"""Patterns with `*` for any run of characters and `?` for one; never slow, whatever pattern and text are.

Between two stars a pattern is a piece of fixed length; the first place where a piece fits is as good as any
later one, so pieces are looked for one after the other and nothing is tried twice. A piece without `?` is
found by the text's own search. One with `?` is found by keeping all its open beginnings as the bits of one
number, so a character of the text costs a shift, not a walk over the piece.
"""

from __future__ import annotations

from collections.abc import Iterable


def glob_matches(pattern: str, text: str) -> bool:
    """True when the pattern makes the whole text."""
    first, *rest = pattern.split("*")
    if not rest:
        return _fits(first, text, 0) and len(first) == len(text)
    last = rest.pop()
    end = len(text) - len(last)
    if end < len(first) or not _fits(first, text, 0) or not _fits(last, text, end):
        return False
    return _in_order(rest, text, len(first), end)


def _in_order(pieces: Iterable[str], text: str, at: int, end: int) -> bool:
    for piece in pieces:
        found = _find(piece, text, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return True


def _fits(piece: str, text: str, at: int) -> bool:
    """True when a piece is what the text has at a place."""
    if "?" not in piece:
        return text.startswith(piece, at)
    return len(text) - at >= len(piece) and all(
        wanted in ("?", found) for wanted, found in zip(piece, text[at:], strict=False)
    )


def _find(piece: str, text: str, at: int, end: int) -> int:
    """Where a piece fits first, from `at` on and before `end`; -1 for nowhere."""
    if end - at < len(piece):
        return -1
    if "?" not in piece:
        return text.find(piece, at, end)
    wanted = piece.strip("?")
    if not wanted:
        return at
    head = len(piece) - len(piece.lstrip("?"))
    tail = len(piece) - len(piece.rstrip("?"))
    if "?" not in wanted:
        found = text.find(wanted, at + head, end - tail)
        return found - head if found >= 0 else -1
    return _find_mixed(piece, text, at, end)


def _find_mixed(piece: str, text: str, at: int, end: int) -> int:
    anything = sum(1 << place for place, char in enumerate(piece) if char == "?")
    masks: dict[str, int] = {}
    for place, char in enumerate(piece):
        if char != "?":
            masks[char] = masks.get(char, anything) | 1 << place
    whole = 1 << (len(piece) - 1)
    begun = 0
    for place in range(at, end):
        begun = (begun << 1 | 1) & masks.get(text[place], anything)
        if begun & whole:
            return place - len(piece) + 1
    return -1
