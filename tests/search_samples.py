"""Documents, filters and sort orders for the tests of searching, made so that they meet often."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from gateway.twin.rql import Comparison, Literal, Logical, Node, Property

NAMES = ("a", "b", "x/y~")
FEATURES = ("motor", "m/1")
COMMON = (None, False, True, 0, 1, 1.5, 5.0, 5, "", "a", "ab", "aB", "5", "true", "Ä")
RARE = (
    -1,
    2**53,
    2**53 + 1,
    2**63 - 1,
    1e300,
    -0.0,
    "Ab*",
    "a?b",
    "[a]",
    "ä",
    "ß",
    "\u212a",
    "\U0001f600",
)
WIDE = (2**63, 2**70, -(2**63), -(2**70), "a\x00b", "z" * 5_000)

scalars: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from(COMMON), st.sampled_from(COMMON), st.sampled_from(RARE)
)
most_scalars: st.SearchStrategy[Any] = st.integers(0, 40).flatmap(
    lambda n: st.sampled_from(WIDE) if n == 40 else scalars
)
values: st.SearchStrategy[Any] = st.one_of(
    most_scalars,
    most_scalars,
    st.recursive(
        most_scalars,
        lambda below: st.one_of(
            st.lists(below, max_size=3), st.dictionaries(st.sampled_from(NAMES), below, max_size=2)
        ),
        max_leaves=5,
    ),
)
objects = st.fixed_dictionaries({}, optional=dict.fromkeys(NAMES, values))
features = st.fixed_dictionaries(
    {"properties": objects},
    optional={"definition": st.just(["x:y:1"]), "desiredProperties": objects},
)
documents: st.SearchStrategy[Any] = st.fixed_dictionaries(
    {"attributes": objects},
    optional={
        "definition": st.sampled_from(["x:y:1", "x:y:2"]),
        "features": st.fixed_dictionaries({}, optional=dict.fromkeys(FEATURES, features)),
    },
)

names = st.sampled_from(NAMES)
_attributes: st.SearchStrategy[tuple[str, ...]] = st.tuples(st.just("attributes"), names)
_paths: st.SearchStrategy[tuple[str, ...]] = st.one_of(
    _attributes,
    _attributes,
    st.tuples(st.just("attributes"), names, names),
    st.tuples(st.just("attributes"), st.just("*"), names),
    st.tuples(
        st.just("features"),
        st.sampled_from((*FEATURES, "*")),
        st.sampled_from(("properties", "properties", "desiredProperties", "*")),
        names,
    ),
    st.sampled_from(
        [
            ("attributes",),
            ("features", "motor"),
            ("features", "*"),
            ("features", "*", "definition"),
            ("definition",),
            ("policyId",),
            ("thingId",),
            ("thingId", "a"),
            ("namespace",),
            ("_namespace",),
            ("_revision",),
            ("_modified",),
            ("_created",),
            ("_metadata", "a"),
        ]
    ),
)
patterns = st.one_of(
    st.sampled_from(
        ["*", "a*", "*b", "?", "A?", "*a*b*", "[*", "Ä*", "K", "org.acme:*", "\ud800*", "a\x00*"]
    ),
)
literals: st.SearchStrategy[Literal] = st.one_of(
    scalars,
    st.sampled_from(
        ["org.acme:t1", "org.acme", "x:y:1", "\ud800", "2026-01-02T00:00:00.000000Z", 2, 3]
    ),
)


def _property(path: tuple[str, ...]) -> Property:
    return Property("/".join(path), path)


properties = _paths.map(_property)
comparisons: st.SearchStrategy[Node] = st.one_of(
    st.builds(
        lambda op, wanted, value: Comparison(op, wanted, (value,)),
        st.sampled_from(("eq", "ne", "gt", "ge", "lt", "le")),
        properties,
        literals,
    ),
    st.builds(
        lambda op, wanted, value: Comparison(op, wanted, (value,)),
        st.sampled_from(("like", "ilike")),
        properties,
        patterns,
    ),
    st.builds(
        lambda wanted, some: Comparison("in", wanted, tuple(some)),
        properties,
        st.lists(literals, min_size=1, max_size=3),
    ),
    st.builds(Comparison, st.sampled_from(("exists", "empty")), properties),
)
nodes: st.SearchStrategy[Node] = st.recursive(
    comparisons,
    lambda below: st.one_of(
        below.map(lambda one: Logical("not", (one,))),
        st.builds(
            lambda op, some: Logical(op, tuple(some)),
            st.sampled_from(("and", "or")),
            st.lists(below, min_size=1, max_size=3),
        ),
    ),
    max_leaves=5,
)
