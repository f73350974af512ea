"""Label selectors as objects carry them: `matchLabels` and `matchExpressions`, or a plain table of labels.

The written form, `app=web,tier in (a,b)`, is in `gateway.wire.kube.selectors`.
Source: Kubernetes "Labels and Selectors", resources that support set-based requirements.
"""

from __future__ import annotations

from collections.abc import Iterator

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.selectors import LabelSelector, Requirement

_OPERATORS = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "absent"}


def selector_of(document: Json) -> LabelSelector | None:
    """Read a selector of an object; None for one that is absent or makes no sense: it selects nothing."""
    if not isinstance(document, dict):
        return None
    terms = [*_labels(document.get("matchLabels"))]
    for row in _rows(document.get("matchExpressions")):
        term = _expression(row)
        if term is None:
            return None
        terms.append(term)
    return LabelSelector(tuple(terms))


def plain_selector(document: Json) -> LabelSelector | None:
    """Read a plain table of labels, as Services and ReplicationControllers select; None when it is empty."""
    terms = tuple(_labels(document))
    return LabelSelector(terms) if terms else None


def selector_text(selector: LabelSelector | None) -> str:
    """Write a selector as lists take it, its terms by key; nothing and everything are both empty."""
    terms = sorted(selector.terms if selector else (), key=lambda term: term.key)
    return ",".join(_term_text(term) for term in terms)


def _labels(table: Json) -> Iterator[Requirement]:
    for key, value in table.items() if isinstance(table, dict) else ():
        yield Requirement(key, "=", frozenset((str(value),)))


def _rows(value: Json) -> list[JsonObject]:
    rows = value if isinstance(value, list) else []
    return [row for row in rows if isinstance(row, dict)]


def _expression(row: JsonObject) -> Requirement | None:
    operator = _OPERATORS.get(str(row.get("operator")))
    values = row.get("values")
    texts = frozenset(str(value) for value in values) if isinstance(values, list) else frozenset()
    if operator is None or bool(texts) is (operator in ("exists", "absent")):
        return None
    return Requirement(str(row.get("key") or ""), operator, texts)


def _term_text(term: Requirement) -> str:
    values = ",".join(sorted(term.values))
    match term.operator:
        case "=":
            return f"{term.key}={values}"
        case "exists":
            return term.key
        case "absent":
            return f"!{term.key}"
    return f"{term.key} {term.operator} ({values})"
