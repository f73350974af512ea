"""What PromQL asks for: metrics, labels, and the variables of Grafana in it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import promql_parser

RANGE = "1m"


def filled(expr: str, variables: Mapping[str, str] | None = None) -> str:
    """Fill in Grafana's variables: `.*` where `variables` names no value."""
    given = {"__rate_interval": RANGE, "__range": RANGE, "__interval": "15s", **(variables or {})}
    return re.sub(r"\$(\w+)", lambda found: given.get(found[1], ".*"), expr)


def variables_of(text: str) -> set[str]:
    """The names of a dashboard's own variables in a text; Grafana's begin with two underscores."""
    found = re.findall(r"\$\{?(\w+)", text)
    return {name for name in found if not name.startswith("__")}


@dataclass(frozen=True, slots=True)
class Selector:
    """A metric, and the matchers of its labels as (label, operator, value)."""

    metric: str
    matchers: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """What an expression asks for; `by` are the labels that its aggregations keep."""

    selectors: tuple[Selector, ...]
    by: frozenset[str]


def asked(expr: str) -> Asked:
    """Parse; raises ValueError for what is no PromQL."""
    nodes = list(_walk(promql_parser.parse(filled(expr))))
    selectors = tuple(_selector(node) for node in nodes if hasattr(node, "matchers"))
    modifiers = [node.modifier for node in nodes if type(node).__name__ == "AggregateExpr"]
    kept = frozenset(label for each in modifiers if each is not None for label in each.labels)
    return Asked(selectors, kept)


def _selector(node: Any) -> Selector:
    matchers = tuple(
        (m.name, str(m.op).rpartition(".")[2], m.value) for m in node.matchers.matchers
    )
    return Selector(node.name, matchers)


def _walk(node: Any) -> Iterator[Any]:
    yield node
    for name in ("lhs", "rhs", "expr", "param", "vector_selector"):
        child = getattr(node, name, None)
        if child is not None and type(child).__module__ == type(node).__module__:
            yield from _walk(child)
    for child in getattr(node, "args", ()):
        yield from _walk(child)
