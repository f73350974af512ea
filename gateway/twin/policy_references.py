"""What a policy takes from others and its entries from each other: where that may lead, who may write it, and
what may not go while it is used."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

from gateway.errors import GatewayError
from gateway.model.json import Json, JsonObject, Pointer
from gateway.model.policy import Policy
from gateway.twin.ditto_errors import ditto_error
from gateway.twin.policy import READ, Permissions
from gateway.twin.policy_form import PolicyPart
from gateway.twin.policy_resolution import Documents, imports_of, members, references_of, texts

Rights: TypeAlias = Callable[[str], "Permissions | None"]
"""What the writer may do under another policy, None where there is none."""


def _unreadable(policy_id: str) -> GatewayError:
    return ditto_error("policies:policy.notfound", id=policy_id)


# --- references --------------------------------------------------------------------------------


def check_references(
    document: JsonObject, imported: Documents, rights: Rights, labels: Iterable[str] = ()
) -> None:
    """Refuse references that lead nowhere: to oneself, to no entry or import, to what is never shared.

    Shape:  `labels` are the entries that are looked at, none means all.
    Errors: 400 `policies:entry.invalid`, `policies:import.invalid` for what an imported policy does not
            have or share; 404 `policies:policy.notfound` for what the writer may not read of it.
    """
    entries = members(document.get("entries"))
    looked_at = frozenset(labels or entries)
    for label, entry in entries.items():
        for policy_id, target in references_of(entry):
            if policy_id is not None:
                if label in looked_at:
                    _check_import_reference(document, imported, rights, policy_id, target)
            elif label in looked_at or target in looked_at:
                _check_local_reference(entries, label, target)


def _check_local_reference(entries: JsonObject, label: str, target: str) -> None:
    fault = None
    if target == label:
        fault = "which is itself"
    elif target not in entries:
        fault = "which does not exist"
    elif members(entries[target]).get("importable") == "never":
        fault = "which is never shared"
    if fault is not None:
        reason = f"entry '{label}' refers to '{target}', {fault}"
        raise ditto_error("policies:entry.invalid", reason=reason)


def _check_import_reference(
    document: JsonObject, imported: Documents, rights: Rights, policy_id: str, target: str
) -> None:
    mine, source = rights(policy_id), imported.get(policy_id)
    if mine is None or source is None:
        raise _unreadable(policy_id)
    if not mine.unrestricted("policy", ("entries", target), READ):
        raise _unreadable(policy_id)
    if policy_id not in imports_of(document):
        reason = f"a reference leads to '{policy_id}', which is not imported"
        raise ditto_error("policies:entry.invalid", reason=reason)
    entry = members(source.get("entries")).get(target)
    if entry is None or members(entry).get("importable") == "never":
        fault = "does not exist" if entry is None else "is never shared"
        reason = f"a reference leads to '{target}' of '{policy_id}', which {fault}"
        raise ditto_error("policies:import.invalid", reason=reason)


def check_unreferenced(policy: Policy, document: JsonObject, label: str) -> None:
    """Refuse that an entry goes, or is shared no more, while another one refers to it.

    Errors: 409 `policies:entry.referenceconflict`.
    """
    for by, entry in members(document.get("entries")).items():
        if by != label and (None, label) in references_of(entry):
            raise ditto_error(
                "policies:entry.referenceconflict", id=policy.policy_id, label=label, by=by
            )


def check_still_imported(policy: Policy, document: JsonObject) -> None:
    """Refuse that an import, or a label that it lists, goes while an entry refers to it.

    Errors: 409 `policies:import.referenceconflict`.
    """
    before, after = imports_of(policy.document), imports_of(document)
    for by, entry in members(document.get("entries")).items():
        for policy_id, label in references_of(entry):
            if policy_id is None or policy_id not in before:
                continue
            listed = texts(before[policy_id].get("entries"))
            kept = texts(after.get(policy_id, {}).get("entries"))
            if policy_id not in after or (label in listed and label not in kept):
                facts = {"id": policy.policy_id, "key": policy_id, "label": label, "by": by}
                raise ditto_error("policies:import.referenceconflict", facts)


# --- imports -----------------------------------------------------------------------------------


def check_imports(document: JsonObject, imported: Documents, rights: Rights) -> None:
    """Refuse imports of what their writer may not read.

    Errors: 404 `policies:policy.notfound` of the imported policy.
    """
    for name, body in imports_of(document).items():
        source, mine = imported.get(name), rights(name)
        if source is None or mine is None or not mine.partial("policy", (), READ):
            raise _unreadable(name)
        wanted = {*texts(body.get("entries")), *_implicit(source)}
        if not all(mine.unrestricted("policy", ("entries", label), READ) for label in wanted):
            raise _unreadable(name)


def _implicit(document: JsonObject) -> list[str]:
    entries = members(document.get("entries"))
    return [
        label
        for label, entry in entries.items()
        if members(entry).get("importable", "implicit") == "implicit"
    ]


def written_imports(document: JsonObject, part: PolicyPart, path: Pointer) -> JsonObject:
    """The imports of a changed policy that the change at `path` wrote, as a document of these alone."""
    given: Json = {}
    if part in (PolicyPart.POLICY, PolicyPart.IMPORTS):
        given = document.get("imports")
    elif path[:1] == ("imports",):
        given = {path[1]: imports_of(document).get(path[1], {})}
    return {"imports": given}
