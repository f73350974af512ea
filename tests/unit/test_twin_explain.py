"""Explanations: what they say is what happens, and what they name is what decided."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.model.json import JsonObject, Pointer, parse_pointer
from gateway.model.policy import Permission, Policy
from gateway.model.thing import Action, EventAction, Thing, ThingCommand, ThingEvent
from gateway.twin.authorization import authorize, authorize_message, may_receive, message_at
from gateway.twin.documents import get
from gateway.twin.explain import (
    Case,
    Explanation,
    Extent,
    Finding,
    NotCounted,
    Outcome,
    Question,
    Verdict,
    explain,
)
from gateway.twin.explain_json import explanation_json
from gateway.twin.policies import authorize_policy, policy_part_of
from gateway.twin.policy import MASKS, READ, Enforcer, Entry, build_enforcer
from gateway.twin.policy_resolution import resolve
from gateway.twin.resources import part_of
from gateway.twin.showing import reduced_event

NOW = "2026-01-01T00:00:00.000000Z"
MINE = "n.a:mine"
ROOT = "r:root"
POLICIES = ("n.a:1", "n.b:2")
SUBJECTS = ("nginx:me", "nginx:you")
LABELS = ("x", "y", "z")
KEYS = (
    "thing:/",
    "thing:/attributes",
    "thing:/attributes/a",
    "thing:/attributes/a/b",
    "thing:/features/m/properties",
    "policy:/",
    "policy:/entries/x",
    "message:/",
    "message:/inbox/messages/go",
)
PATHS = {
    "thing": ("/", "/attributes", "/attributes/a", "/attributes/a/b", "/attributes/c", "/features"),
    "policy": ("/", "/entries", "/entries/x", "/entries/y/actions/activateTokenIntegration"),
    "message": ("/", "/inbox/messages/go", "/outbox/messages/go", "/features/m/inbox/messages/x"),
}
QUESTIONS = st.sampled_from([(kind, path) for kind, paths in PATHS.items() for path in paths])

NAMES = st.lists(st.sampled_from(("READ", "WRITE", "EXECUTE")), unique=True, max_size=2)
NODES = st.fixed_dictionaries({"grant": NAMES, "revoke": NAMES})
LIFE = st.sampled_from(
    (
        {"type": "x"},
        {"type": "x"},
        {"type": "x", "expiry": "2027-01-01T00:00:00Z"},
        {"type": "x", "expiry": "2025-01-01T00:00:00Z"},
    )
)
ENTRIES = st.fixed_dictionaries(
    {
        "subjects": st.dictionaries(st.sampled_from(SUBJECTS), LIFE, max_size=2),
        "resources": st.dictionaries(st.sampled_from(KEYS), NODES, max_size=4),
        "importable": st.sampled_from(("implicit", "explicit", "never")),
    },
    optional={
        "namespaces": st.lists(st.sampled_from(("n.a", "n.*", "r")), max_size=2),
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
WORLDS = st.tuples(
    DOCUMENTS,
    st.dictionaries(st.sampled_from(POLICIES), DOCUMENTS, max_size=2),
    st.dictionaries(st.just(ROOT), DOCUMENTS, max_size=1),
)
ASKERS = st.sampled_from((("nginx:me",), ("nginx:you",), SUBJECTS, ("nginx:nobody",)))
THING = Thing(
    "n.a:pump",
    7,
    {"policyId": MINE, "attributes": {"a": {"b": 1, "c": 2}, "d": 3}, "features": {"m": {}}},
    NOW,
    NOW,
)

World = tuple[JsonObject, dict[str, JsonObject], dict[str, JsonObject]]


def a_case(world: World) -> Case:
    document, imported, roots = world
    enforcer = build_enforcer(document, imported, roots, MINE)
    return Case(THING, enforcer, Policy(MINE, 1, document, NOW, NOW), NOW)


def asked(case: Case, kind: str, path: str, subjects: tuple[str, ...]) -> Explanation:
    return explain(Question(subjects, kind, parse_pointer(path), tuple(Permission)), case)


def evidence(finding: Finding, kind: str) -> Enforcer:
    """An enforcer that knows nothing but what the finding names."""
    mask = MASKS[finding.permission]
    named = [*finding.decisive, *(one for turn in finding.turns for one in turn.by)]
    resources = tuple(
        (kind, one.path, mask if one.is_grant else 0, 0 if one.is_grant else mask) for one in named
    )
    return Enforcer([Entry("evidence", {"me": None}, resources)])


def judged(enforcer: Enforcer, asker: Any, kind: str, path: Pointer, mask: int) -> Verdict:
    subjects, namespace = asker
    mine = enforcer.permissions(subjects, namespace, NOW)
    if mine.unrestricted(kind, path, mask):
        return Verdict.UNRESTRICTED
    return Verdict.PARTIAL if mine.partial(kind, path, mask) else Verdict.DENIED


def refused(work: Callable[[], object]) -> tuple[int, str] | None:
    """Status and code of what a rule raises, None where it lets pass."""
    try:
        work()
    except GatewayError as error:
        return error.status, error.code
    return None


def told(outcome: Outcome) -> tuple[int, str] | None:
    return (outcome.refusal.status, outcome.refusal.code) if outcome.refusal else None


@given(WORLDS, QUESTIONS, ASKERS)
@settings(max_examples=60)
def test_an_explanation_says_what_is_enforced(
    world: World, about: tuple[str, str], subjects: tuple[str, ...]
) -> None:
    document, imported, roots = world
    kind, path = about
    explanation = asked(a_case(world), kind, path, subjects)
    fresh = build_enforcer(document, imported, roots, MINE)
    for finding in explanation.findings:
        mask, where = MASKS[finding.permission], parse_pointer(path)
        assert finding.verdict is judged(fresh, (subjects, "n.a"), kind, where, mask)


@given(WORLDS, QUESTIONS, ASKERS)
@settings(max_examples=60)
def test_what_an_explanation_names_alone_leads_to_its_verdict(
    world: World, about: tuple[str, str], subjects: tuple[str, ...]
) -> None:
    kind, path = about
    for finding in asked(a_case(world), kind, path, subjects).findings:
        mask = MASKS[finding.permission]
        alone = judged(evidence(finding, kind), (("me",), ""), kind, parse_pointer(path), mask)
        assert alone is finding.verdict
        is_granted = bool(finding.decisive) and finding.decisive[0].is_grant
        assert (finding.decided_at is None) == (not finding.decisive)
        turned = any(turn.is_granted for turn in finding.turns)
        assert (finding.verdict is not Verdict.DENIED) == (is_granted or turned)


@given(WORLDS, QUESTIONS, ASKERS)
@settings(max_examples=60)
def test_what_an_explanation_names_is_written_where_it_says(
    world: World, about: tuple[str, str], subjects: tuple[str, ...]
) -> None:
    document, imported, roots = world
    books: Any = {MINE: document, **imported, **roots}
    kind, path = about
    for finding in asked(a_case(world), kind, path, subjects).findings:
        turned = [one for turn in finding.turns for one in turn.by]
        for one in (*finding.decisive, *finding.overridden, *turned):
            places = [(part.policy_id, part.label) for part in one.parts]
            said = False
            for policy_id, label in places or [(one.origin.policy_id, one.origin.label)]:
                nodes = {
                    parse_pointer(key.partition(":")[2]): node
                    for key, node in books[policy_id]["entries"][label]["resources"].items()
                    if key.startswith(kind)
                }
                effect = "grant" if one.is_grant else "revoke"
                known = nodes.get(one.path, {}).get(effect, [])
                said = said or finding.permission.value in known
            # what a referenced entry took by a reference of its own is not one of its own words
            assert said or _refers(books, places)
            assert one.subjects
            assert set(one.subjects) <= set(subjects)


def _refers(books: Any, places: list[tuple[str, str]]) -> bool:
    return any("references" in books[policy]["entries"][label] for policy, label in places)


@given(WORLDS, st.sampled_from(PATHS["thing"]), ASKERS)
@settings(max_examples=60)
def test_attempts_on_things_and_events_are_judged_by_the_rules_of_commands(
    world: World, path: str, subjects: tuple[str, ...]
) -> None:
    case = a_case(world)
    where = parse_pointer(path)
    explanation = asked(case, "thing", path, subjects)
    mine = case.permissions(subjects, "thing")
    for name, action in (("read", Action.RETRIEVE), ("modify", Action.MODIFY)):
        command = ThingCommand(thing_id="n.a:pump", action=action, subjects=subjects, path=where)
        expected = refused(lambda one=command: authorize(one, part_of(where), mine))  # type: ignore[misc]
        # a scalar of which only what would be below it may be read is not there for the reader
        is_hidden = name == "read" and expected is None
        assert is_hidden or told(explanation.attempts[name]) == expected
    value = THING.document if not where else get(THING.document, where)
    event = ThingEvent(
        thing_id="n.a:pump",
        action=EventAction.MODIFIED,
        path=where,
        revision=8,
        timestamp=NOW,
        after=THING,
        value=value if isinstance(value, dict | int) else None,
    )
    if isinstance(value, dict | int):
        seen = reduced_event(event, mine)
        extent = Extent.PART
        if seen is None:
            extent = Extent.NOTHING
        elif seen is event:
            extent = Extent.WHOLE
        assert explanation.receives["twinEvents"].extent is extent
    heard = mine.unrestricted("thing", where, READ)
    assert (explanation.receives["liveCommands"].extent is Extent.WHOLE) is heard


@given(WORLDS, st.sampled_from(PATHS["message"]), ASKERS)
def test_messages_are_judged_by_the_rules_of_messages(
    world: World, path: str, subjects: tuple[str, ...]
) -> None:
    case = a_case(world)
    explanation = asked(case, "message", path, subjects)
    message = message_at("n.a:pump", parse_pointer(path))
    if message is None:
        assert explanation.attempts == explanation.receives == {}
        return
    mine = case.permissions(subjects, "message")
    expected = refused(lambda: authorize_message(message, mine))
    assert told(explanation.attempts["send"]) == expected
    heard = explanation.receives["messages"].extent is Extent.WHOLE
    assert heard is may_receive(message, mine)


@given(WORLDS, st.sampled_from(PATHS["policy"][:3]), ASKERS)
def test_changes_of_the_policy_are_judged_by_the_rules_of_policies(
    world: World, path: str, subjects: tuple[str, ...]
) -> None:
    case = a_case(world)
    where = parse_pointer(path)
    policy_part_of(where)
    mine = case.permissions(subjects, "policy")
    expected = refused(lambda: authorize_policy(MINE, where, mine))
    assert told(asked(case, "policy", path, subjects).attempts["modify"]) == expected


@given(WORLDS, QUESTIONS, ASKERS)
def test_every_explanation_can_be_written_as_json(
    world: World, about: tuple[str, str], subjects: tuple[str, ...]
) -> None:
    shown: Any = explanation_json(asked(a_case(world), *about, subjects))
    assert shown["resource"].startswith(about[0])
    for finding in shown["permissions"].values():
        assert finding["because"].endswith(".")


# --- examples ----------------------------------------------------------------------------------


def an_entry(*subjects: str, **more: Any) -> JsonObject:
    resources = {
        key: {"grant": ["READ"] if say == "+" else [], "revoke": ["READ"] if say == "-" else []}
        for key, say in more.pop("read", {}).items()
    }
    return {"subjects": {one: {"type": "x"} for one in subjects}, "resources": resources, **more}


def because(case: Case, path: str, subject: str = "nginx:me", kind: str = "thing") -> str:
    question = Question((subject,), kind, parse_pointer(path), (Permission.READ,))
    shown: Any = explanation_json(explain(question, case))
    return str(shown["permissions"]["READ"]["because"])


def notes(case: Case, subject: str = "nginx:me") -> list[NotCounted]:
    question = Question((subject,), "thing", (), (Permission.READ,))
    return [note.reason for note in explain(question, case).notes]


def test_a_sentence_names_what_decides_and_what_it_overrides() -> None:
    document: JsonObject = {
        "entries": {
            "owner": an_entry("nginx:me", read={"thing:/": "+"}),
            "secret": an_entry("nginx:me", read={"thing:/attributes/a": "-"}),
        }
    }
    case = a_case((document, {}, {}))
    assert because(case, "/attributes/a") == (
        "READ is revoked at thing:/attributes/a by entry 'secret', over the grant at thing:/ by entry"
        " 'owner' (the deeper one counts)."
    )
    assert because(case, "/") == (
        "READ is granted at thing:/ by entry 'owner'. But it is revoked below, at thing:/attributes/a."
    )
    assert because(case, "/", "nginx:you") == "No entry that counts names 'nginx:you'."
    assert because(case, "/", kind="message") == (
        "No entry that counts says anything of READ at message:/ or above."
    )


def test_a_revoke_on_the_same_place_wins_and_the_sentence_says_so() -> None:
    document: JsonObject = {
        "entries": {
            "owner": an_entry("nginx:me", read={"thing:/": "+"}),
            "ban": an_entry("nginx:me", read={"thing:/": "-", "thing:/attributes": "+"}),
        }
    }
    assert because(a_case((document, {}, {})), "/") == (
        "READ is revoked at thing:/ by entry 'ban', over the grant at thing:/ by entry 'owner' (a revoke"
        " wins). Only below it is granted, at thing:/attributes."
    )


def test_an_imported_entry_and_a_root_policy_are_named_as_such() -> None:
    base: JsonObject = {"entries": {"x": an_entry("nginx:me", read={"thing:/": "+"})}}
    imports: JsonObject = {"entries": {}, "imports": {"n.a:1": {}}}
    said = because(a_case((imports, {"n.a:1": base}, {})), "/")
    assert said == "READ is granted at thing:/ by entry 'x' of the imported policy 'n.a:1'."
    said = because(a_case(({"entries": {}}, {}, {ROOT: base})), "/")
    assert said == "READ is granted at thing:/ by entry 'x' of the root policy 'r:root'."


def test_a_statement_tells_from_which_entry_it_was_taken_by_reference() -> None:
    base: JsonObject = {"entries": {"x": an_entry(read={"thing:/": "+"})}}
    document: JsonObject = {
        "entries": {"mine": an_entry("nginx:me", references=[{"import": "n.a:1", "entry": "x"}])},
        "imports": {"n.a:1": {}},
    }
    question = Question(("nginx:me",), "thing", (), (Permission.READ,))
    shown: Any = explanation_json(explain(question, a_case((document, {"n.a:1": base}, {}))))
    (decisive,) = shown["permissions"]["READ"]["decisive"]
    assert decisive["entry"] == "mine"
    assert decisive["references"] == [{"policyId": "n.a:1", "entry": "x"}]


@pytest.mark.parametrize(
    ("world", "reason"),
    [
        (
            (
                {
                    "entries": {
                        "x": {
                            "subjects": {
                                "nginx:me": {"type": "x", "expiry": "2025-01-01T00:00:00Z"}
                            }
                        }
                    }
                },
                {},
                {},
            ),
            NotCounted.EXPIRED,
        ),
        (({"entries": {"x": an_entry("nginx:me", namespaces=["other"])}}, {}, {}), "namespace"),
        (
            (
                {
                    "entries": {
                        "x": an_entry("nginx:me", references=[{"entry": "y"}]),
                        "y": an_entry(allowedAdditions=["resources"]),
                    }
                },
                {},
                {},
            ),
            NotCounted.NOT_ALLOWED,
        ),
        (
            (
                {"entries": {}, "imports": {"n.a:1": {}}},
                {"n.a:1": {"entries": {"x": an_entry("nginx:me", importable="never")}}},
                {},
            ),
            NotCounted.NEVER,
        ),
        (
            (
                {"entries": {}, "imports": {"n.a:1": {}}},
                {"n.a:1": {"entries": {"x": an_entry("nginx:me", importable="explicit")}}},
                {},
            ),
            NotCounted.NOT_LISTED,
        ),
        (({"entries": {}, "imports": {"n.a:1": {}}}, {}, {}), NotCounted.MISSING),
    ],
)
def test_what_could_have_counted_is_told(world: Any, reason: str) -> None:
    case = a_case(world)
    assert notes(case) == [reason]
    shown: Any = explanation_json(
        explain(Question(("nginx:me",), "thing", (), (Permission.READ,)), case)
    )
    assert shown["notCounted"][0]["text"].endswith(".")


def test_without_its_policy_nobody_may_do_anything() -> None:
    case = Case(THING, None, None, NOW)
    explanation = asked(case, "thing", "/attributes", ("nginx:me",))
    assert {finding.verdict for finding in explanation.findings} == {Verdict.DENIED}
    assert told(explanation.attempts["read"]) == (404, "things:thing.notfound")
    assert told(explanation.attempts["modify"]) == (403, "things:thing.notmodifiable")
    shown: Any = explanation_json(explanation)
    assert shown["policy"] == "missing"
    assert "does not exist" in shown["permissions"]["READ"]["because"]


def test_many_places_below_are_cut() -> None:
    read = {f"thing:/attributes/a{n}": "-" for n in range(150)}
    document: JsonObject = {"entries": {"x": an_entry("nginx:me", read={"thing:/": "+", **read})}}
    (finding, *_) = asked(a_case((document, {}, {})), "thing", "/", ("nginx:me",)).findings
    assert len(finding.turns) == 100
    assert finding.has_more_turns
    assert finding.verdict is Verdict.PARTIAL


def test_entries_of_imports_of_imports_tell_their_way() -> None:
    deep: JsonObject = {"entries": {"x": an_entry("nginx:me")}}
    middle: JsonObject = {"entries": {}, "imports": {"n.b:2": {}}}
    document: JsonObject = {
        "entries": {},
        "imports": {"n.a:1": {"transitiveImports": ["n.b:2"]}},
    }
    found = resolve(document, {"n.a:1": middle, "n.b:2": deep}, None, MINE)
    ((label, _, origin),) = found.entries
    assert label == "imported-n.a:1-imported-n.b:2-x"
    assert (origin.policy_id, origin.label, origin.via) == ("n.b:2", "x", ("n.a:1",))


def test_a_path_that_things_do_not_have_is_refused() -> None:
    with pytest.raises(GatewayError) as caught:
        asked(a_case(({"entries": {}}, {}, {})), "thing", "/nonsense", ("nginx:me",))
    assert caught.value.code == "protocoladapter:unknown.path"
