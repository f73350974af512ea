"""Questions about the caller or a token: who am I, may I, what may I, whose is it. Answered, never stored."""

from __future__ import annotations

from gateway.kube.accounts import Accounts
from gateway.kube.auth import MASTERS, NODE_RULES, NODES, Access, User, is_allowed
from gateway.kube.strategies import table
from gateway.model.json import Json, JsonObject


def review(
    plural: str, body: JsonObject, user: User, accounts: Accounts | None = None
) -> JsonObject:
    """Answer a review: the same object with its status."""
    answer = {key: value for key, value in body.items() if key != "status"}
    answer.setdefault("metadata", {})
    if plural == "tokenreviews" and accounts is not None:
        return answer | {"status": accounts.review(body)}
    return answer | {"status": _ANSWERS[plural](body, user)}


def _who(_body: JsonObject, user: User) -> JsonObject:
    info: JsonObject = {"username": user.name, "groups": list(user.groups)}
    if user.uid:
        info["uid"] = user.uid
    return {"userInfo": info}


def _may(body: JsonObject, user: User) -> JsonObject:
    spec = table(body, "spec")
    wanted = table(spec, "resourceAttributes")
    plain = table(spec, "nonResourceAttributes")

    def text(key: str) -> str:
        return str(wanted.get(key) or "")

    access = (
        Access(
            verb=text("verb"),
            group=text("group"),
            resource=text("resource"),
            subresource=text("subresource"),
            namespace=text("namespace"),
            name=text("name"),
        )
        if wanted
        else Access(verb=str(plain.get("verb") or ""), path=str(plain.get("path") or ""))
    )
    return {"allowed": is_allowed(user, access)}


def _rules(_body: JsonObject, user: User) -> JsonObject:
    everything: list[Json] = ["*"]
    if MASTERS in user.groups:
        return {
            "resourceRules": [
                {"verbs": everything, "apiGroups": everything, "resources": everything}
            ],
            "nonResourceRules": [{"verbs": everything, "nonResourceURLs": everything}],
            "incomplete": False,
        }
    rules: list[Json] = []
    if NODES in user.groups:
        rules = [
            {"verbs": list(verbs), "apiGroups": everything, "resources": [resource]}
            for resource, verbs in NODE_RULES.items()
        ]
    return {"resourceRules": rules, "nonResourceRules": [], "incomplete": False}


_ANSWERS = {
    "selfsubjectreviews": _who,
    "selfsubjectaccessreviews": _may,
    "selfsubjectrulesreviews": _rules,
}
