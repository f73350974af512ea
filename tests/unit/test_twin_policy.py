"""Policies: who may do what, what they see, and the form of a policy."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.model.json import Json, JsonObject, format_pointer, parse_pointer
from gateway.model.policy import parse_policy_path
from gateway.twin.documents import MISSING, get, same
from gateway.twin.policy import READ, WRITE, Enforcer, Entry, build_enforcer
from gateway.twin.policy_form import Caller, default_policy, policy_document

NOW = "2026-01-01T00:00:00.000000Z"
ME = ("nginx:me",)


def an_enforcer(*entries: JsonObject, imported: dict[str, JsonObject] | None = None) -> Enforcer:
    document: JsonObject = {"entries": {f"e{n}": entry for n, entry in enumerate(entries)}}
    return build_enforcer(document, imported or {})


def an_entry(
    resources: dict[str, tuple[str, str]], subject: str = "nginx:me", **more: Json
) -> JsonObject:
    letters = {"R": "READ", "W": "WRITE", "E": "EXECUTE"}
    return {
        "subjects": {subject: {"type": "x"}},
        "resources": {
            key: {
                "grant": [letters[one] for one in grant],
                "revoke": [letters[one] for one in revoke],
            }
            for key, (grant, revoke) in resources.items()
        },
        **more,
    }


PUMP = an_entry(
    {
        "thing:/": ("RW", ""),
        "thing:/attributes/secret": ("", "R"),
        "thing:/attributes/secret/open": ("R", ""),
        "thing:/features": ("", "W"),
        "thing:/features/lamp": ("W", ""),
        "message:/": ("RW", ""),
        "message:/inbox/messages/stop": ("", "W"),
    }
)


@pytest.mark.parametrize(
    ("path", "mask", "unrestricted", "partial"),
    [
        ("/", READ, False, True),
        ("/attributes", READ, False, True),
        ("/attributes/a", READ, True, True),
        ("/attributes/secret", READ, False, True),
        ("/attributes/secret/x", READ, False, False),
        ("/attributes/secret/open", READ, True, True),
        ("/attributes/secret/open/deep", READ, True, True),
        ("/attributes", WRITE, True, True),
        ("/", WRITE, False, True),
        ("/features", WRITE, False, True),
        ("/features/motor", WRITE, False, False),
        ("/features/lamp/properties/on", WRITE, True, True),
    ],
)
def test_the_deepest_say_counts(path: str, mask: int, unrestricted: bool, partial: bool) -> None:
    mine = an_enforcer(PUMP).permissions(ME, "", NOW)
    assert mine.unrestricted("thing", parse_pointer(path), mask) is unrestricted
    assert mine.partial("thing", parse_pointer(path), mask) is partial


def test_on_one_node_revoke_wins_over_grant_of_any_subject() -> None:
    enforcer = an_enforcer(
        an_entry({"thing:/": ("R", "")}), an_entry({"thing:/": ("", "R")}, subject="nginx:other")
    )
    assert enforcer.permissions(ME, "", NOW).unrestricted("thing", (), READ)
    pooled = enforcer.permissions(("nginx:me", "nginx:other"), "", NOW)
    assert not pooled.partial("thing", (), READ)


def test_kinds_of_resources_are_apart() -> None:
    mine = an_enforcer(PUMP).permissions(ME, "", NOW)
    assert mine.unrestricted("message", ("inbox", "messages", "go"), WRITE)
    assert not mine.unrestricted("message", ("inbox", "messages", "stop"), WRITE)
    assert not mine.partial("policy", (), READ)


def test_an_expired_subject_counts_no_more() -> None:
    entry = an_entry({"thing:/": ("R", "")})
    entry["subjects"] = {"nginx:me": {"type": "x", "expiry": "2026-06-01T00:00:00Z"}}
    enforcer = an_enforcer(entry)
    before = enforcer.permissions(ME, "", NOW)
    assert before.unrestricted("thing", (), READ)
    assert before.valid_until == "2026-06-01T00:00:00.000000Z"
    after = enforcer.permissions(ME, "", "2026-06-01T00:00:01.000000Z")
    assert not after.partial("thing", (), READ)


def test_an_entry_may_count_for_some_namespaces_only() -> None:
    enforcer = an_enforcer(an_entry({"thing:/": ("R", "")}, namespaces=["org.acme", "com.x.*"]))
    seen = {
        namespace: enforcer.permissions(ME, namespace, NOW).partial("thing", (), READ)
        for namespace in ("org.acme", "org.acme.sub", "com.x", "com.x.y", "com.xy")
    }
    assert seen == {
        "org.acme": True,
        "org.acme.sub": False,
        "com.x": False,
        "com.x.y": True,
        "com.xy": False,
    }


@pytest.mark.parametrize(
    ("how", "listed", "expected"),
    [
        ("implicit", [], True),
        ("explicit", [], False),
        ("explicit", ["e0"], True),
        ("never", ["e0"], False),
    ],
)
def test_imported_entries_come_as_they_allow(how: str, listed: list[Json], expected: bool) -> None:
    base: JsonObject = {"entries": {"e0": an_entry({"thing:/": ("R", "")}, importable=how)}}
    document: JsonObject = {"entries": {}, "imports": {"a:base": {"entries": listed}, "a:gone": {}}}
    enforcer = build_enforcer(document, {"a:base": base})
    assert enforcer.permissions(ME, "", NOW).partial("thing", (), READ) is expected


def test_the_view_keeps_what_may_be_read() -> None:
    mine = an_enforcer(PUMP).permissions(ME, "", NOW)
    document: JsonObject = {
        "attributes": {"a": 1, "secret": {"x": 1, "open": 2}},
        "features": {"motor": {"properties": {"rpm": 1}}},
    }
    seen = mine.view((), document)
    assert isinstance(seen, dict)
    assert seen["attributes"] == {"a": 1, "secret": {"open": 2}}
    assert seen["features"] is document["features"]
    assert mine.view(("attributes", "secret"), {"x": 1}) is MISSING
    assert mine.view(("attributes", "secret"), [1]) is MISSING


SEGMENTS = st.lists(st.sampled_from("abc"), max_size=3).map(tuple)
RULES = st.lists(st.tuples(SEGMENTS, st.booleans(), st.booleans()), max_size=6)
TREES = st.recursive(
    st.integers(0, 3),
    lambda below: st.dictionaries(st.sampled_from("abc"), below, max_size=3),
    max_leaves=10,
)


def oracle(rules: list[Any], path: tuple[str, ...]) -> bool:
    """Reference 7.2, literally: the deepest grant is strictly deeper than the deepest revoke."""
    above = [rule for rule in rules if path[: len(rule[0])] == rule[0]]
    grants = [len(found) for found, grant, _ in above if grant]
    revokes = [len(found) for found, _, revoke in above if revoke]
    return bool(grants) and max(grants) > max(revokes, default=-1)


def an_enforcer_of(rules: list[Any]) -> Enforcer:
    resources = tuple(
        ("thing", path, READ if grant else 0, READ if revoke else 0)
        for path, grant, revoke in rules
    )
    return Enforcer([Entry("e", {"nginx:me": None}, resources)])


@given(RULES, SEGMENTS)
def test_permissions_are_what_the_reference_says(rules: list[Any], path: tuple[str, ...]) -> None:
    mine = an_enforcer_of(rules).permissions(ME, "", NOW)
    below = [rule[0] for rule in rules if len(rule[0]) > len(path) and rule[0][: len(path)] == path]
    revoked_below = any(r[2] for r in rules if r[0] in below)
    assert mine.unrestricted("thing", path, READ) is (oracle(rules, path) and not revoked_below)
    expected = oracle(rules, path) or any(oracle(rules, found) for found in below)
    assert mine.partial("thing", path, READ) is expected


def leaves(value: Json, at: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(value, dict):
        return [at]
    return [leaf for key, below in value.items() for leaf in leaves(below, (*at, key))]


@given(RULES, TREES)
@settings(max_examples=200)
def test_the_view_has_exactly_the_leaves_that_may_be_read(rules: list[Any], tree: Json) -> None:
    mine = an_enforcer_of(rules).permissions(ME, "", NOW)
    seen = mine.view((), tree)
    kept = [] if seen is MISSING else leaves(seen)
    wanted = [leaf for leaf in leaves(tree) if oracle(rules, leaf)]
    assert kept == wanted
    for leaf in kept:
        one, other = get(seen, leaf), get(tree, leaf)  # type: ignore[arg-type]
        assert one is not MISSING
        assert other is not MISSING
        assert same(one, other)


# --- form --------------------------------------------------------------------------------------

CALLER = Caller("a:b", "nginx:me", NOW)


def with_entry(**members: Json) -> JsonObject:
    return {"entries": {"owner": members}}


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ([], "json.invalid"),
        ({}, "json.field.missing"),
        ({"policyId": "a:c", "entries": {}}, "policies:id.notsettable"),
        ({"entries": {"imported-x": {}}}, "policies:label.invalid"),
        ({"entries": {"a/b": {}}}, "policies:label.invalid"),
        (with_entry(subjects={"nosubject": {}}), "policies:subjectid.invalid"),
        (with_entry(subjects={"a:b": {"expiry": "yesterday"}}), "policies:subjectexpiry.invalid"),
        (
            with_entry(subjects={"a:b": {"expiry": "2025-01-01T00:00:00Z"}}),
            "policies:subjectexpiry.invalid",
        ),
        (with_entry(resources={"attributes": {}}), "policies:entry.invalid"),
        (with_entry(resources={"thing:x": {}}), "policies:entry.invalid"),
        (with_entry(resources={"thing://": {}}), "json.pointer.invalid"),
        (with_entry(resources={"thing:/": {"grant": ["ADMIN"]}}), "policies:entry.invalid"),
        (with_entry(importable="sometimes"), "policies:entry.invalid"),
        (with_entry(namespaces="a"), "policies:entry.invalid"),
        (with_entry(namespaces=["*"]), "policies:entry.invalid"),
        (with_entry(references={"entry": "x"}), "policies:entry.invalid"),
        (with_entry(references=[{"import": "a:c"}]), "policies:entry.invalid"),
        (with_entry(references=[{"import": "c", "entry": "x"}]), "policies:id.invalid"),
        (with_entry(references=[42]), "policies:entry.invalid"),
        (with_entry(allowedAdditions=["labels"]), "policies:entry.invalid"),
        (
            {"entries": {}, "imports": {"a:c": {"transitiveImports": ["a:b"]}}},
            "policies:import.invalid",
        ),
        (
            {"entries": {}, "imports": {"a:c": {"transitiveImports": "x"}}},
            "policies:import.invalid",
        ),
        ({"entries": {}, "imports": {"a:b": {}}}, "policies:import.invalid"),
        ({"entries": {}, "imports": {"x": {}}}, "policies:id.invalid"),
    ],
)
def test_a_policy_with_bad_form_is_refused(value: Json, code: str) -> None:
    with pytest.raises(GatewayError) as caught:
        policy_document(CALLER, value)
    assert caught.value.code == code


def test_optional_members_are_filled_in_and_placeholders_resolved() -> None:
    found = policy_document(
        CALLER,
        with_entry(
            subjects={"{{ request:subjectId }}": {}},
            resources={"thing:/": {"grant": ["READ", "READ"]}},
        ),
    )
    assert found == {
        "entries": {
            "owner": {
                "subjects": {"nginx:me": {"type": "unknown"}},
                "resources": {"thing:/": {"grant": ["READ"], "revoke": []}},
                "importable": "implicit",
            }
        }
    }


def test_the_default_policy_has_a_permanent_writer() -> None:
    assert build_enforcer(default_policy("nginx:me"), {}).has_permanent_writer()
    assert not an_enforcer(an_entry({"thing:/": ("RW", "")})).has_permanent_writer()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/", ()),
        ("/entries/a", ("entries", "a")),
        ("entries/a/resources/thing:/", ("entries", "a", "resources", "thing:/")),
        (
            "/entries/a/resources/thing:/features/x",
            ("entries", "a", "resources", "thing:/features/x"),
        ),
        ("/entries/a/subjects/x:y/z", ("entries", "a", "subjects", "x:y/z")),
        ("/imports/a:b/entries", ("imports", "a:b", "entries")),
    ],
)
def test_a_resource_key_is_one_segment_of_a_policy_path(text: str, expected: Any) -> None:
    assert parse_policy_path(text) == expected


def test_pointers_are_written_as_they_are_read() -> None:
    for text in ("/", "/a/b", "/a~1b/c~0d"):
        assert format_pointer(parse_pointer(text)) == text
