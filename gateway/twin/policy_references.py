"""References between the entries of a policy: where they may lead, and what may not go while they do."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.model.json import JsonObject
from gateway.model.policy import Policy
from gateway.twin.ditto_errors import ditto_error
from gateway.twin.policy_resolution import Documents, members, references_of


def check_references(document: JsonObject, imported: Documents, labels: Iterable[str] = ()) -> None:
    """Refuse references that lead nowhere: to oneself, to no entry or import, to what is never shared.

    Shape:  `labels` are the entries that are looked at, none means all. What an import holds may still
            come: only what is there and says `never` is refused.
    Errors: BadRequest `policies:entry.invalid`.
    """
    entries = members(document.get("entries"))
    for label in labels or entries:
        for policy_id, target in references_of(entries.get(label)):
            fault = _fault_of_reference(document, imported, label, policy_id, target)
            if fault is not None:
                reason = f"entry '{label}' refers to '{target}', {fault}"
                raise ditto_error("policies:entry.invalid", reason=reason)


def _fault_of_reference(
    document: JsonObject, imported: Documents, label: str, policy_id: str | None, target: str
) -> str | None:
    source: JsonObject | None = document
    if policy_id is None and target == label:
        return "which is itself"
    if policy_id is not None:
        if policy_id not in members(document.get("imports")):
            return f"but '{policy_id}' is not imported"
        source = imported.get(policy_id)
    entry = members((source or {}).get("entries")).get(target)
    if entry is None:
        return "which does not exist" if policy_id is None else None
    return "which is never shared" if members(entry).get("importable") == "never" else None


def check_unreferenced(policy: Policy, document: JsonObject, label: str) -> None:
    """Refuse that an entry goes while another one refers to it.

    Errors: 409 `policies:entry.referenceconflict`.
    """
    for by, entry in members(document.get("entries")).items():
        if (None, label) in references_of(entry):
            raise ditto_error(
                "policies:entry.referenceconflict", id=policy.policy_id, label=label, by=by
            )


def check_still_imported(policy: Policy, document: JsonObject) -> None:
    """Refuse that an import goes while an entry refers to it.

    Errors: 409 `policies:import.referenceconflict`.
    """
    gone = members(policy.document.get("imports")).keys() - members(document.get("imports")).keys()
    for by, entry in members(document.get("entries")).items():
        for policy_id, _ in references_of(entry):
            if policy_id in gone:
                raise ditto_error(
                    "policies:import.referenceconflict", id=policy.policy_id, key=policy_id, by=by
                )
