"""Questions about callers and tokens: who am I, may I, what may I, whose is it. Answered, never stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.errors import BadRequest
from gateway.kube.auth import Access, User, access_to, user_info
from gateway.kube.strategies import table
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.clock import rfc3339
from gateway.wire.kube.names import invalid_value
from gateway.wire.kube.rules import Rule, rule_object
from gateway.wire.kube.status import Cause, invalid

if TYPE_CHECKING:
    from gateway.kube.objects import Objects

AUTHORIZATION = "authorization.k8s.io"


@dataclass(frozen=True, slots=True)
class Question:
    """A review that came. Shape: `namespace` is the path's, "" for cluster scope."""

    body: JsonObject
    kind: str
    namespace: str
    user: User
    objects: Objects

    @property
    def spec(self) -> JsonObject:
        return table(self.body, "spec")


def review(
    plural: str, body: JsonObject, user: User, objects: Objects, namespace: str = ""
) -> JsonObject:
    """Answer a review: the same object with its status.

    Errors: BadRequest; Unprocessable for a question that is none.
    """
    answer = {key: value for key, value in body.items() if key != "status"}
    answer.setdefault("metadata", {})
    kind = str(body.get("kind") or "")
    question = Question(answer, kind, namespace, user, objects)
    if plural == "selfsubjectreviews":
        stamp = {**table(answer, "metadata"), "creationTimestamp": rfc3339(objects.now())}
        return answer | {"metadata": stamp, "status": _who(question)}
    return answer | {"status": _ANSWERS[plural](question)}


def _who(question: Question) -> JsonObject:
    return {"userInfo": user_info(question.user)}


# --- may somebody ---------------------------------------------------------------------------------


def _may_i(question: Question) -> JsonObject:
    _check(question, _attribute_faults(question.spec) + _metadata_faults(question))
    return _decided(question, question.user)


def _may_somebody(question: Question) -> JsonObject:
    _check(question, [*_subject_faults(question.spec), *_metadata_faults(question)])
    return _decided(question, _subject(question.spec))


def _may_somebody_here(question: Question) -> JsonObject:
    faults = _subject_faults(question.spec)
    metadata = table(question.body, "metadata")
    if {key for key in metadata if key not in _STAMPS} - {"namespace"}:
        faults.append(_must("metadata", metadata, "must be empty except for namespace"))
    wanted = question.spec.get("resourceAttributes")
    place = metadata.get("namespace") or ""
    if isinstance(wanted, dict) and (wanted.get("namespace") or "") != place:
        field = "spec.resourceAttributes.namespace"
        faults.append(_must(field, wanted.get("namespace") or "", "must match metadata.namespace"))
    if question.spec.get("nonResourceAttributes") is not None:
        why = "disallowed on this kind of request"
        plain = question.spec.get("nonResourceAttributes")
        faults.append(_must("spec.nonResourceAttributes", plain, why))
    _check(question, faults)
    if place != question.namespace:
        why = f"spec.resourceAttributes.namespace must match namespace: {question.namespace}"
        raise BadRequest(why)
    return _decided(question, _subject(question.spec))


def _decided(question: Question, user: User) -> JsonObject:
    decision = question.objects.rights.authorizer.decide(user, _access(question.spec))
    answer: JsonObject = {"allowed": decision.allowed}
    if decision.reason:
        answer["reason"] = decision.reason
    return answer


def _access(spec: JsonObject) -> Access:
    wanted, plain = spec.get("resourceAttributes"), table(spec, "nonResourceAttributes")
    if not isinstance(wanted, dict):
        return Access(verb=str(plain.get("verb") or ""), path=str(plain.get("path") or ""))

    def text(key: str) -> str:
        return str(wanted.get(key) or "")

    access = access_to(
        text("verb"),
        text("group"),
        text("resource"),
        subresource=text("subresource"),
        namespace=text("namespace"),
        name=text("name"),
        fields=_field_terms(table(wanted, "fieldSelector")),
    )
    return Access(
        verb=access.verb,
        group=access.group,
        resource=access.resource,
        subresource=access.subresource,
        namespace=text("namespace"),
        name=text("name"),
        fields=access.fields,
    )


def _field_terms(selector: JsonObject) -> str:
    """The terms of a selector that ask for one value, as the text of one."""
    raw = selector.get("rawSelector")
    if isinstance(raw, str) and raw:
        return raw
    found = []
    terms = selector.get("requirements")
    for term in terms if isinstance(terms, list) else []:
        values = term.get("values") if isinstance(term, dict) else None
        if isinstance(values, list) and len(values) == 1 and term.get("operator") == "In":  # type: ignore[union-attr]
            found.append(f"{term.get('key')}={values[0]}")  # type: ignore[union-attr]
    return ",".join(found)


def _subject(spec: JsonObject) -> User:
    groups, extra = spec.get("groups"), table(spec, "extra")
    facts = tuple(
        (key.lower(), tuple(str(each) for each in values))
        for key, values in sorted(extra.items())
        if isinstance(values, list)
    )
    return User(
        str(spec.get("user") or ""),
        tuple(str(each) for each in groups) if isinstance(groups, list) else (),
        str(spec.get("uid") or ""),
        facts,
    )


# --- what is no question --------------------------------------------------------------------------

_STAMPS = ("managedFields", "creationTimestamp")


def _check(question: Question, faults: list[Cause]) -> None:
    if faults:
        raise invalid(question.kind, AUTHORIZATION, "", faults)


def _must(field: str, value: Json, why: str) -> Cause:
    return invalid_value(field, value, why)


def _attribute_faults(spec: JsonObject) -> list[Cause]:
    wanted, plain = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
    if wanted is not None and plain is not None:
        why = "cannot be specified in combination with resourceAttributes"
        return [_must("spec.nonResourceAttributes", plain, why)]
    if wanted is None and plain is None:
        why = "exactly one of nonResourceAttributes or resourceAttributes must be specified"
        return [_must("spec.resourceAttributes", None, why)]
    return []


def _subject_faults(spec: JsonObject) -> list[Cause]:
    faults = _attribute_faults(spec)
    if not spec.get("user") and not spec.get("groups"):
        faults.append(_must("spec.user", "", "at least one of user or group must be specified"))
    return faults


def _metadata_faults(question: Question) -> list[Cause]:
    metadata = table(question.body, "metadata")
    if all(key in _STAMPS or not value for key, value in metadata.items()):
        return []
    return [_must("metadata", metadata, "must be empty")]


# --- what may I -----------------------------------------------------------------------------------


def _rules(question: Question) -> JsonObject:
    namespace = str(question.spec.get("namespace") or "")
    if not namespace:
        raise BadRequest("no namespace on request")
    held = question.objects.rights.authorizer.held(question.user, namespace)
    answer: JsonObject = {
        "resourceRules": [_shown(rule) for rule in held.rules if rule.resources],
        "nonResourceRules": [
            {"verbs": [*rule.verbs], "nonResourceURLs": [*rule.urls]}
            for rule in held.rules
            if rule.urls
        ],
        "incomplete": held.incomplete,
    }
    if held.faults:
        answer["evaluationError"] = ", ".join(held.faults)
    return answer


def _shown(rule: Rule) -> JsonObject:
    shown = rule_object(rule)
    shown.pop("nonResourceURLs", None)
    return shown


# --- whose is it ----------------------------------------------------------------------------------


def _whose(question: Question) -> JsonObject:
    if not question.spec.get("token"):
        raise BadRequest("token is required for TokenReview in authentication")
    accounts = question.objects.accounts
    if accounts is None:
        return {"authenticated": False, "user": {}, "error": "no token is known here"}
    return accounts.review(question.body)


_ANSWERS: Mapping[str, Callable[[Question], JsonObject]] = {
    "selfsubjectaccessreviews": _may_i,
    "subjectaccessreviews": _may_somebody,
    "localsubjectaccessreviews": _may_somebody_here,
    "selfsubjectrulesreviews": _rules,
    "tokenreviews": _whose,
}
