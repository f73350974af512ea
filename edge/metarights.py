"""What a ServiceAccount may do at this edge, by the ServiceAccountAccess objects on its disk. Pure.

Source: KubeEdge reference, section 20.3; Kubernetes RBAC.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from edge.metakinds import metadata_of, text_of
from edge.metarequests import Call, Passed
from gateway.model.json import Json, JsonObject

EVERY = "*"


def account_name(namespace: str, name: str) -> str:
    """Return a ServiceAccount's name as a user."""
    return f"system:serviceaccount:{namespace}:{name}"


def may(user: str, call: Call | Passed, accesses: Iterable[JsonObject]) -> bool:
    """Say whether `user` has a rule for `call`."""
    return any(_allows(rule, call) for access in accesses for rule in _rules(access, user, call))


def _rules(access: JsonObject, user: str, call: Call | Passed) -> Iterator[JsonObject]:
    """Yield the rules of an access that count where the call is."""
    spec = _table(access.get("spec"))
    account = metadata_of(spec.get("serviceAccount"))
    if user != account_name(text_of(account, "namespace"), text_of(account, "name")):
        return
    for bound in _tables(spec.get("accessClusterRoleBinding")):
        yield from _tables(bound.get("rules"))
    if isinstance(call, Passed) or not call.namespace:
        return
    for bound in _tables(spec.get("accessRoleBinding")):
        if text_of(metadata_of(bound.get("roleBinding")), "namespace") == call.namespace:
            yield from _tables(bound.get("rules"))


def _allows(rule: JsonObject, call: Call | Passed) -> bool:
    if isinstance(call, Passed):
        return _has(rule, "verbs", "get") and any(
            _covers(pattern, call.path) for pattern in _texts(rule.get("nonResourceURLs"))
        )
    names = _texts(rule.get("resourceNames"))
    return (
        _has(rule, "verbs", call.verb)
        and _has(rule, "apiGroups", call.group)
        and _has_resource(rule, call)
        and (not names or call.name in names)
    )


def _has_resource(rule: JsonObject, call: Call) -> bool:
    known = _texts(rule.get("resources"))
    if not call.subresource:
        return EVERY in known or call.plural in known
    wanted = {EVERY, f"{call.plural}/{call.subresource}", f"{EVERY}/{call.subresource}"}
    return not wanted.isdisjoint(known)


def _has(rule: JsonObject, field: str, value: str) -> bool:
    known = _texts(rule.get(field))
    return EVERY in known or value in known


def _covers(pattern: str, path: str) -> bool:
    return path.startswith(pattern[:-1]) if pattern.endswith(EVERY) else path == pattern


def _table(value: Json) -> JsonObject:
    return value if isinstance(value, dict) else {}


def _tables(value: Json) -> list[JsonObject]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _texts(value: Json) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
