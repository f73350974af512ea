"""References, imports, imports of imports and root policies: what a policy says all told."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.model.json import Json, JsonObject
from gateway.twin.policy import (
    EVERYTHING,
    READ,
    WRITE,
    Enforcer,
    Permissions,
    build_enforcer,
    namespace_matches,
)
from gateway.twin.policy_references import check_references
from gateway.twin.policy_resolution import (
    MAX_RESOLVED,
    members,
    resolved_document,
    resolved_entries,
)

NOW = "2026-01-01T00:00:00.000000Z"
ME = ("nginx:me",)


def an_entry(*subjects: str, grant: str = "", revoke: str = "", **more: Json) -> JsonObject:
    """An entry; `grant` and `revoke` are resource keys with READ, separated by blanks."""
    resources: JsonObject = {}
    for name, keys in (("grant", grant), ("revoke", revoke)):
        for key in keys.split():
            one = resources.setdefault(key, {"grant": [], "revoke": []})
            one[name] = ["READ"]  # type: ignore[index, call-overload]
    return {
        "subjects": {subject: {"type": "x"} for subject in subjects},
        "resources": resources,
        **more,
    }


def a_policy(imports: JsonObject | None = None, **entries: JsonObject) -> JsonObject:
    document: JsonObject = {"entries": dict(entries)}
    return {**document, "imports": imports} if imports else document


def refers(*targets: str) -> list[Json]:
    """`label` of the same policy, `a:base/label` of an imported one."""
    found: list[Json] = []
    for target in targets:
        policy_id, slash, label = target.rpartition("/")
        found.append({"import": policy_id, "entry": label} if slash else {"entry": label})
    return found


def may(enforcer: Enforcer, key: str, subject: str = "nginx:me", namespace: str = "") -> bool:
    kind, _, path = key.partition(":/")
    pointer = tuple(segment for segment in path.split("/") if segment)
    return enforcer.permissions((subject,), namespace, NOW).unrestricted(kind, pointer, READ)


# --- references --------------------------------------------------------------------------------


def test_a_reference_brings_subjects_resources_and_namespaces() -> None:
    document = a_policy(
        mine=an_entry(
            "nginx:me", grant="thing:/a", namespaces=["n.a"], references=refers("shared")
        ),
        shared=an_entry("nginx:you", grant="thing:/b", revoke="thing:/b/c", namespaces=["n.b"]),
    )
    (_, mine), _ = resolved_entries(document, {})
    assert mine == {
        "subjects": {"nginx:you": {"type": "x"}, "nginx:me": {"type": "x"}},
        "resources": {
            "thing:/a": {"grant": ["READ"], "revoke": []},
            "thing:/b": {"grant": ["READ"], "revoke": []},
            "thing:/b/c": {"grant": [], "revoke": ["READ"]},
        },
        "namespaces": ["n.a", "n.b"],
    }


def test_grants_and_revokes_of_one_resource_are_joined() -> None:
    document = a_policy(
        mine=an_entry("nginx:me", grant="thing:/a", references=refers("shared")),
        shared=an_entry(revoke="thing:/a"),
    )
    assert not may(build_enforcer(document, {}), "thing:/a")


def test_of_one_subject_the_first_reference_counts_with_its_expiry() -> None:
    ends: JsonObject = {"type": "x", "expiry": "2025-01-01T00:00:00Z"}
    document = a_policy(
        mine=an_entry("nginx:me", grant="thing:/a", references=refers("first", "second")),
        first={"subjects": {"nginx:me": ends}, "resources": {}},
        second=an_entry("nginx:me"),
    )
    assert not may(build_enforcer(document, {}), "thing:/a")


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [
        (None, {"subjects", "resources", "namespaces"}),
        ([], set()),
        (["subjects"], {"subjects"}),
        (["resources", "namespaces"], {"resources", "namespaces"}),
    ],
)
def test_own_members_count_as_far_as_the_referenced_entry_allows(
    allowed: list[str] | None, expected: set[str]
) -> None:
    more: JsonObject = {} if allowed is None else {"allowedAdditions": list[Json](allowed)}
    document = a_policy(
        mine=an_entry("nginx:me", grant="thing:/mine", namespaces=["m"], references=refers("base")),
        base={**an_entry("nginx:base", grant="thing:/base"), **more},
    )
    mine = resolved_entries(document, {})[0][1]
    kept = {
        "subjects": "nginx:me" in mine["subjects"],  # type: ignore[operator]
        "resources": "thing:/mine" in mine["resources"],  # type: ignore[operator]
        "namespaces": mine.get("namespaces") == ["m"],
    }
    assert {name for name, is_there in kept.items() if is_there} == expected
    assert "nginx:base" in mine["subjects"]  # type: ignore[operator]


def test_of_several_referenced_entries_the_strictest_allows() -> None:
    document = a_policy(
        mine=an_entry("nginx:me", grant="thing:/mine", references=refers("one", "two")),
        one=an_entry(allowedAdditions=["subjects", "resources"]),
        two=an_entry(allowedAdditions=["subjects"], grant="thing:/two"),
    )
    enforcer = build_enforcer(document, {})
    assert may(enforcer, "thing:/two")
    assert not may(enforcer, "thing:/mine")


def test_references_are_followed_one_step_and_may_go_in_a_ring() -> None:
    document = a_policy(
        a=an_entry("nginx:a", grant="thing:/a", references=refers("b")),
        b=an_entry("nginx:b", grant="thing:/b", references=refers("c")),
        c=an_entry("nginx:c", grant="thing:/c"),
    )
    enforcer = build_enforcer(document, {})
    assert may(enforcer, "thing:/b", "nginx:a")
    assert not may(enforcer, "thing:/c", "nginx:a")
    ring = a_policy(
        a=an_entry("nginx:a", references=refers("b")),
        b=an_entry("nginx:b", grant="thing:/b", references=refers("a")),
    )
    assert may(build_enforcer(ring, {}), "thing:/b", "nginx:a")


def test_an_entry_that_is_never_shared_is_not_inherited_from() -> None:
    document = a_policy(
        mine=an_entry("nginx:me", references=refers("secret")),
        secret=an_entry(grant="thing:/", importable="never"),
    )
    assert not may(build_enforcer(document, {}), "thing:/")


@pytest.mark.parametrize(
    ("references", "code"),
    [
        (refers("other"), None),
        (refers("a:base/any"), None),
        (refers("mine"), "policies:entry.invalid"),
        (refers("nobody"), "policies:entry.invalid"),
        (refers("secret"), "policies:entry.invalid"),
        (refers("a:foreign/any"), "policies:policy.notfound"),
        (refers("a:base/later"), "policies:import.invalid"),
        (refers("a:base/secret"), "policies:import.invalid"),
    ],
)
def test_references_that_lead_nowhere_are_refused(references: list[Json], code: str | None) -> None:
    def reads_all(policy_id: str) -> Permissions | None:
        return EVERYTHING if policy_id == "a:base" else None

    document = a_policy(
        {"a:base": {}},
        mine=an_entry(references=references),
        other=an_entry(),
        secret=an_entry(importable="never"),
    )
    base = a_policy(any=an_entry(), secret=an_entry(importable="never"))
    if code is None:
        check_references(document, {"a:base": base}, reads_all)
        return
    with pytest.raises(GatewayError) as caught:
        check_references(document, {"a:base": base}, reads_all)
    assert caught.value.code == code


# --- imports -----------------------------------------------------------------------------------

TEMPLATE = a_policy(driver=an_entry(grant="thing:/fuel", allowedAdditions=["subjects"]))
FLEET = a_policy(
    {"a:template": {}},
    driver=an_entry("nginx:alice", references=refers("a:template/driver")),
)


def test_an_imported_entry_can_be_referred_to() -> None:
    document = a_policy(
        {"a:template": {}},
        driver=an_entry("nginx:me", grant="thing:/oil", references=refers("a:template/driver")),
    )
    enforcer = build_enforcer(document, {"a:template": TEMPLATE})
    assert may(enforcer, "thing:/fuel")
    assert not may(enforcer, "thing:/oil")


@pytest.mark.parametrize(("opened", "expected"), [(["a:template"], True), ([], False)])
def test_imports_of_imports_count_where_the_importer_lists_them(
    opened: list[Json], expected: bool
) -> None:
    document = a_policy(
        {"a:fleet": {"transitiveImports": opened}},
        driver=an_entry("nginx:me", references=refers("a:fleet/driver")),
    )
    enforcer = build_enforcer(document, {"a:fleet": FLEET, "a:template": TEMPLATE})
    assert may(enforcer, "thing:/fuel") is expected
    assert may(enforcer, "thing:/fuel", "nginx:alice") is expected


def test_labels_of_the_resolved_view_name_the_policy_that_was_imported() -> None:
    document = a_policy({"a:fleet": {"transitiveImports": ["a:template"]}}, own=an_entry())
    roots = {"a:root": a_policy({"a:template": {}}, tenant=an_entry(), own=an_entry())}
    docs = {"a:fleet": FLEET, "a:template": TEMPLATE}
    found = resolved_document(document, docs, roots)["entries"]
    assert list(found) == [  # type: ignore[arg-type]
        "own",
        "imported-a:fleet-driver",
        "imported-a:fleet-imported-a:template-driver",
        "nsimported-a:root-tenant",
        "nsimported-a:root-own",
        "nsimported-a:root-imported-a:template-driver",
    ]


def test_a_resolved_view_shows_nothing_that_is_hidden_where_it_was_written() -> None:
    document = a_policy(
        {"a:fleet": {"transitiveImports": ["a:template"]}},
        own=an_entry("nginx:me", references=refers("a:fleet/driver", "base")),
        base=an_entry("nginx:base"),
    )
    docs = {"a:fleet": FLEET, "a:template": TEMPLATE}

    def entries(*hidden: tuple[str, str]) -> JsonObject:
        found = resolved_document(document, docs, {}, "a:mine", lambda *at: at not in hidden)
        return members(found["entries"])

    whole = entries()
    assert {*members(members(whole["own"])["subjects"])} == {
        "nginx:me",
        "nginx:base",
        "nginx:alice",
    }
    taken = ("own", "imported-a:fleet-driver", "imported-a:fleet-imported-a:template-driver")
    assert {*whole} == {*taken, "base"}
    written = members(document["entries"])["own"]
    assert entries(("a:template", "driver")) == {"own": written, "base": whole["base"]}
    for hidden in (("a:fleet", "driver"), ("a:mine", "base")):
        assert entries(hidden)["own"] == written


def test_an_own_entry_does_not_take_the_place_of_a_root_policys() -> None:
    roots = {"a:root": a_policy(tenant=an_entry("nginx:me", revoke="thing:/a"))}
    document = a_policy(tenant=an_entry("nginx:me", grant="thing:/"))
    enforcer = build_enforcer(document, {}, roots, "a:mine")
    assert may(enforcer, "thing:/b")
    assert not may(enforcer, "thing:/a")


def test_policies_that_import_each_other_come_to_an_end() -> None:
    ring = {
        f"a:{n}": a_policy(
            {f"a:{(n + 1) % 3}": {"transitiveImports": [f"a:{m}" for m in range(3)]}},
            **{f"e{n}": an_entry("nginx:me", grant=f"thing:/{n}")},
        )
        for n in range(3)
    }
    enforcer = build_enforcer(ring["a:0"], ring, policy_id="a:0")
    assert [may(enforcer, f"thing:/{n}") for n in range(3)] == [True, True, True]
    assert len(enforcer.entries) == 3


def test_a_web_of_imports_costs_a_bounded_amount_of_work() -> None:
    names = [[f"a:{layer}.{n}" for n in range(10)] for layer in range(10)]
    asked: list[str] = []

    class Counting(dict[str, JsonObject]):
        def get(self, policy_id: str, default: Any = None, /) -> Any:
            asked.append(policy_id)
            return super().get(policy_id, default)

    web = Counting()
    for layer in range(9):
        below: list[Json] = [*names[layer + 1]]
        deeper: list[Json] = [*names[layer + 2]] if layer < 8 else []
        imports = {str(name): {"transitiveImports": deeper} for name in below}
        for name in names[layer]:
            web[name] = a_policy(imports, e=an_entry())  # type: ignore[arg-type]
    resolved_entries(web["a:0.0"], web)
    assert len(asked) <= MAX_RESOLVED


def test_root_policies_lend_their_implicit_entries_beside_own_ones() -> None:
    document = a_policy(guest=an_entry("nginx:guest", grant="thing:/own"))
    root = a_policy(
        guest=an_entry("nginx:guest", grant="thing:/root"),
        tenant=an_entry("nginx:me", grant="thing:/root"),
        listed=an_entry("nginx:me", grant="thing:/listed", importable="explicit"),
    )
    enforcer = build_enforcer(document, {}, {"a:root": root}, "a:p")
    assert may(enforcer, "thing:/root")
    assert may(enforcer, "thing:/root", "nginx:guest")
    assert not may(enforcer, "thing:/listed")
    itself = build_enforcer(document, {}, {"a:p": root}, "a:p")
    assert not may(itself, "thing:/root")


@pytest.mark.parametrize(
    ("pattern", "namespace", "expected"),
    [
        ("*", "org.acme", True),
        ("org.acme", "org.acme", True),
        ("org.acme.*", "org.acme", False),
        ("org.acme.*", "org.acme.x.y", True),
        ("org.acme.*", "org.acmex", False),
    ],
)
def test_patterns_of_namespaces(pattern: str, namespace: str, expected: bool) -> None:
    assert namespace_matches(pattern, namespace) is expected


# --- equivalence -------------------------------------------------------------------------------

SUBJECTS = ("nginx:me", "nginx:you")
KEYS = ("thing:/", "thing:/a", "thing:/a/b", "policy:/", "message:/a")
LABELS = ("x", "y", "z")
POLICIES = ("a:1", "a:2", "a:3")

NODES = st.fixed_dictionaries(
    {
        name: st.lists(st.sampled_from(("READ", "WRITE")), unique=True, max_size=2)
        for name in ("grant", "revoke")
    }
)
ENTRIES = st.fixed_dictionaries(
    {
        "subjects": st.dictionaries(st.sampled_from(SUBJECTS), st.just({"type": "x"}), max_size=2),
        "resources": st.dictionaries(st.sampled_from(KEYS), NODES, max_size=3),
        "importable": st.sampled_from(("implicit", "explicit", "never")),
    },
    optional={
        "namespaces": st.lists(st.sampled_from(("n.a", "n.*")), max_size=2),
        "allowedAdditions": st.lists(
            st.sampled_from(("subjects", "resources", "namespaces")), unique=True, max_size=2
        ),
        "references": st.lists(
            st.fixed_dictionaries(
                {"entry": st.sampled_from(LABELS)}, optional={"import": st.sampled_from(POLICIES)}
            ),
            max_size=2,
        ),
    },
)
DOCUMENTS = st.fixed_dictionaries(
    {"entries": st.dictionaries(st.sampled_from(LABELS), ENTRIES, max_size=3)},
    optional={
        "imports": st.dictionaries(
            st.sampled_from(POLICIES),
            st.fixed_dictionaries(
                {},
                optional={
                    "entries": st.lists(st.sampled_from(LABELS), max_size=2),
                    "transitiveImports": st.lists(st.sampled_from(POLICIES), max_size=2),
                },
            ),
            max_size=2,
        )
    },
)


def literally(document: JsonObject, docs: dict[str, JsonObject]) -> list[JsonObject]:
    """The entries that count, written from the reference's words alone."""
    own = _literal_own(
        document, {p: _literal_import(p, b, docs, []) for p, b in _imports(document)}
    )
    brought = [
        entry
        for policy_id, body in _imports(document)
        for _, entry in _literal_import(policy_id, body, docs, [])
    ]
    return [entry for _, entry in own] + brought


def _imports(document: Any) -> list[tuple[str, Any]]:
    return list(document.get("imports", {}).items())


def _literal_import(policy_id: str, body: Any, docs: Any, seen: list[str]) -> list[tuple[str, Any]]:
    document = docs.get(policy_id)
    if document is None:
        return []
    opened = [name for name in body.get("transitiveImports", []) if name not in seen]
    below = {
        name: _literal_import(name, inner, docs, [*seen, *opened])
        for name, inner in _imports(document)
        if name in opened
    }
    entries = _literal_own(document, below) + [one for found in below.values() for one in found]
    return [
        (label, entry)
        for label, entry in entries
        if entry["importable"] == "implicit"
        or (entry["importable"] == "explicit" and label in body.get("entries", []))
    ]


def _literal_own(document: Any, visible: Any) -> list[tuple[str, Any]]:
    found = []
    for label, entry in document["entries"].items():
        targets = []
        for reference in entry.get("references", []):
            if "import" in reference:
                pool = visible.get(reference["import"], [])
                targets += [body for name, body in pool if name == reference["entry"]]
            elif reference["entry"] != label and reference["entry"] in document["entries"]:
                targets.append(document["entries"][reference["entry"]])
        targets = [one for one in targets if one["importable"] != "never"]
        found.append((label, _literal_merge(entry, targets)))
    return found


def _literal_merge(entry: Any, targets: list[Any]) -> Any:
    sets = [set(one["allowedAdditions"]) for one in targets if "allowedAdditions" in one]
    allowed = set.intersection({"subjects", "resources", "namespaces"}, *sets)
    own = {
        "subjects": entry["subjects"] if "subjects" in allowed else {},
        "resources": entry["resources"] if "resources" in allowed else {},
        "namespaces": entry.get("namespaces", []) if "namespaces" in allowed else [],
    }
    merged: Any = {"subjects": {}, "resources": {}, "namespaces": []}
    for part in [own, *targets]:
        merged["subjects"].update(part["subjects"])
        merged["namespaces"] += part.get("namespaces", [])
        for key, node in part["resources"].items():
            before = merged["resources"].setdefault(key, {"grant": [], "revoke": []})
            merged["resources"][key] = {name: before[name] + node[name] for name in node}
    return {**entry, **merged}


@given(DOCUMENTS, st.dictionaries(st.sampled_from(POLICIES), DOCUMENTS, max_size=3))
@settings(max_examples=100)
def test_a_policy_is_judged_as_the_one_with_everything_written_out(
    document: JsonObject, docs: dict[str, JsonObject]
) -> None:
    flat: JsonObject = {
        "entries": {
            f"e{n}": {k: v for k, v in entry.items() if k != "references"}
            for n, entry in enumerate(literally(document, docs))
        }
    }
    one, other = build_enforcer(document, docs), build_enforcer(flat, {})
    for subjects in (*((subject,) for subject in SUBJECTS), SUBJECTS):
        for namespace in ("", "n.a", "n.b"):
            mine = one.permissions(subjects, namespace, NOW)
            flattened = other.permissions(subjects, namespace, NOW)
            for key in (*KEYS, "thing:/a/b/c", "thing:/x"):
                kind, _, path = key.partition(":/")
                pointer = tuple(part for part in path.split("/") if part)
                for mask in (READ, WRITE):
                    judged = (
                        mine.unrestricted(kind, pointer, mask),
                        mine.partial(kind, pointer, mask),
                    )
                    assert judged == (
                        flattened.unrestricted(kind, pointer, mask),
                        flattened.partial(kind, pointer, mask),
                    )
