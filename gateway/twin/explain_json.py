"""An explanation as JSON, with a sentence for people at each finding."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.model.json import Json, JsonObject, Pointer, format_pointer
from gateway.model.thing import Thing
from gateway.twin.explain import (
    Case,
    Explanation,
    Finding,
    NotCounted,
    Note,
    Outcome,
    Question,
    Statement,
    Turn,
)
from gateway.twin.policy_origins import How

MAX_NAMED = 5
"""Places that one sentence names."""


def explanation_json(explanation: Explanation) -> JsonObject:
    """The whole answer, as `/things/{id}/explain` gives it."""
    question, case = explanation.question, explanation.case
    return {
        "thingId": case.thing.thing_id,
        "policyId": case.thing.policy_id,
        "policy": "missing" if case.enforcer is None else "present",
        "subjects": list[Json](question.subjects),
        "resource": _resource(question.kind, question.path),
        "permissions": {
            finding.permission.value: _finding(finding, explanation)
            for finding in explanation.findings
        },
        "attempts": {name: _outcome(one) for name, one in explanation.attempts.items()},
        "receives": {name: _outcome(one) for name, one in explanation.receives.items()},
        "notCounted": [_note(note) for note in explanation.notes],
    }


def _resource(kind: str, path: Pointer) -> str:
    return f"{kind}:{format_pointer(path)}"


def _finding(finding: Finding, explanation: Explanation) -> JsonObject:
    question = explanation.question
    kind = question.kind
    found: JsonObject = {
        "verdict": finding.verdict.value,
        "because": because(finding, explanation),
        "decisive": _statements(finding.decisive, kind),
        "overridden": _statements(finding.overridden, kind),
        "below": [_turn(turn, kind) for turn in finding.turns],
    }
    if finding.decided_at is not None:
        found["decidedAt"] = _resource(kind, finding.decided_at)
    if finding.has_more_turns:
        found["belowIsCut"] = True
    return found


def _statements(statements: Sequence[Statement], kind: str) -> list[Json]:
    return [_statement(one, kind) for one in statements]


def _statement(statement: Statement, kind: str) -> JsonObject:
    origin = statement.origin
    said: JsonObject = {
        "effect": "grant" if statement.is_grant else "revoke",
        "resource": _resource(kind, statement.path),
        "how": origin.how.value,
        "subjects": list[Json](statement.subjects),
    }
    if not origin.policy_id:
        return said
    found: JsonObject = {**said, "policyId": origin.policy_id, "entry": origin.label}
    if origin.how is not How.OWN:
        found["label"] = statement.label
    if origin.via:
        found["via"] = list[Json](origin.via)
    own = (origin.policy_id, origin.label)
    taken = [one for one in statement.parts if (one.policy_id, one.label) != own]
    if taken:
        found["references"] = [{"policyId": one.policy_id, "entry": one.label} for one in taken]
    return found


def _turn(turn: Turn, kind: str) -> JsonObject:
    return {
        "resource": _resource(kind, turn.path),
        "granted": turn.is_granted,
        "by": _statements(turn.by, kind),
    }


def _outcome(outcome: Outcome) -> JsonObject:
    found: JsonObject = {"extent": outcome.extent.value}
    if outcome.refusal is not None:
        found |= {"status": outcome.refusal.status, "error": outcome.refusal.code}
    return found


def _note(note: Note) -> JsonObject:
    found: JsonObject = {
        "reason": note.reason.value,
        "policyId": note.policy_id,
        "entry": note.label,
        "subjects": list[Json](note.subjects),
        "text": note_text(note),
    }
    if note.detail:
        found["detail"] = note.detail
    return found


# --- sentences ---------------------------------------------------------------------------------


def because(finding: Finding, explanation: Explanation) -> str:
    """Why a permission is what it is, in a sentence or two."""
    case, question = explanation.case, explanation.question
    if case.enforcer is None:
        return _no_policy(case.thing)
    first = _first(finding, question, case, is_named=explanation.is_named)
    return f"{first} {_below(finding, question.kind)}".rstrip()


def _no_policy(thing: Thing) -> str:
    return f"The policy '{thing.policy_id}' does not exist: nobody may do anything with the thing."


def _first(finding: Finding, question: Question, case: Case, *, is_named: bool) -> str:
    name = finding.permission.value
    where = _resource(question.kind, question.path)
    if not is_named:
        return f"No entry that counts names {_subjects(question.subjects)}."
    if finding.decided_at is None:
        return f"No entry that counts says anything of {name} at {where} or above."
    by = _entries(finding.decisive, case)
    at = _resource(question.kind, finding.decided_at)
    granted = _is_granted(finding)
    sentence = f"{name} is {'granted' if granted else 'revoked'} at {at} by {by}"
    return sentence + _over(finding, question.kind, case) + "."


def _over(finding: Finding, kind: str, case: Case) -> str:
    """The deepest statement to the contrary, and why it does not count."""
    granted = _is_granted(finding)
    other = [one for one in finding.overridden if one.is_grant != granted]
    if not other:
        return ""
    deepest = max(other, key=lambda one: len(one.path))
    rule = "a revoke wins" if deepest.path == finding.decided_at else "the deeper one counts"
    what, place = ("revoke" if granted else "grant"), _resource(kind, deepest.path)
    return f", over the {what} at {place} by {_entries([deepest], case)} ({rule})"


def _below(finding: Finding, kind: str) -> str:
    if not finding.turns:
        return ""
    first = [turn for turn in finding.turns if turn.is_granted != _is_granted(finding)]
    places = ", ".join(_resource(kind, turn.path) for turn in first[:MAX_NAMED])
    more = len(first) - MAX_NAMED
    places += f" and {more} more" if more > 0 else ""
    if _is_granted(finding):
        return f"But it is revoked below, at {places}."
    return f"Only below it is granted, at {places}."


def _is_granted(finding: Finding) -> bool:
    return bool(finding.decisive) and finding.decisive[0].is_grant


def _subjects(subjects: Sequence[str]) -> str:
    return " or ".join(f"'{name}'" for name in subjects) or "nobody"


def _entries(statements: Sequence[Statement], case: Case) -> str:
    named = dict.fromkeys(_entry(one, case) for one in statements)
    return " and ".join(named)


def _entry(statement: Statement, case: Case) -> str:
    origin = statement.origin
    if not origin.policy_id:
        return "an entry of another policy, which you may not read"
    text = f"entry '{origin.label}'"
    if origin.policy_id != case.thing.policy_id:
        how = "root policy" if origin.how is How.ROOT and not origin.via else "imported policy"
        text += f" of the {how} '{origin.policy_id}'"
    return text


_TEXTS = {
    NotCounted.EXPIRED: "{subjects} in {entry} has expired at {detail}",
    NotCounted.NAMESPACE: "{entry} names {subjects} and counts for other namespaces only: {detail}",
    NotCounted.NOT_ALLOWED: "{entry} adds {what}, which the entry that it refers to does not allow",
    NotCounted.NEVER: "{entry} names {subjects} and says that it is never imported",
    NotCounted.NOT_LISTED: "{entry} names {subjects} and is imported only where the import lists it",
    NotCounted.MISSING: "the imported policy '{policy}' does not exist",
}


def note_text(note: Note) -> str:
    """Why something does not count, in a sentence."""
    subjects = _subjects(note.subjects)
    text = _TEXTS[note.reason].format(
        subjects=subjects,
        entry=f"entry '{note.label}' of policy '{note.policy_id}'",
        detail=note.detail,
        policy=note.policy_id,
        what=subjects if note.subjects else f"the resources {note.detail}",
    )
    return f"{text[0].upper()}{text[1:]}."
