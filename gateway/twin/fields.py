"""Field selectors: which parts of a document a reader wants (Ditto's `fields` parameter)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from gateway.errors import BadRequest, GatewayError
from gateway.model.json import Json, JsonObject, Pointer, parse_pointer

Selection: TypeAlias = "dict[str, Selection]"
"""Children by name; an empty dict takes the whole value."""

MAX_SELECTOR_CHARACTERS = 8_192

THING_ROOTS = frozenset(
    (
        "thingId",
        "policyId",
        "definition",
        "_namespace",
        "_revision",
        "_created",
        "_modified",
        "_metadata",
        "_policy",
        "_context",
        "attributes",
        "features",
    )
)
"""What `extraFields` and event streams may select."""


@dataclass(frozen=True, slots=True)
class FieldSelector:
    """A parsed selector.

    Shape:  `pointers` in the order written; `tree` the same, nested. `*` below `features` takes every
            feature.
    """

    pointers: tuple[Pointer, ...]
    tree: Selection = field(compare=False)

    @classmethod
    def parse(cls, text: str) -> FieldSelector:
        """Read a comma list of JSON pointers, nested by parentheses.

        Shape:  `thingId,attributes(model,location/lat)` -> three pointers.
        Errors: BadRequest `json.fieldselector.invalid` for a blank selector, an empty pointer or an
                unbalanced parenthesis.
        """
        if len(text) > MAX_SELECTOR_CHARACTERS or not text.strip():
            raise _invalid(text)
        pointers = tuple(_Parser(text).read())
        return cls(pointers, _tree_of(pointers))

    @property
    def roots(self) -> frozenset[str]:
        """The first segments."""
        return frozenset(self.tree)

    def require_roots(self, allowed: frozenset[str]) -> None:
        """Refuse a selector that names other roots than these.

        Errors: BadRequest `things:field.selection.invalid`.
        """
        foreign = sorted(self.roots - allowed)
        if foreign:
            raise BadRequest(
                f"The field selection of '{foreign[0]}' is not allowed here.",
                code="things:field.selection.invalid",
                description=f"Selectable are: {', '.join(sorted(allowed))}.",
            )

    def select(self, document: JsonObject, at: Pointer = ()) -> JsonObject:
        """Return the selected parts; what is absent is left out. Shares what it takes.

        Shape:  `at` is where the document stands in the thing: below `features`, `*` is each feature.
        """
        return _select(document, self.tree, at)

    def takes(self, root: str) -> bool:
        """True when something at or below this root is selected."""
        return root in self.tree


def _invalid(text: str) -> GatewayError:
    return BadRequest(
        f"The field selector '{text[:200]}' is invalid!",
        code="json.fieldselector.invalid",
        description="Expected a comma separated list of JSON pointers, parentheses balanced.",
    )


def _tree_of(pointers: tuple[Pointer, ...]) -> Selection:
    tree: Selection = {}
    whole: set[Pointer] = set()
    for pointer in pointers:
        if any(pointer[:depth] in whole for depth in range(1, len(pointer))):
            continue
        node = tree
        for segment in pointer:
            node = node.setdefault(segment, {})
        node.clear()
        whole.add(pointer)
    return tree


def _select(document: JsonObject, tree: Selection, at: Pointer) -> JsonObject:
    chosen: JsonObject = {}
    for name, below in tree.items():
        if name == "*" and at == ("features",):
            _select_each(document, below, chosen)
        elif name in document:
            _select_one(document, name, below, at, chosen)
    return chosen


def _select_each(features: JsonObject, below: Selection, chosen: JsonObject) -> None:
    for feature_id in features:
        _select_one(features, feature_id, below, ("features",), chosen)


def _select_one(
    document: JsonObject, name: str, below: Selection, at: Pointer, chosen: JsonObject
) -> None:
    value = document[name]
    if not below:
        chosen[name] = value
        return
    if isinstance(value, dict):
        part = _select(value, below, (*at, name))
        if part:
            chosen[name] = _joined(chosen.get(name), part)


def _joined(first: Json, second: JsonObject) -> Json:
    """Join two selections of the same object (a named feature beside `*`)."""
    if not isinstance(first, dict):
        return second
    joined = dict(first)
    for name, value in second.items():
        mine = joined.get(name)
        joined[name] = _joined(mine, value) if isinstance(value, dict) else value
    return joined


class _Parser:
    """Recursive descent over `list := item {, item}`, `item := pointer [ "(" list ")" ]`."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def read(self) -> list[Pointer]:
        pointers = self._list((), 0)
        if self._at != len(self._text):
            raise _invalid(self._text)
        return pointers

    def _list(self, prefix: Pointer, depth: int) -> list[Pointer]:
        if depth > 16:
            raise _invalid(self._text)
        pointers = self._item(prefix, depth)
        while self._peek() == ",":
            self._at += 1
            pointers += self._item(prefix, depth)
        return pointers

    def _item(self, prefix: Pointer, depth: int) -> list[Pointer]:
        start = self._at
        while self._peek() not in ("", ",", "(", ")"):
            self._at += 1
        name = self._text[start : self._at].strip()
        if not name or name == "/":
            raise _invalid(self._text)
        pointer = prefix + parse_pointer(name)
        if self._peek() != "(":
            return [pointer]
        self._at += 1
        below = self._list(pointer, depth + 1)
        if self._peek() != ")":
            raise _invalid(self._text)
        self._at += 1
        return below

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]
