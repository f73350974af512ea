"""Documents, filters and sort orders for the tests of searching, made so that they meet often."""

from __future__ import annotations

from random import Random
from typing import Any

from hypothesis import strategies as st

from gateway.twin.rql import Comparison, Literal, Logical, Node, Property, TimeValue

NAMES = ("a", "b", "x/y~")
FEATURES = ("motor", "m/1")
COMMON = (
    None,
    False,
    True,
    0,
    1,
    1.5,
    5.0,
    5,
    "",
    "a",
    "ab",
    "aB",
    "5",
    "true",
    "Ä",
    "2026-03-31T00:00:00Z",
)
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
    "\uffff",
    "e\u0301",
    "\u00e9",
    "2026-02-28T00:00:00Z",
    1_774_915_200_000,
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
        "_metadata": st.fixed_dictionaries({"attributes": objects}),
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
            ("_metadata", "attributes", "a"),
            ("_metadata", "attributes", "*"),
        ]
    ),
)
patterns = st.one_of(
    st.sampled_from(
        ["*", "a*", "*b", "?", "A?", "*a*b*", "[*", "Ä*", "K", "org.acme:*", "\ud800*", "a\x00*"]
    ),
)
times: st.SearchStrategy[Literal] = st.builds(
    TimeValue,
    st.booleans(),
    st.integers(-400, 400),
    st.sampled_from(("ms", "s", "m", "h", "d", "w", "mo", "y")),
    st.sampled_from((None, "ms", "s", "m", "h", "d", "w", "mo", "y")),
)
literals: st.SearchStrategy[Literal] = st.one_of(
    scalars,
    scalars,
    times,
    st.sampled_from(
        ["org.acme:t1", "org.acme", "x:y:1", "\ud800", "2026-01-02T00:00:00.000000Z", 2, 3]
    ),
)


def _property(path: tuple[str, ...]) -> Property:
    return Property("/".join(name.replace("~", "~0").replace("/", "~1") for name in path), path)


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


# --- as texts ----------------------------------------------------------------------------------


def filter_text(node: Node) -> str:
    """A tree as a caller writes it."""
    if isinstance(node, Logical):
        return f"{node.op}({','.join(map(filter_text, node.operands))})"
    pointer = "/".join(name.replace("~", "~0").replace("/", "~1") for name in node.property.pointer)
    return f"{node.op}({','.join([pointer, *map(_literal_text, node.values)])})"


def _literal_text(value: Literal) -> str:
    if isinstance(value, str):
        text = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(map(_character, text)) + '"'
    if isinstance(value, TimeValue):
        return _time_text(value)
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    return format(value, "f") if isinstance(value, float) else str(value)


def _time_text(value: TimeValue) -> str:
    name = "time:now_epoch_millis" if value.is_millis else "time:now"
    return f"{name}{value.amount:+}{value.unit}" + (f"[{value.truncate}]" if value.truncate else "")


def _character(one: str) -> str:
    """Half a pair of surrogates cannot be sent, but escaped."""
    return f"\\u{ord(one):04x}" if 0xD800 <= ord(one) < 0xE000 else one


# --- policies ----------------------------------------------------------------------------------

SUBJECTS = ("test:me", "test:us", "test:them")
_places = st.sampled_from(
    ["thing:/", "thing:/attributes", "thing:/attributes/a", "thing:/features/motor", "policy:/"]
)
_rights = st.sampled_from([{"grant": ["READ"], "revoke": []}, {"grant": [], "revoke": ["READ"]}])
entries: st.SearchStrategy[Any] = st.fixed_dictionaries(
    {
        "subjects": st.dictionaries(
            st.sampled_from(SUBJECTS),
            st.sampled_from([{"type": "x"}, {"type": "x", "expiry": "2020-01-01T00:00:00Z"}]),
            max_size=2,
        ),
        "resources": st.dictionaries(
            _places, st.one_of(st.just({"grant": ["READ"], "revoke": []}), _rights), max_size=3
        ),
        "importable": st.just("implicit"),
    },
    optional={"namespaces": st.sampled_from([["org.acme"], ["org.other"]])},
)
policies: st.SearchStrategy[Any] = st.fixed_dictionaries(
    {"entries": st.fixed_dictionaries({"one": entries}, optional={"two": entries})},
    optional={"imports": st.just({"org.acme:p0": {}})},
)


# --- dense samples: few values, so that most filters find some and not all -----------------------


def dense_document(dice: Random) -> Any:
    attributes: dict[str, Any] = {name: dice.randrange(3) for name in "abc" if dice.random() < 0.8}
    if dice.random() < 0.3:
        attributes["a"] = dice.choice([[0, 1], "a", None, {"b": 1}, [{"b": 2}], True])
    feature = {"properties": {"a": dice.randrange(3)}}
    document = {"attributes": attributes, "features": {dice.choice(FEATURES): feature}}
    if dice.random() < 0.5:
        document["_metadata"] = {"attributes": {dice.choice("ab"): dice.randrange(3)}}
    return document


def dense_policy(dice: Random) -> Any:
    places = ["/", "/attributes", "/attributes/a", "/attributes/b", "/features/motor"]
    says = []
    for _ in range(2):
        subjects = dice.sample(SUBJECTS, dice.randint(1, 2))
        resources = {"thing:/": READ} if dice.random() < 0.6 else {}
        for place in dice.sample(places, dice.randint(0, 2)):
            resources[f"thing:{place}"] = dice.choice((READ, NOT_READ, NOT_READ))
        says.append(
            {"subjects": {name: {"type": "x"} for name in subjects}, "resources": resources}
        )
    found: Any = {"entries": {"one": says[0], "two": says[1]}}
    if dice.random() < 0.2:
        found["imports"] = {"org.acme:p0": {}}
    return found


READ: Any = {"grant": ["READ"], "revoke": []}
NOT_READ: Any = {"grant": [], "revoke": ["READ"]}


_DENSE_PATHS: Any = [
    ("_metadata", "attributes", "a"),
    ("attributes", "a"),
    ("attributes", "b"),
    ("attributes", "a", "b"),
    ("attributes",),
    ("features", "*", "properties", "a"),
    ("features", "motor", "properties", "a"),
]


def dense_node(dice: Random, depth: int = 2) -> Node:
    if depth and dice.random() < 0.5:
        op = dice.choice(("and", "or", "not"))
        count = 1 if op == "not" else 2
        return Logical(op, tuple(dense_node(dice, depth - 1) for _ in range(count)))
    path = dice.choice(_DENSE_PATHS)
    op = dice.choice(("eq", "ne", "gt", "le", "in", "exists", "empty"))
    if op in ("exists", "empty"):
        return Comparison(op, _property(path))
    return Comparison(op, _property(path), (dice.randrange(3),))
